//! The loop that waits for one account.
//!
//! Level-triggered: whatever wakes it, it asks the same questions again, in the
//! same order, and blocks only when none of them has an answer that calls for
//! action. An event tells which mailbox to ask about; it never is the answer.
//!
//! What follows from what is known stands elsewhere, as values: [`super::boxes`]
//! (each mailbox), [`super::need`] (what to run), [`super::reach`] (when to
//! connect). Here it is put in order.

mod lend;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::boxes::{FarSide, Near, Told, Touched, Watched};
use super::clock::{self, Alarm, Jump};
use super::ears::{Ears, Where};
use super::far::{Far, Plan, RENEW, REPLY, REPLY_AFTER_SLEEP, Rung};
use super::need::{self, Known, Memory, Task};
use super::reach::{Next, Reach};
use super::turn::{self, Turn};
use super::{End, Halt, Manner, look};
use crate::account::{Mailbox, StoreKind, Want};
use crate::imap::{Interrupt, LinkError};
use crate::mbsyncrc::pattern;
use crate::outcome::{Exit, Failure};
use crate::state::last::{self, Last};
use crate::state::lock::Lock;
use crate::state::retry::{self, Retry, seconds};
use crate::state::{seen, want};
use crate::stop::Stop;
use crate::sync::disk::{self, Disk, Scene, covers};
use crate::sync::serve::{self, Gate, Ground as _, Locked};
use crate::sys;
use crate::verdict::{Digest, Finding, Seen};
use crate::words::short;

/// After so long without an event, memory is given back.
const LULL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How often a mailbox that the kernel has no watch for is looked at.
const LOOK_AT_DEAF: Duration = Duration::from_secs(15);
/// Dovecot speaks half a second after a change, sometimes twice: what is heard
/// so long after somebody's run may be its echo.
const ECHO: Duration = Duration::from_secs(3);
/// So many looks are lost at most to who kills us in the midst of them.
const SAVE_EVERY: usize = 64;
/// Looks into several mailboxes lead to one run, if they take no longer together.
const LOOKS: Duration = Duration::from_secs(2);
/// The end of another process's run is told by the kernel; this is for the case
/// that it was not.
const LOOK_AT_LOCK: Duration = Duration::from_secs(1);

/// The waiter of one account.
struct Waiter<'a> {
    scene: Scene<'a>,
    manner: &'a Manner<'a>,
    leads: bool,
    stop: &'a Stop,
    halt: &'a Halt,
    disk: Disk<'a>,
    ears: Option<Ears>,
    alarm: Alarm,
    jump: Option<Jump>,
    boxes: Vec<Watched>,
    seen: BTreeMap<String, Seen>,
    stuck: Memory,
    unsaved: Unsaved,
    far: Option<Far>,
    loans: lend::Loans,
    highest: Rung,
    reach: Reach,
    /// So many attempts to connect in a row were broken off for something more
    /// urgent.
    rushed: u32,
    /// When a request was first noticed.
    requested: Option<Touched>,
    /// When to find mailboxes again, after directories came or went.
    folders_at: Option<Duration>,
    renew_at: Duration,
    sweep_at: Duration,
    /// Since when suspicions are being settled.
    looking_since: Option<Duration>,
    deaf_at: Duration,
    slept: Duration,
    /// When a run under the account's lock last ended, ours or another's.
    run_ended: Duration,
    last_run: (u64, u64),
    /// When a full run was last tried.
    full_tried: Option<Duration>,
    /// Another process holds the account's lock.
    busy: bool,
    /// The server kept silent about something: until when it may still speak,
    /// and how often it had spoken by then.
    doubt: Option<(Duration, u64)>,
    complaints: BTreeSet<String>,
    config_text: Vec<Option<Vec<u8>>>,
}

/// What is to be written before blocking.
#[derive(Default)]
struct Unsaved {
    seen: bool,
    stuck: bool,
}

/// Waits for one account. `leads`: of several threads, this one speaks of what
/// concerns all.
#[must_use]
pub fn wait(scene: Scene<'_>, manner: &Manner<'_>, leads: bool, stop: &Stop, halt: &Halt) -> End {
    match begin(scene, manner, leads, stop, halt) {
        Err(failure) => End::Failed(failure),
        Ok(Err(end)) => end,
        Ok(Ok((waiting, mut waiter))) => {
            let end = waiter.run();
            waiter.save();
            waiter.tell_warm(false);
            if let Some(far) = waiter.far.take() {
                if !matches!(end, End::Stopped(_)) {
                    far.close();
                }
            }
            drop(waiting);
            // A request that came while we were still believed to wait. Who ends us by
            // a signal wants nothing of ours to go on; it stands for the next.
            if !matches!(end, End::Reload | End::Stopped(_)) {
                serve::look_once_more(&mut waiter.disk);
            }
            end
        }
    }
}

type Begun<'a> = Result<(Lock, Waiter<'a>), End>;

fn begin<'a>(
    scene: Scene<'a>,
    manner: &'a Manner<'a>,
    leads: bool,
    stop: &'a Stop,
    halt: &'a Halt,
) -> Result<Begun<'a>, Failure> {
    let config_text = manner.config_text();
    let mut in_background = disk::Manner::in_background(scene.settings);
    in_background.verbose = manner.verbose;
    let disk = Disk::open(scene, stop.clone(), in_background)?;
    let failed = |error: std::io::Error| Failure::new(Exit::Later, format!("cannot wait: {error}"));
    let stands_by = || {
        if manner.verbose {
            print(&format!("{}: another waiter is alive; standing by", scene.account.name));
        }
    };
    let turn = turn::wait(&disk.dir().file("waiter.lock"), stop, halt, stands_by);
    let waiting = match turn.map_err(failed)? {
        Turn::Ours { lock, waited } => {
            if waited && manner.verbose {
                print(&format!("{}: the other waiter has ended", scene.account.name));
            }
            lock
        }
        Turn::Halted => return Ok(Err(End::Halted)),
        Turn::Stopped(signal) => return Ok(Err(End::Stopped(signal))),
    };
    let now = clock::now();
    let mut waiter = Waiter {
        seen: disk.dir().read_json(seen::FILE).unwrap_or_default(),
        stuck: disk.dir().read_json(seen::STUCK).unwrap_or_default(),
        scene,
        manner,
        leads,
        stop,
        halt,
        disk,
        ears: None,
        alarm: Alarm::new().map_err(failed)?,
        jump: Jump::new().ok(),
        boxes: Vec::new(),
        unsaved: Unsaved::default(),
        far: None,
        loans: lend::Loans::default(),
        highest: Rung::Notify,
        reach: Reach::new(scene.account.server.is_some(), now),
        rushed: 0,
        requested: None,
        folders_at: None,
        renew_at: now + RENEW,
        sweep_at: now + scene.settings.sweep,
        looking_since: None,
        deaf_at: now + LOOK_AT_DEAF,
        slept: clock::slept(),
        run_ended: Duration::ZERO,
        last_run: (0, 0),
        full_tried: None,
        busy: false,
        doubt: None,
        complaints: BTreeSet::new(),
        config_text,
    };
    waiter.last_run = waiter.which_run();
    waiter.enumerate();
    Ok(Ok((waiting, waiter)))
}

impl<'a> Waiter<'a> {
    /// Asks all questions until one ends the waiting.
    fn run(&mut self) -> End {
        // Edited while we stood by.
        if self.config_is_new() {
            return End::Reload;
        }
        loop {
            if let Some(signal) = self.stop.signal() {
                return End::Stopped(signal);
            }
            if self.halt.is_raised() {
                return End::Halted;
            }
            if self.listen() {
                return End::Reload;
            }
            self.look_near();
            if !self.is_looking() {
                match self.sync_if_needed() {
                    Step::Nothing => {}
                    Step::Again => continue,
                    Step::End(end) => return end,
                }
            }
            if self.connect_if_due() || self.look_far() || self.keep_alive() {
                continue;
            }
            self.save();
            self.tell_warm(self.far.is_some());
            self.block();
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.manner.verbose {
            print(&format!("{}: {}", self.scene.account.name, text()));
        }
    }

    /// Says a lasting trouble once.
    fn complain(&mut self, text: &str) {
        if self.complaints.insert(text.to_owned()) {
            print(&format!("mutt-sync: {}: {text}", self.scene.account.name));
        }
    }

    // What there is.

    /// Finds the mailboxes and listens to them. What is known of those that
    /// stay is kept.
    fn enumerate(&mut self) {
        self.folders_at = None;
        let before = self.mailboxes();
        let patterns = &self.scene.settings.boxes;
        let mut found = self.scene.config.local_mailboxes(self.scene.account);
        found.retain(|mailbox| patterns.is_empty() || pattern::admits(patterns, &mailbox.name));
        let mut known: BTreeMap<Mailbox, Watched> =
            self.boxes.drain(..).map(|watched| (watched.mailbox.clone(), watched)).collect();
        self.boxes = found
            .into_iter()
            .map(|mailbox| {
                let new = |mailbox| Watched::new(mailbox, self.scene.account);
                known.remove(&mailbox).unwrap_or_else(|| new(mailbox))
            })
            .collect();
        // Watches first, then the questions: no gap between.
        self.open_ears();
        for watched in &mut self.boxes {
            watched.near = Near::Unasked;
        }
        if before != self.mailboxes() {
            self.say(|| format!("{} mailboxes here", self.boxes.len()));
            self.turn_far();
        }
    }

    fn open_ears(&mut self) {
        let maildirs: Vec<_> =
            self.boxes.iter().map(|watched| watched.mailbox.maildir.clone()).collect();
        let mut roots: BTreeSet<_> = maildirs
            .iter()
            .flatten()
            .filter_map(|maildir| maildir.parent())
            .map(Into::into)
            .collect();
        for channel in &self.scene.account.channels {
            if let StoreKind::Maildir(store) = &channel.near.store.kind {
                if let Some((dir, _)) = store.path.as_ref().and_then(|path| path.rsplit_once('/')) {
                    roots.insert(dir.into());
                }
            }
        }
        let trigger = self.scene.settings.trigger.clone();
        let opened = Ears::open(&Where {
            maildirs: &maildirs,
            roots: &roots,
            state: self.disk.dir().path(),
            trigger: trigger.as_deref(),
            configs: &self.manner.configs,
        });
        match opened {
            Ok(ears) => {
                if !ears.deaf().is_empty() {
                    let deaf = ears.deaf().len();
                    self.complain(&format!(
                        "no inotify watch left for {deaf} mailboxes, which are looked at every {}; \
                         raise fs.inotify.max_user_watches (sysctl)",
                        short(LOOK_AT_DEAF)
                    ));
                }
                self.ears = Some(ears);
            }
            Err(error) => {
                self.ears = None;
                self.complain(&format!(
                    "no inotify ({error}); mailboxes are looked at every {}; \
                     raise fs.inotify.max_user_instances (sysctl)",
                    short(LOOK_AT_DEAF)
                ));
            }
        }
    }

    // What was heard.

    /// Takes in what the disk and the server have said. True if the configuration
    /// is another one.
    fn listen(&mut self) -> bool {
        let now = clock::now();
        let heard = self.ears.as_mut().map(Ears::heard).unwrap_or_default();
        if heard.all {
            self.say(|| "more happened than the kernel could tell; looking at everything".into());
            self.boxes.iter_mut().for_each(|watched| watched.near = Near::Unasked);
        }
        for at in &heard.mail {
            if let Some(watched) = self.boxes.get_mut(*at) {
                watched.touched = Some(Touched::again(watched.touched, now));
            }
        }
        // Without inotify every waking is a reason to look.
        if heard.state || heard.all || self.ears.is_none() {
            let last = self.which_run();
            if last != self.last_run {
                self.another_run_ended(last);
            }
            if self.requested.is_none() && self.disk.any_fresh() {
                self.say(|| "asked for".into());
                self.requested = Some(Touched::again(None, now));
            }
        }
        if heard.folders || heard.all {
            // A Maildir is made in several steps.
            self.folders_at.get_or_insert(now + self.scene.settings.settle);
        }
        if self.folders_at.is_some_and(|at| now >= at) {
            self.enumerate();
        }
        self.hear_server();
        heard.config && self.config_is_new()
    }

    fn hear_server(&mut self) {
        let Some(far) = &mut self.far else { return };
        match far.heard() {
            Ok(changed) => {
                let folders = far.take_new_folders();
                for (at, unseen) in changed {
                    self.far_changed(at, unseen);
                }
                if folders {
                    self.say(|| "mailboxes came or went on the server".into());
                    self.turn_far();
                }
            }
            Err(error) => self.lost(&error),
        }
    }

    /// The server says that a mailbox is no more as it was.
    fn far_changed(&mut self, at: usize, unseen: bool) {
        let status = self.far.as_ref().and_then(|far| far.status(at));
        let quiet = clock::now().saturating_sub(self.run_ended) > ECHO
            && !Lock::is_held(&self.disk.dir().file("lock"));
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let key = watched.key();
        let seen = self.seen.get(&key).and_then(|seen| watched.seen_far(seen));
        if unseen {
            // The next look must not be content with STATUS.
            self.seen.entry(key).or_default().far = None;
        }
        watched.far = match status {
            Some(now) => watched.far.told(Told { now, seen, unseen, quiet }, watched.rules.is_ok()),
            None => FarSide::compared(None, None),
        };
        let then = match &watched.far {
            FarSide::Found(Finding::Clean) => "as at the last look",
            FarSide::Suspect => "may be an echo",
            _ => "a change",
        };
        let name = watched.mailbox.near.clone();
        self.say(|| {
            let status = status.map_or("it is gone".into(), |status| {
                format!("{} messages, next UID {}", status.messages, status.uid_next)
            });
            format!("{name}: the server says {status}: {then}")
        });
    }

    /// Which run was the last one, by its number and start.
    fn which_run(&self) -> (u64, u64) {
        let last: Last = self.disk.dir().read_json(last::FILE).unwrap_or_default();
        (last.runs, last.started)
    }

    /// Another process has synced something: everything is asked again, and its
    /// success ends our backoff.
    fn another_run_ended(&mut self, last: (u64, u64)) {
        self.say(|| "another process has synced".into());
        self.last_run = last;
        self.run_ended = clock::now();
        self.boxes.iter_mut().for_each(|watched| watched.run_ended(false));
        if self.far.is_none() && self.retry().is_none() {
            self.reach.try_now(clock::now());
        }
        self.refresh_far(None);
    }

    fn retry(&self) -> Option<Retry> {
        self.disk.dir().read_json(retry::FILE)
    }

    /// STATUS of these (or all), so that what a run has moved is settled now and
    /// not when the server gets around to tell.
    fn refresh_far(&mut self, mailboxes: Option<&BTreeSet<usize>>) {
        let Some(far) = &mut self.far else { return };
        let asked = match mailboxes {
            Some(mailboxes) => far.refresh(mailboxes),
            None => far.sweep(),
        };
        match asked {
            Ok(()) => self.hear_server(),
            Err(error) => self.lost(&error),
        }
    }

    fn config_is_new(&mut self) -> bool {
        let now = self.manner.config_text();
        if now == self.config_text {
            return false;
        }
        self.config_text = now;
        let checked = (self.manner.check)();
        // The file may be another one now, under the same name.
        self.open_ears();
        match checked {
            Ok(()) => {
                self.say(|| "the configuration has changed; beginning again with it".into());
                true
            }
            Err(failure) => {
                if self.leads {
                    print(&format!("mutt-sync: {failure}; going on with what was read before"));
                }
                false
            }
        }
    }

    // The near side.

    /// Looks at the Maildirs that may have changed and have come to rest.
    fn look_near(&mut self) {
        let now = clock::now();
        if now >= self.deaf_at {
            self.deaf_at = now + LOOK_AT_DEAF;
            let deaf: Vec<usize> = match &self.ears {
                Some(ears) => ears.deaf().to_vec(),
                None => (0..self.boxes.len()).collect(),
            };
            for at in deaf {
                if let Some(watched) = self.boxes.get_mut(at) {
                    watched.near = Near::Unasked;
                }
            }
        }
        let settled = self.settled_at().is_some_and(|at| now >= at);
        for at in 0..self.boxes.len() {
            if self.boxes.get(at).is_some_and(|watched| watched.wants_look(settled)) {
                self.look_into(at, None);
            }
        }
    }

    /// When what was touched has come to rest.
    fn settled_at(&self) -> Option<Duration> {
        Touched::together(self.boxes.iter().filter_map(|watched| watched.touched))
            .map(|touched| touched.settled_at(self.scene.settings.settle))
    }

    fn look_into(&mut self, at: usize, left_by_run: Option<Digest>) {
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let was_touched = watched.touched.take().is_some();
        let seen = self.seen.entry(watched.key()).or_default();
        let looked = look::near(watched, seen, left_by_run);
        self.unsaved.seen |= looked.learned;
        let text = match &looked.finding {
            Finding::Clean if was_touched => Some("touched, nothing to push".to_owned()),
            Finding::Clean => None,
            Finding::Changed(changes) => Some(format!("to push: {changes}")),
            Finding::Unknown(why) => Some(format!("cannot be told: {why}")),
        };
        let clean = looked.finding == Finding::Clean;
        watched.near = Near::Found(looked.finding);
        if let Some(text) = text {
            let name = watched.mailbox.near.clone();
            self.say(|| format!("{name}: {text}"));
        }
        if clean {
            self.unstick(at, |stuck| stuck.near = None);
        }
    }

    /// A side found clean is no more stuck.
    fn unstick(&mut self, at: usize, clear: impl FnOnce(&mut need::Stuck)) {
        let Some(key) = self.boxes.get(at).map(Watched::key) else { return };
        let Some(stuck) = self.stuck.mailboxes.get_mut(&key) else { return };
        let before = stuck.clone();
        clear(stuck);
        self.unsaved.stuck |= *stuck != before;
        if *stuck == need::Stuck::default() {
            self.stuck.mailboxes.remove(&key);
        }
    }

    // The far side.

    /// The mailboxes are others now: the same connection watches them.
    fn turn_far(&mut self) {
        let Some(mut far) = self.far.take() else { return };
        let mailboxes = self.mailboxes();
        let turned = match (self.plan(&mailboxes), self.breaker(false)) {
            (Some(plan), Ok(breaker)) => far.turn_to(&plan, &breaker.interrupt),
            _ => return,
        };
        self.far = Some(far);
        match turned {
            Ok(()) => self.compare_all(),
            Err(error) => self.lost(&error),
        }
    }

    fn mailboxes(&self) -> Vec<Mailbox> {
        self.boxes.iter().map(|watched| watched.mailbox.clone()).collect()
    }

    fn plan<'p>(&self, mailboxes: &'p [Mailbox]) -> Option<Plan<'p>>
    where
        'a: 'p,
    {
        let connections = if self.manner.endless { self.scene.settings.connections } else { 1 };
        Some(Plan {
            server: self.scene.account.server.as_ref()?,
            account: self.scene.account,
            mailboxes,
            boxes: &self.scene.settings.boxes,
            dialect: self.scene.config.dialect,
            most: self.highest,
            connections: usize::try_from(connections).unwrap_or(1),
        })
    }

    /// Connects if it is time. True if it tried.
    fn connect_if_due(&mut self) -> bool {
        let now = clock::now();
        if self.far.is_some() || !self.reach.is_due(now) {
            return false;
        }
        if self.folders_at.is_some() {
            // What is here already must not look as if it were only there.
            self.enumerate();
        }
        let retry = self.retry();
        let wait = self.scene.settings.patience().wait(retry.as_ref(), SystemTime::now());
        // A server that was lost a moment ago is tried whatever a run's failure
        // says; where a password is in question, the backoff holds.
        let offline = retry.is_some_and(|retry| retry.code == Exit::Offline.code());
        let all_the_same = offline && self.reach.is_quick(now);
        if !wait.is_zero() && !all_the_same {
            self.say(|| format!("connecting in {}, as the last failure wants", short(wait)));
            self.reach.wait(wait, now);
            return false;
        }
        let mailboxes = self.mailboxes();
        let Some(plan) = self.plan(&mailboxes) else { return false };
        let wake = self.next_local(now);
        let breaker = match self.alarm.set(wake).and_then(|()| self.breaker(true)) {
            Ok(breaker) => breaker,
            Err(error) => {
                self.complain(&format!("cannot connect: {error}"));
                self.reach.wait(self.scene.settings.retry, now);
                return false;
            }
        };
        let opened = Far::open(&plan, &breaker.interrupt);
        let broken_off = breaker.interrupt.fired();
        drop(breaker);
        match opened {
            Ok(far) => self.connected(far, now),
            Err(_) if broken_off => {
                self.say(|| "connecting was broken off for something more urgent".into());
                // What it was broken off for is done first. Ever later, so that somebody
                // busy does not keep a slow password command from being heard out.
                let wait = self.scene.settings.settle * (1 << self.rushed.min(5));
                self.rushed += 1;
                self.reach.broken_off(wait, clock::now());
            }
            Err(failure) => self.not_connected(&failure),
        }
        self.alarm.heard();
        true
    }

    fn connected(&mut self, far: Far, started: Duration) {
        let now = clock::now();
        self.say(|| {
            let (rung, count) = (far.rung(), far.connections());
            let took = short(now.saturating_sub(started));
            format!("connected by {rung}, {count} connection(s), in {took}")
        });
        self.reach.connected(now);
        self.rushed = 0;
        self.renew_at = now + RENEW;
        self.sweep_at = now + self.scene.settings.sweep;
        self.complaints.clear();
        if self.retry().is_some() {
            // The login works: what was in the way is gone, and what failed for
            // it is wanted now.
            let _ = self.disk.dir().remove(retry::FILE);
            let failed = want::all(self.disk.dir());
            self.disk.demand(&failed, false);
        }
        let only_there = far.only_there().len();
        self.far = Some(far);
        self.compare_all();
        if only_there > 0 {
            self.say(|| format!("{only_there} mailboxes are only on the server"));
        }
    }

    /// What the server says of each mailbox against what was remembered.
    fn compare_all(&mut self) {
        let Some(far) = &self.far else { return };
        for (at, watched) in self.boxes.iter_mut().enumerate() {
            let seen = self.seen.get(&watched.key()).and_then(|seen| watched.seen_far(seen));
            watched.far = FarSide::compared(far.status(at), seen);
        }
        // What was told on the way is in it.
        let _ = self.far.as_mut().map(Far::forget_heard);
    }

    fn not_connected(&mut self, failure: &Failure) {
        self.rushed = 0;
        let now = clock::now();
        match self.reach.failed(failure.exit, now) {
            // Nothing that trying again would change; mbsync itself may manage.
            Next::GiveUp => self.complain(&format!("{}; not watching the server", failure.text)),
            Next::Soon => self.say(|| failure.text.clone()),
            Next::BackOff => {
                let patience = self.scene.settings.patience();
                let wall = SystemTime::now();
                let earlier = self.retry();
                let retry = patience.after(
                    earlier.as_ref(),
                    failure.exit,
                    &failure.text,
                    wall,
                    disk::dice(),
                );
                let wait = patience.wait(Some(&retry), wall);
                if self.disk.dir().write_json(retry::FILE, &retry).is_err() {
                    self.say(|| "the backoff could not be written".into());
                }
                if !(self.manner.hushed && failure.exit.is_passing()) {
                    self.complain(&failure.text);
                }
                self.say(|| format!("{}; again in {}", failure.text, short(wait)));
                self.reach.wait(wait, now);
            }
        }
    }

    fn lost(&mut self, error: &LinkError) {
        if self.far.take().is_some() {
            self.boxes.iter_mut().for_each(|watched| watched.far = FarSide::Untold);
            self.doubt = None;
            let wait = self.reach.lost(clock::now());
            self.say(|| format!("connection lost: {error}; again in {}", short(wait)));
        }
    }

    /// Whether suspicions are being settled: what they come to goes into one run.
    /// A server that is slow about it is not waited for.
    fn is_looking(&mut self) -> bool {
        if !self.boxes.iter().any(|watched| watched.far == FarSide::Suspect) {
            self.looking_since = None;
        }
        self.looking_since.is_some_and(|since| clock::now() < since + LOOKS)
    }

    /// Settles one suspicion. True if there was one.
    fn look_far(&mut self) -> bool {
        let suspect = |watched: &Watched| watched.far == FarSide::Suspect;
        let Some(at) = self.boxes.iter().position(suspect) else { return false };
        let (Some(far), Some(watched)) = (self.far.as_mut(), self.boxes.get(at)) else {
            self.boxes.iter_mut().for_each(|watched| watched.far = FarSide::Untold);
            return true;
        };
        let seen = self.seen.entry(watched.key()).or_default();
        let begun = clock::now();
        self.looking_since.get_or_insert(begun);
        match look::far(watched, at, seen, far) {
            Ok((finding, learned)) => {
                self.unsaved.seen |= learned;
                let took = short(clock::now().saturating_sub(begun));
                let text = match &finding {
                    Some(Finding::Clean) => format!("in step with the server ({took})"),
                    Some(Finding::Changed(changes)) => format!("to pull: {changes} ({took})"),
                    Some(Finding::Unknown(why)) => format!("cannot be told: {why}"),
                    None => "changed while it was looked into; looking again".into(),
                };
                let name = watched.mailbox.near.clone();
                self.say(|| format!("{name}: {text}"));
                let clean = finding == Some(Finding::Clean);
                if let (Some(finding), Some(watched)) = (finding, self.boxes.get_mut(at)) {
                    watched.far = FarSide::Found(finding);
                }
                if clean {
                    self.unstick(at, |stuck| stuck.far = None);
                }
                if at % SAVE_EVERY == 0 {
                    self.save();
                }
            }
            Err(error) => self.lost(&error),
        }
        true
    }

    /// Renews, sweeps and probes as it becomes due. True if something was done.
    fn keep_alive(&mut self) -> bool {
        let now = clock::now();
        let slept = clock::slept();
        let woke = slept.saturating_sub(self.slept) > Duration::from_secs(1);
        self.slept = slept;
        if woke {
            self.say(|| "the machine has slept".into());
            // Its end ends every backoff.
            let _ = self.disk.dir().remove(retry::FILE);
            self.reach.try_now(now);
        }
        if let Some((until, spoken)) = self.doubt.filter(|(until, _)| now >= *until) {
            self.doubt = None;
            let silent = self.far.as_ref().is_some_and(|far| far.unasked() == spoken);
            if silent && until > Duration::ZERO {
                self.complain("the server accepted NOTIFY and told nothing; going on with IDLE");
                self.highest = Rung::Idle;
                self.far = None;
                self.reach.try_now(now);
                return true;
            }
        }
        let Some(far) = &mut self.far else { return woke };
        let done = if woke {
            far.probe(REPLY_AFTER_SLEEP).and_then(|()| far.sweep())
        } else if now >= self.sweep_at && far.rung() != Rung::Notify {
            self.sweep_at = now + self.scene.settings.sweep;
            far.sweep()
        } else if now >= self.renew_at {
            self.renew_at = now + RENEW;
            far.probe(REPLY)
        } else {
            return woke;
        };
        if let Err(error) = done {
            self.lost(&error);
        }
        true
    }

    // Running.

    /// What is to be run now, if anything is.
    fn task(&mut self) -> Option<Task> {
        let asked = self.disk.next_due() == Some(Duration::ZERO) && self.request_has_settled();
        let standing = if asked { want::all(self.disk.dir()) } else { BTreeSet::new() };
        need::task(
            self.dirty(),
            asked.then_some(standing),
            self.full_run_in().is_zero(),
            self.new_on_server(),
        )
    }

    /// Who asks in the background is often mutt, about to write its folder.
    fn request_has_settled(&self) -> bool {
        let settle = self.scene.settings.settle;
        self.requested.is_none_or(|requested| clock::now() >= requested.settled_at(settle))
            || want::is_urgent(self.disk.dir())
            || want::is_hastened(self.disk.dir(), &want::all(self.disk.dir()))
    }

    /// Runs mbsync if something calls for it and nothing forbids it.
    fn sync_if_needed(&mut self) -> Step {
        self.busy = false;
        let Some(task) = self.task() else { return Step::Nothing };
        if task.demanded.contains(&Want::Account) && self.folders_at.is_some() {
            self.enumerate();
            return Step::Again;
        }
        if self.disk.gate(false, false) != Gate::Open {
            return Step::Nothing;
        }
        if Lock::is_held(&self.disk.dir().file("lock")) {
            // Its end is heard of; meanwhile the server and the disk are listened to.
            self.busy = true;
            return Step::Nothing;
        }
        match self.disk.lock() {
            Locked::Held => {}
            Locked::Stopped => return Step::Again,
            Locked::TooLong => {
                self.complain("another process holds the lock for too long");
                self.busy = true;
                return Step::Nothing;
            }
        }
        // Somebody else may have run while we waited for the lock.
        let last = self.which_run();
        if last != self.last_run {
            self.disk.unlock();
            self.another_run_ended(last);
            return Step::Again;
        }
        if self.disk.gate(false, false) != Gate::Open {
            self.disk.unlock();
            return Step::Nothing;
        }
        self.say(|| format!("syncing: {}", task.why.join(", ")));
        let wants = self.scene.account.canonical(&task.wants);
        self.disk.demand(&self.scene.account.canonical(&task.demanded), false);
        let before = self.before_run(&wants);
        let was_clean = task.full && self.dirty().is_empty();
        let report = self.run_lending();
        self.disk.unlock();
        self.take_back(report.loan.as_ref());
        self.last_run = self.which_run();
        self.run_ended = clock::now();
        self.requested = None;
        if wants.contains(&Want::Account) {
            self.full_tried = Some(self.run_ended);
        }
        self.report(&report);
        let served = matches!(report.ended.exit, Exit::Done | Exit::Mailbox);
        if served {
            self.remember(&before);
        }
        if let Exit::Signal(signal) = report.ended.exit {
            return Step::End(End::Stopped(signal));
        }
        if was_clean && served {
            self.doubt_silence(&report);
        }
        self.ask_again(&wants, &before, report.ended.exit == Exit::Done);
        if served && !self.manner.endless {
            return Step::End(End::Synced);
        }
        Step::Again
    }

    fn report(&self, report: &disk::Report) {
        let text = match report.ended.exit {
            Exit::Done => crate::words::what_happened(&report.changes, report.took),
            _ => report.ended.text.clone(),
        };
        let name = &self.scene.account.name;
        match report.ended.exit {
            Exit::Signal(_) => {}
            Exit::Done if !self.manner.verbose => {}
            exit if exit.is_passing() && self.manner.hushed => {}
            Exit::Done => print(&format!("{name}: {text}")),
            _ => print(&format!("mutt-sync: {name}: {text}")),
        }
    }

    /// How each mailbox that a run takes on looks before it.
    fn before_run(&self, wants: &BTreeSet<Want>) -> Before {
        let covered = |watched: &Watched| wants.iter().any(|want| covers(want, &watched.mailbox));
        let mailboxes = self
            .boxes
            .iter()
            .enumerate()
            .filter(|(_, watched)| covered(watched))
            .map(|(at, watched)| {
                let print = watched.fingerprint(self.far.as_ref().and_then(|far| far.status(at)));
                let stuck =
                    need::left_by_run(watched.near_finding(), watched.far_finding(), &print);
                (watched.key(), (stuck, watched.digest))
            })
            .collect();
        let whole = wants.contains(&Want::Account);
        let only_there = self.far.as_ref().filter(|_| whole).map(|far| far.only_there().clone());
        Before { mailboxes, only_there }
    }

    /// After a run that reached the mailboxes: what is still as it was before it
    /// is not run for again.
    fn remember(&mut self, before: &Before) {
        for (key, (stuck, _)) in &before.mailboxes {
            if *stuck != need::Stuck::default() {
                let entry = self.stuck.mailboxes.entry(key.clone()).or_default();
                entry.near = stuck.near.clone().or(entry.near.take());
                entry.far = stuck.far.clone().or(entry.far.take());
                self.unsaved.stuck = true;
            }
        }
        if let Some(only_there) = &before.only_there {
            self.unsaved.stuck |= self.stuck.only_there != *only_there;
            self.stuck.only_there.clone_from(only_there);
        }
    }

    /// After a run, ours: what it moved is asked about again.
    fn ask_again(&mut self, wants: &BTreeSet<Want>, before: &Before, well: bool) {
        let mut covered = BTreeSet::new();
        for at in 0..self.boxes.len() {
            let Some(watched) = self.boxes.get_mut(at) else { continue };
            let Some((_, digest)) = before.mailboxes.get(&watched.key()) else { continue };
            watched.run_ended(true);
            covered.insert(at);
            let alt_map = watched.rules.as_ref().is_ok_and(|rules| rules.alt_map);
            if well && alt_map {
                self.look_into(at, *digest);
            }
        }
        if !self.manner.endless {
            return;
        }
        if wants.contains(&Want::Account) {
            let before = self.mailboxes();
            self.enumerate();
            if before != self.mailboxes() {
                // Dovecot tells nothing of a mailbox that was made while the
                // connection was lent, whatever NOTIFY it is given: begin anew.
                self.far = None;
                self.boxes.iter_mut().for_each(|watched| watched.far = FarSide::Untold);
                self.reach.try_now(clock::now());
            }
        }
        self.refresh_far(Some(&covered));
    }

    /// The timer's run found something that NOTIFY had not told. If it is not told
    /// in the next moments either, the server takes the command and keeps silent.
    fn doubt_silence(&mut self, report: &disk::Report) {
        let pulled: u32 = report.changes.iter().map(|change| change.pulled).sum();
        let Some(far) = &self.far else { return };
        if pulled > 0 && far.rung() == Rung::Notify {
            self.doubt = Some((clock::now() + ECHO, far.unasked()));
        }
    }

    /// The mailboxes that need a run, and why.
    fn dirty(&self) -> Vec<(Want, String)> {
        let needs = |(at, watched): (usize, &Watched)| {
            if watched.is_restless() {
                return None;
            }
            let now = watched.fingerprint(self.far.as_ref().and_then(|far| far.status(at)));
            let why = need::reason(&Known {
                near: watched.near_finding(),
                far: watched.far_finding(),
                now: &now,
                stuck: self.stuck.mailboxes.get(&watched.key()),
            })?;
            Some((watched.want(), format!("{} {why}", watched.mailbox.near)))
        };
        self.boxes.iter().enumerate().filter_map(needs).collect()
    }

    fn new_on_server(&self) -> bool {
        let Some(far) = &self.far else { return false };
        !far.only_there().is_subset(&self.stuck.only_there)
    }

    /// Time to the next full run; never longer than `every`, whatever the clock
    /// says. One that failed is tried again as a request that stands, not here.
    fn full_run_in(&self) -> Duration {
        let every = self.scene.settings.every;
        let last: Last = self.disk.dir().read_json(last::FILE).unwrap_or_default();
        let tried = last.whole.then_some(last.started / 1000);
        let by_wall = last.last_whole.max(tried).map_or(Duration::ZERO, |last| {
            let next = Duration::from_secs(last) + every;
            next.saturating_sub(Duration::from_secs(seconds(SystemTime::now()))).min(every)
        });
        let tried = self.full_tried.map(|at| (at + every).saturating_sub(clock::now()));
        by_wall.max(tried.unwrap_or_default())
    }

    // Blocking.

    /// Waits for anything to happen.
    fn block(&mut self) {
        if let Some(far) = &mut self.far {
            match far.block().and_then(|()| far.heard()) {
                Ok(changed) if changed.is_empty() && !far.has_new_folders() => {}
                Ok(changed) => {
                    for (at, unseen) in changed {
                        self.far_changed(at, unseen);
                    }
                    return;
                }
                Err(error) => {
                    self.lost(&error);
                    return;
                }
            }
        }
        let now = clock::now();
        let deadline = self.next_local(now).min(self.next_far(now));
        if self.alarm.set(deadline).is_err() {
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        let far_fds = self.far.as_ref().map(Far::poll_fds).unwrap_or_default();
        let mut fds = vec![
            PollFd::new(self.stop, PollFlags::IN),
            PollFd::new(self.halt, PollFlags::IN),
            PollFd::new(&self.alarm, PollFlags::IN),
        ];
        fds.extend(self.jump.iter().map(|jump| PollFd::new(jump, PollFlags::IN)));
        fds.extend(self.ears.iter().map(|ears| PollFd::new(ears, PollFlags::IN)));
        let configs = self.ears.as_ref().map(Ears::configs_fd);
        fds.extend(configs.iter().map(|configs| PollFd::new(configs, PollFlags::IN)));
        fds.extend(far_fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // A wait that lasts is one in which nothing will be needed for a while.
        if poll(&mut fds, Some(&LULL)) == Ok(0) {
            sys::give_back_memory();
            let _ = poll(&mut fds, None);
        }
        drop(fds);
        drop(far_fds);
        self.alarm.heard();
        if let Some(jump) = &mut self.jump {
            jump.heard();
        }
    }

    /// When something becomes due by itself that has nothing to do with the
    /// connection (time since boot).
    fn next_local(&mut self, now: Duration) -> Duration {
        let settle = self.scene.settings.settle;
        let mut next = now + Duration::from_secs(24 * 3600);
        let mut at_latest = |at: Duration| next = next.min(at);
        self.settled_at().iter().for_each(|at| at_latest(*at));
        self.folders_at.iter().for_each(|at| at_latest(*at));
        if self.ears.as_ref().is_none_or(|ears| !ears.deaf().is_empty()) {
            at_latest(self.deaf_at);
        }
        // Whole seconds on the wall clock: not before they have passed.
        let mut wanted = Some(self.full_run_in());
        if !self.dirty().is_empty() || self.new_on_server() {
            wanted = Some(Duration::ZERO);
        }
        if let Some(due) = self.disk.next_due() {
            let settled = self.requested.map_or(now, |requested| requested.settled_at(settle));
            let due = if due.is_zero() { settled.saturating_sub(now) } else { due };
            wanted = wanted.min(Some(due));
        }
        if let Some(due) = wanted {
            let gate = match self.disk.gate(false, false) {
                Gate::Open => Duration::ZERO,
                Gate::Throttled(wait) | Gate::BackingOff(wait) => wait,
            };
            let least = if self.busy { LOOK_AT_LOCK } else { Duration::from_millis(10) };
            at_latest(now + due.max(gate).max(least));
        }
        next
    }

    /// The same for the connection.
    fn next_far(&self, now: Duration) -> Duration {
        let mut next = now + Duration::from_secs(24 * 3600);
        let mut at_latest = |at: Duration| next = next.min(at);
        match &self.far {
            Some(far) => {
                at_latest(self.renew_at);
                if far.rung() != Rung::Notify {
                    at_latest(self.sweep_at);
                }
                self.doubt.iter().for_each(|(until, _)| at_latest(*until));
            }
            None => self.reach.at().iter().for_each(|at| at_latest(*at)),
        }
        next
    }

    /// A descriptor that ends a dialogue at once: when a signal comes, when
    /// another account ends the waiting, and, with `soft`, when something here
    /// wants a run: after an event, or at the time that the alarm is set to.
    fn breaker(&self, soft: bool) -> std::io::Result<Breaker> {
        let all = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let data = epoll::EventData::new_u64(0);
        epoll::add(&all, self.stop, data, epoll::EventFlags::IN)?;
        epoll::add(&all, self.halt, data, epoll::EventFlags::IN)?;
        let mut until_in = Vec::new();
        if soft {
            // Copies: to be taken out again they must be told from what is open
            // elsewhere.
            until_in.push(rustix::io::fcntl_dupfd_cloexec(&self.alarm, 3)?);
            if let Some(ears) = &self.ears {
                until_in.push(rustix::io::fcntl_dupfd_cloexec(ears, 3)?);
            }
            for fd in &until_in {
                epoll::add(&all, fd, data, epoll::EventFlags::IN)?;
            }
        }
        Ok(Breaker { interrupt: Interrupt::when_readable(Arc::clone(&all)), all, until_in })
    }

    fn save(&mut self) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let there: BTreeSet<String> = self.boxes.iter().map(Watched::key).collect();
        if unsaved.seen {
            self.seen.retain(|key, _| there.contains(key));
            if let Err(error) = self.disk.dir().write_json(seen::FILE, &self.seen) {
                self.complain(&format!("cannot remember what was seen: {error}"));
            }
        }
        if unsaved.stuck {
            self.stuck.mailboxes.retain(|key, _| there.contains(key));
            if let Err(error) = self.disk.dir().write_json(seen::STUCK, &self.stuck) {
                self.complain(&format!("cannot remember what is stuck: {error}"));
            }
        }
    }
}

/// What came of a step.
enum Step {
    Nothing,
    Again,
    End(End),
}

/// How things stood before a run.
struct Before {
    /// By key: what to keep if it stays so, and the near side's digest.
    mailboxes: BTreeMap<String, (need::Stuck, Option<Digest>)>,
    /// Mailboxes that only the server had, if the run was to make them here.
    only_there: Option<BTreeSet<String>>,
}

struct Breaker {
    interrupt: Interrupt,
    all: Arc<OwnedFd>,
    /// What ends a login, but no dialogue after it.
    until_in: Vec<OwnedFd>,
}

impl Drop for Breaker {
    /// From now on only what ends the process ends a dialogue.
    fn drop(&mut self) {
        for fd in &self.until_in {
            let _ = epoll::delete(&self.all, fd);
        }
    }
}

fn print(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
