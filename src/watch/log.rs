//! What the waiter of one account prints.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;

use crate::text::sanitize;

#[derive(Debug)]
pub struct Log {
    account: String,
    verbose: bool,
    /// What was printed once and is not repeated.
    reported: RefCell<BTreeSet<String>>,
}

impl Log {
    pub fn new(account: &str, verbose: bool) -> Self {
        Log { account: account.to_owned(), verbose, reported: RefCell::default() }
    }

    /// A decision, with `--verbose`.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            print(&format!("{}: {}", self.account, text()));
        }
    }

    /// A lasting problem, once.
    pub fn report(&self, text: &str) {
        if self.reported.borrow_mut().insert(text.to_owned()) {
            print(&format!("mutt-sync: {}: {text}", self.account));
        }
    }

    pub fn forget_reported(&self) {
        self.reported.borrow_mut().clear();
    }
}

pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(line));
}
