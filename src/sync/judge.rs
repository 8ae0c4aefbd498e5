//! The question before a run, and the run: who decides for which mailboxes mbsync is
//! run, and over which connection.
//!
//! Does not depend on: requests, when to run, how the answer is found.

use std::collections::BTreeSet;

use super::context::AccountContext;
use super::lost::LostMessages;
use super::mbsync::{self, Companion, Job, RunEnd};
use crate::error::Error;
use crate::headers::MessageIdentity;
use crate::mbsyncrc::MbsyncWords;
use crate::model::uid_set::UidSet;
use crate::model::{Mailbox, Target};
use crate::os::signals::Shutdown;
use crate::state::StateDir;
use crate::state::lock::Lock;

/// Decides for which of the mailboxes asked for a run is needed, and makes it.
pub trait Judge: std::fmt::Debug {
    /// Whether it makes a connection of its own, or leaves that to mbsync: then each
    /// request costs a login.
    fn logs_in(&self) -> bool;
    /// Judges both sides of what is asked for. With the account's lock held, and after
    /// the requests were claimed. Without a judgement, all of it is run.
    fn judge(&mut self, question: &Question<'_>) -> Judgement {
        Judgement::Run(question.targets.clone())
    }
    /// Makes the run.
    fn run(&mut self, attempt: &Attempt<'_>, lock: &mut Lock) -> RunEnd {
        attempt.run(lock, None)
    }
    /// Whether mbsync can be given the name of a mailbox below another. Without NAMESPACE it
    /// knows the delimiter only once it has listed all, as for a whole channel (isync 1.4 and
    /// 1.5, `drv_imap.c`); a connection that is lent tells it.
    fn names_nested(&self) -> bool {
        true
    }
    /// How many bytes the run has moved, as far as that is known.
    fn bytes(&self) -> u64 {
        0
    }
    /// Why a run is needed, in a few words each.
    fn reasons(&self) -> &[String] {
        &[]
    }
    /// The messages of a mailbox that are gone on the server, or about to be, while the
    /// near ones are here: their far UIDs. `None`: that is not known.
    fn gone_there(&self, _mailbox: &Mailbox) -> Option<UidSet> {
        None
    }
    /// The server, if it can be asked.
    fn far_side(&mut self) -> Option<Box<dyn FarLookup + '_>> {
        None
    }
    /// Whether it judges at all.
    fn is_blind(&self) -> bool {
        false
    }
}

/// What the guard asks of the server, when a run is about to delete much.
pub trait FarLookup {
    /// Which of these messages are gone, of a mailbox that was not judged. `of_run`: it is
    /// about to be run. `None`: that is not known.
    fn missing(
        &mut self,
        mailbox: &Mailbox,
        validity: u32,
        pairs: &UidSet,
        of_run: bool,
    ) -> Option<UidSet>;
    /// Whether the server lists a mailbox; `None`: that is not known.
    fn is_there(&mut self, mailbox: &Mailbox) -> Option<bool>;
    /// Which messages these are, by far UID; `None`: that is not known.
    fn messages(&mut self, mailbox: &Mailbox, uids: &UidSet) -> Option<Vec<MessageIdentity>>;
    /// Takes off what there are copies of in mailboxes that no channel syncs.
    fn find_elsewhere(&mut self, wanted: &mut LostMessages);
    /// Whether the server says that a mailbox is for trash or junk.
    fn is_trash(&mut self, mailbox: &Mailbox) -> bool;
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// What was asked for.
    pub targets: &'q BTreeSet<Target>,
    /// A run is to be made whatever differs.
    pub full: bool,
    /// What is to be tried again whatever differs: it was refused.
    pub refused: &'q BTreeSet<Target>,
    /// The account's state.
    pub dir: &'q StateDir,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing differs.
    InSync,
    /// These need a run, or cannot be judged.
    Run(BTreeSet<Target>),
    /// It could not be asked, and mbsync could not either.
    Failed(Error),
}

/// Without a judgement: mbsync is run for all that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Blind;

impl Judge for Blind {
    fn logs_in(&self) -> bool {
        true
    }

    fn is_blind(&self) -> bool {
        true
    }
}

/// Judges again, in the middle of a run, what is about to be deleted on the server.
pub trait DeletionCheck: std::fmt::Debug {
    /// Whether nothing of the mailbox with this key may be deleted there.
    fn holds(&self, key: &str) -> bool;
}

/// A run that is about to be made.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The account.
    pub context: AccountContext<'a>,
    /// What it syncs.
    pub words: &'a MbsyncWords,
    /// What it may delete, where that can be prevented.
    pub deletions: &'a dyn DeletionCheck,
    pub(super) job: Job<'a>,
    pub(super) shutdown: &'a Shutdown,
}

impl Attempt<'_> {
    /// Runs mbsync; with a companion, over a connection of ours.
    pub fn run<'r>(
        &'r self,
        lock: &mut Lock,
        companion: Option<&'r mut (dyn Companion + 'r)>,
    ) -> RunEnd {
        let over = if companion.is_some() { ", over the connection that is open" } else { "" };
        self.say(|| format!("running {}{over}", mbsync::command_line(&self.job).join(" ")));
        mbsync::run(&self.job, lock, self.shutdown, companion)
    }

    /// Prints a decision, with `--verbose`.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.job.verbose {
            self.context.say(&text());
        }
    }
}
