//! Processes: running one to its end, and looking at those that run.
//!
//! Everything is read from `/proc`; nothing is found or ended by name.

use crate::other_user::is_root;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group,
    pidfd_open, setrlimit,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::NamedTempFile;

/// Sleeps until so many milliseconds of a second have passed on the wall clock.
pub fn sleep_until_phase(millis: u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let phase = u64::from(now.subsec_micros());
    thread::sleep(Duration::from_micros((millis * 1000 + 1_000_000 - phase) % 1_000_000));
}

/// Nanoseconds of `CLOCK_MONOTONIC`, comparable with the times in [`crate::Run`].
pub fn now_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// How a command ended, and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// As waited for.
    pub status: ExitStatus,
    /// All of it, as text.
    pub stdout: String,
    /// All of it, as text.
    pub stderr: String,
    /// Until the process had ended and its outputs were closed, by it and by
    /// processes that inherited them.
    pub elapsed: Duration,
    /// Until the process itself had ended.
    pub exited: Duration,
}

impl Output {
    /// The exit code; 128 + N if it was ended by signal N.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Itself, if the exit code is this; else the test fails with the outputs.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "exit code; {self}");
        self
    }

    /// Itself, if it ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect_code(0)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { status, stdout, stderr, elapsed, .. } = self;
        write!(f, "{status} after {elapsed:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

/// Runs the command with an empty standard input, in a process group of its
/// own, until it has ended and its outputs are closed. If that takes longer
/// than `limit` its group is killed and the test fails with what it said.
#[track_caller]
// The loop goes on until it was waited for; the lint does not see that.
#[allow(clippy::zombie_processes)]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let start = Instant::now();
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn(command).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let group = pid_of(child.id());
    let mut out = child.stdout.take().expect("stdout is piped");
    let mut err = child.stderr.take().expect("stderr is piped");
    let pidfd = pidfd_open(group, PidfdFlags::empty()).expect("pidfd_open");
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    let mut ended: Option<(ExitStatus, Duration)> = None;
    while out_open || err_open || ended.is_none() {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let what = if ended.is_some() { "left its output open" } else { "did not end" };
            panic!(
                "{shown} {what} within {limit:?}\n--- stdout\n{}\n--- stderr\n{}\n---",
                text(&stdout),
                text(&stderr)
            );
        }
        let ready: Vec<u8> = {
            let watched = [
                (out_open, out.as_fd()),
                (err_open, err.as_fd()),
                (ended.is_none(), pidfd.as_fd()),
            ];
            let (names, mut fds): (Vec<u8>, Vec<PollFd<'_>>) = (0..)
                .zip(watched)
                .filter(|(_, (open, _))| *open)
                .map(|(name, (_, fd))| (name, PollFd::from_borrowed_fd(fd, PollFlags::IN)))
                .unzip();
            let _ = poll(&mut fds, Some(&timespec(left)));
            let ready = |(name, fd): (u8, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(name);
            names.into_iter().zip(&fds).filter_map(ready).collect()
        };
        let mut chunk = [0; 16384];
        for name in ready {
            match name {
                0 => match out.read(&mut chunk) {
                    Ok(0) | Err(_) => out_open = false,
                    Ok(n) => stdout.extend_from_slice(&chunk[..n]),
                },
                1 => match err.read(&mut chunk) {
                    Ok(0) | Err(_) => err_open = false,
                    Ok(n) => stderr.extend_from_slice(&chunk[..n]),
                },
                _ => ended = Some((child.wait().expect("wait"), start.elapsed())),
            }
        }
    }
    let (status, exited) = ended.expect("the loop ends only then");
    Output {
        status,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        elapsed: start.elapsed(),
        exited,
    }
}

/// Runs all of them at once, as [`run`] does one, and returns how each ended,
/// in their order.
#[track_caller]
pub fn run_all(commands: Vec<Command>, limit: Duration) -> Vec<Output> {
    thread::scope(|scope| {
        let threads: Vec<_> = commands
            .into_iter()
            .map(|mut command| scope.spawn(move || run(&mut command, limit)))
            .collect();
        threads.into_iter().map(|t| t.join().expect("a command failed, see above")).collect()
    })
}

/// A command under way, in a process group of its own. Killed with its group
/// when dropped.
pub struct Running {
    child: Child,
    shown: String,
    start: Instant,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    ended: Option<(ExitStatus, Duration)>,
}

impl Running {
    /// Starts it, with an empty standard input.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let file = || NamedTempFile::new().expect("temporary file");
        let (stdout, stderr) = (file(), file());
        let writer = |file: &NamedTempFile| file.reopen().expect("temporary file");
        command.stdin(Stdio::null()).stdout(writer(&stdout)).stderr(writer(&stderr));
        let child =
            spawn(command.process_group(0)).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let shown = format!("{command:?}");
        Running { child, shown, start: Instant::now(), stdout, stderr, ended: None }
    }

    /// Its pid, and its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn stdout(&self) -> String {
        let bytes = fs::read(self.stdout.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        let bytes = fs::read(self.stderr.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        self.ended.is_none() && alive(self.pid())
    }

    /// Waits until either output holds this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str, limit: Duration) {
        let start = Instant::now();
        while !self.stdout().contains(text) && !self.stderr().contains(text) {
            assert!(start.elapsed() < limit, "no {text:?} within {limit:?}; {self}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it (not its group) a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            kill(self.pid(), signal);
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        assert!(wait_gone(self.pid(), limit), "did not end within {limit:?}; {self}");
        let status = self.child.wait().expect("wait");
        let elapsed = self.start.elapsed();
        self.ended = Some((status, elapsed));
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Output { status, stdout, stderr, elapsed, exited: elapsed }
    }
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, err) = (self.stdout(), self.stderr());
        write!(f, "{}\n--- stdout\n{out}\n--- stderr\n{err}\n---", self.shown)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- was running: {self}");
        }
        if self.ended.is_none() {
            kill_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).expect("limits are short")
}

fn pid_of(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid is not 0")
}

/// Sends a signal; a process that is gone already is no error.
pub fn kill(pid: u32, signal: Signal) {
    let _ = kill_process(pid_of(pid), signal);
}

/// Sends a signal to a process group; one that is gone already is no error.
pub fn kill_group(group: u32, signal: Signal) {
    let _ = kill_process_group(pid_of(group), signal);
}

/// The fields of `/proc/PID/stat` after the name: `[0]` is the state, `[1]` the parent.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

/// Whether it runs: there, and not a zombie.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat[0].as_str(), "Z" | "X"))
}

/// When it started, in the kernel's ticks since boot: what tells it from a later
/// one of the same number.
pub fn started(pid: u32) -> Option<String> {
    stat(pid)?.get(19).cloned()
}

/// Waits until the process has ended (a zombie has). True if it did in time.
pub fn wait_gone(pid: u32, limit: Duration) -> bool {
    let Ok(fd) = pidfd_open(pid_of(pid), PidfdFlags::empty()) else { return true };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&timespec(limit)));
    !alive(pid)
}

/// Asks again every 5 ms until the answer is yes; fails the test after `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// All processes that there are.
pub fn all() -> Vec<u32> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process's children, zombies included.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = pid.to_string();
    all().into_iter().filter(|&p| stat(p).is_some_and(|stat| stat[1] == parent)).collect()
}

/// The processes of a group that run.
pub fn group(group: u32) -> Vec<u32> {
    let group = group.to_string();
    let member = |stat: Vec<String>| stat[2] == group && !matches!(stat[0].as_str(), "Z" | "X");
    all().into_iter().filter(|&pid| stat(pid).is_some_and(member)).collect()
}

/// Children, their children, and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// The process's open descriptors, each with what it points to.
pub fn open_fds(pid: u32) -> Vec<(i32, PathBuf)> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut fds: Vec<(i32, PathBuf)> = dir
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect();
    fds.sort();
    fds
}

/// Whether its memory and descriptors may be looked at: an ordinary user may not
/// where the process is not dumpable.
pub fn may_inspect(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok()
        && fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).is_ok()
}

/// How many threads it has.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Its arguments, joined by spaces.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

/// Processor time of a process, and of those that it has waited for; in steps of 10 ms.
pub fn processor_times(pid: u32) -> [Duration; 2] {
    let stat = stat(pid).unwrap_or_default();
    let ticks = |at: usize| stat.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    [11, 13].map(|at| Duration::from_millis((ticks(at) + ticks(at + 1)) * 10))
}

/// Private memory (USS) in KiB: what would be free if it ended.
pub fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// What the command takes of the processor, without what others on the machine make it
/// wait; to the hundredth of a second. It must end well.
#[track_caller]
pub fn processor_time(command: &Command, limit: Duration) -> Duration {
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\" >/dev/null || exit; times", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    let output = run(&mut shell, limit).ok();
    // The shell's own are on the first line.
    let children = output.stdout.lines().nth(1).expect("two lines of times");
    let seconds = children.split_whitespace().map(|time| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("0m0.00s");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        60.0 * number(minutes) + number(seconds)
    });
    Duration::from_secs_f64(seconds.sum())
}

/// The most memory that it has taken so far (`VmHWM`), in KiB.
pub fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

/// A figure of its memory, in KiB.
pub fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // Until it is itself, its memory is that of the process that has started it.
    if !status.starts_with("Name:\tmutt-sync") {
        return 0;
    }
    kib_in(&status, field).unwrap_or_default()
}

/// The same of any process that is there.
#[track_caller]
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    kib_in(&status, field).expect(field)
}

fn kib_in(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Voluntary context switches of all threads so far: wake-ups, in an idle process.
pub fn wakeups(pid: u32) -> u64 {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    dir.flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|text| {
            let line = text.lines().find(|line| line.starts_with("voluntary_ctxt"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// Whether a thread of it runs, or waits for a processor or a disk.
pub fn runnable(pid: u32) -> bool {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    dir.flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['R', 'D'])))
        .any(|runs| runs)
}

/// Running processes with this mark.
pub fn marked(mark: &str) -> Vec<u32> {
    all().into_iter().filter(|&pid| is_marked(pid, mark) && alive(pid)).collect()
}

/// Whether the process's environment holds `MARK_VARIABLE=mark`. Where only root
/// may read the environment, the limit counts that [`spawn`] has set.
pub fn is_marked(pid: u32, mark: &str) -> bool {
    let wanted = format!("{MARK_VARIABLE}={mark}");
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environ) => environ.split(|&b| b == 0).any(|var| var == wanted.as_bytes()),
        Err(_) => file_locks(pid).is_some_and(|locks| locks == limit_of(mark).to_string()),
    }
}

/// The soft limit of file locks of a process, as the kernel prints it.
fn file_locks(pid: u32) -> Option<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// The mark as a number, below what stands for no limit.
pub(crate) fn limit_of(mark: &str) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mark.bytes().fold(0xcbf2_9ce4_8422_2325, hash) >> 4
}

/// Starts a command as `Command::spawn` does. If it has a mark, what comes of it
/// carries that as its limit of file locks, too: the kernel hands limits on and
/// shows them to every user, and has no use for this one.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // The limits are those of this whole process.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mark = command.get_envs().find(|(key, _)| *key == MARK_VARIABLE);
    let Some(mark) = mark.and_then(|(_, mark)| mark?.to_str()) else { return command.spawn() };
    let usual = getrlimit(Resource::Locks);
    let marked = Rlimit { current: Some(limit_of(mark)), maximum: usual.maximum };
    setrlimit(Resource::Locks, marked)?;
    let child = command.spawn();
    setrlimit(Resource::Locks, usual)?;
    child
}

/// The environment variable that tells a test's processes from all others.
pub const MARK_VARIABLE: &str = "MUTT_SYNC_TEST_MARK";

/// How often the command (and all that it starts) entered each system call.
#[track_caller]
pub fn syscalls(command: &Command, limit: Duration) -> BTreeMap<String, u64> {
    let trace = trace(command, "all", limit);
    let mut counts = BTreeMap::new();
    for line in trace {
        let call = line.split('(').next().unwrap_or_default();
        if !call.is_empty() && call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry(call.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// The lines of `strace -f -e trace=SET` over the command, without the pids.
#[track_caller]
pub fn trace(command: &Command, set: &str, limit: Duration) -> Vec<String> {
    let file = NamedTempFile::new().expect("temporary file");
    let mut strace = Command::new("strace");
    if !is_root() {
        // Else it could not read the names of files in what makes itself undumpable.
        strace = Command::new("unshare");
        strace.args(["--user", "--map-current-user", "--keep-caps", "strace"]);
    }
    strace.args(["-f", "-qq", "-s", "256", "-e", &format!("trace={set}"), "-o"]).arg(file.path());
    strace.arg(command.get_program()).args(command.get_args());
    strace.env_clear();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(key, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        strace.current_dir(dir);
    }
    run(&mut strace, limit);
    let text = fs::read(file.path()).expect("strace's output");
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1.trim_start().to_owned()))
        .collect()
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts the command from a thread that lives as long as this process does.
/// What asks to die with its parent (`setpriv --pdeathsig`) dies with the
/// *thread* that started it, and a test's thread may end before its server.
pub(crate) fn spawn_lasting(mut command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        send
    });
    let (send, result) = mpsc::channel();
    let job = Box::new(move || {
        let _ = send.send(spawn(&mut command));
    });
    starter.send(job).expect("the starting thread lives");
    result.recv().expect("the starting thread answers")
}
