//! Whether a server that accepted NOTIFY reports changes at all.
//!
//! When the timer's run pulls mail that NOTIFY had not reported, the report may
//! still be on its way. If none follows, twice in a row, the server accepts the
//! command and stays silent: it is watched by IDLE from then on.
//!
//! Does not depend on: clocks, connections.

use std::time::Duration;

#[derive(Debug, Default)]
pub struct SilenceCheck {
    /// Unsolicited reports over this connection.
    events: u64,
    /// Until when a report may still come, and how many had come by the start.
    due: Option<(Duration, u64)>,
    events_at_last_silence: Option<u64>,
}

impl SilenceCheck {
    pub fn connected(&mut self) {
        self.events = 0;
    }

    pub fn record(&mut self, unsolicited: u64) {
        self.events += unsolicited;
    }

    pub fn start(&mut self, due: Duration) {
        self.due = Some((due, self.events));
    }

    pub fn cancel(&mut self) {
        self.due = None;
    }

    pub fn due(&self) -> Option<Duration> {
        self.due.map(|(due, _)| due)
    }

    /// Whether a check has just shown silence for the second time. Once may be
    /// chance: mail that came in the half second before a run, and that the run
    /// fetched before the server would have reported it.
    pub fn is_silent(&mut self, connected: bool, now: Duration) -> bool {
        let Some((_, before)) = self.due.filter(|(due, _)| now >= *due) else { return false };
        self.due = None;
        let silent = connected && self.events == before;
        let again = silent && self.events_at_last_silence == Some(before);
        self.events_at_last_silence = silent.then_some(before);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_counts_the_second_time_in_a_row() {
        let mut check = SilenceCheck::default();
        check.record(5);
        check.start(s(3));
        assert!(!check.is_silent(true, s(2)) && check.due() == Some(s(3)));
        assert!(!check.is_silent(true, s(3)) && check.due().is_none());
        check.start(s(10));
        assert!(check.is_silent(true, s(10)));
    }

    #[test]
    fn a_report_between_two_silences_starts_the_count_again() {
        let mut check = SilenceCheck::default();
        check.start(s(3));
        assert!(!check.is_silent(true, s(3)));
        check.record(1);
        check.start(s(10));
        assert!(!check.is_silent(true, s(10)));
        check.start(s(20));
        check.record(1);
        assert!(!check.is_silent(true, s(20)));
        check.start(s(30));
        assert!(!check.is_silent(true, s(30)));
    }

    #[test]
    fn without_a_connection_nothing_is_shown() {
        let mut check = SilenceCheck::default();
        check.start(s(3));
        assert!(!check.is_silent(true, s(3)));
        check.start(s(6));
        assert!(!check.is_silent(false, s(6)));
        check.start(s(9));
        assert!(!check.is_silent(true, s(9)));
        check.start(s(12));
        check.cancel();
        assert!(!check.is_silent(true, s(12)));
    }
}
