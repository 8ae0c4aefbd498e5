//! Waiting: one thread per account, each with one `poll`, nothing shared but
//! the wish to end.
//!
//! [`account`] is the loop. What it decides by are values: [`boxes`] (each
//! mailbox), [`need`] (what to run), [`reach`] (when to connect), [`talk`] (how
//! much to listen to). What it hears
//! with: [`ears`] (the disk), [`far`] (the server), [`crate::os::clock`], [`look`]
//! (a mailbox, once it is asked). [`turn`] is for the second waiter.

pub mod event_limit;
pub mod local;
pub mod mailbox;
pub mod plan;
pub mod reconnect;
pub mod scan;
pub mod server;
pub mod standby;
pub mod waiter;

use std::io;
use std::path::PathBuf;

use crate::error::{Error, ExitStatus, with_hint};
use crate::mbsyncrc;
use crate::os::signals::Shutdown;
use crate::os::wait::Cancel;
use crate::sync::account::AccountContext;

/// How waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitEnd {
    /// Something was synced (only without `--loop`).
    Synced,
    /// A signal came.
    Stopped(u8),
    /// The configuration is another one: start again with it.
    Reload,
    /// Another account's thread has ended the waiting.
    Halted,
    /// It cannot go on.
    Failed(Error),
}

/// How to wait.
pub struct WatchOptions<'a> {
    /// `--loop`.
    pub endless: bool,
    /// Say each decision.
    pub verbose: bool,
    /// Say nothing of what waiting may mend (`-qq`).
    pub hushed: bool,
    /// The files that the configuration came from.
    pub configs: Vec<PathBuf>,
    /// Whether they can be read as they are now.
    pub check: &'a (dyn Fn() -> Result<(), Error> + Sync),
}

impl WatchOptions<'_> {
    /// Tells what is in the configuration files now from what was in them. The
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
    scenes: &[AccountContext<'_>],
    manner: &WatchOptions<'_>,
    stop: &Shutdown,
) -> Result<WaitEnd, Error> {
    let no = |error: &io::Error| {
        Error::new(ExitStatus::Later, format!("cannot wait: {}", with_hint(error)))
    };
    let halt = Cancel::new().map_err(|error| no(&error))?;
    let one = |scene: AccountContext<'_>, leads: bool| {
        let end = waiter::wait(scene, manner, leads, stop, &halt);
        halt.raise();
        end
    };
    let Some((first, others)) = scenes.split_first() else { return Ok(WaitEnd::Halted) };
    let ends: Vec<WaitEnd> = std::thread::scope(|scope| {
        let started: io::Result<Vec<_>> = others
            .iter()
            .map(|scene| {
                let thread = std::thread::Builder::new().stack_size(512 * 1024);
                thread.spawn_scoped(scope, || one(*scene, false))
            })
            .collect();
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                halt.raise();
                return vec![WaitEnd::Failed(no(&error))];
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
    // What somebody asked for outweighs what followed from it.
    let rank = |end: &WaitEnd| match end {
        WaitEnd::Stopped(_) => 4,
        WaitEnd::Failed(_) => 3,
        WaitEnd::Synced => 2,
        WaitEnd::Reload => 1,
        WaitEnd::Halted => 0,
    };
    Ok(ends.into_iter().max_by_key(rank).unwrap_or(WaitEnd::Halted))
}
