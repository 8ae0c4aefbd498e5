//! The verdict against a model of what mbsync does, and its parsers against
//! arbitrary bytes.
//!
//! The model follows mbsync's own order of work on one mailbox pair, message by
//! message, and says whether anything would change. It shares no code with the
//! verdict, which asks a different question of each side alone.

#![allow(clippy::unwrap_used)]

use mutt_sync::model::flags::Flags;
use mutt_sync::verdict::maildir::{MaildirListing, Numbering, judge_maildir};
use mutt_sync::verdict::record::{Entry, EntryKind, Placeholder, Record, parse};
use mutt_sync::verdict::server::{Fetched, UidSet, judge_server};
use mutt_sync::verdict::{Rules, SideVerdict, Verdict};
use proptest::prelude::*;
use std::collections::BTreeMap;

const F: usize = 0;
const N: usize = 1;

fn cases(short: u32) -> ProptestConfig {
    let soak = std::env::var_os("SOAK").is_some();
    let mut config = ProptestConfig::with_cases(if soak { short * 50 } else { short });
    config.failure_persistence = None;
    // The seed is fixed, so that a failure can be had again.
    config.rng_seed = proptest::test_runner::RngSeed::Fixed(5465);
    config
}

/// Both sides of a pair, its record, and the settings that matter.
#[derive(Debug, Clone)]
struct Pair {
    entries: Vec<Entry>,
    marks: [u32; 2],
    max_expired: u32,
    /// By UID, on the far and the near side.
    messages: [BTreeMap<u32, Flags>; 2],
    unnumbered: Vec<Flags>,
    expunge: [bool; 2],
    max_messages: u32,
    expire_unread: bool,
    forwarded: bool,
}

/// Whether mbsync would change a message, a flag or an entry, with full Sync.
fn model_changes(pair: &Pair) -> bool {
    let uid = |entry: &Entry, side: usize| if side == F { entry.far } else { entry.near };
    let recorded = |side: usize, wanted: u32| {
        pair.entries.iter().find(|entry| wanted != 0 && uid(entry, side) == wanted)
    };
    // With MaxMessages, far messages of the expired range are not even loaded,
    // unless they are paired.
    let loaded = |side: usize, wanted: u32| {
        side == N
            || pair.max_messages == 0
            || wanted > pair.max_expired.min(pair.marks[F])
            || recorded(F, wanted).is_some_and(|entry| entry.near != 0)
    };
    let message = |side: usize, wanted: u32| {
        pair.messages[side].get(&wanted).copied().filter(|_| loaded(side, wanted))
    };
    let kept = |side: usize, flags: Flags| {
        if side == F && !pair.forwarded { flags.without(Flags::PASSED) } else { flags }
    };
    let expires = expiring(pair, &message);

    // Removal takes every \Deleted message, known or not.
    for side in [F, N] {
        let doomed = |flags: &Flags| flags.has(Flags::TRASHED);
        if pair.expunge[side] && pair.messages[side].values().any(doomed) {
            return true;
        }
    }
    for (index, entry) in pair.entries.iter().enumerate() {
        let seen = [message(F, entry.far), message(N, entry.near)];
        if seen == [None, None] {
            return true;
        }
        for side in [F, N] {
            let other = 1 - side;
            let gone = |side: usize| uid(entry, side) != 0 && seen[side].is_none();
            if gone(side) || uid(entry, side) == 0 {
                continue;
            }
            if gone(other) {
                // A deletion to carry over, or an expired message to forget.
                return true;
            }
            let Some(mut source) = seen[other].map(|flags| kept(side, flags)) else {
                continue;
            };
            if side == F && entry.kind == EntryKind::Expired {
                source = source.without(Flags::TRASHED);
            }
            let dummy = [Placeholder::Far, Placeholder::Near][other];
            if entry.placeholder == dummy {
                source = source.without(Flags::SEEN.with(Flags::FLAGGED));
            }
            if source != entry.flags {
                return true;
            }
        }
        let flagged = seen.iter().flatten().any(|flags| flags.has(Flags::FLAGGED));
        if entry.placeholder != Placeholder::None && flagged {
            return true;
        }
        if entry.kind == EntryKind::Skipped {
            return true;
        }
        if entry.near != 0
            && pair.max_messages > 0
            && expires[index] != (entry.kind == EntryKind::Expired)
        {
            return true;
        }
        let purges = pair.expunge[F] || pair.expunge[N] || pair.max_messages > 0;
        if purges
            && entry.near == 0
            && entry.kind == EntryKind::Expired
            && entry.far <= pair.marks[F].min(pair.max_expired)
        {
            return true;
        }
    }
    for side in [F, N] {
        // New on the other side of this one.
        let other = 1 - side;
        for (&uid, flags) in &pair.messages[other] {
            if recorded(other, uid).is_some() || uid <= pair.marks[other] {
                continue;
            }
            if !(pair.expunge[side] && flags.has(Flags::TRASHED)) {
                return true;
            }
        }
    }
    // Every file without a UID is given one, and renamed.
    !pair.unnumbered.is_empty()
}

/// Which entries `MaxMessages` would expire.
fn expiring(pair: &Pair, message: &dyn Fn(usize, u32) -> Option<Flags>) -> Vec<bool> {
    let mut order: Vec<usize> = (0..pair.entries.len()).collect();
    order.sort_by_key(|&index| pair.entries[index].far);
    order.retain(|&index| {
        let entry = &pair.entries[index];
        let near = message(N, entry.near);
        message(F, entry.far).is_some()
            && near
                .is_some_and(|flags| !flags.has(Flags::TRASHED) || entry.kind == EntryKind::Expired)
    });
    let mut excess = i64::try_from(order.len()).unwrap() - i64::from(pair.max_messages);
    let mut expires = vec![false; pair.entries.len()];
    for index in order {
        let entry = &pair.entries[index];
        let near = message(N, entry.near).unwrap();
        let important = near.has(Flags::FLAGGED) || !(near.has(Flags::SEEN) || pair.expire_unread);
        if important {
            excess -= 1;
        } else if excess > 0 || entry.kind == EntryKind::Expired {
            expires[index] = true;
            excess -= 1;
        }
    }
    expires
}

const HEAD: &str = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 3\nMaxPushedUid 4\n\n";

fn rules(pair: &Pair) -> Rules {
    Rules {
        expunge_far: pair.expunge[F],
        expunge_near: pair.expunge[N],
        max_messages: pair.max_messages,
        info_delimiter: b':',
        alt_map: false,
    }
}

/// The verdict's answer to the same question.
fn verdict_on(pair: &Pair) -> Verdict {
    let mut marks = parse(HEAD.as_bytes()).unwrap();
    [marks.max_pulled, marks.max_pushed] = pair.marks;
    marks.max_expired_far = pair.max_expired;
    let record = Record::new(&marks, pair.entries.clone()).unwrap();
    let rules = rules(pair);
    let mut listing = MaildirListing::new(b':');
    for (uid, flags) in &pair.messages[N] {
        listing.add(format!("17.4_{uid}.host,U={uid}:2,{flags}").as_bytes());
    }
    for (count, flags) in pair.unnumbered.iter().enumerate() {
        listing.add(format!("17.R{count}.host:2,{flags}").as_bytes());
    }
    let numbering = Numbering { validity: 2, highest: 1000 };
    let near = judge_maildir(&record, &mut listing, numbering, &rules, Some(pair.forwarded));
    let uids = UidSet::from_uids(pair.messages[F].keys().copied());
    let flags = Fetched::Whole(pair.messages[F].iter().map(|(&u, &f)| (u, f)).collect());
    Verdict { near, far: judge_server(&record, &rules, &uids, &flags) }
}

fn any_flags() -> impl Strategy<Value = Flags> {
    // Trashed is kept rare, or nearly all is dirty.
    prop_oneof![
        8 => Just(Flags::NONE),
        8 => Just(Flags::SEEN),
        3 => (0_u8..32).prop_map(Flags::from_bits),
        1 => Just(Flags::TRASHED),
    ]
}

/// What is seen of a recorded message.
#[derive(Debug, Clone, Copy)]
enum Sight {
    AsRecorded,
    With(Flags),
    Gone,
}

fn sight() -> impl Strategy<Value = Sight> {
    prop_oneof![
        40 => Just(Sight::AsRecorded),
        1 => any_flags().prop_map(Sight::With),
        1 => Just(Sight::Gone),
    ]
}

prop_compose! {
    fn pair(max_messages: bool)(
        lines in prop::collection::vec(
            (
                (any::<prop::sample::Index>(), 0..20_u8, any_flags()),
                0..60_u8,
                0..60_u8,
                sight(),
                sight(),
            ),
            0..8,
        ),
        strangers in prop::collection::vec((any::<bool>(), 20..40_u32, any_flags()), 0..3),
        unnumbered in prop::option::weighted(0.05, any_flags()),
        marks in (18..60_u32, 18..60_u32),
        max_expired in 0..30_u32,
        settings in (any::<bool>(), any::<bool>(), 1..8_u32, any::<bool>(), any::<bool>()),
    ) -> Pair {
        let (expunge_far, expunge_near, limit, expire_unread, forwarded) = settings;
        let mut pair = Pair {
            entries: Vec::new(),
            marks: [marks.0, marks.1],
            max_expired: if max_messages { max_expired } else { 0 },
            messages: [BTreeMap::new(), BTreeMap::new()],
            unnumbered: unnumbered.into_iter().collect(),
            expunge: [expunge_far, expunge_near],
            max_messages: if max_messages { limit } else { 0 },
            expire_unread,
            forwarded,
        };
        let mut free: Vec<u32> = (1..=20).collect();
        for (count, line) in lines.into_iter().enumerate() {
            let ((near, sides, flags), placeholder, kind, far_sight, near_sight) = line;
            let far_uid = u32::try_from(count).unwrap() * 2 + 1;
            let near_uid = free.remove(near.index(free.len()));
            let entry = Entry {
                far: if sides == 0 { 0 } else { far_uid },
                near: if sides == 1 { 0 } else { near_uid },
                flags,
                placeholder: match placeholder {
                    0 => Placeholder::Far,
                    1..=4 => Placeholder::Near,
                    _ => Placeholder::None,
                },
                kind: match kind {
                    0 => EntryKind::Skipped,
                    1..=9 if max_messages => EntryKind::Expired,
                    _ => EntryKind::Plain,
                },
            };
            for (side, uid, sight) in [(F, entry.far, far_sight), (N, entry.near, near_sight)] {
                let seen = match sight {
                    Sight::AsRecorded => Some(entry.flags),
                    Sight::With(flags) => Some(flags),
                    Sight::Gone => None,
                };
                if let (Some(flags), true) = (seen, uid != 0) {
                    pair.messages[side].insert(uid, flags);
                }
            }
            pair.entries.push(entry);
        }
        for (near, uid, flags) in strangers {
            pair.messages[usize::from(near)].insert(uid, flags);
        }
        pair
    }
}

fn written(pair: &Pair) -> String {
    let line = |entry: &Entry| {
        let placeholder = match entry.placeholder {
            Placeholder::None => "",
            Placeholder::Far => "<",
            Placeholder::Near => ">",
        };
        let kind = match entry.kind {
            EntryKind::Plain => "",
            EntryKind::Expired => "~",
            EntryKind::Skipped => "^",
        };
        format!("{} {} {placeholder}{kind}{}\n", entry.far, entry.near, entry.flags)
    };
    HEAD.to_owned() + &pair.entries.iter().map(line).collect::<String>()
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn clean_exactly_when_the_model_changes_nothing(pair in pair(false)) {
        let verdict = verdict_on(&pair);
        prop_assert_eq!(verdict == Verdict::CLEAN, !model_changes(&pair), "{}", verdict);
    }

    #[test]
    fn never_wrongly_clean_with_max_messages(pair in pair(true)) {
        let verdict = verdict_on(&pair);
        prop_assert!(verdict != Verdict::CLEAN || !model_changes(&pair), "{}", verdict);
    }

    #[test]
    fn a_record_of_any_bytes_is_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_record_nearly_right_is_read_or_refused(
        text in "([0-9]{1,2} [0-9]{1,2}( [<>]?[~^]?D?F?P?R?S?T?)?\n|MaxPulledUid|[<>~^DFPRSTX \n]|[0-9]{1,11}|-){0,30}"
    ) {
        let _ = parse(text.as_bytes());
        if let Ok(record) = parse(format!("{HEAD}{text}").as_bytes()) {
            // Nothing is made up: as many entries as lines that are of a message.
            let of_one = |line: &&str| line.split(' ').take(2).any(|uid| uid.parse() != Ok(0_u32));
            prop_assert_eq!(record.entries().len(), text.lines().filter(of_one).count());
        }
    }

    #[test]
    fn a_record_says_the_same_when_written_again(pair in pair(true)) {
        let record = parse(written(&pair).as_bytes()).unwrap();
        let (mut entries, mut read) = (pair.entries.clone(), record.entries().to_vec());
        entries.sort();
        read.sort();
        prop_assert_eq!(read, entries);
    }

    #[test]
    fn any_name_is_listed(
        names in prop::collection::vec(prop::collection::vec(1_u8.., 0..60), 0..20)
    ) {
        let mut listing = MaildirListing::new(b':');
        for name in &names {
            listing.add(name);
        }
        let dots = names.iter().filter(|name| name.first().is_none_or(|&b| b == b'.')).count();
        prop_assert_eq!(listing.files(), (names.len() - dots) as u64);
    }

    #[test]
    fn names_that_matter_are_read_whatever_surrounds_them(
        stem in "[0-9]{1,10}\\.[A-Za-z0-9_=]{1,12}\\.[a-z.]{1,20}",
        uid in 1_u32..100_000,
        bits in 0_u8..64,
        keywords in "[a-z]{0,5}",
    ) {
        let flags = Flags::from_bits(bits);
        let record = parse(format!("{HEAD}1 {uid} {flags}\n").as_bytes()).unwrap();
        let rules = Rules {
            expunge_far: false,
            expunge_near: false,
            max_messages: 0,
            info_delimiter: b'!',
            alt_map: false,
        };
        let mut listing = MaildirListing::new(b'!');
        listing.add(format!("{stem},U={uid}!2,{flags}{keywords}").as_bytes());
        let numbering = Numbering { validity: 2, highest: u32::MAX - 1 };
        let found = judge_maildir(&record, &mut listing, numbering, &rules, Some(true));
        prop_assert_eq!(found, SideVerdict::Clean);
    }

    #[test]
    fn any_set_is_read_or_refused(text in "[0-9:,*]{0,40}") {
        if let Some(set) = UidSet::parse(&text) {
            let mut named = text.split([',', ':']).map(|part| part.parse().unwrap());
            prop_assert!(named.all(|uid| set.contains(uid)));
            prop_assert!(set.count_above(0) >= 1);
        }
    }

    #[test]
    fn flags_are_the_same_in_all_spellings(bits in 0_u8..64) {
        let flags = Flags::from_bits(bits);
        let text = flags.to_string();
        prop_assert_eq!(Flags::from_record(text.as_bytes()), Some(flags));
        prop_assert_eq!(Flags::among(text.as_bytes()), flags);
        let imap = ["\\Draft", "\\Flagged", "$Forwarded", "\\Answered", "\\Seen", "\\Deleted"];
        let named = imap.iter().zip("DFPRST".chars()).filter(|(_, letter)| text.contains(*letter));
        prop_assert_eq!(Flags::from_imap(named.map(|(name, _)| *name)), flags);
    }
}
