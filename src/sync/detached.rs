//! Background processes that are started as fresh programs, where a fork is
//! impossible: from several threads, or with an environment of their own.
//!
//! Does not depend on: what they do.

use std::io;
use std::process::{Command, Stdio};

use super::context::AccountContext;
use crate::os::fork;

/// Starts `mutt-sync --child WORK ACCOUNT` in a session of its own with nothing
/// on 0, 1 and 2. The program is the running one, even if its file was replaced.
pub fn spawn(work: &str, context: AccountContext<'_>, env: &[(&str, &str)]) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--child").arg(work).arg("--mbsyncrc").arg(&context.config.file);
    if let Some(config) = context.settings_file {
        command.arg("--config").arg(config);
    }
    command.arg("--").arg(&context.account.name).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fork::in_new_session(&mut command);
    // It forks at once and goes on by itself, so that no zombie is left.
    command.status().map(drop)
}
