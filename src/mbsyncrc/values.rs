//! Values of keywords: how mbsync reads a number, a size, a path or a word, and
//! what a section's lines amount to.
//!
//! Does not depend on: the order of lines and sections, names defined
//! elsewhere in the file. Errors are without file and line, which the parser
//! adds.

use super::Env;
use super::Notice;
use super::ops::{SideOps, SyncOps};
use crate::mbsync_version::IsyncVersion;
use crate::model::{Server, SubFolders, TlsMode};
use crate::text::suggest;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the file is, and what its paths are relative to.
pub struct Location<'a> {
    /// The file, as messages name it.
    pub file: &'a str,
    pub env: &'a Env,
    pub version: IsyncVersion,
    /// The directory that relative paths start from.
    pub base: &'a Path,
}

/// One line of `Keyword value more…`.
pub struct Statement {
    pub line: usize,
    pub keyword: String,
    pub value: String,
    pub more: Vec<String>,
}

/// What the lines of a section say, whichever section it is.
#[derive(Debug, Default)]
pub struct Draft {
    /// Of an `IMAPAccount`, or an `IMAPStore` with its own login.
    pub login: Login,
    /// Index of the `IMAPAccount` that an `IMAPStore` uses.
    pub account: Option<usize>,
    /// `Path` of an `IMAPStore`.
    pub prefix: Option<String>,
    pub use_namespace: Option<bool>,
    pub subscribed_only: bool,
    pub path_delimiter: Option<String>,
    /// `Path` of a `MaildirStore`.
    pub path: Option<String>,
    pub inbox: Option<String>,
    pub alt_map: bool,
    pub info_delimiter: Option<char>,
    pub sub_folders: Option<SubFolders>,
    pub trash: Option<String>,
    pub map_inbox: Option<String>,
    pub flatten: Option<String>,
    pub max_size: Option<u32>,
    /// The far and the near side of a channel.
    pub ends: [Option<End>; 2],
    pub patterns: Option<Vec<String>>,
    pub options: Options,
    /// The channels of a group.
    pub members: Vec<String>,
    pub field_delimiter: Option<char>,
    /// What mbsync accepts on the current line, but what should be changed.
    pub notices: Vec<Notice>,
    /// A path is relative to [`Location::base`].
    pub relative: bool,
}

/// `Far` or `Near`: the index of the store, and what follows its name.
#[derive(Debug, Clone)]
pub struct End {
    pub store: usize,
    pub mailbox: String,
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
    pub expire_unread: Option<bool>,
    pub expire_far: Option<bool>,
}

/// A login, with what is only decided at the section's end.
#[derive(Debug, Default)]
pub struct Login {
    pub server: Server,
    pub user: Option<Zeroizing<String>>,
    pub user_cmd: Option<String>,
    pub pass: Option<Zeroizing<String>>,
    pub pass_cmd: Option<String>,
    pub tls: Option<TlsMode>,
    /// The keyword that `tls` comes from.
    pub tls_keyword: Option<&'static str>,
    /// A set of bits, 1.0 lowest; `None`: the default.
    pub versions: Option<u8>,
    pub require_ssl: Option<bool>,
    pub use_imaps: Option<bool>,
    /// `UseTLSv1` to `UseTLSv1.3`.
    pub use_tls: [Option<bool>; 4],
    pub require_cram: Option<bool>,
}

/// TLS versions that 1.4 allows unless told otherwise.
pub const ALL_TLS: u8 = 0b1111;
/// The same of 1.5: 1.2 and 1.3.
pub const NEW_TLS: u8 = 0b1100;

pub const OLD_SIDES: &str = "Master and Slave are called Far and Near since isync 1.4";

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
/// Those that only 1.5 knows, by `cap_list` of its `drv_imap.c`.
const NEW_EXTENSIONS: &[&str] = &["IMAP4REV1", "LITERAL-", "UTF8=ACCEPT", "UTF8=ONLY"];

impl Statement {
    /// The value and all further words: this keyword takes any number.
    pub fn words(&mut self) -> impl Iterator<Item = String> + use<> {
        let more = std::mem::take(&mut self.more);
        std::iter::once(std::mem::take(&mut self.value)).chain(more)
    }

    fn wrong(&self, wanted: &str) -> Notice {
        Notice::new(format!("{} is `{}`", self.keyword, self.value), format!("write {wanted}"))
    }

    pub fn boolean(&self) -> Result<bool, Notice> {
        let is = |words: &[&str]| words.iter().any(|word| self.value.eq_ignore_ascii_case(word));
        if is(&["yes", "true", "on", "1"]) {
            Ok(true)
        } else if is(&["no", "false", "off", "0"]) {
            Ok(false)
        } else {
            Err(self.wrong("yes or no"))
        }
    }

    pub fn number(&self) -> Result<i32, Notice> {
        match c_number(&self.value) {
            // strtol() saturates at the ends of a long, and the int that takes
            // it keeps the low half.
            (n, "") => {
                let long = n.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
                Ok(i32::from_ne_bytes(low_half(long).to_ne_bytes()))
            }
            _ => Err(self.wrong("a number")),
        }
    }

    pub fn size(&self) -> Result<u32, Notice> {
        let (n, unit) = c_number(&self.value);
        let long = if n.unsigned_abs() > u128::from(u64::MAX) { i128::from(u64::MAX) } else { n };
        let n = low_half(long);
        let (n, unit) = match unit.as_bytes().first() {
            Some(b'k' | b'K') => (n.wrapping_mul(1 << 10), &unit[1..]),
            Some(b'm' | b'M') => (n.wrapping_mul(1 << 20), &unit[1..]),
            _ => (n, unit),
        };
        match unit {
            "" | "b" | "B" => Ok(n),
            _ => Err(self.wrong("a size such as 200k or 10M")),
        }
    }

    /// One of these words.
    fn one_of<T: Copy>(&self, known: &[(&str, T)], wanted: &str) -> Result<T, Notice> {
        let is = |(word, _): &&(&str, T)| self.value.eq_ignore_ascii_case(word);
        known.iter().find(is).map(|(_, value)| *value).ok_or_else(|| self.wrong(wanted))
    }

    fn delimiter(&self, what: &str) -> Result<char, Notice> {
        let mut chars = self.value.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) if c.is_ascii_punctuation() => Ok(c),
            _ => Err(format!("{what} must be one punctuation character").into()),
        }
    }

    /// Adds the words to an option of sides; whether old names were among them.
    pub fn sides(&mut self, option: &mut SideOps) -> Result<bool, Notice> {
        let mut old_names = false;
        for word in self.words() {
            old_names |= option.add(&word).ok_or_else(|| {
                Notice::new(
                    format!("{} is `{word}`", self.keyword),
                    "write None, Far, Near or Both",
                )
            })?;
        }
        Ok(old_names)
    }

    /// A path with `~` expanded and made absolute; `None` if its user does not
    /// exist, for which mbsync acts as if the line were not there.
    pub fn path(&self, location: &Location<'_>, draft: &mut Draft) -> Option<String> {
        let (value, env) = (&self.value, location.env);
        if let Some(rest) = value.strip_prefix('~') {
            let (user, below) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let home = if user.is_empty() { Some(env.home.clone()) } else { (env.user_home)(user) };
            if home.is_none() {
                draft.notices.push(Notice::new(
                    format!("no user {user}, so mbsync ignores this {}", self.keyword),
                    "write the path in full",
                ));
            }
            return Some(format!("{}{below}", home?.to_string_lossy()));
        }
        if value.starts_with('/') {
            return Some(value.clone());
        }
        draft.relative = true;
        if location.version == IsyncVersion::V1_4 {
            draft.notices.push(Notice::new(
                format!("{} is relative to the directory that mbsync is started in", self.keyword),
                "write it with ~/ or / in front",
            ));
        }
        let base = location.base.to_string_lossy();
        Some(format!("{}/{value}", base.trim_end_matches('/')))
    }

    pub fn readable(&self, location: &Location<'_>, draft: &mut Draft) -> Result<PathBuf, Notice> {
        let path = self
            .path(location, draft)
            .map(PathBuf::from)
            .ok_or_else(|| format!("{}: there is no such user", self.keyword))?;
        if (location.env.readable)(&path) {
            return Ok(path);
        }
        Err(Notice::new(
            format!("{} {} cannot be read", self.keyword, path.display()),
            "correct the path, or its permissions",
        ))
    }
}

type Set = Result<(), Notice>;

// Fallible like all of its kind.
#[allow(clippy::unnecessary_wraps)]
pub fn host(line: &mut Statement, location: &Location<'_>, draft: &mut Draft) -> Set {
    let mut host = line.value.as_str();
    // Before 1.5 a host could be written as a URL.
    if location.version == IsyncVersion::V1_4 {
        if let Some(rest) = host.strip_prefix("imaps:") {
            host = rest;
            draft.login.tls = Some(TlsMode::Imaps);
            draft.login.versions.get_or_insert(ALL_TLS);
        }
        host = host.strip_prefix("imap:").unwrap_or(host);
        host = host.strip_prefix("//").unwrap_or(host);
        if host != line.value {
            draft.notices.push("write a plain host name, and SSLType IMAPS if it is so".into());
        }
    }
    draft.login.server.host = Some(host.to_string());
    Ok(())
}

pub fn port(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let port = u16::try_from(line.number()?);
    draft.login.server.port = port.map_err(|_| "Port must be a number up to 65535")?;
    Ok(())
}

pub fn pipeline_depth(line: &mut Statement, _: &Location<'_>, _: &mut Draft) -> Set {
    if line.number()? < 1 { Err("PipelineDepth must be at least 1".into()) } else { Ok(()) }
}

pub fn extensions(line: &mut Statement, location: &Location<'_>, draft: &mut Draft) -> Set {
    let new = if location.version == IsyncVersion::V1_4 { &[] } else { NEW_EXTENSIONS };
    let all = [EXTENSIONS, new].concat();
    let known = |word: &String| all.iter().any(|known| known.eq_ignore_ascii_case(word));
    for word in line.words() {
        if !known(&word) {
            return Err(Notice::new(
                format!("mbsync does not know the extension `{word}`"),
                format!("it knows {}", all.join(", ")),
            ));
        }
        draft.login.server.disables_namespace |= word.eq_ignore_ascii_case("NAMESPACE");
    }
    Ok(())
}

pub fn tls_type(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let known =
        [("None", TlsMode::None), ("STARTTLS", TlsMode::StartTls), ("IMAPS", TlsMode::Imaps)];
    draft.login.tls = Some(line.one_of(&known, "None, STARTTLS or IMAPS")?);
    // The later one counts, and is the one to change.
    let old = line.keyword.eq_ignore_ascii_case("SSLType");
    draft.login.tls_keyword = Some(if old { "SSLType" } else { "TLSType" });
    Ok(())
}

pub fn ssl_versions(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let mut set = 0;
    for word in line.words() {
        set |= match word.to_ascii_lowercase().as_str() {
            "sslv2" | "sslv3" => 0,
            "tlsv1" => 1,
            "tlsv1.1" => 2,
            "tlsv1.2" => 4,
            "tlsv1.3" => 8,
            _ => {
                return Err(Notice::new(
                    format!("no TLS version is called `{word}`"),
                    "write TLSv1.2 or TLSv1.3",
                ));
            }
        };
    }
    draft.login.versions = Some(set);
    Ok(())
}

pub fn tls_versions(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let mut set = draft.login.versions.unwrap_or(NEW_TLS);
    for word in line.words() {
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
                return Err(Notice::new(
                    format!("TLSVersions has `{word}`"),
                    "write +1.2, -1.3 or the like",
                ));
            }
        }
    }
    draft.login.versions = Some(set);
    Ok(())
}

pub fn path_delimiter(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    if line.value.len() != 1 {
        return Err("PathDelimiter must be one character".into());
    }
    draft.path_delimiter = Some(line.value.clone());
    Ok(())
}

pub fn info_delimiter(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    draft.info_delimiter = Some(line.delimiter("InfoDelimiter")?);
    Ok(())
}

pub fn field_delimiter(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    draft.field_delimiter = Some(line.delimiter("Field delimiter")?);
    Ok(())
}

pub fn sub_folders(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let known = [
        ("Verbatim", SubFolders::Verbatim),
        ("Maildir++", SubFolders::MaildirPlusPlus),
        ("Legacy", SubFolders::Legacy),
    ];
    draft.sub_folders = Some(line.one_of(&known, "Verbatim, Maildir++ or Legacy")?);
    Ok(())
}

pub fn flatten(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    if line.value.contains('/') {
        return Err(Notice::new(
            "Flatten cannot contain `/`, which it replaces",
            "write another character",
        ));
    }
    draft.flatten = (!line.value.is_empty()).then(|| line.value.clone());
    Ok(())
}

pub fn buffer_limit(line: &mut Statement, _: &Location<'_>, _: &mut Draft) -> Set {
    if line.size()? == 0 {
        Err(Notice::new("BufferLimit cannot be zero", "remove the line"))
    } else {
        Ok(())
    }
}

/// Which side loses messages.
pub fn expire_side(line: &mut Statement, _: &Location<'_>, draft: &mut Draft) -> Set {
    let far = line.one_of(&[("Far", true), ("Near", false)], "Far or Near")?;
    draft.options.expire_far = Some(far);
    Ok(())
}

pub fn sync(line: &mut Statement, location: &Location<'_>, draft: &mut Draft) -> Set {
    for word in line.words() {
        if !draft.options.sync.add(&word, location.version) {
            let meant = suggest(&word, SyncOps::words(location.version))
                .map_or("remove it".to_string(), |meant| format!("did you mean {meant}?"));
            return Err(Notice::new(format!("Sync does not know `{word}`"), meant));
        }
    }
    Ok(())
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
