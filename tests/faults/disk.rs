//! A disk that is full or read-only, and each file of state that cannot be
//! written: no request is lost, and what cannot be done is said.

use crate::mounts::Mounts;
use crate::support::{QUICK, SOON, at_work, end, kill_leftovers, ms, quiet, ran, said};
use rig::{Home, Server, compare, message, wait_until};
use std::fs;
use std::thread::sleep;

/// A directory in the place of each: it can be neither written nor replaced.
#[test]
fn g2_no_file_of_state_that_cannot_be_written_loses_a_request_or_makes_a_loop() {
    let others = ["urgent", "hook.lock", "want/Home:INBOX", "want/Home:Sent"];
    let names = [&rig::STATE_FILES[..], &others].concat();
    std::thread::scope(|scope| {
        for some in names.chunks(6) {
            scope.spawn(|| some.iter().for_each(|name| unwritable(name)));
        }
    });
}

fn unwritable(name: &str) {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    mbsync.clear_log();
    let place = home.state("Home").join(name);
    let _ = fs::remove_file(&place);
    fs::create_dir(&place).unwrap();
    // It fails once, so that failures are written down too.
    mbsync.exit(1);
    mbsync.stderr("Socket error on h: timeout.\n");
    let failed = home.mutt_sync(&["--force", "Home:INBOX"]);
    mbsync.forget("exit");
    mbsync.forget("stderr");
    let (code, stderr) = (failed.code(), failed.stderr.clone());
    match name {
        "lock" => assert!(code == 78 && stderr.contains("cannot write lock"), "{failed}"),
        _ => assert!(code == 69 && stderr.contains("timeout"), "{name}: {failed}"),
    }
    let foreground = home.mutt_sync(&["--force", "Home:INBOX"]);
    let background = home.mutt_sync(&["-b", "--force", "Home:Sent"]);
    for output in [&foreground, &background] {
        let expected = if name == "lock" { [0, 78] } else { [0, 0] };
        assert!(expected.contains(&output.code()), "{name}: {output}");
        assert!(!output.stderr.contains("panicked"), "{name}: {output}");
    }
    if name != "lock" {
        let what = format!("{name}: both are served");
        wait_until(SOON, &what, || ran(&mbsync, "INBOX") && ran(&mbsync, "Sent"));
    }
    sleep(ms(700));
    let runs = mbsync.runs().len();
    assert!(runs <= 5, "{name}: {runs} runs for three requests: {:?}", mbsync.runs());
    fs::remove_dir(&place).unwrap();
    home.mutt_sync(&["--force", "Home:Drafts"]).ok();
    for mailbox in ["INBOX", "Sent", "Drafts"] {
        wait_until(SOON, "all are served", || ran(&mbsync, mailbox));
    }
    wait_until(SOON, "nothing stands", || home.requests("Home").is_empty());
    kill_leftovers(&home);
}

#[test]
fn g2_a_read_only_disk_is_named_and_no_process_waits_for_it() {
    let home = Home::fake(&["Home"]);
    home.settings(QUICK);
    let mbsync = home.fake_mbsync();
    let (mounts, state) = (Mounts::new(&home), home.state("Home"));
    mounts.small_disk(&state, 256, 100);
    mounts.mutt_sync(&["Home"]).ok();
    mounts.read_only(&state);
    for args in [&["--force", "Home:INBOX"][..], &["--wait", "Home"], &["-b", "Home:Sent"]] {
        let output = mounts.mutt_sync(args).expect_code(78);
        let text = output.stdout.clone() + &output.stderr;
        for part in ["Read-only file system", "mutt-sync/Home", "XDG_STATE_HOME"] {
            assert!(text.contains(part), "`{part}` is missing: {output}");
        }
    }
    wait_until(SOON, "no process is left", || {
        !home.leftovers().iter().any(|(_, line)| line.contains("mutt-sync"))
    });
    assert_eq!(mounts.mutt_sync(&["--status-line", "x"]).ok().stderr, "");
    sleep(ms(500));
    assert_eq!(mbsync.runs().len(), 1);
    mounts.writable(&state);
    mounts.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(mbsync.runs()[1].names(), ["Home:Sent"]);
}

/// By bytes and by inodes, for the mail and for our own state.
#[test]
fn a_disk_with_no_room_is_named_by_check() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.mutt_sync(&["Home"]).ok();
    let (mounts, mail, state) = (Mounts::new(&home), home.path("spare"), home.state("Home"));
    let check = || {
        let output = mounts.mutt_sync(&["--check", "Home"]);
        (output.code(), output.stdout.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for (dir, code, disk) in [(&mail, 1, "~/spare"), (&state, 0, "~/.local/state/mutt-sync/Home")] {
        mounts.small_disk(dir, 256, 100);
        if code == 1 {
            let file = home.read(".mbsyncrc");
            fs::create_dir_all(mounts.path(dir).join("INBOX")).unwrap();
            home.write(".mbsyncrc", &file.replace("~/Mail/Home/", "~/spare/"));
        }
        let (before, text) = check();
        assert!(before == 0 && !text.contains(" left on the disk of "), "{disk}: {text}");
        mounts.fill(dir);
        let (after, text) = check();
        assert_eq!(after, code, "{text}");
        assert!(text.contains(&format!(" left on the disk of {disk}")), "{text}");
        assert!(text.contains("free some (see df -"), "{text}");
        mounts.empty(dir);
        assert_eq!(check().0, 0);
    }
}

#[test]
fn g2_g5_a_waiter_on_a_full_disk_syncs_all_the_same_and_once() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let (mounts, state) = (Mounts::new(&home), home.state("Home"));
    mounts.small_disk(&state, 256, 100);
    let waiter = at_work(mounts.cmd(&["--wait", "--loop", "-v", "Home"]), &mbsync);
    let before = mbsync.runs().len();
    mounts.fill(&state);
    let mut step = |done: &mut dyn FnMut(&mut rig::Imap)| {
        done(&mut imap);
        wait_until(SOON, "both sides are equal", || compare(&mut imap, &home.mail("Home")).is_ok());
        quiet(&mbsync, ms(2000));
    };
    step(&mut |imap| _ = imap.append("INBOX", &message("far", "far"), &[]));
    step(&mut |_| _ = home.maildir("Home", "Archive").add(&message("near", "near"), "S"));
    let runs = mbsync.runs().len() - before;
    assert_eq!(runs, 2, "runs for two changes; {waiter}");
    // An empty file needs no room: the request is made, and the waiter serves it.
    assert_eq!(
        mounts.mutt_sync(&["-b", "--full", "Home:Sent"]).ok().stdout,
        "Home: syncing in the background\n"
    );
    mbsync.wait_for_starts(before + 3, SOON);
    quiet(&mbsync, ms(2000));
    assert_eq!(mbsync.runs().len(), before + 3, "{waiter}");
    for what in ["which mailboxes are clean: No space", "which mailboxes stay dirty: No space"] {
        assert!(said(&waiter, what) <= 1, "said once: {waiter}");
    }
    assert!(said(&waiter, "free some space") > 0, "{waiter}");
    mounts.empty(&state);
    step(&mut |imap| _ = imap.append("INBOX", &message("far", "far two"), &[]));
    assert_eq!(mbsync.runs().len(), before + 4, "{waiter}");
    assert!(fs::read_dir(mounts.path(&state).join("want")).unwrap().next().is_none());
    end(waiter);
}

/// There is no room for the mark of the failure either, nor for what the waiter knows.
#[test]
fn g2_a_run_that_a_full_disk_made_fail_is_tried_again() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{QUICK}retry_max = \"1s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let (mounts, state, mail) = (Mounts::new(&home), home.state("Home"), home.mail("Home"));
    mounts.small_disk(&state, 256, 100);
    mounts.small_disk(&mail, 512, 200);
    let waiter = at_work(mounts.cmd(&["--wait", "--loop", "-v", "Home"]), &mbsync);
    let before = mbsync.runs().len();
    let large = "x".repeat(100).repeat(1000);
    mounts.fill(&state);
    mounts.fill(&mail);
    imap.append("INBOX", &message("large", &large), &[]);
    // Each run is two: over the waiter's connection, then over one of its own.
    let runs = mbsync.wait_for_starts(before + 5, SOON);
    let took = runs[before + 4].start - runs[before].start;
    assert!(took > 1_500_000_000, "three runs in {took} ns, without a wait; {waiter}");
    mounts.empty(&mail);
    let mail = mounts.path(&mail);
    wait_until(SOON, "both sides are equal", || compare(&mut imap, &mail).is_ok());
    quiet(&mbsync, ms(2000));
    end(waiter);
}
