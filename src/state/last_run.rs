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
    /// When the whole account was last compared without short cuts or synced by mbsync,
    /// seconds since the epoch.
    pub last_whole: Option<u64>,
    /// When mbsync last synced the whole account, seconds since the epoch. Before
    /// there was this field, [`LastRun::last_whole`] said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_full: Option<u64>,
    /// When the whole account was last compared, or synced for a request, seconds since
    /// the epoch; a mailbox may have failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked: Option<u64>,
    /// When a request was last served, by a run or because nothing differed, seconds since
    /// the epoch.
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

    /// When the whole account was last compared or synced. A version that does not know
    /// of [`LastRun::last_checked`] leaves it out.
    #[must_use]
    pub fn last_checked(&self) -> Option<u64> {
        self.last_checked.or(self.last_whole)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_version_without_the_field_has_checked_counts() {
        let older: LastRun = serde_json::from_str(r#"{"runs":1,"last_whole":7}"#).unwrap();
        assert_eq!(older.last_checked(), Some(7));
        let part = LastRun { last_success: Some(9), ..older };
        assert_eq!(part.last_checked(), Some(7), "not a part alone");
        // The later one, whatever the clock said.
        assert_eq!(LastRun { last_checked: Some(5), ..part }.last_checked(), Some(5));
        assert_eq!(LastRun::default().last_checked(), None);
    }
}
