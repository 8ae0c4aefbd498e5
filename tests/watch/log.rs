//! What a service's log has without `-v`, and what `--status` knows by a waiter.

use crate::support::{QUICK, SOON, Waiter};
use rig::{Account, Delay, Home, Server, message, wait_until};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_log_has_a_line_for_each_sync_and_each_change_of_state() {
    let server = Server::start();
    let way = Delay::to(server.port(), Duration::ZERO);
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    home.settings(&format!("{QUICK}retry = \"1s\"\nretry_max = \"1s\"\n"));
    home.mutt_sync(&["Home"]).ok();
    let mut imap = server.imap("home");
    let mut waiter = Waiter::start(&home, &["--wait", "--loop", "Home"]);
    let watching = || home.mutt_sync(&["--status"]).ok().stdout.contains("watching by");
    wait_until(SOON, "it watches", watching);
    imap.append("INBOX", &message("one", "body one"), &[]);
    waiter.wait_said("Home: INBOX 1 new, ", SOON);
    let mut second = Waiter::start(&home, &["--wait", "--loop", "Home"]);
    second.wait_said("Home: another mutt-sync waits for this account; on standby", SOON);
    second.stop();
    // Tried again and again, and said once.
    way.refuse(true);
    way.cut();
    waiter.wait_said("mutt-sync: Home: offline: ", SOON * 2);
    sleep(Duration::from_secs(4));
    way.refuse(false);
    waiter.wait_said("Home: online again", SOON);
    wait_until(SOON, "it watches again", watching);
    let quiet = Waiter::start(&home, &["--wait", "--loop", "-q", "Home"]);
    waiter.stop();
    wait_until(SOON, "the other one watches", watching);
    imap.append("INBOX", &message("two", "body two"), &[]);
    wait_until(SOON, "the message", || home.maildir("Home", "INBOX").len() == 2);
    let said = waiter.said();
    assert_eq!(said.lines().count(), 3, "{said}");
    let offline = said.lines().nth(1).unwrap();
    assert!(offline.contains("; next try in "), "{offline}");
    assert_eq!(quiet.said(), "");
}

#[test]
fn a_log_says_once_that_a_failure_is_over() {
    let server = Server::start();
    let command = format!("test -e $HOME/unlocked && echo {}", server.password("home"));
    let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&command)]);
    home.settings(QUICK);
    let mut waiter = Waiter::start(&home, &["--wait", "--loop", "Home"]);
    waiter.wait_said("; next try in ", SOON);
    assert!(!waiter.said().contains("again"), "{}", waiter.said());
    home.write("unlocked", "");
    for _ in 0..2 {
        home.mutt_sync(&["-f", "Home"]).ok();
        waiter.wait_said("Home: works again\n", SOON);
    }
    let watching = || home.mutt_sync(&["--status"]).ok().stdout.contains("watching by");
    wait_until(SOON, "it watches", watching);
    waiter.stop();
    assert_eq!(waiter.count("again"), 1, "{}", waiter.said());
}

#[test]
fn status_says_what_is_to_be_pulled_and_until_when_it_waits() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("settle = \"300ms\"\nthrottle = \"10m\"\n");
    home.mutt_sync(&["Home"]).ok();
    let mut mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let mut waiter = Waiter::settled(&home, &mbsync);
    // Nine times as long as this run the next one waits.
    mbsync.before(Duration::from_secs(3));
    imap.append("INBOX", &message("one", "body one"), &[]);
    waiter.wait_said("Home: INBOX 1 new, ", SOON);
    imap.append("INBOX", &message("two", "body two"), &[]);
    imap.append("INBOX", &message("three", "body three"), &["\\Seen"]);
    let status = || home.mutt_sync(&["--status", "Home"]).ok().stdout;
    wait_until(SOON, "the second is known", || status().contains("Home:INBOX: 2 new to pull\n"));
    let said = status();
    let first = said.lines().next().unwrap();
    assert!(first.starts_with("Home: 1 of "), "{said}");
    assert!(first.contains(" to pull, ") && first.contains(", rate limit for "), "{said}");
    assert!(first.contains(", 1 unread, "), "{said}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let account = &json["accounts"][0];
    assert_eq!(account["mailboxes"][0]["pull"]["new"], 2);
    assert_eq!(account["unread_mailboxes"][0]["name"], "Home:INBOX");
    assert!(account["throttled"].as_u64().unwrap() > 0);
    assert!(account["last"]["took"].as_f64().unwrap() >= 3.0);
    // What it knew is worth nothing once it has ended.
    waiter.stop();
    assert!(!status().contains("to pull"), "{}", status());
    home.mutt_sync(&["-f", "Home"]).ok();
    let said = status();
    assert!(said.contains(", 2 unread, no waiter"), "{said}");
}
