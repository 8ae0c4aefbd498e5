//! Serving requests: at most one run at a time (`scheduler`, over `account`, within
//! `limits`), by this process or one left behind (`detached`); what decides for which
//! mailboxes (`judge`), when local changes have settled (`settle`), and what would
//! delete too much (`deletion_guard`, `losses`, `lost`) and waits for an answer (`held`).
//! Then the mbsync process (`mbsync`), its output (`output`, `forms`, `run_log`,
//! `progress`), what it changed (`changes`, `summary`) and could not transfer (`refused`,
//! `record_edit`), and the commands that follow (`hooks`).
//!
//! Does not depend on: why a run is needed.

pub mod account;
pub mod changes;
pub mod context;
pub mod deletion_guard;
pub mod detached;
pub mod forms;
pub mod held;
pub mod hooks;
pub mod judge;
pub mod limits;
pub mod losses;
pub mod lost;
pub mod mbsync;
pub mod output;
mod progress;
mod record_edit;
pub mod refused;
pub mod run_log;
pub mod scheduler;
pub mod settle;
pub mod summary;
