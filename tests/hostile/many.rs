//! Very many mailboxes: on this disk, on the server, and on both.

use rig::crowd::{in_step, memory_of_waiter, nth_mailbox};
use rig::{Account, Crowd, Home, process};
use std::fs;
use std::time::Duration;

/// For anything that has no reason to take long, with very many mailboxes.
const SOON: Duration = Duration::from_secs(600);
/// KiB that a waiter may take, whatever the number of mailboxes.
const MOST: u64 = 60 * 1024;
/// Of these, what one of few mailboxes takes (3.3 MiB: benches/README.md). A build without
/// optimization takes more of its own, for its code.
const OF_FEW: u64 = 3400;

/// The most KiB that a waiter takes until `done`.
fn waiter(home: &Home, done: impl Fn() -> bool) -> u64 {
    let (peak, rest) = memory_of_waiter(home, SOON, done);
    println!("{peak} KiB at most, {rest} KiB at rest");
    peak
}

/// The same for so many mailboxes that are in sync with the server, until it has compared
/// each of them, and has had all of them synced.
fn waiter_of(count: usize, capabilities: &'static str) -> u64 {
    let crowd = Crowd::start(capabilities, move |n| (n < count).then(|| nth_mailbox(n)));
    let home = crowd.home();
    in_step(&home, count);
    let mbsync = home.fake_mbsync();
    let last = nth_mailbox(count - 1);
    let seen = || fs::read_to_string(home.state("Home").join("seen.json")).unwrap_or_default();
    waiter(&home, || !mbsync.runs().is_empty() && seen().contains(&last))
}

#[test]
fn g10_a_waiter_of_very_many_mailboxes_takes_little_memory() {
    for capabilities in [
        "IDLE ESEARCH CONDSTORE UNSELECT LIST-EXTENDED LIST-STATUS",
        "IDLE ESEARCH CONDSTORE UNSELECT LIST-EXTENDED LIST-STATUS NOTIFY",
    ] {
        let few = waiter_of(5, capabilities);
        let many = waiter_of(20_000, capabilities);
        let grown = many.saturating_sub(few);
        assert!(grown < MOST - OF_FEW, "{capabilities}: {few} and {many} KiB");
    }
}

#[test]
fn g10_a_list_of_very_many_mailboxes_is_kept_only_in_part() {
    const BYTES: usize = 60 << 20;
    let long = |n: usize| format!("{n:08}/{}", "x".repeat(240));
    for name in [
        long as fn(usize) -> String,
        |n| format!("{n:08}{}", "y".repeat(2000)),
        |n| format!("{n:x}"),
    ] {
        let count = BYTES / (name(1 << 20).len() + "* LIST () \"/\" \"\"\r\n".len());
        let crowd =
            Crowd::start("IDLE ESEARCH CONDSTORE UNSELECT", move |n| (n < count).then(|| name(n)));
        let home = crowd.home();
        let mbsync = home.fake_mbsync();
        // It has been told, has had it synced, and has written down what came of it.
        let stuck = home.state("Home").join("stuck.json");
        let peak = waiter(&home, || stuck.exists() && !mbsync.runs().is_empty());
        let size = |name: &str| fs::metadata(home.state("Home").join(name)).map_or(0, |f| f.len());
        let file = size("stuck.json").max(size("seen.json"));
        println!("{count} mailboxes: files of {file} bytes");
        assert!(peak < MOST, "{count} mailboxes: {peak} KiB");
        assert!(file < 20 << 20, "{count} mailboxes: files of {file} bytes");
    }
}

/// What it takes of the processor; the less of two.
fn processor_time(home: &Home, args: &[&str]) -> Duration {
    let once = || process::processor_time(&home.cmd(args), SOON);
    once().min(once())
}

#[test]
fn reports_take_time_in_proportion_to_the_number_of_mailboxes() {
    let with_maildirs = |count: usize| {
        let home = Home::with(vec![Account::fake("Home").patterns("*").unjudged()]);
        for n in 0..count {
            fs::create_dir_all(home.maildir("Home", &nth_mailbox(n)).path().join("cur")).unwrap();
        }
        home
    };
    let (few, many) = (with_maildirs(1000), with_maildirs(10_000));
    for args in [
        &["--muttrc"][..],
        &["--list"],
        &["--list", "--json"],
        &["--status"],
        &["--status-line", "%f"],
        &["-b", "Home"],
    ] {
        // What is a run's, is not measured.
        let _mbsync = [few.fake_mbsync(), many.fake_mbsync()];
        let (short, long) = (processor_time(&few, args), processor_time(&many, args));
        println!("{args:?}: {short:?} {long:?}");
        // Ten times as many; what grows with the square would take a hundred times.
        assert!(long < short * 30 + Duration::from_millis(200), "{args:?}: {short:?} {long:?}");
    }
}
