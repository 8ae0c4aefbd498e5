//! G11: secrets are never in arguments, environment, messages or files; copies
//! of them are wiped after the login; nobody can read the memory they were in.
//!
//! A canary goes in where a password or a token does, and is looked for
//! everywhere that it must not come out, through everything that can fail.

#![allow(clippy::unwrap_used)]

mod failures;
mod fake;
mod look;
mod memory;
mod usual;

use std::time::Duration;

/// Long enough for anything that is going to happen on a busy machine.
const SOON: Duration = Duration::from_secs(40);
