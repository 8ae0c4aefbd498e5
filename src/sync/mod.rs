//! Serving requests: single flight, the mbsync process, and what follows a run.

pub mod account;
pub mod changes;
pub mod detached;
pub mod hooks;
pub mod mbsync;
pub mod output;
pub mod run_log;
pub mod scheduler;
pub mod summary;
