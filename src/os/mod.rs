//! The operating system: files, waits, processes, signals, clocks.
//!
//! Written for Linux. Each facility is one file, and its head says what another
//! system would need there. Does not depend on: mail, mbsync, the rest of the
//! program.

pub mod child;
pub mod clock;
pub mod file;
pub mod file_system;
#[allow(unsafe_code)]
pub(crate) mod fork;
pub mod netlink;
pub mod procfs;
pub mod signals;
pub mod stdout;
pub mod terminal;
pub mod wait;
