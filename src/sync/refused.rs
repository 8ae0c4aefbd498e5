//! What mbsync could not carry: which mailbox a line is about, whether it still
//! holds, and how it is tried again.
//!
//! mbsync names a message by its UID and seldom its mailbox. Its record tells: a mark
//! has moved past the UID, and there is no entry for it. mbsync looks at no such
//! message again (1.5 with Old does); setting the mark back makes it new.
//!
//! Reads records and Maildirs. Does not depend on: when a run is made, connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::context::AccountContext;
use super::forms::{Class, MessageSide, Objection, Subject};
use super::record_edit::set_back;
use super::summary::{ToSay, ago, name_of};
use crate::error::Error;
use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox, Target};
use crate::state::refused::{
    Added, RefusedItem, RefusedKind, RefusedMailbox, RefusedState, UNNAMED,
};
use crate::state::{StateDir, clean, state_failure};
use crate::text::{counted, sanitize, shell_operand};
use crate::verdict::maildir::{self, Numbered};
use crate::verdict::record::{self, Record, RecordState};
use crate::verdict::server::CleanServer;
use crate::verdict::{CleanState, Rules};

/// Most messages of one scan that are kept by number.
const MOST_FOUND: usize = 50;

/// A mailbox whose record a run has replaced, and what the marks have moved past.
#[derive(Debug, Clone)]
pub struct Replaced {
    mailbox: Mailbox,
    near: Passed,
    far: Passed,
}

/// The UIDs between a mark before a run and after it.
#[derive(Debug, Clone)]
struct Passed {
    validity: u32,
    after: u32,
    upto: u32,
    recorded: UidSet,
}

impl Passed {
    fn new(validity: u32, [after, upto]: [u32; 2], uids: impl Iterator<Item = u32>) -> Self {
        let recorded = UidSet::from_uids(uids.filter(|uid| *uid > after && *uid <= upto));
        Passed { validity, after, upto, recorded }
    }

    fn has(&self, uid: u32) -> bool {
        uid > self.after && uid <= self.upto && !self.recorded.contains(uid)
    }

    fn is_complete(&self) -> bool {
        self.recorded.len() >= u64::from(self.upto.saturating_sub(self.after))
    }
}

impl Replaced {
    /// What a run has done to the record of a mailbox.
    #[must_use]
    pub fn new(mailbox: &Mailbox, before: &Record, after: &Record) -> Self {
        let of = |same: bool, old: u32| if same { old } else { 0 };
        let near =
            [of(before.near_validity == after.near_validity, before.max_pushed), after.max_pushed];
        let far =
            [of(before.far_validity == after.far_validity, before.max_pulled), after.max_pulled];
        Replaced {
            mailbox: mailbox.clone(),
            near: Passed::new(after.near_validity, near, after.with_near().map(|entry| entry.near)),
            far: Passed::new(after.far_validity, far, after.far_uids()),
        }
    }

    fn side(&self, side: MessageSide) -> &Passed {
        match side {
            MessageSide::Near => &self.near,
            MessageSide::Far => &self.far,
        }
    }
}

/// What is known of a run when it has ended.
#[derive(Debug)]
pub struct RunFacts<'a> {
    /// The account.
    pub context: AccountContext<'a>,
    /// What was to be synced.
    pub targets: &'a BTreeSet<Target>,
    /// The mailboxes that it covers.
    pub scope: &'a [Mailbox],
    /// Those whose records were replaced.
    pub replaced: &'a [Replaced],
    /// What mbsync could not do.
    pub objections: &'a [Objection],
    /// What is to be said once.
    pub notices: &'a [String],
    /// All of it was reached: what is tried in each run and was not objected to, is done.
    pub well: bool,
    /// mbsync failed and did not say why.
    pub silent: bool,
    /// What mbsync has tried again; `None` without a run.
    pub retry: Option<RetryRefused>,
}

impl<'a> RunFacts<'a> {
    /// What is known where nothing was run: these mailboxes were compared.
    #[must_use]
    pub fn without_run(
        context: AccountContext<'a>,
        targets: &'a BTreeSet<Target>,
        scope: &'a [Mailbox],
    ) -> Self {
        RunFacts {
            context,
            targets,
            scope,
            replaced: &[],
            objections: &[],
            notices: &[],
            well: false,
            silent: false,
            retry: None,
        }
    }
}

/// Which refused mailboxes a run tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryRefused {
    /// Those that are due.
    #[default]
    Due,
    /// All that it syncs.
    All,
    /// The same with what was passed over without a word.
    PassedOver,
}

/// What has become of the objections of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What is new, a line each.
    pub news: Vec<String>,
    /// Every refusal is of a message or mailbox that is known: the run itself went well.
    pub all_placed: bool,
}

/// A Maildir and its record, as they are.
struct Look {
    record: Option<Record>,
    numbered: Option<Numbered>,
}

impl Look {
    fn at(account: &Account, mailbox: &Mailbox) -> Look {
        let state = mailbox.state_file.as_deref().map(record::read);
        let Some(RecordState::Known(record)) = state else {
            return Look { record: None, numbered: None };
        };
        let numbered = Rules::of_near(mailbox, account)
            .zip(mailbox.maildir.as_deref())
            .and_then(|(rules, maildir)| maildir::numbered(maildir, &record, &rules));
        Look { record: Some(record), numbered }
    }

    /// Messages here that mbsync has passed over.
    fn left(&self) -> UidSet {
        match (&self.record, &self.numbered) {
            (Some(record), Some(numbered)) => maildir::left_over(record, numbered.iter()),
            _ => UidSet::EMPTY,
        }
    }

    /// Whether an item still holds, as far as this disk shows.
    fn confirms(&self, item: &RefusedItem) -> bool {
        let Some(record) = &self.record else { return true };
        let known = item.uid != 0 && item.validity != 0;
        let validity = |of: u32| !known || item.validity == of;
        match item.what {
            RefusedKind::Push => {
                validity(record.near_validity)
                    && (!known
                        || record.of_near(item.uid).is_none()
                            && self.numbered.as_ref().is_none_or(|numbered| {
                                let flags = numbered.flags(item.uid);
                                flags.is_some_and(|flags| {
                                    !flags.has(crate::model::flags::Flags::TRASHED)
                                })
                            }))
            }
            RefusedKind::Pull => {
                validity(record.far_validity) && (!known || record.of_far(item.uid).is_none())
            }
            RefusedKind::Flags if known => {
                validity(record.far_validity) && self.flags_differ(record, item.uid)
            }
            RefusedKind::Flags | RefusedKind::Mailbox | RefusedKind::Record => true,
        }
    }

    /// Whether the near message of this pair differs from the record.
    fn flags_differ(&self, record: &Record, far: u32) -> bool {
        let Some(entry) = record.of_far(far) else { return false };
        let Some(numbered) = &self.numbered else { return true };
        numbered.flags(entry.near) != Some(entry.flags)
    }
}

/// Whether a mailbox that a run has failed on, as mbsync names it, is one that somebody has
/// acknowledged not to be synced.
#[must_use]
pub fn is_acknowledged(state: &RefusedState, scope: &[Mailbox], channel: &str, name: &str) -> bool {
    let found = Mailbox::called(scope, channel, name);
    let known = found.and_then(|mailbox| state.mailboxes.get(&clean::key(mailbox)));
    known.is_some_and(|known| {
        known.items.iter().any(|item| item.what == RefusedKind::Mailbox && item.acknowledged)
    })
}

/// Puts on record what a run could not carry, and takes off what is done.
///
/// # Errors
/// The file cannot be written.
pub fn note_run(dir: &StateDir, facts: &RunFacts<'_>, now: SystemTime) -> io::Result<Noted> {
    let quiet = facts.objections.is_empty() && facts.notices.is_empty() && !facts.silent;
    let complete = facts.replaced.iter().all(|replaced| replaced.near.is_complete());
    let file = dir.file(crate::state::refused::FILE);
    if quiet && complete && !file.exists() {
        return Ok(Noted { news: vec![], all_placed: true });
    }
    RefusedState::update(dir, |state| {
        let mut noting =
            Noting { facts, state, now, looks: BTreeMap::new(), objected: BTreeMap::new() };
        let noted = noting.run();
        noting.note_tries();
        noted
    })
}

struct Noting<'a> {
    facts: &'a RunFacts<'a>,
    state: &'a mut RefusedState,
    now: SystemTime,
    looks: BTreeMap<String, Look>,
    /// By key: what this run has objected to.
    objected: BTreeMap<String, Vec<RefusedItem>>,
}

impl Noting<'_> {
    fn run(&mut self) -> Noted {
        let facts = self.facts;
        let mut noted = Noted { news: vec![], all_placed: !facts.silent };
        for objection in facts.objections {
            let (keys, item) = self.place(objection);
            noted.all_placed &= !keys.is_empty();
            let keys = if keys.is_empty() { vec![UNNAMED.to_owned()] } else { keys };
            for key in keys {
                self.objected.entry(key).or_default().push(item.clone());
            }
        }
        let mut found = self.objected.clone();
        for replaced in facts.replaced {
            let items = self.passed_over(replaced, &mut noted);
            found.entry(clean::key(&replaced.mailbox)).or_default().extend(items);
        }
        // What was carried makes room for what was not.
        self.resolve();
        for (key, items) in found.into_iter().filter(|(_, items)| !items.is_empty()) {
            let known = self.state.mailboxes.entry(key.clone()).or_default();
            let (new, more) = known.add_all(items, facts.well);
            noted.news.extend(new.iter().map(|item| self.line(&key, item)));
            if more > 0 {
                noted.news.push(self.more_line(&key, more));
            }
        }
        for notice in facts.notices {
            if self.state.notice(notice, self.now) {
                noted.news.push(format!("{}: {notice}", facts.context.account.name));
            }
        }
        noted
    }

    /// What the record alone shows.
    fn passed_over(&mut self, replaced: &Replaced, noted: &mut Noted) -> Vec<RefusedItem> {
        let key = clean::key(&replaced.mailbox);
        if let Some(known) = self.state.mailboxes.get_mut(&key) {
            let now = [replaced.near.validity, replaced.far.validity];
            for (side, validity) in known.acknowledged.iter_mut().zip(now) {
                *side = side.filter(|(of, _)| *of == validity);
            }
        }
        let left = if replaced.near.is_complete() {
            UidSet::EMPTY
        } else {
            self.look(&replaced.mailbox).left()
        };
        let near: Vec<u32> = left.uids().filter(|uid| replaced.near.has(*uid)).collect();
        let said =
            |what, uid, validity, text| RefusedItem::new(what, uid, validity, text, self.now);
        let mut items: Vec<RefusedItem> = near
            .into_iter()
            .map(|uid| said(RefusedKind::Push, uid, replaced.near.validity, ""))
            .collect();
        if self.facts.silent && !replaced.far.is_complete() {
            // 1.5.1 fails without a word where the server gives no text (drv_imap.c:3207).
            let far = &replaced.far;
            let missing = (far.after..far.upto).map(|uid| uid + 1).filter(|uid| far.has(*uid));
            let text = "the server gave no text of it";
            items.extend(
                missing.take(20).map(|uid| said(RefusedKind::Pull, uid, far.validity, text)),
            );
            noted.all_placed = true;
        }
        items
    }

    fn line(&self, key: &str, item: &RefusedItem) -> String {
        item_line(&self.facts.context.account.name, key, item)
    }

    /// Further ones, of which no number is kept.
    fn more_line(&self, key: &str, more: u32) -> String {
        let count = usize::try_from(more).unwrap_or(usize::MAX);
        let start = line_start(&self.facts.context.account.name, key);
        sanitize(&format!("{start}: {} not transferred", counted(count, "further message")))
    }

    fn look(&mut self, mailbox: &Mailbox) -> &Look {
        let account = self.facts.context.account;
        self.looks.entry(clean::key(mailbox)).or_insert_with(|| Look::at(account, mailbox))
    }

    /// The mailboxes that an objection is about, and what to keep of it.
    fn place(&mut self, objection: &Objection) -> (Vec<String>, RefusedItem) {
        let mut item = RefusedItem::new(RefusedKind::Mailbox, 0, 0, &objection.text, self.now);
        let scope = self.facts.scope;
        let only = || scope.first().filter(|_| scope.len() == 1).map(clean::key);
        let keys = match &objection.subject {
            Subject::Message(side, uid) => {
                item.what = match side {
                    MessageSide::Near => RefusedKind::Push,
                    MessageSide::Far => RefusedKind::Pull,
                };
                item.uid = *uid;
                let keys = self.of_message(*side, &mut item);
                if *side == MessageSide::Near && keys.iter().any(|key| self.is_removed(key, *uid)) {
                    // Nothing on this disk shows it any more.
                    item.text += "; removed here all the same";
                    (item.uid, item.validity) = (0, 0);
                }
                keys
            }
            Subject::Flags(far) => {
                item.what = RefusedKind::Flags;
                item.uid = *far;
                self.of_flags(&mut item)
            }
            Subject::Unread(path) | Subject::Kept(path) => {
                let unread = matches!(objection.subject, Subject::Unread(_));
                item.what = if unread { RefusedKind::Push } else { RefusedKind::Flags };
                let found = scope.iter().find(|mailbox| {
                    path.parent().and_then(Path::parent) == mailbox.maildir.as_deref()
                });
                if let (Some(mailbox), true) = (found, unread) {
                    item.uid = uid_of(path);
                    let look = self.look(mailbox);
                    item.validity = look.record.as_ref().map_or(0, |record| record.near_validity);
                }
                found.map(clean::key).into_iter().collect()
            }
            Subject::Mailbox { channel, name } => {
                let found = Mailbox::called(scope, channel, name);
                vec![found.map_or_else(|| format!("{channel}\n{name}"), clean::key)]
            }
            Subject::Record(path) => {
                item.what = RefusedKind::Record;
                let found = scope.iter().find(|mailbox| mailbox.state_file.as_ref() == Some(path));
                found.map(clean::key).into_iter().collect()
            }
            Subject::Unnamed => {
                if objection.class == Class::Refused {
                    item.what = RefusedKind::Flags;
                }
                vec![]
            }
        };
        let keys = if keys.is_empty() && objection.subject != Subject::Unnamed {
            only().into_iter().collect()
        } else {
            keys
        };
        (keys, item)
    }

    fn of_message(&mut self, side: MessageSide, item: &mut RefusedItem) -> Vec<String> {
        let facts = self.facts;
        let mut found: Vec<&Replaced> =
            facts.replaced.iter().filter(|replaced| replaced.side(side).has(item.uid)).collect();
        if side == MessageSide::Near && found.len() > 1 {
            found.retain(|replaced| self.look(&replaced.mailbox).left().contains(item.uid));
        }
        item.validity = match &found[..] {
            [one] => one.side(side).validity,
            _ => 0,
        };
        if found.is_empty() {
            return self.known(item);
        }
        found.iter().map(|replaced| clean::key(&replaced.mailbox)).collect()
    }

    /// Whether the run has removed this message although its copy was refused: with
    /// `TrashRemoteNew`, mbsync does not look at what became of the copy for the other
    /// side's trash (isync 1.4.4, `sync.c`, `msg_rtrashed`).
    fn is_removed(&mut self, key: &str, uid: u32) -> bool {
        let account = self.facts.context.account;
        let Some(mailbox) = clean::mailbox(account, key) else { return false };
        let trashed_there = account.channel(&mailbox.channel).is_some_and(|channel| {
            channel.near.store.trash.is_none() && channel.far.store.trash.is_some()
        });
        let numbered = self.look(&mailbox).numbered.as_ref();
        trashed_there && numbered.is_some_and(|numbered| numbered.flags(uid).is_none())
    }

    fn of_flags(&mut self, item: &mut RefusedItem) -> Vec<String> {
        let known = self.known(item);
        if !known.is_empty() {
            return known;
        }
        let mut keys = vec![];
        for mailbox in self.facts.scope {
            let far = item.uid;
            let look = self.look(mailbox);
            if let Some(record) =
                look.record.as_ref().filter(|record| look.flags_differ(record, far))
            {
                item.validity = record.far_validity;
                keys.push(clean::key(mailbox));
            }
        }
        if keys.len() > 1 {
            item.validity = 0;
        }
        keys
    }

    /// The mailboxes of the scope that have the same item already.
    fn known(&self, item: &RefusedItem) -> Vec<String> {
        let covered = self.facts.scope.iter().map(clean::key);
        covered
            .filter(|key| {
                let known = self.state.mailboxes.get(key);
                known.is_some_and(|known| known.items.iter().any(|each| each.is_same(item)))
            })
            .collect()
    }

    /// Takes off what is carried, gone, or was done by this run.
    fn resolve(&mut self) {
        let facts = self.facts;
        let keys: Vec<String> = self.state.mailboxes.keys().cloned().collect();
        for key in keys {
            let mailbox = clean::mailbox(facts.context.account, &key);
            if !clean::target(&key).is_in(facts.targets) {
                continue;
            }
            if let Some(mailbox) = &mailbox {
                self.look(mailbox);
            }
            let look = self.looks.get(&key);
            let objected = self.objected.get(&key);
            let again = |item: &RefusedItem| {
                objected.is_some_and(|all| all.iter().any(|each| each.is_same(item)))
            };
            let Some(entry) = self.state.mailboxes.get_mut(&key) else { continue };
            entry.items.retain(|item| {
                again(item)
                    || !(facts.well && item.what.is_tried_each_run())
                        && look.is_none_or(|look| look.confirms(item))
            });
            if entry.items.is_empty() {
                (entry.more, entry.tries, entry.tried, entry.next) = (0, 0, 0, 0);
            }
        }
    }

    fn note_tries(&mut self) {
        let RunFacts { targets, retry, .. } = *self.facts;
        let asked_for = retry.is_some_and(|which| which != RetryRefused::Due);
        for (key, mailbox) in &mut self.state.mailboxes {
            // Also without a Maildir here, for then it is in nobody's scope.
            let due = asked_for || mailbox.due_in(self.now) == Some(Duration::ZERO);
            let tried = retry.is_some() && due && clean::target(key).is_in(targets);
            if (tried || self.objected.contains_key(key)) && mailbox.is_refused() {
                mailbox.tried(self.now, asked_for);
            }
        }
    }
}

/// Of what is asked for, the mailboxes of which something was refused and is to be
/// tried again: what freed the way shows on neither side.
#[must_use]
pub fn to_try_again(
    dir: &StateDir,
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    which: RetryRefused,
) -> BTreeSet<Target> {
    let state = RefusedState::read(dir);
    let keys: Vec<&str> = match which {
        RetryRefused::Due => state.due(SystemTime::now()).collect(),
        RetryRefused::All | RetryRefused::PassedOver => {
            state.mailboxes.keys().map(String::as_str).filter(|key| state.holds(key)).collect()
        }
    };
    let mailboxes = keys.iter().filter_map(|key| clean::mailbox(context.account, key));
    mailboxes
        .filter(|mailbox| Target::any_covers(targets, mailbox))
        .map(|mailbox| mailbox.target())
        .collect()
}

/// Has mbsync try again what was refused of these mailboxes, as far as they are to be
/// tried. With the account's lock held.
pub fn try_again(
    dir: &StateDir,
    context: AccountContext<'_>,
    scope: &[Mailbox],
    which: RetryRefused,
    now: SystemTime,
) {
    let state = RefusedState::read(dir);
    let (all, passed_over) = (which != RetryRefused::Due, which == RetryRefused::PassedOver);
    let due: BTreeSet<&str> = state.due(now).collect();
    for mailbox in scope {
        let key = clean::key(mailbox);
        let known = state.mailboxes.get(&key);
        let refused = known.is_some_and(RefusedMailbox::is_refused);
        if !(passed_over || refused && (all || due.contains(&*key))) {
            continue;
        }
        let open = |what| {
            let items = known.into_iter().flat_map(RefusedMailbox::open_items);
            items
                .filter(move |item| item.what == what && (passed_over || !item.is_by_record()))
                .map(|item| item.uid)
                .filter(|uid| *uid > 0)
                .min()
        };
        let (mut near, mut far) = (open(RefusedKind::Push), open(RefusedKind::Pull));
        if passed_over {
            let seen: BTreeMap<String, CleanState> = dir.read_json(clean::FILE).unwrap_or_default();
            let first = |left: &UidSet| left.ranges().first().map(|&(first, _)| first);
            let left = first(&Look::at(context.account, mailbox).left());
            near = [near, left].into_iter().flatten().min();
            let left = seen.get(&key).and_then(|seen| first(&seen.far.as_ref()?.left));
            far = [far, left].into_iter().flatten().min();
        }
        if let Some(path) = mailbox.state_file.as_deref() {
            // Held by another mbsync, or not ours to write: the next try comes.
            let _ = set_back(path, near, far);
        }
    }
}

/// What is refused in one mailbox, of one kind, as it is to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedReport {
    /// The mailbox as `mutt-sync` takes it, or the account.
    pub name: String,
    /// What it is.
    pub what: RefusedKind,
    /// How many messages.
    pub count: usize,
    /// What mbsync said last; `None` where only its record shows it.
    pub text: Option<String>,
    /// Since when, seconds since the epoch.
    pub since: Option<u64>,
}

impl RefusedReport {
    /// The line for people, without what to do.
    #[must_use]
    pub fn line(&self, now: SystemTime) -> String {
        let ago = self.since.and_then(|since| ago(since, now));
        let since = ago.map_or(String::new(), |ago| format!(", for {ago}"));
        let text = self.text.as_deref().unwrap_or("mbsync has passed it over");
        format!("{}: {}{since}: {text}", self.name, counted_refusals(self.what, self.count))
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        let (name, text) = (
            shell_operand(&self.name),
            self.text.as_deref().unwrap_or_default().to_ascii_lowercase(),
        );
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let again = format!("mutt-sync --retry {name}");
        match self.what {
            RefusedKind::Mailbox if has(&["not empty", "cannot be opened"]) => {
                let missing = text.split("cannot be opened").next().unwrap_or_default();
                let make = if missing.contains("near side") {
                    "one side of it is missing: make it there again, or remove the other one"
                } else {
                    "it is gone on the server: remove its Maildir if it is to go here, too, or \
                     make it there again"
                };
                format!("{make}; mutt-sync --acknowledge {name} to stop reporting it")
            }
            RefusedKind::Mailbox if has(&["uidvalidity"]) => format!(
                "the server has made it anew: move its Maildir away, then mutt-sync --resync {name}"
            ),
            RefusedKind::Mailbox => "give it another name, or leave it out by Patterns".to_owned(),
            RefusedKind::Record => "make room on the disk, or make the record writable".to_owned(),
            _ if has(&["overquota", "quota"]) => {
                format!("delete mail on the server or raise its quota, then {again}")
            }
            _ if has(&["toobig", "too big", "too large", "size"]) => format!(
                "the server takes no message of this size: shorten it, or mutt-sync --acknowledge {name}"
            ),
            _ if has(&["header"]) => {
                format!("the message needs a header, such as a From line: add one, then {again}")
            }
            _ => format!("{again}, or mutt-sync --acknowledge {name}"),
        }
    }
}

/// What is refused now in an account, as far as this disk shows.
#[must_use]
pub fn of_account(account: &Account, dir: &StateDir) -> Vec<RefusedReport> {
    reports(account, &RefusedState::read(dir))
}

fn reports(account: &Account, state: &RefusedState) -> Vec<RefusedReport> {
    let mut all = vec![];
    for (key, known) in state.mailboxes.iter().filter(|(_, known)| known.is_refused()) {
        let mailbox = clean::mailbox(account, key);
        let look = mailbox.as_ref().map(|mailbox| Look::at(account, mailbox));
        let name = name_of(account, key);
        let items =
            known.open_items().filter(|item| look.as_ref().is_none_or(|look| look.confirms(item)));
        let mut kinds: BTreeMap<(RefusedKind, bool), Vec<&RefusedItem>> = BTreeMap::new();
        for item in items {
            kinds.entry((item.what, item.is_by_record())).or_default().push(item);
        }
        let more_of = known.kind_of_more().and_then(|what| {
            [false, true]
                .map(|by_record| (what, by_record))
                .into_iter()
                .find(|of| kinds.contains_key(of))
        });
        for ((what, by_record), items) in kinds {
            let is_more = more_of == Some((what, by_record));
            let more = if is_more { usize::try_from(known.more).unwrap_or(0) } else { 0 };
            let last = items.last();
            all.push(RefusedReport {
                name: name.clone(),
                what,
                count: items.len() + more,
                text: last.map(|item| item.text.clone()).filter(|text| !text.is_empty()),
                since: items.iter().map(|item| item.since).min(),
            });
        }
    }
    all
}

/// What a scan shows that mbsync has passed over in a mailbox, here and on the server,
/// beside what is known and what is acknowledged.
#[must_use]
pub fn passed_over(
    account: &Account,
    state: &RefusedState,
    mailbox: &Mailbox,
    left: [&UidSet; 2],
) -> Vec<RefusedReport> {
    let key = clean::key(mailbox);
    let known = state.mailboxes.get(&key);
    let of = |what: RefusedKind, left: &UidSet, side: usize| {
        let mark = known.and_then(|known| known.acknowledged[side]).map_or(0, |(_, uid)| uid);
        let items = known.map_or(&[][..], |known| &known.items);
        let counted =
            |item: &&RefusedItem| item.what == what && item.uid > mark && left.contains(item.uid);
        let counted = items.iter().filter(counted).count() as u64;
        let more = known.filter(|known| known.kind_of_more() == Some(what));
        let counted = counted + more.map_or(0, |known| u64::from(known.more));
        let count = left.count_above(mark).saturating_sub(counted);
        (count > 0).then(|| RefusedReport {
            name: name_of(account, &key),
            what,
            count: usize::try_from(count).unwrap_or(usize::MAX),
            text: None,
            since: None,
        })
    };
    let [near, far] = left;
    let far = unrecorded(mailbox, far);
    [of(RefusedKind::Push, near, 0), of(RefusedKind::Pull, &far, 1)].into_iter().flatten().collect()
}

/// What a scan of the server has found to be passed over: adds what is new, takes off
/// what is not among it any more. `upto`: the mark that the scan went by. Returns what
/// is new, a line each.
#[must_use]
pub fn note_scan(
    account: &Account,
    dir: &StateDir,
    mailbox: &Mailbox,
    far: &CleanServer,
    now: SystemTime,
) -> Vec<String> {
    let key = clean::key(mailbox);
    let known = RefusedState::read(dir).mailboxes.remove(&key);
    if far.left.is_empty() && known.is_none() {
        return vec![];
    }
    let (validity, upto) = (far.status.uid_validity, far.max_pulled);
    let noted = RefusedState::update(dir, |state| {
        let known = state.mailboxes.entry(key.clone()).or_default();
        known.items.retain(|item| {
            item.what != RefusedKind::Pull || item.uid > upto || far.left.contains(item.uid)
        });
        let mut news = vec![];
        let mark = known.acknowledged[1].map_or(0, |(_, uid)| uid);
        for uid in far.left.uids().filter(|uid| *uid > mark).take(MOST_FOUND) {
            let item = RefusedItem::new(RefusedKind::Pull, uid, validity, "", now);
            if known.add(item.clone()) == Added::New {
                news.push(item_line(&account.name, &key, &item));
            }
        }
        news
    });
    noted.unwrap_or_default()
}

/// Of these far messages, seen at an earlier scan, those that have no entry now.
fn unrecorded(mailbox: &Mailbox, left: &UidSet) -> UidSet {
    let state = mailbox.state_file.as_deref().filter(|_| !left.is_empty()).map(record::read);
    match state {
        Some(RecordState::Known(record)) => {
            let entries = record.far_uids();
            left.between_without(1, record.max_pulled, entries)
        }
        _ => left.clone(),
    }
}

/// What is to be said now, and is on record as said: what is new; of what is known,
/// what the command names, and what a person's command covers. `failed`: it has failed on
/// a mailbox, and has said on which.
#[must_use]
pub fn to_say(
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    by_person: bool,
    failed: bool,
    now: SystemTime,
) -> ToSay {
    let dir = StateDir::existing(context.base, &context.account.name);
    if !dir.file(crate::state::refused::FILE).exists() {
        return ToSay::default();
    }
    let said = RefusedState::update(&dir, |state| {
        let mut say = ToSay::default();
        let confirmed = reports(context.account, state);
        for (key, known) in &mut state.mailboxes {
            let name = name_of(context.account, key);
            let target = clean::target(key);
            let named = target != Target::Account && targets.contains(&target);
            let covered = target.is_in(targets);
            for report in confirmed.iter().filter(|report| report.name == name) {
                let of = |item: &RefusedItem| {
                    item.what == report.what && item.is_by_record() == report.text.is_none()
                };
                let fresh = known.open_items().any(|item| of(item) && !item.said);
                let by_record = report.text.is_none();
                // Tried by the command that failed, it is said already.
                if failed && covered && report.what == RefusedKind::Mailbox {
                    continue;
                }
                if fresh || !by_record && (named || by_person && covered) {
                    say.lines.push(report.line(now));
                    say.fails |= !by_record;
                }
            }
            known.items.iter_mut().for_each(|item| item.said = true);
        }
        for notice in state.notices.iter_mut().filter(|notice| !notice.said) {
            say.lines.push(format!("{}: {}", context.account.name, notice.text));
            notice.said = true;
        }
        say
    });
    said.unwrap_or_default()
}

/// No more is said of what is refused in these mailboxes, nor of what was passed over.
///
/// # Errors
/// 78 when the state cannot be written; 75 when the disk is full.
pub fn acknowledge(
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    scope: &[Mailbox],
) -> Result<BTreeSet<String>, Error> {
    let dir = StateDir::open(context.base, &context.account.name)?;
    let seen: BTreeMap<String, CleanState> = dir.read_json(clean::FILE).unwrap_or_default();
    let done = RefusedState::update(&dir, |state| {
        let mut names = BTreeSet::new();
        for mailbox in scope {
            let key = clean::key(mailbox);
            let look = Look::at(context.account, mailbox);
            let far = seen.get(&key).and_then(|seen| seen.far.as_ref());
            let left = [look.left(), far.map(|far| far.left.clone()).unwrap_or_default()];
            let Some(record) = look.record.filter(|_| left.iter().any(|left| !left.is_empty()))
            else {
                continue;
            };
            let marks = [
                (record.near_validity, record.max_pushed),
                (record.far_validity, record.max_pulled),
            ];
            let known = state.mailboxes.entry(key.clone()).or_default();
            let (before, marks) = (known.acknowledged, marks.map(Some));
            known.acknowledged = marks;
            if before != marks {
                names.insert(name_of(context.account, &key));
            }
        }
        for (key, known) in &mut state.mailboxes {
            if clean::target(key).is_in(targets) && known.is_refused() {
                known.more = 0;
                known.items.iter_mut().for_each(|item| item.acknowledged = true);
                names.insert(name_of(context.account, key));
            }
        }
        if targets.contains(&Target::Account) {
            state.notices.iter_mut().for_each(|notice| notice.said = true);
        }
        names
    });
    done.map_err(|error| state_failure(&error, "cannot write what is acknowledged"))
}

/// No run comes to these mailboxes, for they are held: what is due in them counts as tried.
/// Otherwise it would be due all the time.
///
/// # Errors
/// The file cannot be written.
pub fn put_off(
    dir: &StateDir,
    held: &BTreeSet<String>,
    now: SystemTime,
    asked_for: bool,
) -> io::Result<()> {
    let known = RefusedState::read(dir);
    let due: Vec<&str> = known.due(now).filter(|key| held.contains(*key)).collect();
    if due.is_empty() {
        return Ok(());
    }
    RefusedState::update(dir, |state| {
        for key in &due {
            if let Some(known) = state.mailboxes.get_mut(*key) {
                known.tried(now, asked_for);
            }
        }
    })
}

/// The UID in a file name.
pub(super) fn uid_of(path: &Path) -> u32 {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let digits = name.split_once(",U=").map_or("", |(_, rest)| rest);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// `Home: Sent`.
fn line_start(account: &str, key: &str) -> String {
    match key.split_once('\n') {
        Some((_, name)) => format!("{account}: {name}"),
        None => account.to_owned(),
    }
}

/// `Home: Sent: 1 message not pushed: Quota exceeded`.
fn item_line(account: &str, key: &str, item: &RefusedItem) -> String {
    let start = line_start(account, key);
    let text = if item.is_by_record() { "mbsync has passed it over" } else { &item.text };
    sanitize(&format!("{start}: {}: {text}", counted_refusals(item.what, 1)))
}

/// What was refused, and how often.
fn counted_refusals(what: RefusedKind, count: usize) -> String {
    match what {
        RefusedKind::Push => format!("{} not pushed", counted(count, "message")),
        RefusedKind::Pull => format!("{} not pulled", counted(count, "message")),
        RefusedKind::Flags => {
            format!("{} not transferred", counted(count, "flag change"))
        }
        RefusedKind::Mailbox => "not synced".to_owned(),
        RefusedKind::Record => "mbsync's record not written".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::context::tests::Fixture;
    use crate::verdict::server::ServerStatus;

    #[test]
    fn g13_what_is_passed_over_after_many_that_are_acknowledged_is_said() {
        let fixture = Fixture::new(
            "IMAPStore far\nHost localhost\n\nMaildirStore near\nPath /nowhere/\n\n\
             Channel Home\nFar :far:\nNear :near:\nPatterns *\n",
        );
        let account = fixture.account();
        let target = Target::Mailbox { channel: "Home".into(), name: "Sent".into() };
        let mailbox = account.mailbox(&target).unwrap();
        let dir = StateDir::open(fixture.home.path(), &account.name).unwrap();
        let scan = |upto: u32| {
            let left = UidSet::from_uids(1..=upto);
            let far = CleanServer {
                status: ServerStatus {
                    uid_validity: 1,
                    uid_next: 70,
                    messages: 70,
                    highest_modseq: None,
                },
                rules: Rules::of_near(&mailbox, account).unwrap(),
                max_pulled: upto,
                max_pushed: 0,
                record: None,
                left,
                beside: None,
            };
            note_scan(account, &dir, &mailbox, &far, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(scan(60).len(), MOST_FOUND);
        RefusedState::update(&dir, |state| {
            let known = state.mailboxes.get_mut(&clean::key(&mailbox)).unwrap();
            known.acknowledged[1] = Some((1, 60));
        })
        .unwrap();
        assert!(scan(60).is_empty());
        assert_eq!(scan(61).len(), 1);
    }
}
