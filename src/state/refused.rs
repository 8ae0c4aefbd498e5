//! `refused.json`: what mbsync could not carry, per mailbox, until it is carried,
//! gone or acknowledged; and what mbsync said that is to be said once.
//!
//! An exit status of mbsync's clears nothing here. Knows values only: what a message
//! looks like now is for [`crate::sync::refused`] to say.
//!
//! Does not depend on: mbsync, records, Maildirs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::StateDir;
use super::backoff::{BackoffPolicy, seconds};

/// The account's file.
pub const FILE: &str = "refused.json";
/// The entry of what no mailbox is known for.
pub const UNNAMED: &str = "";

/// Held while the file is read and written back.
const LOCK: &str = "refused.lock";
/// Most messages kept by number; of further ones only how many.
const MOST_ITEMS: usize = 200;
/// Most texts kept that are said once. The oldest are said again then.
const MOST_NOTICES: usize = 50;
/// Longest text kept, in characters.
const LONGEST: usize = 300;

/// When a refused mailbox is tried again: freed quota shows in no fingerprint.
const TRY_AGAIN: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(60), longest: Duration::from_secs(60 * 60) };

/// What is kept of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedState {
    /// By [`super::clean::key`], or [`UNNAMED`].
    pub mailboxes: BTreeMap<String, RefusedMailbox>,
    /// What mbsync and the server said beside that.
    pub notices: Vec<SaidOnce>,
}

/// A text that is said once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaidOnce {
    /// The text.
    pub text: String,
    /// When it came, seconds since the epoch.
    pub since: u64,
    /// A command has said it.
    pub said: bool,
}

/// What is kept of a mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedMailbox {
    /// What was refused.
    pub items: Vec<RefusedItem>,
    /// So many more, of which no number is kept.
    pub more: u32,
    /// Tries in a row that did not help.
    pub tries: u32,
    /// When the last one was made, seconds since the epoch.
    pub tried: u64,
    /// When the next one is due, seconds since the epoch.
    pub next: u64,
    /// Messages that have no copy are not mentioned up to these UIDs: here, and on the
    /// server. With the UIDVALIDITY that they are of.
    pub acknowledged: [Option<(u32, u32)>; 2],
}

/// What could not be carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedItem {
    /// What it is.
    pub what: RefusedKind,
    /// Its UID, on the side that it could not be carried from; for flags the far UID.
    #[serde(default)]
    pub uid: u32,
    /// The UIDVALIDITY that it goes with; 0: not known.
    #[serde(default)]
    pub validity: u32,
    /// What mbsync said; empty where only the record shows it.
    #[serde(default)]
    pub text: String,
    /// Since when, seconds since the epoch.
    #[serde(default)]
    pub since: u64,
    /// A command has said it.
    #[serde(default)]
    pub said: bool,
    /// Not to be mentioned any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acknowledged: bool,
}

/// The kinds of what could not be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusedKind {
    /// A message here that is not on the server. mbsync does not try again.
    Push,
    /// A message on the server that is not here. mbsync does not try again.
    Pull,
    /// A message's flags. Tried by each run.
    Flags,
    /// The whole mailbox. Tried by each run.
    Mailbox,
    /// mbsync's record of the mailbox.
    Record,
}

impl RefusedKind {
    /// mbsync tries it in each run of the mailbox: a run that says nothing of it has
    /// done it.
    #[must_use]
    pub fn is_tried_each_run(self) -> bool {
        matches!(self, RefusedKind::Flags | RefusedKind::Mailbox | RefusedKind::Record)
    }
}

/// What became of an item that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is new, or mbsync says for the first time why.
    New,
    /// It was there.
    Known,
    /// Not kept: there are too many.
    TooMany,
}

impl RefusedItem {
    /// One that no command has said yet.
    #[must_use]
    pub fn new(what: RefusedKind, uid: u32, validity: u32, text: &str, now: SystemTime) -> Self {
        let (text, since) = (text.to_owned(), seconds(now));
        RefusedItem { what, uid, validity, text, since, said: false, acknowledged: false }
    }

    /// Only the record shows it: mbsync said nothing.
    #[must_use]
    pub fn is_by_record(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether both are of the same thing. A UID of another UIDVALIDITY is of another one.
    #[must_use]
    pub fn is_same(&self, other: &RefusedItem) -> bool {
        let validity = [self.validity, other.validity];
        let numbered = self.uid != 0
            && (self.what, self.uid) == (other.what, other.uid)
            && (validity.contains(&0) || self.validity == other.validity);
        numbered || self.uid == 0 && self.what == other.what && self.text == other.text
    }
}

impl RefusedMailbox {
    /// Nothing is to be said of it, and nothing to be kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.more == 0 && self.acknowledged == [None; 2]
    }

    /// What is to be mentioned.
    pub fn open_items(&self) -> impl Iterator<Item = &RefusedItem> {
        self.items.iter().filter(|item| !item.acknowledged)
    }

    /// Something is refused here.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.more > 0 || self.open_items().next().is_some()
    }

    /// Adds an item that is not there yet.
    pub fn add(&mut self, mut item: RefusedItem) -> Added {
        item.text = item.text.chars().take(LONGEST).collect();
        if let Some(known) = self.items.iter_mut().find(|known| known.is_same(&item)) {
            // What mbsync says is more than what the record shows.
            let is_first = known.is_by_record() && !item.is_by_record();
            if is_first {
                *known =
                    RefusedItem { since: known.since, acknowledged: known.acknowledged, ..item };
            } else if !item.is_by_record() {
                known.text = item.text;
            }
            return if is_first { Added::New } else { Added::Known };
        }
        if self.items.len() >= MOST_ITEMS {
            return Added::TooMany;
        }
        self.items.push(item);
        Added::New
    }

    /// Adds all that a run could not carry here. Returns what is new of it, and how many
    /// more there are than before, of which no number is kept. `well`: the run was not cut
    /// short, so that what it tried again is all there.
    pub fn add_all(&mut self, items: Vec<RefusedItem>, well: bool) -> (Vec<RefusedItem>, u32) {
        let known = self.items.clone();
        let mut is_again = false;
        let (mut new, mut others) = (vec![], BTreeSet::new());
        for item in items {
            is_again |= known.iter().any(|known| known.is_same(&item));
            match self.add(item.clone()) {
                Added::New => new.push(item),
                Added::Known => {}
                Added::TooMany => {
                    let text = if item.uid == 0 { item.text } else { String::new() };
                    others.insert((item.what, item.uid, text));
                }
            }
        }
        let (before, others) = (self.more, u32::try_from(others.len()).unwrap_or(u32::MAX));
        let is_open = self.open_items().next().is_some();
        self.more = match (is_again, is_open) {
            // All of it is acknowledged.
            (true, false) => 0,
            // The others were tried again, too.
            (true, true) if well => others,
            // Some of them were.
            (true, true) => before.max(others),
            (false, _) => before.saturating_add(others),
        };
        (new, self.more.saturating_sub(before))
    }

    /// What those are of which no number is kept, as far as that is known: what most are.
    #[must_use]
    pub fn kind_of_more(&self) -> Option<RefusedKind> {
        let mut counts: BTreeMap<RefusedKind, usize> = BTreeMap::new();
        self.open_items().for_each(|item| *counts.entry(item.what).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(what, _)| what)
    }

    /// Another try did not help. One that was asked for lengthens no wait.
    pub fn tried(&mut self, now: SystemTime, asked_for: bool) {
        self.tries = if asked_for { self.tries.max(1) } else { self.tries.saturating_add(1) };
        let wait = TRY_AGAIN.delay(self.tries, false);
        self.tried = seconds(now);
        self.next = self.tried.saturating_add(wait.as_secs());
    }

    /// How long until the next try is due; `None` if there is nothing to try.
    #[must_use]
    pub fn due_in(&self, now: SystemTime) -> Option<Duration> {
        let tries = self.open_items().any(|item| !item.is_by_record());
        (tries && self.next > 0).then(|| TRY_AGAIN.left(self.tried, self.next, now))
    }
}

impl RefusedState {
    /// What the file says.
    #[must_use]
    pub fn read(dir: &StateDir) -> Self {
        dir.read_json(FILE).unwrap_or_default()
    }

    /// Changes the file, if `change` changes anything. It may be called more than once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn update<T>(
        dir: &StateDir,
        mut change: impl FnMut(&mut RefusedState) -> T,
    ) -> io::Result<T> {
        dir.update_json(FILE, LOCK, |state: &mut RefusedState| {
            let result = change(state);
            state.mailboxes.retain(|_, mailbox| !mailbox.is_empty());
            let most = state.notices.len().saturating_sub(MOST_NOTICES);
            state.notices.drain(..most);
            result
        })
    }

    /// Something is refused in this mailbox (by [`super::clean::key`]), so that a
    /// request of a person for it is never answered with "nothing to do".
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        self.mailboxes.get(key).is_some_and(RefusedMailbox::is_refused)
    }

    /// The mailboxes that are to be tried again now.
    pub fn due(&self, now: SystemTime) -> impl Iterator<Item = &str> {
        let due = move |mailbox: &RefusedMailbox| mailbox.due_in(now) == Some(Duration::ZERO);
        self.mailboxes.iter().filter(move |(_, mailbox)| due(mailbox)).map(|(key, _)| key.as_str())
    }

    /// How long until one is that `exists`, by key: the configuration may be another now.
    #[must_use]
    pub fn next_due(&self, now: SystemTime, exists: impl Fn(&str) -> bool) -> Option<Duration> {
        let existing = self.mailboxes.iter().filter(|(key, _)| exists(key));
        existing.filter_map(|(_, mailbox)| mailbox.due_in(now)).min()
    }

    /// Adds a text to be said once. True if it is new.
    pub fn notice(&mut self, text: &str, now: SystemTime) -> bool {
        let text: String = text.chars().take(LONGEST).collect();
        if self.notices.iter().any(|known| known.text == text) {
            return false;
        }
        self.notices.push(SaidOnce { text, since: seconds(now), said: false });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: u32, text: &str) -> RefusedItem {
        RefusedItem::new(RefusedKind::Push, uid, 1, text, at(5))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn g13_what_mbsync_says_beats_what_the_record_shows() {
        let mut mailbox = RefusedMailbox::default();
        assert_eq!(mailbox.add(item(3, "")), Added::New);
        assert_eq!(mailbox.add(item(3, "")), Added::Known);
        assert!(mailbox.items[0].is_by_record());
        assert_eq!(mailbox.add(item(3, "over quota")), Added::New, "that is news");
        assert_eq!(mailbox.add(item(3, "too big")), Added::Known, "another reason is none");
        assert_eq!(mailbox.add(item(3, "")), Added::Known);
        let texts: Vec<&str> = mailbox.items.iter().map(|item| &*item.text).collect();
        assert_eq!(texts, ["too big"]);
    }

    #[test]
    fn g13_more_than_are_kept_by_number_are_counted_and_said_once() {
        let mut mailbox = RefusedMailbox::default();
        let noted = |mailbox: &mut RefusedMailbox, uids: std::ops::Range<u32>, well: bool| {
            // mbsync objects to the first 200; the record shows all.
            let said = uids.clone().take(200).map(|uid| item(uid, "over quota"));
            let items = said.chain(uids.map(|uid| item(uid, ""))).collect();
            let (new, more) = mailbox.add_all(items, well);
            (new.len(), more, mailbox.items.len(), mailbox.more)
        };
        let tried = |mailbox: &mut RefusedMailbox, uids| noted(mailbox, uids, true);
        assert_eq!(tried(&mut mailbox, 1..301), (200, 100, 200, 100));
        for _ in 0..3 {
            assert_eq!(tried(&mut mailbox, 1..301), (0, 0, 200, 100));
        }
        // One that lost its connection after ten of them says nothing of the others.
        assert_eq!(noted(&mut mailbox, 1..11, false), (0, 0, 200, 100));
        assert_eq!(tried(&mut mailbox, 1..301), (0, 0, 200, 100));
        // A run that does not try them again looks at what is new only.
        assert_eq!(tried(&mut mailbox, 301..303), (0, 2, 200, 102));
        assert_eq!(tried(&mut mailbox, 1..303), (0, 0, 200, 102));
        assert_eq!(tried(&mut mailbox, 1..251), (0, 0, 200, 50), "some were carried");
        mailbox.items.iter_mut().for_each(|item| item.acknowledged = true);
        assert_eq!(tried(&mut mailbox, 1..251), (0, 0, 200, 0), "all are acknowledged");
    }

    #[test]
    fn g13_what_is_not_kept_by_number_is_of_one_kind() {
        let mut mailbox = RefusedMailbox::default();
        assert_eq!(mailbox.kind_of_more(), None);
        mailbox.add(RefusedItem::new(RefusedKind::Flags, 1, 1, "x", at(1)));
        mailbox.add_all(vec![item(1, "x"), item(2, "x")], true);
        assert_eq!(mailbox.kind_of_more(), Some(RefusedKind::Push));
        mailbox.items[1].acknowledged = true;
        mailbox.items[2].acknowledged = true;
        assert_eq!(mailbox.kind_of_more(), Some(RefusedKind::Flags));
    }

    #[test]
    fn g13_a_refused_mailbox_is_tried_again_after_a_minute_and_at_most_an_hour() {
        let mut mailbox = RefusedMailbox::default();
        mailbox.add(item(3, "over quota"));
        assert_eq!(mailbox.due_in(at(1000)), None, "not before a first try");
        let mut waits = vec![];
        for _ in 0..8 {
            mailbox.tried(at(1000), false);
            waits.push(mailbox.due_in(at(1000)).unwrap().as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        mailbox.tried(at(1000), true);
        assert_eq!(mailbox.tries, 8, "a person's try lengthens nothing");
        assert_eq!(mailbox.due_in(at(4600)), Some(Duration::ZERO));
        assert_eq!(mailbox.due_in(at(5)), Some(Duration::ZERO), "the clock was set back");
        mailbox.items[0].text.clear();
        assert_eq!(mailbox.due_in(at(9000)), None, "what only the record shows is not tried");
    }

    #[test]
    fn g13_the_file_is_gone_when_nothing_is_left_to_say() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let added = RefusedState::update(&dir, |state| {
            state.mailboxes.entry("Home\nSent".into()).or_default().add(item(1, "x"))
        });
        assert!(added.unwrap() == Added::New && RefusedState::read(&dir).holds("Home\nSent"));
        assert!(!RefusedState::read(&dir).holds("Home\nINBOX"));
        RefusedState::update(&dir, |state| state.mailboxes.clear()).unwrap();
        assert!(!dir.file(FILE).exists());
        let twice = RefusedState::update(&dir, |state| {
            [state.notice("x", at(1)), state.notice("x", at(2))]
        });
        assert_eq!(twice.unwrap(), [true, false]);
    }
}
