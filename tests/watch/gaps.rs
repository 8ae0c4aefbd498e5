//! What happens while nobody watches, or while mbsync runs.

use crate::support::{QUICK, SOON, Waiter, at_rest, code, ms, one_run, secs};
use rig::{Account, Delay, Home, Server, ServerOptions, compare, message, wait_until};
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

/// Without CONDSTORE no number shows it afterwards.
#[test]
fn g7_a_flag_that_was_set_while_the_connection_was_lent_or_gone_is_found() {
    let server = Server::with(ServerOptions {
        notify: false,
        without: ["NOTIFY", "CONDSTORE", "QRESYNC"].map(String::from).into(),
        ..ServerOptions::default()
    });
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    home.settings(QUICK);
    let mut mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let uid = imap.append("INBOX", &message("one", "one"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::settled(&home, &mbsync);
    let mut set = |flag: &str| {
        imap.select("INBOX");
        imap.add_flags(uid, &[flag]);
        imap.unselect();
    };
    let flags = || home.maildir("Home", "INBOX").find("one").flags;
    // While it is lent for another mailbox.
    mbsync.hold_at("before");
    let runs = mbsync.runs().len();
    home.maildir("Home", "Archive").add(&message("near", "near"), "S");
    mbsync.wait_held(1, SOON);
    set("\\Seen");
    sleep(secs(1));
    mbsync.forget("hold");
    mbsync.release();
    assert_eq!(one_run(&mbsync, runs), ["Home:Archive"]);
    assert_eq!(one_run(&mbsync, runs + 1), ["Home:INBOX"], "{}", waiter.said());
    assert_eq!(flags(), "S");
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs + 2, "runs for nothing: {}", waiter.said());
    // While there is none.
    way.refuse(true);
    way.cut();
    waiter.wait_said("connection lost", SOON);
    set("\\Flagged");
    way.refuse(false);
    assert_eq!(one_run(&mbsync, runs + 2), ["Home:INBOX"], "{}", waiter.said());
    assert_eq!(flags(), "FS");
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs + 3, "runs for nothing: {}", waiter.said());
}

/// NOTIFY is off then, and reports nothing of it afterwards.
#[test]
fn g7_a_mailbox_that_was_made_while_the_connection_was_lent_is_found() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    waiter.wait_said("connected by NOTIFY", SOON);
    let mut imap = server.imap("home");
    mbsync.hold_at("before");
    let runs = mbsync.runs().len();
    imap.append("INBOX", &message("one", "one"), &[]);
    mbsync.wait_held(1, SOON);
    imap.create("Made");
    imap.append("Made", &message("two", "two"), &[]);
    sleep(ms(500));
    mbsync.forget("hold");
    mbsync.release();
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
    let made = home.maildir("Home", "Made");
    wait_until(SOON, "it is here", || made.path().is_dir() && made.len() == 1);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs + 2, "runs for nothing: {}", waiter.said());
    // It is watched.
    imap.append("Made", &message("three", "three"), &[]);
    assert_eq!(one_run(&mbsync, runs + 2), ["Home:Made"]);
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
    // What differs is synced, and nothing else.
    let archive = home.maildir("Home", "Archive");
    archive.add(&message("one", "one"), "S");
    home.mutt_sync(&["-b", "Home:Archive"]).ok();
    step(&["Home:Archive"]);
    let judged = || waiter.count("nothing to do");
    let before = judged();
    home.mutt_sync(&["-b", "Home"]).ok();
    wait_until(SOON, "the request is judged", || judged() == before + 1);
    std::fs::write(&trigger, "").unwrap();
    wait_until(SOON, "the trigger is judged", || judged() == before + 2);
    let output = home.mutt_sync(&["Home:INBOX"]).ok();
    assert!(output.stdout.starts_with("Home: nothing to do"), "{output}");
    assert_eq!((judged(), mbsync.runs().len()), (before + 3, runs.get()), "{}", waiter.said());
    assert_eq!(home.requests("Home"), [""; 0]);
    // Whatever differs.
    home.mutt_sync(&["-b", "--full", "Home"]).ok();
    step(&["Home"]);
    home.mutt_sync(&["--full", "Home:INBOX"]).ok();
    step(&["Home:INBOX"]);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(mbsync.runs().len(), runs.get(), "{}", waiter.said());
}

/// After a run of d seconds the next that has a reason starts after nine times as long, but
/// for somebody who waits for it.
#[test]
fn g4_runs_keep_a_pace_by_what_they_take() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let real = rig::real_mbsync().display().to_string();
    let script = format!("case $1 in --version) ;; *) sleep 0.5 ;; esac\nexec {real} \"$@\"");
    home.program("slow", &script);
    home.settings("mbsync = \"slow\"\n");
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    wait_until(SOON, "all is in step", || waiter.count("in sync with the server") >= 5);
    let (archive, inbox) = (home.maildir("Home", "Archive"), home.maildir("Home", "INBOX"));
    let started = || waiter.count("Home: running ");
    let ended = || waiter.count("1 pushed");
    let runs = started();
    sleep(secs(6));
    inbox.add(&message("one", "one"), "S");
    wait_until(SOON, "a slow run", || ended() == 1);
    let first = Instant::now();
    archive.add(&message("two", "two"), "S");
    home.mutt_sync(&["-b", "Home:Archive"]).ok();
    let before = rig::process::wakeups(waiter.pid());
    sleep(secs(2));
    let wakeups = rig::process::wakeups(waiter.pid()) - before;
    assert!(wakeups < 60, "{wakeups} wake-ups meanwhile");
    assert_eq!(started(), runs + 1, "{}", waiter.said());
    wait_until(SOON, "its run", || started() == runs + 2);
    assert!(first.elapsed() >= secs(4), "{:?}", first.elapsed());
    wait_until(SOON, "it ends", || ended() == 2);
    let second = Instant::now();
    inbox.add(&message("three", "three"), "S");
    let output = home.mutt_sync(&["Home:INBOX"]).ok();
    assert!(output.stdout.contains("1 pushed"), "{output}");
    assert!(second.elapsed() < secs(4), "{:?}", second.elapsed());
    assert_eq!(server.logins("home"), 1, "the waiter's");
}

/// A run costs what mbsync takes, and not what somebody takes to type a passphrase.
#[test]
fn g4_a_slow_password_command_delays_no_run() {
    let server = Server::start();
    let slow = format!("sleep 3; echo {}", server.password("home"));
    let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&slow)]);
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "one"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    let delivered = Instant::now();
    imap.append("INBOX", &message("two", "two"), &[]);
    let inbox = home.maildir("Home", "INBOX");
    wait_until(SOON, "the delivery", || inbox.len() == 2);
    assert!(delivered.elapsed() < secs(10), "{:?}: {}", delivered.elapsed(), waiter.said());
}

/// A Maildir with a message, as mutt makes it.
fn new_maildir(path: std::path::PathBuf) {
    rig::Maildir::at(path).create().add(&message("new", "in a new mailbox"), "S");
}

#[test]
fn the_first_maildir_below_another_is_synced_at_once() {
    let cases = [
        ("SubFolders Verbatim", "*", "Archive/deep", "Mail/Home/Archive/deep"),
        ("SubFolders Verbatim", "*", "INBOX/deep", "Mail/Home/INBOX/deep"),
        ("SubFolders Legacy", "*", "Archive/deep", "Mail/Home/Archive/.deep"),
        ("SubFolders Maildir++", "INBOX Club", "Club", "Mail/Home/INBOX/.Club"),
    ];
    for (style, patterns, name, place) in cases {
        let server = Server::start();
        let home = Home::with(vec![Account::on(&server, "Home").patterns(patterns)]);
        home.settings(QUICK);
        let mut text = home.read(".mbsyncrc").replace("SubFolders Verbatim", style);
        if style.ends_with("++") {
            text = text.replace("Path ~/Mail/Home/\n", "");
        }
        home.write(".mbsyncrc", &text);
        let mbsync = home.wrap_mbsync();
        let waiter = Waiter::settled(&home, &mbsync);
        let mut imap = server.imap("home");
        assert!(!imap.list().contains(&name.to_owned()), "{style}");
        new_maildir(home.path(place));
        let what = format!("{style}: {name} is on the server");
        wait_until(SOON, &what, || imap.list().contains(&name.to_owned()));
        at_rest(&home, &waiter, &mbsync);
        imap.find(name, "in a new mailbox");
    }
}

/// In a directory that is no mailbox nothing is watched: the command finds it.
#[test]
fn a_maildir_in_a_plain_directory_is_synced_by_the_next_command() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    std::fs::create_dir_all(home.path("Mail/Home/Clubs")).unwrap();
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    new_maildir(home.path("Mail/Home/Clubs/one"));
    sleep(ms(1500));
    let runs = mbsync.runs().len();
    let output = home.mutt_sync(&["Home"]).ok();
    assert!(output.stdout.contains("1 pushed"), "{output}{}", waiter.said());
    assert_eq!(one_run(&mbsync, runs), ["Home:Clubs/one"]);
    server.imap("home").find("Clubs/one", "in a new mailbox");
    // And from now on it is watched.
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    home.maildir("Home", "Clubs/one").add(&message("two", "two"), "S");
    assert_eq!(one_run(&mbsync, runs), ["Home:Clubs/one"]);
}
