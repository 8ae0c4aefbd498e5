//! `--result`: what came of the request that a key has made, for mutt's message line.
//!
//! The key itself must not wait for a sync (`-b -f`), and what came is known a moment
//! later; or its screen is gone when the sync has ended (`-f`).
//!
//! Does not depend on: how a request is served.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::{App, Selection, no_signals, out};
use crate::error::{Error, ExitStatus};
use crate::model::Mailbox;
use crate::os::file;
use crate::os::signals::Shutdown;
use crate::report::status;
use crate::state::backoff::Backoff;
use crate::state::last_run::LastRun;
use crate::state::watch::StateWatch;
use crate::state::{StateDir, clean, lock, requests};
use crate::sync::account::{AccountBackend, RunOptions};
use crate::sync::context::AccountContext;
use crate::sync::judge::Blind;
use crate::sync::scheduler::{Backend as _, Urgency};
use crate::sync::summary::{changes_line, offline_line};
use crate::sync::{held, refused};
use crate::text::short;
use crate::verdict::CleanState;

/// mutt shows nothing and takes no key meanwhile.
const AT_MOST: Duration = Duration::from_secs(2);
/// The end of a judgement shows in no file that could be watched.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How many runs there had been when a key asked last: what came since is its result.
const ASKED: &str = "asked";

impl App<'_> {
    /// Notes that a key asks for a sync. Lost, its result is not known.
    pub(super) fn note_asked(dir: &StateDir) {
        let runs = LastRun::read(dir).runs.to_string();
        // One of an earlier key would be taken for it.
        let _ = dir.remove(ASKED);
        let _ = file::write(&dir.file(ASKED), runs.as_bytes());
    }

    /// Notes that a key begins that syncs in the foreground: while mutt writes the folder, a
    /// waiter may already sync it.
    pub(super) fn begin_key(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        for (context, _) in self.contexts(selection) {
            Self::note_asked(&StateDir::open(context.base, &context.account.name)?);
        }
        Ok(ExitStatus::Done)
    }

    pub(super) fn result(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::never().map_err(|error| no_signals(&error))?;
        let deadline = Instant::now() + AT_MOST;
        let mut lines = Vec::new();
        for (context, _) in self.contexts(selection) {
            let text = outcome(context, &shutdown, deadline)?;
            lines.push(format!("{}: {text}", context.account.name));
        }
        Ok(out(&lines.join("; ")))
    }
}

/// The number of runs in the note.
pub(super) fn asked(dir: &StateDir) -> Option<u64> {
    file::read_text(&dir.file(ASKED), 32).ok()?.parse().ok()
}

/// What came of it, or what it waits for at the deadline.
fn outcome(
    context: AccountContext<'_>,
    shutdown: &Shutdown,
    deadline: Instant,
) -> Result<String, Error> {
    let options = RunOptions::in_background(context.settings);
    let mut backend = AccountBackend::open(context, shutdown.clone(), options, Box::new(Blind))?;
    let waiter = backend.waiter_is_alive();
    if is_over(context, backend.dir(), waiter, shutdown, deadline) {
        return Ok(what_came(context, backend.dir()));
    }
    if !backend.is_attended() && !backend.dir().is_locked(lock::RUN) {
        return Ok("waiting for the next mutt-sync".to_owned());
    }
    let gate = backend.gate(Urgency::Usual);
    Ok(App::queued(&backend, gate, waiter))
}

/// Waits until all requests are served or have failed, and so is what the client wrote
/// after the request: a waiter may have answered before that.
fn is_over(
    context: AccountContext<'_>,
    dir: &StateDir,
    waiter: bool,
    shutdown: &Shutdown,
    deadline: Instant,
) -> bool {
    let mut changes = StateWatch::of(dir);
    loop {
        // In this order: a request goes first, then what came is written, with the lock held.
        let goes_on = requests::any_fresh(dir)
            || dir.is_locked(lock::RUN)
            || waiter && is_to_be_pushed(context, dir);
        if !goes_on {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        changes.wait(left.min(LOOK_EVERY), shutdown.cancel());
    }
}

/// Whether a waiter is about to push what was written since the request.
fn is_to_be_pushed(context: AccountContext<'_>, dir: &StateDir) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    let Some(asked) = modified(&dir.file(ASKED)) else { return false };
    let seen: BTreeMap<String, CleanState> = dir.read_json(clean::FILE).unwrap_or_default();
    let mut written: Vec<Mailbox> =
        seen.keys().filter_map(|key| clean::mailbox(context.account, key)).collect();
    written.retain(|mailbox| {
        let maildir = mailbox.maildir.as_deref();
        let folders = maildir.into_iter().flat_map(|path| [path.join("cur"), path.join("new")]);
        folders.filter_map(|folder| modified(&folder)).any(|written| written >= asked)
    });
    if written.is_empty() {
        return false;
    }
    let status = status::of(context, &written);
    let held = status.held.iter().map(|held| &held.name);
    let stays: BTreeSet<&String> = held.chain(status.refused.iter().map(|it| &it.name)).collect();
    status.mailboxes.iter().any(|each| each.push.is_some() && !stays.contains(&each.name))
}

/// What the judgement or the run came to.
fn what_came(context: AccountContext<'_>, dir: &StateDir) -> String {
    let Some(asked) = asked(dir) else {
        return "no request of -f is known".to_owned();
    };
    let last = LastRun::read(dir);
    if last.code != 0 {
        let now = SystemTime::now();
        let retry = Backoff::read(dir);
        let wait = context.settings.backoff_policy().wait(retry.as_ref(), now);
        let next =
            if wait.is_zero() { String::new() } else { format!("; next try in {}", short(wait)) };
        // Of several accounts there is not more room.
        let offline = retry.as_ref().and_then(|retry| offline_line(retry.code, retry.first, now));
        return offline.unwrap_or(last.text) + &next;
    }
    let came = if last.runs == asked || last.changes.is_empty() {
        "in sync".to_owned()
    } else {
        changes_line(&last.changes)
    };
    if !held::of_account(context.account, context.settings, dir).is_empty() {
        return came + ", except for held mailboxes (mutt-sync --status)";
    }
    if !refused::of_account(context.account, dir).is_empty() {
        return came + ", but some mail was refused (mutt-sync --status)";
    }
    came
}
