//! `config.toml`: everything that can be set, its default, and its check.
//!
//! Reads the one text that it is given. Does not depend on: files, what a
//! setting is used for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Error;
use crate::state::backoff::BackoffPolicy;
use crate::state::throttle::Rate;
use crate::text::suggest;

/// The settings of one account.
// Switches of a file, independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// mbsync's configuration; `None`: where mbsync itself finds it.
    #[serde(deserialize_with = "some_path")]
    pub mbsyncrc: Option<PathBuf>,
    /// The program, looked up in PATH if it has no slash.
    #[serde(deserialize_with = "program")]
    pub mbsync: PathBuf,
    /// Average interval between two logins, and between two runs that nothing was compared
    /// for.
    #[serde(deserialize_with = "duration_or_zero")]
    pub throttle: Duration,
    /// So many may come at once before that.
    #[serde(deserialize_with = "count")]
    pub burst: u32,
    /// Everything is compared at least this often.
    #[serde(deserialize_with = "positive_duration")]
    pub every: Duration,
    /// mbsync syncs everything at least this often, whatever differs.
    #[serde(deserialize_with = "positive_duration")]
    pub full_every: Duration,
    /// Longest wait for a Maildir that is written without pause.
    #[serde(deserialize_with = "duration_or_zero")]
    pub settle: Duration,
    /// First wait after a failure.
    #[serde(deserialize_with = "positive_duration")]
    pub retry: Duration,
    /// Longest wait.
    #[serde(deserialize_with = "positive_duration")]
    pub retry_max: Duration,
    /// Most IDLE connections where the server lacks NOTIFY.
    #[serde(deserialize_with = "count")]
    pub connections: u32,
    /// Interval of STATUS for mailboxes that no connection watches.
    #[serde(deserialize_with = "positive_duration")]
    pub sweep: Duration,
    /// A run that moves next to nothing for so long is ended.
    #[serde(deserialize_with = "positive_duration")]
    pub stall: Duration,
    /// What runs in the background may open graphical prompts.
    #[serde(deserialize_with = "plain")]
    pub prompt: bool,
    /// A waiter lends its connection to mbsync.
    #[serde(deserialize_with = "plain")]
    pub handover: bool,
    /// A run over our connection is told the flags that have not changed by us.
    #[serde(deserialize_with = "plain")]
    pub changedsince: bool,
    /// A run that would delete much, or sync what is not the Maildir of the last run,
    /// waits for an answer.
    #[serde(deserialize_with = "plain")]
    pub hold: bool,
    /// Patterns of mailboxes that may be emptied.
    #[serde(deserialize_with = "plain")]
    pub hold_except: Vec<String>,
    /// Command to run after each run.
    #[serde(deserialize_with = "plain")]
    pub after_sync: Vec<String>,
    /// Command to run after a run that brought new mail.
    #[serde(deserialize_with = "plain")]
    pub new_mail: Vec<String>,
    /// Another path for the trigger file; see [`Settings::trigger_of`].
    #[serde(deserialize_with = "some_path")]
    pub trigger: Option<PathBuf>,
    /// Patterns of mailboxes to watch; empty: all.
    #[serde(deserialize_with = "plain")]
    pub boxes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Settings {
            mbsyncrc: None,
            mbsync: "mbsync".into(),
            throttle: seconds(60),
            burst: 4,
            every: seconds(15 * 60),
            full_every: seconds(24 * 3600),
            settle: seconds(1),
            retry: seconds(30),
            retry_max: seconds(15 * 60),
            connections: 4,
            sweep: seconds(5 * 60),
            stall: seconds(2 * 60),
            prompt: false,
            handover: true,
            changedsince: true,
            hold: true,
            hold_except: Vec::new(),
            after_sync: Vec::new(),
            new_mail: Vec::new(),
            trigger: None,
            boxes: Vec::new(),
        }
    }
}

/// A key of the file.
#[derive(Debug)]
pub struct Key {
    /// Its name, that of a field of [`Settings`].
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Where it may stand.
    pub place: Place,
    /// What it takes, with an example.
    takes: &'static str,
}

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Above all tables.
    General,
    /// There, or in `[account.NAME]`.
    Anywhere,
    /// In `[account.NAME]`.
    Account,
}

const fn key(name: &'static str, place: Place, takes: &'static str) -> Key {
    Key { name, aliases: &[], place, takes }
}

/// Every key of the file.
pub const KEYS: [Key; 21] = [
    key("mbsyncrc", Place::General, "an absolute path, or one such as \"~/mail/mbsyncrc\""),
    key("mbsync", Place::General, "a program, such as \"mbsync\" or \"~/bin/mbsync\""),
    key("throttle", Place::Anywhere, "a duration such as \"60s\""),
    key("burst", Place::Anywhere, "a whole number from 1 to 1000"),
    Key { aliases: &["timeout"], ..key("every", Place::Anywhere, "a duration such as \"15m\"") },
    key("full_every", Place::Anywhere, "a duration such as \"1d\""),
    key("settle", Place::Anywhere, "a duration such as \"1s\""),
    key("retry", Place::Anywhere, "a duration such as \"30s\""),
    key("retry_max", Place::Anywhere, "a duration such as \"15m\""),
    key("connections", Place::Anywhere, "a whole number from 1 to 1000"),
    key("sweep", Place::Anywhere, "a duration such as \"5m\""),
    key("stall", Place::Anywhere, "a duration such as \"2m\""),
    key("prompt", Place::Anywhere, "true or false"),
    key("handover", Place::Anywhere, "true or false"),
    key("changedsince", Place::Anywhere, "true or false"),
    key("hold", Place::Anywhere, "true or false"),
    key("hold_except", Place::Anywhere, "a list of patterns: [\"Drafts\", \"Lists/*\"]"),
    key("after_sync", Place::Anywhere, "a list of words: [\"notmuch\", \"new\"]"),
    key("new_mail", Place::Anywhere, "a list of words: [\"notify-send\", \"New mail\"]"),
    key(
        "trigger",
        Place::Anywhere,
        "an absolute path, or one such as \"~/Mail/triggers/{account}\"",
    ),
    key("boxes", Place::Account, "a list of patterns: [\"INBOX\", \"Lists/*\"]"),
];

/// What stands for the account's name in the path of a trigger.
const ACCOUNT: &str = "{account}";

impl Settings {
    /// Another path for the trigger file of an account.
    #[must_use]
    pub fn trigger_of(&self, account: &str) -> Option<PathBuf> {
        let path = self.trigger.as_ref()?;
        Some(match path.to_str() {
            // One name, one file, whatever is in the name.
            Some(text) => text.replace(ACCOUNT, &account.replace('/', "%2F")).into(),
            None => path.clone(),
        })
    }

    /// The throttle's two settings.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate { interval: self.throttle, burst: self.burst }
    }

    /// The backoff's two settings.
    #[must_use]
    pub fn backoff_policy(&self) -> BackoffPolicy {
        BackoffPolicy { first: self.retry, longest: self.retry_max }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// What is above all tables.
    pub general: Settings,
    /// The settings of accounts that have a table of their own.
    pub accounts: BTreeMap<String, Settings>,
}

impl File {
    /// The settings of this account.
    #[must_use]
    pub fn of(&self, account: &str) -> &Settings {
        self.accounts.get(account).unwrap_or(&self.general)
    }

    /// Reads the file's text. `name` is the file's name in messages, `home` what
    /// `~` means.
    ///
    /// # Errors
    /// 78, with the line, for a text that is not TOML, an unknown key (with the
    /// most similar one) and a value of the wrong kind.
    pub fn parse(text: &str, name: &str, home: &Path) -> Result<Self, Error> {
        let source = SettingsText { text, name, home };
        let mut table = DeTable::parse(text)
            .map_err(|error| source.error(error.span(), error.message()))?
            .into_inner();
        let accounts = table.remove("account");
        let general = source.check_keys(table, Place::General)?;
        let one = general.get("trigger").filter(|trigger| {
            trigger.get_ref().as_str().is_some_and(|path| !path.contains(ACCOUNT))
        });
        if let Some(trigger) = one {
            let wrong =
                source.error(Some(trigger.span()), "`trigger` is one file for all accounts");
            return Err(wrong.with_hint(
                "write {account} where the name is to be, or move it below [account.NAME]",
            ));
        }
        let mut file = File { general: source.settings(&general)?, accounts: BTreeMap::new() };
        let Some(accounts) = accounts else { return Ok(file) };
        for (name, account) in source.table(accounts, "account", "tables")? {
            let name = name.into_inner();
            let account = source.table(account, &name, "a table")?;
            let mut merged = general.clone();
            merged.extend(source.check_keys(account, Place::Account)?);
            file.accounts.insert(name.into_owned(), source.settings(&merged)?);
        }
        Ok(file)
    }
}

/// The text that is read.
struct SettingsText<'a> {
    text: &'a str,
    name: &'a str,
    home: &'a Path,
}

impl<'a> SettingsText<'a> {
    fn error(&self, at: Option<Range<usize>>, why: impl std::fmt::Display) -> Error {
        let before = self.text.get(..at.map_or(0, |span| span.start)).unwrap_or_default();
        Error::config(format!("{}:{}: {why}", self.name, before.matches('\n').count() + 1))
    }

    fn table(
        &self,
        value: Spanned<DeValue<'a>>,
        name: &str,
        what: &str,
    ) -> Result<DeTable<'a>, Error> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.error(Some(span), format!("`{name}` takes {what}: [account.NAME]"))),
        }
    }

    /// The table with the names of today, if all its keys may stand here.
    fn check_keys(&self, table: DeTable<'a>, here: Place) -> Result<DeTable<'a>, Error> {
        let mut checked = DeTable::new();
        let mut seen: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        for (written, value) in table {
            let (at, name) = (written.span(), written.into_inner());
            let is = |key: &&Key| key.name == name || key.aliases.contains(&&*name);
            let Some(key) = KEYS.iter().find(is) else {
                let known = KEYS.iter().flat_map(|key| [&[key.name], key.aliases].concat());
                let meant = suggest(&name, known).map(|meant| format!("did you mean `{meant}`?"));
                let unknown = self.error(Some(at), format!("unknown setting `{name}`"));
                return Err(unknown.with_hint_of(meant));
            };
            if key.place != here && key.place != Place::Anywhere {
                let (holds, hint) = match key.place {
                    Place::Account => ("belongs to one account", "move it below [account.NAME]"),
                    _ => ("holds for all accounts", "move it above the first table"),
                };
                return Err(self.error(Some(at), format!("`{name}` {holds}")).with_hint(hint));
            }
            if let Some((other, twin)) = seen.insert(key.name, (at.start, name.to_string())) {
                // Of the later one.
                let at = if other > at.start { other..other } else { at };
                let twice = format!("`{twin}` and `{name}` are names of one setting");
                return Err(self.error(Some(at), twice).with_hint("remove one of them"));
            }
            checked.insert(Spanned::new(at, key.name.into()), value);
        }
        Ok(checked)
    }

    fn settings(&self, table: &DeTable<'a>) -> Result<Settings, Error> {
        let whole = Spanned::new(0..self.text.len(), table.clone());
        let mut settings =
            Settings::deserialize(toml::Deserializer::from(whole)).map_err(|error| {
                let at = error.span().unwrap_or_default();
                let is = |key: &&Key| {
                    table.get(key.name).is_some_and(|value| value.span().contains(&at.start))
                };
                let takes = KEYS.iter().find(is).map_or_else(String::new, |key| {
                    let colon = if error.message().is_empty() { "" } else { ": " };
                    format!("`{}` takes {}{colon}", key.name, key.takes)
                });
                self.error(Some(at), format!("{takes}{}", error.message()))
            })?;
        let paths = [&mut settings.mbsyncrc, &mut settings.trigger].into_iter().flatten();
        for path in paths.chain([&mut settings.mbsync]) {
            if let Ok(rest) = path.strip_prefix("~") {
                *path = self.home.join(rest);
            }
        }
        Ok(settings)
    }
}

/// Whatever serde makes of it. What the setting takes says more than its error.
fn plain<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map_err(|_| D::Error::custom(""))
}

fn positive_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration(&plain::<D, String>(from)?, false).map_err(D::Error::custom)
}

fn duration_or_zero<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration(&plain::<D, String>(from)?, true).map_err(D::Error::custom)
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    Some(plain(from)?).filter(|count| (1..=1000).contains(count)).ok_or(D::Error::custom(""))
}

fn some_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let text: String = plain(from)?;
    if text.starts_with('/') || text.starts_with("~/") {
        Ok(Some(text.into()))
    } else {
        Err(D::Error::custom(""))
    }
}

fn program<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let text: String = plain(from)?;
    if text.starts_with('~') && !text.starts_with("~/") {
        return Err(D::Error::custom(""));
    }
    Ok(text.into())
}

/// Reads a duration as humantime does, and refuses what would be a mistake: a
/// month for a minute (`1M`), nothing where something is needed, more than a year.
///
/// # Errors
/// Why not, in a few words.
pub fn duration(text: &str, or_zero: bool) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() && !or_zero {
        return Err("zero makes no sense here".into());
    }
    if text.contains('M') && duration >= Duration::from_secs(28 * 86_400) {
        return Err("`M` is a month; write `m` for minutes".into());
    }
    if duration > Duration::from_secs(366 * 86_400) {
        return Err("longer than a year".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(text, "config.toml", Path::new("/home/u")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), File::default());
    }

    #[test]
    fn every_key_is_taken() {
        let file = parse(
            r#"
            mbsyncrc = "~/rc"
            mbsync = "/opt/mbsync"
            throttle = "0s"
            burst = 1
            timeout = "1h 30m"
            settle = "500ms"
            retry = "1s"
            retry_max = "2m"
            connections = 2
            sweep = "1m"
            stall = "10s"
            prompt = true
            handover = false
            hold = false
            hold_except = ["Lists/*"]
            after_sync = ["notmuch", "new"]
            new_mail = ["notify"]
            [account."My Mail"]
            every = "5m"
            trigger = "~/Mail/triggers/Home"
            boxes = ["INBOX", "Lists/*"]
            "#,
        )
        .unwrap();
        assert_eq!(file.general.mbsyncrc.as_deref(), Some(Path::new("/home/u/rc")));
        assert_eq!(file.general.every, Duration::from_secs(5400));
        let mine = file.of("My Mail");
        assert_eq!((mine.every, mine.burst), (Duration::from_secs(300), 1));
        let trigger = mine.trigger_of("My Mail");
        assert_eq!(trigger.as_deref(), Some(Path::new("/home/u/Mail/triggers/Home")));
        assert_eq!(file.of("Other"), &file.general);
    }

    #[test]
    fn an_account_s_setting_replaces_the_general_one_by_any_of_its_names() {
        let file = parse("timeout = \"2m\"\n[account.a]\nevery = \"3m\"\n[account.b]\nburst = 2");
        let file = file.unwrap();
        let minutes = |account: &str| file.of(account).every.as_secs() / 60;
        assert_eq!((minutes("a"), minutes("b"), minutes("c")), (3, 2, 2));
    }

    #[test]
    fn one_trigger_for_all_accounts_has_their_names_in_it() {
        let file = parse(
            "trigger = \"~/triggers/{account}\"\n[account.b]\nburst = 2\n\
             [account.c]\ntrigger = \"/t/c\"",
        );
        let file = file.unwrap();
        let of = |account: &str| file.of(account).trigger_of(account).unwrap();
        assert_eq!(of("a"), Path::new("/home/u/triggers/a"));
        assert_eq!(of("b"), Path::new("/home/u/triggers/b"));
        assert_eq!(of("c"), Path::new("/t/c"));
        assert_eq!(of("x/../y"), Path::new("/home/u/triggers/x%2F..%2Fy"));
        assert_eq!(Settings::default().trigger_of("a"), None);
    }

    #[test]
    fn every_key_is_a_setting() {
        // Serde would pass over a key that is none.
        for key in &KEYS {
            let table = if key.place == Place::Account { "[account.a]\n" } else { "" };
            let wrong = parse(&format!("{table}{} = 1.5", key.name)).unwrap_err();
            let begin = format!("config.toml:{}: `{}` takes ", table.lines().count() + 1, key.name);
            assert!(wrong.starts_with(&begin), "{wrong}");
        }
    }

    #[test]
    fn mistakes_name_the_line_and_what_the_setting_takes() {
        for (text, expected) in [
            ("a = [", "config.toml:1: "),
            (
                "\nthrotle = \"1s\"",
                "config.toml:2: unknown setting `throtle`; did you mean `throttle`?",
            ),
            ("x = 1", "config.toml:1: unknown setting `x`"),
            ("every = 60", "config.toml:1: `every` takes a duration such as \"15m\""),
            ("every = \"60\"", "time unit needed"),
            ("every = \"1M\"", "`M` is a month"),
            ("every = \"0s\"", "zero makes no sense"),
            ("burst = 0", "from 1 to 1000"),
            ("after_sync = \"x\"", "`after_sync` takes a list of words: [\"notmuch\", \"new\"]"),
            (
                "[account.a]\nboxes = \"INBOX\"",
                "config.toml:2: `boxes` takes a list of patterns: [\"INBOX\"",
            ),
            (
                "every = \"5m\"\ntimeout = \"1h\"",
                "config.toml:2: `every` and `timeout` are names of one setting; remove one of them",
            ),
            (
                "[account.a]\ntimeout = \"1h\"\nevery = \"5m\"",
                "config.toml:3: `every` and `timeout` are names of one setting; remove one of them",
            ),
            ("timeout = \"1M\"", "`every` takes a duration such as \"15m\": `M` is a month"),
            ("every = \"1s\"\n[account.a]\nburst = 0", "config.toml:3: `burst` takes"),
            ("mbsyncrc = \"x\"", "an absolute path"),
            ("mbsync = \"~x\"", "a program"),
            ("trigger = \"/x\"", "or move it below [account.NAME]"),
            ("\nboxes = [\"INBOX\"]", "config.toml:2: `boxes` belongs to one account"),
            ("[account.a]\nmbsync = \"x\"", "config.toml:2: `mbsync` holds for all accounts"),
            ("account = 1", "[account.NAME]"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
