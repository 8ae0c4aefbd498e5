//! The fake mbsync, or the wrapper around the real one, and the log it leaves.
//!
//! `helpers/fake_mbsync.rs` is the program; this writes its control file and
//! reads its log.

use crate::home::real_mbsync;
use crate::process::{alive, open_fds, started, wait_until};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One start of mbsync.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its process.
    pub pid: u32,
    /// When it started, on the clock of [`crate::now_ns`].
    pub start: i64,
    /// When it ended; `None` while it runs, if it was killed, and in a wrapper of
    /// kind [`Mbsync::exec`], which cannot know.
    pub end: Option<i64>,
    /// What it ended with.
    pub code: Option<i32>,
    /// The accounts whose channels were asked for.
    pub accounts: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Descriptors it was born with: number, a space, what it points to. Those
    /// above 2 that the test itself has from its parents are left out.
    pub fds: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// When its process started, as the kernel counts: another may have its
    /// number by now.
    ticks: String,
}

impl Run {
    /// What it was asked to sync: the arguments after the options.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut rest = self.args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                "--" => names.extend(rest.by_ref()),
                "-c" | "--config" => drop(rest.next()),
                arg if arg.starts_with('-') && names.is_empty() => {}
                arg => names.push(arg),
            }
        }
        names
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        self.end.is_none() && alive(self.pid) && started(self.pid).as_ref() == Some(&self.ticks)
    }
}

/// Two of them at once on one account: what must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The one that came second.
    pub pid: u32,
    /// The one that was still there.
    pub other: u32,
    /// Time, as [`Run::start`].
    pub at: i64,
    /// The accounts of the second.
    pub accounts: Vec<String>,
}

/// The `mbsync` in a directory: what it does and what it did.
pub struct Mbsync {
    dir: PathBuf,
    settings: Vec<(String, String)>,
    accounts: Vec<(String, String)>,
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

impl Mbsync {
    /// A fake in this directory, which ends at once and well. `accounts` maps
    /// channels and groups to their accounts.
    pub fn fake(dir: &Path, accounts: Vec<(String, String)>) -> Self {
        fs::create_dir_all(dir).expect("make directory");
        let link = dir.join("mbsync");
        let _ = fs::remove_file(&link);
        symlink(env!("RIG_FAKE_MBSYNC"), &link).expect("link fake mbsync");
        let mbsync = Mbsync { dir: dir.to_owned(), settings: Vec::new(), accounts };
        mbsync.write();
        mbsync
    }

    /// A wrapper around the real one: start and end are logged, the real one is a
    /// child that dies with it. What is seen by its pid is the wrapper.
    pub fn wrap(dir: &Path, accounts: Vec<(String, String)>) -> Self {
        Self::fake(dir, accounts).of_the_real_one("spawn")
    }

    /// The thinnest wrapper: the start is logged and the process becomes the real
    /// one, which so has its pid and takes its signals. The end is not logged.
    pub fn exec(dir: &Path, accounts: Vec<(String, String)>) -> Self {
        Self::fake(dir, accounts).of_the_real_one("exec")
    }

    fn of_the_real_one(self, how: &str) -> Self {
        self.set("wrap", how).set("real", &real_mbsync().display().to_string())
    }

    /// Where it lies; the first directory of the home's PATH.
    pub fn path(&self) -> PathBuf {
        self.dir.join("mbsync")
    }

    fn write(&self) {
        let escape =
            |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
        let accounts =
            self.accounts.iter().map(|(name, account)| ("account", format!("{name}={account}")));
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let text: String = accounts
            .chain(settings)
            .fold(String::new(), |all, (key, value)| all + key + "\t" + &escape(&value) + "\n");
        // A run that starts just now reads the old or the new, not half.
        let temporary = self.dir.join("control.new");
        fs::write(&temporary, text).expect("write control");
        fs::rename(temporary, self.dir.join("control")).expect("rename control");
    }

    /// Sets one of the fake's settings for the runs to come.
    pub fn tell(&mut self, key: &str, value: &str) {
        self.forget(key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self.write();
    }

    /// Takes a setting back.
    pub fn forget(&mut self, key: &str) {
        self.settings.retain(|(k, _)| k != key);
        self.write();
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.tell(key, value);
        self
    }

    /// Sleeps before it does anything (also in a wrapper).
    pub fn before(&mut self, time: Duration) {
        self.tell("before", &seconds(time));
    }

    /// Sleeps when all is done, before it ends (not in [`Mbsync::exec`]).
    pub fn after(&mut self, time: Duration) {
        self.tell("after", &seconds(time));
    }

    /// Stops the real one for so long as soon as it has a connection
    /// ([`Mbsync::wrap`] only). On a fast link it may get further than the login
    /// before it stops; a [`crate::Delay`] spreads its work over time instead.
    pub fn middle(&mut self, time: Duration) {
        self.tell("middle", &seconds(time));
    }

    /// Ends with this status.
    pub fn exit(&mut self, code: i32) {
        self.tell("exit", &code.to_string());
    }

    /// Says this.
    pub fn stdout(&mut self, text: &str) {
        self.tell("stdout", text);
    }

    /// Complains thus.
    pub fn stderr(&mut self, text: &str) {
        self.tell("stderr", text);
    }

    /// Writes so many bytes to stderr, in one line.
    pub fn flood(&mut self, bytes: u64) {
        self.tell("flood", &bytes.to_string());
    }

    /// Runs this by `sh -c`, in the middle.
    pub fn act(&mut self, script: &str) {
        self.tell("act", script);
    }

    /// Ignores TERM, INT and HUP.
    pub fn ignore_term(&mut self) {
        self.tell("ignore-term", "yes");
    }

    /// Leaves a daemon behind that keeps every descriptor it had.
    pub fn daemon(&mut self) {
        self.tell("daemon", "yes");
    }

    /// Ends by this signal (`SEGV`), after its end is logged.
    pub fn signal(&mut self, name: &str) {
        self.tell("signal", name);
    }

    /// Makes runs of the fake wait, those under way and those to come.
    pub fn hold(&self) {
        fs::write(self.dir.join("gate"), "").expect("write gate");
    }

    /// Makes runs in a wrapper wait `before` the real one, in its `middle`, or
    /// `after` it, until [`Mbsync::release`]; those that start from now on. A
    /// run that started meanwhile is not told by [`Mbsync::forget`] of `hold`.
    pub fn hold_at(&mut self, place: &str) {
        self.hold();
        self.tell("hold", place);
    }

    /// Waits until so many runs have come to where they are held.
    #[track_caller]
    pub fn wait_held(&self, count: usize, limit: Duration) {
        let held = || self.lines().iter().filter(|line| line[0] == "held").count();
        wait_until(limit, &format!("{count} held mbsync"), || held() >= count);
    }

    /// Lets them go on.
    pub fn release(&self) {
        let _ = fs::remove_file(self.dir.join("gate"));
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let unescape = |field: &str| {
            let mut out = String::new();
            let mut chars = field.chars();
            while let Some(c) = chars.next() {
                match (c, c == '\\') {
                    (_, true) => match chars.next() {
                        Some('n') => out.push('\n'),
                        Some('t') => out.push('\t'),
                        Some(other) => out.push(other),
                        None => {}
                    },
                    (c, false) => out.push(c),
                }
            }
            out
        };
        text.lines().map(|line| line.split('\t').map(unescape).collect()).collect()
    }

    /// All starts so far, in order.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let inherited: Vec<String> = open_fds(std::process::id())
            .iter()
            .filter(|(number, _)| *number > 2)
            .map(|(number, target)| format!("{number} {}", target.display()))
            .collect();
        let ours = |fd: &String| inherited.contains(fd);
        let parts = |text: &String, by: char| -> Vec<String> {
            text.split(by).filter(|p| !p.is_empty()).map(str::to_owned).collect()
        };
        for line in self.lines() {
            match &line[..] {
                [kind, pid, at, ticks, accounts, args, fds, env] if kind == "start" => {
                    runs.push(Run {
                        pid: pid.parse().unwrap_or_default(),
                        start: at.parse().unwrap_or_default(),
                        end: None,
                        code: None,
                        accounts: parts(accounts, ' '),
                        args: parts(args, '\x1f'),
                        fds: parts(fds, '\x1f').into_iter().filter(|fd| !ours(fd)).collect(),
                        env: parts(env, '\x1f'),
                        ticks: ticks.clone(),
                    });
                }
                [kind, pid, at, code] if kind == "end" => {
                    let it = |run: &&mut Run| run.end.is_none() && run.pid.to_string() == *pid;
                    if let Some(run) = runs.iter_mut().rev().find(it) {
                        run.end = at.parse().ok();
                        run.code = code.parse().ok();
                    }
                }
                _ => {}
            }
        }
        runs
    }

    /// Runs of one account.
    pub fn runs_of(&self, account: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.accounts.iter().any(|a| a == account)).collect()
    }

    /// Every time that one started while another of the same account was alive.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let overlap = |line: Vec<String>| match &line[..] {
            [kind, pid, at, other, accounts] if kind == "OVERLAP" => Some(Overlap {
                pid: pid.parse().unwrap_or_default(),
                other: other.parse().unwrap_or_default(),
                at: at.parse().unwrap_or_default(),
                accounts: accounts.split(' ').map(str::to_owned).collect(),
            }),
            _ => None,
        };
        self.lines().into_iter().filter_map(overlap).collect()
    }

    /// Fails the test if there was an overlap.
    #[track_caller]
    pub fn assert_alone(&self) {
        let overlaps = self.overlaps();
        assert!(overlaps.is_empty(), "two mbsync at once: {overlaps:?}");
    }

    /// Waits until so many have started, and returns them.
    #[track_caller]
    pub fn wait_for_starts(&self, count: usize, limit: Duration) -> Vec<Run> {
        wait_until(limit, &format!("{count} starts of mbsync"), || self.runs().len() >= count);
        self.runs()
    }

    /// Waits until none is alive.
    #[track_caller]
    pub fn wait_idle(&self, limit: Duration) {
        wait_until(limit, "no mbsync alive", || !self.runs().iter().any(Run::alive));
    }

    /// Forgets what was.
    pub fn clear_log(&self) {
        let _ = fs::remove_file(self.dir.join("log"));
    }
}
