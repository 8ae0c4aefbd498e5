//! What one change on the server costs in a mailbox of many messages: bytes, processor
//! time, and time on a slow line. A run of plain mbsync, of mutt-sync alone, and of a
//! waiter that lends its connection, with and without telling mbsync the flags that its
//! record knows; and interimap, which syncs with an IMAP server of the user's own, here
//! a second dovecot. All that goes over the line from the change until all is quiet
//! again counts, the questions of mutt-sync included.
//!
//!     cargo bench --bench bytes                  1 000 and 20 000 messages
//!     cargo bench --bench bytes -- 100000        others
//!     cargo bench --bench bytes -- 20000 gaps    every tenth message was deleted before
//!     cargo bench --bench bytes -- 100000 waiter interimap       these alone
//!
//! A change may cost mutt-sync 4 KiB; more fails. An expunge in a mailbox with gaps may
//! cost more: the server has to tell them. Bytes do not depend on the machine's load, times
//! do.

use mutt_sync::model::uid_set::UidSet;
use rig::{
    Account, Delay, Home, Imap, Running, Server, ServerOptions, Signal, message, process,
    real_mbsync, run,
};
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(3600);
const MOST: u64 = 4 * 1024;
/// 1 Mbit/s, and a round trip.
const SLOW: (u64, Duration) = (125_000, Duration::from_millis(100));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Mbsync,
    Alone,
    Waiter,
    /// The waiter without CHANGEDSINCE.
    AllFlags,
    Interimap,
}

impl Way {
    const ALL: [Way; 5] = [Way::Mbsync, Way::Alone, Way::Waiter, Way::AllFlags, Way::Interimap];

    /// The head of its column.
    fn title(self) -> &'static str {
        match self {
            Way::Mbsync => "mbsync",
            Way::Alone => "mutt-sync",
            Way::Waiter => "waiter",
            Way::AllFlags => "all flags",
            Way::Interimap => "interimap",
        }
    }

    /// The name of its account; in lower case, its user's.
    fn name(self) -> &'static str {
        match self {
            Way::Mbsync => "Plain",
            Way::Alone => "Alone",
            Way::Waiter => "Waited",
            Way::AllFlags => "Whole",
            Way::Interimap => "Inter",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Delivery,
    Flag,
    Expunge,
}

/// What a mailbox is like.
#[derive(Clone, Copy)]
struct Size {
    messages: usize,
    gaps: bool,
}

const EVENTS: [(Event, &str); 3] =
    [(Event::Delivery, "a delivery"), (Event::Flag, "a flag"), (Event::Expunge, "an expunge")];

/// What a change costs.
struct Cost {
    bytes: u64,
    /// Of the client's processes; interimap's local server in brackets.
    processor: Duration,
    of_server: Duration,
    /// From the change until it is carried, and the command has ended.
    time: Duration,
}

struct User<'s> {
    way: Way,
    home: Home,
    line: Delay,
    imap: Imap,
    waiter: Option<Running>,
    /// interimap's own.
    local: &'s Server,
}

impl<'s> User<'s> {
    fn new(server: &Server, local: &'s Server, way: Way, size: Size) -> User<'s> {
        let name = way.name();
        let mut imap = server.imap(&name.to_lowercase());
        let all: Vec<Vec<u8>> =
            (0..size.messages).map(|at| message(&format!("message {at}"), "There.")).collect();
        imap.append_many("INBOX", &all, &["\\Seen"]);
        drop(all);
        if size.gaps {
            let tenth =
                UidSet::from_uids((5..u32::try_from(size.messages).expect("few")).step_by(10));
            imap.select("INBOX");
            imap.raw(&format!("UID STORE {tenth} +FLAGS.SILENT (\\Deleted)"));
            imap.raw("EXPUNGE");
            imap.unselect();
        }
        let line = Delay::to(server.port(), Duration::ZERO);
        let home = Home::with(vec![Account::on(server, name).port(line.port())]);
        let user = name.to_lowercase();
        let section = |server: &Server, user: &str, port: u16| {
            let password = server.password(user);
            format!(
                "type = imap\nhost = 127.0.0.1\nport = {port}\nSTARTTLS = NO\n\
                 username = {user}\npassword = {password}\n"
            )
        };
        home.write(
            ".config/interimap/config",
            &format!(
                "database = inter.db\n\n[local]\n{}\n[remote]\n{}",
                section(local, "local", local.port()),
                section(server, &user, line.port())
            ),
        );
        std::fs::create_dir_all(home.path(".local/share")).expect("make directory");
        if way == Way::AllFlags {
            home.settings("changedsince = false\n");
        }
        let mut user = User { way, home, line, imap, waiter: None, local };
        match way {
            Way::Interimap => {
                user.interimap();
                user.interimap();
            }
            _ => drop(run(user.home.command(real_mbsync()).args(["-q", name]), LIMIT).ok()),
        }
        user.home.age();
        match way {
            Way::Mbsync | Way::Interimap => {}
            Way::Alone => drop(run(&mut user.home.cmd(&["-f", name]), LIMIT).ok()),
            Way::Waiter | Way::AllFlags => {
                let waiter = Running::start(user.home.cmd(&["--wait", "--loop", "-v", name]));
                waiter.wait_for("connected by", LIMIT);
                user.waiter = Some(waiter);
            }
        }
        user.rest();
        user
    }

    fn interimap(&self) {
        run(self.home.command("interimap").arg("--quiet"), LIMIT).ok();
    }

    fn bytes(&self) -> u64 {
        let (there, back) = self.line.bytes();
        there + back
    }

    fn processor(&self) -> Duration {
        match &self.waiter {
            Some(waiter) => process::processor_times(waiter.pid()).iter().sum(),
            // All that has been waited for.
            None => process::processor_times(std::process::id())[1],
        }
    }

    /// Waits until nothing has moved for two seconds, and nothing has been worked at.
    fn rest(&self) {
        let state = || (self.bytes(), self.processor());
        let (mut last, mut since, begun) = (state(), Instant::now(), Instant::now());
        while since.elapsed() < Duration::from_secs(2) {
            assert!(begun.elapsed() < LIMIT, "{:?}: no rest", self.way);
            sleep(Duration::from_millis(20));
            let now = state();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// Messages and flagged ones on this side.
    fn here(&self) -> (usize, usize) {
        if self.way == Way::Interimap {
            let mut imap = self.local.imap("local");
            let messages = usize::try_from(imap.status("INBOX").messages).expect("few enough");
            imap.select("INBOX");
            let said = imap.raw("UID SEARCH FLAGGED");
            let found = said.iter().find_map(|line| line.strip_prefix("* SEARCH"));
            return (messages, found.map_or(0, |uids| uids.split_whitespace().count()));
        }
        let maildir = self.home.maildir(self.way.name(), "INBOX");
        let names = ["cur", "new"].into_iter().flat_map(|folder| {
            let files = std::fs::read_dir(maildir.path().join(folder)).expect("a Maildir");
            files.map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        });
        let is_flagged =
            |name: &String| name.rsplit_once(',').is_some_and(|(_, f)| f.contains('F'));
        names.fold((0, 0), |(all, flagged), name| {
            (all + 1, flagged + usize::from(is_flagged(&name)))
        })
    }

    /// What one change costs. `round`: it is another message each time.
    fn cost(&mut self, event: Event, round: u32) -> Cost {
        let (messages, flagged) = self.here();
        let (before, processor) = (self.bytes(), self.processor());
        let of_server = self.local.processor_time();
        self.imap.select("INBOX");
        match event {
            Event::Delivery => drop(self.imap.append("INBOX", &message("new", "Here."), &[])),
            Event::Flag => self.imap.add_flags(7 + 2 * round, &["\\Flagged"]),
            Event::Expunge => self.imap.expunge(20 + round),
        }
        let begun = Instant::now();
        self.imap.unselect();
        let name = self.way.name();
        match self.way {
            Way::Mbsync => {
                drop(run(self.home.command(real_mbsync()).args(["-q", name]), LIMIT).ok());
            }
            Way::Alone => drop(run(&mut self.home.cmd(&["-f", "-q", name]), LIMIT).ok()),
            Way::Interimap => self.interimap(),
            Way::Waiter | Way::AllFlags => {}
        }
        let ended = begun.elapsed();
        let wanted = match event {
            Event::Delivery => (messages + 1, flagged),
            Event::Expunge => (messages - 1, flagged),
            Event::Flag => (messages, flagged + 1),
        };
        while self.here() != wanted {
            assert!(begun.elapsed() < LIMIT, "{:?}: not carried", self.way);
            sleep(Duration::from_millis(20));
        }
        let time = if self.waiter.is_some() { begun.elapsed() } else { ended };
        self.rest();
        Cost {
            bytes: self.bytes() - before,
            processor: self.processor().saturating_sub(processor),
            of_server: self.local.processor_time().saturating_sub(of_server),
            time,
        }
    }
}

/// A table: of each size and event, what each way costs.
struct Rows(Vec<Row>);

struct Row {
    head: String,
    costs: Vec<Cost>,
    /// It may cost mutt-sync no more than [`MOST`].
    bounded: bool,
}

impl Rows {
    fn measure(users: &mut [User<'_>], size: Size, round: u32) -> Rows {
        let gaps = if size.gaps { " with gaps" } else { "" };
        let row = |(event, what): (Event, &str)| {
            let costs = users.iter_mut().map(|user| user.cost(event, round)).collect();
            let bounded = !(size.gaps && event == Event::Expunge);
            Row { head: format!("| {}{gaps} | {what} |", size.messages), costs, bounded }
        };
        Rows(EVENTS.into_iter().map(row).collect())
    }

    fn print(&self, ways: &[Way], what: &str, cell: impl Fn(&Cost) -> String) {
        let heads = ways.iter().map(|way| way.title()).collect::<Vec<_>>().join(" | ");
        println!("\n| messages | {what} for | {heads} |\n|---|---|{}", "---|".repeat(ways.len()));
        for Row { head, costs, .. } in &self.0 {
            let cells = costs.iter().map(&cell).fold(String::new(), |mut all, cell| {
                let _ = write!(all, " {cell} |");
                all
            });
            println!("{head}{cells}");
        }
    }

    /// Whether a change costs mutt-sync no more than it may.
    fn are_within_bounds(&self, ways: &[Way]) -> bool {
        let ours = |cost: &(&Cost, &Way)| [Way::Alone, Way::Waiter].contains(cost.1);
        let rows = self.0.iter().filter(|row| row.bounded);
        let all = rows.flat_map(|row| row.costs.iter().zip(ways).filter(ours));
        all.fold(true, |kept, (cost, way)| {
            if cost.bytes > MOST {
                println!("MISSED: {way:?}, {} bytes of {MOST}", cost.bytes);
            }
            kept && cost.bytes <= MOST
        })
    }
}

/// What changes cost on a line that is quick, and on one that is slow.
fn measure(ways: &[Way], size: Size) -> [Rows; 2] {
    let users = ways.iter().map(|way| way.name().to_lowercase()).collect();
    let options = || ServerOptions { boxes: vec![], ..ServerOptions::default() };
    let server = Server::with(ServerOptions { users, ..options() });
    let local = Server::with(ServerOptions { users: vec!["local".to_owned()], ..options() });
    let start = |way: &Way| {
        let begun = Instant::now();
        let user = User::new(&server, &local, *way, size);
        let messages = size.messages;
        eprintln!("bytes: {messages} messages, {way:?}: in step after {:.0?}", begun.elapsed());
        user
    };
    let mut users: Vec<User<'_>> = ways.iter().map(start).collect();
    let quick = Rows::measure(&mut users, size, 0);
    for user in &users {
        user.line.set_rate(SLOW.0);
        user.line.set_round_trip(SLOW.1);
    }
    let slow = Rows::measure(&mut users, size, 1);
    for user in &mut users {
        if let Some(waiter) = user.waiter.take() {
            waiter.signal(Signal::TERM);
            waiter.wait(LIMIT);
        }
    }
    [quick, slow]
}

fn main() {
    if std::process::Command::new("interimap").arg("--version").output().is_err() {
        eprintln!("bytes: interimap is not installed; benches/setup does it on Debian");
        std::process::exit(1);
    }
    let words: Vec<String> = std::env::args().collect();
    let mut ways = Way::ALL.to_vec();
    ways.retain(|way| words.iter().any(|word| word == way.title()));
    let ways = if ways.is_empty() { &Way::ALL[..] } else { &ways };
    let gaps = words.iter().any(|word| word == "gaps");
    let told: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let (mut quick, mut slow) = (Rows(Vec::new()), Rows(Vec::new()));
    for messages in if told.is_empty() { vec![1000, 20_000] } else { told } {
        let [a, b] = measure(ways, Size { messages, gaps });
        quick.0.extend(a.0);
        slow.0.extend(b.0);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("Load at the end: {}", load.split(' ').next().unwrap_or_default());
    quick.print(ways, "bytes", |cost| cost.bytes.to_string());
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    quick.print(ways, "processor time", |cost| match cost.of_server.as_millis() {
        0 => ms(cost.processor),
        _ => format!("{} + {}", ms(cost.processor), ms(cost.of_server)),
    });
    slow.print(ways, "time at 1 Mbit/s and 100 ms", |cost| {
        format!("{:.2} s", cost.time.as_secs_f64())
    });
    if !(quick.are_within_bounds(ways) && slow.are_within_bounds(ways)) {
        std::process::exit(1);
    }
}
