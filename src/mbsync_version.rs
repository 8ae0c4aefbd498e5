//! Which mbsync is installed: 1.4 and 1.5 differ in where files are looked for
//! and in how mailboxes are named on disk.
//!
//! Asking mbsync takes a process; the answer is remembered for as long as the
//! program's file stays the same.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use crate::mbsyncrc::IsyncVersion;
use crate::os::fork;

const FILE: &str = "mbsync.json";

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct KnownVersion {
    program: PathBuf,
    inode: u64,
    size: u64,
    ctime: i64,
    version: String,
}

/// The dialect of the mbsync that would be run; `None` if there is none that says.
#[must_use]
pub fn of_mbsync(program: &Path, base: &Path) -> Option<IsyncVersion> {
    version(program, base).map(|version| dialect(&version))
}

/// The version that it prints, such as `1.4.4`.
#[must_use]
pub fn version(program: &Path, base: &Path) -> Option<String> {
    let program = in_path(program)?;
    let found = std::fs::metadata(&program).ok()?;
    let cache = base.join(FILE);
    let known: Option<KnownVersion> =
        std::fs::read(&cache).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut now = KnownVersion {
        program,
        inode: found.ino(),
        size: found.size(),
        ctime: found.ctime(),
        version: String::new(),
    };
    if let Some(known) = known {
        now.version.clone_from(&known.version);
        if known == now {
            return Some(known.version).filter(|version| !version.is_empty());
        }
    }
    // One that does not say is remembered too, and not asked again each time.
    now.version = ask(&now.program).unwrap_or_default();
    if let Ok(text) = serde_json::to_vec(&now) {
        // Lost, it is asked again.
        let _ = std::fs::create_dir_all(base).and_then(|()| std::fs::write(&cache, text));
    }
    Some(now.version).filter(|version| !version.is_empty())
}

/// What the program prints, if it does so soon. It may be a script, and what it
/// starts must neither keep us nor stay.
fn ask(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = fork::in_new_session(&mut command).spawn().ok()?;
    let pid = Pid::from_child(&child);
    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|ended| {
        let mut fds = [PollFd::new(&ended, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))) == Ok(1)
    });
    // Before it is waited for: until then the number is its own.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = child.wait();
    let mut stdout = child.stdout.take().filter(|_| ended)?;
    // All that it has said is there; a daemon of its own may still hold the pipe.
    rustix::io::ioctl_fionbio(&stdout, true).ok()?;
    let mut text = [0; 4096];
    let count = stdout.read(&mut text).ok()?;
    printed(&String::from_utf8_lossy(text.get(..count)?))
}

/// `isync 1.4.4` → `1.4.4`.
fn printed(text: &str) -> Option<String> {
    text.split_ascii_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn dialect(version: &str) -> IsyncVersion {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) {
        (Some(1), Some(minor)) if minor < 5 => IsyncVersion::V1_4,
        _ => IsyncVersion::V1_5,
    }
}

/// As execvp(3) would find it.
#[must_use]
pub fn in_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| {
        rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g9_one_that_leaves_something_behind_neither_keeps_us_nor_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        for (end, said) in [("echo isync 1.4.4", Some("1.4.4")), ("exec sleep 600", None)] {
            let (program, pids) = (dir.path().join("mbsync"), dir.path().join("pids"));
            let file = pids.display();
            let script = format!("#!/bin/sh\nsleep 600 &\necho $! $$ >'{file}'\n{end}\n");
            std::fs::write(&program, script).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&program, mode).unwrap();
            assert_eq!(ask(&program).as_deref(), said);
            let text = std::fs::read_to_string(&pids).unwrap();
            for pid in text.split_whitespace().filter_map(crate::os::procfs::pid) {
                let left = crate::os::procfs::Process::with_pid(pid);
                let limit = std::time::Duration::from_secs(5);
                assert!(left.is_none_or(|left| left.wait_gone(limit)), "{pid:?} is left");
            }
        }
    }

    #[test]
    fn versions_are_read_as_printed() {
        assert_eq!(printed("isync 1.4.4\n").as_deref(), Some("1.4.4"));
        assert_eq!(dialect("1.4.4"), IsyncVersion::V1_4);
        assert_eq!(dialect("1.3.0"), IsyncVersion::V1_4);
        assert_eq!(dialect("1.5.1"), IsyncVersion::V1_5);
        assert_eq!(dialect("2.0"), IsyncVersion::V1_5);
    }
}
