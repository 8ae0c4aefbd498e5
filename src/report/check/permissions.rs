//! Whether a directory can be written to, and how to make it so.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use super::{CheckContext, for_shell};

/// What one needs of a directory to keep mail in it.
pub fn writable(dir: &Path) -> bool {
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// How to make a directory ours.
pub fn make_ours(context: &CheckContext<'_>, dir: &Path) -> String {
    let path = for_shell(context.asked.env, dir);
    let mine =
        fs::metadata(dir).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    if mine { format!("chmod u+rwx {path}") } else { format!("sudo chown -R \"$(id -un)\" {path}") }
}
