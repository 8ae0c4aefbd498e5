//! What follows a run: the user's commands, told what came, waited for by
//! nobody, and never a chain of runs.
#![allow(clippy::unwrap_used)]

use rig::{Account, Home, Running, Server, message, run, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(30);

/// Writes down what a command was told, a line for each time.
const TELLS: &str = r#"printf '%s|%s|%s|%s|%s|%s\n' "$1" "$MUTT_SYNC_ACCOUNT" "$MUTT_SYNC_BOX" "$MUTT_SYNC_NEW" "$MUTT_SYNC_FROM" "$MUTT_SYNC_SUBJECT" >>~/told"#;

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Runs, waits for the commands after it, and says what they were told.
#[track_caller]
fn told_by(home: &Home, args: &[&str]) -> String {
    home.write("told", "");
    home.mutt_sync(args).ok();
    home.wait_no_leftovers(SHORT);
    home.read("told")
}

/// mutt quits, and its terminal closes, while the process that is left behind
/// has not left the session yet: it serves the request all the same.
#[test]
fn g2_a_request_outlives_the_terminal_it_was_made_on() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    home.settings("settle = \"100ms\"\n");
    let mut command = home.command("strace");
    // The tracer in a session of its own, so that it sees the child through.
    command.args(["-DDD", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsid"]);
    command.args(["-e", "inject=setsid:delay_enter=1000000"]);
    command.arg(rig::mutt_sync()).args(["-b", "Home"]);
    let asked = Running::start(command);
    let group = asked.pid();
    wait_until(SHORT, "the command's end", || !rig::process::alive(group));
    rig::process::kill_group(group, rig::Signal::HUP);
    rig::process::kill_group(group, rig::Signal::INT);
    mbsync.wait_for_starts(1, SHORT);
    drop(asked);
    home.wait_no_leftovers(SHORT);
}

/// Hostile in each way: escapes and line ends in encoded words, bytes that are
/// no UTF-8, what a shell would run, folded lines.
fn hostile() -> Vec<u8> {
    let mut mail = b"From: \"=?utf-8?Q?E=1B]0;own=07ve?= `id` $(id)\" <eve@far.example>\n\
        Subject: =?utf-8?Q?=1B[2Jwiped=0Anext=E2=80=AE_line?=\n \xe9t\xe9 %s\n"
        .to_vec();
    let rest = String::from_utf8(message("SUBJECT", "text")).unwrap();
    for line in rest.lines().filter(|line| !line.starts_with("From:") && !line.contains("SUBJECT"))
    {
        mail.extend(line.bytes());
        mail.push(b'\n');
    }
    mail
}

#[test]
fn commands_get_what_a_run_brought() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.program("tell", TELLS);
    home.settings(
        "after_sync = [\"tell\", \"after\"]\nnew_mail = [\"tell\", \"new\"]\n\
         throttle = \"1s\"\nburst = 1000\nsettle = \"100ms\"\n",
    );
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("old", "x"), &["\\Seen"]);
    let nothing = "after|Home||0||\n";
    assert_eq!(told_by(&home, &["Home"]), nothing, "mail that was read is not new");
    let first = imap.append("INBOX", &message("one", "x"), &[]);
    imap.append("INBOX", &message("read", "x"), &["\\Seen"]);
    imap.append("Archive", &message("two", "x"), &[]);
    imap.append("INBOX", &hostile(), &[]);
    let told = told_by(&home, &["Home"]);
    let lines = sorted(&told);
    assert_eq!(lines.len(), 2, "each once: {told}");
    let facts = lines[0].strip_prefix("after|").unwrap();
    assert_eq!(lines[1].strip_prefix("new|"), Some(facts));
    let facts: Vec<&str> = facts.split('|').collect();
    assert!(matches!(facts[1], "INBOX,Archive" | "Archive,INBOX"), "{told}");
    assert_eq!((facts[0], facts[2]), ("Home", "3"), "{told}");
    // The newest of the first mailbox that .mbsyncrc's order has.
    if facts[1].starts_with("INBOX") {
        assert_eq!(facts[3], "Eve `id` $(id)", "{told}");
        assert!(facts[4].starts_with("wiped next line "), "{told}");
        assert!(facts[4].ends_with("t\u{fffd} %s") || facts[4].ends_with("té %s"), "{told}");
    } else {
        assert_eq!((facts[3], facts[4]), ("Ada", "two"), "{told}");
    }
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    // Right after it, within the same second: nothing is new twice.
    imap.select("INBOX");
    imap.add_flags(first, &["\\Flagged"]);
    imap.unselect();
    assert_eq!(told_by(&home, &["Home"]), nothing, "flags alone are no news");
    imap.append("INBOX", &message("read too", "x"), &["\\Seen"]);
    assert_eq!(told_by(&home, &["Home"]), nothing);
    assert_eq!(told_by(&home, &["Home"]), "", "nothing differs: no run, and no word");
    assert_eq!(told_by(&home, &["--full", "Home"]), nothing, "also after one that changed nothing");
    imap.append("Sent", &message("three", "x"), &[]);
    let told = told_by(&home, &["-q", "Home:Sent"]);
    assert_eq!(sorted(&told), ["after|Home|Sent|1|Ada|three", "new|Home|Sent|1|Ada|three"]);
    // A waiter tells the same, and once.
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "Home"]));
    wait_until(SHORT, "a connection", || server.connections() == 1);
    home.write("told", "");
    imap.append("INBOX", &message("four", "x"), &[]);
    let news = || {
        let told = home.read("told");
        told.lines().filter(|line| line.starts_with("new|")).map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until(SHORT, "news", || !news().is_empty());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(news(), ["new|Home|INBOX|1|Ada|four"]);
    drop(waiter);
}

#[test]
fn nothing_waits_for_a_command_that_hangs() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    home.program("hang", "echo $$ >>~/hanging; exec sleep 600");
    home.settings("after_sync = [\"hang\"]\nthrottle = \"1s\"\nburst = 1000\n");
    for n in 1..=5 {
        home.mutt_sync(&["-f", "Home"]).ok();
        assert_eq!(mbsync.runs().len(), n);
        // The lock is free, and nobody is said to be at work.
        assert!(home.mutt_sync(&["--status", "Home"]).ok().stdout.contains("checked "));
    }
    let hanging = || home.read("hanging").lines().count();
    wait_until(SHORT, "the command", || hanging() == 1);
    assert_eq!(hanging(), 1, "one at a time for each account");
    assert_ne!(home.leftovers(), []);
}

/// A command that calls mutt-sync, in every way that it can be called.
fn runs_of_a_command_that_syncs(words: &str, waiter: bool) -> usize {
    let home = Home::with(vec![Account::fake("Home").unjudged()]);
    for mailbox in ["INBOX", "Archive", "Drafts", "Sent", "Trash"] {
        home.maildir("Home", mailbox).create();
    }
    let mbsync = home.fake_mbsync();
    home.program(
        "again",
        &format!("echo >>~/calls\nexec '{}' {words} >/dev/null 2>&1", rig::mutt_sync().display()),
    );
    home.settings(
        "after_sync = [\"again\"]\nthrottle = \"1s\"\nburst = 1000\nsettle = \"100ms\"\nretry = \"1h\"\n",
    );
    let calls = || home.read("calls").lines().count();
    let rest = |home: &Home, waiters: usize| {
        // Quiet for as long as a link of the chain would take several times.
        let (mut since, mut seen) = (Instant::now(), (0, 0));
        let started = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            assert!(started.elapsed() < SHORT * 2, "{words}: no end: {seen:?}");
            let now = (mbsync.runs().len(), calls());
            if now != seen || home.leftovers().len() > waiters {
                (since, seen) = (Instant::now(), now);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let waits = waiter.then(|| Running::start(home.cmd(&["--wait", "--loop", "Home"])));
    if waiter {
        wait_until(SHORT, "a waiter", || {
            home.mutt_sync(&["--status", "Home"]).ok().stdout.contains(", watching")
        });
        rest(&home, 1);
    }
    mbsync.clear_log();
    home.write("calls", "");
    home.mutt_sync(&["-b", "Home"]).ok();
    mbsync.wait_for_starts(1, SHORT);
    rest(&home, usize::from(waiter));
    assert!(calls() >= 1, "{words}: the command was not run");
    mbsync.assert_alone();
    drop(waits);
    mbsync.runs().len()
}

#[test]
fn a_command_that_syncs_makes_no_chain_of_runs() {
    let cases = [
        ("-b Home", false),
        ("-b Home", true),
        ("-f Home", false),
        ("-f Home", true),
        ("--block Home", true),
        ("-b -f -a", true),
    ];
    // Side by side: each is at rest most of the time.
    std::thread::scope(|scope| {
        let runs = cases.map(|(words, waiter)| {
            scope.spawn(move || runs_of_a_command_that_syncs(words, waiter))
        });
        for (runs, (words, waiter)) in runs.into_iter().zip(cases) {
            // The one asked for, and the one that its command asked for.
            assert_eq!(runs.join().expect("a case"), 2, "{words}, waiter: {waiter}");
        }
    });
}

#[test]
fn notmuch_is_never_run_twice_at_once() {
    let home = Home::fake(&["Home", "Work", "Other"]);
    let mbsync = home.fake_mbsync();
    home.program(
        "notmuch",
        "mkdir ~/busy || echo twice >>~/log\necho ran >>~/log\nsleep 0.2\nrmdir ~/busy",
    );
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/hooks/notmuch-new");
    home.settings(&format!(
        "after_sync = [\"{}\"]\nthrottle = \"1s\"\nburst = 1000\n",
        hook.display()
    ));
    for _ in 0..4 {
        run(&mut home.cmd(&["-f", "-a"]), SHORT).ok();
    }
    home.wait_no_leftovers(SHORT);
    assert_eq!(mbsync.runs().len(), 12);
    let log = home.read("log");
    assert!(!log.contains("twice"), "{log}");
    let ran = log.lines().count();
    assert!((1..=12).contains(&ran), "{log}");
    // The last that asked was heard.
    assert!(!home.path(".local/state/mutt-sync/notmuch.want").exists());
}
