//! TERM, INT and HUP in every state: gone at once, with all that was started.

use crate::support::{NO_GRACE, QUICK, SOON, Waiter, at_rest, code, ms};
use rig::{Account, Delay, Home, Mbsync, Server, Signal, message, process, wait_until};
use std::thread::sleep;
use std::time::Instant;

const SIGNALS: [(Signal, i32); 3] = [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)];

#[track_caller]
fn gone(home: &Home, mut waiter: Waiter, (signal, number): (Signal, i32)) {
    let begun = Instant::now();
    process::kill(waiter.pid(), signal);
    let ended = waiter.end(SOON);
    let took = begun.elapsed();
    assert_eq!(code(ended), 128 + number);
    assert!(took < NO_GRACE, "{took:?} for {signal:?}: {}", waiter.said());
    home.wait_no_leftovers(NO_GRACE);
}

fn begin(home: &Home) -> Waiter {
    Waiter::start(home, &["--wait", "--loop", "-v", "Home"])
}

#[test]
fn g8_while_connecting_and_in_backoff_and_at_the_password_command() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let home =
        Home::with(vec![Account::on(&server, "Home").port(way.port()).pass_cmd("ask-password")]);
    home.settings(&format!("{QUICK}retry = \"30s\"\n"));
    let good = format!("echo {}", server.password("home"));
    home.program("ask-password", &good);
    let mbsync = home.exec_mbsync();
    home.mutt_sync(&["Home"]).ok();
    for signal in SIGNALS {
        way.stall();
        let seen = way.connections();
        let waiter = begin(&home);
        wait_until(SOON, "it connects", || way.connections() > seen);
        sleep(ms(100));
        gone(&home, waiter, signal);
        way.flow();

        home.program("ask-password", "touch \"$HOME/asked\"; exec sleep 600");
        let _ = std::fs::remove_file(home.path("asked"));
        let waiter = begin(&home);
        wait_until(SOON, "the password is asked for", || home.path("asked").exists());
        gone(&home, waiter, signal);

        home.program("ask-password", "exit 1");
        let waiter = begin(&home);
        waiter.wait_said("again in", SOON);
        sleep(ms(100));
        gone(&home, waiter, signal);
        std::fs::remove_file(home.state("Home").join("retry.json")).unwrap();
        home.program("ask-password", &good);
    }
    assert_eq!(mbsync.runs().len(), 1);
}

#[test]
fn g8_while_it_starts_again_with_another_configuration() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    home.mutt_sync(&["Home"]).ok();
    let text = home.read(".mbsyncrc");
    for step in 0..16 {
        let mut waiter = begin(&home);
        waiter.wait_said("connected by", SOON);
        home.write(".mbsyncrc", &format!("{text}# {step}\n"));
        sleep(ms(10 * step));
        process::kill(waiter.pid(), Signal::TERM);
        waiter.end(SOON);
        home.wait_no_leftovers(NO_GRACE);
    }
}

#[test]
fn g8_a_signal_ends_it_while_idle_syncing_or_on_standby() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.exec_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let slow = Delay::to(server.port(), ms(800));
    for signal in SIGNALS {
        let waiter = begin(&home);
        waiter.wait_said("connected by", SOON);
        at_rest(&home, &waiter, &mbsync);
        let second = begin(&home);
        second.wait_said("on standby", SOON);
        sleep(ms(50));
        let begun = Instant::now();
        process::kill(second.pid(), signal.0);
        let mut second = second;
        assert_eq!(code(second.end(SOON)), 128 + signal.1);
        assert!(begun.elapsed() < NO_GRACE);
        gone(&home, waiter, signal);
    }
    // mbsync itself, the compiled one, in the midst of its work.
    let text = home.read(".mbsyncrc");
    home.write(
        ".mbsyncrc",
        &text.replace(&format!("Port {}", server.port()), &format!("Port {}", slow.port())),
    );
    for signal in SIGNALS {
        let runs = mbsync.runs().len();
        home.maildir("Home", "Sent").add(&message("sent", "sent"), "S");
        let waiter = begin(&home);
        running(&mbsync, runs);
        sleep(ms(300));
        gone(&home, waiter, signal);
        assert!(!mbsync.runs().last().unwrap().alive());
    }
    // What was under way is done by the next.
    home.write(".mbsyncrc", &text);
    let mut waiter = Waiter::start(&home, &["--wait", "Home"]);
    assert_eq!(code(waiter.end(SOON)), 0);
    rig::compare(&mut server.imap("home"), &home.mail("Home")).unwrap();
}

#[track_caller]
fn running(mbsync: &Mbsync, before: usize) {
    mbsync.wait_for_starts(before + 1, SOON);
}

/// Opened as a file, a FIFO would be waited for until somebody writes into it.
#[test]
fn g8_with_a_fifo_in_the_place_of_a_maildirs_file() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    home.mutt_sync(&["Home"]).ok();
    // The real one would wait for the FIFO.
    let mbsync = home.fake_mbsync();
    let file = home.path("Mail/Home/INBOX/.uidvalidity");
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    for signal in SIGNALS {
        let waiter = begin(&home);
        waiter.wait_said("connected by", SOON);
        let runs = mbsync.runs().len();
        server.imap("home").append("Archive", &message("one", "body one"), &[]);
        mbsync.wait_for_starts(runs + 1, SOON);
        gone(&home, waiter, signal);
    }
}
