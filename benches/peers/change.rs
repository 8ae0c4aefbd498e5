//! Changes on either side, and when they are seen on the other. The same for
//! all: a list made from a seed, over messages that all have.

use crate::contender::Contender;
use rig::{Entry, Imap, Maildir, Seeded, Server, message, now_ns};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Messages that every mailbox has at the beginning.
pub const SEEDS: usize = 64;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A message is delivered, or saved by mutt.
    Add,
    /// A message gets the flag \Flagged.
    Flag,
    /// A message is read.
    Read,
    /// A message is removed.
    Remove,
}

/// Where it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Local,
}

/// A change to come.
#[derive(Clone, Debug)]
pub struct Change {
    pub side: Side,
    pub act: Act,
    pub mailbox: String,
    /// Which of the messages that are there.
    at: usize,
    /// Quiet before it, where changes are made one after the other.
    pub pause: Duration,
    /// For what has to be hit while it lasts: how far into it, of 1.
    pub into: f64,
}

/// So many on each side, in turns, in random mailboxes, each after a pause. No
/// message is changed twice; those before `first` are left alone.
pub fn plan(seed: u64, each: usize, boxes: &[&str], acts: &[Act], first: usize) -> Vec<Change> {
    let mut rng = Seeded::from_env_or(seed);
    let mut used = vec![first; boxes.len()];
    let change = |n: usize| {
        let mut mailbox = rng.usize(..boxes.len());
        while used[mailbox] == SEEDS {
            mailbox = (mailbox + 1) % boxes.len();
        }
        used[mailbox] += 1;
        Change {
            side: if n % 2 == 0 { Side::Server } else { Side::Local },
            act: acts[(n / 2) % acts.len()],
            mailbox: boxes[mailbox].to_owned(),
            at: used[mailbox] - 1,
            pause: Duration::from_millis(rng.u64(3000..6000)),
            into: rng.f64(),
        }
    };
    assert!(each * 2 <= boxes.len() * (SEEDS - first), "more changes than messages");
    (0..each * 2).map(change).collect()
}

/// Changes of one kind at set times, on messages from `first` on: one each `every`.
pub fn steady(
    side: Side,
    act: Act,
    mailbox: &str,
    first: usize,
    count: usize,
    every: Duration,
) -> Vec<(Duration, Change)> {
    let change = |at: usize| Change {
        side,
        act,
        mailbox: mailbox.to_owned(),
        at: first + at,
        pause: every,
        into: 0.0,
    };
    (0..count).map(|at| (every * u32::try_from(at + 1).unwrap_or(u32::MAX), change(at))).collect()
}

/// The subject of a message that is there from the beginning.
fn subject(mailbox: &str, at: usize) -> String {
    format!("message {at} of {mailbox}")
}

/// The message's own Message-ID.
fn id_of(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let line = text.lines().find_map(|line| line.strip_prefix("Message-ID: "));
    line.unwrap_or_default().to_owned()
}

/// Whether a message is in `new`; `cur` may be large and is not read.
fn is_new(maildir: &Maildir, id: &str) -> bool {
    let Ok(new) = fs::read_dir(maildir.path().join("new")) else { return false };
    let holds = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).contains(id);
    new.flatten().any(|entry| holds(entry.path()))
}

/// Fills the mailboxes. All of it is read but for the INBOX.
pub fn fill(server: &Server, user: &str, boxes: &[&str]) {
    let mut imap = server.imap(user);
    for mailbox in boxes {
        let messages: Vec<Vec<u8>> =
            (0..SEEDS).map(|at| message(&subject(mailbox, at), "There.")).collect();
        let flags: &[&str] = if *mailbox == "INBOX" { &[] } else { &["\\Seen"] };
        imap.append_many(mailbox, &messages, flags);
    }
}

/// The test's own view of both sides of a contender.
pub struct View<'a> {
    contender: &'a Contender,
    imap: Imap,
}

/// What is about to be done.
enum What {
    Append(Vec<u8>),
    Save(Vec<u8>),
    Remote(u32),
    Near(Entry),
}

/// A change that can be made at once.
pub struct Prepared {
    change: Change,
    id: String,
    what: What,
}

/// A change that was made: what is to be seen on the other side.
pub struct Made {
    change: Change,
    id: String,
    pub at: Instant,
    /// The same on the clock of mbsync's coat.
    pub at_ns: i64,
}

impl<'a> View<'a> {
    /// Logs in beside the contender, on a port that is not counted.
    pub fn new(server: &Server, user: &str, contender: &'a Contender) -> Self {
        View { contender, imap: server.imap(user) }
    }

    fn maildir(&self, mailbox: &str) -> Maildir {
        self.contender.home.maildir("Home", mailbox)
    }

    fn search(&mut self, mailbox: &str, what: &str) -> Option<u32> {
        self.imap.raw(&format!("EXAMINE \"{mailbox}\""));
        let lines = self.imap.raw(&format!("UID SEARCH {what}"));
        self.imap.unselect();
        lines
            .iter()
            .find_map(|line| line.strip_prefix("* SEARCH")?.split_whitespace().next()?.parse().ok())
    }

    /// Looks for the message beforehand, so that the change itself takes no time.
    pub fn prepare(&mut self, change: &Change) -> Prepared {
        let Change { side, act, mailbox, at, .. } = change;
        let subject = subject(mailbox, *at);
        let new = message("something new", "Here it is.");
        let (id, what) = match (side, act) {
            (Side::Server, Act::Add) => (id_of(&new), What::Append(new)),
            (Side::Local, Act::Add) => (id_of(&new), What::Save(new)),
            (Side::Server, _) => {
                let remote = self.imap.find(mailbox, &format!("{subject}\r"));
                (remote.message_id, What::Remote(remote.uid))
            }
            (Side::Local, _) => {
                let entry = self.maildir(mailbox).find(&format!("{subject}\n"));
                (entry.message_id.clone(), What::Near(entry))
            }
        };
        Prepared { change: change.clone(), id, what }
    }

    /// Makes it.
    pub fn make(&mut self, prepared: Prepared) -> Made {
        let Prepared { change, id, what } = prepared;
        let maildir = self.maildir(&change.mailbox);
        if matches!(what, What::Remote(_)) {
            self.imap.select(&change.mailbox);
        }
        match (&what, change.act) {
            (What::Append(new), _) => drop(self.imap.append(&change.mailbox, new, &[])),
            (What::Save(new), _) => drop(maildir.add(new, "S")),
            (What::Remote(uid), Act::Remove) => self.imap.expunge(*uid),
            (What::Remote(uid), Act::Read) => self.imap.add_flags(*uid, &["\\Seen"]),
            (What::Remote(uid), _) => self.imap.add_flags(*uid, &["\\Flagged"]),
            (What::Near(entry), Act::Remove) => maildir.delete(entry),
            (What::Near(entry), Act::Read) => drop(maildir.set_flags(entry, "S")),
            (What::Near(entry), _) => drop(maildir.set_flags(entry, "FS")),
        }
        let made = Made { change, id, at: Instant::now(), at_ns: now_ns() };
        if matches!(what, What::Remote(_)) {
            self.imap.unselect();
        }
        made
    }

    /// Delivers a message, for its own sake.
    pub fn deliver(&mut self, mailbox: &str) {
        self.imap.append(mailbox, &message("a reason to sync", "None other."), &[]);
    }

    /// Whether it is on the other side now.
    pub fn arrived(&mut self, made: &Made) -> bool {
        let Made { change: Change { side, act, mailbox, .. }, id, .. } = made;
        if *side == Side::Server {
            if *act == Act::Add {
                return is_new(&self.maildir(mailbox), id);
            }
            let found = self.maildir(mailbox).list().into_iter().find(|e| e.message_id == *id);
            match act {
                Act::Flag => found.is_some_and(|entry| entry.flags.contains('F')),
                Act::Read => found.is_some_and(|entry| entry.flags.contains('S')),
                Act::Add | Act::Remove => found.is_none(),
            }
        } else {
            let header = format!("HEADER Message-ID \"{id}\"");
            match act {
                Act::Add => self.search(mailbox, &header).is_some(),
                Act::Flag => self.search(mailbox, &format!("{header} FLAGGED")).is_some(),
                Act::Read => self.search(mailbox, &format!("{header} SEEN")).is_some(),
                Act::Remove => self.search(mailbox, &header).is_none(),
            }
        }
    }

    /// Makes these changes at their times, whether or not those before have arrived, and
    /// says of each when it did, if it did within `patience` of the last one's time.
    pub fn play(
        &mut self,
        plan: &[(Duration, Change)],
        patience: Duration,
    ) -> Vec<Option<Duration>> {
        let begun = Instant::now();
        let end = plan.last().map_or(patience, |(last, _)| *last + patience);
        let mut taken = vec![None; plan.len()];
        let mut open: Vec<(usize, Made)> = Vec::new();
        let mut next = 0;
        let mut prepared = plan.first().map(|(_, change)| self.prepare(change));
        while (next < plan.len() || !open.is_empty()) && begun.elapsed() < end {
            if plan.get(next).is_some_and(|(at, _)| begun.elapsed() >= *at) {
                open.extend(prepared.take().map(|prepared| (next, self.make(prepared))));
                next += 1;
                prepared = plan.get(next).map(|(_, change)| self.prepare(change));
            }
            open.retain(|(at, made)| {
                let arrived = self.arrived(made);
                if arrived {
                    taken[*at] = Some(made.at.elapsed());
                }
                !arrived
            });
            sleep(Duration::from_millis(5));
        }
        taken
    }

    /// How long it took, if it came in time.
    pub fn wait(&mut self, made: &Made, limit: Duration) -> Option<Duration> {
        while made.at.elapsed() < limit {
            if self.arrived(made) {
                return Some(made.at.elapsed());
            }
            sleep(Duration::from_millis(if made.change.side == Side::Server { 5 } else { 20 }));
        }
        None
    }
}
