//! When a change of the network is worth a try.
//!
//! An address or a default route that has come is tried a moment later, because the one
//! follows the other, and the name server both. More of them in that time are the same
//! change. A try that fails is made once more, and tries are limited, so that an interface
//! that comes and goes costs next to nothing: while a try is due anyway, what else is
//! reported is not read.
//!
//! Does not depend on: clocks, connections, what a try is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use super::log::Log;
use crate::error::system_text;
use crate::os::netlink::NetworkEvents;

/// A try is made this long after the first event.
const SETTLE: Duration = Duration::from_millis(300);
/// The least time between two tries.
const SPACING: Duration = Duration::from_secs(4);
/// So many tries in this time.
const MOST_TRIES: usize = 6;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// When to try because of the network, in time since boot.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct NetworkTries {
    due: Option<Duration>,
    /// A try that fails is to be made once more.
    again: bool,
    /// Of the last [`WINDOW`], oldest first.
    tries: VecDeque<Duration>,
}

impl NetworkTries {
    /// An address or a default route may have come.
    pub fn came(&mut self, now: Duration) {
        self.again = true;
        self.schedule(SETTLE, now);
    }

    /// When to try; `None`: nothing calls for it.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// A try is being made.
    pub fn tried(&mut self, now: Duration) {
        self.due = None;
        if self.tries.len() >= MOST_TRIES {
            self.tries.pop_front();
        }
        self.tries.push_back(now);
    }

    /// It did not reach the server.
    pub fn failed(&mut self, now: Duration) {
        if std::mem::take(&mut self.again) {
            self.schedule(SPACING, now);
        }
    }

    /// It is left to something else that tries at short intervals.
    pub fn later(&mut self, now: Duration) {
        self.due = Some(now + SPACING);
    }

    /// There is nothing to try, or the server has been reached.
    pub fn dismiss(&mut self) {
        self.due = None;
        self.again = false;
    }

    fn schedule(&mut self, wait: Duration, now: Duration) {
        let spaced = self.tries.back().map(|last| *last + SPACING);
        let full = self.tries.len() >= MOST_TRIES;
        let allowed = self.tries.front().filter(|_| full).map(|first| *first + WINDOW);
        let at = [spaced, allowed].into_iter().flatten().fold(now + wait, Duration::max);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// The events, and the tries that they lead to.
#[derive(Debug)]
pub struct NetworkWatch {
    /// `None`: a sandbox, say, forbids to listen.
    events: Option<NetworkEvents>,
    pub tries: NetworkTries,
    log: Rc<Log>,
}

impl NetworkWatch {
    /// Listens from now on. `server`: there is something to reach.
    pub fn new(server: bool, log: Rc<Log>) -> Self {
        let events = server.then(NetworkEvents::new).and_then(|events| match events {
            Ok(events) => Some(events),
            Err(error) => {
                let why = system_text(&error);
                log.say(|| format!("not told when the network comes: {why}"));
                None
            }
        });
        NetworkWatch { events, tries: NetworkTries::default(), log }
    }

    /// To be polled; none while a try is due anyway.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().filter(|_| self.tries.due.is_none()).map(NetworkEvents::as_fd)
    }

    /// Reads what has been reported. True if the network may have come.
    pub fn read(&self) -> io::Result<bool> {
        self.events.as_ref().map_or(Ok(false), NetworkEvents::take)
    }

    /// Notes what [`NetworkWatch::read`] has returned.
    pub fn note(&mut self, read: io::Result<bool>, now: Duration) {
        match read {
            Ok(true) => self.tries.came(now),
            Ok(false) => {}
            Err(error) => {
                let why = system_text(&error);
                self.log.say(|| format!("not told any more when the network comes: {why}"));
                self.events = None;
            }
        }
    }

    /// Whether it is time to try. What was reported until now has led to it.
    pub fn is_due(&mut self, now: Duration) -> bool {
        let due = self.tries.due.is_some_and(|due| now >= due);
        if due {
            // More of them than are read at once lead to another try.
            let _ = self.read();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::LogLevel;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Takes a try if it is due.
    fn tries(network: &mut NetworkTries, now: Duration) -> bool {
        let due = network.due().is_some_and(|due| now >= due);
        if due {
            network.tried(now);
        }
        due
    }

    #[test]
    fn an_address_and_its_route_are_one_try_within_a_second() {
        let mut network = NetworkTries::default();
        assert_eq!(network.due(), None);
        network.came(s(100));
        network.came(s(100) + ms(5));
        network.came(s(100) + ms(250));
        assert_eq!(network.due(), Some(s(100) + ms(300)), "later events postpone nothing");
        assert!(tries(&mut network, s(100) + ms(300)));
        network.dismiss();
        assert_eq!(network.due(), None);
        // An IPv6 address is usable later.
        network.came(s(102));
        assert_eq!(network.due(), Some(s(104) + ms(300)));
        assert!(tries(&mut network, s(105)));
    }

    #[test]
    fn a_try_that_fails_is_made_once_more() {
        let mut network = NetworkTries::default();
        network.came(s(100));
        assert!(tries(&mut network, s(101)));
        network.failed(s(102));
        assert_eq!(network.due(), Some(s(106)));
        assert!(tries(&mut network, s(106)));
        network.failed(s(107));
        assert_eq!(network.due(), None, "then by the backoff");
        network.came(s(200));
        assert!(tries(&mut network, s(201)));
        network.failed(s(201));
        network.dismiss();
        assert_eq!(network.due(), None, "reached");
    }

    #[test]
    fn g10_an_interface_that_comes_and_goes_costs_six_tries_in_ten_minutes() {
        for fails in [false, true] {
            let mut network = NetworkTries::default();
            let mut made: Vec<Duration> = Vec::new();
            for at in (0..3600 * 20).map(|at| ms(at * 50)) {
                network.came(at);
                if tries(&mut network, at) {
                    made.push(at);
                    if fails {
                        network.failed(at);
                    }
                }
            }
            assert_eq!(made.len(), 6 * 6, "{fails}: {made:?}");
            for window in made.windows(MOST_TRIES + 1) {
                assert!(window[MOST_TRIES] >= window[0] + WINDOW, "{made:?}");
            }
            assert!(made.windows(2).all(|two| two[1] >= two[0] + SPACING), "{made:?}");
            // The next change, a while later, is tried at once.
            assert_eq!(network.tries.len(), MOST_TRIES);
            network.dismiss();
            network.came(s(10_000));
            assert_eq!(network.due(), Some(s(10_000) + SETTLE));
        }
    }

    #[test]
    fn what_is_tried_every_second_anyway_is_left_alone_and_looked_at_later() {
        let mut network = NetworkTries::default();
        network.came(s(100));
        network.later(s(101));
        assert_eq!(network.due(), Some(s(105)));
        assert!(network.tries.is_empty(), "and counts as no try");
    }

    #[test]
    fn an_account_without_a_server_does_not_listen() {
        let log = Rc::new(Log::new("Home", LogLevel::Errors));
        let watch = NetworkWatch::new(false, Rc::clone(&log));
        assert!(watch.fd().is_none() && !watch.read().unwrap());
        let mut watch = NetworkWatch::new(true, log);
        assert!(watch.fd().is_some() && !watch.is_due(s(1)));
        watch.note(Ok(true), s(100));
        assert!(watch.fd().is_none(), "a storm is not read while a try is due");
        assert!(watch.is_due(s(101)));
        watch.tries.tried(s(101));
        assert!(watch.fd().is_some());
        watch.note(Err(io::Error::other("broken")), s(102));
        assert!(watch.fd().is_none() && watch.tries.due().is_none());
    }
}
