//! What people do with mail on either side, one thing after the other, and what each of it
//! costs. For any server.

use crate::support::{QUICK, SOON, Waiter, at_rest, ms};
use rig::{Account, Home, Imap, Mbsync, compare_boxes, mbsync_version, message, wait_until};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A space, a letter outside ASCII (as IMAP spells it), and two that are below another.
pub const BOXES: [&str; 5] = ["Big list", "Entw&APw-rfe", "Lists/rust", "Lists/mail", "Sent"];

/// The one outside ASCII, as mbsync spells it on disk.
fn umlaut() -> &'static str {
    if mbsync_version() >= (1, 5) { "Entwürfe" } else { "Entw&APw-rfe" }
}

/// One thing that was done.
#[derive(Debug)]
pub struct Event {
    pub what: &'static str,
    /// From its end to both sides being equal.
    pub took: Duration,
    /// Runs of mbsync by then.
    pub runs: usize,
}

/// A user and a waiter, at rest.
pub struct Day {
    // First, so that its last words are still there when a test has failed.
    pub waiter: Waiter,
    pub home: Home,
    pub mbsync: Mbsync,
    pub imap: Imap,
    pub events: Vec<Event>,
    /// What stands before the names of mailboxes on the server.
    prefix: &'static str,
}

impl Day {
    /// `account` is called Home, and `imap` has made [`BOXES`].
    pub fn begin(account: Account, imap: Imap, prefix: &'static str, settings: &str) -> Day {
        let home = Home::with(vec![account]);
        home.settings(&format!("{QUICK}{settings}"));
        let mbsync = home.wrap_mbsync();
        let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
        waiter.wait_said("connected by", SOON);
        at_rest(&home, &waiter, &mbsync);
        Day { waiter, home, mbsync, imap, events: Vec::new(), prefix }
    }

    /// Makes [`BOXES`].
    pub fn make_boxes(imap: &mut Imap, prefix: &str) {
        for name in BOXES {
            let far = format!("{prefix}{}", name.replace('/', &imap.delimiter().to_string()));
            imap.create(&far);
        }
    }

    /// The name of a mailbox on the server.
    fn far(&self, name: &str) -> String {
        if name == "INBOX" {
            return name.to_owned();
        }
        let name = if name == umlaut() { "Entw&APw-rfe" } else { name };
        format!("{}{}", self.prefix, name.replace('/', &self.imap.delimiter().to_string()))
    }

    /// Does it, waits until both sides of these mailboxes are equal, and counts the runs.
    #[track_caller]
    fn event(&mut self, what: &'static str, boxes: &[&str], act: impl FnOnce(&mut Day)) {
        let before = self.mbsync.runs().len();
        act(self);
        let done = Instant::now();
        let Day { mbsync, imap, home, .. } = self;
        wait_until(SOON, what, || mbsync.runs().len() > before);
        wait_until(SOON, what, || {
            mbsync.wait_idle(SOON);
            compare_boxes(imap, &home.mail("Home"), boxes).is_ok()
        });
        let took = done.elapsed();
        self.events.push(Event { what, took, runs: mbsync.runs().len() - before });
    }

    /// Past what may be an echo of the last run.
    fn settle(&self) {
        if rig::soak() {
            at_rest(&self.home, &self.waiter, &self.mbsync);
        } else {
            sleep(ms(300));
        }
    }

    #[track_caller]
    fn deliver(&mut self, what: &'static str, name: &str, text: &str) {
        self.settle();
        let far = self.far(name);
        self.event(what, &[name], |day| {
            day.imap.append(&far, &message(text, text), &[]);
        });
    }

    /// In a mailbox on the server, with the UID of the message that has this text.
    #[track_caller]
    fn there(
        &mut self,
        what: &'static str,
        (name, text): (&str, &str),
        boxes: &[&str],
        act: impl FnOnce(&mut Imap, u32),
    ) {
        self.settle();
        let far = self.far(name);
        let uid = self.imap.find(&far, text).uid;
        self.imap.select(&far);
        self.event(what, boxes, |day| {
            act(&mut day.imap, uid);
            day.imap.unselect();
        });
    }

    #[track_caller]
    fn flag_here(&mut self, what: &'static str, (name, text): (&str, &str), flags: &str) {
        self.settle();
        let maildir = self.home.maildir("Home", name);
        self.event(what, &[name], |_| drop(maildir.set_flags(&maildir.find(text), flags)));
    }

    /// All that people do with messages: 21 events.
    pub fn messages(&mut self) {
        for (what, name) in [
            ("delivered", "INBOX"),
            ("delivered again", "INBOX"),
            ("delivered to a name with a space", "Big list"),
            ("delivered to a name outside ASCII", umlaut()),
            ("delivered below another mailbox", "Lists/rust"),
        ] {
            self.deliver(what, name, what);
        }
        let flag = |imap: &mut Imap, uid| imap.add_flags(uid, &["\\Flagged"]);
        self.there("flagged there", ("INBOX", "delivered again"), &["INBOX"], flag);
        let (umlaut, outside) = (umlaut(), "delivered to a name outside ASCII");
        self.there("flagged there, outside ASCII", (umlaut, outside), &[umlaut], flag);
        self.there("expunged there", ("INBOX", "delivered again"), &["INBOX"], Imap::expunge);
        let sent = self.far("Sent");
        self.deliver("delivered once more", "INBOX", "to be moved");
        let moved = |imap: &mut Imap, uid| imap.move_to(uid, &sent);
        self.there("moved there", ("INBOX", "to be moved"), &["INBOX", "Sent"], moved);

        self.deliver("delivered to be read", "INBOX", "to be read");
        self.flag_here("read here", ("INBOX", "to be read"), "S");
        self.flag_here("flagged here", ("INBOX", "to be read"), "FS");
        let space = ("Big list", "delivered to a name with a space");
        self.flag_here("read here, with a space", space, "S");
        self.flag_here("read here, outside ASCII", (umlaut, outside), "FS");
        self.settle();
        let inbox = self.home.maildir("Home", "INBOX");
        self.event("deleted here", &["INBOX"], |_| inbox.delete(&inbox.find("to be read")));
        for (what, name) in [
            ("added here", "Sent"),
            ("added here, outside ASCII", umlaut),
            ("added here, below another mailbox", "Lists/mail"),
        ] {
            self.settle();
            let maildir = self.home.maildir("Home", name);
            self.event(what, &[name], |_| drop(maildir.add(&message(what, what), "S")));
        }
        self.deliver("delivered to be moved here", "INBOX", "moved here");
        self.settle();
        let list = self.home.maildir("Home", "Lists/rust");
        self.event("moved here", &["INBOX", "Lists/rust"], |_| {
            inbox.move_to(&inbox.find("moved here"), &list);
        });
    }

    /// One message to each of five mailboxes at once.
    pub fn burst(&mut self) {
        at_rest(&self.home, &self.waiter, &self.mbsync);
        let names = ["INBOX", "Big list", umlaut(), "Lists/rust", "Sent"];
        let fars = names.map(|name| self.far(name));
        self.event("delivered to five at once", &names, |day| {
            for far in &fars {
                day.imap.append(far, &message("at once", far), &[]);
            }
        });
    }

    /// Mailboxes that come and go on the server.
    pub fn mailboxes(&mut self) {
        at_rest(&self.home, &self.waiter, &self.mbsync);
        let [made, renamed] = ["Lists/new", "Lists/other"].map(|name| self.far(name));
        self.event("made there", &["Lists/new"], |day| {
            day.imap.create(&made);
            day.imap.append(&made, &message("in a new one", "in a new one"), &[]);
        });
        at_rest(&self.home, &self.waiter, &self.mbsync);
        self.event("renamed there", &["Lists/other"], |day| {
            day.imap.raw(&format!("RENAME \"{made}\" \"{renamed}\""));
        });
        at_rest(&self.home, &self.waiter, &self.mbsync);
        self.imap.delete(&renamed);
        at_rest(&self.home, &self.waiter, &self.mbsync);
        self.deliver("delivered after all that", "INBOX", "after all that");
    }

    /// Each event had a run over the waiter's connection.
    #[track_caller]
    pub fn all_lent(&self) {
        let lent = self.waiter.count(", over the connection that is open");
        assert!(lent >= self.events.len(), "{lent} lent runs");
    }

    /// Each event was one run, or so many at most; two, where a busy machine can be slower
    /// than what belongs together is waited for.
    #[track_caller]
    pub fn end(self, usual: usize) {
        for event in &self.events {
            println!("{:>6} ms, {} runs: {}", event.took.as_millis(), event.runs, event.what);
        }
        at_rest(&self.home, &self.waiter, &self.mbsync);
        let several = [
            "made there",
            "renamed there",
            "moved there",
            "moved here",
            "delivered to five at once",
        ];
        let most = |what| if several.contains(&what) { usual.max(2) } else { usual };
        let often: Vec<&Event> =
            self.events.iter().filter(|event| event.runs > most(event.what)).collect();
        assert!(often.is_empty(), "more runs than changes: {often:#?}");
    }
}
