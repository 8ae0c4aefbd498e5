//! What mbsync could not carry, under a waiter: printed without -v, and tried again when
//! it is due.

use crate::support::{QUICK, SOON, Waiter, at_rest, code, secs};
use rig::{Account, Home, Refuser, Server, ServerOptions, message, wait_until};
use std::thread::sleep;

/// As if the wait had passed.
fn let_it_be_due(home: &Home) {
    let file = home.state("Home").join("refused.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for mailbox in value["mailboxes"].as_object_mut().unwrap().values_mut() {
        mailbox["tried"] = 1.into();
        mailbox["next"] = 2.into();
    }
    std::fs::write(&file, value.to_string()).unwrap();
}

#[test]
fn g13_the_waiter_says_what_is_refused_and_carries_it_when_it_is_due() {
    let quota = Some((20, 0));
    let mut server = Server::with(ServerOptions { quota, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let verbose = Waiter::settled(&home, &mbsync);
    drop(verbose);
    let waiter = Waiter::start(&home, &["--wait", "--loop", "Home"]);
    let body = "0123456789abcdef0123456789abcde\n".repeat(2000);
    home.maildir("Home", "Sent").add(&message("much", &body), "S");
    // Without its reason where isync 1.5 makes the connection itself.
    waiter.wait_said("Sent: 1 message not pushed: ", SOON);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    let_it_be_due(&home);
    wait_until(SOON, "it is tried again", || mbsync.runs().len() > runs);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(waiter.count("not pushed"), 1, "{}", waiter.said());
    assert_eq!(mbsync.runs().len(), runs + 1, "once");
    server.restart_with_quota((2000, 0));
    let_it_be_due(&home);
    let mut imap = server.imap("home");
    wait_until(SOON * 2, "it is carried", || imap.status("Sent").messages == 1);
    let file = home.state("Home").join("refused.json");
    wait_until(SOON, "it is said no more", || !file.exists());
}

/// `while mutt-sync --wait` goes on, and is no loop of runs.
#[test]
fn g13_wait_ends_well_after_a_refusal_and_the_next_one_waits() {
    let quota = Some((20, 0));
    let server = Server::with(ServerOptions { quota, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let body = "0123456789abcdef0123456789abcde\n".repeat(2000);
    home.maildir("Home", "Sent").add(&message("much", &body), "S");
    let mut first = Waiter::start(&home, &["--wait", "Home"]);
    assert_eq!(code(first.end(SOON)), 0, "{}", first.said());
    assert_eq!(first.count("1 message not pushed"), 1, "{}", first.said());
    let runs = mbsync.runs().len();
    let next = Waiter::settled(&home, &mbsync);
    assert_eq!(next.count("not pushed"), 0, "{}", next.said());
    assert_eq!(mbsync.runs().len(), runs);
    home.mutt_sync(&["Home:Sent"]).expect_code(1);
}

/// isync 1.4 says nothing of it, and 1.5 not what it is: the scan of the server tells.
#[test]
fn g13_a_text_that_the_server_did_not_send_is_found_and_can_be_pulled() {
    not_sent_and_pulled(false);
}

#[test]
fn g13_a_waiter_tries_again_what_was_passed_over_when_it_is_asked() {
    not_sent_and_pulled(true);
}

/// `by_waiter`: the one that serves `--retry`.
fn not_sent_and_pulled(by_waiter: bool) {
    let server = Server::start();
    let refuser = Refuser::before(server.port());
    let home = Home::with(vec![Account::on(&server, "Home").port(refuser.port())]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "first"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::settled(&home, &mbsync);
    refuser.answer("UID FETCH 2 (BODY.PEEK", "OK done");
    refuser.answer("UID FETCH 2 (FLAGS BODY.PEEK", "OK done");
    imap.append("INBOX", &message("two", "second"), &[]);
    waiter.wait_said("INBOX: 1 message not pulled", SOON);
    refuser.relent();
    at_rest(&home, &waiter, &mbsync);
    drop(waiter);
    for _ in 0..10 {
        home.mutt_sync(&["Home"]);
    }
    let status = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(status.contains("Home:INBOX: 1 message not pulled"), "{status}");
    let waiter = by_waiter.then(|| Waiter::settled(&home, &mbsync));
    let out = home.mutt_sync(&["--retry", "Home:INBOX"]).ok();
    assert!(out.stdout.contains("INBOX 1 new"), "{out:?}");
    assert_eq!(out.stdout.contains("another mutt-sync"), by_waiter, "{out:?}");
    drop(waiter);
    let status = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(!status.contains("not pulled"), "{status}");
}

/// No run comes to a mailbox that is held, and so none tries again what was refused there.
#[test]
fn g13_g14_what_is_refused_and_held_is_no_loop_and_carried_after_the_answer() {
    let quota = Some((60, 0));
    let mut server = Server::with(ServerOptions { quota, ..ServerOptions::default() });
    let account = Account::on(&server, "Home").channel("Create Both\nExpunge Both\n");
    let home = Home::with(vec![account]);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.create("Lists");
    let all: Vec<Vec<u8>> = (0..120).map(|n| message(&format!("m{n}"), "x")).collect();
    imap.append_many("Lists", &all, &["\\Seen"]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::settled(&home, &mbsync);
    let lists = home.maildir("Home", "Lists");
    let body = "0123456789abcdef0123456789abcde\n".repeat(2000);
    lists.add(&message("much", &body), "S");
    waiter.wait_said("Lists: 1 message not pushed: ", SOON);
    at_rest(&home, &waiter, &mbsync);
    let much = lists.find("Subject: much");
    lists.list().iter().filter(|entry| **entry != much).for_each(|entry| lists.delete(entry));
    waiter.wait_said("Home:Lists: held: all of 120 messages are gone here", SOON);
    at_rest(&home, &waiter, &mbsync);
    let tries = || waiter.count("Lists trying again what was refused");
    let before = tries();
    let_it_be_due(&home);
    wait_until(SOON, "it is tried again", || tries() > before);
    sleep(secs(3));
    assert_eq!(tries(), before + 1, "{}", waiter.said());
    server.restart_with_quota((2000, 0));
    home.mutt_sync(&["--allow-deletions", "Home:Lists"]).ok();
    let mut imap = server.imap("home");
    wait_until(SOON * 2, "it is carried", || imap.status("Lists").messages == 1);
}
