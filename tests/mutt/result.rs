//! F5 to F7 say what came, in both clients and without leaving their screen; so does F8
//! after it.
#![allow(clippy::unwrap_used)]

use crate::support::{CLIENTS, bottom, on_terminal};
use rig::{Home, Running, Server, Terminal, message};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);
/// What a key waits at most, and what else takes its time on a busy machine.
const AT_MOST: Duration = Duration::from_secs(2 + 2);

fn synced(server: &Server, more: &str) -> Home {
    let home = Home::on(server, &["Home", "Work"]);
    home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
    home.settings("burst = 1000\nthrottle = \"1s\"\n");
    home.mutt_sync(&["-f", "-a"]).ok();
    home.muttrc(
        "Home",
        &format!("set timeout=600 mail_check=600\nsource \"mutt-sync --muttrc|\"\n{more}"),
    );
    home
}

#[track_caller]
fn press(terminal: &Terminal, key: &str, says: &str) {
    terminal.keys(&[key]);
    let screen = terminal.wait(says, SHORT, |screen| bottom(screen).trim_end() == says);
    // And does not go at once, by the client's own "New mail in this mailbox".
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bottom(&terminal.screen()), says, "{screen}");
    // It goes with the next key, so that the next is not taken for this one.
    terminal.keys(&["Up", "Down"]);
    terminal.wait("another line", SHORT, |screen| bottom(screen) != says);
}

fn keys_say_what_came(client: &str, waiter: bool) {
    let server = Server::start();
    let home = synced(&server, "");
    let _waiter = waiter.then(|| {
        let running = Running::start(home.cmd(&["--wait", "--loop", "-v", "-a"]));
        for name in ["Home", "Work"] {
            running.wait_for(&format!("{name}: connected by"), SHORT);
        }
        running
    });
    let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
    terminal.wait_for("=Home/INBOX", SHORT);
    home.wait_idle();
    press(&terminal, "F5", "Home: in sync");
    if !waiter {
        let mut imap = server.imap("home");
        imap.append("INBOX", &message("News", "x"), &[]);
        imap.append("Archive", &message("Old", "x"), &[]);
        imap.append("Archive", &message("Older", "x"), &[]);
        press(&terminal, "F5", "Home: INBOX 1 new, Archive 2 new");
        server.imap("work").append("INBOX", &message("Work", "x"), &[]);
        press(&terminal, "F6", "Home: in sync; Work: INBOX 1 new");
        imap.append("INBOX", &message("More", "x"), &[]);
        press(&terminal, "F7", "Home: INBOX 1 new");
    }
    // What goes out is news, too.
    home.maildir("Home", "Archive").add(&message("Local", "x"), "S");
    press(&terminal, "F5", "Home: Archive 1 pushed");
    press(&terminal, "F6", "Home: in sync; Work: in sync");
    terminal.keys(&["x"]);
    terminal.wait_end(SHORT);
}

trait Idle {
    fn wait_idle(&self);
}

impl Idle for Home {
    /// Waits until what the hooks have asked for is served.
    fn wait_idle(&self) {
        rig::wait_until(SHORT, "no request", || {
            ["Home", "Work"].iter().all(|name| self.requests(name).is_empty())
        });
    }
}

#[test]
fn a_key_says_what_came() {
    for client in CLIENTS {
        keys_say_what_came(client, false);
    }
}

#[test]
fn a_key_says_what_a_waiter_has_answered() {
    for client in CLIENTS {
        keys_say_what_came(client, true);
    }
}

/// A waiter answers the request at once, and mutt writes the folder after it.
#[test]
fn a_key_says_what_mutt_wrote_after_the_request() {
    for client in CLIENTS {
        let server = Server::start();
        let mut imap = server.imap("home");
        for number in 0..12 {
            imap.append("INBOX", &message(&number.to_string(), "x"), &["\\Seen"]);
        }
        let home = synced(&server, "set delete=yes sleep_time=0\n");
        let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
        waiter.wait_for("Home: connected by", SHORT);
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait_for("=Home/INBOX", SHORT);
        home.wait_idle();
        for _ in 0..3 {
            terminal.keys(&["F"]);
            press(&terminal, "F5", "Home: INBOX 1 flag");
        }
        terminal.keys(&["D"]);
        terminal.wait_for("elete messages matching", SHORT);
        terminal.keys(&["~A", "Enter"]);
        terminal.keys(&["F5"]);
        // Trash is written first, and may have had a run of its own.
        terminal.wait("what is gone", SHORT, |screen| {
            ["Home: INBOX 12 gone, Trash 12 pushed", "Home: INBOX 12 gone"]
                .contains(&bottom(screen).trim_end())
        });
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
}

/// A sync that takes long goes on by itself; the next key says what came of it.
#[test]
fn a_long_sync_holds_up_no_key() {
    for client in CLIENTS {
        let home = Home::fake(&["Home"]);
        home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
        home.settings("burst = 1000\nthrottle = \"0s\"\nsettle = \"10ms\"\n");
        let mbsync = home.fake_mbsync();
        home.muttrc("Home", "source \"mutt-sync --muttrc|\"");
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        mbsync.wait_for_starts(1, SHORT);
        mbsync.wait_idle(SHORT);
        mbsync.hold();
        let pressed = Instant::now();
        terminal.keys(&["F5"]);
        terminal.wait("the account", SHORT, |screen| {
            bottom(screen) == "Home: syncing in the background"
        });
        let took = pressed.elapsed();
        assert!((Duration::from_secs(2)..AT_MOST).contains(&took), "{client}: {took:?}");
        mbsync.release();
        mbsync.wait_idle(SHORT);
        press(&terminal, "F5", "Home: in sync");
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
}

/// The key that shows a sync leaves what came in the message line. neomutt 20250510 empties
/// that line after an external command.
#[test]
fn the_foreground_key_says_what_came() {
    let server = Server::start();
    let home = synced(&server, "");
    let terminal = Terminal::start(&home, &["mutt", "-n", "-F", ".muttrc"]);
    terminal.wait_for("=Home/INBOX", SHORT);
    home.wait_idle();
    server.imap("home").append("INBOX", &message("News", "x"), &[]);
    press(&terminal, "F8", "Home: INBOX 1 new");
    terminal.keys(&["x"]);
    terminal.wait_end(SHORT);
}

/// mutt pauses after it has written the folder (`sleep_time`), and a waiter syncs it then.
/// neomutt: as above.
#[test]
fn the_foreground_key_says_what_a_waiter_has_synced_before_it() {
    let server = Server::start();
    server.imap("home").append("INBOX", &message("Mail", "x"), &["\\Seen"]);
    let home = synced(&server, "set sleep_time=1\n");
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    waiter.wait_for("Home: connected by", SHORT);
    let terminal = Terminal::start(&home, &["mutt", "-n", "-F", ".muttrc"]);
    terminal.wait_for("=Home/INBOX", SHORT);
    home.wait_idle();
    terminal.keys(&["F"]);
    press(&terminal, "F8", "Home: INBOX 1 flag");
    // What came before the key is not its result.
    press(&terminal, "F8", "Home: in sync");
    terminal.keys(&["x"]);
    terminal.wait_end(SHORT);
}

/// The sequence by which a client leaves its screen is written when it ends, and not
/// for F5 to F7; for F8 it is.
#[test]
fn a_key_does_not_leave_the_screen() {
    for client in CLIENTS {
        let home = Home::fake(&["Home"]);
        home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
        home.settings("burst = 1000\nthrottle = \"0s\"\nsettle = \"10ms\"\n");
        let _mbsync = home.fake_mbsync();
        let left = |keys: &str| {
            home.muttrc("Home", &format!("source \"mutt-sync --muttrc|\"\npush '{keys}<exit>'"));
            let rc = home.path(".muttrc");
            let output = on_terminal(client, &home.path(""), &["-F", rc.to_str().unwrap()]);
            String::from_utf8_lossy(&output.stdout).matches("\x1b[?1049l").count()
        };
        let at_the_end = left("");
        assert!(at_the_end > 0, "{client}");
        assert_eq!(left("<f5><f6><f7>"), at_the_end, "{client}");
        assert!(left("<f8>") > at_the_end, "{client}");
    }
}
