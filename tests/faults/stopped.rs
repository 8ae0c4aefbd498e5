//! Processes that are stopped (SIGSTOP): bounded in time, and nothing is lost.

use crate::support::{QUICK, SOON, kill_leftovers, ms, ran};
use rig::{Home, Running, Signal, process, run, wait_until};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn g2_g9_one_that_is_stopped_with_the_lock_is_not_waited_for_for_ever() {
    let home = Home::fake(&["Home"]);
    home.settings(&format!("{QUICK}stall = \"1s\""));
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let first = Running::start(home.cmd(&["Home:INBOX"]));
    mbsync.wait_for_starts(1, SOON);
    first.signal(Signal::STOP);
    mbsync.release();
    mbsync.wait_idle(SOON);
    // Stopped, it reaps nobody and gives nothing up.
    let second = run(&mut home.cmd(&["Home:Sent"]), SOON).expect_code(75);
    assert!(
        second.stderr.contains("held the lock for too long; the request stays queued"),
        "{second}"
    );
    assert!(second.elapsed > Duration::from_secs(9), "{second}");
    let background = home.mutt_sync(&["-b", "Home:Drafts"]).ok();
    assert!(background.elapsed < Duration::from_secs(5), "{background}");
    assert_eq!(mbsync.runs().len(), 1);
    first.signal(Signal::CONT);
    first.wait(SOON).ok();
    home.mutt_sync(&["--force", "Home:Trash"]).ok();
    for mailbox in ["INBOX", "Sent", "Drafts", "Trash"] {
        wait_until(SOON, mailbox, || ran(&mbsync, mailbox));
    }
    mbsync.assert_alone();
    wait_until(SOON, "nothing stands", || home.requests("Home").is_empty());
    home.wait_no_leftovers(SOON);
}

#[test]
fn g8_g9_an_mbsync_that_is_stopped_is_ended() {
    let home = Home::fake(&["Home"]);
    home.settings(&format!("{QUICK}stall = \"1s\""));
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let command = Running::start(home.cmd(&["Home:INBOX"]));
    let started = mbsync.wait_for_starts(1, SOON).remove(0);
    process::kill(started.pid, Signal::STOP);
    // TERM does not reach one that is stopped; KILL does.
    let output = command.wait(SOON).expect_code(69);
    assert!(output.stderr.contains("less than 256 bytes a second for 1s"), "{output}");
    assert!(!process::alive(started.pid));
    home.assert_no_leftovers();
    assert_eq!(home.requests("Home"), ["Home:INBOX"]);
    mbsync.release();
    home.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(mbsync.runs()[1].names(), ["Home:INBOX,Sent"]);
}

/// Out of memory, the kernel kills what it likes: here all at once, again and
/// again, in the midst of runs, with a child that waits in the background.
#[test]
fn g1_g2_everything_killed_at_once_loses_no_request() {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.fake_mbsync();
    mbsync.act("sleep 600 & wait");
    let mailboxes = ["INBOX", "Archive", "Sent", "Drafts", "Trash"];
    for (round, mailbox) in mailboxes.iter().enumerate() {
        let name = format!("Home:{mailbox}");
        home.mutt_sync(&["-b", "--force", &name]).ok();
        if round % 2 == 0 {
            mbsync.wait_for_starts(round + 1, SOON);
            sleep(ms(20));
        }
        kill_leftovers(&home);
        if round % 2 == 1 && mbsync.runs().len() == round {
            // Killed before it had run: as good a moment as any. Numbers go on.
            let again = Running::start(home.cmd(&["--force", &name]));
            mbsync.wait_for_starts(round + 1, SOON);
            kill_leftovers(&home);
            drop(again);
        }
        assert!(home.requests("Home").contains(&name), "{:?}", home.requests("Home"));
    }
    mbsync.forget("act");
    mbsync.clear_log();
    home.mutt_sync(&["--force", "Home:Trash"]).ok();
    for mailbox in mailboxes {
        assert!(ran(&mbsync, mailbox), "{mailbox}: {:?}", mbsync.runs());
    }
    assert_eq!((mbsync.runs().len(), home.requests("Home").len()), (1, 0));
}
