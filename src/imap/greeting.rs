//! How a server begins and ends a connection: the greeting, and BYE. Does not
//! depend on: TLS, login, what follows.

use super::endpoint::no_greeting;
use super::parse::{self, Condition, Reply, Verb};
use super::transport::{Transport, TransportError};
use super::values::Capabilities;
use crate::error::{Error, ErrorKind, ExitStatus};
use crate::model::Server;

/// How the server greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// It knows us already.
    pub preauth: bool,
    /// What it said it can do, if it said so.
    pub capabilities: Option<Capabilities>,
}

/// Reads the greeting; the transport's step must have begun.
pub fn read_greeting(transport: &mut Transport, server: &Server) -> Result<Greeting, Error> {
    let response = transport.response().map_err(|error| no_greeting(&error, server))?;
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
    let other = TransportError::Malformed(greets_as(&response));
    Err(no_greeting(&transport.kill(other), server))
}

/// Whose greeting this is.
fn greets_as(response: &[u8]) -> &'static str {
    const OTHERS: [(&[u8], &str); 4] = [
        (b"220", "this is SMTP or FTP"),
        (b"SSH-", "this is SSH"),
        (b"+OK", "this is POP3"),
        (b"HTTP/", "this is HTTP"),
    ];
    let other = OTHERS.iter().find(|(head, _)| response.starts_with(head));
    other.map_or("no greeting", |(_, text)| text)
}

/// The server ends the connection, with these words.
pub(super) fn goodbye(said: &Condition<'_>, words: &str) -> Error {
    let status = if said.is_temporary() { ExitStatus::Later } else { ExitStatus::Offline };
    Error::new(status, format!("the server says goodbye: {words}")).of_kind(ErrorKind::Greeting)
}
