//! What the waiter of one account prints. Does not depend on: what happened, and
//! why it is said.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use crate::error::{Error, ExitStatus};
use crate::text::{sanitize, short};

/// Most texts that are remembered: a server may word each failure differently.
const MOST_REPORTED: usize = 50;

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `-qq`: errors that will not go away by themselves.
    PermanentErrors,
    /// `-q`: errors.
    Errors,
    /// What was synced, and when the server is reached again.
    Events,
    /// `-v`: each decision.
    Decisions,
}

#[derive(Debug)]
pub struct Log {
    account: String,
    level: LogLevel,
    /// What was printed once and is not repeated.
    reported: RefCell<BTreeSet<String>>,
    /// Failures that were printed, until something works.
    failing: RefCell<BTreeSet<String>>,
    /// Statuses of such failures, until the line that says that they are over.
    failed: RefCell<BTreeSet<ExitStatus>>,
    /// The last decision, and how often it was made since it was printed.
    repeated: RefCell<(String, usize)>,
}

impl Log {
    pub fn new(account: &str, level: LogLevel) -> Self {
        Log {
            account: account.to_owned(),
            level,
            reported: RefCell::default(),
            failing: RefCell::default(),
            failed: RefCell::default(),
            repeated: RefCell::default(),
        }
    }

    pub fn level(&self) -> LogLevel {
        self.level
    }

    /// A decision, with `--verbose`. Made again and again it is printed once, and then
    /// how often.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.level < LogLevel::Decisions {
            return;
        }
        let text = text();
        if self.repeated.borrow().0 == text {
            self.repeated.borrow_mut().1 += 1;
            return;
        }
        self.line(&text);
        *self.repeated.borrow_mut() = (text, 0);
    }

    /// What a service's log is read for.
    pub fn tell(&self, text: &str) {
        if self.level >= LogLevel::Events {
            self.line(text);
        }
    }

    fn line(&self, text: &str) {
        self.end_repetition();
        print(&format!("{}: {text}", self.account));
    }

    /// Something else is going to be printed.
    fn end_repetition(&self) {
        let (_, times) = std::mem::take(&mut *self.repeated.borrow_mut());
        match times {
            0 => {}
            1 => print(&format!("{}: (once more)", self.account)),
            _ => print(&format!("{}: ({times} times more)", self.account)),
        }
    }

    /// A lasting problem, once.
    pub fn report(&self, text: &str) {
        if is_news(&self.reported, text) {
            self.end_repetition();
            print(&format!("mutt-sync: {}: {text}", self.account));
        }
    }

    /// A failure, once; of a server that is not reached, until it is. `wait`: until the
    /// next try.
    pub fn report_failure(&self, failure: &Error, wait: Option<Duration>) {
        let passing = failure.status.is_passing();
        if passing && self.level == LogLevel::PermanentErrors {
            return;
        }
        // One mailbox may fail on while others are synced.
        let is_of_all = failure.status != ExitStatus::Mailbox;
        let is_first = is_of_all && self.failed.borrow_mut().insert(failure.status);
        let (is_news, state) = match failure.status {
            ExitStatus::Offline => (is_first, "offline: "),
            _ => (is_news(&self.failing, &failure.to_string()), ""),
        };
        if is_news {
            self.end_repetition();
            let next = wait.map_or(String::new(), |wait| format!("; next try in {}", short(wait)));
            print(&format!("mutt-sync: {}: {state}{failure}{next}", self.account));
        }
    }

    /// There is a connection again: what is reported from now on is news.
    pub fn connected(&self) {
        self.reported.borrow_mut().clear();
        // That is no proof that mbsync can be run.
        self.works_again(|status| status != ExitStatus::Config);
    }

    /// A run went well.
    pub fn run_succeeded(&self) {
        self.works_again(|_| true);
    }

    fn works_again(&self, is_over: impl Fn(ExitStatus) -> bool) {
        self.failing.borrow_mut().clear();
        let failed = self.failed.take().into_iter();
        let (over, lasting): (BTreeSet<_>, BTreeSet<_>) = failed.partition(|each| is_over(*each));
        self.failed.replace(lasting);
        if over.contains(&ExitStatus::Offline) {
            self.tell("online again");
        } else if !over.is_empty() {
            self.tell("works again");
        }
    }
}

fn is_news(known: &RefCell<BTreeSet<String>>, text: &str) -> bool {
    let mut known = known.borrow_mut();
    if known.len() >= MOST_REPORTED {
        known.clear();
    }
    known.insert(text.to_owned())
}

pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_server_that_words_each_failure_differently_fills_no_memory() {
        let log = Log::new("Home", LogLevel::Errors);
        for n in 0..1000 {
            log.report(&format!("failure {n}"));
        }
        assert!(log.reported.borrow().len() <= MOST_REPORTED);
    }

    #[test]
    fn a_decision_that_is_repeated_is_folded_until_another_is_made() {
        let log = Log::new("Home", LogLevel::Decisions);
        for _ in 0..5 {
            log.say(|| "waiting".into());
        }
        assert_eq!(*log.repeated.borrow(), ("waiting".to_owned(), 4));
        log.say(|| "syncing".into());
        assert_eq!(*log.repeated.borrow(), ("syncing".to_owned(), 0));
        log.tell("INBOX 1 new");
        assert_eq!(*log.repeated.borrow(), (String::new(), 0));
    }

    #[test]
    fn offline_is_said_once_until_the_server_is_reached() {
        let log = Log::new("Home", LogLevel::Events);
        let wait = Some(Duration::from_secs(30));
        for text in ["cannot connect", "no route", "cannot connect"] {
            log.report_failure(&Error::new(ExitStatus::Offline, text), wait);
        }
        assert_eq!(*log.failed.borrow(), BTreeSet::from([ExitStatus::Offline]));
        assert!(log.failing.borrow().is_empty());
        log.report("a lasting problem");
        log.report_failure(&Error::new(ExitStatus::Denied, "login refused"), wait);
        assert_eq!(log.failing.borrow().len(), 1);
        // A failure that comes back is news; what lasts is not.
        log.run_succeeded();
        assert!(log.failing.borrow().is_empty() && log.reported.borrow().len() == 1);
        log.connected();
        assert!(log.failed.borrow().is_empty() && log.reported.borrow().is_empty());
    }

    #[test]
    fn a_failure_ends_with_what_shows_that_it_is_over() {
        let log = Log::new("Home", LogLevel::Events);
        for status in [ExitStatus::Mailbox, ExitStatus::Denied, ExitStatus::Config] {
            log.report_failure(&Error::new(status, "failed"), None);
        }
        log.connected();
        assert_eq!(*log.failed.borrow(), BTreeSet::from([ExitStatus::Config]));
        log.run_succeeded();
        assert!(log.failed.borrow().is_empty());
    }
}
