//! A timestamp as the mtime of an empty file: all that a rate limit remembers.
//!
//! Wall-clock times are values here. Does not depend on: clocks, what is limited.

use std::io;
use std::time::{Duration, SystemTime};

use super::StateDir;
use crate::os::file;

/// The stamp on disk; `None` before the first. One that is further ahead of `now` than
/// `most`, because the clock was ahead, is set back on disk: else each check would find
/// all of `most` left.
#[must_use]
pub fn read(dir: &StateDir, name: &str, most: Duration, now: SystemTime) -> Option<SystemTime> {
    read_or_set_back(dir, name, [most, most], now)
}

/// The same, but one that is further ahead than `most` is set back to `instead`.
#[must_use]
pub fn read_or_set_back(
    dir: &StateDir,
    name: &str,
    [most, instead]: [Duration; 2],
    now: SystemTime,
) -> Option<SystemTime> {
    let stamp = std::fs::metadata(dir.file(name)).and_then(|found| found.modified()).ok()?;
    if stamp <= now + most {
        return Some(stamp);
    }
    let _ = write(dir, name, now + instead);
    Some(now + instead)
}

/// Puts the stamp on disk.
pub fn write(dir: &StateDir, name: &str, stamp: SystemTime) -> io::Result<()> {
    file::open_or_create(&dir.file(name))?.set_modified(stamp)
}

/// How far it is ahead of `now`; not more than `most` is believed.
#[must_use]
pub fn ahead(stamp: Option<SystemTime>, most: Duration, now: SystemTime) -> Duration {
    stamp.and_then(|stamp| stamp.duration_since(now).ok()).unwrap_or_default().min(most)
}
