//! One look at each side of a mailbox: the verdict, put to work on what was
//! remembered of the last clean look.
//!
//! Knows the disk and the connection only to ask them; knows nothing of runs
//! or of what a finding leads to.

use super::boxes::Watched;
use super::far::Far;
use crate::imap::{self, LinkError, Opening};
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::local::Stamp;
use crate::verdict::remote::{self, Fetched, Needed, Settled, Suspicion};
use crate::verdict::syncstate::{self, Record, State};
use crate::verdict::{Digest, Finding, Rules, Seen, local};

/// A finding, and whether what is remembered has changed with it.
#[derive(Debug)]
pub struct Looked {
    /// The finding.
    pub finding: Finding,
    /// `seen` is another than before.
    pub learned: bool,
}

/// Looks at the near side. `by_run`: what runs have removed. `left_by_run`: the
/// digest before a run that went well and took this mailbox on; with `AltMap`,
/// where no record can be compared with, the same digest after it means clean.
pub fn near(
    watched: &mut Watched,
    seen: &mut Seen,
    by_run: Option<&Gone>,
    left_by_run: Option<Digest>,
) -> Looked {
    let (Some(maildir), Some(state_file)) = (&watched.mailbox.maildir, &watched.mailbox.state_file)
    else {
        // Not here: the server's side alone is asked.
        return Looked { finding: Finding::Clean, learned: false };
    };
    let (rules, why_not) = match &watched.rules {
        Ok(rules) => (rules.clone(), None),
        // The digest alone, as a fingerprint.
        Err(why) => (Rules::none(), Some(why.clone())),
    };
    let remembered = seen.near.as_ref().filter(|_| why_not.is_none());
    let kept = KeptGone { looked: seen.gone.as_ref(), by_run };
    let look = local::look(maildir, state_file, &rules, remembered, seen.forwarded, kept);
    watched.digest = look.digest;
    watched.record = look.record;
    watched.unfinished = syncstate::unfinished(state_file);
    watched.unconfirmed = kept.of_record(look.record.as_ref()).is_unconfirmed();
    if let Some(why) = why_not {
        return Looked { finding: Finding::Unknown(why), learned: false };
    }
    let settled_by_run = rules.alt_map
        && !watched.unfinished
        && left_by_run.is_some()
        && left_by_run == look.digest
        && matches!(look.state, Some(State::Known(_)));
    let remembered = look.remembered(&rules, seen.forwarded);
    let finding = if settled_by_run { Finding::Clean } else { look.finding };
    let learned = finding == Finding::Clean && seen.near.as_ref() != Some(&remembered);
    if learned {
        seen.near = Some(remembered);
    }
    Looked { finding, learned }
}

/// Looks at the far side. `Ok(None)`: something happened during the look, so
/// that it has to be looked into once more. `by_run`: what runs have removed.
///
/// # Errors
/// The connection was lost.
pub fn far(
    watched: &Watched,
    at: usize,
    seen: &mut Seen,
    by_run: Option<&Gone>,
    far: &mut Far,
) -> Result<(Option<Finding>, bool), LinkError> {
    let unknown = |why: &str| Ok((Some(Finding::Unknown(why.to_owned())), false));
    let rules = match &watched.rules {
        Ok(rules) => rules.clone(),
        Err(why) => return unknown(why),
    };
    let Some(status) = far.status(at) else { return unknown("not on the server") };
    let Some(state_file) = watched.mailbox.state_file.as_deref() else {
        return unknown("no record");
    };
    let stamp = Stamp::of(state_file).ok();
    let record: Record = match syncstate::read(state_file) {
        State::Known(record) => record,
        State::NeverSynced => return Ok((Some(remote::never_synced(&status)), false)),
        State::Unfinished => return unknown("mbsync was interrupted"),
        State::Unreadable { why } => return unknown(&why),
    };
    // One that was replaced while it was read is of no stamp.
    let stamp = stamp.filter(|stamp| Stamp::of(state_file).is_ok_and(|now| now == *stamp));
    let kept = KeptGone { looked: seen.gone.as_ref(), by_run };
    let known = kept.of_record(stamp.as_ref());
    let then = seen.far.as_ref();
    let needed = match remote::suspect(&status, then, Some(&record), &rules, known) {
        Suspicion::Clean => return Ok((Some(Finding::Clean), false)),
        Suspicion::Unknown(why) => return unknown(&why),
        Suspicion::Look(needed) => needed,
    };
    let since = match needed {
        Needed::Whole => None,
        Needed::ChangedSince(since) => Some(since),
    };
    // SELECT, once, to learn whether $Forwarded is kept; EXAMINE does not tell.
    let opening = if seen.forwarded.is_none() { Opening::Select } else { Opening::Examine };
    let look = match far.look(at, opening, since) {
        Ok(Some(look)) => look,
        Ok(None) => return unknown("its name cannot be said to the server"),
        Err(LinkError::Refused(answer)) => return unknown(&answer.text),
        Err(lost) => return Err(lost),
    };
    // What it shows is relied on together with what is remembered of it here.
    let maildir = watched.mailbox.maildir.as_deref().filter(|_| stamp.is_some());
    let near = || local::numbered(maildir?, &record, &rules);
    let Settled { finding, gone } =
        remote::settle(&record, &rules, &look.uids, &fetched(&look), known, near);
    let gone = Some(Gone { record: stamp, ..gone }).filter(|gone| !gone.is_empty());
    let mut learned = seen.gone != gone;
    seen.gone = gone;
    if look.forwarded.is_some() && seen.forwarded != look.forwarded {
        learned = true;
        seen.forwarded = look.forwarded;
        // A yes was supposed before; and with AltMap it makes no difference.
        if let Some(near) = seen.near.as_mut() {
            if near.forwarded.is_none() && (look.forwarded == Some(true) || rules.alt_map) {
                near.forwarded = look.forwarded;
            }
        }
    }
    if finding == Finding::Clean {
        seen.far = Some(remote::Remembered::new(status, &record, &rules));
        learned = true;
        // What happened during the look is a suspicion of its own.
        if far.status(at) != Some(status) {
            return Ok((None, learned));
        }
    }
    Ok((Some(finding), learned))
}

fn fetched(look: &imap::Look) -> Fetched {
    let flags = look.flags.clone();
    if look.all_flags { Fetched::Whole(flags) } else { Fetched::ChangedSince(flags) }
}
