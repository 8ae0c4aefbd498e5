//! The near side: what in a Maildir differs from mbsync's record.
//!
//! [`judge_maildir`] is a pure function of the record and the names in cur and new.
//! [`scan`] applies it to a Maildir on disk, and lists no directory whose time
//! stamps are those of the last clean scan. Knows names and time stamps; opens no
//! message.
//!
//! Does not depend on: servers, locks, runs.

use super::gone::{Gone, KeptGone, KnownGone};
use super::record::{self, Entry, EntryKind, Record, RecordState};
use super::{
    Changes, CleanState, Difference, Digest, Rules, SideVerdict, leaves_as_deleted,
    near_difference, pending_cleanup,
};
use crate::error::system_text;
use crate::model::Mailbox;
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use crate::os::{file, file_system};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hasher as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The messages of a Maildir: UIDs and flags read from the names in cur and new.
#[derive(Debug, Clone)]
pub struct MaildirListing {
    info_delimiter: u8,
    /// UID in the high bits, flags in the low eight.
    numbered: Vec<u64>,
    /// Names without a UID.
    unnumbered: u32,
    /// A UID that no mbsync wrote.
    strange: bool,
    /// Messages that are neither \Seen nor \Deleted.
    unread: u32,
    digest: Digest,
}

impl MaildirListing {
    /// An empty one. `info_delimiter` is the byte before `2,` in names.
    #[must_use]
    pub fn new(info_delimiter: u8) -> MaildirListing {
        MaildirListing {
            info_delimiter,
            numbered: Vec::new(),
            unnumbered: 0,
            strange: false,
            unread: 0,
            digest: Digest::default(),
        }
    }

    /// Takes in a file name of cur or new, read as mbsync reads it: no dotfiles,
    /// UID after the first `,U=`, flags anywhere after the first `:2,`.
    pub fn add(&mut self, name: &[u8]) {
        if name.first().is_none_or(|&byte| byte == b'.') {
            return;
        }
        let name = Name::read(name, self.info_delimiter);
        self.digest.add(name.stem, name.flags);
        if !name.flags.has(Flags::SEEN) && !name.flags.has(Flags::TRASHED) {
            self.unread = self.unread.saturating_add(1);
        }
        match name.uid {
            0 => self.unnumbered = self.unnumbered.saturating_add(1),
            uid if uid < u64::from(u32::MAX) => {
                self.numbered.push((uid << 8) | u64::from(name.flags.bits()));
            }
            _ => self.strange = true,
        }
    }

    /// How many messages there are.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.digest.files
    }

    /// The digest of what was taken in.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The messages that have a UID, for looking them up.
    #[must_use]
    pub fn numbered(mut self) -> Numbered {
        self.numbered.sort_unstable();
        Numbered(self.numbered)
    }

    /// UIDs and flags of the messages that have a UID, sorted.
    fn sorted(&mut self) -> impl Iterator<Item = (u32, Flags)> + Clone {
        self.numbered.sort_unstable();
        self.numbered.iter().map(|&packed| unpacked(packed))
    }
}

fn unpacked(packed: u64) -> (u32, Flags) {
    let [flags, uid @ ..] = packed.to_le_bytes();
    let uid = u32::from_le_bytes([uid[0], uid[1], uid[2], uid[3]]);
    (uid, Flags::from_bits(flags))
}

/// The files of a Maildir, to be compared with those of another moment: mbsync and
/// mutt change what follows the first part of a name, and leave that part alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(Vec<NamedFile>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NamedFile {
    stem: u64,
    uid: u32,
    flags: Flags,
}

/// What became of the files of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// So many are gone.
    pub removed: u64,
    /// Of these so many were not \Deleted before.
    pub undeleted: u64,
    /// So many have other flags.
    pub flags: u64,
}

impl Files {
    /// Those of a Maildir, which is left alone meanwhile as far as time stamps tell;
    /// `None` if it is not, or cannot be listed.
    #[must_use]
    pub fn of(maildir: &Path, info_delimiter: u8) -> Option<Files> {
        let before = dir_stamps(maildir);
        let mut files = Vec::new();
        list(maildir, &mut |name| {
            if name.first().is_some_and(|&byte| byte != b'.') {
                files.push(named_file(name, info_delimiter));
            }
        })
        .ok()?;
        files.sort_unstable();
        (dir_stamps(maildir) == before).then_some(Files(files))
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The messages that have a UID.
    #[must_use]
    pub fn numbered(&self) -> Numbered {
        let packed = |file: &NamedFile| (u64::from(file.uid) << 8) | u64::from(file.flags.bits());
        let mut numbered: Vec<u64> =
            self.0.iter().filter(|file| file.uid != 0).map(packed).collect();
        numbered.sort_unstable();
        Numbered(numbered)
    }

    /// What has become of them, `now` being the files of a later moment.
    #[must_use]
    pub fn moved(&self, now: &Files) -> Moved {
        let mut moved = Moved::default();
        let mut later = now.0.iter().peekable();
        for file in &self.0 {
            while later.next_if(|there| there.stem < file.stem).is_some() {}
            if let Some(there) = later.next_if(|there| there.stem == file.stem) {
                moved.flags += u64::from(there.flags != file.flags);
            } else {
                moved.removed += 1;
                moved.undeleted += u64::from(!file.flags.has(Flags::TRASHED));
            }
        }
        moved
    }
}

fn named_file(name: &[u8], info_delimiter: u8) -> NamedFile {
    let Name { stem, numbered_at, uid, flags } = Name::read(name, info_delimiter);
    let mut hasher = DefaultHasher::new();
    hasher.write(stem.get(..numbered_at.unwrap_or(stem.len())).unwrap_or(stem));
    NamedFile { stem: hasher.finish(), uid: u32::try_from(uid).unwrap_or(0), flags }
}

/// The stamps of cur and new.
#[must_use]
pub fn dir_stamps(maildir: &Path) -> [Option<Stamp>; 2] {
    ["cur", "new"].map(|folder| Stamp::of(&maildir.join(folder)).ok())
}

/// Whether the mailbox was changed within this time: a message came, went or got other flags.
#[must_use]
pub fn changed_within(mailbox: &Mailbox, time: Duration) -> bool {
    let stamps = mailbox.maildir.as_deref().map(dir_stamps).unwrap_or_default();
    // After them. One that is ahead all the same is from another clock, and says nothing.
    let now = SystemTime::now();
    stamps.into_iter().flatten().any(|stamp| stamp.age(now).is_some_and(|age| age < time))
}

/// The messages of a Maildir that have a UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered(Vec<u64>);

impl Numbered {
    /// The flags of a message; `None` if there is none with this UID.
    #[must_use]
    pub fn flags(&self, uid: u32) -> Option<Flags> {
        let at = self.0.partition_point(|&packed| packed >> 8 < u64::from(uid));
        let (found, flags) = unpacked(*self.0.get(at)?);
        (found == uid).then_some(flags)
    }

    /// UIDs and flags, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Flags)> {
        self.0.iter().map(|&packed| unpacked(packed))
    }
}

/// A file name of cur or new.
struct Name<'a> {
    /// Up to the first info delimiter.
    stem: &'a [u8],
    /// Where the UID begins.
    numbered_at: Option<usize>,
    /// 0 if there is none.
    uid: u64,
    flags: Flags,
}

impl Name<'_> {
    fn read(name: &[u8], delimiter: u8) -> Name<'_> {
        let (mut stem, mut uid, mut flags) = (None, None, None);
        for (at, &byte) in name.iter().enumerate() {
            if byte != b',' && byte != delimiter {
                continue;
            }
            let tail = &name[at + 1..];
            if byte == delimiter {
                stem.get_or_insert(at);
            }
            if flags.is_none() && byte == delimiter && tail.starts_with(b"2,") {
                flags = Some(Flags::among(&tail[2..]));
            }
            if uid.is_none() && byte == b',' && tail.starts_with(b"U=") {
                uid = Some((at, leading_number(&tail[2..])));
            }
            if uid.is_some() && flags.is_some() {
                break;
            }
        }
        Name {
            stem: &name[..stem.unwrap_or(name.len())],
            numbered_at: uid.map(|(at, _)| at),
            uid: uid.map_or(0, |(_, uid)| uid),
            flags: flags.unwrap_or(Flags::NONE),
        }
    }
}

/// Whether the flags in a file name say that the message is deleted.
#[must_use]
pub fn is_trashed(name: &[u8], info_delimiter: u8) -> bool {
    Name::read(name, info_delimiter).flags.has(Flags::TRASHED)
}

/// The number that `text` starts with, 0 if none; `u64::MAX` if it does not fit.
fn leading_number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |value, &digit| {
        value
            .checked_mul(10)
            .and_then(|v| v.checked_add(u64::from(digit - b'0')))
            .unwrap_or(u64::MAX)
    })
}

/// `.uidvalidity`: how mbsync numbers the messages of a Maildir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbering {
    /// UIDVALIDITY.
    pub validity: u32,
    /// The highest UID given out.
    pub highest: u32,
}

impl Numbering {
    /// What the file says; `None` if mbsync would not read it either.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Numbering> {
        let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let validity = numbers.next()?.parse().ok()?;
        let highest = numbers.next()?.parse().ok()?;
        Some(Numbering { validity, highest })
    }
}

/// What in a Maildir with UIDs in its names differs from the record.
///
/// `forwarded` is whether the server lets `$Forwarded` be stored (`\*` or the
/// keyword in PERMANENTFLAGS); `None`, not known, counts as yes. `known`: what is
/// known of far messages that are gone.
#[must_use]
pub fn judge_maildir(
    record: &Record,
    listing: &mut MaildirListing,
    numbering: Numbering,
    rules: &Rules,
    forwarded: Option<bool>,
    known: KnownGone<'_>,
) -> SideVerdict {
    if numbering.validity != record.near_validity {
        return SideVerdict::Unknown(
            "the Maildir's UIDVALIDITY is not the recorded one".to_owned(),
        );
    }
    if record.max_expired_near > 0 {
        return SideVerdict::Unknown("messages expire on the far side".to_owned());
    }
    if listing.strange {
        return SideVerdict::Unknown("a file name has an impossible UID".to_owned());
    }
    let mut changes = Changes {
        new: listing.unnumbered,
        other: pending_cleanup(record, rules, known),
        ..Changes::default()
    };
    let mut entries = record.with_near().peekable();
    let mut last = 0;
    for (uid, flags) in listing.sorted() {
        if uid == last {
            return SideVerdict::Unknown(format!("two files have the UID {uid}"));
        }
        last = uid;
        while let Some(entry) = entries.next_if(|entry| entry.near < uid) {
            changes.count_if(missing(entry, rules, known));
        }
        if let Some(entry) = entries.next_if(|entry| entry.near == uid) {
            changes.count_if(present(entry, flags, rules, forwarded, known));
        } else if flags.has(Flags::TRASHED) && rules.expunge_near {
            changes.count(Difference::Deleted);
        } else if (uid > record.max_pushed || rules.push_old)
            && !(flags.has(Flags::TRASHED) && rules.expunge_far)
        {
            changes.count(Difference::New);
        }
        // Left over: numbered, not recorded and not above the mark. mbsync has
        // done with it (refused, or its entry dropped) and, without Old, never
        // looks again.
    }
    if last > numbering.highest {
        return SideVerdict::Unknown(format!("the UID {last} is above the highest given out"));
    }
    for entry in entries {
        changes.count_if(missing(entry, rules, known));
    }
    SideVerdict::from_changes(changes)
}

/// Near messages that mbsync has passed over: numbered, not above the mark, without an
/// entry, not \Deleted. Without Old, mbsync never looks at one again.
pub fn left_over(record: &Record, messages: impl Iterator<Item = (u32, Flags)>) -> UidSet {
    let passed = messages.filter(|(uid, flags)| {
        *uid <= record.max_pushed && !flags.has(Flags::TRASHED) && record.of_near(*uid).is_none()
    });
    UidSet::from_uids(passed.map(|(uid, _)| uid))
}

/// What is to be done about an entry whose near message is gone.
fn missing(entry: &Entry, rules: &Rules, known: KnownGone<'_>) -> Option<Difference> {
    // Neither message is there.
    if entry.far == 0 || known.is_over(entry.far) {
        return None;
    }
    // Recorded as \Deleted, the far one is it already, or its flags differ from
    // the record; and no program removes it.
    let deleted = entry.flags.has(Flags::TRASHED) && !rules.expunge_far;
    (!(deleted && entry.kind == EntryKind::Plain)).then_some(Difference::Deleted)
}

/// What is to be done about an entry whose near message has these flags.
fn present(
    entry: &Entry,
    flags: Flags,
    rules: &Rules,
    forwarded: Option<bool>,
    known: KnownGone<'_>,
) -> Option<Difference> {
    if known.is_gone(entry.far) {
        // \Deleted is all that mbsync makes of it, unless it expunges.
        let done =
            leaves_as_deleted(entry, rules) && flags.has(Flags::TRASHED) && !rules.expunge_near;
        return (!done).then_some(Difference::Deleted);
    }
    let difference = near_difference(entry, flags, rules, forwarded);
    // It was gone when the far one was \Deleted, and is here again.
    difference.or_else(|| known.was_deleted(entry.far).then_some(Difference::Flags))
}

/// Time stamps of a directory or file. The change time is in it because a
/// modification time can be set back, by a restored backup or by `touch -d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

/// What can be seen of a pair's near side without listing a directory.
/// Equal to those of a scan that found it clean: still clean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirStamps {
    cur: Stamp,
    new: Option<Stamp>,
    record: Option<Stamp>,
    numbering: Option<Stamp>,
    unfinished: bool,
}

/// The clock that stamps files moves in ticks, of 10 ms at most on Linux. Twice
/// that, for the clock may be read at the other end of a tick.
const TICK: Duration = Duration::from_millis(20);
/// For file systems that keep whole seconds (or two, as FAT does).
const COARSE_TICK: Duration = Duration::from_millis(2020);

impl Stamp {
    /// The stamp of a file or directory.
    ///
    /// # Errors
    /// As stat(2).
    pub fn of(path: &Path) -> std::io::Result<Stamp> {
        let found = path.metadata()?;
        Ok(Stamp {
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            // A directory's size says nothing and may be rounded.
            size: if found.is_dir() { 0 } else { found.size() },
            inode: found.ino(),
        })
    }

    /// The stamp of a mailbox's record; `None` if there is none.
    #[must_use]
    pub fn of_record(mailbox: &Mailbox) -> Option<Stamp> {
        Stamp::of(mailbox.state_file.as_deref()?).ok()
    }

    /// How long ago it last changed; `None` if that is still to come.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let (seconds, nanos) = self.modified.max(self.changed);
        let (seconds, nanos) = (u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
        now.duration_since(changed).ok()
    }

    /// Whether a change made after `now` is bound to show in another stamp.
    /// Not if this one is of the clock's current tick, or lies ahead of it.
    fn settled(&self, now: SystemTime) -> bool {
        let tick = if self.modified.1 == 0 && self.changed.1 == 0 { COARSE_TICK } else { TICK };
        let Some(limit) = now.checked_sub(tick).and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        else {
            return false;
        };
        let limit =
            (i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), i64::from(limit.subsec_nanos()));
        self.changed < limit && self.modified < limit
    }
}

impl DirStamps {
    /// The stamps of a pair's near side; `None` if there is no Maildir (for mbsync,
    /// a directory is one if it holds cur).
    ///
    /// # Errors
    /// The Maildir is there but may not be read.
    pub fn at(maildir: &Path, state_file: &Path) -> std::io::Result<Option<DirStamps>> {
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        };
        let stamp = |path: &Path| Stamp::of(path).map(Some).or_else(missing);
        let Some(cur) = stamp(&maildir.join("cur"))? else {
            return Ok(None);
        };
        Ok(Some(DirStamps {
            cur,
            new: stamp(&maildir.join("new"))?,
            record: stamp(state_file)?,
            numbering: stamp(&maildir.join(".uidvalidity"))?,
            unfinished: record::unfinished(state_file),
        }))
    }

    /// Whether a change made after `now` is bound to show in other stamps, so
    /// that these may be remembered.
    #[must_use]
    pub fn settled(&self, now: SystemTime) -> bool {
        let others = [&self.new, &self.record, &self.numbering];
        self.cur.settled(now) && others.into_iter().flatten().all(|stamp| stamp.settled(now))
    }
}

/// What is remembered of the near side from its last clean scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanMaildir {
    /// The time stamps, if they were settled.
    #[serde(rename = "glance")]
    pub stamps: Option<DirStamps>,
    /// The digest: the only memory of a Maildir with `AltMap`.
    pub digest: Option<Digest>,
    /// Stamp of the record that the digest goes with. Without it, a message
    /// pulled by another process's run and then removed would leave the same
    /// digest as before.
    pub record: Option<Stamp>,
    /// The rules that it was judged by.
    pub rules: Rules,
    /// Whether `$Forwarded` was then known to be taken by the server.
    pub forwarded: Option<bool>,
    /// Messages that mbsync has passed over; `None` if nobody looked for them.
    #[serde(default)]
    pub left: Option<UidSet>,
    /// How many messages are unread; `None` if nobody counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<u32>,
}

/// What a scan of a Maildir found.
#[derive(Debug, Clone)]
pub struct MaildirScan {
    /// The near side's verdict.
    pub verdict: SideVerdict,
    /// To be remembered if it is clean: the next scan that sees the same stamps
    /// need not list. `None` while they are not settled, and always on a network file
    /// system.
    pub stamps: Option<DirStamps>,
    /// Digest of the messages: of these, or of those remembered where the
    /// stamps were enough.
    pub digest: Option<Digest>,
    /// Stamp of the record; `None` if there is none.
    pub record: Option<Stamp>,
    /// The record, if it was read: it is not, and no directory is listed, when the stamps
    /// were enough.
    pub state: Option<RecordState>,
    /// Messages that mbsync has passed over: see [`left_over`].
    pub left: UidSet,
    /// How many messages are unread; `None` if that is not known.
    pub unread: Option<u32>,
}

impl MaildirScan {
    fn unknown(why: String) -> MaildirScan {
        MaildirScan {
            verdict: SideVerdict::Unknown(why),
            stamps: None,
            digest: None,
            record: None,
            state: None,
            left: UidSet::default(),
            unread: None,
        }
    }

    /// What to remember of this scan if this side turned out clean. With
    /// `AltMap` this is the case, too, where the last run went well and the
    /// digest is that of the scan before it.
    #[must_use]
    pub fn remembered(&self, rules: &Rules, forwarded: Option<bool>) -> CleanMaildir {
        CleanMaildir {
            stamps: self.stamps.clone(),
            digest: self.digest,
            record: self.record,
            rules: rules.clone(),
            forwarded,
            left: Some(self.left.clone()),
            unread: self.unread,
        }
    }
}

/// Scans the near side of a pair. `kept`: what was kept of far messages that are gone.
///
/// The stamps are read before and after the listing, and only a listing that
/// nothing disturbed is remembered as clean; when three in a row were disturbed,
/// the last one counts and its stamps are not returned. On a network file system each
/// scan lists.
#[must_use]
pub fn scan(
    maildir: &Path,
    state_file: &Path,
    rules: &Rules,
    remembered: Option<&CleanMaildir>,
    forwarded: Option<bool>,
    kept: KeptGone<'_>,
) -> MaildirScan {
    let exact = file_system::has_exact_stamps(&maildir.join("cur"));
    scan_by(exact, maildir, state_file, rules, remembered, forwarded, kept)
}

/// The same. `exact`: a change is bound to show in the stamps.
fn scan_by(
    exact: bool,
    maildir: &Path,
    state_file: &Path,
    rules: &Rules,
    remembered: Option<&CleanMaildir>,
    forwarded: Option<bool>,
    kept: KeptGone<'_>,
) -> MaildirScan {
    let remembered = remembered.filter(|then| then.rules == *rules && then.forwarded == forwarded);
    let mut found = MaildirScan::unknown(String::new());
    for _ in 0..3 {
        let now = SystemTime::now();
        let before = match DirStamps::at(maildir, state_file) {
            Ok(Some(stamps)) => stamps,
            Ok(None) => return MaildirScan::unknown("no Maildir yet".to_owned()),
            Err(error) => {
                return MaildirScan::unknown(format!(
                    "{}: {}",
                    maildir.display(),
                    system_text(&error)
                ));
            }
        };
        let same = |then: &&CleanMaildir| exact && then.stamps.as_ref() == Some(&before);
        if let Some((then, left, unread)) =
            remembered.filter(same).and_then(|then| Some((then, then.left.clone()?, then.unread?)))
        {
            return MaildirScan {
                left,
                unread: Some(unread),
                verdict: SideVerdict::Clean,
                record: before.record,
                stamps: Some(before),
                digest: then.digest,
                state: None,
            };
        }
        let state = record::read(state_file);
        let mut listing = MaildirListing::new(rules.info_delimiter);
        if let Err(error) = list(maildir, &mut |name| listing.add(name)) {
            return MaildirScan::unknown(format!("{}: {}", maildir.display(), system_text(&error)));
        }
        let then = remembered.filter(|then| then.record == before.record);
        let seen = ScanContext {
            remembered: then,
            forwarded,
            known: kept.of_record(before.record.as_ref()),
        };
        let verdict = judge_on_disk(maildir, &state, &mut listing, rules, seen);
        let left = match &state {
            RecordState::Known(record) if is_numbered_by(maildir, record) => {
                left_over(record, listing.sorted())
            }
            _ => UidSet::default(),
        };
        let undisturbed =
            DirStamps::at(maildir, state_file).is_ok_and(|after| after.as_ref() == Some(&before));
        let settled = exact && undisturbed && before.settled(now);
        found = MaildirScan {
            verdict,
            record: before.record,
            stamps: settled.then_some(before),
            digest: Some(listing.digest()),
            state: Some(state),
            left,
            unread: Some(listing.unread),
        };
        if undisturbed {
            break;
        }
    }
    found
}

/// Scans the near side of a mailbox. With the scan comes what is to be remembered
/// if that is not remembered already: `Some` only if it is clean. `None` for a
/// mailbox that is not here.
///
/// `by_run`: what runs have removed. `left_by_run`: the digest before a run that
/// went well and synced this mailbox. With `AltMap`, where no record can be compared
/// with, the same digest after it means clean.
#[must_use]
pub fn scan_mailbox(
    mailbox: &Mailbox,
    rules: &Rules,
    clean: &CleanState,
    by_run: Option<&Gone>,
    left_by_run: Option<Digest>,
) -> Option<(MaildirScan, Option<CleanMaildir>)> {
    let (maildir, state_file) = mailbox.maildir.as_deref().zip(mailbox.state_file.as_deref())?;
    let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
    let mut found = scan(maildir, state_file, rules, clean.near.as_ref(), clean.forwarded, kept);
    let settled_by_run = is_alt_map(maildir, rules)
        && left_by_run.is_some()
        && left_by_run == found.digest
        && matches!(found.state, Some(RecordState::Known(_)))
        && !record::unfinished(state_file);
    if settled_by_run {
        found.verdict = SideVerdict::Clean;
    }
    let memory = (found.verdict == SideVerdict::Clean)
        .then(|| found.remembered(rules, clean.forwarded))
        .filter(|memory| clean.near.as_ref() != Some(memory));
    Some((found, memory))
}

/// What was known before a scan.
#[derive(Clone, Copy, Default)]
struct ScanContext<'a> {
    remembered: Option<&'a CleanMaildir>,
    forwarded: Option<bool>,
    known: KnownGone<'a>,
}

/// [`judge_maildir`] for every state of the record and every numbering, with what
/// else is needed read from the disk.
fn judge_on_disk(
    maildir: &Path,
    state: &RecordState,
    listing: &mut MaildirListing,
    rules: &Rules,
    before: ScanContext<'_>,
) -> SideVerdict {
    let record = match state {
        RecordState::Known(record) => record,
        RecordState::NeverSynced if listing.files() == 0 => {
            return SideVerdict::Unknown("never synced".to_owned());
        }
        RecordState::NeverSynced => {
            let new = u32::try_from(listing.files()).unwrap_or(u32::MAX);
            return SideVerdict::Changed(Changes { new, ..Changes::default() });
        }
        RecordState::Unfinished => {
            return SideVerdict::Unknown("mbsync was interrupted".to_owned());
        }
        RecordState::Unreadable { why } => return SideVerdict::Unknown(why.clone()),
    };
    // As is_alt_map; a database may be there without the setting.
    match read_numbering(&maildir.join(".uidvalidity")) {
        Ok(text) => match Numbering::parse(&text) {
            Some(numbering) => {
                judge_maildir(record, listing, numbering, rules, before.forwarded, before.known)
            }
            None => SideVerdict::Unknown(".uidvalidity is not understood".to_owned()),
        },
        Err(_) if rules.alt_map || maildir.join(".isyncuidmap.db").exists() => {
            judge_alt_map(record, listing, rules, before)
        }
        Err(_) => SideVerdict::Unknown("the Maildir has lost its UIDs (.uidvalidity)".to_owned()),
    }
}

/// Whether only mbsync's database knows which file is which message. The scheme that is
/// there beats the setting (isync 1.4 and 1.5, `drv_maildir.c`).
#[must_use]
pub fn is_alt_map(maildir: &Path, rules: &Rules) -> bool {
    rules.alt_map && read_numbering(&maildir.join(".uidvalidity")).is_err()
}

/// As much of the file as mbsync reads.
fn read_numbering(path: &Path) -> std::io::Result<Vec<u8>> {
    file::read_start(path, 127)
}

/// With `AltMap` only mbsync's database knows which file is which message. So
/// the messages are compared with those of the last clean scan.
fn judge_alt_map(
    record: &Record,
    listing: &MaildirListing,
    rules: &Rules,
    before: ScanContext<'_>,
) -> SideVerdict {
    let Some(then) = before.remembered.and_then(|then| then.digest) else {
        return SideVerdict::Unknown("AltMap, and nothing remembered".to_owned());
    };
    let mut changes =
        Changes { other: pending_cleanup(record, rules, before.known), ..Changes::default() };
    if then != listing.digest() {
        let more = listing.files().checked_sub(then.files).and_then(|n| u32::try_from(n).ok());
        let fewer = then.files.checked_sub(listing.files()).and_then(|n| u32::try_from(n).ok());
        changes.new = more.unwrap_or(0);
        changes.deleted = fewer.unwrap_or(0);
        changes.other += u32::from(then.files == listing.files());
    }
    SideVerdict::from_changes(changes)
}

/// The messages of a Maildir with UIDs in its names; `None` where they cannot be
/// read, or are not the ones that the record numbers.
#[must_use]
pub fn numbered(maildir: &Path, record: &Record, rules: &Rules) -> Option<Numbered> {
    if !is_numbered_by(maildir, record) {
        return None;
    }
    let listing = listing(maildir, rules.info_delimiter).ok()?;
    (!listing.strange).then(|| listing.numbered())
}

/// Whether the UIDs in a Maildir's file names are those of the record.
#[must_use]
pub fn is_numbered_by(maildir: &Path, record: &Record) -> bool {
    numbering(maildir).is_some_and(|numbering| numbering.validity == record.near_validity)
}

/// The highest UID that was given out in a Maildir.
#[must_use]
pub fn highest_uid(maildir: &Path) -> Option<u32> {
    numbering(maildir).map(|numbering| numbering.highest)
}

fn numbering(maildir: &Path) -> Option<Numbering> {
    let text = read_numbering(&maildir.join(".uidvalidity")).ok()?;
    Numbering::parse(&text)
}

/// The messages of a Maildir.
///
/// # Errors
/// It cannot be listed.
pub fn listing(maildir: &Path, info_delimiter: u8) -> std::io::Result<MaildirListing> {
    let mut listing = MaildirListing::new(info_delimiter);
    list(maildir, &mut |name| listing.add(name))?;
    Ok(listing)
}

/// Hands the names in cur and new to `each`. A missing new is empty: mbsync
/// makes it.
fn list(maildir: &Path, each: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 64 << 10];
    for folder in ["cur", "new"] {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        #[expect(clippy::disallowed_methods, reason = "a directory, and nothing else")]
        let dir = match rustix::fs::open(maildir.join(folder), flags, Mode::empty()) {
            Err(Errno::NOENT) if folder == "new" => continue,
            opened => opened?,
        };
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            each(entry?.file_name().to_bytes());
        }
    }
    Ok(())
}

/// The files that an mbsync started at `since` or later has delivered into a
/// Maildir, and that are still there under the name it gave them,
/// `TIME.PID_COUNT.HOST`: what a run pulled. Oldest first.
///
/// Recognized by time, not by process, so that a wrapper around mbsync does not hide
/// them. The name has whole seconds; the change time tells runs within one
/// second apart.
///
/// # Errors
/// The Maildir cannot be listed.
pub fn delivered(maildir: &Path, since: SystemTime) -> std::io::Result<Vec<PathBuf>> {
    // The clock that stamps files may lag a tick behind.
    let since = since
        .checked_sub(TICK)
        .unwrap_or(UNIX_EPOCH)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let second = since.as_secs();
    let start = (i64::try_from(second).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()));
    let mut found = Vec::new();
    for folder in ["cur", "new"] {
        let dir = match std::fs::read_dir(maildir.join(folder)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for entry in dir {
            let entry = entry?;
            let name = entry.file_name();
            let named = name.to_str().is_some_and(|name| {
                let number = |text: &str| text.parse::<u64>().ok();
                let mut parts = name.split('.');
                let time = parts.next().and_then(number);
                let pair = parts.next().and_then(|part| part.split_once('_'));
                let (pid, count) = pair.map_or((None, None), |(a, b)| (number(a), number(b)));
                pid.and(count).and(time).is_some_and(|time| time >= second)
            });
            // Renamed into place, or by mutt since: either changes the inode.
            let fresh =
                || entry.metadata().is_ok_and(|found| (found.ctime(), found.ctime_nsec()) >= start);
            if named && fresh() {
                found.push(maildir.join(folder).join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::gone::Gone;
    use super::*;
    use crate::model::uid_set::UidSet;

    const RULES: Rules = Rules::none();
    const NUMBERING: Numbering = Numbering { validity: 2, highest: 20 };

    fn record(entries: &str) -> Record {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\n";
        record::parse(format!("{head}{entries}").as_bytes()).unwrap()
    }

    fn found(entries: &str, names: &[&str], rules: &Rules, forwarded: Option<bool>) -> SideVerdict {
        let mut listing = MaildirListing::new(rules.info_delimiter);
        for name in names {
            listing.add(name.as_bytes());
        }
        judge_maildir(
            &record(entries),
            &mut listing,
            NUMBERING,
            rules,
            forwarded,
            KnownGone::NOTHING,
        )
    }

    fn changes(new: u32, deleted: u32, flags: u32) -> SideVerdict {
        SideVerdict::Changed(Changes { new, deleted, flags, other: 0 })
    }

    #[test]
    fn names_are_read_as_mbsync_reads_them() {
        let clean = |entries, name: &str| {
            assert_eq!(found(entries, &[name], &RULES, None), SideVerdict::Clean, "{name}");
        };
        clean("1 1 S\n", "100.5_1.host,U=1:2,S");
        clean("1 1\n", "100.5_1.host,U=1:2,");
        clean("1 1\n", "100.5_1.host,U=1");
        clean("1 1 S\n", "100.M5,S=12,U=1,W=3:2,Sab");
        clean("1 1 FS\n", "x,U=1:2,SF");
        clean("1 1 S\n", "x:2,S,U=1");
        clean("1 1 FS\n", "x,U=1:2,S:2,F");
        clean("1 1\n", "x,2,S,U=1");
        clean("20 20 S\n", "the highest given out,U=20:2,S");
        let semicolon = Rules { info_delimiter: b';', ..RULES };
        assert_eq!(
            found("1 1 S\n", &["x,U=1;2,S", ".hidden"], &semicolon, None),
            SideVerdict::Clean
        );
    }

    #[test]
    fn the_flags_of_a_name_follow_its_own_delimiter() {
        assert!(is_trashed(b"x,U=1:2,ST", b':') && is_trashed(b"x,U=1;2,T", b';'));
        for name in ["x,U=1;2,T", "x2,T", "x,U=1:2,S"] {
            assert!(!is_trashed(name.as_bytes(), b':'), "{name}");
        }
    }

    #[test]
    fn a_message_is_its_name_up_to_the_flags_and_its_flags() {
        let digest = |name: &str| {
            let mut listing = MaildirListing::new(b':');
            listing.add(name.as_bytes());
            listing.digest()
        };
        assert_eq!(digest("x,U=1:2,S"), digest("x,U=1:2,Sab"));
        for other in ["x,U=2:2,S", "x,U=1:2,FS", "y,U=1:2,S", "x,U=1,S=3:2,S"] {
            assert_ne!(digest("x,U=1:2,S"), digest(other), "{other}");
        }
    }

    #[test]
    fn files_are_known_again_by_the_first_part_of_their_names() {
        let (dir, _) = maildir();
        let at = |name: &str| dir.path().join(name);
        let files = || Files::of(dir.path(), b':').unwrap();
        for name in ["cur/b,U=2:2,", "new/c", "cur/d,S=5:2,T", "cur/e,U=5:2,S", "new/.hidden"] {
            std::fs::write(at(name), "").unwrap();
        }
        let before = files();
        assert_eq!((before.count(), before.moved(&before)), (5, Moved::default()));
        let numbered: Vec<(u32, Flags)> = before.numbered().iter().collect();
        let seen = Flags::SEEN;
        assert_eq!(numbered, [(1, seen), (2, Flags::NONE), (5, seen)]);
        assert_eq!(before.numbered().flags(5), Some(seen));
        assert_eq!((before.numbered().flags(3), before.numbered().flags(6)), (None, None));
        // Numbered by mbsync, moved to cur by mutt, and one that is new.
        std::fs::rename(at("new/c"), at("cur/c,U=3:2,")).unwrap();
        std::fs::write(at("new/f"), "").unwrap();
        assert_eq!(before.moved(&files()), Moved::default());
        std::fs::rename(at("cur/b,U=2:2,"), at("cur/b,U=2:2,S")).unwrap();
        assert_eq!(before.moved(&files()), Moved { flags: 1, ..Moved::default() });
        std::fs::remove_file(at("cur/d,S=5:2,T")).unwrap();
        assert_eq!(before.moved(&files()), Moved { flags: 1, removed: 1, undeleted: 0 });
        std::fs::rename(at("cur/e,U=5:2,S"), at("cur/g,U=5:2,S")).unwrap();
        assert_eq!(before.moved(&files()), Moved { flags: 1, removed: 2, undeleted: 1 });
        std::fs::remove_dir_all(at("cur")).unwrap();
        assert_eq!(Files::of(dir.path(), b':'), None);
    }

    #[test]
    fn a_stamp_is_settled_when_the_clock_has_gone_on() {
        let then = UNIX_EPOCH + Duration::from_secs(1000);
        let after = |nanos| then + Duration::from_nanos(nanos);
        let stamp =
            |nsec| Stamp { modified: (1000, nsec), changed: (1000, nsec), size: 0, inode: 1 };
        let (fine, whole) = (stamp(500), stamp(0));
        assert!(!fine.settled(then) && !fine.settled(UNIX_EPOCH));
        assert!(!fine.settled(after(20_000_500)) && fine.settled(after(20_000_501)));
        assert!(!whole.settled(after(2_020_000_000)) && whole.settled(after(2_020_000_001)));
        for old in [Stamp { modified: (999, 5), ..fine }, Stamp { changed: (999, 5), ..fine }] {
            assert!(!old.settled(after(20_000_500)) && old.settled(after(20_000_501)));
        }
        for half in [Stamp { modified: (1000, 0), ..fine }, Stamp { changed: (1000, 0), ..fine }] {
            assert!(half.settled(after(20_000_501)));
        }
        for ahead in [Stamp { modified: (1001, 5), ..fine }, Stamp { changed: (1001, 5), ..fine }] {
            assert!(!ahead.settled(after(20_000_501)));
        }
    }

    #[test]
    fn what_was_never_synced_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let mut listing = MaildirListing::new(b':');
        let mut judged = |name: &[u8]| {
            listing.add(name);
            judge_on_disk(
                dir.path(),
                &RecordState::NeverSynced,
                &mut listing,
                &RULES,
                ScanContext::default(),
            )
        };
        assert!(matches!(judged(b".hidden"), SideVerdict::Unknown(_)));
        assert_eq!(judged(b"a"), changes(1, 0, 0));
        assert_eq!(judged(b"b,U=4:2,S"), changes(2, 0, 0));
    }

    #[test]
    fn changes_are_counted_by_kind() {
        let entries = "1 1 S\n2 2 \n3 3 F\n4 0 S\n0 5 T\n";
        let names = ["a,U=1:2,S", "b,U=2:2,", "c,U=3:2,F", "e,U=5:2,ST"];
        assert_eq!(found(entries, &names, &RULES, None), SideVerdict::Clean);
        let names = ["a,U=1:2,RS", "c,U=3:2,F", "e,U=5:2,", "new:2,S", "f,U=12:2,"];
        assert_eq!(found(entries, &names, &RULES, None), changes(2, 1, 1));
        // Numbered, below the mark, not recorded: mbsync has done with it.
        let names = ["a,U=1:2,S", "b,U=2:2,", "c,U=3:2,F", "e,U=5:2,", "f,U=8:2,S"];
        assert_eq!(found(entries, &names, &RULES, None), SideVerdict::Clean);
    }

    #[test]
    fn passed_counts_where_the_server_takes_it() {
        let name = ["a,U=1:2,PS"];
        assert_eq!(found("1 1 S\n", &name, &RULES, Some(false)), SideVerdict::Clean);
        assert_eq!(found("1 1 S\n", &name, &RULES, Some(true)), changes(0, 0, 1));
        assert_eq!(found("1 1 S\n", &name, &RULES, None), changes(0, 0, 1));
    }

    #[test]
    fn expunge_counts_what_it_would_remove() {
        let near = Rules { expunge_near: true, ..RULES };
        assert_eq!(found("1 1 ST\n", &["a,U=1:2,ST"], &RULES, None), SideVerdict::Clean);
        assert_eq!(found("1 1 ST\n", &["a,U=1:2,ST"], &near, None), changes(0, 1, 0));
        assert_eq!(found("", &["a,U=1:2,T"], &near, None), changes(0, 1, 0));
        let far = Rules { expunge_far: true, ..RULES };
        assert_eq!(found("", &["a,U=12:2,T"], &far, None), SideVerdict::Clean);
        assert_eq!(found("", &["a,U=12:2,T"], &RULES, None), changes(1, 0, 0));
    }

    #[test]
    fn what_is_numbered_up_to_the_mark_is_not_new() {
        assert_eq!(found("", &["a,U=9:2,S"], &RULES, None), SideVerdict::Clean);
        assert_eq!(found("", &["a,U=10:2,S"], &RULES, None), changes(1, 0, 0));
    }

    /// Of the far message it is known that it is gone, or \Deleted.
    #[test]
    fn what_is_gone_on_the_server_is_not_to_be_pushed() {
        let (_dir, state) = maildir();
        let stamp = Stamp::of(&state).unwrap();
        let set = |uid: u32| UidSet::from_uids([uid]);
        let known = Gone {
            record: Some(stamp),
            gone: set(1),
            deleted: set(2),
            pending: set(3),
            ..Gone::default()
        };
        let kept = KeptGone { by_scan: Some(&known), by_run: None };
        let found = |entries: &str, names: &[&str], rules: &Rules| {
            let mut listing = MaildirListing::new(b':');
            for name in names {
                listing.add(name.as_bytes());
            }
            let known = kept.of_record(Some(&stamp));
            judge_maildir(&record(entries), &mut listing, NUMBERING, rules, None, known)
        };
        let near = Rules { expunge_near: true, ..RULES };
        for (entry, name, expected) in [
            // Gone on both sides; or, without Expunge, \Deleted here.
            ("1 1 S\n", None, changes(0, 0, 0)),
            ("1 1 S\n", Some("a,U=1:2,ST"), changes(0, 0, 0)),
            ("1 1 S\n", Some("a,U=1:2,S"), changes(0, 1, 0)),
            ("1 1 ~S\n", Some("a,U=1:2,ST"), changes(0, 1, 0)),
            // \Deleted there, gone here; and here again.
            ("2 2 S\n", None, changes(0, 0, 0)),
            ("2 2 S\n", Some("a,U=2:2,S"), changes(0, 0, 1)),
            ("2 2 S\n", Some("a,U=2:2,F"), changes(0, 0, 1)),
            // To be removed here by a run, which has done it.
            ("3 3 S\n", None, changes(0, 0, 0)),
            ("3 3 S\n", Some("a,U=3:2,S"), changes(0, 0, 0)),
            // Of these nothing is known.
            ("4 4 S\n", None, changes(0, 1, 0)),
            ("4 4 ST\n", None, changes(0, 0, 0)),
            ("0 4 S\n", None, changes(0, 0, 0)),
        ] {
            let expected = if expected == changes(0, 0, 0) { SideVerdict::Clean } else { expected };
            let names: Vec<&str> = name.into_iter().collect();
            assert_eq!(found(entry, &names, &RULES), expected, "{entry} {name:?}");
        }
        assert_eq!(found("1 1 S\n", &["a,U=1:2,ST"], &near), changes(0, 1, 0));
        let far = Rules { expunge_far: true, ..RULES };
        assert_eq!(found("4 4 ST\n", &[], &far), changes(0, 1, 0), "it is to be expunged there");
    }

    #[test]
    fn placeholders_do_not_carry_seen_and_ask_by_flagged() {
        assert_eq!(found("1 1 >\n", &["a,U=1:2,S"], &RULES, None), SideVerdict::Clean);
        assert_eq!(found("1 1 >\n", &["a,U=1:2,F"], &RULES, None), changes(0, 0, 1));
        assert_eq!(found("1 1 >S\n", &["a,U=1:2,S"], &RULES, None), changes(0, 0, 1));
        assert_eq!(found("1 1 <S\n", &["a,U=1:2,S"], &RULES, None), SideVerdict::Clean);
        assert_eq!(found("1 1 <\n", &["a,U=1:2,F"], &RULES, None), changes(0, 0, 1));
    }

    #[test]
    fn placeholders_of_isync_1_5_carry_that_seen_is_taken_back() {
        let rules = Rules { isync_1_5: true, ..RULES };
        for (entry, name, expected) in [
            ("1 1 >PS\n", "a,U=1:2,PS", SideVerdict::Clean),
            ("1 1 >P\n", "a,U=1:2,PS", SideVerdict::Clean),
            ("1 1 >PS\n", "a,U=1:2,P", changes(0, 0, 1)),
            ("1 1 >PS\n", "a,U=1:2,FPS", changes(0, 0, 1)),
            // To a placeholder Flagged is not carried: it would ask for the message.
            ("1 1 <S\n", "a,U=1:2,FS", SideVerdict::Clean),
            ("1 1 <S\n", "a,U=1:2,F", changes(0, 0, 1)),
            // Of a message that is gone there is nothing to ask for.
            ("0 1 >S\n", "a,U=1:2,F", SideVerdict::Clean),
        ] {
            assert_eq!(found(entry, &[name], &rules, None), expected, "{entry}");
        }
    }

    #[test]
    fn with_old_what_is_not_recorded_is_new_whatever_its_number() {
        let old = Rules { push_old: true, isync_1_5: true, ..RULES };
        assert_eq!(found("", &["a,U=9:2,S"], &old, None), changes(1, 0, 0));
        assert_eq!(found("", &["a,U=9:2,T"], &old, None), changes(1, 0, 0));
        let far = Rules { expunge_far: true, ..old.clone() };
        assert_eq!(found("", &["a,U=9:2,T"], &far, None), SideVerdict::Clean);
        let near = Rules { expunge_near: true, ..old };
        assert_eq!(found("", &["a,U=9:2,T"], &near, None), changes(0, 1, 0));
    }

    #[test]
    fn what_mbsync_would_refuse_is_unknown() {
        for names in [&["a,U=1:2,S", "b,U=1:2,S"][..], &["a,U=21"], &["a,U=4294967295"]] {
            assert!(matches!(found("1 1 S\n", names, &RULES, None), SideVerdict::Unknown(_)));
        }
        // Not the number that is left when the rest is cut off.
        let cut = found("1 1 S\n", &["a,U=4294967297:2,S"], &RULES, None);
        assert!(matches!(cut, SideVerdict::Unknown(_)));
        let judged = |name: &str, record: &Record, numbering: Numbering| {
            let mut listing = MaildirListing::new(b':');
            listing.add(name.as_bytes());
            judge_maildir(record, &mut listing, numbering, &RULES, None, KnownGone::NOTHING)
        };
        let other = Numbering { validity: 3, ..NUMBERING };
        assert!(matches!(judged("a", &record(""), other), SideVerdict::Unknown(_)));
        let full = Numbering { highest: u32::MAX, ..NUMBERING };
        let last = judged("a,U=4294967295", &record(""), full);
        assert!(matches!(last, SideVerdict::Unknown(_)));
        let mut expires_there = record("1 1\n");
        assert_eq!(judged("a,U=1", &expires_there, NUMBERING), SideVerdict::Clean);
        expires_there.max_expired_near = 1;
        assert!(matches!(judged("a,U=1", &expires_there, NUMBERING), SideVerdict::Unknown(_)));
    }

    #[test]
    fn a_missing_new_is_empty_and_a_missing_cur_is_none() {
        let (dir, _) = maildir();
        let count = || {
            let mut count = 0;
            list(dir.path(), &mut |_| count += 1).map(|()| count)
        };
        // With the two entries that every directory has.
        assert_eq!(count().unwrap(), 5);
        let delivered = || delivered(dir.path(), SystemTime::now());
        std::fs::remove_dir(dir.path().join("new")).unwrap();
        assert_eq!((count().unwrap(), delivered().unwrap().len()), (3, 0));
        std::fs::write(dir.path().join("new"), "").unwrap();
        assert!(count().is_err() && delivered().is_err(), "no directory");
        std::fs::remove_file(dir.path().join("new")).unwrap();
        std::fs::remove_dir_all(dir.path().join("cur")).unwrap();
        assert!(count().is_err());
    }

    #[test]
    fn max_messages_expires_what_is_over() {
        let max = Rules { max_messages: 2, ..RULES };
        let names = ["a,U=1:2,S", "b,U=2:2,S", "c,U=3:2,S"];
        let two = "1 1 S\n2 2 S\n";
        assert_eq!(found(two, &names[..2], &max, None), SideVerdict::Clean);
        let other = SideVerdict::Changed(Changes { other: 1, ..Changes::default() });
        assert_eq!(found("1 1 S\n2 2 S\n3 3 S\n", &names, &max, None), other);
        assert_eq!(found("1 1 ~S\n2 2 S\n3 3 S\n", &names, &max, None), SideVerdict::Clean);
        assert_eq!(
            found("1 1 ~S\n2 2 S\n", &["a,U=1:2,ST", "b,U=2:2,S"], &max, None),
            SideVerdict::Clean
        );
    }

    fn maildir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["cur", "new", "tmp"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join(".uidvalidity"), "2\n20\n").unwrap();
        let state = dir.path().join(".mbsyncstate");
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\n";
        std::fs::write(&state, format!("{head}1 1 S\n")).unwrap();
        std::fs::write(dir.path().join("cur/a,U=1:2,S"), "").unwrap();
        (dir, state)
    }

    #[test]
    fn stamps_are_remembered_once_the_clock_has_moved_on() {
        // Until it is made and scanned within a tick: the machine may be busy.
        let (dir, state, first) = loop {
            let begun = std::time::Instant::now();
            let (dir, state) = maildir();
            let first = scan(dir.path(), &state, &RULES, None, None, KeptGone::default());
            assert_eq!(first.verdict, SideVerdict::Clean);
            if begun.elapsed() < TICK / 2 {
                break (dir, state, first);
            }
        };
        assert!(first.stamps.is_none(), "a change in the same tick would go unseen");
        let at = |remembered: Option<&CleanMaildir>| {
            scan(dir.path(), &state, &RULES, remembered, None, KeptGone::default())
        };
        std::thread::sleep(TICK * 2);
        let second = at(Some(&first.remembered(&RULES, None)));
        assert!(second.state.is_some() && second.stamps.is_some());
        let memory = second.remembered(&RULES, None);
        assert!(at(Some(&memory)).state.is_none());
        // Where stamps are those of a file server, none are used and none remembered.
        let listed =
            scan_by(false, dir.path(), &state, &RULES, Some(&memory), None, KeptGone::default());
        assert!(listed.state.is_some() && listed.stamps.is_none());
        assert_eq!(listed.verdict, SideVerdict::Clean);
        // Other rules, other answers.
        let other = Rules { expunge_near: true, ..RULES };
        assert!(
            scan(dir.path(), &state, &other, Some(&memory), None, KeptGone::default())
                .state
                .is_some()
        );

        // A change hidden by setting the time back.
        let cur = dir.path().join("cur");
        let then = cur.metadata().unwrap().modified().unwrap();
        std::fs::write(cur.join("b:2,"), "").unwrap();
        std::fs::File::open(&cur).unwrap().set_modified(then).unwrap();
        assert_eq!(at(Some(&memory)).verdict, changes(1, 0, 0));
    }

    #[test]
    fn a_stamp_ahead_of_the_clock_is_never_trusted() {
        let (dir, state) = maildir();
        std::thread::sleep(TICK * 2);
        let new = std::fs::File::open(dir.path().join("new")).unwrap();
        new.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
        std::thread::sleep(TICK * 2);
        let found = scan(dir.path(), &state, &RULES, None, None, KeptGone::default());
        assert_eq!((found.verdict, found.stamps), (SideVerdict::Clean, None));
    }

    #[test]
    fn alt_map_is_compared_with_the_last_clean_scan() {
        let (dir, state) = maildir();
        std::fs::remove_file(dir.path().join(".uidvalidity")).unwrap();
        let rules = Rules { alt_map: true, ..RULES };
        let first = scan(dir.path(), &state, &rules, None, None, KeptGone::default());
        assert!(matches!(first.verdict, SideVerdict::Unknown(_)));
        // Without the setting its UIDs are lost, whatever is remembered.
        let memory = CleanMaildir { stamps: None, ..first.remembered(&RULES, None) };
        let lost =
            scan(dir.path(), &state, &RULES, Some(&memory), None, KeptGone::default()).verdict;
        assert!(matches!(lost, SideVerdict::Unknown(_)));
        let memory = first.remembered(&rules, None);
        let again =
            || scan(dir.path(), &state, &rules, Some(&memory), None, KeptGone::default()).verdict;
        assert_eq!(again(), SideVerdict::Clean);
        let (cur, new) = (dir.path().join("cur"), dir.path().join("new"));
        std::fs::rename(cur.join("a,U=1:2,S"), new.join("a,U=1:2,S")).unwrap();
        assert_eq!(again(), SideVerdict::Clean);
        std::fs::rename(new.join("a,U=1:2,S"), cur.join("a,U=1:2,RS")).unwrap();
        assert!(matches!(again(), SideVerdict::Changed(_)));
        // The same messages, but there has been another run since.
        std::fs::rename(cur.join("a,U=1:2,RS"), cur.join("a,U=1:2,S")).unwrap();
        assert_eq!(again(), SideVerdict::Clean);
        let seen = || {
            let found = scan(dir.path(), &state, &rules, None, None, KeptGone::default());
            (found.digest, found.record)
        };
        let before = seen();
        let copy = std::fs::read(&state).unwrap();
        std::fs::remove_file(&state).unwrap();
        std::fs::write(&state, copy).unwrap();
        assert!(matches!(again(), SideVerdict::Unknown(_)));
        let after = seen();
        assert!(before.0 == after.0 && before.1 != after.1);
    }

    #[test]
    fn the_numbering_that_is_there_beats_alt_map() {
        let (dir, file) = maildir();
        let cur = dir.path().join("cur");
        std::fs::write(cur.join("b,U=5:2,S"), "").unwrap();
        let rules = Rules { alt_map: true, ..RULES };
        let RecordState::Known(record) = record::read(&file) else { panic!("no record") };
        let flags = |uid| numbered(dir.path(), &record, &rules)?.flags(uid);
        assert_eq!(flags(1), Some(Flags::SEEN));
        let mailbox = Mailbox {
            maildir: Some(dir.path().into()),
            state_file: Some(file.clone()),
            ..Mailbox::of_home("INBOX")
        };
        let scan = |left_by_run| {
            scan_mailbox(&mailbox, &rules, &CleanState::default(), None, left_by_run).unwrap().0
        };
        let clean = scan(None);
        assert_eq!((clean.verdict, clean.left), (SideVerdict::Clean, UidSet::from_uids([5])));
        std::fs::rename(cur.join("a,U=1:2,S"), cur.join("a,U=1:2,RS")).unwrap();
        assert_eq!(scan(scan(None).digest).verdict, changes(0, 0, 1));
        // Without it, what a run left alone is clean.
        std::fs::remove_file(dir.path().join(".uidvalidity")).unwrap();
        assert!(numbered(dir.path(), &record, &rules).is_none());
        let left = scan(scan(None).digest);
        assert_eq!((left.verdict, left.left), (SideVerdict::Clean, UidSet::EMPTY));
    }

    #[test]
    fn with_alt_map_too_a_run_expires_what_is_over() {
        let rules = Rules { alt_map: true, max_messages: 1, ..RULES };
        let mut listing = MaildirListing::new(b':');
        for name in ["a:2,S", "b:2,S"] {
            listing.add(name.as_bytes());
        }
        let memory = CleanMaildir {
            stamps: None,
            digest: Some(listing.digest()),
            record: None,
            rules: rules.clone(),
            forwarded: None,
            left: None,
            unread: None,
        };
        let before = ScanContext { remembered: Some(&memory), ..ScanContext::default() };
        let judged = |entries: &str| judge_alt_map(&record(entries), &listing, &rules, before);
        assert_eq!(judged("1 1 S\n"), SideVerdict::Clean);
        let over = Changes { other: 1, ..Changes::default() };
        assert_eq!(judged("1 1 S\n2 2 S\n"), SideVerdict::Changed(over));
    }

    #[test]
    fn pulled_files_are_recognized_by_name_and_time() {
        let (dir, _) = maildir();
        let earlier = SystemTime::now();
        let second = earlier.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let put = |name: String| std::fs::write(dir.path().join(name), "").unwrap();
        put(format!("new/{}.42_1.host,U=3:2,", second + 1));
        put(format!("cur/{}.42_2.host:2,S", second + 1));
        put("cur/17.42_3.host:2,S".to_owned());
        put(format!("new/{}.R42_1.host", second + 1));
        assert_eq!(delivered(dir.path(), earlier).unwrap().len(), 2);
        std::thread::sleep(TICK * 2);
        assert_eq!(delivered(dir.path(), SystemTime::now()).unwrap().len(), 0);
    }
}
