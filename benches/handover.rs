//! A run over the waiter's own connection, beside the same run of an mbsync that
//! connects and logs in: at several distances from the server, and for much
//! mail. Budget: 0.55 of mbsync's own time for one mailbox at 100 ms, and 0.9 of
//! its throughput.

use rig::{Account, Delay, Home, Running, Server, ServerOptions, Signal, Tls, count, message};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(900);

/// A home with a waiter that lends, or does not.
struct Bench {
    home: Home,
    waiter: Option<Running>,
    lends: bool,
}

impl Bench {
    fn new(server: &Server, port: u16, lends: bool, settle: &str) -> Self {
        let account = Account::on(server, if lends { "Home" } else { "Work" }).port(port);
        let home = Home::with(vec![account]);
        home.settings(&format!(
            "throttle = \"0s\"\nsettle = \"{settle}\"\nhandover = {lends}\nevery = \"1d\"\n"
        ));
        let mut bench = Bench { home, waiter: None, lends };
        bench.start();
        bench
    }

    fn name(&self) -> &'static str {
        if self.lends { "Home" } else { "Work" }
    }

    fn start(&mut self) {
        let command = self.home.cmd(&["--wait", "--loop", "-v", self.name()]);
        let waiter = Running::start(command);
        waiter.wait_for("connected by", LIMIT);
        self.waiter = Some(waiter);
    }

    fn stop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.signal(Signal::TERM);
            waiter.wait(LIMIT);
        }
    }

    /// Number and length of the last run.
    fn last(&self) -> (u64, Duration) {
        let text = self.home.read(&format!(".local/state/mutt-sync/{}/last.json", self.name()));
        let last: serde_json::Value = serde_json::from_str(&text).expect("last.json");
        let number = |key: &str| last[key].as_u64().expect("a number");
        assert_eq!(number("code"), 0, "{text}");
        (number("runs"), Duration::from_millis(number("took")))
    }

    /// The length of the run that follows this.
    fn run_after(&self, act: impl FnOnce()) -> Duration {
        let (before, _) = self.last();
        act();
        let start = Instant::now();
        loop {
            let (runs, took) = self.last();
            if runs > before {
                return took;
            }
            assert!(start.elapsed() < LIMIT, "no run");
            sleep(Duration::from_millis(5));
        }
    }

    fn asked_for(&self, boxes: &str) -> Duration {
        let what = format!("{}{boxes}", self.name());
        self.run_after(|| drop(self.home.mutt_sync(&["-b", &what]).ok()))
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn distances(tls: Tls) {
    let server = Server::with(ServerOptions { tls, ..ServerOptions::default() });
    for round_trip in [0, 40, 100] {
        let delay = Delay::to(server.port(), Duration::from_millis(round_trip));
        let lending = Bench::new(&server, delay.port(), true, "1ms");
        let plain = Bench::new(&server, delay.port(), false, "1ms");
        // For mbsync by hand, in nobody's way.
        let other = Home::with(vec![Account::on(&server, "Other").port(delay.port())]);
        other.mbsync(&["Other"]).ok();
        for (what, boxes) in
            [("one box", ":INBOX"), ("four boxes", ":INBOX,Archive,Drafts,Sent"), ("all", "")]
        {
            let (mut ours, mut theirs, mut alone) = (vec![], vec![], vec![]);
            for _ in 0..count(5, 15) {
                ours.push(lending.asked_for(boxes));
                theirs.push(plain.asked_for(boxes));
                let start = Instant::now();
                other.mbsync(&["-q", &format!("Other{boxes}")]).ok();
                alone.push(start.elapsed());
                // What the waiter looks at after a run is not to slow the next.
                sleep(Duration::from_millis(200 + round_trip * 8));
            }
            let (ours, theirs, alone) = (median(ours), median(theirs), median(alone));
            println!(
                "{tls:?}, {round_trip:3} ms, {what:10}: lent {ours:.0?}, plain {theirs:.0?}, \
                 mbsync alone {alone:.0?}; {:.2} of plain, {:.2} of mbsync alone",
                ratio(ours, theirs),
                ratio(ours, alone)
            );
        }
    }
}

fn much_mail() {
    let server = Server::start();
    let (pulled, pushed) = (count(3000, 30_000), count(300, 2_000));
    let mail: Vec<Vec<u8>> = (0..pulled.max(pushed))
        .map(|n| message(&format!("mail {n}"), &"a line of text\r\n".repeat(n % 200)))
        .collect();
    let mut took = vec![];
    for lends in [true, false] {
        let mut bench = Bench::new(&server, server.port(), lends, "3s");
        bench.stop();
        let mut imap = server.imap(if lends { "home" } else { "work" });
        imap.append_many("INBOX", &mail[..pulled], &[]);
        // The run follows the start: it is done when the number has changed.
        let pull = bench.last().0;
        bench.start();
        let start = Instant::now();
        while bench.last().0 == pull {
            assert!(start.elapsed() < LIMIT, "nothing was pulled");
            sleep(Duration::from_millis(5));
        }
        let pull = bench.last().1;
        assert_eq!(bench.home.maildir(bench.name(), "INBOX").len(), pulled);
        let push = bench.run_after(|| {
            let archive = bench.home.maildir(bench.name(), "Archive");
            mail[..pushed].iter().for_each(|mail| drop(archive.add(mail, "S")));
        });
        assert_eq!(imap.status("Archive").messages, pushed as u64);
        took.push((pull, push));
        bench.stop();
    }
    let [ours, plain] = took[..] else { unreachable!() };
    println!(
        "{pulled} pulled: lent {:.1?}, plain {:.1?}; throughput {:.2} of plain",
        ours.0,
        plain.0,
        ratio(plain.0, ours.0)
    );
    println!(
        "{pushed} pushed: lent {:.1?}, plain {:.1?}; throughput {:.2} of plain",
        ours.1,
        plain.1,
        ratio(plain.1, ours.1)
    );
}

fn main() {
    // `cargo bench --bench handover -- mail` is for much mail alone.
    if !std::env::args().any(|word| word == "mail") {
        distances(Tls::None);
        distances(Tls::Imaps);
    }
    much_mail();
}
