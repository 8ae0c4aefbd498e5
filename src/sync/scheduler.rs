//! Single flight: how requests of many processes become few runs, never two at
//! once, none forgotten.
//!
//! The protocol alone, over [`Backend`], so that a test can let any number of
//! processes take their steps in any order and kill them anywhere. Does not
//! depend on: files, clocks, mbsync.
//!
//! The rules:
//!
//! 1. A request is written to disk before anything else happens to it.
//! 2. Only the holder of the account's lock claims requests and runs mbsync. It
//!    claims them before the run starts.
//!    Both sides of the mailboxes are judged after that; mbsync runs for those that
//!    differ, and where none does, the judgement has served the requests.
//! 3. A foreground command waits for the lock itself, and then checks whether its
//!    request is still pending. If not, a judgement or a run that started later has
//!    served it. Where a waiter is alive, it is left the time to claim the request
//!    first: what it knows makes the judgement quick.
//! 4. A background command delegates its request: to the waiter, to the process
//!    that owns the queue, or to a child that it starts as that process. A
//!    request that could not be written to disk is invisible to other processes,
//!    so it always goes to a child.
//! 5. A process that releases the queue (or stops waiting) checks for fresh
//!    requests *after* the release. A request is on disk before its command finds
//!    the queue held; so either the releasing process sees the request, or the
//!    command finds the queue free. A process ended by a signal checks nothing
//!    and starts no child: the next command serves the request.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::Target;
pub use crate::state::requests::{Marks, RequestState};

/// How long a child waits before it tries for a lock again that it did not get.
const LOCK_AGAIN: Duration = Duration::from_secs(30);

/// The world as the protocol sees it: one account's state directory, the clock,
/// mbsync.
pub trait Backend {
    /// The result of a run.
    type Report: RunOutcome;

    /// Puts the requests on disk. False if they cannot be: then only this
    /// process, and a child it starts, know of them.
    fn submit(&mut self, targets: &BTreeSet<Target>, marks: Marks) -> bool;
    /// The state of requests made earlier. Only asked while the lock is held.
    fn request_state(&mut self, targets: &BTreeSet<Target>) -> RequestState;
    /// How long until some request is due; `None` if none is pending.
    fn next_due(&mut self) -> Option<Duration>;
    /// A request is pending that no run has tried to serve.
    fn any_fresh(&mut self) -> bool;
    /// The last run had no password to log in with: it may not have been able to ask for
    /// one. One that the server refuses is refused again.
    fn got_no_password(&mut self) -> bool;

    /// Waits for the account's lock and for the end of a killed holder's run.
    fn lock(&mut self) -> Locked;
    /// Gives the lock up.
    fn unlock(&mut self);
    /// Takes the queue if it is free.
    fn try_queue(&mut self) -> bool;
    /// Gives the queue up.
    fn leave_queue(&mut self);
    /// A waiter is alive, and will see any request on disk.
    fn waiter_is_alive(&mut self) -> bool;
    /// Waits until the waiter has claimed these requests, and no longer than it may take
    /// for that.
    fn await_waiter(&mut self, targets: &BTreeSet<Target>) -> Paused;
    /// Starts a child that takes over the queue if this process held it. False if
    /// there can be none.
    fn leave_child(&mut self) -> bool;

    /// Whether throttle and backoff allow a run now.
    fn gate(&mut self, urgency: Urgency) -> Gate;
    /// Waits; ends early when the account's files change, and may end early
    /// for no reason.
    fn pause(&mut self, at_most: Duration) -> Paused;
    /// Waits the quiet time before a run in the background: mutt may be about to
    /// write.
    fn settle(&mut self) -> Paused;
    /// Time passed since any fixed moment.
    fn clock(&mut self) -> Duration;
    /// Claims what is due, judges it, runs mbsync for what differs, and settles the
    /// requests. With the lock held.
    fn run(&mut self) -> Self::Report;
}

/// The protocol's view of a run.
pub trait RunOutcome {
    /// Trying again cannot help until something is fixed.
    fn is_hopeless(&self) -> bool;
    /// A signal ended it.
    fn stopped(&self) -> bool;
}

/// The end of waiting for the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is ours.
    Held,
    /// Another process held it too long.
    TooLong,
    /// It cannot be opened, and other processes may be able to: a process whose
    /// requests are all on disk leaves them to those.
    Unavailable,
    /// A signal came.
    Stopped,
}

/// The end of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// Time is up, or something changed.
    Over,
    /// A signal came.
    Stopped,
}

/// Whether a run may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Now.
    Open,
    /// After so long: rate limit.
    Throttled(Duration),
    /// After so long: the last runs failed.
    BackingOff(Duration),
}

/// What may hold up a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Throttle and backoff.
    #[default]
    Usual,
    /// A user waits: the throttle alone.
    Impatient,
    /// `--force`: neither.
    Urgent,
}

/// How a request is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// What may hold it up.
    pub urgency: Urgency,
    /// `--block`: stay until served.
    pub block: bool,
    /// How it is to be served, but for what is said here.
    pub marks: Marks,
}

impl RequestOptions {
    fn marks(self) -> Marks {
        let urgent = self.urgency == Urgency::Urgent;
        Marks { urgent, foreground: true, ..self.marks }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome<R> {
    /// A run of ours.
    Ran(R),
    /// A run of another process served it.
    Served,
    /// A run of another process claimed it and failed; it is still pending.
    Failed,
    /// Another process will run it, after about so long.
    Queued(Duration, By),
    /// Not tried: backoff lasts for so long. It is still pending.
    BackingOff(Duration),
    /// Another process held the lock too long. It is still pending.
    LockHeld,
    /// A signal came. It is still pending.
    Stopped,
    /// No process could be started to serve it. It is still pending.
    Stranded,
}

impl<R: RunOutcome> RequestOutcome<R> {
    fn stopped(&self) -> bool {
        match self {
            RequestOutcome::Stopped => true,
            RequestOutcome::Ran(report) => report.stopped(),
            _ => false,
        }
    }
}

/// The process that will serve a queued request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The waiter.
    Waiter,
    /// The process that held the queue already.
    Queue,
    /// A child of ours.
    Child,
}

/// A command in the foreground: sees its request served, unless it is throttled
/// and may not block.
pub fn foreground<B: Backend>(
    backend: &mut B,
    targets: &BTreeSet<Target>,
    options: RequestOptions,
) -> RequestOutcome<B::Report> {
    let shared = backend.submit(targets, options.marks());
    if shared && backend.waiter_is_alive() && backend.await_waiter(targets) == Paused::Stopped {
        return RequestOutcome::Stopped;
    }
    let mut queue = false;
    let outcome = run_until_served(backend, targets, options, shared, &mut queue);
    if queue {
        backend.leave_queue();
        if !outcome.stopped() {
            recheck_after_release(backend);
        }
    }
    outcome
}

fn run_until_served<B: Backend>(
    backend: &mut B,
    targets: &BTreeSet<Target>,
    options: RequestOptions,
    shared: bool,
    queue: &mut bool,
) -> RequestOutcome<B::Report> {
    loop {
        match backend.lock() {
            Locked::Held => {}
            Locked::TooLong | Locked::Unavailable => return RequestOutcome::LockHeld,
            Locked::Stopped => return RequestOutcome::Stopped,
        }
        let early = match backend.request_state(targets) {
            RequestState::Served => Some(RequestOutcome::Served),
            // Not tried again by each of fifty: one failure answers all.
            RequestState::Failed => Some(RequestOutcome::Failed),
            RequestState::Fresh => None,
        };
        // The run that failed may have had no user to ask for the password: a
        // key pressed in front of a terminal is not answered by its failure.
        let asks_itself = matches!(early, Some(RequestOutcome::Failed))
            && options.urgency != Urgency::Usual
            && backend.got_no_password();
        let wait = match backend.gate(options.urgency) {
            Gate::Open => Duration::ZERO,
            Gate::Throttled(wait) => wait,
            Gate::BackingOff(wait) => {
                backend.unlock();
                return early.unwrap_or(RequestOutcome::BackingOff(wait));
            }
        };
        if (early.is_none() || asks_itself) && wait.is_zero() {
            if asks_itself {
                // The failure has marked it to wait; asked for again, it is taken now.
                backend.submit(targets, options.marks());
            }
            let report = backend.run();
            backend.unlock();
            return RequestOutcome::Ran(report);
        }
        backend.unlock();
        if let Some(outcome) = early {
            return outcome;
        }
        if !options.block {
            return delegate(backend, wait, shared);
        }
        *queue = *queue || backend.try_queue();
        if backend.pause(wait) == Paused::Stopped {
            return RequestOutcome::Stopped;
        }
    }
}

/// A command in the background: ensures that some process will serve the request.
pub fn background<B: Backend>(
    backend: &mut B,
    targets: &BTreeSet<Target>,
    marks: Marks,
) -> RequestOutcome<B::Report> {
    let shared = backend.submit(targets, marks);
    delegate(backend, Duration::ZERO, shared)
}

fn delegate<B: Backend>(
    backend: &mut B,
    wait: Duration,
    shared: bool,
) -> RequestOutcome<B::Report> {
    if shared && backend.waiter_is_alive() {
        return RequestOutcome::Queued(wait, By::Waiter);
    }
    if shared && !backend.try_queue() {
        return RequestOutcome::Queued(wait, By::Queue);
    }
    if backend.leave_child() {
        return RequestOutcome::Queued(wait, By::Child);
    }
    backend.leave_queue();
    RequestOutcome::Stranded
}

/// The process that owns the queue: waits, serves, checks again, ends. It waits
/// out failures for about `patience` in all.
pub fn run_queue_owner<B: Backend>(backend: &mut B, patience: Duration) {
    loop {
        // Once more for each request that came too late for the last check: its
        // command found the queue held and started no child.
        let going = drain_queue(backend, patience);
        backend.leave_queue();
        if going == Going::AtOnce || !backend.any_fresh() || !backend.try_queue() {
            return;
        }
    }
}

/// Whether the queue's owner checks once more after releasing it.
#[derive(PartialEq, Eq)]
enum Going {
    AtOnce,
    WhenNothingIsFresh,
}

fn drain_queue<B: Backend>(backend: &mut B, patience: Duration) -> Going {
    let mut left = patience;
    if backend.settle() == Paused::Stopped {
        return Going::AtOnce;
    }
    while let Some(due) = backend.next_due() {
        let (wait, trouble) = match backend.gate(Urgency::Usual) {
            Gate::Open => (due, !due.is_zero()),
            Gate::Throttled(wait) => (wait.max(due), !due.is_zero()),
            Gate::BackingOff(wait) => (wait.max(due), true),
        };
        let before = backend.clock();
        if !wait.is_zero() {
            if trouble && left.is_zero() {
                return Going::WhenNothingIsFresh;
            }
            if backend.pause(wait) == Paused::Stopped {
                return Going::AtOnce;
            }
            if trouble {
                left = left.saturating_sub(backend.clock().saturating_sub(before));
            }
            continue;
        }
        match backend.lock() {
            Locked::Held => {}
            Locked::Stopped | Locked::Unavailable => return Going::AtOnce,
            Locked::TooLong => {
                if left.is_zero() || backend.pause(LOCK_AGAIN) == Paused::Stopped {
                    return Going::AtOnce;
                }
                left = left.saturating_sub(backend.clock().saturating_sub(before));
                continue;
            }
        }
        // Another process may have run while this one waited for the lock.
        if backend.gate(Urgency::Usual) != Gate::Open || backend.next_due() != Some(Duration::ZERO)
        {
            backend.unlock();
            continue;
        }
        let report = backend.run();
        backend.unlock();
        if report.stopped() {
            return Going::AtOnce;
        }
        if report.is_hopeless() {
            return Going::WhenNothingIsFresh;
        }
    }
    Going::WhenNothingIsFresh
}

/// Rule 5, for a process that others relied on.
pub fn recheck_after_release<B: Backend>(backend: &mut B) {
    if backend.any_fresh() {
        let _ = delegate(backend, Duration::ZERO, true);
    }
}

#[cfg(test)]
mod tests {
    //! States that the model in `tests/verdict/scheduler_model.rs` reaches seldom: each
    //! is set up here, with what follows.

    use super::*;
    use std::collections::VecDeque;

    /// What is answered, one after the other; when nothing is left: served,
    /// open, nothing due, nothing fresh, free, granted.
    #[derive(Default)]
    #[allow(clippy::struct_excessive_bools)]
    struct ScriptedBackend {
        unwritable: bool,
        waiter: bool,
        denied: bool,
        childless: bool,
        request_states: VecDeque<RequestState>,
        due: VecDeque<Duration>,
        fresh: VecDeque<bool>,
        locked: VecDeque<Locked>,
        queue_held: bool,
        gate: VecDeque<Gate>,
        stopped_in_pause: bool,
        report: Came,
        now: Duration,
        done: Vec<&'static str>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    enum Came {
        #[default]
        Well,
        Hopeless,
        Stopped,
    }

    impl RunOutcome for Came {
        fn is_hopeless(&self) -> bool {
            *self == Came::Hopeless
        }

        fn stopped(&self) -> bool {
            *self == Came::Stopped
        }
    }

    impl Backend for ScriptedBackend {
        type Report = Came;

        fn await_waiter(&mut self, _: &BTreeSet<Target>) -> Paused {
            Paused::Over
        }
        fn submit(&mut self, _: &BTreeSet<Target>, _: Marks) -> bool {
            self.done.push("submit");
            !self.unwritable
        }

        fn request_state(&mut self, _: &BTreeSet<Target>) -> RequestState {
            self.request_states.pop_front().unwrap_or(RequestState::Served)
        }

        fn next_due(&mut self) -> Option<Duration> {
            self.due.pop_front()
        }

        fn any_fresh(&mut self) -> bool {
            self.done.push("any_fresh");
            self.fresh.pop_front().unwrap_or(false)
        }

        fn got_no_password(&mut self) -> bool {
            self.denied
        }

        fn lock(&mut self) -> Locked {
            self.done.push("lock");
            self.locked.pop_front().unwrap_or(Locked::Held)
        }

        fn unlock(&mut self) {
            self.done.push("unlock");
        }

        fn try_queue(&mut self) -> bool {
            self.done.push("try_queue");
            !self.queue_held
        }

        fn leave_queue(&mut self) {
            self.done.push("leave_queue");
        }

        fn waiter_is_alive(&mut self) -> bool {
            self.waiter
        }

        fn leave_child(&mut self) -> bool {
            self.done.push("leave_child");
            !self.childless
        }

        fn gate(&mut self, _: Urgency) -> Gate {
            self.gate.pop_front().unwrap_or(Gate::Open)
        }

        fn pause(&mut self, at_most: Duration) -> Paused {
            self.done.push("pause");
            self.now += at_most;
            if self.stopped_in_pause { Paused::Stopped } else { Paused::Over }
        }

        fn settle(&mut self) -> Paused {
            self.done.push("settle");
            Paused::Over
        }

        fn clock(&mut self) -> Duration {
            self.now
        }

        fn run(&mut self) -> Came {
            self.done.push("run");
            self.report
        }
    }

    const SHUT: Gate = Gate::Throttled(Duration::from_secs(5));
    const HOUR: Duration = Duration::from_secs(3600);

    fn asked(script: &mut ScriptedBackend, block: bool) -> RequestOutcome<Came> {
        let urgency = Urgency::Impatient;
        let options = RequestOptions { urgency, block, ..RequestOptions::default() };
        foreground(script, &BTreeSet::from([Target::Account]), options)
    }

    fn in_background(script: &mut ScriptedBackend) -> RequestOutcome<Came> {
        background(script, &BTreeSet::from([Target::Account]), Marks::default())
    }

    /// One that stayed, throttled, and then ran.
    fn stayed(report: Came) -> ScriptedBackend {
        ScriptedBackend {
            request_states: [RequestState::Fresh; 2].into(),
            gate: [SHUT].into(),
            report,
            ..ScriptedBackend::default()
        }
    }

    #[test]
    fn g2_who_stayed_looks_once_more_after_it_left_the_queue() {
        // A request came when the run had taken all others: its maker found the queue held.
        let mut script = stayed(Came::Well);
        script.fresh = [true].into();
        assert_eq!(asked(&mut script, true), RequestOutcome::Ran(Came::Well));
        let done = ["run", "unlock", "leave_queue", "any_fresh", "try_queue", "leave_child"];
        assert_eq!(script.done[script.done.len() - 6..], done);
        let mut script = stayed(Came::Well);
        assert_eq!(asked(&mut script, true), RequestOutcome::Ran(Came::Well));
        assert_eq!(script.done[script.done.len() - 2..], ["leave_queue", "any_fresh"]);
    }

    #[test]
    fn g8_who_is_told_to_stop_looks_at_nothing_and_leaves_nobody() {
        let mut script = stayed(Came::Stopped);
        script.fresh = [true].into();
        assert_eq!(asked(&mut script, true), RequestOutcome::Ran(Came::Stopped));
        assert_eq!(script.done[script.done.len() - 3..], ["run", "unlock", "leave_queue"]);
        let mut script = stayed(Came::Well);
        (script.fresh, script.stopped_in_pause) = ([true].into(), true);
        assert_eq!(asked(&mut script, true), RequestOutcome::Stopped);
        assert_eq!(script.done[script.done.len() - 2..], ["pause", "leave_queue"]);
        for came in [Came::Stopped, Came::Well] {
            let mut script = ScriptedBackend {
                due: [Duration::ZERO; 4].into(),
                fresh: [true].into(),
                report: came,
                ..ScriptedBackend::default()
            };
            run_queue_owner(&mut script, HOUR);
            let looks = script.done.iter().filter(|step| **step == "any_fresh").count();
            assert_eq!(looks == 0, came == Came::Stopped, "{:?}", script.done);
        }
    }

    #[test]
    fn g12_only_who_can_ask_tries_again_after_a_denial() {
        use Urgency::{Impatient, Usual};
        let answered = |denied, urgency, request_states| {
            let mut script = ScriptedBackend {
                denied,
                request_states: VecDeque::from([request_states]),
                ..ScriptedBackend::default()
            };
            let options = RequestOptions { urgency, ..RequestOptions::default() };
            foreground(&mut script, &BTreeSet::from([Target::Account]), options)
        };
        assert_eq!(
            answered(true, Impatient, RequestState::Failed),
            RequestOutcome::Ran(Came::Well)
        );
        assert_eq!(answered(true, Usual, RequestState::Failed), RequestOutcome::Failed);
        assert_eq!(answered(false, Impatient, RequestState::Failed), RequestOutcome::Failed);
        assert_eq!(answered(true, Impatient, RequestState::Served), RequestOutcome::Served);
        assert_eq!(answered(false, Usual, RequestState::Fresh), RequestOutcome::Ran(Came::Well));
    }

    #[test]
    fn g3_what_another_run_has_served_is_not_run_for_again() {
        for block in [false, true] {
            let mut script = ScriptedBackend::default();
            assert_eq!(asked(&mut script, block), RequestOutcome::Served);
            assert!(!script.done.contains(&"run"));
        }
    }

    #[test]
    fn g3_a_denial_is_not_tried_again_while_throttled() {
        let mut script = ScriptedBackend {
            denied: true,
            request_states: [RequestState::Failed].into(),
            gate: [SHUT].into(),
            ..ScriptedBackend::default()
        };
        assert_eq!(asked(&mut script, false), RequestOutcome::Failed);
    }

    #[test]
    fn g2_somebody_looks_after_each_request_in_the_background() {
        let by = |script: &mut ScriptedBackend| in_background(script);
        let queued = |by| RequestOutcome::Queued(Duration::ZERO, by);
        assert_eq!(
            by(&mut ScriptedBackend { waiter: true, ..ScriptedBackend::default() }),
            queued(By::Waiter)
        );
        assert_eq!(
            by(&mut ScriptedBackend { queue_held: true, ..ScriptedBackend::default() }),
            queued(By::Queue)
        );
        assert_eq!(by(&mut ScriptedBackend::default()), queued(By::Child));
        let mut alone = ScriptedBackend { childless: true, ..ScriptedBackend::default() };
        assert_eq!(by(&mut alone), RequestOutcome::Stranded);
        assert_eq!(alone.done, ["submit", "try_queue", "leave_child", "leave_queue"]);
        // Nobody else can see what is not on disk.
        let blind = ScriptedBackend {
            unwritable: true,
            waiter: true,
            queue_held: true,
            ..ScriptedBackend::default()
        };
        let mut blind = blind;
        assert_eq!(by(&mut blind), queued(By::Child));
        assert_eq!(blind.done, ["submit", "leave_child"]);
    }

    #[test]
    fn g2_the_child_begins_anew_for_what_came_too_late_for_its_last_look() {
        let mut script = ScriptedBackend { fresh: [true].into(), ..ScriptedBackend::default() };
        run_queue_owner(&mut script, HOUR);
        let once = ["settle", "leave_queue", "any_fresh"];
        assert_eq!(script.done, [&once[..], &["try_queue"], &once[..]].concat());
        // Unless another process serves it by now.
        let mut script = ScriptedBackend {
            fresh: [true].into(),
            queue_held: true,
            ..ScriptedBackend::default()
        };
        run_queue_owner(&mut script, HOUR);
        assert_eq!(script.done, [&once[..], &["try_queue"]].concat());
    }

    #[test]
    fn the_child_goes_when_nobody_can_help_or_its_patience_is_at_an_end() {
        let runs = |script: &mut ScriptedBackend| {
            run_queue_owner(script, HOUR);
            script.done.iter().filter(|step| **step == "run").count()
        };
        let due = || VecDeque::from([Duration::ZERO; 6]);
        assert_eq!(runs(&mut ScriptedBackend { due: due(), ..ScriptedBackend::default() }), 3);
        let mut hopeless =
            ScriptedBackend { due: due(), report: Came::Hopeless, ..ScriptedBackend::default() };
        assert_eq!(runs(&mut hopeless), 1);
        // A failure is waited out for an hour in all; a throttle as long as it lasts.
        let twice = |gate| {
            let gate = VecDeque::from([gate; 4]);
            ScriptedBackend {
                due: VecDeque::from([Duration::ZERO; 5]),
                gate,
                ..ScriptedBackend::default()
            }
        };
        let mut failing = twice(Gate::BackingOff(HOUR / 2));
        assert_eq!(runs(&mut failing), 0);
        assert_eq!(failing.now, HOUR);
        let mut throttled = twice(Gate::Throttled(HOUR / 2));
        throttled.due.push_back(Duration::ZERO);
        assert_eq!(runs(&mut throttled), 1);
        assert_eq!(throttled.now, HOUR * 2);
        // What failed and waits for its hour is trouble too, throttled or not.
        for gate in [Gate::Open, Gate::Throttled(Duration::ZERO)] {
            let mut waits = twice(gate);
            waits.due = VecDeque::from([HOUR; 4]);
            assert_eq!((runs(&mut waits), waits.now), (0, HOUR));
        }
        // A lock that is not to be had is tried for again, and not without end.
        let locked = VecDeque::from([Locked::TooLong; 1000]);
        let mut held = ScriptedBackend {
            due: [Duration::ZERO; 1000].into(),
            locked,
            ..ScriptedBackend::default()
        };
        assert_eq!((runs(&mut held), held.now), (0, HOUR));
    }

    #[test]
    fn g3_the_child_does_not_run_for_what_was_served_while_it_waited_for_the_lock() {
        let mut served =
            ScriptedBackend { due: [Duration::ZERO].into(), ..ScriptedBackend::default() };
        run_queue_owner(&mut served, HOUR);
        assert_eq!(served.done, ["settle", "lock", "unlock", "leave_queue", "any_fresh"]);
        let gate = VecDeque::from([Gate::Open, SHUT]);
        let mut shut =
            ScriptedBackend { due: [Duration::ZERO].into(), gate, ..ScriptedBackend::default() };
        run_queue_owner(&mut shut, HOUR);
        assert!(!shut.done.contains(&"run"), "{:?}", shut.done);
    }
}
