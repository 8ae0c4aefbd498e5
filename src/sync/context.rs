//! What every command knows of one account: configuration, settings, places. Does
//! not depend on: the rest of this module.

use std::io::Write as _;
use std::path::Path;

use crate::mbsyncrc::Config;
use crate::model::Account;
use crate::os::terminal;
use crate::settings::Settings;
use crate::text::sanitize;

/// What a command knows of one account.
#[derive(Debug, Clone, Copy)]
pub struct AccountContext<'a> {
    /// The whole of `.mbsyncrc`.
    pub config: &'a Config,
    /// The account.
    pub account: &'a Account,
    /// Its settings.
    pub settings: &'a Settings,
    /// The file they come from, if it is not where it usually is.
    pub settings_file: Option<&'a Path>,
    /// Its state directory's parent.
    pub base: &'a Path,
}

impl AccountContext<'_> {
    /// Prints a decision on the account.
    pub fn say(&self, text: &str) {
        let line = format!("{}: {text}", self.account.name);
        let _ = terminal::above(|| writeln!(std::io::stderr(), "{}", sanitize(&line)));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mbsync_version::IsyncVersion;
    use crate::mbsyncrc::{Env, parse};

    /// A home with this `.mbsyncrc`, and its first account.
    pub(crate) struct Fixture {
        pub(crate) home: tempfile::TempDir,
        pub(crate) config: Config,
        pub(crate) settings: Settings,
    }

    impl Fixture {
        pub(crate) fn new(mbsyncrc: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            let env = Env::new(home.path(), home.path());
            let file = home.path().join(".mbsyncrc");
            let config = parse(mbsyncrc.as_bytes(), &file, &env, IsyncVersion::V1_4).unwrap();
            Fixture { home, config, settings: Settings::default() }
        }

        pub(crate) fn account(&self) -> &Account {
            &self.config.accounts[0]
        }

        pub(crate) fn context(&self) -> AccountContext<'_> {
            AccountContext {
                config: &self.config,
                account: self.account(),
                settings: &self.settings,
                settings_file: None,
                base: self.home.path(),
            }
        }
    }
}
