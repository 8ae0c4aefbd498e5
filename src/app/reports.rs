//! The modes that only report: `--list`, `--status`, `--status-line` and `--muttrc`,
//! which ask no server, and `-n`, which asks what a run would ask.
//!
//! Does not depend on: TLS, how a run is made, the waiter.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{App, JudgeOf, Selection, no_signals, out, out_text};
use crate::error::{Error, ExitStatus};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc;
use crate::model::{Account, Mailbox, Target};
use crate::mutt;
use crate::os::child::Prompt;
use crate::os::file;
use crate::os::signals::Shutdown;
use crate::report::list::AccountList;
use crate::report::status::{self, BackoffStatus, StatusReport};
use crate::state::last_run::LastRun;
use crate::state::{LARGEST, StateDir, requests};
use crate::sync::account::RunOptions;
use crate::sync::held;
use crate::sync::judge::{Judgement, Question};
use crate::sync::summary::NOTHING_TO_DO;
use crate::text::{shell_operand, shell_word, short};
use crate::verdict::Rules;

impl App<'_> {
    /// Restores what an earlier report has read of directories.
    fn recall_directories(&self) -> PathBuf {
        let memory = self.base.join("directories.json");
        self.config.directories.recall(&file::read(&memory, LARGEST).unwrap_or_default());
        memory
    }

    /// Keeps it for later ones, if all accounts were listed.
    fn remember_directories(&self, memory: &Path) {
        if let Some(text) = self.config.directories.remembered() {
            // Lost, it is read again.
            let _ = file::own_directory(&self.base).and_then(|()| file::write(memory, &text));
        }
    }

    /// What the names on the command line select, else everything.
    fn named(&self) -> Result<Selection, Error> {
        match &self.cli.names[..] {
            [] => Ok(self.config.select_all()),
            names => self.config.select(&super::as_words(names)),
        }
    }

    pub(super) fn list(&self) -> Result<ExitStatus, Error> {
        let selection: BTreeMap<usize, BTreeSet<Target>> = self.named()?.into_iter().collect();
        let memory = self.recall_directories();
        let mailboxes: Vec<_> = (self.config.accounts.iter().enumerate())
            .map(|(at, account)| {
                let Some(targets) = selection.get(&at) else { return vec![] };
                let mut mailboxes = self.config.local_mailboxes(account);
                mailboxes.retain(|mailbox| Target::any_covers(targets, mailbox));
                mailboxes
            })
            .collect();
        let mut listing = AccountList::new(&self.config, &mailboxes, &|account, mailbox| {
            self.how_watched(account, mailbox)
        });
        if self.cli.names.is_empty() {
            self.remember_directories(&memory);
        } else {
            let mut at = 0..;
            listing.accounts.retain(|_| at.next().is_some_and(|at| selection.contains_key(&at)));
            listing.groups.clear();
        }
        Ok(out_text(&if self.cli.json { listing.json() } else { listing.text(&self.env) }))
    }

    /// The words that a completion offers, one on a line. Those with control characters
    /// are not: no shell's completion could spell them.
    pub(super) fn complete(&self, kind: &str) -> ExitStatus {
        let accounts = self.config.accounts.iter();
        let mut words: BTreeSet<String> = match kind {
            "mailboxes" => self.mailbox_words(),
            "accounts" => accounts.map(|account| account.name.clone()).collect(),
            _ => {
                let channels = accounts.clone().flat_map(|account| &account.channels);
                let groups = self.config.groups.iter().map(|group| &group.name);
                let names = accounts.map(|account| &account.name);
                names.chain(channels.map(|channel| &channel.name)).chain(groups).cloned().collect()
            }
        };
        words.retain(|word| !word.contains(char::is_control));
        for word in words {
            out_text(&word);
        }
        ExitStatus::Done
    }

    /// `NAME:BOX` for each mailbox of the name on the command line; none if there is no
    /// such name.
    fn mailbox_words(&self) -> BTreeSet<String> {
        let [name] = &self.cli.names[..] else { return BTreeSet::new() };
        let selection = self.config.select(&[name]).unwrap_or_default();
        let mut words = BTreeSet::new();
        for (account, targets) in selection {
            let Some(account) = self.config.accounts.get(account) else { continue };
            let mailboxes = self.config.local_mailboxes(account).into_iter();
            let selected = mailboxes
                .filter(|mailbox| mailbox.addressable && Target::any_covers(&targets, mailbox));
            words.extend(selected.map(|mailbox| format!("{name}:{}", mailbox.name)));
        }
        words
    }

    /// How a mailbox would be watched, as far as the configuration tells.
    fn how_watched(&self, account: &Account, mailbox: &Mailbox) -> String {
        let patterns = &self.settings.of(&account.name).boxes;
        if !patterns.is_empty() && !mbsyncrc::pattern::admits(patterns, &mailbox.name) {
            return "by the timer only".into();
        }
        let channel = account.channel(&mailbox.channel);
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
        let memory = self.recall_directories();
        let text = match account {
            "" => mutt::print::all_accounts(&self.config, &self.env),
            account => mutt::print::one_account(&self.config, &self.env, account)?,
        };
        if account.is_empty() {
            self.remember_directories(&memory);
        }
        Ok(out_text(&text))
    }

    pub(super) fn status(&self) -> Result<ExitStatus, Error> {
        let memory = self.recall_directories();
        let selection = self.named()?;
        let statuses: Vec<_> = self
            .contexts(&selection)
            .map(|(context, _)| status::of(context, &self.config.local_mailboxes(context.account)))
            .collect();
        if self.cli.names.is_empty() {
            self.remember_directories(&memory);
        }
        if self.cli.json {
            let text =
                serde_json::to_string_pretty(&StatusReport::new(&statuses)).unwrap_or_default();
            return Ok(out_text(&text));
        }
        let now = SystemTime::now();
        let texts: Vec<String> = statuses.iter().map(|each| status::text(each, now)).collect();
        Ok(out_text(&texts.join("\n")))
    }

    /// Of the account that the environment names, else of all together.
    pub(super) fn status_line(&self, line: &str) -> ExitStatus {
        let named = self.selection().ok().filter(|_| !self.cli.all);
        let selection = named.unwrap_or_else(|| self.config.select_all());
        let statuses: Vec<_> = self
            .contexts(&selection)
            .map(|(context, _)| status::of_known_mailboxes(context))
            .collect();
        out_text(&mutt::statusline::with_mark(line, status::line_state(&statuses)))
    }

    /// What would be run, and why: what is asked for here and stands from before is
    /// judged as for a run.
    pub(super) fn dry_run(
        &self,
        selection: &Selection,
        judge: JudgeOf<'_>,
    ) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let mut exit = ExitStatus::Done;
        for (context, asked) in self.contexts(selection) {
            let dir = StateDir::existing(context.base, &context.account.name);
            let pending = requests::all(&dir);
            let targets: BTreeSet<Target> = asked.union(&pending).cloned().collect();
            let name = &context.account.name;
            let last = LastRun::read(&dir);
            let due = targets.contains(&Target::Account)
                && last.full_is_due(
                    context.settings.full_every,
                    context.settings.every,
                    SystemTime::now(),
                );
            let (full, refused) = (self.cli.full || due, BTreeSet::new());
            let question = Question { targets: &targets, full, refused: &refused, dir: &dir };
            let terminal = io::stdin().is_terminal();
            let options = RunOptions {
                prompt: if terminal { Prompt::Terminal } else { Prompt::Environment },
                ..RunOptions::in_background(context.settings)
            };
            let mut judge = judge(context, &shutdown, options);
            let status = status::of(context, &[]);
            // No try more than a run's: it may count at the server. Nor one less: a person
            // at a terminal does not wait for it.
            let holds_up = |_: &&BackoffStatus| !self.cli.force && !terminal;
            let backoff = status.backoff.as_ref().filter(holds_up);
            let judgement = backoff.is_none().then(|| judge.judge(&question));
            if let Some(signal) = shutdown.signal() {
                return Ok(ExitStatus::Signal(signal));
            }
            match judgement {
                None => {
                    let wait = in_seconds(backoff.map_or(0, |backoff| backoff.wait));
                    let now = format!("now: mutt-sync -n -f {}", shell_operand(name));
                    out(&format!("{name}: not asked: backoff for {wait} ({now})"));
                    exit = exit.max(ExitStatus::Later);
                }
                Some(Judgement::InSync) => {
                    out(&format!("{name}: {NOTHING_TO_DO}"));
                }
                Some(Judgement::Run(needed)) => {
                    let held = held::unanswered(context, &dir);
                    let needed = held::without_held(context, &needed, &held);
                    let words = self.config.mbsync_words(context.account, &needed);
                    let program = shell_word(&context.settings.mbsync.display().to_string());
                    let file = self.env.for_shell(&self.config.file);
                    let verbosity =
                        if self.config.version == IsyncVersion::V1_5 { "-V" } else { "-q" };
                    let words: Vec<String> =
                        words.args().iter().map(|word| shell_word(word)).collect();
                    let words = words.join(" ");
                    out(&if needed.is_empty() {
                        format!("{name}: {NOTHING_TO_DO} except for held mailboxes")
                    } else {
                        format!("{name}: {program} {verbosity} -c {file} {words}")
                    });
                }
                Some(Judgement::Failed(error)) => {
                    let error = Error { message: format!("{name}: {}", error.message), ..error };
                    exit = exit.max(self.warn(&error));
                }
            }
            out(&format!("  asked for: {}", target_list(asked)));
            let earlier: BTreeSet<Target> = pending.difference(asked).cloned().collect();
            if !earlier.is_empty() {
                out(&format!("  asked for before: {}", target_list(&earlier)));
            }
            for reason in judge.reasons() {
                out(&format!("  {reason}"));
            }
            if let Some(backoff) = backoff {
                out(&format!("  last failure: {}", backoff.text));
            } else if status.throttled > 0 && !self.cli.force {
                out(&format!("  rate limit: not for {}", in_seconds(status.throttled)));
            }
        }
        Ok(exit)
    }
}

fn target_list(targets: &BTreeSet<Target>) -> String {
    targets.iter().map(Target::to_string).collect::<Vec<_>>().join(", ")
}

fn in_seconds(seconds: u64) -> String {
    format!("another {}", short(Duration::from_secs(seconds)))
}
