//! The modes that only report: `--list`, `--status`, `--status-line`, `--muttrc`
//! and `-n`. They run nothing and ask no server.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{App, Selection, out};
use crate::error::{Error, ExitStatus};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc;
use crate::model::{Account, Mailbox, Target};
use crate::mutt;
use crate::os::file;
use crate::report::list::AccountList;
use crate::report::status;
use crate::state::{LARGEST, StateDir, requests};
use crate::sync::context::AccountContext;
use crate::text::{sanitize, short};
use crate::verdict::Rules;

impl App<'_> {
    pub(super) fn list(&self) -> ExitStatus {
        let mailboxes: Vec<_> = self
            .config
            .accounts
            .iter()
            .map(|account| self.config.local_mailboxes(account))
            .collect();
        let listing = AccountList::new(&self.config, &mailboxes, &|account, mailbox| {
            self.how_watched(account, mailbox)
        });
        out(if self.cli.json { listing.json() } else { listing.text(&self.env) }.trim_end())
    }

    /// How a mailbox would be watched, as far as the configuration tells.
    fn how_watched(&self, account: &Account, mailbox: &Mailbox) -> String {
        let patterns = &self.settings.of(&account.name).boxes;
        if !patterns.is_empty() && !mbsyncrc::pattern::admits(patterns, &mailbox.name) {
            return "by the timer only".into();
        }
        let channel = account.channels.iter().find(|channel| channel.name == mailbox.channel);
        let here = if mailbox.maildir.is_some() { "inotify" } else { "" };
        let there = if account.server.is_some() { "server" } else { "" };
        let both =
            [here, there].iter().filter(|side| !side.is_empty()).copied().collect::<Vec<_>>();
        match channel.map(Rules::of) {
            Some(Err(why)) => format!("{} ({why})", both.join(", ")),
            _ => both.join(", "),
        }
    }

    pub(super) fn muttrc(&self, account: &str) -> Result<ExitStatus, Error> {
        let text = match account {
            "" => mutt::print::all_accounts(&self.config, &self.env),
            account => mutt::print::one_account(&self.config, &self.env, account)?,
        };
        Ok(out(text.trim_end()))
    }

    /// The accounts that a report is about: those named, else all.
    fn reported(&self) -> Result<Vec<AccountContext<'_>>, Error> {
        let selection = match &self.cli.names[..] {
            [] => self.config.select_all(),
            names => self.config.select(&names.iter().map(String::as_str).collect::<Vec<_>>())?,
        };
        Ok(selection.iter().filter_map(|(account, _)| self.context(*account)).collect())
    }

    pub(super) fn status(&self) -> Result<ExitStatus, Error> {
        let memory = self.base.join("directories.json");
        if let Ok(text) = file::read(&memory, LARGEST) {
            self.config.directories.recall(&text);
        }
        let statuses: Vec<_> = self
            .reported()?
            .into_iter()
            .map(|context| status::of(context, &self.config.local_mailboxes(context.account)))
            .collect();
        if let (Some(text), []) = (self.config.directories.remembered(), &self.cli.names[..]) {
            // Lost, it is read again.
            let _ = std::fs::create_dir_all(&self.base).and_then(|()| file::write(&memory, &text));
        }
        if self.cli.json {
            let text = serde_json::to_string_pretty(&statuses).unwrap_or_default();
            return Ok(out(&text));
        }
        let now = std::time::SystemTime::now();
        let texts: Vec<String> = statuses.iter().map(|each| status::text(each, now)).collect();
        Ok(out(&texts.join("\n")))
    }

    /// Of the account that the environment names, else of all together.
    pub(super) fn status_line(&self, line: &str) -> ExitStatus {
        let named = self.selection().ok().filter(|_| !self.cli.all);
        let selection = named.unwrap_or_else(|| self.config.select_all());
        let statuses: Vec<_> = selection
            .iter()
            .filter_map(|(account, _)| self.context(*account))
            .map(|context| status::of_known_mailboxes(context))
            .collect();
        out(&mutt::statusline::with_mark(line, status::line_state(&statuses)))
    }

    /// What would be run, and why: what is asked for here, what stands from
    /// before, what the disk shows to be pushed. The server is not asked.
    pub(super) fn dry_run(&self, selection: &Selection) -> ExitStatus {
        for (account, asked) in selection {
            let Some(context) = self.context(*account) else { continue };
            let dir = StateDir::existing(context.base, &context.account.name);
            let standing = requests::all(&dir);
            let wants: BTreeSet<Target> = asked.union(&standing).cloned().collect();
            let mut touched = self.config.local_mailboxes(context.account);
            touched.retain(|mailbox| wants.iter().any(|want| want.covers_mailbox(mailbox)));
            let status = status::of(context, &touched);
            let words = self.config.mbsync_words(context.account, &wants).args().join(" ");
            let program = context.settings.mbsync.display();
            let file = self.env.tilde(&self.config.file);
            let name = &context.account.name;
            let verbosity = if self.config.version == IsyncVersion::V1_5 { "-V" } else { "-q" };
            out(&sanitize(&format!("{name}: {program} {verbosity} -c {file} {words}")));
            out(&sanitize(&format!("  asked for: {}", in_words(asked))));
            let earlier: BTreeSet<Target> = standing.difference(asked).cloned().collect();
            if !earlier.is_empty() {
                out(&sanitize(&format!("  asked for before: {}", in_words(&earlier))));
            }
            for line in status::pending_lines(&status) {
                out(&sanitize(&line));
            }
            if let Some(backoff) = &status.backoff {
                out(&format!("  not for {}: {}", in_seconds(backoff.wait), backoff.text));
            } else if status.throttled > 0 && !self.cli.force {
                out(&format!("  throttled: not for {}", in_seconds(status.throttled)));
            }
        }
        ExitStatus::Done
    }
}

fn in_words(targets: &BTreeSet<Target>) -> String {
    targets.iter().map(Target::to_string).collect::<Vec<_>>().join(", ")
}

fn in_seconds(seconds: u64) -> String {
    format!("another {}", short(Duration::from_secs(seconds)))
}
