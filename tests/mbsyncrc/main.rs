//! The reader of `.mbsyncrc`: what it makes of files, and that mbsync makes the
//! same of them.
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

mod choosing;
mod places;
mod reach;
mod values;
mod verdicts;
