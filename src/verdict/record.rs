//! mbsync's record of a mailbox pair: `.mbsyncstate` and its kin.
//!
//! Knows the file as isync 1.3 (Master and Slave in its keys), 1.4 and 1.5 write
//! it. What it does not understand to the letter makes the record unreadable: a
//! guess here could call a mailbox clean that is not.
//!
//! Does not depend on: Maildirs, servers, channels.

use crate::error::system_text;
use crate::model::flags::Flags;
use crate::os::file;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Largest file that is read; about four million messages.
pub const LARGEST: u64 = 64 << 20;

/// What is found where mbsync keeps its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordState {
    /// No record: the pair was never synced.
    NeverSynced,
    /// mbsync was interrupted, or is at work: the record is a journal and a new
    /// file that the next run puts together.
    Unfinished,
    /// There is a record, and it is not understood.
    Unreadable {
        /// What is wrong with it, for the user.
        why: String,
    },
    /// The record.
    Known(Record),
}

/// What mbsync last recorded of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `FarUidValidity`.
    pub far_validity: u32,
    /// `NearUidValidity`.
    pub near_validity: u32,
    /// `MaxPulledUid`: far messages up to here are done with, recorded or not.
    pub max_pulled: u32,
    /// `MaxPushedUid`: the same of near messages.
    pub max_pushed: u32,
    /// `MaxExpiredFarUid`, 0 if absent.
    pub max_expired_far: u32,
    /// `MaxExpiredNearUid` (isync 1.5), 0 if absent.
    pub max_expired_near: u32,
    /// Sorted by far UID, then near UID.
    entries: Vec<Entry>,
    /// Indices into `entries` of those with a near UID, sorted by it.
    by_near: Vec<u32>,
}

/// One line of the record: a pair, or what is left of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Far UID, 0: gone or never there.
    pub far: u32,
    /// Near UID, 0: gone or never there.
    pub near: u32,
    /// Flags as last synced.
    pub flags: Flags,
    /// The side that has only a placeholder for a message over `MaxSize`.
    pub placeholder: Placeholder,
    /// Whether the pair is an ordinary one.
    pub kind: EntryKind,
}

/// The side of a pair that is only a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placeholder {
    /// Neither.
    None,
    /// `<`: the far one.
    Far,
    /// `>`: the near one.
    Near,
}

/// How mbsync keeps a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// Nothing special.
    Plain,
    /// `~`: expired by `MaxMessages`, on the near side (isync 1.5: or the far one).
    Expired,
    /// `^`: too big, never stored on the other side (written before isync 1.4).
    Skipped,
}

/// What a run did to a pair, read from the records before and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages pulled.
    pub pulled: u32,
    /// Messages pushed.
    pub pushed: u32,
    /// Messages whose flags were carried over.
    pub flags: u32,
    /// Messages whose deletion was carried over or finished.
    pub gone: u32,
}

/// Paths of the journal and the half-written record next to a state file.
#[must_use]
pub fn journal_and_new(state_file: &Path) -> (PathBuf, PathBuf) {
    (beside(state_file, ".journal"), beside(state_file, ".new"))
}

/// A path with this at its end.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether the next mbsync would take up an interrupted run: both the journal,
/// with something in it, and the new file are there. A journal alone is what is
/// left when mbsync dies between its last two steps, and mbsync ignores it.
#[must_use]
pub fn unfinished(state_file: &Path) -> bool {
    let (journal, new) = journal_and_new(state_file);
    new.exists() && journal.metadata().is_ok_and(|found| found.len() > 0)
}

/// Reads the record of a pair and what lies around it.
#[must_use]
pub fn read(state_file: &Path) -> RecordState {
    if unfinished(state_file) {
        return RecordState::Unfinished;
    }
    let bytes = match file::read(state_file, LARGEST) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return RecordState::NeverSynced;
        }
        Err(error) => {
            let too_large = error.kind() == ErrorKind::FileTooLarge;
            let why =
                if too_large { "too big for a sync state".into() } else { system_text(&error) };
            return RecordState::Unreadable { why: format!("{}: {why}", state_file.display()) };
        }
    };
    match parse(&bytes) {
        Ok(record) => RecordState::Known(record),
        Err(why) => RecordState::Unreadable { why: format!("{}:{why}", state_file.display()) },
    }
}

/// The record written in `bytes`.
///
/// # Errors
/// The line and what is wrong with it, as `LINE: text`.
pub fn parse(bytes: &[u8]) -> Result<Record, String> {
    let mut record = Record::default();
    let mut found = [false; 6];
    let mut rest = bytes;
    let mut line = 0_u32;
    loop {
        line += 1;
        let text = cut_line(&mut rest).ok_or_else(|| format!("{line}: the header has no end"))?;
        if text.is_empty() {
            break;
        }
        let (key, value) = header(text).ok_or_else(|| format!("{line}: not a header line"))?;
        let (slot, place) = match key {
            b"FarUidValidity" | b"MasterUidValidity" => (0, &mut record.far_validity),
            b"NearUidValidity" | b"SlaveUidValidity" => (1, &mut record.near_validity),
            b"MaxPulledUid" => (2, &mut record.max_pulled),
            b"MaxPushedUid" => (3, &mut record.max_pushed),
            b"MaxExpiredFarUid" | b"MaxExpiredMasterUid" => (4, &mut record.max_expired_far),
            b"MaxExpiredNearUid" => (5, &mut record.max_expired_near),
            _ => return Err(format!("{line}: unknown key in the header")),
        };
        if std::mem::replace(&mut found[slot], true) {
            return Err(format!("{line}: a key is given twice"));
        }
        *place = value;
    }
    if let Some(slot) = found.iter().take(4).position(|&found| !found) {
        let key = ["FarUidValidity", "NearUidValidity", "MaxPulledUid", "MaxPushedUid"][slot];
        return Err(format!("{line}: the header lacks {key}"));
    }
    // An entry takes six bytes at least, so this is bounded by the file.
    record.entries.reserve(rest.len() / 12);
    while !rest.is_empty() {
        line += 1;
        let entry = cut_line(&mut rest).and_then(entry);
        record.entries.push(entry.ok_or_else(|| format!("{line}: not an entry"))?);
    }
    record.index().map_err(|why| format!("{line}: {why}"))?;
    Ok(record)
}

/// Takes one line, without its end, off the front; `None` if it has no end.
fn cut_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let (line, tail) = rest.split_at(end);
    *rest = tail.get(1..)?;
    Some(line)
}

fn header(text: &[u8]) -> Option<(&[u8], u32)> {
    let space = text.iter().position(|&byte| byte == b' ')?;
    let (key, value) = text.split_at(space);
    Some((key, number(value.get(1..)?)?))
}

/// A decimal number of nothing but digits that fits.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 {
        return None;
    }
    let mut value = 0_u64;
    for &byte in text {
        value = value * 10 + u64::from(byte.checked_sub(b'0').filter(|&digit| digit < 10)?);
    }
    u32::try_from(value).ok()
}

fn entry(text: &[u8]) -> Option<Entry> {
    let mut fields = text.splitn(3, |&byte| byte == b' ');
    let far = number(fields.next()?)?;
    let near = number(fields.next()?)?;
    let mut flags = fields.next().unwrap_or_default();
    // Before isync 1.3 this number stood for a skipped message.
    if far == u32::MAX || near == u32::MAX {
        return None;
    }
    let mut placeholder = match flags.first() {
        Some(b'<') => Placeholder::Far,
        Some(b'>') => Placeholder::Near,
        _ => Placeholder::None,
    };
    if placeholder != Placeholder::None {
        flags = flags.get(1..)?;
    }
    let kind = match flags.first() {
        Some(b'~') => EntryKind::Expired,
        Some(b'^') => EntryKind::Skipped,
        _ => EntryKind::Plain,
    };
    if kind != EntryKind::Plain {
        flags = flags.get(1..)?;
        // As isync 1.4 and 1.5 read it: the second mark overwrites the first
        // (`load_state` in src/sync.c and src/sync_state.c).
        placeholder = Placeholder::None;
    }
    Some(Entry { far, near, flags: Flags::from_record(flags)?, placeholder, kind })
}

impl Record {
    /// A record of these marks and entries, in any order.
    ///
    /// # Errors
    /// A UID is in two entries.
    pub fn new(marks: &Record, entries: Vec<Entry>) -> Result<Record, &'static str> {
        let mut record = Record { entries, by_near: Vec::new(), ..*marks };
        record.index()?;
        Ok(record)
    }

    fn index(&mut self) -> Result<(), &'static str> {
        // Without either side it is of no message; mbsync drops it when it next writes.
        self.entries.retain(|entry| entry.far != 0 || entry.near != 0);
        self.entries.shrink_to_fit();
        self.entries.sort_unstable_by_key(|entry| (entry.far, entry.near));
        let twice =
            self.entries.windows(2).any(|pair| pair[0].far != 0 && pair[0].far == pair[1].far);
        if twice {
            return Err("a far UID is recorded twice");
        }
        let count = u32::try_from(self.entries.len()).map_err(|_| "too many entries")?;
        let near = |&index: &u32| self.entries[index as usize].near;
        self.by_near = (0..count).filter(|index| near(index) != 0).collect();
        self.by_near.sort_by_key(near);
        if self.by_near.windows(2).any(|pair| near(&pair[0]) == near(&pair[1])) {
            return Err("a near UID is recorded twice");
        }
        Ok(())
    }

    /// The same record with other marks, of pushed and pulled messages, and of its entries
    /// those to be kept.
    #[must_use]
    pub fn changed(mut self, marks: [u32; 2], keep: impl Fn(&Entry) -> bool) -> Self {
        [self.max_pushed, self.max_pulled] = marks;
        self.entries.retain(keep);
        // A part of what was in order is in order.
        let _ = self.index();
        self
    }

    /// All entries, by far UID.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those with a far UID, by it.
    #[must_use]
    pub fn with_far(&self) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.far == 0);
        &self.entries[start..]
    }

    /// The far UIDs, ascending; one twice if two pairs have it.
    pub fn far_uids(&self) -> impl Iterator<Item = u32> {
        self.with_far().iter().map(|entry| entry.far)
    }

    /// Those with a near UID, by it.
    pub fn with_near(&self) -> impl Iterator<Item = &Entry> {
        self.by_near.iter().map(|&index| &self.entries[index as usize])
    }

    /// The entry of a far message.
    #[must_use]
    pub fn of_far(&self, uid: u32) -> Option<&Entry> {
        let far = self.with_far();
        far.binary_search_by_key(&uid, |entry| entry.far).ok().map(|index| &far[index])
    }

    /// The entry of a near message.
    #[must_use]
    pub fn of_near(&self, uid: u32) -> Option<&Entry> {
        let near = |index: &u32| self.entries[*index as usize].near;
        let found = self.by_near.binary_search_by_key(&uid, near).ok()?;
        Some(&self.entries[self.by_near[found] as usize])
    }

    /// What happened between `old` and this record, of which `pulled` messages
    /// are known to be pulled (mbsync's record does not tell a message pulled
    /// from one pushed: both sides hand out new UIDs in either case. The names
    /// of pulled files tell: see [`super::maildir::delivered`]).
    ///
    /// Messages that came and went between the two are not in either. `counted`:
    /// entries of the old one whose message an earlier run has removed.
    #[must_use]
    pub fn changes_since(
        &self,
        old: &Record,
        pulled: u32,
        counted: impl Fn(&Entry) -> bool,
    ) -> Counts {
        let mut counts = Counts::default();
        let mut added = 0;
        let same_boxes =
            self.far_validity == old.far_validity && self.near_validity == old.near_validity;
        for entry in &self.entries {
            let before = if !same_boxes {
                None
            } else if entry.far != 0 {
                old.of_far(entry.far)
            } else {
                old.of_near(entry.near)
            };
            match before {
                None => added += u32::from(entry.far != 0 && entry.near != 0),
                Some(before) => {
                    let lost = (before.far != 0 && entry.far == 0)
                        || (before.near != 0 && entry.near == 0);
                    counts.gone += u32::from(lost && !counted(before));
                    counts.flags += u32::from(!lost && before.flags != entry.flags);
                }
            }
        }
        if same_boxes {
            let kept = |entry: &&Entry| {
                (entry.far != 0 && self.of_far(entry.far).is_some())
                    || (entry.near != 0 && self.of_near(entry.near).is_some())
            };
            let dropped =
                old.entries.iter().filter(|entry| !kept(entry) && !counted(entry)).count();
            counts.gone = counts.gone.saturating_add(u32::try_from(dropped).unwrap_or(u32::MAX));
        }
        counts.pulled = pulled.min(added);
        counts.pushed = added - counts.pulled;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"FarUidValidity 17\nNearUidValidity 18\nMaxPulledUid 9\n\
        MaxPushedUid 9\nMaxExpiredFarUid 2\n\n1 1 FS\n3 0 \n0 4 T\n5 5 >S\n6 6 ~S\n7 0\n8 0 ^\n2 2 <\n9 9 >~S\n";

    #[test]
    fn reads_every_kind_of_entry() {
        let record = parse(SAMPLE).unwrap();
        assert_eq!((record.far_validity, record.near_validity), (17, 18));
        assert_eq!((record.max_pulled, record.max_pushed, record.max_expired_far), (9, 9, 2));
        assert_eq!(record.entries().len(), 9);
        assert_eq!(record.of_far(1).unwrap().flags, Flags::among(b"FS"));
        assert_eq!(record.of_far(2).unwrap().placeholder, Placeholder::Far);
        assert_eq!(record.of_near(4).unwrap().far, 0);
        assert_eq!(record.of_near(5).unwrap().placeholder, Placeholder::Near);
        assert_eq!(record.of_near(6).unwrap().kind, EntryKind::Expired);
        assert_eq!(record.of_far(8).unwrap().kind, EntryKind::Skipped);
        assert_eq!(record.with_far().len(), 8);
        assert_eq!(
            record.with_near().map(|entry| entry.near).collect::<Vec<_>>(),
            [1, 2, 4, 5, 6, 9]
        );
        assert!(record.of_far(0).is_none() && record.of_near(0).is_none());
    }

    #[test]
    fn a_second_mark_overwrites_the_first() {
        let record = parse(SAMPLE).unwrap();
        let entry = record.of_far(9).unwrap();
        assert_eq!((entry.placeholder, entry.kind), (Placeholder::None, EntryKind::Expired));
    }

    #[test]
    fn reads_the_keys_of_1_3() {
        let text = b"MasterUidValidity 1\nSlaveUidValidity 2\nMaxPulledUid 3\nMaxPushedUid 4\n\
            MaxExpiredMasterUid 5\n\n";
        let record = parse(text).unwrap();
        assert_eq!((record.far_validity, record.near_validity, record.max_expired_far), (1, 2, 5));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let head = "FarUidValidity 1\nNearUidValidity 1\nMaxPulledUid 1\nMaxPushedUid 1\n";
        for bad in [
            String::new(),
            head.to_owned(),
            format!("{head}\n1 1 S"),
            format!("{head}\n1 1 SF\n"),
            format!("{head}\n1 1 Q\n"),
            format!("{head}\n1 1 SS\n"),
            format!("{head}\n1 1 S \n"),
            format!("{head}\n1\n"),
            format!("{head}\n\n"),
            format!("{head}\n-1 1\n"),
            format!("{head}\n4294967295 1 S\n"),
            format!("{head}\n4294967296 1 S\n"),
            format!("{head}\n1 1 S\n1 2 S\n"),
            format!("{head}\n1 1 S\n2 1 S\n"),
            format!("{head}\n1 1 X\n"),
            format!("{head}\r\n"),
            format!("{head}MaxPushedUid 1\n\n"),
            format!("{head}MaxExpiredSlaveUid 1\n\n"),
            "FarUidValidity 1\nNearUidValidity 1\nMaxPulledUid 1\n\n".to_owned(),
            "1:2 3:4:5\n1 1 S\n".to_owned(),
            head.replace("PushedUid 1", "PushedUid ") + "\n",
            head.replace("PushedUid 1", "PushedUid 1:") + "\n",
            format!("{head}\n1{} 1 S\n", "0".repeat(30)),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let highest = head.replace("PushedUid 1", "PushedUid 4294967295") + "\n";
        assert_eq!(parse(highest.as_bytes()).unwrap().max_pushed, u32::MAX);
        let why = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(why("FarUidValidity 1\nNearUidValidity\n"), "2: not a header line");
        assert_eq!(why(&format!("{head}\n1 1 S\n1 1 Q\n")), "7: not an entry");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| read(&dir.path().join(name));
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::fs::write(dir.path().join("file"), SAMPLE).unwrap();
        assert!(matches!(at("directory"), RecordState::Unreadable { .. }));
        assert_eq!(
            (at("none"), at("file/none")),
            (RecordState::NeverSynced, RecordState::NeverSynced)
        );
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(matches!(at("loop"), RecordState::Unreadable { .. }));
        std::fs::File::create(dir.path().join("huge")).unwrap().set_len(LARGEST + 1).unwrap();
        let RecordState::Unreadable { why } = at("huge") else { panic!("it is read") };
        assert!(why.ends_with("too big for a sync state"), "{why}");
    }

    #[test]
    fn a_lone_journal_is_ignored_and_a_pair_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join(".mbsyncstate");
        assert_eq!(read(&state), RecordState::NeverSynced);
        std::fs::write(&state, SAMPLE).unwrap();
        let (journal, new) = journal_and_new(&state);
        std::fs::write(&journal, "4\n").unwrap();
        assert!(matches!(read(&state), RecordState::Known(_)));
        std::fs::write(&new, "").unwrap();
        assert_eq!(read(&state), RecordState::Unfinished);
        std::fs::write(&journal, "").unwrap();
        assert!(matches!(read(&state), RecordState::Known(_)), "nothing to take up");
        std::fs::remove_file(&journal).unwrap();
        assert!(matches!(read(&state), RecordState::Known(_)));
    }

    #[test]
    fn says_what_a_run_did() {
        let old = parse(SAMPLE).unwrap();
        let text = String::from_utf8(SAMPLE.to_vec()).unwrap();
        let text =
            text.replace("1 1 FS", "1 1 S").replace("2 2 <\n", "").replace("5 5 >S", "0 5 >S");
        let new = parse(format!("{text}11 11 \n10 8 S\n").as_bytes()).unwrap();
        let counts = new.changes_since(&old, 1, |_| false);
        assert_eq!(counts, Counts { pulled: 1, pushed: 1, flags: 1, gone: 2 });
        assert_eq!(new.changes_since(&new, 0, |_| false), Counts::default());
        let hollow = parse(format!("{text}0 0 ^\n").as_bytes()).unwrap();
        assert_eq!(hollow.changes_since(&hollow, 0, |_| false), Counts::default());
        // Of another mailbox nothing was there before.
        let mut other = new.clone();
        other.far_validity += 1;
        let all = u32::try_from(new.entries().iter().filter(|e| e.far > 0 && e.near > 0).count());
        let counts = other.changes_since(&new, 0, |_| false);
        assert_eq!(counts, Counts { pushed: all.unwrap(), ..Counts::default() });
        // Half a pair loses nothing when its flags change.
        let text = String::from_utf8(SAMPLE.to_vec()).unwrap();
        let text = text.replace("0 4 T", "0 4 ST").replace("3 0 \n", "3 0 S\n");
        let counts = parse(text.as_bytes()).unwrap().changes_since(&old, 0, |_| false);
        assert_eq!(counts, Counts { flags: 2, ..Counts::default() });
        // Half a pair is no message that was carried over.
        let counts =
            parse(format!("{text}13 0 \n").as_bytes()).unwrap().changes_since(&old, 0, |_| false);
        assert_eq!(counts, Counts { flags: 2, ..Counts::default() });
    }
}
