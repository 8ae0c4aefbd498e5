//! A real server, the real mbsync, and both clients open on what they bring.
#![allow(clippy::unwrap_used)]

use crate::support::{CLIENTS, bottom};
use rig::{Account, Home, Server, Terminal, message, run};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);

/// Whether the cursor, an arrow, is at the second message.
fn at_second(screen: &str) -> bool {
    screen.lines().any(|line| line.starts_with("->") && line.contains("Message 2"))
}

/// A flag set on the server, and a message gone from it, show in an open folder
/// right after the run; the cursor stays, and what is being typed survives. The
/// clients look by themselves only every ten minutes here.
#[test]
fn an_open_folder_shows_what_a_run_brought() {
    for client in CLIENTS {
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        let mut imap = server.imap("home");
        let uids: Vec<u32> = (1..=3)
            .map(|n| imap.append("INBOX", &message(&format!("Message {n}"), "x"), &["\\Seen"]))
            .collect();
        imap.append("Sent", &message("Elsewhere", "y"), &["\\Seen"]);
        home.mbsync(&["Home"]).ok();
        home.age();
        home.muttrc("Home", "set timeout=600 mail_check=5 arrow_cursor sort=subject");
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait_for("Message 3", SHORT);
        terminal.text("2\n");
        terminal.wait("the cursor", SHORT, at_second);
        let mut sync = |change: &mut dyn FnMut(&mut rig::Imap)| {
            imap.select("INBOX");
            change(&mut imap);
            imap.unselect();
            home.mutt_sync(&["-f", "Home"]).ok();
            Instant::now()
        };
        let ended = sync(&mut |imap| imap.add_flags(uids[0], &["\\Flagged"]));
        let screen = terminal.wait("the flag", SHORT, |screen| {
            screen.lines().any(|line| line.contains("Message 1") && line.contains('!'))
        });
        println!("{client}: the flag shows {:?} after the run", ended.elapsed());
        // By the run: the client itself would look ten minutes later.
        assert!(ended.elapsed() < SHORT, "{client}: {:?}", ended.elapsed());
        assert!(at_second(&screen), "the cursor moved: {screen}");
        // A question half answered.
        terminal.text("c=Home/Se");
        terminal.wait("typed", SHORT, |screen| bottom(screen).ends_with("=Home/Se"));
        sync(&mut |imap| imap.add_flags(uids[2], &["\\Flagged"]));
        std::thread::sleep(Duration::from_millis(500));
        assert!(bottom(&terminal.screen()).ends_with("=Home/Se"), "{}", terminal.screen());
        terminal.keys(&["C-g"]);
        // Expunged on the server: mutt takes it off the screen, neomutt marks it.
        sync(&mut |imap| {
            imap.add_flags(uids[2], &["\\Deleted"]);
            imap.expunge(uids[2]);
        });
        let screen = terminal.wait("the deletion", SHORT, |screen| {
            screen.lines().all(|line| !line.contains("Message 3") || line.contains('D'))
        });
        assert!(at_second(&screen), "the cursor moved: {screen}");
        // neomutt does not leave a folder in the moment that it notices.
        terminal.text("$");
        terminal.wait_without("Message 3", SHORT);
        terminal.text("c=Home/Sent\n");
        terminal.wait_for("Elsewhere", SHORT);
        terminal.text("q");
        terminal.wait_end(SHORT);
    }
}

/// The classic three accounts, and nothing in the muttrc but our line: mail that
/// a run brings to a folder that is not open is counted, and the folder named.
#[test]
fn new_mail_in_every_account_is_counted() {
    let server = Server::start();
    for client in CLIENTS {
        let home = Home::on(&server, &["Home", "Work", "Other"]);
        home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
        home.settings("throttle = \"1s\"\nburst = 1000\n");
        home.mutt_sync(&["-f", "-a"]).ok();
        home.write(
            ".muttrc",
            "set folder=~/Mail mbox_type=Maildir spoolfile=+Home/INBOX\n\
             source \"mutt-sync --muttrc|\"\n\
             set timeout=2 mail_check=1 mail_check_stats mail_check_stats_interval=1\n\
             set sidebar_visible sidebar_width=25 sidebar_format=\"%B:%N;\"\n",
        );
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        let screen = terminal
            .wait("all of them, none new", SHORT, |screen| screen.matches(":0;").count() == 15);
        // In the sidebar, too, they stand by account, as in `.mbsyncrc`.
        let sidebar: Vec<&str> = screen
            .lines()
            .filter_map(|line| line.split_once(":0;"))
            .map(|(name, _)| name)
            .collect();
        for (at, account) in ["Home", "Work", "Other"].iter().enumerate() {
            let own = &sidebar[5 * at..5 * at + 5];
            assert!(own[0].contains(&format!("{account}/INBOX")), "{screen}");
            assert!(own.iter().all(|name| name.contains(&format!("{account}/"))), "{screen}");
        }
        let lists = ["INBOX", "Archive", "INBOX"];
        for (name, mailbox) in ["Work", "Work", "Other"].iter().zip(lists) {
            let mut imap = server.imap(&name.to_lowercase());
            imap.append(mailbox, &message("News", "x"), &[]);
            home.mutt_sync(&["-f", name]).ok();
            terminal.wait_for(&format!("New mail in ={name}/{mailbox}"), SHORT);
            terminal.wait_for(&format!("{name}/{mailbox}:1;"), SHORT);
        }
        // buffy-list: the folders in their order, by account.
        terminal.keys(&["."]);
        terminal.wait_for("=Work/INBOX, =Work/Archive, =Other/INBOX", SHORT);
        // What the hooks did meanwhile has brought no line of its own.
        terminal.text("c=Other/INBOX\n");
        terminal.wait_for("News", SHORT);
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
        home.wait_no_leftovers(SHORT);
        for name in ["Work", "Other"] {
            let mut imap = server.imap(&name.to_lowercase());
            for mailbox in ["INBOX", "Archive"] {
                for message in imap.fetch_all(mailbox) {
                    imap.select(mailbox);
                    imap.add_flags(message.uid, &["\\Deleted"]);
                    imap.expunge(message.uid);
                    imap.unselect();
                }
            }
        }
    }
}

/// With `GPG_TTY` exported and the key locked, folder changes and keys of the
/// background never show a prompt nor lose a key press; the foreground key
/// prompts, and the passphrase typed there serves.
#[test]
fn only_the_foreground_key_prompts() {
    let server = Server::start();
    let mut home = Home::empty();
    let quiet = |command: &mut std::process::Command| {
        run(command, Duration::from_secs(100)).ok();
    };
    home.write(
        ".gnupg/gpg-agent.conf",
        "pinentry-program /usr/bin/pinentry-curses\nallow-loopback-pinentry\nmax-cache-ttl 0\n",
    );
    let only_mine = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(home.path(".gnupg"), only_mine).unwrap();
    let gpg = |home: &Home, args: &[&str]| {
        let mut command = home.command("gpg");
        command.args(["--batch", "--pinentry-mode", "loopback", "--passphrase", "open sesame"]);
        command.args(args).stdin(Stdio::null());
        command
    };
    quiet(&mut gpg(&home, &["--quick-gen-key", "me@home.example", "future-default", "default"]));
    home.write("password", &server.password("home"));
    quiet(&mut gpg(&home, &["-o", "password.gpg", "-er", "me@home.example", "password"]));
    std::fs::remove_file(home.path("password")).unwrap();
    quiet(home.command("gpgconf").args(["--kill", "gpg-agent"]));
    home.set_accounts(vec![
        Account::on(&server, "Home").pass_cmd("gpg --quiet --decrypt ~/password.gpg"),
    ]);
    for mailbox in ["INBOX", "Archive", "Sent", "Trash", "Drafts"] {
        home.maildir("Home", mailbox).create();
    }
    home.maildir("Home", "INBOX").add(&message("Message 1", "x"), "S");
    home.maildir("Home", "INBOX").add(&message("Message 2", "x"), "S");
    home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
    let rc = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d/10-sync.rc");
    home.muttrc("Home", &format!("source {}\nsetenv MUTT_SYNC_ACCOUNT Home", rc.display()));
    home.settings("settle = \"100ms\"\n");
    for client in CLIENTS {
        // As a shell's start file does it: $(tty).
        let script = format!("GPG_TTY=$(tty) exec {client} -n -F .muttrc");
        let terminal = Terminal::start(&home, &["sh", "-c", &script]);
        terminal.wait_for("Message 2", SHORT);
        for _ in 0..2 {
            for folder in ["=Home/Archive", "=Home/INBOX"] {
                terminal.text(&format!("c{folder}\n"));
                terminal.wait_for(folder, SHORT);
            }
            terminal.keys(&["F5"]);
            std::thread::sleep(Duration::from_millis(300));
            let screen = terminal.screen();
            assert!(!screen.to_lowercase().contains("passphrase"), "{screen}");
        }
        terminal.wait_for("Message 2", SHORT);
        // Whether the runs that the background keys asked for have failed, or are
        // failing just now: their failure is no answer to a key that can ask.
        terminal.keys(&["F8"]);
        terminal.wait("a prompt", SHORT, |screen| screen.to_lowercase().contains("passphrase"));
        terminal.text("open sesame");
        terminal.keys(&["Enter"]);
        let screen = terminal.wait("the index", SHORT * 2, |screen| {
            screen.contains("Message 2") || screen.contains("Press any key")
        });
        assert!(!screen.contains("Press any key"), "{screen}");
        assert!(server.logins("home") >= 1);
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
        quiet(home.command("gpgconf").args(["--kill", "gpg-agent"]));
    }
}
