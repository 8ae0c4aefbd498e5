//! A wait that ends early when an account's files change: a new request, a
//! backoff lifted by somebody else's success.
//!
//! Knows inotify and the clock.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, poll};

use super::scheduler::Paused;
use crate::os::signals::Shutdown;
use crate::state::StateDir;

/// Longest stretch without a look at the world: a sleep of the machine stops
/// this clock, while throttle and backoff go by the wall clock.
const STRETCH: Duration = Duration::from_secs(30);

/// What can be waited for.
#[derive(Debug)]
pub struct StateWatch {
    inotify: Option<Inotify>,
}

impl StateWatch {
    /// Changes from now on. Where there is no inotify, waits are merely not cut short.
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
    pub fn wait(&mut self, at_most: Duration, stop: &Shutdown) -> Paused {
        let Ok(timeout) = rustix::time::Timespec::try_from(at_most.min(STRETCH)) else {
            return Paused::Over;
        };
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        if let Some(inotify) = &self.inotify {
            fds.push(PollFd::new(inotify, PollFlags::IN));
        }
        // Who waits looks at everything again, so an interrupted wait is merely short.
        let _ = poll(&mut fds, Some(&timeout));
        drop(fds);
        if let Some(inotify) = &mut self.inotify {
            let _ = inotify.read_events(&mut [0; 4096]);
        }
        ended(stop)
    }
}

/// Waits so long, whatever changes.
#[must_use]
pub fn sleep(time: Duration, stop: &Shutdown) -> Paused {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = rustix::time::Timespec::try_from(left) else { return Paused::Over };
        let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&timeout));
        if left.is_zero() || stop.signal().is_some() {
            return ended(stop);
        }
    }
}

/// Whether this becomes readable within the time; a signal ends the wait.
#[must_use]
pub fn ready_within(fd: &impl AsFd, time: Duration, stop: &Shutdown) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = rustix::time::Timespec::try_from(left) else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timeout));
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return true;
        }
        if left.is_zero() || stop.signal().is_some() {
            return false;
        }
    }
}

fn ended(stop: &Shutdown) -> Paused {
    if stop.signal().is_some() { Paused::Stopped } else { Paused::Over }
}
