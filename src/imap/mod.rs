//! The server's side: connecting, logging in, asking, and being told.
//!
//! [`session::Link`] is the way in: it opens a connection as a section of the
//! user's file says, and everything else is asked of it. All of it is
//! single-threaded and bounded in time and size; nothing in it knows of local
//! mail or decides anything.

pub mod connect;
pub mod handover;
pub mod idle;
pub mod login;
pub mod mailbox;
pub mod names;
pub mod notify;
pub mod parse;
pub mod scram;
pub mod secret;
pub mod session;
pub mod tls;
pub mod values;
pub mod wire;

pub use mailbox::{Look, Opened, Opening};
pub use session::{Heard, Link, LinkError};
pub use values::{Capabilities, Listed, Namespace, Status};
pub use wire::Interrupt;
