//! One run for each change, naming just the mailbox, whatever the server can do.

use crate::support::{QUICK, SOON, Tap, Waiter, at_rest, ms, one_run, secs};
use rig::{Account, Home, Server, ServerOptions, compare, message, process, wait_until};
use std::thread::sleep;

/// Every kind of change on the server, one after the other.
fn far_changes(without: &[&str], notify: bool, expected: &str) {
    let server = Server::with(ServerOptions {
        notify,
        without: without.iter().map(ToString::to_string).collect(),
        ..ServerOptions::default()
    });
    let tap = Tap::to(server.port());
    let home = Home::with(vec![Account::on(&server, "Home").port(tap.port)]);
    home.settings(&format!("{QUICK}sweep = \"1s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    waiter.wait_said(&format!("connected by {expected}"), SOON);
    let mut runs = mbsync.runs().len();
    assert_eq!(runs, 1, "{}", waiter.said());

    let mut uids = Vec::new();
    for mailbox in ["INBOX", "Archive", "Drafts"] {
        uids.push(imap.append(mailbox, &message("new", "new"), &[]));
        assert_eq!(one_run(&mbsync, runs), [format!("Home:{mailbox}")]);
        runs += 1;
    }
    // Let the time of echoes pass, so that the next word is nobody's echo.
    sleep(ms(3200));
    imap.append("INBOX", &message("prompt", "prompt"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
    let run = &mbsync.runs()[runs];
    let spoken = if expected == "NOTIFY" { "STATUS INBOX" } else { "STATUS" };
    let word = tap.said(spoken, run.start).expect("the server has spoken");
    // At once: nothing is asked first. (How fast that is, a benchmark tells.) Without
    // CONDSTORE it may be, where nothing is known of what may have been lost.
    let asked_first: &[&str] = if without.contains(&"CONDSTORE") {
        &[]
    } else {
        &["SEARCH", "FETCH", "SELECT", "EXAMINE"]
    };
    for answer in asked_first {
        assert!(!tap.said_between(answer, word, run.start), "{answer}: {}", waiter.said());
    }
    runs += 1;
    if !without.contains(&"CONDSTORE") || expected == "IDLE" {
        if without.contains(&"CONDSTORE") {
            // No number tells of a flag that is set while the connection is not in
            // the mailbox, as after a run: the look, and the way back.
            at_rest(&home, &waiter, &mbsync);
        }
        imap.select("INBOX");
        imap.add_flags(uids[0], &["\\Flagged"]);
        imap.unselect();
        assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
        runs += 1;
    }
    imap.select("Archive");
    imap.expunge(uids[1]);
    imap.unselect();
    assert_eq!(one_run(&mbsync, runs), ["Home:Archive"]);
    runs += 1;
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs, "runs of nobody's making");
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert_eq!(waiter.count("connected by"), 1);
    let status = home.mutt_sync(&["--status"]).ok().stdout;
    assert!(status.ends_with(&format!(", watching by {expected}\n")), "{status}");
    drop(waiter);
    // Killed, it has left its word behind.
    let status = home.mutt_sync(&["--status"]).ok().stdout;
    assert!(status.ends_with(", no waiter\n"), "{status}");
}

/// What a comparison has found while no run may start is run for when the gate opens.
#[test]
fn everything_is_compared_no_more_often_while_a_run_must_wait() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("handover = false\nthrottle = \"30s\"\nburst = 1\nevery = \"3s\"\n");
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    let inbox = home.maildir("Home", "INBOX");
    let runs = mbsync.runs().len();
    for n in 1..=3 {
        inbox.add(&message(&n.to_string(), "x"), "S");
        sleep(secs(4));
    }
    let compared = waiter.count("everything is to be compared");
    assert_eq!(mbsync.runs().len(), runs, "throttled: {}", waiter.said());
    assert!((1..=5).contains(&compared), "{compared} times: {}", waiter.said());
    let mut imap = server.imap("home");
    wait_until(SOON * 2, "it is carried", || imap.status("INBOX").messages == 3);
}

#[test]
fn a_request_is_answered_while_a_run_of_everything_must_wait() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(
        "handover = false\nthrottle = \"60s\"\nburst = 1\nevery = \"3s\"\nfull_every = \"3s\"\n",
    );
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    sleep(secs(4));
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    let before = process::wakeups(waiter.pid());
    wait_until(SOON, "it is answered", || home.requests("Home").is_empty());
    sleep(secs(3));
    let wakeups = process::wakeups(waiter.pid()) - before;
    assert!(wakeups < 100, "{wakeups} times: {}", waiter.said());
}

#[test]
fn g5_each_change_on_the_server_is_one_run_of_its_mailbox_with_notify() {
    far_changes(&[], true, "NOTIFY");
}

#[test]
fn g5_each_change_on_the_server_is_one_run_of_its_mailbox_with_idle() {
    far_changes(&[], false, "IDLE");
}

#[test]
fn g5_each_change_on_the_server_is_one_run_with_idle_and_little_else() {
    far_changes(
        &["NOTIFY", "CONDSTORE", "QRESYNC", "ESEARCH", "UNSELECT", "LIST-STATUS", "LITERAL+"],
        false,
        "IDLE",
    );
}

#[test]
fn g5_each_change_on_the_server_is_one_run_with_status_alone() {
    far_changes(&["NOTIFY", "IDLE"], false, "STATUS polling");
}

/// Where only the open mailbox' own session tells of flags: the server speaks half
/// a second after the change, and is asked for STATUS more often than that.
#[test]
fn g5_a_flag_that_only_idle_reports_is_not_lost_to_the_sweep() {
    let server = Server::with(ServerOptions {
        notify: false,
        without: ["NOTIFY", "CONDSTORE", "QRESYNC"].map(String::from).into(),
        ..ServerOptions::default()
    });
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{QUICK}sweep = \"300ms\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let uid = imap.append("INBOX", &message("one", "one"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::settled(&home, &mbsync);
    for flag in ["\\Seen", "\\Flagged"] {
        let runs = mbsync.runs().len();
        imap.select("INBOX");
        imap.add_flags(uid, &[flag]);
        imap.unselect();
        assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
        at_rest(&home, &waiter, &mbsync);
        assert_eq!(mbsync.runs().len(), runs + 1, "{}", waiter.said());
    }
    compare(&mut imap, &home.mail("Home")).unwrap();
}

/// Every kind of change on the disk, as mutt makes it.
#[test]
fn g5_each_local_change_is_one_run_of_its_mailboxes_as_soon_as_it_has_settled() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    for body in ["one", "two", "three", "four"] {
        imap.append("INBOX", &message("subject", &format!("body {body}")), &[]);
    }
    let waiter = Waiter::settled(&home, &mbsync);
    let (inbox, archive) = (home.maildir("Home", "INBOX"), home.maildir("Home", "Archive"));
    let mut runs = mbsync.runs().len();
    let mut step = |names: &[&str]| {
        assert_eq!(one_run(&mbsync, runs), names, "{}", waiter.said());
        runs += 1;
    };
    let begun = rig::now_ns();
    inbox.set_flags(&inbox.find("body one"), "S");
    step(&["Home:INBOX"]);
    let waited = mbsync.runs().last().unwrap().start - begun;
    assert!((140_000_000..10_000_000_000).contains(&waited), "settled after {waited} ns");
    inbox.set_flags(&inbox.find("body one"), "FS");
    step(&["Home:INBOX"]);
    inbox.delete(&inbox.find("body two"));
    step(&["Home:INBOX"]);
    inbox.move_to(&inbox.find("body three"), &archive);
    step(&["Home:Archive,INBOX"]);
    home.maildir("Home", "Sent").add(&message("sent", "body sent"), "S");
    step(&["Home:Sent"]);
    home.maildir("Home", "Drafts").add(&message("draft", "body draft"), "DS");
    step(&["Home:Drafts"]);
    // Unread mail that mutt leaves: nothing to be pushed.
    inbox.mark_old(&inbox.find("body four"));
    waiter.wait_said("touched, nothing to push", SOON);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs, "runs of nobody's making: {}", waiter.said());
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert_eq!(server.logins("home"), 1, "ours, which all runs borrow");
}

#[test]
fn mailboxes_that_come_and_go_on_either_side() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let waiter = Waiter::settled(&home, &mbsync);
    imap.create("Lists");
    imap.append("Lists", &message("list", "list"), &[]);
    rig::wait_until(SOON, "the server's new mailbox", || home.maildir("Home", "Lists").len() == 1);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    imap.append("Lists", &message("list", "list two"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:Lists"]);
    let here = home.maildir("Home", "Here").create();
    here.add(&message("here", "here"), "S");
    rig::wait_until(SOON, "the new mailbox on the server", || imap.list().contains(&"Here".into()));
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    imap.append("Here", &message("here", "here two"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:Here"]);
    imap.delete("Lists");
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    sleep(secs(2));
    assert_eq!(mbsync.runs().len(), runs, "a mailbox that is gone leads to no loop");
}

/// A delivery to the very mailbox that is just being looked into.
#[test]
fn g6_a_delivery_during_a_scan_is_not_missed() {
    let server = Server::start();
    let slow = rig::Delay::to(server.port(), ms(0));
    let home = Home::with(vec![Account::on(&server, "Home").port(slow.port())]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    for round in 1..=rig::count(4, 30) {
        slow.set_round_trip(ms(0));
        let inbox = home.maildir("Home", "INBOX");
        let entry = inbox.find("zero");
        inbox.set_flags(&entry, if entry.flags.contains('F') { "S" } else { "FS" });
        let runs = mbsync.runs().len();
        one_run(&mbsync, runs);
        // What the run moved is looked into now, at leisure.
        slow.set_round_trip(ms(120));
        sleep(ms(60 * (round as u64 % 6)));
        imap.append("INBOX", &message("during", &format!("during {round}")), &[]);
        let arrived = || home.maildir("Home", "INBOX").len() == 1 + round;
        rig::wait_until(SOON, "the message delivered during the look", arrived);
    }
    drop(waiter);
}
