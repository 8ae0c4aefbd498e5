//! What a run did, in one line for people.
//!
//! Does not depend on: how the run was made.

use std::time::Duration;

use crate::state::last_run::Change;
use crate::text::{sanitize, short};

/// What is said of a run without changes.
pub const NOTHING_TO_DO: &str = "nothing to do";

/// `INBOX 3 new, Sent 1 pushed, 0.4 s`.
#[must_use]
pub fn summary_line(changes: &[Change], took: Duration) -> String {
    let mut parts: Vec<String> = changes.iter().map(change_in_words).collect();
    if parts.is_empty() {
        parts.push(NOTHING_TO_DO.into());
    }
    parts.push(short(took));
    parts.join(", ")
}

fn change_in_words(change: &Change) -> String {
    let counts = [
        (change.pulled, "new"),
        (change.pushed, "pushed"),
        (change.flags, if change.flags == 1 { "flag" } else { "flags" }),
        (change.gone, "gone"),
    ];
    let mut words = sanitize(&change.mailbox);
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        words.extend([" ", &count.to_string(), " ", what]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_came_and_went() {
        let change = |mailbox: &str, pulled, pushed, flags| Change {
            mailbox: mailbox.into(),
            pulled,
            pushed,
            flags,
            ..Change::default()
        };
        let changes = [change("INBOX", 3, 0, 0), change("Sent", 0, 1, 2)];
        let took = Duration::from_millis(400);
        assert_eq!(summary_line(&changes, took), "INBOX 3 new, Sent 1 pushed 2 flags, 0.4 s");
        assert_eq!(summary_line(&[], took), "nothing to do, 0.4 s");
    }
}
