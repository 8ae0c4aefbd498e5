//! What a run did, read from mbsync's own record before and after.
//!
//! mbsync replaces a mailbox's record as a whole, and only if it changed. So a
//! descriptor opened before the run still reads the old one, and most are never
//! read at all.
//!
//! isync 1.5 keeps the old record also where deletions are all that it has carried
//! over. There the Maildir before and after the run tells, together with what
//! mbsync says: how many messages it removed here, and to how many it gave other
//! flags. Only where that is all that was removed and changed, in all mailboxes of
//! the run, was no other program involved.
//!
//! Does not depend on: servers, why there was a run.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use super::run_log::RunLog;
use crate::model::{Account, Mailbox, StoreKind};
use crate::os::file;
use crate::state::clean;
use crate::state::last_run::Change;
use crate::verdict::Rules;
use crate::verdict::gone::{Gone, KeptGone, LeftByRun, left_by_run};
use crate::verdict::maildir::{self, Files, Moved, Stamp};
use crate::verdict::record::{self, Entry, Record};

/// Most records kept open; further ones are read.
const MOST_OPEN: usize = 400;

/// Most bytes of records read; of further mailboxes only what was pulled is reported,
/// and deletions, by isync 1.5.
const MOST_READ: u64 = 64 << 20;

/// Most files whose names are kept.
const MOST_FILES: u64 = 2_000_000;

/// The records and, for isync 1.5, the Maildirs of some mailboxes at one moment.
#[derive(Debug)]
pub struct Snapshot {
    taken: SystemTime,
    /// By [`clean::key`].
    mailboxes: BTreeMap<String, SyncedBefore>,
    /// What earlier runs have removed, by [`clean::key`].
    gone: BTreeMap<String, Gone>,
}

/// A mailbox before a run.
#[derive(Debug)]
struct SyncedBefore {
    record: RecordBefore,
    /// Not for isync 1.4.
    maildir: Option<Box<MaildirBefore>>,
}

/// A record before a run.
#[derive(Debug)]
struct RecordBefore {
    id: Option<FileId>,
    content: RecordContent,
}

#[derive(Debug)]
enum RecordContent {
    Open(File),
    Read(Box<[u8]>),
    /// There was none.
    Empty,
    Unknown,
}

impl RecordBefore {
    /// `open`: it may be kept open. `room`: for what is read.
    fn of(mailbox: &Mailbox, open: bool, room: &mut u64) -> RecordBefore {
        let file = mailbox.state_file.as_ref().and_then(|path| file::open(path).ok());
        let Some(file) = file else {
            return RecordBefore { id: None, content: RecordContent::Empty };
        };
        let id = id(&file);
        let content = if open {
            RecordContent::Open(file)
        } else {
            match file::read_open(&file, record::LARGEST.min(*room)) {
                Ok(bytes) => {
                    *room = room.saturating_sub(bytes.len() as u64);
                    RecordContent::Read(bytes.into_boxed_slice())
                }
                Err(_) => RecordContent::Unknown,
            }
        };
        RecordBefore { id, content }
    }

    fn record(&self) -> Option<Record> {
        match &self.content {
            RecordContent::Open(file) => record(file),
            RecordContent::Read(bytes) => record::parse(bytes).ok(),
            RecordContent::Empty => Some(Record::default()),
            RecordContent::Unknown => None,
        }
    }
}

/// Device, inode and change time: of a file that is not kept open the inode may be
/// used again.
type FileId = (u64, u64, i64, i64);

fn id(file: &File) -> Option<FileId> {
    let found = file.metadata().ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

/// A Maildir before a run.
#[derive(Debug)]
struct MaildirBefore {
    /// What it is judged by, if it is.
    rules: Option<Rules>,
    info_delimiter: u8,
    dirs: [Option<Stamp>; 2],
    /// `None`: not known.
    files: Option<Files>,
    record: Option<Stamp>,
}

/// By [`clean::key`]: the files after a run of the Maildirs that have changed.
type After = BTreeMap<String, Files>;

impl Snapshot {
    /// Opens the records; one that does not exist yet counts as empty. `maildirs`:
    /// the Maildirs are listed, too. `gone`: what earlier runs have removed.
    #[must_use]
    pub fn take(
        mailboxes: &[Mailbox],
        account: &Account,
        maildirs: bool,
        gone: BTreeMap<String, Gone>,
    ) -> Self {
        let taken = SystemTime::now();
        let (mut room, mut room_for_records) = (MOST_FILES, MOST_READ);
        let of = |(at, mailbox)| {
            let maildir = if maildirs { MaildirBefore::of(mailbox, account, room) } else { None };
            let files = maildir.as_ref().and_then(|maildir| maildir.files.as_ref());
            room = room.saturating_sub(files.map_or(0, Files::count));
            let record = RecordBefore::of(mailbox, at < MOST_OPEN, &mut room_for_records);
            (clean::key(mailbox), SyncedBefore { record, maildir: maildir.map(Box::new) })
        };
        let mailboxes = mailboxes.iter().enumerate().map(of).collect();
        Snapshot { taken, mailboxes, gone }
    }

    /// What differs now, and what runs have removed, this one included. Mailboxes
    /// that the run has made are among those `now` there, and not in the snapshot. A
    /// record that cannot be read tells nothing.
    ///
    /// `log`: what mbsync said of a run that went well. `by_scan`: what a scan of the
    /// far side has found gone, by [`clean::key`]. `replaced` gets each record that is
    /// another one now, with the one before.
    #[must_use]
    pub fn changes(
        &self,
        now: &[Mailbox],
        log: Option<&RunLog>,
        by_scan: &dyn Fn(&str) -> Option<Gone>,
        replaced: &mut dyn FnMut(&Mailbox, &Record, &Record),
    ) -> (Vec<Change>, BTreeMap<String, Gone>) {
        let accounted = log.and_then(|log| Some((log, self.accounted(now, log)?)));
        let (mut changes, mut gone) = (Vec::new(), self.gone.clone());
        for mailbox in now {
            let key = clean::key(mailbox);
            let counted = |entry: &Entry| self.was_counted(&key, entry);
            let before = self.mailboxes.get(&key).map(|before| &before.record);
            let mut change = recorded(mailbox, before, self.taken, counted, replaced);
            let record = Stamp::of_record(mailbox);
            if let Some((log, after)) = &accounted {
                if let Some((removed, left)) =
                    self.unrecorded(mailbox, &key, record, log, after, by_scan)
                {
                    gone.insert(key.clone(), left);
                    let change = change.get_or_insert_with(|| Change {
                        channel: mailbox.channel.clone(),
                        mailbox: mailbox.near.clone(),
                        ..Change::default()
                    });
                    change.gone = change.gone.saturating_add(removed);
                }
            }
            // Of a record that was replaced nothing is left to know.
            if gone.get(&key).is_some_and(|gone| gone.is_empty() || gone.record != record) {
                gone.remove(&key);
            }
            changes.extend(change.filter(|change| change.added || !change.is_empty()));
        }
        (changes, gone)
    }

    /// The mailboxes that the run has removed here, by key: neither Maildir nor record is left.
    pub fn removed(&self, account: &Account) -> impl Iterator<Item = (String, Change)> {
        let synced = self.mailboxes.iter().filter(|(_, before)| before.record.id.is_some());
        synced.filter_map(|(key, _)| {
            let mailbox = clean::mailbox(account, key)?;
            let channel = account.channel(&mailbox.channel)?;
            // Not the whole disk.
            let is_there = channel.near_root(&mailbox)?.exists();
            let mut places = [&mailbox.maildir, &mailbox.state_file].into_iter().flatten();
            let is_removed = channel.remove.near && is_there && !places.any(|place| place.exists());
            let Mailbox { channel, near, .. } = mailbox;
            let change = Change { channel, mailbox: near, removed: true, ..Change::default() };
            is_removed.then(|| (key.clone(), change))
        })
    }

    /// The Maildirs that have changed; `None` if not all that was removed or changed
    /// in any is mbsync's doing.
    fn accounted(&self, now: &[Mailbox], log: &RunLog) -> Option<After> {
        let mut after = After::new();
        let mut all = Moved::default();
        let mut left = self.mailboxes.values().filter(|before| before.maildir.is_some()).count();
        for mailbox in now {
            let key = clean::key(mailbox);
            let Some(maildir) = self.maildir(&key) else { continue };
            left = left.saturating_sub(1);
            let (before, path) = (maildir.files.as_ref()?, mailbox.maildir.as_deref()?);
            if maildir::dir_stamps(path) == maildir.dirs {
                continue;
            }
            let now = Files::of(path, maildir.info_delimiter)?;
            let moved = before.moved(&now);
            all.removed += moved.removed;
            all.flags += moved.flags + moved.undeleted;
            after.insert(key, now);
        }
        if left > 0 {
            return None;
        }
        // What mbsync removes it makes \Deleted first.
        (all.removed == log.near.removed && all.flags == log.near.flags).then_some(after)
    }

    fn maildir(&self, key: &str) -> Option<&MaildirBefore> {
        self.mailboxes.get(key)?.maildir.as_deref()
    }

    /// Deletions that the run has carried over without saying so in the record, and
    /// all that are known of it now.
    fn unrecorded(
        &self,
        mailbox: &Mailbox,
        key: &str,
        record: Option<Stamp>,
        log: &RunLog,
        after: &After,
        by_scan: &dyn Fn(&str) -> Option<Gone>,
    ) -> Option<(u32, Gone)> {
        let maildir = self.maildir(key)?;
        let rules = maildir.rules.as_ref()?;
        let before = maildir.files.as_ref()?;
        if record.is_none() || record != maildir.record {
            return None;
        }
        if log.messages(&mailbox.channel, &mailbox.near) != Some(before.count()) {
            return None;
        }
        let record::RecordState::Known(text) = record::read(mailbox.state_file.as_ref()?) else {
            return None;
        };
        if !maildir::is_numbered_by(mailbox.maildir.as_deref()?, &text) {
            return None;
        }
        let after = after.get(key).unwrap_or(before).numbered();
        let kept =
            |by_scan| KeptGone { by_scan, by_run: self.gone.get(key) }.of_record(record.as_ref());
        let LeftByRun { during, earlier, gone } =
            left_by_run(&text, rules, &before.numbered(), &after, kept(None));
        let mut removed = during;
        if !earlier.is_empty() {
            // Some may have been gone on both sides.
            let by_scan = by_scan(key);
            let known = kept(by_scan.as_ref());
            let new = earlier.iter().filter(|&&far| !known.is_over(far)).count();
            removed = removed.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
        }
        Some((removed, Gone { record, ..gone }))
    }

    /// An earlier run has removed the message of this entry, and has reported it.
    fn was_counted(&self, key: &str, entry: &Entry) -> bool {
        let record = self.maildir(key).and_then(|maildir| maildir.record.as_ref());
        let kept = KeptGone { by_scan: None, by_run: self.gone.get(key) };
        kept.of_record(record).is_over(entry.far)
    }
}

impl MaildirBefore {
    fn of(mailbox: &Mailbox, account: &Account, room: u64) -> Option<MaildirBefore> {
        let path = mailbox.maildir.as_deref()?;
        let channel = account.channel(&mailbox.channel)?;
        let StoreKind::Maildir(store) = &channel.near.store.kind else { return None };
        let info_delimiter = u8::try_from(store.info_delimiter).unwrap_or(b':');
        let dirs = maildir::dir_stamps(path);
        let files = match dirs {
            // Not made yet.
            [None, None] => Some(Files::default()),
            _ if room == 0 => None,
            _ => Files::of(path, info_delimiter),
        };
        let record = Stamp::of_record(mailbox);
        let rules = Rules::of(channel).ok();
        Some(MaildirBefore { rules, info_delimiter, dirs, files, record })
    }
}

/// What the record says that was done, if it is another one now.
fn recorded(
    mailbox: &Mailbox,
    before: Option<&RecordBefore>,
    since: SystemTime,
    counted: impl Fn(&Entry) -> bool,
    replaced: &mut dyn FnMut(&Mailbox, &Record, &Record),
) -> Option<Change> {
    let path: &PathBuf = mailbox.state_file.as_ref()?;
    let now = file::open(path).ok()?;
    if before.is_some_and(|before| before.id.is_some() && before.id == id(&now)) {
        return None;
    }
    let pulled = mailbox
        .maildir
        .as_ref()
        .and_then(|maildir| maildir::delivered(maildir, since).ok())
        .map_or(0, |files| u32::try_from(files.len()).unwrap_or(u32::MAX));
    let Some(old) = before.map_or(Some(Record::default()), RecordBefore::record) else {
        let (channel, mailbox) = (mailbox.channel.clone(), mailbox.near.clone());
        return Some(Change { channel, mailbox, pulled, ..Change::default() });
    };
    let new = record(&now)?;
    replaced(mailbox, &old, &new);
    let counts = new.changes_since(&old, pulled, counted);
    Some(Change {
        channel: mailbox.channel.clone(),
        mailbox: mailbox.near.clone(),
        pulled: counts.pulled,
        pushed: counts.pushed,
        flags: counts.flags,
        gone: counts.gone,
        added: before.is_none_or(|before| matches!(before.content, RecordContent::Empty)),
        removed: false,
    })
}

fn record(file: &File) -> Option<Record> {
    record::parse(&file::read_open(file, record::LARGEST).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sync::context::tests::Fixture;

    /// The mailboxes that a run has removed of `INBOX/below` and `Sent`, when these
    /// directories of the store are gone after it. `near`: its section.
    fn removed(near: &str, gone: &[&str]) -> Vec<String> {
        let fixture = Fixture::new(&format!(
            "IMAPStore far\nHost localhost\n\nMaildirStore near\n{near}\n\
             Channel Home\nFar :far:\nNear :near:\nPatterns *\nRemove Near\nSyncState *\n"
        ));
        let account = fixture.account();
        let channel = account.channel("Home").unwrap();
        let mailboxes = ["INBOX/below", "Sent"].map(|name| channel.mailbox(name));
        for mailbox in &mailboxes {
            fs::create_dir_all(mailbox.maildir.as_ref().unwrap()).unwrap();
            fs::write(mailbox.state_file.as_ref().unwrap(), "").unwrap();
        }
        let before = Snapshot::take(&mailboxes, account, false, BTreeMap::new());
        for dir in gone {
            fs::remove_dir_all(fixture.home.path().join(dir)).unwrap();
        }
        before.removed(account).map(|(_, change)| change.mailbox).collect()
    }

    #[test]
    fn g14_what_is_gone_with_its_disk_was_not_removed_by_the_run() {
        let two_disks = "Path ~/usb/Mail/\nInbox ~/disk\nSubFolders Verbatim\n";
        assert!(removed(two_disks, &["usb/Mail"]).is_empty());
        assert!(removed(two_disks, &["disk"]).is_empty());
        assert_eq!(removed(two_disks, &["usb/Mail/Sent"]), ["Sent"]);
        assert_eq!(removed(two_disks, &["disk", "usb/Mail/Sent"]), ["Sent"]);
        assert_eq!(removed(two_disks, &["usb", "disk/below"]), ["INBOX/below"]);
        let plus_plus = "Inbox ~/disk\nSubFolders Maildir++\n";
        assert!(removed(plus_plus, &["disk"]).is_empty());
        assert_eq!(removed(plus_plus, &["disk/.Sent"]), ["Sent"]);
        let prefix = "Path ~/usb/Mail/x-\nInbox ~/disk\nSubFolders Verbatim\n";
        assert_eq!(removed(prefix, &["usb/Mail/x-Sent"]), ["Sent"]);
        assert!(removed(prefix, &["usb/Mail"]).is_empty());
    }
}
