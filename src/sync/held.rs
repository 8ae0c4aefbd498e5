//! What is held: what a run has to leave out, what somebody has answered, what a run has
//! settled, and what is said of it.
//!
//! Does not depend on: connections, how a run is made, why something is held
//! (`deletion_guard`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::context::AccountContext;
use super::losses::{
    GoneMemory, displaced, is_numbered_by, lacks, near_losses, place_of, record_of,
};
use super::record_edit::{lock_record, rewrite};
use super::summary::{ToSay, ago, name_of};
use crate::mbsyncrc::MOST_BYTES;
use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox, Target};
use crate::settings::Settings;
use crate::state::backoff::seconds;
use crate::state::held::{FILE, HeldKind, HeldMailbox, HeldState, MaildirPlace};
use crate::state::{StateDir, clean};
use crate::text::{counted, shell_operand};
use crate::verdict::Rules;
use crate::verdict::gone::KnownGone;
use crate::verdict::maildir;
use crate::verdict::record::{self, Record, beside};

/// Takes the held mailboxes out of what is to be run: a channel or account is replaced by
/// its other mailboxes, a channel that cannot be narrowed is left out.
#[must_use]
pub fn without_held(
    context: AccountContext<'_>,
    needed: &BTreeSet<Target>,
    held: &BTreeSet<String>,
) -> BTreeSet<Target> {
    if held.is_empty() {
        return needed.clone();
    }
    let AccountContext { config, account, .. } = context;
    let mut left = BTreeSet::new();
    for channel in &account.channels {
        let whole = Target::Channel(channel.name.clone());
        let named: BTreeSet<&Target> = needed
            .iter()
            .filter(
                |each| matches!(each, Target::Mailbox { channel: of, .. } if *of == channel.name),
            )
            .collect();
        let concerned = held.iter().any(|key| whole.covers(&clean::target(key)));
        let is_held = |mailbox: &Mailbox| held.contains(&clean::key(mailbox));
        if !concerned {
            left.extend(needed.iter().any(|each| each.covers(&whole)).then_some(whole));
            left.extend(named.into_iter().cloned());
            continue;
        }
        let free = |target: &Target| account.mailbox(target).is_some_and(|it| !is_held(&it));
        left.extend(named.into_iter().filter(|target| free(target)).cloned());
        if needed.iter().any(|each| each.covers(&whole)) {
            let local = config.local_mailboxes(account);
            let of = |mailbox: &&Mailbox| mailbox.channel == channel.name;
            let others: Vec<&Mailbox> = local.iter().filter(of).collect();
            if others.iter().all(|mailbox| mailbox.addressable) {
                let free = others.into_iter().filter(|mailbox| !is_held(mailbox));
                left.extend(free.map(Mailbox::target));
            }
        }
    }
    // More than can be named would bring the whole channel.
    let bytes = left.iter().map(|target| match target {
        Target::Mailbox { name, .. } => name.len() + 1,
        _ => 0,
    });
    if bytes.sum::<usize>() >= MOST_BYTES {
        left.retain(|target| match target {
            Target::Mailbox { channel, .. } => {
                let whole = Target::Channel(channel.clone());
                !held.iter().any(|key| whole.covers(&clean::target(key)))
            }
            _ => true,
        });
    }
    left
}

/// Before a run: what was answered by `--resync` is made ready. A pair that lacks its near
/// message is forgotten, so that the message is pulled again; a record that is of
/// another Maildir is put aside. Returns, by key, why some are not ready: a run would delete on
/// the server what they lack.
#[must_use]
pub fn make_ready(
    dir: &StateDir,
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
) -> BTreeMap<String, io::Error> {
    let mut unready = BTreeMap::new();
    if !dir.file(FILE).exists() {
        return unready;
    }
    for (key, held) in HeldState::read(dir).mailboxes {
        let mailbox = clean::mailbox(context.account, &key);
        let answered = held.allowed && held.what.is_of_place();
        let Some(mailbox) = mailbox.filter(|it| answered && Target::any_covers(targets, it)) else {
            continue;
        };
        let Some(path) = mailbox.state_file.as_deref().filter(|path| path.exists()) else {
            continue;
        };
        let ready = make_one_ready(context.account, &mailbox, path);
        unready.extend(ready.err().map(|error| (key, error)));
    }
    unready
}

fn make_one_ready(account: &Account, mailbox: &Mailbox, path: &Path) -> io::Result<()> {
    let _lock = lock_record(path)?;
    // What mbsync would continue with, if it was interrupted, is about the record as it is: it
    // would refuse each run.
    let (journal, new) = record::journal_and_new(path);
    for part in [journal, new] {
        match std::fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match usable_record(account, mailbox) {
        Some(record) => {
            let lost = near_losses(account, mailbox, &record, KnownGone::NOTHING);
            forget_pairs(path, &record, &lost)
        }
        None => std::fs::rename(path, beside(path, ".before-resync")),
    }
}

/// The record, if it is of the Maildir that is there.
fn usable_record(account: &Account, mailbox: &Mailbox) -> Option<Record> {
    let record = record_of(mailbox)?;
    let maildir = mailbox.maildir.as_deref()?;
    let rules = Rules::of_near(mailbox, account)?;
    let near = maildir::listing(maildir, rules.info_delimiter).ok()?.numbered();
    is_numbered_by(maildir, &record, &near).then_some(record)
}

/// Whether there is still something to be made ready by an answer of `--resync`: a Maildir
/// that has come back needs none, and later deletions in it are meant.
fn has_use(account: &Account, mailbox: &Mailbox, place: Option<&MaildirPlace>) -> bool {
    match place.and_then(|place| displaced(*place, mailbox, true)) {
        None => false,
        Some(HeldKind::OtherMaildir) => usable_record(account, mailbox).is_none_or(|record| {
            !near_losses(account, mailbox, &record, KnownGone::NOTHING).is_empty()
        }),
        Some(_) => true,
    }
}

/// Takes pairs, by far UID, out of a record, and lets mbsync pull their messages again.
fn forget_pairs(path: &Path, record: &Record, lost: &UidSet) -> io::Result<()> {
    let Some(&(first, _)) = lost.ranges().first() else { return Ok(()) };
    let pulled = record.max_pulled.min(first.saturating_sub(1).max(record.max_expired_far));
    rewrite(path, record, [record.max_pushed, pulled], lost)
}

/// What was known of the mailboxes when a run was decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldBefore {
    /// Where each Maildir was that had another place than at the last run; `None` if it was
    /// not there. By path: a channel may have the name of another.
    pub places: BTreeMap<PathBuf, Option<MaildirPlace>>,
    /// Those that somebody had answered for, by key.
    pub answered: BTreeSet<String>,
}

/// After a run that reached the mailboxes: where the Maildirs are is known, and what it
/// went ahead with is no longer held, if it went `well`. What was put in the place of a
/// Maildir meanwhile is for the next run to judge, and so is an answer that came meanwhile.
pub fn note_run(
    dir: &StateDir,
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    scope: &[Mailbox],
    held: &BTreeSet<String>,
    well: bool,
    before: &HeldBefore,
) {
    if !context.settings.hold {
        return;
    }
    let state = HeldState::read(dir);
    let is_kept = |mailbox: &Mailbox, key: &str, now: MaildirPlace| {
        let then = mailbox.maildir.as_ref().and_then(|maildir| before.places.get(maildir));
        let then = then.copied().unwrap_or_else(|| state.places.get(key).copied());
        then.is_none_or(|then| then.is_same_dir(now) && (now.numbered || !then.numbered))
    };
    let places: Vec<(String, MaildirPlace)> = scope
        .iter()
        .map(|mailbox| (clean::key(mailbox), mailbox))
        .filter(|(key, _)| !held.contains(key))
        .filter(|(_, mailbox)| mailbox.state_file.as_deref().is_some_and(Path::exists))
        .filter_map(|(key, mailbox)| {
            let place = place_of(mailbox).filter(|now| is_kept(mailbox, &key, *now))?;
            Some((key, place))
        })
        .collect();
    let is_done = |(key, what): (&String, &HeldMailbox)| {
        let mailbox = clean::mailbox(context.account, key);
        let covered = |it| Target::any_covers(targets, it);
        let is_new = what.allowed && !before.answered.contains(key);
        well && !is_new && !held.contains(key) && mailbox.as_ref().is_none_or(covered)
    };
    let known = |(key, place): &(String, MaildirPlace)| state.places.get(key) == Some(place);
    if places.iter().all(known) && !state.mailboxes.iter().any(is_done) {
        return;
    }
    // Lost, the next run writes it.
    let _ = HeldState::update(dir, |state| {
        state.mailboxes.retain(|key, what| !is_done((key, what)));
        state.places.extend(places.iter().cloned());
    });
}

/// Those that are held because their Maildir is gone, by key.
#[must_use]
pub fn without_maildir(dir: &StateDir) -> Vec<String> {
    if !dir.file(FILE).exists() {
        return vec![];
    }
    let held = HeldState::read(dir).mailboxes.into_iter();
    held.filter(|(_, held)| held.what == HeldKind::NoMaildir).map(|(key, _)| key).collect()
}

/// These mailboxes are on neither side any more: nothing of them can be lost.
pub fn forget(dir: &StateDir, keys: &BTreeSet<String>) {
    if !keys.is_empty() && dir.file(FILE).exists() {
        // Lost, the next run finds it again.
        let _ = HeldState::update(dir, |state| state.forget(keys));
    }
}

/// The far sides of these were found to be in step: what they had lost is back.
pub fn note_clean<'m>(dir: &StateDir, mailboxes: impl Iterator<Item = &'m Mailbox>) {
    let mut mailboxes = mailboxes.peekable();
    if mailboxes.peek().is_none() || !dir.file(FILE).exists() {
        return;
    }
    let state = HeldState::read(dir);
    let is_held = |key: &String| {
        state.mailboxes.get(key).is_some_and(|held| held.what == HeldKind::GoneThere)
    };
    let back: BTreeSet<String> = mailboxes.map(clean::key).filter(is_held).collect();
    if !back.is_empty() {
        let _ = HeldState::update(dir, |now| now.mailboxes.retain(|key, _| !back.contains(key)));
    }
}

/// Takes off what this disk shows to be back, of what these targets cover.
pub fn note_back(dir: &StateDir, context: AccountContext<'_>, targets: &BTreeSet<Target>) {
    if !dir.file(FILE).exists() {
        return;
    }
    let holds = Holds::read(context.account, dir);
    let back = |key: &&String| {
        let Some(mailbox) = clean::mailbox(context.account, key) else { return true };
        let stands = |held: &HeldMailbox| match (held.allowed, held.what.is_of_place()) {
            (true, true) => has_use(context.account, &mailbox, holds.state.places.get(*key)),
            // It is for these messages alone.
            (true, false) => true,
            (false, _) => holds.stands(key, held),
        };
        Target::any_covers(targets, &mailbox)
            && !holds.state.mailboxes.get(*key).is_some_and(stands)
    };
    let back: BTreeSet<&String> = holds.state.mailboxes.keys().filter(back).collect();
    if !back.is_empty() {
        let _ = HeldState::update(dir, |now| now.mailboxes.retain(|key, _| !back.contains(key)));
    }
}

/// What is on record, to be compared with what this disk shows.
struct Holds<'a> {
    account: &'a Account,
    state: HeldState,
    memory: GoneMemory,
}

impl<'a> Holds<'a> {
    fn read(account: &'a Account, dir: &StateDir) -> Self {
        let state = HeldState::read(dir);
        let nothing = state.mailboxes.is_empty();
        let memory = if nothing { GoneMemory::default() } else { GoneMemory::read(dir) };
        Holds { account, state, memory }
    }

    /// Whether a hold still stands.
    fn stands(&self, key: &str, held: &HeldMailbox) -> bool {
        let Some(mailbox) = clean::mailbox(self.account, key) else { return false };
        let record = record_of(&mailbox);
        let known = self.memory.known(&mailbox);
        let lost = record
            .as_ref()
            .map_or(UidSet::EMPTY, |record| near_losses(self.account, &mailbox, record, known));
        match held.what {
            HeldKind::GoneHere => held.uids.uids().any(|uid| lost.contains(uid)),
            // A run by hand has deleted them here as well.
            HeldKind::GoneThere => record.is_none_or(|record| {
                held.uids.uids().any(|uid| record.of_far(uid).is_some_and(|entry| entry.near != 0))
            }),
            _ => {
                let place = self.state.places.get(key);
                let lacks = lacks(&mailbox, record.as_ref(), &lost);
                place.is_some_and(|place| displaced(*place, &mailbox, lacks).is_some())
            }
        }
    }

    fn standing(&self) -> impl Iterator<Item = (&String, &HeldMailbox)> {
        self.state.mailboxes.iter().filter(|(key, held)| self.stands(key, held))
    }
}

/// What somebody has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldAnswer {
    /// `--allow-deletions`
    AllowDeletions,
    /// `--resync`
    Resync,
}

/// Lets the next run go ahead with what these targets cover, for what is held now. Returns
/// what is to be run.
///
/// # Errors
/// The file cannot be written.
pub fn answer(
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    answer: HeldAnswer,
    now: SystemTime,
) -> io::Result<BTreeSet<Target>> {
    let dir = StateDir::existing(context.base, &context.account.name);
    if !dir.file(FILE).exists() {
        return Ok(BTreeSet::new());
    }
    let covered = |key: &str| {
        let mailbox = clean::mailbox(context.account, key);
        mailbox.is_some_and(|it| Target::any_covers(targets, &it))
    };
    let memory = GoneMemory::read(&dir);
    HeldState::update(&dir, |state| {
        if answer == HeldAnswer::AllowDeletions {
            let accepted: Vec<(String, MaildirPlace)> = (state.mailboxes.iter())
                .filter_map(|(key, held)| {
                    // Only one that is named: one that was lost is covered, too.
                    let mailbox = clean::mailbox(context.account, key)
                        .filter(|mailbox| targets.contains(&mailbox.target()))?;
                    let then = state.places.get(key)?;
                    let known = memory.known(&mailbox);
                    let place = accepted_place(context.account, &mailbox, held, *then, known)?;
                    Some((key.clone(), place))
                })
                .collect();
            for (key, place) in accepted {
                if let Some(held) = state.mailboxes.get_mut(&key) {
                    held.what = HeldKind::GoneHere;
                }
                state.places.insert(key, place);
            }
        }
        if answer == HeldAnswer::Resync {
            // Nobody has tried to sync it yet.
            for (key, place) in &state.places {
                let Some(mailbox) = clean::mailbox(context.account, key) else { continue };
                let what = displaced(*place, &mailbox, true).filter(|_| covered(key));
                let Some(what) = what.filter(|_| !state.mailboxes.contains_key(key)) else {
                    continue;
                };
                let held = HeldMailbox {
                    what,
                    count: 0,
                    of: 0,
                    uids: UidSet::EMPTY,
                    validity: [0; 2],
                    since: seconds(now),
                    looked: 0,
                    said: true,
                    allowed: true,
                };
                state.mailboxes.insert(key.clone(), held);
            }
        }
        let mut answered = BTreeSet::new();
        for (key, held) in &mut state.mailboxes {
            let fits = held.what.is_of_place() == (answer == HeldAnswer::Resync);
            if fits && covered(key) {
                held.allowed = true;
                answered.extend(clean::mailbox(context.account, key).map(|it| it.target()));
            }
        }
        answered
    })
}

/// Where a Maildir is now that is held for being another one, if it lacks nothing but what it
/// is held for: then it may be taken for the one of the last run, and these messages for
/// deleted. File systems without stable inodes (sshfs, CIFS) show another one after a mount.
fn accepted_place(
    account: &Account,
    mailbox: &Mailbox,
    held: &HeldMailbox,
    then: MaildirPlace,
    known: KnownGone<'_>,
) -> Option<MaildirPlace> {
    let is_other = held.what == HeldKind::OtherMaildir
        && displaced(then, mailbox, true) == Some(HeldKind::OtherMaildir);
    let record = record_of(mailbox).filter(|_| is_other)?;
    let lost = near_losses(account, mailbox, &record, known);
    let is_same = held.validity == [record.far_validity, record.near_validity]
        && lost.uids().all(|uid| held.uids.contains(uid));
    is_same.then(|| place_of(mailbox)).flatten()
}

/// What is held in one mailbox, or in several for the same reason, as it is to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldReport {
    /// The mailbox as `mutt-sync` takes it.
    pub name: String,
    /// Why.
    pub what: HeldKind,
    /// So many messages are gone.
    pub count: u64,
    /// Of so many.
    pub of: u64,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// Where the Maildir belongs.
    pub maildir: Option<PathBuf>,
    /// A run may go ahead.
    pub allowed: bool,
}

impl HeldReport {
    /// The line for people, without what to do.
    #[must_use]
    pub fn line(&self, now: SystemTime) -> String {
        let since = ago(self.since, now).map_or(String::new(), |ago| format!(" for {ago}"));
        let path = self.maildir.as_deref().unwrap_or(Path::new("")).display();
        let gone = || {
            let all = counted(self.of, "message");
            if self.count == self.of {
                format!("all of {all}")
            } else {
                format!("{} of {all}", self.count)
            }
        };
        let why = match self.what {
            HeldKind::GoneHere => {
                format!("{} are gone here and would be deleted on the server", gone())
            }
            HeldKind::GoneThere => {
                format!("{} are gone on the server and would be deleted here", gone())
            }
            HeldKind::NoMaildir => format!("its Maildir is gone: {path}"),
            HeldKind::OtherMaildir => format!(
                "its Maildir is not the one of the last run and lacks {}: {path}",
                counted(self.count, "message")
            ),
            HeldKind::NoUidValidity => format!("its Maildir has lost .uidvalidity: {path}"),
            HeldKind::NoRecord => format!("mbsync's record of it is gone: {path}"),
        };
        let answered = if self.allowed { "; the next sync goes ahead" } else { "" };
        format!("{}: held{since}: {why}{answered}", self.name)
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        let name = shell_operand(&self.name);
        match self.what {
            HeldKind::GoneHere | HeldKind::GoneThere => {
                format!("mutt-sync --allow-deletions {name} deletes them; otherwise restore them")
            }
            HeldKind::NoRecord | HeldKind::NoUidValidity => format!(
                "bring the file back from a backup; mutt-sync --resync {name} syncs it as if \
                 for the first time"
            ),
            HeldKind::NoMaildir => format!(
                "mount it or move it back; mutt-sync --resync {name} downloads what is missing; \
                 if it is to go, remove it on the server too"
            ),
            HeldKind::OtherMaildir => format!(
                "mount it or move it back; mutt-sync --resync {name} downloads what is missing; \
                 mutt-sync --allow-deletions {name} if it was deleted on purpose"
            ),
        }
    }
}

pub(super) fn report(account: &Account, key: &str, held: &HeldMailbox) -> HeldReport {
    let maildir = clean::mailbox(account, key).and_then(|mailbox| mailbox.maildir);
    let HeldMailbox { what, count, of, since, allowed, .. } = *held;
    HeldReport { name: name_of(account, key), what, count, of, since, maildir, allowed }
}

/// What is held now in an account, as far as this disk shows.
#[must_use]
pub fn of_account(account: &Account, settings: &Settings, dir: &StateDir) -> Vec<HeldReport> {
    if !settings.hold || !dir.file(FILE).exists() {
        return vec![];
    }
    let holds = Holds::read(account, dir);
    holds.standing().map(|(key, held)| report(account, key, held)).collect()
}

/// The mailboxes that wait for an answer, by key, as far as this disk shows.
#[must_use]
pub fn unanswered(context: AccountContext<'_>, dir: &StateDir) -> BTreeSet<String> {
    if !context.settings.hold || !dir.file(FILE).exists() {
        return BTreeSet::new();
    }
    let holds = Holds::read(context.account, dir);
    holds.standing().filter(|(_, held)| !held.allowed).map(|(key, _)| key.clone()).collect()
}

/// What is to be said now of what is held, and is on record as said: what is new; of what is
/// known, what the command names, and what a person's command covers.
#[must_use]
pub fn to_say(
    context: AccountContext<'_>,
    targets: &BTreeSet<Target>,
    by_person: bool,
    now: SystemTime,
) -> ToSay {
    let dir = StateDir::existing(context.base, &context.account.name);
    let mut say = ToSay::default();
    if !context.settings.hold {
        return say;
    }
    let holds = Holds::read(context.account, &dir);
    let state = &holds.state;
    let mut said = BTreeSet::new();
    for (key, held) in &state.mailboxes {
        let Some(mailbox) = clean::mailbox(context.account, key) else { continue };
        let named = targets.iter().any(|target| {
            matches!(target, Target::Mailbox { .. }) && target.covers_mailbox(&mailbox)
        });
        let covered = Target::any_covers(targets, &mailbox);
        if (!held.said || named || by_person && covered) && holds.stands(key, held) {
            let report = report(context.account, key, held);
            say.lines.push(format!("{}; fix: {}", report.line(now), report.fix()));
            say.fails = true;
            said.insert(key.clone());
        }
    }
    let unsaid = |key: &String| state.mailboxes.get(key).is_some_and(|held| !held.said);
    if said.iter().any(unsaid) {
        let _ = HeldState::update(&dir, |state| {
            let held = state.mailboxes.iter_mut().filter(|(key, _)| said.contains(*key));
            held.for_each(|(_, held)| held.said = true);
        });
    }
    say
}
