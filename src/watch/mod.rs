//! Waiting: one thread per account, each with one `poll`, nothing shared but the
//! signal to end.
//!
//! `waiter` is the loop over four parts: `local` (events on this disk), `server`
//! (the `connections` and their timers), `mailboxes` (their states) and `runner` (lock,
//! rate limit, run). Policies are values: `mailbox` (one mailbox),
//! `reconnect` (when to connect), `network` (when an address or a route has come),
//! `event_limit` and `silence` (what the server sends). `standby` is for the second
//! waiter, `log` for what is said.
//!
//! Does not depend on: options and their spelling, reports.

pub(crate) mod connections;
mod event_limit;
pub(crate) mod local;
mod log;
mod mailbox;
pub(crate) mod mailboxes;
mod network;
mod reconnect;
mod runner;
mod server;
mod silence;
mod standby;
mod waiter;

use std::io;
use std::path::PathBuf;

pub use log::LogLevel;

use crate::error::{Error, ExitStatus};
use crate::mbsyncrc;
use crate::os::signals::Shutdown;
use crate::os::wait::Cancel;
use crate::sync::context::AccountContext;

pub(crate) use server::sweep_interval;

/// How waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitEnd {
    /// Something was synced (only without `--loop`).
    Synced,
    /// A signal came.
    Stopped(u8),
    /// The configuration has changed: start again with it.
    Reload,
    /// Another account's thread has ended the waiting.
    Cancelled,
    /// It cannot go on.
    Failed(Error),
}

/// How to wait.
pub struct WatchOptions<'a> {
    /// `--loop`.
    pub loop_forever: bool,
    /// How much to print.
    pub log: LogLevel,
    /// The files that the configuration came from.
    pub configs: Vec<PathBuf>,
    /// Whether they can be read as they are now.
    pub check: &'a (dyn Fn() -> Result<(), Error> + Sync),
}

impl WatchOptions<'_> {
    /// To compare what is in the configuration files now with what was in them. The
    /// texts themselves, which may have passwords in them, are not kept.
    #[must_use]
    pub fn config_prints(&self) -> Vec<Option<u64>> {
        let print = |file: &PathBuf| Some(mbsyncrc::fingerprint(&mbsyncrc::text(file).ok()?));
        self.configs.iter().map(print).collect()
    }
}

/// Waits for all of these accounts, each in a thread of its own (the first in
/// this one, so that one account takes one thread).
///
/// # Errors
/// 75 when the machine has no descriptor or thread left.
pub fn wait(
    accounts: &[AccountContext<'_>],
    options: &WatchOptions<'_>,
    shutdown: &Shutdown,
) -> Result<WaitEnd, Error> {
    let failure = |error: &io::Error| Error::system("cannot wait", error);
    let cancel = Cancel::new().map_err(|error| failure(&error))?;
    let one = |account: AccountContext<'_>, is_first: bool| {
        let end = waiter::wait(account, options, is_first, shutdown, &cancel);
        cancel.raise();
        end
    };
    let Some((first, others)) = accounts.split_first() else { return Ok(WaitEnd::Cancelled) };
    let ends: Vec<WaitEnd> = std::thread::scope(|scope| {
        let started: io::Result<Vec<_>> = others
            .iter()
            .map(|account| {
                let thread = std::thread::Builder::new().stack_size(512 * 1024);
                thread.spawn_scoped(scope, || one(*account, false))
            })
            .collect();
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                cancel.raise();
                return vec![WaitEnd::Failed(failure(&error))];
            }
        };
        let mut ends = vec![one(*first, true)];
        ends.extend(started.into_iter().map(|thread| {
            let lost =
                |_| WaitEnd::Failed(Error::new(ExitStatus::Later, "a thread has ended by itself"));
            thread.join().unwrap_or_else(lost)
        }));
        ends
    });
    // A cause outweighs what followed from it.
    let rank = |end: &WaitEnd| match end {
        WaitEnd::Stopped(_) => 4,
        WaitEnd::Failed(_) => 3,
        WaitEnd::Synced => 2,
        WaitEnd::Reload => 1,
        WaitEnd::Cancelled => 0,
    };
    Ok(ends.into_iter().max_by_key(rank).unwrap_or(WaitEnd::Cancelled))
}
