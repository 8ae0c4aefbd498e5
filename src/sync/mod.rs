//! Serving requests: single flight, the mbsync process, and what follows a run.

pub mod after;
pub mod changes;
pub mod child;
pub mod classify;
pub mod disk;
pub mod handover;
pub mod mbsync;
pub mod pause;
pub mod run_log;
pub mod serve;
