//! `config.toml`: everything that can be set, its default, and its check.
//!
//! Knows keys and values only; reads no file but the one text it is given, and
//! does not know what a setting is used for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Error;
use crate::text::suggest;
use crate::state::backoff::BackoffPolicy;
use crate::state::throttle::Rate;

/// What holds for one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `mbsyncrc`; `None`: as mbsync itself finds it.
    pub mbsyncrc: Option<PathBuf>,
    /// `mbsync`: the program, looked up in PATH if it has no slash.
    pub mbsync: PathBuf,
    /// `throttle`: long-run distance between two runs.
    pub throttle: Duration,
    /// `burst`: runs allowed at once before that.
    pub burst: u32,
    /// `every`: a full run at the latest this long after the last.
    pub every: Duration,
    /// `settle`: quiet wanted after a local change.
    pub settle: Duration,
    /// `retry`: first wait after a failure.
    pub retry: Duration,
    /// `retry_max`: longest wait.
    pub retry_max: Duration,
    /// `connections`: most IDLE connections where the server lacks NOTIFY.
    pub connections: u32,
    /// `sweep`: STATUS of mailboxes that no connection watches.
    pub sweep: Duration,
    /// `stall`: a run that moves next to nothing for so long is ended.
    pub stall: Duration,
    /// `prompt`: what runs in the background may open graphical prompts.
    pub prompt: bool,
    /// `handover`: a waiter lends its connection to mbsync.
    pub handover: bool,
    /// `after_sync`: run after each run.
    pub after_sync: Vec<String>,
    /// `new_mail`: run after a run that brought new mail.
    pub new_mail: Vec<String>,
    /// `trigger`: another place for the trigger file.
    pub trigger: Option<PathBuf>,
    /// `boxes`: patterns of mailboxes to watch; empty: all.
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
            settle: seconds(1),
            retry: seconds(30),
            retry_max: seconds(15 * 60),
            connections: 4,
            sweep: seconds(5 * 60),
            stall: seconds(2 * 60),
            prompt: false,
            handover: true,
            after_sync: Vec::new(),
            new_mail: Vec::new(),
            trigger: None,
            boxes: Vec::new(),
        }
    }
}

impl Settings {
    /// The throttle's two settings.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate { distance: self.throttle, burst: self.burst }
    }

    /// The backoff's two settings.
    #[must_use]
    pub fn patience(&self) -> BackoffPolicy {
        BackoffPolicy { first: self.retry, longest: self.retry_max }
    }
}

/// The whole file: what holds for all accounts, and for single ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Outside any `[account.NAME]`.
    pub general: Settings,
    /// What holds for the accounts that have a table of their own.
    pub accounts: BTreeMap<String, Settings>,
}

impl File {
    /// What holds for this account.
    #[must_use]
    pub fn of(&self, account: &str) -> &Settings {
        self.accounts.get(account).unwrap_or(&self.general)
    }

    /// Reads the file's text. `sanitize` is its name in messages, `home` what `~` means.
    ///
    /// # Errors
    /// 78, with the line, for a text that is not TOML, an unknown key (with the
    /// nearest known one) and a value of the wrong kind.
    pub fn parse(text: &str, sanitize: &str, home: Option<&Path>) -> Result<Self, Error> {
        let place = |at: usize| {
            let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
            format!("{sanitize}:{line}: ")
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Error::config(format!("{}{}", place(at), error.message()))
        })?;
        let reader = SettingsReader { place: &place, home };
        let mut file = File::default();
        let mut accounts = None;
        for (key, value) in table.get_ref() {
            if key.get_ref() == "account" {
                accounts = Some(value);
            } else {
                reader.set(&mut file.general, key, value, false)?;
            }
        }
        let Some(accounts) = accounts else { return Ok(file) };
        let DeValue::Table(accounts) = accounts.get_ref() else {
            return Err(reader.wrong(accounts, "account", "tables: [account.NAME]"));
        };
        for (name, table) in accounts {
            let DeValue::Table(table) = table.get_ref() else {
                return Err(reader.wrong(table, name.get_ref(), "a table: [account.NAME]"));
            };
            let mut settings = file.general.clone();
            for (key, value) in table {
                reader.set(&mut settings, key, value, true)?;
            }
            file.accounts.insert(name.get_ref().to_string(), settings);
        }
        Ok(file)
    }
}

/// The keys that stand for all accounts only, those for any place, those for an account only.
const GENERAL: [&str; 2] = ["mbsyncrc", "mbsync"];
const ANYWHERE: [&str; 14] = [
    "throttle",
    "burst",
    "every",
    "timeout",
    "settle",
    "retry",
    "retry_max",
    "connections",
    "sweep",
    "stall",
    "prompt",
    "handover",
    "after_sync",
    "new_mail",
];
const ACCOUNT: [&str; 2] = ["trigger", "boxes"];

struct SettingsReader<'a> {
    place: &'a dyn Fn(usize) -> String,
    home: Option<&'a Path>,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

impl SettingsReader<'_> {
    fn set(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
        in_account: bool,
    ) -> Result<(), Error> {
        let name = key.get_ref().as_ref();
        let misplaced = if in_account { &GENERAL } else { &ACCOUNT };
        if misplaced.contains(&name) {
            let place = (self.place)(key.span().start);
            return Err(Error::config(if in_account {
                format!("{place}`{name}` holds for all accounts; move it above the first table")
            } else {
                format!("{place}`{name}` belongs to one account; move it below [account.NAME]")
            }));
        }
        match name {
            "mbsyncrc" => settings.mbsyncrc = Some(self.path(value, name)?),
            "mbsync" => {
                let text = self.text(value, name)?;
                settings.mbsync =
                    if text.starts_with('~') { self.path(value, name)? } else { text.into() };
            }
            "throttle" => settings.throttle = self.duration(value, name, true)?,
            "burst" => settings.burst = self.number(value, name)?,
            "every" | "timeout" => settings.every = self.duration(value, name, false)?,
            "settle" => settings.settle = self.duration(value, name, true)?,
            "retry" => settings.retry = self.duration(value, name, false)?,
            "retry_max" => settings.retry_max = self.duration(value, name, false)?,
            "connections" => settings.connections = self.number(value, name)?,
            "sweep" => settings.sweep = self.duration(value, name, false)?,
            "stall" => settings.stall = self.duration(value, name, false)?,
            "prompt" => settings.prompt = self.truth(value, name)?,
            "handover" => settings.handover = self.truth(value, name)?,
            "after_sync" => settings.after_sync = self.texts(value, name)?,
            "new_mail" => settings.new_mail = self.texts(value, name)?,
            "trigger" => settings.trigger = Some(self.path(value, name)?),
            "boxes" => settings.boxes = self.texts(value, name)?,
            _ => {
                let place = (self.place)(key.span().start);
                let near = suggest(name, GENERAL.iter().chain(&ANYWHERE).chain(&ACCOUNT).copied());
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return Err(Error::config(format!("{place}unknown setting `{name}`{near}")));
            }
        }
        Ok(())
    }

    fn wrong(&self, value: &Value<'_>, name: &str, wanted: &str) -> Error {
        Error::config(format!("{}`{name}` takes {wanted}", (self.place)(value.span().start)))
    }

    fn text<'v>(&self, value: &'v Value<'_>, name: &str) -> Result<&'v str, Error> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.wrong(value, name, "a text in quotes")),
        }
    }

    fn path(&self, value: &Value<'_>, name: &str) -> Result<PathBuf, Error> {
        let text = self.text(value, name)?;
        let path = match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        };
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.wrong(value, name, "an absolute path, or one that starts with ~/"))
        }
    }

    fn truth(&self, value: &Value<'_>, name: &str) -> Result<bool, Error> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong(value, name, "true or false"))
    }

    fn number(&self, value: &Value<'_>, name: &str) -> Result<u32, Error> {
        value
            .get_ref()
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (1..=1000).contains(number))
            .ok_or_else(|| self.wrong(value, name, "a whole number from 1 to 1000"))
    }

    fn duration(&self, value: &Value<'_>, name: &str, or_zero: bool) -> Result<Duration, Error> {
        duration(self.text(value, name)?, or_zero).map_err(|why| {
            self.wrong(value, name, &format!("a duration such as \"60s\" or \"15m\": {why}"))
        })
    }

    fn texts(&self, value: &Value<'_>, name: &str) -> Result<Vec<String>, Error> {
        let wrong = || self.wrong(value, name, "a list of texts: [\"notify-send\", \"Mail\"]");
        let list = value.get_ref().as_array().ok_or_else(wrong)?;
        list.iter()
            .map(|each| each.get_ref().as_str().map(str::to_owned).ok_or_else(wrong))
            .collect()
    }
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
        File::parse(text, "config.toml", Some(Path::new("/home/u"))).map_err(|error| error.text)
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
        assert_eq!(mine.trigger.as_deref(), Some(Path::new("/home/u/Mail/triggers/Home")));
        assert_eq!(file.of("Other"), &file.general);
    }

    #[test]
    fn mistakes_name_the_line_and_the_mend() {
        for (text, expected) in [
            ("a = [", "config.toml:1: "),
            (
                "\nthrotle = \"1s\"",
                "config.toml:2: unknown setting `throtle`; did you mean `throttle`?",
            ),
            ("x = 1", "config.toml:1: unknown setting `x`"),
            ("every = 60", "config.toml:1: `every` takes a text in quotes"),
            ("every = \"60\"", "time unit needed"),
            ("every = \"1M\"", "`M` is a month"),
            ("every = \"0s\"", "zero makes no sense"),
            ("burst = 0", "from 1 to 1000"),
            ("after_sync = \"x\"", "a list of texts"),
            ("mbsyncrc = \"x\"", "an absolute path"),
            ("trigger = \"/x\"", "move it below [account.NAME]"),
            ("[account.a]\nmbsync = \"x\"", "config.toml:2: `mbsync` holds for all accounts"),
            ("account = 1", "[account.NAME]"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
