//! What the disk tells: mail that was read, filed or written, requests, other
//! processes' runs, an edited configuration.
//!
//! Knows inotify and what mutt and mbsync do to a Maildir; draws no conclusion
//! from it. Only cur and new are listened to: the rest of a Maildir changes in
//! every run of mbsync, also in one that does nothing.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

/// What has been heard since the last question.
// Each is a fact of its own, and any of them may come with any other.
#[derive(Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a set of flags
pub struct LocalEvents {
    /// Mailboxes, by index, with something changed in cur or new.
    pub mail: BTreeSet<usize>,
    /// A directory has come or gone where Maildirs appear.
    pub folders: bool,
    /// Something about requests, or another process's run.
    pub state: bool,
    /// A configuration file was written.
    pub config: bool,
    /// Too much at once: anything may have changed.
    pub all: bool,
}

impl LocalEvents {
    /// Nothing was heard.
    #[must_use]
    pub fn nothing(&self) -> bool {
        *self == LocalEvents::default()
    }

    /// Adds what was heard later.
    pub fn add(&mut self, later: LocalEvents) {
        self.mail.extend(later.mail);
        self.folders |= later.folders;
        self.state |= later.state;
        self.config |= later.config;
        self.all |= later.all;
    }
}

#[derive(Debug, Clone)]
enum WatchKind {
    Mail(usize),
    Folders,
    RecordState,
    /// The directory of a trigger file of the user's own.
    Trigger(OsString),
}

/// The watches of one account.
#[derive(Debug)]
pub struct LocalWatcher {
    inotify: Inotify,
    /// Apart, because a configuration file lies among others that are written at
    /// any time, by a password command for one.
    configs: Inotify,
    config_names: HashMap<WatchDescriptor, Vec<OsString>>,
    places: HashMap<WatchDescriptor, Vec<WatchKind>>,
    deaf: Vec<usize>,
}

/// Where to listen.
#[derive(Debug)]
pub struct WatchPaths<'a> {
    /// The Maildir of each mailbox.
    pub maildirs: &'a [Option<PathBuf>],
    /// Directories in which new Maildirs appear.
    pub roots: &'a BTreeSet<PathBuf>,
    /// The account's state directory.
    pub state: &'a Path,
    /// The trigger file, if it is elsewhere.
    pub trigger: Option<&'a Path>,
    /// Configuration files.
    pub configs: &'a [PathBuf],
}

impl LocalWatcher {
    /// Listens. Mailboxes for which the kernel has no watch left are [`LocalWatcher::deaf`].
    ///
    /// # Errors
    /// There is no inotify at all, or no instance left.
    pub fn open(places: &WatchPaths<'_>) -> io::Result<Self> {
        let mut ears = LocalWatcher {
            inotify: Inotify::init()?,
            configs: Inotify::init()?,
            config_names: HashMap::new(),
            places: HashMap::new(),
            deaf: vec![],
        };
        // Requests first: they must not be missed for want of watches.
        let made = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_TO;
        ears.add(&places.state.join("want"), WatchMask::CLOSE_WRITE, WatchKind::RecordState);
        ears.add(
            places.state,
            made | WatchMask::CLOSE_WRITE | WatchMask::ATTRIB,
            WatchKind::RecordState,
        );
        for config in places.configs {
            // A link's target is edited elsewhere; a link is replaced here.
            let target = config.canonicalize().ok().filter(|target| target != config);
            for file in std::iter::once(config).chain(&target) {
                if let (Some(dir), Some(name)) = (file.parent(), file.file_name()) {
                    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
                    if let Ok(watch) = ears.configs.watches().add(dir, mask) {
                        ears.config_names.entry(watch).or_default().push(name.to_owned());
                    }
                }
            }
        }
        if let Some((dir, name)) =
            places.trigger.and_then(|file| file.parent().zip(file.file_name()))
        {
            let mask = WatchMask::CREATE | WatchMask::ATTRIB | WatchMask::CLOSE_WRITE;
            ears.add(dir, mask | WatchMask::MOVED_TO, WatchKind::Trigger(name.to_owned()));
        }
        for root in places.roots {
            ears.add(root, made | WatchMask::MOVED_FROM, WatchKind::Folders);
        }
        for (index, maildir) in places.maildirs.iter().enumerate() {
            let Some(maildir) = maildir else { continue };
            let mask = WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::DELETE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF;
            let both = ["cur", "new"]
                .map(|part| ears.add(&maildir.join(part), mask, WatchKind::Mail(index)));
            if both.contains(&false) {
                ears.deaf.push(index);
            }
        }
        Ok(ears)
    }

    /// Mailboxes that cannot be listened to: they have to be looked at.
    #[must_use]
    pub fn deaf(&self) -> &[usize] {
        &self.deaf
    }

    /// False only if there is something to watch and no watch for it.
    fn add(&mut self, path: &Path, mask: WatchMask, place: WatchKind) -> bool {
        match self.inotify.watches().add(path, mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR) {
            Ok(watch) => {
                self.places.entry(watch).or_default().push(place);
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        }
    }

    /// What has been heard. Never waits.
    pub fn heard(&mut self) -> LocalEvents {
        let mut heard = LocalEvents::default();
        let places = &self.places;
        drain(&mut self.inotify, |watch, mask, name| {
            if mask.contains(EventMask::Q_OVERFLOW) {
                heard.all = true;
            }
            for place in places.get(watch).into_iter().flatten() {
                place.heard(mask, name, &mut heard);
            }
        });
        let names = &self.config_names;
        drain(&mut self.configs, |watch, mask, name| {
            let ours = |ours: &OsString| name == Some(ours.as_os_str());
            heard.config |= mask.contains(EventMask::Q_OVERFLOW)
                || names.get(watch).into_iter().flatten().any(ours);
        });
        heard
    }

    /// Readable when a configuration file may have been written.
    #[must_use]
    pub fn configs_fd(&self) -> BorrowedFd<'_> {
        self.configs.as_fd()
    }
}

fn drain(
    inotify: &mut Inotify,
    mut each: impl FnMut(&WatchDescriptor, EventMask, Option<&std::ffi::OsStr>),
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(events) = inotify.read_events(&mut buffer) {
        let mut any = false;
        for event in events {
            any = true;
            each(&event.wd, event.mask, event.name);
        }
        if !any {
            break;
        }
    }
}

impl WatchKind {
    fn heard(&self, mask: EventMask, name: Option<&std::ffi::OsStr>, heard: &mut LocalEvents) {
        let name_is = |wanted: &OsString| name == Some(wanted.as_os_str());
        match self {
            WatchKind::Mail(index) => {
                heard.mail.insert(*index);
                // The directory itself went: the Maildir may be another one now.
                heard.folders |= mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF);
            }
            WatchKind::Folders => {
                let own =
                    ["cur", "new", "tmp"].iter().any(|own| name.is_some_and(|name| name == *own));
                heard.folders |= mask.contains(EventMask::ISDIR) && !own;
            }
            WatchKind::RecordState => {
                // Half-written files and the queue's comings and goings mean nothing.
                let name = name.and_then(|name| name.to_str()).unwrap_or_default();
                heard.state |=
                    !name.starts_with('.') && name != "queue.lock" && name != "waiter.lock";
            }
            WatchKind::Trigger(trigger) => heard.state |= name_is(trigger),
        }
    }
}

impl AsFd for LocalWatcher {
    /// Readable when something happened that may call for a run.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_told_apart() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for dir in ["state/want", "mail/box/cur", "mail/box/new", "mail/box/tmp", "conf", "trig"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let roots = BTreeSet::from([at("mail")]);
        let configs = [at("conf/rc")];
        let trigger = at("trig/Home");
        let mut ears = LocalWatcher::open(&WatchPaths {
            maildirs: &[None, Some(at("mail/box"))],
            roots: &roots,
            state: &at("state"),
            trigger: Some(&trigger),
            configs: &configs,
        })
        .unwrap();
        assert!(ears.deaf().is_empty() && ears.heard().nothing());
        let touch = |name: &str| std::fs::write(at(name), "").unwrap();
        touch("mail/box/tmp/x");
        touch("mail/box/.mbsyncstate");
        touch("conf/other");
        touch("trig/Work");
        touch("state/queue.lock");
        assert!(ears.heard().nothing());
        touch("mail/box/cur/x");
        assert_eq!(
            ears.heard(),
            LocalEvents { mail: BTreeSet::from([1]), ..LocalEvents::default() }
        );
        std::fs::create_dir(at("mail/more")).unwrap();
        assert_eq!(ears.heard(), LocalEvents { folders: true, ..LocalEvents::default() });
        touch("state/want/%2A");
        assert_eq!(ears.heard(), LocalEvents { state: true, ..LocalEvents::default() });
        touch("trig/Home");
        assert_eq!(ears.heard(), LocalEvents { state: true, ..LocalEvents::default() });
        std::fs::write(at("conf/rc.new"), "").unwrap();
        std::fs::rename(at("conf/rc.new"), at("conf/rc")).unwrap();
        assert_eq!(ears.heard(), LocalEvents { config: true, ..LocalEvents::default() });
    }
}
