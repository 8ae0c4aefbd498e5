//! The relay: carries the dialogue of a server and another IMAP client (the
//! borrower) over a lent connection.
//!
//! It reads commands by tag and verb, and finds where responses and literals end;
//! all else passes as it is. It greets with PREAUTH, answers CAPABILITY and
//! NAMESPACE from memory, and answers LOGOUT itself, for the connection goes on.
//! It never waits. Buffers are bounded: a side that does not read is not read
//! from.

use crate::imap::client::Detached;
use crate::imap::parse::{self, Literal, Reply, Verb, literal_at_end};
use crate::imap::transport::{Transport, TransportError};
use rustix::event::{PollFd, PollFlags};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// Most bytes kept for either side.
const ROOM: usize = 128 * 1024;
/// Most bytes taken at once.
const CHUNK: usize = ROOM / 2;
/// Longest command line that is parsed; mbsync's are below 1100 bytes.
const LONGEST_COMMAND: usize = 16 * 1024;
/// Most commands under way before no more are taken.
const MOST_COMMANDS: usize = 1000;
/// Of a response's line so much is kept from its beginning and from its end.
const HEAD: usize = 64;
const TAIL: usize = 24;

/// Most steps before the caller checks its other descriptors.
const MOST_STEPS: usize = 64;

/// What a step of the relay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Nothing.
    Still,
    /// It moved bytes, all that there were.
    Moved,
    /// It moved bytes, and there may be more that no descriptor shows: TLS keeps
    /// bytes of its own.
    More,
}

/// Capabilities that a lent connection does not have: they change what it is.
const NOT_LENT: [&str; 6] = ["STARTTLS", "LOGINDISABLED", "SASL-IR", "IDLE", "NOTIFY", "ENABLE"];
/// Commands that it does not take.
const NOT_TAKEN: [&[u8]; 8] = [
    b"STARTTLS",
    b"COMPRESS",
    b"LOGIN",
    b"AUTHENTICATE",
    b"IDLE",
    b"NOTIFY",
    b"ENABLE",
    b"UNAUTHENTICATE",
];

/// Why the connection cannot be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayFault {
    /// The server, or the way to it.
    Server(TransportError),
    /// The borrower left in the middle of something.
    LeftEarly,
    /// The borrower does not keep to IMAP: how.
    Borrower(&'static str),
}

impl fmt::Display for RelayFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayFault::Server(error) => error.fmt(f),
            RelayFault::LeftEarly => f.write_str("it was left without LOGOUT"),
            RelayFault::Borrower(how) => write!(f, "its borrower does not keep to IMAP: {how}"),
        }
    }
}

/// The words of `* CAPABILITY` for a borrower.
fn lent_capabilities(words: &[String]) -> String {
    let fit = |word: &&String| {
        !NOT_LENT.contains(&word.as_str())
            && !word.starts_with("AUTH=")
            && !word.starts_with("COMPRESS")
    };
    words.iter().filter(fit).map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// A lent connection.
pub struct Relay<'c> {
    transport: &'c mut Transport,
    /// Tags of our commands whose answers are not the borrower's.
    pending: HashSet<Vec<u8>>,
    /// A mailbox of ours is still open while they are pending: what is said of it
    /// could be taken for what the borrower asks. So its commands wait.
    mailbox_open: bool,
    capabilities: String,
    namespace: Option<Vec<u8>>,
    borrower: Option<UnixStream>,
    attached: bool,
    commands: Commands,
    /// The server's side.
    responses: Responses,
    to_server: Queue,
    to_borrower: Queue,
    /// Answers of ours, waiting for the end of a response.
    answers: Vec<u8>,
    /// Tag of the borrower's LOGOUT.
    logout: Option<Vec<u8>>,
    /// LOGOUT has been answered.
    logged_out: bool,
    fault: Option<RelayFault>,
    /// For what is just being read. Not on the stack, which would keep it.
    buffer: Vec<u8>,
}

/// Sides that have been read empty: to ask them again is a system call for
/// nothing, and `poll` tells when there is more.
#[derive(Debug, Default)]
struct ReadEmpty {
    server: bool,
    borrower: bool,
}

impl<'c> Relay<'c> {
    pub fn new(detached: Detached<'c>) -> Self {
        let Detached { transport, pending, mailbox_open, capabilities, namespace } = detached;
        Relay {
            transport,
            pending,
            mailbox_open,
            capabilities: lent_capabilities(capabilities.words()),
            namespace: namespace.map(<[u8]>::to_vec),
            borrower: None,
            attached: false,
            commands: Commands::default(),
            responses: Responses::default(),
            to_server: Queue::default(),
            to_borrower: Queue::default(),
            answers: Vec::new(),
            logout: None,
            logged_out: false,
            fault: None,
            buffer: vec![0; CHUNK],
        }
    }

    /// Takes the borrower, and greets it. False if there has been one already.
    pub fn attach(&mut self, borrower: UnixStream) -> bool {
        if self.attached || self.fault.is_some() || borrower.set_nonblocking(true).is_err() {
            return false;
        }
        self.attached = true;
        self.borrower = Some(borrower);
        let greeting =
            format!("* PREAUTH [CAPABILITY {}] a lent connection\r\n", self.capabilities);
        self.to_borrower.push(greeting.as_bytes());
        self.pump();
        true
    }

    /// Whether a borrower has come.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the connection can be used again: its borrower has logged out, and
    /// nothing is pending.
    pub fn finish(&mut self) -> Result<(), RelayFault> {
        while self.pump() == Flow::More {}
        match self.fault.clone() {
            Some(fault) => Err(fault),
            None if self.logged_out => Ok(()),
            None if !self.attached && self.pending.is_empty() => Ok(()),
            None => Err(RelayFault::LeftEarly),
        }
    }

    /// Adds the descriptors to wait for. Only after [`Relay::pump`].
    pub fn poll_fds<'f>(&'f self, fds: &mut Vec<PollFd<'f>>) {
        if self.fault.is_some() || self.logged_out && self.to_borrower.is_empty() {
            return;
        }
        let mut of_server = PollFlags::empty();
        if self.wants_response() {
            of_server |= PollFlags::IN;
        }
        if !self.to_server.is_empty() {
            of_server |= PollFlags::OUT;
        }
        if !of_server.is_empty() {
            fds.push(PollFd::from_borrowed_fd(self.transport.socket(), of_server));
        }
        if let Some(borrower) = &self.borrower {
            let mut flags = PollFlags::empty();
            if self.wants_command() {
                flags |= PollFlags::IN;
            }
            if !self.to_borrower.is_empty() {
                flags |= PollFlags::OUT;
            }
            if !flags.is_empty() {
                fds.push(PollFd::new(borrower, flags));
            }
        }
    }

    fn wants_response(&self) -> bool {
        !self.logged_out
            && self.to_borrower.has_room()
            && (self.borrower.is_some() || !self.pending.is_empty())
    }

    fn wants_command(&self) -> bool {
        self.to_server.has_room()
            && self.commands.under_way.len() < MOST_COMMANDS
            && self.answers.len() < ROOM
            && self.logout.is_none()
            && (!self.mailbox_open || self.pending.is_empty())
    }

    /// Carries what can be carried now, up to a bound.
    pub fn pump(&mut self) -> Flow {
        let mut buffer = std::mem::take(&mut self.buffer);
        let flow = self.carry(&mut buffer);
        self.buffer = buffer;
        flow
    }

    fn carry(&mut self, buffer: &mut [u8]) -> Flow {
        let mut flow = Flow::Still;
        let mut empty = ReadEmpty::default();
        for _ in 0..MOST_STEPS {
            if self.fault.is_some() {
                return flow;
            }
            match self.step(buffer, &mut empty) {
                Ok(true) => flow = Flow::Moved,
                Ok(false) => return flow,
                Err(fault) => {
                    // The borrower must not wait for an answer that will not come.
                    self.borrower = None;
                    self.fault = Some(fault);
                }
            }
        }
        Flow::More
    }

    /// One step in each direction; whether any byte moved.
    fn step(&mut self, buffer: &mut [u8], empty: &mut ReadEmpty) -> Result<bool, RelayFault> {
        let mut moved = false;
        if self.wants_response() && !empty.server {
            moved |= self.read_server(buffer, empty)?;
        }
        self.answer();
        if let Some(borrower) = &mut self.borrower {
            match self.to_borrower.write_to(|bytes| borrower.write(bytes)) {
                Ok(some) => moved |= some,
                Err(_) if self.logged_out => self.borrower = None,
                Err(_) => return Err(RelayFault::LeftEarly),
            }
        }
        if self.logged_out && self.to_borrower.is_empty() {
            // mbsync waits for it.
            self.borrower = None;
        }
        if self.wants_command() && !empty.borrower {
            moved |= self.read_borrower(buffer, empty)?;
        }
        let transport = &mut *self.transport;
        let written = self.to_server.write_to(|bytes| match transport.try_write(bytes) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count) => Ok(count),
            Err(error) => Err(error.into()),
        });
        let fault = |transport: &Transport| {
            RelayFault::Server(transport.trouble().cloned().unwrap_or(TransportError::Closed))
        };
        Ok(written.map_err(|_| fault(self.transport))? || moved)
    }

    fn read_server(
        &mut self,
        buffer: &mut [u8],
        empty: &mut ReadEmpty,
    ) -> Result<bool, RelayFault> {
        if !self.pending.is_empty() {
            let response = self.transport.try_response().map_err(RelayFault::Server)?;
            let Some(response) = response else { return Ok(false) };
            let passes = match parse::reply(&response) {
                Reply::Tagged(tag, _) if self.pending.remove(tag) => false,
                Reply::Tagged(tag, _) if self.commands.answered(tag) => true,
                Reply::Tagged(..) => {
                    return Err(RelayFault::Server(TransportError::Malformed(
                        "an answer to nothing",
                    )));
                }
                Reply::Condition(said) if said.verb == Verb::Bye => {
                    return Err(RelayFault::Server(TransportError::Closed));
                }
                // NOTIFY's last words. mbsync asks for no STATUS, and what changed
                // is seen when the watch begins again.
                Reply::Data(name, _) if name.eq_ignore_ascii_case(b"STATUS") => false,
                // A server may be at the borrower's command already: lost, this
                // would be mail that mbsync takes for gone.
                _ => !self.mailbox_open && self.attached,
            };
            if passes {
                self.to_borrower.push(&response);
            }
            return Ok(true);
        }
        // A record of TLS is never larger than this, however many there are; and
        // what the transport has buffered says nothing of the socket.
        let whole = !self.transport.is_tls() && self.transport.buffered() == 0;
        let count = self.transport.try_read(buffer).map_err(RelayFault::Server)?;
        empty.server = count == 0 || whole && count < buffer.len();
        let bytes = buffer.get(..count).unwrap_or_default();
        self.to_borrower.push(bytes);
        self.responses.take(bytes, |tag| self.commands.answered(tag))?;
        Ok(count > 0)
    }

    fn read_borrower(
        &mut self,
        buffer: &mut [u8],
        empty: &mut ReadEmpty,
    ) -> Result<bool, RelayFault> {
        let Some(borrower) = &mut self.borrower else { return Ok(false) };
        let count = match borrower.read(buffer) {
            Ok(0) => return Err(RelayFault::LeftEarly),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(_) => return Err(RelayFault::LeftEarly),
        };
        empty.borrower = count < buffer.len();
        let bytes = buffer.get(..count).unwrap_or_default();
        let Relay { commands, to_server, answers, logout, capabilities, namespace, .. } = self;
        commands.take(bytes, to_server, |tag, verb, whole| {
            let mut say = |parts: &[&[u8]]| parts.iter().for_each(|part| answers.extend(*part));
            match verb {
                b"LOGOUT" if whole => *logout = Some(tag.to_vec()),
                b"CAPABILITY" if whole => say(&[
                    b"* CAPABILITY ",
                    capabilities.as_bytes(),
                    b"\r\n",
                    tag,
                    b" OK from memory\r\n",
                ]),
                b"NAMESPACE" if whole && namespace.is_some() => {
                    say(&[namespace.as_deref().unwrap_or_default(), tag, b" OK from memory\r\n"]);
                }
                verb if NOT_TAKEN.contains(&verb) => {
                    say(&[tag, b" BAD not on a lent connection\r\n"]);
                }
                _ => return false,
            }
            true
        })?;
        Ok(true)
    }

    /// Puts our answers between the server's, never into one.
    fn answer(&mut self) {
        if !self.responses.is_between() {
            return;
        }
        if !self.answers.is_empty() {
            self.to_borrower.push(&self.answers);
            self.answers.clear();
        }
        if !self.commands.under_way.is_empty()
            || !self.pending.is_empty()
            || !self.commands.is_between()
        {
            return;
        }
        if let (Some(tag), false) = (&self.logout, self.logged_out) {
            self.to_borrower.push(b"* BYE\r\n");
            self.to_borrower.push(tag);
            self.to_borrower.push(b" OK the connection goes back\r\n");
            self.logged_out = true;
        }
    }
}

/// The borrower's commands, as far as they must be known.
#[derive(Debug, Default)]
struct Commands {
    line: Vec<u8>,
    /// Bytes of a literal still to come.
    literal: u64,
    /// The command that a literal belongs to, and whether the server's consent
    /// to it is waited for.
    within: Option<(Vec<u8>, bool)>,
    under_way: HashSet<Vec<u8>>,
}

impl Commands {
    fn is_between(&self) -> bool {
        self.line.is_empty() && self.literal == 0 && self.within.is_none()
    }

    /// Passes on what is not for us. `ours` gets the tag, the verb in upper case,
    /// and whether that was all; it says whether it has taken the command.
    fn take(
        &mut self,
        mut bytes: &[u8],
        to_server: &mut Queue,
        mut ours: impl FnMut(&[u8], &[u8], bool) -> bool,
    ) -> Result<(), RelayFault> {
        while !bytes.is_empty() {
            if self.literal > 0 {
                let count =
                    usize::try_from(self.literal).map_or(bytes.len(), |n| n.min(bytes.len()));
                let (literal, rest) = bytes.split_at(count);
                to_server.push(literal);
                self.literal -= count as u64;
                if let Some((_, waits)) = &mut self.within {
                    *waits = false;
                }
                bytes = rest;
                continue;
            }
            let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            self.line.extend_from_slice(part);
            bytes = rest;
            if self.line.len() > LONGEST_COMMAND {
                return Err(RelayFault::Borrower("a line too long"));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.whole_line(&line, to_server, &mut ours)?;
                self.line = line;
                self.line.clear();
            }
        }
        Ok(())
    }

    fn whole_line(
        &mut self,
        line: &[u8],
        to_server: &mut Queue,
        ours: &mut impl FnMut(&[u8], &[u8], bool) -> bool,
    ) -> Result<(), RelayFault> {
        let literal = literal_at_end(line);
        let tag = if let Some((tag, _)) = self.within.take() {
            tag
        } else {
            let mut words = line.trim_ascii_end().splitn(3, |&b| b == b' ');
            let tag = words.next().unwrap_or_default().to_vec();
            let verb = words.next().unwrap_or_default().to_ascii_uppercase();
            if tag.is_empty() || verb.is_empty() {
                return Err(RelayFault::Borrower("a line that is no command"));
            }
            if self.under_way.contains(&tag) {
                return Err(RelayFault::Borrower("a tag twice"));
            }
            if literal.is_none() && ours(&tag, &verb, words.next().is_none()) {
                return Ok(());
            }
            self.under_way.insert(tag.clone());
            tag
        };
        to_server.push(line);
        if let Some(Literal { length, waits }) = literal {
            self.literal = length;
            self.within = Some((tag, waits));
        }
        Ok(())
    }

    /// An answer to one of them; false to none.
    fn answered(&mut self, tag: &[u8]) -> bool {
        // Refused before its literal was sent, which will not come then.
        if self.within.as_ref().is_some_and(|(within, waits)| *waits && within == tag) {
            self.within = None;
            self.literal = 0;
        }
        self.under_way.remove(tag)
    }
}

/// Where the server's responses end.
#[derive(Debug, Default)]
struct Responses {
    head: Vec<u8>,
    tail: Vec<u8>,
    literal: u64,
    /// The line is not the response's first.
    further: bool,
}

impl Responses {
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.literal == 0 && !self.further
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        mut answered: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), RelayFault> {
        while !bytes.is_empty() {
            if self.literal > 0 {
                let count =
                    usize::try_from(self.literal).map_or(bytes.len(), |n| n.min(bytes.len()));
                self.literal -= count as u64;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            let room = HEAD.saturating_sub(self.head.len()).min(part.len());
            self.head.extend_from_slice(part.get(..room).unwrap_or_default());
            let last = part.get(part.len().saturating_sub(TAIL)..).unwrap_or_default();
            let excess = (self.tail.len() + last.len()).saturating_sub(TAIL);
            self.tail.drain(..excess.min(self.tail.len()));
            self.tail.extend_from_slice(last);
            if end.is_some() {
                self.whole_line(&mut answered)?;
                self.head.clear();
                self.tail.clear();
            }
        }
        Ok(())
    }

    fn whole_line(&mut self, answered: &mut impl FnMut(&[u8]) -> bool) -> Result<(), RelayFault> {
        let malformed = |how| Err(RelayFault::Server(TransportError::Malformed(how)));
        if !self.further {
            let mut words = self.head.split(u8::is_ascii_whitespace);
            let first = words.next().unwrap_or_default();
            match first {
                b"*" => {
                    let word = words.next().unwrap_or_default().to_ascii_uppercase();
                    match &word[..] {
                        b"BYE" => return Err(RelayFault::Server(TransportError::Closed)),
                        // Human-readable text, whatever it ends with.
                        b"OK" | b"NO" | b"BAD" | b"PREAUTH" => return Ok(()),
                        _ => {}
                    }
                }
                b"+" => return Ok(()),
                tag if answered(tag) => return Ok(()),
                _ => return malformed("an answer to nothing"),
            }
        }
        self.further = false;
        if let Some(literal) = literal_at_end(&self.tail) {
            self.literal = literal.length;
            self.further = true;
        }
        Ok(())
    }
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    gone: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    fn has_room(&self) -> bool {
        self.bytes.len() - self.gone < ROOM / 2
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.gone > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether any were taken.
    fn write_to(&mut self, mut to: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut some = false;
        while !self.is_empty() {
            match to(self.bytes.get(self.gone..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.gone += count;
                    some = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_empty() {
            self.bytes.clear();
            self.gone = 0;
        }
        Ok(some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::transport::Stream;
    use crate::os::wait::Cancel;
    use proptest::prelude::*;

    struct Lent {
        relay: Relay<'static>,
        server: UnixStream,
        borrower: UnixStream,
    }

    fn lent(pending: &[&str]) -> Lent {
        let (near, server) = UnixStream::pair().unwrap();
        let (theirs, borrower) = UnixStream::pair().unwrap();
        for each in [&near, &server, &borrower] {
            each.set_nonblocking(true).unwrap();
        }
        let capabilities =
            parse::capabilities(b"IMAP4REV1 UIDPLUS AUTH=PLAIN COMPRESS=DEFLATE STARTTLS NOTIFY");
        let transport = Transport::new(Stream::Pair(near), Cancel::new().unwrap());
        let mut relay = Relay::new(Detached {
            transport: Box::leak(Box::new(transport)),
            pending: pending.iter().map(|tag| tag.as_bytes().to_vec()).collect(),
            mailbox_open: false,
            capabilities: Box::leak(Box::new(capabilities)),
            namespace: Some(b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"),
        });
        assert!(relay.attach(theirs));
        let mut lease = Lent { relay, server, borrower };
        assert_eq!(
            lease.received(),
            "* PREAUTH [CAPABILITY IMAP4REV1 UIDPLUS] a lent connection\r\n"
        );
        lease
    }

    fn all(from: &mut UnixStream) -> String {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    impl Lent {
        fn says(&mut self, text: &str) {
            self.borrower.write_all(text.as_bytes()).unwrap();
            self.relay.pump();
        }

        fn answers(&mut self, text: &str) {
            self.server.write_all(text.as_bytes()).unwrap();
            self.relay.pump();
        }

        fn sent(&mut self) -> String {
            all(&mut self.server)
        }

        fn received(&mut self) -> String {
            all(&mut self.borrower)
        }
    }

    #[test]
    fn what_is_known_is_answered_here_and_the_rest_is_passed_on() {
        let mut lease = lent(&[]);
        lease.says("1 CAPABILITY\r\n2 NAMESPACE\r\n3 SELECT \"INBOX\"\r\n4 COMPRESS DEFLATE\r\n");
        assert_eq!(lease.sent(), "3 SELECT \"INBOX\"\r\n");
        assert_eq!(
            lease.received(),
            "* CAPABILITY IMAP4REV1 UIDPLUS\r\n1 OK from memory\r\n\
             * NAMESPACE ((\"\" \"/\")) NIL NIL\r\n2 OK from memory\r\n4 BAD not on a lent connection\r\n"
        );
        lease.answers("* 3 EXISTS\r\n3 OK [READ-WRITE] done {9}\r\n");
        assert_eq!(lease.received(), "* 3 EXISTS\r\n3 OK [READ-WRITE] done {9}\r\n");
        assert_eq!(lease.relay.finish(), Err(RelayFault::LeftEarly));
        lease.says("5 LOGOUT\r\n");
        assert_eq!(lease.sent(), "");
        assert_eq!(lease.received(), "* BYE\r\n5 OK the connection goes back\r\n");
        assert_eq!(lease.relay.finish(), Ok(()));
        // What comes now is for the next user of the connection.
        lease.answers("* 4 EXISTS\r\n");
        assert_eq!(lease.relay.transport.try_response().unwrap().unwrap().len(), 12);
    }

    #[test]
    fn logout_waits_for_what_is_under_way() {
        let mut lease = lent(&[]);
        lease.says("1 NOOP\r\n2 LOGOUT\r\n");
        assert_eq!((lease.sent().as_str(), lease.received().as_str()), ("1 NOOP\r\n", ""));
        lease.answers("* 1 FETCH (BODY[] {10}\r\n12345");
        assert!(lease.relay.finish().is_err());
        lease.answers("67890)\r\n1 OK\r\n* 2");
        assert!(lease.received().ends_with("1 OK\r\n* 2"), "an answer of ours within a response");
        assert!(lease.relay.finish().is_err());
        lease.answers(" EXISTS\r\n");
        assert!(lease.received().ends_with("* BYE\r\n2 OK the connection goes back\r\n"));
        assert_eq!(lease.relay.finish(), Ok(()));
    }

    #[test]
    fn answers_to_us_are_not_for_the_borrower() {
        let mut lease = lent(&["m1", "m2"]);
        lease.says("1 SELECT a\r\n");
        assert_eq!(lease.sent(), "1 SELECT a\r\n");
        lease.answers("* STATUS b (MESSAGES 1)\r\nm1 OK done\r\n* 2 RECENT\r\nm2 BAD NOTIFY\r\n* 7 EXISTS\r\n");
        assert_eq!(lease.received(), "* 2 RECENT\r\n* 7 EXISTS\r\n", "SELECT's own");
        lease.answers("1 OK\r\n");
        lease.says("2 LOGOUT\r\n");
        assert_eq!(lease.relay.finish(), Ok(()));
    }

    #[test]
    fn responses_about_our_mailbox_do_not_reach_the_borrower() {
        let mut lease = lent(&["m1", "m2"]);
        lease.relay.mailbox_open = true;
        lease.says("1 SELECT a\r\n");
        assert_eq!(lease.sent(), "");
        lease.answers("* 9 EXISTS\r\nm1 OK\r\n* 3 EXPUNGE\r\n");
        assert_eq!((lease.sent().as_str(), lease.received().as_str()), ("", ""));
        lease.answers("m2 OK UNSELECT\r\n");
        assert_eq!(lease.sent(), "1 SELECT a\r\n");
        lease.answers("* 7 EXISTS\r\n1 OK\r\n");
        assert_eq!(lease.received(), "* 7 EXISTS\r\n1 OK\r\n");
    }

    #[test]
    fn a_literal_is_no_command_and_a_refused_one_never_comes() {
        let mut lease = lent(&[]);
        lease.says("1 APPEND INBOX {20+}\r\nx LOGOUT\r\ny LOGOUT\r\n () {3}\r\n");
        assert_eq!(lease.sent(), "1 APPEND INBOX {20+}\r\nx LOGOUT\r\ny LOGOUT\r\n () {3}\r\n");
        lease.answers("1 NO quota\r\n");
        lease.says("2 LOGOUT\r\n");
        assert_eq!(lease.relay.finish(), Ok(()));
    }

    #[test]
    fn g10_a_side_that_breaks_imap_ends_the_lease() {
        for said in ["3 OK to nothing\r\n", "* BYE\r\n", "garbage\r\n"] {
            let mut lease = lent(&[]);
            lease.says("1 NOOP\r\n");
            lease.answers(said);
            assert!(matches!(lease.relay.finish(), Err(RelayFault::Server(_))), "{said}");
            let mut one = [0; 64];
            while lease.borrower.read(&mut one).unwrap() > 0 {}
        }
        for said in ["1\r\n", "1 NOOP\r\n1 NOOP\r\n", &"x".repeat(20_000)] {
            let mut lease = lent(&[]);
            lease.says(said);
            assert!(matches!(lease.relay.finish(), Err(RelayFault::Borrower(_))), "{said}");
        }
        let mut lease = lent(&[]);
        assert!(!lease.relay.attach(UnixStream::pair().unwrap().0), "a second one");
        drop(lease.borrower);
        assert_eq!(lease.relay.finish(), Err(RelayFault::LeftEarly));
    }

    #[test]
    fn a_side_that_does_not_read_is_not_read_from() {
        let mut lease = lent(&[]);
        lease.says("1 UID FETCH 1 (BODY.PEEK[])\r\n");
        let flood = vec![b'x'; 1 << 20];
        lease.answers("* 1 FETCH (BODY[] {1000000000}\r\n");
        for _ in 0..64 {
            let _ = lease.server.write(&flood);
            lease.relay.pump();
        }
        assert!(lease.relay.to_borrower.bytes.capacity() <= 2 * ROOM);
        assert!(lease.relay.to_server.bytes.capacity() <= 2 * ROOM);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn bytes_arrive_as_they_were_however_they_are_cut(
            sizes in proptest::collection::vec(0_usize..3000, 1..12),
            cuts in proptest::collection::vec(1_usize..700, 1..40),
        ) {
            let mut lease = lent(&["m9"]);
            let (mut commands, mut responses) = (String::new(), String::from("m9 OK\r\n"));
            for (at, size) in sizes.iter().enumerate() {
                let body = "5 OK {4}\r\n".repeat(size / 10 + 1);
                let body = &body[..*size];
                commands.extend([format!("{at} APPEND \"b{{7}}\" {{{size}+}}\r\n{body}\r\n")]);
                responses.extend([format!("* {at} FETCH (A {{{size}}}\r\n{body} B \"{{3}}\")\r\n{at} OK\r\n")]);
            }
            let (mut sent, mut received) = (String::new(), String::new());
            let pieces = |text: &str| {
                let mut rest = text.as_bytes().to_vec();
                cuts.iter().cycle().map_while(move |cut| {
                    let piece: Vec<u8> = rest.drain(..(*cut).min(rest.len())).collect();
                    (!piece.is_empty()).then(|| String::from_utf8(piece).unwrap())
                }).collect::<Vec<_>>()
            };
            for piece in pieces(&commands) {
                lease.says(&piece);
                sent.push_str(&lease.sent());
            }
            prop_assert_eq!(&sent, &commands);
            for piece in pieces(&responses) {
                lease.answers(&piece);
                received.push_str(&lease.received());
            }
            prop_assert_eq!(received, responses.trim_start_matches("m9 OK\r\n"));
            lease.says("z LOGOUT\r\n");
            prop_assert_eq!(lease.relay.finish(), Ok(()));
        }
    }
}
