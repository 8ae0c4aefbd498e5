//! What the rest of the program shares as values: accounts, channels, mailboxes,
//! flags, sets of UIDs.
//!
//! Does not depend on: syntax, files, servers, anything that happens at run time.

mod account;
pub mod flags;
pub mod uid_set;

pub use account::*;
