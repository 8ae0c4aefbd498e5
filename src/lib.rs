//! mutt-sync decides when mail is synced for people who read it in mutt or
//! neomutt from a local Maildir, with mbsync carrying it.
//!
//! The arrows run downwards only:
//! cli → settings → mbsyncrc → account → state → verdict → sync → watch.

// What comes from outside is never unwrapped; tests may.
#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod account;
pub mod app;
pub mod check;
pub mod cli;
pub mod dialect;
pub mod imap;
pub mod list;
pub mod mail;
pub mod mbsyncrc;
pub mod mutt;
pub mod outcome;
pub mod process;
pub mod settings;
pub mod state;
pub mod status;
pub mod stop;
pub mod sync;
#[allow(unsafe_code)]
mod sys;
pub mod uidset;
pub mod verdict;
pub mod watch;
pub mod words;

/// The version, with the commit where one is known at build time.
pub const VERSION: &str = match option_env!("MUTT_SYNC_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};
