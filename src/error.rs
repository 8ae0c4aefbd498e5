//! How a command can end: the table of exit statuses, which the manual repeats,
//! and errors as values.
//!
//! Nothing reads a message to find out what happened: that is what the status,
//! the kind and the hint are for.
//!
//! Does not depend on: anything else in this crate.

use std::fmt;
use std::io;

/// An exit status of the program, in order of severity: with several accounts,
/// the most severe is reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitStatus {
    /// In sync, or the request is queued.
    #[default]
    Done,
    /// mbsync failed on some mailbox; the others are synced.
    Mailbox,
    /// Try again later: backoff in force, or another process held the lock too long.
    Later,
    /// The server was not reached, or did not answer.
    Offline,
    /// The server refused the login, the password command failed, the certificate
    /// was refused, or what answers is no IMAP server as the file has it.
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

    /// It may go away by itself: `-qq` does not print it.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, ExitStatus::Later | ExitStatus::Offline)
    }

    /// The status with this number; what is no status of ours counts as a mailbox's failure.
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

/// The system's words for an error, without its number, which std adds.
#[must_use]
pub fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|number| format!(" (os error {number})"));
    match number.and_then(|number| text.strip_suffix(&number)) {
        Some(words) => words.to_owned(),
        None => text,
    }
}

/// What some code must tell apart without reading a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ErrorKind {
    /// None of those below: no code handles it by its kind, and its message says what it
    /// is about.
    #[default]
    Other,
    /// On a connection; [`Error::at`] names the server.
    Connection,
    /// The server did not greet, or ended the connection.
    Greeting,
    /// The server answers, but not with TLS, or refuses STARTTLS.
    NotTls,
    /// The server's certificate does not hold.
    Certificate(CertificateProblem),
    /// `AuthMechs` names only mechanisms that are not implemented here. mbsync may
    /// know them by way of SASL.
    UnknownMechanism,
    /// The server does not take user name and password.
    PasswordRefused,
    /// Neither `Pass` nor `PassCmd` is set: mbsync asks on a terminal.
    NoPassword,
    /// `PassCmd` or `UserCmd` failed.
    PasswordCommand,
    /// A command for user name or password failed after its output was closed, as
    /// mbsync closes it, and may have failed for that.
    OutputClosed,
}

/// Why a server's certificate does not hold. Made in one place, `imap/tls.rs`,
/// from OpenSSL's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateProblem {
    /// It is made out for another host name.
    HostMismatch,
    /// It is made out for another address.
    AddressMismatch,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is not the one in `CertificateFile`.
    NotPinned,
    /// Anything else, in OpenSSL's words.
    Other(String),
}

impl CertificateProblem {
    /// Those that have a name here, with OpenSSL's words for them
    /// (`X509_verify_cert_error_string`).
    pub const NAMED: [(CertificateProblem, &'static str); 5] = [
        (CertificateProblem::HostMismatch, "hostname mismatch"),
        (CertificateProblem::AddressMismatch, "IP address mismatch"),
        (CertificateProblem::Expired, "certificate has expired"),
        (CertificateProblem::NotYetValid, "certificate is not yet valid"),
        (CertificateProblem::NotPinned, "not the one in CertificateFile"),
    ];

    /// What it means, and what a user can do about it; `None`: keep the certificate, if it is
    /// the right one.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        Some(match self {
            CertificateProblem::HostMismatch | CertificateProblem::AddressMismatch => {
                "it is made out for another name; set Host to that name only if it is your server"
            }
            CertificateProblem::Expired => {
                "if this machine's clock is right, the server's operator must renew it"
            }
            CertificateProblem::NotYetValid => "check the date and time of this machine",
            CertificateProblem::NotPinned | CertificateProblem::Other(_) => return None,
        })
    }
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificateProblem::Other(reason) => reason,
            named => {
                Self::NAMED.iter().find(|(each, _)| each == named).map_or("", |(_, text)| text)
            }
        })
    }
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The status that the process ends with if nothing handles the error.
    pub status: ExitStatus,
    /// For code that must tell errors apart.
    pub kind: ErrorKind,
    /// What happened, without the program's name and without a final newline.
    pub message: String,
    /// How to fix it, or what happens next. Printed after the message.
    pub hint: Option<String>,
    /// A command of the user's was run or a secret said before it: a try costs a prompt, or
    /// counts at the server.
    pub costly: bool,
}

impl Error {
    /// An error of no special kind, without a hint.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Error { status, kind: ErrorKind::Other, message: message.into(), hint: None, costly: false }
    }

    /// The configuration is wrong (78).
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Config, message)
    }

    /// A file of the user's settings that cannot be read, as it is shown to them.
    #[must_use]
    pub fn unreadable(shown: &str, why: &io::Error) -> Self {
        let denied = why.kind() == io::ErrorKind::PermissionDenied;
        Error::config(format!("{shown} cannot be read: {}", system_text(why)))
            .with_hint_of(denied.then(|| format!("chmod u+r {shown}")))
    }

    /// The command line is wrong (2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, message)
    }

    /// The system refused (75). With a hint where its words do not say what to do.
    #[must_use]
    pub fn system(doing: &str, error: &io::Error) -> Self {
        let failed = Self::new(ExitStatus::Later, format!("{doing}: {}", system_text(error)));
        if no_descriptor_left(error) {
            return failed.with_hint("raise the limit of open files (ulimit -n)");
        }
        failed
    }

    /// The same with this hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Error { hint: Some(hint.into()), ..self }
    }

    /// The same with the hint, if there is one.
    #[must_use]
    pub fn with_hint_of(self, hint: Option<impl Into<String>>) -> Self {
        Error { hint: hint.map(Into::into), ..self }
    }

    /// The same with this kind.
    #[must_use]
    pub fn of_kind(self, kind: ErrorKind) -> Self {
        Error { kind, ..self }
    }

    /// The same, as a costly one.
    #[must_use]
    pub fn as_costly(self) -> Self {
        Error { costly: true, ..self }
    }

    /// The same about `subject`: `subject: message; hint`.
    #[must_use]
    pub fn about(self, subject: &str) -> Self {
        Error { message: format!("{subject}: {}", self.message), ..self }
    }

    /// With the server's name, unless the error has nothing to do with the server.
    #[must_use]
    pub fn at(self, server: &str) -> Self {
        match self.kind {
            ErrorKind::Other | ErrorKind::PasswordCommand => self,
            _ => self.about(server),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hint) = &self.hint else { return f.write_str(&self.message) };
        // What a server says often ends with a full stop.
        let message = self.message.strip_suffix('.').unwrap_or(&self.message);
        write!(f, "{message}; {hint}")
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_followed_by_its_hint() {
        let error = Error::config("line 3; x").with_hint("move it").about("Home");
        assert_eq!(error.to_string(), "Home: line 3; x; move it");
        assert_eq!((&*error.message, error.hint.as_deref()), ("Home: line 3; x", Some("move it")));
        assert_eq!(error.with_hint_of(None::<String>).to_string(), "Home: line 3; x");
        let error = Error::config("It failed.");
        assert_eq!(error.to_string(), "It failed.");
        assert_eq!(error.with_hint("try again").to_string(), "It failed; try again");
    }

    #[test]
    fn the_server_is_named_only_where_the_connection_failed() {
        let error = Error::new(ExitStatus::Offline, "closed");
        assert_eq!(error.clone().at("h:143").message, "closed");
        assert_eq!(error.of_kind(ErrorKind::Connection).at("h:143").message, "h:143: closed");
    }

    #[test]
    fn the_systems_errors_have_no_number() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(system_text(&refused), "Connection refused");
        assert_eq!(system_text(&io::Error::other("x (os error 111)")), "x (os error 111)");
        let none_left = io::Error::from_raw_os_error(24);
        assert_eq!(
            Error::system("cannot wait", &none_left).to_string(),
            "cannot wait: Too many open files; raise the limit of open files (ulimit -n)"
        );
    }
}
