//! User names and passwords, from the file or from the user's command.
//!
//! `PassCmd` and `UserCmd` run as mbsync runs them: by `sh -c`; the first line of
//! at most 8191 bytes counts, and no output is a failure. Unlike mbsync, this
//! waits for the command's own end only, and for a limited time: a daemon that
//! the command leaves behind does not hold it up.
//!
//! Does not depend on: what the secret is for. Keeps none.

use crate::error::{Error, ExitStatus, system_text};
use crate::model::CredentialSource;
use crate::os::child::{Child, Prompt};
use crate::os::wait::{Cancel, Woken, after};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest first line that counts (isync 1.4: an 8192-byte buffer).
const LONGEST: usize = 8191;
/// What a command, or a tunnel, is given between TERM and KILL.
pub(super) const GRACE: Duration = Duration::from_millis(50);

/// How a command may be run.
#[derive(Debug, Clone)]
pub struct PromptPolicy {
    /// Where it may ask the user.
    pub prompt: Prompt,
    /// How long it may take.
    pub time: Duration,
    /// What ends it early.
    pub cancel: Cancel,
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

fn first_line(
    command: &str,
    what: &str,
    asking: &PromptPolicy,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // The command itself is not repeated: it may have a secret in it.
    let denied = |why: String| {
        Error::new(ExitStatus::Denied, format!("{what} {why}"))
            .with_hint("run it by hand, as .mbsyncrc has it")
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdout(Stdio::piped());
    let scope = asking.prompt.prepare(&mut shell);
    let mut child = Child::spawn(&mut shell, scope, GRACE)
        .map_err(|e| denied(format!("cannot be started: {}", system_text(&e))))?;
    let mut line = FirstLine::new();
    let woken = child.follow(after(asking.time), Some(&asking.cancel), |chunk| line.take(chunk));
    match woken.map_err(|e| denied(format!("fails: {}", system_text(&e))))? {
        Woken::Ready => {}
        Woken::TimedOut => {
            let time = humantime::format_duration(asking.time);
            return Err(denied(format!("has not ended after {time}")));
        }
        Woken::Cancelled => {
            return Err(Error::new(ExitStatus::Later, format!("{what}: interrupted")));
        }
    }
    let status = child.reap().map_err(|_| denied("has vanished".to_owned()))?;
    if let Some(signal) = status.signal() {
        return Err(denied(format!("was ended by signal {signal}")));
    }
    if !status.success() {
        let status = status.code().unwrap_or_default();
        return Err(denied(format!("exited with status {status}")));
    }
    let line = line.finish();
    if line.is_empty() {
        return Err(denied("printed nothing".to_owned()));
    }
    Ok(line)
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
    use std::time::Instant;

    /// For commands that end by themselves, on a machine that has much to do.
    const AMPLE: u64 = 60_000;

    fn run(command: &str, millis: u64) -> Result<String, Error> {
        let asking = PromptPolicy {
            prompt: Prompt::Never,
            time: Duration::from_millis(millis),
            cancel: Cancel::new().unwrap(),
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
            assert_eq!(failure.status, ExitStatus::Denied);
            assert!(failure.message.contains(why), "{command}: {failure}");
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
            let limit = humantime::format_duration(Duration::from_millis(time));
            let expected = format!("has not ended after {limit}");
            assert!(failure.message.contains(&expected), "{failure}");
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
