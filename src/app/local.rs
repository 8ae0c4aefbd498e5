//! The modes that speak to no server: requests, reports, and what a process does
//! that is left behind. All that the program `mutt-sync` is linked with.
//!
//! Does not depend on: IMAP, TLS. Loading OpenSSL takes longer than all that `-b`
//! does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, SystemTime};

use super::{App, Selection, environment, err, no_signals, out, out_text, read_settings};
use crate::cli::Cli;
use crate::error::{Error, ExitStatus, system_text};
use crate::init::MailAccount;
use crate::mbsync_version;
use crate::model::Target;
use crate::os::child::Prompt;
use crate::os::fork::{Forked, fork_detached};
use crate::os::signals::Shutdown;
use crate::os::terminal;
use crate::state::backoff::Backoff;
use crate::state::last_run::LastRun;
use crate::state::{StateDir, state_failure};
use crate::sync::account::{self, AccountBackend, RunOptions, RunReport};
use crate::sync::context::AccountContext;
use crate::sync::detached;
use crate::sync::held::{self, HeldAnswer};
use crate::sync::hooks;
use crate::sync::judge::{Blind, Judge};
use crate::sync::refused::{self, RetryRefused};
use crate::sync::scheduler::{self, By, Gate, Marks, RequestOutcome, Urgency};
use crate::sync::summary::{NOTHING_TO_DO, queued_line, summary_line};
use crate::text::short;

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

/// Makes what decides for an account for which mailboxes a run is needed.
pub(super) type JudgeOf<'j> =
    &'j (dyn for<'a> Fn(AccountContext<'a>, &Shutdown, RunOptions) -> Box<dyn Judge + 'a> + Sync);

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

    /// Serves the requests, or sees them served. `judge`: what decides for an account.
    pub(super) fn in_foreground(
        &self,
        selection: &Selection,
        judge: JudgeOf<'_>,
    ) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let at_terminal = io::stdin().is_terminal();
        let person = at_terminal && io::stderr().is_terminal() && self.cli.quiet == 0;
        let alone = selection.len() == 1;
        let options = RunOptions {
            prompt: if at_terminal { Prompt::Terminal } else { Prompt::Environment },
            progress: self.cli.verbose && alone && io::stdout().is_terminal(),
            live: alone && !self.cli.verbose && self.cli.quiet == 0 && terminal::has_live_line(),
            verbose: self.cli.verbose,
            person,
        };
        let answer = self.held_answer();
        let (answered, unanswered);
        let selection = if let Some(answer) = answer {
            (answered, unanswered) = self.answer_held(selection, answer)?;
            &answered
        } else {
            unanswered = ExitStatus::Done;
            selection
        };
        let urgent = self.cli.force || self.cli.retry || answer.is_some();
        let request = scheduler::RequestOptions {
            urgency: match (urgent, at_terminal) {
                (true, _) => Urgency::Urgent,
                (false, true) => Urgency::Impatient,
                (false, false) => Urgency::Usual,
            },
            // Such a request is held up for seconds at most.
            block: self.cli.block || urgent || person,
            full: self.cli.full,
            person,
        };
        let retry = match (self.cli.retry, person || self.cli.force) {
            (true, _) => RetryRefused::PassedOver,
            (false, true) => RetryRefused::All,
            (false, false) => RetryRefused::Due,
        };
        let by_person = person || self.cli.retry || answer.is_some();
        let one = |account: usize, wants: &BTreeSet<Target>| {
            let Some(context) = self.context(account) else { return ExitStatus::Done };
            let judge = judge(context, &shutdown, options);
            let backend = AccountBackend::open(context, shutdown.clone(), options, judge);
            let mut backend = match backend {
                Ok(backend) => backend,
                Err(failure) => return self.warn(&failure),
            };
            let runs = LastRun::read(backend.dir()).runs;
            if self.cli.force {
                Self::note_asked(backend.dir());
            }
            backend.retry_refused(retry);
            let outcome = scheduler::foreground(&mut backend, wants, request);
            let exit = self.report(context, &backend, &outcome, runs, &shutdown);
            exit.max(Self::say_refused(context, wants, by_person, exit))
        };
        if let [(account, wants)] = &selection[..] {
            return Ok(one(*account, wants).max(unanswered));
        }
        Ok(std::thread::scope(|scope| {
            let runs: Vec<_> = selection
                .iter()
                .map(|(account, wants)| scope.spawn(|| one(*account, wants)))
                .collect();
            let ends = runs.into_iter().map(|run| run.join().unwrap_or(ExitStatus::Later));
            ends.fold(unanswered, ExitStatus::max)
        }))
    }

    /// The answer of the command line to what is held.
    fn held_answer(&self) -> Option<HeldAnswer> {
        match (self.cli.allow_deletions, self.cli.resync) {
            (true, _) => Some(HeldAnswer::AllowDeletions),
            (_, true) => Some(HeldAnswer::Resync),
            _ => None,
        }
    }

    /// Says what became of a request, and gives the status that it leads to. `runs`: how
    /// many there had been before it.
    fn report(
        &self,
        context: AccountContext<'_>,
        backend: &AccountBackend<'_>,
        outcome: &RequestOutcome<RunReport>,
        runs: u64,
        shutdown: &Shutdown,
    ) -> ExitStatus {
        let name = &context.account.name;
        match outcome {
            RequestOutcome::Ran(report) => self.report_run(name, report, backend.is_attended()),
            RequestOutcome::Served => {
                self.print(&format!(
                    "{name}: {}",
                    served_line(&LastRun::read(backend.dir()), runs)
                ));
                ExitStatus::Done
            }
            RequestOutcome::Failed => {
                let last = LastRun::read(backend.dir());
                let exit = ExitStatus::from_code(last.code).max(ExitStatus::Mailbox);
                self.warn(&Error::new(exit, format!("{name}: {}", last.text)))
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
                let text = Backoff::read(backend.dir()).map_or(String::new(), |retry| retry.text);
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

    /// Says what a run of ours, or a judgement, came to. `attended`: another process
    /// retries what has failed.
    fn report_run(&self, name: &str, report: &RunReport, attended: bool) -> ExitStatus {
        let line = summary_line(&report.changes, report.took);
        match report.ended.exit {
            // What is said instead follows.
            ExitStatus::Done if report.changes.is_empty() && !report.news.is_empty() => {}
            ExitStatus::Done if !report.ran && report.holds => {
                self.print(&format!("{name}: {NOTHING_TO_DO} except for held mailboxes"));
            }
            ExitStatus::Done => self.print(&format!("{name}: {line}")),
            ExitStatus::Signal(_) => {}
            exit => {
                if !report.changes.is_empty() {
                    self.print(&format!("{name}: {line}"));
                }
                let retry = report.retry.filter(|_| exit != ExitStatus::Config);
                let next = retry.map(|wait| {
                    let when = if attended {
                        format!("will retry in {}", short(wait))
                    } else {
                        "the next mutt-sync retries".to_owned()
                    };
                    format!("{when} (now: mutt-sync -f {name})")
                });
                let error = Error::new(exit, format!("{name}: {}", report.ended.text));
                self.warn(&error.with_hint_of(next));
            }
        }
        report.ended.exit
    }

    /// Says what mbsync could not carry and what is held: what is new, and to a person, or about a
    /// mailbox that was named, also what is known.
    fn say_refused(
        context: AccountContext<'_>,
        wants: &BTreeSet<Target>,
        by_person: bool,
        exit: ExitStatus,
    ) -> ExitStatus {
        if matches!(exit, ExitStatus::Signal(_)) {
            return exit;
        }
        let failed = exit == ExitStatus::Mailbox;
        let now = SystemTime::now();
        let refused = refused::to_say(context, wants, by_person, failed, now);
        let held = held::to_say(context, wants, by_person, now);
        for line in refused.lines.iter().chain(&held.lines) {
            err(&format!("mutt-sync: {line}"));
        }
        if refused.fails || held.fails { ExitStatus::Mailbox } else { ExitStatus::Done }
    }

    /// Lets a run go ahead with what is held. What it is for is all that is synced; says
    /// what is held for something else, and so has another answer.
    fn answer_held(
        &self,
        selection: &Selection,
        answer: HeldAnswer,
    ) -> Result<(Selection, ExitStatus), Error> {
        let (mut answered, mut exit) = (Selection::new(), ExitStatus::Done);
        let now = SystemTime::now();
        for (account, wants) in selection {
            let Some(context) = self.context(*account) else { continue };
            let targets = held::answer(context, wants, answer, now)
                .map_err(|error| state_failure(&error, "cannot write what was answered"))?;
            if targets.is_empty() {
                self.print(&format!(
                    "{}: no mailbox is held for a reason that this option resolves",
                    context.account.name
                ));
                for line in held::to_say(context, wants, true, now).lines {
                    err(&format!("mutt-sync: {line}"));
                    exit = ExitStatus::Mailbox;
                }
            } else {
                answered.push((*account, targets));
            }
        }
        Ok((answered, exit))
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

/// What another process has made of a request: a judgement, or a run.
fn served_line(last: &LastRun, runs_before: u64) -> String {
    if last.runs == runs_before {
        return NOTHING_TO_DO.to_owned();
    }
    let line = if last.changes.is_empty() {
        NOTHING_TO_DO.to_owned()
    } else {
        summary_line(&last.changes, Duration::from_millis(last.took))
    };
    format!("{line} (another mutt-sync ran it)")
}
