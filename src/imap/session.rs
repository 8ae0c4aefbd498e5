//! CAPABILITY, SELECT and EXAMINE, by the `imap` crate. No other module
//! knows the crate.
//!
//! The crate can neither wait nor survive hostile input. It is given one whole
//! response at a time, line by line, and only those that answer its command and
//! that its parser is known to take; the others are kept for the caller.
//!
//! Does not depend on: who logged in and how, what follows from an answer.

use super::greeting::goodbye;
use super::parse::{self, Reply, Verb};
use super::transport::{Transport, TransportError};
use super::values::{Answer, Capabilities, MailboxStatus, Opened, Opening};
use crate::error::Error;
use crate::model::flags::keeps_forwarded;
use crate::text::printable;
use std::io::{self, Read, Write};

/// Most responses kept that do not answer the command.
const MOST_UNASKED: usize = 4096;

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionError {
    /// The server said NO or BAD; the connection is as good as before.
    Refused(Answer),
    /// The server has ended the connection by BYE.
    Goodbye(Error),
    /// The connection is lost.
    Lost(TransportError),
}

/// What a command led to.
#[derive(Debug)]
pub struct Ran<T> {
    /// Its result.
    pub result: Result<T, SessionError>,
    /// Responses that came meanwhile and did not answer it.
    pub unasked: Vec<Vec<u8>>,
    /// There were more of them than is kept.
    pub overflowed: bool,
}

/// Asks what the server can do. The transport's step must have begun.
pub fn capabilities(transport: &mut Transport, tag: &str) -> Ran<Capabilities> {
    let mut ran = run(transport, tag, "CAPABILITY", |session| {
        session.capabilities().map(|said| words(&said))
    });
    // In words that the crate does not take.
    let odd = ran.unasked.iter().rev().find_map(|response| {
        let rest = parse::reply(response).data("CAPABILITY")?;
        Some(parse::capabilities(rest.trim_ascii_end()))
    });
    if let (Ok(said), Some(odd)) = (&mut ran.result, odd) {
        if said.words().is_empty() {
            *said = odd;
        }
    }
    ran
}

fn words(said: &imap::types::Capabilities) -> Capabilities {
    let words: Vec<String> = said
        .iter()
        .map(|capability| match capability {
            imap_proto::Capability::Imap4rev1 => "IMAP4rev1".to_owned(),
            imap_proto::Capability::Auth(mechanism) => format!("AUTH={mechanism}"),
            imap_proto::Capability::Atom(atom) => atom.to_string(),
        })
        .collect();
    Capabilities::from_words(words.iter().map(String::as_bytes))
}

/// Opens a mailbox. The transport's step must have begun.
pub fn open(transport: &mut Transport, tag: &str, name: &str, opening: Opening) -> Ran<Opened> {
    let ran = match opening {
        Opening::Examine => run(transport, tag, "EXAMINE", |session| session.examine(name)),
        Opening::Select => run(transport, tag, "SELECT", |session| session.select(name)),
    };
    ran.map(|mailbox| Opened {
        status: MailboxStatus {
            messages: Some(mailbox.exists),
            uid_next: mailbox.uid_next,
            uid_validity: mailbox.uid_validity,
            highest_mod_seq: mailbox.highest_mod_seq,
        },
        forwarded: keeps_forwarded(
            mailbox.permanent_flags.iter().map(ToString::to_string),
            opening == Opening::Select,
        ),
    })
}

impl<T> Ran<T> {
    fn map<U>(self, into: impl FnOnce(T) -> U) -> Ran<U> {
        Ran { result: self.result.map(into), unasked: self.unasked, overflowed: self.overflowed }
    }
}

/// One command of the crate's to its end, under a tag of ours.
fn run<T>(
    transport: &mut Transport,
    tag: &str,
    verb: &str,
    command: impl FnOnce(&mut imap::Session<Bridge<'_>>) -> imap::Result<T>,
) -> Ran<T> {
    let mut set_aside = SetAside::default();
    let bridge = Bridge::new(transport, tag, &mut set_aside);
    // Any name does: the bridge does not send LOGIN, but answers OK.
    let ended = match imap::Client::new(bridge).login("-", "-") {
        Ok(mut session) => command(&mut session),
        Err((error, _)) => Err(error),
    };
    let result = match (ended, set_aside.goodbye) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(goodbye)) => Err(SessionError::Goodbye(goodbye)),
        (Err(error), None) => Err(failure(transport, verb, error)),
    };
    Ran { result, unasked: set_aside.unasked, overflowed: set_aside.overflowed }
}

fn failure(transport: &mut Transport, verb: &str, error: imap::Error) -> SessionError {
    let refused = |verdict, code: String, text: &str| {
        let temporary = parse::is_temporary(text);
        let text = format!("{verb}: {text}");
        SessionError::Refused(Answer { verb: verdict, code, text, temporary })
    };
    match error {
        imap::Error::No(no) => {
            refused(Verb::No, code_word(no.code.as_ref()), &printable(&no.information))
        }
        imap::Error::Bad(bad) => {
            refused(Verb::Bad, code_word(bad.code.as_ref()), &printable(&bad.information))
        }
        imap::Error::Validate(_) => {
            refused(Verb::Bad, String::new(), "a name that IMAP cannot express")
        }
        _ => SessionError::Lost(match transport.trouble() {
            Some(trouble) => trouble.clone(),
            None => transport.kill(TransportError::Malformed("an answer that makes no sense")),
        }),
    }
}

fn code_word(code: Option<&imap_proto::ResponseCode<'_>>) -> String {
    let text = code.map(|c| format!("{c:?}")).unwrap_or_default();
    text.chars().take_while(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase()
}

/// What is not for the crate.
#[derive(Default)]
struct SetAside {
    unasked: Vec<Vec<u8>>,
    overflowed: bool,
    goodbye: Option<Error>,
}

/// What the crate takes for its connection.
struct Bridge<'a> {
    transport: &'a mut Transport,
    /// The tag on the wire; the crate counts its own.
    tag: &'a str,
    set_aside: &'a mut SetAside,
    /// Bytes that the crate has written since its last whole command.
    command: Vec<u8>,
    crate_tag: Vec<u8>,
    verb: Vec<u8>,
    /// A response on its way to the crate, and how much of it has arrived.
    response: Vec<u8>,
    handed: usize,
}

impl<'a> Bridge<'a> {
    fn new(transport: &'a mut Transport, tag: &'a str, set_aside: &'a mut SetAside) -> Self {
        Bridge {
            transport,
            tag,
            set_aside,
            command: Vec::new(),
            crate_tag: Vec::new(),
            verb: Vec::new(),
            response: Vec::new(),
            handed: 0,
        }
    }

    fn hand(&mut self, response: Vec<u8>) {
        self.response = response;
        self.handed = 0;
    }

    /// Waits for a response that answers the crate's command and that the crate
    /// is known to understand.
    fn next_response(&mut self) -> Result<(), TransportError> {
        loop {
            let response = self.transport.response()?;
            match parse::reply(&response) {
                Reply::Tagged(tag, said) if tag == self.tag.as_bytes() => {
                    let rest = response.get(tag.len()..).unwrap_or_default();
                    let mut renamed = [&self.crate_tag[..], rest].concat();
                    if !is_understood(&renamed) {
                        let verb: &[u8] = match said.verb {
                            Verb::Ok => b" OK ?\r\n",
                            Verb::No => b" NO ?\r\n",
                            _ => b" BAD ?\r\n",
                        };
                        renamed = [&self.crate_tag[..], verb].concat();
                    }
                    self.hand(renamed);
                    return Ok(());
                }
                Reply::Tagged(..) => {
                    let error = TransportError::Malformed("an unexpected tagged response");
                    return Err(self.transport.kill(error));
                }
                Reply::Condition(said) if said.verb == Verb::Bye => {
                    self.set_aside.goodbye = Some(goodbye(&said, &said.printable()));
                    return Err(self.transport.kill(TransportError::Closed));
                }
                reply if self.answers_command(&reply) && is_understood(&response) => {
                    self.hand(response);
                    return Ok(());
                }
                _ if self.set_aside.unasked.len() < MOST_UNASKED => {
                    self.set_aside.unasked.push(response);
                }
                _ => self.set_aside.overflowed = true,
            }
        }
    }

    fn answers_command(&self, reply: &Reply<'_>) -> bool {
        let is = |name: &[u8], words: &[&str]| {
            words.iter().any(|word| name.eq_ignore_ascii_case(word.as_bytes()))
        };
        match (&self.verb[..], reply) {
            (b"CAPABILITY", Reply::Data(name, _)) => is(name, &["CAPABILITY"]),
            // A warning (`* NO`, `* BAD`) makes the crate panic here.
            (b"EXAMINE" | b"SELECT", Reply::Condition(said)) => said.verb == Verb::Ok,
            (b"EXAMINE" | b"SELECT", Reply::Data(name, _)) => is(name, &["FLAGS"]),
            (b"EXAMINE" | b"SELECT", Reply::Numbered(_, name, _)) => {
                is(name, &["EXISTS", "RECENT"])
            }
            _ => false,
        }
    }
}

/// Whether the crate's parser takes this response, whole.
fn is_understood(response: &[u8]) -> bool {
    matches!(imap_proto::parser::parse_response(response), Ok((rest, _)) if rest.is_empty())
}

impl Read for Bridge<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.handed == self.response.len() {
            self.next_response()?;
        }
        let rest = self.response.get(self.handed..).unwrap_or_default();
        let line = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
        let count = line.min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.handed += count;
        Ok(count)
    }
}

impl Write for Bridge<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.command.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.command.is_empty() {
            return Ok(());
        }
        let command = std::mem::take(&mut self.command);
        let mut words = command.split(u8::is_ascii_whitespace);
        self.crate_tag = words.next().unwrap_or_default().to_vec();
        self.verb = words.next().unwrap_or_default().to_ascii_uppercase();
        if self.verb == b"LOGIN" {
            let answer = [&self.crate_tag[..], b" OK done\r\n"].concat();
            self.hand(answer);
            return Ok(());
        }
        self.hand(Vec::new());
        let rest = command.get(self.crate_tag.len()..).unwrap_or_default();
        Ok(self.transport.send(&[self.tag.as_bytes(), rest].concat())?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::tests::pair;
    use super::*;
    use crate::error::ExitStatus;

    #[test]
    fn the_crate_gets_only_what_answers_its_command() {
        let (mut transport, mut server) = pair();
        server
            .write_all(
                b"* XPUSH \xff\r\n* STATUS INBOX (MESSAGES 1)\r\n* CAPABILITY IMAP4rev1 IDLE\r\n* CAPABILITY \xff\r\nm7 OK [X \xff] done\r\n",
            )
            .unwrap();
        let ran = capabilities(&mut transport, "m7");
        assert!(ran.result.unwrap().idle());
        assert_eq!(ran.unasked.len(), 3);
        let mut sent = [0; 100];
        let n = server.read(&mut sent).unwrap();
        assert_eq!(&sent[..n], b"m7 CAPABILITY\r\n");
        server.write_all(b"a2 OK done\r\n").unwrap();
        assert!(matches!(capabilities(&mut transport, "m8").result, Err(SessionError::Lost(_))));
        assert!(transport.trouble().is_some());
    }

    /// A plain warning, which RFC 3501 allows at any time. Found by fuzzing.
    #[test]
    fn g10_a_warning_while_a_mailbox_is_opened_is_no_end_of_the_crate() {
        for warning in ["* NO [ALERT] disk nearly full", "* BAD what was that", "* PREAUTH you"] {
            let (mut transport, mut server) = pair();
            write!(server, "* 3 EXISTS\r\n{warning}\r\n* OK [UIDNEXT 4] n\r\nm1 OK done\r\n")
                .unwrap();
            let ran = open(&mut transport, "m1", "INBOX", Opening::Examine);
            let status = ran.result.unwrap().status;
            assert_eq!((status.messages, status.uid_next), (Some(3), Some(4)));
            assert_eq!(ran.unasked.len(), 1);
        }
    }

    #[test]
    fn refusals_and_goodbyes_are_values() {
        let (mut transport, mut server) = pair();
        server.write_all(b"m1 NO [NOPERM] \x1b[1mno\r\n* BYE [UNAVAILABLE] later\r\n").unwrap();
        let ran = open(&mut transport, "m1", "x", Opening::Select);
        let Err(SessionError::Refused(answer)) = ran.result else { panic!("{ran:?}") };
        assert_eq!((answer.verb, &answer.text[..]), (Verb::No, "SELECT: [NOPERM] [1mno"));
        let ran = capabilities(&mut transport, "m2");
        assert!(
            matches!(ran.result, Err(SessionError::Goodbye(error)) if error.status == ExitStatus::Later)
        );
    }
}
