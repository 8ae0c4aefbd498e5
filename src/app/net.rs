//! The modes that speak to servers: a sync in the foreground, `--wait`, `--check`,
//! `-n`, and the process that serves requests made in the background. Only the
//! program `mutt-sync-net` has them. Does not depend on: how a waiter or a check works.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use super::local::{self, Mode};
use super::{App, Selection, environment, no_signals, read_settings};
use crate::cli::Cli;
use crate::error::{Error, ExitStatus};
use crate::os::signals::Shutdown;
use crate::report::check;
use crate::survey::Survey;
use crate::sync::account::RunOptions;
use crate::sync::context::AccountContext;
use crate::sync::judge::Judge;
use crate::watch::{self, LogLevel, WaitEnd};

/// The program `mutt-sync-net`: every mode.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitStatus {
    // Not `exe`, by which it starts itself again: `ps -C` and pgrep look for it.
    let _ = rustix::thread::set_name(c"mutt-sync-net");
    super::run(arguments, |cli, _| {
        if cli.check {
            return check(cli);
        }
        if cli.init.is_some() {
            return local::serve(cli);
        }
        let app = App::open(cli)?;
        if let Some(work) = &cli.child {
            return app.run_child(work, &survey);
        }
        match Mode::of(cli) {
            Mode::Local => local::serve(cli),
            Mode::Network if cli.wait => app.wait(&app.selection()?),
            Mode::Network if cli.dry_run => app.dry_run(&app.selection()?, &survey),
            Mode::Network => app.in_foreground(&app.selection()?, &survey),
        }
    })
}

/// Asks the server before a run.
fn survey<'a>(
    context: AccountContext<'a>,
    shutdown: &Shutdown,
    options: RunOptions,
) -> Box<dyn Judge + 'a> {
    Box::new(Survey::new(context, shutdown.clone(), options))
}

/// `--check`, which needs no configuration that can be read.
fn check(cli: &Cli) -> Result<ExitStatus, Error> {
    let (dirs, env, base) = environment()?;
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
        report: cli.report,
    })
}

impl App<'_> {
    fn wait(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let contexts: Vec<AccountContext<'_>> =
            self.contexts(selection).map(|(context, _)| context).collect();
        let check = || App::open(self.cli).map(drop);
        let options = watch::WatchOptions {
            loop_forever: self.cli.loop_forever,
            log: match self.cli.quiet {
                0 if self.cli.verbose => LogLevel::Decisions,
                0 => LogLevel::Events,
                1 => LogLevel::Errors,
                _ => LogLevel::PermanentErrors,
            },
            configs: self.config_files.clone(),
            check: &check,
        };
        match watch::wait(&contexts, &options, &shutdown)? {
            WaitEnd::Synced | WaitEnd::Cancelled => Ok(ExitStatus::Done),
            WaitEnd::Stopped(signal) => Ok(ExitStatus::Signal(signal)),
            WaitEnd::Failed(failure) => Err(failure),
            // The same command with the new configuration.
            WaitEnd::Reload => {
                if let Some(signal) = shutdown.release() {
                    return Ok(ExitStatus::Signal(signal));
                }
                let error = std::process::Command::new("/proc/self/exe")
                    .args(std::env::args_os().skip(1))
                    .exec();
                Err(Error::system("cannot start again", &error))
            }
        }
    }
}
