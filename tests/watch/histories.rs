//! Random histories: both sides change while `while mutt-sync --wait Home; do :;
//! done` is killed and started again. Equal in the end, and no run too many.

use crate::support::QUICK;
use rig::{
    Account, Home, Imap, Mbsync, Seeded, Server, ServerOptions, Signal, compare, message, process,
};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

struct Shell(Child);

impl Shell {
    fn start(home: &Home) -> Shell {
        let script = format!(
            "while '{}' --wait -v Home 2>> \"$HOME/loop.log\"; do :; done",
            rig::mutt_sync().display()
        );
        let mut command = home.command("/bin/sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Shell(rig::spawn(command.args(["-c", &script]).stdin(Stdio::null())).unwrap())
    }

    fn kill(mut self, signal: Signal) {
        process::kill_group(self.0.id(), signal);
        let _ = self.0.wait();
    }
}

/// One change on either side, of a mailbox.
fn change(rng: &mut Seeded, home: &Home, imap: &mut Imap, step: usize) {
    let name = *rng.pick(&["INBOX", "Archive", "Drafts"]);
    let maildir = home.maildir("Home", name);
    let entries = maildir.list();
    let far = imap.fetch_all(name);
    match rng.u32(..9) {
        2 => drop(maildir.add(&message("near", &format!("near {step}")), "S")),
        3 | 4 if !entries.is_empty() => {
            let entry = rng.pick(&entries).clone();
            let flags = *rng.pick(&["", "S", "FS", "RS", "F"]);
            if entry.flags != flags {
                maildir.set_flags(&entry, flags);
            }
        }
        5 if !entries.is_empty() => maildir.delete(rng.pick(&entries)),
        6 if !far.is_empty() => {
            let uid = rng.pick(&far).uid;
            imap.select(name);
            imap.add_flags(uid, &[*rng.pick(&["\\Seen", "\\Flagged", "\\Answered"])]);
            imap.unselect();
        }
        7 if !far.is_empty() => {
            let uid = rng.pick(&far).uid;
            imap.select(name);
            imap.expunge(uid);
            imap.unselect();
        }
        _ => _ = imap.append(name, &message("far", &format!("far {step}")), &[]),
    }
}

fn equal(home: &Home, imap: &mut Imap, mbsync: &Mbsync, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let compared = compare(imap, &home.mail("Home"));
        let busy = mbsync.runs().iter().any(rig::Run::alive);
        if (compared.is_ok() && !busy) || begun.elapsed() > limit {
            return compared;
        }
        sleep(Duration::from_millis(50));
    }
}

/// Histories one after the other on an account of their own; how many.
fn lane(
    server: &Server,
    lane: usize,
    seed: u64,
    histories: usize,
    until: Option<Instant>,
) -> usize {
    let user = format!("lane{lane}");
    let account = Account::on(server, "Home").login(&user, &server.password(&user));
    let home = Home::with(vec![account]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let mut imap = server.imap(&user);
    let mut rng = Seeded::from_env_or(seed + lane as u64);
    for history in 0..histories {
        // Two at the least, however slow the machine.
        if history >= 2 && until.is_some_and(|until| Instant::now() > until) {
            return history;
        }
        let runs = mbsync.runs().len();
        let mut changes = 0;
        let mut kills = 0;
        let mut shell = Some(Shell::start(&home));
        for step in 0..rng.usize(1..7) {
            sleep(Duration::from_millis(rng.u64(..1500)));
            if rng.u32(..3) == 0 {
                match shell.take() {
                    Some(running) => {
                        running.kill(*rng.pick(&[Signal::KILL, Signal::TERM, Signal::KILL]));
                        kills += 1;
                    }
                    None => shell = Some(Shell::start(&home)),
                }
            }
            change(&mut rng, &home, &mut imap, history * 100 + step);
            changes += 1;
        }
        let shell = shell.unwrap_or_else(|| Shell::start(&home));
        if let Err(diff) = equal(&home, &mut imap, &mbsync, Duration::from_secs(60)) {
            panic!("lane {lane}, history {history}: {diff}\n{}", home.read("loop.log"));
        }
        sleep(Duration::from_millis(rng.u64(800..1600)));
        shell.kill(Signal::TERM);
        // A run that was killed has to be made again.
        let runs = mbsync.runs().len() - runs;
        assert!(
            runs <= changes + kills,
            "lane {lane}, history {history}: {runs} runs for {changes} changes and {kills} kills\n{}",
            home.read("loop.log")
        );
        mbsync.assert_alone();
    }
    histories
}

#[test]
fn g2_g5_g7_random_histories() {
    const LANES: usize = 4;
    let until = (!rig::soak()).then(|| Instant::now() + Duration::from_secs(40));
    let users = (0..LANES).map(|lane| format!("lane{lane}")).collect();
    let server = Server::with(ServerOptions { users, ..ServerOptions::default() });
    let server = &server;
    let told: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|at| scope.spawn(move || lane(server, at, 20_261_123, 50, until)))
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane")).sum()
    });
    println!("{told} histories");
    assert!(told >= 2 * LANES, "only {told} histories");
}
