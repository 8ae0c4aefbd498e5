//! A deletion is one run of the waiter's, in either direction, and its status is
//! clean afterwards.

use crate::support::{QUICK, Waiter, at_rest, one_run};
use rig::{Account, Home, Server, message};

fn each_deletion_is_one_run(channel: &str) {
    const EACH: usize = 3;
    let server = Server::start();
    let home = Home::with(vec![Account::on(&server, "Home").channel(channel)]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    let uids: Vec<u32> = (0..=2 * EACH)
        .map(|n| imap.append("INBOX", &message(&format!("m{n}"), &format!("body {n}")), &[]))
        .collect();
    let waiter = Waiter::settled(&home, &mbsync);
    let inbox = home.maildir("Home", "INBOX");
    let start = mbsync.runs().len();
    for (n, uid) in uids.iter().enumerate().take(2 * EACH) {
        let before = mbsync.runs().len();
        if n % 2 == 0 {
            inbox.delete(&inbox.find(&format!("body {n}")));
        } else {
            imap.select("INBOX");
            imap.expunge(*uid);
            imap.unselect();
        }
        assert_eq!(one_run(&mbsync, before), ["Home:INBOX"]);
        at_rest(&home, &waiter, &mbsync);
        assert_eq!(waiter.count("Home: INBOX 1 gone, "), n + 1, "{}", waiter.said());
        let status = home.mutt_sync(&["--status", "Home"]).ok().stdout;
        assert!(status.starts_with("Home: in sync ("), "{status}");
    }
    let runs = mbsync.runs().len() - start;
    println!("{runs} runs for {} deletions", 2 * EACH);
    assert_eq!(runs, 2 * EACH, "{}", waiter.said());
    let all = imap.fetch_all("INBOX");
    let far: Vec<u32> =
        all.iter().filter(|each| !each.letters().contains('T')).map(|each| each.uid).collect();
    let near: Vec<_> = inbox.list().into_iter().filter(|each| !each.flags.contains('T')).collect();
    assert_eq!((far, near.len()), (vec![uids[2 * EACH]], 1));
}

#[test]
fn each_deletion_is_one_run_of_the_waiter() {
    each_deletion_is_one_run("Create Both\nExpunge Both");
}

#[test]
fn each_deletion_is_one_run_of_the_waiter_without_expunge() {
    each_deletion_is_one_run("Create Both");
}
