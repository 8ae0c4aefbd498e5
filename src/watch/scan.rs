//! One scan of a mailbox's far side: STATUS, what is remembered of the last
//! clean scan, and the record decide how much is fetched; the verdict judges it.
//!
//! Does not depend on: runs, the connection itself (see [`FarSide`]).

use super::mailbox::MailboxState;
use crate::imap::{ClientError, MailboxScan, Opening};
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::maildir::{self, Stamp};
use crate::verdict::record::{self, RecordState};
use crate::verdict::server::{self, FetchScope, Fetched, ServerStatus, Settled, StatusVerdict};
use crate::verdict::{CleanState, SideVerdict};

/// The server's mailboxes, by index.
pub trait FarSide {
    /// What was last reported; `None` for a mailbox that is not on the server.
    fn status(&self, mailbox: usize) -> Option<ServerStatus>;
    /// UIDs and flags; `None` for a name that cannot be sent.
    fn scan(
        &mut self,
        mailbox: usize,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<Option<MailboxScan>, ClientError>;
}

#[derive(Debug, PartialEq, Eq)]
pub struct FarScan {
    /// `None`: something happened during the scan, which must be repeated.
    pub verdict: Option<SideVerdict>,
    /// `clean` has changed.
    pub learned: bool,
}

/// Scans the far side of mailbox `at`. `by_run`: what runs have removed. Fails when
/// the connection is lost.
pub fn far(
    state: &MailboxState,
    at: usize,
    clean: &mut CleanState,
    by_run: Option<&Gone>,
    server: &mut impl FarSide,
) -> Result<FarScan, ClientError> {
    let known = |verdict| Ok(FarScan { verdict: Some(verdict), learned: false });
    let unknown = |why: &str| known(SideVerdict::Unknown(why.to_owned()));
    let rules = match &state.rules {
        Ok(rules) => rules,
        Err(why) => return unknown(why),
    };
    let Some(status) = server.status(at) else { return unknown("not on the server") };
    let Some(state_file) = state.mailbox.state_file.as_deref() else {
        return unknown("no record");
    };
    let stamp = Stamp::of(state_file).ok();
    let record = match record::read(state_file) {
        RecordState::Known(record) => record,
        RecordState::NeverSynced => return known(server::never_synced(&status)),
        RecordState::Unfinished => return unknown("mbsync was interrupted"),
        RecordState::Unreadable { why } => return unknown(&why),
    };
    // A record that was replaced while it was read has no stamp.
    let stamp = stamp.filter(|stamp| Stamp::of(state_file).is_ok_and(|now| now == *stamp));
    let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
    let gone = kept.of_record(stamp.as_ref());
    let then = clean.far.as_ref();
    let since = match server::compare_status(&status, then, Some(&record), rules, gone) {
        StatusVerdict::Clean => return known(SideVerdict::Clean),
        StatusVerdict::Unknown(why) => return unknown(&why),
        StatusVerdict::Scan(FetchScope::Whole) => None,
        StatusVerdict::Scan(FetchScope::ChangedSince(since)) => Some(since),
    };
    // SELECT, once, to learn whether $Forwarded is kept; EXAMINE does not say.
    let opening = if clean.forwarded.is_none() { Opening::Select } else { Opening::Examine };
    let scan = match server.scan(at, opening, since) {
        Ok(Some(scan)) => scan,
        Ok(None) => return unknown("its name cannot be said to the server"),
        Err(ClientError::Refused(answer)) => return unknown(&answer.text),
        Err(lost) => return Err(lost),
    };
    let fetched =
        if scan.all_flags { Fetched::Whole(scan.flags) } else { Fetched::ChangedSince(scan.flags) };
    // What it shows is used together with what is remembered of it here.
    let maildir = state.mailbox.maildir.as_deref().filter(|_| stamp.is_some());
    let near = || maildir::numbered(maildir?, &record, rules);
    let Settled { verdict, gone } =
        server::judge_server(&record, rules, &scan.uids, &fetched, gone, near);
    let gone = Some(Gone { record: stamp, ..gone }).filter(|gone| !gone.is_empty());
    let mut learned = clean.gone != gone;
    clean.gone = gone;
    if scan.forwarded.is_some() && clean.forwarded != scan.forwarded {
        learned = true;
        clean.forwarded = scan.forwarded;
        // Yes was assumed before; and with AltMap it makes no difference.
        if let Some(near) = clean.near.as_mut() {
            if near.forwarded.is_none() && (scan.forwarded == Some(true) || rules.alt_map) {
                near.forwarded = scan.forwarded;
            }
        }
    }
    if verdict == SideVerdict::Clean {
        clean.far = Some(server::CleanServer::new(status, &record, rules));
        learned = true;
        // What happened during the scan needs a scan of its own.
        if server.status(at) != Some(status) {
            return Ok(FarScan { verdict: None, learned });
        }
    }
    Ok(FarScan { verdict: Some(verdict), learned })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::MailboxStatus;
    use crate::model::flags::Flags;
    use crate::model::uid_set::UidSet;
    use crate::model::{Account, Mailbox};
    use crate::verdict::{Changes, Rules};

    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 1, uid_next: 3, messages: 2, highest_modseq: Some(7) };

    /// A server with one mailbox, which may change while it is scanned.
    struct ScriptedServer {
        uids: &'static str,
        changes_meanwhile: bool,
        status: ServerStatus,
        asked: Vec<(Opening, Option<u64>)>,
    }

    impl FarSide for ScriptedServer {
        fn status(&self, mailbox: usize) -> Option<ServerStatus> {
            (mailbox == 0).then_some(self.status)
        }

        fn scan(
            &mut self,
            _: usize,
            opening: Opening,
            since: Option<u64>,
        ) -> Result<Option<MailboxScan>, ClientError> {
            self.asked.push((opening, since));
            if self.changes_meanwhile {
                self.status.uid_next += 1;
            }
            Ok(Some(MailboxScan {
                uid_validity: Some(1),
                forwarded: (opening == Opening::Select).then_some(true),
                uids: UidSet::parse(self.uids).unwrap(),
                flags: vec![(1, Flags::SEEN), (2, Flags::SEEN)],
                all_flags: since.is_none(),
                after: MailboxStatus::default(),
            }))
        }
    }

    fn server(uids: &'static str) -> ScriptedServer {
        ScriptedServer { uids, changes_meanwhile: false, status: STATUS, asked: vec![] }
    }

    fn mailbox(dir: &std::path::Path, entries: &str) -> MailboxState {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 2\nMaxPushedUid 2\n\n";
        let file = dir.join(".mbsyncstate");
        std::fs::write(&file, format!("{head}{entries}")).unwrap();
        let mailbox = Mailbox { state_file: Some(file), ..Mailbox::of_home("INBOX") };
        let account = Account { name: "Home".into(), server: None, channels: vec![] };
        MailboxState { rules: Ok(Rules::none()), ..MailboxState::new(mailbox, &account) }
    }

    fn changed(new: u32, deleted: u32) -> SideVerdict {
        SideVerdict::Changed(Changes { new, deleted, ..Changes::default() })
    }

    #[test]
    fn a_clean_scan_is_remembered_and_saves_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        let (mut clean, mut server) = (CleanState::default(), server("1:2"));
        let scan = far(&state, 0, &mut clean, None, &mut server).unwrap();
        assert_eq!(scan, FarScan { verdict: Some(SideVerdict::Clean), learned: true });
        assert_eq!((clean.forwarded, server.asked.len()), (Some(true), 1));
        let scan = far(&state, 0, &mut clean, None, &mut server).unwrap();
        assert_eq!(scan, FarScan { verdict: Some(SideVerdict::Clean), learned: false });
        assert_eq!(server.asked, [(Opening::Select, None)]);
        // A change: only what is newer is fetched, and EXAMINE is enough.
        (server.uids, server.status.highest_modseq) = ("2:3", Some(9));
        let scan = far(&state, 0, &mut clean, None, &mut server).unwrap();
        assert_eq!(scan, FarScan { verdict: Some(changed(1, 1)), learned: false });
        assert_eq!(server.asked[1..], [(Opening::Examine, Some(7))]);
    }

    #[test]
    fn g6_a_mailbox_that_changes_during_its_scan_is_scanned_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = mailbox(dir.path(), "1 1 S\n2 2 S\n");
        let mut clean = CleanState::default();
        let mut server = ScriptedServer { changes_meanwhile: true, ..server("1:2") };
        let scan = far(&state, 0, &mut clean, None, &mut server).unwrap();
        assert_eq!(scan, FarScan { verdict: None, learned: true });
        // Remembered is the STATUS from before the scan.
        assert_eq!(clean.far.unwrap().status, STATUS);
    }

    #[test]
    fn what_cannot_be_judged_is_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = mailbox(dir.path(), "");
        let (mut clean, mut server) = (CleanState::default(), server("1:2"));
        let mut verdict = |state: &MailboxState, at| {
            far(state, at, &mut clean, None, &mut server).unwrap().verdict.unwrap()
        };
        assert!(matches!(verdict(&state, 1), SideVerdict::Unknown(_)), "not on the server");
        std::fs::remove_file(dir.path().join(".mbsyncstate")).unwrap();
        assert_eq!(verdict(&state, 0), changed(2, 0), "never synced");
        state.rules = Err("one-way".into());
        assert_eq!(verdict(&state, 0), SideVerdict::Unknown("one-way".into()));
        assert_eq!(server.asked, []);
    }
}
