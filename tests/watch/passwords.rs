//! Password commands that fail, hang, or tell the wrong word.

use crate::support::{NO_GRACE, SOON, Waiter, at_rest, ms, one_run, secs};
use mutt_sync::state::backoff::{Backoff, seconds};
use rig::{Account, Home, Mbsync, Server, ServerOptions, message, wait_until};
use std::thread::sleep;
use std::time::SystemTime;

const SETTINGS: &str =
    "throttle = \"0s\"\nsettle = \"200ms\"\nretry = \"2s\"\nretry_max = \"60s\"\nstall = \"2s\"\n";

/// A home whose password command is this script; each start of it is counted.
fn home_with(server: &Server, script: &str) -> Home {
    let home = Home::with(vec![Account::on(server, "Home").pass_cmd("ask-password")]);
    home.settings(SETTINGS);
    set_script(&home, script);
    home
}

fn set_script(home: &Home, script: &str) {
    home.program("ask-password", &format!("echo x >> \"$HOME/asked\"\n{script}"));
}

fn asked(home: &Home) -> usize {
    home.read("asked").lines().count()
}

/// Whether the backoff on disk lasts for minutes yet.
fn backs_off_for_minutes(home: &Home) -> bool {
    let text = home.read(".local/state/mutt-sync/Home/retry.json");
    let Ok(retry) = serde_json::from_str::<Backoff>(&text) else { return false };
    retry.until > seconds(SystemTime::now()) + 120
}

/// The command was asked seldom. Then it is repaired, and a manual sync ends the
/// backoff at once.
fn recovers(server: &Server, home: &Home, waiter: &Waiter, mbsync: &Mbsync) {
    sleep(secs(6));
    let few = asked(home);
    assert!((1..=3).contains(&few), "asked {few} times in six seconds");
    // Until now the waiter tries again after seconds, and would do so while the
    // manual sync runs. After its next failure it waits for minutes, and only a
    // success elsewhere ends that in time.
    let patient = SETTINGS.replace("retry = \"2s\"\nretry_max = \"60s\"", "retry = \"10m\"");
    home.settings(&patient);
    // A command that hangs is given a minute.
    wait_until(SOON * 6, "a backoff of minutes", || backs_off_for_minutes(home));
    let runs = mbsync.runs().len();
    // Dovecot makes those wait who have failed before.
    home.settings(&patient.replace("stall = \"2s\"", "stall = \"30s\""));
    set_script(home, &format!("echo {}", server.password("home")));
    home.mutt_sync(&["-f", "Home"]).ok();
    waiter.wait_said("connected by", SOON);
    at_rest(home, waiter, mbsync);
    assert_eq!(mbsync.runs().len(), runs + 1, "the manual run was enough: {}", waiter.said());
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    assert_eq!(one_run(mbsync, runs + 1), ["Home:INBOX"]);
}

#[test]
fn g12_a_password_command_that_fails() {
    let server = Server::start();
    let home = home_with(&server, "exit 1");
    // Once only: a run that starts while it is set up anew would find no mbsync,
    // or the fake one.
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    recovers(&server, &home, &waiter, &mbsync);
}

#[test]
fn g12_a_wrong_password() {
    let server = Server::start();
    let home = home_with(&server, "echo wrong");
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    recovers(&server, &home, &waiter, &mbsync);
    // Three in the first seconds, and one after each change of the settings.
    assert!(server.failed_logins() <= 5, "{}", server.failed_logins());
}

#[test]
fn g12_a_password_that_is_corrected_in_the_configuration_is_tried_at_once() {
    let server = Server::start();
    let home = Home::with(vec![Account::on(&server, "Home").login("home", "wrong")]);
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("Authentication failed", SOON);
    wait_until(SOON, "a backoff", || home.path(".local/state/mutt-sync/Home/retry.json").exists());
    let wrong = home.read(".mbsyncrc");
    home.write(".mbsyncrc", &wrong.replace("wrong", &server.password("home")));
    waiter.wait_said("connected by", SOON);
    assert_eq!(server.failed_logins(), 1);
}

/// Whether the waiter tries it or the command itself.
#[test]
fn g12_a_person_costs_one_refused_login() {
    let server = Server::start();
    let home = home_with(&server, "echo wrong");
    home.settings(SETTINGS);
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("Authentication failed", SOON);
    wait_until(SOON, "a backoff", || home.path(".local/state/mutt-sync/Home/retry.json").exists());
    for _ in 0..3 {
        let before = (server.failed_logins(), asked(&home));
        home.mutt_sync(&["-f", "Home"]).expect_code(77);
        let after = (server.failed_logins(), asked(&home));
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{}", waiter.said());
    }
}

#[test]
fn g12_a_password_command_that_hangs() {
    let server = Server::start();
    let home = home_with(&server, "exec sleep 600");
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    recovers(&server, &home, &waiter, &mbsync);
}

/// What was in order hangs from now on: a request is served although a
/// connect waits for the command, and its end is waited for by nobody.
#[test]
fn g12_a_command_that_begins_to_hang_keeps_no_request_from_being_tried() {
    let server = Server::start();
    let way = rig::Delay::to(server.port(), ms(0));
    let account = Account::on(&server, "Home").port(way.port()).pass_cmd("ask-password");
    let home = Home::with(vec![account]);
    home.settings(SETTINGS);
    set_script(&home, &format!("echo {}", server.password("home")));
    let mbsync = home.wrap_mbsync();
    let mut waiter = Waiter::settled(&home, &mbsync);
    let before = asked(&home);
    set_script(&home, "exec sleep 600");
    way.cut();
    wait_until(SOON, "the command is asked", || asked(&home) > before);
    let runs = mbsync.runs().len();
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    // The command is given a minute.
    mbsync.wait_for_starts(runs + 1, SOON);
    sleep(secs(6));
    let times = asked(&home) - before;
    assert!((2..=4).contains(&times), "asked {times} times");
    waiter.stop();
    home.wait_no_leftovers(NO_GRACE);
}

#[test]
fn when_one_password_command_works_again_the_others_are_tried() {
    let server = Server::start();
    let account = |name: &str| {
        let password = server.password(&name.to_lowercase());
        Account::on(&server, name).pass_cmd(&format!("test -e $HOME/unlocked && echo {password}"))
    };
    let home = Home::with(vec![account("Home"), account("Work")]);
    home.settings(&SETTINGS.replace("retry = \"2s\"\nretry_max = \"60s\"", "retry = \"10m\""));
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home", "Work"]);
    let failed = |name: &str| home.state(name).join("retry.json").exists();
    wait_until(SOON, "both fail", || failed("Home") && failed("Work"));
    home.write("unlocked", "");
    home.mutt_sync(&["-f", "Home"]).ok();
    waiter.wait_said("Home: connected by", SOON);
    waiter.wait_said("Work: connected by", SOON);
}

/// A token is for one login. The connection outlives it and is lent, so that mbsync needs
/// none, and no SASL plugin; the next connection has a fresh one.
#[test]
fn g12_a_token_that_expires_is_fetched_once_for_each_connection() {
    for mechanism in ["XOAUTH2", "OAUTHBEARER"] {
        let mut server = Server::with(ServerOptions { tokens: true, ..ServerOptions::default() });
        let account = Account::on(&server, "Home").pass_cmd("ask-password");
        let home = Home::with(vec![account.account_line(&format!("AuthMechs {mechanism}"))]);
        home.settings(SETTINGS);
        set_script(&home, &server.token_command("home", 2));
        let mbsync = home.wrap_mbsync();
        let waiter = Waiter::settled(&home, &mbsync);
        assert_eq!((asked(&home), server.logins("home")), (1, 1), "{}", waiter.said());
        sleep(secs(3));
        for n in 1..=2 {
            let before = mbsync.runs().len();
            server.imap("home").append("INBOX", &message(&n.to_string(), "x"), &[]);
            assert_eq!(one_run(&mbsync, before), ["Home:INBOX"]);
            let inbox = home.maildir("Home", "INBOX");
            wait_until(SOON, "the message", || inbox.len() == n);
        }
        assert_eq!((asked(&home), server.logins("home")), (1, 1), "{}", waiter.said());
        server.kill();
        server.restart();
        wait_until(SOON, "a second login", || server.logins("home") == 2);
        assert_eq!(asked(&home), 2);
        assert_eq!(server.failed_logins(), 0);
        let before = mbsync.runs().len();
        server.imap("home").append("INBOX", &message("after", "x"), &[]);
        assert_eq!(one_run(&mbsync, before), ["Home:INBOX"]);
        // And a command that has no waiter: one login, one token, one run.
        drop(waiter);
        server.imap("home").append("Archive", &message("alone", "x"), &[]);
        home.mutt_sync(&["Home"]).ok();
        assert_eq!(home.maildir("Home", "Archive").len(), 1);
        assert_eq!((asked(&home), server.logins("home")), (3, 3));
    }
}
