//! How a server begins and ends a connection: the greeting, and BYE. Does not
//! depend on: TLS, login, what follows.

use super::endpoint::step_failed;
use super::parse::{self, Condition, Reply, Verb};
use super::transport::{Transport, TransportError};
use super::values::Capabilities;
use crate::error::{Error, ErrorKind, ExitStatus};

/// How the server greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// It knows us already.
    pub preauth: bool,
    /// What it said it can do, if it said so.
    pub capabilities: Option<Capabilities>,
}

/// Reads the greeting; the transport's step must have begun.
pub fn read_greeting(transport: &mut Transport) -> Result<Greeting, Error> {
    let failed =
        |error: &TransportError| step_failed("greeting", error).of_kind(ErrorKind::Greeting);
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
pub(super) fn goodbye(said: &Condition<'_>, words: &str) -> Error {
    let status = if said.is_temporary() { ExitStatus::Later } else { ExitStatus::Offline };
    Error::new(status, format!("the server says goodbye: {words}")).of_kind(ErrorKind::Greeting)
}
