//! Sets of UIDs, as servers name them.
//!
//! Knows numbers only.

/// A set of UIDs kept as ranges, so that a server can name all four thousand
/// million of them in a few bytes without costing us more. Never expand one
/// that comes from a server: ask it with [`UidSet::contains`], or walk
/// [`UidSet::ranges`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    /// Adds a range, both ends included; [`UidSet::tidy`] is to follow.
    pub fn push(&mut self, first: u32, last: u32) {
        match self.ranges.last_mut() {
            Some((_, end)) if *end != u32::MAX && *end + 1 == first => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }

    /// Puts the ranges in order, joins those that meet.
    pub fn tidy(&mut self) {
        self.ranges.sort_unstable();
        let mut tidy: Vec<(u32, u32)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.drain(..) {
            match tidy.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                _ => tidy.push((first, last)),
            }
        }
        tidy.shrink_to_fit();
        self.ranges = tidy;
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

    /// Adds those of another.
    pub fn extend(&mut self, other: &UidSet) {
        self.ranges.extend_from_slice(&other.ranges);
        self.tidy();
    }

    /// Ascending, apart, both ends included.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
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

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
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
}
