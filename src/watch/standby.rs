//! One waiter per account; the others are on standby.
//!
//! Knows `waiter.lock`. Does not depend on: what is waited for. Standby costs
//! no thread and no wake-up: the kernel reports that the lock's file was closed
//! when its holder ends, however it ends.

use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags};

use crate::os::signals::Shutdown;
use crate::os::wait::{self, Cancel, Woken};
use crate::state::lock::Lock;

/// In case the kernel has no watch left, or an event is lost.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// A process that only checks whether the lock is held holds it for a moment.
const MOMENT: Duration = Duration::from_millis(20);

/// The end of standby.
#[derive(Debug)]
pub enum Standby {
    Ours {
        lock: Lock,
        /// Another process had it before.
        waited: bool,
    },
    Stopped(u8),
    /// Another account has ended the waiting.
    Cancelled,
}

/// Waits for the waiter's lock. `on_standby` is called once if it is not free. Fails
/// if the lock's file cannot be opened.
pub fn wait(
    path: &Path,
    shutdown: &Shutdown,
    cancel: &Cancel,
    on_standby: impl FnOnce(),
) -> io::Result<Standby> {
    if let Some(lock) = Lock::try_take(path)? {
        return Ok(Standby::Ours { lock, waited: false });
    }
    on_standby();
    let mut inotify = Inotify::init().ok();
    if let Some(inotify) = &mut inotify {
        let _ = inotify.watches().add(path, WatchMask::CLOSE_WRITE);
    }
    let mut limit = MOMENT;
    loop {
        if let Some(signal) = shutdown.signal() {
            return Ok(Standby::Stopped(signal));
        }
        if cancel.is_raised() {
            return Ok(Standby::Cancelled);
        }
        // Asked first: a failed try would itself be reported as the file's closing.
        if !Lock::is_held(path) {
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(Standby::Ours { lock, waited: true });
            }
            limit = MOMENT;
        }
        let mut fds =
            vec![PollFd::new(shutdown, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        fds.extend(inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
        let woken = wait::wait(&mut fds, wait::after(limit), None);
        drop(fds);
        limit = if matches!(woken, Ok(Woken::Ready)) { MOMENT } else { TRY_AGAIN };
        if let Some(inotify) = &mut inotify {
            let mut buffer = [0; 4096];
            while inotify.read_events(&mut buffer).is_ok_and(|mut events| events.next().is_some()) {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_second_takes_over_when_the_first_ends_and_sleeps_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("waiter.lock");
        let (shutdown, cancel) = (Shutdown::on_signals().unwrap(), Cancel::new().unwrap());
        let Standby::Ours { lock, waited: false } = wait(&path, &shutdown, &cancel, || ()).unwrap()
        else {
            panic!("it was free")
        };
        let (on_standby, is_on_standby) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            is_on_standby.recv().unwrap();
            std::thread::sleep(Duration::from_millis(150));
            drop(lock);
            Instant::now()
        });
        let standby = wait(&path, &shutdown, &cancel, || on_standby.send(()).unwrap()).unwrap();
        assert!(matches!(standby, Standby::Ours { waited: true, .. }));
        // Woken by the end, not by the timeout.
        let since = holder.join().unwrap();
        assert!(since.elapsed() < TRY_AGAIN / 2);
        cancel.raise();
        assert!(matches!(wait(&path, &shutdown, &cancel, || ()).unwrap(), Standby::Cancelled));
    }
}
