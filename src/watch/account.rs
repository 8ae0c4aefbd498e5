//! The loop that waits for one account.
//!
//! Level-triggered: whatever wakes it, it asks the same questions again, in the
//! same order, and blocks only when none of them has an answer that calls for
//! action. An event tells which mailbox to ask about; it never is the answer,
//! with one exception: what the server reports of a mailbox known to be clean,
//! while no run is under way, is nobody's echo and needs no second look.

mod lend;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, epoll, poll};

use super::clock::{self, Alarm};
use super::ears::{Ears, Where};
use super::far::{Far, Plan, RENEW, REPLY, REPLY_AFTER_SLEEP, Rung};
use super::need::{self, Known};
use super::{End, Halt, Manner};
use crate::account::{Mailbox, StoreKind, Want};
use crate::imap::{self, Interrupt, LinkError, Opening};
use crate::mbsyncrc::pattern;
use crate::outcome::{Exit, Failure};
use crate::state::last::{self, Last};
use crate::state::lock::{Lock, Wait};
use crate::state::retry::{self, Retry, seconds};
use crate::state::seen::{self, key};
use crate::stop::Stop;
use crate::sync::disk::{self, Disk, Scene, covers};
use crate::sync::serve::{self, Gate, Ground as _, Locked};
use crate::verdict::remote::{self, Fetched, Needed, Status, Suspicion};
use crate::verdict::syncstate::{self, Record, State};
use crate::verdict::{Finding, Fingerprint, Rules, Seen, local};
use crate::words::short;

/// How often a mailbox that the kernel has no watch for is looked at.
const LOOK_AT_DEAF: Duration = Duration::from_secs(15);
/// A server that is gone is tried again this often at first, for so long.
const QUICK_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// Dovecot speaks half a second after a change, sometimes twice: what is heard
/// so long after somebody's run may be its echo.
const ECHO: Duration = Duration::from_secs(3);
/// A mailbox in which something happens all the time is not waited for longer
/// than so many times the quiet that is wanted.
const PATIENCE: u32 = 5;

/// What is known of one mailbox.
struct Watched {
    mailbox: Mailbox,
    rules: Result<Rules, String>,
    near: Near,
    far: FarSide,
    /// First and last event since it was last looked at (time since boot).
    touched: Option<(Duration, Duration)>,
    /// How its near side looked then.
    looked: Fingerprint,
}

enum Near {
    Unasked,
    Found(Finding),
}

enum FarSide {
    /// No server tells.
    Untold,
    /// Something is different, and may be an echo.
    Suspect,
    Found(Finding),
}

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
    boxes: Vec<Watched>,
    seen: BTreeMap<String, Seen>,
    stuck: BTreeMap<String, Fingerprint>,
    unsaved: (bool, bool),
    far: Option<Far>,
    loans: lend::Loans,
    highest: Rung,
    /// When to connect; `None`: there is no server, or none for us.
    connect_at: Option<Duration>,
    lost_since: Option<Duration>,
    renew_at: Duration,
    sweep_at: Duration,
    deaf_at: Duration,
    slept: Duration,
    /// When a run under the account's lock last ended, ours or another's.
    run_ended: Duration,
    last_run: (u64, u64),
    complaints: BTreeSet<String>,
    config_text: Vec<Option<Vec<u8>>>,
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
            if let Some(far) = waiter.far.take() {
                if !matches!(end, End::Stopped(_)) {
                    far.close();
                }
            }
            drop(waiting);
            // A request that came while we were still believed to wait. Who was told to
            // end leaves no process behind; the request stands for whoever comes next.
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
    let mut in_background = disk::Manner::in_background(scene.settings);
    in_background.verbose = manner.verbose;
    let disk = Disk::open(scene, stop.clone(), in_background)?;
    let failed = |error: std::io::Error| Failure::new(Exit::Later, format!("cannot wait: {error}"));
    let path = disk.dir().file("waiter.lock");
    // A second waiter stands by until the first ends.
    let waiting = match Lock::take(&path, Duration::from_secs(60), || !halt.is_raised(), stop) {
        Ok(Wait::Got(lock)) => lock,
        Ok(Wait::TooLong) => return Ok(Err(End::Halted)),
        Ok(Wait::Stopped) => return Ok(Err(End::Stopped(stop.signal().unwrap_or(0)))),
        Err(error) => return Err(failed(error)),
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
        boxes: Vec::new(),
        unsaved: (false, false),
        far: None,
        loans: lend::Loans::default(),
        highest: Rung::Notify,
        connect_at: scene.account.server.is_some().then_some(now),
        lost_since: None,
        renew_at: now + RENEW,
        sweep_at: now + scene.settings.sweep,
        deaf_at: now + LOOK_AT_DEAF,
        slept: clock::slept(),
        run_ended: Duration::ZERO,
        last_run: (0, 0),
        complaints: BTreeSet::new(),
        config_text: manner.configs.iter().map(|file| std::fs::read(file).ok()).collect(),
    };
    waiter.last_run = waiter.which_run();
    waiter.enumerate();
    Ok(Ok((waiting, waiter)))
}

impl<'a> Waiter<'a> {
    /// Asks all questions until one ends the waiting.
    fn run(&mut self) -> End {
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
            match self.sync_if_needed() {
                Step::Nothing => {}
                Step::Again => continue,
                Step::End(end) => return end,
            }
            if self.connect_if_due() || self.look_far() || self.keep_alive() {
                continue;
            }
            self.save();
            if self.block() {
                continue;
            }
            if self.listen() {
                return End::Reload;
            }
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
        let before: Vec<Mailbox> =
            self.boxes.iter().map(|watched| watched.mailbox.clone()).collect();
        let patterns = &self.scene.settings.boxes;
        let mut found = self.scene.config.local_mailboxes(self.scene.account);
        found.retain(|mailbox| patterns.is_empty() || pattern::admits(patterns, &mailbox.name));
        let mut known: BTreeMap<Mailbox, Watched> =
            self.boxes.drain(..).map(|watched| (watched.mailbox.clone(), watched)).collect();
        let channels = &self.scene.account.channels;
        self.boxes = found
            .into_iter()
            .map(|mailbox| {
                known.remove(&mailbox).unwrap_or_else(|| Watched {
                    rules: channels
                        .iter()
                        .find(|channel| channel.name == mailbox.channel)
                        .map_or_else(|| Err("no such channel".into()), Rules::of),
                    mailbox,
                    near: Near::Unasked,
                    far: FarSide::Untold,
                    touched: None,
                    looked: Fingerprint::default(),
                })
            })
            .collect();
        // Watches first, then the questions: no gap between.
        self.open_ears();
        for watched in &mut self.boxes {
            watched.near = Near::Unasked;
        }
        let after: Vec<&Mailbox> = self.boxes.iter().map(|watched| &watched.mailbox).collect();
        if before.iter().ne(after) {
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
        for watched in &mut self.boxes {
            if heard.all {
                watched.near = Near::Unasked;
            }
        }
        for at in heard.mail {
            if let Some(watched) = self.boxes.get_mut(at) {
                let first = watched.touched.map_or(now, |(first, _)| first);
                watched.touched = Some((first, now));
            }
        }
        if heard.state || heard.all {
            let last = self.which_run();
            if last != self.last_run {
                self.another_run_ended(last);
            }
        }
        if heard.folders || heard.all {
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
                for at in changed {
                    self.far_changed(at);
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
    fn far_changed(&mut self, at: usize) {
        let status = self.far.as_ref().and_then(|far| far.status(at));
        let quiet = clock::now().saturating_sub(self.run_ended) > ECHO
            && !Lock::is_held(&self.disk.dir().file("lock"));
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let same = self
            .seen
            .get(&key(&watched.mailbox))
            .and_then(|seen| seen.far.as_ref())
            .is_some_and(|then| Some(then.status) == status);
        let was_clean = matches!(watched.far, FarSide::Found(Finding::Clean));
        watched.far = if same {
            FarSide::Found(Finding::Clean)
        } else if was_clean && quiet && watched.rules.is_ok() {
            let changes = crate::verdict::Changes { other: 1, ..Default::default() };
            FarSide::Found(Finding::Changed(changes))
        } else {
            FarSide::Suspect
        };
        let name = watched.mailbox.near.clone();
        self.say(|| format!("{name}: the server says {}", status.map_or("gone".into(), said)));
    }

    /// Which run was the last one, by its number and start.
    fn which_run(&self) -> (u64, u64) {
        let last: Last = self.disk.dir().read_json(last::FILE).unwrap_or_default();
        (last.runs, last.started)
    }

    /// Another process has synced something: everything is asked again, and its
    /// success ends our backoff.
    fn another_run_ended(&mut self, last: (u64, u64)) {
        self.last_run = last;
        self.run_ended = clock::now();
        for watched in &mut self.boxes {
            watched.near = Near::Unasked;
        }
        if self.disk.dir().read_json::<Retry>(retry::FILE).is_none() && self.far.is_none() {
            self.reconnect_now();
        }
        self.refresh_far();
    }

    /// STATUS of all, so that what a run has moved is settled now and not when
    /// the server gets around to tell.
    fn refresh_far(&mut self) {
        let Some(far) = &mut self.far else { return };
        match far.sweep() {
            Ok(()) => self.hear_server(),
            Err(error) => self.lost(&error),
        }
    }

    fn config_is_new(&mut self) -> bool {
        let now: Vec<_> = self.manner.configs.iter().map(|file| std::fs::read(file).ok()).collect();
        if now == self.config_text {
            return false;
        }
        self.config_text = now;
        match (self.manner.check)() {
            Ok(()) => true,
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
            let deaf = self.ears.as_ref().map(|ears| ears.deaf().to_vec());
            match deaf {
                Some(deaf) => {
                    for at in deaf {
                        if let Some(watched) = self.boxes.get_mut(at) {
                            watched.near = Near::Unasked;
                        }
                    }
                }
                None => self.boxes.iter_mut().for_each(|watched| watched.near = Near::Unasked),
            }
        }
        for at in 0..self.boxes.len() {
            let settle = self.scene.settings.settle;
            let Some(watched) = self.boxes.get(at) else { return };
            let due = match (&watched.near, watched.touched) {
                (Near::Unasked, None) => true,
                (_, Some((first, last))) => now >= (last + settle).min(first + settle * PATIENCE),
                (Near::Found(_), None) => false,
            };
            if due {
                self.look_into(at);
            }
        }
    }

    fn look_into(&mut self, at: usize) {
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let was_touched = watched.touched.take().is_some();
        let (Some(maildir), Some(state_file)) =
            (&watched.mailbox.maildir, &watched.mailbox.state_file)
        else {
            // Not here: the server's side alone is asked.
            watched.near = Near::Found(Finding::Clean);
            return;
        };
        let key = key(&watched.mailbox);
        let known = self.seen.get(&key).cloned().unwrap_or_default();
        let rules = match &watched.rules {
            Ok(rules) => rules.clone(),
            Err(why) => {
                // The digest alone, as a fingerprint.
                let look = local::look(maildir, state_file, &Rules::none(), None, None);
                watched.looked = look.fingerprint(None);
                watched.near = Near::Found(Finding::Unknown(why.clone()));
                return;
            }
        };
        let look = local::look(maildir, state_file, &rules, known.near.as_ref(), known.forwarded);
        watched.looked = look.fingerprint(None);
        if look.finding == Finding::Clean {
            let remembered = look.remembered(&rules, known.forwarded);
            if known.near.as_ref() != Some(&remembered) {
                self.seen.entry(key.clone()).or_default().near = Some(remembered);
                self.unsaved.0 = true;
            }
        }
        let text = match &look.finding {
            Finding::Clean if was_touched => Some("touched, nothing to push".to_owned()),
            Finding::Clean => None,
            Finding::Changed(changes) => Some(format!("to push: {changes}")),
            Finding::Unknown(why) => Some(format!("cannot be told: {why}")),
        };
        let name = watched.mailbox.near.clone();
        watched.near = Near::Found(look.finding);
        if let Some(text) = text {
            self.say(|| format!("{name}: {text}"));
        }
        self.unstick(at);
    }

    /// A mailbox found clean on both sides is no more stuck.
    fn unstick(&mut self, at: usize) {
        let Some(watched) = self.boxes.get(at) else { return };
        let clean = matches!(watched.near, Near::Found(Finding::Clean))
            && matches!(watched.far, FarSide::Found(Finding::Clean));
        if clean && self.stuck.remove(&key(&watched.mailbox)).is_some() {
            self.unsaved.1 = true;
        }
    }

    // The far side.

    fn reconnect_now(&mut self) {
        if self.scene.account.server.is_some() && self.connect_at.is_some() || self.far.is_some() {
            self.far = None;
            self.connect_at = Some(clock::now());
        }
    }

    /// The mailboxes are others now: the same connection watches them.
    fn turn_far(&mut self) {
        let Some(mut far) = self.far.take() else { return };
        let mailboxes = self.mailboxes();
        let turned = match (self.plan(&mailboxes), self.interrupt()) {
            (Some(plan), Ok(breaker)) => {
                breaker.only_stop();
                far.turn_to(&plan, &breaker.interrupt)
            }
            _ => return,
        };
        self.far = Some(far);
        match turned {
            Ok(()) => self.suspect_what_differs(),
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
            dialect: self.scene.config.dialect,
            most: self.highest,
            connections: usize::try_from(connections).unwrap_or(1),
        })
    }

    /// Connects if it is time. True if it tried.
    fn connect_if_due(&mut self) -> bool {
        if self.far.is_some() || self.connect_at.is_none_or(|at| clock::now() < at) {
            return false;
        }
        let retry: Option<Retry> = self.disk.dir().read_json(retry::FILE);
        let wait = self.scene.settings.patience().wait(retry.as_ref(), SystemTime::now());
        if !wait.is_zero() {
            self.connect_at = Some(clock::now() + wait);
            return false;
        }
        let mailboxes = self.mailboxes();
        let Some(plan) = self.plan(&mailboxes) else { return false };
        let interrupt = match self.interrupt() {
            Ok(interrupt) => interrupt,
            Err(error) => {
                self.complain(&format!("cannot connect: {error}"));
                self.connect_at = Some(clock::now() + self.scene.settings.retry);
                return false;
            }
        };
        let started = clock::now();
        match Far::open(&plan, &interrupt.interrupt) {
            Ok(far) => {
                interrupt.only_stop();
                self.connected(far, started);
            }
            Err(failure) => self.not_connected(&failure),
        }
        true
    }

    fn connected(&mut self, far: Far, started: Duration) {
        let now = clock::now();
        self.say(|| {
            let (rung, count) = (far.rung(), far.connections());
            format!(
                "connected by {rung}, {count} connection(s), in {}",
                short(now.saturating_sub(started))
            )
        });
        self.lost_since = None;
        self.connect_at = Some(now);
        self.renew_at = now + RENEW;
        self.sweep_at = now + self.scene.settings.sweep;
        self.complaints.clear();
        // The login works: whatever was in the way is gone.
        let _ = self.disk.dir().remove(retry::FILE);
        let only_there = far.only_there().len();
        self.far = Some(far);
        self.suspect_what_differs();
        if only_there > 0 {
            self.say(|| format!("{only_there} mailboxes are only on the server"));
        }
    }

    /// What the server says of each mailbox against what was remembered.
    fn suspect_what_differs(&mut self) {
        for at in 0..self.boxes.len() {
            let status = self.far.as_ref().and_then(|far| far.status(at));
            let seen = self.boxes.get(at).and_then(|watched| self.seen.get(&key(&watched.mailbox)));
            let same = seen
                .and_then(|seen| seen.far.as_ref())
                .is_some_and(|then| Some(then.status) == status);
            if let Some(watched) = self.boxes.get_mut(at) {
                watched.far = match (status, same) {
                    (_, true) => FarSide::Found(Finding::Clean),
                    (Some(_), _) => FarSide::Suspect,
                    // Not on the server, or it would not say.
                    (None, _) => FarSide::Found(Finding::Unknown("not on the server".into())),
                };
            }
        }
        let _ = self.far.as_mut().map(Far::heard);
    }

    fn not_connected(&mut self, failure: &Failure) {
        let now = clock::now();
        if self.stop.signal().is_some() || self.something_is_heard() {
            // Interrupted by something more urgent.
            self.connect_at = Some(now);
            return;
        }
        let since = *self.lost_since.get_or_insert(now);
        let settings = self.scene.settings;
        match failure.exit {
            // Nothing that trying again would change; mbsync itself may manage.
            Exit::Config => {
                self.complain(&format!("{}; not watching the server", failure.text));
                self.connect_at = None;
            }
            Exit::Offline if now.saturating_sub(since) < QUICK_RETRY.1 => {
                self.say(|| failure.text.clone());
                self.connect_at = Some(now + QUICK_RETRY.0);
            }
            exit => {
                let earlier: Option<Retry> = self.disk.dir().read_json(retry::FILE);
                let wall = SystemTime::now();
                let retry = settings.patience().after(
                    earlier.as_ref(),
                    exit,
                    &failure.text,
                    wall,
                    disk::dice(),
                );
                let wait = settings.patience().wait(Some(&retry), wall);
                if self.disk.dir().write_json(retry::FILE, &retry).is_err() {
                    self.say(|| "the backoff could not be written".into());
                }
                self.complain(&failure.text);
                self.say(|| format!("{}; again in {}", failure.text, short(wait)));
                self.connect_at = Some(now + wait);
            }
        }
    }

    fn something_is_heard(&self) -> bool {
        let Some(ears) = &self.ears else { return false };
        let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(ears, PollFlags::IN)], Some(&none)).is_ok_and(|ready| ready > 0)
    }

    fn lost(&mut self, error: &LinkError) {
        if self.far.take().is_some() {
            self.say(|| format!("connection lost: {error}"));
            for watched in &mut self.boxes {
                watched.far = FarSide::Untold;
            }
            self.lost_since = None;
            self.connect_at = Some(clock::now());
        }
    }

    /// Settles one suspicion. True if there was one.
    fn look_far(&mut self) -> bool {
        let suspect = |watched: &Watched| matches!(watched.far, FarSide::Suspect);
        let Some(at) = self.boxes.iter().position(suspect) else { return false };
        let finding = self.settle(at);
        if let Some(watched) = self.boxes.get_mut(at) {
            if let Some(finding) = finding {
                let name = watched.mailbox.near.clone();
                let text = match &finding {
                    Finding::Clean => None,
                    Finding::Changed(changes) => Some(format!("{name}: to pull: {changes}")),
                    Finding::Unknown(why) => Some(format!("{name}: cannot be told: {why}")),
                };
                watched.far = FarSide::Found(finding);
                if let Some(text) = text {
                    self.say(|| text);
                }
            }
        }
        self.unstick(at);
        true
    }

    /// `None`: the connection was lost over it.
    fn settle(&mut self, at: usize) -> Option<Finding> {
        let far = self.far.as_mut()?;
        let watched = self.boxes.get(at)?;
        let (key, status) = (key(&watched.mailbox), far.status(at));
        let rules = match &watched.rules {
            Ok(rules) => rules.clone(),
            Err(why) => return Some(Finding::Unknown(why.clone())),
        };
        let Some(status) = status else {
            return Some(Finding::Unknown("not on the server".into()));
        };
        let state = watched.mailbox.state_file.as_deref().map(syncstate::read);
        let record: Record = match state {
            Some(State::Known(record)) => record,
            Some(State::NeverSynced) => return Some(remote::never_synced(&status)),
            Some(State::Unfinished) => {
                return Some(Finding::Unknown("mbsync was interrupted".into()));
            }
            Some(State::Unreadable { why }) => return Some(Finding::Unknown(why)),
            None => return Some(Finding::Unknown("no record".into())),
        };
        let known = self.seen.get(&key).cloned().unwrap_or_default();
        let needed = match remote::suspect(&status, known.far.as_ref(), Some(&record), &rules) {
            Suspicion::Clean => return Some(Finding::Clean),
            Suspicion::Unknown(why) => return Some(Finding::Unknown(why)),
            Suspicion::Look(needed) => needed,
        };
        let since = match needed {
            Needed::Whole => None,
            Needed::ChangedSince(since) => Some(since),
        };
        // SELECT, once, to learn whether $Forwarded is kept; EXAMINE does not tell.
        let opening = if known.forwarded.is_none() { Opening::Select } else { Opening::Examine };
        let look = match far.look(at, opening, since) {
            Ok(Some(look)) => look,
            Ok(None) => {
                return Some(Finding::Unknown("its name cannot be said to the server".into()));
            }
            Err(LinkError::Refused(answer)) => return Some(Finding::Unknown(answer.text)),
            Err(error) => {
                self.lost(&error);
                return None;
            }
        };
        let finding = remote::settle(&record, &rules, &look.uids, &fetched(&look));
        let entry = self.seen.entry(key).or_default();
        if look.forwarded.is_some() && entry.forwarded != look.forwarded {
            entry.forwarded = look.forwarded;
            self.unsaved.0 = true;
        }
        if finding == Finding::Clean {
            entry.far = Some(remote::Remembered::new(status, &record, &rules));
            self.unsaved.0 = true;
            // What happened during the look is a suspicion of its own.
            if self.far.as_ref().and_then(|far| far.status(at)) != Some(status) {
                return None;
            }
        }
        Some(finding)
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
            self.lost_since = None;
            if self.far.is_none() && self.scene.account.server.is_some() {
                self.connect_at = Some(now);
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

    /// Runs mbsync if something calls for it and nothing forbids it.
    fn sync_if_needed(&mut self) -> Step {
        let asked = self.disk.next_due() == Some(Duration::ZERO);
        let (dirty, whole) = self.dirty();
        let full = self.full_run_is_due();
        if !asked && dirty.is_empty() && !whole && !full {
            return Step::Nothing;
        }
        if self.disk.gate(false, false) != Gate::Open {
            return Step::Nothing;
        }
        match self.disk.lock() {
            Locked::Held => {}
            Locked::Stopped => return Step::Again,
            Locked::TooLong => {
                self.complain("another process holds the lock for too long");
                self.deaf_at = clock::now();
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
        let mut wants: BTreeSet<Want> = dirty.iter().map(|(want, _)| want.clone()).collect();
        if full || whole {
            self.say(|| {
                if full { "a full run is due".into() } else { "new mailboxes on the server".into() }
            });
            wants = BTreeSet::from([Want::Account]);
        }
        self.disk.demand(&self.scene.account.canonical(&wants), false);
        let before = self.look_before(&wants, full || whole || asked);
        self.save();
        let found_change = full && dirty.is_empty();
        let report = self.run_lending();
        self.disk.unlock();
        self.take_back(report.loan.as_ref());
        self.last_run = self.which_run();
        self.run_ended = clock::now();
        self.report(&report);
        if let Exit::Signal(signal) = report.ended.exit {
            return Step::End(End::Stopped(signal));
        }
        let served = matches!(report.ended.exit, Exit::Done | Exit::Mailbox);
        if served {
            // A run that was cut off says nothing of what it would have left.
            self.unsaved.1 |= !before.is_empty();
            self.stuck.extend(before);
        }
        if served && !self.manner.endless {
            self.save();
            return Step::End(End::Synced);
        }
        if served && found_change {
            self.doubt_silence(&report);
        }
        self.ask_again(&wants);
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
            Exit::Done => print(&format!("{name}: {text}")),
            _ => print(&format!("mutt-sync: {name}: {text}")),
        }
    }

    /// After a run, ours: what it moved is asked about again.
    fn ask_again(&mut self, wants: &BTreeSet<Want>) {
        if wants.contains(&Want::Account) {
            self.enumerate();
        }
        for watched in &mut self.boxes {
            if wants.iter().any(|want| covers(want, &watched.mailbox)) {
                watched.near = Near::Unasked;
                watched.touched = None;
                if matches!(watched.far, FarSide::Found(_)) {
                    watched.far = FarSide::Suspect;
                }
            }
        }
        self.refresh_far();
    }

    /// The timer's run found something that NOTIFY had not told: this server
    /// takes the command and keeps silent.
    fn doubt_silence(&mut self, report: &disk::Report) {
        let pulled: u32 = report.changes.iter().map(|change| change.pulled).sum();
        let Some(far) = &mut self.far else { return };
        if pulled > 0 && far.rung() == Rung::Notify {
            self.highest = far.distrust();
            self.complain("the server accepted NOTIFY and told nothing; going on with IDLE");
            self.reconnect_now();
        }
    }

    /// How each mailbox looks before a run that may leave it as it is.
    fn look_before(&self, wants: &BTreeSet<Want>, all: bool) -> Vec<(String, Fingerprint)> {
        let mut looks = Vec::new();
        for (at, watched) in self.boxes.iter().enumerate() {
            if !all && !wants.iter().any(|want| covers(want, &watched.mailbox)) {
                continue;
            }
            let clean = matches!(watched.near, Near::Found(Finding::Clean) | Near::Unasked)
                && !matches!(
                    watched.far,
                    FarSide::Found(Finding::Changed(_) | Finding::Unknown(_))
                );
            if !clean {
                looks.push((key(&watched.mailbox), self.fingerprint(at)));
            }
        }
        if let Some(far) = self.far.as_ref().filter(|far| all && !far.only_there().is_empty()) {
            looks.push((ONLY_THERE.to_owned(), only_there_fingerprint(far)));
        }
        looks
    }

    fn fingerprint(&self, at: usize) -> Fingerprint {
        let looked = self.boxes.get(at).map(|watched| watched.looked.clone()).unwrap_or_default();
        Fingerprint { far: self.far.as_ref().and_then(|far| far.status(at)), ..looked }
    }

    /// The mailboxes that need a run, and whether only a run of the whole
    /// account will do.
    fn dirty(&self) -> (Vec<(Want, String)>, bool) {
        let mut found = Vec::new();
        for (at, watched) in self.boxes.iter().enumerate() {
            let clean = Finding::Clean;
            let near = match &watched.near {
                Near::Found(finding) => finding,
                Near::Unasked => &clean,
            };
            let far = match &watched.far {
                FarSide::Found(finding) => Some(finding),
                FarSide::Suspect | FarSide::Untold => None,
            };
            if *near == Finding::Clean && far.is_none_or(|far| *far == Finding::Clean) {
                continue;
            }
            // A change that mutt is still making is waited for.
            if watched.touched.is_some() && matches!(far, None | Some(Finding::Clean)) {
                continue;
            }
            let now = self.fingerprint(at);
            let stuck = self.stuck.get(&key(&watched.mailbox));
            if let Some(why) = need::reason(&Known { near, far, now: &now, stuck }) {
                let mailbox = &watched.mailbox;
                let want = if mailbox.addressable {
                    Want::Mailbox { channel: mailbox.channel.clone(), name: mailbox.name.clone() }
                } else {
                    Want::Channel(mailbox.channel.clone())
                };
                found.push((want, why));
            }
        }
        (found, self.new_on_server())
    }

    fn new_on_server(&self) -> bool {
        let Some(far) = &self.far else { return false };
        let stuck = self.stuck.get(ONLY_THERE);
        !far.only_there().is_empty() && stuck != Some(&only_there_fingerprint(far))
    }

    fn full_run_is_due(&self) -> bool {
        self.full_run_in().is_zero()
    }

    /// Time to the next full run; never longer than `every`, whatever the clock says.
    fn full_run_in(&self) -> Duration {
        let last: Last = self.disk.dir().read_json(last::FILE).unwrap_or_default();
        let every = self.scene.settings.every;
        let Some(last) = last.last_whole else { return Duration::ZERO };
        let next = Duration::from_secs(last) + every;
        next.saturating_sub(Duration::from_secs(seconds(SystemTime::now()))).min(every)
    }

    // Blocking.

    /// Waits for anything to happen. True if the connection was lost instead.
    fn block(&mut self) -> bool {
        if let Some(far) = &mut self.far {
            let heard = far.block().and_then(|()| far.heard());
            match heard {
                Ok(changed) if changed.is_empty() => {}
                Ok(changed) => {
                    for at in changed {
                        self.far_changed(at);
                    }
                    return true;
                }
                Err(error) => {
                    self.lost(&error);
                    return true;
                }
            }
        }
        let deadline = self.deadline();
        if self.alarm.set(deadline).is_err() {
            std::thread::sleep(Duration::from_millis(100));
            return true;
        }
        let far_fds = self.far.as_ref().map(Far::poll_fds).unwrap_or_default();
        let mut fds = vec![
            PollFd::new(self.stop, PollFlags::IN),
            PollFd::new(self.halt, PollFlags::IN),
            PollFd::new(&self.alarm, PollFlags::IN),
        ];
        fds.extend(self.ears.iter().map(|ears| PollFd::new(ears, PollFlags::IN)));
        fds.extend(far_fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let _ = poll(&mut fds, None);
        drop(fds);
        drop(far_fds);
        self.alarm.heard();
        false
    }

    /// When something becomes due by itself (time since boot).
    fn deadline(&mut self) -> Duration {
        let now = clock::now();
        let settle = self.scene.settings.settle;
        let mut next = now + Duration::from_secs(24 * 3600);
        let mut at_latest = |at: Duration| next = next.min(at);
        for watched in &self.boxes {
            if let Some((first, last)) = watched.touched {
                at_latest((last + settle).min(first + settle * PATIENCE));
            }
        }
        if self.ears.as_ref().is_none_or(|ears| !ears.deaf().is_empty()) {
            at_latest(self.deaf_at);
        }
        match &self.far {
            Some(far) => {
                at_latest(self.renew_at);
                if far.rung() != Rung::Notify {
                    at_latest(self.sweep_at);
                }
            }
            None => self.connect_at.iter().for_each(|at| at_latest(*at)),
        }
        // Whole seconds on the wall clock: not before they have passed.
        let mut wanted = Some(self.full_run_in());
        if !self.dirty().0.is_empty() || self.new_on_server() {
            wanted = Some(Duration::ZERO);
        }
        if let Some(due) = self.disk.next_due() {
            wanted = wanted.min(Some(due));
        }
        if let Some(due) = wanted {
            let gate = match self.disk.gate(false, false) {
                Gate::Open => Duration::ZERO,
                Gate::Throttled(wait) | Gate::BackingOff(wait) => wait,
            };
            at_latest(now + due.max(gate).max(Duration::from_millis(10)));
        }
        next
    }

    /// A descriptor that ends a connect at once: when a signal comes, when
    /// another account ends the waiting, and when something here wants a run.
    fn interrupt(&self) -> std::io::Result<Breaker> {
        let all = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let data = epoll::EventData::new_u64(0);
        epoll::add(&all, self.stop, data, epoll::EventFlags::IN)?;
        epoll::add(&all, self.halt, data, epoll::EventFlags::IN)?;
        let ears = match &self.ears {
            Some(ears) => {
                let ears = rustix::io::fcntl_dupfd_cloexec(ears, 3)?;
                epoll::add(&all, &ears, data, epoll::EventFlags::IN)?;
                Some(ears)
            }
            None => None,
        };
        Ok(Breaker { interrupt: Interrupt::when_readable(Arc::clone(&all)), all, ears })
    }

    fn save(&mut self) {
        if std::mem::take(&mut self.unsaved.0) {
            self.seen.retain(|at, _| self.boxes.iter().any(|watched| key(&watched.mailbox) == *at));
            if let Err(error) = self.disk.dir().write_json(seen::FILE, &self.seen) {
                self.complain(&format!("cannot remember what was seen: {error}"));
            }
        }
        if std::mem::take(&mut self.unsaved.1) {
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

struct Breaker {
    interrupt: Interrupt,
    all: Arc<OwnedFd>,
    ears: Option<OwnedFd>,
}

impl Breaker {
    /// From now on only what ends the process ends a dialogue.
    fn only_stop(&self) {
        if let Some(ears) = &self.ears {
            let _ = epoll::delete(&self.all, ears);
        }
    }
}

/// Where the mailboxes that are only on the server stand in `stuck.json`.
const ONLY_THERE: &str = "";

fn only_there_fingerprint(far: &Far) -> Fingerprint {
    let count = u32::try_from(far.only_there().len()).unwrap_or(u32::MAX);
    let status = Status { uid_validity: 0, uid_next: 0, messages: count, highest_modseq: None };
    Fingerprint { far: Some(status), ..Fingerprint::default() }
}

fn said(status: Status) -> String {
    format!("{} messages, next UID {}", status.messages, status.uid_next)
}

fn fetched(look: &imap::Look) -> Fetched {
    let flags = look.flags.clone();
    if look.all_flags { Fetched::Whole(flags) } else { Fetched::ChangedSince(flags) }
}

fn print(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
