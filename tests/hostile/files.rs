//! What is no file, in the place of any file that is read or written: a table of files,
//! kinds and commands, with the exit status of each cell.
//!
//! Each command has to end by itself, within three seconds of a processor that is
//! free, and a waiter at TERM. None has room for what has no end.

use crate::library::in_parallel;
use rig::{
    Account, Ca, Certificate, Crowd, Home, Running, Seeded, Signal, is_root, process, run, soak,
};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// For anything that has no reason to take long.
const SOON: Duration = Duration::from_secs(60);
/// What a command may take: what takes longer because the machine is busy is
/// tried again by itself.
const LIMIT: Duration = Duration::from_secs(3);
/// How long a waiter has to show that it goes on.
const WAITS: Duration = Duration::from_millis(500);
/// Bytes of address space: less than a sparse file has.
const ROOM: u64 = 512 << 20;

/// Files below the home that are opened.
const OPENED: [&str; 12] = [
    ".mbsyncrc",
    ".config/mutt-sync/config.toml",
    ".config/mutt/muttrc",
    ".config/mutt/account/Home",
    ".msmtprc",
    "Home.pem",
    "Home.crt",
    "Home.key",
    "Mail/Home/INBOX/.uidvalidity",
    "Mail/Home/INBOX/.mbsyncstate",
    ".local/state/mutt-sync/mbsync.json",
    ".local/state/mutt-sync/directories.json",
];
/// Files and directories that are looked at.
const LOOKED_AT: [&str; 13] = [
    "Mail/Home",
    "Mail/Home/INBOX",
    "Mail/Home/INBOX/cur",
    "Mail/Home/INBOX/new",
    "Mail/Home/INBOX/new/1.a.b",
    "Mail/Home/INBOX/.mbsyncstate.journal",
    "Mail/Home/INBOX/.mbsyncstate.new",
    "Mail/Home/INBOX/.mbsyncstate.lock",
    "Mail/Home/INBOX/.isyncuidmap.db",
    ".local/state/mutt-sync",
    ".local/state/mutt-sync/Home",
    ".local/state/mutt-sync/Home/want",
    ".local/state/mutt-sync/Home/run",
];
/// In the account's state, beside [`rig::STATE_FILES`].
pub const MORE_STATE: [&str; 11] = [
    "trigger",
    "urgent",
    "hook.lock",
    "want/Home:INBOX",
    "want/=person",
    "want/=full",
    "want/=foreground",
    "want/=passed-over",
    "want/=echo",
    "run/Home:INBOX",
    "run/=full",
];
const KINDS: [&str; 8] =
    ["fifo", "directory", "socket", "device", "terminal", "dangling", "zeros", "unreadable"];
const COMMANDS: [&[&str]; 15] = [
    &["--list"],
    &["--status"],
    &["--status-line", "%f"],
    &["--muttrc"],
    &["-n", "Home"],
    &["-b", "Home"],
    &["Home"],
    &["-f", "Home"],
    &["--result", "Home"],
    &["--check", "Home"],
    &["--acknowledge", "Home:INBOX"],
    &["--allow-deletions", "Home:INBOX"],
    &["--retry", "Home:INBOX"],
    &["--resync", "Home:INBOX"],
    WAIT,
];
const WAIT: &[&str] = &["--wait", "Home"];

const TERMINATED: i32 = 143;

/// A file, what is in its place, and a command.
type Cell<'a> = (&'a str, &'a str, &'a [&'a str]);

/// What it has to end with.
#[allow(clippy::match_same_arms)] // in the order of the table
fn expected((file, kind, args): Cell<'_>) -> i32 {
    let file = file.strip_prefix(".local/state/mutt-sync").unwrap_or(file);
    // Root can read and write what nobody else can.
    let is_file = kind == "zeros" || kind == "unreadable" && is_root();
    let is_there = kind != "dangling";
    let is_directory = kind == "directory";
    let waits = args == WAIT;
    let uses_state = matches!(
        args[0],
        "-b" | "Home" | "-f" | "--result" | "--check" | "--acknowledge" | "--retry" | "--wait"
    );
    let takes_lock = matches!(args[0], "Home" | "-f" | "--retry");
    let checks = args[0] == "--check";
    match file {
        // A status line is shown without an account.
        ".mbsyncrc" | ".config/mutt-sync/config.toml" | "Home.pem" | "Home.crt" | "Home.key"
            if args[0] == "--status-line" =>
        {
            0
        }
        ".mbsyncrc" => 78,
        // Settings may be missing, or empty.
        ".config/mutt-sync/config.toml" if is_there && (kind == "zeros" || !is_file) => 78,
        // mbsync takes no file that cannot be opened; what else it is, only the server's
        // connection has to know.
        "Home.pem" | "Home.crt" | "Home.key" if !is_there || kind == "unreadable" && !is_file => 78,
        // There is no Maildir, or its record cannot be read: the waiter has mbsync look.
        "Mail/Home" | "Mail/Home/INBOX" if is_directory => 0,
        "Mail/Home/INBOX" | "Mail/Home/INBOX/cur" | "Mail/Home/INBOX/.mbsyncstate" if !is_there => {
            0
        }
        "Mail/Home/INBOX/new" if !is_there || is_directory => usual(args),
        "Mail/Home/INBOX/cur" if is_directory => usual(args),
        "Mail/Home"
        | "Mail/Home/INBOX"
        | "Mail/Home/INBOX/cur"
        | "Mail/Home/INBOX/new"
        | "Mail/Home/INBOX/.mbsyncstate" => i32::from(checks),
        // A difference, or nothing known of the last run. A trigger or a request is a question,
        // and a waiter that is in step goes on.
        "Mail/Home/INBOX/.uidvalidity" | "Mail/Home/INBOX/new/1.a.b" | "/Home/last.json" => 0,
        "" | "/Home" if is_directory => 0,
        "/Home/want" | "/Home/run" if is_directory => usual(args),
        "" | "/Home" | "/Home/want" | "/Home/run" if uses_state => 78,
        "/Home/lock" if !is_file && (takes_lock || checks) => 78,
        "/Home/waiter.lock" if !is_file && waits => 78,
        _ => usual(args),
    }
}

/// What it ends with where nothing is in the way.
fn usual(args: &[&str]) -> i32 {
    if args == WAIT { TERMINATED } else { 0 }
}

fn put(kind: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    }
    let _ = fs::remove_file(path);
    match kind {
        "fifo" => run(Command::new("mkfifo").arg(path), SOON).ok().stdout.clear(),
        "directory" => fs::create_dir(path).unwrap(),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "device" => symlink("/dev/zero", path).unwrap(),
        "terminal" => symlink("/dev/tty", path).unwrap(),
        "dangling" => symlink("/nowhere/at/all", path).unwrap(),
        "zeros" => fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
        _ => {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }
    }
}

/// A server with INBOX, for all homes.
fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let capabilities = "IDLE ESEARCH CONDSTORE UNSELECT LIST-EXTENDED LIST-STATUS";
        Crowd::start(capabilities, |n| (n == 0).then(|| "INBOX".to_owned())).port()
    })
}

/// An account with TLS and certificates, on a server that has no TLS.
fn with_certificates() -> Home {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    let lines = "SSLType IMAPS\nClientCertificate ~/Home.crt\nClientKey ~/Home.key";
    let account = Account::fake("Home").patterns("*").port(port()).login("user", "none");
    let home = Home::with(vec![account.certificate(Ca::shared().cert()).account_line(lines)]);
    let certificate = CERTIFICATE.get_or_init(|| Ca::shared().issue(&["me"], 20));
    home.write("Home.crt", &certificate.cert);
    home.write("Home.key", &certificate.key);
    home
}

/// A home where everything is in its place: for a waiter in sync with the server, else
/// with a message to be pushed.
fn home(file: &str, args: &[&str]) -> Home {
    let home = if file.starts_with("Home.") {
        with_certificates()
    } else {
        let account = Account::fake("Home").patterns("*").port(port()).login("user", "none");
        Home::with(vec![account])
    };
    home.settings("throttle = \"0s\"\nsettle = \"10ms\"\nretry = \"1s\"\n");
    rig::crowd::in_step(&home, 1);
    if args != WAIT {
        home.write("Mail/Home/INBOX/new/2.a.b", "Subject: x\n\nx\n");
    }
    // As after a run of everything, so that nothing is due.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (millis, seconds) = (now.as_millis(), now.as_secs());
    home.write(
        ".local/state/mutt-sync/Home/last.json",
        &format!(
            "{{\"runs\":1,\"started\":{millis},\"whole\":true,\
             \"last_whole\":{seconds},\"last_success\":{seconds}}}"
        ),
    );
    home.age();
    home
}

/// Waits until the process has ended, or `idle` has passed and it sleeps.
fn settled(running: &Running, idle: Duration) {
    let (begun, mut before) = (Instant::now(), 0);
    while running.runs() && begun.elapsed() < SOON {
        sleep(Duration::from_millis(if idle == SOON { 5 } else { 100 }));
        let wakeups = process::wakeups(running.pid());
        if begun.elapsed() > idle && wakeups == before && !process::runnable(running.pid()) {
            break;
        }
        before = wakeups;
    }
}

/// How long the command took, or what is wrong.
fn took((file, kind, args): Cell<'_>) -> Result<Duration, String> {
    let what = format!("{kind} as {file}: {args:?}");
    let home = home(file, args);
    let _mbsync = home.fake_mbsync();
    put(kind, &home.path(file));
    let expected = expected((file, kind, args));
    let mut command = home.command("prlimit");
    command.arg(format!("--as={ROOM}")).arg(rig::mutt_sync()).args(args);
    let begun = Instant::now();
    let running = Running::start(command);
    // A waiter has to obey TERM, everything else to end by itself.
    settled(&running, if expected == TERMINATED { WAITS } else { SOON });
    let mut took = begun.elapsed();
    let by_itself = !running.runs();
    if !by_itself {
        let asked = Instant::now();
        running.signal(Signal::TERM);
        settled(&running, SOON);
        took = asked.elapsed();
        if running.runs() {
            process::kill(running.pid(), Signal::KILL);
            return Err(format!("{what}: TERM is not obeyed"));
        }
    }
    let output = running.wait(SOON);
    let same = output.code() == expected && by_itself == (expected != TERMINATED);
    if same && !output.stderr.contains("panicked") {
        return Ok(took);
    }
    Err(format!("{what}: not {expected}, by itself {by_itself}: {output}"))
}

#[test]
fn g9_what_is_no_file_in_the_place_of_any_file_holds_up_no_command() {
    let mut random = Seeded::from_env_or(18);
    let state = rig::STATE_FILES.iter().chain(&MORE_STATE);
    let state = state.map(|file| format!(".local/state/mutt-sync/Home/{file}"));
    let below_home = OPENED.iter().chain(&LOOKED_AT).map(|file| (*file).to_owned());
    let files: Vec<String> = below_home.chain(state).collect();
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for file in &files {
        for kind in KINDS {
            for args in COMMANDS {
                if soak() || random.usize(0..30) == 0 {
                    cells.push((file, kind, args));
                }
            }
        }
    }
    println!("{} of {} cells", cells.len(), files.len() * KINDS.len() * COMMANDS.len());
    let late = Mutex::new(Vec::new());
    let wrong = in_parallel(6, cells, |cell| {
        if took(cell)? > LIMIT {
            late.lock().unwrap().push(cell);
        }
        Ok(())
    });
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
    for cell in late.into_inner().unwrap() {
        assert!((0..3).any(|_| took(cell).unwrap() <= LIMIT), "{cell:?}: not within {LIMIT:?}");
    }
}

/// The files below the home that a command opens.
fn opened_by(home: &Home, args: &[&str]) -> BTreeSet<String> {
    let mut command = home.cmd(args);
    if args == WAIT {
        command = home.command("timeout");
        command.arg("3").arg(rig::mutt_sync()).args(args);
    }
    let base = format!("{}/", home.path("").display().to_string().trim_end_matches('/'));
    process::trace(&command, "open,openat", SOON)
        .iter()
        .filter(|line| !line.contains("O_DIRECTORY") && !line.contains("O_PATH"))
        .filter_map(|line| line.split('"').nth(1)?.strip_prefix(&base).map(str::to_owned))
        .filter(|file| !file.starts_with("bin/"))
        .collect()
}

/// The row of the table that this file belongs to.
fn place_of(file: &str) -> String {
    let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
    match name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) {
        // As which a file is written, by the process of that number.
        Some((name, pid)) if pid.parse::<u32>().is_ok() => return format!("{dir}/{name}"),
        _ => {}
    }
    match name {
        "isyncrc" => ".mbsyncrc".to_owned(),
        "config" if dir.ends_with("msmtp") => ".msmtprc".to_owned(),
        _ if name.ends_with("muttrc") => ".config/mutt/muttrc".to_owned(),
        _ if (dir.ends_with("/want") || dir.ends_with("/run")) && !name.starts_with('=') => {
            format!("{dir}/Home:INBOX")
        }
        _ => file.to_owned(),
    }
}

#[test]
fn every_file_that_a_command_opens_is_in_the_table_of_files() {
    let state = |file: &str| format!(".local/state/mutt-sync/Home/{file}");
    let below_home = OPENED.iter().chain(&LOOKED_AT).map(|file| (*file).to_owned());
    let mut table: BTreeSet<String> = below_home.collect();
    table.extend(rig::STATE_FILES.iter().chain(&MORE_STATE).map(|file| state(file)));
    let mut opened = BTreeSet::new();
    let with_certificates: &[&[&str]] = &[&["-n", "Home"], WAIT];
    for (file, commands) in [("", &COMMANDS[..]), ("Home.pem", with_certificates)] {
        for args in commands {
            let home = home(file, args);
            let _mbsync = home.fake_mbsync();
            home.write(".config/mutt/muttrc", "source ~/.config/mutt/account/Home\n");
            for file in OPENED.iter().filter(|file| !file.starts_with("Home.")) {
                if !home.path(file).exists() {
                    home.write(file, "");
                }
            }
            for file in rig::STATE_FILES.iter().chain(&MORE_STATE) {
                if !home.state("Home").join(file).exists() {
                    home.write(&state(file), "");
                }
            }
            opened.extend(opened_by(&home, args));
        }
    }
    let opened: BTreeSet<String> = opened.iter().map(|file| place_of(file)).collect();
    let unknown: Vec<&String> = opened.difference(&table).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let missed: Vec<&&str> = OPENED.iter().filter(|file| !opened.contains(**file)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
