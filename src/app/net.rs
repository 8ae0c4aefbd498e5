//! The modes that speak to servers: `--wait` and `--check`. Only the program
//! `mutt-sync-net` has them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use super::{App, Selection, environment, local, no_signals, read_settings};
use crate::cli::Cli;
use crate::error::{Error, ExitStatus};
use crate::os::signals::Shutdown;
use crate::report::check;
use crate::sync::context::AccountContext;
use crate::watch::{self, WaitEnd};

/// The program `mutt-sync-net`: every mode.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitStatus {
    super::run(arguments, |cli, _| {
        if cli.check {
            check(cli)
        } else if cli.wait && cli.child.is_none() {
            let app = App::open(cli)?;
            app.wait(&app.selection()?)
        } else {
            local::serve(cli)
        }
    })
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
    })
}

impl App<'_> {
    fn wait(&self, selection: &Selection) -> Result<ExitStatus, Error> {
        let shutdown = Shutdown::on_signals().map_err(|error| no_signals(&error))?;
        let contexts: Vec<AccountContext<'_>> =
            selection.iter().filter_map(|(account, _)| self.context(*account)).collect();
        let check = || App::open(self.cli).map(drop);
        let options = watch::WatchOptions {
            loop_forever: self.cli.endless,
            verbose: self.cli.verbose,
            only_permanent_errors: self.cli.quiet > 1,
            configs: self.config_files.clone(),
            check: &check,
        };
        match watch::wait(&contexts, &options, &shutdown)? {
            WaitEnd::Synced | WaitEnd::Cancelled => Ok(ExitStatus::Done),
            WaitEnd::Stopped(signal) => Ok(ExitStatus::Signal(signal)),
            WaitEnd::Failed(failure) => Err(failure),
            // The same command with the new configuration.
            WaitEnd::Reload => {
                let error = std::process::Command::new("/proc/self/exe")
                    .args(std::env::args_os().skip(1))
                    .exec();
                Err(Error::system("cannot start again", &error))
            }
        }
    }
}
