//! The mailboxes of an account as its server has them: their names there, the
//! STATUS last reported of each, and those that only the server has.
//!
//! Knows mailboxes by index. Does not depend on: the connection, how changes are
//! noticed, records.

use std::collections::{HashMap, HashSet};

use crate::imap::names::{Naming, to_utf7};
use crate::imap::{Inventory, InventoryScope, Listed, MailboxStatus};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc::{lists_inbox, pattern};
use crate::model::{Account, Mailbox, Target};
use crate::verdict::server::ServerStatus;

/// Most bytes of a file name, and so of a mailbox's name between two slashes.
const LONGEST_FILE_NAME: usize = 255;
/// How mbsync spells it.
const INBOX: &str = "INBOX";

/// The mailboxes of an account on its server.
#[derive(Debug, Default)]
pub struct ServerMailboxes {
    /// Wire name of each mailbox; `None` for one that cannot be asked about.
    names: Vec<Option<String>>,
    /// Those that have one, in the order of their names; two channels may have the same one.
    by_name: Vec<usize>,
    status: Vec<Option<ServerStatus>>,
    /// By channel.
    namings: HashMap<String, Naming>,
    only_on_server: Vec<(String, Target)>,
}

/// What to ask to learn of an account's mailboxes.
#[must_use]
pub fn inventory_scope(account: &Account, statuses: bool) -> InventoryScope {
    let mut scope = InventoryScope { statuses, ..InventoryScope::default() };
    let mut subscriptions = false;
    let mut add = |prefix: &str| {
        if !scope.prefixes.iter().any(|known| known == prefix) {
            scope.prefixes.push(prefix.to_owned());
        }
    };
    for channel in &account.channels {
        let Some(store) = channel.far.imap() else { continue };
        // isync 1.5 gives Path as it is written, too, where it turns the names of mailboxes
        // into modified UTF-7 (observed with 1.5.1).
        let path = store.path.as_deref().unwrap_or_default();
        // As mbsync lists: INBOX is not below a Path that leads elsewhere, and what a Path
        // `INBOX.` leads to is listed with it (isync 1.4 and 1.5, imap_list_store() of
        // drv_imap.c).
        let path_is_inbox = begins_with_inbox(path);
        // In another spelling it is INBOX only if what follows is the delimiter.
        if !path_is_inbox || !path.starts_with(INBOX) {
            add(path);
        }
        let patterns = channel.patterns.as_deref().unwrap_or_default();
        if path_is_inbox || !path.is_empty() && lists_inbox(&channel.far, patterns) {
            add(INBOX);
        }
        subscriptions |= store.subscribed_only;
    }
    InventoryScope { subscriptions, ..scope }
}

/// Whether the list that was asked for shows if there is a mailbox of this wire name.
#[must_use]
pub fn is_asked_about(scope: &InventoryScope, name: &str) -> bool {
    scope.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
}

/// INBOX in any spelling, alone or with a delimiter behind it.
fn begins_with_inbox(path: &str) -> bool {
    path.split_at_checked(INBOX.len()).is_some_and(|(first, rest)| {
        first.eq_ignore_ascii_case(INBOX) && !rest.starts_with(char::is_alphanumeric)
    })
}

impl ServerMailboxes {
    /// Those that are here, and what the server's inventory shows of them. `boxes`:
    /// of those that are only on the server, the ones that count; empty: all.
    #[must_use]
    pub fn new(
        account: &Account,
        version: IsyncVersion,
        mailboxes: &[&Mailbox],
        boxes: &[String],
        inventory: &Inventory,
    ) -> Self {
        let delimiter = inventory.delimiter();
        let namings: HashMap<String, Naming> = account
            .channels
            .iter()
            .filter_map(|channel| {
                let naming = Naming::of(channel.far.imap()?, &inventory.namespace, delimiter);
                Some((channel.name.clone(), naming))
            })
            .collect();
        let wire_name = |mailbox: &Mailbox| {
            let far = account.channel(&mailbox.channel)?.stored_far(mailbox)?;
            namings.get(&mailbox.channel)?.wire_name(&far, version)
        };
        let names: Vec<Option<String>> = mailboxes.iter().copied().map(wire_name).collect();
        let mut by_name: Vec<usize> =
            names.iter().enumerate().filter_map(|(at, name)| name.as_ref().map(|_| at)).collect();
        by_name.sort_by_key(|at| names.get(*at));
        // It grew by doubling.
        by_name.shrink_to_fit();
        let status = vec![None; names.len()];
        let only_on_server = Vec::new();
        let mut all = ServerMailboxes { names, by_name, status, namings, only_on_server };
        for (name, status) in &inventory.statuses {
            all.report(name, *status);
        }
        all.find_only_on_server(account, version, mailboxes, boxes, inventory);
        all
    }

    /// Finds the mailboxes that only the server has, and that a run of the whole
    /// channel would create here.
    pub fn find_only_on_server(
        &mut self,
        account: &Account,
        version: IsyncVersion,
        mailboxes: &[&Mailbox],
        boxes: &[String],
        inventory: &Inventory,
    ) {
        self.only_on_server.clear();
        let Some(listed) = &inventory.listed else { return };
        for channel in account.channels.iter().filter(|channel| channel.create.near) {
            let (Some(naming), Some(store), true) =
                (self.namings.get(&channel.name), channel.far.imap(), channel.patterns.is_some())
            else {
                continue;
            };
            let here = mailboxes.iter().filter(|mailbox| mailbox.channel == channel.name);
            let known: HashSet<&str> = here.map(|mailbox| mailbox.name.as_str()).collect();
            let subscribed =
                |name: &str| !store.subscribed_only || inventory.subscribed.contains(name);
            for (each, name) in naming.synced(channel, version, listed) {
                // No Maildir can have such a name.
                if name.split('/').any(|part| part.len() > LONGEST_FILE_NAME) {
                    continue;
                }
                let asked_for = boxes.is_empty() || pattern::admits(boxes, &name);
                if !known.contains(name.as_str()) && asked_for && subscribed(&each.name) {
                    let target = Target::Mailbox { channel: channel.name.clone(), name };
                    self.only_on_server.push((each.name.clone(), target));
                }
            }
        }
        self.only_on_server.sort_unstable();
    }

    /// The wire name of a mailbox; `None` for one that cannot be asked about.
    #[must_use]
    pub fn name(&self, at: usize) -> Option<&String> {
        self.names.get(at)?.as_ref()
    }

    /// How many mailboxes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// All wire names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.names.iter().flatten().cloned().collect()
    }

    /// The wire names of those that have no STATUS.
    #[must_use]
    pub fn names_without_status(&self) -> Vec<String> {
        let missing = self.names.iter().zip(&self.status).filter(|(_, status)| status.is_none());
        missing.filter_map(|(name, _)| name.clone()).collect()
    }

    /// What was last reported of each mailbox; `None` for one that is not there.
    #[must_use]
    pub fn statuses(&self) -> &[Option<ServerStatus>] {
        &self.status
    }

    /// What was last reported of this one.
    #[must_use]
    pub fn status(&self, at: usize) -> Option<ServerStatus> {
        self.status.get(at).copied().flatten()
    }

    /// Mailboxes that a channel would sync and that are not here yet: their wire
    /// names and what to ask for to get them.
    #[must_use]
    pub fn only_on_server(&self) -> &[(String, Target)] {
        &self.only_on_server
    }

    /// The mailboxes with this name, which may be spelled in UTF-8: Dovecot's NOTIFY does so.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<usize> {
        let all = self.on_wire(name);
        if all.is_empty() { self.on_wire(&to_utf7(name)) } else { all }
    }

    fn on_wire(&self, name: &str) -> Vec<usize> {
        let name_of = |at: &usize| self.name(*at).map_or("", String::as_str);
        let first = self.by_name.partition_point(|at| name_of(at) < name);
        let from = self.by_name.get(first..).unwrap_or_default();
        from.iter().copied().take_while(|at| name_of(at) == name).collect()
    }

    /// Whether a mailbox that the server lists unasked came, went or was renamed. A server
    /// may list one that is merely opened (RFC 9051 §6.3.2).
    #[must_use]
    pub fn is_new(&self, listed: &Listed) -> bool {
        let is_known = |name: &str| {
            self.named(name).iter().any(|at| self.status(*at).is_some())
                || self.only_on_server.binary_search_by(|(only, _)| only.as_str().cmp(name)).is_ok()
        };
        !listed.selectable || !(is_known(&listed.name) || is_known(&to_utf7(&listed.name)))
    }

    /// Takes a report. Returns the mailboxes for which it makes a difference.
    pub fn report(&mut self, name: &str, status: MailboxStatus) -> Vec<usize> {
        let mut all = self.named(name);
        all.retain(|at| merge(self.status.get_mut(*at), status));
        all
    }

    /// Whether this report would make a difference.
    #[must_use]
    pub fn differs(&self, name: &str, status: MailboxStatus) -> bool {
        self.named(name).into_iter().any(|at| merge(Some(&mut self.status(at)), status))
    }

    /// Takes the answer to a STATUS: what it leaves out is not known any more. Returns the
    /// mailboxes for which it makes a difference.
    pub fn answer(&mut self, name: &str, status: MailboxStatus) -> Vec<usize> {
        let mut all = self.named(name);
        all.retain(|at| {
            let Some(slot) = self.status.get_mut(*at) else { return false };
            let then = slot.take();
            merge(Some(slot), status);
            *slot != then
        });
        all
    }

    /// A mailbox has no STATUS any more. Returns those for which this is new.
    pub fn report_absent(&mut self, name: &str) -> Vec<usize> {
        let mut all = self.named(name);
        all.retain(|at| self.status.get_mut(*at).is_some_and(|slot| slot.take().is_some()));
        all
    }
}

/// Puts a report over what is known; whether that makes a difference. An event of
/// NOTIFY leaves items out, and where no STATUS was ever complete there is nothing
/// to compare with.
fn merge(slot: Option<&mut Option<ServerStatus>>, report: MailboxStatus) -> bool {
    let Some(slot) = slot else { return false };
    let modseq = |value: Option<u64>| value.filter(|&value| value > 0);
    let now = match *slot {
        Some(then) => ServerStatus {
            uid_validity: report.uid_validity.unwrap_or(then.uid_validity),
            uid_next: report.uid_next.unwrap_or(then.uid_next),
            messages: report.messages.unwrap_or(then.messages),
            highest_modseq: modseq(report.highest_mod_seq).or(then.highest_modseq),
        },
        None => match (report.uid_validity, report.uid_next, report.messages) {
            (Some(uid_validity), Some(uid_next), Some(messages)) => ServerStatus {
                uid_validity,
                uid_next,
                messages,
                highest_modseq: modseq(report.highest_mod_seq),
            },
            _ => return false,
        },
    };
    let moved = *slot != Some(now);
    *slot = Some(now);
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_only_what_is_below_a_prefix() {
        for (path, is_inbox) in
            [("INBOX", true), ("Inbox.", true), ("INBOX/", true), ("INBOX2/", false), ("", false)]
        {
            assert_eq!(begins_with_inbox(path), is_inbox, "{path}");
        }
        let prefixes = vec!["Mail/".to_owned()];
        let scope = InventoryScope { prefixes, ..InventoryScope::default() };
        assert!(is_asked_about(&scope, "Mail/x") && !is_asked_about(&scope, "INBOX"));
    }

    #[test]
    fn a_report_is_put_over_what_is_known() {
        let mut slot = None;
        let part = MailboxStatus { messages: Some(2), ..MailboxStatus::default() };
        assert!(!merge(Some(&mut slot), part) && slot.is_none(), "nothing to compare with");
        let whole = MailboxStatus {
            messages: Some(1),
            uid_next: Some(5),
            uid_validity: Some(7),
            ..MailboxStatus::default()
        };
        assert!(merge(Some(&mut slot), whole) && !merge(Some(&mut slot), whole));
        assert!(merge(Some(&mut slot), part) && !merge(Some(&mut slot), part));
        let known = slot.unwrap();
        assert_eq!((known.messages, known.uid_next, known.uid_validity), (2, 5, 7));
        assert_eq!(known.highest_modseq, None);
        assert!(!merge(None, whole));
    }
}
