//! What the tests of mutt-sync stand on: real parts on loopback wherever there
//! are some, and fakes for order, count and malice.
//!
//! Knows dovecot, mbsync, mutt, tmux and the layout of a user's home. Knows
//! nothing of how mutt-sync works inside, and does not link to it. All that
//! goes wrong here panics, for that is how a test fails. All that is started
//! is ended when its value is dropped, also by a panic.

mod compare;
pub mod crowd;
mod delay;
mod dovecot;
mod gate;
mod guard;
mod home;
mod imap;
mod maildir;
mod mbsync;
mod network;
mod other_user;
pub mod picture;
pub mod process;
mod refuser;
mod rng;
mod server;
mod streams;
mod terminal;
mod tls;

pub use compare::{compare, compare_boxes};
pub use crowd::Crowd;
pub use delay::Delay;
pub use gate::Gate;
pub use home::{
    Account, Home, STATE_FILES, mbsync_version, mutt_sync, older_mutt_sync, real_mbsync,
};
pub use imap::{Imap, RemoteMessage, Status};
pub use maildir::{Entry, Maildir, message};
pub use mbsync::{Mbsync, Overlap, Run};
pub use network::{in_own_network, ip};
pub use other_user::{as_nobody, is_root, reached_by_nobody};
pub use process::{Output, Running, now_ns, run, run_all, sleep_until_phase, spawn, wait_until};
pub use refuser::Refuser;
pub use rng::{Seeded, count, soak};
pub use server::{Server, ServerOptions, Tls};
pub use terminal::Terminal;
pub use tls::{Ca, Certificate};

pub use rustix::process::Signal;
