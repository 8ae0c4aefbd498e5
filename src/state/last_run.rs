//! `last.json`: what the last run of the account did.
//!
//! Written after each run; read by reports, and by processes whose request was
//! served by another process's run. Does not depend on: runs, mbsync.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::StateDir;
use super::backoff::seconds;
use crate::error::ExitStatus;

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
    /// When mbsync last synced the whole account, seconds since the epoch. Before
    /// there was this field, [`LastRun::last_whole`] said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_full: Option<u64>,
    /// When a run last succeeded, seconds since the epoch.
    pub last_success: Option<u64>,
    /// What came and went.
    pub changes: Vec<Change>,
    /// ctime of the trigger file when the run began (seconds, nanoseconds).
    pub trigger: Option<(i64, i64)>,
}

impl LastRun {
    /// What the file says.
    #[must_use]
    pub fn read(dir: &StateDir) -> Self {
        dir.read_json(FILE).unwrap_or_default()
    }

    /// When mbsync last synced the whole account.
    #[must_use]
    pub fn last_full(&self) -> Option<u64> {
        self.last_full.or(self.last_whole)
    }

    /// When a run last synced mailboxes, seconds since the epoch: it may have failed
    /// on others.
    #[must_use]
    pub fn last_synced(&self) -> Option<u64> {
        let failed_on_some = self.code == ExitStatus::Mailbox.code();
        let ended = (self.started + self.took) / 1000;
        self.last_success.max(failed_on_some.then_some(ended))
    }

    /// Whether it is time for a run of the whole account, whatever differs. One that
    /// failed is not tried again within `again`. A time in the future is from a clock
    /// that was ahead, and does not count.
    #[must_use]
    pub fn full_is_due(&self, every: Duration, again: Duration, now: SystemTime) -> bool {
        let now = seconds(now);
        let is_over = |at: Option<u64>, wait: Duration| {
            let at = at.filter(|at| *at <= now + 1);
            at.is_none_or(|at| now.saturating_sub(at) >= wait.as_secs())
        };
        let tried = self.whole.then_some(self.started / 1000);
        is_over(self.last_full(), every) && is_over(tried, again)
    }
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
    /// It was not synced before.
    pub added: bool,
    /// The mailbox itself was removed here: it was gone on the server.
    pub removed: bool,
}

impl Change {
    /// Whether nothing was done to a message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [self.pulled, self.pushed, self.flags, self.gone] == [0; 4]
    }
}

/// Milliseconds since the epoch.
#[must_use]
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
