//! Reports: `--status`, `--list`, `--check`.
//!
//! Does not depend on: how a run is made or waited for.

pub mod check;
pub mod list;
pub mod status;
