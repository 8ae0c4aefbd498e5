//! What `--muttrc` reads before it prints: mailboxes, account files, msmtp's file.
//! The text is made by `muttrc` and `identity`.
//!
//! Does not depend on: how a line is quoted, servers.

use super::identity::{self, Sender};
use super::muttrc::{self, AccountMail, HAVE_ACCOUNTS, HAVE_HOOKS, IN_ACCOUNT, Theirs};
use crate::error::Error;
use crate::mbsyncrc::{Config, Env};
use crate::model::{Account, Mailbox};
use crate::os::file;
use std::path::PathBuf;

/// The lines for all accounts: `--muttrc`.
#[must_use]
pub fn all_accounts(config: &Config, env: &Env) -> String {
    let mailboxes: Vec<Vec<Mailbox>> =
        config.accounts.iter().map(|account| config.local_mailboxes(account)).collect();
    let files: Vec<Option<PathBuf>> =
        config.accounts.iter().map(|account| identity_file(account, env)).collect();
    let accounts: Vec<AccountMail<'_>> = config
        .accounts
        .iter()
        .zip(&mailboxes)
        .zip(&files)
        .map(|((account, mailboxes), file)| AccountMail {
            account,
            mailboxes,
            identity_file: file.as_deref(),
        })
        .collect();
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let in_account = std::env::var(IN_ACCOUNT).ok();
    let theirs = Theirs {
        hooks: is_set(HAVE_HOOKS),
        accounts: is_set(HAVE_ACCOUNTS),
        in_account: in_account.as_deref(),
    };
    muttrc::muttrc(&accounts, theirs, &env.home, |maildir| maildir.join("cur").is_dir())
}

/// The identity of the account that this name belongs to: `--muttrc ACCOUNT`.
pub fn one_account(config: &Config, env: &Env, name: &str) -> Result<String, Error> {
    let by_name = config.accounts.iter().position(|account| account.name == name);
    let place = match by_name {
        Some(place) => place,
        None => match config.select(&[name])?[..] {
            [(place, _)] => place,
            _ => {
                return Err(Error::usage(format!("{name} belongs to several accounts")).with_hint(
                    format!(
                        "name one of: {}",
                        config
                            .accounts
                            .iter()
                            .map(|each| &*each.name)
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                ));
            }
        },
    };
    let Some(account) = config.accounts.get(place) else {
        return Err(Error::usage(format!("{name}: no such account")));
    };
    let mailboxes = config.local_mailboxes(account);
    Ok(identity::identity(account, &config.accounts, place, &mailboxes, &senders(env)))
}

/// The account file that mutt's user keeps, if there is one.
fn identity_file(account: &Account, env: &Env) -> Option<PathBuf> {
    if account.name.contains('/') || account.name.starts_with('.') {
        return None;
    }
    [env.config_dir().join("mutt"), env.home.join(".mutt")]
        .iter()
        .map(|dir| dir.join("account").join(&account.name))
        .find(|file| file.is_file())
}

/// The accounts of msmtp's file; none if it cannot be read.
fn senders(env: &Env) -> Vec<Sender> {
    msmtprc(env).map_or(vec![], |(_, text)| identity::msmtp_senders(&text))
}

/// The file that msmtp reads (msmtp(1), FILES), and its text.
#[must_use]
pub fn msmtprc(env: &Env) -> Option<(PathBuf, String)> {
    [env.home.join(".msmtprc"), env.config_dir().join("msmtp/config"), "/etc/msmtprc".into()]
        .into_iter()
        .find_map(|file| file::small_text(&file).map(|text| (file, text)))
}
