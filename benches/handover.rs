//! A run over the waiter's own connection, beside the same run of an mbsync that
//! connects and logs in: at several distances from the server, and for much
//! mail. Budget: 0.55 of mbsync's own time for one mailbox at 100 ms, and 0.9 of
//! its throughput. With `OLDER=PATH/mutt-sync`, a waiter of that version lends beside.

use rig::{
    Account, Delay, Home, Imap, Maildir, Running, Server, ServerOptions, Signal, Tls, count,
    message, real_mbsync,
};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(900);

/// A home with a waiter that lends, or does not.
struct Bench {
    /// Asks for a run, whatever differs.
    full: &'static [&'static str],
    home: Home,
    waiter: Option<Running>,
    lends: bool,
}

impl Bench {
    fn new(server: &Server, port: u16, lends: bool, settle: &str, patterns: &str) -> Self {
        Bench::with(rig::mutt_sync(), server, port, lends, settle, patterns)
    }

    /// With this mutt-sync.
    fn with(
        program: &Path,
        server: &Server,
        port: u16,
        lends: bool,
        settle: &str,
        patterns: &str,
    ) -> Self {
        let account = Account::on(server, if lends { "Home" } else { "Work" }).port(port);
        let mut home = Home::with(vec![account.patterns(patterns)]);
        home.use_mutt_sync(program);
        home.settings(&format!(
            "throttle = \"0s\"\nsettle = \"{settle}\"\nhandover = {lends}\nevery = \"1d\"\nmbsync = \"{}\"\n",
            real_mbsync().display()
        ));
        // 0.1.0 runs mbsync for every request.
        let full: &[&str] = if program == rig::mutt_sync() { &["-b", "--full"] } else { &["-b"] };
        let mut bench = Bench { full, home, waiter: None, lends };
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
        let asked = [self.full, &[&what]].concat();
        self.run_after(|| drop(self.home.mutt_sync(&asked).ok()))
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
        let lending = Bench::new(&server, delay.port(), true, "1ms", "*");
        let plain = Bench::new(&server, delay.port(), false, "1ms", "*");
        let older = rig::older_mutt_sync()
            .map(|program| Bench::with(&program, &server, delay.port(), true, "1ms", "*"));
        // For mbsync by hand, in nobody's way.
        let other = Home::with(vec![Account::on(&server, "Other").port(delay.port())]);
        let by_hand = |args: &[&str]| {
            rig::run(other.command(real_mbsync()).arg("-q").args(args), Duration::from_secs(60))
                .ok();
        };
        by_hand(&["Other"]);
        for (what, boxes) in
            [("one box", ":INBOX"), ("four boxes", ":INBOX,Archive,Drafts,Sent"), ("all", "")]
        {
            let (mut ours, mut theirs, mut alone, mut before) = (vec![], vec![], vec![], vec![]);
            for _ in 0..count(5, 15) {
                ours.push(lending.asked_for(boxes));
                theirs.push(plain.asked_for(boxes));
                before.extend(older.as_ref().map(|older| older.asked_for(boxes)));
                let start = Instant::now();
                by_hand(&[&format!("Other{boxes}")]);
                alone.push(start.elapsed());
                // What the waiter looks at after a run is not to slow the next.
                sleep(Duration::from_millis(200 + round_trip * 8));
            }
            let (ours, theirs, alone) = (median(ours), median(theirs), median(alone));
            let beside = match before {
                none if none.is_empty() => String::new(),
                before => format!("; older: lent {} ms", median(before).as_millis()),
            };
            println!(
                "{tls:?}, {round_trip:3} ms, {what:10}: lent {} ms, plain {} ms, \
                 mbsync alone {} ms; {:.2} of plain, {:.2} of mbsync alone{beside}",
                ours.as_millis(),
                theirs.as_millis(),
                alone.as_millis(),
                ratio(ours, theirs),
                ratio(ours, alone)
            );
        }
    }
}

/// Kilobytes that the process alone has.
fn private(pid: u32) -> u64 {
    rig::process::memory_kib(pid, "RssAnon:")
}

/// The mailbox that the others are copied from; never synced.
const SOURCE: &str = "Source";

impl Bench {
    /// One first sync of a mailbox full of mail, one of a mailbox whose mail is all
    /// here: how long each took.
    fn pass(
        &mut self,
        imap: &mut Imap,
        number: usize,
        pulled: usize,
        push: &[Vec<u8>],
    ) -> [Duration; 2] {
        let (down, up) = (format!("Down{number}"), format!("Up{number}"));
        self.stop();
        imap.create(&down);
        imap.select(SOURCE);
        imap.raw(&format!("UID COPY 1:* {down}"));
        imap.unselect();
        // It is only on the server: the run for it follows the connection.
        let (before, _) = self.last();
        self.start();
        let start = Instant::now();
        while self.last().0 == before {
            assert!(start.elapsed() < LIMIT, "nothing was pulled");
            sleep(Duration::from_millis(5));
        }
        let pull = self.last().1;
        assert_eq!(self.home.maildir(self.name(), &down).len(), pulled);
        let outside = Maildir::at(self.home.path("outside")).create();
        for mail in push {
            outside.add(mail, "S");
        }
        outside.age();
        let place = self.home.maildir(self.name(), &up);
        let push_time =
            self.run_after(|| std::fs::rename(outside.path(), place.path()).expect("rename"));
        assert_eq!(imap.status(&up).messages, push.len() as u64);
        let waiter = self.waiter.as_ref().expect("it waits");
        let said = waiter.stderr();
        let lent = said.matches(", over the connection that is open").count();
        assert!(!said.contains("not over the connection"), "{waiter}");
        assert_eq!(lent > 0, self.lends, "{waiter}");
        println!(
            "    {}: {pulled} pulled in {pull:.1?}, {} pushed in {push_time:.1?}; {} kB private",
            if self.lends { "lent " } else { "plain" },
            push.len(),
            private(waiter.pid()),
        );
        self.stop();
        for name in [down, up] {
            imap.delete(&name);
            std::fs::remove_dir_all(self.home.maildir(self.name(), &name).path()).expect("remove");
        }
        [pull, push_time]
    }
}

/// In turns, for nobody else on the machine keeps still; each pass gives one ratio.
fn much_mail(tls: Tls) {
    let server = Server::with(ServerOptions { tls, ..ServerOptions::default() });
    let (pulled, pushed) = (count(3000, 30_000), count(300, 2_000));
    let mail: Vec<Vec<u8>> = (0..pulled.max(pushed))
        .map(|n| message(&format!("mail {n}"), &"a line of text\r\n".repeat(n % 200)))
        .collect();
    let mut benches = [true, false].map(|lends| {
        let mut imap = server.imap(if lends { "home" } else { "work" });
        imap.create(SOURCE);
        imap.append_many(SOURCE, &mail[..pulled], &[]);
        (Bench::new(&server, server.port(), lends, "1ms", "* !Source"), imap)
    });
    println!("{tls:?}: much mail, each time anew");
    let mut ratios = [vec![], vec![]];
    for number in 0..count(7, 7) {
        let mut took = [[Duration::ZERO; 2]; 2];
        for turn in 0..2 {
            let at = (number + turn) % 2;
            let (bench, imap) = &mut benches[at];
            took[at] = bench.pass(imap, number, pulled, &mail[..pushed]);
        }
        for (way, ratios) in ratios.iter_mut().enumerate() {
            ratios.push(ratio(took[1][way], took[0][way]));
        }
    }
    for (what, mut ratios) in ["pulled", "pushed"].iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        println!(
            "{tls:?}: {what}: throughput lent {:.2} of plain (median of {}; {:.2} to {:.2})",
            ratios[ratios.len() / 2],
            ratios.len(),
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
}

fn main() {
    // `cargo bench --bench handover -- mail` is for much mail alone, `distances` for the rest.
    let told = |what: &str| std::env::args().any(|word| word == what);
    if !told("mail") {
        distances(Tls::None);
        distances(Tls::Imaps);
    }
    if !told("distances") {
        much_mail(Tls::None);
        much_mail(Tls::Imaps);
    }
}
