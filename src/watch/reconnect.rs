//! When to connect.
//!
//! A server that cannot be reached is tried every second at first, because most
//! outages are short; then by the backoff that is kept on disk, which this module
//! knows only as a duration. A costly failure, such as a refused login or a Tunnel,
//! goes by that backoff at once, because each try may cost a prompt. A connection that
//! is lost soon after it was made (a server that accepts logins and then disconnects)
//! is tried again more and more slowly, though every login succeeds. An address or a
//! default route that has come is worth one try of a server that was not reached, and the
//! backoff, which another network has brought about, begins anew.
//!
//! Does not depend on: clocks, connections, the backoff's file.

use std::time::Duration;

use crate::error::{Error, ExitStatus};

/// A server that is gone is tried again this often at first.
const QUICK: Duration = Duration::from_secs(1);
/// For this long.
const QUICK_FOR: Duration = Duration::from_secs(20);
/// A connection that was lost sooner than this was of no use.
const USELESS: Duration = Duration::from_secs(10);
/// A connection that has lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(60);
/// Longest wait after a connection that was lost soon.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again in a second; there is nothing to remember.
    Quick,
    /// Record the failure in the backoff on disk, then [`ReconnectPolicy::wait`].
    BackOff,
    /// The same, as the first failure in a row.
    StartOver,
    /// Trying again would change nothing.
    GiveUp,
}

/// When to try, in time since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconnectPolicy {
    at: Option<Duration>,
    failing_since: Option<Duration>,
    connected: Option<Duration>,
    short_lived: u32,
    /// The next try is one that the network has called for.
    network_came: bool,
}

impl ReconnectPolicy {
    /// At once; never, where there is no server.
    pub fn new(server: bool, now: Duration) -> Self {
        ReconnectPolicy {
            at: server.then_some(now),
            failing_since: None,
            connected: None,
            short_lived: 0,
            network_came: false,
        }
    }

    /// When to try; `None`: never.
    pub fn at(&self) -> Option<Duration> {
        self.at
    }

    pub fn is_due(&self, now: Duration) -> bool {
        self.at.is_some_and(|at| now >= at)
    }

    /// Whether a server that was not reached is still tried at short intervals,
    /// whatever the backoff on disk says.
    pub fn is_quick(&self, now: Duration) -> bool {
        self.failing_since.is_some_and(|since| now.saturating_sub(since) < QUICK_FOR)
    }

    /// Whether the next try is made because the network has come, whatever the backoff on
    /// disk says of a server that was not reached.
    pub fn network_came(&self) -> bool {
        self.network_came
    }

    pub fn connected(&mut self, now: Duration) {
        self.network_came = false;
        self.connected = Some(now);
        self.failing_since = None;
    }

    /// A connection was lost. Returns the time until the next try.
    pub fn lost(&mut self, now: Duration) -> Duration {
        let lasted = self.connected.take().map_or(Duration::ZERO, |at| now.saturating_sub(at));
        self.failing_since = Some(now);
        let wait = if lasted >= STEADY {
            self.short_lived = 0;
            Duration::ZERO
        } else {
            self.short_lived = self.short_lived.saturating_add(1);
            let doubled = self.short_lived.saturating_sub(2).min(16);
            let least = if lasted < USELESS { QUICK_FOR } else { QUICK };
            // The first may be no more than the server's restart.
            if self.short_lived == 1 {
                Duration::ZERO
            } else {
                (QUICK * (1 << doubled)).clamp(least, LONGEST)
            }
        };
        self.try_in(wait, now);
        wait
    }

    pub fn failed(&mut self, failure: &Error, now: Duration) -> Retry {
        let network_came = std::mem::take(&mut self.network_came);
        let since = *self.failing_since.get_or_insert(now);
        match failure.status {
            ExitStatus::Config => {
                self.at = None;
                Retry::GiveUp
            }
            _ if failure.costly => {
                self.failing_since = None;
                Retry::BackOff
            }
            _ if network_came => {
                self.failing_since = None;
                Retry::StartOver
            }
            ExitStatus::Offline if now.saturating_sub(since) < QUICK_FOR => {
                self.try_in(QUICK, now);
                Retry::Quick
            }
            _ => Retry::BackOff,
        }
    }

    /// A try was interrupted: the server may be there, and the user may have been
    /// asked for a password.
    pub fn interrupted(&mut self, wait: Duration, now: Duration) {
        self.failing_since = None;
        self.try_in(wait, now);
    }

    pub fn wait(&mut self, wait: Duration, now: Duration) {
        self.network_came = false;
        self.try_in(wait, now);
    }

    /// The network has come, and the server was not reached before: one try, now.
    pub fn try_once(&mut self, now: Duration) {
        self.network_came = true;
        self.try_in(Duration::ZERO, now);
    }

    /// The obstacle is gone: another process's run went well, or the machine woke.
    pub fn try_now(&mut self, now: Duration) {
        self.failing_since = None;
        self.short_lived = 0;
        self.try_in(Duration::ZERO, now);
    }

    fn try_in(&mut self, wait: Duration, now: Duration) {
        if let Some(at) = &mut self.at {
            *at = now + wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failure(exit: ExitStatus) -> Error {
        Error::new(exit, "no")
    }

    #[test]
    fn a_short_outage_is_over_within_a_second_or_two() {
        let mut policy = ReconnectPolicy::new(true, s(100));
        assert!(policy.is_due(s(100)));
        policy.connected(s(100));
        assert_eq!(policy.lost(s(1000)), s(0));
        assert!(policy.is_due(s(1000)));
        for second in 1000..1020 {
            assert_eq!(policy.failed(&failure(ExitStatus::Offline), s(second)), Retry::Quick);
            assert!(!policy.is_due(s(second)) && policy.is_due(s(second + 1)));
            assert!(policy.is_quick(s(second)));
        }
        assert_eq!(policy.failed(&failure(ExitStatus::Offline), s(1020)), Retry::BackOff);
        policy.wait(s(30), s(1020));
        assert!(!policy.is_quick(s(1040)) && !policy.is_due(s(1049)) && policy.is_due(s(1050)));
        policy.connected(s(1050));
        assert_eq!(policy.lost(s(2000)), s(0));
        assert_eq!(policy.failed(&failure(ExitStatus::Offline), s(2000)), Retry::Quick);
    }

    #[test]
    fn g12_a_refused_login_is_not_tried_quickly() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        assert_eq!(policy.failed(&failure(ExitStatus::Denied), s(0)), Retry::BackOff);
        assert_eq!(policy.failed(&failure(ExitStatus::Later), s(1)), Retry::BackOff);
    }

    #[test]
    fn g12_what_costs_somebody_something_is_not_repeated_quickly() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        assert_eq!(policy.failed(&failure(ExitStatus::Offline), s(0)), Retry::Quick);
        let costly = failure(ExitStatus::Offline).as_costly();
        assert_eq!(policy.failed(&costly, s(1)), Retry::BackOff);
        assert!(!policy.is_quick(s(1)));
    }

    #[test]
    fn g12_the_network_calls_for_one_try_and_no_quick_ones() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        policy.wait(s(900), s(0));
        policy.try_once(s(100));
        assert!(policy.network_came() && policy.is_due(s(100)) && !policy.is_quick(s(100)));
        // It is still to be made when something more urgent was done first.
        policy.interrupted(s(2), s(101));
        assert!(policy.network_came() && policy.is_due(s(103)));
        assert_eq!(policy.failed(&failure(ExitStatus::Offline), s(103)), Retry::StartOver);
        policy.wait(s(30), s(103));
        assert!(!policy.network_came() && !policy.is_quick(s(104)) && !policy.is_due(s(132)));
        // What costs somebody something goes by the backoff as ever.
        for status in [ExitStatus::Denied, ExitStatus::Offline] {
            policy.try_once(s(200));
            assert_eq!(policy.failed(&failure(status).as_costly(), s(200)), Retry::BackOff);
        }
        // The certificate of a network that wants a login first.
        policy.try_once(s(250));
        assert_eq!(policy.failed(&failure(ExitStatus::Denied), s(250)), Retry::StartOver);
        policy.try_once(s(300));
        policy.connected(s(300));
        assert!(!policy.network_came());
    }

    #[test]
    fn a_server_that_disconnects_is_not_forgotten_when_the_network_comes() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        for _ in 0..8 {
            policy.connected(s(0));
            policy.lost(s(1));
        }
        policy.try_once(s(10));
        policy.connected(s(10));
        assert!(policy.lost(s(11)) >= s(64));
    }

    #[test]
    fn g12_an_interrupted_try_is_no_outage() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        policy.connected(s(0));
        policy.lost(s(100));
        assert!(policy.is_quick(s(100)));
        policy.interrupted(s(2), s(101));
        assert!(!policy.is_quick(s(101)) && !policy.is_due(s(102)) && policy.is_due(s(103)));
    }

    #[test]
    fn a_server_that_disconnects_is_tried_more_and_more_slowly() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        let mut now = s(0);
        let mut waits = vec![];
        for _ in 0..12 {
            policy.connected(now);
            let wait = policy.lost(now + s(1));
            waits.push(wait.as_secs());
            now += s(1) + wait;
        }
        assert_eq!(waits, [0, 20, 20, 20, 20, 20, 32, 64, 128, 256, 300, 300]);
        // One that had worked for a while.
        policy.try_now(now);
        for wait in [0, 1, 2] {
            policy.connected(now);
            assert_eq!(policy.lost(now + s(30)), s(wait));
        }
        policy.connected(now);
        assert_eq!(policy.lost(now + s(3600)), s(0));
        assert_eq!(policy.lost(now + s(3601)), s(0));
    }

    #[test]
    fn a_try_that_cannot_help_is_not_made() {
        let mut policy = ReconnectPolicy::new(true, s(0));
        assert_eq!(policy.failed(&failure(ExitStatus::Config), s(0)), Retry::GiveUp);
        policy.try_now(s(5));
        policy.wait(s(1), s(5));
        assert_eq!(policy.at(), None);
        assert_eq!(ReconnectPolicy::new(false, s(0)).at(), None);
    }
}
