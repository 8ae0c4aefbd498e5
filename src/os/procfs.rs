//! What `/proc` tells of other processes: who they are, whom they started, how
//! many bytes they moved.
//!
//! Knows the kernel's text formats (proc(5)); knows nothing of what the
//! processes are for.

use std::fs;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

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

    /// Waits for its end; false if it has not come within `limit`.
    #[must_use]
    pub fn wait_gone(self, limit: Duration) -> bool {
        let Ok(fd) = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()) else {
            return !self.is_alive();
        };
        if !self.is_alive() {
            return true;
        }
        let limit = rustix::time::Timespec::try_from(limit).ok();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| poll(&mut fds, limit.as_ref()));
        !self.is_alive()
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
    let text = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero())).ok()?;
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
    // A zombie that nobody waits for answers too; so a closer look.
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
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
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
        Self::parse(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
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
        assert!(process.is_alive() && !process.wait_gone(Duration::from_millis(5)));
        for each in below.iter().chain([&process]) {
            each.signal(Signal::KILL);
        }
        assert!(process.wait_gone(Duration::from_secs(30)));
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
