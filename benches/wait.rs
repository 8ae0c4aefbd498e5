//! What waiting costs, and how soon it is over. Against a real server on
//! loopback, over TLS.
//!
//!     cargo bench --bench wait -- [SECONDS] [idle] [latency] [ending] [thousand]
//!
//! SECONDS is how long it stays idle while it is watched: 120 unless told,
//! 600 with SOAK=1. Budgets are printed beside the figures; a missed one fails.
//!
//! Private memory is what was written to: the pages of the program's and the
//! libraries' code count as private, too, as long as nobody else runs them, and
//! are printed beside it.

use rig::{
    Account, Delay, Home, Mbsync, Server, ServerOptions, Signal, Tls, message, now_ns, process,
    wait_until,
};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
static MISSED: AtomicBool = AtomicBool::new(false);

fn main() {
    let told = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let idle = Duration::from_secs(told.unwrap_or(if rig::soak() { 600 } else { 120 }));
    let parts: Vec<String> =
        std::env::args().skip(1).filter(|word| word.parse::<u64>().is_err()).collect();
    let wanted = |part: &str| {
        let named = |word: &String| !word.starts_with('-');
        !parts.iter().any(named) || parts.iter().any(|word| word == part)
    };
    if wanted("idle") {
        std::thread::scope(|scope| {
            scope.spawn(|| idling(1, idle));
            idling(5, idle);
        });
    }
    if wanted("latency") {
        latencies();
    }
    if wanted("ending") {
        endings();
    }
    if wanted("thousand") {
        thousand();
    }
    if MISSED.load(Ordering::Relaxed) {
        std::process::exit(1);
    }
}

fn line(what: &str, figure: f64, unit: &str, budget: f64) {
    let missed = figure > budget;
    MISSED.fetch_or(missed, Ordering::Relaxed);
    let mark = if missed { "  MISSED" } else { "" };
    println!("{what:<52} {figure:>9.2} {unit:<4} (at most {budget} {unit}){mark}");
}

struct Waiter {
    child: Child,
    log: std::path::PathBuf,
}

impl Waiter {
    fn start(home: &Home, names: &[&str]) -> Waiter {
        let log = home.path("waiter.log");
        let mut words = vec!["--wait", "--loop", "-v"];
        words.extend(names);
        let mut command = home.cmd(&words);
        command.stdin(Stdio::null()).stderr(File::create(&log).expect("log"));
        Waiter { child: rig::spawn(&mut command).expect("mutt-sync runs"), log }
    }

    fn said(&self, text: &str) -> usize {
        std::fs::read_to_string(&self.log).unwrap_or_default().matches(text).count()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// TCP connections of a process.
fn connections(pid: u32) -> usize {
    let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let inodes: Vec<&str> =
        tcp.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).collect();
    let mut found: Vec<String> = process::open_fds(pid)
        .iter()
        .filter_map(|(_, to)| {
            Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.into())
        })
        .filter(|inode: &String| inodes.contains(&inode.as_str()))
        .collect();
    found.sort();
    found.dedup();
    found.len()
}

/// Private memory that was written to.
fn written_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}

fn idling(accounts: usize, time: Duration) {
    let users: Vec<String> = (0..accounts).map(|n| format!("user{n}")).collect();
    let names: Vec<String> = (0..accounts).map(|n| format!("User{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let server = Server::with(ServerOptions { users, tls: Tls::Imaps, ..ServerOptions::default() });
    let home = Home::on(&server, &names);
    home.mutt_sync(&["-a"]).ok();
    let waiter = Waiter::start(&home, &names);
    wait_until(SOON, "all connected", || waiter.said("connected by NOTIFY") == accounts);
    sleep(Duration::from_secs(8));
    let pid = waiter.child.id();
    let before = process::wakeups(pid);
    let begun = Instant::now();
    sleep(time);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let wakeups = process::wakeups(pid) - before;
    let (threads, open) = (process::threads(pid), connections(pid));
    let (written, uss) = (written_kib(pid), process::private_kib(pid));
    #[allow(clippy::cast_precision_loss)]
    {
        let each = accounts as f64;
        let title = |what: &str| format!("{accounts} account(s), idle: {what}");
        line(&title("private memory (USS)"), uss as f64, "KiB", 4096.0 + 614.0 * (each - 1.0));
        println!("{:<52} {written:>9} KiB", title("of it written to"));
        line(&title("threads"), threads as f64, "", each);
        line(&title("connections"), open as f64, "", each);
        line(&title("wake-ups a minute"), wakeups as f64 / minutes, "", 2.0 * each);
    }
}

/// When a server last said a line that holds a text, by a proxy in between.
type Said = Arc<Mutex<Vec<(i64, Vec<u8>)>>>;

fn tap(port: u16) -> (u16, Said) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let own = listener.local_addr().expect("address").port();
    let said: Said = Arc::default();
    let kept = Arc::clone(&said);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(up), Ok(down)) = (client.try_clone(), server.try_clone()) else { continue };
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || pass(up, server, |_| ()));
            std::thread::spawn(move || {
                pass(down, client, |bytes| {
                    kept.lock().expect("lock").push((now_ns(), bytes.to_vec()));
                });
            });
        }
    });
    (own, said)
}

fn pass(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 65536];
    while let Ok(count) = from.read(&mut buffer) {
        note(&buffer[..count]);
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn latencies() {
    const SETTLE: i64 = 300_000_000;
    const ROUNDS: usize = 7;
    let server = Server::start();
    let (port, said) = tap(server.port());
    let home = Home::with(vec![Account::on(&server, "Home").port(port)]);
    home.settings("throttle = \"0s\"\nsettle = \"300ms\"\n");
    let mbsync: Mbsync = home.exec_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::start(&home, &["Home"]);
    wait_until(SOON, "connected", || waiter.said("connected by NOTIFY") == 1);
    let mut far = Vec::new();
    for round in 0..ROUNDS {
        // Echoes are over: this word is believed.
        sleep(Duration::from_secs(4));
        let runs = mbsync.runs().len();
        imap.append("INBOX", &message("one", &format!("one {round}")), &[]);
        let start = mbsync.wait_for_starts(runs + 1, SOON)[runs].start;
        let said = said.lock().expect("lock");
        let word = said.iter().rev().find(|(at, bytes)| {
            *at < start && bytes.windows(12).any(|part| part == b"STATUS INBOX")
        });
        far.push(start - word.expect("the server has spoken").0);
    }
    line("the server's word to mbsync's start, median", median_ms(far), "ms", 20.0);
    let inbox = home.maildir("Home", "INBOX");
    let mut near = Vec::new();
    for round in 0..ROUNDS {
        sleep(Duration::from_secs(4));
        let runs = mbsync.runs().len();
        let entry = inbox.find("zero");
        let changed = now_ns();
        inbox.set_flags(&entry, if round % 2 == 0 { "FS" } else { "S" });
        let start = mbsync.wait_for_starts(runs + 1, SOON)[runs].start;
        near.push(start - changed - SETTLE);
    }
    line("a settled local change to mbsync's start, median", median_ms(near), "ms", 20.0);
}

/// From TERM to the end of the last process, in the midst of a run that hangs:
/// at the server, and at its password command (G8).
fn endings() {
    const ROUNDS: usize = 15;
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    delay.stall();
    let account = || Account::on(&server, "Home");
    let hang = "sleep 600; echo x";
    for (where_it_hangs, account) in [
        ("TERM to all gone, mbsync at the server, median", account().port(delay.port())),
        ("the same, mbsync at its password command, median", account().pass_cmd(hang)),
    ] {
        let home = Home::with(vec![account]);
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let mut child = rig::spawn(home.cmd(&["--force", "Home"]).stderr(Stdio::null()))
                .expect("mutt-sync");
            // Not before it sleeps: what dash starts as a signal comes does not get it.
            let hangs = || delay.open() > 0 || home.count_running("sleep 600") > 0;
            wait_until(SOON, "the run hangs", hangs);
            let told = now_ns();
            process::kill(child.id(), Signal::TERM);
            let _ = child.wait();
            home.wait_no_leftovers(SOON);
            times.push(now_ns() - told);
            delay.cut();
            wait_until(SOON, "the connection is gone", || delay.open() == 0);
        }
        line(where_it_hangs, median_ms(times), "ms", 100.0);
    }
}

fn median_ms(mut times: Vec<i64>) -> f64 {
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let middle = times[times.len() / 2] as f64 / 1e6;
    middle
}

fn thousand() {
    let boxes: Vec<String> = (0..1000).map(|n| format!("box{n:03}")).collect();
    let server = Server::with(ServerOptions { boxes, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    home.settings("throttle = \"0s\"\nsettle = \"300ms\"\n");
    let mbsync = home.exec_mbsync();
    rig::run(&mut home.cmd(&["Home"]), SOON * 5).ok();
    let names = server.imap("home").list();
    // The first waiter looks into what it has never seen.
    let waiter = Waiter::start(&home, &["Home"]);
    let seen = || waiter.said("in step with the server") >= names.len();
    wait_until(SOON * 5, "every mailbox was looked into", seen);
    sleep(Duration::from_secs(1));
    drop(waiter);
    let mut plain = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let mut imap = server.imap("home");
        for name in imap.list() {
            imap.status(&name);
        }
        plain.push(begun.elapsed());
        drop(imap);
        let begun = Instant::now();
        let waiter = Waiter::start(&home, &["Home"]);
        wait_until(SOON, "connected", || waiter.said("connected by NOTIFY") == 1);
        ours.push(begun.elapsed());
        let pid = waiter.child.id();
        assert_eq!(connections(pid), 1, "connections for a thousand mailboxes");
    }
    plain.sort_unstable();
    ours.sort_unstable();
    println!("1000 mailboxes: LIST and STATUS {:?}, watched after {:?}", plain[2], ours[2]);
    line("1000 mailboxes: ratio", ours[2].as_secs_f64() / plain[2].as_secs_f64(), "", 2.0);
    let waiter = Waiter::start(&home, &["Home"]);
    wait_until(SOON, "connected", || waiter.said("connected by NOTIFY") == 1);
    sleep(Duration::from_secs(1));
    let runs = mbsync.runs().len();
    server.imap("home").append("box999", &message("one", "one"), &[]);
    let started = mbsync.wait_for_starts(runs + 1, SOON);
    assert_eq!(started[runs].names(), ["Home:box999"]);
}
