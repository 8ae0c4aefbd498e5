//! The connections that watch an account: by NOTIFY, else by IDLE, else by STATUS
//! at intervals; and the STATUS of each mailbox as last reported.
//!
//! Knows mailboxes by index. Does not depend on: records, local mail, when to
//! connect, what a change leads to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::scan::FarSide;
use crate::error::{Error, ExitStatus};
use crate::imap::names::{Naming, from_utf7, to_utf7};
use crate::imap::{self, Capabilities, Client, ClientError, Opening, ServerEvent};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc::pattern;
use crate::model::{Account, Channel, ImapStore, Mailbox, Server, StoreKind};
use crate::os::wait::Cancel;
use crate::verdict::server::ServerStatus;

/// An IDLE that the server ends sooner than this is none.
const SHORT_IDLE: Duration = Duration::from_secs(1);
/// After this many of them, or of overflows, the server is watched otherwise.
const LIMIT: u32 = 3;

/// How the server is watched, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchMode {
    /// One connection for all mailboxes (RFC 5465).
    Notify,
    /// IDLE in the first mailboxes, STATUS of the rest at intervals.
    Idle,
    /// STATUS of all at intervals.
    Sweep,
}

impl WatchMode {
    /// The best mode of a server. `notified`: it has accepted NOTIFY.
    pub fn best(can: &Capabilities, notified: bool) -> WatchMode {
        if !can.idle() {
            WatchMode::Sweep
        } else if notified {
            WatchMode::Notify
        } else {
            WatchMode::Idle
        }
    }
}

/// Turns NOTIFY on for these mailboxes; `None` if the server does not support it,
/// or not together with IDLE, or refuses.
pub fn start_notify(
    client: &mut Client,
    names: &[String],
) -> Result<Option<Vec<(String, imap::MailboxStatus)>>, ClientError> {
    let can = client.capabilities();
    if !(can.notify() && can.idle()) {
        return Ok(None);
    }
    match client.notify(names) {
        Ok(statuses) => Ok(Some(statuses)),
        Err(ClientError::Refused(_)) => Ok(None),
        Err(lost) => Err(lost),
    }
}

impl std::fmt::Display for WatchMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WatchMode::Notify => "NOTIFY",
            WatchMode::Idle => "IDLE",
            WatchMode::Sweep => "STATUS now and then",
        })
    }
}

/// What to watch, and how.
#[derive(Debug, Clone, Copy)]
pub struct WatchPlan<'a> {
    pub server: &'a Server,
    pub account: &'a Account,
    pub mailboxes: &'a [Mailbox],
    /// The setting `boxes`: of mailboxes that are only on the server, those that
    /// count. Empty: all.
    pub boxes: &'a [String],
    /// It decides how names are written.
    pub version: IsyncVersion,
    /// The best mode to try.
    pub best: WatchMode,
    /// The most connections to open.
    pub connections: usize,
}

/// What the server has sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServerEvents {
    /// Mailboxes whose STATUS is another than before; true: something happened that
    /// STATUS does not show.
    pub changed: BTreeMap<usize, bool>,
    /// A mailbox was created, renamed or removed on the server.
    pub list_changed: bool,
    /// STATUS reports that were not asked for.
    pub unsolicited: u64,
    /// Anything was received.
    pub any: bool,
}

/// A connection, and the mailbox that it idles in.
struct IdleConnection {
    client: Client,
    mailbox: Option<usize>,
}

/// The connections of one account, logged in.
pub struct Connections {
    mode: WatchMode,
    /// The first one also asks; it is lent to runs.
    open: Vec<IdleConnection>,
    /// Wire name of each mailbox; `None` for one that cannot be asked about.
    names: Vec<Option<String>>,
    /// Mailboxes by wire name; two channels may have the same one.
    by_name: HashMap<String, Vec<usize>>,
    /// By channel.
    namings: Vec<(String, Naming)>,
    status: Vec<Option<ServerStatus>>,
    /// Mailboxes that are on the server but not here, by wire name.
    only_on_server: BTreeSet<String>,
    /// See [`ServerEvents::changed`].
    changed: BTreeMap<usize, bool>,
    list_changed: bool,
    /// NOTIFY is on.
    notified: bool,
    overflows: u32,
    idle_since: Option<Instant>,
    /// In a row.
    short_idles: u32,
}

impl Connections {
    /// Logs in and starts to watch: from now on no change is missed.
    pub fn open(plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<Self, Error> {
        let mut client = Client::open(plan.server, false, interrupt)?;
        let namespace = client.namespace().map_err(ClientError::into_failure)?;
        let naming = |channel: &Channel| {
            Some((channel.name.clone(), Naming::of(far_store(channel)?, &namespace, None)))
        };
        let mut all = Connections {
            mode: plan.best,
            open: vec![IdleConnection { client, mailbox: None }],
            names: Vec::new(),
            by_name: HashMap::new(),
            namings: plan.account.channels.iter().filter_map(naming).collect(),
            status: Vec::new(),
            only_on_server: BTreeSet::new(),
            changed: BTreeMap::new(),
            list_changed: false,
            notified: false,
            overflows: 0,
            idle_since: None,
            short_idles: 0,
        };
        all.watch(plan, interrupt).map_err(ClientError::into_failure)?;
        Ok(all)
    }

    /// Watches these mailboxes from now on, over the same login.
    pub fn watch(&mut self, plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<(), ClientError> {
        self.names = plan.mailboxes.iter().map(|mailbox| self.wire_name(plan, mailbox)).collect();
        self.by_name.clear();
        for (at, name) in self.names.iter().enumerate() {
            if let Some(name) = name {
                self.by_name.entry(name.clone()).or_default().push(at);
            }
        }
        self.status = vec![None; self.names.len()];
        self.open.truncate(1);
        self.find_only_on_server(plan)?;
        self.start(plan.server, plan.connections, interrupt)?;
        // Reports that came on the way are part of the STATUS by now.
        self.changed.clear();
        Ok(())
    }

    fn wire_name(&self, plan: &WatchPlan<'_>, mailbox: &Mailbox) -> Option<String> {
        let (_, naming) = self.namings.iter().find(|(name, _)| *name == mailbox.channel)?;
        let wire = naming.to_wire(&mailbox.far)?;
        // isync 1.4 takes names as they are on the wire, 1.5 in UTF-8.
        Some(if plan.version == IsyncVersion::V1_5 { to_utf7(&wire) } else { wire })
    }

    pub fn mode(&self) -> WatchMode {
        self.mode
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// What was last reported of each mailbox; `None` for one that is not there.
    pub fn statuses(&self) -> &[Option<ServerStatus>] {
        &self.status
    }

    /// Mailboxes that a channel would sync and that are not here yet.
    pub fn only_on_server(&self) -> &BTreeSet<String> {
        &self.only_on_server
    }

    fn first(&mut self) -> Result<&mut Client, ClientError> {
        match self.open.first_mut() {
            Some(connection) => Ok(&mut connection.client),
            None => Err(ClientError::Lost(Error::new(ExitStatus::Offline, "not connected"))),
        }
    }

    fn all_names(&self) -> Vec<String> {
        self.names.iter().flatten().cloned().collect()
    }

    fn start(
        &mut self,
        server: &Server,
        connections: usize,
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let names = self.all_names();
        if self.mode == WatchMode::Notify {
            if let Some(statuses) = start_notify(self.first()?, &names)? {
                self.notified = true;
                for (name, status) in statuses {
                    self.set_status(&name, status);
                }
                // What NOTIFY left out may be no more than unknown to it.
                return self.ask_missing();
            }
        }
        if std::mem::take(&mut self.notified) {
            // Or it would keep to what was asked for, and not report on what is open.
            match self.first()?.notify_none() {
                Ok(()) | Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        self.mode = self.mode.max(WatchMode::best(self.first()?.capabilities(), false));
        self.ask(&names)?;
        if self.mode == WatchMode::Idle {
            self.open_idle_connections(server, connections, interrupt)?;
        }
        Ok(())
    }

    /// One connection for each of the first mailboxes that exist.
    fn open_idle_connections(
        &mut self,
        server: &Server,
        connections: usize,
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let there: Vec<usize> = (0..self.names.len())
            .filter(|at| FarSide::status(self, *at).is_some())
            .take(connections.max(1))
            .collect();
        for (number, mailbox) in there.into_iter().enumerate() {
            if number > 0 {
                match Client::open(server, false, interrupt) {
                    Ok(client) => self.open.push(IdleConnection { client, mailbox: None }),
                    // The server limits connections: the sweep covers the rest.
                    Err(_) => break,
                }
            }
            if let Some(connection) = self.open.last_mut() {
                connection.mailbox = Some(mailbox);
            }
        }
        self.resume()
    }

    /// Each idling connection is in its mailbox again. What changed meanwhile is an event.
    fn resume(&mut self) -> Result<(), ClientError> {
        for connection in &mut self.open {
            let Some(mailbox) = connection.mailbox else { continue };
            let Some(Some(name)) = self.names.get(mailbox) else { continue };
            // To open it again would hide what the server has to report of it: without
            // CONDSTORE no number shows that a flag was set meanwhile.
            if connection.client.is_open(name) {
                continue;
            }
            match connection.client.open_mailbox(name, Opening::Examine) {
                Ok(opened) => {
                    if merge(self.status.get_mut(mailbox), opened.status) {
                        self.changed.entry(mailbox).or_default();
                    }
                }
                Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }

    fn ask_missing(&mut self) -> Result<(), ClientError> {
        let missing: Vec<String> = self
            .names
            .iter()
            .zip(&self.status)
            .filter(|(_, status)| status.is_none())
            .filter_map(|(name, _)| name.clone())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.ask(&missing)
    }

    /// STATUS of all mailboxes.
    pub fn sweep(&mut self) -> Result<(), ClientError> {
        let all: BTreeSet<usize> = (0..self.names.len()).collect();
        self.refresh(&all)
    }

    /// STATUS of these mailboxes.
    pub fn refresh(&mut self, mailboxes: &BTreeSet<usize>) -> Result<(), ClientError> {
        let asked: Vec<String> =
            mailboxes.iter().filter_map(|at| self.names.get(*at).cloned().flatten()).collect();
        let missing: Vec<usize> =
            mailboxes.iter().copied().filter(|at| FarSide::status(self, *at).is_none()).collect();
        self.ask(&asked)?;
        // One that was created meanwhile is not among those that NOTIFY reports.
        self.list_changed |= missing.into_iter().any(|at| FarSide::status(self, at).is_some());
        Ok(())
    }

    fn ask(&mut self, names: &[String]) -> Result<(), ClientError> {
        // Of a mailbox that is open, STATUS shows what this session has seen of it.
        if self.mode == WatchMode::Sweep {
            self.open.truncate(1);
            for connection in &mut self.open {
                if connection.mailbox.take().is_some() {
                    connection.client.close_mailbox()?;
                }
            }
        }
        let answers = self.first()?.status(names)?;
        for (name, status) in names.iter().zip(answers) {
            match status {
                Some(status) => self.set_status(name, status),
                None => {
                    for at in self.indices(name) {
                        if let Some(slot) = self.status.get_mut(at) {
                            if slot.take().is_some() {
                                self.changed.entry(at).or_default();
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.by_name.get(name).cloned().unwrap_or_default()
    }

    /// Two channels may have the same far mailbox.
    fn set_status(&mut self, name: &str, status: imap::MailboxStatus) {
        for at in self.indices(name) {
            if merge(self.status.get_mut(at), status) {
                self.changed.entry(at).or_default();
            }
        }
    }

    /// What the server has sent. Never waits, but where a server only reports that
    /// something happened in a mailbox, it is asked what.
    pub fn events(&mut self) -> Result<ServerEvents, ClientError> {
        let mut events = ServerEvents::default();
        let mut ask = Vec::new();
        let (mut overflow, mut idle_ended) = (false, false);
        for at in 0..self.open.len() {
            let Some(connection) = self.open.get_mut(at) else { break };
            let mailbox = connection.mailbox;
            for event in connection.client.events()? {
                events.any = true;
                match event {
                    ServerEvent::Status(name, status) => {
                        events.unsolicited += 1;
                        self.set_status(&name, status);
                    }
                    ServerEvent::Selected => ask.extend(mailbox.map(|mailbox| (at, mailbox))),
                    ServerEvent::Listed(_) => self.list_changed = true,
                    ServerEvent::Overflow => overflow = true,
                    ServerEvent::IdleEnded => idle_ended = true,
                }
            }
        }
        if idle_ended {
            let short = self.idle_since.is_some_and(|since| since.elapsed() < SHORT_IDLE);
            self.short_idles = if short { self.short_idles + 1 } else { 0 };
            if self.short_idles >= LIMIT {
                self.mode = WatchMode::Sweep;
            }
        }
        ask.dedup();
        for (connection, mailbox) in ask {
            self.ask_selected(connection, mailbox)?;
        }
        if overflow {
            self.start_again()?;
        }
        events.changed = std::mem::take(&mut self.changed);
        events.list_changed = std::mem::take(&mut self.list_changed);
        Ok(events)
    }

    /// Something happened in the mailbox that this connection has open.
    fn ask_selected(&mut self, connection: usize, mailbox: usize) -> Result<(), ClientError> {
        let name = self.names.get(mailbox).cloned().flatten();
        let Some((name, connection)) = name.zip(self.open.get_mut(connection)) else {
            return Ok(());
        };
        let answers = connection.client.status(std::slice::from_ref(&name))?;
        if let Some(Some(status)) = answers.into_iter().next() {
            self.set_status(&name, status);
        }
        let shown = FarSide::status(self, mailbox).is_some_and(|now| now.highest_modseq.is_some());
        if !shown {
            self.changed.insert(mailbox, true);
        }
        Ok(())
    }

    /// Events were dropped: everything may have changed. Not forever by the same mode.
    fn start_again(&mut self) -> Result<(), ClientError> {
        self.overflows += 1;
        match self.mode {
            WatchMode::Notify => {
                if self.overflows >= LIMIT {
                    self.mode = WatchMode::Idle;
                }
                self.list_changed = true;
            }
            WatchMode::Idle if self.overflows >= 2 * LIMIT => self.mode = WatchMode::Sweep,
            WatchMode::Idle | WatchMode::Sweep => {}
        }
        self.sweep()
    }

    /// Prepares to wait for events: every connection that can idles.
    pub fn start_idling(&mut self) -> Result<(), ClientError> {
        if self.mode == WatchMode::Idle {
            self.resume()?;
        }
        if self.mode == WatchMode::Sweep {
            return Ok(());
        }
        for connection in &mut self.open {
            if (self.mode == WatchMode::Notify || connection.mailbox.is_some())
                && !connection.client.is_idling()
            {
                match connection.client.idle_start() {
                    Ok(()) => self.idle_since = Some(Instant::now()),
                    Err(ClientError::Refused(_)) => {
                        self.mode = WatchMode::Sweep;
                        return Ok(());
                    }
                    Err(lost) => return Err(lost),
                }
            }
        }
        Ok(())
    }

    /// Checks that each connection works, within `time` each.
    pub fn probe(&mut self, time: Duration) -> Result<(), ClientError> {
        for connection in &mut self.open {
            match connection.client.probe(time) {
                // A refusal is an answer.
                Ok(()) | Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }

    /// To be polled, after [`Connections::events`] has returned none.
    pub fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.open.iter().map(|connection| connection.client.poll_fd()).collect()
    }

    /// The connection that is lent to a run; the others go on idling.
    pub fn lend(&mut self) -> Option<&mut Client> {
        self.open.first_mut().map(|connection| &mut connection.client)
    }

    /// The run has returned it: it watches as before. What changed meanwhile is an event.
    pub fn reattach(&mut self) -> Result<(), ClientError> {
        self.first()?.reattach()?;
        if self.mode != WatchMode::Notify {
            // It is in its mailbox again before it idles.
            return Ok(());
        }
        let names = self.all_names();
        match self.first()?.notify(&names) {
            Ok(statuses) => {
                for (name, status) in statuses {
                    self.set_status(&name, status);
                }
                Ok(())
            }
            Err(ClientError::Refused(_)) => {
                // Nothing is reported any more; everything is asked.
                self.mode = WatchMode::Sweep;
                self.sweep()
            }
            Err(lost) => Err(lost),
        }
    }

    /// Logs out.
    pub fn close(self) {
        for connection in self.open {
            connection.client.log_out();
        }
    }

    /// Finds the mailboxes that only the server has, and that a run of the whole
    /// channel would create here.
    fn find_only_on_server(&mut self, plan: &WatchPlan<'_>) -> Result<(), ClientError> {
        self.only_on_server.clear();
        let WatchPlan { account, mailboxes, version, .. } = *plan;
        for channel in account.channels.iter().filter(|channel| channel.create.near) {
            let naming = self.namings.iter().find(|(name, _)| *name == channel.name);
            let (Some((_, naming)), Some(store), true) =
                (naming.cloned(), far_store(channel), channel.patterns.is_some())
            else {
                continue;
            };
            let listed = match self.first()?.list(&store.path) {
                Ok(listed) => listed,
                Err(ClientError::Refused(_)) => continue,
                Err(lost) => return Err(lost),
            };
            let here = mailboxes.iter().filter(|mailbox| mailbox.channel == channel.name);
            let known: HashSet<&str> = here.map(|mailbox| mailbox.far.as_str()).collect();
            for each in listed.iter().filter(|each| each.selectable()) {
                let name = match version {
                    IsyncVersion::V1_4 => Some(each.name.clone()),
                    IsyncVersion::V1_5 => from_utf7(&each.name),
                };
                let Some(far) = name.and_then(|name| naming.from_wire(&name)) else { continue };
                let known = known.contains(far.as_str());
                let asked_for = plan.boxes.is_empty() || pattern::admits(plan.boxes, &far);
                if !known && asked_for && channel.admits_far(&far) {
                    self.only_on_server.insert(each.name.clone());
                }
            }
        }
        Ok(())
    }
}

impl FarSide for Connections {
    fn status(&self, mailbox: usize) -> Option<ServerStatus> {
        self.status.get(mailbox).copied().flatten()
    }

    /// The STATUS from before the scan is what a clean verdict belongs to.
    fn scan(
        &mut self,
        mailbox: usize,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<Option<imap::MailboxScan>, ClientError> {
        let Some(name) = self.names.get(mailbox).cloned().flatten() else { return Ok(None) };
        let scan = self.first()?.look(&name, opening, since)?;
        self.set_status(&name, scan.after);
        Ok(Some(scan))
    }
}

fn far_store(channel: &Channel) -> Option<&ImapStore> {
    match &channel.far.store.kind {
        StoreKind::Imap(store) => Some(store),
        StoreKind::Maildir(_) => None,
    }
}

/// Puts a report over what is known; whether that makes a difference. An event of
/// NOTIFY leaves items out, and where no STATUS was ever complete there is nothing
/// to compare with.
fn merge(slot: Option<&mut Option<ServerStatus>>, report: imap::MailboxStatus) -> bool {
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
    use crate::imap::MailboxStatus;

    #[test]
    fn the_mode_follows_from_what_the_server_supports() {
        let best = |words: &str, notified| {
            WatchMode::best(&imap::parse::capabilities(words.as_bytes()), notified)
        };
        assert_eq!(best("IMAP4rev1 IDLE NOTIFY", true), WatchMode::Notify);
        assert_eq!(best("IMAP4rev1 IDLE NOTIFY", false), WatchMode::Idle);
        assert_eq!(best("IMAP4rev1 NOTIFY", true), WatchMode::Sweep);
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
