//! What the disk and the server have said, taken in.
//!
//! Knows which mailbox each word is about, and what may be an echo of a run;
//! decides nothing about what to do.

use std::collections::BTreeSet;

use super::{ECHO, Waiter, print};
use crate::imap::ClientError;
use crate::state::backoff::{self, Backoff};
use crate::state::clean;
use crate::state::last_run::{self, LastRun};
use crate::state::lock::Lock;
use crate::sync::scheduler::Backend as _;
use crate::verdict::SideVerdict;
use crate::watch::clock;
use crate::watch::mailbox::{Debounce, FarState, NearState, StatusUpdate};
use crate::watch::server::ServerWatch;

impl Waiter<'_> {
    /// Takes in what the disk and the server have said. True if the configuration
    /// is another one.
    pub(super) fn listen(&mut self) -> bool {
        let now = clock::now();
        self.keep_heard();
        let heard = std::mem::take(&mut self.unheard);
        if heard.all {
            self.say(|| "more happened than the kernel could tell; looking at everything".into());
            self.boxes.iter_mut().for_each(|watched| watched.near = NearState::Unasked);
        }
        for at in &heard.mail {
            if let Some(watched) = self.boxes.get_mut(*at) {
                watched.touched = Some(Debounce::again(watched.touched, now));
            }
        }
        // Without inotify every waking is a reason to look.
        if heard.state || heard.all || self.ears.is_none() {
            let last = self.which_run();
            if last != self.last_run {
                self.another_run_ended(last);
            }
            if self.requested.is_none() && self.disk.any_fresh() {
                self.say(|| "asked for".into());
                self.requested = Some(Debounce::again(None, now));
            }
        }
        if heard.folders || heard.all {
            // A Maildir is made in several steps.
            self.folders_at.get_or_insert(now + self.scene.settings.settle);
        }
        if self.folders_at.is_some_and(|at| now >= at) {
            self.enumerate();
        }
        self.hear_server();
        // Where the kernel has no watch left, it may have none for these either.
        let untold = self.half_deaf() && now >= self.deaf_at;
        (heard.config || untold) && self.config_is_new()
    }

    fn hear_server(&mut self) {
        if self.talk.not_before(clock::now()).is_some() {
            return;
        }
        match self.hear_counted(ServerWatch::heard) {
            None => {}
            Some(Ok(changed)) => {
                let folders = self.far.as_mut().is_some_and(ServerWatch::take_new_folders);
                for (at, unseen) in changed {
                    self.far_changed(at, unseen);
                }
                if folders {
                    self.say(|| "mailboxes came or went on the server".into());
                    self.turn_far();
                }
            }
            Some(Err(error)) => self.lost(&error),
        }
    }

    /// What `hear` makes of the server's words, which are counted: who never rests
    /// is left alone for a while. `None` without a connection.
    pub(super) fn hear_counted<T>(
        &mut self,
        hear: impl FnOnce(&mut ServerWatch) -> Result<T, ClientError>,
    ) -> Option<Result<T, ClientError>> {
        let far = self.far.as_mut()?;
        let words = far.words();
        let heard = hear(far);
        if far.words() != words {
            self.note_talk();
        }
        Some(heard)
    }

    /// The server has spoken once more.
    pub(super) fn note_talk(&mut self) {
        let now = clock::now();
        self.talk.spoke(now);
        if self.talk.not_before(now).is_some() {
            self.say(|| "the server never rests; it is heard again in a while".into());
        }
    }

    /// The server says that a mailbox is no more as it was.
    pub(super) fn far_changed(&mut self, at: usize, unseen: bool) {
        let status = self.far.as_ref().and_then(|far| far.status(at));
        let quiet = clock::now().saturating_sub(self.run_ended) > ECHO
            && !Lock::is_held(&self.disk.dir().file("lock"));
        let Some(watched) = self.boxes.get_mut(at) else { return };
        let key = watched.key();
        let seen = self.seen.get(&key).and_then(|seen| watched.seen_far(seen));
        if unseen {
            // The next look must not be content with STATUS.
            self.seen.entry(key).or_default().far = None;
        }
        watched.tell_far(match status {
            Some(now) => {
                watched.far.told(StatusUpdate { now, seen, unseen, quiet }, watched.rules.is_ok())
            }
            None => FarState::compared(None, None),
        });
        let then = match &watched.far {
            FarState::Found(SideVerdict::Clean) => "as at the last look",
            FarState::Suspect => "may be an echo",
            _ => "a change",
        };
        let name = watched.mailbox.near.clone();
        self.say(|| {
            let status = status.map_or("it is gone".into(), |status| {
                format!("{} messages, next UID {}", status.messages, status.uid_next)
            });
            format!("{name}: the server says {status}: {then}")
        });
    }

    /// Which run was the last one, by its number and start.
    pub(super) fn which_run(&self) -> (u64, u64) {
        let last: LastRun = self.disk.dir().read_json(last_run::FILE).unwrap_or_default();
        (last.runs, last.started)
    }

    /// Another process has synced something: everything is asked again, and its
    /// success ends our backoff.
    pub(super) fn another_run_ended(&mut self, last: (u64, u64)) {
        self.say(|| "another process has synced".into());
        self.last_run = last;
        self.gone = self.disk.dir().read_json(clean::GONE).unwrap_or_default();
        self.run_ended = clock::now();
        self.boxes.iter_mut().for_each(|watched| watched.run_ended(false));
        if self.far.is_none() && self.retry().is_none() {
            self.reach.try_now(clock::now());
        }
        self.refresh_far(None);
    }

    pub(super) fn retry(&self) -> Option<Backoff> {
        self.disk.dir().read_json(backoff::FILE)
    }

    /// STATUS of these (or all), so that what a run has moved is settled now and
    /// not when the server gets around to tell.
    pub(super) fn refresh_far(&mut self, mailboxes: Option<&BTreeSet<usize>>) {
        let Some(far) = &mut self.far else { return };
        let asked = match mailboxes {
            Some(mailboxes) => far.refresh(mailboxes),
            None => far.sweep(),
        };
        match asked {
            Ok(()) => self.hear_server(),
            Err(error) => self.lost(&error),
        }
    }

    pub(super) fn config_is_new(&mut self) -> bool {
        let now = self.manner.config_prints();
        if now == self.config_prints {
            return false;
        }
        self.config_prints = now;
        match (self.manner.check)() {
            Ok(()) => {
                self.say(|| "the configuration has changed; beginning again with it".into());
                true
            }
            Err(failure) => {
                // The file may be another one now, under the same name.
                self.open_ears();
                if self.leads {
                    print(&format!("mutt-sync: {failure}; going on with what was read before"));
                }
                false
            }
        }
    }
}
