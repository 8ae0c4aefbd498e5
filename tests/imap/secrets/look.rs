//! Where a canary can be, and looking there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rig::{Home, process};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A secret in every form that a program could let it slip: as it is, in parts,
/// and as the login mechanisms encode it.
pub struct Canary {
    needles: Vec<Vec<u8>>,
}

impl Canary {
    /// Of a secret of at least twelve characters, said by this user.
    pub fn of(user: &str, secret: &str) -> Self {
        assert!(secret.len() >= 12, "its parts would be too common");
        let encoded = [
            STANDARD.encode(secret),
            STANDARD.encode(format!("\0{user}\0{secret}")),
            STANDARD.encode(format!("user={user}\u{1}auth=Bearer {secret}\u{1}\u{1}")),
        ];
        let mut needles: Vec<Vec<u8>> = Vec::new();
        // Any eight characters in a row are a leak.
        needles.extend(secret.as_bytes().windows(8).map(<[u8]>::to_vec));
        for text in encoded {
            // Not the part that only the user's name makes.
            needles.extend(text.as_bytes()[text.len() - 20..].chunks(10).map(<[u8]>::to_vec));
            needles.push(text.into_bytes());
        }
        Canary { needles }
    }

    /// The first form of it in these bytes.
    pub fn found_in(&self, bytes: &[u8]) -> Option<String> {
        let found = self.needles.iter().find(|needle| contains(bytes, needle))?;
        Some(String::from_utf8_lossy(found).into_owned())
    }

    #[track_caller]
    pub fn assert_not_in(&self, what: &str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Some(found) = self.found_in(bytes) {
            panic!("{what} has {found}:\n{}", String::from_utf8_lossy(bytes));
        }
    }

    /// Looks through all files of the home, and their names, but for these.
    #[track_caller]
    pub fn assert_not_in_files(&self, home: &Home, but: &[&str]) {
        let mut files = 0;
        self.below(&home.path(""), home, but, &mut files);
        assert!(files > 0, "no file was looked at");
    }

    #[track_caller]
    fn below(&self, dir: &Path, home: &Home, but: &[&str], files: &mut usize) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            self.assert_not_in("a file's name", path.as_os_str().as_encoded_bytes());
            if but.iter().any(|but| path == home.path(but)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.below(&path, home, but, files),
                Ok(kind) if kind.is_file() => {
                    *files += 1;
                    let bytes = fs::read(&path).unwrap_or_default();
                    self.assert_not_in(&path.display().to_string(), bytes);
                }
                _ => {}
            }
        }
    }
}

pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Reads the arguments and the environment of every process of a home, over and
/// over, while it lives.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Sampled>>,
}

/// What a sampler has seen.
#[derive(Default)]
pub struct Sampled {
    /// Command lines, each once.
    pub lines: BTreeSet<String>,
    /// Rounds through all processes.
    pub rounds: usize,
    leaks: Vec<String>,
}

impl Sampler {
    /// A process whose command line holds one of `marks` finds `~/seen-MARK`
    /// once it was looked at, and may wait for that.
    pub fn start(home: &Home, canaries: Vec<Canary>, marks: &[&'static str]) -> Self {
        let marks = marks.to_vec();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let root = home.path("");
        let mark_of_home = home.mark().to_owned();
        let thread = std::thread::spawn(move || {
            let mark = format!("HOME={}", root.display());
            let mark = mark.trim_end_matches('/').as_bytes().to_vec();
            let mut seen = Sampled::default();
            while !stopped.load(Ordering::Relaxed) {
                for pid in process::all() {
                    // Only root reads that of mutt-sync itself.
                    let environ = fs::read(format!("/proc/{pid}/environ"));
                    let hidden = environ.is_err() && process::is_marked(pid, &mark_of_home);
                    let environ = environ.unwrap_or_default();
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let of_home = hidden
                        || environ.split(|byte| *byte == 0).any(|each| each == mark)
                        || contains(&line, root.as_os_str().as_encoded_bytes());
                    if !of_home {
                        continue;
                    }
                    for canary in &canaries {
                        for (what, bytes) in [("arguments", &line), ("environment", &environ)] {
                            if let Some(found) = canary.found_in(bytes) {
                                let of = String::from_utf8_lossy(&line).replace('\0', " ");
                                seen.leaks.push(format!("{found} in the {what} of {of}"));
                            }
                        }
                    }
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    for mark in marks.iter().filter(|mark| line.contains(*mark)) {
                        let _ = fs::write(root.join(format!("seen-{mark}")), "");
                    }
                    seen.lines.insert(line);
                }
                seen.rounds += 1;
            }
            seen
        });
        Sampler { stop, thread: Some(thread) }
    }

    /// Ends it; fails if it has seen a canary.
    #[track_caller]
    pub fn end(mut self) -> Sampled {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().unwrap().join().unwrap();
        assert!(seen.leaks.is_empty(), "{:#?}", seen.leaks);
        seen
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A shell line that waits, but not for ever, until a [`Sampler`] has seen its
/// process by this mark.
pub fn until_seen(mark: &str) -> String {
    format!(
        "n=0; while [ ! -e \"$HOME/seen-{mark}\" ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done"
    )
}
