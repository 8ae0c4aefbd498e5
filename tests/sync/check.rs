//! `--check`: broken set-ups, each with one fault. The check names that fault
//! and no other, and what it says will fix it does, when done as it says.

use rig::{
    Ca, Home, Output, Server, ServerOptions, Terminal, Tls, is_root, mbsync_version, message,
    mutt_sync, real_mbsync, run,
};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;

/// A step as a program reads it.
#[derive(Debug, Clone)]
struct Step {
    part: String,
    what: String,
    state: String,
    found: String,
    fix: String,
}

/// What a check said.
#[derive(Debug)]
struct Checked {
    code: i32,
    steps: Vec<Step>,
}

impl Checked {
    fn read(output: &Output) -> Self {
        // Whatever happens: no password is shown.
        for text in [&output.stdout, &output.stderr] {
            assert!(!text.contains("secret-of-"), "a password is shown:\n{text}");
        }
        let parts: serde_json::Value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let mut steps = Vec::new();
        for part in parts.as_array().expect("an array") {
            for step in part["steps"].as_array().expect("steps") {
                steps.push(Step {
                    part: text(&part["title"]),
                    what: text(&step["what"]),
                    state: text(&step["state"]),
                    found: text(&step["found"]),
                    fix: text(&step["fix"]),
                });
            }
        }
        Checked { code: output.code(), steps }
    }

    fn wrong(&self) -> Vec<&Step> {
        self.steps.iter().filter(|step| step.state == "bad" || step.state == "warning").collect()
    }

    #[track_caller]
    fn assert_healthy(&self) {
        assert!(self.wrong().is_empty(), "{self:#?}");
        assert!(self.steps.iter().all(|step| step.state != "not-reached"), "{self:#?}");
        assert_eq!(self.code, 0);
    }

    /// Exactly one line is wrong, and it is this one.
    #[track_caller]
    fn one_fault(&self, code: i32, what: &str, found: &str) -> Step {
        let wrong = self.wrong();
        assert_eq!(wrong.len(), 1, "{self:#?}");
        let step = wrong[0].clone();
        assert_eq!((&*step.what, self.code), (what, code), "{self:#?}");
        assert!(step.found.contains(found), "{step:#?}");
        assert!(!step.fix.is_empty(), "{step:#?}");
        assert_eq!(step.state == "bad", code != 0, "{step:#?}");
        step
    }

    #[track_caller]
    fn wrong_at(&self, what: &str) -> &Step {
        let wrong = self.wrong().into_iter().find(|step| step.what == what);
        wrong.unwrap_or_else(|| panic!("{self:#?}"))
    }

    #[track_caller]
    fn find(&self, what: &str) -> &Step {
        self.steps.iter().find(|step| step.what == what).unwrap_or_else(|| panic!("{self:#?}"))
    }
}

/// As the user who owns the home: who runs the tests, or nobody for root, for
/// whom everything is writable.
fn as_owner(home: &Home, mut command: Command) -> Command {
    if fs::metadata(home.path(""))
        .is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == NOBODY)
    {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn give_away(home: &Home) {
    if is_root() {
        fs::copy(mutt_sync(), home.path("bin/own-mutt-sync")).expect("copy");
        let network = mutt_sync().with_file_name("mutt-sync-net");
        fs::copy(network, home.path("bin/mutt-sync-net")).expect("copy");
        let output =
            Command::new("chown").args(["-R", "nobody:nogroup"]).arg(home.path("")).output();
        assert!(output.expect("chown").status.success());
        chown(home.path(""), Some(NOBODY), Some(NOBODY)).expect("chown");
    }
}

fn make_unreadable(home: &Home, file: &str) {
    give_away(home);
    mode(&home.path(file), 0o200);
}

/// The one that the home's owner can reach.
fn program(home: &Home) -> PathBuf {
    let own = home.path("bin/own-mutt-sync");
    if own.exists() { own } else { mutt_sync().to_owned() }
}

fn check_with(home: &Home, args: &[&str]) -> Checked {
    let mut command = home.command(program(home));
    command.args([&["--check", "--json"], args].concat());
    Checked::read(&run(&mut as_owner(home, command), LONG))
}

fn check(home: &Home) -> Checked {
    check_with(home, &[])
}

/// Does in the shell what a fix says.
#[track_caller]
fn type_in(home: &Home, command: &str) {
    let mut shell = home.command("/bin/sh");
    shell.arg("-c").arg(command);
    run(&mut as_owner(home, shell), LONG).ok();
}

/// Writes the line that stands in backquotes into the section whose file and
/// line stand in parentheses.
#[track_caller]
fn set_line(home: &Home, fix: &str, fill_in: &[(&str, &str)]) {
    let line = fix.split('`').nth(1).unwrap_or_else(|| panic!("no line: {fix}"));
    let line = fill_in.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    let place = fix.rsplit_once("(~/").and_then(|(_, rest)| rest.split(')').next());
    let (file, number) =
        place.and_then(|place| place.split_once(':')).unwrap_or_else(|| panic!("no place: {fix}"));
    let number: usize = number.parse().expect("a line's number");
    let text = home.read(file);
    let keyword = line.split(' ').next().unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    let end = lines.iter().skip(number).position(|l| l.trim().is_empty()).expect("an end") + number;
    let is = |l: &&str| l.split(' ').next() == Some(keyword);
    match lines[number..end].iter().position(is) {
        Some(at) => lines[number + at] = &line,
        None => lines.insert(number, &line),
    }
    let text = lines.join("\n") + "\n";
    home.write(file, &text);
}

fn edit(home: &Home, file: &str, from: &str, to: &str) {
    let text = home.read(file);
    assert!(text.contains(from), "no {from:?} in {text}");
    home.write(file, &text.replace(from, to));
}

/// One server for all set-ups whose fault is not its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        Server::with(ServerOptions {
            tls: Tls::Imaps,
            users: ["home", "work", "nest", "wait", "flat"].map(String::from).to_vec(),
            ..ServerOptions::default()
        })
    })
}

/// A set-up with nothing wrong: synced once, mutt and msmtp know of it.
fn healthy() -> Home {
    let home = Home::on(server(), &["Home"]);
    first_sync(&home);
    complete(&home);
    home
}

/// Tests share the server's user. mbsync fails where another has just made the
/// mailbox that it was about to make.
fn first_sync(home: &Home) {
    if home.mbsync(&["-a"]).code() != 0 {
        home.mbsync(&["-a"]).ok();
    }
}

fn complete(home: &Home) {
    home.write(".muttrc", "set folder=~/Mail\nsource \"mutt-sync --muttrc|\"\n");
    home.write(".msmtprc", "account Home\nhost smtp.home.example\nfrom me@home.example\n");
    symlink(mutt_sync(), home.path("bin/mutt-sync")).expect("link");
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// mbsync, saying that it is of this version.
fn as_version(home: &Home, version: &str) {
    let real = rig::real_mbsync().display().to_string();
    let script = format!("[ \"$1\" = --version ] && exec echo isync {version}\nexec {real} \"$@\"");
    home.program("mbsync", &script);
}

#[test]
fn directories_above_the_records_are_made_by_isync_1_5_alone() {
    for (version, fault) in [("1.4.4", true), ("1.5.1", false)] {
        let home = healthy();
        as_version(&home, version);
        edit(&home, ".mbsyncrc", "SyncState *", "SyncState ~/records/of/mbsync/");
        let checked = check(&home);
        let step = checked.find("records");
        assert_eq!(step.state == "bad", fault, "{version}: {checked:#?}");
        let lacking = "~/records/of/mbsync, where mbsync keeps its records, cannot be made";
        assert_eq!(step.found == lacking, fault, "{step:#?}");
        assert_eq!(step.fix == "mkdir -p ~/records/of/mbsync", fault, "{step:#?}");
    }
    // Where a file is in the way, none does.
    for version in ["1.4.4", "1.5.1"] {
        let home = healthy();
        as_version(&home, version);
        home.write("records", "a file\n");
        edit(&home, ".mbsyncrc", "SyncState *", "SyncState ~/records/of/mbsync/");
        assert_eq!(check(&home).find("records").state, "bad", "{version}");
    }
}

#[test]
fn a_healthy_set_up_passes() {
    let home = healthy();
    let checked = check(&home);
    checked.assert_healthy();
    for what in [
        "settings",
        "mbsync",
        "configuration",
        "mailboxes",
        "Maildirs",
        "records",
        "state",
        "lock",
        "throttle",
        "waiter",
        "requests",
        "password",
        "name",
        "connection",
        "TLS",
        "login",
        "capabilities",
        "server",
        "flags",
        "watching",
        "inotify",
        "muttrc",
        "msmtp",
    ] {
        checked.find(what);
    }
    assert!(checked.find("mbsync").found.contains("1."));
    assert!(checked.find("TLS").found.contains("certificate for localhost, good until "));
    assert!(checked.find("login").found.contains("as home by PLAIN"));
    assert!(checked.find("watching").found.contains("NOTIFY: all mailboxes on 1 connection"));
    assert!(checked.find("server").found.contains("5 mailboxes on both sides"));
    assert_eq!(checked.find("flags").found, "only those that have changed are fetched");
    // Nothing was changed: not even our own directory was made.
    assert!(!home.path(".local/state/mutt-sync").exists());
    check_with(&home, &["Home:INBOX"]).assert_healthy();
    let output = home.mutt_sync(&["--check", "Hme"]).expect_code(2);
    assert!(output.stderr.contains("Home"), "{output:?}");
    for key in ["changedsince", "handover"] {
        home.settings(&format!("{key} = false\n"));
        let found = format!("all are fetched at each run: {key} is off");
        assert_eq!(check(&home).find("flags").found, found);
    }
}

#[test]
fn text_is_plain_without_a_terminal_and_fits() {
    let home = healthy();
    home.write(".muttrc", "set folder=~/Mail\n");
    let output = home.mutt_sync(&["--check"]).expect_code(0);
    assert!(output.stdout.is_ascii() && !output.stdout.contains('\x1b'), "{}", output.stdout);
    assert!(output.stdout.lines().all(|line| line.len() <= 79), "{}", output.stdout);
    assert!(output.stdout.ends_with("No problem, 1 warning: all that a sync needs is in place.\n"));
    assert!(output.stderr.is_empty() && !output.stdout.contains("secret-of-"));
    println!("{}", output.stdout);
    let quiet = home.mutt_sync(&["--check", "-q"]).expect_code(0).stdout;
    assert!(quiet.starts_with("mutt\n  warn muttrc ") && quiet.lines().count() <= 5, "{quiet}");
}

#[test]
fn colour_only_on_a_terminal_that_wants_it() {
    let mut home = healthy();
    let program = mutt_sync().display().to_string();
    let shown = |home: &Home| {
        let terminal = Terminal::sized(home, 100, 60, &[&program, "--check"]);
        terminal.wait_for("Everything is in place.", LONG);
        terminal.coloured()
    };
    let coloured = shown(&home);
    assert!(coloured.contains("\x1b[32m✓") && coloured.contains("\x1b[1mHome"), "{coloured}");
    home.set_env("NO_COLOR", "1");
    let plain = shown(&home);
    println!("{coloured}{plain}");
    assert!(plain.contains('✓') && !plain.contains("\x1b["), "{plain}");
}

/// Breaks a healthy set-up, finds the one fault, fixes it as told, and finds none.
struct Case {
    code: i32,
    what: &'static str,
    found: &'static str,
    breaks: fn(&Home),
    fixes: fn(&Home, &str),
}

#[track_caller]
fn try_case(case: &Case) {
    let home = healthy();
    (case.breaks)(&home);
    let step = check(&home).one_fault(case.code, case.what, case.found);
    println!("{}: {}\n    fix: {}", step.what, step.found, step.fix);
    (case.fixes)(&home, &step.fix);
    check(&home).assert_healthy();
    agrees_with_mbsync(case);
}

/// What is called a fault makes mbsync fail, and what is called less does not.
#[track_caller]
fn agrees_with_mbsync(case: &Case) {
    // 78: mbsync is not asked. A password to be typed, a mechanism of SASL's:
    // whether mbsync can depends on more than the set-up.
    if case.code == 78 || (case.code == 0 && matches!(case.what, "password" | "login")) {
        return;
    }
    let home = healthy();
    (case.breaks)(&home);
    let output = mbsync(&home);
    // isync 1.4.4 exits with 0 when it cannot rename a message into new.
    let fine = output.status.success() && !output.stderr.to_lowercase().contains("error");
    assert_eq!(fine, case.code == 0, "{}: {}: {output:?}", case.what, case.found);
}

/// mbsync itself, over all that there is.
fn mbsync(home: &Home) -> Output {
    home.age();
    let mut mbsync = home.command(real_mbsync());
    mbsync.arg("-a");
    run(&mut as_owner(home, mbsync), LONG)
}

/// 1.5 reads another file, too, and makes all directories above its records.
#[test]
fn what_1_5_does_by_itself_is_a_fault_with_1_4_only() {
    for case in [
        Case {
            code: 78,
            what: "configuration",
            found: ".config/isyncrc is here, but this mbsync reads ~/.mbsyncrc only",
            breaks: |home| {
                fs::rename(home.path(".mbsyncrc"), home.path(".config/isyncrc")).expect("rename");
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 1,
            what: "records",
            found: "~/records/of/mbsync, where mbsync keeps its records, cannot be made",
            breaks: |home| edit(home, ".mbsyncrc", "SyncState *", "SyncState ~/records/of/mbsync/"),
            fixes: |home, fix| type_in(home, fix),
        },
    ] {
        if mbsync_version() < (1, 5) {
            try_case(&case);
        } else {
            let home = healthy();
            (case.breaks)(&home);
            check(&home).assert_healthy();
            mbsync(&home).ok();
        }
    }
}

#[test]
fn faults_of_settings_and_of_mbsync() {
    for case in [
        Case {
            code: 78,
            what: "settings",
            found: "config.toml:2: unknown setting `throtle`",
            breaks: |home| drop(home.settings("\nthrotle = \"2s\"\n")),
            fixes: |home, fix| {
                assert_eq!(fix, "did you mean `throttle`?");
                edit(home, ".config/mutt-sync/config.toml", "throtle", "throttle");
            },
        },
        Case {
            code: 0,
            what: "settings",
            found: "[account.Hme]: there is no such account",
            breaks: |home| drop(home.settings("[account.Hme]\nburst = 2\n")),
            fixes: |home, fix| {
                assert_eq!(fix, "write [account.Home]");
                edit(home, ".config/mutt-sync/config.toml", "[account.Hme]", "[account.Home]");
            },
        },
        Case {
            code: 78,
            what: "mbsync",
            found: "there is no /nowhere/mbsync",
            breaks: |home| drop(home.settings("mbsync = \"/nowhere/mbsync\"\n")),
            fixes: |home, fix| {
                assert!(fix.starts_with("set `mbsync` in config.toml to where it is"), "{fix}");
                let real = rig::real_mbsync().display().to_string();
                edit(home, ".config/mutt-sync/config.toml", "/nowhere/mbsync", &real);
            },
        },
        Case {
            code: 0,
            what: "mbsync",
            found: "bin/mbsync, version 1.3.0: older than isync 1.4",
            breaks: |home| drop(home.program("mbsync", "echo isync 1.3.0")),
            fixes: |home, fix| {
                assert_eq!(fix, "install isync 1.4 or 1.5");
                home.settings(&format!("mbsync = \"{}\"\n", rig::real_mbsync().display()));
            },
        },
        // What only a newer mbsync takes is no second fault: `--init` writes it.
        Case {
            code: 78,
            what: "mbsync",
            found: "no-mbsync-here is not in the PATH",
            breaks: |home| {
                home.settings("mbsync = \"no-mbsync-here\"\n");
                edit(home, ".mbsyncrc", "SSLType", "TLSType");
            },
            fixes: |home, fix| {
                assert!(fix.starts_with("install isync"), "{fix}");
                let real = rig::real_mbsync().display().to_string();
                edit(home, ".config/mutt-sync/config.toml", "no-mbsync-here", &real);
                edit(home, ".mbsyncrc", "TLSType", "SSLType");
            },
        },
        Case {
            code: 78,
            what: "settings",
            found: "config.toml cannot be read: Permission denied",
            breaks: |home| {
                home.settings("burst = 2\n");
                make_unreadable(home, ".config/mutt-sync/config.toml");
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "configuration",
            found: ".mbsyncrc cannot be read: Permission denied",
            breaks: |home| make_unreadable(home, ".mbsyncrc"),
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "mbsync",
            found: "bin/our-mbsync cannot be executed",
            breaks: |home| {
                home.settings("mbsync = \"~/bin/our-mbsync\"\n");
                fs::copy(rig::real_mbsync(), home.path("bin/our-mbsync")).expect("copy");
                mode(&home.path("bin/our-mbsync"), 0o644);
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "mbsync",
            found: "bin/mbsync --version says no version",
            breaks: |home| drop(home.program("mbsync", "echo I am none")),
            fixes: |home, fix| {
                assert!(fix.contains("name the right one as `mbsync` in config.toml"), "{fix}");
                home.settings(&format!("mbsync = \"{}\"\n", rig::real_mbsync().display()));
            },
        },
    ] {
        try_case(&case);
    }
}

#[test]
fn faults_of_the_configuration() {
    for case in [
        Case {
            code: 78,
            what: "configuration",
            found: "there is no ~/.mbsyncrc",
            breaks: |home| fs::rename(home.path(".mbsyncrc"), home.path("rc")).expect("rename"),
            fixes: |home, fix| {
                assert!(fix.contains("as `mbsyncrc` in config.toml"), "{fix}");
                home.settings("mbsyncrc = \"~/rc\"\n");
            },
        },
        Case {
            code: 78,
            what: "configuration",
            found: "~/.mbsyncrc:",
            breaks: |home| edit(home, ".mbsyncrc", "Expunge Both", "Expugne Both"),
            fixes: |home, fix| {
                assert!(fix.contains("Expunge"), "{fix}");
                edit(home, ".mbsyncrc", "Expugne", "Expunge");
            },
        },
        Case {
            code: 0,
            what: "configuration",
            found: "Group Home-frequent names Hme",
            breaks: |home| {
                edit(home, ".mbsyncrc", "Channel Home:INBOX", "Channel Hme\nChannel Home:INBOX");
            },
            fixes: |home, fix| {
                assert_eq!(fix, "remove it");
                edit(home, ".mbsyncrc", "Channel Hme\n", "");
            },
        },
        Case {
            code: 0,
            what: "configuration",
            found: "has a password in it and others may read it",
            breaks: |home| mode(&home.path(".mbsyncrc"), 0o644),
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            // 1.5 then finds a mailbox without a name, and stops.
            code: i32::from(mbsync_version() >= (1, 5)),
            what: "configuration",
            found: "Path ~/Mail/Home does not end in a slash: Sent is ~/Mail/HomeSent",
            breaks: |home| edit(home, ".mbsyncrc", "Path ~/Mail/Home/\n", "Path ~/Mail/Home\n"),
            fixes: |home, fix| {
                let line = fix.strip_prefix("write ").expect("a line");
                edit(home, ".mbsyncrc", "Path ~/Mail/Home\n", &format!("{line}\n"));
            },
        },
    ] {
        try_case(&case);
    }
}

#[test]
fn faults_on_this_disk() {
    for case in [
        Case {
            code: 1,
            what: "Maildirs",
            found: "~/Mail/Home, the Path of MaildirStore Home-near, is not there",
            breaks: |home| fs::rename(home.mail("Home"), home.path("Mail/old")).expect("rename"),
            fixes: |home, fix| {
                type_in(home, fix);
                home.mbsync(&["-a"]).ok();
            },
        },
        Case {
            code: 1,
            what: "Maildirs",
            found: "~/Mail/Home/Sent/tmp is not a directory",
            breaks: |home| {
                fs::remove_dir(home.mail("Home").join("Sent/tmp")).expect("rmdir");
                home.write("Mail/Home/Sent/tmp", "");
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 1,
            what: "Maildirs",
            found: "~/Mail/Home/Sent/new is not writable for you",
            breaks: |home| {
                // Something that mbsync would write there.
                server().imap("home").append("Sent", &message("one", "more"), &[]);
                give_away(home);
                mode(&home.mail("Home").join("Sent/new"), 0o500);
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 1,
            what: "records",
            found: "record is not readable: ~/Mail/Home/Sent/.mbsyncstate",
            breaks: |home| drop(home.write("Mail/Home/Sent/.mbsyncstate", "no record\n")),
            fixes: |home, fix| {
                let (_, command) =
                    fix.split_once("download the mailbox again: ").expect("a command");
                assert!(command.ends_with(" && mutt-sync Home:Sent"), "{fix}");
                type_in(home, command);
                assert!(home.mail("Home").join("Sent/.mbsyncstate").exists(), "{fix}");
            },
        },
        Case {
            code: 1,
            what: "records",
            found: "record is not readable: ~/Mail/Home/Sent/.mbsyncstate",
            breaks: |home| {
                // A run has seen where its Maildir is.
                home.mutt_sync(&["--full", "Home"]).ok();
                home.write("Mail/Home/Sent/.mbsyncstate", "no record\n");
            },
            fixes: |home, fix| {
                let (_, command) =
                    fix.split_once("download the mailbox again: ").expect("a command");
                assert!(command.ends_with(" && mutt-sync --resync Home:Sent"), "{fix}");
                type_in(home, command);
                assert!(home.mail("Home").join("Sent/.mbsyncstate").exists(), "{fix}");
            },
        },
        Case {
            code: 1,
            what: "records",
            found: "~/records/of-mbsync, where mbsync keeps its records, cannot be made",
            breaks: |home| {
                edit(home, ".mbsyncrc", "SyncState *", "SyncState ~/records/of-mbsync/");
                fs::create_dir(home.path("records")).expect("mkdir");
                give_away(home);
                mode(&home.path("records"), 0o500);
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "state",
            found: "~/.local/state/mutt-sync is in the way of our state directory",
            breaks: |home| drop(home.write(".local/state/mutt-sync", "")),
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "state",
            found: "is not writable for you",
            breaks: |home| {
                fs::create_dir_all(home.state("Home").join("want")).expect("mkdir");
                give_away(home);
                mode(&home.state("Home").join("want"), 0o500);
            },
            fixes: |home, fix| {
                type_in(home, fix.split(" (or").next().unwrap_or_default());
            },
        },
        Case {
            code: 78,
            what: "lock",
            found: "~/.local/state/mutt-sync/Home/lock is not a regular file",
            breaks: |home| {
                fs::create_dir_all(home.state("Home")).expect("mkdir");
                type_in(home, "mkfifo ~/.local/state/mutt-sync/Home/lock");
                let output = home.mutt_sync(&["Home"]).expect_code(78);
                assert!(output.stderr.ends_with("not a regular file; remove it\n"), "{output}");
                fs::remove_dir_all(home.state("Home").join("want")).expect("remove");
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 78,
            what: "lock",
            found: "~/.local/state/mutt-sync/Home/lock is not writable for you",
            breaks: |home| {
                home.write(".local/state/mutt-sync/Home/lock", "");
                give_away(home);
                mode(&home.state("Home").join("lock"), 0o400);
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 0,
            what: "waiter",
            found: "none can wait: ~/.local/state/mutt-sync/Home/waiter.lock is not a regular file",
            breaks: |home| {
                fs::create_dir_all(home.state("Home").join("waiter.lock/x")).expect("mkdir");
            },
            fixes: |home, fix| {
                type_in(home, fix);
                assert!(home.state("Home").join("waiter.lock.old/x").is_dir(), "{fix}");
            },
        },
        Case {
            code: 0,
            what: "state",
            found: "Home/last.json does not parse and is ignored",
            breaks: |home| drop(home.write(".local/state/mutt-sync/Home/last.json", "{")),
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 0,
            what: "backoff",
            found: "failed 3 times in a row",
            breaks: |home| {
                let since = fs::metadata("/proc/self").and_then(|it| it.modified()).expect("now");
                let since = since.duration_since(std::time::UNIX_EPOCH).expect("time").as_secs();
                let text = format!(
                    "{{\"failures\":3,\"code\":69,\"since\":{since},\"until\":{},\"text\":\"was away\"}}",
                    since + 600
                );
                home.write(".local/state/mutt-sync/Home/retry.json", &text);
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 0,
            what: "requests",
            found: "pending, and no process serves them: the whole account",
            breaks: |home| {
                home.write(".local/state/mutt-sync/Home/want/*", "");
            },
            fixes: |home, fix| type_in(home, fix),
        },
    ] {
        try_case(&case);
    }
}

const PASS: &str = "Pass secret-of-home";

#[test]
fn faults_of_the_password() {
    for case in [
        Case {
            code: 77,
            what: "password",
            found: "PassCmd exited with status 1",
            breaks: |home| {
                home.write("password", "secret-of-home\n");
                edit(home, ".mbsyncrc", PASS, "PassCmd \"cat ~/pass\"");
            },
            fixes: |home, fix| {
                assert!(fix.starts_with("run the PassCmd of IMAPAccount Home (~/.mbsyncrc:3)"));
                assert!(fix.ends_with("until it prints one line and exits with status 0"), "{fix}");
                let status = cat(home, "~/pass");
                assert!(!status.status.success());
                fs::rename(home.path("password"), home.path("pass")).expect("rename");
                assert_eq!(cat(home, "~/pass").stdout, "secret-of-home\n");
            },
        },
        Case {
            code: 77,
            what: "password",
            found: "PassCmd exited with status 3",
            // The command itself has the password in it, and is not shown.
            breaks: |home| edit(home, ".mbsyncrc", PASS, "PassCmd \"echo secret-of-home; exit 3\""),
            fixes: |home, fix| {
                assert!(fix.starts_with("run the PassCmd of IMAPAccount Home"), "{fix}");
                edit(home, ".mbsyncrc", "; exit 3", "");
            },
        },
        Case {
            code: 77,
            what: "password",
            found: "PassCmd printed nothing",
            breaks: |home| edit(home, ".mbsyncrc", PASS, "PassCmd \"sed -n 2p ~/pass; :\""),
            fixes: |home, fix| {
                assert!(fix.ends_with("until it prints one line and exits with status 0"), "{fix}");
                home.write("pass", "first\nsecret-of-home\n");
            },
        },
        Case {
            code: 77,
            what: "password",
            found: "PassCmd exited with status 1: vault is locked",
            breaks: |home| {
                edit(home, ".mbsyncrc", PASS, "PassCmd \"echo vault is locked >&2; exit 1\"");
            },
            fixes: |home, _| {
                home.write("pass", "secret-of-home\n");
                edit(home, ".mbsyncrc", "echo vault is locked >&2; exit 1", "cat ~/pass");
            },
        },
        Case {
            code: 77,
            what: "password",
            found: if mbsync_version() < (1, 5) {
                "(SIGPIPE): it prints more after its first line"
            } else {
                "PassCmd exited with status 1"
            },
            // Slowly, so that mbsync fails each time.
            breaks: |home| {
                let lines = "(cat ~/pass; sleep 0.3; echo user: me)";
                home.write("pass", "secret-of-home\n");
                edit(home, ".mbsyncrc", PASS, &format!("PassCmd \"{lines}\""));
            },
            fixes: |home, fix| {
                let end = fix.split('`').nth(1).expect("a command");
                assert_eq!(end, "| head -n 1");
                edit(home, ".mbsyncrc", "user: me)", &format!("user: me) {end}"));
            },
        },
        Case {
            code: 77,
            what: "password",
            found: "PassCmd prints a NUL byte",
            breaks: |home| {
                home.write("pass", "secret\0-of-home\n");
                edit(home, ".mbsyncrc", PASS, "PassCmd \"cat ~/pass\"");
            },
            fixes: |home, fix| {
                assert!(fix.ends_with("print the password alone"), "{fix}");
                home.write("pass", "secret-of-home\n");
            },
        },
        Case {
            code: 0,
            what: "password",
            found: "neither Pass nor PassCmd is set",
            breaks: |home| edit(home, ".mbsyncrc", &format!("{PASS}\n"), ""),
            fixes: |home, fix| {
                home.write("pass", "secret-of-home\n");
                set_line(home, fix, &[("COMMAND", "\"cat ~/pass\"")]);
            },
        },
        Case {
            code: 77,
            what: "user",
            found: "UserCmd exited with status 127",
            breaks: |home| edit(home, ".mbsyncrc", "User home", "UserCmd \"exec ~/bin/who\""),
            fixes: |home, fix| {
                assert!(fix.starts_with("run the UserCmd of IMAPAccount Home"), "{fix}");
                home.program("who", "echo home");
            },
        },
    ] {
        try_case(&case);
    }
}

fn cat(home: &Home, file: &str) -> Output {
    let mut shell = home.command("/bin/sh");
    run(shell.arg("-c").arg(format!("cat {file}")), LONG)
}

/// A file with DOS line ends.
#[test]
fn a_cr_at_the_end_of_the_password_is_named() {
    let home = healthy();
    home.write("pass", "secret-of-home\r\nmore\r\n");
    edit(&home, ".mbsyncrc", PASS, "PassCmd \"cat ~/pass\"");
    let checked = check(&home);
    let wrong: Vec<&str> = checked.wrong().iter().map(|step| &*step.what).collect();
    assert_eq!((checked.code, &wrong[..]), (77, &["password", "login"][..]), "{checked:#?}");
    let step = checked.find("password");
    assert!(step.found.starts_with("PassCmd prints a CR"), "{step:?}");
    assert!(!home.mbsync(&["-a"]).status.success());
    let end = step.fix.split('`').nth(1).expect("a command");
    // The file needs its backslash twice.
    let line = format!("PassCmd \"cat ~/pass {}\"", end.replace('\\', "\\\\"));
    edit(&home, ".mbsyncrc", "PassCmd \"cat ~/pass\"", &line);
    check(&home).assert_healthy();
    home.mbsync(&["-a"]).ok();
}

/// `mbsync -a` runs the second, too, which cannot make what only one side has.
#[test]
fn a_second_channel_of_a_name_is_checked_as_the_first() {
    let home = healthy();
    let file = home.read(".mbsyncrc");
    let (head, rest) = file.split_once("\nPatterns *\n").expect("a channel");
    let section = head.rsplit_once("Channel Home\n").expect("its head").1;
    let second = format!("\nChannel Home\n{section}\nPatterns Archive\nSyncState *\n\n");
    home.write(".mbsyncrc", &format!("{head}\nPatterns * !Archive\n{rest}{second}"));
    fs::remove_dir_all(home.mail("Home").join("Archive")).expect("remove");
    let checked = check(&home);
    assert_eq!(checked.code, 1, "{checked:#?}");
    let notice = checked.wrong_at("configuration");
    assert!(notice.found.contains("already: mbsync -a runs both, mbsync Home only"), "{notice:?}");
    let step = checked.wrong_at("server");
    assert!(step.found.ends_with("mbsync does not create it here: Archive"), "{step:?}");
    let mbsync = mbsync(&home);
    assert!(!mbsync.status.success(), "{mbsync}");
    set_line(&home, &step.fix, &[]);
    check(&home).one_fault(0, "configuration", "Channel Home is defined in line");
    self::mbsync(&home).ok();
}

#[test]
fn old_forms_that_work_are_said_once() {
    let home = healthy();
    let file =
        home.read(".mbsyncrc").replace("\nFar :", "\nMaster :").replace("\nNear :", "\nSlave :");
    home.write(".mbsyncrc", &file);
    let lines = file.lines().filter(|line| line.contains("er :") || line.contains("Slave :"));
    assert!(lines.count() >= 2, "{file}");
    let checked = check(&home);
    checked.assert_healthy();
    let old: Vec<&Step> =
        checked.steps.iter().filter(|step| step.found.contains("Master and Slave")).collect();
    assert!(old.len() == 1 && old[0].state == "note", "{old:#?}");
    assert!(old[0].found.contains(" (1 other line as well)"), "{old:#?}");
}

/// Which mbsync refuses to make, whatever Create says.
#[test]
fn mailboxes_whose_names_flatten_makes_ambiguous_are_not_promised() {
    server().imap("flat").create("lists.foo");
    let account = rig::Account::on(server(), "Home").login("flat", "secret-of-flat");
    let home = Home::with(vec![account.near_line("Flatten .")]);
    complete(&home);
    edit(&home, ".mbsyncrc", "SubFolders Verbatim\n", "");
    let step = check(&home).one_fault(1, "server", "Flatten delimiter in them: lists.foo");
    assert!(!mbsync(&home).status.success());
    assert!(!home.mail("Home").join("lists.foo").exists());
    assert!(step.fix.ends_with("leave them out by Patterns"), "{step:?}");
    edit(&home, ".mbsyncrc", "Patterns *", "Patterns * !lists.foo");
    check(&home).assert_healthy();
    mbsync(&home).ok();
}

#[test]
fn mailboxes_whose_names_have_the_servers_delimiter_are_not_promised() {
    let dots = ServerOptions { tls: Tls::Imaps, separator: '.', ..ServerOptions::default() };
    let server = Server::with(dots);
    let home = Home::on(&server, &["Home"]);
    first_sync(&home);
    complete(&home);
    home.maildir("Home", "INBOX.x").create();
    let step = check(&home).one_fault(1, "server", "the server's delimiter in them: INBOX.x");
    assert!(!mbsync(&home).status.success());
    assert!(!server.imap("home").list().contains(&"INBOX.x".to_owned()));
    assert!(step.fix.ends_with("leave them out by Patterns"), "{step:?}");
    edit(&home, ".mbsyncrc", "Patterns *", "Patterns * !INBOX.x");
    check(&home).assert_healthy();
    mbsync(&home).ok();
}

#[test]
fn a_password_command_that_needs_a_terminal_is_a_waiters_trouble() {
    let home = healthy();
    home.write("pass", "secret-of-home\n");
    home.program("ask", "exec 3</dev/tty || exit 1; cat ~/pass");
    edit(&home, ".mbsyncrc", PASS, "PassCmd ask");
    // Without a terminal nothing works.
    let mut alone = as_owner(&home, home.cmd(&["--check", "--json"]));
    alone.stdin(std::process::Stdio::null());
    let step =
        Checked::read(&run(&mut alone, LONG)).one_fault(77, "password", "exited with status");
    assert_eq!(step.part, "Home");
    // On one it does, and a waiter is warned of.
    let program = mutt_sync().display();
    // What a terminal shows of a program that has ended may have scrolled away.
    let script = format!("{program} --check --json >out; echo $? >code; echo done; exec sleep 100");
    let terminal = Terminal::start(&home, &["/bin/sh", "-c", &script]);
    terminal.wait_for("done", LONG);
    assert_eq!(home.read("code"), "0\n");
    let text = home.read("out");
    assert!(!text.contains("secret-of-"), "{text}");
    assert!(text.contains("PassCmd works only with a terminal to ask on"), "{text}");
    assert_eq!(text.matches("\"warning\"").count() + text.matches("\"bad\"").count(), 1, "{text}");
    assert!(text.contains("as home by PLAIN"), "{text}");
    assert!(text.contains("or give IMAPAccount Home (~/.mbsyncrc:3) a PassCmd that does not ask"));
    edit(&home, ".mbsyncrc", "PassCmd ask", "PassCmd \"cat ~/pass\"");
    check(&home).assert_healthy();
}

#[test]
fn faults_on_the_way_to_the_server() {
    for case in [
        Case {
            code: 69,
            what: "name",
            found: "no-such-host.invalid: ",
            breaks: |home| edit(home, ".mbsyncrc", "Host localhost", "Host no-such-host.invalid"),
            fixes: |home, fix| {
                assert!(fix.contains("the spelling of Host in IMAPAccount Home (~/.mbsyncrc:3)"));
                edit(home, ".mbsyncrc", "Host no-such-host.invalid", "Host localhost");
            },
        },
        Case {
            code: 69,
            what: "connection",
            found: "localhost:9: connection refused",
            breaks: |home| edit(home, ".mbsyncrc", &port(), "Port 9"),
            fixes: |home, fix| {
                assert!(fix.contains("that Port in IMAPAccount Home (~/.mbsyncrc:3) is right"));
                edit(home, ".mbsyncrc", "Port 9", &port());
            },
        },
        Case {
            code: 77,
            what: "TLS",
            found: "certificate for localhost, good until",
            breaks: |home| edit(home, ".mbsyncrc", "CertificateFile ~/Home.pem\n", ""),
            fixes: |home, fix| {
                let command = fix.split_once("keep it: ").and_then(|(_, it)| it.split_once(" ;"));
                fs::remove_file(home.path("Home.pem")).expect("remove");
                type_in(home, command.expect("a command").0);
                set_line(home, fix, &[]);
            },
        },
        // Another one is in the file: it is added to that file, and what is there stays.
        Case {
            code: 77,
            what: "TLS",
            found: "certificate for localhost, good until",
            breaks: |home| drop(home.write("Home.pem", rig::Ca::new().cert())),
            fixes: |home, fix| {
                assert!(!fix.contains('`'), "{fix}");
                let command = fix.split_once("keep it: ").and_then(|(_, it)| it.split_once(" ;"));
                let command = command.expect("a command").0;
                assert!(command.ends_with(" >>~/Home.pem"), "{fix}");
                type_in(home, command);
                assert_eq!(home.read("Home.pem").matches("BEGIN").count(), 2);
            },
        },
        Case {
            code: 77,
            what: "TLS",
            found: "mismatch",
            breaks: |home| edit(home, ".mbsyncrc", "Host localhost", "Host 127.0.0.1"),
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 69,
            what: "greeting",
            found: "no answer in time",
            breaks: |home| edit(home, ".mbsyncrc", "SSLType IMAPS", "SSLType None\nTimeout 1"),
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 77,
            what: "login",
            found: "login by PLAIN refused",
            breaks: |home| edit(home, ".mbsyncrc", "User home", "User nobody"),
            fixes: |home, fix| set_line(home, fix, &[("NAME", "home")]),
        },
        Case {
            code: 77,
            what: "login",
            found: "AuthMechs allows SCRAM-SHA-1",
            breaks: |home| edit(home, ".mbsyncrc", "User home", "User home\nAuthMechs SCRAM-SHA-1"),
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 0,
            what: "login",
            found: "GSSAPI is not known here",
            breaks: |home| edit(home, ".mbsyncrc", "User home", "User home\nAuthMechs GSSAPI"),
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 69,
            what: "tunnel",
            found: "the tunnel: greeting: ",
            breaks: |home| edit(home, ".mbsyncrc", "SSLType IMAPS", "Tunnel ~/bin/imap"),
            fixes: |home, fix| {
                assert!(fix.starts_with("run the Tunnel of IMAPAccount Home (~/.mbsyncrc:3)"));
                let host = format!("localhost:{}", server().port());
                home.program(
                    "imap",
                    &format!("exec openssl s_client -quiet -connect {host} 2>/dev/null"),
                );
            },
        },
    ] {
        try_case(&case);
    }
}

fn port() -> String {
    format!("Port {}", server().port())
}

#[test]
fn faults_of_mailboxes_and_of_waiting() {
    for case in [
        Case {
            code: 1,
            what: "server",
            found: "only on the server, and mbsync does not create it here: Archive",
            breaks: |home| {
                fs::remove_dir_all(home.mail("Home").join("Archive")).expect("remove");
                edit(home, ".mbsyncrc", "Create Both", "Create Far");
            },
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 1,
            what: "server",
            found: "only here, and mbsync does not create it there: Local",
            breaks: |home| {
                home.maildir("Home", "Local").create();
                edit(home, ".mbsyncrc", "Create Both", "Create Near");
            },
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 0,
            what: "server",
            found: "no mailbox matches the Patterns of channel Home",
            breaks: |home| edit(home, ".mbsyncrc", "Patterns *", "Patterns Sentt"),
            fixes: |home, fix| set_line(home, fix, &[]),
        },
        Case {
            code: 0,
            what: "trigger",
            found: "~/triggers/of/Home: its directory is not there",
            breaks: |home| {
                home.settings("[account.Home]\ntrigger = \"~/triggers/of/Home\"\n");
            },
            fixes: |home, fix| type_in(home, fix),
        },
        Case {
            code: 0,
            what: "new_mail",
            found: "there is no program ring-a-bell",
            breaks: |home| drop(home.settings("new_mail = [\"ring-a-bell\"]\n")),
            fixes: |home, fix| {
                assert!(fix.starts_with("install ring-a-bell,"), "{fix}");
                home.program("ring-a-bell", ":");
            },
        },
        Case {
            code: 0,
            what: "muttrc",
            found: "~/.muttrc does not call mutt-sync",
            breaks: |home| drop(home.write(".muttrc", "set folder=~/Mail\n# mutt-sync\n")),
            fixes: |home, fix| {
                let line = fix
                    .strip_prefix("add the line ")
                    .and_then(|it| it.strip_suffix(" to ~/.muttrc"));
                let line = line.expect("a line");
                home.write(".muttrc", &format!("set folder=~/Mail\n{line}\n"));
            },
        },
        Case {
            code: 0,
            what: "msmtp",
            found: "~/.msmtprc has no account for Home",
            breaks: |home| drop(home.write(".msmtprc", "account Work\nhost smtp.work.example\n")),
            fixes: |home, fix| {
                let lines: Vec<&str> = fix.split('`').skip(1).step_by(2).collect();
                home.write(".msmtprc", &(lines.join("\n") + "\n"));
            },
        },
    ] {
        try_case(&case);
    }
}

#[test]
fn snippets_are_found_one_file_further() {
    let home = healthy();
    home.write(".muttrc", "source ~/.config/mutt/10-sync.rc\n");
    home.write(".config/mutt/10-sync.rc", "folder-hook . 'set my_sync=\"`mutt-sync -b`\"'\n");
    let checked = check(&home);
    checked.assert_healthy();
    assert!(checked.find("muttrc").found.contains("10-sync.rc"));
}

#[test]
fn a_certificate_that_is_over_is_the_operators_to_renew() {
    let keep = tempfile::tempdir().expect("directory");
    mode(keep.path(), 0o755);
    let write = |days: i32| {
        let issued = Ca::shared().issue(&["localhost"], days);
        fs::write(keep.path().join("cert"), issued.cert).expect("write");
        fs::write(keep.path().join("key"), issued.key).expect("write");
        for name in ["cert", "key"] {
            mode(&keep.path().join(name), 0o644);
        }
    };
    write(-1);
    let mut server = Server::with(ServerOptions {
        tls: Tls::StartTls,
        certificate: Some((keep.path().join("cert"), keep.path().join("key"))),
        ..ServerOptions::default()
    });
    let home = Home::on(&server, &["Home"]);
    complete(&home);
    let step = check(&home).one_fault(77, "TLS", "expired");
    assert!(step.found.starts_with("certificate for localhost, expired "), "{step:?}");
    assert!(step.fix.ends_with("the server's operator must renew it"), "{step:?}");
    write(9);
    server.restart();
    let step = check(&home).one_fault(0, "TLS", "certificate for localhost, good until ");
    assert_eq!(step.fix, "the server's operator must renew it");
    write(30);
    server.restart();
    check(&home).assert_healthy();
}

#[test]
fn a_server_that_is_there_without_tls_is_named() {
    let server = Server::with(ServerOptions { tls: Tls::StartTls, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    complete(&home);
    edit(&home, ".mbsyncrc", "SSLType STARTTLS", "SSLType IMAPS");
    let step = check(&home).one_fault(77, "TLS", "the server does not speak TLS there");
    set_line(&home, &step.fix, &[]);
    check(&home).assert_healthy();
    let port = greeting("SSH-2.0-OpenSSH_9.2\r\n");
    edit(&home, ".mbsyncrc", &format!("Port {}", server.port()), &format!("Port {port}"));
    let step = check(&home).one_fault(77, "greeting", "this is SSH");
    assert_eq!(step.fix, "check Host and Port in IMAPAccount Home (~/.mbsyncrc:3)");
}

#[test]
fn too_few_watches_are_named_with_the_setting() {
    let home = healthy();
    let limited = |watches: u32| {
        let script = format!(
            "echo {watches} >/proc/sys/user/max_inotify_watches && exec {} --check --json",
            mutt_sync().display()
        );
        let mut command = home.command("unshare");
        command.args(["--user", "--map-root-user", "/bin/sh", "-c", &script]);
        Checked::read(&run(&mut command, LONG))
    };
    let step = limited(8).one_fault(0, "inotify", "user.max_inotify_watches is 8");
    let setting = step.fix.strip_prefix("sysctl -w user.max_inotify_watches=").expect("a setting");
    let number = setting.split(' ').next().and_then(|number| number.parse().ok());
    limited(number.expect("a number")).assert_healthy();
}

#[test]
fn what_comes_after_a_fault_is_not_reached() {
    let home = healthy();
    edit(&home, ".mbsyncrc", "Host localhost", "Host no-such-host.invalid");
    let checked = check(&home);
    for what in ["connection", "TLS", "login", "capabilities", "server", "watching"] {
        assert_eq!(checked.find(what).state, "not-reached", "{checked:#?}");
    }
    assert_eq!(checked.find("password").state, "good");
    assert_eq!(checked.find("msmtp").state, "good");
}

#[test]
fn nothing_is_changed_and_the_password_is_asked_for_once() {
    let home = healthy();
    home.program("pass", "echo once >>~/asked; echo secret-of-home");
    edit(&home, ".mbsyncrc", PASS, "PassCmd pass");
    home.mutt_sync(&["Home"]).ok();
    server().imap("home").append("INBOX", &message("new", "text"), &[]);
    fs::remove_file(home.path("asked")).expect("mbsync has asked");
    let listing = |home: &Home| {
        let mut find = home.command("find");
        let args = [".", "-path", "./asked", "-o", "-printf", "%p %T@ %C@ %m\\n"];
        run(find.args(args), LONG).ok().stdout
    };
    let before = listing(&home);
    let checked = check(&home);
    checked.assert_healthy();
    assert!(checked.find("password").found.contains("PassCmd works unattended ("));
    assert_eq!(home.read("asked"), "once\n");
    let after = listing(&home);
    let changed: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    // The directory in which the command has left its note.
    assert!(changed.iter().all(|line| line.starts_with(". ")), "{changed:?}");
}

#[test]
fn g9_a_signal_ends_it_at_once() {
    for mode in ["--check", "-n"] {
        let home = healthy();
        edit(&home, ".mbsyncrc", PASS, "PassCmd \"touch ~/asked; sleep 50\"");
        let running = rig::Running::start(home.cmd(&[mode]));
        rig::wait_until(LONG, "the command runs", || home.path("asked").exists());
        running.signal(rig::Signal::INT);
        // Long before the command ends by itself.
        let output = running.wait(Duration::from_secs(20));
        assert_eq!(output.code(), 130, "{output:?}");
        home.wait_no_leftovers(Duration::from_secs(20));
    }
}

#[test]
fn a_server_that_has_no_time_is_tried_later() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = busy.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in busy.incoming() {
            let _ = stream.map(|mut stream| {
                std::io::Write::write_all(&mut stream, b"* BYE [UNAVAILABLE] come back later\r\n")
            });
        }
    });
    let server = Server::start();
    let way = rig::Delay::to(port, Duration::ZERO);
    let home = Home::with(vec![rig::Account::on(&server, "Home").port(way.port())]);
    complete(&home);
    let step = check(&home).one_fault(75, "greeting", "come back later");
    assert_eq!(step.fix, "try again later");
    way.set_target(server.port());
    check(&home).assert_healthy();
}

/// A server that says this when it greets, and takes no command.
pub fn greeting(text: &'static str) -> u16 {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = server.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let _ = stream.write_all(text.as_bytes());
            let lines = BufReader::new(stream.try_clone().expect("a second handle"));
            for line in lines.lines().map_while(Result::ok) {
                let tag = line.split(' ').next().unwrap_or_default();
                let _ = stream.write_all(format!("{tag} BAD no\r\n").as_bytes());
            }
        }
    });
    port
}

/// Outlook.
#[test]
fn a_server_that_takes_tokens_only_is_named() {
    let port = greeting("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=XOAUTH2] ready\r\n");
    let home = Home::with(vec![rig::Account::on(&Server::start(), "Home").port(port)]);
    let checked = check(&home);
    let step = checked.find("login");
    assert!(step.state == "bad" && checked.code == 77, "{checked:?}");
    assert!(step.found.contains("the server offers XOAUTH2"), "{step:?}");
    assert!(step.fix.contains("set `AuthMechs XOAUTH2` and a PassCmd"), "{step:?}");
    let offer = check_with(&Home::empty(), &[&format!("127.0.0.1:{port}")]);
    assert!(offer.find("login").found.starts_with("XOAUTH2: a token only"), "{offer:?}");
}

#[test]
fn what_a_server_offers_is_said_without_a_configuration() {
    let mut home = Home::empty();
    let server = Server::start();
    let offer = check_with(&home, &[&format!("127.0.0.1:{}", server.port())]);
    offer.one_fault(0, "connection", "greets, without TLS");
    assert!(offer.find("login").found.ends_with("LOGIN"), "{offer:?}");
    assert!(offer.find("capabilities").found.starts_with("IDLE"), "{offer:?}");
    assert!(offer.find("watching").found.starts_with("by IDLE at least"), "{offer:?}");
    let port = greeting("* OK [CAPABILITY IMAP4rev2 NOTIFY AUTH=PLAIN] ready\r\n");
    let offer = check_with(&home, &[&format!("127.0.0.1:{port}")]);
    assert!(offer.find("watching").found.starts_with("by NOTIFY"), "{offer:?}");

    let authority = home.write("authority.pem", Ca::shared().cert());
    for (tls, word) in [(Tls::Imaps, "IMAPS"), (Tls::StartTls, "STARTTLS")] {
        let server = Server::with(ServerOptions { tls, ..ServerOptions::default() });
        let name = format!("localhost:{}", server.port());
        home.set_env("SSL_CERT_FILE", &authority.display().to_string());
        let offer = check_with(&home, &[&name]);
        offer.assert_healthy();
        let found = format!("{name} greets (TLSType {word})");
        assert_eq!(offer.find("connection").found, found);
        home.set_env("SSL_CERT_FILE", "/dev/null");
        let offer = check_with(&home, &[&name]);
        offer.one_fault(77, "connection", "certificate");
        assert_eq!(offer.find("login").state, "not-reached");
    }
    // The port of tcpmux, which nobody has.
    check_with(&home, &["127.0.0.1:1"]).one_fault(69, "connection", "refused");
    check_with(&home, &["[::1]:1"]).one_fault(69, "connection", "[::1]:1: ");
}

/// And `--check` is not the one to write of them to standard error.
#[test]
fn each_state_file_that_does_not_parse_is_named() {
    let home = Home::on(server(), &["Home"]);
    complete(&home);
    home.mutt_sync(&["Home"]).ok();
    for name in ["last", "retry", "seen", "stuck", "pull", "gone", "refused", "held"] {
        let file = home.state("Home").join(format!("{name}.json"));
        let before = fs::read(&file);
        fs::write(&file, "{").expect("write");
        let output = home.mutt_sync(&["--check", "--json", "Home"]);
        let found = format!("Home/{name}.json does not parse and is ignored");
        let step = Checked::read(&output).one_fault(0, "state", &found);
        assert_eq!(output.stderr, "", "{name}");
        assert_eq!(home.mutt_sync(&["--status-line", "x", "Home"]).ok().stderr, "", "{name}");
        type_in(&home, &step.fix);
        if let Ok(text) = before {
            fs::write(&file, text).expect("write");
        }
    }
    // Elsewhere it is said once, however often it is read.
    server().imap("home").append("Sent", &message("one", "more"), &[]);
    fs::write(home.state("Home").join("held.json"), "{").expect("write");
    let dry = home.mutt_sync(&["-n", "Home"]).ok();
    assert!(dry.stdout.contains(".mbsyncrc -- "), "{dry}");
    assert_eq!(dry.stderr.matches("held.json: ").count(), 1, "{dry}");
}

/// An account may have a name like that.
#[test]
fn a_name_of_the_configuration_is_no_server() {
    let account = rig::Account::on(server(), "mail.example").login("home", "secret-of-home");
    let home = Home::with(vec![account]);
    complete(&home);
    let checked = check_with(&home, &["mail.example"]);
    assert!(
        checked.steps.iter().any(|step| step.part == "mail.example" && step.what == "password")
    );
}

#[test]
fn a_sasl_plugin_that_takes_the_password_for_a_token_is_named() {
    let server =
        Server::with(ServerOptions { tls: Tls::Imaps, tokens: true, ..ServerOptions::default() });
    let mut home = Home::on(&server, &["Home"]);
    let plugin = home.path("sasl/libxoauth2.so");
    fs::create_dir(home.path("sasl")).unwrap();
    home.set_env("SASL_PATH", &home.path("sasl").display().to_string());
    let named = |home: &Home| {
        let steps = check(home).steps.into_iter();
        steps.filter(|step| step.found.contains("XOAUTH2")).collect::<Vec<_>>()
    };
    assert!(named(&home).is_empty());
    fs::write(plugin, "").unwrap();
    let steps = named(&home);
    assert!(
        matches!(&steps[..], [step] if step.state == "warning" && step.fix.contains("AuthMechs PLAIN")),
        "{steps:?}"
    );
    edit(&home, ".mbsyncrc", "SSLType IMAPS\n", "SSLType IMAPS\nAuthMechs PLAIN\n");
    assert!(named(&home).is_empty());
}

#[test]
fn accounts_are_kept_apart() {
    let home = Home::on(server(), &["Home", "Work"]);
    home.mbsync(&["-a"]).ok();
    complete(&home);
    let both = "account Home\nfrom me@home.example\naccount Work\nfrom me@work.example\n";
    home.write(".msmtprc", both);
    check(&home).assert_healthy();
    edit(&home, ".mbsyncrc", "Pass secret-of-work", "PassCmd false");
    let step = check(&home).one_fault(77, "password", "PassCmd exited with status 1");
    assert_eq!(step.part, "Work");
    assert!(step.fix.contains("IMAPAccount Work (~/.mbsyncrc:"), "{step:?}");
    check_with(&home, &["Home"]).assert_healthy();
}

#[test]
fn a_waiter_is_seen_and_left_alone() {
    // A user of its own: no other test's mail wakes the waiter.
    let account = rig::Account::on(server(), "Home").login("wait", "secret-of-wait");
    let home = Home::with(vec![account]);
    complete(&home);
    home.mutt_sync(&["Home"]).ok();
    let waiter = rig::Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    waiter.wait_for("Trash: in sync with the server", LONG);
    std::thread::sleep(Duration::from_millis(500));
    let said = waiter.stderr();
    let checked = check(&home);
    checked.assert_healthy();
    assert_eq!(checked.find("waiter").found, "one is alive, watching by NOTIFY");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(waiter.stderr(), said, "the check has woken it");
    assert!(waiter.runs());
}

#[test]
fn a_store_without_sub_folders_takes_no_mailbox_below_another() {
    server().imap("nest").create("Lists/rust");
    let account = rig::Account::on(server(), "Home").login("nest", "secret-of-nest");
    let home = Home::with(vec![account]);
    complete(&home);
    edit(&home, ".mbsyncrc", "SubFolders Verbatim\n", "");
    let step =
        check(&home).one_fault(1, "server", "has no SubFolders, and so no place for: Lists/rust");
    assert!(!home.mbsync(&["-a"]).status.success());
    set_line(&home, &step.fix, &[]);
    check(&home).assert_healthy();
    home.mbsync(&["-a"]).ok();
    check(&home).assert_healthy();
}

/// A server in a few lines of shell, for a Tunnel.
fn tunnel(home: &Home, greeting: &str, login: &str) {
    home.program(
        "imap",
        &format!(
            r#"printf '* {greeting}\r\n'
while read -r tag command rest; do
    end='OK done'
    case $command in
    CAPABILITY*) printf '* CAPABILITY IMAP4rev1 IDLE\r\n' ;;
    LOGIN | AUTHENTICATE) end="{login}" ;;
    NAMESPACE*) printf '* NAMESPACE (("" "/")) NIL NIL\r\n' ;;
    LIST) printf '* LIST () "/" INBOX\r\n' ;;
    STATUS) printf '* STATUS INBOX (MESSAGES 0 UIDNEXT 1 UIDVALIDITY 7)\r\n' ;;
    esac
    printf '%s %s\r\n' "$tag" "$end"
done"#
        ),
    );
}

#[test]
fn a_tunnel_that_has_logged_in_needs_no_password() {
    let home = Home::with(vec![rig::Account::fake("Home").account_line("Tunnel imap")]);
    edit(&home, ".mbsyncrc", "Pass none\n", "");
    edit(&home, ".mbsyncrc", "User home\n", "");
    complete(&home);
    tunnel(&home, "PREAUTH [CAPABILITY IMAP4rev1 IDLE NAMESPACE] hello", "BAD known");
    let checked = check(&home);
    checked.assert_healthy();
    assert!(checked.find("password").found.starts_with("none needed"));
    assert!(checked.find("watching").found.starts_with("by IDLE: the first mailbox on 1"));
    assert!(!checked.steps.iter().any(|step| ["name", "connection", "TLS"].contains(&&*step.what)));
    edit(&home, "bin/imap", "IMAP4rev1 IDLE NAMESPACE]", "IMAP4rev1]");
    assert!(check(&home).find("watching").found.contains("neither NOTIFY nor IDLE"));
}

#[test]
fn g11_a_server_that_repeats_the_password_is_not_quoted() {
    let account = rig::Account::fake("Home").login("home", "secret-of-home");
    let home = Home::with(vec![account.account_line("Tunnel imap")]);
    complete(&home);
    tunnel(&home, "OK [CAPABILITY IMAP4rev1 IDLE] hello", "NO not $rest");
    let step = check(&home).one_fault(77, "login", "login by LOGIN refused");
    assert!(step.found.contains("********"), "{step:?}");
    let text = home.mutt_sync(&["--check"]).stdout;
    assert!(text.contains("********") && !text.contains("secret-of-"), "{text}");
    edit(&home, ".mbsyncrc", "AuthMechs LOGIN", "AuthMechs PLAIN");
    edit(&home, "bin/imap", "IDLE] hello", "IDLE AUTH=PLAIN SASL-IR] hello");
    let step = check(&home).one_fault(77, "login", "login by PLAIN refused");
    // NUL, home, NUL, secret-of-home in base64.
    assert!(step.found.contains("********") && !step.found.contains("AGhvbWUA"), "{step:?}");
}
