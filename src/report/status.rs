//! The state of an account as far as this disk shows it: `--status`, `--json` and
//! mutt's status line.
//!
//! Reads state files and, where their time stamps changed, Maildirs. Runs nothing,
//! asks no server, waits for nothing, and changes nothing but `seen.json`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::error::ExitStatus;
use crate::model::{Account, Mailbox, Target};
use crate::mutt::statusline::{LineState, Trouble};
use crate::state::backoff::{self, Backoff, seconds};
use crate::state::last_run::{self, LastRun};
use crate::state::lock::Lock;
use crate::state::{StateDir, clean, requests, throttle};
use crate::sync::context::AccountContext;
use crate::text::{counted, sanitize, short};
use crate::verdict::gone::Gone;
use crate::verdict::{Changes, CleanState, Rules, SideVerdict, maildir};

/// An account at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountStatus {
    /// Its name.
    pub account: String,
    /// The last run, if there was one.
    pub last: Option<LastRun>,
    /// A run is under way.
    pub running: bool,
    /// A waiter is alive.
    pub waiter: bool,
    /// A process waits to serve the requests.
    pub queued: bool,
    /// Pending requests.
    pub wanted: Vec<String>,
    /// Seconds until the throttle lets a run start; 0: now.
    pub throttled: u64,
    /// The backoff in force.
    pub backoff: Option<BackoffStatus>,
    /// Mailboxes that are not in step, as far as the disk shows.
    pub mailboxes: Vec<Pending>,
    /// All mailboxes, in step or not.
    pub known_mailboxes: usize,
}

/// A backoff in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackoffStatus {
    /// Seconds until the next try.
    pub wait: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Exit status of the last one.
    pub code: u8,
    /// What it said.
    pub text: String,
}

/// A mailbox with something to push, or on which no verdict can be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// As `mutt-sync` takes it.
    pub name: String,
    /// What is to be pushed.
    pub push: Option<Changes>,
    /// Why no verdict can be given.
    pub unknown: Option<String>,
}

/// The state of an account and of these mailboxes.
#[must_use]
pub fn of(context: AccountContext<'_>, mailboxes: &[Mailbox]) -> AccountStatus {
    let dir = StateDir::existing(context.base, &context.account.name);
    let memory = dir.read_json(clean::FILE).unwrap_or_default();
    status_of(context, &dir, memory, mailboxes)
}

/// The state of the account and of the mailboxes that were scanned before: enough
/// for a status line, and no directory has to be read to find them.
#[must_use]
pub fn of_known_mailboxes(context: AccountContext<'_>) -> AccountStatus {
    let dir = StateDir::existing(context.base, &context.account.name);
    let memory: BTreeMap<String, CleanState> = dir.read_json(clean::FILE).unwrap_or_default();
    let mailboxes: Vec<Mailbox> =
        memory.keys().filter_map(|key| clean::mailbox(context.account, key)).collect();
    status_of(context, &dir, memory, &mailboxes)
}

fn status_of(
    context: AccountContext<'_>,
    dir: &StateDir,
    mut memory: BTreeMap<String, CleanState>,
    mailboxes: &[Mailbox],
) -> AccountStatus {
    let now = SystemTime::now();
    let settings = context.settings;
    let gone: BTreeMap<String, Gone> = dir.read_json(clean::GONE).unwrap_or_default();
    let mut learned = false;
    let mut pending = Vec::new();
    for mailbox in mailboxes {
        let key = clean::key(mailbox);
        let by_run = gone.get(&key);
        let clean = memory.entry(key).or_default();
        let verdict = near_verdict(context.account, mailbox, clean, by_run, &mut learned);
        let (push, unknown) = match verdict {
            SideVerdict::Clean => continue,
            SideVerdict::Changed(changes) => (Some(changes), None),
            SideVerdict::Unknown(why) => (None, Some(why)),
        };
        pending.push(Pending { name: mailbox.target().to_string(), push, unknown });
    }
    let waiter = Lock::is_held(&dir.file("waiter.lock"));
    let running = Lock::is_held(&dir.file("lock"));
    if learned && !waiter && !running {
        // If this fails, the next status learns it again.
        let _ = dir.write_json(clean::FILE, &memory);
    }
    let retry: Option<Backoff> = dir.read_json(backoff::FILE);
    let wait = settings.backoff_policy().wait(retry.as_ref(), now);
    AccountStatus {
        account: context.account.name.clone(),
        last: dir.read_json(last_run::FILE),
        running,
        waiter,
        queued: Lock::is_held(&dir.file("queue.lock")),
        wanted: requests::all(dir).iter().map(Target::to_string).collect(),
        throttled: settings.rate().wait(throttle::stamp(dir, settings.rate(), now), now).as_secs(),
        backoff: retry.filter(|_| !wait.is_zero()).map(|retry| BackoffStatus {
            wait: wait.as_secs(),
            failures: retry.failures,
            code: retry.code,
            text: retry.text,
        }),
        mailboxes: pending,
        known_mailboxes: mailboxes.len(),
    }
}

/// The near side of a mailbox; `learned` if `clean` has changed with it.
fn near_verdict(
    account: &Account,
    mailbox: &Mailbox,
    clean: &mut CleanState,
    by_run: Option<&Gone>,
    learned: &mut bool,
) -> SideVerdict {
    let channel = account.channels.iter().find(|channel| channel.name == mailbox.channel);
    let rules = match channel.map(Rules::of) {
        Some(Ok(rules)) => rules,
        Some(Err(why)) => return SideVerdict::Unknown(why),
        None => return SideVerdict::Clean,
    };
    let Some((scan, memory)) = maildir::scan_mailbox(mailbox, &rules, clean, by_run, None) else {
        return SideVerdict::Unknown("it has no Maildir here".into());
    };
    // Without stamps the next scan would have to list all the same.
    if let Some(memory) = memory.filter(|memory| memory.stamps.is_some()) {
        clean.near = Some(memory);
        *learned = true;
    }
    scan.verdict
}

/// A line for each mailbox that is not in step.
#[must_use]
pub fn pending_lines(status: &AccountStatus) -> Vec<String> {
    let line = |each: &Pending| match (&each.push, &each.unknown) {
        (Some(changes), _) => format!("  {}: {changes} to push", each.name),
        (None, why) => format!("  {}: {}", each.name, why.as_deref().unwrap_or("unknown")),
    };
    status.mailboxes.iter().map(line).collect()
}

/// Several accounts as one mark in mutt's status line.
#[must_use]
pub fn line_state(accounts: &[AccountStatus]) -> LineState {
    let push =
        |status: &AccountStatus| status.mailboxes.iter().filter(|each| each.push.is_some()).count();
    let trouble = accounts.iter().find_map(|status| {
        let code = match (&status.backoff, &status.last) {
            (Some(backoff), _) => backoff.code,
            (None, Some(last)) => last.code,
            (None, None) => 0,
        };
        trouble(ExitStatus::from_code(code))
    });
    LineState {
        push: accounts.iter().map(push).sum(),
        running: accounts.iter().any(|status| status.running),
        waiting: accounts.iter().any(|status| !status.wanted.is_empty()),
        trouble,
        attended: accounts.iter().any(|status| status.waiter || status.queued),
    }
}

fn trouble(exit: ExitStatus) -> Option<Trouble> {
    match exit {
        ExitStatus::Done | ExitStatus::Signal(_) | ExitStatus::Usage => None,
        ExitStatus::Offline | ExitStatus::Later => Some(Trouble::Offline),
        ExitStatus::Denied => Some(Trouble::Login),
        ExitStatus::Config => Some(Trouble::Config),
        ExitStatus::Mailbox => Some(Trouble::Failed),
    }
}

/// The report for people: a line for the account, then one for each thing that
/// is not as it should be.
#[must_use]
pub fn text(status: &AccountStatus, now: SystemTime) -> String {
    let mut lines = vec![format!("{}: {}", status.account, summary(status, now))];
    if let Some(last) = status.last.as_ref().filter(|last| last.code != 0) {
        lines.push(match ExitStatus::from_code(last.code) {
            ExitStatus::Signal(_) => "  last run was interrupted".into(),
            _ => format!("  last run failed ({}): {}", last.code, last.text),
        });
    }
    if let Some(backoff) = &status.backoff {
        let wait = short(Duration::from_secs(backoff.wait));
        lines.push(format!("  next try in {wait} (now: -f): {}", backoff.text));
    }
    if !status.wanted.is_empty() {
        let who = match (status.running, status.waiter || status.queued) {
            (true, _) => "being synced",
            (false, true) => "will be synced",
            (false, false) => "waiting for the next mutt-sync",
        };
        lines.push(format!("  asked for, {who}: {}", status.wanted.join(", ")));
    }
    lines.extend(pending_lines(status));
    lines.iter().map(|line| sanitize(line)).collect::<Vec<_>>().join("\n")
}

fn summary(status: &AccountStatus, now: SystemTime) -> String {
    let mut parts = Vec::new();
    let to_push = status.mailboxes.iter().filter(|each| each.push.is_some()).count();
    parts.push(match (to_push, status.known_mailboxes) {
        (_, 0) => "no mailboxes here yet".to_owned(),
        (0, all) => format!("in sync ({})", counted(all, "mailbox")),
        (some, all) => format!("{some} of {} to push", counted(all, "mailbox")),
    });
    if status.running {
        parts.push("syncing".into());
    }
    match status.last.as_ref().and_then(|last| last.last_success) {
        Some(then) => {
            let ago = Duration::from_secs(seconds(now).saturating_sub(then));
            parts.push(format!("last run {} ago", short(ago)));
        }
        None => parts.push("never synced".into()),
    }
    parts.push(if status.waiter { "watching" } else { "no waiter" }.into());
    if status.throttled > 0 {
        parts.push(format!("rate limit for {}", short(Duration::from_secs(status.throttled))));
    }
    parts.join(", ")
}
