//! Servers that go, come back, hang, throw us out.

use crate::support::{QUICK, SOON, Waiter, at_rest, ms, one_run, secs};
use rig::{Account, Delay, Home, Server, compare, in_own_network, ip, message, wait_until};
use std::thread::sleep;
use std::time::Instant;

#[test]
fn g7_after_an_outage_it_is_back_soon_and_finds_what_changed() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    // Short: a connect that is still under way when the local change is due, as on a
    // busy machine, is broken off for it, and then goes by the backoff.
    home.settings(&format!("{QUICK}retry = \"2s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    let inbox = home.maildir("Home", "INBOX");
    let before = way.connections();
    way.refuse(true);
    way.cut();
    waiter.wait_said("connection lost", SOON);
    // Both sides change meanwhile; the local change is tried, and fails.
    imap.append("Archive", &message("during", "during"), &[]);
    inbox.set_flags(&inbox.find("body one"), "S");
    let lost = Instant::now();
    sleep(secs(6));
    assert!(way.peak() <= 2, "one of ours, one of mbsync's at most");
    let tried = way.connections() - before;
    // One a second as long as an outage may be short, and a few of mbsync's.
    let most = 5 + usize::try_from(lost.elapsed().as_secs()).unwrap();
    assert!((2..=most).contains(&tried), "{tried} attempts");
    way.refuse(false);
    waiter.wait_count("connected by", 2, SOON);
    wait_until(SOON, "both sides are equal", || compare(&mut imap, &home.mail("Home")).is_ok());
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(way.open(), 1);
}

/// dovecot itself, killed and started again.
#[test]
fn a_server_that_is_killed_is_found_again() {
    let mut server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    server.kill();
    waiter.wait_said("connection lost", SOON);
    sleep(secs(3));
    server.restart();
    waiter.wait_count("connected by", 2, SOON);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
}

/// The kernel acknowledges, nobody answers: only a deadline can tell.
#[test]
fn g9_a_server_that_hangs_holds_up_neither_requests_nor_local_changes() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home =
        Home::with(vec![Account::on(&server, "Home").port(way.port()).account_line("Timeout 60")]);
    home.settings(&format!("{QUICK}stall = \"2s\"\nretry = \"1s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    let inbox = home.maildir("Home", "INBOX");
    way.stall();
    let before = way.connections();
    way.cut();
    waiter.wait_said("connection lost", SOON);
    wait_until(SOON, "a connect", || way.connections() > before);
    // A connect is under way, and hangs. The change is served when it has settled.
    let runs = mbsync.runs().len();
    inbox.set_flags(&inbox.find("body one"), "S");
    mbsync.wait_for_starts(runs + 1, SOON);
    wait_until(SOON, "mbsync is ended", || mbsync.runs().iter().all(|run| !run.alive()));
    way.flow();
    wait_until(SOON * 2, "both sides are equal", || compare(&mut imap, &home.mail("Home")).is_ok());
    mbsync.assert_alone();
}

/// A half-open connection is noticed by the answer that does not come; IDLE's
/// renewal is shortened by nothing here, so the probe is provoked by a look.
#[test]
fn g9_a_connection_that_died_in_silence_is_given_up() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home =
        Home::with(vec![Account::on(&server, "Home").port(way.port()).account_line("Timeout 2")]);
    home.settings(&format!("{QUICK}stall = \"2s\"\nretry = \"1s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    way.stall();
    // A run by somebody else makes it ask.
    let mut last = home.read(".local/state/mutt-sync/Home/last.json");
    last = last.replace("\"runs\":1", "\"runs\":2");
    home.write(".local/state/mutt-sync/Home/last.json", &last);
    waiter.wait_said("connection lost", secs(30));
    way.flow();
    waiter.wait_count("connected by", 2, SOON);
}

#[test]
fn a_server_that_throws_us_out_is_not_stormed() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    let begun = Instant::now();
    let logins = server.logins("home");
    while begun.elapsed() < secs(10) {
        if way.open() > 0 && waiter.count("connected by") > waiter.count("connection lost") {
            way.cut();
        }
        sleep(ms(10));
    }
    let logins = server.logins("home") - logins;
    assert!((1..=2).contains(&logins), "{logins} logins in ten seconds");
}

/// In a network of its own, of which the only link goes down: nothing answers
/// any more, and nobody says goodbye.
#[test]
fn g9_a_line_that_goes_dead_is_noticed_within_two_minutes() {
    let name = "outage::g9_a_line_that_goes_dead_is_noticed_within_two_minutes";
    if !in_own_network(name, secs(200)) {
        return;
    }
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    ip("link set lo down");
    let begun = Instant::now();
    waiter.wait_said("connection lost", secs(120));
    println!("noticed after {:?}", begun.elapsed());
    // What is written meanwhile is not forgotten.
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("body one"), "S");
    ip("link set lo up");
    waiter.wait_count("connected by", 2, secs(90));
    let mut imap = server.imap("home");
    rig::wait_until(secs(90), "the flag on the server", || {
        imap.find("INBOX", "body one").letters() == "S"
    });
}
