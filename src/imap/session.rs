//! A logged-in connection and the questions asked over it.
//!
//! Knows commands and their answers. Knows nothing of local mail, of when to ask,
//! or of what follows from an answer. Commands run to their end under a
//! deadline; only [`Link::events`] never waits. What the server says unasked
//! meanwhile is kept and comes out of [`Link::events`].

use super::connect;
use super::login;
use super::parse::{self, Condition, Reply, Verb};
use super::secret::Asking;
use super::values::{Capabilities, Flags, Listed, Namespace, Status, UidSet, quoted};
use super::wire::{Interrupt, Limits, Shared, WireError};
use crate::account::Server;
use crate::outcome::{Exit, Failure};
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Commands sent before their answers are waited for.
const WINDOW: usize = 64;
/// Most events kept for [`Link::events`].
const HEARD: usize = 4096;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    /// The server said NO or BAD; the connection is as good as before.
    Refused(Answer),
    /// The connection is gone, and the [`Link`] with it.
    Lost(Failure),
}

impl LinkError {
    /// As a failure of the whole.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        match self {
            LinkError::Refused(answer) => Failure::new(Exit::Offline, answer.text),
            LinkError::Lost(failure) => failure,
        }
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LinkError::Refused(answer) => f.write_str(&answer.text),
            LinkError::Lost(failure) => f.write_str(&failure.text),
        }
    }
}

impl std::error::Error for LinkError {}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// OK, NO or BAD.
    pub verb: Verb,
    /// First word of the response code, upper case; empty without one.
    pub code: String,
    /// Command and answer, printable.
    pub text: String,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A mailbox (by its wire name) has this status now. May repeat the last one.
    Status(String, Status),
    /// Something came, went or changed in the selected mailbox.
    Selected,
    /// A mailbox was made, renamed, or is gone (`\NonExistent`).
    Listed(Listed),
    /// The server has given NOTIFY up, or said more than was kept: nothing that
    /// was not heard means anything; ask STATUS, and NOTIFY again or not.
    Overflow,
    /// The server has ended IDLE by itself.
    IdleEnded,
}

/// What is in one mailbox, by UIDs and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// UIDVALIDITY.
    pub uid_validity: Option<u32>,
    /// Whether `$Forwarded` can be kept there; `None`: not told (EXAMINE gives
    /// no permanent flags with Dovecot; SELECT does).
    pub forwarded: Option<bool>,
    /// All UIDs there are.
    pub uids: UidSet,
    /// Flags of those that changed since the given modification sequence, or
    /// of all of them; ascending by UID.
    pub flags: Vec<(u32, Flags)>,
    /// Whether `flags` covers all messages.
    pub all_flags: bool,
    /// STATUS after the look: what differs from it has happened since.
    pub after: Status,
}

/// How to open a mailbox for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Read-only.
    Examine,
    /// As mbsync opens it; the only way to learn the permanent flags. Takes
    /// \Recent from messages, as mbsync does.
    Select,
}

/// A command line, cut where the server must agree to a literal first.
#[derive(Clone)]
struct Line {
    chunks: Vec<Vec<u8>>,
}

impl Line {
    fn new(words: &str) -> Self {
        Line { chunks: vec![words.as_bytes().to_vec()] }
    }

    fn raw(mut self, words: &str) -> Self {
        self.push(words.as_bytes());
        self
    }

    /// A space and a string, in quotes or as a literal. Names that could break
    /// out of it (CR, LF, NUL) never get here: see [`Link::speakable`].
    fn string(mut self, text: &str, literal_plus: usize) -> Self {
        self.push(b" ");
        self.bare(text, literal_plus);
        self
    }

    fn bare(&mut self, text: &str, literal_plus: usize) {
        if let Some(quoted) = quoted(text) {
            self.push(&quoted);
            return;
        }
        let text = text.replace(['\r', '\n', '\0'], "");
        if text.len() <= literal_plus {
            self.push(format!("{{{}+}}\r\n{text}", text.len()).as_bytes());
        } else {
            self.push(format!("{{{}}}\r\n", text.len()).as_bytes());
            self.chunks.push(text.into_bytes());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(last) = self.chunks.last_mut() {
            last.extend_from_slice(bytes);
        }
    }

    fn then(mut self, other: Line) -> Self {
        let mut chunks = other.chunks.into_iter();
        self.push(&chunks.next().unwrap_or_default());
        self.chunks.extend(chunks);
        self
    }

    fn length(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    fn verb(&self) -> String {
        let first = self.chunks.first().map(Vec::as_slice).unwrap_or_default();
        let words = first.split(|b| *b == b' ').next().unwrap_or_default();
        String::from_utf8_lossy(words).into_owned()
    }
}

/// A logged-in connection.
pub struct Link {
    wire: Shared,
    session: imap::Session<Shared>,
    socket: OwnedFd,
    capabilities: Capabilities,
    place: String,
    step: Duration,
    tags: u32,
    selected: Option<(String, Opening)>,
    idling: Option<String>,
    /// NOTIFY is on.
    notified: bool,
    /// What the server answered to NAMESPACE, word for word.
    namespace: Option<Vec<u8>>,
    heard: VecDeque<Heard>,
}

/// What a relay has to know of the link that is lent.
#[derive(Debug)]
pub(super) struct Lending {
    /// Commands of ours that are not answered yet.
    pub ours: HashSet<Vec<u8>>,
    /// The whole response to NAMESPACE.
    pub namespace: Option<Vec<u8>>,
    /// To be polled.
    pub socket: OwnedFd,
}

impl Link {
    /// Connects and logs in, as the section says.
    ///
    /// Fails with the exit status that fits: 69 not reached, 77 refused, 75 for
    /// now, 78 wrong settings.
    pub fn open(server: &Server, may_prompt: bool, interrupt: &Interrupt) -> Result<Self, Failure> {
        let (mut wire, greeting) = connect::connect(server, interrupt)?;
        let asking = Asking {
            may_prompt,
            // Longer than a step: somebody may have to be asked.
            time: Duration::from_secs(60).max(connect::step(server)),
            interrupt: interrupt.clone(),
        };
        let after = login::log_in(&mut wire, greeting, server, &asking)?;
        let place = connect::place(server);
        let lost = |e: &WireError| connect::failure(&place, "login", e);
        let socket = rustix::io::fcntl_dupfd_cloexec(wire.socket(), 3)
            .map_err(|e| lost(&WireError::Io(std::io::Error::from(e).to_string())))?;
        let wire = Shared::new(wire);
        wire.answer_next_command();
        // Any word does: the command is not sent.
        let session = imap::Client::new(wire.clone())
            .login("-", "-")
            .map_err(|_| lost(&WireError::Malformed("no session")))?;
        let mut link = Link {
            wire,
            session,
            socket,
            capabilities: Capabilities::default(),
            place,
            step: connect::step(server),
            tags: 0,
            selected: None,
            idling: None,
            notified: false,
            namespace: None,
            heard: VecDeque::new(),
        };
        link.capabilities = match after {
            Some(capabilities) => capabilities,
            None => link.ask_capabilities().map_err(LinkError::into_failure)?,
        };
        Ok(link)
    }

    /// What the server can do, as said after login.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The server's name in messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// To be polled for input, only after [`Link::events`] has come back: TLS
    /// keeps bytes of its own.
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The wire itself, for a relay that carries somebody else's dialogue. Only
    /// when [`Link::is_quiet`]; afterwards [`Link::taken_back`].
    #[must_use]
    pub fn wire(&self) -> &Shared {
        &self.wire
    }

    /// Whether nothing is under way: no IDLE, no byte that nobody has read.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.idling.is_none() && self.wire.with(|w| w.buffered() == 0 && w.trouble().is_none())
    }

    /// Ends IDLE and NOTIFY and leaves the open mailbox, all without waiting for
    /// the answers: whoever has the wire next takes them from it.
    pub(super) fn lend(&mut self) -> Result<Lending, LinkError> {
        let mut ours: HashSet<Vec<u8>> = HashSet::new();
        let mut out = String::new();
        if let Some(tag) = self.idling.take() {
            ours.insert(tag.into_bytes());
            out.push_str("DONE\r\n");
        }
        let wanted = [("UNSELECT", self.selected.take().is_some()), ("NOTIFY NONE", self.notified)];
        for (command, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
            let tag = self.tag();
            out.push_str(&format!("{tag} {command}\r\n"));
            ours.insert(tag.into_bytes());
        }
        self.notified = false;
        let socket = rustix::io::fcntl_dupfd_cloexec(&self.socket, 3).map_err(|e| {
            self.lost("lending", &WireError::Io(std::io::Error::from(e).to_string()))
        })?;
        self.wire.with(|w| w.begin(Limits::unasked(self.step)));
        self.send("lending", out.as_bytes())?;
        Ok(Lending { ours, namespace: self.namespace.clone(), socket })
    }

    /// After the wire was lent: leaves whatever mailbox is open. Refusal is fine,
    /// for none may be.
    pub fn taken_back(&mut self) -> Result<(), LinkError> {
        self.idling = None;
        self.selected = None;
        self.heard.clear();
        match self.run(Line::new("UNSELECT"), self.small(), |_| false) {
            Ok(_) | Err(LinkError::Refused(_)) => Ok(()),
            Err(lost) => Err(lost),
        }
    }

    fn small(&self) -> Limits {
        Limits::small(self.step)
    }

    fn lost(&self, doing: &str, error: &WireError) -> LinkError {
        LinkError::Lost(connect::failure(&self.place, doing, error))
    }

    /// Kills the wire for what the server does.
    fn break_off(&self, doing: &str, how: &'static str) -> LinkError {
        let error = self.wire.with(|w| w.kill(WireError::Malformed(how)));
        self.lost(doing, &error)
    }

    fn ask_capabilities(&mut self) -> Result<Capabilities, LinkError> {
        self.wire.with(|w| w.begin(Limits::small(self.step)));
        let said = self.session.capabilities();
        self.settle_crate();
        match said {
            Ok(said) => {
                let words: Vec<String> = said
                    .iter()
                    .map(|c| match c {
                        imap_proto::Capability::Imap4rev1 => "IMAP4rev1".to_owned(),
                        imap_proto::Capability::Auth(mech) => format!("AUTH={mech}"),
                        imap_proto::Capability::Atom(atom) => atom.to_string(),
                    })
                    .collect();
                Ok(Capabilities::from_words(words.iter().map(String::as_bytes)))
            }
            Err(error) => Err(self.crate_error("CAPABILITY", &error)),
        }
    }

    /// Takes over what came beside the answer to the crate's command.
    fn settle_crate(&mut self) {
        for response in self.wire.take_aside() {
            self.note(&parse::reply(&response));
        }
        let _ = self.session.take_all_unsolicited();
    }

    fn crate_error(&self, doing: &str, error: &imap::Error) -> LinkError {
        let refused = |verb, code: String, text: &str| {
            LinkError::Refused(Answer {
                verb,
                code,
                text: format!("{doing}: {}", parse::printable(text)),
            })
        };
        match error {
            imap::Error::No(no) => refused(Verb::No, code_word(no.code.as_ref()), &no.information),
            imap::Error::Bad(bad) => {
                refused(Verb::Bad, code_word(bad.code.as_ref()), &bad.information)
            }
            _ => match self.wire.with(|w| w.trouble().cloned()) {
                Some(trouble) => self.lost(doing, &trouble),
                None => self.break_off(doing, "an answer that makes no sense"),
            },
        }
    }

    /// Keeps what the server says unasked.
    fn note(&mut self, reply: &Reply<'_>) {
        let heard = match reply {
            Reply::Data(name, rest) => match name.to_ascii_uppercase().as_slice() {
                b"STATUS" => parse::status(rest).map(|(name, status)| Heard::Status(name, status)),
                b"LIST" => parse::list(rest).map(Heard::Listed),
                b"VANISHED" => Some(Heard::Selected),
                _ => None,
            },
            Reply::Numbered(_, name, _) => matches!(
                name.to_ascii_uppercase().as_slice(),
                b"EXISTS" | b"EXPUNGE" | b"FETCH" | b"RECENT"
            )
            .then_some(Heard::Selected),
            Reply::Condition(said) if said.has_code("NOTIFICATIONOVERFLOW") => {
                Some(Heard::Overflow)
            }
            _ => None,
        };
        let Some(heard) = heard else { return };
        if heard == Heard::Selected && self.heard.back() == Some(&Heard::Selected) {
            return;
        }
        if self.heard.len() >= HEARD {
            self.heard.clear();
            self.heard.push_back(Heard::Overflow);
        }
        self.heard.push_back(heard);
    }

    /// What the server has said since the last call. Never waits.
    pub fn events(&mut self) -> Result<Vec<Heard>, LinkError> {
        // While nothing is asked there is no step; only a flood has a bound.
        self.wire.with(|w| w.begin(Limits::unasked(self.step)));
        loop {
            let response = self
                .wire
                .with(super::wire::Wire::try_response)
                .map_err(|e| self.lost("watching", &e))?;
            let Some(response) = response else { break };
            let reply = parse::reply(&response);
            match &reply {
                Reply::Condition(said) if said.verb == Verb::Bye => return Err(self.bye(said)),
                Reply::Tagged(tag, _) => {
                    let ours = self.idling.as_ref().is_some_and(|t| t.as_bytes() == *tag);
                    if !ours {
                        return Err(self.break_off("watching", "an answer to nothing we said"));
                    }
                    self.idling = None;
                    self.heard.push_back(Heard::IdleEnded);
                }
                reply => self.note(reply),
            }
        }
        Ok(self.heard.drain(..).collect())
    }

    fn bye(&self, said: &Condition<'_>) -> LinkError {
        let failure = login::bye(&self.place, said);
        self.wire.with(|w| w.kill(WireError::Closed));
        LinkError::Lost(failure)
    }

    fn tag(&mut self) -> String {
        self.tags = self.tags.wrapping_add(1);
        format!("m{}", self.tags)
    }

    /// One command to its end. `take` gets each untagged response, and says
    /// whether it was part of the answer.
    fn run(
        &mut self,
        line: Line,
        limits: Limits,
        mut take: impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<Answer, LinkError> {
        let answers = self.run_all(vec![line], limits, |reply| take(reply))?;
        match answers.into_iter().next() {
            Some(answer) if answer.verb == Verb::Ok => Ok(answer),
            Some(answer) => Err(LinkError::Refused(answer)),
            None => Err(self.break_off("command", "no answer")),
        }
    }

    /// Commands that do not depend on each other's answers, sent without waiting
    /// between them. The answers are in the commands' order.
    fn run_all(
        &mut self,
        lines: Vec<Line>,
        limits: Limits,
        mut take: impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<Vec<Answer>, LinkError> {
        if self.idling.is_some() {
            self.idle_done(Duration::from_secs(20))?;
        }
        self.wire.with(|w| w.begin(limits));
        let mut answers: Vec<Option<Answer>> = vec![None; lines.len()];
        let mut open: HashMap<Vec<u8>, (usize, String)> = HashMap::new();
        let mut lines = lines.into_iter().enumerate().peekable();
        while lines.peek().is_some() || !open.is_empty() {
            let mut out = Vec::new();
            let mut doing = String::new();
            while open.len() < WINDOW && out.len() < 8 * 1024 {
                let Some((at, line)) = lines.next() else { break };
                let tag = self.tag();
                doing = line.verb();
                out.extend_from_slice(tag.as_bytes());
                out.push(b' ');
                open.insert(tag.clone().into_bytes(), (at, doing.clone()));
                let mut chunks = line.chunks.into_iter();
                out.extend_from_slice(&chunks.next().unwrap_or_default());
                let mut refused = false;
                for chunk in chunks {
                    self.send(&doing, &std::mem::take(&mut out))?;
                    if !self.may_go_on(
                        &doing,
                        &mut open,
                        &mut answers,
                        &mut take,
                        tag.as_bytes(),
                    )? {
                        refused = true;
                        break;
                    }
                    out.extend_from_slice(&chunk);
                }
                if !refused {
                    out.extend_from_slice(b"\r\n");
                }
            }
            self.send(&doing, &out)?;
            // Half the window is let empty before more is sent.
            while open.len() > if lines.peek().is_some() { WINDOW / 2 } else { 0 } {
                self.hear(&doing, &mut open, &mut answers, &mut take)?;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn send(&mut self, doing: &str, bytes: &[u8]) -> Result<(), LinkError> {
        self.wire.with(|w| w.send(bytes)).map_err(|e| self.lost(doing, &e))
    }

    /// Waits for `+` to a literal. False if the command is refused instead.
    fn may_go_on(
        &mut self,
        doing: &str,
        open: &mut HashMap<Vec<u8>, (usize, String)>,
        answers: &mut [Option<Answer>],
        take: &mut impl FnMut(&Reply<'_>) -> bool,
        tag: &[u8],
    ) -> Result<bool, LinkError> {
        while open.contains_key(tag) {
            if self.hear(doing, open, answers, take)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes one response. True if it was a `+`.
    fn hear(
        &mut self,
        doing: &str,
        open: &mut HashMap<Vec<u8>, (usize, String)>,
        answers: &mut [Option<Answer>],
        take: &mut impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<bool, LinkError> {
        let response =
            self.wire.with(super::wire::Wire::response).map_err(|e| self.lost(doing, &e))?;
        let reply = parse::reply(&response);
        match &reply {
            Reply::Continue(_) => return Ok(true),
            Reply::Tagged(tag, said) => {
                let Some((at, doing)) = open.remove(*tag) else {
                    return Err(self.break_off(doing, "an answer to nothing we said"));
                };
                if let Some(slot) = answers.get_mut(at) {
                    *slot = Some(answer(&doing, said));
                }
            }
            Reply::Condition(said) if said.verb == Verb::Bye => return Err(self.bye(said)),
            reply => {
                if !take(reply) {
                    self.note(reply);
                }
            }
        }
        Ok(false)
    }

    /// NOOP, or DONE and IDLE again: whether the connection lives, known within
    /// `time`. For the moment after a sleep.
    pub fn probe(&mut self, time: Duration) -> Result<(), LinkError> {
        if self.idling.is_some() {
            self.idle_done(time)?;
            return self.idle_start();
        }
        self.run(Line::new("NOOP"), Limits::small(time), |_| false).map(|_| ())
    }

    /// Says goodbye and waits a little for the server to hear it.
    pub fn log_out(mut self) {
        if self.idling.is_none() || self.idle_done(Duration::from_secs(1)).is_ok() {
            let limits = Limits::small(Duration::from_secs(1));
            let _ = self.run(Line::new("LOGOUT"), limits, |_| false);
        }
    }

    /// The first personal namespace; empty where the server has none to tell.
    pub fn namespace(&mut self) -> Result<Namespace, LinkError> {
        if !self.capabilities.namespace() {
            return Ok(Namespace::default());
        }
        let (mut found, mut said) = (None, None);
        self.run(Line::new("NAMESPACE"), self.small(), |reply| match reply {
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"NAMESPACE") => {
                found = parse::namespace(rest);
                said = Some([&b"* NAMESPACE "[..], rest, b"\r\n"].concat());
                true
            }
            _ => false,
        })?;
        self.namespace = said.filter(|said| said.len() < 4096);
        Ok(found.unwrap_or_default())
    }

    /// The mailboxes whose wire names begin with `prefix`, with their special use
    /// where the server tells.
    pub fn list(&mut self, prefix: &str) -> Result<Vec<Listed>, LinkError> {
        let plus = self.capabilities.literal_plus();
        let mut line = Line::new("LIST \"\"").string(&format!("{prefix}*"), plus);
        if self.capabilities.special_use() {
            line = line.raw(" RETURN (SPECIAL-USE)");
        }
        let limits = Limits::bulk(self.step);
        let mut found: Vec<Listed> = Vec::new();
        self.run(line, limits, |reply| match reply {
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"LIST") => {
                if found.len() < 200_000 {
                    found.extend(parse::list(rest));
                }
                true
            }
            _ => false,
        })?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    fn status_items(&self) -> &'static str {
        if self.capabilities.condstore() {
            "(MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ)"
        } else {
            "(MESSAGES UIDNEXT UIDVALIDITY)"
        }
    }

    /// STATUS of these, by wire name; `None` for one that has none to tell (it
    /// does not exist, or may not be read). Many are asked for at once.
    pub fn status(&mut self, names: &[String]) -> Result<Vec<Option<Status>>, LinkError> {
        let mut known: HashMap<String, Option<Status>> =
            names.iter().map(|name| (name.clone(), None)).collect();
        let items = self.status_items();
        let limits = Limits::bulk(self.step);
        if self.capabilities.list_status() && names.len() > WINDOW {
            let line = Line::new("LIST \"\" \"*\" RETURN (STATUS ").raw(items).raw(")");
            let done = self.run(line, limits, |reply| {
                matches!(reply, Reply::Data(name, _) if name.eq_ignore_ascii_case(b"LIST"))
                    || take_status(reply, &mut known)
            });
            match done {
                Ok(_) | Err(LinkError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        let plus = self.capabilities.literal_plus();
        let mut asked: Vec<&String> =
            names.iter().filter(|name| known.get(*name) == Some(&None)).collect();
        asked.sort_unstable();
        asked.dedup();
        let lines = asked
            .iter()
            .map(|name| Line::new("STATUS").string(name, plus).raw(" ").raw(items))
            .collect();
        self.run_all(lines, limits, |reply| take_status(reply, &mut known))?;
        Ok(names.iter().map(|name| known.get(name).copied().flatten()).collect())
    }

    /// Opens a mailbox; says what it is like. It stays open.
    pub fn open_mailbox(&mut self, name: &str, opening: Opening) -> Result<Opened, LinkError> {
        if self.idling.is_some() {
            self.idle_done(Duration::from_secs(20))?;
        }
        self.selected = None;
        self.wire.with(|w| w.begin(Limits::small(self.step)));
        let (doing, said) = match opening {
            Opening::Examine => ("EXAMINE", self.session.examine(name)),
            Opening::Select => ("SELECT", self.session.select(name)),
        };
        self.settle_crate();
        let mailbox = said.map_err(|e| match e {
            imap::Error::Validate(_) => LinkError::Refused(Answer {
                verb: Verb::Bad,
                code: String::new(),
                text: format!("{doing}: a name that cannot be said"),
            }),
            e => self.crate_error(doing, &e),
        })?;
        self.selected = Some((name.to_owned(), opening));
        let forwarded = mailbox.permanent_flags.iter().any(|flag| match flag {
            imap::types::Flag::MayCreate => true,
            imap::types::Flag::Custom(word) => word.eq_ignore_ascii_case("$Forwarded"),
            _ => false,
        });
        Ok(Opened {
            status: Status {
                messages: Some(mailbox.exists),
                uid_next: mailbox.uid_next,
                uid_validity: mailbox.uid_validity,
                highest_mod_seq: mailbox.highest_mod_seq,
            },
            forwarded: (!mailbox.permanent_flags.is_empty()).then_some(forwarded),
        })
    }

    /// Leaves the open mailbox, without expunging anything in it.
    pub fn close_mailbox(&mut self) -> Result<(), LinkError> {
        for line in self.closing() {
            let answer = self.run(line, self.small(), |_| false);
            if let Err(lost @ LinkError::Lost(_)) = answer {
                return Err(lost);
            }
        }
        self.selected = None;
        self.heard.retain(|heard| *heard != Heard::Selected);
        Ok(())
    }

    /// The commands that leave the open mailbox. CLOSE expunges, but not a
    /// mailbox that was opened read-only (RFC 3501 §6.4.2).
    fn closing(&self) -> Vec<Line> {
        let Some((name, opening)) = &self.selected else { return Vec::new() };
        if self.capabilities.unselect() {
            return vec![Line::new("UNSELECT")];
        }
        match opening {
            Opening::Examine => vec![Line::new("CLOSE")],
            Opening::Select => {
                let plus = self.capabilities.literal_plus();
                vec![Line::new("EXAMINE").string(name, plus), Line::new("CLOSE")]
            }
        }
    }

    /// Looks into a mailbox: which messages there are, and the flags of those that
    /// changed since `since` (of all without it, or without CONDSTORE). Two
    /// round trips. The mailbox is left again, and its STATUS asked for, because
    /// a server tells nothing of a mailbox while it is open.
    pub fn look(
        &mut self,
        name: &str,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<Look, LinkError> {
        let opened = self.open_mailbox(name, opening)?;
        let since = since.filter(|m| *m > 0 && self.capabilities.condstore());
        let mut look = Look {
            uid_validity: opened.status.uid_validity,
            forwarded: opened.forwarded,
            uids: UidSet::default(),
            flags: Vec::new(),
            all_flags: since.is_none(),
            after: Status::default(),
        };
        let empty = opened.status.messages == Some(0);
        let answers = self.look_at(name, &mut look, since, empty)?;
        if since.is_some() && answers.get(1).is_some_and(|a| a.verb != Verb::Ok) {
            // NOMODSEQ, or a server that does not keep its word.
            self.open_mailbox(name, opening)?;
            look.flags.clear();
            look.all_flags = true;
            self.look_at(name, &mut look, None, empty)?;
        }
        look.flags.sort_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        look.flags.dedup_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        Ok(look)
    }

    fn look_at(
        &mut self,
        name: &str,
        look: &mut Look,
        since: Option<u64>,
        empty: bool,
    ) -> Result<Vec<Answer>, LinkError> {
        let esearch = self.capabilities.esearch();
        let mut lines = Vec::new();
        // An empty mailbox has no message 1, and some servers say BAD then.
        if !empty {
            lines.push(Line::new(if esearch {
                "UID SEARCH RETURN (ALL) ALL"
            } else {
                "UID SEARCH ALL"
            }));
            lines.push(Line::new("UID FETCH 1:* (FLAGS)"));
            if let (Some(since), Some(line)) = (since, lines.last_mut()) {
                line.push(format!(" (CHANGEDSINCE {since})").as_bytes());
            }
        }
        lines.extend(self.closing());
        let plus = self.capabilities.literal_plus();
        lines.push(Line::new("STATUS").string(name, plus).raw(" ").raw(self.status_items()));
        let search_tag = format!("m{}", self.tags.wrapping_add(1));
        let limits = Limits::bulk(self.step).long_lines();
        let mut after = HashMap::from([(name.to_owned(), None)]);
        let answers = self.run_all(lines, limits, |reply| match reply {
            Reply::Data(word, rest) => match word.to_ascii_uppercase().as_slice() {
                b"SEARCH" => {
                    look.uids.extend(&parse::search(trim(rest)));
                    true
                }
                b"ESEARCH" => match parse::esearch(trim(rest), &search_tag) {
                    Some(found) => {
                        look.uids.extend(&found);
                        true
                    }
                    None => false,
                },
                _ => take_status(reply, &mut after),
            },
            Reply::Numbered(_, word, rest) if word.eq_ignore_ascii_case(b"FETCH") => {
                match parse::fetch_flags(rest) {
                    Some(found) => {
                        look.flags.push(found);
                        true
                    }
                    None => false,
                }
            }
            _ => false,
        })?;
        self.selected = None;
        self.heard.retain(|heard| *heard != Heard::Selected);
        look.after = after.get(name).copied().flatten().unwrap_or_default();
        if !empty {
            if let Some(answer) = answers.first().filter(|a| a.verb != Verb::Ok) {
                return Err(LinkError::Refused(answer.clone()));
            }
            if let Some(answer) = answers.get(1).filter(|a| a.verb != Verb::Ok && since.is_none()) {
                return Err(LinkError::Refused(answer.clone()));
            }
        }
        Ok(answers)
    }

    /// Asks to be told of changes in these mailboxes, by wire name (RFC 5465),
    /// all on this connection, and of mailboxes that come and go. Gives their
    /// STATUS, of the moment at which the watch begins: no change falls between.
    /// A mailbox that does not exist is left out of it.
    ///
    /// Where there are too many to name (Dovecot 2.3 takes 100), all personal
    /// mailboxes are asked for, and events name others too.
    ///
    /// Refused where the server has no NOTIFY, or not for these mailboxes.
    pub fn notify(&mut self, names: &[String]) -> Result<Vec<(String, Status)>, LinkError> {
        const EVENTS: &str = "MessageNew MessageExpunge FlagChange";
        if self.selected.is_some() {
            self.close_mailbox()?;
        }
        let plus = self.capabilities.literal_plus();
        let mut listed = Line::new("(mailboxes (");
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                listed.push(b" ");
            }
            listed.bare(name, plus);
        }
        let listed = listed.raw(&format!(") ({EVENTS}))"));
        // RFC 7162 §4: a line should not be longer than 8192 bytes.
        let few = !names.is_empty() && listed.length() < 8000;
        let personal = Line::new(&format!("(personal ({EVENTS}"));
        let attempts = [
            few.then(|| listed.clone().raw(" (personal (MailboxName))")),
            few.then_some(listed),
            Some(personal.clone().raw(" MailboxName))")),
            Some(personal.raw("))")),
        ];
        let wanted: HashSet<&String> = names.iter().collect();
        let mut refusal = None;
        for attempt in attempts.into_iter().flatten() {
            let mut found = Vec::new();
            let mut overflow = false;
            let line = Line::new("NOTIFY SET STATUS ").then(attempt);
            let done = self.run(line, Limits::bulk(self.step), |reply| match reply {
                Reply::Data(word, rest) if word.eq_ignore_ascii_case(b"STATUS") => {
                    found.extend(parse::status(rest).filter(|(name, _)| wanted.contains(name)));
                    true
                }
                Reply::Condition(said) if said.has_code("NOTIFICATIONOVERFLOW") => {
                    overflow = true;
                    true
                }
                _ => false,
            });
            match done {
                Ok(answer) if !overflow && answer.code != "NOTIFICATIONOVERFLOW" => {
                    self.notified = true;
                    return Ok(found);
                }
                Ok(answer) | Err(LinkError::Refused(answer)) => refusal = Some(answer),
                Err(lost) => return Err(lost),
            }
        }
        match refusal {
            Some(answer) => Err(LinkError::Refused(answer)),
            None => Err(self.break_off("NOTIFY", "no answer")),
        }
    }

    /// Asks to be told of nothing any more.
    pub fn notify_none(&mut self) -> Result<(), LinkError> {
        self.notified = false;
        self.run(Line::new("NOTIFY NONE"), self.small(), |_| false).map(|_| ())
    }

    /// Whether IDLE is on.
    #[must_use]
    pub fn is_idling(&self) -> bool {
        self.idling.is_some()
    }

    /// Begins IDLE (RFC 2177): from now on the server speaks unasked. Commands
    /// end it by themselves.
    pub fn idle_start(&mut self) -> Result<(), LinkError> {
        if let Some(trouble) = self.wire.with(|w| w.trouble().cloned()) {
            return Err(self.lost("IDLE", &trouble));
        }
        if self.idling.is_some() {
            return Ok(());
        }
        self.wire.with(|w| w.begin(Limits::small(self.step)));
        let tag = self.tag();
        self.send("IDLE", format!("{tag} IDLE\r\n").as_bytes())?;
        let mut open = HashMap::from([(tag.clone().into_bytes(), (0, "IDLE".to_owned()))]);
        let mut answers = [None];
        if self.may_go_on("IDLE", &mut open, &mut answers, &mut |_| false, tag.as_bytes())? {
            self.idling = Some(tag);
            return Ok(());
        }
        match answers {
            [Some(answer)] if answer.verb != Verb::Ok => Err(LinkError::Refused(answer)),
            _ => Err(self.break_off("IDLE", "OK where a continuation is due")),
        }
    }

    /// Ends IDLE; the server must agree within `time`. What it says meanwhile
    /// comes out of [`Link::events`].
    pub fn idle_done(&mut self, time: Duration) -> Result<(), LinkError> {
        let Some(tag) = self.idling.take() else { return Ok(()) };
        self.wire.with(|w| w.begin(Limits::small(time)));
        self.send("DONE", b"DONE\r\n")?;
        let mut open = HashMap::from([(tag.into_bytes(), (0, "IDLE".to_owned()))]);
        let mut answers = [None];
        while !open.is_empty() {
            self.hear("DONE", &mut open, &mut answers, &mut |_| false)?;
        }
        Ok(())
    }
}

/// A mailbox as it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// What it said of itself.
    pub status: Status,
    /// Whether `$Forwarded` can be kept; `None`: not told.
    pub forwarded: Option<bool>,
}

fn answer(doing: &str, said: &Condition<'_>) -> Answer {
    let code = said.code.split(|b| *b == b' ').next().unwrap_or_default();
    Answer {
        verb: said.verb,
        code: parse::printable(&String::from_utf8_lossy(code)).to_ascii_uppercase(),
        text: format!("{doing}: {}", said.printable()),
    }
}

fn code_word(code: Option<&imap_proto::ResponseCode<'_>>) -> String {
    let text = code.map(|c| format!("{c:?}")).unwrap_or_default();
    text.chars().take_while(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase()
}

fn trim(rest: &[u8]) -> &[u8] {
    rest.trim_ascii_end()
}

/// Takes a STATUS of a mailbox that was asked for.
fn take_status(reply: &Reply<'_>, known: &mut HashMap<String, Option<Status>>) -> bool {
    let Reply::Data(word, rest) = reply else { return false };
    if !word.eq_ignore_ascii_case(b"STATUS") {
        return false;
    }
    let Some((name, status)) = parse::status(rest) else { return false };
    match known.get_mut(&name) {
        Some(slot) => {
            *slot = Some(slot.unwrap_or_default().overlaid(status));
            true
        }
        None => false,
    }
}
