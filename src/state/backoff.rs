//! The backoff after a failure: exponential, jittered, kept in `retry.json`, so
//! that no restart starts a storm.
//!
//! Knows wall-clock times and a failure's exit status as values.
//!
//! Does not depend on: clocks, files, what was tried.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::StateDir;
use crate::error::ExitStatus;

/// The account's file.
pub const FILE: &str = "retry.json";

/// What is remembered of failures in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Failures since the last success.
    pub failures: u32,
    /// Exit status of the last one.
    pub code: u8,
    /// Seconds since the epoch at which the first of them with this status failed;
    /// 0.1.0 does not note it.
    #[serde(default)]
    pub first: Option<u64>,
    /// Seconds since the epoch at which it failed.
    pub since: u64,
    /// Seconds since the epoch before which there is no automatic try.
    pub until: u64,
    /// What it said.
    pub text: String,
    /// See [`crate::error::Error::costly`]; 0.1.0 does not note it.
    #[serde(default)]
    pub costly: bool,
    /// The password command failed; 0.1.0 does not note it.
    #[serde(default)]
    pub password_command: bool,
}

impl Backoff {
    /// What the file says.
    #[must_use]
    pub fn read(dir: &StateDir) -> Option<Self> {
        dir.read_json(FILE)
    }
}

/// The two settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// First wait.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
}

impl BackoffPolicy {
    /// The wait after so many failures in a row, before jitter. It is four times as long
    /// after a costly failure: a refused login may cost the address, a password command a prompt.
    #[must_use]
    pub fn delay(self, failures: u32, costly: bool) -> Duration {
        let first = if costly { self.first.saturating_mul(4) } else { self.first };
        first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest)
    }

    /// The memory of one more failure at `now`. `jitter` (0 to 1) spreads the wait
    /// over its last quarter, so that many machines do not come back at once.
    #[must_use]
    pub fn after(
        self,
        before: Option<&Backoff>,
        exit: ExitStatus,
        costly: bool,
        text: &str,
        now: SystemTime,
        jitter: f64,
    ) -> Backoff {
        let failures = before.map_or(0, |retry| retry.failures).saturating_add(1);
        let delay = self.delay(failures, costly).mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0));
        let alike = before.filter(|retry| retry.code == exit.code());
        Backoff {
            failures,
            code: exit.code(),
            first: Some(alike.map_or(seconds(now), |retry| retry.first.unwrap_or(retry.since))),
            since: seconds(now),
            until: seconds(now).saturating_add(delay.as_secs().max(u64::from(!delay.is_zero()))),
            text: text.to_owned(),
            costly,
            password_command: false,
        }
    }

    /// How long after `now` the next try is due; zero: at once.
    #[must_use]
    pub fn wait(self, retry: Option<&Backoff>, now: SystemTime) -> Duration {
        retry.map_or(Duration::ZERO, |retry| self.left(retry.since, retry.until, now))
    }

    /// What is left at `now` of a wait from `since` to `until`, in seconds since
    /// the epoch. It is void when the clock was set back behind its beginning,
    /// and never longer than the longest wait in all.
    #[must_use]
    pub fn left(self, since: u64, until: u64, now: SystemTime) -> Duration {
        if seconds(now) < since {
            return Duration::ZERO;
        }
        let until = until.min(since.saturating_add(self.longest.as_secs()));
        Duration::from_secs(until.saturating_sub(seconds(now)))
    }
}

/// Whole seconds since the epoch; 0 for a time before it.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy =
        BackoffPolicy { first: Duration::from_secs(30), longest: Duration::from_secs(900) };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn g12_doubles_up_to_the_longest() {
        let waits: Vec<u64> = (1..8).map(|n| POLICY.delay(n, false).as_secs()).collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(POLICY.delay(1, true).as_secs(), 120);
        assert_eq!(POLICY.delay(u32::MAX, true).as_secs(), 900);
    }

    #[test]
    fn jitter_only_shortens() {
        let full = POLICY.after(None, ExitStatus::Offline, false, "", at(1000), 0.0);
        let short = POLICY.after(None, ExitStatus::Offline, false, "", at(1000), 1.0);
        assert_eq!((full.until, short.until), (1030, 1022));
        let second = POLICY.after(Some(&full), ExitStatus::Offline, false, "", at(1030), 0.0);
        assert_eq!((second.failures, second.first), (2, Some(1000)));
        let other = POLICY.after(Some(&second), ExitStatus::Denied, true, "", at(1060), 0.0);
        assert_eq!((other.failures, other.first), (3, Some(1060)));
        // Less than a second is one, for seconds are kept; none is none.
        let until = |first| {
            let policy = BackoffPolicy { first, ..POLICY };
            policy.after(None, ExitStatus::Offline, false, "", at(1000), 0.0).until
        };
        assert_eq!((until(Duration::from_millis(10)), until(Duration::ZERO)), (1001, 1000));
    }

    #[test]
    fn g4_a_clock_set_back_ends_the_wait() {
        let retry = POLICY.after(None, ExitStatus::Offline, false, "", at(10_000_000), 0.0);
        assert_eq!(POLICY.wait(Some(&retry), at(5)), Duration::ZERO);
        let forged = Backoff { until: u64::MAX, ..retry.clone() };
        assert_eq!(POLICY.wait(Some(&forged), at(10_000_100)), Duration::from_secs(800));
        assert_eq!(POLICY.wait(Some(&retry), at(10_000_030)), Duration::ZERO);
        assert_eq!(POLICY.wait(None, at(5)), Duration::ZERO);
        // In the second of the failure itself the whole wait is left.
        assert_eq!(POLICY.wait(Some(&retry), at(10_000_000)), Duration::from_secs(30));
    }
}
