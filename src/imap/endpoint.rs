//! A server as its section names it: its name in messages, the time it has for
//! each step, and how a step that failed is reported.
//!
//! Does not depend on: what is said on a connection.

use super::transport::TransportError;
use crate::error::{Error, ErrorKind, ExitStatus};
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

/// What a connection's error means for the step of this name; [`Error::at`] adds
/// the server's.
#[must_use]
pub fn step_failed(doing: &str, error: &TransportError) -> Error {
    match error {
        TransportError::Interrupted => {
            Error::new(ExitStatus::Later, "interrupted").of_kind(ErrorKind::Connection)
        }
        TransportError::Certificate(problem) => {
            Error::new(ExitStatus::Denied, format!("certificate refused ({problem})"))
                .with_hint(problem.fix())
                .of_kind(ErrorKind::Certificate(problem.clone()))
        }
        error => Error::new(ExitStatus::Offline, format!("{doing}: {error}"))
            .of_kind(ErrorKind::Connection),
    }
}

/// A refusal (77) of what the server says or does.
#[must_use]
pub fn refused(message: impl Into<String>) -> Error {
    Error::new(ExitStatus::Denied, message).of_kind(ErrorKind::Connection)
}
