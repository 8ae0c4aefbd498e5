//! User names and passwords, from the file or from the user's command.
//!
//! `PassCmd` and `UserCmd` run as mbsync runs them: by `sh -c`; the first line of
//! at most 8191 bytes counts, and no output is a failure. Unlike mbsync, this
//! waits for the command's own end only, and for a limited time: a daemon that
//! the command leaves behind does not hold it up.
//!
//! Does not depend on: what the secret is for. Keeps none.

use super::transport::{Interrupt, TransportError};
use crate::error::{Error, ExitStatus};
use crate::model::CredentialSource;
use crate::os::fork;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Longest first line that counts (isync 1.4: an 8192-byte buffer).
const LONGEST: usize = 8191;

/// How a command may be run.
#[derive(Debug, Clone)]
pub struct PromptPolicy {
    /// Whether it may open a prompt on the user's screen. If not, it has no
    /// `GPG_TTY`, `SSH_ASKPASS`, `DISPLAY` or `WAYLAND_DISPLAY`. It has no
    /// controlling terminal either way.
    pub may_prompt: bool,
    /// How long it may take.
    pub time: Duration,
    /// What ends it early.
    pub interrupt: Interrupt,
}

/// What the file gives, or what the command prints. `what` is the file's word
/// for it (`PassCmd`), for the text of a failure.
pub fn obtain(
    given: &CredentialSource,
    what: &str,
    asking: &PromptPolicy,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match given {
        CredentialSource::Text(text) => Ok(Zeroizing::new(text.as_bytes().to_vec())),
        CredentialSource::Command(command) => first_line(command, what, asking),
    }
}

/// A child in a session of its own, which ends with its whole process group when dropped.
pub(super) struct Group {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Group {
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        fork::in_new_session(command);
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let mut child = child;
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        };
        Ok(Group { child, pid, pidfd, reaped: false })
    }

    /// TERM, a moment, KILL; and no zombie.
    fn end(&mut self) {
        if self.reaped {
            return;
        }
        let _ = kill_process_group(self.pid, Signal::TERM);
        let moment = Instant::now() + Duration::from_millis(50);
        let _ = Interrupt::never().wait(&[(self.pidfd.as_fd(), PollFlags::IN)], moment);
        // The group outlives its leader while the leader is not reaped, so the
        // number can not have been given to somebody else.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
        self.reaped = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

fn first_line(
    command: &str,
    what: &str,
    asking: &PromptPolicy,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // The command itself is not repeated: it may have a secret in it.
    let denied = |why: String| {
        Error::new(ExitStatus::Denied, format!("{what} {why}; run it by hand, as .mbsyncrc has it"))
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped());
    if !asking.may_prompt {
        for name in ["GPG_TTY", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY"]
        {
            shell.env_remove(name);
        }
    }
    let mut group =
        Group::start(&mut shell).map_err(|e| denied(format!("cannot be started: {e}")))?;
    let Some(output) = group.child.stdout.take() else {
        return Err(denied("has no output".to_owned()));
    };
    let flags = rustix::fs::fcntl_getfl(&output).map_err(|e| denied(format!("fails: {e}")))?;
    rustix::fs::fcntl_setfl(&output, flags | rustix::fs::OFlags::NONBLOCK)
        .map_err(|e| denied(format!("fails: {e}")))?;

    let deadline = Instant::now() + asking.time;
    let mut line = FirstLine::new();
    let mut open = true;
    loop {
        let fds = [(group.pidfd.as_fd(), PollFlags::IN), (output.as_fd(), PollFlags::IN)];
        let ready = asking.interrupt.wait(&fds[..if open { 2 } else { 1 }], deadline);
        let ready = ready.map_err(|error| match error {
            TransportError::Deadline => {
                denied(format!("has not ended after {}", humantime::format_duration(asking.time)))
            }
            other => Error::new(ExitStatus::Later, format!("{what}: {other}")),
        })?;
        // Looked at before the pipe is emptied: what was printed before the end
        // is in the pipe by then.
        let ended = ready.first() == Some(&true);
        if open {
            open = drain(&output, &mut line).map_err(|e| denied(format!("fails: {e}")))?;
        }
        if Instant::now() >= deadline && !ended {
            return Err(denied(format!(
                "has not ended after {}",
                humantime::format_duration(asking.time)
            )));
        }
        if ended {
            break;
        }
    }
    let status = rustix::process::waitpid(Some(group.pid), WaitOptions::empty());
    group.reaped = true;
    let Ok(Some((_, status))) = status else {
        return Err(denied("has vanished".to_owned()));
    };
    if let Some(signal) = status.terminating_signal() {
        return Err(denied(format!("was ended by signal {signal}")));
    }
    if status.exit_status() != Some(0) {
        return Err(denied(format!(
            "exited with status {}",
            status.exit_status().unwrap_or_default()
        )));
    }
    let line = line.finish();
    if line.is_empty() {
        return Err(denied("printed nothing".to_owned()));
    }
    Ok(line)
}

/// Takes what the pipe has. False at its end.
fn drain(output: &impl AsFd, line: &mut FirstLine) -> Result<bool, std::io::Error> {
    let mut chunk = Zeroizing::new([0_u8; 4096]);
    // A command that prints without end must not keep us here.
    for _ in 0..64 {
        match rustix::io::read(output, &mut chunk[..]) {
            Ok(0) => return Ok(false),
            Ok(n) => line.take(&chunk[..n]),
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Collects bytes up to the first newline, in a buffer that never moves: a
/// growing one would leave copies behind.
struct FirstLine {
    bytes: Zeroizing<Vec<u8>>,
    ended: bool,
}

impl FirstLine {
    fn new() -> Self {
        FirstLine { bytes: Zeroizing::new(Vec::with_capacity(LONGEST)), ended: false }
    }

    fn take(&mut self, chunk: &[u8]) {
        if self.ended {
            return;
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        self.ended = end.is_some();
        let room = LONGEST - self.bytes.len();
        let part = &chunk[..end.unwrap_or(chunk.len())];
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For commands that end by themselves, on a machine that has much to do.
    const AMPLE: u64 = 60_000;

    fn run(command: &str, millis: u64) -> Result<String, Error> {
        let asking = PromptPolicy {
            may_prompt: false,
            time: Duration::from_millis(millis),
            interrupt: Interrupt::never(),
        };
        obtain(&CredentialSource::Command(command.to_owned()), "PassCmd", &asking)
            .map(|s| String::from_utf8_lossy(&s).into_owned())
    }

    #[test]
    fn the_first_line_counts() {
        for (command, line) in [
            ("printf 'one\\ntwo\\n'", "one"),
            ("printf 'no newline'", "no newline"),
            ("printf 'one\\n'; sleep 0.2; printf 'late\\n'", "one"),
            ("echo y; head -c 3000000 /dev/zero", "y"),
        ] {
            assert_eq!(run(command, AMPLE).unwrap(), line, "{command}");
        }
        assert_eq!(run("head -c 300000 /dev/zero | tr '\\0' x", AMPLE).unwrap().len(), LONGEST);
    }

    #[test]
    fn failing_silent_and_killed_commands_are_failures() {
        for (command, why) in [
            ("echo x; exit 3", "exited with status 3"),
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            ("kill -9 $$", "was ended by signal 9"),
            ("no-such-command-at-all 2>/dev/null", "exited with status 127"),
        ] {
            let failure = run(command, AMPLE).unwrap_err();
            assert_eq!(failure.exit, ExitStatus::Denied);
            assert!(failure.text.contains(why), "{command}: {failure}");
        }
    }

    #[test]
    fn g9_a_hanging_command_ends_with_all_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let command = format!("sleep 1000 & echo $! > {}; echo half; wait", file.display());
        // Longer where the shell has not come so far: the machine is busy.
        let mut time = 300;
        let pid = loop {
            let begun = Instant::now();
            let failure = run(&command, time).unwrap_err();
            let told = humantime::format_duration(Duration::from_millis(time));
            let told = format!("has not ended after {told}");
            assert!(failure.text.contains(&told), "{failure}");
            assert!(begun.elapsed() < Duration::from_secs(500), "nothing was ended");
            match std::fs::read_to_string(&file) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => time *= 2,
            }
        };
        let alive = || {
            std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        let begun = Instant::now();
        while alive() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{pid} lives");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn g9_endless_output_ends_at_the_deadline() {
        let begun = Instant::now();
        assert!(run("yes", 300).is_err());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn g9_a_daemon_left_behind_is_not_waited_for() {
        // It keeps the output open, and lives when the word is there.
        let daemon = run("sleep 1000 & echo $!", AMPLE).unwrap();
        let daemon = daemon.parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn g12_nothing_can_prompt() {
        let command = "echo \"${GPG_TTY-none} ${SSH_ASKPASS-none} ${DISPLAY-none} $(cat) $(sh -c 'exec </dev/tty' 2>/dev/null || echo no tty)\"";
        assert_eq!(run(command, AMPLE).unwrap(), "none none none  no tty");
    }
}
