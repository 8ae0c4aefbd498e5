//! Very many mailboxes: how long the commands take that list them, and the memory of a
//! waiter, also where the server makes them up.
//!
//! `cargo bench --bench many`; a minute or two.

use rig::crowd::{in_step, memory_of_waiter, nth_mailbox};
use rig::process::processor_time;
use rig::{Crowd, Home};
use std::time::Duration;

const MAILBOXES: usize = 20_000;
/// Bytes of the server's LIST, in a few of all the forms that it may have.
const HOSTILE: usize = 60 << 20;
const ROUNDS: usize = 9;
const LIMIT: Duration = Duration::from_secs(600);
/// What they may take.
const MOST_TIME: Duration = Duration::from_millis(500);
const MOST_KIB: u64 = 60 * 1024;

/// What the names of the server's mailboxes are like, and the name of each.
type Form = (&'static str, fn(usize) -> String);

/// A row of the table; whether it is within the budget.
fn row(what: &str, value: &str, within: bool) -> bool {
    println!("| {what} | {value} | {} |", if within { "yes" } else { "NO" });
    within
}

fn median(home: &Home, option: &str) -> Duration {
    let once = |_| processor_time(&home.cmd(&[option]), LIMIT);
    let mut times: Vec<Duration> = (0..ROUNDS).map(once).collect();
    times.sort();
    times[ROUNDS / 2]
}

fn waiter(home: &Home, what: &str, done: impl Fn() -> bool) -> bool {
    let (peak, rest) = memory_of_waiter(home, LIMIT, done);
    row(what, &format!("{peak} KiB at most, {rest} KiB at rest"), peak <= MOST_KIB)
}

fn main() {
    const MORE: &str = "IDLE ESEARCH CONDSTORE UNSELECT LIST-EXTENDED LIST-STATUS";
    println!("| {MAILBOXES} mailboxes | figure | within budget |\n|---|---|---|");
    let mut good = true;
    for (capabilities, by) in [
        (MORE, "LIST-STATUS"),
        ("NOTIFY IDLE ESEARCH CONDSTORE UNSELECT LIST-EXTENDED LIST-STATUS", "NOTIFY"),
    ] {
        let crowd = Crowd::start(capabilities, |n| (n < MAILBOXES).then(|| nth_mailbox(n)));
        let home = crowd.home();
        let mbsync = home.fake_mbsync();
        in_step(&home, MAILBOXES);
        if by == "LIST-STATUS" {
            for (option, budget) in
                [("--muttrc", MOST_TIME), ("--list", MOST_TIME), ("--status", Duration::MAX)]
            {
                let took = median(&home, option);
                let what = format!("`mutt-sync {option}`, of the processor");
                good &= row(&what, &format!("{:.2} s", took.as_secs_f64()), took <= budget);
            }
        }
        let last = nth_mailbox(MAILBOXES - 1);
        let seen = home.state("Home").join("seen.json");
        let seen = || std::fs::read_to_string(&seen).unwrap_or_default().contains(&last);
        let done = || !mbsync.runs().is_empty() && seen();
        good &= waiter(&home, &format!("a waiter, by {by}"), done);
    }
    let forms: [Form; 3] = [
        ("250 bytes", |n| format!("{n:08}/{}", "x".repeat(240))),
        ("2000 bytes", |n| format!("{n:08}{}", "y".repeat(2000))),
        ("a few bytes", |n| format!("{n:x}")),
    ];
    for (length, name) in forms {
        let count = HOSTILE / (name(1 << 20).len() + "* LIST () \"/\" \"\"\r\n".len());
        let crowd =
            Crowd::start("IDLE ESEARCH CONDSTORE UNSELECT", move |n| (n < count).then(|| name(n)));
        let home = crowd.home();
        let mbsync = home.fake_mbsync();
        let stuck = home.state("Home").join("stuck.json");
        let what = format!("a waiter, whose server lists 60 MiB of names of {length}");
        good &= waiter(&home, &what, || stuck.exists() && !mbsync.runs().is_empty());
    }
    assert!(good, "out of budget: see above");
}
