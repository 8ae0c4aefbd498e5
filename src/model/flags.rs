//! The six flags that mbsync carries, in the three spellings they come in.
//!
//! Knows letters of file names and records, and IMAP's names.
//!
//! Does not depend on: messages, mailboxes.

use serde::{Deserialize, Serialize};

/// A set of Draft, Flagged, Passed, Replied, Seen and Trashed (Maildir's names).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(u8);

/// Letters and IMAP names, in the order of the bits. mbsync knows passed
/// messages as `$Forwarded`. isync 1.4 compares the names to the letter, 1.5 without
/// regard to case (`parse_fetched_flag` in `src/drv_imap.c`).
const NAMES: [(u8, &str); 6] = [
    (b'D', "\\Draft"),
    (b'F', "\\Flagged"),
    (b'P', "$Forwarded"),
    (b'R', "\\Answered"),
    (b'S', "\\Seen"),
    (b'T', "\\Deleted"),
];

/// Bit of each letter, 0 for other bytes: a message's name is read many
/// thousand times in a scan.
const LETTER: [u8; 256] = {
    let mut table = [0; 256];
    let mut bit = 0;
    while bit < NAMES.len() {
        table[NAMES[bit].0 as usize] = 1 << bit;
        bit += 1;
    }
    table
};

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// `F`, `\Flagged`.
    pub const FLAGGED: Flags = Flags(2);
    /// `P`, `$Forwarded`.
    pub const PASSED: Flags = Flags(4);
    /// `S`, `\Seen`.
    pub const SEEN: Flags = Flags(16);
    /// `T`, `\Deleted`.
    pub const TRASHED: Flags = Flags(32);

    /// A `$Forwarded` that is spelled otherwise, as a server does that keeps a keyword as
    /// it came first. Servers spell the system flags alike.
    const RESPELLED: Flags = Flags(64);

    /// The flags whose letters occur anywhere in `info`; other bytes are
    /// passed over, as mbsync does with what follows `:2,` in a name.
    #[must_use]
    pub fn among(info: &[u8]) -> Flags {
        Flags(info.iter().fold(0, |set, &byte| set | LETTER[usize::from(byte)]))
    }

    /// The flags of a line of mbsync's record: letters in their order, each
    /// once, and nothing else.
    #[must_use]
    pub fn from_record(letters: &[u8]) -> Option<Flags> {
        let mut set = 0;
        for &byte in letters {
            let bit = LETTER[usize::from(byte)];
            if bit <= set {
                return None;
            }
            set |= bit;
        }
        Some(Flags(set))
    }

    /// The flags among IMAP's names; keywords and unknown ones are passed over.
    pub fn from_imap<'a>(names: impl IntoIterator<Item = &'a str>) -> Flags {
        names.into_iter().fold(Flags::NONE, |set, name| {
            match NAMES.iter().position(|(_, known)| *known == name) {
                Some(bit) => Flags(set.0 | (1 << bit)),
                None if is_forwarded(name) => set.with(Flags::RESPELLED),
                None => set,
            }
        })
    }

    /// The server's flags as mbsync reads them.
    #[must_use]
    pub fn as_read_by(self, isync_1_5: bool) -> Flags {
        let exact = Flags::from_bits(self.0);
        if isync_1_5 && self.has(Flags::RESPELLED) { exact.with(Flags::PASSED) } else { exact }
    }

    /// IMAP's names of them.
    #[must_use]
    pub fn imap_names(self) -> Vec<&'static str> {
        let bits = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        bits.map(|(_, (_, name))| *name).collect()
    }

    /// Whether any flag of `other` is in this set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// This set and those of `other`.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// This set less those of `other`.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// The six bits, `D` lowest.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set of these six bits, `D` lowest; higher ones are dropped.
    #[must_use]
    pub fn from_bits(bits: u8) -> Flags {
        Flags(bits & 63)
    }
}

/// Whether the server lets `$Forwarded` be stored in a mailbox, by its
/// PERMANENTFLAGS; mbsync then pushes a local Passed, and else does not.
///
/// isync 1.4 wants its own spelling of it; another one without `\*` is not worth telling
/// the versions apart.
///
/// The list that EXAMINE gets says nothing when it is short: Dovecot's is empty,
/// since a mailbox that is only read keeps no flags. Only SELECT's may be taken
/// for a no.
pub fn keeps_forwarded(
    permanent_flags: impl IntoIterator<Item = impl AsRef<str>>,
    selected: bool,
) -> Option<bool> {
    let keeps = |flag: &str| flag == "\\*" || is_forwarded(flag);
    let kept = permanent_flags.into_iter().any(|flag| keeps(flag.as_ref()));
    (kept || selected).then_some(kept)
}

fn is_forwarded(name: &str) -> bool {
    name.eq_ignore_ascii_case("$Forwarded")
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, (letter, _)) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{}", char::from(*letter))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mailbox_that_is_selected_says_no_to_forwarded() {
        for flags in [&["\\Seen", "\\*"][..], &["$Forwarded"]] {
            for selected in [false, true] {
                assert_eq!(keeps_forwarded(["$forwarded"], selected), Some(true));
                assert_eq!(keeps_forwarded(flags.iter().copied(), selected), Some(true));
            }
        }
        assert_eq!(keeps_forwarded(["\\Seen"], true), Some(false));
        assert_eq!(keeps_forwarded(["\\Seen"], false), None);
    }

    #[test]
    fn isync_1_4_compares_names_to_the_letter() {
        let flags = Flags::from_imap(["\\Seen", "$forwarded"]);
        assert_eq!(flags.as_read_by(false), Flags::SEEN);
        assert_eq!(flags.as_read_by(true), Flags::SEEN.with(Flags::PASSED));
        let exact = Flags::from_imap(["$Forwarded", "$FORWARDED"]);
        assert_eq!(
            (exact.as_read_by(false), exact.as_read_by(true)),
            (Flags::PASSED, Flags::PASSED)
        );
    }

    #[test]
    fn a_repeated_flag_counts_once() {
        let seen = Flags::SEEN.with(Flags::FLAGGED);
        assert_eq!(seen.with(Flags::SEEN), seen);
        assert_eq!(Flags::among(b"SFxS"), seen);
        assert_eq!(Flags::from_imap(["\\Seen", "\\Flagged", "$Junk", "\\Seen"]), seen);
        assert_eq!(Flags::from_record(b"SS"), None, "mbsync writes each once");
        assert_eq!((seen.to_string(), format!("{seen:?}")), ("FS".into(), "FS".into()));
    }
}
