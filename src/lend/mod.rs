//! The lent connection: a run of mbsync over a connection that is open.
//!
//! [`Lease`] is the entry point. A run gets a copy of the configuration (`config`) in
//! sealed memory, whose `Tunnel` leads to this process (`tunnel`), which then
//! passes commands and responses between mbsync and the server (`relay`, `streams`), and
//! answers what mbsync's record knows (`flags`); deletions that nobody has judged are refused
//! (`deletions`).
//!
//! Does not depend on: when to run, what a waiter watches.

pub mod config;
pub mod deletions;
pub mod flags;
pub mod relay;
mod streams;
pub mod tunnel;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::error::ExitStatus;
use crate::imap::{Client, ClientError};
use crate::mbsyncrc::{self, MbsyncWords};
use crate::model::Mailbox;
use crate::os::fork;
use crate::state::clean;
use crate::state::lock::Lock;
use crate::sync::context::AccountContext;
use crate::sync::judge::Attempt;
use crate::sync::mbsync::{Companion, RunEnd};
use crate::sync::output::Problem;
use crate::text::size;
use crate::verdict::CleanState;
use crate::verdict::gone::Gone;
use config::{Obstacle, Purpose};
use deletions::DeletionGate;
use flags::{KnownFlags, ScanByRun};
use relay::{Flow, Relay, RelayFault};
use tunnel::Tunnel;

/// Why a run does not get the connection.
#[derive(Debug)]
enum Refusal {
    /// mbsync cannot be given a copy.
    Copy(Obstacle),
    /// The system has no memory file, socket or program to give.
    System(io::Error),
    /// The connection is lost.
    Lost(ClientError),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Copy(obstacle) => obstacle.fmt(f),
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
    Used {
        /// What became of it.
        returned: Returned,
        /// Bytes that the run moved, in both directions.
        bytes: u64,
        /// Bytes that the server did not have to send.
        spared: u64,
        /// What it was told of mailboxes in which it changed nothing on the server.
        scans: Vec<ScanByRun>,
    },
    /// It was taken and did not serve, so that the run was made again without it.
    Failed {
        /// Why.
        why: String,
        /// What became of the connection.
        returned: Returned,
        /// Bytes that were moved over it, in both directions.
        bytes: u64,
    },
}

impl LeaseOutcome {
    /// Bytes that were moved over the connection, in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            LeaseOutcome::Declined(_) => 0,
            LeaseOutcome::Used { bytes, .. } | LeaseOutcome::Failed { bytes, .. } => *bytes,
        }
    }
}

impl std::fmt::Display for LeaseOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LeaseOutcome::Declined(why) => write!(f, "not over our connection: {why}"),
            LeaseOutcome::Used { spared, .. } => {
                f.write_str("run over our connection")?;
                write_spared(f, *spared)
            }
            LeaseOutcome::Failed { why, .. } => {
                write!(f, "run again without our connection: {why}")
            }
        }
    }
}

fn write_spared(f: &mut std::fmt::Formatter<'_>, spared: u64) -> std::fmt::Result {
    if spared == 0 {
        return Ok(());
    }
    write!(f, ", {} of known flags not fetched", size(spared))
}

/// A connection after a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// As good as before.
    Whole {
        /// A mailbox may be open.
        mailbox_open: bool,
    },
    /// It cannot be used again: why.
    Broken(String),
}

/// After so many leases in a row that failed, mbsync makes connections of its
/// own again.
const MOST_FAILURES: u32 = 3;

/// The leases of one process.
#[derive(Debug, Default)]
pub struct LeaseStats {
    used: u64,
    declined: u64,
    failed: u64,
    failed_in_a_row: u32,
    spared: u64,
}

impl LeaseStats {
    /// Whether another lease is worth a try.
    #[must_use]
    pub fn allow_another(&self) -> bool {
        self.failed_in_a_row < MOST_FAILURES
    }

    /// Whether no run so far could be made over our connection.
    #[must_use]
    pub fn are_all_declined(&self) -> bool {
        self.used == 0 && self.declined > 0
    }

    /// Counts one.
    pub fn record(&mut self, outcome: &LeaseOutcome) {
        match outcome {
            LeaseOutcome::Declined(_) => self.declined += 1,
            LeaseOutcome::Used { spared, .. } => {
                self.used += 1;
                self.failed_in_a_row = 0;
                self.spared += spared;
            }
            LeaseOutcome::Failed { .. } => {
                self.failed += 1;
                self.failed_in_a_row += 1;
            }
        }
    }
}

impl std::fmt::Display for LeaseStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LeaseStats { used, declined, failed, .. } = self;
        write!(f, "runs over our connection: {used}; without it: {declined}, after it: {failed}")?;
        write_spared(f, self.spared)
    }
}

/// What is known of the mailboxes of a run.
#[derive(Debug, Default)]
pub struct RunMailboxes {
    /// The flags that need not be fetched, by wire name.
    pub known: HashMap<String, KnownFlags>,
    /// Wire names and keys.
    pub names: Vec<(Box<str>, Box<str>)>,
}

impl RunMailboxes {
    /// Adds one. `clean`: what is known of it, if its flags are to be told.
    pub fn add(
        &mut self,
        wire: &str,
        mailbox: &Mailbox,
        clean: Option<&CleanState>,
        gone: Option<&Gone>,
    ) {
        let known = clean.and_then(|clean| KnownFlags::of(mailbox, clean, gone));
        self.known.extend(known.map(|known| (wire.to_owned(), known)));
        self.names.push((wire.into(), clean::key(mailbox).into()));
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
        attempt: &'c Attempt<'_>,
        lock: &mut Lock,
        mailboxes: RunMailboxes,
    ) -> (RunEnd, LeaseOutcome) {
        let mut lease = match Lease::take(client, attempt, mailboxes) {
            Ok(lease) => lease,
            Err(refusal) => {
                let why = refusal.to_string();
                let outcome = match refusal {
                    Refusal::Lost(_) => {
                        let returned = Returned::Broken(why.clone());
                        LeaseOutcome::Failed { why, returned, bytes: 0 }
                    }
                    _ => LeaseOutcome::Declined(why),
                };
                return (attempt.run(lock, None), outcome);
            }
        };
        let mut ended = attempt.run(lock, Some(&mut lease));
        ended.said.explain(lease.relay.refusals());
        if lease.relay.finish() == Err(RelayFault::Withheld) {
            // No mailbox's fault, and no failure of the server's: the rest is still to be run.
            let problems = vec![Problem::Mailbox { channel: None, mailbox: None }];
            let text = "many messages were removed here meanwhile, which is checked first".into();
            ended = RunEnd { exit: ExitStatus::Mailbox, text, problems, ..ended };
        }
        let why = lease.must_retry(ended.exit);
        let returned = lease.returned();
        let bytes = lease.relay.bytes();
        let spared = lease.relay.spared();
        let Some(why) = why else {
            let scans = lease.relay.take_scans();
            return (ended, LeaseOutcome::Used { returned, bytes, spared, scans });
        };
        attempt.say(|| format!("not over the connection that is open: {why}"));
        (attempt.run(lock, None), LeaseOutcome::Failed { why, returned, bytes })
    }

    /// Gets all ready. From here on the client watches nothing. Only
    /// [`Refusal::Lost`] has touched the connection.
    fn take(
        client: &'c mut Client,
        attempt: &'c Attempt<'_>,
        mailboxes: RunMailboxes,
    ) -> Result<Self, Refusal> {
        let tunnel = Tunnel::new()?;
        let copy = copy_of(attempt.context, attempt.words, &tunnel.command())?;
        let able = client.capabilities().condstore() && client.capabilities().esearch();
        let known = if able { mailboxes.known } else { HashMap::new() };
        let deletions = DeletionGate::new(attempt.deletions, mailboxes.names);
        let relay = Relay::new(client.detach().map_err(Refusal::Lost)?, known, deletions);
        Ok(Lease { relay, copy, tunnel, refused: 0 })
    }

    /// Why the run has to be made again without the connection, if it has to: it
    /// failed, and for a reason that lies in the lease.
    fn must_retry(&mut self, exit: ExitStatus) -> Option<String> {
        // A run over another connection would make the deletions that this one did not.
        let has_refused = self.relay.deletions().refused() > 0;
        if has_refused || matches!(exit, ExitStatus::Done | ExitStatus::Signal(_)) {
            return None;
        }
        if self.refused > 0 {
            return Some("mbsync wants a second connection".into());
        }
        match self.returned() {
            Returned::Broken(why) => Some(why),
            Returned::Whole { .. } if !self.relay.is_attached() => {
                Some("mbsync did not use the lent connection".into())
            }
            Returned::Whole { .. } => None,
        }
    }

    /// What became of the connection, once the run is over.
    fn returned(&mut self) -> Returned {
        match self.relay.finish() {
            Ok(()) => Returned::Whole { mailbox_open: self.relay.mailbox_open() },
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
    let shadows = !config.shadowed_channels.is_empty();
    if mbsyncrc::fingerprint(&text) != config.fingerprint {
        return Err(Refusal::Copy(Obstacle::NotAsRead));
    }
    if words.all && shadows {
        return Err(Refusal::Copy(Obstacle::SharedName));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::context::tests::Fixture;

    #[test]
    fn a_second_channel_of_a_name_is_the_reason_and_not_a_change() {
        let channel = "Channel Home\nFar :far:\nNear :near:\n\n";
        let text = "IMAPStore far\nHost localhost\n\nMaildirStore near\nPath /nowhere/\n\n";
        let text = format!("{text}{channel}{channel}");
        let fixture = Fixture::new(&text);
        let file = &fixture.config.file;
        let words = MbsyncWords { all: true, ..MbsyncWords::default() };
        let refusal = || copy_of(fixture.context(), &words, "x").unwrap_err().to_string();
        std::fs::write(file, &text).unwrap();
        assert_eq!(refusal(), "two channels have one name");
        std::fs::write(file, format!("{text}# later\n")).unwrap();
        assert_eq!(refusal(), "the configuration has changed");
    }
}
