//! Background processes that are started as fresh programs, where a fork is
//! impossible: from several threads, or with an environment of their own.
//!
//! Does not depend on: what they do.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::context::AccountContext;
use crate::os::fork;

/// The program that can speak to servers: beside the running one, else in PATH.
#[must_use]
pub fn network_program() -> PathBuf {
    const NAME: &str = "mutt-sync-net";
    let beside = std::fs::read_link("/proc/self/exe").ok();
    match beside.map(|this| this.with_file_name(NAME)) {
        Some(program) if program.exists() => program,
        _ => NAME.into(),
    }
}

/// Goes on as the program that can ask the server, and takes the account's queue as
/// that. Comes back if there is no such program, or nothing to ask.
pub fn become_queue_owner(context: AccountContext<'_>) {
    if context.account.server.is_some() {
        let _ = child(&network_program(), "queue", context).exec();
    }
}

/// Work under this name is done in a child of the process that is started for it, which
/// ends at once: its parent waits for it, and no zombie is left.
pub const IN_A_CHILD: &str = "detached-";

/// Starts `mutt-sync --child detached-WORK ACCOUNT` in a session of its own with nothing
/// on 0, 1 and 2. The program is the running one, even if its file was replaced.
pub fn spawn(work: &str, context: AccountContext<'_>, env: &[(&str, &str)]) -> io::Result<()> {
    let work = format!("{IN_A_CHILD}{work}");
    let mut command = child(Path::new("/proc/self/exe"), &work, context);
    command.envs(env.iter().copied());
    fork::in_new_session(&mut command);
    command.status().map(drop)
}

fn child(program: &Path, work: &str, context: AccountContext<'_>) -> Command {
    let settings = context.settings;
    let mut command = Command::new(program);
    command.arg("--child").arg(work).arg("--mbsyncrc").arg(&context.config.file);
    if let Some(config) = context.settings_file {
        command.arg("--config").arg(config);
    }
    // They may come from the command line.
    for (name, value) in [("--throttle", settings.throttle), ("--every", settings.every)] {
        command.arg(name).arg(humantime::format_duration(value).to_string());
    }
    command.arg("--").arg(&context.account.name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
