//! A waiter at work, and a proxy that notes when the server spoke.

use rig::{Home, Mbsync, Signal, now_ns, process, wait_until};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Settings that do not make a test wait.
pub const QUICK: &str = "throttle = \"0s\"\nsettle = \"300ms\"\n";
/// Long enough for anything that is going to happen on a busy machine, and less
/// than what comes round by itself: the backoff's 30 seconds, the sweep, the timer.
pub const SOON: Duration = Duration::from_secs(25);
/// A process that ignores TERM is given five seconds: who is gone sooner has not waited.
pub const NO_GRACE: Duration = Duration::from_millis(4500);

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A waiter. Killed with its value; what it said is shown when the test fails.
pub struct Waiter {
    pub child: Child,
    log: PathBuf,
}

impl Waiter {
    pub fn start(home: &Home, args: &[&str]) -> Waiter {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = home.path(&format!("waiter-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = home.cmd(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Waiter { child: rig::spawn(&mut command).unwrap(), log }
    }

    /// `--wait --loop -v Home`, past its first run, connected and at rest.
    #[track_caller]
    pub fn settled(home: &Home, mbsync: &Mbsync) -> Waiter {
        let waiter = Waiter::start(home, &["--wait", "--loop", "-v", "Home"]);
        waiter.wait_said("connected by", SOON);
        at_rest(home, &waiter, mbsync);
        waiter
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn count(&self, text: &str) -> usize {
        self.said().matches(text).count()
    }

    #[track_caller]
    pub fn wait_said(&self, text: &str, limit: Duration) {
        self.wait_count(text, 1, limit);
    }

    #[track_caller]
    pub fn wait_count(&self, text: &str, count: usize, limit: Duration) {
        let what = format!("{count} × {text:?} from the waiter");
        wait_until(limit, &what, || self.count(text) >= count);
    }

    /// Its end, which must come within this time.
    #[track_caller]
    pub fn end(&mut self, limit: Duration) -> ExitStatus {
        let mut ended = None;
        wait_until(limit, "the waiter ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    #[track_caller]
    pub fn stop(&mut self) {
        process::kill(self.pid(), Signal::TERM);
        let ended = self.end(SOON);
        assert_eq!(code(ended), 143);
    }
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the waiter said\n{}---", self.said());
        }
    }
}

/// Waits until the waiter has asked all that it wants to ask: it says nothing
/// for a while, no mbsync runs, and it sleeps.
#[track_caller]
pub fn at_rest(_home: &Home, waiter: &Waiter, mbsync: &Mbsync) {
    let mut last = (String::new(), Instant::now());
    wait_until(SOON * 4, "the waiter is at rest", || {
        let asked = Instant::now();
        let now = waiter.said();
        if now != last.0 || mbsync.runs().iter().any(rig::Run::alive) {
            last = (now, Instant::now());
        }
        sleep(ms(40));
        // Where we do not get on, neither does the waiter: that is no silence.
        last.1 += asked.elapsed().saturating_sub(ms(80));
        last.1.elapsed() > ms(1200) && !process::runnable(waiter.pid())
    });
}

/// After something has happened: the one run that it leads to, and what that
/// run was asked for, mailboxes in order of their names.
#[track_caller]
pub fn one_run(mbsync: &Mbsync, before: usize) -> Vec<String> {
    let runs = mbsync.wait_for_starts(before + 1, SOON);
    mbsync.wait_idle(SOON);
    let sorted = |word: &str| match word.split_once(':') {
        Some((channel, boxes)) => {
            let mut boxes: Vec<&str> = boxes.split(',').collect();
            boxes.sort_unstable();
            format!("{channel}:{}", boxes.join(","))
        }
        None => word.to_owned(),
    };
    runs[before].names().into_iter().map(sorted).collect()
}

/// A proxy that notes when the server says a line with a certain text in it.
pub struct Tap {
    pub port: u16,
    heard: Arc<Mutex<Vec<(i64, String)>>>,
}

impl Tap {
    pub fn to(port: u16) -> Tap {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let tap = Tap { port: listener.local_addr().unwrap().port(), heard: Arc::default() };
        let heard = Arc::clone(&tap.heard);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(up, server, |_| ()));
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || {
                    pass(down, client, |bytes| {
                        let text = String::from_utf8_lossy(bytes).into_owned();
                        heard.lock().unwrap().push((now_ns(), text));
                    });
                });
            }
        });
        tap
    }

    /// Whether the server said this between the two times.
    pub fn said_between(&self, text: &str, from: i64, to: i64) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.iter().any(|(at, said)| (from..to).contains(at) && said.contains(text))
    }

    /// When the server last said this before that time.
    pub fn said(&self, text: &str, before: i64) -> Option<i64> {
        let heard = self.heard.lock().unwrap();
        heard.iter().rev().find(|(at, said)| *at < before && said.contains(text)).map(|(at, _)| *at)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 65536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What a [`Mangle`] makes of a line of the client's: `Some`: this is the answer,
/// and the server never hears the line.
type Answer = dyn Fn(&str, &str) -> Option<String> + Send + Sync;
/// What it makes of a line of the server's, given whether IDLE is on: what the
/// client hears instead.
type Rewrite = dyn Fn(&str, bool) -> Option<String> + Send + Sync;

/// A proxy that makes a good server a bad one, line by line.
pub struct Mangle {
    pub port: u16,
}

impl Mangle {
    /// `answer` gets tag and command of the client's lines, `rewrite` the lines of
    /// the server.
    pub fn to(
        port: u16,
        answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
        rewrite: impl Fn(&str, bool) -> Option<String> + Send + Sync + 'static,
    ) -> Mangle {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let (answer, rewrite): (Arc<Answer>, Arc<Rewrite>) = (Arc::new(answer), Arc::new(rewrite));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let idling = Arc::new(AtomicBool::new(false));
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (mut back, mut out) = (client.try_clone().unwrap(), client);
                let (answer, idle) = (Arc::clone(&answer), Arc::clone(&idling));
                std::thread::spawn(move || {
                    let mut server = server;
                    lines(up, |line| {
                        let text = String::from_utf8_lossy(line).trim_end().to_owned();
                        let (tag, command) = text.split_once(' ').unwrap_or((&text, ""));
                        idle.store(command == "IDLE", Ordering::SeqCst);
                        match answer(tag, command) {
                            Some(said) => back.write_all(said.as_bytes()),
                            None => server.write_all(line),
                        }
                    });
                    let _ = server.shutdown(Shutdown::Both);
                });
                let rewrite = Arc::clone(&rewrite);
                std::thread::spawn(move || {
                    lines(down, |line| {
                        let text = String::from_utf8_lossy(line).into_owned();
                        match rewrite(&text, idling.load(Ordering::SeqCst)) {
                            Some(other) => out.write_all(other.as_bytes()),
                            None => out.write_all(line),
                        }
                    });
                    let _ = out.shutdown(Shutdown::Both);
                });
            }
        });
        Mangle { port: own }
    }
}

/// A proxy that lets so many connections log in at once.
pub struct Doorkeeper {
    pub port: u16,
}

impl Doorkeeper {
    pub fn before(port: u16, most: usize) -> Doorkeeper {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let inside = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let inside = Arc::clone(&inside);
                std::thread::spawn(move || {
                    if inside.fetch_add(1, Ordering::SeqCst) < most {
                        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        let _ = (client.set_nodelay(true), server.set_nodelay(true));
                        let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                        std::thread::spawn(move || pass(down, client, |_| ()));
                        pass(up, server, |_| ());
                    } else {
                        turn_away(client);
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Doorkeeper { port: own }
    }
}

/// As dovecot does beyond `mail_max_userip_connections`.
fn turn_away(client: TcpStream) {
    let mut out = client.try_clone().unwrap();
    let _ = out.write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n");
    lines(client, |line| {
        let text = String::from_utf8_lossy(line);
        let (tag, command) = text.trim_end().split_once(' ').unwrap_or_default();
        let answer = match command {
            "CAPABILITY" => format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"),
            "LOGOUT" => format!("* BYE\r\n{tag} OK done\r\n"),
            _ => format!(
                "{tag} NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded\r\n"
            ),
        };
        out.write_all(answer.as_bytes())
    });
}

fn lines(from: TcpStream, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if each(&line).is_err() {
            break;
        }
        line.clear();
    }
    let _ = from.get_ref().shutdown(Shutdown::Both);
}
