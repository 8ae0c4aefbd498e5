//! `held.json`: mailboxes that no run may touch before somebody answers, what each is
//! held for, and where each Maildir was at its last run.
//!
//! Knows values only: what is held is for [`crate::sync::held`] to decide.
//!
//! Does not depend on: how a loss is counted, runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::StateDir;
use crate::model::uid_set::UidSet;

/// The account's file.
pub const FILE: &str = "held.json";
/// Held while the file is read and written back.
const LOCK: &str = "held.lock";

/// What is kept of an account, by [`super::clean::key`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldState {
    /// What is held.
    pub mailboxes: BTreeMap<String, HeldMailbox>,
    /// Where each Maildir was at its last run.
    pub places: BTreeMap<String, MaildirPlace>,
}

/// A mailbox that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldMailbox {
    /// What for.
    pub what: HeldKind,
    /// So many messages are gone, moves not counted.
    #[serde(default)]
    pub count: u64,
    /// Of so many.
    #[serde(default)]
    pub of: u64,
    /// The pairs that it is about, by far UID.
    #[serde(default)]
    pub uids: UidSet,
    /// The far and near UIDVALIDITY that these go with.
    #[serde(default)]
    pub validity: [u32; 2],
    /// Since when, seconds since the epoch.
    #[serde(default)]
    pub since: u64,
    /// When copies were last looked for, seconds since the epoch.
    #[serde(default)]
    pub looked: u64,
    /// A command has said it.
    #[serde(default)]
    pub said: bool,
    /// Somebody has answered: the next run goes ahead, for this set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed: bool,
}

/// Why a mailbox is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldKind {
    /// Messages are gone here.
    GoneHere,
    /// Messages are gone on the server.
    GoneThere,
    /// The Maildir is gone.
    NoMaildir,
    /// The Maildir is another one, and lacks messages.
    OtherMaildir,
    /// The Maildir's `.uidvalidity` is gone.
    NoUidValidity,
    /// mbsync's record of it is gone.
    NoRecord,
}

impl HeldKind {
    /// The mailbox itself is not the one of the last run: nothing may be pulled into
    /// it either.
    #[must_use]
    pub fn is_of_place(self) -> bool {
        !matches!(self, HeldKind::GoneHere | HeldKind::GoneThere)
    }
}

/// What tells a Maildir from another one at the same path. Not the device: its number
/// may be another after each mount (btrfs, NFS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaildirPlace {
    /// Inode of the directory.
    pub maildir: u64,
    /// Inode of its cur.
    pub cur: u64,
    /// It had a `.uidvalidity`.
    pub numbered: bool,
}

impl MaildirPlace {
    /// Whether both are one Maildir.
    #[must_use]
    pub fn is_same_dir(self, other: MaildirPlace) -> bool {
        (self.maildir, self.cur) == (other.maildir, other.cur)
    }
}

impl HeldState {
    /// What the file says.
    #[must_use]
    pub fn read(dir: &StateDir) -> Self {
        dir.read_json(FILE).unwrap_or_default()
    }

    /// Changes the file, if `change` changes anything. It may be called more than once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn update<T>(dir: &StateDir, change: impl FnMut(&mut HeldState) -> T) -> io::Result<T> {
        dir.update_json(FILE, LOCK, change)
    }

    /// These mailboxes, by key, are on neither side any more: nothing of them can be lost.
    pub fn forget(&mut self, keys: &BTreeSet<String>) {
        self.mailboxes.retain(|key, _| !keys.contains(key));
        self.places.retain(|key, _| !keys.contains(key));
    }
}
