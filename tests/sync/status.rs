//! `--status`, `--json` and the status line: what they say, and that they look
//! at no more than they must.

use rig::{Home, Server, ServerOptions, message, process, wait_until};
use std::thread::sleep;
use std::time::{Duration, Instant};

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
fn what_is_to_be_pushed_is_reported_until_it_is_pushed() {
    let (mut server, home) = three_accounts_of_twenty();
    let said = home.mutt_sync(&["--status"]).ok().stdout;
    assert!(said.contains("Home: in sync (20 mailboxes), checked "), "{said}");
    assert!(said.contains(", 1 unread, no waiter"), "{said}");
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("body one"), "S");
    home.maildir("Home", "Lists3").add(&message("mine", "mine"), "S");
    let said = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(said.contains("Home: 2 of 20 mailboxes to push"), "{said}");
    assert!(said.contains("  Home:INBOX: 1 flag change to push\n"), "{said}");
    assert!(said.contains("  Home:Lists3: 1 new to push\n"), "{said}");
    assert!(!said.contains("Work"), "{said}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["version"], 1);
    let account = &json["accounts"][0];
    // The manual has each key.
    let manual = include_str!("../../man/mutt-sync.1");
    let (_, manual) = manual.split_once(".Sh STATUS FOR PROGRAMS\n").expect("the section");
    let manual = manual.split_once("\n.Sh ").expect("the next one").0;
    let keys: Vec<&String> = [&json, account, &account["last"], &account["mailboxes"][0]]
        .into_iter()
        .flat_map(|object| object.as_object().expect("an object").keys())
        .collect();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        let words =
            manual.lines().filter(|line| line.starts_with(".Va") || line.starts_with(".It Va"));
        assert!(words.flat_map(|line| line.split(' ')).any(|word| word == key), "{key}");
    }
    assert_eq!(account["mailboxes"][0]["name"], "Home:INBOX");
    assert_eq!(account["mailboxes"][0]["push"]["flags"], 1);
    let line = home.mutt_sync(&["--status-line", "---folder---", "Home"]).ok().stdout;
    assert!(line.contains("^2"), "{line}");
    let dry = home.mutt_sync(&["-n", "Home:INBOX"]).ok().stdout;
    assert!(dry.contains("-- Home:INBOX") && dry.contains("INBOX to push: 1 flag change"), "{dry}");
    assert!(!dry.contains("Lists3"), "{dry}");
    home.age();
    home.mutt_sync(&["-f", "Home"]).ok();
    let said = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(said.contains("Home: in sync (20 mailboxes)"), "{said}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    assert!(json.contains("\"in_sync\": true") && json.contains("\"wanted\": []"), "{json}");
    // The network goes, and nobody serves what is asked for.
    server.kill();
    home.mutt_sync(&["-f", "Home"]).expect_code(69);
    let said = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("Home: nothing to push (20 mailboxes), checked "), "{said}");
    assert!(lines[1].starts_with("  offline") && !lines[1].contains("for <"), "{said}");
    assert_eq!(lines[2], "  pending until the next mutt-sync: Home", "{said}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    assert!(json.contains("\"in_sync\": false") && json.contains("\"Home\""), "{json}");
}

/// "checked <0.1 s ago" would say of mail that waits in another mailbox that there is none.
#[test]
fn an_account_is_checked_as_a_whole_or_not_at_all() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let said = || home.mutt_sync(&["--status"]).ok().stdout;
    let last = || {
        let json = home.mutt_sync(&["--status", "--json"]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        ["last_success", "last_checked", "last_whole"]
            .map(|key| json["accounts"][0]["last"][key].as_u64())
    };
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert!(said().contains(", never checked as a whole, no waiter"), "{}", said());
    home.mutt_sync(&["--full", "Home"]).ok();
    assert!(said().contains(", checked "), "{}", said());
    let [_, first, whole] = last();
    assert!(first.is_some() && first == whole, "{:?}", last());
    server.imap("home").append("Archive", &message("one", "body one"), &[]);
    sleep(Duration::from_secs(3));
    // Compared, and run for.
    for inbox in [false, true] {
        if inbox {
            server.imap("home").append("INBOX", &message("two", "body two"), &[]);
        }
        home.mutt_sync(&["-f", "Home:INBOX"]).ok();
        let [success, checked, _] = last();
        assert!(success > first && checked == first, "{:?}", last());
        assert!(!said().contains("checked <"), "{}", said());
    }
    for archive in [true, false] {
        sleep(Duration::from_secs(2));
        let before = last()[1];
        let answer = home.mutt_sync(&["-f", "Home"]).ok().stdout;
        assert_eq!(answer.contains("Archive 1 new"), archive, "{answer}");
        let [success, checked, unabridged] = last();
        assert!(checked > before && checked == success, "{:?}", last());
        assert_eq!(unabridged, whole, "short cuts were taken");
    }
}

/// Without a waiter: mutt draws its line right after the hook that has made the request.
#[test]
fn a_request_and_what_it_pushes_are_shown_after_two_seconds() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    home.settings("burst = 1\nthrottle = \"1h\"\n");
    home.mutt_sync(&["-f", "Home"]).ok();
    let line = || home.mutt_sync(&["--status-line", "line"]).ok().stdout;
    // The line shows mailboxes that were looked at before.
    wait_until(SHORT, "a look at stamps that have settled", || {
        home.mutt_sync(&["--status"]).ok();
        home.state("Home").join("seen.json").exists()
    });
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("body one"), "S");
    assert_eq!(line(), "line (^1)\n", "nobody pushes it");
    let since = Instant::now();
    inbox.set_flags(&inbox.find("body one"), "FS");
    home.mutt_sync(&["-b", "Home"]).ok();
    let mut said = line();
    // The kernel stamps a file with its last tick, which may be 10 ms ago.
    let lasting = Duration::from_millis(1980);
    assert!(since.elapsed() >= lasting || said == "line\n", "{said}");
    wait_until(SHORT, "a request that waits", || {
        said = line();
        let lasts = since.elapsed() >= lasting;
        assert!(lasts || said == "line\n", "{said}");
        said.contains("[~^1]")
    });
}

/// Puts a FIFO, a directory, a socket and a link to a terminal in the place of a
/// file, in turn, and the file back at the end.
fn in_place_of(file: &std::path::Path, mut each: impl FnMut(&str)) {
    let aside = file.with_extension("aside");
    let was_there = std::fs::rename(file, &aside).is_ok();
    for kind in ["fifo", "directory", "socket", "device"] {
        match kind {
            "fifo" => {
                let mut mkfifo = std::process::Command::new("mkfifo");
                assert!(mkfifo.arg(file).status().expect("mkfifo").success());
            }
            "directory" => std::fs::create_dir(file).expect("a directory"),
            "socket" => drop(std::os::unix::net::UnixListener::bind(file).expect("a socket")),
            _ => std::os::unix::fs::symlink("/dev/zero", file).expect("a link"),
        }
        each(kind);
        if kind == "directory" {
            std::fs::remove_dir(file).expect("still empty");
        } else {
            std::fs::remove_file(file).expect("still there");
        }
    }
    if was_there {
        std::fs::rename(aside, file).expect("the file back");
    }
}

/// field-report S5: each of these ended only by SIGKILL, or read without end.
#[test]
fn g9_nothing_in_the_place_of_a_file_hangs_a_report() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    server.imap("home").append("INBOX", &message("one", "body one"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let inbox = home.path("Mail/Home/INBOX");
    in_place_of(&inbox.join(".uidvalidity"), |kind| {
        let said = home.mutt_sync(&["--status"]).ok().stdout;
        assert!(said.contains("Home:INBOX: "), "{kind}: {said}");
        home.mutt_sync(&["-a", "--status-line", "x"]).ok();
    });
    let state = home.state("Home");
    let files = [
        inbox.join(".mbsyncstate"),
        state.join("seen.json"),
        state.join("last.json"),
        state.join("retry.json"),
        state.join("lock"),
        state.join("waiter.lock"),
        state.join("throttle"),
        state.with_file_name("directories.json"),
        state.with_file_name("mbsync.json"),
        home.path(".mutt/account/Home"),
    ];
    std::fs::create_dir_all(home.path(".mutt/account")).expect("a directory");
    for file in files {
        in_place_of(&file, |kind| {
            for arguments in [&["--status"][..], &["--status", "--json"], &["--muttrc", "Home"]] {
                let output = home.mutt_sync(arguments);
                assert_eq!(output.code(), 0, "{kind} for {}: {output}", file.display());
            }
        });
    }
    for file in [home.path(".mbsyncrc"), home.path(".config/mutt-sync/config.toml")] {
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("made");
        in_place_of(&file, |kind| {
            for arguments in [&["--status"][..], &["Home"], &["-b"], &["--wait"]] {
                let output = home.mutt_sync(arguments).expect_code(78);
                // A report's standard output is what mutt shows.
                let said = format!("{}{}", output.stdout, output.stderr);
                assert!(said.contains("not a regular file"), "{kind}: {output}");
            }
        });
    }
}
