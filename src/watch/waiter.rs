//! The loop that waits for one account.
//!
//! Level-triggered: whatever wakes it, it asks the same questions in the same
//! order, and sleeps only when no answer calls for action. An event says which
//! mailbox to ask about; it never is the answer.
//!
//! What each part knows is its own: [`super::local`], [`super::server`],
//! [`super::mailboxes`], [`super::runner`]. Here they are connected.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, epoll};

use super::connections::{Connections, ServerEvents};
use super::local::{LocalWatcher, WatchPaths};
use super::log::{Log, print};
use super::mailboxes::{BeforeRun, Mailboxes};
use super::plan::RunPlan;
use super::reconnect::Retry;
use super::runner::{ECHO, Runner, Start};
use super::server::ServerWatch;
use super::standby::{self, Standby};
use super::{WaitEnd, WatchOptions};
use crate::error::{Error, ExitStatus, system_text};
use crate::imap::ClientError;
use crate::lend::{LeaseOutcome, Returned};
use crate::mbsyncrc::pattern;
use crate::model::{Mailbox, Target};
use crate::os::clock::{self, Alarm, Jump};
use crate::os::signals::Shutdown;
use crate::os::wait::{self, Cancel};
use crate::state::lock::Lock;
use crate::state::state_failure;
use crate::sync::context::AccountContext;
use crate::text::counted;

/// No sleep is longer.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How often mailboxes are listed again that appear during the listing.
const MOST_LISTINGS: usize = 3;
/// After this many scans on the server, what they have learned is saved.
const SAVE_EVERY: usize = 64;

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
    mailboxes: Mailboxes,
    runner: Runner<'a>,
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
    let log = Rc::new(Log::new(&context.account.name, options.verbose));
    let (verbose, quiet) = (options.verbose, options.only_permanent_errors);
    let runner = Runner::open(context, shutdown.clone(), verbose, quiet, Rc::clone(&log));
    let runner = match runner {
        Ok(runner) => runner,
        Err(failure) => return WaitEnd::Failed(failure),
    };
    let lock = match stand_by(&runner, shutdown, cancel, &log) {
        Ok(lock) => lock,
        Err(end) => return end,
    };
    let waiter = Waiter::new(context, options, is_first, shutdown, cancel, log, runner);
    let mut waiter = match waiter {
        Ok(waiter) => waiter,
        Err(error) => {
            return WaitEnd::Failed(Error::system("cannot wait", &error));
        }
    };
    waiter.config_prints = config_prints;
    waiter.list_mailboxes();
    let end = waiter.run();
    waiter.save();
    let Waiter { server, mut runner, .. } = waiter;
    if !matches!(end, WaitEnd::Stopped(_)) {
        server.close();
    }
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
    let file = runner.dir().file("waiter.lock");
    let on_standby = || log.say(|| "another waiter is running; on standby".into());
    match standby::wait(&file, shutdown, cancel, on_standby) {
        Ok(Standby::Ours { lock, waited }) => {
            if waited {
                log.say(|| "the other waiter has ended".into());
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

impl<'a> Waiter<'a> {
    fn new(
        context: AccountContext<'a>,
        options: &'a WatchOptions<'a>,
        is_first: bool,
        shutdown: &'a Shutdown,
        cancel: &'a Cancel,
        log: Rc<Log>,
        mut runner: Runner<'a>,
    ) -> io::Result<Self> {
        let AccountContext { config, account, settings, .. } = context;
        let (now, version, endless) = (clock::now(), config.version, options.loop_forever);
        runner.note_last_run();
        Ok(Waiter {
            context,
            options,
            is_first,
            shutdown,
            cancel,
            alarm: Alarm::new()?,
            jump: Jump::new().ok(),
            slept: clock::slept(),
            config_prints: Vec::new(),
            local: LocalWatcher::new(Rc::clone(&log), now),
            server: ServerWatch::new(account, settings, version, endless, Rc::clone(&log), now),
            mailboxes: Mailboxes::read(runner.dir(), settings.settle, Rc::clone(&log)),
            runner,
            log,
        })
    }

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
            if self.connect_if_due() || self.scan_server() || self.keep_alive() {
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
            self.runner.note_request(now);
        }
        if events.folders || events.overflow {
            self.local.list_later(now + self.context.settings.settle);
        }
        if self.local.list_is_due(now) {
            self.list_mailboxes();
        }
        self.collect_server_events();
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
        let quiet = !events.changed.is_empty() && self.runner.is_quiet(clock::now());
        for (at, hidden) in &events.changed {
            let status = self.server.statuses().get(*at).copied().flatten();
            self.mailboxes.server_changed(*at, status, *hidden, quiet);
        }
        if events.list_changed {
            self.log.say(|| "mailboxes were created or removed on the server".into());
            self.watch_server();
        }
    }

    /// Lists the account's mailboxes and watches them.
    fn list_mailboxes(&mut self) {
        self.local.listing();
        let mut changed = false;
        let mut found = self.find_mailboxes();
        for _ in 0..MOST_LISTINGS {
            changed |= self.mailboxes.replace(found, self.context.account);
            self.local.watch(&self.watch_paths());
            // One that was created before there was a watch has caused no event.
            found = self.find_mailboxes();
            if self.mailboxes.iter().eq(&found) {
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
    }

    /// The mailboxes that are here now.
    fn find_mailboxes(&self) -> Vec<Mailbox> {
        let AccountContext { config, account, settings, .. } = self.context;
        let mut found = config.local_mailboxes(account);
        found.retain(|mailbox| {
            settings.boxes.is_empty() || pattern::admits(&settings.boxes, &mailbox.name)
        });
        found
    }

    fn watch_paths(&self) -> WatchPaths {
        let state = self.runner.dir().path().to_owned();
        let trigger = self.context.settings.trigger.clone();
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
            if self.local.is_partial() && self.local.retry(&self.watch_paths()) {
                self.mailboxes.rescan_all();
            }
            self.mailboxes.rescan(&self.local.unwatched(self.mailboxes.len()));
        }
        self.mailboxes.scan_near_sides(now)
    }

    /// What to run now, if anything. Scans on the server that are under way come first.
    fn plan(&mut self) -> Option<RunPlan> {
        let now = clock::now();
        if self.mailboxes.is_scanning(now) {
            return None;
        }
        self.runner.plan(self.dirty(), self.is_new_on_server(), now)
    }

    fn dirty(&self) -> Vec<(Target, String)> {
        self.mailboxes.dirty(self.server.statuses())
    }

    /// Whether a run would create mailboxes here.
    fn is_new_on_server(&self) -> bool {
        self.server.only_on_server().is_some_and(|only| self.mailboxes.are_new(only))
    }

    fn sync(&mut self, plan: &RunPlan) -> AfterSync {
        if plan.new_requests.contains(&Target::Account) && self.local.must_list() {
            self.list_mailboxes();
            return AfterSync::Again;
        }
        match self.runner.start(clock::now()) {
            Start::Ready => {}
            Start::NotNow => return AfterSync::Nothing,
            Start::Stopped => return AfterSync::Again,
            Start::OtherRan => {
                self.other_ran();
                return AfterSync::Again;
            }
        }
        self.runner.submit(plan);
        let targets = self.context.account.canonical(&plan.targets);
        let statuses = self.server.statuses();
        let only_on_server = self.server.only_on_server();
        let before = self.mailboxes.before_run(&targets, statuses, only_on_server);
        let was_clean = plan.full && self.dirty().is_empty();
        let (report, lease) = self.runner.run(self.server.lend());
        if let Some(lease) = lease {
            self.take_back(&lease);
        }
        self.runner.ran(&targets, &report, clock::now());
        self.mailboxes.read_gone(self.runner.dir());
        if let ExitStatus::Signal(signal) = report.ended.exit {
            return AfterSync::End(WaitEnd::Stopped(signal));
        }
        let served = matches!(report.ended.exit, ExitStatus::Done | ExitStatus::Mailbox);
        if served {
            self.mailboxes.remember_stuck(&before);
        }
        if served && was_clean && report.changes.iter().any(|change| change.pulled > 0) {
            self.server.check_silence(clock::now() + ECHO);
        }
        self.ask_again(&targets, &before, report.ended.exit == ExitStatus::Done);
        if served && !self.options.loop_forever {
            return AfterSync::End(WaitEnd::Synced);
        }
        AfterSync::Again
    }

    /// The connection that was lent to a run watches again, or is replaced.
    fn take_back(&mut self, lease: &LeaseOutcome) {
        match self.runner.note_lease(lease) {
            Some(Returned::Broken(why)) => {
                self.lost(&ClientError::Lost(Error::new(ExitStatus::Offline, why.clone())));
            }
            // Without a loop it ends with this process.
            Some(Returned::Whole) if self.options.loop_forever => {
                let taken = self.server.connections().map_or(Ok(()), Connections::reattach);
                self.or_lost(taken);
            }
            Some(Returned::Whole) | None => {}
        }
    }

    /// After a run of ours: what it changed is asked about again.
    fn ask_again(&mut self, targets: &BTreeSet<Target>, before: &BeforeRun, well: bool) {
        let synced = self.mailboxes.our_run_ended(before, well);
        if !self.options.loop_forever {
            return;
        }
        if targets.contains(&Target::Account) {
            let before = self.mailboxes.list();
            self.list_mailboxes();
            if before != self.mailboxes.list() {
                // Dovecot reports nothing of a mailbox that was created while the
                // connection was lent, whatever NOTIFY it is given: connect again.
                self.server.restart(clock::now());
                self.mailboxes.disconnected();
            }
        }
        self.refresh(Some(&synced));
    }

    /// Another process has synced: everything is asked again, and its success ends
    /// our backoff.
    fn other_ran(&mut self) {
        self.mailboxes.read_gone(self.runner.dir());
        self.mailboxes.other_run_ended();
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
        let wake = self.next_local(now);
        let login = match self.alarm.set(wake).and_then(|()| self.login_interrupt()) {
            Ok(login) => login,
            Err(error) => {
                self.log.report(&format!("cannot connect: {}", system_text(&error)));
                self.server.wait(self.context.settings.retry, now);
                return false;
            }
        };
        let interrupt = login.interrupt();
        let connected = self.server.connect(&self.mailboxes.list(), &interrupt, clock::now);
        let interrupted = interrupt.is_raised();
        drop(login);
        match connected {
            Ok(()) => self.connected(),
            Err(_) if interrupted => self.server.connect_interrupted(clock::now()),
            Err(failure) => {
                let now = clock::now();
                if self.server.connect_failed(&failure, now) == Retry::BackOff {
                    let wait = self.runner.record_failure(&failure, SystemTime::now());
                    self.server.wait(wait, now);
                }
            }
        }
        self.alarm.acknowledge();
        true
    }

    fn connected(&mut self) {
        self.runner.login_works();
        self.mailboxes.connected(self.server.statuses());
        if let Some(only) = self.server.only_on_server().filter(|only| !only.is_empty()) {
            self.log.say(|| format!("{} mailboxes are only on the server", only.len()));
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

    /// Scans one mailbox on the server. True if there was one.
    fn scan_server(&mut self) -> bool {
        let now = clock::now();
        // A mailbox that changes during every scan is muted with the rest.
        if self.server.muted_until(now).is_some() {
            return false;
        }
        let Some(at) = self.mailboxes.next_far_scan() else { return false };
        let Some(connections) = self.server.connections() else {
            self.mailboxes.disconnected();
            return true;
        };
        match self.mailboxes.scan_far_side(at, connections, clock::now) {
            Ok(true) => {}
            Ok(false) => self.server.record_event(clock::now()),
            Err(error) => {
                self.lost(&error);
                return true;
            }
        }
        if at % SAVE_EVERY == 0 {
            self.save();
        }
        true
    }

    /// Keeps the connection alive as it becomes due. True if something was done.
    fn keep_alive(&mut self) -> bool {
        let now = clock::now();
        let slept = clock::slept();
        let woke = slept.saturating_sub(self.slept) > Duration::from_secs(1);
        self.slept = slept;
        if woke {
            self.log.say(|| "the machine has slept".into());
            // Waking ends every backoff.
            self.runner.clear_backoff();
            self.server.try_now(now);
        }
        match self.server.keep_alive(woke, now) {
            Ok(done) => done || woke,
            Err(error) => {
                self.lost(&error);
                true
            }
        }
    }

    fn save(&mut self) {
        self.mailboxes.save(self.runner.dir());
    }

    /// Sleeps until an event, or until something is due.
    fn sleep(&mut self) {
        match self.server.start_idling(clock::now()) {
            Ok(events) if events.changed.is_empty() && !events.list_changed => {}
            Ok(events) => return self.apply(&events),
            Err(error) => return self.lost(&error),
        }
        let now = clock::now();
        let local = self.next_local(now);
        let deadline = self.server.next_due(now).map_or(local, |server| server.min(local));
        if self.alarm.set(deadline).is_err() {
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        self.poll(now);
        self.alarm.acknowledge();
        if let Some(jump) = &mut self.jump {
            jump.acknowledge();
        }
    }

    fn poll(&self, now: Duration) {
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
        let _ = wait::wait(&mut fds, None, None);
    }

    /// When something is due that has nothing to do with the connection.
    fn next_local(&mut self, now: Duration) -> Duration {
        let needed = !self.dirty().is_empty() || self.is_new_on_server();
        let run = self.runner.next_due(needed, now);
        let others = [self.mailboxes.settled_at(), self.local.next_due()];
        others.into_iter().flatten().fold(run.min(now + DAY), Duration::min)
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
    fn login_interrupt(&self) -> io::Result<LoginInterrupt> {
        let all = self.interrupt()?;
        // Copies: to be removed again they must differ from what is open elsewhere.
        let mut until_login = vec![rustix::io::fcntl_dupfd_cloexec(&self.alarm, 3)?];
        if let Some(local) = self.local.fd() {
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
