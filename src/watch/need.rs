//! Whether a mailbox needs a run, from what is known of it. Pure.
//!
//! A dirty mailbox is synced once for each way it can look: if it is as dirty
//! after a run as before (one-way Sync, a refused message, `MaxMessages`),
//! another run would do the same again. So it is, and for the same reason, with
//! a mailbox of which no verdict can be given.

use crate::verdict::{Finding, Fingerprint};

/// What is known of a mailbox when the question is asked.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// The near side.
    pub near: &'a Finding,
    /// The far side; `None` while no server tells.
    pub far: Option<&'a Finding>,
    /// How it looks now.
    pub now: &'a Fingerprint,
    /// How it looked before the last run that left it dirty, or of which it
    /// cannot be told.
    pub stuck: Option<&'a Fingerprint>,
}

/// Why a run is needed, in a few words; `None` if it is not.
#[must_use]
pub fn reason(known: &Known<'_>) -> Option<String> {
    let mut why = Vec::new();
    let near = side(known.near, known.stuck, |then| {
        then.unfinished != known.now.unfinished
            || moved(then.record.as_ref(), known.now.record.as_ref())
            || moved(then.near.as_ref(), known.now.near.as_ref())
    });
    why.extend(near.map(|near| format!("to push: {near}")));
    if let Some(far) = known.far {
        let far = side(far, known.stuck, |then| {
            // A far side that was not seen then counts as moved only if it is
            // seen to differ now.
            match (&then.far, &known.now.far) {
                (None, Some(_)) => matches!(far, Finding::Changed(_)),
                (then, now) => moved(then.as_ref(), now.as_ref()),
            }
        });
        why.extend(far.map(|far| format!("to pull: {far}")));
    }
    (!why.is_empty()).then(|| why.join("; "))
}

fn side(
    finding: &Finding,
    stuck: Option<&Fingerprint>,
    moved: impl Fn(&Fingerprint) -> bool,
) -> Option<String> {
    let text = match finding {
        Finding::Clean => return None,
        Finding::Changed(changes) => changes.to_string(),
        Finding::Unknown(why) => why.clone(),
    };
    stuck.is_none_or(moved).then_some(text)
}

fn moved<T: PartialEq>(then: Option<&T>, now: Option<&T>) -> bool {
    then.zip(now).is_some_and(|(then, now)| then != now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Changes;
    use crate::verdict::remote::Status;

    fn far(uid_next: u32) -> Status {
        Status { uid_validity: 1, uid_next, messages: 1, highest_modseq: None }
    }

    fn changed() -> Finding {
        Finding::Changed(Changes { new: 1, ..Changes::default() })
    }

    fn asks(
        near: &Finding,
        far: Option<&Finding>,
        now: &Fingerprint,
        stuck: Option<&Fingerprint>,
    ) -> bool {
        reason(&Known { near, far, now, stuck }).is_some()
    }

    #[test]
    fn dirty_runs_and_clean_does_not() {
        let now = Fingerprint::default();
        assert!(asks(&changed(), None, &now, None));
        assert!(asks(&Finding::Clean, Some(&changed()), &now, None));
        assert!(!asks(&Finding::Clean, Some(&Finding::Clean), &now, None));
        assert!(!asks(&Finding::Clean, None, &now, None));
        assert!(asks(&Finding::Unknown("x".into()), None, &now, None));
    }

    #[test]
    fn what_a_run_left_as_it_was_is_not_run_again() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        assert!(!asks(&changed(), None, &then, Some(&then)));
        assert!(!asks(&Finding::Clean, Some(&changed()), &then, Some(&then)));
        let now = Fingerprint { far: Some(far(2)), ..then.clone() };
        assert!(asks(&Finding::Clean, Some(&changed()), &now, Some(&then)));
        // The other side's movement is no reason.
        assert!(!asks(&changed(), Some(&Finding::Clean), &now, Some(&then)));
        // Not seen before: only a difference counts, not mere ignorance.
        let unseen = Fingerprint::default();
        assert!(asks(&Finding::Clean, Some(&changed()), &now, Some(&unseen)));
        assert!(!asks(&Finding::Clean, Some(&Finding::Unknown("x".into())), &now, Some(&unseen)));
        // The server out of reach is no movement.
        assert!(!asks(&changed(), None, &unseen, Some(&then)));
    }
}
