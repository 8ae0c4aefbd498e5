//! The sync in the foreground: somebody waits for the end of it, and is told what came.
//!
//! Does not depend on: how it is decided whether a run is needed, which the caller says.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::result::asked;
use super::{App, JudgeOf, Selection, err, no_signals};
use crate::cli::KeyStep;
use crate::error::{Error, ExitStatus};
use crate::model::{Mailbox, Target};
use crate::os::child::Prompt;
use crate::os::signals::Shutdown;
use crate::os::terminal;
use crate::state::backoff::Backoff;
use crate::state::last_run::LastRun;
use crate::state::requests::Marks;
use crate::state::{StateDir, state_failure};
use crate::sync::account::{AccountBackend, RunOptions, RunReport};
use crate::sync::context::AccountContext;
use crate::sync::held::{self, HeldAnswer};
use crate::sync::refused;
use crate::sync::scheduler::{self, By, RequestOutcome, Urgency};
use crate::sync::summary::{NOTHING_TO_DO, summary_line};
use crate::text::{shell_operand, short};

impl App<'_> {
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
            marks: Marks {
                full: self.cli.full,
                passed_over: self.cli.retry,
                person,
                ..Marks::default()
            },
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
            let since = self.note_foreground(backend.dir()).unwrap_or(runs);
            let outcome = scheduler::foreground(&mut backend, wants, request);
            let exit = self.report(context, &backend, &outcome, since, &shutdown);
            let exit = exit.max(Self::say_refused(context, wants, by_person, exit));
            let missing = match &outcome {
                RequestOutcome::Ran(report) => {
                    // Not what another command has asked for.
                    let named = named(context, wants).map(|mailbox| mailbox.near);
                    named.filter(|near| report.missing.contains(near)).collect()
                }
                RequestOutcome::Served if LastRun::read(backend.dir()).runs == runs => {
                    without_maildir(context, wants)
                }
                _ => vec![],
            };
            exit.max(self.say_missing(context, &missing))
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

    /// Notes the request for `--result`. How many runs there had been when the key that
    /// makes it began, if one does.
    fn note_foreground(&self, dir: &StateDir) -> Option<u64> {
        let is_key = self.cli.key_step == Some(KeyStep::Sync);
        let noted = if is_key { asked(dir) } else { None };
        if noted.is_none() && (is_key || self.cli.force) {
            Self::note_asked(dir);
        }
        noted
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
    /// many there had been before it, or before the key that made it.
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
                    format!("{when} (now: mutt-sync -f {})", shell_operand(name))
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

    /// Says which mailboxes of a request are on neither side, by near name.
    fn say_missing(&self, context: AccountContext<'_>, missing: &[String]) -> ExitStatus {
        let account = &context.account.name;
        let mut exit = ExitStatus::Done;
        for name in missing {
            let text = format!("{account}: `{name}` is neither here nor on the server");
            let hint = format!("mutt-sync --list {} names the mailboxes", shell_operand(account));
            exit = self.warn(&Error::new(ExitStatus::Mailbox, text).with_hint(hint));
        }
        exit
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
}

/// The mailboxes that a request names.
fn named(context: AccountContext<'_>, wants: &BTreeSet<Target>) -> impl Iterator<Item = Mailbox> {
    wants.iter().filter_map(move |target| context.account.mailbox(target))
}

/// The mailboxes of a request that needed no run and have no Maildir, by near name: they are on
/// neither side.
fn without_maildir(context: AccountContext<'_>, wants: &BTreeSet<Target>) -> Vec<String> {
    let is_missing = |maildir: &Path| !maildir.exists();
    let missing =
        named(context, wants).filter(|mailbox| mailbox.maildir.as_deref().is_some_and(is_missing));
    missing.map(|mailbox| mailbox.near).collect()
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
