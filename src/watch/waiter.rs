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

use crate::error::{Error, ExitStatus, with_hint};
use crate::os::signals::Shutdown;
use crate::state::lock::Lock;
use crate::state::{clean, state_failure};
use crate::sync::account::{self, AccountBackend, AccountContext};
use crate::sync::scheduler;
use crate::verdict::CleanState;
use crate::verdict::gone::Gone;
use crate::watch::clock::{self, Alarm, Jump};
use crate::watch::event_limit::EventLimiter;
use crate::watch::local::{LocalEvents, LocalWatcher};
use crate::watch::mailbox::{Debounce, MailboxState};
use crate::watch::plan::StuckState;
use crate::watch::reconnect::ReconnectPolicy;
use crate::watch::server::{RENEW, ServerWatch, WatchMode};
use crate::watch::standby::{self, Standby};
use crate::watch::{Cancel, WaitEnd, WatchOptions};

/// How often a mailbox that the kernel has no watch for is looked at.
const LOOK_AT_DEAF: Duration = Duration::from_secs(15);
/// Dovecot speaks half a second after a change, sometimes twice: what is heard
/// so long after somebody's run may be its echo.
const ECHO: Duration = Duration::from_secs(3);

/// The waiter of one account.
struct Waiter<'a> {
    scene: AccountContext<'a>,
    manner: &'a WatchOptions<'a>,
    leads: bool,
    stop: &'a Shutdown,
    halt: &'a Cancel,
    disk: AccountBackend<'a>,
    ears: Option<LocalWatcher>,
    /// Events of watches that have been replaced, not acted on yet.
    unheard: LocalEvents,
    alarm: Alarm,
    jump: Option<Jump>,
    boxes: Vec<MailboxState>,
    seen: BTreeMap<String, CleanState>,
    /// What runs have removed.
    gone: BTreeMap<String, Gone>,
    stuck: StuckState,
    unsaved: Unsaved,
    far: Option<ServerWatch>,
    loans: lend::LeaseStats,
    highest: WatchMode,
    reach: ReconnectPolicy,
    talk: EventLimiter,
    /// So many attempts to connect in a row were broken off for something more
    /// urgent.
    rushed: u32,
    /// When a request was first noticed.
    requested: Option<Debounce>,
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
pub fn wait(
    scene: AccountContext<'_>,
    manner: &WatchOptions<'_>,
    leads: bool,
    stop: &Shutdown,
    halt: &Cancel,
) -> WaitEnd {
    match begin(scene, manner, leads, stop, halt) {
        Err(failure) => WaitEnd::Failed(failure),
        Ok(Err(end)) => end,
        Ok(Ok((waiting, mut waiter))) => {
            let end = waiter.run();
            waiter.save();
            waiter.tell_warm(false);
            if let Some(far) = waiter.far.take() {
                if !matches!(end, WaitEnd::Stopped(_)) {
                    far.close();
                }
            }
            drop(waiting);
            // A request that came while we were still believed to wait. Who ends us by
            // a signal wants nothing of ours to go on; it stands for the next.
            if !matches!(end, WaitEnd::Reload | WaitEnd::Stopped(_)) {
                scheduler::recheck_after_release(&mut waiter.disk);
            }
            end
        }
    }
}

type Begun<'a> = Result<(Lock, Waiter<'a>), WaitEnd>;

fn begin<'a>(
    scene: AccountContext<'a>,
    manner: &'a WatchOptions<'a>,
    leads: bool,
    stop: &'a Shutdown,
    halt: &'a Cancel,
) -> Result<Begun<'a>, Error> {
    let config_prints = manner.config_prints();
    let mut in_background = account::RunOptions::in_background(scene.settings);
    in_background.verbose = manner.verbose;
    let disk = AccountBackend::open(scene, stop.clone(), in_background)?;
    let failed = |error: std::io::Error| {
        Error::new(ExitStatus::Later, format!("cannot wait: {}", with_hint(&error)))
    };
    let stands_by = || {
        if manner.verbose {
            print(&format!("{}: another waiter is alive; standing by", scene.account.name));
        }
    };
    let turn = standby::wait(&disk.dir().file("waiter.lock"), stop, halt, stands_by);
    let no_lock = |error: std::io::Error| {
        let file = disk.dir().file("waiter.lock");
        state_failure(&error, &format!("cannot wait: {}", file.display()))
    };
    let waiting = match turn.map_err(no_lock)? {
        Standby::Ours { lock, waited } => {
            if waited && manner.verbose {
                print(&format!("{}: the other waiter has ended", scene.account.name));
            }
            lock
        }
        Standby::Halted => return Ok(Err(WaitEnd::Halted)),
        Standby::Stopped(signal) => return Ok(Err(WaitEnd::Stopped(signal))),
    };
    let now = clock::now();
    let mut waiter = Waiter {
        seen: disk.dir().read_json(clean::FILE).unwrap_or_default(),
        gone: disk.dir().read_json(clean::GONE).unwrap_or_default(),
        stuck: disk.dir().read_json(clean::STUCK).unwrap_or_default(),
        scene,
        manner,
        leads,
        stop,
        halt,
        disk,
        ears: None,
        unheard: LocalEvents::default(),
        alarm: Alarm::new().map_err(failed)?,
        jump: Jump::new().ok(),
        boxes: Vec::new(),
        unsaved: Unsaved::default(),
        far: None,
        loans: lend::LeaseStats::default(),
        highest: WatchMode::Notify,
        reach: ReconnectPolicy::new(scene.account.server.is_some(), now),
        talk: EventLimiter::default(),
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
    fn run(&mut self) -> WaitEnd {
        // Edited while we stood by.
        if self.config_is_new() {
            return WaitEnd::Reload;
        }
        loop {
            if let Some(signal) = self.stop.signal() {
                return WaitEnd::Stopped(signal);
            }
            if self.halt.is_raised() {
                return WaitEnd::Halted;
            }
            if self.listen() {
                return WaitEnd::Reload;
            }
            // A look may find the first half of what mutt is doing at this moment; the
            // event that says so is told only now.
            if self.look_near() && self.listen() {
                return WaitEnd::Reload;
            }
            if !self.is_looking() {
                match self.sync_if_needed() {
                    LoopStep::Nothing => {}
                    LoopStep::Again => continue,
                    LoopStep::WaitEnd(end) => return end,
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
enum LoopStep {
    Nothing,
    Again,
    WaitEnd(WaitEnd),
}

fn print(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", crate::text::sanitize(line));
}
