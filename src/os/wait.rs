//! The one wait: for descriptors, until a deadline, unless it is cancelled.
//!
//! Does not depend on: what is waited for. Another system than Linux would need
//! its own [`Cancel::new`] (a pipe in place of an eventfd).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Why a wait has ended.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// At least one of the descriptors has events; their `revents` say which.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// The wait was cancelled. Descriptors may have events too.
    Cancelled,
}

/// Ends waits: a descriptor that becomes readable and stays so. Clones share it.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// One that is raised by [`Cancel::raise`] alone.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Cancel(Arc::new(eventfd(0, flags)?)))
    }

    /// One that is raised by whatever makes this descriptor readable or closes
    /// its other end. It is polled, never read.
    #[must_use]
    pub fn when_readable(fd: Arc<OwnedFd>) -> Self {
        Cancel(fd)
    }

    /// Ends the waits of all threads, now and later.
    pub fn raise(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Whether waits end at once.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        matches!(wait(&mut [], Some(Instant::now()), Some(self)), Ok(Woken::Cancelled))
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `fds` is ready, `deadline` (on CLOCK_MONOTONIC, which
/// does not advance while the machine sleeps; `None`: never) has passed, or `cancel`
/// is raised. With a deadline in the past it only checks. Signals do not end it: what is
/// to end it at a signal is given [`super::signals::Shutdown::cancel`].
pub fn wait<'fd>(
    fds: &mut [PollFd<'fd>],
    deadline: Option<Instant>,
    cancel: Option<&'fd Cancel>,
) -> io::Result<Woken> {
    let Some(cancel) = cancel else { return poll_until(fds, deadline) };
    let mut all = fds.to_vec();
    all.push(PollFd::new(cancel, PollFlags::IN));
    let woken = poll_until(&mut all, deadline)?;
    let cancelled = all.pop().is_some_and(|fd| !fd.revents().is_empty());
    fds.clone_from_slice(&all);
    Ok(if cancelled { Woken::Cancelled } else { woken })
}

/// Waits until `fd` is readable or its other end is closed.
pub fn readable(
    fd: &impl AsFd,
    deadline: Option<Instant>,
    cancel: Option<&Cancel>,
) -> io::Result<Woken> {
    wait(&mut [PollFd::new(fd, PollFlags::IN)], deadline, cancel)
}

/// Waits for so long, unless it is cancelled.
pub fn sleep(time: Duration, cancel: &Cancel) {
    let _ = wait(&mut [], after(time), Some(cancel));
}

/// The deadline at the end of this time; none if it is beyond the clock.
#[must_use]
pub fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<Woken> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Ok(0) => return Ok(Woken::TimedOut),
            Ok(_) => return Ok(Woken::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_wait_ends_by_what_comes_first() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = Cancel::new().unwrap();
        let begun = Instant::now();
        let short = Duration::from_millis(20);
        assert_eq!(readable(&ours, after(short), Some(&cancel)).unwrap(), Woken::TimedOut);
        assert!(begun.elapsed() >= short);
        rustix::io::write(&theirs, b"x").unwrap();
        assert_eq!(readable(&ours, None, Some(&cancel)).unwrap(), Woken::Ready);
        assert!(!cancel.is_raised());
        cancel.clone().raise();
        assert!(cancel.is_raised());
        let mut fds = [PollFd::new(&ours, PollFlags::IN)];
        assert_eq!(wait(&mut fds, None, Some(&cancel)).unwrap(), Woken::Cancelled);
        assert!(!fds[0].revents().is_empty(), "what is ready is known all the same");
        sleep(LONG, &cancel);
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_thread_is_woken_by_another() {
        let cancel = Cancel::new().unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| sleep(LONG, &cancel));
            cancel.raise();
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_signal_that_is_handled_does_not_end_a_wait_early() {
        use rustix::process::{Signal, getpid, kill_process};
        let came = Arc::new(std::sync::atomic::AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR2, Arc::clone(&came)).unwrap();
        let deadline = after(Duration::from_millis(100));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let woken = wait(&mut [], deadline, None).unwrap();
                (woken, Instant::now() >= deadline.unwrap())
            });
            while !waits.is_finished() {
                kill_process(getpid(), Signal::USR2).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(waits.join().unwrap(), (Woken::TimedOut, true));
        });
        assert!(came.load(std::sync::atomic::Ordering::SeqCst));
    }
}
