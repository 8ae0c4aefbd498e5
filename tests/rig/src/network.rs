//! A network of the test's own, in which addresses and routes come and go.

use crate::process::run;
use std::process::Command;
use std::time::Duration;

/// Whether this is a test inside a network of its own, of which the only link is `lo`, up.
/// Outside of it the test of this name is run there, and has passed when this returns.
#[track_caller]
pub fn in_own_network(test: &str, limit: Duration) -> bool {
    const INSIDE: &str = "NETWORK_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return true;
    }
    let mut command = Command::new("unshare");
    if !crate::is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.arg("--net").arg(std::env::current_exe().expect("its own path"));
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let inside = run(&mut command, limit).ok();
    assert!(inside.stdout.contains("1 passed"), "{inside}");
    print!("{}", inside.stdout);
    false
}

/// `ip` with these words.
#[track_caller]
pub fn ip(words: &str) {
    run(Command::new("ip").args(words.split(' ')), Duration::from_secs(30)).ok();
}
