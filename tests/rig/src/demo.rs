//! The main job, shown on a private server: mail comes in, mutt shows it, what
//! is done in mutt reaches the server. Ends with `demo: ok`, or says what went
//! wrong and exits non-zero. Leaves nothing behind.

use rig::{
    Home, Output, Running, Server, ServerOptions, Signal, Terminal, Tls, compare, message, run,
    wait_until,
};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let start = Instant::now();
    // A panic has told its reason, and has ended the server and all else.
    if std::panic::catch_unwind(demo).is_err() {
        println!("demo: failed");
        return ExitCode::FAILURE;
    }
    println!("\ndemo: ok ({:.1} s)", start.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn step(text: &str) {
    println!("\n== {text}");
}

/// The screen without empty lines, set in.
fn show(screen: &str) {
    for line in screen.lines().filter(|line| !line.trim().is_empty()) {
        println!("   | {line}");
    }
}

fn sync(home: &Home, args: &[&str]) -> Output {
    println!("   $ mutt-sync {}", args.join(" "));
    let output = run(&mut home.cmd(args), Duration::from_secs(30));
    for line in output.stdout.lines().chain(output.stderr.lines()) {
        println!("   {line}");
    }
    output.ok()
}

/// What the waiter has said since the last time.
fn said(waiter: &Running, seen: &mut usize) {
    let all = waiter.stdout() + &waiter.stderr();
    for line in all.lines().skip(*seen) {
        println!("   waiter: {line}");
    }
    *seen = all.lines().count();
}

fn demo() {
    step("A mail server of our own on loopback, with two accounts: Home and Work");
    let server = Server::with(ServerOptions { tls: Tls::Imaps, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home", "Work"]);
    // So much happens here in a few seconds that the usual throttle would hold some of it back.
    home.settings("throttle = \"2s\"\n");
    let (mut far, mut far_work) = (server.imap("home"), server.imap("work"));
    println!(
        "   dovecot listens on localhost:{}, with TLS; ~ is {}",
        server.port(),
        home.path("").display()
    );

    step("A message is there; both accounts are synced for the first time");
    far.append("INBOX", &message("Welcome", "The first of all."), &[]);
    sync(&home, &["Home", "Work"]);

    step("mutt opens the INBOX of Home and stays open; one process waits for both accounts");
    home.muttrc("Home", "");
    let mutt = Terminal::sized(&home, 90, 16, &["mutt", "-n", "-F", ".muttrc"]);
    show(&mutt.wait_for("Welcome", SOON));
    println!("   $ mutt-sync --wait --loop -v Home Work &");
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home", "Work"]));
    let mut seen = 0;
    wait_until(SOON, "one connection for each account", || server.connections() == 2);
    sleep(Duration::from_secs(1));
    said(&waiter, &mut seen);

    step("A message for each account arrives at the server, and nobody asks for it");
    let arrived = Instant::now();
    far.append("INBOX", &message("Dinner on Friday?", "Shall we say eight?"), &[]);
    far_work.append("INBOX", &message("Minutes of the meeting", "None."), &[]);
    let screen = mutt.wait_for("Dinner on Friday?", SOON);
    println!("   in mutt {:.1} s later:", arrived.elapsed().as_secs_f64());
    show(&screen);
    let work = home.maildir("Work", "INBOX");
    wait_until(SOON, "the message for Work", || work.len() == 1);
    sleep(Duration::from_millis(500));
    said(&waiter, &mut seen);

    step("It is read and flagged in mutt, and a copy saved to Archive");
    mutt.text("j");
    mutt.keys(&["Enter"]);
    mutt.wait_for("Shall we say eight?", SOON);
    mutt.text("q");
    mutt.wait_without("Shall we say eight?", SOON);
    mutt.text("F");
    mutt.text("C");
    mutt.wait_for("Copy to mailbox", SOON);
    mutt.keys(&["C-u"]);
    mutt.text("=Home/Archive");
    mutt.keys(&["Enter"]);
    let archive = home.maildir("Home", "Archive");
    wait_until(SOON, "the copy in Archive", || archive.len() == 1);
    mutt.text("$");
    let inbox = home.maildir("Home", "INBOX");
    wait_until(SOON, "mutt writes the flags", || inbox.find("Shall we").flags == "FS");
    let written = Instant::now();
    show(&mutt.screen());
    wait_until(SOON, "the change on the server", || {
        far.status("Archive").messages == 1 && far.find("INBOX", "Shall we").letters() == "FS"
    });
    println!("   on the server {:.1} s after mutt wrote it:", written.elapsed().as_secs_f64());
    for mailbox in ["INBOX", "Archive"] {
        let message = far.find(mailbox, "Shall we");
        println!("   {mailbox}: UID {}, {}", message.uid, message.flags.join(" "));
    }
    sleep(Duration::from_millis(500));
    said(&waiter, &mut seen);

    step("Both sides are compared, message for message and flag for flag");
    for (account, far) in [("Home", &mut far), ("Work", &mut far_work)] {
        if let Err(difference) = compare(far, &home.mail(account)) {
            panic!("{account} differs:\n{difference}");
        }
        println!("   {account}: equal");
    }

    step("mutt is left, the waiter is told to end; nothing runs on");
    mutt.text("q");
    mutt.wait_end(SOON);
    waiter.signal(Signal::TERM);
    let output = waiter.wait(Duration::from_secs(5)).expect_code(143);
    println!("   the waiter ends with status {}", output.code());
    home.wait_no_leftovers(Duration::from_secs(2));
}
