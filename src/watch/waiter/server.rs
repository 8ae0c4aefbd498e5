//! The connection: made, lost, kept alive; and the suspicions that it settles.
//!
//! Knows when to ask the server; what follows from the answers is the verdict's.

use std::time::{Duration, SystemTime};

use super::Waiter;
use crate::error::{Error, ExitStatus};
use crate::imap::ClientError;
use crate::model::Mailbox;
use crate::state::{backoff, requests};
use crate::sync::account;
use crate::text::short;
use crate::verdict::SideVerdict;
use crate::watch::mailbox::{FarState, MailboxState, NearState};
use crate::watch::reconnect::Retry;
use crate::watch::server::{RENEW, REPLY, REPLY_AFTER_SLEEP, ServerWatch, WatchMode, WatchPlan};
use crate::watch::{clock, scan};

/// So many looks are lost at most to who kills us in the midst of them.
const SAVE_EVERY: usize = 64;

/// Looks into several mailboxes lead to one run, if they take no longer together.
const LOOKS: Duration = Duration::from_secs(2);

impl<'a> Waiter<'a> {
    /// The mailboxes are others now: the same connection watches them.
    pub(super) fn turn_far(&mut self) {
        let Some(mut far) = self.far.take() else { return };
        let mailboxes = self.mailboxes();
        let turned = match (self.plan(&mailboxes), self.breaker(false)) {
            (Some(plan), Ok(breaker)) => far.turn_to(&plan, &breaker.interrupt),
            _ => return,
        };
        self.far = Some(far);
        match turned {
            Ok(()) => self.compare_all(),
            Err(error) => self.lost(&error),
        }
    }

    pub(super) fn mailboxes(&self) -> Vec<Mailbox> {
        self.boxes.iter().map(|watched| watched.mailbox.clone()).collect()
    }

    fn plan<'p>(&self, mailboxes: &'p [Mailbox]) -> Option<WatchPlan<'p>>
    where
        'a: 'p,
    {
        let connections = if self.manner.endless { self.scene.settings.connections } else { 1 };
        Some(WatchPlan {
            server: self.scene.account.server.as_ref()?,
            account: self.scene.account,
            mailboxes,
            boxes: &self.scene.settings.boxes,
            dialect: self.scene.config.dialect,
            most: self.highest,
            connections: usize::try_from(connections).unwrap_or(1),
        })
    }

    /// Connects if it is time. True if it tried.
    pub(super) fn connect_if_due(&mut self) -> bool {
        let now = clock::now();
        if self.far.is_some() || !self.reach.is_due(now) {
            return false;
        }
        if self.folders_at.is_some() {
            // What is here already must not look as if it were only there.
            self.enumerate();
        }
        let retry = self.retry();
        let wait = self.scene.settings.patience().wait(retry.as_ref(), SystemTime::now());
        // A server that was lost a moment ago is tried whatever a run's failure
        // says; where a password is in question, the backoff holds.
        let offline = retry.is_some_and(|retry| retry.code == ExitStatus::Offline.code());
        let all_the_same = offline && self.reach.is_quick(now);
        if !wait.is_zero() && !all_the_same {
            self.say(|| format!("connecting in {}, as the last failure wants", short(wait)));
            self.reach.wait(wait, now);
            return false;
        }
        let mailboxes = self.mailboxes();
        let Some(plan) = self.plan(&mailboxes) else { return false };
        let wake = self.next_local(now);
        let breaker = match self.alarm.set(wake).and_then(|()| self.breaker(true)) {
            Ok(breaker) => breaker,
            Err(error) => {
                self.complain(&format!("cannot connect: {error}"));
                self.reach.wait(self.scene.settings.retry, now);
                return false;
            }
        };
        let opened = ServerWatch::open(&plan, &breaker.interrupt);
        let broken_off = breaker.interrupt.fired();
        drop(breaker);
        match opened {
            Ok(far) => self.connected(far, now),
            Err(_) if broken_off => {
                self.say(|| "connecting was broken off for something more urgent".into());
                // What it was broken off for is done first. Ever later, so that somebody
                // busy does not keep a slow password command from being heard out.
                let wait = self.scene.settings.settle * (1 << self.rushed.min(5));
                self.rushed += 1;
                self.reach.broken_off(wait, clock::now());
            }
            Err(failure) => self.not_connected(&failure),
        }
        self.alarm.heard();
        true
    }

    fn connected(&mut self, far: ServerWatch, started: Duration) {
        let now = clock::now();
        self.say(|| {
            let (rung, count) = (far.rung(), far.connections());
            let took = short(now.saturating_sub(started));
            format!("connected by {rung}, {count} connection(s), in {took}")
        });
        self.reach.connected(now);
        self.rushed = 0;
        self.renew_at = now + RENEW;
        self.sweep_at = now + self.scene.settings.sweep;
        self.complaints.clear();
        if self.retry().is_some() {
            // The login works: what was in the way is gone, and what failed for
            // it is wanted now.
            let _ = self.disk.dir().remove(backoff::FILE);
            requests::renew(self.disk.dir());
        }
        let only_there = far.only_there().len();
        self.far = Some(far);
        self.compare_all();
        if only_there > 0 {
            self.say(|| format!("{only_there} mailboxes are only on the server"));
        }
    }

    /// What the server says of each mailbox against what was remembered.
    fn compare_all(&mut self) {
        let Some(far) = &self.far else { return };
        for (at, watched) in self.boxes.iter_mut().enumerate() {
            let seen = self.seen.get(&watched.key()).and_then(|seen| watched.seen_far(seen));
            watched.tell_far(FarState::compared(far.status(at), seen));
        }
        // What was told on the way is in it.
        let _ = self.far.as_mut().map(ServerWatch::forget_heard);
    }

    fn not_connected(&mut self, failure: &Error) {
        self.rushed = 0;
        let now = clock::now();
        match self.reach.failed(failure.exit, now) {
            // Nothing that trying again would change; mbsync itself may manage.
            Retry::GiveUp => self.complain(&format!("{}; not watching the server", failure.text)),
            Retry::Soon => self.say(|| failure.text.clone()),
            Retry::BackOff => {
                let patience = self.scene.settings.patience();
                let wall = SystemTime::now();
                let earlier = self.retry();
                let retry = patience.after(
                    earlier.as_ref(),
                    failure.exit,
                    &failure.text,
                    wall,
                    account::jitter(),
                );
                let wait = patience.wait(Some(&retry), wall);
                if self.disk.dir().write_json(backoff::FILE, &retry).is_err() {
                    self.say(|| "the backoff could not be written".into());
                }
                if !(self.manner.hushed && failure.exit.is_passing()) {
                    self.complain(&failure.text);
                }
                self.say(|| format!("{}; again in {}", failure.text, short(wait)));
                self.reach.wait(wait, now);
            }
        }
    }

    pub(super) fn lost(&mut self, error: &ClientError) {
        if self.far.take().is_some() {
            self.boxes.iter_mut().for_each(|watched| watched.far = FarState::PendingWrites);
            self.doubt = None;
            let wait = self.reach.lost(clock::now());
            self.say(|| format!("connection lost: {error}; again in {}", short(wait)));
        }
    }

    /// Whether suspicions are being settled: what they come to goes into one run.
    /// A server that is slow about it is not waited for.
    pub(super) fn is_looking(&mut self) -> bool {
        if !self.boxes.iter().any(|watched| watched.far == FarState::Suspect) {
            self.looking_since = None;
        }
        self.looking_since.is_some_and(|since| clock::now() < since + LOOKS)
    }

    /// Settles one suspicion. True if there was one.
    pub(super) fn look_far(&mut self) -> bool {
        // A mailbox that changes in every look waits with the rest.
        if self.talk.not_before(clock::now()).is_some() {
            return false;
        }
        let compare_status = |watched: &MailboxState| watched.far == FarState::Suspect;
        let Some(at) = self.boxes.iter().position(compare_status) else { return false };
        let (Some(far), Some(watched)) = (self.far.as_mut(), self.boxes.get(at)) else {
            self.boxes.iter_mut().for_each(|watched| watched.far = FarState::PendingWrites);
            return true;
        };
        let key = watched.key();
        let by_run = self.gone.get(&key);
        let seen = self.seen.entry(key).or_default();
        let begun = clock::now();
        self.looking_since.get_or_insert(begun);
        match scan::far(watched, at, seen, by_run, far) {
            Ok((finding, learned)) => {
                self.unsaved.seen |= learned;
                let took = short(clock::now().saturating_sub(begun));
                let text = match &finding {
                    Some(SideVerdict::Clean) => format!("in step with the server ({took})"),
                    Some(SideVerdict::Changed(changes)) => format!("to pull: {changes} ({took})"),
                    Some(SideVerdict::Unknown(why)) => format!("cannot be told: {why}"),
                    None => "changed while it was looked into; looking again".into(),
                };
                let name = watched.mailbox.near.clone();
                self.say(|| format!("{name}: {text}"));
                if finding.is_none() {
                    self.note_talk();
                }
                let clean = finding == Some(SideVerdict::Clean);
                if let Some(watched) = self.boxes.get_mut(at) {
                    watched.unconfirmed = false;
                    // What it found gone may be what the near side lacks.
                    if learned && matches!(watched.near, NearState::Found(SideVerdict::Changed(_)))
                    {
                        watched.near = NearState::Unasked;
                    }
                    if let Some(finding) = finding {
                        watched.far = FarState::Found(finding);
                    }
                }
                if clean {
                    self.unstick(at, |stuck| stuck.far = None);
                }
                if at % SAVE_EVERY == 0 {
                    self.save();
                }
            }
            Err(error) => self.lost(&error),
        }
        true
    }

    /// Renews, sweeps and probes as it becomes due. True if something was done.
    pub(super) fn keep_alive(&mut self) -> bool {
        let now = clock::now();
        let slept = clock::slept();
        let woke = slept.saturating_sub(self.slept) > Duration::from_secs(1);
        self.slept = slept;
        if woke {
            self.say(|| "the machine has slept".into());
            // Its end ends every backoff.
            let _ = self.disk.dir().remove(backoff::FILE);
            self.reach.try_now(now);
        }
        if let Some((_, spoken)) = self.doubt.filter(|(until, _)| now >= *until) {
            self.doubt = None;
            let silent = self.far.as_ref().is_some_and(|far| far.unasked() == spoken);
            // Once may be chance: mail that came in the half second before a run, and
            // was carried by it before the server would have told.
            let again = silent && self.silent_at == Some(spoken);
            self.silent_at = silent.then_some(spoken);
            if again {
                self.complain("the server accepted NOTIFY and told nothing; going on with IDLE");
                self.highest = WatchMode::Idle;
                self.far = None;
                self.reach.try_now(now);
                return true;
            }
        }
        let Some(far) = &mut self.far else { return woke };
        let done = if woke {
            far.probe(REPLY_AFTER_SLEEP).and_then(|()| far.sweep())
        } else if now >= self.sweep_at && far.rung() != WatchMode::Notify {
            self.sweep_at = now + self.scene.settings.sweep;
            far.sweep()
        } else if now >= self.renew_at {
            self.renew_at = now + RENEW;
            far.probe(REPLY)
        } else {
            return woke;
        };
        if let Err(error) = done {
            self.lost(&error);
        }
        true
    }
}
