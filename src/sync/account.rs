//! The scheduler's backend for one account: its state directory, locks, waiting, and
//! when a run may start. What is claimed then is served in `serve`.
//!
//! Does not depend on: when to run, connections, the modes of the program.

mod serve;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::context::AccountContext;
use super::hooks::{self, HookEnv};
use super::judge::{Blind, Judge};
use super::limits::RunLimits;
use super::refused::RetryRefused;
use super::scheduler::{Backend, Gate, Locked, Marks, Paused, RequestState, Urgency};
use super::settle;
use crate::error::{Error, ExitStatus};
use crate::model::{Mailbox, Target};
use crate::os::child::Prompt;
use crate::os::fork::{Forked, fork_detached};
use crate::os::procfs;
use crate::os::signals::Shutdown;
use crate::os::wait;
use crate::settings::Settings;
use crate::state::backoff::Backoff;
use crate::state::last_run::LastRun;
use crate::state::lock::{self, Lock, LockWait, Orphan};
use crate::state::watch::StateWatch;
use crate::state::{StateDir, requests, state_failure};
use crate::text::short;
pub use serve::{Claim, RunReport, release_others};

/// How long a child waits out failures before it leaves the request to the next command.
pub const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// How long a command leaves it to the waiter to claim its request.
const WAITER_CLAIMS: Duration = Duration::from_secs(2);
/// Meanwhile it checks this often that there is a waiter.
const WAITER_LIVES: Duration = Duration::from_millis(200);

/// How a run presents itself.
// Independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Where mbsync may ask.
    pub prompt: Prompt,
    /// Show mbsync's own counters, as it prints them.
    pub progress: bool,
    /// Show in one line how far a run is that takes long.
    pub live: bool,
    /// Say what is decided, pass on what mbsync says.
    pub verbose: bool,
    /// A person waits for it: not throttled, and a failure does not lengthen the
    /// backoff.
    pub person: bool,
}

impl RunOptions {
    /// For a process without a user in front of it.
    #[must_use]
    pub fn in_background(settings: &Settings) -> Self {
        let prompt = if settings.prompt { Prompt::Environment } else { Prompt::Never };
        RunOptions { prompt, progress: false, live: false, verbose: false, person: false }
    }
}

/// The scheduler's backend for one account.
#[derive(Debug)]
pub struct AccountBackend<'a> {
    context: AccountContext<'a>,
    judge: Box<dyn Judge + 'a>,
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
    /// A run would be made over a connection that is open.
    connected: bool,
    retry: RetryRefused,
    /// A person has been told that the request waits.
    wait_is_said: bool,
}

#[derive(Debug, Default)]
struct PendingWrites {
    backoff: Option<Backoff>,
    trigger: Option<(i64, i64)>,
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
        judge: Box<dyn Judge + 'a>,
    ) -> Result<Self, Error> {
        let dir = StateDir::open(context.base, &context.account.name)?;
        Ok(AccountBackend {
            context,
            judge,
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
            connected: false,
            retry: RetryRefused::default(),
            wait_is_said: false,
        })
    }

    /// Which refused mailboxes the next run tries again.
    pub fn retry_refused(&mut self, which: RetryRefused) {
        self.retry = which;
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
            self.context.say(&text());
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
        let set = self.context.settings.trigger_of(&self.context.account.name);
        set.unwrap_or_else(|| self.dir.file("trigger"))
    }

    fn trigger_is_new(&self) -> bool {
        let now = trigger_stamp(&self.trigger());
        now.is_some() && now != self.pending.trigger && now != LastRun::read(&self.dir).trigger
    }

    /// The mailboxes that a run for these targets may touch.
    fn scope(&self, targets: &BTreeSet<Target>) -> Vec<Mailbox> {
        if targets.iter().all(|target| matches!(target, Target::Mailbox { .. })) {
            let named = targets.iter().filter_map(|target| self.context.account.mailbox(target));
            let mut named: Vec<Mailbox> = named.collect();
            // As in every list of mailboxes.
            named.sort_by_key(|mailbox| !mailbox.is_inbox());
            return named;
        }
        let mut all = self.context.config.local_mailboxes(self.context.account);
        all.retain(|mailbox| Target::any_covers(targets, mailbox));
        all
    }

    /// The mailboxes that a run for the pending requests may touch.
    fn pending_scope(&self) -> Vec<Mailbox> {
        let mut targets = requests::all(&self.dir);
        targets.extend(self.unwritten.iter().cloned());
        if self.trigger_is_new() {
            targets.insert(Target::Account);
        }
        self.scope(&targets)
    }
}

impl<'a> Backend for AccountBackend<'a> {
    type Report = RunReport;

    fn submit(&mut self, targets: &BTreeSet<Target>, marks: Marks) -> bool {
        let marks = Marks { echo: marks.echo || hooks::is_inside(), ..marks };
        let written = requests::submit(&self.dir, targets, marks);
        let shared = written.is_ok();
        if !shared {
            // A full disk loses nothing: the process keeps in memory what it cannot write.
            self.unwritten.extend(targets.iter().cloned());
        }
        // What blocks the place of one file may go away; these do not by themselves.
        let lasting = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
        self.note(
            "want",
            written.or_else(
                |error| {
                    if lasting.contains(&error.kind()) { Err(error) } else { Ok(()) }
                },
            ),
        );
        shared
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

    fn got_no_password(&mut self) -> bool {
        let server = self.context.account.server.as_ref();
        let asks = server.is_some_and(|server| server.pass.is_none());
        self.backoff().is_some_and(|backoff| {
            let denied = ExitStatus::from_code(backoff.code) == ExitStatus::Denied;
            backoff.password_command || asks && denied
        })
    }

    fn lock(&mut self) -> Locked {
        let path = self.dir.file(lock::RUN);
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
        match Lock::try_take(&self.dir.file(lock::QUEUE)) {
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
        self.dir.is_locked(lock::WAITER)
    }

    fn await_waiter(&mut self, targets: &BTreeSet<Target>) -> Paused {
        let deadline = Instant::now() + WAITER_CLAIMS;
        let mut changes = StateWatch::of(&self.dir);
        while requests::any_unclaimed(&self.dir, targets) && self.waiter_is_alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.paused() == Paused::Stopped {
                break;
            }
            changes.wait(left.min(WAITER_LIVES), self.shutdown.cancel());
        }
        self.paused()
    }

    fn leave_child(&mut self) -> bool {
        let refused = self.trouble.as_ref().is_some_and(|it| it.status == ExitStatus::Config);
        // Where nothing can ever be written, no process could come to an end with it.
        if refused && !self.unwritten.is_empty() {
            return false;
        }
        match fork_detached() {
            Ok(Forked::Parent) => {
                if let Some(queue) = self.queue.take() {
                    queue.pass_on();
                }
                self.unwritten.clear();
                true
            }
            Ok(Forked::Child) => {
                if self.judge.is_blind() && self.unwritten.is_empty() {
                    // The program that can ask the server takes the queue by itself. Before
                    // a signal is taken over: one that is only noted is lost in exec.
                    self.queue = None;
                    super::detached::become_queue_owner(self.context);
                    let _ = self.try_queue();
                }
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

    fn gate(&mut self, urgency: Urgency) -> Gate {
        let settings = self.context.settings;
        let now = SystemTime::now();
        if urgency == Urgency::Urgent || requests::is_urgent(&self.dir) {
            let wait = if self.connected { Duration::ZERO } else { self.limits().person_wait(now) };
            return if wait.is_zero() { Gate::Open } else { Gate::Throttled(wait) };
        }
        let backoff = match self.backoff() {
            Some(backoff) if urgency == Urgency::Usual => {
                settings.backoff_policy().wait(Some(&backoff), now)
            }
            _ => Duration::ZERO,
        };
        if !backoff.is_zero() {
            return Gate::BackingOff(backoff);
        }
        let limits = self.limits();
        let wait = if self.connected { limits.pace_wait(now) } else { limits.login_wait(now) };
        if wait.is_zero() { Gate::Open } else { Gate::Throttled(wait) }
    }

    fn pause(&mut self, at_most: Duration) -> Paused {
        if self.options.person && !std::mem::replace(&mut self.wait_is_said, true) {
            let wait = short(at_most);
            self.context.say(&format!("rate limit (10 logins a minute); syncs in {wait}"));
        }
        if let Some(changes) = &mut self.changed {
            changes.wait(at_most, self.shutdown.cancel());
            return self.paused();
        }
        // What changed before the watch was set would be missed: check again first.
        self.changed = Some(StateWatch::of(&self.dir));
        Paused::Over
    }

    fn settle(&mut self) -> Paused {
        let until = Instant::now() + self.context.settings.settle;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            wait::sleep(settle::QUIET.min(left), self.shutdown.cancel());
            let done = left <= settle::QUIET || self.paused() == Paused::Stopped;
            if done || !settle::are_being_written(&self.pending_scope(), SystemTime::now()) {
                return self.paused();
            }
        }
    }

    fn clock(&mut self) -> Duration {
        self.opened.elapsed()
    }

    fn run(&mut self) -> RunReport {
        let claim = self.claim();
        let mut judge: Box<dyn Judge + 'a> = std::mem::replace(&mut self.judge, Box::new(Blind));
        let report = self.serve(claim, &mut *judge);
        self.judge = judge;
        report
    }
}

impl AccountBackend<'_> {
    /// Whether a process is there to serve what is pending.
    #[must_use]
    pub fn is_attended(&self) -> bool {
        [lock::WAITER, lock::QUEUE].iter().any(|lock| self.dir.is_locked(lock))
    }

    /// A run would be made over a connection that is open, and costs no login.
    pub fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// How soon it may log in or run.
    #[must_use]
    pub fn limits(&self) -> RunLimits<'_> {
        RunLimits::new(&self.dir, self.context.settings, self.options.person)
    }

    fn backoff(&self) -> Option<Backoff> {
        self.pending.backoff.clone().or_else(|| Backoff::read(&self.dir))
    }

    fn paused(&self) -> Paused {
        if self.shutdown.signal().is_some() { Paused::Stopped } else { Paused::Over }
    }
}

/// ctime, which nobody can set back, of the trigger file.
#[must_use]
pub fn trigger_stamp(path: &Path) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|found| (found.ctime(), found.ctime_nsec()))
}
