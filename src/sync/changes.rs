//! What a run did, read from mbsync's own record before and after.
//!
//! mbsync replaces a mailbox' record as a whole, and only if it changed. So a
//! descriptor opened before the run still reads the old one, and most are never
//! read at all.
//!
//! isync 1.5 keeps the old record also where deletions are all that it has carried
//! over. There the Maildir before and after the run tells, together with what
//! mbsync says: how many messages it removed here, and to how many it gave other
//! flags. Only where that is all that was removed and changed, in all mailboxes of
//! the run, was no other program involved.

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

/// Most records kept open; of further mailboxes only deletions are reported, by isync
/// 1.5.
const MOST_OPEN: usize = 400;

/// Most files whose names are kept.
const MOST_FILES: u64 = 2_000_000;

/// The records and, for isync 1.5, the Maildirs of some mailboxes at one moment.
#[derive(Debug)]
pub struct Snapshot {
    taken: SystemTime,
    records: Vec<(Mailbox, Option<File>)>,
    /// By [`clean::key`]; empty for isync 1.4.
    maildirs: BTreeMap<String, MaildirBefore>,
    /// What earlier runs have removed, by [`clean::key`].
    gone: BTreeMap<String, Gone>,
}

/// A Maildir before a run.
#[derive(Debug)]
struct MaildirBefore {
    path: PathBuf,
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
        mailboxes: Vec<Mailbox>,
        account: &Account,
        maildirs: bool,
        gone: BTreeMap<String, Gone>,
    ) -> Self {
        let taken = SystemTime::now();
        let mut room = MOST_FILES;
        let listed = mailboxes.iter().filter(|_| maildirs).filter_map(|mailbox| {
            let maildir = MaildirBefore::of(mailbox, account, room)?;
            room = room.saturating_sub(maildir.files.as_ref().map_or(0, Files::len));
            Some((clean::key(mailbox), maildir))
        });
        let maildirs = listed.collect();
        let records = mailboxes
            .into_iter()
            .take(MOST_OPEN)
            .map(|mailbox| {
                let file = mailbox.state_file.as_ref().and_then(|path| file::open(path).ok());
                (mailbox, file)
            })
            .collect();
        Snapshot { taken, records, maildirs, gone }
    }

    /// What differs now, and what runs have removed, this one included. Mailboxes
    /// that the run has made are among those `now` there, and not in the snapshot. A
    /// record that cannot be read tells nothing.
    ///
    /// `log`: what mbsync said of a run that went well. `by_scan`: what a scan of the
    /// far side has found gone, by [`clean::key`].
    #[must_use]
    pub fn changes(
        &self,
        now: &[Mailbox],
        log: Option<&RunLog>,
        by_scan: &dyn Fn(&str) -> Option<Gone>,
    ) -> (Vec<Change>, BTreeMap<String, Gone>) {
        let before = |mailbox: &Mailbox| {
            self.records
                .iter()
                .find(|(known, _)| known == mailbox)
                .and_then(|(_, file)| file.as_ref())
        };
        let accounted = log.and_then(|log| Some((log, self.accounted(log)?)));
        let (mut changes, mut gone) = (Vec::new(), self.gone.clone());
        for (index, mailbox) in now.iter().enumerate() {
            let key = clean::key(mailbox);
            let mut change = None;
            if index < MOST_OPEN {
                let counted = |entry: &Entry| self.was_counted(&key, entry);
                change = recorded(mailbox, before(mailbox), self.taken, counted);
            }
            let record = mailbox.state_file.as_ref().and_then(|path| Stamp::of(path).ok());
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
            changes.extend(
                change.filter(|change| {
                    change.pulled + change.pushed + change.flags + change.gone > 0
                }),
            );
        }
        (changes, gone)
    }

    /// The Maildirs that have changed; `None` if not all that was removed or changed
    /// in any is mbsync's doing.
    fn accounted(&self, log: &RunLog) -> Option<After> {
        let mut after = After::new();
        let mut all = Moved::default();
        for (key, maildir) in &self.maildirs {
            let before = maildir.files.as_ref()?;
            if maildir::dir_stamps(&maildir.path) == maildir.dirs {
                continue;
            }
            let now = Files::of(&maildir.path, maildir.info_delimiter)?;
            let moved = before.moved(&now);
            all.removed += moved.removed;
            all.flags += moved.flags + moved.undeleted;
            after.insert(key.clone(), now);
        }
        // What mbsync removes it makes \Deleted first.
        (all.removed == log.near.removed && all.flags == log.near.flags).then_some(after)
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
        let maildir = self.maildirs.get(key)?;
        let rules = maildir.rules.as_ref()?;
        let before = maildir.files.as_ref()?;
        if record.is_none() || record != maildir.record {
            return None;
        }
        if log.messages(&mailbox.channel, &mailbox.near) != Some(before.len()) {
            return None;
        }
        let record::RecordState::Known(text) = record::read(mailbox.state_file.as_ref()?) else {
            return None;
        };
        if !maildir::is_numbered_by(&maildir.path, &text) {
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
        let record = self.maildirs.get(key).and_then(|maildir| maildir.record.as_ref());
        let kept = KeptGone { by_scan: None, by_run: self.gone.get(key) };
        kept.of_record(record).is_over(entry.far)
    }
}

impl MaildirBefore {
    fn of(mailbox: &Mailbox, account: &Account, room: u64) -> Option<MaildirBefore> {
        let path = mailbox.maildir.clone()?;
        let channel = account.channels.iter().find(|channel| channel.name == mailbox.channel)?;
        let StoreKind::Maildir(store) = &channel.near.store.kind else { return None };
        let info_delimiter = u8::try_from(store.info_delimiter).unwrap_or(b':');
        let dirs = maildir::dir_stamps(&path);
        let files = match dirs {
            // Not made yet.
            [None, None] => Some(Files::default()),
            _ if room == 0 => None,
            _ => Files::of(&path, info_delimiter),
        };
        let record = mailbox.state_file.as_ref().and_then(|path| Stamp::of(path).ok());
        let rules = Rules::of(channel).ok().filter(|rules| !rules.alt_map);
        Some(MaildirBefore { path, rules, info_delimiter, dirs, files, record })
    }
}

/// What the record says that was done, if it is another one now.
fn recorded(
    mailbox: &Mailbox,
    before: Option<&File>,
    since: SystemTime,
    counted: impl Fn(&Entry) -> bool,
) -> Option<Change> {
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
    let counts = record(&now)?.changes_since(&old, pulled, counted);
    Some(Change {
        channel: mailbox.channel.clone(),
        mailbox: mailbox.near.clone(),
        pulled: counts.pulled,
        pushed: counts.pushed,
        flags: counts.flags,
        gone: counts.gone,
    })
}

fn record(file: &File) -> Option<Record> {
    record::parse(&file::read_open(file, record::LARGEST).ok()?).ok()
}
