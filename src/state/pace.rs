//! How soon a run that has a reason may follow the last one: by what that one took, by
//! the bytes moved, and by the logins that a person makes.
//!
//! One timestamp each, in the files [`RUNS`], [`BYTES`] and [`LOGINS`]. Wall-clock times
//! are values here. Does not depend on: clocks, whether a run has a reason.

use std::time::{Duration, SystemTime};

use super::StateDir;
use super::stamp::{self, ahead};
use super::throttle::Rate;

/// When the next run may start.
pub const RUNS: &str = "pace";
/// When the whole allowance of bytes is free again.
pub const BYTES: &str = "bytes";
/// When all of [`PERSON`] is free again.
pub const LOGINS: &str = "logins";

/// Logins for which a person does not wait.
pub const PERSON: Rate = Rate { interval: Duration::from_secs(6), burst: 10 };

/// Least time between two runs.
const LEAST: Duration = Duration::from_secs(1);
/// After a run, mbsync rests so many times as long as that took: a tenth of the time is
/// spent in it.
const REST: u32 = 9;

/// The time between runs that have a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The setting: the longest rest, but for a run that took longer itself.
    pub throttle: Duration,
}

impl Pace {
    /// The rest after a run, or a connection and a run, of so long.
    #[must_use]
    pub fn rest(self, took: Duration) -> Duration {
        took.saturating_mul(REST).max(LEAST).min(self.longest(took))
    }

    /// How far the stamp after such a run can be ahead.
    #[must_use]
    pub fn longest(self, took: Duration) -> Duration {
        self.throttle.max(took)
    }

    /// The stamp after a run.
    #[must_use]
    pub fn stamp(self, ended: SystemTime, took: Duration) -> SystemTime {
        ended + self.rest(took)
    }

    /// How long after `now` the next run may start; zero: at once. `took`: how long the
    /// last run did. Never longer than [`Pace::longest`], whatever the stamp says.
    #[must_use]
    pub fn wait(self, stamp: Option<SystemTime>, took: Duration, now: SystemTime) -> Duration {
        ahead(stamp, self.longest(took), now)
    }
}

/// Bytes that runs may move before they keep the throttle.
///
/// The generic cell rate algorithm over bytes: the stamp is the time at which all of
/// them are free again. A run is counted when it is over, so it may overdraw the
/// allowance, by as much again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many at once.
    pub bytes: u64,
    /// How many are added in a second.
    pub per_second: u64,
}

/// A gibibyte a day. (Gmail's limit is 2.5 GB.)
pub const ALLOWANCE: Allowance = Allowance { bytes: 300 << 20, per_second: 12 << 10 };

impl Allowance {
    /// The time in which so many bytes are added.
    fn refill(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How far the stamp can be ahead.
    #[must_use]
    pub fn longest(self) -> Duration {
        self.refill(self.bytes).saturating_mul(2)
    }

    /// The stamp on disk. One from a clock that was ahead by more than that says nothing of
    /// a debt: all bytes are moved, and none is owed.
    #[must_use]
    pub fn read(self, dir: &StateDir, now: SystemTime) -> Option<SystemTime> {
        let limits = [self.longest(), self.refill(self.bytes)];
        stamp::read_or_set_back(dir, BYTES, limits, now)
    }

    /// The stamp after a run that moved so many bytes.
    #[must_use]
    pub fn consume(self, stamp: Option<SystemTime>, bytes: u64, now: SystemTime) -> SystemTime {
        let owed = ahead(stamp, self.longest(), now).saturating_add(self.refill(bytes));
        now + owed.min(self.longest())
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(self, stamp: Option<SystemTime>, now: SystemTime) -> bool {
        !self.wait(stamp, now).is_zero()
    }

    /// How long until something is left.
    #[must_use]
    pub fn wait(self, stamp: Option<SystemTime>, now: SystemTime) -> Duration {
        ahead(stamp, self.longest(), now).saturating_sub(self.refill(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Pace = Pace { throttle: Duration::from_secs(60) };

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000 + millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn g4_a_run_is_followed_by_nine_times_its_own_time() {
        assert_eq!(PACE.rest(ms(50)), ms(1000));
        assert_eq!(PACE.rest(ms(200)), ms(1800));
        assert_eq!(PACE.rest(ms(10_000)), ms(60_000), "the throttle is enough");
        assert_eq!(PACE.rest(ms(90_000)), ms(90_000), "but for a run that is longer");
        let stamp = Some(PACE.stamp(at(0), ms(200)));
        assert_eq!(PACE.wait(stamp, ms(200), at(0)), ms(1800));
        assert_eq!(PACE.wait(stamp, ms(200), at(1799)), ms(1));
        assert_eq!(PACE.wait(stamp, ms(200), at(1800)), ms(0));
        assert_eq!(PACE.wait(None, ms(0), at(0)), ms(0));
        let unlimited = Pace { throttle: Duration::ZERO };
        assert_eq!(unlimited.rest(ms(200)), ms(200));
    }

    #[test]
    fn g4_a_stamp_from_a_clock_that_was_ahead_is_over_in_time() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        stamp::write(&dir, RUNS, at(1_000_000_000)).unwrap();
        let wait = |now| {
            let took = ms(200);
            PACE.wait(stamp::read(&dir, RUNS, PACE.longest(took), at(now)), took, at(now))
        };
        assert_eq!([wait(0), wait(59_000), wait(60_000)], [ms(60_000), ms(1000), ms(0)]);
    }

    #[test]
    fn the_allowance_is_spent_by_bytes_and_comes_back_with_time() {
        let small = Allowance { bytes: 1000, per_second: 10 };
        let mut stamp = None;
        for bytes in [400, 599] {
            stamp = Some(small.consume(stamp, bytes, at(0)));
            assert!(!small.is_spent(stamp, at(0)));
        }
        stamp = Some(small.consume(stamp, 101, at(0)));
        assert!(small.is_spent(stamp, at(0)));
        assert_eq!(small.wait(stamp, at(0)), ms(10_000));
        assert!(small.is_spent(stamp, at(9_999)) && !small.is_spent(stamp, at(10_000)));
        // Not in debt for ever: a first synchronisation, or a clock that was ahead.
        let debts = [Some(small.consume(None, u64::MAX, at(0))), Some(at(1_000_000_000))];
        assert_eq!(debts.map(|stamp| small.wait(stamp, at(0))), [ms(100_000); 2]);
        assert_eq!(ALLOWANCE.longest(), Duration::from_secs(2 * 25_600));
    }

    #[test]
    fn g4_bytes_of_a_clock_that_was_far_ahead_are_no_debt() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let small = Allowance { bytes: 1000, per_second: 10 };
        stamp::write(&dir, BYTES, at(1_000_000_000)).unwrap();
        let wait = |now| small.wait(small.read(&dir, at(now)), at(now));
        assert_eq!([0, 500_000, 999_000_000].map(wait), [ms(0); 3]);
        // A debt is one.
        let debt = small.consume(None, u64::MAX, at(0));
        stamp::write(&dir, BYTES, debt).unwrap();
        assert_eq!([0, 60_000, 100_000].map(wait), [ms(100_000), ms(40_000), ms(0)]);
    }

    #[test]
    fn a_person_logs_in_ten_times_at_once_and_ten_times_a_minute() {
        let (mut stamp, mut logins) = (None, Vec::new());
        for now in 0..120 {
            let now = at(now * 1000);
            if PERSON.wait(stamp, now).is_zero() {
                stamp = Some(PERSON.consume(stamp, now));
                logins.push(now);
            }
        }
        let before = |limit| logins.iter().filter(|login| **login < at(limit)).count();
        assert_eq!([before(10_000), before(60_000), before(120_000)], [10, 19, 29]);
    }

    proptest! {
        /// However long runs take, no more than about a tenth of the time is spent in
        /// them, or a run is made in each `throttle` at most.
        #[test]
        fn g4_runs_take_a_tenth_of_the_time(
            runs in prop::collection::vec((1_u64..30_000, 0_u64..5_000), 1..100),
        ) {
            let (mut now, mut stamp, mut last) = (0, None, ms(0));
            for (took, idle) in runs {
                now += idle;
                let wait = PACE.wait(stamp, last, at(now));
                prop_assert!(wait <= PACE.rest(last));
                now += u64::try_from(wait.as_millis()).unwrap();
                if let Some(stamp) = stamp {
                    prop_assert!(at(now) >= stamp);
                }
                now += took;
                last = ms(took);
                stamp = Some(PACE.stamp(at(now), last));
                prop_assert!(PACE.rest(last) >= (last * 9).min(PACE.throttle));
                prop_assert!(PACE.rest(last) >= LEAST);
            }
        }

        /// Over any time, runs that respect the allowance move no more than it and its
        /// refill, and one run's bytes.
        #[test]
        fn the_allowance_bounds_what_is_moved(
            runs in prop::collection::vec((0_u64..400, 0_u64..60_000), 1..200),
        ) {
            let allowance = Allowance { bytes: 1000, per_second: 10 };
            let (mut now, mut stamp, mut moved) = (0, None, Vec::new());
            for (bytes, idle) in runs {
                now += idle;
                if !allowance.is_spent(stamp, at(now)) {
                    stamp = Some(allowance.consume(stamp, bytes, at(now)));
                    moved.push((now, bytes));
                }
            }
            for (i, (first, _)) in moved.iter().enumerate() {
                let mut sum = 0;
                for (last, bytes) in moved.iter().skip(i) {
                    sum += bytes;
                    prop_assert!(sum <= 1000 + (last - first) / 100 + 400 + 1);
                }
            }
        }

        /// Whatever the clock does, no wait is longer than its bound.
        #[test]
        fn g4_no_clock_blocks_for_longer_than_the_bound(
            clock in prop::collection::vec((0_u64..100_000_000, 0_u64..1 << 40), 1..100),
        ) {
            let (mut runs, mut bytes, mut last) = (None, None, ms(0));
            for (now, amount) in clock {
                let now = at(now);
                prop_assert!(PACE.wait(runs, last, now) <= PACE.longest(last));
                prop_assert!(ALLOWANCE.wait(bytes, now) <= ALLOWANCE.longest() / 2);
                last = ms(amount % 100_000);
                runs = Some(PACE.stamp(now, last));
                bytes = Some(ALLOWANCE.consume(bytes, amount, now));
            }
        }
    }
}
