//! From the command line to the exit status: reads what must be read, picks the
//! mode, says what came of it.
//!
//! Knows every mode by name and none by heart.

mod reports;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cli::Cli;
use crate::error::{Error, ExitStatus, with_hint};
use crate::mbsyncrc::{self, Config, Env, IsyncVersion};
use crate::model::{Account, Target};
use crate::mutt;
use crate::os::child::Prompt;
use crate::os::file;
use crate::os::fork::{Forked, fork_detached};
use crate::os::signals::Shutdown;
use crate::report::check;
use crate::settings;
use crate::state::StateDir;
use crate::state::backoff::{self, Backoff};
use crate::state::last_run::{self, LastRun};
use crate::sync::account::{self, AccountBackend, AccountContext, RunOptions, RunReport};
use crate::sync::handover;
use crate::sync::hooks;
use crate::sync::scheduler::{self, By, RequestOutcome};
use crate::text::{sanitize, short, summary_line};
use crate::watch::{self, WaitEnd};

/// Most bytes of config.toml.
const LARGEST_SETTINGS: u64 = 1 << 20;

/// What a selection names: accounts by their place in the configuration.
pub type Selection = Vec<(usize, BTreeSet<Target>)>;

/// The modes that speak to servers. Only the program that has them is linked
/// with OpenSSL: loading it takes longer than all that `-b` does.
pub struct Network {
    wait: fn(&App<'_>, &Selection) -> Result<ExitStatus, Error>,
    check: fn(&Cli) -> Result<ExitStatus, Error>,
}

/// What `mutt-sync-net` gives to [`run`].
pub static NETWORK: Network =
    Network { wait: |session, selection| session.wait(selection), check: examine };

/// Runs the program with these arguments; the exit status is all that is left.
/// Without `network`, what needs it is left to the program beside this one.
pub fn run(arguments: impl Iterator<Item = OsString>, network: Option<&Network>) -> ExitStatus {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(exit) = handover::is_tunnel(&arguments) {
        return exit;
    }
    // Passwords are in this memory for a while: no core dump has it, and no other
    // process of the user's can read it. mbsync and hooks are as they would be.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done };
        }
    };
    if cli.version {
        return out(&format!("mutt-sync {}", crate::VERSION));
    }
    let served = match network {
        None if cli.check || cli.wait => Err(become_network_program(&arguments)),
        Some(network) if cli.check => (network.check)(&cli),
        _ => App::open(&cli).and_then(|session| session.serve(network)),
    };
    match served {
        Ok(exit) => exit,
        Err(failure) => {
            // A line that cannot tell the state is still mutt's status line, and mutt
            // shows none at all when the command fails.
            if let Some(line) = &cli.status_line {
                let trouble = Some(mutt::statusline::Trouble::Config);
                let state = mutt::statusline::LineState { trouble, ..Default::default() };
                return out(&mutt::statusline::with_mark(line, state));
            }
            // mutt paints standard error over its screen, but shows a backtick's output.
            if cli.background {
                out(&format!("mutt-sync: {failure}"));
            } else {
                err(&format!("mutt-sync: {failure}"));
            }
            failure.exit
        }
    }
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
    Error::config(format!("{program}: {error}; it belongs beside mutt-sync: install both again"))
}

/// Where things are: directories, the environment as mbsync's file sees it, our state.
#[allow(deprecated)] // Rust before 1.87 warns of home_dir, for what it does on Windows
fn surroundings() -> Result<(xdg::BaseDirectories, Env, PathBuf), Error> {
    let dirs = xdg::BaseDirectories::with_prefix("mutt-sync");
    let (Some(home), Some(base)) = (std::env::home_dir(), dirs.get_state_home()) else {
        return Err(Error::config("no home directory is known; set HOME"));
    };
    let mut env = Env::new(home, std::env::current_dir().unwrap_or_else(|_| "/".into()));
    env.config_home.clone_from(&dirs.config_home);
    env.state_home.clone_from(&dirs.state_home);
    Ok((dirs, env, base))
}

/// `--check`, which needs no configuration that can be read.
fn examine(cli: &Cli) -> Result<ExitStatus, Error> {
    let (dirs, env, base) = surroundings()?;
    let settings_file = cli.config.clone().or_else(|| dirs.get_config_file("config.toml"));
    check::run(&check::Asked {
        names: &cli.names,
        mbsyncrc: cli.mbsyncrc.as_deref(),
        settings: read_settings(cli, &dirs, &env),
        env: &env,
        base: &base,
        settings_file: settings_file.filter(|file| file.exists()),
        json: cli.json,
        quiet: cli.quiet > 0,
    })
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
        let (dirs, env, base) = surroundings()?;
        let mut settings = read_settings(cli, &dirs, &env)?;
        for each in settings.accounts.values_mut().chain([&mut settings.general]) {
            each.throttle = cli.throttle.unwrap_or(each.throttle);
            each.every = cli.every.unwrap_or(each.every);
        }
        let file = cli.mbsyncrc.as_ref().or(settings.general.mbsyncrc.as_ref());
        let dialect = crate::mbsync_version::of_mbsync(&settings.general.mbsync, &base);
        let file = match file {
            Some(file) => env.cwd.join(file),
            None => mbsyncrc::locate(&env, dialect)?,
        };
        let config = mbsyncrc::read(&file, &env, dialect.unwrap_or(IsyncVersion::V1_4))?;
        let settings_file = cli.config.clone().or_else(|| dirs.get_config_file("config.toml"));
        let config_files = std::iter::once(file).chain(settings_file).collect();
        Ok(App { cli, env, config, settings, base, config_files })
    }

    fn scene(&self, account: usize) -> Option<AccountContext<'_>> {
        let account = self.config.accounts.get(account)?;
        Some(AccountContext {
            config: &self.config,
            account,
            settings: self.settings.of(&account.name),
            settings_file: self.cli.config.as_deref(),
            base: &self.base,
        })
    }

    fn serve(&self, network: Option<&Network>) -> Result<ExitStatus, Error> {
        let cli = self.cli;
        if let Some(work) = &cli.child {
            return self.work_as_child(work);
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
        if let Some(network) = network.filter(|_| cli.wait) {
            return (network.wait)(self, &selection);
        }
        if cli.dry_run {
            return Ok(self.dry_run(&selection));
        }
        self.in_foreground(&selection)
    }

    /// What the names on the command line select; without one, the account that
    /// the environment names, else the only one.
    fn selection(&self) -> Result<Selection, Error> {
        if self.cli.all {
            return Ok(self.config.select_all());
        }
        let named = std::env::var("MUTT_SYNC_ACCOUNT").ok().filter(|name| !name.is_empty());
        let words: Vec<&str> = match (&self.cli.names[..], &named) {
            ([], Some(name)) => vec![name],
            ([], None) => match &self.config.accounts[..] {
                [only] => vec![&only.name],
                several => return Err(which_account(several)),
            },
            (names, _) => names.iter().map(String::as_str).collect(),
        };
        self.config.select(&words)
    }

    fn in_background(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        // Ended by a signal as any short program is; a child sets its own ways.
        let stop = Shutdown::never().map_err(|error| no_signals(&error))?;
        let mut lines = Vec::new();
        let mut exit = ExitStatus::Done;
        for (account, wants) in selection {
            let Some(scene) = self.scene(*account) else { continue };
            let manner = RunOptions::in_background(scene.settings);
            let mut disk = AccountBackend::open(scene, stop.clone(), manner)?;
            let answer = scheduler::background(&mut disk, wants, self.cli.force);
            let text = match answer {
                RequestOutcome::Stranded if disk.is_lost() => {
                    exit = exit.max(ExitStatus::Later);
                    "neither written down nor served; ask again".to_owned()
                }
                RequestOutcome::Stranded => {
                    exit = exit.max(ExitStatus::Later);
                    "nobody could be left to serve it; the request stands".to_owned()
                }
                _ => match disk.dir().read_json::<Backoff>(backoff::FILE) {
                    Some(retry) => format!("queued; last time: {}", clip(&retry.text, 60)),
                    None => "queued".to_owned(),
                },
            };
            lines.push(format!("{}: {text}", scene.account.name));
        }
        if self.cli.quiet == 0 {
            out(&lines.join(", "));
        }
        Ok(exit)
    }

    fn in_foreground(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let stop = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let terminal = io::stdin().is_terminal();
        let alone = selection.len() == 1;
        let manner = RunOptions {
            prompt: if terminal { Prompt::Terminal } else { Prompt::Environment },
            progress: self.cli.verbose && alone && io::stdout().is_terminal(),
            verbose: self.cli.verbose,
        };
        let how = scheduler::RequestOptions {
            urgent: self.cli.force,
            impatient: self.cli.force || terminal,
            block: self.cli.block,
        };
        let one = |account: usize, wants: &BTreeSet<Target>| match self.scene(account) {
            None => ExitStatus::Done,
            Some(scene) => match AccountBackend::open(scene, stop.clone(), manner) {
                Err(failure) => self.complain(&failure),
                Ok(mut disk) => {
                    let answer = scheduler::foreground(&mut disk, wants, how);
                    self.report(scene, &disk, &answer, &stop)
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
        scene: AccountContext<'_>,
        disk: &AccountBackend<'_>,
        answer: &RequestOutcome<RunReport>,
        stop: &Shutdown,
    ) -> ExitStatus {
        let name = &scene.account.name;
        let last = || disk.dir().read_json::<LastRun>(last_run::FILE).unwrap_or_default();
        let failed = |exit: ExitStatus, text: &str, retry: Option<Duration>| {
            let again = match retry {
                Some(wait) if exit != ExitStatus::Config => {
                    format!("; the request stands, not tried unasked for {}", short(wait))
                }
                _ => String::new(),
            };
            self.complain(&Error::new(exit, format!("{name}: {text}{again}")))
        };
        match answer {
            RequestOutcome::Ran(report) => {
                let line = summary_line(&report.changes, report.took);
                match report.ended.exit {
                    ExitStatus::Done => self.tell(&format!("{name}: {line}")),
                    ExitStatus::Signal(_) => {}
                    exit => {
                        if !report.changes.is_empty() {
                            self.tell(&format!("{name}: {line}"));
                        }
                        failed(exit, &report.ended.text, report.retry);
                    }
                }
                report.ended.exit
            }
            RequestOutcome::Served => {
                let last = last();
                let line = summary_line(&last.changes, Duration::from_millis(last.took));
                self.tell(&format!("{name}: {line}, by another mutt-sync"));
                ExitStatus::Done
            }
            RequestOutcome::Failed => {
                let last = last();
                failed(ExitStatus::from_code(last.code).max(ExitStatus::Mailbox), &last.text, None)
            }
            RequestOutcome::Queued(wait, by) => {
                let who = match by {
                    By::Waiter => ", by the waiter",
                    By::Queue | By::Child => "",
                };
                self.tell(&format!("{name}: throttled, syncs in {}{who}", short(*wait)));
                ExitStatus::Done
            }
            RequestOutcome::BackingOff(wait) => {
                let text = disk
                    .dir()
                    .read_json::<Backoff>(backoff::FILE)
                    .map_or(String::new(), |retry| retry.text);
                let text = format!(
                    "{name}: {text}; not tried for another {} (--force tries now)",
                    short(*wait)
                );
                self.complain(&Error::new(ExitStatus::Later, text))
            }
            RequestOutcome::LockHeld => {
                let held = || {
                    let text = "another process has held the lock for too long; the request stands";
                    Error::new(ExitStatus::Later, format!("{name}: {text}"))
                };
                self.complain(&disk.trouble().cloned().unwrap_or_else(held))
            }
            RequestOutcome::Stopped => stop.signal().map_or(ExitStatus::Later, ExitStatus::Signal),
            RequestOutcome::Stranded => {
                let text = format!(
                    "{name}: throttled, and no process could be started to wait; the request stands"
                );
                self.complain(&Error::new(ExitStatus::Later, text))
            }
        }
    }

    fn wait(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let stop = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let scenes: Vec<AccountContext<'_>> =
            selection.iter().filter_map(|(account, _)| self.scene(*account)).collect();
        crate::imap::tls::prepare(scenes.iter().filter_map(|scene| scene.account.server.as_ref()));
        let check = || App::open(self.cli).map(drop);
        let manner = watch::WatchOptions {
            endless: self.cli.endless,
            verbose: self.cli.verbose,
            hushed: self.cli.quiet > 1,
            configs: self.config_files.clone(),
            check: &check,
        };
        match watch::wait(&scenes, &manner, &stop)? {
            WaitEnd::Synced | WaitEnd::Halted => Ok(ExitStatus::Done),
            WaitEnd::Stopped(signal) => Ok(ExitStatus::Signal(signal)),
            WaitEnd::Failed(failure) => Err(failure),
            // The same command with the new configuration.
            WaitEnd::Reload => {
                let error = std::process::Command::new("/proc/self/exe")
                    .args(std::env::args_os().skip(1))
                    .exec();
                Err(Error::new(ExitStatus::Later, format!("cannot start again: {error}")))
            }
        }
    }

    fn tell(&self, line: &str) {
        if self.cli.quiet == 0 {
            out(line);
        }
    }

    fn complain(&self, failure: &Error) -> ExitStatus {
        if self.cli.quiet < 2 || !failure.exit.is_passing() {
            err(&format!("mutt-sync: {failure}"));
        }
        failure.exit
    }

    fn work_as_child(&self, work: &str) -> Result<ExitStatus, Error> {
        let name = self.cli.names.first().map_or("", String::as_str);
        let Some(at) = self.config.accounts.iter().position(|account| account.name == name) else {
            return Err(Error::usage(format!("no account `{name}`")));
        };
        let Some(scene) = self.scene(at) else { return Ok(ExitStatus::Done) };
        // The parent waits for this process; what is to be done is its child's.
        if fork_detached().map_err(|error| no_signals(&error))? == Forked::Parent {
            return Ok(ExitStatus::Done);
        }
        let stop = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        match work {
            "queue" => {
                let mut disk =
                    AccountBackend::open(scene, stop, RunOptions::in_background(scene.settings))?;
                if scheduler::Backend::try_queue(&mut disk) {
                    scheduler::queued(&mut disk, account::PATIENCE);
                }
                Ok(ExitStatus::Done)
            }
            "hooks" => {
                let dir = StateDir::open(scene.base, &scene.account.name)?;
                hooks::run_commands(scene.settings, &dir, &stop);
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

fn which_account(accounts: &[Account]) -> Error {
    let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
    if names.is_empty() {
        return Error::config(".mbsyncrc names no account; see mbsync(1) for how to write one");
    }
    Error::usage(format!(
        "which account? there are: {}; name one, use --all, or set MUTT_SYNC_ACCOUNT",
        names.join(", ")
    ))
}

fn no_signals(error: &io::Error) -> Error {
    Error::new(ExitStatus::Later, format!("cannot watch for signals: {}", with_hint(error)))
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
    let Some(file) = file else { return Ok(settings::File::default()) };
    let sanitize = env.sanitize(&file);
    match file::read_text(&file, LARGEST_SETTINGS) {
        Ok(text) => settings::File::parse(&text, &sanitize, Some(&env.home)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must => {
            Ok(settings::File::default())
        }
        Err(error) => Err(Error::config(format!("{sanitize}: {error}"))),
    }
}

/// A line on standard output; a reader that has gone is no error.
fn out(line: &str) -> ExitStatus {
    let _ = writeln!(io::stdout(), "{line}");
    ExitStatus::Done
}

fn err(line: &str) {
    let _ = writeln!(io::stderr(), "{}", sanitize(line));
}
