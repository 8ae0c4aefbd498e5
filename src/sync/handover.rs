//! A connection lent to one run of mbsync: its copy of the configuration, and
//! the private way on which it finds the connection.
//!
//! mbsync starts the copy's `Tunnel`, which is this program again. That passes
//! mbsync's socket to the waiter, over a descriptor that only mbsync and what it
//! starts have inherited, and is gone: no process stands between, nothing has a
//! name in the file system that another could use. The copy lies in memory,
//! sealed. Knows nothing of IMAP and nothing of when to run.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::mbsync::Companion;
use crate::error::ExitStatus;
use crate::imap::handover::{Flow, Relay};
use crate::imap::{Client, ClientError};
use crate::mbsyncrc::copy::{self, Obstacle, Purpose};
use crate::mbsyncrc::{self, Config, MbsyncWords};
use crate::model::Account;
use crate::os::fork;

/// The word by which this program is told to be the tunnel.
const WORK: &str = "tunnel";

/// Why a run does not get the connection.
#[derive(Debug)]
pub enum Refusal {
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

/// What became of a connection on loan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// As good as before.
    Whole,
    /// It cannot be used again: why.
    Broken(String),
}

/// A connection on loan to one run.
#[derive(Debug)]
pub struct Handover {
    relay: Relay,
    copy: OwnedFd,
    program: OwnedFd,
    /// Our end, and the one that mbsync inherits.
    ours: UnixStream,
    theirs: UnixStream,
    /// Connections asked for after the first.
    refused: u32,
}

impl Handover {
    /// Gets all ready. From here on the link watches nothing.
    ///
    /// # Errors
    /// Why the run must be a plain one. Only [`Refusal::Lost`] has touched the link.
    pub fn prepare(
        link: &mut Client,
        config: &Config,
        account: &Account,
        words: &MbsyncWords,
    ) -> Result<Self, Refusal> {
        if !link.capabilities().unselect() {
            return Err(Refusal::NoUnselect);
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let program = program()?;
        let tunnel = format!(
            "exec /proc/self/fd/{} --child {WORK} {}",
            program.as_raw_fd(),
            theirs.as_raw_fd()
        );
        let copy = copy_of(config, account, words, &tunnel)?;
        let relay = Relay::of(link).map_err(Refusal::Lost)?;
        Ok(Handover { relay, copy, program, ours, theirs, refused: 0 })
    }

    /// Whether the run has to be made again, without the connection: it failed,
    /// and for a reason that lies in the loan.
    #[must_use]
    pub fn spoilt(&mut self, exit: ExitStatus) -> Option<String> {
        if matches!(exit, ExitStatus::Done | ExitStatus::Signal(_)) {
            return None;
        }
        if self.refused > 0 {
            return Some("mbsync wants a second connection".into());
        }
        match self.given_back() {
            Returned::Broken(why) => Some(why),
            Returned::Whole if !self.relay.was_joined() => {
                Some("mbsync did not come for the connection".into())
            }
            Returned::Whole => None,
        }
    }

    /// What became of the connection, once the run is over.
    pub fn given_back(&mut self) -> Returned {
        match self.relay.given_back() {
            Ok(()) => Returned::Whole,
            Err(trouble) => Returned::Broken(trouble.to_string()),
        }
    }

    /// Takes in who comes for the connection.
    fn admit(&mut self) {
        while let Ok(Some(socket)) = receive(&self.ours) {
            if !self.relay.join(socket.into()) {
                self.refused += 1;
            }
        }
    }
}

impl Companion for Handover {
    fn prepare(&self, command: &mut Command) {
        let fds = [self.copy.as_fd(), self.program.as_fd(), self.theirs.as_fd()];
        fork::inherit(command, &fds);
    }

    fn file(&self) -> String {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd())
    }

    fn wish<'f>(&'f self, fds: &mut Vec<PollFd<'f>>) {
        fds.push(PollFd::new(&self.ours, PollFlags::IN));
        self.relay.wish(fds);
    }

    fn pump(&mut self) -> bool {
        // Whoever comes while bytes move is noticed when they have come to rest.
        let flow = self.relay.pump();
        if flow == Flow::Still {
            self.admit();
        }
        flow == Flow::More
    }
}

/// The program that is to be the tunnel: the one beside ours that loads no
/// OpenSSL, which starts in half the time, else ours.
fn program() -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        #[expect(clippy::disallowed_methods, reason = "a name for a file, not its content")]
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
    };
    let ours = Path::new("/proc/self/exe");
    let beside = std::fs::read_link(ours).ok().map(|path| path.with_file_name("mutt-sync"));
    let runs = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    match beside.filter(runs).map(|path| open(&path)) {
        Some(Ok(program)) => Ok(program),
        _ => open(ours),
    }
}

/// The copy, in memory that has no name and cannot be changed any more.
fn copy_of(
    config: &Config,
    account: &Account,
    words: &MbsyncWords,
    tunnel: &str,
) -> Result<OwnedFd, Refusal> {
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
    let text = copy::copy(&text, &purpose).map_err(Refusal::Copy)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("mbsyncrc", flags).map_err(io::Error::from)?;
    let _ = rustix::fs::fchmod(&memory, Mode::RUSR);
    let mut file = File::from(memory);
    file.write_all(&text)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
    Ok(file.into())
}

/// A socket that somebody passes; `None` if nobody is there.
fn receive(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.next().and_then(|mut fds| fds.next()))
}

/// If these are the arguments of the tunnel, is the tunnel: passes standard
/// input on, and is done. Looked at before anything else, for mbsync waits.
#[must_use]
pub fn is_tunnel(arguments: &[OsString]) -> Option<ExitStatus> {
    let [_, child, work, number] = arguments else { return None };
    if child != "--child" || work != WORK {
        return None;
    }
    let to = number.to_str().and_then(|number| number.parse().ok()).and_then(fork::inherited);
    let passed = to.is_some_and(|to| pass(to).is_ok());
    Some(if passed { ExitStatus::Done } else { ExitStatus::Usage })
}

fn pass(to: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let stdin = io::stdin();
    let fds = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(to, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
