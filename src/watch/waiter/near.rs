//! Looking at the Maildirs that may have changed and have come to rest.
//!
//! Knows when a look is due; what a look finds is the verdict's.

use std::time::Duration;

use super::{LOOK_AT_DEAF, Waiter};
use crate::verdict::{Digest, SideVerdict};
use crate::watch::mailbox::{Debounce, MailboxState, NearState};
use crate::watch::{clock, plan, scan};

impl Waiter<'_> {
    /// Looks at the Maildirs that may have changed and have come to rest. True if
    /// it looked at one.
    pub(super) fn look_near(&mut self) -> bool {
        let now = clock::now();
        if now >= self.deaf_at {
            self.deaf_at = now + LOOK_AT_DEAF;
            self.listen_again();
            let deaf: Vec<usize> = match &self.ears {
                Some(ears) => ears.deaf().to_vec(),
                None => (0..self.boxes.len()).collect(),
            };
            for at in deaf {
                if let Some(watched) = self.boxes.get_mut(at) {
                    watched.near = NearState::Unasked;
                }
            }
        }
        let settled = self.settled_at().is_some_and(|at| now >= at);
        let mut looked = false;
        for at in 0..self.boxes.len() {
            if self.boxes.get(at).is_some_and(|watched| watched.wants_look(settled)) {
                self.look_into(at, None);
                looked = true;
            }
        }
        looked
    }

    /// When what was touched has come to rest.
    pub(super) fn settled_at(&self) -> Option<Duration> {
        Debounce::together(self.boxes.iter().filter_map(|watched| watched.touched))
            .map(|touched| touched.settled_at(self.scene.settings.settle))
    }

    pub(super) fn look_into(&mut self, at: usize, left_by_run: Option<Digest>) {
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let was_touched = watched.touched.take().is_some();
        let key = watched.key();
        let by_run = self.gone.get(&key);
        let seen = self.seen.entry(key).or_default();
        let looked = scan::near(watched, seen, by_run, left_by_run);
        watched.tell_far(watched.far.clone());
        self.unsaved.seen |= looked.learned;
        let text = match &looked.finding {
            SideVerdict::Clean if was_touched => Some("touched, nothing to push".to_owned()),
            SideVerdict::Clean => None,
            SideVerdict::Changed(changes) => Some(format!("to push: {changes}")),
            SideVerdict::Unknown(why) => Some(format!("cannot be told: {why}")),
        };
        let clean = looked.finding == SideVerdict::Clean;
        watched.near = NearState::Found(looked.finding);
        if let Some(text) = text {
            let name = watched.mailbox.near.clone();
            self.say(|| format!("{name}: {text}"));
        }
        if clean {
            self.unstick(at, |stuck| stuck.near = None);
        }
    }

    /// A side found clean is no more stuck.
    pub(super) fn unstick(&mut self, at: usize, clear: impl FnOnce(&mut plan::Stuck)) {
        let Some(key) = self.boxes.get(at).map(MailboxState::key) else { return };
        let Some(stuck) = self.stuck.mailboxes.get_mut(&key) else { return };
        let before = stuck.clone();
        clear(stuck);
        self.unsaved.stuck |= *stuck != before;
        if *stuck == plan::Stuck::default() {
            self.stuck.mailboxes.remove(&key);
        }
    }
}
