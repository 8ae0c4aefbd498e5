//! Serving requests: at most one run at a time (`scheduler`, over `account`), the
//! mbsync process (`mbsync`), its output (`output`, `run_log`), what it changed
//! (`changes`), the commands that follow (`hooks`), and when local changes have
//! settled (`settle`).
//!
//! Does not depend on: why a run is needed.

pub mod account;
pub mod changes;
pub mod context;
pub mod detached;
pub mod forms;
pub mod held;
pub mod hooks;
pub mod judge;
pub mod limits;
pub mod lost;
pub mod mbsync;
pub mod output;
mod progress;
pub mod refused;
pub mod run_log;
pub mod scheduler;
pub mod settle;
pub mod summary;
