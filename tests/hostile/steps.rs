//! The dialogue, step by step: a server that behaves but for one fault at one
//! of them.

use crate::faults::{Fault, Then};
use crate::server::{PASSWORD, Peer, good_acceptor};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A place in the dialogue at which the server has the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Greeting,
    StartTls,
    /// CAPABILITY before the login.
    Capability,
    /// `LOGIN "user" "password"`.
    Login,
    /// LOGIN with literals, at the first.
    LoginLiteral,
    /// `AUTHENTICATE PLAIN`.
    Plain,
    /// Its answer, in which the password is.
    PlainSecret,
    Xoauth2,
    Xoauth2Token,
    Scram,
    ScramFirst,
    ScramFinal,
    /// CAPABILITY after the login.
    Capable,
    Namespace,
    List,
    Notify,
    /// STATUS of a server without NOTIFY.
    MailboxStatus,
    /// EXAMINE, to idle in.
    Examine,
    /// SELECT, for a look.
    Select,
    Search,
    Fetch,
    Unselect,
    /// STATUS after a look.
    StatusAfter,
    Idle,
    Done,
    /// A command of mbsync's on a connection that was handed over to it.
    HandOver,
}

pub const STEPS: [Step; 26] = [
    Step::Greeting,
    Step::StartTls,
    Step::Capability,
    Step::Login,
    Step::LoginLiteral,
    Step::Plain,
    Step::PlainSecret,
    Step::Xoauth2,
    Step::Xoauth2Token,
    Step::Scram,
    Step::ScramFirst,
    Step::ScramFinal,
    Step::Capable,
    Step::Namespace,
    Step::List,
    Step::Notify,
    Step::MailboxStatus,
    Step::Examine,
    Step::Select,
    Step::Search,
    Step::Fetch,
    Step::Unselect,
    Step::StatusAfter,
    Step::Idle,
    Step::Done,
    Step::HandOver,
];

impl Step {
    /// The user's `AuthMechs` with which it is come to.
    pub fn mechanism(self) -> &'static str {
        match self {
            Step::Plain | Step::PlainSecret => "PLAIN",
            Step::Xoauth2 | Step::Xoauth2Token => "XOAUTH2",
            Step::Scram | Step::ScramFirst | Step::ScramFinal => "SCRAM-SHA-256",
            _ => "LOGIN",
        }
    }

    /// The user's name: one that cannot be quoted makes LOGIN use literals.
    pub fn user(self) -> &'static str {
        if self == Step::LoginLiteral { "us\u{e9}r" } else { "user" }
    }

    /// Whether the server has NOTIFY.
    pub fn has_notify(self) -> bool {
        !matches!(self, Step::MailboxStatus | Step::Examine | Step::Done)
    }

    /// Whether the login is still to come: no password may have been said,
    /// unless the server goes on as if nothing had been.
    pub fn is_before_password(self) -> bool {
        use Step::{
            Capability, Greeting, LoginLiteral, Plain, Scram, ScramFinal, ScramFirst, StartTls,
            Xoauth2,
        };
        let before = [Greeting, StartTls, Capability, LoginLiteral, Plain, Xoauth2];
        before.contains(&self) || [Scram, ScramFirst, ScramFinal].contains(&self)
    }

    /// Whether the login has not succeeded yet.
    pub fn is_login(self) -> bool {
        self < Step::Capable
    }

    /// Whether the answer may be long, so that it has six times a step's time.
    pub fn is_bulk(self) -> bool {
        use Step::{
            Fetch, List, MailboxStatus, Namespace, Notify, Search, Select, StatusAfter, Unselect,
        };
        matches!(
            self,
            Namespace
                | List
                | Notify
                | MailboxStatus
                | Select
                | Search
                | Fetch
                | Unselect
                | StatusAfter
        )
    }
}

/// One server: which fault, and where.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub step: Step,
    /// `None`: none at all.
    pub fault: Option<Fault>,
}

/// A server that behaves but for its fault.
pub fn converse(peer: &mut Peer, script: Script) {
    let strike = |peer: &mut Peer, step: Step, tag: &str| -> Option<Then> {
        let fault = script.fault.filter(|_| step == script.step)?;
        peer.heard.struck.fetch_add(1, Ordering::SeqCst);
        Some(fault.strike(peer, tag))
    };
    macro_rules! at {
        ($step:expr, $tag:expr) => {
            match strike(peer, $step, $tag) {
                None | Some(Then::GoesOn) => {}
                Some(Then::Answered) => continue,
                Some(Then::Gone) => return,
            }
        };
    }
    match strike(peer, Step::Greeting, "*") {
        // Said instead of a greeting, it is one, or none.
        Some(Then::Answered) => {}
        Some(Then::Gone) => return,
        None | Some(Then::GoesOn) => {
            peer.say("* OK hello\r\n");
        }
    }
    let mut idle = String::new();
    let mut secured = false;
    let mut watched = false;
    while let Some(line) = peer.hear() {
        let mut words = line.split(' ');
        let tag = words.next().unwrap_or_default().to_owned();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        if tag == "DONE" {
            at!(Step::Done, &idle);
            peer.say(format!("{idle} OK done\r\n"));
            continue;
        }
        // Our tags begin with a letter, mbsync's do not: it is another that speaks
        // over our connection now.
        watched |= tag.starts_with('m');
        if watched && tag.starts_with(|c: char| c.is_ascii_digit()) {
            if script.fault == Some(Fault::Trickle) && script.step == Step::HandOver {
                // mbsync's patience is its own; ours with it is `stall`.
                peer.heard.struck.fetch_add(1, Ordering::SeqCst);
                while peer.say("*") {
                    std::thread::sleep(Duration::from_secs(1));
                }
                return;
            }
            at!(Step::HandOver, &tag);
        }
        let data = match verb.as_str() {
            "STARTTLS" => {
                match strike(peer, Step::StartTls, &tag) {
                    None | Some(Then::GoesOn) => {}
                    // A handshake may have bytes in it that look like a command.
                    Some(Then::Answered) => return peer.wait_for_end(),
                    Some(Then::Gone) => return,
                }
                peer.say(format!("{tag} OK go\r\n"));
                if !peer.secure(good_acceptor()) {
                    return;
                }
                secured = true;
                continue;
            }
            "CAPABILITY" => {
                let before = tag.starts_with('c')
                    || !watched && tag.starts_with(|c: char| c.is_ascii_digit());
                at!(if before { Step::Capability } else { Step::Capable }, &tag);
                let before_login = format!(
                    "* CAPABILITY IMAP4rev1{} {}\r\n",
                    if script.step == Step::StartTls && !secured { " STARTTLS" } else { "" },
                    match script.step.mechanism() {
                        "LOGIN" => String::new(),
                        other => format!("AUTH={other}"),
                    },
                );
                if before { before_login } else { format!("* CAPABILITY {}\r\n", after(script)) }
            }
            "LOGIN" => {
                watched |= tag == "l1";
                if line.ends_with('}') {
                    at!(Step::LoginLiteral, &tag);
                    if !literals(peer, &line) {
                        return;
                    }
                } else {
                    at!(Step::Login, &tag);
                }
                String::new()
            }
            "AUTHENTICATE" => {
                match authenticate(peer, &line, &strike) {
                    Some(Then::GoesOn) => {}
                    Some(Then::Answered) => continue,
                    Some(Then::Gone) | None => return,
                }
                String::new()
            }
            "NAMESPACE" => {
                at!(Step::Namespace, &tag);
                "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n".to_owned()
            }
            "LIST" => {
                at!(Step::List, &tag);
                "* LIST () \"/\" INBOX\r\n".to_owned()
            }
            "STATUS" => {
                at!(
                    if idle.is_empty() && script.step == Step::MailboxStatus {
                        Step::MailboxStatus
                    } else {
                        Step::StatusAfter
                    },
                    &tag
                );
                format!("* STATUS INBOX ({STATUS})\r\n")
            }
            "NOTIFY" => {
                if line.contains("NONE") {
                    peer.say(format!("{tag} OK done\r\n"));
                    continue;
                }
                at!(Step::Notify, &tag);
                format!("* STATUS INBOX ({STATUS})\r\n")
            }
            "IDLE" => {
                at!(Step::Idle, &tag);
                peer.say("+ idling\r\n");
                idle = tag;
                let first = peer.heard.idled.fetch_add(1, Ordering::SeqCst) == 0;
                if script.step == Step::Done && first {
                    peer.say("* 2 EXISTS\r\n");
                }
                if script.step == Step::HandOver && first {
                    peer.say(
                        "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3 HIGHESTMODSEQ 5)\r\n",
                    );
                }
                continue;
            }
            "EXAMINE" | "SELECT" => {
                at!(if verb == "SELECT" { Step::Select } else { Step::Examine }, &tag);
                "* FLAGS (\\Seen)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n\
                 * OK [PERMANENTFLAGS (\\Seen \\*)] ok\r\n\
                 * OK [UIDVALIDITY 3] ok\r\n* OK [UIDNEXT 2] ok\r\n"
                    .to_owned()
            }
            "UID" if line.contains("SEARCH") => {
                at!(Step::Search, &tag);
                format!("* ESEARCH (TAG \"{tag}\") UID ALL 1\r\n")
            }
            "UID" if line.contains("FETCH") => {
                at!(Step::Fetch, &tag);
                // mbsync 1.5 takes no attribute that it has not asked for.
                let modseq = if line.contains("CHANGEDSINCE") { " MODSEQ (4)" } else { "" };
                format!("* 1 FETCH (UID 1 FLAGS (\\Seen){modseq})\r\n")
            }
            "UNSELECT" => {
                at!(Step::Unselect, &tag);
                String::new()
            }
            "LOGOUT" => {
                peer.say(format!("* BYE\r\n{tag} OK done\r\n"));
                return;
            }
            _ => String::new(),
        };
        peer.say(format!("{data}{tag} OK done\r\n"));
    }
}

/// That of the mailbox, which is as mbsync's record has it.
pub const STATUS: &str = "MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3 HIGHESTMODSEQ 4";

fn after(script: Script) -> &'static str {
    if script.step.has_notify() {
        "IMAP4rev1 IDLE NOTIFY NAMESPACE ESEARCH CONDSTORE UNSELECT"
    } else {
        "IMAP4rev1 IDLE NAMESPACE ESEARCH CONDSTORE UNSELECT"
    }
}

/// The rest of `LOGIN {n}`. False if the client is gone.
fn literals(peer: &mut Peer, line: &str) -> bool {
    let mut line = line.to_owned();
    while let Some((_, length)) = line.trim_end_matches('}').rsplit_once('{') {
        if !line.ends_with('}') {
            break;
        }
        peer.say("+ go\r\n");
        let Ok(length) = length.parse() else { return false };
        if peer.hear_bytes(length).is_none() {
            return false;
        }
        let Some(next) = peer.hear() else { return false };
        line = next;
    }
    true
}

type Strike<'a> = dyn Fn(&mut Peer, Step, &str) -> Option<Then> + 'a;

/// AUTHENTICATE, whichever; `None`: the client is gone.
fn authenticate(peer: &mut Peer, line: &str, strike: &Strike<'_>) -> Option<Then> {
    let mut words = line.split(' ');
    let tag = words.next()?.to_owned();
    let mechanism = words.nth(1)?.to_owned();
    let steps: &[Step] = match mechanism.as_str() {
        "PLAIN" => &[Step::Plain, Step::PlainSecret],
        "XOAUTH2" => &[Step::Xoauth2, Step::Xoauth2Token],
        _ => &[Step::Scram, Step::ScramFirst, Step::ScramFinal],
    };
    let struck = |peer: &mut Peer, at: usize| match strike(peer, *steps.get(at)?, &tag) {
        None | Some(Then::GoesOn) => None,
        other => other,
    };
    if let Some(then) = struck(peer, 0) {
        return Some(then);
    }
    peer.say("+ \r\n");
    let first = peer.hear()?;
    if let Some(then) = struck(peer, 1) {
        return Some(then);
    }
    if steps.len() < 3 {
        return Some(Then::GoesOn);
    }
    let first = String::from_utf8(STANDARD.decode(first).ok()?).ok()?;
    let bare = first.strip_prefix("n,,")?;
    let nonce = bare.rsplit("r=").next()?;
    let challenge = format!("r={nonce}server,s={},i=4096", STANDARD.encode("salt"));
    peer.say(format!("+ {}\r\n", STANDARD.encode(&challenge)));
    peer.hear()?;
    if let Some(then) = struck(peer, 2) {
        return Some(then);
    }
    let proof = server_signature(&format!("{bare},{challenge},c=biws,r={nonce}server"));
    peer.say(format!("+ {}\r\n", STANDARD.encode(format!("v={proof}"))));
    peer.hear()?;
    Some(Then::GoesOn)
}

/// RFC 5802, the server's side.
fn server_signature(signed: &str) -> String {
    let digest = MessageDigest::sha256();
    let hmac = |key: &[u8], data: &[u8]| {
        let key = PKey::hmac(key).unwrap();
        Signer::new(digest, &key).unwrap().sign_oneshot_to_vec(data).unwrap()
    };
    let mut salted = [0; 32];
    openssl::pkcs5::pbkdf2_hmac(PASSWORD.as_bytes(), b"salt", 4096, digest, &mut salted).unwrap();
    STANDARD.encode(hmac(&hmac(&salted, b"Server Key"), signed.as_bytes()))
}
