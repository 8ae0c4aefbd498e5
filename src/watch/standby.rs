//! Whose turn it is to wait: one waiter per account, the others stand by.
//!
//! Knows `waiter.lock`; does not know what is waited for. Standing by costs no
//! thread and no wake-up: the kernel reports that the lock's file was closed
//! when its holder ends, however it ends.

use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags};

use crate::os::signals::Shutdown;
use crate::os::wait::{self, Cancel, Woken};
use crate::state::lock::Lock;

/// In case that the kernel has no watch left, or a report is lost.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Somebody who only asked whether the lock is held has held it for a moment.
const MOMENT: Duration = Duration::from_millis(20);

/// The end of standing by.
#[derive(Debug)]
pub enum Standby {
    /// It is ours until the lock is dropped. `waited`: another had it before.
    Ours {
        /// The lock.
        lock: Lock,
        /// Whether another had it before.
        waited: bool,
    },
    /// A signal came.
    Stopped(u8),
    /// Another account has ended the waiting.
    Halted,
}

/// Waits for the waiter's lock. `stands_by` is called once if it is not free.
///
/// # Errors
/// The lock's file cannot be opened.
pub fn wait(
    path: &Path,
    stop: &Shutdown,
    halt: &Cancel,
    stands_by: impl FnOnce(),
) -> io::Result<Standby> {
    if let Some(lock) = Lock::try_take(path)? {
        return Ok(Standby::Ours { lock, waited: false });
    }
    stands_by();
    let mut inotify = Inotify::init().ok();
    if let Some(inotify) = &mut inotify {
        let _ = inotify.watches().add(path, WatchMask::CLOSE_WRITE);
    }
    let mut limit = MOMENT;
    loop {
        if let Some(signal) = stop.signal() {
            return Ok(Standby::Stopped(signal));
        }
        if halt.is_raised() {
            return Ok(Standby::Halted);
        }
        // Asked first: a vain try would itself be reported as the file's closing.
        if !Lock::is_held(path) {
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(Standby::Ours { lock, waited: true });
            }
            limit = MOMENT;
        }
        let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(halt, PollFlags::IN)];
        fds.extend(inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
        let woken = wait::wait(&mut fds, wait::after(limit), None);
        drop(fds);
        limit = if matches!(woken, Ok(Woken::Ready)) { MOMENT } else { LOOK_AGAIN };
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
        let (stop, halt) = (Shutdown::on_signals().unwrap(), Cancel::new().unwrap());
        let Standby::Ours { lock, waited: false } = wait(&path, &stop, &halt, || ()).unwrap()
        else {
            panic!("it was free")
        };
        let (stands_by, told) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            told.recv().unwrap();
            std::thread::sleep(Duration::from_millis(150));
            drop(lock);
            Instant::now()
        });
        let turn = wait(&path, &stop, &halt, || stands_by.send(()).unwrap()).unwrap();
        assert!(matches!(turn, Standby::Ours { waited: true, .. }));
        // Woken by the end, not by the look that is taken in case of need.
        let since = holder.join().unwrap();
        assert!(since.elapsed() < LOOK_AGAIN / 2);
        halt.raise();
        assert!(matches!(wait(&path, &stop, &halt, || ()).unwrap(), Standby::Halted));
    }
}
