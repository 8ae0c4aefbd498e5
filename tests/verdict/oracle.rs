//! The verdict against the real thing: after every step of a random history,
//! on both sides of a mailbox, the verdict is asked, then mbsync is run, and
//! what it changed is compared with what the verdict had said.
//!
//! Changed is: a file or its name in the Maildir, a UID or a flag on the
//! server, or a line of mbsync's record other than its two marks. (A run that
//! only moves a mark has nothing to carry, and is counted.) Of a line only what
//! is of a message that is there: what is left in the record of messages that are
//! gone is nobody's, and isync 1.5 leaves it there until something else changes.

#![allow(clippy::unwrap_used)]

mod during_run;
mod guard;
mod lend_equivalence;
mod one_shot;

use mutt_sync::mbsyncrc::{self, IsyncVersion};
use mutt_sync::model::flags::{Flags, keeps_forwarded};
use mutt_sync::model::{Account, Mailbox};
use mutt_sync::state::clean;
use mutt_sync::sync::changes;
use mutt_sync::sync::output::says_nothing_of_the_run;
use mutt_sync::sync::run_log::{RunLog, RunLogReader};
use mutt_sync::verdict::gone::{Gone, KeptGone};
use mutt_sync::verdict::maildir::{MaildirScan, Stamp, delivered, numbered, scan};
use mutt_sync::verdict::record::{self, Counts, RecordState};
use mutt_sync::verdict::server::{
    CleanServer, FetchScope, Fetched, ServerStatus, Settled, StatusVerdict, UidSet, compare_status,
    judge_server, never_synced,
};
use mutt_sync::verdict::{Changes, CleanState, Fingerprint, Rules, SideVerdict, Verdict};
use rig::{Home, Imap, Output, Seeded, Server, ServerOptions, count, message, real_mbsync, run};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
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

/// Whether the mbsync that is tried is isync 1.5.
fn is_1_5() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let memory = tempfile::tempdir().unwrap();
        let version = mutt_sync::mbsync_version::of_mbsync(&real_mbsync(), memory.path());
        version.expect("mbsync says its version") == IsyncVersion::V1_5
    })
}

fn rules(expunge_far: bool, expunge_near: bool) -> Rules {
    Rules { expunge_far, expunge_near, isync_1_5: is_1_5(), ..Rules::none() }
}

/// With `Sync All`, which has Old in it from isync 1.5 on.
fn all(expunge_far: bool, expunge_near: bool) -> Rules {
    Rules { pull_old: is_1_5(), push_old: is_1_5(), ..rules(expunge_far, expunge_near) }
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
        plain("all", "Create Both\nExpunge Both\nSync All\nSyncState *\n", all(true, true)),
        plain("allnear", "Create Both\nExpunge Near\nSync All\n", all(false, true)),
        plain("allnone", "Create Both\nSync All\nSyncState *\n", all(false, false)),
        Kind {
            near: "MaxSize 2k\n",
            ..plain("maxsizenone", "Create Both\nSyncState *\n", rules(false, false))
        },
        Kind {
            rules: Some(Rules { max_messages: 5, expire_unread: true, ..rules(false, false) }),
            exact: false,
            ..plain("max", "Create Both\nMaxMessages 5\nExpireUnread yes\nSyncState *\n", both())
        },
        Kind {
            rules: Some(Rules { max_messages: 4, ..both() }),
            exact: false,
            ..plain("maxunread", "Create Both\nExpunge Both\nMaxMessages 4\nSyncState *\n", both())
        },
        Kind {
            near: "MaxSize 2k\n",
            rules: Some(Rules { max_messages: 4, expire_unread: true, ..rules(false, false) }),
            exact: false,
            ..plain("maxbig", "Create Both\nMaxMessages 4\nExpireUnread yes\nSyncState *\n", both())
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

    /// What stands between a file's name and its flags.
    fn info(&self) -> String {
        format!("{}2,", self.delimiter())
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
    seen: CleanState,
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
    /// There is a second one to which the same is done: nothing depends on a name
    /// that mbsync makes up.
    paired: bool,
    /// Messages made in it.
    made: u32,
}

impl<'a> World<'a> {
    fn new(home: &'a Home, imap: &'a mut Imap, kind: &'a Kind) -> Self {
        World { home, imap, kind, paired: false, made: 0 }
    }
}

fn uid_of(name: &str) -> Option<u32> {
    let number = name.split_once(",U=")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A line of the record, without what is of no message: `None` if it is of none
/// at all. Flags that are of half a pair are nobody's.
fn of_what_is_there(
    line: &str,
    far: impl Fn(u32) -> bool,
    near: impl Fn(u32) -> bool,
) -> Option<String> {
    let mut words = line.splitn(3, ' ');
    let mut uid = || words.next().and_then(|word| word.parse::<u32>().ok());
    let (Some(far_uid), Some(near_uid)) = (uid(), uid()) else { return Some(line.to_owned()) };
    let flags = words.next().unwrap_or_default();
    match (far(far_uid), near(near_uid)) {
        (true, true) => Some(line.to_owned()),
        (false, false) => None,
        (far, near) => {
            let kept = |is_there: bool, uid: u32| if is_there { uid } else { 0 };
            let standing: String = flags.chars().filter(|c| "<>~^".contains(*c)).collect();
            Some(format!("{} {} {standing}", kept(far, far_uid), kept(near, near_uid)))
        }
    }
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
    /// A message of its own; the same in a second world.
    fn mail(&mut self, subject: &str, body: &str) -> Vec<u8> {
        self.made += 1;
        let text = String::from_utf8(message(subject, body)).unwrap();
        let lines = text.lines().map(|line| match line.split_once(": ") {
            Some(("Message-ID", _)) => format!("Message-ID: <{}@{}>\n", self.made, self.kind.name),
            _ => format!("{line}\n"),
        });
        lines.collect::<String>().into_bytes()
    }

    /// Removes the mailboxes of a history on both sides.
    fn remove(&mut self, number: usize) {
        for pair in self.pairs(number).iter().rev() {
            if self.exists_far(pair) {
                self.imap.delete(&pair.name);
            }
            let _ = fs::remove_dir_all(&pair.maildir);
            let _ = fs::remove_file(&pair.state_file);
        }
    }

    /// The two mailboxes of a history.
    fn pairs(&self, number: usize) -> [Pair; 2] {
        let top = format!("{}{number}", self.kind.name);
        [top.clone(), format!("{top}/sub")].map(|name| Pair {
            maildir: self.kind.maildir(self.home, &name),
            state_file: self.kind.state_file(self.home, &name),
            name,
            seen: CleanState { forwarded: Some(true), ..CleanState::default() },
            stuck: None,
        })
    }

    /// Makes it, on one of its sides.
    fn begin(&mut self, pair: &Pair, rng: &mut Seeded) {
        if rng.u8(..4) > 0 {
            self.imap.create(&pair.name);
        } else {
            for folder in ["cur", "new", "tmp"] {
                fs::create_dir_all(pair.maildir.join(folder)).unwrap();
            }
        }
    }

    /// The files of a mailbox that can be told apart, in an order that is the same
    /// in both of two worlds.
    fn files(&self, pair: &Pair) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = ["cur", "new"]
            .iter()
            .filter_map(|folder| fs::read_dir(pair.maildir.join(folder)).ok())
            .flat_map(|dir| dir.map(|file| file.unwrap().path()))
            .collect();
        files.sort();
        if !self.paired {
            return files;
        }
        let key = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_str().unwrap();
            let (base, flags) = name.split_once(self.kind.info().as_str()).unwrap_or((name, ""));
            let (base, uid) = base.split_once(",U=").unwrap_or((base, ""));
            let text = fs::read_to_string(file).unwrap();
            let id = text.lines().find(|line| line.starts_with("Message-ID")).unwrap().to_owned();
            let base = if base.ends_with(OURS) { base } else { "" };
            (id, uid.parse::<u32>().ok(), base.to_owned(), flags.to_owned())
        };
        let mut keyed: Vec<_> = files.into_iter().map(|file| (key(&file), file)).collect();
        keyed.sort();
        let count = |key: &_| keyed.iter().filter(|(other, _)| other == key).count();
        keyed.iter().filter(|(key, _)| count(key) == 1).map(|(_, file)| file.clone()).collect()
    }

    fn exists_far(&mut self, pair: &Pair) -> bool {
        let lines = self.imap.raw(&format!("LIST \"\" \"{}\"", pair.name));
        lines.iter().any(|l| l.starts_with("* LIST") && !l.to_lowercase().contains("\\no"))
    }

    fn status(&mut self, pair: &Pair) -> Option<ServerStatus> {
        if !self.exists_far(pair) {
            return None;
        }
        let now = self.imap.status(&pair.name);
        let small = |n: u64| u32::try_from(n).unwrap();
        Some(ServerStatus {
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
    fn far(
        &mut self,
        pair: &mut Pair,
        state: &RecordState,
        esearch: bool,
    ) -> (SideVerdict, Option<ServerStatus>) {
        let unknown = |why: &str| SideVerdict::Unknown(why.to_owned());
        let Some(now) = self.status(pair) else {
            return (unknown("no such mailbox on the server"), None);
        };
        let rules = self.kind.rules.as_ref().unwrap();
        let record = match state {
            RecordState::Known(record) => record,
            RecordState::NeverSynced => return (never_synced(&now), Some(now)),
            _ => return (unknown("no record"), Some(now)),
        };
        let stamp = Stamp::of(&pair.state_file).ok();
        let gone = pair.seen.gone.clone();
        let known = KeptGone { by_scan: gone.as_ref(), by_run: None }.of_record(stamp.as_ref());
        let then = pair.seen.far.as_ref();
        let needed = match compare_status(&now, then, Some(record), rules, known) {
            StatusVerdict::Clean => return (SideVerdict::Clean, Some(now)),
            StatusVerdict::Unknown(why) => return (SideVerdict::Unknown(why), Some(now)),
            StatusVerdict::Scan(needed) => needed,
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
            FetchScope::Whole => Fetched::Whole(self.fetch(pair, "")),
            FetchScope::ChangedSince(modseq) => {
                Fetched::ChangedSince(self.fetch(pair, &format!(" (CHANGEDSINCE {modseq})")))
            }
        };
        let near = || numbered(&pair.maildir, record, rules);
        let Settled { verdict, gone, .. } =
            judge_server(record, rules, &uids, &fetched, known, near);
        pair.seen.gone = Some(Gone { record: stamp, ..gone });
        if verdict == SideVerdict::Clean {
            pair.seen.far = Some(CleanServer::new(now, record, rules, None));
        }
        (verdict, Some(now))
    }

    fn near(pair: &mut Pair, rules: &Rules) -> MaildirScan {
        let (forwarded, then) = (pair.seen.forwarded, pair.seen.near.as_ref());
        let kept = KeptGone { by_scan: pair.seen.gone.as_ref(), by_run: None };
        let near = scan(&pair.maildir, &pair.state_file, rules, then, forwarded, kept);
        if near.verdict == SideVerdict::Clean {
            pair.seen.near = Some(near.remembered(rules, forwarded));
        }
        near
    }

    /// The verdict, with what is remembered used and brought up to date.
    fn verdict(
        &mut self,
        pair: &mut Pair,
        esearch: bool,
    ) -> (Verdict, Fingerprint, Option<MaildirScan>) {
        let Some(rules) = self.kind.rules.clone() else {
            // No verdict: the fingerprints alone decide.
            let none = rules(false, false);
            let any = scan(&pair.maildir, &pair.state_file, &none, None, None, KeptGone::default());
            let print = fingerprint(&any, self.status(pair));
            let why = SideVerdict::Unknown("Sync is not full".to_owned());
            return (Verdict { near: why.clone(), far: why }, print, None);
        };
        let mut near = World::near(pair, &rules);
        let state = near.state.clone().unwrap_or_else(|| record::read(&pair.state_file));
        let gone = pair.seen.gone.clone();
        let (far, status) = self.far(pair, &state, esearch);
        if pair.seen.gone != gone {
            // What the far side lacks may be what the near side lacks.
            near = World::near(pair, &rules);
        }
        let print = fingerprint(&near, status);
        (Verdict { near: near.verdict.clone(), far }, print, Some(near))
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
        let far: BTreeMap<u32, String> =
            far.into_iter().map(|(uid, flags)| (uid, flags.to_string())).collect();
        let alt_map = self.kind.rules.as_ref().is_some_and(|rules| rules.alt_map);
        let numbers: BTreeSet<u32> = near.iter().filter_map(|name| uid_of(name)).collect();
        let lines = text.lines().filter(|line| !mark(line)).filter_map(|line| {
            of_what_is_there(
                line,
                |uid| far.contains_key(&uid),
                |uid| alt_map || numbers.contains(&uid),
            )
        });
        Snapshot {
            record: lines.fold(String::new(), |all, line| all + &line + "\n"),
            near,
            far,
            marks: text.lines().filter(mark).collect(),
        }
    }

    fn mbsync(&self, pairs: &[Pair]) -> std::process::Command {
        let boxes: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
        let mut command = self.home.command(real_mbsync());
        // -Tz: no sleep while the folders' time stamps are of this second.
        command.args([
            if is_1_5() { "-V" } else { "-q" },
            "-Tz",
            &format!("{}:{}", self.kind.name, boxes.join(",")),
        ]);
        command
    }

    fn sync(&self, pairs: &[Pair]) -> Output {
        run(&mut self.mbsync(pairs), Duration::from_secs(30))
    }
}

/// Names that were made here end so.
const OURS: &str = "N1.host";

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
            let mail = world.mail("m", &body);
            let uid = world.imap.append(box_name, &mail, &imap_flags(flags));
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
    let files = world.files(pair);
    let chance = rng.u8(..12);
    let unique = format!("{}.R{}{OURS}", 1_700_000_000 + rng.u32(..1000), rng.u64(..));
    let cur = pair.maildir.join("cur");
    if chance < 3 || files.is_empty() {
        let to = if rng.bool() {
            cur.join(format!("{unique}{delimiter}2,{flags}"))
        } else {
            pair.maildir.join("new").join(unique)
        };
        fs::write(&to, world.mail("n", &body)).unwrap();
        let _ = writeln!(log, "  near: new {}", to.display());
        return;
    }
    let file = rng.pick(&files).clone();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let info = world.kind.info();
    let base = name.split(&info).next().unwrap().to_owned();
    let old = name.split(&info).nth(1).unwrap_or_default().to_owned();
    let bare = if world.paired { &unique } else { base.split(",U=").next().unwrap() };
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
    in_vain: u32,
    again: u32,
    marks_only: u32,
    refused: u32,
    unlisted: u32,
    /// Reported gone.
    gone: u32,
    /// Clean, and a report without a look at the server would not say so.
    unsettled: u32,
}

/// What mbsync says of a run, as the program reads it.
/// As a waiter takes it.
fn fingerprint(scan: &MaildirScan, far: Option<ServerStatus>) -> Fingerprint {
    let unfinished = scan.state == Some(RecordState::Unfinished);
    Fingerprint { near: scan.digest, record: scan.record, far, unfinished }
}

fn log_of(output: &Output) -> Option<RunLog> {
    let objected = output.stderr.lines().any(|line| !says_nothing_of_the_run(line));
    let mut reader = RunLogReader::default();
    output.stdout.lines().for_each(|line| reader.line(line));
    reader.log().filter(|_| output.code() == 0 && !objected)
}

/// Whether the near side calls for a run, or cannot be judged.
fn needs_push(verdict: &Verdict) -> bool {
    match (&verdict.near, &verdict.far) {
        (SideVerdict::Clean, far) => matches!(far, SideVerdict::Unknown(_)),
        (SideVerdict::Unknown(_), far) => !matches!(far, SideVerdict::Changed(_)),
        (SideVerdict::Changed(_), _) => true,
    }
}

/// The account that the channels are of.
fn account_of(home: &Home) -> Account {
    let at = home.path("");
    let mut env = mbsyncrc::Env::new(at.clone(), at);
    env.state_home = Some(home.path(".local/state"));
    let version = if is_1_5() { IsyncVersion::V1_5 } else { IsyncVersion::V1_4 };
    let config = mbsyncrc::read(&home.path(".mbsyncrc"), &env, version).unwrap();
    config.accounts.into_iter().next().unwrap()
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
    let account = account_of(home);
    let channel = account.channels.iter().find(|channel| channel.name == kind.name).unwrap();
    let mut imap = server.imap("home");
    let mut world = World::new(home, &mut imap, kind);
    let mut log = format!("history {number}, channel {}\n", kind.name);
    let mut pairs = world.pairs(number);
    for pair in &pairs {
        world.begin(pair, rng);
    }
    let mailboxes: Vec<Mailbox> = pairs.iter().map(|pair| channel.mailbox(&pair.name)).collect();
    let mut by_run: BTreeMap<String, Gone> = BTreeMap::new();
    let mut runs: HashMap<String, u32> = HashMap::new();
    for step in 0..rng.usize(5..11) {
        let actions = *rng.pick(&[0, 0, 1, 1, 1, 2, 3, 6]);
        let _ = writeln!(log, "step {step}: {actions} actions");
        for _ in 0..actions {
            act(&mut world, rng, &pairs, &mut log);
        }
        let killed = rng.u8(..8) == 0;
        if killed {
            let mut child =
                world.mbsync(&pairs).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
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
            tally.unlisted += u32::from(near.is_some_and(|near| near.state.is_none()));
            let wanted = verdict != Verdict::CLEAN && pair.stuck.as_ref() != Some(&print);
            let _ = writeln!(log, "  {}: {verdict}; run wanted: {wanted}", pair.name);
            said.push((before, verdict, print, wanted));
        }
        let snapshot = changes::Snapshot::take(&mailboxes, &account, is_1_5(), by_run.clone());
        let output = world.sync(&pairs);
        let failed = output.code() != 0;
        let (reported, gone) =
            snapshot.changes(&mailboxes, log_of(&output).as_ref(), &|_| None, &mut |_, _, _| {});
        by_run = gone;
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
                Verdict::CLEAN => tally.clean += 1,
                verdict if is_unknown(&verdict) => tally.unknown += 1,
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
            let name = pair.name.clone();
            let show = |text: &str| {
                Err(format!("{text} on {name}\n{log}\nbefore {before:#?}\nafter {after:#?}"))
            };
            if changed && !wanted {
                return show("wrongly clean");
            }
            if changed {
                // What is as it was once before is not so without reason.
                runs.retain(|key, _| !key.starts_with(&format!("{} ", pair.name)));
            }
            if !changed && wanted {
                // A refused run is nobody's mistake, and neither is one that
                // clears up after an interrupted one.
                if failed || print.unfinished {
                    tally.refused += 1;
                } else {
                    tally.in_vain += 1;
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
                let blind = matches!(near.verdict, SideVerdict::Unknown(_)) || moved;
                if rules.alt_map && blind && !failed && !record::unfinished(&pair.state_file) {
                    // Nothing moved over a run that went well: this is clean.
                    pair.seen.near = (!moved).then(|| near.remembered(rules, pair.seen.forwarded));
                }
            }
            // As a report would say it that asks no server.
            let key = clean::key(&channel.mailbox(&pair.name));
            let kept = KeptGone { by_scan: None, by_run: by_run.get(&key) };
            if let Some(rules) = kind.rules.as_ref().filter(|rules| !rules.alt_map) {
                let forwarded = pair.seen.forwarded;
                let told =
                    scan(&pair.maildir, &pair.state_file, rules, None, forwarded, kept).verdict;
                let told = told == SideVerdict::Clean;
                if told && !failed && needs_push(&then) {
                    return show(&format!("a report would say clean where it is {then}"));
                }
                if !told && !failed && then == Verdict::CLEAN {
                    tally.unsettled += 1;
                    if kind.exact {
                        return show("a report would not say clean");
                    }
                }
            }
            let change = reported.iter().find(|change| change.mailbox == pair.name);
            tally.gone += change.map_or(0, |change| change.gone);
            // A run that was cut off says nothing of a mailbox it did not reach.
            let whole = matches!(output.code(), 0 | 1);
            pair.stuck = (then != Verdict::CLEAN && whole).then_some(print);
            if then != Verdict::CLEAN && !failed {
                // Right or wrong: the next step tells.
                tally.again += 1;
                let _ = writeln!(log, "  {}: after the run: {then}", pair.name);
                let _ = writeln!(log, "    {:?} {:?} {:?}", after.near, after.far, after.record);
            }
        }
    }
    if log.contains("after the run") && std::env::var("SHOW").is_ok_and(|name| name == kind.name) {
        println!("{log}");
    }
    for pair in pairs.iter().rev() {
        if world.exists_far(pair) {
            world.imap.delete(&pair.name);
        }
    }
    Ok(())
}

fn account(server: &Server, user: &str) -> String {
    format!(
        "IMAPAccount far\nHost {}\nPort {}\nUser {user}\nPass {}\nSSLType None\nAuthMechs LOGIN\n\n\
         IMAPStore far\nAccount far\n\n",
        server.host(),
        server.port(),
        server.password(user)
    )
}

fn a_home(server: &Server, kinds: &[Kind]) -> Home {
    home_of(server, "home", kinds)
}

fn home_of(server: &Server, user: &str, kinds: &[Kind]) -> Home {
    let home = Home::empty();
    let text = kinds.iter().fold(account(server, user), |text, kind| text + &kind.sections());
    home.write(".mbsyncrc", &text);
    for kind in kinds {
        fs::create_dir_all(home.path("Mail").join(kind.name)).unwrap();
    }
    // Where isync 1.5 too keeps its records if it finds only this.
    for place in [".own", ".mbsync"] {
        fs::create_dir_all(home.path(place)).unwrap();
    }
    home
}

#[test]
fn clean_exactly_when_a_run_changes_nothing() {
    let server = Server::start();
    let mut kinds = kinds();
    // An mbsync built without Berkeley DB knows no AltMap.
    let without = std::env::var("WITHOUT").unwrap_or_default();
    kinds.retain(|kind| kind.name != without);
    let home = a_home(&server, &kinds);
    let only: Option<usize> = std::env::var("HISTORY").ok().and_then(|n| n.parse().ok());
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let start = Instant::now();
    for number in 0..count(168, 600) {
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
    println!(
        "channel     steps | clean dirty unknown | wanted in vain, refused, only marks moved, \
         dirty after the run | not listed | gone, not settled"
    );
    for (name, t) in &tallies {
        println!(
            "{name:11} {:5} | {:5} {:5} {:5} | {:5} {:5} {:5} {:5} | {:5} | {:5} {:5}",
            t.steps,
            t.clean,
            t.dirty,
            t.unknown,
            t.in_vain,
            t.refused,
            t.marks_only,
            t.again,
            t.unlisted,
            t.gone,
            t.unsettled
        );
    }
    println!("in {:.1} s", start.elapsed().as_secs_f64());
}

/// A server, a home and one mailbox of one channel, for a case by name.
struct Case {
    server: Server,
    home: Home,
    kind: Kind,
    pairs: [Pair; 1],
}

impl Case {
    fn new(kind: Kind, options: ServerOptions) -> Case {
        let server = Server::with(options);
        let home = a_home(&server, std::slice::from_ref(&kind));
        let name = "Box".to_owned();
        let pair = Pair {
            maildir: kind.maildir(&home, &name),
            state_file: kind.state_file(&home, &name),
            name,
            seen: CleanState { forwarded: Some(true), ..CleanState::default() },
            stuck: None,
        };
        Case { server, home, kind, pairs: [pair] }
    }

    /// One of the random histories' channels, the far mailbox made.
    fn of(name: &str) -> Case {
        let kind = kinds().into_iter().find(|kind| kind.name == name).unwrap();
        let case = Case::new(kind, ServerOptions::default());
        case.imap().create("Box");
        case
    }

    fn imap(&self) -> Imap {
        self.server.imap("home")
    }

    fn world<T>(&mut self, work: impl FnOnce(&mut World, &mut Pair) -> T) -> T {
        let mut imap = self.imap();
        let mut world = World::new(&self.home, &mut imap, &self.kind);
        work(&mut world, &mut self.pairs[0])
    }

    fn verdict(&mut self) -> Verdict {
        self.world(|world, pair| world.verdict(pair, true).0)
    }

    fn print(&mut self) -> Fingerprint {
        self.world(|world, pair| world.verdict(pair, true).1)
    }

    fn snapshot(&mut self) -> Snapshot {
        self.world(|world, pair| world.snapshot(pair))
    }

    fn sync(&mut self) -> Output {
        let mut imap = self.imap();
        let world = World::new(&self.home, &mut imap, &self.kind);
        world.sync(&self.pairs)
    }

    /// A run that goes well and leaves the mailbox clean, verdict and all.
    #[track_caller]
    fn judge_server(&mut self) {
        assert_eq!(self.sync().ok().code(), 0);
        assert_eq!(self.verdict(), Verdict::CLEAN, "{:#?}", self.snapshot());
        let before = self.snapshot();
        assert_eq!(self.sync().ok().code(), 0);
        assert_eq!(self.snapshot(), before);
    }

    fn files(&self) -> Vec<PathBuf> {
        let dirs = ["cur", "new"].map(|folder| fs::read_dir(self.pairs[0].maildir.join(folder)));
        let mut files: Vec<_> = dirs
            .into_iter()
            .flatten()
            .flat_map(|dir| dir.map(|file| file.unwrap().path()))
            .collect();
        files.sort();
        files
    }
}

fn to_push(changes: Changes) -> Verdict {
    Verdict { near: SideVerdict::Changed(changes), far: SideVerdict::Clean }
}

fn to_pull(changes: Changes) -> Verdict {
    Verdict { near: SideVerdict::Clean, far: SideVerdict::Changed(changes) }
}

/// Neither side is known to have changed, and of one at least nothing can be said.
fn is_unknown(verdict: &Verdict) -> bool {
    let changed = |side: &SideVerdict| matches!(side, SideVerdict::Changed(_));
    *verdict != Verdict::CLEAN && !changed(&verdict.near) && !changed(&verdict.far)
}

fn changes(new: u32, deleted: u32, flags: u32) -> Changes {
    Changes { new, deleted, flags, other: 0 }
}

/// The counts of messages and records agree, and the mailbox is dirty.
#[test]
fn a_deleted_message_never_recorded_does_not_hide_one_that_is_gone() {
    let mut case = Case::of("near");
    let mut imap = case.imap();
    let first = imap.append("Box", &message("1", ""), &[]);
    imap.append("Box", &message("2", ""), &["\\Seen"]);
    case.judge_server();
    imap.append("Box", &message("3", ""), &["\\Deleted"]);
    // Only the mark would move.
    assert_eq!(case.verdict(), Verdict::CLEAN);
    case.judge_server();
    let records = |case: &Case| match record::read(&case.pairs[0].state_file) {
        RecordState::Known(record) => record.entries().len() as u64,
        other => panic!("{other:?}"),
    };
    assert_eq!((imap.status("Box").messages, records(&case)), (3, 2));
    imap.select("Box");
    imap.expunge(first);
    imap.unselect();
    assert_eq!((imap.status("Box").messages, records(&case)), (2, 2));
    for forget in [false, true] {
        if forget {
            case.pairs[0].seen.far = None;
        }
        assert_eq!(case.verdict(), to_pull(changes(0, 1, 0)));
    }
    case.judge_server();
}

#[test]
fn five_of_ten_messages_are_all_there_is_to_have() {
    let mut case = Case::of("max");
    let mut imap = case.imap();
    for n in 0..10 {
        imap.append("Box", &message(&n.to_string(), ""), &["\\Seen"]);
    }
    case.sync().ok();
    assert_eq!((case.files().len(), imap.status("Box").messages), (5, 10));
    case.judge_server();
    case.pairs[0].seen = CleanState::default();
    assert_eq!(case.verdict(), Verdict::CLEAN);
    imap.append("Box", &message("eleventh", ""), &["\\Seen"]);
    assert_eq!(case.verdict(), to_pull(changes(1, 0, 0)));
    case.sync().ok();
    case.judge_server();
}

#[test]
fn a_message_that_came_and_went_before_any_run_leaves_nothing_to_do() {
    let mut case = Case::of("both");
    let mut imap = case.imap();
    imap.append("Box", &message("stays", ""), &[]);
    case.judge_server();
    let uid = imap.append("Box", &message("goes", ""), &[]);
    imap.select("Box");
    imap.move_to(uid, "Archive");
    imap.unselect();
    let next = imap.status("Box").uidnext;
    assert_eq!(next, u64::from(uid) + 1, "MaxPulledUid stays behind");
    assert_eq!(case.verdict(), Verdict::CLEAN);
    case.judge_server();
    // A message pushed over the gap is recorded above the mark, and not new.
    fs::write(case.pairs[0].maildir.join("cur/17.R1.host:2,S"), message("mine", "")).unwrap();
    assert_eq!(case.verdict(), to_push(changes(1, 0, 0)));
    case.sync().ok();
    assert_eq!(case.verdict(), Verdict::CLEAN);
    case.pairs[0].seen = CleanState::default();
    assert_eq!(case.verdict(), Verdict::CLEAN);
}

fn permanent_flags(imap: &mut Imap, command: &str) -> Option<bool> {
    let lines = imap.raw(&format!("{command} Box"));
    imap.unselect();
    let list = lines.iter().find_map(|line| line.split("PERMANENTFLAGS (").nth(1)).unwrap();
    keeps_forwarded(list.split(')').next().unwrap().split(' '), command == "SELECT")
}

fn pass_on(case: &Case) {
    let [file] = &case.files()[..] else { panic!("one file") };
    let name = file.file_name().unwrap().to_str().unwrap();
    let base = name.split(":2,").next().unwrap();
    fs::rename(file, case.pairs[0].maildir.join(format!("cur/{base}:2,PS"))).unwrap();
}

#[test]
fn a_passed_message_is_pushed_where_the_server_keeps_forwarded() {
    let mut case = Case::of("both");
    let mut imap = case.imap();
    imap.append("Box", &message("m", ""), &["\\Seen"]);
    case.judge_server();
    assert_eq!(permanent_flags(&mut imap, "SELECT"), Some(true));
    assert_eq!(permanent_flags(&mut imap, "EXAMINE"), None);
    pass_on(&case);
    assert_eq!(case.verdict(), to_push(changes(0, 0, 1)));
    case.judge_server();
    assert_eq!(imap.fetch_all("Box")[0].letters(), "PS");
}

#[test]
fn a_passed_message_stays_where_the_server_does_not_keep_forwarded() {
    // Without the right to write flags, no keyword is kept.
    let rights = Some("* owner lrstipekxa\n".to_owned());
    let kind = kinds().into_iter().find(|kind| kind.name == "both").unwrap();
    let mut case = Case::new(kind, ServerOptions { rights, ..ServerOptions::default() });
    let mut imap = case.imap();
    imap.create("Box");
    imap.append("Box", &message("m", ""), &["\\Seen"]);
    case.judge_server();
    assert_eq!(permanent_flags(&mut imap, "SELECT"), Some(false));
    pass_on(&case);
    // Not known: a run is wanted, and changes nothing.
    case.pairs[0].seen.forwarded = None;
    assert_eq!(case.verdict(), to_push(changes(0, 0, 1)));
    let (before, print) = (case.snapshot(), case.print());
    case.sync().ok();
    assert_eq!((case.snapshot(), case.print()), (before, print));
    case.pairs[0].seen.forwarded = Some(false);
    assert_eq!(case.verdict(), Verdict::CLEAN);
    assert_eq!(imap.fetch_all("Box")[0].letters(), "S");
}

/// A run fails, changes nothing, and leaves the same fingerprint: there is no
/// second one.
#[test]
fn a_mailbox_on_one_side_only_gets_one_run() {
    let no_create = || Kind {
        name: "nocreate",
        channel: "SyncState *\n",
        near: "",
        subfolders: "Verbatim",
        rules: Some(rules(false, false)),
        exact: false,
    };
    for near in [false, true] {
        let mut case = Case::new(no_create(), ServerOptions::default());
        if near {
            for folder in ["cur", "new", "tmp"] {
                fs::create_dir_all(case.pairs[0].maildir.join(folder)).unwrap();
            }
            fs::write(case.pairs[0].maildir.join("cur/17.R1.host:2,S"), message("m", "")).unwrap();
        } else {
            let mut imap = case.imap();
            imap.create("Box");
            imap.append("Box", &message("m", ""), &[]);
        }
        let verdict = case.verdict();
        assert_ne!(verdict, Verdict::CLEAN, "{near}");
        let (before, print) = (case.snapshot(), case.print());
        assert_ne!(print, Fingerprint::default());
        case.sync().expect_code(1);
        assert_eq!((case.snapshot(), case.print()), (before, print));
        assert_eq!(case.verdict(), verdict);
    }
}

#[test]
fn a_mailbox_made_anew_on_the_server_is_never_clean() {
    let mut case = Case::of("both");
    let mut imap = case.imap();
    imap.append("Box", &message("m", ""), &[]);
    case.judge_server();
    imap.delete("Box");
    assert!(is_unknown(&case.verdict()));
    imap.create("Box");
    assert!(is_unknown(&case.verdict()));
    let before = case.snapshot();
    case.sync().expect_code(1);
    assert_eq!(case.snapshot(), before);
}

#[test]
fn a_maildir_that_lost_its_numbers_is_never_clean() {
    let mut case = Case::of("both");
    let mut imap = case.imap();
    imap.append("Box", &message("m", ""), &[]);
    case.judge_server();
    let numbering = case.pairs[0].maildir.join(".uidvalidity");
    fs::write(&numbering, "17\n1\n").unwrap();
    assert!(is_unknown(&case.verdict()));
    fs::remove_file(numbering).unwrap();
    assert!(is_unknown(&case.verdict()));
}

#[test]
fn the_record_and_the_names_show_what_a_run_did() {
    let mut case = Case::of("both");
    let mut imap = case.imap();
    let uids: Vec<u32> =
        (0..4).map(|n| imap.append("Box", &message(&n.to_string(), ""), &["\\Seen"])).collect();
    case.judge_server();
    let record = |case: &Case| match record::read(&case.pairs[0].state_file) {
        RecordState::Known(record) => record,
        other => panic!("{other:?}"),
    };
    let old = record(&case);
    imap.append("Box", &message("new", ""), &[]);
    imap.append("Box", &message("new", ""), &["\\Seen"]);
    imap.select("Box");
    imap.add_flags(uids[0], &["\\Flagged"]);
    imap.expunge(uids[1]);
    imap.unselect();
    let maildir = case.pairs[0].maildir.clone();
    fs::write(maildir.join("cur/17.R1.host:2,S"), message("mine", "")).unwrap();
    let third = case.files().into_iter().find(|f| f.to_str().unwrap().contains(",U=3:")).unwrap();
    fs::remove_file(third).unwrap();
    // The names tell whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let since = std::time::SystemTime::now();
    let mut child = case.world(|world, pair| {
        let mut command = world.home.command(real_mbsync());
        command.args(["-q", "-Tz", &format!("{}:{}", world.kind.name, pair.name)]);
        command.stderr(Stdio::null()).spawn().unwrap()
    });
    assert!(child.wait().unwrap().success());
    let pulled = delivered(&maildir, since).unwrap();
    assert_eq!(pulled.len(), 2);
    let counts = record(&case).changes_since(&old, 2, |_| false);
    assert_eq!(counts, Counts { pulled: 2, pushed: 1, flags: 1, gone: 2 });
    case.judge_server();
}

/// Runs for as long as one is called for. A few are enough, whatever there is.
#[track_caller]
fn settles(case: &mut Case) {
    for _ in 0..4 {
        if case.verdict() == Verdict::CLEAN {
            return case.judge_server();
        }
        case.sync().ok();
    }
    panic!("{}, run after run: {:#?}", case.verdict(), case.snapshot());
}

/// So many messages on the server, read and in sync; their UIDs.
fn read_messages(case: &mut Case, number: u32) -> Vec<u32> {
    let mut imap = case.imap();
    let text = |n: u32| message(&n.to_string(), "");
    let uids = (0..number).map(|n| imap.append("Box", &text(n), &["\\Seen"])).collect();
    settles(case);
    uids
}

#[test]
fn what_expired_and_is_then_gone_on_the_server_calls_for_few_runs() {
    let mut case = Case::of("max");
    let uids = read_messages(&mut case, 5);
    read_messages(&mut case, 2);
    assert!(case.snapshot().record.contains(" ~S\n"), "{:#?}", case.snapshot());
    let mut imap = case.imap();
    imap.select("Box");
    imap.expunge(uids[0]);
    imap.unselect();
    assert_ne!(case.snapshot().near.iter().filter(|name| name.ends_with(":2,ST")).count(), 0);
    settles(&mut case);
    // What else is then saved lets the record forget the far message.
    read_messages(&mut case, 1);
}

#[test]
fn what_isync_1_4_left_of_expired_messages_calls_for_few_runs() {
    for (name, left) in [("none", "1 0 ~S"), ("max", "1 0 ~S"), ("max", "0 1 ~S")] {
        let mut case = Case::of(name);
        read_messages(&mut case, 3);
        let state_file = case.pairs[0].state_file.clone();
        let text = fs::read_to_string(&state_file).unwrap();
        let text = text.replace("\n\n", "\nMaxExpiredFarUid 1\n\n");
        fs::write(&state_file, text.replace("1 1 S", left)).unwrap();
        let file = case.files().into_iter().find(|f| f.to_str().unwrap().contains(",U=1:"));
        if left.starts_with('1') {
            fs::remove_file(file.unwrap()).unwrap();
        } else {
            let mut imap = case.imap();
            imap.select("Box");
            imap.expunge(1);
            imap.unselect();
        }
        settles(&mut case);
    }
}

#[test]
fn a_flagged_message_over_the_size_limit_expires_when_it_is_flagged_no_more() {
    let mut case = Case::of("maxbig");
    let mut imap = case.imap();
    let big = imap.append("Box", &message("big", &"x".repeat(3000)), &["\\Flagged", "\\Seen"]);
    settles(&mut case);
    read_messages(&mut case, 4);
    assert_eq!(case.files().len(), 5);
    imap.select("Box");
    imap.raw(&format!("UID STORE {big} -FLAGS (\\Flagged)"));
    imap.unselect();
    assert_ne!(case.verdict(), Verdict::CLEAN);
    settles(&mut case);
    assert!(case.snapshot().record.contains("~S\n"), "{:#?}", case.snapshot());
}

#[test]
fn a_keyword_that_the_server_spells_otherwise_calls_for_few_runs() {
    let mut case = Case::of("both");
    let [uid] = read_messages(&mut case, 1)[..] else { panic!("one message") };
    let mut imap = case.imap();
    imap.select("Box");
    imap.raw(&format!("UID STORE {uid} +FLAGS ($forwarded)"));
    imap.unselect();
    assert_eq!(case.verdict() != Verdict::CLEAN, is_1_5());
    settles(&mut case);
    case.pairs[0].seen = CleanState::default();
    assert_eq!(case.verdict(), Verdict::CLEAN);
    let [file] = &case.files()[..] else { panic!("one file") };
    assert_eq!(file.to_str().unwrap().ends_with(":2,PS"), is_1_5());
}

#[test]
fn what_expired_under_an_earlier_limit_calls_for_few_runs() {
    for flags in ["\\Seen", "\\Seen \\Flagged"] {
        let mut case = Case::of("all");
        read_messages(&mut case, 3);
        let state_file = case.pairs[0].state_file.clone();
        let text = fs::read_to_string(&state_file).unwrap();
        let text = text.replace("\n\n", "\nMaxExpiredFarUid 2\n\n");
        fs::write(&state_file, text.replace("1 1 S\n2 2 S\n", "")).unwrap();
        for file in &case.files()[..2] {
            fs::remove_file(file).unwrap();
        }
        let mut imap = case.imap();
        imap.select("Box");
        imap.raw(&format!("UID STORE 1:2 FLAGS ({flags})"));
        imap.unselect();
        case.pairs[0].seen = CleanState::default();
        let again = is_1_5() && flags.contains("Flagged");
        assert_eq!(case.verdict() != Verdict::CLEAN, again, "{}", case.verdict());
        settles(&mut case);
        assert_eq!(case.files().len(), if again { 3 } else { 1 });
    }
}
