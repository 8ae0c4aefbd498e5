//! The local verdict on a mailbox of 20 000 messages, beside a bare listing of
//! the same folder in the same run. Budget: 15 ms listed, and no listing at all
//! when no time stamp has moved.
//!
//!     cargo bench --bench local_verdict -- 300000
//!
//! Another number of messages. For 300 000 the budget is 0.2 s and 20 MiB; a missed one
//! fails.
//!
//! With `OLDER=PATH/mutt-sync`, also `mutt-sync --status` of that version and of
//! this one, as whole processes in the same rounds.

use mutt_sync::verdict::gone::KeptGone;
use mutt_sync::verdict::maildir::{CleanMaildir, scan};
use mutt_sync::verdict::{Rules, SideVerdict};
use rig::Home;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MESSAGES: u32 = 20_000;
const ROUNDS: usize = 41;
/// The first word of a process of its own.
const ALONE: &str = "memory";
/// Time and memory, in KiB, for 300 000 messages.
const BUDGET: (Duration, u64) = (Duration::from_millis(200), 20 * 1024);

fn fill(maildir: &Path, state_file: &Path, messages: u32) {
    for folder in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(folder)).expect("folder");
    }
    fs::write(maildir.join(".uidvalidity"), format!("2\n{messages}\n")).expect("uidvalidity");
    let mut record = format!(
        "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid {messages}\nMaxPushedUid {messages}\n\n"
    );
    for uid in 1..=messages {
        let flags = ["S", "", "RS", "FS"][uid as usize % 4];
        let folder = if flags.is_empty() { "new" } else { "cur" };
        let name = format!("{}.4711_{uid}.host.example.org,U={uid}:2,{flags}", 1_700_000_000 + uid);
        fs::write(maildir.join(folder).join(name), "").expect("message");
        writeln!(record, "{uid} {uid} {flags}").expect("record");
    }
    fs::write(state_file, record).expect("record");
}

/// The middle one of `ROUNDS` times, after one that warms up.
fn median(mut work: impl FnMut()) -> Duration {
    work();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

/// The most memory that it takes, in KiB: in a process of its own, which prints it.
fn memory(maildir: &Path, state_file: &Path) -> u64 {
    let mut own = Command::new(std::env::current_exe().expect("this program"));
    let output = own.args([ALONE.as_ref(), maildir, state_file]).output().expect("started");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

fn print_memory(maildir: &str, state_file: &str) {
    let peak = || rig::process::memory_kib(std::process::id(), "VmHWM:");
    let before = peak();
    let (maildir, state_file) = (Path::new(maildir), Path::new(state_file));
    let found = scan(maildir, state_file, &rules(), None, None, KeptGone::default());
    assert_eq!(found.verdict, SideVerdict::Clean);
    println!("{}", peak() - before);
}

fn rules() -> Rules {
    Rules { expunge_far: true, expunge_near: true, ..Rules::none() }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, maildir, state_file] = &words[..] {
        if first == ALONE {
            return print_memory(maildir, state_file);
        }
    }
    let told = words.iter().find_map(|word| word.parse().ok());
    let messages: u32 = told.unwrap_or(MESSAGES);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let maildir = dir.path().join("Box");
    let state_file = dir.path().join("state");
    fill(&maildir, &state_file, messages);
    std::thread::sleep(Duration::from_millis(50));
    let rules = rules();

    let peak = memory(&maildir, &state_file);
    let bare = median(|| {
        let files: usize = ["cur", "new"]
            .iter()
            .map(|folder| fs::read_dir(maildir.join(folder)).expect("folder").count())
            .sum();
        assert_eq!(files, messages as usize);
    });
    let mut memory: Option<CleanMaildir> = None;
    let listed = median(|| {
        let found = scan(&maildir, &state_file, &rules, None, None, KeptGone::default());
        assert_eq!(found.verdict, SideVerdict::Clean);
        memory = Some(found.remembered(&rules, None));
    });
    let unchanged = median(|| {
        let found = scan(&maildir, &state_file, &rules, memory.as_ref(), None, KeptGone::default());
        assert!(found.state.is_none());
    });

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("{messages} messages, median of {ROUNDS}:");
    println!("  bare readdir                {:8.3} ms", ms(bare));
    let ratio = listed.as_secs_f64() / bare.as_secs_f64();
    println!("  verdict, listed             {:8.3} ms  ({ratio:.2} of the readdir)", ms(listed));
    println!("  verdict, stamps unchanged   {:8.3} ms", ms(unchanged));
    println!("  memory, listed              {peak:8} KiB");
    if messages == 300_000 && (listed > BUDGET.0 || peak > BUDGET.1) {
        println!("more than {BUDGET:?}");
        std::process::exit(1);
    }
    if let Some(older) = rig::older_mutt_sync() {
        programs(&older);
    }
}

/// `--status` of a home with this mailbox by both versions, with a time stamp that
/// has moved and with none, in turns.
fn programs(older: &Path) {
    let home = Home::fake(&["Home"]);
    let inbox = home.mail("Home").join("INBOX");
    fs::remove_dir_all(&inbox).expect("removed");
    fill(&inbox, &inbox.join(".mbsyncstate"), MESSAGES);
    // Each keeps its own memory of the time stamps.
    let programs = [rig::mutt_sync(), older]
        .map(|program| (program, home.path(&format!("state-{}", program == older))));
    let mut times = [(); 2].map(|()| [Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS {
        for moved in [true, false] {
            for ((program, state), times) in programs.iter().zip(&mut times) {
                if moved {
                    let _ = fs::remove_file(state.join("mutt-sync/Home/seen.json"));
                }
                let mut command = home.command(program);
                command.args(["--status", "Home"]).env("XDG_STATE_HOME", state);
                fs::create_dir_all(state.join("mutt-sync/Home/run")).expect("state directory");
                let output = rig::run(&mut command, Duration::from_secs(60)).ok();
                if round > 0 {
                    times[usize::from(!moved)].push(output.exited);
                }
            }
        }
    }
    let mut median = |version: usize, what: usize| {
        let times: &mut Vec<Duration> = &mut times[version][what];
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    println!("  mutt-sync --status, this version and the older:");
    for (what, name) in ["nothing remembered", "stamps unchanged"].into_iter().enumerate() {
        println!("    {name:<25} {:8.3} ms {:8.3} ms", median(0, what), median(1, what));
    }
}
