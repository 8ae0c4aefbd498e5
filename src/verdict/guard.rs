//! The guard: which mailboxes a run would empty, or nearly, without being asked.
//!
//! Pure: numbers in, names out. People clean folders in mutt on purpose, so the near
//! side may lose more than the far one. A loss is net of moves; what a mailbox lost
//! that is there to be emptied (trash, junk) is none.
//!
//! Does not depend on: files, connections, how moves are found.

use super::Rules;
use super::gone::KnownGone;
use super::maildir::Numbered;
use super::record::{Entry, EntryKind, Record};
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use serde::{Deserialize, Serialize};

/// Fewer lost messages than this are no reason to look further: neither several
/// emptied mailboxes together, nor each one's part in an account's loss.
pub const FEW: u64 = 10;
/// All of a mailbox, but not more than this, may go on the far side.
const MOST_EMPTIED_FAR: u64 = 20;
/// From here on a loss is a large one.
const MANY: u64 = 100;

/// The side on which messages are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossSide {
    /// Here: a run would delete them on the server.
    Near,
    /// On the server: a run would delete them here.
    Far,
}

/// What one side of a mailbox has lost since the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// So many.
    pub lost: u64,
    /// Of so many that both sides had.
    pub of: u64,
}

impl Loss {
    fn is_all(self) -> bool {
        self.lost > 0 && self.lost >= self.of
    }

    fn is_large(self, side: LossSide) -> bool {
        match side {
            LossSide::Near => self.is_all() && self.lost >= MANY,
            LossSide::Far => {
                self.is_all() && self.lost > MOST_EMPTIED_FAR
                    || self.lost * 2 > self.of && self.lost >= MANY
            }
        }
    }
}

/// Whether these losses, of one side of the mailboxes that are to be run, are enough to
/// look at the rest of the account as well.
#[must_use]
pub fn concerns_account(losses: &[Loss]) -> bool {
    let all: u64 = losses.iter().map(|loss| loss.lost).sum();
    let emptied = losses.iter().filter(|loss| loss.is_all()).map(|loss| loss.lost).sum::<u64>();
    emptied >= FEW || all >= MANY / 2
}

/// Which of these are to be held, by index. `losses`: of one side of the account's
/// mailboxes; `account`: so many messages all its mailboxes had on both sides.
#[must_use]
pub fn held(side: LossSide, losses: &[Loss], account: u64) -> Vec<usize> {
    let total = |which: &dyn Fn(&Loss) -> bool| {
        let each = losses.iter().filter(|loss| which(loss));
        each.fold((0, 0), |(mailboxes, lost), loss| (mailboxes + 1, lost + loss.lost))
    };
    let (emptied, lost_there) = total(&|loss| loss.is_all());
    let several = emptied >= 2 && lost_there >= FEW;
    // A mailbox alone is judged alone, however large its part of the account is.
    let (spread, lost) = total(&|loss| loss.lost >= FEW);
    let most = spread >= 2 && lost >= MANY && lost * 2 > account;
    let is_held =
        |loss: &Loss| loss.is_large(side) || several && loss.is_all() || most && loss.lost >= FEW;
    losses.iter().enumerate().filter(|(_, loss)| is_held(loss)).map(|(at, _)| at).collect()
}

fn is_pair(entry: &Entry) -> bool {
    // What expires follows rules of its own.
    entry.near != 0 && entry.kind == EntryKind::Plain
}

/// The messages of which both sides had one, by far UID, but for what is gone on both.
#[must_use]
pub fn pairs(record: &Record, known: KnownGone<'_>) -> UidSet {
    let is_over = |far: u32| known.is_gone(far) || known.was_deleted(far);
    let pairs = record.with_far().iter().filter(|entry| is_pair(entry) && !is_over(entry.far));
    UidSet::from_uids(pairs.map(|entry| entry.far))
}

/// Those whose near message is gone, or \Deleted so that a run would remove the far one.
#[must_use]
pub fn lost_near(record: &Record, near: &Numbered, rules: &Rules, known: KnownGone<'_>) -> UidSet {
    let newly_deleted = |entry: &Entry, flags: Flags| {
        rules.expunge_far && flags.has(Flags::TRASHED) && !entry.flags.has(Flags::TRASHED)
    };
    let lost = record.with_far().iter().filter(|entry| {
        is_pair(entry)
            && !known.is_over(entry.far)
            && match near.flags(entry.near) {
                None => rules.expunge_far || !entry.flags.has(Flags::TRASHED),
                Some(flags) => newly_deleted(entry, flags),
            }
    });
    UidSet::from_uids(lost.map(|entry| entry.far))
}

/// Whether mbsync may take another UIDVALIDITY for that of the record, and so delete what
/// is missing: `present` of the pairs are still there by UID. It compares Message-IDs as
/// well (isync 1.4.4 and 1.5.1, `box_loaded` in `sync.c`).
#[must_use]
pub fn may_take_validity(present: u64, pairs: u64) -> bool {
    present >= 20 || present * 5 >= pairs * 4
}

/// How many pairs have a near message with their UID.
#[must_use]
pub fn present_near(record: &Record, near: &Numbered) -> u64 {
    let is_there = |entry: &&Entry| is_pair(entry) && near.flags(entry.near).is_some();
    record.with_far().iter().filter(is_there).map(|_| 1).sum()
}

/// Whether a mailbox of this name is there to be emptied: the usual names of trash and
/// junk, whatever is above them.
#[must_use]
pub fn is_trash(name: &str) -> bool {
    const USUAL: [&str; 15] = [
        "trash",
        "bin",
        "deleted",
        "deleted items",
        "deleted messages",
        "junk",
        "junk e-mail",
        "junk email",
        "junk mail",
        "spam",
        "bulk",
        "bulk mail",
        "papierkorb",
        "corbeille",
        "papelera",
    ];
    let last = name.rsplit(['/', '.']).next().unwrap_or(name).to_lowercase();
    USUAL.contains(&&*last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(side: LossSide, losses: &[(u64, u64)], account: u64) -> Vec<usize> {
        let losses: Vec<Loss> = losses.iter().map(|&(lost, of)| Loss { lost, of }).collect();
        held(side, &losses, account)
    }

    #[test]
    fn g14_one_mailbox_may_lose_more_here_than_on_the_server() {
        for (loss, near, far) in [
            ((20, 20), false, false),
            ((21, 21), false, true),
            ((99, 99), false, true),
            ((100, 100), true, true),
            ((99, 100), false, false),
            ((100, 199), false, true),
            ((100, 200), false, false),
            ((180, 200), false, true),
            ((0, 0), false, false),
            ((0, 500), false, false),
        ] {
            // In an account of the same size, and in a large one.
            for account in [loss.1, 100_000] {
                assert_eq!(!judged(LossSide::Near, &[loss], account).is_empty(), near, "{loss:?}");
                assert_eq!(!judged(LossSide::Far, &[loss], account).is_empty(), far, "{loss:?}");
            }
        }
    }

    #[test]
    fn g14_several_emptied_mailboxes_are_held_unless_they_had_next_to_nothing() {
        for side in [LossSide::Near, LossSide::Far] {
            assert_eq!(judged(side, &[(5, 5), (1, 30), (5, 5)], 9000), [0, 2]);
            assert_eq!(judged(side, &[(3, 3), (6, 6)], 9000), [0; 0], "a draft and a note");
            assert_eq!(judged(side, &[(15, 15)], 9000), [0; 0]);
            assert_eq!(judged(side, &[(15, 15), (0, 0)], 9000), [0; 0], "it had none");
        }
    }

    #[test]
    fn g14_more_than_half_of_the_account_in_several_mailboxes_is_held() {
        for side in [LossSide::Near, LossSide::Far] {
            let losses = [(60, 90), (60, 90), (3, 10)];
            assert_eq!(judged(side, &losses, 230), [0, 1]);
            assert_eq!(judged(side, &losses, 240), [0; 0]);
            assert_eq!(judged(side, &[(30, 40), (30, 40)], 80), [0; 0], "not many");
        }
        // An old list is cleaned in a small account.
        assert_eq!(judged(LossSide::Near, &[(150, 160), (1, 5)], 165), [0; 0]);
    }

    #[test]
    fn g14_a_small_loss_makes_nobody_look_at_the_rest_of_the_account() {
        let concerns = |losses: &[(u64, u64)]| {
            let losses: Vec<Loss> = losses.iter().map(|&(lost, of)| Loss { lost, of }).collect();
            concerns_account(&losses)
        };
        assert!(!concerns(&[]) && !concerns(&[(0, 0), (1, 5), (40, 50)]));
        assert!(!concerns(&[(1, 1)]), "the last message of an INBOX is archived");
        assert!(concerns(&[(6, 6), (4, 4)]) && concerns(&[(30, 50), (20, 50)]));
    }

    #[test]
    fn g14_mbsync_takes_another_validity_from_20_messages_or_80_percent_on() {
        for (present, pairs, taken) in [
            (20, 1000, true),
            (19, 1000, false),
            (19, 23, true),
            (19, 24, false),
            (4, 5, true),
            (3, 4, false),
            (0, 1, false),
        ] {
            assert_eq!(may_take_validity(present, pairs), taken, "{present} of {pairs}");
        }
    }

    #[test]
    fn g14_trash_and_junk_go_by_their_usual_names() {
        for name in
            ["Trash", "[Gmail]/Trash", "INBOX.Junk", "Deleted Items", "spam", "a/Papierkorb"]
        {
            assert!(is_trash(name), "{name}");
        }
        for name in ["INBOX", "Trashed", "Trash/2024", "Archive", ""] {
            assert!(!is_trash(name), "{name}");
        }
    }

    #[test]
    fn g14_what_is_lost_here_goes_by_the_record() {
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 9\nMaxPushedUid 9\n\n";
        let entries = "1 1 S\n2 2 S\n3 3 ~S\n4 0 S\n0 5 S\n6 6 ST\n7 7 S\n";
        let record = super::super::record::parse(format!("{head}{entries}").as_bytes()).unwrap();
        let mut listing = super::super::maildir::MaildirListing::new(b':');
        for name in ["a,U=2:2,S", "b,U=7:2,ST"] {
            listing.add(name.as_bytes());
        }
        let near = listing.numbered();
        let lost = |rules: &Rules| lost_near(&record, &near, rules, KnownGone::NOTHING).to_string();
        assert_eq!(pairs(&record, KnownGone::NOTHING).to_string(), "1:2,6:7");
        assert_eq!(present_near(&record, &near), 2);
        assert_eq!(lost(&Rules::none()), "1");
        assert_eq!(lost(&Rules { expunge_far: true, ..Rules::none() }), "1,6:7");
    }
}
