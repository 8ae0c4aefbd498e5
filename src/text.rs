//! Text for people: durations, numbers with their noun, similar words, and what may
//! be printed.
//!
//! Does not depend on: anything else in this crate.

mod suggest;

pub use suggest::suggest;

use std::time::Duration;

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

/// `1 mailbox`, `2 mailboxes`.
#[must_use]
pub fn counted(count: usize, what: &str) -> String {
    let plural = if what.ends_with('x') || what.ends_with("ch") { "es" } else { "s" };
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_others_are_plural() {
        let words = [counted(1, "mailbox"), counted(0, "mailbox"), counted(2, "flag change")];
        assert_eq!(words, ["1 mailbox", "0 mailboxes", "2 flag changes"]);
        assert_eq!([counted(1, "watch"), counted(3, "watch")], ["1 watch", "3 watches"]);
    }
}
