//! What several files here need.

use rig::{Home, Mbsync, Running, Signal, process};
use std::collections::BTreeSet;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Settings that do not make a test wait.
pub const QUICK: &str = "throttle = \"0s\"\nsettle = \"200ms\"\nretry = \"1s\"\n";
/// Long enough for anything that is going to happen on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits until no mbsync has run for so long.
#[track_caller]
pub fn quiet(mbsync: &Mbsync, time: Duration) {
    let mut last = (usize::MAX, Instant::now());
    rig::wait_until(SOON, "no mbsync for a while", || {
        let runs = mbsync.runs();
        if runs.len() != last.0 || runs.iter().any(rig::Run::alive) {
            last = (runs.len(), Instant::now());
        }
        sleep(ms(20));
        last.1.elapsed() > time
    });
}

/// A waiter that has connected, and has nothing to do.
#[track_caller]
pub fn at_work(waiter: Command, mbsync: &Mbsync) -> Running {
    let waiter = Running::start(waiter);
    waiter.wait_for("connected by", SOON);
    quiet(mbsync, ms(1500));
    waiter
}

/// How often the waiter has said this.
pub fn said(waiter: &Running, text: &str) -> usize {
    waiter.stderr().matches(text).count()
}

/// Ends the waiter as its supervisor would.
#[track_caller]
pub fn end(waiter: Running) {
    waiter.signal(Signal::TERM);
    let output = waiter.wait(SOON).expect_code(143);
    assert!(!output.stderr.contains("panicked"), "{output}");
}

/// Kills what is left of this home, all at once: stopped first, so that none of
/// them sees another's end. They are found in the order of their numbers, which
/// begin anew after the highest; then a child is killed before its parent, which
/// would take that for the end of the child's work.
pub fn kill_leftovers(home: &Home) {
    let mut stopped = BTreeSet::new();
    let mut quiet = 0;
    // What forks while it is looked for is found the next time round.
    rig::wait_until(SOON, "all are stopped", || {
        let found = home.leftovers().into_iter().map(|(pid, _)| pid);
        let new: Vec<u32> = found.filter(|pid| stopped.insert(*pid)).collect();
        for pid in &new {
            process::kill(*pid, Signal::STOP);
        }
        quiet = if new.is_empty() { quiet + 1 } else { 0 };
        // Twice: one that just executes has no environment to be found by.
        quiet == 2
    });
    rig::wait_until(SOON, "nothing is left", || {
        let left = home.leftovers();
        for (pid, _) in &left {
            process::kill(*pid, Signal::KILL);
        }
        left.is_empty()
    });
}

/// Whether some run was asked for this mailbox of Home, or for all of it.
pub fn ran(mbsync: &Mbsync, mailbox: &str) -> bool {
    let serves = |name: &str| {
        name == "Home"
            || name.strip_prefix("Home:").is_some_and(|b| b.split(',').any(|b| b == mailbox))
    };
    mbsync.runs().iter().any(|run| run.names().into_iter().any(serves))
}
