//! One mbsync process: its command line, its output, its end.
//!
//! Knows how a run is started so that it cannot outlive us, how it is watched
//! for life, and how it is ended with all that it started. Does not know what
//! the run is for.

use std::borrow::Cow;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus as StdExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::output::{Problem, finding, redact, says_nothing_of_the_run};
use super::run_log::{self, RunLog};
use crate::error::{ExitStatus, with_hint};
use crate::os::fork;
use crate::os::procfs::{self, Process};
use crate::os::signals::Shutdown;
use crate::state::lock::Lock;

/// How long TERM is given before KILL follows.
const GRACE: Duration = Duration::from_secs(5);
/// Longest line of output looked at; the rest of it is dropped.
const LONGEST_LINE: usize = 8 * 1024;
/// Most lines kept for the report.
const MOST_LINES: usize = 200;

/// Variables that lead a password command to a prompt.
const PROMPTS: [&str; 5] =
    ["GPG_TTY", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY"];

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// mbsync itself.
    pub program: &'a Path,
    /// The configuration it is given with `-c`.
    pub file: &'a Path,
    /// `--` and `CHANNEL`, `CHANNEL:BOX,BOX` …, or `-a`.
    pub words: &'a [String],
    /// Where it may ask.
    pub prompt: Prompt,
    /// Show mbsync's own counters: its standard output stays ours.
    pub progress: bool,
    /// It is isync 1.5, and to say what it does: see [`RunLog`].
    pub logs: bool,
    /// Pass its messages on to standard error as they come.
    pub verbose: bool,
    /// Ended when it has moved next to nothing for so long.
    pub stall: Duration,
    /// Texts that must not be printed.
    pub secrets: &'a [&'a str],
}

/// Where mbsync and its password command may ask the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// On the terminal that we were started on: mbsync stays in our process group.
    Terminal,
    /// Only through what the environment offers: a graphical pinentry, not one
    /// that would take a terminal where something else is drawn.
    Environment,
    /// Nowhere: no terminal and no variable that leads to one.
    Never,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// The exit status that it leads to.
    pub exit: ExitStatus,
    /// What to tell the user; empty after a success.
    pub text: String,
    /// What mbsync's messages meant.
    pub findings: Vec<Problem>,
    /// What it did, if it said so and nothing went wrong.
    pub log: Option<RunLog>,
}

/// What goes on beside a run, in the same loop that watches it.
pub trait Companion {
    /// Gives mbsync what it needs for it.
    fn prepare(&self, command: &mut Command);
    /// The configuration that mbsync is given instead of the user's file. Its
    /// messages are read as if they named that.
    fn file(&self) -> String;
    /// Descriptors to wait for.
    fn wish<'f>(&'f self, fds: &mut Vec<PollFd<'f>>);
    /// Does what can be done now, without waiting. True if there is more.
    fn pump(&mut self) -> bool;
}

/// The command line, for `-n` and `-v`.
#[must_use]
pub fn command_line(job: &Job<'_>) -> Vec<String> {
    let mut line = vec![job.program.display().to_string()];
    if job.logs {
        line.push("-V".into());
    } else if !job.progress {
        line.push("-q".into());
    }
    line.push("-c".into());
    line.push(job.file.display().to_string());
    line.extend(job.words.iter().cloned());
    line
}

/// Runs mbsync to its end, or ends it: when it stalls, or when a signal comes.
/// The lock's text names the run while it lasts.
pub fn run<'a>(
    job: &'a Job<'a>,
    lock: &mut Lock,
    stop: &Shutdown,
    beside: Option<&'a mut (dyn Companion + 'a)>,
) -> RunEnd {
    match start(job, lock, beside.as_deref()) {
        Ok(child) => match Supervised::new(job, child, lock, beside).map(|run| run.follow(stop)) {
            Ok(ended) => ended,
            Err(error) => {
                ended(ExitStatus::Later, format!("cannot follow mbsync: {error}"), vec![])
            }
        },
        Err(error) => {
            let program = job.program.display();
            let text = match error.kind() {
                io::ErrorKind::NotFound => format!(
                    "{program}: not found; install isync, or name the program as `mbsync` in config.toml"
                ),
                io::ErrorKind::PermissionDenied => {
                    format!(
                        "{program}: not executable; chmod +x it, or name another as `mbsync` in config.toml"
                    )
                }
                _ => format!("{program}: {}", with_hint(&error)),
            };
            let permanent =
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
            ended(if permanent { ExitStatus::Config } else { ExitStatus::Later }, text, vec![])
        }
    }
}

fn ended(exit: ExitStatus, text: String, findings: Vec<Problem>) -> RunEnd {
    RunEnd { exit, text, findings, log: None }
}

fn start(
    job: &Job<'_>,
    lock: &mut Lock,
    beside: Option<&(dyn Companion + '_)>,
) -> io::Result<Child> {
    let mut line = command_line(job);
    let mut command = Command::new(job.program);
    if let Some(beside) = beside {
        beside.prepare(&mut command);
        if let Some(at) = line.iter().position(|word| word == "-c") {
            if let Some(file) = line.get_mut(at + 1) {
                *file = beside.file();
            }
        }
    }
    command.args(line.iter().skip(1)).stderr(Stdio::piped());
    if job.prompt == Prompt::Terminal {
        command.stdin(Stdio::inherit());
    } else {
        command.stdin(Stdio::null());
        fork::in_new_session(&mut command);
    }
    let leads_to_prompt: &[&str] = match job.prompt {
        Prompt::Terminal => &[],
        Prompt::Environment => &["GPG_TTY"],
        Prompt::Never => &PROMPTS,
    };
    for name in leads_to_prompt {
        command.env_remove(name);
    }
    let inherits = job.progress && !job.logs;
    command.stdout(if inherits { Stdio::inherit() } else { Stdio::piped() });
    lock.clear()?;
    fork::die_with_parent(&mut command, lock.as_fd()).spawn()
}

/// Reads lines without waiting, and keeps no more of them than is useful.
struct Lines<R> {
    from: Option<R>,
    part: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    fn new(from: Option<R>) -> io::Result<Self> {
        if let Some(from) = &from {
            rustix::io::ioctl_fionbio(from, true)?;
        }
        Ok(Lines { from, part: Vec::new() })
    }

    /// Takes what is there, up to a bound, so that a flood does not keep us
    /// from the rest of the world.
    fn take(&mut self, mut each: impl FnMut(&str)) {
        let mut buffer = [0; 4096];
        for _ in 0..64 {
            let Some(from) = &mut self.from else { return };
            match from.read(&mut buffer) {
                Ok(0) => self.from = None,
                Ok(count) => self.split(buffer.get(..count).unwrap_or_default(), &mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.from = None,
            }
        }
    }

    fn split(&mut self, bytes: &[u8], each: &mut impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.rest(each);
            } else if self.part.len() < LONGEST_LINE {
                self.part.push(byte);
            }
        }
    }

    fn rest(&mut self, each: &mut impl FnMut(&str)) {
        if !self.part.is_empty() {
            each(&String::from_utf8_lossy(&self.part));
            self.part.clear();
        }
    }
}

/// Whether a run has moved on from so many bytes to so many. Two bytes a second
/// are none: a server that gives out its answers byte by byte would have it for
/// ever, and no line is so slow.
fn goes_on(before: Option<u64>, now: Option<u64>, stall: Duration) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => now.abs_diff(before) > stall.as_secs() * 2,
        (before, now) => before != now,
    }
}

/// What is being done about the run's end.
enum Termination {
    /// Nothing: it runs.
    No,
    /// TERM was sent, for this reason; without one to what a killed run has left.
    Asked { why: Option<Why>, since: Instant, killed: bool, tree: Vec<Process> },
}

#[derive(Clone, Copy)]
enum Why {
    Stalled,
    Signal(u8),
}

struct Supervised<'a> {
    job: &'a Job<'a>,
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    stderr: Lines<ChildStderr>,
    stdout: Lines<ChildStdout>,
    findings: Vec<(Problem, String)>,
    other: Vec<String>,
    log: Option<run_log::RunLogReader>,
    /// Something was said that may mean that not all was done.
    objected: bool,
    ending: Termination,
    beside: Option<&'a mut (dyn Companion + 'a)>,
    /// What mbsync calls the configuration, and what the user calls it.
    names: Option<(String, String)>,
}

impl<'a> Supervised<'a> {
    fn new(
        job: &'a Job<'a>,
        mut child: Child,
        lock: &mut Lock,
        beside: Option<&'a mut (dyn Companion + 'a)>,
    ) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let own_group = job.prompt != Prompt::Terminal;
        // On a full disk there is no record; it dies with us all the same.
        let _ = Process::with_pid(pid).map(|process| lock.record(process, own_group));
        let set_up = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| {
                let stderr = Lines::new(child.stderr.take())?;
                Ok((pidfd, stderr, Lines::new(child.stdout.take())?))
            });
        match set_up {
            Ok((pidfd, stderr, stdout)) => Ok(Supervised {
                job,
                child,
                pid,
                pidfd,
                stderr,
                stdout,
                findings: Vec::new(),
                other: Vec::new(),
                log: job.logs.then(run_log::RunLogReader::default),
                objected: false,
                ending: Termination::No,
                names: beside
                    .as_ref()
                    .map(|beside| (beside.file(), job.file.display().to_string())),
                beside,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn follow(mut self, stop: &Shutdown) -> RunEnd {
        match self.watch(stop) {
            Ok(status) => self.ended(status),
            Err(error) => {
                // Unwatched it must not live on: the lock is about to be free.
                self.end(Some(Why::Stalled));
                let _ = self.child.kill();
                let _ = self.child.wait();
                ended(ExitStatus::Later, format!("cannot follow mbsync: {error}"), vec![])
            }
        }
    }

    fn watch(&mut self, stop: &Shutdown) -> io::Result<StdExitStatus> {
        let mut moved = None;
        let mut moved_at = Instant::now();
        let look_every =
            (self.job.stall / 8).clamp(Duration::from_millis(50), Duration::from_secs(15));
        let mut look_at = Instant::now() + look_every;
        let mut status = None;
        loop {
            let more = self.beside.as_mut().is_some_and(|beside| beside.pump());
            let timeout = match &self.ending {
                _ if more => Duration::ZERO,
                Termination::No => look_at.saturating_duration_since(Instant::now()),
                // What lingers in the process group has no descriptor to poll.
                Termination::Asked { .. } => Duration::from_millis(5),
            };
            let only_beside = self.wait(stop, timeout, status.is_some())?;
            if only_beside && status.is_none() && Instant::now() < look_at {
                continue;
            }
            self.read();
            // Before the look at its end: a terminal's signal ends mbsync and tells
            // us to stop at once, and that is no failure of mbsync's.
            if let (Termination::No, Some(signal)) = (&self.ending, stop.signal()) {
                self.end(Some(Why::Signal(signal)));
            }
            if status.is_none() {
                status = self.child.try_wait()?;
                if status.is_some_and(|status| status.signal().is_some()) {
                    self.end_orphans();
                }
            }
            if let Some(status) = status {
                if !self.lingers() {
                    self.read();
                    return Ok(status);
                }
            }
            if matches!(self.ending, Termination::No) && Instant::now() >= look_at {
                look_at = Instant::now() + look_every;
                let now = procfs::bytes_moved_by_tree(self.pid);
                if goes_on(moved, now, self.job.stall) {
                    (moved, moved_at) = (now, Instant::now());
                } else if moved_at.elapsed() >= self.stall() {
                    self.end(Some(Why::Stalled));
                }
            }
            self.lose_patience();
        }
    }

    /// A person may be typing a password: five times as long on a terminal.
    fn stall(&self) -> Duration {
        self.job.stall * if self.job.prompt == Prompt::Terminal { 5 } else { 1 }
    }

    /// Waits for anything. True if all that came is the business of what goes on
    /// beside the run.
    fn wait(&self, stop: &Shutdown, timeout: Duration, exited: bool) -> io::Result<bool> {
        let timeout = rustix::time::Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut fds = Vec::with_capacity(8);
        if !exited {
            fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        if matches!(self.ending, Termination::No) {
            fds.push(PollFd::new(stop, PollFlags::IN));
        }
        if let Some(from) = &self.stderr.from {
            fds.push(PollFd::new(from, PollFlags::IN));
        }
        if let Some(from) = &self.stdout.from {
            fds.push(PollFd::new(from, PollFlags::IN));
        }
        let own = fds.len();
        if let (Some(beside), false) = (&self.beside, exited) {
            beside.wish(&mut fds);
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => Ok(fds.iter().take(own).all(|fd| fd.revents().is_empty())),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self) {
        let (job, findings, other) = (self.job, &mut self.findings, &mut self.other);
        let (names, objected) = (&self.names, &mut self.objected);
        let mut note = |line: &str| {
            let line = &*under_its_own_name(line, names.as_ref());
            *objected |= !says_nothing_of_the_run(line);
            let sanitize = redact(line, job.secrets);
            if job.verbose {
                eprint_line(&sanitize);
            }
            match finding(line) {
                Some(found) if findings.len() < MOST_LINES => {
                    findings.push((found, sanitize.into_owned()));
                }
                _ if other.len() < MOST_LINES => other.push(sanitize.into_owned()),
                _ => {}
            }
        };
        self.stderr.take(&mut note);
        // Without its standard output emptied, mbsync would wait for us for ever.
        let log = &mut self.log;
        self.stdout.take(|line| {
            if let Some(log) = log {
                log.line(line);
            }
            if job.verbose {
                eprint_line(&redact(line, job.secrets));
            }
        });
    }

    /// Of a wrapper that was killed mbsync itself may be left, of mbsync what it has
    /// started: the next run must meet neither.
    fn end_orphans(&mut self) {
        // Without a group of its own nobody can tell them from others any more.
        let led_a_group = self.job.prompt != Prompt::Terminal;
        if matches!(self.ending, Termination::No)
            && led_a_group
            && !procfs::group_members(self.pid).is_empty()
        {
            self.end(None);
        }
    }

    /// Sends TERM to mbsync and to all that it has started.
    fn end(&mut self, why: Option<Why>) {
        let tree = if self.job.prompt == Prompt::Terminal {
            // Our group may be mutt's: only the run's own processes are meant.
            let mut tree = procfs::descendants(self.pid);
            tree.extend(Process::with_pid(self.pid));
            tree
        } else {
            vec![]
        };
        self.signal(Signal::TERM, &tree);
        self.ending = Termination::Asked { why, since: Instant::now(), killed: false, tree };
    }

    fn lose_patience(&mut self) {
        if let Termination::Asked { since, killed, tree, .. } = &mut self.ending {
            if since.elapsed() >= GRACE && !*killed {
                *killed = true;
                let tree = std::mem::take(tree);
                self.signal(Signal::KILL, &tree);
            }
        }
    }

    fn signal(&self, signal: Signal, tree: &[Process]) {
        if self.job.prompt == Prompt::Terminal {
            for process in tree {
                process.signal(signal);
            }
        } else {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Whether something that is to be ended has not ended. After KILL nothing
    /// is waited for any more.
    fn lingers(&self) -> bool {
        match &self.ending {
            Termination::No => false,
            Termination::Asked { killed: true, since, .. } => {
                self.job.prompt != Prompt::Terminal
                    && since.elapsed() < GRACE * 2
                    && !procfs::group_members(self.pid).is_empty()
            }
            Termination::Asked { tree, .. } if self.job.prompt == Prompt::Terminal => {
                tree.iter().any(|process| process.is_alive())
            }
            Termination::Asked { .. } => !procfs::group_members(self.pid).is_empty(),
        }
    }

    fn ended(mut self, status: StdExitStatus) -> RunEnd {
        let (job, findings, other) = (self.job, &mut self.findings, &mut self.other);
        // mbsync 1.4 says one thing without a line end.
        let (names, objected) = (&self.names, &mut self.objected);
        self.stderr.rest(&mut |line| {
            let line = &*under_its_own_name(line, names.as_ref());
            *objected |= !says_nothing_of_the_run(line);
            let sanitize = redact(line, job.secrets).into_owned();
            match finding(line) {
                Some(found) => findings.push((found, sanitize)),
                None => other.push(sanitize),
            }
        });
        let why = match &self.ending {
            Termination::Asked { why, .. } => *why,
            Termination::No => None,
        };
        let log = self.log.filter(|_| status.success() && !self.objected);
        let ended = verdict_of(why, status, self.findings, &self.other, self.job.stall);
        let log =
            log.filter(|_| ended.exit == ExitStatus::Done).and_then(run_log::RunLogReader::log);
        RunEnd { log, ..ended }
    }
}

/// A message about the copy of the configuration, as one about the original.
fn under_its_own_name<'a>(line: &'a str, names: Option<&(String, String)>) -> Cow<'a, str> {
    match names {
        Some((copy, original)) if line.contains(copy) => line.replace(copy, original).into(),
        _ => line.into(),
    }
}

/// What an ended run comes to.
fn verdict_of(
    why: Option<Why>,
    status: StdExitStatus,
    findings: Vec<(Problem, String)>,
    other: &[String],
    stall: Duration,
) -> RunEnd {
    match why {
        Some(Why::Signal(signal)) => {
            return ended(ExitStatus::Signal(signal), String::new(), vec![]);
        }
        Some(Why::Stalled) => {
            let stall = humantime::format_duration(stall);
            let said = other.last().map(|line| format!(" ({line})")).unwrap_or_default();
            return ended(
                ExitStatus::Offline,
                format!("mbsync moved no byte for {stall}; ended{said}"),
                vec![],
            );
        }
        None => {}
    }
    // mbsync 1.4.4 succeeds although it could not write a Maildir (observed).
    let unsaid = findings.iter().position(|(_, line)| line.starts_with("Maildir error: "));
    if status.success() && unsaid.is_none() {
        return ended(ExitStatus::Done, String::new(), vec![]);
    }
    // An account's trouble explains its mailboxes' trouble.
    let worst = findings.iter().map(|(found, _)| found.exit()).max();
    let exit = worst.unwrap_or(if status.signal().is_some() {
        ExitStatus::Later
    } else {
        ExitStatus::Mailbox
    });
    let text = findings
        .iter()
        .find(|(found, _)| found.exit() == exit)
        .map(|(_, line)| line.clone())
        .or_else(|| status.signal().map(|signal| format!("mbsync was ended by signal {signal}")))
        .or_else(|| other.iter().rev().find(|line| !line.starts_with("Warning")).cloned())
        .unwrap_or_else(|| format!("mbsync failed without a message ({status})"));
    ended(exit, text, findings.into_iter().map(|(found, _)| found).collect())
}

fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g9_a_byte_now_and_then_is_no_progress() {
        let stall = Duration::from_secs(120);
        assert!(!goes_on(Some(5000), Some(5000), stall));
        assert!(!goes_on(Some(5000), Some(5120), stall));
        assert!(goes_on(Some(5000), Some(5241), stall));
        // A child has ended, and its bytes are counted no more.
        assert!(goes_on(Some(5000), Some(100), stall));
        assert!(goes_on(None, Some(0), stall) && !goes_on(None, None, stall));
        assert!(goes_on(Some(1), Some(2), Duration::from_millis(400)));
    }
}
