//! Messages that are gone from a mailbox, and are looked for in other places.
//!
//! Does not depend on: where they are looked for, what follows.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::headers::MessageIdentity;

/// Messages that are looked for.
#[derive(Debug, Default)]
pub struct LostMessages {
    /// With the file that each still has on this disk.
    by_id: HashMap<u64, Vec<(MessageIdentity, Option<PathBuf>)>>,
    left: u64,
}

impl LostMessages {
    /// Looks for one more.
    pub fn add(&mut self, identity: MessageIdentity, file: Option<PathBuf>) {
        self.by_id.entry(identity.id).or_default().push((identity, file));
        self.left += 1;
    }

    /// So many have not been found.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes off what this is a copy of.
    pub fn found(&mut self, copy: MessageIdentity) {
        if let Some(same) = self.by_id.get_mut(&copy.id) {
            let before = same.len();
            same.retain(|(wanted, _)| !wanted.is_copied_by(copy));
            self.left = self.left.saturating_sub((before - same.len()) as u64);
        }
    }

    /// Some of those that are left, at most so many, from all over the mailbox, with the
    /// Message-IDs of those that have one.
    #[must_use]
    pub fn sample(&self, most: usize) -> Vec<(MessageIdentity, Option<String>)> {
        let mut all: Vec<&(MessageIdentity, Option<PathBuf>)> =
            self.by_id.values().flatten().collect();
        all.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        let step = all.len().div_ceil(most).max(1);
        let each = all.into_iter().step_by(step);
        each.map(|(identity, file)| {
            (*identity, file.as_deref().and_then(MessageIdentity::message_id))
        })
        .collect()
    }

    /// Of a sample so many were looked for and so many not found: the others are taken to
    /// be like them.
    pub fn conclude(&mut self, missing: usize, of: usize) {
        if of > 0 {
            self.left = (self.left * missing as u64).div_ceil(of as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: u64) -> MessageIdentity {
        MessageIdentity { id, size: 9000 }
    }

    #[test]
    fn g14_a_sample_stands_for_what_is_left() {
        let mut wanted = LostMessages::default();
        for id in 0..200 {
            wanted.add(identity(id), Some(PathBuf::from(format!("{id:03}"))));
        }
        (0..100).for_each(|id| wanted.found(identity(id)));
        wanted.found(identity(7));
        wanted.found(MessageIdentity { id: 150, size: 0 });
        let sample: Vec<u64> = wanted.sample(20).iter().map(|(each, _)| each.id).collect();
        assert_eq!(sample, (100..200).step_by(5).collect::<Vec<u64>>());
        assert_eq!(wanted.left(), 100);
        wanted.conclude(1, 20);
        assert_eq!(wanted.left(), 5);
        wanted.conclude(0, 20);
        wanted.conclude(0, 0);
        assert_eq!(wanted.left(), 0);
        assert!(LostMessages::default().sample(20).is_empty());
    }
}
