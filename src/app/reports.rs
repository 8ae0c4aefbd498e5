//! The modes that only tell: `--list`, `--status`, `--status-line`, `--muttrc`
//! and `-n`. They run nothing and ask no server.
//!
//! Knows what to read for each, and where memory of it is kept; the words are
//! made elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Selection, Session, out};
use crate::account::{Account, Mailbox, Want};
use crate::list::Listing;
use crate::mbsyncrc::{self, Dialect};
use crate::mutt;
use crate::outcome::{Exit, Failure};
use crate::state::{StateDir, want};
use crate::status;
use crate::sync::disk::{self, Scene};
use crate::verdict::Rules;
use crate::words::{short, shown};

impl Session<'_> {
    pub(super) fn list(&self) -> Exit {
        let mailboxes: Vec<_> = self
            .config
            .accounts
            .iter()
            .map(|account| self.config.local_mailboxes(account))
            .collect();
        let listing = Listing::new(&self.config, &mailboxes, &|account, mailbox| {
            self.how_watched(account, mailbox)
        });
        out(if self.cli.json { listing.json() } else { listing.text(&self.env.home) }.trim_end())
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

    pub(super) fn muttrc(&self, account: &str) -> Result<Exit, Failure> {
        let text = match account {
            "" => mutt::print::all_accounts(&self.config, &self.env),
            account => mutt::print::one_account(&self.config, &self.env, account)?,
        };
        Ok(out(text.trim_end()))
    }

    /// The accounts that a report is about: those named, else all.
    fn reported(&self) -> Result<Vec<Scene<'_>>, Failure> {
        let selection = match &self.cli.names[..] {
            [] => self.config.select_all(),
            names => self.config.select(&names.iter().map(String::as_str).collect::<Vec<_>>())?,
        };
        Ok(selection.iter().filter_map(|(account, _)| self.scene(*account)).collect())
    }

    pub(super) fn status(&self) -> Result<Exit, Failure> {
        let memory = self.base.join("directories.json");
        if let Ok(text) = std::fs::read(&memory) {
            self.config.directories.recall(&text);
        }
        let statuses: Vec<_> = self
            .reported()?
            .into_iter()
            .map(|scene| status::of(scene, &self.config.local_mailboxes(scene.account)))
            .collect();
        if let (Some(text), []) = (self.config.directories.remembered(), &self.cli.names[..]) {
            // Lost, it is read again.
            let _ = std::fs::create_dir_all(&self.base).and_then(|()| std::fs::write(memory, text));
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
    pub(super) fn status_line(&self, line: &str) -> Exit {
        let named = self.selection().ok().filter(|_| !self.cli.all);
        let selection = named.unwrap_or_else(|| self.config.select_all());
        let statuses: Vec<_> = selection
            .iter()
            .filter_map(|(account, _)| self.scene(*account))
            .map(|scene| status::of_mailboxes_seen(scene))
            .collect();
        out(&mutt::statusline::with_mark(line, status::line_state(&statuses)))
    }

    /// What would be run, and why: what is asked for here, what stands from
    /// before, what the disk shows to be pushed. The server is not asked.
    pub(super) fn dry_run(&self, selection: &Selection) -> Exit {
        for (account, asked) in selection {
            let Some(scene) = self.scene(*account) else { continue };
            let dir = StateDir::existing(scene.base, &scene.account.name);
            let standing = want::all(&dir);
            let wants: BTreeSet<Want> = asked.union(&standing).cloned().collect();
            let mut touched = self.config.local_mailboxes(scene.account);
            touched.retain(|mailbox| wants.iter().any(|want| disk::covers(want, mailbox)));
            let status = status::of(scene, &touched);
            let words = self.config.mbsync_words(scene.account, &wants).args().join(" ");
            let program = scene.settings.mbsync.display();
            let file = self.env.shown(&self.config.file);
            let name = &scene.account.name;
            let verbosity = if self.config.dialect == Dialect::V1_5 { "-V" } else { "-q" };
            out(&shown(&format!("{name}: {program} {verbosity} -c {file} {words}")));
            out(&shown(&format!("  asked for: {}", status::in_words(asked).join(", "))));
            let earlier: BTreeSet<Want> = standing.difference(asked).cloned().collect();
            if !earlier.is_empty() {
                let earlier = status::in_words(&earlier).join(", ");
                out(&shown(&format!("  asked for before: {earlier}")));
            }
            for line in status::pending_lines(&status) {
                out(&shown(&line));
            }
            if let Some(backoff) = &status.backoff {
                out(&format!("  not before {}: {}", in_seconds(backoff.wait), backoff.text));
            } else if status.throttled > 0 && !self.cli.force {
                out(&format!("  not before {}: throttled", in_seconds(status.throttled)));
            }
        }
        Exit::Done
    }
}

fn in_seconds(seconds: u64) -> String {
    format!("another {}", short(Duration::from_secs(seconds)))
}
