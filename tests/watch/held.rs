//! What would delete much, under a waiter: held without a run until somebody answers.

use crate::support::{QUICK, SOON, Waiter, at_rest, code, ms, secs};
use rig::{Account, Delay, Home, Imap, Mbsync, Server, message, wait_until};
use std::thread::sleep;

struct Mail {
    server: Server,
    home: Home,
    mbsync: Mbsync,
    imap: Imap,
}

/// INBOX with some messages, and a list with so many, synced.
fn with(count: usize) -> Mail {
    with_patterns(count, "*")
}

fn with_patterns(count: usize, patterns: &str) -> Mail {
    let server = Server::start();
    let account = Account::on(&server, "Home").patterns(patterns);
    let account = account.channel("Create Both\nExpunge Both\n");
    of(server, account, count)
}

fn of(server: Server, account: Account, count: usize) -> Mail {
    let home = Home::with(vec![account]);
    home.settings(QUICK);
    let mut imap = server.imap("home");
    imap.create("Lists");
    let all: Vec<Vec<u8>> =
        (0..count).map(|n| message(&format!("m{n}"), &format!("body {n}"))).collect();
    imap.append_many("Lists", &all, &["\\Seen"]);
    imap.append("INBOX", &message("one", "first"), &[]);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    Mail { server, home, mbsync, imap }
}

impl Mail {
    fn empty_here(&self) {
        let lists = self.home.maildir("Home", "Lists");
        lists.list().iter().for_each(|entry| lists.delete(entry));
    }

    fn delete_there(&mut self, uids: &str) {
        self.imap.select("Lists");
        self.imap.raw(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)"));
        self.imap.raw("EXPUNGE");
        self.imap.unselect();
    }

    /// The deletions that are held are made when they are allowed, and nothing is held then.
    #[track_caller]
    fn is_emptied_there(&mut self, waiter: &Waiter) {
        self.home.mutt_sync(&["--allow-deletions", "Home:Lists"]).ok();
        assert_eq!(self.imap.status("Lists").messages, 0, "{}", waiter.said());
        at_rest(&self.home, waiter, &self.mbsync);
        let status = self.home.mutt_sync(&["--status", "Home"]).ok().stdout;
        assert!(!status.contains("held"), "{status}");
    }

    /// Others are synced, both ways; what is held costs no run, and requests end.
    #[track_caller]
    fn goes_on(&mut self, waiter: &Waiter) {
        let inbox = self.home.maildir("Home", "INBOX");
        self.imap.append("INBOX", &message("two", "second"), &[]);
        wait_until(SOON, "new mail", || inbox.len() == 2);
        inbox.add(&message("three", "third"), "S");
        wait_until(SOON, "mail is pushed", || self.imap.status("INBOX").messages == 3);
        at_rest(&self.home, waiter, &self.mbsync);
        let runs = self.mbsync.runs().len();
        for args in [&["-b", "Home"][..], &["Home"], &["Home:INBOX"]] {
            self.home.mutt_sync(args).ok();
            wait_until(SOON, "the request ends", || self.home.requests("Home").is_empty());
        }
        at_rest(&self.home, waiter, &self.mbsync);
        assert_eq!(self.mbsync.runs().len(), runs, "{}", waiter.said());
        assert_eq!(waiter.count(": held: "), 1, "{}", waiter.said());
    }
}

#[test]
fn g14_the_waiter_holds_what_was_removed_here_until_somebody_answers() {
    let mut mail = with(120);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    mail.empty_here();
    waiter.wait_said("Home:Lists: held: all of 120 messages are gone here", SOON);
    // Said by the waiter, and once by the first command.
    mail.home.mutt_sync(&["Home"]).expect_code(1);
    mail.goes_on(&waiter);
    assert_eq!(mail.imap.status("Lists").messages, 120);
    mail.is_emptied_there(&waiter);
}

#[test]
fn g14_the_waiter_holds_what_was_removed_there() {
    let mut mail = with(200);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    mail.delete_there("1:180");
    waiter.wait_said("Home:Lists: held: 180 of 200 messages are gone on the server", SOON);
    mail.home.mutt_sync(&["Home"]).expect_code(1);
    mail.goes_on(&waiter);
    let lists = mail.home.maildir("Home", "Lists");
    assert_eq!(lists.len(), 200);
    // Of everything, too.
    mail.home.mutt_sync(&["--full", "Home"]).ok();
    assert_eq!(lists.len(), 200);
    mail.home.mutt_sync(&["--allow-deletions", "Home:Lists"]).ok();
    assert_eq!(lists.len(), 20, "{}", waiter.said());
    at_rest(&mail.home, &waiter, &mail.mbsync);
}

/// Removed when the run was decided on, and mbsync had not yet read the Maildir.
#[test]
fn g14_the_waiter_deletes_nothing_that_is_removed_after_it_was_judged() {
    let mut mail = with(120);
    let lists = mail.home.maildir("Home", "Lists");
    let script = format!(
        "case \"$*\" in *version*) ;; *) test -e ~/done || rm -f {}/cur/*; > ~/done ;; esac\n\
         exec mbsync \"$@\"",
        mail.home.path("Mail/Home/Lists").display()
    );
    let program = mail.home.program("meanwhile", &script);
    mail.home.settings(&format!("{QUICK}mbsync = \"{}\"\n", program.display()));
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    lists.delete(&lists.list()[0]);
    waiter.wait_said("Home:Lists: held: all of 120 messages are gone here", SOON);
    mail.home.mutt_sync(&["Home"]).expect_code(1);
    mail.goes_on(&waiter);
    let there = mail.imap.fetch_all("Lists");
    assert!(there.len() == 120 && there.iter().all(|each| !each.letters().contains('T')));
    mail.is_emptied_there(&waiter);
}

#[test]
fn g14_archived_under_the_waiter_is_one_run() {
    let mut mail = with(120);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    let (lists, archive) = (mail.home.maildir("Home", "Lists"), mail.home.maildir("Home", "Old"));
    let archive = archive.create();
    lists.list().iter().for_each(|entry| drop(lists.move_to(entry, &archive)));
    wait_until(SOON, "all is archived", || {
        mail.imap.list().contains(&"Old".to_owned())
            && mail.imap.status("Old").messages == 120
            && mail.imap.status("Lists").messages == 0
    });
    assert_eq!(waiter.count("held"), 0, "{}", waiter.said());
}

/// The copies were in a mailbox that nothing syncs all along, far from the newest.
#[test]
fn g14_archived_as_gmail_does_under_the_waiter_is_not_held() {
    let mut mail = with_patterns(120, "INBOX Lists");
    let all: Vec<Vec<u8>> =
        mail.imap.fetch_all("Lists").into_iter().map(|each| each.bytes).collect();
    let later: Vec<Vec<u8>> = (0..250).map(|n| message(&format!("l{n}"), "later")).collect();
    mail.imap.create("All Mail");
    mail.imap.append_many("All Mail", &[all, later].concat(), &["\\Seen"]);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    let runs = mail.mbsync.runs().len();
    mail.delete_there("1:*");
    let lists = mail.home.maildir("Home", "Lists");
    wait_until(SOON, "all is archived", || lists.is_empty());
    at_rest(&mail.home, &waiter, &mail.mbsync);
    assert_eq!(waiter.count("held"), 0, "{}", waiter.said());
    // It may see them marked, and then gone.
    assert!((1..=2).contains(&(mail.mbsync.runs().len() - runs)), "{}", waiter.said());
}

/// As when the disk with the mail is unmounted: nothing is deleted there or downloaded here.
#[test]
fn g14_a_store_that_goes_away_under_the_waiter_is_left_alone() {
    let mut mail = with(30);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    let (store, aside) = (mail.home.path("Mail/Home"), mail.home.path("aside"));
    std::fs::rename(&store, &aside).unwrap();
    std::fs::create_dir(&store).unwrap();
    mail.imap.append("INBOX", &message("two", "second"), &[]);
    waiter.wait_said("Home:INBOX: held: its Maildir is gone", SOON);
    mail.home.mutt_sync(&["Home"]).expect_code(1);
    mail.home.mutt_sync(&["--full", "Home"]).expect_code(0);
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0, "{}", waiter.said());
    let there = ["INBOX", "Lists"].map(|name| mail.imap.status(name).messages);
    assert_eq!(there, [2, 30]);
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(&aside, &store).unwrap();
    mail.home.mutt_sync(&["Home"]).ok();
    assert_eq!(mail.home.maildir("Home", "INBOX").len(), 2, "{}", waiter.said());
    let status = mail.home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(!status.contains("held"), "{status}");
}

/// `while mutt-sync --wait` goes on, and is no loop of runs.
#[test]
fn g14_wait_ends_well_and_the_next_one_waits() {
    let mail = with(120);
    mail.empty_here();
    let mut first = Waiter::start(&mail.home, &["--wait", "Home"]);
    assert_eq!(code(first.end(SOON)), 0, "{}", first.said());
    assert_eq!(first.count("held: all of 120"), 1, "{}", first.said());
    let runs = mail.mbsync.runs().len();
    let next = Waiter::settled(&mail.home, &mail.mbsync);
    assert_eq!(next.count("held:"), 0, "{}", next.said());
    assert_eq!(mail.mbsync.runs().len(), runs);
    assert_eq!(
        mail.home.mutt_sync(&["Home:Lists"]).expect_code(1).stderr.matches("held").count(),
        1
    );
    drop(next);
}

/// It comes back empty after an outage, and a request is there before the waiter is
/// connected again.
#[test]
fn g14_a_server_that_comes_back_empty_deletes_nothing_here() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let account = Account::on(&server, "Home").port(way.port());
    let mut mail = of(server, account.channel("Create Both\nExpunge Both\n"), 120);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    way.refuse(true);
    way.cut();
    waiter.wait_said("connection lost", SOON);
    mail.delete_there("1:*");
    // Long enough that it has stopped to try each second.
    sleep(secs(6));
    let runs = mail.mbsync.runs().len();
    way.refuse(false);
    let out = mail.home.mutt_sync(&["-f", "Home"]).expect_code(1);
    assert!(out.stderr.contains("held: all of 120 messages are gone on the server"), "{out}");
    mail.home.maildir("Home", "INBOX").add(&message("two", "second"), "S");
    wait_until(SOON, "mail is pushed", || mail.imap.status("INBOX").messages == 2);
    at_rest(&mail.home, &waiter, &mail.mbsync);
    assert_eq!(mail.home.maildir("Home", "Lists").len(), 120, "{}", waiter.said());
    assert_eq!(mail.mbsync.runs().len() - runs, 1, "{}", waiter.said());
}

/// A snapshot of the server was restored: mbsync would take its new UIDVALIDITY.
#[test]
fn g14_the_waiter_holds_what_is_gone_with_the_uid_validity() {
    let server = Server::start();
    let way = Delay::to(server.port(), ms(0));
    let account = Account::on(&server, "Home").port(way.port());
    let mut mail = of(server, account.channel("Create Both\nExpunge Both\n"), 200);
    let waiter = Waiter::settled(&mail.home, &mail.mbsync);
    way.refuse(true);
    way.cut();
    waiter.wait_said("connection lost", SOON);
    mail.delete_there("1:170");
    mail.server.set_uid_validity("home", "Lists", 17);
    way.refuse(false);
    let out = mail.home.mutt_sync(&["-f", "Home"]).expect_code(1);
    assert!(out.stderr.contains("held: 170 of 200 messages are gone on the server"), "{out}");
    mail.goes_on(&waiter);
    assert_eq!(mail.home.maildir("Home", "Lists").len(), 200, "{}", waiter.said());
}

/// A channel of which it can give no verdict, and one that it does not watch.
#[test]
fn g14_the_waiter_holds_what_it_cannot_judge() {
    for (channel, settings) in [
        ("Create Near\nExpunge Near\nSync Pull\n", ""),
        ("Create Both\nExpunge Both\n", "[account.Home]\nboxes = [\"INBOX\"]\n"),
    ] {
        let server = Server::start();
        let account = Account::on(&server, "Home").channel(channel);
        let mut mail = of(server, account, 120);
        mail.home.settings(&format!("{QUICK}{settings}"));
        let waiter = Waiter::settled(&mail.home, &mail.mbsync);
        mail.delete_there("1:*");
        mail.home.mutt_sync(&["Home"]);
        mail.imap.append("INBOX", &message("two", "second"), &[]);
        mail.home.mutt_sync(&["--full", "Home"]);
        let inbox = mail.home.maildir("Home", "INBOX");
        wait_until(SOON, "new mail", || inbox.len() == 2);
        at_rest(&mail.home, &waiter, &mail.mbsync);
        let status = mail.home.mutt_sync(&["--status", "Home"]).stdout;
        assert!(status.contains("Home:Lists: held: all of 120"), "{channel}{settings}{status}");
        assert_eq!(mail.home.maildir("Home", "Lists").len(), 120, "{channel}{settings}");
    }
}
