//! `--status`, `--json` and the status line: what they say, and that they look
//! at no more than they must.

use rig::{Home, Server, ServerOptions, message, process};
use std::thread::sleep;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

fn three_accounts_of_twenty() -> (Server, Home) {
    let mut boxes: Vec<String> = (1..20).map(|n| format!("Lists{n}")).collect();
    boxes.insert(0, "INBOX".into());
    let server = Server::with(ServerOptions { boxes, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home", "Work", "Other"]);
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    home.mutt_sync(&["-a"]).ok();
    (server, home)
}

/// Directories below the mail that a command has listed.
fn listed(home: &Home, arguments: &[&str]) -> Vec<String> {
    let mail = home.path("Mail");
    let mail = mail.to_str().expect("UTF-8");
    process::trace(&home.cmd(arguments), "open,openat", SHORT)
        .into_iter()
        .filter(|line| line.contains("O_DIRECTORY") && line.contains(mail))
        .collect()
}

#[test]
fn a_report_lists_no_directory_that_has_not_changed() {
    let (_server, home) = three_accounts_of_twenty();
    // A stamp of this moment may hide a change of this moment: it is not trusted
    // for three seconds.
    sleep(Duration::from_secs(4));
    assert!(!listed(&home, &["--status"]).is_empty(), "the first look has to look");
    for arguments in [&["--status"][..], &["--status", "--json"], &["-a", "--status-line", "x"]] {
        assert_eq!(listed(&home, arguments), Vec::<String>::new(), "{arguments:?}");
    }
    home.maildir("Work", "Lists7").add(&message("mine", "mine"), "S");
    let lines = listed(&home, &["--status"]);
    assert!(lines.iter().all(|line| line.contains("Work/Lists7/")), "{lines:?}");
    assert_ne!(lines, [] as [String; 0]);
}

#[test]
fn what_is_to_be_pushed_is_told_and_then_no_more() {
    let (_server, home) = three_accounts_of_twenty();
    let said = home.mutt_sync(&["--status"]).ok().stdout;
    assert!(said.contains("Home: nothing to push from 20 mailboxes, synced "), "{said}");
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("body one"), "S");
    home.maildir("Home", "Lists3").add(&message("mine", "mine"), "S");
    let said = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(said.contains("Home: 2 of 20 mailboxes to push"), "{said}");
    assert!(said.contains("  Home:INBOX: to push: 1 flags\n"), "{said}");
    assert!(said.contains("  Home:Lists3: to push: 1 new\n"), "{said}");
    assert!(!said.contains("Work"), "{said}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["mailboxes"][0]["name"], "Home:INBOX");
    assert_eq!(json[0]["mailboxes"][0]["push"]["flags"], 1);
    let line = home.mutt_sync(&["--status-line", "---folder---", "Home"]).ok().stdout;
    assert!(line.contains("^2"), "{line}");
    let dry = home.mutt_sync(&["-n", "Home:INBOX"]).ok().stdout;
    assert!(dry.contains("-- Home:INBOX") && dry.contains("to push: 1 flags"), "{dry}");
    assert!(!dry.contains("Lists3"), "{dry}");
    home.age();
    home.mutt_sync(&["-f", "Home"]).ok();
    let said = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(said.contains("Home: nothing to push from 20 mailboxes"), "{said}");
}
