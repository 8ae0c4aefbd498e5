//! Events on this disk: mail that was read, filed or written, requests, other
//! processes' runs, a configuration that was edited.
//!
//! Knows inotify and what mutt and mbsync do to a Maildir; draws no conclusion
//! from it. Messages are watched in cur and new only: the rest of a Maildir changes in
//! every run of mbsync, also in one that does nothing. There, only a new directory means
//! something. Mailboxes that the kernel has no watch for are unwatched: they have to be
//! scanned at intervals.
//!
//! Does not depend on: records, the server, what follows from an event.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::log::Log;
use crate::error::{no_descriptor_left, system_text};
use crate::model::{Account, Mailbox, SubFolders};
use crate::state::{clean, lock};
use crate::text::{counted, short};

/// How often unwatched mailboxes are scanned.
const SCAN_UNWATCHED: Duration = Duration::from_secs(15);
/// In so many Maildirs a new one is noticed at once. With more, a watch for each is too
/// much: there it is found by the next request for more than a mailbox, and by the timer.
const MOST_NESTING: usize = 1000;
/// How often directories that are created while watches are opened are looked for.
const MOST_NEW_DIRS: usize = 16;

/// What has happened since the last question.
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
    /// The directory of a configuration file has come or gone: it needs other watches.
    pub config_dirs: bool,
    /// Events were lost: anything may have changed.
    pub overflow: bool,
}

impl LocalEvents {
    /// Adds later events.
    fn add(&mut self, later: LocalEvents) {
        self.mail.extend(later.mail);
        self.folders |= later.folders;
        self.state |= later.state;
        self.config |= later.config;
        self.config_dirs |= later.config_dirs;
        self.overflow |= later.overflow;
    }
}

/// What to watch.
#[derive(Debug)]
pub struct WatchPaths {
    /// The Maildir of each mailbox.
    pub maildirs: Vec<Option<PathBuf>>,
    /// Directories in which new Maildirs appear.
    pub roots: BTreeSet<PathBuf>,
    /// They also appear in the Maildirs themselves.
    pub nested: bool,
    /// The account's state directory.
    pub state: PathBuf,
    /// The trigger file, if it is elsewhere.
    pub trigger: Option<PathBuf>,
    pub configs: Vec<PathBuf>,
}

impl WatchPaths {
    /// The Maildirs of these mailboxes, and the directories in which others of the
    /// account would appear.
    pub fn of<'m>(
        account: &Account,
        mailboxes: impl Iterator<Item = &'m Mailbox>,
        state: PathBuf,
        trigger: Option<PathBuf>,
        configs: Vec<PathBuf>,
    ) -> Self {
        let maildirs: Vec<_> = mailboxes.map(|mailbox| mailbox.maildir.clone()).collect();
        let parents = maildirs.iter().flatten().filter_map(|maildir| maildir.parent());
        let mut roots: BTreeSet<PathBuf> = parents.map(Into::into).collect();
        let mut nested = false;
        for store in account.channels.iter().filter_map(|channel| channel.near.maildir()) {
            if let Some((dir, _)) = store.path.as_ref().and_then(|path| path.rsplit_once('/')) {
                roots.insert(dir.into());
            }
            match store.subfolders {
                SubFolders::Unset => {}
                SubFolders::Verbatim | SubFolders::Legacy => nested = true,
                SubFolders::MaildirPlusPlus => _ = roots.insert(store.inbox.clone()),
            }
        }
        WatchPaths { maildirs, roots, nested, state, trigger, configs }
    }

    /// How many watches all of it takes.
    pub fn watches(&self) -> usize {
        let state = 2;
        2 * self.maildirs.iter().flatten().count()
            + self.nesting().filter(|maildir| !self.roots.contains(*maildir)).count()
            + self.roots.len()
            + self.configs.len()
            + usize::from(self.trigger.is_some())
            + state
    }

    /// The Maildirs in which others may appear, as far as they are watched.
    fn nesting(&self) -> impl Iterator<Item = &PathBuf> {
        self.maildirs.iter().flatten().take(if self.nested { MOST_NESTING } else { 0 })
    }
}

/// The local events of one account, with or without inotify.
pub struct LocalWatcher {
    inotify: Option<InotifyWatches>,
    /// Events of watches that were replaced.
    pending: LocalEvents,
    scan_unwatched_at: Duration,
    /// When to list the mailboxes again, after directories came or went.
    list_at: Option<Duration>,
    log: Rc<Log>,
}

impl LocalWatcher {
    pub fn new(log: Rc<Log>, now: Duration) -> Self {
        let scan_unwatched_at = now + SCAN_UNWATCHED;
        LocalWatcher {
            inotify: None,
            pending: LocalEvents::default(),
            scan_unwatched_at,
            list_at: None,
            log,
        }
    }

    /// Watches these, and reports what cannot be watched; [`LocalWatcher::retry`]
    /// tries again.
    pub fn watch(&mut self, paths: &WatchPaths) {
        let mut opened = InotifyWatches::open(paths);
        let is_whole = opened.as_ref().is_ok_and(|opened| opened.unwatched.is_empty());
        if !is_whole && self.inotify.is_some() {
            // The limits may have room for one of the two only.
            self.keep_events();
            drop(opened);
            self.inotify = None;
            opened = InotifyWatches::open(paths);
            // What has happened between.
            self.pending.state = true;
            self.pending.config = true;
            self.pending.mail.extend(0..paths.maildirs.len());
        }
        self.set(opened);
    }

    fn set(&mut self, opened: io::Result<InotifyWatches>) {
        self.keep_events();
        let every = short(SCAN_UNWATCHED);
        match opened {
            Ok(inotify) => {
                if !inotify.unwatched.is_empty() {
                    let unwatched = counted(inotify.unwatched.len(), "mailbox");
                    self.log.report(&format!(
                        "no inotify watch left for {unwatched}, scanned every {every} instead; \
                         raise fs.inotify.max_user_watches (sysctl)"
                    ));
                }
                self.inotify = Some(inotify);
            }
            Err(error) => {
                self.inotify = None;
                let limit = if no_descriptor_left(&error) {
                    "fs.inotify.max_user_instances (sysctl), or the limit of open files (ulimit -n)"
                } else {
                    "fs.inotify.max_user_instances (sysctl)"
                };
                self.log.report(&format!(
                    "no inotify ({}); mailboxes are scanned every {every}; raise {limit}",
                    system_text(&error)
                ));
            }
        }
    }

    /// Where something is unwatched, the kernel may have watches again by now. True
    /// if more is watched than before; what happened meanwhile is not known then.
    pub fn retry(&mut self, paths: &WatchPaths) -> bool {
        let Ok(inotify) = InotifyWatches::open(paths) else { return false };
        let before = self.inotify.as_ref().map(|inotify| inotify.unwatched.len());
        let better = before.is_none_or(|before| inotify.unwatched.len() < before);
        if better {
            self.log.say(|| "inotify works again".into());
            self.keep_events();
            self.inotify = Some(inotify);
        }
        better
    }

    /// Whether something is unwatched.
    pub fn is_partial(&self) -> bool {
        self.inotify.as_ref().is_none_or(|inotify| !inotify.unwatched.is_empty())
    }

    /// The unwatched mailboxes, of so many.
    pub fn unwatched(&self, mailboxes: usize) -> Vec<usize> {
        match &self.inotify {
            Some(inotify) => inotify.unwatched.clone(),
            None => (0..mailboxes).collect(),
        }
    }

    /// What has happened. Never waits. Without inotify, every call is a reason to
    /// check requests and runs.
    pub fn events(&mut self) -> LocalEvents {
        self.keep_events();
        let mut events = std::mem::take(&mut self.pending);
        events.state |= self.inotify.is_none();
        events
    }

    /// Takes the events out of the watches: with watches that are replaced they would
    /// be lost.
    fn keep_events(&mut self) {
        if let Some(inotify) = &mut self.inotify {
            self.pending.add(inotify.events());
        }
    }

    /// Whether there are events for which no descriptor becomes readable.
    pub fn has_pending(&self) -> bool {
        self.pending != LocalEvents::default()
    }

    pub fn unwatched_are_due(&self, now: Duration) -> bool {
        now >= self.scan_unwatched_at
    }

    pub fn unwatched_are_scanned(&mut self, now: Duration) {
        self.scan_unwatched_at = now + SCAN_UNWATCHED;
    }

    /// The mailboxes are to be listed again: later, for a Maildir is created in
    /// several steps.
    pub fn list_later(&mut self, at: Duration) {
        self.list_at.get_or_insert(at);
    }

    pub fn must_list(&self) -> bool {
        self.list_at.is_some()
    }

    pub fn list_is_due(&self, now: Duration) -> bool {
        self.list_at.is_some_and(|at| now >= at)
    }

    /// The mailboxes are being listed: directories that came or went before this are
    /// found.
    pub fn listing(&mut self) {
        self.list_at = None;
        self.keep_events();
        self.pending.folders = false;
    }

    /// All mailboxes are scanned, and their indices have changed.
    pub fn forget_mail(&mut self) {
        self.pending.mail.clear();
    }

    /// When something is due without an event.
    pub fn next_due(&self) -> Option<Duration> {
        let unwatched = self.is_partial().then_some(self.scan_unwatched_at);
        self.list_at.into_iter().chain(unwatched).min()
    }

    /// Readable when something happened that may call for a run.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.inotify.as_fd())
    }

    /// Readable when a configuration file may have been written.
    pub fn configs_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.configs.as_fd())
    }
}

#[derive(Debug, Clone)]
enum WatchKind {
    Mail(usize),
    Folders,
    State,
    /// The directory of a trigger file of the user's own.
    Trigger(OsString),
}

/// The inotify watches of one account.
#[derive(Debug)]
pub struct InotifyWatches {
    inotify: Inotify,
    /// Apart, because a configuration file lies among others that are written at
    /// any time, by a password command for one.
    configs: Inotify,
    config_files: HashMap<WatchDescriptor, Vec<PathBuf>>,
    /// What is missing of the way to a configuration file, by where it would appear.
    missing_dirs: HashMap<WatchDescriptor, Vec<OsString>>,
    /// In the order of the descriptors, one of which may have several kinds.
    kinds: Vec<(WatchDescriptor, WatchKind)>,
    /// Mailboxes that the kernel had no watch left for.
    pub unwatched: Vec<usize>,
}

impl InotifyWatches {
    /// Fails if there is no inotify at all, or no instance left.
    pub fn open(paths: &WatchPaths) -> io::Result<Self> {
        let mut all = InotifyWatches {
            inotify: Inotify::init()?,
            configs: Inotify::init()?,
            config_files: HashMap::new(),
            missing_dirs: HashMap::new(),
            kinds: Vec::new(),
            unwatched: vec![],
        };
        // Requests first: they must not be missed for lack of watches.
        let made = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_TO;
        all.add(paths.state.join("want"), WatchMask::CLOSE_WRITE, WatchKind::State);
        all.add(
            paths.state.clone(),
            made | WatchMask::CLOSE_WRITE | WatchMask::ATTRIB,
            WatchKind::State,
        );
        for config in &paths.configs {
            // A link's target is edited elsewhere; a link is replaced here.
            let target = config.canonicalize().ok().filter(|target| target != config);
            for file in std::iter::once(config).chain(&target) {
                all.add_config(file);
            }
        }
        let trigger = paths.trigger.as_ref();
        if let Some((dir, name)) = trigger.and_then(|file| file.parent().zip(file.file_name())) {
            let mask = WatchMask::CREATE | WatchMask::ATTRIB | WatchMask::CLOSE_WRITE;
            let kind = WatchKind::Trigger(name.to_owned());
            // Or one who makes it later would touch a file in it in vain.
            let _ = std::fs::create_dir(dir);
            all.add(dir.to_owned(), mask | WatchMask::MOVED_TO, kind);
        }
        for root in &paths.roots {
            all.add(root.clone(), made | WatchMask::MOVED_FROM, WatchKind::Folders);
        }
        for (index, maildir) in paths.maildirs.iter().enumerate() {
            let Some(maildir) = maildir else { continue };
            let mask = WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::DELETE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF;
            let both = ["cur", "new"]
                .map(|part| all.add(maildir.join(part), mask, WatchKind::Mail(index)));
            if both.contains(&false) {
                all.unwatched.push(index);
            }
        }
        // Last: without a watch left, a new one is found later.
        for maildir in paths.nesting() {
            all.add(maildir.clone(), WatchMask::CREATE | WatchMask::MOVED_TO, WatchKind::Folders);
        }
        all.kinds.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.kinds.shrink_to_fit();
        Ok(all)
    }

    /// Watches a configuration file, or for the first directory that is missing above it.
    fn add_config(&mut self, file: &Path) {
        for _ in 0..MOST_NEW_DIRS {
            // One that was created before there was a watch has caused no event.
            if !self.try_add_config(file).is_some_and(Path::is_dir) {
                break;
            }
        }
    }

    /// Gives the missing directory that is watched for, if it is not the file itself.
    fn try_add_config<'f>(&mut self, file: &'f Path) -> Option<&'f Path> {
        let written = WatchMask::CLOSE_WRITE | WatchMask::MOVE_SELF;
        let mut next = file;
        for dir in file.ancestors().skip(1) {
            let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            let appears = WatchMask::CREATE | WatchMask::MOVED_TO;
            let mask = if next == file { appears | written } else { appears };
            match self.configs.watches().add(here, mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR)
            {
                Ok(watch) if next == file => {
                    self.config_files.entry(watch).or_default().push(file.to_owned());
                    return None;
                }
                Ok(watch) => {
                    let names = self.missing_dirs.entry(watch).or_default();
                    names.extend(next.file_name().map(OsStr::to_owned));
                    return Some(next);
                }
                Err(error) if is_missing(&error) => next = dir,
                Err(_) => return None,
            }
        }
        None
    }

    /// False only if there is something to watch and no watch for it.
    fn add(&mut self, path: PathBuf, mask: WatchMask, kind: WatchKind) -> bool {
        match self.inotify.watches().add(path, mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR) {
            Ok(watch) => {
                self.kinds.push((watch, kind));
                true
            }
            Err(error) => is_missing(&error),
        }
    }

    fn events(&mut self) -> LocalEvents {
        let mut events = LocalEvents::default();
        let kinds = &self.kinds;
        drain(&mut self.inotify, |watch, mask, name| {
            if mask.contains(EventMask::Q_OVERFLOW) {
                events.overflow = true;
            }
            let first = kinds.partition_point(|(each, _)| each < watch);
            let of_watch = kinds.iter().skip(first).take_while(|(each, _)| each == watch);
            of_watch.for_each(|(_, kind)| kind.note(mask, name, &mut events));
        });
        let (files, missing_dirs) = (&self.config_files, &self.missing_dirs);
        let lost = EventMask::Q_OVERFLOW | EventMask::IGNORED | EventMask::MOVE_SELF;
        drain(&mut self.configs, |watch, mask, name| {
            let ours = |file: &PathBuf| {
                file.file_name() == name && (!mask.contains(EventMask::CREATE) || is_link(file))
            };
            let mut missing = missing_dirs.get(watch).into_iter().flatten();
            events.config_dirs |= mask.intersects(lost) || missing.any(|dir| name == Some(dir));
            // In a new directory, a file may have been written before there was a watch.
            events.config |= events.config_dirs || files.get(watch).into_iter().flatten().any(ours);
        });
        events
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether a file is whole as soon as it is there. Another one is still being written.
fn is_link(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

fn drain(inotify: &mut Inotify, mut each: impl FnMut(&WatchDescriptor, EventMask, Option<&OsStr>)) {
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
    fn note(&self, mask: EventMask, name: Option<&OsStr>, events: &mut LocalEvents) {
        let name_is = |wanted: &OsString| name == Some(wanted.as_os_str());
        match self {
            WatchKind::Mail(index) => {
                events.mail.insert(*index);
                // The directory itself went: the Maildir may be another one now.
                events.folders |= mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF);
            }
            WatchKind::Folders => {
                let own =
                    ["cur", "new", "tmp"].iter().any(|own| name.is_some_and(|name| name == *own));
                events.folders |= mask.contains(EventMask::ISDIR) && !own;
            }
            WatchKind::State => {
                // Temporary files, the locks of queue and waiter and the waiter's own notes
                // mean nothing.
                let name = name.and_then(|name| name.to_str()).unwrap_or_default();
                let own = [lock::QUEUE, lock::WAITER, clean::PULL];
                events.state |= !name.starts_with('.') && !own.contains(&name);
            }
            WatchKind::Trigger(trigger) => events.state |= name_is(trigger),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::LogLevel;

    fn log() -> Rc<Log> {
        Rc::new(Log::new("Home", LogLevel::Errors))
    }

    fn only(change: impl FnOnce(&mut LocalEvents)) -> LocalEvents {
        let mut events = LocalEvents::default();
        change(&mut events);
        events
    }

    #[test]
    fn each_kind_of_event_is_distinguished() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for dir in ["state/want", "mail/box/cur", "mail/box/new", "mail/box/tmp", "conf", "trig"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let mut local = LocalWatcher::new(log(), Duration::ZERO);
        local.watch(&WatchPaths {
            maildirs: vec![None, Some(at("mail/box"))],
            roots: BTreeSet::from([at("mail")]),
            nested: true,
            state: at("state"),
            trigger: Some(at("trig/Home")),
            configs: vec![at("conf/rc")],
        });
        assert!(!local.is_partial() && local.unwatched(2).is_empty());
        assert_eq!(local.events(), LocalEvents::default());
        let touch = |name: &str| std::fs::write(at(name), "").unwrap();
        touch("mail/box/tmp/x");
        touch("mail/box/.mbsyncstate");
        touch("conf/other");
        touch("trig/Work");
        touch("state/queue.lock");
        assert_eq!(local.events(), LocalEvents::default());
        touch("mail/box/cur/x");
        assert_eq!(local.events(), only(|events| events.mail = BTreeSet::from([1])));
        std::fs::create_dir(at("mail/more")).unwrap();
        assert_eq!(local.events(), only(|events| events.folders = true));
        std::fs::create_dir(at("mail/box/nested")).unwrap();
        assert_eq!(local.events(), only(|events| events.folders = true));
        touch("state/want/%2A");
        assert_eq!(local.events(), only(|events| events.state = true));
        touch("trig/Home");
        assert_eq!(local.events(), only(|events| events.state = true));
        std::fs::write(at("conf/rc.new"), "").unwrap();
        std::fs::rename(at("conf/rc.new"), at("conf/rc")).unwrap();
        assert_eq!(local.events(), only(|events| events.config = true));
        std::fs::remove_file(at("conf/rc")).unwrap();
        let half_written = std::fs::File::create(at("conf/rc")).unwrap();
        assert_eq!(local.events(), LocalEvents::default());
        drop(half_written);
        assert_eq!(local.events(), only(|events| events.config = true));
        std::fs::remove_file(at("conf/rc")).unwrap();
        std::os::unix::fs::symlink(at("trig/Home"), at("conf/rc")).unwrap();
        assert_eq!(local.events(), only(|events| events.config = true));
        touch("trig/other");
        std::fs::remove_file(at("conf/rc")).unwrap();
        std::fs::hard_link(at("trig/other"), at("conf/rc")).unwrap();
        assert_eq!(local.events(), only(|events| events.config = true));
    }

    #[test]
    fn a_configuration_is_watched_for_from_the_nearest_directory_that_is_there() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let paths = WatchPaths {
            maildirs: vec![],
            roots: BTreeSet::new(),
            nested: false,
            state: at("state"),
            trigger: None,
            configs: vec![at("rc"), at("conf/ours/config.toml")],
        };
        let came = || {
            only(|events| {
                events.config = true;
                events.config_dirs = true;
            })
        };
        let mut local = LocalWatcher::new(log(), Duration::ZERO);
        local.watch(&paths);
        std::fs::create_dir(at("other")).unwrap();
        std::fs::write(at("config.toml"), "").unwrap();
        assert_eq!(local.events(), LocalEvents::default());
        std::fs::write(at("rc"), "").unwrap();
        assert_eq!(local.events(), only(|events| events.config = true));
        std::fs::create_dir(at("conf")).unwrap();
        assert_eq!(local.events(), came());
        local.watch(&paths);
        std::fs::create_dir(at("conf/other")).unwrap();
        std::fs::write(at("conf/config.toml"), "").unwrap();
        assert_eq!(local.events(), LocalEvents::default());
        std::fs::create_dir(at("made")).unwrap();
        std::fs::rename(at("made"), at("conf/ours")).unwrap();
        assert_eq!(local.events(), came());
        local.watch(&paths);
        std::fs::write(at("conf/ours/config.toml"), "").unwrap();
        assert_eq!(local.events(), only(|events| events.config = true));
        let remove = |dir: &Path| std::fs::remove_dir_all(dir);
        let rename = |dir: &Path| std::fs::rename(dir, dir.with_extension("old"));
        for is_removed in [true, false] {
            let ours = at("conf/ours");
            if is_removed { remove(&ours) } else { rename(&ours) }.unwrap();
            assert_eq!(local.events(), came());
            local.watch(&paths);
            std::fs::create_dir(at("conf/ours")).unwrap();
            assert_eq!(local.events(), came());
            local.watch(&paths);
        }
    }

    #[test]
    fn without_inotify_all_is_scanned_at_intervals_until_it_is_back() {
        let base = tempfile::tempdir().unwrap();
        let s = Duration::from_secs;
        let mut local = LocalWatcher::new(log(), s(100));
        local.set(Err(io::Error::from_raw_os_error(24)));
        assert!(local.is_partial() && local.fd().is_none() && local.configs_fd().is_none());
        assert_eq!(local.unwatched(3), [0, 1, 2]);
        assert_eq!(local.events(), only(|events| events.state = true));
        assert!(!local.unwatched_are_due(s(114)) && local.unwatched_are_due(s(115)));
        assert_eq!(local.next_due(), Some(s(115)));
        local.unwatched_are_scanned(s(115));
        assert_eq!(local.next_due(), Some(s(130)));
        let account = Account { name: "Home".into(), server: None, channels: vec![] };
        let state = base.path().to_owned();
        let paths = WatchPaths::of(&account, [].iter(), state, None, vec![]);
        assert!(local.retry(&paths), "it is back");
        assert!(!local.is_partial() && !local.retry(&paths));
        assert_eq!((local.next_due(), local.unwatched(3).len()), (None, 0));
        local.list_later(s(140));
        local.list_later(s(150));
        assert!(local.must_list() && !local.list_is_due(s(139)) && local.list_is_due(s(140)));
        assert_eq!(local.next_due(), Some(s(140)));
        local.listing();
        assert!(!local.must_list());
    }

    #[test]
    fn maildirs_and_the_directories_above_them_are_watched() {
        let account = Account { name: "Home".into(), server: None, channels: vec![] };
        let mailbox =
            |maildir: &str| Mailbox { maildir: Some(maildir.into()), ..Mailbox::of_home("INBOX") };
        let mailboxes = [mailbox("/m/INBOX"), mailbox("/m/Sent"), Mailbox::of_home("gone")];
        let trigger = Some("/t/Home".into());
        let configs = vec!["/c/rc".into()];
        let paths = WatchPaths::of(&account, mailboxes.iter(), "/s".into(), trigger, configs);
        assert_eq!(paths.roots, BTreeSet::from(["/m".into()]));
        assert_eq!((paths.maildirs.len(), paths.watches()), (3, 4 + 1 + 1 + 1 + 2));
    }
}
