//! After a login the password is nowhere in the process's memory.
//!
//! The test runs itself again as the process that logs in, because only a
//! process that has never held the password otherwise can look for it in itself.
#![allow(clippy::unwrap_used, clippy::format_collect)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mutt_sync::imap::Client;
use mutt_sync::model::{CredentialSource, Server, TlsMode};
use mutt_sync::os::child::Prompt;
use mutt_sync::os::wait::Cancel;
use rig::{ServerOptions, Tls};
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;
use std::time::Duration;
use zeroize::Zeroizing;

const MASK: u8 = 0x55;

fn hidden(text: &[u8]) -> String {
    text.iter().map(|b| format!("{:02x}", b ^ MASK)).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// How often the text that is hidden in `needle` stands in this process's memory.
fn found_in_memory(needle: &[u8]) -> usize {
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let from = u64::from_str_radix(from, 16).unwrap();
        let to = u64::from_str_radix(to, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.seek(SeekFrom::Start(from)).unwrap();
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        found += bytes
            .windows(needle.len())
            .filter(|w| w.iter().zip(needle).all(|(a, b)| a ^ MASK == *b))
            .count();
        // A copy of what was read must not be found in its turn.
        bytes.fill(0);
    }
    found
}

/// The process that logs in. Does nothing in the ordinary run of this file.
#[test]
fn child() {
    let Ok(port) = std::env::var("SECRETS_PORT") else { return };
    let get = |name: &str| std::env::var(name).unwrap();
    let section = Server {
        host: Some("localhost".to_owned()),
        port: port.parse().unwrap(),
        user: Some(CredentialSource::Text(Zeroizing::new("home".to_owned()))),
        pass: Some(CredentialSource::Command(get("SECRETS_COMMAND"))),
        tls: if get("SECRETS_CA").is_empty() { TlsMode::None } else { TlsMode::Imaps },
        system_certificates: false,
        certificate_file: Some(get("SECRETS_CA").into())
            .filter(|f: &std::path::PathBuf| f.is_file()),
        auth_mechs: vec![get("SECRETS_MECH")],
        timeout: Some(Duration::from_secs(10)),
        ..Server::default()
    };
    let client = Client::open(&section, Prompt::Never, &Cancel::new().unwrap()).unwrap();
    let counts: Vec<usize> =
        get("SECRETS_NEEDLES").split(' ').map(|needle| found_in_memory(&unhex(needle))).collect();
    // What is there is found, or the test would show nothing.
    let there = unhex(&hidden(b"something that is here"));
    let plain: Vec<u8> = there.iter().map(|b| b ^ MASK).collect();
    assert!(found_in_memory(&there) > 0);
    drop(plain);
    println!("FOUND {counts:?}");
    drop(client);
}

#[test]
fn g11_the_password_is_wiped_after_login() {
    for tls in [Tls::None, Tls::Imaps] {
        let server = rig::Server::with(ServerOptions {
            tls,
            extra: "auth_mechanisms = plain login scram-sha-256".to_owned(),
            ..ServerOptions::default()
        });
        let password = server.password("home");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let encoded = STANDARD.encode(format!("\0home\0{password}"));
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, rig::Ca::shared().cert()).unwrap();
        for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-256"] {
            let out = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "login_memory::child", "--nocapture"])
                .env("SECRETS_PORT", server.port().to_string())
                .env("SECRETS_COMMAND", format!("cat {}", file.display()))
                .env("SECRETS_CA", if tls == Tls::None { "".as_ref() } else { ca.as_os_str() })
                .env("SECRETS_MECH", mechanism)
                .env(
                    "SECRETS_NEEDLES",
                    format!("{} {}", hidden(password.as_bytes()), hidden(encoded.as_bytes())),
                )
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
            assert!(said.contains("FOUND [0, 0]"), "{mechanism} over {tls:?}: {said}");
        }
    }
}
