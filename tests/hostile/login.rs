//! Logins: what is said by each mechanism, to whom it is not said, and what a
//! refusal means.

use crate::library::Served;
use crate::server::{PASSWORD, Peer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mutt_sync::error::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn an_unencrypted_login_needs_the_files_word() {
    let mut fake = Served::start(|peer| {
        peer.say("* OK [CAPABILITY IMAP4rev1] hello\r\n");
        while let Some(line) = peer.hear() {
            let tag = line.split(' ').next().unwrap_or_default().to_owned();
            peer.say(format!("{tag} OK done\r\n"));
        }
    });
    fake.section.auth_mechs = vec!["*".to_owned()];
    assert_eq!(fake.refusal().status, ExitStatus::Denied);
    assert_eq!(fake.heard(), "");
    fake.section.auth_mechs = vec!["LOGIN".to_owned()];
    // A server that says nothing of itself can do nothing.
    assert_eq!(fake.open().unwrap().capabilities().words(), [] as [&str; 0]);
    assert!(fake.heard().starts_with(&format!("l1 LOGIN \"user\" \"{PASSWORD}\"\r\n")));
}

/// A server that offers `mechs` and lets `act` answer AUTHENTICATE.
fn sasl(mechs: &'static str, act: impl Fn(&mut Peer, &str) + Send + Sync + 'static) -> Served {
    Served::start(move |peer| {
        peer.say(format!("* OK [CAPABILITY IMAP4rev1 {mechs}] hello\r\n"));
        while let Some(line) = peer.hear() {
            if line.contains("AUTHENTICATE") {
                act(peer, &line);
            } else {
                let tag = line.split(' ').next().unwrap_or_default().to_owned();
                peer.say(format!("* CAPABILITY IMAP4rev1 IDLE\r\n{tag} OK done\r\n"));
            }
        }
    })
}

#[test]
fn tokens_are_sent_as_the_mechanism_requires_and_refusals_are_answered() {
    for (name, wanted) in [
        ("XOAUTH2", format!("user=user\x01auth=Bearer {PASSWORD}\x01\x01")),
        (
            "OAUTHBEARER",
            format!("n,a=user,\x01host=127.0.0.1\x01port=PORT\x01auth=Bearer {PASSWORD}\x01\x01"),
        ),
    ] {
        for initial in [true, false] {
            let mechs = match (name, initial) {
                ("XOAUTH2", true) => "SASL-IR AUTH=XOAUTH2",
                ("XOAUTH2", false) => "AUTH=XOAUTH2",
                (_, true) => "SASL-IR AUTH=OAUTHBEARER",
                (_, false) => "AUTH=OAUTHBEARER",
            };
            for accept in [true, false] {
                let said = Arc::new(Mutex::new(String::new()));
                let kept = said.clone();
                let mut fake = sasl(mechs, move |peer, line| {
                    let mut last = line.rsplit(' ').next().unwrap_or_default().to_owned();
                    if !initial {
                        peer.say("+ \r\n");
                        last = peer.hear().unwrap_or_default();
                    }
                    *kept.lock().unwrap() = last;
                    if accept {
                        peer.say("l1 OK [CAPABILITY IMAP4rev1 IDLE] in\r\n");
                    } else {
                        peer.say("+ eyJzdGF0dXMiOiI0MDEifQ==\r\n");
                        let answer = peer.hear().unwrap_or_default();
                        assert!(answer.is_empty() || answer == "AQ==", "{answer}");
                        peer.say("l1 NO [AUTHENTICATIONFAILED] expired\r\n");
                    }
                });
                fake.section.auth_mechs = vec![name.to_owned()];
                let came = fake.open();
                let wanted = wanted.replace("PORT", &fake.section.port.to_string());
                assert_eq!(STANDARD.decode(&*said.lock().unwrap()).unwrap(), wanted.as_bytes());
                match came {
                    Ok(client) => assert!(accept && client.capabilities().idle()),
                    Err(failure) => {
                        assert!(!accept);
                        assert_eq!(failure.status, ExitStatus::Denied);
                        assert!(failure.to_string().contains("fresh token"), "{failure}");
                        assert!(!failure.to_string().contains(PASSWORD));
                    }
                }
            }
        }
    }
}

#[test]
fn a_scram_server_that_does_not_know_the_password_is_left() {
    for last in ["l1 OK in\r\n", "+ dj1BQUFB\r\n", "+ \r\n", "l1 NO no\r\n", "+ ####\r\n"] {
        let mut fake = sasl("AUTH=SCRAM-SHA-256", move |peer, _| {
            peer.say("+ \r\n");
            let first = STANDARD.decode(peer.hear().unwrap_or_default()).unwrap();
            let first = String::from_utf8(first).unwrap();
            let nonce = first.rsplit("r=").next().unwrap();
            peer.say(format!(
                "+ {}\r\n",
                STANDARD.encode(format!("r={nonce}xyz,s=QSXCR+Q6sek8bf92,i=4096"))
            ));
            let _ = peer.hear();
            peer.say(last);
        });
        fake.section.auth_mechs = vec!["SCRAM-SHA-256".to_owned()];
        let failure = fake.refusal();
        assert_eq!(failure.status, ExitStatus::Denied, "{last}: {failure}");
        assert!(!fake.heard_password());
    }
    // An iteration count that would keep us for hours.
    let mut fake = sasl("AUTH=SCRAM-SHA-1", |peer, _| {
        peer.say("+ \r\n");
        let first = STANDARD.decode(peer.hear().unwrap_or_default()).unwrap();
        let first = String::from_utf8(first).unwrap();
        let nonce = first.rsplit("r=").next().unwrap();
        peer.say(format!("+ {}\r\n", STANDARD.encode(format!("r={nonce}xyz,s=QSXC,i=4294967295"))));
    });
    fake.section.auth_mechs = vec!["SCRAM-SHA-1".to_owned()];
    let begun = Instant::now();
    assert_eq!(fake.refusal().status, ExitStatus::Denied);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn accepted_and_refused_commands_are_distinguished() {
    for (answer, exit) in [
        ("l1 NO [UNAVAILABLE] later\r\n", ExitStatus::Later),
        ("l1 NO [INUSE] later\r\n", ExitStatus::Later),
        ("l1 NO [LIMIT] later\r\n", ExitStatus::Later),
        ("l1 NO [ALERT] Too many simultaneous connections. (Failure)\r\n", ExitStatus::Later),
        ("l1 NO [AUTHENTICATIONFAILED] no\r\n", ExitStatus::Denied),
        ("l1 NO no\r\n", ExitStatus::Denied),
        ("l1 BAD no\r\n", ExitStatus::Denied),
        ("* BYE [UNAVAILABLE] later\r\n", ExitStatus::Later),
        ("* BYE go away\r\n", ExitStatus::Offline),
    ] {
        let fake = sasl("AUTH=PLAIN SASL-IR", move |peer, _| {
            peer.say(answer);
        });
        assert_eq!(fake.refusal().status, exit, "{answer}");
    }
}
