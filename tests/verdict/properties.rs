//! The verdict against a model of what mbsync does, and its parsers against
//! arbitrary bytes.
//!
//! The model follows mbsync's own order of work on one mailbox pair, message by
//! message, and says whether anything would change. It shares no code with the
//! verdict, which asks a different question of each side alone.

#![allow(clippy::unwrap_used)]

use mutt_sync::model::flags::Flags;
use mutt_sync::verdict::gone::{Gone, KeptGone, KnownGone};
use mutt_sync::verdict::maildir::{MaildirListing, Numbering, Stamp, judge_maildir};
use mutt_sync::verdict::record::{Entry, EntryKind, Placeholder, Record, parse};
use mutt_sync::verdict::server::{Fetched, Settled, UidSet, judge_server};
use mutt_sync::verdict::{Rules, SideVerdict, Verdict};
use proptest::prelude::*;
use std::collections::BTreeMap;

const F: usize = 0;
const N: usize = 1;

fn cases(short: u32) -> ProptestConfig {
    let soak = std::env::var_os("SOAK").is_some();
    let mut config = ProptestConfig::with_cases(if soak { short * 50 } else { short });
    config.failure_persistence = None;
    config.max_global_rejects = u32::MAX;
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
    isync_1_5: bool,
    /// `Old` towards the far and the near side (isync 1.5).
    old: [bool; 2],
}

/// Whether mbsync would change a message, a flag or an entry that is of one, with
/// full Sync.
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
            // It is dropped, and was of nothing.
            continue;
        }
        for side in [F, N] {
            let other = 1 - side;
            let gone = |side: usize| uid(entry, side) != 0 && seen[side].is_none();
            if gone(side) || uid(entry, side) == 0 {
                continue;
            }
            if gone(other) {
                // A deletion to carry over, unless that was done. What has expired
                // is forgotten, and was of no near message.
                let expired = side == F && entry.kind == EntryKind::Expired;
                if !expired && seen[side].is_some_and(|flags| !flags.has(Flags::TRASHED)) {
                    return true;
                }
                continue;
            }
            let Some(mut source) = seen[other].map(|flags| kept(side, flags)) else {
                continue;
            };
            if side == F && entry.kind == EntryKind::Expired {
                source = source.without(Flags::TRASHED);
            }
            let dummy = [Placeholder::Far, Placeholder::Near];
            if entry.placeholder == dummy[other] {
                let unseen = pair.isync_1_5 && entry.flags.has(Flags::SEEN);
                source = source.without(Flags::FLAGGED);
                source = if unseen { source } else { source.without(Flags::SEEN) };
            }
            if entry.placeholder == dummy[side] && pair.isync_1_5 {
                source = source.without(Flags::FLAGGED);
            }
            if source != entry.flags {
                return true;
            }
        }
        let flagged = |side: usize| seen[side].is_some_and(|flags| flags.has(Flags::FLAGGED));
        let upgraded = match entry.placeholder {
            Placeholder::None => false,
            _ if !pair.isync_1_5 => flagged(F) || flagged(N),
            Placeholder::Far => entry.near != 0 && flagged(F),
            Placeholder::Near => entry.far != 0 && flagged(N),
        };
        if upgraded {
            return true;
        }
        if entry.kind == EntryKind::Skipped {
            return true;
        }
        // isync 1.5 leaves alone what it does not count, and the message whose far one is gone.
        let counted = if pair.isync_1_5 {
            expires[index].filter(|_| seen[F].is_some())
        } else {
            (entry.near != 0).then_some(expires[index] == Some(true))
        };
        if pair.max_messages > 0
            && counted.is_some_and(|expires| expires != (entry.kind == EntryKind::Expired))
        {
            return true;
        }
        // isync 1.5 does not save this: with MaxMessages, it drops what it does not load.
        let expunges = !pair.isync_1_5 && (pair.expunge[F] || pair.expunge[N]);
        let purges = expunges || pair.max_messages > 0;
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
            if recorded(other, uid).is_some() || uid <= pair.marks[other] && !pair.old[side] {
                continue;
            }
            // Expired under MaxMessages, whether that still holds or not.
            let important =
                flags.has(Flags::FLAGGED) || !(flags.has(Flags::SEEN) || pair.expire_unread);
            if side == N && uid <= pair.max_expired.min(pair.marks[F]) && !important {
                continue;
            }
            let expunged = pair.expunge[side] || pair.isync_1_5 && pair.expunge[other];
            if !(expunged && flags.has(Flags::TRASHED)) {
                return true;
            }
        }
    }
    // Every file without a UID is given one, and renamed.
    !pair.unnumbered.is_empty()
}

/// Which entries `MaxMessages` would expire; `None`: not counted.
fn expiring(pair: &Pair, message: &dyn Fn(usize, u32) -> Option<Flags>) -> Vec<Option<bool>> {
    // What the messages of a pair would have for flags on the near side.
    let flags = |entry: &Entry| {
        let (far, near) = (message(F, entry.far), message(N, entry.near)?);
        if !pair.isync_1_5 {
            // A placeholder that was read here expires with the next run that there is
            // another reason for: the verdict looks at what is recorded.
            let recorded = entry.flags.has(Flags::SEEN);
            let unread = entry.placeholder == Placeholder::Near && !recorded;
            return far.map(|_| if unread { near.without(Flags::SEEN) } else { near });
        }
        if entry.placeholder != Placeholder::Near {
            return (entry.far != 0).then_some(near);
        }
        // Of a placeholder, these are those of what it stands for.
        let real = Flags::SEEN.with(Flags::FLAGGED);
        let kept = far?.without(Flags::from_bits(!real.bits()));
        Some(near.without(real).with(kept))
    };
    let mut order: Vec<usize> = (0..pair.entries.len()).collect();
    order.sort_by_key(|&index| pair.entries[index].far);
    order.retain(|&index| {
        let entry = &pair.entries[index];
        let expired = entry.kind == EntryKind::Expired;
        flags(entry).is_some_and(|flags| !flags.has(Flags::TRASHED) || expired)
    });
    let mut excess = i64::try_from(order.len()).unwrap() - i64::from(pair.max_messages);
    let mut expires = vec![None; pair.entries.len()];
    for index in order {
        let entry = &pair.entries[index];
        let flags = flags(entry).unwrap();
        let important =
            flags.has(Flags::FLAGGED) || !(flags.has(Flags::SEEN) || pair.expire_unread);
        let expired = !important && (excess > 0 || entry.kind == EntryKind::Expired);
        expires[index] = Some(expired);
        excess -= i64::from(important || expired);
    }
    expires
}

const HEAD: &str = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 3\nMaxPushedUid 4\n\n";

fn rules(pair: &Pair) -> Rules {
    Rules {
        expunge_far: pair.expunge[F],
        expunge_near: pair.expunge[N],
        max_messages: pair.max_messages,
        expire_unread: pair.expire_unread,
        isync_1_5: pair.isync_1_5,
        pull_old: pair.old[N],
        push_old: pair.old[F],
        ..Rules::none()
    }
}

fn record(pair: &Pair) -> Record {
    let mut marks = parse(HEAD.as_bytes()).unwrap();
    [marks.max_pulled, marks.max_pushed] = pair.marks;
    marks.max_expired_far = pair.max_expired;
    Record::new(&marks, pair.entries.clone()).unwrap()
}

fn listing(pair: &Pair) -> MaildirListing {
    let mut listing = MaildirListing::new(b':');
    for (uid, flags) in &pair.messages[N] {
        listing.add(format!("17.4_{uid}.host,U={uid}:2,{flags}").as_bytes());
    }
    for (count, flags) in pair.unnumbered.iter().enumerate() {
        listing.add(format!("17.R{count}.host:2,{flags}").as_bytes());
    }
    listing
}

fn stamp() -> Stamp {
    Stamp::of(std::path::Path::new("Cargo.toml")).unwrap()
}

fn known(gone: &Gone) -> KnownGone<'_> {
    KeptGone { by_scan: Some(gone), by_run: None }.of_record(gone.record.as_ref())
}

/// A look at the far side; with what it looked like at an earlier one, only what
/// changed since is fetched.
fn look_far(pair: &Pair, earlier: Option<(&Pair, &Gone)>) -> (SideVerdict, Gone) {
    let record = record(pair);
    let uids = UidSet::from_uids(pair.messages[F].keys().copied());
    let all = pair.messages[F].iter().map(|(&uid, &flags)| (uid, flags));
    let (fetched, gone) = match earlier {
        None => (Fetched::Whole(all.collect()), None),
        Some((then, gone)) => {
            let changed = all.filter(|(uid, flags)| then.messages[F].get(uid) != Some(flags));
            (Fetched::ChangedSince(changed.collect()), Some(gone))
        }
    };
    let known = gone.map_or(KnownGone::NOTHING, known);
    let near = || Some(listing(pair).numbered());
    let Settled { verdict, gone, .. } =
        judge_server(&record, &rules(pair), &uids, &fetched, known, near);
    (verdict, Gone { record: Some(stamp()), ..gone })
}

fn judge_near(pair: &Pair, gone: &Gone) -> SideVerdict {
    let numbering = Numbering { validity: 2, highest: 1000 };
    let (record, forwarded) = (record(pair), Some(pair.forwarded));
    judge_maildir(&record, &mut listing(pair), numbering, &rules(pair), forwarded, known(gone))
}

/// The verdict's answer to the same question.
fn verdict_on(pair: &Pair) -> Verdict {
    let (far, gone) = look_far(pair, None);
    Verdict { near: judge_near(pair, &gone), far }
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
        version in (any::<bool>(), prop::option::weighted(0.3, any::<[bool; 2]>())),
    ) -> Pair {
        let (expunge_far, expunge_near, limit, expire_unread, forwarded) = settings;
        let (isync_1_5, old) = version;
        let mut pair = Pair {
            entries: Vec::new(),
            marks: [marks.0, marks.1],
            max_expired,
            messages: [BTreeMap::new(), BTreeMap::new()],
            unnumbered: unnumbered.into_iter().collect(),
            expunge: [expunge_far, expunge_near],
            max_messages: if max_messages { limit } else { 0 },
            expire_unread,
            forwarded,
            isync_1_5,
            old: old.filter(|_| isync_1_5 && !max_messages).unwrap_or_default(),
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
                // None where the kind is not plain: the second mark overwrites the first.
                placeholder: match placeholder {
                    0 if kind > 9 => Placeholder::Far,
                    1..=4 if kind > 9 => Placeholder::Near,
                    _ => Placeholder::None,
                },
                kind: match kind {
                    0 => EntryKind::Skipped,
                    1..=9 if max_messages => EntryKind::Expired,
                    _ => EntryKind::Plain,
                },
            };
            pair.entries.push(entry);
            see(&mut pair, F, count, far_sight);
            see(&mut pair, N, count, near_sight);
        }
        for (near, uid, flags) in strangers {
            pair.messages[usize::from(near)].insert(uid, flags);
        }
        pair
    }
}

/// Puts what is seen of an entry's message in its place.
fn see(pair: &mut Pair, side: usize, entry: usize, sight: Sight) {
    let entry = &pair.entries[entry];
    let uid = if side == F { entry.far } else { entry.near };
    let flags = match sight {
        Sight::AsRecorded => entry.flags,
        Sight::With(flags) => flags,
        Sight::Gone => {
            pair.messages[side].remove(&uid);
            return;
        }
    };
    if uid != 0 {
        pair.messages[side].insert(uid, flags);
    }
}

/// Something that happens to the message of an entry.
fn event() -> impl Strategy<Value = (prop::sample::Index, Sight)> {
    let sight = prop_oneof![
        2 => Just(Sight::AsRecorded),
        1 => any_flags().prop_map(Sight::With),
        2 => Just(Sight::With(Flags::TRASHED)),
        3 => Just(Sight::Gone),
    ];
    (any::<prop::sample::Index>(), sight)
}

/// Lets things happen on one side. A UID that is gone on the server is never seen
/// there again.
fn happen(pair: &mut Pair, side: usize, events: &[(prop::sample::Index, Sight)]) {
    for (index, sight) in events {
        if pair.entries.is_empty() {
            return;
        }
        let at = index.index(pair.entries.len());
        let far = pair.entries[at].far;
        if side == N || pair.messages[F].contains_key(&far) {
            see(pair, side, at, *sight);
        }
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

    /// After a look that found the far side clean, which is then not looked at again
    /// as long as its STATUS stays the same.
    #[test]
    fn a_far_side_found_clean_stays_right_whatever_happens_here(
        pair in prop_oneof![4 => pair(false), 1 => pair(true)],
        before in prop::collection::vec(event(), 0..4),
        after in prop::collection::vec(event(), 0..4),
    ) {
        let mut pair = pair;
        happen(&mut pair, N, &before);
        let (far, gone) = look_far(&pair, None);
        prop_assume!(far == SideVerdict::Clean);
        happen(&mut pair, N, &after);
        let near = judge_near(&pair, &gone);
        let changes = model_changes(&pair);
        let clean = near == SideVerdict::Clean;
        prop_assert!(!clean || !changes, "wrongly clean: {gone:?}");
        prop_assert!(clean || changes || pair.max_messages > 0, "wrongly {near:?}: {gone:?}");
    }

    /// The next look fetches only what has changed since.
    #[test]
    fn a_partial_scan_finds_what_a_full_scan_finds(
        pair in prop_oneof![4 => pair(false), 1 => pair(true)],
        before in prop::collection::vec(event(), 0..4),
        here in prop::collection::vec(event(), 0..4),
        there in prop::collection::vec(event(), 0..4),
    ) {
        let mut pair = pair;
        // With Old and these, no such look is made.
        let of_each = pair.expunge == [false, true] || pair.max_expired > 0;
        prop_assume!(!(pair.old[N] && of_each));
        happen(&mut pair, N, &before);
        let (far, gone) = look_far(&pair, None);
        prop_assume!(far == SideVerdict::Clean);
        let then = pair.clone();
        happen(&mut pair, N, &here);
        happen(&mut pair, F, &there);
        let (far, gone) = look_far(&pair, Some((&then, &gone)));
        let verdict = Verdict { near: judge_near(&pair, &gone), far };
        prop_assert!(verdict != Verdict::CLEAN || !model_changes(&pair), "{}", verdict);
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
        let rules = Rules { info_delimiter: b'!', ..Rules::none() };
        let mut listing = MaildirListing::new(b'!');
        listing.add(format!("{stem},U={uid}!2,{flags}{keywords}").as_bytes());
        let numbering = Numbering { validity: 2, highest: u32::MAX - 1 };
        let found = judge_maildir(&record, &mut listing, numbering, &rules, Some(true), KnownGone::NOTHING);
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
