//! From the command line to the exit status: what both programs do before and
//! after the mode that was asked for.
//!
//! `local` and `net` are the two programs: only `net` is linked with OpenSSL. The modes
//! that are more than a call are in `foreground`, `reports` and `result`.
//!
//! Does not depend on: how anything is done.

mod foreground;
pub mod local;
pub mod net;
mod reports;
mod result;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Parser as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cli::Cli;
use crate::error::{Error, ExitStatus};
use crate::lend::tunnel;
use crate::mbsyncrc::{self, Config, Env};
use crate::model::{Account, Target};
use crate::mutt;
use crate::os::file;
use crate::os::fork::reset_signals;
use crate::os::signals::Shutdown;
use crate::os::stdout;
use crate::os::terminal;
use crate::settings;
use crate::sync::account::RunOptions;
use crate::sync::context::AccountContext;
use crate::sync::judge::Judge;
use crate::text::sanitize;

/// Most bytes of config.toml.
const LARGEST_SETTINGS: u64 = 1 << 20;

/// What a selection names: accounts by their place in the configuration.
pub type Selection = Vec<(usize, BTreeSet<Target>)>;

/// Makes what decides for an account for which mailboxes a run is needed.
type JudgeOf<'j> =
    &'j (dyn for<'a> Fn(AccountContext<'a>, &Shutdown, RunOptions) -> Box<dyn Judge + 'a> + Sync);

/// Runs the program with these arguments; `serve` runs the mode.
fn run(
    arguments: impl Iterator<Item = OsString>,
    serve: impl FnOnce(&Cli, &[OsString]) -> Result<ExitStatus, Error>,
) -> ExitStatus {
    reset_signals();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(exit) = tunnel::run_if_asked(&arguments) {
        return exit;
    }
    // Passwords are in this memory for a while: no core dump has it, and no other
    // process of the user's can read it. mbsync and hooks are as they would be.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print().and_then(|()| io::stdout().flush());
            if error.use_stderr() {
                return ExitStatus::Usage;
            }
            stdout::note(printed);
            return all_printed(None);
        }
    };
    let exit = run_mode(&cli, &arguments, serve);
    exit.max(all_printed(Some(&cli)))
}

/// Whether standard output has all that was printed. What was done stays done.
fn all_printed(cli: Option<&Cli>) -> ExitStatus {
    let Some(failure) = stdout::failure() else { return ExitStatus::Done };
    if !cli.is_some_and(is_shown_by_mutt) {
        err(&format!("mutt-sync: {failure}"));
    }
    failure.status
}

/// mutt paints standard error over its screen, but shows a backtick's output.
fn is_shown_by_mutt(cli: &Cli) -> bool {
    cli.background || cli.result || cli.status_line.is_some()
}

fn run_mode(
    cli: &Cli,
    arguments: &[OsString],
    serve: impl FnOnce(&Cli, &[OsString]) -> Result<ExitStatus, Error>,
) -> ExitStatus {
    if let Some(missing) = cli.missing() {
        err(&format!("mutt-sync: {missing}"));
        return ExitStatus::Usage;
    }
    if cli.version {
        return out(&format!("mutt-sync {}", crate::VERSION));
    }
    match serve(cli, arguments) {
        Ok(exit) => exit,
        Err(failure) => {
            // A line that cannot tell the state is still mutt's status line, and mutt
            // shows none at all when the command fails.
            if let Some(line) = &cli.status_line {
                let trouble = Some(mutt::statusline::Trouble::Config);
                let state = mutt::statusline::LineState { trouble, ..Default::default() };
                return out_text(&mutt::statusline::with_mark(line, state));
            }
            if is_shown_by_mutt(cli) {
                out(&format!("mutt-sync: {failure}"));
            } else {
                err(&format!("mutt-sync: {failure}"));
            }
            failure.status
        }
    }
}

/// Where things are: directories, the environment as mbsync's file sees it, our state.
#[allow(deprecated)] // Rust before 1.87 warns of home_dir, for what it does on Windows
fn environment() -> Result<(xdg::BaseDirectories, Env, PathBuf), Error> {
    let dirs = xdg::BaseDirectories::with_prefix("mutt-sync");
    let (Some(home), Some(base)) = (std::env::home_dir(), dirs.get_state_home()) else {
        return Err(Error::config("no home directory is known").with_hint("set HOME"));
    };
    // The paths of a configuration are text.
    if home.to_str().is_none() {
        let text = format!("the name of the home directory is not UTF-8: {}", home.display());
        return Err(Error::config(text).with_hint("set HOME to a link with another name"));
    }
    let mut env = Env::new(home, std::env::current_dir().unwrap_or_else(|_| "/".into()));
    env.config_home.clone_from(&dirs.config_home);
    env.state_home.clone_from(&dirs.state_home);
    Ok((dirs, env, base))
}

/// Everything read from the environment and the two configuration files, once.
pub struct App<'a> {
    cli: &'a Cli,
    env: Env,
    config: Config,
    settings: settings::File,
    base: PathBuf,
    /// Where all this was read from, to be read again when it changes.
    config_files: Vec<PathBuf>,
}

impl<'a> App<'a> {
    fn open(cli: &'a Cli) -> Result<Self, Error> {
        let (dirs, env, base) = environment()?;
        let mut settings = read_settings(cli, &dirs, &env)?;
        for each in settings.accounts.values_mut().chain([&mut settings.general]) {
            each.throttle = cli.throttle.unwrap_or(each.throttle);
            each.every = cli.every.unwrap_or(each.every);
        }
        let named = cli.mbsyncrc.as_deref().or(settings.general.mbsyncrc.as_deref());
        let version = crate::mbsync_version::of_mbsync(&settings.general.mbsync, &base);
        let file = mbsyncrc::file_of(named, &env, version)?;
        let mut config = mbsyncrc::read(&file, &env, version.unwrap_or_default())?;
        let by_environment = account_in_environment().filter(|_| cli.names.is_empty());
        match by_environment {
            Some(name) if config.accounts.iter().any(|account| account.name == name) => {}
            Some(group) => config.order_channels(&[&group]),
            None => config.order_channels(&as_words(&cli.names)),
        }
        let settings_file = cli.config.clone().or_else(|| dirs.get_config_file("config.toml"));
        let config_files = std::iter::once(file).chain(settings_file).collect();
        Ok(App { cli, env, config, settings, base, config_files })
    }

    fn context(&self, account: usize) -> Option<AccountContext<'_>> {
        let account = self.config.accounts.get(account)?;
        Some(AccountContext {
            config: &self.config,
            account,
            settings: self.settings.of(&account.name),
            settings_file: self.cli.config.as_deref(),
            base: &self.base,
        })
    }

    /// The accounts of a selection, and what is selected of each.
    fn contexts<'s>(
        &'s self,
        selection: &'s Selection,
    ) -> impl Iterator<Item = (AccountContext<'s>, &'s BTreeSet<Target>)> {
        selection.iter().filter_map(|(account, wants)| Some((self.context(*account)?, wants)))
    }

    /// What the names on the command line select; without one, the account that
    /// the environment names, else the only one. In the environment an account comes
    /// before a group or channel of its name: mbsync does not read it.
    fn selection(&self) -> Result<Selection, Error> {
        if self.cli.all {
            return Ok(self.config.select_all());
        }
        if !self.cli.names.is_empty() {
            return self.config.select(&as_words(&self.cli.names));
        }
        let accounts = &self.config.accounts;
        match (account_in_environment(), &accounts[..]) {
            (Some(name), _) => match accounts.iter().position(|account| account.name == name) {
                Some(index) => Ok(vec![(index, BTreeSet::from([Target::Account]))]),
                None => self.config.select(&[&name]),
            },
            (None, [_]) => Ok(self.config.select_all()),
            (None, several) => Err(which_account(several)),
        }
    }

    fn print(&self, line: &str) {
        if self.cli.quiet == 0 {
            out(line);
        }
    }

    fn warn(&self, failure: &Error) -> ExitStatus {
        if self.cli.quiet < 2 || !failure.status.is_passing() {
            err(&format!("mutt-sync: {failure}"));
        }
        failure.status
    }
}

fn as_words(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn account_in_environment() -> Option<String> {
    std::env::var(mutt::muttrc::IN_ACCOUNT).ok().filter(|name| !name.is_empty())
}

fn which_account(accounts: &[Account]) -> Error {
    let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
    if names.is_empty() {
        return Error::config(".mbsyncrc names no account")
            .with_hint("mutt-sync --init ADDRESS prints one");
    }
    Error::usage(format!("which account? there are: {}", names.join(", ")))
        .with_hint("name one, use --all, or set MUTT_SYNC_ACCOUNT")
}

fn no_signals(error: &io::Error) -> Error {
    Error::system("cannot watch for signals", error)
}

fn read_settings(
    cli: &Cli,
    dirs: &xdg::BaseDirectories,
    env: &Env,
) -> Result<settings::File, Error> {
    let (file, must) = match &cli.config {
        Some(file) => (Some(file.clone()), true),
        None => (dirs.get_config_file("config.toml"), false),
    };
    let Some(path) = file else { return Ok(settings::File::default()) };
    let name = env.tilde(&path);
    match file::read_text(&path, LARGEST_SETTINGS) {
        Ok(text) => settings::File::parse(&text, &name, &env.home),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must => {
            Ok(settings::File::default())
        }
        Err(error) => Err(Error::unreadable(&name, &error)),
    }
}

/// A line on standard output.
fn out(line: &str) -> ExitStatus {
    out_text(&sanitize(line))
}

/// The same for what is sanitized where it is made, or made for programs.
fn out_text(text: &str) -> ExitStatus {
    stdout::print(&format!("{}\n", text.trim_end_matches('\n')));
    ExitStatus::Done
}

fn err(line: &str) {
    let _ = terminal::above(|| writeln!(io::stderr(), "{}", sanitize(line)));
}
