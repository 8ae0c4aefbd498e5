//! The server's side of a watch: the ladder NOTIFY → IDLE → STATUS sweep, and
//! what each mailbox' STATUS is, as far as has been told.
//!
//! Knows connections and mailboxes by index; knows nothing of records, of local
//! mail, or of what a change leads to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::imap::names::{Naming, from_utf7, to_utf7};
use crate::imap::{self, Client, ClientError, Opening, ServerEvent};
use crate::mbsyncrc::{IsyncVersion, pattern};
use crate::model::{Account, Channel, ImapStore, Mailbox, Server, StoreKind};
use crate::os::wait::Cancel;
use crate::verdict::server::ServerStatus;

/// IDLE is renewed this often: below the five minutes after which NAT boxes
/// forget, far below the 29 of RFC 2177.
pub const RENEW: Duration = Duration::from_secs(5 * 60);
/// The server must agree to the end of IDLE within this time.
pub const REPLY: Duration = Duration::from_secs(20);
/// The same after a sleep, when the connection is probably dead.
pub const REPLY_AFTER_SLEEP: Duration = Duration::from_secs(5);

/// An IDLE that the server ends sooner than this is none.
const HASTY: Duration = Duration::from_secs(1);
/// So many of them, or of overflows, show that the server cannot do it.
const ENOUGH: u32 = 3;

/// How the server is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchMode {
    /// One connection for all mailboxes (RFC 5465).
    Notify,
    /// IDLE on the first mailboxes, STATUS of the rest now and then.
    Idle,
    /// STATUS of all now and then.
    Sweep,
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
    /// Where to log in.
    pub server: &'a Server,
    /// The account.
    pub account: &'a Account,
    /// Its mailboxes.
    pub mailboxes: &'a [Mailbox],
    /// The setting `boxes`: of those that are only on the server, which to tell
    /// of. Empty: all.
    pub boxes: &'a [String],
    /// How names are written.
    pub dialect: IsyncVersion,
    /// The highest rung to try.
    pub most: WatchMode,
    /// The most connections to open.
    pub connections: usize,
}

/// A connection, and the mailbox that it idles in.
struct IdleConnection {
    link: Client,
    mailbox: Option<usize>,
}

/// The connections of one account, logged in.
pub struct ServerWatch {
    rung: WatchMode,
    stations: Vec<IdleConnection>,
    /// Wire name of each mailbox; `None` for one that cannot be asked about.
    names: Vec<Option<String>>,
    /// Mailboxes by wire name; two channels may have the same one.
    places: HashMap<String, Vec<usize>>,
    namings: Vec<(String, Naming)>,
    status: Vec<Option<ServerStatus>>,
    /// Mailboxes that are on the server but not here, by wire name.
    only_there: BTreeSet<String>,
    /// Mailboxes with news, and whether STATUS does not show them.
    heard_of: BTreeMap<usize, bool>,
    new_folders: bool,
    /// What the server has said of mailboxes without being asked.
    unasked: u64,
    /// How often anything was heard.
    words: u64,
    /// NOTIFY is on.
    notified: bool,
    overflows: u32,
    idle_since: Option<Instant>,
    hasty: u32,
}

impl ServerWatch {
    /// Logs in and begins to watch: from this moment on no change is missed.
    pub fn open(plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<Self, Error> {
        let mut link = Client::open(plan.server, false, interrupt)?;
        let namespace = link.namespace().map_err(ClientError::into_failure)?;
        let naming = |channel: &Channel| {
            Some((channel.name.clone(), Naming::of(far_store(channel)?, &namespace, None)))
        };
        let mut far = ServerWatch {
            rung: plan.most,
            stations: vec![IdleConnection { link, mailbox: None }],
            names: Vec::new(),
            places: HashMap::new(),
            namings: plan.account.channels.iter().filter_map(naming).collect(),
            status: Vec::new(),
            only_there: BTreeSet::new(),
            heard_of: BTreeMap::new(),
            new_folders: false,
            unasked: 0,
            words: 0,
            notified: false,
            overflows: 0,
            idle_since: None,
            hasty: 0,
        };
        far.turn_to(plan, interrupt).map_err(ClientError::into_failure)?;
        Ok(far)
    }

    /// Watches other mailboxes from now on, over the same login.
    pub fn turn_to(&mut self, plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<(), ClientError> {
        self.names = plan.mailboxes.iter().map(|mailbox| self.wire_name(plan, mailbox)).collect();
        self.places.clear();
        for (at, name) in self.names.iter().enumerate() {
            if let Some(name) = name {
                self.places.entry(name.clone()).or_default().push(at);
            }
        }
        self.status = vec![None; self.names.len()];
        self.heard_of.clear();
        self.stations.truncate(1);
        self.find_only_there(plan)?;
        self.begin(plan.server, plan.connections, interrupt)
    }

    fn wire_name(&self, plan: &WatchPlan<'_>, mailbox: &Mailbox) -> Option<String> {
        let (_, naming) = self.namings.iter().find(|(name, _)| *name == mailbox.channel)?;
        let wire = naming.to_wire(&mailbox.far)?;
        // isync 1.4 takes names as they are on the wire, 1.5 in UTF-8.
        Some(if plan.dialect == IsyncVersion::V1_5 { to_utf7(&wire) } else { wire })
    }

    /// How the server is watched.
    #[must_use]
    pub fn rung(&self) -> WatchMode {
        self.rung
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.stations.len()
    }

    /// What was last told of each mailbox; `None` for one that is not there.
    #[must_use]
    pub fn status(&self, mailbox: usize) -> Option<ServerStatus> {
        self.status.get(mailbox).copied().flatten()
    }

    /// Mailboxes that a channel would sync and that are not here yet.
    #[must_use]
    pub fn only_there(&self) -> &BTreeSet<String> {
        &self.only_there
    }

    /// Whether [`ServerWatch::take_new_folders`] would say so.
    #[must_use]
    pub fn has_new_folders(&self) -> bool {
        self.new_folders
    }

    /// Whether a mailbox came or went on the server since the last question.
    pub fn take_new_folders(&mut self) -> bool {
        std::mem::take(&mut self.new_folders)
    }

    /// How often the server has spoken of a mailbox without being asked.
    #[must_use]
    pub fn unasked(&self) -> u64 {
        self.unasked
    }

    /// How often [`ServerWatch::heard`] has heard anything at all.
    #[must_use]
    pub fn words(&self) -> u64 {
        self.words
    }

    /// Watches by a lower rung from the next [`ServerWatch::turn_to`] on.
    fn fall_to(&mut self, rung: WatchMode) {
        self.rung = self.rung.max(rung);
    }

    fn first(&mut self) -> Result<&mut Client, ClientError> {
        match self.stations.first_mut() {
            Some(station) => Ok(&mut station.link),
            None => Err(ClientError::Lost(Error::new(
                crate::error::ExitStatus::Offline,
                "not connected",
            ))),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.names.iter().flatten().cloned().collect()
    }

    fn begin(
        &mut self,
        server: &Server,
        connections: usize,
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let asked = self.asked();
        let rung = self.rung;
        let link = self.first()?;
        let can = link.capabilities().clone();
        if rung == WatchMode::Notify && can.notify() && can.idle() {
            match link.notify(&asked) {
                Ok(statuses) => {
                    self.notified = true;
                    for (name, status) in statuses {
                        self.told(&name, status);
                    }
                    // What NOTIFY left out may be no more than unknown to it.
                    return self.ask_missing();
                }
                Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        if std::mem::take(&mut self.notified) {
            // Or it would keep to what was asked for, and be silent on what is open.
            match self.first()?.notify_none() {
                Ok(()) | Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        self.rung =
            if rung <= WatchMode::Idle && can.idle() { WatchMode::Idle } else { WatchMode::Sweep };
        self.ask(&asked)?;
        if self.rung == WatchMode::Idle {
            self.take_stations(server, connections, interrupt)?;
        }
        Ok(())
    }

    /// One connection for each of the first mailboxes that exist.
    fn take_stations(
        &mut self,
        server: &Server,
        connections: usize,
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let there: Vec<usize> = (0..self.names.len())
            .filter(|at| self.status(*at).is_some())
            .take(connections.max(1))
            .collect();
        for (turn, mailbox) in there.into_iter().enumerate() {
            if turn > 0 {
                match Client::open(server, false, interrupt) {
                    Ok(link) => self.stations.push(IdleConnection { link, mailbox: None }),
                    // A limit of the server's: the sweep covers the rest.
                    Err(_) => break,
                }
            }
            if let Some(station) = self.stations.last_mut() {
                station.mailbox = Some(mailbox);
            }
        }
        self.resume()
    }

    /// Every idling connection is in its mailbox again. What changed between is heard.
    fn resume(&mut self) -> Result<(), ClientError> {
        for station in &mut self.stations {
            let Some(mailbox) = station.mailbox else { continue };
            let Some(Some(name)) = self.names.get(mailbox) else { continue };
            // To open it anew would hide what the server has to say of it: without
            // CONDSTORE no number tells that a flag was set in the meantime.
            if station.link.is_open(name) {
                continue;
            }
            match station.link.open_mailbox(name, Opening::Examine) {
                Ok(opened) => {
                    let slot = self.status.get_mut(mailbox);
                    if take(slot, opened.status) {
                        self.heard_of.entry(mailbox).or_default();
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
            mailboxes.iter().copied().filter(|at| self.status(*at).is_none()).collect();
        self.ask(&asked)?;
        // One that was made meanwhile is not among those that NOTIFY tells of.
        self.new_folders |= missing.into_iter().any(|at| self.status(at).is_some());
        Ok(())
    }

    fn ask(&mut self, names: &[String]) -> Result<(), ClientError> {
        // Of a mailbox that is open, STATUS tells what this session has seen of it.
        if self.rung == WatchMode::Sweep {
            self.stations.truncate(1);
            for station in &mut self.stations {
                if station.mailbox.take().is_some() {
                    station.link.close_mailbox()?;
                }
            }
        }
        let told = self.first()?.status(names)?;
        for (name, status) in names.iter().zip(told) {
            match status {
                Some(status) => self.told(name, status),
                None => {
                    for at in self.indices(name) {
                        if let Some(slot) = self.status.get_mut(at) {
                            if slot.take().is_some() {
                                self.heard_of.entry(at).or_default();
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.places.get(name).cloned().unwrap_or_default()
    }

    /// Two channels may have the same far mailbox.
    fn told(&mut self, name: &str, status: imap::MailboxStatus) {
        for at in self.indices(name) {
            if take(self.status.get_mut(at), status) {
                self.heard_of.entry(at).or_default();
            }
        }
    }

    /// Mailboxes whose STATUS is another than before, and those (`true`) in which
    /// something happened that STATUS does not show. Never waits, but where a
    /// server only says that something happened in a mailbox, it is asked what.
    pub fn heard(&mut self) -> Result<BTreeMap<usize, bool>, ClientError> {
        let mut ask = Vec::new();
        let (mut overflow, mut ended, mut any) = (false, false, false);
        for at in 0..self.stations.len() {
            let Some(station) = self.stations.get_mut(at) else { break };
            let mailbox = station.mailbox;
            for heard in station.link.events()? {
                any = true;
                match heard {
                    ServerEvent::Status(name, status) => {
                        self.unasked += 1;
                        self.told(&name, status);
                    }
                    ServerEvent::Selected => ask.extend(mailbox.map(|mailbox| (at, mailbox))),
                    ServerEvent::Listed(_) => self.new_folders = true,
                    ServerEvent::Overflow => overflow = true,
                    ServerEvent::IdleEnded => ended = true,
                }
            }
        }
        self.words += u64::from(any);
        if ended {
            let hasty = self.idle_since.is_some_and(|since| since.elapsed() < HASTY);
            self.hasty = if hasty { self.hasty + 1 } else { 0 };
            if self.hasty >= ENOUGH {
                self.rung = WatchMode::Sweep;
            }
        }
        ask.dedup();
        for (station, mailbox) in ask {
            let name = self.names.get(mailbox).cloned().flatten();
            if let (Some(name), Some(station)) = (name, self.stations.get_mut(station)) {
                let told = station.link.status(std::slice::from_ref(&name))?;
                if let Some(Some(status)) = told.into_iter().next() {
                    self.told(&name, status);
                }
                let shows = self.status(mailbox).is_some_and(|now| now.highest_modseq.is_some());
                if !shows {
                    self.heard_of.insert(mailbox, true);
                }
            }
        }
        if overflow {
            // Everything may have changed; begin again, and not for ever.
            self.overflows += 1;
            match self.rung {
                WatchMode::Notify => {
                    if self.overflows >= ENOUGH {
                        self.fall_to(WatchMode::Idle);
                    }
                    self.new_folders = true;
                }
                WatchMode::Idle if self.overflows >= 2 * ENOUGH => self.rung = WatchMode::Sweep,
                WatchMode::Idle | WatchMode::Sweep => {}
            }
            self.sweep()?;
        }
        Ok(std::mem::take(&mut self.heard_of))
    }

    /// What was told so far is known otherwise.
    pub fn forget_heard(&mut self) {
        self.heard_of.clear();
    }

    /// Looks into a mailbox, and leaves it. What was told of it before the look
    /// is what a clean finding goes with.
    pub fn look(
        &mut self,
        mailbox: usize,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<Option<imap::MailboxScan>, ClientError> {
        let Some(name) = self.names.get(mailbox).cloned().flatten() else { return Ok(None) };
        let look = self.first()?.look(&name, opening, since)?;
        self.told(&name, look.after);
        Ok(Some(look))
    }

    /// Gets ready to be told: every connection that can idles.
    pub fn block(&mut self) -> Result<(), ClientError> {
        if self.rung == WatchMode::Idle {
            self.resume()?;
        }
        if self.rung == WatchMode::Sweep {
            return Ok(());
        }
        for station in &mut self.stations {
            if (self.rung == WatchMode::Notify || station.mailbox.is_some())
                && !station.link.is_idling()
            {
                match station.link.idle_start() {
                    Ok(()) => self.idle_since = Some(Instant::now()),
                    Err(ClientError::Refused(_)) => {
                        self.rung = WatchMode::Sweep;
                        return Ok(());
                    }
                    Err(lost) => return Err(lost),
                }
            }
        }
        Ok(())
    }

    /// Shows that each connection lives, within `time` each.
    pub fn probe(&mut self, time: Duration) -> Result<(), ClientError> {
        for station in &mut self.stations {
            match station.link.probe(time) {
                // An answer is an answer.
                Ok(()) | Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }

    /// To be polled, after [`ServerWatch::heard`] has come back empty.
    #[must_use]
    pub fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.stations.iter().map(|station| station.link.poll_fd()).collect()
    }

    /// A connection to be lent. Others go on idling.
    pub fn lend(&mut self) -> Option<&mut Client> {
        self.stations.first_mut().map(|station| &mut station.link)
    }

    /// It came back: watches as before. What changed meanwhile is heard.
    ///
    /// # Errors
    /// The connection was lost.
    pub fn taken_back(&mut self) -> Result<(), ClientError> {
        self.first()?.taken_back()?;
        if self.rung != WatchMode::Notify {
            // It is in its mailbox again before it idles.
            return Ok(());
        }
        let asked = self.asked();
        match self.first()?.notify(&asked) {
            Ok(statuses) => {
                for (name, status) in statuses {
                    self.told(&name, status);
                }
                Ok(())
            }
            Err(ClientError::Refused(_)) => {
                // Nothing is told any more; everything is asked.
                self.rung = WatchMode::Sweep;
                self.sweep()
            }
            Err(lost) => Err(lost),
        }
    }

    /// Says goodbye.
    pub fn close(self) {
        for station in self.stations {
            station.link.log_out();
        }
    }

    /// Finds the mailboxes that only the server has, and that a run of the whole
    /// channel would make here.
    fn find_only_there(&mut self, plan: &WatchPlan<'_>) -> Result<(), ClientError> {
        self.only_there.clear();
        let WatchPlan { account, mailboxes, dialect, .. } = *plan;
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
                let name = match dialect {
                    IsyncVersion::V1_4 => Some(each.name.clone()),
                    IsyncVersion::V1_5 => from_utf7(&each.name),
                };
                let Some(far) = name.and_then(|name| naming.from_wire(&name)) else { continue };
                let known = known.contains(far.as_str());
                let asked_for = plan.boxes.is_empty() || pattern::admits(plan.boxes, &far);
                if !known && asked_for && channel.admits_far(&far) {
                    self.only_there.insert(each.name.clone());
                }
            }
        }
        Ok(())
    }
}

fn far_store(channel: &Channel) -> Option<&ImapStore> {
    match &channel.far.store.kind {
        StoreKind::Imap(store) => Some(store),
        StoreKind::Maildir(_) => None,
    }
}

/// Puts what was told over what is known; whether that makes a difference. An
/// event of NOTIFY leaves items out, and one that was never seen whole tells
/// nothing to compare with.
fn take(slot: Option<&mut Option<ServerStatus>>, told: imap::MailboxStatus) -> bool {
    let Some(slot) = slot else { return false };
    let modseq = |value: Option<u64>| value.filter(|&value| value > 0);
    let now = match *slot {
        Some(then) => ServerStatus {
            uid_validity: told.uid_validity.unwrap_or(then.uid_validity),
            uid_next: told.uid_next.unwrap_or(then.uid_next),
            messages: told.messages.unwrap_or(then.messages),
            highest_modseq: modseq(told.highest_mod_seq).or(then.highest_modseq),
        },
        None => match (told.uid_validity, told.uid_next, told.messages) {
            (Some(uid_validity), Some(uid_next), Some(messages)) => ServerStatus {
                uid_validity,
                uid_next,
                messages,
                highest_modseq: modseq(told.highest_mod_seq),
            },
            _ => return false,
        },
    };
    let moved = *slot != Some(now);
    *slot = Some(now);
    moved
}
