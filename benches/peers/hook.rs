//! What a folder-hook costs: mutt runs its command by `sh -c` and waits.
//!
//! All in turns, in one run. Nothing is synced by them here, but for `mbsync -a`,
//! whose time that is.

use crate::change::fill;
use crate::contender::{Contender, Kind};
use crate::table::Table;
use crate::{Asked, BOXES, DISTANCE, SOON};
use fs2::FileExt as _;
use rig::{Home, Server, ServerOptions, Signal, Tls, process};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.status().expect("sh runs");
    let took = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn milliseconds(mut times: Vec<Duration>) -> String {
    times.sort();
    let at =
        |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("{:.1} ms, {:.1} ms", at(50), at(95))
}

/// One row: median and 95th percentile.
pub fn measure(asked: &Asked, table: &mut Table) {
    let home = Home::fake(&["Home"]);
    let _mbsync = home.fake_mbsync();
    home.settings("throttle = \"0s\"\nsettle = \"0s\"");
    home.mutt_sync(&["-a"]).ok();
    let by_shell = |text: &str| {
        let mut command = home.command("/bin/sh");
        command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    // As a waiter has it: the request is left for that.
    let waiter = File::create(home.state("Home").join("waiter.lock")).expect("lock file");
    waiter.lock_exclusive().expect("lock");
    home.write("Mail/triggers/Home", "");
    // In offlineimap's place: what takes its signal and lives on.
    let mut target = home
        .command("/bin/sh")
        .args(["-c", "trap '' USR1; exec sleep 1000"])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh runs");
    home.write(".offlineimap/pid", &format!("{}\n", target.id()));
    std::thread::sleep(Duration::from_millis(200));
    let mut ours = by_shell(&format!("'{}' -b Home", rig::mutt_sync().display()));
    let mut touch = by_shell("touch \"$HOME/Mail/triggers/Home\"");
    let mut signal = by_shell("kill -USR1 \"$(cat ~/.offlineimap/pid)\"");
    let (mut quick, mut turns) = ([Vec::new(), Vec::new(), Vec::new()], Vec::new());
    for round in 0..asked.count(200, 50, 2000) + 5 {
        let times = [&mut ours, &mut touch, &mut signal].map(time);
        // The first ones fill caches.
        if round >= 5 {
            for (all, time) in quick.iter_mut().zip(times) {
                all.push(time);
            }
        }
    }
    process::kill_group(target.id(), Signal::KILL);
    let _ = target.wait();
    let options = ServerOptions {
        users: vec!["home".to_owned()],
        boxes: BOXES[1..].iter().map(ToString::to_string).collect(),
        tls: Tls::Imaps,
        ..ServerOptions::default()
    };
    let server = Server::with(options);
    fill(&server, "home", &BOXES);
    let cron = Contender::new(Kind::Cron, &server, "home", &BOXES, Some(DISTANCE));
    cron.first_sync(SOON);
    for _ in 0..asked.count(10, 5, 50) {
        let begun = Instant::now();
        cron.first_sync(SOON);
        turns.push(begun.elapsed());
    }
    let [ours, touch, signal] = quick.map(milliseconds);
    table.row("median, 95th percentile", vec![ours, touch, milliseconds(turns), signal]);
    table.row(
        "the command",
        ["`mutt-sync -b Home`", "`touch` the trigger", "`mbsync -q -a`", "`kill -USR1`"]
            .map(str::to_owned)
            .to_vec(),
    );
}
