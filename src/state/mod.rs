//! What is remembered between commands: the files under
//! `$XDG_STATE_HOME/mutt-sync/ACCOUNT/`.
//!
//! One file per idea below this folder. Knows how each file is written so that it
//! is whole after a crash. A file that does not parse counts as absent.
//!
//! Does not depend on: mail, mbsync, why something is remembered.

pub mod backoff;
pub mod clean;
pub mod held;
pub mod last_run;
pub mod lock;
pub mod names;
pub mod pace;
pub mod refused;
pub mod requests;
pub mod stamp;
pub mod throttle;
pub mod watch;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::error::{Error, ExitStatus, no_descriptor_left};
use crate::os::file;
use crate::os::procfs::{self, Process};
use crate::text::sanitize;
use lock::Lock;

/// Whether a file may be read a moment later: no descriptor or memory is left, or the disk
/// or the server of a network file system did not answer.
fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::IO, Errno::STALE, Errno::NOMEM].map(Errno::raw_os_error);
    no_descriptor_left(error) || error.raw_os_error().is_some_and(|code| passing.contains(&code))
}

/// Most bytes of a state file that are read.
pub const LARGEST: u64 = 64 << 20;

/// So often a change is made again because another process has made one meanwhile.
const MOST_UPDATES: u32 = 20;

/// An account's directory of state files, mode 0700.
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
    /// Says nothing of a file that does not parse.
    silent: bool,
}

/// The files that were said not to parse: a waiter reads them again and again.
static REPORTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl StateDir {
    /// The directory of `account` below `base`, made if need be. No other user can
    /// look into either.
    ///
    /// # Errors
    /// 78 when it cannot be made, belongs to another user, or cannot be written; 75
    /// when the disk is full.
    pub fn open(base: &Path, account: &str) -> Result<Self, Error> {
        let dir = base.join(names::directory(account));
        for part in [base, &dir, &dir.join("want"), &dir.join("run")] {
            // Asked for before anything is written: a request that cannot be would
            // keep a process waiting with it.
            let usable = || access(part, Access::WRITE_OK | Access::EXEC_OK);
            file::own_directory(part).and_then(|()| Ok(usable()?)).map_err(|error| {
                let (what, at) = if dir.exists() { ("use", part) } else { ("make", &*dir) };
                state_failure(&error, &format!("cannot {what} {}", at.display()))
            })?;
        }
        Ok(StateDir { dir, silent: false })
    }

    /// The directory of `account` below `base`, which need not exist: for reports.
    #[must_use]
    pub fn existing(base: &Path, account: &str) -> Self {
        StateDir { dir: base.join(names::directory(account)), silent: false }
    }

    /// The same, for who must not write to standard error, or reports such files itself.
    #[must_use]
    pub fn silent(self) -> Self {
        StateDir { silent: true, ..self }
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a process holds one of its locks ([`lock::RUN`] and so on) now.
    #[must_use]
    pub fn is_locked(&self, lock: &str) -> bool {
        Lock::is_held(&self.file(lock))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The value in this JSON file; `None` when there is none or it does not parse.
    #[must_use]
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.try_read_json(name).ok().flatten()
    }

    /// The same, or why the file cannot be read.
    fn try_read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.file(name);
        let text = file::read(&path, LARGEST)?;
        let value = serde_json::from_slice(&text).map_err(|error| {
            let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.silent && reported.insert(path.clone()) {
                eprintln_quietly(&format!("{}: {error}; ignored", path.display()));
            }
        });
        Ok(value.ok())
    }

    /// Replaces this JSON file as a whole: temporary file, fsync, rename.
    pub fn write_json<T: serde::Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        self.replace(name, |file| {
            // Not all of it as text first: it may be of tens of thousands of mailboxes.
            let mut writer = BufWriter::new(file);
            serde_json::to_writer(&mut writer, value)?;
            writer.write_all(b"\n")?;
            writer.flush()
        })
    }

    /// Changes the value in a JSON file, if `change` changes anything; the default value needs
    /// no file. `change` may take its time, for `lock` is not held meanwhile: where another
    /// process has written the file, it is called again with what is there then.
    ///
    /// # Errors
    /// The file cannot be written; `WouldBlock` where others keep doing so.
    fn update_json<V, T>(
        &self,
        name: &str,
        lock: &str,
        mut change: impl FnMut(&mut V) -> T,
    ) -> io::Result<T>
    where
        V: serde::de::DeserializeOwned + serde::Serialize + Clone + Default + PartialEq,
    {
        let read = || match self.try_read_json::<V>(name) {
            // Not to be taken for an empty one, which would take its place.
            Err(error) if is_passing(&error) => Err(error),
            read => Ok(read.ok().flatten().unwrap_or_default()),
        };
        let mut before = read()?;
        for _ in 0..MOST_UPDATES {
            let mut value = before.clone();
            let result = change(&mut value);
            if value == before {
                return Ok(result);
            }
            let Some(_lock) = Lock::take_briefly(&self.file(lock))? else { break };
            let now = read()?;
            if now == before {
                if value == V::default() {
                    self.remove(name)?;
                } else {
                    self.write_json(name, &value)?;
                }
                return Ok(result);
            }
            before = now;
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "another mutt-sync is writing it"))
    }

    /// Removes a file; one that is not there is as good as removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes temporary files whose writers were killed.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let writer = name.to_str().filter(|name| name.starts_with('.'));
            let writer = writer.and_then(|name| procfs::pid(name.rsplit('.').next()?));
            if writer.is_some_and(|pid| Process::with_pid(pid).is_none()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn replace(&self, name: &str, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let temporary = self.file(&format!(".{name}.{}", std::process::id()));
        let written = file::write(&temporary, b"")
            .and_then(|file| write(&file).and_then(|()| file.sync_all()));
        let renamed = written.and_then(|()| std::fs::rename(&temporary, self.file(name)));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        renamed
    }
}

/// A warning on standard error that is not worth failing for.
fn eprintln_quietly(text: &str) {
    let _ = writeln!(io::stderr(), "mutt-sync: {}", sanitize(text));
}

/// A failed read or write in the state directory, with what to do about it.
pub(crate) fn state_failure(error: &io::Error, what: &str) -> Error {
    let failed = Error::system(what, error);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failed.with_hint("free some space and try again")
        }
        io::ErrorKind::WouldBlock => failed.with_hint("try again"),
        _ if no_descriptor_left(error) => failed,
        io::ErrorKind::InvalidInput => {
            Error { status: ExitStatus::Config, ..failed }.with_hint("remove it")
        }
        _ => Error { status: ExitStatus::Config, ..failed }
            .with_hint("make it writable for you, or set XDG_STATE_HOME to a place that is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_a_killed_writer_left_is_swept_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let killed = format!(".last.json.{}", child.id());
        let alive = format!(".last.json.{}", std::process::id());
        for name in [&killed, &alive, "last.json", ".hidden", "want/1"] {
            std::fs::write(dir.file(name), "x").unwrap();
        }
        dir.sweep();
        assert!(!dir.file(&killed).exists());
        for name in [&alive, "last.json", ".hidden", "want/1", "run"] {
            assert!(dir.file(name).exists(), "{name}");
        }
    }

    fn names(dir: &StateDir) -> Vec<String> {
        let entries = std::fs::read_dir(dir.path()).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        assert_eq!(dir.path(), StateDir::existing(base.path(), "Home").path());
        for path in [dir.path().to_owned(), dir.file("want"), dir.file("run")] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(dir.read_json::<Vec<u8>>("x.json"), None);
        dir.write_json("x.json", &[1, 2]).unwrap();
        assert_eq!(dir.read_json::<Vec<u8>>("x.json"), Some(vec![1, 2]));
        std::fs::write(dir.file("x.json"), "[1,").unwrap();
        assert_eq!(dir.read_json::<Vec<u8>>("x.json"), None, "what does not parse is absent");
        // One that cannot be put in its place leaves nothing behind.
        std::fs::create_dir_all(dir.file("full/of/something")).unwrap();
        assert!(dir.write_json("full", &[1]).is_err());
        assert_eq!(names(&dir), ["full", "run", "want", "x.json"]);
        dir.remove("x.json").unwrap();
        dir.remove("x.json").unwrap();
        assert!(dir.remove("full").is_err());
        assert_eq!(names(&dir), ["full", "run", "want"]);
    }

    #[test]
    fn a_change_is_never_lost_to_one_that_was_made_meanwhile() {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        let add = |number: u8| move |list: &mut Vec<u8>| list.push(number);
        // The other process has all the time that it needs: the lock is not held.
        let mut calls = 0;
        let slow = dir.update_json("x.json", "x.lock", |list: &mut Vec<u8>| {
            calls += 1;
            if calls == 1 {
                dir.update_json("x.json", "x.lock", add(1)).unwrap();
            }
            list.push(2);
        });
        slow.unwrap();
        assert_eq!((calls, dir.read_json::<Vec<u8>>("x.json")), (2, Some(vec![1, 2])));
        // Without the lock nothing is written.
        let held = Lock::try_take(&dir.file("x.lock")).unwrap().unwrap();
        let error = dir.update_json("x.json", "x.lock", add(3)).unwrap_err();
        assert_eq!(state_failure(&error, "x").status, ExitStatus::Later);
        assert_eq!(dir.read_json::<Vec<u8>>("x.json"), Some(vec![1, 2]));
        drop(held);
        dir.update_json("x.json", "x.lock", add(3)).unwrap();
        assert_eq!(dir.read_json::<Vec<u8>>("x.json"), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_full_disk_is_a_matter_of_time_and_a_place_not_ours_is_not() {
        let exit = |kind| state_failure(&io::Error::from(kind), "x").status;
        assert_eq!(exit(io::ErrorKind::StorageFull), ExitStatus::Later);
        assert_eq!(exit(io::ErrorKind::QuotaExceeded), ExitStatus::Later);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), ExitStatus::Config);
    }
}
