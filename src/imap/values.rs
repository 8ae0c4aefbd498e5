//! What the IMAP side tells the rest of the program, as plain values.
//!
//! Knows no connection. Mailbox names here are *wire names*: as the server
//! spells them, in modified UTF-7 unless it has gone UTF-8, with its own
//! hierarchy delimiter. [`super::names`] turns them into mbsync's and back.

/// What a server said it can do, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    words: Vec<String>,
}

impl Capabilities {
    /// From the words of a CAPABILITY response; kept in upper case, at most 200 of them.
    pub fn from_words<'a>(words: impl Iterator<Item = &'a [u8]>) -> Self {
        let words = words
            .take(200)
            .filter(|w| w.len() <= 64 && w.iter().all(u8::is_ascii_graphic))
            .map(|w| String::from_utf8_lossy(w).to_ascii_uppercase())
            .collect();
        Capabilities { words }
    }

    /// Whether the server names this one (compared without regard to case).
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w.eq_ignore_ascii_case(word))
    }

    /// NOTIFY (RFC 5465).
    #[must_use]
    pub fn notify(&self) -> bool {
        self.has("NOTIFY")
    }

    /// IDLE (RFC 2177), also part of `IMAP4rev2`.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.has("IDLE") || self.has("IMAP4REV2")
    }

    /// CONDSTORE (RFC 7162), which QRESYNC includes.
    #[must_use]
    pub fn condstore(&self) -> bool {
        self.has("CONDSTORE") || self.has("QRESYNC")
    }

    /// `SEARCH RETURN` (RFC 4731), also part of `IMAP4rev2`.
    #[must_use]
    pub fn esearch(&self) -> bool {
        self.has("ESEARCH") || self.has("IMAP4REV2")
    }

    /// UNSELECT (RFC 3691), also part of `IMAP4rev2`.
    #[must_use]
    pub fn unselect(&self) -> bool {
        self.has("UNSELECT") || self.has("IMAP4REV2")
    }

    /// `LIST … RETURN (STATUS …)` (RFC 5819).
    #[must_use]
    pub fn list_status(&self) -> bool {
        self.has("LIST-STATUS")
    }

    /// `LIST … RETURN (SPECIAL-USE)` (RFC 6154, 5258).
    #[must_use]
    pub fn special_use(&self) -> bool {
        self.has("SPECIAL-USE") && self.has("LIST-EXTENDED")
    }

    /// NAMESPACE (RFC 2342).
    #[must_use]
    pub fn namespace(&self) -> bool {
        self.has("NAMESPACE") || self.has("IMAP4REV2")
    }

    /// `{n+}` literals of at most this many bytes need not wait for the server's word (RFC 7888).
    #[must_use]
    pub fn literal_plus(&self) -> usize {
        if self.has("LITERAL+") {
            usize::MAX
        } else if self.has("LITERAL-") || self.has("IMAP4REV2") {
            4096
        } else {
            0
        }
    }

    /// `AUTHENTICATE mech initial-response` (RFC 4959).
    #[must_use]
    pub fn sasl_ir(&self) -> bool {
        self.has("SASL-IR") || self.has("IMAP4REV2")
    }

    /// `AUTH=MECH`.
    #[must_use]
    pub fn auth(&self, mech: &str) -> bool {
        self.words.iter().any(|w| w.strip_prefix("AUTH=").is_some_and(|m| m == mech))
    }

    /// All mechanisms of `AUTH=`.
    pub fn mechanisms(&self) -> impl Iterator<Item = &str> {
        self.words.iter().filter_map(|w| w.strip_prefix("AUTH="))
    }

    /// The words, in the server's order and in upper case.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// STATUS of a mailbox: what the server said of it. A NOTIFY event may leave
/// items out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Number of messages.
    pub messages: Option<u32>,
    /// The UID that the next message will have at least.
    pub uid_next: Option<u32>,
    /// Changes when UIDs lose their meaning.
    pub uid_validity: Option<u32>,
    /// Grows with every change; only with CONDSTORE.
    pub highest_mod_seq: Option<u64>,
}

impl Status {
    /// This, with what `newer` says put over it.
    #[must_use]
    pub fn overlaid(self, newer: Status) -> Status {
        Status {
            messages: newer.messages.or(self.messages),
            uid_next: newer.uid_next.or(self.uid_next),
            uid_validity: newer.uid_validity.or(self.uid_validity),
            highest_mod_seq: newer.highest_mod_seq.or(self.highest_mod_seq),
        }
    }
}

/// One line of LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Wire name.
    pub name: String,
    /// Hierarchy delimiter; `None`: a flat name.
    pub delimiter: Option<char>,
    /// `\sent`, `\noselect` …, in lower case, backslash kept.
    pub attributes: Vec<String>,
}

impl Listed {
    /// Whether it has this attribute, given as `\Sent`.
    #[must_use]
    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.iter().any(|a| a.eq_ignore_ascii_case(attribute))
    }

    /// Whether it can hold messages.
    #[must_use]
    pub fn selectable(&self) -> bool {
        !self.has("\\Noselect") && !self.has("\\NonExistent")
    }
}

/// The first personal namespace (RFC 2342).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// What every personal name but INBOX begins with, such as `INBOX.`.
    pub prefix: String,
    /// The hierarchy delimiter.
    pub delimiter: Option<char>,
}

/// The message flags that mbsync carries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flags(u8);

/// Maildir letter and IMAP flag, bit n of [`Flags`] being entry n: mbsync's order.
const FLAGS: [(char, &str); 6] = [
    ('D', "\\Draft"),
    ('F', "\\Flagged"),
    ('P', "$Forwarded"),
    ('R', "\\Answered"),
    ('S', "\\Seen"),
    ('T', "\\Deleted"),
];

impl Flags {
    /// The bits: D 1, F 2, P 4, R 8, S 16, T 32.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// These flags and this one, spelled as IMAP does; others change nothing.
    /// mbsync compares them to the letter (isync 1.4, `drv_imap.c`), so this does.
    #[must_use]
    pub fn with_imap(self, flag: &[u8]) -> Flags {
        FLAGS
            .iter()
            .position(|(_, imap)| flag == imap.as_bytes())
            .map_or(self, |bit| Flags(self.0 | 1 << bit))
    }

    /// The flags of Maildir letters such as `FS`; other letters are left out.
    #[must_use]
    pub fn from_letters(letters: &str) -> Flags {
        let bits = FLAGS
            .iter()
            .enumerate()
            .filter(|(_, (letter, _))| letters.contains(*letter))
            .fold(0, |bits, (bit, _)| bits | 1 << bit);
        Flags(bits)
    }

    /// The Maildir letters, in order.
    #[must_use]
    pub fn letters(self) -> String {
        FLAGS
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & 1 << bit != 0)
            .map(|(_, (letter, _))| *letter)
            .collect()
    }

    /// Whether the message is marked for removal.
    #[must_use]
    pub fn deleted(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flags({})", self.letters())
    }
}

/// A set of UIDs kept as ranges, so that a server can name all four thousand
/// million of them in a few bytes without costing us more. Never expand one
/// that comes from a server: ask it with [`UidSet::contains`], or walk
/// [`UidSet::ranges`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    pub(super) fn push(&mut self, first: u32, last: u32) {
        match self.ranges.last_mut() {
            Some((_, end)) if *end != u32::MAX && *end + 1 == first => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }

    pub(super) fn tidy(&mut self) {
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

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// A string as IMAP quotes it, or `None` where it must be a literal (8-bit) or
/// cannot be said at all (CR, LF, NUL).
#[must_use]
pub fn quoted(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_into_it(uids in proptest::collection::vec(0_u32..200, 0..60)) {
            let set = UidSet::from_uids(uids.iter().copied());
            let model: std::collections::BTreeSet<u32> = uids.into_iter().collect();
            prop_assert_eq!(set.len(), model.len() as u64);
            for uid in 0..201 {
                prop_assert_eq!(set.contains(uid), model.contains(&uid));
            }
            prop_assert!(set.ranges().windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }

        #[test]
        fn letters_come_back(bits in 0_u8..64) {
            let flags = Flags(bits);
            prop_assert_eq!(Flags::from_letters(&flags.letters()), flags);
        }
    }

    #[test]
    fn the_widest_range_is_cheap() {
        let mut set = UidSet::default();
        set.push(1, u32::MAX);
        set.push(5, 6);
        set.tidy();
        assert_eq!(set.ranges(), [(1, u32::MAX)]);
        assert!(set.contains(u32::MAX) && !set.contains(0));
    }
}
