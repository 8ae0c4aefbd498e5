//! Which mbsync is installed: 1.4 and 1.5 differ in where files are looked for
//! and in how mailboxes are named on disk.
//!
//! Asking mbsync takes a process; the answer is remembered for as long as the
//! program's file stays the same.
//!
//! Does not depend on: configuration, what follows from a version.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::os::child::{Child, Scope};
use crate::os::file;
use crate::os::wait::{Woken, after};

const FILE: &str = "mbsync.json";
/// Most bytes of an answer.
const LONGEST: usize = 4096;
/// How long mbsync may take to say its version, and then to end.
const LIMIT: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_millis(50);

/// The language of a version of isync. 1.3 is read as 1.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IsyncVersion {
    /// isync 1.4 and before.
    V1_4,
    /// isync 1.5. It takes most of what 1.4 takes, and `--init` writes it: so it is
    /// the default where no mbsync says a version.
    #[default]
    V1_5,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct KnownVersion {
    program: PathBuf,
    inode: u64,
    size: u64,
    ctime: i64,
    version: String,
}

/// The version of the mbsync that would be run, as far as it matters.
#[must_use]
pub fn of_mbsync(program: &Path, base: &Path) -> Option<IsyncVersion> {
    version(program, base).map(|version| parse(&version))
}

/// The version that it prints, such as `1.4.4`.
#[must_use]
pub fn version(program: &Path, base: &Path) -> Option<String> {
    let program = in_path(program)?;
    let found = std::fs::metadata(&program).ok()?;
    let cache = base.join(FILE);
    let known: Option<KnownVersion> =
        file::read(&cache, 1 << 16).ok().and_then(|text| serde_json::from_slice(&text).ok());
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
    let said = output(&now.program, "--version");
    now.version = said.as_deref().and_then(printed).unwrap_or_default();
    if let Ok(text) = serde_json::to_vec(&now) {
        // Lost, it is asked again.
        let _ = file::own_directory(base).and_then(|()| file::write(&cache, &text));
    }
    Some(now.version).filter(|version| !version.is_empty())
}

/// The version that a program in PATH prints, given this argument.
#[must_use]
pub fn of_program(program: impl AsRef<Path>, argument: &str) -> Option<String> {
    printed(&output(&in_path(program.as_ref())?, argument)?)
}

/// What the program prints, if it does so soon. It may be a script, and what it
/// starts must neither keep us nor stay: it is ended when `child` is dropped.
fn output(program: &Path, argument: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Child::spawn(&mut command, Scope::Session, GRACE).ok()?;
    let mut text = Vec::new();
    let mut keep = |chunk: &[u8]| {
        let room = LONGEST.saturating_sub(text.len());
        text.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
    };
    let woken = child.follow(after(LIMIT), None, &mut keep).ok()?;
    (woken == Woken::Ready).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// `isync 1.4.4` → `1.4.4`.
fn printed(text: &str) -> Option<String> {
    text.split_ascii_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn parse(version: &str) -> IsyncVersion {
    match numbers(version) {
        (1, minor) if minor < 5 => IsyncVersion::V1_4,
        _ => IsyncVersion::V1_5,
    }
}

/// Whether it is older than what this program is tested with, isync 1.4.
#[must_use]
pub fn is_old(version: &str) -> bool {
    numbers(version) < (1, 4)
}

fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
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
    use crate::os::procfs::Process;

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
            let output = output(&program, "--version");
            assert_eq!(output.as_deref().and_then(printed).as_deref(), said);
            let text = std::fs::read_to_string(&pids).unwrap();
            for pid in text.split_whitespace().filter_map(crate::os::procfs::pid) {
                let left = Process::with_pid(pid);
                let gone = |left: Process| left.wait_gone(after(LIMIT), None) == Woken::Ready;
                assert!(left.is_none_or(gone), "{pid:?} is left");
            }
        }
    }

    #[test]
    fn versions_are_read_as_printed() {
        assert_eq!(printed("isync 1.4.4\n").as_deref(), Some("1.4.4"));
        assert_eq!(parse("1.4.4"), IsyncVersion::V1_4);
        assert_eq!(parse("1.3.0"), IsyncVersion::V1_4);
        assert!(is_old("1.3.0") && !is_old("1.4.0") && !is_old("1.10") && !is_old("2.0"));
        assert_eq!(parse("1.5.1"), IsyncVersion::V1_5);
        assert_eq!(parse("2.0"), IsyncVersion::V1_5);
    }
}
