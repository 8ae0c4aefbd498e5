//! What a server can do wrong, at whatever step.
//!
//! Knows nothing of the dialogue but the tag that an answer is due to.

use crate::server::Peer;
use crate::steps::STATUS;
use std::time::Duration;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Never answers.
    Silence,
    /// A byte now and then, for ever.
    Trickle,
    /// Closes the connection.
    Close,
    /// Closes it in the middle of a line.
    HalfLine,
    /// BYE.
    Bye,
    /// An answer to a command that was never given.
    WrongTag,
    /// OK and nothing else: also where a continuation is due.
    BareOk,
    /// NO, with a code that says that it may pass.
    No,
    /// NO, with what it was told: a password, perhaps.
    Echo,
    /// Asks for more.
    Continue,
    /// A line without an end.
    EndlessLine,
    /// Short lines without an end.
    EndlessLines,
    /// Long ones.
    EndlessLongLines,
    /// A literal of 2 GiB, and bytes to go with it.
    Literal,
    /// A literal too long for any number.
    HugeLiteral,
    /// Parentheses in parentheses in parentheses.
    Deep,
    /// 8-bit and NUL bytes, empty lines, things cut short.
    Garbage,
    /// Responses that nobody knows.
    Unknown,
    /// STATUS, LIST and FETCH of what was never asked about.
    Foreign,
    /// Mailboxes whose names would be paths, options, or terminal escapes.
    Names,
    /// One hundred thousand mailboxes.
    Crowd,
    /// Capabilities of another server, unasked.
    Promise,
    /// Thirty thousand attributes for each mailbox. In [`crate::bulk`] only, as
    /// are those below.
    Attributes,
    /// STATUS of the same mailbox, again and again.
    Again,
    /// Each UID in a response of its own.
    Uids,
}

pub const FAULTS: [Fault; 22] = [
    Fault::Silence,
    Fault::Trickle,
    Fault::Close,
    Fault::HalfLine,
    Fault::Bye,
    Fault::WrongTag,
    Fault::BareOk,
    Fault::No,
    Fault::Echo,
    Fault::Continue,
    Fault::EndlessLine,
    Fault::EndlessLines,
    Fault::EndlessLongLines,
    Fault::Literal,
    Fault::HugeLiteral,
    Fault::Deep,
    Fault::Garbage,
    Fault::Unknown,
    Fault::Foreign,
    Fault::Names,
    Fault::Crowd,
    Fault::Promise,
];

/// Names that no server should have. None may become a path, an option of
/// mbsync's, or an escape on a terminal.
pub const NAMES: [&str; 22] = [
    "../canary",
    "../../canary",
    "x/../../../canary",
    "..",
    ".",
    "",
    "/etc/canary",
    "/canary",
    "~/canary",
    "$HOME/canary",
    "`touch canary`",
    "$(touch canary)",
    "-a",
    "--all",
    "-c/etc/passwd",
    "*",
    "a,b",
    "cur",
    ".mbsyncstate",
    "esc\x1b]0;canary\x07\x1b[2J",
    "new\nline",
    "turn\u{202e}ed",
];

/// As a literal, which can hold anything.
pub fn literal(name: &str) -> String {
    format!("{{{}}}\r\n{name}", name.len())
}

/// What follows a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The dialogue goes on as if nothing had been said.
    GoesOn,
    /// The command has had its answer.
    Answered,
    /// The connection is over.
    Gone,
}

impl Fault {
    /// Does it.
    pub fn strike(self, peer: &mut Peer, tag: &str) -> Then {
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
                return Then::Answered;
            }
            Fault::No => {
                peer.say(format!("{tag} NO [LIMIT] not \x1b[2Jnow\r\n"));
                return Then::Answered;
            }
            Fault::Echo => {
                let last = peer.last.clone();
                peer.say(format!("{tag} NO you said {last}\r\n"));
                return Then::Answered;
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
            Fault::EndlessLongLines => {
                let line = [b"* X ".as_slice(), &vec![b'y'; 60_000], b"\r\n"].concat();
                while peer.say(&line) {}
            }
            Fault::Literal => {
                peer.say("* LIST () \"/\" {2147483647}\r\n");
                while peer.say(vec![b'x'; 65536]) {}
            }
            Fault::HugeLiteral => {
                peer.say("* LIST () \"/\" {99999999999999999999}\r\n");
                peer.wait_for_end();
            }
            Fault::Deep => {
                peer.say([b"* FETCH 1 ".to_vec(), b"(".repeat(50_000), b"\r\n".to_vec()].concat());
                peer.wait_for_end();
            }
            noise => {
                peer.say(noise.noise());
                return Then::GoesOn;
            }
        }
        Then::Gone
    }

    fn noise(self) -> Vec<u8> {
        match self {
            Fault::Garbage => b"* \xff\xfe \x00 \x80(((\"\r\n\r\n* \r\n*\r\n \r\n* 99999999999 EXISTS\r\n\
                * LIST () \"/\" \"\xe9\"\r\n* STATUS \"a\x00b\" (MESSAGES x)\r\n* LIST (\r\n\
                * STATUS INBOX (MESSAGES\r\n* 1 FETCH (UID 99999999999 FLAGS (\r\n"
                .to_vec(),
            Fault::Unknown => b"* XPUSH (a \"b\") {5}\r\n)\r\n( c\r\n* 5 XFOO bar\r\n* OK [XCODE y] hm\r\n\
                * ESEARCH (TAG \"none\") UID ALL 1:9\r\n* ID (\"name\" \"\x1b[2J\")\r\n"
                .to_vec(),
            Fault::Foreign => {
                let of = |name: &str| {
                    format!(
                        "* STATUS {name} (MESSAGES 1 UIDNEXT 7 UIDVALIDITY 9)\r\n\
                         * LIST (\\NonExistent) \"/\" {name}\r\n"
                    )
                };
                let mut said =
                    ["Secret", "../../etc/passwd", "inbox/../x", "INBOX/x"].map(of).concat();
                said += "* 4294967295 FETCH (UID 4294967295 FLAGS (\\Deleted))\r\n";
                said += "* 4294967295 EXPUNGE\r\n* VANISHED (EARLIER) 1:4294967295\r\n";
                said += "* OK [NOTIFICATIONOVERFLOW] \r\n";
                said.into_bytes()
            }
            Fault::Names => {
                let one = |name: &&str| {
                    let name = literal(name);
                    format!("* LIST () \"/\" {name}\r\n* STATUS {name} (MESSAGES 1)\r\n")
                };
                NAMES.iter().map(one).collect::<String>().into_bytes()
            }
            Fault::Crowd => {
                let one = |n: u32| format!("* LIST (\\HasNoChildren) \"/\" crowd/{n:06}\r\n");
                (0..100_000).map(one).collect::<String>().into_bytes()
            }
            Fault::Promise => {
                b"* CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR STARTTLS AUTH=PLAIN LIST-STATUS\r\n\
                * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] \r\n* ENABLED QRESYNC UTF8=ACCEPT\r\n"
                    .to_vec()
            }
            Fault::Attributes => {
                let line = format!("* LIST ({}) \"/\" ", "a ".repeat(30_000));
                let lines: Vec<String> = (0..40).map(|n| format!("{line}many{n}\r\n")).collect();
                lines.concat().into_bytes()
            }
            Fault::Again => format!("* STATUS INBOX ({STATUS})\r\n").repeat(120_000).into_bytes(),
            Fault::Uids => {
                let uids = (1..300_000).step_by(2).map(|uid| format!("* SEARCH {uid}\r\n"));
                uids.collect::<String>().into_bytes()
            }
            _ => Vec::new(),
        }
    }
}
