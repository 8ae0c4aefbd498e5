//! What a run did, and when a request will be served, in one line for people.
//!
//! Does not depend on: how the run was made, clocks.

use std::time::{Duration, SystemTime};

use super::scheduler::Gate;
use crate::error::ExitStatus;
use crate::model::{Account, Target};
use crate::state::backoff::{Backoff, seconds};
use crate::state::clean;
use crate::state::last_run::Change;
use crate::text::{counted, sanitize, short};

/// What is said of a run without changes.
pub const NOTHING_TO_DO: &str = "nothing to do";

/// `INBOX 3 new, Sent 1 pushed, 0.4 s`.
#[must_use]
pub fn summary_line(changes: &[Change], took: Duration) -> String {
    let came = if changes.is_empty() { NOTHING_TO_DO.to_owned() } else { changes_line(changes) };
    format!("{came}, {}", short(took))
}

/// Most mailboxes without a message that are named.
const MOST_NAMED: usize = 3;

/// `INBOX 3 new, Sent 1 pushed, 2 mailboxes added (Drafts), 1 mailbox removed (Old)`: names
/// those that the line does not name otherwise.
#[must_use]
pub fn changes_line(changes: &[Change]) -> String {
    let mailboxes = |is_one: fn(&Change) -> bool, what: &str| {
        let found: Vec<&Change> = changes.iter().filter(|change| is_one(change)).collect();
        let names = names_of(found.iter().filter(|change| change.is_empty()));
        (!found.is_empty()).then(|| format!("{} {what}{names}", counted(found.len(), "mailbox")))
    };
    let added = mailboxes(|change| change.added, "added");
    let removed = mailboxes(|change| change.removed, "removed");
    let others = changes.iter().filter(|change| !change.is_empty()).map(change_in_words);
    others.chain(added).chain(removed).collect::<Vec<_>>().join(", ")
}

/// ` (Drafts, Sent)`; nothing, if there are none.
fn names_of<'a>(changes: impl Iterator<Item = &'a &'a Change>) -> String {
    let mut names: Vec<String> =
        changes.take(MOST_NAMED + 1).map(|change| sanitize(&change.mailbox)).collect();
    if let Some(last) = names.get_mut(MOST_NAMED) {
        "…".clone_into(last);
    }
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// When a request in the background will be served, by what held it up when it was
/// made: `queued for 50 s (rate limit)`. And what the last runs failed by, if they did.
#[must_use]
pub fn queued_line(gate: Gate, failure: Option<&Backoff>, now: SystemTime) -> String {
    let (when, next) = match gate {
        Gate::Open => ("syncing in the background".to_owned(), String::new()),
        Gate::Throttled(wait) => {
            (format!("queued for {} (rate limit)", short(wait)), String::new())
        }
        Gate::BackingOff(wait) => ("queued".to_owned(), format!(", next try in {}", short(wait))),
    };
    let failure =
        failure.map_or(String::new(), |last| format!("; {}", failure_in_words(last, now)));
    when + &failure + &next
}

fn failure_in_words(failure: &Backoff, now: SystemTime) -> String {
    offline_line(failure.code, failure.first, now).unwrap_or_else(|| {
        // Without the advice, which would be cut off.
        let text = sanitize(&failure.text);
        let text = text.split(" (mutt-sync ").next().unwrap_or_default();
        format!("last time: {}", clip(text.trim_end_matches('.'), 60))
    })
}

/// `offline for 12 min`, if a failure of this exit status is that the server is not
/// reached. `since`: seconds since the epoch.
#[must_use]
pub fn offline_line(code: u8, since: Option<u64>, now: SystemTime) -> Option<String> {
    let offline = code == ExitStatus::Offline.code();
    offline.then(|| match since.map_or(0, |first| seconds(now).saturating_sub(first)) {
        0 => "offline".to_owned(),
        ago => format!("offline for {}", short(Duration::from_secs(ago))),
    })
}

fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn change_in_words(change: &Change) -> String {
    let counts = [
        (change.pulled, "new"),
        (change.pushed, "pushed"),
        (change.flags, if change.flags == 1 { "flag" } else { "flags" }),
        (change.gone, "gone"),
    ];
    let mut words = sanitize(&change.mailbox);
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        words.extend([" ", &count.to_string(), " ", what]);
    }
    words
}

/// How long ago these seconds since the epoch were, from a minute on.
pub(super) fn ago(since: u64, now: SystemTime) -> Option<String> {
    let ago = Duration::from_secs(seconds(now).saturating_sub(since));
    (ago.as_secs() >= 60).then(|| short(ago))
}

/// A mailbox as a user types it; without one, the account.
pub(super) fn name_of(account: &Account, key: &str) -> String {
    match (clean::mailbox(account, key), clean::target(key)) {
        (Some(mailbox), _) => mailbox.target().to_string(),
        (None, Target::Account) => account.name.clone(),
        (None, target) => target.to_string(),
    }
}

/// What a command that somebody started has to say of what is refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToSay {
    /// The lines, each without a fix.
    pub lines: Vec<String>,
    /// They make the command's exit status 1.
    pub fails: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_came_and_went() {
        let change = |mailbox: &str, pulled, pushed, flags| Change {
            mailbox: mailbox.into(),
            pulled,
            pushed,
            flags,
            ..Change::default()
        };
        let changes = [change("INBOX", 3, 0, 0), change("Sent", 0, 1, 2)];
        let took = Duration::from_millis(400);
        assert_eq!(summary_line(&changes, took), "INBOX 3 new, Sent 1 pushed 2 flags, 0.4 s");
        assert_eq!(summary_line(&[], took), "nothing to do, 0.4 s");
        let added = |mailbox: &str, pulled| Change { added: true, ..change(mailbox, pulled, 0, 0) };
        let changes = [added("Here", 0), added("INBOX", 1), added("There", 0)];
        assert_eq!(changes_line(&changes), "INBOX 1 new, 3 mailboxes added (Here, There)");
        let many = ["A", "B", "C", "D", "E"].map(|name| added(name, 0));
        assert_eq!(changes_line(&many), "5 mailboxes added (A, B, C, …)");
        assert_eq!(changes_line(&[added("INBOX", 1)]), "INBOX 1 new, 1 mailbox added");
        let removed = Change { removed: true, ..change("Here", 0, 0, 0) };
        assert_eq!(summary_line(&[removed], took), "1 mailbox removed (Here), 0.4 s");
    }

    #[test]
    fn a_request_in_the_background_says_what_it_waits_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let failed = |exit: ExitStatus, first, text: &str| Backoff {
            failures: 3,
            code: exit.code(),
            first,
            since: 9990,
            until: 10_120,
            text: text.into(),
            costly: false,
            password_command: false,
        };
        let said = |gate, last: Option<&Backoff>| queued_line(gate, last, now);
        let wait = Duration::from_secs(120);
        let offline = failed(ExitStatus::Offline, Some(9280), "no route");
        let older = failed(ExitStatus::Offline, None, "no route");
        let denied = failed(ExitStatus::Denied, Some(9280), "login refused\u{1b}");
        assert_eq!(said(Gate::Open, None), "syncing in the background");
        let forced = "syncing in the background; offline for 12 min";
        assert_eq!(said(Gate::Open, Some(&offline)), forced);
        assert_eq!(said(Gate::Throttled(wait / 2), None), "queued for 60 s (rate limit)");
        let waits = Gate::BackingOff(wait);
        assert_eq!(said(waits, Some(&offline)), "queued; offline for 12 min, next try in 2 min");
        assert_eq!(said(waits, Some(&older)), "queued; offline, next try in 2 min");
        let refused = "queued; last time: login refused?, next try in 2 min";
        assert_eq!(said(waits, Some(&denied)), refused);
        let advised = failed(
            ExitStatus::Denied,
            None,
            "login refused: No. (mutt-sync --check Home says more)",
        );
        let refused = "queued; last time: login refused: No, next try in 2 min";
        assert_eq!(said(waits, Some(&advised)), refused);
        assert_eq!(said(waits, None), "queued, next try in 2 min");
    }
}
