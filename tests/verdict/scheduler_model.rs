//! The protocol of single flight over a world in memory: any number of
//! processes take their steps in any order, are killed or told to stop at any
//! step, and the guarantees are checked.
//!
//! Each process is a thread that runs only while it holds the baton, and hands
//! it back before every step that another process could see. Who gets it next
//! is drawn from a fixed seed.

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

use mutt_sync::error::ExitStatus;
use mutt_sync::model::Target;
use mutt_sync::state::backoff::{Backoff, BackoffPolicy};
use mutt_sync::state::throttle::Rate;
use mutt_sync::sync::scheduler::{
    self, Backend, Gate, Locked, Marks, Paused, RequestOptions, RequestOutcome, RequestState,
    RunOutcome as _, Urgency,
};
use rig::{Seeded, count};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

const RATE: Rate = Rate { interval: Duration::from_secs(60), burst: 3 };
const PATIENCE: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(30), longest: Duration::from_secs(900) };
const CHILD_PATIENCE: Duration = Duration::from_secs(3600);
/// How long one waits for a lock whose holder shows no life.
const LOCK_LIMIT: u64 = 130_000;
const SETTLE: u64 = 1000;
/// How long a command leaves it to the waiter to claim its request.
const WAITER_CLAIMS: u64 = 2000;
const LONGEST_RUN: u64 = 5000;

type Pid = usize;

/// What is left out, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// The child does not look again after it left the queue.
    ChildLooksNoMore,
    /// A blocking command or a waiter does not look once more after it left.
    LeaverLooksNoMore,
    /// Requests are taken when the run has started.
    LateTake,
    /// Who takes the lock does not wait for a killed holder's run.
    LeftoverIgnored,
    /// What a crash left in `run/` is not taken for wanted.
    CrashForgotten,
    /// A failure makes a request given up.
    FailureForgets,
    /// A stamp from a clock that was ahead is believed.
    FutureBelieved,
    /// Who could ask for the password takes the answer of one who could not.
    DenialAnswersAll,
}

/// What a world may bring.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)]
struct Conditions {
    kills: bool,
    stops: bool,
    failures: bool,
    /// Processes stand still for minutes, children cannot be left, disks are full.
    hardship: bool,
    clock: bool,
    urgent: bool,
    waiters: bool,
    /// Few commands, in the background or staying until served.
    hooks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Fresh,
    Failed { failures: u32, since: u64, until: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusUpdate {
    Nothing,
    /// In safe hands.
    Queued,
    /// It is done.
    Served,
    /// It failed or was not tried; the user knows.
    Trouble,
}

struct Request {
    want: Target,
    maker: Pid,
    made: u64,
    made_at: u64,
    told: StatusUpdate,
    /// Some run was started for it after it was made.
    tried: bool,
    served_at: Option<u64>,
    /// What of it was not found in sync.
    rest: Option<Target>,
    /// On disk; else only its maker knows of it.
    written: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Account,
    Mailbox,
    Hopeless,
    /// There is a password for who can ask for it, and for nobody else.
    Denied,
}

struct Mbsync {
    owner: Pid,
    ends: u64,
}

struct World {
    flaw: Flaw,
    conditions: Conditions,
    rng: Seeded,
    /// Milliseconds since the beginning, and how far the wall clock is behind that.
    now: u64,
    behind: u64,
    /// Counts everything that happens, so that "after" has a meaning.
    events: u64,
    want: BTreeMap<Target, Stands>,
    run: BTreeMap<Target, Stands>,
    urgent: bool,
    retry: Option<Backoff>,
    stamp: Option<SystemTime>,
    lock: Option<Pid>,
    queue: Option<Pid>,
    waiter: Option<Pid>,
    mbsync: Option<Mbsync>,
    changes: u64,
    trouble: Trouble,
    told_to_stop: BTreeSet<Pid>,
    requests: Vec<Request>,
    /// When runs were paid for.
    runs: Vec<u64>,
    /// How many have ended.
    ended: usize,
    urgent_demands: u64,
    setbacks: u64,
    disturbed: bool,
    failed: bool,
    to_start: Vec<Role>,
    violations: Vec<String>,
}

impl World {
    fn wall(&self) -> SystemTime {
        // Long after the epoch, so that it can be set back.
        SystemTime::UNIX_EPOCH + Duration::from_millis(10_000_000_000 + self.now - self.behind)
    }

    fn seconds(&self) -> u64 {
        mutt_sync::state::backoff::seconds(self.wall())
    }

    fn wait_of(&self, stands: Stands) -> Duration {
        match stands {
            Stands::Fresh => Duration::ZERO,
            Stands::Failed { since, until, .. } => PATIENCE.left(since, until, self.wall()),
        }
    }

    fn violated(&mut self, what: &str) {
        self.violations.push(format!("at {} ms: {what}", self.now));
    }
}

/// What the state file guarantees: a request for more serves one for less.
fn covers(wider: &Target, want: &Target) -> bool {
    match (wider, want) {
        (Target::Account, _) => true,
        (Target::Channel(channel), Target::Mailbox { channel: of, .. }) => channel == of,
        _ => wider == want,
    }
}

fn denied(world: &World) -> bool {
    world.retry.as_ref().is_some_and(|retry| retry.code == ExitStatus::Denied.code())
}

enum Role {
    Foreground(BTreeSet<Target>, RequestOptions),
    Background(BTreeSet<Target>, bool),
    /// Holds the queue from its birth (forked), or takes it itself; the requests
    /// that it was left with.
    Child {
        holds: bool,
        carries: BTreeSet<Target>,
    },
    /// Leaves after so many runs.
    Waiter {
        runs: usize,
    },
}

/// What a process waits for before its next step.
#[derive(Debug, Clone, Copy)]
enum Until {
    Now,
    Lock { deadline: u64 },
    NoMbsync { deadline: u64 },
    Time { at: u64, or_changes_from: Option<u64> },
}

enum Go {
    On,
    Die,
}

struct Killed;

struct Process {
    pid: Pid,
    is_child: bool,
    world: Arc<Mutex<World>>,
    baton: Receiver<Go>,
    back: Sender<(Pid, Option<Until>)>,
    watches_from: Option<u64>,
    unwritten: BTreeSet<Target>,
    carries_queue: bool,
    asks: Asks,
}

/// Whether a process can ask for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nobody,
    /// It sits in front of somebody, and is not throttled.
    User,
    /// The same, and it saw, with the lock held, that the run for its request was
    /// denied.
    UserAfterDenial,
}

struct RunOutcome {
    exit: ExitStatus,
    stopped: bool,
}

impl scheduler::RunOutcome for RunOutcome {
    fn is_hopeless(&self) -> bool {
        self.exit == ExitStatus::Config
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}

impl Process {
    /// Hands the baton back until the condition holds, and takes it again.
    fn until(&self, condition: Until) -> MutexGuard<'_, World> {
        let _ = self.back.send((self.pid, Some(condition)));
        match self.baton.recv() {
            Ok(Go::On) => {}
            // Nothing of ours runs while it unwinds: kill -9.
            _ => resume_unwind(Box::new(Killed)),
        }
        let mut world = self.world.lock().unwrap();
        world.events += 1;
        world
    }

    fn step(&self) -> MutexGuard<'_, World> {
        self.until(Until::Now)
    }

    fn stopped(&self, world: &World) -> bool {
        world.told_to_stop.contains(&self.pid)
    }

    fn ended(&self, world: &World) -> Paused {
        if self.stopped(world) { Paused::Stopped } else { Paused::Over }
    }

    fn live(&mut self, role: Role) {
        let mine = |world: &World, pid: Pid| -> Vec<usize> {
            (0..world.requests.len()).filter(|&at| world.requests[at].maker == pid).collect()
        };
        let answer = match role {
            Role::Foreground(wants, options) => {
                self.asks =
                    if options.urgency == Urgency::Urgent { Asks::User } else { Asks::Nobody };
                scheduler::foreground(self, &wants, options)
            }
            Role::Background(wants, urgent) => {
                scheduler::background(self, &wants, Marks { urgent, ..Marks::default() })
            }
            Role::Child { holds, carries } => {
                self.unwritten = carries;
                self.carries_queue = holds;
                if holds || self.try_queue() || !self.unwritten.is_empty() {
                    scheduler::run_queue_owner(self, CHILD_PATIENCE);
                }
                return;
            }
            Role::Waiter { runs } => return self.wait_for_work(runs),
        };
        let mut world = self.step();
        if self.asks == Asks::UserAfterDenial && matches!(answer, RequestOutcome::Failed) {
            world.violated("who can ask is answered by one who could not");
        }
        let told = match answer {
            RequestOutcome::Ran(report) if report.exit == ExitStatus::Done => StatusUpdate::Served,
            RequestOutcome::Served => StatusUpdate::Served,
            RequestOutcome::Queued(..) => StatusUpdate::Queued,
            RequestOutcome::Stranded | RequestOutcome::LockHeld => {
                world.disturbed = true;
                StatusUpdate::Trouble
            }
            _ => StatusUpdate::Trouble,
        };
        for at in mine(&world, self.pid) {
            world.requests[at].told = told;
            if told == StatusUpdate::Served && world.requests[at].served_at.is_none() {
                let text = format!("{:?} is said to be served", world.requests[at].want);
                world.violated(&text);
            }
        }
    }

    /// What `--wait` does with requests, as far as others rely on it.
    fn wait_for_work(&mut self, mut runs: usize) {
        {
            let pid = self.pid;
            let mut world = self.step();
            if world.waiter.is_some() {
                return;
            }
            world.waiter = Some(pid);
        }
        let mut stopped = false;
        while runs > 0 && !stopped {
            let wait = match (self.next_due(), self.gate(Urgency::Usual)) {
                (None, _) => Duration::from_secs(30),
                (Some(due), Gate::Open) => due,
                (Some(due), Gate::Throttled(wait) | Gate::BackingOff(wait)) => due.max(wait),
            };
            if !wait.is_zero() {
                stopped = self.pause(wait) == Paused::Stopped;
            } else if self.lock() == Locked::Held {
                if self.gate(Urgency::Usual) == Gate::Open
                    && self.next_due() == Some(Duration::ZERO)
                {
                    stopped = self.run().stopped();
                    runs -= 1;
                }
                self.unlock();
            } else {
                stopped = self.stopped(&self.step());
            }
        }
        self.step().waiter = None;
        if !stopped {
            scheduler::recheck_after_release(self);
        }
    }

    fn take(&mut self) -> BTreeMap<Target, u32> {
        let mut taken = BTreeMap::new();
        let failures = |stands: Stands| match stands {
            Stands::Fresh => 0,
            Stands::Failed { failures, .. } => failures,
        };
        {
            let mut world = self.step();
            world.urgent = false;
            if world.flaw != Flaw::CrashForgotten {
                taken.extend(
                    world.run.iter().map(|(want, stands)| (want.clone(), failures(*stands))),
                );
            }
        }
        for along in [false, true] {
            let names: Vec<Target> = self.step().want.keys().cloned().collect();
            for want in names {
                let mut world = self.step();
                let Some(&stands) = world.want.get(&want) else { continue };
                let due = world.wait_of(stands).is_zero();
                if due || along && taken.keys().any(|wider| covers(wider, &want)) {
                    world.want.remove(&want);
                    world.run.insert(want.clone(), stands);
                    taken.entry(want).or_insert(failures(stands));
                }
            }
        }
        taken.extend(std::mem::take(&mut self.unwritten).into_iter().map(|want| (want, 0)));
        taken
    }

    /// Judges what was taken: it differs, or one mailbox of it does, or nothing. Gives
    /// what a run is needed for.
    fn judge(&self, taken: BTreeMap<Target, u32>) -> Option<BTreeMap<Target, u32>> {
        let judged = self.step().events;
        let covered = |request: &Request| {
            let wants = [Some(&request.want), request.rest.as_ref()];
            let asked = |want| wants.into_iter().flatten().any(|asked| covers(want, asked));
            request.made < judged && taken.keys().any(asked)
        };
        let choice = self.step().rng.u32(..4);
        if choice == 0 {
            let mut world = self.step();
            let now = world.now;
            for request in world.requests.iter_mut().filter(|request| covered(request)) {
                request.tried = true;
                request.served_at.get_or_insert(now);
            }
            world.changes += 1;
            drop(world);
            for want in taken.keys() {
                self.step().run.remove(want);
            }
            self.step().retry = None;
            return None;
        }
        if choice > 1 || !taken.contains_key(&Target::Account) {
            return Some(taken);
        }
        // The rest of what they asked for is in sync.
        let part = Target::Mailbox { channel: "c".into(), name: "INBOX".into() };
        {
            let mut world = self.step();
            world.run.entry(part.clone()).or_insert(Stands::Fresh);
            let now = world.now;
            for request in world.requests.iter_mut().filter(|request| covered(request)) {
                if covers(&request.want, &part) {
                    request.rest = Some(part.clone());
                } else {
                    request.tried = true;
                    request.served_at.get_or_insert(now);
                }
            }
        }
        for want in taken.keys().filter(|want| **want != part) {
            self.step().run.remove(want);
        }
        let failures = taken.values().copied().max().unwrap_or(0);
        Some(BTreeMap::from([(part, failures)]))
    }

    fn start(&self) -> (u64, u64) {
        let mut world = self.step();
        if world.mbsync.is_some() {
            world.violated("two runs at once");
        }
        let length = 50 + world.rng.u64(..LONGEST_RUN - 50);
        let ends = world.now + length;
        world.mbsync = Some(Mbsync { owner: self.pid, ends });
        (world.events, ends)
    }
}

impl Backend for Process {
    type Report = RunOutcome;

    fn await_waiter(&mut self, wants: &BTreeSet<Target>) -> Paused {
        let deadline = self.step().now + WAITER_CLAIMS;
        loop {
            let mut world = self.step();
            let unclaimed = wants.iter().any(|want| world.want.contains_key(want));
            let over = world.now >= deadline || world.waiter.is_none() || !unclaimed;
            if over || self.stopped(&world) {
                return self.ended(&world);
            }
            let (at, from) = (deadline.min(world.now + 200), world.changes);
            drop(world);
            world = self.until(Until::Time { at, or_changes_from: Some(from) });
            drop(world);
        }
    }

    fn submit(&mut self, wants: &BTreeSet<Target>, marks: Marks) -> bool {
        let full = {
            let mut world = self.step();
            world.conditions.hardship && world.rng.u32(..20) == 0
        };
        for want in wants {
            let maker = self.pid;
            let mut world = self.step();
            if !full {
                world.want.insert(want.clone(), Stands::Fresh);
                world.changes += 1;
            }
            let (made, made_at) = (world.events, world.now);
            world.requests.push(Request {
                want: want.clone(),
                maker,
                made,
                made_at,
                told: StatusUpdate::Nothing,
                tried: false,
                served_at: None,
                rest: None,
                written: !full,
            });
        }
        if marks.urgent {
            let mut world = self.step();
            world.urgent_demands += 1;
            world.urgent |= !full;
        }
        if full {
            self.unwritten.extend(wants.iter().cloned());
        }
        !full
    }

    fn request_state(&mut self, wants: &BTreeSet<Target>) -> RequestState {
        if wants.iter().any(|want| self.unwritten.contains(want)) {
            return RequestState::Fresh;
        }
        let mut standing = RequestState::Served;
        for want in wants {
            let world = self.step();
            match world.want.get(want) {
                Some(Stands::Failed { .. }) => {
                    let denied = denied(&world);
                    drop(world);
                    self.asks = match self.asks {
                        Asks::Nobody => Asks::Nobody,
                        _ if denied => Asks::UserAfterDenial,
                        _ => Asks::User,
                    };
                    return RequestState::Failed;
                }
                Some(Stands::Fresh) => standing = RequestState::Fresh,
                // Or what a crash has left of it.
                None if world.run.keys().any(|left| covers(want, left)) => {
                    standing = RequestState::Fresh;
                }
                None => {}
            }
        }
        // A part of it may have failed, for the rest was in sync.
        let parts = |world: &World| -> Vec<Stands> {
            let all = world.want.iter();
            let covered = all.filter(|(part, _)| wants.iter().any(|want| covers(want, part)));
            covered.map(|(_, stands)| *stands).collect()
        };
        if standing == RequestState::Served {
            let parts = parts(&self.step());
            if parts.contains(&Stands::Fresh) {
                return RequestState::Fresh;
            }
            if !parts.is_empty() {
                return RequestState::Failed;
            }
        }
        standing
    }

    fn next_due(&mut self) -> Option<Duration> {
        if !self.unwritten.is_empty() {
            return Some(Duration::ZERO);
        }
        let wants = |process: &Process| {
            let world = process.step();
            world.want.values().map(|stands| world.wait_of(*stands)).min()
        };
        let first = wants(self);
        {
            let world = self.step();
            if !world.run.is_empty() && world.flaw != Flaw::CrashForgotten {
                return Some(Duration::ZERO);
            }
        }
        first.or_else(|| wants(self))
    }

    fn any_fresh(&mut self) -> bool {
        {
            let world = self.step();
            let left = world.queue != Some(self.pid);
            let blind = match world.flaw {
                Flaw::ChildLooksNoMore => self.is_child && left,
                Flaw::LeaverLooksNoMore => !self.is_child && left,
                _ => false,
            };
            if blind {
                return false;
            }
            if !self.unwritten.is_empty() || !world.run.is_empty() {
                return true;
            }
        }
        self.step().want.values().any(|stands| *stands == Stands::Fresh)
    }

    fn got_no_password(&mut self) -> bool {
        let world = self.step();
        denied(&world) && world.flaw != Flaw::DenialAnswersAll
    }

    fn lock(&mut self) -> Locked {
        let deadline = self.step().now + LOCK_LIMIT;
        {
            let mut world = self.until(Until::Lock { deadline });
            if self.stopped(&world) {
                return Locked::Stopped;
            }
            if world.lock.is_some() {
                return Locked::TooLong;
            }
            world.lock = Some(self.pid);
            if world.flaw == Flaw::LeftoverIgnored {
                return Locked::Held;
            }
        }
        let mut world = self.until(Until::NoMbsync { deadline });
        if world.mbsync.is_some() {
            world.lock = None;
            return if self.stopped(&world) { Locked::Stopped } else { Locked::TooLong };
        }
        Locked::Held
    }

    fn unlock(&mut self) {
        self.step().lock = None;
    }

    fn try_queue(&mut self) -> bool {
        let mut world = self.step();
        if world.queue.is_none() {
            world.queue = Some(self.pid);
        }
        world.queue == Some(self.pid)
    }

    fn leave_queue(&mut self) {
        let mut world = self.step();
        if world.queue == Some(self.pid) {
            world.queue = None;
        }
    }

    fn waiter_is_alive(&mut self) -> bool {
        self.step().waiter.is_some()
    }

    fn leave_child(&mut self) -> bool {
        let holds = {
            let mut world = self.step();
            if world.conditions.hardship && world.rng.u32(..20) == 0 {
                // Who relied on it has nobody, which it cannot tell them.
                world.disturbed = true;
                return false;
            }
            // A process with several threads cannot fork.
            let mine = world.queue == Some(self.pid);
            let forks = !self.unwritten.is_empty() || world.rng.bool();
            if mine && !forks {
                world.queue = None;
            }
            mine && forks
        };
        let carries = std::mem::take(&mut self.unwritten);
        // The child is started before any other step, and gets the queue then.
        self.step().to_start.push(Role::Child { holds, carries });
        true
    }

    fn gate(&mut self, urgency: Urgency) -> Gate {
        if urgency == Urgency::Urgent || self.step().urgent {
            return Gate::Open;
        }
        if urgency == Urgency::Usual {
            let world = self.step();
            let wait = PATIENCE.wait(world.retry.as_ref(), world.wall());
            if !wait.is_zero() {
                return Gate::BackingOff(wait);
            }
        }
        let mut world = self.step();
        let now = world.wall();
        let most = now + RATE.interval * RATE.burst;
        if world.stamp.is_some_and(|stamp| stamp > most) && world.flaw != Flaw::FutureBelieved {
            world.stamp = Some(most);
        }
        let wait = RATE.wait(world.stamp, now);
        if wait.is_zero() { Gate::Open } else { Gate::Throttled(wait) }
    }

    fn pause(&mut self, at_most: Duration) -> Paused {
        let Some(from) = self.watches_from else {
            let from = self.step().changes;
            self.watches_from = Some(from);
            return Paused::Over;
        };
        let (paused, seen) = {
            let most = at_most.min(Duration::from_secs(30));
            // Rounded up, as poll(2) does.
            let at = self.step().now + u64::try_from(most.as_micros().div_ceil(1000)).unwrap();
            let world = self.until(Until::Time { at, or_changes_from: Some(from) });
            (self.ended(&world), world.changes)
        };
        self.watches_from = Some(seen);
        paused
    }

    fn settle(&mut self) -> Paused {
        let at = self.step().now + SETTLE;
        let world = self.until(Until::Time { at, or_changes_from: None });
        self.ended(&world)
    }

    fn clock(&mut self) -> Duration {
        Duration::from_millis(self.world.lock().unwrap().now)
    }

    fn run(&mut self) -> RunOutcome {
        {
            let mut world = self.step();
            let now = world.wall();
            world.stamp = Some(RATE.consume(world.stamp, now));
            // Counted here: one that is stopped for minutes before it starts mbsync
            // has paid for it all the same.
            let spent = world.now;
            world.runs.push(spent);
        }
        let late = self.world.lock().unwrap().flaw == Flaw::LateTake;
        let early = late.then(|| self.start());
        let mut taken = self.take();
        if !late {
            match self.judge(taken) {
                Some(needed) => taken = needed,
                None => return RunOutcome { exit: ExitStatus::Done, stopped: false },
            }
        }
        let (started, ends) = early.unwrap_or_else(|| self.start());
        let served_by_this = |request: &Request| {
            let wants = [Some(&request.want), request.rest.as_ref()];
            let covered = |want| wants.into_iter().flatten().any(|asked| covers(want, asked));
            request.made < started && taken.keys().any(covered)
        };
        let exit = {
            let mut world = self.until(Until::Time { at: ends, or_changes_from: None });
            world.mbsync = None;
            if self.stopped(&world) {
                return RunOutcome { exit: ExitStatus::Signal(15), stopped: true };
            }
            let exit = match world.trouble {
                Trouble::None => ExitStatus::Done,
                Trouble::Account => ExitStatus::Offline,
                Trouble::Mailbox => ExitStatus::Mailbox,
                Trouble::Hopeless => ExitStatus::Config,
                Trouble::Denied if self.asks != Asks::Nobody => ExitStatus::Done,
                Trouble::Denied => ExitStatus::Denied,
            };
            world.failed |= exit != ExitStatus::Done;
            let now = world.now;
            for request in world.requests.iter_mut().filter(|request| served_by_this(request)) {
                request.tried = true;
                if exit == ExitStatus::Done {
                    request.served_at.get_or_insert(now);
                }
            }
            exit
        };
        for (want, failures) in &taken {
            let mut world = self.step();
            if exit == ExitStatus::Done || world.flaw == Flaw::FailureForgets {
                world.run.remove(want);
                continue;
            }
            let since = world.seconds();
            let (failures, wait) = match exit {
                ExitStatus::Mailbox => {
                    (failures + 1, PATIENCE.delay(failures + 1, false).as_secs())
                }
                _ => (*failures, 0),
            };
            world.run.remove(want);
            let until = since + wait;
            world.want.entry(want.clone()).or_insert(Stands::Failed { failures, since, until });
        }
        let mut world = self.step();
        world.changes += 1;
        world.ended += 1;
        let costly = exit == ExitStatus::Denied;
        world.retry = match exit {
            ExitStatus::Done | ExitStatus::Mailbox => None,
            _ => Some(PATIENCE.after(world.retry.as_ref(), exit, costly, "", world.wall(), 0.5)),
        };
        RunOutcome { exit, stopped: false }
    }
}

/// A process as its scheduler sees it.
struct Entry {
    go: Sender<Go>,
    until: Until,
    frozen_until: u64,
    /// Of those that can take a step, the highest does.
    rank: u32,
    thread: JoinHandle<()>,
}

struct Scheduler {
    world: Arc<Mutex<World>>,
    processes: BTreeMap<Pid, Entry>,
    next_pid: Pid,
    back: Sender<(Pid, Option<Until>)>,
    events: Receiver<(Pid, Option<Until>)>,
}

impl Scheduler {
    fn new(seed: u64, conditions: Conditions, flaw: Flaw) -> Self {
        let world = World {
            flaw,
            conditions,
            rng: Seeded::from_env_or(seed),
            now: 0,
            behind: 0,
            events: 0,
            want: BTreeMap::new(),
            run: BTreeMap::new(),
            urgent: false,
            retry: None,
            stamp: None,
            lock: None,
            queue: None,
            waiter: None,
            mbsync: None,
            changes: 0,
            trouble: Trouble::None,
            told_to_stop: BTreeSet::new(),
            requests: Vec::new(),
            runs: Vec::new(),
            ended: 0,
            urgent_demands: 0,
            setbacks: 0,
            disturbed: false,
            failed: false,
            to_start: Vec::new(),
            violations: Vec::new(),
        };
        let (back, events) = channel();
        let world = Arc::new(Mutex::new(world));
        Scheduler { world, processes: BTreeMap::new(), next_pid: 1, back, events }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn start(&mut self, role: Role) {
        let pid = self.next_pid;
        self.next_pid += 1;
        if let Role::Child { holds: true, .. } = role {
            self.world().queue = Some(pid);
        }
        let (go, baton) = channel();
        let mut process = Process {
            pid,
            is_child: matches!(role, Role::Child { .. }),
            world: Arc::clone(&self.world),
            baton,
            back: self.back.clone(),
            watches_from: None,
            unwritten: BTreeSet::new(),
            carries_queue: false,
            asks: Asks::Nobody,
        };
        let thread = thread::spawn(move || {
            let back = process.back.clone();
            // The first step is a step as any other.
            let _ = back.send((pid, Some(Until::Now)));
            if let Ok(Go::On) = process.baton.recv() {
                let lived = catch_unwind(AssertUnwindSafe(|| process.live(role)));
                if lived.is_err_and(|why| !why.is::<Killed>()) {
                    let mut world = process.world.lock().unwrap_or_else(PoisonError::into_inner);
                    world.violated(&format!("process {pid} panics"));
                }
            }
            drop(process);
            let _ = back.send((pid, None));
        });
        let rank = self.world().rng.u32(..);
        let entry = Entry { go, until: Until::Now, frozen_until: 0, rank, thread };
        self.processes.insert(pid, entry);
        self.hear();
    }

    /// Takes the baton back from the one process that has it.
    fn hear(&mut self) {
        match self.events.recv().expect("a process has the baton") {
            (pid, Some(until)) => {
                if let Some(entry) = self.processes.get_mut(&pid) {
                    entry.until = until;
                }
            }
            (pid, None) => {
                if let Some(entry) = self.processes.remove(&pid) {
                    let _ = entry.thread.join();
                }
                self.release(pid);
            }
        }
    }

    /// The kernel's part in a process's end.
    fn release(&mut self, pid: Pid) {
        let mut world = self.world();
        let World { lock, queue, waiter, .. } = &mut *world;
        for held in [lock, queue, waiter] {
            held.take_if(|holder| *holder == pid);
        }
        // It dies with its parent, mostly at once.
        let linger = if world.rng.u32(..3) == 0 { world.rng.u64(..3000) } else { 0 };
        let now = world.now;
        match &mut world.mbsync {
            Some(mbsync) if mbsync.owner == pid && linger > 0 => mbsync.ends = now + linger,
            Some(mbsync) if mbsync.owner == pid => world.mbsync = None,
            _ => {}
        }
    }

    fn step(&mut self, pid: Pid, go: Go) {
        if self.processes[&pid].go.send(go).is_ok() {
            self.hear();
        }
        let roles = std::mem::take(&mut self.world().to_start);
        for role in roles {
            self.start(role);
        }
    }

    /// The processes that can take a step now.
    fn ready(&self) -> Vec<Pid> {
        let world = self.world();
        let can = |(pid, entry): (&Pid, &Entry)| {
            let stopped = world.told_to_stop.contains(pid);
            let ready = stopped
                || match entry.until {
                    Until::Now => true,
                    Until::Lock { deadline } => world.lock.is_none() || world.now >= deadline,
                    Until::NoMbsync { deadline } => world.mbsync.is_none() || world.now >= deadline,
                    Until::Time { at, or_changes_from } => {
                        world.now >= at || or_changes_from.is_some_and(|from| from != world.changes)
                    }
                };
            (ready && entry.frozen_until <= world.now).then_some(*pid)
        };
        self.processes.iter().filter_map(can).collect()
    }

    /// When something happens by itself.
    fn next_time(&self) -> Option<u64> {
        let world = self.world();
        let times = self.processes.values().map(|entry| match entry.until {
            Until::Now => entry.frozen_until,
            Until::Lock { deadline } | Until::NoMbsync { deadline } => deadline,
            Until::Time { at, .. } => at,
        });
        let thaw = self.processes.values().map(|entry| entry.frozen_until);
        let orphan = world.mbsync.iter().map(|mbsync| mbsync.ends);
        times.chain(thaw).chain(orphan).filter(|&at| at > world.now).min()
    }

    fn go_on_until(&mut self, at: u64) {
        let mut world = self.world();
        world.now = world.now.max(at);
        let owner = world.mbsync.as_ref().map(|mbsync| mbsync.owner);
        // One whose holder lives is reaped by it.
        let orphan = owner.is_some_and(|owner| !self.processes.contains_key(&owner));
        let now = world.now;
        if orphan && world.mbsync.as_ref().is_some_and(|mbsync| mbsync.ends <= now) {
            world.mbsync = None;
        }
    }

    /// A command that somebody gives.
    fn some_command(&mut self) -> Role {
        let mut world = self.world();
        let conditions = world.conditions;
        let mailbox = |name: &str| Target::Mailbox { channel: "c".into(), name: name.into() };
        let all = [
            BTreeSet::from([Target::Account]),
            BTreeSet::from([mailbox("INBOX")]),
            BTreeSet::from([mailbox("INBOX"), mailbox("Sent")]),
            BTreeSet::from([Target::Channel("c".into())]),
        ];
        let wants = world.rng.pick(&all).clone();
        let urgent = conditions.urgent && world.rng.u32(..5) == 0;
        match world.rng.u32(..10) {
            0 if conditions.waiters => Role::Waiter { runs: world.rng.usize(1..3) },
            0..=4 => Role::Background(wants, urgent),
            5..=7 if conditions.hooks => Role::Background(wants, urgent),
            _ => {
                let urgency = if urgent {
                    Urgency::Urgent
                } else if world.rng.bool() {
                    Urgency::Impatient
                } else {
                    Urgency::Usual
                };
                let block = conditions.hooks || world.rng.u32(..3) == 0;
                Role::Foreground(
                    wants,
                    RequestOptions { urgency, block, ..RequestOptions::default() },
                )
            }
        }
    }

    /// Everything that is not a step of a process; true if something was done.
    fn fate(&mut self) -> bool {
        let pids: Vec<Pid> = self.processes.keys().copied().collect();
        let mut world = self.world();
        let conditions = world.conditions;
        let jitter = world.rng.u32(..1000);
        let victim = if pids.is_empty() { None } else { Some(*world.rng.pick(&pids)) };
        match (jitter, victim) {
            (0..=7, Some(pid)) if conditions.kills => {
                world.disturbed = true;
                drop(world);
                self.step(pid, Go::Die);
            }
            (8..=11, Some(pid)) if conditions.stops => {
                world.disturbed = true;
                world.told_to_stop.insert(pid);
            }
            (12..=19, _) if conditions.failures => {
                let all = [
                    Trouble::None,
                    Trouble::Account,
                    Trouble::Mailbox,
                    Trouble::Hopeless,
                    Trouble::Denied,
                ];
                world.trouble = *world.rng.pick(&all);
            }
            (20..=21, Some(pid)) if conditions.hardship => {
                let until = world.now + world.rng.u64(..300_000);
                drop(world);
                if let Some(entry) = self.processes.get_mut(&pid) {
                    entry.frozen_until = until;
                }
            }
            (22..=24, _) if conditions.clock => {
                world.behind += world.rng.u64(..1_000_000);
                world.setbacks += 1;
            }
            _ => return false,
        }
        true
    }

    /// Lets everything happen until nothing does any more.
    fn run(&mut self, mut commands: usize) {
        let (mut runs, mut quiet_since_run) = (0, 0);
        for _ in 0..100_000 {
            if self.world().ended != runs {
                (runs, quiet_since_run) = (self.world().ended, 0);
            }
            if !self.world().violations.is_empty() {
                return;
            }
            // Just after a run the others are about to leave.
            let often = if quiet_since_run < 12 { 4 } else { 16 };
            quiet_since_run += 1;
            if commands > 0 && self.world().rng.u32(..often) == 0 {
                commands -= 1;
                let role = self.some_command();
                self.start(role);
                continue;
            }
            if self.fate() {
                continue;
            }
            let ready = self.ready();
            if !ready.is_empty() {
                // Ranks that change now and then let one process overtake another by
                // many steps, which a fair draw at each step hardly ever does.
                let (lucky, rank, change) = {
                    let mut world = self.world();
                    (*world.rng.pick(&ready), world.rng.u32(..), world.rng.u32(..8) == 0)
                };
                if let Some(entry) = self.processes.get_mut(&lucky).filter(|_| change) {
                    entry.rank = rank;
                }
                let pid = ready.into_iter().max_by_key(|pid| self.processes[pid].rank);
                self.step(pid.expect("some are ready"), Go::On);
                continue;
            }
            if commands > 0 {
                // Sooner or later, before or after what happens by itself.
                let (now, wait) = {
                    let mut world = self.world();
                    (world.now, world.rng.u64(..40_000))
                };
                let at = self.next_time().map_or(now + wait, |next| next.min(now + wait));
                self.go_on_until(at);
                continue;
            }
            // A waiter with nothing to do waits for ever.
            let waiter = self.world().waiter;
            let only_waiter = self.processes.keys().all(|pid| Some(*pid) == waiter);
            let idle = {
                let world = self.world();
                only_waiter
                    && world.want.is_empty()
                    && world.run.is_empty()
                    && world.mbsync.is_none()
            };
            match self.next_time() {
                Some(at) if !idle => self.go_on_until(at),
                _ => return,
            }
        }
        self.world().violated("it never comes to rest");
    }

    fn end(&mut self) {
        let pids: Vec<Pid> = self.processes.keys().copied().collect();
        for pid in pids {
            self.step(pid, Go::Die);
        }
    }

    /// The guarantees, when all is quiet.
    fn check(&mut self) {
        let mut world = self.world();
        let (disturbed, failed, conditions) = (world.disturbed, world.failed, world.conditions);
        let bound = (1 + world.setbacks) * 60_000 + 4 * LONGEST_RUN + 2 * SETTLE;
        let mut wrong = Vec::new();
        for request in &world.requests {
            let want = &request.want;
            if disturbed {
                continue;
            }
            if !failed && request.served_at.is_none() {
                wrong.push(format!("{want:?} of process {} was not served", request.maker));
            }
            if request.told == StatusUpdate::Queued && !request.tried {
                wrong.push(format!("{want:?} was promised a run, and none was tried"));
            }
            if let Some(at) = request.served_at {
                if !failed && !conditions.hardship && at - request.made_at > bound {
                    let waited = at - request.made_at;
                    wrong.push(format!("{want:?} was served after {waited} ms"));
                }
            }
        }
        // One for its maker, and one by its mark on disk, when somebody asks for the
        // same again in between.
        let extra = 2 * world.urgent_demands;
        let distance = u64::try_from(RATE.interval.as_millis()).unwrap();
        'all: for (i, first) in world.runs.iter().enumerate() {
            for (j, last) in world.runs.iter().enumerate().skip(i) {
                let allowed = u64::from(RATE.burst) + (last - first) / distance + extra;
                if (j - i + 1) as u64 > allowed {
                    wrong.push(format!("{} runs in {} ms", j - i + 1, last - first));
                    break 'all;
                }
            }
        }
        for text in wrong {
            world.violated(&text);
        }
    }
}

/// One history; what went wrong in it.
fn history(seed: u64, conditions: Conditions, flaw: Flaw) -> Vec<String> {
    let mut scheduler = Scheduler::new(seed, conditions, flaw);
    let commands = {
        let mut world = scheduler.world();
        // A request is only lost where no later command finds it: short histories
        // have as many ends as long ones, and begin with the burst spent.
        if conditions.hooks && world.rng.bool() {
            world.stamp = Some(world.wall() + RATE.interval * RATE.burst);
        }
        let most = if conditions.hooks { 4 } else { 12 };
        2 + world.rng.usize(..most)
    };
    scheduler.run(commands);
    scheduler.check();
    if scheduler.world().violations.is_empty() {
        // Whatever happened: one more command, and all is served.
        {
            let mut world = scheduler.world();
            world.conditions = Conditions::default();
            world.trouble = Trouble::None;
            world.now += 7_200_000;
            world.behind = 0;
            world.disturbed = true;
        }
        let wants =
            BTreeSet::from([Target::Mailbox { channel: "c".into(), name: "Drafts".into() }]);
        let urgency = Urgency::Impatient;
        let options = RequestOptions { urgency, block: true, ..RequestOptions::default() };
        scheduler.start(Role::Foreground(wants, options));
        scheduler.run(0);
        let mut world = scheduler.world();
        let lost: Vec<String> = (world.requests.iter())
            .filter(|request| request.written && request.served_at.is_none())
            .map(|request| format!("{:?} of process {} is lost", request.want, request.maker))
            .collect();
        for text in lost {
            world.violated(&text);
        }
    }
    scheduler.end();
    let mut world = scheduler.world();
    std::mem::take(&mut world.violations)
}

fn hold(name: &str, first: u64, conditions: Conditions, histories: usize) {
    for seed in first..first + histories as u64 {
        let wrong = history(seed, conditions, Flaw::None);
        assert!(wrong.is_empty(), "{name}, seed {seed}: {wrong:#?}");
    }
}

/// The flaw shows within so many histories.
fn shows(flaw: Flaw, conditions: Conditions) {
    let most = count(10_000, 100_000) as u64;
    let seen = (0..most).find(|seed| !history(*seed, conditions, flaw).is_empty());
    println!("{flaw:?}: {seen:?}");
    assert!(seen.is_some(), "{flaw:?} is not noticed in {most} histories");
}

const CALM: Conditions = Conditions {
    kills: false,
    stops: false,
    failures: false,
    hardship: false,
    clock: false,
    urgent: false,
    waiters: true,
    hooks: false,
};

const HOOKS: Conditions = Conditions { waiters: false, hooks: true, ..CALM };

#[test]
fn g2_g3_g4_every_request_is_served_without_a_further_command() {
    hold("calm", 0, CALM, count(600, 10_000));
    let urgent = Conditions { urgent: true, ..CALM };
    hold("hooks", 50_000, HOOKS, count(2000, 30_000));
    hold("urgent", 100_000, urgent, count(300, 5_000));
}

#[test]
fn g4_a_clock_set_back_holds_nothing_up() {
    hold("clock", 200_000, Conditions { clock: true, ..CALM }, count(300, 5_000));
}

#[test]
fn g2_every_accepted_request_is_tried_though_runs_fail() {
    let failures = Conditions { failures: true, ..CALM };
    hold("failures", 300_000, failures, count(400, 5_000));
    // Among them those that can ask for a password, and are not answered by others.
    let asking = Conditions { urgent: true, ..failures };
    hold("denials", 600_000, asking, count(300, 5_000));
}

#[test]
fn g1_g2_kills_anywhere_lose_nothing_and_never_lead_to_two_runs() {
    let kills = Conditions { kills: true, stops: true, ..CALM };
    hold("kills", 400_000, kills, count(600, 10_000));
    let all = Conditions { failures: true, hardship: true, clock: true, urgent: true, ..kills };
    hold("all", 500_000, all, count(600, 10_000));
}

#[test]
fn g2_a_child_that_does_not_recheck_is_noticed() {
    shows(Flaw::ChildLooksNoMore, HOOKS);
}

#[test]
fn g2_a_queue_owner_that_does_not_recheck_is_noticed() {
    // A waiter, then a command that stayed.
    shows(Flaw::LeaverLooksNoMore, CALM);
    shows(Flaw::LeaverLooksNoMore, HOOKS);
}

#[test]
fn g2_requests_taken_late_are_noticed() {
    shows(Flaw::LateTake, CALM);
}

#[test]
fn g1_an_ignored_leftover_is_noticed() {
    shows(Flaw::LeftoverIgnored, Conditions { kills: true, ..CALM });
}

#[test]
fn g2_a_forgotten_crash_is_noticed() {
    shows(Flaw::CrashForgotten, Conditions { kills: true, ..CALM });
}

#[test]
fn g2_a_forgotten_failure_is_noticed() {
    shows(Flaw::FailureForgets, Conditions { failures: true, ..CALM });
}

#[test]
fn g12_a_denial_that_answers_all_is_noticed() {
    shows(Flaw::DenialAnswersAll, Conditions { failures: true, urgent: true, ..CALM });
}

#[test]
fn g4_a_believed_future_is_noticed() {
    shows(Flaw::FutureBelieved, Conditions { clock: true, ..CALM });
}
