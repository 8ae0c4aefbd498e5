//! What the waiter knows of one mailbox, how events change it, and whether it needs a
//! run.
//!
//! Each side of a mailbox is clean, dirty, or unscanned. An event makes it
//! unscanned again, with two exceptions: what the server reports of a mailbox known
//! to be clean, while no run is active, cannot be an echo and needs no scan; nor does
//! more of it where a run is due anyway.
//!
//! A dirty mailbox is synced once for each of its states: if it is as dirty
//! after a run as before (one-way Sync, a refused message, `MaxMessages`),
//! another run would do the same again. The same holds for a mailbox on which
//! no verdict can be given.
//!
//! Does not depend on: files, clocks, connections: values in, values out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Account, Mailbox};
use crate::state::clean;
use crate::sync::settle::QUIET;
use crate::verdict::server::ServerStatus;
use crate::verdict::{
    Changes, CleanState, Digest, Fingerprint, Rules, SideVerdict, Verdict, maildir,
};

/// A server that goes on reporting changes is not waited for longer.
pub const LONGEST_REPORT: Duration = Duration::from_millis(600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NearState {
    Unscanned,
    Known(SideVerdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FarState {
    /// There is no connection.
    Unwatched,
    /// Something is different, and may be an echo of a run.
    Unscanned,
    Known(SideVerdict),
}

/// The first and the last of some events, in time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debounce {
    first: Duration,
    last: Duration,
}

impl Debounce {
    /// One more event.
    pub fn again(before: Option<Debounce>, now: Duration) -> Debounce {
        Debounce { first: before.map_or(now, |events| events.first), last: now }
    }

    /// All of these as one: a message that is moved touches two mailboxes, and is
    /// one change.
    pub fn together(each: impl Iterator<Item = Debounce>) -> Option<Debounce> {
        each.reduce(|a, b| Debounce { first: a.first.min(b.first), last: a.last.max(b.last) })
    }

    /// When it has been quiet, or has lasted for `longest`.
    pub fn settled_at(self, longest: Duration) -> Duration {
        (self.last + QUIET).min(self.first + longest)
    }
}

/// The state of a mailbox before the last run that did not make it clean. Each
/// side is kept on its own, and forgotten when that side is found clean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stuck {
    /// When the near side was dirty.
    pub near: Option<Fingerprint>,
    /// When the far side was.
    pub far: Option<Fingerprint>,
}

impl Stuck {
    /// What to keep of a mailbox that a run has just synced, from its state
    /// before. A side that was clean then leaves nothing to keep.
    pub fn after_run(verdict: &Verdict, before: &Fingerprint) -> Stuck {
        let dirty = |side: &SideVerdict| (*side != SideVerdict::Clean).then(|| before.clone());
        Stuck { near: dirty(&verdict.near), far: dirty(&verdict.far) }
    }

    /// The part of the verdict that calls for a run; `None` if nothing does.
    pub fn why_dirty(&self, mut verdict: Verdict, now: &Fingerprint) -> Option<Verdict> {
        if self.near.as_ref().is_some_and(|then| {
            (&then.near, &then.record, then.unfinished) == (&now.near, &now.record, now.unfinished)
        }) {
            verdict.near = SideVerdict::Clean;
        }
        let is_same = |then: &Fingerprint| (then.far, &then.record) == (now.far, &now.record);
        if self.far.as_ref().is_some_and(is_same) {
            verdict.far = SideVerdict::Clean;
        }
        (verdict != Verdict::CLEAN).then_some(verdict)
    }
}

#[derive(Debug, Clone)]
// Each is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct MailboxState {
    pub mailbox: Mailbox,
    /// Why no verdict can be given, if there are no rules.
    pub rules: Result<Rules, String>,
    pub near: NearState,
    pub far: FarState,
    /// STATUS when `far` was last compared or scanned, and what differed then.
    pub far_base: Option<(ServerStatus, Changes)>,
    /// A scan has shown it, and not STATUS alone.
    pub far_is_scanned: bool,
    /// Events in the Maildir since its last scan.
    pub touched: Option<Debounce>,
    /// The near side's digest at the last scan.
    pub digest: Option<Digest>,
    /// The record's stamp at the last scan.
    pub record: Option<maildir::Stamp>,
    /// It was still being written when it was last scanned, after the longest wait:
    /// mbsync is going to sleep for it.
    pub busy: bool,
    /// mbsync was interrupted in it.
    pub unfinished: bool,
    /// What is gone on the server was concluded from a run: a scan is to confirm it.
    pub unconfirmed: bool,
}

impl MailboxState {
    pub fn new(mailbox: Mailbox, account: &Account) -> MailboxState {
        MailboxState {
            rules: Rules::of_mailbox(&mailbox, account),
            mailbox,
            near: NearState::Unscanned,
            far: FarState::Unwatched,
            far_base: None,
            far_is_scanned: false,
            touched: None,
            digest: None,
            record: None,
            busy: false,
            unfinished: false,
            unconfirmed: false,
        }
    }

    /// Its entry in `seen.json` and `stuck.json`.
    pub fn key(&self) -> String {
        clean::key(&self.mailbox)
    }

    /// The far side's STATUS at the last clean scan, if it was judged by the
    /// rules that hold now, and by the record that is there now (with this stamp).
    pub fn clean_status(
        &self,
        clean: &CleanState,
        record: Option<maildir::Stamp>,
    ) -> Option<ServerStatus> {
        let then = clean.far.as_ref().filter(|then| then.is_of_record(record.as_ref()))?;
        (self.rules.as_ref() == Ok(&then.rules)).then_some(then.status)
    }

    /// The state of both sides now, with what the server last reported.
    pub fn fingerprint(&self, far: Option<ServerStatus>) -> Fingerprint {
        Fingerprint { near: self.digest, record: self.record, far, unfinished: self.unfinished }
    }

    /// What is known to call for a run: an unscanned side counts as clean.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::CLEAN;
        if let NearState::Known(near) = &self.near {
            verdict.near = near.clone();
        }
        if let FarState::Known(far) = &self.far {
            verdict.far = far.clone();
        }
        verdict
    }

    /// What of it calls for a run; `None` if nothing does. `far`: what the server last
    /// reported. `stuck`: see [`Stuck`].
    pub fn why_dirty(&self, far: Option<ServerStatus>, stuck: Option<&Stuck>) -> Option<Verdict> {
        let (verdict, none) = (self.verdict(), Stuck::default());
        // The usual case, which costs nothing.
        if verdict == Verdict::CLEAN {
            return None;
        }
        stuck.unwrap_or(&none).why_dirty(verdict, &self.fingerprint(far))
    }

    /// Whether mutt may be about to change more in it.
    pub fn is_settling(&self) -> bool {
        self.touched.is_some() && !self.busy
    }

    /// Whether its Maildir is to be scanned now. `settled`: the mailboxes that were
    /// touched have been quiet long enough.
    pub fn needs_near_scan(&self, settled: bool) -> bool {
        match (&self.near, self.touched) {
            (_, Some(_)) => settled,
            (NearState::Unscanned, None) => true,
            (NearState::Known(_), None) => false,
        }
    }

    /// The server's report or STATUS: enough to call the mailbox clean only if no scan
    /// has to confirm anything.
    pub fn set_far(&mut self, far: FarState) {
        let clean = far == FarState::Known(SideVerdict::Clean);
        self.far = if clean && self.unconfirmed { FarState::Unscanned } else { far };
    }

    /// A run has ended: what was dirty may be clean now, and what was clean may be
    /// dirty. `ours`: it was ours and synced this mailbox, so that earlier local
    /// events are dealt with.
    pub fn run_ended(&mut self, ours: bool) {
        self.near = NearState::Unscanned;
        if ours {
            self.touched = None;
            self.busy = false;
        }
        if matches!(&self.far, FarState::Known(far) if ours || *far != SideVerdict::Clean) {
            self.far = FarState::Unscanned;
        }
    }
}

/// What the server has just reported of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusUpdate {
    pub now: ServerStatus,
    /// See [`MailboxState::far_base`].
    pub base: Option<(ServerStatus, Changes)>,
    /// STATUS at the last clean scan.
    pub clean: Option<ServerStatus>,
    /// Something happened that STATUS does not show: flags, on a server without
    /// modification sequences.
    pub hidden: bool,
    /// No run is active, and none was a moment ago.
    pub quiet: bool,
}

impl FarState {
    /// What follows from a report. `has_rules`: a verdict can be given on this
    /// mailbox.
    pub fn updated(&self, update: StatusUpdate, has_rules: bool) -> FarState {
        let StatusUpdate { now, base, clean, hidden, quiet } = update;
        if clean == Some(now) && !hidden {
            return FarState::Known(SideVerdict::Clean);
        }
        let is_clear = match self {
            FarState::Known(SideVerdict::Clean) => quiet,
            FarState::Known(SideVerdict::Changed(_)) => true,
            _ => false,
        };
        let Some((then, before)) = base.filter(|_| is_clear && has_rules) else {
            return FarState::Unscanned;
        };
        // The last one may be of what the scan has shown.
        let since = if then == now && !hidden && !before.none() {
            Changes::default()
        } else {
            changes_between(then, now)
        };
        FarState::Known(SideVerdict::Changed(before.and(since)))
    }

    /// What follows from the STATUS that a new connection starts with.
    pub fn compared(status: Option<ServerStatus>, clean: Option<ServerStatus>) -> FarState {
        match (status, clean) {
            (Some(now), Some(then)) if now == then => FarState::Known(SideVerdict::Clean),
            (Some(_), _) => FarState::Unscanned,
            // Not on the server, or STATUS is refused.
            (None, _) => FarState::Known(SideVerdict::Unknown("not on the server".into())),
        }
    }
}

/// What happened between two STATUS responses, for messages only.
fn changes_between(then: ServerStatus, now: ServerStatus) -> Changes {
    let new = now.uid_next.saturating_sub(then.uid_next);
    let deleted = then.messages.saturating_add(new).saturating_sub(now.messages);
    let flags = u32::from(new == 0 && deleted == 0);
    Changes { new, deleted, flags, other: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn clean() -> FarState {
        FarState::Known(SideVerdict::Clean)
    }

    fn dirty() -> FarState {
        FarState::Known(SideVerdict::Changed(Changes { other: 1, ..Changes::default() }))
    }

    #[test]
    fn quiet_is_waited_for_but_not_forever() {
        let longest = ms(1000);
        let mut touched = None;
        for at in (0..20_000).step_by(100) {
            touched = Some(Debounce::again(touched, ms(at)));
        }
        assert_eq!(touched.unwrap().settled_at(longest), ms(1000));
        assert_eq!(touched.unwrap().settled_at(LONGEST_REPORT), ms(600));
        let other = Debounce::again(None, ms(300));
        assert_eq!(other.settled_at(longest), ms(450));
        assert_eq!(other.settled_at(ms(0)), ms(300));
        let late = Debounce::again(None, ms(400));
        let both = Debounce::together([other, late].into_iter()).unwrap();
        assert_eq!(both.settled_at(longest), ms(550));
        assert_eq!(Debounce::together(std::iter::empty()), None);
    }

    fn status(uid_next: u32, messages: u32) -> ServerStatus {
        ServerStatus { uid_validity: 1, uid_next, messages, highest_modseq: Some(1) }
    }

    #[test]
    fn g5_only_a_quiet_and_clean_mailbox_counts_as_changed_without_a_scan() {
        let (seen, now) = (status(5, 4), status(6, 5));
        let base = Some((seen, Changes::default()));
        let news = StatusUpdate { now, base, clean: Some(seen), hidden: false, quiet: true };
        let new = FarState::Known(SideVerdict::Changed(Changes { new: 1, ..Changes::default() }));
        assert_eq!(clean().updated(news, true), new);
        assert_eq!(clean().updated(news, false), FarState::Unscanned);
        assert_eq!(
            clean().updated(StatusUpdate { quiet: false, ..news }, true),
            FarState::Unscanned
        );
        assert_eq!(FarState::Unscanned.updated(news, true), FarState::Unscanned);
        // More of it.
        for quiet in [true, false] {
            assert_eq!(dirty().updated(StatusUpdate { quiet, ..news }, true), new);
        }
        assert_eq!(dirty().updated(news, false), FarState::Unscanned);
        let unknown = FarState::Known(SideVerdict::Unknown("x".into()));
        assert_eq!(unknown.updated(news, true), FarState::Unscanned);
        assert_eq!(FarState::Unwatched.updated(news, true), FarState::Unscanned);
    }

    #[test]
    fn what_a_scan_found_and_what_came_after_it_add_up() {
        let found = Changes { new: 1, other: 1, ..Changes::default() };
        let then = status(5, 4);
        let update = |now, hidden| {
            let base = Some((then, found));
            let update = StatusUpdate { now, base, clean: None, hidden, quiet: false };
            match dirty().updated(update, true) {
                FarState::Known(SideVerdict::Changed(changes)) => changes,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(update(status(6, 5), false), Changes { new: 2, ..found });
        // What the scan has seen is reported late.
        assert_eq!(update(then, false), found);
        assert_eq!(update(then, true), Changes { flags: 1, ..found });
        let flag = ServerStatus { highest_modseq: Some(2), ..then };
        assert_eq!(update(flag, false), Changes { flags: 1, ..found });
    }

    #[test]
    fn status_as_at_the_last_clean_scan_is_clean_unless_flags_do_not_show() {
        let now = status(5, 4);
        let base = Some((now, Changes::default()));
        let same = StatusUpdate { now, base, clean: Some(now), hidden: false, quiet: false };
        assert_eq!(FarState::Unscanned.updated(same, true), clean());
        assert_eq!(
            clean().updated(StatusUpdate { hidden: true, ..same }, true),
            FarState::Unscanned
        );
        let flag =
            FarState::Known(SideVerdict::Changed(Changes { flags: 1, ..Changes::default() }));
        assert_eq!(clean().updated(StatusUpdate { hidden: true, quiet: true, ..same }, true), flag);
    }

    #[test]
    fn what_happened_is_readable() {
        let words = |then, now| changes_between(then, now).to_string();
        assert_eq!(words(status(5, 4), status(7, 6)), "2 new");
        assert_eq!(words(status(5, 4), status(7, 3)), "2 new, 3 deleted");
        assert_eq!(words(status(5, 4), status(5, 4)), "1 flag change");
    }

    #[test]
    fn g7_a_connection_starts_with_a_comparison() {
        let status = |uid_next| Some(status(uid_next, 1));
        assert_eq!(FarState::compared(status(1), status(1)), clean());
        assert_eq!(FarState::compared(status(2), status(1)), FarState::Unscanned);
        assert_eq!(FarState::compared(status(2), None), FarState::Unscanned);
        assert!(matches!(
            FarState::compared(None, status(1)),
            FarState::Known(SideVerdict::Unknown(_))
        ));
    }

    #[test]
    fn g6_after_a_run_no_earlier_verdict_holds() {
        let mailbox = Mailbox::of_home("INBOX");
        let account = Account { name: "Home".into(), server: None, channels: vec![] };
        let mut state = MailboxState::new(mailbox, &account);
        for (before, after_other, after_ours) in [
            (clean(), clean(), FarState::Unscanned),
            (dirty(), FarState::Unscanned, FarState::Unscanned),
            (FarState::Unwatched, FarState::Unwatched, FarState::Unwatched),
        ] {
            // A report before a scan has confirmed it is not enough either.
            for unconfirmed in [false, true] {
                state.unconfirmed = unconfirmed;
                state.set_far(before.clone());
                let doubted = unconfirmed && before == FarState::Known(SideVerdict::Clean);
                assert_eq!(
                    state.far == FarState::Unscanned,
                    doubted || before == FarState::Unscanned
                );
            }
            for (ours, after) in [(false, after_other), (true, after_ours)] {
                state.far = before.clone();
                state.near = NearState::Known(SideVerdict::Clean);
                state.touched = Some(Debounce::again(None, ms(1)));
                state.run_ended(ours);
                assert_eq!((&state.near, &state.far), (&NearState::Unscanned, &after));
                assert_eq!(state.touched.is_none(), ours);
            }
        }
    }

    fn far(uid_next: u32) -> ServerStatus {
        ServerStatus { uid_validity: 1, uid_next, messages: 1, highest_modseq: None }
    }

    fn changed() -> SideVerdict {
        SideVerdict::Changed(Changes { new: 1, ..Changes::default() })
    }

    fn unknown() -> SideVerdict {
        SideVerdict::Unknown("x".into())
    }

    const CLEAN: SideVerdict = SideVerdict::Clean;

    fn runs(near: &SideVerdict, far: &SideVerdict, now: &Fingerprint, stuck: &Stuck) -> bool {
        let verdict = Verdict { near: near.clone(), far: far.clone() };
        stuck.why_dirty(verdict, now).is_some()
    }

    fn stuck(near: &SideVerdict, far: &SideVerdict, before: &Fingerprint) -> Stuck {
        Stuck::after_run(&Verdict { near: near.clone(), far: far.clone() }, before)
    }

    #[test]
    fn dirty_runs_and_clean_does_not() {
        let now = Fingerprint::default();
        let none = Stuck::default();
        assert!(runs(&changed(), &CLEAN, &now, &none));
        assert!(runs(&CLEAN, &changed(), &now, &none));
        assert!(!runs(&CLEAN, &CLEAN, &now, &none));
        assert!(runs(&unknown(), &CLEAN, &now, &none));
        let verdict = Verdict { near: CLEAN, far: changed() };
        assert_eq!(none.why_dirty(verdict.clone(), &now), Some(verdict));
    }

    #[test]
    fn g5_what_a_run_left_as_it_was_is_not_run_again() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        for dirty in [changed(), unknown()] {
            let both = stuck(&dirty, &dirty, &then);
            assert!(!runs(&dirty, &CLEAN, &then, &both));
            assert!(!runs(&CLEAN, &dirty, &then, &both));
            assert!(!runs(&dirty, &dirty, &then, &both));
            let now = Fingerprint { far: Some(far(2)), ..then.clone() };
            assert!(runs(&CLEAN, &dirty, &now, &both));
            // A change of the other side is no reason.
            assert!(!runs(&dirty, &CLEAN, &now, &both));
            // A lost connection is no change.
            assert!(!runs(&dirty, &CLEAN, &Fingerprint::default(), &both));
            // mbsync was killed meanwhile.
            let now = Fingerprint { unfinished: true, ..then.clone() };
            assert!(runs(&dirty, &CLEAN, &now, &both));
        }
    }

    #[test]
    fn a_side_that_was_clean_before_the_run_may_call_for_another() {
        let then = Fingerprint { far: Some(far(1)), ..Fingerprint::default() };
        let near_only = stuck(&changed(), &CLEAN, &then);
        assert!(runs(&CLEAN, &changed(), &then, &near_only));
        assert!(runs(&CLEAN, &unknown(), &then, &near_only));
    }
}
