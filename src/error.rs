//! How a command can end, and what it says when it does.
//!
//! Knows the one table of exit statuses, which the manual repeats. Knows
//! nothing of what was tried, nor of who reads the text.

use std::fmt;
use std::io;

/// An exit status of the program. The order is by weight: of several accounts
/// the greatest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitStatus {
    /// In step, or the request is in safe hands.
    Done,
    /// mbsync failed on some mailbox; the others are synced.
    Mailbox,
    /// Try again later: backoff in force, or another process held the lock too long.
    Later,
    /// The server was not reached.
    Offline,
    /// The server refused the login, the password command failed, or the
    /// certificate was refused.
    Denied,
    /// The configuration, ours or mbsync's, is wrong.
    Config,
    /// The command line is wrong.
    Usage,
    /// Ended by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The number the process exits with (sysexits.h where it has a fitting one).
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Done => 0,
            ExitStatus::Mailbox => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Offline => 69,
            ExitStatus::Later => 75,
            ExitStatus::Denied => 77,
            ExitStatus::Config => 78,
            ExitStatus::Signal(n) => 128 + n,
        }
    }
}

impl ExitStatus {
    /// Waiting may mend it: with `-qq` it is not spoken of.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, ExitStatus::Later | ExitStatus::Offline)
    }

    /// The status with this number; what is no status of ours counts as a mailbox' failure.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => ExitStatus::Done,
            2 => ExitStatus::Usage,
            69 => ExitStatus::Offline,
            75 => ExitStatus::Later,
            77 => ExitStatus::Denied,
            78 => ExitStatus::Config,
            129.. => ExitStatus::Signal(code - 128),
            _ => ExitStatus::Mailbox,
        }
    }
}

/// Whether this process, or the machine, may open no more files.
#[must_use]
pub fn no_descriptor_left(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}

/// The error, and what to do about it where the kernel's words do not tell.
#[must_use]
pub fn with_hint(error: &io::Error) -> String {
    if no_descriptor_left(error) {
        format!("{error}; raise the limit of open files (ulimit -n)")
    } else {
        error.to_string()
    }
}

/// Why something could not be done: a text that names the thing and the mend,
/// and the exit status it leads to if nobody handles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The status that the process would end with.
    pub exit: ExitStatus,
    /// One sentence for the user, without the program's name and without a final newline.
    pub text: String,
}

impl Error {
    /// A failure with this status and text.
    pub fn new(exit: ExitStatus, text: impl Into<String>) -> Self {
        Error { exit, text: text.into() }
    }

    /// The configuration is wrong (78).
    pub fn config(text: impl Into<String>) -> Self {
        Self::new(ExitStatus::Config, text)
    }

    /// The command line is wrong (2).
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
