//! Servers that promise much and keep little: the waiter falls back step by step,
//! does not spin, and mail arrives all the same.

use crate::support::{Mangle, QUICK, SOON, Waiter, at_rest, one_run, secs};
use rig::{Account, Home, Mbsync, Server, ServerOptions, message, process, wait_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;

struct Odd {
    // First, so that its last words are still there when a test has failed.
    waiter: Waiter,
    server: Server,
    home: Home,
    mbsync: Mbsync,
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
    Odd { waiter, server, home, mbsync }
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

#[test]
fn idle_is_refused() {
    let refuse = |tag: &str, command: &str| (command == "IDLE").then(|| format!("{tag} NO no\r\n"));
    odd(ServerOptions::default(), "sweep = \"1s\"\n", refuse, |_, _| None).rests_and_works();
}

#[test]
fn idle_ends_at_once() {
    let hasty = |tag: &str, command: &str| {
        (command == "IDLE").then(|| format!("+ idling\r\n{tag} OK done\r\n"))
    };
    odd(ServerOptions::default(), "sweep = \"1s\"\n", hasty, |_, _| None).rests_and_works();
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

/// A connection whose other end is gone without a word is noticed by the kernel,
/// which asks after a minute of silence, without waking anybody.
#[test]
fn g9_the_kernel_probes_an_idle_connection_within_a_minute() {
    let odd = odd(ServerOptions::default(), "", |_, _| None, |_, _| None);
    at_rest(&odd.home, &odd.waiter, &odd.mbsync);
    let inodes: Vec<String> = process::open_fds(odd.waiter.pid())
        .iter()
        .filter_map(|(_, to)| {
            Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.into())
        })
        .collect();
    let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", odd.waiter.pid())).unwrap();
    let timers: Vec<(u32, u64)> = tcp
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (kind, when) = fields.get(5)?.split_once(':')?;
            let mine = inodes.iter().any(|inode| fields.get(9) == Some(&inode.as_str()));
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
