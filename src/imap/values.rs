//! The values that the IMAP side gives to the rest of the program.
//!
//! Mailbox names here are *wire names*: as the server spells them, in modified
//! UTF-7 unless it has gone UTF-8, with its own hierarchy delimiter.
//! [`super::names`] turns them into mbsync's and back.
//!
//! Does not depend on: connections.

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

    /// `LIST … RETURN (STATUS …)` (RFC 5819), which builds on LIST-EXTENDED: iCloud has the
    /// one without the other, and answers BAD.
    #[must_use]
    pub fn list_status(&self) -> bool {
        self.has("LIST-STATUS") && self.has("LIST-EXTENDED") || self.has("IMAP4REV2")
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
pub struct MailboxStatus {
    /// Number of messages.
    pub messages: Option<u32>,
    /// The UID that the next message will have at least.
    pub uid_next: Option<u32>,
    /// Changes when UIDs lose their meaning.
    pub uid_validity: Option<u32>,
    /// Grows with every change; only with CONDSTORE.
    pub highest_mod_seq: Option<u64>,
}

impl MailboxStatus {
    /// Whether it says all that every server can say.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.messages.is_some() && self.uid_next.is_some() && self.uid_validity.is_some()
    }

    /// This, with what `newer` says put over it.
    #[must_use]
    pub fn overlaid(self, newer: MailboxStatus) -> MailboxStatus {
        MailboxStatus {
            messages: newer.messages.or(self.messages),
            uid_next: newer.uid_next.or(self.uid_next),
            uid_validity: newer.uid_validity.or(self.uid_validity),
            highest_mod_seq: newer.highest_mod_seq.or(self.highest_mod_seq),
        }
    }
}

/// How to open a mailbox for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Read-only.
    Examine,
    /// As mbsync opens it; the only way to learn the permanent flags. Takes
    /// \Recent from messages, as mbsync does.
    Select,
}

/// A mailbox as it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// What it said of itself.
    pub status: MailboxStatus,
    /// Whether `$Forwarded` can be kept; `None`: not known.
    pub forwarded: Option<bool>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// OK, NO or BAD.
    pub verb: Verb,
    /// First word of the response code, upper case; empty without one.
    pub code: String,
    /// Command and answer, printable.
    pub text: String,
    /// It is a refusal that will pass.
    pub temporary: bool,
}

/// How the server ended a command, or greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `OK`
    Ok,
    /// `NO`
    No,
    /// `BAD`
    Bad,
    /// `BYE`, untagged only.
    Bye,
    /// `PREAUTH`, in a greeting only.
    Preauth,
}

/// One line of LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Wire name.
    pub name: String,
    /// Hierarchy delimiter; `None`: a flat name.
    pub delimiter: Option<char>,
    /// Whether it can hold messages: neither `\Noselect` nor `\NonExistent`.
    pub selectable: bool,
    /// What it is for, as far as it matters here; the first, if there are several.
    pub special_use: Option<SpecialUse>,
}

/// What a mailbox is for (RFC 6154).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialUse {
    /// `\All` or `\Archive`: what is gone from other mailboxes may be there.
    Kept,
    /// `\Trash` or `\Junk`: what is there is to go.
    Discarded,
}

/// The first personal namespace (RFC 2342).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// What every personal name but INBOX begins with, such as `INBOX.`.
    pub prefix: String,
    /// The hierarchy delimiter.
    pub delimiter: Option<char>,
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
