//! mutt-sync decides when mail is synced for people who read it in mutt or
//! neomutt from a local Maildir, with mbsync carrying it.
//!
//! The modules in the order of their imports, which a test checks: each may use
//! those before it, and none after it.
//!
//!     error, text, os, model, mbsync_version, mbsyncrc, headers, state, settings,
//!     verdict, imap, sync, lend, survey, watch, mutt, init, report, cli, app

// What comes from outside is never unwrapped; tests may.
#![deny(clippy::unwrap_used, clippy::expect_used)]
// One way to open files (os/file.rs); tests may use others.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod app;
pub mod cli;
pub mod error;
pub mod headers;
pub mod imap;
pub mod init;
pub mod lend;
pub mod mbsync_version;
pub mod mbsyncrc;
pub mod model;
pub mod mutt;
pub mod os;
pub mod report;
pub mod settings;
pub mod state;
pub mod survey;
pub mod sync;
pub mod text;
pub mod verdict;
pub mod watch;

/// The version, with the commit where one is known at build time.
pub const VERSION: &str = match option_env!("MUTT_SYNC_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};
