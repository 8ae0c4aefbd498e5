//! Lines → sections: every keyword of isync 1.4 and 1.5, with its checks.
//!
//! Knows what mbsync takes and refuses, and says where and how to mend it.
//! Knows nothing of mailboxes or of what users type. Facts: `config.c`,
//! `drv_imap.c` and `drv_maildir.c` of isync 1.4.4, and the same of 1.5.

use super::lexer::{self, Broken, Line};
use super::near::nearest;
use super::ops::{SideOps, SyncOps};
use super::{Dialect, Env, Section, SectionKind};
use crate::account::{
    Given, ImapStore, MaildirStore, Server, Store, StoreKind, SubFolders, TlsMode,
};
use crate::outcome::Failure;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// All sections of a file, as they stand there.
#[derive(Debug, Default)]
pub struct Sections {
    pub accounts: Vec<AccountSection>,
    pub stores: Vec<StoreSection>,
    pub channels: Vec<ChannelSection>,
    pub groups: Vec<GroupSection>,
    pub globals: Options,
    pub field_delimiter: Option<char>,
    pub spans: Vec<Section>,
    pub notices: Vec<String>,
    /// A path was given that is relative to [`Place::base`].
    pub relative: bool,
}

/// An `IMAPAccount`.
#[derive(Debug)]
pub struct AccountSection {
    pub name: String,
    pub line: usize,
    pub server: Server,
}

/// Where an `IMAPStore` gets its login from.
#[derive(Debug)]
pub enum Login {
    /// Of no account: a Maildir.
    None,
    /// This one of [`Sections::accounts`].
    Account(usize),
    /// Its own keys.
    Own(Box<Server>),
}

/// An `IMAPStore` or `MaildirStore`.
#[derive(Debug)]
pub struct StoreSection {
    pub line: usize,
    /// [`ImapStore::account`] is still empty.
    pub store: Store,
    pub login: Login,
    /// 0: no limit.
    pub max_size: u32,
}

/// A `Channel`.
#[derive(Debug)]
pub struct ChannelSection {
    pub name: String,
    pub line: usize,
    pub far: End,
    pub near: End,
    pub patterns: Option<Vec<String>>,
    pub options: Options,
}

/// `Far` or `Near`: one of [`Sections::stores`], and what follows its name.
#[derive(Debug, Clone)]
pub struct End {
    pub store: usize,
    pub mailbox: String,
}

/// A `Group`.
#[derive(Debug)]
pub struct GroupSection {
    pub name: String,
    pub line: usize,
    pub members: Vec<String>,
}

/// What may stand in a channel and above all sections.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub sync: SyncOps,
    pub create: SideOps,
    pub remove: SideOps,
    pub expunge: SideOps,
    pub expunge_solo: SideOps,
    pub sync_state: Option<String>,
    pub max_messages: Option<u32>,
}

/// Where the file is, and against what its paths are taken.
pub struct Place<'a> {
    /// The file, as messages name it.
    pub shown: &'a str,
    pub env: &'a Env,
    pub dialect: Dialect,
    /// The directory that relative paths start from.
    pub base: &'a Path,
}

const ACCOUNT_KEYS: &[&str] = &[
    "Host",
    "Port",
    "User",
    "UserCmd",
    "Pass",
    "PassCmd",
    "Timeout",
    "PipelineDepth",
    "DisableExtensions",
    "CertificateFile",
    "SystemCertificates",
    "ClientCertificate",
    "ClientKey",
    "CipherString",
    "SSLType",
    "SSLVersions",
    "AuthMechs",
    "RequireCRAM",
    "Tunnel",
];
const ACCOUNT_KEYS_1_4: &[&str] = &[
    "RequireSSL",
    "UseIMAPS",
    "UseSSLv2",
    "UseSSLv3",
    "UseTLSv1",
    "UseTLSv1.1",
    "UseTLSv1.2",
    "UseTLSv1.3",
];
const ACCOUNT_KEYS_1_5: &[&str] = &["TLSType", "TLSVersions"];
const STORE_KEYS: &[&str] =
    &["Trash", "TrashRemoteNew", "TrashNewOnly", "MaxSize", "MapInbox", "Flatten"];
const IMAP_STORE_KEYS: &[&str] =
    &["Account", "UseNamespace", "SubscribedOnly", "Path", "PathDelimiter"];
const MAILDIR_STORE_KEYS: &[&str] = &["Inbox", "Path", "AltMap", "InfoDelimiter", "SubFolders"];
const CHANNEL_KEYS: &[&str] = &["Far", "Near", "Patterns", "MaxSize", "Master", "Slave"];
const OPTION_KEYS: &[&str] = &[
    "Sync",
    "Create",
    "Remove",
    "Expunge",
    "SyncState",
    "CopyArrivalDate",
    "MaxMessages",
    "ExpireUnread",
];
const OPTION_KEYS_1_5: &[&str] = &["ExpungeSolo", "ExpireSide"];
const GLOBAL_KEYS: &[&str] = &["FSync", "FieldDelimiter", "BufferLimit"];
const SECTION_KEYS: &[&str] = &["IMAPAccount", "IMAPStore", "MaildirStore", "Channel", "Group"];
const EXTENSIONS: &[&str] = &[
    "LOGINDISABLED",
    "SASL-IR",
    "STARTTLS",
    "UIDPLUS",
    "LITERAL+",
    "MOVE",
    "NAMESPACE",
    "COMPRESS=DEFLATE",
];

/// One line of `Keyword value more…`.
struct Statement {
    line: usize,
    keyword: String,
    value: String,
    more: Vec<String>,
}

/// What a line brings.
enum Item {
    Statement(Statement),
    Blank,
    End,
}

/// A first word fit for a message. It may be no keyword at all, but `Pass=secret`,
/// or what follows the longest line that mbsync reads of a token.
fn shown(keyword: &str) -> Cow<'_, str> {
    if let Some((before, _)) = keyword.split_once(['=', ':']) {
        return format!("{before}=...").into();
    }
    if keyword.chars().count() > LONGEST_SHOWN {
        return "...".into();
    }
    keyword.into()
}

/// Longer than any keyword.
const LONGEST_SHOWN: usize = 30;

impl Statement {
    fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }

    /// The value and all further words: this keyword takes any number.
    fn all(&mut self) -> impl Iterator<Item = String> + use<> {
        let more = std::mem::take(&mut self.more);
        std::iter::once(std::mem::take(&mut self.value)).chain(more)
    }
}

/// Reads all sections, and stops at the first thing that mbsync would refuse.
pub fn read(text: &[u8], place: &Place) -> Result<Sections, Failure> {
    let mut lines = lexer::lines(text);
    let mut reader = Reader {
        lines: &mut lines,
        place,
        out: Sections::default(),
        account_names: BTreeMap::new(),
        store_names: BTreeMap::new(),
        last_line: 0,
        cut: false,
        full: false,
    };
    reader.file()?;
    Ok(reader.out)
}

struct Reader<'a, I> {
    lines: &'a mut I,
    place: &'a Place<'a>,
    out: Sections,
    /// First of each name wins, as in mbsync.
    account_names: BTreeMap<String, usize>,
    store_names: BTreeMap<String, usize>,
    last_line: usize,
    /// mbsync reads that line as the rest of one that is too long for it.
    cut: bool,
    /// That line is as long as it may be, so that the next may be its rest.
    full: bool,
}

/// A login being read, with what only decides at the section's end.
struct Draft {
    server: Server,
    user: Option<Zeroizing<String>>,
    user_cmd: Option<String>,
    pass: Option<Zeroizing<String>>,
    pass_cmd: Option<String>,
    port: u16,
    tls: Option<TlsMode>,
    /// A set of bits, 1.0 lowest; `None`: the default.
    versions: Option<u8>,
    require_ssl: Option<bool>,
    use_imaps: Option<bool>,
    /// `UseTLSv1` to `UseTLSv1.3`.
    use_tls: [Option<bool>; 4],
    require_cram: Option<bool>,
    /// Any of the keys was seen.
    touched: bool,
}

impl Draft {
    fn new() -> Self {
        Draft {
            server: Server::default(),
            user: None,
            user_cmd: None,
            pass: None,
            pass_cmd: None,
            port: 0,
            tls: None,
            versions: None,
            require_ssl: None,
            use_imaps: None,
            use_tls: [None; 4],
            require_cram: None,
            touched: false,
        }
    }
}

impl<'t, I: Iterator<Item = (usize, &'t [u8])>> Reader<'_, I> {
    fn new_dialect(&self) -> bool {
        self.place.dialect == Dialect::V1_5
    }

    fn fail<T>(&self, line: usize, text: impl std::fmt::Display) -> Result<T, Failure> {
        let shown = self.place.shown;
        if self.cut && line == self.last_line {
            // What stands here may be the rest of a password.
            return Err(Failure::config(format!(
                "{shown}:{line}: this is the rest of a line of which mbsync takes only 1022 \
                 bytes; break that line up"
            )));
        }
        Err(Failure::config(format!("{shown}:{line}: {text}")))
    }

    fn notice(&mut self, line: usize, text: impl std::fmt::Display) {
        self.out.notices.push(format!("{}:{line}: {text}", self.place.shown));
    }

    /// The next line that is not a comment.
    fn next(&mut self) -> Result<Item, Failure> {
        for (line, bytes) in self.lines.by_ref() {
            self.last_line = line;
            self.cut = std::mem::replace(&mut self.full, bytes.len() == lexer::LONGEST_LINE);
            let words = match lexer::split(bytes) {
                Ok(Line::Comment) => continue,
                Ok(Line::Blank) => return Ok(Item::Blank),
                Ok(Line::Words(words)) => words,
                Err(broken) => {
                    return match broken {
                        Broken::Escape => self.fail(
                            line,
                            "a `\\` stands at the line's end or before a tab; lines cannot be \
                             continued, so put it all on one line, or repeat the keyword",
                        ),
                        Broken::Quote => self.fail(
                            line,
                            "a quote is not closed; add the missing \", or write \\\" for a \
                             quote that is meant",
                        ),
                        Broken::Encoding => {
                            self.fail(line, "this is not UTF-8; convert the file with iconv(1)")
                        }
                    };
                }
            };
            let mut words = words.into_iter();
            let keyword = words.next().unwrap_or_default();
            let Some(value) = words.next() else {
                return self.fail(
                    line,
                    format!("`{}` has no value; add one, or remove the line", shown(&keyword)),
                );
            };
            return Ok(Item::Statement(Statement { line, keyword, value, more: words.collect() }));
        }
        Ok(Item::End)
    }

    /// The next line of the section that is being read; `None` where it ends.
    fn within(&mut self) -> Result<Option<Statement>, Failure> {
        Ok(match self.next()? {
            Item::Statement(statement) => Some(statement),
            Item::Blank | Item::End => None,
        })
    }

    /// Refuses words that nobody took.
    fn no_more(&self, s: &Statement) -> Result<(), Failure> {
        let Some(excess) = s.more.first() else { return Ok(()) };
        if s.is("Pass") || s.is("User") {
            self.fail(
                s.line,
                format!(
                    "`{}` takes one word, and here are more; put the value in double quotes",
                    s.keyword
                ),
            )
        } else if s.is("PassCmd") || s.is("UserCmd") || s.is("Tunnel") {
            // What a command is given may be secret too.
            self.fail(
                s.line,
                format!(
                    "`{}` takes one word, and here are more; \
                     put the whole command in double quotes",
                    s.keyword
                ),
            )
        } else {
            self.fail(
                s.line,
                format!(
                    "`{}` takes one word, and `{excess}` is too many; put a value with spaces \
                     in double quotes, and a comment behind #",
                    s.keyword
                ),
            )
        }
    }

    fn file(&mut self) -> Result<(), Failure> {
        let mut first_section = None;
        let mut conflict = None;
        loop {
            let mut s = match self.next()? {
                Item::Statement(statement) => statement,
                Item::Blank => continue,
                Item::End => break,
            };
            let (line, header) = (s.line, s.keyword.clone());
            let kind = match header.to_ascii_lowercase().as_str() {
                "imapaccount" => Some(SectionKind::Account),
                "imapstore" => Some(SectionKind::ImapStore),
                "maildirstore" => Some(SectionKind::MaildirStore),
                "channel" => Some(SectionKind::Channel),
                "group" => Some(SectionKind::Group),
                _ => None,
            };
            if let Some(kind) = kind {
                if kind != SectionKind::Group {
                    self.no_more(&s)?;
                }
                let name = s.value.clone();
                match kind {
                    SectionKind::Account | SectionKind::ImapStore => self.imap(&s)?,
                    SectionKind::MaildirStore => self.maildir(&s)?,
                    SectionKind::Channel => self.channel(&s)?,
                    SectionKind::Group => self.group(&mut s)?,
                }
                self.out.spans.push(Section { kind, name, first: line, last: self.last_line });
                first_section.get_or_insert(line);
                continue;
            }
            if s.is("FSync") {
                self.boolean(&s)?;
            } else if s.is("FieldDelimiter") {
                self.out.field_delimiter = Some(self.delimiter(&s, "Field delimiter")?);
            } else if s.is("BufferLimit") {
                if self.size(&s)? == 0 {
                    return self.fail(line, "BufferLimit cannot be zero; remove the line");
                }
            } else {
                let mut options = std::mem::take(&mut self.out.globals);
                if !self.option(&mut s, &mut options)? {
                    return self.unknown_at_top(&s, first_section);
                }
                if conflict.is_none() {
                    conflict = self.conflict(&options).map(|found| (line, found));
                }
                self.out.globals = options;
            }
            if let Some(first) = first_section {
                return self.fail(
                    line,
                    format!(
                        "{} stands after a section; move it above line {first}, or, if it \
                         belongs to the section before it, remove the blank line between",
                        s.keyword
                    ),
                );
            }
            self.no_more(&s)?;
        }
        if let Some((line, (name, why))) = conflict {
            return self.fail(
                line,
                format!("the global {name} options contradict each other: {why}; keep one"),
            );
        }
        Ok(())
    }

    fn unknown_at_top(&self, s: &Statement, first_section: Option<usize>) -> Result<(), Failure> {
        let inner = [
            ACCOUNT_KEYS,
            ACCOUNT_KEYS_1_4,
            ACCOUNT_KEYS_1_5,
            STORE_KEYS,
            IMAP_STORE_KEYS,
            MAILDIR_STORE_KEYS,
            CHANNEL_KEYS,
        ];
        let key = shown(&s.keyword);
        if first_section.is_some() && inner.concat().iter().any(|known| s.is(known)) {
            return self.fail(
                s.line,
                format!(
                    "{key} stands outside of any section; a blank line ends a section, so \
                     remove the one above"
                ),
            );
        }
        if ["Include", "IncludeCmd", "Eval"].iter().any(|known| s.is(known)) {
            return self.fail(
                s.line,
                format!("no mbsync knows `{key}`; put the text itself into this file"),
            );
        }
        let known = [SECTION_KEYS, OPTION_KEYS, GLOBAL_KEYS];
        let advice = self.advice(s, &known.concat());
        self.fail(s.line, format!("`{key}` begins no section, and is no global option{advice}"))
    }

    /// What to do about an unknown keyword.
    fn advice(&self, s: &Statement, known: &[&'static str]) -> String {
        let old = |keys: &[&str]| keys.iter().any(|key| s.is(key));
        if self.new_dialect() && old(ACCOUNT_KEYS_1_4) {
            return ": isync 1.5 has dropped it; use TLSType (None, STARTTLS or IMAPS) and \
                    TLSVersions"
                .into();
        }
        if !self.new_dialect() && (old(ACCOUNT_KEYS_1_5) || old(OPTION_KEYS_1_5)) {
            let instead = match () {
                () if s.is("TLSType") => "; write SSLType for it",
                () if s.is("TLSVersions") => "; write SSLVersions TLSv1.2 TLSv1.3 or the like",
                () => "; remove it",
            };
            return format!(": it came with isync 1.5, and the mbsync here is older{instead}");
        }
        if s.is("UseKeychain") {
            return ": only mbsync on macOS has it; use PassCmd".into();
        }
        if let Some(meant) = nearest(&s.keyword, known.iter().copied()) {
            return format!("; did you mean {meant}?");
        }
        if SECTION_KEYS.iter().any(|key| s.is(key)) {
            return "; put a blank line above it, to begin a new section".into();
        }
        "; remove the line, or correct its first word".into()
    }

    fn unknown<T>(
        &self,
        s: &Statement,
        section: &str,
        known: &[&'static str],
    ) -> Result<T, Failure> {
        // A section begun without a blank line before it is the likeliest mistake.
        let advice = if SECTION_KEYS.iter().any(|key| s.is(key)) {
            "; put a blank line above it, to begin a new section".into()
        } else {
            self.advice(s, known)
        };
        let key = shown(&s.keyword);
        self.fail(s.line, format!("`{key}` is not known in {section} sections{advice}"))
    }

    fn boolean(&self, s: &Statement) -> Result<bool, Failure> {
        let is = |words: &[&str]| words.iter().any(|word| s.value.eq_ignore_ascii_case(word));
        if is(&["yes", "true", "on", "1"]) {
            Ok(true)
        } else if is(&["no", "false", "off", "0"]) {
            Ok(false)
        } else {
            self.fail(s.line, format!("{} is `{}`; write yes or no", s.keyword, s.value))
        }
    }

    fn number(&self, s: &Statement) -> Result<i32, Failure> {
        match c_number(&s.value) {
            // strtol() saturates at the ends of a long, and the int that takes
            // it keeps the low half.
            (n, "") => {
                let long = n.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
                Ok(i32::from_ne_bytes(low_half(long).to_ne_bytes()))
            }
            _ => self.fail(s.line, format!("{} is `{}`; write a number", s.keyword, s.value)),
        }
    }

    fn size(&self, s: &Statement) -> Result<u32, Failure> {
        let (n, unit) = c_number(&s.value);
        let long = if n.unsigned_abs() > u128::from(u64::MAX) { i128::from(u64::MAX) } else { n };
        let n = low_half(long);
        let (n, unit) = match unit.as_bytes().first() {
            Some(b'k' | b'K') => (n.wrapping_mul(1 << 10), &unit[1..]),
            Some(b'm' | b'M') => (n.wrapping_mul(1 << 20), &unit[1..]),
            _ => (n, unit),
        };
        match unit {
            "" | "b" | "B" => Ok(n),
            _ => self.fail(
                s.line,
                format!("{} is `{}`; write a size such as 200k or 10M", s.keyword, s.value),
            ),
        }
    }

    fn delimiter(&self, s: &Statement, what: &str) -> Result<char, Failure> {
        let mut chars = s.value.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) if c.is_ascii_punctuation() => Ok(c),
            _ => self.fail(s.line, format!("{what} must be one punctuation character")),
        }
    }

    /// A path with `~` expanded and made absolute; `None` if its user is not
    /// known, for which mbsync acts as if the line were not there.
    fn path(&mut self, s: &Statement) -> Option<String> {
        let (value, env) = (&s.value, self.place.env);
        if let Some(rest) = value.strip_prefix('~') {
            let (user, below) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let home = if user.is_empty() { Some(env.home.clone()) } else { (env.user_home)(user) };
            if home.is_none() {
                self.notice(s.line, format!("no user {user}; mbsync ignores this {}", s.keyword));
            }
            return Some(format!("{}{below}", home?.to_string_lossy()));
        }
        if value.starts_with('/') {
            return Some(value.clone());
        }
        self.out.relative = true;
        if !self.new_dialect() {
            self.notice(
                s.line,
                format!(
                    "{} is relative to the directory that mbsync is started in; write it with \
                     ~/ or / in front",
                    s.keyword
                ),
            );
        }
        let base = self.place.base.to_string_lossy();
        Some(format!("{}/{value}", base.trim_end_matches('/')))
    }

    fn readable(&mut self, s: &Statement) -> Result<Option<PathBuf>, Failure> {
        match self.path(s).map(PathBuf::from) {
            Some(path) if (self.place.env.readable)(&path) => Ok(Some(path)),
            Some(path) => self.fail(
                s.line,
                format!(
                    "{} {} cannot be read; correct the path, or its permissions",
                    s.keyword,
                    path.display()
                ),
            ),
            None => self.fail(s.line, format!("{}: there is no such user", s.keyword)),
        }
    }

    /// An option of channels and of the file's head. False: not one.
    fn option(&mut self, s: &mut Statement, options: &mut Options) -> Result<bool, Failure> {
        let (line, keyword) = (s.line, s.keyword.clone());
        let dialect = self.place.dialect;
        if s.is("Sync") {
            for word in s.all() {
                if !options.sync.add(&word, dialect) {
                    let known = ["None", "Pull", "Push", "New", "ReNew", "Delete", "Flags", "Full"]
                        .into_iter()
                        .chain(
                            self.new_dialect()
                                .then_some(["Upgrade", "Gone", "Old"])
                                .into_iter()
                                .flatten(),
                        );
                    let meant = nearest(&word, known)
                        .map_or("remove it".to_string(), |meant| format!("did you mean {meant}?"));
                    return self.fail(line, format!("Sync does not know `{word}`; {meant}"));
                }
            }
            return Ok(true);
        }
        if s.is("SyncState") {
            options.sync_state = if s.value == "*" { Some("*".into()) } else { self.path(s) };
            return Ok(true);
        }
        if s.is("CopyArrivalDate") || s.is("ExpireUnread") {
            self.boolean(s)?;
            return Ok(true);
        }
        if s.is("MaxMessages") {
            options.max_messages = Some(u32::try_from(self.number(s)?).unwrap_or(0));
            return Ok(true);
        }
        if self.new_dialect() && s.is("ExpireSide") {
            if !["Far", "Near"].iter().any(|side| s.value.eq_ignore_ascii_case(side)) {
                return self.fail(line, format!("ExpireSide is `{}`; write Far or Near", s.value));
            }
            return Ok(true);
        }
        let slot = match keyword.to_ascii_lowercase().as_str() {
            "create" => &mut options.create,
            "remove" => &mut options.remove,
            "expunge" => &mut options.expunge,
            "expungesolo" if dialect == Dialect::V1_5 => &mut options.expunge_solo,
            _ => return Ok(false),
        };
        let mut old_names = false;
        for word in s.all() {
            match slot.add(&word) {
                Some(old) => old_names |= old,
                None => {
                    return self.fail(
                        line,
                        format!("{keyword} is `{word}`; write None, Far, Near or Both"),
                    );
                }
            }
        }
        if old_names {
            self.notice(line, "Master and Slave are called Far and Near since isync 1.4");
        }
        Ok(true)
    }

    /// The first of the side options that contradict themselves, and how.
    fn conflict(&self, options: &Options) -> Option<(&'static str, &'static str)> {
        let dialect = self.place.dialect;
        options.sync.conflict(dialect).map(|why| ("Sync", why)).or_else(|| {
            [
                ("Expunge", options.expunge),
                ("ExpungeSolo", options.expunge_solo),
                ("Create", options.create),
                ("Remove", options.remove),
            ]
            .into_iter()
            .find_map(|(name, ops)| ops.conflict(dialect).map(|why| (name, why)))
        })
    }

    /// An `IMAPAccount` or an `IMAPStore`.
    fn imap(&mut self, header: &Statement) -> Result<(), Failure> {
        let is_store = header.is("IMAPStore");
        let section = if is_store { "IMAPStore" } else { "IMAPAccount" };
        let title = format!("{section} {}", header.value);
        let mut draft = Draft::new();
        draft.server.tls_keyword = if self.new_dialect() { "TLSType" } else { "SSLType" };
        let mut store = blank_store(
            header.value.clone(),
            StoreKind::Imap(ImapStore {
                account: String::new(),
                path: String::new(),
                use_namespace: true,
                delimiter: None,
                subscribed_only: false,
            }),
        );
        let mut max_size = 0;
        let mut account = None;
        while let Some(mut s) = self.within()? {
            if self.login(&mut s, &mut draft)? {
                draft.touched = true;
            } else if !is_store {
                let mut known = ACCOUNT_KEYS.to_vec();
                known.extend(if self.new_dialect() { ACCOUNT_KEYS_1_5 } else { ACCOUNT_KEYS_1_4 });
                return self.unknown(&s, section, &known);
            } else if s.is("Account") {
                account = self.account_names.get(&s.value).copied();
                if account.is_none() {
                    let meant = nearest(&s.value, self.account_names.keys().map(String::as_str));
                    let advice = meant.map_or_else(
                        || "put the IMAPAccount section above this one".into(),
                        |meant| format!("did you mean {meant}?"),
                    );
                    return self.fail(
                        s.line,
                        format!("no IMAPAccount `{}` stands above; {advice}", s.value),
                    );
                }
            } else if !self.imap_store_key(&s, &mut store)? {
                self.store_key(&s, &mut store, &mut max_size, section, IMAP_STORE_KEYS)?;
            }
            self.no_more(&s)?;
        }
        let login = match account {
            Some(_) if draft.touched => {
                return self.fail(
                    header.line,
                    format!(
                        "{title} has both Account and keys of an account; move Host, User, Pass \
                         and the like into the IMAPAccount section"
                    ),
                );
            }
            Some(account) => Login::Account(account),
            None => {
                let server = self.server(header.line, &title, draft)?;
                if !is_store {
                    let name = header.value.clone();
                    let index = self.out.accounts.len();
                    self.account_names.entry(name.clone()).or_insert(index);
                    self.out.accounts.push(AccountSection { name, line: header.line, server });
                    return Ok(());
                }
                Login::Own(Box::new(server))
            }
        };
        self.add_store(StoreSection { line: header.line, store, login, max_size });
        Ok(())
    }

    fn add_store(&mut self, section: StoreSection) {
        let index = self.out.stores.len();
        self.store_names.entry(section.store.name.clone()).or_insert(index);
        self.out.stores.push(section);
    }

    /// A key of `IMAPStore` alone. False: not one.
    fn imap_store_key(&self, s: &Statement, store: &mut Store) -> Result<bool, Failure> {
        let StoreKind::Imap(imap) = &mut store.kind else { return Ok(false) };
        if s.is("UseNamespace") {
            imap.use_namespace = self.boolean(s)?;
        } else if s.is("SubscribedOnly") {
            imap.subscribed_only = self.boolean(s)?;
        } else if s.is("Path") {
            imap.path.clone_from(&s.value);
        } else if s.is("PathDelimiter") {
            if s.value.len() != 1 {
                return self.fail(s.line, "PathDelimiter must be one character");
            }
            imap.delimiter = Some(s.value.clone());
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// A key that both kinds of store have; an unknown one is refused.
    fn store_key(
        &self,
        s: &Statement,
        store: &mut Store,
        max_size: &mut u32,
        section: &str,
        own: &[&'static str],
    ) -> Result<(), Failure> {
        if s.is("Trash") {
            store.trash = Some(s.value.clone());
        } else if s.is("TrashRemoteNew") || s.is("TrashNewOnly") {
            self.boolean(s)?;
        } else if s.is("MaxSize") {
            *max_size = self.size(s)?;
        } else if s.is("MapInbox") {
            store.map_inbox = Some(s.value.clone());
        } else if s.is("Flatten") {
            if s.value.contains('/') {
                return self.fail(
                    s.line,
                    "Flatten cannot contain `/`, which it replaces; write another character",
                );
            }
            store.flatten = (!s.value.is_empty()).then(|| s.value.clone());
        } else {
            let account = if section == "IMAPStore" { ACCOUNT_KEYS } else { &[] };
            return self.unknown(s, section, &[own, STORE_KEYS, account].concat());
        }
        Ok(())
    }

    /// A key of an account. False: not one.
    fn login(&mut self, s: &mut Statement, draft: &mut Draft) -> Result<bool, Failure> {
        let line = s.line;
        let old = !self.new_dialect();
        match s.keyword.to_ascii_lowercase().as_str() {
            "host" => {
                let mut host = s.value.as_str();
                if old {
                    // Before 1.5 a host could be written as a URL.
                    if let Some(rest) = host.strip_prefix("imaps:") {
                        host = rest;
                        draft.tls = Some(TlsMode::Imaps);
                        draft.versions.get_or_insert(0b1111);
                    }
                    host = host.strip_prefix("imap:").unwrap_or(host);
                    host = host.strip_prefix("//").unwrap_or(host);
                }
                if host != s.value {
                    self.notice(line, "write a plain host name, and SSLType IMAPS if it is so");
                }
                draft.server.host = Some(host.to_string());
            }
            "user" => draft.user = Some(Zeroizing::new(std::mem::take(&mut s.value))),
            "usercmd" => draft.user_cmd = Some(s.value.clone()),
            "pass" => draft.pass = Some(Zeroizing::new(std::mem::take(&mut s.value))),
            "passcmd" => draft.pass_cmd = Some(s.value.clone()),
            "usekeychain" if cfg!(target_os = "macos") => {
                self.boolean(s)?;
            }
            "port" => match u16::try_from(self.number(s)?) {
                Ok(port) => draft.port = port,
                Err(_) => return self.fail(line, "Port must be a number up to 65535"),
            },
            "timeout" => {
                let seconds = u64::try_from(self.number(s)?).unwrap_or(0);
                draft.server.timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            "pipelinedepth" => {
                if self.number(s)? < 1 {
                    return self.fail(line, "PipelineDepth must be at least 1");
                }
            }
            "disableextension" | "disableextensions" => {
                for word in s.all() {
                    if !EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(&word)) {
                        return self.fail(
                            line,
                            format!(
                                "mbsync does not know the extension `{word}`; it knows {}",
                                EXTENSIONS.join(", ")
                            ),
                        );
                    }
                }
            }
            "certificatefile" => draft.server.certificate_file = self.readable(s)?,
            "systemcertificates" => draft.server.system_certificates = self.boolean(s)?,
            "clientcertificate" => draft.server.client_certificate = self.readable(s)?,
            "clientkey" => draft.server.client_key = self.readable(s)?,
            "cipherstring" => draft.server.cipher_string = Some(s.value.clone()),
            "ssltype" => self.tls_type(s, draft)?,
            "tlstype" if !old => self.tls_type(s, draft)?,
            "sslversion" | "sslversions" => self.ssl_versions(s, draft)?,
            "tlsversions" if !old => self.tls_versions(s, draft)?,
            "requiressl" if old => draft.require_ssl = Some(self.boolean(s)?),
            "useimaps" if old => draft.use_imaps = Some(self.boolean(s)?),
            // Long without effect; not even the value is looked at.
            "usesslv2" | "usesslv3" if old => {}
            "usetlsv1" if old => draft.use_tls[0] = Some(self.boolean(s)?),
            "usetlsv1.1" if old => draft.use_tls[1] = Some(self.boolean(s)?),
            "usetlsv1.2" if old => draft.use_tls[2] = Some(self.boolean(s)?),
            "usetlsv1.3" if old => draft.use_tls[3] = Some(self.boolean(s)?),
            "authmech" | "authmechs" => {
                draft.server.auth_mechs.extend(s.all().map(|mech| mech.to_ascii_uppercase()));
            }
            "requirecram" => draft.require_cram = Some(self.boolean(s)?),
            "tunnel" => draft.server.tunnel = Some(s.value.clone()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn tls_type(&self, s: &Statement, draft: &mut Draft) -> Result<(), Failure> {
        // The later one holds, and is the one to change.
        draft.server.tls_keyword = if s.is("SSLType") { "SSLType" } else { "TLSType" };
        draft.tls = Some(match s.value.to_ascii_lowercase().as_str() {
            "none" => TlsMode::None,
            "starttls" => TlsMode::StartTls,
            "imaps" => TlsMode::Imaps,
            _ => {
                return self.fail(
                    s.line,
                    format!("{} is `{}`; write None, STARTTLS or IMAPS", s.keyword, s.value),
                );
            }
        });
        Ok(())
    }

    fn ssl_versions(&self, s: &mut Statement, draft: &mut Draft) -> Result<(), Failure> {
        let mut set = 0;
        for word in s.all() {
            set |= match word.to_ascii_lowercase().as_str() {
                "sslv2" | "sslv3" => 0,
                "tlsv1" => 1,
                "tlsv1.1" => 2,
                "tlsv1.2" => 4,
                "tlsv1.3" => 8,
                _ => {
                    return self.fail(
                        s.line,
                        format!("no TLS version is called `{word}`; write TLSv1.2 or TLSv1.3"),
                    );
                }
            };
        }
        draft.versions = Some(set);
        Ok(())
    }

    fn tls_versions(&self, s: &mut Statement, draft: &mut Draft) -> Result<(), Failure> {
        let mut set = draft.versions.unwrap_or(0b1100);
        for word in s.all() {
            let bit = match word.get(1..) {
                Some("1.0") => 1,
                Some("1.1") => 2,
                Some("1.2") => 4,
                Some("1.3") => 8,
                _ => 0,
            };
            match word.as_bytes().first() {
                Some(b'+') if bit != 0 => set |= bit,
                Some(b'-') if bit != 0 => set &= !bit,
                _ => {
                    return self.fail(
                        s.line,
                        format!("TLSVersions has `{word}`; write +1.2, -1.3 or the like"),
                    );
                }
            }
        }
        draft.versions = Some(set);
        Ok(())
    }

    /// The login that a section's keys amount to.
    fn server(&mut self, line: usize, title: &str, draft: Draft) -> Result<Server, Failure> {
        let Draft { mut server, .. } = draft;
        if server.tunnel.is_none() && server.host.is_none() {
            return self.fail(line, format!("{title} has neither Host nor Tunnel; add one"));
        }
        if draft.user.is_some() && draft.user_cmd.is_some() {
            return self.fail(line, format!("{title} has both User and UserCmd; remove one"));
        }
        if draft.pass.is_some() && draft.pass_cmd.is_some() {
            return self.fail(line, format!("{title} has both Pass and PassCmd; remove one"));
        }
        let old_keys = draft.use_imaps.is_some()
            || draft.require_ssl.is_some()
            || draft.use_tls.iter().any(Option::is_some);
        let mut versions =
            draft.versions.unwrap_or(if self.new_dialect() { 0b1100 } else { 0b1111 });
        server.tls = if old_keys {
            if draft.tls.is_some() || draft.versions.is_some() {
                return self.fail(
                    line,
                    format!(
                        "{title} has old keys (UseIMAPS, RequireSSL, UseTLS…) beside SSLType or \
                         SSLVersions; remove the old ones"
                    ),
                );
            }
            self.notice(line, format!("{title} has old keys; use SSLType and SSLVersions instead"));
            // Only 1.0 is on unless it is turned off, and only 1.0.
            versions = u8::from(draft.use_tls[0] != Some(false));
            for (bit, on) in draft.use_tls.iter().enumerate().skip(1) {
                versions |= u8::from(*on == Some(true)) << bit;
            }
            let tls = if draft.use_imaps == Some(true) {
                TlsMode::Imaps
            } else if draft.require_ssl == Some(false) && versions == 0 {
                TlsMode::None
            } else {
                TlsMode::StartTls
            };
            if tls != TlsMode::None && versions == 0 {
                return self.fail(
                    line,
                    format!("{title} wants TLS with no version of it allowed; use SSLVersions"),
                );
            }
            tls
        } else {
            draft.tls.unwrap_or(if server.tunnel.is_some() {
                TlsMode::None
            } else {
                TlsMode::StartTls
            })
        };
        server.tls_versions = range(versions);
        if let Some(cram) = draft.require_cram {
            if !server.auth_mechs.is_empty() {
                return self.fail(
                    line,
                    format!("{title} has both RequireCRAM and AuthMechs; remove RequireCRAM"),
                );
            }
            self.notice(line, format!("{title}: use AuthMechs instead of RequireCRAM"));
            if cram {
                server.auth_mechs.push("CRAM-MD5".into());
            }
        }
        if server.auth_mechs.is_empty() {
            server.auth_mechs.push("*".into());
        }
        server.port = match draft.port {
            0 if server.tls == TlsMode::Imaps => 993,
            0 => 143,
            port => port,
        };
        let command = |text: String| Given::Command(text.strip_prefix('+').unwrap_or(&text).into());
        server.user = draft.user.map(Given::Text).or(draft.user_cmd.map(command));
        server.pass = draft.pass.map(Given::Text).or(draft.pass_cmd.map(command));
        Ok(server)
    }

    fn maildir(&mut self, header: &Statement) -> Result<(), Failure> {
        let default_delimiter = self.out.field_delimiter.unwrap_or(':');
        let mut maildir = MaildirStore {
            path: None,
            inbox: self.place.env.home.join("Maildir"),
            subfolders: SubFolders::Unset,
            alt_map: false,
            info_delimiter: default_delimiter,
        };
        let mut path_line = header.line;
        let mut store = blank_store(header.value.clone(), StoreKind::Maildir(maildir.clone()));
        let mut max_size = 0;
        while let Some(s) = self.within()? {
            if s.is("Inbox") {
                let inbox = self.path(&s).map(PathBuf::from);
                maildir.inbox = inbox.unwrap_or_else(|| self.place.env.home.join("Maildir"));
            } else if s.is("Path") {
                maildir.path = self.path(&s);
                path_line = s.line;
            } else if s.is("AltMap") {
                maildir.alt_map = self.boolean(&s)?;
            } else if s.is("InfoDelimiter") {
                maildir.info_delimiter = self.delimiter(&s, "InfoDelimiter")?;
            } else if s.is("SubFolders") {
                maildir.subfolders = match s.value.to_ascii_lowercase().as_str() {
                    "verbatim" => SubFolders::Verbatim,
                    "maildir++" => SubFolders::MaildirPlusPlus,
                    "legacy" => SubFolders::Legacy,
                    _ => {
                        return self.fail(
                            s.line,
                            format!(
                                "SubFolders is `{}`; write Verbatim, Maildir++ or Legacy",
                                s.value
                            ),
                        );
                    }
                };
            } else {
                self.store_key(&s, &mut store, &mut max_size, "MaildirStore", MAILDIR_STORE_KEYS)?;
            }
            self.no_more(&s)?;
        }
        if let Some(path) = &maildir.path {
            if maildir.subfolders == SubFolders::MaildirPlusPlus {
                return self.fail(
                    header.line,
                    format!(
                        "MaildirStore {} has Path beside SubFolders Maildir++, which keeps all \
                         in the Inbox; remove Path",
                        header.value
                    ),
                );
            }
            // With the final slash of Inbox, if it has one: isync 1.5 compares it as
            // it stands, and so takes a Path inside such an Inbox.
            let inside = path.strip_prefix(&*maildir.inbox.to_string_lossy());
            if self.new_dialect() && inside.is_some_and(|rest| rest.starts_with('/')) {
                return self.fail(
                    path_line,
                    format!(
                        "Path of MaildirStore {} lies in its Inbox, which isync 1.5 refuses; \
                         move one of them",
                        header.value
                    ),
                );
            }
        }
        store.kind = StoreKind::Maildir(maildir);
        self.add_store(StoreSection { line: header.line, store, login: Login::None, max_size });
        Ok(())
    }

    fn channel(&mut self, header: &Statement) -> Result<(), Failure> {
        let mut ends: [Option<End>; 2] = [None, None];
        let mut patterns: Option<Vec<String>> = None;
        let mut max_size = None;
        let mut options = Options::default();
        while let Some(mut s) = self.within()? {
            if s.is("MaxSize") {
                max_size = Some(self.size(&s)?);
            } else if s.is("Pattern") || s.is("Patterns") {
                patterns.get_or_insert_default().extend(s.all());
            } else if s.is("Far") || s.is("Near") {
                ends[usize::from(s.is("Near"))] = Some(self.end(&s)?);
            } else if s.is("Master") || s.is("Slave") {
                ends[usize::from(s.is("Slave"))] = Some(self.end(&s)?);
                self.notice(s.line, "Master and Slave are called Far and Near since isync 1.4");
            } else if !self.option(&mut s, &mut options)? {
                let mut known = [CHANNEL_KEYS, OPTION_KEYS].concat();
                if self.new_dialect() {
                    known.extend(OPTION_KEYS_1_5);
                }
                return self.unknown(&s, "Channel", &known);
            }
            self.no_more(&s)?;
        }
        let name = header.value.clone();
        let [far, near] = ends;
        let Some(far) = far else {
            return self.fail(
                header.line,
                format!("Channel {name} has no far side; add a line `Far :STORE:`"),
            );
        };
        let Some(near) = near else {
            return self.fail(
                header.line,
                format!("Channel {name} has no near side; add a line `Near :STORE:`"),
            );
        };
        if let Some((option, why)) = self.conflict(&options) {
            return self.fail(
                header.line,
                format!(
                    "the {option} options of Channel {name} contradict each other: {why}; keep one"
                ),
            );
        }
        if let Some(max_size) = max_size {
            for end in [&far, &near] {
                if let Some(section) = self.out.stores.get_mut(end.store) {
                    section.max_size = max_size;
                }
            }
        }
        self.out.channels.push(ChannelSection {
            name,
            line: header.line,
            far,
            near,
            patterns,
            options,
        });
        Ok(())
    }

    /// `:STORE:MAILBOX`.
    fn end(&self, s: &Statement) -> Result<End, Failure> {
        let Some((name, mailbox)) =
            s.value.strip_prefix(':').and_then(|value| value.split_once(':'))
        else {
            return self.fail(
                s.line,
                format!(
                    "{} is `{}`; write it as :STORE: or :STORE:MAILBOX, with both colons",
                    s.keyword, s.value
                ),
            );
        };
        if let Some(&store) = self.store_names.get(name) {
            return Ok(End { store, mailbox: mailbox.to_string() });
        }
        let meant = nearest(name, self.store_names.keys().map(String::as_str));
        let advice = meant.map_or_else(
            || "its section must stand above the channel".into(),
            |meant| format!("did you mean {meant}?"),
        );
        self.fail(s.line, format!("no store `{name}` stands above; {advice}"))
    }

    fn group(&mut self, header: &mut Statement) -> Result<(), Failure> {
        let (name, line) = (header.value.clone(), header.line);
        let mut members = std::mem::take(&mut header.more);
        while let Some(mut s) = self.within()? {
            if s.is("Channel") || s.is("Channels") {
                members.extend(s.all());
            } else if ["Far", "Near", "Master", "Slave", "Patterns"].iter().any(|key| s.is(key)) {
                return self.fail(
                    s.line,
                    format!(
                        "`{}` is not known in Group sections; end the Group above with a blank \
                         line, for `Channel` within it only names a member",
                        s.keyword
                    ),
                );
            } else {
                return self.unknown(&s, "Group", &["Channel", "Channels"]);
            }
        }
        self.out.groups.push(GroupSection { name, line, members });
        Ok(())
    }
}

fn blank_store(name: String, kind: StoreKind) -> Store {
    Store { name, map_inbox: None, flatten: None, trash: None, kind }
}

/// The lowest and highest of a set of versions, in tenths. An empty set is
/// what mbsync takes it for: nothing allowed, so a range that holds nothing.
fn range(set: u8) -> (u8, u8) {
    let versions = [10, 11, 12, 13];
    let allowed = |index: &usize| set & (1 << index) != 0;
    let lowest = (0..4).find(allowed).map_or(13, |index: usize| versions[index]);
    let highest = (0..4).rev().find(allowed).map_or(10, |index: usize| versions[index]);
    (lowest, highest)
}

/// Like strtol(3) with base 10: the number in front (0 if there is none), and
/// what follows it. Saturates well beyond any C type.
fn c_number(text: &str) -> (i128, &str) {
    let body = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match body.as_bytes().first() {
        Some(b'-') => (true, &body[1..]),
        Some(b'+') => (false, &body[1..]),
        _ => (false, body),
    };
    let end = digits.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return (0, text);
    }
    let (number, rest) = digits.split_at(end);
    let value = number.parse::<i128>().unwrap_or(i128::MAX / 2);
    (if negative { -value } else { value }, rest)
}

/// The lower 32 bits, as C's conversions keep them.
fn low_half(number: i128) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or(0)
}
