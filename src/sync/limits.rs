//! How soon an account may log in or run again, by what all processes have done: the
//! throttle of logins, the pace of runs, and the allowance of bytes.
//!
//! Reads and writes their stamps. Does not depend on: requests, locks, why a run is
//! needed.

use std::time::{Duration, SystemTime};

use crate::settings::Settings;
use crate::state::last_run::{LastRun, millis};
use crate::state::pace::{self, ALLOWANCE, PERSON, Pace};
use crate::state::{StateDir, stamp, throttle};

/// The limits of an account.
#[derive(Debug)]
pub struct RunLimits<'a> {
    dir: &'a StateDir,
    settings: &'a Settings,
    /// A person waits.
    person: bool,
}

impl<'a> RunLimits<'a> {
    /// Those of the account with this state directory, for a person or for others.
    #[must_use]
    pub fn new(dir: &'a StateDir, settings: &'a Settings, person: bool) -> Self {
        RunLimits { dir, settings, person }
    }

    fn pace(&self) -> Pace {
        Pace { throttle: self.settings.throttle }
    }

    /// How long a run over an open connection has to wait: for its pace, and for the
    /// throttle where too many bytes have been moved.
    #[must_use]
    pub fn pace_wait(&self, now: SystemTime) -> Duration {
        let last = LastRun::read(self.dir);
        let pace = self.pace();
        let took = Duration::from_millis(last.took);
        let paced = stamp::read(self.dir, pace::RUNS, pace.longest(took), now);
        let moved = stamp::read(self.dir, pace::BYTES, ALLOWANCE.longest(), now);
        let wait = pace.wait(paced, took, now);
        if !ALLOWANCE.is_spent(moved, now) {
            return wait;
        }
        let since = Duration::from_millis(millis(now).saturating_sub(last.started));
        wait.max(pace.throttle.saturating_sub(since))
    }

    /// How long a login has to wait: a person's, or any.
    #[must_use]
    pub fn login_wait(&self, now: SystemTime) -> Duration {
        if self.person {
            return self.person_wait(now);
        }
        let rate = self.settings.rate();
        rate.wait(stamp::read(self.dir, throttle::FILE, rate.longest(), now), now)
    }

    /// The same for a person, or for `--force`. Without a throttle there is no limit.
    #[must_use]
    pub fn person_wait(&self, now: SystemTime) -> Duration {
        let unlimited = self.settings.throttle.is_zero();
        if unlimited { Duration::ZERO } else { PERSON.wait(self.person_logins(now), now) }
    }

    fn person_logins(&self, now: SystemTime) -> Option<SystemTime> {
        stamp::read(self.dir, pace::LOGINS, PERSON.longest(), now)
    }

    /// Counts a login, ours or mbsync's. `by_person`: one that no throttle held up.
    pub fn count_login(&self, by_person: bool) {
        let (now, rate) = (SystemTime::now(), self.settings.rate());
        // Lost, it is one too many.
        let tat = rate.consume(stamp::read(self.dir, throttle::FILE, rate.longest(), now), now);
        let _ = stamp::write(self.dir, throttle::FILE, tat);
        if by_person {
            let logins = PERSON.consume(self.person_logins(now), now);
            let _ = stamp::write(self.dir, pace::LOGINS, logins);
        }
    }

    /// Counts what a run has cost.
    pub fn count_run(&self, took: Duration, bytes: u64) {
        let now = SystemTime::now();
        let _ = stamp::write(self.dir, pace::RUNS, self.pace().stamp(now, took));
        if bytes > 0 {
            let moved = stamp::read(self.dir, pace::BYTES, ALLOWANCE.longest(), now);
            let moved = ALLOWANCE.consume(moved, bytes, now);
            let _ = stamp::write(self.dir, pace::BYTES, moved);
        }
    }
}
