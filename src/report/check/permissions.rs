//! Whether a directory, and its disk, can be written to, and how to make it so. Does not depend
//! on: what is in the directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use super::CheckContext;

/// What one needs of a directory to keep mail in it.
pub fn writable(dir: &Path) -> bool {
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// What the disk of a directory has run out of, with how to see that: `None` where a
/// sync finds room.
pub fn lack(dir: &Path) -> Option<(&'static str, &'static str)> {
    /// A message, a record and its journal.
    const LEAST: u64 = 64 << 10;
    let disk = rustix::fs::statvfs(dir).ok()?;
    let (blocks, files) = if rustix::process::geteuid().is_root() {
        (disk.f_bfree, disk.f_ffree)
    } else {
        (disk.f_bavail, disk.f_favail)
    };
    if blocks.saturating_mul(disk.f_frsize) < LEAST {
        return Some(("space", "df -h"));
    }
    // Where inodes are made as they are needed, none are counted.
    (disk.f_files > 0 && files == 0).then_some(("inodes", "df -i"))
}

/// How to make a directory ours.
pub fn make_ours(context: &CheckContext<'_>, dir: &Path) -> String {
    let path = context.asked.env.for_shell(dir);
    let mine =
        fs::metadata(dir).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    if mine { format!("chmod u+rwx {path}") } else { format!("sudo chown -R \"$(id -un)\" {path}") }
}
