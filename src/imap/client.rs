//! A logged-in connection and its commands.
//!
//! Commands end under a deadline; only [`Client::events`] never waits. What the
//! server sends meanwhile without being asked is kept for [`Client::events`].
//!
//! Does not depend on: local mail, when to ask, what follows from an answer.

use super::connect::connect_by_steps;
use super::credentials::{PromptPolicy, Reading};
use super::endpoint::{place, step, step_failed};
use super::greeting::goodbye;
use super::login::log_in;
use super::parse::{self, Condition, Reply, Verb};
use super::session::{self, SessionError};
use super::transport::{Limits, Transport, TransportError};
use super::values::{Answer, Capabilities, Listed, MailboxStatus, Opening, quoted};
use crate::error::{Error, ErrorKind, ExitStatus};
use crate::model::Server;
use crate::os::child::Prompt;
use crate::os::wait::Cancel;
use crate::text::printable;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Commands sent before their answers are waited for.
pub(super) const WINDOW: usize = 64;
/// Most events kept for [`Client::events`].
const MOST_EVENTS: usize = 4096;
/// How long a password command may take.
const ASKING: Duration = Duration::from_secs(60);
/// The same where it may ask on the terminal.
const ASKING_AT_TERMINAL: Duration = Duration::from_secs(300);
/// How long the server may take to end IDLE.
const IDLE_DONE: Duration = Duration::from_secs(20);

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// The server said NO or BAD; the connection is as good as before.
    Refused(Answer),
    /// The connection is gone, and the [`Client`] with it.
    Lost(Error),
}

impl ClientError {
    /// As a failure of the whole.
    #[must_use]
    pub fn into_error(self) -> Error {
        match self {
            ClientError::Refused(answer) => Error::new(ExitStatus::Offline, answer.text),
            ClientError::Lost(failure) => failure,
        }
    }
}

/// The answer; `None` if it is a refusal.
pub fn unless_refused<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::Refused(_)) => Ok(None),
        Err(lost) => Err(lost),
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Refused(answer) => f.write_str(&answer.text),
            ClientError::Lost(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// A mailbox (by its wire name) has this status now. May repeat the last one.
    Status(String, MailboxStatus),
    /// Something came, went or changed in the selected mailbox.
    Selected,
    /// A mailbox was made, renamed, or is gone (`\NonExistent`).
    Listed(Listed),
    /// The server has given NOTIFY up, or said more than was kept: nothing that
    /// did not come means anything; ask STATUS, and NOTIFY again or not.
    Overflow,
    /// The server has ended IDLE by itself.
    IdleEnded,
}

/// A command line, cut where the server must agree to a literal first.
#[derive(Clone)]
pub(super) struct Line {
    chunks: Vec<Vec<u8>>,
}

impl Line {
    pub(super) fn new(words: &str) -> Self {
        Line { chunks: vec![words.as_bytes().to_vec()] }
    }

    pub(super) fn raw(mut self, words: &str) -> Self {
        self.push(words.as_bytes());
        self
    }

    /// A space and a string, in quotes or as a literal. CR, LF and NUL are left
    /// out, so that no text can end the command.
    pub(super) fn string(mut self, text: &str, literal_plus: usize) -> Self {
        self.push(b" ");
        self.bare(text, literal_plus);
        self
    }

    pub(super) fn bare(&mut self, text: &str, literal_plus: usize) {
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

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(last) = self.chunks.last_mut() {
            last.extend_from_slice(bytes);
        }
    }

    pub(super) fn then(mut self, other: Line) -> Self {
        let mut chunks = other.chunks.into_iter();
        self.push(&chunks.next().unwrap_or_default());
        self.chunks.extend(chunks);
        self
    }

    pub(super) fn length(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    fn verb(&self) -> String {
        let first = self.chunks.first().map(Vec::as_slice).unwrap_or_default();
        let words = first.split(|b| *b == b' ').next().unwrap_or_default();
        String::from_utf8_lossy(words).into_owned()
    }
}

/// Commands that were sent, and their answers so far.
pub(super) struct PendingCommands {
    /// By tag: the command's place and verb.
    pub(super) open: HashMap<Vec<u8>, (usize, String)>,
    pub(super) answers: Vec<Option<Answer>>,
    /// The first command without an answer.
    first: usize,
    /// The tag of an IDLE that was ended before them, and the limits of what follows its
    /// answer: what comes before is not theirs.
    idle: Option<(Vec<u8>, Limits)>,
}

impl PendingCommands {
    fn new(commands: usize) -> Self {
        PendingCommands {
            open: HashMap::new(),
            answers: vec![None; commands],
            first: 0,
            idle: None,
        }
    }

    fn is_over(&self) -> bool {
        self.open.is_empty() && self.idle.is_none()
    }

    /// One command.
    pub(super) fn one(tag: String, verb: &str) -> Self {
        let open = HashMap::from([(tag.into_bytes(), (0, verb.to_owned()))]);
        PendingCommands { open, ..PendingCommands::new(1) }
    }

    /// Takes the answer to one. False if no command has this tag.
    fn answered(&mut self, tag: &[u8], said: &Condition<'_>) -> bool {
        let Some((at, verb)) = self.open.remove(tag) else { return false };
        if let Some(slot) = self.answers.get_mut(at) {
            *slot = Some(answer(&verb, said));
        }
        while self.answers.get(self.first).is_some_and(Option::is_some) {
            self.first += 1;
        }
        true
    }
}

/// A connection that another client speaks on.
pub struct Detached<'c> {
    /// The connection itself.
    pub transport: &'c mut Transport,
    /// Tags of our commands that are not answered yet.
    pub pending: HashSet<Vec<u8>>,
    /// While they are pending, a mailbox of ours is still open.
    pub mailbox_open: bool,
    /// What the server can do.
    pub capabilities: &'c Capabilities,
    /// The answer to NAMESPACE, word for word.
    pub namespace: Option<&'c [u8]>,
}

/// A logged-in connection.
pub struct Client {
    pub(super) transport: Transport,
    pub(super) capabilities: Capabilities,
    place: String,
    pub(super) step: Duration,
    pub(super) tags: u32,
    pub(super) selected: Option<(String, Opening)>,
    pub(super) idling: Option<String>,
    /// How long the server may take to end the IDLE that is on.
    pub(super) idle_end: Duration,
    /// NOTIFY is on.
    pub(super) notified: bool,
    /// See [`Client::notified_by_name`].
    pub(super) notified_by_name: bool,
    /// What the server answered to NAMESPACE, word for word; where it has none, what LIST
    /// shows put into the same words.
    pub(super) namespace: Option<Vec<u8>>,
    /// It has refused `LIST … RETURN (STATUS …)`.
    pub(super) list_status_refused: bool,
    pub(super) events: VecDeque<ServerEvent>,
}

impl Client {
    /// Connects and logs in, as the section says.
    ///
    /// Fails with the exit status that fits: 69 not reached, 77 refused, 75 for
    /// now, 78 wrong settings.
    pub fn open(server: &Server, prompt: Prompt, interrupt: &Cancel) -> Result<Self, Error> {
        Self::open_aloud(server, prompt, None, interrupt)
    }

    /// The same. A user at the terminal is told when a command of this account takes long.
    pub fn open_aloud(
        server: &Server,
        prompt: Prompt,
        account: Option<&str>,
        interrupt: &Cancel,
    ) -> Result<Self, Error> {
        Self::open_by_steps(server, prompt, account, interrupt).map_err(|error| {
            let error = if server.tunnel.is_some() { error.as_costly() } else { error };
            error.at(&place(server))
        })
    }

    /// The same, for a caller that names the server itself.
    pub fn open_by_steps(
        server: &Server,
        prompt: Prompt,
        account: Option<&str>,
        interrupt: &Cancel,
    ) -> Result<Self, Error> {
        let (mut transport, greeting) = connect_by_steps(server, interrupt)?;
        // Longer than a step: the user may have to be asked, and at a terminal may
        // have to look for a key first.
        let time = if prompt == Prompt::Terminal { ASKING_AT_TERMINAL } else { ASKING };
        let asking = PromptPolicy {
            prompt,
            time: time.max(step(server)),
            cancel: interrupt.clone(),
            reading: Reading::Whole,
            told_of: account.map(str::to_owned),
        };
        let said = log_in(&mut transport, greeting, server, &asking)?;
        let mut client = Client::over(transport, Capabilities::default(), server);
        client.capabilities = match said {
            Some(capabilities) => capabilities,
            None => client
                .by_session("CAPABILITY", client.small(), session::capabilities)
                .map_err(|error| error.into_error().as_costly())?,
        };
        Ok(client)
    }

    /// Over a connection that is logged in.
    #[must_use]
    pub fn over(transport: Transport, capabilities: Capabilities, server: &Server) -> Self {
        Client {
            transport,
            capabilities,
            place: place(server),
            step: step(server),
            tags: 0,
            selected: None,
            idling: None,
            idle_end: IDLE_DONE,
            notified: false,
            notified_by_name: false,
            namespace: None,
            list_status_refused: false,
            events: VecDeque::new(),
        }
    }

    /// What the server can do, as said after login.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn take_idle_end(&mut self) -> Duration {
        std::mem::replace(&mut self.idle_end, IDLE_DONE).min(self.step)
    }

    /// The connection below, to be looked at.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// To be polled for input, only after [`Client::events`] has come back: TLS
    /// keeps bytes of its own.
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.transport.socket()
    }

    /// Gives the connection to another IMAP client for a while: ends IDLE and
    /// NOTIFY and leaves the open mailbox, all without waiting for the answers.
    /// Afterwards, [`Client::reattach`].
    pub fn detach(&mut self) -> Result<Detached<'_>, ClientError> {
        if !self.capabilities.unselect() {
            self.close_mailbox()?;
        }
        let mut pending: HashSet<Vec<u8>> = HashSet::new();
        let mut out = Vec::new();
        if let Some(tag) = self.idling.take() {
            pending.insert(tag.into_bytes());
            out.extend_from_slice(b"DONE\r\n");
        }
        let mailbox_open = self.selected.take().is_some();
        for (command, _) in [("UNSELECT", mailbox_open), ("NOTIFY NONE", self.notified)]
            .iter()
            .filter(|(_, wanted)| *wanted)
        {
            let tag = self.tag();
            out.extend_from_slice(format!("{tag} {command}\r\n").as_bytes());
            pending.insert(tag.into_bytes());
        }
        self.notified = false;
        self.transport.begin(Limits::unasked(self.step));
        self.send("lending", &out)?;
        Ok(Detached {
            transport: &mut self.transport,
            pending,
            mailbox_open,
            capabilities: &self.capabilities,
            namespace: self.namespace.as_deref(),
        })
    }

    /// Takes the connection back. `mailbox_open`: the other client may have left a mailbox
    /// open. Refusal to leave it is fine, for none may be.
    pub fn reattach(&mut self, mailbox_open: bool) -> Result<(), ClientError> {
        self.idling = None;
        self.selected = None;
        self.events.clear();
        if !mailbox_open {
            return Ok(());
        }
        let left = if self.capabilities.unselect() {
            self.run(Line::new("UNSELECT"), self.small(), |_| false).map(|_| ())
        } else {
            // EXAMINE leaves what is open, and CLOSE after it expunges nothing (RFC 3501 §6.4.2).
            self.open_mailbox("INBOX", Opening::Examine).and_then(|_| self.close_mailbox())
        };
        unless_refused(left).map(drop)
    }

    /// Whether this mailbox is the open one.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        self.selected.as_ref().is_some_and(|(open, _)| open == name)
    }

    pub(super) fn small(&self) -> Limits {
        Limits::small(self.step)
    }

    pub(super) fn lost(&self, doing: &str, error: &TransportError) -> ClientError {
        ClientError::Lost(step_failed(doing, error).at(&self.place))
    }

    /// Ends the connection for what the server does.
    pub(super) fn break_off(&mut self, doing: &str, how: &'static str) -> ClientError {
        let error = self.transport.kill(TransportError::Malformed(how));
        self.lost(doing, &error)
    }

    /// One command of the `imap` crate's; what came beside its answer is recorded.
    pub(super) fn by_session<T>(
        &mut self,
        doing: &str,
        limits: Limits,
        command: impl FnOnce(&mut Transport, &str) -> session::Ran<T>,
    ) -> Result<T, ClientError> {
        if self.idling.is_some() {
            let time = self.take_idle_end();
            self.idle_done(time)?;
        }
        self.transport.begin(limits);
        let tag = self.tag();
        let ran = command(&mut self.transport, &tag);
        for response in ran.unasked {
            self.record(&parse::reply(&response));
        }
        if ran.overflowed {
            self.events.clear();
            self.events.push_back(ServerEvent::Overflow);
        }
        ran.result.map_err(|error| match error {
            SessionError::Refused(answer) if parse::is_session_dead(&answer.text) => {
                self.session_is_dead(&answer.text)
            }
            SessionError::Refused(answer) => ClientError::Refused(answer),
            SessionError::Goodbye(_) => self.lost(doing, &TransportError::Closed),
            SessionError::Lost(error) => self.lost(doing, &error),
        })
    }

    /// Keeps what the server says unasked.
    fn record(&mut self, reply: &Reply<'_>) {
        let event = match reply {
            Reply::Data(name, rest) => match name.to_ascii_uppercase().as_slice() {
                b"STATUS" => {
                    parse::status(rest).map(|(name, status)| ServerEvent::Status(name, status))
                }
                b"LIST" => parse::list(rest).map(ServerEvent::Listed),
                b"VANISHED" => Some(ServerEvent::Selected),
                _ => None,
            },
            Reply::Numbered(_, name, _) => matches!(
                name.to_ascii_uppercase().as_slice(),
                b"EXISTS" | b"EXPUNGE" | b"FETCH" | b"RECENT"
            )
            .then_some(ServerEvent::Selected),
            Reply::Condition(said) if said.has_code("NOTIFICATIONOVERFLOW") => {
                Some(ServerEvent::Overflow)
            }
            _ => None,
        };
        let Some(event) = event else { return };
        if event == ServerEvent::Selected && self.events.back() == Some(&ServerEvent::Selected) {
            return;
        }
        if self.events.len() >= MOST_EVENTS {
            self.events.clear();
            self.events.push_back(ServerEvent::Overflow);
        }
        self.events.push_back(event);
    }

    /// What the server has said since the last call. Never waits.
    pub fn events(&mut self) -> Result<Vec<ServerEvent>, ClientError> {
        // While nothing is asked there is no step; only a flood has a bound.
        self.transport.begin(Limits::unasked(self.step));
        loop {
            let response = self.transport.try_response().map_err(|e| self.lost("watching", &e))?;
            let Some(response) = response else { break };
            let reply = parse::reply(&response);
            match &reply {
                Reply::Condition(said) if said.verb == Verb::Bye => return Err(self.bye(said)),
                Reply::Tagged(tag, _) => {
                    let ours = self.idling.as_ref().is_some_and(|t| t.as_bytes() == *tag);
                    if !ours {
                        return Err(self.break_off("watching", "an unexpected tagged response"));
                    }
                    self.idling = None;
                    self.events.push_back(ServerEvent::IdleEnded);
                }
                reply => self.record(reply),
            }
        }
        Ok(self.events.drain(..).collect())
    }

    fn bye(&mut self, said: &Condition<'_>) -> ClientError {
        self.transport.kill(TransportError::Closed);
        ClientError::Lost(goodbye(said, &said.printable()).at(&self.place))
    }

    fn session_is_dead(&mut self, words: &str) -> ClientError {
        self.transport.kill(TransportError::Closed);
        let text = format!("the server lists no mailboxes for this login: {words}");
        let error = Error::new(ExitStatus::Later, text).of_kind(ErrorKind::Greeting);
        ClientError::Lost(error.at(&self.place))
    }

    pub(super) fn tag(&mut self) -> String {
        self.tags = self.tags.wrapping_add(1);
        format!("m{}", self.tags)
    }

    /// One command to its end. `take` gets each untagged response, and says
    /// whether it was part of the answer.
    pub(super) fn run(
        &mut self,
        line: Line,
        limits: Limits,
        mut take: impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<Answer, ClientError> {
        let answers = self.run_all(vec![line], limits, |reply| take(reply))?;
        match answers.into_iter().next() {
            Some(answer) if answer.verb == Verb::Ok => Ok(answer),
            Some(answer) => Err(ClientError::Refused(answer)),
            None => Err(self.break_off("command", "no answer")),
        }
    }

    /// Commands that do not depend on each other's answers, sent without waiting
    /// between them. The answers are in the commands' order.
    pub(super) fn run_all(
        &mut self,
        lines: Vec<Line>,
        limits: Limits,
        mut take: impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<Vec<Answer>, ClientError> {
        self.run_in_order(lines, limits, |_, reply| take(reply))
    }

    /// The same for commands that a server must carry out one after the other:
    /// `take` is also given the place of the command that is being answered.
    pub(super) fn run_in_order(
        &mut self,
        lines: Vec<Line>,
        limits: Limits,
        mut take: impl FnMut(usize, &Reply<'_>) -> bool,
    ) -> Result<Vec<Answer>, ClientError> {
        let mut pending = PendingCommands::new(lines.len());
        let mut lines = lines.into_iter().enumerate().peekable();
        let mut out = Vec::new();
        // In the same flight: its answer costs no round trip of its own.
        if let Some(tag) = self.idling.take() {
            let time = self.take_idle_end();
            self.transport.begin(Limits::unasked_within(time));
            pending.idle = Some((tag.into_bytes(), limits));
            out.extend_from_slice(b"DONE\r\n");
        } else {
            self.transport.begin(limits);
        }
        while lines.peek().is_some() || !pending.is_over() {
            let mut doing = String::new();
            while pending.open.len() < WINDOW && out.len() < 8 * 1024 {
                let Some((at, line)) = lines.next() else { break };
                let tag = self.tag();
                doing = line.verb();
                out.extend_from_slice(tag.as_bytes());
                out.push(b' ');
                pending.open.insert(tag.clone().into_bytes(), (at, doing.clone()));
                let mut chunks = line.chunks.into_iter();
                out.extend_from_slice(&chunks.next().unwrap_or_default());
                let mut refused = false;
                for chunk in chunks {
                    self.send(&doing, &std::mem::take(&mut out))?;
                    if !self.continuation(&doing, &mut pending, &mut take, tag.as_bytes())? {
                        refused = true;
                        break;
                    }
                    out.extend_from_slice(&chunk);
                }
                if !refused {
                    out.extend_from_slice(b"\r\n");
                }
            }
            self.send(&doing, &std::mem::take(&mut out))?;
            // Half the window is let empty before more is sent.
            while if lines.peek().is_some() {
                pending.open.len() > WINDOW / 2
            } else {
                !pending.is_over()
            } {
                self.take_response(&doing, &mut pending, &mut take)?;
            }
        }
        Ok(pending.answers.into_iter().flatten().collect())
    }

    pub(super) fn send(&mut self, doing: &str, bytes: &[u8]) -> Result<(), ClientError> {
        self.transport.send(bytes).map_err(|e| self.lost(doing, &e))
    }

    /// Waits for `+` to a literal. False if the command is refused instead.
    pub(super) fn continuation(
        &mut self,
        doing: &str,
        pending: &mut PendingCommands,
        take: &mut impl FnMut(usize, &Reply<'_>) -> bool,
        tag: &[u8],
    ) -> Result<bool, ClientError> {
        while pending.open.contains_key(tag) {
            if self.take_response(doing, pending, take)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes one response. True if it was a `+`.
    pub(super) fn take_response(
        &mut self,
        doing: &str,
        pending: &mut PendingCommands,
        take: &mut impl FnMut(usize, &Reply<'_>) -> bool,
    ) -> Result<bool, ClientError> {
        let response = self.transport.response().map_err(|e| self.lost(doing, &e))?;
        let reply = parse::reply(&response);
        match &reply {
            Reply::Continue(_) => return Ok(true),
            Reply::Tagged(tag, _) if pending.idle.as_ref().is_some_and(|(idle, _)| idle == tag) => {
                if let Some((_, limits)) = pending.idle.take() {
                    self.transport.begin(limits);
                }
            }
            Reply::Tagged(_, said) if said.is_session_dead() => {
                return Err(self.session_is_dead(&said.printable()));
            }
            Reply::Tagged(tag, said) => {
                if !pending.answered(tag, said) {
                    return Err(self.break_off(doing, "an unexpected tagged response"));
                }
            }
            Reply::Condition(said) if said.verb == Verb::Bye => return Err(self.bye(said)),
            reply => {
                if pending.idle.is_some() || !take(pending.first, reply) {
                    self.record(reply);
                }
            }
        }
        Ok(false)
    }

    /// Says goodbye, and does not wait for the answer.
    pub fn leave(mut self) {
        let done: &[u8] = if self.idling.take().is_some() { b"DONE\r\n" } else { b"" };
        self.transport.begin(Limits::small(Duration::from_secs(1)));
        let tag = self.tag();
        let _ = self.transport.send(&[done, tag.as_bytes(), b" LOGOUT\r\n"].concat());
    }

    /// Logs out, and waits a little for the answer.
    pub fn log_out(mut self) {
        if self.idling.is_none() || self.idle_done(Duration::from_secs(1)).is_ok() {
            let limits = Limits::small(Duration::from_secs(1));
            let _ = self.run(Line::new("LOGOUT"), limits, |_| false);
        }
    }
}

fn answer(doing: &str, said: &Condition<'_>) -> Answer {
    let code = said.code.split(|b| *b == b' ').next().unwrap_or_default();
    Answer {
        verb: said.verb,
        code: printable(&String::from_utf8_lossy(code)).to_ascii_uppercase(),
        text: format!("{doing}: {}", said.printable()),
        temporary: said.verb != Verb::Ok && said.is_temporary(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::transport::tests::pair;
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    /// A client whose server answers from a script.
    pub(crate) struct Scripted {
        pub(crate) client: Client,
        /// The server's end.
        pub(crate) server: UnixStream,
        /// What the client has sent, with the tags.
        pub(crate) sent: Arc<Mutex<Vec<String>>>,
    }

    /// `script` gets each command, and gives what comes before its OK; what begins with
    /// `NO` or `BAD` is the answer itself.
    pub(crate) fn scripted(
        can: &str,
        mut script: impl FnMut(&str) -> Option<String> + Send + 'static,
    ) -> Scripted {
        let (transport, mut end) = pair();
        let server = end.try_clone().unwrap();
        let client =
            Client::over(transport, parse::capabilities(can.as_bytes()), &Server::default());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&sent);
        std::thread::spawn(move || {
            let mut idle = String::new();
            for line in BufReader::new(end.try_clone().unwrap()).lines() {
                let Ok(line) = line else { break };
                let (tag, command) = line.split_once(' ').unwrap_or((&line, "DONE"));
                let said = script(command).unwrap_or_default();
                let refused = said.starts_with("NO ") || said.starts_with("BAD ");
                let answer = match command {
                    _ if refused => format!("{tag} {said}\r\n"),
                    "IDLE" => {
                        tag.clone_into(&mut idle);
                        format!("{said}+ idling\r\n")
                    }
                    "DONE" => format!("{said}{idle} OK done\r\n"),
                    _ => format!("{said}{tag} OK done\r\n"),
                };
                heard.lock().unwrap().push(line);
                if end.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        });
        Scripted { client, server, sent }
    }
}
