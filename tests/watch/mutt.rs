//! A real mutt beside the waiter: one run for each thing that is done in it.

use crate::support::{SOON, Waiter, at_rest, one_run};
use rig::{Home, Mbsync, Server, Terminal, compare, message};

struct Desk {
    mbsync: Mbsync,
    waiter: Waiter,
    screen: Terminal,
    runs: usize,
}

impl Desk {
    #[track_caller]
    fn one(&mut self, names: &[&str]) {
        let found = one_run(&self.mbsync, self.runs);
        assert_eq!(found, names, "{}\n{}", self.waiter.said(), self.screen.screen());
        self.runs += 1;
    }
}

#[test]
fn g5_what_mutt_does_is_one_run_each_of_just_those_mailboxes() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("throttle = \"0s\"\n");
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    for subject in ["alpha", "bravo", "charlie", "delta"] {
        imap.append("INBOX", &message(subject, &format!("text of {subject}")), &[]);
    }
    let waiter = Waiter::settled(&home, &mbsync);
    home.muttrc(
        "Home",
        "unset mark_old\nset index_format=\"%C %Z %s\"\nset fast_reply autoedit\nset wrap_search abort_unmodified=no\n",
    );
    let screen = Terminal::start(&home, &["mutt"]);
    screen.wait_for("delta", SOON);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    let mut desk = Desk { mbsync, waiter, screen, runs };
    let press = |desk: &Desk, keys: &[&str]| desk.screen.keys(keys);

    let find = |desk: &Desk, subject: &str| {
        desk.screen.keys(&["=", "/"]);
        desk.screen.text(&format!("~s {subject}"));
        desk.screen.keys(&["Enter"]);
    };

    // New mail shows by itself.
    imap.append("INBOX", &message("echo", "text of echo"), &[]);
    desk.one(&["Home:INBOX"]);
    desk.screen.wait_for("echo", SOON);

    // Read, and written back.
    find(&desk, "alpha");
    press(&desk, &["Enter"]);
    desk.screen.wait_for("text of alpha", SOON);
    press(&desk, &["i", "$"]);
    desk.one(&["Home:INBOX"]);
    assert_eq!(imap.find("INBOX", "text of alpha").letters(), "S");

    // Flagged.
    find(&desk, "bravo");
    press(&desk, &["F", "$"]);
    desk.one(&["Home:INBOX"]);
    assert_eq!(imap.find("INBOX", "text of bravo").letters(), "F");

    // Deleted, which with `trash` is a copy to Trash.
    find(&desk, "charlie");
    press(&desk, &["d", "$"]);
    desk.one(&["Home:INBOX,Trash"]);

    // Saved to another folder; written back with the keys that follow.
    find(&desk, "alpha");
    press(&desk, &["s", "C-u"]);
    desk.screen.text("=Home/Archive");
    press(&desk, &["Enter", "$"]);
    desk.one(&["Home:Archive,INBOX"]);

    // Sent, with its copy.
    press(&desk, &["m"]);
    desk.screen.text("you@example.net\rsent subject\r");
    desk.screen.wait_for("y:Send", SOON);
    press(&desk, &["y"]);
    desk.one(&["Home:Sent"]);

    // Postponed.
    press(&desk, &["m"]);
    desk.screen.text("you@example.net\rpostponed subject\r");
    desk.screen.wait_for("y:Send", SOON);
    press(&desk, &["P"]);
    desk.one(&["Home:Drafts"]);

    // Read by somebody else: the flag shows without a key.
    let uid = imap.find("INBOX", "text of delta").uid;
    imap.select("INBOX");
    imap.add_flags(uid, &["\\Flagged"]);
    imap.unselect();
    desk.one(&["Home:INBOX"]);
    desk.screen.wait("delta with a flag", SOON, |screen| {
        screen.lines().any(|line| line.contains("delta") && line.contains('!'))
    });
    press(&desk, &["q"]);
    desk.screen.wait_end(SOON);
    at_rest(&home, &desk.waiter, &desk.mbsync);
    assert_eq!(desk.mbsync.runs().len(), desk.runs, "{}", desk.waiter.said());
    compare(&mut imap, &home.mail("Home")).unwrap();
}
