//! Hooks and keys in both clients on a terminal, as their user sees them. A
//! stand-in for the program logs how it was called, and answers or fails.
#![allow(clippy::unwrap_used)]

mod mutt_support;

use mutt_support::{CLIENTS, account, make_maildir, on_terminal};
use mutt_sync::mutt::muttrc::{AccountMail, Theirs, muttrc};
use rig::{Home, Maildir, Terminal, message, wait_until};
use std::path::Path;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(5);

/// Says what mutt-sync would; logs its arguments and the account in its
/// environment. `~/broken` makes it fail as a wrong configuration does.
const STAND_IN: &str = r#"
[ "$1" = --muttrc ] && exec cat ~/printed
printf '%s|%s\n' "$*" "$MUTT_SYNC_ACCOUNT" >>~/log
if [ -e ~/broken ]; then
	case $* in
	*-b*) echo "mutt-sync: ~/.mbsyncrc:12: unknown keyword" ;;
	*) echo "mutt-sync: ~/.mbsyncrc:12: unknown keyword" >&2 ;;
	esac
	exit 78
fi
case $* in
*-v*) echo "progress of the run" ;;
*) echo "Home: asked for" ;;
esac
"#;

/// Two accounts, Home with three messages, and a muttrc of one line about us.
fn prepared() -> Home {
    let home = Home::fake(&["Home", "Work"]);
    home.program("mutt-sync", STAND_IN);
    for n in 1..=3 {
        let subject = format!("Message {n}");
        home.maildir("Home", "INBOX").add(&message(&subject, &subject), "S");
    }
    let boxes = ["INBOX", "Archive", "Drafts", "Sent", "Trash"];
    let accounts = ["Home", "Work"].map(|name| account(name, &home.mail(name), &boxes));
    let told: Vec<_> = accounts
        .iter()
        .map(|(account, mailboxes)| AccountMail { account, mailboxes, identity_file: None })
        .collect();
    home.write("printed", &muttrc(&told, Theirs::default(), &home.path(""), Path::is_dir));
    home.muttrc(
        "Home",
        "set wait_key=yes delete=ask-yes quit=ask-yes sleep_time=1\nsource \"mutt-sync --muttrc|\"",
    );
    home
}

fn start(home: &Home, client: &str, more: &[&str]) -> Terminal {
    let args = [&[client, "-n", "-F", ".muttrc"][..], more].concat();
    let terminal = Terminal::start(home, &args);
    terminal.wait_for("Message 3", SHORT);
    assert_eq!(home.read("log").lines().next(), Some("-b|Home"), "the hook ran at the start");
    home.write("log", "");
    terminal
}

/// The last line, where messages and questions stand.
fn bottom(screen: &str) -> &str {
    screen.trim_end_matches('\n').lines().nth(29).unwrap_or_default().trim_end()
}

#[track_caller]
fn wait_bottom(terminal: &Terminal, text: &str) -> String {
    terminal.wait(text, SHORT, |screen| bottom(screen).contains(text))
}

#[track_caller]
fn wait_log(home: &Home, want: &str) {
    wait_until(SHORT, &format!("log: {want}"), || home.read("log") == want);
    assert_eq!(home.read("log"), want);
}

fn deleted(inbox: &Maildir) -> usize {
    3 - inbox.list().iter().filter(|entry| !entry.flags.contains('T')).count()
}

#[test]
fn keys_ask_and_write_and_tell() {
    for client in CLIENTS {
        let home = prepared();
        let inbox = home.maildir("Home", "INBOX");
        let terminal = start(&home, client, &[]);
        for (key, call) in [("F5", "-b -f|Home\n"), ("F6", "-b -f -a|Home\n")] {
            home.write("log", "");
            terminal.keys(&[key]);
            wait_log(&home, call);
            wait_bottom(&terminal, "Home: asked for");
            terminal.keys(&["j", "k"]);
        }
        // This folder, and the account's name is in its place again afterwards.
        home.write("log", "");
        terminal.keys(&["F7"]);
        wait_log(&home, "-b -f|Home:INBOX\n");
        wait_bottom(&terminal, "Home: asked for");
        home.write("log", "");
        terminal.keys(&["F5"]);
        wait_log(&home, "-b -f|Home\n");
        // What was deleted is written, without a question.
        terminal.keys(&["d"]);
        terminal.wait("the mark", SHORT, |screen| screen.contains("Del:1"));
        terminal.keys(&["F5"]);
        terminal.wait_without("Del:1", SHORT);
        wait_bottom(&terminal, "Home: asked for");
        assert_eq!(deleted(&inbox), 1, "{client}");
        // In the foreground: shown, then back, with no key asked for.
        home.write("log", "");
        terminal.keys(&["F8"]);
        wait_log(&home, "-v -f|Home\n");
        terminal.wait_for("Message 3", SHORT);
        let screen = terminal.screen();
        assert!(!screen.contains("Press any key"), "{screen}");
        terminal.text(":set ?wait_key\n");
        let screen = terminal.wait("wait_key", SHORT, |screen| bottom(screen).contains("wait_key"));
        assert!(!bottom(&screen).contains("no"), "wait_key is as it was: {}", bottom(&screen));
        // From the pager too.
        terminal.keys(&["Enter"]);
        terminal.wait_for("Subject: Message", SHORT);
        home.write("log", "");
        terminal.keys(&["F5"]);
        wait_log(&home, "-b -f|Home\n");
        let screen = wait_bottom(&terminal, "Home: asked for");
        assert!(screen.contains("Subject: Message"), "still in the pager: {screen}");
        terminal.keys(&["q"]);
        terminal.wait("the index", SHORT, |screen| !screen.contains("Subject: Message"));
        terminal.keys(&["d"]);
        home.write("log", "");
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
        wait_log(&home, "-b -f -a|Home\n");
        assert_eq!(deleted(&inbox), 2, "{client}");
    }
}

#[test]
fn keys_in_a_read_only_folder_are_never_half_run() {
    for client in CLIENTS {
        let home = prepared();
        let terminal = start(&home, client, &["-R"]);
        for (key, call) in
            [("F5", "-b -f|Home\n"), ("F6", "-b -f -a|Home\n"), ("F7", "-b -f|Home:INBOX\n")]
        {
            home.write("log", "");
            terminal.keys(&[key]);
            wait_log(&home, call);
            terminal.wait("an end", SHORT, |screen| {
                bottom(screen).contains("read-only") || bottom(screen).contains("Home: asked for")
            });
            // A left-over key would do something now.
            terminal.keys(&["Up", "Down"]);
            let screen = terminal.wait_for("Message 1", SHORT);
            assert!(!bottom(&screen).contains(':') || bottom(&screen).contains("asked for"));
        }
        home.write("log", "");
        terminal.keys(&["F8"]);
        let screen = terminal.wait("read-only", SHORT, |screen| {
            bottom(screen).contains("read-only") || home.read("log") == "-v -f|Home\n"
        });
        drop(screen);
        terminal.wait_for("Message 3", SHORT);
        terminal.text(":set ?wait_key\n");
        let screen = terminal.wait("wait_key", SHORT, |screen| bottom(screen).contains("wait_key"));
        assert!(!bottom(&screen).contains("no"), "wait_key is as it was: {}", bottom(&screen));
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
    }
}

#[test]
fn keys_with_a_broken_configuration_say_so() {
    for client in CLIENTS {
        let home = prepared();
        let terminal = start(&home, client, &[]);
        home.write("broken", "");
        for key in ["F5", "F6", "F7"] {
            terminal.keys(&[key]);
            let screen = wait_bottom(&terminal, ".mbsyncrc:12: unknown keyword");
            assert!(screen.contains("Message 3"), "{screen}");
            terminal.keys(&["j"]);
            terminal.wait("a cleared line", SHORT, |screen| !bottom(screen).contains("12"));
        }
        // In the foreground it stays to be read until a key is pressed, and that
        // key does nothing else.
        terminal.keys(&["F8"]);
        let screen = terminal.wait_for("Press any key", SHORT);
        assert!(screen.contains(".mbsyncrc:12: unknown keyword"), "{screen}");
        terminal.keys(&["d"]);
        let screen = terminal.wait_for("Message 3", SHORT);
        assert!(!screen.contains("Del:1"), "{screen}");
        terminal.text(":set ?wait_key\n");
        let screen = terminal.wait("wait_key", SHORT, |screen| bottom(screen).contains("wait_key"));
        assert!(!bottom(&screen).contains("no"), "wait_key is as it was: {}", bottom(&screen));
        // Folder changes keep quiet about it, and the screen whole.
        terminal.text("c=Work/INBOX\n");
        let screen = terminal.wait_for("=Work/INBOX", SHORT);
        assert!(!screen.contains("keyword"), "{screen}");
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
    }
}

#[test]
fn a_question_is_left_to_the_user() {
    for client in CLIENTS {
        let home = prepared();
        home.muttrc("Home", "source \"mutt-sync --muttrc|\"\nset delete=ask-yes");
        let inbox = home.maildir("Home", "INBOX");
        let terminal = start(&home, client, &[]);
        terminal.keys(&["d"]);
        terminal.keys(&["F5"]);
        wait_bottom(&terminal, "Purge");
        std::thread::sleep(Duration::from_millis(300));
        wait_bottom(&terminal, "Purge");
        assert_eq!(deleted(&inbox), 0, "{client}");
        terminal.keys(&["n"]);
        terminal.wait_without("Purge", SHORT);
        assert_eq!(deleted(&inbox), 0, "{client}");
        terminal.keys(&["F5"]);
        wait_bottom(&terminal, "Purge");
        terminal.keys(&["y"]);
        terminal.wait_without("Purge", SHORT);
        wait_until(SHORT, "one deleted", || deleted(&inbox) == 1);
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
    }
}

/// All that is written to the terminal over a hundred folder changes is, byte
/// for byte, the same with the hook and without: no flicker, nothing painted.
#[test]
fn hooks_leave_no_trace_on_the_screen() {
    for client in CLIENTS {
        let home = prepared();
        let folders = ["Work/INBOX", "Home/Archive", "Work/Sent", "Home/INBOX"];
        let walk: String = folders
            .iter()
            .cycle()
            .take(100)
            .map(|folder| format!("<change-folder>={folder}<enter>"))
            .collect::<Vec<_>>()
            .concat();
        let push = format!("push '{walk}<exit>'");
        let mut seen = Vec::new();
        for with in [true, false] {
            let printed = home.read("printed");
            if !with {
                let without: String = printed
                    .lines()
                    .filter(|line| !line.contains("mutt-sync -b 2>"))
                    .flat_map(|line| [line, "\n"])
                    .collect();
                assert_ne!(without, printed);
                home.write("printed", &without);
            }
            home.write("log", "");
            home.muttrc("Home", &format!("source \"mutt-sync --muttrc|\"\n{push}"));
            let rc = home.path(".muttrc");
            let output = on_terminal(client, &home.path(""), &["-F", rc.to_str().unwrap()]);
            let calls = home.read("log").lines().filter(|line| line.starts_with("-b|")).count();
            // Left and entered, each time and at the start.
            assert_eq!(calls, if with { 202 } else { 0 }, "{client}");
            seen.push(output.stdout);
        }
        assert!(seen[0].len() > 10_000, "{}", seen[0].len());
        assert!(seen[0] == seen[1], "{client}: {} and {} bytes", seen[0].len(), seen[1].len());
    }
}

/// The account left is synced before the account entered.
#[test]
fn the_hooks_name_the_account_left_and_the_one_entered() {
    for client in CLIENTS {
        let home = prepared();
        let terminal = start(&home, client, &[]);
        terminal.text("c=Work/INBOX\n");
        wait_log(&home, "-b|Home\n-b|Work\n");
        // A folder that is nobody's leaves the account as it was.
        make_maildir(&home.path("Mail/local"));
        home.write("log", "");
        terminal.text("c=local\n");
        wait_log(&home, "-b|Work\n-b|Work\n");
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
    }
}

/// The program itself in the stand-in's place, but for `--muttrc`, with a
/// mbsync that only logs.
fn with_the_program_itself() -> (Home, rig::Mbsync) {
    let home = prepared();
    let mbsync = home.fake_mbsync();
    home.program(
        "mutt-sync",
        &format!(
            "[ \"$1\" = --muttrc ] && exec cat ~/printed\nexec '{}' \"$@\"",
            rig::mutt_sync().display()
        ),
    );
    (home, mbsync)
}

#[test]
fn the_program_itself_serves_hooks_and_keys() {
    for client in CLIENTS {
        let (home, mbsync) = with_the_program_itself();
        home.settings("burst = 100\nthrottle = \"1s\"\nsettle = \"100ms\"\n");
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait_for("Message 3", SHORT);
        mbsync.wait_for_starts(1, SHORT);
        mbsync.wait_idle(SHORT);
        mbsync.clear_log();
        terminal.keys(&["F5"]);
        let screen = wait_bottom(&terminal, "Home");
        assert!(screen.contains("Message 3"), "{screen}");
        let runs = mbsync.wait_for_starts(1, SHORT);
        assert_eq!(runs[0].names()[0].split(':').next(), Some("Home"), "{runs:?}");
        mbsync.wait_idle(SHORT);
        mbsync.clear_log();
        terminal.text("c=Work/INBOX\n");
        terminal.wait_for("=Work/INBOX", SHORT);
        mbsync.wait_for_starts(2, SHORT);
        assert_eq!(mbsync.runs_of("Home").len(), 1);
        assert_eq!(mbsync.runs_of("Work").len(), 1);
        mbsync.wait_idle(SHORT);
        mbsync.clear_log();
        // A configuration that turns wrong: told by the key, not by the hooks.
        let good = home.read(".mbsyncrc");
        home.write(".mbsyncrc", "Chanel Home\n");
        terminal.keys(&["F5"]);
        wait_bottom(&terminal, ".mbsyncrc:1");
        terminal.text("c=Home/INBOX\n");
        let screen = terminal.wait_for("=Home/INBOX", SHORT);
        assert!(screen.contains("Message 3") && !screen.contains("mbsyncrc"), "{screen}");
        home.write(".mbsyncrc", &good);
        terminal.keys(&["q"]);
        terminal.wait_end(SHORT);
        mbsync.wait_for_starts(2, SHORT);
        mbsync.assert_alone();
    }
}
