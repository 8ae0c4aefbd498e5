//! The main job, shown on a private server: mail comes in, mutt shows it, what
//! is done in mutt reaches the server. Ends with `demo: ok`, or says what went
//! wrong and exits non-zero. Leaves nothing behind.

use rig::{Home, Output, Server, Terminal, compare, message, run};
use std::process::ExitCode;
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

fn demo() {
    step("A mail server of our own on loopback, with two accounts: Home and Work");
    let server = Server::start();
    let home = Home::on(&server, &["Home", "Work"]);
    let mut far = server.imap("home");
    println!("   dovecot listens on 127.0.0.1:{}; ~ is {}", server.port(), home.path("").display());
    sync(&home, &["Home", "Work"]);

    step("mutt opens the empty INBOX of Home and stays open");
    home.muttrc("Home", "");
    let mutt = Terminal::sized(&home, 90, 16, &["mutt", "-n", "-F", ".muttrc"]);
    mutt.wait_for("Home/INBOX", SOON);

    step("A message for each account arrives at the server");
    far.append("INBOX", &message("Dinner on Friday?", "Shall we say eight?"), &[]);
    server.imap("work").append("INBOX", &message("Minutes of the meeting", "None."), &[]);

    step("Both accounts are synced, and mutt shows the message at once");
    sync(&home, &["Home", "Work"]);
    show(&mutt.wait_for("Dinner on Friday?", SOON));
    home.maildir("Work", "INBOX").find("Minutes of the meeting");

    step("The message is read and flagged in mutt, and a copy saved to Archive");
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
    rig::wait_until(SOON, "the copy in Archive", || home.maildir("Home", "Archive").len() == 1);
    mutt.text("$");
    let inbox = home.maildir("Home", "INBOX");
    rig::wait_until(SOON, "mutt writes the flags", || inbox.list()[0].flags == "FS");
    show(&mutt.screen());

    step("The next sync carries it all to the server");
    sync(&home, &["Home"]);
    let message = far.find("INBOX", "Dinner on Friday?");
    println!("   on the server: INBOX   UID {}, {}", message.uid, message.flags.join(" "));
    assert_eq!(message.letters(), "FS", "the flags on the server");
    let copy = far.find("Archive", "Dinner on Friday?");
    println!("   on the server: Archive UID {}, {}", copy.uid, copy.flags.join(" "));

    step("Both sides are compared, message for message and flag for flag");
    for account in ["Home", "Work"] {
        let user = account.to_lowercase();
        if let Err(difference) = compare(&mut server.imap(&user), &home.mail(account)) {
            panic!("{account} differs:\n{difference}");
        }
        println!("   {account}: equal");
    }

    step("mutt is left; nothing runs on");
    mutt.text("q");
    mutt.wait_end(SOON);
    home.wait_no_leftovers(Duration::from_secs(2));
}
