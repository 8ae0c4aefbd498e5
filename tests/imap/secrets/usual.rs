//! The canary on its usual ways: a waiter, its runs over a lent connection and
//! plain ones, hooks, and all that can be asked.

use super::SOON;
use super::look::{Canary, Sampler, until_seen};
use rig::{Account, Home, Running, Server, Signal, message, wait_until};

/// On the second line of the password command's output; it is nobody's business.
const SECOND_LINE: &str = "second-line-qX7vTz9LmW3k";

/// What may hold the password: where the user put it.
const USERS_OWN: [&str; 2] = [".mbsyncrc", "password"];

/// A home whose password comes from a command, or stands in the file.
fn home(server: &Server, by_command: bool) -> Home {
    let password = server.password("home");
    let mut account = Account::on(server, "Home");
    if by_command {
        account = account.pass_cmd("ask-password");
    }
    let home = Home::with(vec![account]);
    home.write("password", &format!("{password}\n{SECOND_LINE}\n"));
    home.program("ask-password", &format!("{}\ncat ~/password", until_seen("ask-password")));
    for hook in ["after-sync", "new-mail"] {
        // All that a hook is given goes into a file, to be looked through with the rest.
        home.program(hook, &format!("{}\n(echo \"$0 $*\"; env) >>~/{hook}.log", until_seen(hook)));
    }
    let real = rig::real_mbsync().display().to_string();
    let seen = until_seen(run_of_mbsync());
    let run = format!("case $1 in --version) ;; *) {seen} ;; esac\nexec {real} \"$@\"");
    home.program("mbsync", &run);
    home.settings(
        "throttle = \"0s\"\nsettle = \"200ms\"\n\
         after_sync = [\"after-sync\"]\nnew_mail = [\"new-mail\"]\n",
    );
    home
}

/// How the command line of a run begins, where it is to say what it does.
fn run_of_mbsync() -> &'static str {
    if rig::mbsync_version() >= (1, 5) { "mbsync -V" } else { "mbsync -q" }
}

fn everywhere(by_command: bool) {
    let server = Server::start();
    let home = home(&server, by_command);
    let canaries =
        || vec![Canary::of("home", &server.password("home")), Canary::of("home", SECOND_LINE)];
    let marks: &[&str] = &["ask-password", "after-sync", "new-mail", run_of_mbsync()];
    let sampler = Sampler::start(&home, canaries(), marks);
    let mut outputs = Vec::new();
    let mut imap = server.imap("home");

    let mut command = home.cmd(&["--wait", "--loop", "-v", "Home"]);
    command.env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
    let waiter = Running::start(command);
    waiter.wait_for("connected by", SOON);
    // Over the connection that the waiter lends.
    imap.append("INBOX", &message("lent", "lent"), &[]);
    wait_until(SOON, "the mail is there", || home.maildir("Home", "INBOX").len() == 1);
    wait_until(SOON, "the hook was run", || !home.read("new-mail.log").is_empty());
    // And with a login of mbsync's own.
    outputs.push(home.mutt_sync(&["-f", "-v", "Home"]).ok());
    for args in [
        &["-n", "-v", "Home"][..],
        &["-b", "Home"],
        &["--list"],
        &["--status"],
        &["--status", "--json"],
        &["--status-line", "%f"],
        &["--muttrc"],
        &["--muttrc", "Home"],
        &["--check"],
        &["--check", "--json"],
    ] {
        outputs.push(home.mutt_sync(args));
    }
    waiter.signal(Signal::KILL);
    let said = waiter.wait(SOON);
    home.wait_no_leftovers(SOON);
    let seen = sampler.end();

    assert!(said.stderr.contains("connected by"), "{said}");
    assert!(home.read("new-mail.log").contains("MUTT_SYNC_ACCOUNT=Home"));
    for canary in canaries() {
        for output in outputs.iter().chain([&said]) {
            canary.assert_not_in("what was said", output.to_string());
        }
        canary.assert_not_in_files(&home, &USERS_OWN);
    }
    let asked = if by_command { marks } else { &marks[1..] };
    for mark in asked.iter().chain(&["mutt-sync --wait", "mutt-sync --check"]) {
        let known = seen.lines.iter().any(|line| line.contains(mark));
        assert!(known, "{mark} was not seen in {} rounds: {:#?}", seen.rounds, seen.lines);
    }
    println!("{} rounds, {} command lines", seen.rounds, seen.lines.len());
}

#[test]
fn g11_nothing_has_the_password_that_a_command_prints() {
    everywhere(true);
}

#[test]
fn g11_nothing_has_the_password_that_is_in_the_file() {
    everywhere(false);
}

/// What the tests above look with can find what they look for.
#[test]
fn a_canary_that_got_out_is_found() {
    let canary = Canary::of("home", SECOND_LINE);
    let encoded = |text: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    for text in [
        format!("x {SECOND_LINE} y"),
        format!("x{}", &SECOND_LINE[4..12]),
        format!("AUTH {}", encoded(SECOND_LINE)),
        format!("AUTH {}", encoded(&format!("\0home\0{SECOND_LINE}"))),
        encoded(&format!("user=home\u{1}auth=Bearer {SECOND_LINE}\u{1}\u{1}")),
    ] {
        assert!(canary.found_in(text.as_bytes()).is_some(), "{text}");
    }
    assert_eq!(canary.found_in(b"user=home second and line"), None);

    let home = Home::empty();
    for place in ["arguments", "environment"] {
        let sampler = Sampler::start(&home, vec![Canary::of("home", SECOND_LINE)], &["sleep"]);
        let mut command = home.command("sh");
        command.arg("-c").arg(format!("{}; : sleep", until_seen("sleep")));
        match place {
            "arguments" => command.arg(SECOND_LINE),
            _ => command.env("TOKEN", SECOND_LINE),
        };
        Running::start(command).wait(SOON);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sampler.end()));
        // Not while the sampler could write it again.
        std::fs::remove_file(home.path("seen-sleep")).unwrap();
        assert!(ended.is_err(), "{place}");
    }
}
