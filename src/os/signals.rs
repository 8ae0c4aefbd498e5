//! TERM, INT and HUP as something that can be polled.
//!
//! The handlers write one byte into a pipe that nobody empties: once a signal
//! has come, every poll of every thread that includes the pipe returns. No
//! signal mask is changed, so that children inherit none. Knows nothing of what
//! is stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::EventfdFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::os::fork;

/// The signals that end the program.
#[derive(Debug, Clone)]
pub struct Shutdown {
    came: Arc<AtomicUsize>,
    readable: Arc<OwnedFd>,
}

impl Shutdown {
    /// Takes over the signals, but for those that were ignored when the program
    /// started (nohup, a shell's `&`): they stay ignored.
    pub fn on_signals() -> io::Result<Self> {
        let (readable, writable) = UnixStream::pair()?;
        let came = Arc::new(AtomicUsize::new(0));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            if !fork::is_ignored(signal) {
                let number = usize::try_from(signal).unwrap_or_default();
                signal_hook::flag::register_usize(signal, Arc::clone(&came), number)?;
                signal_hook::low_level::pipe::register(signal, writable.try_clone()?)?;
            }
        }
        Ok(Shutdown { came, readable: Arc::new(readable.into()) })
    }

    /// Leaves the signals to the kernel: for who is about to end anyway. Costs
    /// one system call where the other costs twenty.
    pub fn never() -> io::Result<Self> {
        let silent = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Shutdown { came: Arc::default(), readable: Arc::new(silent) })
    }

    /// The signal that came, if one has.
    #[must_use]
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.came.load(Ordering::SeqCst)).ok().filter(|&signal| signal != 0)
    }
}

impl AsFd for Shutdown {
    /// Readable once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}
