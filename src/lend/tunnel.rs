//! The way from mbsync to the connection: mbsync starts the `Tunnel` of its
//! configuration, which is this program again. That passes mbsync's socket on to
//! the lender, over a descriptor that only mbsync and what it starts have
//! inherited, and ends: no process remains in between, nothing has a name in the
//! file system that another could use.
//!
//! Does not depend on: IMAP, configuration.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::error::ExitStatus;
use crate::os::fork;

/// The argument that makes this program a tunnel.
const WORK: &str = "tunnel";

/// The lender's side of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    program: OwnedFd,
    /// Our end, and the one that mbsync inherits.
    ours: UnixStream,
    theirs: UnixStream,
}

impl Tunnel {
    pub(super) fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok(Tunnel { program: program()?, ours, theirs })
    }

    /// The shell command for mbsync's `Tunnel`.
    pub(super) fn command(&self) -> String {
        let (program, theirs) = (self.program.as_raw_fd(), self.theirs.as_raw_fd());
        format!("exec /proc/self/fd/{program} --child {WORK} {theirs}")
    }

    /// What mbsync must inherit for it.
    pub(super) fn inherited(&self) -> [BorrowedFd<'_>; 2] {
        [self.program.as_fd(), self.theirs.as_fd()]
    }

    /// A socket that a tunnel has passed; `None` if none has come.
    pub(super) fn receive(&self) -> io::Result<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = rustix::net::recvmsg(
            &self.ours,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )?;
        if got.bytes == 0 {
            return Ok(None);
        }
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok(fds.next().and_then(|mut fds| fds.next()))
    }
}

impl AsFd for Tunnel {
    /// Readable when a socket has been passed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
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

/// If these are the arguments of a tunnel, is the tunnel: passes standard input
/// on. To be called before anything else, for mbsync waits.
#[must_use]
pub fn run_if_asked(arguments: &[OsString]) -> Option<ExitStatus> {
    let [_, child, work, number] = arguments else { return None };
    if child != "--child" || work != WORK {
        return None;
    }
    let to = number.to_str().and_then(|number| number.parse().ok()).and_then(fork::inherited);
    let passed = to.is_some_and(|to| pass_stdin(to).is_ok());
    Some(if passed { ExitStatus::Done } else { ExitStatus::Usage })
}

fn pass_stdin(to: BorrowedFd<'_>) -> io::Result<()> {
    let stdin = io::stdin();
    let fds = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(to, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
