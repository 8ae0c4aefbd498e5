//! The throttle: a rate limit, with a burst, on the logins of an account and on the runs
//! that nothing was compared for.
//!
//! One timestamp, the mtime of `throttle`: the theoretical arrival time (TAT) of
//! the generic cell rate algorithm (ITU-T I.371), at which a whole burst is free
//! again. Each of them moves it forward by one interval. Wall-clock times are
//! values here. Does not depend on: clocks, when a run is due.

use std::time::{Duration, SystemTime};

use super::stamp;

/// The account's file, for [`stamp::read`] and [`stamp::write`].
pub const FILE: &str = "throttle";

/// The two settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Average interval between two of them. Zero: no throttle.
    pub interval: Duration,
    /// How many may come at once before the interval is enforced; at least 1.
    pub burst: u32,
}

impl Rate {
    /// How long after `now` the next one may be; zero: at once.
    ///
    /// Never more than one interval, whatever the stamp says: a stamp from a
    /// clock that was ahead counts as a burst just spent.
    #[must_use]
    pub fn wait(self, tat: Option<SystemTime>, now: SystemTime) -> Duration {
        let ahead = self.ahead(tat, now);
        ahead.saturating_sub(self.interval.saturating_mul(self.burst.max(1) - 1)).min(self.interval)
    }

    /// The stamp after one at `now`, allowed or forced. A forced one beyond the burst
    /// costs nothing more: the wait stays one interval.
    #[must_use]
    pub fn consume(self, tat: Option<SystemTime>, now: SystemTime) -> SystemTime {
        let ahead = self.ahead(tat, now) + self.interval;
        now + ahead.min(self.longest())
    }

    /// How far the stamp can be ahead.
    #[must_use]
    pub fn longest(self) -> Duration {
        self.interval.saturating_mul(self.burst.max(1))
    }

    fn ahead(self, tat: Option<SystemTime>, now: SystemTime) -> Duration {
        stamp::ahead(tat, self.longest(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn g4_a_burst_then_the_distance() {
        let rate = Rate { interval: T, burst: 4 };
        let mut tat = None;
        for _ in 0..4 {
            assert_eq!(rate.wait(tat, at(0)), Duration::ZERO);
            tat = Some(rate.consume(tat, at(0)));
        }
        assert_eq!(rate.wait(tat, at(0)), T);
        assert_eq!(rate.wait(tat, at(59)), Duration::from_secs(1));
        assert_eq!(rate.wait(tat, at(60)), Duration::ZERO);
    }

    #[test]
    fn g4_burst_one_is_strict() {
        let rate = Rate { interval: T, burst: 1 };
        let tat = Some(rate.consume(None, at(0)));
        assert_eq!(rate.wait(tat, at(1)), Duration::from_secs(59));
    }

    #[test]
    fn g4_forced_runs_make_no_debts() {
        let rate = Rate { interval: T, burst: 4 };
        let mut tat = None;
        for _ in 0..20 {
            tat = Some(rate.consume(tat, at(0)));
        }
        assert_eq!(rate.wait(tat, at(0)), T);
        assert_eq!(rate.wait(tat, at(60)), Duration::ZERO);
    }

    #[test]
    fn g4_a_stamp_in_the_future_blocks_one_distance_at_most() {
        let rate = Rate { interval: T, burst: 4 };
        assert_eq!(rate.wait(Some(at(10_000_000)), at(0)), T);
    }

    #[test]
    fn g4_a_stamp_in_the_future_passes_within_one_distance() {
        let base = tempfile::tempdir().unwrap();
        let dir = crate::state::StateDir::open(base.path(), "Home").unwrap();
        let rate = Rate { interval: T, burst: 4 };
        let read = |now| stamp::read(&dir, FILE, rate.longest(), now);
        stamp::write(&dir, FILE, at(10_000_000)).unwrap();
        assert_eq!(rate.wait(read(at(0)), at(0)), T);
        assert_eq!(rate.wait(read(at(59)), at(59)), Duration::from_secs(1));
        assert_eq!(rate.wait(read(at(60)), at(60)), Duration::ZERO);
    }

    proptest! {
        /// Against the plain statement of the promise: in any stretch of time no
        /// more than `burst` runs plus one per whole interval.
        #[test]
        fn g4_runs_never_exceed_the_rate(
            steps in prop::collection::vec(0_u64..40, 1..200),
            burst in 1_u32..6,
        ) {
            let rate = Rate { interval: T, burst };
            let (mut now, mut tat, mut runs) = (0, None, Vec::new());
            for step in steps {
                now += step;
                if rate.wait(tat, at(now)).is_zero() {
                    tat = Some(rate.consume(tat, at(now)));
                    runs.push(now);
                }
            }
            for (i, first) in runs.iter().enumerate() {
                for (j, last) in runs.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (last - first) / 60;
                    prop_assert!((j - i + 1) as u64 <= allowed);
                }
            }
        }

        /// Whatever the clock does and however many runs were forced, the wait
        /// is never longer than one interval.
        #[test]
        fn g4_never_blocks_longer_than_one_distance(
            clock in prop::collection::vec(0_u64..100_000, 1..100),
            burst in 1_u32..6,
        ) {
            let rate = Rate { interval: T, burst };
            let mut tat = None;
            for now in clock {
                prop_assert!(rate.wait(tat, at(now)) <= T);
                tat = Some(rate.consume(tat, at(now)));
                prop_assert!(rate.wait(tat, at(now)) <= T);
            }
        }
    }
}
