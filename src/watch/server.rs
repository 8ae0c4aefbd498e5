//! The server's side of the waiter: when to connect, how to keep the connection
//! alive, and how much of what the server sends is handled.
//!
//! Knows the connections only while there are any. Does not depend on: files, the
//! Maildirs, what a change leads to.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::connections::{Activity, Connections, ServerEvents, WatchMode, WatchPlan};
use super::event_limit::EventLimiter;
use super::log::Log;
use super::reconnect::{ReconnectPolicy, Retry};
use super::silence::SilenceCheck;
use crate::error::{Error, ExitStatus};
use crate::imap::{Client, ClientError};
use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Mailbox, Target};
use crate::os::wait::Cancel;
use crate::settings::Settings;
use crate::state::backoff::Backoff;
use crate::text::short;
use crate::verdict::server::ServerStatus;

/// IDLE is renewed this often: below the five minutes after which NAT boxes
/// forget, far below the 29 of RFC 2177.
const RENEW: Duration = Duration::from_secs(5 * 60);
/// The server must agree to the end of IDLE within this time.
const REPLY: Duration = Duration::from_secs(20);
/// The same after a sleep and after a change of the network, when the connection is
/// probably dead.
const REPLY_AFTER_CHANGE: Duration = Duration::from_secs(5);
/// The server must show within this time that it is there while a request waits.
const CONFIRM: Duration = Duration::from_secs(2);

/// A mailbox that the server refuses to open is tried again after this time, and then later
/// and later, up to [`RENEW`]: most refusals pass, but some are for good.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// NOTIFY reports no mailbox that came or went while it was off: during a run over our
/// connection, and between LIST and NOTIFY SET. The mailboxes are listed after this time, once
/// for what happens by then.
const LIST_AFTER: Duration = Duration::from_secs(2);
/// A mailbox in a LIST is some 30 bytes. At one LIST in this time for each mailbox, and in
/// [`QUICK_SWEEP`] at most, run after run costs a kilobyte a second.
const LIST_PACE: Duration = Duration::from_millis(30);
/// Where one command sweeps all mailboxes, they are swept this often at most.
const QUICK_SWEEP: Duration = Duration::from_secs(60);
/// After so many sweeps without a change the interval doubles.
const QUIET_SWEEPS: u32 = 10;

pub struct ServerWatch<'a> {
    account: &'a Account,
    settings: &'a Settings,
    version: IsyncVersion,
    loop_forever: bool,
    connections: Option<Connections>,
    /// The best mode to try.
    best: WatchMode,
    reconnect: ReconnectPolicy,
    /// The next try is held back by the backoff on disk.
    held_back: bool,
    /// How many attempts to connect in a row were interrupted.
    interrupted_connects: u32,
    limiter: EventLimiter,
    silence_check: SilenceCheck,
    renew_at: Duration,
    sweep_at: Duration,
    /// When what the server has refused to open is tried again.
    open_at: Option<Duration>,
    /// When the mailboxes are listed because NOTIFY was off.
    list_at: Option<Duration>,
    /// When that was done last.
    listed_at: Option<Duration>,
    activity: Activity,
    /// Sweeps since something last changed.
    quiet_sweeps: u32,
    log: Rc<Log>,
}

impl<'a> ServerWatch<'a> {
    pub fn new(
        account: &'a Account,
        settings: &'a Settings,
        version: IsyncVersion,
        loop_forever: bool,
        log: Rc<Log>,
        now: Duration,
    ) -> Self {
        ServerWatch {
            account,
            settings,
            version,
            loop_forever,
            connections: None,
            best: WatchMode::Notify,
            reconnect: ReconnectPolicy::new(account.server.is_some(), now),
            held_back: false,
            interrupted_connects: 0,
            limiter: EventLimiter::default(),
            silence_check: SilenceCheck::default(),
            renew_at: now + RENEW,
            sweep_at: now + settings.sweep,
            open_at: None,
            list_at: None,
            listed_at: None,
            activity: Activity::default(),
            quiet_sweeps: 0,
            log,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connections.is_some()
    }

    /// How the server is watched; `None` without a connection.
    pub fn mode(&self) -> Option<WatchMode> {
        self.connections.as_ref().map(Connections::mode)
    }

    pub fn connections(&mut self) -> Option<&mut Connections> {
        self.connections.as_mut()
    }

    /// The connection to lend to a run.
    pub fn lend(&mut self) -> Option<&mut Client> {
        self.connections.as_mut().and_then(Connections::lend)
    }

    /// See [`Connections::flags_by_event`]; none without a connection.
    pub fn flags_by_event(&self, lent: bool) -> BTreeSet<usize> {
        self.connections.as_ref().map(|all| all.flags_by_event(lent)).unwrap_or_default()
    }

    /// STATUS of each mailbox as last reported; empty without a connection.
    pub fn statuses(&self) -> &[Option<ServerStatus>] {
        self.connections.as_ref().map_or(&[], Connections::statuses)
    }

    /// Mailboxes that are on the server but not here, by wire name, and what to ask for
    /// to get them; none without a connection.
    pub fn only_on_server(&self) -> &[(String, Target)] {
        self.connections.as_ref().map_or(&[], Connections::only_on_server)
    }

    /// Asks about these mailboxes, and for mailboxes that are new, `list`ed again. False
    /// without a connection.
    pub fn confirm(
        &mut self,
        list: Option<&[&Mailbox]>,
        mailboxes: &BTreeSet<usize>,
    ) -> Result<bool, ClientError> {
        let Some(mut connections) = self.connections.take() else { return Ok(false) };
        let plan = list.and_then(|list| self.plan(list));
        let confirmed = connections.confirm(plan.as_ref(), mailboxes, CONFIRM);
        self.connections = Some(connections);
        confirmed.map(|()| true)
    }

    fn plan<'p>(&'p self, mailboxes: &'p [&'p Mailbox]) -> Option<WatchPlan<'p>> {
        let connections = if self.loop_forever { self.settings.connections } else { 1 };
        Some(WatchPlan {
            server: self.account.server.as_ref()?,
            account: self.account,
            mailboxes,
            boxes: &self.settings.boxes,
            version: self.version,
            best: self.best,
            connections: usize::try_from(connections).unwrap_or(1),
            activity: &self.activity,
        })
    }

    pub fn is_due(&self, now: Duration) -> bool {
        self.connections.is_none() && self.reconnect.is_due(now)
    }

    /// Whether the backoff on disk forbids to connect; then it is due again later.
    pub fn is_held_back(
        &mut self,
        backoff: Option<&Backoff>,
        wall: SystemTime,
        now: Duration,
    ) -> bool {
        let wait = self.settings.backoff_policy().wait(backoff, wall);
        // A server that was lost a moment ago is tried whatever a run's failure
        // says; where a password is in question, the backoff holds.
        let offline = backoff.is_some_and(|backoff| backoff.code == ExitStatus::Offline.code());
        let tried = self.reconnect.is_quick(now) || self.reconnect.network_came();
        if wait.is_zero() || offline && tried {
            return false;
        }
        self.log.say(|| format!("next connection in {} (backoff)", short(wait)));
        self.hold_back(wait, now);
        true
    }

    /// Whether the server can be watched at all.
    pub fn may_connect(&self) -> bool {
        self.reconnect.at().is_some()
    }

    /// The backoff on disk has been written: no try for so long.
    pub fn hold_back(&mut self, wait: Duration, now: Duration) {
        self.held_back = true;
        self.reconnect.wait(wait, now);
    }

    /// Whether the backoff on disk holds the next try back. Then its end is an event.
    pub fn awaits_backoff(&self) -> bool {
        self.held_back && self.connections.is_none()
    }

    /// Connects, and watches these mailboxes. `clock` is read before and after.
    pub fn connect(
        &mut self,
        mailboxes: &[&Mailbox],
        interrupt: &Cancel,
        clock: impl Fn() -> Duration,
    ) -> Result<(), Error> {
        let started = clock();
        let Some(plan) = self.plan(mailboxes) else {
            return Err(Error::new(ExitStatus::Config, "no server"));
        };
        let connections = Connections::open(&plan, interrupt)?;
        let now = clock();
        self.log.say(|| {
            let (mode, count) = (connections.mode(), connections.count());
            let took = short(now.saturating_sub(started));
            let noun = if count == 1 { "connection" } else { "connections" };
            format!("connected by {mode}, {count} {noun}, in {took}")
        });
        self.held_back = false;
        self.reconnect.connected(now);
        self.silence_check.connected();
        self.interrupted_connects = 0;
        self.renew_at = now + RENEW;
        self.quiet_sweeps = 0;
        (self.open_at, self.list_at) = (None, None);
        self.log.connected();
        self.connections = Some(connections);
        self.sweep_at = now + self.sweep_interval();
        Ok(())
    }

    /// An attempt was interrupted by something more urgent, which is done first. It
    /// is repeated later and later, so that frequent changes here do not keep a slow
    /// password command from ending.
    pub fn connect_interrupted(&mut self, now: Duration) {
        self.log.say(|| "connecting was interrupted by something more urgent".into());
        let wait = self.settings.settle * (1 << self.interrupted_connects.min(5));
        self.interrupted_connects += 1;
        self.reconnect.interrupted(wait, now);
    }

    /// An attempt failed. [`Retry::BackOff`], [`Retry::StartOver`]: the caller is to record
    /// the failure on disk and to [`ServerWatch::hold_back`].
    pub fn connect_failed(&mut self, failure: &Error, now: Duration) -> Retry {
        self.interrupted_connects = 0;
        let retry = self.reconnect.failed(failure, now);
        match retry {
            // mbsync itself may manage.
            Retry::GiveUp => {
                self.log.report(&format!("{failure}; not watching the server"));
            }
            Retry::Quick => self.log.say(|| failure.to_string()),
            Retry::BackOff | Retry::StartOver => {}
        }
        retry
    }

    pub fn wait(&mut self, wait: Duration, now: Duration) {
        self.reconnect.wait(wait, now);
    }

    pub fn try_now(&mut self, now: Duration) {
        self.held_back = false;
        self.reconnect.try_now(now);
    }

    /// Whether a server that is gone is tried at short intervals.
    pub fn is_quick(&self, now: Duration) -> bool {
        self.reconnect.is_quick(now)
    }

    /// The network has come, and the server was not reached before.
    pub fn try_once(&mut self, now: Duration) {
        self.reconnect.try_once(now);
    }

    /// Asks whether the connection works: the addresses of this machine may be others now.
    pub fn probe(&mut self, now: Duration) -> Result<(), ClientError> {
        self.renew_at = now + RENEW;
        self.connections.as_mut().map_or(Ok(()), |all| all.probe(REPLY_AFTER_CHANGE))
    }

    /// Drops the connection, and connects again.
    pub fn restart(&mut self, now: Duration) {
        self.connections = None;
        self.reconnect.try_now(now);
    }

    /// The connection is lost.
    pub fn lost(&mut self, error: &ClientError, now: Duration) {
        if self.connections.take().is_some() {
            self.silence_check.cancel();
            let wait = self.reconnect.lost(now);
            self.log.say(|| format!("connection lost: {error}; again in {}", short(wait)));
        }
    }

    /// The server refuses mbsync a connection of its own, and one of ours may be in its way.
    pub fn give_way(&mut self, now: Duration) {
        let Some(connections) = &mut self.connections else { return };
        self.log.say(|| "mbsync was refused; giving a connection back".into());
        if !connections.give_back() {
            self.restart(now);
        }
    }

    /// Logs out.
    pub fn close(self) {
        if let Some(connections) = self.connections {
            connections.close();
        }
    }

    /// Watches these mailboxes from now on.
    pub fn watch(&mut self, mailboxes: &[&Mailbox], interrupt: &Cancel) -> Result<(), ClientError> {
        let Some(mut connections) = self.connections.take() else { return Ok(()) };
        let watched = self.plan(mailboxes).map(|plan| connections.watch(&plan, interrupt));
        self.connections = Some(connections);
        watched.unwrap_or(Ok(()))
    }

    /// Until when the server is not read.
    pub fn muted_until(&self, now: Duration) -> Option<Duration> {
        self.limiter.muted_until(now)
    }

    /// What the server has sent; nothing while it is muted. The one place where its
    /// events are counted.
    pub fn events(&mut self, now: Duration) -> Result<ServerEvents, ClientError> {
        let muted = self.muted_until(now).is_some();
        let Some(connections) = self.connections.as_mut().filter(|_| !muted) else {
            return Ok(ServerEvents::default());
        };
        let events = connections.events()?;
        for mailbox in events.changed.keys() {
            if let Some(name) = connections.name(*mailbox) {
                self.activity.count(name);
            }
        }
        if !events.changed.is_empty() || events.list_changed {
            self.quiet_sweeps = 0;
            self.sweep_at = self.sweep_at.min(now + self.sweep_interval());
        }
        self.silence_check.record(events.unsolicited);
        if events.any {
            self.record_event(now);
        }
        Ok(events)
    }

    /// Counts an event, or a scan that an event has made void.
    pub fn record_event(&mut self, now: Duration) {
        self.limiter.record(now);
        if self.muted_until(now).is_some() {
            self.log.say(|| "too many server events; not reading any for a moment".into());
        }
    }

    /// Prepares to wait for events, and returns those that have come by then.
    pub fn start_idling(&mut self, now: Duration) -> Result<ServerEvents, ClientError> {
        if let Some(connections) = &mut self.connections {
            connections.start_idling()?;
            if connections.lacks_idle() {
                // NOOP brings what NOTIFY has to report.
                self.renew_at = self.renew_at.min(now + QUICK_SWEEP);
            }
            let again = |refused: u32| OPEN_AGAIN * (1 << refused.saturating_sub(1).min(6));
            let wait = connections.refused_opens().map(|refused| again(refused).min(RENEW));
            self.open_at = wait.map(|wait| self.open_at.unwrap_or(now + wait));
            let at = connections.must_list().map(|count| list_at(self.listed_at, count, now));
            self.list_at = at.map(|at| self.list_at.unwrap_or(at));
        }
        self.events(now)
    }

    /// Readable when the server has sent something; none while it is muted.
    pub fn poll_fds(&self, now: Duration) -> Vec<BorrowedFd<'_>> {
        let read = self.connections.as_ref().filter(|_| self.muted_until(now).is_none());
        read.map(Connections::poll_fds).unwrap_or_default()
    }

    /// STATUS of these mailboxes (or all), so that what a run has changed is known
    /// now and not when the server reports it. False without a connection.
    pub fn refresh(&mut self, mailboxes: Option<&BTreeSet<usize>>) -> Result<bool, ClientError> {
        let Some(connections) = &mut self.connections else { return Ok(false) };
        connections.refresh(mailboxes)?;
        Ok(true)
    }

    /// The timer's run pulled something that NOTIFY had not reported. If no report
    /// follows in the next moments either, the server may be silent.
    pub fn check_silence(&mut self, due: Duration) {
        if self.connections.as_ref().is_some_and(|all| all.mode() == WatchMode::Notify) {
            self.silence_check.start(due);
        }
    }

    /// Renews IDLE, asks for LIST and STATUS and checks the connection as it becomes due.
    /// `list`: the mailboxes here. True if something was done.
    pub fn keep_alive<'m>(
        &mut self,
        list: impl FnOnce() -> Vec<&'m Mailbox>,
        woke: bool,
        now: Duration,
    ) -> Result<bool, ClientError> {
        if self.silence_check.is_silent(self.connections.is_some(), now) {
            self.log.report("the server accepted NOTIFY but reports nothing; using IDLE");
            self.best = WatchMode::Idle;
            self.restart(now);
            return Ok(true);
        }
        let Some(connections) = &mut self.connections else { return Ok(false) };
        if woke {
            connections.probe(REPLY_AFTER_CHANGE)?;
            self.sweep(&list())?;
        } else if self.open_at.is_some_and(|at| now >= at) {
            self.open_at = None;
            connections.open_again();
        } else if self.list_at.is_some_and(|at| now >= at) {
            (self.list_at, self.listed_at) = (None, Some(now));
            connections.list_names(self.account)?;
        } else if now >= self.sweep_at && sweeps(connections) {
            let notified = connections.mode() == WatchMode::Notify;
            self.quiet_sweeps = self.quiet_sweeps.saturating_add(1);
            self.sweep_at = now + self.sweep_interval();
            match &mut self.connections {
                Some(connections) if notified => connections.refresh_unreported()?,
                _ => self.sweep(&list())?,
            }
        } else if now >= self.renew_at {
            self.renew_at = now + RENEW;
            connections.probe(REPLY)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a connection could not be made, and is to be tried again.
    pub fn lacks_connections(&self) -> bool {
        self.connections.as_ref().is_some_and(Connections::lacks_connections)
    }

    /// Makes the connections that could not be made before.
    pub fn open_missing(
        &mut self,
        list: &[&Mailbox],
        interrupt: &Cancel,
    ) -> Result<(), ClientError> {
        let Some(mut connections) = self.connections.take() else { return Ok(()) };
        let opened =
            self.plan(list).map(|plan| connections.open_idle_connections(&plan, interrupt));
        self.connections = Some(connections);
        opened.unwrap_or(Ok(()))
    }

    fn sweep_interval(&self) -> Duration {
        let in_one = self.connections.as_ref().is_some_and(Connections::sweeps_in_one);
        sweep_interval(self.settings.sweep, in_one, self.quiet_sweeps)
    }

    /// Asks which mailboxes there are, and their STATUS.
    fn sweep(&mut self, list: &[&Mailbox]) -> Result<(), ClientError> {
        let Some(mut connections) = self.connections.take() else { return Ok(()) };
        let swept = self.plan(list).map(|plan| connections.list_and_sweep(&plan));
        if let Some((left, watched)) = connections.follow(&self.activity) {
            self.log.say(|| format!("idling in {watched} in place of {left}, which changes less"));
        }
        self.connections = Some(connections);
        swept.unwrap_or(Ok(()))
    }

    /// When something is due without an event.
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        let muted = self.muted_until(now);
        let Some(connections) = &self.connections else {
            return self.reconnect.at().into_iter().chain(muted).min();
        };
        let sweep = sweeps(connections).then_some(self.sweep_at);
        let others = [self.open_at, self.list_at, self.silence_check.due(), muted];
        [Some(self.renew_at), sweep].into_iter().chain(others).flatten().min()
    }
}

/// The time to the next sweep. `in_one`: one command sweeps all mailboxes; `quiet`: so many
/// sweeps have found nothing.
pub fn sweep_interval(longest: Duration, in_one: bool, quiet: u32) -> Duration {
    if in_one { longest.min(QUICK_SWEEP * (1 << (quiet / QUIET_SWEEPS).min(10))) } else { longest }
}

/// Whether there are mailboxes that no connection watches, or may be.
fn sweeps(connections: &Connections) -> bool {
    connections.mode() != WatchMode::Notify || connections.lacks_reports()
}

/// When to list so many mailboxes that were `listed` last at that time.
fn list_at(listed: Option<Duration>, count: usize, now: Duration) -> Duration {
    let pause = LIST_PACE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    let rested = listed.map_or(now, |at| at + pause.min(QUICK_SWEEP));
    rested.max(now + LIST_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::client::tests::scripted;
    use crate::model::{CredentialSource, Server, TlsMode};
    use crate::watch::LogLevel;
    use crate::watch::connections::tests::with_connections;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use zeroize::Zeroizing;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_command_is_cheap_enough_for_every_minute_while_something_moves() {
        let intervals =
            [0, 9, 10, 20, 30, 1000].map(|quiet| sweep_interval(s(300), true, quiet).as_secs());
        assert_eq!(intervals, [60, 60, 120, 240, 300, 300]);
        assert_eq!(sweep_interval(s(300), false, 0), s(300));
        assert_eq!(sweep_interval(s(10), true, 0), s(10));
    }

    fn account(port: u16) -> Account {
        let server = Server {
            host: Some("127.0.0.1".into()),
            port,
            tls: TlsMode::None,
            user: Some(CredentialSource::Text(Zeroizing::new("u".into()))),
            pass: Some(CredentialSource::Text(Zeroizing::new("p".into()))),
            auth_mechs: vec!["LOGIN".into()],
            ..Server::default()
        };
        Account { name: "Home".into(), server: Some(server), channels: vec![] }
    }

    fn watch<'a>(account: &'a Account, settings: &'a Settings) -> ServerWatch<'a> {
        let log = Rc::new(Log::new("Home", LogLevel::Errors));
        ServerWatch::new(account, settings, IsyncVersion::V1_4, true, log, s(100))
    }

    fn failure(exit: ExitStatus) -> Error {
        Error::new(exit, "no")
    }

    /// Accepts one connection, and agrees to every command but so many of the first IDLEs.
    /// What is sent down the channel goes to the client.
    fn server_that(
        can: &'static str,
        mut refused: u32,
    ) -> (u16, std::sync::mpsc::Sender<&'static str>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, lines) = std::sync::mpsc::channel::<&'static str>();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            write!(stream, "* OK [CAPABILITY {can}] hello\r\n").unwrap();
            let mut writer = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                lines.iter().all(|line| write!(writer, "{line}\r\n").is_ok())
            });
            let mut idle = String::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let Ok(line) = line else { break };
                let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
                let answer = match command {
                    "IDLE" if refused > 0 => {
                        refused -= 1;
                        format!("{tag} NO [UNAVAILABLE] not now")
                    }
                    "IDLE" => {
                        tag.clone_into(&mut idle);
                        "+ idling".to_owned()
                    }
                    "CAPABILITY" => format!("* CAPABILITY {can}\r\n{tag} OK done"),
                    _ if tag == "DONE" => format!("{idle} OK done"),
                    _ => format!("{tag} OK done"),
                };
                if write!(stream, "{answer}\r\n").is_err() {
                    break;
                }
            }
        });
        (port, send)
    }

    fn server(can: &'static str) -> (u16, std::sync::mpsc::Sender<&'static str>) {
        server_that(can, 0)
    }

    #[test]
    fn mailboxes_are_listed_soon_and_at_a_pace() {
        assert_eq!(list_at(None, 1000, s(100)), s(102));
        assert_eq!(list_at(Some(s(99)), 20, s(100)), s(102));
        assert_eq!(list_at(Some(s(99)), 1000, s(100)), s(129));
        assert_eq!(list_at(Some(s(99)), usize::MAX, s(100)), s(159));
        assert_eq!(list_at(Some(s(50)), 1000, s(100)), s(102));
        let (settings, account) = (Settings::default(), account(1));
        let server = scripted("IMAP4rev1 IDLE NOTIFY", |command| {
            command.starts_with("LIST").then(|| "* LIST () \"/\" INBOX\r\n".to_owned())
        });
        let mut watch = watch(&account, &settings);
        watch.connections = Some(with_connections(WatchMode::Notify, vec![server], |all, _| all));
        let mut run = |now| {
            watch.connections.as_mut().unwrap().reattach(false).unwrap();
            watch.start_idling(s(now)).unwrap();
            watch.next_due(s(now))
        };
        assert_eq!((run(100), run(101)), (Some(s(102)), Some(s(102))), "once for both");
        assert!(watch.keep_alive(Vec::new, false, s(102)).unwrap());
        watch.start_idling(s(102)).unwrap();
        assert_eq!(watch.next_due(s(102)), Some(s(400)), "nothing but the renewal");
    }

    #[test]
    fn notify_stays_on_when_idle_is_refused_for_now() {
        let settings = Settings::default();
        for (refused, mode) in [(2, WatchMode::Notify), (3, WatchMode::Sweep)] {
            let (port, _lines) = server_that("IMAP4rev1 IDLE NOTIFY", refused);
            let account = account(port);
            let mut watch = watch(&account, &settings);
            watch.connect(&[], &Cancel::new().unwrap(), || s(100)).unwrap();
            watch.connections.as_mut().unwrap().list_names(&account).unwrap();
            for now in [100, 160] {
                watch.start_idling(s(now)).unwrap();
                assert_eq!(watch.mode(), Some(WatchMode::Notify));
                assert_eq!(watch.next_due(s(now)), Some(s(now + 60)), "asks what there is");
                assert!(watch.keep_alive(Vec::new, false, s(now + 60)).unwrap());
            }
            watch.start_idling(s(220)).unwrap();
            assert_eq!(watch.mode(), Some(mode));
            if mode == WatchMode::Notify {
                assert_eq!(watch.next_due(s(220)), Some(s(520)));
            }
        }
    }

    #[test]
    fn a_mailbox_that_is_refused_is_opened_later_and_later() {
        let (settings, account) = (Settings::default(), account(1));
        let server = scripted("IMAP4rev1 IDLE", |command| {
            command.starts_with("EXAMINE").then(|| "NO Request is throttled.".to_owned())
        });
        let mut watch = watch(&account, &settings);
        watch.sweep_at = s(10_000);
        watch.renew_at = s(10_000);
        watch.connections =
            Some(with_connections(WatchMode::Idle, vec![server], |connections, _| connections));
        let (mut now, mut waits) = (s(100), vec![]);
        for _ in 0..9 {
            watch.start_idling(now).unwrap();
            watch.start_idling(now + s(1)).unwrap();
            let next = watch.next_due(now).unwrap();
            waits.push(next.saturating_sub(now).as_secs());
            assert!(!watch.keep_alive(Vec::new, false, next.saturating_sub(s(1))).unwrap());
            assert!(watch.keep_alive(Vec::new, false, next).unwrap());
            now = next;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(watch.mode(), Some(WatchMode::Idle));
    }

    #[test]
    fn a_connection_is_renewed_and_swept_as_its_mode_demands() {
        let settings = Settings::default();
        let (port, _lines) = server("IMAP4rev1 IDLE");
        let account = account(port);
        let mut watch = watch(&account, &settings);
        assert!(watch.is_due(s(100)) && watch.statuses().is_empty());
        watch.connect(&[], &Cancel::new().unwrap(), || s(101)).unwrap();
        assert!(watch.is_connected() && !watch.is_due(s(101)));
        assert_eq!(watch.connections().unwrap().mode(), WatchMode::Idle);
        assert_eq!(watch.next_due(s(101)), Some(s(401)));
        assert!(!watch.keep_alive(Vec::new, false, s(400)).unwrap());
        assert!(watch.keep_alive(Vec::new, false, s(401)).unwrap(), "sweeps");
        assert!(watch.keep_alive(Vec::new, false, s(401)).unwrap(), "renews");
        assert!(!watch.keep_alive(Vec::new, false, s(401)).unwrap());
        assert!(watch.keep_alive(Vec::new, true, s(402)).unwrap(), "after a sleep");
        assert_eq!(watch.next_due(s(402)), Some(s(701)));
        assert_eq!(watch.start_idling(s(402)).unwrap(), ServerEvents::default());
        watch.close();
    }

    #[test]
    fn g10_a_flood_of_events_mutes_the_server_for_a_while() {
        let settings = Settings::default();
        let (port, lines) = server("IMAP4rev1 IDLE");
        let account = account(port);
        let mut watch = watch(&account, &settings);
        watch.connect(&[], &Cancel::new().unwrap(), || s(100)).unwrap();
        let mut events = 0;
        while watch.muted_until(s(100)).is_none() {
            lines.send("* LIST () \"/\" New").unwrap();
            let fds = watch.poll_fds(s(100)).len();
            assert_eq!(fds, 1);
            events += u32::from(watch.events(s(100)).unwrap().any);
        }
        assert!(events >= 60 && watch.poll_fds(s(100)).is_empty());
        assert_eq!(watch.events(s(105)).unwrap(), ServerEvents::default());
        assert_eq!(watch.next_due(s(105)), Some(s(110)));
        assert!(watch.muted_until(s(110)).is_none());
    }

    #[test]
    fn a_lost_connection_is_made_again_at_once_and_then_by_the_policy() {
        let settings = Settings::default();
        let (port, lines) = server("IMAP4rev1 IDLE");
        let account = account(port);
        let mut watch = watch(&account, &settings);
        watch.connect(&[], &Cancel::new().unwrap(), || s(100)).unwrap();
        lines.send("* BYE later").unwrap();
        let error = loop {
            if let Err(error) = watch.events(s(200)) {
                break error;
            }
        };
        watch.lost(&error, s(200));
        assert!(!watch.is_connected() && watch.is_due(s(200)));
        assert_eq!(watch.connect_failed(&failure(ExitStatus::Offline), s(200)), Retry::Quick);
        assert!(!watch.is_due(s(200)) && watch.is_due(s(201)));
        assert_eq!(watch.connect_failed(&failure(ExitStatus::Offline), s(300)), Retry::BackOff);
        watch.wait(s(30), s(300));
        assert_eq!(watch.next_due(s(300)), Some(s(330)));
        watch.try_now(s(310));
        assert!(watch.is_due(s(310)));
    }

    #[test]
    fn g12_the_backoff_on_disk_holds_a_login_back_but_no_outage() {
        let settings = Settings::default();
        let account = account(1);
        let wall = SystemTime::UNIX_EPOCH + s(1000);
        let backoff = |exit: ExitStatus| Backoff {
            failures: 1,
            code: exit.code(),
            first: None,
            since: 990,
            until: 1020,
            text: String::new(),
            costly: false,
            password_command: false,
        };
        let mut watch = watch(&account, &settings);
        assert!(!watch.is_held_back(None, wall, s(100)));
        assert_eq!(watch.connect_failed(&failure(ExitStatus::Offline), s(100)), Retry::Quick);
        assert!(!watch.is_held_back(Some(&backoff(ExitStatus::Offline)), wall, s(101)));
        assert!(watch.is_held_back(Some(&backoff(ExitStatus::Denied)), wall, s(101)));
        assert_eq!(watch.next_due(s(101)), Some(s(121)));
        // Nor does a network that has come.
        watch.try_once(s(101));
        assert!(!watch.is_held_back(Some(&backoff(ExitStatus::Offline)), wall, s(101)));
        assert!(watch.is_held_back(Some(&backoff(ExitStatus::Denied)), wall, s(101)));
        assert_eq!(watch.next_due(s(101)), Some(s(121)));
        assert_eq!(watch.connect_failed(&failure(ExitStatus::Config), s(121)), Retry::GiveUp);
        assert_eq!(watch.next_due(s(121)), None);
    }

    #[test]
    fn g12_interrupted_attempts_are_repeated_later_and_later() {
        let settings = Settings { settle: s(1), ..Settings::default() };
        let account = account(1);
        let mut watch = watch(&account, &settings);
        let mut now = s(100);
        let mut waits = vec![];
        for _ in 0..7 {
            watch.connect_interrupted(now);
            let next = watch.next_due(now).unwrap();
            waits.push(next.saturating_sub(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32]);
    }

    #[test]
    fn an_account_without_a_server_never_connects() {
        let settings = Settings::default();
        let account = Account { server: None, ..account(1) };
        let mut watch = watch(&account, &settings);
        assert!(!watch.is_due(s(1000)) && watch.next_due(s(1000)).is_none());
        assert!(!watch.keep_alive(Vec::new, true, s(1000)).unwrap());
        assert!(!watch.refresh(None).unwrap());
    }
}
