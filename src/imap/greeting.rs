//! How a server begins and ends a connection: the greeting, and BYE.

use super::endpoint::{StepError, StepFailure};
use super::parse::{self, Condition, Reply, Verb};
use super::transport::{Transport, TransportError};
use super::values::Capabilities;
use crate::error::ExitStatus;

/// How the server greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// It knows us already.
    pub preauth: bool,
    /// What it said it can do, if it said so.
    pub capabilities: Option<Capabilities>,
}

/// Reads the greeting; the transport's step must have begun.
pub fn read_greeting(transport: &mut Transport) -> Result<Greeting, StepError> {
    let failed = |error: &TransportError| StepError::of("greeting", error).in_greeting();
    let response = transport.response().map_err(|e| failed(&e))?;
    if let Reply::Condition(said) = parse::reply(&response) {
        match said.verb {
            Verb::Ok | Verb::Preauth => {
                return Ok(Greeting {
                    preauth: said.verb == Verb::Preauth,
                    capabilities: parse::code_capabilities(said.code),
                });
            }
            Verb::Bye => return Err(goodbye(&said, &said.printable())),
            Verb::No | Verb::Bad => {}
        }
    }
    Err(failed(&transport.kill(TransportError::Malformed("no greeting"))))
}

/// The server ends the connection, with these words.
pub(super) fn goodbye(said: &Condition<'_>, words: &str) -> StepError {
    let exit = if is_temporary(said) { ExitStatus::Later } else { ExitStatus::Offline };
    let text = format!("the server says goodbye: {words}");
    StepError { exit, text, kind: StepFailure::Greeting }
}

/// Whether the server says that it is a matter of time (RFC 5530), or of how
/// many others are there.
pub(super) fn is_temporary(said: &Condition<'_>) -> bool {
    ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG"].iter().any(|code| said.has_code(code)) || {
        let text = said.printable().to_ascii_lowercase();
        text.contains("too many") || text.contains("maximum number of connections")
    }
}
