//! How much of what a server says is listened to. Pure: reads no clock.
//!
//! Whatever it says may cost a question, and the answer may be another word: a
//! server that never rests would keep us, the machine and the line busy for
//! ever. So its words are counted, and when there are too many it is not heard
//! until some time has passed. What was said meanwhile is not lost, only late.

use std::time::Duration;

/// So long is counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// So often it may speak in that time. Dovecot speaks twice a second at most.
const MOST: u32 = 60;

/// How often a server has spoken of late.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLimiter {
    begun: Duration,
    count: u32,
}

impl EventLimiter {
    /// It has spoken, or could not be settled with, once more.
    pub fn spoke(&mut self, now: Duration) {
        if now >= self.begun + WINDOW {
            self.begun = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
    }

    /// When to listen again; `None`: now.
    #[must_use]
    pub fn not_before(&self, now: Duration) -> Option<Duration> {
        let until = self.begun + WINDOW;
        (self.count >= MOST && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_who_never_rests_is_heard_so_often_and_no_more() {
        let mut talk = EventLimiter::default();
        let mut heard = 0;
        let (start, end) = (100_000, 160_000);
        for at in (start..end).map(Duration::from_millis) {
            if talk.not_before(at).is_none() {
                talk.spoke(at);
                heard += 1;
            }
        }
        assert_eq!(heard, 6 * MOST);
    }

    #[test]
    fn who_speaks_now_and_then_is_always_heard() {
        let mut talk = EventLimiter::default();
        for at in (0..600_000).step_by(300).map(Duration::from_millis) {
            assert_eq!(talk.not_before(at), None);
            talk.spoke(at);
        }
    }
}
