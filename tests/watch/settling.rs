//! When a run starts: once a change is whole, and mbsync would not sleep.

use crate::support::{SOON, Waiter, at_rest, ms, one_run};
use rig::{Home, Imap, Server, ServerOptions, message, real_mbsync, sleep_until_phase, wait_until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Instant;

const SLEEPS: &str = "sleeping due to recent directory modification";
const UNTHROTTLED: &str = "throttle = \"0s\"\n";

/// An mbsync that says all that it has to say, into a file. Gives what it said.
fn talkative_mbsync(home: &Home) -> impl Fn() -> String {
    let (real, log) = (real_mbsync(), home.path("mbsync.log"));
    let (real, file) = (real.display(), log.display());
    let script = format!(
        "case $1 in -q|-V) shift ;; *) exec {real} \"$@\" ;; esac\n\
         {real} -V \"$@\" >{file}.$$ 2>&1; code=$?\n\
         cat {file}.$$; cat {file}.$$ >>{file}; exit $code"
    );
    home.program("mbsync", &script);
    move || std::fs::read_to_string(&log).unwrap_or_default()
}

/// A home that has synced its one message.
fn synced() -> (Server, Home, Imap) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(UNTHROTTLED);
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    home.mutt_sync(&["Home"]).ok();
    (server, home, imap)
}

#[test]
fn g5_mbsync_never_sleeps_for_a_local_change_at_whatever_time_it_comes() {
    let (_server, home, mut imap) = synced();
    let said = talkative_mbsync(&home);
    let inbox = home.maildir("Home", "INBOX");
    wait_until(SOON, "an mbsync that says that it sleeps", || {
        // Stamps are up to a tick behind: at 0 they may be of the second before.
        sleep_until_phase(30);
        let entry = inbox.find("zero");
        inbox.set_flags(&entry, if entry.flags.contains('R') { "S" } else { "RS" });
        let output = home.mbsync(&["-V", "Home"]);
        format!("{}{}", output.stdout, output.stderr).contains(SLEEPS)
    });

    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    let changes = rig::count(10, 100);
    for change in 0..changes {
        sleep_until_phase((change * 1000 / changes) as u64);
        let before = said().len();
        let flags = if change % 2 == 0 { "FS" } else { "S" };
        inbox.set_flags(&inbox.find("zero"), flags);
        wait_until(SOON, "the change is on the server", || {
            imap.find("INBOX", "zero").letters().contains('F') == (change % 2 == 0)
        });
        wait_until(SOON, "mbsync has ended", || said().len() > before);
    }
    assert_eq!(said().matches(SLEEPS).count(), 0, "{}", said());
    assert_eq!(waiter.count("syncing: INBOX to push"), changes, "{}", waiter.said());
}

/// Those that the server, a key or a hook asks for, while the Maildir was written a
/// moment ago.
#[test]
fn g5_mbsync_sleeps_for_no_run_that_another_asks_for() {
    let (_server, home, mut imap) = synced();
    let said = talkative_mbsync(&home);
    let inbox = home.maildir("Home", "INBOX");
    for (phase, command) in [(100, &["-f", "Home"][..]), (900, &["Home"]), (400, &["-b", "Home"])] {
        sleep_until_phase(phase);
        let before = said().len();
        let flags = if phase == 900 { "S" } else { "FS" };
        inbox.set_flags(&inbox.find("zero"), flags);
        home.mutt_sync(command).ok();
        wait_until(SOON, "the run has ended", || said().len() > before);
    }
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    for round in 0..rig::count(3, 20) {
        // The second comes in the second in which mbsync has written the first.
        for part in 0..2 {
            imap.append("INBOX", &message("new", &format!("{round} {part}")), &[]);
            wait_until(SOON, "it is here", || inbox.len() == 2 + 2 * round + part);
        }
    }
    assert_eq!(said().matches(SLEEPS).count(), 0, "{}", said());
}

/// Neither a request in the background nor a waiter waits for `settle` when all is quiet.
#[test]
fn what_is_quiet_is_not_waited_for_as_long_as_settle() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{UNTHROTTLED}settle = \"1h\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    home.mutt_sync(&["-b", "Home"]).ok();
    mbsync.wait_for_starts(1, SOON);
    mbsync.wait_idle(SOON);
    let waiter = Waiter::settled(&home, &mbsync);
    let runs = mbsync.runs().len();
    home.mutt_sync(&["-b", "--full", "Home:Archive"]).ok();
    assert_eq!(one_run(&mbsync, runs), ["Home:Archive"]);
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("zero"), "S");
    assert_eq!(one_run(&mbsync, runs + 1), ["Home:INBOX"]);
    drop(waiter);
}

/// A mailbox that is written without pause gets its run, and what changes beside it is
/// synced. (mbsync itself may sleep until the writing ends.)
#[test]
fn a_mailbox_that_is_never_quiet_is_synced_and_holds_up_no_other() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(UNTHROTTLED);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("zero", "zero"), &[]);
    let waiter = Waiter::settled(&home, &mbsync);
    let (inbox, archive) = (home.maildir("Home", "INBOX"), home.maildir("Home", "Archive"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                archive.add(&message("busy", "busy"), "S");
                sleep(ms(110));
            }
        });
        sleep(ms(300));
        inbox.set_flags(&inbox.find("zero"), "FS");
        let runs_archive = |run: &rig::Run| run.names()[0].contains("Archive");
        let mut served = || {
            mbsync.runs().iter().any(runs_archive)
                && imap.find("INBOX", "zero").letters().contains('F')
        };
        let began = Instant::now();
        while !served() && began.elapsed() < SOON {
            sleep(ms(50));
        }
        let served = served();
        done.store(true, Ordering::Relaxed);
        assert!(served, "{}", waiter.said());
    });
    wait_until(SOON, "all is on the server", || {
        usize::try_from(imap.status("Archive").messages).unwrap() == archive.len()
    });
}

fn moves_are_one_run(notify: bool) {
    let server = Server::with(ServerOptions { notify, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    home.settings(UNTHROTTLED);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let waiter = Waiter::settled(&home, &mbsync);
    let mut uid = imap.append("INBOX", &message("zero", "zero"), &[]);
    at_rest(&home, &waiter, &mbsync);
    for round in 0..rig::count(3, 20) {
        // What is reported sooner may be an echo: then both are scanned first.
        sleep(ms(3200));
        let runs = mbsync.runs().len();
        let (from, to) = if round % 2 == 0 { ("INBOX", "Archive") } else { ("Archive", "INBOX") };
        imap.select(from);
        imap.move_to(uid, to);
        imap.unselect();
        uid = imap.find(to, "zero").uid;
        assert_eq!(one_run(&mbsync, runs), ["Home:Archive,INBOX"], "{}", waiter.said());
        at_rest(&home, &waiter, &mbsync);
        assert_eq!(mbsync.runs().len(), runs + 1, "{}", waiter.said());
    }
}

#[test]
fn g5_a_move_on_the_server_is_one_run_with_notify() {
    moves_are_one_run(true);
}

#[test]
fn g5_a_move_on_the_server_is_one_run_with_idle() {
    moves_are_one_run(false);
}
