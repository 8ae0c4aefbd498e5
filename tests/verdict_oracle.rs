//! The verdict against the real thing: after every step of a random history,
//! on both sides of a mailbox, the verdict is asked, then mbsync is run, and
//! what it changed is compared with what the verdict had said.
//!
//! Changed is: a file or its name in the Maildir, a UID or a flag on the
//! server, or a line of mbsync's record other than its two marks. (A run that
//! only moves a mark has nothing to carry, and is counted.)

#![allow(clippy::unwrap_used)]

use mutt_sync::verdict::flags::Flags;
use mutt_sync::verdict::local::{Look, look};
use mutt_sync::verdict::remote::{
    Fetched, Needed, Remembered, Status, Suspicion, UidSet, never_synced, settle, suspect,
};
use mutt_sync::verdict::syncstate::{self, State};
use mutt_sync::verdict::{Finding, Fingerprint, Rules, Seen, Verdict};
use rig::{Home, Imap, Output, Seeded, Server, count, message, run};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A channel with settings of its own.
struct Kind {
    name: &'static str,
    /// Lines of the channel.
    channel: &'static str,
    /// Lines of its Maildir store, `SubFolders` apart.
    near: &'static str,
    subfolders: &'static str,
    /// `None` where no verdict is given: Sync is not full.
    rules: Option<Rules>,
    /// Where a wrong *dirty* is a failure too.
    exact: bool,
}

fn rules(expunge_far: bool, expunge_near: bool) -> Rules {
    Rules { expunge_far, expunge_near, max_messages: 0, info_delimiter: b':', alt_map: false }
}

fn kinds() -> Vec<Kind> {
    let plain = |name, channel, rules| Kind {
        name,
        channel,
        near: "",
        subfolders: "Verbatim",
        rules: Some(rules),
        exact: true,
    };
    let both = || rules(true, true);
    vec![
        plain("both", "Create Both\nExpunge Both\nSyncState *\n", both()),
        plain("none", "Create Both\nSyncState *\n", rules(false, false)),
        plain("near", "Create Both\nExpunge Near\nSyncState *\n", rules(false, true)),
        plain("far", "Create Both\nExpunge Far\nSyncState ~/.own/\n", rules(true, false)),
        Kind { subfolders: "Legacy", ..plain("legacy", "Create Both\nExpunge Both\n", both()) },
        Kind {
            subfolders: "Maildir++",
            ..plain("plusplus", "Create Both\nExpunge Both\nSyncState *\n", both())
        },
        Kind {
            near: "InfoDelimiter ;\n",
            rules: Some(Rules { info_delimiter: b';', ..both() }),
            ..plain("semicolon", "Create Both\nExpunge Both\nSyncState *\n", both())
        },
        Kind {
            near: "MaxSize 2k\n",
            ..plain("maxsize", "Create Both\nExpunge Both\nSyncState *\n", both())
        },
        Kind {
            rules: Some(Rules { max_messages: 5, ..rules(false, false) }),
            exact: false,
            ..plain("max", "Create Both\nMaxMessages 5\nExpireUnread yes\nSyncState *\n", both())
        },
        Kind {
            rules: Some(Rules { max_messages: 4, ..both() }),
            exact: false,
            ..plain("maxunread", "Create Both\nExpunge Both\nMaxMessages 4\nSyncState *\n", both())
        },
        Kind {
            near: "AltMap yes\n",
            rules: Some(Rules { alt_map: true, ..both() }),
            exact: false,
            ..plain("altmap", "Create Both\nExpunge Both\nSyncState *\n", both())
        },
        Kind {
            rules: None,
            exact: false,
            ..plain("pull", "Create Both\nExpunge Both\nSync Pull\nSyncState *\n", both())
        },
    ]
}

impl Kind {
    fn delimiter(&self) -> char {
        self.rules.as_ref().map_or(':', |rules| char::from(rules.info_delimiter))
    }

    fn sections(&self) -> String {
        let Kind { name, channel, near, subfolders, .. } = self;
        let path = if *subfolders == "Maildir++" {
            String::new()
        } else {
            format!("Path ~/Mail/{name}/\n")
        };
        format!(
            "MaildirStore {name}-near\n{path}Inbox ~/Mail/{name}/INBOX\n\
             SubFolders {subfolders}\n{near}\n\
             Channel {name}\nFar :far:\nNear :{name}-near:\nPatterns *\n{channel}\n"
        )
    }

    fn maildir(&self, home: &Home, mailbox: &str) -> PathBuf {
        let root = home.path("Mail").join(self.name);
        match self.subfolders {
            "Maildir++" => root.join(format!("INBOX/.{}", mailbox.replace('/', "."))),
            "Legacy" => root.join(mailbox.replace('/', "/.")),
            _ => root.join(mailbox),
        }
    }

    fn state_file(&self, home: &Home, mailbox: &str) -> PathBuf {
        let flat = mailbox.replace('/', "!");
        if self.channel.contains("SyncState *") {
            self.maildir(home, mailbox).join(".mbsyncstate")
        } else if self.channel.contains("SyncState ~/.own/") {
            home.path(".own").join(flat)
        } else {
            home.path(".mbsync").join(format!(":far:{flat}_:{}-near:{flat}", self.name))
        }
    }
}

/// One mailbox pair, and what would be kept of it on disk.
struct Pair {
    name: String,
    maildir: PathBuf,
    state_file: PathBuf,
    seen: Seen,
    stuck: Option<Fingerprint>,
}

/// All that mbsync could change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    near: Vec<String>,
    far: BTreeMap<u32, String>,
    record: String,
    marks: String,
}

struct World<'a> {
    home: &'a Home,
    imap: &'a mut Imap,
    kind: &'a Kind,
}

fn far_flags(line: &str) -> Option<(u32, Flags)> {
    if !line.contains(" FETCH (") {
        return None;
    }
    let uid = line.split("UID ").nth(1)?;
    let uid = uid.split([' ', ')']).next()?.parse().ok()?;
    let flags = line.split("FLAGS (").nth(1)?.split(')').next()?;
    Some((uid, Flags::from_imap(flags.split(' '))))
}

impl World<'_> {
    fn exists_far(&mut self, pair: &Pair) -> bool {
        let lines = self.imap.raw(&format!("LIST \"\" \"{}\"", pair.name));
        lines.iter().any(|l| l.starts_with("* LIST") && !l.to_lowercase().contains("\\no"))
    }

    fn status(&mut self, pair: &Pair) -> Option<Status> {
        if !self.exists_far(pair) {
            return None;
        }
        let now = self.imap.status(&pair.name);
        let small = |n: u64| u32::try_from(n).unwrap();
        Some(Status {
            uid_validity: small(now.uidvalidity),
            uid_next: small(now.uidnext),
            messages: small(now.messages),
            highest_modseq: (now.highestmodseq > 0).then_some(now.highestmodseq),
        })
    }

    fn fetch(&mut self, pair: &Pair, since: &str) -> Vec<(u32, Flags)> {
        self.imap.raw(&format!("EXAMINE \"{}\"", pair.name));
        let lines = self.imap.raw(&format!("UID FETCH 1:* (FLAGS){since}"));
        self.imap.unselect();
        lines.iter().filter_map(|line| far_flags(line)).collect()
    }

    /// The far side, as the waiter would look at it.
    fn far(&mut self, pair: &mut Pair, state: &State, esearch: bool) -> (Finding, Option<Status>) {
        let unknown = |why: &str| Finding::Unknown(why.to_owned());
        let Some(now) = self.status(pair) else {
            return (unknown("no such mailbox on the server"), None);
        };
        let rules = self.kind.rules.as_ref().unwrap();
        let record = match state {
            State::Known(record) => record,
            State::NeverSynced => return (never_synced(&now), Some(now)),
            _ => return (unknown("no record"), Some(now)),
        };
        let needed = match suspect(&now, pair.seen.far.as_ref(), Some(record), rules) {
            Suspicion::Clean => return (Finding::Clean, Some(now)),
            Suspicion::Unknown(why) => return (Finding::Unknown(why), Some(now)),
            Suspicion::Look(needed) => needed,
        };
        self.imap.raw(&format!("EXAMINE \"{}\"", pair.name));
        let uids = if esearch {
            let lines = self.imap.raw("UID SEARCH RETURN (ALL) ALL");
            let line = lines.iter().find(|line| line.starts_with("* ESEARCH")).unwrap();
            let all = line.split(" ALL ").nth(1);
            all.map_or(UidSet::default(), |all| UidSet::parse(all.trim()).unwrap())
        } else {
            let lines = self.imap.raw("UID SEARCH ALL");
            let line = lines.iter().find_map(|line| line.strip_prefix("* SEARCH")).unwrap();
            UidSet::from_uids(line.split_whitespace().map(|uid| uid.parse().unwrap()))
        };
        self.imap.unselect();
        let fetched = match needed {
            Needed::Whole => Fetched::Whole(self.fetch(pair, "")),
            Needed::ChangedSince(modseq) => {
                Fetched::ChangedSince(self.fetch(pair, &format!(" (CHANGEDSINCE {modseq})")))
            }
        };
        let finding = settle(record, rules, &uids, &fetched);
        if finding == Finding::Clean {
            pair.seen.far = Some(Remembered::new(now, record, rules));
        }
        (finding, Some(now))
    }

    /// The verdict, with what is remembered used and brought up to date.
    fn verdict(&mut self, pair: &mut Pair, esearch: bool) -> (Verdict, Fingerprint, Option<Look>) {
        let Some(rules) = self.kind.rules.clone() else {
            // No verdict: the fingerprints alone decide.
            let any = look(&pair.maildir, &pair.state_file, &rules(false, false), None, None);
            let far = self.status(pair);
            let print = Fingerprint {
                near: any.digest,
                far,
                unfinished: syncstate::unfinished(&pair.state_file),
            };
            return (Verdict::Unknown("Sync is not full".to_owned()), print, None);
        };
        let forwarded = pair.seen.forwarded;
        let near =
            look(&pair.maildir, &pair.state_file, &rules, pair.seen.near.as_ref(), forwarded);
        if near.finding == Finding::Clean {
            pair.seen.near = Some(near.remembered(&rules, forwarded));
        }
        let state = near.state.clone().unwrap_or_else(|| syncstate::read(&pair.state_file));
        let (far, status) = self.far(pair, &state, esearch);
        let print =
            Fingerprint { near: near.digest, far: status, unfinished: state == State::Unfinished };
        (Verdict::of(near.finding.clone(), far), print, Some(near))
    }

    fn snapshot(&mut self, pair: &Pair) -> Snapshot {
        let mut near = Vec::new();
        for folder in ["cur", "new"] {
            let Ok(dir) = fs::read_dir(pair.maildir.join(folder)) else { continue };
            near.extend(dir.map(|file| {
                format!("{folder}/{}", file.unwrap().file_name().into_string().unwrap())
            }));
        }
        near.sort();
        let far = if self.exists_far(pair) { self.fetch(pair, "") } else { Vec::new() };
        let text = fs::read_to_string(&pair.state_file).unwrap_or_default();
        let mark = |line: &&str| line.starts_with("MaxPu");
        Snapshot {
            near,
            far: far.into_iter().map(|(uid, flags)| (uid, flags.to_string())).collect(),
            record: text
                .lines()
                .filter(|line| !mark(line))
                .fold(String::new(), |a, l| a + l + "\n"),
            marks: text.lines().filter(mark).collect(),
        }
    }

    fn mbsync(&self, pairs: &[Pair]) -> std::process::Command {
        let boxes: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
        let mut command = self.home.command("/usr/bin/mbsync");
        // -Tz: no sleep while the folders' time stamps are of this second.
        command.args(["-q", "-Tz", &format!("{}:{}", self.kind.name, boxes.join(","))]);
        command
    }

    fn sync(&self, pairs: &[Pair]) -> Output {
        run(&mut self.mbsync(pairs), Duration::from_secs(30))
    }
}

/// What a user, another client or a sender does.
fn act(world: &mut World, rng: &mut Seeded, pairs: &[Pair], log: &mut String) {
    let at = usize::from(rng.u8(..4) == 0);
    let (pair, other) = (&pairs[at], &pairs[1 - at]);
    let delimiter = world.kind.delimiter();
    let letters = |rng: &mut Seeded| {
        *rng.pick(&["", "", "S", "S", "S", "F", "FS", "RS", "PS", "P", "D", "T", "ST", "DS"])
    };
    let big = world.kind.near.contains("MaxSize") && rng.u8(..3) == 0;
    let body = "x".repeat(if big { 3000 } else { 10 });
    let imap_flags = |letters: &str| -> Vec<&'static str> {
        let all = ["\\Draft", "\\Flagged", "$Forwarded", "\\Answered", "\\Seen", "\\Deleted"];
        let named = "DFPRST".chars().zip(all).filter(|(letter, _)| letters.contains(*letter));
        named.map(|(_, name)| name).collect()
    };
    if rng.bool() {
        if !world.exists_far(pair) {
            return;
        }
        let flags = letters(rng);
        let uids: Vec<u32> = world.fetch(pair, "").into_iter().map(|(uid, _)| uid).collect();
        let chance = rng.u8(..10);
        let box_name = &pair.name;
        if chance < 3 || uids.is_empty() {
            let uid = world.imap.append(box_name, &message("m", &body), &imap_flags(flags));
            let _ = writeln!(log, "  far {box_name}: deliver {uid} [{flags}]");
            if rng.u8(..5) == 0 {
                world.imap.select(box_name);
                world.imap.expunge(uid);
                world.imap.unselect();
                let _ = writeln!(log, "  far {box_name}: and it is gone");
            }
            return;
        }
        let uid = *rng.pick(&uids);
        world.imap.select(box_name);
        match chance {
            3..=6 => {
                let names = imap_flags(flags).join(" ");
                world.imap.raw(&format!("UID STORE {uid} FLAGS ({names})"));
                let _ = writeln!(log, "  far {box_name}: {uid} is [{flags}]");
            }
            7 => {
                world.imap.add_flags(uid, &["\\Deleted"]);
                let _ = writeln!(log, "  far {box_name}: {uid} deleted");
            }
            8 if world.exists_far(other) => {
                world.imap.move_to(uid, &other.name);
                let _ = writeln!(log, "  far {box_name}: {uid} moved to {}", other.name);
            }
            _ => {
                world.imap.expunge(uid);
                let _ = writeln!(log, "  far {box_name}: {uid} expunged");
            }
        }
        world.imap.unselect();
        return;
    }
    if !pair.maildir.join("cur").is_dir() {
        return;
    }
    let flags = letters(rng);
    let mut files: Vec<PathBuf> = ["cur", "new"]
        .iter()
        .filter_map(|folder| fs::read_dir(pair.maildir.join(folder)).ok())
        .flat_map(|dir| dir.map(|file| file.unwrap().path()))
        .collect();
    files.sort();
    let chance = rng.u8(..12);
    let unique = format!("{}.R{}N1.host", 1_700_000_000 + rng.u32(..1000), rng.u64(..));
    let cur = pair.maildir.join("cur");
    if chance < 3 || files.is_empty() {
        let to = if rng.bool() {
            cur.join(format!("{unique}{delimiter}2,{flags}"))
        } else {
            pair.maildir.join("new").join(unique)
        };
        fs::write(&to, message("n", &body)).unwrap();
        let _ = writeln!(log, "  near: new {}", to.display());
        return;
    }
    let file = rng.pick(&files).clone();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let info = format!("{delimiter}2,");
    let base = name.split(&info).next().unwrap().to_owned();
    let old = name.split(&info).nth(1).unwrap_or_default().to_owned();
    let bare = base.split(",U=").next().unwrap().to_owned();
    let to = match chance {
        3..=5 => Some(cur.join(format!("{base}{info}{flags}"))),
        6 => Some(cur.join(format!("{base}{info}{old}"))),
        7 => Some(cur.join(format!("{base}{info}{}T", old.replace('T', "")))),
        8 => {
            let copy = cur.join(format!("{unique}{info}{old}"));
            fs::copy(&file, &copy).unwrap();
            let _ = writeln!(log, "  near: {name} doubled as {}", copy.display());
            return;
        }
        9 if other.maildir.join("cur").is_dir() => {
            Some(other.maildir.join("cur").join(format!("{unique}{info}{old}")))
        }
        10 => {
            // As some programs do: flags changed, the UID lost.
            Some(cur.join(format!("{bare}{info}{flags}")))
        }
        _ => None,
    };
    if let Some(to) = to {
        fs::rename(&file, &to).unwrap();
        let _ = writeln!(log, "  near: {name} renamed to {}", to.display());
    } else {
        fs::remove_file(&file).unwrap();
        let _ = writeln!(log, "  near: {name} removed");
    }
}

#[derive(Default)]
struct Tally {
    steps: u32,
    clean: u32,
    dirty: u32,
    unknown: u32,
    wrong_dirty: u32,
    marks_only: u32,
    refused: u32,
    unlisted: u32,
}

/// One history of one channel: fresh mailboxes, some steps.
fn history(
    server: &Server,
    home: &Home,
    kind: &Kind,
    number: usize,
    rng: &mut Seeded,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut imap = server.imap("home");
    let mut world = World { home, imap: &mut imap, kind };
    let mut log = format!("history {number}, channel {}\n", kind.name);
    let top = format!("{}{number}", kind.name);
    let mut pairs = [top.clone(), format!("{top}/sub")].map(|name| Pair {
        maildir: kind.maildir(home, &name),
        state_file: kind.state_file(home, &name),
        name,
        seen: Seen { forwarded: Some(true), ..Seen::default() },
        stuck: None,
    });
    for pair in &pairs {
        if rng.u8(..4) > 0 {
            world.imap.create(&pair.name);
        } else {
            for folder in ["cur", "new", "tmp"] {
                fs::create_dir_all(pair.maildir.join(folder)).unwrap();
            }
        }
    }
    let mut runs: HashMap<String, u32> = HashMap::new();
    for step in 0..rng.usize(5..11) {
        let actions = *rng.pick(&[0, 0, 1, 1, 1, 2, 3, 6]);
        let _ = writeln!(log, "step {step}: {actions} actions");
        for _ in 0..actions {
            act(&mut world, rng, &pairs, &mut log);
        }
        let killed = rng.u8(..8) == 0;
        if killed {
            let mut child = world.mbsync(&pairs).stderr(Stdio::null()).spawn().unwrap();
            let wait = rng.u64(1..16_000);
            std::thread::sleep(Duration::from_micros(wait));
            let _ = child.kill();
            let _ = child.wait();
            let _ = writeln!(log, "  mbsync killed after {wait} µs");
            // The server may still be at what it was told.
            std::thread::sleep(Duration::from_millis(30));
        }
        let mut said = Vec::new();
        for pair in &mut pairs {
            if rng.u8(..6) == 0 {
                pair.seen.far = None;
            }
            let before = world.snapshot(pair);
            let (verdict, print, near) = world.verdict(pair, rng.bool());
            tally.unlisted += u32::from(near.is_some_and(|near| !near.listed));
            let wanted = verdict != Verdict::Clean && pair.stuck.as_ref() != Some(&print);
            let _ = writeln!(log, "  {}: {verdict}; run wanted: {wanted}", pair.name);
            said.push((before, verdict, print, wanted));
        }
        let output = world.sync(&pairs);
        let failed = output.code() != 0;
        if failed {
            let _ = writeln!(log, "  mbsync: {} {}", output.code(), output.stderr.trim());
        }
        if rng.u8(..3) == 0 {
            // Long enough for the clock of the file system to move on.
            std::thread::sleep(Duration::from_millis(25));
        }
        for (pair, (before, verdict, print, wanted)) in pairs.iter_mut().zip(said) {
            let mut after = world.snapshot(pair);
            tally.steps += 1;
            match verdict {
                Verdict::Clean => tally.clean += 1,
                Verdict::Unknown(_) => tally.unknown += 1,
                _ => tally.dirty += 1,
            }
            if before.marks != after.marks {
                let old = std::mem::replace(&mut after.marks, before.marks.clone());
                if before == after {
                    tally.marks_only += 1;
                    let _ = writeln!(log, "  {}: only marks: {} -> {old}", pair.name, before.marks);
                }
            }
            let changed = before != after;
            let show = |text: &str| {
                Err(format!("{text} on {}\n{log}\nbefore {before:#?}\nafter {after:#?}", pair.name))
            };
            if changed && !wanted {
                return show("wrongly clean");
            }
            if !changed && wanted {
                let excused = failed || matches!(verdict, Verdict::Unknown(_));
                if excused {
                    tally.refused += 1;
                } else {
                    tally.wrong_dirty += 1;
                    if kind.exact {
                        return show("wrongly dirty");
                    }
                }
                let times = runs.entry(format!("{} {print:?}", pair.name)).or_default();
                *times += 1;
                if *times > 1 {
                    return show("a second run for the same fingerprint");
                }
            }
            // After the run, as the program would: remember what is clean, and
            // of what is not, how it looked before the run.
            let (then, afterwards, near) = world.verdict(pair, true);
            let moved = print.near != afterwards.near;
            if let (Some(near), Some(rules)) = (near, &kind.rules) {
                let blind = matches!(near.finding, Finding::Unknown(_)) || moved;
                if rules.alt_map && blind && !failed && !syncstate::unfinished(&pair.state_file) {
                    // Nothing moved over a run that went well: this is clean.
                    pair.seen.near = (!moved).then(|| near.remembered(rules, pair.seen.forwarded));
                }
            }
            pair.stuck = (then != Verdict::Clean).then_some(print);
            if kind.exact && then != Verdict::Clean && !failed && after.record != before.record {
                let _ = writeln!(log, "  {}: after the run: {then}", pair.name);
            }
        }
    }
    for pair in pairs.iter().rev() {
        if world.exists_far(pair) {
            world.imap.delete(&pair.name);
        }
    }
    Ok(())
}

fn account(server: &Server) -> String {
    format!(
        "IMAPAccount far\nHost {}\nPort {}\nUser home\nPass {}\nSSLType None\nAuthMechs LOGIN\n\n\
         IMAPStore far\nAccount far\n\n",
        server.host(),
        server.port(),
        server.password("home")
    )
}

#[test]
fn clean_exactly_when_a_run_changes_nothing() {
    let server = Server::start();
    let home = Home::empty();
    let kinds = kinds();
    let text = kinds.iter().fold(account(&server), |text, kind| text + &kind.sections());
    home.write(".mbsyncrc", &text);
    for kind in &kinds {
        fs::create_dir_all(home.path("Mail").join(kind.name)).unwrap();
    }
    fs::create_dir_all(home.path(".own")).unwrap();
    let only: Option<usize> = std::env::var("HISTORY").ok().and_then(|n| n.parse().ok());
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let start = Instant::now();
    for number in 0..count(240, 1200) {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let mut rng = Seeded::from_env_or(19_770_101 + number as u64);
        let kind = &kinds[number % kinds.len()];
        let tally = tallies.entry(kind.name).or_default();
        if let Err(what) = history(&server, &home, kind, number, &mut rng, tally) {
            panic!("{what}\nrepeat with HISTORY={number}");
        }
    }
    println!("channel    steps clean dirty unknown  wrong dirty, refused, marks only, unlisted");
    for (name, t) in &tallies {
        println!(
            "{name:10} {:5} {:5} {:5} {:5}    {:5} {:5} {:5} {:5}",
            t.steps,
            t.clean,
            t.dirty,
            t.unknown,
            t.wrong_dirty,
            t.refused,
            t.marks_only,
            t.unlisted
        );
    }
    println!("in {:.1} s", start.elapsed().as_secs_f64());
}
