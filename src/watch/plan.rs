//! Whether a mailbox needs a run, and what to run. Pure.
//!
//! A dirty mailbox is synced once for each of its states: if it is as dirty
//! after a run as before (one-way Sync, a refused message, `MaxMessages`),
//! another run would do the same again. The same holds for a mailbox on which
//! no verdict can be given.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::Target;
use crate::verdict::{Fingerprint, SideVerdict, Verdict};

/// The state of a mailbox before the last run that did not make it clean. Each
/// side is kept on its own, and forgotten when that side is found clean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stuck {
    /// When the near side was dirty.
    pub near: Option<Fingerprint>,
    /// When the far side was.
    pub far: Option<Fingerprint>,
}

/// What is kept in `stuck.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StuckState {
    /// By channel and mailbox.
    pub mailboxes: BTreeMap<String, Stuck>,
    /// Mailboxes that only the server has, and that a run did not create here.
    #[serde(rename = "only_there")]
    pub only_on_server: BTreeSet<String>,
}

/// What is known of a mailbox.
#[derive(Debug, Clone)]
pub struct PlanInputs<'a> {
    pub verdict: Verdict,
    /// Its state now.
    pub now: &'a Fingerprint,
    /// Its state before the last run that left it dirty, or on which no
    /// verdict can be given.
    pub stuck: Option<&'a Stuck>,
}

/// The part of the verdict that calls for a run; `None` if nothing does.
pub fn why_dirty(inputs: PlanInputs<'_>) -> Option<Verdict> {
    let PlanInputs { mut verdict, now, stuck } = inputs;
    let near = stuck.and_then(|stuck| stuck.near.as_ref());
    if near.is_some_and(|then| {
        (&then.near, &then.record, then.unfinished) == (&now.near, &now.record, now.unfinished)
    }) {
        verdict.near = SideVerdict::Clean;
    }
    let far = stuck.and_then(|stuck| stuck.far.as_ref());
    if far.is_some_and(|then| (then.far, &then.record) == (now.far, &now.record)) {
        verdict.far = SideVerdict::Clean;
    }
    (verdict != Verdict::CLEAN).then_some(verdict)
}

/// What to keep of a mailbox that a run has just synced, from its state
/// before. A side that was clean then leaves nothing to keep.
pub fn stuck_after_run(verdict: &Verdict, before: &Fingerprint) -> Stuck {
    let dirty = |side: &SideVerdict| (*side != SideVerdict::Clean).then(|| before.clone());
    Stuck { near: dirty(&verdict.near), far: dirty(&verdict.far) }
}

/// A run to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// All that it will sync.
    pub targets: BTreeSet<Target>,
    /// Of these, what is not a request on disk yet.
    pub new_requests: BTreeSet<Target>,
    /// The timer is due.
    pub full: bool,
    /// Why, in a few words each.
    pub why: Vec<String>,
}

/// What to run: for dirty mailboxes, for the pending requests (`Some` if one is
/// due), for the timer, for mailboxes that are only on the server.
pub fn plan(
    dirty: Vec<(Target, String)>,
    requested: Option<BTreeSet<Target>>,
    full: bool,
    new_on_server: bool,
) -> Option<RunPlan> {
    if dirty.is_empty() && requested.is_none() && !full && !new_on_server {
        return None;
    }
    let (mut new_requests, mut why): (BTreeSet<Target>, Vec<String>) = dirty.into_iter().unzip();
    if full || new_on_server {
        new_requests = BTreeSet::from([Target::Account]);
    }
    let mut targets = new_requests.clone();
    if let Some(pending) = requested {
        why.push("asked for".into());
        // A touched trigger is no file of its own: it means everything.
        let trigger = pending.is_empty().then_some(Target::Account);
        targets.extend(pending.into_iter().chain(trigger));
    }
    if full {
        why.push("a full run is due".into());
    }
    if new_on_server {
        why.push("new mailboxes on the server".into());
    }
    Some(RunPlan { targets, new_requests, full, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Changes;
    use crate::verdict::server::ServerStatus;

    fn far(uid_next: u32) -> ServerStatus {
        ServerStatus { uid_validity: 1, uid_next, messages: 1, highest_modseq: None }
    }

    fn changed() -> SideVerdict {
        SideVerdict::Changed(Changes { new: 1, ..Changes::default() })
    }

    fn unknown() -> SideVerdict {
        SideVerdict::Unknown("x".into())
    }

    const CLEAN: SideVerdict = SideVerdict::Clean;

    fn runs(near: &SideVerdict, far: &SideVerdict, now: &Fingerprint, stuck: &Stuck) -> bool {
        let verdict = Verdict { near: near.clone(), far: far.clone() };
        why_dirty(PlanInputs { verdict, now, stuck: Some(stuck) }).is_some()
    }

    fn stuck(near: &SideVerdict, far: &SideVerdict, before: &Fingerprint) -> Stuck {
        stuck_after_run(&Verdict { near: near.clone(), far: far.clone() }, before)
    }

    #[test]
    fn dirty_runs_and_clean_does_not() {
        let now = Fingerprint::default();
        let none = Stuck::default();
        assert!(runs(&changed(), &CLEAN, &now, &none));
        assert!(runs(&CLEAN, &changed(), &now, &none));
        assert!(!runs(&CLEAN, &CLEAN, &now, &none));
        assert!(runs(&unknown(), &CLEAN, &now, &none));
        let verdict = Verdict { near: CLEAN, far: changed() };
        let inputs = PlanInputs { verdict: verdict.clone(), now: &now, stuck: None };
        assert_eq!(why_dirty(inputs), Some(verdict));
    }

    #[test]
    fn g5_what_a_run_left_as_it_was_is_not_run_again() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        for dirty in [changed(), unknown()] {
            let both = stuck(&dirty, &dirty, &then);
            assert!(!runs(&dirty, &CLEAN, &then, &both));
            assert!(!runs(&CLEAN, &dirty, &then, &both));
            assert!(!runs(&dirty, &dirty, &then, &both));
            let now = Fingerprint { far: Some(far(2)), ..then.clone() };
            assert!(runs(&CLEAN, &dirty, &now, &both));
            // A change of the other side is no reason.
            assert!(!runs(&dirty, &CLEAN, &now, &both));
            // A lost connection is no change.
            assert!(!runs(&dirty, &CLEAN, &Fingerprint::default(), &both));
            // mbsync was killed meanwhile.
            let now = Fingerprint { unfinished: true, ..then.clone() };
            assert!(runs(&dirty, &CLEAN, &now, &both));
        }
    }

    #[test]
    fn a_side_that_was_clean_before_the_run_may_call_for_another() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        let near_only = stuck(&changed(), &CLEAN, &then);
        assert!(runs(&CLEAN, &changed(), &then, &near_only));
        assert!(runs(&CLEAN, &unknown(), &then, &near_only));
    }

    fn inbox() -> Target {
        Target::Mailbox { channel: "Home".into(), name: "INBOX".into() }
    }

    #[test]
    fn a_run_names_just_what_calls_for_it() {
        assert_eq!(plan(vec![], None, false, false), None);
        let dirty = vec![(inbox(), "INBOX to push: 1 new".to_owned())];
        let some = plan(dirty.clone(), None, false, false).unwrap();
        assert_eq!(
            (&some.targets, &some.new_requests),
            (&BTreeSet::from([inbox()]), &BTreeSet::from([inbox()]))
        );
        assert_eq!(some.why, ["INBOX to push: 1 new"]);
        for (full, new) in [(true, false), (false, true)] {
            let all = plan(dirty.clone(), None, full, new).unwrap();
            assert_eq!(all.new_requests, BTreeSet::from([Target::Account]));
        }
    }

    #[test]
    fn a_request_is_not_made_again_and_a_trigger_means_all() {
        let asked = plan(vec![], Some(BTreeSet::from([inbox()])), false, false).unwrap();
        assert!(asked.new_requests.is_empty() && asked.targets.contains(&inbox()));
        let touched = plan(vec![], Some(BTreeSet::new()), false, false).unwrap();
        assert!(touched.new_requests.is_empty() && touched.targets.contains(&Target::Account));
    }
}
