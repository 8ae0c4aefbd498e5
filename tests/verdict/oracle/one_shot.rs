//! The same random histories twice: one account is synced by `mutt-sync far`, which
//! asks first, the other by mbsync alone. After every step both have the same files,
//! the same messages on the server, and the same record, but for its marks: what the
//! command leaves out would have changed nothing.

use super::lend_equivalence::{Outcome, outcome};
use super::{Kind, Pair, World, act, home_of, kinds};
use rig::{Home, Imap, Maildir, Seeded, Server, ServerOptions, count, real_mbsync, run};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What a run may carry: all but the marks of the record, which a run moves that has
/// nothing to carry, and its lines of messages that are gone.
fn carried(world: &mut World, pair: &Pair) -> Outcome {
    let record = world.snapshot(pair).record;
    let record = record.split_inclusive('\n').filter(|line| !line.contains("UidValidity "));
    Outcome { record: record.collect(), ..outcome(world, pair) }
}

/// How many mailboxes were asked about, and how many of them given to mbsync.
#[derive(Default)]
struct Asked {
    mailboxes: usize,
    synced: usize,
    in_step: usize,
}

fn history(
    kind: &Kind,
    number: usize,
    [ours, plain]: [&Home; 2],
    [at_ours, at_plain]: &mut [Imap; 2],
    asked: &mut Asked,
) {
    let seed = 19_790_303 + number as u64;
    // The same dice for both.
    let mut dice = [Seeded::from_env_or(seed), Seeded::from_env_or(seed)];
    let mut rng = Seeded::from_env_or(seed + 1_000_000);
    let mut log = format!("history {number}, channel {}\n", kind.name);
    let mut made = 0;
    for step in 0..=rng.usize(5..10) {
        let mut worlds = [World::new(ours, at_ours, kind), World::new(plain, at_plain, kind)];
        let actions = if step == 0 { 0 } else { *rng.pick(&[0, 0, 1, 1, 2, 3, 6]) };
        for (world, dice) in worlds.iter_mut().zip(&mut dice) {
            (world.paired, world.made) = (true, made);
            let pairs = world.pairs(number);
            let _ = writeln!(log, "step {step} in {}", world.home.path("").display());
            for pair in pairs.iter().filter(|_| step == 0) {
                world.begin(pair, dice);
            }
            for _ in 0..actions {
                act(world, dice, &pairs, &mut log);
            }
            for pair in &pairs {
                Maildir::at(&pair.maildir).age();
            }
        }
        assert_eq!(worlds[0].made, worlds[1].made, "{log}");
        made = worlds[0].made;
        let said = run(&mut ours.cmd(&["-v", "far"]), LIMIT);
        let words = said.stderr.lines().filter_map(|line| {
            let (_, words) = line.split_once(": running ")?.1.split_once(" -- ")?;
            words.split(", over the").next()
        });
        let words: Vec<&str> = words.collect();
        let _ = writeln!(log, "  mbsync {words:?}");
        asked.mailboxes += 2;
        asked.in_step += usize::from(words.is_empty());
        asked.synced += match words.as_slice() {
            [] => 0,
            [one] if one.contains(':') && !one.contains(',') => 1,
            _ => 2,
        };
        let by_hand = |home: &Home| run(home.command(real_mbsync()).args(["-q", kind.name]), LIMIT);
        let of_plain = by_hand(plain);
        let [mut here, mut there] = worlds;
        let pairs: Vec<(Pair, Pair)> =
            here.pairs(number).into_iter().zip(there.pairs(number)).collect();
        // A run that carries nothing moves the marks, and what is then below them (a message
        // that was deleted when it came, say) is not carried later either. So both get it.
        for again in [false, true] {
            for (a, b) in &pairs {
                assert_eq!(
                    carried(&mut here, a),
                    carried(&mut there, b),
                    "a sync that asks first and a plain one differ in {} ({again})\n{said}\n\
                     {of_plain}\n{log}",
                    kind.name
                );
            }
            let mut differ =
                |(a, b): &(Pair, Pair)| here.snapshot(a).marks != there.snapshot(b).marks;
            if again || !pairs.iter().any(&mut differ) {
                break;
            }
            by_hand(ours);
        }
    }
    // The next begins without them.
    for (imap, home) in [(at_ours, ours), (at_plain, plain)] {
        World::new(home, imap, kind).remove(number);
    }
}

/// Servers with much and with little to show.
fn servers(users: &[String]) -> [Server; 2] {
    let without = [&[][..], &["CONDSTORE", "QRESYNC", "LIST-STATUS", "LIST-EXTENDED", "ESEARCH"]];
    without.map(|without| {
        Server::with(ServerOptions {
            users: users.to_vec(),
            boxes: vec![],
            without: without.iter().map(ToString::to_string).collect(),
            ..ServerOptions::default()
        })
    })
}

#[test]
fn g7_a_command_carries_all_that_mbsync_alone_would() {
    let mut kinds = kinds();
    let without = std::env::var("WITHOUT").unwrap_or_default();
    let only = std::env::var("KIND").ok();
    kinds.retain(|kind| kind.name != without && only.as_ref().is_none_or(|only| only == kind.name));
    let users = |kind: &Kind| ["ours", "plain"].map(|how| format!("{}-{how}", kind.name));
    let all: Vec<String> = kinds.iter().flat_map(users).collect();
    let servers = servers(&all);
    let told = Mutex::new(Vec::new());
    let next = Mutex::new(kinds.iter().enumerate());
    let work = || {
        loop {
            let Some((at, kind)) = next.lock().unwrap().next() else { break };
            for (which, server) in servers.iter().enumerate() {
                let homes =
                    users(kind).map(|user| home_of(server, &user, std::slice::from_ref(kind)));
                let mbsync = real_mbsync();
                homes[0]
                    .settings(&format!("throttle = \"0s\"\nmbsync = \"{}\"\n", mbsync.display()));
                let mut imap = users(kind).map(|user| server.imap(&user));
                run(&mut homes[0].cmd(&["far"]), LIMIT).ok();
                let mut asked = Asked::default();
                for n in 0..count(1, 10) {
                    let number = at + n * 100 + which * 10_000;
                    history(kind, number, homes.each_ref(), &mut imap, &mut asked);
                }
                let Asked { mailboxes, synced, in_step } = asked;
                told.lock().unwrap().push((mailboxes, synced, in_step));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("see above");
        }
    });
    let told = told.into_inner().unwrap();
    let sum = |of: fn(&(usize, usize, usize)) -> usize| told.iter().map(of).sum::<usize>();
    let (mailboxes, synced, in_step) = (sum(|it| it.0), sum(|it| it.1), sum(|it| it.2));
    println!("{mailboxes} mailboxes asked about, {synced} synced; {in_step} syncs without a run");
    assert!(in_step > 10 && synced * 10 < mailboxes * 9, "{in_step}, {synced} of {mailboxes}");
}
