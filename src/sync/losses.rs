//! What a mailbox has lost, as this disk shows: messages that its record has and its Maildir
//! lacks, and whether the Maildir is the one of the last run.
//!
//! Reads records and Maildirs. Does not depend on: connections, runs, what comes of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox};
use crate::os::file;
use crate::state::held::{HeldKind, MaildirPlace};
use crate::state::{StateDir, clean};
use crate::verdict::gone::{Gone, KeptGone, KnownGone};
use crate::verdict::guard;
use crate::verdict::maildir::{self, Numbered, Stamp};
use crate::verdict::record::{self, Record};
use crate::verdict::{CleanState, Rules};

/// The record as it was when mbsync last ended well: what an interrupted run has done
/// since is not in it.
pub(super) fn record_of(mailbox: &Mailbox) -> Option<Record> {
    let text = file::read(mailbox.state_file.as_deref()?, record::LARGEST).ok()?;
    record::parse(&text).ok()
}

/// What is lost here.
pub(super) fn near_losses(
    account: &Account,
    mailbox: &Mailbox,
    record: &Record,
    known: KnownGone<'_>,
) -> UidSet {
    let channel = account.channel(&mailbox.channel);
    let is_pushed = channel.is_some_and(|channel| channel.gone.far);
    let rules = Rules::of_near(mailbox, account).filter(|_| is_pushed);
    let Some((rules, maildir)) = rules.zip(mailbox.maildir.as_deref()) else {
        return UidSet::EMPTY;
    };
    let Ok(found) = maildir::listing(maildir, rules.info_delimiter) else {
        return UidSet::EMPTY;
    };
    let (files, near) = (found.files(), found.numbered());
    // What is there decides, and not AltMap (isync 1.4 and 1.5, `drv_maildir.c`).
    if is_numbered_by(maildir, record, &near) {
        guard::lost_near(record, &near, &rules, known)
    } else if rules.alt_map || maildir.join(".isyncuidmap.db").exists() {
        // Only mbsync's database knows which file is which message.
        let pairs = guard::pairs(record, known);
        let missing = pairs.len().saturating_sub(files);
        UidSet::from_uids(pairs.uids().take(usize::try_from(missing).unwrap_or(usize::MAX)))
    } else {
        // mbsync refuses to sync it.
        UidSet::EMPTY
    }
}

/// Whether mbsync may take the UIDs in a Maildir's file names for those of the record. Without
/// `.uidvalidity` it gives out new ones (observed with isync 1.4.4).
pub(super) fn is_numbered_by(maildir: &Path, record: &Record, near: &Numbered) -> bool {
    let may_take = || {
        let pairs = guard::pairs(record, KnownGone::NOTHING).len();
        guard::may_take_validity(guard::present_near(record, near), pairs)
    };
    maildir::is_numbered_by(maildir, record)
        || maildir::highest_uid(maildir).is_some() && may_take()
}

/// Whether a Maildir that was moved or replaced lacks what it had. A few that were there when
/// a copy was made were removed by somebody since; an older copy has not numbered them.
pub(super) fn lacks(mailbox: &Mailbox, record: Option<&Record>, lost: &UidSet) -> bool {
    let highest = mailbox.maildir.as_deref().and_then(maildir::highest_uid);
    let was_there = |far| {
        let entry = record.and_then(|record| record.of_far(far));
        entry.zip(highest).is_some_and(|(entry, highest)| entry.near <= highest)
    };
    lost.len() >= guard::FEW || !lost.uids().all(was_there)
}

/// What is kept of messages that are gone on both sides: no loss of the next run's.
#[derive(Default)]
pub(super) struct GoneMemory {
    pub clean: BTreeMap<String, CleanState>,
    by_run: BTreeMap<String, Gone>,
}

impl GoneMemory {
    pub fn read(dir: &StateDir) -> Self {
        let clean = dir.read_json(clean::FILE).unwrap_or_default();
        GoneMemory { clean, by_run: dir.read_json(clean::GONE).unwrap_or_default() }
    }

    pub fn known(&self, mailbox: &Mailbox) -> KnownGone<'_> {
        let key = clean::key(mailbox);
        let stamp = Stamp::of_record(mailbox);
        let by_scan = self.clean.get(&key).and_then(|clean| clean.gone.as_ref());
        KeptGone { by_scan, by_run: self.by_run.get(&key) }.of_record(stamp.as_ref())
    }
}

/// Where its Maildir is; `None` if there is none.
pub(super) fn place_of(mailbox: &Mailbox) -> Option<MaildirPlace> {
    let maildir = mailbox.maildir.as_deref()?;
    let cur = maildir.join("cur").metadata().ok()?.ino();
    let numbered = maildir.join(".uidvalidity").exists();
    Some(MaildirPlace { maildir: maildir.metadata().ok()?.ino(), cur, numbered })
}

/// Why a Maildir is not the one of the last run. `lacks`: messages are gone from it.
pub(super) fn displaced(then: MaildirPlace, mailbox: &Mailbox, lacks: bool) -> Option<HeldKind> {
    let Some(now) = place_of(mailbox) else { return Some(HeldKind::NoMaildir) };
    let record = mailbox.state_file.as_deref();
    if then.numbered && !now.numbered {
        return Some(HeldKind::NoUidValidity);
    }
    if record.is_some_and(|file| !file.exists() && !record::unfinished(file)) {
        return Some(HeldKind::NoRecord);
    }
    // One that was copied to another disk, with all that was in it, is as good.
    (!then.is_same_dir(now) && lacks).then_some(HeldKind::OtherMaildir)
}

/// What a scan of the far side has found gone, if it was judged by the record that is
/// there now.
#[must_use]
pub fn gone_there(clean: &CleanState, mailbox: &Mailbox) -> Option<UidSet> {
    let gone = clean.gone.as_ref()?;
    let stamp = Stamp::of_record(mailbox);
    (gone.record.is_some() && gone.record == stamp).then(|| {
        let mut lost = gone.pending.clone();
        lost.add(&gone.marked);
        lost.tidy();
        lost
    })
}
