//! What the rest of the program shares as values: accounts, channels, mailboxes,
//! targets of requests, flags, sets of UIDs.
//!
//! Does not depend on: syntax, files, servers, anything that happens at run time.

mod account;
mod channel;
pub mod flags;
mod mailbox;
mod target;
pub mod uid_set;

pub use account::{Account, CredentialSource, Server, TlsMode};
pub use channel::{
    Channel, ImapStore, MaildirStore, Side, Sides, Store, StoreKind, SubFolders, SyncState,
};
pub use mailbox::Mailbox;
pub use target::Target;
