//! What would delete much is held until somebody answers: with a real server and real
//! mbsync. Nothing is deleted on the other side, other mailboxes are synced, one
//! command goes ahead.
#![allow(clippy::unwrap_used)]

use rig::{
    Account, Home, Imap, Maildir, Mbsync, Output, Refuser, Server, ServerOptions, Terminal,
    mbsync_version, message, run, wait_until,
};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const NO_THROTTLE: &str = "throttle = \"0s\"\n";
const BOTH: &str = "Create Both\nExpunge Both\n";

/// So many messages in each of these mailboxes, synced.
struct Mail {
    server: Server,
    home: Home,
    mbsync: Mbsync,
    imap: Imap,
}

impl Mail {
    fn with(boxes: &[(&str, usize)]) -> Mail {
        Mail::on(boxes, |server| Account::on(server, "Home").channel(BOTH))
    }

    fn on(boxes: &[(&str, usize)], account: impl Fn(&Server) -> Account) -> Mail {
        let server = Server::start();
        let accounts = vec![account(&server)];
        Mail::of(server, accounts, boxes)
    }

    /// Synced is the first account.
    fn of(server: Server, accounts: Vec<Account>, boxes: &[(&str, usize)]) -> Mail {
        let home = Home::with(accounts);
        home.settings(NO_THROTTLE);
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        for (name, count) in boxes {
            if *name != "INBOX" {
                imap.create(name);
            }
            imap.append_many(name, &messages(name, *count), &["\\Seen"]);
        }
        let mail = Mail { server, home, mbsync, imap };
        mail.sync(&["Home"]).ok();
        assert!(!mail.status().contains("held"), "{}", mail.status());
        mail
    }

    fn sync(&self, args: &[&str]) -> Output {
        self.home.age();
        self.home.mutt_sync(args)
    }

    fn maildir(&self, name: &str) -> Maildir {
        self.home.maildir("Home", name)
    }

    fn back_up(&self, name: &str) {
        let (from, to) = (self.maildir(name), self.home.path("backup"));
        run(self.home.command("cp").arg("-a").arg(from.path()).arg(to), Duration::from_secs(9))
            .ok();
    }

    /// What was backed up, in place of what is there.
    fn restore(&self, name: &str) {
        let maildir = self.maildir(name);
        fs::remove_dir_all(maildir.path()).unwrap();
        fs::rename(self.home.path("backup"), maildir.path()).unwrap();
    }

    fn status(&self) -> String {
        self.home.mutt_sync(&["--status", "Home"]).ok().stdout
    }

    fn there(&mut self, name: &str) -> usize {
        self.imap.fetch_all(name).len()
    }

    fn delete_there(&mut self, name: &str, uids: &str) {
        self.imap.select(name);
        self.imap.raw(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)"));
        self.imap.raw("EXPUNGE");
        self.imap.unselect();
    }

    /// Its messages keep their UIDs.
    fn set_validity_here(&self, name: &str, validity: u32) {
        let file = format!("Mail/Home/{name}/.uidvalidity");
        let text = self.home.read(&file);
        let (_, highest) = text.split_once('\n').unwrap();
        self.home.write(&file, &format!("{validity}\n{highest}"));
    }

    /// A sync is one run, which holds nothing.
    #[track_caller]
    fn syncs_in_one_run(&self) {
        let runs = self.mbsync.runs().len();
        self.sync(&["Home"]).ok();
        assert_eq!(self.mbsync.runs().len() - runs, 1);
        self.is_not_held();
    }

    /// It is said wherever somebody looks, and more commands cost no run.
    #[track_caller]
    fn is_held(&self, name: &str, text: &str) {
        let status = self.status();
        let head = format!("  Home:{name}: held");
        let says = |line: &str| line.starts_with(&head) && line.contains(text);
        assert!(status.lines().any(says), "{name}, {text}: {status}");
        let first = status.lines().next().unwrap();
        assert!(first.contains(" held, checked ") && !first.contains("in sync"), "{status}");
        let json = self.home.mutt_sync(&["--status", "--json", "Home"]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let held = json["accounts"][0]["held"].as_array().unwrap();
        assert!(held.iter().any(|each| each["name"] == format!("Home:{name}")), "{json}");
        assert_eq!(json["accounts"][0]["in_sync"], false, "{json}");
        let mark = self.home.mutt_sync(&["--status-line", "---x---", "Home"]).ok().stdout;
        assert!(mark.contains("!held"), "{mark}");
        let check = self.home.mutt_sync(&["--check", "Home"]).stdout;
        assert!(check.contains(&format!("Home:{name}: held")), "{check}");
        let runs = self.mbsync.runs().len();
        for at in 0..3 {
            let out = self.sync(&["Home"]).expect_code(0);
            assert!(out.stderr.is_empty(), "command {at}: {}", out.stderr);
        }
        let named = self.sync(&[&format!("Home:{name}")]).expect_code(1);
        assert!(named.stderr.contains(text), "{}", named.stderr);
        assert_eq!(self.mbsync.runs().len(), runs);
        assert!(self.home.requests("Home").is_empty());
    }

    #[track_caller]
    fn is_not_held(&self) {
        let status = self.status();
        assert!(status.starts_with("Home: in sync") && status.lines().count() == 1, "{status}");
    }

    /// The others are synced, with something held: both ways, and by a full run.
    #[track_caller]
    fn others_are_synced(&mut self, other: &str) {
        self.imap.append(other, &message("elsewhere", "elsewhere-there"), &[]);
        self.sync(&["Home"]).expect_code(0);
        self.maildir(other).find("elsewhere-there");
        self.maildir(other).add(&message("elsewhere", "elsewhere-here"), "S");
        self.sync(&["--full", "Home"]).expect_code(0);
        self.imap.find(other, "elsewhere-here");
        self.imap.append(other, &message("elsewhere", "elsewhere-more"), &[]);
        self.sync(&["-a"]).expect_code(0);
        self.maildir(other).find("elsewhere-more");
        if other == "INBOX" {
            self.imap.append(other, &message("elsewhere", "elsewhere-group"), &[]);
            self.sync(&["Home-frequent"]).expect_code(0);
            self.maildir(other).find("elsewhere-group");
        }
    }
}

fn messages(name: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| message(&format!("{name} {n}"), &format!("body {n} of {name}"))).collect()
}

fn empty(maildir: &Maildir) {
    maildir.list().iter().for_each(|entry| maildir.delete(entry));
}

#[test]
fn g14_all_of_a_mailbox_removed_here_is_held_and_one_command_goes_ahead() {
    let mut mail = Mail::with(&[("Lists", 200), ("INBOX", 5)]);
    empty(&mail.maildir("Lists"));
    let out = mail.sync(&["Home"]).expect_code(1);
    let said = "Home:Lists: held: all of 200 messages are gone here and would be deleted on the \
                server; fix: mutt-sync --allow-deletions Home:Lists deletes them";
    assert_eq!(out.stderr.matches(said).count(), 1, "{}", out.stderr);
    mail.is_held("Lists", "all of 200 messages are gone here");
    let (code, said) = mail.home.typed("Home");
    assert!(code == 1 && said.contains("held"), "{code}: {said}");
    mail.others_are_synced("INBOX");
    assert_eq!(mail.there("Lists"), 200);
    mail.sync(&["--allow-deletions", "Home:Lists"]).ok();
    assert_eq!(mail.there("Lists"), 0);
    mail.is_not_held();
    let out = mail.sync(&["--allow-deletions", "Home:Lists"]).ok();
    assert_eq!(out.stdout, "Home: no mailbox is held for a reason that this option resolves\n");
}

#[test]
fn g14_the_fix_is_typed_as_it_is_printed() {
    let name = "a [b] `touch x`;c";
    let mut mail = Mail::with(&[(name, 200)]);
    std::os::unix::fs::symlink(rig::mutt_sync(), mail.home.path("bin/mutt-sync")).unwrap();
    empty(&mail.maildir(name));
    let out = mail.sync(&["Home"]).expect_code(1);
    let fix = out.stderr.split_once("fix: ").expect("a fix").1;
    let fix = fix.split_once(" deletes them").expect("a command").0;
    assert_eq!(fix, format!("mutt-sync --allow-deletions 'Home:{name}'"));
    assert!(mail.status().contains(fix), "{}", mail.status());
    mail.home.age();
    run(mail.home.command("/bin/sh").arg("-c").arg(fix), Duration::from_secs(60)).ok();
    assert_eq!(mail.there(name), 0);
    assert!(!mail.home.path("x").exists());
}

#[test]
fn g14_most_of_a_mailbox_removed_there_is_held() {
    let mut mail = Mail::with(&[("Archive", 200), ("INBOX", 5)]);
    mail.delete_there("Archive", "1:180");
    let out = mail.sync(&["Home"]).expect_code(1);
    let said =
        "Home:Archive: held: 180 of 200 messages are gone on the server and would be deleted here";
    assert!(out.stderr.contains(said), "{}", out.stderr);
    mail.is_held("Archive", "180 of 200");
    mail.others_are_synced("INBOX");
    assert_eq!(mail.maildir("Archive").len(), 200);
    // By a run of everything, too.
    mail.sync(&["--full", "-f", "Home"]);
    assert_eq!(mail.maildir("Archive").len(), 200);
    mail.sync(&["--allow-deletions", "Home"]).ok();
    assert_eq!(mail.maildir("Archive").len(), 20);
    mail.is_not_held();
}

/// What was deleted here meanwhile makes the other side's loss no smaller.
#[test]
fn g14_a_message_removed_here_hides_no_loss_there() {
    let mut mail = Mail::with(&[("Archive", 200), ("INBOX", 5)]);
    let archive = mail.maildir("Archive");
    mail.delete_there("Archive", "1:180");
    archive.delete(&archive.find("body 199 of Archive"));
    archive.delete(&archive.find("body 7 of Archive"));
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("held: 179 of 199 messages are gone on"), "{}", out.stderr);
    assert_eq!(archive.len(), 198);
}

#[test]
fn g14_a_server_that_comes_back_empty_deletes_nothing_here() {
    let mut mail = Mail::with(&[("INBOX", 30), ("Archive", 40), ("Sent", 3)]);
    for name in ["INBOX", "Archive", "Sent"] {
        mail.delete_there(name, "1:*");
    }
    mail.sync(&["Home"]).expect_code(1);
    let here = ["INBOX", "Archive", "Sent"].map(|name| mail.maildir(name).len());
    assert_eq!(here, [30, 40, 3]);
    mail.is_held("INBOX", "all of 30 messages are gone on the server");
    mail.sync(&["--full", "Home"]);
    assert_eq!(mail.maildir("Archive").len(), 40);
}

#[test]
fn g14_two_mailboxes_emptied_at_once_are_held() {
    let mut mail = Mail::with(&[("one", 15), ("two", 12), ("INBOX", 50)]);
    empty(&mail.maildir("one"));
    empty(&mail.maildir("two"));
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("one", "all of 15");
    mail.is_held("two", "all of 12");
    assert_eq!((mail.there("one"), mail.there("two")), (15, 12));
    // One after the other, by name: the account is looked at all the same.
    mail.sync(&["Home:two"]).expect_code(1);
    mail.others_are_synced("INBOX");
    mail.sync(&["--allow-deletions", "Home:two"]).ok();
    assert_eq!((mail.there("one"), mail.there("two")), (15, 0));
    // One alone is little enough.
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("one"), 0);
    mail.is_not_held();
}

/// Each by name, as the hook of a mutt syncs them: they add up all the same.
#[test]
fn g14_mailboxes_emptied_on_the_server_are_held_one_by_one() {
    let mut mail = Mail::with(&[("one", 15), ("two", 12), ("INBOX", 50)]);
    mail.delete_there("one", "1:*");
    mail.delete_there("two", "1:*");
    for name in ["one", "two"] {
        mail.sync(&[&format!("Home:{name}")]).expect_code(1);
    }
    assert_eq!((mail.maildir("one").len(), mail.maildir("two").len()), (15, 12));
    mail.is_held("one", "all of 15");
    mail.is_held("two", "all of 12");
}

/// A snapshot was restored: mbsync takes the new UIDVALIDITY where 20 messages are as before
/// (isync 1.4 and 1.5, `sync.c`), and deletes the others here.
#[test]
fn g14_most_of_a_mailbox_gone_on_the_server_with_its_uid_validity_is_held() {
    let mut mail = Mail::with(&[("Archive", 200), ("INBOX", 5)]);
    mail.delete_there("Archive", "1:170");
    mail.server.set_uid_validity("home", "Archive", 17);
    assert_eq!(mail.imap.status("Archive").uidvalidity, 17);
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("held: 170 of 200 messages are gone on the server"), "{out}");
    mail.is_held("Archive", "170 of 200");
    mail.others_are_synced("INBOX");
    assert_eq!(mail.maildir("Archive").len(), 200);
    mail.sync(&["--allow-deletions", "Home"]).ok();
    assert_eq!(mail.maildir("Archive").len(), 30);
    mail.is_not_held();
}

/// Each keeps as many messages as mbsync wants to see.
#[test]
fn g14_much_of_a_maildir_gone_with_its_uid_validity_is_held() {
    let mut mail = Mail::with(&[("Lists", 130), ("one", 60), ("two", 60), ("INBOX", 5)]);
    for (name, left) in [("Lists", 20), ("one", 20), ("two", 20)] {
        let maildir = mail.maildir(name);
        maildir.list()[left..].iter().for_each(|entry| maildir.delete(entry));
        mail.set_validity_here(name, 17);
    }
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Lists", "110 of 130 messages are gone here");
    mail.others_are_synced("INBOX");
    assert_eq!(["Lists", "one", "two"].map(|name| mail.there(name)), [130, 60, 60]);
    mail.sync(&["--allow-deletions", "Home"]).ok();
    assert_eq!(["Lists", "one", "two"].map(|name| mail.there(name)), [20, 20, 20]);
    mail.is_not_held();
}

/// Headers that the server does not show say nothing of where a message is.
#[test]
fn g14_a_fetch_that_a_server_refuses_passes_no_deletion() {
    let server = Server::start();
    let refuser = Refuser::before(server.port());
    let account = Account::on(&server, "Home").channel(BOTH).port(refuser.port());
    let mut mail = Mail::of(server, vec![account], &[("Lists", 120), ("INBOX", 5)]);
    refuser.answer("HEADER.FIELDS", "NO not now");
    empty(&mail.maildir("Lists"));
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Lists", "all of 120");
    assert_eq!(mail.there("Lists"), 120);
}

#[test]
fn g14_what_is_brought_back_is_held_no_more() {
    let mut mail = Mail::with(&[("Lists", 120), ("INBOX", 5)]);
    let lists = mail.home.path("Mail/Home/Lists/cur");
    let aside = mail.home.path("aside");
    fs::create_dir(&aside).unwrap();
    for entry in fs::read_dir(&lists).unwrap().flatten() {
        fs::rename(entry.path(), aside.join(entry.file_name())).unwrap();
    }
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Lists", "all of 120");
    for entry in fs::read_dir(&aside).unwrap().flatten() {
        fs::rename(entry.path(), lists.join(entry.file_name())).unwrap();
    }
    mail.is_not_held();
    mail.sync(&["Home:Lists"]).expect_code(0);
    assert_eq!(mail.there("Lists"), 120);
}

#[test]
fn g14_an_answer_is_for_what_was_held_and_for_nothing_else() {
    let mut mail = Mail::with(&[("one", 120), ("two", 130), ("INBOX", 5)]);
    empty(&mail.maildir("one"));
    mail.sync(&["Home"]).expect_code(1);
    empty(&mail.maildir("two"));
    mail.sync(&["--allow-deletions", "Home:one"]);
    assert_eq!((mail.there("one"), mail.there("two")), (0, 130));
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("two", "all of 130");
}

#[test]
fn g14_a_renamed_maildir_is_not_downloaded_again_unasked() {
    let mut mail = Mail::with(&[("Archive", 30), ("INBOX", 5)]);
    fs::rename(mail.home.path("Mail/Home/Archive"), mail.home.path("aside")).unwrap();
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("Home:Archive: held: its Maildir is gone"), "{}", out.stderr);
    mail.is_held("Archive", "its Maildir is gone");
    mail.others_are_synced("INBOX");
    assert!(!mail.maildir("Archive").exists());
    assert_eq!(mail.there("Archive"), 30);
    // Back in its place it is as before.
    fs::rename(mail.home.path("aside"), mail.home.path("Mail/Home/Archive")).unwrap();
    mail.is_not_held();
    mail.sync(&["Home:Archive"]).ok();
    fs::remove_dir_all(mail.home.path("Mail/Home/Archive")).unwrap();
    mail.sync(&["Home"]).expect_code(1);
    // It has another answer.
    let out = mail.sync(&["--allow-deletions", "Home:Archive"]).expect_code(1);
    assert_eq!(out.stdout, "Home: no mailbox is held for a reason that this option resolves\n");
    assert!(out.stderr.contains("mutt-sync --resync Home:Archive"), "{}", out.stderr);
    mail.sync(&["--resync", "Home:Archive"]).ok();
    assert_eq!((mail.maildir("Archive").len(), mail.there("Archive")), (30, 30));
    mail.is_not_held();
}

/// A list of what is below a Path does not show INBOX, which is there all the same.
#[test]
fn g14_an_inbox_beside_the_path_of_its_store_is_held_when_its_maildir_is_gone() {
    for (path, patterns) in [("Mail/", "INBOX *"), ("INBOX/", "*")] {
        let club = format!("{path}Club");
        let mut mail = Mail::on(&[("INBOX", 30), (&club, 5)], |server| {
            let account = Account::on(server, "Home").channel(BOTH).patterns(patterns);
            account.far_line(&format!("Path {path}"))
        });
        assert_eq!((mail.maildir("INBOX").len(), mail.maildir("Club").len()), (30, 5), "{path}");
        mail.back_up("INBOX");
        fs::remove_dir_all(mail.maildir("INBOX").path()).unwrap();
        mail.sync(&["Home"]).expect_code(1);
        mail.is_held("INBOX", "its Maildir is gone");
        assert!(!mail.maildir("INBOX").exists() && mail.there("INBOX") == 30, "{path}");
        // Below the Path the list says it.
        fs::remove_dir_all(mail.maildir("Club").path()).unwrap();
        mail.imap.raw(&format!("DELETE {club}"));
        mail.sync(&["Home"]).ok();
        fs::rename(mail.home.path("backup"), mail.maildir("INBOX").path()).unwrap();
        mail.sync(&["Home"]).ok();
        mail.is_not_held();
    }
}

/// mbsync lists it for Patterns that begin with INBOX.
#[test]
fn a_mailbox_below_inbox_beside_the_path_of_its_store_is_found() {
    let mut mail = Mail::on(&[("INBOX", 3), ("Mail/Club", 3)], |server| {
        let account = Account::on(server, "Home").channel(BOTH).patterns("INBOX* *");
        account.far_line("Path Mail/")
    });
    let below = format!("INBOX{}x", mail.imap.delimiter());
    mail.imap.create(&below);
    mail.imap.append(&below, &message("below", "below"), &[]);
    mail.syncs_in_one_run();
    assert_eq!(mail.maildir("INBOX/x").len(), 1);
}

/// A mailbox was renamed on the server, and what was left of it here removed by hand.
#[test]
fn g14_a_mailbox_that_is_gone_on_both_sides_is_not_held() {
    let mut mail = Mail::on(&[("Club", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}Remove Both\n"))
    });
    let club = mail.home.path("Mail/Home/Club");
    mail.imap.raw("RENAME Club Old");
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("not synced"), "{}", out.stderr);
    fs::remove_dir_all(&club).unwrap();
    mail.sync(&["Home"]).ok();
    mail.is_not_held();
    assert!(mail.home.requests("Home").is_empty());
    // One of that name is another one.
    mail.imap.create("Club");
    mail.imap.append_many("Club", &messages("new", 3), &[]);
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.maildir("Club").len(), 3);
    mail.is_not_held();
}

/// The answer to a hold that has become pointless ends it.
#[test]
fn g14_a_held_mailbox_that_the_server_removes_is_held_no_more() {
    let mut mail = Mail::with(&[("Club", 30), ("INBOX", 5)]);
    fs::remove_dir_all(mail.home.path("Mail/Home/Club")).unwrap();
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Club", "its Maildir is gone");
    mail.imap.raw("DELETE Club");
    let out = mail.sync(&["--resync", "Home:Club"]).expect_code(1);
    assert!(out.stderr.contains("`Club` is neither here nor on the server"), "{}", out.stderr);
    mail.is_not_held();
    assert!(mail.home.requests("Home").is_empty());
    mail.imap.create("Club");
    mail.sync(&["Home"]).ok();
    fs::remove_dir_all(mail.home.path("Mail/Home/Club")).unwrap();
    mail.sync(&["Home"]).expect_code(1);
    mail.imap.raw("DELETE Club");
    mail.sync(&["Home"]).ok();
    mail.is_not_held();
    assert!(mail.home.requests("Home").is_empty());
    mail.sync(&["--full", "Home"]).ok();
    mail.is_not_held();
}

#[test]
fn g14_a_mailbox_that_mbsync_removes_is_reported_and_not_held() {
    let mut mail = Mail::on(&[("Empty", 0), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}Remove Both\n"))
    });
    mail.imap.raw("DELETE Empty");
    let out = mail.sync(&["Home"]).ok();
    assert!(out.stdout.starts_with("Home: 1 mailbox removed (Empty), "), "{}", out.stdout);
    assert!(!mail.maildir("Empty").exists());
    // Another of its name is nothing that was lost here.
    mail.imap.create("Empty");
    mail.sync(&["Home"]).ok();
    mail.is_not_held();
    assert!(mail.maildir("Empty").exists());
    mail.imap.raw("DELETE Empty");
    mail.sync(&["Home"]).ok();
    mail.sync(&["--full", "Home"]).ok();
    mail.is_not_held();
}

#[test]
fn g14_an_older_maildir_in_the_same_place_deletes_nothing() {
    let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    mail.back_up("Archive");
    mail.imap.append_many("Archive", &messages("new", 7), &[]);
    mail.sync(&["Home"]).ok();
    mail.restore("Archive");
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Archive", "is not the one of the last run and lacks 7 messages");
    mail.sync(&["--resync", "Home:Archive"]).ok();
    assert_eq!((mail.maildir("Archive").len(), mail.there("Archive")), (37, 37));
    mail.is_not_held();
    // A copy that has everything is as good.
    mail.back_up("Archive");
    mail.restore("Archive");
    let entry = &mail.maildir("INBOX").list()[0];
    mail.maildir("INBOX").delete(entry);
    mail.sync(&["--full", "Home"]).ok();
    mail.is_not_held();
}

/// mbsync is through with the mailbox, and the run is not over.
#[test]
fn g14_an_older_maildir_that_comes_during_a_run_deletes_nothing() {
    for answered in [false, true] {
        let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
            Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
        });
        mail.back_up("Archive");
        mail.imap.append_many("Archive", &messages("new", 7), &[]);
        let held = mail.home.state("Home").join("held.json");
        let answer = format!(
            "'{}' --resync Home:Archive >/dev/null 2>&1 &\n\
             until grep -q allowed '{}'; do sleep 0.05; done",
            rig::mutt_sync().display(),
            held.display()
        );
        let script = format!(
            "mbsync \"$@\" || exit\ncase \"$*\" in *version*) exit ;; esac\n\
             [ -e ~/backup ] || exit 0\n\
             rm -r ~/Mail/Home/Archive && mv ~/backup ~/Mail/Home/Archive\n{}",
            if answered { &answer } else { "" }
        );
        let mbsync = mail.home.program("meanwhile", &script);
        mail.home.settings(&format!("{NO_THROTTLE}mbsync = \"{}\"\n", mbsync.display()));
        mail.sync(&["--full", "Home"]).ok();
        assert!(!mail.home.path("backup").exists());
        if answered {
            wait_until(SOON, "the messages back", || mail.maildir("Archive").len() == 37);
        } else {
            mail.sync(&["Home"]).expect_code(1);
            mail.is_held("Archive", "is not the one of the last run and lacks 7 messages");
            mail.sync(&["--resync", "Home:Archive"]).ok();
        }
        assert_eq!((mail.maildir("Archive").len(), mail.there("Archive")), (37, 37));
        mail.home.wait_no_leftovers(SOON);
        mail.is_not_held();
    }
}

/// The record cannot be changed: the mailbox alone is not synced, until it can be.
#[test]
fn g14_a_resync_that_cannot_change_the_record_deletes_nothing() {
    let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    let archive = mail.maildir("Archive");
    mail.back_up("Archive");
    mail.imap.append_many("Archive", &messages("new", 12), &[]);
    mail.sync(&["Home"]).ok();
    mail.restore("Archive");
    // In the place of the file that is written first.
    let obstacle = mail.home.path("state-Archive.mutt-sync");
    fs::create_dir(&obstacle).unwrap();
    let out = mail.sync(&["--resync", "Home:Archive"]).expect_code(1);
    assert!(out.stderr.contains("Archive: cannot change mbsync's record for --resync: "), "{out}");
    assert_eq!((archive.len(), mail.there("Archive")), (30, 42));
    mail.imap.append("INBOX", &message("new", "new mail"), &[]);
    let out = mail.sync(&["--full", "Home"]).expect_code(1);
    assert!(out.stderr.contains("cannot change mbsync's record"), "{out}");
    mail.maildir("INBOX").find("new mail");
    assert_eq!((archive.len(), mail.there("Archive")), (30, 42));
    assert!(mail.status().contains("Home:Archive: held"), "{}", mail.status());
    fs::remove_dir(&obstacle).unwrap();
    mail.sync(&["-f", "Home"]).ok();
    assert_eq!((archive.len(), mail.there("Archive")), (42, 42));
    mail.is_not_held();
}

/// A file system without stable inodes shows another Maildir after each mount.
#[test]
fn g14_what_was_deleted_in_a_maildir_with_other_inodes_can_be_allowed() {
    let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    let archive = mail.maildir("Archive");
    mail.back_up("Archive");
    mail.restore("Archive");
    archive.list()[..12].iter().for_each(|entry| archive.delete(entry));
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("lacks 12 messages"), "{out}");
    for answer in ["--resync", "--allow-deletions"] {
        assert!(out.stderr.contains(&format!("mutt-sync {answer} Home:Archive")), "{out}");
    }
    // The answer is for these, and for no more.
    archive.delete(&archive.list()[0]);
    mail.sync(&["--allow-deletions", "Home:Archive"]).expect_code(1);
    assert_eq!(mail.there("Archive"), 30);
    mail.sync(&["Home"]);
    mail.is_held("Archive", "is not the one of the last run and lacks 13 messages");
    // Nor by the name of the account.
    mail.sync(&["--allow-deletions", "Home"]).expect_code(1);
    assert_eq!(mail.there("Archive"), 30);
    mail.sync(&["--allow-deletions", "Home:Archive"]).ok();
    assert_eq!((archive.len(), mail.there("Archive")), (17, 17));
    mail.is_not_held();
    // From now on it is the one of the last run.
    archive.list()[..12].iter().for_each(|entry| archive.delete(entry));
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Archive"), 5);
}

/// The disk was not mounted, and the machine was offline when the question was answered.
#[test]
fn g14_an_answer_ends_when_the_maildir_is_back() {
    let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    let archive = mail.maildir("Archive");
    let elsewhere = mail.home.path("elsewhere");
    fs::rename(archive.path(), &elsewhere).unwrap();
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Archive", "its Maildir is gone");
    mail.server.stop();
    let out = mail.sync(&["--resync", "Home:Archive"]);
    assert_ne!(out.code(), 0, "{out}");
    assert!(mail.status().contains("the next sync goes ahead"), "{}", mail.status());
    fs::rename(&elsewhere, archive.path()).unwrap();
    mail.server.restart();
    mail.imap = mail.server.imap("home");
    mail.sync(&["-f", "Home"]).ok();
    archive.list()[..3].iter().for_each(|entry| archive.delete(entry));
    mail.sync(&["Home"]).ok();
    assert_eq!((archive.len(), mail.there("Archive")), (27, 27));
    mail.is_not_held();
}

/// What mbsync was interrupted in is about pairs that are no longer in its record.
#[test]
fn g14_a_resync_of_what_was_interrupted_is_one_run() {
    let mut mail = Mail::on(&[("Archive", 30), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    let archive = mail.maildir("Archive");
    mail.back_up("Archive");
    mail.imap.append_many("Archive", &messages("new", 12), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    let record = mail.home.read("state-Archive");
    let of_last = record.lines().find(|line| line.ends_with(" 42 S")).unwrap().replace('S', "8");
    // It was about to record the flags of one; its journals are numbered.
    let version = if mbsync_version() < (1, 5) { 4 } else { 5 };
    mail.home.write("state-Archive.journal", &format!("{version}\n* {of_last}\n"));
    mail.home.write("state-Archive.new", "");
    mail.restore("Archive");
    let runs = mail.mbsync.runs().len();
    let out = mail.sync(&["--resync", "Home:Archive"]).ok();
    assert!(out.stderr.is_empty(), "{out}");
    assert_eq!(mail.mbsync.runs().len() - runs, 1);
    assert_eq!((archive.len(), mail.there("Archive")), (42, 42));
    mail.is_not_held();
}

/// A backup was restored by a program that numbers Maildirs itself.
#[test]
fn g14_an_older_maildir_with_another_uid_validity_deletes_nothing() {
    let mut mail = Mail::on(&[("Archive", 130), ("INBOX", 5)], |server| {
        Account::on(server, "Home").channel(&format!("{BOTH}SyncState ~/state-"))
    });
    mail.back_up("Archive");
    mail.imap.append_many("Archive", &messages("new", 12), &[]);
    mail.sync(&["Home"]).ok();
    mail.restore("Archive");
    mail.set_validity_here("Archive", 17);
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Archive", "is not the one of the last run and lacks 12 messages");
    assert_eq!(mail.there("Archive"), 142);
    mail.sync(&["--resync", "Home:Archive"]).ok();
    assert_eq!((mail.maildir("Archive").len(), mail.there("Archive")), (142, 142));
    mail.is_not_held();
}

#[test]
fn g14_archived_to_another_mailbox_is_no_loss() {
    let mut mail = Mail::with(&[("INBOX", 200), ("Archive", 3)]);
    let (inbox, archive) = (mail.maildir("INBOX"), mail.maildir("Archive"));
    inbox.list().iter().for_each(|entry| drop(inbox.move_to(entry, &archive)));
    mail.sync(&["Home"]).ok();
    assert_eq!((mail.there("INBOX"), mail.there("Archive")), (0, 203));
    mail.is_not_held();
}

#[test]
fn g14_archived_to_a_folder_that_is_not_synced_is_no_loss() {
    let mut mail = Mail::on(&[("INBOX", 200), ("Sent", 3)], |server| {
        Account::on(server, "Home").patterns("INBOX Sent").channel(BOTH)
    });
    let (inbox, archive) = (mail.maildir("INBOX"), mail.maildir("2026").create());
    inbox.list().iter().for_each(|entry| drop(inbox.move_to(entry, &archive)));
    mail.sync(&["Home"]).ok();
    assert_eq!((mail.there("INBOX"), mail.maildir("2026").len()), (0, 200));
    mail.is_not_held();
}

#[test]
fn g14_moved_to_trash_and_a_trash_that_is_emptied_are_no_loss() {
    let mut mail = Mail::with(&[("INBOX", 200), ("Trash", 3)]);
    let (inbox, trash) = (mail.maildir("INBOX"), mail.maildir("Trash"));
    inbox.list().iter().for_each(|entry| drop(inbox.move_to(entry, &trash)));
    mail.sync(&["Home"]).ok();
    assert_eq!((mail.there("INBOX"), mail.there("Trash")), (0, 203));
    empty(&trash);
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Trash"), 0);
    mail.is_not_held();
}

/// By what the server says of it, whatever its name is.
#[test]
fn g14_a_trash_by_special_use_is_emptied_in_one_run() {
    let trash = "namespace inbox {\n  mailbox Abfall {\n    special_use = \\Trash\n    \
                 auto = create\n  }\n}";
    let server = Server::with(ServerOptions { extra: trash.into(), ..ServerOptions::default() });
    let account = Account::on(&server, "Home").channel(BOTH);
    let mut mail = Mail::of(server, vec![account], &[("INBOX", 5)]);
    mail.imap.append_many("Abfall", &messages("Abfall", 120), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    empty(&mail.maildir("Abfall"));
    mail.syncs_in_one_run();
    assert_eq!(mail.there("Abfall"), 0);
    mail.imap.append_many("Abfall", &messages("more", 120), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    mail.delete_there("Abfall", "1:*");
    mail.syncs_in_one_run();
    assert!(mail.maildir("Abfall").is_empty());
}

#[test]
fn g14_moved_on_the_server_is_no_loss() {
    let mut mail = Mail::on(&[("INBOX", 200), ("Sent", 1)], |server| {
        Account::on(server, "Home").patterns("INBOX Sent").channel(BOTH)
    });
    mail.imap.create("Elsewhere");
    mail.imap.select("INBOX");
    mail.imap.raw("UID MOVE 1:100 Sent");
    mail.imap.raw("UID MOVE 101:200 Elsewhere");
    mail.imap.unselect();
    mail.sync(&["Home"]).ok();
    assert_eq!((mail.maildir("INBOX").len(), mail.maildir("Sent").len()), (0, 101));
    mail.is_not_held();
}

/// What Gmail's archive is: the copies were in All Mail all along, far from the newest,
/// and there are many other mailboxes.
fn gmail(port: impl FnOnce(&Server) -> u16) -> Mail {
    let all = "namespace inbox {\n  mailbox \"All Mail\" {\n    special_use = \\All\n    \
               auto = create\n  }\n}";
    let server = Server::with(ServerOptions { extra: all.into(), ..ServerOptions::default() });
    let account = Account::on(&server, "Home").patterns("INBOX Sent").channel(BOTH);
    let account = account.account_line("Timeout 5").port(port(&server));
    let mut mail = Mail::of(server, vec![account], &[("Sent", 3)]);
    let archived = messages("INBOX", 200);
    mail.imap.append_many("All Mail", &archived, &["\\Seen"]);
    mail.imap.append_many("All Mail", &messages("later", 500), &["\\Seen"]);
    mail.imap.append_many("INBOX", &archived, &["\\Seen"]);
    (0..60).for_each(|n| mail.imap.create(&format!("A label {n}")));
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.maildir("INBOX").len(), 200);
    mail
}

#[test]
fn g14_what_was_in_gmails_all_mail_all_along_is_no_loss() {
    let mut mail = gmail(Server::port);
    mail.delete_there("INBOX", "1:200");
    mail.syncs_in_one_run();
    assert_eq!(mail.maildir("INBOX").len(), 0);
    // What has no copy there is lost, whatever else is there.
    mail.imap.append_many("INBOX", &messages("lost", 30), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    mail.delete_there("INBOX", "1:*");
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("INBOX", "all of 30 messages are gone on the server");
}

/// Refused, or not answered, it stays held; asked for once more, it is searched for once
/// more. Refused, the others are synced; not answered, the connection is lost, and what is
/// to become of them is mbsync's.
#[test]
fn g14_a_search_that_a_server_does_not_answer_passes_no_deletion() {
    for late in [false, true] {
        let mut refuser = None;
        let mut mail = gmail(|server| refuser.insert(Refuser::before(server.port())).port());
        let refuser = refuser.unwrap();
        if late {
            refuser.ignore("HEADER Message-ID");
        } else {
            refuser.answer("HEADER Message-ID", "NO [CANNOT] not here");
        }
        mail.delete_there("INBOX", "1:200");
        if !late {
            mail.imap.append("Sent", &message("new", "new there"), &[]);
        }
        let out = mail.sync(&["Home"]).expect_code(1);
        assert!(out.stderr.contains("all of 200 messages are gone on the server"), "{out:?}");
        if !late {
            mail.maildir("Sent").find("new there");
        }
        mail.is_held("INBOX", "all of 200");
        assert_eq!(mail.maildir("INBOX").len(), 200);
        refuser.relent();
        mail.sync(&["-f", "Home"]).ok();
        assert_eq!(mail.maildir("INBOX").len(), 0);
        mail.is_not_held();
    }
}

/// As another client moves mail to another account: until that one is synced here, the
/// copies cannot be seen.
#[test]
fn g14_moved_to_another_account_on_the_server_is_held_until_it_is_seen_there() {
    let server = Server::start();
    let accounts = ["Home", "Work"].map(|name| Account::on(&server, name).channel(BOTH));
    let mut mail = Mail::of(server, accounts.into(), &[("Sent", 3)]);
    let moved = messages("INBOX", 120);
    mail.imap.append_many("INBOX", &moved, &["\\Seen"]);
    mail.sync(&["-a"]).ok();
    mail.server.imap("work").append_many("Archive", &moved, &["\\Seen"]);
    mail.delete_there("INBOX", "1:*");
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("INBOX", "all of 120 messages are gone on the server");
    mail.sync(&["Work"]).ok();
    mail.sync(&["-f", "Home"]).ok();
    assert_eq!(mail.maildir("INBOX").len(), 0);
    mail.is_not_held();
}

/// With mutt itself: copied there and unlinked here when it ends.
#[test]
fn g14_saved_with_mutt_to_any_place_is_no_loss_and_one_run() {
    let server = Server::start();
    let home = Account::on(&server, "Home").patterns("INBOX Archive Trash").channel(BOTH);
    let work = Account::on(&server, "Work").channel(BOTH);
    let mut mail = Mail::of(server, vec![home, work], &[("Archive", 3)]);
    let save = |to: &str| {
        format!("<tag-pattern>~A<enter><tag-prefix><save-message><kill-line>{to}<enter><quit>")
    };
    let (inbox, now) = (mail.maildir("INBOX"), Duration::from_secs(60));
    let today = run(mail.home.command("date").arg("-R"), now).ok().stdout;
    let old = |message: Vec<u8>, at: usize| {
        let date = if at < 190 { "Date: Mon, 23 Nov 2020 12:00:00 +0000" } else { &today };
        let text = String::from_utf8(message).unwrap();
        let head = text.find("Date: ").unwrap();
        let end = head + text[head..].find('\n').unwrap();
        let date = date.trim_end().trim_start_matches("Date: ");
        format!("{}Date: {date}{}", &text[..head], &text[end..]).into_bytes()
    };
    for (keys, left) in [
        (save("+Home/Archive"), 0),
        (save("+Work/Kept"), 0),
        (save("+Home/2026"), 0),
        ("<delete-pattern>~A<enter><quit>".into(), 0),
        ("<delete-pattern>~r>1m<enter><quit>".into(), 10),
    ] {
        let new = messages("INBOX", 200).into_iter().enumerate();
        let new: Vec<Vec<u8>> = new.map(|(at, message)| old(message, at)).collect();
        mail.imap.append_many("INBOX", &new, &["\\Seen"]);
        mail.sync(&["Home"]).ok();
        assert_eq!(inbox.len(), 200, "{keys}");
        mail.home.muttrc("Home", &format!("set beep=no\npush \"{keys}\""));
        let terminal = Terminal::start(&mail.home, &["mutt", "-n", "-F", ".muttrc"]);
        wait_until(Duration::from_secs(60), "mutt has ended", || {
            inbox.len() == left || terminal.screen().contains("Pane is dead")
        });
        wait_until(Duration::from_secs(60), "mutt has ended", || {
            mail.home.count_running("mutt -n") == 0
        });
        mail.syncs_in_one_run();
        assert_eq!((inbox.len(), mail.there("INBOX")), (left, left), "{keys}");
    }
    assert_eq!(mail.maildir("2026").len(), 200);
    assert_eq!((mail.there("Archive"), mail.there("Trash")), (203, 390));
}

#[test]
fn g14_an_old_list_that_is_cleaned_is_not_held() {
    let mut mail = Mail::with(&[("Lists", 150), ("INBOX", 5)]);
    let lists = mail.maildir("Lists");
    lists.list().iter().skip(10).for_each(|entry| lists.delete(entry));
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Lists"), 10);
    mail.is_not_held();
}

#[test]
fn g14_expiry_by_max_messages_is_not_held() {
    let lines = format!("{BOTH}MaxMessages 10\nExpireUnread yes\n");
    let mut mail =
        Mail::on(&[("INBOX", 150)], |server| Account::on(server, "Home").channel(&lines));
    assert_eq!(mail.maildir("INBOX").len(), 10);
    mail.imap.append_many("INBOX", &messages("more", 150), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("INBOX"), 300);
    mail.is_not_held();
}

#[test]
fn g14_hold_off_and_hold_except_ask_no_question() {
    for settings in ["hold = false\n", "hold_except = [\"Lists\"]\n"] {
        let mut mail = Mail::with(&[("Lists", 120), ("INBOX", 5)]);
        mail.home.settings(&format!("{NO_THROTTLE}{settings}"));
        empty(&mail.maildir("Lists"));
        mail.sync(&["Home"]).ok();
        assert_eq!(mail.there("Lists"), 0, "{settings}");
    }
}

/// Killed when it had decided and not yet said so: the next command says it, and the
/// request ends.
#[test]
fn g14_a_hold_survives_a_kill_and_its_request_ends() {
    let mut mail = Mail::with(&[("Lists", 120), ("INBOX", 5)]);
    empty(&mail.maildir("Lists"));
    mail.home.age();
    mail.imap.append("INBOX", &message("new", "new mail"), &[]);
    // mbsync for INBOX hangs: what is held is on record by then.
    let script = "case \"$*\" in *version*) exec mbsync \"$@\" ;; esac\nexec sleep 60";
    let mbsync = mail.home.program("hanging", script);
    mail.home.settings(&format!("{NO_THROTTLE}mbsync = \"{}\"\n", mbsync.display()));
    let mut command = mail.home.cmd(&["Home"]);
    let mut child = super::start(&mut command);
    let file = mail.home.state("Home").join("held.json");
    rig::wait_until(Duration::from_secs(20), "it is on record", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("gone-here"))
    });
    rig::process::kill(child.id(), rig::Signal::KILL);
    child.wait().unwrap();
    mail.home.settings(&format!("{NO_THROTTLE}stall = \"3s\"\n"));
    let out = mail.sync(&["Home"]).expect_code(1);
    assert!(out.stderr.contains("all of 120"), "{out:?}");
    mail.maildir("INBOX").find("new mail");
    assert!(mail.home.requests("Home").is_empty(), "{:?}", mail.home.requests("Home"));
    assert_eq!(mail.there("Lists"), 120);
    // An answer whose command is killed at once is not lost either.
    mail.home.settings(&format!("{NO_THROTTLE}mbsync = \"{}\"\n", mbsync.display()));
    let mut child = super::start(&mut mail.home.cmd(&["--allow-deletions", "Home:Lists"]));
    rig::wait_until(Duration::from_secs(20), "it is on record", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("\"allowed\":true"))
    });
    rig::process::kill(child.id(), rig::Signal::KILL);
    child.wait().unwrap();
    mail.home.settings(&format!("{NO_THROTTLE}stall = \"3s\"\n"));
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Lists"), 0);
    mail.is_not_held();
    drop(mail.server);
}

/// mbsync is made to find the Maildir other than it was judged: the script is run before it.
fn meanwhile(mail: &Mail, script: &str) {
    let script = format!(
        "case \"$*\" in *version*) ;; *) cd {} && {script} ;; esac\nexec mbsync \"$@\"",
        mail.home.path("Mail/Home").display()
    );
    let mbsync = mail.home.program("meanwhile", &script);
    mail.home.settings(&format!("{NO_THROTTLE}mbsync = \"{}\"\n", mbsync.display()));
}

/// Each with mbsync's own ways to delete on a server: expunged, only marked, and with a trash.
#[test]
fn g14_what_is_removed_here_after_it_was_judged_is_not_deleted_on_the_server() {
    for (channel, store) in
        [(BOTH, ""), ("Create Both\nExpunge None\n", ""), (BOTH, "Trash Trash\n")]
    {
        let mut mail = Mail::on(&[("Lists", 200), ("INBOX", 5), ("Trash", 1)], |server| {
            Account::on(server, "Home").channel(channel)
        });
        let file = mail.home.read(".mbsyncrc");
        let (head, tail) = file.rsplit_once("Account Home\n").unwrap();
        mail.home.write(".mbsyncrc", &format!("{head}Account Home\n{store}{tail}"));
        let lists = mail.maildir("Lists");
        lists.delete(&lists.find("body 7 of Lists"));
        mail.imap.append("INBOX", &message("new", "new mail"), &[]);
        meanwhile(&mail, "rm -f Lists/cur/* Lists/new/*");
        let out = mail.sync(&["Home"]).expect_code(1);
        let said = "many messages were removed here meanwhile, which is checked first; the next mutt-sync retries";
        assert_eq!(out.stderr.matches(said).count(), 1, "{channel}{store}{out}");
        assert_eq!(out.stderr.lines().count(), 1, "{channel}{store}{out}");
        let whole = |mail: &mut Mail| {
            let there = mail.imap.fetch_all("Lists");
            there.len() == 200 && !there.iter().any(|each| each.letters().contains('T'))
        };
        assert!(lists.is_empty() && whole(&mut mail), "{channel}{store}");
        assert_eq!(mail.there("Trash"), 1, "{channel}{store}{:?}", mail.imap.fetch_all("Trash"));
        // The others in the same run.
        mail.maildir("INBOX").find("new mail");
        mail.home.settings(NO_THROTTLE);
        assert!(!mail.home.requests("Home").is_empty(), "{channel}{store}");
        let out = mail.sync(&["Home"]).expect_code(1);
        let said = "Home:Lists: held: all of 200 messages are gone here and would be deleted on";
        assert_eq!(out.stderr.matches(said).count(), 1, "{channel}{store}{out}");
        mail.is_held("Lists", "all of 200");
        mail.sync(&["--full", "Home"]).expect_code(0);
        assert!(whole(&mut mail), "{channel}{store}");
        mail.sync(&["--allow-deletions", "Home:Lists"]).ok();
        let left = mail.imap.fetch_all("Lists");
        assert!(left.iter().all(|each| each.letters().contains('T')), "{channel}{store}");
        mail.is_not_held();
    }
}

#[test]
fn g14_two_mailboxes_emptied_after_they_were_judged_are_held() {
    let mut mail = Mail::with(&[("one", 15), ("two", 12), ("INBOX", 50)]);
    for name in ["one", "two"] {
        mail.imap.select(name);
        mail.imap.raw("UID STORE 1 +FLAGS.SILENT (\\Flagged)");
        mail.imap.unselect();
    }
    meanwhile(&mail, "rm -f one/cur/* two/cur/*");
    mail.sync(&["Home"]).expect_code(1);
    assert_eq!((mail.there("one"), mail.there("two")), (15, 12));
    mail.home.settings(NO_THROTTLE);
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("one", "all of 15 messages are gone here");
    mail.is_held("two", "all of 12 messages are gone here");
    assert_eq!((mail.there("one"), mail.there("two")), (15, 12));
}

/// Few are no reason to judge again, and what was only moved is found to be no loss.
#[test]
fn g14_a_few_or_what_is_moved_after_it_was_judged_is_not_held() {
    let mut mail = Mail::with(&[("INBOX", 200), ("Lists", 12), ("Archive", 3)]);
    mail.imap.append_many("Lists", &messages("more", 2), &[]);
    meanwhile(&mail, "rm -f Lists/cur/*");
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Lists"), 2);
    mail.imap.append("INBOX", &message("new", "new mail"), &["\\Seen"]);
    let move_one = "mv $f Archive/cur/$(basename ${f%%,U=*}):2,S";
    meanwhile(&mail, &format!("for f in INBOX/cur/*,U=*; do {move_one}; done"));
    mail.sync(&["Home"]).expect_code(1);
    mail.home.settings(NO_THROTTLE);
    let runs = mail.mbsync.runs().len();
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.mbsync.runs().len() - runs, 1);
    assert_eq!((mail.there("INBOX"), mail.there("Archive")), (1, 203));
    mail.is_not_held();
}

#[test]
fn g14_a_channel_that_cannot_be_narrowed_is_held_whole() {
    let mut mail = Mail::with(&[("Lists", 120), ("INBOX", 5)]);
    mail.maildir("a,b").create().add(&message("comma", "comma"), "S");
    mail.sync(&["Home"]).ok();
    empty(&mail.maildir("Lists"));
    mail.sync(&["--full", "Home"]).expect_code(1);
    assert_eq!(mail.there("Lists"), 120);
    mail.is_held("Lists", "all of 120");
}

/// Where nothing can be judged, the server is asked for what is gone.
#[test]
fn g14_what_cannot_be_judged_is_held_all_the_same() {
    for (channel, store) in [
        ("Create Near\nExpunge Near\nSync Pull\n", ""),
        ("Create Near\nExpunge Near\nSync PullNew PullDelete\n", ""),
        ("Create Near\nSync Pull\n", ""),
        (BOTH, "AltMap yes"),
    ] {
        let mut mail = Mail::on(&[("Archive", 120), ("INBOX", 5)], |server| {
            Account::on(server, "Home").near_line(store).channel(channel)
        });
        let archive = mail.maildir("Archive");
        let whole = || {
            let all = archive.list();
            all.len() == 120 && !all.iter().any(|entry| entry.flags.contains('T'))
        };
        mail.delete_there("Archive", "1:*");
        mail.imap.append_many("Archive", &messages("later", 3), &[]);
        mail.imap.append("INBOX", &message("new", "new mail"), &[]);
        let out = mail.sync(&["Home"]).expect_code(1);
        let said = "Home:Archive: held: all of 120 messages are gone on the server";
        assert_eq!(out.stderr.matches(said).count(), 1, "{channel}{out}");
        mail.maildir("INBOX").find("new mail");
        for args in [&["Home"][..], &["--full", "Home"], &["-f", "Home"], &["-a"]] {
            mail.sync(args);
            assert!(whole(), "{channel}{args:?}");
        }
        assert!(mail.status().contains("Home:Archive: held"), "{}", mail.status());
        mail.sync(&["--allow-deletions", "Home:Archive"]).ok();
        let left = archive.list().iter().filter(|entry| !entry.flags.contains('T')).count();
        assert_eq!(left, 3, "{channel}");
        assert!(!mail.status().contains("held"), "{}", mail.status());
    }
}

/// Without CONDSTORE, of more messages than are compared.
#[test]
fn g14_what_is_too_much_to_compare_is_held_all_the_same() {
    let without = ["CONDSTORE", "QRESYNC", "NOTIFY"].map(String::from).to_vec();
    let server = Server::with(ServerOptions { without, ..ServerOptions::default() });
    let account = Account::on(&server, "Home").channel(BOTH);
    let boxes = [("AA", 10_100), ("AB", 10_100), ("Archive", 120)];
    let mut mail = Mail::of(server, vec![account], &boxes);
    for name in ["AA", "AB"] {
        mail.imap.append(name, &message("new", "new mail"), &[]);
    }
    mail.delete_there("Archive", "1:*");
    let out = mail.sync(&["Home"]).expect_code(1);
    let said = "Home:Archive: held: all of 120 messages are gone on the server";
    assert_eq!(out.stderr.matches(said).count(), 1, "{out}");
    assert_eq!((mail.maildir("Archive").len(), mail.maildir("AB").len()), (120, 10_101));
}

/// One name that mbsync did not write hides nothing.
#[test]
fn g14_an_odd_name_hides_no_loss() {
    let mut mail = Mail::with(&[("Lists", 120), ("INBOX", 5)]);
    empty(&mail.maildir("Lists"));
    mail.home.write("Mail/Home/Lists/cur/odd,U=4294967301:2,S", "Subject: odd\n\nodd\n");
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Lists", "all of 120");
    assert_eq!(mail.there("Lists"), 120);
}

/// As a channel for the mailboxes that matter beside one for all.
#[test]
fn g14_a_mailbox_in_two_channels_is_counted_once() {
    let mut mail = Mail::with(&[("INBOX", 15), ("Lists", 120), ("Archive", 3)]);
    let quick = format!(
        "Channel Quick\nFar :Home-far:\nNear :Home-near:\nPatterns INBOX Lists\nSyncState *\n{BOTH}\n"
    );
    mail.home.write(".mbsyncrc", &format!("{}{quick}", mail.home.read(".mbsyncrc")));
    mail.sync(&["-a"]).ok();
    empty(&mail.maildir("INBOX"));
    mail.sync(&["-a"]).ok();
    assert_eq!(mail.there("INBOX"), 0);
    // What is held is held in both, and what was moved is no loss of either.
    let (lists, archive) = (mail.maildir("Lists"), mail.maildir("Archive"));
    let all = lists.list();
    all[..60].iter().for_each(|entry| drop(lists.move_to(entry, &archive)));
    all[60..].iter().for_each(|entry| lists.delete(entry));
    let out = mail.sync(&["-a"]).ok();
    assert_eq!((mail.there("Lists"), mail.there("Archive")), (0, 63), "{out}");
    mail.imap.append_many("Lists", &messages("more", 120), &["\\Seen"]);
    mail.sync(&["-a"]).ok();
    empty(&lists);
    let out = mail.sync(&["-a"]).expect_code(1);
    for name in ["Home:Lists", "Quick:Lists"] {
        assert!(out.stderr.contains(&format!("{name}: held: all of 120")), "{out}");
    }
    mail.sync(&["--full", "-a"]);
    assert_eq!(mail.there("Lists"), 120);
    mail.sync(&["--allow-deletions", "Home:Lists"]).ok();
    mail.sync(&["Quick:Lists"]).ok();
    assert_eq!(mail.there("Lists"), 0);
    assert!(!mail.status().contains("held"), "{}", mail.status());
}

/// To another disk, with everything: what is deleted in the copy is deleted on the server.
#[test]
fn g14_deletions_in_a_maildir_that_was_copied_are_carried() {
    for line in ["", "AltMap yes"] {
        let mut mail = Mail::on(&[("Archive", 120), ("INBOX", 5)], |server| {
            let lines = format!("{BOTH}SyncState ~/state-");
            Account::on(server, "Home").near_line(line).channel(&lines)
        });
        let copied = |mail: &Mail| {
            let (all, copy) = (mail.home.path("Mail/Home"), mail.home.path("Mail/copy"));
            run(mail.home.command("cp").arg("-a").arg(&all).arg(&copy), Duration::from_secs(9))
                .ok();
            copy
        };
        let put_back = |mail: &Mail, copy| {
            fs::remove_dir_all(mail.home.path("Mail/Home")).unwrap();
            fs::rename(copy, mail.home.path("Mail/Home")).unwrap();
        };
        let archive = mail.maildir("Archive");
        let copy = copied(&mail);
        put_back(&mail, copy);
        archive.delete(&archive.list()[3]);
        // mbsync's database alone knows which one it was.
        if line.is_empty() {
            mail.sync(&["Home"]).ok();
            assert_eq!(mail.there("Archive"), 119);
        } else {
            mail.sync(&["Home"]).expect_code(1);
            mail.sync(&["--resync", "Home:Archive"]).ok();
        }
        // Many, or such as came after the copy was made, are not.
        let copy = copied(&mail);
        mail.imap.append_many("Archive", &messages("later", 2), &[]);
        mail.sync(&["Home"]).ok();
        let count = archive.len();
        put_back(&mail, copy);
        let out = mail.sync(&["Home"]).expect_code(1);
        assert!(
            out.stderr.contains("is not the one of the last run and lacks 2 messages"),
            "{out}"
        );
        assert_eq!(mail.there("Archive"), count, "{line}");
        if line.is_empty() {
            mail.sync(&["--resync", "Home:Archive"]).ok();
            let copy = copied(&mail);
            put_back(&mail, copy);
            archive.list()[..12].iter().for_each(|entry| archive.delete(entry));
            let out = mail.sync(&["Home"]).expect_code(1);
            assert!(out.stderr.contains("lacks 12 messages"), "{out}");
        }
    }
}

/// The second channel of a name is run with all others, and by no name.
#[test]
fn g14_a_channel_with_the_name_of_another_is_held_with_all() {
    for here in [true, false] {
        let mut mail = Mail::on(&[("Archive", 120), ("INBOX", 5)], |server| {
            Account::on(server, "Home").patterns("INBOX").channel(BOTH)
        });
        let second = format!(
            "Channel Home\nFar :Home-far:\nNear :Home-near:\nPatterns Archive\nSyncState *\n{BOTH}\n"
        );
        mail.home.write(".mbsyncrc", &format!("{}{second}", mail.home.read(".mbsyncrc")));
        mail.sync(&["--full", "-a"]).ok();
        assert_eq!(mail.maildir("Archive").len(), 120);
        if here {
            empty(&mail.maildir("Archive"));
        } else {
            mail.delete_there("Archive", "1:*");
        }
        mail.imap.append("INBOX", &message("new", "new mail"), &[]);
        for said in [1, 0] {
            let out = mail.sync(&["--full", "-a"]).ok();
            let counts = (mail.maildir("Archive").len(), mail.there("Archive"));
            assert_eq!(counts, if here { (0, 120) } else { (120, 0) }, "{out}");
            let lines = out.stderr.lines().filter(|line| {
                line.contains("):Archive: held: all of 120 messages are gone")
                    && line.contains("rename one")
            });
            assert_eq!(lines.count(), said, "{out}");
        }
        mail.maildir("INBOX").find("new mail");
        // With a name of its own it can be answered.
        let file = mail.home.read(".mbsyncrc");
        let at = file.rfind("Channel Home\n").unwrap();
        let (head, tail) = file.split_at(at);
        mail.home
            .write(".mbsyncrc", &format!("{head}Channel Old{}", &tail["Channel Home".len()..]));
        mail.sync(&["Old"]).expect_code(1);
        mail.sync(&["--allow-deletions", "Old:Archive"]).ok();
        assert_eq!((mail.maildir("Archive").len(), mail.there("Archive")), (0, 0));
    }
}

/// On purpose, then: it is on neither side, and nothing waits for it.
#[test]
fn a_mailbox_that_was_removed_on_both_sides_is_forgotten() {
    for state in ["SyncState *", "SyncState ~/state-"] {
        for args in [&["--full", "Home"][..], &["Home:Lists"], &["--resync", "Home:Lists"]] {
            let mut mail = Mail::on(&[("Lists", 120), ("INBOX", 5)], |server| {
                Account::on(server, "Home").channel(&format!("{BOTH}{state}\n"))
            });
            fs::remove_dir_all(mail.home.path("Mail/Home/Lists")).unwrap();
            mail.sync(&["--full", "Home"]).expect_code(1);
            mail.is_held("Lists", "its Maildir is gone");
            mail.imap.raw("DELETE Lists");
            // Named, it is missed.
            mail.sync(args).expect_code(i32::from(args.contains(&"Home:Lists")));
            mail.is_not_held();
            mail.sync(&["--full", "Home"]).ok();
            mail.is_not_held();
            assert!(mail.home.requests("Home").is_empty(), "{state} {args:?}");
            assert!(!mail.imap.list().contains(&"Lists".to_owned()), "{state} {args:?}");
        }
    }
}

/// A scanner that numbers no message: a copy of one is not a copy of all.
#[test]
fn g14_messages_with_one_message_id_are_not_one() {
    let mut mail = Mail::with(&[("INBOX", 5), ("Archive", 3)]);
    let scan = |n: usize| {
        let date = format!("Mon, 23 Nov 2020 12:{:02}:{:02} +0000", n / 60, n % 60);
        let head = format!("From: scanner@example.org\nMessage-ID: <scan@device>\nDate: {date}\n");
        format!("{head}Subject: Scan\n\nbody {n}\n").replace('\n', "\r\n").into_bytes()
    };
    let all: Vec<Vec<u8>> = (0..120).map(scan).collect();
    mail.imap.create("Scans");
    mail.imap.append_many("Scans", &all, &["\\Seen"]);
    mail.imap.append("Archive", &all[7], &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    empty(&mail.maildir("Scans"));
    mail.imap.append_many("Archive", &all, &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    assert_eq!(mail.there("Scans"), 0);
    mail.imap.append_many("Scans", &(120..240).map(scan).collect::<Vec<_>>(), &["\\Seen"]);
    mail.sync(&["Home"]).ok();
    empty(&mail.maildir("Scans"));
    mail.sync(&["Home"]).expect_code(1);
    mail.is_held("Scans", "all of 120 messages are gone here");
    assert_eq!(mail.there("Scans"), 120);
}
