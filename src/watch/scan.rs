//! One look at each side of a mailbox: the verdict, put to work on what was
//! remembered of the last clean look.
//!
//! Knows the disk and the connection only to ask them; knows nothing of runs
//! or of what a finding leads to.

use super::mailbox::MailboxState;
use super::server::ServerWatch;
use crate::imap::{self, ClientError, Opening};
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::maildir::Stamp;
use crate::verdict::record::{self, Record, RecordState};
use crate::verdict::server::{self, FetchScope, Fetched, Settled, StatusVerdict};
use crate::verdict::{CleanState, Digest, Rules, SideVerdict, maildir};

/// A finding, and whether what is remembered has changed with it.
#[derive(Debug)]
pub struct Scan {
    /// The finding.
    pub finding: SideVerdict,
    /// `seen` is another than before.
    pub learned: bool,
}

/// Looks at the near side. `by_run`: what runs have removed. `left_by_run`: the
/// digest before a run that went well and took this mailbox on; with `AltMap`,
/// where no record can be compared with, the same digest after it means clean.
pub fn near(
    watched: &mut MailboxState,
    seen: &mut CleanState,
    by_run: Option<&Gone>,
    left_by_run: Option<Digest>,
) -> Scan {
    let (Some(maildir), Some(state_file)) = (&watched.mailbox.maildir, &watched.mailbox.state_file)
    else {
        // Not here: the server's side alone is asked.
        return Scan { finding: SideVerdict::Clean, learned: false };
    };
    let (rules, why_not) = match &watched.rules {
        Ok(rules) => (rules.clone(), None),
        // The digest alone, as a fingerprint.
        Err(why) => (Rules::none(), Some(why.clone())),
    };
    let remembered = seen.near.as_ref().filter(|_| why_not.is_none());
    let kept = KeptGone { looked: seen.gone.as_ref(), by_run };
    let look = maildir::scan(maildir, state_file, &rules, remembered, seen.forwarded, kept);
    watched.digest = look.digest;
    watched.record = look.record;
    watched.unfinished = record::unfinished(state_file);
    watched.unconfirmed = kept.of_record(look.record.as_ref()).is_unconfirmed();
    if let Some(why) = why_not {
        return Scan { finding: SideVerdict::Unknown(why), learned: false };
    }
    let settled_by_run = rules.alt_map
        && !watched.unfinished
        && left_by_run.is_some()
        && left_by_run == look.digest
        && matches!(look.state, Some(RecordState::Known(_)));
    let remembered = look.remembered(&rules, seen.forwarded);
    let finding = if settled_by_run { SideVerdict::Clean } else { look.finding };
    let learned = finding == SideVerdict::Clean && seen.near.as_ref() != Some(&remembered);
    if learned {
        seen.near = Some(remembered);
    }
    Scan { finding, learned }
}

/// Looks at the far side. `Ok(None)`: something happened during the look, so
/// that it has to be looked into once more. `by_run`: what runs have removed.
///
/// # Errors
/// The connection was lost.
pub fn far(
    watched: &MailboxState,
    at: usize,
    seen: &mut CleanState,
    by_run: Option<&Gone>,
    far: &mut ServerWatch,
) -> Result<(Option<SideVerdict>, bool), ClientError> {
    let unknown = |why: &str| Ok((Some(SideVerdict::Unknown(why.to_owned())), false));
    let rules = match &watched.rules {
        Ok(rules) => rules.clone(),
        Err(why) => return unknown(why),
    };
    let Some(status) = far.status(at) else { return unknown("not on the server") };
    let Some(state_file) = watched.mailbox.state_file.as_deref() else {
        return unknown("no record");
    };
    let stamp = Stamp::of(state_file).ok();
    let record: Record = match record::read(state_file) {
        RecordState::Known(record) => record,
        RecordState::NeverSynced => return Ok((Some(server::never_synced(&status)), false)),
        RecordState::Unfinished => return unknown("mbsync was interrupted"),
        RecordState::Unreadable { why } => return unknown(&why),
    };
    // One that was replaced while it was read is of no stamp.
    let stamp = stamp.filter(|stamp| Stamp::of(state_file).is_ok_and(|now| now == *stamp));
    let kept = KeptGone { looked: seen.gone.as_ref(), by_run };
    let known = kept.of_record(stamp.as_ref());
    let then = seen.far.as_ref();
    let needed = match server::compare_status(&status, then, Some(&record), &rules, known) {
        StatusVerdict::Clean => return Ok((Some(SideVerdict::Clean), false)),
        StatusVerdict::Unknown(why) => return unknown(&why),
        StatusVerdict::Look(needed) => needed,
    };
    let since = match needed {
        FetchScope::Whole => None,
        FetchScope::ChangedSince(since) => Some(since),
    };
    // SELECT, once, to learn whether $Forwarded is kept; EXAMINE does not tell.
    let opening = if seen.forwarded.is_none() { Opening::Select } else { Opening::Examine };
    let look = match far.look(at, opening, since) {
        Ok(Some(look)) => look,
        Ok(None) => return unknown("its name cannot be said to the server"),
        Err(ClientError::Refused(answer)) => return unknown(&answer.text),
        Err(lost) => return Err(lost),
    };
    // What it shows is relied on together with what is remembered of it here.
    let maildir = watched.mailbox.maildir.as_deref().filter(|_| stamp.is_some());
    let near = || maildir::numbered(maildir?, &record, &rules);
    let Settled { finding, gone } =
        server::judge_server(&record, &rules, &look.uids, &fetched(&look), known, near);
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
    if finding == SideVerdict::Clean {
        seen.far = Some(server::CleanServer::new(status, &record, &rules));
        learned = true;
        // What happened during the look is a suspicion of its own.
        if far.status(at) != Some(status) {
            return Ok((None, learned));
        }
    }
    Ok((Some(finding), learned))
}

fn fetched(look: &imap::MailboxScan) -> Fetched {
    let flags = look.flags.clone();
    if look.all_flags { Fetched::Whole(flags) } else { Fetched::ChangedSince(flags) }
}
