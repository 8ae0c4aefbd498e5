//! A server that never rests: each of its words is right, and there is always
//! one more. It must not keep us, the machine and the line busy for ever.

use crate::program::Lair;
use crate::server::{Fake, PASSWORD, Peer};
use rig::{Running, Signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What it says as soon as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// NOTIFY: a mailbox has changed.
    MailboxStatus,
    /// NOTIFY: a mailbox was made.
    List,
    /// NOTIFY: too much to tell.
    Overflow,
    /// IDLE: there is one message more.
    Exists,
    /// IDLE is over.
    Done,
    /// Nothing; but STATUS is another each time it is asked for.
    Moving,
}

fn restless(peer: &mut Peer, word: Word, commands: &AtomicU32, count: &AtomicU32) {
    let notify = !matches!(word, Word::Exists | Word::Done);
    peer.say("* OK hello\r\n");
    let mut idle = String::new();
    let status = || {
        let moved = matches!(word, Word::Moving | Word::MailboxStatus | Word::Exists);
        let n = if moved { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
        format!("* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3 HIGHESTMODSEQ {})\r\n", 4 + n)
    };
    while let Some(line) = peer.hear() {
        commands.fetch_add(1, Ordering::SeqCst);
        let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = rest.split(' ').next().unwrap_or_default();
        let data = match verb {
            "CAPABILITY" if tag == "c1" => "* CAPABILITY IMAP4rev1\r\n".to_owned(),
            "CAPABILITY" => format!(
                "* CAPABILITY IMAP4rev1 IDLE{} ESEARCH CONDSTORE UNSELECT\r\n",
                if notify { " NOTIFY" } else { "" }
            ),
            "LIST" => "* LIST () \"/\" INBOX\r\n".to_owned(),
            "NOTIFY" if rest.contains("SET") => status(),
            "STATUS" => status(),
            "SELECT" | "EXAMINE" => {
                "* 1 EXISTS\r\n* OK [UIDVALIDITY 3] ok\r\n* OK [UIDNEXT 2] ok\r\n\
                 * OK [PERMANENTFLAGS (\\Seen \\*)] ok\r\n"
                    .to_owned()
            }
            "UID" if rest.contains("SEARCH") => format!("* ESEARCH (TAG \"{tag}\") UID ALL 1\r\n"),
            "UID" => "* 1 FETCH (UID 1 FLAGS (\\Seen))\r\n".to_owned(),
            "IDLE" => {
                tag.clone_into(&mut idle);
                peer.say("+ idling\r\n");
                match word {
                    Word::MailboxStatus => peer.say(status()),
                    Word::List => peer.say("* LIST () \"/\" new\r\n"),
                    Word::Overflow => peer.say("* OK [NOTIFICATIONOVERFLOW] much\r\n"),
                    Word::Exists => peer.say("* 2 EXISTS\r\n"),
                    Word::Done => peer.say(format!("{idle} OK done\r\n")),
                    Word::Moving => true,
                };
                continue;
            }
            _ if tag == "DONE" => {
                peer.say(format!("{idle} OK done\r\n"));
                continue;
            }
            _ => String::new(),
        };
        peer.say(format!("{data}{tag} OK done\r\n"));
    }
}

#[test]
fn g10_a_server_that_never_pauses_is_read_at_intervals() {
    let words =
        [Word::MailboxStatus, Word::List, Word::Overflow, Word::Exists, Word::Done, Word::Moving];
    std::thread::scope(|scope| {
        for word in words {
            scope.spawn(move || is_read_at_intervals(word));
        }
    });
}

fn is_read_at_intervals(word: Word) {
    let commands: Arc<AtomicU32> = Arc::default();
    let (heard, count) = (Arc::clone(&commands), AtomicU32::new(0));
    let fake = Fake::start(move |peer| restless(peer, word, &heard, &count));
    let lair = Lair::with(&format!(
        "Host 127.0.0.1\nPort {}\nUser user\nPass {PASSWORD}\nSSLType None\nAuthMechs LOGIN\nTimeout 30",
        fake.port
    ));
    lair.home.fake_mbsync();
    // What it leads to is held back by the throttle, as with any server.
    lair.home.settings("throttle = \"1h\"\nburst = 1\nsettle = \"10ms\"\n");
    let waiter = Running::start(lair.home.cmd(&["--wait", "--loop", "-v", "Home"]));
    waiter.wait_for("connected by", Duration::from_secs(60));
    let begun = Instant::now();
    let mut settled = 0;
    // One window and a half, so that it shows if each begins anew at once.
    while begun.elapsed() < Duration::from_secs(6) {
        std::thread::sleep(Duration::from_millis(100));
        settled = commands.load(Ordering::SeqCst);
    }
    println!("{word:?}: {settled} commands in {:?}", begun.elapsed());
    // Sixty words in ten seconds, and what each may cost: DONE, LIST and NOTIFY;
    // or EXAMINE, SEARCH, FETCH, UNSELECT, STATUS.
    assert!(settled < 20 + 60 * 8, "{word:?}: {settled} commands; {waiter}");
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.wait(Duration::from_secs(60)).code(), 143);
}
