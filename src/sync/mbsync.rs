//! One mbsync process: its command line, its output, its end.
//!
//! Knows how a run is started so that it cannot outlive us, how it is watched for
//! life, and how it is ended with all that it started.
//!
//! Does not depend on: what the run is for.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus as StdExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::forms::{Class, Collector, class_of};
use super::output::{
    Problem, explains_nothing, is_config_complaint, plain, problem, redact,
    says_nothing_of_the_run, without_passed_addresses,
};
use super::progress::Progress;
use super::run_log::{RunLog, RunLogReader};
use crate::error::{Error, ExitStatus, system_text};
use crate::os::child::{Child, LOOK_EVERY, Prompt, Scope};
use crate::os::fork;
use crate::os::procfs::{self, Process};
use crate::os::signals::Shutdown;
use crate::os::terminal;
use crate::os::wait::{self, Woken};
use crate::state::lock::Lock;
use crate::text::{sanitize, width};

/// How long TERM is given before KILL follows.
const GRACE: Duration = Duration::from_secs(5);
/// Longest line of output that is read; the rest of it is dropped.
const LONGEST_LINE: usize = 8 * 1024;
/// Most lines kept for the report.
const MOST_LINES: usize = 200;
/// A run that takes longer shows how far it is.
const LONG_RUN: Duration = Duration::from_secs(2);
/// As often as mbsync 1.5 counts, which counts more often than anyone can read.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// mbsync itself.
    pub program: &'a Path,
    /// The configuration it is given with `-c`.
    pub file: &'a Path,
    /// `--` and `CHANNEL`, `CHANNEL:BOX,BOX` …, or `-a`.
    pub words: &'a [String],
    /// Where it and its password command may ask.
    pub prompt: Prompt,
    /// Show mbsync's own counters: its standard output stays ours.
    pub progress: bool,
    /// Show how far it is, for the account of this name.
    pub live: Option<&'a str>,
    /// It is isync 1.5, and to say what it does: see [`RunLog`].
    pub logs: bool,
    /// Pass its messages on to standard error as they come.
    pub verbose: bool,
    /// Ended when it has moved next to nothing for so long.
    pub stall: Duration,
    /// Texts that must not be printed.
    pub secrets: &'a [&'a str],
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// The exit status that it leads to.
    pub exit: ExitStatus,
    /// What to tell the user; empty after a success.
    pub text: String,
    /// What mbsync's messages meant.
    pub problems: Vec<Problem>,
    /// What it did, if it said so and nothing went wrong.
    pub log: Option<RunLog>,
    /// What it could not carry, and what else it said.
    pub said: Collector,
    /// It said that something failed, which is neither in `problems` nor in `said`.
    pub fails: bool,
    /// It said nothing that would explain a failure.
    pub silent: bool,
}

/// What goes on beside a run, in the same loop that watches it.
pub trait Companion {
    /// Gives mbsync what it needs for it.
    fn prepare(&self, command: &mut Command);
    /// The configuration that mbsync is given instead of the user's file. Its
    /// messages are read as if they named that.
    fn file(&self) -> String;
    /// Adds the descriptors to wait for.
    fn poll_fds<'f>(&'f self, fds: &mut Vec<PollFd<'f>>);
    /// Does what can be done now, without waiting. True if there is more.
    fn pump(&mut self) -> bool;
}

/// The command line, for `-n` and `-v`.
#[must_use]
pub fn command_line(job: &Job<'_>) -> Vec<String> {
    let mut line = vec![job.program.display().to_string()];
    if job.logs || job.live.is_some() {
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
    shutdown: &Shutdown,
    beside: Option<&'a mut (dyn Companion + 'a)>,
) -> RunEnd {
    let _modes = (job.prompt == Prompt::Terminal).then(terminal::SavedModes::of_stdin);
    match start(job, lock, beside.as_deref()) {
        Ok((child, terminal)) => Supervised::new(job, child, terminal, beside)
            .and_then(|run| run.follow(shutdown))
            .unwrap_or_else(|error| {
                ended(
                    ExitStatus::Later,
                    format!("cannot follow mbsync: {}", system_text(&error)),
                    vec![],
                )
            }),
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
                _ => Error::system(&program.to_string(), &error).to_string(),
            };
            let permanent =
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
            ended(if permanent { ExitStatus::Config } else { ExitStatus::Later }, text, vec![])
        }
    }
}

fn ended(exit: ExitStatus, text: String, problems: Vec<Problem>) -> RunEnd {
    RunEnd { exit, text, problems, ..RunEnd::default() }
}

fn start(
    job: &Job<'_>,
    lock: &mut Lock,
    beside: Option<&(dyn Companion + '_)>,
) -> io::Result<(Child, Option<File>)> {
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
    // It counts on a terminal only.
    let (reads, prints) = match job.live.map(|_| terminal::pseudo_terminal()) {
        Some(Ok((reads, prints))) => (Some(reads), Some(prints)),
        _ => (None, None),
    };
    if prints.is_some() {
        // As wide as its counters: it cuts them, and has no room for them in less than 33
        // (isync 1.5.1, main_sync.c).
        command.env("COLUMNS", "200");
    }
    command.stdout(match prints {
        Some(prints) => Stdio::from(prints),
        None if job.progress && !job.logs => Stdio::inherit(),
        None => Stdio::piped(),
    });
    let scope = job.prompt.prepare(&mut command);
    lock.clear()?;
    fork::die_with_parent(&mut command, lock.as_fd());
    let child = Child::spawn(&mut command, scope, GRACE)?;
    // On a full disk there is no record; it dies with us all the same.
    let _ =
        Process::with_pid(child.pid()).map(|process| lock.record(process, scope == Scope::Session));
    Ok((child, reads))
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

/// A run that moves fewer bytes a second than this is at a standstill: a server that
/// gives out its answers byte by byte would have it for ever, and no line is so slow.
/// Network and disk count together, in both directions.
const SLOWEST: u64 = 256;

/// Whether a run has moved on from so many bytes to so many.
fn goes_on(before: Option<u64>, now: Option<u64>, stall: Duration) -> bool {
    match (before, now) {
        // Fewer: a child has ended, and its bytes are counted no more.
        (Some(before), Some(now)) => now < before || now - before > stall.as_secs() * SLOWEST,
        (before, now) => before != now,
    }
}

/// Why a run was ended.
#[derive(Clone, Copy)]
enum Why {
    Stalled,
    Signal(u8),
}

struct Supervised<'a> {
    job: &'a Job<'a>,
    child: Child,
    stderr: Lines<ChildStderr>,
    stdout: Lines<File>,
    live: Option<LiveProgress<'a>>,
    heard: Heard,
    log: Option<RunLogReader>,
    /// Why it was sent TERM; `None` also where that ends only what it has left.
    why: Option<Why>,
    beside: Option<&'a mut (dyn Companion + 'a)>,
    /// What mbsync calls the configuration, and what the user calls it.
    names: Option<(String, String)>,
}

impl<'a> Supervised<'a> {
    fn new(
        job: &'a Job<'a>,
        mut child: Child,
        terminal: Option<File>,
        beside: Option<&'a mut (dyn Companion + 'a)>,
    ) -> io::Result<Self> {
        let (stdout, stderr) = child.take_output();
        let stdout = stdout.map(|stdout| File::from(OwnedFd::from(stdout)));
        let live = job.live.filter(|_| terminal.is_some()).map(LiveProgress::new);
        Ok(Supervised {
            job,
            child,
            stderr: Lines::new(stderr)?,
            stdout: Lines::new(stdout.or(terminal))?,
            live,
            heard: Heard::default(),
            log: job.logs.then(RunLogReader::default),
            why: None,
            names: beside.as_ref().map(|beside| (beside.file(), job.file.display().to_string())),
            beside,
        })
    }

    /// After an error the run is ended with `self`: unwatched it must not live on,
    /// the lock is about to be free.
    fn follow(mut self, shutdown: &Shutdown) -> io::Result<RunEnd> {
        let mut moved = None;
        let mut moved_at = Instant::now();
        let look_every =
            (self.job.stall / 8).clamp(Duration::from_millis(50), Duration::from_secs(15));
        let mut look_at = Instant::now() + look_every;
        let mut status = None;
        loop {
            let more = self.beside.as_mut().is_some_and(|beside| beside.pump());
            let until = if more {
                Instant::now()
            } else if self.child.is_ending() {
                Instant::now() + LOOK_EVERY
            } else {
                let shown_at = self.live.as_ref().and_then(LiveProgress::due);
                shown_at.map_or(look_at, |at| at.min(look_at))
            };
            let only_beside = self.wait(shutdown, until, status.is_some())?;
            if let Some(live) = &mut self.live {
                live.show();
            }
            if only_beside && status.is_none() && Instant::now() < look_at {
                continue;
            }
            self.read();
            // Before its end is judged: a terminal's signal reaches mbsync and us at
            // once, and that is no failure of mbsync's.
            if let (false, Some(signal)) = (self.child.is_ending(), shutdown.signal()) {
                self.end(Why::Signal(signal));
            }
            if status.is_none() {
                status = self.child.try_reap()?;
                if status.is_some_and(|status| status.signal().is_some()) {
                    self.end_orphans();
                }
            }
            let lingers = self.child.lingers();
            if let (Some(status), false) = (status, lingers) {
                self.read();
                return Ok(self.ended(status));
            }
            if !self.child.is_ending() && Instant::now() >= look_at {
                look_at = Instant::now() + look_every;
                let now = procfs::bytes_moved_by_tree(self.child.pid());
                if goes_on(moved, now, self.job.stall) {
                    (moved, moved_at) = (now, Instant::now());
                } else if moved_at.elapsed() >= self.stall() {
                    self.end(Why::Stalled);
                }
            }
        }
    }

    /// A person may be typing a password: five times as long on a terminal.
    fn stall(&self) -> Duration {
        self.job.stall * if self.job.prompt == Prompt::Terminal { 5 } else { 1 }
    }

    /// Waits for anything. True if all that came is the business of what goes on
    /// beside the run.
    fn wait(&self, shutdown: &Shutdown, until: Instant, exited: bool) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(8);
        if !exited {
            fds.push(PollFd::new(&self.child, PollFlags::IN));
        }
        if !self.child.is_ending() {
            fds.push(PollFd::new(shutdown, PollFlags::IN));
        }
        fds.extend(self.stderr.from.iter().map(|from| PollFd::new(from, PollFlags::IN)));
        fds.extend(self.stdout.from.iter().map(|from| PollFd::new(from, PollFlags::IN)));
        let own = fds.len();
        if let (Some(beside), false) = (&self.beside, exited) {
            beside.poll_fds(&mut fds);
        }
        let woken = wait::wait(&mut fds, Some(until), None)?;
        let own_silent = fds.iter().take(own).all(|fd| fd.revents().is_empty());
        Ok(woken == Woken::Ready && own_silent)
    }

    fn read(&mut self) {
        let (job, heard, names) = (self.job, &mut self.heard, self.names.as_ref());
        self.stderr.take(|line| heard.line(line, job, names));
        // Without its standard output emptied, mbsync would wait for us for ever.
        let (log, live) = (&mut self.log, &mut self.live);
        self.stdout.take(|line| {
            if let Some(log) = log {
                log.line(line);
            }
            if let Some(live) = live {
                live.progress.line(line);
            }
            if job.verbose {
                eprint_line(&redact(line, job.secrets));
            }
        });
    }

    /// Of a wrapper that was killed mbsync itself may be left, of mbsync what it has
    /// started: the next run must meet neither.
    fn end_orphans(&mut self) {
        // Without their own process group they look like any other process.
        if !self.child.is_ending()
            && self.job.prompt != Prompt::Terminal
            && !procfs::group_members(self.child.pid()).is_empty()
        {
            self.child.terminate();
        }
    }

    fn end(&mut self, why: Why) {
        self.why = Some(why);
        self.child.terminate();
    }

    fn ended(mut self, status: StdExitStatus) -> RunEnd {
        let (job, mut heard, names) = (self.job, self.heard, self.names.as_ref());
        // mbsync 1.4 says one thing without a line end.
        self.stderr.rest(&mut |line| heard.line(line, job, names));
        let Heard { mut problems, other, mut said, objected, fails } = heard;
        if let Some(shown) = said.pending_reason() {
            problems.push((Problem::Mailbox { channel: None, mailbox: None }, shown));
        }
        let silent =
            !fails && problems.is_empty() && said.objections.is_empty() && said.notices.is_empty();
        let log = self.log.filter(|_| status.success() && !objected);
        let refused = said.objections.first().map(|objection| objection.text.clone());
        let ended = verdict_of(self.why, status, &problems, &other, refused, job.stall);
        if ended.exit == ExitStatus::Done {
            // What would explain a failure explains nothing now, and is said all the same.
            for (_, line) in &problems {
                said.notice(line);
            }
        } else {
            said.notices.retain(|line| !ended.text.contains(line.as_str()));
        }
        let log = log.filter(|_| ended.exit == ExitStatus::Done).and_then(RunLogReader::log);
        RunEnd { log, said, fails, silent, ..ended }
    }
}

/// How far a run is, on the terminal once it takes long. Gone with its value.
struct LiveProgress<'a> {
    account: &'a str,
    progress: Progress,
    /// When it may be shown next.
    next: Instant,
    shown: Option<String>,
}

impl<'a> LiveProgress<'a> {
    fn new(account: &'a str) -> Self {
        let progress = Progress::default();
        LiveProgress { account, progress, next: Instant::now() + LONG_RUN, shown: None }
    }

    /// The line, with the account's name.
    fn text(&self) -> Option<String> {
        let account = format!("{}: ", self.account);
        let columns = terminal::line_columns().saturating_sub(width(&account));
        Some(account + &self.progress.text(columns)?)
    }

    /// When there is something to show; `None` if nothing has changed.
    fn due(&self) -> Option<Instant> {
        let text = self.text();
        (text.is_some() && text != self.shown).then_some(self.next)
    }

    fn show(&mut self) {
        if self.due().is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.next = Instant::now() + SHOW_EVERY;
        self.shown = self.text();
        if let Some(text) = &self.shown {
            // A tab would take more columns than it is counted for.
            terminal::show(sanitize(text).replace('\t', " "));
        }
    }
}

impl Drop for LiveProgress<'_> {
    fn drop(&mut self) {
        terminal::show(String::new());
    }
}

/// What mbsync has said on standard error.
#[derive(Default)]
struct Heard {
    problems: Vec<(Problem, String)>,
    other: Vec<String>,
    said: Collector,
    /// Something was said that may mean that not all was done.
    objected: bool,
    /// See [`RunEnd::fails`].
    fails: bool,
}

impl Heard {
    /// Takes in a line. One about the copy of the configuration is one about the original.
    fn line(&mut self, line: &str, job: &Job<'_>, names: Option<&(String, String)>) {
        let line = match names {
            Some((copy, original)) => &*line.replace(copy, original),
            None => line,
        };
        let is_news = !says_nothing_of_the_run(line);
        self.objected |= is_news;
        let shown = redact(line, job.secrets).into_owned();
        if job.verbose {
            eprint_line(&shown);
        }
        let taken = self.said.take(line, &shown);
        // A program that mbsync starts, as the password command, may write such a line, too.
        let of_other =
            is_config_complaint(line) && !line.starts_with(&job.file.display().to_string());
        let found = problem(line).filter(|_| !taken && !of_other);
        let says_so = || matches!(class_of(line), Some(Class::Fails | Class::FailsUnsaid));
        self.fails |= is_news && !taken && !of_other && found.is_none() && says_so();
        match found {
            Some(found) if self.problems.len() < MOST_LINES => self.problems.push((found, shown)),
            _ if is_news && self.other.len() < MOST_LINES => self.other.push(shown),
            _ => {}
        }
    }
}

/// What an ended run comes to.
fn verdict_of(
    why: Option<Why>,
    status: StdExitStatus,
    problems: &[(Problem, String)],
    other: &[String],
    refused: Option<String>,
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
                format!("mbsync transferred less than 256 bytes a second for {stall}; ended{said}"),
                vec![],
            );
        }
        None => {}
    }
    let unsaid = |(_, line): &(Problem, String)| class_of(line) == Some(Class::FailsUnsaid);
    if status.success() && !problems.iter().any(unsaid) {
        return ended(ExitStatus::Done, String::new(), vec![]);
    }
    let problems = &*without_passed_addresses(problems);
    // An account's trouble explains its mailboxes' trouble.
    let worst = problems.iter().map(|(found, _)| found.exit()).max();
    let exit = worst.unwrap_or(if status.signal().is_some() {
        ExitStatus::Later
    } else {
        ExitStatus::Mailbox
    });
    let said = other.iter().rev().find(|line| !explains_nothing(line));
    let text = problems
        .iter()
        .find(|(found, _)| found.exit() == exit)
        .map(|(_, line)| plain(line, said.map(String::as_str)))
        .or_else(|| status.signal().map(|signal| format!("mbsync was ended by signal {signal}")))
        .or(refused)
        .or_else(|| said.cloned())
        .unwrap_or_else(|| format!("mbsync failed without a message ({status})"));
    ended(exit, text, problems.iter().map(|(found, _)| found.clone()).collect())
}

fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_passed_over_explains_no_failure() {
        let exit = |lines: &[&str]| {
            let with = |line: &&str| problem(line).map(|found| (found, (*line).to_owned()));
            let problems: Vec<_> = lines.iter().filter_map(with).collect();
            let failed = StdExitStatus::from_raw(1 << 8);
            let ended = verdict_of(None, failed, &problems, &[], None, Duration::from_secs(1));
            (ended.exit, ended.text)
        };
        let passed = "Cannot connect to h ([::1]:993): Connection refused";
        let mailbox = "Error: channel Home: far side box Lists cannot be opened.";
        let none_left = "No working address found for h";
        assert_eq!(exit(&[passed, mailbox]), (ExitStatus::Mailbox, mailbox.to_owned()));
        let login = "IMAP command 'LOGIN u <pass>' returned an error: NO Not you.";
        assert_eq!(exit(&[passed, login]).0, ExitStatus::Denied);
        for lines in [&[passed][..], &[passed, none_left], &[passed, none_left, mailbox]] {
            assert_eq!(exit(lines), (ExitStatus::Offline, passed.to_owned()));
        }
    }

    #[test]
    fn g9_a_byte_now_and_then_is_no_progress() {
        let stall = Duration::from_secs(120);
        assert!(!goes_on(Some(5000), Some(5000), stall));
        assert!(!goes_on(Some(5000), Some(5120), stall));
        assert!(!goes_on(Some(5000), Some(5000 + 100 * 120), stall));
        assert!(!goes_on(Some(5000), Some(5000 + 256 * 120), stall));
        assert!(goes_on(Some(5000), Some(5001 + 256 * 120), stall));
        assert!(goes_on(Some(5000), Some(100), stall));
        assert!(goes_on(None, Some(0), stall) && !goes_on(None, None, stall));
        assert!(goes_on(Some(1), Some(2), Duration::from_millis(400)));
    }
}
