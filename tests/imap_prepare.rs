//! Connectors made ahead, in a process with one thread: the system's certificates
//! are looked up when needed, and nothing of how that is done is left behind.
//!
//! Without the usual harness, which starts threads: this file's own `main` runs
//! itself again as the process to be looked at.
#![allow(clippy::unwrap_used)]

use mutt_sync::error::ExitStatus;
use mutt_sync::imap::{Client, tls};
use mutt_sync::model::{CredentialSource, Server, TlsMode};
use mutt_sync::os::wait::Cancel;
use rig::{ServerOptions, Tls};
use std::process::Command;
use std::time::Duration;
use zeroize::Zeroizing;

fn section(port: u16, ca: Option<&str>) -> Server {
    let text = |text: &str| Some(CredentialSource::Text(Zeroizing::new(text.to_owned())));
    Server {
        host: Some("localhost".to_owned()),
        port,
        user: text("home"),
        pass: text("secret-of-home"),
        tls: TlsMode::Imaps,
        certificate_file: ca.map(Into::into),
        auth_mechs: vec!["*".to_owned()],
        timeout: Some(Duration::from_secs(60)),
        ..Server::default()
    }
}

/// The process to be looked at: logs in, and says how much memory is its own.
fn child(how: &str, port: &str, ca: &str) {
    let section = section(port.parse().unwrap(), Some(ca));
    let mut unknown = section.clone();
    unknown.certificate_file = None;
    if how == "prepared" {
        tls::prepare([&section, &unknown]);
    }
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        assert_eq!(std::env::var_os(name), None);
    }
    let link = Client::open(&section, false, &Cancel::new().unwrap()).unwrap();
    println!("{}", rig::process::private_kib(std::process::id()));
    drop(link);
    // Who is not known is refused, by directory and bundle alike.
    let refused = Client::open(&unknown, false, &Cancel::new().unwrap()).map(|_| ()).unwrap_err();
    assert_eq!(refused.exit, ExitStatus::Denied, "{refused}");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, how, port, ca] = &args[..] {
        if ["prepared", "unprepared"].contains(&how.as_str()) {
            return child(how, port, ca);
        }
    }
    let server = rig::Server::with(ServerOptions { tls: Tls::Imaps, ..ServerOptions::default() });
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, rig::Ca::shared().cert()).unwrap();
    let memory = ["prepared", "unprepared"].map(|how| {
        let out = Command::new(&args[0])
            .args([how, &server.port().to_string()])
            .arg(&ca)
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        assert!(out.status.success(), "{how}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().parse::<u64>().unwrap()
    });
    let [prepared, unprepared] = memory;
    println!("private memory: {prepared} KiB prepared, {unprepared} KiB not");
    assert!(prepared + 1000 < unprepared, "{prepared} {unprepared}");
    assert_eq!(server.logins("home"), 2);
}
