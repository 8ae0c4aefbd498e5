//! Other processes, from `/proc`: identity, descendants, bytes moved; and the
//! kernel's settings.
//!
//! Knows the kernel's text formats (proc(5)). Does not depend on: what the
//! processes are for. Another system would answer these questions by sysctl(3)
//! or libproc, in this file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::wait::{Cancel, Woken, wait};
use super::{clock, file};

/// Larger than any of the files that are read here.
const LIMIT: u64 = 1 << 20;
/// How often a process is checked without a descriptor (none was left).
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// When it started, in clock ticks since boot (field 22 of `stat`).
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn with_pid(pid: Pid) -> Option<Self> {
        let stat = Stat::of(pid)?;
        Some(Process { pid, started: stat.started })
    }

    /// How long ago it started, to a hundredth of a second.
    #[must_use]
    pub fn age(self) -> Duration {
        // Clock ticks are 1/100 s wherever Linux runs Rust programs (USER_HZ).
        let started = Duration::from_millis(self.started.saturating_mul(10));
        clock::now().saturating_sub(started)
    }

    /// It exists and has not ended; a zombie has.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        // The check and the signal are not one step; a pidfd makes them so.
        if let Ok(fd) = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()) {
            if self.is_alive() {
                let _ = rustix::process::pidfd_send_signal(&fd, signal);
            }
        }
    }

    /// Waits for its end ([`Woken::Ready`]).
    pub fn wait_gone(self, deadline: Option<Instant>, cancel: Option<&Cancel>) -> Woken {
        let pidfd = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()).ok();
        loop {
            if !self.is_alive() {
                return Woken::Ready;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Woken::TimedOut;
            }
            let mut fds: Vec<_> = pidfd.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let slice = now + LOOK_EVERY;
            let until = match (&pidfd, deadline) {
                (Some(_), deadline) => deadline,
                (None, deadline) => Some(deadline.map_or(slice, |deadline| deadline.min(slice))),
            };
            match wait(&mut fds, until, cancel) {
                Ok(Woken::Cancelled) => return Woken::Cancelled,
                Ok(_) => {}
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

/// The process id that this text names; none is zero or less.
#[must_use]
pub fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|&number: &i32| number > 0).and_then(Pid::from_raw)
}

/// All processes below this one, nearest first.
#[must_use]
pub fn descendants(of: Pid) -> Vec<Process> {
    let all: Vec<(Process, i32)> =
        everybody().map(|(process, stat)| (process, stat.parent)).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![of.as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for (child, of) in &all {
            if *of == parent && !found.contains(child) {
                found.push(*child);
                parents.push(child.pid.as_raw_nonzero().get());
            }
        }
    }
    found
}

/// Bytes that a process and its ended children have read and written so far,
/// files and sockets alike (`rchar` and `wchar` of proc(5)).
#[must_use]
pub fn bytes_moved(pid: Pid) -> Option<u64> {
    let text = text(format!("/proc/{}/io", pid.as_raw_nonzero()))?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    Some(field("rchar:")?.wrapping_add(field("wchar:")?))
}

/// [`bytes_moved`] of a process and of all below it: mbsync may be wrapped in a script.
#[must_use]
pub fn bytes_moved_by_tree(top: Pid) -> Option<u64> {
    let own = bytes_moved(top)?;
    let below = descendants(top).into_iter().filter_map(|process| bytes_moved(process.pid));
    Some(below.fold(own, u64::wrapping_add))
}

/// The members of this process group that have not ended.
#[must_use]
pub fn group_members(group: Pid) -> Vec<Process> {
    // Zombies answer too, hence the second check.
    if rustix::process::test_kill_process_group(group).is_err() {
        return Vec::new();
    }
    let member = |(process, stat): (Process, Stat)| {
        (stat.group == group.as_raw_nonzero().get() && stat.state != 'Z').then_some(process)
    };
    everybody().filter_map(member).collect()
}

/// Identifies the time since the machine was started; empty where unknown.
#[must_use]
pub fn boot() -> String {
    sysctl("kernel.random.boot_id").unwrap_or_default()
}

/// Seconds since the machine was started.
#[must_use]
pub fn uptime() -> Option<f64> {
    text("/proc/uptime")?.split_ascii_whitespace().next()?.parse().ok()
}

/// A setting of the kernel's, by its name for sysctl(8).
#[must_use]
pub fn sysctl(name: &str) -> Option<String> {
    Some(text(format!("/proc/sys/{}", name.replace('.', "/")))?.trim().to_owned())
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    file::read_text(path.as_ref(), LIMIT).ok()
}

fn everybody() -> impl Iterator<Item = (Process, Stat)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = pid(entry.file_name().to_str()?)?;
        let stat = Stat::of(pid)?;
        Some((Process { pid, started: stat.started }, stat))
    })
}

struct Stat {
    state: char,
    parent: i32,
    group: i32,
    started: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Stat> {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        Self::parse(&file::read(Path::new(&path), LIMIT).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The second field is the command's name in parentheses and may hold anything.
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let started = fields.nth(16)?.parse().ok()?;
        Some(Stat { state, parent, group, started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::wait::after;
    use std::process::Command;

    #[test]
    fn a_name_with_parentheses_is_no_trap() {
        let stat = Stat::parse(b"7 (a) S 1 (b) Z 42 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 12345 0");
        let stat = stat.unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.started), ('Z', 42, 7, 12345));
    }

    #[test]
    fn children_are_found_and_their_end_is_seen() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        while descendants(pid).is_empty() {
            std::thread::yield_now();
        }
        let below = descendants(pid);
        assert!(descendants(rustix::process::getpid()).iter().any(|found| found.pid == pid));
        let process = Process::with_pid(pid).unwrap();
        let in_a_while = after(Duration::from_millis(5));
        assert_eq!(process.wait_gone(in_a_while, None), Woken::TimedOut);
        let cancel = Cancel::new().unwrap();
        cancel.raise();
        assert_eq!(process.wait_gone(None, Some(&cancel)), Woken::Cancelled);
        let (young, wait) = (process.age(), Duration::from_millis(300));
        std::thread::sleep(wait);
        let older = process.age();
        assert!(young < Duration::from_secs(60) && older >= young + wait, "{young:?} {older:?}");
        for each in below.iter().chain([&process]) {
            each.signal(Signal::KILL);
        }
        assert_eq!(process.wait_gone(after(Duration::from_secs(30)), None), Woken::Ready);
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
