//! What we keep of an account between commands: the state directory, the lock,
//! throttle and backoff, who waits, what was asked for.
//!
//! Only looks: a stamp that is wrong stays as it is.
//!
//! Does not depend on: servers, mail.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access};
use serde::de::DeserializeOwned;

use super::permissions::{lack, make_ours, writable};
use super::{CheckContext, Checklist, Step, some};
use crate::error::ExitStatus;
use crate::model::Target;
use crate::os::file;
use crate::state::backoff::{self, Backoff};
use crate::state::clean;
use crate::state::held::{self as held_state, HeldState};
use crate::state::last_run::{self, LastRun};
use crate::state::lock::{self, Lock};
use crate::state::refused::{self as refused_state, RefusedState};
use crate::state::{LARGEST, StateDir, requests};
use crate::sync::{held, refused};
use crate::text::{counted, shell_operand, short};
use crate::verdict::gone::Gone;
use crate::verdict::{Changes, CleanState};
use crate::watch::mailboxes::StuckState;

/// The steps.
pub fn steps(context: &CheckContext<'_>, report: &mut Checklist) {
    let dir = StateDir::existing(context.asked.base, &context.account.name).silent();
    if !state_directory(context, &dir, report) {
        report.out_of_reach(&["lock", "throttle", "waiter", "requests"]);
        return;
    }
    files(context, &dir, report);
    let lock = dir.file(lock::RUN);
    let running = Lock::is_held(&lock);
    report.say(if let Some((found, fix)) = unusable(context, &lock) {
        Step::bad("lock", ExitStatus::Config, found, fix)
    } else if running {
        let who = Lock::run_under(&lock)
            .map(|run| format!(", mbsync is process {}", run.pid.as_raw_nonzero()))
            .unwrap_or_default();
        Step::note("lock", format!("a sync is under way{who}"))
    } else {
        Step::good("lock", "free")
    });
    pauses(context, &dir, report);
    let lock = dir.file(lock::WAITER);
    let waiter = Lock::is_held(&lock);
    let name = &context.account.name;
    report.say(if let Some((found, fix)) = unusable(context, &lock) {
        Step::warning("waiter", format!("none can wait: {found}"), fix)
    } else if waiter {
        Step::good(
            "waiter",
            match Lock::description(&lock) {
                mode if mode.is_empty() => "one is alive".to_owned(),
                mode => format!("one is alive, watching by {mode}"),
            },
        )
    } else {
        Step::note("waiter", format!("none: {name} is synced only when somebody asks for it"))
    });
    let attended = running || waiter || dir.is_locked(lock::QUEUE);
    requests(context, &dir, attended, report);
    refused(context, &dir, report);
    held(context, &dir, report);
}

/// A lock that is there and cannot be taken, with the fix.
fn unusable(context: &CheckContext<'_>, lock: &Path) -> Option<(String, String)> {
    let found = lock.symlink_metadata().ok()?;
    let why = if !found.is_file() {
        "is not a regular file"
    } else if access(lock, Access::READ_OK | Access::WRITE_OK).is_err() {
        "is not writable for you"
    } else {
        return None;
    };
    let shell = context.asked.env.for_shell(lock);
    // Nobody knows what is in a directory.
    let fix =
        if found.is_dir() { format!("mv {shell} {shell}.old") } else { format!("rm -f {shell}") };
    Some((format!("{} {why}", context.tilde(lock)), fix))
}

/// What waits for an answer, with what to type.
fn held(context: &CheckContext<'_>, dir: &StateDir, report: &mut Checklist) {
    const WHAT: &str = "held";
    let all = held::of_account(context.account, context.settings(), dir);
    if all.is_empty() {
        report.say(Step::good(WHAT, "nothing"));
    }
    for each in all {
        report.say(Step::warning(WHAT, each.line(SystemTime::now()), each.fix()));
    }
}

/// What mbsync could not carry, with what to do about it.
fn refused(context: &CheckContext<'_>, dir: &StateDir, report: &mut Checklist) {
    const WHAT: &str = "refused";
    let now = SystemTime::now();
    let all = refused::of_account(context.account, dir);
    if all.is_empty() {
        report.say(Step::good(WHAT, "nothing"));
    }
    for each in all {
        report.say(Step::warning(WHAT, each.line(now), each.fix()));
    }
}

fn state_directory(context: &CheckContext<'_>, dir: &StateDir, report: &mut Checklist) -> bool {
    const WHAT: &str = "state";
    let path = dir.path();
    let base = context.asked.base.to_owned();
    let parts = [base, path.to_owned(), dir.file("want"), dir.file("run")];
    let fix = |dir: &Path| {
        let fix = make_ours(context, dir);
        format!("{fix} (or set XDG_STATE_HOME to a place that is yours)")
    };
    let us = rustix::process::geteuid().as_raw();
    for part in &parts {
        let shown = context.tilde(part);
        let in_the_way = part.ancestors().find(|above| above.symlink_metadata().is_ok());
        let (found, fix) = if part.is_dir() {
            if part.metadata().is_ok_and(|found| found.uid() != us) {
                (format!("{shown} belongs to another user"), fix(part))
            } else if !writable(part) {
                (format!("{shown} is not writable for you"), fix(part))
            } else {
                continue;
            }
        } else {
            match in_the_way {
                Some(above) if !above.is_dir() => {
                    let shell = context.asked.env.for_shell(above);
                    let above = context.tilde(above);
                    let found = format!("{above} is in the way of our state directory");
                    (found, format!("mv {shell} {shell}.old"))
                }
                Some(above) if !writable(above) => (format!("{shown} cannot be made"), fix(above)),
                _ => continue,
            }
        };
        report.say(Step::bad(WHAT, ExitStatus::Config, found, fix));
        return false;
    }
    let shown = context.tilde(path);
    let there = path.ancestors().find(|above| above.is_dir());
    let lack = there.and_then(|there| Some((there, lack(there)?)));
    report.say(if let Some((there, (what, by))) = lack {
        Step::warning(
            WHAT,
            format!("no {what} left on the disk of {shown}: the result of a sync cannot be saved"),
            format!("free some (see {by} {})", context.asked.env.for_shell(there)),
        )
    } else if path.is_dir() {
        Step::good(WHAT, shown)
    } else {
        Step::good(WHAT, format!("{shown} is created when it is needed"))
    });
    true
}

/// Files that do not parse count as absent.
fn files(context: &CheckContext<'_>, dir: &StateDir, report: &mut Checklist) {
    fn parses<T: DeserializeOwned>(text: &[u8]) -> bool {
        serde_json::from_slice::<T>(text).is_ok()
    }
    type Boxes<T> = std::collections::BTreeMap<String, T>;
    type Parses = fn(&[u8]) -> bool;
    let all: [(&str, Parses); 8] = [
        (last_run::FILE, parses::<LastRun>),
        (backoff::FILE, parses::<Backoff>),
        (clean::FILE, parses::<Boxes<CleanState>>),
        (clean::STUCK, parses::<StuckState>),
        (clean::PULL, parses::<Boxes<Changes>>),
        (clean::GONE, parses::<Boxes<Gone>>),
        (refused_state::FILE, parses::<RefusedState>),
        (held_state::FILE, parses::<HeldState>),
    ];
    for (name, parses) in all {
        let file = dir.file(name);
        let Ok(text) = file::read(&file, LARGEST) else { continue };
        if !parses(&text) {
            report.say(Step::warning(
                "state",
                format!("{} does not parse and is ignored", context.tilde(&file)),
                format!("rm {}", context.asked.env.for_shell(&file)),
            ));
        }
    }
}

fn pauses(context: &CheckContext<'_>, dir: &StateDir, report: &mut Checklist) {
    let now = SystemTime::now();
    let settings = context.settings();
    let stamp = fs::metadata(dir.file("throttle")).and_then(|found| found.modified()).ok();
    let wait = settings.rate().wait(stamp, now);
    report.say(if wait.is_zero() {
        Step::good("throttle", "open: a sync may start now")
    } else {
        Step::note("throttle", format!("in force for another {}", short(wait)))
    });
    let retry: Option<Backoff> = file::read(&dir.file(backoff::FILE), LARGEST)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let wait = settings.backoff_policy().wait(retry.as_ref(), now);
    if let Some(retry) = retry.filter(|_| !wait.is_zero()) {
        let step = backoff(&context.account.name, &retry, wait);
        report.say(step);
    }
}

fn backoff(name: &str, retry: &Backoff, wait: Duration) -> Step {
    let times = counted(retry.failures.max(1), "time");
    Step::warning(
        "backoff",
        format!("failed {times} in a row, next try in {}: {}", short(wait), retry.text),
        format!("mutt-sync --force {}", shell_operand(name)),
    )
}

fn requests(context: &CheckContext<'_>, dir: &StateDir, attended: bool, report: &mut Checklist) {
    const WHAT: &str = "requests";
    let names: Vec<String> = requests::all(dir).iter().map(Target::to_string).collect();
    report.say(match (&names[..], attended) {
        ([], _) => Step::good(WHAT, "no pending requests"),
        (names, true) => Step::note(WHAT, format!("pending: {}", some(names))),
        (names, false) => Step::warning(
            WHAT,
            format!("pending, and no process serves them: {}", some(names)),
            format!("mutt-sync --force {}", shell_operand(&context.account.name)),
        ),
    });
}
