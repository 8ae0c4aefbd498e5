//! The operating system: processes, signals, clocks.
//!
//! Knows Linux. Does not depend on: mail, mbsync, the rest of the program.

#[allow(unsafe_code)]
pub(crate) mod fork;
pub mod procfs;
pub mod signals;
