//! A server as its section names it: its name in messages, the time it has for
//! each step, and how a step that failed is reported.
//!
//! Does not depend on: what is said on a connection.

use super::tls::CertificateProblem;
use super::transport::TransportError;
use crate::error::{Error, ExitStatus};
use crate::model::Server;
use std::time::Duration;

/// A step's time where the file sets none (`Timeout 0`): mbsync would wait for ever.
const LONGEST_STEP: Duration = Duration::from_secs(60);

/// The time that the file gives each step.
#[must_use]
pub fn step(server: &Server) -> Duration {
    server
        .timeout
        .unwrap_or(LONGEST_STEP)
        .clamp(Duration::from_millis(100), Duration::from_secs(600))
}

/// The server's name in messages.
#[must_use]
pub fn place(server: &Server) -> String {
    match (&server.host, &server.tunnel) {
        (_, Some(_)) => "the tunnel".to_owned(),
        (Some(host), None) => format!("{host}:{}", server.port),
        (None, None) => "the server".to_owned(),
    }
}

/// A step that failed, still without the server's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// The exit status that it leads to.
    pub exit: ExitStatus,
    /// What failed, and why.
    pub text: String,
    /// Which kind of failure it is.
    pub kind: StepFailure,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepFailure {
    /// The settings are wrong, or cannot be kept here.
    Settings,
    /// The certificate was refused.
    Certificate(CertificateProblem),
    /// The server did not greet, or ended the connection.
    Greeting,
    /// Anything else: the way to the server, TLS, STARTTLS.
    Other,
}

impl StepError {
    /// A refusal of the connection as it is.
    #[must_use]
    pub fn denied(text: impl Into<String>) -> Self {
        StepError { exit: ExitStatus::Denied, text: text.into(), kind: StepFailure::Other }
    }

    /// What `error` means for the step of this name.
    #[must_use]
    pub fn of(doing: &str, error: &TransportError) -> Self {
        let (exit, text, kind) = match error {
            TransportError::Interrupted => {
                (ExitStatus::Later, "interrupted".to_owned(), StepFailure::Other)
            }
            TransportError::Certificate(problem) => (
                ExitStatus::Denied,
                format!("certificate refused ({problem}): {}", problem.fix()),
                StepFailure::Certificate(problem.clone()),
            ),
            error => (ExitStatus::Offline, format!("{doing}: {error}"), StepFailure::Other),
        };
        StepError { exit, text, kind }
    }

    /// The same, as a failure of the greeting.
    #[must_use]
    pub fn in_greeting(self) -> Self {
        StepError { kind: StepFailure::Greeting, ..self }
    }

    /// With the server's name, which does not matter where the settings are wrong.
    #[must_use]
    pub fn at(self, place: &str) -> Error {
        match self.kind {
            StepFailure::Settings => Error::new(self.exit, self.text),
            _ => Error::new(self.exit, format!("{place}: {}", self.text)),
        }
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        StepError { exit: error.exit, text: error.text, kind: StepFailure::Settings }
    }
}

/// What a connection's error means for the step of this name.
#[must_use]
pub fn failure(place: &str, doing: &str, error: &TransportError) -> Error {
    StepError::of(doing, error).at(place)
}
