//! A limit on how many server events are handled.
//!
//! Each event may cost a question, and its answer may be the next event: a
//! server that always sends one more would keep both ends busy. So events are
//! counted, and above the limit the server is not read until the window is
//! over. What it sent meanwhile is not lost, only late.
//!
//! Does not depend on: clocks, what an event says.

use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(10);
/// Events in one window. Dovecot sends two a second at most.
const LIMIT: u32 = 60;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLimiter {
    window_start: Duration,
    count: u32,
}

impl EventLimiter {
    /// One event, or one scan that an event has made void.
    pub fn record(&mut self, now: Duration) {
        if now >= self.window_start + WINDOW {
            self.window_start = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Until when the server is not read; `None`: it is read.
    pub fn muted_until(&self, now: Duration) -> Option<Duration> {
        let until = self.window_start + WINDOW;
        (self.count >= LIMIT && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_server_that_never_rests_is_read_so_often_and_no_more() {
        let mut limiter = EventLimiter::default();
        let mut read = 0;
        let (start, end) = (100_000, 160_000);
        for at in (start..end).map(Duration::from_millis) {
            if limiter.muted_until(at).is_none() {
                limiter.record(at);
                read += 1;
            }
        }
        assert_eq!(read, 6 * LIMIT);
    }

    #[test]
    fn a_server_that_reports_now_and_then_is_always_read() {
        let mut limiter = EventLimiter::default();
        for at in (0..600_000).step_by(300).map(Duration::from_millis) {
            assert_eq!(limiter.muted_until(at), None);
            limiter.record(at);
        }
    }
}
