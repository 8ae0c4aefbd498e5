//! A table in Markdown: one row for each thing measured, one column for each
//! contender.

use crate::contender::Kind;
use std::time::Duration;

/// Rows so far.
pub struct Table {
    kinds: [Kind; 4],
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    /// With a column for each of these.
    pub fn of(kinds: [Kind; 4]) -> Self {
        Table { kinds, rows: Vec::new() }
    }

    /// A row, its cells in the order of the columns.
    pub fn row(&mut self, what: &str, cells: Vec<String>) {
        assert_eq!(cells.len(), self.kinds.len(), "cells of {what}");
        self.rows.push((what.to_owned(), cells));
    }

    /// Prints it with a heading and what is to be said to it, and forgets the rows.
    pub fn print(&mut self, heading: &str, note: &str) {
        if self.rows.is_empty() {
            return;
        }
        println!("\n### {heading}\n");
        let titles: Vec<&str> = self.kinds.iter().map(|kind| kind.title()).collect();
        println!("| | {} |", titles.join(" | "));
        println!("|---|{}", "---|".repeat(titles.len()));
        for (what, cells) in self.rows.drain(..) {
            println!("| {what} | {} |", cells.join(" | "));
        }
        if !note.is_empty() {
            println!("\n{note}");
        }
    }
}

/// Seconds, with two digits that mean something.
pub fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.2} s") } else { format!("{seconds:.0} s") }
}

/// Median, longest but one, and longest.
pub fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    let Some(max) = times.last() else { return "–".to_owned() };
    let (median, second) = (times[times.len() / 2], times[times.len().saturating_sub(2)]);
    format!("{}, {}, {}", seconds(median), seconds(second), seconds(*max))
}

/// KiB as MiB.
pub fn mib(kib: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mib = kib as f64 / 1024.0;
    format!("{mib:.1} MiB")
}
