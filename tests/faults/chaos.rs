//! Everything at once: three accounts on real servers, mail and flags that
//! change on both sides, commands, and faults of every kind at random. When the
//! faults are lifted, both sides must be equal and as they were left by the side that
//! changed them last, with no run too many, nothing left behind, no panic.
//!
//! Among the faults is what the guard is for: a mailbox of many messages is emptied on
//! either side, or its Maildir is away for a while. It must be held, and nobody else.
//!
//! Twenty seconds, or half an hour with `SOAK=1`; `CHAOS_SECONDS` chooses.
//! `CHAOS_LOGS` names a directory that keeps what the waiters said.

use crate::mounts::Mounts;
use crate::support::ms;
use rig::{
    Account, Delay, Home, Imap, Maildir, Mbsync, Seeded, Server, ServerOptions, Signal, Tls,
    compare, in_own_network, ip, message, process, run, wait_until,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

const BOXES: [&str; 3] = ["INBOX", "Archive", "Drafts"];
/// The mailbox that is emptied, by nothing but a fault.
const LISTS: &str = "Lists";
/// So many messages it has: the guard lets fewer go that are deleted here.
const MANY: usize = 120;
const KINDS_OF_FAULT: u32 = 25;
const FLAGS: [&str; 6] = ["", "S", "F", "FS", "RS", "FRS"];
/// So many messages an account holds at most, about.
const CROWD: usize = 60;
/// Long enough for anything on a busy machine.
const LONG: Duration = Duration::from_secs(180);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an account is waited for.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// One process, `--wait --loop`, started again when it ends, as runsv does.
    Loop,
    /// A shell that calls `--wait` again and again.
    Shell,
}

/// A waiter and the supervisor that starts it again.
struct Keeper {
    name: &'static str,
    way: Way,
    log: PathBuf,
    child: Option<Child>,
    /// How often it ended with which status.
    ended: BTreeMap<i32, usize>,
}

impl Keeper {
    fn start(&mut self, mounts: &Mounts<'_>) {
        let log = OpenOptions::new().append(true).create(true).open(&self.log).unwrap();
        let mut command = match self.way {
            Way::Loop => mounts.cmd(&["--wait", "--loop", "-v", self.name]),
            Way::Shell => {
                let script = format!(
                    "while :; do '{}' --wait -v {}; echo \"code=$?\" >&2; sleep 0.1; done",
                    rig::mutt_sync().display(),
                    self.name
                );
                let mut command = mounts.command("sh");
                command.args(["-c", &script]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.child = Some(rig::spawn(&mut command).unwrap());
    }

    /// Starts it again if it has ended.
    fn keep(&mut self, mounts: &Mounts<'_>) {
        if let Some(child) = &mut self.child {
            match child.try_wait().unwrap() {
                Some(status) => *self.ended.entry(code(status)).or_default() += 1,
                None => return,
            }
        }
        self.start(mounts);
    }

    fn top(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The process that waits.
    fn waiter(&self) -> Option<u32> {
        let mut all = vec![self.top()];
        all.extend(process::descendants(self.top()));
        all.into_iter().find(|pid| {
            let line = process::command_line(*pid);
            line.contains("--wait") && !line.starts_with("sh ") && process::alive(*pid)
        })
    }

    /// Everything from the top of the tree on.
    fn tree(&self) -> Vec<u32> {
        let mut all = vec![self.top()];
        all.extend(process::descendants(self.top()));
        all
    }

    /// The mbsync processes of its run, wrapper and all.
    fn mbsync(&self) -> Vec<u32> {
        let mut all = process::descendants(self.top());
        all.retain(|pid| process::command_line(*pid).contains("mbsync -"));
        all
    }

    fn stop(&mut self) {
        // The shell first, for it would start another.
        for pid in self.tree() {
            if process::command_line(pid).contains("--wait") {
                process::kill(pid, Signal::TERM);
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            for pid in process::descendants(child.id()) {
                process::kill(pid, Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The side that alone changes a message: so what it must come to is known.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Near,
    ServerWatch,
}

/// What was last done to a message in a mailbox.
#[derive(Debug, Clone)]
struct Fate {
    owner: Side,
    flags: String,
    there: bool,
    moved: bool,
}

/// By mailbox and Message-ID.
type Ledger = BTreeMap<(String, String), Fate>;

/// One account's world.
struct Lane<'a> {
    name: &'static str,
    user: String,
    home: &'a Home,
    mounts: &'a Mounts<'a>,
    mbsync: &'a Mutex<Mbsync>,
    state: PathBuf,
    server: Mutex<Server>,
    link: Delay,
    keeper: Mutex<Keeper>,
    log: PathBuf,
    begun: Instant,
    over: &'a AtomicBool,
    /// The faults to come, of all accounts.
    deck: &'a Mutex<Vec<u32>>,
    /// The messages that [`LISTS`] must have in the end.
    lists: Mutex<BTreeSet<String>>,
}

/// What happened, by kind.
#[derive(Default)]
struct Counts {
    changes: BTreeMap<&'static str, usize>,
    commands: BTreeMap<String, usize>,
    faults: BTreeMap<&'static str, usize>,
}

fn sum<K>(counts: &BTreeMap<K, usize>) -> usize {
    counts.values().sum()
}

fn show<K: std::fmt::Display>(counts: &BTreeMap<K, usize>) -> String {
    let parts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    parts.join(", ")
}

fn id_of(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let line = text.lines().find_map(|line| line.strip_prefix("Message-ID: "));
    line.expect("the rig gives each message one").to_owned()
}

/// The flags of IMAP for letters of a Maildir.
fn far_flags(letters: &str) -> Vec<&'static str> {
    let flag = |letter| match letter {
        'F' => "\\Flagged",
        'R' => "\\Answered",
        'S' => "\\Seen",
        other => panic!("{other} is not used here"),
    };
    letters.chars().map(flag).collect()
}

impl Lane<'_> {
    /// A line in the waiter's log, so that what happened when can be read there.
    fn note(&self, text: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(&self.log) {
            let _ = file.write_all(format!("== {at:.3} {text}\n").as_bytes());
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn maildir(&self, mailbox: &str) -> Maildir {
        self.home.maildir(self.name, mailbox)
    }

    /// Sleeps, but not past the end.
    fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            sleep(ms(20));
        }
    }

    /// Changes things until it is over.
    fn change(&self, mut rng: Seeded) -> (Counts, Ledger) {
        let (mut counts, mut ledger) = (Counts::default(), Ledger::new());
        for step in 0_u64.. {
            if self.is_over() {
                break;
            }
            // Bursts, and pauses in which everything comes to rest.
            let pause = if rng.u32(..25) == 0 { rng.u64(3000..7000) } else { rng.u64(30..1000) };
            self.pass(ms(pause));
            let near = rng.bool();
            let server = if near { None } else { self.server.try_lock().ok() };
            let what = match server {
                Some(server) => {
                    let mut imap = server.imap(&self.user);
                    Self::far_change(&mut rng, &mut imap, &mut ledger, step)
                }
                None => self.near_change(&mut rng, &mut ledger, step),
            };
            if let Some((what, mailbox)) = what {
                self.note(&format!("change: {what}, {mailbox}"));
                *counts.changes.entry(what).or_default() += 1;
            }
            if rng.u32(..12) == 0 {
                self.command(&mut rng, &mut counts);
            }
        }
        (counts, ledger)
    }

    /// A message that this side owns, there by all that is known.
    fn pick(
        rng: &mut Seeded,
        ledger: &Ledger,
        owner: Side,
        fit: impl Fn(&Fate) -> bool,
    ) -> Option<(String, String)> {
        let mine =
            |(_, fate): &(&(String, String), &Fate)| fate.owner == owner && fate.there && fit(fate);
        let all: Vec<(String, String)> =
            ledger.iter().filter(mine).map(|(key, _)| key.clone()).collect();
        (!all.is_empty()).then(|| rng.pick(&all).clone())
    }

    fn new_message(
        rng: &mut Seeded,
        ledger: &mut Ledger,
        mailbox: &str,
        flags: &str,
        step: u64,
    ) -> Vec<u8> {
        let bytes = message("chaos", &format!("step {step}"));
        let owner = if rng.bool() { Side::Near } else { Side::ServerWatch };
        let fate = Fate { owner, flags: flags.to_owned(), there: true, moved: false };
        ledger.insert((mailbox.to_owned(), id_of(&bytes)), fate);
        bytes
    }

    fn far_change(
        rng: &mut Seeded,
        imap: &mut Imap,
        ledger: &mut Ledger,
        step: u64,
    ) -> Option<(&'static str, String)> {
        // As many go as come, once there are some.
        let crowded = ledger.values().filter(|fate| fate.there).count() > CROWD;
        let jitter = rng.u32(if crowded { 2..10 } else { 0..9 });
        if jitter < 4 {
            let (mailbox, flags) = (*rng.pick(&BOXES), *rng.pick(&["", "", "S", "F"]));
            let bytes = Self::new_message(rng, ledger, mailbox, flags, step);
            imap.append(mailbox, &bytes, &far_flags(flags));
            return Some(("delivered", mailbox.to_owned()));
        }
        let key = Self::pick(rng, ledger, Side::ServerWatch, |_| true)?;
        let there = imap.fetch_all(&key.0).into_iter().find(|found| found.message_id == key.1)?;
        let fate = ledger.get_mut(&key)?;
        imap.select(&key.0);
        let what = if jitter < 8 {
            let flags = *rng.pick(&FLAGS);
            flags.clone_into(&mut fate.flags);
            let words = far_flags(flags).join(" ");
            imap.raw(&format!("UID STORE {} FLAGS.SILENT ({words})", there.uid));
            "flags there"
        } else {
            fate.there = false;
            imap.expunge(there.uid);
            "expunged there"
        };
        imap.unselect();
        Some((what, key.0))
    }

    fn near_change(
        &self,
        rng: &mut Seeded,
        ledger: &mut Ledger,
        step: u64,
    ) -> Option<(&'static str, String)> {
        let crowded = ledger.values().filter(|fate| fate.there).count() > CROWD;
        let jitter = rng.u32(if crowded { 2..12 } else { 0..11 });
        if jitter < 4 {
            let (mailbox, flags) = (*rng.pick(&BOXES), *rng.pick(&["", "S", "FS"]));
            let maildir = self.maildir(mailbox).create();
            let bytes = Self::new_message(rng, ledger, mailbox, flags, step);
            maildir.add(&bytes, flags);
            return Some(("filed here", mailbox.to_owned()));
        }
        if jitter == 4 {
            let key = Self::pick(rng, ledger, Side::Near, |fate| !fate.moved)?;
            let to = *rng.pick(&BOXES);
            let fate = ledger.get(&key)?.clone();
            let bytes = fs::read(self.here(&key)?.path).ok()?;
            if to == key.0 {
                return None;
            }
            self.maildir(to).create().add(&bytes, &fate.flags);
            ledger.insert((to.to_owned(), key.1.clone()), Fate { moved: true, ..fate });
            ledger.get_mut(&key)?.there = false;
            self.on_file(&key, |path| fs::remove_file(path));
            return Some(("moved here", format!("{} to {to}", key.0)));
        }
        if jitter == 5 {
            // What mutt does with unread mail that it leaves: nothing to be pushed.
            let mailbox = *rng.pick(&BOXES);
            let entries = self.maildir(mailbox).list();
            let entry = entries.into_iter().find(|entry| entry.new)?;
            let (base, flags) = entry.name.split_once(":2,").unwrap_or((&entry.name, ""));
            let to = self.maildir(mailbox).path().join("cur").join(format!("{base}:2,{flags}"));
            return fs::rename(&entry.path, to).ok().map(|()| ("left unread", mailbox.to_owned()));
        }
        let key = Self::pick(rng, ledger, Side::Near, |_| true)?;
        self.here(&key)?;
        if jitter < 10 {
            let flags = *rng.pick(&FLAGS);
            flags.clone_into(&mut ledger.get_mut(&key)?.flags);
            let cur = self.maildir(&key.0).path().join("cur");
            self.on_file(&key, |path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let base = name.split(":2,").next().unwrap_or_default().to_owned();
                fs::rename(path, cur.join(format!("{base}:2,{flags}")))
            });
            Some(("flags here", key.0))
        } else {
            ledger.get_mut(&key)?.there = false;
            self.on_file(&key, |path| fs::remove_file(path));
            Some(("deleted here", key.0))
        }
    }

    fn here(&self, key: &(String, String)) -> Option<rig::Entry> {
        self.maildir(&key.0).list().into_iter().find(|entry| entry.message_id == key.1)
    }

    /// Does this to the message's file. mbsync may rename it in between; so, as
    /// mutt would, it looks for it again.
    #[track_caller]
    fn on_file(&self, key: &(String, String), act: impl Fn(&Path) -> std::io::Result<()>) {
        let begun = Instant::now();
        loop {
            if self.here(key).is_some_and(|entry| act(&entry.path).is_ok()) {
                return;
            }
            assert!(begun.elapsed() < LONG, "{}: {key:?} is not to be had", self.name);
        }
    }

    /// What a user, a hook or a timer does.
    fn command(&self, rng: &mut Seeded, counts: &mut Counts) {
        let name = self.name;
        let boxed = format!("{name}:{}", rng.pick(&BOXES));
        let (args, what): (&[&str], _) = match rng.u32(..5) {
            0 | 1 => (&["-b", name], "-b"),
            2 => (&["-b", &boxed], "-b"),
            3 => (&["--force", &boxed], "--force"),
            _ => {
                let trigger = self.mounts.path(&self.state).join("trigger");
                let touched = fs::write(trigger, "").is_ok();
                self.note("command: touch trigger");
                let what = format!("trigger ({})", if touched { "touched" } else { "not" });
                *counts.commands.entry(what).or_default() += 1;
                return;
            }
        };
        let output = run(&mut self.mounts.cmd(args), LONG);
        let said = format!("{}{}", output.stdout, output.stderr);
        self.note(&format!("command: {args:?}: {} {}", output.code(), said.trim()));
        *counts.commands.entry(format!("{what} ({})", output.code())).or_default() += 1;
    }

    /// Breaks things until it is over; each is whole again before the next.
    fn break_things(&self, mut rng: Seeded) -> Counts {
        let mut counts = Counts::default();
        loop {
            let until = Instant::now() + ms(rng.u64(800..5000));
            while Instant::now() < until && !self.is_over() {
                lock(&self.keeper).keep(self.mounts);
                sleep(ms(100));
            }
            if self.is_over() {
                return counts;
            }
            let time = ms(rng.u64(300..3000));
            if let Some(what) = self.fault(&mut rng, time) {
                self.note(&format!("fault over: {what}"));
                *counts.faults.entry(what).or_default() += 1;
            }
        }
    }

    fn fault(&self, rng: &mut Seeded, time: Duration) -> Option<&'static str> {
        let say = |what: &'static str| {
            self.note(&format!("fault: {what} {time:?}"));
            Some(what)
        };
        match self.deal(rng) {
            0 => {
                let waiter = lock(&self.keeper).waiter()?;
                process::kill(waiter, Signal::KILL);
                say("waiter killed")
            }
            1 => {
                let tree = lock(&self.keeper).tree();
                for pid in tree.into_iter().rev() {
                    process::kill(pid, Signal::KILL);
                }
                say("everything of the account killed")
            }
            2 => {
                let waiter = lock(&self.keeper).waiter()?;
                process::kill(waiter, *rng.pick(&[Signal::TERM, Signal::INT, Signal::HUP]));
                say("waiter told to end")
            }
            3 => {
                let waiter = lock(&self.keeper).waiter()?;
                let what = say("waiter stopped a while");
                process::kill(waiter, Signal::STOP);
                self.pass(time);
                process::kill(waiter, Signal::CONT);
                what
            }
            4 | 5 => {
                let mbsync = self.some_mbsync(rng)?;
                process::kill(mbsync, Signal::KILL);
                say("mbsync killed")
            }
            6 => {
                let mbsync = self.some_mbsync(rng)?;
                let what = say("mbsync stopped a while");
                process::kill(mbsync, Signal::STOP);
                self.pass(time);
                process::kill(mbsync, Signal::CONT);
                what
            }
            7 => {
                let mut server = lock(&self.server);
                let what = say("server killed");
                server.kill();
                self.pass(time);
                server.restart();
                what
            }
            8 => {
                let mut server = lock(&self.server);
                let what = say("server shut down");
                server.stop();
                self.pass(time);
                server.restart();
                what
            }
            9 => {
                let server = lock(&self.server);
                let what = say("server stopped a while");
                server.freeze();
                self.pass(time);
                server.thaw();
                what
            }
            10 => {
                self.link.cut();
                say("link cut")
            }
            11 => {
                let what = say("link dead a while");
                self.link.stall();
                self.pass(time);
                if rng.bool() {
                    self.link.cut();
                }
                self.link.flow();
                what
            }
            12 => {
                let what = say("no connection to be had");
                self.link.refuse(true);
                self.link.cut();
                self.pass(time);
                self.link.refuse(false);
                what
            }
            13 => {
                let what = say("link slow a while");
                self.link.set_round_trip(ms(rng.u64(50..400)));
                self.pass(time * 2);
                self.link.set_round_trip(Duration::ZERO);
                what
            }
            14 => {
                let what = say("disk full a while");
                self.mounts.fill(&self.state);
                self.pass(time);
                self.mounts.empty(&self.state);
                what
            }
            15 => {
                let what = say("disk read-only a while");
                self.mounts.read_only(&self.state);
                self.pass(time);
                self.mounts.writable(&self.state);
                what
            }
            16 => {
                let waiter = lock(&self.keeper).waiter()?;
                let what = say("no descriptors a while");
                limit_descriptors(waiter, &rng.u32(3..16).to_string());
                self.pass(time);
                limit_descriptors(waiter, "1024");
                what
            }
            17 => {
                let what = say("stamps of another time");
                self.shift_stamps(rng);
                what
            }
            18 => {
                let what = say("mbsync slow a while");
                let slow = *rng.pick(&["before", "middle", "after"]);
                lock(self.mbsync).tell(slow, "0.8");
                self.pass(time);
                lock(self.mbsync).forget(slow);
                what
            }
            19 => {
                let what = say("network changes");
                // Of each account another.
                let address = format!("10.77.{}.1/32 dev lo", self.name.as_bytes()[0]);
                for _ in 0..rng.u32(1..40) {
                    ip(&format!("addr add {address}"));
                    ip(&format!("addr del {address}"));
                }
                what
            }
            20..=23 if !self.lists_in_step() => None,
            20 => Some(self.directory_swapped(time)),
            21 => Some(self.emptied_here(time)),
            22 => Some(self.emptied_there(time)),
            23 => Some(self.maildir_away(time)),
            _ => {
                // All accounts' at once; nobody else may set it back meanwhile.
                let guard = lock(self.mbsync);
                let what = say("mbsync replaced a while");
                let (here, away) = (guard.path(), guard.path().with_extension("away"));
                fs::rename(&here, &away).unwrap();
                if rng.bool() {
                    let script = "head -c 2000000 /dev/zero | tr '\\0' x\n\
                                  head -c 2000000 /dev/zero | tr '\\0' y >&2\nexit 1";
                    self.home.program("mbsync", script);
                }
                self.pass(time);
                fs::rename(&away, &here).unwrap();
                what
            }
        }
    }

    /// Each kind of fault once, in any order, and then again.
    fn deal(&self, rng: &mut Seeded) -> u32 {
        let mut deck = lock(self.deck);
        if deck.is_empty() {
            deck.extend(0..KINDS_OF_FAULT);
            rng.shuffle(&mut deck);
        }
        deck.pop().unwrap_or_default()
    }

    /// Whether both sides of [`LISTS`] have what it is to have, by a record that is written.
    fn lists_in_step(&self) -> bool {
        let here = self.maildir(LISTS).list();
        let ids: BTreeSet<String> = here.iter().map(|entry| entry.message_id.clone()).collect();
        here.iter().all(|entry| entry.name.contains(",U="))
            && ids == *lock(&self.lists)
            && self.lists_there() == ids
    }

    fn lists_there(&self) -> BTreeSet<String> {
        let mut imap = lock(&self.server).imap(&self.user);
        imap.fetch_all(LISTS).into_iter().map(|message| message.message_id).collect()
    }

    /// New messages on the server in place of those that are gone for good.
    fn fill_lists(&self) {
        let messages: Vec<Vec<u8>> =
            (0..MANY).map(|n| message("lists", &format!("number {n}"))).collect();
        *lock(&self.lists) = messages.iter().map(|bytes| id_of(bytes)).collect();
        lock(&self.server).imap(&self.user).append_many(LISTS, &messages, &["\\Seen"]);
    }

    /// Answers for what is held, until nothing waits for an answer.
    fn allow(&self, gone: impl Fn() -> bool) {
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < LONG, "{}: the deletions are not allowed", self.name);
            lock(&self.keeper).keep(self.mounts);
            let output = run(&mut self.mounts.cmd(&["--allow-deletions", self.name]), LONG);
            self.note(&format!("answer: {} {}", output.code(), output.stdout.trim()));
            sleep(ms(200));
        }
    }

    /// All messages are deleted here. They stay on the server until somebody answers, but
    /// for a run that was on its way before.
    fn emptied_here(&self, time: Duration) -> &'static str {
        self.note(&format!("fault: emptied here {time:?}"));
        let old = lock(&self.lists).clone();
        for entry in self.maildir(LISTS).list() {
            // mbsync may rename it in between.
            self.on_file(&(LISTS.to_owned(), entry.message_id), |path| fs::remove_file(path));
        }
        self.pass(time + ms(1000));
        let there = self.lists_there().len();
        self.allow(|| self.lists_there().is_disjoint(&old));
        self.fill_lists();
        if there == MANY { "emptied here" } else { "emptied here, and a run was on its way" }
    }

    /// Another directory is in the place of the one with the messages.
    fn directory_swapped(&self, time: Duration) -> &'static str {
        self.note(&format!("fault: messages away a while {time:?}"));
        let (cur, aside) = (self.maildir(LISTS).path().join("cur"), self.aside());
        fs::rename(&cur, &aside).unwrap();
        fs::create_dir(&cur).unwrap();
        self.pass(time + ms(1000));
        assert_eq!(self.lists_there(), *lock(&self.lists), "{}: deleted unasked", self.name);
        fs::remove_dir(&cur).expect("nothing came into it");
        fs::rename(&aside, &cur).unwrap();
        "messages away a while"
    }

    /// All messages are expunged on the server at once. Those here stay until somebody
    /// answers, but for a run that was on its way before.
    fn emptied_there(&self, time: Duration) -> &'static str {
        self.note(&format!("fault: emptied there {time:?}"));
        {
            let mut imap = lock(&self.server).imap(&self.user);
            imap.select(LISTS);
            imap.raw("UID STORE 1:* +FLAGS.SILENT (\\Deleted)");
            imap.raw("EXPUNGE");
            imap.unselect();
        }
        self.pass(time + ms(1000));
        let here = self.maildir(LISTS).list().len();
        self.allow(|| self.maildir(LISTS).list().is_empty());
        self.fill_lists();
        if here == MANY { "emptied there" } else { "emptied there, and a run was on its way" }
    }

    /// As with a disk that is not mounted. A run that was on its way may make it anew.
    fn maildir_away(&self, time: Duration) -> &'static str {
        self.note(&format!("fault: Maildir away a while {time:?}"));
        let (dir, aside) = (self.maildir(LISTS).path().to_owned(), self.aside());
        fs::rename(&dir, &aside).unwrap();
        self.pass(time + ms(1000));
        assert_eq!(self.lists_there(), *lock(&self.lists), "{}: deleted unasked", self.name);
        let is_new = dir.exists();
        if is_new {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::rename(&aside, &dir).unwrap();
        if is_new { "Maildir away, and a run was on its way" } else { "Maildir away a while" }
    }

    /// Where a Maildir is meanwhile.
    fn aside(&self) -> PathBuf {
        self.home.path(&format!("aside-{}", self.name))
    }

    fn some_mbsync(&self, rng: &mut Seeded) -> Option<u32> {
        // One comes by sooner or later.
        let until = Instant::now() + ms(3000);
        while Instant::now() < until && !self.is_over() {
            let all = lock(&self.keeper).mbsync();
            if !all.is_empty() {
                sleep(ms(rng.u64(..30)));
                return Some(*rng.pick(&all));
            }
            sleep(ms(5));
        }
        None
    }

    /// Files as they would look had the clock been wrong when they were written.
    fn shift_stamps(&self, rng: &mut Seeded) {
        let day = Duration::from_secs(86_400);
        let then = if rng.bool() { SystemTime::now() + day } else { SystemTime::now() - day };
        for part in ["throttle", "trigger", "last.json", "seen.json", "lock"] {
            let file = self.mounts.path(&self.state).join(part);
            if let Ok(file) = fs::File::open(file) {
                let _ = file.set_modified(then);
            }
        }
    }

    /// Whether both sides are equal, and as they were left.
    fn compare(&self, ledger: &Ledger) -> Result<(), String> {
        compare(&mut lock(&self.server).imap(&self.user), &self.home.mail(self.name))?;
        let mut here: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for mailbox in BOXES {
            for entry in self.maildir(mailbox).list() {
                let key = (mailbox.to_owned(), entry.message_id);
                here.entry(key).or_default().push(entry.flags);
            }
        }
        let mut diff = String::new();
        for (key, fate) in ledger {
            let expected: Vec<String> =
                fate.there.then(|| fate.flags.clone()).into_iter().collect();
            let found = here.remove(key).unwrap_or_default();
            if found != expected {
                let _ = writeln!(diff, "{key:?}: {found:?} on both sides; {fate:?}");
            }
        }
        for (key, found) in here {
            let _ = writeln!(diff, "{key:?}: {found:?}, of nobody's making");
        }
        if !self.lists_in_step() {
            let _ = writeln!(diff, "{LISTS} is not as it was left");
        }
        if diff.is_empty() { Ok(()) } else { Err(diff) }
    }

    /// What ours has left where it does not belong.
    fn litter(&self) -> Vec<String> {
        let mut found = Vec::new();
        let state = self.mounts.path(&self.state);
        for part in ["", "want", "run"] {
            for entry in fs::read_dir(state.join(part)).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !part.is_empty() || name.starts_with('.') {
                    found.push(format!("{}: {part}/{name}", self.name));
                }
            }
        }
        for mailbox in BOXES {
            for entry in fs::read_dir(self.maildir(mailbox).path()).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(".mbsyncstate.") {
                    found.push(format!("{}: {mailbox}/{name}", self.name));
                }
            }
        }
        found
    }
}

fn limit_descriptors(pid: u32, soft: &str) {
    // Gone meanwhile, it needs none.
    let nofile = format!("--nofile={soft}:");
    run(std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &nofile]), LONG);
}

/// How long to go on.
fn duration() -> Duration {
    let told = std::env::var("CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(if rig::soak() { 1800 } else { 20 }))
}

#[test]
fn g1_g2_g5_g6_g7_g14_nothing_is_lost_and_nothing_too_many_whatever_breaks() {
    let name = "chaos::g1_g2_g5_g6_g7_g14_nothing_is_lost_and_nothing_too_many_whatever_breaks";
    if !in_own_network(name, duration() + LONG * 3) {
        return;
    }
    let users = |name: &str| vec![name.to_lowercase()];
    let boxes = || [&BOXES[1..], &["Sent", "Trash", LISTS]].concat();
    let options = |name: &str| ServerOptions {
        users: users(name),
        boxes: boxes().into_iter().map(str::to_owned).collect(),
        ..ServerOptions::default()
    };
    let kinds = [
        ("Home", Way::Loop, options("Home")),
        ("Work", Way::Shell, ServerOptions { notify: false, ..options("Work") }),
        ("Other", Way::Loop, ServerOptions { tls: Tls::Imaps, ..options("Other") }),
    ];
    let servers: Vec<(&'static str, Way, Server, Delay)> = kinds
        .into_iter()
        .map(|(name, way, options)| {
            let server = Server::with(options);
            let link = Delay::to(server.port(), Duration::ZERO);
            (name, way, server, link)
        })
        .collect();
    let accounts = servers
        .iter()
        .map(|(name, _, server, link)| Account::on(server, name).port(link.port()))
        .collect();
    let home = Home::with(accounts);
    home.settings(
        "throttle = \"0s\"\nsettle = \"300ms\"\nevery = \"10h\"\nretry = \"1s\"\n\
         retry_max = \"3s\"\nstall = \"8s\"\nsweep = \"2s\"\n[account.Work]\nthrottle = \"1s\"\n",
    );
    let mbsync = Mutex::new(home.wrap_mbsync());
    let mounts = Mounts::new(&home);
    let logs = std::env::var_os("CHAOS_LOGS").map_or_else(|| home.path("logs"), PathBuf::from);
    fs::create_dir_all(&logs).unwrap();
    let (over, begun) = (AtomicBool::new(false), Instant::now());
    let deck = Mutex::new(Vec::new());
    let lanes: Vec<Lane<'_>> = servers
        .into_iter()
        .map(|(name, way, server, link)| {
            let (state, log) = (home.state(name), logs.join(name));
            let _ = fs::remove_file(&log);
            mounts.small_disk(&state, 512, 200);
            let keeper =
                Keeper { name, way, log: log.clone(), child: None, ended: BTreeMap::new() };
            Lane {
                name,
                user: name.to_lowercase(),
                home: &home,
                mounts: &mounts,
                mbsync: &mbsync,
                state,
                server: Mutex::new(server),
                link,
                keeper: Mutex::new(keeper),
                log,
                begun,
                over: &over,
                deck: &deck,
                lists: Mutex::default(),
            }
        })
        .collect();
    let seed = Seeded::from_env_or(20_261_128);
    println!("chaos: seed {}, {:?}", seed.seed(), duration());
    for lane in &lanes {
        lane.fill_lists();
        lock(&lane.keeper).start(&mounts);
    }
    let told: Vec<(Counts, Ledger)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0_u64..)
            .zip(&lanes)
            .map(|(at, lane)| {
                let changes = Seeded::with_seed(seed.seed() + 2 * at);
                let faults = Seeded::with_seed(seed.seed() + 2 * at + 1);
                (
                    scope.spawn(move || lane.change(changes)),
                    scope.spawn(move || lane.break_things(faults)),
                )
            })
            .collect();
        let until = Instant::now() + duration();
        let ended = |(a, b): &(
            std::thread::ScopedJoinHandle<'_, _>,
            std::thread::ScopedJoinHandle<'_, _>,
        )| a.is_finished() || b.is_finished();
        while Instant::now() < until && !threads.iter().any(ended) {
            sleep(ms(100));
        }
        over.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|(changes, faults)| {
                let (mut counts, ledger) = changes.join().expect("changes");
                counts.faults = faults.join().expect("faults").faults;
                (counts, ledger)
            })
            .collect()
    });
    finish(&lanes, &told, &mbsync);
}

/// The faults are lifted: what has it all come to?
fn finish(lanes: &[Lane<'_>], told: &[(Counts, Ledger)], mbsync: &Mutex<Mbsync>) {
    let mbsync = lock(mbsync);
    let say = |text: &str| {
        println!("chaos: {text}");
        for lane in lanes {
            lane.note(text);
        }
    };
    say("faults lifted");
    let lifted = Instant::now();
    let tails = || {
        let mut text = String::new();
        for lane in lanes {
            let log = fs::read_to_string(&lane.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(120)..].join("\n");
            let _ = writeln!(text, "--- {}\n{tail}", lane.name);
        }
        text
    };
    // Equal, and no run for a while.
    let rest = if rig::soak() { Duration::from_secs(60) } else { Duration::from_secs(6) };
    let mut last = (0, Instant::now(), vec![]);
    let mut equal_after = None;
    loop {
        for lane in lanes {
            lock(&lane.keeper).keep(lane.mounts);
        }
        let runs = mbsync.runs();
        let busy = runs.iter().any(rig::Run::alive);
        if runs.len() != last.0 || busy {
            last = (runs.len(), Instant::now(), vec![]);
        }
        last.2 = lanes
            .iter()
            .zip(told)
            .filter_map(|(lane, (_, ledger))| {
                lane.compare(ledger).err().map(|diff| format!("{}:\n{diff}", lane.name))
            })
            .collect();
        if last.2.is_empty() {
            equal_after.get_or_insert_with(|| lifted.elapsed());
            if last.1.elapsed() > rest {
                break;
            }
        }
        assert!(
            lifted.elapsed() < LONG,
            "not equal and at rest: {} runs, the last {:?} ago; {}\n{}",
            last.0,
            last.1.elapsed(),
            last.2.join("\n"),
            tails()
        );
        sleep(ms(300));
    }
    let quiet = mbsync.runs().len();
    say(&format!("equal {:?} after the last fault", equal_after.unwrap_or_default()));

    // Alive and well: one change each, one run each.
    let bytes = message("after", "after the storm");
    for lane in lanes {
        lock(&lane.server).imap(&lane.user).append("INBOX", &bytes, &[]);
    }
    for lane in lanes {
        let what = format!("{}: the message after the storm", lane.name);
        wait_until(LONG, &what, || {
            lock(&lane.keeper).keep(lane.mounts);
            lane.here(&("INBOX".to_owned(), id_of(&bytes))).is_some()
        });
    }
    mbsync.wait_idle(LONG);
    sleep(ms(4500));
    let after = mbsync.runs().len();
    assert_eq!(after - quiet, lanes.len(), "runs for one message each\n{}", tails());
    report(lanes, told, &mbsync, quiet);
    let overlaps = mbsync.overlaps();
    assert!(overlaps.is_empty(), "two mbsync at once: {overlaps:?}");

    for lane in lanes {
        lock(&lane.keeper).stop();
    }
    let mut left = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        left = lanes[0].home.leftovers();
        // The namespace itself, and what only a server may have.
        left.retain(|(_, line)| line != "sleep infinity");
        if left.is_empty() {
            break;
        }
        sleep(ms(50));
    }
    assert!(left.is_empty(), "left behind: {left:?}");
    let litter: Vec<String> = lanes.iter().flat_map(Lane::litter).collect();
    assert!(litter.is_empty(), "left behind: {litter:?}");
    for lane in lanes {
        let log = fs::read_to_string(&lane.log).unwrap_or_default();
        for word in ["panicked", "RUST_BACKTRACE", "unreachable"] {
            assert!(!log.contains(word), "{}: {word}\n{}", lane.name, tails());
        }
        let (held, wrong) = holds(&log);
        println!("chaos: {}: {held} times something was held", lane.name);
        assert!(wrong.is_empty(), "{}: held for nothing: {wrong:?}", lane.name);
        let emptied = log.matches("fault over: emptied").count();
        assert!(!rig::soak() || held >= emptied, "{}: {held} holds of {emptied}", lane.name);
    }
}

/// How often a log says that something is held, and the lines that say so while nothing
/// was emptied or away: since the fault before.
fn holds(log: &str) -> (usize, Vec<&str>) {
    let (mut held, mut wrong, mut is_cause) = (0, Vec::new(), false);
    for line in log.lines() {
        if line.starts_with("== ") && line.contains(" fault: ") {
            is_cause = ["emptied", "away"].iter().any(|word| line.contains(word));
        } else if !line.starts_with("== ") && line.contains(": held") {
            held += 1;
            if !is_cause {
                wrong.push(line);
            }
        }
    }
    (held, wrong)
}

/// The counts, and whether there were too many runs.
fn report(lanes: &[Lane<'_>], told: &[(Counts, Ledger)], mbsync: &Mbsync, quiet: usize) {
    let all = mbsync.runs();
    println!("chaos: {} runs, {quiet} of them before the storm was over", all.len());
    for (lane, (counts, ledger)) in lanes.iter().zip(told) {
        let runs = mbsync.runs_of(lane.name);
        let well = runs.iter().filter(|run| run.code == Some(0)).count();
        let failed = runs.iter().filter(|run| run.code.is_some_and(|code| code != 0)).count();
        let keeper = lock(&lane.keeper);
        let mut codes = keeper.ended.clone();
        let log = fs::read_to_string(&lane.log).unwrap_or_default();
        for code in log.lines().filter_map(|line| line.strip_prefix("code=")?.parse().ok()) {
            *codes.entry(code).or_default() += 1;
        }
        let (changes, commands) = (sum(&counts.changes), sum(&counts.commands));
        let faults = sum(&counts.faults);
        println!(
            "chaos: {}: {changes} changes ({}); {commands} commands ({}); {faults} faults ({}); \
             {} runs ({well} well, {failed} failed, {} ended); {} logins, {} connections; \
             waiters ended ({}); {} messages ever, {} in the end",
            lane.name,
            show(&counts.changes),
            show(&counts.commands),
            show(&counts.faults),
            runs.len(),
            runs.len() - well - failed,
            lock(&lane.server).logins(&lane.user),
            lane.link.connections(),
            show(&codes),
            ledger.len(),
            ledger.values().filter(|fate| fate.there).count(),
        );
        // A run that went well had a cause: a change, a command, a fault that cut
        // another short or left a doubt; and the first one.
        let causes = changes + commands + 2 * faults + 2;
        assert!(well <= causes, "{}: {well} runs for {causes} causes", lane.name);
        let known = [0, 69, 75, 77, 78, 129, 130, 137, 143];
        let odd: Vec<&i32> = codes.keys().filter(|code| !known.contains(code)).collect();
        assert!(odd.is_empty(), "{}: waiters ended with {odd:?}", lane.name);
    }
}
