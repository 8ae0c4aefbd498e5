//! Two machines' worth of waiters on one account and one Maildir (a home on a
//! network, each machine with state of its own): mbsync's own lock is between
//! them.

use crate::support::{QUICK, SOON, at_work, end, ms, quiet, said};
use rig::{Home, Seeded, Server, compare, count, message, process, wait_until};
use std::process::Command;
use std::thread::sleep;

#[test]
fn g2_g5_two_machines_on_one_maildir_lose_nothing_and_come_to_rest() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let machine = |state: &str| -> Command {
        let mut command = home.cmd(&["--wait", "--loop", "-v", "Home"]);
        command.env("XDG_STATE_HOME", home.path(state));
        command
    };
    let one = at_work(machine("one"), &mbsync);
    let two = at_work(machine("two"), &mbsync);
    quiet(&mbsync, ms(2000));
    let before = mbsync.runs().len();
    let mut rng = Seeded::from_env_or(20_261_129);
    // Runs that last are runs that meet.
    mbsync.after(ms(300));
    let changes = count(8, 60);
    for step in 0..changes {
        match rng.u32(..3) {
            0 => _ = imap.append("INBOX", &message("far", &format!("far {step}")), &[]),
            1 => {
                let archive = home.maildir("Home", "Archive");
                archive.add(&message("near", &format!("near {step}")), "S");
            }
            _ => {
                imap.append("Archive", &message("both", &format!("far {step}")), &[]);
                home.maildir("Home", "INBOX").add(&message("both", &format!("near {step}")), "");
            }
        }
        sleep(ms(rng.u64(..1500)));
    }
    wait_until(SOON, "both sides are equal", || compare(&mut imap, &home.mail("Home")).is_ok());
    quiet(&mbsync, ms(4000));
    compare(&mut imap, &home.mail("Home")).unwrap();
    let runs = mbsync.runs().len() - before;
    let locked = said(&one, "is locked") + said(&two, "is locked");
    println!("{changes} changes, {runs} runs, {locked} times locked out");
    // Each machine may see each change, and try again when it was locked out.
    assert!(runs <= 5 * changes, "{runs} runs for {changes} changes\n{one}\n{two}");
    for waiter in [one, two] {
        assert!(process::alive(waiter.pid()));
        end(waiter);
    }
    home.wait_no_leftovers(SOON);
}
