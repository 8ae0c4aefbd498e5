//! The loop that waits for one account.
//!
//! Level-triggered: whatever wakes it, it asks the same questions again, in the
//! same order, and blocks only when none of them has an answer that calls for
//! action. An event tells which mailbox to ask about; it never is the answer.
//!
//! What follows from what is known stands elsewhere, as values: [`super::boxes`]
//! (each mailbox), [`super::need`] (what to run), [`super::reach`] (when to
//! connect). Here it is put in order.

mod blocking;
mod hearing;
mod lend;
mod near;
mod places;
mod running;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::outcome::{Exit, Failure, with_mend};
use crate::state::lock::Lock;
use crate::state::{seen, state_failure};
use crate::stop::Stop;
use crate::sync::disk::{self, Disk, Scene};
use crate::sync::serve;
use crate::verdict::Seen;
use crate::verdict::gone::Gone;
use crate::watch::boxes::{Touched, Watched};
use crate::watch::clock::{self, Alarm, Jump};
use crate::watch::ears::{Ears, Heard};
use crate::watch::far::{Far, RENEW, Rung};
use crate::watch::need::Memory;
use crate::watch::reach::Reach;
use crate::watch::talk::Talk;
use crate::watch::turn::{self, Turn};
use crate::watch::{End, Halt, Manner};

/// How often a mailbox that the kernel has no watch for is looked at.
const LOOK_AT_DEAF: Duration = Duration::from_secs(15);
/// Dovecot speaks half a second after a change, sometimes twice: what is heard
/// so long after somebody's run may be its echo.
const ECHO: Duration = Duration::from_secs(3);

/// The waiter of one account.
struct Waiter<'a> {
    scene: Scene<'a>,
    manner: &'a Manner<'a>,
    leads: bool,
    stop: &'a Stop,
    halt: &'a Halt,
    disk: Disk<'a>,
    ears: Option<Ears>,
    /// Events of watches that have been replaced, not acted on yet.
    unheard: Heard,
    alarm: Alarm,
    jump: Option<Jump>,
    boxes: Vec<Watched>,
    seen: BTreeMap<String, Seen>,
    /// What runs have removed.
    gone: BTreeMap<String, Gone>,
    stuck: Memory,
    unsaved: Unsaved,
    far: Option<Far>,
    loans: lend::Loans,
    highest: Rung,
    reach: Reach,
    talk: Talk,
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
    /// How often it had spoken when it last kept silent.
    silent_at: Option<u64>,
    complaints: BTreeSet<String>,
    config_prints: Vec<Option<u64>>,
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
    let config_prints = manner.config_prints();
    let mut in_background = disk::Manner::in_background(scene.settings);
    in_background.verbose = manner.verbose;
    let disk = Disk::open(scene, stop.clone(), in_background)?;
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Later, format!("cannot wait: {}", with_mend(&error)))
    };
    let stands_by = || {
        if manner.verbose {
            print(&format!("{}: another waiter is alive; standing by", scene.account.name));
        }
    };
    let turn = turn::wait(&disk.dir().file("waiter.lock"), stop, halt, stands_by);
    let no_lock = |error: std::io::Error| {
        let file = disk.dir().file("waiter.lock");
        state_failure(&error, &format!("cannot wait: {}", file.display()))
    };
    let waiting = match turn.map_err(no_lock)? {
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
        gone: disk.dir().read_json(seen::GONE).unwrap_or_default(),
        stuck: disk.dir().read_json(seen::STUCK).unwrap_or_default(),
        scene,
        manner,
        leads,
        stop,
        halt,
        disk,
        ears: None,
        unheard: Heard::default(),
        alarm: Alarm::new().map_err(failed)?,
        jump: Jump::new().ok(),
        boxes: Vec::new(),
        unsaved: Unsaved::default(),
        far: None,
        loans: lend::Loans::default(),
        highest: Rung::Notify,
        reach: Reach::new(scene.account.server.is_some(), now),
        talk: Talk::default(),
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
        silent_at: None,
        complaints: BTreeSet::new(),
        config_prints,
    };
    waiter.last_run = waiter.which_run();
    waiter.enumerate();
    Ok(Ok((waiting, waiter)))
}

impl Waiter<'_> {
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
            // A look may find the first half of what mutt is doing at this moment; the
            // event that says so is told only now.
            if self.look_near() && self.listen() {
                return End::Reload;
            }
            if !self.is_looking() {
                match self.sync_if_needed() {
                    Step::Nothing => {}
                    Step::Again => continue,
                    Step::End(end) => return end,
                }
            }
            // No descriptor becomes readable for these.
            if !self.unheard.nothing() {
                continue;
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
}

/// What came of a step.
enum Step {
    Nothing,
    Again,
    End(End),
}

fn print(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", crate::words::shown(line));
}
