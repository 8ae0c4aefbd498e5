//! What stands between a password and the wrong ears: TLS that must come, and
//! certificates that must hold.

use crate::library::Served;
use crate::program::Lair;
use crate::server::{Fake, PASSWORD, Peer, acceptor, holds_password};
use mutt_sync::error::ExitStatus;
use mutt_sync::model::TlsMode;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use rig::{Ca, Certificate, Running, Signal, run};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_server_in_the_clear_is_not_believed_when_it_claims_to_know_us() {
    let fake = Served::start(|peer| {
        peer.say("* PREAUTH hello\r\n");
        peer.wait_for_end();
    });
    let failure = fake.refusal();
    assert_eq!(failure.status, ExitStatus::Denied);
    assert!(failure.to_string().contains("PREAUTH"), "{failure}");
    let mut fake = fake;
    fake.section.tls = TlsMode::StartTls;
    let failure = fake.refusal();
    assert_eq!(failure.status, ExitStatus::Denied);
    assert!(failure.to_string().contains("STARTTLS"), "{failure}");
    assert_eq!(fake.heard(), "");
}

#[test]
fn starttls_is_neither_stripped_nor_injected() {
    for answer in [
        "s1 NO no\r\n",
        "s1 BAD what\r\n",
        "s1 OK go\r\nm1 OK injected\r\n",
        "zz OK go\r\n",
        "* BYE x\r\n",
        "",
    ] {
        let mut fake = Served::start(move |peer| {
            peer.say("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN LOGIN] hello\r\n");
            assert_eq!(peer.hear().as_deref(), Some("s1 STARTTLS"));
            peer.say(answer);
            peer.wait_for_end();
        });
        fake.section.tls = TlsMode::StartTls;
        let failure = fake.refusal();
        assert!(matches!(failure.status, ExitStatus::Denied | ExitStatus::Offline), "{failure}");
        let heard = fake.heard();
        assert!(heard.starts_with("s1 STARTTLS\r\n") || heard.is_empty());
        assert_eq!(heard.matches('\n').count(), 1, "nothing else in the clear: {heard}");
        if answer.contains("injected") {
            assert!(failure.to_string().contains("ahead of the TLS handshake"), "{failure}");
        }
    }
    // TLS from the first byte, and a server that speaks in the clear.
    let mut fake = Served::start(|peer| {
        peer.say("* OK hello\r\n");
        peer.wait_for_end();
    });
    fake.section.tls = TlsMode::Imaps;
    assert_eq!(fake.refusal().status, ExitStatus::Offline);
    assert!(!fake.heard_password());
}

/// A server that takes any login, and has nothing to offer.
fn takes_all(peer: &mut Peer) {
    peer.say("* OK hello\r\n");
    answers_all(peer);
}

fn answers_all(peer: &mut Peer) {
    while let Some(line) = peer.hear() {
        let tag = line.split(' ').next().unwrap_or_default().to_owned();
        peer.say(format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"));
    }
}

/// The same after STARTTLS.
fn starts_tls(peer: &mut Peer, acceptor: &native_tls::TlsAcceptor) {
    peer.say("* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n");
    let Some(line) = peer.hear() else { return };
    let tag = line.split(' ').next().unwrap_or_default().to_owned();
    peer.say(format!("{tag} OK go\r\n"));
    if peer.secure(acceptor) {
        answers_all(peer);
    }
}

/// One that vouches for itself.
fn self_signed(name: &str) -> Certificate {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut made = X509::builder().unwrap();
    made.set_version(2).unwrap();
    made.set_subject_name(&subject).unwrap();
    made.set_issuer_name(&subject).unwrap();
    made.set_pubkey(&key).unwrap();
    made.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    made.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    let names = SubjectAlternativeName::new().dns(name).build(&made.x509v3_context(None, None));
    made.append_extension(names.unwrap()).unwrap();
    made.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    Certificate {
        cert: text(made.build().to_pem().unwrap()),
        key: text(key.private_key_to_pem_pkcs8().unwrap()),
    }
}

/// Certificates that do not hold, each with what is trusted and what is said.
/// With the program itself: no password command is run, nothing is said inside.
#[test]
fn g11_no_password_over_a_certificate_that_does_not_hold() {
    let ca = Ca::shared();
    let good = || ca.issue(&["localhost"], 30);
    let own = self_signed("localhost");
    let trust = || ca.cert().to_owned();
    let cases: Vec<(&str, Certificate, String, Option<&str>)> = vec![
        ("good", good(), trust(), None),
        ("another name", ca.issue(&["imap.example.org"], 30), trust(), Some("hostname mismatch")),
        ("expired", ca.issue(&["localhost"], -1), trust(), Some("expired")),
        ("another authority", Ca::new().issue(&["localhost"], 30), trust(), Some("issuer")),
        ("self-signed", own.clone(), trust(), Some("self-signed certificate")),
        ("wrong pin", own.clone(), self_signed("localhost").cert, Some("self-signed certificate")),
        ("wrong pin, right name", good(), self_signed("localhost").cert, Some("issuer")),
        ("right pin", own.clone(), own.cert, None),
    ];
    for (what, certificate, trusted, refused) in cases {
        for starttls in [false, true] {
            let acceptor = acceptor(&certificate);
            let fake = if starttls {
                Fake::start(move |peer| starts_tls(peer, &acceptor))
            } else {
                Fake::secure(acceptor, takes_all)
            };
            let lair = Lair::with(&format!(
                "Host localhost\nPort {}\nUser user\nPassCmd \"touch tmp/asked; echo {PASSWORD}\"\n\
                 SSLType {}\nSystemCertificates no\nCertificateFile ~/tmp/trusted.pem\nAuthMechs LOGIN\nTimeout 30",
                fake.port,
                if starttls { "STARTTLS" } else { "IMAPS" },
            ));
            lair.home.write("tmp/trusted.pem", &trusted);
            lair.home.fake_mbsync();
            let waiter = Running::start(lair.home.cmd(&["--wait", "-v", "Home"]));
            let said = match refused {
                Some(_) => "certificate refused",
                None => "connected by",
            };
            waiter.wait_for(said, LONG);
            waiter.signal(Signal::TERM);
            let output = waiter.wait(LONG);
            let sanitize = format!("{what}, STARTTLS {starttls}: {output}");
            let asked = lair.home.path("tmp/asked").exists();
            let Some(reason) = refused else {
                assert!(asked && fake.heard.password(), "{sanitize}");
                assert!(!holds_password(fake.heard.in_clear().as_bytes()), "{sanitize}");
                continue;
            };
            assert!(output.stderr.contains(reason), "{sanitize}");
            assert!(!asked, "the password command was run: {sanitize}");
            let checked = run(&mut lair.home.cmd(&["--check", "Home"]), LONG);
            assert_eq!(checked.code(), 77, "{sanitize}\n{checked}");
            assert!(checked.stdout.contains("refused"), "{checked}");
            assert_eq!(fake.heard.in_secret(), "", "{sanitize}");
            assert!(!fake.heard.password(), "{sanitize}");
            let heard = output.stderr + &checked.stdout;
            assert_eq!(lair.trouble(&heard, false), None, "{sanitize}");
        }
    }
}

/// What the certificate says of itself is shown by `--check`, and is the server's.
#[test]
fn g10_a_certificate_does_not_speak_to_the_terminal() {
    let name = "\x1b]0;canary\x07.example.org";
    let fake = Fake::secure(acceptor(&Ca::shared().issue(&[name], 30)), takes_all);
    let lair = Lair::with(&format!(
        "Host localhost\nPort {}\nUser user\nPass {PASSWORD}\nSSLType IMAPS\n\
         SystemCertificates no\nCertificateFile ~/ca.pem\nAuthMechs LOGIN\nTimeout 30",
        fake.port
    ));
    lair.home.fake_mbsync();
    let checked = run(&mut lair.home.cmd(&["--check", "Home"]), LONG).expect_code(77);
    assert!(checked.stdout.contains("canary"), "{checked}");
    assert_eq!(lair.trouble(&checked.stdout, false), None, "{checked}");
}
