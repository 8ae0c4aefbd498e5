//! Servers that promise much and keep little: the waiter falls back step by step,
//! does not spin, and mail arrives all the same.

use crate::support::{Mangle, QUICK, SOON, Waiter, at_rest, ms, one_run, secs};
use rig::{
    Account, Home, Mbsync, Seeded, Server, ServerOptions, count, message, process, wait_until,
};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Instant;

struct Odd {
    // First, so that its last words are still there when a test has failed.
    waiter: Waiter,
    server: Server,
    home: Home,
    mbsync: Mbsync,
    /// Where the waiter connects to.
    port: u16,
}

fn odd(
    mut options: ServerOptions,
    settings: &str,
    answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
    rewrite: impl Fn(&str, bool) -> Option<String> + Send + Sync + 'static,
) -> Odd {
    // mbsync takes it where dovecot has it, and what is compressed cannot be read.
    options.without.push("COMPRESS=DEFLATE".to_owned());
    let server = Server::with(options);
    let mangle = Mangle::to(server.port(), answer, rewrite);
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    home.settings(&format!("{QUICK}{settings}"));
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    Odd { waiter, server, home, mbsync, port: mangle.port }
}

impl Odd {
    /// It neither spins nor syncs for nothing, and notices what comes.
    #[track_caller]
    fn rests_and_works(&self) {
        at_rest(&self.home, &self.waiter, &self.mbsync);
        let before = (process::wakeups(self.waiter.pid()), self.mbsync.runs().len());
        sleep(secs(2));
        let wakeups = process::wakeups(self.waiter.pid()) - before.0;
        assert!(wakeups < 40, "{wakeups} wake-ups in two seconds");
        assert_eq!(self.mbsync.runs().len(), before.1, "runs for nothing");
        self.server.imap("home").append("INBOX", &message("one", "one"), &[]);
        assert_eq!(one_run(&self.mbsync, before.1), ["Home:INBOX"]);
    }
}

#[test]
fn a_server_that_accepts_notify_and_sends_nothing() {
    let silent =
        |line: &str, idling: bool| (idling && line.starts_with("* STATUS")).then(String::new);
    let odd = odd(ServerOptions::default(), "every = \"5s\"\n", |_, _| None, silent);
    odd.waiter.wait_said("connected by NOTIFY", SOON);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let inbox = odd.home.maildir("Home", "INBOX");
    for text in ["one", "two"] {
        assert!(!odd.waiter.said().contains("reports nothing"), "once may be chance");
        let before = inbox.len();
        odd.server.imap("home").append("INBOX", &message(text, text), &[]);
        wait_until(SOON, "the timer's run", || inbox.len() > before);
        // Longer than the server is given to speak, shorter than to the next run.
        sleep(secs(4));
    }
    odd.waiter.wait_said("reports nothing; using IDLE", SOON);
    odd.waiter.wait_said("connected by IDLE", SOON);
    odd.home.settings(QUICK);
    odd.waiter.wait_count("connected by NOTIFY", 2, SOON);
}

/// A run carries what the server was about to tell: no reason to doubt it.
#[test]
fn what_a_run_was_faster_with_is_no_silence() {
    let swallow = Arc::new(AtomicBool::new(true));
    let swallows = Arc::clone(&swallow);
    let untold = move |line: &str, idling: bool| {
        (idling && line.starts_with("* STATUS") && swallows.load(Relaxed)).then(String::new)
    };
    let odd = odd(ServerOptions::default(), "every = \"5s\"\n", |_, _| None, untold);
    let inbox = odd.home.maildir("Home", "INBOX");
    let mut imap = odd.server.imap("home");
    for n in 1..=3 {
        // Swallowed, told, swallowed: never twice in a row.
        swallow.store(n != 2, Relaxed);
        imap.append("INBOX", &message(&n.to_string(), "x"), &[]);
        wait_until(SOON, "a run", || inbox.len() == n);
        sleep(secs(4));
    }
    assert!(!odd.waiter.said().contains("reports nothing"), "{}", odd.waiter.said());
}

/// As one that reads many mailboxes from a disk for their STATUS.
#[test]
fn a_server_that_is_slow_keeps_its_connection_at_a_request() {
    for notify in [true, false] {
        let slow = Arc::new(AtomicBool::new(false));
        let is_slow = Arc::clone(&slow);
        // For longer than it is given to show that it is there.
        let late = move |line: &str, _: bool| {
            if line.starts_with("* LIST") && is_slow.swap(false, Relaxed) {
                sleep(secs(3));
            }
            None
        };
        let options = ServerOptions { notify, ..ServerOptions::default() };
        let odd = odd(options, "", |_, _| None, late);
        at_rest(&odd.home, &odd.waiter, &odd.mbsync);
        let connected = odd.waiter.count("connected by");
        slow.store(true, Relaxed);
        let said = odd.home.mutt_sync(&["Home"]).ok().stdout;
        assert!(said.starts_with("Home: nothing to do"), "{said}");
        assert!(!slow.load(Relaxed) && odd.waiter.count("connected by") == connected);
        assert!(!odd.waiter.said().contains("connection lost"));
    }
}

/// RFC 9051 has a server list the mailbox that is opened; mox does so.
#[test]
fn a_mailbox_that_is_opened_is_listed() {
    let opened: Arc<Mutex<VecDeque<String>>> = Arc::default();
    let names = Arc::clone(&opened);
    let note = move |_: &str, command: &str| {
        let name = command.strip_prefix("EXAMINE ").or(command.strip_prefix("SELECT "));
        names.lock().unwrap().extend(name.map(ToOwned::to_owned));
        None
    };
    let list = move |line: &str, _: bool| {
        let name = line.contains("OK [READ-").then(|| opened.lock().unwrap().pop_front())??;
        Some(format!("* LIST () \"/\" {name}\r\n{line}"))
    };
    let odd = odd(ServerOptions::default(), "", note, list);
    odd.rests_and_works();
    assert!(!odd.waiter.said().contains("created or removed"), "{}", odd.waiter.said());
}

#[test]
fn mailboxes_of_any_script_are_heard_by_notify() {
    let boxes = ["Entwürfe", "日本語", "Sent"].map(ToOwned::to_owned).to_vec();
    let options = ServerOptions { boxes, ..ServerOptions::default() };
    let odd = odd(options, "", |_, _| None, |_, _| None);
    odd.waiter.wait_said("connected by NOTIFY", SOON);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    for name in ["Entw&APw-rfe", "&ZeVnLIqe-"] {
        let before = odd.mbsync.runs().len();
        odd.server.imap("home").append(name, &message(name, name), &[]);
        assert_eq!(one_run(&odd.mbsync, before).len(), 1);
    }
}

/// Nothing else tells of them without NOTIFY. A server that cannot give STATUS with LIST is
/// asked for it once a connection.
#[test]
fn without_notify_mailboxes_that_come_are_seen_at_the_sweep() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let refuse = move |tag: &str, command: &str| {
        (command.starts_with("LIST") && command.contains("STATUS (MESSAGES")).then(|| {
            count.fetch_add(1, Relaxed);
            format!("{tag} BAD unknown\r\n")
        })
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "sweep = \"1s\"\n", refuse, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let mut imap = odd.server.imap("home");
    for name in ["Made", "Renamed"] {
        let maildir = odd.home.maildir("Home", name);
        if name == "Renamed" {
            imap.raw("RENAME Made Renamed");
        } else {
            imap.create(name);
        }
        imap.append(name, &message(name, name), &[]);
        wait_until(SOON, name, || maildir.path().is_dir() && !maildir.is_empty());
        // Dovecot closes the connection on which a mailbox that goes is open.
        odd.mbsync.wait_idle(SOON);
        sleep(ms(500));
    }
    let (asked, said) = (refused.load(Relaxed), odd.waiter.said());
    // Once for each connection; the last may be about to be made.
    let connections = odd.waiter.count("connected by") + 1;
    assert!((1..=connections).contains(&asked), "asked {asked} times: {said}");
}

/// Yahoo tells HIGHESTMODSEQ of a mailbox that is opened, and has no CONDSTORE: STATUS does
/// not tell it.
#[test]
fn a_modseq_without_condstore_is_not_believed() {
    let options = ServerOptions {
        notify: false,
        without: vec!["CONDSTORE".to_owned(), "QRESYNC".to_owned()],
        ..ServerOptions::default()
    };
    let modseq = |line: &str, _: bool| {
        let next = line.starts_with("* OK [UIDNEXT");
        next.then(|| format!("{line}* OK [HIGHESTMODSEQ 50] Highest\r\n"))
    };
    let odd = odd(options, "sweep = \"1s\"\n", |_, _| None, modseq);
    odd.rests_and_works();
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let before = odd.mbsync.runs().len();
    let mut imap = odd.server.imap("home");
    let uid = imap.find("INBOX", "one").uid;
    imap.select("INBOX");
    imap.add_flags(uid, &["\\Flagged"]);
    imap.unselect();
    assert_eq!(one_run(&odd.mbsync, before), ["Home:INBOX"]);
}

/// Yahoo's.
#[test]
fn a_deletion_that_idle_does_not_report_is_seen_at_the_sweep() {
    let untold = |line: &str, idling: bool| (idling && line.contains(" EXPUNGE")).then(String::new);
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "sweep = \"1s\"\n", |_, _| None, untold);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let mut imap = odd.server.imap("home");
    let uid = imap.append("INBOX", &message("one", "one"), &[]);
    let inbox = odd.home.maildir("Home", "INBOX");
    wait_until(SOON, "it is here", || inbox.len() == 1);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    imap.select("INBOX");
    imap.expunge(uid);
    imap.unselect();
    wait_until(SOON, "it is gone", || inbox.is_empty());
}

#[test]
fn the_mailboxes_that_change_most_are_idled_in() {
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "connections = 2\nsweep = \"1s\"\n", |_, _| None, |_, _| None);
    let mut imap = odd.server.imap("home");
    let maildir = odd.home.maildir("Home", "Trash");
    for n in 1..=4 {
        imap.append("Trash", &message(&n.to_string(), "x"), &[]);
        wait_until(SOON, "its message", || maildir.len() == n);
    }
    odd.waiter.wait_said("idling in Trash in place of Archive", SOON);
    for name in ["Archive", "Trash", "INBOX"] {
        at_rest(&odd.home, &odd.waiter, &odd.mbsync);
        let before = odd.mbsync.runs().len();
        imap.append(name, &message(name, "x"), &[]);
        assert_eq!(one_run(&odd.mbsync, before), [format!("Home:{name}")]);
    }
}

/// A name that is not found for a moment is no limit of the server.
#[test]
fn a_connection_that_fails_is_tried_again_at_the_sweep() {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    // The command's own, the waiter's first, and two that fail.
    let fail = move |_: &str, command: &str| {
        let login = command.starts_with("AUTHENTICATE") || command.starts_with("LOGIN");
        (login && (2..4).contains(&count.fetch_add(1, Relaxed)))
            .then(|| "* BYE not now\r\n".to_owned())
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "connections = 3\nsweep = \"1s\"\n", fail, |_, _| None);
    odd.waiter.wait_said("connected by IDLE, 1 connection", SOON);
    wait_until(SOON, "the other two", || odd.server.logins("home") == 4);
    odd.rests_and_works();
}

/// Without NOTIFY, and without a word in `config.toml`.
#[test]
fn a_change_that_no_connection_watches_is_seen_within_a_minute() {
    let server = Server::with(ServerOptions {
        notify: false,
        boxes: (0..20).map(|n| format!("box {n:02}")).collect(),
        ..ServerOptions::default()
    });
    let home = Home::on(&server, &["Home"]);
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    let mut imap = server.imap("home");
    let mut random = Seeded::from_env_or(5);
    let mut times = Vec::new();
    for n in 1..=count(1, 15) {
        sleep(ms(random.u64(0..if count(0, 1) == 1 { 60_000 } else { 1 })));
        let begun = Instant::now();
        imap.append("box 19", &message(&n.to_string(), "x"), &[]);
        wait_until(secs(75), "it is seen", || waiter.count("box 19: the server reports") >= n);
        times.push(begun.elapsed());
        wait_until(SOON, "it is here", || home.maildir("Home", "box 19").len() == n);
    }
    times.sort_unstable();
    println!("seen after {:?} at most, median {:?}", times.last(), times[times.len() / 2]);
    assert!(times.iter().all(|time| *time < secs(62)), "{times:?}");
}

/// mbsync would know no delimiter. Where no connection is lent, it gets the whole channel.
#[test]
fn nested_mailboxes_are_synced_without_namespace() {
    for (settings, run) in [("", "Home:A/B"), ("handover = false\n", "Home")] {
        let refuse = |tag: &str, command: &str| {
            (command == "NAMESPACE").then(|| format!("{tag} BAD no\r\n"))
        };
        let options = ServerOptions {
            separator: '.',
            boxes: vec!["A.B".to_owned()],
            without: vec!["NAMESPACE".to_owned()],
            ..ServerOptions::default()
        };
        let odd = odd(options, settings, refuse, |_, _| None);
        at_rest(&odd.home, &odd.waiter, &odd.mbsync);
        let before = odd.mbsync.runs().len();
        odd.server.imap("home").append("A.B", &message("one", "one"), &[]);
        assert_eq!(one_run(&odd.mbsync, before), [run]);
        let maildir = odd.home.maildir("Home", "A/B");
        wait_until(SOON, "its message", || maildir.len() == 1);
        // By a command that has no waiter.
        let Odd { waiter, home, server, .. } = &odd;
        rig::process::kill(waiter.pid(), rig::Signal::KILL);
        server.imap("home").append("A.B", &message("two", "two"), &[]);
        home.mutt_sync(&["Home:A/B"]).ok();
        assert_eq!(maildir.len(), 2);
        assert!(!waiter.said().contains("rror"), "{}", waiter.said());
    }
}

/// RFC 9738: what it leaves out is not gone.
#[test]
fn a_search_that_is_cut_short_shows_no_deletion() {
    let cut = |line: &str, _: bool| {
        let rest = line.split_once(" OK Search completed")?;
        Some(format!("{} OK [MESSAGELIMIT 1 1] cut\r\n", rest.0))
    };
    let options = ServerOptions {
        notify: false,
        without: vec!["ESEARCH".to_owned()],
        ..ServerOptions::default()
    };
    let odd = odd(options, "", |_, _| None, cut);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    odd.server.imap("home").append("INBOX", &message("one", "one"), &[]);
    odd.waiter.wait_said("MESSAGELIMIT", SOON);
    assert_eq!(odd.waiter.count("deleted"), 0, "{}", odd.waiter.said());
}

/// As Yahoo, which shows the newest 10 000.
#[test]
fn a_server_that_hides_old_messages_is_named_by_check() {
    let server = Server::with(ServerOptions::default());
    let mut imap = server.imap("home");
    for n in 0..3 {
        imap.append("INBOX", &message(&n.to_string(), "x"), &[]);
    }
    let more = |line: &str, _: bool| {
        let status = line.strip_prefix("* STATUS INBOX ")?;
        Some(format!("* STATUS INBOX {}\r\n", status.trim().replace("MESSAGES 3", "MESSAGES 8")))
    };
    let mangle = Mangle::to(server.port(), |_, _| None, more);
    for (port, hides) in [(server.port(), false), (mangle.port, true)] {
        let home = Home::with(vec![Account::on(&server, "Home").port(port)]);
        let said = home.mutt_sync(&["--check", "Home"]).ok().stdout;
        assert_eq!(said.contains("shows 3 of 8 messages in INBOX"), hides, "{said}");
    }
}

/// Neither number is a change.
#[test]
fn status_may_count_more_than_an_open_mailbox_shows() {
    let more = |line: &str, _: bool| {
        let (before, rest) = line.split_once(" (MESSAGES ")?;
        let (count, after) = rest.split_once(' ').filter(|_| before.starts_with("* STATUS"))?;
        let count: u32 = count.parse().ok()?;
        Some(format!("{before} (MESSAGES {} {after}", count + 5))
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "sweep = \"1s\"\n", |_, _| None, more);
    odd.rests_and_works();
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    assert_eq!(odd.waiter.count("to pull: 1 new"), 1, "{}", odd.waiter.said());
}

/// What is in the way of our connection may not be in mbsync's, which logs in by itself then.
#[test]
fn a_server_that_cannot_be_watched_is_synced_with() {
    // mbsync's tags are numbers.
    let refuse = |tag: &str, command: &str| {
        let ours = tag.starts_with('m') && command.starts_with("LIST");
        ours.then(|| "* BYE not for you\r\n".to_owned())
    };
    let server = Server::with(ServerOptions {
        without: vec!["COMPRESS=DEFLATE".to_owned()],
        ..ServerOptions::default()
    });
    let mangle = Mangle::to(server.port(), refuse, |_, _| None);
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    home.settings(&format!("{QUICK}retry = \"1s\"\nretry_max = \"2s\"\n"));
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    let (inbox, mut imap) = (home.maildir("Home", "INBOX"), server.imap("home"));
    for n in 1..=3 {
        imap.append("INBOX", &message(&format!("there {n}"), "x"), &[]);
        home.mutt_sync(&["-b", "--full", "Home"]).ok();
        wait_until(SOON, "it is here", || inbox.exists() && inbox.len() == 2 * n - 1);
        inbox.add(&message(&format!("here {n}"), "x"), "S");
        wait_until(SOON, "it is there", || imap.fetch_all("INBOX").len() == 2 * n);
    }
    assert_eq!(waiter.count("connected by"), 0, "{}", waiter.said());
}

/// Microsoft 365 accepts a login and then answers every command so, until the next login.
#[test]
fn a_session_without_its_mail_store_is_replaced() {
    let (out, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_out, tries) = (Arc::clone(&out), Arc::clone(&logins));
    let refuse = move |tag: &str, command: &str| {
        let login = command.starts_with("AUTHENTICATE") || command.starts_with("LOGIN");
        tries.fetch_add(usize::from(login), Relaxed);
        let answered = login || command.starts_with("CAPABILITY") || command == "LOGOUT";
        (is_out.load(Relaxed) && !answered)
            .then(|| format!("{tag} BAD User is authenticated but not connected.\r\n"))
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let settings = "sweep = \"1s\"\nretry = \"2s\"\nretry_max = \"4s\"\n";
    let odd = odd(options, settings, refuse, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    out.store(true, Relaxed);
    odd.waiter.wait_said("authenticated but not connected", SOON);
    let status = || odd.home.mutt_sync(&["--status", "Home"]).ok().stdout;
    wait_until(SOON, "it is told", || status().contains("next try in"));
    let before = logins.load(Relaxed);
    odd.home.mutt_sync(&["Home"]).expect_code(75);
    wait_until(SOON, "another login", || logins.load(Relaxed) > before);
    out.store(false, Relaxed);
    odd.waiter.wait_count("connected by", 2, SOON);
    odd.rests_and_works();
}

#[test]
fn idle_is_refused() {
    let refuse = |tag: &str, command: &str| (command == "IDLE").then(|| format!("{tag} NO no\r\n"));
    odd(ServerOptions::default(), "sweep = \"1s\"\n", refuse, |_, _| None).rests_and_works();
}

#[test]
fn an_idle_that_is_refused_for_now_is_tried_again() {
    let idles = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&idles);
    let refuse = move |tag: &str, command: &str| {
        let first = command == "IDLE" && count.fetch_add(1, Relaxed) == 0;
        first.then(|| format!("{tag} NO Request is throttled.\r\n"))
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "sweep = \"1s\"\n", refuse, |_, _| None);
    wait_until(SOON, "IDLE in each mailbox", || idles.load(Relaxed) > 4);
    odd.rests_and_works();
}

#[test]
fn after_a_notify_that_is_refused_the_server_is_watched_by_idle() {
    let (notifies, idles) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, after) = (Arc::clone(&notifies), Arc::clone(&idles));
    let refuse = move |tag: &str, command: &str| {
        after.fetch_add(usize::from(command == "IDLE" && count.load(Relaxed) > 1), Relaxed);
        let again = command.starts_with("NOTIFY SET") && count.fetch_add(1, Relaxed) > 0;
        again.then(|| format!("{tag} NO not now\r\n"))
    };
    let odd = odd(ServerOptions::default(), "sweep = \"1s\"\n", refuse, |_, _| None);
    odd.waiter.wait_said("connected by NOTIFY", SOON);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    odd.home.maildir("Home", "INBOX").add(&message("here", "here"), "S");
    wait_until(SOON, "IDLE after a refused NOTIFY", || idles.load(Relaxed) > 0);
    odd.rests_and_works();
    assert!(notifies.load(Relaxed) > 1, "{}", odd.waiter.said());
}

#[test]
fn idle_ends_at_once() {
    let hasty = |tag: &str, command: &str| {
        (command == "IDLE").then(|| format!("+ idling\r\n{tag} OK done\r\n"))
    };
    odd(ServerOptions::default(), "sweep = \"1s\"\n", hasty, |_, _| None).rests_and_works();
}

/// What ends IDLE and changes nothing, such as the echo of a run that comes late, leaves no
/// mailbox unwatched.
#[test]
fn idle_goes_on_after_a_report_that_changes_nothing() {
    // Each in the same piece as the answer to IDLE; fewer than what mutes a server.
    let left = AtomicUsize::new(20);
    let echo = move |line: &str, idling: bool| {
        let begins = idling && line.starts_with("+ idling");
        let take = |left: usize| left.checked_sub(1);
        (begins && left.fetch_update(Relaxed, Relaxed, take).is_ok())
            .then(|| format!("{line}* 1 FETCH (FLAGS (\\Seen))\r\n"))
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "", |_, _| None, echo);
    odd.waiter.wait_said("connected by IDLE", SOON);
    odd.rests_and_works();
}

#[test]
fn notify_overflows_again_and_again() {
    let overflow = |line: &str, idling: bool| {
        let begins = idling && line.starts_with("+ idling");
        begins.then(|| format!("{line}* OK [NOTIFICATIONOVERFLOW] too much\r\n"))
    };
    let odd = odd(ServerOptions::default(), "sweep = \"1s\"\n", |_, _| None, overflow);
    odd.rests_and_works();
}

#[test]
fn status_of_a_mailbox_is_refused() {
    let refuse = |tag: &str, command: &str| {
        let archive = command.starts_with("STATUS") && command.contains("Archive");
        archive.then(|| format!("{tag} NO not for you\r\n"))
    };
    let options = ServerOptions { notify: false, ..ServerOptions::default() };
    let odd = odd(options, "sweep = \"1s\"\n", refuse, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let runs = odd.mbsync.runs().len();
    assert!(runs <= 2, "{runs} runs");
    odd.rests_and_works();
}

/// Microsoft 365's words: they do not say that the mailbox is gone.
#[test]
fn a_status_that_is_throttled_keeps_the_last_one() {
    let (throttles, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (throttled, count) = (Arc::clone(&throttles), Arc::clone(&refused));
    let refuse = move |tag: &str, command: &str| {
        let archive = command.starts_with("STATUS") && command.contains("Archive");
        (archive && throttled.load(Relaxed)).then(|| {
            count.fetch_add(1, Relaxed);
            format!("{tag} BAD Request is throttled. Suggested Backoff Time: 1000 milliseconds\r\n")
        })
    };
    let options = ServerOptions {
        notify: false,
        without: vec!["LIST-STATUS".to_owned()],
        ..ServerOptions::default()
    };
    let odd = odd(options, "connections = 1\nsweep = \"1s\"\n", refuse, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let before = odd.mbsync.runs().len();
    throttles.store(true, Relaxed);
    wait_until(SOON, "three refusals", || refused.load(Relaxed) >= 3);
    throttles.store(false, Relaxed);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    assert_eq!(odd.mbsync.runs().len(), before, "runs for nothing");
    odd.rests_and_works();
}

/// A connection whose other end is gone without a word is noticed by the kernel,
/// which asks after a minute of silence, without waking anybody.
#[test]
fn g9_the_kernel_probes_an_idle_connection_within_a_minute() {
    let odd = odd(ServerOptions::default(), "", |_, _| None, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let remote = format!("0100007F:{:04X}", odd.port);
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers: Vec<(u32, u64)> = tcp
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (kind, when) = fields.get(5)?.split_once(':')?;
            // Established, and seen from the waiter's end.
            let mine = fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&"01");
            let when = u64::from_str_radix(when, 16).ok()?;
            mine.then_some((kind.parse().ok()?, when))
        })
        .collect();
    // 2: keep-alive; in hundredths of a second.
    assert!(
        matches!(timers[..], [(2, when)] if when <= 6100),
        "timers of the connection: {timers:?}"
    );
}
