//! Who wrote a message and what about, fit to be shown by anything.
//!
//! Reads the head of a message file, a bounded part of it, and decodes `From` and
//! `Subject` (RFC 5322, RFC 2047). What comes out is one line of valid UTF-8
//! without control characters, terminal escapes or marks that turn the direction of
//! text, because it ends up in notifications, terminals and environment variables,
//! and anybody may have written it.
//!
//! Does not depend on: Maildirs, why they are shown.

use crate::os::file;
use crate::text::is_invisible;
use mail_parser::{HeaderName, HeaderValue, MessageParser};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;

/// The most bytes of a message that are read. RFC 5322 bounds lines, not
/// heads; real heads seldom pass 20 KiB.
pub const HEAD_LIMIT: usize = 64 * 1024;

/// The most characters of a name or a subject that are kept, the last one then
/// being `…`.
pub const TEXT_LIMIT: usize = 120;

/// The two headers that a notification shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageSummary {
    /// The name of the first author, else the address; empty if there is none.
    pub from: String,
    /// The subject; empty if there is none.
    pub subject: String,
}

/// The summary of a message file. Only a regular file is read, and never more
/// than [`HEAD_LIMIT`] bytes of it; a FIFO laid there does not block.
pub fn summary_of_file(path: &Path) -> io::Result<MessageSummary> {
    file::read_start(path, HEAD_LIMIT as u64).map(|head| summary_of(&head))
}

/// The summary of a message whose beginning this is. Any bytes will do.
#[must_use]
pub fn summary_of(message: &[u8]) -> MessageSummary {
    let message = message.get(..HEAD_LIMIT).unwrap_or(message);
    let head = head_of(message);
    let Some(parsed) = MessageParser::new()
        .header_text(HeaderName::Subject)
        .header_address(HeaderName::From)
        .default_header_ignore()
        .parse_headers(head)
    else {
        return MessageSummary::default();
    };
    let from = match parsed.header(HeaderName::From) {
        Some(HeaderValue::Address(address)) => address
            .first()
            .map(|author| {
                let name = one_line(author.name().unwrap_or_default());
                if name.is_empty() { one_line(author.address().unwrap_or_default()) } else { name }
            })
            .unwrap_or_default(),
        Some(HeaderValue::Text(text)) => one_line(text),
        _ => String::new(),
    };
    MessageSummary { from, subject: parsed.subject().map(one_line).unwrap_or_default() }
}

/// Which message this is, in this place or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageIdentity {
    /// Of Message-ID, date, author and subject: some senders give all their messages one
    /// Message-ID.
    pub id: u64,
    /// Bytes, with line ends of one or two.
    pub size: u64,
}

impl MessageIdentity {
    /// Of a message of this size that has these header fields among others; `None` if
    /// it has nothing to go by.
    #[must_use]
    pub fn of(head: &[u8], size: u64) -> Option<Self> {
        let fields = [&b"message-id:"[..], b"date:", b"from:", b"subject:"];
        let fields = fields.map(|name| field(head, name));
        if fields.iter().all(Option::is_none) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        fields.hash(&mut hasher);
        Some(MessageIdentity { id: hasher.finish(), size })
    }

    /// Of a message file.
    pub fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let size = path.metadata()?.len();
        let head = file::read_start(path, HEAD_LIMIT as u64)?;
        Ok(Self::of(head_of(&head), size))
    }

    /// The Message-ID of a message file, as a server can be asked for it.
    #[must_use]
    pub fn message_id(path: &Path) -> Option<String> {
        let head = file::read_start(path, HEAD_LIMIT as u64).ok()?;
        let id = field(head_of(&head), b"message-id:")?;
        let sane = id.len() < 512 && id.iter().all(u8::is_ascii_graphic);
        String::from_utf8(id).ok().filter(|_| sane)
    }

    /// Whether the other one is a copy of it. Clients and mbsync add lines to a header, and
    /// line ends are one byte or two; a copy that was cut short is none.
    #[must_use]
    pub fn is_copied_by(self, other: Self) -> bool {
        self.id == other.id && other.size.saturating_add(other.size / 8 + 1024) >= self.size
    }
}

/// The value of a header field, without any white space.
fn field(head: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for line in head.split(|&byte| byte == b'\n') {
        let continues = line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        let rest = match (&value, line.split_at_checked(name.len())) {
            (Some(_), _) if continues => line,
            (Some(_), _) => break,
            (None, Some((start, rest))) if start.eq_ignore_ascii_case(name) => rest,
            _ => continue,
        };
        let more = rest.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
        value.get_or_insert_default().extend(more);
    }
    value.filter(|value| !value.is_empty())
}

/// `text` as one line: control characters and white space become single
/// spaces, escape sequences and direction marks go, and what is too long is cut.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut out = String::new();
    let mut count = 0usize;
    let mut gap = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' || c == '\u{9b}' {
            skip_escape(c, &mut chars);
            continue;
        }
        if c.is_control() || c.is_whitespace() {
            gap = true;
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        let wanted = if gap && !out.is_empty() { 2 } else { 1 };
        if count + wanted > TEXT_LIMIT {
            while count >= TEXT_LIMIT {
                out.pop();
                count -= 1;
            }
            out.push('…');
            return out;
        }
        if wanted == 2 {
            out.push(' ');
        }
        gap = false;
        out.push(c);
        count += wanted;
    }
    out
}

/// The header block, up to the empty line; the parser would otherwise go on
/// into the body.
fn head_of(message: &[u8]) -> &[u8] {
    let mut start = 0;
    while let Some(end) =
        message.get(start..).and_then(|rest| rest.iter().position(|&b| b == b'\n'))
    {
        let line = message.get(start..start + end).unwrap_or_default();
        if line.is_empty() || line == b"\r" {
            return message.get(..start).unwrap_or(message);
        }
        start += end + 1;
    }
    message
}

/// Passes over what follows ESC or CSI, up to its final character, so that no
/// `[31m` is left where a colour was meant. Bounded, for the end may be missing.
fn skip_escape(first: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let csi = first == '\u{9b}' || rest.next_if_eq(&'[').is_some();
    if csi {
        for _ in 0..32 {
            match rest.next_if(|c| (' '..='~').contains(c)) {
                Some('@'..='~') | None => return,
                Some(_) => {}
            }
        }
    } else if rest.next_if(|c| matches!(c, ']' | 'P' | 'X' | '^' | '_')).is_some() {
        // A string, ended by BEL or ST; its text (a title, a link) stays out.
        for _ in 0..256 {
            match rest.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}' | '\u{9c}' | '\n')) {
                Some(_) => {}
                None => break,
            }
        }
        if rest.next_if_eq(&'\u{1b}').is_some() {
            let _ = rest.next_if_eq(&'\\');
        } else {
            let _ = rest.next_if(|c| matches!(c, '\u{7}' | '\u{9c}'));
        }
    } else {
        let _ = rest.next_if(|c| (' '..='~').contains(c));
    }
}
