//! The ground that the protocol stands on: an account's state directory, the
//! clock, the lock, and a run of mbsync.
//!
//! Knows what is read and written when, and in which order; decides nothing
//! about when to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::after::{self, Facts};
use super::changes::Snapshot;
use super::classify::Finding;
use super::handover::{Handover, Refusal, Returned};
use super::mbsync::{self, Ended, Job, Prompt};
use super::pause::{self, Changes};
use super::serve::{Gate, Ground, Locked, Paused, Standing};
use crate::account::{Account, Given, Mailbox, Want};
use crate::imap::Link;
use crate::mbsyncrc::{Config, Dialect, MbsyncWords};
use crate::outcome::{Exit, Failure};
use crate::process;
use crate::settings::Settings;
use crate::state::last::{self, Change, Last};
use crate::state::lock::{Leftover, Lock, Wait};
use crate::state::retry::{self, Retry, seconds};
use crate::state::{StateDir, seen, state_failure, throttle, want};
use crate::stop::Stop;
use crate::sys::{Forked, fork_detached};
use crate::verdict::Seen;
use crate::verdict::gone::Gone;
use crate::words::short;

/// How long a child waits out failures before it leaves the request to the next command.
pub const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Stands in the state directory while the waiter holds a connection to lend.
pub const WARM: &str = "warm";

/// How long a foreground command waits for the waiter to take its request.
const HEAD_START: Duration = Duration::from_secs(1);

/// What a command knows of one account.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The whole of `.mbsyncrc`.
    pub config: &'a Config,
    /// The account.
    pub account: &'a Account,
    /// Its settings.
    pub settings: &'a Settings,
    /// The file they come from, if it is not where it usually is.
    pub settings_file: Option<&'a Path>,
    /// Its state directory's parent.
    pub base: &'a Path,
}

/// How a run presents itself.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Where mbsync may ask.
    pub prompt: Prompt,
    /// Show mbsync's own counters.
    pub progress: bool,
    /// Say what is decided, pass on what mbsync says.
    pub verbose: bool,
}

impl Manner {
    /// Of what nobody sits in front of.
    #[must_use]
    pub fn in_background(settings: &Settings) -> Self {
        let prompt = if settings.prompt { Prompt::Environment } else { Prompt::Never };
        Manner { prompt, progress: false, verbose: false }
    }
}

/// One account's ground.
#[derive(Debug)]
pub struct Disk<'a> {
    scene: Scene<'a>,
    dir: StateDir,
    stop: Stop,
    manner: Manner,
    lock: Option<Lock>,
    queue: Option<Lock>,
    /// Requests that could not be written: kept until they are served.
    unwritten: BTreeSet<Want>,
    /// What could not be written of the last run, so that a full disk does not
    /// make a child try for ever.
    untold: Untold,
    /// What to tell the user's commands once the lock is given up.
    facts: Option<Facts>,
    changed: Option<Changes>,
    opened: Instant,
    trouble: Option<Failure>,
}

#[derive(Debug, Default)]
struct Untold {
    retry: Option<Retry>,
    trigger: Option<(i64, i64)>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What came and went.
    pub changes: Vec<Change>,
    /// How long it took.
    pub took: Duration,
    /// Until when nothing is tried again unasked.
    pub retry: Option<Duration>,
    /// What became of the connection, if one was offered.
    pub loan: Option<Loan>,
}

/// What became of a connection that was offered to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loan {
    /// Not taken, and untouched: why.
    Declined(String),
    /// The run was made over it.
    Used(Returned),
    /// It was taken and did not serve, so that the run was made again without
    /// it. Why, and what became of the connection.
    Failed(String, Returned),
}

impl super::serve::Report for Report {
    fn is_hopeless(&self) -> bool {
        self.ended.exit == Exit::Config
    }

    fn stopped(&self) -> bool {
        matches!(self.ended.exit, Exit::Signal(_))
    }
}

impl<'a> Disk<'a> {
    /// The ground of one account; makes its state directory if need be.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open(scene: Scene<'a>, stop: Stop, manner: Manner) -> Result<Self, Failure> {
        let dir = StateDir::open(scene.base, &scene.account.name)?;
        Ok(Disk {
            scene,
            dir,
            stop,
            manner,
            lock: None,
            queue: None,
            unwritten: BTreeSet::new(),
            untold: Untold::default(),
            facts: None,
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

    /// A failure of the ground itself (a lock that cannot be opened), if one came.
    #[must_use]
    pub fn trouble(&self) -> Option<&Failure> {
        self.trouble.as_ref()
    }

    /// The same for who goes on: it is told of once.
    pub fn take_trouble(&mut self) -> Option<Failure> {
        self.trouble.take()
    }

    /// A request could be put neither on disk nor into a child's hands.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.manner.verbose {
            use std::io::Write as _;
            let line = format!("{}: {}", self.scene.account.name, text());
            let _ = writeln!(std::io::stderr(), "{}", crate::words::shown(&line));
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
        trigger(&self.dir, self.scene.settings)
    }

    fn trigger_is_new(&self) -> bool {
        let now = trigger_stamp(&self.trigger());
        now.is_some() && now != self.untold.trigger && now != self.last().trigger
    }

    fn last(&self) -> Last {
        self.dir.read_json(last::FILE).unwrap_or_default()
    }

    fn secrets(&self) -> Vec<&'a str> {
        match self.scene.account.server.as_ref().and_then(|server| server.pass.as_ref()) {
            Some(Given::Text(text)) => vec![text.as_str()],
            _ => vec![],
        }
    }

    /// The mailboxes that a run for these wants may touch.
    fn scope(&self, wants: &BTreeSet<Want>) -> Vec<Mailbox> {
        if wants.iter().all(|want| matches!(want, Want::Mailbox { .. })) {
            return wants.iter().filter_map(|want| self.scene.account.mailbox(want)).collect();
        }
        let mut all = self.scene.config.local_mailboxes(self.scene.account);
        all.retain(|mailbox| wants.iter().any(|want| covers(want, mailbox)));
        all
    }

    /// After the run: requests, backoff and memory say what it came to.
    fn settle(
        &mut self,
        taken: &want::Taken,
        mut run: Last,
        before: &Last,
        ended: &Ended,
    ) -> Option<Duration> {
        let patience = self.scene.settings.patience();
        let now = SystemTime::now();
        run.runs = before.runs + 1;
        run.code = ended.exit.code();
        run.text.clone_from(&ended.text);
        run.last_success = before.last_success;
        run.last_whole = before.last_whole;
        let mut wait = None;
        match ended.exit {
            Exit::Done => {
                run.last_success = Some(seconds(now));
                if run.whole {
                    run.last_whole = run.last_success;
                }
                for want in taken.keys() {
                    let removed = want::served(&self.dir, want);
                    self.note("run", removed);
                }
                self.untold.retry = None;
                let removed = self.dir.remove(retry::FILE);
                self.note(retry::FILE, removed);
            }
            // What was taken stays in run/, where the next holder finds it fresh.
            Exit::Signal(_) => run.trigger = before.trigger,
            Exit::Mailbox => {
                // The login worked: the account as a whole is not in trouble.
                self.untold.retry = None;
                let _ = self.dir.remove(retry::FILE);
                let failed = self.failed(taken, &ended.findings);
                for (want, failures) in &failed {
                    let delay = patience.delay(*failures, Exit::Mailbox);
                    wait = wait.max(Some(delay));
                    let put = want::put_back(&self.dir, want, *failures, now, delay);
                    self.note("want", put);
                }
                for want in taken.keys().filter(|want| !failed.contains_key(want)) {
                    let removed = want::served(&self.dir, want);
                    self.note("run", removed);
                }
                if failed.keys().all(|want| matches!(want, Want::Mailbox { .. })) && run.whole {
                    run.last_whole = Some(seconds(now));
                }
            }
            _ => {
                let earlier = self.retry();
                let retry = patience.after(earlier.as_ref(), ended.exit, &ended.text, now, dice());
                wait = Some(patience.wait(Some(&retry), now));
                // Held up by the account's backoff only, which a success elsewhere ends.
                for (want, failures) in taken {
                    let put = want::put_back(&self.dir, want, *failures, now, Duration::ZERO);
                    self.note("want", put);
                }
                let written = self.dir.write_json(retry::FILE, &retry);
                self.untold.retry = written.is_err().then_some(retry);
                self.note(retry::FILE, written);
            }
        }
        let written = self.dir.write_json(last::FILE, &run);
        self.untold.trigger = run.trigger.filter(|_| written.is_err());
        self.note(last::FILE, written);
        wait
    }

    fn retry(&self) -> Option<Retry> {
        self.untold.retry.clone().or_else(|| self.dir.read_json(retry::FILE))
    }

    /// Which requests a run that failed on some mailboxes leaves standing: those
    /// mailboxes, if mbsync named each; else all that it was taken on for.
    fn failed(&self, taken: &want::Taken, findings: &[Finding]) -> want::Taken {
        let all = || taken.iter().map(|(want, failures)| (want.clone(), failures + 1)).collect();
        let wants: BTreeSet<Want> = taken.keys().cloned().collect();
        let scope = self.scope(&wants);
        let mut failed = want::Taken::new();
        for finding in findings {
            let Finding::Mailbox { channel: Some(channel), mailbox: Some(name) } = finding else {
                return all();
            };
            let Some(found) = scope.iter().find(|mailbox| {
                mailbox.channel == *channel
                    && [&mailbox.name, &mailbox.far, &mailbox.near].contains(&name)
            }) else {
                return all();
            };
            let want = found.want();
            let failures = taken.get(&want).copied().unwrap_or(0) + 1;
            failed.insert(want, failures);
        }
        if failed.is_empty() { all() } else { failed }
    }
}

impl Ground for Disk<'_> {
    type Report = Report;

    fn demand(&mut self, wants: &BTreeSet<Want>, urgent: bool) -> bool {
        after::mark_echo(&self.dir);
        let written = want::demand(&self.dir, wants, urgent).is_ok();
        if !written {
            // A full disk loses nothing: who cannot write the request carries it.
            self.unwritten.extend(wants.iter().cloned());
        }
        written
    }

    fn standing(&mut self, wants: &BTreeSet<Want>) -> Standing {
        if wants.iter().any(|want| self.unwritten.contains(want)) {
            return Standing::Fresh;
        }
        want::standing(&self.dir, wants)
    }

    fn next_due(&mut self) -> Option<Duration> {
        if !self.unwritten.is_empty() || self.trigger_is_new() {
            return Some(Duration::ZERO);
        }
        want::next_due(&self.dir, self.scene.settings.patience(), SystemTime::now())
    }

    fn any_fresh(&mut self) -> bool {
        !self.unwritten.is_empty() || self.trigger_is_new() || want::any_fresh(&self.dir)
    }

    fn was_denied(&mut self) -> bool {
        self.retry().is_some_and(|retry| Exit::from_code(retry.code) == Exit::Denied)
    }

    fn lock(&mut self) -> Locked {
        let path = self.dir.file("lock");
        let mut moved = None;
        let slice = self.scene.settings.stall + Duration::from_secs(10);
        let holder_lives = || {
            let run = Lock::run_under(&path);
            let now = run.and_then(|run| process::bytes_moved_by_tree(run.pid));
            let lives = now.is_some() && now != moved;
            moved = now;
            lives
        };
        let started = Instant::now();
        match Lock::take(&path, slice, holder_lives, &self.stop) {
            Ok(Wait::Got(mut lock)) => {
                match lock.outlive_leftover(self.scene.settings.stall, &self.stop) {
                    Leftover::Over => {}
                    Leftover::Lives => return Locked::TooLong,
                    Leftover::Stopped => return Locked::Stopped,
                }
                if started.elapsed() > Duration::from_millis(5) {
                    self.say(|| {
                        format!("waited {} for the run under way", short(started.elapsed()))
                    });
                }
                self.lock = Some(lock);
                Locked::Held
            }
            Ok(Wait::TooLong) => Locked::TooLong,
            Ok(Wait::Stopped) => Locked::Stopped,
            Err(error) => {
                self.note("lock", Err(error));
                // What is written nowhere is known to this process alone.
                if self.unwritten.is_empty() { Locked::Unavailable } else { Locked::TooLong }
            }
        }
    }

    fn unlock(&mut self) {
        self.lock = None;
        // Only now: a command that hangs, or that syncs, holds up nobody.
        if let Some(facts) = self.facts.take() {
            facts.tell(self.scene);
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
            // Nobody can hold it: each is his own queue then.
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

    fn head_start(&mut self, wants: &BTreeSet<Want>) {
        // What mbsync says can only be passed on by who runs it.
        if self.manner.verbose || !self.dir.file(WARM).exists() || !self.waiter_is_alive() {
            return;
        }
        let mut changes = Changes::of(&self.dir);
        if want::hasten(&self.dir).is_err() {
            return;
        }
        let until = Instant::now() + HEAD_START;
        while want::is_hastened(&self.dir, wants) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || changes.wait(left, &self.stop) == Paused::Stopped {
                break;
            }
        }
        want::unhasten(&self.dir);
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
                let ours = Stop::on_signals();
                // One that came before the new pipe was in place.
                if let Some(signal) = self.stop.signal() {
                    std::process::exit(128 + i32::from(signal));
                }
                if let Ok(ours) = ours {
                    self.stop = ours;
                }
                self.manner = Manner::in_background(self.scene.settings);
                super::serve::queued(self, PATIENCE);
                std::process::exit(self.stop.signal().map_or(0, |signal| 128 + i32::from(signal)));
            }
            // Several threads cannot fork; a fresh process takes the queue itself.
            Err(_) => {
                self.queue = None;
                self.unwritten.is_empty() && super::child::spawn("queue", self.scene, &[]).is_ok()
            }
        }
    }

    fn gate(&mut self, urgent: bool, impatient: bool) -> Gate {
        if urgent || want::is_urgent(&self.dir) {
            return Gate::Open;
        }
        let settings = self.scene.settings;
        let now = SystemTime::now();
        let backoff = match self.retry() {
            Some(retry) if !impatient => settings.patience().wait(Some(&retry), now),
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
            return changes.wait(at_most, &self.stop);
        }
        // What changed before the watch was set would be missed: look again first.
        self.changed = Some(Changes::of(&self.dir));
        Paused::Over
    }

    fn settle(&mut self) -> Paused {
        pause::sleep(self.scene.settings.settle, &self.stop)
    }

    fn clock(&mut self) -> Duration {
        self.opened.elapsed()
    }

    fn run(&mut self) -> Report {
        self.run_over(None)
    }
}

impl Disk<'_> {
    /// As [`Ground::run`]; mbsync uses this connection if it can.
    pub fn run_over(&mut self, link: Option<&mut Link>) -> Report {
        let Some(mut lock) = self.lock.take() else {
            // Cannot happen: the protocol runs with the lock held.
            return Report {
                ended: Ended {
                    exit: Exit::Later,
                    text: "the lock is not held".into(),
                    findings: vec![],
                    log: None,
                },
                changes: vec![],
                took: Duration::ZERO,
                retry: None,
                loan: None,
            };
        };
        let settings = self.scene.settings;
        let (began, began_at) = (SystemTime::now(), Instant::now());
        let rate = settings.rate();
        let even = rate.spend(throttle::stamp(&self.dir, rate, began), began);
        let stamped = throttle::set_stamp(&self.dir, even);
        self.note("throttle", stamped);

        self.dir.sweep();
        let before = self.last();
        let trigger = trigger_stamp(&self.trigger());
        let (mut taken, unseen) = match want::take(&self.dir, settings.patience(), began) {
            Ok(taken) => (taken, None),
            Err(error) => (want::Taken::new(), Some(error)),
        };
        let is_echo = after::take_echo(&self.dir);
        taken.extend(std::mem::take(&mut self.unwritten).into_iter().map(|want| (want, 0)));
        if trigger.is_some() && trigger != before.trigger {
            taken.entry(Want::Account).or_default();
        }
        let wants: BTreeSet<Want> = taken.keys().cloned().collect();
        let named = self.scene.config.mbsync_words(self.scene.account, &wants);
        let words = named.args();
        // isync 1.5 does not record each deletion.
        let logs = self.scene.config.dialect == Dialect::V1_5;
        let gone: Option<BTreeMap<String, Gone>> =
            if logs { self.dir.read_json(seen::GONE) } else { None };
        let earlier = gone.clone().unwrap_or_default();
        let snapshot = Snapshot::take(self.scope(&wants), self.scene.account, logs, earlier);
        let secrets = self.secrets();
        let program = settings.mbsync.clone();
        let job = Job {
            program: &program,
            file: &self.scene.config.file,
            words: &words,
            prompt: self.manner.prompt,
            progress: self.manner.progress,
            logs,
            verbose: self.manner.verbose,
            stall: settings.stall,
            secrets: &secrets,
        };
        let mut loan = None;
        let ended = if let Some(error) = unseen.filter(|_| wants.is_empty()) {
            let want = self.dir.file("want");
            let failure = state_failure(
                &error,
                &format!("cannot see what is asked for in {}", want.display()),
            );
            Ended { exit: failure.exit, text: failure.text, findings: vec![], log: None }
        } else if named.all || !named.words.is_empty() {
            match link.map(|link| self.run_on_loan(&job, &named, &mut lock, link)) {
                Some((how, ended)) => {
                    loan = Some(how);
                    ended.unwrap_or_else(|| self.run_plainly(&job, &mut lock))
                }
                None => self.run_plainly(&job, &mut lock),
            }
        } else {
            nothing_to_name(&named.unreachable)
        };
        let took = began_at.elapsed();
        let scope = self.scope(&wants);
        let looked = |key: &str| -> Option<Gone> {
            let seen: BTreeMap<String, Seen> = self.dir.read_json(seen::FILE)?;
            seen.get(key)?.gone.clone()
        };
        let (changes, now_gone) = snapshot.changes(&scope, ended.log.as_ref(), &looked);
        // Lost, a deletion is found once more and costs a run.
        if now_gone.is_empty() {
            let _ = self.dir.remove(seen::GONE);
        } else if Some(&now_gone) != gone.as_ref() {
            let _ = self.dir.write_json(seen::GONE, &now_gone);
        }
        after::refresh(&changes, &scope);
        self.facts = Facts::of(settings, &changes, &scope, began, is_echo);
        let run = Last {
            started: millis(began),
            took: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            whole: wants.contains(&Want::Account),
            trigger: trigger.or(before.trigger),
            changes: changes.clone(),
            ..Last::default()
        };
        let retry = self.settle(&taken, run, &before, &ended);
        let cleared = lock.clear();
        self.note("lock", cleared);
        self.lock = Some(lock);
        Report { ended, changes, took, retry, loan }
    }

    fn run_plainly(&self, job: &Job<'_>, lock: &mut Lock) -> Ended {
        self.say(|| format!("running {}", mbsync::command_line(job).join(" ")));
        mbsync::run(job, lock, &self.stop, None)
    }

    /// A run over a connection of ours; no end of it if it has to be made plainly.
    fn run_on_loan(
        &self,
        job: &Job<'_>,
        words: &MbsyncWords,
        lock: &mut Lock,
        link: &mut Link,
    ) -> (Loan, Option<Ended>) {
        let Scene { config, account, .. } = self.scene;
        let mut handover = match Handover::prepare(link, config, account, words) {
            Ok(handover) => handover,
            Err(Refusal::Lost(error)) => {
                let why = error.to_string();
                return (Loan::Failed(why.clone(), Returned::Broken(why)), None);
            }
            Err(refusal) => return (Loan::Declined(refusal.to_string()), None),
        };
        self.say(|| {
            let line = mbsync::command_line(job).join(" ");
            format!("running {line}, over the connection that is open")
        });
        let ended = mbsync::run(job, lock, &self.stop, Some(&mut handover));
        let spoilt = handover.spoilt(ended.exit);
        let returned = handover.given_back();
        match spoilt {
            Some(why) => {
                self.say(|| format!("not over the connection that is open: {why}"));
                (Loan::Failed(why, returned), None)
            }
            None => (Loan::Used(returned), Some(ended)),
        }
    }
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

/// The end of a run that has no words for mbsync, which would take none amiss.
fn nothing_to_name(unreachable: &[String]) -> Ended {
    let (exit, text) = match unreachable {
        // Asked for when .mbsyncrc still had them.
        [] => (Exit::Done, String::new()),
        names => {
            let names = names.join(", ");
            (Exit::Config, format!("mbsync cannot be told to sync {names}; rename it in .mbsyncrc"))
        }
    };
    Ended { exit, text, findings: vec![], log: None }
}

/// Whether serving the want serves the mailbox.
#[must_use]
pub fn covers(want: &Want, mailbox: &Mailbox) -> bool {
    match want {
        Want::Account => true,
        Want::Channel(channel) => *channel == mailbox.channel,
        Want::Mailbox { channel, name } => *channel == mailbox.channel && *name == mailbox.name,
    }
}

/// A number from 0 to 1 that differs between processes and moments.
#[must_use]
pub fn dice() -> f64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mixed = (u64::from(nanos) ^ (u64::from(std::process::id()) << 20))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_precision_loss)]
    let dice = (mixed >> 40) as f64 / (1_u64 << 24) as f64;
    dice
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
