//! The disk with the mail is not mounted: nothing is deleted on the server, and nothing
//! is downloaded into the empty mount point.

use crate::mounts::Mounts;
use rig::{Account, Home, Maildir, Server, message, run};
use std::time::Duration;

#[test]
fn g14_a_store_that_is_not_mounted_is_left_alone() {
    for state in ["", "SyncState ~/state-\n"] {
        let server = Server::start();
        let channel = format!("Create Both\nExpunge Both\n{state}");
        let home = Home::with(vec![Account::on(&server, "Home").channel(&channel)]);
        home.settings("throttle = \"0s\"\n");
        let mut imap = server.imap("home");
        imap.append_many("INBOX", &[message("one", "first"), message("two", "second")], &[]);
        imap.create("Archive");
        imap.append("Archive", &message("three", "third"), &[]);
        let mounts = Mounts::new(&home);
        let store = home.path("Mail");
        mounts.small_disk(&store, 4096, 500);
        std::fs::create_dir_all(mounts.path(&store.join("Home"))).unwrap();
        mounts.mutt_sync(&["Home"]).ok();
        let inbox = || Maildir::at(mounts.path(&store.join("Home/INBOX")));
        assert_eq!(inbox().len(), 2);
        run(mounts.command("mount").args(["--move"]).arg(&store).arg(aside(&home)), SOON).ok();
        // As it is when nothing is mounted there.
        std::fs::create_dir_all(store.join("Home")).unwrap();
        let out = mounts.mutt_sync(&["Home"]).expect_code(1);
        assert!(out.stderr.contains("Home:INBOX: held: its Maildir is gone"), "{}", out.stderr);
        mounts.mutt_sync(&["--full", "Home"]).expect_code(0);
        mounts.mutt_sync(&["-a"]).expect_code(0);
        assert!(!inbox().exists(), "{state}: downloaded");
        assert_eq!(imap.status("INBOX").messages, 2);
        imap.append("INBOX", &message("four", "fourth"), &[]);
        run(mounts.command("mount").args(["--move"]).arg(aside(&home)).arg(&store), SOON).ok();
        let status = mounts.mutt_sync(&["--status", "Home"]).ok().stdout;
        assert!(!status.contains("held"), "{status}");
        mounts.mutt_sync(&["Home"]).ok();
        assert_eq!(inbox().len(), 3);
    }
}

const SOON: Duration = Duration::from_secs(20);

fn aside(home: &Home) -> std::path::PathBuf {
    let aside = home.path("aside");
    std::fs::create_dir_all(&aside).unwrap();
    aside
}
