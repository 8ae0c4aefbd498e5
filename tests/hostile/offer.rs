//! `--check HOST:PORT`, which says what a server offers before the login, and servers
//! that mean harm: at each step that it comes to, over TLS, in the clear and with STARTTLS.
//!
//! Looked at: that it ends, its exit status and what it says, its peak of memory, that
//! what it prints is short and has no control characters, and that nothing is written.

use crate::expected::{Expected, expected};
use crate::faults::{FAULTS, Fault};
use crate::library::in_parallel;
use crate::program::{MOST_GROWTH, run_and_measure};
use crate::server::{Fake, Peer, good_acceptor};
use crate::steps::{Script, Step, converse};
use mutt_sync::error::ExitStatus;
use rig::{Ca, Home};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A step has twenty seconds. At most it comes to the handshake of one connection and the
/// greeting of the next, or to three answers, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60 + 60);
/// Bytes on the terminal.
const MOST_SAID: usize = 4096;

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tls,
    Clear,
}

fn start(way: Way, act: impl Fn(&mut Peer) + Send + Sync + 'static) -> Fake {
    match way {
        Way::Tls => Fake::secure(good_acceptor().clone(), act),
        Way::Clear => Fake::start(act),
    }
}

/// Checks this server, and that little memory is taken beyond `least`.
fn check_bounded(fake: &Fake, expected: Expected, least: u64) -> Result<(), String> {
    let grown = check(fake, expected)?.saturating_sub(least);
    if grown > MOST_GROWTH { Err(format!("grown by {grown} KiB")) } else { Ok(()) }
}

/// Checks this server; the peak of memory in KiB.
fn check(fake: &Fake, expected: Expected) -> Result<u64, String> {
    let mut home = Home::empty();
    let authority = home.write("authority.pem", Ca::shared().cert());
    home.set_env("SSL_CERT_FILE", &authority.display().to_string());
    let name = format!("localhost:{}", fake.port);
    let (output, peak) = run_and_measure(home.cmd(&["--check", &name]), LIMIT)?;
    let (status, texts) = match expected {
        Expected::GoesOn => (ExitStatus::Done, &["login"][..]),
        Expected::Ends(status, texts) => (status, texts),
    };
    // Without the ends of lines that are too long.
    let said = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let ensure = |right: bool, why: &str| {
        if right { Ok(()) } else { Err(format!("{why} ({status:?}, {texts:?}): {output}")) }
    };
    ensure(output.code() == i32::from(status.code()), "exit status")?;
    ensure(texts.iter().any(|text| said.contains(text)), "text")?;
    ensure(output.stderr.is_empty() && output.stdout.len() < MOST_SAID, "length")?;
    let odd = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    ensure(!output.stdout.contains(odd), "control characters")?;
    ensure(!home.path(".local/state/mutt-sync").exists(), "something was written")?;
    Ok(peak)
}

/// What this fault must lead to.
fn expected_of(step: Step, fault: Fault) -> Expected {
    match (step, fault) {
        // Then it is asked without TLS.
        (Step::StartTls, Fault::No | Fault::Echo) => Expected::GoesOn,
        _ => expected(step, fault),
    }
}

type Cell = (Way, Step, Fault);

fn cell((way, step, fault): Cell, least: u64) -> Result<(), String> {
    let script = Script { step, fault: Some(fault) };
    let fake = start(way, move |peer| converse(peer, script));
    let checked = check_bounded(&fake, expected_of(step, fault), least).and_then(|()| {
        let struck = fake.heard.struck.load(Ordering::SeqCst) > 0;
        if struck { Ok(()) } else { Err("the step was not come to".to_owned()) }
    });
    checked.map_err(|why| format!("{fault:?} at {step:?}, {way:?}: {why}"))
}

fn baseline() -> u64 {
    let script = Script { step: Step::StartTls, fault: None };
    let fake = start(Way::Clear, move |peer| converse(peer, script));
    check(&fake, Expected::GoesOn).unwrap()
}

#[test]
fn g9_g10_the_check_of_a_server_outlives_every_fault() {
    let least = baseline();
    let steps = [
        (Way::Tls, Step::Greeting),
        (Way::Tls, Step::Capability),
        (Way::Clear, Step::Greeting),
        (Way::Clear, Step::StartTls),
    ];
    let cells: Vec<Cell> =
        steps.iter().flat_map(|(way, step)| FAULTS.map(|fault| (*way, *step, fault))).collect();
    let count = cells.len();
    let wrong = in_parallel(16, cells, |one| cell(one, least));
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Capabilities of so many bytes.
fn capabilities(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 20);
    text += "CAPABILITY IMAP4rev1";
    for n in 0_u32.. {
        if text.len() >= bytes {
            break;
        }
        let _ = write!(text, " AUTH=MECHANISM-{n}");
    }
    text
}

/// Greets, and answers CAPABILITY with this.
fn offers(peer: &mut Peer, said: &str) {
    peer.say("* OK hello\r\n");
    while let Some(line) = peer.hear() {
        let tag = line.split(' ').next().unwrap_or_default().to_owned();
        peer.say(format!("* {said}\r\n{tag} OK done\r\n"));
    }
}

/// As a record of the handshake, with a length that is never come to.
const RECORD: &[u8] = b"\x16\x03\x03\x40\x00";

/// A server: its name, how it is spoken to, what it does, and what must come of that.
type Row = (&'static str, Way, fn(&mut Peer), Expected);

const TRICKS: &str = "\x1b]0;canary\x07\x1b[2J\u{202e}";

const ROWS: [Row; 10] = [
    (
        "STARTTLS that is granted and not done",
        Way::Clear,
        |peer| {
            peer.say("* OK hello\r\n");
            if peer.hear().is_some_and(|line| line == "s1 STARTTLS") {
                peer.say("s1 OK go\r\n");
                peer.hear_bytes(5);
                peer.say("* BAD what\r\n");
            }
            peer.wait_for_end();
        },
        Expected::Ends(ExitStatus::Denied, &["does not speak TLS there"]),
    ),
    (
        "60 MiB of capabilities",
        Way::Tls,
        |peer| offers(peer, &capabilities(60 << 20)),
        Expected::Ends(ExitStatus::Offline, &["too much: a line"]),
    ),
    (
        "60 MiB of capabilities in the greeting",
        Way::Clear,
        |peer| _ = peer.say(format!("* OK [{}] hello\r\n", capabilities(60 << 20))),
        Expected::Ends(ExitStatus::Denied, &["too much: a line"]),
    ),
    (
        "as many mechanisms as a line may have",
        Way::Tls,
        |peer| offers(peer, &capabilities(60_000)),
        Expected::GoesOn,
    ),
    (
        "control characters in all that is said",
        Way::Tls,
        |peer| {
            let said = format!("CAPABILITY IMAP4rev1 AUTH={TRICKS} {TRICKS}");
            peer.say(format!("* OK [{said}] {TRICKS}\r\n"));
            offers(peer, &said);
        },
        Expected::GoesOn,
    ),
    (
        "control characters in a refusal",
        Way::Tls,
        |peer| _ = peer.say(format!("* BYE {TRICKS}\r\n")),
        Expected::Ends(ExitStatus::Offline, &["goodbye"]),
    ),
    (
        "a record of garbage",
        Way::Clear,
        |peer| {
            peer.say([RECORD, &[b'x'; 0x4000]].concat());
            peer.wait_for_end();
        },
        Expected::Ends(ExitStatus::Denied, &["handshake failed"]),
    ),
    (
        "a record byte by byte",
        Way::Clear,
        |peer| {
            peer.say(RECORD);
            Fault::Trickle.strike(peer, "*");
        },
        Expected::Ends(ExitStatus::Offline, &["no answer in time"]),
    ),
    (
        "an alert",
        Way::Clear,
        |peer| {
            peer.say(b"\x15\x03\x03\x00\x02\x02\x28");
            peer.wait_for_end();
        },
        Expected::Ends(ExitStatus::Denied, &["handshake failure"]),
    ),
    (
        "garbage without an end",
        Way::Clear,
        |peer| while peer.say([0xa5_u8; 65536]) {},
        Expected::Ends(ExitStatus::Denied, &["too much: a line"]),
    ),
];

#[test]
fn g9_g10_the_check_of_a_server_outlives_what_fits_into_no_table() {
    let least = baseline();
    let wrong = in_parallel(ROWS.len(), ROWS.to_vec(), |(name, way, act, expected)| {
        let checked = check_bounded(&start(way, act), expected, least);
        checked.map_err(|why| format!("{name}: {why}"))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
