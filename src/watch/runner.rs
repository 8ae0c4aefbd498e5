//! Runs of mbsync for the waiter: what calls for one, what forbids it (gate and
//! lock), and what came of it.
//!
//! Knows the account's state directory. Does not depend on: the connection's
//! events, inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::log::{Log, LogLevel, print};
use super::mailbox::Debounce;
use crate::error::{Error, ErrorKind, ExitStatus};
use crate::imap::Client;
use crate::lend::{Lease, LeaseOutcome, LeaseStats, Returned, RunMailboxes};
use crate::model::uid_set::UidSet;
use crate::model::{Mailbox, Target};
use crate::os::clock;
use crate::os::signals::Shutdown;
use crate::state::StateDir;
use crate::state::backoff::{self, Backoff, seconds};
use crate::state::clean;
use crate::state::last_run::LastRun;
use crate::state::lock::{self, Lock};
use crate::state::refused::RefusedState;
use crate::state::requests;
use crate::survey::far::{FarAccess, FarMessages};
use crate::sync::account::{AccountBackend, Claim, RunOptions, RunReport, release_others};
use crate::sync::context::AccountContext;
use crate::sync::judge::{Attempt, Blind, FarLookup, Judge, Judgement, Question};
use crate::sync::mbsync::RunEnd;
use crate::sync::refused::{self, RetryRefused};
use crate::sync::scheduler::{self, Backend as _, Gate, Locked, Marks, Urgency};
use crate::sync::summary::summary_line;
use crate::text::short;

/// Dovecot reports a change half a second later, sometimes twice: what it reports
/// within this time after a run may be an echo of the run.
pub const ECHO: Duration = Duration::from_secs(3);
/// The kernel reports the end of another process's run; this is for the case that
/// it did not.
const TRY_LOCK: Duration = Duration::from_secs(1);
/// For so long a request is left to the command that waits for it.
const LEFT: Duration = Duration::from_secs(1);

/// So often requests are judged, in the long run.
const QUESTION_EVERY: Duration = Duration::from_secs(1);
/// So much of that at once.
const QUESTIONS: Duration = Duration::from_secs(4);

/// A run that was decided on, over the waiter's connection if there is one.
struct Lending<'r> {
    context: AccountContext<'r>,
    client: Option<&'r mut Client>,
    needed: &'r BTreeSet<Target>,
    /// What is gone on the server, by key; of those that are to be run it has each that
    /// was judged.
    gone: &'r BTreeMap<String, UidSet>,
    /// What is known of the mailboxes, for a run.
    mailboxes: RunMailboxes,
    far: FarMessages,
    /// Else it is only asked.
    may_lend: bool,
    outcome: Option<LeaseOutcome>,
}

impl std::fmt::Debug for Lending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lending").field("needed", self.needed).finish()
    }
}

impl Judge for Lending<'_> {
    fn logs_in(&self) -> bool {
        self.client.is_none() || !self.may_lend
    }

    fn names_nested(&self) -> bool {
        let has = |client: &&mut Client| client.capabilities().namespace();
        self.may_lend || self.client.as_ref().is_none_or(has)
    }

    fn bytes(&self) -> u64 {
        self.outcome.as_ref().map_or(0, LeaseOutcome::bytes)
    }

    fn judge(&mut self, _: &Question<'_>) -> Judgement {
        Judgement::Run(self.needed.clone())
    }

    fn gone_there(&self, mailbox: &Mailbox) -> Option<UidSet> {
        self.gone.get(&clean::key(mailbox)).cloned()
    }

    fn far_side(&mut self) -> Option<Box<dyn FarLookup + '_>> {
        let client = self.client.as_deref_mut()?;
        let (messages, context) = (&mut self.far, self.context);
        Some(Box::new(FarAccess { messages, client, context, watched: true }))
    }

    fn run(&mut self, attempt: &Attempt<'_>, lock: &mut Lock) -> RunEnd {
        let lent = self.client.as_deref_mut().filter(|_| self.may_lend);
        let Some(client) = lent else { return attempt.run(lock, None) };
        let mailboxes = std::mem::take(&mut self.mailboxes);
        let (ended, outcome) = Lease::run(client, attempt, lock, mailboxes);
        self.outcome = Some(outcome);
        ended
    }
}

pub struct Runner<'a> {
    context: AccountContext<'a>,
    backend: AccountBackend<'a>,
    leases: LeaseStats,
    /// When a request was first noticed.
    requested: Option<Debounce>,
    /// When a run under the account's lock last ended, ours or another's.
    run_ended: Duration,
    /// Number and start of the last run.
    last_run: (u64, u64),
    /// When a comparison or run of everything was last tried.
    full_tried: Option<Duration>,
    /// Before this, no request is judged.
    questions_from: Duration,
    /// Until then a request is left to the command that waits for its answer.
    left_until: Duration,
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
        log: Rc<Log>,
    ) -> Result<Self, Error> {
        let verbose = log.level() == LogLevel::Decisions;
        let options = RunOptions { verbose, ..RunOptions::in_background(context.settings) };
        Ok(Runner {
            context,
            backend: AccountBackend::open(context, shutdown, options, Box::new(Blind))?,
            leases: LeaseStats::default(),
            requested: None,
            run_ended: Duration::ZERO,
            last_run: (0, 0),
            full_tried: None,
            questions_from: Duration::ZERO,
            left_until: Duration::ZERO,
            lock_is_held: false,
            log,
        })
    }

    pub fn dir(&self) -> &StateDir {
        self.backend.dir()
    }

    fn last(&self) -> LastRun {
        LastRun::read(self.dir())
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
        now.saturating_sub(self.run_ended) > ECHO && !self.dir().is_locked(lock::RUN)
    }

    pub fn backoff(&self) -> Option<Backoff> {
        Backoff::read(self.dir())
    }

    pub fn clear_backoff(&self) {
        let _ = self.dir().remove(backoff::FILE);
    }

    /// A connection failed: the backoff on disk, which is also that of runs. `first`: what
    /// failed before does not count.
    pub fn record_failure(&self, failure: &Error, first: bool, wall: SystemTime) -> Duration {
        let policy = self.context.settings.backoff_policy();
        let mut earlier = self.backoff();
        if let Some(earlier) = earlier.as_mut().filter(|_| first) {
            earlier.failures = 0;
        }
        let (exit, costly, text) = (failure.status, failure.costly, &failure.to_string());
        let retry = policy.after(earlier.as_ref(), exit, costly, text, wall, clock::jitter());
        let wait = policy.wait(Some(&retry), wall);
        let password_command = failure.kind == ErrorKind::PasswordCommand;
        let retry = Backoff { password_command, ..retry };
        if self.dir().write_json(backoff::FILE, &retry).is_err() {
            self.log.say(|| "the backoff could not be written".into());
        }
        self.log.report_failure(failure, Some(wait));
        self.log.say(|| format!("{text}; again in {}", short(wait)));
        wait
    }

    /// Whether something failed of which another try costs nobody anything: the server was
    /// not reached, or another one was, as in a network that wants a login of its own.
    pub fn is_free_to_try(&self) -> bool {
        let free = [ExitStatus::Offline, ExitStatus::Denied].map(ExitStatus::code);
        self.backoff().is_some_and(|backoff| free.contains(&backoff.code) && !backoff.costly)
    }

    /// The login works: the cause of the backoff is gone, and the requests that
    /// failed for it are due now.
    pub fn login_works(&mut self) {
        if let Some(backoff) = self.backoff() {
            release_others(self.context, &backoff);
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

    /// What the timer asks for. `connected`: everything can be compared.
    fn timer(&self, connected: bool, now: Duration, wall: SystemTime) -> TimerDue {
        let settings = self.context.settings;
        let tried = self.full_tried.is_some_and(|at| now < at + settings.every);
        let run_is_due =
            !tried && self.last().full_is_due(settings.full_every, settings.every, wall);
        if run_is_due || !connected && self.full_run_in(now, wall).is_zero() {
            TimerDue::FullRun
        } else if self.full_run_in(now, wall).is_zero() {
            TimerDue::Compare
        } else {
            TimerDue::No
        }
    }

    /// What to do now, if anything. `connected`: the server can be asked.
    pub fn plan(
        &mut self,
        dirty: Vec<(Target, String)>,
        new_on_server: Vec<Target>,
        connected: bool,
        now: Duration,
    ) -> Option<RunPlan> {
        self.lock_is_held = false;
        let dirty = self.with_refused(dirty);
        let requested = self.backend.next_due() == Some(Duration::ZERO)
            && self.request_has_settled(now)
            && (!connected || now >= self.questions_from)
            && now >= self.left_until;
        plan(dirty, new_on_server, requested, self.timer(connected, now, SystemTime::now()))
    }

    /// The mailboxes to run for, with those that are tried again: freed quota shows on
    /// neither side.
    fn with_refused(&self, mut dirty: Vec<(Target, String)>) -> Vec<(Target, String)> {
        let state = RefusedState::read(self.dir());
        for key in state.due(SystemTime::now()) {
            let mailbox = clean::mailbox(self.context.account, key);
            dirty.extend(mailbox.map(|mailbox| {
                let why = format!("{} trying again what was refused", mailbox.near);
                (mailbox.target(), why)
            }));
        }
        dirty
    }

    /// A request in the background often comes from mutt, about to write its folder.
    fn request_has_settled(&self, now: Duration) -> bool {
        let settle = self.context.settings.settle;
        self.requested.is_none_or(|requested| now >= requested.settled_at(settle))
            || requests::is_urgent(self.dir())
            || requests::is_foreground(self.dir())
    }

    fn lends(&self) -> bool {
        self.context.settings.handover && self.leases.allow_another()
    }

    /// Whether runs are made over a connection that is open, as far as is known.
    pub fn expects_lease(&self) -> bool {
        self.lends() && !self.leases.are_all_declined()
    }

    /// Whether there is a connection for a run.
    pub fn set_connected(&mut self, connected: bool) {
        let lends = self.lends();
        self.backend.set_connected(connected && lends);
    }

    /// We have logged in, and not for a run.
    pub fn count_login(&self) {
        self.backend.limits().count_login(false);
    }

    /// How long until another process may log in.
    pub fn login_wait(&self) -> Duration {
        self.backend.limits().login_wait(SystemTime::now())
    }

    /// Whether a run may start.
    pub fn gate(&mut self) -> Gate {
        self.backend.gate(Urgency::Usual)
    }

    /// Takes the account's lock.
    pub fn start(&mut self, now: Duration) -> Start {
        if self.dir().is_locked(lock::RUN) {
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
        Start::Ready
    }

    /// Puts what is to be run on disk, where a killed run leaves it to the next.
    pub fn submit(&mut self, plan: &RunPlan) {
        self.log.say(|| format!("syncing: {}", plan.why.join(", ")));
        let full = plan.timer == TimerDue::FullRun;
        let marks = Marks { full, ..Marks::default() };
        self.backend.submit(&self.context.account.widened(&plan.dirty), marks);
        self.backend.retry_refused(if full { RetryRefused::All } else { RetryRefused::Due });
    }

    /// Claims the requests, with the lock held.
    pub fn claim(&mut self, now: Duration) -> Claim {
        self.questions_from =
            self.questions_from.max(now.saturating_sub(QUESTIONS)) + QUESTION_EVERY;
        self.requested = None;
        self.backend.claim()
    }

    /// Of what is asked for, what is to be tried again because it was refused.
    pub fn refused_among(&self, targets: &BTreeSet<Target>, claim: &Claim) -> BTreeSet<Target> {
        refused::to_try_again(self.dir(), self.context, targets, claim.retry)
    }

    /// Gives claimed requests back, and the lock up. They are judged again after `wait`
    /// at the soonest.
    pub fn unclaim(&mut self, claim: &Claim, wait: Duration, now: Duration) {
        self.backend.unclaim(claim);
        self.backend.unlock();
        self.questions_from = self.questions_from.max(now + wait);
    }

    /// Everything was compared, and what it found is known: when the gate opens that is run
    /// for, and not compared again.
    pub fn note_compared(&mut self, now: Duration) {
        self.full_tried = Some(now);
    }

    /// Gives back claimed requests that could not be judged. A command that waits for the
    /// answer takes the lock now, and judges over a connection of its own.
    pub fn leave_to_command(&mut self, claim: &Claim, now: Duration) {
        self.unclaim(claim, Duration::ZERO, now);
        if claim.marks.foreground {
            self.left_until = now + LEFT;
        }
    }

    /// Nothing differs in what was asked for. `complete`: nothing differs in the account,
    /// compared without short cuts.
    pub fn in_sync(&mut self, claim: &Claim, complete: bool, now: Duration) {
        self.log.say(|| "nothing to do".into());
        self.backend.serve_in_sync(claim, complete);
        self.backend.unlock();
        if complete {
            self.full_tried = Some(now);
        }
    }

    /// Runs mbsync for what is needed, over `connection` if it can be lent; with the
    /// lock held, which is given up. Also returns what became of the connection, if it
    /// was offered, and whether the guard has asked the server over it: reports of other
    /// mailboxes may have come with the answers.
    pub fn run(
        &mut self,
        mut claim: Claim,
        needed: &BTreeSet<Target>,
        connection: Option<&mut Client>,
        gone: &BTreeMap<String, UidSet>,
        mailboxes: RunMailboxes,
    ) -> (RunReport, Option<LeaseOutcome>, bool) {
        // What a comparison has found was no request.
        for target in needed {
            claim.claimed.entry(target.clone()).or_default();
        }
        let may_lend = self.lends();
        let mut lending = Lending {
            context: self.context,
            client: connection,
            may_lend,
            needed,
            gone,
            mailboxes,
            far: FarMessages::default(),
            outcome: None,
        };
        let report = self.backend.serve(claim, &mut lending);
        self.backend.unlock();
        (report, lending.outcome, lending.far.is_asked())
    }

    /// A run of ours has ended.
    pub fn ran(&mut self, targets: &BTreeSet<Target>, report: &RunReport, now: Duration) {
        self.note_last_run();
        self.run_ended = now;
        if targets.contains(&Target::Account) {
            self.full_tried = Some(now);
        }
        // A service's log has a line for each sync, and none for a run that had nothing to do.
        let decided =
            self.log.level() == LogLevel::Decisions && report.ended.exit == ExitStatus::Done;
        if !report.changes.is_empty() || decided {
            self.log.tell(&summary_line(&report.changes, report.took));
        }
        for line in &report.news {
            print(&format!("mutt-sync: {line}"));
        }
        match report.ended.exit {
            ExitStatus::Done => self.log.run_succeeded(),
            ExitStatus::Signal(_) => {}
            exit => {
                let failure = Error::new(exit, report.ended.text.clone());
                let wait = report.retry.filter(|_| exit != ExitStatus::Config);
                self.log.report_failure(&failure, wait);
            }
        }
    }

    /// When a run or a judgement is due without an event. `needed`: a mailbox needs a run
    /// now.
    pub fn next_due(&mut self, needed: bool, connected: bool, now: Duration) -> Duration {
        let settle = self.context.settings.settle;
        // Whole seconds on the wall clock: not before they have passed.
        let mut run = self.full_run_in(now, SystemTime::now());
        if needed {
            run = Duration::ZERO;
        }
        let exists = |key: &str| clean::mailbox(self.context.account, key).is_some();
        let refused = RefusedState::read(self.dir()).next_due(SystemTime::now(), exists);
        run = run.min(refused.unwrap_or(Duration::MAX));
        let gate = match self.gate() {
            Gate::Open => Duration::ZERO,
            Gate::Throttled(wait) | Gate::BackingOff(wait) => wait,
        };
        let mut due = run.max(gate);
        if let Some(request) = self.backend.next_due() {
            let settled = self.requested.map_or(now, |requested| requested.settled_at(settle));
            let request = request.max(settled.saturating_sub(now));
            let allowed = if connected { self.questions_from.saturating_sub(now) } else { gate };
            let left = self.left_until.saturating_sub(now);
            due = due.min(request.max(allowed).max(left));
        }
        let least = if self.lock_is_held { TRY_LOCK } else { Duration::from_millis(10) };
        now + due.max(least)
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
            LeaseOutcome::Used { returned, .. } | LeaseOutcome::Failed { returned, .. } => returned,
        };
        self.log.say(|| self.leases.to_string());
        Some(returned)
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// What is known to differ.
    pub dirty: BTreeSet<Target>,
    /// Requests are due.
    pub requested: bool,
    /// What the timer asks for.
    pub timer: TimerDue,
    /// Why, in a few words each.
    pub why: Vec<String>,
}

/// What the timer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerDue {
    /// Nothing.
    No,
    /// To compare everything with the record, without short cuts.
    Compare,
    /// A run of everything, whatever differs.
    FullRun,
}

/// What to do: for dirty mailboxes, for those that only the server has, for requests
/// that are due, for the timer.
fn plan(
    dirty: Vec<(Target, String)>,
    new_on_server: Vec<Target>,
    requested: bool,
    timer: TimerDue,
) -> Option<RunPlan> {
    if dirty.is_empty() && new_on_server.is_empty() && !requested && timer == TimerDue::No {
        return None;
    }
    let (mut dirty, mut why): (BTreeSet<Target>, Vec<String>) = dirty.into_iter().unzip();
    if requested {
        why.push("asked for".into());
    }
    match timer {
        TimerDue::No => {}
        TimerDue::Compare => why.push("everything is to be compared".into()),
        TimerDue::FullRun => why.push("a full run is due".into()),
    }
    if !new_on_server.is_empty() {
        why.push("new mailboxes on the server".into());
        dirty.extend(new_on_server);
    }
    if timer == TimerDue::FullRun {
        dirty = BTreeSet::from([Target::Account]);
    }
    Some(RunPlan { dirty, requested, timer, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::state::refused::{RefusedItem, RefusedKind};
    use crate::state::{stamp, throttle};
    use crate::sync::context::tests::Fixture;
    use crate::sync::refused::{self, RetryRefused, RunFacts};
    use crate::sync::settle::QUIET;
    use std::path::PathBuf;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An account whose mbsync does nothing.
    fn fixture() -> Fixture {
        let text = "IMAPAccount Home\nHost localhost\nUser u\nPass p\n\n\
                    IMAPStore far\nAccount Home\n\nMaildirStore near\nPath /nowhere/\n\
                    Inbox /nowhere/INBOX\n\nChannel Home\nFar :far:\nNear :near:\nPatterns *\n";
        let mbsync = PathBuf::from("true");
        let settings = Settings { mbsync, settle: s(1), every: s(900), ..Settings::default() };
        Fixture { settings, ..Fixture::new(text) }
    }

    impl Fixture {
        fn runner(&self) -> Runner<'_> {
            let log = Rc::new(Log::new("Home", LogLevel::Errors));
            let mut runner = Runner::open(self.context(), Shutdown::never().unwrap(), log).unwrap();
            runner.note_last_run();
            runner
        }
    }

    fn urgent() -> Marks {
        Marks { urgent: true, ..Marks::default() }
    }

    fn whole() -> BTreeSet<Target> {
        BTreeSet::from([Target::Account])
    }

    fn note(dir: &StateDir, run: &LastRun) {
        dir.write_json(crate::state::last_run::FILE, run).unwrap();
    }

    #[test]
    fn g8_a_full_run_is_due_by_the_clock_and_never_later_than_every() {
        let account = fixture();
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
    fn a_request_is_due_once_it_has_settled() {
        let account = fixture();
        let mut runner = account.runner();
        let now = seconds(SystemTime::now());
        note(runner.dir(), &LastRun { last_whole: Some(now), ..LastRun::default() });
        assert_eq!(runner.plan(vec![], vec![], true, s(10)), None);
        requests::submit(runner.dir(), &whole(), Marks::default()).unwrap();
        runner.note_request(s(10));
        assert_eq!(runner.plan(vec![], vec![], true, s(10)), None, "mutt may still be writing");
        assert_eq!(runner.next_due(false, true, s(10)), s(10) + QUIET);
        let plan = runner.plan(vec![], vec![], true, s(11)).unwrap();
        assert!(plan.requested && plan.dirty.is_empty());
        for at_once in [urgent(), Marks { foreground: true, ..Marks::default() }] {
            requests::submit(runner.dir(), &whole(), at_once).unwrap();
            assert!(runner.plan(vec![], vec![], true, s(10)).is_some(), "{at_once:?}");
            let _ = runner.dir().remove("urgent");
            let _ = runner.dir().remove("want/=foreground");
        }
    }

    #[test]
    fn requests_are_judged_once_a_second_in_the_long_run() {
        let account = fixture();
        let mut runner = account.runner();
        let now = seconds(SystemTime::now());
        note(runner.dir(), &LastRun { last_whole: Some(now), ..LastRun::default() });
        let mut judged = 0;
        for tenth in 0..200 {
            let at = s(100) + Duration::from_millis(tenth * 100);
            requests::submit(runner.dir(), &whole(), urgent()).unwrap();
            if runner.plan(vec![], vec![], true, at).is_some() {
                assert_eq!(runner.start(at), Start::Ready);
                let claim = runner.claim(at);
                runner.in_sync(&claim, false, at);
                judged += 1;
            }
        }
        assert!((20..=25).contains(&judged), "{judged}");
        assert_eq!(runner.last().runs, 0, "no run is made");
    }

    #[test]
    fn a_run_serves_the_request_and_is_known_as_ours() {
        let account = fixture();
        let mut runner = account.runner();
        requests::submit(runner.dir(), &whole(), Marks::default()).unwrap();
        let plan = runner.plan(vec![], vec![], false, s(10)).unwrap();
        assert_eq!(plan.timer, TimerDue::FullRun, "never synced");
        assert_eq!(runner.start(s(10)), Start::Ready);
        runner.submit(&plan);
        let claim = runner.claim(s(10));
        let (report, outcome, _) =
            runner.run(claim, &whole(), None, &BTreeMap::new(), RunMailboxes::default());
        assert_eq!(report.ended.exit, ExitStatus::Done, "{report:?}");
        assert!(outcome.is_none() && report.ran);
        runner.ran(&whole(), &report, s(12));
        assert!(requests::all(runner.dir()).is_empty() && !runner.other_ran(s(13)));
        assert!(!runner.is_quiet(s(12) + ECHO) && runner.is_quiet(s(13) + ECHO));
        let settled = runner.full_run_in(s(12), SystemTime::now());
        assert!(settled > s(890), "{settled:?}");
    }

    #[test]
    fn g2_what_could_not_be_judged_is_still_asked_for() {
        let account = fixture();
        let mut runner = account.runner();
        let now = seconds(SystemTime::now());
        note(runner.dir(), &LastRun { last_whole: Some(now), ..LastRun::default() });
        let foreground = Marks { foreground: true, ..Marks::default() };
        requests::submit(runner.dir(), &whole(), foreground).unwrap();
        assert_eq!(runner.start(s(10)), Start::Ready);
        let claim = runner.claim(s(10));
        assert!(claim.marks.foreground && claim.targets() == whole());
        runner.unclaim(&claim, s(7), s(10));
        assert!(requests::any_fresh(runner.dir()) && requests::is_foreground(runner.dir()));
        assert_eq!(runner.plan(vec![], vec![], true, s(10)), None, "asked again later");
        assert_eq!(runner.next_due(false, true, s(10)), s(17));
        assert!(runner.plan(vec![], vec![], true, s(17)).is_some());
    }

    #[test]
    fn everything_is_compared_by_the_timer_and_run_once_a_day() {
        let account = fixture();
        let mut runner = account.runner();
        let wall = |at: u64| SystemTime::UNIX_EPOCH + s(at);
        let day = 24 * 3600;
        let run = LastRun { last_whole: Some(day), last_full: Some(3600), ..LastRun::default() };
        note(runner.dir(), &run);
        let timer = |connected, at| runner.timer(connected, s(10), wall(at));
        assert_eq!(timer(true, day + 100), TimerDue::No);
        assert_eq!(timer(true, day + 900), TimerDue::Compare);
        assert_eq!(timer(false, day + 900), TimerDue::FullRun, "nothing to compare with");
        assert_eq!(timer(true, day + 3600), TimerDue::FullRun);
        // What a comparison has found waits for the gate: neither is put off for longer than
        // to the next turn of the timer.
        runner.note_compared(s(10));
        let timer = |now, at| runner.timer(true, now, wall(at));
        assert_eq!(timer(s(11), day + 901), TimerDue::No);
        assert_eq!(timer(s(910), day + 1800), TimerDue::Compare);
        assert_eq!(timer(s(910), day + 3600), TimerDue::FullRun);
    }

    #[test]
    fn g3_nothing_starts_while_another_run_holds_the_lock_or_has_just_ended() {
        let account = fixture();
        let mut runner = account.runner();
        let lock = Lock::try_take(&runner.dir().file(lock::RUN)).unwrap();
        assert_eq!(runner.start(s(10)), Start::NotNow);
        assert!(!runner.is_quiet(s(10)));
        assert_eq!(runner.next_due(true, true, s(10)), s(11), "its end may go unreported");
        drop(lock);
        note(runner.dir(), &LastRun { runs: 7, ..LastRun::default() });
        assert_eq!(runner.start(s(10)), Start::OtherRan);
        assert_eq!(runner.start(s(10)), Start::Ready);
    }

    #[test]
    fn g10_g12_throttle_and_backoff_close_the_gate() {
        let account = fixture();
        let mut runner = account.runner();
        let failure = Error::new(ExitStatus::Denied, "login refused").as_costly();
        let wait = runner.record_failure(&failure, false, SystemTime::now());
        assert!(wait > s(80), "{wait:?}");
        assert!(matches!(runner.gate(), Gate::BackingOff(_)));
        assert!(runner.next_due(true, true, s(10)) > s(80));
        runner.login_works();
        assert!(runner.backoff().is_none());
        assert_eq!(runner.gate(), Gate::Open);
        let ahead = SystemTime::now() + s(600);
        stamp::write(runner.dir(), throttle::FILE, ahead).unwrap();
        assert!(matches!(runner.gate(), Gate::Throttled(_)));
    }

    #[test]
    fn g12_the_network_s_coming_ends_the_backoff_of_what_costs_nobody_anything() {
        let account = fixture();
        let runner = account.runner();
        assert!(!runner.is_free_to_try(), "nothing failed");
        let gone = Error::new(ExitStatus::Offline, "no route");
        let record = |failure: &Error, first| {
            runner.record_failure(failure, first, SystemTime::now());
            (runner.is_free_to_try(), runner.backoff().unwrap().failures)
        };
        assert_eq!(record(&gone, false), (true, 1));
        assert_eq!(record(&gone, false), (true, 2));
        let first = runner.backoff().unwrap().first;
        assert_eq!(record(&gone, true), (true, 1), "the network has come");
        assert_eq!(runner.backoff().unwrap().first, first, "offline since then all the same");
        assert_eq!(record(&gone.clone().as_costly(), false), (false, 2), "a Tunnel");
        let denied = Error::new(ExitStatus::Denied, "certificate refused");
        assert!(record(&denied, false).0, "the password was not told");
        assert!(!record(&denied.as_costly(), false).0, "it was");
        for exit in [ExitStatus::Later, ExitStatus::Mailbox] {
            assert!(!record(&Error::new(exit, "no"), false).0, "{exit:?}");
        }
    }

    #[test]
    fn three_runs_that_fail_over_the_lent_connection_end_the_lending() {
        let account = fixture();
        let mut runner = account.runner();
        let whole = Returned::Whole { mailbox_open: false };
        let (why, returned, bytes) = ("no".to_owned(), whole.clone(), 7);
        let failed = LeaseOutcome::Failed { why, returned, bytes };
        assert_eq!(failed.bytes(), 7);
        for _ in 0..2 {
            assert_eq!(runner.note_lease(&failed), Some(&whole));
        }
        let used =
            LeaseOutcome::Used { returned: whole.clone(), bytes: 0, spared: 0, scans: vec![] };
        assert_eq!(runner.note_lease(&used), Some(&whole));
        for _ in 0..3 {
            assert!(runner.leases.allow_another());
            runner.note_lease(&failed);
        }
        assert!(!runner.leases.allow_another());
        assert!(runner.note_lease(&LeaseOutcome::Declined("no".into())).is_none());
    }

    /// A message was not pushed, long ago.
    fn refuse(dir: &StateDir, key: &str) {
        RefusedState::update(dir, |state| {
            let known = state.mailboxes.entry(key.to_owned()).or_default();
            let (what, at) = (RefusedKind::Push, SystemTime::UNIX_EPOCH);
            known.add(RefusedItem::new(what, 1, 1, "over quota", at));
            known.tried(at, false);
        })
        .unwrap();
    }

    #[test]
    fn g13_what_was_refused_in_a_channel_that_is_gone_keeps_nobody_awake() {
        let account = fixture();
        let mut runner = account.runner();
        let now = seconds(SystemTime::now());
        note(runner.dir(), &LastRun { last_whole: Some(now), ..LastRun::default() });
        for (channel, due) in [("Old", false), ("Home", true)] {
            refuse(runner.dir(), &format!("{channel}\nINBOX"));
            assert_eq!(runner.plan(vec![], vec![], true, s(10)).is_some(), due, "{channel}");
            assert_eq!(runner.next_due(false, true, s(10)) < s(11), due, "{channel}");
        }
    }

    #[test]
    fn g13_a_try_counts_where_there_is_no_maildir_too() {
        let account = fixture();
        let runner = account.runner();
        let due = || RefusedState::read(runner.dir()).due(SystemTime::now()).count();
        refuse(runner.dir(), "Home\nINBOX");
        let channel = BTreeSet::from([Target::Channel("Home".into())]);
        for (retry, left) in [(None, 1), (Some(RetryRefused::Due), 0)] {
            let facts = RunFacts { retry, ..RunFacts::without_run(runner.context, &channel, &[]) };
            refused::note_run(runner.dir(), &facts, SystemTime::now()).unwrap();
            assert_eq!(due(), left, "{retry:?}");
        }
    }

    fn inbox() -> Target {
        Target::Mailbox { channel: "Home".into(), name: "INBOX".into() }
    }

    #[test]
    fn a_run_names_just_what_calls_for_it() {
        let nothing = TimerDue::No;
        assert_eq!(plan(vec![], vec![], false, nothing), None);
        let dirty = vec![(inbox(), "INBOX to push: 1 new".to_owned())];
        let some = plan(dirty.clone(), vec![], false, nothing).unwrap();
        assert_eq!(some.dirty, BTreeSet::from([inbox()]));
        assert_eq!(some.why, ["INBOX to push: 1 new"]);
        let new = Target::Mailbox { channel: "Home".into(), name: "New".into() };
        let both = plan(dirty.clone(), vec![new.clone()], false, nothing).unwrap();
        assert_eq!(both.dirty, BTreeSet::from([inbox(), new]));
        let full = plan(dirty.clone(), vec![], false, TimerDue::FullRun).unwrap();
        assert_eq!(full.dirty, BTreeSet::from([Target::Account]));
        let compared = plan(dirty, vec![], false, TimerDue::Compare).unwrap();
        assert_eq!(compared.dirty, BTreeSet::from([inbox()]));
    }

    #[test]
    fn a_request_is_a_question_and_no_run() {
        let asked = plan(vec![], vec![], true, TimerDue::No).unwrap();
        assert!(asked.dirty.is_empty() && asked.requested && asked.timer == TimerDue::No);
    }
}
