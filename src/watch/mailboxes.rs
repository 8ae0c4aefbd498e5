//! The mailboxes of one account: the state of each, what is remembered of clean
//! scans (`seen.json`) and of runs that left one dirty (`stuck.json`), and which
//! of them need a run.
//!
//! Reads Maildirs. Does not depend on: the connection, inotify, clocks, locks.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::log::Log;
use super::mailbox::{Debounce, FarState, MailboxState, NearState, StatusUpdate};
use super::plan::{self, PlanInputs, Stuck, StuckState};
use super::scan::{self, FarSide};
use crate::imap::ClientError;
use crate::model::{Account, Mailbox, Target};
use crate::state::{StateDir, clean, state_failure};
use crate::text::short;
use crate::verdict::gone::{Gone, KeptGone};
use crate::verdict::server::ServerStatus;
use crate::verdict::{CleanState, Digest, Rules, SideVerdict, maildir, record};

/// Scans of several mailboxes on the server lead to one run, if they take no
/// longer together.
const SCANS: Duration = Duration::from_secs(2);

pub struct Mailboxes {
    states: Vec<MailboxState>,
    clean: BTreeMap<String, CleanState>,
    /// What runs have removed (`gone.json`).
    gone: BTreeMap<String, Gone>,
    stuck: StuckState,
    clean_is_unsaved: bool,
    stuck_is_unsaved: bool,
    settle: Duration,
    /// Since when mailboxes on the server are being scanned.
    scanning_since: Option<Duration>,
    log: Rc<Log>,
}

/// The state of the mailboxes that a run syncs, before it.
pub struct BeforeRun {
    /// By key: what to keep if it stays so, and the near side's digest.
    mailboxes: BTreeMap<String, (Stuck, Option<Digest>)>,
    /// Mailboxes that only the server had, if the run was to create them here.
    only_on_server: Option<BTreeSet<String>>,
}

impl Mailboxes {
    pub fn new(
        clean: BTreeMap<String, CleanState>,
        stuck: StuckState,
        settle: Duration,
        log: Rc<Log>,
    ) -> Self {
        Mailboxes {
            states: Vec::new(),
            clean,
            gone: BTreeMap::new(),
            stuck,
            clean_is_unsaved: false,
            stuck_is_unsaved: false,
            settle,
            scanning_since: None,
            log,
        }
    }

    pub fn read(dir: &StateDir, settle: Duration, log: Rc<Log>) -> Self {
        let clean = dir.read_json(clean::FILE).unwrap_or_default();
        let stuck = dir.read_json(clean::STUCK).unwrap_or_default();
        let mut mailboxes = Mailboxes::new(clean, stuck, settle, log);
        mailboxes.read_gone(dir);
        mailboxes
    }

    /// A run may have removed messages.
    pub fn read_gone(&mut self, dir: &StateDir) {
        self.gone = dir.read_json(clean::GONE).unwrap_or_default();
    }

    /// Writes what has changed since the last time.
    pub fn save(&mut self, dir: &StateDir) {
        let known: BTreeSet<String> = self.states.iter().map(MailboxState::key).collect();
        if std::mem::take(&mut self.clean_is_unsaved) {
            self.clean.retain(|key, _| known.contains(key));
            if let Err(error) = dir.write_json(clean::FILE, &self.clean) {
                self.log.report(
                    &state_failure(&error, "cannot save which mailboxes are clean").to_string(),
                );
            }
        }
        if std::mem::take(&mut self.stuck_is_unsaved) {
            self.stuck.mailboxes.retain(|key, _| known.contains(key));
            if let Err(error) = dir.write_json(clean::STUCK, &self.stuck) {
                self.log.report(
                    &state_failure(&error, "cannot save which mailboxes stay dirty").to_string(),
                );
            }
        }
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mailbox> {
        self.states.iter().map(|state| &state.mailbox)
    }

    pub fn list(&self) -> Vec<Mailbox> {
        self.iter().cloned().collect()
    }

    /// These are the mailboxes now; what is known of those that stay is kept.
    /// True if they are not the same as before.
    pub fn replace(&mut self, found: Vec<Mailbox>, account: &Account) -> bool {
        let same = self.iter().eq(&found);
        let mut known: BTreeMap<Mailbox, MailboxState> =
            self.states.drain(..).map(|state| (state.mailbox.clone(), state)).collect();
        self.states = found
            .into_iter()
            .map(|mailbox| {
                let new = |mailbox| MailboxState::new(mailbox, account);
                known.remove(&mailbox).unwrap_or_else(|| new(mailbox))
            })
            .collect();
        !same
    }

    /// Something happened in these Maildirs.
    pub fn touch(&mut self, mailboxes: &BTreeSet<usize>, now: Duration) {
        for at in mailboxes {
            if let Some(state) = self.states.get_mut(*at) {
                state.touched = Some(Debounce::again(state.touched, now));
            }
        }
    }

    pub fn rescan(&mut self, mailboxes: &[usize]) {
        for at in mailboxes {
            if let Some(state) = self.states.get_mut(*at) {
                state.near = NearState::Unscanned;
            }
        }
    }

    pub fn rescan_all(&mut self) {
        self.states.iter_mut().for_each(|state| state.near = NearState::Unscanned);
    }

    /// When the Maildirs that were touched have been quiet long enough.
    pub fn settled_at(&self) -> Option<Duration> {
        Debounce::together(self.states.iter().filter_map(|state| state.touched))
            .map(|touched| touched.settled_at(self.settle))
    }

    /// Scans the Maildirs that may have changed and have settled. True if there
    /// was one.
    pub fn scan_near_sides(&mut self, now: Duration) -> bool {
        let settled = self.settled_at().is_some_and(|at| now >= at);
        let due: Vec<usize> = (0..self.states.len())
            .filter(|at| self.states.get(*at).is_some_and(|state| state.needs_near_scan(settled)))
            .collect();
        for at in &due {
            self.scan_near_side(*at, None);
        }
        !due.is_empty()
    }

    /// `left_by_run`: see [`maildir::scan_mailbox`].
    fn scan_near_side(&mut self, at: usize, left_by_run: Option<Digest>) {
        let Some(state) = self.states.get_mut(at) else { return };
        let was_touched = state.touched.take().is_some();
        let key = state.key();
        let by_run = self.gone.get(&key);
        let clean = self.clean.entry(key).or_default();
        let (verdict, memory) = scan_maildir(state, clean, by_run, left_by_run);
        state.set_far(state.far.clone());
        if let Some(memory) = memory {
            clean.near = Some(memory);
            self.clean_is_unsaved = true;
        }
        let text = match &verdict {
            SideVerdict::Clean if was_touched => Some("touched, nothing to push".to_owned()),
            SideVerdict::Clean => None,
            SideVerdict::Changed(changes) => Some(format!("to push: {changes}")),
            SideVerdict::Unknown(why) => Some(why.clone()),
        };
        if let Some(text) = text {
            self.log.say(|| format!("{}: {text}", state.mailbox.near));
        }
        let is_clean = verdict == SideVerdict::Clean;
        state.near = NearState::Known(verdict);
        if is_clean {
            self.unstick(at, |stuck| stuck.near = None);
        }
    }

    /// A side found clean is no longer stuck.
    fn unstick(&mut self, at: usize, clear: impl FnOnce(&mut Stuck)) {
        let Some(key) = self.states.get(at).map(MailboxState::key) else { return };
        let Some(stuck) = self.stuck.mailboxes.get_mut(&key) else { return };
        let before = stuck.clone();
        clear(stuck);
        self.stuck_is_unsaved |= *stuck != before;
        if *stuck == Stuck::default() {
            self.stuck.mailboxes.remove(&key);
        }
    }

    /// The server reports that a mailbox has changed. `hidden`: in a way that STATUS
    /// does not show. `quiet`: no run is active, and none was a moment ago.
    pub fn server_changed(
        &mut self,
        at: usize,
        status: Option<ServerStatus>,
        hidden: bool,
        quiet: bool,
    ) {
        let Some(state) = self.states.get_mut(at) else { return };
        let key = state.key();
        let clean = self.clean.get(&key).and_then(|clean| state.clean_status(clean));
        if hidden {
            // STATUS alone must not satisfy the next scan.
            self.clean.entry(key).or_default().far = None;
        }
        state.set_far(match status {
            Some(now) => {
                state.far.updated(StatusUpdate { now, clean, hidden, quiet }, state.rules.is_ok())
            }
            None => FarState::compared(None, None),
        });
        self.log.say(|| {
            let then = match &state.far {
                FarState::Known(SideVerdict::Clean) => "as at the last scan",
                FarState::Unscanned => "may be an echo",
                _ => "a change",
            };
            let status = status.map_or("it is gone".into(), |status| {
                format!("{} messages, next UID {}", status.messages, status.uid_next)
            });
            format!("{}: the server reports {status}: {then}", state.mailbox.near)
        });
    }

    /// A connection starts: its STATUS of each mailbox against that of the last
    /// clean scan.
    pub fn connected(&mut self, statuses: &[Option<ServerStatus>]) {
        for (at, state) in self.states.iter_mut().enumerate() {
            let clean = self.clean.get(&state.key()).and_then(|clean| state.clean_status(clean));
            state.set_far(FarState::compared(status(statuses, at), clean));
        }
    }

    pub fn disconnected(&mut self) {
        self.states.iter_mut().for_each(|state| state.far = FarState::Unwatched);
    }

    /// Whether scans on the server are under way: what they show goes into one run.
    /// A server that is slow about it is not waited for.
    pub fn is_scanning(&mut self, now: Duration) -> bool {
        if self.next_far_scan().is_none() {
            self.scanning_since = None;
        }
        self.scanning_since.is_some_and(|since| now < since + SCANS)
    }

    /// A mailbox to be scanned on the server.
    pub fn next_far_scan(&self) -> Option<usize> {
        self.states.iter().position(|state| state.far == FarState::Unscanned)
    }

    /// Scans a mailbox on the server. False if it changed meanwhile, so that it has
    /// to be scanned again. Fails when the connection is lost.
    pub fn scan_far_side(
        &mut self,
        at: usize,
        server: &mut impl FarSide,
        clock: impl Fn() -> Duration,
    ) -> Result<bool, ClientError> {
        let Some(state) = self.states.get_mut(at) else { return Ok(true) };
        let key = state.key();
        let by_run = self.gone.get(&key);
        let clean = self.clean.entry(key).or_default();
        let started = clock();
        self.scanning_since.get_or_insert(started);
        let scan = scan::far(state, at, clean, by_run, server)?;
        self.clean_is_unsaved |= scan.learned;
        self.log.say(|| {
            let took = short(clock().saturating_sub(started));
            let text = match &scan.verdict {
                Some(SideVerdict::Clean) => format!("in step with the server ({took})"),
                Some(SideVerdict::Changed(changes)) => format!("to pull: {changes} ({took})"),
                Some(SideVerdict::Unknown(why)) => why.clone(),
                None => "changed during the scan; scanning again".into(),
            };
            format!("{}: {text}", state.mailbox.near)
        });
        state.unconfirmed = false;
        // What it found gone may be what the near side lacks.
        if scan.learned && matches!(state.near, NearState::Known(SideVerdict::Changed(_))) {
            state.near = NearState::Unscanned;
        }
        let Some(verdict) = scan.verdict else { return Ok(false) };
        let is_clean = verdict == SideVerdict::Clean;
        state.far = FarState::Known(verdict);
        if is_clean {
            self.unstick(at, |stuck| stuck.far = None);
        }
        Ok(true)
    }

    /// The mailboxes that need a run, and why.
    pub fn dirty(&self, statuses: &[Option<ServerStatus>]) -> Vec<(Target, String)> {
        let needs_run = |(at, state): (usize, &MailboxState)| {
            if state.is_settling() {
                return None;
            }
            let why = plan::why_dirty(PlanInputs {
                verdict: state.verdict(),
                now: &state.fingerprint(status(statuses, at)),
                stuck: self.stuck.mailboxes.get(&state.key()),
            })?;
            Some((state.mailbox.target(), format!("{} {why}", state.mailbox.near)))
        };
        self.states.iter().enumerate().filter_map(needs_run).collect()
    }

    /// Whether a run could create one of these mailboxes here.
    pub fn are_new(&self, only_on_server: &BTreeSet<String>) -> bool {
        !only_on_server.is_subset(&self.stuck.only_on_server)
    }

    pub fn before_run(
        &self,
        targets: &BTreeSet<Target>,
        statuses: &[Option<ServerStatus>],
        only_on_server: Option<&BTreeSet<String>>,
    ) -> BeforeRun {
        let mailboxes = self
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| targets.iter().any(|target| target.covers_mailbox(&state.mailbox)))
            .map(|(at, state)| {
                let before = state.fingerprint(status(statuses, at));
                let stuck = plan::stuck_after_run(&state.verdict(), &before);
                (state.key(), (stuck, state.digest))
            })
            .collect();
        let whole = targets.contains(&Target::Account);
        BeforeRun { mailboxes, only_on_server: only_on_server.filter(|_| whole).cloned() }
    }

    /// After a run that reached the mailboxes: what is still as before is not
    /// run for again.
    pub fn remember_stuck(&mut self, before: &BeforeRun) {
        for (key, (stuck, _)) in &before.mailboxes {
            if *stuck != Stuck::default() {
                let entry = self.stuck.mailboxes.entry(key.clone()).or_default();
                entry.near = stuck.near.clone().or(entry.near.take());
                entry.far = stuck.far.clone().or(entry.far.take());
                self.stuck_is_unsaved = true;
            }
        }
        if let Some(only_on_server) = &before.only_on_server {
            self.stuck_is_unsaved |= self.stuck.only_on_server != *only_on_server;
            self.stuck.only_on_server.clone_from(only_on_server);
        }
    }

    /// After a run of ours: the mailboxes that it synced, which are unscanned now.
    /// `well`: it synced all of them.
    pub fn our_run_ended(&mut self, before: &BeforeRun, well: bool) -> BTreeSet<usize> {
        let mut synced = BTreeSet::new();
        for at in 0..self.states.len() {
            let Some(state) = self.states.get_mut(at) else { continue };
            let Some((_, digest)) = before.mailboxes.get(&state.key()) else { continue };
            state.run_ended(true);
            synced.insert(at);
            if well && state.rules.as_ref().is_ok_and(|rules| rules.alt_map) {
                self.scan_near_side(at, *digest);
            }
        }
        synced
    }

    pub fn other_run_ended(&mut self) {
        self.states.iter_mut().for_each(|state| state.run_ended(false));
    }
}

fn status(statuses: &[Option<ServerStatus>], at: usize) -> Option<ServerStatus> {
    statuses.get(at).copied().flatten()
}

/// Scans the near side of a mailbox. Without rules the digest alone is taken, to
/// compare fingerprints; a mailbox that is not here counts as clean, so that the
/// server's side alone decides.
fn scan_maildir(
    state: &mut MailboxState,
    clean: &CleanState,
    by_run: Option<&Gone>,
    left_by_run: Option<Digest>,
) -> (SideVerdict, Option<maildir::CleanMaildir>) {
    let (rules, clean) = match &state.rules {
        Ok(rules) => (rules, clean),
        Err(_) => (&Rules::none(), &CleanState::default()),
    };
    let found = maildir::scan_mailbox(&state.mailbox, rules, clean, by_run, left_by_run);
    let Some((scan, memory)) = found else { return (SideVerdict::Clean, None) };
    state.digest = scan.digest;
    state.record = scan.record;
    let kept = KeptGone { by_scan: clean.gone.as_ref(), by_run };
    state.unconfirmed = kept.of_record(scan.record.as_ref()).is_unconfirmed();
    state.unfinished = state.mailbox.state_file.as_deref().is_some_and(record::unfinished);
    match &state.rules {
        Ok(_) => (scan.verdict, memory),
        Err(why) => (SideVerdict::Unknown(why.clone()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::{MailboxScan, MailboxStatus, Opening};
    use crate::model::flags::Flags;
    use crate::model::uid_set::UidSet;
    use crate::verdict::maildir::Stamp;
    use std::path::Path;

    const SETTLE: Duration = Duration::from_secs(1);
    const STATUS: ServerStatus =
        ServerStatus { uid_validity: 1, uid_next: 2, messages: 1, highest_modseq: Some(5) };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn account() -> Account {
        Account { name: "Home".into(), server: None, channels: vec![] }
    }

    /// A Maildir with one message that is in step with its record.
    fn maildir(base: &Path, name: &str) -> Mailbox {
        let maildir = base.join(name);
        for folder in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(maildir.join(folder)).unwrap();
        }
        std::fs::write(maildir.join(".uidvalidity"), "2\n1\n").unwrap();
        let head = "FarUidValidity 1\nNearUidValidity 2\nMaxPulledUid 1\nMaxPushedUid 1\n\n";
        std::fs::write(maildir.join(".mbsyncstate"), format!("{head}1 1 S\n")).unwrap();
        std::fs::write(maildir.join("cur/a,U=1:2,S"), "").unwrap();
        Mailbox {
            state_file: Some(maildir.join(".mbsyncstate")),
            maildir: Some(maildir),
            ..Mailbox::of_home(name)
        }
    }

    fn mailboxes(found: Vec<Mailbox>) -> Mailboxes {
        let log = Rc::new(Log::new("Home", false));
        let mut all = Mailboxes::new(BTreeMap::new(), StuckState::default(), SETTLE, log);
        assert!(all.replace(found, &account()));
        for state in &mut all.states {
            state.rules = Ok(Rules::none());
        }
        all
    }

    fn dirty(all: &Mailboxes, statuses: &[Option<ServerStatus>]) -> Vec<String> {
        all.dirty(statuses).into_iter().map(|(_, why)| why).collect()
    }

    /// A server whose mailboxes hold the messages 1 up to `last`, all seen.
    struct NumberedServer {
        status: ServerStatus,
        last: u32,
    }

    impl FarSide for NumberedServer {
        fn status(&self, _: usize) -> Option<ServerStatus> {
            Some(self.status)
        }

        fn scan(
            &mut self,
            _: usize,
            _: Opening,
            _: Option<u64>,
        ) -> Result<Option<MailboxScan>, ClientError> {
            Ok(Some(MailboxScan {
                uid_validity: Some(1),
                forwarded: Some(true),
                uids: UidSet::from_uids(1..=self.last),
                flags: (1..=self.last).map(|uid| (uid, Flags::SEEN)).collect(),
                all_flags: true,
                after: MailboxStatus::default(),
            }))
        }
    }

    #[test]
    fn a_local_change_needs_a_run_once_it_has_settled() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        assert!(all.scan_near_sides(s(10)) && !all.scan_near_sides(s(10)));
        assert_eq!(dirty(&all, &[]), [""; 0]);
        let cur = base.path().join("INBOX/cur");
        std::fs::rename(cur.join("a,U=1:2,S"), cur.join("a,U=1:2,RS")).unwrap();
        all.touch(&BTreeSet::from([0]), s(20));
        assert_eq!(all.settled_at(), Some(s(21)));
        assert!(!all.scan_near_sides(s(20)), "mutt may still be writing");
        assert!(all.scan_near_sides(s(21)));
        assert_eq!(dirty(&all, &[]), ["INBOX to push: 1 flag change"]);
        all.touch(&BTreeSet::from([0]), s(22));
        assert!(dirty(&all, &[]).is_empty(), "settling again");
    }

    #[test]
    fn g5_a_report_needs_a_run_and_an_echo_needs_a_scan() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        all.scan_near_sides(s(10));
        let mut server = NumberedServer { status: STATUS, last: 1 };
        all.connected(&[Some(STATUS)]);
        assert_eq!(all.next_far_scan(), Some(0));
        assert!(all.scan_far_side(0, &mut server, || s(11)).unwrap());
        assert!(!all.is_scanning(s(11)) && all.next_far_scan().is_none());
        let news = ServerStatus { uid_next: 3, messages: 2, ..STATUS };
        all.server_changed(0, Some(news), false, true);
        assert_eq!(dirty(&all, &[Some(news)]), ["INBOX to pull: 1 new"]);
        // Soon after a run the same may be its echo.
        all.connected(&[Some(STATUS)]);
        all.server_changed(0, Some(news), false, false);
        assert_eq!(dirty(&all, &[Some(news)]), [""; 0]);
        server = NumberedServer { status: news, last: 2 };
        assert!(all.scan_far_side(0, &mut server, || s(12)).unwrap());
        assert_eq!(dirty(&all, &[Some(news)]), ["INBOX to pull: 1 new"]);
        all.disconnected();
        assert_eq!(dirty(&all, &[]), [""; 0]);
    }

    #[test]
    fn scans_on_the_server_are_collected_for_a_while_only() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX"), maildir(base.path(), "Sent")]);
        all.connected(&[Some(STATUS), Some(STATUS)]);
        let mut server = NumberedServer { status: STATUS, last: 1 };
        assert!(!all.is_scanning(s(10)));
        all.scan_far_side(0, &mut server, || s(10)).unwrap();
        assert!(all.is_scanning(s(11)) && !all.is_scanning(s(10) + SCANS));
        assert_eq!(all.next_far_scan(), Some(1));
    }

    #[test]
    fn g5_what_a_run_leaves_dirty_is_kept_until_it_is_clean() {
        let base = tempfile::tempdir().unwrap();
        let mut all = mailboxes(vec![maildir(base.path(), "INBOX")]);
        std::fs::write(base.path().join("INBOX/cur/refused"), "").unwrap();
        all.scan_near_sides(s(10));
        assert_eq!(dirty(&all, &[]), ["INBOX to push: 1 new"]);
        let targets = BTreeSet::from([Target::Account]);
        let only = BTreeSet::from(["Lists".to_owned()]);
        assert!(all.are_new(&only));
        let before = all.before_run(&targets, &[], Some(&only));
        all.remember_stuck(&before);
        assert_eq!(all.our_run_ended(&before, true), BTreeSet::from([0]));
        all.scan_near_sides(s(20));
        assert!(dirty(&all, &[]).is_empty() && !all.are_new(&only));
        let dir = StateDir::open(base.path(), "Home").unwrap();
        all.save(&dir);
        // Another process starts from the files, with the field names of 0.1.0.
        let text = std::fs::read_to_string(dir.file("stuck.json")).unwrap();
        assert!(text.starts_with("{\"mailboxes\":{\"Home\\nINBOX\":{\"near\":{"), "{text}");
        assert!(text.ends_with("\"only_there\":[\"Lists\"]}\n"), "{text}");
        let mut next = Mailboxes::read(&dir, SETTLE, Rc::new(Log::new("Home", false)));
        next.replace(all.list(), &account());
        next.states[0].rules = Ok(Rules::none());
        next.scan_near_sides(s(30));
        assert_eq!(dirty(&next, &[]), [""; 0]);
        std::fs::remove_file(base.path().join("INBOX/cur/refused")).unwrap();
        next.rescan_all();
        next.scan_near_sides(s(40));
        assert!(next.stuck.mailboxes.is_empty());
        std::fs::write(base.path().join("INBOX/cur/refused"), "").unwrap();
        next.rescan_all();
        next.scan_near_sides(s(50));
        assert_eq!(dirty(&next, &[]), ["INBOX to push: 1 new"]);
    }

    #[test]
    fn mailboxes_that_stay_keep_their_state() {
        let base = tempfile::tempdir().unwrap();
        let inbox = maildir(base.path(), "INBOX");
        let mut all = mailboxes(vec![inbox.clone()]);
        all.scan_near_sides(s(10));
        let record: Option<Stamp> = all.states[0].record;
        assert!(record.is_some());
        assert!(!all.replace(vec![inbox.clone()], &account()));
        let sent = maildir(base.path(), "Sent");
        assert!(all.replace(vec![sent, inbox], &account()));
        assert_eq!((all.states[0].record, all.states[1].record), (None, record));
    }
}
