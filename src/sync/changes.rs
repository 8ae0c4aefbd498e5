//! What a run did, read from mbsync's own record before and after.
//!
//! mbsync replaces a mailbox' record as a whole, and only if it changed. So a
//! descriptor opened before the run still reads the old one, and most are never
//! read at all.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::model::Mailbox;
use crate::os::file;
use crate::state::last_run::Change;
use crate::verdict::maildir;
use crate::verdict::record::{self, Record};

/// Most records kept open; of further mailboxes nothing is told.
const MOST_OPEN: usize = 400;

/// The records of some mailboxes at one moment.
#[derive(Debug)]
pub struct Snapshot {
    taken: SystemTime,
    records: Vec<(Mailbox, Option<File>)>,
}

impl Snapshot {
    /// Opens the records; one that does not exist yet counts as empty.
    #[must_use]
    pub fn take(mailboxes: Vec<Mailbox>) -> Self {
        let records = mailboxes
            .into_iter()
            .take(MOST_OPEN)
            .map(|mailbox| {
                let file = mailbox.state_file.as_ref().and_then(|path| file::open(path).ok());
                (mailbox, file)
            })
            .collect();
        Snapshot { taken: SystemTime::now(), records }
    }

    /// What differs now. Mailboxes that the run has made are among those `now`
    /// there, and not in the snapshot. A record that cannot be read tells nothing.
    #[must_use]
    pub fn changes(&self, now: &[Mailbox]) -> Vec<Change> {
        let before = |mailbox: &Mailbox| {
            self.records
                .iter()
                .find(|(known, _)| known == mailbox)
                .and_then(|(_, file)| file.as_ref())
        };
        now.iter()
            .take(MOST_OPEN)
            .filter_map(|mailbox| change(mailbox, before(mailbox), self.taken))
            .collect()
    }
}

fn change(mailbox: &Mailbox, before: Option<&File>, since: SystemTime) -> Option<Change> {
    let path: &PathBuf = mailbox.state_file.as_ref()?;
    let now = file::open(path).ok()?;
    let id = |file: &File| file.metadata().ok().map(|found| (found.dev(), found.ino()));
    if before.is_some_and(|before| id(before) == id(&now)) {
        return None;
    }
    let old = match before {
        Some(before) => record(before)?,
        None => Record::default(),
    };
    let pulled = mailbox
        .maildir
        .as_ref()
        .and_then(|maildir| maildir::delivered(maildir, since).ok())
        .map_or(0, |files| u32::try_from(files.len()).unwrap_or(u32::MAX));
    let counts = record(&now)?.changes_since(&old, pulled);
    let change = Change {
        channel: mailbox.channel.clone(),
        mailbox: mailbox.near.clone(),
        pulled: counts.pulled,
        pushed: counts.pushed,
        flags: counts.flags,
        gone: counts.gone,
    };
    (change.pulled + change.pushed + change.flags + change.gone > 0).then_some(change)
}

fn record(file: &File) -> Option<Record> {
    record::parse(&file::read_open(file, record::LARGEST).ok()?).ok()
}
