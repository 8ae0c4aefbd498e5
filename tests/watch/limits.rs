//! What a try costs elsewhere: servers that let in only so many connections, and logins
//! that count at the server or ask somebody.

use crate::support::{Doorkeeper, Mangle, QUICK, SOON, Waiter, at_rest, secs};
use rig::{Account, Home, Server, ServerOptions, compare, message, wait_until};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A little longer than what is promised for failures.
const TWENTY: Duration = Duration::from_secs(21);

#[test]
fn every_change_is_carried_however_few_connections_are_let_in() {
    for most in [1, 2, 4] {
        let server = Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
        let door = Doorkeeper::before(server.port(), most);
        let home = Home::with(vec![Account::on(&server, "Home").port(door.port)]);
        home.settings(&format!("{QUICK}sweep = \"1s\"\n"));
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
        waiter.wait_said("connected by IDLE", SOON);
        at_rest(&home, &waiter, &mbsync);
        for (n, name) in ["INBOX", "Archive", "INBOX"].into_iter().enumerate() {
            let text = format!("{n} from the server");
            imap.append(name, &message(&text, &text), &[]);
            let text = format!("{n} from here");
            home.maildir("Home", name).add(&message(&text, &text), "S");
            let equal = || compare(&mut imap, &home.mail("Home")).is_ok();
            wait_until(SOON, &format!("{name} is in step; {most} connections"), equal);
        }
        assert!(mbsync.runs().len() > 2 && waiter.count("refused") == 0, "{}", waiter.said());
        // One is left to others.
        if most == 2 {
            at_rest(&home, &waiter, &mbsync);
            home.mbsync(&["Home"]).ok();
        }
    }
}

/// Nobody else is let in then: that is no fault of the server.
#[test]
fn a_check_names_the_waiter_that_has_the_only_connection() {
    let server = Server::start();
    let door = Doorkeeper::before(server.port(), 1);
    let home = Home::with(vec![Account::on(&server, "Home").port(door.port)]);
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    let of_waiter = "the waiter of this account is connected";
    let said = home.mutt_sync(&["--check"]).ok().stdout;
    assert!(said.contains(of_waiter), "{said}");
    drop(waiter);
    let said = home.mutt_sync(&["--check"]).stdout;
    assert!(!said.contains(of_waiter), "{said}");
}

#[test]
fn mbsync_is_given_way_where_nothing_is_lent() {
    for most in [1, 2] {
        let server = Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
        let door = Doorkeeper::before(server.port(), most);
        let home = Home::with(vec![Account::on(&server, "Home").port(door.port)]);
        home.settings(&format!("{QUICK}connections = 2\nhandover = false\nretry = \"1s\"\n"));
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
        waiter.wait_said("connected by IDLE", SOON);
        at_rest(&home, &waiter, &mbsync);
        for n in 0..2 {
            let text = format!("{n} from the server");
            imap.append("INBOX", &message(&text, &text), &[]);
            let text = format!("{n} from here");
            home.maildir("Home", "INBOX").add(&message(&text, &text), "S");
            let equal = || compare(&mut imap, &home.mail("Home")).is_ok();
            wait_until(SOON * 2, &format!("it is in step; {most} connections"), equal);
        }
        assert!(waiter.count("giving a connection back") > 0, "{}", waiter.said());
    }
}

/// How a login fails: what the server answers to the first command with this in it.
const FAILURES: [(&str, &str); 6] = [
    ("LOGIN", "* BYE not now\r\n"),
    ("LOGIN", "{tag} NO [UNAVAILABLE] not now\r\n"),
    ("LOGIN", "{tag} NO [AUTHENTICATIONFAILED] no\r\n"),
    ("LOGIN", "what\r\n"),
    ("LIST", "* BYE not now\r\n"),
    ("EXAMINE", "* BYE not now\r\n"),
];

/// Logins in the first twenty seconds after a failure, which begins when the connection
/// that was there is lost.
fn logins_after(command: &'static str, answer: &'static str) -> usize {
    let logins: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let broken = Arc::new(AtomicBool::new(false));
    let mut server = Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
    let (count, breaks) = (Arc::clone(&logins), Arc::clone(&broken));
    let fail = move |tag: &str, said: &str| {
        if !breaks.load(SeqCst) {
            return None;
        }
        if said.starts_with("LOGIN") {
            count.lock().unwrap().push(Instant::now());
        }
        said.starts_with(command).then(|| answer.replace("{tag}", tag))
    };
    let mangle = Mangle::to(server.port(), fail, |_, _| None);
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    home.settings("settle = \"300ms\"\nconnections = 1\n");
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    sleep(secs(3));
    broken.store(true, SeqCst);
    server.restart();
    wait_until(SOON, "a first login", || !logins.lock().unwrap().is_empty());
    sleep(TWENTY);
    let logins = logins.lock().unwrap();
    let first = logins.first().copied().unwrap_or_else(Instant::now);
    logins.iter().skip(1).filter(|at| at.duration_since(first) < secs(20)).count()
}

#[test]
fn g12_a_login_that_fails_is_not_repeated_for_twenty_seconds() {
    std::thread::scope(|scope| {
        let tried = FAILURES.map(|(command, answer)| {
            (command, answer, scope.spawn(move || logins_after(command, answer)))
        });
        for (command, answer, count) in tried {
            let count = count.join().unwrap();
            assert!(count <= 1, "{command} answered {answer:?}: {count} more logins");
        }
    });
}

#[test]
fn g12_a_tunnel_that_fails_is_not_started_again_for_twenty_seconds() {
    let home = Home::with(vec![
        Account::fake("Home").account_line("Tunnel \"echo x >> $HOME/started; exit 1\""),
    ]);
    home.settings("settle = \"300ms\"\n");
    let _waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    let started = || std::fs::read_to_string(home.path("started")).unwrap_or_default();
    wait_until(SOON, "a first start", || !started().is_empty());
    sleep(TWENTY);
    let count = started().lines().count();
    assert!(count <= 2, "{count} starts");
}
