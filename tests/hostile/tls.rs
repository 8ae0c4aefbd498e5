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
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
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
    let failure = fake.refusal();
    assert_eq!(failure.status, ExitStatus::Denied);
    assert!(failure.to_string().contains("does not speak TLS there"), "{failure}");
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

/// A certificate with all that can be wrong with it.
#[derive(Clone)]
struct Draft {
    /// Common names.
    names: &'static [&'static str],
    /// Alternative names, DNS.
    dns: &'static [&'static str],
    address: Option<&'static str>,
    /// Basic constraints, if it has them.
    authority: Option<bool>,
    /// Key usage without the right to sign.
    signs_nothing: bool,
    /// Its key is for clients.
    for_clients: bool,
    /// Good from and to, in days from now.
    days: (i64, i64),
    /// 2: version 3.
    version: i32,
}

impl Draft {
    const PLAIN: Draft = Draft {
        names: &["localhost"],
        dns: &[],
        address: None,
        authority: None,
        signs_nothing: false,
        for_clients: false,
        days: (-2, 30),
        version: 2,
    };

    /// Vouched for by itself, or by another.
    fn sign(&self, by: Option<&Certificate>) -> Certificate {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        for name in self.names {
            subject.append_entry_by_text("CN", name).unwrap();
        }
        let subject = subject.build();
        let issuer = by.map(|by| X509::from_pem(by.cert.as_bytes()).unwrap());
        let signer =
            by.map_or(key.clone(), |by| PKey::private_key_from_pem(by.key.as_bytes()).unwrap());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = |days: i64| {
            Asn1Time::from_unix(i64::try_from(now.as_secs()).unwrap() + days * 86_400).unwrap()
        };
        let mut made = X509::builder().unwrap();
        made.set_version(self.version).unwrap();
        made.set_subject_name(&subject).unwrap();
        made.set_issuer_name(issuer.as_ref().map_or(&subject, |by| by.subject_name())).unwrap();
        made.set_pubkey(&key).unwrap();
        made.set_not_before(&time(self.days.0)).unwrap();
        made.set_not_after(&time(self.days.1)).unwrap();
        if !self.dns.is_empty() || self.address.is_some() {
            let mut names = SubjectAlternativeName::new();
            self.dns.iter().for_each(|name| _ = names.dns(name));
            self.address.iter().for_each(|address| _ = names.ip(address));
            let names = names.build(&made.x509v3_context(None, None)).unwrap();
            made.append_extension(names).unwrap();
        }
        if let Some(authority) = self.authority {
            let mut basic = BasicConstraints::new();
            let basic = if authority { basic.ca().build() } else { basic.build() };
            made.append_extension(basic.unwrap()).unwrap();
        }
        if self.signs_nothing {
            made.append_extension(KeyUsage::new().digital_signature().build().unwrap()).unwrap();
        }
        if self.for_clients {
            made.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
        }
        made.sign(&signer, MessageDigest::sha256()).unwrap();
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        Certificate {
            cert: text(made.build().to_pem().unwrap()),
            key: text(key.private_key_to_pem_pkcs8().unwrap()),
        }
    }
}

/// One that vouches for itself, and is no authority.
fn self_signed() -> Certificate {
    Draft { dns: &["localhost"], ..Draft::PLAIN }.sign(None)
}

/// A server that is left at the login.
fn hears_login(peer: &mut Peer) {
    peer.say("* OK hello\r\n");
    while let Some(line) = peer.hear().filter(|line| !line.contains(" LOGIN ")) {
        let tag = line.split(' ').next().unwrap_or_default().to_owned();
        peer.say(format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"));
    }
}

/// What, the server's certificate and what is trusted, the host, and what is wrong.
type TrustCase = (&'static str, (Certificate, String), &'static str, Option<&'static str>);

/// What is trusted is what mbsync trusts, which is asked as well: in `CertificateFile`,
/// an authority is no pin, and anything else is nothing but a pin.
#[test]
fn g11_a_certificate_is_taken_or_refused_as_mbsync_does() {
    const OTHER: Draft = Draft { names: &["other.example"], ..Draft::PLAIN };
    let authority = |draft: Draft| Draft { authority: Some(true), ..draft };
    let own = |draft: Draft| {
        let made = draft.sign(None);
        let trusted = made.cert.clone();
        (made, trusted)
    };
    let old = Draft { days: (-9, -1), ..Draft::PLAIN };
    let new = Draft { days: (2, 9), ..Draft::PLAIN };
    let ca = authority(Draft { names: &["CA"], ..Draft::PLAIN }).sign(None);
    let old_ca = authority(Draft { names: &["CA"], ..old.clone() }).sign(None);
    let good = Draft { dns: &["localhost"], ..Draft::PLAIN };
    let pin = OTHER.sign(None);
    let several = [&ca.cert[..], &self_signed().cert, &pin.cert].concat();
    let cases: Vec<TrustCase> = vec![
        ("pin of another name", own(OTHER), "localhost", None),
        ("expired pin", own(old.clone()), "localhost", None),
        ("pin that is not yet valid", own(new.clone()), "localhost", None),
        ("pin for clients", own(Draft { for_clients: true, ..OTHER }), "localhost", None),
        ("pin among others", (pin, several.clone()), "localhost", None),
        ("signed by one of several", (good.sign(Some(&ca)), several), "localhost", None),
        (
            "authority that may not sign",
            own(authority(Draft { signs_nothing: true, ..OTHER })),
            "localhost",
            None,
        ),
        ("authority", own(authority(Draft::PLAIN)), "localhost", None),
        ("authority of another name", own(authority(OTHER)), "localhost", Some("mismatch")),
        ("expired authority", own(authority(old)), "localhost", Some("expired")),
        ("not yet valid", own(authority(new)), "localhost", Some("not yet valid")),
        (
            "authority for clients",
            own(authority(Draft { for_clients: true, ..Draft::PLAIN })),
            "localhost",
            Some("purpose"),
        ),
        ("version 1", own(Draft { version: 0, ..OTHER }), "localhost", Some("mismatch")),
        (
            "second common name",
            own(authority(Draft { names: &["other.example", "localhost"], ..Draft::PLAIN })),
            "localhost",
            Some("mismatch"),
        ),
        (
            "address",
            own(authority(Draft { address: Some("127.0.0.1"), ..OTHER })),
            "127.0.0.1",
            Some("IP address mismatch"),
        ),
        (
            "signed by an expired authority",
            (good.sign(Some(&old_ca)), old_ca.cert.clone()),
            "localhost",
            Some("expired"),
        ),
        (
            "signed by a pin",
            (good.sign(Some(&OTHER.sign(None))), OTHER.sign(None).cert),
            "localhost",
            Some("issuer"),
        ),
    ];
    for (what, (certificate, trusted), host, refused) in cases {
        let [asked, checked] = [false, true].map(|check| {
            let fake = Fake::secure(acceptor(&certificate), hears_login);
            let lair = Lair::with(&format!(
                "Host {host}\nPort {}\nUser user\nPass {PASSWORD}\nSSLType IMAPS\n\
                 SystemCertificates no\nCertificateFile ~/tmp/trusted.pem\nAuthMechs LOGIN\nTimeout 30",
                fake.port,
            ));
            lair.home.write("tmp/trusted.pem", &trusted);
            let output = if check {
                run(&mut lair.home.cmd(&["--check", "Home"]), LONG)
            } else {
                run(lair.home.command(rig::real_mbsync()).arg("-a"), LONG)
            };
            (fake.heard.password(), output)
        });
        let shown = format!("{what}: {}\n{}", asked.1, checked.1);
        assert_eq!(asked.0, refused.is_none(), "mbsync: {shown}");
        assert_eq!(checked.0, refused.is_none(), "{shown}");
        if let Some(problem) = refused {
            assert_eq!(checked.1.code(), 77, "{shown}");
            assert!(checked.1.stdout.contains(problem), "{shown}");
        }
        if what.contains("expired authority") {
            let above = checked.1.stdout.contains("an authority above it has expired");
            assert_eq!(above, what.contains("signed by"), "{shown}");
        }
    }
}

/// Certificates that do not hold, each with what is trusted and what is said.
/// With the program itself: no password command is run, nothing is said inside.
#[test]
fn g11_no_password_over_a_certificate_that_does_not_hold() {
    let ca = Ca::shared();
    let good = || ca.issue(&["localhost"], 30);
    let own = self_signed();
    let trust = || ca.cert().to_owned();
    let cases: Vec<(&str, Certificate, String, Option<&str>)> = vec![
        ("good", good(), trust(), None),
        ("another name", ca.issue(&["imap.example.org"], 30), trust(), Some("hostname mismatch")),
        ("expired", ca.issue(&["localhost"], -1), trust(), Some("expired")),
        ("another authority", Ca::new().issue(&["localhost"], 30), trust(), Some("issuer")),
        ("self-signed", own.clone(), trust(), Some("self-signed certificate")),
        ("wrong pin", own.clone(), self_signed().cert, Some("self-signed certificate")),
        ("wrong pin, right name", good(), self_signed().cert, Some("issuer")),
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
            let shown = format!("{what}, STARTTLS {starttls}: {output}");
            let asked = lair.home.path("tmp/asked").exists();
            let Some(reason) = refused else {
                assert!(asked && fake.heard.password(), "{shown}");
                assert!(!holds_password(fake.heard.in_clear().as_bytes()), "{shown}");
                continue;
            };
            assert!(output.stderr.contains(reason), "{shown}");
            assert!(!asked, "the password command was run: {shown}");
            let checked = run(&mut lair.home.cmd(&["--check", "Home"]), LONG);
            assert_eq!(checked.code(), 77, "{shown}\n{checked}");
            assert!(checked.stdout.contains("refused"), "{checked}");
            assert_eq!(fake.heard.in_secret(), "", "{shown}");
            assert!(!fake.heard.password(), "{shown}");
            let heard = output.stderr + &checked.stdout;
            assert_eq!(lair.trouble(&heard, false), None, "{shown}");
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
