//! Edits of mbsync's record, between runs: so little that mbsync itself would read the same
//! but for this, and with mbsync's own lock.
//!
//! Does not depend on: why something is to be changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::model::uid_set::UidSet;
use crate::os::file;
use crate::verdict::record::{self, Record, RecordState, beside};

/// Sets the marks of a record back to before these UIDs, so that mbsync takes what it
/// has no entry for as new.
pub(super) fn set_back(path: &Path, near: Option<u32>, far: Option<u32>) -> io::Result<()> {
    let RecordState::Known(record) = record::read(path) else { return Ok(()) };
    let pushed = near.map_or(record.max_pushed, |uid| record.max_pushed.min(uid.saturating_sub(1)));
    // What has expired has no entry either.
    let pulled = far.map_or(record.max_pulled, |uid| {
        record.max_pulled.min(uid.saturating_sub(1).max(record.max_expired_far))
    });
    rewrite(path, &record, [pushed, pulled], &UidSet::EMPTY)
}

/// Keeps mbsync away from a record, by its own lock, until the file is closed.
pub(super) fn lock_record(path: &Path) -> io::Result<File> {
    let lock = file::open_or_create(&beside(path, ".lock"))?;
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Gives a record other marks, of pushed and pulled messages, and takes the pairs with
/// these far UIDs out of it. Nothing else in it changes, and mbsync is kept out
/// meanwhile by its own lock. `record`: what it is expected to be.
pub(super) fn rewrite(
    path: &Path,
    record: &Record,
    marks: [u32; 2],
    without: &UidSet,
) -> io::Result<()> {
    let _lock = lock_record(path)?;
    let text = file::read(path, record::LARGEST)?;
    let permissions = std::fs::metadata(path)?.permissions();
    let [pushed, pulled] = marks;
    let same_marks = marks == [record.max_pushed, record.max_pulled];
    if same_marks && without.is_empty() {
        return Ok(());
    }
    let changed = with_marks(&text, pushed, pulled, without);
    // What is written is the same record but for this, or is not written.
    let wanted = record.clone().changed(marks, |entry| !without.contains(entry.far));
    if record::parse(&text).as_ref() != Ok(record) || record::parse(&changed) != Ok(wanted) {
        return Err(io::Error::other("it has changed meanwhile"));
    }
    let new = beside(path, ".mutt-sync");
    let written = file::write(&new, &changed).and_then(|file| {
        file.set_permissions(std::fs::Permissions::from_mode(permissions.mode() & 0o777))?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&new, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    renamed
}

/// The record with these marks in its header, without these pairs.
fn with_marks(text: &[u8], pushed: u32, pulled: u32, without: &UidSet) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut in_header = true;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        in_header &= line != b"\n";
        match line {
            _ if in_header && line.starts_with(b"MaxPushedUid ") => {
                out.extend_from_slice(format!("MaxPushedUid {pushed}\n").as_bytes());
            }
            _ if in_header && line.starts_with(b"MaxPulledUid ") => {
                out.extend_from_slice(format!("MaxPulledUid {pulled}\n").as_bytes());
            }
            _ if !in_header && without.contains(leading_number(line)) => {}
            _ => out.extend_from_slice(line),
        }
    }
    out
}

/// The number that a line begins with; 0 without one.
fn leading_number(line: &[u8]) -> u32 {
    let end = line.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(line.len());
    let digits = line.get(..end).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
