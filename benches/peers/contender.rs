//! The ways to keep Maildirs in step with a server, each in a home of its
//! own, started and ended like the others: as services of a runsvdir.
//!
//! Knows their files in this directory. Knows nothing of what is measured.

use crate::group::{self, Group};
use rig::{Account, Delay, Home, Mbsync, Server, Signal, process};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a user may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// mutt-sync, waiting: one process.
    Ours,
    /// mutt-sync, waiting: a process until a sync is made, in a loop.
    Loop,
    /// inotifywait, snooze, imapfilter and shell around mbsync.
    Classic,
    /// `mbsync -a` every ten minutes.
    Cron,
    /// offlineimap with idlefolders and autorefresh.
    Offline,
}

impl Kind {
    /// Those that differ in what they are made of.
    pub const ALL: [Kind; 4] = [Kind::Ours, Kind::Classic, Kind::Cron, Kind::Offline];
    /// Those that wait for changes.
    pub const WAITING: [Kind; 4] = [Kind::Ours, Kind::Loop, Kind::Classic, Kind::Offline];

    /// The head of its column.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Ours => "mutt-sync",
            Kind::Loop => "`mutt-sync --wait` in a loop",
            Kind::Classic => "services around mbsync",
            Kind::Cron => "`mbsync -a` by cron",
            Kind::Offline => "offlineimap",
        }
    }

    /// Connections without which it is not yet waiting, for so many mailboxes.
    /// offlineimap idles on as many as its last sync happened to need, be
    /// idlefolders what it may.
    pub fn connections(self, boxes: usize) -> usize {
        match self {
            Kind::Ours | Kind::Loop | Kind::Offline => 1,
            Kind::Classic => boxes,
            Kind::Cron => 0,
        }
    }
}

/// Which coat mbsync wears, to be counted.
#[derive(Clone, Copy, PartialEq)]
pub enum Coat {
    /// None.
    Bare,
    /// Starts and ends are noted; the coat stays while mbsync runs.
    Noted,
}

/// One of them: home, way to the server, and what runs.
pub struct Contender {
    pub kind: Kind,
    pub home: Home,
    pub boxes: Vec<String>,
    mbsync: Option<Mbsync>,
    /// Counts its connections; none where the server's own count does.
    delay: Option<Delay>,
    services: Option<Child>,
}

const FILES: [(&str, &str); 5] = [
    ("loop", include_str!("loop/run")),
    ("sync", include_str!("classic/sync/run")),
    ("watch", include_str!("classic/watch/run")),
    ("cron", include_str!("cron/run")),
    ("offlineimap", include_str!("offlineimap/run")),
];

impl Contender {
    /// Mailboxes of this user on the server, over TLS; nothing runs yet.
    pub fn new(
        kind: Kind,
        server: &Server,
        user: &str,
        boxes: &[&str],
        distance: Option<Duration>,
    ) -> Self {
        let delay = distance.map(|distance| Delay::to(server.port(), distance));
        let port = delay.as_ref().map_or(server.port(), Delay::port);
        let password = server.password(user);
        let home = Home::with(vec![Account::on(server, "Home").login(user, &password).port(port)]);
        let quoted: Vec<String> = boxes.iter().map(|name| format!("'{name}'")).collect();
        let told = |text: &str| {
            text.replace("@HOST@", server.host())
                .replace("@PORT@", &port.to_string())
                .replace("@USER@", user)
                .replace("@PASSWORD@", &password)
                .replace("@BOXES@", &format!("[{}]", quoted.join(", ")))
        };
        home.write(".imapfilter/idle.lua", &told(include_str!("classic/idle.lua")));
        home.write(".offlineimaprc", &told(include_str!("offlineimap/offlineimaprc")));
        home.write("Mail/triggers/Home", "");
        let ours = rig::mutt_sync();
        symlink(ours, home.path("bin/mutt-sync")).expect("link mutt-sync");
        let boxes = boxes.iter().map(ToString::to_string).collect();
        let contender = Contender { kind, home, boxes, mbsync: None, delay, services: None };
        contender.write_services();
        contender
    }

    fn write_service(&self, name: &str, script: &str) {
        let run = self.home.write(&format!("service/{name}/run"), script);
        std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn write_services(&self) {
        let file = |name: &str| {
            FILES.iter().find(|(own, _)| *own == name).map_or("", |(_, script)| script)
        };
        match self.kind {
            Kind::Ours => {
                self.write_service("Home", include_str!("../../contrib/runit/run"));
            }
            Kind::Classic => {
                for name in ["sync", "watch"] {
                    self.write_service(name, file(name));
                }
                // A runsvdir looks after a thousand services and no more.
                let too_many = self.boxes.len() > 900;
                if too_many {
                    self.write_service("idle", "#!/bin/sh\nexec runsvdir all\n");
                }
                let below = if too_many { "idle/all/" } else { "" };
                for name in &self.boxes {
                    let name = format!("{below}{name}");
                    self.write_service(&name, include_str!("classic/idle/run"));
                }
            }
            Kind::Loop => self.write_service("loop", file("loop")),
            Kind::Cron => self.write_service("cron", file("cron")),
            Kind::Offline => self.write_service("offlineimap", file("offlineimap")),
        }
    }

    /// The same home and mail, kept in another way.
    pub fn becomes(mut self, kind: Kind) -> Self {
        self.stop();
        let _ = std::fs::remove_dir_all(self.home.path("service"));
        self.kind = kind;
        self.write_services();
        self
    }

    /// A first sync by mbsync, so that all begin in step.
    pub fn first_sync(&self, limit: Duration) {
        if self.kind != Kind::Offline {
            rig::run(self.home.command(rig::real_mbsync()).args(["-q", "-a"]), limit).ok();
        }
    }

    /// Starts it, with the times that it has by default or that its users give it.
    pub fn start(&mut self, coat: Coat) {
        self.mbsync = match coat {
            Coat::Noted => Some(self.home.wrap_mbsync()),
            Coat::Bare => {
                let _ = std::fs::remove_file(self.home.path("bin/mbsync"));
                None
            }
        };
        let _ = std::fs::remove_file(self.home.path("service/sync/stamp"));
        let mut command = self.home.command("runsvdir");
        let out = std::fs::File::create(self.home.path("services.log")).expect("log");
        command
            .arg(self.home.path("service"))
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("log"))
            .stderr(out)
            .process_group(0);
        self.services = Some(rig::spawn(&mut command).expect("runsvdir runs"));
    }

    /// All of its processes, the supervisors too.
    pub fn group(&self) -> Group {
        let mut pids: Vec<u32> = self.home.leftovers().into_iter().map(|(pid, _)| pid).collect();
        if let Some(services) = &self.services {
            pids.extend(group::descendants(services.id()));
        }
        Group::of(pids)
    }

    /// Its connections to the server, open now.
    pub fn connections(&self, server: &Server) -> usize {
        self.delay.as_ref().map_or_else(|| server.connections(), Delay::open)
    }

    /// Connections to the server so far, open and closed.
    pub fn logins(&self) -> usize {
        self.delay.as_ref().map_or(0, Delay::connections)
    }

    /// Bytes so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.delay.as_ref().map_or(0, |delay| delay.bytes().0 + delay.bytes().1)
    }

    /// Changes the way to the server.
    pub fn set_round_trip(&self, time: Duration) {
        if let Some(delay) = &self.delay {
            delay.set_round_trip(time);
        }
    }

    /// Waits until it has its connections and has been quiet for two seconds;
    /// says how long that took, less these two, or `None` if it was not so in time.
    pub fn wait_ready(&self, server: &Server, limit: Duration) -> Option<Duration> {
        let begun = Instant::now();
        let wanted = self.kind.connections(self.boxes.len());
        let mut quiet_since = Instant::now();
        let mut last = (0, 0);
        while begun.elapsed() < limit {
            let group = self.group();
            let now = (group.cpu_ticks(), self.bytes());
            let connected = self.connections(server) >= wanted;
            // A clock tick is 10 ms; something that polls may use one or two.
            let busy = now.0 > last.0 + 2 || now.1 != last.1 || self.mbsync_runs();
            let came_up = !group.own.is_empty() && connected;
            if busy || !came_up {
                quiet_since = Instant::now();
                last = now;
            } else if quiet_since.elapsed() >= Duration::from_secs(2) {
                return Some(quiet_since.duration_since(begun));
            }
            sleep(Duration::from_millis(100));
        }
        None
    }

    /// What offlineimap has logged.
    fn log(&self) -> String {
        self.home.read("offlineimap.log")
    }

    /// How many syncs it has begun: runs of mbsync; folders that offlineimap
    /// looked through because the server had said something.
    pub fn runs(&self) -> usize {
        if self.kind == Kind::Offline {
            let log = self.log();
            let turns = log.matches("*** Processing account").count();
            return log.matches("Syncing ").count().saturating_sub(turns * self.boxes.len());
        }
        self.mbsync.as_ref().map_or(0, |mbsync| mbsync.runs().len())
    }

    /// How often it has begun to sync anything.
    pub fn starts(&self) -> usize {
        if self.kind == Kind::Offline {
            return self.log().matches("Syncing ").count();
        }
        self.runs()
    }

    /// Whether mbsync runs now, where it wears a coat.
    pub fn mbsync_runs(&self) -> bool {
        self.mbsync.as_ref().is_some_and(|mbsync| mbsync.runs().iter().any(rig::Run::alive))
    }

    /// Whether mbsync ran at this time, on the clock of the coat; known when it has ended.
    pub fn ran_at(&self, at: i64) -> bool {
        let held = |run: &rig::Run| run.start <= at && run.end.is_some_and(|end| at <= end);
        self.mbsync.as_ref().is_some_and(|mbsync| mbsync.runs().iter().any(held))
    }

    /// How long mbsync ran in all, where it wears a coat.
    pub fn time_in_mbsync(&self) -> Duration {
        let runs = self.mbsync.as_ref().map_or_else(Vec::new, Mbsync::runs);
        let length = |run: &rig::Run| u64::try_from(run.end? - run.start).ok();
        Duration::from_nanos(runs.iter().filter_map(length).sum())
    }

    /// How long the last whole run of mbsync took.
    pub fn last_length(&self) -> Option<Duration> {
        let runs = self.mbsync.as_ref()?.runs();
        let run = runs.iter().rev().find(|run| run.end.is_some())?;
        Some(Duration::from_nanos(u64::try_from(run.end? - run.start).ok()?))
    }

    /// Ends it, every process of it.
    pub fn stop(&mut self) {
        let Some(mut services) = self.services.take() else { return };
        let mut pids: Vec<u32> = group::descendants(services.id());
        pids.extend(self.home.leftovers().into_iter().map(|(pid, _)| pid));
        // runsvdir tells its runsv, and these their services.
        process::kill(services.id(), Signal::HUP);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && pids.iter().any(|pid| process::alive(*pid)) {
            sleep(Duration::from_millis(20));
            let _ = services.try_wait();
        }
        for _ in 0..50 {
            let mut left: Vec<u32> =
                self.home.leftovers().into_iter().map(|(pid, _)| pid).collect();
            left.extend(group::descendants(services.id()));
            if left.is_empty() {
                break;
            }
            for pid in left {
                process::kill(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(20));
        }
        process::kill(services.id(), Signal::KILL);
        let _ = services.wait();
        self.mbsync = None;
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.stop();
    }
}
