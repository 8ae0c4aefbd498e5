//! `seen.json`, `stuck.json`, `pull.json` and `gone.json`: what each mailbox looked like when
//! it was last found clean, and before the last run that left it dirty; and what
//! runs have removed without saying so in mbsync's record.
//!
//! Knows names of files and of entries; the values are the verdict's.
//!
//! Does not depend on: how a mailbox is judged.

use crate::model::{Account, Mailbox, Target};

/// What was found clean, by [`key`].
pub const FILE: &str = "seen.json";
/// What stayed dirty, by [`key`].
pub const STUCK: &str = "stuck.json";
/// What a waiter knows that a run would pull, by [`key`]. It holds as long as there is one.
pub const PULL: &str = "pull.json";
/// What runs have removed, by [`key`]. Written by who holds the account's lock.
pub const GONE: &str = "gone.json";

/// A mailbox's entry: channel and name, with a newline between, which neither
/// can hold (isync's configuration has no way to write one).
#[must_use]
pub fn key(mailbox: &Mailbox) -> String {
    format!("{}\n{}", mailbox.channel, mailbox.name)
}

/// The mailbox that a [`key`] is of; the account, where it is of none.
#[must_use]
pub fn target(key: &str) -> Target {
    key.split_once('\n').map_or(Target::Account, |(channel, name)| Target::Mailbox {
        channel: channel.to_owned(),
        name: name.to_owned(),
    })
}

/// The same, if the account has its channel.
#[must_use]
pub fn mailbox(account: &Account, key: &str) -> Option<Mailbox> {
    account.mailbox(&target(key))
}
