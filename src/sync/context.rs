//! What every command knows of one account.
//!
//! Depends on no other file of this module.

use std::path::Path;

use crate::mbsyncrc::Config;
use crate::model::Account;
use crate::settings::Settings;

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
