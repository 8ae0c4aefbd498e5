//! User names and passwords, from the file or from the user's command.
//!
//! `PassCmd` and `UserCmd` run as mbsync runs them: by `sh -c`; the first line of
//! at most 8191 bytes counts, and no output is a failure. A login of ours is more
//! patient than mbsync ([`Reading`]): it takes all that a command prints, and waits for
//! the command's own end only. What it prints to standard error is shown at a terminal,
//! and elsewhere quoted when it fails.
//!
//! Does not depend on: what the secret is for. Keeps none.

use super::parse::without;
use crate::error::{Error, ErrorKind, ExitStatus, system_text};
use crate::mbsync_version::IsyncVersion;
use crate::model::CredentialSource;
use crate::os::child::{Child, Prompt};
use crate::os::terminal;
use crate::os::wait::{Cancel, Woken, after, readable};
use crate::text::{is_printable, printable};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus as StdExitStatus, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Longest first line that counts (isync 1.4: an 8192-byte buffer).
const LONGEST: usize = 8191;
/// What a pipe takes before a writer has to wait (pipe(7)).
const PIPE_CAPACITY: usize = 64 << 10;
/// Bytes of standard error that are kept: its last line counts.
const ERRORS_KEPT: usize = 4 << 10;
/// One that takes longer is waited for aloud.
const LONG: Duration = Duration::from_secs(2);
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
    /// What becomes of its output.
    pub reading: Reading,
    /// Whose it is, for a user at the terminal who is told of one that takes long.
    pub told_of: Option<String>,
}

impl PromptPolicy {
    fn ignores_sigpipe(&self) -> bool {
        self.reading == Reading::AsMbsync(IsyncVersion::V1_5)
    }
}

/// What becomes of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of it is taken, until the command ends.
    Whole,
    /// As this mbsync takes it (`drv_imap.c`, `cred_from_cmd`): the pipe is closed
    /// after the first line, and a line without an end is waited for, also when the
    /// command has ended and what it has started holds the pipe. In 1.5 the command
    /// ignores SIGPIPE, as mbsync does.
    AsMbsync(IsyncVersion),
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
    let denied = |why: &str| {
        Error::new(ExitStatus::Denied, format!("{what} {why}"))
            .with_hint("run it by hand, as .mbsyncrc has it")
            .of_kind(ErrorKind::PasswordCommand)
    };
    let failed = |e: &io::Error| denied(&format!("cannot be run: {}", system_text(e)));
    let ran = match asking.reading {
        Reading::Whole => whole(command, what, asking),
        Reading::AsMbsync(_) => as_mbsync(command, asking),
    }
    .map_err(|e| failed(&e))?;
    let said = ran.errors.last_line(&ran.line.bytes);
    let denied = |why: String| match &said {
        Some(said) => denied(&format!("{why}: {said}")),
        None => denied(&why),
    };
    let time = humantime::format_duration(asking.time);
    match (ran.woken, ran.status) {
        (Woken::Cancelled, _) => {
            return Err(Error::new(ExitStatus::Later, format!("{what}: interrupted")));
        }
        (Woken::TimedOut, Some(_)) => {
            return Err(denied(format!(
                "has ended, but a child keeps its output open; mbsync would wait for it, {time} so far"
            )));
        }
        (_, None) => {
            return Err(denied(format!("has not ended after {time}")));
        }
        (Woken::Ready, Some(status)) if !status.success() => {
            let closed = ran.closed && (met_a_closed_pipe(status) || asking.ignores_sigpipe());
            let kind = if closed { ErrorKind::OutputClosed } else { ErrorKind::PasswordCommand };
            return Err(denied(how_it_ended(status, ran.closed)).of_kind(kind));
        }
        (Woken::Ready, Some(_)) => {}
    }
    if ran.line.bytes.is_empty() {
        return Err(denied("printed nothing".to_owned()));
    }
    Ok(ran.line.bytes)
}

/// How a command has failed; `closed`: after its output was closed.
fn how_it_ended(status: StdExitStatus, closed: bool) -> String {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, code) => format!("exited with status {}", code.unwrap_or_default()),
    };
    if closed && met_a_closed_pipe(status) {
        return format!(
            "{how} (SIGPIPE): it prints more after its first line, and mbsync has closed its output by then"
        );
    }
    how
}

/// It, or what it has started: a shell adds 128 to the signal's number.
fn met_a_closed_pipe(status: StdExitStatus) -> bool {
    const SIGPIPE: i32 = 13;
    status.signal() == Some(SIGPIPE) || status.code() == Some(128 + SIGPIPE)
}

/// What a command did.
struct CommandEnd {
    line: FirstLine,
    errors: ErrorText,
    /// How the wait for it ended.
    woken: Woken,
    /// `None`: it has not ended, and is made to.
    status: Option<StdExitStatus>,
    /// Its output was closed before it had closed it itself.
    closed: bool,
}

fn whole(command: &str, what: &str, asking: &PromptPolicy) -> io::Result<CommandEnd> {
    let mut shell = shell(command, asking);
    shell.stdout(Stdio::piped());
    let scope = asking.prompt.prepare(&mut shell);
    let mut child = Child::spawn(&mut shell, scope, GRACE)?;
    let (mut line, mut errors) = (FirstLine::new(), ErrorText::of(asking));
    let mut follow = |time, errors: &mut ErrorText| {
        let error = |chunk: &[u8]| errors.take(chunk);
        child.follow_both(after(time), Some(&asking.cancel), |chunk| line.take(chunk), error)
    };
    let mut woken = Woken::TimedOut;
    if let Some(account) = &asking.told_of {
        woken = follow(LONG, &mut errors)?;
        if woken == Woken::TimedOut && errors.bytes.is_empty() {
            terminal::say(&format!("{account}: waiting for {what}"));
        }
    }
    if woken == Woken::TimedOut {
        woken = follow(asking.time, &mut errors)?;
    }
    let status = if woken == Woken::Ready { Some(child.reap()?) } else { None };
    Ok(CommandEnd { line, errors, woken, status, closed: false })
}

fn as_mbsync(command: &str, asking: &PromptPolicy) -> io::Result<CommandEnd> {
    // It has room for one write, and keeps each apart: whatever the timing, a second
    // one meets a closed pipe.
    let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT)?;
    let page = fcntl_setpipe_size(&input, 1)?;
    let mut shell = shell(command, asking);
    shell.stdout(Stdio::from(input));
    let scope = asking.prompt.prepare(&mut shell);
    let mut child = Child::spawn(&mut shell, scope, GRACE)?;
    // Our copy of the writing end.
    drop(shell);
    let mut errors = ErrorText::of(asking);
    let deadline = after(asking.time);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_as_mbsync(output, page, deadline, &asking.cancel));
        let ended =
            child.follow_both(deadline, Some(&asking.cancel), |_| (), |chunk| errors.take(chunk));
        let status = match &ended {
            Ok(Woken::Ready) => Some(child.reap()?),
            _ => None,
        };
        let read = reader.join().unwrap_or_else(|_| Err(io::Error::other("reader")))?;
        let woken = if read.1 == Woken::Ready { ended? } else { read.1 };
        let closed = read.0.is_whole() && woken == Woken::Ready;
        Ok(CommandEnd { line: read.0, errors, woken, status, closed })
    })
}

/// Reads until mbsync would stop, and closes the pipe.
#[allow(clippy::needless_pass_by_value)]
fn read_as_mbsync(
    output: OwnedFd,
    page: usize,
    deadline: Option<Instant>,
    cancel: &Cancel,
) -> io::Result<(FirstLine, Woken)> {
    let (seen, copy) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut chunk = Zeroizing::new(vec![0; page]);
    let mut line = FirstLine::new();
    let mut taken = 0;
    loop {
        let woken = readable(&output, deadline, Some(cancel))?;
        if woken != Woken::Ready {
            return Ok((line, woken));
        }
        // Looked at before it is taken: as long as it fills the pipe, nothing follows it.
        if tee(&output, &copy, chunk.len(), SpliceFlags::empty())? == 0 {
            return Ok((line, Woken::Ready));
        }
        let count = rustix::io::read(&seen, &mut chunk[..])?;
        line.take(chunk.get(..count).unwrap_or_default());
        taken += count;
        // A full page may be a part of one large write, which fits into mbsync's pipe.
        if line.is_whole() && (count < chunk.len() || taken >= PIPE_CAPACITY) {
            return Ok((line, Woken::Ready));
        }
        rustix::io::read(&output, &mut chunk[..])?;
    }
}

fn shell(command: &str, asking: &PromptPolicy) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c");
    if asking.ignores_sigpipe() {
        shell.args([r#"trap '' PIPE; exec /bin/sh -c "$1""#, "sh"]);
    }
    shell.arg(command).stderr(Stdio::piped());
    shell
}

/// What a command prints to standard error: the last of it.
struct ErrorText {
    bytes: Zeroizing<Vec<u8>>,
    /// It is shown as well: a question on a terminal may stand there.
    shown: bool,
}

impl ErrorText {
    fn of(asking: &PromptPolicy) -> Self {
        ErrorText {
            bytes: Zeroizing::new(Vec::with_capacity(2 * ERRORS_KEPT)),
            shown: asking.prompt == Prompt::Terminal,
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        if self.shown {
            let _ = io::stderr().write_all(chunk);
        }
        self.bytes.extend_from_slice(chunk);
        let over = self.bytes.len().saturating_sub(ERRORS_KEPT);
        self.bytes.drain(..over);
    }

    /// Its last line, if it was not shown, fit to be: without the secret, should it stand
    /// there.
    fn last_line(&self, secret: &[u8]) -> Option<String> {
        if self.shown {
            return None;
        }
        let secret = Zeroizing::new(String::from_utf8_lossy(secret).into_owned());
        let text = String::from_utf8_lossy(&self.bytes);
        text.lines().rev().find_map(|line| {
            let mut line: String = line.chars().filter(|c| is_printable(*c)).collect();
            if let Some(masked) = without(&line, &secret) {
                line.clone_from(&masked);
            }
            Some(printable(&line)).filter(|line| !line.is_empty())
        })
    }
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

    /// What follows does not count.
    fn is_whole(&self) -> bool {
        self.ended || self.bytes.len() == LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// For commands that end by themselves, on a machine that has much to do.
    const AMPLE: u64 = 60_000;

    fn run(command: &str, millis: u64) -> Result<String, Error> {
        read(command, millis, Reading::Whole)
    }

    fn read(command: &str, millis: u64, reading: Reading) -> Result<String, Error> {
        let asking = PromptPolicy {
            prompt: Prompt::Never,
            time: Duration::from_millis(millis),
            cancel: Cancel::new().unwrap(),
            reading,
            told_of: None,
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

    fn as_mbsync(command: &str, millis: u64) -> [Result<String, Error>; 2] {
        [IsyncVersion::V1_4, IsyncVersion::V1_5]
            .map(|version| read(command, millis, Reading::AsMbsync(version)))
    }

    /// Whatever the timing: mbsync fails in most runs, this in each.
    #[test]
    fn a_command_that_goes_on_writing_fails_as_it_does_in_mbsync() {
        for _ in 0..20 {
            for command in
                ["echo x; echo more", "echo x; /bin/echo more", "echo x; sleep 0.05; echo"]
            {
                let [old, new] = as_mbsync(command, AMPLE).map(Result::unwrap_err);
                assert!(old.message.contains("(SIGPIPE): it prints more"), "{command}: {old}");
                assert!(new.message.contains("exited with status 1"), "{command}: {new}");
                assert_eq!(
                    (old.kind, new.kind),
                    (ErrorKind::OutputClosed, ErrorKind::OutputClosed)
                );
                assert_eq!(run(command, AMPLE).unwrap(), "x");
            }
        }
        let shell = "sh -c 'echo x; sleep 0.05; echo y'; exit $?";
        let [old, new] = as_mbsync(shell, AMPLE).map(Result::unwrap_err);
        assert!(old.message.contains("exited with status 141 (SIGPIPE)"), "{old}");
        assert!(new.message.contains("exited with status 1"), "{new}");
        // Only where SIGPIPE is ignored does this come to its end.
        let [old, new] = as_mbsync("echo x; echo y; true", AMPLE);
        assert!(old.is_err());
        assert_eq!(new.unwrap(), "x");
    }

    #[test]
    fn what_mbsync_takes_is_taken() {
        let big = "(echo x; head -c 9000 /dev/zero) | dd bs=20000 iflag=fullblock 2>/dev/null";
        for (command, line) in [
            ("echo one", "one"),
            ("printf 'no newline'", "no newline"),
            ("printf 'a'; sleep 0.05; printf 'b\\n'", "ab"),
            ("printf 'one\\ntwo\\nthree\\n'", "one"),
            (big, "x"),
            ("(echo x; sleep 0.05; echo y) | head -n 1", "x"),
            ("echo x; sleep 1000 >&2 &", "x"),
            ("sh -c 'echo x; sleep 0.05; echo y'; exit 0", "x"),
        ] {
            for taken in as_mbsync(command, AMPLE) {
                assert_eq!(taken.unwrap(), line, "{command}");
            }
        }
        for taken in as_mbsync("head -c 300000 /dev/zero | tr '\\0' x; exit 0", AMPLE) {
            assert_eq!(taken.unwrap().len(), LONGEST);
        }
        for command in ["true", "echo", "exit 3", "kill -9 $$"] {
            assert!(as_mbsync(command, AMPLE).iter().all(Result::is_err), "{command}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_waited_for_as_mbsync_does() {
        let command = "printf x; sleep 3 &";
        assert_eq!(run(command, AMPLE).unwrap(), "x");
        for taken in as_mbsync(command, 1000) {
            let error = taken.unwrap_err();
            assert!(error.message.contains("keeps its output open"), "{error}");
        }
        assert!(as_mbsync(command, AMPLE).iter().all(Result::is_ok));
        let hangs = as_mbsync("echo x; sleep 1000", 300).map(Result::unwrap_err);
        assert!(hangs.iter().all(|error| error.message.contains("has not ended after 300ms")));
    }

    #[test]
    fn g11_a_commands_own_words_are_quoted_and_the_secret_is_not() {
        for (command, said) in [
            (
                "echo first >&2; echo vault is locked >&2; echo >&2; exit 1",
                "status 1: vault is locked",
            ),
            ("printf 'vault is locked' >&2", "printed nothing: vault is locked"),
            ("echo hunter2; echo no hunter2 >&2; exit 1", "status 1: no ********"),
            ("printf '\\033[2Jgo\\342\\200\\256ne' >&2; exit 1", "status 1: [2Jgone"),
            ("exit 1", "exited with status 1"),
        ] {
            let [old, new] = as_mbsync(command, AMPLE);
            for failed in [run(command, AMPLE), old, new] {
                let message = failed.unwrap_err().message;
                assert!(message.ends_with(said), "{command}: {message}");
            }
        }
        let much = "head -c 3000000 /dev/zero | tr '\\0' y >&2; exit 1";
        let message = run(much, AMPLE).unwrap_err().message;
        assert!(message.ends_with("yyy") && message.len() < 300, "{message}");
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
