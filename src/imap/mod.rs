//! The server's side: connecting, logging in, asking, and taking events.
//!
//! [`client::Client`] is the entry point: it opens a connection as a section of the
//! user's file says, and sends all commands. Single-threaded, bounded in time and
//! size.
//!
//! Does not depend on: local mail, decisions.

pub mod client;
pub mod connect;
pub mod credentials;
pub mod endpoint;
pub mod greeting;
pub mod idle;
pub mod login;
pub mod mailbox;
pub mod names;
pub mod notify;
pub mod parse;
pub mod scram;
pub mod session;
pub mod tls;
pub mod transport;
pub mod values;

pub use client::{Client, ClientError, ServerEvent};
pub use mailbox::{Inventory, InventoryScope, MailboxScan, ScanRequest};
pub use parse::FetchedHeader;
pub use values::{Capabilities, Listed, MailboxStatus, Opening, SpecialUse};
