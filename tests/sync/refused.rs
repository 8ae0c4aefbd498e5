//! What mbsync could not carry is said at the run, and stays said until it is carried,
//! gone or acknowledged: with a real server that refuses, and real mbsync.
#![allow(clippy::unwrap_used)]

use rig::{Account, Home, Imap, Output, Refuser, Server, ServerOptions, mbsync_version, message};
use std::fs;
use std::time::Duration;

const NO_THROTTLE: &str = "throttle = \"0s\"\n";

/// A message of about so many KiB.
fn big(subject: &str, kib: usize) -> Vec<u8> {
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
    message(subject, &line.repeat(16 * kib))
}

fn unthrottled() -> (Server, Home, Imap) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(NO_THROTTLE);
    let imap = server.imap("home");
    (server, home, imap)
}

fn with_quota(all: u32, each: u32) -> (Server, Home) {
    let quota = Some((all, each));
    let server = Server::with(ServerOptions { quota, ..ServerOptions::default() });
    let home = Home::on(&server, &["Home"]);
    home.settings(NO_THROTTLE);
    home.mutt_sync(&["Home"]).ok();
    (server, home)
}

/// A home whose server is reached through one that can refuse commands.
fn with_refuser() -> (Server, Refuser, Home, Imap) {
    let server = Server::start();
    let refuser = Refuser::before(server.port());
    let home = Home::with(vec![Account::on(&server, "Home").port(refuser.port())]);
    home.settings(NO_THROTTLE);
    home.mutt_sync(&["Home"]).ok();
    let imap = server.imap("home");
    (server, refuser, home, imap)
}

fn sync(home: &Home, args: &[&str]) -> Output {
    home.age();
    home.mutt_sync(args)
}

fn status(home: &Home) -> String {
    home.mutt_sync(&["--status", "Home"]).ok().stdout
}

/// It is said with this text wherever somebody looks.
#[track_caller]
fn is_said(home: &Home, mailbox: &str, texts: &[&str]) {
    let status = status(home);
    let head = format!("  Home:{mailbox}: ");
    let says =
        |line: &&str| line.starts_with(&head) && texts.iter().all(|text| line.contains(text));
    assert!(status.lines().any(|line| says(&line)), "{mailbox}, {texts:?}: {status}");
    let first = status.lines().next().unwrap();
    assert!(first.contains("with refused mail") && !first.contains("in sync"), "{status}");
    let json = home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["accounts"][0]["refused"][0]["name"], format!("Home:{mailbox}"), "{json}");
    let mark = home.mutt_sync(&["--status-line", "---x---", "Home"]).ok().stdout;
    assert!(mark.contains("!refused") || mark.contains("!failed"), "{mark}");
    let check = home.mutt_sync(&["--check", "Home"]).stdout;
    assert!(check.contains(&format!("Home:{mailbox}: ")), "{check}");
}

#[track_caller]
fn is_not_said(home: &Home) {
    let status = status(home);
    assert!(status.lines().count() == 1, "{status}");
    let mark = home.mutt_sync(&["--status-line", "---x---", "Home"]).ok().stdout;
    assert!(!mark.contains("refused"), "{mark}");
    assert!(!home.state("Home").join("refused.json").exists());
}

/// Ten good runs, by cron, say nothing more and clear nothing.
#[track_caller]
fn ten_good_runs(home: &Home) {
    for at in 0..10 {
        let out = sync(home, &["Home"]).expect_code(0);
        assert!(out.stderr.is_empty(), "run {at}: {}", out.stderr);
    }
}

#[test]
fn g13_a_message_refused_for_quota_is_said_until_it_is_carried() {
    let (mut server, home) = with_quota(20, 0);
    home.maildir("Home", "Sent").add(&big("much", 60), "S");
    let out = sync(&home, &["Home"]).expect_code(1);
    let line = "mutt-sync: Home:Sent: 1 message not pushed: [OVERQUOTA] Quota exceeded";
    assert_eq!(out.stderr.matches(line).count(), 1, "{}", out.stderr);
    assert!(!out.stdout.contains("nothing to do"), "{}", out.stdout);
    ten_good_runs(&home);
    is_said(&home, "Sent", &["1 message not pushed", "Quota exceeded"]);
    assert!(status(&home).contains("raise its quota"));
    // A command that names it, or that is typed, says it again.
    assert!(sync(&home, &["Home:Sent"]).expect_code(1).stderr.contains("Quota exceeded"));
    sync(&home, &["Home:INBOX"]).expect_code(0);
    let (code, said) = home.typed("Home");
    assert!(code == 1 && said.contains("Quota exceeded"), "{code}: {said}");
    let (code, said) = home.typed("Home:INBOX");
    assert_eq!(code, 0, "{said}");
    server.restart_with_quota((2000, 0));
    let (code, said) = home.typed("Home");
    assert!(code == 0 && said.contains("Sent 1 pushed"), "{code}: {said}");
    is_not_said(&home);
    assert_eq!(server.imap("home").status("Sent").messages, 1);
    assert_eq!(sync(&home, &["Home"]).ok().stdout.matches("nothing to do").count(), 1);
}

#[test]
fn g13_a_message_refused_for_its_size_is_said_until_it_is_gone() {
    let (server, home) = with_quota(2000, 40);
    let sent = home.maildir("Home", "Sent");
    sent.add(&big("large", 60), "S");
    sent.add(&message("small", "small"), "S");
    let out = sync(&home, &["Home"]).expect_code(1);
    assert!(out.stdout.contains("Sent 1 pushed"), "{out:?}");
    assert!(out.stderr.contains("Home:Sent: 1 message not pushed: "), "{}", out.stderr);
    ten_good_runs(&home);
    is_said(&home, "Sent", &["1 message not pushed"]);
    assert_eq!(server.imap("home").status("Sent").messages, 1);
    let large =
        sent.list().into_iter().find(|entry| fs::metadata(&entry.path).unwrap().len() > 9999);
    fs::remove_file(large.unwrap().path).unwrap();
    assert!(!status(&home).contains("not pushed"), "{}", status(&home));
    sync(&home, &["Home"]).ok();
    is_not_said(&home);
}

#[test]
fn g13_more_refused_messages_than_are_kept_are_counted_once() {
    let (_server, home) = with_quota(2000, 1);
    let sent = home.maildir("Home", "Sent");
    for at in 0..230 {
        sent.add(&big(&format!("large {at}"), 3), "S");
    }
    for args in [&["Home"][..], &["-f", "Home:Sent"], &["-f", "Home:Sent"]] {
        let out = sync(&home, args).expect_code(1);
        assert!(out.stderr.contains("Home:Sent: 230 messages not pushed: "), "{}", out.stderr);
        let status = status(&home);
        assert!(status.contains("Home:Sent: 230 messages not pushed: "), "{status}");
        assert_eq!(status.matches(" not pushed").count(), 1, "{status}");
    }
}

#[test]
fn g13_a_message_without_a_header_is_said_and_retried() {
    let (server, home) = with_quota(2000, 0);
    let sent = home.maildir("Home", "Sent");
    sent.add(b"no header at all", "S");
    if mbsync_version() >= (1, 5) {
        assert!(sync(&home, &["Home"]).ok().stdout.contains("Sent 1 pushed"), "taken as it is");
        return;
    }
    let out = sync(&home, &["Home"]).expect_code(1);
    assert!(out.stderr.contains("incomplete header"), "{}", out.stderr);
    ten_good_runs(&home);
    is_said(&home, "Sent", &["incomplete header"]);
    assert!(status(&home).contains("add one, then mutt-sync --retry Home:Sent"));
    fs::write(&sent.list()[0].path, "Subject: there now\n\nbody\n").unwrap();
    let out = sync(&home, &["--retry", "Home:Sent"]).ok();
    assert!(out.stdout.contains("Sent 1 pushed"), "{out:?}");
    is_not_said(&home);
    assert_eq!(server.imap("home").status("Sent").messages, 1);
}

#[test]
fn g13_a_move_whose_copy_is_refused_keeps_the_message_here_and_says_so() {
    let (mut server, home) = with_quota(100, 0);
    server.imap("home").append("INBOX", &big("moved", 60), &[]);
    sync(&home, &["Home"]).ok();
    server.restart_with_quota((61, 0));
    let (inbox, sent) = (home.maildir("Home", "INBOX"), home.maildir("Home", "Sent"));
    let text = fs::read(&inbox.list()[0].path).unwrap();
    sent.add(&text, "S");
    fs::remove_file(&inbox.list()[0].path).unwrap();
    let out = sync(&home, &["Home"]);
    // Which comes first, the copy or the removal, is mbsync's to say.
    if server.imap("home").status("Sent").messages == 0 {
        assert_eq!(out.code(), 1, "{out:?}");
        is_said(&home, "Sent", &["1 message not pushed"]);
        server.restart_with_quota((200, 0));
        sync(&home, &["-f", "Home"]).ok();
    }
    is_not_said(&home);
    assert_eq!((sent.list().len(), server.imap("home").status("Sent").messages), (1, 1));
}

#[test]
fn g13_a_text_that_the_server_refused_once_is_pulled_by_the_next_try() {
    let (_server, refuser, home, mut imap) = with_refuser();
    imap.append("INBOX", &message("one", "first"), &[]);
    imap.append("INBOX", &message("two", "second"), &[]);
    refuser.answer("UID FETCH 1 ", "NO [SERVERBUG] Internal error occurred");
    let out = sync(&home, &["Home"]).expect_code(1);
    assert!(out.stdout.contains("INBOX 1 new"), "{out:?}");
    let line = "Home:INBOX: 1 message not pulled: [SERVERBUG] Internal error occurred";
    assert!(out.stderr.contains(line), "{}", out.stderr);
    refuser.relent();
    ten_good_runs(&home);
    is_said(&home, "INBOX", &["1 message not pulled"]);
    let out = sync(&home, &["-f", "Home"]).ok();
    assert!(out.stdout.contains("INBOX 1 new"), "{out:?}");
    is_not_said(&home);
    assert_eq!(home.maildir("Home", "INBOX").len(), 2);
}

#[test]
fn g13_flags_that_the_server_refuses_are_said_until_they_are_carried() {
    let (_server, refuser, home, mut imap) = with_refuser();
    imap.append("INBOX", &message("one", "first"), &[]);
    sync(&home, &["Home"]).ok();
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("first"), "F");
    refuser.answer("UID STORE", "NO [NOPERM] Not you");
    let out = sync(&home, &["Home"]).expect_code(1);
    assert!(
        out.stderr.contains("INBOX: 1 flag change not transferred: [NOPERM] Not you"),
        "{out:?}"
    );
    ten_good_runs(&home);
    is_said(&home, "INBOX", &["1 flag change not transferred", "Not you"]);
    refuser.relent();
    sync(&home, &["Home"]).ok();
    is_not_said(&home);
    assert!(imap.find("INBOX", "first").letters().contains('F'));
    // A deletion that is refused, and taken back.
    inbox.delete(&inbox.find("first"));
    refuser.answer("UID STORE", "NO [NOPERM] Not you");
    sync(&home, &["Home"]).expect_code(1);
    ten_good_runs(&home);
    is_said(&home, "INBOX", &["Not you"]);
    refuser.relent();
    sync(&home, &["Home"]).ok();
    is_not_said(&home);
}

#[test]
fn g13_what_is_acknowledged_is_mentioned_no_more() {
    let (mut server, home) = with_quota(20, 0);
    home.maildir("Home", "Sent").add(&big("much", 60), "S");
    sync(&home, &["Home"]).expect_code(1);
    let out = home.mutt_sync(&["--acknowledge", "Home:Sent"]).ok();
    assert_eq!(out.stdout, "Home: acknowledged: Home:Sent\n");
    assert_eq!(status(&home).lines().count(), 1, "{}", status(&home));
    sync(&home, &["-f", "Home:Sent"]).expect_code(0);
    // Another one is another matter.
    home.maildir("Home", "Sent").add(&big("more", 60), "S");
    sync(&home, &["Home"]).expect_code(1);
    is_said(&home, "Sent", &["1 message not pushed"]);
    let out = home.mutt_sync(&["--acknowledge", "Home"]).ok();
    assert!(out.stdout.contains("acknowledged"), "{out:?}");
    let out = home.mutt_sync(&["--acknowledge", "Home"]).ok();
    assert_eq!(out.stdout, "Home: nothing to acknowledge\n");
    server.restart_with_quota((2000, 0));
    sync(&home, &["--retry", "Home:Sent"]).ok();
    assert_eq!(server.imap("home").status("Sent").messages, 2);
}

#[test]
fn g10_the_name_of_an_acknowledged_mailbox_turns_no_text() {
    let (_server, home) = with_quota(20, 0);
    home.maildir("Home", "Sent").add(&big("much", 60), "S");
    sync(&home, &["Home"]).expect_code(1);
    let file = ".local/state/mutt-sync/Home/refused.json";
    home.write(file, &home.read(file).replace("Sent", "turn\u{202e}ed"));
    let _ = home.maildir("Home", "turn\u{202e}ed").create();
    let out = home.mutt_sync(&["--acknowledge", "Home"]).ok();
    assert!(out.stdout.contains("acknowledged: Home:turn?ed\n"), "{out}");
}

/// A refusal of a run that nobody watched is said by the first command after it.
#[test]
fn g13_the_first_command_after_a_background_run_says_it() {
    let (_server, home) = with_quota(20, 0);
    home.maildir("Home", "Sent").add(&big("much", 60), "S");
    home.age();
    home.mutt_sync(&["-b", "Home"]).ok();
    let file = home.state("Home").join("refused.json");
    rig::wait_until(Duration::from_secs(30), "the run has been made", || file.exists());
    rig::wait_until(Duration::from_secs(30), "the run has ended", || {
        home.requests("Home").is_empty()
    });
    let out = sync(&home, &["Home"]).expect_code(1);
    assert!(out.stderr.contains("Home:Sent: 1 message not pushed"), "{out:?}");
    ten_good_runs(&home);
}

#[test]
fn g13_messages_passed_over_long_ago_stand_in_the_status_and_fail_nothing() {
    let (_server, home, mut imap) = unthrottled();
    imap.append("INBOX", &message("one", "first"), &[]);
    home.maildir("Home", "Sent").create().add(&message("two", "second"), "S");
    sync(&home, &["Home"]).ok();
    // As a run of old left it: the pair is not in the record.
    let record = home.path("Mail/Home/Sent/.mbsyncstate");
    let text = fs::read_to_string(&record).unwrap();
    let (head, _) = text.split_once("\n\n").unwrap();
    fs::write(&record, format!("{head}\n\n")).unwrap();
    let status = status(&home);
    assert!(
        status.contains("Home:Sent: 1 message not pushed: mbsync has passed it over"),
        "{status}"
    );
    let (code, said) = home.typed("Home");
    assert_eq!(code, 0, "{said}");
    home.mutt_sync(&["--acknowledge", "Home:Sent"]).ok();
    let status = self::status(&home);
    assert_eq!(status.lines().count(), 1, "{status}");
}

/// Thrown away here before the server had it: the copy for the server's trash is refused,
/// and mbsync removes the message all the same.
#[test]
fn g13_a_refused_copy_for_the_trash_of_the_other_side_is_said() {
    let (_server, home) = with_quota(20, 0);
    let file = home.read(".mbsyncrc");
    let trash = "Account Home\nTrash Trash\nTrashRemoteNew yes\n";
    assert_eq!(file.matches("Account Home\n").count(), 2, "{file}");
    let (head, tail) = file.rsplit_once("Account Home\n").unwrap();
    home.write(".mbsyncrc", &format!("{head}{trash}{tail}"));
    home.maildir("Home", "Sent").add(&big("thrown away", 60), "ST");
    if mbsync_version() >= (1, 5) {
        // isync 1.5.1 aborts (observed), and so removes nothing.
        let out = sync(&home, &["--full", "Home"]).expect_code(75);
        assert!(out.stderr.contains("mbsync was ended by signal 6"), "{out}");
        assert!(status(&home).contains("signal 6"), "{}", status(&home));
        assert_eq!(home.maildir("Home", "Sent").len(), 1);
        return;
    }
    // There is nothing to push: only a full run removes it.
    let out = sync(&home, &["--full", "Home"]).expect_code(1);
    let line = "mutt-sync: Home:Sent: 1 message not pushed: [OVERQUOTA] Quota exceeded";
    assert_eq!(out.stderr.matches(line).count(), 1, "{out}");
    assert!(out.stderr.contains("; removed here all the same"), "{out}");
    assert_eq!(home.maildir("Home", "Sent").len(), 0);
    ten_good_runs(&home);
    is_said(&home, "Sent", &["1 message not pushed", "removed here all the same"]);
    home.mutt_sync(&["--acknowledge", "Home:Sent"]).ok();
    ten_good_runs(&home);
    assert_eq!(status(&home).lines().count(), 1, "{}", status(&home));
}

/// A machine that was started anew is another one to locks, not to what was refused.
#[test]
fn g13_what_is_refused_is_said_after_a_new_boot() {
    let (_server, home) = with_quota(20, 0);
    home.maildir("Home", "Sent").add(&big("much", 60), "S");
    sync(&home, &["Home"]).expect_code(1);
    home.write("boot", "11111111-2222-3333-4444-555555555555\n");
    let rebooted = |args: &[&str]| {
        let script = format!(
            "mount --bind ~/boot /proc/sys/kernel/random/boot_id && exec {} \"$@\"",
            rig::mutt_sync().display()
        );
        let mut unshare = home.command("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c", &script, "sh"]);
        rig::run(unshare.args(args), Duration::from_secs(60))
    };
    for _ in 0..2 {
        let status = rebooted(&["--status", "Home"]).ok().stdout;
        assert!(status.contains("  Home:Sent: 1 message not pushed: "), "{status}");
        let mark = rebooted(&["--status-line", "---x---", "Home"]).ok().stdout;
        assert!(mark.contains("!refused"), "{mark}");
        home.age();
        // It is still known to have been said.
        let out = rebooted(&["Home"]).expect_code(0);
        assert!(out.stderr.is_empty(), "{out}");
    }
    is_said(&home, "Sent", &["1 message not pushed", "Quota exceeded"]);
}

/// Renamed here: the old mailbox is on the server alone, the new one has a record and
/// is here alone.
#[test]
fn g13_a_mailbox_on_one_side_only_is_said_as_long_as_it_is() {
    let (_server, home, mut imap) = unthrottled();
    imap.append("Archive", &message("one", "first"), &[]);
    sync(&home, &["Home"]).ok();
    fs::rename(home.path("Mail/Home/Archive"), home.path("Mail/Home/Kept")).unwrap();
    sync(&home, &["--resync", "Home:Archive"]).ok();
    home.maildir("Home", "Kept").add(&message("two", "second"), "S");
    let out = sync(&home, &["Home"]).expect_code(1);
    assert_eq!(out.stderr.matches("Kept").count(), 1, "{out:?}");
    is_said(&home, "Kept", &["cannot be opened"]);
    let out = sync(&home, &["Home"]);
    assert!(mbsync_version() < (1, 5) || out.code() == 1);
    is_said(&home, "Kept", &["cannot be opened"]);
    imap.create("Kept");
    // The record is of another mailbox.
    fs::remove_file(home.path("Mail/Home/Kept/.mbsyncstate")).unwrap();
    sync(&home, &["--resync", "Home:Kept"]).ok();
    is_not_said(&home);
}

/// Each of the ways that are named ends it.
#[test]
fn g13_a_mailbox_that_is_removed_on_the_server_can_be_settled() {
    for is_acknowledged in [true, false] {
        let (_server, home, mut imap) = unthrottled();
        imap.create("Project");
        imap.append("Project", &message("one", "first"), &[]);
        sync(&home, &["Home"]).ok();
        imap.delete("Project");
        sync(&home, &["Home"]).expect_code(1);
        is_said(&home, "Project", &["cannot be opened"]);
        assert!(status(&home).contains("remove its Maildir"), "{}", status(&home));
        if is_acknowledged {
            sync(&home, &["--acknowledge", "Home:Project"]).ok();
        } else {
            fs::remove_dir_all(home.path("Mail/Home/Project")).unwrap();
        }
        for args in [&["Home"][..], &["--full", "Home"], &["Home:INBOX"], &["-f", "Home"]] {
            imap.append("INBOX", &message("new", "new"), &[]);
            let out = sync(&home, args).ok();
            assert_eq!(out.stderr, "", "{args:?}: {out}");
        }
        let status = status(&home);
        assert!(!status.contains("failed") && !status.contains("Project"), "{status}");
        assert_eq!(home.maildir("Home", "INBOX").len(), 4);
    }
}

/// Its UIDVALIDITY has changed: known only from the run, and said over other runs.
#[test]
fn g13_a_mailbox_that_the_server_made_anew_is_said_after_good_runs_too() {
    let (_server, home, mut imap) = unthrottled();
    imap.append("Archive", &message("one", "first"), &[]);
    sync(&home, &["Home"]).ok();
    imap.delete("Archive");
    std::thread::sleep(Duration::from_millis(1100));
    imap.create("Archive");
    imap.append("Archive", &message("two", "second"), &[]);
    sync(&home, &["Home"]).expect_code(1);
    sync(&home, &["Home:INBOX"]).ok();
    is_said(&home, "Archive", &["not synced", "UIDVALIDITY"]);
    fs::remove_dir_all(home.path("Mail/Home/Archive")).unwrap();
    sync(&home, &["--resync", "Home:Archive"]).ok();
    is_not_said(&home);
}

/// A second channel of a name: `-a` syncs both, as mbsync's does.
#[test]
fn two_channels_of_one_name_are_both_synced_by_a_full_run() {
    let (_server, home, mut imap) = unthrottled();
    imap.append("INBOX", &message("one", "first"), &[]);
    imap.append("Archive", &message("two", "second"), &[]);
    let channel = |pattern: &str| {
        format!(
            "Channel c\nFar :Home-far:\nNear :Home-near:\nPatterns {pattern}\nCreate Both\nSyncState *\n\n"
        )
    };
    let file = home.read(".mbsyncrc");
    let (head, _) = file.split_once("Channel Home").unwrap();
    home.write(".mbsyncrc", &format!("{head}{}{}", channel("INBOX"), channel("Archive")));
    sync(&home, &["-a"]).ok();
    let both = [home.maildir("Home", "INBOX").len(), home.maildir("Home", "Archive").len()];
    assert_eq!(both, [1, 1]);
    assert!(home.mutt_sync(&["--list"]).ok().stdout.contains("two channels have one name"));
}

/// `(channel lines, unread messages)` with `MaxMessages 2`: one run for a delivery, and
/// nothing to push after it.
#[test]
fn max_messages_leave_nothing_to_push() {
    let mut channels = vec![
        ("ExpireUnread no\nExpunge Both", ""),
        ("ExpireUnread yes\nExpunge None", ""),
        ("ExpireUnread no\nExpunge None", "\\Seen"),
    ];
    if rig::mbsync_version() >= (1, 5) {
        channels.push(("ExpireSide Far\nExpireUnread yes\nExpunge Both", ""));
        channels.push(("ExpireSide Near\nExpireUnread yes\nExpunge Both", ""));
    }
    for (lines, seen) in channels {
        let server = Server::start();
        let lines = format!("Create Both\nMaxMessages 2\n{lines}");
        let home = Home::with(vec![Account::on(&server, "Home").channel(&lines)]);
        home.settings(NO_THROTTLE);
        let mut imap = server.imap("home");
        let flags: &[&str] = if seen.is_empty() { &[] } else { &["\\Seen"] };
        for body in ["one", "two", "three", "four"] {
            imap.append("INBOX", &message("subject", body), flags);
        }
        sync(&home, &["Home"]).ok();
        for body in ["five", "six"] {
            imap.append("INBOX", &message("subject", body), flags);
            sync(&home, &["Home"]).ok();
            let status = status(&home);
            let expected = if lines.contains("ExpireSide Far") {
                "Home: 5 of 5 mailboxes not comparable,"
            } else {
                "Home: in sync"
            };
            assert!(status.starts_with(expected), "{lines}: {status}");
        }
    }
}

/// Beyond the 400th mailbox of a run, what it did is reported as well.
#[test]
fn the_last_of_five_hundred_mailboxes_is_reported() {
    let (_server, home, mut imap) = unthrottled();
    for at in 0..500 {
        home.maildir("Home", &format!("box{at:03}")).create();
    }
    sync(&home, &["Home"]).ok();
    imap.append("box499", &message("one", "first"), &[]);
    let out = sync(&home, &["Home"]).ok();
    assert!(out.stdout.contains("box499 1 new"), "{out:?}");
}

/// A Maildir that is numbered anew: its first message is another one, or has to be said anew.
#[test]
fn g13_what_is_refused_after_new_numbers_is_said() {
    for acknowledged in [false, true] {
        let (_server, home) = with_quota(20, 0);
        let sent = home.maildir("Home", "Sent");
        sent.add(&big("much", 60), "S");
        sync(&home, &["Home"]).expect_code(1);
        if acknowledged {
            home.mutt_sync(&["--acknowledge", "Home:Sent"]).ok();
            fs::remove_file(&sent.list()[0].path).unwrap();
            sent.add(&big("other", 70), "S");
        }
        let validity = fs::read_to_string(sent.path().join(".uidvalidity")).unwrap();
        for file in [".uidvalidity", ".mbsyncstate"] {
            fs::remove_file(sent.path().join(file)).unwrap();
        }
        // mbsync takes the time for it.
        std::thread::sleep(Duration::from_millis(1100));
        let out = sync(&home, &["--resync", "Home:Sent"]).expect_code(1);
        assert_ne!(fs::read_to_string(sent.path().join(".uidvalidity")).unwrap(), validity);
        assert!(out.stderr.contains("Home:Sent: 1 message not pushed: "), "{out}");
        ten_good_runs(&home);
        is_said(&home, "Sent", &["1 message not pushed"]);
    }
}
