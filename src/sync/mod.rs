//! Serving requests: at most one run at a time (`scheduler`, over `account`), the
//! mbsync process (`mbsync`), its output (`output`, `run_log`), what it changed
//! (`changes`), and the commands that follow (`hooks`).
//!
//! Does not depend on: why a run is needed.

pub mod account;
pub mod changes;
pub mod context;
pub mod detached;
pub mod hooks;
pub mod mbsync;
pub mod output;
pub mod run_log;
pub mod scheduler;
pub mod summary;
