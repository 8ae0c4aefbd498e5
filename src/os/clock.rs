//! The clock that goes on while the machine sleeps, and an alarm on it.
//!
//! Knows CLOCK_BOOTTIME and timerfd. Does not depend on: what is waited for.
//! Another system has a clock of this kind under another name (the BSDs have
//! CLOCK_BOOTTIME, macOS `mach_continuous_time`), and kqueue in place of timerfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Time since boot, sleep included.
#[must_use]
pub fn now() -> Duration {
    since(ClockId::Boottime)
}

/// Time that the machine has slept since boot.
#[must_use]
pub fn slept() -> Duration {
    // In this order, so that time passing between the two does not count as sleep.
    let boot = since(ClockId::Boottime);
    boot.saturating_sub(since(ClockId::Monotonic))
}

fn since(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Becomes readable at a set time, or at once after a sleep that went past it.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set: Option<Duration>,
}

impl Alarm {
    /// An alarm that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Alarm { timer: timerfd_create(TimerfdClockId::Boottime, flags)?, set: None })
    }

    /// Sets it to a time since boot; one that is past fires at once.
    pub fn set(&mut self, at: Duration) -> io::Result<()> {
        if self.set == Some(at) {
            return Ok(());
        }
        let at_least = at.max(Duration::from_nanos(1));
        let value = Timespec::try_from(at_least).map_err(io::Error::other)?;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
        self.set = Some(at);
        Ok(())
    }

    /// Takes note that it fired.
    pub fn acknowledge(&mut self) {
        if rustix::io::read(&self.timer, &mut [0_u8; 8]).is_ok() {
            self.set = None;
        }
    }
}

/// Becomes readable when the clock on the wall is set, and when the machine
/// wakes: the kernel reports both in one way (`TFD_TIMER_CANCEL_ON_SET`, see
/// `timerfd_create(2)`). So the end of a sleep is known at once, with no timer
/// that would have to run out first.
#[derive(Debug)]
pub struct Jump {
    timer: OwnedFd,
}

impl Jump {
    /// Listens from now on.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let jump = Jump { timer: timerfd_create(TimerfdClockId::Realtime, flags)? };
        jump.arm()?;
        Ok(jump)
    }

    fn arm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Far beyond any machine's life, within what the kernel can count.
        let value = Timespec { tv_sec: 1 << 33, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: never, it_value: value };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.timer, flags, &timer)?;
        Ok(())
    }

    /// Acknowledges the alarm, and arms it again.
    pub fn acknowledge(&mut self) {
        match rustix::io::read(&self.timer, &mut [0_u8; 8]) {
            Err(rustix::io::Errno::AGAIN) => {}
            _ => drop(self.arm()),
        }
    }
}

impl AsFd for Jump {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// A number from 0 to 1 that differs between processes and moments.
#[must_use]
pub fn jitter() -> f64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mixed = (u64::from(nanos) ^ (u64::from(std::process::id()) << 20))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_precision_loss)]
    let jitter = (mixed >> 40) as f64 / (1_u64 << 24) as f64;
    jitter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::wait::{Woken, after, readable};

    fn fires_within(alarm: &Alarm, limit: Duration) -> bool {
        readable(alarm, after(limit), None).unwrap() == Woken::Ready
    }

    #[test]
    fn a_clock_that_goes_on_is_not_reported() {
        let mut jump = Jump::new().unwrap();
        jump.acknowledge();
        let a_while = after(Duration::from_millis(20));
        assert_eq!(readable(&jump, a_while, None).unwrap(), Woken::TimedOut);
    }

    #[test]
    fn an_alarm_fires_at_its_time_and_once() {
        let mut alarm = Alarm::new().unwrap();
        assert!(!fires_within(&alarm, Duration::ZERO));
        let at = now() + Duration::from_millis(20);
        alarm.set(at).unwrap();
        assert!(fires_within(&alarm, Duration::from_secs(30)));
        assert!(now() >= at);
        alarm.acknowledge();
        assert!(!fires_within(&alarm, Duration::ZERO));
        alarm.set(Duration::ZERO).unwrap();
        assert!(fires_within(&alarm, Duration::ZERO));
    }
}
