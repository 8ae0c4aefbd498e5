//! Courier. Its own daemons want to be root and have their sockets in `/run`; what they do is
//! done here: a login is read, and `imapd` gets the connection.

use super::{PASSWORD, program, unpacked, whole_day};
use rig::{Home, process};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// As Debian has it, in `/etc/courier/imapd`.
const CAPABILITY: &str = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT \
    THREAD=REFERENCES SORT QUOTA IDLE";

/// Listens, and ends with its home.
fn start(home: &Arc<Home>) -> u16 {
    let root = unpacked("courier");
    for name in ["Maildir", "Maildir/cur", "Maildir/new", "Maildir/tmp"] {
        std::fs::create_dir(home.path(name)).unwrap();
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let home = Arc::clone(home);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut imapd = program(&home, &root, "usr/bin/imapd");
            let monitor = root.join("usr/libexec");
            if monitor.exists() {
                // It finds the program of gamin there only, and without it each mailbox that
                // is opened takes a second and a half.
                let bind = "mount --bind \"$1\" /usr/libexec; shift; exec \"$@\"";
                let direct = imapd;
                imapd = program(&home, Path::new("/"), "usr/bin/unshare");
                imapd.args(["--user", "--map-root-user", "--mount", "sh", "-euc", bind, "sh"]);
                imapd.arg(monitor).arg(direct.get_program());
                let libraries = direct.get_envs().find(|(key, _)| *key == "LD_LIBRARY_PATH");
                imapd.env("LD_LIBRARY_PATH", libraries.and_then(|(_, value)| value).unwrap());
            }
            imapd.arg("Maildir").current_dir(home.path(""));
            std::thread::spawn(move || log_in(client, imapd));
        }
    });
    port
}

fn log_in(mut client: TcpStream, mut imapd: Command) {
    let _ = client
        .write_all(format!("* OK [CAPABILITY {CAPABILITY}] Courier-IMAP ready.\r\n").as_bytes());
    while let Some(line) = line(&mut client) {
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        let expected = ["LOGIN", "home", PASSWORD];
        let words: Vec<String> = command.split(' ').map(|word| word.replace('"', "")).collect();
        let answer = if words == expected {
            imapd
                .env("IMAPLOGINTAG", tag)
                .env("AUTHENTICATED", "home")
                .env("TCPREMOTEIP", "127.0.0.1")
                .env("TCPREMOTEPORT", "1")
                .env("PROTOCOL", "IMAP")
                .env("IMAP_CAPABILITY", CAPABILITY)
                .env("IMAP_KEYWORDS", "1")
                .env("IMAP_USELOCKS", "1")
                .env("IMAP_ENHANCEDIDLE", "0")
                // Without FAM it looks every so many seconds; Debian's is 60.
                .env("IMAP_IDLE_TIMEOUT", "1")
                .stdin(OwnedFd::from(client.try_clone().unwrap()))
                .stdout(OwnedFd::from(client))
                .stderr(Stdio::null());
            process::spawn(&mut imapd).unwrap().wait().unwrap();
            return;
        } else if command == "CAPABILITY" {
            format!("* CAPABILITY {CAPABILITY}\r\n{tag} OK done\r\n")
        } else {
            format!("{tag} NO Login failed.\r\n")
        };
        let _ = client.write_all(answer.as_bytes());
    }
}

/// No byte more than a line: the rest is for `imapd`.
fn line(client: &mut TcpStream) -> Option<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while client.read(&mut byte).is_ok_and(|count| count == 1) && line.len() < 1000 {
        if byte == *b"\n" {
            return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        line.push(byte[0]);
    }
    None
}

#[test]
fn g5_a_day_on_courier() {
    let home = Arc::new(Home::empty());
    let port = start(&home);
    whole_day(port, "INBOX.", "sweep = \"1s\"\nevery = \"15s\"\n", "IDLE");
}
