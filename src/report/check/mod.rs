//! `--check`: everything that a sync and a wait rest on, step by step, with the
//! fix for what is wrong.
//!
//! Each step is a value ([`Step`]); `render` sets them out, the other modules
//! find them. Runs the password command once and logs in once. Changes
//! nothing: no request is made, no stamp is moved, nothing is written. Every
//! step has an end, and a signal ends it at once. A step that cannot be tried
//! because an earlier one failed is skipped, never said to be wrong.
//!
//! Does not depend on: how a run is made, how a waiter goes on.

mod bug_report;
mod certificate;
mod connection;
mod local;
mod mutt;
mod offer;
mod password;
mod permissions;
pub mod render;
mod server;
mod setup;
mod state;
mod waiting;

use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::{Error, ExitStatus};
use crate::mbsyncrc::{Config, Env, SectionKind};
use crate::model::Account;
use crate::os::signals::Shutdown;
use crate::os::stdout;
use crate::settings;
use crate::sync::output::redact;

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// As it should be.
    Good,
    /// Worth knowing, nothing to fix.
    Note,
    /// A sync works; something else does not, or will not for long.
    Warning,
    /// A sync fails here.
    Bad,
    /// Not tried, because an earlier step failed.
    NotReached,
}

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// How it stands.
    pub state: StepState,
    /// What was found.
    pub found: String,
    /// What to do about it; only with [`StepState::Warning`] and [`StepState::Bad`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The exit status that a sync would end with because of it.
    #[serde(skip)]
    pub exit: ExitStatus,
}

impl Step {
    fn with(what: &'static str, state: StepState, found: impl Into<String>) -> Self {
        Step { what, state, found: found.into(), fix: None, exit: ExitStatus::Done }
    }

    /// A step that is as it should be.
    pub fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self::with(what, StepState::Good, found)
    }

    /// Something worth knowing.
    pub fn note(what: &'static str, found: impl Into<String>) -> Self {
        Self::with(what, StepState::Note, found)
    }

    /// Something that does not stop a sync.
    pub fn warning(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Step { fix: Some(fix.into()), ..Self::with(what, StepState::Warning, found) }
    }

    /// Something that makes a sync end with this status.
    pub fn bad(
        what: &'static str,
        exit: ExitStatus,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Step { fix: Some(fix.into()), exit, ..Self::with(what, StepState::Bad, found) }
    }

    /// The same, where it does not stop a sync.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Step { state: StepState::Warning, exit: ExitStatus::Done, ..self }
    }

    /// A step that was not tried.
    #[must_use]
    pub fn not_reached(what: &'static str) -> Self {
        Self::with(what, StepState::NotReached, "not reached")
    }

    /// An error as a step, with its hint, or `otherwise` where it has none.
    #[must_use]
    pub fn failed(what: &'static str, error: &Error, otherwise: &str) -> Self {
        let fix = error.hint.as_deref().unwrap_or(otherwise);
        Self::bad(what, error.status, &*error.message, fix)
    }
}

/// What a part of the checklist is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// What every account needs.
    All,
    /// One account.
    Account,
    /// What mutt sources, and the options that go with it.
    Mutt,
    /// A server that no account is known for.
    Server,
}

/// The steps on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is about.
    #[serde(skip)]
    pub kind: PartKind,
    /// The account's or the server's name, or the program's.
    pub title: String,
    /// In the order in which they were taken.
    pub steps: Vec<Step>,
    /// What the server says it can do, after the login.
    #[serde(skip)]
    pub capabilities: Vec<String>,
}

/// The status that a sync would end with: the most severe of all steps.
#[must_use]
pub fn outcome(parts: &[Part]) -> ExitStatus {
    parts
        .iter()
        .flat_map(|part| &part.steps)
        .map(|step| step.exit)
        .max()
        .unwrap_or(ExitStatus::Done)
}

/// What is to be checked, and what was read before.
pub struct Asked<'a> {
    /// The names given; none: all accounts.
    pub names: &'a [String],
    /// `--mbsyncrc`.
    pub mbsyncrc: Option<&'a Path>,
    /// The environment.
    pub env: &'a Env,
    /// Where the accounts' state directories are.
    pub base: &'a Path,
    /// What config.toml says, or what is wrong with it.
    pub settings: Result<settings::File, Error>,
    /// The file that this came from; `None`: there is none.
    pub settings_file: Option<PathBuf>,
    /// For programs.
    pub json: bool,
    /// Leave out what is as it should be.
    pub quiet: bool,
    /// What a bug report needs, without names.
    pub report: bool,
}

/// Takes every step, and says each as it is taken. The exit status is that of
/// the most severe.
///
/// # Errors
/// 2 for a name that is not in the configuration.
pub fn run(asked: &Asked<'_>) -> Result<ExitStatus, Error> {
    let stop = Shutdown::on_signals().map_err(|error| Error::system("cannot begin", &error))?;
    let mut report = Checklist {
        parts: Vec::new(),
        secrets: Vec::new(),
        names: Vec::new(),
        style: (!asked.json && !asked.report).then(|| render::Style::of_output(asked.quiet)),
        stop,
    };
    if let Some(server) = offer::server(asked) {
        report.part(PartKind::Server, &server.0);
        offer::steps(server, &mut report);
        return Ok(report.end(asked, None, &[]));
    }
    report.part(PartKind::All, &format!("mutt-sync {}", crate::VERSION));
    let Some(ground) = setup::steps(asked, &mut report) else {
        report.out_of_reach(&["accounts", "mutt"]);
        return Ok(report.end(asked, None, &[]));
    };
    let accounts = chosen(&ground.config, asked.names)?;
    for account in &accounts {
        report.part(PartKind::Account, &account.name);
        let context = CheckContext { asked, ground: &ground, account };
        // What fails in channels that only `mbsync -a` runs, fails it.
        let all = ground.config.with_shadowed(account);
        let whole = CheckContext { account: &all, ..context };
        let mailboxes = local::steps(&whole, &mut report);
        state::steps(&context, &mut report);
        server::steps(&whole, &mailboxes, &mut report);
        waiting::steps(&context, &mailboxes, &mut report);
    }
    report.part(PartKind::Mutt, "mutt");
    mutt::steps(asked.env, &ground.config.accounts, &accounts, &mut report);
    Ok(report.end(asked, Some(&ground), &accounts))
}

fn chosen<'c>(config: &'c Config, names: &[String]) -> Result<Vec<&'c Account>, Error> {
    if names.is_empty() {
        return Ok(config.accounts.iter().collect());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let selection = config.select(&names)?;
    Ok(selection.iter().filter_map(|(at, _)| config.accounts.get(*at)).collect())
}

/// What holds for all accounts, once it is known.
struct CheckInputs {
    config: Config,
    settings: settings::File,
}

/// One account.
struct CheckContext<'a> {
    asked: &'a Asked<'a>,
    ground: &'a CheckInputs,
    account: &'a Account,
}

impl CheckContext<'_> {
    fn settings(&self) -> &settings::Settings {
        self.ground.settings.of(&self.account.name)
    }

    fn tilde(&self, path: &Path) -> String {
        self.asked.env.tilde(path)
    }

    /// Where the account's lines stand, for messages.
    fn section(&self) -> String {
        let name = &self.account.name;
        let has =
            |kind| self.ground.config.sections.iter().any(|it| it.kind == kind && it.name == *name);
        let (kind, keyword) = if has(SectionKind::Account) {
            (SectionKind::Account, "IMAPAccount")
        } else {
            (SectionKind::ImapStore, "IMAPStore")
        };
        format!("{keyword} {name} ({})", self.place_of(kind, name))
    }

    /// File and line of a section.
    fn place_of(&self, kind: SectionKind, name: &str) -> String {
        let config = &self.ground.config;
        let found = config.sections.iter().find(|each| each.kind == kind && each.name == name);
        format!("{}:{}", self.tilde(&config.file), found.map_or(1, |section| section.first))
    }
}

/// What has been found so far.
struct Checklist {
    parts: Vec<Part>,
    /// Texts that must not be printed, wherever they turn up.
    secrets: Vec<Zeroizing<String>>,
    /// Names that are found on the way, and of what: for a report without names.
    names: Vec<(&'static str, String)>,
    /// `None`: nothing is said before the end.
    style: Option<render::Style>,
    stop: Shutdown,
}

impl Checklist {
    fn part(&mut self, kind: PartKind, title: &str) {
        let title = clean(title, &[]);
        self.parts.push(Part { kind, title, steps: Vec::new(), capabilities: Vec::new() });
    }

    fn secret(&mut self, text: &[u8]) {
        self.secrets.push(Zeroizing::new(String::from_utf8_lossy(text).into_owned()));
    }

    fn say(&mut self, mut step: Step) {
        // What a signal has cut short proves nothing.
        if self.stop.signal().is_some() {
            return;
        }
        let secrets: Vec<&str> = self.secrets.iter().map(|secret| secret.as_str()).collect();
        step.found = clean(&step.found, &secrets);
        step.fix = step.fix.map(|fix| clean(&fix, &secrets));
        let Some(part) = self.parts.last_mut() else { return };
        part.steps.push(step);
        if let (Some(style), Some(step)) = (&self.style, part.steps.last()) {
            if style.shows(step) {
                let first = !part.steps.iter().rev().skip(1).any(|step| style.shows(step));
                let title = first.then_some(part.title.as_str());
                stdout::print(&render::text(title, step, *style));
            }
        }
    }

    /// These steps of the present part that were not taken are out of reach.
    fn out_of_reach(&mut self, steps: &[&'static str]) {
        for what in steps {
            let taken = |part: &Part| part.steps.iter().any(|step| step.what == *what);
            if !self.parts.last().is_some_and(taken) {
                self.say(Step::not_reached(what));
            }
        }
    }

    fn end(
        &self,
        asked: &Asked<'_>,
        ground: Option<&CheckInputs>,
        accounts: &[&Account],
    ) -> ExitStatus {
        if let Some(signal) = self.stop.signal() {
            return ExitStatus::Signal(signal);
        }
        let text = match &self.style {
            Some(style) => render::summary(&self.parts, *style),
            None if asked.report => bug_report::text(asked, ground, accounts, self),
            None => render::json(&self.parts),
        };
        stdout::print(&text);
        outcome(&self.parts)
    }
}

/// Without secrets and without what could play tricks on a terminal. Nothing
/// here means to print a secret; this is for what others say.
fn clean(text: &str, secrets: &[&str]) -> String {
    redact(text, secrets).into_owned()
}

/// Some names, the first few of them.
fn some<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 5;
    let mut text = names.iter().take(MOST).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if names.len() > MOST {
        text.extend([" and ", &(names.len() - MOST).to_string(), " more"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_step_gives_the_status() {
        let part = |exits: &[ExitStatus]| Part {
            kind: PartKind::Account,
            title: "x".into(),
            steps: exits.iter().map(|exit| Step::bad("x", *exit, "", "")).collect(),
            capabilities: vec![],
        };
        assert_eq!(outcome(&[]), ExitStatus::Done);
        let steps =
            [part(&[ExitStatus::Mailbox, ExitStatus::Offline]), part(&[ExitStatus::Denied])];
        assert_eq!(outcome(&steps), ExitStatus::Denied);
        let warning = Step::warning("x", "", "");
        let warning = Part { steps: vec![warning], ..part(&[]) };
        assert_eq!(outcome(&[warning]), ExitStatus::Done);
    }

    #[test]
    fn the_fix_of_an_error_is_its_hint() {
        let error = Error::config("~/.mbsyncrc:3: a; b").with_hint("move it");
        let step = Step::failed("x", &error, "");
        assert_eq!((&*step.found, step.fix.as_deref()), ("~/.mbsyncrc:3: a; b", Some("move it")));
        let step = Step::failed("x", &Error::config("wrong; x"), "correct it");
        assert_eq!((&*step.found, step.fix.as_deref()), ("wrong; x", Some("correct it")));
    }

    #[test]
    fn secrets_and_tricks_are_not_shown() {
        assert_eq!(clean("no\x1b[1m abcd abc", &["abcd"]), "no?[1m ******** abc");
    }
}
