//! The grammar of responses (RFC 3501 §7, RFC 4731, RFC 5465, RFC 7162), as far as
//! it is used here.
//!
//! What is not understood is `None` or [`Reply::Other`], never an error: servers
//! send much that nobody has asked for. No input makes it panic, recurse or
//! allocate more than its own size.
//!
//! Does not depend on: connections.

pub use super::values::Verb;
use super::values::{Capabilities, Listed, MailboxStatus, Namespace, SpecialUse};
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use crate::text::{is_printable, printable};
use zeroize::Zeroizing;

/// One response, split into its parts; they borrow from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `tag OK [code] text`
    Tagged(&'a [u8], Condition<'a>),
    /// `* OK [code] text`
    Condition(Condition<'a>),
    /// `+ text`
    Continue(&'a [u8]),
    /// `* NAME rest`: the name as it came, and what follows it.
    Data(&'a [u8], &'a [u8]),
    /// `* 12 NAME rest`
    Numbered(u32, &'a [u8], &'a [u8]),
    /// Anything else.
    Other,
}

impl<'a> Reply<'a> {
    /// What follows this name, if it is a response of that name.
    #[must_use]
    pub fn data(&self, name: &str) -> Option<&'a [u8]> {
        match self {
            Reply::Data(found, rest) if found.eq_ignore_ascii_case(name.as_bytes()) => Some(rest),
            _ => None,
        }
    }
}

/// A status condition: verb, response code without its brackets, human text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<'a> {
    /// OK, NO, BAD, BYE or PREAUTH.
    pub verb: Verb,
    /// What stands in brackets; empty if nothing does.
    pub code: &'a [u8],
    /// The rest, for people.
    pub text: &'a [u8],
}

impl Condition<'_> {
    /// Whether the response code is this word, or begins with it.
    #[must_use]
    pub fn has_code(&self, word: &str) -> bool {
        let first = self.code.split(|b| *b == b' ').next().unwrap_or_default();
        first.eq_ignore_ascii_case(word.as_bytes())
    }

    /// The number that follows the response code's word.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        number(self.code.split(|b| *b == b' ').nth(1)?)
    }

    /// Whether the server says that it will pass, or that others are in the way: by
    /// a response code (RFC 5530), or, where servers give none or `[ALERT]`, by the
    /// words that they use.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        if ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG"].iter().any(|code| self.has_code(code)) {
            return true;
        }
        let text = self.printable().to_ascii_lowercase();
        ["too many", "maximum number of connections", "rate limit", "throttled", NO_MAIL_STORE]
            .iter()
            .any(|words| text.contains(words))
    }

    /// Whether it says that this session is of no use, and a new one may be.
    #[must_use]
    pub fn is_session_dead(&self) -> bool {
        self.verb == Verb::Bad && is_session_dead(&self.printable())
    }

    /// Code and text as one printable line: control characters dropped, cut at 200 characters.
    #[must_use]
    pub fn printable(&self) -> String {
        printable(&self.whole())
    }

    /// The same without any of these texts, which the server may repeat, or the
    /// beginning of them: masked once the control characters are gone, and before
    /// the cut, which would leave a part that is not known again.
    #[must_use]
    pub fn printable_without<'a>(&self, secrets: impl Iterator<Item = &'a str>) -> String {
        let mut said = Zeroizing::new(self.whole());
        said.retain(is_printable);
        for secret in secrets {
            if let Some(masked) = without(&said, secret) {
                said = masked;
            }
        }
        printable(&said)
    }

    fn whole(&self) -> String {
        let mut said = String::new();
        if !self.code.is_empty() {
            said.push('[');
            said.push_str(&String::from_utf8_lossy(self.code));
            said.push_str("] ");
        }
        said.push_str(&String::from_utf8_lossy(self.text));
        said
    }
}

/// What Microsoft 365 answers to every command (BAD) of a session whose login was accepted
/// and whose mail store it does not reach (public transcripts of mbsync and offlineimap).
const NO_MAIL_STORE: &str = "user is authenticated but not connected";

/// [`Condition::is_session_dead`] of an answer's text.
#[must_use]
pub fn is_session_dead(answer: &str) -> bool {
    answer.to_ascii_lowercase().contains(NO_MAIL_STORE)
}

/// [`Condition::is_temporary`] of a refusal that another program repeats: its code and text.
#[must_use]
pub fn is_temporary(words: &str) -> bool {
    condition(Verb::No, words.as_bytes()).is_temporary()
}

/// Splits one whole response, literals included, into its parts.
#[must_use]
pub fn reply(raw: &[u8]) -> Reply<'_> {
    let line = trim_end(raw);
    let (first, rest) = word(line);
    match first {
        b"+" => Reply::Continue(rest),
        b"*" => {
            let (name, rest) = word(rest);
            if let Some(verb) = verb(name) {
                return Reply::Condition(condition(verb, rest));
            }
            if let Some(number) = number(name).and_then(|n| u32::try_from(n).ok()) {
                let (name, rest) = word(rest);
                return if name.is_empty() {
                    Reply::Other
                } else {
                    Reply::Numbered(number, name, rest)
                };
            }
            if name.is_empty() { Reply::Other } else { Reply::Data(name, rest) }
        }
        [] => Reply::Other,
        tag => {
            let (name, rest) = word(rest);
            match verb(name) {
                Some(verb @ (Verb::Ok | Verb::No | Verb::Bad)) => {
                    Reply::Tagged(tag, condition(verb, rest))
                }
                _ => Reply::Other,
            }
        }
    }
}

fn verb(name: &[u8]) -> Option<Verb> {
    [
        (&b"OK"[..], Verb::Ok),
        (b"NO", Verb::No),
        (b"BAD", Verb::Bad),
        (b"BYE", Verb::Bye),
        (b"PREAUTH", Verb::Preauth),
    ]
    .into_iter()
    .find(|(word, _)| name.eq_ignore_ascii_case(word))
    .map(|(_, verb)| verb)
}

fn condition(verb: Verb, rest: &[u8]) -> Condition<'_> {
    if let Some(inside) = rest.strip_prefix(b"[") {
        if let Some(end) = inside.iter().position(|b| *b == b']') {
            let (code, text) = inside.split_at(end);
            return Condition { verb, code, text: skip_spaces(&text[1..]) };
        }
    }
    Condition { verb, code: b"", text: rest }
}

fn trim_end(raw: &[u8]) -> &[u8] {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    raw.strip_suffix(b"\r").unwrap_or(raw)
}

fn skip_spaces(mut rest: &[u8]) -> &[u8] {
    while let Some(after) = rest.strip_prefix(b" ") {
        rest = after;
    }
    rest
}

/// A literal that a line announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// Its length in bytes; the largest number where it is none that can be.
    pub length: u64,
    /// Its sender waits for consent: no `{n+}`.
    pub waits: bool,
}

/// The literal that follows this line, if one does.
#[must_use]
pub fn literal_at_end(line: &[u8]) -> Option<Literal> {
    let inside = trim_end(line).strip_suffix(b"}")?;
    let at = inside.iter().rposition(|&byte| byte == b'{')?;
    let digits = inside.get(at + 1..)?;
    let (digits, waits) = match digits.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (digits, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Literal { length: number(digits).unwrap_or(u64::MAX), waits })
}

/// The bytes up to the next space, and what follows the spaces.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, skip_spaces(rest))
}

/// An unsigned decimal number, whole.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A value inside a response.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    /// Unquoted.
    Atom(&'a [u8]),
    /// Quoted (without escapes undone, hence owned) or literal.
    Text(Vec<u8>),
}

/// Walks over the tokens of a response's data.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Tokens { rest }
    }

    fn literal(&mut self) -> Option<Vec<u8>> {
        let inside = self.rest.strip_prefix(b"{")?;
        let end = inside.iter().position(|b| *b == b'}')?;
        let (digits, after) = inside.split_at(end);
        let length = usize::try_from(number(digits.strip_suffix(b"+").unwrap_or(digits))?).ok()?;
        let after = after.strip_prefix(b"}")?;
        let after = after.strip_prefix(b"\r").unwrap_or(after).strip_prefix(b"\n")?;
        let text = after.get(..length)?.to_vec();
        self.rest = after.get(length..)?;
        Some(text)
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let mut bytes = self.rest.iter().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = self.rest.get(at + 1..)?;
                    return Some(text);
                }
                b'\\' => text.push(*bytes.next()?.1),
                byte => text.push(*byte),
            }
        }
        None
    }

    /// Skips a whole value: one token, or a list with all that is in it.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        loop {
            match self.next()? {
                Token::Open => depth += 1,
                Token::Close => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// An atom or string.
    fn text(&mut self) -> Option<Vec<u8>> {
        match self.next()? {
            Token::Atom(atom) => Some(atom.to_vec()),
            Token::Text(text) => Some(text),
            _ => None,
        }
    }

    fn open(&mut self) -> Option<()> {
        (self.next()? == Token::Open).then_some(())
    }

    /// The next atom of a list; `Some(None)` at its end.
    #[allow(clippy::option_option)] // `None`: it is no such list
    fn item(&mut self) -> Option<Option<&'a [u8]>> {
        match self.next()? {
            Token::Close => Some(None),
            Token::Atom(atom) => Some(Some(atom)),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        let Token::Atom(atom) = self.next()? else { return None };
        number(atom)
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.rest = skip_spaces(self.rest);
        match self.rest.first()? {
            b'(' => {
                self.rest = &self.rest[1..];
                Some(Token::Open)
            }
            b')' => {
                self.rest = &self.rest[1..];
                Some(Token::Close)
            }
            b'"' => self.quoted().map(Token::Text),
            b'{' => self.literal().map(Token::Text),
            _ => {
                let end = self
                    .rest
                    .iter()
                    .position(|b| matches!(b, b' ' | b'(' | b')' | b'"' | b'\r' | b'\n'))
                    .unwrap_or(self.rest.len());
                if end == 0 {
                    return None;
                }
                let (atom, rest) = self.rest.split_at(end);
                self.rest = rest;
                Some(Token::Atom(atom))
            }
        }
    }
}

/// Longest mailbox name that is taken: none longer is a path here (Linux, `PATH_MAX`).
const LONGEST_NAME: usize = 4096;

/// A mailbox name fit to be used further: UTF-8, and without control characters,
/// which neither mbsync nor a file of ours could carry.
fn mailbox_name(raw: Vec<u8>) -> Option<String> {
    if raw.len() > LONGEST_NAME {
        return None;
    }
    let name = String::from_utf8(raw).ok()?;
    (!name.is_empty() && !name.chars().any(char::is_control)).then(|| {
        // INBOX is the one name that is not case-sensitive (RFC 3501 §5.1).
        if name.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { name }
    })
}

/// `* STATUS name (…)`, given what follows the word STATUS: the name as it is
/// on the wire, and the values; unknown items are skipped.
#[must_use]
pub fn status(rest: &[u8]) -> Option<(String, MailboxStatus)> {
    let mut tokens = Tokens::new(rest);
    let name = mailbox_name(tokens.text()?)?;
    tokens.open()?;
    let mut status = MailboxStatus::default();
    loop {
        let Some(item) = tokens.item()? else { return Some((name, status)) };
        let before = tokens.rest;
        let value = match tokens.next()? {
            Token::Atom(atom) => number(atom),
            Token::Close => return None,
            _ => None,
        };
        let Some(value) = value else {
            tokens.rest = before;
            tokens.skip_value()?;
            continue;
        };
        let short = u32::try_from(value).ok();
        match item.to_ascii_uppercase().as_slice() {
            b"MESSAGES" => status.messages = short,
            b"UIDNEXT" => status.uid_next = short,
            b"UIDVALIDITY" => status.uid_validity = short,
            b"HIGHESTMODSEQ" => status.highest_mod_seq = Some(value),
            _ => {}
        }
    }
}

/// `* LIST (attributes) "delimiter" name`, given what follows the word LIST.
#[must_use]
pub fn list(rest: &[u8]) -> Option<Listed> {
    let mut tokens = Tokens::new(rest);
    tokens.open()?;
    let (mut selectable, mut special_use) = (true, None);
    while let Some(attribute) = tokens.item()? {
        let is = |name: &str| attribute.eq_ignore_ascii_case(name.as_bytes());
        if is("\\Noselect") || is("\\NonExistent") {
            selectable = false;
        } else if is("\\All") || is("\\Archive") {
            special_use = special_use.or(Some(SpecialUse::Kept));
        } else if is("\\Trash") || is("\\Junk") {
            special_use = special_use.or(Some(SpecialUse::Discarded));
        }
    }
    let delimiter = match tokens.next()? {
        Token::Text(text) => std::str::from_utf8(&text).ok()?.chars().next(),
        Token::Atom(atom) if atom.eq_ignore_ascii_case(b"NIL") => None,
        _ => return None,
    };
    let name = mailbox_name(tokens.text()?)?;
    Some(Listed { name, delimiter, selectable, special_use })
}

/// `* NAMESPACE (("prefix" "delimiter")) …`, given what follows the word: the
/// first personal one.
#[must_use]
pub fn namespace(rest: &[u8]) -> Option<Namespace> {
    let mut tokens = Tokens::new(rest);
    match tokens.next()? {
        Token::Open => {}
        Token::Atom(atom) if atom.eq_ignore_ascii_case(b"NIL") => {
            return Some(Namespace::default());
        }
        _ => return None,
    }
    tokens.open()?;
    let prefix = String::from_utf8(tokens.text()?).ok()?;
    if prefix.chars().any(char::is_control) {
        return None;
    }
    let delimiter = match tokens.next()? {
        Token::Text(text) => std::str::from_utf8(&text).ok()?.chars().next(),
        _ => None,
    };
    Some(Namespace { prefix, delimiter })
}

/// `* SEARCH 1 2 3`, given what follows the word SEARCH.
#[must_use]
pub fn search(rest: &[u8]) -> UidSet {
    let mut set = UidSet::default();
    for token in rest.split(|b| *b == b' ') {
        if let Some(uid) = number(token).and_then(|n| u32::try_from(n).ok()) {
            set.push(uid, uid);
        }
    }
    set.tidy();
    set
}

/// `* ESEARCH (TAG "t") UID ALL 1:3,5`, given what follows the word ESEARCH:
/// the set, empty if there is no ALL; `None` if it answers another command.
#[must_use]
pub fn esearch(rest: &[u8], tag: &str) -> Option<UidSet> {
    let mut tokens = Tokens::new(rest);
    let mut all = UidSet::default();
    if rest.starts_with(b"(") {
        tokens.open()?;
        let word = tokens.text()?;
        let named = tokens.text()?;
        if !word.eq_ignore_ascii_case(b"TAG") || named != tag.as_bytes() {
            return None;
        }
        if tokens.next()? != Token::Close {
            return None;
        }
    }
    while let Some(token) = tokens.next() {
        match token {
            Token::Atom(atom) if atom.eq_ignore_ascii_case(b"UID") => {}
            Token::Atom(atom) if atom.eq_ignore_ascii_case(b"ALL") => {
                let Token::Atom(set) = tokens.next()? else { return None };
                all = sequence_set(set)?;
            }
            Token::Atom(_) => tokens.skip_value()?,
            _ => return None,
        }
    }
    Some(all)
}

/// `1:3,5`: a set of UIDs. `*` is not a UID.
#[must_use]
pub fn sequence_set(set: &[u8]) -> Option<UidSet> {
    UidSet::parse(std::str::from_utf8(set).ok()?)
}

/// `* n FETCH (UID u FLAGS (…) MODSEQ (m))`, given what follows the word FETCH:
/// UID and flags, if it has both.
#[must_use]
pub fn fetch_flags(rest: &[u8]) -> Option<(u32, Flags)> {
    let mut tokens = Tokens::new(rest);
    tokens.open()?;
    let (mut uid, mut flags) = (None, None);
    loop {
        let Some(item) = tokens.item()? else { return Some((uid?, flags?)) };
        if item.eq_ignore_ascii_case(b"UID") {
            uid = Some(u32::try_from(tokens.number()?).ok()?);
        } else if item.eq_ignore_ascii_case(b"FLAGS") {
            flags = Some(flag_list(&mut tokens)?);
        } else {
            tokens.skip_value()?;
        }
    }
}

/// A message as [`fetch_header`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedHeader {
    /// Its UID.
    pub uid: u32,
    /// Its flags.
    pub flags: Flags,
    /// RFC822.SIZE.
    pub size: u64,
    /// The header fields that were asked for, as they came.
    pub header: Vec<u8>,
}

/// `* n FETCH (UID u FLAGS (…) RFC822.SIZE s BODY[HEADER.FIELDS (…)] {…})`, given what
/// follows the word FETCH, if it has all of them but the flags.
#[must_use]
pub fn fetch_header(rest: &[u8]) -> Option<FetchedHeader> {
    let mut tokens = Tokens::new(rest);
    tokens.open()?;
    let (mut uid, mut flags, mut size, mut header) = (None, Flags::default(), None, None);
    loop {
        let Some(item) = tokens.item()? else {
            return Some(FetchedHeader { uid: uid?, flags, size: size?, header: header? });
        };
        if item.eq_ignore_ascii_case(b"UID") {
            uid = Some(u32::try_from(tokens.number()?).ok()?);
        } else if item.eq_ignore_ascii_case(b"FLAGS") {
            flags = flag_list(&mut tokens)?;
        } else if item.eq_ignore_ascii_case(b"RFC822.SIZE") {
            size = Some(tokens.number()?);
        } else if item.to_ascii_uppercase().starts_with(b"BODY[") {
            let mut section = item;
            while !section.ends_with(b"]") {
                if let Token::Atom(atom) = tokens.next()? {
                    section = atom;
                }
            }
            header = Some(tokens.text()?);
        } else {
            tokens.skip_value()?;
        }
    }
}

fn flag_list(tokens: &mut Tokens<'_>) -> Option<Flags> {
    tokens.open()?;
    let mut flags = Flags::default();
    while let Some(name) = tokens.item()? {
        flags = flags.with(Flags::from_imap(std::str::from_utf8(name)));
    }
    Some(flags)
}

fn code_argument<'a>(code: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (first, rest) = word(code);
    first.eq_ignore_ascii_case(name.as_bytes()).then_some(rest)
}

/// The capabilities in a `* CAPABILITY …` response or a `[CAPABILITY …]` code.
#[must_use]
pub fn capabilities(rest: &[u8]) -> Capabilities {
    Capabilities::from_words(rest.split(|b| *b == b' ').filter(|w| !w.is_empty()))
}

/// The capabilities in this response code, if it is one.
#[must_use]
pub fn code_capabilities(code: &[u8]) -> Option<Capabilities> {
    code_argument(code, "CAPABILITY").map(capabilities)
}

/// The text without this secret, or as much of its beginning as differs from
/// other words; `None` if it is not in it.
pub(super) fn without(text: &str, secret: &str) -> Option<Zeroizing<String>> {
    /// So many characters are.
    const TELLING: usize = 12;
    let telling = secret.char_indices().nth(TELLING).map_or(secret.len(), |(at, _)| at);
    let (head, tail) = secret.split_at_checked(telling)?;
    if head.is_empty() || !text.contains(head) {
        return None;
    }
    let mut parts = text.split(head);
    let mut masked = Zeroizing::new(parts.next().unwrap_or_default().to_owned());
    for part in parts {
        let repeated: usize = (part.chars().zip(tail.chars()))
            .take_while(|(said, secret)| said == secret)
            .map(|(said, _)| said.len_utf8())
            .sum();
        masked.push_str("********");
        masked.push_str(part.get(repeated..).unwrap_or_default());
    }
    Some(masked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn g11_neither_a_secret_nor_its_beginning_is_quoted() {
        let token = format!("ya29.{}", "a1B2".repeat(300));
        for (said, secret, shown) in [
            ("NO try again", "hunter2", None),
            ("hunter2 hunter2?", "hunter2", Some("******** ********?")),
            ("x", "", None),
            (&format!("[{token}]"), &token, Some("[********]")),
            (&format!("{}…", &token[..150]), &token, Some("********…")),
            ("ya29. is how they begin", &token, None),
            ("pässwörter-sind-ß", "pässwörter-sind-öd", Some("********ß")),
        ] {
            assert_eq!(without(said, secret).as_deref().map(String::as_str), shown, "{said}");
        }
    }

    #[test]
    fn status_skips_what_it_does_not_know() {
        let (name, status) = status(
            b"\"Lists/a b\" (MESSAGES 6 X-THING (a (b)) UIDNEXT 8 MAILBOXID (F1) UIDVALIDITY 17 SIZE 9 HIGHESTMODSEQ 11)",
        )
        .unwrap();
        assert_eq!(name, "Lists/a b");
        assert_eq!(
            status,
            MailboxStatus {
                messages: Some(6),
                uid_next: Some(8),
                uid_validity: Some(17),
                highest_mod_seq: Some(11)
            }
        );
    }

    #[test]
    fn names_come_quoted_bare_and_as_literals() {
        assert_eq!(list(b"(\\HasNoChildren) \"/\" {3}\r\na\"b").unwrap().name, "a\"b");
        assert_eq!(list(b"() \".\" \"a\\\\b\\\"\"").unwrap().name, "a\\b\"");
        assert_eq!(list(b"(\\Noselect \\Sent) NIL inbox").unwrap().name, "INBOX");
        assert_eq!(list(b"() \"/\" \"a\nb\""), None);
        assert_eq!(list(b"() \"/\" \"\xe9\""), None);
    }

    #[test]
    fn attributes_say_what_a_mailbox_is_for() {
        let told = |attributes: &str| {
            let listed = list(format!("({attributes}) \"/\" x").as_bytes()).unwrap();
            (listed.selectable, listed.special_use)
        };
        assert_eq!(told("\\HasNoChildren \\Sent"), (true, None));
        assert_eq!(told("\\archive \\Junk"), (true, Some(SpecialUse::Kept)));
        assert_eq!(told("\\JUNK"), (true, Some(SpecialUse::Discarded)));
        assert_eq!(told("\\NonExistent \\All"), (false, Some(SpecialUse::Kept)));
        assert_eq!(told("\\NOSELECT"), (false, None));
        let many = "a ".repeat(30_000) + &"b".repeat(60_000);
        assert_eq!(told(&(many + " \\Trash")), (true, Some(SpecialUse::Discarded)));
    }

    #[test]
    fn g10_a_name_that_no_path_has_is_left_out() {
        assert_eq!(list(["() NIL ", &"a".repeat(5000)].concat().as_bytes()), None);
    }

    #[test]
    fn searches_of_both_kinds_give_sets() {
        let set = esearch(b"(TAG \"m3\") UID ALL 1:3,7", "m3").unwrap();
        assert_eq!(set, search(b"7 1 2 3"));
        assert_eq!(set.len(), 4);
        assert!(esearch(b"(TAG \"m3\") UID", "m3").unwrap().is_empty());
        assert_eq!(esearch(b"(TAG \"m2\") UID ALL 1", "m3"), None);
    }

    #[test]
    fn fetch_takes_items_in_any_order() {
        let want = Flags::from_imap(["\\Seen", "$Forwarded"]);
        assert_eq!(
            fetch_flags(b"(FLAGS (\\Seen $Forwarded Junk) MODSEQ (12) UID 4)"),
            Some((4, want))
        );
        assert_eq!(fetch_flags(b"(FLAGS (\\Seen))"), None);
    }

    #[test]
    fn conditions_keep_code_and_text_apart() {
        let Reply::Tagged(b"m1", said) = reply(b"m1 NO [AUTHENTICATIONFAILED] \x1b[31mno\r\n")
        else {
            panic!()
        };
        assert!(said.has_code("authenticationfailed"));
        assert_eq!(said.printable(), "[AUTHENTICATIONFAILED] [31mno");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            swallow(&raw);
        }

        #[test]
        fn nor_do_bytes_that_look_like_imap(raw in "[*+m1 ]{1,3} ?(STATUS|LIST|FETCH|ESEARCH|NAMESPACE|OK)? ?[-(){}\"\\\\\\[\\]*a0-9 :,\r\n]{0,60}") {
            swallow(raw.as_bytes());
        }

        #[test]
        fn a_name_survives_quoting(name in "[ -~]{1,40}") {
            let line = [b"() \"/\" ".as_slice(), &crate::imap::values::quoted(&name).unwrap()].concat();
            let listed = list(&line).unwrap().name;
            prop_assert!(listed == name || name.eq_ignore_ascii_case("INBOX"));
        }
    }

    fn swallow(raw: &[u8]) {
        let _ = reply(raw);
        let _ = status(raw);
        let _ = list(raw);
        let _ = namespace(raw);
        let _ = search(raw);
        let _ = esearch(raw, "m1");
        let _ = fetch_flags(raw);
        let _ = capabilities(raw);
    }
}
