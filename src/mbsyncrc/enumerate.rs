//! Which mailboxes a channel has on this disk.
//!
//! Does what mbsync does when it lists a Maildir store, by reading
//! directories: `maildir_list_*()` and `filter_boxes()` of isync 1.4.4. Where
//! mbsync would give up on the whole store (a subfolder without `SubFolders`, a
//! loop of links), this goes on without the part in question. A mailbox that
//! is only on the server is not found.
//!
//! Does not depend on: servers, records, runs.

use super::Config;
use super::directories::Directories;
use super::paths::unflattened;
use super::pattern::admits;
use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Channel, Mailbox, MaildirStore, Side, StoreKind, SubFolders};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// mbsync descends no deeper.
const DEEPEST: usize = 10;
/// Directories read before giving up: links can multiply a small tree.
const MOST: usize = 100_000;

impl Config {
    /// The account with the channels that only `mbsync -a` runs.
    #[must_use]
    pub fn with_shadowed<'a>(&self, account: &'a Account) -> Cow<'a, Account> {
        let mut all = Cow::Borrowed(account);
        for (_, channel) in self.shadowed_channels.iter().filter(|(of, _)| *of == account.name) {
            all.to_mut().channels.push(channel.clone());
        }
        all
    }

    /// The mailboxes of an account that exist on this disk, channel by channel
    /// in the file's order, in each as mbsync orders them: INBOX and what is
    /// below it, then the rest by bytes.
    #[must_use]
    pub fn local_mailboxes(&self, account: &Account) -> Vec<Mailbox> {
        // There may be very many, and one channel has them all as a rule: it is not copied.
        let channels = account.channels.iter().map(|channel| self.channel_mailboxes(channel));
        channels
            .reduce(|mut all, mut more| {
                all.append(&mut more);
                all
            })
            .unwrap_or_default()
    }

    /// The same one by one, for a comparison: of very many mailboxes only the names are in
    /// memory.
    pub fn local_mailboxes_in_turn<'c>(
        &'c self,
        account: &'c Account,
    ) -> impl Iterator<Item = Mailbox> + 'c {
        account.channels.iter().flat_map(|channel| self.in_turn(channel))
    }

    /// The mailboxes of one channel that exist on this disk. INBOX counts as
    /// existing, for mbsync makes it. A channel without Patterns has its one
    /// pair, whether it exists or not.
    #[must_use]
    pub fn channel_mailboxes(&self, channel: &Channel) -> Vec<Mailbox> {
        self.in_turn(channel).collect()
    }

    fn in_turn<'c>(&self, channel: &'c Channel) -> impl Iterator<Item = Mailbox> + use<'c> {
        let names = self.channel_names(channel).into_iter();
        channel.only_mailbox().into_iter().chain(names.map(|name| channel.mailbox(&name)))
    }

    /// Their names, where there are Patterns.
    fn channel_names(&self, channel: &Channel) -> Vec<String> {
        let Some(patterns) = &channel.patterns else { return Vec::new() };
        // A backup to a server has its Maildirs on the far side.
        let near_is_local = matches!(channel.near.store.kind, StoreKind::Maildir(_));
        let side = if near_is_local { &channel.near } else { &channel.far };
        let StoreKind::Maildir(store) = &side.store.kind else { return Vec::new() };
        let mut found = LocalListing::new(store, self.version, &self.directories);
        found.list(&wanted(side, patterns));
        let mut names: Vec<String> = found
            .names
            .iter()
            .filter_map(|name| unflattened(&side.store, name))
            .chain(side.store.map_inbox.clone())
            .filter_map(|name| name.strip_prefix(side.mailbox.as_str()).map(str::to_string))
            .filter(|name| admits(patterns, name))
            .collect();
        if near_is_local && far_lists_inbox(&channel.far) {
            // The far side brings INBOX and what is below it into `*`, also where
            // the near one, with its Inbox outside of Path, does not list them.
            found.list(&Wanted { inbox: true, ..Wanted::default() });
            let synced = |name: &String| {
                let mailbox = channel.mailbox(name);
                mailbox.near == "INBOX"
                    || mailbox.state_file.is_some_and(|file| file.symlink_metadata().is_ok())
            };
            let more = found
                .names
                .iter()
                .filter(|name| is_inbox(name))
                .filter_map(|name| name.strip_prefix(side.mailbox.as_str()).map(str::to_string))
                .filter(|name| admits(patterns, name))
                .filter(synced);
            names.extend(more);
        }
        drop(found);
        names.sort_by(|a, b| order(a, b));
        names.dedup();
        names
    }
}

/// A server lists INBOX with the rest unless a Path leads elsewhere.
fn far_lists_inbox(far: &Side) -> bool {
    match &far.store.kind {
        StoreKind::Imap(imap) => {
            imap.path.as_ref().is_none_or(|path| path.is_empty() || path.starts_with("INBOX"))
        }
        StoreKind::Maildir(_) => false,
    }
}

/// As mbsync sorts: INBOX and below first, then by bytes.
fn order(a: &str, b: &str) -> Ordering {
    is_inbox(b).cmp(&is_inbox(a)).then_with(|| a.cmp(b))
}

/// INBOX itself or below it, in capitals only.
pub fn is_inbox(name: &str) -> bool {
    name.strip_prefix("INBOX").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What to look at for a channel's Patterns.
#[derive(Default)]
struct Wanted {
    inbox: bool,
    path: bool,
    /// Path, if the store has one.
    path_if_any: bool,
}

fn wanted(side: &Side, patterns: &[String]) -> Wanted {
    let mut wanted = Wanted::default();
    for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
        let whole = format!("{}{pattern}", side.mailbox);
        match whole.strip_prefix("INBOX").map(|rest| rest.bytes().next()) {
            Some(None) => wanted.inbox = true,
            // Flattened folders below INBOX lie in Path.
            Some(Some(b'/')) if side.store.flatten.is_none() => wanted.inbox = true,
            Some(Some(b'*' | b'%')) => (wanted.inbox, wanted.path_if_any) = (true, true),
            _ => wanted.path = true,
        }
    }
    wanted
}

/// Whether mbsync lists INBOX and what is below it on this side, beside what is in Path
/// (isync 1.4 and 1.5, `box_opened2()` of `main_sync.c`).
#[must_use]
pub fn lists_inbox(side: &Side, patterns: &[String]) -> bool {
    wanted(side, patterns).inbox
}

/// Looks through a store's directories.
struct LocalListing<'a> {
    store: &'a MaildirStore,
    version: IsyncVersion,
    known: &'a Directories,
    inbox: String,
    names: BTreeSet<String>,
    inbox_done: bool,
    path_done: bool,
    directories: usize,
    /// Device and inode of the directories above the one being read.
    above: Vec<(u64, u64)>,
}

impl<'a> LocalListing<'a> {
    fn new(store: &'a MaildirStore, version: IsyncVersion, known: &'a Directories) -> Self {
        LocalListing {
            store,
            version,
            known,
            inbox: store.inbox.to_string_lossy().into_owned(),
            names: BTreeSet::new(),
            inbox_done: false,
            path_done: false,
            directories: 0,
            above: Vec::new(),
        }
    }

    fn list(&mut self, wanted: &Wanted) {
        let path = wanted.path || wanted.path_if_any;
        if self.store.subfolders == SubFolders::MaildirPlusPlus {
            self.plus_plus(path);
            return;
        }
        if path {
            self.path();
        }
        if wanted.inbox {
            self.inbox();
        }
    }

    fn path(&mut self) {
        if !std::mem::replace(&mut self.path_done, true) {
            if let Some(path) = self.store.path.clone() {
                self.below(&path, "", 0, 0);
            }
        }
    }

    fn inbox(&mut self) {
        if !std::mem::replace(&mut self.inbox_done, true) {
            self.names.insert("INBOX".into());
            let inbox = format!("{}/", self.inbox);
            self.below(&inbox, "INBOX/", 1, 0);
        }
    }

    /// All folders lie in the Inbox, their levels joined by dots.
    fn plus_plus(&mut self, path: bool) {
        self.names.insert("INBOX".into());
        let Ok(here) = fs::metadata(&self.inbox) else { return };
        for entry in self.known.entries(&self.inbox, &here) {
            let Some(rest) = entry.strip_prefix('.') else { continue };
            let name = match rest.strip_prefix('.') {
                Some("") => continue,
                Some(below) => format!("INBOX/{}", below.replace('.', "/")),
                None if rest.is_empty() || !path => continue,
                None => rest.replace('.', "/"),
            };
            // A folder of this name would look like the INBOX itself.
            if !rest.starts_with('.') && is_inbox(&name) {
                continue;
            }
            if Path::new(&format!("{}/{entry}/cur", self.inbox)).is_dir() {
                self.names.insert(name);
            }
        }
    }

    /// Reads a directory, `path` being a string that names are simply put
    /// after, and `name` the mailbox's with a final `/`. `box_depth` counts
    /// mailboxes on the way, for the styles that depend on it.
    fn below(&mut self, path: &str, name: &str, box_depth: usize, depth: usize) {
        if depth >= DEEPEST || self.directories >= MOST {
            return;
        }
        let Ok(here) = fs::metadata(path) else { return };
        let identity = (here.dev(), here.ino());
        if !here.is_dir() || self.above.contains(&identity) {
            return;
        }
        if box_depth > 1 && self.store.subfolders == SubFolders::Unset {
            return;
        }
        self.above.push(identity);
        self.directories += 1;
        for entry in self.known.entries(path, &here) {
            if matches!(entry.as_str(), "cur" | "new" | "tmp") {
                continue;
            }
            let place = format!("{path}{entry}");
            let nested_path = self.store.path.as_deref().map(|path| path.trim_end_matches('/'));
            let in_inbox = name.starts_with("INBOX/");
            if !in_inbox && place == self.inbox {
                self.inbox();
                continue;
            }
            if in_inbox && self.version == IsyncVersion::V1_4 && nested_path == Some(place.as_str())
            {
                self.path();
                continue;
            }
            let mut level = entry.as_str();
            if self.store.subfolders == SubFolders::Legacy {
                match entry.strip_prefix('.') {
                    Some(rest) if box_depth > 0 => level = rest,
                    None if box_depth == 0 => {}
                    _ => continue,
                }
            }
            if name.is_empty() && level == "INBOX" {
                continue;
            }
            let full = format!("{name}{level}");
            if Path::new(&format!("{place}/cur")).is_dir() {
                self.names.insert(full.clone());
            }
            self.below(&format!("{place}/"), &format!("{full}/"), box_depth + 1, depth + 1);
        }
        self.above.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_and_below_come_first() {
        let mut names = ["Zeta", "INBOX/x", "Alpha", "INBOX", "INBOX2"];
        names.sort_by(|a, b| order(a, b));
        assert_eq!(names, ["INBOX", "INBOX/x", "Alpha", "INBOX2", "Zeta"]);
    }

    #[test]
    fn links_that_loop_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}/", dir.path().display());
        fs::create_dir_all(dir.path().join("a/cur")).unwrap();
        for n in 0..20 {
            std::os::unix::fs::symlink(dir.path(), dir.path().join(format!("a/up{n}"))).unwrap();
            std::os::unix::fs::symlink(".", dir.path().join(format!("here{n}"))).unwrap();
        }
        let store = MaildirStore {
            path: Some(path),
            inbox: "/nonexistent".into(),
            subfolders: SubFolders::Verbatim,
            alt_map: false,
            info_delimiter: ':',
        };
        let known = Directories::default();
        let mut listing = LocalListing::new(&store, IsyncVersion::V1_4, &known);
        listing.list(&Wanted { path: true, ..Wanted::default() });
        assert!(listing.names.contains("a"), "{:?}", listing.names);
        assert!(listing.directories < 100, "{}", listing.directories);
    }
}
