//! The modes that speak to no server: requests, reports, and what a process does
//! that is left behind. All that the program `mutt-sync` is linked with.
//!
//! Does not depend on: IMAP, TLS. Loading OpenSSL takes longer than all that `-b`
//! does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use super::{App, Selection, no_signals, out};
use crate::cli::Cli;
use crate::error::{Error, ExitStatus, system_text};
use crate::model::Target;
use crate::os::child::Prompt;
use crate::os::fork::{Forked, fork_detached};
use crate::os::signals::Shutdown;
use crate::state::StateDir;
use crate::state::backoff::{self, Backoff};
use crate::state::last_run::{self, LastRun};
use crate::sync::account::{self, AccountBackend, RunOptions, RunReport};
use crate::sync::context::AccountContext;
use crate::sync::hooks;
use crate::sync::scheduler::{self, By, RequestOutcome};
use crate::sync::summary::{NOTHING_TO_DO, summary_line};
use crate::text::short;

/// The program `mutt-sync`. What needs a server is left to the one beside it.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitStatus {
    super::run(arguments, |cli, arguments| {
        if cli.check || cli.wait { Err(become_network_program(arguments)) } else { serve(cli) }
    })
}

/// Runs any mode but those of `net`.
pub(super) fn serve(cli: &Cli) -> Result<ExitStatus, Error> {
    App::open(cli)?.serve_locally()
}

/// Goes on as `mutt-sync-net`, which lies beside this program. Comes back only
/// if that cannot be.
fn become_network_program(arguments: &[OsString]) -> Error {
    const NAME: &str = "mutt-sync-net";
    let beside = std::fs::read_link("/proc/self/exe").ok();
    let program = match beside.map(|this| this.with_file_name(NAME)) {
        Some(program) if program.exists() => program,
        _ => NAME.into(),
    };
    let error = std::process::Command::new(&program)
        .arg0(arguments.first().map_or("mutt-sync".as_ref(), OsString::as_os_str))
        .args(arguments.iter().skip(1))
        .exec();
    let program = program.display();
    Error::config(format!("{program}: {}", system_text(&error)))
        .with_hint("it belongs beside mutt-sync: install both again")
}

impl App<'_> {
    fn serve_locally(&self) -> Result<ExitStatus, Error> {
        let cli = self.cli;
        if let Some(work) = &cli.child {
            return self.run_child(work);
        }
        if cli.list {
            return Ok(self.list());
        }
        if let Some(account) = &cli.muttrc {
            return self.muttrc(account);
        }
        if let Some(line) = &cli.status_line {
            return Ok(self.status_line(line));
        }
        if cli.status {
            return self.status();
        }
        let selection = self.selection()?;
        if cli.background {
            return self.in_background(&selection);
        }
        if cli.dry_run {
            return Ok(self.dry_run(&selection));
        }
        self.in_foreground(&selection)
    }

    fn in_background(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        // Ended by a signal as any short program is; a child sets its own ways.
        let shutdown = Shutdown::never().map_err(|error| no_signals(&error))?;
        let mut lines = Vec::new();
        let mut exit = ExitStatus::Done;
        for (account, wants) in selection {
            let Some(context) = self.context(*account) else { continue };
            let options = RunOptions::in_background(context.settings);
            let mut backend = AccountBackend::open(context, shutdown.clone(), options)?;
            let outcome = scheduler::background(&mut backend, wants, self.cli.force);
            let text = match outcome {
                RequestOutcome::Stranded if backend.is_lost() => {
                    exit = exit.max(ExitStatus::Later);
                    "neither written down nor served; ask again".to_owned()
                }
                RequestOutcome::Stranded => {
                    exit = exit.max(ExitStatus::Later);
                    "no process could be started to serve it; the request stays queued".to_owned()
                }
                _ => match backend.dir().read_json::<Backoff>(backoff::FILE) {
                    Some(retry) if retry.code == ExitStatus::Offline.code() => {
                        let policy = context.settings.backoff_policy();
                        let wait = policy.wait(Some(&retry), std::time::SystemTime::now());
                        format!("queued; offline, next try in {}", short(wait))
                    }
                    Some(retry) => format!("queued; last time: {}", clip(&retry.text, 60)),
                    None => "queued".to_owned(),
                },
            };
            lines.push(format!("{}: {text}", context.account.name));
        }
        if self.cli.quiet == 0 {
            out(&lines.join(", "));
        }
        Ok(exit)
    }

    fn in_foreground(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let terminal = io::stdin().is_terminal();
        let alone = selection.len() == 1;
        let options = RunOptions {
            prompt: if terminal { Prompt::Terminal } else { Prompt::Environment },
            progress: self.cli.verbose && alone && io::stdout().is_terminal(),
            verbose: self.cli.verbose,
        };
        let request = scheduler::RequestOptions {
            urgent: self.cli.force,
            impatient: self.cli.force || terminal,
            block: self.cli.block,
        };
        let one = |account: usize, wants: &BTreeSet<Target>| match self.context(account) {
            None => ExitStatus::Done,
            Some(context) => match AccountBackend::open(context, shutdown.clone(), options) {
                Err(failure) => self.warn(&failure),
                Ok(mut backend) => {
                    let outcome = scheduler::foreground(&mut backend, wants, request);
                    self.report(context, &backend, &outcome, &shutdown)
                }
            },
        };
        if let [(account, wants)] = &selection[..] {
            return Ok(one(*account, wants));
        }
        Ok(std::thread::scope(|scope| {
            let runs: Vec<_> = selection
                .iter()
                .map(|(account, wants)| scope.spawn(|| one(*account, wants)))
                .collect();
            let ends = runs.into_iter().map(|run| run.join().unwrap_or(ExitStatus::Later));
            ends.max().unwrap_or(ExitStatus::Done)
        }))
    }

    /// Says what became of a request, and gives the status that it leads to.
    fn report(
        &self,
        context: AccountContext<'_>,
        backend: &AccountBackend<'_>,
        outcome: &RequestOutcome<RunReport>,
        shutdown: &Shutdown,
    ) -> ExitStatus {
        let name = &context.account.name;
        let last = || backend.dir().read_json::<LastRun>(last_run::FILE).unwrap_or_default();
        let failed = |exit: ExitStatus, text: &str, retry: Option<Duration>| {
            let retry = retry.filter(|_| exit != ExitStatus::Config);
            let next = retry
                .map(|wait| format!("will retry in {} (now: mutt-sync -f {name})", short(wait)));
            self.warn(&Error::new(exit, format!("{name}: {text}")).with_hint_of(next))
        };
        match outcome {
            RequestOutcome::Ran(report) => {
                let line = summary_line(&report.changes, report.took);
                match report.ended.exit {
                    ExitStatus::Done => self.print(&format!("{name}: {line}")),
                    ExitStatus::Signal(_) => {}
                    exit => {
                        if !report.changes.is_empty() {
                            self.print(&format!("{name}: {line}"));
                        }
                        failed(exit, &report.ended.text, report.retry);
                    }
                }
                report.ended.exit
            }
            RequestOutcome::Served => {
                let last = last();
                let line = if last.changes.is_empty() {
                    NOTHING_TO_DO.to_owned()
                } else {
                    summary_line(&last.changes, Duration::from_millis(last.took))
                };
                self.print(&format!("{name}: {line} (another mutt-sync ran it)"));
                ExitStatus::Done
            }
            RequestOutcome::Failed => {
                let last = last();
                failed(ExitStatus::from_code(last.code).max(ExitStatus::Mailbox), &last.text, None)
            }
            RequestOutcome::Queued(wait, by) => {
                let who = match by {
                    By::Waiter => "the waiter syncs",
                    By::Queue | By::Child => "syncs",
                };
                self.print(&format!("{name}: rate limit; {who} in {} (now: -f)", short(*wait)));
                ExitStatus::Done
            }
            RequestOutcome::BackingOff(wait) => {
                let text = backend
                    .dir()
                    .read_json::<Backoff>(backoff::FILE)
                    .map_or(String::new(), |retry| retry.text);
                let later = Error::new(ExitStatus::Later, format!("{name}: {text}"));
                self.warn(&later.with_hint(format!("next try in {} (now: -f)", short(*wait))))
            }
            RequestOutcome::LockHeld => {
                let held = || {
                    let text = "another process has held the lock for too long";
                    Error::new(ExitStatus::Later, format!("{name}: {text}"))
                        .with_hint("the request stays queued")
                };
                self.warn(&backend.trouble().cloned().unwrap_or_else(held))
            }
            RequestOutcome::Stopped => {
                shutdown.signal().map_or(ExitStatus::Later, ExitStatus::Signal)
            }
            RequestOutcome::Stranded => {
                let text = format!("{name}: rate limit, and no process could be started to wait");
                self.warn(
                    &Error::new(ExitStatus::Later, text).with_hint("the request stays queued"),
                )
            }
        }
    }

    /// The work of a process that another mutt-sync has left behind.
    fn run_child(&self, work: &str) -> Result<ExitStatus, Error> {
        let name = self.cli.names.first().map_or("", String::as_str);
        let Some(at) = self.config.accounts.iter().position(|account| account.name == name) else {
            return Err(Error::usage(format!("no account `{name}`")));
        };
        let Some(context) = self.context(at) else { return Ok(ExitStatus::Done) };
        // The parent waits for this process; what is to be done is its child's.
        if fork_detached().map_err(|error| no_signals(&error))? == Forked::Parent {
            return Ok(ExitStatus::Done);
        }
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        match work {
            "queue" => {
                let mut backend = AccountBackend::open(
                    context,
                    shutdown,
                    RunOptions::in_background(context.settings),
                )?;
                if scheduler::Backend::try_queue(&mut backend) {
                    scheduler::run_queue_owner(&mut backend, account::PATIENCE);
                }
                Ok(ExitStatus::Done)
            }
            "hooks" => {
                let dir = StateDir::open(context.base, &context.account.name)?;
                hooks::run_commands(context.settings, &dir, &shutdown);
                Ok(ExitStatus::Done)
            }
            _ => Err(Error::usage(format!("no such work: {work}"))),
        }
    }
}

fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
