//! A server that means harm, at every step of the dialogue: bounded in time and
//! memory, no panic, and no password where it must not go.
#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mutt_sync::account::{Given, Server, TlsMode};
use mutt_sync::imap::{Interrupt, Link, LinkError, Opening};
use mutt_sync::outcome::{Exit, Failure};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

const PASSWORD: &str = "canary-password";

/// The server's end of a connection. Everything heard is kept.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Peer {
    fn say(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(text.as_ref()).is_ok()
    }

    /// The next line without its end; `None` when the client is gone.
    fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(n) if n > 0 => {
                    self.heard.lock().unwrap().extend_from_slice(&chunk[..n]);
                    self.buffer.extend_from_slice(&chunk[..n]);
                }
                _ => return None,
            }
        }
    }

    fn wait_for_end(&mut self) {
        while self.hear().is_some() {}
    }
}

/// A server that runs this for each connection.
struct Fake {
    section: Server,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    fn start(act: impl Fn(&mut Peer) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = heard.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let _ = stream.set_write_timeout(Some(Duration::from_secs(20)));
                act(&mut Peer { stream, buffer: Vec::new(), heard: kept.clone() });
            }
        });
        let section = Server {
            host: Some("127.0.0.1".to_owned()),
            port,
            user: Some(Given::Text(Zeroizing::new("user".to_owned()))),
            pass: Some(Given::Text(Zeroizing::new(PASSWORD.to_owned()))),
            tls: TlsMode::None,
            tls_versions: (12, 13),
            system_certificates: false,
            certificate_file: None,
            client_certificate: None,
            client_key: None,
            cipher_string: None,
            auth_mechs: vec!["PLAIN".to_owned()],
            timeout: Some(Duration::from_millis(400)),
            tunnel: None,
        };
        Fake { section, heard }
    }

    fn open(&self) -> Result<Link, Failure> {
        Link::open(&self.section, false, &Interrupt::never())
    }

    fn refusal(&self) -> Failure {
        match self.open() {
            Ok(_) => panic!("let in"),
            Err(failure) => failure,
        }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    fn heard_password(&self) -> bool {
        let heard = self.heard();
        heard.contains(PASSWORD)
            || heard.split_whitespace().any(|word| {
                STANDARD.decode(word).is_ok_and(|w| String::from_utf8_lossy(&w).contains(PASSWORD))
            })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Silence,
    Trickle,
    Close,
    HalfLine,
    Bye,
    WrongTag,
    BareOk,
    No,
    Continue,
    EndlessLine,
    EndlessLines,
    EndlessLiteral,
    Deep,
    Garbage,
    Unknown,
}

const FAULTS: [Fault; 15] = [
    Fault::Silence,
    Fault::Trickle,
    Fault::Close,
    Fault::HalfLine,
    Fault::Bye,
    Fault::WrongTag,
    Fault::BareOk,
    Fault::No,
    Fault::Continue,
    Fault::EndlessLine,
    Fault::EndlessLines,
    Fault::EndlessLiteral,
    Fault::Deep,
    Fault::Garbage,
    Fault::Unknown,
];

const STEPS: [&str; 13] = [
    "greeting",
    "CAPABILITY",
    "AUTHENTICATE",
    "secret",
    "NAMESPACE",
    "LIST",
    "STATUS",
    "NOTIFY",
    "IDLE",
    "DONE",
    "EXAMINE",
    "SEARCH",
    "FETCH",
];

impl Fault {
    /// Does it. True if the dialogue goes on as if nothing had been.
    fn strike(self, peer: &mut Peer, tag: &str) -> bool {
        match self {
            Fault::Silence => peer.wait_for_end(),
            Fault::Trickle => {
                peer.say("* OK ");
                while peer.say("x") {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Fault::Close => {}
            Fault::HalfLine => {
                peer.say("* OK [CAPABI");
            }
            Fault::Bye => {
                peer.say("* BYE [UNAVAILABLE] \x1b[2Jcome back\r\n");
            }
            Fault::WrongTag => {
                peer.say("zz9 OK done\r\n");
                peer.wait_for_end();
            }
            Fault::BareOk => {
                peer.say(format!("{tag} OK done\r\n"));
                return true;
            }
            Fault::No => {
                peer.say(format!("{tag} NO [LIMIT] not \x1b[2Jnow\r\n"));
                return true;
            }
            Fault::Continue => {
                peer.say("+ go on\r\n+ \r\n");
                peer.wait_for_end();
            }
            Fault::EndlessLine => while peer.say(vec![b'x'; 65536]) {},
            Fault::EndlessLines => {
                let lines = b"* X y\r\n".repeat(9000);
                while peer.say(&lines) {}
            }
            Fault::EndlessLiteral => {
                peer.say("* LIST () \"/\" {2147483647}\r\n");
                while peer.say(vec![b'x'; 65536]) {}
            }
            Fault::Deep => {
                peer.say([b"* FETCH 1 ".to_vec(), b"(".repeat(50_000), b"\r\n".to_vec()].concat());
                peer.wait_for_end();
            }
            Fault::Garbage => {
                peer.say(b"* \xff\xfe \x00 \x80(((\"\r\n\r\n* \r\n*\r\n \r\n* 99999999999 EXISTS\r\n* LIST () \"/\" \"\xe9\"\r\n* STATUS \"a\x00b\" (MESSAGES x)\r\n");
                return true;
            }
            Fault::Unknown => {
                peer.say("* XPUSH (a \"b\") {5}\r\n)\r\n( c\r\n* 5 XFOO bar\r\n* OK [XCODE y] hm\r\n* ESEARCH (TAG \"none\") UID ALL 1:9\r\n* STATUS ../../etc/passwd (MESSAGES 1)\r\n");
                return true;
            }
        }
        false
    }
}

/// A server that behaves but for one fault at one step.
fn converse(peer: &mut Peer, at: &str, fault: Fault) {
    macro_rules! step {
        ($name:expr, $tag:expr) => {
            if $name == at {
                let goes_on = fault.strike(peer, $tag);
                if !goes_on {
                    return;
                }
                if matches!(fault, Fault::BareOk | Fault::No) {
                    continue;
                }
            }
        };
    }
    #[allow(clippy::never_loop)]
    loop {
        step!("greeting", "*");
        break;
    }
    if at != "greeting"
        || !matches!(fault, Fault::BareOk | Fault::No | Fault::Garbage | Fault::Unknown)
    {
        peer.say("* OK hello\r\n");
    }
    let mut idle = String::new();
    while let Some(line) = peer.hear() {
        let mut words = line.split(' ');
        let tag = words.next().unwrap_or_default().to_owned();
        let verb = words.next().unwrap_or_default().to_owned();
        if tag == "DONE" {
            step!("DONE", &idle);
            peer.say(format!("{idle} OK done\r\n"));
            continue;
        }
        let data = match verb.as_str() {
            "CAPABILITY" => {
                step!("CAPABILITY", &tag);
                "* CAPABILITY IMAP4rev1 AUTH=PLAIN IDLE NOTIFY NAMESPACE ESEARCH CONDSTORE UNSELECT\r\n"
            }
            "AUTHENTICATE" => {
                step!("AUTHENTICATE", &tag);
                peer.say("+ \r\n");
                if peer.hear().is_none() {
                    return;
                }
                step!("secret", &tag);
                ""
            }
            "NAMESPACE" => {
                step!("NAMESPACE", &tag);
                "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"
            }
            "LIST" => {
                step!("LIST", &tag);
                "* LIST () \"/\" INBOX\r\n"
            }
            "STATUS" => {
                step!("STATUS", &tag);
                "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3 HIGHESTMODSEQ 4)\r\n"
            }
            "NOTIFY" => {
                step!("NOTIFY", &tag);
                "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3)\r\n"
            }
            "IDLE" => {
                step!("IDLE", &tag);
                peer.say("* 1 EXISTS\r\n+ idling\r\n");
                idle = tag;
                continue;
            }
            "EXAMINE" => {
                step!("EXAMINE", &tag);
                "* FLAGS (\\Seen)\r\n* 1 EXISTS\r\n* OK [UIDVALIDITY 3] ok\r\n* OK [UIDNEXT 2] ok\r\n"
            }
            "UID" if line.contains("SEARCH") => {
                step!("SEARCH", &tag);
                peer.say(format!("* ESEARCH (TAG \"{tag}\") UID ALL 1\r\n"));
                ""
            }
            "UID" => {
                step!("FETCH", &tag);
                "* 1 FETCH (UID 1 FLAGS (\\Seen))\r\n"
            }
            _ => "",
        };
        peer.say(format!("{data}{tag} OK done\r\n"));
    }
}

/// Everything a watcher asks. What came of each step, refusals included.
fn exercise(fake: &Fake) -> Result<Vec<&'static str>, Failure> {
    let mut link = fake.open()?;
    let mut refused = Vec::new();
    let mut pass = |step, error: LinkError| match error {
        LinkError::Refused(_) => {
            refused.push(step);
            Ok(())
        }
        LinkError::Lost(failure) => Err(failure),
    };
    if let Err(error) = link.namespace() {
        pass("NAMESPACE", error)?;
    }
    match link.list("") {
        Ok(listed) => assert!(listed.iter().all(|l| l.name == "INBOX"), "{listed:?}"),
        Err(error) => pass("LIST", error)?,
    }
    let boxes = ["INBOX".to_owned()];
    match link.status(&boxes) {
        Ok(status) => {
            if status[0].is_none() {
                pass("STATUS", LinkError::Lost(Failure::new(Exit::Done, ""))).ok();
            }
        }
        Err(error) => pass("STATUS", error)?,
    }
    if let Err(error) = link.notify(&boxes) {
        pass("NOTIFY", error)?;
    }
    if let Err(error) = link.idle_start() {
        pass("IDLE", error)?;
    }
    link.events().map_err(LinkError::into_failure)?;
    link.idle_done(Duration::from_millis(400)).map_err(LinkError::into_failure)?;
    match link.look("INBOX", Opening::Examine, None) {
        Ok(look) => assert!(look.uids.len() <= 1 && look.flags.len() <= 1),
        Err(error) => pass("look", error)?,
    }
    link.log_out();
    Ok(refused)
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One fault at one step.
fn strike(step: &'static str, fault: Fault) {
    let fake = Fake::start(move |peer| converse(peer, step, fault));
    let begun = Instant::now();
    let came = exercise(&fake);
    let took = begun.elapsed();
    let what = format!("{fault:?} at {step}: {came:?} in {took:?}");
    // A step's time; six times that where the answer may be long, and
    // what reading 64 MiB takes in an unoptimised build.
    assert!(
        took < Duration::from_secs(if fault == Fault::EndlessLines { 30 } else { 6 }),
        "{what}"
    );
    if let Err(failure) = &came {
        assert!(!failure.text.contains('\x1b') && !failure.text.contains(PASSWORD), "{what}");
    }
    if took > Duration::from_secs(1) {
        println!("{what}");
    }
    let login = ["greeting", "CAPABILITY", "AUTHENTICATE"].contains(&step);
    match fault {
        Fault::Garbage | Fault::Unknown if step == "greeting" => {
            assert!(came.is_err(), "{what}");
        }
        Fault::Garbage | Fault::Unknown => assert_eq!(came, Ok(Vec::new()), "{what}"),
        Fault::BareOk | Fault::No | Fault::Continue => {}
        _ => assert!(came.is_err(), "{what}"),
    }
    if login && !matches!(fault, Fault::Garbage | Fault::Unknown | Fault::Continue | Fault::BareOk)
    {
        assert!(!fake.heard_password(), "{what}");
    }
    if let (Err(failure), "greeting" | "CAPABILITY") = (&came, step) {
        assert_ne!(failure.exit, Exit::Denied, "{what}");
    }
}

#[test]
fn g9_g10_every_fault_at_every_step_ends_in_time_and_small() {
    let before = peak_memory_kib();
    // The dialogue as such is sound.
    let fake = Fake::start(|peer| converse(peer, "nowhere", Fault::Close));
    assert_eq!(exercise(&fake).unwrap(), Vec::<&str>::new());
    assert!(fake.heard_password());

    std::thread::scope(|scope| {
        for step in STEPS {
            scope.spawn(move || FAULTS.map(|fault| strike(step, fault)));
        }
    });
    let grown = peak_memory_kib() - before;
    println!("grown by {grown} KiB at most");
    assert!(grown < 64 * 1024, "{grown} KiB");
}

#[test]
fn g10_a_flood_while_idling_ends_the_link_and_not_us() {
    for flood in
        [&b"* OK Still here\r\n"[..], b"* 5 EXISTS\r\n", b"* STATUS a (MESSAGES 1)\r\n", b"x"]
    {
        let mut fake = Fake::start(move |peer| {
            peer.say("* OK [CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN SASL-IR] hello\r\n");
            let flood = flood.repeat(5000);
            while let Some(line) = peer.hear() {
                let tag = line.split(' ').next().unwrap_or_default().to_owned();
                if line.contains("IDLE") {
                    peer.say("+ go\r\n");
                    while peer.say(&flood) {}
                    return;
                }
                peer.say(format!("{tag} OK [CAPABILITY IMAP4rev1 IDLE] done\r\n"));
            }
        });
        fake.section.timeout = Some(Duration::from_secs(5));
        let mut link = fake.open().unwrap();
        link.idle_start().unwrap();
        let begun = Instant::now();
        let mut kept = 0;
        let ended = loop {
            match link.events() {
                Ok(events) => kept = kept.max(events.len()),
                Err(error) => break error,
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
            if begun.elapsed() > Duration::from_secs(3) {
                // Slow enough to be taken in as it comes: then it is just talk.
                break LinkError::Lost(Failure::new(Exit::Offline, "kept up"));
            }
        };
        assert!(matches!(ended, LinkError::Lost(_)));
        assert!(kept <= 4097, "{kept}");
    }
}

#[test]
fn a_server_in_the_clear_is_not_believed_when_it_claims_to_know_us() {
    let fake = Fake::start(|peer| {
        peer.say("* PREAUTH hello\r\n");
        peer.wait_for_end();
    });
    let failure = fake.refusal();
    assert_eq!(failure.exit, Exit::Denied);
    assert!(failure.text.contains("PREAUTH"), "{failure}");
    let mut fake = fake;
    fake.section.tls = TlsMode::StartTls;
    let failure = fake.refusal();
    assert_eq!(failure.exit, Exit::Denied);
    assert!(failure.text.contains("STARTTLS"), "{failure}");
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
        let mut fake = Fake::start(move |peer| {
            peer.say("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN LOGIN] hello\r\n");
            assert_eq!(peer.hear().as_deref(), Some("s1 STARTTLS"));
            peer.say(answer);
            peer.wait_for_end();
        });
        fake.section.tls = TlsMode::StartTls;
        let failure = fake.refusal();
        assert!(matches!(failure.exit, Exit::Denied | Exit::Offline), "{failure}");
        let heard = fake.heard();
        assert!(heard.starts_with("s1 STARTTLS\r\n") || heard.is_empty());
        assert_eq!(heard.matches('\n').count(), 1, "nothing else in the clear: {heard}");
        if answer.contains("injected") {
            assert!(failure.text.contains("ahead of the TLS handshake"), "{failure}");
        }
    }
    // TLS from the first byte, and a server that speaks in the clear.
    let mut fake = Fake::start(|peer| {
        peer.say("* OK hello\r\n");
        peer.wait_for_end();
    });
    fake.section.tls = TlsMode::Imaps;
    assert_eq!(fake.refusal().exit, Exit::Offline);
    assert!(!fake.heard_password());
}

#[test]
fn an_unencrypted_login_needs_the_files_word() {
    let mut fake = Fake::start(|peer| {
        peer.say("* OK [CAPABILITY IMAP4rev1] hello\r\n");
        while let Some(line) = peer.hear() {
            let tag = line.split(' ').next().unwrap_or_default().to_owned();
            peer.say(format!("{tag} OK done\r\n"));
        }
    });
    fake.section.auth_mechs = vec!["*".to_owned()];
    assert_eq!(fake.refusal().exit, Exit::Denied);
    assert_eq!(fake.heard(), "");
    fake.section.auth_mechs = vec!["LOGIN".to_owned()];
    // A server that says nothing of itself can do nothing.
    assert!(fake.open().unwrap().capabilities().words().is_empty());
    assert!(fake.heard().starts_with(&format!("l1 LOGIN \"user\" \"{PASSWORD}\"\r\n")));
}

/// A server that offers `mechs` and lets `act` answer AUTHENTICATE.
fn sasl(mechs: &'static str, act: impl Fn(&mut Peer, &str) + Send + 'static) -> Fake {
    Fake::start(move |peer| {
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
fn tokens_are_said_as_the_mechanism_wants_and_refusals_are_answered() {
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
                    Ok(link) => assert!(accept && link.capabilities().idle()),
                    Err(failure) => {
                        assert!(!accept);
                        assert_eq!(failure.exit, Exit::Denied);
                        assert!(failure.text.contains("fresh token"), "{failure}");
                        assert!(!failure.text.contains(PASSWORD));
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
        assert_eq!(failure.exit, Exit::Denied, "{last}: {failure}");
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
    assert_eq!(fake.refusal().exit, Exit::Denied);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn what_passes_is_told_from_what_is_refused() {
    for (answer, exit) in [
        ("l1 NO [UNAVAILABLE] later\r\n", Exit::Later),
        ("l1 NO [INUSE] later\r\n", Exit::Later),
        ("l1 NO [LIMIT] later\r\n", Exit::Later),
        ("l1 NO [ALERT] Too many simultaneous connections. (Failure)\r\n", Exit::Later),
        ("l1 NO [AUTHENTICATIONFAILED] no\r\n", Exit::Denied),
        ("l1 NO no\r\n", Exit::Denied),
        ("l1 BAD no\r\n", Exit::Denied),
        ("* BYE [UNAVAILABLE] later\r\n", Exit::Later),
        ("* BYE go away\r\n", Exit::Offline),
    ] {
        let fake = sasl("AUTH=PLAIN SASL-IR", move |peer, _| {
            peer.say(answer);
        });
        assert_eq!(fake.refusal().exit, exit, "{answer}");
    }
}

#[test]
fn an_interrupt_ends_a_connect_at_once_at_every_step() {
    let all =
        ["greeting", "CAPABILITY", "AUTHENTICATE", "secret", "LIST", "NOTIFY", "IDLE", "FETCH"];
    an_interrupt_ends(Fault::Silence, &all);
    // Where there is always something to read, nothing is ever waited for.
    an_interrupt_ends(Fault::EndlessLines, &["LIST", "NOTIFY", "FETCH"]);
}

fn an_interrupt_ends(fault: Fault, steps: &[&'static str]) {
    for &step in steps {
        let mut fake = Fake::start(move |peer| converse(peer, step, fault));
        fake.section.timeout = Some(Duration::from_secs(30));
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let interrupt = Interrupt::when_readable(Arc::new(read));
        let ender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            drop(write);
        });
        let begun = Instant::now();
        let came = Link::open(&fake.section, false, &interrupt).and_then(|mut link| {
            let lost = LinkError::into_failure;
            link.list("").map_err(lost)?;
            link.notify(&["INBOX".to_owned()]).map_err(lost)?;
            link.idle_start().map_err(lost)?;
            link.look("INBOX", Opening::Examine, None).map(|_| ()).map_err(lost)
        });
        let failure = came.unwrap_err();
        assert_eq!(failure.exit, Exit::Later, "{step}: {failure}");
        let late = begun.elapsed().saturating_sub(Duration::from_millis(150));
        assert!(late < Duration::from_millis(400), "{step}: {late:?}");
        ender.join().unwrap();
    }
}
