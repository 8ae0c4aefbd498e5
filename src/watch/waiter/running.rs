//! Running mbsync when something calls for it and nothing forbids it.
//!
//! Knows the order of lock, gate and run, and what to ask again afterwards. What
//! calls for a run stands in [`super::super::need`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{ECHO, LoopStep, Waiter, print};
use crate::error::ExitStatus;
use crate::model::Target;
use crate::state::backoff::seconds;
use crate::state::last_run::{self, LastRun};
use crate::state::lock::Lock;
use crate::state::{clean, requests};
use crate::sync::account::{self, covers};
use crate::sync::scheduler::{Backend as _, Gate, Locked};
use crate::verdict::Digest;
use crate::watch::mailbox::{FarState, MailboxState};
use crate::watch::plan::{self, PlanInputs, RunPlan};
use crate::watch::server::WatchMode;
use crate::watch::{WaitEnd, clock};

impl Waiter<'_> {
    /// What is to be run now, if anything is.
    fn task(&mut self) -> Option<RunPlan> {
        let asked = self.disk.next_due() == Some(Duration::ZERO) && self.request_has_settled();
        let standing = if asked { requests::all(self.disk.dir()) } else { BTreeSet::new() };
        plan::task(
            self.dirty(),
            asked.then_some(standing),
            self.full_run_in().is_zero(),
            self.new_on_server(),
        )
    }

    /// Who asks in the background is often mutt, about to write its folder.
    fn request_has_settled(&self) -> bool {
        let settle = self.scene.settings.settle;
        self.requested.is_none_or(|requested| clock::now() >= requested.settled_at(settle))
            || requests::is_urgent(self.disk.dir())
            || requests::is_hastened(self.disk.dir(), &requests::all(self.disk.dir()))
    }

    /// Runs mbsync if something calls for it and nothing forbids it.
    pub(super) fn sync_if_needed(&mut self) -> LoopStep {
        self.busy = false;
        let Some(task) = self.task() else { return LoopStep::Nothing };
        if task.demanded.contains(&Target::Account) && self.folders_at.is_some() {
            self.enumerate();
            return LoopStep::Again;
        }
        if self.disk.gate(false, false) != Gate::Open {
            return LoopStep::Nothing;
        }
        if Lock::is_held(&self.disk.dir().file("lock")) {
            // Its end is heard of; meanwhile the server and the disk are listened to.
            self.busy = true;
            return LoopStep::Nothing;
        }
        match self.disk.lock() {
            Locked::Held => {}
            Locked::Stopped => return LoopStep::Again,
            Locked::TooLong | Locked::Unavailable => {
                let trouble = self.disk.take_trouble();
                let held = "another process holds the lock for too long".to_owned();
                self.complain(&trouble.map_or(held, |failure| failure.text));
                self.busy = true;
                return LoopStep::Nothing;
            }
        }
        // Somebody else may have run while we waited for the lock.
        let last = self.which_run();
        if last != self.last_run {
            self.disk.unlock();
            self.another_run_ended(last);
            return LoopStep::Again;
        }
        if self.disk.gate(false, false) != Gate::Open {
            self.disk.unlock();
            return LoopStep::Nothing;
        }
        self.say(|| format!("syncing: {}", task.why.join(", ")));
        let wants = self.scene.account.canonical(&task.wants);
        self.disk.submit(&self.scene.account.canonical(&task.demanded), false);
        let before = self.before_run(&wants);
        let was_clean = task.full && self.dirty().is_empty();
        let report = self.run_lending();
        self.disk.unlock();
        self.take_back(report.loan.as_ref());
        self.last_run = self.which_run();
        self.gone = self.disk.dir().read_json(clean::GONE).unwrap_or_default();
        self.run_ended = clock::now();
        self.requested = None;
        if wants.contains(&Target::Account) {
            self.full_tried = Some(self.run_ended);
        }
        self.report(&report);
        let served = matches!(report.ended.exit, ExitStatus::Done | ExitStatus::Mailbox);
        if served {
            self.remember(&before);
        }
        if let ExitStatus::Signal(signal) = report.ended.exit {
            return LoopStep::WaitEnd(WaitEnd::Stopped(signal));
        }
        if was_clean && served {
            self.doubt_silence(&report);
        }
        self.ask_again(&wants, &before, report.ended.exit == ExitStatus::Done);
        if served && !self.manner.endless {
            return LoopStep::WaitEnd(WaitEnd::Synced);
        }
        LoopStep::Again
    }

    fn report(&self, report: &account::RunReport) {
        let text = match report.ended.exit {
            ExitStatus::Done => crate::text::summary_line(&report.changes, report.took),
            _ => report.ended.text.clone(),
        };
        let name = &self.scene.account.name;
        match report.ended.exit {
            ExitStatus::Signal(_) => {}
            ExitStatus::Done if !self.manner.verbose => {}
            exit if exit.is_passing() && self.manner.hushed => {}
            ExitStatus::Done => print(&format!("{name}: {text}")),
            _ => print(&format!("mutt-sync: {name}: {text}")),
        }
    }

    /// How each mailbox that a run takes on looks before it.
    fn before_run(&self, wants: &BTreeSet<Target>) -> Before {
        let covered =
            |watched: &MailboxState| wants.iter().any(|want| covers(want, &watched.mailbox));
        let mailboxes = self
            .boxes
            .iter()
            .enumerate()
            .filter(|(_, watched)| covered(watched))
            .map(|(at, watched)| {
                let print = watched.fingerprint(self.far.as_ref().and_then(|far| far.status(at)));
                let stuck =
                    plan::left_by_run(watched.near_finding(), watched.far_finding(), &print);
                (watched.key(), (stuck, watched.digest))
            })
            .collect();
        let whole = wants.contains(&Target::Account);
        let only_there = self.far.as_ref().filter(|_| whole).map(|far| far.only_there().clone());
        Before { mailboxes, only_there }
    }

    /// After a run that reached the mailboxes: what is still as it was before it
    /// is not run for again.
    fn remember(&mut self, before: &Before) {
        for (key, (stuck, _)) in &before.mailboxes {
            if *stuck != plan::Stuck::default() {
                let entry = self.stuck.mailboxes.entry(key.clone()).or_default();
                entry.near = stuck.near.clone().or(entry.near.take());
                entry.far = stuck.far.clone().or(entry.far.take());
                self.unsaved.stuck = true;
            }
        }
        if let Some(only_there) = &before.only_there {
            self.unsaved.stuck |= self.stuck.only_there != *only_there;
            self.stuck.only_there.clone_from(only_there);
        }
    }

    /// After a run, ours: what it moved is asked about again.
    fn ask_again(&mut self, wants: &BTreeSet<Target>, before: &Before, well: bool) {
        let mut covered = BTreeSet::new();
        for at in 0..self.boxes.len() {
            let Some(watched) = self.boxes.get_mut(at) else { continue };
            let Some((_, digest)) = before.mailboxes.get(&watched.key()) else { continue };
            watched.run_ended(true);
            covered.insert(at);
            let alt_map = watched.rules.as_ref().is_ok_and(|rules| rules.alt_map);
            if well && alt_map {
                self.look_into(at, *digest);
            }
        }
        if !self.manner.endless {
            return;
        }
        if wants.contains(&Target::Account) {
            let before = self.mailboxes();
            self.enumerate();
            if before != self.mailboxes() {
                // Dovecot tells nothing of a mailbox that was made while the
                // connection was lent, whatever NOTIFY it is given: begin anew.
                self.far = None;
                self.boxes.iter_mut().for_each(|watched| watched.far = FarState::PendingWrites);
                self.reach.try_now(clock::now());
            }
        }
        self.refresh_far(Some(&covered));
    }

    /// The timer's run found something that NOTIFY had not told. If it is not told
    /// in the next moments either, the server takes the command and keeps silent.
    fn doubt_silence(&mut self, report: &account::RunReport) {
        let pulled: u32 = report.changes.iter().map(|change| change.pulled).sum();
        let Some(far) = &self.far else { return };
        if pulled > 0 && far.rung() == WatchMode::Notify {
            self.doubt = Some((clock::now() + ECHO, far.unasked()));
        }
    }

    /// The mailboxes that need a run, and why.
    pub(super) fn dirty(&self) -> Vec<(Target, String)> {
        let needs = |(at, watched): (usize, &MailboxState)| {
            if watched.is_restless() {
                return None;
            }
            let now = watched.fingerprint(self.far.as_ref().and_then(|far| far.status(at)));
            let why = plan::reason(&PlanInputs {
                near: watched.near_finding(),
                far: watched.far_finding(),
                now: &now,
                stuck: self.stuck.mailboxes.get(&watched.key()),
            })?;
            Some((watched.want(), format!("{} {why}", watched.mailbox.near)))
        };
        self.boxes.iter().enumerate().filter_map(needs).collect()
    }

    pub(super) fn new_on_server(&self) -> bool {
        let Some(far) = &self.far else { return false };
        !far.only_there().is_subset(&self.stuck.only_there)
    }

    /// Time to the next full run; never longer than `every`, whatever the clock
    /// says. One that failed is tried again as a request that stands, not here.
    pub(super) fn full_run_in(&self) -> Duration {
        let every = self.scene.settings.every;
        let last: LastRun = self.disk.dir().read_json(last_run::FILE).unwrap_or_default();
        let tried = last.whole.then_some(last.started / 1000);
        // One from a clock that was ahead is not believed: it would be in the
        // future at each look, and the timer never due.
        let now = seconds(SystemTime::now());
        let told = [last.last_whole, tried].into_iter().flatten().filter(|at| *at <= now + 1).max();
        let by_wall = told.map_or(Duration::ZERO, |last| {
            (Duration::from_secs(last) + every).saturating_sub(Duration::from_secs(now)).min(every)
        });
        let tried = self.full_tried.map(|at| (at + every).saturating_sub(clock::now()));
        by_wall.max(tried.unwrap_or_default())
    }
}

/// How things stood before a run.
struct Before {
    /// By key: what to keep if it stays so, and the near side's digest.
    mailboxes: BTreeMap<String, (plan::Stuck, Option<Digest>)>,
    /// Mailboxes that only the server had, if the run was to make them here.
    only_there: Option<BTreeSet<String>>,
}
