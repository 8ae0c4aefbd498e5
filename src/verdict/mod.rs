//! The verdict: does either side of a mailbox pair differ from what mbsync
//! last recorded for it?
//!
//! Clean means: an mbsync run started now would change no message, no flag, and
//! in the record nothing that is of a message. A run that would do no more than
//! move the marks up to which mbsync has read (`MaxPulledUid`, `MaxPushedUid`),
//! or drop from the record what is left of messages that are gone, changes nothing
//! in this sense. A wrong *clean* would be mail not synced, so whatever is not
//! understood is *unknown*; a wrong *dirty* costs a run.
//!
//! The rules are those of isync 1.4.4 and 1.5.1, read in their sources and tried.
//! Knows the channel's settings, the record and what was seen on either side. Does
//! not depend on: connections, locks, the waiter.

pub mod gone;
pub mod guard;
pub mod maildir;
pub mod record;
pub mod server;

use crate::model::flags;
use crate::model::{Account, Channel, Mailbox, Sides, StoreKind};
use record::{EntryKind, Placeholder, Record};
use serde::{Deserialize, Serialize};

/// What of a channel's settings decides whether a run would do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Each is a setting of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Rules {
    /// `Expunge Far` or `Both`: a run removes every \Deleted far message.
    pub expunge_far: bool,
    /// `Expunge Near` or `Both`.
    pub expunge_near: bool,
    /// `MaxMessages`, 0: none.
    pub max_messages: u32,
    /// `ExpireUnread yes`: unread messages expire, too.
    #[serde(default)]
    pub expire_unread: bool,
    /// `InfoDelimiter`, one byte as in mbsync.
    pub info_delimiter: u8,
    /// `AltMap`: a new Maildir keeps its UIDs outside the file names.
    pub alt_map: bool,
    /// The rules are those of isync 1.5, which differ for placeholders.
    #[serde(default)]
    pub isync_1_5: bool,
    /// `Sync` has `Old` (1.5; `All` has it) towards the near side: a far message
    /// that is not recorded is to be pulled, whatever its UID.
    #[serde(default)]
    pub pull_old: bool,
    /// The same towards the far side.
    #[serde(default)]
    pub push_old: bool,
}

impl Rules {
    /// Rules to take a fingerprint by, where no verdict can be given.
    #[must_use]
    pub const fn none() -> Rules {
        Rules {
            expunge_far: false,
            expunge_near: false,
            max_messages: 0,
            expire_unread: false,
            info_delimiter: b':',
            alt_map: false,
            isync_1_5: false,
            pull_old: false,
            push_old: false,
        }
    }

    /// The rules of a mailbox, which are its channel's.
    ///
    /// # Errors
    /// As [`Rules::of`]; the channel does not exist.
    pub fn of_mailbox(mailbox: &Mailbox, account: &Account) -> Result<Rules, String> {
        let channel = account.channel(&mailbox.channel);
        channel.map_or_else(|| Err("no such channel".into()), Rules::of)
    }

    /// What it takes to read the near side of a mailbox, also where no verdict can be
    /// given.
    #[must_use]
    pub fn of_near(mailbox: &Mailbox, account: &Account) -> Option<Rules> {
        let channel = account.channel(&mailbox.channel)?;
        let StoreKind::Maildir(near) = &channel.near.store.kind else { return None };
        Some(Rules {
            expunge_far: channel.expunge.far,
            expunge_near: channel.expunge.near,
            alt_map: near.alt_map,
            info_delimiter: u8::try_from(near.info_delimiter).ok()?,
            ..Rules::none()
        })
    }

    /// The rules of a channel.
    ///
    /// # Errors
    /// Why no verdict can be given on its mailboxes, as a short text.
    pub fn of(channel: &Channel) -> Result<Rules, String> {
        let StoreKind::Maildir(near) = &channel.near.store.kind else {
            return Err("the near side is no Maildir".to_owned());
        };
        if !matches!(channel.far.store.kind, StoreKind::Imap(_)) {
            return Err("the far side is no IMAP store".to_owned());
        }
        if !channel.full_sync {
            return Err("Sync is one-way or partial".to_owned());
        }
        if channel.expire_far && channel.max_messages > 0 {
            return Err("messages expire on the far side".to_owned());
        }
        let old = channel.old != Sides::default();
        // What expired is then pulled again by rules of its own, and the size of
        // what was never pulled is not known here.
        if old && channel.max_messages > 0 {
            return Err("Sync has Old in it (as All has), with MaxMessages".to_owned());
        }
        if old && channel.max_size {
            return Err("Sync has Old in it (as All has), with MaxSize".to_owned());
        }
        let info_delimiter = u8::try_from(near.info_delimiter)
            .ok()
            .filter(u8::is_ascii_punctuation)
            .ok_or("InfoDelimiter is no punctuation character")?;
        Ok(Rules {
            expunge_far: channel.expunge.far,
            expunge_near: channel.expunge.near,
            max_messages: channel.max_messages,
            expire_unread: channel.expire_unread == Some(true),
            info_delimiter,
            alt_map: near.alt_map,
            isync_1_5: channel.isync_1_5,
            pull_old: channel.old.near,
            push_old: channel.old.far,
        })
    }
}

/// Messages that differ from the record, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changes {
    /// Not in the record, and to be carried over.
    pub new: u32,
    /// In the record and gone, or \Deleted where a run would remove it.
    pub deleted: u32,
    /// With other flags than recorded.
    pub flags: u32,
    /// What is no message's change: entries that a run would expire or drop,
    /// and changes of an unknown kind.
    pub other: u32,
}

impl Changes {
    /// Nothing differs.
    #[must_use]
    pub fn none(self) -> bool {
        self == Changes::default()
    }

    /// These, and then those.
    #[must_use]
    pub fn and(self, then: Changes) -> Changes {
        Changes {
            new: self.new.saturating_add(then.new),
            deleted: self.deleted.saturating_add(then.deleted),
            flags: self.flags.saturating_add(then.flags),
            other: self.other.saturating_add(then.other),
        }
    }
}

impl std::fmt::Display for Changes {
    /// `2 new, 1 deleted`, or `nothing`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.new, "new"),
            (self.deleted, "deleted"),
            (self.flags, if self.flags == 1 { "flag change" } else { "flag changes" }),
            (self.other, "other"),
        ];
        let mut text = kinds.iter().filter(|(count, _)| *count > 0).peekable();
        if text.peek().is_none() {
            return f.write_str("nothing");
        }
        while let Some((count, kind)) = text.next() {
            write!(f, "{count} {kind}{}", if text.peek().is_some() { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What is known of one side of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SideVerdict {
    /// As recorded.
    Clean,
    /// Different from the record in this.
    Changed(Changes),
    /// Unknown, and why.
    Unknown(String),
}

impl SideVerdict {
    /// Whether it was judged.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self, SideVerdict::Unknown(_))
    }

    /// [`SideVerdict::Clean`] if `changes` is nothing.
    #[must_use]
    pub fn from_changes(changes: Changes) -> SideVerdict {
        if changes.none() { SideVerdict::Clean } else { SideVerdict::Changed(changes) }
    }
}

/// The verdict on a mailbox pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be pushed.
    pub near: SideVerdict,
    /// What is to be pulled.
    pub far: SideVerdict,
}

impl Verdict {
    /// A run would change nothing.
    pub const CLEAN: Verdict = Verdict { near: SideVerdict::Clean, far: SideVerdict::Clean };
}

impl std::fmt::Display for Verdict {
    /// `to push: 1 new; to pull: 1 deleted`, or `in sync`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |verdict: &SideVerdict| match verdict {
            SideVerdict::Clean => None,
            SideVerdict::Changed(changes) => Some(changes.to_string()),
            SideVerdict::Unknown(why) => Some(why.clone()),
        };
        match (text(&self.near), text(&self.far)) {
            (None, None) => f.write_str("in sync"),
            (Some(near), None) => write!(f, "to push: {near}"),
            (None, Some(far)) => write!(f, "to pull: {far}"),
            (Some(near), Some(far)) => write!(f, "to push: {near}; to pull: {far}"),
        }
    }
}

/// What is remembered of a mailbox pair between scans, in `seen.json`. Either
/// half is replaced when its side is found clean, and kept otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanState {
    /// The near side, when last found clean.
    pub near: Option<maildir::CleanMaildir>,
    /// The far side, when last found clean.
    pub far: Option<server::CleanServer>,
    /// Whether the server lets `$Forwarded` be stored in the mailbox; `None` as
    /// long as no PERMANENTFLAGS were seen.
    pub forwarded: Option<bool>,
    /// What the last scan of the far side found gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone: Option<gone::Gone>,
}

/// What both sides looked like before a run, for mailboxes of which no verdict
/// can be given or which the run has left dirty, in `stuck.json`. While it is
/// the same, another run would do no more than that one did.
///
/// Kept only after a run that ended by itself and reached the mailbox: one that
/// was killed, or lost its server, says nothing of it.
///
/// The record's stamp is in it because mbsync replaces its record whenever, and
/// only when, it has changed something: without it, a message pulled by the run
/// and then removed would leave the same picture as before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// Digest of the Maildir.
    pub near: Option<Digest>,
    /// Stamp of mbsync's record.
    pub record: Option<maildir::Stamp>,
    /// STATUS.
    pub far: Option<server::ServerStatus>,
    /// mbsync was interrupted: the next run has something to take up.
    pub unfinished: bool,
}

/// A digest of the messages of a Maildir: names and flags, in any order, in cur
/// or new alike, so that it stays the same when mutt moves old messages from new
/// to cur. Made to notice changes, not to withstand a forger, who would have to
/// own the Maildir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    files: u64,
    sum: u64,
    product: u64,
}

impl Digest {
    /// Takes in one message: its name up to the flags, and its flags.
    fn add(&mut self, stem: &[u8], flags: flags::Flags) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = u64::from(flags.bits()) ^ ((stem.len() as u64) << 8);
        let mut fold = |word: u64| {
            let wide = u128::from(hash ^ word).wrapping_mul((u128::from(ODD) << 1) | 1);
            #[allow(clippy::cast_possible_truncation)]
            {
                hash = (wide as u64) ^ (wide >> 64) as u64;
                hash = hash.rotate_left(23).wrapping_mul(ODD);
            }
        };
        for chunk in stem.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            fold(u64::from_le_bytes(word));
        }
        fold(!0);
        self.files += 1;
        self.sum = self.sum.wrapping_add(hash);
        self.product = self.product.wrapping_add(hash.rotate_left(32).wrapping_mul(hash | 1));
    }
}

/// What mbsync itself would change although both sides are as recorded:
/// entries to expire or to drop. Zero without `MaxMessages`, but for records
/// that a change of settings or a crash left behind. Pairs that are known to have
/// lost a message do not count.
pub(crate) fn pending_cleanup(record: &Record, rules: &Rules, known: gone::KnownGone<'_>) -> u32 {
    let limited = rules.max_messages > 0;
    // Without MaxMessages, isync 1.5 drops expired ones from memory at each run, and does
    // not save its record for that (`box_closed_p2` in src/sync.c).
    let expunges = rules.expunge_far || rules.expunge_near;
    let drops = limited || (expunges && !rules.isync_1_5);
    let pending = |entry: &&record::Entry| match (entry.far, entry.near) {
        (far, 0) => {
            let below = far <= record.max_expired_far && far <= record.max_pulled;
            below && drops && entry.kind == EntryKind::Expired
        }
        // Expired, and no far message left to count it by: isync 1.4 takes it back.
        (0, _) => limited && !rules.isync_1_5 && entry.kind == EntryKind::Expired,
        _ => false,
    };
    let cleared = record.entries().iter().filter(pending).count();
    let expire = expiring(record, rules, known).filter(|entry| !kept_by_server(entry, rules));
    u32::try_from(cleared + expire.count()).unwrap_or(u32::MAX)
}

/// Pairs that a run would expire, or take back from expiry, under `MaxMessages`, as far
/// as the record shows (isync 1.4 also expires a placeholder that was read here); by
/// far UID.
pub(crate) fn expiring<'a>(
    record: &'a Record,
    rules: &'a Rules,
    known: gone::KnownGone<'a>,
) -> impl Iterator<Item = &'a record::Entry> {
    let expired = |entry: &record::Entry| entry.kind == EntryKind::Expired;
    let alive = move |entry: &&record::Entry| {
        // isync 1.5 counts one that expired although its far message is gone.
        let counted = rules.isync_1_5 && expired(entry);
        entry.near != 0
            && (counted || !known.is_over(entry.far))
            && (expired(entry) || !entry.flags.has(flags::Flags::TRASHED))
    };
    let limited = record.with_far().iter().filter(move |_| rules.max_messages > 0);
    let pairs = limited.filter(alive);
    let mut excess = i64::try_from(pairs.clone().count()).unwrap_or(i64::MAX);
    excess -= i64::from(rules.max_messages);
    pairs.filter(move |entry| {
        let important = is_important(entry.flags, rules);
        let expires = !important && (excess > 0 || expired(entry));
        if important || expires {
            excess -= 1;
        }
        expires != expired(entry)
    })
}

/// Whether a message with these flags never expires.
pub(crate) fn is_important(seen: flags::Flags, rules: &Rules) -> bool {
    use flags::Flags;
    seen.has(Flags::FLAGGED) || !(seen.has(Flags::SEEN) || rules.expire_unread)
}

/// Whether the Flagged of the far message keeps the pair from expiry, and is not in the
/// record: isync 1.5 does not carry it to a placeholder.
pub(crate) fn kept_by_server(entry: &record::Entry, rules: &Rules) -> bool {
    rules.isync_1_5 && entry.placeholder == Placeholder::Near
}

/// Whether a near message that is \Deleted stays as it is where the far one is gone.
/// isync 1.4 takes an expired one back, having lost what it counts it by.
pub(crate) fn leaves_as_deleted(entry: &record::Entry, rules: &Rules) -> bool {
    entry.kind == EntryKind::Plain || (rules.isync_1_5 && entry.kind == EntryKind::Expired)
}

/// Whether the flags seen on the near side call for something, given the pair's
/// entry: `None` if not. Flags are compared as mbsync compares them.
pub(crate) fn near_difference(
    entry: &record::Entry,
    seen: flags::Flags,
    rules: &Rules,
    forwarded: Option<bool>,
) -> Option<Difference> {
    use flags::Flags;
    if seen.has(Flags::TRASHED) && rules.expunge_near {
        return Some(Difference::Deleted);
    }
    if entry.kind == EntryKind::Skipped {
        return Some(Difference::New);
    }
    if asks_for_whole(entry, Placeholder::Near, seen, entry.far, rules) {
        return Some(Difference::Flags);
    }
    if entry.far == 0 {
        return None;
    }
    let mut pushed = carried(entry, Placeholder::Near, seen, rules);
    if entry.kind == EntryKind::Expired {
        pushed = pushed.without(Flags::TRASHED);
    }
    // Not known to be refused: supposed to be taken, for a run that pushes
    // nothing is better than a flag that stays here.
    if forwarded == Some(false) {
        pushed = pushed.without(Flags::PASSED);
    }
    (pushed != entry.flags).then_some(Difference::Flags)
}

/// Whether the Flagged of a pair's message on `side` asks for the whole of what
/// a placeholder stands for. isync 1.4 takes it from either message, 1.5 from the
/// placeholder of a message that was not known to be gone. `other`: the UID on
/// the other side.
pub(crate) fn asks_for_whole(
    entry: &record::Entry,
    side: Placeholder,
    seen: flags::Flags,
    other: u32,
    rules: &Rules,
) -> bool {
    let here = if rules.isync_1_5 {
        entry.placeholder == side && other != 0
    } else {
        entry.placeholder != Placeholder::None
    };
    here && seen.has(flags::Flags::FLAGGED)
}

/// The flags that mbsync carries from the message on `side` to the other one.
pub(crate) fn carried(
    entry: &record::Entry,
    side: Placeholder,
    seen: flags::Flags,
    rules: &Rules,
) -> flags::Flags {
    use flags::Flags;
    if entry.placeholder == side {
        // A placeholder's Seen says nothing of the message, and its Flagged asks
        // for the whole message. isync 1.5 carries that Seen is taken back.
        let kept = if rules.isync_1_5 { entry.flags } else { Flags::NONE };
        let dropped = Flags::SEEN.without(kept).with(Flags::FLAGGED);
        seen.without(dropped)
    } else if entry.placeholder != Placeholder::None && rules.isync_1_5 {
        // It would ask for the whole message.
        seen.without(Flags::FLAGGED)
    } else {
        seen
    }
}

/// The kind of a message's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    New,
    Deleted,
    Flags,
}

impl Changes {
    pub(crate) fn count(&mut self, kind: Difference) {
        let place = match kind {
            Difference::New => &mut self.new,
            Difference::Deleted => &mut self.deleted,
            Difference::Flags => &mut self.flags,
        };
        *place = place.saturating_add(1);
    }

    pub(crate) fn count_if(&mut self, kind: Option<Difference>) {
        if let Some(kind) = kind {
            self.count(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::flags::Flags;
    use std::collections::BTreeSet;

    fn changes(new: u32, deleted: u32, flags: u32, other: u32) -> Changes {
        Changes { new, deleted, flags, other }
    }

    #[test]
    fn changes_are_readable() {
        assert_eq!(Changes::default().to_string(), "nothing");
        assert_eq!(changes(2, 1, 0, 0).to_string(), "2 new, 1 deleted");
        assert_eq!(changes(0, 0, 3, 0).to_string(), "3 flag changes");
        assert_eq!(changes(1, 2, 3, 4).to_string(), "1 new, 2 deleted, 3 flag changes, 4 other");
        assert!(changes(0, 0, 0, 1) != Changes::default() && !changes(0, 0, 0, 1).none());
    }

    #[test]
    fn a_verdict_says_what_is_to_be_done_on_either_side() {
        let changed = || SideVerdict::Changed(changes(1, 0, 0, 0));
        let unknown = || SideVerdict::Unknown("x".into());
        let text = |near, far| Verdict { near, far }.to_string();
        assert_eq!(Verdict::CLEAN.to_string(), "in sync");
        assert_eq!(text(changed(), SideVerdict::Clean), "to push: 1 new");
        assert_eq!(text(SideVerdict::Clean, changed()), "to pull: 1 new");
        assert_eq!(text(changed(), unknown()), "to push: 1 new; to pull: x");
        assert_eq!(text(unknown(), SideVerdict::Clean), "to push: x");
    }

    /// Whether `all` has each key of `part` with its value.
    fn contains(all: &serde_json::Value, part: &serde_json::Value) -> bool {
        match (all, part) {
            (serde_json::Value::Object(all), serde_json::Value::Object(part)) => {
                part.iter().all(|(key, value)| all.get(key).is_some_and(|all| contains(all, value)))
            }
            _ => all == part,
        }
    }

    #[test]
    fn seen_json_keeps_the_names_of_0_1_0() {
        let rules = Rules::none();
        let near = maildir::CleanMaildir {
            stamps: None,
            digest: Some(Digest::default()),
            record: None,
            rules: rules.clone(),
            forwarded: Some(true),
            left: None,
            unread: None,
        };
        let status = server::ServerStatus {
            uid_validity: 1,
            uid_next: 2,
            messages: 3,
            highest_modseq: Some(4),
        };
        let left = crate::model::uid_set::UidSet::EMPTY;
        let (max_pulled, max_pushed, record) = (5, 6, None);
        let beside = None;
        let far =
            server::CleanServer { status, rules, max_pulled, max_pushed, record, left, beside };
        let state = CleanState { near: Some(near), far: Some(far), forwarded: None, gone: None };
        let rules = r#"{"expunge_far":false,"expunge_near":false,"max_messages":0,"info_delimiter":58,"alt_map":false}"#;
        let near = format!(
            r#"{{"glance":null,"digest":{{"files":0,"sum":0,"product":0}},"record":null,"rules":{rules},"forwarded":true}}"#
        );
        let status = r#"{"uid_validity":1,"uid_next":2,"messages":3,"highest_modseq":4}"#;
        let far = format!(r#"{{"status":{status},"rules":{rules},"max_pulled":5,"max_pushed":6}}"#);
        let text = format!(r#"{{"near":{near},"far":{far},"forwarded":null}}"#);
        assert_eq!(serde_json::from_str::<CleanState>(&text).unwrap(), state);
        // 0.1.0 ignores keys that it does not know.
        let old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(contains(&serde_json::to_value(&state).unwrap(), &old));
    }

    /// As many messages as there are in a large mailbox, and their flags.
    #[test]
    fn no_two_of_many_maildirs_have_one_digest() {
        let one = |name: &str, flags| {
            let mut digest = Digest::default();
            digest.add(name.as_bytes(), flags);
            digest
        };
        let mut seen = BTreeSet::new();
        let mut add = |digest: Digest| assert!(seen.insert((digest.sum, digest.product)));
        for number in 0..5000 {
            add(one(&format!("17000{number:05}.M1P2_3.host,U=4"), Flags::NONE));
            add(one(&format!("{number}"), Flags::SEEN));
        }
        for bits in 0..64 {
            add(one("name", Flags::from_bits(bits)));
        }
        for length in 1..40 {
            add(one(&"\0".repeat(length), Flags::NONE));
        }
        let many = |names: &[&str]| {
            let mut digest = Digest::default();
            for name in names {
                digest.add(name.as_bytes(), Flags::NONE);
            }
            digest
        };
        assert_eq!(many(&["a", "b", "c"]), many(&["c", "a", "b"]));
        assert_ne!(many(&["a", "a"]), many(&["b", "b"]));
        assert_ne!(many(&[]), many(&[""]));
    }

    const TWO: Rules = Rules { max_messages: 2, ..Rules::none() };

    fn cleanup(marks: (u32, u32), entries: &str, rules: &Rules) -> u32 {
        let (pulled, expired) = marks;
        let head = format!(
            "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid {pulled}\nMaxPushedUid 9\n\
             MaxExpiredFarUid {expired}\n\n"
        );
        let record = record::parse(format!("{head}{entries}").as_bytes()).unwrap();
        pending_cleanup(&record, rules, gone::KnownGone::NOTHING)
    }

    #[test]
    fn entries_that_a_run_would_drop_are_counted() {
        let none = Rules::none();
        assert_eq!(cleanup((9, 5), "0 0 \n1 1 \n", &none), 0, "no entry at all");
        // Expired, and up to both marks.
        for (entry, kept, limited) in [
            ("5 0 ~\n", 0, 1),
            ("6 0 ~\n", 0, 0),
            ("5 0 \n", 0, 0),
            ("6 0 \n", 0, 0),
            ("0 4 ~\n", 0, 1),
            ("0 4 \n", 0, 0),
        ] {
            assert_eq!(cleanup((9, 5), entry, &none), kept, "{entry}");
            assert_eq!(cleanup((9, 5), entry, &TWO), limited, "{entry}");
        }
        let expunges = Rules { expunge_near: true, ..Rules::none() };
        assert_eq!(cleanup((9, 20), "9 0 ~\n", &expunges), 1);
        assert_eq!(cleanup((9, 20), "10 0 ~\n", &expunges), 0);
        // isync 1.5 saves this with MaxMessages alone, and takes nothing back.
        let newer = Rules { isync_1_5: true, ..expunges };
        assert_eq!(cleanup((9, 20), "9 0 ~\n", &newer), 0);
        let limited = Rules { isync_1_5: true, ..TWO };
        assert_eq!(cleanup((9, 20), "9 0 ~\n", &limited), 1);
        assert_eq!(cleanup((9, 20), "0 4 ~\n", &limited), 0);
    }

    #[test]
    fn pairs_that_a_run_would_expire_or_take_back_are_counted() {
        let counted = |entries: &[&str]| cleanup((9, 0), &(entries.join("\n") + "\n"), &TWO);
        assert_eq!(counted(&["1 1 S", "2 2 S"]), 0);
        assert_eq!(counted(&["1 1 S", "2 2 S", "3 3 S"]), 1);
        assert_eq!(counted(&["1 1 S", "2 2 S", "3 3 S", "4 4 S"]), 2);
        // Important ones stay, and count.
        assert_eq!(counted(&["1 1 FS", "2 2 S", "3 3 S"]), 0);
        assert_eq!(counted(&["1 1 FS", "2 2 S", "3 3 S", "4 4 S"]), 1);
        assert_eq!(counted(&["1 1 F", "2 2 FS", "3 3 FS"]), 0);
        // Unread ones only where ExpireUnread says so.
        let unread = "1 1 \n2 2 S\n3 3 S\n";
        let expire_unread = Rules { expire_unread: true, ..TWO };
        assert_eq!(cleanup((9, 0), unread, &TWO), 0);
        assert_eq!(cleanup((9, 0), unread, &expire_unread), 1);
        // What has expired stays so, counted or not, until it becomes important.
        assert_eq!(counted(&["1 1 ~S", "2 2 S", "3 3 S"]), 0);
        assert_eq!(counted(&["1 1 ~S", "2 2 S"]), 0);
        assert_eq!(counted(&["1 1 ~FS", "2 2 S"]), 1);
        assert_eq!(counted(&["1 1 ~ST", "2 2 S", "3 3 S"]), 0);
        // The Flagged of what a placeholder stands for is not in the record of isync 1.5.
        let newer = Rules { isync_1_5: true, ..TWO };
        for (rules, pending) in [(TWO, 1), (newer, 0)] {
            assert_eq!(cleanup((9, 0), "1 1 >S\n2 2 S\n3 3 S\n", &rules), pending);
        }
        // What is deleted, or not here, does not count.
        assert_eq!(counted(&["1 1 ST", "2 2 S", "3 3 S"]), 0);
        assert_eq!(counted(&["1 0 S", "2 2 S", "3 3 S"]), 0);
        assert_eq!(counted(&["0 1 S", "2 2 S", "3 3 S"]), 0);
    }
}
