//! Addresses and routes that come and go, in a network of the test's own.

use crate::support::{QUICK, SOON, Waiter, at_rest, ms, secs};
use mutt_sync::state::backoff::Backoff;
use rig::{
    Account, Delay, Home, Server, compare, in_own_network, ip, message, process, soak, wait_until,
};
use std::process::Command;
use std::thread::sleep;
use std::time::Instant;

/// No test here lasts as long as this backoff.
const PATIENT: &str = "retry = \"10m\"\n";

fn backoff(home: &Home, account: &str) -> Option<Backoff> {
    let text = home.read(&format!(".local/state/mutt-sync/{account}/retry.json"));
    serde_json::from_str(&text).ok()
}

/// A waiter that has found the server unreachable before, and waits for the backoff.
fn held_back(home: &Home, args: &[&str]) -> Waiter {
    let waiter = Waiter::start(home, &[&["--wait", "--loop", "-v"], args].concat());
    waiter.wait_said("next connection in", SOON);
    waiter
}

/// The address and its routes are gone for a while, as when a link is down, and keys and
/// hooks ask meanwhile.
#[test]
fn after_an_outage_both_sides_are_equal_two_seconds_after_the_route() {
    let name = "network::after_an_outage_both_sides_are_equal_two_seconds_after_the_route";
    if !in_own_network(name, secs(if soak() { 900 } else { 180 })) {
        return;
    }
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{QUICK}{PATIENT}"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    let inbox = home.maildir("Home", "INBOX");
    let mut took = Vec::new();
    let rounds: &[u64] = if soak() { &[300, 0, 0] } else { &[0] };
    for (round, least) in rounds.iter().enumerate() {
        drop(imap);
        ip("addr del 127.0.0.1/8 dev lo");
        let (down, held) = (Instant::now(), waiter.count("next connection in"));
        let flags = ["S", "RS", "FRS"][round];
        inbox.set_flags(&inbox.find("body one"), flags);
        home.mutt_sync(&["-b", "-f", "Home"]).ok();
        waiter.wait_count("connection lost", round + 1, SOON * 4);
        // At first it tries each second, then by the backoff.
        while waiter.count("next connection in") == held || down.elapsed() < secs(*least) {
            home.mutt_sync(&["-b", "Home:Sent"]).ok();
            home.mutt_sync(&["-b", "-f", "Home"]).ok();
            sleep(ms(1500));
            assert!(down.elapsed() < secs(least + 120), "no backoff");
        }
        let before = backoff(&home, "Home").unwrap();
        // Neither does a key lengthen the wait, nor an address of this host's own end it.
        home.mutt_sync(&["-b", "-f", "Home"]).ok();
        at_rest(&home, &waiter, &mbsync);
        ip("addr add 127.0.0.1/8 dev lo scope host");
        at_rest(&home, &waiter, &mbsync);
        let after = backoff(&home, "Home").unwrap();
        assert_eq!((after.failures, after.until), (before.failures, before.until));
        assert_eq!(before.failures, 0, "those of keys are not counted: {before:?}");
        assert_eq!(waiter.count("connected by"), round + 1);
        imap = server.imap("home");
        ip("route add default dev lo");
        let up = Instant::now();
        wait_until(SOON, "the flag is on the server", || {
            imap.find("INBOX", "body one").letters() == flags
        });
        took.push(up.elapsed());
        waiter.wait_count("connected by", round + 2, SOON);
        assert_eq!(waiter.count("the network has come"), round + 1);
        at_rest(&home, &waiter, &mbsync);
        compare(&mut imap, &home.mail("Home")).unwrap();
        assert!(backoff(&home, "Home").is_none() && home.wants("Home").is_empty());
        ip("route del default dev lo");
    }
    println!("equal after {took:?}");
    // A busy machine is slower; once in three outages it is not busy.
    let limit = if soak() { secs(2) } else { secs(10) };
    assert!(took.iter().min().unwrap() < &limit, "{took:?}");
}

fn script(text: &str) {
    rig::run(Command::new("sh").args(["-euc", text]), secs(60)).ok();
}

#[test]
fn g10_g12_what_is_no_news_costs_nothing_and_a_storm_of_news_two_tries_or_three() {
    let name =
        "network::g10_g12_what_is_no_news_costs_nothing_and_a_storm_of_news_two_tries_or_three";
    if !in_own_network(name, secs(200)) {
        return;
    }
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![
        Account::on(&server, "Home").port(way.port()),
        Account::on(&server, "Work").login("work", "wrong"),
    ]);
    home.settings(&format!("{QUICK}{PATIENT}"));
    let mbsync = home.wrap_mbsync();
    way.refuse(true);
    home.mutt_sync(&["Home"]).expect_code(69);
    home.mutt_sync(&["Work"]).expect_code(77);
    let waiter = held_back(&home, &["Home", "Work"]);
    waiter.wait_count("next connection in", 2, SOON);
    at_rest(&home, &waiter, &mbsync);
    let (connections, refused) = (way.connections(), server.failed_logins());
    ip("addr add 10.77.0.1/24 dev lo scope host");
    ip("addr add 10.77.1.1/24 dev lo scope link");
    ip("addr add fe80::5/64 dev lo");
    ip("route add 10.78.0.0/16 dev lo");
    ip("route add unreachable default metric 9999");
    ip("addr del 10.77.1.1/24 dev lo");
    // Longer than a try takes that is called for.
    sleep(secs(3));
    assert_eq!((way.connections(), server.failed_logins()), (connections, refused));
    at_rest(&home, &waiter, &mbsync);
    let wakeups = process::wakeups(waiter.pid());
    let begun = Instant::now();
    let storm = "ip addr add 10.99.0.1/24 dev lo; ip route add default dev lo; \
                 ip route del default dev lo; ip addr del 10.99.0.1/24 dev lo";
    script(&format!("for n in $(seq 100); do {storm}; done"));
    waiter.wait_said("the network has come", SOON);
    sleep(secs(1));
    let spaced = usize::try_from(begun.elapsed().as_secs() / 4).unwrap() + 1;
    let tries = way.connections() - connections;
    assert!((1..=spaced.min(6)).contains(&tries), "{tries} tries in {:?}", begun.elapsed());
    let woken = process::wakeups(waiter.pid()) - wakeups;
    println!("{tries} tries and {woken} wake-ups for 400 changes in {:?}", begun.elapsed());
    // Two threads; what a try itself takes counts too.
    assert!(woken < 200, "{woken} wake-ups for 400 changes");
    // A refused password is not tried for it.
    assert_eq!(server.failed_logins(), refused);
    way.refuse(false);
    // Limited as before: the storm's own last try, or the next change.
    if waiter.count("connected by") == 0 {
        sleep(secs(5));
        ip("addr add 10.77.2.1/24 dev lo");
    }
    waiter.wait_said("connected by", SOON);
    assert_eq!(server.failed_logins(), refused);
}

/// The address that it was made from is gone, and nobody says so.
#[test]
fn g9_a_connection_that_a_new_address_has_made_void_is_replaced_at_once() {
    let name = "network::g9_a_connection_that_a_new_address_has_made_void_is_replaced_at_once";
    if !in_own_network(name, secs(200)) {
        return;
    }
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    // One that is alive is asked, and goes on.
    ip("addr add 10.77.0.1/24 dev lo");
    waiter.wait_said("the network has changed", SOON);
    at_rest(&home, &waiter, &mbsync);
    assert_eq!(waiter.count("connection lost"), 0);
    sleep(secs(4));
    way.stall();
    ip("addr add 10.77.1.1/24 dev lo");
    waiter.wait_said("connection lost", SOON);
    way.flow();
    waiter.wait_count("connected by", 2, SOON);
    at_rest(&home, &waiter, &mbsync);
}

/// In a sandbox there may be no such socket.
#[test]
fn where_nothing_reports_the_network_it_waits_all_the_same() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut command = home.command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=bind"]);
    command.args(["-e", "inject=bind:error=EPERM", "--seccomp-bpf"]);
    command.arg(rig::mutt_sync()).args(["--wait", "--loop", "-v", "Home"]);
    let waiter = rig::Running::start(command);
    waiter.wait_for("not told when the network comes: Operation not permitted", SOON * 2);
    waiter.wait_for("connected by", SOON * 2);
    mbsync.wait_idle(SOON);
    let runs = mbsync.runs().len();
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    mbsync.wait_for_starts(runs + 1, SOON * 2);
    let here = home.maildir("Home", "INBOX");
    wait_until(SOON * 2, "it is here", || here.len() == 1);
    drop(waiter);
}
