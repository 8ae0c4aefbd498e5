//! Blocking until anything happens, and what is written down before it.
//!
//! Knows every descriptor and every hour that matters.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, epoll};

use super::Waiter;
use crate::os::wait::{self, Cancel, Woken};
use crate::os::{clock, fork};
use crate::state::{clean, state_failure};
use crate::sync::scheduler::{Backend as _, Gate};
use crate::watch::local::LocalWatcher;
use crate::watch::mailbox::MailboxState;
use crate::watch::server::{ServerWatch, WatchMode};

/// After so long without an event, memory is given back.
const LULL: Duration = Duration::from_secs(1);

/// The end of another process's run is told by the kernel; this is for the case
/// that it was not.
const LOOK_AT_LOCK: Duration = Duration::from_secs(1);

impl Waiter<'_> {
    /// Waits for anything to happen.
    pub(super) fn block(&mut self) {
        let now = clock::now();
        let deaf_until = self.talk.not_before(now);
        let heard = self.hear_counted(|far| {
            far.block()?;
            if deaf_until.is_some() {
                return Ok(None);
            }
            let changed = far.heard()?;
            Ok((!changed.is_empty() || far.has_new_folders()).then_some(changed))
        });
        match heard {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(changed))) => {
                for (at, unseen) in changed {
                    self.far_changed(at, unseen);
                }
                return;
            }
            Some(Err(error)) => {
                self.lost(&error);
                return;
            }
        }
        let now = clock::now();
        let deadline = self.next_local(now).min(self.next_far(now));
        let deadline = deaf_until.map_or(deadline, |until| until.min(deadline));
        if self.alarm.set(deadline).is_err() {
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        let heard = self.far.as_ref().filter(|_| deaf_until.is_none());
        let far_fds = heard.map(ServerWatch::poll_fds).unwrap_or_default();
        let mut fds = vec![
            PollFd::new(self.stop, PollFlags::IN),
            PollFd::new(self.halt, PollFlags::IN),
            PollFd::new(&self.alarm, PollFlags::IN),
        ];
        fds.extend(self.jump.iter().map(|jump| PollFd::new(jump, PollFlags::IN)));
        fds.extend(self.ears.iter().map(|ears| PollFd::new(ears, PollFlags::IN)));
        let configs = self.ears.as_ref().map(LocalWatcher::configs_fd);
        fds.extend(configs.iter().map(|configs| PollFd::new(configs, PollFlags::IN)));
        fds.extend(far_fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // A wait that lasts is one in which nothing will be needed for a while.
        if matches!(wait::wait(&mut fds, wait::after(LULL), None), Ok(Woken::TimedOut)) {
            fork::give_back_memory();
            let _ = wait::wait(&mut fds, None, None);
        }
        drop(fds);
        drop(far_fds);
        self.alarm.heard();
        if let Some(jump) = &mut self.jump {
            jump.heard();
        }
    }

    /// When something becomes due by itself that has nothing to do with the
    /// connection (time since boot).
    pub(super) fn next_local(&mut self, now: Duration) -> Duration {
        let settle = self.scene.settings.settle;
        let mut next = now + Duration::from_secs(24 * 3600);
        let mut at_latest = |at: Duration| next = next.min(at);
        self.settled_at().iter().for_each(|at| at_latest(*at));
        self.folders_at.iter().for_each(|at| at_latest(*at));
        if self.half_deaf() {
            at_latest(self.deaf_at);
        }
        // Whole seconds on the wall clock: not before they have passed.
        let mut wanted = Some(self.full_run_in());
        if !self.dirty().is_empty() || self.new_on_server() {
            wanted = Some(Duration::ZERO);
        }
        if let Some(due) = self.disk.next_due() {
            let settled = self.requested.map_or(now, |requested| requested.settled_at(settle));
            let due = if due.is_zero() { settled.saturating_sub(now) } else { due };
            wanted = wanted.min(Some(due));
        }
        if let Some(due) = wanted {
            let gate = match self.disk.gate(false, false) {
                Gate::Open => Duration::ZERO,
                Gate::Throttled(wait) | Gate::BackingOff(wait) => wait,
            };
            let least = if self.busy { LOOK_AT_LOCK } else { Duration::from_millis(10) };
            at_latest(now + due.max(gate).max(least));
        }
        next
    }

    /// The same for the connection.
    fn next_far(&self, now: Duration) -> Duration {
        let mut next = now + Duration::from_secs(24 * 3600);
        let mut at_latest = |at: Duration| next = next.min(at);
        match &self.far {
            Some(far) => {
                at_latest(self.renew_at);
                if far.rung() != WatchMode::Notify {
                    at_latest(self.sweep_at);
                }
                self.doubt.iter().for_each(|(until, _)| at_latest(*until));
            }
            None => self.reach.at().iter().for_each(|at| at_latest(*at)),
        }
        next
    }

    /// A descriptor that ends a dialogue at once: when a signal comes, when
    /// another account ends the waiting, and, with `soft`, when something here
    /// wants a run: after an event, or at the time that the alarm is set to.
    pub(super) fn breaker(&self, soft: bool) -> std::io::Result<Breaker> {
        let all = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let data = epoll::EventData::new_u64(0);
        epoll::add(&all, self.stop, data, epoll::EventFlags::IN)?;
        epoll::add(&all, self.halt, data, epoll::EventFlags::IN)?;
        let mut until_in = Vec::new();
        if soft {
            // Copies: to be taken out again they must be told from what is open
            // elsewhere.
            until_in.push(rustix::io::fcntl_dupfd_cloexec(&self.alarm, 3)?);
            if let Some(ears) = &self.ears {
                until_in.push(rustix::io::fcntl_dupfd_cloexec(ears, 3)?);
            }
            for fd in &until_in {
                epoll::add(&all, fd, data, epoll::EventFlags::IN)?;
            }
        }
        Ok(Breaker { interrupt: Cancel::when_readable(Arc::clone(&all)), all, until_in })
    }

    pub(super) fn save(&mut self) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let there: BTreeSet<String> = self.boxes.iter().map(MailboxState::key).collect();
        if unsaved.seen {
            self.seen.retain(|key, _| there.contains(key));
            if let Err(error) = self.disk.dir().write_json(clean::FILE, &self.seen) {
                self.complain(&state_failure(&error, "cannot remember what was seen").text);
            }
        }
        if unsaved.stuck {
            self.stuck.mailboxes.retain(|key, _| there.contains(key));
            if let Err(error) = self.disk.dir().write_json(clean::STUCK, &self.stuck) {
                self.complain(&state_failure(&error, "cannot remember what is stuck").text);
            }
        }
    }
}

pub(super) struct Breaker {
    pub(super) interrupt: Cancel,
    all: Arc<OwnedFd>,
    /// What ends a login, but no dialogue after it.
    until_in: Vec<OwnedFd>,
}

impl Drop for Breaker {
    /// From now on only what ends the process ends a dialogue.
    fn drop(&mut self) {
        for fd in &self.until_in {
            let _ = epoll::delete(&self.all, fd);
        }
    }
}
