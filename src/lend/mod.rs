//! The lent connection: a run of mbsync over the connection that the waiter has.
//!
//! [`Lease`] is the entry point. A run gets a copy of the configuration (`config`) in
//! sealed memory, whose `Tunnel` leads to the waiter (`tunnel`), which then
//! passes commands and responses between mbsync and the server (`relay`).
//!
//! Does not depend on: when to run, what a waiter watches.

pub mod config;
mod relay;
pub mod tunnel;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::error::ExitStatus;
use crate::imap::{Client, ClientError};
use crate::mbsyncrc::{self, MbsyncWords};
use crate::os::fork;
use crate::state::lock::Lock;
use crate::sync::account::Attempt;
use crate::sync::context::AccountContext;
use crate::sync::mbsync::{Companion, RunEnd};
use config::{Obstacle, Purpose};
use relay::{Flow, Relay};
use tunnel::Tunnel;

/// Why a run does not get the connection.
#[derive(Debug)]
enum Refusal {
    /// mbsync cannot be given a copy.
    Copy(Obstacle),
    /// The server lacks UNSELECT: its connection cannot be cleaned up afterwards.
    NoUnselect,
    /// The system has no memory file, socket or program to give.
    System(io::Error),
    /// The connection is lost.
    Lost(ClientError),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Copy(obstacle) => obstacle.fmt(f),
            Refusal::NoUnselect => f.write_str("the server has no UNSELECT"),
            Refusal::System(error) => error.fmt(f),
            Refusal::Lost(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::System(error)
    }
}

/// What became of a connection that was offered to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Not taken, and untouched: why.
    Declined(String),
    /// The run was made over it.
    Used(Returned),
    /// It was taken and did not serve, so that the run was made again without
    /// it. Why, and what became of the connection.
    Failed(String, Returned),
}

/// A connection after a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// As good as before.
    Whole,
    /// It cannot be used again: why.
    Broken(String),
}

/// After so many leases in a row that failed, mbsync makes connections of its
/// own again.
const MOST_FAILURES: u32 = 3;

/// The leases of one waiter.
#[derive(Debug, Default)]
pub struct LeaseStats {
    used: u64,
    declined: u64,
    failed: u64,
    failed_in_a_row: u32,
}

impl LeaseStats {
    /// Whether another lease is worth a try.
    #[must_use]
    pub fn allow_another(&self) -> bool {
        self.failed_in_a_row < MOST_FAILURES
    }

    /// Counts one.
    pub fn record(&mut self, outcome: &LeaseOutcome) {
        match outcome {
            LeaseOutcome::Declined(_) => self.declined += 1,
            LeaseOutcome::Used(_) => {
                self.used += 1;
                self.failed_in_a_row = 0;
            }
            LeaseOutcome::Failed(..) => {
                self.failed += 1;
                self.failed_in_a_row += 1;
            }
        }
    }
}

impl std::fmt::Display for LeaseStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LeaseStats { used, declined, failed, .. } = self;
        write!(f, "runs over our connection: {used}; without it: {declined}, after it: {failed}")
    }
}

/// A connection that is lent to one run.
pub struct Lease<'c> {
    relay: Relay<'c>,
    copy: OwnedFd,
    tunnel: Tunnel,
    /// Connections asked for after the first.
    refused: u32,
}

impl<'c> Lease<'c> {
    /// Makes a run over this connection; where that cannot be, or fails for a
    /// reason that lies in the lease, over one of mbsync's own.
    pub fn run(
        client: &'c mut Client,
        attempt: &Attempt<'_>,
        lock: &mut Lock,
    ) -> (RunEnd, LeaseOutcome) {
        let mut lease = match Lease::take(client, attempt.context, attempt.words) {
            Ok(lease) => lease,
            Err(refusal) => {
                let why = refusal.to_string();
                let outcome = match refusal {
                    Refusal::Lost(_) => LeaseOutcome::Failed(why.clone(), Returned::Broken(why)),
                    _ => LeaseOutcome::Declined(why),
                };
                return (attempt.run(lock, None), outcome);
            }
        };
        let ended = attempt.run(lock, Some(&mut lease));
        let why = lease.must_retry(ended.exit);
        let returned = lease.returned();
        let Some(why) = why else { return (ended, LeaseOutcome::Used(returned)) };
        attempt.say(|| format!("not over the connection that is open: {why}"));
        (attempt.run(lock, None), LeaseOutcome::Failed(why, returned))
    }

    /// Gets all ready. From here on the client watches nothing. Only
    /// [`Refusal::Lost`] has touched the connection.
    fn take(
        client: &'c mut Client,
        context: AccountContext<'_>,
        words: &MbsyncWords,
    ) -> Result<Self, Refusal> {
        if !client.capabilities().unselect() {
            return Err(Refusal::NoUnselect);
        }
        let tunnel = Tunnel::new()?;
        let copy = copy_of(context, words, &tunnel.command())?;
        let relay = Relay::new(client.detach().map_err(Refusal::Lost)?);
        Ok(Lease { relay, copy, tunnel, refused: 0 })
    }

    /// Why the run has to be made again without the connection, if it has to: it
    /// failed, and for a reason that lies in the lease.
    fn must_retry(&mut self, exit: ExitStatus) -> Option<String> {
        if matches!(exit, ExitStatus::Done | ExitStatus::Signal(_)) {
            return None;
        }
        if self.refused > 0 {
            return Some("mbsync wants a second connection".into());
        }
        match self.returned() {
            Returned::Broken(why) => Some(why),
            Returned::Whole if !self.relay.is_attached() => {
                Some("mbsync did not come for the connection".into())
            }
            Returned::Whole => None,
        }
    }

    /// What became of the connection, once the run is over.
    fn returned(&mut self) -> Returned {
        match self.relay.finish() {
            Ok(()) => Returned::Whole,
            Err(fault) => Returned::Broken(fault.to_string()),
        }
    }
}

impl Companion for Lease<'_> {
    fn prepare(&self, command: &mut Command) {
        let [program, socket] = self.tunnel.inherited();
        fork::inherit(command, &[self.copy.as_fd(), program, socket]);
    }

    fn file(&self) -> String {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd())
    }

    fn poll_fds<'f>(&'f self, fds: &mut Vec<PollFd<'f>>) {
        fds.push(PollFd::new(&self.tunnel, PollFlags::IN));
        self.relay.poll_fds(fds);
    }

    fn pump(&mut self) -> bool {
        let flow = self.relay.pump();
        // A socket that comes while bytes move is noticed when they have come to rest.
        if flow == Flow::Still {
            while let Ok(Some(socket)) = self.tunnel.receive() {
                if !self.relay.attach(socket.into()) {
                    self.refused += 1;
                }
            }
        }
        flow == Flow::More
    }
}

/// The copy, in memory that has no name and cannot be changed any more.
fn copy_of(
    context: AccountContext<'_>,
    words: &MbsyncWords,
    tunnel: &str,
) -> Result<OwnedFd, Refusal> {
    let AccountContext { config, account, .. } = context;
    let text = mbsyncrc::text(&config.file)?;
    if mbsyncrc::fingerprint(&text) != config.fingerprint || (words.all && config.shadowed_channels)
    {
        return Err(Refusal::Copy(Obstacle::NotAsRead));
    }
    let (mut channels, mut groups): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for word in &words.words {
        if let Some(group) = config.groups.iter().find(|group| group.name == *word) {
            groups.push(&group.name);
            channels.extend(group.members.iter().map(String::as_str));
        } else {
            channels.push(word.split_once(':').map_or(word, |(channel, _)| channel));
        }
    }
    if words.all {
        channels = account.channels.iter().map(|channel| channel.name.as_str()).collect();
    }
    let purpose =
        Purpose { channels: &channels, groups: &groups, tunnel, base: config.base.as_deref() };
    let text = config::copy(&text, &purpose).map_err(Refusal::Copy)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("mbsyncrc", flags).map_err(io::Error::from)?;
    let _ = rustix::fs::fchmod(&memory, Mode::RUSR);
    let mut file = File::from(memory);
    file.write_all(&text)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
    Ok(file.into())
}
