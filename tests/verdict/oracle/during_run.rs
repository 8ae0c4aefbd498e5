//! The same random histories twice, with changes on the server while a run is under way:
//! one account is synced by `mutt-sync`, which lends its connection and tells mbsync the
//! flags that its record knows, the other by mbsync alone. A proxy before each holds the
//! same command of mbsync's back, and then the server changes, or a process is killed.
//! Where the change cannot be seen by one of them earlier than by the other, both have the
//! same files, messages, record and journal after that very run; else after the next.

use super::lend_equivalence::{Outcome, outcome};
use super::{Kind, Pair, World, act, home_of, kinds};
use rig::{
    Gate, Home, Imap, Maildir, Running, Seeded, Server, ServerOptions, Signal, count, process,
    real_mbsync, run, soak,
};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A command of mbsync's, whose tags are numbers, or of those that take its place.
fn is_of_run(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_digit() || c == 'k')
}

/// Where in a run something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Select,
    /// The flags are asked for.
    Load,
    /// Between our two questions; for mbsync's own there is no such place.
    BetweenQuestions,
    /// The flags are known, and something is done.
    Work,
    /// Something is to be expunged: else ours is not asked.
    Close,
}

/// Where one side is to be held.
struct Place {
    point: Point,
    /// So many such commands go before.
    after: usize,
    /// At [`Point::Close`] the only mailbox that counts, if not any does.
    mailbox: Option<String>,
}

impl Point {
    const ALL: [Point; 5] =
        [Point::Select, Point::Load, Point::BetweenQuestions, Point::Work, Point::Close];
}

impl Place {
    /// Whether a command is at it, asked of each in turn. Notes which mailbox is open.
    fn watch(&self, open: Arc<Mutex<String>>) -> impl FnMut(&str) -> bool + Send + 'static {
        let (point, wanted) = (self.point, self.mailbox.clone());
        let mut fresh = false;
        move |line| {
            if !is_of_run(line) {
                return false;
            }
            let any = |words: &[&str]| words.iter().any(|word| line.contains(word));
            let is_select = any(&[" SELECT "]);
            // Of several fetches of flags the first: ours takes the place of all.
            fresh |= is_select;
            let mut open = open.lock().unwrap();
            if let Some((_, name)) = line.split_once(" SELECT ") {
                name.trim_end().trim_end_matches(" (CONDSTORE)").clone_into(&mut open);
            }
            match point {
                Point::Select => is_select,
                Point::Load | Point::BetweenQuestions => {
                    let ours = if point == Point::Load { "k1 " } else { "k2 " };
                    let is_first =
                        line.starts_with(ours) || !line.starts_with('k') && any(&[" UID FETCH "]);
                    is_first && std::mem::take(&mut fresh)
                }
                Point::Work => any(&[" UID STORE ", "BODY.PEEK[]", " APPEND ", " EXPUNGE"]),
                Point::Close => {
                    any(&[" CLOSE"]) && wanted.as_ref().is_none_or(|wanted| *wanted == *open)
                }
            }
        }
    }
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    Change,
    /// mbsync is killed.
    Mbsync,
    /// So is what started it: for mbsync alone there is nothing more.
    All,
}

/// One side of the comparison.
struct Side {
    home: Home,
    gate: Gate,
    imap: Imap,
    lends: bool,
}

impl Side {
    fn new(server: &Server, user: &str, kind: &Kind, lends: bool) -> Side {
        let gate = Gate::before(server.port());
        let home = home_of(server, user, std::slice::from_ref(kind));
        let [from, to] = [server.port(), gate.port()].map(|port| format!("Port {port}\n"));
        home.write(".mbsyncrc", &home.read(".mbsyncrc").replace(&from, &to));
        let mbsync = real_mbsync();
        // Which mailbox loses much is the same for both, and held for one of them only.
        home.settings(&format!(
            "throttle = \"0s\"\nhold = false\nmbsync = \"{}\"\n",
            mbsync.display()
        ));
        Side { home, gate, imap: server.imap(user), lends }
    }

    fn world<'a>(&'a mut self, kind: &'a Kind) -> World<'a> {
        World { paired: true, ..World::new(&self.home, &mut self.imap, kind) }
    }

    /// A run of the whole channel.
    fn command(&self, kind: &Kind) -> Command {
        if self.lends {
            self.home.cmd(&["-f", "-v", "--full", kind.name])
        } else {
            let mut command = self.home.command(real_mbsync());
            command.args(["-q", kind.name]);
            command
        }
    }

    fn mbsync(&self) -> Option<u32> {
        let is = |(pid, line): (u32, String)| line.contains("mbsync -").then_some(pid);
        self.home.leftovers().into_iter().find_map(is)
    }

    /// Waits until the run has come as far as it can without an answer, however busy the
    /// machine is: all of its processes sleep, and go on sleeping.
    fn wait_still(&self) {
        let look = || -> Vec<(u32, u64)> {
            let processes = self.home.leftovers().into_iter();
            processes.map(|(pid, _)| (pid, process::wakeups(pid))).collect()
        };
        let begun = Instant::now();
        let mut before = look();
        while begun.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(30));
            let now = look();
            if now == before && !now.iter().any(|(pid, _)| process::runnable(*pid)) {
                break;
            }
            before = now;
        }
    }

    /// A run in which something happens, if there is a place for it; what was said, and in
    /// which mailbox it happened.
    fn disturbed(
        &mut self,
        kind: &Kind,
        number: usize,
        place: Option<&Place>,
        what: Happening,
        rng: &mut Seeded,
        log: &mut String,
    ) -> (String, Option<String>) {
        let open = Arc::new(Mutex::new(String::new()));
        if let Some(place) = place {
            self.gate.hold(place.after, place.watch(Arc::clone(&open)));
        }
        let running = Running::start(self.command(kind));
        let begun = Instant::now();
        let mut held = false;
        while place.is_some() && !held && running.runs() {
            assert!(begun.elapsed() < LIMIT, "{running}\n{log}");
            held = self.gate.holds(Duration::from_millis(5));
        }
        if held {
            self.wait_still();
            match what {
                Happening::Change => {
                    change(&mut self.world(kind), number, rng, log);
                    self.gate.open();
                }
                Happening::Mbsync | Happening::All => {
                    let mbsync = if self.lends { self.mbsync() } else { Some(running.pid()) };
                    let victim = if what == Happening::All { Some(running.pid()) } else { mbsync };
                    process::kill(victim.expect("mbsync runs"), Signal::KILL);
                    self.home.wait_no_leftovers(LIMIT);
                    self.gate.cut();
                }
            }
        }
        let ended = running.wait(LIMIT);
        self.gate.open();
        self.home.wait_no_leftovers(LIMIT);
        let mailbox = open.lock().unwrap().clone();
        (format!("{}{}", ended.stdout, ended.stderr), held.then_some(mailbox))
    }
}

/// What another client does meanwhile, to one mailbox or both.
fn change(world: &mut World, number: usize, rng: &mut Seeded, log: &mut String) {
    for _ in 0..rng.usize(1..4) {
        let pairs = world.pairs(number);
        let pair = &pairs[usize::from(rng.u8(..4) == 0)];
        let (chance, at) = (rng.u8(..10), rng.usize(..1000));
        if !world.exists_far(pair) {
            continue;
        }
        let uids: Vec<u32> = world.fetch(pair, "").into_iter().map(|(uid, _)| uid).collect();
        let name = &pair.name;
        if chance < 3 || uids.is_empty() {
            let mail = world.mail("meanwhile", "there");
            let uid = world.imap.append(name, &mail, if at % 2 == 0 { &["\\Seen"] } else { &[] });
            let _ = writeln!(log, "  meanwhile {name}: deliver {uid}");
            continue;
        }
        let uid = uids[at % uids.len()];
        world.imap.select(name);
        match chance {
            3 | 4 => world.imap.add_flags(uid, &["\\Flagged", "\\Answered"]),
            5 => world.imap.add_flags(uid, &["\\Deleted"]),
            6 | 7 => world.imap.remove_flags(uid, &["\\Seen"]),
            _ => world.imap.expunge(uid),
        }
        world.imap.unselect();
        let _ = writeln!(log, "  meanwhile {name}: {uid}, {chance}");
    }
}

/// The outcome, and what is left of an interrupted run. TUIDs are random.
fn all_of(world: &mut World, pair: &Pair) -> (Outcome, String) {
    let mut left = String::new();
    for suffix in ["journal", "new"] {
        let file = format!("{}.{suffix}", pair.state_file.display());
        let Ok(text) = fs::read_to_string(file) else { continue };
        let _ = writeln!(left, "{suffix}:");
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("|" | "FarUidValidity" | "NearUidValidity", _)) => {}
                Some(("#", uids)) => {
                    let uids: Vec<&str> = uids.split(' ').take(2).collect();
                    let _ = writeln!(left, "# {}", uids.join(" "));
                }
                _ => {
                    let _ = writeln!(left, "{line}");
                }
            }
        }
    }
    (outcome(world, pair), left)
}

/// Of both mailboxes. `settled`: the order of entries tells which of two runs has seen a
/// change, and counts no more.
fn all(side: &mut Side, kind: &Kind, number: usize, settled: bool) -> Vec<(Outcome, String)> {
    let mut world = side.world(kind);
    let mut all = Vec::new();
    for pair in &world.pairs(number) {
        let (mut outcome, left) = all_of(&mut world, pair);
        if settled {
            let record = world.snapshot(pair).record;
            let mut lines: Vec<&str> =
                record.lines().filter(|line| !line.contains("UidValidity")).collect();
            lines.sort_unstable();
            outcome.record = lines.join("\n");
        }
        all.push((outcome, left));
    }
    all
}

/// The entries of both records, word for word, with those of messages that are gone.
fn entries(side: &mut Side, kind: &Kind, number: usize) -> Vec<String> {
    let pairs = side.world(kind).pairs(number);
    let texts = pairs.iter().filter_map(|pair| fs::read_to_string(&pair.state_file).ok());
    let mut lines: Vec<String> =
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.retain(|line| !line.contains("Uid"));
    lines.sort_unstable();
    lines
}

/// What was compared.
#[derive(Default)]
struct Tally {
    runs: usize,
    happened: usize,
    killed: usize,
    /// Different until the next run: one has seen a change that the other has not.
    later: usize,
    told: usize,
    /// Histories that had to end: their records are not the same.
    ended: usize,
}

fn history(kind: &Kind, number: usize, sides: &mut [Side; 2], tally: &mut Tally) {
    let seed = 19_810_505 + number as u64;
    let dice = || Seeded::from_env_or(seed);
    // The same for both.
    let mut jitter = [dice(), dice()];
    let mut rng = Seeded::from_env_or(seed + 1_000_000);
    let mut log = format!("history {number}, channel {}\n", kind.name);
    let mut made = 0;
    // One run has seen a change that the other has not.
    let mut parted = false;
    for step in 0..4 {
        let actions = if step == 0 { 0 } else { *rng.pick(&[0, 1, 1, 2, 3]) };
        let point = *rng.pick(&Point::ALL);
        let after = usize::from(rng.u8(..4) == 0);
        let what = match rng.u8(..8) {
            0 => Happening::Mbsync,
            1 => Happening::All,
            _ => Happening::Change,
        };
        let _ = writeln!(log, "step {step}: {what:?} at {point:?}, {after} before it");
        let mut made_by = [0; 2];
        let mut happened: [Option<String>; 2] = [None, None];
        let mut said = [String::new(), String::new()];
        for at in 0..2 {
            let side = &mut sides[at];
            let mut world = side.world(kind);
            world.made = made;
            let pairs = world.pairs(number);
            for pair in pairs.iter().filter(|_| step == 0) {
                world.imap.create(&pair.name);
                for n in 0..12 {
                    let mail = world.mail(&format!("filling {n}"), "there");
                    world.imap.append(&pair.name, &mail, &["\\Seen"]);
                }
            }
            for _ in 0..actions {
                act(&mut world, &mut jitter[at], &pairs, &mut log);
            }
            made_by[at] = world.made;
            for pair in &pairs {
                Maildir::at(&pair.maildir).age();
            }
            if step > 0 {
                let place = match &happened[0] {
                    _ if at == 0 || point != Point::Close => {
                        Some(Place { point, after, mailbox: None })
                    }
                    Some(name) => Some(Place { point, after: 0, mailbox: Some(name.clone()) }),
                    None => None,
                };
                let dice = &mut jitter[at];
                (said[at], happened[at]) =
                    side.disturbed(kind, number, place.as_ref(), what, dice, &mut log);
            }
        }
        assert_eq!(made_by[0], made_by[1], "{log}");
        made = made_by[0] + 10;
        if step > 0 {
            assert_eq!(happened[0], happened[1], "{log}\n{said:?}");
            let happened = happened[0].is_some();
            tally.runs += 1;
            tally.happened += usize::from(happened);
            tally.killed += usize::from(happened && what != Happening::Change);
            // It makes another run when mbsync went without a word.
            for _ in 1..said[0].matches(": running ").count() {
                run(&mut sides[1].command(kind), LIMIT);
            }
            tally.told += usize::from(said[0].contains("known flags not fetched"));
            // Nobody can have seen it before the mailbox is open.
            let at_once = !happened || what != Happening::Change || point == Point::Select;
            let [ours, plain] = sides.each_mut().map(|side| all(side, kind, number, parted));
            if at_once {
                assert_eq!(ours, plain, "{}, after the run\n{log}\n{said:?}", kind.name);
            } else if ours != plain {
                (parted, tally.later) = (true, tally.later + 1);
            }
        }
        // Nothing happens meanwhile. Who saw something one run later has one run more until
        // nothing is left of it in the record.
        let mut said = String::new();
        let asked = 1 + usize::from(parted);
        for turn in 0..=asked {
            let mut runs = true;
            for side in sides.iter_mut().filter(|side| turn < asked || side.lends) {
                for pair in &side.world(kind).pairs(number) {
                    Maildir::at(&pair.maildir).age();
                }
                // The question makes known what is clean.
                let command =
                    if turn < asked { side.command(kind) } else { side.home.cmd(&["-v", "far"]) };
                let ended = run(&mut { command }, LIMIT);
                runs = ended.stderr.contains(": running ");
                let _ = writeln!(said, "{ended}");
            }
            if turn == asked && runs {
                let command = sides[1].command(kind);
                let _ = writeln!(said, "{}", run(&mut { command }, LIMIT));
            }
            let [ours, plain] = sides.each_mut().map(|side| all(side, kind, number, parted));
            if turn + 1 >= asked {
                assert_eq!(ours, plain, "{}, turn {turn} after it\n{log}\n{said}", kind.name);
            }
        }
        // A message that is gone is over for one of them, and would be gone anew for the
        // other if its copy were changed.
        if parted {
            let [ours, plain] = sides.each_mut().map(|side| entries(side, kind, number));
            if ours != plain {
                tally.ended += 1;
                break;
            }
        }
    }
    for side in sides {
        side.world(kind).remove(number);
    }
}

#[test]
fn changes_during_a_run_end_as_with_mbsync_alone() {
    let without = std::env::var("WITHOUT").unwrap_or_default();
    let only = std::env::var("KIND").ok();
    // One of each sort: all flags, old messages, placeholders, expiry.
    let short = ["both", "allnear", "maxsize", "max"];
    let is_wanted = |kind: &Kind| match &only {
        Some(only) => only == kind.name,
        None => kind.name != without && (soak() || short.contains(&kind.name)),
    };
    // A history has the same number, whichever are left out.
    let mut kinds: Vec<(usize, Kind)> = kinds().into_iter().enumerate().collect();
    kinds.retain(|(_, kind)| is_wanted(kind));
    let users = |kind: &Kind| ["lent", "plain"].map(|how| format!("{}-{how}", kind.name));
    let server = Server::with(ServerOptions {
        users: kinds.iter().flat_map(|(_, kind)| users(kind)).collect(),
        boxes: vec![],
        ..ServerOptions::default()
    });
    let told = Mutex::new(Vec::new());
    let next = Mutex::new(kinds.iter());
    let work = || {
        loop {
            let Some((at, kind)) = next.lock().unwrap().next() else { break };
            let [lent, plain] = users(kind);
            let mut sides =
                [Side::new(&server, &lent, kind, true), Side::new(&server, &plain, kind, false)];
            let mut tally = Tally::default();
            for n in 0..count(1, 40) {
                history(kind, at + n * 100, &mut sides, &mut tally);
            }
            told.lock().unwrap().push((kind.name, tally));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("see above");
        }
    });
    let told = told.into_inner().unwrap();
    for (name, Tally { runs, happened, killed, later, told, ended }) in &told {
        println!(
            "{name:11} {runs} runs, {happened} disturbed, {killed} of them killed; \
             {later} equal after the next; {told} told known flags; {ended} ended early"
        );
    }
    let sum = |of: fn(&Tally) -> usize| told.iter().map(|(_, tally)| of(tally)).sum::<usize>();
    let (runs, happened) = (sum(|tally| tally.runs), sum(|tally| tally.happened));
    assert!(happened * 3 > runs, "{happened} of {runs}");
    assert!(sum(|tally| tally.told) * 4 > runs);
}
