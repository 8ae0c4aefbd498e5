//! Deletions that nobody has judged. mbsync reads the Maildir after the judgement: what was
//! removed in between would be deleted on the server. So before the first deletion that it
//! asks for in a mailbox, when it has read the Maildir, what is gone here is judged once
//! more. If that is too much, none is made in this mailbox.
//!
//! Does not depend on: connections, how it is judged.

use super::flags::mailbox_name;
use crate::sync::judge::DeletionCheck;

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It goes to the server.
    Free,
    /// It is answered with NO.
    Refused,
    /// The run cannot go on: isync 1.5.1 waits for ever after a NO to it (observed).
    Ended,
}

/// Lets mbsync's deletions pass, or not.
#[derive(Debug)]
pub struct DeletionGate<'c> {
    check: &'c dyn DeletionCheck,
    /// Wire names and keys of the mailboxes of the run.
    names: Vec<(Box<str>, Box<str>)>,
    /// The mailbox that is open.
    open: Option<String>,
    /// What was found for it at its first deletion.
    withholds: Option<bool>,
    refused: u64,
}

impl<'c> DeletionGate<'c> {
    /// `names`: wire names and keys of the mailboxes of the run.
    #[must_use]
    pub fn new(check: &'c dyn DeletionCheck, names: Vec<(Box<str>, Box<str>)>) -> Self {
        DeletionGate { check, names, open: None, withholds: None, refused: 0 }
    }

    /// So many commands did not reach the server.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What becomes of this command of mbsync's, without a literal. Its only deletions are
    /// `UID STORE n +FLAGS.SILENT (\Deleted)`: what follows expunges no message that was
    /// not marked (isync 1.4.4 and 1.5.1, `drv_imap.c`).
    pub fn passage(&mut self, line: &[u8]) -> Passage {
        let text = String::from_utf8_lossy(line);
        let mut words = text.trim_end_matches(['\r', '\n']).splitn(3, ' ').skip(1);
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let rest = words.next().unwrap_or_default();
        if verb == "SELECT" {
            (self.open, self.withholds) = (mailbox_name(rest), None);
        }
        let (command, rest) = rest.split_once(' ').unwrap_or_default();
        let passage = match (&*verb, &*command.to_ascii_uppercase()) {
            ("UID", "STORE") if deletes(rest) && self.is_withheld() => Passage::Refused,
            // It takes to the trash what it could not mark, too.
            ("UID", "COPY" | "MOVE") if self.withholds == Some(true) => Passage::Ended,
            _ => Passage::Free,
        };
        self.refused += u64::from(passage != Passage::Free);
        passage
    }

    fn is_withheld(&mut self) -> bool {
        if let Some(known) = self.withholds {
            return known;
        }
        let open = self.open.as_deref();
        let keys = self.names.iter().filter(|(wire, _)| Some(&**wire) == open);
        // Each that syncs it, so that each is on record.
        let held = keys.fold(false, |held, (_, key)| self.check.holds(key) || held);
        self.withholds = Some(held);
        held
    }
}

/// Whether a STORE, from its set on, marks messages \Deleted.
fn deletes(rest: &str) -> bool {
    let rest = rest.to_ascii_uppercase();
    rest.contains("\\DELETED") && !rest.contains(" -FLAGS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Debug, Default)]
    struct Counted {
        held: Vec<&'static str>,
        asked: RefCell<Vec<String>>,
    }

    impl DeletionCheck for Counted {
        fn holds(&self, key: &str) -> bool {
            self.asked.borrow_mut().push(key.to_owned());
            self.held.contains(&key)
        }
    }

    fn gate(check: &Counted) -> DeletionGate<'_> {
        let names = [("INBOX", "c\nINBOX"), ("a b", "c\na b"), ("a b", "d\na b")];
        DeletionGate::new(check, names.map(|(wire, key)| (wire.into(), key.into())).into())
    }

    #[test]
    fn g14_all_deletions_of_a_mailbox_are_refused_or_none() {
        use Passage::{Ended, Free, Refused};
        let check = Counted { held: vec!["c\na b"], ..Counted::default() };
        let mut gate = gate(&check);
        for at in 0..3 {
            let dialogue = [
                ("1 SELECT \"INBOX\"", Free, 0),
                // Nothing is deleted by these.
                ("2 UID FETCH 1:9 (UID FLAGS)", Free, 0),
                ("3 UID STORE 5 +FLAGS.SILENT (\\Seen)", Free, 0),
                ("4 UID STORE 5 -FLAGS.SILENT (\\Deleted)", Free, 0),
                ("5 UID COPY 5 \"Trash\"", Free, 0),
                // Asked once for each SELECT, when it is needed.
                ("6 UID STORE 5 +FLAGS.SILENT (\\Deleted)", Free, 1),
                ("7 uid store 6 +flags.silent (\\Seen \\Deleted)", Free, 1),
                ("8 UID MOVE 5 \"Trash\"", Free, 1),
                ("9 SELECT \"a b\"", Free, 1),
                ("10 UID MOVE 5 \"Trash\"", Free, 1),
                ("11 UID STORE 5 +FLAGS.SILENT (\\Deleted)", Refused, 3),
                ("12 uid store 1:9 +flags (\\deleted)", Refused, 3),
                ("13 UID STORE 5 FLAGS (\\Deleted)", Refused, 3),
                ("14 UID MOVE 5 \"Trash\"", Ended, 3),
                ("15 UID COPY 5 \"Trash\"", Ended, 3),
                ("16 UID STORE 5 +FLAGS.SILENT (\\Seen)", Free, 3),
                ("17 UID EXPUNGE 5", Free, 3),
                ("18 CLOSE", Free, 3),
            ];
            for (line, passage, asked) in dialogue {
                assert_eq!(gate.passage(format!("{line}\r\n").as_bytes()), passage, "{line}");
                assert_eq!(check.asked.borrow().len(), 3 * at + asked, "{line}");
            }
            assert_eq!(check.asked.borrow()[3 * at..], ["c\nINBOX", "c\na b", "d\na b"]);
        }
        assert_eq!(gate.refused(), 15);
    }

    #[test]
    fn what_no_run_was_judged_for_is_not_asked_about() {
        let check = Counted { held: vec!["c\nINBOX"], ..Counted::default() };
        let mut gate = gate(&check);
        for line in ["1 SELECT other", "2 UID STORE 5 +FLAGS.SILENT (\\Deleted)", "3 UID", "4", ""]
        {
            assert_eq!(gate.passage(line.as_bytes()), Passage::Free, "{line}");
        }
        assert!(check.asked.borrow().is_empty());
    }
}
