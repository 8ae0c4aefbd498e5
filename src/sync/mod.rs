//! Serving requests: single flight, the mbsync process, and what follows a run.

pub mod classify;
pub mod mbsync;
pub mod serve;
