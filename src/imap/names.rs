//! Mailbox names: mbsync's and the server's, and modified UTF-7.
//!
//! mbsync turns a far name into a wire name like this (isync 1.4,
//! `drv_imap.c`): INBOX and what is below it as it is; all else with `Path` or
//! the personal namespace in front; `/` as the server's delimiter. isync 1.4
//! takes names in modified UTF-7 as they are, 1.5 in UTF-8; the latter is for
//! [`to_utf7`] and [`from_utf7`].
//!
//! Does not depend on: connections, disks.

use std::borrow::Cow;

use super::values::{Listed, Namespace};
use crate::mbsync_version::IsyncVersion;
use crate::model::{Channel, ImapStore};

/// How the names of one store are turned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    prefix: String,
    delimiter: Option<char>,
}

impl Naming {
    /// That of a store on a server with this namespace. `listed` is the delimiter
    /// that LIST gives, for servers without NAMESPACE.
    #[must_use]
    pub fn of(store: &ImapStore, namespace: &Namespace, listed: Option<char>) -> Self {
        let of_namespace = || store.use_namespace.then(|| namespace.prefix.clone());
        let prefix = store.path.clone().or_else(of_namespace).unwrap_or_default();
        let set = store.delimiter.as_ref().and_then(|d| d.chars().next());
        // mbsync has not asked for a list yet when it looks at the prefix.
        let known = set.or(namespace.delimiter);
        Naming { prefix: in_capitals(&prefix, known).into_owned(), delimiter: known.or(listed) }
    }

    /// The wire name of a far name; `None` where it has the server's delimiter
    /// in it as a plain character, which mbsync refuses too.
    #[must_use]
    pub fn to_wire(&self, far: &str) -> Option<String> {
        let inner = match self.delimiter {
            Some('/') | None => far.to_owned(),
            Some(delimiter) if far.contains(delimiter) => return None,
            Some(delimiter) => far.replace('/', &delimiter.to_string()),
        };
        if in_inbox(far) { Some(inner) } else { Some(format!("{}{inner}", self.prefix)) }
    }

    /// The far name of a wire name; `None` where the store does not reach it.
    #[must_use]
    pub fn from_wire(&self, wire: &str) -> Option<String> {
        let slashed = |name: &str| match self.delimiter {
            Some('/') | None => Some(name.to_owned()),
            // A name with a slash in it looks like a deeper one.
            Some(_) if name.contains('/') => None,
            Some(delimiter) => Some(name.replace(delimiter, "/")),
        };
        let wire = in_capitals(wire, self.delimiter);
        match wire.strip_prefix(self.prefix.as_str()) {
            // An INBOX below the prefix would be taken for INBOX itself: mbsync drops it
            // (isync 1.4.4, drv_imap.c:1463).
            Some(inner) => slashed(inner)
                .filter(|name| !name.is_empty() && (self.prefix.is_empty() || !in_inbox(name))),
            None => slashed(&wire).filter(|name| in_inbox(name)),
        }
    }

    /// The wire name of a far mailbox: isync 1.4 takes names as they are on the wire, 1.5
    /// in UTF-8. `None` for one that cannot be asked about.
    #[must_use]
    pub fn wire_name(&self, far: &str, version: IsyncVersion) -> Option<String> {
        let wire = self.to_wire(far)?;
        Some(if version == IsyncVersion::V1_5 { to_utf7(&wire) } else { wire })
    }

    /// Of the mailboxes that the server lists, those that a run of the channel
    /// would sync, each with the name that both sides share.
    pub fn synced<'a>(
        &'a self,
        channel: &'a Channel,
        version: IsyncVersion,
        listed: &'a [Listed],
    ) -> impl Iterator<Item = (&'a Listed, String)> {
        listed.iter().filter(|each| each.selectable).filter_map(move |each| {
            let wire = match version {
                IsyncVersion::V1_4 => each.name.clone(),
                IsyncVersion::V1_5 => from_utf7(&each.name)?,
            };
            // mbsync drops these, too (isync 1.4.4, parse_list_rsp_p2() of drv_imap.c).
            if wire.as_bytes().ends_with(b".lock") {
                return None;
            }
            let far = self.from_wire(&wire)?;
            // isync ignores others in a list (drv_imap.c:1481), but takes them when they
            // are named: `..` would lead out of the Maildir store.
            let is_plain = far.split('/').all(|part| !["", ".", ".."].contains(&part));
            is_plain.then(|| channel.shared_name(&far)).flatten().map(|name| (each, name))
        })
    }
}

/// INBOX, alone or as a parent, in capitals, as mbsync spells it in a prefix and in each
/// name that is listed (isync 1.4.4, `normalize_INBOX()` of `drv_imap.c`).
fn in_capitals(name: &str, delimiter: Option<char>) -> Cow<'_, str> {
    match name.split_at_checked("INBOX".len()) {
        Some((inbox, rest))
            if inbox.eq_ignore_ascii_case("INBOX")
                && (rest.is_empty() || delimiter.is_some_and(|sign| rest.starts_with(sign))) =>
        {
            format!("INBOX{rest}").into()
        }
        _ => name.into(),
    }
}

fn in_inbox(name: &str) -> bool {
    name == "INBOX" || name.starts_with("INBOX/")
}

/// UTF-8 to the modified UTF-7 of RFC 3501 §5.1.3.
#[must_use]
pub fn to_utf7(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut wide: Vec<u16> = Vec::new();
    for c in name.chars() {
        if (' '..='~').contains(&c) {
            shift(&mut out, &mut wide);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            wide.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    shift(&mut out, &mut wide);
    out
}

fn shift(out: &mut String, wide: &mut Vec<u16>) {
    if wide.is_empty() {
        return;
    }
    out.push('&');
    let (mut bits, mut held) = (0_u32, 0);
    for unit in wide.drain(..) {
        bits = (bits << 16) | u32::from(unit);
        held += 16;
        while held >= 6 {
            held -= 6;
            out.push(digit(bits >> held));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        out.push(digit(bits << (6 - held)));
    }
    out.push('-');
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

fn digit(bits: u32) -> char {
    DIGITS.get((bits & 63) as usize).map_or('A', |b| char::from(*b))
}

/// Modified UTF-7 to UTF-8; `None` if it is not well-formed (then the name is
/// best left as it is).
#[must_use]
pub fn from_utf7(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('&') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let (coded, behind) = after.get(1..)?.split_once('-')?;
        rest = behind;
        if coded.is_empty() {
            out.push('&');
            continue;
        }
        let (mut bits, mut held) = (0_u32, 0);
        let mut wide: Vec<u16> = Vec::new();
        for byte in coded.bytes() {
            let value = DIGITS.iter().position(|d| *d == byte)?;
            bits = (bits << 6) | u32::try_from(value).ok()?;
            held += 6;
            if held >= 16 {
                held -= 16;
                wide.push(u16::try_from((bits >> held) & 0xffff).ok()?);
                bits &= (1 << held) - 1;
            }
        }
        if held >= 6 || bits != 0 {
            return None;
        }
        out.push_str(&String::from_utf16(&wide).ok()?);
    }
    out.push_str(rest);
    (to_utf7(&out) == name).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utf7_as_the_rfc_and_dovecot_have_it() {
        for (utf8, utf7) in [
            ("Entwürfe", "Entw&APw-rfe"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("A & B", "A &- B"),
            ("😀", "&2D3eAA-"),
        ] {
            assert_eq!(to_utf7(utf8), utf7);
            assert_eq!(from_utf7(utf7).as_deref(), Some(utf8));
        }
        for bad in ["&", "&A-", "&AGE-", "&2D0-", "&APw", "ü", "&!-", "&APw-&APw-"] {
            assert_eq!(from_utf7(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn utf7_goes_there_and_back(name in "[^\\x00-\\x1f\\x7f]{0,20}") {
            prop_assert_eq!(from_utf7(&to_utf7(&name)), Some(name));
        }

        #[test]
        fn anything_can_be_tried(name in ".{0,30}", tail in "[&A-Za-z+,-]{0,20}") {
            let _ = from_utf7(&name);
            let _ = from_utf7(&tail);
        }
    }

    fn store(path: Option<&str>, use_namespace: bool) -> ImapStore {
        ImapStore {
            account: "A".to_owned(),
            path: path.map(str::to_owned),
            use_namespace,
            delimiter: None,
            subscribed_only: false,
        }
    }

    #[test]
    fn names_get_prefix_and_delimiter_as_mbsync_gives_them() {
        let dotted = Namespace { prefix: "INBOX.".to_owned(), delimiter: Some('.') };
        let naming = Naming::of(&store(None, true), &dotted, None);
        for (far, wire) in [("INBOX", "INBOX"), ("Sent", "INBOX.Sent"), ("a/b", "INBOX.a.b")] {
            assert_eq!(naming.to_wire(far).as_deref(), Some(wire));
            assert_eq!(naming.from_wire(wire).as_deref(), Some(far));
        }
        assert_eq!(naming.to_wire("a.b"), None);
        assert_eq!(naming.from_wire("INBOX.a/b"), None);
        assert_eq!(naming.from_wire("Public.x"), None);
        for hidden in ["INBOX.", "INBOX.INBOX", "INBOX.INBOX.x"] {
            assert_eq!(naming.from_wire(hidden), None, "{hidden}");
        }
        let mixed = Naming::of(&store(Some("Inbox."), true), &dotted, None);
        assert_eq!(mixed.to_wire("Sent").as_deref(), Some("INBOX.Sent"));
        for wire in ["INBOX.Sent", "inbox.Sent"] {
            assert_eq!(mixed.from_wire(wire).as_deref(), Some("Sent"));
        }
        assert_eq!(mixed.from_wire("inboxes"), None);
        let plain = Naming::of(&store(Some("Mail/"), true), &Namespace::default(), Some('/'));
        assert_eq!(plain.to_wire("Sent").as_deref(), Some("Mail/Sent"));
        assert_eq!(plain.to_wire("INBOX/x").as_deref(), Some("INBOX/x"));
        assert_eq!(plain.from_wire("Mail/Sent").as_deref(), Some("Sent"));
        assert_eq!(plain.from_wire("Sent"), None);
        for store in [store(None, false), store(Some(""), true)] {
            let bare = Naming::of(&store, &dotted, None);
            assert_eq!(bare.to_wire("Sent").as_deref(), Some("Sent"));
        }
    }
}
