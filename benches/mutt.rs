//! What mutt-sync costs the user of mutt and neomutt: a key with the state in
//! the status line, a change of folder with the hook, and how soon an open
//! folder shows what a run brought. Real clients on a pseudo-terminal, beside
//! the same without it, in turns.
//!
//! Budgets: 200 keys in neomutt at most 1.5 times those without; a change of
//! the server's shown within 100 ms of the run's end.

use rig::{Home, Running, Server, Signal, count, message, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Silence after which a reaction is over.
const SILENCE: Duration = Duration::from_millis(40);
const KEYS: usize = 200;
const ROUNDS: usize = 3;

/// A client on a terminal that this process is.
struct Client {
    terminal: File,
    child: Child,
}

impl Client {
    fn start(home: &Home, program: &str, rc: &str) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&terminal).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let name = ptsname(&terminal, Vec::new()).expect("its name").into_string().expect("ASCII");
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).expect("its size");
        let end = || File::options().read(true).write(true).open(&name).expect("its other end");
        let mut command = home.command("setsid");
        command.args(["-c", program, "-n", "-F", rc]).env("TERM", "xterm");
        let child = command
            .stdin(Stdio::from(end()))
            .stdout(Stdio::from(end()))
            .stderr(Stdio::from(end()))
            .spawn()
            .expect("the client");
        Client { terminal: File::from(terminal), child }
    }

    /// Reads until it is silent for so long; when the last came.
    fn reaction(&mut self, silence: Duration) -> Instant {
        let mut last = Instant::now();
        let mut chunk = [0; 16_384];
        while self.speaks_within(silence) {
            match self.terminal.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(_) => last = Instant::now(),
            }
        }
        last
    }

    fn speaks_within(&self, silence: Duration) -> bool {
        let mut fds = [PollFd::new(&self.terminal, PollFlags::IN)];
        let limit = Timespec::try_from(silence).expect("short");
        poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("typed");
    }

    /// From a key to the last that it changes on the screen.
    fn cost(&mut self, text: &str, silence: Duration) -> Duration {
        let pressed = Instant::now();
        self.type_in(text);
        assert!(self.speaks_within(Duration::from_secs(10)), "{text:?} does nothing");
        let last = self.reaction(silence);
        last - pressed
    }

    fn leave(mut self) {
        self.type_in("x");
        let _ = self.reaction(Duration::from_millis(300));
        drop(self.terminal);
        let _ = self.child.wait();
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn prepared() -> Home {
    let home = Home::fake(&["Home", "Work"]);
    home.program("mutt-sync", "");
    let link = home.path("bin/mutt-sync");
    std::fs::remove_file(&link).expect("link");
    std::os::unix::fs::symlink(rig::mutt_sync(), link).expect("link");
    for n in 1000..1300 {
        home.maildir("Home", "INBOX").add(&message(&format!("Message {n}"), "x"), "S");
    }
    home.settings("throttle = \"1h\"\nburst = 1\n");
    home
}

fn shipped(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d").join(file).display().to_string()
}

/// The line that both files of muttrc.d show, without the state.
const PLAIN: &str =
    "-%r-%f [Msgs:%m%?n? New:%n?%?d? Del:%d?%?F? Flag:%F?%?t? Tag:%t?]---(%s)-%>-(%P)---";

fn keys() {
    let home = prepared();
    let _mbsync = home.fake_mbsync();
    home.mutt_sync(&["-a"]).ok();
    let ways = [
        ("without", format!("set status_format=\"{PLAIN}\"")),
        ("30-status-neomutt.rc", format!("source {}", shipped("30-status-neomutt.rc"))),
        ("30-status.rc", format!("source {}", shipped("30-status.rc"))),
        ("a shell that echoes", format!("set status_format=\"echo '{PLAIN}'|\"")),
    ];
    for client in ["neomutt", "mutt"] {
        let ways: Vec<_> =
            ways.iter().filter(|(name, _)| client == "neomutt" || !name.contains("neo")).collect();
        let mut clients: Vec<Client> = Vec::new();
        for (number, (_, line)) in ways.iter().enumerate() {
            let rc = home.muttrc("Home", &format!("set timeout=15 sort=subject\n{line}"));
            let own = home.path(&format!("rc{number}"));
            std::fs::rename(rc, &own).expect("rename");
            let mut client = Client::start(&home, client, own.to_str().expect("UTF-8"));
            let _ = client.reaction(Duration::from_millis(800));
            client.type_in("=");
            let _ = client.reaction(Duration::from_millis(300));
            clients.push(client);
        }
        // Ten keys in one, then in the next: each stretch gives one ratio.
        let mut stretches = vec![vec![]; ways.len()];
        for stretch in 0..KEYS / 10 * ROUNDS {
            for at in 0..ways.len() {
                let way = (stretch + at) % ways.len();
                let key = if stretch / 10 % 2 == 0 { "j" } else { "k" };
                let times = (0..10).map(|_| clients[way].cost(key, SILENCE));
                stretches[way].push(times.sum::<Duration>());
            }
        }
        clients.into_iter().for_each(Client::leave);
        println!("{KEYS} keys in {client}, {ROUNDS} times, ten at a time in turns:");
        for ((name, _), times) in ways.iter().zip(&stretches) {
            let each = times.iter().zip(&stretches[0]);
            let mut ratios: Vec<f64> =
                each.map(|(with, without)| with.as_secs_f64() / without.as_secs_f64()).collect();
            ratios.sort_by(f64::total_cmp);
            let total = times.iter().sum::<Duration>() / u32::try_from(ROUNDS).expect("few");
            let ratio = ratios[ratios.len() / 2];
            println!("  {name:22} {:8.1} ms  ({ratio:.2}, median of {})", ms(total), ratios.len());
        }
    }
}

/// All ways at once, each in a client of its own, and a change of folder in each
/// by turns: whatever else the machine does, it does to all of them.
fn folders() {
    let home = prepared();
    let _mbsync = home.fake_mbsync();
    home.mutt_sync(&["-a"]).ok();
    // As it is mostly: somebody waits, and is busy with something else.
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "Home", "Work"]));
    wait_until(Duration::from_secs(30), "a waiter", || {
        home.mutt_sync(&["--status", "Home"]).ok().stdout.contains(", watching")
    });
    let printed = home.mutt_sync(&["--muttrc"]).ok().stdout;
    let calls = |line: &&str| line.contains("mutt-sync -b 2>");
    let without: String =
        printed.lines().filter(|line| !calls(line)).flat_map(|line| [line, "\n"]).collect();
    let program = "`mutt-sync -b 2>/dev/null`";
    assert_eq!(printed.matches(program).count(), 2, "{printed}");
    let ways = [
        ("without a hook", without),
        ("sh -c 'touch F' in both", printed.replace(program, "`touch ~/F 2>/dev/null`")),
        ("mutt-sync -b in both", printed.clone()),
    ];
    for client in ["neomutt", "mutt"] {
        let mut clients: Vec<Client> = Vec::new();
        for (number, (_, text)) in ways.iter().enumerate() {
            home.write(&format!("hooks{number}"), text);
            let rc = home.muttrc("Home", &format!("source ~/hooks{number}"));
            let own = home.path(&format!("rc{number}"));
            std::fs::rename(rc, &own).expect("rename");
            let mut client = Client::start(&home, client, own.to_str().expect("UTF-8"));
            let _ = client.reaction(Duration::from_millis(800));
            clients.push(client);
        }
        let mut times = [vec![], vec![], vec![]];
        for turn in 0..count(60, 200) {
            let folder = ["Work/INBOX", "Home/Archive", "Work/Sent", "Home/Sent"][turn % 4];
            for at in 0..3 {
                let way = (turn + at) % 3;
                let keys = format!("c={folder}\r");
                times[way].push(clients[way].cost(&keys, Duration::from_millis(80)));
            }
        }
        clients.into_iter().for_each(Client::leave);
        let more = |way: usize| {
            let each = times[way].iter().zip(&times[0]);
            let mut more: Vec<f64> = each.map(|(with, without)| ms(*with) - ms(*without)).collect();
            more.sort_by(f64::total_cmp);
            more[more.len() / 2]
        };
        println!("a change of folder in {client}, {} in turns, medians:", times[0].len());
        for (way, (name, _)) in ways.iter().enumerate() {
            let whole = ms(median(times[way].clone()));
            println!("  {name:24} {whole:8.2} ms  (+{:.2} ms)", more(way));
        }
        println!("  added by mutt-sync -b: {:.2} of what touch adds", more(2) / more(1));
    }
    waiter.signal(Signal::TERM);
    waiter.wait(Duration::from_secs(20));
}

/// From the end of a run to the flag on the screen of an open folder.
fn refresh() {
    for client in ["neomutt", "mutt"] {
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        home.settings("throttle = \"1s\"\nburst = 1000\n");
        let mut imap = server.imap("home");
        let uid = imap.append("INBOX", &message("A message", "x"), &["\\Seen"]);
        home.mutt_sync(&["-f", "Home"]).ok();
        home.age();
        home.muttrc("Home", "set timeout=600 mail_check=5");
        let mut client_here = Client::start(&home, client, ".muttrc");
        let _ = client_here.reaction(Duration::from_millis(800));
        let times: Vec<f64> = (0..20)
            .map(|n| {
                imap.select("INBOX");
                if n % 2 == 0 {
                    imap.add_flags(uid, &["\\Flagged"]);
                } else {
                    imap.remove_flags(uid, &["\\Flagged"]);
                }
                imap.unselect();
                std::thread::sleep(Duration::from_millis(1100));
                let watcher = std::thread::scope(|scope| {
                    let run = scope.spawn(|| {
                        home.mutt_sync(&["-f", "Home"]).ok();
                        Instant::now()
                    });
                    assert!(
                        client_here.speaks_within(Duration::from_secs(10)),
                        "{client}: no flag"
                    );
                    let shown = client_here.reaction(SILENCE);
                    (run.join().expect("a run"), shown)
                });
                let (ended, shown) = watcher;
                // Before the process has ended, mostly.
                if shown > ended { ms(shown - ended) } else { -ms(ended - shown) }
            })
            .collect();
        client_here.leave();
        let (least, most) =
            times.iter().fold((f64::MAX, f64::MIN), |(a, b), &time| (a.min(time), b.max(time)));
        println!(
            "{client}: a flag shows {least:.1} to {most:.1} ms after the run's end (20 times)"
        );
    }
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, bench) in
        [("keys", keys as fn()), ("folders", folders as fn()), ("refresh", refresh as fn())]
    {
        if wanted.starts_with('-') || name.contains(&wanted) {
            bench();
        }
    }
}
