//! A Maildir, handled as mutt handles it.
//!
//! Knows file names as mbsync writes them (`NAME,U=7:2,FS`); knows nothing of
//! its state file.

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A mailbox on disk: the directory that holds `cur`, `new` and `tmp`.
#[derive(Debug, Clone)]
pub struct Maildir {
    path: PathBuf,
}

/// A message in a Maildir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: String,
    /// Whole path.
    pub path: PathBuf,
    /// It lies in `new`.
    pub new: bool,
    /// What mbsync wrote after `,U=`.
    pub uid: Option<u32>,
    /// The letters after `:2,`, sorted.
    pub flags: String,
    /// The header field, with its brackets; empty if there is none.
    pub message_id: String,
    /// Of the body, line ends evened out.
    pub digest: String,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A small message with `\n` line ends and a Message-ID like no other.
pub fn message(subject: &str, body: &str) -> Vec<u8> {
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = format!("{}.{n}.{}", now.as_nanos(), std::process::id());
    format!(
        "From: Ada <ada@example.net>\n\
         To: me@home.example\n\
         Subject: {subject}\n\
         Date: Mon, 23 Nov 2026 12:00:00 +0000\n\
         Message-ID: <{id}@rig.example>\n\
         MIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\n\
         \n\
         {body}\n"
    )
    .into_bytes()
}

/// Message-ID and digest of the body: what is the same on both sides. Other
/// headers are not: mbsync adds X-TUID.
pub(crate) fn identity(message: &[u8]) -> (String, String) {
    let message: Vec<u8> = message.iter().copied().filter(|&b| b != b'\r').collect();
    let split = message.windows(2).position(|w| w == b"\n\n");
    let (head, body) = split.map_or((&message[..], &[][..]), |at| message.split_at(at));
    let head = String::from_utf8_lossy(head);
    let id = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("message-id").then(|| value.trim().to_owned())
        })
        .unwrap_or_default();
    let digest = Sha256::digest(body);
    (id, digest.iter().take(8).map(|b| format!("{b:02x}")).collect())
}

fn unique_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}.R{}N{n}.rig", now.as_secs(), fastrand::u64(..))
}

fn sorted(flags: &str) -> String {
    let mut letters: Vec<char> = flags.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    letters.into_iter().collect()
}

impl Maildir {
    /// The Maildir at this place, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Maildir { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.join("cur").is_dir()
    }

    /// Makes it, with the directories above.
    pub fn create(self) -> Self {
        for sub in ["cur", "new", "tmp"] {
            fs::create_dir_all(self.path.join(sub)).expect("make Maildir");
        }
        self
    }

    /// Puts a message into `cur` as mutt does (save, Fcc, postpone): written in
    /// `tmp`, linked, unlinked. Returns its file name.
    pub fn add(&self, message: &[u8], flags: &str) -> String {
        self.put(message, "cur", format!("{}:2,{}", unique_name(), sorted(flags)))
    }

    /// Puts a message into `new`, as a delivery agent does. Returns its file name.
    pub fn deliver(&self, message: &[u8]) -> String {
        self.put(message, "new", unique_name())
    }

    fn put(&self, message: &[u8], sub: &str, name: String) -> String {
        let temporary = self.path.join("tmp").join(&name);
        fs::write(&temporary, message).expect("write message");
        fs::hard_link(&temporary, self.path.join(sub).join(&name)).expect("link message");
        fs::remove_file(&temporary).expect("unlink temporary");
        name
    }

    /// Gives a message these flags, by a rename into `cur`. Returns the new name.
    pub fn set_flags(&self, entry: &Entry, flags: &str) -> String {
        let base = entry.name.split(":2,").next().unwrap_or_default();
        let name = format!("{base}:2,{}", sorted(flags));
        fs::rename(&entry.path, self.path.join("cur").join(&name)).expect("rename message");
        name
    }

    /// Moves a message from `new` to `cur` with its flags as they are: what
    /// mutt does with unread mail when it is left. Nothing to be pushed.
    pub fn mark_old(&self, entry: &Entry) -> String {
        self.set_flags(entry, &entry.flags)
    }

    /// Removes a message.
    pub fn delete(&self, entry: &Entry) {
        fs::remove_file(&entry.path).expect("delete message");
    }

    /// Removes a message and puts a copy into another mailbox: mutt's save, or
    /// its delete with `trash` set. Returns the copy's name.
    pub fn move_to(&self, entry: &Entry, other: &Maildir) -> String {
        let bytes = fs::read(&entry.path).expect("read message");
        let name = other.add(&bytes, &entry.flags);
        self.delete(entry);
        name
    }

    /// Names of the files in cur and in new.
    fn names(&self) -> [Vec<String>; 2] {
        ["cur", "new"].map(|sub| {
            let dir = fs::read_dir(self.path.join(sub)).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                dir.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        })
    }

    /// What `look` makes of the names while they stand still: of a file that is
    /// renamed while its directory is read, neither name may be seen.
    fn at_rest<T>(&self, look: impl Fn(&[Vec<String>; 2]) -> T) -> T {
        for _ in 0..100 {
            let names = self.names();
            let found = look(&names);
            if self.names() == names {
                return found;
            }
        }
        look(&self.names())
    }

    /// Every message, sorted by name.
    pub fn list(&self) -> Vec<Entry> {
        let entries = |[cur, new]: &[Vec<String>; 2]| {
            let both = [("cur", cur), ("new", new)];
            let names = both.iter().flat_map(|(sub, names)| names.iter().map(|name| (*sub, name)));
            names.filter_map(|(sub, name)| self.entry(sub, name)).collect::<Vec<_>>()
        };
        let mut entries = self.at_rest(entries);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn entry(&self, sub: &str, name: &str) -> Option<Entry> {
        if name.starts_with('.') {
            return None;
        }
        let path = self.path.join(sub).join(name);
        let bytes = fs::read(&path).ok()?;
        let (message_id, digest) = identity(&bytes);
        let (base, flags) = name.split_once(":2,").unwrap_or((name, ""));
        Some(Entry {
            path,
            new: sub == "new",
            uid: base.split_once(",U=").and_then(|(_, uid)| uid.parse().ok()),
            flags: sorted(flags),
            message_id,
            digest,
            name: name.to_owned(),
        })
    }

    /// The one message whose text contains this.
    #[track_caller]
    pub fn find(&self, text: &str) -> Entry {
        let holds = |entry: &Entry| {
            let bytes = fs::read(&entry.path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        let mut found: Vec<Entry> = self.list().into_iter().filter(holds).collect();
        assert_eq!(found.len(), 1, "messages with {text:?} in {}: {found:?}", self.path.display());
        found.remove(0)
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.at_rest(|names| names.iter().map(Vec::len).sum())
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the mtimes of `cur` and `new` two seconds back. mbsync sleeps while
    /// they are of the current second; a test need not.
    pub fn age(&self) {
        for sub in ["cur", "new"] {
            if let Ok(dir) = File::open(self.path.join(sub)) {
                let _ = dir.set_modified(SystemTime::now() - Duration::from_secs(2));
            }
        }
    }
}
