//! What people do with mail, on servers other than dovecot, which `tests/servers/run` unpacks
//! and whose directories it names in `SERVERS`. Not part of `cargo test`.

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

#[path = "../watch/day.rs"]
mod day;
#[allow(dead_code)] // of another test program
#[path = "../watch/support.rs"]
mod support;

mod courier;
mod cyrus;
mod pymap;

use day::Day;
use rig::{Account, Home, Imap};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the user home.
const PASSWORD: &str = "secret";

/// Where the packages of a server are unpacked.
fn unpacked(server: &str) -> PathBuf {
    let servers = env::var_os("SERVERS").expect("SERVERS is set: use tests/servers/run");
    let dir = Path::new(&servers).join(server);
    assert!(dir.is_dir(), "{}: tests/servers/run unpacks it", dir.display());
    dir
}

/// A program with its own libraries. It ends with `home`.
fn program(home: &Home, root: &Path, program: &str) -> Command {
    let mut libraries = vec![root.join("usr/lib"), root.join("usr/lib/cyrus")];
    for dir in ["usr/lib", "lib"] {
        let below = std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        libraries.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    let mut command = home.command(root.join(program));
    command.env("LD_LIBRARY_PATH", env::join_paths(libraries).unwrap());
    command
}

/// A user of a server on loopback.
fn account(port: u16) -> Account {
    Account::fake("Home").patterns("*").login("home", PASSWORD).port(port)
}

/// All of it, over the connection of the waiter.
fn whole_day(port: u16, prefix: &'static str, settings: &str, mode: &str) {
    let mut imap = Imap::login(port, "home", PASSWORD);
    Day::make_boxes(&mut imap, prefix);
    let mut day = Day::begin(account(port), imap, prefix, settings);
    day.waiter.wait_said(&format!("connected by {mode}"), support::SOON);
    day.messages();
    day.burst();
    day.mailboxes();
    day.all_lent();
    day.end(1);
}
