//! mutt-sync beside what a user would pick instead: the classic services around
//! mbsync, `mbsync -a` from a timer, offlineimap. In one run, against one
//! server, with the same changes in the same order. Prints tables in Markdown.
//!
//!     cargo bench --bench peers -- [quick] [SCALE] [idle] [latency] [during] [hook] [growth]
//!
//! SCALE (1 unless told, `quick` is 0.25) is how long it idles and how many
//! changes there are; `SEED=n` chooses other changes. `benches/README.md` has
//! the method and its limits, the files beside this one the configurations.

mod change;
mod contender;
mod group;
mod growth;
mod hook;
mod table;

use change::{Act, SEEDS, Side, View, fill, plan};
use contender::{Coat, Contender, Kind, Times};
use rig::{Server, ServerOptions, Tls, wait_until};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use table::{Table, median_max, mib, seconds};

const BOXES: [&str; 4] = ["INBOX", "Archive", "Drafts", "Sent"];
/// To the server and back.
const DISTANCE: Duration = Duration::from_millis(40);
/// The same where changes have to fall into a sync.
const FAR: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(90);
/// What takes longer has waited for a timer: of events none took half of it.
const LATE: Duration = Duration::from_secs(8);
/// The longest that a change is waited for.
const LONG: Duration = Duration::from_secs(40);
const SEED: u64 = 8;

/// What the command line asks for.
pub struct Asked {
    scale: f64,
    parts: Vec<String>,
}

impl Asked {
    fn read() -> Self {
        let words: Vec<String> =
            std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        let quick = words.iter().any(|word| word == "quick");
        let number = words.iter().find_map(|word| word.parse().ok());
        let is_part = |word: &&String| *word != "quick" && word.parse::<f64>().is_err();
        let parts: Vec<String> = words.iter().filter(is_part).cloned().collect();
        let known = ["idle", "latency", "during", "hook", "growth"];
        if let Some(unknown) = parts.iter().find(|part| !known.contains(&part.as_str())) {
            eprintln!("peers: no part {unknown}; there are {}", known.join(", "));
            std::process::exit(2);
        }
        Asked { scale: number.unwrap_or(if quick { 0.25 } else { 1.0 }), parts }
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|word| word == part)
    }

    /// So many, scaled, within bounds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn count(&self, full: usize, least: usize, most: usize) -> usize {
        ((full as f64 * self.scale).round() as usize).clamp(least, most)
    }
}

/// What is to be installed, each with what shows that it is there.
fn missing() -> Vec<&'static str> {
    let needed = [
        ("runsvdir", "runit"),
        ("snooze", "snooze"),
        ("inotifywait", "inotify-tools"),
        ("imapfilter", "imapfilter"),
        ("offlineimap", "offlineimap3"),
    ];
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |program: &str| {
        path.split(':')
            .chain(["/usr/sbin", "/sbin"])
            .any(|dir| std::path::Path::new(dir).join(program).is_file())
    };
    needed.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect()
}

fn first_line(program: &str, args: &[&str], holds: &str) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    });
    text.lines().find(|line| line.contains(holds)).unwrap_or(program).trim().to_owned()
}

/// The machine and the versions, for whoever reads the table later.
fn introduce(asked: &Asked) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("?")
        .trim_matches('"')
        .to_owned();
    let seed = rig::Seeded::from_env_or(SEED).seed();
    println!(
        "{system}, {cpus} processors, load {load} at the start; scale {}, seed {seed}.",
        asked.scale
    );
    let ours = rig::mutt_sync().display().to_string();
    let versions = [
        first_line(&ours, &["--version"], ""),
        "dovecot ".to_owned() + &first_line("dovecot", &["--version"], ""),
        first_line("mbsync", &["--version"], ""),
        first_line("imapfilter", &["-V"], "IMAPFilter")
            .replace("  Copyright", "\nCopyright")
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        first_line("inotifywait", &["--help"], "inotifywait"),
        "offlineimap ".to_owned() + &first_line("offlineimap", &["--version"], "."),
    ];
    println!("Versions: {}.", versions.join("; "));
}

fn main() {
    let asked = Asked::read();
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("peers: not installed: {}; benches/setup does it on Debian", missing.join(" "));
        std::process::exit(1);
    }
    let begun = Instant::now();
    introduce(&asked);
    if ["idle", "latency", "during"].iter().any(|part| asked.wants(part)) {
        side_by_side(&asked);
    }
    if asked.wants("hook") {
        let mut table = Table::default();
        hook::measure(&asked, &mut table);
        table.print("What mutt's folder-hook waits for", "");
    }
    if asked.wants("growth") {
        growth::measure(&asked);
    }
    println!("\nTook {}.", seconds(begun.elapsed()));
}

/// Does the same with all at once, each in its own thread.
fn each<T: Send>(all: &mut [Contender], act: impl Fn(&mut Contender) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> =
            all.iter_mut().map(|contender| scope.spawn(move || act(contender))).collect();
        threads.into_iter().map(|thread| thread.join().expect("see above")).collect()
    })
}

/// Each has an account of its own.
fn user_of(kind: Kind) -> String {
    format!("{kind:?}").to_lowercase()
}

/// One account of four mailboxes: waiting, and carrying changes.
fn side_by_side(asked: &Asked) {
    let users: Vec<String> = Kind::ALL.into_iter().map(user_of).collect();
    let boxes: Vec<String> = BOXES[1..].iter().map(ToString::to_string).collect();
    let server = Server::with(ServerOptions {
        users: users.clone(),
        boxes,
        tls: Tls::Imaps,
        ..ServerOptions::default()
    });
    let mut all: Vec<Contender> = Vec::new();
    for (kind, user) in Kind::ALL.into_iter().zip(&users) {
        fill(&server, user, &BOXES);
        let mut contender = Contender::new(kind, &server, user, &BOXES, Some(Duration::ZERO));
        contender.first_sync(SOON);
        if kind == Kind::Offline {
            // It keeps records of its own, so its first sync is its own, too.
            contender.start(Times::REAL, Coat::Bare);
            contender.wait_ready(&server, SOON).expect("offlineimap's first sync");
            contender.stop();
        }
        contender.set_round_trip(DISTANCE);
        all.push(contender);
    }
    let mut table = Table::default();
    if asked.wants("idle") {
        eprintln!("peers: idle");
        idle(asked, &server, &mut all, &mut table);
        table.print("Waiting, one account of four mailboxes, times as users have them", "");
    }
    if asked.wants("latency") {
        eprintln!("peers: latency");
        latency(asked, &server, &mut all, &mut table);
        table.print(
            "Changes, one at a time; a minute is a second",
            "¹ Besides its refresh of everything, which carries what was changed here.",
        );
    }
    if asked.wants("during") {
        eprintln!("peers: during");
        for contender in &all {
            contender.set_round_trip(FAR);
        }
        during(asked, &server, &mut all, &mut table);
        table.print("Changes made while a sync runs; a minute is a second", "");
    }
}

fn idle(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let time = Duration::from_secs(asked.count(30, 10, 3600) as u64);
    let mut rows: Vec<Vec<String>> = Vec::new();
    // Cron is not started: what stands for it here is not what a machine has.
    let figures = each(all, |contender| {
        if contender.kind == Kind::Cron {
            return None;
        }
        contender.start(Times::REAL, Coat::Bare);
        contender.wait_ready(server, SOON).expect("ready");
        sleep(Duration::from_secs(5));
        Some(())
    });
    let before: Vec<_> = all.iter().map(|contender| contender.group().wakeups()).collect();
    let begun = Instant::now();
    sleep(time);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    for ((contender, started), before) in all.iter().zip(figures).zip(before) {
        if started.is_none() {
            let nothing = ["none", "none", "none", "none", "none", "none"];
            rows.push(nothing.map(str::to_owned).to_vec());
            continue;
        }
        let group = contender.group();
        let wakeups = group.wakeups().saturating_sub(before);
        #[allow(clippy::cast_precision_loss)]
        let wakeups = wakeups as f64 / minutes;
        let memory = group.memory();
        let size = |kib: Option<u64>| kib.map_or("not to be read".to_owned(), mib);
        rows.push(vec![
            contender.connections(server).to_string(),
            format!("{} + {} runsv", group.own.len(), group.supervisors.len() - 1),
            group.threads().to_string(),
            size(memory.map(|(private, _)| private)),
            size(memory.map(|(_, share)| share)),
            format!("{wakeups:.1}"),
        ]);
    }
    each(all, Contender::stop);
    let what = [
        "connections, logins",
        "processes",
        "threads",
        "private memory (USS)",
        "with the share in what is shared (PSS)",
        "wake-ups a minute",
    ];
    for (n, what) in what.iter().enumerate() {
        table.row(what, rows.iter().map(|column| column[n].clone()).collect());
    }
}

/// How long each change took, and which side it was made on.
type Claimed = Vec<(Side, Option<Duration>)>;

fn times(taken: &Claimed, of: Side) -> Vec<Duration> {
    taken.iter().filter(|(side, _)| *side == of).filter_map(|(_, time)| *time).collect()
}

fn lost(taken: &Claimed) -> String {
    let count = taken.iter().filter(|(_, time)| time.is_none()).count();
    format!("{count} of {}", taken.len())
}

fn latency(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let acts = [Act::Add, Act::Flag, Act::Remove];
    let changes = plan(SEED, asked.count(5, 2, 15), &BOXES, &acts, 0);
    let scaled = Times { timer: Times::REAL.timer, ..Times::SCALED };
    let results = each(all, |contender| {
        contender.start(scaled, Coat::Starts);
        contender.wait_ready(server, SOON).expect("ready");
        let before = contender.runs();
        let mut view = View::new(server, &user_of(contender.kind), contender);
        let mut taken = Claimed::new();
        for change in &changes {
            sleep(change.pause);
            let prepared = view.prepare(change);
            let made = view.make(prepared);
            taken.push((change.side, view.wait(&made, Duration::from_secs(40))));
        }
        // What a change causes afterwards is counted with it.
        sleep(Duration::from_secs(6));
        let runs = contender.runs() - before;
        (taken, runs)
    });
    each(all, Contender::stop);
    let count = changes.len();
    for (side, what) in [
        (Side::Server, "server to Maildir: median, longest"),
        (Side::Local, "Maildir to server: median, longest"),
    ] {
        table.row(what, results.iter().map(|(taken, _)| median_max(&times(taken, side))).collect());
    }
    table.row("not carried in 40 s", results.iter().map(|(taken, _)| lost(taken)).collect());
    let runs = Kind::ALL.iter().zip(&results).map(|(kind, (_, runs))| {
        #[allow(clippy::cast_precision_loss)]
        let (each, half) = (*runs as f64 / count as f64, *runs as f64 / (count as f64 / 2.0));
        match kind {
            Kind::Cron => format!("{runs} turns for {count}"),
            Kind::Offline => format!("{half:.2} for each on the server ¹"),
            _ => format!("{each:.2}"),
        }
    });
    table.row("syncs for each change", runs.collect());
}

fn during(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let wanted = asked.count(3, 1, 8);
    // Some will miss: a sync may be over sooner than the one before.
    let changes = plan(SEED + 1, wanted * 4, &BOXES[..2], &[Act::Flag, Act::Add], SEEDS / 2);
    let results = each(all, |contender| {
        contender.start(Times::SCALED, Coat::Both);
        contender.wait_ready(server, SOON).expect("ready");
        let mut view = View::new(server, &user_of(contender.kind), contender);
        let mut taken = Claimed::new();
        // offlineimap does not tell the end of a sync; this is four round trips.
        let mut length = Duration::from_millis(400);
        for change in &changes {
            if taken.iter().filter(|(side, _)| *side == change.side).count() == wanted {
                continue;
            }
            sleep(change.pause / 2);
            wait_until(SOON, "mbsync has ended", || !contender.mbsync_runs());
            let prepared = view.prepare(change);
            let before = contender.starts();
            view.deliver("INBOX");
            wait_until(SOON, "a sync begins", || contender.starts() > before);
            sleep(length.mul_f64(change.into * 0.9));
            let made = view.make(prepared);
            let time = view.wait(&made, LONG);
            length = contender.last_length().unwrap_or(length);
            if contender.kind == Kind::Offline || contender.ran_at(made.at_ns) {
                taken.push((change.side, time));
            }
        }
        taken
    });
    each(all, Contender::stop);
    for (side, what) in [
        (Side::Server, "on the server: carried after, median, longest"),
        (Side::Local, "in the Maildir: carried after, median, longest"),
    ] {
        table.row(what, results.iter().map(|taken| median_max(&times(taken, side))).collect());
    }
    let late = Kind::ALL.iter().zip(&results).map(|(kind, taken)| {
        let late = |time: Option<Duration>| time.is_none_or(|time| time > LATE);
        let count = taken.iter().filter(|(_, time)| late(*time)).count();
        let all = taken.len();
        if *kind == Kind::Cron { format!("all {all}") } else { format!("{count} of {all}") }
    });
    table.row("lost by events, found by the timer", late.collect());
    table.row("not carried in 40 s", results.iter().map(lost).collect());
}
