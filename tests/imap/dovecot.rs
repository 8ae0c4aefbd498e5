//! The IMAP side against a real dovecot: every way in, and every question.
#![allow(clippy::unwrap_used)]

use mutt_sync::error::ExitStatus;
use mutt_sync::imap::{
    Client, ClientError, Inventory, InventoryScope, MailboxStatus, Opening, ScanRequest,
    ServerEvent,
};
use mutt_sync::model::flags::Flags;
use mutt_sync::model::uid_set::{UidSet, UidsBelow};
use mutt_sync::model::{CredentialSource, Server, TlsMode};
use mutt_sync::os::child::Prompt;
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

/// The mailboxes whose names begin so.
fn inventory(client: &mut Client, prefix: &str) -> Inventory {
    let scope = InventoryScope { prefixes: vec![prefix.to_owned()], ..InventoryScope::default() };
    client.inventory(&scope).unwrap()
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
fn nothing_unread(client: &Client) -> bool {
    client.transport().buffered() == 0 && client.transport().trouble().is_none()
}

fn open(section: &Server) -> Client {
    Client::open(section, Prompt::Never, &Cancel::new().unwrap()).unwrap()
}

fn refusal(section: &Server) -> (ExitStatus, String) {
    match Client::open(section, Prompt::Never, &Cancel::new().unwrap()) {
        Ok(_) => panic!("let in"),
        Err(failure) => (failure.status, failure.to_string()),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Events until one fits; fails after [`SHORT`].
fn wait_for(client: &mut Client, what: &str, fits: impl Fn(&ServerEvent) -> bool) -> ServerEvent {
    let end = Instant::now() + SHORT;
    loop {
        if let Some(heard) = client.events().unwrap().into_iter().find(&fits) {
            return heard;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no {what} in time");
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            client.poll_fd(),
            rustix::event::PollFlags::IN,
        )];
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
        let mut client = open(&section);
        assert!(client.capabilities().notify() && client.capabilities().condstore());
        assert_eq!(client.status(&names(&["INBOX"])).unwrap().len(), 1);
        client.log_out();
        // Dovecot makes each further failure wait longer.
        if !matches!(mechanism, "LOGIN" | "SCRAM-SHA-256") {
            continue;
        }
        section.pass = Some(text("wrong"));
        let (exit, said) = refusal(&section);
        assert_eq!(exit, ExitStatus::Denied);
        assert!(
            said.contains("AUTHENTICATIONFAILED") && said.contains("User and the password"),
            "{said}"
        );
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
            if let Err(failure) = Client::open(&section, Prompt::Never, &Cancel::new().unwrap()) {
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
        // Dovecot 2.4 says why; 2.3 closes.
        let (exit, said) = refusal(&old);
        assert!([ExitStatus::Denied, ExitStatus::Offline].contains(&exit), "{said}");
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
    let mut client = open(&section(&server, "home"));
    let boxes = names(&["INBOX", "Archive", "Sent", "Nowhere"]);
    let mut first = client.notify(&boxes, &[]).unwrap();
    first.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["Archive", "INBOX", "Sent"]
    );
    assert!(first.iter().all(|(_, s)| s.uid_validity.is_some() && s.highest_mod_seq.is_some()));
    client.idle_start().unwrap();
    assert_eq!(client.events().unwrap(), []);

    let uid = other.append("Archive", &message("one", "one"), &[]);
    let heard = wait_for(
        &mut client,
        "delivery",
        |h| matches!(h, ServerEvent::Status(n, _) if n == "Archive"),
    );
    let ServerEvent::Status(_, status) = heard else { panic!() };
    assert_eq!((status.messages, status.uid_next), (Some(1), Some(uid + 1)));

    other.select("Archive");
    other.add_flags(uid, &["\\Seen"]);
    wait_for(
        &mut client,
        "flag",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "Archive" && s.highest_mod_seq > status.highest_mod_seq),
    );
    other.expunge(uid);
    other.unselect();
    wait_for(
        &mut client,
        "expunge",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "Archive" && s.messages == Some(0)),
    );
    other.create("Lists/rust");
    wait_for(
        &mut client,
        "new mailbox",
        |h| matches!(h, ServerEvent::Listed(l) if l.name == "Lists/rust" && l.selectable),
    );

    // A look in between: IDLE ends by itself, and NOTIFY goes on afterwards.
    let uid = other.append("INBOX", &message("two", "two"), &["\\Flagged"]);
    let scan = client.scan("INBOX", Opening::Examine, None).unwrap();
    assert_eq!(scan.flags, [(uid, Flags::among(b"F"))]);
    assert_eq!(scan.after.uid_next, Some(uid + 1));
    client.idle_start().unwrap();
    other.append("INBOX", &message("three", "three"), &[]);
    wait_for(
        &mut client,
        "delivery after a look",
        |h| matches!(h, ServerEvent::Status(n, s) if n == "INBOX" && s.messages == Some(2)),
    );
    client.probe(SHORT).unwrap();
    assert!(client.is_idling());
    client.notify_none().unwrap();
    assert_eq!(server.connections(), 1);
}

#[test]
fn without_notify_it_is_refused_and_idle_reports_the_open_mailbox() {
    let server = rig::Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
    let mut other = server.imap("home");
    let mut client = open(&section(&server, "home"));
    assert!(!client.capabilities().notify() && client.capabilities().idle());
    assert!(matches!(client.notify(&names(&["INBOX"]), &[]), Err(ClientError::Refused(_))));

    let opened = client.open_mailbox("INBOX", Opening::Examine).unwrap();
    assert_eq!(opened.status.messages, Some(0));
    client.idle_start().unwrap();
    let uid = other.append("INBOX", &message("one", "one"), &[]);
    wait_for(&mut client, "delivery", |h| *h == ServerEvent::Selected);
    other.select("INBOX");
    other.add_flags(uid, &["\\Seen"]);
    wait_for(&mut client, "flag", |h| *h == ServerEvent::Selected);
    other.expunge(uid);
    wait_for(&mut client, "expunge", |h| *h == ServerEvent::Selected);
    client.idle_done(SHORT).unwrap();
    client.close_mailbox().unwrap();
    assert_eq!(client.events().unwrap(), []);
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
        let mut client = open(&section(&server, "home"));
        assert_eq!(client.capabilities().unselect(), rich);
        for opening in [Opening::Examine, Opening::Select] {
            let scan = client.scan("INBOX", opening, None).unwrap();
            assert!(scan.all_flags);
            assert_eq!(scan.uids.ranges(), [(two, three)]);
            assert_eq!(scan.flags, [(two, Flags::among(b"T")), (three, Flags::default())]);
            assert_eq!(scan.forwarded, (opening == Opening::Select).then_some(true));
            assert_eq!(scan.after.messages, Some(2));
            assert_eq!(scan.after.uid_validity, scan.uid_validity);
        }
        // Leaving must not have expunged what is marked \Deleted.
        assert_eq!(other.status("INBOX").messages, 2);

        let before = client.status(&names(&["INBOX"])).unwrap()[0].unwrap();
        assert_eq!(before.highest_mod_seq.is_some(), rich);
        other.select("INBOX");
        other.add_flags(three, &["\\Answered"]);
        other.unselect();
        let scan = client.scan("INBOX", Opening::Examine, before.highest_mod_seq).unwrap();
        assert_eq!(scan.all_flags, !rich);
        assert!(scan.flags.contains(&(three, Flags::among(b"R"))));
        assert_eq!(scan.flags.len(), if rich { 1 } else { 2 });

        // What is known need not be told again, and what has gone of it is found.
        let mut uids = vec![two, three];
        for n in 0..20 {
            uids.push(other.append("INBOX", &message(&n.to_string(), "x"), &[]));
        }
        other.select("INBOX");
        for uid in uids.iter().skip(3).step_by(2) {
            other.expunge(*uid);
        }
        let mut left: Vec<u32> = uids
            .into_iter()
            .enumerate()
            .filter(|(at, _)| *at < 3 || at % 2 == 0)
            .map(|(_, uid)| uid)
            .collect();
        let mut known = left.clone();
        for step in 0..3 {
            let request = ScanRequest {
                name: "INBOX".into(),
                opening: Opening::Examine,
                since: before.highest_mod_seq,
                known: UidsBelow::new(known.last().unwrap() + 1, &UidSet::from_uids(known.clone())),
                messages: 0,
            };
            assert!(request.known.is_some());
            let scan = client.scan_all(&[request]).unwrap().remove(0).unwrap();
            assert_eq!(scan.uids, UidSet::from_uids(left.clone()), "step {step}");
            known.clone_from(&left);
            if step > 0 {
                other.select("INBOX");
                other.expunge(left.remove(2));
                other.unselect();
            }
            left.push(other.append("INBOX", &message("new", "x"), &[]));
        }

        let scan = client.scan("Archive", Opening::Examine, None).unwrap();
        assert!(scan.uids.is_empty() && scan.flags.is_empty());
        assert!(matches!(
            client.scan("Nowhere", Opening::Examine, None),
            Err(ClientError::Refused(_))
        ));
        assert_eq!(client.status(&names(&["Nowhere"])).unwrap(), [None]);
    }
}

#[test]
fn notify_is_heard_after_each_new_request() {
    let server = rig::Server::start();
    let mut other = server.imap("home");
    let mut client = open(&section(&server, "home"));
    for n in 1..=3 {
        client.notify(&names(&["INBOX"]), &[]).unwrap();
        client.idle_start().unwrap();
        other.append("INBOX", &message("x", "x"), &[]);
        wait_for(
            &mut client,
            "delivery",
            |h| matches!(h, ServerEvent::Status(_, s) if s.messages == Some(n)),
        );
    }
}

/// Dovecot compares with its own names, and spells them so in events.
#[test]
fn notify_reports_mailboxes_with_names_of_any_script() {
    let odd = [("Entw&APw-rfe", "Entwürfe"), ("&ZeVnLIqe-", "日本語"), ("A&-B", "A&B")];
    for count in [20, 50, 300] {
        let server = rig::Server::start();
        let mut other = server.imap("home");
        let mut boxes: Vec<String> = (0..count - odd.len()).map(|n| format!("many {n}")).collect();
        boxes.extend(odd.iter().map(|(name, _)| (*name).to_owned()));
        for name in &boxes {
            other.create(name);
        }
        let mut client = open(&section(&server, "home"));
        // Where nobody has listed them yet, dovecot 2.3.19 may report once and then no more.
        client.notify(&boxes, &[]).unwrap();
        let told = client.notify(&boxes, &[]).unwrap();
        client.idle_start().unwrap();
        for (name, utf8) in odd {
            assert!(told.iter().any(|(told, _)| told == name), "{name} of {count}");
            other.append(name, &message("x", "x"), &[]);
            wait_for(
                &mut client,
                &format!("{name} of {count}"),
                |h| matches!(h, ServerEvent::Status(n, s) if s.messages == Some(1) && (n == name || n == utf8)),
            );
        }
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
        let mut client = open(&section(&server, "home"));
        let begun = Instant::now();
        let status = client.status(&boxes).unwrap();
        println!("{without:?}: {count} in {:?}", begun.elapsed());
        assert!(status.iter().all(Option::is_some));
        assert_eq!(status[7].unwrap().uid_next, Some(uid + 1));
        let many = inventory(&mut client, "many/").listed.unwrap();
        assert_eq!(many.iter().filter(|each| each.selectable).count(), count);
        assert!(inventory(&mut client, "").listed.unwrap().len() > count);
        let begun = Instant::now();
        let told = client.notify(&boxes, &[]).unwrap();
        println!("{without:?}: NOTIFY of {count} in {:?}", begun.elapsed());
        assert!(boxes.iter().all(|name| told.iter().any(|(n, _)| n == name)));
        other.append(&boxes[9], &message("y", "y"), &[]);
        wait_for(
            &mut client,
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
    let mut client = open(&section(&server, "home"));
    let Inventory { namespace, listed, .. } = inventory(&mut client, "INBOX.");
    assert_eq!((namespace.prefix.as_str(), namespace.delimiter), ("INBOX.", Some('.')));
    let listed: Vec<String> = listed.unwrap().into_iter().map(|each| each.name).collect();
    for name in ["INBOX.Entw&APw-rfe", "INBOX.a (b) {3}"] {
        assert!(listed.iter().any(|l| l == name), "{listed:?}");
        assert_eq!(client.scan(name, Opening::Examine, None).unwrap().uids.len(), 1);
        assert_eq!(client.status(&names(&[name])).unwrap()[0].unwrap().messages, Some(1));
    }
    // Eight bits go as a literal that waits for the server's word; no such mailbox.
    assert_eq!(client.status(&names(&["ü", "INBOX"])).unwrap()[0], None);
    // Nothing can break out of a name.
    let evil = "x\"\r\nm9 DELETE INBOX.Entw&APw-rfe";
    assert!(matches!(client.scan(evil, Opening::Examine, None), Err(ClientError::Refused(_))));
    assert_eq!(client.status(&names(&[evil])).unwrap(), [None]);
    assert_eq!(inventory(&mut client, "INBOX.Entw").listed.unwrap().len(), 1);
    assert!(nothing_unread(&client));
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
    let mut client = open(&section);
    other_delivery(&server);
    assert_eq!(client.scan("INBOX", Opening::Examine, None).unwrap().uids.len(), 1);
    let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(rig::process::alive(pid));
    drop(client);
    assert!(!rig::process::alive(pid));

    // PREAUTH is believed of a tunnel: no password is asked for.
    section.pass = None;
    section.user = None;
    section.tunnel = Some(
        "printf '* PREAUTH hello\\r\\n'; while read tag verb rest; do case $verb in CAPABILITY*) printf '* CAPABILITY IMAP4rev1 IDLE\\r\\n';; esac; printf '%s OK done\\r\\n' \"$tag\"; done".to_owned(),
    );
    let client = open(&section);
    assert!(client.capabilities().idle() && !client.capabilities().notify());
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
    let mut client = open(&section);
    client.notify(&names(&["INBOX"]), &[]).unwrap();
    client.idle_start().unwrap();
    server.stop();
    let end = Instant::now() + SHORT;
    let lost = loop {
        match client.events() {
            Ok(_) => assert!(Instant::now() < end),
            Err(error) => break error,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(matches!(lost, ClientError::Lost(_)), "{lost}");
    assert!(matches!(client.idle_start(), Err(ClientError::Lost(_))));
    assert_eq!(refusal(&section).0, ExitStatus::Offline);
    server.restart();
    let mut client = open(&section);
    client.idle_start().unwrap();
    server.freeze();
    let begun = Instant::now();
    assert!(matches!(client.probe(Duration::from_millis(500)), Err(ClientError::Lost(_))));
    assert!(begun.elapsed() < SHORT);
    server.thaw();
}

#[test]
fn a_connection_can_be_detached_and_attached_again() {
    let server = rig::Server::start();
    other_delivery(&server);
    let mut client = open(&section(&server, "home"));
    client.notify(&names(&["INBOX"]), &[]).unwrap();
    client.idle_start().unwrap();
    client.notify_none().unwrap();
    client.events().unwrap();
    assert!(nothing_unread(&client));
    let lent = client.detach().unwrap();
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
    for mailbox_open in [true, true, false] {
        client.reattach(mailbox_open).unwrap();
    }
    assert_eq!(client.notify(&names(&["INBOX"]), &[]).unwrap()[0].1.messages, Some(1));
}
