//! The state in the status line: what it shows, when it is asked for, and that
//! moving about starts no process.
#![allow(clippy::unwrap_used)]

use rig::{Home, Mbsync, Terminal, message, wait_until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

/// Home with messages, and the program in a wrapper that counts how often it is
/// asked for a status line.
fn prepared(file: &str, timeout: u32) -> (Home, Mbsync) {
    let home = Home::fake(&["Home", "Work"]);
    let script = format!(
        "case $1 in --status-line) echo >>~/asked ;; esac\nexec '{}' \"$@\"",
        rig::mutt_sync().display()
    );
    home.program("mutt-sync", &script);
    home.settings("burst = 1000\nthrottle = \"1s\"\nsettle = \"100ms\"\n");
    for n in 100..300 {
        home.maildir("Home", "INBOX").add(&message(&format!("Message {n}"), "x"), "S");
    }
    let rc = Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d").join(file);
    home.muttrc(
        "Home",
        &format!(
            "source \"mutt-sync --muttrc|\"\nset timeout={timeout} sort=subject\nsource {}",
            rc.display()
        ),
    );
    let mbsync = home.fake_mbsync();
    (home, mbsync)
}

fn asked(home: &Home) -> usize {
    home.read("asked").lines().count()
}

/// The line above the last.
fn status(screen: &str) -> &str {
    screen.trim_end_matches('\n').lines().nth(28).unwrap_or_default()
}

/// Down to the 101st message and up again: two hundred keys.
fn press_two_hundred_keys(terminal: &Terminal) {
    terminal.keys(&["1", "Enter"]);
    terminal.wait("the first", SHORT, |screen| screen.contains("Message 100"));
    for (key, shown) in [("j", "Message 200"), ("k", "Message 100")] {
        for _ in 0..10 {
            terminal.keys(&[key; 10]);
        }
        terminal.wait(shown, SHORT, |screen| screen.contains(shown));
    }
}

/// Two hundred keys: none in neomutt, one for each page that they turn in mutt.
#[test]
fn keys_start_no_process() {
    for (client, file, most) in
        [("mutt", "30-status.rc", 20), ("neomutt", "30-status-neomutt.rc", 0)]
    {
        let (home, mbsync) = prepared(file, 600);
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait_for("Msgs:200", SHORT);
        mbsync.wait_for_starts(1, SHORT);
        home.wait_until_synced();
        assert!(asked(&home) >= 1, "{client}: when the folder was opened");
        press_two_hundred_keys(&terminal);
        home.write("asked", "");
        press_two_hundred_keys(&terminal);
        assert!(asked(&home) <= most, "{client}: {}", asked(&home));
        home.write("asked", "");
        terminal.text("c=Home/Archive\n");
        terminal.wait_for("=Home/Archive", SHORT);
        wait_until(SHORT, "asked on opening a folder", || asked(&home) > 0);
        assert!(asked(&home) <= 4, "{client}: {}", asked(&home));
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
}

trait Synced {
    fn wait_until_synced(&self);
}

impl Synced for Home {
    /// Waits until nothing but the client runs, so that nothing wakes it.
    fn wait_until_synced(&self) {
        let syncing = || self.leftovers().iter().any(|(_, line)| line.contains("sync"));
        wait_until(SHORT, "quiet", || !syncing());
    }
}

/// mutt draws the line between the request and its answer, and then not again: no mark of
/// what is over when the answer is there.
#[test]
fn a_key_leaves_no_mark_of_what_is_over() {
    let (home, mbsync) = prepared("30-status.rc", 600);
    let terminal = Terminal::start(&home, &["mutt", "-n", "-F", ".muttrc"]);
    terminal.wait_for("Msgs:200", SHORT);
    mbsync.wait_for_starts(1, SHORT);
    home.wait_until_synced();
    for flag in [false, true] {
        if flag {
            terminal.keys(&["F"]);
        }
        terminal.keys(&["F5"]);
        let screen = terminal.wait("the answer", SHORT, |screen| {
            screen.trim_end_matches('\n').lines().nth(29).is_some_and(|it| it.contains("Home:"))
        });
        let line = status(&screen);
        assert!(line.contains("Msgs:200"), "{screen}");
        assert!(!["[~", "[*", "[^", "(^"].iter().any(|mark| line.contains(mark)), "{screen}");
        terminal.keys(&["j"]);
        home.wait_until_synced();
    }
    terminal.keys(&["x"]);
    terminal.wait_end(SHORT);
}

/// In neomutt the state comes and goes without a key.
#[test]
fn the_state_is_shown_while_neomutt_is_idle() {
    let (home, mbsync) = prepared("30-status-neomutt.rc", 1);
    mbsync.hold();
    let terminal = Terminal::start(&home, &["neomutt", "-n", "-F", ".muttrc"]);
    terminal.wait("a run", SHORT, |screen| status(screen).contains("[*"));
    mbsync.release();
    terminal.wait("the end of the run", SHORT, |screen| {
        status(screen).contains("=Home/INBOX") && !status(screen).contains("[*")
    });
    terminal.keys(&["x"]);
    terminal.wait_end(SHORT);
}

/// The client's status files, less what they themselves forbid: 30-status.rc is
/// not for a neomutt later than April 2024.
fn files_for(client: &str) -> &'static [&'static str] {
    if client == "mutt" {
        return &["30-status.rc"];
    }
    // `NeoMutt 20220429`: a date.
    let said = Command::new(client).arg("-v").output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    let date = said.split_whitespace().nth(1).and_then(|date| date.parse::<u32>().ok());
    if date.expect("a date") < 20_240_500 {
        &["30-status.rc", "30-status-neomutt.rc"]
    } else {
        &["30-status-neomutt.rc"]
    }
}

/// With a broken file the line stays, and says so; the state comes back when the
/// file is fixed.
#[test]
fn a_broken_configuration_leaves_the_line() {
    let files = |client| files_for(client).iter().map(move |file| (client, *file));
    for (client, file) in files("mutt").chain(files("neomutt")) {
        let (home, mbsync) = prepared(file, 1);
        let good = home.read(".mbsyncrc");
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait("the line", SHORT, |screen| status(screen).contains("Msgs:200"));
        mbsync.wait_for_starts(1, SHORT);
        home.wait_until_synced();
        home.write(".mbsyncrc", &good.replacen("Patterns", "Paterns", 1));
        // mutt draws the line again for a flag only.
        terminal.keys(&["F"]);
        let screen =
            terminal.wait("the trouble", SHORT, |screen| status(screen).contains("[!config]"));
        assert!(status(&screen).contains("=Home/INBOX [Msgs:200"), "{client}, {file}: {screen}");
        home.write(".mbsyncrc", &good);
        terminal.keys(&["F"]);
        let screen =
            terminal.wait("no trouble", SHORT, |screen| !status(screen).contains("[!config]"));
        assert!(status(&screen).contains("=Home/INBOX [Msgs:200"), "{client}, {file}: {screen}");
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
}
