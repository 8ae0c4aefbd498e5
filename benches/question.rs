//! What `mutt-sync Home` costs when nothing or one mailbox has changed, beside plain
//! `mbsync Home`: at default settings, over TLS, alone and answered by a waiter.
//!
//!     cargo bench --bench question -- [7] [100] [1000]
//!
//! Numbers choose how many mailboxes; 1 000 take half an hour. Limits are of mbsync's own
//! time in the same run; a missed one fails.

use rig::{Account, Delay, Home, Running, Server, ServerOptions, Tls, message, real_mbsync, run};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);
/// Each row is the median of so many. mbsync takes minutes for very many mailboxes.
fn rounds(boxes: usize) -> usize {
    if boxes < 1000 { 3 } else { 1 }
}

/// Of what is timed: an account of its own on one server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Mbsync,
    Alone,
    WithWaiter,
}

const WAYS: [(Way, &str); 3] =
    [(Way::Mbsync, "Plain"), (Way::Alone, "Alone"), (Way::WithWaiter, "Waited")];

/// The most of mbsync's time, at 40 ms, where there is a limit: nothing changed, one
/// mailbox changed.
fn limits(boxes: usize, way: Way) -> [Option<f64>; 2] {
    match (boxes, way) {
        (7, Way::Alone) => [Some(0.35), Some(0.6)],
        (100, Way::Alone) => [Some(0.06), Some(0.08)],
        (7, Way::WithWaiter) => [Some(0.1), Some(0.6)],
        (100, Way::WithWaiter) => [Some(0.015), Some(0.08)],
        _ => [None, None],
    }
}

struct User {
    way: Way,
    name: &'static str,
    home: Home,
    waiter: Option<Running>,
}

impl User {
    fn new(server: &Server, port: u16, (way, name): (Way, &'static str)) -> User {
        let home = Home::with(vec![Account::on(server, name).port(port)]);
        run(home.command(real_mbsync()).args(["-q", name]), LIMIT).ok();
        let mut user = User { way, name, home, waiter: None };
        if way != Way::Mbsync {
            // The first one is complete: mbsync opens every mailbox.
            run(&mut user.home.cmd(&["-f", name]), LIMIT).ok();
        }
        if way == Way::WithWaiter {
            let waiter = Running::start(user.home.cmd(&["--wait", "--loop", "-v", name]));
            waiter.wait_for("connected by", LIMIT);
            user.waiter = Some(waiter);
        }
        user
    }

    fn time(&self) -> Duration {
        let mut command: Command = match self.way {
            Way::Mbsync => {
                let mut command = self.home.command(real_mbsync());
                command.args(["-q", self.name]);
                command
            }
            Way::Alone | Way::WithWaiter => self.home.cmd(&["-f", "-q", self.name]),
        };
        let begun = Instant::now();
        run(&mut command, LIMIT).ok();
        begun.elapsed()
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn measure(boxes: usize, round_trip: u64) -> bool {
    // INBOX is one of them.
    let names: Vec<String> = (1..boxes).map(|at| format!("Box{at}")).collect();
    let changed = names.last().expect("a mailbox").clone();
    let server = Server::with(ServerOptions {
        users: WAYS.map(|(_, name)| name.to_lowercase()).into(),
        boxes: names,
        tls: Tls::Imaps,
        ..ServerOptions::default()
    });
    let link = Delay::to(server.port(), Duration::from_millis(round_trip));
    let users = WAYS.map(|way| User::new(&server, link.port(), way));
    let mut times = [[vec![], vec![]], [vec![], vec![]], [vec![], vec![]]];
    for round in 0..rounds(boxes) {
        for (user, times) in users.iter().zip(&mut times) {
            let mut imap = server.imap(&user.name.to_lowercase());
            for (change, times) in times.iter_mut().enumerate() {
                // The waiter is at rest, and no Maildir was written in this second.
                sleep(Duration::from_millis(1500));
                if change == 1 {
                    imap.append(&changed, &message("new", &round.to_string()), &[]);
                }
                times.push(user.time());
            }
            let here = user.home.maildir(user.name, &changed).len();
            assert_eq!(here, round + 1, "{}: not carried", user.name);
        }
    }
    let figures = times.map(|times| times.map(median));
    let mut kept = true;
    for (at, what) in ["nothing changed", "one changed"].iter().enumerate() {
        let plain = figures[0][at];
        let mut row = format!("| {boxes} | {round_trip} ms | {what} | {plain:.2} s |");
        for ((way, _), figure) in WAYS.iter().zip(&figures).skip(1) {
            let ratio = figure[at] / plain;
            let _ = write!(row, " {:.3} s ({ratio:.3}", figure[at]);
            // On loopback the start of a process is most of it.
            let limit = limits(boxes, *way)[at].filter(|_| round_trip > 0);
            if let Some(limit) = limit {
                let missed = if ratio > limit { ", MISSED" } else { "" };
                let _ = write!(row, " of {limit}{missed}");
                kept &= ratio <= limit;
            }
            row += ") |";
        }
        println!("{row}");
    }
    kept
}

fn main() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}", load.split(' ').next().unwrap_or("unknown"));
    println!("| mailboxes | round trip | | mbsync | mutt-sync | with a waiter |");
    println!("|---|---|---|---|---|---|");
    let told: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let mut kept = true;
    for boxes in if told.is_empty() { vec![7, 100] } else { told } {
        for round_trip in [0, 40, 100] {
            kept &= measure(boxes, round_trip);
        }
    }
    if !kept {
        std::process::exit(1);
    }
}
