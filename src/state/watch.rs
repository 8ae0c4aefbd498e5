//! A wait that ends early when an account's state changes: a new request, a
//! backoff lifted by another process's success.
//!
//! Does not depend on: who waits, and for what.

use std::time::Duration;

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags};

use super::StateDir;
use crate::os::wait::{self, Cancel};

/// Longest wait without returning to the caller: a sleep of the machine stops
/// this clock, while throttle and backoff go by the wall clock.
const STRETCH: Duration = Duration::from_secs(30);

/// What can be waited for.
#[derive(Debug)]
pub struct StateWatch {
    inotify: Option<Inotify>,
}

impl StateWatch {
    /// Changes from now on. Without inotify, waits are not cut short.
    #[must_use]
    pub fn of(dir: &StateDir) -> Self {
        let watch = || {
            let inotify = Inotify::init()?;
            let here = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_TO;
            inotify.watches().add(dir.file("want"), WatchMask::CLOSE_WRITE)?;
            inotify.watches().add(dir.path(), here)?;
            std::io::Result::Ok(inotify)
        };
        StateWatch { inotify: watch().ok() }
    }

    /// Waits so long at most, less when something has changed since the last wait.
    /// The caller checks everything again.
    pub fn wait(&mut self, at_most: Duration, cancel: &Cancel) {
        let readable = |inotify| PollFd::new(inotify, PollFlags::IN);
        let mut fds: Vec<_> = self.inotify.iter().map(readable).collect();
        let _ = wait::wait(&mut fds, wait::after(at_most.min(STRETCH)), Some(cancel));
        drop(fds);
        if let Some(inotify) = &mut self.inotify {
            let _ = inotify.read_events(&mut [0; 4096]);
        }
    }
}
