//! A server with any number of mailboxes, each of them empty: for what grows with their
//! number.

use crate::home::{Account, Home};
use crate::process::{Running, peak_kib, runnable, status_kib, wakeups};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The name of each mailbox by its number; `None` after the last one.
type Names = Arc<dyn Fn(usize) -> Option<String> + Send + Sync>;

const STATUS: &str = "(MESSAGES 0 UIDNEXT 1 UIDVALIDITY 3 HIGHESTMODSEQ 4)";

/// Takes any login, and has nothing in any mailbox; UIDVALIDITY is 3.
pub struct Crowd {
    port: u16,
}

impl Crowd {
    /// With these capabilities besides `IMAP4rev1`, and these mailboxes.
    pub fn start(
        capabilities: &'static str,
        names: impl Fn(usize) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let names: Names = Arc::new(names);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let names = Arc::clone(&names);
                std::thread::spawn(move || serve(&client, capabilities, &names));
            }
        });
        Crowd { port }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A home with an account on it, and no Maildir yet.
    pub fn home(&self) -> Home {
        let account = Account::fake("Home").patterns("*").port(self.port).login("user", "none");
        let home = Home::with(vec![account]);
        home.settings("throttle = \"0s\"\nsettle = \"10ms\"\nretry = \"1s\"\n");
        home
    }
}

/// The name of one of many mailboxes; INBOX is the first.
pub fn nth_mailbox(n: usize) -> String {
    if n == 0 { "INBOX".to_owned() } else { format!("lists/mailing-list-{n:05}") }
}

/// Makes so many Maildirs, each in step with [`Crowd`]'s mailbox of its name.
pub fn in_step(home: &Home, count: usize) {
    for n in 0..count {
        let maildir = home.maildir("Home", &nth_mailbox(n)).create();
        let write = |file: &str, text: &str| {
            fs::write(maildir.path().join(file), text).expect("write file");
        };
        write(".uidvalidity", "1\n0\n");
        write(
            ".mbsyncstate",
            "FarUidValidity 3\nNearUidValidity 1\nMaxPulledUid 0\nMaxPushedUid 0\n\n",
        );
    }
}

/// The most KiB that a waiter takes until `done`, and until nothing is left for it to do;
/// and how many it takes then.
pub fn memory_of_waiter(home: &Home, limit: Duration, done: impl Fn() -> bool) -> (u64, u64) {
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "Home"]));
    let (begun, mut before) = (Instant::now(), 0);
    loop {
        sleep(Duration::from_secs(1));
        let so_far = wakeups(waiter.pid());
        if so_far == before && !runnable(waiter.pid()) && done() {
            break;
        }
        before = so_far;
        assert!(waiter.runs() && begun.elapsed() < limit, "{waiter}");
    }
    let (peak, rest) = (peak_kib(waiter.pid()), status_kib(waiter.pid(), "VmRSS:"));
    waiter.signal(Signal::TERM);
    let output = waiter.wait(limit);
    assert!(peak > 0, "{output}");
    (peak, rest)
}

/// Until the client is gone.
fn serve(client: &TcpStream, capabilities: &str, names: &Names) -> Option<()> {
    let mut lines = BufReader::new(client);
    let mut out = BufWriter::with_capacity(1 << 16, client);
    write!(out, "* OK [CAPABILITY IMAP4rev1 {capabilities}] hello\r\n").ok()?;
    let (mut line, mut idle) = (String::new(), String::new());
    loop {
        // Commands come many at once.
        if lines.buffer().is_empty() {
            out.flush().ok()?;
        }
        line.clear();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let said = line.trim_end();
        let (tag, rest) = said.split_once(' ').unwrap_or((said, ""));
        let all = || (0..).map_while(|n| names(n));
        match rest.split(' ').next().unwrap_or_default() {
            "CAPABILITY" | "LOGIN" => {
                write!(out, "* CAPABILITY IMAP4rev1 {capabilities}\r\n").ok()?;
            }
            "LIST" => {
                let with_status = rest.contains("STATUS (");
                for name in all() {
                    write!(out, "* LIST () \"/\" \"{name}\"\r\n").ok()?;
                    if with_status {
                        write!(out, "* STATUS \"{name}\" {STATUS}\r\n").ok()?;
                    }
                }
            }
            "NOTIFY" if rest.contains("SET") => {
                for name in all() {
                    write!(out, "* STATUS \"{name}\" {STATUS}\r\n").ok()?;
                }
            }
            "STATUS" => {
                let name = rest.trim_start_matches("STATUS ").split(" (").next()?;
                write!(out, "* STATUS {name} {STATUS}\r\n").ok()?;
            }
            "SELECT" | "EXAMINE" => {
                let opened = "* 0 EXISTS\r\n* OK [UIDVALIDITY 3] ok\r\n* OK [UIDNEXT 1] ok\r\n\
                              * OK [HIGHESTMODSEQ 4] ok\r\n\
                              * OK [PERMANENTFLAGS (\\Seen \\*)] ok\r\n";
                out.write_all(opened.as_bytes()).ok()?;
            }
            "UID" if rest.contains("SEARCH") => {
                write!(out, "* ESEARCH (TAG \"{tag}\") UID\r\n").ok()?;
            }
            "IDLE" => {
                tag.clone_into(&mut idle);
                out.write_all(b"+ idling\r\n").ok()?;
                continue;
            }
            "" if tag == "DONE" => {
                write!(out, "{idle} OK done\r\n").ok()?;
                continue;
            }
            _ => {}
        }
        write!(out, "{tag} OK done\r\n").ok()?;
    }
}
