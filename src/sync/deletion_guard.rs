//! The guard at work: what a run is about to delete, whether it was only moved, and what
//! has to wait for an answer (`held`).
//!
//! In the ordinary case it reads the records and file names of the mailboxes that are
//! to be run, and no more. Only where numbers say that something is wrong does it
//! look for the messages that are gone, by their headers and size (see
//! [`MessageIdentity`]), on this disk and (see [`Judge`]) on the server.
//!
//! Reads records and Maildirs. Does not depend on: connections, how a run is made.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use super::context::AccountContext;
use super::held::{HeldBefore, report};
use super::judge::{DeletionCheck, Judge};
use super::losses::{GoneMemory, displaced, lacks, near_losses, place_of, record_of};
use super::lost::LostMessages;
use super::refused::uid_of;
use crate::headers::MessageIdentity;
use crate::mbsyncrc::pattern;
use crate::model::uid_set::UidSet;
use crate::model::{Channel, Mailbox, Target};
use crate::state::backoff::seconds;
use crate::state::held::{HeldKind, HeldMailbox, HeldState, MaildirPlace};
use crate::state::{StateDir, clean};
use crate::verdict::gone::KnownGone;
use crate::verdict::guard::{self, Loss, LossSide};
use crate::verdict::maildir::{self, DirStamps};
use crate::verdict::record::Record;

/// What is held is looked for again after this time: the other account to which it was
/// moved has been synced since.
const AGAIN: u64 = 600;
/// So many of a mailbox's lost messages are looked for; the others count alike.
const SAMPLE: u64 = 500;
/// Most message files whose headers are read, and most directories that are listed.
const MOST_FILES: usize = 200_000;
const MOST_DIRECTORIES: usize = 20_000;
/// Most mailboxes of the server that are asked for what is new in them.
const MOST_ASKED: usize = 200;
/// Most new messages of a mailbox on the server that are looked at.
const MOST_NEW: u32 = 20_000;

/// What a run has to leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The mailboxes, by key.
    pub held: BTreeSet<String>,
    /// What is new, a line each.
    pub news: Vec<String>,
    /// What is held in channels that cannot be named, a line each.
    pub nameless: Vec<String>,
    /// The mailboxes, by key, that were removed on both sides.
    pub nowhere: BTreeSet<String>,
    /// What [`super::held::note_run`] compares with.
    pub before: HeldBefore,
    /// By key: what is gone here and is no loss, for it was moved or is trash.
    moved: BTreeMap<String, UidSet>,
    /// By key: what is gone on both sides.
    gone_on_both: BTreeMap<String, UidSet>,
    /// By key: what is gone on the server.
    gone_there: BTreeMap<String, UidSet>,
}

/// A mailbox and what it has lost.
struct Losses {
    mailbox: Rc<Mailbox>,
    key: String,
    record: Record,
    /// The messages that both sides had, by far UID.
    pairs: UidSet,
    near: UidSet,
    far: UidSet,
    exempt: bool,
    /// Another channel syncs the same two mailboxes, and has lost the same: it is counted once.
    twin: bool,
}

impl Losses {
    fn is_twin_of(&self, other: &Losses) -> bool {
        self.mailbox.maildir == other.mailbox.maildir
            && (&self.near, &self.far) == (&other.near, &other.far)
            && self.validity() == other.validity()
    }

    fn of(&self, side: LossSide) -> &UidSet {
        match side {
            LossSide::Near => &self.near,
            LossSide::Far => &self.far,
        }
    }

    fn validity(&self) -> [u32; 2] {
        [self.record.far_validity, self.record.near_validity]
    }
}

fn by_name(a: &Mailbox, b: &Mailbox) -> Ordering {
    (&a.channel, &a.name).cmp(&(&b.channel, &b.name))
}

/// Whether a mailbox of this channel is emptied without a question, by its name.
fn is_exempt(context: AccountContext<'_>, mailbox: &Mailbox) -> bool {
    let except = &context.settings.hold_except;
    let channel = context.account.channel(&mailbox.channel);
    let is_store_trash = |channel: &Channel| {
        let trash = [&channel.near.store.trash, &channel.far.store.trash];
        trash.into_iter().flatten().any(|trash| [&mailbox.near, &mailbox.far].contains(&trash))
    };
    !except.is_empty() && pattern::admits(except, &mailbox.name)
        || [&mailbox.name, &mailbox.far, &mailbox.near].iter().any(|name| guard::is_trash(name))
        || channel.is_some_and(is_store_trash)
}

/// Decides which of the mailboxes that are about to be run must wait for an answer, and
/// puts them on record. `asked_for`: by a person, who may have moved what is held. With the
/// account's lock held.
pub fn check(
    dir: &StateDir,
    context: AccountContext<'_>,
    needed: &BTreeSet<Target>,
    asked_for: bool,
    judge: &mut dyn Judge,
    now: SystemTime,
) -> Checked {
    if !context.settings.hold {
        return Checked::default();
    }
    // A run of all is one of the channels, too, that have the name of another.
    let needed = &context.account.canonical(needed);
    let all = context.config.with_shadowed(context.account);
    let is_all = needed.contains(&Target::Account) && context.config.accounts.len() == 1;
    let named = context.account;
    let account = if is_all { &*all } else { context.account };
    let context = AccountContext { account, ..context };
    let mut look = Guard::new(dir, context, Stage::Before { asked_for }, judge, now);
    look.look_at_these(needed);
    look.decide(LossSide::Near);
    look.decide(LossSide::Far);
    let Guard {
        state: then,
        places,
        scope,
        mut found,
        nowhere,
        moved,
        gone_on_both,
        gone_there,
        ..
    } = look;
    let news = found
        .iter()
        .filter(|(key, held)| then.mailboxes.get(*key).is_none_or(|then| !is_same(then, held)));
    let news = news.map(|(key, held)| report(context.account, key, held).line(now)).collect();
    // No command can answer for these.
    let nameless = found.iter().filter(|(key, _)| clean::mailbox(named, key).is_none());
    let nameless = nameless.map(|(key, held)| {
        let line = report(context.account, key, held).line(now);
        format!("{line}; fix: two channels have one name: rename one, then sync again")
    });
    let nameless = nameless.collect();
    let held = found.keys().cloned().collect();
    found.retain(|key, _| clean::mailbox(named, key).is_some());
    // Without a disk to write to it is held all the same.
    let _ = HeldState::update(dir, |state| {
        let was_judged = |key: &str| {
            let mailbox = clean::mailbox(context.account, key);
            mailbox.is_some_and(|it| scope.binary_search_by(|each| by_name(each, &it)).is_ok())
        };
        // An answer that came meanwhile is for the next run.
        state
            .mailboxes
            .retain(|key, held| held.allowed || found.contains_key(key) || !was_judged(key));
        for (key, held) in &found {
            match state.mailboxes.get_mut(key) {
                Some(known) if is_same(known, held) => {
                    (known.count, known.looked) = (held.count, held.looked);
                }
                _ => drop(state.mailboxes.insert(key.clone(), held.clone())),
            }
        }
    });
    let answered = then.mailboxes.into_iter().filter(|(_, held)| held.allowed);
    let before = HeldBefore { places, answered: answered.map(|(key, _)| key).collect() };
    Checked { held, news, nameless, nowhere, before, moved, gone_on_both, gone_there }
}

/// Whether two holds are about the same.
fn is_same(one: &HeldMailbox, other: &HeldMailbox) -> bool {
    one.what == other.what && one.uids == other.uids && one.validity == other.validity
}

/// The guard once more, in the middle of a run.
#[derive(Debug)]
pub struct CheckInRun<'g> {
    dir: &'g StateDir,
    context: AccountContext<'g>,
    /// What the guard has found before it.
    checked: &'g Checked,
    /// What the run is for.
    targets: &'g BTreeSet<Target>,
    withheld: RefCell<BTreeSet<String>>,
}

/// What was known of the server when the run was decided on.
#[derive(Debug)]
struct AsJudged<'g> {
    gone_there: &'g BTreeMap<String, UidSet>,
}

impl Judge for AsJudged<'_> {
    fn logs_in(&self) -> bool {
        false
    }

    fn gone_there(&self, mailbox: &Mailbox) -> Option<UidSet> {
        self.gone_there.get(&clean::key(mailbox)).cloned()
    }
}

impl<'g> CheckInRun<'g> {
    /// For a run of these mailboxes, after this check.
    #[must_use]
    pub fn new(
        dir: &'g StateDir,
        context: AccountContext<'g>,
        targets: &'g BTreeSet<Target>,
        checked: &'g Checked,
    ) -> Self {
        CheckInRun { dir, context, checked, targets, withheld: RefCell::default() }
    }

    fn is_of_run(&self, key: &str) -> bool {
        let mailbox = clean::mailbox(self.context.account, key);
        !self.checked.held.contains(key)
            && mailbox.is_some_and(|mailbox| Target::any_covers(self.targets, &mailbox))
    }

    /// The mailboxes, by key, that are to be judged again.
    #[must_use]
    pub fn withheld(self) -> BTreeSet<String> {
        self.withheld.into_inner()
    }
}

impl DeletionCheck for CheckInRun<'_> {
    fn holds(&self, key: &str) -> bool {
        let Some(mailbox) = clean::mailbox(self.context.account, key) else { return false };
        // Together with one before it.
        let mut withheld = self.withheld.borrow_mut();
        if withheld.contains(key) || !self.context.settings.hold {
            return withheld.contains(key);
        }
        let mut judged = AsJudged { gone_there: &self.checked.gone_there };
        let now = SystemTime::now();
        let mut look = Guard::new(self.dir, self.context, Stage::InRun, &mut judged, now);
        look.moved = self.checked.moved.clone();
        look.gone_on_both = self.checked.gone_on_both.clone();
        look.look_at_these(&BTreeSet::from([mailbox.target()]));
        look.decide(LossSide::Near);
        let holds = look.found.contains_key(key);
        withheld.extend(look.found.into_keys().filter(|key| self.is_of_run(key)));
        holds
    }
}

/// When the guard looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before a run. `asked_for`: see [`check`].
    Before { asked_for: bool },
    /// The server cannot be asked: that messages were moved is left to the next judgement.
    InRun,
}

struct Guard<'g> {
    dir: &'g StateDir,
    context: AccountContext<'g>,
    judge: &'g mut dyn Judge,
    stage: Stage,
    now: SystemTime,
    state: HeldState,
    /// The Maildirs of those that are about to be run, where they are not those of the last.
    places: BTreeMap<PathBuf, Option<MaildirPlace>>,
    /// Of the mailboxes that have lost something.
    losses: Vec<Losses>,
    /// So many messages the others had on both sides, as far as they count.
    in_step: u64,
    /// The Maildirs that these are of.
    seen: BTreeSet<PathBuf>,
    /// Those that are about to be run, in the order of their names.
    scope: Vec<Rc<Mailbox>>,
    /// The rest of the account's, too, have been looked at.
    looked_at_all: bool,
    found: BTreeMap<String, HeldMailbox>,
    /// Read when it is needed.
    memory: Option<GoneMemory>,
    /// See [`Checked`].
    moved: BTreeMap<String, UidSet>,
    gone_on_both: BTreeMap<String, UidSet>,
    gone_there: BTreeMap<String, UidSet>,
    nowhere: BTreeSet<String>,
}

impl<'g> Guard<'g> {
    fn new(
        dir: &'g StateDir,
        context: AccountContext<'g>,
        stage: Stage,
        judge: &'g mut dyn Judge,
        now: SystemTime,
    ) -> Self {
        Guard {
            dir,
            context,
            judge,
            stage,
            now,
            state: HeldState::read(dir),
            places: BTreeMap::new(),
            losses: vec![],
            in_step: 0,
            seen: BTreeSet::new(),
            scope: vec![],
            looked_at_all: false,
            found: BTreeMap::new(),
            memory: None,
            moved: BTreeMap::new(),
            gone_on_both: BTreeMap::new(),
            gone_there: BTreeMap::new(),
            nowhere: BTreeSet::new(),
        }
    }
}

impl Guard<'_> {
    /// Looks at what a run for these targets would sync.
    fn look_at_these(&mut self, needed: &BTreeSet<Target>) {
        let scope = self.scope_of(needed);
        for mailbox in &scope {
            self.look_at(mailbox, false);
        }
        self.scope = scope;
    }

    /// Looks at the rest of the account.
    fn look_at_others(&mut self) {
        if std::mem::replace(&mut self.looked_at_all, true) {
            return;
        }
        let (config, account) = (self.context.config, self.context.account);
        for mailbox in config.local_mailboxes(account) {
            if self.scope.binary_search_by(|each| by_name(each, &mailbox)).is_err() {
                self.look_at(&Rc::new(mailbox), true);
            }
        }
    }

    /// The mailboxes that a run for these targets would sync, with those that were here.
    fn scope_of(&self, needed: &BTreeSet<Target>) -> Vec<Rc<Mailbox>> {
        let AccountContext { account, config, .. } = self.context;
        let mut scope: Vec<Rc<Mailbox>> = Vec::new();
        if needed.iter().any(|target| !matches!(target, Target::Mailbox { .. })) {
            scope.extend(config.local_mailboxes(account).into_iter().map(Rc::new));
            let places = self.state.places.keys();
            scope.extend(places.filter_map(|key| clean::mailbox(account, key)).map(Rc::new));
        }
        scope.extend(needed.iter().filter_map(|target| account.mailbox(target)).map(Rc::new));
        scope.retain(|mailbox| Target::any_covers(needed, mailbox));
        scope.sort_by(|a, b| by_name(a, b));
        scope.dedup_by(|a, b| by_name(a, b).is_eq());
        scope
    }

    fn memory(&mut self) -> &GoneMemory {
        let dir = self.dir;
        self.memory.get_or_insert_with(|| GoneMemory::read(dir))
    }

    /// What a mailbox has lost, and whether it is the one of the last run.
    /// `others`: it is not one of those that are to be run.
    fn look_at(&mut self, mailbox: &Rc<Mailbox>, others: bool) {
        let account = self.context.account;
        let key = clean::key(mailbox);
        let place = self.state.places.get(&key).copied();
        if !others {
            self.note_place(mailbox, place);
        }
        let record = record_of(mailbox);
        let mut pairs = record.as_ref().map(|record| guard::pairs(record, KnownGone::NOTHING));
        let judged = self.judge.gone_there(mailbox);
        let is_asked = (others || judged.is_none())
            && account.channel(&mailbox.channel).is_some_and(Channel::pulls_deletions);
        let mut there = judged.unwrap_or_default();
        let had = pairs.as_ref().filter(|pairs| is_asked && !pairs.is_empty());
        if let (Some(record), Some(pairs)) = (&record, had) {
            let validity = record.far_validity;
            let far = self.judge.far_side();
            let missing = far.and_then(|mut far| far.missing(mailbox, validity, pairs, !others));
            there.add(&missing.unwrap_or_default());
            there.tidy();
        }
        if self.stage != Stage::InRun && !there.is_empty() {
            self.gone_there.insert(key.clone(), there.clone());
        }
        let untouched = others && there.is_empty() && self.is_untouched(mailbox, &key);
        let near = |known: KnownGone<'_>| match &record {
            Some(record) if !untouched => near_losses(account, mailbox, record, known),
            _ => UidSet::EMPTY,
        };
        let missing = near(KnownGone::NOTHING);
        let mut lost = missing.clone();
        if !missing.is_empty() {
            let known = self.memory().known(mailbox);
            lost = near(known);
            pairs = record.as_ref().map(|record| guard::pairs(record, known));
        }
        if let Some(what) = place
            .and_then(|place| displaced(place, mailbox, lacks(mailbox, record.as_ref(), &lost)))
        {
            let of = pairs.as_ref().map_or(0, UidSet::len);
            let mut is_there = || self.judge.far_side()?.is_there(mailbox);
            if !others && what == HeldKind::NoMaildir && is_there() == Some(false) {
                self.nowhere.insert(key);
                return;
            }
            if !others && !self.is_answered(&key, what) {
                let validity = record.map_or([0; 2], |it| [it.far_validity, it.near_validity]);
                self.hold(key, what, (lost.len(), of), lost, validity, 0);
            }
            return;
        }
        let (Some(record), Some(pairs)) = (record, pairs) else { return };
        // What goes on both sides is no loss of either.
        let both = UidSet::from_uids(there.uids().filter(|uid| missing.contains(*uid)));
        let near = lost.without(&both);
        if self.stage != Stage::InRun && !both.is_empty() {
            self.gone_on_both.insert(key.clone(), both);
        }
        // In a run it is what was gone before it: mbsync itself deletes the rest here.
        let pairs = match self.gone_on_both.get(&key) {
            Some(both) => pairs.without(both),
            None => pairs,
        };
        let far = UidSet::from_uids(there.uids().filter(|uid| pairs.contains(*uid)));
        let exempt = is_exempt(self.context, mailbox);
        if near.is_empty() && far.is_empty() {
            let is_first = mailbox.maildir.as_ref().is_some_and(|it| self.seen.insert(it.clone()));
            self.in_step += if exempt || !is_first { 0 } else { pairs.len() };
            return;
        }
        let mailbox = Rc::clone(mailbox);
        let mut losses = Losses { mailbox, key, record, pairs, near, far, exempt, twin: false };
        losses.twin = self.losses.iter().any(|other| losses.is_twin_of(other));
        self.losses.push(losses);
    }

    /// Notes where a Maildir is if that is not its place at the last run. Before its messages
    /// are looked at: what is there later may be another one.
    fn note_place(&mut self, mailbox: &Mailbox, last: Option<MaildirPlace>) {
        let (Some(last), Some(maildir)) = (last, &mailbox.maildir) else { return };
        let now = place_of(mailbox);
        if now != Some(last) {
            self.places.insert(maildir.clone(), now);
        }
    }

    /// Its Maildir has the time stamps at which it was last found in step.
    fn is_untouched(&mut self, mailbox: &Mailbox, key: &str) -> bool {
        let then =
            self.memory().clean.get(key).and_then(|clean| clean.near.as_ref()?.stamps.clone());
        let at = mailbox.maildir.as_deref().zip(mailbox.state_file.as_deref());
        let now = at.and_then(|(maildir, file)| DirStamps::at(maildir, file).ok().flatten());
        then.is_some() && then == now
    }

    /// Somebody has said that a Maildir is another one now.
    fn is_answered(&self, key: &str, what: HeldKind) -> bool {
        let known = self.state.mailboxes.get(key);
        known.is_some_and(|known| known.allowed && known.what.is_of_place() && what.is_of_place())
    }

    /// The lost messages of a side that nobody has answered for, and that were not moved
    /// when the run was decided on.
    fn open_losses(&self, losses: &Losses, side: LossSide) -> UidSet {
        let answered = self.state.mailboxes.get(&losses.key).filter(|known| {
            known.allowed && known.what == kind(side) && known.validity == losses.validity()
        });
        let moved = self.moved.get(&losses.key).filter(|_| side == LossSide::Near);
        let open = |uid: &u32| {
            answered.is_none_or(|known| !known.uids.contains(*uid))
                && moved.is_none_or(|moved| !moved.contains(*uid))
        };
        UidSet::from_uids(losses.of(side).uids().filter(open))
    }

    fn hold(
        &mut self,
        key: String,
        what: HeldKind,
        (count, of): (u64, u64),
        uids: UidSet,
        validity: [u32; 2],
        looked: u64,
    ) {
        let known = self.state.mailboxes.get(&key);
        let since = known.filter(|known| known.what == what).map(|known| known.since);
        let since = since.unwrap_or_else(|| seconds(self.now));
        self.found.entry(key).or_insert(HeldMailbox {
            what,
            count,
            of,
            uids,
            validity,
            since,
            looked,
            said: false,
            allowed: false,
        });
    }

    fn decide(&mut self, side: LossSide) {
        let mut open: Vec<UidSet> =
            self.losses.iter().map(|losses| self.open_losses(losses, side)).collect();
        if !guard::concerns_account(&self.numbers(&open)) {
            return;
        }
        self.look_at_others();
        open = self.losses.iter().map(|losses| self.open_losses(losses, side)).collect();
        let mut moved: BTreeMap<String, UidSet> = BTreeMap::new();
        let lossy = self.losses.iter().filter(|each| !each.exempt && !each.twin);
        let all = self.in_step + lossy.map(|each| each.pairs.len()).sum::<u64>();
        // The server may say of one with another name that it is for trash.
        for at in guard::held(side, &self.numbers(&open), all) {
            let known = self.known(at, side).is_some();
            if let Some(losses) = self.losses.get_mut(at).filter(|_| !known) {
                let far = self.judge.far_side();
                losses.exempt |= far.is_some_and(|mut far| far.is_trash(&losses.mailbox));
                if losses.exempt {
                    moved.insert(losses.key.clone(), losses.of(side).clone());
                }
            }
        }
        let suspects = guard::held(side, &self.numbers(&open), all);
        if suspects.is_empty() {
            self.note_moved(side, &moved);
            return;
        }
        let decided: Vec<Option<(u64, u64)>> =
            suspects.iter().map(|at| self.known(*at, side)).collect();
        let now = seconds(self.now);
        let mut numbers = self.numbers(&open);
        let mut net: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        if self.stage == Stage::InRun {
            net.extend(suspects.iter().filter_map(|at| Some((*at, (open.get(*at)?.len(), now)))));
        } else if decided.iter().all(Option::is_some) {
            // As the last time: nothing has to be looked for again.
            let counts = decided.into_iter().flatten();
            net.extend(suspects.iter().copied().zip(counts));
        } else {
            for at in suspects {
                let lost = open.get(at).cloned().unwrap_or_default();
                net.insert(at, (self.not_moved(at, side, &lost), now));
            }
        }
        for (at, (lost, _)) in &net {
            if let Some(number) = numbers.get_mut(*at) {
                number.lost = *lost;
            }
            if let (Some(losses), Some(open)) = (self.losses.get(*at), open.get(*at)) {
                // Which ones, a sample does not tell.
                let many = usize::try_from(open.len().saturating_sub(*lost)).unwrap_or(0);
                let some = UidSet::from_uids(open.uids().take(many));
                moved.insert(losses.key.clone(), some);
            }
        }
        self.note_moved(side, &moved);
        for at in guard::held(side, &numbers, all) {
            let count = numbers.get(at).map_or(0, |number| number.lost);
            let looked = net.get(&at).map_or(now, |(_, looked)| *looked);
            let is_open = |at: &usize| open.get(*at).is_some_and(|open| !open.is_empty());
            let twins = self.twins_of(at).filter(is_open);
            for at in std::iter::once(at).chain(twins).collect::<Vec<usize>>() {
                let Some(losses) = self.losses.get(at) else { continue };
                let (of, validity) = (losses.pairs.len(), losses.validity());
                // With what was answered for: the next answer is for all of it.
                let (key, uids) = (losses.key.clone(), losses.of(side).clone());
                self.hold(key, kind(side), (count, of), uids, validity, looked);
            }
        }
    }

    /// Those that are the same two mailboxes as this one.
    fn twins_of(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.losses.get(at);
        let all = self.losses.iter().enumerate().filter(|(_, losses)| losses.twin);
        let twins = all.filter(move |(_, twin)| first.is_some_and(|it| twin.is_twin_of(it)));
        twins.map(|(at, _)| at)
    }

    fn note_moved(&mut self, side: LossSide, moved: &BTreeMap<String, UidSet>) {
        if side != LossSide::Near || self.stage == Stage::InRun {
            return;
        }
        let moved_of = |losses: &Losses| {
            let same = |each: &&Losses| each.key == losses.key || losses.is_twin_of(each);
            self.losses.iter().filter(same).find_map(|each| moved.get(&each.key))
        };
        let of_each =
            self.losses.iter().filter_map(|it| Some((it.key.clone(), moved_of(it)?.clone())));
        self.moved = of_each.collect();
    }

    /// What was decided about the same loss a short while ago: the number, and when.
    fn known(&self, at: usize, side: LossSide) -> Option<(u64, u64)> {
        let losses = self.losses.get(at)?;
        let known = self.state.mailboxes.get(&losses.key)?;
        let age = seconds(self.now).checked_sub(known.looked)?;
        let same = known.what == kind(side)
            && !known.allowed
            && known.uids == *losses.of(side)
            && known.validity == losses.validity();
        let is_recent = age < AGAIN && self.stage != Stage::Before { asked_for: true };
        (same && is_recent).then_some((known.count, known.looked))
    }

    fn numbers(&self, open: &[UidSet]) -> Vec<Loss> {
        let mut numbers = vec![];
        for (at, lost) in open.iter().enumerate() {
            let Some(losses) = self.losses.get(at) else { continue };
            let of = losses.pairs.len();
            let lost = if losses.exempt || losses.twin { 0 } else { lost.len() };
            numbers.push(Loss { lost, of });
        }
        numbers
    }

    /// How many of the messages that are gone are nowhere else.
    fn not_moved(&mut self, at: usize, side: LossSide, lost: &UidSet) -> u64 {
        let Some(losses) = self.losses.get(at) else { return lost.len() };
        let sample = sample(lost);
        let mut wanted = LostMessages::default();
        match side {
            LossSide::Near => {
                let far = self.judge.far_side();
                let there = far.and_then(|mut far| far.messages(&losses.mailbox, &sample));
                let Some(there) = there else {
                    // Which ones they are cannot be asked: as many as are new elsewhere.
                    return lost.len().saturating_sub(self.new_elsewhere(&losses.key));
                };
                for identity in there {
                    wanted.add(identity, None);
                }
            }
            LossSide::Far => messages_here(losses, &sample, &mut wanted),
        }
        // Those that cannot be looked for count as gone.
        let unknown = sample.len().saturating_sub(wanted.left());
        self.find_here(&mut wanted);
        if side == LossSide::Far && wanted.left() > 0 {
            self.find_there(&mut wanted);
        }
        let left = wanted.left() + unknown;
        if sample.is_empty() { 0 } else { (lost.len() * left).div_ceil(sample.len()) }
    }

    /// Messages of the account's other mailboxes here that mbsync has not seen.
    fn new_elsewhere(&self, but: &str) -> u64 {
        let mut count = 0;
        let others = self.context.config.local_mailboxes(self.context.account);
        for mailbox in others.iter().filter(|mailbox| clean::key(mailbox) != but) {
            let Some((maildir, record)) = mailbox.maildir.as_ref().zip(record_of(mailbox)) else {
                continue;
            };
            message_files(maildir, &mut |path, _| {
                count += u64::from(is_new(&record, uid_of(path)));
            });
        }
        count
    }

    /// Takes off what there are copies of on this disk: the newest files first, for most
    /// copies are of today.
    fn find_here(&self, wanted: &mut LostMessages) {
        let mut doomed: HashMap<PathBuf, HashSet<u32>> = HashMap::new();
        for losses in &self.losses {
            let near = |far: u32| losses.record.of_far(far).map(|entry| entry.near);
            let lost = losses.far.uids().chain(losses.near.uids()).filter_map(near);
            if let Some(maildir) = &losses.mailbox.maildir {
                doomed.entry(maildir.clone()).or_default().extend(lost);
            }
        }
        let mut files: Vec<(i64, PathBuf)> = vec![];
        for (maildir, info_delimiter) in maildirs(self.context) {
            let doomed = doomed.get(&maildir);
            message_files(&maildir, &mut |path, entry| {
                let name = path.file_name().map(OsStr::as_encoded_bytes);
                let deleted = name.is_some_and(|name| maildir::is_trashed(name, info_delimiter));
                let is_doomed = doomed.is_some_and(|doomed| doomed.contains(&uid_of(path)));
                if !deleted && !is_doomed && files.len() < MOST_FILES {
                    let changed = entry.metadata().map_or(0, |found| found.ctime());
                    files.push((changed, path.to_owned()));
                }
            });
        }
        files.sort_unstable_by_key(|(changed, _)| std::cmp::Reverse(*changed));
        for (_, path) in files {
            if wanted.left() == 0 {
                break;
            }
            if let Ok(Some(identity)) = MessageIdentity::of_file(&path) {
                wanted.found(identity);
            }
        }
    }

    /// Takes off what has come to other mailboxes on the server, or to the same one
    /// again.
    fn find_there(&mut self, wanted: &mut LostMessages) {
        let local = self.context.config.local_mailboxes(self.context.account);
        let mut asked = BTreeSet::new();
        for mailbox in self.scope.iter().map(Rc::as_ref).chain(&local).take(MOST_ASKED) {
            if !asked.insert(clean::key(mailbox)) {
                continue;
            }
            let from = record_of(mailbox).map_or(0, |record| record.max_pulled).saturating_add(1);
            let mut new = UidSet::default();
            new.push(from, from.saturating_add(MOST_NEW));
            let there = self.judge.far_side().and_then(|mut far| far.messages(mailbox, &new));
            for identity in there.unwrap_or_default() {
                wanted.found(identity);
            }
            if wanted.left() == 0 {
                return;
            }
        }
        if let Some(mut far) = self.judge.far_side() {
            far.find_elsewhere(wanted);
        }
    }
}

/// Whether mbsync has not seen a near message. A pulled one may stay above the mark: that is
/// raised only for the next UID (isync 1.4 and 1.5, `sync.c`).
fn is_new(record: &Record, uid: u32) -> bool {
    uid == 0 || uid > record.max_pushed && record.of_near(uid).is_none()
}

/// Looks for copies of the near messages of these pairs.
fn messages_here(losses: &Losses, far: &UidSet, wanted: &mut LostMessages) {
    let near: HashSet<u32> =
        far.uids().filter_map(|uid| losses.record.of_far(uid).map(|entry| entry.near)).collect();
    if let Some(maildir) = losses.mailbox.maildir.as_deref() {
        message_files(maildir, &mut |path, _| {
            if near.contains(&uid_of(path)) {
                if let Ok(Some(identity)) = MessageIdentity::of_file(path) {
                    wanted.add(identity, Some(path.to_owned()));
                }
            }
        });
    }
}

fn kind(side: LossSide) -> HeldKind {
    match side {
        LossSide::Near => HeldKind::GoneHere,
        LossSide::Far => HeldKind::GoneThere,
    }
}

/// Some of them, from all over the set.
fn sample(set: &UidSet) -> UidSet {
    let step = usize::try_from(set.len().div_ceil(SAMPLE).max(1)).unwrap_or(usize::MAX);
    UidSet::from_uids(set.uids().step_by(step))
}

/// The files in cur and new.
fn message_files(maildir: &Path, take: &mut dyn FnMut(&Path, &std::fs::DirEntry)) {
    for folder in ["cur", "new"] {
        for entry in std::fs::read_dir(maildir.join(folder)).into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                take(&entry.path(), &entry);
            }
        }
    }
}

/// All Maildirs below the stores of all accounts, synced or not, with the byte before the flags
/// in their file names.
fn maildirs(context: AccountContext<'_>) -> Vec<(PathBuf, u8)> {
    let channels = context.config.accounts.iter().flat_map(|account| &account.channels);
    let stores = channels.flat_map(|channel| [&channel.near, &channel.far]);
    let mut pending: Vec<(PathBuf, u8, u32)> = vec![];
    for store in stores.filter_map(|side| side.maildir()) {
        let info_delimiter = u8::try_from(store.info_delimiter).unwrap_or(b':');
        pending.push((store.inbox.clone(), info_delimiter, 0));
        if let Some(path) = &store.path {
            // A prefix of names, if it does not end in a slash.
            let end = path.rfind('/').map_or(0, |at| at + 1);
            let dir = PathBuf::from(path.get(..end).unwrap_or_default());
            pending.push((dir, info_delimiter, 0));
        }
    }
    let (mut seen, mut found) = (BTreeSet::new(), vec![]);
    while let Some((dir, info_delimiter, depth)) = pending.pop() {
        let Ok(here) = dir.metadata() else { continue };
        if !seen.insert((here.dev(), here.ino())) || seen.len() > MOST_DIRECTORIES {
            continue;
        }
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match entry.file_name().to_str() {
                Some("cur") if is_dir => found.push((dir.clone(), info_delimiter)),
                Some("new" | "tmp") => {}
                _ if is_dir && depth < 16 && entry.ino() != here.ino() => {
                    pending.push((entry.path(), info_delimiter, depth + 1));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::context::tests::Fixture;
    use crate::verdict::record;

    #[test]
    fn g14_a_maildir_is_read_with_the_delimiter_of_its_store() {
        let fixture = Fixture::new(
            "IMAPStore far\nHost localhost\n\nMaildirStore near\nPath ~/a/\nInbox ~/inbox\n\
             InfoDelimiter ;\n\nChannel Home\nFar :far:\nNear :near:\n",
        );
        let home = fixture.home.path();
        for dir in ["a/one/cur", "a/one/two/cur", "inbox/cur"] {
            std::fs::create_dir_all(home.join(dir)).unwrap();
        }
        let mut found = maildirs(fixture.context());
        found.sort();
        let expected = ["a/one", "a/one/two", "inbox"].map(|dir| (home.join(dir), b';'));
        assert_eq!(found, expected);
    }

    #[test]
    fn g14_a_pulled_message_above_the_mark_is_not_new() {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 3\n\n";
        let record = record::parse(format!("{head}3 3 S\n9 5 S\n").as_bytes()).unwrap();
        let new: Vec<u32> = (0..8).filter(|uid| is_new(&record, *uid)).collect();
        assert_eq!(new, [0, 4, 6, 7]);
    }
}
