//! Inputs that mean harm, other than what a server says: places, names, the machine's
//! other users, and what a careless parent leaves (files are in [`crate::files`]). A table: each row is one input, and
//! what must come of it.

use crate::library::in_parallel;
use crate::server::{Fake, PASSWORD};
use rig::{Account, Home, Running, Server, Signal, as_nobody, is_root, message, run, wait_until};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For anything that has no reason to take long.
const SOON: Duration = Duration::from_secs(60);

/// A row: what is given, and what is tried with it.
type Row = (&'static str, fn() -> Result<(), String>);

/// Tries all rows.
fn all(rows: &[Row]) {
    let wrong = in_parallel(4, rows.to_vec(), |(input, act)| {
        act().map_err(|why| format!("{input}: {why}"))
    });
    println!("{} inputs", rows.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ensure(holds: bool, why: impl std::fmt::Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_string()) }
}

fn home() -> Home {
    let home = Home::with(vec![Account::fake("Home").patterns("*").unjudged()]);
    home.settings("throttle = \"0s\"\nsettle = \"10ms\"\nretry = \"1s\"\n");
    home
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |found| found.permissions().mode() & 0o7777)
}

// --- The state directory.

/// Every kind of request is refused with 78, at once and without a process left.
fn refused(home: &Home, outputs: &str) -> Result<(), String> {
    let codes: Vec<&str> = outputs.lines().filter(|line| line.starts_with("code=")).collect();
    ensure(codes.len() == 5 && codes.iter().all(|code| *code == "code=78"), outputs)?;
    home.wait_no_leftovers(SOON);
    Ok(())
}

const REQUESTS: &str = "for i in 1 2 3; do $m -b Home; echo code=$?; done; \
                        $m Home; echo code=$?; timeout 20 $m --wait Home; echo code=$?; ";

/// Runs this script in namespaces of its own, and then all requests.
fn after_mounting(script: &str) -> Result<(), String> {
    let home = home();
    let _mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let state = home.path(".local/state/mutt-sync");
    let script = format!(
        "exec 2>&1; m={}; s={}; {script} && {{ {REQUESTS} }}",
        rig::mutt_sync().display(),
        state.display()
    );
    let args = ["--user", "--map-root-user", "--mount", "sh", "-c", &script];
    let output = run(home.command("unshare").args(args), SOON * 2);
    refused(&home, &output.stdout)
}

fn on_a_read_only_disk() -> Result<(), String> {
    after_mounting(
        "cp -a $s /tmp/$$ && mount -t tmpfs none $s && cp -a /tmp/$$/. $s && rm -r /tmp/$$ && mount -o remount,ro $s",
    )
}

fn on_a_read_only_bind_mount() -> Result<(), String> {
    after_mounting("mount --bind $s $s && mount -o remount,bind,ro $s")
}

fn with_read_only_requests() -> Result<(), String> {
    after_mounting(
        "mount --bind $s/Home/want $s/Home/want && mount -o remount,bind,ro $s/Home/want",
    )
}

/// Every request in a home that has been prepared so.
fn with_state(prepare: impl FnOnce(&Home)) -> Result<(), String> {
    let home = home();
    let mbsync = home.fake_mbsync();
    prepare(&home);
    let script = format!("exec 2>&1; m={}; {REQUESTS}", rig::mutt_sync().display());
    let output = run(home.command("sh").args(["-c", &script]), SOON * 2);
    refused(&home, &output.stdout)?;
    ensure(mbsync.runs().is_empty(), "mbsync was run")?;
    let check = home.mutt_sync(&["--check", "Home"]);
    ensure(check.code() == 78, format!("--check finds nothing wrong: {check}"))
}

/// A directory that is another user's: for root one of nobody's, else one of root's.
fn foreign(path: &Path) {
    if is_root() {
        fs::create_dir_all(path).unwrap();
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    } else {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink("/usr", path).unwrap();
    }
}

fn of_another_user() -> Result<(), String> {
    with_state(|home| foreign(&home.path(".local/state/mutt-sync")))
}

fn with_an_account_of_another_user() -> Result<(), String> {
    with_state(|home| foreign(&home.state("Home")))
}

fn as_a_dangling_link() -> Result<(), String> {
    with_state(|home| {
        fs::create_dir_all(home.path(".local/state")).unwrap();
        symlink("/nowhere/at/all", home.path(".local/state/mutt-sync")).unwrap();
    })
}

#[test]
fn g2_a_state_directory_that_cannot_be_used_is_refused_and_leaves_no_process() {
    all(&[
        ("a disk that was remounted read-only", on_a_read_only_disk),
        ("a read-only bind mount", on_a_read_only_bind_mount),
        ("requests on a read-only bind mount", with_read_only_requests),
        ("another user's directory", of_another_user),
        ("another user's directory for the account", with_an_account_of_another_user),
        ("a dangling link", as_a_dangling_link),
    ]);
}

// --- More names than a command line takes.

/// So many requests for mailboxes with names of so many bytes.
fn requested(count: usize, length: usize) -> Result<(), String> {
    let home = home();
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home:INBOX"]).ok();
    let names: Vec<String> = (0..count).map(|n| format!("{n:0length$}")).collect();
    for name in &names {
        fs::write(home.state("Home").join("want").join(format!("Home:{name}")), "").unwrap();
    }
    let output = run(&mut home.cmd(&["-f", "Home:INBOX"]), SOON * 2);
    ensure(output.code() == 0, &output)?;
    ensure(home.requests("Home").is_empty(), "requests are left")?;
    let runs = mbsync.runs();
    let words = runs.last().unwrap().names();
    let mut synced: Vec<&str> = words
        .iter()
        .filter_map(|word| word.strip_prefix("Home:"))
        .flat_map(|boxes| boxes.split(','))
        .filter(|name| *name != "INBOX")
        .collect();
    synced.sort_unstable();
    ensure(words == ["Home"] || synced == names, format!("{} words", words.len()))?;
    ensure(words.iter().all(|word| word.len() < 128 * 1024), "a word is too long")
}

#[test]
fn g2_more_mailboxes_than_fit_on_a_command_line_are_synced() {
    all(&[
        ("3000 names of 60 bytes", || requested(3000, 60)),
        ("1000 names of 190 bytes", || requested(1000, 190)),
        ("20 000 names of 40 bytes", || requested(20_000, 40)),
    ]);
}

// --- Other users of the machine.

/// What another user finds of this directory and all below, by trying.
fn found_by_others(base: &Path) -> Vec<String> {
    let mut all = vec![base.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next).cloned() {
        next += 1;
        all.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    if !is_root() {
        return if mode(base) == 0o700 { vec![] } else { vec![format!("{:o}", mode(base))] };
    }
    as_nobody(|| {
        let reached = |path: &PathBuf| {
            fs::read_dir(path).is_ok()
                || fs::File::open(path).is_ok()
                || fs::File::options().write(true).open(path).is_ok()
                || path.symlink_metadata().is_ok() && *path != base
                || fs::write(path.join("planted"), "").is_ok()
        };
        all.iter().filter(|path| reached(path)).map(|path| path.display().to_string()).collect()
    })
}

/// A home that others can look into, as Debian makes it.
fn open_to_others(home: &Home) {
    for path in ["", ".config", "Mail"] {
        fs::set_permissions(home.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// With this umask and a home that others can look into, every command as the first.
fn with_umask(umask: &str) -> Result<(), String> {
    for args in ["Home", "-b Home", "--status", "--list", "-n Home", "--muttrc", "--check Home"] {
        let home = home();
        let _mbsync = home.fake_mbsync();
        home.maildir("Home", "INBOX").create();
        open_to_others(&home);
        let script = format!("umask {umask}; exec {} {args}", rig::mutt_sync().display());
        run(home.command("sh").args(["-c", &script]), SOON);
        home.wait_no_leftovers(SOON);
        // All that there may be, with the mode that a careless program would give it.
        let state = home.state("Home");
        for file in
            rig::STATE_FILES.iter().chain(&crate::files::MORE_STATE).filter(|_| state.is_dir())
        {
            let path = state.join(file);
            fs::File::options().create(true).append(true).open(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let found = found_by_others(&home.path(".local/state/mutt-sync"));
        ensure(found.is_empty(), format!("{args}: {found:?}"))?;
    }
    Ok(())
}

/// Real mail that comes to a waiter with this umask: what another user reaches of the
/// message, the state with its locks, and the process.
fn mail_with_umask(umask: &str) -> Result<(), String> {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    open_to_others(&home);
    server.imap("home").append("INBOX", &message("new", "new"), &[]);
    let script = format!("umask {umask}; exec {} --wait --loop Home", rig::mutt_sync().display());
    let mut command = home.command("sh");
    command.args(["-c", &script]);
    let waiter = Running::start(command);
    let inbox = home.maildir("Home", "INBOX");
    wait_until(SOON, "the message", || inbox.exists() && !inbox.is_empty());
    wait_until(SOON, "the end of the run", || home.state("Home").join("last.json").exists());
    for place in ["Mail/Home/INBOX", ".local/state/mutt-sync"] {
        let found = found_by_others(&home.path(place));
        ensure(found.is_empty(), format!("{found:?}"))?;
    }
    if is_root() {
        // Signals are among what is tried.
        let reached = rig::reached_by_nobody(waiter.pid());
        ensure(reached.is_empty(), format!("{reached:?}"))?;
    }
    waiter.signal(Signal::TERM);
    ensure(waiter.wait(SOON).code() == 143, "another status")
}

#[test]
fn g10_another_user_reaches_no_message_lock_or_signal_whatever_the_umask() {
    all(&[
        ("umask 0", || mail_with_umask("0")),
        ("umask 002", || mail_with_umask("002")),
        ("umask 022", || mail_with_umask("022")),
        ("umask 077", || mail_with_umask("077")),
    ]);
}

/// A state directory that 0.1.0 made with this mode, in which another user has
/// replaced a file by a link to the victim's.
fn with_a_link_as(file: &str) -> Result<(), String> {
    let home = home();
    let _mbsync = home.fake_mbsync();
    home.write("victim", "keep");
    let base = home.path(".local/state/mutt-sync");
    fs::create_dir_all(home.state("Home").join("want")).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(home.path("victim"), base.join(file)).unwrap();
    for args in [&["--status"][..], &["-b", "Home"], &["-f", "Home"], &["--list"]] {
        run(&mut home.cmd(args), SOON);
    }
    home.wait_no_leftovers(SOON);
    ensure(home.read("victim") == "keep", format!("the victim has {:?}", home.read("victim")))?;
    ensure(mode(&base) == 0o700, format!("mode {:o}", mode(&base)))
}

#[test]
fn g10_another_user_reaches_nothing_whatever_the_umask() {
    all(&[
        ("umask 0", || with_umask("0")),
        ("umask 002", || with_umask("002")),
        ("umask 022", || with_umask("022")),
        ("umask 077", || with_umask("077")),
        ("a link as mbsync.json", || with_a_link_as("mbsync.json")),
        ("a link as directories.json", || with_a_link_as("directories.json")),
        ("a link as lock", || with_a_link_as("Home/lock")),
        ("a link as a request", || with_a_link_as("Home/want/*")),
        ("a link as throttle", || with_a_link_as("Home/throttle")),
    ]);
}

// --- What a parent has left.

fn under(words: &[&str]) -> Result<(), String> {
    let home = home();
    let mbsync = home.fake_mbsync();
    let start = |args: &[&str]| {
        let mut command = home.command(words[0]);
        command.args(&words[1..]).arg(rig::mutt_sync()).args(args);
        command
    };
    let output = run(&mut start(&["Home"]), SOON);
    ensure(output.code() == 0 && mbsync.runs().len() == 1, &output)?;
    let waiter = Running::start(start(&["--wait", "--loop", "-v", "Home"]));
    let lock = home.state("Home").join("waiter.lock");
    wait_until(SOON, "a waiter", || lock.exists());
    sleep(Duration::from_millis(300));
    waiter.signal(Signal::TERM);
    let begun = Instant::now();
    while waiter.runs() && begun.elapsed() < SOON {
        sleep(Duration::from_millis(10));
    }
    if waiter.runs() {
        rig::process::kill(waiter.pid(), Signal::KILL);
        return Err("TERM is not obeyed".into());
    }
    ensure(waiter.wait(SOON).code() == 143, "another status")
}

#[test]
fn g8_signals_work_whatever_the_parent_has_ignored_or_blocked() {
    all(&[
        ("CHLD ignored", || under(&["env", "--ignore-signal=CHLD"])),
        ("TERM ignored", || under(&["env", "--ignore-signal=TERM"])),
        ("TERM blocked", || under(&["env", "--block-signal=TERM"])),
        ("CHLD blocked", || under(&["env", "--block-signal=CHLD"])),
        ("everything blocked", || under(&["env", "--block-signal"])),
        ("CHLD ignored by a shell", || under(&["sh", "-c", "trap '' CHLD; exec \"$0\" \"$@\""])),
    ]);
}

// --- A server that moves bytes without end, to the real mbsync and to ours.

/// What says that the trickle was ended: of mbsync, or of the question before a run.
fn trickle(account: Account, bytes: usize, pause: Duration, says: &str) -> Result<(), String> {
    let fake = Fake::start(move |peer| {
        peer.say("* OK [CAPABILITY IMAP4rev1] hello\r\n");
        while let Some(line) = peer.hear() {
            let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if rest.starts_with("LOGIN") || rest.starts_with("CAPABILITY") {
                peer.say(format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"));
                continue;
            }
            while peer.say(format!("* OK {}\r\n", "x".repeat(bytes.saturating_sub(7)))) {
                sleep(pause);
            }
            return;
        }
    });
    let home = Home::with(vec![account.port(fake.port).login("user", PASSWORD)]);
    home.settings("stall = \"4s\"\n");
    let begun = Instant::now();
    let output = run(&mut home.cmd(&["Home"]), SOON * 2);
    ensure(output.code() == 69, &output)?;
    ensure(output.stderr.contains(says), format!("{output} {:?}", begun.elapsed()))?;
    home.wait_no_leftovers(SOON);
    Ok(())
}

fn trickle_to_mbsync(bytes: usize, pause: Duration) -> Result<(), String> {
    trickle(Account::fake("Home").unjudged(), bytes, pause, "ended")
}

fn trickle_to_the_question(bytes: usize, pause: Duration) -> Result<(), String> {
    trickle(Account::fake("Home").account_line("Timeout 2"), bytes, pause, "no answer in time")
}

#[test]
fn g9_a_trickle_does_not_keep_a_run_alive() {
    all(&[
        ("mbsync: 100 bytes a second", || trickle_to_mbsync(100, Duration::from_secs(1))),
        ("mbsync: 10 bytes, quickly", || trickle_to_mbsync(10, Duration::from_millis(100))),
        ("mbsync: 600 bytes, slowly", || trickle_to_mbsync(600, Duration::from_secs(5))),
        ("we: 100 bytes a second", || trickle_to_the_question(100, Duration::from_secs(1))),
        ("we: 10 bytes, quickly", || trickle_to_the_question(10, Duration::from_millis(100))),
        ("we: 600 bytes, slowly", || trickle_to_the_question(600, Duration::from_secs(5))),
    ]);
}
