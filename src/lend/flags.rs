//! mbsync fetches the flags of every message at each run. Of what has not changed since
//! a clean verdict, its own record knows them: here its fetch is answered from that, and
//! the server is asked only which messages there are and what has changed since, in the
//! flight of mbsync's SELECT.
//!
//! Exact or not at all: in doubt the fetch goes to the server. What mbsync was told of a
//! mailbox that it then changed nothing in is a scan of it, made after the STATUS that its
//! SELECT has shown: [`ScanByRun`], to be judged by the record that mbsync has written.
//!
//! [`FlagsFetch`] is pure but for the record, which it reads when it is needed. Does not
//! depend on: connections, runs, what the relay does with bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::imap::parse::{self, Reply, Verb};
use crate::imap::{MailboxScan, MailboxStatus};
use crate::model::Mailbox;
use crate::model::flags::Flags;
use crate::model::uid_set::{UidSet, UidsBelow};
use crate::os::file;
use crate::verdict::CleanState;
use crate::verdict::gone::Gone;
use crate::verdict::maildir::Stamp;
use crate::verdict::record::{self, EntryKind, Placeholder};
use crate::verdict::server::{CleanServer, ServerStatus};

/// With fewer messages the two questions are no less than their flags, about 40 bytes each.
const FEWEST: u32 = 8;
/// Most messages of a mailbox: more than a record can name.
const MOST_MESSAGES: u32 = 8_000_000;
/// Most messages whose flags the server tells us before its answer to mbsync is no more.
const MOST_CHANGED: usize = 20_000;
/// Most messages in all [`ScanByRun`]s of a run, eight bytes each. The rest is scanned again.
const MOST_SCANNED: u64 = 1_000_000;
/// Longest list of UIDs in a question of ours. mbsync's are below 1100 bytes.
const LONGEST_SET: usize = 4000;
/// mbsync's tags are numbers, the waiter's begin with an `m`.
const TAGS: [&str; 3] = ["k1", "k2", "k3"];

/// A mailbox whose flags on the server the record knows, as they were at a modification
/// sequence (RFC 7162): those of the last clean verdict.
#[derive(Debug, Clone)]
pub struct KnownFlags {
    clean: CleanServer,
    since: u64,
    state_file: PathBuf,
    stamp: Stamp,
    /// Far messages whose flags may be others than the record says.
    except: Vec<UidSet>,
}

impl KnownFlags {
    /// What is known of a mailbox. `by_run`: what runs have removed.
    #[must_use]
    pub fn of(mailbox: &Mailbox, clean: &CleanState, by_run: Option<&Gone>) -> Option<KnownFlags> {
        let far = clean.far.as_ref().filter(|far| far.status.messages >= FEWEST)?;
        let since = far.status.highest_modseq.filter(|since| *since > 0)?;
        let state_file = mailbox.state_file.clone()?;
        let stamp = Stamp::of(&state_file).ok()?;
        if !far.is_of_record(Some(&stamp)) || record::unfinished(&state_file) {
            return None;
        }
        let gone = [clean.gone.as_ref(), by_run].into_iter().flatten();
        let except = gone.flat_map(|gone| {
            [&gone.gone, &gone.deleted, &gone.pending, &gone.marked].map(Clone::clone)
        });
        let except = except.filter(|set| !set.is_empty()).collect();
        Some(KnownFlags { clean: far.clone(), since, state_file, stamp, except })
    }

    /// Whether the record is still the same one.
    fn is_of_now(&self) -> bool {
        Stamp::of(&self.state_file).is_ok_and(|stamp| stamp == self.stamp)
    }

    /// What the record says; `None` if it is another one by now.
    fn read(&self) -> Option<Recorded> {
        let text = file::read(&self.state_file, record::LARGEST).ok();
        let text = text.filter(|_| self.is_of_now())?;
        let record = record::parse(&text).ok().filter(|_| self.is_of_now())?;
        if record.far_validity != self.clean.status.uid_validity {
            return None;
        }
        let plain = record.with_far().iter().filter(|entry| {
            entry.near != 0
                && entry.kind == EntryKind::Plain
                && entry.placeholder == Placeholder::None
                && !self.except.iter().any(|set| set.contains(entry.far))
        });
        let flags: Vec<(u32, Flags)> = plain.map(|entry| (entry.far, entry.flags)).collect();
        // A message in two pairs is in doubt.
        let is_sure = flags.is_sorted_by(|(one, _), (other, _)| one < other);
        is_sure.then(|| Recorded { flags, uids: self.clean.uids(&record) })
    }
}

/// What a record says of the server's side.
#[derive(Debug)]
struct Recorded {
    /// Flags by far UID, sorted.
    flags: Vec<(u32, Flags)>,
    /// What was there at the last clean verdict, if it is not asked for once more.
    uids: Option<UidsBelow>,
}

/// What the server has said of the mailbox that mbsync has selected.
#[derive(Debug, Clone, Default)]
struct Selected {
    name: String,
    /// Until its SELECT is answered.
    tag: Option<Vec<u8>>,
    exists: Option<u32>,
    uid_validity: Option<u32>,
    uid_next: Option<u32>,
    highest_modseq: Option<u64>,
}

/// What mbsync was told of a mailbox in which it changed nothing on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanByRun {
    /// Wire name.
    pub name: String,
    /// STATUS, as it was before the scan.
    pub status: ServerStatus,
    /// All messages and their flags.
    pub scan: MailboxScan,
}

/// Our questions about the mailbox that mbsync has selected, and the answers so far.
#[derive(Debug, Default)]
struct Questions {
    /// Those without an answer.
    open: usize,
    /// What the questions at a SELECT go by.
    recorded: Option<Recorded>,
    uids: Option<UidSet>,
    told: BTreeMap<u32, ToldFlags>,
    /// Nothing follows from the answers.
    in_doubt: bool,
    moved: u64,
}

/// A fetch of mbsync's that is held back until the rest is known.
#[derive(Debug)]
struct DelayedFetch {
    tag: Vec<u8>,
    line: Vec<u8>,
    wanted: UidSet,
    name: String,
    /// By its SELECT.
    status: ServerStatus,
    known: Vec<(u32, Flags)>,
    /// All that there are. If these are more or fewer than the messages, some of them may be
    /// gone, and all are asked for.
    uids: UidSet,
}

/// An answer that is being given.
#[derive(Debug)]
struct FlagsAnswer {
    tag: Vec<u8>,
    wanted: UidSet,
    messages: Messages,
    /// The place among the ranges, the UID that is next, and its sequence number.
    at: (usize, u32, u32),
}

/// The flags of a message as the server tells them.
#[derive(Debug)]
struct ToldFlags {
    flags: Flags,
    /// In its words, with the parentheses.
    words: Vec<u8>,
}

/// The messages of a mailbox and their flags.
#[derive(Debug)]
struct Messages {
    name: String,
    status: ServerStatus,
    uids: UidSet,
    known: Vec<(u32, Flags)>,
    told: BTreeMap<u32, ToldFlags>,
}

impl Messages {
    fn flags(&self, uid: u32) -> Option<Vec<u8>> {
        if let Some(told) = self.told.get(&uid) {
            return Some(told.words.clone());
        }
        let at = self.known.binary_search_by_key(&uid, |(uid, _)| *uid).ok()?;
        let flags = self.known.get(at)?.1;
        Some(format!("({})", flags.imap_names().join(" ")).into_bytes())
    }

    fn any_deleted(&self) -> bool {
        let deleted = |flags: Flags| flags.has(Flags::TRASHED);
        self.known.iter().any(|(_, flags)| deleted(*flags))
            || self.told.values().any(|told| deleted(told.flags))
    }

    fn into_scan(self) -> ScanByRun {
        let Messages { name, status, uids, known: mut flags, told } = self;
        flags.retain(|(uid, _)| uids.contains(*uid) && !told.contains_key(uid));
        let told = told.into_iter().map(|(uid, told)| (uid, told.flags));
        flags.extend(told.filter(|(uid, _)| uids.contains(*uid)));
        flags.sort_unstable_by_key(|(uid, _)| *uid);
        let scan = MailboxScan {
            uid_validity: Some(status.uid_validity),
            forwarded: None,
            uids,
            flags,
            all_flags: true,
            after: MailboxStatus::default(),
        };
        ScanByRun { name, status, scan }
    }
}

/// What is to be done with a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to the server.
    Pass,
    /// It goes to the server, and this after it.
    PassAndAsk(Vec<u8>),
    /// It is held back, and this is asked first.
    Ask(Vec<u8>),
    /// [`FlagsFetch::give`] has the answer.
    Answer,
    /// A CLOSE that does no more than to leave the mailbox.
    Leave,
}

/// What is to be done when the server has said something while questions are open.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// It was for us.
    More,
    /// It is mbsync's.
    Pass,
    /// [`FlagsFetch::give`] has the answer.
    Answer,
    /// The fetch, its tag and line, goes to the server.
    GiveUp(Vec<u8>, Vec<u8>),
}

/// Answers mbsync's fetches of flags from what its record knows.
#[derive(Debug, Default)]
pub struct FlagsFetch {
    known: HashMap<String, KnownFlags>,
    selected: Option<Selected>,
    questions: Option<Questions>,
    held: Option<DelayedFetch>,
    answer: Option<FlagsAnswer>,
    /// Of the last answer, while mbsync changes nothing.
    last: Option<Messages>,
    /// Nothing else was said since.
    is_fresh: bool,
    scans: Vec<ScanByRun>,
    /// Bytes given to mbsync that the server did not send, less those of the questions.
    spared: i64,
}

impl FlagsFetch {
    /// By wire name.
    #[must_use]
    pub fn new(known: HashMap<String, KnownFlags>) -> Self {
        FlagsFetch { known, ..FlagsFetch::default() }
    }

    /// So many bytes the server did not have to send.
    #[must_use]
    pub fn spared(&self) -> u64 {
        u64::try_from(self.spared).unwrap_or(0)
    }

    /// Whether questions of ours are open: what the server says is for [`FlagsFetch::hear`],
    /// and mbsync is not listened to.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.questions.as_ref().is_some_and(|questions| questions.open > 0)
    }

    /// Whether this can only be an answer to one of them.
    #[must_use]
    pub fn is_answer(&self, reply: &Reply<'_>) -> bool {
        self.is_asking() && is_ours(reply)
    }

    /// Whether an answer is being given.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.answer.is_some()
    }

    /// The mailboxes in which mbsync was told everything, and changed nothing.
    pub fn take_scans(&mut self) -> Vec<ScanByRun> {
        self.leave();
        std::mem::take(&mut self.scans)
    }

    /// The open mailbox is left.
    fn leave(&mut self) {
        let Some(messages) = self.last.take() else { return };
        let sizes = self.scans.iter().map(|scan| scan.scan.uids.len());
        if sizes.sum::<u64>() + messages.uids.len() <= MOST_SCANNED {
            self.scans.push(messages.into_scan());
        }
    }

    /// A command with a literal: it may store a message.
    pub fn command_with_literal(&mut self) {
        (self.selected, self.last) = (None, None);
    }

    /// A whole command without a literal. `at_rest`: nothing else is under way.
    pub fn command(&mut self, line: &[u8], at_rest: bool) -> Decision {
        if self.known.is_empty() {
            return Decision::Pass;
        }
        let text = String::from_utf8_lossy(line);
        let mut words = text.trim_end_matches(['\r', '\n']).splitn(3, ' ');
        let (tag, verb) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        let is_fresh = std::mem::take(&mut self.is_fresh);
        let wanted = match verb.to_ascii_uppercase().as_str() {
            "SELECT" => return self.select(tag, rest, at_rest),
            "NOOP" => return Decision::Pass,
            "CLOSE" => {
                self.selected = None;
                let is_same = at_rest && self.last.as_ref().is_some_and(|last| !last.any_deleted());
                // What it expunges shows in STATUS.
                self.leave();
                return if is_same { Decision::Leave } else { Decision::Pass };
            }
            "UID" if rest.starts_with("FETCH ") => flags_fetch(rest),
            _ => {
                self.last = None;
                None
            }
        };
        let Some(wanted) = wanted else {
            self.selected = None;
            return Decision::Pass;
        };
        if is_fresh {
            if let Some(messages) = self.last.take() {
                self.begin_answer(tag.as_bytes(), wanted, messages);
                return Decision::Answer;
            }
        }
        // One try for each SELECT.
        let is_small = wanted.len() < u64::from(FEWEST);
        let (selected, questions) = (self.selected.take(), self.questions.take());
        let both = selected.zip(questions).filter(|_| at_rest && !is_small);
        let Some((selected, questions)) = both else { return Decision::Pass };
        self.spared -= i64::try_from(questions.moved).unwrap_or(i64::MAX);
        self.known_fetch(&selected, questions, tag, line, wanted).unwrap_or(Decision::Pass)
    }

    /// A mailbox is opened.
    fn select(&mut self, tag: &str, rest: &str, at_rest: bool) -> Decision {
        self.leave();
        (self.selected, self.questions) = (None, None);
        let Some(name) = mailbox_name(rest).filter(|_| at_rest) else { return Decision::Pass };
        let known = self.known.get(&name);
        let known = known.and_then(|known| Some((known.since, known.read()?)));
        let tag = Some(tag.as_bytes().to_vec());
        self.selected = Some(Selected { name, tag, ..Selected::default() });
        let Some((since, recorded)) = known else { return Decision::Pass };
        let [search, fetch, _] = TAGS;
        let which = match &recorded.uids {
            Some(known) => format!("UID {}:*", known.next()),
            None => "ALL".to_owned(),
        };
        let question = format!(
            "{search} UID SEARCH RETURN (ALL) {which}\r\n\
             {fetch} UID FETCH 1:* (UID FLAGS) (CHANGEDSINCE {since})\r\n"
        );
        let (moved, recorded) = (question.len() as u64, Some(recorded));
        self.questions = Some(Questions { open: 2, recorded, moved, ..Questions::default() });
        Decision::PassAndAsk(question.into_bytes())
    }

    /// What to do with a fetch of flags, by the answers to our questions; `None`: only the
    /// server can answer it.
    fn known_fetch(
        &mut self,
        selected: &Selected,
        questions: Questions,
        tag: &str,
        line: &[u8],
        wanted: UidSet,
    ) -> Option<Decision> {
        let known = self.known.get(&selected.name).filter(|_| selected.tag.is_none())?;
        let status = selected.status()?;
        if !(FEWEST..=MOST_MESSAGES).contains(&status.messages)
            || status.uid_validity != known.clean.status.uid_validity
            || status.highest_modseq.is_none_or(|modseq| modseq < known.since)
        {
            return None;
        }
        let Questions { recorded, uids, told, in_doubt, .. } = questions;
        let Recorded { flags, uids: before } = recorded.filter(|_| known.is_of_now())?;
        let found = uids.filter(|_| !in_doubt)?;
        let uids = before.as_ref().map_or_else(|| found.clone(), |before| before.with(&found));
        let is_all = uids.len() == u64::from(status.messages);
        // A server that leaves some out (MESSAGELIMIT, a bug) would have mbsync delete them.
        if !is_all && before.is_none() || uids.len() > u64::from(MOST_MESSAGES) {
            return None;
        }
        let (name, tag) = (selected.name.clone(), tag.as_bytes().to_vec());
        let held =
            DelayedFetch { tag, line: line.to_vec(), wanted, name, status, known: flags, uids };
        let rest = held.without_flags(&told);
        if is_all && rest.is_empty() {
            self.answer(held, told);
            return Some(Decision::Answer);
        }
        let [search, _, fetch] = TAGS;
        let mut question = String::new();
        // Some of what was there is gone.
        if !is_all {
            question.extend([search, " UID SEARCH RETURN (ALL) ALL\r\n"]);
        }
        if !rest.is_empty() {
            question.extend([fetch, " UID FETCH ", &rest.to_string(), " (UID FLAGS)\r\n"]);
        }
        if question.len() > LONGEST_SET || rest.len() > MOST_CHANGED as u64 {
            return None;
        }
        let (open, moved) = (question.lines().count(), question.len() as u64);
        self.questions = Some(Questions { open, told, moved, ..Questions::default() });
        self.held = Some(held);
        Some(Decision::Ask(question.into_bytes()))
    }

    /// A response to mbsync, in passing.
    pub fn overhear(&mut self, line: &[u8]) {
        self.is_fresh = false;
        let Some(selected) = &mut self.selected else { return };
        match parse::reply(line) {
            Reply::Tagged(tag, said) if selected.tag.as_deref() == Some(tag) => {
                selected.tag = None;
                if said.verb != Verb::Ok {
                    self.selected = None;
                }
            }
            // What comes after it, comes from elsewhere.
            Reply::Numbered(number, word, _) if word.eq_ignore_ascii_case(b"EXISTS") => {
                selected.exists = Some(number).filter(|_| selected.tag.is_some());
            }
            Reply::Numbered(_, word, _) if word.eq_ignore_ascii_case(b"EXPUNGE") => {
                self.selected = None;
            }
            Reply::Condition(said) if said.verb == Verb::Ok => match said.number() {
                Some(number) if said.has_code("UIDVALIDITY") => {
                    selected.uid_validity = u32::try_from(number).ok();
                }
                Some(number) if said.has_code("UIDNEXT") => {
                    selected.uid_next = u32::try_from(number).ok();
                }
                Some(number) if said.has_code("HIGHESTMODSEQ") => {
                    selected.highest_modseq = Some(number);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A response while questions of ours are open.
    pub fn hear(&mut self, response: &[u8]) -> Next {
        let is_selecting = self.selected.as_ref().is_some_and(|selected| selected.tag.is_some());
        let Some(questions) = &mut self.questions else { return Next::Pass };
        let reply = parse::reply(response);
        let ours = is_ours(&reply);
        if is_selecting && !ours {
            self.overhear(response);
            return Next::Pass;
        }
        questions.in_doubt |= is_selecting;
        questions.moved += response.len() as u64;
        match reply {
            Reply::Tagged(_, said) if ours => {
                // OK with a code may be half an answer: MESSAGELIMIT (RFC 9738).
                questions.in_doubt |= said.verb != Verb::Ok
                    || !said.code.is_empty() && !said.has_code("HIGHESTMODSEQ");
                questions.open = questions.open.saturating_sub(1);
                if questions.open > 0 { Next::More } else { self.answered() }
            }
            Reply::Data(_, rest) if ours => {
                match parse::esearch(rest.trim_ascii_end(), TAGS[0]) {
                    Some(uids) if questions.uids.is_none() => questions.uids = Some(uids),
                    _ => questions.in_doubt = true,
                }
                Next::More
            }
            Reply::Numbered(_, word, rest) if word.eq_ignore_ascii_case(b"FETCH") => {
                match told_flags(rest) {
                    Some((uid, told)) if questions.told.len() < MOST_CHANGED => {
                        questions.told.insert(uid, told);
                    }
                    _ => questions.in_doubt = true,
                }
                Next::More
            }
            Reply::Condition(said) if said.verb == Verb::Ok => {
                // HIGHESTMODSEQ, which the first CHANGEDSINCE may bring (RFC 7162, 3.1).
                if said.has_code("HIGHESTMODSEQ") { Next::More } else { Next::Pass }
            }
            // Another message, or one less.
            _ => {
                questions.in_doubt = true;
                Next::Pass
            }
        }
    }

    /// All questions are answered. What was asked at the SELECT waits for mbsync's fetch.
    fn answered(&mut self) -> Next {
        let Some(mut held) = self.held.take() else { return Next::More };
        let Questions { uids, told, in_doubt, moved, .. } =
            self.questions.take().unwrap_or_default();
        self.spared -= i64::try_from(moved).unwrap_or(i64::MAX);
        if !held.is_complete() {
            held.uids = uids.unwrap_or_default();
        }
        if in_doubt || !held.is_complete() || !held.without_flags(&told).is_empty() {
            return Next::GiveUp(held.tag, held.line);
        }
        self.answer(held, told);
        Next::Answer
    }

    fn answer(&mut self, held: DelayedFetch, told: BTreeMap<u32, ToldFlags>) {
        let DelayedFetch { tag, wanted, name, status, known, uids, .. } = held;
        self.begin_answer(&tag, wanted, Messages { name, status, uids, known, told });
    }

    fn begin_answer(&mut self, tag: &[u8], wanted: UidSet, messages: Messages) {
        let first = messages.uids.ranges().first().map_or(0, |(first, _)| *first);
        self.answer = Some(FlagsAnswer { tag: tag.to_vec(), wanted, messages, at: (0, first, 1) });
    }

    /// The next lines of the answer, about so many bytes.
    pub fn give(&mut self, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(mut answer) = self.answer.take() else { return out };
        let done = answer.give(room, &mut out);
        self.spared += i64::try_from(out.len()).unwrap_or(0);
        if done {
            self.last = Some(answer.messages);
            self.is_fresh = true;
        } else {
            self.answer = Some(answer);
        }
        out
    }
}

impl DelayedFetch {
    /// Whether its UIDs are as many as there are messages.
    fn is_complete(&self) -> bool {
        self.uids.len() == u64::from(self.status.messages)
    }

    /// The messages whose flags nobody has told.
    fn without_flags(&self, told: &BTreeMap<u32, ToldFlags>) -> UidSet {
        let known = |uid: u32| {
            told.contains_key(&uid)
                || self.known.binary_search_by_key(&uid, |(uid, _)| *uid).is_ok()
        };
        // As many as there are messages, so it may be walked.
        UidSet::from_uids(self.uids.uids().filter(|uid| !known(*uid)))
    }
}

impl Selected {
    fn status(&self) -> Option<ServerStatus> {
        Some(ServerStatus {
            uid_validity: self.uid_validity?,
            uid_next: self.uid_next?,
            messages: self.exists?,
            highest_modseq: self.highest_modseq,
        })
    }
}

impl FlagsAnswer {
    /// Whether that was the end.
    fn give(&mut self, room: usize, out: &mut Vec<u8>) -> bool {
        let (mut range, mut uid, mut sequence) = self.at;
        while let Some(&(_, last)) = self.messages.uids.ranges().get(range) {
            if out.len() >= room {
                self.at = (range, uid, sequence);
                return false;
            }
            if self.wanted.contains(uid) {
                let flags = self.messages.flags(uid).unwrap_or_default();
                out.extend_from_slice(format!("* {sequence} FETCH (UID {uid} FLAGS ").as_bytes());
                out.extend_from_slice(&flags);
                out.extend_from_slice(b")\r\n");
            }
            sequence += 1;
            if uid < last {
                uid += 1;
            } else {
                range += 1;
                uid = self.messages.uids.ranges().get(range).map_or(0, |(first, _)| *first);
            }
        }
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(b" OK from what has not changed\r\n");
        true
    }
}

/// The name in a SELECT: quoted or an atom.
pub(super) fn mailbox_name(rest: &str) -> Option<String> {
    let Some(quoted) = rest.strip_prefix('"') else {
        return (!rest.is_empty() && !rest.contains([' ', '{', '"'])).then(|| rest.to_owned());
    };
    let (mut name, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(name),
            '\\' => name.push(chars.next()?),
            other => name.push(other),
        }
    }
}

/// The set of a `FETCH set (UID FLAGS)`, in the form that both isyncs use (`drv_imap.c`,
/// `imap_submit_load`).
fn flags_fetch(rest: &str) -> Option<UidSet> {
    let set = rest.strip_prefix("FETCH ")?.strip_suffix(" (UID FLAGS)")?;
    UidSet::parse(set)
}

/// Whether only a question of ours leads to such a response.
fn is_ours(reply: &Reply<'_>) -> bool {
    match reply {
        Reply::Tagged(tag, _) => TAGS.iter().any(|ours| ours.as_bytes() == *tag),
        Reply::Data(word, _) => word.eq_ignore_ascii_case(b"ESEARCH"),
        _ => false,
    }
}

/// UID and flags of a FETCH response.
fn told_flags(rest: &[u8]) -> Option<(u32, ToldFlags)> {
    const ITEM: &[u8] = b"FLAGS (";
    let (uid, flags) = parse::fetch_flags(rest)?;
    let at = rest.windows(ITEM.len()).position(|part| part.eq_ignore_ascii_case(ITEM))?;
    let words = rest.get(at + ITEM.len() - 1..)?;
    let end = words.iter().position(|byte| *byte == b')')?;
    Some((uid, ToldFlags { flags, words: words.get(..=end)?.to_vec() }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::verdict::Rules;
    use crate::verdict::server::UidDifference;

    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 7, uid_next: 12, messages: 10, highest_modseq: Some(50) };
    const SELECTED: [&str; 5] = [
        "* 10 EXISTS",
        "* OK [UIDVALIDITY 7] valid",
        "* OK [UIDNEXT 12] next",
        "* OK [HIGHESTMODSEQ 60] highest",
        "3 OK [READ-WRITE] done",
    ];
    const FETCH: &str = "4 UID FETCH 1:11 (UID FLAGS)\r\n";

    /// Messages 1 to 10, of which 3 is flagged and the others are seen.
    fn home() -> (tempfile::TempDir, Mailbox) {
        home_of(1..=10)
    }

    /// The same of these messages.
    fn home_of(uids: impl IntoIterator<Item = u32>) -> (tempfile::TempDir, Mailbox) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".mbsyncstate");
        let mut text =
            "FarUidValidity 7\nNearUidValidity 2\nMaxPulledUid 10\nMaxPushedUid 10\n\n".to_owned();
        for uid in uids {
            let flags = if uid == 3 { "F" } else { "S" };
            text.extend([format!("{uid} {uid} {flags}\n")]);
        }
        std::fs::write(&file, text).unwrap();
        let mailbox = Mailbox { state_file: Some(file), ..Mailbox::of_home("INBOX") };
        (dir, mailbox)
    }

    fn clean(mailbox: &Mailbox) -> CleanState {
        let file = mailbox.state_file.as_deref().unwrap();
        let record = record::parse(&std::fs::read(file).unwrap()).unwrap();
        let far = CleanServer::new(STATUS, &record, &Rules::none(), Stamp::of(file).ok());
        CleanState { far: Some(far), ..CleanState::default() }
    }

    /// What is known of ten messages.
    pub fn known() -> (tempfile::TempDir, KnownFlags) {
        let (dir, mailbox) = home();
        let known = KnownFlags::of(&mailbox, &clean(&mailbox), None).unwrap();
        (dir, known)
    }

    fn fetch_of(mailbox: &Mailbox, clean: &CleanState) -> FlagsFetch {
        let known = KnownFlags::of(mailbox, clean, None).unwrap();
        FlagsFetch::new(HashMap::from([("INBOX".to_owned(), known)]))
    }

    const QUESTION: &str = "k1 UID SEARCH RETURN (ALL) ALL\r\n\
                            k2 UID FETCH 1:* (UID FLAGS) (CHANGEDSINCE 50)\r\n";
    const NOTHING_NEW: [&str; 3] = ["* ESEARCH (TAG \"k1\") UID ALL 1:10", "k1 OK", "k2 OK"];

    fn select(fetch: &mut FlagsFetch, said: &[&str]) {
        let asked = Decision::PassAndAsk(QUESTION.into());
        assert_eq!(fetch.command(b"3 SELECT \"INBOX\"\r\n", true), asked);
        for line in said {
            assert_eq!(fetch.hear(format!("{line}\r\n").as_bytes()), Next::Pass);
        }
        assert!(fetch.is_asking());
    }

    /// A mailbox that is selected, while our questions are open.
    fn selected() -> (tempfile::TempDir, FlagsFetch) {
        let (dir, mailbox) = home();
        let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
        select(&mut fetch, &SELECTED);
        (dir, fetch)
    }

    /// The last decision on what the server says.
    fn hears(fetch: &mut FlagsFetch, said: &[&str]) -> Next {
        let mut next = Next::More;
        for line in said {
            assert!(matches!(next, Next::More | Next::Pass), "{next:?} before {line}");
            next = fetch.hear(format!("{line}\r\n").as_bytes());
        }
        next
    }

    fn asks(fetch: &mut FlagsFetch) -> Decision {
        fetch.command(FETCH.as_bytes(), true)
    }

    fn given(fetch: &mut FlagsFetch) -> Vec<String> {
        let mut out = Vec::new();
        while fetch.is_answering() {
            let part = fetch.give(64);
            assert!(part.len() < 200, "bounded");
            out.extend(part);
        }
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_response_code_without_a_number_leaves_the_one_before() {
        let (_dir, mailbox) = home();
        let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
        let [.., last] = SELECTED;
        let said =
            ["* OK [UIDVALIDITY x] ?", "* OK [HIGHESTMODSEQ] ?", "* OK [UIDVALIDITY] ?", last];
        select(&mut fetch, &[&SELECTED[..4], &said].concat());
        hears(&mut fetch, &NOTHING_NEW);
        assert_eq!(asks(&mut fetch), Decision::Answer);
    }

    #[test]
    fn what_has_not_changed_is_told_from_the_record() {
        let (_dir, mut fetch) = selected();
        let said = [
            "* ESEARCH (TAG \"k1\") UID ALL 1:3,5:11",
            "k1 OK search done",
            "* 2 FETCH (UID 2 FLAGS (\\Answered \\Recent word) MODSEQ (60))",
            "* 10 FETCH (MODSEQ (61) FLAGS () UID 11)",
            "* OK [HIGHESTMODSEQ 61] highest",
            "k2 OK fetch done",
        ];
        assert_eq!(hears(&mut fetch, &said), Next::More);
        assert!(!fetch.is_asking());
        assert_eq!(asks(&mut fetch), Decision::Answer);
        let lines = given(&mut fetch);
        assert_eq!(
            lines[..4],
            [
                "* 1 FETCH (UID 1 FLAGS (\\Seen))",
                "* 2 FETCH (UID 2 FLAGS (\\Answered \\Recent word))",
                "* 3 FETCH (UID 3 FLAGS (\\Flagged))",
                "* 4 FETCH (UID 5 FLAGS (\\Seen))",
            ]
        );
        assert_eq!(lines[9..], ["* 10 FETCH (UID 11 FLAGS ())", "4 OK from what has not changed"]);
        // A further part of the same fetch; then something else is said.
        let part = fetch.command(b"5 UID FETCH 3,10:11 (UID FLAGS)\r\n", true);
        assert_eq!(part, Decision::Answer);
        assert_eq!(
            given(&mut fetch),
            [
                "* 3 FETCH (UID 3 FLAGS (\\Flagged))",
                "* 9 FETCH (UID 10 FLAGS (\\Seen))",
                "* 10 FETCH (UID 11 FLAGS ())",
                "5 OK from what has not changed"
            ]
        );
        fetch.overhear(b"* 11 EXISTS\r\n");
        assert_eq!(fetch.command(b"6 UID FETCH 1:9 (UID FLAGS)\r\n", true), Decision::Pass);
    }

    /// A mailbox of which all has been told.
    fn told() -> (tempfile::TempDir, FlagsFetch) {
        let (dir, mut fetch) = selected();
        let said = [
            "* ESEARCH (TAG \"k1\") UID ALL 1:3,5:11",
            "k1 OK",
            "* 2 FETCH (UID 2 FLAGS (\\Answered word) MODSEQ (60))",
            "* 10 FETCH (UID 11 FLAGS () MODSEQ (60))",
            // Of one that came later.
            "* 11 FETCH (UID 12 FLAGS () MODSEQ (61))",
            "k2 OK",
        ];
        hears(&mut fetch, &said);
        assert_eq!(asks(&mut fetch), Decision::Answer);
        assert_eq!(given(&mut fetch).len(), 11);
        (dir, fetch)
    }

    #[test]
    fn what_mbsync_was_told_of_a_mailbox_that_it_did_not_change_is_a_scan() {
        let status = ServerStatus { uid_next: 12, highest_modseq: Some(60), ..STATUS };
        let read = ["5 UID FETCH 11 (BODY.PEEK[])", "6 NOOP"];
        for (last, then) in [
            ("7 CLOSE", Decision::Leave),
            ("7 SELECT INBOX/b", Decision::Pass),
            ("7 NOOP", Decision::Pass),
        ] {
            let (_dir, mut fetch) = told();
            for line in read {
                assert_eq!(fetch.command(format!("{line}\r\n").as_bytes(), true), Decision::Pass);
                fetch.overhear(b"* OK still here\r\n");
            }
            assert_eq!(fetch.command(format!("{last}\r\n").as_bytes(), true), then);
            let [ScanByRun { name, status: before, scan }] = &fetch.take_scans()[..] else {
                panic!("no scan after {last}")
            };
            assert_eq!((&name[..], *before), ("INBOX", status));
            assert_eq!(scan.uids.to_string(), "1:3,5:11");
            assert!(scan.all_flags && scan.flags.len() == 10);
            let answered = Flags::from_imap(["\\Answered"]);
            assert_eq!(scan.flags[1..3], [(2, answered), (3, Flags::FLAGGED)]);
            assert_eq!(scan.flags[9], (11, Flags::NONE));
            assert!(fetch.take_scans().is_empty());
        }
        for change in [
            "5 UID STORE 2 +FLAGS.SILENT (\\Seen)",
            "5 UID EXPUNGE 2",
            "5 UID MOVE 2 Trash",
            "5 EXPUNGE",
            "5 CHECK",
        ] {
            let (_dir, mut fetch) = told();
            assert_eq!(fetch.command(format!("{change}\r\n").as_bytes(), true), Decision::Pass);
            assert!(fetch.take_scans().is_empty(), "{change}");
        }
        let (_dir, mut fetch) = told();
        fetch.command_with_literal();
        assert!(fetch.take_scans().is_empty(), "APPEND");
    }

    #[test]
    fn a_close_that_may_expunge_something_is_the_servers() {
        let (_dir, mut fetch) = told();
        assert_eq!(fetch.command(b"5 CLOSE\r\n", false), Decision::Pass, "not at rest");
        let (_dir, mut fetch) = told();
        fetch.command(b"5 UID STORE 2 +FLAGS.SILENT (\\Seen)\r\n", true);
        assert_eq!(fetch.command(b"6 CLOSE\r\n", true), Decision::Pass, "changed");
        let (_dir, mut fetch) = selected();
        assert_eq!(fetch.command(b"4 CLOSE\r\n", true), Decision::Pass, "nothing is known");
        let (_dir, mut fetch) = selected();
        let [uids, k1, k2] = NOTHING_NEW;
        hears(&mut fetch, &[uids, k1, "* 2 FETCH (UID 2 FLAGS (\\Deleted))", k2]);
        assert_eq!(asks(&mut fetch), Decision::Answer);
        given(&mut fetch);
        assert_eq!(fetch.command(b"5 CLOSE\r\n", true), Decision::Pass, "something to expunge");
        assert_eq!(fetch.take_scans().len(), 1);
    }

    #[test]
    fn what_the_record_does_not_know_is_fetched() {
        let (_dir, mailbox) = home();
        let file = mailbox.state_file.as_deref().unwrap();
        // No near message; a placeholder; expired; no entry of 9.
        let text = std::fs::read_to_string(file).unwrap();
        let text = text
            .replace("\n1 1 S\n", "\n1 0 S\n")
            .replace("\n4 4 S\n", "\n4 4 >S\n")
            .replace("\n6 6 S\n", "\n6 6 ~S\n")
            .replace("\n9 9 S\n", "\n");
        std::fs::write(file, text).unwrap();
        let mut clean = clean(&mailbox);
        let deleted = UidSet::from_uids([7]);
        clean.gone = Some(Gone { deleted, ..Gone::default() });
        let mut fetch = fetch_of(&mailbox, &clean);
        select(&mut fetch, &SELECTED);
        hears(&mut fetch, &NOTHING_NEW);
        let question = Decision::Ask(b"k3 UID FETCH 1,4,6:7,9 (UID FLAGS)\r\n".to_vec());
        assert_eq!(asks(&mut fetch), question);
        let said: Vec<String> =
            [1, 4, 6, 7].map(|uid| format!("* {uid} FETCH (UID {uid} FLAGS ())")).into();
        let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
        said.extend(["* 9 FETCH (UID 9 FLAGS (\\Deleted))", "k3 OK done"]);
        assert_eq!(hears(&mut fetch, &said), Next::Answer);
        let lines = given(&mut fetch);
        assert_eq!((lines.len(), &*lines[8]), (11, "* 9 FETCH (UID 9 FLAGS (\\Deleted))"));
        assert_eq!(lines[1], "* 2 FETCH (UID 2 FLAGS (\\Seen))");
    }

    #[test]
    fn in_doubt_the_server_is_asked() {
        const UIDS: &str = "* ESEARCH (TAG \"k1\") UID ALL 1:10";
        let rows: [&[&str]; 13] = [
            // Fewer than there are, more, none, another's, twice.
            &["* ESEARCH (TAG \"k1\") UID ALL 1:9", "k1 OK", "k2 OK"],
            &["* ESEARCH (TAG \"k1\") UID ALL 1:4294967295", "k1 OK", "k2 OK"],
            &["* ESEARCH (TAG \"k1\") UID", "k1 OK", "k2 OK"],
            &["k1 OK", "k2 OK"],
            &["* ESEARCH (TAG \"k9\") UID ALL 1:10", "k1 OK", "k2 OK"],
            &[UIDS, UIDS, "k1 OK", "k2 OK"],
            // Refused.
            &[UIDS, "k1 NO [MESSAGELIMIT] too many", "k2 OK"],
            &[UIDS, "k1 OK", "k2 BAD CHANGEDSINCE"],
            // Not all of it.
            &[UIDS, "k1 OK [MESSAGELIMIT 10 1] some", "k2 OK"],
            &[UIDS, "k1 OK", "k2 OK [MESSAGELIMIT 1000 5] some"],
            // Something happens meanwhile; flags of an unknown message.
            &[UIDS, "k1 OK", "* 3 EXPUNGE", "k2 OK"],
            &[UIDS, "* 11 EXISTS", "k1 OK", "k2 OK"],
            &[UIDS, "k1 OK", "* 3 FETCH (FLAGS (\\Seen))", "k2 OK"],
        ];
        for said in rows {
            let (_dir, mut fetch) = selected();
            hears(&mut fetch, said);
            assert!(!fetch.is_asking());
            assert_eq!(asks(&mut fetch), Decision::Pass, "{said:?}");
        }
        // Before the SELECT is answered.
        let (_dir, mailbox) = home();
        let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
        select(&mut fetch, &SELECTED[..4]);
        hears(&mut fetch, &NOTHING_NEW);
        fetch.overhear(b"3 OK [READ-WRITE] done\r\n");
        assert_eq!(asks(&mut fetch), Decision::Pass);
        // The rest is not told either.
        for (rest, end) in [
            ("* 9 FETCH (UID 9 FLAGS ())", "k3 OK"),
            ("* 3 EXPUNGE", "k3 OK"),
            ("* 10 FETCH (UID 11 FLAGS ())", "k3 OK [MESSAGELIMIT 1] some"),
        ] {
            let (_dir, mut fetch) = selected();
            hears(&mut fetch, &["* ESEARCH (TAG \"k1\") UID ALL 1:9,11", "k1 OK", "k2 OK"]);
            assert!(matches!(asks(&mut fetch), Decision::Ask(_)));
            let give_up = Next::GiveUp(b"4".to_vec(), FETCH.into());
            assert_eq!(hears(&mut fetch, &[rest, end]), give_up, "{rest}");
            assert!(!fetch.is_asking() && !fetch.is_answering());
        }
    }

    #[test]
    fn what_is_not_as_it_was_is_not_answered() {
        let replaced = |from: &str, to: &str| {
            SELECTED.map(|line| if line.contains(from) { to.to_owned() } else { line.to_owned() })
        };
        for said in [
            replaced("UIDVALIDITY", "* OK [UIDVALIDITY 8] another"),
            replaced("HIGHESTMODSEQ", "* OK [NOMODSEQ] none"),
            replaced("HIGHESTMODSEQ", "* OK [HIGHESTMODSEQ 49] counts backwards"),
            replaced("EXISTS", "* 7 EXISTS"),
            replaced("EXISTS", "* 8000001 EXISTS"),
            replaced("3 OK", "3 NO not here"),
        ] {
            let (_dir, mailbox) = home();
            let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
            select(&mut fetch, &said.each_ref().map(String::as_str));
            hears(&mut fetch, &NOTHING_NEW);
            assert_eq!(asks(&mut fetch), Decision::Pass, "{said:?}");
        }
        for command in [
            "4 UID FETCH 1:11 (UID FLAGS RFC822.SIZE)\r\n",
            "4 UID FETCH 1:11 (UID)\r\n",
            "4 UID FETCH 1:* (UID FLAGS)\r\n",
            "4 UID FETCH 1:11 (UID FLAGS BODY.PEEK[HEADER.FIELDS (X-TUID)])\r\n",
            "4 FETCH 1:11 (UID FLAGS)\r\n",
        ] {
            let (_dir, mailbox) = home();
            let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
            select(&mut fetch, &SELECTED);
            hears(&mut fetch, &NOTHING_NEW);
            assert_eq!(fetch.command(command.as_bytes(), true), Decision::Pass, "{command}");
            // Nor what follows: mbsync is not loading the mailbox as it usually does.
            assert_eq!(asks(&mut fetch), Decision::Pass, "{command}");
        }
        // Something else is under way; something has been said since.
        let (dir, mailbox) = home();
        let mut fetch = fetch_of(&mailbox, &clean(&mailbox));
        select(&mut fetch, &SELECTED);
        hears(&mut fetch, &NOTHING_NEW);
        assert_eq!(fetch.command(FETCH.as_bytes(), false), Decision::Pass);
        for said in ["* 3 EXPUNGE", "* 11 EXISTS"] {
            select(&mut fetch, &SELECTED);
            hears(&mut fetch, &NOTHING_NEW);
            fetch.overhear(format!("{said}\r\n").as_bytes());
            assert_eq!(asks(&mut fetch), Decision::Pass, "{said}");
        }
        assert_eq!(fetch.command(b"3 SELECT INBOX\r\n", false), Decision::Pass);
        // Another mailbox, another record.
        assert_eq!(fetch.command(b"8 SELECT INBOX/b\r\n", true), Decision::Pass);
        for line in SELECTED {
            fetch.overhear(line.replace('3', "8").as_bytes());
        }
        assert_eq!(asks(&mut fetch), Decision::Pass);
        select(&mut fetch, &SELECTED);
        hears(&mut fetch, &NOTHING_NEW);
        let file = dir.path().join(".mbsyncstate");
        std::fs::copy(&file, dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!(asks(&mut fetch), Decision::Pass);
        // Or known to be another one before.
        let clean = clean(&mailbox);
        std::fs::copy(&file, dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        assert!(KnownFlags::of(&mailbox, &clean, None).is_none());
    }

    #[test]
    fn a_record_in_doubt_is_not_believed() {
        for (from, to) in [
            // Of another mailbox; a message in two pairs; not a record.
            ("FarUidValidity 7", "FarUidValidity 8"),
            ("\n5 5 S\n", "\n5 5 S\n5 25 F\n"),
            ("\n5 5 S\n", "\n5 five S\n"),
        ] {
            let (_dir, mailbox) = home();
            let file = mailbox.state_file.as_deref().unwrap();
            let text = std::fs::read_to_string(file).unwrap();
            let mut clean = clean(&mailbox);
            std::fs::write(file, text.replace(from, to)).unwrap();
            clean.far.as_mut().unwrap().record = Stamp::of(file).ok();
            let mut fetch = fetch_of(&mailbox, &clean);
            assert_eq!(fetch.command(b"3 SELECT \"INBOX\"\r\n", true), Decision::Pass, "{to}");
            for line in SELECTED {
                fetch.overhear(line.as_bytes());
            }
            assert!(!fetch.is_asking());
            assert_eq!(asks(&mut fetch), Decision::Pass, "{to}");
        }
        // What a run has begun, the next finishes first.
        let (dir, mailbox) = home();
        let clean = clean(&mailbox);
        assert!(KnownFlags::of(&mailbox, &clean, None).is_some());
        for suffix in ["journal", "new"] {
            std::fs::write(dir.path().join(format!(".mbsyncstate.{suffix}")), "x").unwrap();
        }
        assert!(KnownFlags::of(&mailbox, &clean, None).is_none());
    }

    /// Messages 1, 3, 5 … 19, and what was there when 17 and 19 had not come yet.
    fn with_holes() -> (tempfile::TempDir, FlagsFetch) {
        let odd = || (1..20).step_by(2);
        let (dir, mailbox) = home_of(odd());
        let mut clean = clean(&mailbox);
        let file = mailbox.state_file.as_deref().unwrap();
        let record = record::parse(&std::fs::read(file).unwrap()).unwrap();
        let found = UidSet::from_uids(odd());
        let far = clean.far.as_mut().unwrap();
        far.status.uid_next = 16;
        far.beside = UidDifference::of(&found, &record);
        let fetch = fetch_of(&mailbox, &clean);
        (dir, fetch)
    }

    /// The last line of the answer, if the server tells these UIDs from 16 on.
    fn from_known(new: &str, exists: u32) -> (FlagsFetch, Decision) {
        let (_dir, mut fetch) = with_holes();
        let asked = "k1 UID SEARCH RETURN (ALL) UID 16:*\r\n\
                     k2 UID FETCH 1:* (UID FLAGS) (CHANGEDSINCE 50)\r\n";
        let asked = Decision::PassAndAsk(asked.into());
        assert_eq!(fetch.command(b"3 SELECT \"INBOX\"\r\n", true), asked);
        for line in SELECTED {
            let line = line.replace("10 EXISTS", &format!("{exists} EXISTS"));
            assert_eq!(fetch.hear(format!("{line}\r\n").as_bytes()), Next::Pass);
        }
        hears(&mut fetch, &[&format!("* ESEARCH (TAG \"k1\") UID{new}"), "k1 OK", "k2 OK"]);
        let decision = asks(&mut fetch);
        (fetch, decision)
    }

    #[test]
    fn where_there_are_holes_only_what_is_new_is_asked_for() {
        let (mut fetch, decision) = from_known(" ALL 17,19", 10);
        assert_eq!(decision, Decision::Answer);
        let lines = given(&mut fetch);
        assert_eq!(lines.len(), 7, "1:11 was asked for: {lines:?}");
        assert_eq!(lines[5], "* 6 FETCH (UID 11 FLAGS (\\Seen))");
        // The last message, told for `16:*` where there is nothing new.
        assert_eq!(from_known(" ALL 15", 8).1, Decision::Answer);
    }

    #[test]
    fn where_something_is_gone_all_is_asked_for() {
        let all = Decision::Ask(b"k1 UID SEARCH RETURN (ALL) ALL\r\n".into());
        for (told, exists, next) in [
            // 3 is gone.
            ("1,5,7,9,11,13,15,17,19", 9, Next::Answer),
            ("1,5,7,9,11,13,15,17", 9, Next::GiveUp(b"4".to_vec(), FETCH.into())),
        ] {
            let (mut fetch, decision) = from_known(" ALL 17,19", exists);
            assert_eq!(decision, all);
            let told = format!("* ESEARCH (TAG \"k1\") UID ALL {told}");
            assert_eq!(hears(&mut fetch, &[&told, "k1 OK"]), next);
        }
        // As many as there were: 3 is gone, and 21 has come.
        let (mut fetch, decision) = from_known(" ALL 17,19,21", 10);
        let both = "k1 UID SEARCH RETURN (ALL) ALL\r\nk3 UID FETCH 21 (UID FLAGS)\r\n";
        assert_eq!(decision, Decision::Ask(both.into()));
        let told = "* ESEARCH (TAG \"k1\") UID ALL 1,5,7,9,11,13,15,17,19,21";
        let flags = "* 10 FETCH (UID 21 FLAGS (\\Draft))";
        assert_eq!(hears(&mut fetch, &[told, "k1 OK", flags, "k3 OK"]), Next::Answer);
        // More than a mailbox can have.
        assert_eq!(from_known(" ALL 16:4294967295", 10).1, Decision::Pass);
    }

    #[test]
    fn names_of_mailboxes_are_read_as_mbsync_writes_them() {
        for (said, name) in [
            ("\"INBOX\"", Some("INBOX")),
            ("INBOX", Some("INBOX")),
            (r#""a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            ("\"a\" (CONDSTORE)", None),
            ("{5}", None),
            ("", None),
            ("\"a", None),
        ] {
            assert_eq!(mailbox_name(said).as_deref(), name, "{said}");
        }
    }
}
