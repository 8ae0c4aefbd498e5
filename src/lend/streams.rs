//! The two streams of a lent connection: the borrower's commands one way, the server's
//! responses the other. Both are lines and literals; each is parsed as far as the relay
//! has to know it, and passed on.
//!
//! Does not depend on: sockets, the relay's state, what a command asks for.

use super::relay::RelayFault;
use crate::imap::parse::{self, Literal, Reply, Verb, literal_at_end};
use crate::imap::transport::TransportError;
use crate::text::printable;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

/// Longest command line that is parsed; mbsync's are below 1100 bytes.
const LONGEST_COMMAND: usize = 16 * 1024;
/// Most refusals of messages whose words are kept.
const MOST_REFUSALS: usize = 200;
/// Longest line of a response; mbsync takes less than 100 000 bytes.
pub(super) const LONGEST_LINE: usize = 128 * 1024;
/// Most bytes kept for either side.
pub(super) const ROOM: usize = 128 * 1024;

/// Lines and literals, out of bytes that come in any pieces.
#[derive(Debug, Default)]
struct Splitter {
    /// What has come of a line that has not ended.
    line: Vec<u8>,
    /// Bytes of a literal still to come: what a line announces, its reader sets.
    literal: u64,
}

enum Piece<'a> {
    /// A part of one.
    Literal(&'a [u8]),
    /// With its end.
    Line(Cow<'a, [u8]>),
}

struct TooLong;

impl Splitter {
    fn is_between(&self) -> bool {
        self.line.is_empty() && self.literal == 0
    }

    /// Takes the next piece off `bytes`. `None`: there is no whole line in them.
    fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        longest_line: usize,
    ) -> Option<Result<Piece<'a>, TooLong>> {
        if bytes.is_empty() {
            return None;
        }
        if self.literal > 0 {
            let count = usize::try_from(self.literal).map_or(bytes.len(), |n| n.min(bytes.len()));
            let (literal, rest) = bytes.split_at(count);
            self.literal -= count as u64;
            *bytes = rest;
            return Some(Ok(Piece::Literal(literal)));
        }
        let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        *bytes = rest;
        if self.line.len() + part.len() > longest_line {
            return Some(Err(TooLong));
        }
        if end.is_some() && self.line.is_empty() {
            return Some(Ok(Piece::Line(part.into())));
        }
        self.line.extend_from_slice(part);
        end.map(|_| Ok(Piece::Line(std::mem::take(&mut self.line).into())))
    }
}

/// A command of the borrower's, or its first line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    pub tag: &'a [u8],
    /// In upper case.
    pub verb: &'a [u8],
    pub line: &'a [u8],
    /// It has no arguments.
    pub whole: bool,
    pub has_literal: bool,
}

/// What a command's answer means for the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandKind {
    /// APPEND.
    Stores,
    /// SELECT, EXAMINE.
    Opens,
    /// CLOSE, UNSELECT.
    Leaves,
    Other,
}

impl CommandKind {
    /// `verb` in upper case.
    fn of(verb: &[u8]) -> CommandKind {
        match verb {
            b"APPEND" => CommandKind::Stores,
            b"SELECT" | b"EXAMINE" => CommandKind::Opens,
            b"CLOSE" | b"UNSELECT" => CommandKind::Leaves,
            _ => CommandKind::Other,
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It goes to the server.
    Passes,
    /// It has gone there, and no more is looked at now.
    Sent,
    /// It is answered here.
    Answered,
    /// It is answered here, before anything after it is looked at.
    Held,
}

/// The borrower's commands, as far as they must be known.
#[derive(Debug, Default)]
pub(super) struct Commands {
    splitter: Splitter,
    /// The command that a literal belongs to, and whether the server's consent
    /// to it is waited for.
    within: Option<(Vec<u8>, bool)>,
    /// By tag.
    pub under_way: HashMap<Vec<u8>, CommandKind>,
    pub refusals: Vec<String>,
    /// A mailbox may be open.
    pub mailbox_open: bool,
}

impl Commands {
    pub fn new(mailbox_open: bool) -> Self {
        Commands { mailbox_open, ..Commands::default() }
    }

    pub fn is_between(&self) -> bool {
        self.splitter.is_between() && self.within.is_none()
    }

    /// Passes on what is not for us, and says how many of the bytes are dealt with. `ours`
    /// is given a command, whether another is under way, and the way to the server. One with
    /// a literal always passes.
    pub fn take(
        &mut self,
        all: &[u8],
        to_server: &mut Queue,
        mut ours: impl FnMut(Command<'_>, bool, &mut Queue) -> Taken,
    ) -> Result<usize, RelayFault> {
        let mut bytes = all;
        while let Some(piece) = self.splitter.next(&mut bytes, LONGEST_COMMAND) {
            match piece.map_err(|TooLong| RelayFault::Borrower("a line too long"))? {
                Piece::Literal(literal) => {
                    to_server.push(literal);
                    if let Some((_, waits)) = &mut self.within {
                        *waits = false;
                    }
                }
                Piece::Line(line) => {
                    let taken = self.whole_line(&line, to_server, &mut ours)?;
                    if matches!(taken, Taken::Held | Taken::Sent) {
                        break;
                    }
                }
            }
        }
        Ok(all.len() - bytes.len())
    }

    fn whole_line(
        &mut self,
        line: &[u8],
        to_server: &mut Queue,
        ours: &mut impl FnMut(Command<'_>, bool, &mut Queue) -> Taken,
    ) -> Result<Taken, RelayFault> {
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
            if self.under_way.contains_key(&tag) {
                return Err(RelayFault::Borrower("a tag twice"));
            }
            let (whole, has_literal) = (words.next().is_none(), literal.is_some());
            let command = Command { tag: &tag, verb: &verb, line, whole, has_literal };
            let taken = ours(command, self.under_way.is_empty(), to_server);
            if matches!(taken, Taken::Passes | Taken::Sent) {
                self.under_way.insert(tag.clone(), CommandKind::of(&verb));
            }
            if taken != Taken::Passes {
                return Ok(taken);
            }
            tag
        };
        to_server.push(line);
        if let Some(Literal { length, waits }) = literal {
            self.splitter.literal = length;
            self.within = Some((tag, waits));
        }
        Ok(Taken::Passes)
    }

    /// The first line of a response. Fails if it makes no sense.
    pub fn hear(&mut self, line: &[u8]) -> Result<(), RelayFault> {
        let mut words = line.split(u8::is_ascii_whitespace);
        match words.next().unwrap_or_default() {
            b"*" if words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"BYE")) => {
                Err(RelayFault::Server(TransportError::Closed))
            }
            b"*" | b"+" => Ok(()),
            tag if self.answered(tag, line) => Ok(()),
            _ => Err(RelayFault::Server(TransportError::Malformed("an answer to nothing"))),
        }
    }

    /// An answer to one of them; false to none.
    pub fn answered(&mut self, tag: &[u8], line: &[u8]) -> bool {
        // Refused before its literal was sent, which will not come then.
        if self.within.as_ref().is_some_and(|(within, waits)| *waits && within == tag) {
            self.within = None;
            self.splitter.literal = 0;
        }
        let Some(kind) = self.under_way.remove(tag) else { return false };
        if kind == CommandKind::Stores && self.refusals.len() < MOST_REFUSALS {
            self.refusals.extend(refusal(line));
        }
        let Reply::Tagged(_, said) = parse::reply(line) else { return true };
        match (kind, said.verb) {
            (CommandKind::Opens, verb) => self.mailbox_open = verb != Verb::No,
            (CommandKind::Leaves, Verb::Ok) => self.mailbox_open = false,
            _ => {}
        }
        true
    }
}

/// The server's words in a tagged NO.
fn refusal(line: &[u8]) -> Option<String> {
    let Reply::Tagged(_, said) = parse::reply(line) else { return None };
    let words = String::from_utf8_lossy(line);
    let words = words.splitn(3, ' ').nth(2).filter(|_| said.verb == Verb::No)?;
    Some(printable(words)).filter(|words| !words.is_empty())
}

/// A line of a FETCH response without its MODSEQ, which a server adds once CONDSTORE was
/// used on the connection (RFC 7162, 3.1): isync 1.5 does not take it.
fn without_modseq(line: &[u8]) -> Option<Vec<u8>> {
    const ITEM: &[u8] = b"MODSEQ (";
    let (mut quoted, mut escaped) = (false, false);
    let at = (0..line.len()).find(|&at| {
        match line.get(at) {
            _ if escaped => escaped = false,
            Some(b'\\') if quoted => escaped = true,
            Some(b'"') => quoted = !quoted,
            _ => {}
        }
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        !quoted
            && before.is_none_or(|byte| matches!(byte, b' ' | b'(' | b')'))
            && line.get(at..).is_some_and(|rest| rest.starts_with(ITEM))
    })?;
    let end = line.get(at..)?.iter().position(|&byte| byte == b')')? + at + 1;
    let (before, after) = (line.get(..at)?, line.get(end..)?);
    // One of the spaces around it goes along.
    let after = match after.strip_prefix(b" ") {
        Some(after) => return Some([before, after].concat()),
        None => after,
    };
    Some([before.strip_suffix(b" ").unwrap_or(before), after].concat())
}

/// Whether the first line of a response answers a command.
pub(super) fn is_tagged(line: &[u8]) -> bool {
    !matches!(line.first(), Some(b'*' | b'+'))
}

/// Where the server's responses and their lines end. A line is passed on when it is whole.
#[derive(Debug, Default)]
pub(super) struct Responses {
    splitter: Splitter,
    /// The line is not the response's first.
    further: bool,
    /// It is a FETCH.
    fetch: bool,
}

impl Responses {
    pub fn is_between(&self) -> bool {
        self.splitter.is_between() && !self.further
    }

    /// Passes on what is whole. `hear` is given the first line of each response.
    pub fn take(
        &mut self,
        mut bytes: &[u8],
        to_borrower: &mut Queue,
        mut hear: impl FnMut(&[u8]) -> Result<(), RelayFault>,
    ) -> Result<(), RelayFault> {
        while let Some(piece) = self.splitter.next(&mut bytes, LONGEST_LINE) {
            let too_long = |TooLong| RelayFault::Server(TransportError::TooMuch("a line"));
            match piece.map_err(too_long)? {
                Piece::Literal(literal) => to_borrower.push(literal),
                Piece::Line(line) => self.whole_line(&line, to_borrower, &mut hear)?,
            }
        }
        Ok(())
    }

    fn whole_line(
        &mut self,
        line: &[u8],
        to_borrower: &mut Queue,
        hear: &mut impl FnMut(&[u8]) -> Result<(), RelayFault>,
    ) -> Result<(), RelayFault> {
        let mut text = false;
        if !self.further {
            hear(line)?;
            let mut words = line.split(u8::is_ascii_whitespace);
            let (first, second, third) = (words.next(), words.next(), words.next());
            self.fetch = third.is_some_and(|word| word.eq_ignore_ascii_case(b"FETCH"));
            // Human-readable, whatever it ends with.
            text = first != Some(b"*")
                || second.is_some_and(|word| {
                    [&b"OK"[..], b"NO", b"BAD", b"PREAUTH"]
                        .iter()
                        .any(|verb| word.eq_ignore_ascii_case(verb))
                });
        }
        match without_modseq(line).filter(|_| self.fetch && !text) {
            Some(line) => to_borrower.push(&line),
            None => to_borrower.push(line),
        }
        let literal = literal_at_end(line).filter(|_| !text);
        self.further = literal.is_some();
        self.splitter.literal = literal.map_or(0, |literal| literal.length);
        Ok(())
    }
}

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub bytes: Vec<u8>,
    gone: usize,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.gone < ROOM / 2
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.gone > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether any were taken.
    pub fn write_to(&mut self, mut to: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
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

    #[test]
    fn isync_1_5_gets_no_modseq() {
        let stripped = |line: &str| without_modseq(line.as_bytes()).map(String::from_utf8);
        let line = "* 3 FETCH (UID 7 FLAGS (\\Seen))\r\n".to_owned();
        for with in [
            "* 3 FETCH (UID 7 FLAGS (\\Seen) MODSEQ (12))\r\n",
            "* 3 FETCH (UID 7 MODSEQ (12) FLAGS (\\Seen))\r\n",
            "* 3 FETCH (MODSEQ (12) UID 7 FLAGS (\\Seen))\r\n",
        ] {
            assert_eq!(stripped(with), Some(Ok(line.clone())));
        }
        assert_eq!(stripped(&line), None);
        let quoted = "* 3 FETCH (UID 7 BODY[] \"MODSEQ (1) \\\" MODSEQ (2)\")\r\n";
        assert_eq!(stripped(quoted), None);
        assert_eq!(stripped(" MODSEQ (12))\r\n"), Some(Ok(")\r\n".to_owned())));
    }
}
