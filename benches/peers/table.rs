//! A table in Markdown: one row for each thing measured, one column for each
//! contender.

use crate::contender::Kind;
use std::time::Duration;

/// Rows so far.
#[derive(Default)]
pub struct Table(Vec<(String, Vec<String>)>);

impl Table {
    /// A row, its cells in the order of [`Kind::ALL`].
    pub fn row(&mut self, what: &str, cells: Vec<String>) {
        assert_eq!(cells.len(), Kind::ALL.len(), "cells of {what}");
        self.0.push((what.to_owned(), cells));
    }

    /// Prints it with a heading and what is to be said to it, and forgets the rows.
    pub fn print(&mut self, heading: &str, note: &str) {
        if self.0.is_empty() {
            return;
        }
        println!("\n### {heading}\n");
        let titles: Vec<&str> = Kind::ALL.iter().map(|kind| kind.title()).collect();
        println!("| | {} |", titles.join(" | "));
        println!("|---|{}", "---|".repeat(titles.len()));
        for (what, cells) in self.0.drain(..) {
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

/// Median and longest.
pub fn median_max(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    match times.last() {
        None => "–".to_owned(),
        Some(max) => format!("{}, {}", seconds(times[times.len() / 2]), seconds(*max)),
    }
}

/// KiB as MiB.
pub fn mib(kib: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mib = kib as f64 / 1024.0;
    format!("{mib:.1} MiB")
}
