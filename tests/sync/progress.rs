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
    let lines = lines(&screen);
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

/// Runs `mutt-sync Home` with these words at a terminal, with this password command.
fn ask(server: &Server, command: &str, more: &str) -> (Home, Terminal) {
    let home = Home::with(vec![Account::on(server, "Home").pass_cmd(command)]);
    let typed = format!("{} Home {more}; echo over; read line", mutt_sync().display());
    let terminal = Terminal::start(&home, &["sh", "-c", &typed]);
    (home, terminal)
}

fn lines(screen: &str) -> Vec<&str> {
    screen.lines().filter(|line| !line.is_empty()).collect()
}

#[test]
fn a_password_command_that_takes_long_is_said_once_and_not_within_a_question() {
    const SAID: &str = "Home: waiting for PassCmd";
    let server = Server::start();
    let password = server.password("home");
    let (home, terminal) =
        ask(&server, &format!("until test -e ~/go; do sleep 0.1; done; echo {password}"), "");
    terminal.wait_for(SAID, SHORT);
    home.write("go", "");
    let screen = terminal.wait_for("over", SHORT);
    let lines = lines(&screen);
    assert_eq!((lines[0], lines[2], lines.len()), (SAID, "over", 3), "{screen}");
    // Nothing where it says something at the terminal itself, in a file, or for who wants
    // errors only.
    let sleeps = format!("sleep 4; echo {password}");
    let asks = format!("stty -echo </dev/tty; sleep 4; stty echo </dev/tty; echo {password}");
    let says = format!("printf 'touch the key' >&2; {sleeps}");
    let silent = [(&asks, ""), (&says, ""), (&sleeps, "2>said"), (&sleeps, "-q")]
        .map(|(command, more)| ask(&server, command, more));
    for (home, terminal) in silent {
        let screen = terminal.wait_for("over", SHORT);
        assert!(!screen.contains("waiting"), "{screen}");
        assert!(!home.path("said").exists() || home.read("said").is_empty());
    }
}

#[test]
fn g11_what_a_failing_password_command_says_at_a_terminal_is_shown_once() {
    let server = Server::start();
    let said = "vault is locked";
    let (_home, terminal) = ask(&server, &format!("echo {said} >&2; exit 3"), "");
    let screen = terminal.wait_for("over", SHORT);
    assert_eq!(screen.matches(said).count(), 1, "{screen}");
    assert!(screen.contains("PassCmd exited with status 3; "), "{screen}");
}
