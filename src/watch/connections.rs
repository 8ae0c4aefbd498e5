//! The connections that watch an account: by NOTIFY, else by IDLE, else by STATUS
//! at intervals; and the STATUS of each mailbox as last reported.
//!
//! Knows mailboxes by index. Does not depend on: records, local mail, when to
//! connect, what a change leads to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, ExitStatus};
use crate::imap::client::unless_refused;
use crate::imap::{
    Capabilities, Client, ClientError, Inventory, MailboxStatus, Opening, ServerEvent,
};
use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Mailbox, Server, Target};
use crate::os::child::Prompt;
use crate::os::wait::Cancel;
use crate::survey;
use crate::survey::scan::{FarSide, ScanScope, Scanned};
use crate::survey::server::{ServerMailboxes, inventory_scope};
use crate::verdict::server::ServerStatus;

/// An IDLE that the server ends sooner than this is none.
const SHORT_IDLE: Duration = Duration::from_secs(1);
/// A mailbox is watched in place of another when it has changed so much more often.
const ACTIVITY_LEAD: u32 = 2;
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
) -> Result<Option<Vec<(String, MailboxStatus)>>, ClientError> {
    let can = client.capabilities();
    if !(can.notify() && can.idle()) {
        return Ok(None);
    }
    unless_refused(client.notify(names, &[]))
}

impl std::fmt::Display for WatchMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WatchMode::Notify => "NOTIFY",
            WatchMode::Idle => "IDLE",
            WatchMode::Sweep => "STATUS polling",
        })
    }
}

/// What to watch, and how.
#[derive(Debug, Clone, Copy)]
pub struct WatchPlan<'a> {
    pub server: &'a Server,
    pub account: &'a Account,
    pub mailboxes: &'a [&'a Mailbox],
    /// The setting `boxes`: of mailboxes that are only on the server, those that
    /// count. Empty: all.
    pub boxes: &'a [String],
    /// It decides how names are written.
    pub version: IsyncVersion,
    /// The best mode to try.
    pub best: WatchMode,
    /// The most connections to open.
    pub connections: usize,
    /// What changes often is watched first.
    pub activity: &'a Activity,
}

/// How often each mailbox, by wire name, has been seen to change.
#[derive(Debug, Default)]
pub struct Activity(HashMap<String, u32>);

impl Activity {
    pub fn count(&mut self, name: &str) {
        let seen = self.0.entry(name.to_owned()).or_default();
        *seen = seen.saturating_add(1);
    }

    /// INBOX before all.
    fn of(&self, name: &str) -> u32 {
        if name == "INBOX" { u32::MAX } else { self.0.get(name).copied().unwrap_or_default() }
    }
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

/// Which mailboxes the server has listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listing {
    count: usize,
    digest: u64,
}

impl Listing {
    /// `None` where the server refuses to list them.
    fn of(inventory: &Inventory) -> Option<Self> {
        let listed = inventory.listed.as_ref()?.iter().filter(|each| each.selectable);
        let mut subscribed: Vec<&String> = inventory.subscribed.iter().collect();
        subscribed.sort_unstable();
        let mut hasher = DefaultHasher::new();
        let mut count = 0;
        for each in listed {
            each.name.hash(&mut hasher);
            count += 1;
        }
        // As a list, so that its beginning counts.
        subscribed.hash(&mut hasher);
        Some(Listing { count, digest: hasher.finish() })
    }
}

/// A connection, and the mailbox that it idles in.
struct IdleConnection {
    client: Client,
    mailbox: Option<usize>,
    /// In a row, the server has refused to open it.
    refused_opens: u32,
    /// It is not due to be opened again.
    opens_later: bool,
    idle_since: Option<Instant>,
    /// In a row.
    short_idles: u32,
}

impl IdleConnection {
    fn new(client: Client, mailbox: Option<usize>) -> Self {
        IdleConnection {
            client,
            mailbox,
            refused_opens: 0,
            opens_later: false,
            idle_since: None,
            short_idles: 0,
        }
    }

    fn idle_in(&mut self, mailbox: Option<usize>) {
        self.mailbox = mailbox;
        (self.refused_opens, self.opens_later) = (0, false);
    }

    /// The server has ended IDLE. True if it does so too soon, again and again.
    fn idle_ended(&mut self) -> bool {
        let short = self.idle_since.is_some_and(|since| since.elapsed() < SHORT_IDLE);
        self.short_idles = if short { self.short_idles + 1 } else { 0 };
        self.short_idles >= LIMIT
    }
}

/// The connections of one account, logged in.
pub struct Connections {
    mode: WatchMode,
    /// The first one also asks; it is lent to runs.
    open: Vec<IdleConnection>,
    mailboxes: ServerMailboxes,
    /// See [`ServerEvents::changed`].
    changed: BTreeMap<usize, bool>,
    list_changed: bool,
    /// The most connections, as far as the server has refused more.
    limit: usize,
    /// So many connections in a row could not be made, for a reason that may pass.
    failed_opens: u32,
    /// The mailboxes that the server listed last.
    listing: Option<Listing>,
    /// NOTIFY was turned on since then: what came or went before that is not reported.
    must_list: bool,
    /// NOTIFY reports the personal mailboxes, and these beside them if it can.
    not_personal: Vec<String>,
    /// NOTIFY does not report these: they are asked about at intervals.
    unreported: BTreeSet<usize>,
    /// NOTIFY was renewed after the server listed mailboxes for no reason.
    notified_again: bool,
    overflows: u32,
    /// In a row.
    refused_idles: u32,
}

impl Connections {
    /// Logs in and starts to watch: from now on no change is missed.
    pub fn open(plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<Self, Error> {
        let client = Client::open(plan.server, Prompt::Never, interrupt)?;
        let mut all = Connections::over(plan.best, client);
        all.watch(plan, interrupt).map_err(|error| error.into_error().as_costly())?;
        Ok(all)
    }

    fn over(mode: WatchMode, client: Client) -> Self {
        Connections {
            mode,
            open: vec![IdleConnection::new(client, None)],
            mailboxes: ServerMailboxes::default(),
            changed: BTreeMap::new(),
            list_changed: false,
            limit: usize::MAX,
            failed_opens: 0,
            listing: None,
            must_list: false,
            not_personal: Vec::new(),
            unreported: BTreeSet::new(),
            notified_again: false,
            overflows: 0,
            refused_idles: 0,
        }
    }

    /// Watches these mailboxes from now on, over the same login.
    pub fn watch(&mut self, plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<(), ClientError> {
        let idled: Vec<_> =
            self.open.iter().map(|each| self.name(each.mailbox?).cloned()).collect();
        let inventory = self.first()?.inventory(&inventory_scope(plan.account, false))?;
        self.mailboxes = ServerMailboxes::new(
            plan.account,
            plan.version,
            plan.mailboxes,
            plan.boxes,
            &inventory,
        );
        self.note_listing(&inventory);
        drop(inventory);
        for (connection, name) in self.open.iter_mut().zip(idled) {
            connection.mailbox = name.and_then(|name| self.mailboxes.named(&name).first().copied());
        }
        self.start(plan, interrupt)?;
        // Reports that came on the way are part of the STATUS by now.
        self.changed.clear();
        Ok(())
    }

    pub fn mode(&self) -> WatchMode {
        self.mode
    }

    /// Whether all mailboxes are asked about in one command.
    pub fn sweeps_in_one(&self) -> bool {
        self.open.first().is_some_and(|first| first.client.lists_status())
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The wire name of a mailbox.
    pub fn name(&self, mailbox: usize) -> Option<&String> {
        self.mailboxes.name(mailbox)
    }

    /// The mailboxes with this wire name.
    pub fn named(&self, name: &str) -> Vec<usize> {
        self.mailboxes.named(name)
    }

    /// What was last reported of each mailbox; `None` for one that is not there.
    pub fn statuses(&self) -> &[Option<ServerStatus>] {
        self.mailboxes.statuses()
    }

    /// Mailboxes that a channel would sync and that are not here yet, by wire name, and
    /// what to ask for to get them.
    pub fn only_on_server(&self) -> &[(String, Target)] {
        self.mailboxes.only_on_server()
    }

    /// STATUS of these mailboxes, from a server that says something within `time` or is lost,
    /// slow as it may be with the rest; with a plan, the mailboxes there are listed again,
    /// too: a server that reports new ones does so when it likes.
    pub fn confirm(
        &mut self,
        plan: Option<&WatchPlan<'_>>,
        mailboxes: &BTreeSet<usize>,
        time: Duration,
    ) -> Result<(), ClientError> {
        unless_refused(self.first()?.expect_word(time))?;
        self.settle_selected()?;
        match plan {
            Some(plan) => self.list_again(plan, mailboxes),
            None => self.refresh(Some(mailboxes)),
        }
    }

    /// The mailboxes on the server and STATUS of these, in one round trip where the server
    /// has LIST-STATUS.
    fn list_again(
        &mut self,
        plan: &WatchPlan<'_>,
        mailboxes: &BTreeSet<usize>,
    ) -> Result<(), ClientError> {
        self.prepare_status()?;
        let inventory = self.first()?.inventory(&inventory_scope(plan.account, true))?;
        let WatchPlan { account, version, mailboxes: here, boxes, .. } = *plan;
        self.mailboxes.find_only_on_server(account, version, here, boxes, &inventory);
        self.note_listing(&inventory);
        let absent = self.absent(mailboxes);
        let mut left = mailboxes.clone();
        left.retain(|at| {
            let answer = self.mailboxes.name(*at).and_then(|name| inventory.statuses.get(name));
            !answer.is_some_and(MailboxStatus::is_complete)
        });
        for (name, status) in &inventory.statuses {
            if status.is_complete() {
                self.answered(name, *status);
            } else {
                // NOTIFY's, which came meanwhile and may not be repeated.
                self.set_status(name, *status);
            }
        }
        // Only NOTIFY needs to be told of it.
        self.list_changed |= self.mode == WatchMode::Notify
            && absent.into_iter().any(|at| self.mailboxes.status(at).is_some());
        if left.is_empty() { Ok(()) } else { self.refresh(Some(&left)) }
    }

    /// What the server has to say of the mailbox that the first connection has open: its
    /// STATUS shows no more than that session has seen.
    fn settle_selected(&mut self) -> Result<(), ClientError> {
        let Some(connection) = self.open.first_mut().filter(|first| first.mailbox.is_some()) else {
            return Ok(());
        };
        unless_refused(connection.client.noop()).map(drop)
    }

    fn first(&mut self) -> Result<&mut Client, ClientError> {
        match self.open.first_mut() {
            Some(connection) => Ok(&mut connection.client),
            None => Err(ClientError::Lost(Error::new(ExitStatus::Offline, "not connected"))),
        }
    }

    fn start(&mut self, plan: &WatchPlan<'_>, interrupt: &Cancel) -> Result<(), ClientError> {
        let names = self.mailboxes.names();
        self.not_personal.clear();
        self.unreported.clear();
        if self.mode == WatchMode::Notify {
            if let Some(statuses) = start_notify(self.first()?, &names)? {
                self.must_list = true;
                for (name, status) in statuses {
                    self.set_status(&name, status);
                }
                return self.ask_unreported();
            }
        }
        // Or it would keep to what was asked for, and not report on what is open.
        self.first()?.notify_none()?;
        self.mode = self.mode.max(WatchMode::best(self.first()?.capabilities(), false));
        self.ask(&names)?;
        if self.mode == WatchMode::Idle {
            self.open_idle_connections(plan, interrupt)?;
        }
        Ok(())
    }

    /// What NOTIFY left out may be no more than unknown to it: not among the personal
    /// mailboxes, which it reports where it does not take all names.
    fn ask_unreported(&mut self) -> Result<(), ClientError> {
        let mut missing = self.mailboxes.names_without_status();
        if missing.is_empty() {
            return Ok(());
        }
        self.ask(&missing)?;
        let absent: HashSet<String> = self.mailboxes.names_without_status().into_iter().collect();
        missing.retain(|name| !absent.contains(name));
        if missing.is_empty() {
            return Ok(());
        }
        self.unreported = missing.iter().flat_map(|name| self.mailboxes.named(name)).collect();
        if !self.first()?.notified_by_name() {
            missing.sort_unstable();
            missing.dedup();
            self.not_personal = missing;
        }
        // It tells which of them are reported, and Dovecot 2.3.19 knows them by now.
        self.notify_again().map(drop)
    }

    /// Whether there are mailboxes that NOTIFY does not report.
    pub fn lacks_reports(&self) -> bool {
        self.mode == WatchMode::Notify && !self.unreported.is_empty()
    }

    /// STATUS of the mailboxes that NOTIFY does not report.
    pub fn refresh_unreported(&mut self) -> Result<(), ClientError> {
        let unreported = self.unreported.clone();
        self.refresh(Some(&unreported))
    }

    /// The mailboxes that exist, those that change most first.
    fn by_activity(&self, activity: &Activity) -> Vec<usize> {
        let mut there: Vec<usize> =
            (0..self.mailboxes.count()).filter(|at| self.mailboxes.status(*at).is_some()).collect();
        there.sort_by_key(|at| Reverse(self.activity(*at, activity)));
        there
    }

    fn activity(&self, mailbox: usize, activity: &Activity) -> u32 {
        self.mailboxes.name(mailbox).map_or(0, |name| activity.of(name))
    }

    /// Has the connections idle in the mailboxes that change most by now. Gives the names of
    /// one that is left and one that is watched in its place.
    pub fn follow(&mut self, activity: &Activity) -> Option<(String, String)> {
        if self.mode != WatchMode::Idle {
            return None;
        }
        let idled: Vec<usize> = self.open.iter().filter_map(|each| each.mailbox).collect();
        let of = |at: &usize| self.activity(*at, activity);
        let next = self.by_activity(activity).into_iter().find(|at| !idled.contains(at))?;
        let least = idled.iter().copied().min_by_key(of)?;
        if of(&next) <= of(&least).saturating_add(ACTIVITY_LEAD) {
            return None;
        }
        let names = self.mailboxes.name(least).cloned().zip(self.mailboxes.name(next).cloned());
        if self.mailboxes.status(least).is_some_and(|status| status.highest_modseq.is_none()) {
            // Its flags are not in STATUS: what it was about to report is looked for.
            self.changed.insert(least, true);
        }
        let connection = self.open.iter_mut().find(|each| each.mailbox == Some(least))?;
        connection.idle_in(Some(next));
        names
    }

    /// One connection for each of the first mailboxes. Those that idle in one of them go on.
    pub fn open_idle_connections(
        &mut self,
        plan: &WatchPlan<'_>,
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let mut there = self.by_activity(plan.activity);
        there.truncate(plan.connections.min(self.limit).max(1));
        self.keep(there.len());
        let idled: Vec<_> = self.open.iter().filter_map(|each| each.mailbox).collect();
        let mut left = there.iter().copied().filter(|at| !idled.contains(at));
        for connection in &mut self.open {
            if connection.mailbox.is_none_or(|at| !there.contains(&at)) {
                connection.idle_in(left.next());
            }
        }
        for mailbox in left {
            match Client::open(plan.server, Prompt::Never, interrupt) {
                Ok(client) => {
                    self.failed_opens = 0;
                    self.open.push(IdleConnection::new(client, Some(mailbox)));
                }
                Err(_) if interrupt.is_raised() => break,
                Err(error) => {
                    self.failed_opens += 1;
                    if is_refused_login(&error) || self.failed_opens >= LIMIT {
                        // The server limits connections: the sweep covers the rest, and one
                        // is given back for mbsync run by hand and other clients.
                        self.failed_opens = 0;
                        self.limit = self.open.len().max(2) - 1;
                        self.keep(self.limit);
                    }
                    break;
                }
            }
        }
        self.resume()
    }

    /// Whether a connection could not be made, and is to be tried again.
    pub fn lacks_connections(&self) -> bool {
        self.mode == WatchMode::Idle && self.failed_opens > 0
    }

    /// One connection less from now on; false if there is none left.
    pub fn give_back(&mut self) -> bool {
        self.limit = self.open.len().saturating_sub(1);
        self.keep(self.limit);
        self.limit > 0
    }

    /// Logs out of the connections beyond so many, and beyond the first.
    fn keep(&mut self, connections: usize) {
        while self.open.len() > connections.max(1) {
            if let Some(connection) = self.open.pop() {
                connection.client.leave();
            }
        }
    }

    /// Each idling connection is in its mailbox again. What changed meanwhile is an event.
    fn resume(&mut self) -> Result<(), ClientError> {
        for connection in &mut self.open {
            let Some(mailbox) = connection.mailbox else { continue };
            let Some(name) = self.mailboxes.name(mailbox).cloned() else { continue };
            // To open it again would hide what the server has to report of it: without
            // CONDSTORE no number shows that a flag was set meanwhile.
            if connection.client.is_open(&name) || connection.opens_later {
                continue;
            }
            let opened = connection.client.open_mailbox(&name, Opening::Examine);
            let Some(opened) = unless_refused(opened)? else {
                connection.refused_opens = connection.refused_opens.saturating_add(1);
                connection.opens_later = true;
                continue;
            };
            let unheard = std::mem::take(&mut connection.refused_opens) > 0;
            if unheard && opened.status.highest_mod_seq.is_none() {
                self.changed.insert(mailbox, true);
            }
            if self.mailboxes.differs(&name, opened.status) {
                // Yahoo's STATUS counts all messages, and an open mailbox shows 10 000 of them.
                let told = connection.client.status(std::slice::from_ref(&name))?.pop().flatten();
                let status = told.unwrap_or(opened.status);
                note(&mut self.changed, self.mailboxes.report(&name, status));
            }
        }
        Ok(())
    }

    /// The mailbox of a connection is not open, for the server has refused that so many times
    /// in a row. It may only be throttled.
    pub fn refused_opens(&self) -> Option<u32> {
        let waiting = self.open.iter().filter(|each| each.opens_later);
        waiting.map(|each| each.refused_opens).min().filter(|_| self.mode == WatchMode::Idle)
    }

    /// What the server has refused to open is tried again before the next IDLE.
    pub fn open_again(&mut self) {
        self.open.iter_mut().for_each(|each| each.opens_later = false);
    }

    /// The mailboxes on the server and STATUS of all: without NOTIFY, nothing else shows
    /// which come and go.
    pub fn list_and_sweep(&mut self, plan: &WatchPlan<'_>) -> Result<(), ClientError> {
        // Yahoo's IDLE reports no deletions.
        self.settle_selected()?;
        self.list_again(plan, &self.all())
    }

    fn note_listing(&mut self, inventory: &Inventory) {
        self.listing = Listing::of(inventory).or(self.listing);
    }

    /// Whether [`Connections::list_names`] has something to find, and how many names it costs.
    pub fn must_list(&self) -> Option<usize> {
        let wanted = self.must_list && self.mode == WatchMode::Notify;
        wanted.then(|| self.listing.map_or(0, |listing| listing.count))
    }

    /// Whether the mailboxes on the server are others than when they were listed last.
    pub fn list_names(&mut self, account: &Account) -> Result<(), ClientError> {
        self.must_list = false;
        let before = self.listing;
        let asked = self.first()?.inventory(&inventory_scope(account, false));
        let Some(inventory) = unless_refused(asked)? else { return Ok(()) };
        self.note_listing(&inventory);
        self.list_changed |= before.is_some() && before != self.listing;
        for (name, status) in &inventory.statuses {
            self.set_status(name, *status);
        }
        Ok(())
    }

    fn all(&self) -> BTreeSet<usize> {
        (0..self.mailboxes.count()).collect()
    }

    /// STATUS of these mailboxes, or of all.
    pub fn refresh(&mut self, mailboxes: Option<&BTreeSet<usize>>) -> Result<(), ClientError> {
        let all = if mailboxes.is_none() { self.all() } else { BTreeSet::new() };
        let mailboxes = mailboxes.unwrap_or(&all);
        let asked: Vec<String> =
            mailboxes.iter().filter_map(|at| self.mailboxes.name(*at).cloned()).collect();
        let absent = self.absent(mailboxes);
        self.ask(&asked)?;
        // One that was created meanwhile is not among those that NOTIFY reports.
        self.list_changed |= absent.into_iter().any(|at| self.mailboxes.status(at).is_some());
        Ok(())
    }

    fn absent(&self, mailboxes: &BTreeSet<usize>) -> Vec<usize> {
        mailboxes.iter().copied().filter(|at| self.mailboxes.status(*at).is_none()).collect()
    }

    /// Of a mailbox that is open, STATUS shows what this session has seen of it.
    fn prepare_status(&mut self) -> Result<(), ClientError> {
        if self.mode == WatchMode::Sweep {
            self.keep(1);
            for connection in &mut self.open {
                if connection.mailbox.take().is_some() {
                    connection.client.close_mailbox()?;
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, names: &[String]) -> Result<(), ClientError> {
        self.prepare_status()?;
        let answers = self.first()?.status_or_answer(names)?;
        for (name, status) in names.iter().zip(answers) {
            match status {
                Ok(status) => self.answered(name, status),
                // Microsoft 365 refuses single commands so: "Request is throttled".
                Err(refused) if refused.temporary => {}
                Err(_) => note(&mut self.changed, self.mailboxes.report_absent(name)),
            }
        }
        Ok(())
    }

    /// The answer to STATUS. What it leaves out is not known any more.
    fn answered(&mut self, name: &str, status: MailboxStatus) {
        note(&mut self.changed, self.mailboxes.answer(name, status));
    }

    fn set_status(&mut self, name: &str, status: MailboxStatus) {
        note(&mut self.changed, self.mailboxes.report(name, status));
    }

    /// What the server has sent. Never waits, but where a server only reports that
    /// something happened in a mailbox, it is asked what.
    pub fn events(&mut self) -> Result<ServerEvents, ClientError> {
        let mut events = ServerEvents::default();
        let mut ask = Vec::new();
        let (mut overflow, mut listed) = (false, false);
        for at in 0..self.open.len() {
            let Some(connection) = self.open.get_mut(at) else { break };
            let mailbox = connection.mailbox;
            let said = connection.client.events()?;
            if said.contains(&ServerEvent::IdleEnded) && connection.idle_ended() {
                self.mode = WatchMode::Sweep;
            }
            for event in said {
                events.any = true;
                match event {
                    ServerEvent::Status(name, status) => {
                        events.unsolicited += 1;
                        self.set_status(&name, status);
                    }
                    ServerEvent::Selected => ask.extend(mailbox.map(|mailbox| (at, mailbox))),
                    ServerEvent::Listed(listed) if self.mailboxes.is_new(&listed) => {
                        self.list_changed = true;
                    }
                    ServerEvent::Listed(_) => listed = true,
                    ServerEvent::Overflow => overflow = true,
                    ServerEvent::IdleEnded => {}
                }
            }
        }
        ask.dedup();
        for (connection, mailbox) in ask {
            self.ask_selected(connection, mailbox)?;
        }
        if overflow {
            self.start_again()?;
        }
        // Dovecot 2.3.19 lists what has always been there where nobody has asked for it yet,
        // and may report nothing more.
        if listed && self.mode == WatchMode::Notify && !self.notified_again {
            self.notified_again = true;
            self.notify_again()?;
        }
        events.changed = std::mem::take(&mut self.changed);
        events.list_changed = std::mem::take(&mut self.list_changed);
        Ok(events)
    }

    /// Something happened in the mailbox that this connection has open.
    fn ask_selected(&mut self, connection: usize, mailbox: usize) -> Result<(), ClientError> {
        let name = self.mailboxes.name(mailbox).cloned();
        let Some((name, connection)) = name.zip(self.open.get_mut(connection)) else {
            return Ok(());
        };
        let answers = connection.client.status(std::slice::from_ref(&name))?;
        if let Some(Some(status)) = answers.into_iter().next() {
            self.set_status(&name, status);
        }
        let shown = self.mailboxes.status(mailbox).is_some_and(|now| now.highest_modseq.is_some());
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
        self.refresh(None)
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
            let name = connection.mailbox.and_then(|at| self.mailboxes.name(at));
            // With none open, IDLE would report nothing, or is BAD.
            let reports = self.mode == WatchMode::Notify
                || name.is_some_and(|name| connection.client.is_open(name));
            if reports && !connection.client.is_idling() {
                match connection.client.idle_start() {
                    Ok(()) => self.refused_idles = 0,
                    Err(ClientError::Refused(answer)) => {
                        // One that will pass is tried again after the next sweep, or NOOP.
                        self.refused_idles += 1;
                        if !answer.temporary || self.refused_idles >= LIMIT {
                            self.mode = WatchMode::Sweep;
                        }
                        return Ok(());
                    }
                    Err(lost) => return Err(lost),
                }
                connection.idle_since = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Whether NOTIFY is on, but not the IDLE in which the server reports.
    pub fn lacks_idle(&self) -> bool {
        self.mode == WatchMode::Notify && self.refused_idles > 0
    }

    /// Checks that each connection works, within `time` each.
    pub fn probe(&mut self, time: Duration) -> Result<(), ClientError> {
        for connection in &mut self.open {
            // A refusal is an answer.
            unless_refused(connection.client.probe(time))?;
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

    /// Mailboxes whose flags only our connections report, because STATUS does not show them;
    /// with `lent` only the one that is lent to runs. What was set while none of them listened
    /// is not known.
    pub fn flags_by_event(&self, lent: bool) -> BTreeSet<usize> {
        let connections = if lent { 1 } else { self.open.len() };
        let idled = self.open.iter().take(connections).filter_map(|each| each.mailbox);
        let mut heard = match self.mode {
            WatchMode::Notify => self.all().difference(&self.unreported).copied().collect(),
            WatchMode::Idle => idled.collect(),
            WatchMode::Sweep => BTreeSet::new(),
        };
        let hides = |status: ServerStatus| status.highest_modseq.is_none();
        heard.retain(|at| self.mailboxes.status(*at).is_some_and(hides));
        heard
    }

    /// The run has returned it: it watches as before. What changed meanwhile is an event.
    /// Gives the mailboxes whose STATUS the server has told with that.
    pub fn reattach(&mut self, mailbox_open: bool) -> Result<BTreeSet<usize>, ClientError> {
        self.first()?.reattach(mailbox_open)?;
        if self.mode != WatchMode::Notify {
            // It is in its mailbox again before it idles.
            return Ok(BTreeSet::new());
        }
        self.notify_again()
    }

    /// NOTIFY for the same mailboxes. What changed meanwhile is an event. Gives those whose
    /// STATUS the server has told with that.
    fn notify_again(&mut self) -> Result<BTreeSet<usize>, ClientError> {
        let names = self.mailboxes.names();
        let Some(IdleConnection { client, .. }) = self.open.first_mut() else {
            return Ok(BTreeSet::new());
        };
        let has_modseq = client.capabilities().condstore();
        let mut told = BTreeSet::new();
        let Some(statuses) = unless_refused(client.notify(&names, &self.not_personal))? else {
            // Nothing is reported any more; everything is asked. With the list come the
            // connections that idle.
            self.mode = WatchMode::Idle;
            self.refresh(None)?;
            self.list_changed = true;
            return Ok(told);
        };
        self.must_list = true;
        for (name, status) in statuses {
            self.set_status(&name, status);
            for at in self.mailboxes.named(&name) {
                self.unreported.remove(&at);
            }
            // What it leaves out is still as it was before.
            if status.is_complete() && (status.highest_mod_seq.is_some() || !has_modseq) {
                told.extend(self.mailboxes.named(&name));
            }
        }
        Ok(told)
    }

    /// Logs out.
    pub fn close(self) {
        for connection in self.open {
            connection.client.log_out();
        }
    }
}

/// Whether the server has refused a login while others of this account are open. A password
/// command that fails, a name that is not found or a timeout is no refusal.
fn is_refused_login(error: &Error) -> bool {
    let refused = matches!(error.status, ExitStatus::Later | ExitStatus::Denied);
    refused && !matches!(error.kind, ErrorKind::PasswordCommand | ErrorKind::OutputClosed)
}

/// The STATUS of these is another one than before.
fn note(changed: &mut BTreeMap<usize, bool>, mailboxes: Vec<usize>) {
    for at in mailboxes {
        changed.entry(at).or_default();
    }
}

impl FarSide for Connections {
    fn status(&self, mailbox: usize) -> Option<ServerStatus> {
        self.mailboxes.status(mailbox)
    }

    /// The STATUS from before the scan is what a clean verdict belongs to.
    fn scan_all(&mut self, scans: &[(usize, ScanScope)]) -> Result<Vec<Scanned>, ClientError> {
        let names = |at| self.mailboxes.name(at).cloned();
        let names: Vec<Option<String>> = scans.iter().map(|(at, _)| names(*at)).collect();
        let scanned = survey::scan_all(self.first()?, &names, scans)?;
        for (name, scan) in names.iter().zip(&scanned) {
            if let (Some(name), Some(Ok(scan))) = (name, scan) {
                self.set_status(name, scan.after);
            }
        }
        Ok(scanned)
    }
}

#[cfg(test)]
pub(in crate::watch) mod tests {
    use super::*;
    use crate::imap::client::tests::{Scripted, scripted};
    use crate::imap::parse::capabilities;
    use crate::sync::context::tests::Fixture;
    use std::io::Write as _;

    #[test]
    fn the_mode_follows_from_what_the_server_supports() {
        let best =
            |words: &str, notified| WatchMode::best(&capabilities(words.as_bytes()), notified);
        assert_eq!(best("IMAP4rev1 IDLE NOTIFY", true), WatchMode::Notify);
        assert_eq!(best("IMAP4rev1 IDLE NOTIFY", false), WatchMode::Idle);
        assert_eq!(best("IMAP4rev1 NOTIFY", true), WatchMode::Sweep);
    }

    fn account() -> Account {
        let text = "IMAPStore far\nHost localhost\nUser u\nPass p\n\nMaildirStore near\n\
                    Path ~/mail/\nInbox ~/mail/INBOX\nSubFolders Verbatim\n\n\
                    Channel Home\nFar :far:\nNear :near:\nPatterns *\nCreate Near\n";
        Fixture::new(text).account().clone()
    }

    const NAMES: [&str; 4] = ["Archive", "INBOX", "Sent", "Trash"];

    /// Runs this with connections to these servers, each of which has the mailbox of that
    /// place in `NAMES`.
    pub(in crate::watch) fn with_connections<T>(
        mode: WatchMode,
        servers: Vec<Scripted>,
        then: impl FnOnce(Connections, &WatchPlan<'_>) -> T,
    ) -> T {
        let account = account();
        let mailboxes = NAMES.map(Mailbox::of_home);
        let mailboxes: Vec<&Mailbox> = mailboxes.iter().collect();
        let plan = WatchPlan {
            server: account.server.as_ref().unwrap(),
            account: &account,
            mailboxes: &mailboxes,
            boxes: &[],
            version: IsyncVersion::V1_4,
            best: mode,
            connections: servers.len(),
            activity: &Activity::default(),
        };
        let mut servers = servers.into_iter().map(|server| server.client);
        let mut all = Connections::over(mode, servers.next().unwrap());
        let inventory = Inventory::default();
        all.mailboxes = ServerMailboxes::new(&account, plan.version, &mailboxes, &[], &inventory);
        for name in NAMES {
            all.mailboxes.report(name, status(1));
        }
        all.open.extend(servers.map(|client| IdleConnection::new(client, None)));
        if mode == WatchMode::Idle {
            all.open.iter_mut().enumerate().for_each(|(at, each)| each.mailbox = Some(at));
        }
        then(all, &plan)
    }

    fn status(messages: u32) -> MailboxStatus {
        MailboxStatus {
            messages: Some(messages),
            uid_next: Some(messages + 1),
            uid_validity: Some(1),
            highest_mod_seq: None,
        }
    }

    #[test]
    fn short_idles_count_for_each_connection() {
        for (each_once, mode) in [(true, WatchMode::Idle), (false, WatchMode::Sweep)] {
            let servers: Vec<Scripted> =
                (0..4).map(|_| scripted("IMAP4rev1 IDLE", |_| None)).collect();
            let mut ends: Vec<_> = servers
                .iter()
                .map(|each| (each.server.try_clone().unwrap(), each.sent.clone()))
                .collect();
            with_connections(WatchMode::Idle, servers, |mut all, _| {
                for at in 0..if each_once { 4 } else { 3 } {
                    all.start_idling().unwrap();
                    let (server, sent) = &mut ends[if each_once { at } else { 0 }];
                    let last = sent.lock().unwrap().last().unwrap().clone();
                    let tag = last.strip_suffix(" IDLE").unwrap();
                    write!(server, "{tag} OK IDLE terminated\r\n").unwrap();
                    assert!(all.events().unwrap().any);
                }
                assert_eq!(all.mode(), mode);
            });
        }
    }

    #[test]
    fn what_notify_leaves_out_during_a_list_is_no_loss() {
        let server = scripted("IMAP4rev1 IDLE NOTIFY LIST-STATUS LIST-EXTENDED", |command| {
            let inbox = "* STATUS INBOX (MESSAGES 5 UIDNEXT 6)\r\n";
            command.starts_with("LIST").then(|| inbox.to_owned())
        });
        with_connections(WatchMode::Notify, vec![server], |mut all, plan| {
            all.confirm(Some(plan), &BTreeSet::new(), Duration::from_secs(5)).unwrap();
            let inbox = all.named("INBOX")[0];
            assert_eq!(all.statuses()[inbox].unwrap().messages, 5);
            assert!(all.events().unwrap().changed.contains_key(&inbox));
        });
    }

    /// Microsoft 365's words, and Dovecot's code.
    #[test]
    fn nothing_idles_without_its_mailbox() {
        for refusal in ["NO Request is throttled.", "NO [INUSE] busy"] {
            let mut left = 2;
            let server = scripted("IMAP4rev1 IDLE", move |command| {
                let refuses = command.starts_with("EXAMINE") && left > 0;
                left -= u32::from(refuses);
                refuses.then(|| refusal.to_owned())
            });
            let sent = server.sent.clone();
            let count =
                |word: &str| sent.lock().unwrap().iter().filter(|l| l.contains(word)).count();
            with_connections(WatchMode::Idle, vec![server], |mut all, _| {
                for refused in 1..=2 {
                    all.open_again();
                    for _ in 0..2 {
                        all.start_idling().unwrap();
                        assert_eq!(all.refused_opens(), Some(refused));
                        assert_eq!(count("EXAMINE"), usize::try_from(refused).unwrap());
                    }
                }
                assert_eq!((count(" IDLE"), all.mode()), (0, WatchMode::Idle));
                all.open_again();
                all.start_idling().unwrap();
                assert_eq!((count(" IDLE"), all.refused_opens()), (1, None));
                let changed = all.events().unwrap().changed;
                assert_eq!(changed.get(&0), Some(&true), "flags may have been set meanwhile");
            });
        }
    }

    /// A mailbox of which NOTIFY has no STATUS, and one that is not to be selected.
    #[test]
    fn notify_is_followed_by_a_list_that_shows_what_came_meanwhile() {
        let mut lists = 0;
        let server = scripted("IMAP4rev1 IDLE NOTIFY", move |command| {
            lists += u32::from(command.starts_with("LIST"));
            command.starts_with("LIST").then(|| match lists {
                1..3 => "* LIST () \"/\" INBOX\r\n* LIST (\\Noselect) \"/\" Lists\r\n".to_owned(),
                3 => "* LIST () \"/\" INBOX\r\n* STATUS INBOX (MESSAGES 5)\r\n".to_owned(),
                _ => "* LIST () \"/\" INBOX\r\n* LIST () \"/\" Lists/x\r\n".to_owned(),
            })
        });
        with_connections(WatchMode::Notify, vec![server], |mut all, plan| {
            all.watch(plan, &Cancel::new().unwrap()).unwrap();
            for (lists, changed) in [(2, false), (3, false), (4, true), (5, false)] {
                assert_eq!(all.must_list(), Some(if lists < 5 { 1 } else { 2 }), "{lists}");
                all.list_names(plan.account).unwrap();
                assert_eq!(all.must_list(), None);
                let events = all.events().unwrap();
                assert_eq!(events.list_changed, changed, "{lists}");
                all.reattach(false).unwrap();
            }
        });
    }

    /// As Dovecot 2.3, which takes no more than 100 names.
    #[test]
    fn mailboxes_beside_the_personal_ones_are_named_or_polled() {
        for takes_names in [true, false] {
            let mut messages = 1;
            let mut status = move |name: &str| {
                messages += 1;
                format!("* STATUS {name} (MESSAGES {messages} UIDNEXT 100 UIDVALIDITY 1)\r\n")
            };
            let personal = ["Archive", "INBOX", "Sent"];
            let server = scripted("IMAP4rev1 IDLE NOTIFY", move |command| {
                if let Some(wanted) = command.strip_prefix("NOTIFY SET STATUS ") {
                    let named = wanted.starts_with("(mailboxes (\"Trash\") (MessageNew ");
                    if !wanted.contains("(personal (MessageNew ") || named && !takes_names {
                        return Some("BAD too much".to_owned());
                    }
                    let names = personal.into_iter().chain(named.then_some("Trash"));
                    return Some(names.map(&mut status).collect());
                }
                command.starts_with("STATUS \"Trash\"").then(|| status("Trash"))
            });
            let sent = server.sent.clone();
            with_connections(WatchMode::Notify, vec![server], |mut all, plan| {
                all.watch(plan, &Cancel::new().unwrap()).unwrap();
                let trash = all.named("Trash")[0];
                assert!(all.statuses().iter().all(Option::is_some));
                assert_eq!(all.lacks_reports(), !takes_names);
                all.reattach(false).unwrap();
                let sent = sent.lock().unwrap();
                let set = sent.iter().rfind(|line| line.contains("NOTIFY SET")).unwrap();
                assert_eq!(set.contains("\"Trash\""), takes_names);
                assert!(!set.contains("INBOX"), "{set}");
                drop(sent);
                all.events().unwrap();
                all.refresh_unreported().unwrap();
                assert_eq!(all.events().unwrap().changed.contains_key(&trash), !takes_names);
            });
        }
    }
}
