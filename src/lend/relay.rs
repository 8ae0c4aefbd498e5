//! The relay: carries the dialogue of a server and another IMAP client (the
//! borrower) over a lent connection.
//!
//! It reads commands by tag and verb, and the lines of responses (`streams`); all passes
//! as it is, but for the fetches of flags that are answered here (`flags`), for MODSEQ,
//! and for deletions that were not judged (`deletions`). It greets with PREAUTH, answers
//! CAPABILITY and NAMESPACE from memory, and answers LOGOUT itself, for the connection
//! goes on. It never waits. Buffers are bounded: a side that does not read is not read
//! from.
//!
//! Does not depend on: mbsync, logins, what the borrower asks for and why.

use super::deletions::{DeletionGate, Passage};
use super::flags::{Decision, FlagsFetch, KnownFlags, Next, ScanByRun};
use super::streams::{Command, CommandKind, Commands, Queue, ROOM, Responses, Taken, is_tagged};
use crate::imap::client::Detached;
use crate::imap::parse::{self, Reply, Verb};
use crate::imap::transport::{Limits, Transport, TransportError};
use crate::sync::forms::WITHHELD;
use rustix::event::{PollFd, PollFlags};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Most bytes taken at once.
const CHUNK: usize = ROOM / 2;
/// Most commands under way before no more are taken.
const MOST_COMMANDS: usize = 1000;

/// Most bytes of responses to one command: the flags of 8 million messages take less, and
/// so does any message. A server that never ends its answer would have the run for ever,
/// for it moves bytes.
const MOST_UNANSWERED: u64 = 1 << 30;

/// A question in place of a fetch: no longer than one of mbsync's.
const ASKING: Duration = Duration::from_secs(60);

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

/// Capabilities that a lent connection does not have: they change what it is. isync 1.5
/// sends ENABLE UTF8=ACCEPT wherever that is offered, and fails where it is refused.
const NOT_LENT: [&str; 8] = [
    "STARTTLS",
    "LOGINDISABLED",
    "SASL-IR",
    "IDLE",
    "NOTIFY",
    "ENABLE",
    "UTF8=ACCEPT",
    "UTF8=ONLY",
];
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
    /// The borrower violates IMAP: how.
    Borrower(&'static str),
    /// The borrower was about to delete what nobody has judged.
    Withheld,
}

impl fmt::Display for RelayFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayFault::Server(error) => error.fmt(f),
            RelayFault::LeftEarly => f.write_str("it was left without LOGOUT"),
            RelayFault::Withheld => f.write_str(WITHHELD),
            RelayFault::Borrower(how) => write!(f, "its borrower violates IMAP: {how}"),
        }
    }
}

/// The words of `* CAPABILITY` for a borrower. Without NAMESPACE, mbsync knows no delimiter
/// unless it lists all mailboxes (isync 1.4 and 1.5, `drv_imap.c`).
fn lent_capabilities(words: &[String], namespace: bool) -> String {
    let fit = |word: &&String| {
        !NOT_LENT.contains(&word.as_str())
            && !word.starts_with("AUTH=")
            && !word.starts_with("COMPRESS")
    };
    let mut words: Vec<&str> = words.iter().filter(fit).map(String::as_str).collect();
    if namespace && !words.contains(&"NAMESPACE") {
        words.push("NAMESPACE");
    }
    words.join(" ")
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
    /// The borrower's fetches of flags.
    flags: FlagsFetch,
    deletions: DeletionGate<'c>,
    /// What the borrower has said after one that is held.
    unread: Vec<u8>,
    /// How many were read from the server and written to it.
    bytes: u64,
    /// How many were read since the server's last tagged response.
    unanswered: u64,
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
    /// `known`: what is known of flags, by the mailbox's wire name.
    pub fn new(
        detached: Detached<'c>,
        known: HashMap<String, KnownFlags>,
        deletions: DeletionGate<'c>,
    ) -> Self {
        let Detached { transport, pending, mailbox_open, capabilities, namespace } = detached;
        Relay {
            transport,
            pending,
            mailbox_open,
            capabilities: lent_capabilities(capabilities.words(), namespace.is_some()),
            namespace: namespace.map(<[u8]>::to_vec),
            borrower: None,
            attached: false,
            commands: Commands::new(mailbox_open),
            responses: Responses::default(),
            to_server: Queue::default(),
            to_borrower: Queue::default(),
            answers: Vec::new(),
            logout: None,
            logged_out: false,
            fault: None,
            flags: FlagsFetch::new(known),
            deletions,
            unread: Vec::new(),
            bytes: 0,
            unanswered: 0,
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

    /// Bytes moved between the server and us so far, in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that the server did not have to send.
    #[must_use]
    pub fn spared(&self) -> u64 {
        self.flags.spared()
    }

    /// The server's words for each message that it has refused to store, in order.
    pub fn refusals(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands.refusals)
    }

    /// What became of deletions.
    #[must_use]
    pub fn deletions(&self) -> &DeletionGate<'c> {
        &self.deletions
    }

    /// What the borrower was told of mailboxes in which it changed nothing.
    pub fn take_scans(&mut self) -> Vec<ScanByRun> {
        self.flags.take_scans()
    }

    /// Whether a mailbox may be open: in doubt it is.
    #[must_use]
    pub fn mailbox_open(&self) -> bool {
        self.commands.mailbox_open
    }

    /// Whether a borrower has come.
    #[must_use]
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
            && !self.flags.is_answering()
            && self.to_borrower.has_room()
            && (self.borrower.is_some() || !self.pending.is_empty())
    }

    fn wants_command(&self) -> bool {
        self.to_server.has_room()
            && self.commands.under_way.len() < MOST_COMMANDS
            && self.answers.len() < ROOM
            && self.logout.is_none()
            && !self.flags.is_asking()
            && !self.flags.is_answering()
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
        if self.flags.is_answering() && self.to_borrower.has_room() {
            self.to_borrower.push(&self.flags.give(CHUNK));
            moved = true;
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
        if self.wants_command() && (!empty.borrower || !self.unread.is_empty()) {
            moved |= self.read_borrower(buffer, empty)?;
        }
        let (transport, moved_bytes) = (&mut *self.transport, &mut self.bytes);
        let written = self.to_server.write_to(|bytes| match transport.try_write(bytes) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count) => {
                *moved_bytes += count as u64;
                Ok(count)
            }
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
        if self.flags.is_asking() && self.pending.is_empty() {
            return self.read_answer();
        }
        if !self.pending.is_empty() {
            let response = self.transport.try_response().map_err(RelayFault::Server)?;
            let Some(response) = response else { return Ok(false) };
            self.count(response.len(), is_tagged(&response))?;
            let passes = match parse::reply(&response) {
                Reply::Tagged(tag, _) if self.pending.remove(tag) => false,
                Reply::Tagged(tag, _) if self.commands.answered(tag, &response) => true,
                reply if self.flags.is_answer(&reply) => {
                    self.flags.hear(&response);
                    false
                }
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
                self.flags.overhear(&response);
                Responses::default().take(&response, &mut self.to_borrower, |_| Ok(()))?;
            }
            return Ok(true);
        }
        // A record of TLS is never larger than this, however many there are; and
        // what the transport has buffered says nothing of the socket.
        let whole = !self.transport.is_tls() && self.transport.buffered() == 0;
        let count = self.transport.try_read(buffer).map_err(RelayFault::Server)?;
        empty.server = count == 0 || whole && count < buffer.len();
        let bytes = buffer.get(..count).unwrap_or_default();
        let Relay { responses, commands, flags, to_borrower, .. } = self;
        let mut answered = false;
        responses.take(bytes, to_borrower, |line| {
            answered |= is_tagged(line);
            flags.overhear(line);
            commands.hear(line)
        })?;
        self.count(count, answered)?;
        Ok(count > 0)
    }

    /// Counts bytes read from the server, a tagged response among them or not.
    fn count(&mut self, bytes: usize, answered: bool) -> Result<(), RelayFault> {
        self.bytes += bytes as u64;
        self.unanswered = if answered { 0 } else { self.unanswered + bytes as u64 };
        if self.unanswered > MOST_UNANSWERED {
            return Err(RelayFault::Server(TransportError::TooMuch("responses")));
        }
        Ok(())
    }

    /// Reads a response while what is asked in place of a fetch is open.
    fn read_answer(&mut self) -> Result<bool, RelayFault> {
        let response = self.transport.try_response().map_err(RelayFault::Server)?;
        let Some(response) = response else { return Ok(false) };
        self.count(response.len(), is_tagged(&response))?;
        match self.flags.hear(&response) {
            Next::More | Next::Answer => {}
            Next::Pass => {
                self.commands.hear(&response)?;
                Responses::default().take(&response, &mut self.to_borrower, |_| Ok(()))?;
            }
            Next::GiveUp(tag, line) => {
                self.commands.under_way.insert(tag, CommandKind::Other);
                self.to_server.push(&line);
            }
        }
        Ok(true)
    }

    fn read_borrower(
        &mut self,
        buffer: &mut [u8],
        empty: &mut ReadEmpty,
    ) -> Result<bool, RelayFault> {
        let Some(borrower) = &mut self.borrower else { return Ok(false) };
        let mut input = std::mem::take(&mut self.unread);
        if input.is_empty() {
            let count = match borrower.read(buffer) {
                Ok(0) => return Err(RelayFault::LeftEarly),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
                Err(_) => return Err(RelayFault::LeftEarly),
            };
            empty.borrower = count < buffer.len();
            input.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        // A question of ours wants whole responses, and nothing else under way. Before a
        // SELECT the end of our IDLE may be, which says nothing of a mailbox: on a long line
        // it mostly is.
        let quiet = self.responses.is_between() && self.to_server.is_empty();
        let ours_are_answered = self.pending.is_empty();
        let Relay { commands, to_server, answers, logout, capabilities, namespace, .. } = self;
        let (flags, deletions) = (&mut self.flags, &mut self.deletions);
        let transport = &mut *self.transport;
        let mut ends = false;
        let taken = commands.take(&input, to_server, |command, at_rest, to_server| {
            let Command { tag, verb, line, whole, has_literal } = command;
            if has_literal {
                flags.command_with_literal();
                return Taken::Passes;
            }
            let mut say = |parts: &[&[u8]]| parts.iter().for_each(|part| answers.extend(*part));
            match verb {
                b"LOGOUT" if whole => {
                    *logout = Some(tag.to_vec());
                    // Nothing comes after it.
                    return Taken::Held;
                }
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
                _ => {
                    match deletions.passage(line) {
                        Passage::Free => {}
                        Passage::Refused => {
                            say(&[tag, b" NO ", WITHHELD.as_bytes(), b"\r\n"]);
                            return Taken::Answered;
                        }
                        Passage::Ended => {
                            ends = true;
                            return Taken::Held;
                        }
                    }
                    let at_rest = at_rest
                        && quiet
                        && answers.is_empty()
                        && (ours_are_answered || verb == b"SELECT");
                    return match flags.command(line, at_rest) {
                        Decision::PassAndAsk(question) => {
                            transport.begin(Limits::bulk(ASKING).long_lines());
                            to_server.push(line);
                            to_server.push(&question);
                            Taken::Sent
                        }
                        Decision::Answer => Taken::Held,
                        Decision::Leave if capabilities.split(' ').any(|it| it == "UNSELECT") => {
                            answers.extend([tag, b" OK nothing to expunge\r\n"].concat());
                            Taken::Answered
                        }
                        Decision::Pass | Decision::Leave => Taken::Passes,
                        Decision::Ask(question) => {
                            transport.begin(Limits::bulk(ASKING).long_lines());
                            to_server.push(&question);
                            Taken::Held
                        }
                    };
                }
            }
            Taken::Answered
        })?;
        if ends {
            return Err(RelayFault::Withheld);
        }
        self.unread = input.split_off(taken);
        Ok(true)
    }

    /// Puts our answers between the server's, never into one.
    fn answer(&mut self) {
        if !self.responses.is_between() || self.flags.is_answering() {
            return;
        }
        if !self.answers.is_empty() {
            self.to_borrower.push(&self.answers);
            self.answers.clear();
        }
        if !self.commands.under_way.is_empty()
            || !self.pending.is_empty()
            || self.flags.is_asking()
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

#[cfg(test)]
mod tests {
    use super::super::streams::LONGEST_LINE;
    use super::*;
    use crate::imap::transport::Stream;
    use crate::os::wait::Cancel;
    use crate::sync::judge::DeletionCheck;
    use proptest::prelude::*;

    struct Lent {
        relay: Relay<'static>,
        server: UnixStream,
        borrower: UnixStream,
    }

    /// Holds all.
    #[derive(Debug)]
    struct HoldsAll;

    impl DeletionCheck for HoldsAll {
        fn holds(&self, _: &str) -> bool {
            true
        }
    }

    fn lent(pending: &[&str]) -> Lent {
        lent_with(pending, HashMap::new())
    }

    fn lent_with(pending: &[&str], known: HashMap<String, KnownFlags>) -> Lent {
        let (near, server) = UnixStream::pair().unwrap();
        let (theirs, borrower) = UnixStream::pair().unwrap();
        for each in [&near, &server, &borrower] {
            each.set_nonblocking(true).unwrap();
        }
        let capabilities = parse::capabilities(
            b"IMAP4REV1 UIDPLUS AUTH=PLAIN COMPRESS=DEFLATE STARTTLS NOTIFY ENABLE UTF8=ACCEPT",
        );
        let transport = Transport::new(Stream::Tunnel(near, Box::new(())), Cancel::new().unwrap());
        let mut relay = Relay::new(
            Detached {
                transport: Box::leak(Box::new(transport)),
                pending: pending.iter().map(|tag| tag.as_bytes().to_vec()).collect(),
                mailbox_open: false,
                capabilities: Box::leak(Box::new(capabilities)),
                namespace: Some(b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"),
            },
            known,
            DeletionGate::new(&HoldsAll, vec![("held".into(), "c\nheld".into())]),
        );
        assert!(relay.attach(theirs));
        let mut lease = Lent { relay, server, borrower };
        assert_eq!(
            lease.received(),
            "* PREAUTH [CAPABILITY IMAP4REV1 UIDPLUS NAMESPACE] a lent connection\r\n"
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
            "* CAPABILITY IMAP4REV1 UIDPLUS NAMESPACE\r\n1 OK from memory\r\n\
             * NAMESPACE ((\"\" \"/\")) NIL NIL\r\n2 OK from memory\r\n4 BAD not on a lent connection\r\n"
        );
        lease.answers("* 3 EXISTS\r\n3 OK [READ-WRITE] done {9}\r\n");
        assert_eq!(lease.received(), "* 3 EXISTS\r\n3 OK [READ-WRITE] done {9}\r\n");
        assert_eq!(lease.relay.finish(), Err(RelayFault::LeftEarly));
        // What is answered here is not counted, what goes over the connection is.
        let moved = "3 SELECT \"INBOX\"\r\n* 3 EXISTS\r\n3 OK [READ-WRITE] done {9}\r\n";
        assert_eq!(lease.relay.bytes(), moved.len() as u64);
        lease.says("5 LOGOUT\r\n");
        assert_eq!(lease.sent(), "");
        assert_eq!(lease.received(), "* BYE\r\n5 OK the connection goes back\r\n");
        assert_eq!(lease.relay.finish(), Ok(()));
        // What comes now is for the next user of the connection.
        lease.answers("* 4 EXISTS\r\n");
        assert_eq!(lease.relay.transport.try_response().unwrap().unwrap().len(), 12);
    }

    #[test]
    fn g14_a_deletion_that_nobody_has_judged_does_not_reach_the_server() {
        let mut lease = lent(&[]);
        lease.says("1 SELECT \"INBOX\"\r\n2 UID STORE 1 +FLAGS.SILENT (\\Deleted)\r\n");
        lease.answers("1 OK [READ-WRITE] done\r\n2 OK done\r\n");
        assert!(lease.relay.deletions().refused() == 0);
        let stores = "4 UID STORE 1 +FLAGS.SILENT (\\Deleted)\r\n\
                      5 UID STORE 2 +FLAGS.SILENT (\\Deleted)\r\n";
        lease.says(&format!("3 SELECT \"held\"\r\n{stores}6 CLOSE\r\n"));
        assert!(lease.sent().ends_with("3 SELECT \"held\"\r\n6 CLOSE\r\n"));
        lease.answers("3 OK [READ-WRITE] done\r\n6 OK done\r\n");
        let received = lease.received();
        for tag in [4, 5] {
            assert!(received.contains(&format!("{tag} NO {WITHHELD}\r\n")), "{received}");
        }
        assert_eq!(lease.relay.deletions().refused(), 2);
        lease.says("7 LOGOUT\r\n");
        assert_eq!(lease.relay.finish(), Ok(()));
        // What was to go to the trash ends the run.
        let mut lease = lent(&[]);
        lease.says(&format!("3 SELECT \"held\"\r\n{stores}"));
        assert_eq!(lease.sent(), "3 SELECT \"held\"\r\n");
        lease.says("6 UID MOVE 1 \"Trash\"\r\n");
        assert_eq!(lease.sent(), "");
        assert_eq!(lease.relay.finish(), Err(RelayFault::Withheld));
    }

    #[test]
    fn modseq_is_taken_off_however_it_is_cut_and_only_in_a_fetch() {
        let mut lease = lent(&[]);
        lease.says("1 UID FETCH 7 (FLAGS BODY.PEEK[])\r\n");
        for part in
            ["* 3 FETCH (UID 7 MODS", "EQ (12) BODY[] {8}\r\nMODSEQ (", " MODSEQ (12", "))\r\n"]
        {
            lease.answers(part);
        }
        lease.answers("* OK MODSEQ (1) is no FETCH\r\n1 OK\r\n");
        let whole = "* 3 FETCH (UID 7 BODY[] {8}\r\nMODSEQ ()\r\n";
        assert_eq!(lease.received(), format!("{whole}* OK MODSEQ (1) is no FETCH\r\n1 OK\r\n"));
    }

    #[test]
    fn logout_waits_for_what_is_under_way() {
        let mut lease = lent(&[]);
        lease.says("1 NOOP\r\n2 LOGOUT\r\n3 NOOP\r\nx");
        assert_eq!((lease.sent().as_str(), lease.received().as_str()), ("1 NOOP\r\n", ""));
        lease.answers("* 1 FETCH (BODY[] {10}\r\n12345");
        assert!(lease.relay.finish().is_err());
        lease.answers("67890)\r\n1 OK\r\n* 2");
        assert!(lease.received().ends_with("1 OK\r\n"), "an answer of ours within a response");
        assert!(lease.relay.finish().is_err());
        lease.answers(" EXISTS\r\n");
        let end = "* 2 EXISTS\r\n* BYE\r\n2 OK the connection goes back\r\n";
        assert_eq!(lease.received(), end);
        assert_eq!(lease.relay.finish(), Ok(()));
    }

    #[test]
    fn isync_1_5_gets_no_modseq_in_whatever_pieces_a_response_comes() {
        let said = "* 3 FETCH (UID 7 MODSEQ (12) FLAGS (\\Seen))\r\n1 OK\r\n";
        for cut in 1..said.len() {
            for pending in [&[][..], &["m1"]] {
                let mut lease = lent(pending);
                lease.says("1 UID FETCH 1:* (FLAGS)\r\n");
                let (first, rest) = said.split_at(cut);
                lease.answers(first);
                lease.answers(rest);
                assert_eq!(lease.received(), "* 3 FETCH (UID 7 FLAGS (\\Seen))\r\n1 OK\r\n");
            }
        }
        // One that is too long for mbsync is not kept either.
        let mut lease = lent(&[]);
        for _ in 0..=LONGEST_LINE / 1024 {
            lease.answers(&"x".repeat(1024));
        }
        let fault = RelayFault::Server(TransportError::TooMuch("a line"));
        assert_eq!(lease.relay.finish(), Err(fault));
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
    fn what_is_asked_goes_with_the_select_and_a_close_stays_here() {
        let (_dir, known) = crate::lend::flags::tests::known();
        let mut lease = lent_with(&["m1"], HashMap::from([("INBOX".to_owned(), known)]));
        lease.relay.capabilities.push_str(" UNSELECT");
        lease.says("1 SELECT \"INBOX\"\r\n2 UID FETCH 1:11 (UID FLAGS)\r\n");
        let asked = "1 SELECT \"INBOX\"\r\nk1 UID SEARCH RETURN (ALL) ALL\r\n\
                     k2 UID FETCH 1:* (UID FLAGS) (CHANGEDSINCE 50)\r\n";
        assert_eq!(lease.sent(), asked);
        let opened = "* 10 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 12] n\r\n\
                      * OK [HIGHESTMODSEQ 60] h\r\n1 OK [READ-WRITE] done\r\n";
        lease.answers(&format!("m1 OK NOTIFY\r\n{opened}* ESEARCH (TAG \"k1\") UID ALL 1:10\r\n"));
        assert_eq!(lease.received(), opened);
        lease.answers("k1 OK\r\n* 2 FETCH (UID 2 FLAGS (\\Draft) MODSEQ (60))\r\nk2 O");
        assert_eq!(lease.received(), "");
        lease.answers("K done\r\n");
        let received = lease.received();
        assert_eq!(received.lines().count(), 11, "{received}");
        assert!(received.contains("* 2 FETCH (UID 2 FLAGS (\\Draft))\r\n"), "{received}");
        lease.says("3 CLOSE\r\n4 LOGOUT\r\n");
        let end = "3 OK nothing to expunge\r\n* BYE\r\n4 OK the connection goes back\r\n";
        assert_eq!((lease.sent().as_str(), lease.received().as_str()), ("", end));
        assert_eq!(lease.relay.finish(), Ok(()));
        assert!(lease.relay.mailbox_open());
        assert_eq!(lease.relay.take_scans().len(), 1);
    }

    #[test]
    fn whether_a_mailbox_is_left_open_is_known() {
        let mut lease = lent(&[]);
        assert!(!lease.relay.mailbox_open());
        for (command, answer, open) in [
            ("SELECT a", "OK", true),
            ("NOOP", "OK", true),
            ("CLOSE", "NO", true),
            ("CLOSE", "OK [CLOSED]", false),
            ("UNSELECT", "BAD", false),
            ("EXAMINE {1+}\r\na", "OK", true),
            ("SELECT b", "NO", false),
            ("SELECT b", "BAD", true),
            ("UNSELECT", "OK", false),
        ] {
            lease.says(&format!("1 {command}\r\n"));
            lease.answers(&format!("1 {answer} so\r\n"));
            assert_eq!(lease.relay.mailbox_open(), open, "{command} {answer}");
        }
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
    fn the_words_of_a_refused_message_are_kept() {
        let mut lease = lent(&[]);
        lease.says(
            "1 APPEND a {1+}\r\nx\r\n2 APPEND a {1+}\r\nx\r\n3 NOOP\r\n4 APPEND a {1+}\r\nx\r\n",
        );
        lease.answers("1 OK\r\n2 no [OVERQUOTA] full\u{1b}[2J\r\n3 NO not this\r\n");
        lease.answers("4 NO ");
        lease.answers(&format!("{}\r\n", "x".repeat(9000)));
        let refusals = lease.relay.refusals();
        assert_eq!(refusals[0], "[OVERQUOTA] full[2J");
        assert!(refusals[1].len() == 200 && refusals.len() == 2, "{refusals:?}");
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
    fn g9_an_answer_that_does_not_end_is_given_up() {
        let part = "* 1 FETCH (FLAGS ())\r\n";
        let length = part.len() as u64;
        for pending in [&[][..], &["m1"]] {
            let mut lease = lent(pending);
            lease.says("1 UID FETCH 1:* (FLAGS)\r\n");
            lease.relay.unanswered = MOST_UNANSWERED - length;
            lease.answers(&format!("{part}1 OK\r\n"));
            assert_eq!(lease.relay.unanswered, 0);
            lease.relay.unanswered = MOST_UNANSWERED - length;
            lease.says("2 UID FETCH 1:* (FLAGS)\r\n");
            lease.answers(part);
            assert_eq!(lease.relay.fault, None);
            lease.answers(part);
            let fault = RelayFault::Server(TransportError::TooMuch("responses"));
            assert_eq!(lease.relay.finish(), Err(fault));
        }
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
