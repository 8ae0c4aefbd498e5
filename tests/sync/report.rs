//! `--check --report`: all that a bug report needs, and no name that is the user's.

use rig::{Account, Home, Output, Server, ServerOptions, message, mutt_sync, run};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// What is in every field: account, user, password, password command, mailboxes here and
/// there, paths, settings, senders, subjects, host names.
const CANARIES: [&str; 17] = [
    "zebrafinch",
    "walrus",
    "secret-of-",
    "narwhal",
    "okapi",
    "quokka",
    "tapir",
    "lemur",
    "gibbon",
    "ibex",
    "ocelot",
    "bison",
    "puffin",
    "127.0.0.1",
    "@",
    "ms-",
    "tester",
];

/// The report of a command that ends with this status: it has none of the canaries.
#[track_caller]
fn report(home: &Home, args: &[&str], code: i32) -> String {
    let mut command = home.cmd(&["--check", "--report"]);
    command.args(args);
    let Output { stdout, stderr, .. } = run(&mut command, LONG).expect_code(code);
    assert_eq!(stderr, "", "{stdout}");
    for text in CANARIES.iter().map(|canary| (*canary).to_owned()).chain([machine(home)]) {
        let found = stdout.lines().find(|line| line.to_lowercase().contains(&text));
        assert_eq!(found, None, "{text} in:\n{stdout}");
    }
    stdout
}

/// The last part of the home's path, which is new each time.
fn machine(home: &Home) -> String {
    let path = home.path("");
    path.file_name().unwrap().to_str().unwrap().to_lowercase()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

#[track_caller]
fn has(report: &str, wanted: &[&str]) {
    for each in wanted {
        assert!(lines(report).contains(each), "no line {each}:\n{report}");
    }
}

/// An account with a canary in every field, on this server.
fn account(server: &Server) -> Account {
    Account::on(server, "Zebrafinch")
        .login("walrus", "none")
        .pass_cmd(&format!("echo {} # narwhal", server.password("walrus")))
        .patterns("* !Okapi/* !Bison*")
        .near_line("Trash Puffin")
}

fn with_canaries() -> (Server, Home) {
    let server = Server::with(ServerOptions {
        users: vec!["walrus".to_owned()],
        boxes: vec!["Tapir".to_owned(), "Server".to_owned()],
        ..ServerOptions::default()
    });
    let mut imap = server.imap("walrus");
    for mailbox in ["INBOX", "Tapir"] {
        imap.append(mailbox, &message("Ibex", "gibbon"), &[]);
    }
    let home = Home::with(vec![account(&server)]);
    std::os::unix::fs::symlink(mutt_sync(), home.path("bin/mutt-sync")).unwrap();
    home.settings(
        "throttle = \"7s\"\nhold_except = [\"Okapi\"]\nafter_sync = [\"lemur\", \"new\"]\n\
         trigger = \"~/ocelot/{account}\"\n[account.Zebrafinch]\nevery = \"3m\"\n\
         [account.Quokka]\nburst = 2\n",
    );
    home.write(".muttrc", "source ~/ocelot.rc\n");
    home.write("ocelot.rc", "source \"mutt-sync --muttrc|\"\n");
    home.write(
        ".msmtprc",
        "account zebrafinch\nhost smtp.gibbon.example\nfrom gibbon@bison.example\n",
    );
    home.mutt_sync(&["Zebrafinch"]).ok();
    (server, home)
}

#[test]
fn g11_a_report_has_what_is_needed_and_no_name() {
    let (server, home) = with_canaries();
    // What is not here yet, and a name that is a word of ours.
    server.imap("walrus").create("Quokka");
    let report = report(&home, &[], 0);
    has(
        &report,
        &[
            "IMAPAccount account-1",
            "Host host-1",
            "User user-1",
            "PassCmd ...",
            "Far :store-1:",
            "Path ~/.../",
            "Patterns * !x/* !x*",
            "Trash box-1",
            "SyncState *",
            "Create Both",
            "Group group-1",
            "Channel channel-1:INBOX,box-2",
            "[account.account-1] every 3m",
            "account-1",
            "INBOX: 1 message",
        ],
    );
    let first = report.lines().next().unwrap();
    assert!(first.starts_with("mutt-sync ") && first.contains(", mbsync 1."), "{first}");
    assert!(first.contains(", mutt 2.") && first.contains(", neomutt 20"), "{first}");
    assert!(first.contains(", OpenSSL ") && first.contains(", Linux "), "{first}");
    for part in ["Maildirs on ", "last run: 1 so far, exit status 0, ", "capabilities: IMAP4REV1 "]
    {
        assert!(lines(&report).iter().any(|line| line.starts_with(part)), "{part}:\n{report}");
    }
    for part in ["throttle 7s, burst 4", "hold_except 1 word, after_sync 2 words", "trigger set"] {
        assert!(lines(&report).join(" ").contains(part), "{part}:\n{report}");
    }
    for step in [
        "password         PassCmd works unattended (",
        "login            as user-1 by ",
        "msmtp            account-1: account sender-1 from ... of",
    ] {
        assert!(report.contains(&format!("ok   {step}")), "{step}:\n{report}");
    }
    // A second time the same: nothing was changed by it.
    let again = self::report(&home, &["Zebrafinch"], 0);
    assert_eq!(lines(&again).first(), lines(&report).first());
}

/// Without its server, and with what is held and refused by the run before.
#[test]
fn g11_a_report_offline_says_what_was_not_reached() {
    let (mut server, home) = with_canaries();
    std::fs::remove_dir_all(home.maildir("Zebrafinch", "Tapir").path()).unwrap();
    home.mutt_sync(&["-f", "Zebrafinch"]).expect_code(1);
    server.stop();
    home.mutt_sync(&["-f", "Zebrafinch"]).expect_code(69);
    let report = report(&home, &[], 69);
    has(&report, &["capabilities: not reached", "-    login            not reached"]);
    assert!(report.contains("exit status 69"), "{report}");
    assert!(
        report.contains("Connection refused") || report.contains("connection refused"),
        "{report}"
    );
    let held = lines(&report).into_iter().find(|line| line.contains(", held: NoMaildir (0 of "));
    let held = held.and_then(|line| line.strip_prefix("box-")?.split_once(": 0 messages"));
    let (number, _) = held.unwrap_or_else(|| panic!("{report}"));
    let line = format!("account-1:box-{number}: held: its Maildir is gone: ...");
    assert!(report.contains(&line), "{line}:\n{report}");
    assert!(report.ends_with("account-1 cannot sync.\n"), "{report}");
}

#[test]
fn g11_a_report_on_files_that_are_refused_has_no_name() {
    let (_server, home) = with_canaries();
    let good = home.read(".mbsyncrc");
    for (from, to, said) in [
        ("PassCmd ", "Pass=narwhal\nPassCmd ", "(no keyword here)"),
        ("Host 127.0.0.1", "Host \"quokka", "(cannot be read)"),
        ("Create Both", "Create Ocelot", "Create ..."),
        ("Near :Zebrafinch-near:", "Near :Quokka-near:", "Near :store-3:"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        home.write(".mbsyncrc", &good.replacen(from, to, 1));
        has(&report(&home, &[], 78), &[said, "1 problem: no account can sync."]);
    }
    home.write(".mbsyncrc", &good.replace("Host 127.0.0.1", "Host quokka.bison.invalid"));
    let unknown = report(&home, &[], 69);
    assert!(unknown.contains("FAIL name "), "{unknown}");
    home.write(".mbsyncrc", &good);
    home.settings("Lemur = \"ocelot\"\n");
    has(&report(&home, &[], 78), &["not read"]);
    std::fs::remove_file(home.path(".mbsyncrc")).unwrap();
    home.settings("");
    report(&home, &[], 78);
}

#[test]
fn a_report_is_a_kind_of_check() {
    let home = Home::fake(&["Home"]);
    for args in [&["--report"][..], &["--report", "--status"], &["--report", "--check", "--json"]] {
        home.mutt_sync(args).expect_code(2);
    }
}
