//! The real backend of the scheduler: an account's state directory, the clock,
//! the lock, and a run of mbsync.
//!
//! Fixes what is read and written when, and in which order. Does not depend on:
//! when to run, connections, the modes of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::changes::Snapshot;
use super::context::AccountContext;
use super::hooks::{self, HookEnv};
use super::mbsync::{self, Companion, Job, RunEnd};
use super::output::Problem;
use super::scheduler::{Backend, Gate, Locked, Paused, RequestState};
use crate::error::{Error, ExitStatus};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc::MbsyncWords;
use crate::model::{CredentialSource, Mailbox, Target};
use crate::os::child::Prompt;
use crate::os::fork::{Forked, fork_detached};
use crate::os::procfs;
use crate::os::signals::Shutdown;
use crate::os::wait;
use crate::settings::Settings;
use crate::state::backoff::{self, Backoff, seconds};
use crate::state::last_run::{self, Change, LastRun};
use crate::state::lock::{Lock, LockWait, Orphan};
use crate::state::watch::StateWatch;
use crate::state::{StateDir, clean, requests, state_failure, throttle};
use crate::text::short;
use crate::verdict::CleanState;
use crate::verdict::gone::Gone;

/// How long a child waits out failures before it leaves the request to the next command.
pub const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// How a run presents itself.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Where mbsync may ask.
    pub prompt: Prompt,
    /// Show mbsync's own counters.
    pub progress: bool,
    /// Say what is decided, pass on what mbsync says.
    pub verbose: bool,
}

impl RunOptions {
    /// For a process without a user in front of it.
    #[must_use]
    pub fn in_background(settings: &Settings) -> Self {
        let prompt = if settings.prompt { Prompt::Environment } else { Prompt::Never };
        RunOptions { prompt, progress: false, verbose: false }
    }
}

/// The scheduler's backend for one account.
#[derive(Debug)]
pub struct AccountBackend<'a> {
    context: AccountContext<'a>,
    dir: StateDir,
    shutdown: Shutdown,
    options: RunOptions,
    lock: Option<Lock>,
    queue: Option<Lock>,
    /// Requests that could not be written: kept until they are served.
    unwritten: BTreeSet<Target>,
    /// What could not be written of the last run, so that a full disk does not
    /// make a child try for ever.
    pending: PendingWrites,
    /// The environment of the user's commands, which run once the lock is given up.
    hook_env: Option<HookEnv>,
    changed: Option<StateWatch>,
    opened: Instant,
    trouble: Option<Error>,
}

#[derive(Debug, Default)]
struct PendingWrites {
    retry: Option<Backoff>,
    trigger: Option<(i64, i64)>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// How it ended.
    pub ended: RunEnd,
    /// What came and went.
    pub changes: Vec<Change>,
    /// How long it took.
    pub took: Duration,
    /// How long until the next automatic try.
    pub retry: Option<Duration>,
}

impl super::scheduler::RunOutcome for RunReport {
    fn is_hopeless(&self) -> bool {
        self.ended.exit == ExitStatus::Config
    }

    fn stopped(&self) -> bool {
        matches!(self.ended.exit, ExitStatus::Signal(_))
    }
}

impl<'a> AccountBackend<'a> {
    /// The backend of one account; creates its state directory if necessary.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open(
        context: AccountContext<'a>,
        shutdown: Shutdown,
        options: RunOptions,
    ) -> Result<Self, Error> {
        let dir = StateDir::open(context.base, &context.account.name)?;
        Ok(AccountBackend {
            context,
            dir,
            shutdown,
            options,
            lock: None,
            queue: None,
            unwritten: BTreeSet::new(),
            pending: PendingWrites::default(),
            hook_env: None,
            changed: None,
            opened: Instant::now(),
            trouble: None,
        })
    }

    /// The account's state directory.
    #[must_use]
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// A failure of the backend itself (a lock that cannot be opened), if there was one.
    #[must_use]
    pub fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// The same for a process that continues: each failure is returned once.
    pub fn take_trouble(&mut self) -> Option<Error> {
        self.trouble.take()
    }

    /// A request could be put neither on disk nor into a child's hands.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.options.verbose {
            say(self.context, &text());
        }
    }

    fn note(&mut self, what: &str, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.trouble.get_or_insert_with(|| {
                state_failure(
                    &error,
                    &format!("{}: cannot write {what}", self.dir.path().display()),
                )
            });
        }
    }

    /// Where the account's trigger file is.
    #[must_use]
    pub fn trigger(&self) -> PathBuf {
        trigger(&self.dir, self.context.settings)
    }

    fn trigger_is_new(&self) -> bool {
        let now = trigger_stamp(&self.trigger());
        now.is_some() && now != self.pending.trigger && now != self.last().trigger
    }

    fn last(&self) -> LastRun {
        self.dir.read_json(last_run::FILE).unwrap_or_default()
    }

    fn secrets(&self) -> Vec<&'a str> {
        match self.context.account.server.as_ref().and_then(|server| server.pass.as_ref()) {
            Some(CredentialSource::Text(text)) => vec![text.as_str()],
            _ => vec![],
        }
    }

    /// The mailboxes that a run for these targets may touch.
    fn scope(&self, targets: &BTreeSet<Target>) -> Vec<Mailbox> {
        if targets.iter().all(|target| matches!(target, Target::Mailbox { .. })) {
            return targets
                .iter()
                .filter_map(|target| self.context.account.mailbox(target))
                .collect();
        }
        let mut all = self.context.config.local_mailboxes(self.context.account);
        all.retain(|mailbox| targets.iter().any(|target| target.covers_mailbox(mailbox)));
        all
    }

    /// After the run: requests, backoff and memory say what it came to.
    fn settle(
        &mut self,
        claimed: &requests::Claimed,
        mut run: LastRun,
        before: &LastRun,
        ended: &RunEnd,
    ) -> Option<Duration> {
        let policy = self.context.settings.backoff_policy();
        let now = SystemTime::now();
        run.runs = before.runs + 1;
        run.code = ended.exit.code();
        run.text.clone_from(&ended.text);
        run.last_success = before.last_success;
        run.last_whole = before.last_whole;
        let mut wait = None;
        match ended.exit {
            ExitStatus::Done => {
                run.last_success = Some(seconds(now));
                if run.whole {
                    run.last_whole = run.last_success;
                }
                for target in claimed.keys() {
                    let removed = requests::served(&self.dir, target);
                    self.note("run", removed);
                }
                self.pending.retry = None;
                let removed = self.dir.remove(backoff::FILE);
                self.note(backoff::FILE, removed);
            }
            // What was taken stays in run/, where the next holder finds it fresh.
            ExitStatus::Signal(_) => run.trigger = before.trigger,
            ExitStatus::Mailbox => {
                // The login worked: the account as a whole is not in trouble.
                self.pending.retry = None;
                let _ = self.dir.remove(backoff::FILE);
                let failed = self.failed(claimed, &ended.problems);
                for (target, failures) in &failed {
                    let delay = policy.delay(*failures, ExitStatus::Mailbox);
                    wait = wait.max(Some(delay));
                    let put = requests::requeue(&self.dir, target, *failures, now, delay);
                    self.note("want", put);
                }
                for target in claimed.keys().filter(|target| !failed.contains_key(target)) {
                    let removed = requests::served(&self.dir, target);
                    self.note("run", removed);
                }
                if failed.keys().all(|target| matches!(target, Target::Mailbox { .. })) && run.whole
                {
                    run.last_whole = Some(seconds(now));
                }
            }
            _ => {
                let earlier = self.retry();
                let retry = policy.after(earlier.as_ref(), ended.exit, &ended.text, now, jitter());
                wait = Some(policy.wait(Some(&retry), now));
                // Held up by the account's backoff only, which a success elsewhere ends.
                for (target, failures) in claimed {
                    let put = requests::requeue(&self.dir, target, *failures, now, Duration::ZERO);
                    self.note("want", put);
                }
                let written = self.dir.write_json(backoff::FILE, &retry);
                self.pending.retry = written.is_err().then_some(retry);
                self.note(backoff::FILE, written);
            }
        }
        let written = self.dir.write_json(last_run::FILE, &run);
        self.pending.trigger = run.trigger.filter(|_| written.is_err());
        self.note(last_run::FILE, written);
        wait
    }

    fn retry(&self) -> Option<Backoff> {
        self.pending.retry.clone().or_else(|| self.dir.read_json(backoff::FILE))
    }

    /// Which requests are still pending after a run that failed on some mailboxes:
    /// those mailboxes, if mbsync named each; else all that it claimed.
    fn failed(&self, claimed: &requests::Claimed, problems: &[Problem]) -> requests::Claimed {
        let all =
            || claimed.iter().map(|(target, failures)| (target.clone(), failures + 1)).collect();
        let targets: BTreeSet<Target> = claimed.keys().cloned().collect();
        let scope = self.scope(&targets);
        let mut failed = requests::Claimed::new();
        for problem in problems {
            let Problem::Mailbox { channel: Some(channel), mailbox: Some(name) } = problem else {
                return all();
            };
            let Some(found) = scope.iter().find(|mailbox| {
                mailbox.channel == *channel
                    && [&mailbox.name, &mailbox.far, &mailbox.near].contains(&name)
            }) else {
                return all();
            };
            let target = found.target();
            let failures = claimed.get(&target).copied().unwrap_or(0) + 1;
            failed.insert(target, failures);
        }
        if failed.is_empty() { all() } else { failed }
    }
}

impl Backend for AccountBackend<'_> {
    type Report = RunReport;

    fn submit(&mut self, targets: &BTreeSet<Target>, urgent: bool) -> bool {
        hooks::mark_echo(&self.dir);
        let written = requests::submit(&self.dir, targets, urgent).is_ok();
        if !written {
            // A full disk loses nothing: the process keeps in memory what it cannot write.
            self.unwritten.extend(targets.iter().cloned());
        }
        written
    }

    fn request_state(&mut self, targets: &BTreeSet<Target>) -> RequestState {
        if targets.iter().any(|target| self.unwritten.contains(target)) {
            return RequestState::Fresh;
        }
        requests::request_state(&self.dir, targets)
    }

    fn next_due(&mut self) -> Option<Duration> {
        if !self.unwritten.is_empty() || self.trigger_is_new() {
            return Some(Duration::ZERO);
        }
        requests::next_due(&self.dir, self.context.settings.backoff_policy(), SystemTime::now())
    }

    fn any_fresh(&mut self) -> bool {
        !self.unwritten.is_empty() || self.trigger_is_new() || requests::any_fresh(&self.dir)
    }

    fn was_denied(&mut self) -> bool {
        self.retry().is_some_and(|retry| ExitStatus::from_code(retry.code) == ExitStatus::Denied)
    }

    fn lock(&mut self) -> Locked {
        let path = self.dir.file("lock");
        let mut moved = None;
        let slice = self.context.settings.stall + Duration::from_secs(10);
        let holder_lives = || {
            let run = Lock::run_under(&path);
            let now = run.and_then(|run| procfs::bytes_moved_by_tree(run.pid));
            let lives = now.is_some() && now != moved;
            moved = now;
            lives
        };
        let started = Instant::now();
        match Lock::take(&path, slice, holder_lives, &self.shutdown) {
            Ok(LockWait::Got(mut lock)) => {
                match lock.reap_orphan(self.context.settings.stall, &self.shutdown) {
                    Orphan::Over => {}
                    Orphan::Lives => return Locked::TooLong,
                    Orphan::Stopped => return Locked::Stopped,
                }
                if started.elapsed() > Duration::from_millis(5) {
                    self.say(|| format!("waited {} for another run", short(started.elapsed())));
                }
                self.lock = Some(lock);
                Locked::Held
            }
            Ok(LockWait::TooLong) => Locked::TooLong,
            Ok(LockWait::Stopped) => Locked::Stopped,
            Err(error) => {
                self.note("lock", Err(error));
                // What is not on disk is known to this process alone.
                if self.unwritten.is_empty() { Locked::Unavailable } else { Locked::TooLong }
            }
        }
    }

    fn unlock(&mut self) {
        self.lock = None;
        // Only now: a command that hangs, or that syncs, delays no other process.
        if let Some(hook_env) = self.hook_env.take() {
            hook_env.run(self.context);
        }
    }

    fn try_queue(&mut self) -> bool {
        if self.queue.is_some() {
            return true;
        }
        match Lock::try_take(&self.dir.file("queue.lock")) {
            Ok(queue) => {
                self.queue = queue;
                self.queue.is_some()
            }
            // No process can hold it: each has its own queue then.
            Err(error) => {
                self.note("queue.lock", Err(error));
                true
            }
        }
    }

    fn leave_queue(&mut self) {
        self.queue = None;
    }

    fn waiter_is_alive(&mut self) -> bool {
        Lock::is_held(&self.dir.file("waiter.lock"))
    }

    fn leave_child(&mut self) -> bool {
        match fork_detached() {
            Ok(Forked::Parent) => {
                if let Some(queue) = self.queue.take() {
                    queue.pass_on();
                }
                self.unwritten.clear();
                true
            }
            Ok(Forked::Child) => {
                // Its own pipe: the parent polls the old one.
                let ours = Shutdown::on_signals();
                // One that came before the new pipe was in place.
                if let Some(signal) = self.shutdown.signal() {
                    std::process::exit(128 + i32::from(signal));
                }
                if let Ok(ours) = ours {
                    self.shutdown = ours;
                }
                self.options = RunOptions::in_background(self.context.settings);
                super::scheduler::run_queue_owner(self, PATIENCE);
                std::process::exit(
                    self.shutdown.signal().map_or(0, |signal| 128 + i32::from(signal)),
                );
            }
            // Several threads cannot fork; a fresh process takes the queue itself.
            Err(_) => {
                self.queue = None;
                self.unwritten.is_empty()
                    && super::detached::spawn("queue", self.context, &[]).is_ok()
            }
        }
    }

    fn gate(&mut self, urgent: bool, impatient: bool) -> Gate {
        if urgent || requests::is_urgent(&self.dir) {
            return Gate::Open;
        }
        let settings = self.context.settings;
        let now = SystemTime::now();
        let backoff = match self.retry() {
            Some(retry) if !impatient => settings.backoff_policy().wait(Some(&retry), now),
            _ => Duration::ZERO,
        };
        if !backoff.is_zero() {
            return Gate::BackingOff(backoff);
        }
        let rate = settings.rate();
        let wait = rate.wait(throttle::stamp(&self.dir, rate, now), now);
        if wait.is_zero() { Gate::Open } else { Gate::Throttled(wait) }
    }

    fn pause(&mut self, at_most: Duration) -> Paused {
        if let Some(changes) = &mut self.changed {
            changes.wait(at_most, self.shutdown.cancel());
            return self.paused();
        }
        // What changed before the watch was set would be missed: check again first.
        self.changed = Some(StateWatch::of(&self.dir));
        Paused::Over
    }

    fn settle(&mut self) -> Paused {
        wait::sleep(self.context.settings.settle, self.shutdown.cancel());
        self.paused()
    }

    fn clock(&mut self) -> Duration {
        self.opened.elapsed()
    }

    fn run(&mut self) -> RunReport {
        self.run_by(|attempt, lock| (attempt.run(lock, None), ())).0
    }
}

impl AccountBackend<'_> {
    fn paused(&self) -> Paused {
        if self.shutdown.signal().is_some() { Paused::Stopped } else { Paused::Over }
    }

    /// As [`Backend::run`], where `start` is what runs mbsync. Gives what that
    /// gave beside the run's end, if there was anything to run.
    pub fn run_by<T>(
        &mut self,
        start: impl FnOnce(&Attempt<'_>, &mut Lock) -> (RunEnd, T),
    ) -> (RunReport, Option<T>) {
        let Some(mut lock) = self.lock.take() else {
            // Cannot happen: the protocol runs with the lock held.
            let report = RunReport {
                ended: RunEnd {
                    exit: ExitStatus::Later,
                    text: "the lock is not held".into(),
                    problems: vec![],
                    log: None,
                },
                changes: vec![],
                took: Duration::ZERO,
                retry: None,
            };
            return (report, None);
        };
        let settings = self.context.settings;
        let (began, began_at) = (SystemTime::now(), Instant::now());
        let rate = settings.rate();
        let tat = rate.consume(throttle::stamp(&self.dir, rate, began), began);
        let stamped = throttle::set_stamp(&self.dir, tat);
        self.note("throttle", stamped);

        self.dir.sweep();
        let before = self.last();
        let trigger = trigger_stamp(&self.trigger());
        let (mut claimed, unreadable) =
            match requests::claim(&self.dir, settings.backoff_policy(), began) {
                Ok(claimed) => (claimed, None),
                Err(error) => (requests::Claimed::new(), Some(error)),
            };
        let is_echo = hooks::take_echo(&self.dir);
        claimed.extend(std::mem::take(&mut self.unwritten).into_iter().map(|target| (target, 0)));
        if trigger.is_some() && trigger != before.trigger {
            claimed.entry(Target::Account).or_default();
        }
        let targets: BTreeSet<Target> = claimed.keys().cloned().collect();
        let named = self.context.config.mbsync_words(self.context.account, &targets);
        let words = named.args();
        // isync 1.5 does not record each deletion.
        let logs = self.context.config.version == IsyncVersion::V1_5;
        let gone: Option<BTreeMap<String, Gone>> =
            if logs { self.dir.read_json(clean::GONE) } else { None };
        let earlier = gone.clone().unwrap_or_default();
        let snapshot = Snapshot::take(self.scope(&targets), self.context.account, logs, earlier);
        let secrets = self.secrets();
        let program = settings.mbsync.clone();
        let job = Job {
            program: &program,
            file: &self.context.config.file,
            words: &words,
            prompt: self.options.prompt,
            progress: self.options.progress,
            logs,
            verbose: self.options.verbose,
            stall: settings.stall,
            secrets: &secrets,
        };
        let mut given = None;
        let ended = if let Some(error) = unreadable.filter(|_| targets.is_empty()) {
            let requests = self.dir.file("want");
            let failure = state_failure(
                &error,
                &format!("cannot read the requests in {}", requests.display()),
            );
            RunEnd { exit: failure.status, text: failure.to_string(), problems: vec![], log: None }
        } else if named.all || !named.words.is_empty() {
            let attempt =
                Attempt { context: self.context, words: &named, job, shutdown: &self.shutdown };
            let (ended, beside) = start(&attempt, &mut lock);
            given = Some(beside);
            ended
        } else {
            nothing_to_name(&named.unreachable)
        };
        let ended = with_advice(ended, &self.context.account.name);
        let took = began_at.elapsed();
        let scope = self.scope(&targets);
        let by_scan = |key: &str| -> Option<Gone> {
            let seen: BTreeMap<String, CleanState> = self.dir.read_json(clean::FILE)?;
            seen.get(key)?.gone.clone()
        };
        let (changes, now_gone) = snapshot.changes(&scope, ended.log.as_ref(), &by_scan);
        // Lost, a deletion is found once more and costs a run.
        if now_gone.is_empty() {
            let _ = self.dir.remove(clean::GONE);
        } else if Some(&now_gone) != gone.as_ref() {
            let _ = self.dir.write_json(clean::GONE, &now_gone);
        }
        hooks::refresh(&changes, &scope);
        self.hook_env = HookEnv::of(settings, &changes, &scope, began, is_echo);
        let run = LastRun {
            started: millis(began),
            took: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            whole: targets.contains(&Target::Account),
            trigger: trigger.or(before.trigger),
            changes: changes.clone(),
            ..LastRun::default()
        };
        let retry = self.settle(&claimed, run, &before, &ended);
        let cleared = lock.clear();
        self.note("lock", cleared);
        self.lock = Some(lock);
        (RunReport { ended, changes, took, retry }, given)
    }
}

/// A run that is about to be made.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The account.
    pub context: AccountContext<'a>,
    /// What it syncs.
    pub words: &'a MbsyncWords,
    job: Job<'a>,
    shutdown: &'a Shutdown,
}

impl Attempt<'_> {
    /// Runs mbsync; with a companion, over a connection of ours.
    pub fn run<'r>(
        &'r self,
        lock: &mut Lock,
        companion: Option<&'r mut (dyn Companion + 'r)>,
    ) -> RunEnd {
        let over = if companion.is_some() { ", over the connection that is open" } else { "" };
        self.say(|| format!("running {}{over}", mbsync::command_line(&self.job).join(" ")));
        mbsync::run(&self.job, lock, self.shutdown, companion)
    }

    /// Prints a decision, with `--verbose`.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.job.verbose {
            say(self.context, &text());
        }
    }
}

fn say(context: AccountContext<'_>, text: &str) {
    use std::io::Write as _;
    let line = format!("{}: {text}", context.account.name);
    let _ = writeln!(std::io::stderr(), "{}", crate::text::sanitize(&line));
}

/// Where an account's trigger file is.
#[must_use]
pub fn trigger(dir: &StateDir, settings: &Settings) -> PathBuf {
    settings.trigger.clone().unwrap_or_else(|| dir.file("trigger"))
}

/// ctime, which nobody can set back, of the trigger file.
#[must_use]
pub fn trigger_stamp(path: &Path) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|found| (found.ctime(), found.ctime_nsec()))
}

/// A login or a password command that fails has causes that `--check` finds.
fn with_advice(ended: RunEnd, account: &str) -> RunEnd {
    if ended.exit != ExitStatus::Denied {
        return ended;
    }
    let text = format!("{} (mutt-sync --check {account} says more)", ended.text);
    RunEnd { text, ..ended }
}

/// The end of a run without arguments for mbsync, which would reject an empty list.
fn nothing_to_name(unreachable: &[String]) -> RunEnd {
    let (exit, text) = match unreachable {
        // Asked for when .mbsyncrc still had them.
        [] => (ExitStatus::Done, String::new()),
        names => {
            let names = names.join(", ");
            (
                ExitStatus::Config,
                format!("mbsync has no way to name {names}; rename it in .mbsyncrc"),
            )
        }
    };
    RunEnd { exit, text, problems: vec![], log: None }
}

/// A number from 0 to 1 that differs between processes and moments.
#[must_use]
pub fn jitter() -> f64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mixed = (u64::from(nanos) ^ (u64::from(std::process::id()) << 20))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_precision_loss)]
    let jitter = (mixed >> 40) as f64 / (1_u64 << 24) as f64;
    jitter
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
