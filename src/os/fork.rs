//! The few steps that the language cannot check: what happens in a process
//! between fork and exec, a fork without exec, and the process's own settings.
//!
//! The only module with `unsafe`. Does not depend on: anything but system calls.
//! Another system lacks `die_with_parent`'s prctl; kqueue's `NOTE_EXIT` in a
//! helper process is the usual substitute.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

/// Which side of [`fork_detached`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The caller; the child goes on by itself.
    Parent,
    /// The child: in a session of its own, with 0, 1 and 2 on `/dev/null`.
    Child,
}

/// Forks a child that no terminal, pipe or mutt waits for.
///
/// Only for a process with one thread: the child goes on running ordinary code.
///
/// What a terminal sends to its processes does not reach the child, not even
/// before it has left their session: mutt may quit, and its terminal close, the
/// moment that the parent has ended.
pub fn fork_detached() -> io::Result<Forked> {
    // SAFETY: callers have one thread (checked below), so no lock of another
    // thread can be left held in the child.
    #[allow(clippy::undocumented_unsafe_blocks)]
    if thread_count() > 1 {
        return Err(io::Error::other("fork with several threads"));
    }
    // Before there is a child: one that kept the caller's pipe would be waited
    // for by mutt's backtick.
    #[expect(clippy::disallowed_methods, reason = "a device, and always this one")]
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let ignored = IgnoredSignals::now();
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = rustix::process::setsid();
            drop(ignored);
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
            Ok(Forked::Child)
        }
        _ => Ok(Forked::Parent),
    }
}

/// Signals that a terminal sends.
const OF_TERMINALS: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// While it exists, they are ignored; then they do what they did before.
struct IgnoredSignals([libc::sigaction; 3]);

impl IgnoredSignals {
    fn now() -> Self {
        // SAFETY: all zero is a valid sigaction: the default one.
        let mut before: [libc::sigaction; 3] = unsafe { std::mem::zeroed() };
        for (signal, before) in OF_TERMINALS.into_iter().zip(&mut before) {
            // SAFETY: as above.
            let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
            ignore.sa_sigaction = libc::SIG_IGN;
            // SAFETY: both point to values of ours; the signal exists and may be ignored.
            unsafe { libc::sigaction(signal, &raw const ignore, before) };
        }
        IgnoredSignals(before)
    }
}

impl Drop for IgnoredSignals {
    fn drop(&mut self) {
        for (signal, before) in OF_TERMINALS.into_iter().zip(&self.0) {
            // SAFETY: it points to what sigaction itself has written.
            unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
        }
    }
}

/// Threads of this process, by the kernel's count; 1 when it will not say.
fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Gives the command a session of its own: no terminal to prompt on, and a
/// process group that can be ended as a whole.
pub fn in_new_session(command: &mut Command) -> &mut Command {
    let hook = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: setsid(2) is async-signal-safe and the closure allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// Makes the command die with the thread that starts it, and write its process
/// id into `record` before it executes, so that there is no moment at which it
/// runs unrecorded.
///
/// The child is ended by SIGKILL, which a stopped process obeys too. A parent
/// that died before the request was in place is noticed by its process id.
/// The signal mask is emptied: what is blocked here must not stay blocked there.
pub fn die_with_parent<'a>(command: &'a mut Command, record: BorrowedFd<'_>) -> &'a mut Command {
    let parent = rustix::process::getpid();
    let record: RawFd = record.as_raw_fd();
    let hook = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut text = [0_u8; 12];
        let used = decimal(rustix::process::getpid(), &mut text);
        // SAFETY: the parent keeps the descriptor open until spawn returns, and
        // between fork and exec nobody else can close the child's copy.
        let record = unsafe { BorrowedFd::borrow_raw(record) };
        if let Some(text) = text.get(..used) {
            let _ = rustix::io::pwrite(record, text, 0);
        }
        empty_signal_mask();
        Ok(())
    };
    // SAFETY: prctl, getppid, getpid, pwrite and sigprocmask are plain system
    // calls; the closure neither allocates nor takes a lock.
    unsafe { command.pre_exec(hook) }
}

/// Lets the command, and what it starts, have these descriptors under the
/// numbers that they have here. Nobody else gets them: here they stay
/// close-on-exec. They must stay open until the command is spawned.
pub fn inherit<'a>(command: &'a mut Command, fds: &[BorrowedFd<'_>]) -> &'a mut Command {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let hook = move || {
        for &fd in &fds {
            // SAFETY: the caller keeps them open until spawn returns; between
            // fork and exec nobody else can close the child's copies.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: fcntl(2) is async-signal-safe and the closure allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// A descriptor that this process was given under this number, for use while it
/// runs; `None` if there is none.
#[must_use]
pub fn inherited(number: RawFd) -> Option<BorrowedFd<'static>> {
    if number < 0 {
        return None;
    }
    // SAFETY: not closed by us, and used only if the kernel knows it: were it
    // another one's, this process would at worst use the wrong file.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
}

/// Undoes what a careless parent has left: no signal is blocked, the end of a child
/// is told to us, and TERM ends the process. To be called before anything else. HUP
/// and INT may be ignored on purpose (nohup, a shell's `&`).
pub fn reset_signals() {
    empty_signal_mask();
    default_action(libc::SIGCHLD);
    default_action(libc::SIGTERM);
}

/// The signal does from now on what the kernel does with it unasked.
pub fn default_action(signal: i32) {
    // SAFETY: no handler is installed but the default one; an unknown signal is refused.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Whether this signal is ignored now, as under nohup(1).
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data for which zeroes are a valid value, and
    // with no new action given the call only fills it in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Unblocks every signal in the calling thread.
fn empty_signal_mask() {
    // SAFETY: sigset_t is plain data that sigemptyset fills before it is read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Writes a process id and a newline in decimal without allocating; returns the length.
fn decimal(pid: Pid, into: &mut [u8; 12]) -> usize {
    let mut digits = [0_u8; 10];
    let mut left = pid.as_raw_nonzero().get().unsigned_abs();
    let mut count = 0;
    while left > 0 {
        if let (Some(digit), Ok(value)) = (digits.get_mut(count), u8::try_from(left % 10)) {
            *digit = b'0' + value;
        }
        left /= 10;
        count += 1;
    }
    for (to, from) in into.iter_mut().zip(digits.iter().take(count).rev()) {
        *to = *from;
    }
    if let Some(end) = into.get_mut(count) {
        *end = b'\n';
    }
    count + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_writes_what_format_would() {
        for n in [1, 7, 10, 4_194_304, i32::MAX] {
            let mut text = [0; 12];
            let used = decimal(Pid::from_raw(n).unwrap(), &mut text);
            assert_eq!(&text[..used], format!("{n}\n").as_bytes());
        }
    }

    #[test]
    fn g1_the_child_is_recorded_before_it_executes() {
        let file = tempfile::tempfile().unwrap();
        let mut command = Command::new("true");
        let child = die_with_parent(&mut command, std::os::fd::AsFd::as_fd(&file)).spawn();
        let mut child = child.unwrap();
        let text = std::io::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{}\n", child.id()));
        assert!(child.wait().unwrap().success());
    }
}
