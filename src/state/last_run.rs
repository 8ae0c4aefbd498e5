//! `last.json`: what the last run of the account did.
//!
//! Written after each run; read by reports, and by processes whose request was
//! served by another process's run. Does not depend on: runs, mbsync.

use serde::{Deserialize, Serialize};

/// The account's file.
pub const FILE: &str = "last.json";

/// The last run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRun {
    /// Runs of this account so far.
    pub runs: u64,
    /// When it started, milliseconds since the epoch.
    pub started: u64,
    /// How long it took, milliseconds.
    pub took: u64,
    /// The exit status it led to.
    pub code: u8,
    /// What went wrong, secrets redacted; empty if nothing did.
    pub text: String,
    /// It was asked to sync the whole account.
    pub whole: bool,
    /// When a run of the whole account last succeeded, seconds since the epoch.
    pub last_whole: Option<u64>,
    /// When a run last succeeded, seconds since the epoch.
    pub last_success: Option<u64>,
    /// What came and went.
    pub changes: Vec<Change>,
    /// ctime of the trigger file when the run began (seconds, nanoseconds).
    pub trigger: Option<(i64, i64)>,
}

/// What a run did to one mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The channel.
    pub channel: String,
    /// The mailbox, by its near name.
    pub mailbox: String,
    /// Messages that came from the far side.
    pub pulled: u32,
    /// Messages that went to the far side.
    pub pushed: u32,
    /// Messages whose flags were carried, either way.
    pub flags: u32,
    /// Messages that are gone.
    pub gone: u32,
}
