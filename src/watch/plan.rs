//! Whether a mailbox needs a run, from what is known of it. Pure.
//!
//! A dirty mailbox is synced once for each way it can look: if it is as dirty
//! after a run as before (one-way Sync, a refused message, `MaxMessages`),
//! another run would do the same again. So it is, and for the same reason, with
//! a mailbox of which no verdict can be given.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::Target;
use crate::verdict::{Fingerprint, SideVerdict};

/// How a mailbox looked before the last run that did not make it clean. Each
/// side is kept for itself, and forgotten when that side is found clean.
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
    /// Mailboxes that only the server has, and that a run did not make here.
    pub only_there: BTreeSet<String>,
}

/// What is known of a mailbox when the question is asked.
#[derive(Debug, Clone)]
pub struct PlanInputs<'a> {
    /// The near side.
    pub near: &'a SideVerdict,
    /// The far side; `None` while no server tells.
    pub far: Option<&'a SideVerdict>,
    /// How it looks now.
    pub now: &'a Fingerprint,
    /// How it looked before the last run that left it dirty, or of which it
    /// cannot be told.
    pub stuck: Option<&'a Stuck>,
}

/// Why a run is needed, in a few words; `None` if it is not.
#[must_use]
pub fn reason(known: &PlanInputs<'_>) -> Option<String> {
    let now = known.now;
    let then = known.stuck.and_then(|stuck| stuck.near.as_ref());
    let near = side(known.near, then, |then| {
        (&then.near, &then.record, then.unfinished) != (&now.near, &now.record, now.unfinished)
    });
    let then = known.stuck.and_then(|stuck| stuck.far.as_ref());
    let far = known
        .far
        .and_then(|far| side(far, then, |then| (then.far, &then.record) != (now.far, &now.record)));
    let why: Vec<String> =
        [near.map(|why| format!("to push: {why}")), far.map(|why| format!("to pull: {why}"))]
            .into_iter()
            .flatten()
            .collect();
    (!why.is_empty()).then(|| why.join("; "))
}

fn side(
    finding: &SideVerdict,
    stuck: Option<&Fingerprint>,
    moved: impl Fn(&Fingerprint) -> bool,
) -> Option<String> {
    let text = match finding {
        SideVerdict::Clean => return None,
        SideVerdict::Changed(changes) => changes.to_string(),
        SideVerdict::Unknown(why) => why.clone(),
    };
    stuck.is_none_or(moved).then_some(text)
}

/// What to keep of a mailbox that a run has just taken on, from how it looked
/// before. What was not dirty then has nothing to be kept of it.
#[must_use]
pub fn left_by_run(near: &SideVerdict, far: Option<&SideVerdict>, before: &Fingerprint) -> Stuck {
    let dirty = |finding: &SideVerdict| (*finding != SideVerdict::Clean).then(|| before.clone());
    Stuck { near: dirty(near), far: far.and_then(dirty) }
}

/// A run to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// All that it will take on.
    pub wants: BTreeSet<Target>,
    /// Of these, what is not a request on disk yet.
    pub demanded: BTreeSet<Target>,
    /// The timer wants it.
    pub full: bool,
    /// Why, in a few words each.
    pub why: Vec<String>,
}

/// What to run: for dirty mailboxes, for the requests that stand (`Some` if one
/// is due), for the timer, for mailboxes that are only on the server.
#[must_use]
pub fn task(
    dirty: Vec<(Target, String)>,
    asked: Option<BTreeSet<Target>>,
    full: bool,
    new_on_server: bool,
) -> Option<RunPlan> {
    if dirty.is_empty() && asked.is_none() && !full && !new_on_server {
        return None;
    }
    let (mut demanded, mut why): (BTreeSet<Target>, Vec<String>) = dirty.into_iter().unzip();
    if full || new_on_server {
        demanded = BTreeSet::from([Target::Account]);
    }
    let mut wants = demanded.clone();
    if let Some(standing) = asked {
        why.push("asked for".into());
        // A touched trigger is no file of its own: it means everything.
        let trigger = standing.is_empty().then_some(Target::Account);
        wants.extend(standing.into_iter().chain(trigger));
    }
    if full {
        why.push("a full run is due".into());
    }
    if new_on_server {
        why.push("new mailboxes on the server".into());
    }
    Some(RunPlan { wants, demanded, full, why })
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

    fn asks(
        near: &SideVerdict,
        far: Option<&SideVerdict>,
        now: &Fingerprint,
        stuck: Option<&Stuck>,
    ) -> bool {
        reason(&PlanInputs { near, far, now, stuck }).is_some()
    }

    #[test]
    fn dirty_runs_and_clean_does_not() {
        let now = Fingerprint::default();
        assert!(asks(&changed(), None, &now, None));
        assert!(asks(&SideVerdict::Clean, Some(&changed()), &now, None));
        assert!(!asks(&SideVerdict::Clean, Some(&SideVerdict::Clean), &now, None));
        assert!(!asks(&SideVerdict::Clean, None, &now, None));
        assert!(asks(&unknown(), None, &now, None));
    }

    #[test]
    fn g5_what_a_run_left_as_it_was_is_not_run_again() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        for dirty in [changed(), unknown()] {
            let both = left_by_run(&dirty, Some(&dirty), &then);
            assert!(!asks(&dirty, None, &then, Some(&both)));
            assert!(!asks(&SideVerdict::Clean, Some(&dirty), &then, Some(&both)));
            let now = Fingerprint { far: Some(far(2)), ..then.clone() };
            assert!(asks(&SideVerdict::Clean, Some(&dirty), &now, Some(&both)));
            // The other side's movement is no reason.
            assert!(!asks(&dirty, Some(&SideVerdict::Clean), &now, Some(&both)));
            // The server out of reach is no movement.
            assert!(!asks(&dirty, None, &Fingerprint::default(), Some(&both)));
            // mbsync was killed meanwhile.
            let now = Fingerprint { unfinished: true, ..then.clone() };
            assert!(asks(&dirty, None, &now, Some(&both)));
        }
    }

    #[test]
    fn a_side_that_was_clean_before_the_run_is_free_to_ask_for_another() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        let near_only = left_by_run(&changed(), Some(&SideVerdict::Clean), &then);
        assert!(asks(&SideVerdict::Clean, Some(&changed()), &then, Some(&near_only)));
        let unheard = left_by_run(&changed(), None, &then);
        assert!(asks(&SideVerdict::Clean, Some(&unknown()), &then, Some(&unheard)));
    }

    fn inbox() -> Target {
        Target::Mailbox { channel: "Home".into(), name: "INBOX".into() }
    }

    #[test]
    fn a_run_names_just_what_calls_for_it() {
        assert_eq!(task(vec![], None, false, false), None);
        let dirty = vec![(inbox(), "INBOX to push: 1 new".to_owned())];
        let some = task(dirty.clone(), None, false, false).unwrap();
        assert_eq!(
            (&some.wants, &some.demanded),
            (&BTreeSet::from([inbox()]), &BTreeSet::from([inbox()]))
        );
        assert_eq!(some.why, ["INBOX to push: 1 new"]);
        for (full, new) in [(true, false), (false, true)] {
            let all = task(dirty.clone(), None, full, new).unwrap();
            assert_eq!(all.demanded, BTreeSet::from([Target::Account]));
        }
    }

    #[test]
    fn a_request_is_not_made_again_and_a_trigger_means_all() {
        let asked = task(vec![], Some(BTreeSet::from([inbox()])), false, false).unwrap();
        assert!(asked.demanded.is_empty() && asked.wants.contains(&inbox()));
        let touched = task(vec![], Some(BTreeSet::new()), false, false).unwrap();
        assert!(touched.demanded.is_empty() && touched.wants.contains(&Target::Account));
    }
}
