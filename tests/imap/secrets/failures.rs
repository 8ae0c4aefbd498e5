//! The canary through everything that can fail.

use super::SOON;
use super::fake::{Fake, RunOptions};
use super::look::Canary;
use rig::{Account, Ca, Home, Output, Running, Server, ServerOptions, Signal, Tls, wait_until};

const SECRET: &str = "wrong-Kp4TfJw8ZrYs2Nxd";
const SETTINGS: &str = "throttle = \"0s\"\nsettle = \"200ms\"\nretry = \"1h\"\nstall = \"5s\"\n";

/// All that can be asked, a run first.
const EVERYTHING: [&[&str]; 8] = [
    &["-f", "-v", "Home"],
    &["Home"],
    &["-n", "-v", "Home"],
    &["-b", "Home"],
    &["--status", "--json"],
    &["--status"],
    &["--list"],
    &["--check"],
];

/// Everything that can be asked of an account that cannot log in. What is said
/// of it, and what is then on the disk, has no canary; `but` are files that have.
/// The waiter's login is first; the runs after it are mbsync's own, unless that
/// is a `fake`, which only fails.
fn asked(home: &Home, fake: bool, but: &[&str]) -> Vec<Output> {
    asked_after(home, fake, but, &EVERYTHING, &|waiter| waiter.stderr().contains("again in"))
}

/// The same, where `failed` says when the waiter has seen its login fail: one that
/// is shown the door tries again for a while before it says so.
fn asked_after(
    home: &Home,
    fake: bool,
    but: &[&str],
    words: &[&[&str]],
    failed: &dyn Fn(&Running) -> bool,
) -> Vec<Output> {
    let canary = Canary::of("home", SECRET);
    home.settings(SETTINGS);
    let mut mbsync = home.fake_mbsync();
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    // Its first run is the fake's, which has done nothing and is content.
    wait_until(SOON, &format!("the login has failed: {waiter}"), || failed(&waiter));
    waiter.signal(Signal::TERM);
    let mut outputs = vec![waiter.wait(SOON)];
    if fake {
        mbsync.exit(1);
    } else {
        std::fs::remove_file(home.path("bin/mbsync")).unwrap();
    }
    for args in words {
        outputs.push(home.mutt_sync(args));
    }
    for output in &outputs {
        canary.assert_not_in("what was said", output.to_string());
    }
    canary.assert_not_in_files(home, but);
    outputs
}

/// The account in both ways of giving its password.
fn both(account: &Account, check: impl Fn(&Home, bool)) {
    let in_file = account.clone().login("home", SECRET);
    check(&Home::with(vec![in_file]), false);
    let by_command = account.clone().pass_cmd("cat ~/password");
    let home = Home::with(vec![by_command]);
    home.write("password", &format!("{SECRET}\nsecond\n"));
    check(&home, true);
}

const FILES: [&str; 2] = [".mbsyncrc", "password"];

#[test]
fn g11_a_wrong_password() {
    let server = Server::start();
    both(&Account::on(&server, "Home"), |home, _| {
        let outputs = asked(home, false, &FILES);
        assert!(outputs[0].stderr.contains("AUTHENTICATIONFAILED"), "{}", outputs[0]);
    });
}

#[test]
fn g11_a_certificate_that_is_refused() {
    let server = Server::with(ServerOptions { tls: Tls::Imaps, ..ServerOptions::default() });
    let account = Account::on(&server, "Home").certificate(Ca::new().cert());
    both(&account, |home, _| {
        asked(home, false, &FILES);
    });
}

/// mbsync prints what a server says. A password that mbsync got from a command
/// of its own is not known to us, and is not masked in that; so here such a
/// password is only given to the waiter and the doctor, who mask it.
#[test]
fn g11_a_server_that_repeats_the_password_is_not_quoted_anywhere() {
    let words = [
        "* OK [ALERT] you said {}\r\n* 3 {}\r\nTAG NO [ALERT] {}\r\n",
        "TAG BAD {}\r\n",
        "* BYE {}\r\n",
        "TAG NO [UNAVAILABLE] xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx {}\r\n",
        "TAG {}\r\n",
    ];
    for (at, words) in words.into_iter().enumerate() {
        // What is kept on the disk is the same for all; here the words count.
        let asked = if at == 0 || rig::soak() {
            &EVERYTHING[..]
        } else {
            &[&["-f", "-v", "Home"][..], &["--status"]][..]
        };
        let fake =
            Fake::start(RunOptions::Echo { password: SECRET.to_owned(), words: words.to_owned() });
        let account = Account::fake("Home").port(fake.port()).account_line("Timeout 3");
        both(&account, |home, by_command| {
            let before = fake.said();
            asked_after(home, by_command, &FILES, asked, &|waiter| {
                waiter.stderr().contains("again in") || fake.said() >= before + 2
            });
        });
        assert!(fake.said() >= 2, "{} logins", fake.said());
    }
}

#[test]
fn g11_a_server_that_repeats_a_token() {
    for mechanism in ["XOAUTH2", "PLAIN"] {
        let fake = Fake::start(RunOptions::Echo {
            password: SECRET.to_owned(),
            words: "TAG NO [ALERT] {}\r\n".to_owned(),
        });
        let account = Account::fake("Home").port(fake.port());
        both(&account, |home, _| {
            // What mbsync can do depends on the plugins that the machine has for SASL.
            let file = home
                .read(".mbsyncrc")
                .replace("AuthMechs LOGIN", &format!("AuthMechs {mechanism}"));
            home.write(".mbsyncrc", &file);
            let outputs = asked(home, true, &FILES);
            let said: String = outputs.iter().map(ToString::to_string).collect();
            assert!(said.contains("********"), "{said}");
        });
        assert!(fake.said() >= 4, "{} logins", fake.said());
    }
}

#[test]
fn g11_a_password_command_that_fails() {
    let server = Server::start();
    for command in [
        format!("echo {SECRET}; exit 3"),
        format!("echo {SECRET}; kill -9 $$"),
        format!(": {SECRET}"),
        format!("no-such-command {SECRET} 2>/dev/null"),
    ] {
        let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&command)]);
        let outputs = asked(&home, false, &[".mbsyncrc"]);
        assert!(outputs[0].stderr.contains("PassCmd"), "{}", outputs[0]);
    }
}

/// Killed or ended while a command has told half of it, or all and hangs, or the
/// server has it and does not answer.
#[test]
fn g11_an_end_in_the_middle_of_a_login() {
    let canary = Canary::of("home", SECRET);
    for signal in [Signal::KILL, Signal::TERM, Signal::ABORT] {
        let server = Server::start();
        let command = format!("printf {SECRET}; touch ~/told; exec sleep 100");
        let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&command)]);
        home.settings(SETTINGS);
        let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
        wait_until(SOON, "the command has told it", || home.path("told").exists());
        waiter.signal(signal);
        let output = waiter.wait(SOON);
        canary.assert_not_in("what was said", output.to_string());
        canary.assert_not_in_files(&home, &[".mbsyncrc"]);

        let fake = Fake::start(RunOptions::Accept { password: SECRET.to_owned() });
        both(&Account::fake("Home").port(fake.port()), |home, _| {
            home.settings(SETTINGS);
            home.fake_mbsync();
            let before = fake.said();
            let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
            wait_until(SOON, &format!("a login is said: {waiter}"), || fake.said() > before);
            waiter.signal(signal);
            let output = waiter.wait(SOON);
            canary.assert_not_in("what was said", output.to_string());
            canary.assert_not_in_files(home, &FILES);
        });
    }
}

#[test]
fn g11_an_mbsync_that_crashes() {
    let home = Home::with(vec![Account::fake("Home").login("home", SECRET)]);
    let mut mbsync = home.fake_mbsync();
    mbsync.stdout(&format!("C: 1/1 {SECRET}"));
    mbsync.stderr(&format!(
        "Socket error: {SECRET}\nIMAP command 'LOGIN home {SECRET}' x\npart {SECRET}"
    ));
    let canary = Canary::of("home", SECRET);
    for signal in ["KILL", "ABRT"] {
        mbsync.signal(signal);
        for args in [&["-f", "-v", "Home"][..], &["-f", "Home"]] {
            let output = home.mutt_sync(args);
            assert!(!output.status.success(), "{output}");
            canary.assert_not_in("what was said", output.to_string());
        }
    }
    // The fake's own words are its own.
    canary.assert_not_in_files(&home, &[".mbsyncrc", "bin"]);
}

/// Slips of the pen in the file: what stands where a password does, or where
/// somebody took it for one, is not repeated.
#[test]
fn g11_a_file_with_a_mistake_in_it() {
    let canary = Canary::of("home", SECRET);
    let right = Home::with(vec![Account::fake("Home").login("home", "x")]);
    let good = right.read(".mbsyncrc");
    let long = SECRET.repeat(60);
    for line in [
        format!("Pass={SECRET}"),
        format!("Pass={SECRET} {SECRET}"),
        format!("Pass: {SECRET}"),
        format!("Pass:{SECRET} x"),
        format!("Passs {SECRET}"),
        format!("Password {SECRET}"),
        format!("Pass word {SECRET}"),
        format!("Pass \"{SECRET}"),
        format!("Pass {SECRET}\\"),
        format!("Pass {SECRET}\nPassCmd \"echo {SECRET}\""),
        format!("Pass {SECRET}\n\nPass {SECRET}"),
        format!("PassCmd echo {SECRET}"),
        format!("PassCmd \"echo {SECRET}"),
        format!("UserCmd curl -u {SECRET}"),
        format!("Tunnel ssh {SECRET}"),
        // Longer than a line may be: the rest is taken for a line of its own.
        format!("Pass {long}"),
        format!("Pass \u{1}{SECRET}"),
    ] {
        right.write(".mbsyncrc", &good.replace("Pass x\n", &format!("{line}\n")));
        let mut refused = 0;
        for args in [&["-v", "Home"][..], &["-b", "Home"], &["--list"], &["--check"], &["--status"]]
        {
            let output = right.mutt_sync(args);
            refused += usize::from(!output.status.success());
            canary.assert_not_in(&format!("{line:?}: what was said"), output.to_string());
        }
        assert!(refused > 0, "{line:?} is no mistake");
        canary.assert_not_in_files(&right, &[".mbsyncrc"]);
    }
}
