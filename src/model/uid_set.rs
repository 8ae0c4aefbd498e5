//! Sets of UIDs, as servers name them. Does not depend on: IMAP, records: numbers
//! only.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A set of UIDs kept as ranges, so that a server can name all four thousand
/// million of them in a few bytes without costing us more. Never expand one
/// that comes from a server: ask it with [`UidSet::contains`], or walk
/// [`UidSet::ranges`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    /// The set of none.
    pub const EMPTY: UidSet = UidSet { ranges: Vec::new() };

    /// Adds a range, both ends included; [`UidSet::tidy`] is to follow.
    pub fn push(&mut self, first: u32, last: u32) {
        match self.ranges.last_mut() {
            Some((_, end)) if *end != u32::MAX && *end + 1 == first => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }

    /// Puts the ranges in order, joins those that meet.
    pub fn tidy(&mut self) {
        self.put_in_order();
        self.ranges.shrink_to_fit();
    }

    fn put_in_order(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, before| {
            let meet = next.0 <= before.1.saturating_add(1);
            if meet {
                before.1 = before.1.max(next.1);
            }
            meet
        });
    }

    /// The set of a sequence set: `1:3,7`, either end of a range first
    /// (RFC 3501). `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<UidSet> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|&uid| digits && uid != 0)
        };
        let mut set = UidSet::default();
        for part in text.split(',') {
            let (one, other) = part.split_once(':').unwrap_or((part, part));
            let (one, other) = (number(one)?, number(other)?);
            set.push(one.min(other), one.max(other));
        }
        set.tidy();
        Some(set)
    }

    /// The UIDs of this iterator.
    pub fn from_uids(uids: impl IntoIterator<Item = u32>) -> Self {
        let mut set = UidSet::default();
        for uid in uids {
            set.push(uid, uid);
        }
        set.tidy();
        set
    }

    /// Adds those of another; [`UidSet::tidy`] is to follow. What is added bit
    /// by bit is put in order only when there is twice as much as there was: a
    /// server that names each UID in a response of its own costs no more than
    /// one that names them all in one.
    pub fn add(&mut self, other: &UidSet) {
        let full = self.ranges.len() + other.ranges.len() > self.ranges.capacity();
        if full && self.ranges.len() > 1024 {
            self.put_in_order();
            self.ranges.reserve(self.ranges.len() + other.ranges.len());
        }
        self.ranges.extend_from_slice(&other.ranges);
    }

    /// Ascending, apart, both ends included.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// Each UID, ascending: never of a set that a server can have named at will.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Whether this UID is in it.
    #[must_use]
    pub fn contains(&self, uid: u32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= uid);
        after
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .is_some_and(|(_, last)| uid <= *last)
    }

    /// The part from `first` to `last`, without these UIDs, which are sorted.
    #[must_use]
    pub fn between_without(&self, first: u32, last: u32, uids: impl Iterator<Item = u32>) -> Self {
        let mut uids = uids.peekable();
        let mut rest = UidSet::EMPTY;
        for &(start, end) in &self.ranges {
            let (mut start, end) = (start.max(first), end.min(last));
            while uids.next_if(|uid| *uid < start).is_some() {}
            while let Some(uid) = uids.next_if(|uid| (start..=end).contains(uid)) {
                if start < uid {
                    rest.push(start, uid - 1);
                }
                start = uid.saturating_add(1);
            }
            if start <= end {
                rest.push(start, end);
            }
        }
        rest
    }

    /// Those that are not in the other, which a server may have named; not this one.
    #[must_use]
    pub fn without(&self, others: &UidSet) -> Self {
        UidSet::from_uids(self.uids().filter(|uid| !others.contains(*uid)))
    }

    /// How many UIDs are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// How many UIDs above `uid` are in it.
    #[must_use]
    pub fn count_above(&self, uid: u32) -> u64 {
        let above = |&(first, last): &(u32, u32)| {
            let first = u64::from(first).max(u64::from(uid) + 1);
            (u64::from(last) + 1).saturating_sub(first)
        };
        self.ranges.iter().rev().take_while(|(_, last)| *last > uid).map(above).sum()
    }

    /// Whether all of another set are in it.
    #[must_use]
    pub fn has_all_of(&self, other: &UidSet) -> bool {
        other.ranges.iter().all(|&(first, last)| {
            let after = self.ranges.partition_point(|(start, _)| *start <= first);
            let before = after.checked_sub(1).and_then(|at| self.ranges.get(at));
            before.is_some_and(|(_, end)| last <= *end)
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl fmt::Display for UidSet {
    /// A sequence set, `1:3,7`; of none, nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if count > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}:{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for UidSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UidSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(UidSet::default());
        }
        UidSet::parse(&text).ok_or_else(|| serde::de::Error::custom("not a set of UIDs"))
    }
}

/// In so few ranges the UIDs of a mailbox are told in as few bytes as what is new.
const FEW_RANGES: usize = 4;

/// What a mailbox had below a UIDNEXT of it: how many there are now shows whether all of it
/// is still there, so that a list with a gap for each deletion need not be told again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UidsBelow {
    next: u32,
    uids: UidSet,
}

impl UidsBelow {
    /// Of these, what is below `next`; `None` if a server tells all of it in a few bytes.
    #[must_use]
    pub fn new(next: u32, uids: &UidSet) -> Option<UidsBelow> {
        let uids = uids.between_without(1, next.saturating_sub(1), std::iter::empty());
        (uids.ranges.len() > FEW_RANGES).then_some(UidsBelow { next, uids })
    }

    /// The first UID that is not known.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// All that there may be, if these were found from [`UidsBelow::next`] on. A server adds
    /// the last message to `n:*` where there is none (RFC 3501, 9).
    #[must_use]
    pub fn with(&self, found: &UidSet) -> UidSet {
        let mut all = self.uids.clone();
        all.add(&found.between_without(self.next, u32::MAX, std::iter::empty()));
        all.tidy();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_into_it(uids in prop::collection::vec(0_u32..200, 0..60)) {
            let set = UidSet::from_uids(uids.iter().copied());
            let model: BTreeSet<u32> = uids.into_iter().collect();
            prop_assert_eq!(set.len(), model.len() as u64);
            for uid in 0..201 {
                prop_assert_eq!(set.contains(uid), model.contains(&uid));
                prop_assert_eq!(set.count_above(uid), model.range(uid + 1..).count() as u64);
            }
            prop_assert!(set.ranges().windows(2).all(|w| w[0].1 + 1 < w[1].0));
            // There is no UID 0.
            let set = UidSet::from_uids(model.iter().map(|uid| uid + 1));
            let read = UidSet::parse(&set.to_string());
            prop_assert_eq!(read, Some(set).filter(|set| !set.is_empty()));
        }

        #[test]
        fn a_set_has_all_of_another_when_it_has_each_of_it(
            one in prop::collection::vec(0_u32..30, 0..30),
            other in prop::collection::vec(0_u32..30, 0..6),
        ) {
            let each = other.iter().all(|uid| one.contains(uid));
            let set = UidSet::from_uids(one);
            prop_assert_eq!(set.has_all_of(&UidSet::from_uids(other)), each);
        }

        #[test]
        fn g10_added_bit_by_bit_it_is_the_same_and_no_larger(
            parts in prop::collection::vec(prop::collection::vec(0_u32..4000, 0..40), 0..200),
        ) {
            let mut set = UidSet::default();
            for part in &parts {
                set.add(&UidSet::from_uids(part.iter().copied()));
                // What is held of a set of at most 2000 ranges.
                prop_assert!(set.ranges.len() <= 2 * 2048);
            }
            set.tidy();
            prop_assert_eq!(set, UidSet::from_uids(parts.into_iter().flatten()));
        }

        #[test]
        fn any_text_is_a_set_or_none(text in "[0-9:,*]{0,30}|.*") {
            let _ = UidSet::parse(&text);
        }
    }

    #[test]
    fn the_widest_range_is_cheap() {
        let set = UidSet::parse("4294967295:1,5:6").unwrap();
        assert_eq!(set.ranges(), [(1, u32::MAX)]);
        assert!(set.contains(u32::MAX) && !set.contains(0));
        assert_eq!(set.count_above(0), u64::from(u32::MAX));
        assert_eq!(UidSet::parse("1:*"), None);
        assert_eq!(UidSet::parse(""), None);
    }

    #[test]
    fn what_is_known_below_a_uid_is_completed_from_there() {
        let known = UidSet::parse("1:3,5,7,9,11:20").unwrap();
        assert_eq!(UidsBelow::new(9, &known), None, "few ranges");
        let below = UidsBelow::new(15, &known).unwrap();
        let with = |found: &str| {
            let found = UidSet::parse(found).unwrap_or_default();
            below.with(&found).to_string()
        };
        assert_eq!((below.next(), with("").as_str()), (15, "1:3,5,7,9,11:14"));
        assert_eq!(with("17,19"), "1:3,5,7,9,11:14,17,19");
        assert_eq!(with("13:15"), "1:3,5,7,9,11:15");
        assert_eq!(with("14"), "1:3,5,7,9,11:14", "the last message, told for n:*");
    }
}
