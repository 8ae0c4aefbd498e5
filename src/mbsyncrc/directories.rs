//! Directory listings that need not be read again while their time stamps are the same.
//!
//! A report lists the mailboxes of all accounts each time; their directories
//! hardly ever change. Does not depend on: where the listings are stored.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A listing is kept only if the directory had not changed for this long before it
/// was read: a change in the same tick of the clock (10 ms at most on Linux, two
/// seconds on FAT) would not show in the stamp.
const AT_REST: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LocalEntry {
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    entries: Vec<String>,
}

/// What was read, by path.
#[derive(Debug, Default)]
pub struct Directories {
    known: Mutex<BTreeMap<String, LocalEntry>>,
    /// Those used since: the rest is dropped. `None` in a process that keeps nothing for
    /// a later one: a waiter may have tens of thousands of mailboxes.
    used: Mutex<Option<BTreeMap<String, LocalEntry>>>,
}

impl Directories {
    /// Restores what an earlier process read, from [`Directories::remembered`], and
    /// starts to keep what a later one restores.
    pub fn recall(&self, text: &[u8]) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(BTreeMap::new());
        if let Ok(known) = serde_json::from_slice(text) {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        }
    }

    /// What a later process restores; `None` if nothing changed.
    #[must_use]
    pub fn remembered(&self) -> Option<Vec<u8>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = used.as_ref().filter(|used| **used != *known)?;
        serde_json::to_vec(used).ok()
    }

    /// The directories (and links, which may lead to some) in a directory, which
    /// `here` is of.
    pub(super) fn entries(&self, path: &str, here: &fs::Metadata) -> Vec<String> {
        let mut listed = LocalEntry {
            modified: (here.mtime(), here.mtime_nsec()),
            changed: (here.ctime(), here.ctime_nsec()),
            inode: here.ino(),
            entries: Vec::new(),
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let same = |known: &LocalEntry| {
            (known.modified, known.changed, known.inode)
                == (listed.modified, listed.changed, listed.inode)
        };
        if let Some(known) = known.filter(same) {
            listed = known;
        } else {
            listed.entries = read(path);
        }
        let entries = listed.entries.clone();
        let limit = SystemTime::now()
            .checked_sub(AT_REST)
            .and_then(|limit| limit.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
        if listed.modified.0 < limit && listed.changed.0 < limit {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(used) = used.as_mut() {
                used.insert(path.to_owned(), listed);
            }
        }
        entries
    }
}

fn read(path: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_symlink()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directories: &Directories, path: &str) -> Vec<String> {
        directories.entries(path, &fs::metadata(path).unwrap())
    }

    #[test]
    fn a_listing_holds_until_the_directory_changes() {
        // Until it is made and listed in time: the machine may be busy.
        let (dir, first) = loop {
            let begun = std::time::Instant::now();
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("a")).unwrap();
            let first = Directories::default();
            assert_eq!(entries(&first, dir.path().to_str().unwrap()), ["a"]);
            if begun.elapsed() < AT_REST / 2 {
                break (dir, first);
            }
        };
        let path = dir.path().to_str().unwrap();
        // Too fresh to be remembered.
        assert_eq!(first.remembered(), None);
        let here = fs::metadata(path).unwrap();
        let listed = LocalEntry {
            modified: (here.mtime(), here.mtime_nsec()),
            changed: (here.ctime(), here.ctime_nsec()),
            inode: here.ino(),
            entries: vec!["from memory".into()],
        };
        let text = serde_json::to_vec(&BTreeMap::from([(path, listed)])).unwrap();
        let second = Directories::default();
        second.recall(&text);
        assert_eq!(entries(&second, path), ["from memory"]);
        fs::create_dir(dir.path().join("b")).unwrap();
        let mut now = entries(&second, path);
        now.sort();
        assert_eq!(now, ["a", "b"]);
        second.recall(b"nonsense");
    }
}
