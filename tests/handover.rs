//! mbsync over the waiter's own connection: same results, one login.

use rig::{Home, Server, message};
use std::fs::File;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn smoke() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("throttle = \"0s\"\n");
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let log = home.path("log");
    let mut child = home
        .cmd(&["--wait", "--loop", "-v", "Home"])
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    println!("{}\n--- deliver", home.read("log"));
    imap.append("INBOX", &message("two", "body two"), &[]);
    sleep(Duration::from_secs(4));
    println!("{}\n--- read", home.read("log"));
    let inbox = home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("body two"), "S");
    sleep(Duration::from_secs(4));
    println!("{}", home.read("log"));
    rig::process::kill(child.id(), rig::Signal::TERM);
    println!("{:?}", child.wait());
    println!("{:?}", imap.fetch_all("INBOX").len());
}
