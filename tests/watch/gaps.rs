//! What happens while nobody watches, or while mbsync runs.

use crate::support::{QUICK, SOON, Waiter, at_rest, code, ms, secs};
use rig::{Home, Server, compare, message, wait_until};
use std::thread::sleep;
use std::time::Instant;

#[test]
fn g6_a_change_by_either_side_during_a_run_is_synced_right_after_it() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    for body in ["one", "two", "three"] {
        imap.append("INBOX", &message("subject", &format!("body {body}")), &[]);
    }
    let waiter = Waiter::settled(&home, &mbsync);
    let inbox = home.maildir("Home", "INBOX");
    for (turn, place) in ["before", "middle", "after"].into_iter().enumerate() {
        let runs = mbsync.runs().len();
        mbsync.hold_at(place);
        inbox.set_flags(&inbox.find("body one"), ["S", "FS", "RS"][turn]);
        mbsync.wait_held(turn + 1, SOON);
        mbsync.forget("hold");
        // Both sides of the mailbox that is being synced, and another one.
        inbox.set_flags(&inbox.find("body two"), ["S", "FS", "RS"][turn]);
        imap.append("INBOX", &message("during", &format!("during {turn}")), &[]);
        imap.append("Archive", &message("during", &format!("during {turn}")), &[]);
        // Long enough that what has changed has settled, and has been told of.
        sleep(ms(1500));
        assert_eq!(mbsync.runs().len(), runs + 1, "{}", waiter.said());
        mbsync.release();
        wait_until(SOON, "the slow run ends", || mbsync.runs()[runs].end.is_some());
        // By the runs that follow, for nothing else is due for half a minute.
        wait_until(SOON, "both sides are equal", || compare(&mut imap, &home.mail("Home")).is_ok());
        at_rest(&home, &waiter, &mbsync);
        let more = mbsync.runs().len() - runs - 1;
        assert!((1..=3).contains(&more), "{more} runs more: {}", waiter.said());
        mbsync.assert_alone();
    }
}

#[test]
fn g7_what_changed_while_nothing_watched_is_found_at_the_next_start() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let uid = imap.append("INBOX", &message("one", "body one"), &[]);
    imap.append("INBOX", &message("two", "body two"), &[]);
    // The first start finds that nothing was ever synced; the next, that all is well.
    let mut waiter = Waiter::start(&home, &["--wait", "-v", "Home"]);
    assert_eq!(code(waiter.end(SOON)), 0);
    let wait = |changes: &mut dyn FnMut(), names: &[&str]| {
        let runs = mbsync.runs().len();
        changes();
        let mut waiter = Waiter::start(&home, &["--wait", "-v", "Home"]);
        assert_eq!(code(waiter.end(SOON)), 0);
        let runs = mbsync.runs().split_off(runs);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].names(), names);
    };
    let inbox = home.maildir("Home", "INBOX");
    wait(&mut || drop(inbox.set_flags(&inbox.find("body two"), "S")), &["Home:INBOX"]);
    wait(
        &mut || _ = imap.append("Archive", &message("three", "body three"), &[]),
        &["Home:Archive"],
    );
    wait(
        &mut || {
            imap.select("INBOX");
            imap.add_flags(uid, &["\\Flagged"]);
            imap.unselect();
        },
        &["Home:INBOX"],
    );
    wait(
        &mut || {
            imap.select("INBOX");
            imap.expunge(uid);
            imap.unselect();
        },
        &["Home:INBOX"],
    );
    wait(&mut || inbox.delete(&inbox.find("body two")), &["Home:INBOX"]);
    compare(&mut imap, &home.mail("Home")).unwrap();
    // Nothing to do: it waits.
    let runs = mbsync.runs().len();
    let mut waiter = Waiter::start(&home, &["--wait", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    sleep(secs(2));
    assert!(waiter.child.try_wait().unwrap().is_none() && mbsync.runs().len() == runs);
    waiter.stop();
}

#[test]
fn g2_requests_and_the_trigger_are_served_by_the_waiter() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let trigger = home.path("Mail/triggers/Home");
    std::fs::create_dir_all(trigger.parent().unwrap()).unwrap();
    home.settings(&format!("{QUICK}[account.Home]\ntrigger = \"~/Mail/triggers/Home\"\n"));
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    let runs = std::cell::Cell::new(mbsync.runs().len());
    let step = |names: &[&str]| {
        assert_eq!(crate::support::one_run(&mbsync, runs.get()), names, "{}", waiter.said());
        runs.set(runs.get() + 1);
    };
    home.mutt_sync(&["-b", "Home:Archive"]).ok();
    step(&["Home:Archive"]);
    home.mutt_sync(&["-b", "Home"]).ok();
    step(&["Home"]);
    std::fs::write(&trigger, "").unwrap();
    step(&["Home"]);
    std::fs::write(&trigger, "").unwrap();
    step(&["Home"]);
    // A command of somebody else's: one run, and none of the waiter's for it.
    home.mutt_sync(&["Home:INBOX"]).ok();
    step(&["Home:INBOX"]);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs.get(), "{}", waiter.said());
    // Not while throttled; then by the waiter, at its time.
    home.settings("throttle = \"5s\"\nburst = 1\nsettle = \"300ms\"\n[account.Home]\ntrigger = \"~/Mail/triggers/Home\"\n");
    waiter.wait_count("connected by", 2, SOON);
    let begun = Instant::now();
    home.mutt_sync(&["Home:INBOX"]).ok();
    step(&["Home:INBOX"]);
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    step(&["Home:INBOX"]);
    assert!(begun.elapsed() >= ms(4900), "{:?}", begun.elapsed());
    let before = rig::process::wakeups(waiter.pid());
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    sleep(secs(1));
    let wakeups = rig::process::wakeups(waiter.pid()) - before;
    assert!(wakeups < 30, "{wakeups} wake-ups while throttled");
    step(&["Home:INBOX"]);
}
