//! The loop that waits for one account.
//!
//! Level-triggered: whatever wakes it, it asks the same questions in the same
//! order, and sleeps only when no answer calls for action. An event says which
//! mailbox to ask about; it never is the answer.
//!
//! What each part knows is its own: [`super::local`], [`super::server`],
//! [`super::mailboxes`], [`super::runner`]. Here they are connected.
//!
//! Does not depend on: IMAP's commands, records, how mbsync is run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, epoll};

use super::connections::{ServerEvents, WatchMode};
use super::local::{LocalWatcher, WatchPaths};
use super::log::{Log, print};
use super::mailbox::{Debounce, LONGEST_REPORT};
use super::mailboxes::Mailboxes;
use super::network::NetworkWatch;
use super::reconnect::Retry;
use super::runner::{ECHO, RunPlan, Runner, Start, TimerDue};
use super::server::ServerWatch;
use super::standby::{self, Standby};
use super::{WaitEnd, WatchOptions};
use crate::error::{Error, ExitStatus, system_text};
use crate::imap::ClientError;
use crate::lend::flags::ScanByRun;
use crate::lend::{LeaseOutcome, Returned, RunMailboxes};
use crate::mbsyncrc::pattern;
use crate::model::{Mailbox, Target};
use crate::os::clock::{self, Alarm, Jump};
use crate::os::signals::Shutdown;
use crate::os::wait::{self, Cancel};
use crate::state::lock::{self, Lock};
use crate::state::{clean, state_failure};
use crate::survey;
use crate::survey::scan::MOST_MESSAGES;
use crate::sync::account::Claim;
use crate::sync::context::AccountContext;
use crate::sync::scheduler::Gate;
use crate::text::counted;
use crate::verdict::Changes;

/// What is due within this time is due now (see [`Runner::next_due`]).
const DUE: Duration = Duration::from_millis(20);
/// So long a run waits for a connection.
const CONNECTS: Duration = Duration::from_secs(5);
/// A server that was just tried in vain is not tried again before a run.
const TRIED: Duration = Duration::from_secs(2);
/// No sleep is longer.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How often mailboxes are listed again that appear during the listing.
const MOST_LISTINGS: usize = 3;
/// How often mailboxes that change while they are scanned are scanned for one answer.
const MOST_FAR_SCANS: usize = 64;
/// Most messages whose flags are compared after a run without CONDSTORE: 20 kB.
const MOST_AFTER_RUN: u32 = 500;

struct Waiter<'a> {
    context: AccountContext<'a>,
    options: &'a WatchOptions<'a>,
    /// Of several accounts, this one reports what concerns all.
    is_first: bool,
    shutdown: &'a Shutdown,
    cancel: &'a Cancel,
    log: Rc<Log>,
    alarm: Alarm,
    jump: Option<Jump>,
    /// How long the machine had slept at the last check.
    slept: Duration,
    config_prints: Vec<Option<u64>>,
    local: LocalWatcher,
    server: ServerWatch<'a>,
    network: NetworkWatch,
    mailboxes: Mailboxes,
    runner: Runner<'a>,
    /// A run of ours has served something, and the process ends as soon as it may.
    has_synced: bool,
    lock: Lock,
    /// The mode of watching that the lock's text names.
    noted_mode: Option<WatchMode>,
    /// What is on disk of what a run would pull.
    noted_pull: BTreeMap<String, Changes>,
    /// The server's last reports: a move is reported in pieces.
    reported: Option<Debounce>,
    /// The last try to connect failed, and no run was made since.
    run_is_next: bool,
    /// When a run has last waited for a connection in vain.
    tried_at: Option<Duration>,
}

/// Waits for one account.
pub fn wait(
    context: AccountContext<'_>,
    options: &WatchOptions<'_>,
    is_first: bool,
    shutdown: &Shutdown,
    cancel: &Cancel,
) -> WaitEnd {
    let config_prints = options.config_prints();
    let log = Rc::new(Log::new(&context.account.name, options.log));
    let runner = Runner::open(context, shutdown.clone(), Rc::clone(&log));
    let mut runner = match runner {
        Ok(runner) => runner,
        Err(failure) => return WaitEnd::Failed(failure),
    };
    let mut lock = match stand_by(&runner, shutdown, cancel, &log) {
        Ok(lock) => lock,
        Err(end) => return end,
    };
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => return WaitEnd::Failed(Error::system("cannot wait", &error)),
    };
    runner.note_last_run();
    // What a waiter that was killed has left.
    let _ = lock.clear();
    let _ = runner.dir().remove(clean::PULL);
    let AccountContext { config, account, settings, .. } = context;
    let (now, version, loop_forever) = (clock::now(), config.version, options.loop_forever);
    let server = ServerWatch::new(account, settings, version, loop_forever, Rc::clone(&log), now);
    let mut waiter = Waiter {
        context,
        options,
        is_first,
        shutdown,
        cancel,
        alarm,
        jump: Jump::new().ok(),
        slept: clock::slept(),
        config_prints,
        local: LocalWatcher::new(Rc::clone(&log), now),
        server,
        network: NetworkWatch::new(account.server.is_some(), Rc::clone(&log)),
        mailboxes: Mailboxes::read(runner.dir(), settings.settle, Rc::clone(&log)),
        runner,
        log,
        lock,
        noted_mode: None,
        noted_pull: BTreeMap::new(),
        reported: None,
        run_is_next: false,
        tried_at: None,
        has_synced: false,
    };
    waiter.list_mailboxes();
    let end = waiter.run();
    waiter.save();
    let Waiter { server, mut runner, mut lock, .. } = waiter;
    if !matches!(end, WaitEnd::Stopped(_)) {
        server.close();
    }
    let _ = lock.clear();
    drop(lock);
    // A request that came while other processes still saw a waiter. After a signal
    // nothing of ours is to go on; the next command serves it.
    if !matches!(end, WaitEnd::Reload | WaitEnd::Stopped(_)) {
        runner.recheck_after_release();
    }
    end
}

/// Waits until this process is the account's waiter.
fn stand_by(
    runner: &Runner<'_>,
    shutdown: &Shutdown,
    cancel: &Cancel,
    log: &Log,
) -> Result<Lock, WaitEnd> {
    let file = runner.dir().file(lock::WAITER);
    let on_standby = || log.tell("another mutt-sync waits for this account; on standby");
    match standby::wait(&file, shutdown, cancel, on_standby) {
        Ok(Standby::Ours { lock, waited }) => {
            if waited {
                log.tell("the other mutt-sync has ended; waiting");
            }
            Ok(lock)
        }
        Ok(Standby::Cancelled) => Err(WaitEnd::Cancelled),
        Ok(Standby::Stopped(signal)) => Err(WaitEnd::Stopped(signal)),
        Err(error) => {
            let text = format!("cannot wait: {}", file.display());
            Err(WaitEnd::Failed(state_failure(&error, &text)))
        }
    }
}

impl Waiter<'_> {
    /// Asks all questions until an answer ends the waiting.
    fn run(&mut self) -> WaitEnd {
        // Edited while we stood by.
        if self.config_is_new() {
            return WaitEnd::Reload;
        }
        loop {
            if let Some(end) = self.is_stopped() {
                return end;
            }
            if self.has_synced && !self.goes_on() {
                return WaitEnd::Synced;
            }
            if self.collect_events() {
                return WaitEnd::Reload;
            }
            // A scan may find the first half of what mutt is doing at this moment; the
            // event that says so comes only now.
            if self.scan_maildirs() && self.collect_events() {
                return WaitEnd::Reload;
            }
            if let Some(plan) = self.plan() {
                match self.sync(&plan) {
                    AfterSync::Nothing => {}
                    AfterSync::Again => continue,
                    AfterSync::End(end) => return end,
                }
            }
            // No descriptor becomes readable for these.
            if self.local.has_pending() {
                continue;
            }
            if self.follow_network()
                || self.connect_if_due()
                || self.scan_server()
                || self.keep_alive()
            {
                continue;
            }
            self.save();
            self.sleep();
        }
    }

    fn is_stopped(&self) -> Option<WaitEnd> {
        if let Some(signal) = self.shutdown.signal() {
            return Some(WaitEnd::Stopped(signal));
        }
        self.cancel.is_raised().then_some(WaitEnd::Cancelled)
    }

    /// Takes in what has happened here and on the server. True if there is a new
    /// configuration.
    fn collect_events(&mut self) -> bool {
        let now = clock::now();
        let events = self.local.events();
        if events.overflow {
            self.log.say(|| "inotify events were lost; scanning everything".into());
            self.mailboxes.rescan_all();
        }
        self.mailboxes.touch(&events.mail, now);
        if events.state || events.overflow {
            if self.runner.other_ran(now) {
                self.other_ran();
            }
            if self.server.awaits_backoff() && self.runner.backoff().is_none() {
                self.server.try_now(now);
            }
            self.runner.note_request(now);
        }
        if events.folders || events.overflow {
            self.local.list_later(now + self.context.settings.settle);
        }
        if self.local.list_is_due(now) {
            self.list_mailboxes();
        }
        self.collect_server_events();
        if events.config_dirs {
            self.local.watch(&self.watch_paths());
        }
        // Where the kernel has no watch left, it may have none for these either.
        let unwatched = self.local.is_partial() && self.local.unwatched_are_due(now);
        (events.config || unwatched) && self.config_is_new()
    }

    fn collect_server_events(&mut self) {
        let events = self.server.events(clock::now());
        let events = self.or_lost(events);
        self.apply(&events);
    }

    fn apply(&mut self, events: &ServerEvents) {
        let now = clock::now();
        if !events.changed.is_empty() || events.list_changed {
            self.reported = Some(Debounce::again(self.reported, now));
        }
        let quiet = !events.changed.is_empty() && self.runner.is_quiet(now);
        for (at, hidden) in &events.changed {
            let status = self.server.statuses().get(*at).copied().flatten();
            self.mailboxes.server_changed(*at, status, *hidden, quiet);
        }
        if events.list_changed {
            self.log.say(|| "mailboxes were created or removed on the server".into());
            self.watch_server();
        }
    }

    /// Lists the account's mailboxes and watches them. True if they are not the same as
    /// before.
    fn list_mailboxes(&mut self) -> bool {
        self.local.listing();
        let mut changed = false;
        for _ in 0..MOST_LISTINGS {
            let found = self.find_mailboxes();
            changed |= self.mailboxes.replace(found, self.context.account);
            self.local.watch(&self.watch_paths());
            // One that was created before there was a watch has caused no event.
            if !self.others_are_here() {
                break;
            }
        }
        self.local.forget_mail();
        // Watches first, then scans: no gap between.
        self.mailboxes.rescan_all();
        if changed {
            self.log.say(|| counted(self.mailboxes.len(), "mailbox"));
            self.watch_server();
        }
        changed
    }

    /// Lists the mailboxes if others are here now: not every directory is watched in which
    /// one may appear.
    fn list_if_changed(&mut self) {
        if self.local.must_list() || self.others_are_here() {
            self.list_mailboxes();
        }
    }

    /// The mailboxes that are here now.
    fn find_mailboxes(&self) -> Vec<Mailbox> {
        let mut found = self.context.config.local_mailboxes(self.context.account);
        found.retain(|mailbox| self.is_watched(mailbox));
        found
    }

    /// Whether these are others than those that are known.
    fn others_are_here(&self) -> bool {
        let AccountContext { config, account, .. } = self.context;
        let mut found =
            config.local_mailboxes_in_turn(account).filter(|mailbox| self.is_watched(mailbox));
        let mut known = self.mailboxes.iter();
        !found.all(|mailbox| known.next() == Some(&mailbox)) || known.next().is_some()
    }

    fn is_watched(&self, mailbox: &Mailbox) -> bool {
        let boxes = &self.context.settings.boxes;
        boxes.is_empty() || pattern::admits(boxes, &mailbox.name)
    }

    fn watch_paths(&self) -> WatchPaths {
        let state = self.runner.dir().path().to_owned();
        let trigger = self.context.settings.trigger_of(&self.context.account.name);
        let configs = self.options.configs.clone();
        WatchPaths::of(self.context.account, self.mailboxes.iter(), state, trigger, configs)
    }

    /// The mailboxes are others now: the same connection watches them.
    fn watch_server(&mut self) {
        if !self.server.is_connected() {
            return;
        }
        let Ok(interrupt) = self.interrupt() else { return self.server.restart(clock::now()) };
        let interrupt = Cancel::when_readable(interrupt);
        let watched = self.server.watch(&self.mailboxes.list(), &interrupt);
        match watched {
            Ok(()) => self.mailboxes.connected(self.server.statuses()),
            Err(error) => self.lost(&error),
        }
    }

    /// Scans the Maildirs that may have changed and have settled. True if there was one.
    fn scan_maildirs(&mut self) -> bool {
        let now = clock::now();
        if self.local.unwatched_are_due(now) {
            self.local.unwatched_are_scanned(now);
            if self.local.is_partial() {
                self.list_if_changed();
                if self.local.retry(&self.watch_paths()) {
                    self.mailboxes.rescan_all();
                }
            }
            self.mailboxes.rescan(&self.local.unwatched(self.mailboxes.len()));
        }
        self.mailboxes.scan_near_sides(now, SystemTime::now())
    }

    /// What to do now, if anything. Scans on the server that are under way come first, and
    /// a connection that is due: a run over it needs no login of its own.
    fn plan(&mut self) -> Option<RunPlan> {
        let now = clock::now();
        if self.mailboxes.is_scanning(now)
            || self.server_settles_at(now).is_some()
            || self.connects_first() && self.server.is_due(now)
        {
            return None;
        }
        let connected = self.server.is_connected();
        self.runner.plan(self.dirty(), self.new_on_server(), connected, now)
    }

    /// Whether a run waits for a connection that is due. Not after one that failed: what was in
    /// its way may not be in mbsync's.
    fn connects_first(&self) -> bool {
        !self.run_is_next && self.runner.expects_lease()
    }

    /// When the server will have reported all of a change; `None` if it has.
    fn server_settles_at(&mut self, now: Duration) -> Option<Duration> {
        let at = self.reported?.settled_at(LONGEST_REPORT);
        if now >= at {
            self.reported = None;
        }
        self.reported.map(|_| at)
    }

    fn dirty(&self) -> Vec<(Target, String)> {
        self.mailboxes.dirty(self.server.statuses())
    }

    /// Mailboxes that a run would create here.
    fn new_on_server(&self) -> Vec<Target> {
        let only = self.server.only_on_server().iter();
        only.filter(|(name, _)| self.mailboxes.is_new(name)).map(|(_, new)| new.clone()).collect()
    }

    fn sync(&mut self, plan: &RunPlan) -> AfterSync {
        if plan.timer != TimerDue::No && self.local.must_list() {
            self.list_mailboxes();
            return AfterSync::Again;
        }
        let now = clock::now();
        let connected = self.server.is_connected();
        self.runner.set_connected(connected);
        let gate = self.runner.gate();
        let wait = match gate {
            Gate::Open => None,
            Gate::Throttled(wait) | Gate::BackingOff(wait) => Some(wait),
        };
        // A question costs no login and no run. A request is dealt with also where a run of
        // everything is due and has to wait: it would call for a look again at once.
        let compare = plan.timer == TimerDue::Compare;
        let full = plan.timer == TimerDue::FullRun && wait.is_none();
        let asks = connected && (plan.requested || compare) && !full;
        if wait.is_some() && !asks {
            return AfterSync::Nothing;
        }
        // Without a connection nobody knows what is gone on the server.
        if !connected && self.connect_for_run(now) {
            return AfterSync::Again;
        }
        match self.runner.start(now) {
            Start::Ready => {}
            Start::NotNow => return AfterSync::Nothing,
            Start::Stopped => return AfterSync::Again,
            Start::OtherRan => {
                self.other_ran();
                return AfterSync::Again;
            }
        }
        let mut needed = BTreeSet::new();
        if wait.is_none() && !plan.dirty.is_empty() {
            self.runner.submit(plan);
            needed.clone_from(&plan.dirty);
        }
        let claim = self.runner.claim(now);
        // By the timer alone, and not by an event: if it brings something, the server should
        // have said so.
        let was_clean = plan.timer != TimerDue::No && self.dirty().is_empty();
        let Some(more) = self.judge_claim(&claim, &needed, compare) else {
            self.runner.leave_to_command(&claim, clock::now());
            return AfterSync::Again;
        };
        needed.extend(more);
        if needed.is_empty() {
            self.runner.in_sync(&claim, compare, clock::now());
            return AfterSync::Again;
        }
        // As the command would, where no waiter is.
        let passes = match gate {
            Gate::Open | Gate::Throttled(_) => claim.marks.foreground,
            Gate::BackingOff(_) => claim.marks.person,
        };
        if let Some(wait) = wait.filter(|_| !passes && !claim.marks.urgent) {
            let now = clock::now();
            self.runner.unclaim(&claim, wait, now);
            if compare {
                self.runner.note_compared(now);
            }
            return AfterSync::Nothing;
        }
        if !self.scan_losses(&needed) {
            self.runner.unclaim(&claim, Duration::ZERO, clock::now());
            return AfterSync::Again;
        }
        self.run_mbsync(claim, &needed, was_clean)
    }

    /// What needs a run of what was asked for beside `needed`, and with `compare` of all;
    /// `None` if the server does not answer.
    fn judge_claim(
        &mut self,
        claim: &Claim,
        needed: &BTreeSet<Target>,
        compare: bool,
    ) -> Option<BTreeSet<Target>> {
        let mut asked = claim.targets();
        asked.retain(|target| !needed.contains(target));
        if compare {
            self.log.say(|| "everything is to be compared".into());
            asked.insert(Target::Account);
        }
        let connected = self.server.is_connected();
        if claim.marks.full || !connected {
            // What is gone on the server must be known before a run of everything.
            if connected {
                self.judge(&asked, true, false)?;
            }
            return Some(asked);
        }
        if asked.is_empty() {
            return Some(asked);
        }
        // What a run has failed on is tried again, though it looks as it did.
        let failed = claim.claimed.values().any(|failures| *failures > 0);
        let mut more = self.judge(&asked, claim.marks.foreground || failed, compare)?;
        more.extend(self.runner.refused_among(&asked, claim));
        Some(more)
    }

    /// Scans the far sides of which STATUS alone says that much may be gone. False if the
    /// connection was lost.
    fn scan_losses(&mut self, needed: &BTreeSet<Target>) -> bool {
        let among = self.mailboxes.among(needed);
        let among = self.mailboxes.rescan_losses(&among, self.server.statuses());
        self.scan_far_sides(&among)
    }

    /// Scans on the server what is unscanned of these. False if the connection was lost.
    fn scan_far_sides(&mut self, among: &BTreeSet<usize>) -> bool {
        for _ in 0..MOST_FAR_SCANS {
            if !self.mailboxes.any_unscanned(among) {
                break;
            }
            let Some(connections) = self.server.connections() else {
                self.mailboxes.disconnected();
                return false;
            };
            let scanned = self.mailboxes.scan_far_sides(Some(among), connections, clock::now);
            if let Err(error) = scanned {
                self.lost(&error);
                return false;
            }
            self.collect_server_events();
        }
        true
    }

    /// What a run of these has to know.
    fn for_run(&mut self, needed: &BTreeSet<Target>) -> RunMailboxes {
        let among = self.mailboxes.among(needed);
        let Some(connections) = self.server.connections() else { return RunMailboxes::default() };
        let names = among.iter().filter_map(|at| Some((*at, connections.name(*at)?)));
        self.mailboxes.for_run(names, self.context.settings.changedsince)
    }

    fn run_mbsync(
        &mut self,
        claim: Claim,
        needed: &BTreeSet<Target>,
        was_clean: bool,
    ) -> AfterSync {
        let needed = self.context.account.widened(needed);
        let statuses = self.server.statuses();
        let only: BTreeSet<String> =
            self.server.only_on_server().iter().map(|(name, _)| name.clone()).collect();
        let new = self.new_on_server();
        let makes_new = needed.contains(&Target::Account)
            || !new.is_empty() && new.iter().all(|new| new.is_in(&needed));
        let only = Some(&only).filter(|_| makes_new && self.server.is_connected());
        let before = self.mailboxes.before_run(&needed, statuses, only);
        let goes_on = self.goes_on();
        let gone = self.mailboxes.gone_there(&needed);
        let mailboxes = self.for_run(&needed);
        let (report, lease, guard_asked) =
            self.runner.run(claim, &needed, self.server.lend(), &gone, mailboxes);
        self.run_is_next = false;
        let served = matches!(report.ended.exit, ExitStatus::Done | ExitStatus::Mailbox);
        let ends = served && !goes_on;
        let told = lease.as_ref().map(|lease| self.take_back(lease, ends)).unwrap_or_default();
        self.runner.ran(&needed, &report, clock::now());
        let over_ours = matches!(lease, Some(LeaseOutcome::Used { .. }));
        // Not where the password is refused: there may be no other connection then.
        if report.ended.exit == ExitStatus::Later && !over_ours {
            self.give_way();
        }
        self.mailboxes.read_gone(self.runner.dir());
        if let ExitStatus::Signal(signal) = report.ended.exit {
            return AfterSync::End(WaitEnd::Stopped(signal));
        }
        if served {
            self.mailboxes.remember_stuck(&before);
        }
        if served && was_clean && report.changes.iter().any(|change| change.pulled > 0) {
            self.server.check_silence(clock::now() + ECHO);
        }
        let mut synced =
            self.mailboxes.our_run_ended(&before, report.ended.exit == ExitStatus::Done);
        if guard_asked && !over_ours {
            synced.extend(0..self.mailboxes.len());
        }
        if lease.is_some() && !ends {
            self.mailboxes.flags_unheard(&self.server.flags_by_event(true), MOST_AFTER_RUN);
        }
        if !ends {
            self.has_synced |= served;
            self.ask_again(makes_new, &synced, &told);
        }
        if let Some(LeaseOutcome::Used { scans, .. }) = lease {
            self.judge_run(scans, ends);
        }
        if ends { AfterSync::End(WaitEnd::Synced) } else { AfterSync::Again }
    }

    /// Judges mailboxes by what a run was told of them. `ends`: the STATUS of none is known,
    /// for the next process asks.
    fn judge_run(&mut self, scans: Vec<ScanByRun>, ends: bool) {
        let Some(connections) = self.server.connections() else { return };
        let statuses = if ends { &[] } else { connections.statuses() };
        for scan in scans {
            for at in connections.named(&scan.name) {
                let now = statuses.get(at).copied().flatten();
                self.mailboxes.scanned_by_run(at, scan.clone(), now, clock::now);
            }
        }
        self.note_clean();
    }

    fn give_way(&mut self) {
        self.server.give_way(clock::now());
        if !self.server.is_connected() {
            self.mailboxes.disconnected();
        }
    }

    /// Judges both sides of what is asked for, and gives what needs a run; `None` if the
    /// server does not answer. `stuck_too`: with what a run did not change. `thorough`:
    /// without short cuts.
    fn judge(
        &mut self,
        asked: &BTreeSet<Target>,
        stuck_too: bool,
        thorough: bool,
    ) -> Option<BTreeSet<Target>> {
        let AccountContext { config, account, .. } = self.context;
        let wide = asked.iter().any(|target| !matches!(target, Target::Mailbox { .. }));
        if wide {
            self.list_if_changed();
        }
        let among = self.mailboxes.among(asked);
        if thorough {
            self.mailboxes.forget(&among);
        }
        self.mailboxes.scan_asked(&among);
        let list = wide.then(|| self.mailboxes.list());
        let confirmed = self.server.confirm(list.as_deref(), &among);
        if !self.or_lost(confirmed) {
            return None;
        }
        self.collect_server_events();
        if !self.scan_far_sides(&among) {
            return None;
        }
        self.note_clean();
        // What a scan on the server has shown may answer for the near side.
        self.mailboxes.scan_near_sides(clock::now(), SystemTime::now());
        let found = self.mailboxes.needed(&among, self.server.statuses(), stuck_too);
        for (_, why) in &found {
            self.log.say(|| why.clone());
        }
        let mut needed: BTreeSet<Target> = found.into_iter().map(|(target, _)| target).collect();
        for (name, new) in self.server.only_on_server() {
            if new.is_in(asked) && (stuck_too || self.mailboxes.is_new(name)) {
                needed.insert(new.clone());
            }
        }
        // Not watched, or not here: unknown.
        let named = asked.iter().filter(|target| matches!(target, Target::Mailbox { .. }));
        let named: Vec<&Target> = named.collect();
        let some_unwatched = wide && !self.context.settings.boxes.is_empty();
        if named.is_empty() && !some_unwatched {
            return Some(needed);
        }
        let known: BTreeSet<Target> = self.mailboxes.iter().map(Mailbox::target).collect();
        needed.extend(named.into_iter().filter(|target| !known.contains(target)).cloned());
        if some_unwatched {
            let all = config.local_mailboxes(account).into_iter();
            let covered = |mailbox: &Mailbox| Target::any_covers(asked, mailbox);
            let all = all.filter(covered).map(|mailbox| mailbox.target());
            needed.extend(all.filter(|target| !known.contains(target)));
        }
        Some(needed)
    }

    /// Whether the waiting goes on after a run. Without a loop, too, while the next process
    /// could not log in: then its events are served over the connection that is there.
    fn goes_on(&self) -> bool {
        self.options.loop_forever
            || self.server.is_connected() && !self.runner.login_wait().is_zero()
    }

    /// The connection that was lent to a run watches again, or is replaced. Gives the
    /// mailboxes whose STATUS the server has told with that. `ends`: this process does.
    fn take_back(&mut self, lease: &LeaseOutcome, ends: bool) -> BTreeSet<usize> {
        match self.runner.note_lease(lease) {
            Some(Returned::Broken(why)) => {
                self.lost(&ClientError::Lost(Error::new(ExitStatus::Offline, why.clone())));
            }
            Some(Returned::Whole { mailbox_open }) if !ends => {
                let taken = self.server.connections().map(|all| all.reattach(*mailbox_open));
                return self.or_lost(taken.unwrap_or_else(|| Ok(BTreeSet::new())));
            }
            Some(Returned::Whole { .. }) | None => {}
        }
        BTreeSet::new()
    }

    /// After a run of ours: what it changed is asked about again, but for what was `told`.
    /// `made_new`: it may have created mailboxes here.
    fn ask_again(&mut self, made_new: bool, synced: &BTreeSet<usize>, told: &BTreeSet<usize>) {
        if made_new && self.list_mailboxes() {
            // To watch others than before has asked for the STATUS of all.
            return self.collect_server_events();
        }
        let unknown: BTreeSet<usize> = synced.difference(told).copied().collect();
        if unknown.is_empty() {
            self.collect_server_events();
        } else {
            self.refresh(Some(&unknown));
        }
    }

    /// Another process has synced: everything is asked again, and its success ends
    /// our backoff.
    fn other_ran(&mut self) {
        self.mailboxes.read_gone(self.runner.dir());
        self.mailboxes.other_run_ended();
        // With those that it has made, or they would count as new on the server.
        self.list_if_changed();
        if !self.server.is_connected() && self.runner.backoff().is_none() {
            self.server.try_now(clock::now());
        }
        self.refresh(None);
    }

    fn refresh(&mut self, mailboxes: Option<&BTreeSet<usize>>) {
        let asked = self.server.refresh(mailboxes);
        if self.or_lost(asked) {
            self.collect_server_events();
        }
    }

    /// An address or a default route has come: a server that was not reached is tried, and
    /// one that is connected asked whether it still is. True if something is to be done.
    fn follow_network(&mut self) -> bool {
        let now = clock::now();
        if !self.network.is_due(now) {
            return false;
        }
        if self.server.is_connected() {
            self.log.say(|| "the network has changed; asking the server".into());
            self.network.tries.tried(now);
            let asked = self.server.probe(now);
            self.or_lost(asked);
            return true;
        }
        if self.server.is_quick(now) {
            self.network.tries.later(now);
            return false;
        }
        if !self.runner.is_free_to_try() {
            self.network.tries.dismiss();
            return false;
        }
        self.log.say(|| "the network has come; connecting".into());
        self.network.tries.tried(now);
        self.server.try_once(now);
        true
    }

    /// Connects if it is time. True if it tried.
    fn connect_if_due(&mut self) -> bool {
        let now = clock::now();
        if !self.server.is_due(now) {
            return false;
        }
        if self.local.must_list() {
            // What is here already must not count as only on the server.
            self.list_mailboxes();
        }
        if self.server.is_held_back(self.runner.backoff().as_ref(), SystemTime::now(), now) {
            return false;
        }
        // A run that is due waits for the connection that it is to use. One that becomes
        // due does not.
        let run = Some(self.next_run(now)).filter(|run| *run > now + DUE || !self.connects_first());
        let wake = self.next_local(now).min(run.unwrap_or(now + DAY));
        match self.try_connect(wake, true) {
            Ok(None) => {}
            Ok(Some(failure)) => {
                let now = clock::now();
                let retry = self.server.connect_failed(&failure, now);
                if matches!(retry, Retry::BackOff | Retry::StartOver) {
                    self.run_is_next = true;
                    let first = retry == Retry::StartOver;
                    let wait = self.runner.record_failure(&failure, first, SystemTime::now());
                    self.server.hold_back(wait, now);
                    if first {
                        self.network.tries.failed(now);
                    }
                }
            }
            Err(error) => {
                self.log.report(&format!("cannot connect: {}", system_text(&error)));
                self.server.wait(self.context.settings.retry, now);
                return false;
            }
        }
        true
    }

    /// Connects, until `wake` at most, and with `local` until something happens here. Returns
    /// why it failed, if it was not interrupted.
    fn try_connect(&mut self, wake: Duration, local: bool) -> io::Result<Option<Error>> {
        self.alarm.set(wake)?;
        let login = self.login_interrupt(local)?;
        let interrupt = login.interrupt();
        let connected = self.server.connect(&self.mailboxes.list(), &interrupt, clock::now);
        let interrupted = interrupt.is_raised();
        drop(login);
        self.alarm.acknowledge();
        match connected {
            Ok(()) => self.connected(),
            Err(_) if interrupted => self.server.connect_interrupted(clock::now()),
            Err(failure) => return Ok(Some(failure)),
        }
        Ok(None)
    }

    /// Connects before a run that is due now, if the server may be there. True if it has, or
    /// if the login failed. What is in the way of our connection may not be in mbsync's.
    fn connect_for_run(&mut self, now: Duration) -> bool {
        let is_new = self.tried_at.is_none_or(|at| now >= at + TRIED);
        let backoff = self.runner.backoff();
        if !is_new || !self.server.may_connect() || backoff.is_some_and(|backoff| backoff.costly) {
            return false;
        }
        let Ok(failure) = self.try_connect(now + CONNECTS, false) else { return false };
        let now = clock::now();
        self.tried_at = Some(now);
        if let Some(failure) = failure {
            self.server.connect_failed(&failure, now);
            if failure.costly || failure.status == ExitStatus::Denied {
                let wait = self.runner.record_failure(&failure, false, SystemTime::now());
                self.server.hold_back(wait, now);
                return true;
            }
        }
        self.server.is_connected()
    }

    fn connected(&mut self) {
        self.run_is_next = false;
        self.network.tries.dismiss();
        self.runner.count_login();
        self.runner.login_works();
        self.mailboxes.connected(self.server.statuses());
        self.mailboxes.flags_unheard(&self.server.flags_by_event(false), MOST_MESSAGES);
        let only = self.server.only_on_server().len();
        if only > 0 {
            self.log.say(|| format!("only on the server: {}", counted(only, "mailbox")));
        }
    }

    fn lost(&mut self, error: &ClientError) {
        self.server.lost(error, clock::now());
        self.mailboxes.disconnected();
    }

    /// What the server answered, or the default after a lost connection.
    fn or_lost<T: Default>(&mut self, answer: Result<T, ClientError>) -> T {
        answer.unwrap_or_else(|error| {
            self.lost(&error);
            T::default()
        })
    }

    /// Scans mailboxes on the server. True if there was one.
    fn scan_server(&mut self) -> bool {
        let now = clock::now();
        // A mailbox that changes during every scan is muted with the rest.
        if self.server.muted_until(now).is_some() {
            return false;
        }
        if !self.mailboxes.needs_far_scan() {
            return false;
        }
        let Some(connections) = self.server.connections() else {
            self.mailboxes.disconnected();
            return true;
        };
        match self.mailboxes.scan_far_sides(None, connections, clock::now) {
            Ok(true) => {}
            Ok(false) => self.server.record_event(clock::now()),
            Err(error) => {
                self.lost(&error);
                return true;
            }
        }
        // Once for all of them: it reads and writes what is kept of all.
        if !self.mailboxes.needs_far_scan() {
            self.note_clean();
            self.save();
        }
        true
    }

    /// The far sides that were scanned and found clean.
    fn note_clean(&mut self) {
        let found = self.mailboxes.take_found_clean();
        for line in survey::note_clean(self.context.account, self.runner.dir(), &found) {
            print(&format!("mutt-sync: {line}"));
        }
    }

    /// Keeps the connection alive as it becomes due. True if something was done.
    fn keep_alive(&mut self) -> bool {
        let now = clock::now();
        let slept = clock::slept();
        let woke = slept.saturating_sub(self.slept) > Duration::from_secs(1);
        self.slept = slept;
        if woke {
            self.log.say(|| "the machine has slept".into());
            // Waking ends no backoff that keeps somebody from being asked again and again.
            if self.runner.backoff().is_none_or(|backoff| !backoff.costly) {
                self.runner.clear_backoff();
                self.server.try_now(now);
            }
        }
        match self.server.keep_alive(|| self.mailboxes.list(), woke, now) {
            Ok(done) => {
                if done && self.server.lacks_connections() {
                    self.open_missing();
                }
                done || woke
            }
            Err(error) => {
                self.lost(&error);
                true
            }
        }
    }

    /// Makes the connections that could not be made before.
    fn open_missing(&mut self) {
        let Ok(interrupt) = self.interrupt() else { return };
        let interrupt = Cancel::when_readable(interrupt);
        let opened = self.server.open_missing(&self.mailboxes.list(), &interrupt);
        self.or_lost(opened);
    }

    fn save(&mut self) {
        self.mailboxes.save(self.runner.dir());
        // Only `--status` reads these. What is about to be run need not be noted.
        if self.reported.is_none() {
            self.note_pull();
        }
        let mode = self.server.mode();
        if mode != self.noted_mode {
            self.noted_mode = mode;
            let _ = self.lock.describe(&mode.map_or(String::new(), |mode| mode.to_string()));
        }
    }

    fn note_pull(&mut self) {
        let pull = self.mailboxes.to_pull(self.server.statuses());
        if pull != self.noted_pull {
            let dir = self.runner.dir();
            let _ = if pull.is_empty() {
                dir.remove(clean::PULL)
            } else {
                dir.write_json(clean::PULL, &pull)
            };
            self.noted_pull = pull;
        }
    }

    /// Sleeps until an event, or until something is due.
    fn sleep(&mut self) {
        match self.server.start_idling(clock::now()) {
            Ok(events) if events == ServerEvents::default() => {}
            // Whatever came may have ended IDLE, though it changes nothing.
            Ok(events) => return self.apply(&events),
            Err(error) => return self.lost(&error),
        }
        let now = clock::now();
        // What the server is reporting is noted when that has ended, though no run may be due.
        let reported = self.reported.map(|reports| reports.settled_at(LONGEST_REPORT));
        let local = self.next_run(now).min(self.next_local(now));
        let others = self.server.next_due(now).into_iter().chain(self.network.tries.due());
        let others = others.chain(reported);
        let deadline = others.fold(local, Duration::min);
        if self.alarm.set(deadline).is_err() {
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        let network = self.poll(now);
        self.network.note(network, clock::now());
        self.alarm.acknowledge();
        if let Some(jump) = &mut self.jump {
            jump.acknowledge();
        }
    }

    /// Ends with an event, and says whether the network may have come.
    fn poll(&self, now: Duration) -> io::Result<bool> {
        let local = self.local.fd();
        let configs = self.local.configs_fd();
        let server = self.server.poll_fds(now);
        let mut fds = vec![
            PollFd::new(self.shutdown, PollFlags::IN),
            PollFd::new(self.cancel, PollFlags::IN),
            PollFd::new(&self.alarm, PollFlags::IN),
        ];
        fds.extend(self.jump.iter().map(|jump| PollFd::new(jump, PollFlags::IN)));
        fds.extend(local.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(configs.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(server.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let network = self.network.fd();
        fds.extend(network.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // A route that is no news, such as a router's advertisement, is not worth a round of
        // all questions.
        loop {
            if wait::wait(&mut fds, None, None).is_err() {
                return Ok(false);
            }
            let others = fds.len() - usize::from(network.is_some());
            let ready = |fds: &[PollFd<'_>]| fds.iter().any(|fd| !fd.revents().is_empty());
            let (others, reported) = fds.split_at(others);
            let came = if ready(reported) { self.network.read() } else { Ok(false) };
            if ready(others) || !matches!(came, Ok(false)) {
                return came;
            }
        }
    }

    /// When a run, or the judgement of a request, is due.
    fn next_run(&mut self, now: Duration) -> Duration {
        let needed = !self.dirty().is_empty() || !self.new_on_server().is_empty();
        let run = self.runner.next_due(needed, self.server.is_connected(), now);
        self.server_settles_at(now).map_or(run, |at| run.max(at))
    }

    /// When something else is due that has nothing to do with the connection.
    fn next_local(&self, now: Duration) -> Duration {
        let ends = self.has_synced && !self.options.loop_forever;
        let end = ends.then(|| now + self.runner.login_wait());
        let others = [self.mailboxes.settled_at(), self.local.next_due(), end];
        others.into_iter().flatten().fold(now + DAY, Duration::min)
    }

    /// Readable when a signal comes or another account ends the waiting: both
    /// interrupt a command to the server.
    fn interrupt(&self) -> io::Result<Arc<OwnedFd>> {
        let all = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let data = epoll::EventData::new_u64(0);
        epoll::add(&all, self.shutdown, data, epoll::EventFlags::IN)?;
        epoll::add(&all, self.cancel, data, epoll::EventFlags::IN)?;
        Ok(all)
    }

    /// The same for the time of a login, which is also interrupted when something
    /// here calls for a run: after an event, or at the time that the alarm is set to.
    /// `local`: by changes here as well.
    fn login_interrupt(&self, local: bool) -> io::Result<LoginInterrupt> {
        let all = self.interrupt()?;
        // Copies: to be removed again they must differ from what is open elsewhere.
        let mut until_login = vec![rustix::io::fcntl_dupfd_cloexec(&self.alarm, 3)?];
        if let Some(local) = self.local.fd().filter(|_| local) {
            until_login.push(rustix::io::fcntl_dupfd_cloexec(local, 3)?);
        }
        for fd in &until_login {
            epoll::add(&all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(LoginInterrupt { all, until_login })
    }

    fn config_is_new(&mut self) -> bool {
        let now = self.options.config_prints();
        if now == self.config_prints {
            return false;
        }
        self.config_prints = now;
        match (self.options.check)() {
            Ok(()) => {
                self.log.say(|| "the configuration has changed; starting again with it".into());
                // What failed, failed with the old one.
                self.runner.clear_backoff();
                true
            }
            Err(failure) => {
                // The file may be another one now, under the same name.
                self.local.watch(&self.watch_paths());
                if self.is_first {
                    print(&format!(
                        "mutt-sync: {failure}; the previous configuration stays in use"
                    ));
                }
                false
            }
        }
    }
}

/// What follows from an attempt to run.
enum AfterSync {
    Nothing,
    Again,
    End(WaitEnd),
}

/// What interrupts a login. When it is dropped, only what ends the process still
/// interrupts the connection.
struct LoginInterrupt {
    all: Arc<OwnedFd>,
    until_login: Vec<OwnedFd>,
}

impl LoginInterrupt {
    fn interrupt(&self) -> Cancel {
        Cancel::when_readable(Arc::clone(&self.all))
    }
}

impl Drop for LoginInterrupt {
    fn drop(&mut self) {
        for fd in &self.until_login {
            let _ = epoll::delete(&self.all, fd);
        }
    }
}
