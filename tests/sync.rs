//! The main job: real mail, a real mbsync, a real server.

use rig::{Home, Server, compare, message, run};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

#[test]
fn mail_comes_and_goes() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "body one"), &[]);
    let output = run(&mut home.cmd(&["Home"]), SHORT);
    println!("{output:?}");
    compare(&mut imap, &home.mail("Home")).unwrap();
    let output = run(&mut home.cmd(&["Home:INBOX"]), SHORT);
    println!("{output:?}");
    let output = run(&mut home.cmd(&["-b", "Home"]), SHORT);
    println!("{output:?}");
}
