//! What the waiter knows of each mailbox, and how that changes with what is
//! heard. Pure: values in, values out.
//!
//! Each side of a mailbox is clean, dirty, or not asked. An event makes it "not
//! asked" again, with one exception: what the server reports of a mailbox known
//! to be clean, while no run is under way, is nobody's echo and needs no look.

use std::time::Duration;

use crate::model::{Account, Mailbox, Target};
use crate::state::clean;
use crate::verdict::server::ServerStatus;
use crate::verdict::{Changes, CleanState, Digest, Fingerprint, Rules, SideVerdict, maildir};

/// A mailbox in which something happens all the time is not waited for longer
/// than so many times the quiet that is wanted.
const PATIENCE: u32 = 5;

/// The near side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NearState {
    /// To be looked at.
    Unasked,
    /// As it was found at the last look.
    Found(SideVerdict),
}

/// The far side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FarState {
    /// No server tells.
    PendingWrites,
    /// Something is different, and may be an echo: to be looked into.
    Suspect,
    /// As it was found.
    Found(SideVerdict),
}

/// The first and the last of some events, in time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debounce {
    first: Duration,
    last: Duration,
}

impl Debounce {
    /// One more event.
    #[must_use]
    pub fn again(before: Option<Debounce>, now: Duration) -> Debounce {
        Debounce { first: before.map_or(now, |touched| touched.first), last: now }
    }

    /// All of these as one: a message that is moved touches two mailboxes, and is
    /// one change.
    #[must_use]
    pub fn together(each: impl Iterator<Item = Debounce>) -> Option<Debounce> {
        each.reduce(|a, b| Debounce { first: a.first.min(b.first), last: a.last.max(b.last) })
    }

    /// When it has been quiet for `settle`, or has lasted too long to be waited for.
    #[must_use]
    pub fn settled_at(self, settle: Duration) -> Duration {
        (self.last + settle).min(self.first + settle * PATIENCE)
    }
}

/// What is known of one mailbox.
#[derive(Debug, Clone)]
pub struct MailboxState {
    /// Which.
    pub mailbox: Mailbox,
    /// By what to judge it, or why no verdict can be given.
    pub rules: Result<Rules, String>,
    /// The near side.
    pub near: NearState,
    /// The far side.
    pub far: FarState,
    /// Events on the near side that it has not been looked at since.
    pub touched: Option<Debounce>,
    /// The near side's digest at the last look.
    pub digest: Option<Digest>,
    /// The record's stamp at the last look.
    pub record: Option<maildir::Stamp>,
    /// mbsync was interrupted in it.
    pub unfinished: bool,
    /// A run let conclude what is gone on the server: a look is to confirm it.
    pub unconfirmed: bool,
}

impl MailboxState {
    /// A mailbox of which nothing is known.
    #[must_use]
    pub fn new(mailbox: Mailbox, account: &Account) -> MailboxState {
        let channel = account.channels.iter().find(|channel| channel.name == mailbox.channel);
        MailboxState {
            rules: channel.map_or_else(|| Err("no such channel".into()), Rules::of),
            mailbox,
            near: NearState::Unasked,
            far: FarState::PendingWrites,
            touched: None,
            digest: None,
            record: None,
            unfinished: false,
            unconfirmed: false,
        }
    }

    /// Its entry in `seen.json` and `stuck.json`.
    #[must_use]
    pub fn key(&self) -> String {
        clean::key(&self.mailbox)
    }

    /// The request that serves it.
    #[must_use]
    pub fn want(&self) -> Target {
        self.mailbox.want()
    }

    /// The far side's STATUS at the last clean look, if it was judged by the
    /// rules that hold now.
    #[must_use]
    pub fn seen_far(&self, seen: &CleanState) -> Option<ServerStatus> {
        let then = seen.far.as_ref()?;
        (self.rules.as_ref() == Ok(&then.rules)).then_some(then.status)
    }

    /// How both sides look now, with what the server last told.
    #[must_use]
    pub fn fingerprint(&self, far: Option<ServerStatus>) -> Fingerprint {
        Fingerprint { near: self.digest, record: self.record, far, unfinished: self.unfinished }
    }

    /// The near side, as far as it calls for something.
    #[must_use]
    pub fn near_finding(&self) -> &SideVerdict {
        match &self.near {
            NearState::Found(finding) => finding,
            NearState::Unasked => &SideVerdict::Clean,
        }
    }

    /// The far side; `None` while it is not told or not looked into.
    #[must_use]
    pub fn far_finding(&self) -> Option<&SideVerdict> {
        match &self.far {
            FarState::Found(finding) => Some(finding),
            FarState::Suspect | FarState::PendingWrites => None,
        }
    }

    /// Whether mutt may be about to change more in it, and nothing on the server
    /// calls for haste.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        self.touched.is_some() && self.far_finding().is_none_or(|far| *far == SideVerdict::Clean)
    }

    /// Whether its near side is to be looked at now. `settled`: so are the
    /// mailboxes that were touched.
    #[must_use]
    pub fn wants_look(&self, settled: bool) -> bool {
        match (&self.near, self.touched) {
            (_, Some(_)) => settled,
            (NearState::Unasked, None) => true,
            (NearState::Found(_), None) => false,
        }
    }

    /// What the server told, or STATUS: enough to call the mailbox clean only where
    /// nothing is left for a look to confirm.
    pub fn tell_far(&mut self, far: FarState) {
        let clean = far == FarState::Found(SideVerdict::Clean);
        self.far = if clean && self.unconfirmed { FarState::Suspect } else { far };
    }

    /// A run was under way, ours or another's: what was dirty may be clean now,
    /// and what was clean may be dirty. `done`: it was one of ours and took this
    /// mailbox on, so that what happened here before it is dealt with.
    pub fn run_ended(&mut self, done: bool) {
        self.near = NearState::Unasked;
        if done {
            self.touched = None;
        }
        if matches!(&self.far, FarState::Found(finding) if done || *finding != SideVerdict::Clean) {
            self.far = FarState::Suspect;
        }
    }
}

/// What the server has just said of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Its STATUS now.
    pub now: ServerStatus,
    /// That of the last clean look.
    pub seen: Option<ServerStatus>,
    /// Something happened that STATUS does not show: flags, on a server without
    /// modification sequences.
    pub unseen: bool,
    /// No run is under way, and none was a moment ago.
    pub quiet: bool,
}

impl FarState {
    /// What follows from what the server said. `judged`: a verdict can be given
    /// on this mailbox at all.
    #[must_use]
    pub fn told(&self, told: StatusUpdate, judged: bool) -> FarState {
        let was_clean = *self == FarState::Found(SideVerdict::Clean);
        match told.seen {
            Some(seen) if seen == told.now && !told.unseen => FarState::Found(SideVerdict::Clean),
            seen if was_clean && told.quiet && judged => FarState::Found(SideVerdict::Changed(
                changes_between(seen.unwrap_or(told.now), told.now),
            )),
            _ => FarState::Suspect,
        }
    }

    /// What follows from the STATUS that a new connection begins with.
    #[must_use]
    pub fn compared(status: Option<ServerStatus>, seen: Option<ServerStatus>) -> FarState {
        match (status, seen) {
            (Some(now), Some(then)) if now == then => FarState::Found(SideVerdict::Clean),
            (Some(_), _) => FarState::Suspect,
            // Not on the server, or it would not say.
            (None, _) => FarState::Found(SideVerdict::Unknown("not on the server".into())),
        }
    }
}

/// What happened between two STATUS, for people to read: nobody relies on it.
fn changes_between(then: ServerStatus, now: ServerStatus) -> Changes {
    let new = now.uid_next.saturating_sub(then.uid_next);
    let deleted = then.messages.saturating_add(new).saturating_sub(now.messages);
    let flags = u32::from(new == 0 && deleted == 0);
    Changes { new, deleted, flags, other: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(1);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn clean() -> FarState {
        FarState::Found(SideVerdict::Clean)
    }

    fn dirty() -> FarState {
        FarState::Found(SideVerdict::Changed(Changes { other: 1, ..Changes::default() }))
    }

    #[test]
    fn quiet_is_waited_for_but_not_for_ever() {
        let mut touched = None;
        for at in (0..20_000).step_by(500) {
            touched = Some(Debounce::again(touched, ms(at)));
        }
        assert_eq!(touched.unwrap().settled_at(SETTLE), ms(5000));
        let other = Debounce::again(None, ms(300));
        assert_eq!(other.settled_at(SETTLE), ms(1300));
        let late = Debounce::again(None, ms(900));
        let both = Debounce::together([other, late].into_iter()).unwrap();
        assert_eq!(both.settled_at(SETTLE), ms(1900));
        assert_eq!(Debounce::together(std::iter::empty()), None);
    }

    fn status(uid_next: u32, messages: u32) -> ServerStatus {
        ServerStatus { uid_validity: 1, uid_next, messages, highest_modseq: Some(1) }
    }

    #[test]
    fn g5_only_a_quiet_and_clean_mailbox_is_believed_to_have_changed_without_a_look() {
        let seen = Some(status(5, 4));
        let news = StatusUpdate { now: status(6, 5), seen, unseen: false, quiet: true };
        let new = FarState::Found(SideVerdict::Changed(Changes { new: 1, ..Changes::default() }));
        assert_eq!(clean().told(news, true), new);
        assert_eq!(clean().told(news, false), FarState::Suspect);
        assert_eq!(clean().told(StatusUpdate { quiet: false, ..news }, true), FarState::Suspect);
        assert_eq!(FarState::Suspect.told(news, true), FarState::Suspect);
        assert_eq!(dirty().told(news, true), FarState::Suspect);
        assert_eq!(FarState::PendingWrites.told(news, true), FarState::Suspect);
    }

    #[test]
    fn what_is_as_at_the_last_clean_look_is_clean_unless_flags_do_not_show() {
        let now = status(5, 4);
        let same = StatusUpdate { now, seen: Some(now), unseen: false, quiet: false };
        assert_eq!(FarState::Suspect.told(same, true), clean());
        assert_eq!(clean().told(StatusUpdate { unseen: true, ..same }, true), FarState::Suspect);
        let flag =
            FarState::Found(SideVerdict::Changed(Changes { flags: 1, ..Changes::default() }));
        assert_eq!(clean().told(StatusUpdate { unseen: true, quiet: true, ..same }, true), flag);
    }

    #[test]
    fn what_happened_is_told_in_words() {
        let words = |then, now| changes_between(then, now).to_string();
        assert_eq!(words(status(5, 4), status(7, 6)), "2 new");
        assert_eq!(words(status(5, 4), status(7, 3)), "2 new, 3 deleted");
        assert_eq!(words(status(5, 4), status(5, 4)), "1 flags");
    }

    #[test]
    fn g7_a_connection_begins_with_a_comparison() {
        let status = |uid_next| Some(status(uid_next, 1));
        assert_eq!(FarState::compared(status(1), status(1)), clean());
        assert_eq!(FarState::compared(status(2), status(1)), FarState::Suspect);
        assert_eq!(FarState::compared(status(2), None), FarState::Suspect);
        assert!(matches!(
            FarState::compared(None, status(1)),
            FarState::Found(SideVerdict::Unknown(_))
        ));
    }

    #[test]
    fn g6_after_a_run_nothing_found_before_it_is_believed() {
        let mailbox = Mailbox::of_home("INBOX");
        let account = Account { name: "Home".into(), server: None, channels: vec![] };
        let mut watched = MailboxState::new(mailbox, &account);
        for (before, others, ours) in [
            (clean(), clean(), FarState::Suspect),
            (dirty(), FarState::Suspect, FarState::Suspect),
            (FarState::PendingWrites, FarState::PendingWrites, FarState::PendingWrites),
        ] {
            // What is told before a look has confirmed it is not believed either.
            for unconfirmed in [false, true] {
                watched.unconfirmed = unconfirmed;
                watched.tell_far(before.clone());
                let doubted = unconfirmed && before == clean();
                assert_eq!(watched.far == FarState::Suspect, doubted);
            }
            for (done, after) in [(false, others), (true, ours)] {
                watched.far = before.clone();
                watched.near = NearState::Found(SideVerdict::Clean);
                watched.touched = Some(Debounce::again(None, ms(1)));
                watched.run_ended(done);
                assert_eq!((&watched.near, &watched.far), (&NearState::Unasked, &after));
                assert_eq!(watched.touched.is_none(), done);
            }
        }
    }
}
