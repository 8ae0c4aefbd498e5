//! Mailboxes that a run does not make clean: never a loop, over restarts either.

use crate::support::{QUICK, SOON, Waiter, at_rest, secs};
use rig::{Account, Home, Mbsync, Server, message};
use std::thread::sleep;

/// Waits, again and again, as a shell's loop would; how many runs that took.
fn runs_of_a_loop(home: &Home, mbsync: &Mbsync, rounds: usize) -> (usize, String) {
    let before = mbsync.runs().len();
    let mut waiter = Waiter::start(home, &["--wait", "-v", "Home"]);
    let mut done = 0;
    let mut quiet = 0;
    let mut said = String::new();
    let mut heard = 0;
    let begun = std::time::Instant::now();
    while done < rounds && quiet < 12 {
        sleep(std::time::Duration::from_millis(250));
        // It says what it does: silence before it is connected is no rest.
        let now = waiter.said().len();
        assert!(begun.elapsed() < SOON * 12, "no rest: {}", waiter.said());
        if now != heard || waiter.count("connected by") == 0 {
            quiet = 0;
        }
        heard = now;
        if waiter.child.try_wait().unwrap().is_some() {
            said += &waiter.said();
            waiter = Waiter::start(home, &["--wait", "-v", "Home"]);
            (done, quiet) = (done + 1, 0);
        } else {
            quiet += 1;
        }
    }
    said += &waiter.said();
    (mbsync.runs().len() - before, said)
}

fn home_on(server: &Server, channel: &str, near_line: &str) -> (Home, Mbsync) {
    let mut account = Account::on(server, "Home").channel(channel);
    if !near_line.is_empty() {
        account = account.near_line(near_line);
    }
    let home = Home::with(vec![account]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    (home, mbsync)
}

fn comes_to_rest(channel: &str, near_line: &str) {
    let server = Server::start();
    let (home, mbsync) = home_on(&server, channel, near_line);
    let mut imap = server.imap("home");
    for body in ["one", "two", "three"] {
        imap.append("INBOX", &message("subject", body), &[]);
    }
    // A mailbox that only exists here, and one that only exists there.
    home.maildir("Home", "Here").create().add(&message("here", "here"), "S");
    let (runs, said) = runs_of_a_loop(&home, &mbsync, 12);
    assert!((1..=6).contains(&runs), "{runs} runs to begin with\n{said}");
    // At rest over restarts.
    let (runs, said) = runs_of_a_loop(&home, &mbsync, 3);
    assert_eq!(runs, 0, "{said}");
    // A change on either side leads to a few runs, not to a loop.
    imap.append("INBOX", &message("subject", "four"), &[]);
    home.maildir("Home", "INBOX").add(&message("subject", "five"), "S");
    let (runs, said) = runs_of_a_loop(&home, &mbsync, 12);
    assert!((1..=6).contains(&runs), "{runs} runs after changes\n{said}");
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    imap.append("INBOX", &message("subject", "six"), &[]);
    sleep(secs(4));
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len() - runs;
    assert!((1..=3).contains(&runs), "{runs} runs in --loop: {}", waiter.said());
}

#[test]
fn alt_map() {
    comes_to_rest("Create Both\nExpunge Both", "AltMap yes");
}

#[test]
fn one_way_sync() {
    comes_to_rest("Create Both\nSync Pull", "");
}

#[test]
fn a_mailbox_on_one_side_only_that_may_not_be_made() {
    comes_to_rest("Create None\nExpunge Both", "");
}

#[test]
fn max_messages() {
    comes_to_rest("Create Both\nMaxMessages 2\nExpireUnread yes\nExpunge None", "");
}

/// mbsync fails on one mailbox for ever: the others go on, and it is tried
/// again by the backoff only.
#[test]
fn a_mailbox_that_mbsync_refuses() {
    let server = Server::start();
    let (home, mbsync) = home_on(&server, "Create Both\nExpunge Both", "");
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("subject", "one"), &[]);
    imap.append("Archive", &message("subject", "two"), &[]);
    home.mutt_sync(&["Home"]).ok();
    // Its record is broken.
    home.write("Mail/Home/Archive/.mbsyncstate", "nonsense\n");
    let (runs, said) = runs_of_a_loop(&home, &mbsync, 12);
    assert!(runs <= 3, "{runs} runs\n{said}");
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    at_rest(&home, &waiter, &mbsync);
    let before = mbsync.runs().len();
    imap.append("INBOX", &message("subject", "three"), &[]);
    let arrived = || home.maildir("Home", "INBOX").len() == 2;
    rig::wait_until(SOON, "the other mailbox is synced", arrived);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len() - before;
    assert!((1..=2).contains(&runs), "{runs} runs: {}", waiter.said());
}
