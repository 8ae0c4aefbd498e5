//! One child process, bounded: it ends by itself, or it is ended with all that it
//! has started, by TERM, a grace, and KILL.
//!
//! Does not depend on: what the child is for. Another system than Linux would
//! need something in place of the pidfd (kqueue's `NOTE_EXIT`) and of
//! [`procfs`]'s lists of processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use zeroize::Zeroizing;

use super::fork;
use super::procfs::{self, Process};
use super::wait::{Cancel, Woken, readable, wait};

/// How often an ending process group is checked: it has no descriptor.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Variables that lead a password command to a prompt.
const PROMPTS: [&str; 5] =
    ["GPG_TTY", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY"];

/// Where a child may ask the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// On the terminal that we were started on: the child stays in our session.
    Terminal,
    /// Only through what the environment offers: a graphical pinentry, not one
    /// that would take a terminal where something else is drawn.
    Environment,
    /// Nowhere: no terminal and no variable that leads to one.
    Never,
}

impl Prompt {
    /// Sets up standard input and environment for it.
    pub fn prepare(self, command: &mut Command) -> Scope {
        let (scope, without): (_, &[&str]) = match self {
            Prompt::Terminal => (Scope::Tree, &[]),
            Prompt::Environment => (Scope::Session, &["GPG_TTY"]),
            Prompt::Never => (Scope::Session, &PROMPTS),
        };
        command.stdin(if self == Prompt::Terminal { Stdio::inherit() } else { Stdio::null() });
        for name in without {
            command.env_remove(name);
        }
        scope
    }
}

/// What is ended with a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It gets a session of its own, without a terminal, and so a process group,
    /// which is ended.
    Session,
    /// It stays in our group, which may be mutt's: what descends from it is ended.
    Tree,
}

/// A running child. Dropped before it was reaped, it is ended.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    pid: Pid,
    pidfd: OwnedFd,
    scope: Scope,
    grace: Duration,
    ending: Option<Ending>,
    reaped: bool,
}

#[derive(Debug)]
struct Ending {
    since: Instant,
    killed: bool,
    tree: Vec<Process>,
}

impl Child {
    /// Starts it. Between TERM and KILL it is given `grace`.
    pub fn spawn(command: &mut Command, scope: Scope, grace: Duration) -> io::Result<Self> {
        if scope == Scope::Session {
            fork::in_new_session(command);
        }
        let mut process = command.spawn()?;
        let pid = Pid::from_child(&process);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => {
                Ok(Child { process, pid, pidfd, scope, grace, ending: None, reaped: false })
            }
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error.into())
            }
        }
    }

    /// Its process id, and in a session of its own that of its group.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its standard output and error, as far as they are pipes.
    pub fn take_output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.process.stdout.take(), self.process.stderr.take())
    }

    /// Waits for its end ([`Woken::Ready`]), and hands what it prints to `each`:
    /// all that it has printed by then. What a daemon that it has left behind
    /// prints later is not waited for. Its output is closed after its end.
    pub fn follow(
        &mut self,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
        each: impl FnMut(&[u8]),
    ) -> io::Result<Woken> {
        self.follow_both(deadline, cancel, each, |_| ())
    }

    /// The same, with what it prints to standard error.
    pub fn follow_both(
        &mut self,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
        mut each: impl FnMut(&[u8]),
        mut each_error: impl FnMut(&[u8]),
    ) -> io::Result<Woken> {
        let (mut output, mut errors) = self.take_output();
        if let Some(output) = &output {
            rustix::io::ioctl_fionbio(output, true)?;
        }
        if let Some(errors) = &errors {
            rustix::io::ioctl_fionbio(errors, true)?;
        }
        loop {
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            fds.extend(output.iter().map(|output| PollFd::new(output, PollFlags::IN)));
            fds.extend(errors.iter().map(|errors| PollFd::new(errors, PollFlags::IN)));
            let woken = wait(&mut fds, deadline, cancel)?;
            // Known before the pipe is emptied: what was printed before the end is
            // in the pipe by then.
            let ended = fds.first().is_some_and(|pidfd| !pidfd.revents().is_empty());
            drop(fds);
            if let Some(from) = &output {
                if !drain(from, &mut each)? {
                    output = None;
                }
            }
            if let Some(from) = &errors {
                if !drain(from, &mut each_error)? {
                    errors = None;
                }
            }
            if ended {
                return Ok(Woken::Ready);
            }
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if woken != Woken::Ready || is_over {
                (self.process.stdout, self.process.stderr) = (output, errors);
                return Ok(if woken == Woken::Ready { Woken::TimedOut } else { woken });
            }
        }
    }

    /// How it has ended; waits for that. What it has left running is left alone.
    pub fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait();
        self.reaped = true;
        status
    }

    /// The same without waiting.
    pub fn try_reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.process.try_wait()?;
        self.reaped |= status.is_some();
        Ok(status)
    }

    /// Sends TERM to it and to all that it has started. From then on
    /// [`Child::lingers`] has to be asked.
    pub fn terminate(&mut self) {
        let mut tree = Vec::new();
        if self.scope == Scope::Tree {
            tree = procfs::descendants(self.pid);
            tree.extend(Process::with_pid(self.pid));
        }
        self.signal(Signal::TERM, &tree);
        self.ending = Some(Ending { since: Instant::now(), killed: false, tree });
    }

    /// Whether TERM was sent.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether something of what was sent TERM is still there. Sends KILL once the
    /// grace is over; a second grace later nothing is waited for any more.
    pub fn lingers(&mut self) -> bool {
        let Some(mut ending) = self.ending.take() else { return false };
        let for_so_long = ending.since.elapsed();
        if for_so_long >= self.grace && !ending.killed {
            ending.killed = true;
            self.signal(Signal::KILL, &ending.tree);
        }
        let lingers = match self.scope {
            _ if !self.has_ended() => true,
            Scope::Session => {
                for_so_long < self.grace * 2 && !procfs::group_members(self.pid).is_empty()
            }
            Scope::Tree => !ending.killed && ending.tree.iter().any(|process| process.is_alive()),
        };
        self.ending = Some(ending);
        lingers
    }

    fn has_ended(&self) -> bool {
        self.reaped || matches!(readable(self, Some(Instant::now()), None), Ok(Woken::Ready))
    }

    fn signal(&self, signal: Signal, tree: &[Process]) {
        match self.scope {
            // The group outlives its leader while the leader is not reaped, so the
            // number is still its own.
            Scope::Session => drop(kill_process_group(self.pid, signal)),
            Scope::Tree => tree.iter().for_each(|process| process.signal(signal)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        if !self.is_ending() {
            self.terminate();
        }
        let _ = readable(self, super::wait::after(self.grace), None);
        while self.lingers() {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.process.wait();
    }
}

impl AsFd for Child {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Takes what the pipe has. False at its end.
fn drain(from: &impl AsFd, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let mut chunk = Zeroizing::new([0_u8; 4096]);
    // A command that prints without end must not keep us here.
    for _ in 0..64 {
        match rustix::io::read(from, &mut chunk[..]) {
            Ok(0) => return Ok(false),
            Ok(count) => each(chunk.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::AGAIN) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::wait::after;

    /// For what ends by itself, on a machine that has much to do.
    const AMPLE: Duration = Duration::from_secs(60);

    /// A shell that has printed `up`, and what its script has left after `up`.
    fn shell(script: &str, scope: Scope, grace: Duration) -> (Child, Option<Process>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command, scope, grace).unwrap();
        let (stdout, _) = child.take_output();
        let mut line = String::new();
        let mut stdout = io::BufReader::new(stdout.unwrap());
        io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        let started = procfs::pid(line.trim()).and_then(Process::with_pid);
        (child, started)
    }

    #[test]
    fn all_that_was_printed_is_handed_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 300000 /dev/zero; sleep 1000 & exit 7"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command, Scope::Session, AMPLE).unwrap();
        let mut count = 0;
        let woken = child.follow(after(AMPLE), None, |chunk| count += chunk.len()).unwrap();
        assert_eq!((woken, count), (Woken::Ready, 300_000));
        // Dropped and not reaped, it ends with what it has left behind.
        let members = procfs::group_members(child.pid());
        assert_eq!(members.len(), 1);
        drop(child);
        assert!(!members[0].is_alive());
    }

    #[test]
    fn a_child_that_was_reaped_leaves_its_daemon_alone() {
        let (mut child, daemon) = shell("sleep 1000 & echo $!; exit 7", Scope::Session, AMPLE);
        assert_eq!(child.reap().unwrap().code(), Some(7));
        drop(child);
        let daemon = daemon.unwrap();
        assert!(daemon.is_alive());
        daemon.signal(Signal::KILL);
    }

    #[test]
    fn g9_a_wait_for_a_child_ends_at_its_deadline_or_when_cancelled() {
        let raised = Cancel::new().unwrap();
        raised.raise();
        for script in ["exec sleep 1000", "exec yes"] {
            let follow = |deadline, cancel| {
                let mut command = Command::new("sh");
                command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
                let mut child = Child::spawn(&mut command, Scope::Session, AMPLE).unwrap();
                child.follow(deadline, cancel, |_| ()).unwrap()
            };
            assert_eq!(follow(after(Duration::from_millis(50)), None), Woken::TimedOut);
            assert_eq!(follow(None, Some(&raised)), Woken::Cancelled);
        }
    }

    #[test]
    fn g9_what_obeys_no_term_is_killed_with_all_that_it_started() {
        let script = "trap '' TERM; sleep 1000 & echo $!; wait; wait";
        for scope in [Scope::Session, Scope::Tree] {
            let (child, started) = shell(script, scope, Duration::from_millis(50));
            let process = Process::with_pid(child.pid()).unwrap();
            let begun = Instant::now();
            drop(child);
            assert!(begun.elapsed() >= Duration::from_millis(50));
            assert!(!process.is_alive());
            let gone = started.unwrap().wait_gone(after(AMPLE), None);
            assert_eq!(gone, Woken::Ready, "{scope:?}");
        }
    }

    #[test]
    fn what_obeys_term_is_given_its_grace_though_its_leader_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let tidied = dir.path().join("tidied");
        let worker = format!(
            "trap 'sleep 0.2; echo >{}; exit' TERM; echo $$; while :; do sleep 0.01; done",
            tidied.display()
        );
        let script = format!("sh -c \"{worker}\" & wait");
        let (child, _) = shell(&script, Scope::Session, AMPLE);
        drop(child);
        assert!(tidied.exists());
    }
}
