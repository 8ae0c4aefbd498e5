//! The whole table against the library: quick, and in one process, so that its
//! peak of memory is that of all of them together.

use crate::expected::{Expected, ends_by_time, expected};
use crate::faults::{FAULTS, Fault};
use crate::server::{Fake, PASSWORD, Peer, holds_password};
use crate::steps::{STEPS, Script, Step, converse};
use mutt_sync::error::{Error, ExitStatus};
use mutt_sync::imap::{Client, ClientError, InventoryScope, Opening};
use mutt_sync::model::{CredentialSource, Server, TlsMode};
use mutt_sync::os::child::Prompt;
use mutt_sync::os::wait::Cancel;
use rig::Ca;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A step's time where a fault ends by nothing else.
const SHORT: Duration = Duration::from_secs(1);
/// Where it does not: long enough for any machine.
const LONG: Duration = Duration::from_secs(30);

/// The section of a file that names this server.
pub fn section(port: u16) -> Server {
    Server {
        host: Some("127.0.0.1".to_owned()),
        port,
        user: Some(CredentialSource::Text(Zeroizing::new("user".to_owned()))),
        pass: Some(CredentialSource::Text(Zeroizing::new(PASSWORD.to_owned()))),
        tls: TlsMode::None,
        system_certificates: false,
        auth_mechs: vec!["PLAIN".to_owned()],
        timeout: Some(LONG),
        ..Server::default()
    }
}

/// The rig's CA, in a file.
pub fn ca_file() -> PathBuf {
    static FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Ca::shared().cert()).unwrap();
        file
    });
    file.path().to_owned()
}

/// The section with which this step is come to.
pub fn section_for(step: Step, port: u16) -> Server {
    let mut section = section(port);
    section.user = Some(CredentialSource::Text(Zeroizing::new(step.user().to_owned())));
    section.auth_mechs = vec![step.mechanism().to_owned()];
    if step == Step::StartTls {
        section.tls = TlsMode::StartTls;
        section.host = Some("localhost".to_owned());
        section.certificate_file = Some(ca_file());
    }
    section
}

/// Opens a connection to this; the failure, if it could not be.
pub fn open(section: &Server) -> Result<Client, Error> {
    Client::open(section, Prompt::Never, &Cancel::new().unwrap())
}

/// A server of any kind, and the section that names it.
pub struct Served {
    pub fake: Fake,
    pub section: Server,
}

impl Served {
    pub fn start(act: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let fake = Fake::start(act);
        let section = section(fake.port);
        Served { fake, section }
    }

    pub fn open(&self) -> Result<Client, Error> {
        open(&self.section)
    }

    #[track_caller]
    pub fn refusal(&self) -> Error {
        match self.open() {
            Ok(_) => panic!("let in"),
            Err(failure) => failure,
        }
    }

    /// Everything said to it in clear.
    pub fn heard(&self) -> String {
        self.fake.heard.in_clear()
    }

    pub fn heard_password(&self) -> bool {
        self.fake.heard.password()
    }
}

/// All mailboxes.
fn everything() -> InventoryScope {
    InventoryScope { prefixes: vec![String::new()], ..InventoryScope::default() }
}

/// Every question there is, one after the other. What is refused is passed over.
fn exercise(section: &Server) -> Result<(), Error> {
    let step = section.timeout.unwrap();
    let mut client = open(section)?;
    let pass = |error: ClientError| match error {
        ClientError::Refused(answer) => {
            assert!(!answer.text.contains('\x1b') && answer.text.len() < 1000, "{answer:?}");
            Ok(())
        }
        ClientError::Lost(failure) => Err(failure),
    };
    let can = client.capabilities().clone();
    client.inventory(&everything()).map_err(ClientError::into_error)?;
    let boxes = ["INBOX".to_owned()];
    if can.notify() {
        match client.notify(&boxes, &[]) {
            Ok(told) => assert!(told.len() <= 1, "{} for one mailbox", told.len()),
            Err(error) => pass(error)?,
        }
    } else {
        client.status(&boxes).map(drop).or_else(pass)?;
        client.open_mailbox("INBOX", Opening::Examine).map(drop).or_else(pass)?;
    }
    if can.idle() {
        client.idle_start().or_else(pass)?;
    }
    // What is said to IDLE may come in pieces, and is not waited for.
    assert!(client.events().map_err(ClientError::into_error)?.len() <= 4097);
    client.idle_done(step).map_err(ClientError::into_error)?;
    match client.scan("INBOX", Opening::Select, None) {
        Ok(look) => assert!(look.uids.len() <= 1 && look.flags.len() <= 2, "{look:?}"),
        Err(error) => pass(error)?,
    }
    client.log_out();
    Ok(())
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One cell: what came of it, if that is not right. Where it ends by time, a
/// busy machine may let an earlier step end so: then there is to be more time.
fn cell(step: Step, fault: Fault) -> Result<(), String> {
    for factor in [1, 3, 9] {
        if let Some(came) = try_cell(step, fault, SHORT * factor) {
            return came;
        }
    }
    Err(format!("{fault:?} at {step:?}: the step was not come to"))
}

/// `None`: the step was not come to.
fn try_cell(step: Step, fault: Fault, short: Duration) -> Option<Result<(), String>> {
    let fake = Fake::start(move |peer| converse(peer, Script { step, fault: Some(fault) }));
    let mut section = section_for(step, fake.port);
    let by_time = ends_by_time(step, fault) || (step, fault) == (Step::Idle, Fault::Continue);
    section.timeout = Some(if by_time { short } else { LONG });
    let begun = Instant::now();
    let came = exercise(&section);
    let took = begun.elapsed();
    let what = format!("{fault:?} at {step:?}: {came:?} in {took:?}");
    let ensure = |right: bool, why: &str| -> Result<(), String> {
        if right { Ok(()) } else { Err(format!("{why}: {what}")) }
    };
    // A bulk step has six times a step's time, and a few come one after the other;
    // the rest is for a busy machine. What does not end by itself shows here.
    let limit = if by_time { short * 20 } else { LONG } + Duration::from_secs(120);
    if fake.heard.struck.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let right = judged(step, fault, &came, &fake, &ensure);
    Some(right.and_then(|()| ensure(took < limit, "too slow")))
}

type Ensure<'a> = dyn Fn(bool, &str) -> Result<(), String> + 'a;

fn judged(
    step: Step,
    fault: Fault,
    came: &Result<(), Error>,
    fake: &Fake,
    ensure: &Ensure<'_>,
) -> Result<(), String> {
    match (expected(step, fault), came) {
        // The server says no more, and the end of IDLE is asked for here.
        (Expected::GoesOn, Err(_)) if (step, fault) == (Step::Idle, Fault::Continue) => {}
        (Expected::GoesOn, came) => ensure(came.is_ok(), "goes on")?,
        (Expected::Ends(exit, texts), Err(failure)) => {
            ensure(failure.status == exit, "exit status")?;
            ensure(texts.iter().any(|text| failure.to_string().contains(text)), "text")?;
        }
        (Expected::Ends(..), Ok(())) => ensure(false, "ends")?,
    }
    if let Err(failure) = came {
        ensure(!failure.to_string().contains(char::is_control), "control characters")?;
        ensure(failure.to_string().len() < 1000, "length")?;
        ensure(!holds_password(failure.to_string().as_bytes()), "password in the text")?;
        // What was asked for in the proper way has been told.
        let told = fault == Fault::Continue
            && matches!(step, Step::LoginLiteral | Step::Plain | Step::Xoauth2);
        if step.is_before_password() && !told {
            ensure(!fake.heard.password(), "password said")?;
        }
    }
    if step == Step::StartTls {
        ensure(!holds_password(fake.heard.in_clear().as_bytes()), "password in clear")?;
    }
    Ok(())
}

#[test]
fn g9_g10_g11_every_fault_at_every_step_ends_in_time_and_small() {
    // The dialogue as such is sound, and with TLS.
    for step in STEPS {
        let fake = Fake::start(move |peer| converse(peer, Script { step, fault: None }));
        exercise(&section_for(step, fake.port)).unwrap();
        let scram = step.mechanism().starts_with("SCRAM");
        assert_eq!(fake.heard.password(), !scram, "{step:?}");
    }
    let steps: Vec<Step> = STEPS.into_iter().filter(|step| *step != Step::HandOver).collect();
    let before = peak_memory_kib();
    let cells: Vec<(Step, Fault)> =
        steps.iter().flat_map(|step| FAULTS.map(|fault| (*step, fault))).collect();
    let count = cells.len();
    let begun = Instant::now();
    let wrong = in_parallel(48, cells, |(step, fault)| cell(step, fault));
    let grown = peak_memory_kib() - before;
    println!("{count} cells in {:?}; grown by {grown} KiB at most", begun.elapsed());
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Ours and the servers' together, 48 at once.
    assert!(grown < 48 * 4 * 1024, "{grown} KiB");
}

/// Does this to all of them, so many at once; what went wrong.
pub fn in_parallel<T: Send + Copy>(
    threads: usize,
    all: Vec<T>,
    act: impl Fn(T) -> Result<(), String> + Sync,
) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let all = Mutex::new(all);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    let Some(one) = all.lock().unwrap().get(at).copied() else { return };
                    if let Err(why) = act(one) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

#[test]
fn g10_a_flood_while_idling_ends_the_link_and_not_us() {
    for flood in
        [&b"* OK Still here\r\n"[..], b"* 5 EXISTS\r\n", b"* STATUS a (MESSAGES 1)\r\n", b"x"]
    {
        let fake = Fake::start(move |peer| {
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
        let mut section = section(fake.port);
        section.timeout = Some(Duration::from_secs(5));
        let mut client = open(&section).unwrap();
        client.idle_start().unwrap();
        let begun = Instant::now();
        let mut kept = 0;
        let ended = loop {
            match client.events() {
                Ok(events) => kept = kept.max(events.len()),
                Err(error) => break error,
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
            if begun.elapsed() > Duration::from_secs(3) {
                // Slow enough to be taken in as it comes: then it is just talk.
                break ClientError::Lost(Error::new(ExitStatus::Offline, "kept up"));
            }
        };
        assert!(matches!(ended, ClientError::Lost(_)));
        assert!(kept <= 4097, "{kept}");
    }
}

#[test]
fn an_interrupt_ends_a_connect_at_once_at_every_step() {
    use Step::{Capability, Fetch, Greeting, Idle, List, Notify, Plain, PlainSecret};
    let all = [Greeting, Capability, Plain, PlainSecret, List, Notify, Idle, Fetch];
    an_interrupt_ends(Fault::Silence, &all);
    // Where there is always something to read, nothing is ever waited for.
    an_interrupt_ends(Fault::EndlessLines, &[List, Notify, Fetch]);
}

fn an_interrupt_ends(fault: Fault, steps: &[Step]) {
    for &step in steps {
        let fake = Fake::start(move |peer| converse(peer, Script { step, fault: Some(fault) }));
        let section = section_for(step, fake.port);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let interrupt = Cancel::when_readable(Arc::new(read));
        let ender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            drop(write);
        });
        let begun = Instant::now();
        let came = Client::open(&section, Prompt::Never, &interrupt).and_then(|mut client| {
            let lost = ClientError::into_error;
            client.inventory(&everything()).map_err(lost)?;
            client.notify(&["INBOX".to_owned()], &[]).map_err(lost)?;
            client.idle_start().map_err(lost)?;
            client.scan("INBOX", Opening::Examine, None).map(|_| ()).map_err(lost)
        });
        let failure = came.unwrap_err();
        assert_eq!(failure.status, ExitStatus::Later, "{step:?}: {failure}");
        let late = begun.elapsed().saturating_sub(Duration::from_millis(150));
        assert!(late < Duration::from_secs(5), "{step:?}: {late:?}");
        ender.join().unwrap();
    }
}
