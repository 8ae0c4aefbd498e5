//! How far a run is, at a terminal.

use rig::{Account, Delay, Home, Server, Terminal, message, mutt_sync};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(40);

#[test]
fn a_run_that_takes_long_shows_how_far_it_is_and_leaves_no_trace_of_that() {
    let server = Server::start();
    let way = Delay::to(server.port(), Duration::from_millis(400));
    let home = Home::with(vec![Account::on(&server, "Home").port(way.port())]);
    let mut imap = server.imap("home");
    for n in 0..3 {
        imap.append("INBOX", &message(&format!("mail {n}"), "body"), &[]);
    }
    let typed = format!("{} Home; echo over $?; read line", mutt_sync().display());
    let terminal = Terminal::start(&home, &["sh", "-c", &typed]);
    terminal.wait("a mailbox of all", SHORT, |screen| {
        screen.contains("Home: ") && screen.contains(" of 5)") && !screen.contains("over")
    });
    let screen = terminal.wait_for("over", SHORT);
    let lines: Vec<&str> = screen.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines[0].starts_with("Home: INBOX 3 new, ") && lines[1] == "over 0", "{screen}");
    // Nobody is shown anything in a file, and nobody who wants errors only.
    for (n, more) in ["2>said", "-q 2>/dev/tty"].iter().enumerate() {
        imap.append("INBOX", &message(&format!("more {n}"), "body"), &[]);
        home.age();
        let typed =
            format!("{} -f --full Home {more}; echo over; read line", mutt_sync().display());
        let terminal = Terminal::start(&home, &["sh", "-c", &typed]);
        terminal.wait("the end, and nothing before it", SHORT, |screen| {
            assert!(!screen.contains(" of 5)"), "{screen}");
            screen.contains("over")
        });
    }
    assert_eq!(home.read("said"), "");
    assert_eq!(home.maildir("Home", "INBOX").len(), 5);
}
