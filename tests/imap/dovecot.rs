//! The IMAP side against a real dovecot: every way in, and every question.
#![allow(clippy::unwrap_used)]

use mutt_sync::error::ExitStatus;
use mutt_sync::imap::{Client, ClientError, MailboxStatus, Opening, ServerEvent};
use mutt_sync::model::flags::Flags;
use mutt_sync::model::{CredentialSource, Server, TlsMode};
use mutt_sync::os::wait::Cancel;
use rig::{ServerOptions, Tls, message};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Long enough on a busy machine.
const SHORT: Duration = Duration::from_secs(20);

fn text(text: &str) -> CredentialSource {
    CredentialSource::Text(Zeroizing::new(text.to_owned()))
}

/// A PEM text as a file, for as long as the test process lives.
fn on_disk(pem: &str) -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let dir = DIR.get_or_init(|| tempfile::tempdir().unwrap());
    let file = dir.path().join(format!("{}.pem", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, pem).unwrap();
    file
}

/// dovecot may run as another user than the test.
fn open_to_dovecot(dir: &std::path::Path) {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The account section for a user of this server.
fn section(server: &rig::Server, user: &str) -> Server {
    Server {
        host: Some(server.host().to_owned()),
        port: server.port(),
        user: Some(text(user)),
        pass: Some(text(&server.password(user))),
        tls: match server.tls() {
            Tls::None => TlsMode::None,
            Tls::StartTls => TlsMode::StartTls,
            Tls::Imaps => TlsMode::Imaps,
        },
        certificate_file: (server.tls() != Tls::None).then(|| on_disk(rig::Ca::shared().cert())),
        auth_mechs: vec!["*".to_owned()],
        timeout: Some(Duration::from_secs(60)),
        ..Server::default()
    }
}

/// Whether every byte that came was understood and taken.
fn nothing_unread(link: &Client) -> bool {
    link.transport().buffered() == 0 && link.transport().trouble().is_none()
}

fn open(section: &Server) -> Client {
    Client::open(section, false, &Cancel::new().unwrap()).unwrap()
}

fn refusal(section: &Server) -> (ExitStatus, String) {
    match Client::open(section, false, &Cancel::new().unwrap()) {
        Ok(_) => panic!("let in"),
        Err(failure) => (failure.status, failure.to_string()),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Events until one fits; fails after [`SHORT`].
fn wait_for(link: &mut Client, what: &str, fits: impl Fn(&ServerEvent) -> bool) -> ServerEvent {
    let end = Instant::now() + SHORT;
    loop {
        if let Some(heard) = link.events().unwrap().into_iter().find(&fits) {
            return heard;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no {what} in time");
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(link.poll_fd(), rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(left).unwrap();
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
    }
}

#[test]
fn every_password_mechanism_logs_in() {
    let server = rig::Server::with(ServerOptions {
        extra: "auth_mechanisms = plain login scram-sha-1 scram-sha-256".to_owned(),
        ..ServerOptions::default()
    });
    let mut section = section(&server, "home");
    for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "*"] {
        section.auth_mechs = names(&[mechanism]);
        section.pass = Some(text(&server.password("home")));
        let mut link = open(&section);
        assert!(link.capabilities().notify() && link.capabilities().condstore());
        assert_eq!(link.status(&names(&["INBOX"])).unwrap().len(), 1);
        link.log_out();
        // Dovecot makes each further failure wait longer.
        if !matches!(mechanism, "LOGIN" | "SCRAM-SHA-256") {
            continue;
        }
        section.pass = Some(text("wrong"));
        let (exit, said) = refusal(&section);
        assert_eq!(exit, ExitStatus::Denied);
        assert!(said.contains("AUTHENTICATIONFAILED") && said.contains("Pass"), "{said}");
        assert!(!said.contains("wrong"));
    }
    section.auth_mechs = names(&["GSSAPI"]);
    assert_eq!(refusal(&section).0, ExitStatus::Denied);
}

#[test]
fn passwords_that_need_quoting_or_literals_are_taken() {
    let logins =
        [("quoted", "with \"quotes\" and \\"), ("müller", "päss wörd €"), ("plain", " lead{3}")];
    let server = rig::Server::with(ServerOptions {
        logins: logins.map(|(user, password)| (user.to_owned(), password.to_owned())).to_vec(),
        extra: "auth_username_chars =\nauth_mechanisms = plain login scram-sha-256".to_owned(),
        boxes: Vec::new(),
        ..ServerOptions::default()
    });
    for (user, password) in logins {
        let mut section = section(&server, "home");
        section.user = Some(text(user));
        section.pass = Some(text(password));
        for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-256"] {
            section.auth_mechs = names(&[mechanism]);
            if let Err(failure) = Client::open(&section, false, &Cancel::new().unwrap()) {
                panic!("{user} by {mechanism}: {failure}\n{}", server.log());
            }
        }
    }
}

#[test]
fn tls_is_checked_as_mbsync_checks_it() {
    for tls in [Tls::Imaps, Tls::StartTls] {
        let server = rig::Server::with(ServerOptions { tls, ..ServerOptions::default() });
        let good = section(&server, "home");
        open(&good).log_out();

        let mut unknown = good.clone();
        unknown.certificate_file = None;
        let (exit, said) = refusal(&unknown);
        assert_eq!(exit, ExitStatus::Denied);
        assert!(said.contains("certificate refused") && said.contains("CertificateFile"), "{said}");

        // Right chain, other name.
        let mut named = good.clone();
        named.host = Some("127.0.0.1".to_owned());
        let (exit, said) = refusal(&named);
        assert_eq!(exit, ExitStatus::Denied);
        assert!(said.contains("mismatch") && said.contains("set Host"), "{said}");

        // The very certificate: neither chain nor name matter.
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("pin.pem");
        std::fs::write(&pin, certificate_of(&server)).unwrap();
        named.certificate_file = Some(pin.clone());
        open(&named).log_out();
        named.system_certificates = false;
        open(&named).log_out();

        // Another certificate of the same authority is no pin.
        let other = rig::Ca::shared().issue(&["localhost"], 30);
        named.certificate_file = Some(on_disk(&other.cert));
        let (exit, said) = refusal(&named);
        assert_eq!(exit, ExitStatus::Denied, "{said}");
        assert_eq!(server.failed_logins(), 0);

        // A bundle: all of it counts.
        let file = on_disk(&format!("{}{}", rig::Ca::new().cert(), rig::Ca::shared().cert()));
        let mut bundled = good.clone();
        bundled.certificate_file = Some(file);
        open(&bundled).log_out();

        let mut old = good.clone();
        old.tls_versions = (10, 11);
        assert_eq!(refusal(&old).0, ExitStatus::Offline);
    }
}

#[test]
fn an_expired_certificate_is_refused_and_says_so() {
    let old = rig::Ca::shared().issue(&["localhost"], -1);
    let (cert, key) = (on_disk(&old.cert), on_disk(&old.key));
    open_to_dovecot(cert.parent().unwrap());
    let server = rig::Server::with(ServerOptions {
        tls: Tls::Imaps,
        certificate: Some((cert.clone(), key)),
        ..ServerOptions::default()
    });
    let mut section = section(&server, "home");
    let (exit, said) = refusal(&section);
    assert_eq!(exit, ExitStatus::Denied);
    assert!(said.contains("expired") && said.contains("renew"), "{said}");
    // mbsync takes a pinned one whatever its dates are.
    section.certificate_file = Some(cert);
    open(&section).log_out();
}

fn certificate_of(server: &rig::Server) -> String {
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", server.port())]);
    if server.tls() == Tls::StartTls {
        command.args(["-starttls", "imap"]);
    }
    let said = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let begin = said.find("-----BEGIN CERTIFICATE-----").unwrap();
    let end = said.find("-----END CERTIFICATE-----").unwrap();
    format!("{}-----END CERTIFICATE-----\n", &said[begin..end])
}

#[test]
fn client_certificates_and_keys_of_every_form_are_shown() {
    let own = rig::Ca::shared().issue(&["home"], 30);
    let dir = tempfile::tempdir().unwrap();
    let sec1 = dir.path().join("sec1.pem");
    let made = std::process::Command::new("openssl")
        .args(["ec", "-in"])
        .arg(on_disk(&own.key))
        .arg("-out")
        .arg(&sec1)
        .output()
        .unwrap();
    assert!(made.status.success());
    assert!(std::fs::read_to_string(&sec1).unwrap().contains("BEGIN EC PRIVATE KEY"));
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, rig::Ca::shared().cert()).unwrap();
    let server = rig::Server::with(ServerOptions {
        tls: Tls::Imaps,
        client_authority: Some(rig::Ca::shared().cert().to_owned()),
        ..ServerOptions::default()
    });
    let mut section = section(&server, "home");
    assert_eq!(refusal(&section).0, ExitStatus::Denied);
    for key in [on_disk(&own.key), sec1] {
        section.client_certificate = Some(on_disk(&own.cert));
        section.client_key = Some(key);
        open(&section).log_out();
    }
    section.client_key = Some(ca);
    let (exit, said) = refusal(&section);
    assert_eq!(exit, ExitStatus::Config);
    assert!(said.contains("ClientKey"), "{said}");
}

#[test]
fn notify_reports_every_mailbox_on_one_connection() {
    let server = rig::Server::start();
    let mut other = server.imap("home");
    let mut link = open(&section(&server, "home"));
    let boxes = names(&["INBOX", "Archive", "Sent", "Nowhere"]);
    let mut first = link.notify(&boxes).unwrap();
    first.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["Archive", "INBOX", "Sent"]
    );
    assert!(first.iter().all(|(_, s)| s.uid_validity.is_some() && s.highest_mod_seq.is_some()));
    link.idle_start().unwrap();
    assert_eq!(link.events().unwrap(), []);

    let uid = other.append("Archive", &message("one", "one"), &[]);
    let heard = wait_for(
        &mut link,
        "delivery",
        |h| matches!(h, ServerEvent::Status(n, _) if n == "Archive"),
    );
    let ServerEvent::Status(_, status) = heard else { panic!() };
    assert_eq!((status.messages, status.uid_next), (Some(1), Some(uid + 1)));

    other.select("Archive");
    other.add_flags(uid, &["\\Seen"]);
    wait_for(
        &mut link,
        "flag",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "Archive" && s.highest_mod_seq > status.highest_mod_seq),
    );
    other.expunge(uid);
    other.unselect();
    wait_for(
        &mut link,
        "expunge",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "Archive" && s.messages == Some(0)),
    );
    other.create("Lists/rust");
    wait_for(
        &mut link,
        "new mailbox",
        |h| matches!(h, ServerEvent::Listed(l) if l.name == "Lists/rust" && l.selectable()),
    );

    // A look in between: IDLE ends by itself, and NOTIFY goes on afterwards.
    let uid = other.append("INBOX", &message("two", "two"), &["\\Flagged"]);
    let look = link.look("INBOX", Opening::Examine, None).unwrap();
    assert_eq!(look.flags, [(uid, Flags::among(b"F"))]);
    assert_eq!(look.after.uid_next, Some(uid + 1));
    link.idle_start().unwrap();
    other.append("INBOX", &message("three", "three"), &[]);
    wait_for(
        &mut link,
        "delivery after a look",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "INBOX" && s.messages == Some(2)),
    );
    link.probe(SHORT).unwrap();
    assert!(link.is_idling());
    link.notify_none().unwrap();
    assert_eq!(server.connections(), 1);
}

#[test]
fn without_notify_it_is_refused_and_idle_reports_the_open_mailbox() {
    let server = rig::Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
    let mut other = server.imap("home");
    let mut link = open(&section(&server, "home"));
    assert!(!link.capabilities().notify() && link.capabilities().idle());
    assert!(matches!(link.notify(&names(&["INBOX"])), Err(ClientError::Refused(_))));

    let opened = link.open_mailbox("INBOX", Opening::Examine).unwrap();
    assert_eq!(opened.status.messages, Some(0));
    link.idle_start().unwrap();
    let uid = other.append("INBOX", &message("one", "one"), &[]);
    wait_for(&mut link, "delivery", |h| *h == ServerEvent::Selected);
    other.select("INBOX");
    other.add_flags(uid, &["\\Seen"]);
    wait_for(&mut link, "flag", |h| *h == ServerEvent::Selected);
    other.expunge(uid);
    wait_for(&mut link, "expunge", |h| *h == ServerEvent::Selected);
    link.idle_done(SHORT).unwrap();
    link.close_mailbox().unwrap();
    assert_eq!(link.events().unwrap(), []);
}

#[test]
fn a_scan_finds_what_is_there_with_and_without_extensions() {
    let all = rig::Server::start();
    let few = rig::Server::with(ServerOptions {
        without: names(&["ESEARCH", "UNSELECT", "CONDSTORE", "QRESYNC", "LIST-STATUS", "LITERAL+"]),
        notify: false,
        ..ServerOptions::default()
    });
    for (server, rich) in [(all, true), (few, false)] {
        let mut other = server.imap("home");
        let one = other.append("INBOX", &message("1", "1"), &["\\Seen", "$Forwarded", "Junk"]);
        let two = other.append("INBOX", &message("2", "2"), &["\\Deleted"]);
        let three = other.append("INBOX", &message("3", "3"), &[]);
        other.select("INBOX");
        other.expunge(one);
        other.unselect();
        let mut link = open(&section(&server, "home"));
        assert_eq!(link.capabilities().unselect(), rich);
        for opening in [Opening::Examine, Opening::Select] {
            let look = link.look("INBOX", opening, None).unwrap();
            assert!(look.all_flags);
            assert_eq!(look.uids.ranges(), [(two, three)]);
            assert_eq!(look.flags, [(two, Flags::among(b"T")), (three, Flags::default())]);
            assert_eq!(look.forwarded, (opening == Opening::Select).then_some(true));
            assert_eq!(look.after.messages, Some(2));
            assert_eq!(look.after.uid_validity, look.uid_validity);
        }
        // Leaving must not have expunged what is marked \Deleted.
        assert_eq!(other.status("INBOX").messages, 2);

        let before = link.status(&names(&["INBOX"])).unwrap()[0].unwrap();
        assert_eq!(before.highest_mod_seq.is_some(), rich);
        other.select("INBOX");
        other.add_flags(three, &["\\Answered"]);
        other.unselect();
        let look = link.look("INBOX", Opening::Examine, before.highest_mod_seq).unwrap();
        assert_eq!(look.all_flags, !rich);
        assert!(look.flags.contains(&(three, Flags::among(b"R"))));
        assert_eq!(look.flags.len(), if rich { 1 } else { 2 });

        let look = link.look("Archive", Opening::Examine, None).unwrap();
        assert!(look.uids.is_empty() && look.flags.is_empty());
        assert!(matches!(
            link.look("Nowhere", Opening::Examine, None),
            Err(ClientError::Refused(_))
        ));
        assert_eq!(link.status(&names(&["Nowhere"])).unwrap(), [None]);
    }
}

#[test]
fn status_of_a_thousand_mailboxes_comes_at_once() {
    for without in [&[][..], &["LIST-STATUS"]] {
        let server = rig::Server::with(ServerOptions {
            without: names(without),
            ..ServerOptions::default()
        });
        let mut other = server.imap("home");
        let count = rig::count(300, 1000);
        let boxes: Vec<String> = (0..count).map(|n| format!("many/box {n}")).collect();
        for name in &boxes {
            other.create(name);
        }
        let uid = other.append(&boxes[7], &message("x", "x"), &[]);
        let mut link = open(&section(&server, "home"));
        let begun = Instant::now();
        let status = link.status(&boxes).unwrap();
        println!("{without:?}: {count} in {:?}", begun.elapsed());
        assert!(status.iter().all(Option::is_some));
        assert_eq!(status[7].unwrap().uid_next, Some(uid + 1));
        assert_eq!(link.list("many/").unwrap().iter().filter(|l| l.selectable()).count(), count);
        assert!(link.list("").unwrap().len() > count);
        let begun = Instant::now();
        let told = link.notify(&boxes).unwrap();
        println!("{without:?}: NOTIFY of {count} in {:?}", begun.elapsed());
        assert!(boxes.iter().all(|name| told.iter().any(|(n, _)| n == name)));
        other.append(&boxes[9], &message("y", "y"), &[]);
        wait_for(
            &mut link,
            "delivery to one of many",
            |h| matches!(h, ServerEvent::Status(n, MailboxStatus { messages: Some(1), .. }) if *n == boxes[9]),
        );
    }
}

#[test]
fn odd_names_and_namespaces_are_spoken() {
    let server = rig::Server::with(ServerOptions {
        prefix: "INBOX.".to_owned(),
        separator: '.',
        boxes: Vec::new(),
        without: names(&["LITERAL+"]),
        ..ServerOptions::default()
    });
    let mut other = server.imap("home");
    for name in ["INBOX.Entw&APw-rfe", "INBOX.a (b) {3}", "INBOX.percent%star"] {
        other.raw(&format!("CREATE \"{name}\""));
        other.append(name, &message("x", "x"), &[]);
    }
    let mut link = open(&section(&server, "home"));
    let namespace = link.namespace().unwrap();
    assert_eq!((namespace.prefix.as_str(), namespace.delimiter), ("INBOX.", Some('.')));
    let listed: Vec<String> = link.list("INBOX.").unwrap().into_iter().map(|l| l.name).collect();
    for name in ["INBOX.Entw&APw-rfe", "INBOX.a (b) {3}"] {
        assert!(listed.iter().any(|l| l == name), "{listed:?}");
        assert_eq!(link.look(name, Opening::Examine, None).unwrap().uids.len(), 1);
        assert_eq!(link.status(&names(&[name])).unwrap()[0].unwrap().messages, Some(1));
    }
    // Eight bits go as a literal that waits for the server's word; no such mailbox.
    assert_eq!(link.status(&names(&["ü", "INBOX"])).unwrap()[0], None);
    // Nothing can break out of a name.
    let evil = "x\"\r\nm9 DELETE INBOX.Entw&APw-rfe";
    assert!(matches!(link.look(evil, Opening::Examine, None), Err(ClientError::Refused(_))));
    assert_eq!(link.status(&names(&[evil])).unwrap(), [None]);
    assert_eq!(link.list("INBOX.Entw").unwrap().len(), 1);
    assert!(nothing_unread(&link));
}

#[test]
fn a_tunnel_is_spoken_through_and_ends_with_the_link() {
    let server = rig::Server::start();
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut section = section(&server, "home");
    section.host = None;
    section.tls = TlsMode::None;
    // What ssh or socat would do: bytes both ways.
    section.tunnel = Some(format!(
        "echo $$ > {}; exec python3 -c 'import socket,threading,os\ns=socket.create_connection((\"127.0.0.1\",{}))\ndef up():\n  while True:\n    d=os.read(0,65536)\n    if not d: os._exit(0)\n    s.sendall(d)\nthreading.Thread(target=up,daemon=True).start()\nwhile True:\n  d=s.recv(65536)\n  if not d: break\n  os.write(1,d)'",
        pid.display(),
        server.port()
    ));
    let mut link = open(&section);
    other_delivery(&server);
    assert_eq!(link.look("INBOX", Opening::Examine, None).unwrap().uids.len(), 1);
    let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(rig::process::alive(pid));
    drop(link);
    assert!(!rig::process::alive(pid));

    // PREAUTH is believed of a tunnel: no password is asked for.
    section.pass = None;
    section.user = None;
    section.tunnel = Some(
        "printf '* PREAUTH hello\\r\\n'; while read tag verb rest; do case $verb in CAPABILITY*) printf '* CAPABILITY IMAP4rev1 IDLE\\r\\n';; esac; printf '%s OK done\\r\\n' \"$tag\"; done".to_owned(),
    );
    let link = open(&section);
    assert!(link.capabilities().idle() && !link.capabilities().notify());
    section.tunnel = Some("exit 3".to_owned());
    let (exit, said) = refusal(&section);
    assert_eq!(exit, ExitStatus::Offline, "{said}");
}

fn other_delivery(server: &rig::Server) {
    server.imap("home").append("INBOX", &message("x", "x"), &[]);
}

#[test]
fn a_lost_server_is_noticed() {
    let mut server = rig::Server::start();
    let section = section(&server, "home");
    let mut link = open(&section);
    link.notify(&names(&["INBOX"])).unwrap();
    link.idle_start().unwrap();
    server.stop();
    let end = Instant::now() + SHORT;
    let lost = loop {
        match link.events() {
            Ok(_) => assert!(Instant::now() < end),
            Err(error) => break error,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(matches!(lost, ClientError::Lost(_)), "{lost}");
    assert!(matches!(link.idle_start(), Err(ClientError::Lost(_))));
    assert_eq!(refusal(&section).0, ExitStatus::Offline);
    server.restart();
    let mut link = open(&section);
    link.idle_start().unwrap();
    server.freeze();
    let begun = Instant::now();
    assert!(matches!(link.probe(Duration::from_millis(500)), Err(ClientError::Lost(_))));
    assert!(begun.elapsed() < SHORT);
    server.thaw();
}

#[test]
fn a_connection_can_be_detached_and_attached_again() {
    let server = rig::Server::start();
    other_delivery(&server);
    let mut link = open(&section(&server, "home"));
    link.notify(&names(&["INBOX"])).unwrap();
    link.idle_start().unwrap();
    link.notify_none().unwrap();
    link.events().unwrap();
    assert!(nothing_unread(&link));
    let lent = link.detach().unwrap();
    assert!(lent.pending.is_empty() && !lent.mailbox_open);
    assert_eq!(lent.transport.try_write(b"x1 SELECT INBOX\r\n").unwrap(), 17);
    let mut said = Vec::new();
    let end = Instant::now() + SHORT;
    while !String::from_utf8_lossy(&said).contains("x1 OK") {
        let mut chunk = [0; 50];
        let n = lent.transport.try_read(&mut chunk).unwrap();
        said.extend_from_slice(&chunk[..n]);
        assert!(Instant::now() < end);
    }
    link.reattach().unwrap();
    link.reattach().unwrap();
    assert_eq!(link.notify(&names(&["INBOX"])).unwrap()[0].1.messages, Some(1));
}
