//! The table with the program itself, in a home that is looked at before and
//! after: `--wait -v` at every step, `--check` at those that it comes to.
//!
//! Looked at: that it ends in time, its exit status and what it says, its peak
//! of memory, every file in the home and beside it, and whether the password or
//! a control character stands anywhere.

use crate::expected::{Expected, ends_by_time, expected};
use crate::faults::{FAULTS, Fault};
use crate::library::in_parallel;
use crate::server::{Fake, PASSWORD, holds_password};
use crate::steps::{STEPS, Script, Step, converse};
use rig::process::peak_kib;
use rig::{Ca, Home, Output, Running, Seeded, Signal, soak};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// For anything that has no reason to take long.
const SOON: Duration = Duration::from_secs(60);
/// Most KiB above what the same takes with a server that means well. A response
/// may have 64 KiB, or 4 MiB where it may name every message, and is held twice.
pub const MOST_GROWTH: u64 = 24 * 1024;

/// A home with INBOX in step with what the server has, and what lies beside it.
pub struct Lair {
    pub home: Home,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

/// What of mutt-sync's own may be there afterwards, beside [`rig::STATE_FILES`].
const OWN: [&str; 3] = ["want", "run", "trigger"];

impl Lair {
    /// For a server at this port; `time`: the `Timeout`, in seconds.
    pub fn new(step: Step, port: u16, time: u64) -> Lair {
        let tls = match step {
            Step::StartTls => {
                "Host localhost\nSSLType STARTTLS\nSystemCertificates no\nCertificateFile ~/ca.pem"
            }
            _ => "Host 127.0.0.1\nSSLType None",
        };
        let (user, mechanism) = (step.user(), step.mechanism());
        let lines = format!(
            "Port {port}\nUser {user}\nPass {PASSWORD}\n{tls}\nAuthMechs {mechanism}\nTimeout {time}"
        );
        let lair = Lair::with(&lines);
        if step != Step::HandOver {
            lair.home.fake_mbsync();
        }
        // What feeds mbsync byte by byte is to be ended as soon as a busy machine allows.
        lair.settings(3 * time);
        lair
    }

    fn settings(&self, stall: u64) {
        let quick = "throttle = \"0s\"\nsettle = \"10ms\"\nretry = \"1s\"\n";
        self.home.settings(&format!("{quick}stall = \"{stall}s\"\n"));
    }

    /// With these lines in its `IMAPAccount`.
    pub fn with(lines: &str) -> Lair {
        let home = Home::empty();
        home.write("ca.pem", Ca::shared().cert());
        home.write(
            ".mbsyncrc",
            &format!(
                "FSync no\n\nIMAPAccount Home\n{lines}\n\n\
                 IMAPStore Home-far\nAccount Home\n\n\
                 MaildirStore Home-near\nPath ~/Mail/Home/\nInbox ~/Mail/Home/INBOX\n\
                 SubFolders Verbatim\n\n\
                 Channel Home\nFar :Home-far:\nNear :Home-near:\nPatterns *\nCreate Both\n\
                 Expunge Both\nSyncState *\n"
            ),
        );
        private(&home.path(".mbsyncrc"));
        let inbox = home.maildir("Home", "INBOX");
        inbox.create();
        home.write("Mail/Home/INBOX/cur/1.1_1.here,U=1:2,S", "Subject: one\n\none\n");
        home.write("Mail/Home/INBOX/.uidvalidity", "1\n1\n");
        let record =
            "FarUidValidity 3\nNearUidValidity 1\nMaxPulledUid 1\nMaxPushedUid 1\n\n1 1 S\n";
        home.write("Mail/Home/INBOX/.mbsyncstate", record);
        home.write("canary/cur/file", "canary");
        home.write("Mail/canary", "canary");
        // As after a run of everything, so that nothing is due.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        home.write(
            ".local/state/mutt-sync/Home/last.json",
            &format!(
                "{{\"runs\":1,\"started\":{},\"whole\":true,\"last_whole\":{s},\"last_success\":{s}}}",
                now.as_millis(),
                s = now.as_secs()
            ),
        );
        home.age();
        let mut lair = Lair { home, before: BTreeMap::new() };
        lair.settings(60);
        lair.before = files(&lair.home.path(""));
        lair
    }

    /// What is not as it should be in the home, and in what was said.
    pub fn trouble(&self, said: &str, may_sync: bool) -> Option<String> {
        let mine = |path: &Path| {
            [".local/state", ".config/mutt-sync", "bin", "tmp"]
                .iter()
                .any(|own| path.starts_with(own))
        };
        let synced = |path: &Path| may_sync && path.starts_with("Mail/Home");
        let after = files(&self.home.path(""));
        let different: Vec<&PathBuf> = after
            .keys()
            .chain(self.before.keys())
            .filter(|path| after.get(*path) != self.before.get(*path))
            .filter(|path| !mine(path) && !synced(path))
            .collect();
        if !different.is_empty() {
            return Some(format!("touched: {different:?}"));
        }
        for (path, content) in &after {
            if let Ok(own) = path.strip_prefix(".local/state/mutt-sync") {
                let name = own.strip_prefix("Home").unwrap_or(own).iter().next();
                let name = name.and_then(|name| name.to_str()).unwrap_or_default();
                let known = rig::STATE_FILES.contains(&name)
                    || OWN.contains(&name)
                    || ["", "mbsync.json", "directories.json"].contains(&name);
                if !known {
                    return Some(format!("made: {}", path.display()));
                }
            }
            if path != Path::new(".mbsyncrc") && holds_password(content) {
                return Some(format!("the password is in {}", path.display()));
            }
        }
        if holds_password(said.as_bytes()) {
            return Some("the password is shown".to_owned());
        }
        said.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}')
            .then(|| "control characters are shown".to_owned())
    }
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// All files below, by their path from there, with what is in them.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let content = if kind.is_file() { fs::read(&path).unwrap_or_default() } else { vec![] };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

/// Runs it to its end, and looks at its memory all the while.
pub fn run_and_measure(mut command: Command, limit: Duration) -> Result<(Output, u64), String> {
    command.stdin(Stdio::null());
    let running = Running::start(command);
    let (begun, mut peak) = (Instant::now(), 0);
    while running.runs() {
        peak = peak.max(peak_kib(running.pid()));
        if begun.elapsed() > limit {
            return Err(format!("did not end within {limit:?}: {running}"));
        }
        sleep(Duration::from_millis(2));
    }
    Ok((running.wait(SOON), peak))
}

/// What the two programs take with a server that means well, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Baseline {
    pub wait: u64,
    check: u64,
}

/// What was found in one cell: the peaks of memory.
type Peaks = (u64, u64);

/// Which cells take longer: the waiter gives the end of IDLE twenty seconds, and mbsync a
/// gibibyte of responses, which takes a build without optimization minutes.
fn is_slow(step: Step, fault: Fault) -> bool {
    let flood = matches!(fault, Fault::EndlessLines | Fault::EndlessLongLines);
    step == Step::Done && ends_by_time(step, fault) || step == Step::HandOver && flood
}

pub fn wait_cell(script: Script, time: u64) -> Result<Option<u64>, String> {
    let Script { step, fault } = script;
    let fake = Fake::start(move |peer| converse(peer, script));
    let lair = Lair::new(step, fake.port, time);
    let waiter = Running::start(lair.home.cmd(&["--wait", "-v", "Home"]));
    let expected = fault.map_or(Expected::GoesOn, |fault| expected(step, fault));
    // A flood in answer to mbsync ends after a gibibyte, which tests without optimization,
    // many at a time, take minutes for.
    let limit =
        if step == Step::HandOver { 20 * SOON } else { SOON } + Duration::from_secs(time * 8);
    let begun = Instant::now();
    let strikes = || fake.heard.struck.load(Ordering::SeqCst);
    let struck = || fault.is_none() || strikes() > 0;
    let mut peak = 0;
    // Until what is to happen has happened, or a run (with the fake mbsync) ends it.
    loop {
        peak = peak.max(peak_kib(waiter.pid()));
        let said = waiter.stderr();
        let happened = match expected {
            _ if step == Step::HandOver => false,
            // It is listened to, or asked now and then; and of a crowd there is always
            // more to tell.
            Expected::GoesOn if step == Step::Idle || fault == Some(Fault::Crowd) => {
                struck() && said.contains("connected by")
            }
            // Nothing idles where no mailbox is open: it is asked for again.
            Expected::GoesOn
                if step == Step::Examine && matches!(fault, Some(Fault::No | Fault::Echo)) =>
            {
                strikes() > 1 && said.contains("connected by IDLE")
            }
            Expected::GoesOn => {
                struck()
                    && said.contains("connected by")
                    && fake.heard.idled.load(Ordering::SeqCst) > 0
                    || struck() && said.contains("connected by STATUS polling")
            }
            Expected::Ends(_, texts) => struck() && texts.iter().any(|text| said.contains(text)),
        };
        if happened || !waiter.runs() {
            break;
        }
        let late = ["no answer in time"].iter().any(|text| said.contains(text));
        // Nor is this machine quick enough for mbsync's Timeout in the run that follows.
        let too_busy = said.contains("timeout") && said.contains("; next try in");
        if late && !struck() || step == Step::HandOver && too_busy {
            return Ok(None);
        }
        if begun.elapsed() > limit {
            return Err(format!("nothing came of {fault:?} at {step:?}: {waiter}"));
        }
        sleep(Duration::from_millis(5));
    }
    peak = peak.max(peak_kib(waiter.pid()));
    let ran_to_its_end = !waiter.runs();
    waiter.signal(Signal::TERM);
    let asked = Instant::now();
    let output = waiter.wait(SOON);
    let what = format!("--wait, {fault:?} at {step:?}: {output}");
    let ensure =
        |right: bool, why: &str| if right { Ok(()) } else { Err(format!("{why}: {what}")) };
    if step == Step::HandOver && !struck() {
        return Ok(None);
    }
    ensure(struck(), "the step was not come to")?;
    ensure(asked.elapsed() < Duration::from_secs(10), "a signal is not heeded")?;
    // Ended by a run (0), or by us.
    let right = if ran_to_its_end { output.code() == 0 } else { [0, 143].contains(&output.code()) };
    ensure(right, "exit status")?;
    if step == Step::HandOver {
        ensure(ran_to_its_end && output.code() == 0, "falls back to a plain run")?;
        ensure(output.stderr.contains("syncing: "), "a run")?;
    }
    ensure(!output.stderr.contains("panicked"), "panic")?;
    lair.home.wait_no_leftovers(SOON);
    if let Some(trouble) = lair.trouble(&(output.stdout + &output.stderr), step == Step::HandOver) {
        return Err(format!("{trouble}: {what}"));
    }
    if let (Some(fault), true) = (fault, step.is_before_password()) {
        let told = fault == Fault::Continue
            || expected == Expected::GoesOn
            || step.mechanism().starts_with("SCRAM") && fault != Fault::Echo;
        ensure(told || !fake.heard.password(), "the password was said")?;
    }
    Ok(Some(peak))
}

/// The exit status of `--check`, if it comes to this step.
fn status_of_check(step: Step, fault: Fault) -> Option<u8> {
    if step > Step::MailboxStatus || step == Step::HandOver {
        return None;
    }
    Some(match expected(step, fault) {
        // No login in common with what such a server offers.
        Expected::Ends(exit, _) if step != Step::Notify => exit.code(),
        // The mailbox was synced before, and the server tells nothing of one of its name.
        _ if step == Step::MailboxStatus
            && matches!(fault, Fault::No | Fault::BareOk | Fault::Echo) =>
        {
            1
        }
        // Nothing that a sync needs.
        _ => 0,
    })
}

fn check_cell(script: Script, time: u64) -> Result<Option<u64>, String> {
    let Script { step, fault } = script;
    let status = match fault {
        None => 0,
        Some(fault) => match status_of_check(step, fault) {
            Some(status) => status,
            None => return Ok(Some(0)),
        },
    };
    let fake = Fake::start(move |peer| converse(peer, script));
    let lair = Lair::new(step, fake.port, time);
    let limit = SOON + Duration::from_secs(time * 16);
    let (output, peak) = run_and_measure(lair.home.cmd(&["--check", "Home"]), limit)?;
    if fault.is_some() && fake.heard.struck.load(Ordering::SeqCst) == 0 {
        return Ok(None);
    }
    let what = format!("--check, {fault:?} at {step:?}: {output}");
    if output.code() != i32::from(status) {
        return Err(format!("exit status {} and not {status}: {what}", output.code()));
    }
    match lair.trouble(&(output.stdout + &output.stderr), false) {
        Some(trouble) => Err(format!("{trouble}: {what}")),
        None => Ok(Some(peak)),
    }
}

pub fn with_time(
    step: Step,
    fault: Option<Fault>,
    cell: impl Fn(Script, u64) -> Result<Option<u64>, String>,
) -> Result<u64, String> {
    let by_time = fault.is_some_and(|fault| ends_by_time(step, fault) || step == Step::HandOver);
    for time in if by_time { [1, 4, 16, 64] } else { [30; 4] } {
        if let Some(peak) = cell(Script { step, fault }, time)? {
            return Ok(peak);
        }
    }
    Err(format!("{fault:?} at {step:?}: the step was not come to"))
}

#[test]
fn g9_g10_g11_the_program_outlives_every_fault_at_every_step() {
    let baseline = Baseline {
        wait: with_time(Step::Login, None, wait_cell).unwrap(),
        check: with_time(Step::Login, None, check_cell).unwrap(),
    };
    // In the short form each step and each fault several times, by a fixed seed;
    // and no cell that takes twenty seconds for itself.
    let mut random = Seeded::from_env_or(10);
    let mut cells: Vec<(Step, Fault)> = Vec::new();
    for (row, step) in STEPS.into_iter().enumerate() {
        let shift = random.usize(0..4);
        for (column, fault) in FAULTS.into_iter().enumerate() {
            let chosen = (row + column + shift) % 4 == 0 && !is_slow(step, fault)
                || (step, fault) == (Step::HandOver, Fault::Trickle)
                || (step, fault) == (Step::Examine, Fault::No);
            if soak() || chosen {
                cells.push((step, fault));
            }
        }
    }
    random.shuffle(&mut cells);
    let count = cells.len();
    let begun = Instant::now();
    let peaks: Mutex<Vec<(Peaks, (Step, Fault))>> = Mutex::new(Vec::new());
    let wrong = in_parallel(16, cells, |(step, fault)| {
        let wait = with_time(step, Some(fault), wait_cell)?;
        let check = with_time(step, Some(fault), check_cell)?;
        peaks.lock().unwrap().push(((wait, check), (step, fault)));
        // Names, attributes and places in tables of 100 000 mailboxes that may be real.
        let most = if fault == Fault::Crowd { 2 * MOST_GROWTH } else { MOST_GROWTH };
        let (most_wait, most_check) = (baseline.wait + most, baseline.check + most);
        if wait > most_wait || check > most_check {
            return Err(format!("{fault:?} at {step:?}: {wait} and {check} KiB, {baseline:?}"));
        }
        Ok(())
    });
    let peaks = peaks.into_inner().unwrap();
    println!("{count} cells of {} in {:?}", STEPS.len() * FAULTS.len(), begun.elapsed());
    println!("{baseline:?} KiB; most growth:");
    for (name, of) in [("--wait", 0), ("--check", 1)] {
        let peak = |peaks: &Peaks| if of == 0 { peaks.0 } else { peaks.1 };
        let base = if of == 0 { baseline.wait } else { baseline.check };
        let most = peaks.iter().max_by_key(|(peaks, _)| peak(peaks));
        if let Some((peaks, (step, fault))) = most {
            println!("  {name}: {} KiB, {fault:?} at {step:?}", peak(peaks).saturating_sub(base));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
