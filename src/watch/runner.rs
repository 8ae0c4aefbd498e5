//! Runs of mbsync for the waiter: what calls for one, what forbids it (gate and
//! lock), and what came of it.
//!
//! Knows the account's state directory. Does not depend on: the connection's
//! events, inotify.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::log::{Log, print};
use super::mailbox::Debounce;
use super::plan::{self, RunPlan};
use crate::error::{Error, ExitStatus};
use crate::imap::Client;
use crate::lend::{Lease, LeaseOutcome, LeaseStats, Returned};
use crate::model::Target;
use crate::os::signals::Shutdown;
use crate::state::StateDir;
use crate::state::backoff::{self, Backoff, seconds};
use crate::state::last_run::{self, LastRun};
use crate::state::lock::Lock;
use crate::state::requests;
use crate::sync::account::{self, AccountBackend, RunOptions, RunReport};
use crate::sync::context::AccountContext;
use crate::sync::scheduler::{self, Backend as _, Gate, Locked};
use crate::sync::summary::summary_line;
use crate::text::short;

/// Dovecot reports a change half a second later, sometimes twice: what it reports
/// within this time after a run may be an echo of the run.
pub const ECHO: Duration = Duration::from_secs(3);
/// The kernel reports the end of another process's run; this is for the case that
/// it did not.
const TRY_LOCK: Duration = Duration::from_secs(1);

pub struct Runner<'a> {
    context: AccountContext<'a>,
    backend: AccountBackend<'a>,
    verbose: bool,
    /// `-qq`.
    only_permanent_errors: bool,
    leases: LeaseStats,
    /// When a request was first noticed.
    requested: Option<Debounce>,
    /// When a run under the account's lock last ended, ours or another's.
    run_ended: Duration,
    /// Number and start of the last run.
    last_run: (u64, u64),
    /// When a full run was last tried.
    full_tried: Option<Duration>,
    /// Another process holds the account's lock.
    lock_is_held: bool,
    log: Rc<Log>,
}

/// Whether a run may start.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// Now, with the lock held.
    Ready,
    /// Not now; something will call for it again.
    NotNow,
    /// A signal came.
    Stopped,
    /// Another process has synced meanwhile.
    OtherRan,
}

impl<'a> Runner<'a> {
    /// Makes the account's state directory if need be.
    pub fn open(
        context: AccountContext<'a>,
        shutdown: Shutdown,
        verbose: bool,
        only_permanent_errors: bool,
        log: Rc<Log>,
    ) -> Result<Self, Error> {
        let options = RunOptions { verbose, ..RunOptions::in_background(context.settings) };
        Ok(Runner {
            context,
            backend: AccountBackend::open(context, shutdown, options)?,
            verbose,
            only_permanent_errors,
            leases: LeaseStats::default(),
            requested: None,
            run_ended: Duration::ZERO,
            last_run: (0, 0),
            full_tried: None,
            lock_is_held: false,
            log,
        })
    }

    pub fn dir(&self) -> &StateDir {
        self.backend.dir()
    }

    fn last(&self) -> LastRun {
        self.dir().read_json(last_run::FILE).unwrap_or_default()
    }

    /// The runs so far are known; only later ones count.
    pub fn note_last_run(&mut self) {
        let last = self.last();
        self.last_run = (last.runs, last.started);
    }

    /// Whether another process has synced since the last question.
    pub fn other_ran(&mut self, now: Duration) -> bool {
        let before = self.last_run;
        self.note_last_run();
        if self.last_run == before {
            return false;
        }
        self.run_ended = now;
        self.log.say(|| "another process has synced".into());
        true
    }

    /// Notices a new request.
    pub fn note_request(&mut self, now: Duration) {
        if self.requested.is_none() && self.backend.any_fresh() {
            self.log.say(|| "requested".into());
            self.requested = Some(Debounce::again(None, now));
        }
    }

    /// Whether no run is active, and none was a moment ago.
    pub fn is_quiet(&self, now: Duration) -> bool {
        now.saturating_sub(self.run_ended) > ECHO && !Lock::is_held(&self.dir().file("lock"))
    }

    pub fn backoff(&self) -> Option<Backoff> {
        self.dir().read_json(backoff::FILE)
    }

    pub fn clear_backoff(&self) {
        let _ = self.dir().remove(backoff::FILE);
    }

    /// A connection failed: the backoff on disk, which is also that of runs.
    pub fn record_failure(&self, failure: &Error, wall: SystemTime) -> Duration {
        let policy = self.context.settings.backoff_policy();
        let earlier = self.backoff();
        let (exit, text) = (failure.status, &failure.to_string());
        let retry = policy.after(earlier.as_ref(), exit, text, wall, account::jitter());
        let wait = policy.wait(Some(&retry), wall);
        if self.dir().write_json(backoff::FILE, &retry).is_err() {
            self.log.say(|| "the backoff could not be written".into());
        }
        if !(self.only_permanent_errors && exit.is_passing()) {
            self.log.report(text);
        }
        self.log.say(|| format!("{text}; again in {}", short(wait)));
        wait
    }

    /// The login works: the cause of the backoff is gone, and the requests that
    /// failed for it are due now.
    pub fn login_works(&mut self) {
        if self.backoff().is_some() {
            self.clear_backoff();
            // Failed requests are tried again now.
            requests::renew(self.dir());
        }
    }

    /// Time to the next full run; never longer than `every`, whatever the clock
    /// says. One that failed is tried again as a pending request, not here.
    pub fn full_run_in(&self, now: Duration, wall: SystemTime) -> Duration {
        let every = self.context.settings.every;
        let last = self.last();
        let tried = last.whole.then_some(last.started / 1000);
        // A time from a clock that was ahead is not used: it would stay in the
        // future, and the timer would never be due.
        let wall = seconds(wall);
        let last = [last.last_whole, tried].into_iter().flatten().filter(|at| *at <= wall + 1);
        let by_wall = last.max().map_or(Duration::ZERO, |last| {
            (Duration::from_secs(last) + every).saturating_sub(Duration::from_secs(wall)).min(every)
        });
        let tried = self.full_tried.map(|at| (at + every).saturating_sub(now));
        by_wall.max(tried.unwrap_or_default())
    }

    /// What to run now, if anything.
    pub fn plan(
        &mut self,
        dirty: Vec<(Target, String)>,
        new_on_server: bool,
        now: Duration,
    ) -> Option<RunPlan> {
        self.lock_is_held = false;
        let requested =
            self.backend.next_due() == Some(Duration::ZERO) && self.request_has_settled(now);
        let requested = requested.then(|| requests::all(self.dir()));
        let full = self.full_run_in(now, SystemTime::now()).is_zero();
        plan::plan(dirty, requested, full, new_on_server)
    }

    /// A request in the background often comes from mutt, about to write its folder.
    fn request_has_settled(&self, now: Duration) -> bool {
        let settle = self.context.settings.settle;
        self.requested.is_none_or(|requested| now >= requested.settled_at(settle))
            || requests::is_urgent(self.dir())
    }

    /// Takes the account's lock, if nothing forbids a run.
    pub fn start(&mut self, now: Duration) -> Start {
        if self.backend.gate(false, false) != Gate::Open {
            return Start::NotNow;
        }
        if Lock::is_held(&self.dir().file("lock")) {
            // Its end is an event; meanwhile server and disk are still watched.
            self.lock_is_held = true;
            return Start::NotNow;
        }
        match self.backend.lock() {
            Locked::Held => {}
            Locked::Stopped => return Start::Stopped,
            Locked::TooLong | Locked::Unavailable => {
                let trouble = self.backend.take_trouble();
                let held = "another process holds the lock for too long".to_owned();
                self.log.report(&trouble.map_or(held, |failure| failure.to_string()));
                self.lock_is_held = true;
                return Start::NotNow;
            }
        }
        // Another process may have run while we waited for the lock.
        let last = self.last();
        if (last.runs, last.started) != self.last_run {
            self.backend.unlock();
            self.other_ran(now);
            return Start::OtherRan;
        }
        if self.backend.gate(false, false) != Gate::Open {
            self.backend.unlock();
            return Start::NotNow;
        }
        Start::Ready
    }

    /// Puts what is to be run on disk, where the run takes it from.
    pub fn submit(&mut self, plan: &RunPlan) {
        self.log.say(|| format!("syncing: {}", plan.why.join(", ")));
        self.backend.submit(&self.context.account.canonical(&plan.new_requests), false);
    }

    /// Runs mbsync, over `connection` if it can be lent; with the lock held, which is
    /// given up. Also returns what became of the connection, if it was offered.
    pub fn run(&mut self, connection: Option<&mut Client>) -> (RunReport, Option<LeaseOutcome>) {
        let may_lend = self.context.settings.handover && self.leases.allow_another();
        let (report, outcome) =
            self.backend.run_by(|attempt, lock| match connection.filter(|_| may_lend) {
                Some(client) => {
                    let (ended, outcome) = Lease::run(client, attempt, lock);
                    (ended, Some(outcome))
                }
                None => (attempt.run(lock, None), None),
            });
        self.backend.unlock();
        (report, outcome.flatten())
    }

    /// A run of ours has ended.
    pub fn ran(&mut self, targets: &BTreeSet<Target>, report: &RunReport, now: Duration) {
        self.note_last_run();
        self.run_ended = now;
        self.requested = None;
        if targets.contains(&Target::Account) {
            self.full_tried = Some(now);
        }
        let name = &self.context.account.name;
        match report.ended.exit {
            ExitStatus::Done if self.verbose => {
                print(&format!("{name}: {}", summary_line(&report.changes, report.took)));
            }
            ExitStatus::Done | ExitStatus::Signal(_) => {}
            exit if exit.is_passing() && self.only_permanent_errors => {}
            _ => print(&format!("mutt-sync: {name}: {}", report.ended.text)),
        }
    }

    /// When a run is due without an event. `needed`: a mailbox needs one now.
    pub fn next_due(&mut self, needed: bool, now: Duration) -> Duration {
        let settle = self.context.settings.settle;
        // Whole seconds on the wall clock: not before they have passed.
        let mut due =
            if needed { Duration::ZERO } else { self.full_run_in(now, SystemTime::now()) };
        if let Some(request) = self.backend.next_due() {
            let settled = self.requested.map_or(now, |requested| requested.settled_at(settle));
            due = due.min(if request.is_zero() { settled.saturating_sub(now) } else { request });
        }
        let gate = match self.backend.gate(false, false) {
            Gate::Open => Duration::ZERO,
            Gate::Throttled(wait) | Gate::BackingOff(wait) => wait,
        };
        let least = if self.lock_is_held { TRY_LOCK } else { Duration::from_millis(10) };
        now + due.max(gate).max(least)
    }

    /// A request that came while other processes still saw a waiter.
    pub fn recheck_after_release(&mut self) {
        scheduler::recheck_after_release(&mut self.backend);
    }

    /// Counts what became of the connection that was offered to a run. Returns how it
    /// came back, if it was taken.
    pub fn note_lease<'r>(&mut self, outcome: &'r LeaseOutcome) -> Option<&'r Returned> {
        self.leases.record(outcome);
        let returned = match outcome {
            LeaseOutcome::Declined(why) => {
                self.log.say(|| format!("not over the connection that is open: {why}"));
                return None;
            }
            LeaseOutcome::Used(returned) | LeaseOutcome::Failed(_, returned) => returned,
        };
        self.log.say(|| self.leases.to_string());
        Some(returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mbsync_version::IsyncVersion;
    use crate::mbsyncrc::{Config, Env, parse};
    use crate::settings::Settings;
    use crate::state::throttle;
    use std::path::PathBuf;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An account whose mbsync does nothing, and its state directory.
    struct Fixture {
        base: tempfile::TempDir,
        config: Config,
        settings: Settings,
    }

    impl Fixture {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let text = "IMAPAccount Home\nHost localhost\nUser u\nPass p\n\n\
                        IMAPStore far\nAccount Home\n\nMaildirStore near\nPath /nowhere/\n\
                        Inbox /nowhere/INBOX\n\nChannel Home\nFar :far:\nNear :near:\nPatterns *\n";
            let env = Env::new(base.path(), base.path());
            let file = base.path().join("rc");
            let config = parse(text.as_bytes(), &file, &env, IsyncVersion::V1_4).unwrap();
            let mbsync = PathBuf::from("true");
            let settings = Settings { mbsync, settle: s(1), every: s(900), ..Settings::default() };
            Fixture { base, config, settings }
        }

        fn runner(&self) -> Runner<'_> {
            let context = AccountContext {
                config: &self.config,
                account: &self.config.accounts[0],
                settings: &self.settings,
                settings_file: None,
                base: self.base.path(),
            };
            let log = Rc::new(Log::new("Home", false));
            let mut runner =
                Runner::open(context, Shutdown::never().unwrap(), false, false, log).unwrap();
            runner.note_last_run();
            runner
        }
    }

    fn whole() -> BTreeSet<Target> {
        BTreeSet::from([Target::Account])
    }

    fn note(dir: &StateDir, run: &LastRun) {
        dir.write_json(last_run::FILE, run).unwrap();
    }

    #[test]
    fn g8_a_full_run_is_due_by_the_clock_and_never_later_than_every() {
        let account = Fixture::new();
        let mut runner = account.runner();
        let wall = |at: u64| SystemTime::UNIX_EPOCH + s(at);
        assert_eq!(runner.full_run_in(s(10), wall(5000)), Duration::ZERO, "never synced");
        let run = LastRun { last_whole: Some(5000), ..LastRun::default() };
        note(runner.dir(), &run);
        assert_eq!(runner.full_run_in(s(10), wall(5100)), s(800));
        assert_eq!(runner.full_run_in(s(10), wall(5900)), Duration::ZERO);
        // The clock was set back: the time of the last run is not used.
        assert_eq!(runner.full_run_in(s(10), wall(1000)), Duration::ZERO);
        // One that was tried here is not tried again at once, whatever the files say.
        runner.full_tried = Some(s(10));
        assert_eq!(runner.full_run_in(s(110), wall(5900)), s(800));
    }

    #[test]
    fn a_request_is_run_once_it_has_settled() {
        let account = Fixture::new();
        let mut runner = account.runner();
        let now = seconds(SystemTime::now());
        note(runner.dir(), &LastRun { last_whole: Some(now), ..LastRun::default() });
        assert_eq!(runner.plan(vec![], false, s(10)), None);
        requests::submit(runner.dir(), &whole(), false).unwrap();
        runner.note_request(s(10));
        assert_eq!(runner.plan(vec![], false, s(10)), None, "mutt may still be writing");
        assert_eq!(runner.next_due(false, s(10)), s(11));
        let plan = runner.plan(vec![], false, s(11)).unwrap();
        assert_eq!((plan.targets, plan.new_requests.len()), (whole(), 0));
        requests::submit(runner.dir(), &whole(), true).unwrap();
        assert!(runner.plan(vec![], false, s(10)).is_some(), "--force does not wait");
    }

    #[test]
    fn a_run_serves_the_request_and_is_known_as_ours() {
        let account = Fixture::new();
        let mut runner = account.runner();
        requests::submit(runner.dir(), &whole(), false).unwrap();
        let plan = runner.plan(vec![], false, s(10)).unwrap();
        assert_eq!(runner.start(s(10)), Start::Ready);
        runner.submit(&plan);
        let (report, outcome) = runner.run(None);
        assert_eq!(report.ended.exit, ExitStatus::Done, "{report:?}");
        assert!(outcome.is_none());
        runner.ran(&plan.targets, &report, s(12));
        assert!(requests::all(runner.dir()).is_empty() && !runner.other_ran(s(13)));
        assert!(!runner.is_quiet(s(12) + ECHO) && runner.is_quiet(s(13) + ECHO));
        let settled = runner.full_run_in(s(12), SystemTime::now());
        assert!(settled > s(890), "{settled:?}");
    }

    #[test]
    fn g3_nothing_starts_while_another_run_holds_the_lock_or_has_just_ended() {
        let account = Fixture::new();
        let mut runner = account.runner();
        let lock = Lock::try_take(&runner.dir().file("lock")).unwrap();
        assert_eq!(runner.start(s(10)), Start::NotNow);
        assert!(!runner.is_quiet(s(10)));
        assert_eq!(runner.next_due(true, s(10)), s(11), "its end may go unreported");
        drop(lock);
        note(runner.dir(), &LastRun { runs: 7, ..LastRun::default() });
        assert_eq!(runner.start(s(10)), Start::OtherRan);
        assert_eq!(runner.start(s(10)), Start::Ready);
    }

    #[test]
    fn g10_g12_throttle_and_backoff_close_the_gate() {
        let account = Fixture::new();
        let mut runner = account.runner();
        let failure = Error::new(ExitStatus::Denied, "login refused");
        let wait = runner.record_failure(&failure, SystemTime::now());
        assert!(wait > s(80), "{wait:?}");
        assert_eq!(runner.start(s(10)), Start::NotNow);
        assert!(runner.next_due(true, s(10)) > s(80));
        runner.login_works();
        assert!(runner.backoff().is_none());
        assert_eq!(runner.start(s(10)), Start::Ready);
        runner.backend.unlock();
        let ahead = SystemTime::now() + s(600);
        throttle::set_stamp(runner.dir(), ahead).unwrap();
        assert_eq!(runner.start(s(10)), Start::NotNow);
    }

    #[test]
    fn three_runs_that_fail_over_the_lent_connection_end_the_lending() {
        let account = Fixture::new();
        let mut runner = account.runner();
        let failed = LeaseOutcome::Failed("no".into(), Returned::Whole);
        for _ in 0..2 {
            assert!(matches!(runner.note_lease(&failed), Some(Returned::Whole)));
        }
        let used = LeaseOutcome::Used(Returned::Whole);
        assert!(matches!(runner.note_lease(&used), Some(Returned::Whole)));
        for _ in 0..3 {
            assert!(runner.leases.allow_another());
            runner.note_lease(&failed);
        }
        assert!(!runner.leases.allow_another());
        assert!(runner.note_lease(&LeaseOutcome::Declined("no".into())).is_none());
    }
}
