//! A server that means harm: G9, G10 and G11 at every step of the dialogue.
//!
//! A table: [`steps::STEPS`] are its rows, [`faults::FAULTS`] its columns, and
//! [`expected::expected`] says what each cell must lead to. [`library`] goes
//! through the whole of it in one process; [`program`] through a fixed-seed part
//! of it (the whole with `SOAK=1`) with the program itself, in a home that is
//! looked at before and after. What fits into no cell stands beside: [`tls`]
//! (who may hear a password), [`login`] (what it is said by), [`bulk`] (too much of
//! what is right), [`rest`] (no end to it), [`names`] (mailboxes that real mbsync
//! would have to make), [`offer`] (`--check HOST:PORT`). [`inputs`] is a table of what
//! no server says: places, other users, signals; [`files`] one of what is no file, where
//! one is read.
//!
//!     cargo test --test hostile -- --nocapture table     shows the table
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

mod bulk;
mod expected;
mod faults;
mod files;
mod inputs;
mod library;
mod login;
mod many;
mod names;
mod offer;
mod program;
mod rest;
mod server;
mod steps;
mod tls;

use expected::Expected;
use faults::FAULTS;
use std::fmt::Write as _;
use steps::STEPS;

/// One row for each step; a cell is the exit status that it leads to (`t`: after
/// a step's time), or `.` where the dialogue goes on.
#[test]
fn the_table_has_a_place_for_every_step_and_fault() {
    let names: Vec<String> = FAULTS.iter().map(|fault| format!("{fault:?}")).collect();
    println!("{:13} {}", "", names.join(" "));
    let (mut ends, mut goes_on) = (0, 0);
    for step in STEPS {
        let mut row = format!("{:13}", format!("{step:?}"));
        for (fault, name) in FAULTS.iter().zip(&names) {
            let shown = match expected::expected(step, *fault) {
                Expected::GoesOn => {
                    goes_on += 1;
                    ".".to_owned()
                }
                Expected::Ends(exit, texts) => {
                    ends += 1;
                    assert_ne!(texts, [] as [String; 0]);
                    let late = expected::ends_by_time(step, *fault);
                    format!("{}{}", exit.code(), if late { "t" } else { "" })
                }
            };
            let _ = write!(row, " {shown:width$}", width = name.len());
        }
        println!("{row}");
    }
    println!("{} cells: {ends} end, {goes_on} go on", ends + goes_on);
    assert_eq!(ends + goes_on, STEPS.len() * FAULTS.len());
}
