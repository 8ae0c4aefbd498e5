//! The mailboxes of one account: the state of each, what is remembered of clean
//! scans (`seen.json`) and of runs that left one dirty (`stuck.json`), and which
//! of them need a run.
//!
//! Reads Maildirs. Does not depend on: the connection, inotify, clocks, locks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::log::Log;
use super::mailbox::{Debounce, FarState, MailboxState, NearState, StatusUpdate, Stuck};
use crate::imap::ClientError;
use crate::lend::RunMailboxes;
use crate::lend::flags::ScanByRun;
use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox, Target};
use crate::state::{StateDir, clean, state_failure};
use crate::survey;
use crate::survey::scan::{self, FarScan, FarSide, FarStep, MOST_MESSAGES, PendingScan, ScanScope};
use crate::sync::{losses, settle};
use crate::text::short;
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::maildir::Stamp;
use crate::verdict::server::{CleanServer, ServerStatus};
use crate::verdict::{
    Changes, CleanState, Digest, Rules, SideVerdict, Verdict, guard, maildir, record,
};

/// Scans of several mailboxes on the server lead to one run, if they take no
/// longer together.
const SCANS: Duration = Duration::from_secs(2);

/// What is kept in `stuck.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StuckState {
    /// By channel and mailbox.
    pub mailboxes: BTreeMap<String, Stuck>,
    /// Mailboxes that only the server has, and that a run did not create here.
    #[serde(rename = "only_there")]
    pub only_on_server: BTreeSet<String>,
}

pub struct Mailboxes {
    states: Vec<MailboxState>,
    /// Boxed: half of a map's slots are empty, and there may be tens of thousands.
    clean: BTreeMap<String, Box<CleanState>>,
    /// What runs have removed (`gone.json`).
    gone: BTreeMap<String, Gone>,
    stuck: StuckState,
    clean_is_unsaved: bool,
    stuck_is_unsaved: bool,
    settle: Duration,
    /// Until when mbsync would sleep for a Maildir that was touched.
    held_until: Duration,
    /// The last run passed a busy mailbox over, so that it did not sleep.
    busy_is_next: bool,
    /// Since when mailboxes on the server are being scanned.
    scanning_since: Option<Duration>,
    /// Those that such a scan has found clean, and nobody has looked at since.
    found_clean: BTreeSet<usize>,
    log: Rc<Log>,
}

/// The state of the mailboxes that a run syncs, before it.
pub struct BeforeRun {
    /// By index: the mailboxes stay the same until the run has been judged.
    mailboxes: BTreeMap<usize, MailboxBefore>,
    /// Mailboxes that only the server had, if the run was to create them here.
    only_on_server: Option<BTreeSet<String>>,
}

/// A mailbox before a run.
struct MailboxBefore {
    /// What to keep if it stays so; `None` if it was clean.
    stuck: Option<Box<Stuck>>,
    /// The near side's digest.
    digest: Option<Digest>,
    record: Option<Stamp>,
}

impl Mailboxes {
    pub fn new(
        clean: BTreeMap<String, Box<CleanState>>,
        stuck: StuckState,
        settle: Duration,
        log: Rc<Log>,
    ) -> Self {
        Mailboxes {
            states: Vec::new(),
            clean,
            gone: BTreeMap::new(),
            stuck,
            clean_is_unsaved: false,
            stuck_is_unsaved: false,
            settle,
            held_until: Duration::ZERO,
            busy_is_next: false,
            scanning_since: None,
            found_clean: BTreeSet::new(),
            log,
        }
    }

    pub fn read(dir: &StateDir, settle: Duration, log: Rc<Log>) -> Self {
        let clean = dir.read_json(clean::FILE).unwrap_or_default();
        let stuck = dir.read_json(clean::STUCK).unwrap_or_default();
        let mut mailboxes = Mailboxes::new(clean, stuck, settle, log);
        mailboxes.read_gone(dir);
        mailboxes
    }

    /// A run may have removed messages.
    pub fn read_gone(&mut self, dir: &StateDir) {
        self.gone = dir.read_json(clean::GONE).unwrap_or_default();
    }

    /// Writes what has changed since the last time.
    pub fn save(&mut self, dir: &StateDir) {
        if !self.clean_is_unsaved && !self.stuck_is_unsaved {
            return;
        }
        let known: HashSet<String> = self.states.iter().map(MailboxState::key).collect();
        if std::mem::take(&mut self.clean_is_unsaved) {
            self.clean.retain(|key, _| known.contains(key));
            if let Err(error) = dir.write_json(clean::FILE, &self.clean) {
                self.log.report(
                    &state_failure(&error, "cannot save which mailboxes are clean").to_string(),
                );
            }
        }
        if std::mem::take(&mut self.stuck_is_unsaved) {
            self.stuck.mailboxes.retain(|key, _| known.contains(key));
            if let Err(error) = dir.write_json(clean::STUCK, &self.stuck) {
                self.log.report(
                    &state_failure(&error, "cannot save which mailboxes stay dirty").to_string(),
                );
            }
        }
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mailbox> {
        self.states.iter().map(|state| &state.mailbox)
    }

    pub fn list(&self) -> Vec<&Mailbox> {
        self.iter().collect()
    }

    /// These are the mailboxes now; what is known of those that stay is kept.
    /// True if they are not the same as before.
    pub fn replace(&mut self, found: Vec<Mailbox>, account: &Account) -> bool {
        if self.iter().eq(&found) {
            return false;
        }
        let places: HashMap<&Mailbox, usize> =
            self.iter().enumerate().map(|(at, mailbox)| (mailbox, at)).collect();
        let before: Vec<Option<usize>> =
            found.iter().map(|mailbox| places.get(mailbox).copied()).collect();
        drop(places);
        // Kept by index, which is another one now.
        let was_found = |at: &Option<usize>| at.is_some_and(|at| self.found_clean.contains(&at));
        let found_clean = (0..).zip(&before).filter(|(_, before)| was_found(before));
        self.found_clean = found_clean.map(|(at, _)| at).collect();
        let mut known: Vec<Option<MailboxState>> = self.states.drain(..).map(Some).collect();
        let all = found.into_iter().zip(before);
        self.states = all
            .map(|(mailbox, before)| {
                let known = before.and_then(|at| known.get_mut(at)?.take());
                known.unwrap_or_else(|| MailboxState::new(mailbox, account))
            })
            .collect();
        true
    }

    /// Something happened in these Maildirs.
    pub fn touch(&mut self, mailboxes: &BTreeSet<usize>, now: Duration) {
        for at in mailboxes {
            if let Some(state) = self.states.get_mut(*at) {
                state.touched = Some(Debounce::again(state.touched, now));
            }
        }
    }

    pub fn rescan(&mut self, mailboxes: &[usize]) {
        for at in mailboxes {
            if let Some(state) = self.states.get_mut(*at) {
                state.near = NearState::Unscanned;
            }
        }
    }

    pub fn rescan_all(&mut self) {
        self.states.iter_mut().for_each(|state| state.near = NearState::Unscanned);
    }

    /// When the Maildirs that were touched have settled.
    pub fn settled_at(&self) -> Option<Duration> {
        self.quiet_at().map(|at| at.max(self.held_until))
    }

    fn quiet_at(&self) -> Option<Duration> {
        Debounce::together(self.states.iter().filter_map(|state| state.touched))
            .map(|touched| touched.settled_at(self.settle))
    }

    /// Whether the Maildirs that were touched have settled. One that is written without
    /// pause is busy then.
    fn have_settled(&mut self, now: Duration, wall: SystemTime) -> bool {
        let Some(quiet_at) = self.quiet_at().filter(|at| now >= *at.max(&self.held_until)) else {
            return false;
        };
        let touched = |state: &&mut MailboxState| state.touched.is_some();
        let mut longest = Duration::ZERO;
        for state in self.states.iter_mut().filter(touched) {
            let maildir = state.mailbox.maildir.as_deref();
            let remaining = maildir.map(|maildir| settle::maildir_remaining(maildir, wall));
            state.busy = remaining.is_some_and(|remaining| !remaining.is_zero());
            longest = longest.max(remaining.unwrap_or_default());
        }
        let hold = settle::is_worth_waiting(quiet_at, longest, now);
        if hold {
            self.held_until = now + longest;
            self.states.iter_mut().for_each(|state| state.busy = false);
        }
        !hold
    }

    /// Scans the Maildirs that may have changed and have settled. True if there
    /// was one.
    pub fn scan_near_sides(&mut self, now: Duration, wall: SystemTime) -> bool {
        let settled = self.have_settled(now, wall);
        let due: Vec<usize> = (0..self.states.len())
            .filter(|at| self.states.get(*at).is_some_and(|state| state.needs_near_scan(settled)))
            .collect();
        for at in &due {
            self.scan_near_side(*at, None);
        }
        !due.is_empty()
    }

    /// `left_by_run`: see [`maildir::scan_mailbox`].
    fn scan_near_side(&mut self, at: usize, left_by_run: Option<Digest>) {
        let Some(state) = self.states.get_mut(at) else { return };
        let was_touched = state.touched.take().is_some();
        let key = state.key();
        let by_run = self.gone.get(&key);
        let clean = self.clean.entry(key).or_default();
        let (verdict, memory) = scan_maildir(state, clean, by_run, left_by_run);
        state.set_far(state.far.clone());
        if let Some(memory) = memory {
            clean.near = Some(memory);
            self.clean_is_unsaved = true;
        }
        let text = match &verdict {
            SideVerdict::Clean if was_touched => Some("touched, nothing to push".to_owned()),
            SideVerdict::Clean => None,
            SideVerdict::Changed(changes) => Some(format!("to push: {changes}")),
            SideVerdict::Unknown(why) => Some(why.clone()),
        };
        if let Some(text) = text {
            self.log.say(|| format!("{}: {text}", state.mailbox.near));
        }
        let is_clean = verdict == SideVerdict::Clean;
        state.near = NearState::Known(verdict);
        if is_clean {
            state.busy = false;
            self.unstick(at, |stuck| stuck.near = None);
        }
    }

    /// A side found clean is no longer stuck.
    fn unstick(&mut self, at: usize, clear: impl FnOnce(&mut Stuck)) {
        let Some(key) = self.states.get(at).map(MailboxState::key) else { return };
        let Some(stuck) = self.stuck.mailboxes.get_mut(&key) else { return };
        let before = stuck.clone();
        clear(stuck);
        self.stuck_is_unsaved |= *stuck != before;
        if *stuck == Stuck::default() {
            self.stuck.mailboxes.remove(&key);
        }
    }

    /// The server reports that a mailbox has changed. `hidden`: in a way that STATUS
    /// does not show. `quiet`: no run is active, and none was a moment ago.
    pub fn server_changed(
        &mut self,
        at: usize,
        status: Option<ServerStatus>,
        hidden: bool,
        quiet: bool,
    ) {
        let Some(state) = self.states.get_mut(at) else { return };
        let key = state.key();
        let record = Stamp::of_record(&state.mailbox);
        let clean = self.clean.get(&key).and_then(|clean| state.clean_status(clean, record));
        if hidden {
            // STATUS alone must not satisfy the next scan.
            self.clean.entry(key).or_default().far = None;
        }
        state.far_is_scanned = false;
        let base = state.far_base;
        state.set_far(match status {
            Some(now) => {
                let update = StatusUpdate { now, base, clean, hidden, quiet };
                state.far.updated(update, state.rules.is_ok())
            }
            None => FarState::compared(None, None),
        });
        if state.far == FarState::Known(SideVerdict::Clean) {
            state.far_base = status.map(|now| (now, Changes::default()));
        }
        self.log.say(|| {
            let then = match &state.far {
                FarState::Known(SideVerdict::Clean) => "as at the last scan",
                FarState::Unscanned => "may be an echo",
                _ => "a change",
            };
            let status = status.map_or("it is gone".into(), |status| {
                format!("messages: {}, next UID {}", status.messages, status.uid_next)
            });
            format!("{}: the server reports {status}: {then}", state.mailbox.near)
        });
    }

    /// A connection starts: its STATUS of each mailbox against that of the last
    /// clean scan.
    pub fn connected(&mut self, statuses: &[Option<ServerStatus>]) {
        for (at, state) in self.states.iter_mut().enumerate() {
            let record = Stamp::of_record(&state.mailbox);
            let clean =
                self.clean.get(&state.key()).and_then(|clean| state.clean_status(clean, record));
            state.far_is_scanned = false;
            let now = status(statuses, at);
            state.far_base = now.map(|now| (now, Changes::default()));
            state.set_far(FarState::compared(now, clean));
        }
    }

    /// Nobody has heard for a while which flags were set in these: they are compared, up to so
    /// many messages in all.
    pub fn flags_unheard(&mut self, mailboxes: &BTreeSet<usize>, most: u32) {
        let mut messages = 0_u32;
        for at in mailboxes {
            let Some(state) = self.states.get_mut(*at) else { continue };
            let Some((status, _)) = state.far_base else { continue };
            let all = messages.saturating_add(status.messages);
            if state.far != FarState::Known(SideVerdict::Clean) || all > most {
                continue;
            }
            messages = all;
            state.far = FarState::Unscanned;
            // STATUS alone must not satisfy the next scan.
            if let Some(clean) = self.clean.get_mut(&state.key()) {
                clean.far = None;
            }
        }
    }

    pub fn disconnected(&mut self) {
        self.states.iter_mut().for_each(|state| state.far = FarState::Unwatched);
    }

    /// Whether scans on the server are under way: what they show goes into one run.
    /// A server that is slow about it is not waited for.
    pub fn is_scanning(&mut self, now: Duration) -> bool {
        if !self.needs_far_scan() {
            self.scanning_since = None;
        }
        self.scanning_since.is_some_and(|since| now < since + SCANS)
    }

    /// Whether a mailbox is to be scanned on the server.
    pub fn needs_far_scan(&self) -> bool {
        self.states.iter().any(|state| state.far == FarState::Unscanned)
    }

    /// Whether one of these is still to be scanned on the server.
    pub fn any_unscanned(&self, mailboxes: &BTreeSet<usize>) -> bool {
        let mut states = mailboxes.iter().filter_map(|at| self.states.get(*at));
        states.any(|state| state.far == FarState::Unscanned)
    }

    /// Scans mailboxes on the server: all that are due, or as many as is sensible at
    /// once. `among`: only these, which were asked for. False if one changed meanwhile,
    /// so that it has to be scanned again. Fails when the connection is lost.
    pub fn scan_far_sides(
        &mut self,
        among: Option<&BTreeSet<usize>>,
        server: &mut impl FarSide,
        clock: impl Fn() -> Duration,
    ) -> Result<bool, ClientError> {
        let started = clock();
        self.scanning_since.get_or_insert(started);
        let mut pending: Vec<(usize, Box<PendingScan>)> = Vec::new();
        let mut messages = 0_u32;
        for at in 0..self.states.len() {
            let Some(state) = self.states.get(at) else { continue };
            if state.far != FarState::Unscanned || among.is_some_and(|among| !among.contains(&at)) {
                continue;
            }
            let key = state.key();
            let by_run = self.gone.get(&key);
            let clean = self.clean.entry(key).or_default();
            let (mailbox, rules) = (&state.mailbox, &state.rules);
            let now = server.status(at);
            match scan::begin(mailbox, rules, now, clean, by_run, among.is_some()) {
                FarStep::Known(verdict) => self.far_scanned(at, verdict, now, started, &clock),
                FarStep::Scan(scan) => {
                    messages = messages.saturating_add(scan.messages);
                    let many = pending.len() >= survey::MOST_SCANS || messages > MOST_MESSAGES;
                    if many && !pending.is_empty() {
                        break;
                    }
                    pending.push((at, scan));
                }
            }
        }
        let scopes: Vec<(usize, ScanScope)> =
            pending.iter().map(|(at, scan)| (*at, scan.scope.clone())).collect();
        let scanned = if scopes.is_empty() { vec![] } else { server.scan_all(&scopes)? };
        let mut well = true;
        for ((at, scan), scanned) in pending.into_iter().zip(scanned) {
            let Some(state) = self.states.get_mut(at) else { continue };
            let Ok(rules) = &state.rules else { continue };
            let key = state.key();
            let by_run = self.gone.get(&key);
            let clean = self.clean.entry(key).or_default();
            let now = server.status(at);
            let found = scan.finish(&state.mailbox, rules, scanned, now, clean, by_run);
            state.unconfirmed = false;
            let name = state.mailbox.near.clone();
            if !self.take_scan(at, found, started, &clock) {
                self.log.say(|| format!("{name}: changed during the scan; scanning again"));
                well = false;
            }
        }
        Ok(well)
    }

    /// Takes what a scan of the far side has found. False if it shows nothing of now.
    fn take_scan(
        &mut self,
        at: usize,
        found: FarScan,
        started: Duration,
        clock: &impl Fn() -> Duration,
    ) -> bool {
        let Some(state) = self.states.get_mut(at) else { return false };
        self.clean_is_unsaved |= found.learned;
        // What it found gone may be what the near side lacks.
        if found.learned && matches!(state.near, NearState::Known(SideVerdict::Changed(_))) {
            state.near = NearState::Unscanned;
        }
        let Some(verdict) = found.verdict else { return false };
        if verdict == SideVerdict::Clean {
            self.found_clean.insert(at);
        }
        self.far_scanned(at, verdict, found.status, started, clock);
        true
    }

    /// What a run of ours was told of the far side of this one is as good as a scan, where
    /// nothing has changed since. `now`: STATUS after it.
    pub fn scanned_by_run(
        &mut self,
        at: usize,
        ran: ScanByRun,
        now: Option<ServerStatus>,
        clock: impl Fn() -> Duration,
    ) {
        let started = clock();
        let Some(state) = self.states.get(at) else { return };
        let Ok(rules) = &state.rules else { return };
        let key = state.key();
        let by_run = self.gone.get(&key);
        let clean = self.clean.entry(key).or_default();
        let found = scan::judge_run(&state.mailbox, rules, ran, now, clean, by_run);
        self.take_scan(at, found, started, &clock);
    }

    fn far_scanned(
        &mut self,
        at: usize,
        verdict: SideVerdict,
        then: Option<ServerStatus>,
        started: Duration,
        clock: &impl Fn() -> Duration,
    ) {
        let Some(state) = self.states.get_mut(at) else { return };
        self.log.say(|| {
            let took = short(clock().saturating_sub(started));
            let text = match &verdict {
                SideVerdict::Clean => format!("in sync with the server ({took})"),
                SideVerdict::Changed(changes) => format!("to pull: {changes} ({took})"),
                SideVerdict::Unknown(why) => why.clone(),
            };
            format!("{}: {text}", state.mailbox.near)
        });
        let is_clean = verdict == SideVerdict::Clean;
        state.unconfirmed = false;
        let changes = match &verdict {
            SideVerdict::Changed(changes) => *changes,
            SideVerdict::Clean | SideVerdict::Unknown(_) => Changes::default(),
        };
        state.far_base = then.map(|then| (then, changes));
        state.far = FarState::Known(verdict);
        state.far_is_scanned = true;
        if is_clean {
            self.unstick(at, |stuck| stuck.far = None);
        }
    }

    /// The far sides that were scanned and found clean since the last time.
    pub fn take_found_clean(&mut self) -> Vec<(&Mailbox, &CleanServer)> {
        let found = std::mem::take(&mut self.found_clean);
        let far = |state: &MailboxState| self.clean.get(&state.key())?.far.as_ref();
        let states = found.into_iter().filter_map(|at| self.states.get(at));
        states.filter_map(|state| Some((&state.mailbox, far(state)?))).collect()
    }

    /// The mailboxes that these targets mean.
    pub fn among(&self, targets: &BTreeSet<Target>) -> BTreeSet<usize> {
        let asked = |state: &MailboxState| Target::any_covers(targets, &state.mailbox);
        let all = self.states.iter().enumerate().filter(|(_, state)| asked(state));
        all.map(|(at, _)| at).collect()
    }

    /// No short cut is taken with these any more: they are compared message by message.
    pub fn forget(&mut self, mailboxes: &BTreeSet<usize>) {
        for at in mailboxes {
            let Some(state) = self.states.get(*at) else { continue };
            if let Some(clean) = self.clean.get_mut(&state.key()) {
                clean.far = None;
                if let Some(near) = &mut clean.near {
                    near.stamps = None;
                }
            }
        }
    }

    /// Of these, those of which STATUS alone says that many messages may be gone, or that
    /// have no STATUS to compare with: they are to be scanned.
    pub fn rescan_losses(
        &mut self,
        mailboxes: &BTreeSet<usize>,
        statuses: &[Option<ServerStatus>],
    ) -> BTreeSet<usize> {
        let mut chosen = BTreeSet::new();
        for at in mailboxes {
            let Some(state) = self.states.get_mut(*at) else { continue };
            let is_changed = matches!(&state.far, FarState::Known(SideVerdict::Changed(_)));
            if state.far == FarState::Unscanned {
                chosen.insert(*at);
            }
            let Some(now) = status(statuses, *at).filter(|_| is_changed && !state.far_is_scanned)
            else {
                continue;
            };
            let record = Stamp::of_record(&state.mailbox);
            let clean = self.clean.get(&state.key());
            let then = clean.and_then(|clean| state.clean_status(clean, record));
            let lost = then.map(|then| {
                let new = now.uid_next.saturating_sub(then.uid_next);
                then.messages.saturating_add(new).saturating_sub(now.messages)
            });
            let all = then.map_or(0, |then| then.messages).max(1);
            if lost.is_none_or(|lost| u64::from(lost) >= guard::FEW || lost >= all) {
                state.far = FarState::Unscanned;
                chosen.insert(*at);
            }
        }
        chosen
    }

    /// What scans have found gone on the server, by key: of these targets, nothing of what
    /// was judged, too.
    pub fn gone_there(&self, needed: &BTreeSet<Target>) -> BTreeMap<String, UidSet> {
        let gone = |state: &MailboxState| {
            let key = state.key();
            let clean = self.clean.get(&key);
            let gone = clean.and_then(|clean| losses::gone_there(clean, &state.mailbox));
            if !Target::any_covers(needed, &state.mailbox) {
                return Some((key, gone?));
            }
            let judged = matches!(&state.far, FarState::Known(verdict) if verdict.is_known());
            judged.then(|| (key, gone.unwrap_or_default()))
        };
        self.states.iter().filter_map(gone).collect()
    }

    /// What a run has to know of mailboxes with these indices and wire names. `flags`: also
    /// those that need not be fetched.
    pub fn for_run<'n>(
        &self,
        names: impl Iterator<Item = (usize, &'n String)>,
        flags: bool,
    ) -> RunMailboxes {
        let mut mailboxes = RunMailboxes::default();
        mailboxes.names.reserve_exact(names.size_hint().1.unwrap_or_default());
        for (at, name) in names {
            let Some(state) = self.states.get(at) else { continue };
            let key = state.key();
            let clean = self.clean.get(&key).filter(|_| flags);
            mailboxes.add(name, &state.mailbox, clean.map(Box::as_ref), self.gone.get(&key));
        }
        mailboxes
    }

    /// Scans the near sides of these, settled or not, and has their far sides judged
    /// again.
    pub fn scan_asked(&mut self, mailboxes: &BTreeSet<usize>) {
        for at in mailboxes {
            if let Some(state) = self.states.get_mut(*at) {
                if state.far != FarState::Unwatched {
                    state.far = FarState::Unscanned;
                }
            }
            self.scan_near_side(*at, None);
        }
    }

    /// Those of these that need a run, and why. `stuck_too`: also those for which a run
    /// has done nothing before.
    pub fn needed(
        &self,
        mailboxes: &BTreeSet<usize>,
        statuses: &[Option<ServerStatus>],
        stuck_too: bool,
    ) -> Vec<(Target, String)> {
        let states = mailboxes.iter().filter_map(|at| Some((*at, self.states.get(*at)?)));
        let needs_run = |(at, state): (usize, &MailboxState)| {
            let unsettled = match &state.far {
                FarState::Unscanned => Some("it changes while it is scanned"),
                FarState::Unwatched => Some("the server cannot be asked"),
                FarState::Known(_) => None,
            };
            let why = if let Some(unsettled) = unsettled {
                unsettled.to_owned()
            } else if stuck_too {
                let verdict = state.verdict();
                (verdict != Verdict::CLEAN).then(|| verdict.to_string())?
            } else {
                let stuck = self.stuck.mailboxes.get(&state.key());
                state.why_dirty(status(statuses, at), stuck)?.to_string()
            };
            Some((state.mailbox.target(), format!("{} {why}", state.mailbox.near)))
        };
        states.filter_map(needs_run).collect()
    }

    /// The mailboxes that need a run, and why. A busy one gets a run of its own, for
    /// mbsync to sleep in.
    pub fn dirty(&self, statuses: &[Option<ServerStatus>]) -> Vec<(Target, String)> {
        let needs_run = |(at, state): (usize, &MailboxState)| {
            if state.is_settling() {
                return None;
            }
            let stuck = self.stuck.mailboxes.get(&state.key());
            let why = state.why_dirty(status(statuses, at), stuck)?;
            let why = format!("{} {why}", state.mailbox.near);
            Some((state.busy, (state.mailbox.target(), why)))
        };
        let dirty = self.states.iter().enumerate().filter_map(needs_run).collect();
        busy_apart(dirty, self.busy_is_next)
    }

    /// What a run would pull, by key, as far as it can be counted.
    pub fn to_pull(&self, statuses: &[Option<ServerStatus>]) -> BTreeMap<String, Changes> {
        let pulled = |(at, state): (usize, &MailboxState)| {
            // The usual case, which costs nothing.
            if !matches!(state.far, FarState::Known(SideVerdict::Changed(_))) {
                return None;
            }
            let stuck = self.stuck.mailboxes.get(&state.key());
            match state.why_dirty(status(statuses, at), stuck)?.far {
                SideVerdict::Changed(changes) => Some((state.key(), changes)),
                SideVerdict::Clean | SideVerdict::Unknown(_) => None,
            }
        };
        self.states.iter().enumerate().filter_map(pulled).collect()
    }

    /// Whether a run has not created this one before.
    pub fn is_new(&self, name: &str) -> bool {
        !self.stuck.only_on_server.contains(name)
    }

    pub fn before_run(
        &self,
        targets: &BTreeSet<Target>,
        statuses: &[Option<ServerStatus>],
        only_on_server: Option<&BTreeSet<String>>,
    ) -> BeforeRun {
        let mailboxes = self
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| Target::any_covers(targets, &state.mailbox))
            .map(|(at, state)| {
                let fingerprint = state.fingerprint(status(statuses, at));
                let stuck = Stuck::after_run(&state.verdict(), &fingerprint);
                let stuck = (stuck != Stuck::default()).then(|| Box::new(stuck));
                let record = Stamp::of_record(&state.mailbox);
                (at, MailboxBefore { stuck, digest: state.digest, record })
            })
            .collect();
        BeforeRun { mailboxes, only_on_server: only_on_server.cloned() }
    }

    /// After a run that reached the mailboxes: what is still as before is not
    /// run for again.
    pub fn remember_stuck(&mut self, before: &BeforeRun) {
        for (at, MailboxBefore { stuck, .. }) in &before.mailboxes {
            if let Some((stuck, state)) = stuck.as_ref().zip(self.states.get(*at)) {
                let entry = self.stuck.mailboxes.entry(state.key()).or_default();
                entry.near = stuck.near.clone().or(entry.near.take());
                entry.far = stuck.far.clone().or(entry.far.take());
                self.stuck_is_unsaved = true;
            }
        }
        if let Some(only_on_server) = &before.only_on_server {
            self.stuck_is_unsaved |= self.stuck.only_on_server != *only_on_server;
            self.stuck.only_on_server.clone_from(only_on_server);
        }
    }

    /// After a run of ours: the mailboxes that it synced, which are unscanned now.
    /// `well`: it synced all of them.
    pub fn our_run_ended(&mut self, before: &BeforeRun, well: bool) -> BTreeSet<usize> {
        let mut synced = BTreeSet::new();
        let busy = || self.states.iter().enumerate().filter(|(_, state)| state.busy);
        self.busy_is_next =
            busy().next().is_some() && !busy().any(|(at, _)| before.mailboxes.contains_key(&at));
        for at in 0..self.states.len() {
            let Some(state) = self.states.get_mut(at) else { continue };
            let Some(before) = before.mailboxes.get(&at) else { continue };
            let key = state.key();
            state.run_ended(true);
            synced.insert(at);
            if well {
                let after = Stamp::of_record(&state.mailbox);
                if let Some(far) = self.clean.get_mut(&key).and_then(|clean| clean.far.as_mut()) {
                    self.clean_is_unsaved |= far.follow_run(before.record.as_ref(), after);
                }
            }
            if well && state.rules.as_ref().is_ok_and(|rules| rules.alt_map) {
                self.scan_near_side(at, before.digest);
            }
        }
        synced
    }

    pub fn other_run_ended(&mut self) {
        self.states.iter_mut().for_each(|state| state.run_ended(false));
    }
}

/// Of the mailboxes that need a run, those that the next one is for. mbsync sleeps for a
/// busy one (`true`): it gets a run of its own, after the others or, if they came first
/// the last time, before them.
fn busy_apart(dirty: Vec<(bool, (Target, String))>, busy_is_next: bool) -> Vec<(Target, String)> {
    let (busy, others): (Vec<_>, Vec<_>) = dirty.into_iter().partition(|(busy, _)| *busy);
    let chosen = if others.is_empty() || busy_is_next && !busy.is_empty() {
        busy.into_iter().take(1).collect()
    } else {
        others
    };
    chosen.into_iter().map(|(_, each)| each).collect()
}

fn status(statuses: &[Option<ServerStatus>], at: usize) -> Option<ServerStatus> {
    statuses.get(at).copied().flatten()
}

/// Scans the near side of a mailbox. Without rules the digest alone is taken, to
/// compare fingerprints; a mailbox that is not here counts as clean, so that the
/// server's side alone decides.
fn scan_maildir(
    state: &mut MailboxState,
    clean: &CleanState,
    by_run: Option<&Gone>,
    left_by_run: Option<Digest>,
) -> (SideVerdict, Option<maildir::CleanMaildir>) {
    let (rules, clean) = match &state.rules {
        Ok(rules) => (rules, clean),
        Err(_) => (&Rules::none(), &CleanState::default()),
    };
    let found = maildir::scan_mailbox(&state.mailbox, rules, clean, by_run, left_by_run);
    let Some((scan, memory)) = found else { return (SideVerdict::Clean, None) };
    state.digest = scan.digest;
    state.record = scan.record;
    let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
    state.unconfirmed = kept.of_record(scan.record.as_ref()).is_unconfirmed();
    state.unfinished = state.mailbox.state_file.as_deref().is_some_and(record::unfinished);
    match &state.rules {
        Ok(_) => (scan.verdict, memory),
        Err(why) => (SideVerdict::Unknown(why.clone()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::{MailboxScan, MailboxStatus, Opening};
    use crate::model::flags::Flags;
    use crate::model::uid_set::UidSet;
    use crate::survey::scan::Scanned;
    use crate::watch::LogLevel;
    use std::path::Path;

    const SETTLE: Duration = Duration::from_secs(1);
    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 1, uid_next: 2, messages: 1, highest_modseq: Some(5) };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Long after anything was written.
    fn later() -> SystemTime {
        SystemTime::now() + s(3600)
    }

    fn account() -> Account {
        Account { name: "Home".into(), server: None, channels: vec![] }
    }

    /// A Maildir with one message that is in step with its record.
    fn maildir(base: &Path, name: &str) -> Mailbox {
        let maildir = base.join(name);
        for folder in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(maildir.join(folder)).unwrap();
        }
        std::fs::write(maildir.join(".uidvalidity"), "2\n1\n").unwrap();
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 1\nMaxPushedUid 1\n\n";
        std::fs::write(maildir.join(".mbsyncstate"), format!("{head}1 1 S\n")).unwrap();
        std::fs::write(maildir.join("cur/a,U=1:2,S"), "").unwrap();
        Mailbox {
            state_file: Some(maildir.join(".mbsyncstate")),
            maildir: Some(maildir),
            ..Mailbox::of_home(name)
        }
    }

    fn mailboxes(found: Vec<Mailbox>) -> Mailboxes {
        let log = Rc::new(Log::new("Home", LogLevel::Errors));
        let mut all = Mailboxes::new(BTreeMap::new(), StuckState::default(), SETTLE, log);
        assert!(all.replace(found, &account()));
        for state in &mut all.states {
            state.rules = Ok(Rules::none());
        }
        all
    }

    fn dirty(all: &Mailboxes, statuses: &[Option<ServerStatus>]) -> Vec<String> {
        all.dirty(statuses).into_iter().map(|(_, why)| why).collect()
    }

    /// A server whose mailboxes hold the messages 1 up to `last`, all seen.
    struct NumberedServer {
        status: ServerStatus,
        last: u32,
    }

    impl FarSide for NumberedServer {
        fn status(&self, _: usize) -> Option<ServerStatus> {
            Some(self.status)
        }

        fn scan_all(&mut self, scans: &[(usize, ScanScope)]) -> Result<Vec<Scanned>, ClientError> {
            let scan = || MailboxScan {
                uid_validity: Some(1),
                forwarded: Some(true),
                uids: UidSet::from_uids(1..=self.last),
                flags: (1..=self.last).map(|uid| (uid, Flags::SEEN)).collect(),
                all_flags: true,
                after: MailboxStatus::default(),
            };
            Ok(scans.iter().map(|_| Some(Ok(scan()))).collect())
        }
    }

    #[test]
    fn a_local_change_needs_a_run_once_it_has_settled() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        assert!(all.scan_near_sides(s(10), later()) && !all.scan_near_sides(s(10), later()));
        assert_eq!(dirty(&all, &[]), [""; 0]);
        let cur = base.path().join("INBOX/cur");
        std::fs::rename(cur.join("a,U=1:2,S"), cur.join("a,U=1:2,RS")).unwrap();
        all.touch(&BTreeSet::from([0]), s(20));
        assert_eq!(all.settled_at(), Some(s(20) + settle::QUIET));
        assert!(!all.scan_near_sides(s(20), later()), "mutt may still be writing");
        assert!(all.scan_near_sides(s(20) + settle::QUIET, later()));
        assert_eq!(dirty(&all, &[]), ["INBOX to push: 1 flag change"]);
        all.touch(&BTreeSet::from([0]), s(22));
        assert!(dirty(&all, &[]).is_empty(), "settling again");
        // The server has something for it meanwhile: not before it has settled either.
        all.states[0].far = FarState::Known(SideVerdict::Unknown("x".into()));
        assert!(dirty(&all, &[]).is_empty());
    }

    /// Writes into a Maildir, so that its mtime is this.
    fn write(maildir: &Path, name: &str, at: SystemTime) {
        std::fs::write(maildir.join("cur").join(name), "").unwrap();
        std::fs::File::open(maildir.join("cur")).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn the_second_in_which_mbsync_would_sleep_is_waited_out() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        all.scan_near_sides(s(10), later());
        // Second 1000 on the wall begins at 20 since boot.
        let ms = |millis| s(20) + Duration::from_millis(millis);
        let wall = |millis| SystemTime::UNIX_EPOCH + s(1000) + Duration::from_millis(millis);
        let mut touch = |name: &str, millis| {
            write(&base.path().join("INBOX"), name, wall(millis));
            all.touch(&BTreeSet::from([0]), ms(millis));
            for now in millis + 1.. {
                if all.scan_near_sides(ms(now), wall(now)) {
                    return now;
                }
                assert!(all.settled_at().unwrap() > ms(now), "it would not sleep");
            }
            0
        };
        assert_eq!([touch("b", 300), touch("c", 2880), touch("d", 5000)], [1020, 3030, 6020]);
        assert!(!all.states[0].busy);
    }

    #[test]
    fn a_busy_mailbox_holds_up_no_other_and_is_not_passed_over_twice() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX"), maildir(base.path(), "Sent")]);
        all.scan_near_sides(s(10), later());
        let wall = |millis| SystemTime::UNIX_EPOCH + s(1000) + Duration::from_millis(millis);
        let ms = |millis| s(20) + Duration::from_millis(millis);
        write(&base.path().join("Sent"), "one", wall(0));
        all.touch(&BTreeSet::from([1]), ms(0));
        let mut now = 0;
        while !all.scan_near_sides(ms(now), wall(now)) {
            now += 10;
            write(&base.path().join("INBOX"), &now.to_string(), wall(now));
            all.touch(&BTreeSet::from([0]), ms(now));
            assert!(now < 3000, "waited for without end");
        }
        assert!(now >= 1000, "{now}");
        let run = |all: &mut Mailboxes| {
            // It goes on.
            all.touch(&BTreeSet::from([0]), ms(now));
            let targets: BTreeSet<Target> =
                all.dirty(&[]).into_iter().map(|(target, _)| target).collect();
            let before = all.before_run(&targets, &[], None);
            all.our_run_ended(&before, true);
            targets.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(run(&mut all), ["Home:Sent"]);
        all.states[1].near = NearState::Known(SideVerdict::Unknown("new".into()));
        assert_eq!(run(&mut all), ["Home:INBOX"]);
        assert_eq!(run(&mut all), ["Home:Sent"]);
        assert_eq!(run(&mut all), [""; 0], "settling again");
    }

    #[test]
    fn g5_a_report_needs_a_run_and_an_echo_needs_a_scan() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        all.scan_near_sides(s(10), later());
        let mut server = NumberedServer { status: STATUS, last: 1 };
        all.connected(&[Some(STATUS)]);
        assert!(all.needs_far_scan());
        assert!(all.scan_far_sides(None, &mut server, || s(11)).unwrap());
        assert!(!all.is_scanning(s(11)) && !all.needs_far_scan());
        let news = ServerStatus { uid_next: 3, messages: 2, ..STATUS };
        all.server_changed(0, Some(news), false, true);
        assert_eq!(dirty(&all, &[Some(news)]), ["INBOX to pull: 1 new"]);
        // Soon after a run the same may be its echo.
        all.connected(&[Some(STATUS)]);
        all.server_changed(0, Some(news), false, false);
        assert_eq!(dirty(&all, &[Some(news)]), [""; 0]);
        server = NumberedServer { status: news, last: 2 };
        assert!(all.scan_far_sides(None, &mut server, || s(12)).unwrap());
        assert_eq!(dirty(&all, &[Some(news)]), ["INBOX to pull: 1 new"]);
        // More of it, where no scan by this record was ever clean.
        all.clean.clear();
        let more = ServerStatus { uid_next: 4, messages: 3, ..STATUS };
        all.server_changed(0, Some(more), false, false);
        assert_eq!(dirty(&all, &[Some(more)]), ["INBOX to pull: 2 new"]);
        all.disconnected();
        assert_eq!(dirty(&all, &[]), [""; 0]);
    }

    /// A server on which a message has come, and another one comes while it is scanned.
    struct Arriving {
        last: u32,
        scan_sees_it: bool,
    }

    impl FarSide for Arriving {
        fn status(&self, _: usize) -> Option<ServerStatus> {
            let modseq = Some(u64::from(self.last) + 4);
            Some(ServerStatus {
                uid_next: self.last + 1,
                messages: self.last,
                highest_modseq: modseq,
                ..STATUS
            })
        }

        fn scan_all(&mut self, scans: &[(usize, ScanScope)]) -> Result<Vec<Scanned>, ClientError> {
            let last = self.last + u32::from(self.scan_sees_it);
            let found = NumberedServer { status: STATUS, last }.scan_all(scans);
            self.last += 1;
            found
        }
    }

    #[test]
    fn a_message_that_comes_during_a_scan_is_counted_once_and_as_a_message() {
        for (remembered, scan_sees_it) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let base = tempfile::tempdir().unwrap();
            let (mut all, _) = clean_mailbox(base.path());
            if !remembered {
                all.clean.clear();
            }
            let mut server = Arriving { last: 2, scan_sees_it };
            let report = |all: &mut Mailboxes, server: &Arriving| {
                all.server_changed(0, server.status(0), false, false);
            };
            report(&mut all, &server);
            assert!(all.scan_far_sides(None, &mut server, || s(12)).unwrap());
            report(&mut all, &server);
            let pull = |all: &Mailboxes, server: &Arriving| dirty(all, &[server.status(0)]);
            let case = format!("{remembered} {scan_sees_it}");
            assert_eq!(pull(&all, &server), ["INBOX to pull: 2 new"], "{case}");
            server.last += 1;
            report(&mut all, &server);
            assert_eq!(pull(&all, &server), ["INBOX to pull: 3 new"], "{case}");
        }
    }

    #[test]
    fn scans_on_the_server_are_collected_for_a_while_only() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX"), maildir(base.path(), "Sent")]);
        all.connected(&[Some(STATUS), Some(STATUS)]);
        let mut server = NumberedServer { status: STATUS, last: 1 };
        assert!(!all.is_scanning(s(10)));
        let first = BTreeSet::from([0]);
        all.scan_far_sides(Some(&first), &mut server, || s(10)).unwrap();
        assert!(all.is_scanning(s(11)) && !all.is_scanning(s(10) + SCANS));
        assert!(!all.any_unscanned(&first) && all.any_unscanned(&BTreeSet::from([1])));
    }

    /// A mailbox whose both sides were found clean.
    fn clean_mailbox(base: &Path) -> (Mailboxes, NumberedServer) {
        let mut all = mailboxes(vec![maildir(base, "INBOX")]);
        all.scan_near_sides(s(10), later());
        let mut server = NumberedServer { status: STATUS, last: 1 };
        all.connected(&[Some(STATUS)]);
        all.scan_far_sides(None, &mut server, || s(11)).unwrap();
        assert!(all.needed(&BTreeSet::from([0]), &[Some(STATUS)], true).is_empty());
        (all, server)
    }

    #[test]
    fn g6_a_status_is_clean_only_with_the_record_that_it_was_judged_by() {
        let base = tempfile::tempdir().unwrap();
        let (mut all, mut server) = clean_mailbox(base.path());
        all.connected(&[Some(STATUS)]);
        assert!(!all.needs_far_scan(), "nothing has changed");
        // A backup of the record, from before the message came.
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 0\nMaxPushedUid 1\n\n";
        std::fs::write(base.path().join("INBOX/.mbsyncstate"), head).unwrap();
        all.connected(&[Some(STATUS)]);
        assert!(all.needs_far_scan());
        let only = BTreeSet::from([0]);
        all.scan_asked(&only);
        all.scan_far_sides(Some(&only), &mut server, || s(12)).unwrap();
        let needed = all.needed(&only, &[Some(STATUS)], true);
        assert_eq!(needed.len(), 1, "{needed:?}");
    }

    #[test]
    fn g6_a_run_that_was_told_everything_needs_no_scan_unless_something_has_happened_since() {
        let base = tempfile::tempdir().unwrap();
        let (mut all, mut server) = clean_mailbox(base.path());
        let mut run = |all: &mut Mailboxes, now: ServerStatus| {
            let before = all.before_run(&BTreeSet::from([Target::Account]), &[Some(now)], None);
            all.our_run_ended(&before, true);
            assert!(all.needs_far_scan());
            let scan = server.scan_all(&[(
                0,
                ScanScope { opening: Opening::Select, since: None, known: None, messages: 0 },
            )]);
            let scan = scan.unwrap().remove(0).unwrap().unwrap();
            let ran = ScanByRun { name: "INBOX".into(), status: STATUS, scan };
            all.scanned_by_run(0, ran, Some(now), || s(12));
            (all.needs_far_scan(), all.take_found_clean().len())
        };
        assert_eq!(run(&mut all, STATUS), (false, 1));
        assert!(all.needed(&BTreeSet::from([0]), &[Some(STATUS)], true).is_empty());
        let later = ServerStatus { highest_modseq: Some(6), ..STATUS };
        assert_eq!(run(&mut all, later), (true, 0));
    }

    #[test]
    fn g6_without_modification_sequences_the_same_status_is_not_enough() {
        let base = tempfile::tempdir().unwrap();
        let status = ServerStatus { highest_modseq: None, ..STATUS };
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        let mut server = NumberedServer { status, last: 1 };
        let only = BTreeSet::from([0]);
        all.connected(&[Some(status)]);
        for expunged in [false, true] {
            server.last = u32::from(!expunged);
            all.scan_asked(&only);
            assert!(all.any_unscanned(&only));
            all.scan_far_sides(Some(&only), &mut server, || s(11)).unwrap();
            let needed = all.needed(&only, &[Some(status)], true);
            assert_eq!(needed.len(), usize::from(expunged), "{needed:?}");
        }
    }

    #[test]
    fn g7_flags_that_nobody_has_heard_of_are_compared_within_a_bound() {
        let base = tempfile::tempdir().unwrap();
        let names = ["INBOX", "Huge", "Sent"];
        let mut all = mailboxes(names.iter().map(|name| maildir(base.path(), name)).collect());
        let of = |messages| {
            let status = ServerStatus { messages, highest_modseq: None, ..STATUS };
            (status, Changes::default())
        };
        for (state, messages) in all.states.iter_mut().zip([3, MOST_MESSAGES, 4]) {
            state.far = FarState::Known(SideVerdict::Clean);
            state.far_base = Some(of(messages));
        }
        all.flags_unheard(&(0..3).collect(), MOST_MESSAGES);
        let unscanned: Vec<bool> =
            all.states.iter().map(|state| state.far == FarState::Unscanned).collect();
        assert_eq!(unscanned, [true, false, true]);
    }

    #[test]
    fn g5_what_a_run_leaves_dirty_is_kept_until_it_is_clean() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        std::fs::write(base.path().join("INBOX/cur/refused"), "").unwrap();
        all.scan_near_sides(s(10), later());
        assert_eq!(dirty(&all, &[]), ["INBOX to push: 1 new"]);
        let targets = BTreeSet::from([Target::Account]);
        let only = BTreeSet::from(["Lists".to_owned()]);
        assert!(all.is_new("Lists"));
        let before = all.before_run(&targets, &[], Some(&only));
        all.remember_stuck(&before);
        assert_eq!(all.our_run_ended(&before, true), BTreeSet::from([0]));
        all.scan_near_sides(s(20), later());
        assert!(dirty(&all, &[]).is_empty() && !all.is_new("Lists"));
        let dir = StateDir::open(base.path(), "Home").unwrap();
        all.save(&dir);
        // Another process starts from the files, with the field names of 0.1.0.
        let text = std::fs::read_to_string(dir.file("stuck.json")).unwrap();
        assert!(text.starts_with("{\"mailboxes\":{\"Home\\nINBOX\":{\"near\":{"), "{text}");
        assert!(text.ends_with("\"only_there\":[\"Lists\"]}\n"), "{text}");
        let mut next = Mailboxes::read(&dir, SETTLE, Rc::new(Log::new("Home", LogLevel::Errors)));
        next.replace(all.iter().cloned().collect(), &account());
        next.states[0].rules = Ok(Rules::none());
        next.scan_near_sides(s(30), later());
        assert_eq!(dirty(&next, &[]), [""; 0]);
        std::fs::remove_file(base.path().join("INBOX/cur/refused")).unwrap();
        next.rescan_all();
        next.scan_near_sides(s(40), later());
        assert!(next.stuck.mailboxes.is_empty());
        std::fs::write(base.path().join("INBOX/cur/refused"), "").unwrap();
        next.rescan_all();
        next.scan_near_sides(s(50), later());
        assert_eq!(dirty(&next, &[]), ["INBOX to push: 1 new"]);
    }

    #[test]
    fn mailboxes_that_stay_keep_their_state() {
        let base = tempfile::tempdir().unwrap();
        let inbox = maildir(base.path(), "INBOX");
        let mut all = mailboxes(vec![inbox.clone()]);
        all.scan_near_sides(s(10), later());
        let record: Option<Stamp> = all.states[0].record;
        assert!(record.is_some());
        assert!(!all.replace(vec![inbox.clone()], &account()));
        let sent = maildir(base.path(), "Sent");
        assert!(all.replace(vec![sent, inbox], &account()));
        assert_eq!((all.states[0].record, all.states[1].record), (None, record));
    }

    /// Of several batches of scans, each takes in events before the next.
    #[test]
    fn g14_a_mailbox_made_between_two_scans_does_not_count_as_found_clean() {
        let base = tempfile::tempdir().unwrap();
        let (mut all, _) = clean_mailbox(base.path());
        let inbox = all.list().remove(0).clone();
        let made = maildir(base.path(), "Archive");
        // As it was found by an earlier process.
        let known = all.clean[&clean::key(&inbox)].clone();
        all.clean.insert(clean::key(&made), known);
        all.replace(vec![made, inbox], &account());
        let found = all.take_found_clean();
        let names: Vec<&str> = found.iter().map(|(mailbox, _)| &*mailbox.name).collect();
        assert_eq!(names, ["INBOX"]);
    }

    #[test]
    fn a_busy_mailbox_gets_a_run_of_its_own() {
        let each = |name: &str| (Target::Channel(name.into()), name.to_owned());
        let names = |dirty: &[(bool, &str)], busy_is_next| {
            let dirty = dirty.iter().map(|(busy, name)| (*busy, each(name))).collect();
            let chosen = busy_apart(dirty, busy_is_next);
            chosen.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        let all = [(true, "a"), (false, "b"), (true, "c"), (false, "d")];
        assert_eq!(names(&all, false), ["b", "d"]);
        assert_eq!(names(&all, true), ["a"]);
        assert_eq!(names(&[(true, "a"), (true, "c")], false), ["a"]);
        assert_eq!(names(&[(false, "b"), (false, "d")], true), ["b", "d"]);
    }
}
