//! verdict
pub mod flags;
pub mod syncstate;
