//! How things are put for people: durations, and what a run did.
//!
//! Knows values that are reported; decides nothing.

mod suggest;

pub use suggest::suggest;

use std::time::Duration;

use crate::state::last_run::Change;

/// A duration as people read it: `0.4 s`, `42 s`, `3 min`.
#[must_use]
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.05 {
        "<0.1 s".into()
    } else if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}

/// A line as it may be shown: names come from servers and disks, and nothing in
/// them may move the cursor or begin a line of its own.
#[must_use]
pub fn sanitize(line: &str) -> String {
    line.replace(|c| !is_printable(c) && c != '\t', "?")
}

/// A server's words made fit for a terminal and a log, at most 200 characters of
/// them. What may not be shown is left out, so that a secret in them is found
/// whatever stands between its letters.
#[must_use]
pub fn printable(words: &str) -> String {
    words.chars().filter(|c| is_printable(*c)).take(200).collect::<String>().trim().to_owned()
}

/// Neither a control character nor an invisible one, of which some reorder text.
#[must_use]
pub fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `INBOX 3 new, Sent 1 pushed, 0.4 s`.
#[must_use]
pub fn summary_line(changes: &[Change], took: Duration) -> String {
    let mut parts: Vec<String> = changes.iter().map(change_in_words).collect();
    if parts.is_empty() {
        parts.push("nothing to do".into());
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
