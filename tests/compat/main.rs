//! Version 0.1.0 and this one on one state directory: each as the waiter or the
//! holder of a run, with the other's commands. State files, lock names and requests
//! on disk mean the same to both.
//!
//! `tests/compat/run` builds 0.1.0 and runs this; `cargo test` alone does not.

#![allow(clippy::unwrap_used)]

use rig::{
    Account, Home, Output, Running, Server, Signal, compare, message, mutt_sync, now_ns,
    older_mutt_sync, run, wait_until,
};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const QUICK: &str = "throttle = \"0s\"\nsettle = \"300ms\"\n";

/// The two programs, in both roles: who is first, who is second.
fn pairs() -> [[PathBuf; 2]; 2] {
    let older = older_mutt_sync().expect("OLDER names 0.1.0's mutt-sync: see tests/compat/run");
    let version = run(Command::new(&older).arg("--version"), SOON).ok().stdout;
    assert!(version.starts_with("mutt-sync 0.1.0"), "{version}");
    let this = mutt_sync().to_owned();
    [[older.clone(), this.clone()], [this, older]]
}

fn command(home: &Home, program: &PathBuf, args: &[&str]) -> Command {
    let mut command = home.command(program);
    command.args(args);
    command
}

#[track_caller]
fn output(home: &Home, program: &PathBuf, args: &[&str]) -> Output {
    let output = run(&mut command(home, program, args), Duration::from_secs(60));
    // What a state file that does not parse is reported as.
    assert!(!output.stderr.contains("ignored"), "{output}");
    output
}

/// `--status --json` of the account, of what both versions know.
#[track_caller]
fn status(home: &Home, program: &PathBuf) -> serde_json::Value {
    let output = output(home, program, &["--status", "--json", "Home"]).ok();
    let all: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let first = match &all {
        serde_json::Value::Array(accounts) => accounts[0].clone(),
        all => all["accounts"][0].clone(),
    };
    let common = [
        "account",
        "last",
        "running",
        "waiter",
        "queued",
        "wanted",
        "mailboxes",
        "known_mailboxes",
    ];
    let mut kept = serde_json::Map::new();
    for key in common {
        kept.insert(key.into(), first.get(key).unwrap_or_else(|| panic!("{key}: {all}")).clone());
    }
    // 0.1.0 has no such field, and leaves it out.
    // And in its form times are in milliseconds.
    for key in ["last_full", "last_checked", "started", "took", "trigger"] {
        kept["last"].as_object_mut().unwrap().remove(key);
    }
    for change in kept["last"]["changes"].as_array_mut().unwrap() {
        for key in ["added", "removed"] {
            change.as_object_mut().unwrap().remove(key);
        }
    }
    // It has a word for the whole account, where this version has its name.
    for name in kept["wanted"].as_array_mut().unwrap() {
        if *name == "everything" {
            *name = "Home".into();
        }
    }
    for mailbox in kept["mailboxes"].as_array_mut().unwrap() {
        mailbox.as_object_mut().unwrap().remove("pull");
    }
    kept.insert("failures".into(), first["backoff"]["failures"].clone());
    kept.into()
}

fn waiter(home: &Home, program: &PathBuf) -> Running {
    Running::start(command(home, program, &["--wait", "--loop", "-v", "Home"]))
}

#[test]
fn a_waiter_serves_the_other_versions_requests_and_is_relieved_by_it() {
    for [first, second] in pairs() {
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        home.settings(&format!("{QUICK}every = \"1d\"\n"));
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        imap.append("INBOX", &message("one", "one"), &[]);
        output(&home, &first, &["Home"]).ok();
        let waiting = waiter(&home, &first);
        waiting.wait_for("connected by NOTIFY", SOON);
        mbsync.wait_idle(SOON);

        // A request on disk, which the waiter serves: 0.1.0 by a run, this version by
        // comparing both sides.
        let before = mbsync.runs().len();
        output(&home, &second, &["-b", "Home:Archive"]).ok();
        wait_until(SOON, "the waiter has served it", || home.requests("Home").is_empty());
        mbsync.wait_idle(SOON);
        let runs = mbsync.runs().split_off(before);
        let names: Vec<_> = runs.iter().flat_map(|run| run.names()).collect();
        let compares = first == *mutt_sync();
        let expected: &[&str] = if compares { &[] } else { &["Home:Archive"] };
        assert_eq!(names, expected);
        // The other's run is seen, and its locks are.
        output(&home, &second, &["Home"]).ok();
        for program in [&first, &second] {
            let seen = status(&home, program);
            assert_eq!((&seen["waiter"], &seen["queued"]), (&true.into(), &false.into()), "{seen}");
            let text = output(&home, program, &["--status", "Home"]).ok().stdout;
            assert!(!text.contains("no waiter"), "{text}");
        }
        assert_eq!(status(&home, &first), status(&home, &second));

        // A second waiter connects to nothing until the first one ends.
        let standby = waiter(&home, &second);
        wait_until(SOON, "it is on standby", || standby.stderr().contains("another"));
        assert!(!standby.stderr().contains("connected by"), "{standby}");
        waiting.signal(Signal::TERM);
        assert_eq!(waiting.wait(SOON).code(), 143);
        standby.wait_for("connected by NOTIFY", SOON);
        let runs = mbsync.runs().len();
        imap.append("INBOX", &message("two", "two"), &[]);
        mbsync.wait_for_starts(runs + 1, SOON);
        mbsync.wait_idle(SOON);
        mbsync.assert_alone();
        compare(&mut imap, &home.mail("Home")).unwrap();
    }
}

#[test]
fn runs_of_both_versions_never_overlap_and_each_request_is_served_by_a_later_one() {
    for [first, second] in pairs() {
        let home = Home::fake(&["Home"]);
        home.settings(QUICK);
        let mbsync = home.fake_mbsync();
        mbsync.hold();
        let programs = [&first, &second];
        let held = Running::start(command(&home, &first, &["Home"]));
        mbsync.wait_for_starts(1, SOON);
        let asked: Vec<Running> = (0..6)
            .map(|n| Running::start(command(&home, programs[n % 2], &["Home:INBOX"])))
            .collect();
        wait_until(SOON, "they wait for the lock", || {
            asked.iter().all(|each| rig::process::threads(each.pid()) > 1)
        });
        let last_request = now_ns();
        output(&home, &second, &["-b", "Home:Sent"]).ok();
        mbsync.release();
        held.wait(SOON).ok();
        for each in asked {
            each.wait(SOON).ok();
        }
        home.wait_no_leftovers(SOON);
        assert!(mbsync.runs().last().unwrap().start > last_request);
        mbsync.assert_alone();
        assert!(home.requests("Home").is_empty(), "{:?}", home.requests("Home"));
        assert_eq!(status(&home, &first), status(&home, &second));
    }
}

#[test]
fn the_run_of_a_killed_process_is_waited_for_by_the_other_version() {
    for [first, second] in pairs() {
        let home = Home::fake(&["Home"]);
        home.settings(QUICK);
        let mut mbsync = home.fake_mbsync();
        // Its mbsync dies with it; what that has started does not.
        mbsync.act("sleep 1000 & sleep 1000");
        let killed = Running::start(command(&home, &first, &["Home"]));
        wait_until(SOON, "its mbsync has started something", || home.count_running("sleep") == 2);
        rig::process::kill(killed.pid(), Signal::KILL);
        mbsync.forget("act");
        let after = Running::start(command(&home, &second, &["Home"]));
        after.wait(SOON).ok();
        assert_eq!(home.count_running("sleep"), 0, "{:?}", home.leftovers());
        mbsync.assert_alone();
        assert!(home.requests("Home").is_empty(), "{:?}", home.requests("Home"));
    }
}

#[test]
fn throttle_and_backoff_of_one_version_hold_for_the_other() {
    for [first, second] in pairs() {
        let home = Home::fake(&["Home"]);
        home.settings("throttle = \"1h\"\nburst = 1\nsettle = \"0s\"\n");
        let mut mbsync = home.fake_mbsync();
        output(&home, &first, &["Home"]).ok();
        output(&home, &second, &["Home"]).ok();
        assert_eq!(mbsync.runs().len(), 1, "throttled: {:?}", mbsync.runs());
        // Its child waits for the throttle; the first version sees the request.
        assert_eq!(status(&home, &first)["wanted"], status(&home, &second)["wanted"]);
        output(&home, &first, &["-f", "Home"]).ok();
        assert_eq!(mbsync.runs().len(), 2);
        home.wait_no_leftovers(SOON);
        assert!(home.requests("Home").is_empty(), "{:?}", home.requests("Home"));

        home.settings("throttle = \"0s\"\nsettle = \"0s\"\n");
        mbsync.exit(1);
        mbsync.stderr("Cannot connect to 127.0.0.1 (127.0.0.1:1): Connection refused\n");
        // Not by a person, whose own try counts for none.
        let failed = output(&home, &first, &["Home"]);
        assert_ne!(failed.code(), 0, "{failed}");
        let (one, other) = (status(&home, &first), status(&home, &second));
        assert_eq!(one, other);
        assert_eq!(one["failures"], 1, "{one}");
        mbsync.exit(0);
        mbsync.forget("stderr");
        output(&home, &second, &["-f", "Home"]).ok();
        let (one, other) = (status(&home, &first), status(&home, &second));
        assert_eq!(one, other);
        assert!(one["failures"].is_null(), "{one}");
        assert!(home.requests("Home").is_empty(), "{:?}", home.requests("Home"));
    }
}

#[test]
fn both_versions_find_the_same_mailboxes_clean_and_the_same_changes() {
    for [first, second] in pairs() {
        let server = Server::start();
        let home = Home::with(vec![Account::on(&server, "Home")]);
        home.settings(QUICK);
        let mut imap = server.imap("home");
        for number in 0..3 {
            imap.append("INBOX", &message(&format!("mail {number}"), "text"), &[]);
        }
        output(&home, &first, &["Home"]).ok();
        // The first one notes what is clean; both go by the notes.
        for program in [&first, &second, &first] {
            let seen = status(&home, program);
            assert_eq!(seen["mailboxes"], serde_json::json!([]), "{seen}");
        }
        let inbox = home.maildir("Home", "INBOX");
        inbox.set_flags(&inbox.find("mail 1"), "FS");
        let (one, other) = (status(&home, &first), status(&home, &second));
        assert_eq!(one, other);
        assert_eq!(one["mailboxes"][0]["push"]["flags"], 1, "{one}");
        output(&home, &second, &["Home"]).ok();
        assert_eq!(status(&home, &first), status(&home, &second));
        compare(&mut imap, &home.mail("Home")).unwrap();
    }
}
