//! inotify that has run out, or that tells nothing.

use crate::mounts::Mounts;
use crate::support::{QUICK, SOON, at_work, end, ms, quiet, said};
use rig::{Home, Server, compare, message, run, wait_until};
use std::time::Instant;

/// The namespace's own limits, for its processes only.
fn limit(mounts: &Mounts<'_>, what: &str, most: u32) {
    let script = format!("echo {most} > /proc/sys/user/max_inotify_{what}");
    run(mounts.command("sh").args(["-c", &script]), SOON).ok();
}

fn scans_instead(what: &str, most: u32) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let mut imap = server.imap("home");
    let mounts = Mounts::new(&home);
    limit(&mounts, what, most);
    let waiter = at_work(mounts.cmd(&["--wait", "--loop", "-v", "Home"]), &mbsync);
    let sysctl = format!("fs.inotify.max_user_{what}");
    assert_eq!(said(&waiter, &sysctl), 1, "{waiter}");
    // The server is heard all the same; here it looks now and then.
    imap.append("INBOX", &message("far", "far"), &[]);
    wait_until(SOON, "what came", || home.maildir("Home", "INBOX").len() == 1);
    quiet(&mbsync, ms(1500));
    let runs = mbsync.runs().len();
    home.maildir("Home", "Archive").add(&message("near", "near"), "S");
    mounts.mutt_sync(&["-b", "Home:Sent"]).ok();
    wait_until(SOON, "both sides are equal, and the request is served", || {
        compare(&mut imap, &home.mail("Home")).is_ok() && home.requests("Home").is_empty()
    });
    quiet(&mbsync, ms(1500));
    assert!(mbsync.runs().len() - runs <= 2, "{waiter}");
    assert_eq!(said(&waiter, &sysctl), 1, "said once: {waiter}");
    // So is a mailbox that is made, and the limit is named with it.
    let club = home.maildir("Home", "Club").create();
    club.add(&message("near", "club"), "S");
    wait_until(SOON, "the new mailbox", || imap.list().contains(&"Club".to_owned()));
    quiet(&mbsync, ms(1500));
    let before = said(&waiter, &sysctl);
    // An edited configuration is found as the mail is.
    home.write(".mbsyncrc", &format!("{}# edited\n", home.read(".mbsyncrc")));
    waiter.wait_for("the configuration has changed", SOON);
    wait_until(SOON, "it begins again, as unwatched as before", || said(&waiter, &sysctl) > before);
    // There are means again.
    limit(&mounts, what, 1000);
    waiter.wait_for("inotify works again", SOON);
    quiet(&mbsync, ms(1500));
    let runs = mbsync.runs().len();
    home.maildir("Home", "Archive").add(&message("near", "near two"), "S");
    let since = Instant::now();
    mbsync.wait_for_starts(runs + 1, SOON);
    println!("{what}: heard after {:?}", since.elapsed());
    assert!(waiter.stderr().contains("Archive: to push: 1 new"), "{waiter}");
    quiet(&mbsync, ms(1500));
    compare(&mut imap, &home.mail("Home")).unwrap();
    end(waiter);
}

#[test]
fn g2_g7_without_inotify_watches_the_waiter_polls_and_names_the_limit() {
    scans_instead("watches", 2);
}

#[test]
fn g2_g7_without_inotify_instances_the_waiter_polls_and_names_the_limit() {
    scans_instead("instances", 0);
}

/// The watches of before are enough for the mailboxes of now, but not beside the new ones.
fn keeps_watching(what: &str, most: u32) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let mounts = Mounts::new(&home);
    let waiter = at_work(mounts.cmd(&["--wait", "--loop", "-v", "Home"]), &mbsync);
    limit(&mounts, what, most);
    let club = home.maildir("Home", "Club").create();
    club.add(&message("one", "one"), "S");
    let mut imap = server.imap("home");
    wait_until(SOON, "the new mailbox", || imap.list().contains(&"Club".to_owned()));
    quiet(&mbsync, ms(1500));
    club.add(&message("two", "two"), "S");
    wait_until(SOON, "what changed in it", || imap.fetch_all("Club").len() == 2);
    assert_eq!(said(&waiter, "fs.inotify."), 0, "{waiter}");
    end(waiter);
}

#[test]
fn g2_g7_new_watches_need_no_room_beside_the_old_ones() {
    keeps_watching("watches", 30);
}

#[test]
fn g2_g7_new_watches_need_no_instances_beside_the_old_ones() {
    keeps_watching("instances", 3);
}

/// Mail that comes by a way that notifies nobody, as on a network file system:
/// here below an overlay.
#[test]
fn g7_what_inotify_does_not_report_is_found_by_the_timer() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{QUICK}every = \"4s\"\n"));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let mounts = Mounts::new(&home);
    let at = |name: &str| {
        std::fs::create_dir_all(home.path(name)).unwrap();
        home.path(name).display().to_string()
    };
    let (lower, upper, work) = (at("lower"), at("upper"), at("work"));
    let options = format!("userxattr,lowerdir={lower},upperdir={upper},workdir={work}");
    mounts.mount(&["-t", "overlay", "-o", &options, "none"], &home.mail("Home"));
    imap.append("Archive", &message("far", "far"), &[]);
    let waiter = at_work_once(&mounts, &mbsync);
    let below = rig::Maildir::at(home.path("upper/Archive"));
    assert_eq!(below.len(), 1, "{waiter}");
    below.add(&message("near", "near"), "S");
    wait_until(SOON, "the server has it", || imap.fetch_all("Archive").len() == 2);
    assert_eq!(said(&waiter, "Archive: touched"), 0, "nothing was heard: {waiter}");
    assert!(said(&waiter, "everything is to be compared") >= 1, "{waiter}");
    end(waiter);
}

/// The timer runs so often that there is no rest to wait for.
fn at_work_once(mounts: &Mounts<'_>, mbsync: &rig::Mbsync) -> rig::Running {
    let waiter = rig::Running::start(mounts.cmd(&["--wait", "--loop", "-v", "Home"]));
    waiter.wait_for("connected by", SOON);
    mbsync.wait_for_starts(1, SOON);
    mbsync.wait_idle(SOON);
    waiter.wait_for("Trash: in sync with the server", SOON);
    waiter
}
