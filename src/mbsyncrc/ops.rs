//! `Sync`, `Create`, `Remove` and `Expunge`: what may happen on which side.
//!
//! How mbsync combines the words of these options, and which combinations it
//! refuses. Does not depend on: lines.

use crate::mbsync_version::IsyncVersion;
use crate::model::Sides;

const NEW: u8 = 1;
const RENEW: u8 = 2;
const GONE: u8 = 4;
const FLAGS: u8 = 8;
const OLD: u8 = 16;
/// What a channel does when no `Sync` is given: all but `Old`, which 1.5 brought.
const USUAL: u8 = NEW | RENEW | GONE | FLAGS;

/// The words given to `Sync`, summed up over all its lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncOps {
    given: bool,
    none: bool,
    /// Named with a direction, `PushNew` and the like.
    far: u8,
    near: u8,
    /// Named without one.
    kinds: u8,
    /// `Push` and `Pull` alone: to the far, and to the near side.
    towards: Sides,
}

impl SyncOps {
    /// The words that this version knows, without those that have a direction.
    pub fn words(version: IsyncVersion) -> impl Iterator<Item = &'static str> {
        let new = if version == IsyncVersion::V1_5 { &["Upgrade", "Gone", "Old"][..] } else { &[] };
        ["None", "Pull", "Push", "New", "ReNew", "Delete", "Flags", "Full"]
            .into_iter()
            .chain(new.iter().copied())
    }

    /// Adds one word; false if mbsync does not know it.
    pub fn add(&mut self, word: &str, version: IsyncVersion) -> bool {
        self.given = true;
        let new = version == IsyncVersion::V1_5;
        let word = word.to_ascii_lowercase();
        match word.as_str() {
            "none" | "noop" => {
                self.none = true;
                return true;
            }
            "pull" => {
                self.towards.near = true;
                return true;
            }
            "push" => {
                self.towards.far = true;
                return true;
            }
            "all" | "full" => {
                if new {
                    self.kinds |= USUAL | OLD;
                } else {
                    self.towards = Sides { far: true, near: true };
                }
                return true;
            }
            _ => {}
        }
        let (slot, kind) = if let Some(kind) = word.strip_prefix("pull") {
            (&mut self.near, kind)
        } else if let Some(kind) = word.strip_prefix("push") {
            (&mut self.far, kind)
        } else {
            (&mut self.kinds, word.as_str())
        };
        *slot |= match kind {
            "new" => NEW,
            "renew" => RENEW,
            "delete" => GONE,
            "flags" => FLAGS,
            "upgrade" if new => RENEW,
            "gone" if new => GONE,
            "old" if new => OLD,
            // Reached with a direction only: `full` alone was met above.
            "full" if new => USUAL | OLD,
            _ => return false,
        };
        true
    }

    /// What is done towards the far and the near side; `None` if nothing was given.
    fn merged(self, version: IsyncVersion) -> Result<Option<(u8, u8)>, &'static str> {
        let SyncOps { given, none, mut far, mut near, mut kinds, towards } = self;
        let (mut pull, mut push) = (towards.near, towards.far);
        if !given {
            return Ok(None);
        }
        let new = version == IsyncVersion::V1_5;
        if far | near != 0 {
            if new && none {
                return Err("`None` beside other words");
            }
            if (far | near) & kinds != 0 {
                return Err("the same kind named twice");
            }
            if new && pull && (push || kinds != 0) || new && push && kinds != 0 {
                return Err("words with and without a direction mixed");
            }
            far |= kinds;
            near |= kinds;
            if pull && near & USUAL != 0 || push && far & USUAL != 0 {
                return Err("the same direction named twice");
            }
            if pull {
                near |= USUAL;
            }
            if push {
                far |= USUAL;
            }
        } else if kinds != 0 || pull || push {
            if new && none {
                return Err("`None` beside other words");
            }
            if kinds == 0 {
                kinds = USUAL;
            } else if !pull && !push {
                (pull, push) = (true, true);
            }
            if pull {
                near |= kinds;
            }
            if push {
                far |= kinds;
            }
        }
        Ok(Some((far, near)))
    }

    /// Why mbsync refuses this combination.
    pub fn conflict(self, version: IsyncVersion) -> Option<&'static str> {
        self.merged(version).err()
    }

    /// Whether every usual kind of change is carried both ways, and to which sides
    /// `Old` and deletions are, `global` being what the channel falls back to.
    pub fn extent(self, global: SyncOps, version: IsyncVersion) -> (bool, Sides, Sides) {
        let own = self.merged(version).ok().flatten();
        let (far, near) =
            own.or_else(|| global.merged(version).ok().flatten()).unwrap_or((USUAL, USUAL));
        let usual = |ops: u8| ops & USUAL == USUAL;
        let sides = |kind: u8| Sides { far: far & kind != 0, near: near & kind != 0 };
        (usual(far) && usual(near), sides(OLD), sides(GONE))
    }
}

/// The words given to `Create`, `Remove` or `Expunge`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SideOps {
    given: bool,
    none: bool,
    both: bool,
    sides: Sides,
}

impl SideOps {
    /// Adds one word; `None` if mbsync does not know it, else whether it is one
    /// of the old names (`Master`, `Slave`).
    pub fn add(&mut self, word: &str) -> Option<bool> {
        self.given = true;
        let mut old = false;
        match word.to_ascii_lowercase().as_str() {
            "both" => self.both = true,
            "far" => self.sides.far = true,
            "near" => self.sides.near = true,
            "master" => (self.sides.far, old) = (true, true),
            "slave" => (self.sides.near, old) = (true, true),
            "none" => self.none = true,
            _ => return None,
        }
        Some(old)
    }

    /// Why mbsync refuses this combination.
    pub fn conflict(self, version: IsyncVersion) -> Option<&'static str> {
        let named = self.sides.far || self.sides.near;
        if version == IsyncVersion::V1_5 && self.none && (named || self.both) {
            Some("`None` beside other words")
        } else if named && self.both {
            Some("`Both` beside a side")
        } else {
            None
        }
    }

    /// The sides meant, `global` being what the channel falls back to.
    pub fn sides(self, global: SideOps) -> Sides {
        let ops = if self.given { self } else { global };
        Sides { far: ops.sides.far || ops.both, near: ops.sides.near || ops.both }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(words: &str, version: IsyncVersion) -> Result<(u8, u8), &'static str> {
        let mut ops = SyncOps::default();
        for word in words.split(' ') {
            assert!(ops.add(word, version), "{word}");
        }
        ops.merged(version).map(Option::unwrap)
    }

    #[test]
    fn sync_words_add_up_as_in_1_4() {
        let old = |words| sync(words, IsyncVersion::V1_4);
        assert_eq!(old("Full"), Ok((USUAL, USUAL)));
        assert_eq!(old("None"), Ok((0, 0)));
        assert_eq!(old("Pull"), Ok((0, USUAL)));
        assert_eq!(old("New"), Ok((NEW, NEW)));
        assert_eq!(old("Pull New Flags"), Ok((0, NEW | FLAGS)));
        assert_eq!(old("PullNew Push"), Ok((USUAL, NEW)));
        assert_eq!(old("PullNew ReNew"), Ok((RENEW, NEW | RENEW)));
        assert!(old("PullNew Pull").is_err());
        assert!(old("PullNew New").is_err());
        assert_eq!(old("None Pull"), Ok((0, USUAL)));
    }

    #[test]
    fn sync_words_add_up_as_in_1_5() {
        let new = |words| sync(words, IsyncVersion::V1_5);
        assert_eq!(new("Full"), Ok((USUAL | OLD, USUAL | OLD)));
        assert_eq!(new("PullFull"), Ok((0, USUAL | OLD)));
        assert_eq!(new("Gone Upgrade"), Ok((GONE | RENEW, GONE | RENEW)));
        assert!(new("None Pull").is_err());
        assert!(new("PullNew Push Flags").is_err());
        assert_eq!(new("PullNew Push"), Ok((USUAL, NEW)));
        assert!(!SyncOps::default().add("Gone", IsyncVersion::V1_4));
        assert!(!SyncOps::default().add("PullFull", IsyncVersion::V1_4));
        assert!(!SyncOps::default().add("PullAll", IsyncVersion::V1_5));
    }
}
