//! Which mailboxes there are, and where to listen.
//!
//! Knows the account's folders; draws no conclusion from what is heard.

use std::collections::{BTreeMap, BTreeSet};

use super::{LOOK_AT_DEAF, Waiter};
use crate::error::no_descriptor_left;
use crate::mbsyncrc::pattern;
use crate::model::{Mailbox, StoreKind};
use crate::text::short;
use crate::watch::local::{LocalWatcher, WatchPaths};
use crate::watch::mailbox::{MailboxState, NearState};

impl Waiter<'_> {
    /// Finds the mailboxes and listens to them. What is known of those that
    /// stay is kept.
    pub(super) fn enumerate(&mut self) {
        self.folders_at = None;
        self.keep_heard();
        // What came or went before this is found now.
        self.unheard.folders = false;
        let before = self.mailboxes();
        let patterns = &self.scene.settings.boxes;
        let mut found = self.scene.config.local_mailboxes(self.scene.account);
        found.retain(|mailbox| patterns.is_empty() || pattern::admits(patterns, &mailbox.name));
        let mut known: BTreeMap<Mailbox, MailboxState> =
            self.boxes.drain(..).map(|watched| (watched.mailbox.clone(), watched)).collect();
        self.boxes = found
            .into_iter()
            .map(|mailbox| {
                let new = |mailbox| MailboxState::new(mailbox, self.scene.account);
                known.remove(&mailbox).unwrap_or_else(|| new(mailbox))
            })
            .collect();
        // Watches first, then the questions: no gap between.
        self.open_ears();
        // All are looked at, and their indices are others now.
        self.unheard.mail.clear();
        for watched in &mut self.boxes {
            watched.near = NearState::Unasked;
        }
        if before != self.mailboxes() {
            self.say(|| format!("{} mailboxes here", self.boxes.len()));
            self.turn_far();
        }
    }

    /// Listens, and says if it cannot; then [`Waiter::listen_again`] tries.
    pub(super) fn open_ears(&mut self) {
        let ears = self.ears_here();
        self.keep_heard();
        match ears {
            Ok(ears) => {
                if !ears.deaf().is_empty() {
                    let deaf = ears.deaf().len();
                    self.complain(&format!(
                        "no inotify watch left for {deaf} mailboxes, which are looked at every {}; \
                         raise fs.inotify.max_user_watches (sysctl)",
                        short(LOOK_AT_DEAF)
                    ));
                }
                self.ears = Some(ears);
            }
            Err(error) => {
                self.ears = None;
                let limit = if no_descriptor_left(&error) {
                    "fs.inotify.max_user_instances (sysctl), or the limit of open files (ulimit -n)"
                } else {
                    "fs.inotify.max_user_instances (sysctl)"
                };
                self.complain(&format!(
                    "no inotify ({error}); mailboxes are looked at every {}; raise {limit}",
                    short(LOOK_AT_DEAF)
                ));
            }
        }
    }

    /// Whether something here is not told by the kernel and has to be looked at.
    pub(super) fn half_deaf(&self) -> bool {
        self.ears.as_ref().is_none_or(|ears| !ears.deaf().is_empty())
    }

    /// Where nothing or not all could be listened to, there may be means again by now.
    pub(super) fn listen_again(&mut self) {
        let deaf = self.ears.as_ref().map(|ears| ears.deaf().len());
        if deaf == Some(0) {
            return;
        }
        if let Ok(ears) = self.ears_here() {
            if deaf.is_none_or(|before| ears.deaf().len() < before) {
                self.say(|| "inotify again".into());
                self.keep_heard();
                self.ears = Some(ears);
                self.boxes.iter_mut().for_each(|watched| watched.near = NearState::Unasked);
            }
        }
    }

    /// Takes the events out of the watches, for [`Waiter::listen`]: with watches
    /// that are replaced they would be lost.
    pub(super) fn keep_heard(&mut self) {
        if let Some(ears) = &mut self.ears {
            self.unheard.add(ears.heard());
        }
    }

    fn ears_here(&self) -> std::io::Result<LocalWatcher> {
        let maildirs: Vec<_> =
            self.boxes.iter().map(|watched| watched.mailbox.maildir.clone()).collect();
        let mut roots: BTreeSet<_> = maildirs
            .iter()
            .flatten()
            .filter_map(|maildir| maildir.parent())
            .map(Into::into)
            .collect();
        for channel in &self.scene.account.channels {
            if let StoreKind::Maildir(store) = &channel.near.store.kind {
                if let Some((dir, _)) = store.path.as_ref().and_then(|path| path.rsplit_once('/')) {
                    roots.insert(dir.into());
                }
            }
        }
        let trigger = self.scene.settings.trigger.clone();
        LocalWatcher::open(&WatchPaths {
            maildirs: &maildirs,
            roots: &roots,
            state: self.disk.dir().path(),
            trigger: trigger.as_deref(),
            configs: &self.manner.configs,
        })
    }
}
