//! Single flight, throttle and requests with real processes.

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

use super::start;
use rig::{
    Delay, Home, Mbsync, Seeded, Server, Signal, compare, count, message, now_ns, process, run,
    wait_until,
};
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);

/// All outputs, if all ended well.
#[track_caller]
fn all_well(children: Vec<Child>) -> String {
    let mut said = String::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {text}", output.status);
        said += &text;
    }
    said
}

/// Waits until this many of them wait for the lock: a thread of theirs does.
#[track_caller]
fn wait_for_waiting(children: &[Child], many: usize) {
    wait_until(LONG, &format!("{many} wait for the lock"), || {
        children.iter().filter(|child| process::threads(child.id()) > 1).count() >= many
    });
}

/// The mutt-sync processes of this home.
fn ours(home: &Home) -> Vec<u32> {
    let program = rig::mutt_sync().display().to_string();
    let is_ours = |(pid, line): (u32, String)| line.starts_with(&program).then_some(pid);
    home.leftovers().into_iter().filter_map(is_ours).collect()
}

#[test]
fn g1_g3_fifty_at_once_are_two_runs() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let children: Vec<Child> = (0..50).map(|_| start(&mut home.cmd(&["Home"]))).collect();
    // The others have made their requests by then.
    wait_for_waiting(&children, 49);
    let last_request = now_ns();
    mbsync.release();
    all_well(children);
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert!(runs[1].start > last_request);
    mbsync.assert_alone();
    assert_eq!(home.requests("Home"), [""; 0]);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn g1_g3_fifty_at_once_with_the_real_one() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let mut mbsync = home.wrap_mbsync();
    mbsync.hold_at("before");
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    let children: Vec<Child> = (0..50).map(|_| start(&mut home.cmd(&["Home"]))).collect();
    wait_for_waiting(&children, 49);
    mbsync.release();
    all_well(children);
    assert_eq!(mbsync.runs().len(), 1, "then nothing differs: {:?}", mbsync.runs());
    assert_eq!(server.logins("home"), 2, "one to look, one to look again");
    mbsync.assert_alone();
    compare(&mut server.imap("home"), &home.mail("Home")).unwrap();
}

#[test]
fn g3_g4_fifty_requests_in_five_seconds_are_a_burst_and_one() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    let begin = Instant::now();
    let mut children = Vec::new();
    for i in 0_u32..50 {
        sleep((Duration::from_millis(100) * i).saturating_sub(begin.elapsed()));
        let args: &[&str] = if i % 2 == 0 { &["Home"] } else { &["-b", "Home"] };
        children.push(start(&mut home.cmd(args)));
    }
    all_well(children);
    assert!((1..=5).contains(&mbsync.runs().len()), "{:?}", mbsync.runs());
    mbsync.assert_alone();
    // The last ones stand, and one process looks after them.
    assert_eq!(home.requests("Home"), ["*"]);
    wait_until(SHORT, "all but one are gone", || ours(&home).len() == 1);
    // Served by somebody else they are its business no more.
    let asked = now_ns();
    home.mutt_sync(&["--force", "Home"]).ok();
    assert!(mbsync.runs().last().unwrap().start > asked);
    home.wait_no_leftovers(SHORT);
    assert_eq!(home.requests("Home"), [""; 0]);
}

#[test]
fn g2_g4_throttled_requests_are_served_when_their_time_has_come() {
    let home = Home::fake(&["Home"]);
    home.settings("throttle = \"4s\"\nburst = 1\nsettle = \"0s\"");
    let mbsync = home.fake_mbsync();
    // The two clocks, the wall's and this one, may be at odds by a little.
    let begin = now_ns() - 20_000_000;
    home.mutt_sync(&["Home"]).ok();
    let output = home.mutt_sync(&["Home"]).ok();
    assert!(output.stdout.contains("rate limit; "), "{output}");
    let last_request = now_ns();
    let background = home.mutt_sync(&["-b", "Home"]).ok();
    assert!(background.stdout.starts_with("Home: queued for "), "{background}");
    assert!(background.stdout.ends_with(" s (rate limit)\n"), "{background}");
    home.wait_no_leftovers(SHORT);
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 2);
    assert!(runs[1].start > last_request && runs[1].start - begin >= 4_000_000_000);
    // Staying for it is another way.
    home.mutt_sync(&["--block", "Home"]).ok();
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 3);
    assert!(runs[2].start - begin >= 8_000_000_000);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn g1_ten_by_force_are_not_throttled() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.before(Duration::from_millis(20));
    for _ in 0..10 {
        home.mutt_sync(&["--force", "Home"]).ok();
    }
    assert_eq!(mbsync.runs().len(), 10);
    let children = (0..10).map(|_| start(&mut home.cmd(&["--force", "Home"]))).collect();
    let said = all_well(children);
    assert!(!said.contains("rate limit"), "{said}");
    let asked = now_ns();
    home.mutt_sync(&["-b", "--force", "Home"]).ok();
    home.wait_no_leftovers(SHORT);
    assert!(mbsync.runs().last().unwrap().start > asked);
    mbsync.assert_alone();
}

#[test]
fn g1_one_account_by_three_names() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("throttle = \"0s\"");
    let mut mbsync = home.wrap_mbsync();
    mbsync.after(Duration::from_millis(30));
    let mut imap = server.imap("home");
    for round in 0..count(8, 24) {
        imap.append("INBOX", &message("far", &format!("far {round}")), &[]);
        home.maildir("Home", "Sent").create().add(&message("near", &format!("near {round}")), "S");
        home.age();
        let names = ["Home", "Home-frequent", "Home:INBOX"];
        let children = names.iter().map(|name| start(&mut home.cmd(&["-v", name]))).collect();
        let said = all_well(children);
        assert!(!said.contains("is locked"), "{said}");
    }
    mbsync.assert_alone();
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert_eq!(home.maildir("Home", "INBOX").len(), count(8, 24));
    home.assert_no_leftovers();
}

#[test]
fn g2_g6_a_request_during_a_run_is_served_by_the_next() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let first = start(&mut home.cmd(&["Home"]));
    mbsync.wait_for_starts(1, SHORT);
    let second = start(&mut home.cmd(&["Home:INBOX"]));
    wait_for_waiting(std::slice::from_ref(&second), 1);
    home.mutt_sync(&["-b", "Home:Sent"]).ok();
    let asked = now_ns();
    mbsync.release();
    all_well(vec![first, second]);
    home.wait_no_leftovers(SHORT);
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!((runs[0].names(), runs[1].names()), (vec!["Home"], vec!["Home:INBOX,Sent"]));
    assert!(runs[1].start > asked && runs[1].start > runs[0].end.unwrap());
}

#[test]
fn a_touched_trigger_is_a_request_for_the_account() {
    let home = Home::fake(&["Home"]);
    let trigger = home.path("Mail/triggers/Home");
    home.settings("throttle = \"0s\"\n[account.Home]\ntrigger = \"~/Mail/triggers/Home\"");
    let mbsync = home.fake_mbsync();
    let touch = || {
        // ctime is as fine as the kernel's tick.
        sleep(Duration::from_millis(12));
        home.write("Mail/triggers/Home", "");
    };
    touch();
    let names = |at: usize| mbsync.runs()[at].names().join(" ");
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(names(0), "Home");
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(names(1), "Home:INBOX");
    touch();
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    home.wait_no_leftovers(SHORT);
    assert_eq!(names(2), "Home");
    // A time set back is a touch too.
    sleep(Duration::from_millis(12));
    let past = SystemTime::now() - Duration::from_secs(86_400);
    std::fs::File::open(trigger).unwrap().set_modified(past).unwrap();
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(names(3), "Home");
}

#[test]
fn g4_a_stamp_in_the_future_blocks_one_throttle_at_most() {
    let home = Home::fake(&["Home"]);
    home.settings("throttle = \"2s\"");
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let stamp = std::fs::File::open(home.state("Home").join("throttle")).unwrap();
    stamp.set_modified(SystemTime::now() + Duration::from_secs(86_400)).unwrap();
    // Not a day, for it is given a minute.
    home.mutt_sync(&["--block", "Home"]).ok();
    assert_eq!(mbsync.runs().len(), 2);
}

#[test]
fn g1_no_descriptor_of_ours_reaches_mbsync_or_what_it_leaves() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.daemon();
    let commands = [&["Home"][..], &["--force", "Home"], &["-b", "--force", "Home"]];
    for (before, args) in commands.into_iter().enumerate() {
        home.mutt_sync(args).ok();
        wait_until(SHORT, "its run", || mbsync.runs().len() > before);
        wait_until(SHORT, "no mutt-sync", || ours(&home).is_empty());
    }
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 3);
    for run in &runs {
        assert_eq!(run.fds.len(), 3, "{:?}", run.fds);
    }
    let daemons = home.leftovers();
    assert_eq!(daemons.len(), 3);
    for (pid, _) in daemons {
        no_lock_held_by(pid, &home);
    }
}

#[track_caller]
fn no_lock_held_by(pid: u32, home: &Home) {
    let state = home.path(".local/state");
    let ours: Vec<(i32, PathBuf)> =
        process::open_fds(pid).into_iter().filter(|(_, to)| to.starts_with(&state)).collect();
    assert!(ours.is_empty(), "{pid} {}: {ours:?}", process::command_line(pid));
}

/// mutt-sync is killed at random moments of a run, requests come in meanwhile.
fn killed_at_random(seed: u64, pass: &str, times: usize) {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::from_millis(4));
    let account = rig::Account::on(&server, "Home").port(delay.port()).pass_cmd("pass");
    let home = Home::with(vec![account]);
    home.settings(
        "throttle = \"0s\"\nretry = \"1s\"\nretry_max = \"1s\"\nstall = \"1s\"\nsettle = \"0s\"",
    );
    let password = server.password("home");
    home.program("pass", &pass.replace("SECRET", &password));
    let mbsync: Mbsync = home.exec_mbsync();
    let mut rng = Seeded::from_env_or(seed);
    let mut imap = server.imap("home");
    for round in 0..times {
        let boxes = ["INBOX", "Sent", "Archive"];
        let name = *rng.pick(&boxes);
        imap.append(name, &message("far", &format!("far {round}")), &["\\Flagged"]);
        let name = *rng.pick(&boxes);
        let near = home.maildir("Home", name).create();
        near.add(&message("near", &format!("near {round}")), "S");
        home.age();
        let in_background = rng.bool();
        let args: &[&str] = if in_background { &["-b", "Home"] } else { &["--force", "Home"] };
        let before = mbsync.runs().len();
        let mut child = start(&mut home.cmd(args));
        if in_background {
            child.wait().unwrap();
        }
        if rng.bool() {
            home.mutt_sync(&["-b", "Home:INBOX"]).ok();
        }
        // Mostly in the middle of a run.
        let patience = Instant::now();
        let mostly = rng.u32(..4) > 0;
        while mostly && mbsync.runs().len() == before && patience.elapsed().as_millis() < 500 {
            sleep(Duration::from_millis(2));
        }
        sleep(Duration::from_millis(rng.u64(..80)));
        for pid in ours(&home) {
            process::kill(pid, Signal::KILL);
        }
        child.wait().unwrap();
        mbsync.assert_alone();
    }
    let _ = std::fs::remove_file(home.path("may-hang"));
    let ours = ours(&home);
    for (pid, _) in home.leftovers().into_iter().filter(|(pid, _)| !ours.contains(pid)) {
        no_lock_held_by(pid, &home);
    }
    // One more command serves all, and is given time.
    home.settings("throttle = \"0s\"\nsettle = \"0s\"");
    home.age();
    run(&mut home.cmd(&["--force", "Home:Drafts"]), LONG).ok();
    mbsync.assert_alone();
    assert_eq!(home.requests("Home"), [""; 0]);
    // The last message may have come after the last request for all.
    home.age();
    run(&mut home.cmd(&["--force", "Home"]), LONG).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
    let messages: usize =
        ["INBOX", "Sent", "Archive"].map(|name| home.maildir("Home", name).len()).iter().sum();
    assert_eq!(messages, 2 * times, "none lost, none twice");
    println!("{times} kills, {} runs", mbsync.runs().len());
}

#[test]
fn g1_g2_kill_9_with_a_password_command_that_leaves_a_daemon() {
    killed_at_random(1, "setsid sleep 600 >/dev/null &\necho SECRET", count(12, 100));
}

#[test]
fn g1_g2_kill_9_with_a_password_command_that_hangs() {
    let pass = "if [ -e ~/may-hang ] && [ $(($(date +%N | tail -c 2) % 3)) = 0 ]; then\n\
                sleep 600\nfi\necho SECRET";
    killed_at_random(
        2,
        &format!("[ -e ~/once ] || touch ~/once ~/may-hang\n{pass}"),
        count(12, 100),
    );
}
