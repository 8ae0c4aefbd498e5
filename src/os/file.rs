//! The one way to open files: regular ones only, bounded, and never waiting.
//!
//! A file's path may lead to a FIFO (whose open would wait for a
//! writer), a terminal (which would become ours), a device or a socket. Each of
//! them is an error here, as a directory is. A lint (clippy.toml,
//! `disallowed-methods`) forbids the other ways. Files below `/proc` are regular
//! ones too. What is written is this user's own: no link is followed, and no
//! other user's file or directory is used. Does not depend on: what is in the files.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Room beside a file's size: with less, the reader asks for more to find the end.
const SPARE: usize = 64;

/// Opens a regular file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDONLY).map(|(file, _)| file)
}

/// Opens a regular file for reading and writing. One that does not exist is
/// made, for its owner only; one that does keeps its content.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDWR | OFlags::CREATE).map(|(file, _)| file)
}

/// Makes a directory, with those above it, unless it exists; and makes sure that it
/// is this user's and that no other user can look into it, whatever the umask was. A
/// link to it must be the user's own.
pub fn own_directory(path: &Path) -> io::Result<()> {
    let mut found = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            path.symlink_metadata()?
        }
        found => found?,
    };
    let mut follow = OFlags::NOFOLLOW;
    if found.is_symlink() {
        check_owner(&found)?;
        found = path.metadata()?;
        follow = OFlags::empty();
    }
    if !found.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    check_owner(&found)?;
    // Without a descriptor, of which there may be none left.
    if found.mode() & 0o7077 == 0 {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
    #[expect(clippy::disallowed_methods, reason = "a directory")]
    let directory = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = directory.metadata()?;
    check_owner(&found)?;
    directory.set_permissions(std::fs::Permissions::from_mode(found.mode() & 0o700))
}

fn check_owner(found: &std::fs::Metadata) -> io::Result<()> {
    if found.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"))
}

/// Makes this the file's content, in place: a crash may leave a part of it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let (mut file, size) = open_as(path, OFlags::RDWR | OFlags::CREATE)?;
    // For an empty one it would be a write to the disk for nothing.
    if size > 0 {
        file.set_len(0)?;
    }
    file.write_all(bytes)?;
    Ok(file)
}

/// Makes an existing regular file empty.
pub fn truncate(path: &Path) -> io::Result<()> {
    open_as(path, OFlags::WRONLY)?.0.set_len(0)
}

/// The content of a regular file; an error if it is larger than `limit`.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_as(path, OFlags::RDONLY)?;
    whole(&file, size, limit)
}

/// The same, as text.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not valid UTF-8"))
}

/// The first `limit` bytes of a regular file.
pub fn read_start(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_as(path, OFlags::RDONLY)?;
    start(&file, size, limit)
}

/// The text of a small regular file of another program's; `None` for anything else.
#[must_use]
pub fn small_text(path: &Path) -> Option<String> {
    const LARGEST: u64 = 1 << 20;
    let bytes = read_start(path, LARGEST).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is left to be read in an open file; an error if it is larger than `limit`.
pub fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    whole(file, file.metadata()?.len(), limit)
}

fn whole(file: &File, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "too large");
    if size > limit {
        return Err(too_large());
    }
    // The size of a file below /proc says 0, and any other may have grown.
    let bytes = start(file, size, limit.saturating_add(1))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

fn start(file: &File, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    // Room for all of it at once: a buffer that grows leaves copies behind, and
    // some files have passwords in them.
    let room = usize::try_from(size.min(limit)).unwrap_or(0).saturating_add(SPARE);
    let mut bytes = Vec::with_capacity(room);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file and its size.
fn open_as(path: &Path, access: OFlags) -> io::Result<(File, u64)> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    let writes = access.intersects(OFlags::WRONLY | OFlags::RDWR);
    let follow = if writes { OFlags::NOFOLLOW } else { OFlags::empty() };
    let flags = access | follow | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    #[expect(clippy::disallowed_methods, reason = "this is the one way")]
    let opened =
        rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR));
    let file = match opened {
        // A directory or a link, to be written; a socket.
        Err(Errno::ISDIR | Errno::NXIO | Errno::LOOP) => return Err(irregular()),
        opened => File::from(opened?),
    };
    let found = file.metadata()?;
    if writes {
        check_owner(&found)?;
    }
    if found.is_file() { Ok((file, found.len())) } else { Err(irregular()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// What a file's path may lead to.
    fn irregular(dir: &Path) -> Vec<PathBuf> {
        let [fifo, directory, socket, link] =
            ["fifo", "directory", "socket", "link"].map(|name| dir.join(name));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::create_dir(&directory).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let name = rustix::pty::ptsname(&terminal, vec![]).unwrap();
        // Kept open to the end of the test: a terminal lives as long as its other side.
        std::mem::forget(terminal);
        let terminal = PathBuf::from(name.into_string().unwrap());
        vec![fifo, directory, socket, link, terminal, "/dev/zero".into(), "/dev/null".into()]
    }

    #[test]
    fn g9_what_is_no_regular_file_is_neither_waited_for_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        for path in irregular(dir.path()) {
            let errors = [
                open(&path).map(drop).unwrap_err(),
                open_or_create(&path).map(drop).unwrap_err(),
                write(&path, b"x").map(drop).unwrap_err(),
                read(&path, 10).map(drop).unwrap_err(),
                read_text(&path, 10).map(drop).unwrap_err(),
                read_start(&path, 10).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
            }
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        write(&path, b"longer than that").unwrap();
        write(&path, b"nine here").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path, 9).unwrap(), b"nine here");
        assert_eq!(read(&path, 8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_start(&path, 4).unwrap(), b"nine");
        assert_eq!(read_text(&path, 9).unwrap(), "nine here");
        // Its size says 0, as that of every file below /proc.
        assert!(read(Path::new("/proc/self/stat"), 4096).unwrap().len() > 10);
        assert!(read(Path::new("/proc/self/stat"), 10).is_err());
        write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn g10_a_link_is_read_through_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let [victim, link] = ["victim", "link"].map(|name| dir.path().join(name));
        write(&victim, b"keep").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        for error in
            [write(&link, b"x").map(drop), truncate(&link), open_or_create(&link).map(drop)]
        {
            assert_eq!(error.unwrap_err().to_string(), "not a regular file");
        }
        assert_eq!(read(&link, 9).unwrap(), b"keep");
    }

    #[test]
    fn g10_a_directory_of_ours_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode() & 0o777;
        own_directory(&at("new/deep")).unwrap();
        assert_eq!((mode("new"), mode("new/deep")), (0o700, 0o700));
        for (open, closed) in [(0o777, 0o700), (0o755, 0o700), (0o550, 0o500), (0o700, 0o700)] {
            std::fs::set_permissions(at("new"), PermissionsExt::from_mode(open)).unwrap();
            own_directory(&at("new")).unwrap();
            assert_eq!(mode("new"), closed);
        }
        std::fs::set_permissions(at("new"), PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(at("new"), at("link")).unwrap();
        own_directory(&at("link")).unwrap();
        assert_eq!(mode("new"), 0o700, "a link of the user's own");
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        own_directory(&at("dangling")).unwrap_err();
        std::fs::write(at("file"), "").unwrap();
        own_directory(&at("file")).unwrap_err();
        own_directory(&at("file/below")).unwrap_err();
        // Root's, or, for root, any other user's.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(at("new"), Some(65534), None).unwrap();
        }
        let foreign = if rustix::process::geteuid().is_root() { at("new") } else { "/etc".into() };
        let error = own_directory(&foreign).unwrap_err();
        assert_eq!(error.to_string(), "belongs to another user");
    }

    #[test]
    fn a_program_that_is_started_does_not_inherit_the_file() {
        let file = open(Path::new("/proc/self/stat")).unwrap();
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
