//! What becomes of it with more mailboxes, and with more messages in one.

use crate::Asked;
use crate::change::{Act, Change, Side, View, plan};
use crate::contender::{Coat, Contender, Kind};
use crate::table::{Table, mib, seconds};
use rig::{Server, ServerOptions, Tls, message};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest that is waited for anything here.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest for a message. Who has not brought it then waits for a timer.
const ENOUGH: Duration = Duration::from_secs(15);

const NOTE: &str = "² The length of a turn, which comes at the end of a period.";

/// What is to be found out about one contender at one size.
struct Figures {
    /// A message on the server to the file; for cron the length of a turn.
    carried: String,
    connections: String,
    processes: String,
    memory: String,
}

impl Figures {
    fn not_ready(why: &str) -> Self {
        let text = || why.to_owned();
        Figures { carried: text(), connections: text(), processes: text(), memory: text() }
    }
}

/// A median, and how many had no time.
fn middle(taken: &[Option<Duration>]) -> String {
    let mut times: Vec<Duration> = taken.iter().flatten().copied().collect();
    times.sort();
    let late = taken.len() - times.len();
    match times.get(times.len() / 2) {
        None => format!("not in {}", seconds(ENOUGH)),
        Some(time) if late == 0 => seconds(*time),
        Some(time) => {
            format!("{}; {late} of {} not in {}", seconds(*time), taken.len(), seconds(ENOUGH))
        }
    }
}

/// New messages in the INBOX, which everybody watches first.
fn deliveries(asked: &Asked) -> Vec<Change> {
    let changes = plan(crate::SEED + 2, asked.count(2, 1, 9), &["INBOX"], &[Act::Add], 0);
    changes.into_iter().filter(|change| change.side == Side::Server).collect()
}

fn figures(asked: &Asked, server: &Server, contender: &mut Contender, boxes: &[&str]) -> Figures {
    let user = "home";
    if contender.kind == Kind::Cron {
        let mut view = View::new(server, user, contender);
        let mut turns = Vec::new();
        for change in deliveries(asked) {
            let prepared = view.prepare(&change);
            let made = view.make(prepared);
            // mbsync waits while a directory was changed in the current second.
            contender.home.age();
            let begun = Instant::now();
            contender.first_sync(PATIENCE);
            turns.push(Some(begun.elapsed()));
            assert!(view.arrived(&made), "mbsync -a brings it");
        }
        return Figures {
            carried: format!("{} ²", middle(&turns)),
            connections: "none".to_owned(),
            processes: "none".to_owned(),
            memory: "none".to_owned(),
        };
    }
    contender.start(Coat::Bare);
    let ready = contender.wait_ready(server, PATIENCE);
    let group = contender.group();
    let connections = contender.connections(server);
    if ready.is_none() {
        let count = contender.kind.connections(boxes.len());
        return Figures::not_ready(&format!(
            "not ready in {} ({connections} of {count} connections)",
            seconds(PATIENCE)
        ));
    }
    let memory = group.memory().map_or("not to be read".to_owned(), |(private, _)| mib(private));
    let mut view = View::new(server, user, contender);
    let mut times = Vec::new();
    for change in deliveries(asked) {
        // The minute between two syncs of the classic services is over.
        sleep(Duration::from_secs(if contender.kind == Kind::Classic { 61 } else { 2 }));
        let prepared = view.prepare(&change);
        let made = view.make(prepared);
        times.push(view.wait(&made, ENOUGH));
    }
    Figures {
        carried: middle(&times),
        connections: connections.to_string(),
        processes: group.own.len().to_string(),
        memory,
    }
}

/// All four at one size, one after the other, so that none disturbs another.
fn at_size(asked: &Asked, server: &Server, boxes: &[&str]) -> Vec<Figures> {
    let progress =
        |kind: Kind| eprintln!("peers: growth, {} mailboxes: {}", boxes.len(), kind.title());
    progress(Kind::Offline);
    let mut offline = Contender::new(Kind::Offline, server, "home", boxes, None);
    let theirs = figures(asked, server, &mut offline, boxes);
    drop(offline);
    let mut all = Vec::new();
    let mut contender = Contender::new(Kind::Ours, server, "home", boxes, None);
    contender.first_sync(PATIENCE * 2);
    for kind in [Kind::Ours, Kind::Classic, Kind::Cron] {
        progress(kind);
        contender = contender.becomes(kind);
        all.push(figures(asked, server, &mut contender, boxes));
    }
    all.push(theirs);
    all
}

fn server(boxes: &[String]) -> Server {
    Server::with(ServerOptions {
        users: vec!["home".to_owned()],
        boxes: boxes.to_vec(),
        tls: Tls::Imaps,
        // One connection for each mailbox is more than dovecot allows a user.
        extra: "mail_max_userip_connections = 5000\n\
                default_client_limit = 10000\n\
                service imap {\n  process_limit = 5000\n}\n"
            .to_owned(),
        ..ServerOptions::default()
    })
}

/// Two tables.
pub fn measure(asked: &Asked) {
    let mut table = Table::of(Kind::ALL);
    let quick = asked.scale < 1.0;
    for count in if quick { &[10][..] } else { &[10, 100, 1000] } {
        let names: Vec<String> = (1..*count).map(|n| format!("box{n:03}")).collect();
        let server = server(&names);
        let boxes: Vec<&str> =
            ["INBOX"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let all = at_size(asked, &server, &boxes);
        rows(&mut table, &format!("{count} mailboxes"), &all);
    }
    table.print("Growth with mailboxes, on loopback", NOTE);
    for count in if quick { &[100][..] } else { &[100, 20_000] } {
        let server = server(&["Archive".to_owned()]);
        let messages: Vec<Vec<u8>> =
            (0..*count).map(|n| message(&format!("message {n}"), "There.")).collect();
        server.imap("home").append_many("INBOX", &messages, &["\\Seen"]);
        let all = at_size(asked, &server, &["INBOX"]);
        let carried = all.iter().map(|figures| figures.carried.clone()).collect();
        table.row(&format!("{count} messages: a new one, server to Maildir"), carried);
        let memory = all.iter().map(|figures| figures.memory.clone()).collect();
        table.row(&format!("{count} messages: memory (USS)"), memory);
    }
    table.print("Growth with messages in one mailbox, on loopback", NOTE);
}

fn rows(table: &mut Table, size: &str, all: &[Figures]) {
    let mut row = |what: &str, cell: &dyn Fn(&Figures) -> String| {
        table.row(&format!("{size}: {what}"), all.iter().map(cell).collect());
    };
    row("a new message in INBOX, server to Maildir", &|figures| figures.carried.clone());
    row("connections", &|figures| figures.connections.clone());
    row("processes", &|figures| figures.processes.clone());
    row("memory (USS)", &|figures| figures.memory.clone());
}
