//! Many mailboxes, several accounts, several waiters, and what they cost.

use crate::support::{NO_GRACE, QUICK, SOON, Waiter, at_rest, ms, one_run, secs};
use rig::{Account, Delay, Home, Server, ServerOptions, message, process};
use std::thread::sleep;

#[test]
fn fifty_mailboxes_are_watched_over_one_connection_and_no_more_without_notify_than_asked_for() {
    let boxes: Vec<String> = (0..50).map(|n| format!("box{n:02}")).collect();
    for (notify, args, most) in [
        (true, &["--wait", "--loop", "-v", "Home"][..], 1),
        (false, &["--wait", "-v", "Home"][..], 1),
        (false, &["--wait", "--loop", "-v", "Home"][..], 3),
    ] {
        let options = ServerOptions { boxes: boxes.clone(), notify, ..ServerOptions::default() };
        let server = Server::with(options);
        let home = Home::on(&server, &["Home"]);
        home.settings(&format!("{QUICK}connections = 3\nsweep = \"1s\"\n"));
        let mbsync = home.wrap_mbsync();
        home.mutt_sync(&["Home"]).ok();
        let waiter = Waiter::start(&home, args);
        waiter.wait_said("connected by", SOON);
        at_rest(&home, &waiter, &mbsync);
        let open = sockets(waiter.pid());
        assert_eq!(open, most, "connections; NOTIFY {notify}; {args:?}");
        assert_eq!(process::threads(waiter.pid()), 1);
        let runs = mbsync.runs().len();
        server.imap("home").append("box49", &message("one", "one"), &[]);
        assert_eq!(one_run(&mbsync, runs), ["Home:box49"]);
    }
}

/// TCP connections of a process.
fn sockets(pid: u32) -> usize {
    let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let inodes: Vec<&str> =
        tcp.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).collect();
    process::open_fds(pid)
        .iter()
        .filter_map(|(_, to)| to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']'))
        .filter(|inode| inodes.contains(inode))
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

#[test]
fn no_account_waits_for_another() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![
        Account::on(&server, "Home"),
        Account::on(&server, "Work").port(way.port()).account_line("Timeout 30"),
        Account::on(&server, "Other"),
    ]);
    home.settings(QUICK);
    let mut mbsync = home.exec_mbsync();
    home.mutt_sync(&["-a"]).ok();
    way.stall();
    let mut waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home", "Work", "Other"]);
    waiter.wait_count("connected by", 2, SOON);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(process::threads(waiter.pid()), 3);
    // A run of one account's that takes long, and a server that hangs.
    let runs = mbsync.runs().len();
    mbsync.hold_at("before");
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    mbsync.wait_held(1, SOON);
    mbsync.forget("hold");
    server.imap("other").append("INBOX", &message("two", "two"), &[]);
    let all = mbsync.wait_for_starts(runs + 2, SOON);
    assert_eq!(all[runs].names(), ["Home:INBOX"]);
    assert_eq!(all[runs + 1].names(), ["Other:INBOX"]);
    let begun = std::time::Instant::now();
    waiter.stop();
    assert!(begun.elapsed() < NO_GRACE, "{:?}", begun.elapsed());
    home.wait_no_leftovers(NO_GRACE);
}

#[test]
fn a_second_waiter_is_on_standby() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let first = Waiter::settled(&home, &mbsync);
    let second = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    let mut third = Waiter::start(&home, &["--wait", "-v", "Home"]);
    second.wait_said("on standby", SOON);
    third.wait_said("on standby", SOON);
    let wakeups = || process::wakeups(second.pid()) + process::wakeups(third.pid());
    rig::wait_until(SOON, "both sleep", || {
        let before = wakeups();
        sleep(ms(500));
        wakeups() == before
    });
    let before = wakeups();
    sleep(secs(2));
    assert_eq!(wakeups(), before);
    assert_eq!(process::threads(second.pid()), 1);
    assert_eq!(server.connections(), 1);
    third.stop();
    let runs = mbsync.runs().len();
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
    at_rest(&home, &first, &mbsync);
    drop(first);
    second.wait_said("connected by", SOON);
    at_rest(&home, &second, &mbsync);
    assert_eq!(mbsync.runs().len(), runs + 1);
    server.imap("home").append("INBOX", &message("two", "two"), &[]);
    assert_eq!(one_run(&mbsync, runs + 1), ["Home:INBOX"]);
}

/// Of two accounts with `--wait`, one of which has a waiter already: the other
/// one's sync ends the process at once.
#[test]
fn standby_for_one_account_does_not_keep_the_process() {
    let server = Server::start();
    let home = Home::on(&server, &["Home", "Work"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["-a"]).ok();
    let _first = Waiter::settled(&home, &mbsync);
    let mut both = Waiter::start(&home, &["--wait", "-v", "Home", "Work"]);
    both.wait_said("connected by", SOON);
    at_rest(&home, &both, &mbsync);
    server.imap("work").append("INBOX", &message("one", "one"), &[]);
    assert_eq!(crate::support::code(both.end(SOON)), 0);
}
