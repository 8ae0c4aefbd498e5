//! The modes that speak to no server: requests, reports, and what a process does
//! that is left behind. All that the program `mutt-sync` is linked with.
//!
//! Does not depend on: IMAP, TLS. Loading OpenSSL takes longer than all that `-b`
//! does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::time::SystemTime;

use super::{App, JudgeOf, Selection, environment, no_signals, out, out_text, read_settings};
use crate::cli::{Cli, KeyStep};
use crate::error::{Error, ExitStatus, system_text};
use crate::init::MailAccount;
use crate::mbsync_version;
use crate::model::Target;
use crate::os::fork::{Forked, fork_detached};
use crate::os::signals::Shutdown;
use crate::state::StateDir;
use crate::state::backoff::Backoff;
use crate::sync::account::{self, AccountBackend, RunOptions};
use crate::sync::detached;
use crate::sync::hooks;
use crate::sync::judge::Blind;
use crate::sync::refused;
use crate::sync::scheduler::{self, By, Gate, Marks, RequestOutcome, Urgency};
use crate::sync::summary::queued_line;

/// The program `mutt-sync`. What needs a server is left to the one beside it.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitStatus {
    super::run(arguments, |cli, arguments| match Mode::of(cli) {
        Mode::Network => Err(become_network_program(arguments)),
        Mode::Local => serve(cli),
    })
}

/// Which program runs a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Either: it speaks to no server.
    Local,
    /// Only the one that is linked with OpenSSL.
    Network,
}

impl Mode {
    pub(super) fn of(cli: &Cli) -> Mode {
        let local = cli.list
            || cli.complete.is_some()
            || cli.init.is_some()
            || cli.muttrc.is_some()
            || cli.status
            || cli.status_line.is_some()
            || cli.acknowledge
            || cli.result
            || cli.key_step == Some(KeyStep::Begin)
            || cli.background && !cli.dry_run
            || cli.child.is_some();
        if local { Mode::Local } else { Mode::Network }
    }
}

/// Runs a mode that speaks to no server.
pub(super) fn serve(cli: &Cli) -> Result<ExitStatus, Error> {
    if let Some(address) = &cli.init {
        return init(cli, address);
    }
    App::open(cli)?.serve_locally()
}

/// `--init`, for somebody who has no configuration yet.
fn init(cli: &Cli, address: &str) -> Result<ExitStatus, Error> {
    let account = MailAccount::of(address)?;
    if cli.msmtp {
        return Ok(out_text(&account.msmtprc()));
    }
    let (dirs, env, base) = environment()?;
    let settings = read_settings(cli, &dirs, &env)?;
    let version = mbsync_version::of_mbsync(&settings.general.mbsync, &base);
    Ok(out_text(&account.mbsyncrc(version)))
}

/// Goes on as `mutt-sync-net`, which lies beside this program. Comes back only
/// if that cannot be.
fn become_network_program(arguments: &[OsString]) -> Error {
    let program = detached::network_program();
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
            return self.run_child(work, &|_, _, _| Box::new(Blind));
        }
        if cli.list {
            return self.list();
        }
        if let Some(kind) = &cli.complete {
            return Ok(self.complete(kind));
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
        if cli.acknowledge {
            return self.acknowledge(&self.selection()?);
        }
        if cli.result {
            return self.result(&self.selection()?);
        }
        if cli.key_step == Some(KeyStep::Begin) {
            return self.begin_key(&self.selection()?);
        }
        self.in_background(&self.selection()?)
    }

    fn in_background(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        // Ended by a signal as any short program is; a child sets its own ways.
        let shutdown = Shutdown::never().map_err(|error| no_signals(&error))?;
        let mut lines = Vec::new();
        let mut exit = ExitStatus::Done;
        let mut failed = false;
        for (context, wants) in self.contexts(selection) {
            let options = RunOptions::in_background(context.settings);
            let judge = Box::new(Blind);
            let backend = AccountBackend::open(context, shutdown.clone(), options, judge);
            let mut backend = match backend {
                Ok(backend) => backend,
                // The others are asked for all the same.
                Err(error) => {
                    (failed, exit) = (true, exit.max(error.status));
                    lines.push(format!("{}: {error}", context.account.name));
                    continue;
                }
            };
            if self.cli.force {
                Self::note_asked(backend.dir());
            }
            let marks = Marks { urgent: self.cli.force, full: self.cli.full, ..Marks::default() };
            // As it is now: a moment later the child may have begun.
            let urgency = if self.cli.force { Urgency::Urgent } else { Urgency::Usual };
            let gate = scheduler::Backend::gate(&mut backend, urgency);
            let outcome = scheduler::background(&mut backend, wants, marks);
            let text = match outcome {
                RequestOutcome::Stranded if backend.is_lost() => {
                    let why = backend.trouble().filter(|it| it.status == ExitStatus::Config);
                    exit = exit.max(why.map_or(ExitStatus::Later, |why| why.status));
                    let lost =
                        || "the request could be neither saved nor served; try again".to_owned();
                    why.map_or_else(lost, Error::to_string)
                }
                RequestOutcome::Stranded => {
                    exit = exit.max(ExitStatus::Later);
                    "no process could be started to serve it; the request stays queued".to_owned()
                }
                outcome => {
                    let by_waiter = matches!(outcome, RequestOutcome::Queued(_, By::Waiter));
                    Self::queued(&backend, gate, by_waiter)
                }
            };
            lines.push(format!("{}: {text}", context.account.name));
        }
        if self.cli.quiet == 0 || failed {
            out(&lines.join(", "));
        }
        Ok(exit)
    }

    /// What a request waits for that is not served yet.
    pub(super) fn queued(backend: &AccountBackend<'_>, gate: Gate, by_waiter: bool) -> String {
        let now = SystemTime::now();
        // A waiter has a connection, and needs no login to look.
        if by_waiter && matches!(gate, Gate::Throttled(_)) {
            return queued_line(Gate::Open, None, now);
        }
        queued_line(gate, Backoff::read(backend.dir()).as_ref(), now)
    }

    fn acknowledge(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        for (context, wants) in self.contexts(selection) {
            let mut scope = self.config.local_mailboxes(context.account);
            scope.retain(|mailbox| Target::any_covers(wants, mailbox));
            let names = refused::acknowledge(context, wants, &scope)?;
            let name = &context.account.name;
            if names.is_empty() {
                self.print(&format!("{name}: nothing to acknowledge"));
            }
            for mailbox in names {
                self.print(&format!("{name}: acknowledged: {mailbox}"));
            }
        }
        Ok(ExitStatus::Done)
    }

    /// The work of a process that another mutt-sync has left behind.
    pub(super) fn run_child(&self, work: &str, judge: JudgeOf<'_>) -> Result<ExitStatus, Error> {
        let name = self.cli.names.first().map_or("", String::as_str);
        let Some(at) = self.config.accounts.iter().position(|account| account.name == name) else {
            return Err(Error::usage(format!("no account `{name}`")));
        };
        let Some(context) = self.context(at) else { return Ok(ExitStatus::Done) };
        let in_a_child = work.strip_prefix(detached::IN_A_CHILD);
        if in_a_child.is_some()
            && fork_detached().map_err(|error| no_signals(&error))? == Forked::Parent
        {
            return Ok(ExitStatus::Done);
        }
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        match in_a_child.unwrap_or(work) {
            "queue" => {
                let options = RunOptions::in_background(context.settings);
                let judge = judge(context, &shutdown, options);
                let mut backend = AccountBackend::open(context, shutdown, options, judge)?;
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
            work => Err(Error::usage(format!("no such work: {work}"))),
        }
    }
}
