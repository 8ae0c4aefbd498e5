//! What a user, a disk or a clock can get wrong: each has its message and its
//! exit status, nothing is run that was not asked for, and no request is lost.

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

use rig::{Account, Home, Mbsync, Output, Server, run, wait_until};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

fn home() -> (Home, Mbsync) {
    let home = Home::fake(&["Home", "Work"]);
    let mbsync = home.fake_mbsync();
    (home, mbsync)
}

#[track_caller]
fn says(output: &Output, parts: &[&str]) {
    let text = output.stdout.clone() + &output.stderr;
    assert!(text.starts_with("mutt-sync: "), "{output}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing: {output}");
    }
    assert!(!text.contains("panicked"), "{output}");
}

#[test]
fn an_unknown_name_is_refused_and_the_near_one_named() {
    let (home, mbsync) = home();
    for (args, parts) in [
        (&["Hme"][..], &["Hme", "Home"][..]),
        (&["-b", "Hme"], &["Hme", "Home"]),
        (&["Home:INBX"], &["INBX", "INBOX"]),
        (&["Home", "Nobody"], &["Nobody"]),
        (&[], &["Home, Work", "--all"]),
        (&[""], &[""]),
        (&["Home:"], &[""]),
    ] {
        let output = home.mutt_sync(args);
        if args == ["Home:"] && output.code() == 0 {
            // INBOX, as mbsync has it.
            assert_eq!(mbsync.runs().len(), 1);
            mbsync.clear_log();
            continue;
        }
        says(&output.clone().expect_code(2), parts);
        // mutt shows a backtick's output and paints over the rest.
        assert_eq!(output.stderr.is_empty(), args.contains(&"-b"), "{output}");
    }
    assert_eq!(mbsync.runs().len(), 0);
    for usage in [&["--frobnicate"][..], &["--throttle", "soon", "Home"], &["-b", "-w", "Home"]] {
        home.mutt_sync(usage).expect_code(2);
    }
    home.wait_no_leftovers(SHORT);
}

/// Over a connection that is lent, and without one.
#[test]
fn a_program_that_is_not_isyncs_is_named() {
    let server = Server::start();
    for account in [Account::on(&server, "Home"), Account::on(&server, "Home").unjudged()] {
        let home = Home::with(vec![account]);
        for (script, said) in [
            ("exit 0", ""),
            ("echo garbage", ""),
            ("exit 1", "failed without a message"),
            ("echo who are you >&2; exit 2", "who are you"),
        ] {
            home.program("mbsync", script);
            let output = home.mutt_sync(&["-f", "Home"]).expect_code(78);
            let named = "bin/mbsync does not look like isync's mbsync";
            says(&output, &[named, said, "name the right one as `mbsync` in config.toml"]);
            assert!(!home.wants("Home").is_empty(), "{script}");
            // As the check has it.
            home.mutt_sync(&["--check", "Home"]).expect_code(78);
        }
        home.settings(&format!("mbsync = \"{}\"\n", rig::real_mbsync().display()));
        home.mutt_sync(&["-f", "Home"]).ok();
        assert_eq!(home.wants("Home"), [""; 0]);
    }
}

#[test]
fn a_first_configuration_is_printed_where_there_is_none_and_nothing_is_written() {
    let home = Home::empty();
    let said = home.mutt_sync(&["--init", "me@gmail.com"]).ok().stdout;
    assert!(said.contains("\nIMAPAccount gmail\nHost imap.gmail.com\n"), "{said}");
    let tls = if rig::mbsync_version() < (1, 5) { "SSLType" } else { "TLSType" };
    assert!(said.contains(&format!("\n{tls} IMAPS\n")), "{said}");
    let said = home.mutt_sync(&["--init", "me@gmail.com", "--msmtp"]).ok().stdout;
    assert!(said.contains("\nhost smtp.gmail.com\n"), "{said}");
    for file in [".mbsyncrc", ".msmtprc"] {
        assert!(!home.path(file).exists(), "{file}");
    }
    for wrong in [&["--init", "me"][..], &["--init", "me@tuta.com"], &["--msmtp", "Home"]] {
        home.mutt_sync(wrong).expect_code(2);
    }
}

#[test]
fn no_option_is_ignored() {
    let (home, mbsync) = home();
    for (args, given) in [(["-n", "--wait"], "--wait"), (["--check", "-n"], "--check")] {
        let output = home.mutt_sync(&[&args[..], &["Home"]].concat()).expect_code(2);
        let first = output.stderr.lines().next().unwrap_or_default();
        assert!(first.contains("cannot be used with '--"), "{output}");
        assert!(first.contains("'--dry-run'") && first.contains(given), "{output}");
        assert_eq!(output.stderr.matches("--").count(), 3, "{output}");
    }
    for args in [
        &["--json", "Home"][..],
        &["--json", "--status-line"],
        &["--loop", "--status"],
        &["--msmtp", "--status"],
        &["-a", "Home"],
        &["--muttrc", "Home", "Work"],
        &["--wait", "-n", "Home"],
        &["--wait", "-f", "Home"],
        &["--status", "--full"],
        &["--list", "-f"],
        &["--check", "-n"],
        &["--acknowledge", "--block", "Home"],
        &["-b", "--block", "Home"],
        &["-b", "-n", "Home"],
        &["--resync", "-n", "Home"],
        &["--retry", "-n", "Home"],
        &["--muttrc", "-a"],
        &["--init", "me@gmail.com", "--config", "x"],
        &["--every", "5m", "Home"],
        &["--list", "--throttle", "5s"],
    ] {
        let output = home.mutt_sync(args).expect_code(2);
        assert!(output.stdout.is_empty() && output.stderr.contains("--"), "{output}");
    }
    assert_eq!(mbsync.runs().len(), 0);
    for (args, parts, absent) in [
        (&["--list"][..], &["Home:INBOX", "Work:INBOX", "groups: "][..], &[][..]),
        (&["--list", "Work"], &["Work:INBOX", "Work:Sent"], &["Home", "groups"]),
        (&["--list", "Home:Sent"], &["Home:Sent"], &["INBOX", "Work"]),
        (&["--list", "--json", "Work"], &["\"Work:INBOX\""], &["Home"]),
        (&["--complete", "names"], &["Home\nHome-frequent\nWork\nWork-frequent\n"], &[":"]),
        (&["--complete", "accounts"], &["Home\nWork\n"], &["frequent"]),
        (
            &["--complete", "mailboxes", "--", "Home-frequent"],
            &["Home-frequent:INBOX\nHome-frequent:Sent\n"],
            &["Work", "Drafts"],
        ),
    ] {
        let said = home.mutt_sync(args).ok().stdout;
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
        // The configuration's own path is in the JSON.
        let said = said.replace(&home.path("").display().to_string(), "");
        assert!(!absent.iter().any(|part| said.contains(part)), "{args:?}: {said}");
    }
    home.mutt_sync(&["--list", "Nobody"]).expect_code(2);
    assert_eq!(home.mutt_sync(&["--complete", "mailboxes", "Nobody"]).ok().stdout, "");
}

#[test]
fn the_environment_may_name_the_account() {
    let (mut home, mbsync) = home();
    home.set_env("MUTT_SYNC_ACCOUNT", "Work");
    home.mutt_sync(&[]).ok();
    assert_eq!(mbsync.runs_of("Work").len(), 1);
    home.mutt_sync(&["-a"]).ok();
    assert_eq!((mbsync.runs_of("Home").len(), mbsync.runs_of("Work").len()), (1, 2));
    // It is the account, though a channel has its name.
    let more = "\nChannel Work-more\nFar :Work-far:more\nNear :Work-near:more\nSync All\n";
    home.write(".mbsyncrc", &(home.read(".mbsyncrc") + more));
    let asked = |args: &[&str]| home.mutt_sync(args).stdout;
    assert!(asked(&["-n"]).contains("asked for: the whole account"), "{}", asked(&["-n"]));
    assert!(asked(&["-n", "Work"]).contains("asked for: Work\n"), "{}", asked(&["-n", "Work"]));
}

#[test]
fn a_configuration_that_is_not_there_or_wrong() {
    let (home, mbsync) = home();
    let good = home.read(".mbsyncrc");
    let path = home.path(".mbsyncrc");
    fs::remove_file(&path).unwrap();
    says(&home.mutt_sync(&["Home"]).expect_code(78), &[".mbsyncrc"]);
    fs::create_dir(&path).unwrap();
    says(&home.mutt_sync(&["Home"]).expect_code(78), &[".mbsyncrc"]);
    fs::remove_dir(&path).unwrap();
    home.write(".mbsyncrc", &good.replace("Patterns", "Paterns"));
    says(&home.mutt_sync(&["Home"]).expect_code(78), &["~/.mbsyncrc:2", "Paterns"]);
    home.write(".mbsyncrc", "");
    says(&home.mutt_sync(&[]).expect_code(78), &["no Channel is defined"]);
    fs::write(&path, b"IMAPAccount \xff\xfe\nHost x\n\n").unwrap();
    assert!([2, 78].contains(&home.mutt_sync(&["Home"]).code()));
    home.write(".mbsyncrc", &good);
    home.settings("throtle = \"1s\"");
    let output = home.mutt_sync(&["-b", "Home"]).expect_code(78);
    says(&output, &["config.toml:1", "`throttle`?"]);
    assert_eq!(output.stderr, "");
    home.settings("");
    says(&home.mutt_sync(&["--mbsyncrc", "nowhere", "Home"]).expect_code(78), &["nowhere"]);
    says(&home.mutt_sync(&["--config", "nowhere", "Home"]).expect_code(78), &["nowhere"]);
    assert_eq!(mbsync.runs().len(), 0);
    home.mutt_sync(&["Home"]).ok();
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let (home, mbsync) = home();
    home.write(".local/state/mutt-sync", "a file in its place");
    let parts = ["cannot make", ".local/state/mutt-sync/Home", "XDG_STATE_HOME"];
    says(&home.mutt_sync(&["Home"]).expect_code(78), &parts);
    let output = home.mutt_sync(&["-b", "Home"]).expect_code(78);
    assert!(parts.iter().all(|part| output.stdout.contains(part)), "{output}");
    assert_eq!(mbsync.runs().len(), 0);
    fs::remove_file(home.path(".local/state/mutt-sync")).unwrap();
    // The lock is something else.
    fs::create_dir_all(home.state("Home").join("lock")).unwrap();
    let output = home.mutt_sync(&["Home"]).expect_code(78);
    says(&output, &["cannot write lock"]);
    assert_eq!((home.requests("Home"), mbsync.runs().len()), (vec!["*".to_owned()], 0));
    fs::remove_dir(home.state("Home").join("lock")).unwrap();
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(mbsync.runs()[0].names(), ["Home"]);
}

/// Runs this script where the home's state lies on a disk of 64 KiB.
fn on_a_small_disk(home: &Home, script: &str) -> Output {
    let state = home.path(".local/state");
    let script = format!(
        "mount -t tmpfs -o size=64k,nr_inodes=64 none {0} && cd {0} && m={1} && {script}",
        state.display(),
        rig::mutt_sync().display()
    );
    let args = ["--user", "--map-root-user", "--mount", "sh", "-c", &script];
    run(home.command("unshare").args(args), SHORT * 3)
}

const FILL: &str = "cat /dev/zero > fill 2>/dev/null; ";
const INODES: &str = "i=0; while touch f$i; do i=$((i+1)); done 2>/dev/null; ";

#[test]
fn g2_a_full_disk_loses_no_request() {
    let (home, mbsync) = home();
    // Full from the start: nothing can be kept, and it says so.
    let output = on_a_small_disk(&home, &format!("{FILL} $m Home 2>&1; echo code=$?"));
    println!("{output}");
    let served = mbsync.runs().len() == 1;
    assert!(served || output.stdout.contains("code=75"), "{output}");
    assert!(served || output.stdout.contains("free some space"), "{output}");
    // Full later on: the command itself carries what it cannot write.
    mbsync.clear_log();
    for fill in [FILL, INODES] {
        let script = format!(
            "$m Home && {fill} $m --force Home:INBOX 2>&1; echo code=$?; \
             $m -b --force Home:Sent 2>&1; echo code=$?; w=0; \
             until [ $w -gt 300 ] || grep -q Sent ~/bin/log; do sleep 0.1; w=$((w+1)); done; \
             sleep 2"
        );
        let output = on_a_small_disk(&home, &script);
        println!("{output}");
        assert!(!output.stdout.contains("panicked"), "{output}");
        let names: Vec<String> = mbsync.runs().iter().map(|run| run.names().join(" ")).collect();
        assert_eq!(names[0], "Home");
        assert!(names.iter().any(|name| name == "Home:INBOX"), "{names:?} {output}");
        assert!(names.iter().any(|name| name.contains("Sent")), "{names:?} {output}");
        // No hot loop either.
        assert!(names.len() <= 4, "{names:?}");
        mbsync.clear_log();
    }
}

#[test]
fn g2_a_request_that_fits_on_no_disk_outlives_a_failed_run() {
    let home = Home::fake(&["Home"]);
    home.settings("throttle = \"0s\"\nretry = \"1s\"\n");
    let tried = "echo \"$@\" >>~/tried; [ ! -e ~/down ] || \
         { echo 'Cannot connect to home.example (192.0.2.1:993): Connection refused' >&2; exit 1; }";
    let version = format!("[ $1 != --version ] || exec {} $1", rig::real_mbsync().display());
    home.program("mbsync", &format!("{version}\n{tried}"));
    for fill in [FILL, INODES] {
        let _ = fs::remove_file(home.path("tried"));
        let script = format!(
            "$m Home && touch ~/down && {fill} $m -b --force Home:Sent; sleep 2; rm ~/down; \
             before=$(grep -c Sent ~/tried); w=0; \
             until [ $w -gt 200 ] || [ $(grep -c Sent ~/tried) -gt $before ]; \
             do sleep 0.1; w=$((w+1)); done; sleep 1"
        );
        let output = on_a_small_disk(&home, &script);
        assert!(!output.stdout.contains("panicked"), "{output}");
        // One that fails, some more while it is down, and one that does not.
        let tried = home.read("tried").lines().filter(|line| line.contains("Sent")).count();
        assert!((2..=5).contains(&tried), "{tried}: {output}");
    }
}

/// Of two accounts the first one's state cannot be used.
#[test]
fn g2_an_account_that_cannot_be_asked_for_keeps_no_other_from_it() {
    let (home, mbsync) = home();
    home.write(".local/state/mutt-sync/Home", "a file in its place");
    let output = home.mutt_sync(&["-b", "-a", "-q"]).expect_code(78);
    assert!(output.stdout.contains("Home: cannot"), "{output}");
    mbsync.wait_for_starts(1, SHORT);
    assert_eq!(mbsync.runs_of("Work").len(), 1);
}

#[test]
fn corrupt_state_files_are_as_good_as_none() {
    let (home, mbsync) = home();
    home.mutt_sync(&["Home"]).ok();
    for garbage in ["", "{", "\0\u{1}\u{2}", "4294967296 x", "-1 -1 -1", "1 1 group", "null", "[]"]
    {
        for file in [
            "last.json",
            "retry.json",
            "throttle",
            "lock",
            "seen.json",
            "gone.json",
            "urgent",
            "trigger",
        ] {
            fs::write(home.state("Home").join(file), garbage).unwrap();
        }
        for file in ["want/..", "want/%", "want/%zz", "want/a:b:c", "run/.hidden", "run/%ff"] {
            let _ = fs::write(home.state("Home").join(file), garbage);
        }
        fs::write(home.path(".local/state/mutt-sync/mbsync.json"), garbage).unwrap();
        let before = mbsync.runs().len();
        let output = home.mutt_sync(&["--force", "Home"]).ok();
        assert!(!output.stderr.contains("panicked"), "{output}");
        assert_eq!(mbsync.runs().len(), before + 1, "{garbage:?}");
        assert_eq!(mbsync.runs()[before].names(), ["Home"]);
        home.mutt_sync(&["-b", "Home"]).ok();
        let sync = home.mutt_sync(&["--force", "Home"]).ok();
        assert_eq!(sync.stderr, "", "it is fixed by then");
        // The child of the one in the background has found its request served.
        home.wait_no_leftovers(SHORT);
    }
    // A corrupt mark makes a request fresh.
    fs::write(home.state("Home").join("want/Home:INBOX"), "7 never").unwrap();
    home.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(mbsync.runs().last().unwrap().names(), ["Home:INBOX,Sent"]);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn requests_for_removed_mailboxes_are_dropped() {
    let (home, mbsync) = home();
    fs::create_dir_all(home.state("Home").join("want")).unwrap();
    fs::create_dir_all(home.state("Home").join("run")).unwrap();
    fs::write(home.state("Home").join("want/Gone:INBOX"), "").unwrap();
    fs::create_dir(home.state("Home").join("want/Home:Sent")).unwrap();
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(mbsync.runs()[0].names(), ["Home:INBOX"]);
    assert_eq!(home.requests("Home"), ["Home:Sent"]);
}

#[test]
fn g10_an_account_named_like_a_path_stays_in_its_place() {
    let names = ["../x", "a/b", "-n"];
    let home = Home::with(names.map(|name| Account::fake(name).unjudged()).to_vec());
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["../x"]).ok();
    home.mutt_sync(&["a/b"]).ok();
    home.mutt_sync(&["--", "-n"]).ok();
    assert_eq!(mbsync.runs().len(), 3);
    let entries = |path: &str| {
        let dir = fs::read_dir(home.path(path)).unwrap().flatten();
        let mut names: Vec<_> =
            dir.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(entries(".local/state"), ["mutt-sync"]);
    assert_eq!(entries(".local/state/mutt-sync"), ["%2E.%2Fx", "-n", "a%2Fb", "mbsync.json"]);
    let mode = fs::metadata(home.state("-n")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn homes_and_xdg_variables_may_be_missing() {
    let (mut home, mbsync) = home();
    for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
        home.unset_env(name);
    }
    home.mutt_sync(&["Home"]).ok();
    assert!(home.state("Home").join("last.json").exists());
    // Relative ones are to be ignored.
    home.set_env("XDG_STATE_HOME", "relative");
    home.mutt_sync(&["Home"]).ok();
    assert!(!home.path("relative").exists());
    // Without HOME the password file says where home is; state and configuration are told here.
    home.set_env("XDG_STATE_HOME", home.path(".local/state").to_str().unwrap());
    home.set_env("XDG_CONFIG_HOME", home.path(".config").to_str().unwrap());
    home.unset_env("HOME");
    let file = home.path(".mbsyncrc").display().to_string();
    home.mutt_sync(&["--mbsyncrc", &file, "Home"]).ok();
    assert_eq!(mbsync.runs().len(), 3);
}

/// mbsync would be given another path.
#[test]
fn a_home_whose_name_is_not_utf_8_is_refused() {
    let (home, mbsync) = home();
    let name = std::ffi::OsStr::from_bytes(b"latin\xe9");
    std::os::unix::fs::symlink(home.path(""), home.path("").join(name)).unwrap();
    for args in [&["Home"][..], &["-b", "Home"], &["--status"]] {
        let mut command = home.cmd(args);
        let output = run(command.env("HOME", home.path("").join(name)), SHORT).expect_code(78);
        says(&output, &["the name of the home directory is not UTF-8", "set HOME to a link"]);
    }
    assert!(mbsync.runs().is_empty() && home.requests("Home").is_empty());
}

#[test]
fn g2_an_mbsync_that_is_missing_or_cannot_be_run() {
    let (home, mbsync) = home();
    home.settings("mbsync = \"/nowhere/mbsync\"");
    let output = home.mutt_sync(&["Home"]).expect_code(78);
    says(&output, &["/nowhere/mbsync: not found", "config.toml"]);
    assert_eq!(home.requests("Home"), ["*"]);
    let program = home.write("not-a-program", "echo no");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    home.settings("mbsync = \"~/not-a-program\"");
    let output = home.mutt_sync(&["--force", "Home:INBOX"]).expect_code(78);
    says(&output, &["not executable", "chmod +x"]);
    // A child does not wait for somebody to fix it.
    home.mutt_sync(&["-b", "--force", "Home"]).ok();
    home.wait_no_leftovers(SHORT);
    home.settings("");
    home.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(mbsync.runs()[0].names(), ["Home"]);
    wait_until(SHORT, "nothing stands", || home.requests("Home").is_empty());
}

#[test]
fn g10_a_flood_of_output_and_an_odd_end() {
    let (home, mut mbsync) = home();
    mbsync.flood(8 << 20);
    mbsync.exit(3);
    let output = home.mutt_sync(&["Home"]).expect_code(1);
    assert!(output.stderr.len() < 20_000, "{} bytes", output.stderr.len());
    mbsync.forget("flood");
    mbsync.signal("KILL");
    let output = home.mutt_sync(&["--force", "Home"]).expect_code(75);
    says(&output, &["signal 9"]);
    mbsync.forget("signal");
    mbsync.stderr("\u{1b}[2JError: \u{202e}evil\u{7}\n");
    let output = home.mutt_sync(&["--force", "-v", "Home"]).expect_code(1);
    assert!(!output.stderr.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{output}");
}
