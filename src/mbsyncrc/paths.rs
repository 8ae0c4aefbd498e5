//! The paths of a mailbox: names → Maildir and state file.
//!
//! How mbsync turns names into paths, for every kind of store. Does not depend on:
//! the disk. Facts: `sync_boxes()`, `maildir_join_path()` and `prepare_state()`
//! of isync 1.4.4; compared with mbsync by the differential test.

use crate::model::{Channel, Mailbox, MaildirStore, Side, Store, StoreKind, SubFolders, SyncState};
use std::path::PathBuf;

impl Channel {
    /// The mailbox pair of this name: the name both sides share, as in
    /// `CHANNEL:NAME`. A channel without Patterns has one pair only, and the name
    /// is ignored.
    #[must_use]
    pub fn mailbox(&self, name: &str) -> Mailbox {
        let names = |side: &Side| match &self.patterns {
            Some(_) => format!("{}{name}", side.mailbox),
            None if side.mailbox.is_empty() => "INBOX".to_string(),
            None => side.mailbox.clone(),
        };
        let (far, near) = (names(&self.far), names(&self.near));
        let (far_box, near_box) =
            (on_store(&self.far.store, &far), on_store(&self.near.store, &near));
        let maildir = match (&self.near.store.kind, &near_box) {
            (StoreKind::Maildir(maildir), Some(near_box)) => folder(maildir, near_box),
            _ => None,
        };
        let state_file = match (&self.sync_state, far_box, near_box) {
            (SyncState::InMailbox, ..) => maildir.as_ref().map(|dir| dir.join(".mbsyncstate")),
            (SyncState::Channel(prefix), _, Some(near_box)) => {
                Some(PathBuf::from(format!("{prefix}{}", flat(&near_box))))
            }
            (SyncState::Global(prefix), Some(far_box), Some(near_box)) => {
                let c = self.field_delimiter;
                let (far_store, near_store) = (&self.far.store.name, &self.near.store.name);
                Some(PathBuf::from(format!(
                    "{prefix}{c}{far_store}{c}{}_{c}{near_store}{c}{}",
                    flat(&far_box),
                    flat(&near_box)
                )))
            }
            _ => None,
        };
        let name = if self.patterns.is_some() { name.to_string() } else { near.clone() };
        let tight = |mut path: PathBuf| {
            path.shrink_to_fit();
            path
        };
        // There may be very many, in several lists at once.
        Mailbox {
            channel: self.name.clone(),
            addressable: self.patterns.is_some()
                && !self.name.contains(':')
                // mbsync takes an empty name for INBOX (tried with isync 1.4.4).
                && !name.is_empty()
                && !name.contains([',', '\n']),
            name,
            far,
            near,
            maildir: maildir.map(tight),
            state_file: state_file.map(tight),
        }
    }

    /// The directory that the near store keeps this mailbox in: the Inbox, or that of Path.
    #[must_use]
    pub fn near_root(&self, mailbox: &Mailbox) -> Option<PathBuf> {
        let store = self.near.maildir()?;
        if is_in_inbox(store, &on_store(&self.near.store, &mailbox.near)?) {
            return Some(store.inbox.clone());
        }
        // A prefix may go on after its last directory.
        let (dir, _) = store.path.as_deref()?.rsplit_once('/')?;
        Some(PathBuf::from(format!("{dir}/")))
    }

    /// The name by which the far store knows a mailbox. `None`: mbsync refuses it.
    #[must_use]
    pub fn stored_far(&self, mailbox: &Mailbox) -> Option<String> {
        on_store(&self.far.store, &mailbox.far)
    }

    /// The name that both sides share of this far mailbox; `None` if no run of the channel
    /// would sync it.
    #[must_use]
    pub fn shared_name(&self, far: &str) -> Option<String> {
        let patterns = self.patterns.as_ref()?;
        let far = unflattened(&self.far.store, far)?;
        let name = far.strip_prefix(self.far.mailbox.as_str())?;
        super::pattern::admits(patterns, name).then(|| name.to_owned())
    }

    /// The pair of a channel without Patterns.
    #[must_use]
    pub fn only_mailbox(&self) -> Option<Mailbox> {
        self.patterns.is_none().then(|| self.mailbox(""))
    }
}

/// A mailbox's name as it goes into the names of state files.
fn flat(name: &str) -> String {
    name.replace('/', "!")
}

/// The name by which the store knows a mailbox: `MapInbox`, then Flatten.
/// `None`: mbsync refuses it, because it contains Flatten's delimiter already.
fn on_store(store: &Store, name: &str) -> Option<String> {
    let name = if store.map_inbox.as_deref() == Some(name) { "INBOX" } else { name };
    match &store.flatten {
        None => Some(name.to_string()),
        Some(flatten) if name.contains(flatten.as_str()) => None,
        Some(flatten) => Some(name.replace('/', flatten)),
    }
}

/// The name behind a store's own name: Flatten undone.
pub fn unflattened(store: &Store, name: &str) -> Option<String> {
    match &store.flatten {
        None => Some(name.to_string()),
        Some(_) if name.contains('/') => None,
        Some(flatten) => Some(name.replace(flatten.as_str(), "/")),
    }
}

/// The Maildir of a mailbox. `None`: mbsync refuses it, because Path or
/// `SubFolders` is missing, or because of a dot in a Maildir++ name.
fn folder(store: &MaildirStore, stored: &str) -> Option<PathBuf> {
    if stored == "INBOX" {
        return Some(store.inbox.clone());
    }
    let name = below_inbox(stored).unwrap_or(stored);
    let inbox = store.inbox.to_string_lossy();
    let prefix = if is_in_inbox(store, stored) { &*inbox } else { store.path.as_deref()? };
    let place = match store.subfolders {
        SubFolders::Unset if name.contains('/') => return None,
        SubFolders::MaildirPlusPlus if name.contains('.') => return None,
        SubFolders::Unset | SubFolders::Verbatim => format!("{prefix}{name}"),
        SubFolders::Legacy => format!("{prefix}{}", name.replace('/', "/.")),
        SubFolders::MaildirPlusPlus => format!("{prefix}/.{}", name.replace('/', ".")),
    };
    Some(place.into())
}

/// What follows `INBOX` in the name of a mailbox below it, with the slash.
fn below_inbox(name: &str) -> Option<&str> {
    name.strip_prefix("INBOX").filter(|rest| rest.starts_with('/'))
}

/// Whether the store keeps a mailbox of this name in its Inbox.
fn is_in_inbox(store: &MaildirStore, name: &str) -> bool {
    let is_plus_plus = store.subfolders == SubFolders::MaildirPlusPlus;
    name == "INBOX" || is_plus_plus || below_inbox(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(subfolders: SubFolders) -> MaildirStore {
        MaildirStore {
            path: Some("/m/".into()),
            inbox: "/i".into(),
            subfolders,
            alt_map: false,
            info_delimiter: ':',
        }
    }

    #[test]
    fn folders_of_every_style() {
        let cases = [
            (SubFolders::Verbatim, "a/b", Some("/m/a/b")),
            (SubFolders::Verbatim, "INBOX/a/b", Some("/i/a/b")),
            (SubFolders::Verbatim, "INBOX", Some("/i")),
            (SubFolders::Verbatim, "INBOX2", Some("/m/INBOX2")),
            (SubFolders::Verbatim, "Inbox", Some("/m/Inbox")),
            (SubFolders::Legacy, "a/b", Some("/m/a/.b")),
            (SubFolders::Legacy, "INBOX/a/b", Some("/i/.a/.b")),
            (SubFolders::MaildirPlusPlus, "a/b", Some("/i/.a.b")),
            (SubFolders::MaildirPlusPlus, "INBOX/a/b", Some("/i/..a.b")),
            (SubFolders::MaildirPlusPlus, "a.b", None),
            (SubFolders::Unset, "a", Some("/m/a")),
            (SubFolders::Unset, "a/b", None),
            (SubFolders::Unset, "INBOX/a", None),
        ];
        for (style, name, wanted) in cases {
            assert_eq!(folder(&store(style), name), wanted.map(PathBuf::from), "{style:?} {name}");
        }
        let no_path = MaildirStore { path: None, ..store(SubFolders::Verbatim) };
        assert_eq!(folder(&no_path, "a"), None);
        assert_eq!(folder(&no_path, "INBOX/a"), Some("/i/a".into()));
    }
}
