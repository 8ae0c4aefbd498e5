//! Scans of the far sides of mailboxes: STATUS, what is remembered of the last
//! clean scan, and the record decide how much is fetched; the verdict judges it.
//!
//! Reads records. Does not depend on: runs, the connection (see [`FarSide`]).

use crate::imap::values::Answer;
use crate::imap::{ClientError, MailboxScan, Opening};
use crate::lend::flags::ScanByRun;
use crate::model::Mailbox;
use crate::model::uid_set::{UidSet, UidsBelow};
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::maildir::{self, Stamp};
use crate::verdict::record::{self, Record, RecordState};
use crate::verdict::server::{self, FetchScope, Fetched, ServerStatus, Settled, StatusVerdict};
use crate::verdict::{CleanState, Rules, SideVerdict};
use std::path::Path;

/// Most messages whose flags are all fetched in one go where the server has no
/// modification sequences: about a megabyte.
pub const MOST_MESSAGES: u32 = 20_000;

/// The server's mailboxes, by index.
pub trait FarSide {
    /// What was last reported; `None` for a mailbox that is not on the server.
    fn status(&self, mailbox: usize) -> Option<ServerStatus>;
    /// Scans these mailboxes, in this order. `None` for a name that cannot be sent.
    fn scan_all(&mut self, scans: &[(usize, ScanScope)]) -> Result<Vec<Scanned>, ClientError>;
}

/// What the server answered to a scan; `None` for a name that cannot be sent.
pub type Scanned = Option<Result<MailboxScan, Answer>>;

/// How much of a mailbox is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanScope {
    /// How it is opened.
    pub opening: Opening,
    /// Only flags that changed since this modification sequence.
    pub since: Option<u64>,
    /// What was there then, as far as it is known.
    pub known: Option<UidsBelow>,
    /// So many messages are there.
    pub messages: u32,
}

/// What is known of a far side before anything is fetched.
#[derive(Debug)]
pub enum FarStep {
    /// Enough.
    Known(SideVerdict),
    /// A scan decides.
    Scan(Box<PendingScan>),
}

/// A scan that is to be made.
#[derive(Debug)]
pub struct PendingScan {
    /// What it fetches.
    pub scope: ScanScope,
    /// So many messages' flags will be fetched at most.
    pub messages: u32,
    /// STATUS before it.
    status: ServerStatus,
    record: Record,
    stamp: Option<Stamp>,
}

/// What a scan has shown.
#[derive(Debug, PartialEq, Eq)]
pub struct FarScan {
    /// `None`: something happened during the scan, which must be repeated.
    pub verdict: Option<SideVerdict>,
    /// The memory has changed.
    pub learned: bool,
    /// STATUS of the moment that it shows.
    pub status: Option<ServerStatus>,
}

impl FarScan {
    const NOTHING: FarScan = FarScan { verdict: None, learned: false, status: None };
}

/// What STATUS and memory show of a mailbox's far side. `by_run`: what runs have
/// removed. `asked`: where STATUS does not show flags, and there are too many
/// messages to fetch them all, the answer is unknown and not the last one.
#[must_use]
pub fn begin(
    mailbox: &Mailbox,
    rules: &Result<Rules, String>,
    status: Option<ServerStatus>,
    clean: &CleanState,
    by_run: Option<&Gone>,
    asked: bool,
) -> FarStep {
    let known = FarStep::Known;
    let unknown = |why: &str| FarStep::Known(SideVerdict::Unknown(why.to_owned()));
    let rules = match rules {
        Ok(rules) => rules,
        Err(why) => return unknown(why),
    };
    let Some(status) = status else { return unknown("not on the server") };
    let Some(state_file) = mailbox.state_file.as_deref() else { return unknown("no record") };
    let stamp = Stamp::of(state_file).ok();
    let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
    // The usual case, in which the record need not be read.
    let gone = kept.of_record(stamp.as_ref());
    let then = clean.far.as_ref().filter(|then| then.is_of_record(stamp.as_ref()));
    if server::compare_status(&status, then, None, rules, gone) == StatusVerdict::Clean {
        return known(SideVerdict::Clean);
    }
    let (record, stamp) = match read_stamped(state_file) {
        (RecordState::Known(record), stamp) => (record, stamp),
        (RecordState::NeverSynced, _) => return known(server::never_synced(&status)),
        (RecordState::Unfinished, _) => return unknown("mbsync was interrupted"),
        (RecordState::Unreadable { why }, _) => return unknown(&why),
    };
    let gone = kept.of_record(stamp.as_ref());
    let then = then.filter(|then| then.is_of_record(stamp.as_ref()));
    let since = match server::compare_status(&status, then, Some(&record), rules, gone) {
        StatusVerdict::Clean => return known(SideVerdict::Clean),
        StatusVerdict::Unknown(why) => return unknown(&why),
        StatusVerdict::Scan(FetchScope::Whole) => None,
        StatusVerdict::Scan(FetchScope::ChangedSince(since)) => Some(since),
    };
    if status.highest_modseq.is_none() && status.messages > MOST_MESSAGES {
        if asked {
            return unknown("too many messages to compare without CONDSTORE");
        }
        if then.is_some_and(|then| then.status == status) && !gone.is_unconfirmed() {
            return known(SideVerdict::Clean);
        }
    }
    // SELECT, once, to learn whether $Forwarded is kept; EXAMINE does not say.
    let opening = if clean.forwarded.is_none() { Opening::Select } else { Opening::Examine };
    let messages = if since.is_some() { 0 } else { status.messages };
    let known = then.filter(|_| since.is_some()).and_then(|then| then.uids(&record));
    let scope = ScanScope { opening, since, known, messages: status.messages };
    FarStep::Scan(Box::new(PendingScan { scope, messages, status, record, stamp }))
}

/// The record, and its stamp: none if it was replaced while it was read.
fn read_stamped(state_file: &Path) -> (RecordState, Option<Stamp>) {
    let stamp = Stamp::of(state_file).ok();
    let record = record::read(state_file);
    let same = |stamp: &Stamp| Stamp::of(state_file).is_ok_and(|now| now == *stamp);
    (record, stamp.filter(same))
}

/// Judges what a run was told of a mailbox, by the record that it has left. `now`: STATUS
/// after the run. If it is not the one from before, all that follows is that the mailbox
/// was clean then, or nothing.
#[must_use]
pub fn judge_run(
    mailbox: &Mailbox,
    rules: &Rules,
    ran: ScanByRun,
    now: Option<ServerStatus>,
    clean: &mut CleanState,
    by_run: Option<&Gone>,
) -> FarScan {
    let nothing = FarScan::NOTHING;
    let ScanByRun { status, scan, .. } = ran;
    let state = mailbox.state_file.as_deref().map(read_stamped);
    let Some((RecordState::Known(record), stamp @ Some(_))) = state else { return nothing };
    if record.far_validity != status.uid_validity {
        return nothing;
    }
    let messages = status.messages;
    let scope = ScanScope { opening: Opening::Select, since: None, known: None, messages };
    let pending = PendingScan { scope, messages: 0, status, record, stamp };
    let mut after = clean.clone();
    let found = pending.finish(mailbox, rules, Some(Ok(scan)), Some(status), &mut after, by_run);
    let is_current = now == Some(status);
    if !is_current && found.verdict != Some(SideVerdict::Clean) {
        return nothing;
    }
    *clean = after;
    FarScan { verdict: found.verdict.filter(|_| is_current), ..found }
}

impl PendingScan {
    /// What the scan has shown. `now`: STATUS after it.
    #[must_use]
    pub fn finish(
        self,
        mailbox: &Mailbox,
        rules: &Rules,
        scanned: Scanned,
        now: Option<ServerStatus>,
        clean: &mut CleanState,
        by_run: Option<&Gone>,
    ) -> FarScan {
        let unknown =
            |why| FarScan { verdict: Some(SideVerdict::Unknown(why)), ..FarScan::NOTHING };
        let PendingScan { status, record, stamp, .. } = self;
        let scan = match scanned {
            Some(Ok(scan)) => scan,
            None => return unknown("IMAP cannot express its name".to_owned()),
            Some(Err(answer)) => return unknown(answer.text),
        };
        if scan.uid_validity.is_some_and(|validity| validity != status.uid_validity) {
            return FarScan::NOTHING;
        }
        let shown = status_of_scan(status, &scan.uids, now);
        let fetched = if scan.all_flags {
            Fetched::Whole(scan.flags)
        } else {
            Fetched::ChangedSince(scan.flags)
        };
        let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
        let gone = kept.of_record(stamp.as_ref());
        // What it shows is used together with what is remembered of it here.
        let maildir = mailbox.maildir.as_deref().filter(|_| stamp.is_some());
        let near = || maildir::numbered(maildir?, &record, rules);
        let Settled { verdict, gone, left } =
            server::judge_server(&record, rules, &scan.uids, &fetched, gone, near);
        let gone = Some(Gone { record: stamp, ..gone }).filter(|gone| !gone.is_empty());
        let mut learned = clean.gone != gone;
        clean.gone = gone;
        if scan.forwarded.is_some() && clean.forwarded != scan.forwarded {
            learned = true;
            clean.forwarded = scan.forwarded;
            // Yes was assumed before; and with AltMap it makes no difference.
            let is_alt_map =
                || mailbox.maildir.as_ref().is_some_and(|it| maildir::is_alt_map(it, rules));
            if let Some(near) = clean.near.as_mut() {
                if near.forwarded.is_none() && (scan.forwarded == Some(true) || is_alt_map()) {
                    near.forwarded = scan.forwarded;
                }
            }
        }
        let left = left.with(clean.far.as_ref().map_or(&UidSet::EMPTY, |then| &then.left));
        if verdict == SideVerdict::Clean {
            let far = server::CleanServer::new(status, &record, rules, stamp);
            let beside = server::UidDifference::of(&scan.uids, &record);
            clean.far = Some(server::CleanServer { left, beside, ..far });
            learned = true;
            // What happened during the scan needs a scan of its own.
            if now != Some(status) {
                return FarScan { learned, ..FarScan::NOTHING };
            }
        }
        FarScan { verdict: Some(verdict), learned, status: shown }
    }
}

/// STATUS of the moment at which a scan found these messages: it may have seen what came
/// between the STATUS before it and the one after it, or not.
fn status_of_scan(
    before: ServerStatus,
    uids: &UidSet,
    after: Option<ServerStatus>,
) -> Option<ServerStatus> {
    let after = after?;
    if after == before {
        return Some(after);
    }
    let next = uids.ranges().last().map_or(0, |(_, last)| last.saturating_add(1));
    let messages = u32::try_from(uids.len()).unwrap_or(u32::MAX);
    Some(ServerStatus { messages, uid_next: next.max(before.uid_next), ..after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::MailboxStatus;
    use crate::model::flags::Flags;
    use crate::model::uid_set::UidSet;
    use crate::verdict::Changes;

    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 1, uid_next: 3, messages: 2, highest_modseq: Some(7) };

    fn mailbox(dir: &std::path::Path, entries: &str) -> Mailbox {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 2\nMaxPushedUid 2\n\n";
        let file = dir.join(".mbsyncstate");
        std::fs::write(&file, format!("{head}{entries}")).unwrap();
        Mailbox { state_file: Some(file), ..Mailbox::of_home("INBOX") }
    }

    fn found(uids: &str, since: Option<u64>) -> MailboxScan {
        MailboxScan {
            uid_validity: Some(1),
            forwarded: Some(true),
            uids: UidSet::parse(uids).unwrap(),
            flags: vec![(1, Flags::SEEN), (2, Flags::SEEN)],
            all_flags: since.is_none(),
            after: MailboxStatus::default(),
        }
    }

    /// What is known at once, or what a scan would fetch.
    fn step(
        mailbox: &Mailbox,
        status: Option<ServerStatus>,
        clean: &CleanState,
    ) -> Result<SideVerdict, ScanScope> {
        match begin(mailbox, &Ok(Rules::none()), status, clean, None, true) {
            FarStep::Known(verdict) => Ok(verdict),
            FarStep::Scan(scan) => Err(scan.scope),
        }
    }

    /// A scan that finds `uids`; `now` is STATUS after it.
    fn scan(mailbox: &Mailbox, uids: &str, now: ServerStatus, clean: &mut CleanState) -> FarScan {
        let rules = Ok(Rules::none());
        let FarStep::Scan(scan) = begin(mailbox, &rules, Some(STATUS), clean, None, true) else {
            panic!("no scan is needed");
        };
        let scanned = Some(Ok(found(uids, scan.scope.since)));
        scan.finish(mailbox, &Rules::none(), scanned, Some(now), clean, None)
    }

    fn changed(new: u32, deleted: u32) -> SideVerdict {
        SideVerdict::Changed(Changes { new, deleted, ..Changes::default() })
    }

    #[test]
    fn a_clean_scan_is_remembered_and_saves_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        let mut clean = CleanState::default();
        let whole = ScanScope { opening: Opening::Select, since: None, known: None, messages: 2 };
        assert_eq!(step(&mailbox, Some(STATUS), &clean), Err(whole));
        let clean_scan = scan(&mailbox, "1:2", STATUS, &mut clean);
        let (verdict, status) = (Some(SideVerdict::Clean), Some(STATUS));
        assert_eq!(clean_scan, FarScan { verdict, learned: true, status });
        assert_eq!(clean.forwarded, Some(true));
        assert_eq!(step(&mailbox, Some(STATUS), &clean), Ok(SideVerdict::Clean));
        // A change: only what is newer is fetched, and EXAMINE is enough.
        let now = ServerStatus { highest_modseq: Some(9), ..STATUS };
        let part =
            ScanScope { opening: Opening::Examine, since: Some(7), known: None, messages: 2 };
        assert_eq!(step(&mailbox, Some(now), &clean), Err(part.clone()));
        // Judged by another record: all is fetched.
        std::fs::write(
            dir.path().join("new"),
            std::fs::read(dir.path().join(".mbsyncstate")).unwrap(),
        )
        .unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join(".mbsyncstate")).unwrap();
        let whole = ScanScope { opening: Opening::Examine, since: None, known: None, messages: 2 };
        assert_eq!(step(&mailbox, Some(STATUS), &clean), Err(whole.clone()));
        assert_eq!(step(&mailbox, Some(now), &clean), Err(whole));
        // Unless it was our own run that replaced it.
        let stamp = Stamp::of(&dir.path().join(".mbsyncstate")).ok();
        let far = clean.far.as_mut().unwrap();
        let judged_by = far.record;
        assert!(far.beside.is_some());
        assert!(!far.follow_run(stamp.as_ref(), None) && far.follow_run(judged_by.as_ref(), stamp));
        assert!(far.beside.is_none(), "the new record may lack what is there");
        assert_eq!(step(&mailbox, Some(STATUS), &clean), Ok(SideVerdict::Clean));
        assert_eq!(step(&mailbox, Some(now), &clean), Err(part));
    }

    #[test]
    fn what_a_scan_finds_is_judged_by_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        let mut clean = CleanState::default();
        assert_eq!(scan(&mailbox, "2:3", STATUS, &mut clean).verdict, Some(changed(1, 1)));
        assert!(clean.far.is_none());
    }

    #[test]
    fn what_is_gone_on_both_sides_is_seen_with_alt_map_over_numbered_files() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox =
            Mailbox { maildir: Some(dir.path().into()), ..mailbox(dir.path(), "1 1 S\n2 2 S\n") };
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("cur")).unwrap();
        std::fs::write(at("cur/b,U=2:2,S"), "").unwrap();
        let rules = Rules { alt_map: true, ..Rules::none() };
        let near = |clean: &CleanState| {
            let near = maildir::scan_mailbox(&mailbox, &rules, clean, None, None).unwrap();
            near.0.remembered(&rules, None)
        };
        let scan = |scan: MailboxScan, clean: &mut CleanState| {
            let FarStep::Scan(pending) =
                begin(&mailbox, &Ok(rules.clone()), Some(STATUS), clean, None, true)
            else {
                panic!("no scan is needed");
            };
            let verdict =
                pending.finish(&mailbox, &rules, Some(Ok(scan)), Some(STATUS), clean, None);
            (verdict.verdict, clean.near.as_ref().and_then(|near| near.forwarded))
        };
        let refused = || MailboxScan { forwarded: Some(false), ..found("2", None) };
        for (numbering, verdict, forwarded) in
            [(true, SideVerdict::Clean, None), (false, changed(0, 1), Some(false))]
        {
            if numbering {
                std::fs::write(at(".uidvalidity"), "2\n2\n").unwrap();
            } else {
                std::fs::remove_file(at(".uidvalidity")).unwrap();
            }
            let mut clean = CleanState::default();
            clean.near = Some(near(&clean));
            assert_eq!(scan(refused(), &mut clean), (Some(verdict), forwarded));
        }
    }

    /// The verdict on what a run was told, and the STATUS that is remembered then.
    fn ran(
        mailbox: &Mailbox,
        uids: &str,
        now: Option<ServerStatus>,
    ) -> (Option<SideVerdict>, Option<ServerStatus>) {
        let mut clean = CleanState::default();
        let ran = ScanByRun { name: "INBOX".into(), status: STATUS, scan: found(uids, None) };
        let scan = judge_run(mailbox, &Rules::none(), ran, now, &mut clean, None);
        assert_eq!(scan.learned, clean != CleanState::default());
        (scan.verdict, clean.far.map(|far| far.status))
    }

    #[test]
    fn g6_what_a_run_was_told_is_judged_by_the_record_that_it_left() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        assert_eq!(ran(&mailbox, "1:2", Some(STATUS)), (Some(SideVerdict::Clean), Some(STATUS)));
        assert_eq!(ran(&mailbox, "2:3", Some(STATUS)), (Some(changed(1, 1)), None));
        // Something has happened since, or nobody knows: it was clean, or nothing follows.
        let later = ServerStatus { highest_modseq: Some(8), ..STATUS };
        for now in [Some(later), None] {
            assert_eq!(ran(&mailbox, "1:2", now), (None, Some(STATUS)));
            assert_eq!(ran(&mailbox, "2:3", now), (None, None));
        }
        let file = dir.path().join(".mbsyncstate");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("FarUidValidity 1", "FarUidValidity 9")).unwrap();
        assert_eq!(ran(&mailbox, "1:2", Some(STATUS)), (None, None));
        std::fs::write(&file, text.replace("1 1 S", "1 one S")).unwrap();
        assert_eq!(ran(&mailbox, "1:2", Some(STATUS)), (None, None));
    }

    #[test]
    fn g6_a_mailbox_that_changes_during_its_scan_is_scanned_again() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        let mut clean = CleanState::default();
        let now = ServerStatus { uid_next: 4, ..STATUS };
        let found = scan(&mailbox, "1:2", now, &mut clean);
        assert_eq!(found, FarScan { learned: true, ..FarScan::NOTHING });
        // Remembered is the STATUS from before the scan.
        assert_eq!(clean.far.unwrap().status, STATUS);
    }

    #[test]
    fn what_cannot_be_judged_is_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = mailbox(dir.path(), "");
        let clean = CleanState::default();
        let unknown = |why: &str| Ok(SideVerdict::Unknown(why.into()));
        assert_eq!(step(&mailbox, None, &clean), unknown("not on the server"));
        let many = ServerStatus { messages: MOST_MESSAGES + 1, highest_modseq: None, ..STATUS };
        let why = "too many messages to compare without CONDSTORE";
        assert_eq!(step(&mailbox, Some(many), &clean), unknown(why));
        std::fs::remove_file(dir.path().join(".mbsyncstate")).unwrap();
        assert_eq!(step(&mailbox, Some(STATUS), &clean), Ok(changed(2, 0)), "never synced");
        let one_way = Err("one-way".to_owned());
        let step = begin(&mailbox, &one_way, Some(STATUS), &clean, None, true);
        assert!(matches!(step, FarStep::Known(SideVerdict::Unknown(why)) if why == "one-way"));
    }
}
