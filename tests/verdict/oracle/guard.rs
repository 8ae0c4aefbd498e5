//! The guard against a model: random histories of one account, with deletions and moves
//! from one message to all of them, on both sides, are synced by mutt-sync with the guard
//! on. The model makes the changes, so it knows what each side has lost and what has only
//! moved; it counts, and says what must be held. After each sync exactly that is held,
//! with the same numbers, and both sides have what the model has.

use rig::{Account, Home, Imap, Maildir, Seeded, Server, ServerOptions, count, message};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mutt_sync::verdict::guard::{self, Loss, LossSide};

type Numbers = BTreeSet<u32>;
type Folder = &'static str;

/// Synced.
const SYNCED: [Folder; 5] = ["INBOX", "Archive", "Lists", "Sent", "Trash"];
/// Here, below the store, and in the store of another account.
const ONLY_HERE: [Folder; 2] = ["Old", "../Work/Kept"];
/// On the server, outside Patterns.
const ONLY_THERE: Folder = "Elsewhere";

/// What the rules hold, of the net losses of one side of the account's mailboxes. Written
/// from the manual, not from the code.
fn rule(side: LossSide, losses: &[(u64, u64)], account: u64) -> Vec<bool> {
    let emptied: Vec<u64> =
        losses.iter().filter(|(lost, of)| *lost > 0 && lost == of).map(|it| it.0).collect();
    let two_emptied = emptied.len() > 1 && emptied.iter().sum::<u64>() >= 10;
    let more: Vec<u64> = losses.iter().map(|it| it.0).filter(|lost| *lost >= 10).collect();
    let sum = more.iter().sum::<u64>();
    let most = more.len() > 1 && sum >= 100 && 2 * sum > account;
    let alone = |lost: u64, of: u64| match side {
        LossSide::Near => lost == of && lost >= 100,
        LossSide::Far => lost == of && lost > 20 || 2 * lost > of && lost >= 100,
    };
    let each = losses.iter().map(|&(lost, of)| {
        lost > 0 && (alone(lost, of) || two_emptied && lost == of || most && lost >= 10)
    });
    each.collect()
}

#[test]
fn g14_the_rule_is_the_one_of_the_manual() {
    let mut rng = Seeded::from_env_or(20_261_129);
    let (mut held, cases) = (0, count(100_000, 5_000_000));
    for _ in 0..cases {
        let side = *rng.pick(&[LossSide::Near, LossSide::Far]);
        let losses: Vec<(u64, u64)> = (0..rng.usize(0..5))
            .map(|_| {
                let of = *rng.pick(&[0, 1, 5, 9, 10, 20, 21, 99, 100, 199, 200, 400]);
                let lost = [of, of, rng.u64(0..=of), of / 2, of / 2 + 1, 0, 9, 10, 100];
                ((*rng.pick(&lost)).min(of), of)
            })
            .collect();
        let account: u64 = losses.iter().map(|it| it.1).sum::<u64>() + rng.u64(0..2) * 1000;
        let given: Vec<Loss> = losses.iter().map(|&(lost, of)| Loss { lost, of }).collect();
        let found = guard::held(side, &given, account);
        let wanted = rule(side, &losses, account);
        let wanted: Vec<usize> = (0..losses.len()).filter(|&at| wanted[at]).collect();
        assert_eq!(found, wanted, "{side:?} {losses:?} {account}");
        held += usize::from(!wanted.is_empty());
        // What holds something is a reason to look at the account.
        assert!(wanted.is_empty() || guard::concerns_account(&given), "{losses:?}");
    }
    assert!(held > cases / 10 && held < cases, "{held}");
}

/// What a side of a mailbox has lost, as the status says it.
type Hold = (&'static str, u64, u64);

/// Messages by number, where they are.
#[derive(Debug, Default, Clone)]
struct Model {
    /// \Deleted ones are not among them: a run removes them.
    here: BTreeMap<Folder, Numbers>,
    there: BTreeMap<Folder, Numbers>,
    /// On both sides at the last run.
    pairs: BTreeMap<Folder, Numbers>,
    held: BTreeMap<Folder, Hold>,
}

fn at<'m>(side: &'m BTreeMap<Folder, Numbers>, folder: &str) -> &'m Numbers {
    static NONE: Numbers = BTreeSet::new();
    side.get(folder).unwrap_or(&NONE)
}

impl Model {
    fn side(&mut self, side: LossSide, folder: Folder) -> &mut Numbers {
        let folders = if side == LossSide::Near { &mut self.here } else { &mut self.there };
        folders.entry(folder).or_default()
    }

    fn has(&self, side: LossSide, folder: Folder) -> &Numbers {
        at(if side == LossSide::Near { &self.here } else { &self.there }, folder)
    }

    /// Gone on this side, and not on the other.
    fn lost(&self, side: LossSide, folder: Folder) -> Numbers {
        let (near, far) = (at(&self.here, folder), at(&self.there, folder));
        let (mine, other) = if side == LossSide::Near { (near, far) } else { (far, near) };
        at(&self.pairs, folder)
            .iter()
            .filter(|it| !mine.contains(it) && other.contains(it))
            .copied()
            .collect()
    }

    /// So many of both sides' messages that are not gone on both.
    fn of(&self, folder: Folder) -> u64 {
        let (near, far) = (at(&self.here, folder), at(&self.there, folder));
        at(&self.pairs, folder).iter().filter(|it| near.contains(it) || far.contains(it)).count()
            as u64
    }

    /// Whether it is still somewhere when the run is over.
    fn is_moved(&self, side: LossSide, message: u32) -> bool {
        let stays_here = |folder: &Folder| {
            at(&self.here, folder).contains(&message)
                && !self.lost(LossSide::Far, folder).contains(&message)
        };
        let here = SYNCED.iter().chain(&ONLY_HERE).any(stays_here);
        let new_there = |folder: &Folder| {
            at(&self.there, folder).contains(&message)
                && !at(&self.pairs, folder).contains(&message)
        };
        let there =
            || SYNCED.iter().any(new_there) || at(&self.there, ONLY_THERE).contains(&message);
        here || side == LossSide::Far && there()
    }

    /// What must be held. `answered`: what may go.
    fn judge(&self, answered: Option<(Folder, &'static str)>) -> BTreeMap<Folder, Hold> {
        let mut held = BTreeMap::new();
        let judged = SYNCED.iter().copied().filter(|folder| *folder != "Trash");
        let judged: Vec<Folder> = judged.collect();
        let account = judged.iter().map(|folder| self.of(folder)).sum();
        for (side, what) in [(LossSide::Near, "gone-here"), (LossSide::Far, "gone-there")] {
            let net = |folder: &Folder| {
                let lost = self.lost(side, folder);
                let gone = lost.iter().filter(|message| !self.is_moved(side, **message)).count();
                let may_go = answered == Some((*folder, what));
                (if may_go { 0 } else { gone as u64 }, self.of(folder))
            };
            let losses: Vec<(u64, u64)> = judged.iter().map(net).collect();
            for (at, is_held) in rule(side, &losses, account).into_iter().enumerate() {
                if is_held {
                    held.entry(judged[at]).or_insert((what, losses[at].0, losses[at].1));
                }
            }
        }
        held
    }

    fn run(&mut self, folder: Folder) {
        let (near, far) = (at(&self.here, folder), at(&self.there, folder));
        let pairs = at(&self.pairs, folder);
        let stays = |it: &u32| !pairs.contains(it) || near.contains(it) && far.contains(it);
        let all: Numbers = near.union(far).copied().filter(stays).collect();
        self.here.insert(folder, all.clone());
        self.there.insert(folder, all.clone());
        self.pairs.insert(folder, all);
    }
}

struct History {
    home: Home,
    imap: Imap,
    model: Model,
    rng: Seeded,
    made: u32,
    /// All that is on the server is in `Elsewhere` as well, as with Gmail.
    all_mail: bool,
    log: String,
}

/// What was counted.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    histories: u32,
    syncs: u32,
    /// Syncs after which something new was held.
    spoke: u32,
}

fn mail(number: u32) -> Vec<u8> {
    let text = String::from_utf8(message(&format!("m{number}"), "text")).unwrap();
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some(("Message-ID", _)) => format!("Message-ID: <{number}@guard.example>\n"),
        _ => format!("{line}\n"),
    });
    lines.collect::<String>().into_bytes()
}

fn number_of(message_id: &str) -> u32 {
    message_id.trim_start_matches('<').split('@').next().unwrap().parse().unwrap()
}

impl History {
    fn maildir(&self, folder: &str) -> Maildir {
        self.home.maildir("Home", folder)
    }

    fn new_messages(&mut self, many: u32) -> Vec<u32> {
        self.made += many;
        (self.made - many..self.made).collect()
    }

    fn deliver(&mut self, side: LossSide, folder: Folder, many: u32) {
        let numbers = self.new_messages(many);
        if side == LossSide::Near {
            let maildir = self.maildir(folder).create();
            for number in &numbers {
                maildir.add(&mail(*number), "S");
            }
        } else {
            let mails: Vec<Vec<u8>> = numbers.iter().map(|number| mail(*number)).collect();
            if self.all_mail {
                self.imap.append_many(ONLY_THERE, &mails, &["\\Seen"]);
                self.model.side(side, ONLY_THERE).extend(&numbers);
            }
            self.imap.append_many(folder, &mails, &["\\Seen"]);
        }
        self.model.side(side, folder).extend(&numbers);
        let _ = writeln!(self.log, "  {side:?} {folder}: {many} new");
    }

    /// Takes these out of a folder: removes them, marks them \Deleted, or moves them.
    fn take(&mut self, side: LossSide, folder: Folder, numbers: &Numbers, to: Option<Folder>) {
        let marks = to.is_none() && self.rng.u8(..4) == 0;
        if side == LossSide::Near {
            let maildir = self.maildir(folder);
            let target = to.map(|to| self.maildir(to).create());
            for entry in maildir.list() {
                if !numbers.contains(&number_of(&entry.message_id)) || entry.flags.contains('T') {
                    continue;
                }
                match &target {
                    Some(target) => drop(maildir.move_to(&entry, target)),
                    None if marks => drop(maildir.set_flags(&entry, &format!("{}T", entry.flags))),
                    None => maildir.delete(&entry),
                }
            }
        } else {
            let all = self.imap.fetch_all(folder);
            let wanted = all.iter().filter(|it| {
                numbers.contains(&number_of(&it.message_id)) && !it.letters().contains('T')
            });
            let uids: Vec<String> = wanted.map(|it| it.uid.to_string()).collect();
            let uids = uids.join(",");
            self.imap.select(folder);
            if let Some(to) = to {
                self.imap.raw(&format!("UID MOVE {uids} {to}"));
            } else {
                self.imap.raw(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)"));
                if !marks {
                    self.imap.raw(&format!("UID EXPUNGE {uids}"));
                }
            }
            self.imap.unselect();
        }
        self.model.side(side, folder).retain(|number| !numbers.contains(number));
        if let Some(to) = to {
            self.model.side(side, to).extend(numbers);
        }
        let how =
            to.map_or(if marks { "marked" } else { "removed" }.to_owned(), |to| format!("to {to}"));
        let _ = writeln!(self.log, "  {side:?} {folder}: {} {how}", numbers.len());
    }

    /// One thing that a user, a client or a server does.
    fn act(&mut self, mass: bool) {
        let side = *self.rng.pick(&[LossSide::Near, LossSide::Far]);
        let folder = *self.rng.pick(&SYNCED);
        let here = self.model.has(side, folder).clone();
        let all = u32::try_from(here.len()).unwrap();
        if all == 0 || self.rng.u8(..5) == 0 {
            let many = self.rng.u32(1..6);
            return self.deliver(side, folder, many);
        }
        let few = self.rng.u32(1..4).min(all);
        let (many, to) = if mass {
            let some = [all, all, all, all - 1, all / 2, all / 2 + 1, 99, 100, 101, few];
            ((*self.rng.pick(&some)).clamp(1, all), self.rng.u8(..5) < 2)
        } else {
            // Mail is archived, a list is cleaned, the trash is emptied; else a few go.
            match (folder, self.rng.u8(..3)) {
                ("INBOX" | "Sent", 0) => (all, true),
                ("Lists", 0) => (all - all.min(10), false),
                ("Trash", 0 | 1) => (all, false),
                (_, way) => (few, way == 1),
            }
        };
        let mut numbers: Vec<u32> = here.into_iter().collect();
        self.rng.shuffle(&mut numbers);
        let numbers: Numbers = numbers.into_iter().take(many as usize).collect();
        let places = match side {
            LossSide::Near => [&SYNCED[..], &ONLY_HERE].concat(),
            LossSide::Far => [&SYNCED[..], &[ONLY_THERE]].concat(),
        };
        let to = to.then(|| *self.rng.pick(&places)).filter(|to| *to != folder);
        if numbers.is_empty() {
            return;
        }
        // Back to where it was before, it would be a new message there.
        let known = |to: Folder| {
            let model = &self.model;
            let there = [at(&model.pairs, to), at(&model.here, to), at(&model.there, to)];
            numbers.iter().any(|number| there.iter().any(|all| all.contains(number)))
        };
        match to {
            Some(to) if known(to) => {}
            to => self.take(side, folder, &numbers, to),
        }
    }

    /// Syncs, and compares all. The folders that were asked for.
    fn sync(
        &mut self,
        args: &[&str],
        asked: &[Folder],
        answered: Option<(Folder, &'static str)>,
    ) -> u32 {
        let said = self.home.mutt_sync(args);
        let now = self.model.judge(answered);
        let before = self.model.held.clone();
        for folder in asked {
            if let Some(hold) = now.get(folder) {
                self.model.held.insert(folder, *hold);
            } else {
                self.model.held.remove(folder);
                self.model.run(folder);
            }
        }
        let _ = writeln!(self.log, "  {args:?}: {}; held: {:?}", said.code(), self.model.held);
        let status = self.home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&status).unwrap();
        let found: BTreeSet<(String, String, u64, u64)> = json["accounts"][0]["held"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|each| {
                let text = |key: &str| each[key].as_str().unwrap().to_owned();
                let number = |key: &str| each[key].as_u64().unwrap();
                (text("name"), text("what"), number("count"), number("of"))
            })
            .collect();
        let wanted: BTreeSet<(String, String, u64, u64)> = self
            .model
            .held
            .iter()
            .map(|(name, (what, count, of))| (format!("Home:{name}"), (*what).into(), *count, *of))
            .collect();
        assert_eq!(found, wanted, "held, and to be held\n{}\n{said}", self.log);
        for folder in SYNCED {
            let here = self.maildir(folder).list().into_iter().filter(|it| !it.flags.contains('T'));
            let here: Numbers = here.map(|it| number_of(&it.message_id)).collect();
            assert_eq!(here, *at(&self.model.here, folder), "{folder} here\n{}\n{said}", self.log);
            let there = self.imap.fetch_all(folder).into_iter();
            let there = there.filter(|it| !it.letters().contains('T'));
            let there: Numbers = there.map(|it| number_of(&it.message_id)).collect();
            assert_eq!(
                there,
                *at(&self.model.there, folder),
                "{folder} there\n{}\n{said}",
                self.log
            );
        }
        u32::from(
            self.model
                .held
                .iter()
                .any(|(name, hold)| before.get(name).map(|it| it.0) != Some(hold.0)),
        )
    }

    fn step(&mut self, mass: bool) -> u32 {
        for _ in 0..self.rng.u32(1..4) {
            self.act(mass);
        }
        self.home.age();
        let held: Vec<(Folder, Hold)> =
            self.model.held.iter().map(|(name, hold)| (*name, *hold)).collect();
        if !held.is_empty() && self.rng.bool() {
            let (folder, (what, ..)) = *self.rng.pick(&held);
            self.sync(&["-f", "Home"], &SYNCED, None);
            if self.model.held.get(folder).is_some_and(|now| now.0 == what) {
                let name = format!("Home:{folder}");
                self.home.age();
                return self.sync(&["--allow-deletions", &name], &[folder], Some((folder, what)));
            }
            return 0;
        }
        let args: &[&str] = match self.rng.u8(..4) {
            0 => &["-f", "--full", "Home"],
            1 => &["-f", "Home"],
            // What was held is looked for again only after a while, unless it is asked for.
            _ if !held.is_empty() => &["-f", "Home"],
            2 => &["--full", "Home"],
            _ => &["Home"],
        };
        self.sync(args, &SYNCED, None)
    }
}

fn history(server: &Server, number: usize, mass: bool, told: &mut Told) {
    let user = format!("h{number}");
    let patterns = SYNCED.join(" ");
    let home =
        Account::on(server, "Home").login(&user, &server.password(&user)).patterns(&patterns);
    let work = Account::on(server, "Work");
    let home = Home::with(vec![home.channel("Create Both\nExpunge Both\n"), work]);
    home.settings("throttle = \"0s\"\n");
    // Another one for each history, whatever the first is.
    let first = Seeded::from_env_or(20_261_129).seed();
    let mut rng = Seeded::with_seed(first + number as u64);
    let all_mail = rng.u8(..4) == 0;
    let imap = server.imap(&user);
    let log = format!("HISTORY={number} SEED={first}, all mail: {all_mail}\n");
    let model = Model::default();
    let mut history = History { home, imap, model, rng, made: 0, all_mail, log };
    history.imap.create(ONLY_THERE);
    for folder in SYNCED {
        let sizes: &[u32] =
            if mass { &[0, 5, 9, 12, 20, 21, 40, 100, 110, 210] } else { &[3, 15, 40, 120] };
        let many = *history.rng.pick(sizes);
        if many > 0 {
            history.deliver(LossSide::Far, folder, many);
        }
    }
    history.sync(&["Home"], &SYNCED, None);
    told.histories += 1;
    for step in 0..count(4, 8) {
        let _ = writeln!(history.log, "step {step}");
        told.spoke += history.step(mass);
        told.syncs += 1;
    }
}

#[test]
fn g14_exactly_what_the_model_counts_is_held() {
    const LANES: usize = 3;
    let histories = count(24, 600);
    let only: Option<usize> = std::env::var("HISTORY").ok().and_then(|n| n.parse().ok());
    let users = (0..histories).map(|n| format!("h{n}")).chain(["work".into()]).collect();
    let boxes = SYNCED[1..].iter().map(ToString::to_string).collect();
    let server = Server::with(ServerOptions { users, boxes, ..ServerOptions::default() });
    let (next, all) = (Mutex::new(0..histories), Mutex::new([Told::default(); 2]));
    let until = (!rig::soak()).then(|| Instant::now() + Duration::from_secs(45));
    let work = || {
        loop {
            let Some(number) = next.lock().unwrap().next() else { break };
            // A few at the least, however slow the machine.
            let late = number >= 2 * LANES && until.is_some_and(|until| Instant::now() > until);
            if late || only.is_some_and(|only| only != number) {
                continue;
            }
            let mass = number % 3 > 0;
            let mut told = Told::default();
            history(&server, number, mass, &mut told);
            let mut all = all.lock().unwrap();
            let sum = &mut all[usize::from(mass)];
            sum.histories += told.histories;
            sum.syncs += told.syncs;
            sum.spoke += told.spoke;
        }
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(work)).collect();
        for lane in lanes {
            lane.join().expect("a history; its first line says how to repeat it");
        }
    });
    for (name, told) in ["ordinary", "mass"].iter().zip(all.into_inner().unwrap()) {
        let Told { histories, syncs, spoke } = told;
        println!("{name}: {histories} histories, {syncs} syncs; the guard spoke {spoke} times");
    }
}
