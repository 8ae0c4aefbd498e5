//! An mbsync that is replaced, that floods, that never ends, that dies.

use crate::support::{QUICK, SOON, kill_leftovers, ran};
use rig::{Home, run, wait_until};
use std::fs;
use std::time::Duration;

/// What becomes of a request when mbsync is this script; a good one serves it later.
#[track_caller]
fn with(script: &str, code: i32, says: &str) {
    let home = Home::fake(&["Home"]);
    home.settings(&format!("{QUICK}stall = \"1s\""));
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    mbsync.clear_log();
    let (good, away) = (mbsync.path(), home.path("good"));
    fs::rename(&good, &away).unwrap();
    let real = rig::real_mbsync();
    let version = format!("[ \"$1\" = --version ] && exec {} \"$1\"", real.display());
    home.program("mbsync", &format!("{version}\n{script}"));
    let output = run(&mut home.cmd(&["--force", "Home:INBOX"]), SOON).expect_code(code);
    assert!(output.stderr.contains(says), "`{says}` is missing: {output}");
    assert!(!output.stderr.contains("panicked") && output.stderr.len() < 20_000, "{output}");
    home.assert_no_leftovers();
    assert_eq!(home.requests("Home"), ["Home:INBOX"]);
    fs::rename(&away, &good).unwrap();
    // A mailbox that failed has its hour, a second later here; then it goes along.
    wait_until(SOON, "both are served", || {
        home.mutt_sync(&["--force", "Home:Sent"]).ok();
        ran(&mbsync, "INBOX") && ran(&mbsync, "Sent")
    });
    assert_eq!(home.requests("Home"), [""; 0]);
}

#[test]
fn g2_an_mbsync_that_dies_by_a_signal() {
    for (signal, number) in [("SEGV", 11), ("KILL", 9), ("TERM", 15), ("ABRT", 6)] {
        with(&format!("kill -{signal} $$"), 75, &format!("ended by signal {number}"));
    }
}

#[test]
fn g2_g10_an_mbsync_that_floods_both_its_outputs() {
    let flood = "head -c 1000000 /dev/zero | tr '\\0' x >&2 & head -c 1000000 /dev/zero | \
                 tr '\\0' '\\n'; head -c 1000000 /dev/zero | tr '\\0' y; wait; exit 3";
    with(flood, 1, "xxxx");
}

#[test]
fn g9_an_mbsync_that_never_ends() {
    with("exec sleep 600", 69, "less than 256 bytes a second for 1s");
    // Busy is not alive.
    with("while :; do :; done", 69, "less than 256 bytes a second for 1s");
    // What it started goes with it.
    with("sleep 600 & sleep 600 & wait", 69, "less than 256 bytes a second for 1s");
    with("exec >&- 2>&-; exec sleep 600", 69, "less than 256 bytes a second for 1s");
}

#[test]
fn g2_an_mbsync_that_is_replaced_while_it_runs_and_while_it_is_waited_for() {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    mbsync.clear_log();
    let good = mbsync.path();
    // As a package's upgrade does: a new file is put over it, in the midst of a run.
    let upgrade = format!("cp -P {0} {0}.new && mv {0}.new {0}", good.display());
    mbsync.act(&upgrade);
    home.mutt_sync(&["--force", "Home:INBOX"]).ok();
    mbsync.forget("act");
    home.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(mbsync.runs().len(), 2);
    // Gone for a moment: what waits in the background may give up, but the
    // request stands, and is served with the next.
    let away = home.path("good");
    fs::rename(&good, &away).unwrap();
    home.settings(&format!("{QUICK}mbsync = \"{}\"", good.display()));
    let gone = home.mutt_sync(&["--force", "Home:Drafts"]).expect_code(78);
    assert!(gone.stderr.contains("not found; install isync"), "{gone}");
    home.mutt_sync(&["-b", "--force", "Home:Trash"]).ok();
    wait_until(SOON, "it gives up", || home.leftovers().is_empty());
    assert_eq!(home.requests("Home"), ["Home:Drafts", "Home:Trash"]);
    fs::rename(&away, &good).unwrap();
    let output = home.mutt_sync(&["--force", "Home:Archive"]).ok();
    assert!(output.elapsed < Duration::from_secs(20), "{output}");
    assert!(ran(&mbsync, "Drafts") && ran(&mbsync, "Trash") && ran(&mbsync, "Archive"));
    kill_leftovers(&home);
}
