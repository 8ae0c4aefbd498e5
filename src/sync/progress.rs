//! How far a run of mbsync is, from what it says on a terminal with `-V`: the mailbox
//! that it is in, and its counters. In isync 1.4.4 and 1.5.1 (`main_sync.c`, `stats`):
//! `C: 0/1  B: 2/7  F: +0/0 *0/0 #0/0  N: +12/200 *0/0 #0/0`; a part that is too long
//! ends in `~`.
//!
//! Does not depend on: terminals, processes, clocks: text in, text out.

use std::fmt::Write as _;

use crate::text::{shortened, width};

/// Read line by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    mailbox: Option<String>,
    boxes: Counter,
    /// Messages to copy, to both sides together.
    messages: Counter,
    flags: Counter,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counter {
    done: u64,
    all: u64,
}

impl Counter {
    fn read(text: &str) -> Option<Self> {
        let (done, all) = text.split_once('/')?;
        Some(Counter { done: done.parse().ok()?, all: all.parse().ok()? })
    }

    fn add(self, other: Counter) -> Self {
        Counter {
            done: self.done.saturating_add(other.done),
            all: self.all.saturating_add(other.all),
        }
    }
}

impl Progress {
    /// The next line, or what a carriage return ended.
    pub fn line(&mut self, line: &str) {
        let opened =
            |side| line.strip_prefix("Opening ")?.strip_prefix(side)?.strip_prefix(" side box ");
        if let Some(mailbox) = opened("near").or_else(|| opened("far")) {
            self.mailbox = Some(mailbox.strip_suffix("...").unwrap_or(mailbox).to_owned());
        } else if line.starts_with("C: ") {
            if let Some(counted) = Progress::counters(line) {
                *self = Progress { mailbox: self.mailbox.take(), ..counted };
            }
        }
    }

    fn counters(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("  B: ")?;
        let (boxes, rest) = rest.split_once("  F: ")?;
        let (far, near) = rest.split_once("  N: ")?;
        let mut counted = Progress { boxes: Counter::read(boxes)?, ..Progress::default() };
        for word in far.split(' ').chain(near.split(' ')) {
            let sum = match word.as_bytes().first() {
                Some(b'+') => &mut counted.messages,
                Some(b'*') => &mut counted.flags,
                _ => continue,
            };
            if let Some(counter) = word.get(1..).and_then(Counter::read) {
                *sum = sum.add(counter);
            }
        }
        Some(counted)
    }

    /// For people: `INBOX (3 of 7), 12 of 200 messages`; `None` before a mailbox is
    /// opened, while a password may be asked for. Where all of it does not fit into so many
    /// columns, the name is shortened.
    #[must_use]
    pub fn text(&self, columns: usize) -> Option<String> {
        let mailbox = self.mailbox.as_deref()?;
        let counted = self.counted();
        Some(shortened(mailbox, columns.saturating_sub(width(&counted))) + &counted)
    }

    fn counted(&self) -> String {
        let mut text = String::new();
        if self.boxes.all > 1 {
            let at = self.boxes.done.saturating_add(1).min(self.boxes.all);
            let _ = write!(text, " ({at} of {})", self.boxes.all);
        }
        for (counter, what) in [(self.messages, "messages"), (self.flags, "flags")] {
            if counter.all > 0 {
                let _ = write!(text, ", {} of {} {what}", counter.done, counter.all);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Option<String> {
        let mut progress = Progress::default();
        for line in lines {
            progress.line(line);
        }
        progress.text(79)
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let opening = "Opening near side box Lists/a b...";
        let v1_4 = "C: 0/1  B: 2/7  F: +0/1 *1/2 #0/0  N: +12/200 *0/0 #0/0";
        let v1_5 = "C: 0/1  B: 2/7  F: +0/1 *1/2 #0/0 -0/0  N: +12/200 *0/0 #0/0 -0/4";
        for counters in [v1_4, v1_5] {
            let text = after(&[opening, counters]).unwrap();
            assert_eq!(text, "Lists/a b (3 of 7), 12 of 201 messages, 1 of 2 flags");
        }
        let cut = "C: 0/1  B: 7/7  F: +0/0 *0/0 #0/~  N: +12000/200000 *17000~";
        assert_eq!(after(&[opening, cut]).unwrap(), "Lists/a b (7 of 7), 12000 of 200000 messages");
    }

    #[test]
    fn the_counters_fit_beside_a_long_name() {
        let counters = "C: 0/1  B: 2/7  F: +0/1 *1/2 #0/0  N: +12/200 *0/0 #0/0";
        for name in ["Archive/".repeat(20), "アーカイブ/".repeat(20)] {
            let text = after(&[&format!("Opening far side box {name}..."), counters]).unwrap();
            assert!(text.ends_with(" (3 of 7), 12 of 201 messages, 1 of 2 flags"), "{text}");
            assert!(text.starts_with(&name[..9]) && (77..80).contains(&width(&text)), "{text}");
        }
    }

    #[test]
    fn nothing_is_said_before_a_mailbox_is_opened() {
        let counters = "C: 0/1  B: 0/1  F: +0/0 *0/0 #0/0  N: +0/0 *0/0 #0/0";
        assert_eq!(after(&["Reading configuration file rc", counters]), None);
        assert_eq!(after(&[counters, "Opening far side box INBOX..."]).unwrap(), "INBOX");
        assert_eq!(
            after(&["Opening far side box INBOX...", "C: what", "C: 1  B: x  F: y  N: z"]).unwrap(),
            "INBOX"
        );
    }
}
