//! The same random histories twice: on one account a waiter lends its connection
//! to each run, on the other mbsync is run by hand with the same words. After
//! every step both have the same files, the same messages on the server, and the
//! same record, byte for byte but for the two numbers that any two mailboxes
//! differ in.

use super::{Kind, Pair, World, act, home_of, kinds};
use rig::{
    Home, Imap, Maildir, Running, Seeded, Server, ServerOptions, Signal, count, process,
    real_mbsync, run,
};
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const LENT: &str = "over the connection that is open";

/// All that a run may change, without the names that mbsync makes up and the
/// numbers by which mailboxes differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) near: Vec<String>,
    pub(super) far: Vec<String>,
    pub(super) record: String,
}

pub(super) fn outcome(world: &mut World, pair: &Pair) -> Outcome {
    let info = world.kind.info();
    let near = Maildir::at(&pair.maildir).list().into_iter().map(|entry| {
        let (base, flags) = entry.name.split_once(info.as_str()).unwrap_or((&entry.name, "-"));
        let uid = base.split_once(",U=").map(|(_, uid)| uid.to_owned());
        let new = if entry.new { "new" } else { "cur" };
        format!("{new} {uid:?} [{flags}] {} {}", entry.message_id, entry.digest)
    });
    let mut near: Vec<String> = near.collect();
    near.sort();
    let far = if world.exists_far(pair) { world.imap.fetch_all(&pair.name) } else { Vec::new() };
    let far = far.into_iter().map(|message| {
        format!("{} {:?} {} {}", message.uid, message.flags, message.message_id, message.digest)
    });
    let text = fs::read_to_string(&pair.state_file).unwrap_or_default();
    let record = text.split_inclusive('\n').map(|line| match line.split_once("UidValidity ") {
        Some((whose, _)) => format!("{whose}UidValidity\n"),
        None => line.to_owned(),
    });
    Outcome { near, far: far.collect(), record: record.collect() }
}

fn sockets(of: &Running) -> usize {
    let fds = process::open_fds(of.pid());
    fds.iter().filter(|(_, to)| to.to_string_lossy().starts_with("socket:")).count()
}

/// Whether a waiter with this log has a connection.
fn is_connected(log: &str) -> bool {
    let said = |line: &&str| {
        ["connected by ", "connecting was ", "connection lost"]
            .iter()
            .any(|head| line.starts_with(&format!("far: {head}")))
    };
    log.lines().rfind(said).is_some_and(|line| line.starts_with("far: connected"))
}

/// The waiter's account. The waiter is stopped while its mail is changed.
struct Lending {
    home: Home,
    waiter: Running,
    /// Lines of its log that have been read.
    read: usize,
    /// Sockets that it has when it is connected.
    sockets: usize,
}

impl Lending {
    fn start(home: Home) -> Self {
        home.settings(&format!(
            "throttle = \"1h\"\nburst = 1\nsettle = \"10ms\"\nevery = \"1d\"\nmbsync = \"{}\"\n",
            real_mbsync().display()
        ));
        let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "far"]));
        waiter.wait_for("connected by", LIMIT);
        rig::wait_until(LIMIT, "its first run", || {
            !home.read(".local/state/mutt-sync/far/last.json").is_empty()
        });
        let runs = || !process::children(waiter.pid()).is_empty();
        rig::wait_until(LIMIT, "the end of the run", || !runs());
        let sockets = sockets(&waiter);
        let mut lending = Lending { home, waiter, read: 0, sockets };
        lending.runs();
        lending
    }

    /// How many runs there were, and how the last ended.
    fn last(&self) -> (u64, i64) {
        let text = self.home.read(".local/state/mutt-sync/far/last.json");
        let last: serde_json::Value = serde_json::from_str(&text).unwrap();
        (last["runs"].as_u64().unwrap(), last["code"].as_i64().unwrap())
    }

    /// The words that mbsync was given since this was asked last.
    fn runs(&mut self) -> Vec<Vec<String>> {
        let log = self.waiter.stderr();
        let lines = log.lines().skip(self.read);
        let words = |line: &str| {
            let line = line.split_once(": running ")?.1.split(", over the").next()?;
            let (_, words) = line.split_once(".mbsyncrc ")?;
            Some(words.split(' ').map(str::to_owned).collect())
        };
        let runs = lines.filter_map(words).collect();
        self.read = log.lines().count();
        runs
    }

    fn connections_and_plain_runs(&self) -> (usize, usize) {
        let log = self.waiter.stderr();
        let plain = log.matches(": running ").count() - log.matches(LENT).count();
        (log.matches("connected by").count(), plain)
    }

    /// Stops it between two runs, until the next request; what it was given to run since this
    /// was asked last. Gives it time to have a connection: without, the run is merely one that
    /// shows nothing.
    fn stop(&mut self) -> Vec<Vec<String>> {
        let begun = Instant::now();
        loop {
            let ready =
                is_connected(&self.waiter.stderr()) && sockets(&self.waiter) >= self.sockets;
            if ready || begun.elapsed() > Duration::from_secs(5) {
                self.waiter.signal(Signal::STOP);
                // It says that it runs before it runs.
                let log = self.waiter.stderr();
                let runs_next = log.lines().last().is_some_and(|line| line.contains(": running "));
                if !runs_next && process::children(self.waiter.pid()).is_empty() {
                    return self.runs();
                }
                self.waiter.signal(Signal::CONT);
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Has these synced, over its connection; what it was given to run, and how the last
    /// run ended. It may have been about to run when it was stopped, so that the request is
    /// served only by the next run: [`Lending::stop`] says what that is given.
    fn sync(&mut self, what: &str) -> (Vec<Vec<String>>, i64) {
        let (before, _) = self.last();
        run(&mut self.home.cmd(&["-b", "-f", "--full", what]), LIMIT).ok();
        self.waiter.signal(Signal::CONT);
        rig::wait_until(LIMIT, "the waiter's run", || self.last().0 > before);
        (self.runs(), self.last().1)
    }
}

/// Runs mbsync by hand as the waiter did, and compares how it ended, if that is known.
fn run_as_it_did(plain: &Home, words: Vec<Vec<String>>, code: Option<i64>, log: &mut String) {
    for words in words {
        let _ = writeln!(log, "  mbsync {}", words.join(" "));
        let mut command = plain.command(real_mbsync());
        let ended = run(command.args(["-q", "-c"]).arg(plain.path(".mbsyncrc")).args(words), LIMIT);
        let bad = ended.code() != 0 || ended.stderr.contains("Maildir error: ");
        if let Some(code) = code {
            assert_eq!(bad, code != 0, "{code}; {ended}\n{log}");
        }
    }
}

/// Gives a mailbox on the server as many messages as it takes for a run to be told their
/// flags from the record, and so many gaps that it is not told all UIDs. In a Maildir their
/// order would be the directory's.
fn fill(world: &mut World, pair: &Pair) {
    if world.exists_far(pair) {
        let mut uids = Vec::new();
        for at in 0..18 {
            let mail = world.mail(&format!("filling {at}"), "there");
            uids.push(world.imap.append(&pair.name, &mail, &["\\Seen"]));
        }
        world.imap.select(&pair.name);
        for uid in uids.iter().skip(1).step_by(2).take(6) {
            world.imap.expunge(*uid);
        }
        world.imap.unselect();
    }
}

/// One history on both; how many runs were compared.
fn history(
    kind: &Kind,
    number: usize,
    lending: &mut Lending,
    plain: &Home,
    imap: &mut [Imap; 2],
) -> usize {
    let seed = 19_780_202 + number as u64;
    // The same dice for both.
    let mut jitter = [Seeded::from_env_or(seed), Seeded::from_env_or(seed)];
    let mut rng = Seeded::from_env_or(seed + 1_000_000);
    let mut log = format!("history {number}, channel {}\n", kind.name);
    let [at_ours, at_plain] = imap;
    let [mut runs, steps] = [0, rng.usize(5..10)];
    let mut made = 0;
    for step in 0..=steps {
        let late = lending.stop();
        runs += late.len();
        run_as_it_did(plain, late, None, &mut log);
        let mut ours = World::new(&lending.home, at_ours, kind);
        let mut theirs = World::new(plain, at_plain, kind);
        let pairs = [ours.pairs(number), theirs.pairs(number)];
        let actions = if step == 0 { 0 } else { *rng.pick(&[0, 1, 1, 2, 3, 6]) };
        for ((world, pairs), jitter) in
            [&mut ours, &mut theirs].into_iter().zip(&pairs).zip(&mut jitter)
        {
            (world.paired, world.made) = (true, made);
            let _ = writeln!(log, "step {step} on {}", world.home.path("").display());
            if step == 0 {
                for pair in pairs {
                    world.begin(pair, jitter);
                    fill(world, pair);
                }
            }
            for _ in 0..actions {
                act(world, jitter, pairs, &mut log);
            }
            for pair in pairs {
                Maildir::at(&pair.maildir).age();
            }
        }
        assert_eq!(ours.made, theirs.made, "{log}");
        made = ours.made;
        let boxes = pairs[0].each_ref().map(|pair| pair.name.as_str());
        let here = pairs[0].iter().all(|pair| pair.maildir.join("cur").is_dir());
        let what = if here && rng.u8(..3) > 0 {
            format!("{}:{}", kind.name, boxes.join(","))
        } else {
            kind.name.to_owned()
        };
        let (words, code) = lending.sync(&what);
        assert!(!words.is_empty(), "{log}{}", lending.waiter);
        runs += words.len();
        run_as_it_did(plain, words, Some(code), &mut log);
        let mut ours = World::new(&lending.home, at_ours, kind);
        let mut theirs = World::new(plain, at_plain, kind);
        for (a, b) in pairs[0].iter().zip(&pairs[1]) {
            let (a, b) = (outcome(&mut ours, a), outcome(&mut theirs, b));
            assert_eq!(
                a,
                b,
                "{}\nlent and plain differ in {kind}, {log}",
                lending.waiter,
                kind = kind.name
            );
        }
    }
    // The next begins without them.
    for (imap, home) in [(at_ours, &lending.home), (at_plain, plain)] {
        World::new(home, imap, kind).remove(number);
    }
    runs
}

#[test]
fn runs_over_a_lent_connection_give_what_plain_ones_give() {
    let mut kinds = kinds();
    let without = std::env::var("WITHOUT").unwrap_or_default();
    let only = std::env::var("KIND").ok();
    kinds.retain(|kind| kind.name != without && only.as_ref().is_none_or(|only| only == kind.name));
    let users = |kind: &Kind| ["lent", "plain"].map(|how| format!("{}-{how}", kind.name));
    let options = ServerOptions {
        users: kinds.iter().flat_map(users).collect(),
        boxes: vec![],
        ..ServerOptions::default()
    };
    let server = Server::with(options);
    let told = Mutex::new(Vec::new());
    let next = Mutex::new(kinds.iter().enumerate());
    let work = || {
        loop {
            let Some((at, kind)) = next.lock().unwrap().next() else { break };
            let [lent, plain] = users(kind);
            let one = std::slice::from_ref(kind);
            let mut lending = Lending::start(home_of(&server, &lent, one));
            let by_hand = home_of(&server, &plain, one);
            run(by_hand.command(real_mbsync()).args(["-q", kind.name]), LIMIT).ok();
            let mut imap = [server.imap(&lent), server.imap(&plain)];
            let mut runs = 0;
            for n in 0..count(1, 20) {
                runs += history(kind, at + n * 100, &mut lending, &by_hand, &mut imap);
            }
            let log = lending.waiter.stderr();
            let of_lent = log.matches(LENT).count();
            assert!(!log.contains("not over the connection"), "{}", lending.waiter);
            // Not while it connects anew.
            assert!(of_lent * 2 > runs, "{of_lent} of {runs} runs were lent it; {log}");
            // A login for each connection, and for each run that had to make its own.
            let (connections, plain) = lending.connections_and_plain_runs();
            let least = connections + plain;
            let most = least + log.matches("connecting was interrupted").count();
            let logins = server.logins(&lent);
            assert!((least..=most).contains(&logins), "{logins}, not {least} to {most}; {log}");
            lending.waiter.signal(Signal::TERM);
            lending.waiter.wait(LIMIT);
            let known = log.lines().rev().find_map(|line| {
                let (_, size) = line.split_once(", after it: 0, ")?;
                Some(format!(", {size}"))
            });
            let known = known.unwrap_or_default();
            told.lock().unwrap().push(format!("{}: {runs} runs, {of_lent} lent{known}", kind.name));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("see above");
        }
    });
    let told = told.into_inner().unwrap();
    println!("{}", told.join("\n"));
    // Not where a mailbox stays too small for it, or where no verdict is given.
    let known = told.iter().filter(|line| line.ends_with(" of known flags not fetched")).count();
    assert!(known * 2 >= told.len(), "{known} of {}", told.len());
}
