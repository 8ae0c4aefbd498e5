//! No descriptor left: what cannot be done is said, with the fix, and is done
//! once it can be.

use crate::support::{QUICK, SOON, at_work, end, kill_leftovers, ms, quiet, ran, said};
use rig::{Home, Output, Running, Server, Signal, compare, message, process, run, wait_until};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

fn limited(home: &Home, most: usize, args: &[&str]) -> Command {
    let mut command = home.command("prlimit");
    command.arg(format!("--nofile={most}:")).arg(rig::mutt_sync()).args(args);
    command
}

/// The loader itself could not open a library.
fn not_even_loaded(output: &Output) -> bool {
    output.code() == 127 && output.stderr.contains("shared libraries")
}

#[test]
fn g2_a_command_without_descriptors_serves_or_says_what_is_wrong() {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let (mut served, mut refused) = (0, 0);
    // Where which step fails.
    let few = if rig::soak() { (3..28).collect() } else { vec![4, 5, 6, 7, 8, 9, 11, 13, 16] };
    for most in few {
        for args in [&["-b", "--force", "Home:INBOX"][..], &["--force", "Home:INBOX"]] {
            mbsync.clear_log();
            let output = run(&mut limited(&home, most, args), Duration::from_secs(20));
            if not_even_loaded(&output) {
                continue;
            }
            assert!(!output.stderr.contains("panicked"), "{most} {args:?} {output}");
            let (in_background, code) = (args[0] == "-b", output.code());
            let text = output.stdout.clone() + &output.stderr;
            match code {
                0 if !in_background => assert!(ran(&mbsync, "INBOX"), "{most}: {output}"),
                0 => assert_eq!(text, "Home: syncing in the background\n", "{most}"),
                75 if in_background => {
                    let told =
                        text.contains("the request stays queued") || text.contains("try again");
                    assert!(told, "{most}: {output}");
                }
                75 => assert!(text.contains("ulimit -n"), "{most}: {output}"),
                _ => panic!("{most} {args:?}: {output}"),
            }
            (served, refused) = (served + usize::from(code == 0), refused + usize::from(code != 0));
            // Somebody with descriptors serves what stands, whoever waits to do so.
            let stands = code == 0 || text.contains("stands");
            // (Met by the failing run of one that waits, it is told of that failure.)
            let well = || home.mutt_sync(&["--force", "Home:Drafts"]).code() == 0;
            wait_until(SOON, "a run goes well", well);
            if stands {
                assert!(ran(&mbsync, "INBOX"), "{most} {args:?}: lost; {output}");
            }
            wait_until(SOON, "nothing stands", || home.requests("Home").is_empty());
            kill_leftovers(&home);
            let _ = std::fs::remove_file(home.state("Home").join("retry.json"));
        }
        for args in [&["--status"][..], &["--status-line", "a line"], &["--list"]] {
            let output = run(&mut limited(&home, most, args), Duration::from_secs(20));
            let fine = not_even_loaded(&output) || [0, 75, 78].contains(&output.code());
            assert!(fine && !output.stderr.contains("panicked"), "{most} {args:?}: {output}");
        }
    }
    println!("{served} served, {refused} refused");
    assert!(served > 6 && refused > 2, "{served} served, {refused} refused");
}

#[test]
fn a_waiter_without_descriptors_from_the_start_stays_or_says_why_not() {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let _mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let (mut stayed, mut refused) = (0, 0);
    for most in (4..24).step_by(2) {
        let waiter = Running::start(limited(&home, most, &["--wait", "--loop", "-v", "Home"]));
        let waits = || {
            let said = waiter.stderr();
            said.contains(" mailboxes\n") || said.contains(" mailbox\n")
        };
        wait_until(SOON, "it waits or has ended", || !waiter.runs() || waits());
        if waits() {
            end(waiter);
            stayed += 1;
        } else {
            let output = waiter.wait(SOON);
            if not_even_loaded(&output) {
                continue;
            }
            let output = output.expect_code(75);
            assert!(output.stderr.contains("ulimit -n"), "{most}: {output}");
            refused += 1;
        }
        kill_leftovers(&home);
    }
    assert!(stayed > 2 && refused > 0, "{stayed} stayed, {refused} refused");
}

#[test]
fn g2_g7_a_waiter_that_loses_its_descriptors_and_gets_them_back_misses_nothing() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let waiter = at_work(home.cmd(&["--wait", "--loop", "-v", "Home"]), &mbsync);
    let limit = |soft: &str| {
        let pid = waiter.pid().to_string();
        let nofile = format!("--nofile={soft}:");
        run(Command::new("prlimit").args(["--pid", &pid, &nofile]), SOON).ok();
    };
    limit("3");
    imap.append("INBOX", &message("far", "far"), &[]);
    home.maildir("Home", "Archive").add(&message("near", "near"), "S");
    assert_eq!(
        home.mutt_sync(&["-b", "Home:Sent"]).ok().stdout,
        "Home: syncing in the background\n"
    );
    waiter.wait_for("Too many open files", SOON);
    sleep(ms(1500));
    assert!(waiter.runs(), "{waiter}");
    limit("1024");
    wait_until(SOON, "both sides are equal", || {
        compare(&mut imap, &home.mail("Home")).is_ok() && home.requests("Home").is_empty()
    });
    quiet(&mbsync, ms(2000));
    assert_eq!(home.maildir("Home", "INBOX").len(), 1);
    assert!(said(&waiter, "ulimit -n") > 0, "{waiter}");
    assert!(process::alive(waiter.pid()));
    waiter.signal(Signal::TERM);
    waiter.wait(SOON).expect_code(143);
    home.wait_no_leftovers(SOON);
}
