//! The reader of `.mbsyncrc`: accounts, channels and mailboxes as mbsync sees them.
//!
//! `lexer` → `parser` (with the table in `keywords`, and `values`) → `resolve`;
//! then `paths`, `pattern`, `enumerate` and `select`. Reads the language of isync
//! 1.4 and 1.5, and refuses what mbsync refuses, with file, line and how to fix it.
//! Does not depend on: servers, runs, this program's own files, the environment
//! ([`Env`] is given).

pub mod directories;
mod enumerate;
pub mod keywords;
pub(crate) mod lexer;
mod ops;
mod parser;
mod paths;
pub mod pattern;
mod resolve;
mod select;
mod shape;
mod values;

pub use enumerate::lists_inbox;
pub use resolve::parse;
pub use select::{MOST_BYTES, MbsyncWords};
pub use shape::shape;

use crate::error::Error;
pub use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Channel};
use crate::os::file;
use crate::text::shell_word;
use std::hash::Hasher as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Larger than any file that a person writes.
const LARGEST: u64 = 4 << 20;

/// What the meaning of the file depends on.
#[derive(Debug, Clone)]
pub struct Env {
    /// The home directory, without a final `/`.
    pub home: PathBuf,
    /// `XDG_CONFIG_HOME`, if set.
    pub config_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`, if set.
    pub state_home: Option<PathBuf>,
    /// The working directory that mbsync would be started in.
    pub cwd: PathBuf,
    /// The home directory of a user, for `~user/`.
    pub user_home: fn(&str) -> Option<PathBuf>,
    /// Whether a file can be read: mbsync refuses certificate files that cannot.
    pub readable: fn(&Path) -> bool,
}

impl Env {
    /// With nothing set but the home and working directories.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>, cwd: impl Into<PathBuf>) -> Self {
        Env {
            home: home.into(),
            config_home: None,
            state_home: None,
            cwd: cwd.into(),
            user_home,
            readable: |path| rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok(),
        }
    }

    /// A path for messages: `~` for the home directory.
    #[must_use]
    pub fn tilde(&self, path: &Path) -> String {
        match path.strip_prefix(&self.home) {
            Ok(rest) if rest.as_os_str().is_empty() => "~".into(),
            Ok(rest) if self.home.parent().is_some() => format!("~/{}", rest.display()),
            _ => path.display().to_string(),
        }
    }

    /// A path as a word for the shell, with `~` if nothing has to be quoted.
    #[must_use]
    pub fn for_shell(&self, path: &Path) -> String {
        let shown = self.tilde(path);
        match shown.strip_prefix("~/") {
            Some(rest) if shell_word(rest) == rest => shown,
            _ => shell_word(&path.display().to_string()),
        }
    }

    /// Where the files of programs are that keep to XDG's rules.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.config_home.clone().unwrap_or_else(|| self.home.join(".config"))
    }

    /// The file of isync 1.5.
    #[must_use]
    pub fn isyncrc(&self) -> PathBuf {
        self.config_dir().join("isyncrc")
    }

    /// The file of all versions.
    #[must_use]
    pub fn mbsyncrc(&self) -> PathBuf {
        self.home.join(".mbsyncrc")
    }
}

/// From /etc/passwd: enough for a spelling that is hardly used.
fn user_home(user: &str) -> Option<PathBuf> {
    let users = file::read_text(Path::new("/etc/passwd"), LARGEST).ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(4).map(PathBuf::from)).flatten()
    })
}

/// The file as the program uses it.
#[derive(Debug)]
pub struct Config {
    /// The file, absolute.
    pub file: PathBuf,
    /// The version of isync it was read for.
    pub version: IsyncVersion,
    /// The accounts that have channels, in the file's order.
    pub accounts: Vec<Account>,
    /// Names of account sections that no channel uses.
    pub idle_accounts: Vec<String>,
    /// The groups, in the file's order.
    pub groups: Vec<ChannelGroup>,
    /// What mbsync accepts but what should be changed, each with file and line.
    pub notices: Vec<Notice>,
    /// The directory that relative paths in the file start from; `None` if there
    /// are none. With 1.4 it is the working directory, so mbsync has to be started
    /// in it.
    pub base: Option<PathBuf>,
    /// The lines of each section.
    pub sections: Vec<Section>,
    /// Channels that only `mbsync -a` would run, the second of a name each, with the names
    /// of their accounts. Named with their lines.
    pub shadowed_channels: Vec<(String, Channel)>,
    /// The [`fingerprint`] of the text that was read.
    pub fingerprint: u64,
    /// The file's name in messages.
    shown: String,
    /// Directory listings, for mailboxes listed more than once.
    pub directories: directories::Directories,
}

/// A `ChannelGroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// Its name.
    pub name: String,
    /// Its members as written: a channel's name, or `CHANNEL:BOX,BOX`.
    pub members: Vec<String>,
}

/// What kind of section it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// `IMAPAccount`
    Account,
    /// `IMAPStore`
    ImapStore,
    /// `MaildirStore`
    MaildirStore,
    /// `Channel`
    Channel,
    /// `ChannelGroup`
    ChannelGroup,
}

impl SectionKind {
    /// The keyword that begins it.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            SectionKind::Account => "IMAPAccount",
            SectionKind::ImapStore => "IMAPStore",
            SectionKind::MaildirStore => "MaildirStore",
            SectionKind::Channel => "Channel",
            SectionKind::ChannelGroup => "Group",
        }
    }
}

/// The place of a section in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its kind.
    pub kind: SectionKind,
    /// Its name.
    pub name: String,
    /// Number of its first line, from 1, as mbsync counts.
    pub first: usize,
    /// Number of its last line: the blank one that ends it, if there is one.
    pub last: usize,
}

/// The file that is named, else the one of [`locate`].
pub fn file_of(
    named: Option<&Path>,
    env: &Env,
    version: Option<IsyncVersion>,
) -> Result<PathBuf, Error> {
    named.map_or_else(|| locate(env, version), |file| Ok(env.cwd.join(file)))
}

/// The file that mbsync itself would read. Up to 1.4 that is `~/.mbsyncrc`; 1.5
/// has `isyncrc` in the configuration directory, and reads the old one if only
/// that exists. Without a version: the one that exists, `isyncrc` first.
pub fn locate(env: &Env, version: Option<IsyncVersion>) -> Result<PathBuf, Error> {
    let (old, new) = (env.mbsyncrc(), env.isyncrc());
    if version != Some(IsyncVersion::V1_4) && new.symlink_metadata().is_ok() {
        return Ok(new);
    }
    if old.symlink_metadata().is_ok() {
        return Ok(old);
    }
    let or = if version == Some(IsyncVersion::V1_4) {
        String::new()
    } else {
        format!(" and no {}", env.tilde(&new))
    };
    Err(Error::config(format!(
        "there is no {}{or}: mbsync is not set up yet (see mbsync(1))",
        env.tilde(&old)
    ))
    .with_hint("mutt-sync --init ADDRESS prints one; --mbsyncrc names a file elsewhere"))
}

/// What should be changed in the file, and how, where that can be said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What is wrong, or old.
    pub message: String,
    /// What to write instead; `None`: it works as it is.
    pub hint: Option<String>,
}

impl Notice {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Notice { message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<String> for Notice {
    fn from(message: String) -> Self {
        Notice { message, hint: None }
    }
}

impl From<&str> for Notice {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// The text of the file, cut where it is longer than any file should be.
///
/// # Errors
/// The system's.
pub fn text(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let file = file::open(path)?;
    let size = file.metadata().map_or(0, |data| data.len()).min(LARGEST);
    // Room for all of it: the text has passwords in it, and a buffer that
    // moved while it grew would leave them behind.
    let room = usize::try_from(size).unwrap_or(0) + 64;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Differs where two texts of a file differ; never leaves the process.
#[must_use]
pub fn fingerprint(text: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

/// Reads the file. All errors are configuration errors, and begin with the file
/// and, where there is one, the line.
pub fn read(path: &Path, env: &Env, version: IsyncVersion) -> Result<Config, Error> {
    let path = env.cwd.join(path);
    let text = text(&path).map_err(|why| Error::unreadable(&env.tilde(&path), &why))?;
    if text.len() as u64 > LARGEST {
        return Err(Error::config(format!("{} is larger than 4 MiB", env.tilde(&path)))
            .with_hint("is it the right file?"));
    }
    let mut config = parse(&text, &path, env, version)?;
    if version == IsyncVersion::V1_5 && path == env.isyncrc() && env.mbsyncrc().exists() {
        config.notices.push(Notice::new(
            format!("{} and {} both exist", env.tilde(&path), env.tilde(&env.mbsyncrc())),
            "mbsync uses the former, so remove the latter",
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_for_the_shell() {
        let env = Env::new("/home/u", "/");
        assert_eq!(env.for_shell(Path::new("/home/u/Mail/a")), "~/Mail/a");
        assert_eq!(env.for_shell(Path::new("/home/u/it's")), r"'/home/u/it'\''s'");
        assert_eq!(env.for_shell(Path::new("/a b")), "'/a b'");
        assert_eq!(env.for_shell(Path::new("/a")), "/a");
    }
}
