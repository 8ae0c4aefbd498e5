//! The far side: what on the server differs from mbsync's record.
//!
//! In two steps, because the second costs round trips: [`compare_status`] compares
//! STATUS with that of the last clean scan, [`judge_server`] judges what SEARCH and
//! FETCH then show. Does not depend on: files, clocks, connections.
//!
//! A scan is: STATUS; EXAMINE; `UID SEARCH RETURN (ALL) ALL`, or `UID SEARCH
//! ALL` without ESEARCH; `UID FETCH 1:* (FLAGS)`, with `(CHANGEDSINCE m)` where
//! [`FetchScope`] says so. If it ends clean, the STATUS from *before* the SEARCH is
//! remembered, so that what happened meanwhile is found by the next one.

use super::gone::{Gone, KnownGone};
use super::maildir::{Numbered, Stamp};
use super::record::{Entry, EntryKind, Placeholder, Record};
use super::{
    Changes, Difference, Rules, SideVerdict, asks_for_whole, carried, expiring, is_important,
    kept_by_server, leaves_as_deleted,
};
use crate::model::flags::Flags;
pub use crate::model::uid_set::UidSet;
use crate::model::uid_set::UidsBelow;
use serde::{Deserialize, Serialize};

/// What STATUS says of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerStatus {
    /// UIDVALIDITY.
    pub uid_validity: u32,
    /// UIDNEXT.
    pub uid_next: u32,
    /// MESSAGES.
    pub messages: u32,
    /// HIGHESTMODSEQ (RFC 7162); `None` without CONDSTORE, and where the server
    /// keeps none for this mailbox (it says 0 then).
    pub highest_modseq: Option<u64>,
}

/// What is remembered of the far side from its last clean scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanServer {
    /// STATUS, as it was before the scan.
    pub status: ServerStatus,
    /// The rules that it was judged by.
    pub rules: Rules,
    /// The marks of the record, which never sink but by a restored backup.
    pub max_pulled: u32,
    /// The other mark.
    pub max_pushed: u32,
    /// The record that it was judged by. `None`: it is not known, so that nothing
    /// follows from this memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Stamp>,
    /// Messages that mbsync has passed over.
    #[serde(default, skip_serializing_if = "UidSet::is_empty")]
    pub left: UidSet,
    /// How the UIDs there differ from those of the record. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<UidDifference>,
}

/// How the UIDs that a scan found differ from those of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidDifference {
    #[serde(default, skip_serializing_if = "UidSet::is_empty")]
    more: UidSet,
    #[serde(default, skip_serializing_if = "UidSet::is_empty")]
    fewer: UidSet,
}

/// Most ranges of a difference that is kept.
const MOST_RANGES: usize = 200;

impl UidDifference {
    /// The difference; `None` if it is large.
    #[must_use]
    pub fn of(found: &UidSet, record: &Record) -> Option<UidDifference> {
        let recorded = UidSet::from_uids(record.far_uids());
        let more = found.between_without(1, u32::MAX, recorded.uids());
        let fewer = recorded.without(found);
        let ranges = more.ranges().len() + fewer.ranges().len();
        (ranges <= MOST_RANGES).then_some(UidDifference { more, fewer })
    }

    /// What was found.
    #[must_use]
    pub fn found(&self, record: &Record) -> UidSet {
        let mut found = UidSet::from_uids(record.far_uids()).without(&self.fewer);
        found.add(&self.more);
        found.tidy();
        found
    }
}

impl CleanServer {
    /// What to remember of a clean scan of the far side, judged by the record with
    /// this stamp.
    #[must_use]
    pub fn new(
        status: ServerStatus,
        record: &Record,
        rules: &Rules,
        stamp: Option<Stamp>,
    ) -> CleanServer {
        CleanServer {
            status,
            rules: rules.clone(),
            max_pulled: record.max_pulled,
            max_pushed: record.max_pushed,
            record: stamp,
            left: UidSet::default(),
            beside: None,
        }
    }

    /// What was there, if it is known and by so few bytes not told by a server. `record`: the
    /// one that this was judged by.
    #[must_use]
    pub fn uids(&self, record: &Record) -> Option<UidsBelow> {
        UidsBelow::new(self.status.uid_next, &self.beside.as_ref()?.found(record))
    }

    /// Whether it was judged by the record that has this stamp now: not if mbsync was
    /// run by hand, or if a backup was restored.
    #[must_use]
    pub fn is_of_record(&self, stamp: Option<&Stamp>) -> bool {
        stamp.is_some() && self.record.as_ref() == stamp
    }

    /// A run of ours has replaced the record, of which this was the memory until then:
    /// what it changed on the server has another modification sequence.
    pub fn follow_run(&mut self, before: Option<&Stamp>, after: Option<Stamp>) -> bool {
        let follows = self.is_of_record(before) && self.record != after;
        if follows {
            self.record = after;
            self.beside = None;
        }
        follows
    }
}

/// What STATUS alone leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusVerdict {
    /// As at the last clean scan.
    Clean,
    /// Possibly different: this scan decides.
    Scan(FetchScope),
    /// Unknown, and why.
    Unknown(String),
}

/// The flags that a scan must fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchScope {
    /// Of every message.
    Whole,
    /// Of those changed since this modification sequence: what changed before
    /// it was judged by the last clean scan.
    ChangedSince(u64),
}

/// Whether the far side can differ from the record, going by its STATUS now and
/// what was remembered of the last clean scan, which must be
/// [of this record](CleanServer::is_of_record).
///
/// `record` is `None` where the caller has not read it. Without HIGHESTMODSEQ, a
/// change of flags alone does not show in STATUS, and only a scan tells. `known`:
/// what is known to be gone; where a scan is to confirm it, the same STATUS is not
/// enough.
#[must_use]
pub fn compare_status(
    now: &ServerStatus,
    remembered: Option<&CleanServer>,
    record: Option<&Record>,
    rules: &Rules,
    known: KnownGone<'_>,
) -> StatusVerdict {
    if record.is_some_and(|record| record.far_validity != now.uid_validity) {
        return StatusVerdict::Unknown(
            "the server's UIDVALIDITY is not the recorded one".to_owned(),
        );
    }
    let comparable = |then: &&CleanServer| {
        let sunk = |record: &Record| {
            record.max_pulled < then.max_pulled || record.max_pushed < then.max_pushed
        };
        then.rules == *rules
            && then.status.uid_validity == now.uid_validity
            && !record.is_some_and(sunk)
    };
    let Some(then) = remembered.filter(comparable) else {
        return StatusVerdict::Scan(FetchScope::Whole);
    };
    if then.status == *now {
        return if known.is_unconfirmed() || now.highest_modseq.is_none() {
            StatusVerdict::Scan(FetchScope::Whole)
        } else {
            StatusVerdict::Clean
        };
    }
    // With Old, what is not recorded is to be pulled unless it is \Deleted, or has expired.
    let expired = record.is_some_and(|record| record.max_expired_far > 0);
    let of_each = rules.pull_old && (rules.expunge_near && !rules.expunge_far || expired);
    StatusVerdict::Scan(match (then.status.highest_modseq, now.highest_modseq) {
        // A server that counts backwards has forgotten something.
        (Some(old), Some(new))
            if old <= new && then.status.uid_next <= now.uid_next && !of_each =>
        {
            FetchScope::ChangedSince(old)
        }
        _ => FetchScope::Whole,
    })
}

/// The flags that a scan has fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Of every message.
    Whole(Vec<(u32, Flags)>),
    /// Of those changed since the modification sequence asked for.
    ChangedSince(Vec<(u32, Flags)>),
}

/// The result of judging the far side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The verdict.
    pub verdict: SideVerdict,
    /// What is gone, for judging the near side; without the record's stamp.
    pub gone: Gone,
    /// Messages that mbsync has passed over: up to the mark, without an entry, not
    /// \Deleted, and not expired. Of those whose flags were not fetched, the caller
    /// knows from before.
    pub left: LeftOnServer,
}

/// Messages up to the record's mark that have no entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOnServer {
    /// Those that are not \Deleted.
    pub known: UidSet,
    /// Those whose flags were not fetched: nothing of them has changed since.
    pub unchanged: UidSet,
}

impl LeftOnServer {
    /// All that were passed over, given those of the scan before.
    #[must_use]
    pub fn with(self, before: &UidSet) -> UidSet {
        let mut all = self.known;
        // What comes from the server is not expanded; what was known before is.
        for &(first, last) in before.ranges() {
            let still = (first..=last).filter(|uid| self.unchanged.contains(*uid));
            still.for_each(|uid| all.push(uid, uid));
        }
        all.tidy();
        all
    }
}

/// What on the far side differs from the record: `uids` are all that SEARCH
/// found, `fetched` the flags. UIDs in `fetched` alone are of messages that
/// came or went between the two, and for the next scan to judge.
///
/// `near` lists the messages on the near side, if they are known, and is called
/// when one is gone here. `known`: what was known to be gone before.
#[must_use]
pub fn judge_server(
    record: &Record,
    rules: &Rules,
    uids: &UidSet,
    fetched: &Fetched,
    known: KnownGone<'_>,
    near: impl FnOnce() -> Option<Numbered>,
) -> Settled {
    if record.max_expired_near > 0 {
        let verdict = SideVerdict::Unknown("messages expire on the far side".to_owned());
        return Settled { verdict, gone: Gone::default(), left: LeftOnServer::default() };
    }
    let (flags, whole) = match fetched {
        Fetched::Whole(flags) => (flags, true),
        Fetched::ChangedSince(flags) => (flags, false),
    };
    let flags = last_flags(flags, rules);
    let flags_of = |uid: u32| {
        let at = flags.binary_search_by_key(&uid, |&(uid, _)| uid).ok()?;
        flags.get(at).map(|&(_, flags)| flags)
    };

    let mut near = Halves { ask: Some(near), listing: None };
    let (mut changes, mut gone) = (Changes::default(), Gone::default());
    let (mut recorded_above, mut recorded) = (0, 0);
    let unless_flagged: Vec<u32> = expiring(record, rules, known)
        .filter(|entry| kept_by_server(entry, rules))
        .map(|entry| entry.far)
        .collect();
    for entry in record.with_far() {
        let far = entry.far;
        if !uids.contains(far) {
            match near.half(entry) {
                // Of no message any more.
                Half::Never => {}
                Half::Gone => gone.gone.push(far, far),
                Half::There(seen)
                    if seen.has(Flags::TRASHED)
                        && !rules.expunge_near
                        && leaves_as_deleted(entry, rules) =>
                {
                    gone.gone.push(far, far);
                }
                Half::There(_) | Half::Unknown => {
                    gone.pending.push(far, far);
                    changes.count(Difference::Deleted);
                }
            }
            continue;
        }
        recorded += 1;
        recorded_above += u64::from(far > record.max_pulled);
        let Some(seen) = flags_of(far) else {
            if whole && entry.near != 0 {
                changes.count(Difference::Deleted);
            } else if known.was_seen_deleted(far) && near.half(entry) == Half::Gone {
                gone.deleted.push(far, far);
            }
            continue;
        };
        let kept = seen.has(Flags::FLAGGED) || unless_flagged.binary_search(&far).is_err();
        changes.other += u32::from(!kept);
        let marked = seen.has(Flags::TRASHED)
            && !entry.flags.has(Flags::TRASHED)
            && (rules.expunge_far || rules.expunge_near)
            && entry.kind == EntryKind::Plain;
        if marked && near.half(entry) != Half::Never {
            gone.marked.push(far, far);
        }
        if seen.has(Flags::TRASHED) && rules.expunge_far {
            changes.count(Difference::Deleted);
        } else if let Some(kind) = far_difference(entry, seen, rules) {
            // \Deleted is all that mbsync makes of it.
            let over = seen.has(Flags::TRASHED)
                && entry.kind == EntryKind::Plain
                && !asks_for_whole(entry, Placeholder::Far, seen, entry.near, rules)
                && near.half(entry) == Half::Gone;
            if over {
                gone.deleted.push(far, far);
            } else {
                changes.count(kind);
            }
        } else if known.is_over(far) && near.half(entry) == Half::Gone {
            if seen.has(Flags::TRASHED) {
                gone.deleted.push(far, far);
            } else {
                // No more \Deleted, or it never was: mbsync deletes it again.
                changes.count(Difference::Deleted);
            }
        }
    }
    let left = if recorded - recorded_above < passed(record, uids) {
        left_on_server(record, uids, &flags, whole)
    } else {
        LeftOnServer::default()
    };
    // Whatever is above the mark and not recorded is new, with Old whatever is not
    // recorded: flags not fetched, it may be anything.
    let mut new = if rules.pull_old {
        uids.len().saturating_sub(recorded)
    } else {
        uids.count_above(record.max_pulled).saturating_sub(recorded_above)
    };
    for &(uid, seen) in flags.iter().filter(|(uid, _)| uids.contains(*uid)) {
        if record.of_far(uid).is_some() {
            continue;
        }
        let deleted = seen.has(Flags::TRASHED);
        if deleted && rules.expunge_far {
            changes.count(Difference::Deleted);
        }
        // mbsync pulls no message that it would remove from the near side at once; it only
        // moves its mark. What expired is pulled again if it is important.
        let is_old = uid <= record.max_pulled;
        let doomed = deleted && rules.expunge_near && (!is_old || rules.pull_old);
        let expired = is_old && rules.pull_old && uid <= record.max_expired_far;
        if doomed || expired && !is_important(seen, rules) {
            new = new.saturating_sub(1);
        }
    }
    changes.new = changes.new.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
    Settled { verdict: SideVerdict::from_changes(changes), gone, left }
}

/// A server may send a message's flags more than once; the last ones hold.
fn last_flags(fetched: &[(u32, Flags)], rules: &Rules) -> Vec<(u32, Flags)> {
    let read = |&(uid, flags): &(u32, Flags)| (uid, flags.as_read_by(rules.isync_1_5));
    let mut flags: Vec<_> = fetched.iter().rev().map(read).collect();
    flags.sort_by_key(|&(uid, _)| uid);
    flags.dedup_by_key(|&mut (uid, _)| uid);
    flags
}

/// How many messages there are up to the mark.
fn passed(record: &Record, uids: &UidSet) -> u64 {
    uids.len().saturating_sub(uids.count_above(record.max_pulled))
}

/// The messages up to the mark that the record does not have.
fn left_on_server(
    record: &Record,
    uids: &UidSet,
    flags: &[(u32, Flags)],
    whole: bool,
) -> LeftOnServer {
    let mut left = LeftOnServer::default();
    let from = record.max_expired_far.saturating_add(1);
    let entries = record.far_uids();
    let all = uids.between_without(from, record.max_pulled, entries);
    for &(uid, seen) in flags.iter().filter(|(uid, _)| all.contains(*uid)) {
        if !seen.has(Flags::TRASHED) {
            left.known.push(uid, uid);
        }
    }
    if !whole {
        let fetched = flags.iter().map(|&(uid, _)| uid);
        left.unchanged = all.between_without(from, record.max_pulled, fetched);
    }
    left
}

/// The near side, listed when it first matters.
struct Halves<Ask> {
    ask: Option<Ask>,
    listing: Option<Numbered>,
}

/// What is on the near side of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// The record names none.
    Never,
    Gone,
    There(Flags),
    /// Unknown.
    Unknown,
}

impl<Ask: FnOnce() -> Option<Numbered>> Halves<Ask> {
    fn half(&mut self, entry: &Entry) -> Half {
        if entry.near == 0 {
            return Half::Never;
        }
        if let Some(ask) = self.ask.take() {
            self.listing = ask();
        }
        match &self.listing {
            None => Half::Unknown,
            Some(there) => there.flags(entry.near).map_or(Half::Gone, Half::There),
        }
    }
}

/// The far side of a pair that was never synced.
#[must_use]
pub fn never_synced(now: &ServerStatus) -> SideVerdict {
    match now.messages {
        0 => SideVerdict::Unknown("never synced".to_owned()),
        new => SideVerdict::Changed(Changes { new, ..Changes::default() }),
    }
}

/// Whether the flags seen on the far side call for something, given the pair's
/// entry. The counterpart of the near side's rule, without its exceptions for
/// expired messages and for what the server does not keep.
fn far_difference(entry: &Entry, seen: Flags, rules: &Rules) -> Option<Difference> {
    if entry.kind == EntryKind::Skipped {
        return Some(Difference::New);
    }
    if asks_for_whole(entry, Placeholder::Far, seen, entry.near, rules) {
        return Some(Difference::Flags);
    }
    if entry.near == 0 {
        return None;
    }
    let pulled = carried(entry, Placeholder::Far, seen, rules);
    (pulled != entry.flags).then_some(Difference::Flags)
}

#[cfg(test)]
mod tests {
    use super::super::gone::KeptGone;
    use super::super::maildir::MaildirListing;
    use super::super::record;
    use super::*;

    const RULES: Rules = Rules::none();
    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 1, uid_next: 10, messages: 3, highest_modseq: Some(50) };

    fn record(entries: &str) -> Record {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\n";
        record::parse(format!("{head}{entries}").as_bytes()).unwrap()
    }

    fn found(entries: &str, uids: &str, flags: &[(u32, &[u8])], rules: &Rules) -> SideVerdict {
        let flags = flags.iter().map(|&(uid, letters)| (uid, Flags::among(letters))).collect();
        let (uids, fetched) = (UidSet::parse(uids).unwrap(), Fetched::ChangedSince(flags));
        judge_server(&record(entries), rules, &uids, &fetched, KnownGone::NOTHING, || None).verdict
    }

    fn changes(new: u32, deleted: u32, flags: u32) -> SideVerdict {
        SideVerdict::Changed(Changes { new, deleted, flags, other: 0 })
    }

    #[test]
    fn the_same_status_is_clean_and_another_needs_a_scan() {
        let record = record("1 1 S\n");
        let then = CleanServer::new(STATUS, &record, &RULES, None);
        let at = |now: ServerStatus| {
            compare_status(&now, Some(&then), Some(&record), &RULES, KnownGone::NOTHING)
        };
        assert_eq!(at(STATUS), StatusVerdict::Clean);
        let since = StatusVerdict::Scan(FetchScope::ChangedSince(50));
        let whole = StatusVerdict::Scan(FetchScope::Whole);
        assert_eq!(at(ServerStatus { highest_modseq: Some(51), ..STATUS }), since);
        assert_eq!(at(ServerStatus { messages: 2, ..STATUS }), since);
        assert_eq!(at(ServerStatus { highest_modseq: Some(49), ..STATUS }), whole);
        assert_eq!(at(ServerStatus { uid_next: 9, ..STATUS }), whole);
        assert_eq!(at(ServerStatus { highest_modseq: None, ..STATUS }), whole);
        assert!(matches!(
            at(ServerStatus { uid_validity: 2, ..STATUS }),
            StatusVerdict::Unknown(_)
        ));
        assert_eq!(compare_status(&STATUS, None, Some(&record), &RULES, KnownGone::NOTHING), whole);
        let other = Rules { expunge_far: true, ..RULES };
        assert_eq!(
            compare_status(&STATUS, Some(&then), Some(&record), &other, KnownGone::NOTHING),
            whole
        );
        let mut restored = record.clone();
        restored.max_pulled = 8;
        assert_eq!(
            compare_status(&STATUS, Some(&then), Some(&restored), &RULES, KnownGone::NOTHING),
            whole
        );
        restored = record.clone();
        restored.max_pushed = 8;
        assert_eq!(
            compare_status(&STATUS, Some(&then), Some(&restored), &RULES, KnownGone::NOTHING),
            whole
        );
        let mut grown = record.clone();
        (grown.max_pulled, grown.max_pushed) = (10, 10);
        assert_eq!(
            compare_status(&STATUS, Some(&then), Some(&grown), &RULES, KnownGone::NOTHING),
            StatusVerdict::Clean
        );
        assert_eq!(
            compare_status(&STATUS, Some(&then), None, &RULES, KnownGone::NOTHING),
            StatusVerdict::Clean
        );
    }

    #[test]
    fn changes_are_counted_by_kind() {
        let entries = "1 1 S\n2 2 \n3 0 \n0 4 \n12 5 \n";
        assert_eq!(found(entries, "1:3,7,12", &[], &RULES), SideVerdict::Clean);
        assert_eq!(found(entries, "1:3,7,12", &[(1, b"S"), (3, b"T")], &RULES), SideVerdict::Clean);
        assert_eq!(found(entries, "1:3,10:13", &[(1, b"RS")], &RULES), changes(3, 0, 1));
        assert_eq!(found(entries, "1,12", &[], &RULES), changes(0, 1, 0));
        assert_eq!(found(entries, "1:3,12", &[(1, b"F"), (1, b"S")], &RULES), SideVerdict::Clean);
    }

    #[test]
    fn a_deleted_message_is_new_only_where_mbsync_pulls_it() {
        let near = Rules { expunge_near: true, ..RULES };
        let far = Rules { expunge_far: true, ..RULES };
        let both = Rules { expunge_near: true, expunge_far: true, ..RULES };
        let seen: &[(u32, &[u8])] = &[(10, b"T")];
        assert_eq!(found("", "10", seen, &RULES), changes(1, 0, 0));
        assert_eq!(found("", "10", seen, &near), SideVerdict::Clean);
        assert_eq!(found("", "10", seen, &both), changes(0, 1, 0));
        assert_eq!(found("", "10", seen, &far), changes(1, 1, 0));
        assert_eq!(found("", "5", &[(5, b"T")], &far), changes(0, 1, 0));
        assert_eq!(found("", "5", &[(5, b"T")], &near), SideVerdict::Clean);
        assert_eq!(found("", "10", &[], &near), changes(1, 0, 0), "its flags are not known");
    }

    #[test]
    fn with_old_what_is_not_recorded_is_new_whatever_its_uid() {
        let old = Rules { pull_old: true, isync_1_5: true, ..RULES };
        assert_eq!(found("1 1 S\n", "1,5,12", &[], &old), changes(2, 0, 0));
        let seen: &[(u32, &[u8])] = &[(5, b"T")];
        assert_eq!(found("1 1 S\n", "1,5", seen, &old), changes(1, 0, 0));
        let near = Rules { expunge_near: true, ..old.clone() };
        assert_eq!(found("1 1 S\n", "1,5", seen, &near), SideVerdict::Clean);
        assert_eq!(
            found("1 1 S\n", "1,5", &[], &near),
            changes(1, 0, 0),
            "its flags are not known"
        );
        let far = Rules { expunge_far: true, ..old.clone() };
        assert_eq!(found("1 1 S\n", "1,5", seen, &far), changes(1, 1, 0));
        // What expired once is pulled again if it is important.
        let mut expired = record("1 1 S\n");
        expired.max_expired_far = 6;
        let uids = UidSet::parse("1,5:7").unwrap();
        let judged = |flags: &[(u32, Flags)]| {
            let known = KnownGone::NOTHING;
            judge_server(&expired, &old, &uids, &Fetched::Whole(flags.to_vec()), known, || None)
        };
        let seen: Vec<_> = [1, 5, 6, 7].map(|uid| (uid, Flags::SEEN)).into();
        assert_eq!(judged(&seen).verdict, changes(1, 0, 0));
        let flagged: Vec<_> = [1, 5, 6, 7].map(|uid| (uid, Flags::among(b"FS"))).into();
        assert_eq!(judged(&flagged).verdict, changes(3, 0, 1));
        let asked = compare_status(
            &ServerStatus { highest_modseq: Some(51), ..STATUS },
            Some(&CleanServer::new(STATUS, &expired, &old, None)),
            Some(&expired),
            &old,
            KnownGone::NOTHING,
        );
        assert_eq!(asked, StatusVerdict::Scan(FetchScope::Whole));
        // So the flags of all are fetched where they matter.
        let record = record("1 1 S\n");
        let changed = ServerStatus { highest_modseq: Some(51), ..STATUS };
        for (rules, needed) in [(&near, FetchScope::Whole), (&far, FetchScope::ChangedSince(50))] {
            let then = CleanServer::new(STATUS, &record, rules, None);
            let asked =
                compare_status(&changed, Some(&then), Some(&record), rules, KnownGone::NOTHING);
            assert_eq!(asked, StatusVerdict::Scan(needed));
        }
    }

    #[test]
    fn what_a_run_let_conclude_is_looked_at_although_status_is_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = super::super::maildir::Stamp::of(file.path()).unwrap();
        let run = Gone { record: Some(stamp), deleted: UidSet::from_uids([1]), ..Gone::default() };
        let record = record("1 1 S\n");
        let then = CleanServer::new(STATUS, &record, &RULES, None);
        let asked = |by_scan: Option<&Gone>, now: ServerStatus| {
            let known = KeptGone { by_scan, by_run: Some(&run) }.of_record(Some(&stamp));
            compare_status(&now, Some(&then), Some(&record), &RULES, known)
        };
        assert_eq!(asked(None, STATUS), StatusVerdict::Scan(FetchScope::Whole));
        let changed = ServerStatus { highest_modseq: Some(51), ..STATUS };
        assert_eq!(asked(None, changed), StatusVerdict::Scan(FetchScope::ChangedSince(50)));
        assert_eq!(asked(Some(&run), STATUS), StatusVerdict::Clean);
    }

    /// The near side has the messages of these names.
    fn settled(entries: &str, uids: &str, flags: &[(u32, &[u8])], names: &[&str]) -> Settled {
        let flags = flags.iter().map(|&(uid, letters)| (uid, Flags::among(letters))).collect();
        let uids = UidSet::parse(uids).unwrap_or_default();
        let mut listing = MaildirListing::new(b':');
        for name in names {
            listing.add(name.as_bytes());
        }
        let near = || Some(listing.numbered());
        judge_server(
            &record(entries),
            &RULES,
            &uids,
            &Fetched::Whole(flags),
            KnownGone::NOTHING,
            near,
        )
    }

    #[test]
    fn what_lacks_a_message_on_both_sides_is_clean_and_kept() {
        let set = |uid| UidSet::from_uids([uid]);
        let both = settled("1 1 S\n", "", &[], &[]);
        assert_eq!(both.verdict, SideVerdict::Clean);
        assert_eq!(both.gone, Gone { gone: set(1), ..Gone::default() });
        // As mbsync leaves it without Expunge, on either side.
        let there = settled("1 1 S\n", "1", &[(1, b"ST")], &[]);
        assert_eq!(there.verdict, SideVerdict::Clean);
        assert_eq!(there.gone, Gone { deleted: set(1), ..Gone::default() });
        let here = settled("1 1 S\n", "", &[], &["a,U=1:2,ST"]);
        assert_eq!(here.verdict, SideVerdict::Clean);
        assert_eq!(here.gone, Gone { gone: set(1), ..Gone::default() });
        // To be removed here.
        let waits = settled("1 1 S\n", "", &[], &["a,U=1:2,S"]);
        assert_eq!(waits.verdict, changes(0, 1, 0));
        assert_eq!(waits.gone, Gone { pending: set(1), ..Gone::default() });
        // To be removed there, which is the near side's to say.
        let gone_here = settled("1 1 S\n", "1", &[(1, b"S")], &[]);
        assert_eq!((gone_here.verdict, gone_here.gone), (SideVerdict::Clean, Gone::default()));
        let other_flags = settled("1 1 S\n", "1", &[(1, b"F")], &[]);
        assert_eq!(other_flags.verdict, changes(0, 0, 1));
        assert_eq!(settled("1 0 S\n", "", &[], &[]).gone, Gone::default());
    }

    #[test]
    fn a_keyword_in_another_spelling_is_what_mbsync_takes_it_for() {
        let fetched = Fetched::Whole(vec![(1, Flags::from_imap(["\\Seen", "$forwarded"]))]);
        for (entries, isync_1_5) in [("1 1 S\n", false), ("1 1 PS\n", true)] {
            for rules in [RULES, Rules { isync_1_5: true, ..RULES }] {
                let uids = UidSet::from_uids([1]);
                let known = KnownGone::NOTHING;
                let settled =
                    judge_server(&record(entries), &rules, &uids, &fetched, known, || None);
                let clean = settled.verdict == SideVerdict::Clean;
                assert_eq!(clean, rules.isync_1_5 == isync_1_5, "{entries}");
            }
        }
    }

    #[test]
    fn what_expired_here_and_is_gone_there_is_left_by_isync_1_5() {
        for isync_1_5 in [false, true] {
            let rules = Rules { isync_1_5, ..RULES };
            let mut listing = MaildirListing::new(b':');
            listing.add(b"a,U=1:2,ST");
            let near = || Some(listing.numbered());
            let (uids, fetched) = (UidSet::default(), Fetched::Whole(Vec::new()));
            let record = record("1 1 ~S\n");
            let settled = judge_server(&record, &rules, &uids, &fetched, KnownGone::NOTHING, near);
            assert_eq!(settled.verdict == SideVerdict::Clean, isync_1_5);
            assert_eq!(settled.gone.gone.contains(1), isync_1_5);
        }
    }

    #[test]
    fn a_placeholder_expires_when_its_message_is_flagged_no_more() {
        let rules = Rules { max_messages: 1, isync_1_5: true, ..RULES };
        let entries = "1 1 >S\n2 2 S\n";
        assert_eq!(found(entries, "1:2", &[(1, b"FS")], &rules), SideVerdict::Clean);
        let expires = SideVerdict::Changed(Changes { other: 1, ..Changes::default() });
        assert_eq!(found(entries, "1:2", &[(1, b"S")], &rules), expires);
    }

    #[test]
    fn one_that_was_undeleted_is_to_be_deleted_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = super::super::maildir::Stamp::of(file.path()).unwrap();
        let then = Gone { record: Some(stamp), deleted: UidSet::from_uids([1]), ..Gone::default() };
        let judged = |flags: Option<&[u8]>| {
            let fetched = flags.map(|letters| (1, Flags::among(letters))).into_iter().collect();
            let known = KeptGone { by_scan: Some(&then), by_run: None }.of_record(Some(&stamp));
            let (uids, fetched) = (UidSet::from_uids([1]), Fetched::ChangedSince(fetched));
            let near = || Some(MaildirListing::new(b':').numbered());
            judge_server(&record("1 1 S\n"), &RULES, &uids, &fetched, known, near)
        };
        assert_eq!(judged(Some(b"S")).verdict, changes(0, 1, 0));
        assert_eq!(judged(Some(b"S")).gone, Gone::default());
        for unchanged in [None, Some(&b"ST"[..])] {
            let settled = judged(unchanged);
            assert_eq!(settled.verdict, SideVerdict::Clean);
            assert_eq!(settled.gone.deleted, then.deleted);
        }
    }

    #[test]
    fn what_is_recorded_at_the_mark_or_deleted_hides_nothing_new() {
        assert_eq!(found("9 9 S\n", "9,10", &[], &RULES), changes(1, 0, 0));
        assert_eq!(found("8 8 S\n10 9 \n", "8,10,11", &[], &RULES), changes(1, 0, 0));
        let near = Rules { expunge_near: true, ..RULES };
        assert_eq!(found("5 5 T\n", "5,10", &[(5, b"T")], &near), changes(1, 0, 0));
        assert_eq!(found("10 5 T\n", "10,11", &[(10, b"T")], &near), changes(1, 0, 0));
        assert_eq!(found("", "7,10", &[(7, b"T")], &near), changes(1, 0, 0));
        assert_eq!(found("", "9,10", &[(9, b"T")], &near), changes(1, 0, 0));
    }

    #[test]
    fn a_message_that_is_there_and_not_in_a_whole_scan_has_gone_meanwhile() {
        let record = record("1 1 S\n2 2 S\n3 0 \n");
        let uids = UidSet::parse("1:3").unwrap();
        let whole = |uids_seen: &[u32]| {
            let flags = uids_seen.iter().map(|&uid| (uid, Flags::SEEN)).collect();
            judge_server(&record, &RULES, &uids, &Fetched::Whole(flags), KnownGone::NOTHING, || {
                None
            })
            .verdict
        };
        assert_eq!(whole(&[1, 2, 3]), SideVerdict::Clean);
        assert_eq!(whole(&[1, 2]), SideVerdict::Clean, "the third is not here anyway");
        assert_eq!(whole(&[1, 3]), changes(0, 1, 0));
    }

    #[test]
    fn what_was_never_synced_is_new_and_nothing_is_unknown() {
        assert_eq!(never_synced(&STATUS), changes(3, 0, 0));
        let empty = ServerStatus { messages: 0, ..STATUS };
        assert!(matches!(never_synced(&empty), SideVerdict::Unknown(_)));
    }

    #[test]
    fn what_expires_on_the_far_side_is_unknown() {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\
                    MaxExpiredNearUid 3\n\n";
        let record = record::parse(format!("{head}1 1 S\n").as_bytes()).unwrap();
        assert_eq!(record.max_expired_near, 3);
        let uids = UidSet::parse("1").unwrap();
        let fetched = Fetched::ChangedSince(vec![]);
        let settled = judge_server(&record, &RULES, &uids, &fetched, KnownGone::NOTHING, || None);
        assert!(matches!(settled.verdict, SideVerdict::Unknown(_)));
    }

    #[test]
    fn placeholders_ask_by_flagged() {
        assert_eq!(found("1 1 >S\n", "1", &[(1, b"S")], &RULES), SideVerdict::Clean);
        assert_eq!(found("1 1 >S\n", "1", &[(1, b"FS")], &RULES), changes(0, 0, 1));
        assert_eq!(found("1 1 <\n", "1", &[(1, b"S")], &RULES), SideVerdict::Clean);
        assert_eq!(found("1 0 ^\n", "1", &[(1, b"S")], &RULES), changes(1, 0, 0));
        // isync 1.5 upgrades a placeholder by its own flag alone.
        let new = Rules { isync_1_5: true, ..RULES };
        assert_eq!(found("1 1 >S\n", "1", &[(1, b"FS")], &new), SideVerdict::Clean);
        assert_eq!(found("1 1 <S\n", "1", &[(1, b"FS")], &new), changes(0, 0, 1));
        assert_eq!(found("1 1 <S\n", "1", &[(1, b"S")], &new), SideVerdict::Clean);
        assert_eq!(found("1 1 <S\n", "1", &[(1, b"")], &new), changes(0, 0, 1));
    }

    #[test]
    fn sets_are_ranges() {
        let set = UidSet::parse("7,3:1,4,4294967290:4294967295").unwrap();
        assert_eq!(set.ranges().len(), 3);
        assert!(set.contains(4) && !set.contains(5) && set.contains(7) && set.contains(u32::MAX));
        assert_eq!((set.count_above(0), set.count_above(3), set.count_above(7)), (11, 8, 6));
        assert_eq!(set.count_above(u32::MAX), 0);
        for bad in ["", "0", "1:*", "1,,2", "4294967296", "+1", "1:2:3", " 1"] {
            assert_eq!(UidSet::parse(bad), None, "{bad}");
        }
        assert_eq!(UidSet::from_uids([3, 1, 2]), UidSet::parse("1:3").unwrap());
        let all = UidSet::parse("1:4294967295").unwrap();
        let (record, fetched) = (record("1 1 \n"), Fetched::ChangedSince(Vec::new()));
        let settled = judge_server(&record, &RULES, &all, &fetched, KnownGone::NOTHING, || None);
        assert!(matches!(
            settled.verdict,
            SideVerdict::Changed(Changes { new: 4_294_967_286, .. })
        ));
    }
}
