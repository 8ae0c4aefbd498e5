//! mutt-sync beside what a user would pick instead: the classic services around
//! mbsync, `mbsync -a` from a timer, offlineimap. In one run, against one
//! server, with the same changes in the same order, all at default settings. Prints
//! tables in Markdown.
//!
//!     cargo bench --bench peers -- [quick] [SCALE] [PART ...]
//!
//! SCALE (1 unless told, `quick` is 0.25) is how long it idles and how many
//! changes there are; `SEED=n` chooses other changes. `benches/README.md` has the
//! parts, the method and its limits, the files beside this one the configurations.

mod change;
mod contender;
mod group;
mod growth;
mod hook;
mod table;

use change::{Act, Change, SEEDS, Side, View, fill, plan, steady};
use contender::{Coat, Contender, Kind};
use rig::{Server, ServerOptions, Tls, wait_until};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use table::{Table, mib, seconds, spread};

const BOXES: [&str; 4] = ["INBOX", "Archive", "Drafts", "Sent"];
/// To the server and back.
const DISTANCE: Duration = Duration::from_millis(40);
/// The same where changes have to fall into a sync.
const FAR: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(90);
/// What takes longer has waited for a timer: of events none took half of it.
const LATE: Duration = Duration::from_secs(8);
/// The longest that a change is waited for.
const LONG: Duration = Duration::from_secs(90);
/// What may be asked for.
const PARTS: [&str; 8] =
    ["idle", "reader", "changes", "flood", "during", "typed", "hook", "growth"];
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
        if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            eprintln!("peers: no part {unknown}; there are {}", PARTS.join(", "));
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
    if PARTS[..5].iter().any(|part| asked.wants(part)) {
        side_by_side(&asked);
    }
    if asked.wants("typed") {
        typed(&asked);
    }
    if asked.wants("hook") {
        let mut table = Table::of(Kind::ALL);
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
    let users: Vec<String> = Kind::WAITING.into_iter().map(user_of).collect();
    let server = server(&users);
    let mut all: Vec<Contender> = Vec::new();
    for (kind, user) in Kind::WAITING.into_iter().zip(&users) {
        fill(&server, user, &BOXES);
        let mut contender = Contender::new(kind, &server, user, &BOXES, Some(Duration::ZERO));
        contender.first_sync(SOON);
        if kind == Kind::Offline {
            // It keeps records of its own, so its first sync is its own, too.
            contender.start(Coat::Bare);
            contender.wait_ready(&server, SOON).expect("offlineimap's first sync");
            contender.stop();
        }
        contender.set_round_trip(DISTANCE);
        all.push(contender);
    }
    let mut table = Table::of(Kind::WAITING);
    let mut part = |name: &str, heading: &str, measure: Measure, note: &str| {
        if asked.wants(name) {
            eprintln!("peers: {name}");
            measure(asked, &server, &mut all, &mut table);
            table.print(heading, note);
        }
    };
    part("idle", "Waiting, one account of four mailboxes", idle, "");
    part("reader", "Two minutes of somebody who reads, in the INBOX", reader, "");
    part(
        "changes",
        "A change every 12 seconds, nobody typing",
        changes,
        "¹ Besides its refresh of everything, which carries what was changed here.",
    );
    part("flood", "Floods, in the INBOX", flood, "");
    part("during", "Changes made while a sync runs, 100 ms away", during, "");
}

/// Measures one part, and adds its rows.
type Measure = fn(&Asked, &Server, &mut [Contender], &mut Table);

fn server(users: &[String]) -> Server {
    Server::with(ServerOptions {
        users: users.to_vec(),
        boxes: BOXES[1..].iter().map(ToString::to_string).collect(),
        tls: Tls::Imaps,
        ..ServerOptions::default()
    })
}

fn idle(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let time = Duration::from_secs(asked.count(30, 10, 3600) as u64);
    let mut rows: Vec<Vec<String>> = Vec::new();
    each(all, |contender| {
        contender.start(Coat::Bare);
        contender.wait_ready(server, SOON).expect("ready");
        sleep(Duration::from_secs(5));
    });
    let before: Vec<_> = all.iter().map(|contender| contender.group().wakeups()).collect();
    let begun = Instant::now();
    sleep(time);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    for (contender, before) in all.iter().zip(before) {
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

/// What came of a plan that all have played at once.
struct Played {
    taken: Vec<Option<Duration>>,
    syncs: usize,
    logins: usize,
    in_mbsync: Duration,
    lasted: Duration,
}

/// Starts all, and lets each play the plan; what a change causes in the ten seconds
/// after it is counted with it.
fn play(all: &mut [Contender], server: &Server, plan: &[(Duration, Change)]) -> Vec<Played> {
    let played = each(all, |contender| {
        contender.start(Coat::Noted);
        contender.wait_ready(server, SOON).expect("ready");
        // At rest for longer than any of them waits between two syncs.
        sleep(Duration::from_secs(61));
        let before = (contender.runs(), contender.logins(), contender.time_in_mbsync());
        let begun = Instant::now();
        let taken = View::new(server, &user_of(contender.kind), contender).play(plan, LONG);
        let lasted = begun.elapsed();
        sleep(Duration::from_secs(10));
        Played {
            taken,
            syncs: contender.runs() - before.0,
            logins: contender.logins() - before.1,
            in_mbsync: contender.time_in_mbsync().saturating_sub(before.2),
            lasted,
        }
    });
    each(all, Contender::stop);
    played
}

fn times(played: &Played, plan: &[(Duration, Change)], of: Side) -> Vec<Duration> {
    let both = plan.iter().zip(&played.taken);
    both.filter(|((_, change), _)| change.side == of).filter_map(|(_, time)| *time).collect()
}

fn cells(played: &[Played], cell: impl Fn(&Played) -> String) -> Vec<String> {
    played.iter().map(cell).collect()
}

/// How many were not carried in time.
fn lost(taken: &[Option<Duration>]) -> String {
    format!("{} of {}", taken.iter().filter(|time| time.is_none()).count(), taken.len())
}

fn both_sides(table: &mut Table, played: &[Played], plan: &[(Duration, Change)]) {
    for (side, what) in [(Side::Server, "server to Maildir"), (Side::Local, "Maildir to server")] {
        table.row(
            &format!("{what}: median, longest but one, longest"),
            cells(played, |played| spread(&times(played, plan, side))),
        );
    }
    table.row(
        &format!("not carried {} s after the last", LONG.as_secs()),
        cells(played, |played| lost(&played.taken)),
    );
}

fn reader(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let (read, delivered) = (asked.count(18, 6, 60), asked.count(6, 2, 20));
    // Seven and twenty-one seconds, but at all phases of a second, which mbsync goes by.
    let (seldom, often) = (Duration::from_millis(20_710), Duration::from_millis(7130));
    let mut plan = steady(Side::Local, Act::Read, "INBOX", 0, read.min(SEEDS), often);
    plan.extend(steady(Side::Server, Act::Add, "INBOX", 0, delivered, seldom));
    plan.sort_by_key(|(at, _)| *at);
    let played = play(all, server, &plan);
    both_sides(table, &played, &plan);
    table.row("syncs", cells(&played, |played| played.syncs.to_string()));
    table.row("connections made", cells(&played, |played| played.logins.to_string()));
}

fn changes(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let acts = [Act::Add, Act::Flag, Act::Remove];
    let changes = plan(SEED, asked.count(5, 2, 15), &BOXES[1..], &acts, 0);
    let every = Duration::from_millis(12_170);
    let plan: Vec<(Duration, Change)> =
        (1..).map(|at| every * at).zip(changes.iter().cloned()).collect();
    let played = play(all, server, &plan);
    both_sides(table, &played, &plan);
    let count = plan.len();
    let syncs = Kind::WAITING.iter().zip(&played).map(|(kind, played)| {
        #[allow(clippy::cast_precision_loss)]
        let (syncs, all) = (played.syncs as f64, count as f64);
        match kind {
            Kind::Offline => format!("{:.2} for each on the server ¹", syncs / (all / 2.0)),
            _ => format!("{:.2}", syncs / all),
        }
    });
    table.row("syncs for each change", syncs.collect());
}

fn flood(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let deliveries = steady(Side::Server, Act::Add, "INBOX", 0, 50, Duration::from_millis(100));
    let flags = asked.count(60, 15, SEEDS);
    let flags = steady(Side::Server, Act::Flag, "INBOX", 0, flags, Duration::from_millis(1030));
    for (what, plan) in [("50 deliveries in 5 s", deliveries), ("a flag a second", flags)] {
        let played = play(all, server, &plan);
        let mut row = |name: &str, cell: &dyn Fn(&Played) -> String| {
            table.row(&format!("{what}: {name}"), cells(&played, cell));
        };
        row("median, longest but one, longest", &|played| {
            spread(&times(played, &plan, Side::Server))
        });
        row("the last one", &|played| {
            let last = played.taken.last().copied().flatten();
            last.map_or(format!("not in {} s", LONG.as_secs()), seconds)
        });
        row("syncs, connections made", &|played| format!("{}, {}", played.syncs, played.logins));
        row("share of the time in mbsync", &|played| {
            let share = played.in_mbsync.as_secs_f64() / played.lasted.as_secs_f64();
            if share > 0.0 { format!("{:.0} %", share * 100.0) } else { "–".to_owned() }
        });
    }
}

/// A sync that somebody types, with nothing changed.
fn typed(asked: &Asked) {
    let users: Vec<String> = Kind::ALL.into_iter().map(user_of).collect();
    let server = server(&users);
    let mut table = Table::of(Kind::ALL);
    let mut cells: [Vec<String>; 2] = [vec![], vec![]];
    for (kind, user) in Kind::ALL.into_iter().zip(&users) {
        fill(&server, user, &BOXES);
        let mut contender = Contender::new(kind, &server, user, &BOXES, Some(DISTANCE));
        let words: &[&str] = match kind {
            Kind::Ours | Kind::Loop => &["mutt-sync", "-f", "-q", "Home"],
            Kind::Classic => &["mbsync", "-q", "Home"],
            Kind::Cron => &["mbsync", "-q", "-a"],
            Kind::Offline => &["offlineimap", "-o", "-u", "quiet"],
        };
        let time = |contender: &Contender| {
            // mbsync sleeps where a Maildir was written in the same second.
            sleep(Duration::from_millis(1500));
            let begun = Instant::now();
            rig::run(contender.home.command(words[0]).args(&words[1..]), SOON).ok();
            begun.elapsed()
        };
        let middle = |contender: &Contender| {
            let mut times: Vec<Duration> =
                (0..asked.count(5, 3, 15)).map(|_| time(contender)).collect();
            times.sort();
            seconds(times[times.len() / 2])
        };
        contender.first_sync(SOON);
        time(&contender);
        cells[0].push(middle(&contender));
        cells[1].push(if kind == Kind::Ours {
            contender.start(Coat::Bare);
            contender.wait_ready(&server, SOON).expect("ready");
            middle(&contender)
        } else {
            "–".to_owned()
        });
    }
    let [alone, waited] = cells;
    table.row("median", alone);
    table.row("median, with a waiter", waited);
    table.print("A sync that is typed, with nothing changed, four mailboxes", "");
}

fn during(asked: &Asked, server: &Server, all: &mut [Contender], table: &mut Table) {
    let wanted = asked.count(3, 1, 8);
    for contender in all.iter() {
        contender.set_round_trip(FAR);
    }
    // Some will miss: a sync may be over sooner than the one before.
    let changes = plan(SEED + 1, wanted * 4, &BOXES[1..3], &[Act::Flag, Act::Add], SEEDS / 2);
    let results = each(all, |contender| {
        contender.start(Coat::Noted);
        contender.wait_ready(server, SOON).expect("ready");
        let mut view = View::new(server, &user_of(contender.kind), contender);
        let mut taken: Vec<(Side, Option<Duration>)> = Vec::new();
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
        (Side::Server, "on the server: median, longest but one, longest"),
        (Side::Local, "in the Maildir: median, longest but one, longest"),
    ] {
        let of = |taken: &Vec<(Side, Option<Duration>)>| {
            let of_side = taken.iter().filter(|(of, _)| *of == side);
            spread(&of_side.filter_map(|(_, time)| *time).collect::<Vec<_>>())
        };
        table.row(what, results.iter().map(of).collect());
    }
    let late = results.iter().map(|taken| {
        let late = taken.iter().filter(|(_, time)| time.is_none_or(|time| time > LATE)).count();
        format!("{late} of {}", taken.len())
    });
    table.row("lost by events, carried later than 8 s", late.collect());
    let lost = |taken: &Vec<(Side, Option<Duration>)>| {
        lost(&taken.iter().map(|(_, time)| *time).collect::<Vec<_>>())
    };
    table.row(&format!("not carried in {} s", LONG.as_secs()), results.iter().map(lost).collect());
}
