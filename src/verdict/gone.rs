//! Pairs of which one message is gone, or both, although the record still names
//! two.
//!
//! isync 1.5 does not save its record when a deletion is all that a run has
//! carried over in a mailbox (`save_state` in `src/sync_state.c`: only what was
//! journaled counts, and the purge of entries is not). So the record says as much
//! after that run as before it, and only a scan of both sides tells a deletion
//! that was carried over from one that waits. What was seen of the far side is
//! kept here, for judging the near side, which is scanned without a connection.
//!
//! A UID is never given out again, so a far message that is gone stays gone. One
//! that is \Deleted may be undeleted: then the far side is judged to differ, for
//! nothing here keeps [`super::server::judge_server`] from comparing its flags.
//!
//! Does not depend on: files, connections, runs.

use super::Rules;
use super::maildir::{Numbered, Stamp};
use super::record::{EntryKind, Record};
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use serde::{Deserialize, Serialize};

/// What is known of the far messages of pairs in a record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gone {
    /// The record that names the pairs; of any other this says nothing.
    pub record: Option<Stamp>,
    /// Far messages that are gone, and their near ones too, or \Deleted.
    pub gone: UidSet,
    /// Far messages that are \Deleted (or gone), and their near ones are gone.
    pub deleted: UidSet,
    /// Far messages that are gone, and their near ones still to be removed.
    pub pending: UidSet,
    /// Far messages that have become \Deleted where that removes the near ones, too, if
    /// they are not gone already.
    #[serde(skip_serializing_if = "UidSet::is_empty")]
    pub marked: UidSet,
}

impl Gone {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.deleted.is_empty()
            && self.pending.is_empty()
            && self.marked.is_empty()
    }
}

/// What was kept of a pair, whatever record it was of.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeptGone<'a> {
    /// Seen on the server.
    pub by_scan: Option<&'a Gone>,
    /// Concluded from a run that ended well. True at that time; a waiter with a
    /// connection confirms it by a scan before it relies on it.
    pub by_run: Option<&'a Gone>,
}

impl<'a> KeptGone<'a> {
    /// What of it holds for the record with this stamp.
    #[must_use]
    pub fn of_record(self, record: Option<&Stamp>) -> KnownGone<'a> {
        let holds = |kept: &&Gone| kept.record.is_some() && kept.record.as_ref() == record;
        KnownGone { by_scan: self.by_scan.filter(holds), by_run: self.by_run.filter(holds) }
    }
}

/// What is known of the far messages of one record.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownGone<'a> {
    by_scan: Option<&'a Gone>,
    by_run: Option<&'a Gone>,
}

impl KnownGone<'_> {
    /// Nothing.
    pub const NOTHING: KnownGone<'static> = KnownGone { by_scan: None, by_run: None };

    fn any(self, holds: impl Fn(&Gone) -> bool) -> bool {
        [self.by_scan, self.by_run].into_iter().flatten().any(holds)
    }

    /// The far message is gone, and so was the near one, or \Deleted.
    #[must_use]
    pub fn is_gone(self, far: u32) -> bool {
        self.any(|known| known.gone.contains(far))
    }

    /// The far message is \Deleted or gone, and the near one was gone.
    #[must_use]
    pub fn was_deleted(self, far: u32) -> bool {
        self.any(|known| known.deleted.contains(far))
    }

    /// The far message is \Deleted or gone: with the near one gone, nothing is to
    /// be pushed.
    #[must_use]
    pub fn is_over(self, far: u32) -> bool {
        self.any(|known| {
            [&known.gone, &known.deleted, &known.pending].iter().any(|set| set.contains(far))
        })
    }

    /// The last scan has seen the far message \Deleted.
    #[must_use]
    pub fn was_seen_deleted(self, far: u32) -> bool {
        self.by_scan.is_some_and(|known| known.deleted.contains(far))
    }

    /// Whether conclusions from a run await confirmation by a scan.
    #[must_use]
    pub fn is_unconfirmed(self) -> bool {
        let Some(run) = self.by_run else { return false };
        let mut seen = UidSet::default();
        let mut confirmed = |by: [&UidSet; 2], set: &UidSet| {
            for more in by {
                seen.add(more);
            }
            seen.tidy();
            seen.has_all_of(set)
        };
        let Gone { gone, deleted, pending, .. } = self.by_scan.unwrap_or(&NONE);
        !(confirmed([gone, pending], &run.gone) && confirmed([deleted, deleted], &run.deleted))
    }
}

/// What a run has left in a record that it did not replace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftByRun {
    /// Messages that were there before the run, and are gone or \Deleted.
    pub during: u32,
    /// Far UIDs of those that were gone before it, and not known to be done with.
    pub earlier: Vec<u32>,
    /// All that is known now, without the record's stamp.
    pub gone: Gone,
}

/// What a run of isync 1.5 has left, that went well, synchronized the mailbox, and
/// alone has removed messages from it and changed flags in it meanwhile.
///
/// `before` and `after`: the near side; `known`: what earlier runs have left. What
/// was missing when mbsync read the near side, it has made \Deleted on the far
/// side, or found gone there. What it has removed itself was gone or \Deleted
/// there. And what it makes \Deleted here, or finds so, without recording that, is
/// gone there: else the flag would have been pushed.
#[must_use]
pub fn left_by_run(
    record: &Record,
    rules: &Rules,
    before: &Numbered,
    after: &Numbered,
    known: KnownGone<'_>,
) -> LeftByRun {
    let mut left = LeftByRun::default();
    for entry in record.with_far() {
        // What expires follows rules of its own.
        if entry.near == 0 || entry.kind != EntryKind::Plain {
            continue;
        }
        let far = entry.far;
        let was_there = before.flags(entry.near);
        match after.flags(entry.near) {
            None => {
                left.gone.deleted.push(far, far);
                match was_there {
                    _ if known.is_over(far) => {}
                    Some(_) => left.during = left.during.saturating_add(1),
                    None => left.earlier.push(far),
                }
            }
            Some(now) if now.has(Flags::TRASHED) && !rules.expunge_near => {
                if known.is_gone(far) {
                    left.gone.gone.push(far, far);
                    continue;
                }
                let Some(then) = was_there else { continue };
                // Made \Deleted again, it was no longer that on this side alone: had the far
                // message been there, the change would have been pushed.
                let again = !then.has(Flags::TRASHED);
                if again || !entry.flags.has(Flags::TRASHED) {
                    left.gone.gone.push(far, far);
                    left.during += u32::from(again);
                }
            }
            Some(_) => {}
        }
    }
    left
}

/// In place of a scan that did not take place.
static NONE: Gone = Gone {
    record: None,
    gone: UidSet::EMPTY,
    deleted: UidSet::EMPTY,
    pending: UidSet::EMPTY,
    marked: UidSet::EMPTY,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(record: &str) -> (tempfile::TempDir, Stamp) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("record");
        std::fs::write(&file, record).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        (dir, stamp)
    }

    fn set(text: &str) -> UidSet {
        UidSet::parse(text).unwrap_or_default()
    }

    #[test]
    fn what_is_known_holds_for_one_record_alone() {
        let ((_a, one), (_b, other)) = (stamp("1"), stamp("22"));
        let gone = Gone {
            record: Some(one),
            gone: set("3"),
            deleted: set("4"),
            pending: set("5"),
            ..Gone::default()
        };
        let facts = |known: KnownGone<'_>, far| {
            (
                known.is_gone(far),
                known.was_deleted(far),
                known.was_seen_deleted(far),
                known.is_over(far),
            )
        };
        let here = KeptGone { by_scan: Some(&gone), by_run: None }.of_record(Some(&one));
        assert_eq!(facts(here, 3), (true, false, false, true));
        assert_eq!(facts(here, 4), (false, true, true, true));
        assert_eq!(facts(here, 5), (false, false, false, true));
        assert_eq!(facts(here, 6), (false, false, false, false));
        let by_run = KeptGone { by_scan: None, by_run: Some(&gone) }.of_record(Some(&one));
        assert_eq!(facts(by_run, 4), (false, true, false, true));
        for record in [Some(&other), None] {
            let there = KeptGone { by_scan: Some(&gone), by_run: Some(&gone) }.of_record(record);
            assert!(!there.is_over(3) && !there.is_over(4) && !there.is_unconfirmed());
        }
        let of_no_record = Gone { record: None, ..gone };
        assert!(
            !KeptGone { by_scan: Some(&of_no_record), by_run: None }.of_record(None).is_gone(3)
        );
    }

    #[test]
    fn what_a_run_let_conclude_is_confirmed_by_a_look_that_saw_it_all() {
        let (_dir, record) = stamp("1");
        let known = |gone, deleted| Gone { record: Some(record), gone, deleted, ..Gone::default() };
        let run = known(set("3"), set("5:6"));
        let unconfirmed = |by_scan: Option<&Gone>| {
            KeptGone { by_scan, by_run: Some(&run) }.of_record(Some(&record)).is_unconfirmed()
        };
        assert!(unconfirmed(None));
        assert!(unconfirmed(Some(&known(set("3"), set("5")))));
        assert!(unconfirmed(Some(&known(set("5"), set("3,6")))), "\\Deleted is not gone");
        assert!(!unconfirmed(Some(&known(set("3,5"), set("6:7")))));
        let pending = Gone { pending: set("3"), ..known(set(""), set("5:6")) };
        assert!(!unconfirmed(Some(&pending)));
        let nothing = known(set(""), set(""));
        let kept = KeptGone { by_scan: None, by_run: Some(&nothing) };
        assert!(!kept.of_record(Some(&record)).is_unconfirmed());
    }

    fn files(names: &[&str]) -> Numbered {
        let mut listing = super::super::maildir::MaildirListing::new(b':');
        for name in names {
            listing.add(name.as_bytes());
        }
        listing.numbered()
    }

    fn record(entries: &str) -> Record {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\n";
        super::super::record::parse(format!("{head}{entries}").as_bytes()).unwrap()
    }

    #[test]
    fn a_run_leaves_what_was_missing_before_it_and_what_it_removed() {
        let both = Rules { expunge_near: true, expunge_far: true, ..Rules::none() };
        let record = record("1 1 S\n2 2 S\n3 3 S\n4 4 ~S\n0 5 S\n6 0 S\n");
        let left = |before: &[&str], after: &[&str], known| {
            left_by_run(&record, &both, &files(before), &files(after), known)
        };
        let all = ["a,U=1:2,S", "b,U=2:2,S", "c,U=3:2,S", "d,U=4:2,S", "e,U=5:2,S"];
        assert_eq!(left(&all, &all, KnownGone::NOTHING), LeftByRun::default());
        // 1 was missing, 2 has gone, and what expires is not counted.
        let expected = LeftByRun {
            during: 1,
            earlier: vec![1],
            gone: Gone { deleted: set("1:2"), ..Gone::default() },
        };
        assert_eq!(left(&all[1..], &["c,U=3:2,S"], KnownGone::NOTHING), expected);
        // What was known is not news, and stays known.
        let (_dir, stamp) = stamp("1");
        let then = Gone { record: Some(stamp), deleted: set("1"), ..Gone::default() };
        let known = KeptGone { by_scan: None, by_run: Some(&then) }.of_record(Some(&stamp));
        let expected = LeftByRun { earlier: vec![], ..expected };
        assert_eq!(left(&all[1..], &["c,U=3:2,S"], known), expected);
    }

    #[test]
    fn without_expunge_what_it_makes_deleted_is_gone_there() {
        let record = record("1 1 S\n2 2 S\n3 3 ST\n4 4 ST\n");
        let rules = Rules::none();
        let before = files(&["a,U=1:2,S", "b,U=2:2,ST", "c,U=3:2,ST", "d,U=4:2,PS"]);
        let after = files(&["a,U=1:2,ST", "b,U=2:2,ST", "c,U=3:2,ST", "d,U=4:2,PST"]);
        let left = left_by_run(&record, &rules, &before, &after, KnownGone::NOTHING);
        // 2 was it already, and the flag was not pushed; 3 is it by the record, and so was 4.
        assert_eq!((left.during, left.gone.gone.to_string()), (2, "1:2,4".to_owned()));
        assert!(left.earlier.is_empty() && left.gone.deleted.is_empty());
        let expunges = Rules { expunge_near: true, ..rules };
        let left = left_by_run(&record, &expunges, &before, &after, KnownGone::NOTHING);
        assert_eq!(left, LeftByRun::default());
    }

    #[test]
    fn it_is_written_in_few_bytes_and_read_again() {
        let (_dir, record) = stamp("1");
        let gone = Gone { record: Some(record), gone: set("1:100000"), ..Gone::default() };
        let text = serde_json::to_string(&gone).unwrap();
        assert!(text.len() < 300, "{text}");
        assert_eq!(serde_json::from_str::<Gone>(&text).unwrap(), gone);
        assert!(serde_json::from_str::<Gone>(&text.replace("1:100000", "1:x")).is_err());
        assert_eq!(serde_json::from_str::<Gone>("{}").unwrap(), Gone::default());
    }
}
