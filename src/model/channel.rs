//! A channel, its two sides and their stores. Does not depend on: keywords, the
//! names of mailboxes on disk.

use std::path::PathBuf;

/// A channel: two stores and the mailboxes paired over them.
#[derive(Debug, Clone)]
// Each is a setting of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Channel {
    /// Its name in the file.
    pub name: String,
    /// The far side.
    pub far: Side,
    /// The near side.
    pub near: Side,
    /// `Patterns`; `None`: one fixed pair, which cannot be addressed by mailbox.
    pub patterns: Option<Vec<String>>,
    /// `Sync` is full: every usual kind of change, both ways. False with
    /// `ExpungeSolo` (1.5), which has rules of its own.
    pub full_sync: bool,
    /// `Old` (1.5): sides to which messages are carried that were left out before.
    pub old: Sides,
    /// `Delete` (1.5: `Gone`): sides to which deletions are carried.
    pub gone: Sides,
    /// isync 1.5 or later is installed.
    pub isync_1_5: bool,
    /// `Create`: sides on which a missing mailbox may be made.
    pub create: Sides,
    /// `Remove`: sides on which a mailbox is removed that is gone on the other.
    pub remove: Sides,
    /// `Expunge`: sides on which \Deleted messages are removed.
    pub expunge: Sides,
    /// `MaxMessages`; 0: no limit.
    pub max_messages: u32,
    /// `ExpireUnread`: unread messages expire, too; `None`: not, and too many of them
    /// are an error.
    pub expire_unread: Option<bool>,
    /// `ExpireSide Far` (1.5): messages expire on the server.
    pub expire_far: bool,
    /// `MaxSize` of either store is set.
    pub max_size: bool,
    /// Where mbsync keeps its sync state.
    pub sync_state: SyncState,
    /// The global `FieldDelimiter`, which is part of the names of state files.
    pub field_delimiter: char,
}

impl Channel {
    /// Whether a run deletes messages of a Maildir because they are gone on a server.
    #[must_use]
    pub fn pulls_deletions(&self) -> bool {
        self.gone.near && self.near.maildir().is_some() && self.far.imap().is_some()
    }
}

/// A pair of yes and no for the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sides {
    /// The far side.
    pub far: bool,
    /// The near side.
    pub near: bool,
}

/// `SyncState` of a channel, defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// `*`: `.mbsyncstate` inside the near Maildir.
    InMailbox,
    /// The channel's own: this prefix plus the near mailbox's name, `/` as `!`.
    Channel(String),
    /// The global one, or mbsync's default: this prefix plus both stores and mailboxes.
    Global(String),
}

/// One side of a channel: a store, and a mailbox or prefix on it.
#[derive(Debug, Clone)]
pub struct Side {
    /// The store.
    pub store: Store,
    /// The mailbox named in `Far`/`Near`: a prefix with `Patterns`, else the
    /// mailbox (empty: INBOX).
    pub mailbox: String,
}

/// A store: what both kinds have, and what only one has.
#[derive(Debug, Clone)]
pub struct Store {
    /// Its name in the file.
    pub name: String,
    /// `MapInbox`: this name on the store means INBOX.
    pub map_inbox: Option<String>,
    /// `Flatten`: `/` in names becomes this.
    pub flatten: Option<String>,
    /// `Trash`.
    pub trash: Option<String>,
    /// The rest.
    pub kind: StoreKind,
}

/// An IMAP or a Maildir store.
#[derive(Debug, Clone)]
pub enum StoreKind {
    /// On a server.
    Imap(ImapStore),
    /// On this disk.
    Maildir(MaildirStore),
}

/// An `IMAPStore`.
#[derive(Debug, Clone)]
pub struct ImapStore {
    /// Name of the account that it uses.
    pub account: String,
    /// `Path`: raw prefix; without one the personal NAMESPACE's, unless `use_namespace` is off.
    pub path: Option<String>,
    /// `UseNamespace`, unless the account disables NAMESPACE.
    pub use_namespace: bool,
    /// `PathDelimiter`, else the server's.
    pub delimiter: Option<String>,
    /// `SubscribedOnly`.
    pub subscribed_only: bool,
}

/// A `MaildirStore`. Paths are absolute.
#[derive(Debug, Clone)]
pub struct MaildirStore {
    /// `Path`: a string prefix, with its trailing `/` if it has one.
    pub path: Option<String>,
    /// `Inbox`, default `~/Maildir`.
    pub inbox: PathBuf,
    /// `SubFolders`.
    pub subfolders: SubFolders,
    /// `AltMap`: UIDs are kept in `.isyncuidmap.db`, not in file names.
    pub alt_map: bool,
    /// `InfoDelimiter`.
    pub info_delimiter: char,
}

/// `SubFolders` of a Maildir store (isync 1.3 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubFolders {
    /// Unset: a mailbox below another is an error.
    Unset,
    /// `a/b`.
    Verbatim,
    /// `a/.b`.
    Legacy,
    /// `.a.b` in the Inbox.
    MaildirPlusPlus,
}

impl Side {
    /// Its store, if that is on a server.
    #[must_use]
    pub fn imap(&self) -> Option<&ImapStore> {
        match &self.store.kind {
            StoreKind::Imap(store) => Some(store),
            StoreKind::Maildir(_) => None,
        }
    }

    /// Its store, if that is on this disk.
    #[must_use]
    pub fn maildir(&self) -> Option<&MaildirStore> {
        match &self.store.kind {
            StoreKind::Imap(_) => None,
            StoreKind::Maildir(store) => Some(store),
        }
    }
}
