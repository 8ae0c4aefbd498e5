//! The state of an account as far as this disk shows it: `--status`, `--json` and
//! mutt's status line.
//!
//! Reads state files and, where their time stamps changed, Maildirs. Runs nothing,
//! asks no server, waits for nothing, and changes nothing but `seen.json`.
//!
//! Does not depend on: connections, mbsync, the waiter's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::error::ExitStatus;
use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox, Target};
use crate::mutt::statusline::{LineState, Trouble};
use crate::state::backoff::{Backoff, seconds};
use crate::state::last_run::{self, Change, LastRun};
use crate::state::lock::{self, Lock};
use crate::state::refused::RefusedState;
use crate::state::{StateDir, clean, requests};
use crate::sync::context::AccountContext;
use crate::sync::held::{self, HeldReport};
use crate::sync::limits::RunLimits;
use crate::sync::refused::{self, RefusedReport};
use crate::sync::summary::offline_line;
use crate::text::{counted, sanitize, short};
use crate::verdict::gone::Gone;
use crate::verdict::{Changes, CleanState, Rules, SideVerdict, maildir};

/// How long a run, a request or a change must have lasted for a mark in mutt's status line.
/// mutt draws the line at the key that causes it, and then not before another key.
const LASTING: Duration = Duration::from_secs(2);

/// The version of the JSON form. It grows when a key is removed or means something else.
const SCHEMA: u32 = 1;

/// All that `--status --json` prints. Durations are in seconds, times in seconds since
/// the epoch.
#[derive(Debug, Serialize)]
pub struct StatusReport<'a> {
    version: u32,
    accounts: &'a [AccountStatus],
}

impl<'a> StatusReport<'a> {
    /// Of these accounts.
    #[must_use]
    pub fn new(accounts: &'a [AccountStatus]) -> Self {
        StatusReport { version: SCHEMA, accounts }
    }
}

/// An account at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
// Each is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct AccountStatus {
    /// Its name.
    pub account: String,
    /// The last run, if there was one.
    #[serde(serialize_with = "in_seconds")]
    pub last: Option<LastRun>,
    /// A run is under way.
    pub running: bool,
    /// A waiter is alive.
    pub waiter: bool,
    /// How it watches the server; `None` if it is not connected, or does not say.
    pub watching: Option<String>,
    /// A process waits to serve the requests.
    pub queued: bool,
    /// It was synced, and nothing is known that differs, is held, refused or asked for, or
    /// has failed since.
    pub in_sync: bool,
    /// Pending requests, as `mutt-sync` takes them.
    pub wanted: Vec<String>,
    /// How long until the first of it is tried.
    #[serde(skip)]
    pub wanted_in: Duration,
    /// They wait for more than an answer that is about to come: no run is under way, and
    /// one has failed or is old.
    #[serde(skip)]
    pub waiting: bool,
    /// The run has lasted for a while.
    #[serde(skip)]
    pub running_long: bool,
    /// A process exists that serves the requests, or was just started for them.
    #[serde(skip)]
    pub attended: bool,
    /// Seconds until throttle or pace let a run start; 0: now.
    pub throttled: u64,
    /// The backoff in force.
    pub backoff: Option<BackoffStatus>,
    /// Mailboxes that are not in step, as far as the disk shows.
    pub mailboxes: Vec<Pending>,
    /// All mailboxes, in step or not.
    pub known_mailboxes: usize,
    /// Unread messages in all of them.
    pub unread: u64,
    /// Those with unread messages.
    pub unread_mailboxes: Vec<UnreadMailbox>,
    /// What mbsync could not carry.
    pub refused: Vec<RefusedReport>,
    /// What waits for an answer before it is synced.
    pub held: Vec<HeldReport>,
}

/// A backoff in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackoffStatus {
    /// Seconds until the next try.
    pub wait: u64,
    /// When the first of the failures of this kind was, seconds since the epoch.
    pub since: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Exit status of the last one.
    pub code: u8,
    /// What it said.
    pub text: String,
    /// Another try costs somebody something: see [`crate::error::Error::costly`].
    pub costly: bool,
}

/// A mailbox with unread messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadMailbox {
    /// As `mutt-sync` takes it.
    pub name: String,
    /// How many.
    pub unread: u32,
    #[serde(skip)]
    is_inbox: bool,
}

/// A mailbox with something to push or to pull, or on which no verdict can be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// As `mutt-sync` takes it.
    pub name: String,
    /// What is to be pushed.
    pub push: Option<Changes>,
    /// What is to be pulled, as far as a waiter knows.
    pub pull: Option<Changes>,
    /// Why no verdict can be given.
    pub unknown: Option<String>,
    /// It was changed a moment ago. Only known for mutt's status line.
    #[serde(skip)]
    pub young: bool,
}

/// The state of an account and of these mailboxes.
#[must_use]
pub fn of(context: AccountContext<'_>, mailboxes: &[Mailbox]) -> AccountStatus {
    let dir = StateDir::existing(context.base, &context.account.name);
    let memory = dir.read_json(clean::FILE).unwrap_or_default();
    status_of(context, &dir, memory, mailboxes, Detail::All)
}

/// How much of the state is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    /// What [`line_state`] shows: mutt waits for it at every key.
    Line,
}

/// The state of the account and of the mailboxes that were scanned before: enough
/// for a status line, and no directory has to be read to find them.
#[must_use]
pub fn of_known_mailboxes(context: AccountContext<'_>) -> AccountStatus {
    // mutt paints standard error over its screen.
    let dir = StateDir::existing(context.base, &context.account.name).silent();
    let memory: BTreeMap<String, CleanState> = dir.read_json(clean::FILE).unwrap_or_default();
    let mailboxes: Vec<Mailbox> =
        memory.keys().filter_map(|key| clean::mailbox(context.account, key)).collect();
    status_of(context, &dir, memory, &mailboxes, Detail::Line)
}

fn status_of(
    context: AccountContext<'_>,
    dir: &StateDir,
    mut memory: BTreeMap<String, CleanState>,
    mailboxes: &[Mailbox],
    detail: Detail,
) -> AccountStatus {
    let all = detail == Detail::All;
    let now = SystemTime::now();
    let settings = context.settings;
    let gone: BTreeMap<String, Gone> = dir.read_json(clean::GONE).unwrap_or_default();
    let mut learned = false;
    let mut pending = Vec::new();
    let state = if all { RefusedState::read(dir) } else { RefusedState::default() };
    let nothing = UidSet::EMPTY;
    let mut refused = refused::of_account(context.account, dir);
    let waiter_lock = dir.file(lock::WAITER);
    let waiter = Lock::is_held(&waiter_lock);
    let mut to_pull: BTreeMap<String, Changes> = BTreeMap::new();
    if waiter && all {
        to_pull = dir.read_json(clean::PULL).unwrap_or_default();
    }
    let mut unread = Vec::new();
    for mailbox in mailboxes {
        let key = clean::key(mailbox);
        let by_run = gone.get(&key);
        let pull = to_pull.remove(&key);
        let clean = memory.entry(key).or_default();
        let (verdict, near, count) =
            near_verdict(context.account, mailbox, clean, by_run, &mut learned);
        let name = || mailbox.target().to_string();
        if let Some(count) = count.filter(|count| *count > 0) {
            unread.push(UnreadMailbox {
                name: name(),
                unread: count,
                is_inbox: mailbox.is_inbox(),
            });
        }
        if all {
            let far = clean.far.as_ref().map(|far| &far.left);
            let left = [&near, far.unwrap_or(&nothing)];
            refused.extend(refused::passed_over(context.account, &state, mailbox, left));
        }
        let (push, unknown) = match verdict {
            SideVerdict::Clean if pull.is_none() => continue,
            SideVerdict::Clean => (None, None),
            SideVerdict::Changed(changes) => (Some(changes), None),
            SideVerdict::Unknown(why) => (None, Some(why)),
        };
        let young = !all && push.is_some() && maildir::changed_within(mailbox, LASTING);
        pending.push(Pending { name: name(), push, pull, unknown, young });
    }
    let lock = dir.file(lock::RUN);
    let locked = Lock::is_held(&lock);
    if learned && !waiter && !locked {
        // If this fails, the next status learns it again.
        let _ = dir.write_json(clean::FILE, &memory);
    }
    let retry = Backoff::read(dir);
    let wait = settings.backoff_policy().wait(retry.as_ref(), now);
    let description = || Some(Lock::description(&waiter_lock)).filter(|mode| !mode.is_empty());
    let watching = if all { description() } else { None };
    let limits = RunLimits::new(dir, settings, false);
    let limited = match &watching {
        _ if !all => Duration::ZERO,
        Some(_) => limits.pace_wait(now),
        None => limits.login_wait(now),
    };
    let requested = requests::all(dir);
    let wanted_in =
        if all { requests::next_due(dir, settings.backoff_policy(), now) } else { None };
    let wanted = |target: &Target| match target {
        Target::Account => context.account.name.clone(),
        Target::Channel(_) | Target::Mailbox { .. } => target.to_string(),
    };
    let last: Option<LastRun> = dir.read_json(last_run::FILE);
    let held = held::of_account(context.account, settings, dir);
    // Who judges holds the lock, too.
    let run = if locked { Lock::run_under(&lock) } else { None };
    let queued = dir.is_locked(lock::QUEUE);
    AccountStatus {
        account: context.account.name.clone(),
        in_sync: pending.is_empty()
            && held.is_empty()
            && refused.is_empty()
            && requested.is_empty()
            && retry.is_none()
            && last.as_ref().and_then(LastRun::last_synced).is_some(),
        last,
        running: run.is_some(),
        running_long: run.is_some_and(|run| run.age() >= LASTING),
        waiter,
        watching,
        queued,
        // A process that was started for a request may not have its lock yet.
        attended: waiter || queued || locked || !requested.is_empty(),
        waiting: run.is_none() && requests::any_older(dir, LASTING, now),
        wanted: requested.iter().map(wanted).collect(),
        wanted_in: wanted_in.unwrap_or_default(),
        throttled: limited.as_secs(),
        backoff: retry.filter(|_| !wait.is_zero()).map(|retry| BackoffStatus {
            wait: wait.as_secs(),
            since: retry.first,
            failures: retry.failures,
            code: retry.code,
            text: retry.text,
            costly: retry.costly,
        }),
        mailboxes: pending,
        known_mailboxes: mailboxes.len(),
        unread: unread.iter().map(|each| u64::from(each.unread)).sum(),
        unread_mailboxes: unread,
        refused,
        held,
    }
}

/// The near side of a mailbox, the messages there that mbsync has passed over, and how
/// many are unread; `learned` if `clean` has changed with it.
fn near_verdict(
    account: &Account,
    mailbox: &Mailbox,
    clean: &mut CleanState,
    by_run: Option<&Gone>,
    learned: &mut bool,
) -> (SideVerdict, UidSet, Option<u32>) {
    let unknown = |why: String| (SideVerdict::Unknown(why), UidSet::EMPTY, None);
    let channel = account.channel(&mailbox.channel);
    let rules = match channel.map(Rules::of) {
        Some(Ok(rules)) => rules,
        Some(Err(why)) => return unknown(why),
        None => return (SideVerdict::Clean, UidSet::EMPTY, None),
    };
    let Some((scan, memory)) = maildir::scan_mailbox(mailbox, &rules, clean, by_run, None) else {
        return unknown("it has no Maildir here".into());
    };
    // Without stamps the next scan would have to list all the same.
    if let Some(memory) = memory.filter(|memory| memory.stamps.is_some()) {
        clean.near = Some(memory);
        *learned = true;
    }
    (scan.verdict, scan.left, scan.unread)
}

/// What a program may rely on of the last run: 0.1.0 had milliseconds beside seconds.
#[allow(clippy::cast_precision_loss, clippy::ref_option)] // milliseconds; serde's form
fn in_seconds<S: Serializer>(last: &Option<LastRun>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct InSeconds<'l> {
        runs: u64,
        started: f64,
        took: f64,
        code: u8,
        text: &'l str,
        whole: bool,
        last_success: Option<u64>,
        last_checked: Option<u64>,
        last_whole: Option<u64>,
        changes: &'l [Change],
    }
    let last = last.as_ref().map(|last| InSeconds {
        runs: last.runs,
        started: last.started as f64 / 1000.0,
        took: last.took as f64 / 1000.0,
        code: last.code,
        text: &last.text,
        whole: last.whole,
        last_success: last.last_success,
        last_checked: last.last_checked(),
        last_whole: last.last_whole,
        changes: &last.changes,
    });
    last.serialize(to)
}

/// A line for each mailbox that is not in step.
#[must_use]
pub fn pending_lines(status: &AccountStatus) -> Vec<String> {
    let line = |each: &Pending| {
        let push = each.push.map(|changes| format!("{changes} to push"));
        let pull = each.pull.map(|changes| format!("{changes} to pull"));
        let parts: Vec<String> = [pull, push, each.unknown.clone()].into_iter().flatten().collect();
        format!("  {}: {}", each.name, parts.join(", "))
    };
    status.mailboxes.iter().map(line).collect()
}

/// Several accounts as one mark in mutt's status line.
#[must_use]
pub fn line_state(accounts: &[AccountStatus]) -> LineState {
    let push = |status: &AccountStatus| {
        // What nobody pushes, or not before the next try, is shown at once.
        let soon = status.attended && status.backoff.is_none();
        let shown = |each: &&Pending| each.push.is_some() && !(soon && each.young);
        status.mailboxes.iter().filter(shown).count()
    };
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
        running: accounts.iter().any(|status| status.running_long),
        waiting: accounts.iter().any(|status| status.waiting),
        trouble,
        attended: accounts.iter().any(|status| status.attended),
        refused: accounts
            .iter()
            .any(|status| status.refused.iter().any(|each| each.text.is_some())),
        held: accounts.iter().any(|status| !status.held.is_empty()),
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
    // Why a backoff is in force follows.
    let last = status.last.as_ref().filter(|last| last.code != 0);
    let same = |last: &&LastRun| {
        status.backoff.as_ref().is_some_and(|backoff| {
            backoff.text == last.text
                || [backoff.code, last.code].iter().all(|code| *code == ExitStatus::Offline.code())
        })
    };
    if let Some(last) = last.filter(|last| !same(last)) {
        lines.push(match ExitStatus::from_code(last.code) {
            ExitStatus::Signal(_) => "  last sync was interrupted".into(),
            _ => format!("  last sync failed ({}): {}", last.code, last.text),
        });
    }
    if let Some(backoff) = &status.backoff {
        let wait = short(Duration::from_secs(backoff.wait));
        let offline = offline_line(backoff.code, backoff.since, now);
        let offline = offline.map_or(String::new(), |offline| offline + ", ");
        lines.push(format!("  {offline}next try in {wait} (now: -f): {}", backoff.text));
    }
    if !status.wanted.is_empty() {
        let backoff = status.backoff.as_ref().map_or(0, |backoff| backoff.wait);
        let wait = status.wanted_in.max(Duration::from_secs(backoff));
        let who = match (status.running, status.waiter || status.queued) {
            (true, _) => "being synced".to_owned(),
            (false, true) if !wait.is_zero() => format!("tried again in {}", short(wait)),
            (false, true) => "about to be synced".to_owned(),
            (false, false) => "pending until the next mutt-sync".to_owned(),
        };
        lines.push(format!("  {who}: {}", status.wanted.join(", ")));
    }
    lines.extend(pending_lines(status));
    for each in &status.held {
        lines.push(format!("  {}", each.line(now)));
        lines.push(format!("    fix: {}", each.fix()));
    }
    for each in &status.refused {
        lines.push(format!("  {}", each.line(now)));
        lines.push(format!("    fix: {}", each.fix()));
    }
    lines.iter().map(|line| sanitize(line)).collect::<Vec<_>>().join("\n")
}

/// `in sync (7 mailboxes)`, or how many are not.
fn in_sync(status: &AccountStatus) -> String {
    let all = counted(status.known_mailboxes, "mailbox");
    if status.known_mailboxes == 0 {
        return "no mailboxes here yet".into();
    }
    let synced = status.last.as_ref().and_then(LastRun::last_synced);
    let count = |is: fn(&Pending) -> bool| status.mailboxes.iter().filter(|each| is(each)).count();
    // Nothing is known of them before the first run.
    let unknown = if synced.is_none() { 0 } else { count(|each| each.unknown.is_some()) };
    let held: BTreeSet<&str> = status.held.iter().map(|each| &*each.name).collect();
    let refused: BTreeSet<&str> = status.refused.iter().map(|each| &*each.name).collect();
    let mut differ = [
        (count(|each| each.push.is_some()), "to push"),
        (count(|each| each.pull.is_some()), "to pull"),
        (unknown, "not comparable"),
        (held.len(), "held"),
        (refused.len(), "with refused mail"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0);
    let Some((count, what)) = differ.next() else {
        return match synced {
            _ if status.in_sync => format!("in sync ({all})"),
            Some(_) => format!("nothing to push ({all})"),
            None => all,
        };
    };
    let first = format!("{count} of {all} {what}");
    differ.fold(first, |line, (count, what)| format!("{line}, {count} {what}"))
}

fn summary(status: &AccountStatus, now: SystemTime) -> String {
    let mut parts = vec![in_sync(status)];
    let last = status.last.as_ref();
    if status.running {
        parts.push("syncing".into());
    }
    if let Some(then) = last.and_then(LastRun::last_checked) {
        let ago = Duration::from_secs(seconds(now).saturating_sub(then));
        parts.push(format!("checked {} ago", short(ago)));
    } else if last.and_then(LastRun::last_synced).is_some() {
        parts.push("never checked as a whole".into());
    } else {
        parts.push("never synced".into());
    }
    let inbox = status.unread_mailboxes.iter().filter(|each| each.is_inbox);
    let inbox: u32 = inbox.map(|each| each.unread).sum();
    if inbox > 0 {
        parts.push(format!("{inbox} unread"));
    }
    parts.push(match (&status.watching, status.waiter) {
        (Some(mode), _) => format!("watching by {mode}"),
        (None, true) => "watching".into(),
        (None, false) => "no waiter".into(),
    });
    if status.throttled > 0 {
        parts.push(format!("rate limit for {}", short(Duration::from_secs(status.throttled))));
    }
    parts.join(", ")
}
