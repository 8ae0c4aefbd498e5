//! Who wrote a message and what about, fit to be shown by anything.
//!
//! Reads the head of a message file, a bounded part of it, and decodes `From`
//! and `Subject` (RFC 5322, RFC 2047). What comes out is one line of valid
//! UTF-8 without control characters, terminal escapes or marks that turn the
//! direction of text, because it ends up in notifications, terminals and
//! environment variables, and its writer is a stranger. Knows nothing of
//! Maildir.

use crate::os::file;
use mail_parser::{HeaderName, HeaderValue, MessageParser};
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

/// The headline of a message file. Only a regular file is read, and never more
/// than [`HEAD_LIMIT`] bytes of it; a FIFO laid there does not block.
pub fn summary_of_file(path: &Path) -> io::Result<MessageSummary> {
    file::read_start(path, HEAD_LIMIT as u64).map(|head| headline(&head))
}

/// The headline of a message whose beginning this is. Any bytes will do.
#[must_use]
pub fn headline(message: &[u8]) -> MessageSummary {
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
                let name = sanitize(author.name().unwrap_or_default());
                if name.is_empty() { sanitize(author.address().unwrap_or_default()) } else { name }
            })
            .unwrap_or_default(),
        Some(HeaderValue::Text(text)) => sanitize(text),
        _ => String::new(),
    };
    MessageSummary { from, subject: parsed.subject().map(sanitize).unwrap_or_default() }
}

/// `text` as one line: control characters and white space become single
/// spaces, escape sequences and direction marks go, and what is too long is cut.
#[must_use]
pub fn sanitize(text: &str) -> String {
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
        if is_unseen(c) {
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

/// Characters that are not seen and change how others are: direction marks
/// (UAX #9), which can make `gpj.exe` out of a name, zero-width ones, line
/// separators, tags, and non-characters.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
        || (u32::from(c) & 0xfffe) == 0xfffe
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
