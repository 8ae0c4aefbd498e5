//! What the guard asks of a server: which messages there are, also in mailboxes that no
//! channel syncs, and which mailboxes are for trash. Asked only when a run is about to
//! delete much.
//!
//! Does not depend on: what follows from an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::server::{ServerMailboxes, inventory_scope, is_asked_about};
use crate::headers::MessageIdentity;
use crate::imap::{
    Client, ClientError, FetchedHeader, Inventory, Listed, MailboxStatus, Opening, SpecialUse,
};
use crate::model::Mailbox;
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use crate::state::clean;
use crate::sync::context::AccountContext;
use crate::sync::judge::FarLookup;
use crate::sync::lost::LostMessages;
use crate::verdict::guard;

/// Most mailboxes that are looked at although nothing syncs them.
const MOST_UNSYNCED: usize = 50;
/// So many messages are searched for by Message-ID: a server may have to read all of a
/// mailbox for each.
const SEARCHED: usize = 20;
/// After this time no further mailbox is searched.
const SEARCH_TIME: Duration = Duration::from_secs(20);

/// The mailboxes of a server by what they are to the guard.
#[derive(Debug, Default)]
struct FarMap {
    inventory: Inventory,
    /// Wire names, by key.
    names: BTreeMap<String, String>,
    /// How many messages each has, by wire name.
    counts: BTreeMap<String, u32>,
    /// Wire names of those for trash and junk.
    trash: BTreeSet<String>,
    /// Wire names of those that no channel syncs, the most likely ones first.
    unsynced: Vec<String>,
}

/// The messages on a server.
#[derive(Debug, Default)]
pub struct FarMessages {
    map: Option<FarMap>,
}

impl FarMessages {
    /// Whether the server was asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.map.is_some()
    }

    fn map<'m>(
        &'m mut self,
        client: &mut Client,
        context: AccountContext<'_>,
    ) -> Result<&'m FarMap, ClientError> {
        if self.map.is_none() {
            self.map = Some(FarMap::ask(client, context)?);
        }
        Ok(self.map.get_or_insert_default())
    }
}

/// The server as the guard asks it.
pub struct FarAccess<'a> {
    /// What is known of it.
    pub messages: &'a mut FarMessages,
    /// The connection.
    pub client: &'a mut Client,
    /// The account.
    pub context: AccountContext<'a>,
    /// What is not run is watched, and is not asked about.
    pub watched: bool,
}

impl FarAccess<'_> {
    /// The map, the mailbox's wire name on it, and the connection.
    fn find(&mut self, mailbox: &Mailbox) -> Option<(&FarMap, &String, &mut Client)> {
        let map = self.messages.map(self.client, self.context).ok()?;
        Some((map, map.names.get(&clean::key(mailbox))?, self.client))
    }
}

impl FarLookup for FarAccess<'_> {
    /// A mailbox that is not run is scanned only if it has fewer messages than these: the
    /// numbers take one round trip for all mailboxes.
    fn missing(
        &mut self,
        mailbox: &Mailbox,
        validity: u32,
        pairs: &UidSet,
        of_run: bool,
    ) -> Option<UidSet> {
        if self.watched && !of_run {
            return None;
        }
        let (map, name, client) = self.find(mailbox)?;
        if !of_run && u64::from(*map.counts.get(name)?) >= pairs.len() {
            return None;
        }
        let there = client.scan(name, Opening::Examine, Some(u64::from(u32::MAX))).ok()?;
        let missing = pairs.without(&there.uids);
        let present = pairs.len() - missing.len();
        let may_be_deleted =
            there.uid_validity == Some(validity) || guard::may_take_validity(present, pairs.len());
        may_be_deleted.then_some(missing)
    }

    fn is_there(&mut self, mailbox: &Mailbox) -> Option<bool> {
        let map = self.messages.map(self.client, self.context).ok()?;
        let listed = map.inventory.listed.as_ref()?;
        let account = self.context.config.with_shadowed(self.context.account);
        let version = self.context.config.version;
        let there = ServerMailboxes::new(&account, version, &[mailbox], &[], &map.inventory);
        let name = there.name(0)?;
        // Each server has one, listed or not (RFC 3501 §5.1).
        if name == "INBOX" {
            return Some(true);
        }
        if !is_asked_about(&inventory_scope(&account, false), name) {
            return None;
        }
        if listed.iter().any(|each| each.selectable && each.name == *name) {
            return Some(true);
        }
        // One that is left out of lists (a namespace of Dovecot's with `list = no`) can be
        // opened all the same.
        match self.client.status_or_answer(std::slice::from_ref(name)).ok()?.pop()? {
            Ok(_) => Some(true),
            Err(answer) => (!answer.temporary).then_some(false),
        }
    }

    fn messages(&mut self, mailbox: &Mailbox, uids: &UidSet) -> Option<Vec<MessageIdentity>> {
        let (_, name, client) = self.find(mailbox)?;
        identities(client, name, uids)
    }

    /// What was moved is among their newest messages; what has been there all along (Gmail's
    /// All Mail) is searched for.
    fn find_elsewhere(&mut self, wanted: &mut LostMessages) {
        let Ok(map) = self.messages.map(self.client, self.context) else { return };
        let statuses = self.client.status(&map.unsynced).unwrap_or_default();
        for (name, status) in map.unsynced.iter().zip(statuses) {
            let Some(uids) = newest(status, wanted.left()) else { continue };
            for copy in identities(self.client, name, &uids).unwrap_or_default() {
                wanted.found(copy);
            }
            if wanted.left() == 0 {
                return;
            }
        }
        search(self.client, &map.unsynced, wanted);
    }

    fn is_trash(&mut self, mailbox: &Mailbox) -> bool {
        self.find(mailbox).is_some_and(|(map, name, _)| map.trash.contains(name))
    }
}

/// Those of these messages that are not \Deleted.
fn identities(client: &mut Client, name: &str, uids: &UidSet) -> Option<Vec<MessageIdentity>> {
    let found = client.headers(name, uids).ok()?;
    let identity = |each: &FetchedHeader| MessageIdentity::of(&each.header, each.size);
    let stays = |each: &&FetchedHeader| !each.flags.has(Flags::TRASHED);
    Some(found.iter().filter(stays).filter_map(identity).collect())
}

/// The newest messages of a mailbox, twice as many as are looked for.
fn newest(status: Option<MailboxStatus>, wanted: u64) -> Option<UidSet> {
    let next = status.and_then(|status| status.uid_next)?;
    let most = u32::try_from(wanted).unwrap_or(u32::MAX).saturating_mul(2);
    let first = next.saturating_sub(most).max(1);
    (first < next).then(|| {
        let mut uids = UidSet::default();
        uids.push(first, next - 1);
        uids
    })
}

/// Looks for a sample by Message-ID. Only a message that is shown counts as found: a server
/// that refuses to search, does not end, or finds anything at all passes no deletion.
fn search(client: &mut Client, names: &[String], wanted: &mut LostMessages) {
    let mut missing = wanted.sample(SEARCHED);
    let (asked, began) = (missing.len(), Instant::now());
    for name in names {
        let ids: Vec<&str> = missing.iter().filter_map(|(_, id)| id.as_deref()).collect();
        if ids.is_empty() || began.elapsed() > SEARCH_TIME {
            break;
        }
        match client.search_message_ids(name, &ids) {
            Ok(uids) if !uids.is_empty() => {
                let copies = identities(client, name, &uids).unwrap_or_default();
                let is_copied =
                    |each: &MessageIdentity| copies.iter().any(|it| each.is_copied_by(*it));
                missing.retain(|(identity, _)| !is_copied(identity));
            }
            Err(ClientError::Lost(_)) => break,
            _ => {}
        }
    }
    wanted.conclude(missing.len(), asked);
}

impl FarMap {
    fn ask(client: &mut Client, context: AccountContext<'_>) -> Result<FarMap, ClientError> {
        let AccountContext { account, config, .. } = context;
        let account = &*config.with_shadowed(account);
        let inventory = client.inventory(&inventory_scope(account, false))?;
        let local = config.local_mailboxes(account);
        let here: Vec<&Mailbox> = local.iter().collect();
        let there = ServerMailboxes::new(account, config.version, &here, &[], &inventory);
        let mut map = FarMap::default();
        for (at, mailbox) in local.iter().enumerate() {
            if let Some(name) = there.name(at) {
                map.names.insert(clean::key(mailbox), name.clone());
            }
        }
        for (name, target) in there.only_on_server() {
            if let Some(mailbox) = account.mailbox(target) {
                map.names.insert(clean::key(&mailbox), name.clone());
            }
        }
        // Below the prefixes of the account's stores, as far as they are listed.
        let synced: BTreeSet<&String> = map.names.values().collect();
        for each in inventory.listed.iter().flatten() {
            if each.special_use == Some(SpecialUse::Discarded) {
                map.trash.insert(each.name.clone());
            }
        }
        let is_unsynced = |each: &&Listed| each.selectable && !synced.contains(&each.name);
        let mut unsynced: Vec<&Listed> =
            inventory.listed.iter().flatten().filter(is_unsynced).collect();
        unsynced.sort_by_key(|each| each.special_use != Some(SpecialUse::Kept));
        let names: Vec<String> = map.names.values().cloned().collect();
        for (name, status) in names.iter().zip(client.status(&names)?) {
            let count = status.and_then(|status| status.messages);
            map.counts.extend(count.map(|count| (name.clone(), count)));
        }
        map.unsynced = unsynced.iter().take(MOST_UNSYNCED).map(|each| each.name.clone()).collect();
        map.inventory = inventory;
        Ok(map)
    }
}
