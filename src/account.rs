//! Accounts, channels and mailboxes: all that the rest of the program needs to
//! know of `.mbsyncrc`.
//!
//! Plain values, filled by [`crate::mbsyncrc`]. Knows how mbsync turns names
//! into places; knows neither the file's syntax nor anything that happens at
//! run time.

use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// One server login, and the unit of locking, throttle, backoff and memory: an
/// `IMAPAccount` section, or an `IMAPStore` that holds its own.
///
/// A channel belongs to the account of its far side; to that of its near side
/// if the far one is a Maildir; and to an account named as its far store if
/// both are. So each channel has one lock, whatever name it is asked for by.
#[derive(Debug, Clone)]
pub struct Account {
    /// The section's name, as in the file.
    pub name: String,
    /// How to reach the server; `None` where both sides are Maildirs.
    pub server: Option<Server>,
    /// The channels on it, in the file's order.
    pub channels: Vec<Channel>,
}

/// Where and how to log in, as the file says it. Nothing is resolved or run yet.
#[derive(Debug, Clone)]
pub struct Server {
    /// `Host`; may be absent with a tunnel.
    pub host: Option<String>,
    /// `Port`, else 993 for IMAPS and 143 for the rest.
    pub port: u16,
    /// `User` or `UserCmd`.
    pub user: Option<Given>,
    /// `Pass` or `PassCmd`; `None` means that mbsync would ask on the terminal.
    pub pass: Option<Given>,
    /// How the connection is made secure.
    pub tls: TlsMode,
    /// The keyword that says so in the file, or that this isync knows for it.
    pub tls_keyword: &'static str,
    /// TLS versions allowed, lowest and highest of `1.0` to `1.3`, as mbsync's
    /// set of versions maps onto a range (tenths: 10 to 13).
    pub tls_versions: (u8, u8),
    /// `SystemCertificates`.
    pub system_certificates: bool,
    /// `CertificateFile`: CA certificates in it are added, others are pinned.
    pub certificate_file: Option<PathBuf>,
    /// `ClientCertificate`.
    pub client_certificate: Option<PathBuf>,
    /// `ClientKey`.
    pub client_key: Option<PathBuf>,
    /// `CipherString`.
    pub cipher_string: Option<String>,
    /// `AuthMechs`, upper case; `*` stands for any.
    pub auth_mechs: Vec<String>,
    /// `Timeout`; `None` for 0, without bound.
    pub timeout: Option<Duration>,
    /// `Tunnel`, a shell command.
    pub tunnel: Option<String>,
}

impl Default for Server {
    /// A section in which nothing stands yet, with isync's defaults. What depends on
    /// other keys or on the version (port, mechanisms) is as good as unset.
    fn default() -> Self {
        Server {
            host: None,
            port: 0,
            user: None,
            pass: None,
            tls: TlsMode::StartTls,
            tls_keyword: "TLSType",
            tls_versions: (10, 13),
            system_certificates: true,
            certificate_file: None,
            client_certificate: None,
            client_key: None,
            cipher_string: None,
            auth_mechs: Vec::new(),
            timeout: Some(Duration::from_secs(20)),
            tunnel: None,
        }
    }
}

/// A user name or password: in the file itself, or printed by a shell command.
#[derive(Clone)]
pub enum Given {
    /// Stands in the file.
    Text(Zeroizing<String>),
    /// First line of this `sh -c` command's output (without mbsync's leading `+`).
    Command(String),
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Given::Text(_) => "Text(…)",
            Given::Command(_) => "Command(…)",
        })
    }
}

/// `TLSType`, which isync 1.4 calls `SSLType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Clear text.
    None,
    /// Mandatory upgrade before anything else is said.
    StartTls,
    /// TLS from the first byte.
    Imaps,
}

/// A channel: two stores and the mailboxes paired over them.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name in the file.
    pub name: String,
    /// The far side.
    pub far: Side,
    /// The near side.
    pub near: Side,
    /// `Patterns`; `None`: one fixed pair, which cannot be addressed by mailbox.
    pub patterns: Option<Vec<String>>,
    /// `Sync` is full: every usual kind of change, both ways. Not so with
    /// `ExpungeSolo` (1.5), which has rules of its own.
    pub full_sync: bool,
    /// `Old` (1.5): sides to which messages are carried that should have been long
    /// ago.
    pub old: Sides,
    /// isync 1.5 or later is going to sync it.
    pub isync_1_5: bool,
    /// `Create`: sides on which a missing mailbox may be made.
    pub create: Sides,
    /// `Expunge`: sides on which \Deleted messages are removed.
    pub expunge: Sides,
    /// `MaxMessages`; 0: no limit.
    pub max_messages: u32,
    /// `MaxSize` of either store is set.
    pub max_size: bool,
    /// Where mbsync keeps its record.
    pub sync_state: SyncState,
    /// The global `FieldDelimiter`, which stands in the names of state files.
    pub field_delimiter: char,
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

/// What both kinds of store have, and what only one has.
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
    /// `Path`: raw prefix; empty: the personal NAMESPACE's, unless `use_namespace` is off.
    pub path: String,
    /// `UseNamespace`.
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

/// One mailbox pair of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    /// The channel.
    pub channel: String,
    /// The name both sides share, as `CHANNEL:NAME` takes it; for a channel
    /// without Patterns the near name.
    pub name: String,
    /// The far name with the channel's prefix, before NAMESPACE and delimiter.
    pub far: String,
    /// The near name with the channel's prefix.
    pub near: String,
    /// The near Maildir, the directory that holds cur, new and tmp; `None`
    /// where the near side is not a Maildir.
    pub maildir: Option<PathBuf>,
    /// mbsync's record of the pair; `None` where no side that we can read says where.
    pub state_file: Option<PathBuf>,
    /// `CHANNEL:NAME` can be given to mbsync: the channel has Patterns, and the
    /// name has no comma or newline in it.
    pub addressable: bool,
}

#[cfg(test)]
impl Mailbox {
    /// Of the channel Home, the same name on both sides, no files.
    pub(crate) fn of_home(name: &str) -> Self {
        Mailbox {
            channel: "Home".into(),
            name: name.into(),
            far: name.into(),
            near: name.into(),
            maildir: None,
            state_file: None,
            addressable: true,
        }
    }
}

/// What a request asks for. The account is known from where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// Every channel of the account.
    Account,
    /// A whole channel.
    Channel(String),
    /// One mailbox of a channel, by [`Mailbox::name`].
    Mailbox {
        /// The channel.
        channel: String,
        /// The mailbox.
        name: String,
    },
}

impl Account {
    /// The mailbox that this want names; `None` for a wider want, and for a
    /// channel that there is not.
    #[must_use]
    pub fn mailbox(&self, want: &Want) -> Option<Mailbox> {
        let Want::Mailbox { channel, name } = want else { return None };
        self.channels.iter().find(|each| each.name == *channel).map(|channel| channel.mailbox(name))
    }
}

impl Mailbox {
    /// The narrowest request that serves it: mbsync cannot be given every
    /// mailbox by name.
    #[must_use]
    pub fn want(&self) -> Want {
        let Mailbox { channel, name, addressable, .. } = self;
        if *addressable {
            Want::Mailbox { channel: channel.clone(), name: name.clone() }
        } else {
            Want::Channel(channel.clone())
        }
    }
}
