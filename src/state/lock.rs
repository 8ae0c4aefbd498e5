//! Locks between processes: flock(2) on files that are never removed.
//!
//! `lock` while a run lasts, `queue.lock` while one waits out throttle or
//! backoff, `waiter.lock` while a waiter lives (its text is how the waiter watches the
//! server, and is read by nothing but reports). The text of `lock` is the run:
//! its process and start time, so that the process that takes the lock from a
//! killed holder can wait for an mbsync that still lives. The descriptor is closed on
//! exec, so neither mbsync nor a daemon that its password command starts can
//! hold the lock.
//!
//! Does not depend on: what a lock is for, mail.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use fs2::FileExt;
use rustix::process::{Pid, Signal};

use crate::os::file;
use crate::os::procfs::{self, Process, boot, group_members};
use crate::os::signals::Shutdown;
use crate::os::wait::{self, Woken};

/// Held while a question is asked or mbsync runs.
pub const RUN: &str = "lock";
/// Held while a waiter lives.
pub const WAITER: &str = "waiter.lock";
/// Held while a process waits out throttle or backoff.
pub const QUEUE: &str = "queue.lock";

/// Longer than what is ever written into a lock.
const LONGEST_TEXT: u64 = 100;

/// A lock held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    passed_on: bool,
}

/// How waiting for a lock ended.
#[derive(Debug)]
pub enum LockWait {
    /// It is ours.
    Got(Lock),
    /// Another process held it all the time.
    TooLong,
    /// A signal came.
    Stopped,
}

/// What became of the run of a holder that was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// It is over, with all that it started.
    Over,
    /// It would not end.
    Lives,
    /// A signal came while it was waited for.
    Stopped,
}

impl Lock {
    fn of(file: File) -> Self {
        Lock { file, passed_on: false }
    }

    /// Leaves the lock to a child that was forked while it was held.
    pub fn pass_on(mut self) {
        self.passed_on = true;
    }

    /// Takes the lock if it is free.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = file::open_or_create(path)?;
        let mut pause = Duration::from_micros(1);
        while pause < LONGEST_LOOK {
            if try_flock(FileExt::try_lock_exclusive, &file)? {
                return Ok(Some(Lock::of(file)));
            }
            // A process that only checks it shares it for a moment; a holder does not.
            if !try_flock(FileExt::try_lock_shared, &file)? {
                break;
            }
            FileExt::unlock(&file)?;
            // Not by yielding: on a busy machine the other may be off the processor.
            std::thread::sleep(pause);
            pause = pause * 5 / 4;
        }
        Ok(None)
    }

    /// Takes a lock that is held for a moment only, while a file is changed: one that
    /// is not free after a second is not waited for.
    pub fn take_briefly(path: &Path) -> io::Result<Option<Lock>> {
        let mut lock = Self::try_take(path)?;
        for _ in 0..200 {
            if lock.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            lock = Self::try_take(path)?;
        }
        Ok(lock)
    }

    /// Waits for the lock. Every `slice` it asks whether the holder shows life;
    /// if not, it has lasted too long.
    ///
    /// The kernel wakes waiters in their order and at once, but flock(2) knows
    /// no deadline: a thread does the waiting, and is left behind if it lasts
    /// too long. By then the process is about to end.
    pub fn take(
        path: &Path,
        slice: Duration,
        mut holder_lives: impl FnMut() -> bool,
        shutdown: &Shutdown,
    ) -> io::Result<LockWait> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(LockWait::Got(lock));
        }
        let (ours, theirs) = UnixStream::pair()?;
        let file = file::open_or_create(path)?;
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            let got = retry_eintr(|| FileExt::lock_exclusive(&file));
            let _ = send.send(got.map(|()| Lock::of(file)));
            drop(theirs);
        })?;
        loop {
            match wait::readable(&ours, wait::after(slice), Some(shutdown.cancel()))? {
                Woken::Ready => break,
                Woken::Cancelled => return Ok(LockWait::Stopped),
                Woken::TimedOut if holder_lives() => {}
                Woken::TimedOut => return Ok(LockWait::TooLong),
            }
        }
        // The thread has sent before it closed its end.
        let got = receive.recv().map_err(io::Error::other)?;
        // Joined, so that a fork afterwards finds one thread.
        let _ = thread.join();
        Ok(LockWait::Got(got?))
    }

    /// Whether it is held now.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = file::open(path) else { return false };
        try_flock(FileExt::try_lock_shared, &file).is_ok_and(|free| !free)
    }

    /// The process that the lock's text names, if it lives.
    #[must_use]
    pub fn run_under(path: &Path) -> Option<Process> {
        let text = file::read_text(path, LONGEST_TEXT).ok()?;
        Process::with_pid(procfs::pid(text.split_ascii_whitespace().next()?)?)
    }

    /// Notes the run during which the lock is held.
    pub fn record(&mut self, run: Process, own_group: bool) -> io::Result<()> {
        let group = if own_group { "group" } else { "tree" };
        let (pid, started) = (run.pid.as_raw_nonzero(), run.started);
        self.write(&format!("{pid} {started} {group} {}\n", boot()))
    }

    /// Notes what the holder does, for reports.
    pub fn describe(&mut self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// What the holder has noted; empty without a holder.
    #[must_use]
    pub fn description(path: &Path) -> String {
        let text = || file::read_text(path, LONGEST_TEXT).unwrap_or_default();
        if Self::is_held(path) { text().trim().to_owned() } else { String::new() }
    }

    /// Notes that no run is under way.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Makes sure that the run of a killed holder is over: waits for it, at most
    /// `limit`, then ends it. What is left of its process group (a password
    /// command that hangs, an mbsync whose wrapper died) is ended too.
    pub fn reap_orphan(&mut self, limit: Duration, shutdown: &Shutdown) -> Orphan {
        let _ = self.file.rewind();
        let text = file::read_open(&self.file, LONGEST_TEXT).map(String::from_utf8);
        let Ok(Ok(text)) = text else { return Orphan::Over };
        if text.is_empty() {
            return Orphan::Over;
        }
        let mut fields = text.split_ascii_whitespace();
        let pid = fields.next().and_then(procfs::pid);
        let started: Option<u64> = fields.next().and_then(|started| started.parse().ok());
        let own_group = fields.next() == Some("group");
        let of_this_boot = fields.next().is_none_or(|noted| noted == boot());
        let over = match (pid, started) {
            (Some(pid), Some(started)) if of_this_boot => {
                let run = Process { pid, started };
                let mut ended = gone(run, limit, shutdown);
                if ended == Orphan::Lives {
                    run.signal(Signal::KILL);
                    ended = gone(run, GRACE, shutdown);
                }
                if ended == Orphan::Over && own_group {
                    end_group(pid, |member| member.started >= run.started, shutdown)
                } else {
                    ended
                }
            }
            // The holder was killed between fork and its note; the child, set to
            // die with it, is gone or as good as gone. What it has started is not.
            (Some(pid), None) => {
                // Nor is it this process, whatever its number.
                let ours = rustix::process::getpid();
                let run =
                    Process::with_pid(pid).filter(|found| found.pid != ours && is_young(*found));
                match run.map_or(Orphan::Over, |run| gone(run, GRACE, shutdown)) {
                    Orphan::Over => end_group(pid, is_young, shutdown),
                    lingers => lingers,
                }
            }
            _ => Orphan::Over,
        };
        if over == Orphan::Over {
            let _ = self.clear();
        }
        over
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough where a fork has left a second descriptor.
        if !self.passed_on {
            let _ = FileExt::unlock(&self.file);
        }
    }
}

/// Whether the lock was to be had without waiting.
fn try_flock(lock: fn(&File) -> io::Result<()>, file: &File) -> io::Result<bool> {
    match retry_eintr(|| lock(file)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What comes of it when no signal breaks in.
fn retry_eintr(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A process that shares the lock for longer is stopped (SIGSTOP), and is not waited for. The
/// pauses grow up to it, and take five times as long in all.
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// How long a process is given to end after a signal.
const GRACE: Duration = Duration::from_secs(5);

fn gone(run: Process, limit: Duration, shutdown: &Shutdown) -> Orphan {
    match run.wait_gone(wait::after(limit), Some(shutdown.cancel())) {
        Woken::Ready => Orphan::Over,
        Woken::TimedOut => Orphan::Lives,
        Woken::Cancelled => Orphan::Stopped,
    }
}

/// Ends what is left of the group that a run, now gone, has led.
fn end_group(leader: Pid, is_ours: impl Fn(Process) -> bool, shutdown: &Shutdown) -> Orphan {
    // A group's number is given to no new process. A process that has it now leads
    // another group, and the run's was gone before.
    let members = || {
        let mut members = group_members(leader);
        if members.iter().any(|member| member.pid == leader) {
            members.clear();
        }
        members.retain(|member| is_ours(*member));
        members
    };
    for signal in [Signal::TERM, Signal::KILL] {
        for member in members() {
            member.signal(signal);
        }
        for member in members() {
            match gone(member, GRACE, shutdown) {
                Orphan::Stopped => return Orphan::Stopped,
                Orphan::Over | Orphan::Lives => {}
            }
        }
        if members().is_empty() {
            return Orphan::Over;
        }
    }
    Orphan::Lives
}

/// Started within the last minute or so: a process found by number alone is
/// taken for the run only then.
fn is_young(process: Process) -> bool {
    started_lately(process.started, procfs::uptime().unwrap_or(0.0))
}

/// Of a time in clock ticks since boot, and seconds since boot.
fn started_lately(ticks: u64, uptime: f64) -> bool {
    // Clock ticks are 1/100 s wherever Linux runs Rust programs (USER_HZ).
    #[allow(clippy::cast_precision_loss)]
    let started = ticks as f64 / 100.0;
    uptime - started < 60.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn g1_a_lock_is_held_once_and_freed_by_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!Lock::is_held(&path));
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(Lock::is_held(&path));
        drop(lock);
        assert!(!Lock::is_held(&path));
        assert!(Lock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn only_a_holder_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("waiter.lock");
        let mut lock = Lock::try_take(&path).unwrap().unwrap();
        assert_eq!(Lock::description(&path), "");
        lock.describe("STATUS polling").unwrap();
        lock.describe("IDLE").unwrap();
        assert_eq!(Lock::description(&path), "IDLE");
        drop(lock);
        assert_eq!(Lock::description(&path), "");
    }

    #[test]
    fn g2_a_process_that_only_looks_is_not_taken_for_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        drop(Lock::try_take(&path).unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let _ = Lock::is_held(&path);
                    }
                });
            }
            let taken = (0..5000).filter(|_| Lock::try_take(&path).unwrap().is_some()).count();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(taken, 5000);
        });
    }

    #[test]
    fn g9_a_looker_that_is_stopped_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = file::open_or_create(&path).unwrap();
        FileExt::lock_shared(&file).unwrap();
        let begun = Instant::now();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(begun.elapsed() >= LONGEST_LOOK);
    }

    #[test]
    fn a_lock_that_cannot_be_asked_for_is_neither_held_nor_free() {
        let file = tempfile::tempfile().unwrap();
        assert!(try_flock(|_| Err(rustix::io::Errno::NOLCK.into()), &file).is_err());
        assert!(!try_flock(|_| Err(rustix::io::Errno::AGAIN.into()), &file).unwrap());
        // A signal is not an answer.
        let mut calls = 0;
        let result = retry_eintr(|| {
            calls += 1;
            if calls < 4 { Err(rustix::io::Errno::INTR.into()) } else { Ok(()) }
        });
        assert!(result.is_ok() && calls == 4);
    }

    #[test]
    fn g9_the_holder_is_asked_for_life_once_a_slice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shutdown = Shutdown::on_signals().unwrap();
        let _lock = Lock::try_take(&path).unwrap().unwrap();
        let slice = Duration::from_millis(30);
        let begun = Instant::now();
        let mut asked = 0;
        let lives = || {
            asked += 1;
            assert!(begun.elapsed() >= slice * asked, "asked {asked} times");
            asked < 3
        };
        assert!(matches!(Lock::take(&path, slice, lives, &shutdown).unwrap(), LockWait::TooLong));
        assert_eq!(asked, 3);
    }

    #[test]
    fn g9_waiting_ends_with_the_holder_or_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shutdown = Shutdown::on_signals().unwrap();
        let lock = Lock::try_take(&path).unwrap().unwrap();
        let waited = Lock::take(&path, Duration::from_millis(20), || false, &shutdown).unwrap();
        assert!(matches!(waited, LockWait::TooLong));
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(lock);
        });
        // The thread left behind above may get the lock first, and drops it.
        let waited = Lock::take(&path, Duration::from_millis(5), || true, &shutdown).unwrap();
        assert!(matches!(waited, LockWait::Got(_)));
        holder.join().unwrap();
    }

    #[test]
    fn g1_a_run_that_lives_is_waited_for_then_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        let is_over = |lock: &mut Lock, ms| {
            lock.reap_orphan(Duration::from_millis(ms), &shutdown) == Orphan::Over
        };
        assert!(is_over(&mut lock, 0));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::with_pid(Pid::from_child(&child)).unwrap();
        lock.record(process, false).unwrap();
        assert!(is_over(&mut lock, 10));
        assert!(!process.is_alive());
        assert_eq!(lock.file.metadata().unwrap().len(), 0, "no later holder looks for it again");
        child.wait().unwrap();
        // Another process with the number of a dead one is left alone, and so is
        // one with the number and the age of one before the machine was started.
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::with_pid(Pid::from_child(&child)).unwrap();
        lock.record(Process { started: process.started + 1, ..process }, false).unwrap();
        assert!(is_over(&mut lock, 0));
        lock.write(&format!("{} {} tree earlier\n", child.id(), process.started)).unwrap();
        assert!(is_over(&mut lock, 0));
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn g1_a_run_whose_holder_died_before_its_note_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        let mut child = Command::new("sleep").arg("0.3").spawn().unwrap();
        let process = Process::with_pid(Pid::from_child(&child)).unwrap();
        // Only what the child itself writes between fork and exec.
        lock.write(&format!("{}\n", child.id())).unwrap();
        assert_eq!(lock.reap_orphan(Duration::ZERO, &shutdown), Orphan::Over);
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(started_lately(100_000, 1000.0) && started_lately(94_100, 1000.0));
        assert!(!started_lately(94_000, 1000.0) && !started_lately(0, 1000.0));
        assert!(is_young(Process::with_pid(rustix::process::getpid()).unwrap()));
        assert!(!is_young(Process { started: 0, ..process }), "as old as the machine");
    }

    #[test]
    fn g9_who_has_the_number_of_a_dead_run_does_not_wait_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        lock.write(&format!("{}\n", std::process::id())).unwrap();
        assert_eq!(lock.reap_orphan(Duration::ZERO, &shutdown), Orphan::Over);
        assert_eq!(lock.file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_group_whose_number_is_anothers_now_is_left_alone() {
        use std::os::unix::process::CommandExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let process = Process::with_pid(Pid::from_child(&child)).unwrap();
        lock.record(Process { started: process.started - 1, ..process }, true).unwrap();
        assert_eq!(lock.reap_orphan(Duration::ZERO, &shutdown), Orphan::Over);
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn g1_a_lock_ends_with_its_value_or_with_the_child_it_was_passed_on_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // What a fork leaves is a second descriptor of the same open file.
        let lock = Lock::try_take(&path).unwrap().unwrap();
        let of_a_child = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(!Lock::is_held(&path), "freed, though a child has the descriptor");
        drop(of_a_child);
        let lock = Lock::try_take(&path).unwrap().unwrap();
        let of_the_child = lock.file.try_clone().unwrap();
        lock.pass_on();
        assert!(Lock::is_held(&path));
        drop(of_the_child);
        assert!(!Lock::is_held(&path));
    }

    #[test]
    fn the_run_under_a_lock_is_known_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(Lock::run_under(&path), None);
        let mut lock = Lock::try_take(&path).unwrap().unwrap();
        let us = Process::with_pid(rustix::process::getpid()).unwrap();
        lock.record(us, false).unwrap();
        assert_eq!(Lock::run_under(&path), Some(us));
        lock.clear().unwrap();
        assert_eq!(Lock::run_under(&path), None);
        for odd in ["0", "-1", "x", "1x 7 tree"] {
            lock.write(odd).unwrap();
            assert_eq!(Lock::run_under(&path), None, "{odd}");
        }
    }

    /// A wrapper that leads a group and is killed after `note` has noted it. Who was
    /// in the group then.
    fn left_by_a_wrapper(note: impl FnOnce(Process)) -> Vec<Process> {
        use std::os::unix::process::CommandExt as _;
        let mut wrapper =
            Command::new("sh").args(["-c", "sleep 60; :"]).process_group(0).spawn().unwrap();
        let run = Process::with_pid(Pid::from_child(&wrapper)).unwrap();
        note(run);
        while group_members(run.pid).len() < 2 {
            std::thread::yield_now();
        }
        let left = group_members(run.pid);
        wrapper.kill().unwrap();
        wrapper.wait().unwrap();
        left
    }

    #[test]
    fn of_a_run_that_led_no_group_no_group_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        let mut left = left_by_a_wrapper(|run| lock.record(run, false).unwrap());
        assert_eq!(lock.reap_orphan(Duration::ZERO, &shutdown), Orphan::Over);
        left.retain(|process| process.is_alive());
        assert_eq!(left.len(), 1);
        left[0].signal(Signal::KILL);
    }

    #[test]
    fn g1_what_a_killed_wrapper_leaves_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::try_take(&dir.path().join("lock")).unwrap().unwrap();
        let shutdown = Shutdown::on_signals().unwrap();
        // The second holder was killed before it could note more than the number.
        for noted in [true, false] {
            let left = left_by_a_wrapper(|run| {
                if noted {
                    lock.record(run, true).unwrap();
                } else {
                    lock.write(&format!("{}\n", run.pid.as_raw_nonzero())).unwrap();
                }
            });
            assert_eq!(lock.reap_orphan(Duration::ZERO, &shutdown), Orphan::Over);
            assert!(left.iter().all(|process| !process.is_alive()), "noted: {noted}");
        }
    }
}
