//! Processes that we leave behind as fresh programs, where a fork will not do:
//! from several threads, or with facts of their own in the environment.
//!
//! Knows how the program calls itself; not what the children do.

use std::io;
use std::process::{Command, Stdio};

use super::account::AccountContext;
use crate::os::fork;

/// Starts `mutt-sync --child WORK ACCOUNT` in a session of its own with nothing
/// on 0, 1 and 2. The program is the running one, even if its file was replaced.
pub fn spawn(work: &str, scene: AccountContext<'_>, facts: &[(&str, &str)]) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--child").arg(work).arg("--mbsyncrc").arg(&scene.config.file);
    if let Some(config) = scene.settings_file {
        command.arg("--config").arg(config);
    }
    command.arg("--").arg(&scene.account.name).envs(facts.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fork::in_new_session(&mut command);
    // It forks at once and goes on by itself, so that no zombie is left.
    command.status().map(drop)
}
