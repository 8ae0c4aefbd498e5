//! mbsync over the waiter's own connection: the same results, one login, and
//! nothing lost when any part of it is killed.
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

use crate::support::Mangle;
use rig::process::wait_until;
use rig::{
    Account, Delay, Home, Imap, Maildir, Refuser, Running, Seeded, Server, ServerOptions, Signal,
    compare, count, mbsync_version, message,
};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const OURS: &str = "over the connection that is open";

/// A waiter that goes on, saying what it does; connected.
fn waiter(home: &Home) -> Running {
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    waiter.wait_for("connected by", LIMIT);
    waiter
}

/// Settings under which every event is served at once.
fn prompt(home: &Home, more: &str) {
    home.settings(&format!("throttle = \"0s\"\nsettle = \"10ms\"\nretry = \"1s\"\n{more}"));
}

/// What a record says of a mailbox whose sides are equal, but for what differs
/// between any two. isync 1.5 keeps the entry of a message that is gone until a
/// later run, and which one saves it depends on what else that run was for.
fn record(maildir: &Maildir) -> String {
    let text = fs::read_to_string(maildir.path().join(".mbsyncstate")).unwrap_or_default();
    let uids: Vec<u32> = maildir.list().iter().filter_map(|entry| entry.uid).collect();
    let gone = |line: &str| {
        let near =
            line.split(' ').nth(1).filter(|_| line.starts_with(|c: char| c.is_ascii_digit()));
        near.and_then(|uid| uid.parse().ok()).is_some_and(|uid| !uids.contains(&uid))
    };
    let purges = mbsync_version() < (1, 5);
    let kept = |line: &&str| !line.contains("UidValidity") && (purges || !gone(line));
    text.lines().filter(kept).collect::<Vec<_>>().join("\n")
}

fn until_equal(what: &str, imap: &mut Imap, home: &Home, account: &str, waiter: &Running) {
    let root = home.mail(account);
    let start = std::time::Instant::now();
    while let Err(diff) = compare(imap, &root) {
        assert!(start.elapsed() < LIMIT, "{what}: {diff}\n{waiter}");
        sleep(Duration::from_millis(20));
    }
}

fn ended(waiter: Running, home: &Home) {
    waiter.signal(Signal::TERM);
    waiter.wait(Duration::from_secs(10));
    home.wait_no_leftovers(Duration::from_secs(5));
}

/// Logins and password commands that a waiter's log accounts for: one for each
/// connection, and one for each run that had none.
fn accounted_for(waiter: &Running) -> usize {
    let log = waiter.stderr();
    let plain = log.matches(": running ").count() - log.matches(&format!(", {OURS}")).count();
    log.matches("connected by").count() + plain
}

fn runs_ended(home: &Home) -> u64 {
    let text = home.read(".local/state/mutt-sync/Home/last.json");
    let last = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
    last["runs"].as_u64().unwrap_or_default()
}

/// What comes in an hour, in less time: mail on both sides, requests, a
/// connection that is lost; then the timer's runs.
#[test]
fn g12_one_login_and_one_password_command_for_each_connection() {
    let mut server = Server::start();
    let asked = tempfile::NamedTempFile::new().unwrap();
    let command = format!("echo >> {}; echo {}", asked.path().display(), server.password("home"));
    let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&command)]);
    prompt(&home, "every = \"1d\"\n");
    let mut imap = server.imap("home");
    let commands = || fs::read_to_string(asked.path()).unwrap().lines().count();
    let waiting = waiter(&home);
    let runs = |waiter: &Running, how: &str| waiter.stderr().matches(how).count();
    until_equal("at first", &mut imap, &home, "Home", &waiting);
    let before = (server.logins("home"), commands());
    let events = count(9, 60);
    for event in 0..events {
        let text = format!("event {event}");
        let ran = runs_ended(&home);
        match event % 3 {
            0 => drop(imap.append("INBOX", &message(&text, &text), &[])),
            1 => drop(home.maildir("Home", "INBOX").add(&message(&text, &text), "S")),
            _ => drop(home.mutt_sync(&["-b", "--full", "Home"]).ok()),
        }
        wait_until(LIMIT, "a run's end", || runs_ended(&home) > ran);
        until_equal(&text, &mut imap, &home, "Home", &waiting);
        if event == events / 2 {
            assert_eq!((server.logins("home"), commands()), before, "{waiting}");
            assert_eq!(server.connections(), 1);
            server.restart();
            imap = server.imap("home");
            wait_until(LIMIT, "a second connection", || runs(&waiting, "connected by") == 2);
        }
    }
    let ours = runs(&waiting, &format!(", {OURS}"));
    assert!(ours >= events - 1, "{ours} runs for {events} events; {waiting}");
    let wanted = accounted_for(&waiting);
    assert!(wanted <= 4, "{waiting}");
    assert_eq!((server.logins("home"), commands()), (wanted, wanted), "{waiting}");
    assert_eq!(server.connections(), 1);
    println!("{events} events, {ours} runs over 2 connections, {wanted} logins and commands");
    ended(waiting, &home);

    prompt(&home, "every = \"1s\"\nfull_every = \"1s\"\n");
    let waiting = waiter(&home);
    let turns = count(4, 30);
    wait_until(LIMIT * 2, "the timer's runs", || {
        runs(&waiting, &format!("-- Home, {OURS}")) >= turns
    });
    ended_well(&waiting);
    let wanted = wanted + accounted_for(&waiting);
    assert_eq!((server.logins("home"), commands()), (wanted, wanted), "{waiting}");
    assert!(accounted_for(&waiting) <= 2, "{waiting}");
    home.wait_no_leftovers(Duration::from_secs(5));
}

fn ended_well(waiter: &Running) {
    waiter.signal(Signal::TERM);
    wait_until(Duration::from_secs(10), "its end", || !waiter.runs());
}

#[test]
fn the_results_are_those_of_plain_mbsync() {
    let server = Server::start();
    let (ours, plain) = (Home::on(&server, &["Home"]), Home::on(&server, &["Work"]));
    prompt(&ours, "");
    let (mut at_home, mut at_work) = (server.imap("home"), server.imap("work"));
    let waiter = waiter(&ours);
    until_equal("at first", &mut at_home, &ours, "Home", &waiter);
    plain.mbsync(&["Work"]).ok();
    let mut random = Seeded::from_env_or(31);
    let mut there: Vec<String> = Vec::new();
    let boxes = ["INBOX", "Archive"];
    for step in 0..count(14, 200) {
        let kind = if there.len() < 2 { step % 2 } else { random.usize(0..7) };
        let text = if kind < 2 {
            format!("message {step} of {}", random.seed())
        } else {
            random.pick(&there).clone()
        };
        let mail = message(&text, &text);
        for (home, account, imap) in [(&ours, "Home", &mut at_home), (&plain, "Work", &mut at_work)]
        {
            let inbox = home.maildir(account, "INBOX");
            match kind {
                0 => drop(imap.append("INBOX", &mail, &[])),
                1 => drop(inbox.add(&mail, "")),
                2 => {
                    let uid = imap.find("INBOX", &text).uid;
                    imap.select("INBOX");
                    imap.add_flags(uid, &["\\Flagged"]);
                    imap.unselect();
                }
                3 => drop(inbox.set_flags(&inbox.find(&text), "RS")),
                4 => {
                    let uid = imap.find("INBOX", &text).uid;
                    imap.select("INBOX");
                    imap.expunge(uid);
                    imap.unselect();
                }
                5 => inbox.delete(&inbox.find(&text)),
                _ => drop(inbox.move_to(&inbox.find(&text), &home.maildir(account, "Archive"))),
            }
        }
        match kind {
            0 | 1 => there.push(text.clone()),
            4.. => there.retain(|each| *each != text),
            _ => {}
        }
        plain.mbsync(&["Work"]).ok();
        let what = format!("step {step}, kind {kind}, {text}, seed {}", random.seed());
        until_equal(&what, &mut at_home, &ours, "Home", &waiter);
        for name in boxes {
            let (a, b) = (ours.maildir("Home", name), plain.maildir("Work", name));
            let start = std::time::Instant::now();
            while record(&a) != record(&b) {
                assert!(
                    start.elapsed() < Duration::from_secs(10),
                    "{what}: {name}: {}\nplain: {}\n{waiter}",
                    record(&a),
                    record(&b)
                );
                sleep(Duration::from_millis(20));
            }
        }
    }
    assert!(waiter.stderr().contains(OURS), "{waiter}");
    assert!(!waiter.stderr().contains("not over the connection"), "{waiter}");
    ended(waiter, &ours);
}

/// A home whose server is so far away that a run takes a while.
fn far_away(server: &Server, round_trip: u64) -> (Home, Delay) {
    let delay = Delay::to(server.port(), Duration::from_millis(round_trip));
    let home = Home::with(vec![Account::on(server, "Home").port(delay.port())]);
    prompt(&home, "");
    (home, delay)
}

/// The running mbsync of this home.
fn mbsync_of(home: &Home) -> Option<u32> {
    let is = |(pid, line): (u32, String)| line.contains("mbsync -").then_some(pid);
    home.leftovers().into_iter().find_map(is)
}

#[test]
fn g2_nothing_is_lost_or_doubled_when_any_part_is_killed() {
    let mut server = Server::start();
    let (home, delay) = far_away(&server, 30);
    let mut imap = server.imap("home");
    let mut waiting = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiting);
    let mut random = Seeded::from_env_or(8);
    let (mut over_ours, mut again) = (0, 0);
    let mut tally = |waiting: &Running| {
        over_ours += waiting.stderr().matches(OURS).count();
        again += waiting.stderr().matches("not over the connection").count();
    };
    for round in 0..count(12, 200) {
        let text = format!("round {round} of {}", random.seed());
        if random.bool() {
            imap.append("INBOX", &message(&text, &text), &[]);
        } else {
            home.maildir("Home", "INBOX").add(&message(&text, &text), "F");
        }
        let victim = round % 5;
        let begun = std::time::Instant::now();
        while mbsync_of(&home).is_none() && begun.elapsed() < Duration::from_secs(4) {
            sleep(Duration::from_millis(2));
        }
        sleep(Duration::from_millis(random.u64(0..200)));
        match victim {
            0 => waiting.signal(Signal::KILL),
            1 => {
                if let Some(pid) = mbsync_of(&home) {
                    rig::process::kill(pid, Signal::KILL);
                }
            }
            2 => delay.cut(),
            3 => {
                server.kill();
                server.restart();
                imap = server.imap("home");
            }
            _ => {
                let tunnel =
                    |(pid, line): (u32, String)| line.contains("--child tunnel").then_some(pid);
                if let Some(pid) = home.leftovers().into_iter().find_map(tunnel) {
                    rig::process::kill(pid, Signal::KILL);
                }
            }
        }
        if victim == 0 {
            tally(&waiting);
            // mbsync dies with it, and the tunnel when mbsync does.
            home.wait_no_leftovers(Duration::from_secs(10));
            waiting = waiter(&home);
        }
        let what = format!("{text}, victim {victim}");
        until_equal(&what, &mut imap, &home, "Home", &waiting);
        // Equal, and not by having it twice.
        // Dovecot's STATUS may lag behind what another session has just appended.
        assert_eq!(imap.fetch_all("INBOX").len(), round + 1, "{what}\n{waiting}");
        assert_eq!(home.maildir("Home", "INBOX").len(), round + 1, "{what}\n{waiting}");
        imap.find("INBOX", &text);
    }
    tally(&waiting);
    println!("{over_ours} runs over our connection, {again} of them made again without it");
    assert!(over_ours > 0);
    ended(waiting, &home);
}

/// Kilobytes that the process alone has.
fn private(pid: u32) -> u64 {
    rig::process::memory_kib(pid, "RssAnon:")
}

#[test]
fn much_mail_passes_and_leaves_no_trace_in_memory() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    prompt(&home, "");
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    imap.append("INBOX", &message("first", "first"), &[]);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    let before = private(waiter.pid());
    let many = |from: usize, to: usize| -> Vec<Vec<u8>> {
        (from..to).map(|n| message(&format!("mail {n}"), &"line\r\n".repeat(n % 300))).collect()
    };
    let (pulled, pushed) = (count(1500, 30_000), count(150, 2_000));
    imap.append_many("INBOX", &many(0, pulled), &[]);
    let inbox = home.maildir("Home", "INBOX");
    wait_until(LIMIT * 10, "all is pulled", || inbox.len() == pulled + 1);
    for mail in many(pulled, pulled + pushed) {
        home.maildir("Home", "Archive").add(&mail, "S");
    }
    until_equal("pushed", &mut imap, &home, "Home", &waiter);
    assert!(waiter.stderr().contains(OURS), "{waiter}");
    assert!(!waiter.stderr().contains("not over the connection"), "{waiter}");
    let after = private(waiter.pid());
    println!("{before} kB before {pulled} pulled and {pushed} pushed, {after} kB after");
    // What the look itself keeps of so many messages is its own.
    let per_message = (pulled + pushed) as u64 * 100 / 1024;
    assert!(after < before + 1024 + per_message, "{before} kB grew to {after} kB");
    ended(waiter, &home);
}

/// An mbsync over the lent connection, caught while it runs: on a busy machine
/// one may be gone before it is seen.
fn caught_mbsync(home: &Home, imap: &mut Imap) -> u32 {
    for attempt in 0..20 {
        let text = format!("attempt {attempt}");
        imap.append("INBOX", &message(&text, &text), &[]);
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(pid) = mbsync_of(home) {
                return pid;
            }
            sleep(Duration::from_millis(2));
        }
    }
    panic!("mbsync is never seen");
}

/// The same, stopped so that it can be looked at.
fn held_mbsync(home: &Home, imap: &mut Imap) -> u32 {
    for _ in 0..20 {
        let pid = caught_mbsync(home, imap);
        rig::process::kill(pid, Signal::STOP);
        if rig::process::command_line(pid).contains("/proc/self/fd/") {
            return pid;
        }
        // Gone, or one that runs without the connection.
        rig::process::kill(pid, Signal::CONT);
    }
    panic!("mbsync is always faster");
}

#[test]
fn g11_the_copy_and_the_channel_are_nobody_elses() {
    let server = Server::start();
    let (home, _delay) = far_away(&server, 400);
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    let pid = held_mbsync(&home, &mut imap);
    let password = server.password("home");
    let line = rig::process::command_line(pid);
    let copy = line.split(' ').find_map(|word| word.strip_prefix("/proc/self/fd/")).unwrap();
    let copy = PathBuf::from(format!("/proc/{pid}/fd/{copy}"));
    let text = fs::read_to_string(&copy).unwrap();
    assert!(text.contains("Tunnel \"exec /proc/self/fd/"), "{text}");
    for secret in [&password[..], "Pass", "User", "Host"] {
        assert!(!text.contains(secret), "{secret} is in the copy:\n{text}");
    }
    assert!(fs::read_link(&copy).unwrap().to_str().unwrap().contains("memfd:"), "on a disk");
    assert!(fs::write(&copy, "Host evil").is_err(), "the copy can be changed");
    // None of mbsync's sockets has a name, so none can be connected to.
    let named = fs::read_to_string("/proc/net/unix").unwrap();
    let mut sockets = 0;
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(link) = fs::read_link(fd.unwrap().path()) else { continue };
        let Some(inode) = link.to_str().and_then(|link| link.strip_prefix("socket:[")) else {
            continue;
        };
        let inode = inode.trim_end_matches(']');
        let line = named.lines().find(|line| line.split_whitespace().nth(6) == Some(inode));
        sockets += 1;
        assert!(line.is_none_or(|line| line.split_whitespace().count() == 7), "{line:?}");
    }
    assert!(sockets > 0, "no socket was looked at");
    // To whatever takes part in the run, as long as it lasts, the tunnel too.
    rig::process::kill(pid, Signal::CONT);
    let mut looked_at = 0;
    while mbsync_of(&home) == Some(pid) {
        for (of, _) in home.leftovers() {
            for place in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{of}/{place}")).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&bytes).contains(&password), "{place} of {of}");
                looked_at += bytes.len();
            }
        }
    }
    assert!(looked_at > 0, "nothing was looked at");
    until_equal("after it", &mut imap, &home, "Home", &waiter);
    ended(waiter, &home);
}

/// Run by root, it really becomes another user and tries all ways in. Run by
/// anybody else it cannot; then what keeps the other users out is looked at: who
/// owns what, and who may do what with it.
#[test]
fn g11_another_user_reaches_neither_the_copy_nor_the_channel() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let server = Server::start();
    let (home, _delay) = far_away(&server, 1000);
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    let mbsync = held_mbsync(&home, &mut imap);
    let us = rustix::process::geteuid().as_raw();
    let line = rig::process::command_line(mbsync);
    let copy = line.split(' ').find_map(|word| word.strip_prefix("/proc/self/fd/")).unwrap();
    let copy = fs::metadata(format!("/proc/{mbsync}/fd/{copy}")).unwrap();
    assert_eq!((copy.uid(), copy.permissions().mode() & 0o777), (us, 0o400));
    for at in [mbsync, waiter.pid()].map(|pid| format!("/proc/{pid}/fd")) {
        let Ok(fds) = fs::metadata(&at) else { panic!("no {at}") };
        assert_eq!(fds.permissions().mode() & 0o077, 0, "{at} is open to others");
        // The waiter's are its own user's neither: it is not dumpable.
        let ours = at.contains(&mbsync.to_string());
        assert_eq!(fds.uid(), if ours { us } else { 0 }, "{at}");
    }
    let state = fs::metadata(home.state("Home")).unwrap();
    assert_eq!((state.uid(), state.permissions().mode() & 0o777), (us, 0o700));
    if rig::is_root() {
        // A process of his own he does reach: these are ways in.
        let mut his = std::process::Command::new("setpriv");
        his.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "600"]);
        let his = Running::start(his);
        wait_until(LIMIT, "his own process", || {
            rig::process::command_line(his.pid()).starts_with("sleep")
        });
        let reached = rig::reached_by_nobody(his.pid());
        for way in ["its descriptors listed", "descriptor 0 opened", "environ read", "signalled"] {
            assert!(reached.iter().any(|each| each == way), "{way} is no way in: {reached:?}");
        }
        for pid in [mbsync, waiter.pid()] {
            let line = rig::process::command_line(pid);
            assert_eq!(rig::reached_by_nobody(pid), Vec::<String>::new(), "{line}");
        }
        let state = home.state("Home");
        assert!(rig::as_nobody(|| fs::read_dir(state).is_err()), "nobody can ask for a sync");
    } else {
        let at = format!("/proc/{}/fd", waiter.pid());
        assert!(fs::read_dir(at).is_err(), "what runs as the same user gets at the connection");
    }
    rig::process::kill(mbsync, Signal::CONT);
    until_equal("after it", &mut imap, &home, "Home", &waiter);
    assert!(!waiter.stderr().contains("not over the connection"), "{waiter}");
    ended(waiter, &home);
}

#[test]
fn a_dead_connection_leads_to_a_plain_run() {
    let server = Server::start();
    let (home, delay) = far_away(&server, 300);
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    imap.append("INBOX", &message("new", "new"), &[]);
    waiter.wait_for(OURS, LIMIT);
    sleep(Duration::from_millis(250));
    delay.cut();
    waiter.wait_for("not over the connection that is open: ", LIMIT);
    until_equal("after it", &mut imap, &home, "Home", &waiter);
    wait_until(LIMIT, "it watches again", || waiter.stderr().matches("connected by").count() >= 2);
    imap.append("INBOX", &message("newer", "newer"), &[]);
    until_equal("warm again", &mut imap, &home, "Home", &waiter);
    assert!(waiter.stderr().matches(OURS).count() >= 2, "{waiter}");
    ended(waiter, &home);
}

/// The end of the waiter's NOTIFY is still on its way when mbsync opens the mailbox.
#[test]
fn known_flags_are_not_fetched_over_a_long_line() {
    for notify in [true, false] {
        let server = Server::with(ServerOptions { notify, ..ServerOptions::default() });
        let (home, _delay) = far_away(&server, 100);
        let mut imap = server.imap("home");
        for n in 0..40 {
            imap.append("INBOX", &message(&format!("old {n}"), "old"), &["\\Seen"]);
        }
        home.mutt_sync(&["Home"]).ok();
        let waiter = waiter(&home);
        waiter.wait_for("INBOX: in sync with the server", LIMIT);
        let told = || waiter.stderr().matches("known flags not fetched").count();
        for n in 0..3 {
            let (ran, before) = (runs_ended(&home), told());
            let text = format!("new {n}");
            imap.append("INBOX", &message(&text, &text), &[]);
            until_equal(&text, &mut imap, &home, "Home", &waiter);
            wait_until(LIMIT, "a run's end", || runs_ended(&home) > ran);
            wait_until(LIMIT, "a run without flags", || told() > before);
        }
        assert!(!waiter.stderr().contains("not over the connection"), "{waiter}");
        ended(waiter, &home);
    }
}

/// A server, a proxy that notes the commands, and a home of twenty messages.
struct Noted {
    server: Server,
    home: Home,
    /// What was said to the server.
    said: Arc<Mutex<Vec<String>>>,
    /// What happens on the server before it hears a command with this in it.
    meanwhile: Arc<Mutex<Option<(&'static str, Meanwhile)>>>,
}

type Meanwhile = Box<dyn FnOnce(&mut Imap) + Send>;

impl Noted {
    /// `halves`: of the STATUS that follows NOTIFY it leaves HIGHESTMODSEQ out.
    fn new(halves: bool) -> Noted {
        let without = vec!["COMPRESS=DEFLATE".to_owned()];
        let server = Server::with(ServerOptions { without, ..ServerOptions::default() });
        let (said, meanwhile) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let (port, password) = (server.port(), server.password("home"));
        let notes = Arc::clone(&said);
        let change: Arc<Mutex<Option<(&str, Meanwhile)>>> = Arc::clone(&meanwhile);
        let note = move |_: &str, command: &str| {
            notes.lock().unwrap().push(command.to_owned());
            let mut change = change.lock().unwrap();
            if change.as_ref().is_some_and(|(at, _)| command.contains(at)) {
                if let Some((_, change)) = change.take() {
                    change(&mut Imap::login(port, "home", &password));
                }
            }
            None
        };
        let asked = Arc::clone(&said);
        let half = move |line: &str, _: bool| {
            let (start, rest) = line.split_once(" HIGHESTMODSEQ ").filter(|_| halves)?;
            let told = start.starts_with("* STATUS")
                && asked.lock().unwrap().last()?.starts_with("NOTIFY SET");
            let end = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            told.then(|| format!("{start}{end}"))
        };
        let mangle = Mangle::to(port, note, half);
        let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
        prompt(&home, "");
        let mut imap = server.imap("home");
        for n in 0..20 {
            imap.append("INBOX", &message(&format!("old {n}"), "old"), &["\\Seen"]);
        }
        home.mutt_sync(&["Home"]).ok();
        Noted { server, home, said, meanwhile }
    }

    fn waiter(&self) -> Running {
        let waiter = waiter(&self.home);
        waiter.wait_for("INBOX: in sync with the server", LIMIT);
        waiter
    }

    /// What the waiter and mbsync say to the server for one change, until all is in step.
    fn commands_for(&self, waiter: &Running, what: &str, change: impl FnOnce()) -> Vec<String> {
        let in_step = || waiter.stderr().matches("INBOX: in sync with the server").count();
        let (ran, before) = (runs_ended(&self.home), in_step());
        self.said.lock().unwrap().clear();
        change();
        wait_until(LIMIT, "a run's end", || runs_ended(&self.home) > ran);
        wait_until(LIMIT, "all in step", || in_step() > before);
        until_equal(what, &mut self.server.imap("home"), &self.home, "Home", waiter);
        self.said.lock().unwrap().clone()
    }
}

/// A change that carries no news, each another one.
fn change_there(imap: &mut Imap, kind: usize, round: usize) {
    let uid = u32::try_from(1 + round).unwrap();
    match kind % 3 {
        0 => drop(imap.append("INBOX", &message(&format!("new {round}"), "new"), &[])),
        1 => {
            imap.select("INBOX");
            imap.add_flags(uid, &["\\Flagged"]);
            imap.unselect();
        }
        _ => {
            imap.select("INBOX");
            imap.expunge(uid);
            imap.unselect();
        }
    }
}

#[test]
fn what_a_run_was_told_is_not_asked_again() {
    let noted = Noted::new(false);
    let waiter = noted.waiter();
    let mut imap = noted.server.imap("home");
    for kind in 0..3 {
        // What comes sooner after a run may be an echo of it.
        sleep(Duration::from_secs(4));
        let said = noted.commands_for(&waiter, &format!("kind {kind}"), || {
            change_there(&mut imap, kind, kind);
        });
        for verb in ["EXAMINE", "STATUS", "CLOSE"] {
            assert!(!said.iter().any(|line| line.starts_with(verb)), "{verb}: {said:?}");
        }
        assert!(said.iter().any(|line| line.contains("CHANGEDSINCE")), "{said:?}");
    }
    // What the run has changed on the server is looked at.
    let inbox = noted.home.maildir("Home", "INBOX");
    let entry = inbox.find("old 9");
    let said = noted.commands_for(&waiter, "a flag here", || drop(inbox.set_flags(&entry, "RS")));
    assert!(said.iter().any(|line| line.starts_with("EXAMINE")), "{said:?}");
    ended(waiter, &noted.home);
    // The one that comes next has nothing to ask for, either.
    noted.said.lock().unwrap().clear();
    let next = self::waiter(&noted.home);
    wait_until(LIMIT, "IDLE", || noted.said.lock().unwrap().iter().any(|line| line == "IDLE"));
    assert!(!noted.said.lock().unwrap().iter().any(|line| line.starts_with("EXAMINE")), "{next}");
    ended(next, &noted.home);
}

#[test]
fn g6_what_happens_while_a_run_is_told_what_there_is_is_not_missed() {
    for halves in [false, true] {
        let noted = Noted::new(halves);
        let waiter = noted.waiter();
        let mut imap = noted.server.imap("home");
        let moments = ["UID SEARCH", "CHANGEDSINCE", "UNSELECT", "NOTIFY SET"];
        for round in 0..count(6, 12) {
            let (moment, kind) = (moments[round % 4], round);
            let meanwhile: Meanwhile = Box::new(move |imap| change_there(imap, kind, 12 - round));
            *noted.meanwhile.lock().unwrap() = Some((moment, meanwhile));
            let what = format!("round {round}, at {moment}");
            let said = noted.commands_for(&waiter, &what, || change_there(&mut imap, 0, round));
            assert!(noted.meanwhile.lock().unwrap().is_none(), "{what}: {said:?}");
            if halves {
                let at = said.iter().position(|line| line.starts_with("NOTIFY SET")).unwrap();
                assert!(said[at + 1].starts_with("STATUS"), "{what}: {said:?}");
            }
        }
        ended(waiter, &noted.home);
    }
}

/// Of what it says in place of all flags nothing is believed that does not fit the rest.
#[test]
fn g14_a_server_that_lies_of_what_there_is_has_nothing_deleted() {
    const SEARCHED: &str = "* ESEARCH (TAG \"k1\")";
    // What is compressed cannot be read on the way.
    let without = vec!["COMPRESS=DEFLATE".to_owned()];
    let server = Server::with(ServerOptions { without, ..ServerOptions::default() });
    let lying: Arc<Mutex<Option<(&str, &str)>>> = Arc::default();
    let told = Arc::clone(&lying);
    let lie = move |line: &str, _: bool| {
        let (truth, lie) = (*told.lock().unwrap())?;
        line.starts_with(truth).then(|| format!("{lie}\r\n"))
    };
    let mangle = Mangle::to(server.port(), |_, _| None, lie);
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    prompt(&home, "");
    let mut imap = server.imap("home");
    for n in 0..20 {
        imap.append("INBOX", &message(&format!("old {n}"), "old"), &["\\Seen"]);
    }
    home.mutt_sync(&["Home"]).ok();
    let waiter = waiter(&home);
    waiter.wait_for("INBOX: in sync with the server", LIMIT);
    let before = private(waiter.pid());
    // Fewer, more, none, others, not so many as it says, too few changes.
    let lies = [
        (SEARCHED, "* ESEARCH (TAG \"k1\") UID ALL 1:9"),
        (SEARCHED, "* ESEARCH (TAG \"k1\") UID ALL 1:4294967295"),
        (SEARCHED, "* ESEARCH (TAG \"k1\") UID"),
        (SEARCHED, "* ESEARCH (TAG \"k1\") UID ALL 1:20,4000:4005"),
        (SEARCHED, "* 3 EXPUNGE"),
        ("k2 ", "k2 OK [MESSAGELIMIT 1 1] some"),
        ("k2 ", "k2 NO not today"),
        ("k2 ", "* 1 FETCH (UID 4294967295 FLAGS (\\Deleted))\r\nk2 OK done"),
    ];
    let told = || waiter.stderr().matches("known flags not fetched").count();
    for (at, lie) in lies.into_iter().enumerate() {
        // After each lie the truth is believed again.
        for (is_lie, which) in [(true, 2 * at), (false, 2 * at + 1)] {
            *lying.lock().unwrap() = is_lie.then_some(lie);
            let (ran, before) = (runs_ended(&home), told());
            let text = format!("new {which}");
            imap.append("INBOX", &message(&text, &text), &[]);
            wait_until(LIMIT, "a run's end", || runs_ended(&home) > ran);
            *lying.lock().unwrap() = None;
            until_equal(&text, &mut imap, &home, "Home", &waiter);
            assert_eq!(home.maildir("Home", "INBOX").len(), 21 + which, "{lie:?}\n{waiter}");
            if !is_lie {
                wait_until(LIMIT, "known flags are told", || told() > before);
            }
        }
    }
    let after = private(waiter.pid());
    assert!(after < before + 1024, "{before} kB grew to {after} kB");
    ended(waiter, &home);
}

#[test]
fn gaps_in_a_mailbox_are_told_only_when_something_is_gone() {
    let without = vec!["COMPRESS=DEFLATE".to_owned()];
    let server = Server::with(ServerOptions { without, ..ServerOptions::default() });
    let longest = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&longest);
    let hear = move |line: &str, _: bool| {
        if line.starts_with("* ESEARCH") {
            heard.fetch_max(line.len(), Relaxed);
        }
        None
    };
    let mangle = Mangle::to(server.port(), |_, _| None, hear);
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    prompt(&home, "");
    let mut imap = server.imap("home");
    let old = (0..100).map(|n| message(&format!("old {n}"), "old")).collect::<Vec<_>>();
    imap.append_many("INBOX", &old, &["\\Seen"]);
    imap.select("INBOX");
    for uid in (2..100).step_by(2) {
        imap.expunge(uid);
    }
    imap.unselect();
    home.mutt_sync(&["Home"]).ok();
    let waiter = waiter(&home);
    waiter.wait_for("INBOX: in sync with the server", LIMIT);
    // What a run changed is looked at once more, and all is known by then.
    let is_told = |change: &mut dyn FnMut(&mut Imap), imap: &mut Imap| {
        let judged = || waiter.stderr().matches("INBOX: in sync with the server").count();
        let (ran, before) = (runs_ended(&home), judged());
        longest.store(0, Relaxed);
        change(imap);
        wait_until(LIMIT, "a run's end", || runs_ended(&home) > ran);
        until_equal("a change", imap, &home, "Home", &waiter);
        wait_until(LIMIT, "the verdict", || judged() > before);
        longest.load(Relaxed) > 100
    };
    for round in 0..3 {
        let append = &mut |imap: &mut Imap| {
            imap.append("INBOX", &message(&format!("new {round}"), "new"), &[]);
        };
        let flag = &mut |imap: &mut Imap| {
            imap.select("INBOX");
            imap.add_flags(1, &[["\\Flagged", "\\Answered", "\\Draft"][round]]);
            imap.unselect();
        };
        let expunge = &mut |imap: &mut Imap| {
            imap.select("INBOX");
            imap.expunge(u32::try_from(3 + 2 * round).unwrap());
            imap.unselect();
        };
        assert!(!is_told(append, &mut imap), "{waiter}");
        assert!(!is_told(flag, &mut imap), "{waiter}");
        assert!(is_told(expunge, &mut imap), "{waiter}");
    }
    ended(waiter, &home);
}

#[test]
fn all_flags_are_fetched_where_that_is_wanted() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    prompt(&home, "changedsince = false\n");
    let mut imap = server.imap("home");
    for n in 0..40 {
        imap.append("INBOX", &message(&format!("old {n}"), "old"), &["\\Seen"]);
    }
    home.mutt_sync(&["Home"]).ok();
    let waiter = waiter(&home);
    waiter.wait_for("INBOX: in sync with the server", LIMIT);
    imap.append("INBOX", &message("new", "new"), &[]);
    waiter.wait_for("INBOX 1 new", LIMIT);
    until_equal("new", &mut imap, &home, "Home", &waiter);
    let log = waiter.stderr();
    assert!(log.contains(OURS) && !log.contains("known flags"), "{waiter}");
    ended(waiter, &home);
}

#[test]
fn runs_are_plain_where_lending_is_not_wanted() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    prompt(&home, "handover = false\n");
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    imap.append("INBOX", &message("new", "new"), &[]);
    until_equal("new", &mut imap, &home, "Home", &waiter);
    assert!(!waiter.stderr().contains(&format!(", {OURS}")), "{waiter}");
    ended(waiter, &home);
}

/// CLOSE is the only way to leave a mailbox then, and must not expunge what only mbsync
/// may.
#[test]
fn without_unselect_the_connection_is_lent_and_nothing_is_expunged() {
    for notify in [true, false] {
        let server = Server::with(ServerOptions {
            notify,
            without: vec!["UNSELECT".to_owned(), "COMPRESS=DEFLATE".to_owned()],
            ..ServerOptions::default()
        });
        let refuser = Refuser::before(server.port());
        refuser.answer("UNSELECT", "BAD unknown");
        let account = Account::on(&server, "Home").port(refuser.port());
        let home = Home::with(vec![account.channel("Create Both\nExpunge None\nRemove None")]);
        prompt(&home, "connections = 1\n");
        let mut imap = server.imap("home");
        let deleted = imap.append("INBOX", &message("deleted", "x"), &["\\Deleted"]);
        let waiter = waiter(&home);
        until_equal("at first", &mut imap, &home, "Home", &waiter);
        let logins = server.logins("home");
        for n in 0..3 {
            let text = format!("new {n}");
            imap.append("INBOX", &message(&text, &text), &[]);
            until_equal(&text, &mut imap, &home, "Home", &waiter);
        }
        assert!(waiter.stderr().matches(&format!(", {OURS}")).count() >= 3, "{waiter}");
        assert_eq!(server.logins("home"), logins, "{waiter}");
        assert!(imap.fetch_all("INBOX").iter().any(|message| message.uid == deleted));
        ended(waiter, &home);
    }
}

#[test]
fn mbsyncs_complaints_name_the_users_file() {
    let server = Server::start();
    let mut home = Home::on(&server, &["Home"]);
    let mbsync = home.path("bin/mbsync");
    prompt(&home, &format!("mbsync = \"{}\"\n", mbsync.display()));
    // It says where the copy is, as mbsync does of a line that it cannot read.
    home.program(
        "mbsync",
        &format!(
            "case $3 in /proc/*) echo \"$3:12: not a keyword\" >&2; exit 1;; esac; exec {} \"$@\"",
            rig::real_mbsync().display()
        ),
    );
    home.set_env("PATH", "/usr/bin:/bin");
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    imap.append("INBOX", &message("new", "new"), &[]);
    let file = home.path(".mbsyncrc");
    waiter.wait_for(&format!("{}:12: not a keyword", file.display()), LIMIT);
    // It did not come for the connection, so it gets a chance without.
    until_equal("plainly", &mut imap, &home, "Home", &waiter);
    ended(waiter, &home);
}

/// One that a run has made, on either side, is watched over the connection that was lent.
#[test]
fn a_mailbox_that_a_run_has_made_is_watched_without_another_login() {
    for notify in [true, false] {
        let server = Server::with(ServerOptions { notify, ..ServerOptions::default() });
        let home = Home::on(&server, &["Home"]);
        let sweep = if notify { "" } else { "sweep = \"2s\"\n" };
        prompt(&home, &format!("connections = 1\n{sweep}"));
        let mut imap = server.imap("home");
        let waiter = waiter(&home);
        until_equal("at first", &mut imap, &home, "Home", &waiter);
        imap.create("from there");
        home.maildir("Home", "from here").create().add(&message("made", "made"), "S");
        until_equal("made", &mut imap, &home, "Home", &waiter);
        for name in ["from there", "from here", "Archive"] {
            let text = format!("new in {name}");
            imap.append(name, &message(&text, &text), &[]);
            until_equal(&text, &mut imap, &home, "Home", &waiter);
        }
        assert_eq!(server.logins("home"), 1, "{waiter}");
        ended(waiter, &home);
    }
}

#[test]
fn where_there_is_no_notify_one_of_the_idling_connections_is_lent() {
    let server = Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    prompt(&home, "connections = 3\n");
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    wait_until(LIMIT, "its connections", || server.logins("home") == 3);
    for event in 0..3 {
        let text = format!("event {event}");
        imap.append("INBOX", &message(&text, &text), &[]);
        until_equal(&text, &mut imap, &home, "Home", &waiter);
        home.maildir("Home", "Archive").add(&message(&text, &format!("{text} kept")), "S");
        until_equal(&text, &mut imap, &home, "Home", &waiter);
    }
    assert!(waiter.stderr().contains("connected by IDLE"), "{waiter}");
    assert!(waiter.stderr().matches(OURS).count() >= 6, "{waiter}");
    assert_eq!(server.logins("home"), 3, "{waiter}");
    ended(waiter, &home);
}

#[test]
fn a_tunnel_of_the_users_own_is_used_for_both() {
    let server = Server::start();
    let tunnels = tempfile::NamedTempFile::new().unwrap();
    let tunnel = format!(
        "echo >> {}; exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{} 4<&0; \
         cat <&4 >&3 & cat <&3; kill $!'",
        tunnels.path().display(),
        server.port()
    );
    let line = format!("Tunnel \"{tunnel}\"");
    let home = Home::with(vec![Account::on(&server, "Home").account_line(&line)]);
    prompt(&home, "");
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    let started = || fs::read_to_string(tunnels.path()).unwrap().lines().count();
    let before = started();
    imap.append("INBOX", &message("new", "new"), &[]);
    until_equal("new", &mut imap, &home, "Home", &waiter);
    assert!(waiter.stderr().contains(OURS), "{waiter}");
    assert_eq!(started(), before, "{waiter}");
    ended(waiter, &home);
}

#[test]
fn one_that_waits_once_lends_its_connection_and_goes() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    prompt(&home, "");
    let mut imap = server.imap("home");
    home.mutt_sync(&["Home"]).ok();
    let waiter = Running::start(home.cmd(&["--wait", "-v", "Home"]));
    waiter.wait_for("connected by", LIMIT);
    sleep(Duration::from_millis(300));
    let logins = server.logins("home");
    imap.append("INBOX", &message("new", "new"), &[]);
    let ended = waiter.wait(LIMIT).ok();
    assert!(ended.stderr.contains(OURS), "{ended}");
    assert_eq!(server.logins("home"), logins, "{ended}");
    compare(&mut imap, &home.mail("Home")).unwrap();
    home.wait_no_leftovers(Duration::from_secs(5));
    wait_until(LIMIT, "the connection is closed", || server.connections() == 0);
}

#[test]
fn a_second_connection_is_not_to_be_had() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let mbsync = home.program(
        "mbsync",
        &format!(
            "case $3 in /proc/*) sh -c \"$(sed -n 's/^Tunnel \"\\(.*\\)\"$/\\1/p' \"$3\")\" </dev/null;; esac\n\
             exec {} \"$@\"",
            rig::real_mbsync().display()
        ),
    );
    prompt(&home, &format!("mbsync = \"{}\"\n", mbsync.display()));
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    imap.append("INBOX", &message("new", "new"), &[]);
    waiter
        .wait_for("not over the connection that is open: mbsync wants a second connection", LIMIT);
    until_equal("plainly", &mut imap, &home, "Home", &waiter);
    ended(waiter, &home);
}

#[test]
fn g8_a_signal_in_the_middle_of_it_ends_all() {
    let server = Server::start();
    let (home, _delay) = far_away(&server, 400);
    let mut imap = server.imap("home");
    let waiter = waiter(&home);
    until_equal("at first", &mut imap, &home, "Home", &waiter);
    caught_mbsync(&home, &mut imap);
    sleep(Duration::from_millis(100));
    waiter.signal(Signal::TERM);
    let begun = std::time::Instant::now();
    let ended = waiter.wait(Duration::from_secs(5));
    assert_eq!(ended.code(), 128 + 15, "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{ended}");
    home.assert_no_leftovers();
    // It was asked for, and still is.
    home.mutt_sync(&["Home"]).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
}
