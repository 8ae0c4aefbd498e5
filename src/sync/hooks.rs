//! What follows a run: an open mutt is woken, and the user's commands are run.
//!
//! A command may itself call mutt-sync, and with a waiter the run that it asks
//! for is another process's. So that this never becomes a chain, a request made
//! from inside a command is marked, and a run that serves it and changes nothing
//! is followed by nothing.
//!
//! Does not depend on: why the run was made, servers.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::context::AccountContext;
use super::detached;
use crate::headers;
use crate::model::Mailbox;
use crate::os::child::{Child, Scope};
use crate::os::signals::Shutdown;
use crate::os::wait::{Woken, after};
use crate::settings::Settings;
use crate::state::StateDir;
use crate::state::last_run::Change;
use crate::state::lock::{Lock, LockWait};
use crate::text::sanitize;
use crate::verdict::maildir;

/// How long one of the user's commands may take.
const LIMIT: Duration = Duration::from_secs(2 * 60);
/// How long they wait for those of earlier runs.
const QUEUE_LIMIT: Duration = Duration::from_secs(60 * 60);
/// What it is given between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// Set for the user's commands, so that a mutt-sync called by one knows.
const INSIDE: &str = "MUTT_SYNC_HOOK";
/// Most bytes of mailbox names that they are given: the kernel takes no variable of
/// 128 KiB, and nothing at all if the environment is too large.
const MOST_NAMES: usize = 32 * 1024;

/// Whether this process was called by one of the user's commands.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What the user's commands learn about a run, in their environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEnv {
    /// Unread messages that it pulled.
    new: usize,
    /// The mailboxes they are in, by near name.
    mailboxes: Vec<String>,
    /// The newest of them.
    newest: Option<PathBuf>,
}

impl HookEnv {
    /// The environment for a run that began then; `None` if there is no command, or
    /// the run was an echo that changed nothing.
    #[must_use]
    pub fn of(
        settings: &Settings,
        changes: &[Change],
        mailboxes: &[Mailbox],
        began: SystemTime,
        is_echo: bool,
    ) -> Option<Self> {
        let commands = !settings.after_sync.is_empty() || !settings.new_mail.is_empty();
        if !commands || is_echo && changes.is_empty() {
            return None;
        }
        let mut hook_env = HookEnv { new: 0, mailboxes: vec![], newest: None };
        for mailbox in changed(changes, mailboxes) {
            let Some(maildir) = &mailbox.maildir else { continue };
            let mut new = maildir::delivered(maildir, began).unwrap_or_default();
            new.retain(|file| file.parent().is_some_and(|dir| dir.ends_with("new")));
            if let Some(newest) = new.last() {
                hook_env.new += new.len();
                hook_env.mailboxes.push(mailbox.near.clone());
                // The first mailbox with news is the one to speak of: INBOX, mostly.
                hook_env.newest.get_or_insert_with(|| newest.clone());
            }
        }
        Some(hook_env)
    }

    /// Starts a detached process that runs the commands; no process waits for it.
    pub fn run(&self, context: AccountContext<'_>) {
        let message = self
            .newest
            .as_deref()
            .and_then(|newest| headers::summary_of_file(newest).ok())
            .unwrap_or_default();
        let new = self.new.to_string();
        // One on a line: a comma may be part of a name, a newline is not.
        let lines = lines_of(&self.mailboxes);
        let list = lines.replace('\n', ",");
        let hook_env = [
            ("MUTT_SYNC_ACCOUNT", context.account.name.as_str()),
            ("MUTT_SYNC_BOX", &list),
            ("MUTT_SYNC_BOXES", &lines),
            ("MUTT_SYNC_NEW", &new),
            ("MUTT_SYNC_FROM", &message.from),
            ("MUTT_SYNC_SUBJECT", &message.subject),
            (INSIDE, "1"),
        ];
        // Mail is synced; a notification that cannot be made is not worth a failure.
        let _ = detached::spawn("hooks", context, &hook_env);
    }
}

/// These names, sanitized, each on a line; as many as there is room for.
fn lines_of(names: &[String]) -> String {
    let mut lines = String::new();
    for name in names {
        let name = sanitize(name).replace('\t', "?");
        if lines.len() + name.len() >= MOST_NAMES {
            break;
        }
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.push_str(&name);
    }
    lines
}

/// Runs the commands, in the process left behind for it: one process at a time
/// for each account, so that an indexer never meets itself.
pub fn run_commands(settings: &Settings, dir: &StateDir, shutdown: &Shutdown) {
    let Some(_alone) = after_earlier_ones(dir, LIMIT * 2, QUEUE_LIMIT, shutdown) else { return };
    let news = std::env::var("MUTT_SYNC_NEW").is_ok_and(|new| new != "0");
    for command in [&settings.after_sync, &settings.new_mail] {
        if std::ptr::eq(command, &raw const settings.new_mail) && !news {
            continue;
        }
        if let Some((program, arguments)) = command.split_first() {
            run_bounded(program, arguments, LIMIT, shutdown);
        }
    }
}

/// The lock, when the commands of earlier runs have ended; `None` if they take longer
/// than `limit`, or a signal comes. Those of one run may take as long as `each`.
fn after_earlier_ones(
    dir: &StateDir,
    each: Duration,
    limit: Duration,
    shutdown: &Shutdown,
) -> Option<Lock> {
    let mut left = limit;
    let may_wait = || {
        left = left.saturating_sub(each);
        !left.is_zero()
    };
    match Lock::take(&dir.file("hook.lock"), each, may_wait, shutdown) {
        Ok(LockWait::Got(lock)) => Some(lock),
        _ => None,
    }
}

/// Runs a command to its end. One that takes too long, or that is running when a
/// signal comes, is ended with all that it has started.
fn run_bounded(program: &str, arguments: &[String], limit: Duration, shutdown: &Shutdown) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = Child::spawn(&mut command, Scope::Session, GRACE) else { return };
    if matches!(child.follow(after(limit), Some(shutdown.cancel()), |_| ()), Ok(Woken::Ready)) {
        let _ = child.reap();
    }
}

fn changed<'a>(
    changes: &'a [Change],
    mailboxes: &'a [Mailbox],
) -> impl Iterator<Item = &'a Mailbox> {
    mailboxes.iter().filter(|mailbox| {
        changes.iter().any(|each| each.channel == mailbox.channel && each.mailbox == mailbox.near)
    })
}

/// Sets the mode of `new/` of each changed mailbox to what it is. mutt and
/// neomutt watch only that directory, and the attribute event makes them check
/// at once, where flags and deletions would show at the next key (tried with
/// mutt 2.2.12 and neomutt 20220429). No mtime changes.
pub fn refresh(changes: &[Change], mailboxes: &[Mailbox]) {
    for maildir in changed(changes, mailboxes).filter_map(|mailbox| mailbox.maildir.as_ref()) {
        let new = maildir.join("new");
        if let Ok(found) = std::fs::metadata(&new) {
            let _ = std::fs::set_permissions(&new, found.permissions());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn g9_a_command_that_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("echo $$ >'{0}'; sleep 600 & echo $! >>'{0}'; wait", pids.display());
        let shutdown = Shutdown::on_signals().unwrap();
        // Longer where the shell has not come so far: the machine is busy.
        let mut limit = Duration::from_millis(700);
        let (started, text) = loop {
            let started = Instant::now();
            run_bounded("sh", &["-c".into(), script.clone()], limit, &shutdown);
            assert!(started.elapsed() < Duration::from_secs(300), "nothing was ended");
            match std::fs::read_to_string(&pids) {
                Ok(text) if text.matches('\n').count() == 2 => break (started, text),
                _ => limit *= 2,
            }
        };
        let running = || {
            text.lines().any(|pid| {
                let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                state.is_ok_and(|stat| !stat.contains(") Z"))
            })
        };
        while running() {
            assert!(started.elapsed() < limit + Duration::from_secs(60), "{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn g9_commands_wait_for_those_of_several_earlier_runs_and_not_for_ever() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        let (each, hour) = (Duration::from_millis(20), Duration::from_secs(3600));
        for held in [0, 1, 3, 20] {
            let earlier = Lock::try_take(&dir.file("hook.lock")).unwrap().unwrap();
            let ended = std::thread::spawn(move || {
                std::thread::sleep(each * held);
                drop(earlier);
            });
            let started = Instant::now();
            let lock = after_earlier_ones(&dir, each, hour, &shutdown);
            assert!(lock.is_some(), "after {:?}", started.elapsed());
            ended.join().unwrap();
        }
        let _endless = Lock::try_take(&dir.file("hook.lock")).unwrap().unwrap();
        assert!(after_earlier_ones(&dir, each, each * 5, &shutdown).is_none());
    }

    #[test]
    fn g10_names_for_commands_are_sanitized_one_on_a_line_and_bounded() {
        let names = ["a\u{1b}[2Jb", "c\nd", "e\u{202e}f", "g,h", "i\tj"].map(str::to_owned);
        assert_eq!(lines_of(&names), "a?[2Jb\nc?d\ne?f\ng,h\ni?j");
        assert_eq!(lines_of(&[]), "");
        let many = vec!["x".repeat(200); 1000];
        let lines = lines_of(&many);
        assert!(lines.len() < MOST_NAMES && lines.lines().all(|line| line.len() == 200));
    }
}
