//! `--list`: accounts and mailboxes, for people and for programs.
//!
//! The layout of values. Does not depend on: how a mailbox would be watched, which
//! the caller says.

use crate::mbsyncrc::{Config, Env};
use crate::model::{Account, Mailbox, Server};
use crate::text::sanitize;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// All that `--list` shows. Its JSON form is what programs rely on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountList {
    /// Of the JSON form. It grows when a key is removed or means something else.
    pub version: u32,
    /// The configuration file.
    pub file: PathBuf,
    /// In the file's order.
    pub accounts: Vec<ListedAccount>,
    /// Names of groups of channels.
    pub groups: Vec<String>,
    /// There is a second channel of a name, which mbsync cannot be given by name.
    pub shadowed_channels: bool,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedAccount {
    /// Its name.
    pub name: String,
    /// `HOST:PORT`; absent for a tunnel, and where no server is involved.
    pub server: Option<String>,
    /// Its channels' names.
    pub channels: Vec<String>,
    /// Its mailboxes on this disk.
    pub mailboxes: Vec<ListedMailbox>,
}

/// A mailbox pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedMailbox {
    /// What a user types for it: `CHANNEL:NAME`, or the channel where it has no Patterns.
    pub name: String,
    /// Its name on the far side.
    pub far: String,
    /// Its name on the near side.
    pub near: String,
    /// Its Maildir.
    pub maildir: Option<PathBuf>,
    /// mbsync's state file.
    pub state_file: Option<PathBuf>,
    /// How it would be watched.
    pub watch: String,
}

impl AccountList {
    /// From the configuration, and the mailboxes of each of its accounts in order.
    #[must_use]
    pub fn new(
        config: &Config,
        mailboxes: &[Vec<Mailbox>],
        watch: &dyn Fn(&Account, &Mailbox) -> String,
    ) -> Self {
        let accounts = config.accounts.iter().enumerate().map(|(index, account)| {
            let server = account.server.as_ref().filter(|server| server.tunnel.is_none());
            let server = server.and_then(Server::address);
            let mailboxes = mailboxes.get(index).into_iter().flatten().map(|mailbox| {
                let whole = account
                    .channels
                    .iter()
                    .any(|channel| channel.name == mailbox.channel && channel.patterns.is_none());
                ListedMailbox {
                    name: if whole {
                        mailbox.channel.clone()
                    } else {
                        format!("{}:{}", mailbox.channel, mailbox.name)
                    },
                    far: mailbox.far.clone(),
                    near: mailbox.near.clone(),
                    maildir: mailbox.maildir.clone(),
                    state_file: mailbox.state_file.clone(),
                    watch: watch(account, mailbox),
                }
            });
            ListedAccount {
                name: account.name.clone(),
                server,
                channels: account.channels.iter().map(|channel| channel.name.clone()).collect(),
                mailboxes: mailboxes.collect(),
            }
        });
        AccountList {
            version: 1,
            file: config.file.clone(),
            accounts: accounts.collect(),
            shadowed_channels: !config.shadowed_channels.is_empty(),
            groups: config.groups.iter().map(|group| group.name.clone()).collect(),
        }
    }

    /// For people: a heading for each account, a line for each mailbox, in columns.
    /// Ends in a newline. Control characters are shown as `?`.
    #[must_use]
    pub fn text(&self, env: &Env) -> String {
        let mut text = String::new();
        for (index, account) in self.accounts.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let server = match &account.server {
                Some(server) => format!(" ({server})"),
                None => String::new(),
            };
            let _ = writeln!(text, "{}{}", sanitize(&account.name), sanitize(&server));
            if account.mailboxes.is_empty() {
                text.push_str("  no mailbox on this disk yet\n");
            }
            let rows: Vec<[String; 3]> = account
                .mailboxes
                .iter()
                .map(|mailbox| {
                    let folder = mailbox
                        .maildir
                        .as_deref()
                        .map_or_else(|| "(no Maildir)".to_string(), |maildir| env.tilde(maildir));
                    [sanitize(&mailbox.name), sanitize(&folder), sanitize(&mailbox.watch)]
                })
                .collect();
            let width = |column: usize| {
                rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
            };
            let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
            for [name, folder, watch] in &rows {
                let line = format!("  {name:first$}  {folder:second$}  {watch}");
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        if !self.groups.is_empty() {
            let groups: Vec<String> = self.groups.iter().map(|group| sanitize(group)).collect();
            let _ = writeln!(text, "\ngroups: {}", groups.join(", "));
        }
        if self.shadowed_channels {
            text.push_str(
                "\ntwo channels have one name (mutt-sync --check says which): rename one\n",
            );
        }
        text
    }

    /// For programs. Paths that are not UTF-8 cannot occur: the
    /// configuration is UTF-8, and so is the home directory or this is empty.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mbsync_version::IsyncVersion;
    use crate::mbsyncrc;
    use std::path::Path;

    const FILE: &str = "\
IMAPStore far
Host imap.example.org
SSLType IMAPS

MaildirStore near
Path ~/m/
Inbox ~/m/INBOX

Channel Home
Far :far:
Near :near:
Patterns *

Channel sent
Far :far:S
Near :near:s

Group All Home sent
";

    #[test]
    fn accounts_and_mailboxes_are_in_columns() {
        let env = Env::new("/home/u", "/");
        let file = Path::new("/home/u/.mbsyncrc");
        let config = mbsyncrc::parse(FILE.as_bytes(), file, &env, IsyncVersion::V1_4).unwrap();
        let channels = &config.accounts[0].channels;
        let mailboxes = vec![vec![
            channels[0].mailbox("INBOX"),
            channels[0].mailbox("Ab\x1bc"),
            channels[1].mailbox(""),
        ]];
        let listing = AccountList::new(&config, &mailboxes, &|_, mailbox| {
            if mailbox.near == "INBOX" { "NOTIFY".into() } else { String::new() }
        });
        assert_eq!(
            listing.text(&env),
            "far (imap.example.org:993)\n\
             \x20 Home:INBOX  ~/m/INBOX  NOTIFY\n\
             \x20 Home:Ab?c   ~/m/Ab?c\n\
             \x20 sent        ~/m/s\n\
             \n\
             groups: All\n"
        );
        let json: serde_json::Value = serde_json::from_str(&listing.json()).unwrap();
        assert_eq!(json["accounts"][0]["mailboxes"][2]["maildir"], "/home/u/m/s");
        assert_eq!(json["accounts"][0]["server"], "imap.example.org:993");
        let text = FILE.replace("imap.example.org", "2001:db8::1");
        let config = mbsyncrc::parse(text.as_bytes(), file, &env, IsyncVersion::V1_4).unwrap();
        let none = AccountList::new(&config, &[], &|_, _| String::new());
        assert_eq!(none.accounts[0].server.as_deref(), Some("[2001:db8::1]:993"));
        assert!(none.text(&env).contains("no mailbox on this disk yet"));
    }
}
