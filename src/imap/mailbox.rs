//! Commands about mailboxes: which there are, their STATUS, what is in one.
//!
//! Does not depend on: what follows from an answer.

use super::client::{Client, ClientError, Line, ServerEvent, WINDOW, unless_refused};
use super::parse::{self, FetchedHeader, Reply, Verb};
use super::session;
use super::transport::Limits;
use super::values::{Answer, Listed, MailboxStatus, Namespace, Opened, Opening, quoted};
use crate::model::flags::{Flags, keeps_forwarded};
use crate::model::uid_set::{UidSet, UidsBelow};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What to ask of all mailboxes.
#[derive(Debug, Clone, Default)]
pub struct InventoryScope {
    /// Those whose wire names begin with one of these.
    pub prefixes: Vec<String>,
    /// Which are subscribed to, too.
    pub subscriptions: bool,
    /// Their STATUS, too, where LIST can give it along (RFC 5819).
    pub statuses: bool,
}

/// What the server has.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The first personal namespace; empty where the server has none to tell.
    pub namespace: Namespace,
    /// The mailboxes, by name; `None` where the server refuses to list them.
    pub listed: Option<Vec<Listed>>,
    /// The names of those subscribed to, if they were asked for.
    pub subscribed: HashSet<String>,
    /// Of these the STATUS, where the server gave it along.
    pub statuses: HashMap<String, MailboxStatus>,
}

impl Inventory {
    /// The delimiter that the list shows.
    #[must_use]
    pub fn delimiter(&self) -> Option<char> {
        self.listed.iter().flatten().find_map(|each| each.delimiter)
    }
}

/// A mailbox to be scanned, by its wire name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// The mailbox.
    pub name: String,
    /// How to open it.
    pub opening: Opening,
    /// Only the flags that changed since this modification sequence.
    pub since: Option<u64>,
    /// What was there then: only what is new is asked for.
    pub known: Option<UidsBelow>,
    /// So many messages are there, as far as it is known: they need time.
    pub messages: u32,
}

/// Most bytes kept of a LIST: enough for 20 000 mailboxes with names of 150 bytes. Those
/// beyond are left to mbsync.
const MOST_LISTED: usize = 5 << 20;
/// What an entry takes beside its name.
const ENTRY: usize = 100;

/// What tells which message one is.
const IDENTITY: &str =
    "UID FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE FROM SUBJECT)]";
/// So many ranges of UIDs in one command.
const RANGES: usize = 100;

/// What is in one mailbox, by UIDs and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxScan {
    /// UIDVALIDITY.
    pub uid_validity: Option<u32>,
    /// Whether `$Forwarded` can be kept there; `None`: not known (EXAMINE gives
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
    pub after: MailboxStatus,
}

impl Client {
    fn list_line(&self, prefix: &str, with_status: bool) -> Line {
        let plus = self.capabilities.literal_plus();
        let line = Line::new("LIST \"\"").string(&format!("{prefix}*"), plus);
        match (self.capabilities.special_use(), with_status) {
            (true, true) => {
                line.raw(" RETURN (SPECIAL-USE STATUS ").raw(self.status_items()).raw(")")
            }
            (false, true) => line.raw(" RETURN (STATUS ").raw(self.status_items()).raw(")"),
            (true, false) => line.raw(" RETURN (SPECIAL-USE)"),
            (false, false) => line,
        }
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
    pub fn status(&mut self, names: &[String]) -> Result<Vec<Option<MailboxStatus>>, ClientError> {
        let answers = self.status_or_answer(names)?;
        Ok(answers.into_iter().map(Result::ok).collect())
    }

    /// The same; for one that has no STATUS to tell, the answer.
    pub fn status_or_answer(
        &mut self,
        names: &[String],
    ) -> Result<Vec<Result<MailboxStatus, Answer>>, ClientError> {
        let mut known: BTreeMap<String, Option<MailboxStatus>> =
            names.iter().map(|name| (name.clone(), None)).collect();
        if self.lists_status() && names.len() > WINDOW {
            let line = self.list_line("", true);
            let done = self.run(line, Limits::bulk(self.step), |reply| {
                reply.data("LIST").is_some() || take_status(reply, &mut known)
            });
            self.list_status_refused = unless_refused(done)?.is_none();
        }
        let unknown = known.iter().filter(|(_, status)| status.is_none());
        let asked: Vec<String> = unknown.map(|(name, _)| name.clone()).collect();
        let lines = asked.iter().map(|name| self.status_line(name)).collect();
        let limits = Limits::bulk(self.step);
        let answers = self.run_all(lines, limits, |reply| take_status(reply, &mut known))?;
        let answers = asked.into_iter().zip(answers);
        let untold = |name: &String| known.get(name).is_some_and(Option::is_none);
        let answers: HashMap<String, Answer> = answers.filter(|(name, _)| untold(name)).collect();
        let of = |name| match known.get(name).copied().flatten() {
            Some(status) => Some(Ok(status)),
            None => answers.get(name).cloned().map(Err),
        };
        Ok(names.iter().filter_map(of).collect())
    }

    fn status_line(&self, name: &str) -> Line {
        let plus = self.capabilities.literal_plus();
        Line::new("STATUS").string(name, plus).raw(" ").raw(self.status_items())
    }

    /// Whether LIST gives the STATUS of all mailboxes along.
    #[must_use]
    pub fn lists_status(&self) -> bool {
        self.capabilities.list_status() && !self.list_status_refused
    }

    /// The namespace and what is asked for of the mailboxes, in one round trip.
    pub fn inventory(&mut self, scope: &InventoryScope) -> Result<Inventory, ClientError> {
        let InventoryScope { prefixes, subscriptions, .. } = scope;
        let with_status = scope.statuses && self.lists_status();
        let mut lines: Vec<Line> =
            prefixes.iter().map(|prefix| self.list_line(prefix, with_status)).collect();
        let asks_namespace = self.capabilities.namespace();
        lines.extend(subscriptions.then(|| Line::new("LSUB \"\" \"*\"")));
        let lists = lines.len();
        lines.extend(asks_namespace.then(|| Line::new("NAMESPACE")));
        let (mut listed, mut subscribed, mut said) =
            (KeptNames::default(), KeptNames::default(), None);
        let mut statuses: HashMap<String, MailboxStatus> = HashMap::new();
        let (mut namespace, mut room) = (None, MOST_LISTED);
        let answers = self.run_all(lines, Limits::bulk(self.step), |reply| match reply {
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"NAMESPACE") => {
                namespace = parse::namespace(rest);
                said = Some([&b"* NAMESPACE "[..], rest, b"\r\n"].concat());
                true
            }
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"STATUS") => {
                if let Some((name, status)) = parse::status(rest) {
                    room = room.saturating_sub(name.len() + ENTRY);
                    if room > 0 {
                        let known = statuses.entry(name).or_default();
                        *known = known.overlaid(status);
                    }
                }
                true
            }
            reply => listed.take(reply.data("LIST")) || subscribed.take(reply.data("LSUB")),
        })?;
        // Without it the names of mailboxes would be guesses; mbsync fails on it, too.
        if let Some(refused) = answers.get(lists).filter(|answer| answer.verb != Verb::Ok) {
            return Err(ClientError::Refused(refused.clone()));
        }
        let complete = answers.iter().take(lists).all(|answer| answer.verb == Verb::Ok);
        if !complete && with_status {
            self.list_status_refused = true;
            return self.inventory(scope);
        }
        let listed = complete.then(|| listed.sorted());
        if !asks_namespace {
            let delimiter = listed.iter().flatten().find_map(|each| each.delimiter);
            said = delimiter.and_then(|delimiter| {
                let delimiter = quoted(delimiter.encode_utf8(&mut [0; 4]))?;
                Some([&b"* NAMESPACE ((\"\" "[..], &delimiter, b")) NIL NIL\r\n"].concat())
            });
        }
        self.namespace = said.filter(|said| said.len() < 4096).or(self.namespace.take());
        let subscribed = subscribed.found.into_iter().map(|each| each.name).collect();
        Ok(Inventory { namespace: namespace.unwrap_or_default(), listed, subscribed, statuses })
    }

    /// Opens a mailbox; says what it is like. It stays open.
    pub fn open_mailbox(&mut self, name: &str, opening: Opening) -> Result<Opened, ClientError> {
        self.selected = None;
        let doing = match opening {
            Opening::Examine => "EXAMINE",
            Opening::Select => "SELECT",
        };
        let mut opened = self.by_session(doing, self.small(), |transport, tag| {
            session::open(transport, tag, name, opening)
        })?;
        if !self.capabilities.condstore() {
            // Yahoo tells it here, and STATUS does not: no later report would move it.
            opened.status.highest_mod_seq = None;
        }
        self.selected = Some((name.to_owned(), opening));
        Ok(opened)
    }

    /// Leaves the open mailbox, without expunging anything in it.
    pub fn close_mailbox(&mut self) -> Result<(), ClientError> {
        for line in self.closing() {
            unless_refused(self.run(line, self.small(), |_| false))?;
        }
        self.forget_open();
        Ok(())
    }

    /// No mailbox is open any more: what was said of one means nothing.
    fn forget_open(&mut self) {
        self.selected = None;
        self.events.retain(|event| *event != ServerEvent::Selected);
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

    /// Scans one mailbox: see [`Client::scan_all`].
    pub fn scan(
        &mut self,
        name: &str,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<MailboxScan, ClientError> {
        let request =
            ScanRequest { name: name.to_owned(), opening, since, known: None, messages: 0 };
        match self.scan_all(std::slice::from_ref(&request))?.pop() {
            Some(Ok(scan)) => Ok(scan),
            Some(Err(answer)) => Err(ClientError::Refused(answer)),
            None => Err(self.break_off("scan", "no answer")),
        }
    }

    /// Scans mailboxes: which messages there are in each, and the flags of those that
    /// changed since `since` (of all without it, or without CONDSTORE). All are asked
    /// about at once; the server carries the commands out one after the other. The
    /// last mailbox is left again, and the STATUS of each asked for, because a server
    /// reports nothing of a mailbox while it is open.
    pub fn scan_all(
        &mut self,
        requests: &[ScanRequest],
    ) -> Result<Vec<Result<MailboxScan, Answer>>, ClientError> {
        let mut scans = self.scan_once(requests)?;
        let again = |(at, (scan, request)): (usize, (&Scan, &ScanRequest))| {
            // NOMODSEQ, or a server that does not keep its word.
            let no_since = scan.fetch_refused.is_some() && request.since.is_some();
            let again = scan.refused.is_none() && (no_since || scan.is_in_doubt);
            again.then(|| {
                let since = request.since.filter(|_| !no_since);
                (at, ScanRequest { since, known: None, ..request.clone() })
            })
        };
        let (failed, whole): (Vec<usize>, Vec<ScanRequest>) =
            scans.iter().zip(requests).enumerate().filter_map(again).unzip();
        if !failed.is_empty() {
            for (at, scan) in failed.into_iter().zip(self.scan_once(&whole)?) {
                if let Some(slot) = scans.get_mut(at) {
                    *slot = scan;
                }
            }
        }
        Ok(scans.into_iter().map(Scan::finish).collect())
    }

    /// Size and identifying header fields of these messages, as far as they are there, of a
    /// mailbox that is opened read-only and left again.
    pub fn headers(
        &mut self,
        name: &str,
        uids: &UidSet,
    ) -> Result<Vec<FetchedHeader>, ClientError> {
        let mut lines = Vec::new();
        for ranges in uids.ranges().chunks(RANGES) {
            let mut set = UidSet::default();
            for &(first, last) in ranges {
                set.push(first, last);
            }
            lines.push(Line::new(&format!("UID FETCH {set} ({IDENTITY})")));
        }
        let mut found = Vec::new();
        self.examine(name, lines, Limits::bulk(self.step), |reply| match reply {
            Reply::Numbered(_, word, rest) if word.eq_ignore_ascii_case(b"FETCH") => {
                found.extend(parse::fetch_header(rest));
                true
            }
            _ => false,
        })?;
        Ok(found)
    }

    /// The newest message with each of these in its Message-ID, as far as there is one that
    /// is not \Deleted. In the time of one step.
    pub fn search_message_ids(&mut self, name: &str, ids: &[&str]) -> Result<UidSet, ClientError> {
        let plus = self.capabilities.literal_plus();
        let search = Line::new("UID SEARCH UNDELETED HEADER Message-ID");
        let lines = ids.iter().map(|id| search.clone().string(id, plus)).collect();
        let mut found = Vec::new();
        self.examine(name, lines, self.small(), |reply| match reply {
            Reply::Data(word, rest) if word.eq_ignore_ascii_case(b"SEARCH") => {
                found.extend(
                    parse::search(rest.trim_ascii_end()).ranges().last().map(|&(_, last)| last),
                );
                true
            }
            _ => false,
        })?;
        Ok(UidSet::from_uids(found))
    }

    /// Commands about a mailbox that is opened read-only and left again. That one of them is
    /// refused means nothing: a fetch of no message is BAD with some servers.
    fn examine(
        &mut self,
        name: &str,
        commands: Vec<Line>,
        limits: Limits,
        mut take: impl FnMut(&Reply<'_>) -> bool,
    ) -> Result<(), ClientError> {
        let plus = self.capabilities.literal_plus();
        let mut lines = vec![Line::new("EXAMINE").string(name, plus)];
        lines.extend(commands);
        self.selected = Some((name.to_owned(), Opening::Examine));
        lines.extend(self.closing());
        let answers = self.run_in_order(lines, limits, |at, reply| {
            take(reply)
                || match reply {
                    // EXISTS and RECENT of a mailbox that is not watched.
                    Reply::Numbered(_, word, _) if at == 0 => {
                        !word.eq_ignore_ascii_case(b"EXPUNGE")
                    }
                    Reply::Data(word, _) => word.eq_ignore_ascii_case(b"FLAGS"),
                    Reply::Condition(said) => said.verb == Verb::Ok,
                    _ => false,
                }
        })?;
        self.forget_open();
        match answers.into_iter().next() {
            Some(refused) if refused.verb != Verb::Ok => Err(ClientError::Refused(refused)),
            _ => Ok(()),
        }
    }

    fn scan_once(&mut self, requests: &[ScanRequest]) -> Result<Vec<Scan>, ClientError> {
        let (plus, condstore) = (self.capabilities.literal_plus(), self.capabilities.condstore());
        let search =
            if self.capabilities.esearch() { "UID SEARCH RETURN (ALL)" } else { "UID SEARCH" };
        let (mut lines, mut scans) = (Vec::new(), Vec::new());
        let mut after = BTreeMap::new();
        for ScanRequest { name, opening, since, known, .. } in requests {
            let since = since.filter(|modseq| *modseq > 0 && condstore);
            let verb = if *opening == Opening::Select { "SELECT" } else { "EXAMINE" };
            lines.push(Line::new(verb).string(name, plus));
            lines.push(match known {
                Some(known) => Line::new(&format!("{search} UID {}:*", known.next())),
                None => Line::new(&format!("{search} ALL")),
            });
            lines.push(match since {
                Some(since) => Line::new(&format!("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {since})")),
                None => Line::new("UID FETCH 1:* (FLAGS)"),
            });
            scans.push(Scan::new(since.is_none()));
            after.insert(name.clone(), None);
            self.selected = Some((name.clone(), *opening));
        }
        lines.extend(self.closing());
        lines.extend(requests.iter().map(|request| self.status_line(&request.name)));
        // Tags are numbers in the order of the commands.
        let first_tag = self.tags.wrapping_add(1);
        let messages = requests.iter().fold(0, |sum: u32, each| sum.saturating_add(each.messages));
        let limits = Limits::scan(self.step, messages);
        let answers = self.run_in_order(lines, limits, |at, reply| {
            let Some(scan) = scans.get_mut(at / 3) else { return take_status(reply, &mut after) };
            let tag = first_tag.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX));
            let opening = requests.get(at / 3).map_or(Opening::Examine, |request| request.opening);
            scan.take(at % 3, reply, opening, &format!("m{tag}")) || take_status(reply, &mut after)
        })?;
        self.forget_open();
        for (at, (scan, request)) in scans.iter_mut().zip(requests).enumerate() {
            let answers = answers.get(at * 3..at * 3 + 3).unwrap_or_default();
            scan.answered(answers, request.known.as_ref());
            scan.look.after = after.get(&request.name).copied().flatten().unwrap_or_default();
        }
        Ok(scans)
    }
}

/// A scan on its way.
struct Scan {
    look: MailboxScan,
    messages: Option<u32>,
    /// The mailbox could not be opened, or the search was refused.
    refused: Option<Answer>,
    fetch_refused: Option<Answer>,
    cut: Option<Answer>,
    /// Something moved between the questions.
    moved: bool,
    /// What was known may not be there any more.
    is_in_doubt: bool,
}

impl Scan {
    fn new(all_flags: bool) -> Self {
        let look = MailboxScan {
            uid_validity: None,
            forwarded: None,
            uids: UidSet::default(),
            flags: Vec::new(),
            all_flags,
            after: MailboxStatus::default(),
        };
        Scan {
            look,
            messages: None,
            refused: None,
            fetch_refused: None,
            cut: None,
            moved: false,
            is_in_doubt: false,
        }
    }

    /// Takes a response to the command at `step`: opening, search, fetch. False if it
    /// does not belong to it.
    fn take(&mut self, step: usize, reply: &Reply<'_>, opening: Opening, tag: &str) -> bool {
        match (step, reply) {
            (0, Reply::Numbered(count, word, _)) if word.eq_ignore_ascii_case(b"EXISTS") => {
                self.messages = Some(*count);
                true
            }
            (0, Reply::Numbered(_, word, _)) => word.eq_ignore_ascii_case(b"RECENT"),
            (0, Reply::Data(word, _)) => word.eq_ignore_ascii_case(b"FLAGS"),
            (0, Reply::Condition(said)) if said.has_code("UIDVALIDITY") => {
                self.look.uid_validity =
                    said.number().and_then(|number| u32::try_from(number).ok());
                true
            }
            (0, Reply::Condition(said)) if said.has_code("PERMANENTFLAGS") => {
                let flags = String::from_utf8_lossy(said.code).into_owned();
                let words = flags.split([' ', '(', ')']).skip(1);
                self.look.forwarded = keeps_forwarded(words, opening == Opening::Select);
                true
            }
            (0, Reply::Condition(said)) => said.verb == Verb::Ok,
            (1, Reply::Data(word, rest)) if word.eq_ignore_ascii_case(b"SEARCH") => {
                self.look.uids.add(&parse::search(rest.trim_ascii_end()));
                true
            }
            (1, Reply::Data(word, rest)) if word.eq_ignore_ascii_case(b"ESEARCH") => {
                let found = parse::esearch(rest.trim_ascii_end(), tag);
                found.as_ref().is_some_and(|found| {
                    self.look.uids.add(found);
                    true
                })
            }
            (1 | 2, Reply::Numbered(_, word, rest)) if word.eq_ignore_ascii_case(b"FETCH") => {
                match parse::fetch_flags(rest) {
                    Some(found) => {
                        self.look.flags.push(found);
                        true
                    }
                    None => false,
                }
            }
            (_, Reply::Numbered(_, word, _)) if word.eq_ignore_ascii_case(b"EXPUNGE") => {
                self.moved = true;
                false
            }
            _ => false,
        }
    }

    /// The answers to the three commands, the second of which was about what is not `known`.
    /// What is cut short (RFC 9738) shows nothing.
    fn answered(&mut self, answers: &[Answer], known: Option<&UidsBelow>) {
        self.cut = answers.iter().find(|answer| answer.code == "MESSAGELIMIT").cloned();
        let refused = |at: usize| answers.get(at).filter(|answer| answer.verb != Verb::Ok).cloned();
        self.refused = refused(0);
        // An empty mailbox has no message 1, and some servers say BAD then.
        if self.messages != Some(0) {
            self.refused = self.refused.take().or(refused(1));
            self.fetch_refused = refused(2);
        }
        if let Some(known) = known {
            self.look.uids.tidy();
            self.look.uids = known.with(&self.look.uids);
            let is_all = self.messages.map(u64::from) == Some(self.look.uids.len());
            self.is_in_doubt = self.moved || !is_all;
        }
    }

    fn finish(mut self) -> Result<MailboxScan, Answer> {
        if let Some(answer) = self.refused.or(self.fetch_refused).or(self.cut) {
            return Err(answer);
        }
        let look = &mut self.look;
        look.uids.tidy();
        look.flags.sort_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        look.flags.dedup_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        Ok(self.look)
    }
}

/// The mailboxes of a LIST or LSUB, as far as there is room for them.
struct KeptNames {
    found: Vec<Listed>,
    room: usize,
}

impl Default for KeptNames {
    fn default() -> Self {
        KeptNames { found: Vec::new(), room: MOST_LISTED }
    }
}

impl KeptNames {
    /// Takes a line of it.
    fn take(&mut self, line: Option<&[u8]>) -> bool {
        let Some(rest) = line else { return false };
        if let Some(listed) = parse::list(rest) {
            self.room = self.room.saturating_sub(listed.name.len() + ENTRY);
            self.found.extend((self.room > 0).then_some(listed));
        }
        true
    }

    fn sorted(mut self) -> Vec<Listed> {
        self.found.sort_by(|a, b| a.name.cmp(&b.name));
        self.found.dedup_by(|a, b| a.name == b.name);
        self.found
    }
}

/// Takes a STATUS of a mailbox that was asked for.
fn take_status(reply: &Reply<'_>, known: &mut BTreeMap<String, Option<MailboxStatus>>) -> bool {
    let Some((name, status)) = reply.data("STATUS").and_then(parse::status) else { return false };
    match known.get_mut(&name) {
        Some(slot) => {
            *slot = Some(slot.unwrap_or_default().overlaid(status));
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::tests::pair;
    use super::*;
    use crate::imap::Capabilities;
    use crate::model::Server;
    use std::io::Write;
    use std::time::Duration;

    #[test]
    fn a_scan_of_many_messages_may_take_long_while_something_comes() {
        for (messages, ends) in [(0, false), (500, true)] {
            let (transport, mut server) = pair();
            let mut client = Client::over(transport, Capabilities::default(), &Server::default());
            client.step = Duration::from_millis(100);
            let slow = std::thread::spawn(move || {
                for uid in 1..=16 {
                    let _ = write!(server, "* {uid} EXISTS\r\n");
                    std::thread::sleep(Duration::from_millis(50));
                }
                (1..=5).for_each(|tag| drop(write!(server, "m{tag} OK done\r\n")));
            });
            let (name, opening) = ("INBOX".to_owned(), Opening::Examine);
            let request = ScanRequest { name, opening, since: None, known: None, messages };
            let scanned = client.scan_all(&[request]);
            assert_eq!(scanned.is_ok(), ends, "{scanned:?}");
            slow.join().unwrap();
        }
    }
}
