//! TERM, INT and HUP as something that can be polled.
//!
//! The handlers write one byte into a pipe that is never drained: once a signal
//! has come, every wait of every thread that includes it returns. No signal mask
//! is changed, so that children inherit none. Does not depend on: what is
//! stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::fork;
use super::wait::Cancel;

/// The signals that end the program.
const ENDING: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Takes note of the signals that end the program.
#[derive(Debug, Clone)]
pub struct Shutdown {
    came: Arc<AtomicUsize>,
    cancel: Cancel,
}

impl Shutdown {
    /// Takes over the signals, but for those that were ignored when the program
    /// started (nohup, a shell's `&`): they stay ignored.
    pub fn on_signals() -> io::Result<Self> {
        let (readable, writable) = UnixStream::pair()?;
        let came = Arc::new(AtomicUsize::new(0));
        for signal in ENDING {
            if !fork::is_ignored(signal) {
                let number = usize::try_from(signal).unwrap_or_default();
                signal_hook::flag::register_usize(signal, Arc::clone(&came), number)?;
                signal_hook::low_level::pipe::register(signal, writable.try_clone()?)?;
            }
        }
        Ok(Shutdown { came, cancel: Cancel::when_readable(Arc::new(readable.into())) })
    }

    /// Gives the signals back to the kernel, before exec: one that is only noted would be
    /// lost in it. Returns one that came before.
    #[must_use]
    pub fn release(&self) -> Option<u8> {
        for signal in ENDING.into_iter().filter(|&signal| !fork::is_ignored(signal)) {
            fork::default_action(signal);
        }
        self.signal()
    }

    /// Leaves the signals to the kernel: for a process that is about to end
    /// anyway. One system call in place of twenty.
    pub fn never() -> io::Result<Self> {
        Ok(Shutdown { came: Arc::default(), cancel: Cancel::new()? })
    }

    /// The signal that came, if one has.
    #[must_use]
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.came.load(Ordering::SeqCst)).ok().filter(|&signal| signal != 0)
    }

    /// What is raised once a signal has come.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl AsFd for Shutdown {
    /// Readable once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cancel.as_fd()
    }
}
