//! A clock that was wrong when something was written, or is another than the
//! machine's. The stamps are forged; no clock is set.

use crate::support::{QUICK, SOON, end, ms, quiet, ran};
use rig::{Home, Mbsync, Running, Server, now_ns, wait_until};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

fn home() -> (Home, Mbsync) {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    (home, mbsync)
}

/// Everything that holds a time, as it would be had the clock been off by so much.
fn written_at(home: &Home, off: i64) {
    let state = home.state("Home");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let then = now.checked_add_signed(off).unwrap();
    let retry = format!(
        r#"{{"failures":3,"code":69,"since":{then},"until":{},"text":"from another time"}}"#,
        then + 900
    );
    fs::write(state.join("retry.json"), retry).unwrap();
    fs::write(state.join("want/Home:INBOX"), format!("3 {then} {}\n", then + 900)).unwrap();
    let mut last: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(state.join("last.json")).unwrap()).unwrap();
    last["started"] = (then * 1000).into();
    last["last_whole"] = then.into();
    last["last_success"] = then.into();
    fs::write(state.join("last.json"), last.to_string()).unwrap();
    let stamps = ["throttle", "pace", "bytes", "logins"];
    let others = ["last.json", "retry.json", "want/Home:INBOX", "lock"];
    for part in stamps.into_iter().chain(others) {
        // Not each account has all stamps.
        let file = fs::File::options().append(true).create(true).open(state.join(part)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(then)).unwrap();
    }
}

#[test]
fn g4_what_a_clock_far_ahead_or_behind_has_written_holds_nothing_up() {
    for off in [DAY, -DAY, 3600, 20 * 365 * DAY] {
        let (home, mbsync) = home();
        home.settings("throttle = \"2s\"\nsettle = \"0s\"");
        home.mutt_sync(&["Home"]).ok();
        written_at(&home, off);
        let asked = now_ns();
        home.mutt_sync(&["-b", "Home:Sent"]).ok();
        wait_until(SOON, "both are served", || {
            mbsync.runs().len() > 1 && ran(&mbsync, "Sent") && ran(&mbsync, "INBOX")
        });
        let waited = mbsync.runs()[1].start - asked;
        // One throttle at most, and what a busy machine takes for it.
        assert!(waited < 12_000_000_000, "{off}: {waited} ns");
        wait_until(SOON, "the backoff is gone", || !home.state("Home").join("retry.json").exists());
        home.wait_no_leftovers(SOON);
    }
}

#[test]
fn g4_a_stamp_of_the_future_does_not_stop_the_timer() {
    let server = Server::start();
    // Ten hours are a debt of bytes, and no more than there can be.
    for off in [DAY, -DAY, 36_000] {
        let home = Home::on(&server, &["Home"]);
        let mbsync = home.wrap_mbsync();
        let quick = QUICK.replace("throttle = \"0s\"", "throttle = \"2s\"");
        home.settings(&format!("{quick}every = \"3s\"\nfull_every = \"3s\""));
        home.mutt_sync(&["Home"]).ok();
        written_at(&home, off);
        fs::remove_file(home.state("Home").join("retry.json")).unwrap();
        let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
        // The request first, then the timer's runs, none of them twice.
        mbsync.wait_for_starts(4, SOON);
        let runs = mbsync.runs();
        let full: Vec<i64> =
            runs.iter().filter(|run| run.names() == ["Home"]).map(|run| run.start).collect();
        assert!(full.len() >= 3, "{runs:?}");
        let last = &full[full.len() - 2..];
        assert!(last[1] - last[0] > 2_000_000_000, "{off}: {full:?}");
        end(waiter);
    }
}

/// A machine that has slept long before, by a time namespace's clocks.
#[test]
fn a_machine_with_another_clock_since_boot_is_as_good_as_any() {
    let (home, mbsync) = home();
    home.settings(QUICK);
    home.mutt_sync(&["Home"]).ok();
    let mut command = home.command("unshare");
    command.args(["--user", "--map-root-user", "--time", "--fork", "--kill-child"]);
    command.args(["--boottime", "10000000", "--monotonic", "5000", "--"]);
    command.arg(rig::mutt_sync()).args(["--wait", "--loop", "-v", "Home"]);
    let waiter = Running::start(command);
    wait_until(SOON, "it waits", || home.mutt_sync(&["--status"]).stdout.contains("watching"));
    quiet(&mbsync, ms(1500));
    let runs = mbsync.runs().len();
    home.mutt_sync(&["-b", "Home:Sent"]).ok();
    mbsync.wait_for_starts(runs + 1, SOON);
    quiet(&mbsync, ms(1500));
    assert_eq!(mbsync.runs().len(), runs + 1, "{waiter}");
    sleep(ms(200));
    assert!(!waiter.stderr().contains("has slept"), "{waiter}");
    drop(waiter);
}
