//! Lines → sections, with the checks of isync 1.4 and 1.5.
//!
//! Accepts what mbsync accepts, and says where and how to fix the rest. What a
//! keyword takes is in [`keywords`](super::keywords). Does not depend on:
//! mailboxes, what users type. Facts: `config.c`, `drv_imap.c` and
//! `drv_maildir.c` of isync 1.4.4, and the same of 1.5.

use super::keywords::{self, Keyword, Kind, Versions};
use super::lexer::{self, Broken, SourceLine};
use super::values::{ALL_TLS, Draft, End, Location, Login, NEW_TLS, OLD_SIDES, Options, Statement};
use super::{Notice, Section, SectionKind};
use crate::error::Error;
use crate::mbsync_version::IsyncVersion;
use crate::model::{
    CredentialSource, ImapStore, MaildirStore, Server, Store, StoreKind, SubFolders, TlsMode,
};
use crate::text::{counted, suggest};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All sections of a file, in its order.
#[derive(Debug, Default)]
pub struct Sections {
    pub accounts: Vec<AccountSection>,
    pub stores: Vec<StoreSection>,
    pub channels: Vec<ChannelSection>,
    pub groups: Vec<GroupSection>,
    pub globals: Options,
    pub field_delimiter: Option<char>,
    pub spans: Vec<Section>,
    pub notices: Vec<Notice>,
    /// A path is relative to [`Location::base`].
    pub relative: bool,
}

/// An `IMAPAccount`.
#[derive(Debug)]
pub struct AccountSection {
    pub name: String,
    pub line: usize,
    pub server: Server,
}

/// Where a store gets its login from.
#[derive(Debug)]
pub enum LoginSection {
    /// A Maildir has none.
    None,
    /// This one of [`Sections::accounts`].
    Account(usize),
    /// Its own keywords.
    Own(Box<Server>),
}

/// An `IMAPStore` or `MaildirStore`.
#[derive(Debug)]
pub struct StoreSection {
    pub line: usize,
    /// [`ImapStore::account`] is still empty.
    pub store: Store,
    pub login: LoginSection,
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

/// A `Group`.
#[derive(Debug)]
pub struct GroupSection {
    pub name: String,
    pub line: usize,
    pub members: Vec<String>,
}

/// What a line brings.
enum ParsedLine {
    Statement(Statement),
    Blank,
    End,
}

/// A first word fit for a message. It may be no keyword at all, but `Pass=secret`,
/// or what follows the longest line that mbsync reads of a token.
fn shown(word: &str) -> Cow<'_, str> {
    if let Some((before, _)) = word.split_once(['=', ':']) {
        return format!("{before}=...").into();
    }
    if word.chars().count() > LONGEST_SHOWN {
        return "...".into();
    }
    word.into()
}

/// Longer than any keyword.
const LONGEST_SHOWN: usize = 30;

/// Reads all sections, and stops at the first thing that mbsync would refuse.
pub fn read(text: &[u8], location: &Location) -> Result<Sections, Error> {
    let mut lines = lexer::lines(text);
    let mut reader = Reader {
        lines: &mut lines,
        location,
        out: Sections::default(),
        account_names: BTreeMap::new(),
        store_names: BTreeMap::new(),
        last_line: 0,
        cut: false,
        full: false,
        old_forms: BTreeMap::new(),
    };
    reader.file()?;
    reader.notice_old_forms();
    Ok(reader.out)
}

struct Reader<'a, I> {
    lines: &'a mut I,
    location: &'a Location<'a>,
    out: Sections,
    /// First of each name wins, as in mbsync.
    account_names: BTreeMap<String, usize>,
    store_names: BTreeMap<String, usize>,
    last_line: usize,
    /// mbsync reads that line as the rest of one that is too long for it.
    cut: bool,
    /// That line is as long as it may be, so that the next may be its rest.
    full: bool,
    /// Notices without a hint: the first line of each, and how many have it.
    old_forms: BTreeMap<String, (usize, usize)>,
}

impl<'t, I: Iterator<Item = (usize, &'t [u8])>> Reader<'_, I> {
    fn is_1_5(&self) -> bool {
        self.location.version == IsyncVersion::V1_5
    }

    fn fail<T>(&self, line: usize, why: impl Into<Notice>) -> Result<T, Error> {
        let file = self.location.file;
        if self.cut && line == self.last_line {
            // What stands here may be the rest of a password.
            return Err(Error::config(format!(
                "{file}:{line}: this is the rest of a line of which mbsync takes only 1022 bytes"
            ))
            .with_hint("break that line up"));
        }
        let Notice { message, hint } = why.into();
        Err(Error::config(format!("{file}:{line}: {message}")).with_hint_of(hint))
    }

    fn refuse<T>(
        &self,
        line: usize,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Result<T, Error> {
        self.fail(line, Notice::new(message, hint))
    }

    fn notice(&mut self, line: usize, notice: impl Into<Notice>) {
        let Notice { message, hint } = notice.into();
        if hint.is_none() {
            self.old_forms.entry(message).or_insert((line, 0)).1 += 1;
            return;
        }
        let message = format!("{}:{line}: {message}", self.location.file);
        self.out.notices.push(Notice { message, hint });
    }

    /// Old forms that work are noticed once each, however many lines have them.
    fn notice_old_forms(&mut self) {
        for (message, (line, count)) in std::mem::take(&mut self.old_forms) {
            let more = match count {
                1 => String::new(),
                _ => format!(" ({} as well)", counted(count - 1, "other line")),
            };
            let message = format!("{}:{line}: {message}{more}", self.location.file);
            self.out.notices.push(message.into());
        }
    }

    /// The next line that is not a comment.
    fn next(&mut self) -> Result<ParsedLine, Error> {
        for (line, bytes) in self.lines.by_ref() {
            self.last_line = line;
            self.cut = std::mem::replace(&mut self.full, bytes.len() == lexer::LONGEST_LINE);
            let words = match lexer::split(bytes) {
                Ok(SourceLine::Comment) => continue,
                Ok(SourceLine::Blank) => return Ok(ParsedLine::Blank),
                Ok(SourceLine::Words(words)) => words,
                Err(Broken::Escape) => {
                    return self.refuse(line, "a `\\` stands at the line's end or before a tab", "lines cannot be continued, so put it all on one line, or repeat the keyword");
                }
                Err(Broken::Quote) => {
                    return self.refuse(
                        line,
                        "a quote is not closed",
                        "add the missing \", or write \\\" for a quote that is meant",
                    );
                }
                Err(Broken::Encoding) => {
                    return self.refuse(
                        line,
                        "this is not UTF-8",
                        "convert the file with iconv(1)",
                    );
                }
            };
            let mut words = words.into_iter();
            let keyword = words.next().unwrap_or_default();
            let Some(value) = words.next() else {
                return self.refuse(
                    line,
                    format!("`{}` has no value", shown(&keyword)),
                    "add one, or remove the line",
                );
            };
            return Ok(ParsedLine::Statement(Statement {
                line,
                keyword,
                value,
                more: words.collect(),
            }));
        }
        Ok(ParsedLine::End)
    }

    /// The keyword of a statement, if this version knows it at this place.
    fn keyword(&self, s: &Statement, place: Option<SectionKind>) -> Option<&'static Keyword> {
        keywords::find(&s.keyword, place)
            .filter(|keyword| keyword.is_known_to(self.location.version))
    }

    /// Refuses words that the keyword does not take.
    fn no_more(&self, s: &Statement, keyword: &Keyword) -> Result<(), Error> {
        let Some(excess) = s.more.first() else { return Ok(()) };
        let (more, hint) = match keyword.kind {
            // The arguments of a command may be secret too.
            Kind::Command(_) => ("here are more".into(), "put the whole command in double quotes"),
            _ if keyword.secret => ("here are more".into(), "put the value in double quotes"),
            _ => (
                format!("`{excess}` is too many"),
                "put a value with spaces in double quotes, and a comment behind #",
            ),
        };
        let message = format!("`{}` takes one word, and {more}", s.keyword);
        self.refuse(s.line, message, hint)
    }

    fn file(&mut self) -> Result<(), Error> {
        let mut globals = Draft::default();
        let mut first_section = None;
        let mut conflict = None;
        loop {
            let mut s = match self.next()? {
                ParsedLine::Statement(statement) => statement,
                ParsedLine::Blank => continue,
                ParsedLine::End => break,
            };
            let line = s.line;
            let Some(keyword) = self.keyword(&s, None) else {
                return self.unknown_at_top(&s, first_section);
            };
            if let Kind::Section(kind) = keyword.kind {
                // The members of a group may stand beside its name.
                let members = match kind {
                    SectionKind::ChannelGroup => std::mem::take(&mut s.more),
                    _ => Vec::new(),
                };
                self.no_more(&s, keyword)?;
                self.section(kind, &s, members)?;
                let last = self.last_line;
                self.out.spans.push(Section { kind, name: s.value, first: line, last });
                first_section.get_or_insert(line);
                continue;
            }
            self.take(&mut s, keyword, &mut globals)?;
            conflict =
                conflict.or_else(|| self.conflict(&globals.options).map(|found| (line, found)));
            if let Some(first) = first_section {
                return self.refuse(line, format!("{} stands after a section", s.keyword), format!("move it above line {first}, or, if it belongs to the section before it, remove the blank line between"));
            }
            self.no_more(&s, keyword)?;
            self.out.field_delimiter = globals.field_delimiter;
        }
        self.out.globals = globals.options;
        if let Some((line, (name, why))) = conflict {
            return self.refuse(
                line,
                format!("the global {name} options contradict each other: {why}"),
                "keep one",
            );
        }
        Ok(())
    }

    fn section(
        &mut self,
        kind: SectionKind,
        header: &Statement,
        members: Vec<String>,
    ) -> Result<(), Error> {
        let mut draft = Draft { members, ..Draft::default() };
        let (mut has_login, mut path_line) = (false, header.line);
        while let ParsedLine::Statement(mut s) = self.next()? {
            let Some(keyword) = self.keyword(&s, Some(kind)) else {
                return self.unknown(&s, kind);
            };
            has_login |= keyword.places.contains(&Some(SectionKind::Account));
            if keyword.name == "Path" {
                path_line = s.line;
            }
            self.take(&mut s, keyword, &mut draft)?;
            self.no_more(&s, keyword)?;
        }
        match kind {
            SectionKind::Account => {
                let server = self.server(kind, header, draft.login)?;
                let (name, line) = (header.value.clone(), header.line);
                let index = self.out.accounts.len();
                self.account_names.entry(name.clone()).or_insert(index);
                self.out.accounts.push(AccountSection { name, line, server });
                Ok(())
            }
            SectionKind::ImapStore => self.imap_store(header, draft, has_login),
            SectionKind::MaildirStore => self.maildir_store(header, draft, path_line),
            SectionKind::Channel => self.channel(header, draft),
            SectionKind::ChannelGroup => {
                let (name, line, members) = (header.value.clone(), header.line, draft.members);
                self.out.groups.push(GroupSection { name, line, members });
                Ok(())
            }
        }
    }

    /// Puts the value of a statement into the draft.
    fn take(
        &mut self,
        s: &mut Statement,
        keyword: &Keyword,
        draft: &mut Draft,
    ) -> Result<(), Error> {
        let taken = match keyword.kind {
            Kind::Account => self.account(s).map(|account| draft.account = Some(account)),
            Kind::End(side) => self.end(s).map(|end| {
                if !s.keyword.eq_ignore_ascii_case(keyword.name) {
                    draft.notices.push(OLD_SIDES.into());
                }
                draft.ends[side] = Some(end);
            }),
            _ => keyword.set(s, self.location, draft),
        };
        for notice in draft.notices.drain(..) {
            self.notice(s.line, notice);
        }
        self.out.relative |= draft.relative;
        taken.or_else(|why| self.fail(s.line, why))
    }

    /// An `IMAPAccount` above.
    fn account(&self, s: &Statement) -> Result<usize, Notice> {
        let names = || self.account_names.keys().map(String::as_str);
        self.account_names.get(&s.value).copied().ok_or_else(|| {
            let advice = suggest(&s.value, names()).map_or_else(
                || "put the IMAPAccount section above this one".to_owned(),
                |meant| format!("did you mean {meant}?"),
            );
            Notice::new(format!("no IMAPAccount `{}` stands above", s.value), advice)
        })
    }

    /// `:STORE:MAILBOX`.
    fn end(&self, s: &Statement) -> Result<End, Notice> {
        let Some((name, mailbox)) =
            s.value.strip_prefix(':').and_then(|value| value.split_once(':'))
        else {
            return Err(Notice::new(
                format!("{} is `{}`", s.keyword, s.value),
                "write it as :STORE: or :STORE:MAILBOX, with both colons",
            ));
        };
        if let Some(&store) = self.store_names.get(name) {
            return Ok(End { store, mailbox: mailbox.to_string() });
        }
        let advice = suggest(name, self.store_names.keys().map(String::as_str)).map_or_else(
            || "its section must stand above the channel".to_owned(),
            |meant| format!("did you mean {meant}?"),
        );
        Err(Notice::new(format!("no store `{name}` stands above"), advice))
    }

    fn unknown_at_top(&self, s: &Statement, first_section: Option<usize>) -> Result<(), Error> {
        let key = shown(&s.keyword);
        let is_inner = |keyword: &Keyword| {
            !keyword.places.contains(&None)
                && !keyword.places.contains(&Some(SectionKind::ChannelGroup))
                && keyword.versions != Versions::MacOs
        };
        if first_section.is_some() && keywords::everywhere(&s.keyword).any(is_inner) {
            return self.refuse(
                s.line,
                format!("{key} stands outside of any section"),
                "a blank line ends a section, so remove the one above",
            );
        }
        if ["Include", "IncludeCmd", "Eval"].iter().any(|key| s.keyword.eq_ignore_ascii_case(key)) {
            return self.refuse(
                s.line,
                format!("no mbsync knows `{key}`"),
                "put the text itself into this file",
            );
        }
        let (why, hint) = self.advice(s, None);
        let message = format!("`{key}` begins no section, and is no global option{why}");
        self.refuse(s.line, message, hint)
    }

    fn unknown(&self, s: &Statement, kind: SectionKind) -> Result<(), Error> {
        let key = shown(&s.keyword);
        let of_channels =
            keywords::find(&s.keyword, Some(SectionKind::Channel)).is_some_and(|keyword| {
                keyword.name == "Patterns" || matches!(keyword.kind, Kind::End(_))
            });
        let (why, hint) = if kind == SectionKind::ChannelGroup && of_channels {
            let hint = "end the Group above with a blank line, for `Channel` within it only names a member";
            ("", hint.into())
        } else if begins_section(&s.keyword) {
            // A section begun without a blank line before it is the likeliest mistake.
            ("", "put a blank line above it, to begin a new section".into())
        } else {
            self.advice(s, Some(kind))
        };
        let section = kind.keyword();
        let message = format!("`{key}` is not known in {section} sections{why}");
        self.refuse(s.line, message, hint)
    }

    /// Why a keyword is unknown, where that is known, and what to do about it.
    fn advice(
        &self,
        s: &Statement,
        place: Option<SectionKind>,
    ) -> (&'static str, Cow<'static, str>) {
        let version = self.location.version;
        let elsewhere = keywords::everywhere(&s.keyword).find(|each| !each.is_known_to(version));
        match elsewhere.map(|keyword| (keyword.versions, keyword.name)) {
            Some((Versions::Until1_4, _)) => (
                ": isync 1.5 has dropped it",
                "use TLSType (None, STARTTLS or IMAPS) and TLSVersions".into(),
            ),
            Some((Versions::From1_5, name)) => {
                let instead = match name {
                    "TLSType" => "write SSLType for it",
                    "TLSVersions" => "write SSLVersions TLSv1.2 TLSv1.3 or the like",
                    _ => "remove it",
                };
                (": it came with isync 1.5, and the mbsync here is older", instead.into())
            }
            Some((Versions::MacOs, _)) => (": only mbsync on macOS has it", "use PassCmd".into()),
            _ => match suggest(&s.keyword, keywords::names(place, version)) {
                Some(meant) => ("", format!("did you mean {meant}?").into()),
                None => ("", "remove the line, or correct its first word".into()),
            },
        }
    }

    /// The first of the side options that contradict themselves, and how.
    fn conflict(&self, options: &Options) -> Option<(&'static str, &'static str)> {
        let version = self.location.version;
        options.sync.conflict(version).map(|why| ("Sync", why)).or_else(|| {
            [
                ("Expunge", options.expunge),
                ("ExpungeSolo", options.expunge_solo),
                ("Create", options.create),
                ("Remove", options.remove),
            ]
            .into_iter()
            .find_map(|(name, ops)| ops.conflict(version).map(|why| (name, why)))
        })
    }

    /// The login that a section's keywords amount to.
    fn server(
        &mut self,
        kind: SectionKind,
        header: &Statement,
        login: Login,
    ) -> Result<Server, Error> {
        let (line, title) = (header.line, format!("{} {}", kind.keyword(), header.value));
        let Login { mut server, .. } = login;
        if server.tunnel.is_none() && server.host.is_none() {
            return self.refuse(line, format!("{title} has neither Host nor Tunnel"), "add one");
        }
        if login.user.is_some() && login.user_cmd.is_some() {
            return self.refuse(line, format!("{title} has both User and UserCmd"), "remove one");
        }
        if login.pass.is_some() && login.pass_cmd.is_some() {
            return self.refuse(line, format!("{title} has both Pass and PassCmd"), "remove one");
        }
        let old_keys = login.use_imaps.is_some()
            || login.require_ssl.is_some()
            || login.use_tls.iter().any(Option::is_some);
        let mut versions = login.versions.unwrap_or(if self.is_1_5() { NEW_TLS } else { ALL_TLS });
        server.tls = if old_keys {
            if login.tls.is_some() || login.versions.is_some() {
                return self.refuse(line, format!("{title} has old keys (UseIMAPS, RequireSSL, UseTLS…) beside SSLType or SSLVersions"), "remove the old ones");
            }
            self.notice(
                line,
                Notice::new(format!("{title} has old keys"), "use SSLType and SSLVersions instead"),
            );
            // Only 1.0 is on unless it is turned off, and only 1.0.
            versions = u8::from(login.use_tls[0] != Some(false));
            for (bit, on) in login.use_tls.iter().enumerate().skip(1) {
                versions |= u8::from(*on == Some(true)) << bit;
            }
            let tls = if login.use_imaps == Some(true) {
                TlsMode::Imaps
            } else if login.require_ssl == Some(false) && versions == 0 {
                TlsMode::None
            } else {
                TlsMode::StartTls
            };
            if tls != TlsMode::None && versions == 0 {
                return self.refuse(
                    line,
                    format!("{title} wants TLS with no version of it allowed"),
                    "use SSLVersions",
                );
            }
            tls
        } else {
            let default = if server.tunnel.is_some() { TlsMode::None } else { TlsMode::StartTls };
            login.tls.unwrap_or(default)
        };
        let keyword = if self.is_1_5() { "TLSType" } else { "SSLType" };
        server.tls_keyword = login.tls_keyword.unwrap_or(keyword);
        server.tls_versions = range(versions);
        if let Some(cram) = login.require_cram {
            if !server.auth_mechs.is_empty() {
                return self.refuse(
                    line,
                    format!("{title} has both RequireCRAM and AuthMechs"),
                    "remove RequireCRAM",
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
        if server.port == 0 {
            server.port = if server.tls == TlsMode::Imaps { 993 } else { 143 };
        }
        let command = |text: String| {
            CredentialSource::Command(text.strip_prefix('+').unwrap_or(&text).into())
        };
        server.user = login.user.map(CredentialSource::Text).or(login.user_cmd.map(command));
        server.pass = login.pass.map(CredentialSource::Text).or(login.pass_cmd.map(command));
        Ok(server)
    }

    fn imap_store(
        &mut self,
        header: &Statement,
        draft: Draft,
        has_login: bool,
    ) -> Result<(), Error> {
        if draft.account.is_some() && has_login {
            return self.refuse(
                header.line,
                format!("IMAPStore {} has both Account and keys of an account", header.value),
                "move Host, User, Pass and the like into the IMAPAccount section",
            );
        }
        let login = if let Some(account) = draft.account {
            LoginSection::Account(account)
        } else {
            LoginSection::Own(Box::new(self.server(SectionKind::ImapStore, header, draft.login)?))
        };
        let kind = StoreKind::Imap(ImapStore {
            account: String::new(),
            path: draft.prefix,
            use_namespace: draft.use_namespace.unwrap_or(true),
            delimiter: draft.path_delimiter,
            subscribed_only: draft.subscribed_only,
        });
        let (map_inbox, flatten, trash) = (draft.map_inbox, draft.flatten, draft.trash);
        let store = Store { name: header.value.clone(), map_inbox, flatten, trash, kind };
        let max_size = draft.max_size.unwrap_or(0);
        self.add_store(StoreSection { line: header.line, store, login, max_size });
        Ok(())
    }

    fn maildir_store(
        &mut self,
        header: &Statement,
        draft: Draft,
        path_line: usize,
    ) -> Result<(), Error> {
        let name = header.value.clone();
        let inbox =
            draft.inbox.map_or_else(|| self.location.env.home.join("Maildir"), PathBuf::from);
        let subfolders = draft.sub_folders.unwrap_or(SubFolders::Unset);
        if let Some(path) = &draft.path {
            if subfolders == SubFolders::MaildirPlusPlus {
                return self.refuse(header.line, format!("MaildirStore {name} has Path beside SubFolders Maildir++, which keeps all in the Inbox"), "remove Path");
            }
            // With the final slash of Inbox, if it has one: isync 1.5 compares it as
            // written, and so accepts a Path inside such an Inbox.
            let inside = path.strip_prefix(&*inbox.to_string_lossy());
            if self.is_1_5() && inside.is_some_and(|rest| rest.starts_with('/')) {
                return self.refuse(
                    path_line,
                    format!(
                        "Path of MaildirStore {name} lies in its Inbox, which isync 1.5 refuses"
                    ),
                    "move one of them",
                );
            }
        }
        let kind = StoreKind::Maildir(MaildirStore {
            path: draft.path,
            inbox,
            subfolders,
            alt_map: draft.alt_map,
            info_delimiter: draft.info_delimiter.or(self.out.field_delimiter).unwrap_or(':'),
        });
        let (map_inbox, flatten, trash) = (draft.map_inbox, draft.flatten, draft.trash);
        let store = Store { name, map_inbox, flatten, trash, kind };
        let (login, max_size) = (LoginSection::None, draft.max_size.unwrap_or(0));
        self.add_store(StoreSection { line: header.line, store, login, max_size });
        Ok(())
    }

    fn add_store(&mut self, section: StoreSection) {
        let index = self.out.stores.len();
        self.store_names.entry(section.store.name.clone()).or_insert(index);
        self.out.stores.push(section);
    }

    fn channel(&mut self, header: &Statement, draft: Draft) -> Result<(), Error> {
        let (name, line) = (header.value.clone(), header.line);
        let Draft { ends, patterns, options, .. } = draft;
        let [Some(far), Some(near)] = ends else {
            let (side, key) = if ends[0].is_none() { ("far", "Far") } else { ("near", "Near") };
            return self.refuse(
                line,
                format!("Channel {name} has no {side} side"),
                format!("add a line `{key} :STORE:`"),
            );
        };
        if let Some((option, why)) = self.conflict(&options) {
            return self.refuse(
                line,
                format!("the {option} options of Channel {name} contradict each other: {why}"),
                "keep one",
            );
        }
        if let Some(max_size) = draft.max_size {
            for end in [&far, &near] {
                if let Some(section) = self.out.stores.get_mut(end.store) {
                    section.max_size = max_size;
                }
            }
        }
        self.out.channels.push(ChannelSection { name, line, far, near, patterns, options });
        Ok(())
    }
}

fn begins_section(word: &str) -> bool {
    keywords::find(word, None).is_some_and(|keyword| matches!(keyword.kind, Kind::Section(_)))
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
