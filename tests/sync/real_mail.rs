//! The main job: real mail, a real mbsync, a real server.

use rig::{Account, Home, Server, Signal, compare, message, process, run, wait_until};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

#[test]
fn mail_comes_and_goes() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let mut imap = server.imap("home");
    for text in ["one", "two", "three"] {
        imap.append("INBOX", &message(text, text), &[]);
    }
    let first = home.mutt_sync(&["Home"]).ok();
    assert!(first.stdout.starts_with("Home: INBOX 3 new, "), "{first}");
    assert!(first.stdout.ends_with(" s\n") && first.stderr.is_empty(), "{first}");
    compare(&mut imap, &home.mail("Home")).unwrap();

    let (inbox, sent) = (home.maildir("Home", "INBOX"), home.maildir("Home", "Sent"));
    inbox.set_flags(&inbox.find("one"), "SF");
    inbox.delete(&inbox.find("two"));
    sent.add(&message("mine", "mine"), "S");
    home.age();
    let second = home.mutt_sync(&["Home:INBOX,Sent"]).ok();
    for part in ["INBOX", "1 flag", "1 gone", "Sent 1 pushed"] {
        assert!(second.stdout.contains(part), "{part}: {second}");
    }
    compare(&mut imap, &home.mail("Home")).unwrap();
    let third = home.mutt_sync(&["Home"]).ok();
    assert!(third.stdout.starts_with("Home: nothing to do, "), "{third}");

    imap.append("Archive", &message("four", "four"), &[]);
    assert_eq!(home.mutt_sync(&["-b", "Home"]).ok().stdout, "Home: syncing in the background\n");
    home.wait_no_leftovers(SHORT);
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert_eq!(server.logins("home"), 4);
}

#[test]
fn quiet_and_loud() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let dry = home.mutt_sync(&["-n", "Home:INBOX"]).ok();
    assert!(dry.stdout.contains("Home:INBOX") && dry.stdout.contains("mbsync -"), "{dry}");
    assert_eq!(server.logins("home"), 1, "a question is one login");
    let quiet = home.mutt_sync(&["-q", "Home"]).ok();
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
    let loud = home.mutt_sync(&["-v", "--full", "Home"]).ok();
    assert!(loud.stderr.contains("Home: running "), "{loud}");
}

#[test]
fn one_account_in_trouble_holds_up_no_other() {
    let server = Server::start();
    let bad = Account::on(&server, "Work").login("work", "wrong");
    let home = Home::with(vec![Account::on(&server, "Home"), bad]);
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    let output = home.mutt_sync(&["-a"]).expect_code(77);
    assert!(output.stdout.contains("Home: INBOX 1 new"), "{output}");
    assert!(output.stderr.starts_with("mutt-sync: Work: "), "{output}");
    compare(&mut server.imap("home"), &home.mail("Home")).unwrap();
}

#[test]
fn g8_signals_end_the_runs_of_all_accounts() {
    let home = Home::fake(&["Home", "Work"]);
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let mut child = rig::spawn(&mut home.cmd(&["-a"])).unwrap();
    mbsync.wait_for_starts(2, SHORT);
    process::kill(child.id(), Signal::TERM);
    assert!(process::wait_gone(child.id(), SHORT));
    assert_eq!(child.wait().unwrap().code(), Some(143));
    home.assert_no_leftovers();
    mbsync.release();
    // Both stand.
    run(&mut home.cmd(&["-a"]), SHORT).ok();
    wait_until(SHORT, "four runs", || mbsync.runs().len() == 4);
    mbsync.assert_alone();
}
