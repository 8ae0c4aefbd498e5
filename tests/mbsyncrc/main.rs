//! The reader of `.mbsyncrc`.

mod choosing;
mod verdicts;
