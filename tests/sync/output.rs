//! Output that cannot be written, as on a full disk: no mode reports success.

use rig::{Home, Output, Server, message, mutt_sync, run};
use std::time::Duration;

const FAILED: &str = "mutt-sync: cannot write to standard output: No space left on device\n";

/// A command of the program within this shell script, in which it is `"$@"`.
fn within(home: &Home, script: &str, args: &[&str]) -> Output {
    let mut command = home.command("sh");
    command.args(["-c", script, "sh"]).arg(mutt_sync()).args(args);
    run(&mut command, Duration::from_secs(60))
}

fn to_full_disk(home: &Home, args: &[&str]) -> Output {
    within(home, "exec \"$@\" >/dev/full", args)
}

/// An account that is in sync, but for what the test adds.
fn synced() -> (Server, Home) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.mutt_sync(&["Home"]).ok();
    (server, home)
}

const MODES: [&[&str]; 17] = [
    &["--help"],
    &["--version"],
    &["--init", "me@home.example"],
    &["--init", "me@home.example", "--msmtp"],
    &["--muttrc"],
    &["--muttrc", "Home"],
    &["--list"],
    &["--list", "--json"],
    &["--complete", "accounts"],
    &["--status"],
    &["--status", "--json"],
    &["--check"],
    &["--check", "--json"],
    &["--check", "--report"],
    &["-n", "Home"],
    &["--acknowledge", "Home"],
    &["Home"],
];

/// Whose standard error mutt would paint over its screen.
const IN_MUTT: [&[&str]; 3] = [&["--status-line"], &["-b", "Home"], &["--result", "Home"]];

#[test]
fn no_mode_reports_success_on_a_full_disk() {
    let (_server, home) = synced();
    for args in MODES {
        let ended = to_full_disk(&home, args).expect_code(75);
        assert_eq!(ended.stderr, FAILED, "{args:?}");
    }
    for args in IN_MUTT {
        let ended = to_full_disk(&home, args).expect_code(75);
        assert_eq!(ended.stderr, "", "{args:?}");
    }
    home.wait_no_leftovers(Duration::from_secs(20));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (_server, home) = synced();
    for args in MODES {
        let script = "{ sleep 0.2; \"$@\"; echo $? >&2; } | exec true";
        assert_eq!(within(&home, script, args).stderr, "0\n", "{args:?}");
    }
}

#[test]
fn a_sync_whose_result_cannot_be_printed_is_finished() {
    let (server, home) = synced();
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    let ended = to_full_disk(&home, &["-f", "Home"]).expect_code(75);
    assert_eq!(ended.stderr, FAILED);
    assert_eq!(home.maildir("Home", "INBOX").len(), 1);
    let status = home.mutt_sync(&["--status"]).ok().stdout;
    assert!(status.starts_with("Home: in sync"), "{status}");
}

#[test]
fn a_worse_status_is_kept() {
    let home = Home::fake(&["Home"]);
    home.write(".mbsyncrc", "Chanel Home\n");
    let ended = to_full_disk(&home, &["--check"]).expect_code(78);
    assert_eq!(ended.stderr, FAILED);
}
