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
        let moved = ALLOWANCE.read(self.dir, now);
        let wait = pace.wait(paced, took, now);
        if !ALLOWANCE.is_spent(moved, now) {
            return wait;
        }
        // A start in the future is from a clock that was ahead, and was long ago.
        let since = millis(now).checked_sub(last.started);
        let since = since.map_or(pace.throttle, Duration::from_millis);
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
            let moved = ALLOWANCE.consume(ALLOWANCE.read(self.dir, now), bytes, now);
            let _ = stamp::write(self.dir, pace::BYTES, moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::last_run;

    #[test]
    fn g4_a_clock_set_back_holds_up_no_run_when_the_bytes_are_spent() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let settings = Settings { throttle: Duration::from_secs(60), ..Settings::default() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let wait = |ahead: i64| {
            stamp::write(&dir, pace::BYTES, now + ALLOWANCE.longest()).unwrap();
            let started = millis(now).checked_add_signed(ahead * 1000).unwrap();
            let last = LastRun { started, ..LastRun::default() };
            dir.write_json(last_run::FILE, &last).unwrap();
            RunLimits::new(&dir, &settings, false).pace_wait(now).as_secs()
        };
        // Seconds from now to the start of the last run.
        assert_eq!([-60, -50, 0].map(wait), [0, 10, 60]);
        assert_eq!([1, 3600, 86_400].map(wait), [0; 3]);
    }
}
