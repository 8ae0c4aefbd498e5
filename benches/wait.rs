//! What waiting costs, and how soon it is over. Against a real server on
//! loopback, over TLS.
//!
//!     cargo bench --bench wait -- [SECONDS] [idle] [latency] [ending] [thousand]
//!
//! With `OLDER=PATH/mutt-sync` each part runs with that version too, right after this
//! one, and its figures stand beside.
//!
//! SECONDS is how long it stays idle while it is watched: 120 unless told,
//! 600 with SOAK=1. Budgets are printed beside the figures; a missed one fails.
//!
//! The budget for memory is one of what was written to. The pages of the program's and
//! the libraries' code count as private, too, as long as nobody else runs them: 3.9 MiB
//! on a machine without another waiter. They are printed beside it.

use rig::{
    Account, Delay, Home, Mbsync, Server, ServerOptions, Signal, Tls, message, now_ns, process,
    wait_until,
};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
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
    let older = rig::older_mutt_sync();
    let measure = |part: &str, figures: &dyn Fn(&Path) -> Vec<Figure>| {
        if wanted(part) {
            let ours = figures(rig::mutt_sync());
            print(&ours, &older.as_deref().map(figures).unwrap_or_default());
        }
    };
    measure("idle", &|program| {
        std::thread::scope(|scope| {
            let one = scope.spawn(|| idling(program, 1, idle));
            let five = idling(program, 5, idle);
            let mut all = one.join().expect("one account");
            all.extend(five);
            all
        })
    });
    measure("latency", &latencies);
    measure("ending", &endings);
    measure("thousand", &thousand);
    if MISSED.load(Ordering::Relaxed) {
        std::process::exit(1);
    }
}

struct Figure {
    what: String,
    /// `None` if it cannot be read.
    value: Option<f64>,
    unit: &'static str,
    budget: Option<f64>,
}

fn line(what: impl Into<String>, figure: f64, unit: &'static str, budget: f64) -> Figure {
    Figure { what: what.into(), value: Some(figure), unit, budget: Some(budget) }
}

/// One line for each figure, with an older version's beside it if there is one.
fn print(ours: &[Figure], older: &[Figure]) {
    for (at, Figure { what, value, unit, budget }) in ours.iter().enumerate() {
        let number = |figure: Option<f64>| {
            figure.map_or("unread".to_owned(), |figure| format!("{figure:.2}"))
        };
        let missed = value.zip(*budget).is_some_and(|(figure, budget)| figure > budget);
        MISSED.fetch_or(missed, Ordering::Relaxed);
        let beside = older
            .get(at)
            .map_or(String::new(), |older| format!("  older: {} {unit}", number(older.value)));
        let budget = budget.map_or(String::new(), |budget| format!("  (at most {budget} {unit})"));
        let mark = if missed { "  MISSED" } else { "" };
        println!("{what:<52} {:>9} {unit:<4}{budget}{mark}{beside}", number(*value));
    }
    if ours.iter().chain(older).any(|each| each.value.is_none()) {
        println!("unread: a waiter is not dumpable; only root sees its memory and descriptors");
    }
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

fn idling(program: &Path, accounts: usize, time: Duration) -> Vec<Figure> {
    let users: Vec<String> = (0..accounts).map(|n| format!("user{n}")).collect();
    let names: Vec<String> = (0..accounts).map(|n| format!("User{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let server = Server::with(ServerOptions { users, tls: Tls::Imaps, ..ServerOptions::default() });
    let mut home = Home::on(&server, &names);
    home.use_mutt_sync(program);
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
    let seen = process::may_inspect(pid);
    #[allow(clippy::cast_precision_loss)]
    let read = |figure: &dyn Fn() -> u64| seen.then(|| figure() as f64);
    #[allow(clippy::cast_precision_loss)]
    let (each, threads) = (accounts as f64, process::threads(pid) as f64);
    #[allow(clippy::cast_precision_loss)]
    let wakeups = wakeups as f64 / minutes;
    let figure = |what: &str, value, unit, budget| Figure {
        what: format!("{accounts} account(s), idle: {what}"),
        value,
        unit,
        budget,
    };
    let (written, uss) = (read(&|| written_kib(pid)), read(&|| process::private_kib(pid)));
    vec![
        figure("memory written to", written, "KiB", Some(4096.0 + 614.0 * (each - 1.0))),
        figure("private memory (USS), with the code", uss, "KiB", None),
        figure("threads", Some(threads), "", Some(each)),
        figure("connections", read(&|| connections(pid) as u64), "", Some(each)),
        figure("wake-ups a minute", Some(wakeups), "", Some(2.0 * each)),
    ]
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

fn latencies(program: &Path) -> Vec<Figure> {
    /// So long the server must be quiet, for a move is reported in pieces.
    const QUIET: i64 = 150_000_000;
    const ROUNDS: usize = 7;
    let server = Server::start();
    let (port, said) = tap(server.port());
    let mut home = Home::with(vec![Account::on(&server, "Home").port(port)]);
    home.use_mutt_sync(program);
    home.settings("throttle = \"0s\"\n");
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
        far.push(start - word.expect("the server has spoken").0 - QUIET);
    }
    let far = line("the server quiet to mbsync's start, median", median_ms(far), "ms", 20.0);
    let inbox = home.maildir("Home", "INBOX");
    let (mut near, mut stored) = (Vec::new(), Vec::new());
    let phases = rig::count(20, 100);
    for phase in 0..phases {
        sleep(Duration::from_secs(2));
        rig::sleep_until_phase((phase * 1000 / phases) as u64);
        let runs = mbsync.runs().len();
        let entry = inbox.find("zero");
        let changed = now_ns();
        inbox.set_flags(&entry, if phase % 2 == 0 { "FS" } else { "S" });
        let start = mbsync.wait_for_starts(runs + 1, SOON)[runs].start;
        near.push(start - changed);
        let mut done = None;
        wait_until(SOON, "the server has stored it", || {
            let said = said.lock().expect("lock");
            let stores = |bytes: &[u8]| bytes.windows(15).any(|part| part == b"Store completed");
            done =
                said.iter().find(|(at, bytes)| *at > changed && stores(bytes)).map(|(at, _)| *at);
            done.is_some()
        });
        stored.push(done.expect("stored") - changed);
    }
    // 150 ms of quiet, and the second of the change: 0.65 s.
    vec![
        far,
        line("a local change to mbsync's start, mean", mean_ms(&near), "ms", 700.0),
        line("a local change to the server, mean", mean_ms(&stored), "ms", 750.0),
        line("a local change to the server, longest", longest_ms(&stored), "ms", 1200.0),
    ]
}

/// From TERM to the end of the last process, in the midst of a run that hangs:
/// at the server, and at its password command (G8).
fn endings(program: &Path) -> Vec<Figure> {
    const ROUNDS: usize = 15;
    let mut figures = Vec::new();
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    delay.stall();
    let account = || Account::on(&server, "Home");
    let hang = "sleep 600; echo x";
    for (where_it_hangs, account) in [
        ("TERM to all gone, mbsync at the server, median", account().port(delay.port())),
        ("the same, mbsync at its password command, median", account().pass_cmd(hang)),
    ] {
        let mut home = Home::with(vec![account]);
        home.use_mutt_sync(program);
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
        figures.push(line(where_it_hangs, median_ms(times), "ms", 100.0));
    }
    figures
}

fn median_ms(mut times: Vec<i64>) -> f64 {
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let middle = times[times.len() / 2] as f64 / 1e6;
    middle
}

#[allow(clippy::cast_precision_loss)]
fn mean_ms(times: &[i64]) -> f64 {
    times.iter().sum::<i64>() as f64 / times.len() as f64 / 1e6
}

#[allow(clippy::cast_precision_loss)]
fn longest_ms(times: &[i64]) -> f64 {
    times.iter().copied().max().unwrap_or_default() as f64 / 1e6
}

fn thousand(program: &Path) -> Vec<Figure> {
    let boxes: Vec<String> = (0..1000).map(|n| format!("box{n:03}")).collect();
    let server = Server::with(ServerOptions { boxes, ..ServerOptions::default() });
    let mut home = Home::on(&server, &["Home"]);
    home.use_mutt_sync(program);
    home.settings("throttle = \"0s\"\nsettle = \"300ms\"\n");
    let mbsync = home.exec_mbsync();
    rig::run(&mut home.cmd(&["Home"]), SOON * 5).ok();
    let names = server.imap("home").list();
    // The first waiter looks into what it has never seen.
    let waiter = Waiter::start(&home, &["Home"]);
    let seen = || waiter.said("in sync with the server") >= names.len();
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
        if process::may_inspect(pid) {
            assert_eq!(connections(pid), 1, "connections for a thousand mailboxes");
        }
    }
    plain.sort_unstable();
    ours.sort_unstable();
    println!("1000 mailboxes: LIST and STATUS {:?}, watched after {:?}", plain[2], ours[2]);
    let ratio = ours[2].as_secs_f64() / plain[2].as_secs_f64();
    let figures = vec![line("1000 mailboxes: ratio", ratio, "", 2.0)];
    let waiter = Waiter::start(&home, &["Home"]);
    wait_until(SOON, "connected", || waiter.said("connected by NOTIFY") == 1);
    sleep(Duration::from_secs(1));
    let runs = mbsync.runs().len();
    server.imap("home").append("box999", &message("one", "one"), &[]);
    let started = mbsync.wait_for_starts(runs + 1, SOON);
    assert_eq!(started[runs].names(), ["Home:box999"]);
    figures
}
