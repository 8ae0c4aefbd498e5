//! A small blocking IMAP client: what a test needs to play the server's other
//! user. Plain TCP, every answer within ten seconds, any surprise a panic.

use crate::maildir::identity;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A logged-in connection.
pub struct Imap {
    stream: BufReader<TcpStream>,
    count: u32,
    /// What LIST says: the hierarchy delimiter.
    delimiter: char,
    /// The server has these.
    unselect: bool,
    literal_plus: bool,
    moves: bool,
}

/// A message on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMessage {
    /// Its UID.
    pub uid: u32,
    /// System flags and keywords, sorted, without `\Recent`.
    pub flags: Vec<String>,
    /// The header field, with its brackets; empty if there is none.
    pub message_id: String,
    /// Of the body, line ends evened out; as [`crate::Entry::digest`].
    pub digest: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl RemoteMessage {
    /// The flags as Maildir letters (DFPRST), sorted.
    pub fn letters(&self) -> String {
        let letter = |flag: &String| match flag.to_ascii_lowercase().as_str() {
            "\\draft" => Some('D'),
            "\\flagged" => Some('F'),
            "$forwarded" => Some('P'),
            "\\answered" => Some('R'),
            "\\seen" => Some('S'),
            "\\deleted" => Some('T'),
            _ => None,
        };
        let mut letters: Vec<char> = self.flags.iter().filter_map(letter).collect();
        letters.sort_unstable();
        letters.into_iter().collect()
    }
}

/// What STATUS says of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// MESSAGES.
    pub messages: u64,
    /// UNSEEN.
    pub unseen: u64,
    /// UIDNEXT.
    pub uidnext: u64,
    /// UIDVALIDITY.
    pub uidvalidity: u64,
    /// HIGHESTMODSEQ; 0 where the server has none.
    pub highestmodseq: u64,
}

/// One response line with its literals: the text has `{n}` where they stood.
struct Response {
    text: String,
    literals: Vec<Vec<u8>>,
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Appends flags, date and a message with CRLF line ends, as APPEND takes them.
fn literal(bytes: &mut Vec<u8>, message: &[u8], flags: &[&str], date: Option<&str>) {
    let mut crlf = Vec::with_capacity(message.len() + 32);
    for (at, &byte) in message.iter().enumerate() {
        if byte == b'\n' && (at == 0 || message[at - 1] != b'\r') {
            crlf.push(b'\r');
        }
        crlf.push(byte);
    }
    let date = date.map(|date| format!(" {}", quoted(date))).unwrap_or_default();
    let head = format!(" ({}){date} {{{}+}}\r\n", flags.join(" "), crlf.len());
    bytes.extend_from_slice(head.as_bytes());
    bytes.append(&mut crlf);
}

fn number_after(text: &str, word: &str) -> u64 {
    let mut words = text.split([' ', '(', ')']);
    words.find(|w| w.eq_ignore_ascii_case(word));
    words.next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

impl Imap {
    /// Connects and logs in.
    #[track_caller]
    pub fn login(port: u16, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to the test server");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("read timeout");
        let mut imap = Imap {
            stream: BufReader::new(stream),
            count: 0,
            delimiter: '/',
            unselect: false,
            literal_plus: false,
            moves: false,
        };
        let greeting = imap.response();
        assert!(greeting.text.starts_with("* OK"), "greeting: {}", greeting.text);
        imap.raw(&format!("LOGIN {} {}", quoted(user), quoted(password)));
        let can = imap.capabilities();
        let has = |word: &str| can.iter().any(|each| each == word);
        (imap.unselect, imap.literal_plus, imap.moves) =
            (has("UNSELECT"), has("LITERAL+"), has("MOVE"));
        let list = imap.raw("LIST \"\" \"\"");
        if let Some(delimiter) = list.iter().find_map(|line| line.split('"').nth(1)?.chars().next())
        {
            imap.delimiter = delimiter;
        }
        imap
    }

    /// The hierarchy delimiter.
    pub fn delimiter(&self) -> char {
        self.delimiter
    }

    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let n = self.stream.read_until(b'\n', &mut line).expect("the test server answers");
        assert_ne!(n, 0, "the test server closed the connection");
        while line.last().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
            line.pop();
        }
        line
    }

    fn response(&mut self) -> Response {
        let mut response = Response { text: String::new(), literals: Vec::new() };
        loop {
            let line = String::from_utf8_lossy(&self.line()).into_owned();
            response.text += &line;
            let size = line
                .strip_suffix('}')
                .and_then(|line| line.rsplit_once('{'))
                .and_then(|(_, size)| size.parse::<usize>().ok());
            let Some(size) = size else { return response };
            let mut literal = vec![0; size];
            self.stream.read_exact(&mut literal).expect("the test server sends its literal");
            response.literals.push(literal);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("write to the test server");
    }

    fn finish(&mut self, tag: &str, command: &str) -> Vec<Response> {
        let mut untagged = Vec::new();
        loop {
            let response = self.response();
            let Some(rest) = response.text.strip_prefix(tag) else {
                untagged.push(response);
                continue;
            };
            assert!(rest.starts_with(" OK"), "{command}: {rest}");
            untagged.push(Response { text: rest.trim_start().to_owned(), literals: Vec::new() });
            return untagged;
        }
    }

    fn command(&mut self, command: &str) -> Vec<Response> {
        self.count += 1;
        let tag = format!("t{}", self.count);
        self.send(format!("{tag} {command}\r\n").as_bytes());
        self.finish(&tag, command)
    }

    /// Sends a command and returns its untagged lines, the text of the tagged
    /// OK last. Fails the test on NO and BAD.
    #[track_caller]
    pub fn raw(&mut self, command: &str) -> Vec<String> {
        self.command(command).into_iter().map(|response| response.text).collect()
    }

    /// The capabilities now in force.
    pub fn capabilities(&mut self) -> Vec<String> {
        let lines = self.raw("CAPABILITY");
        lines
            .iter()
            .find_map(|line| line.strip_prefix("* CAPABILITY "))
            .map(|list| list.split(' ').map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Puts a message into a mailbox: how mail is delivered to the test server.
    /// Returns its UID.
    #[track_caller]
    pub fn append(&mut self, mailbox: &str, message: &[u8], flags: &[&str]) -> u32 {
        self.append_dated(mailbox, message, flags, None)
    }

    /// The same with an internal date, as `"23-Nov-2026 12:00:00 +0000"`.
    #[track_caller]
    pub fn append_dated(
        &mut self,
        mailbox: &str,
        message: &[u8],
        flags: &[&str],
        date: Option<&str>,
    ) -> u32 {
        self.count += 1;
        let tag = format!("t{}", self.count);
        let mut bytes = format!("{tag} APPEND {}", quoted(mailbox)).into_bytes();
        literal(&mut bytes, message, flags, date);
        bytes.extend_from_slice(b"\r\n");
        match bytes.windows(4).position(|w| w == b"+}\r\n").filter(|_| !self.literal_plus) {
            None => self.send(&bytes),
            Some(at) => {
                self.send(&[&bytes[..at], b"}\r\n"].concat());
                let go = self.response().text;
                assert!(go.starts_with('+'), "APPEND: {go}");
                self.send(&bytes[at + 4..]);
            }
        }
        let answer = self.finish(&tag, "APPEND");
        let text = answer.last().map(|response| response.text.clone()).unwrap_or_default();
        text.split("APPENDUID ")
            .nth(1)
            .and_then(|rest| rest.split([' ', ']']).nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("APPEND without APPENDUID: {text}"))
    }

    /// Puts many messages into a mailbox, some hundred with each command.
    #[track_caller]
    pub fn append_many(&mut self, mailbox: &str, messages: &[Vec<u8>], flags: &[&str]) {
        for some in messages.chunks(500) {
            self.count += 1;
            let tag = format!("t{}", self.count);
            let mut bytes = format!("{tag} APPEND {}", quoted(mailbox)).into_bytes();
            for message in some {
                literal(&mut bytes, message, flags, None);
            }
            bytes.extend_from_slice(b"\r\n");
            self.send(&bytes);
            self.finish(&tag, "APPEND");
        }
    }

    /// Selects a mailbox.
    #[track_caller]
    pub fn select(&mut self, mailbox: &str) {
        self.raw(&format!("SELECT {}", quoted(mailbox)));
    }

    /// Leaves the selected mailbox, expunging nothing.
    pub fn unselect(&mut self) {
        if self.unselect {
            self.raw("UNSELECT");
        } else {
            self.raw("EXAMINE INBOX");
            self.send(b"close CLOSE\r\n");
            // pymap refuses it.
            while !self.response().text.starts_with("close ") {}
        }
    }

    /// Adds flags to a message of the selected mailbox.
    #[track_caller]
    pub fn add_flags(&mut self, uid: u32, flags: &[&str]) {
        self.raw(&format!("UID STORE {uid} +FLAGS ({})", flags.join(" ")));
    }

    /// Removes flags from a message of the selected mailbox.
    #[track_caller]
    pub fn remove_flags(&mut self, uid: u32, flags: &[&str]) {
        self.raw(&format!("UID STORE {uid} -FLAGS ({})", flags.join(" ")));
    }

    /// Deletes a message of the selected mailbox for good.
    #[track_caller]
    pub fn expunge(&mut self, uid: u32) {
        self.add_flags(uid, &["\\Deleted"]);
        self.raw(&format!("UID EXPUNGE {uid}"));
    }

    /// Moves a message of the selected mailbox.
    #[track_caller]
    pub fn move_to(&mut self, uid: u32, mailbox: &str) {
        if self.moves {
            self.raw(&format!("UID MOVE {uid} {}", quoted(mailbox)));
        } else {
            self.raw(&format!("UID COPY {uid} {}", quoted(mailbox)));
            self.expunge(uid);
        }
    }

    /// Every message of a mailbox, in order of UID. Leaves it unselected.
    #[track_caller]
    pub fn fetch_all(&mut self, mailbox: &str) -> Vec<RemoteMessage> {
        self.raw(&format!("EXAMINE {}", quoted(mailbox)));
        let responses = self.command("UID FETCH 1:* (UID FLAGS BODY.PEEK[])");
        let mut messages: Vec<RemoteMessage> = responses
            .into_iter()
            .filter(|response| response.text.contains(" FETCH (") && response.text.contains("UID "))
            .map(|mut response| {
                let uid = u32::try_from(number_after(&response.text, "UID")).unwrap_or_default();
                let flags = response.text.split("FLAGS (").nth(1).unwrap_or_default();
                let flags = flags.split(')').next().unwrap_or_default();
                let mut flags: Vec<String> = flags
                    .split_whitespace()
                    .filter(|flag| !flag.eq_ignore_ascii_case("\\Recent"))
                    .map(str::to_owned)
                    .collect();
                flags.sort();
                let bytes = response.literals.pop().unwrap_or_default();
                let (message_id, digest) = identity(&bytes);
                RemoteMessage { uid, flags, message_id, digest, bytes }
            })
            .collect();
        messages.sort_by_key(|message| message.uid);
        self.unselect();
        messages
    }

    /// The one message whose text contains this.
    #[track_caller]
    pub fn find(&mut self, mailbox: &str, text: &str) -> RemoteMessage {
        let holds =
            |message: &RemoteMessage| String::from_utf8_lossy(&message.bytes).contains(text);
        let mut found: Vec<RemoteMessage> =
            self.fetch_all(mailbox).into_iter().filter(holds).collect();
        assert_eq!(found.len(), 1, "messages with {text:?} in {mailbox} on the server");
        found.remove(0)
    }

    /// STATUS of a mailbox.
    #[track_caller]
    pub fn status(&mut self, mailbox: &str) -> Status {
        let command = format!(
            "STATUS {} (MESSAGES UNSEEN UIDNEXT UIDVALIDITY HIGHESTMODSEQ)",
            quoted(mailbox)
        );
        let lines = self.raw(&command);
        let line = lines.iter().find(|line| line.starts_with("* STATUS")).expect("a STATUS line");
        let items = line.rsplit_once('(').map(|(_, items)| items).unwrap_or_default();
        Status {
            messages: number_after(items, "MESSAGES"),
            unseen: number_after(items, "UNSEEN"),
            uidnext: number_after(items, "UIDNEXT"),
            uidvalidity: number_after(items, "UIDVALIDITY"),
            highestmodseq: number_after(items, "HIGHESTMODSEQ"),
        }
    }

    /// Makes a mailbox.
    #[track_caller]
    pub fn create(&mut self, mailbox: &str) {
        self.raw(&format!("CREATE {}", quoted(mailbox)));
    }

    /// Removes a mailbox.
    #[track_caller]
    pub fn delete(&mut self, mailbox: &str) {
        self.raw(&format!("DELETE {}", quoted(mailbox)));
    }

    /// The names of all mailboxes that can be selected, sorted.
    #[track_caller]
    pub fn list(&mut self) -> Vec<String> {
        let responses = self.command("LIST \"\" \"*\"");
        let mut names: Vec<String> = responses
            .into_iter()
            .filter(|response| response.text.starts_with("* LIST"))
            .filter(|response| !response.text.to_ascii_lowercase().contains("\\noselect"))
            .map(|mut response| {
                if let Some(literal) = response.literals.pop() {
                    return String::from_utf8_lossy(&literal).into_owned();
                }
                // The delimiter is quoted, and the name may be.
                let rest = response.text.splitn(3, '"').nth(2).unwrap_or_default().trim();
                let name = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                name.map_or(rest.to_owned(), |n| n.replace("\\\"", "\"").replace("\\\\", "\\"))
            })
            .collect();
        names.sort();
        names
    }
}

impl Drop for Imap {
    fn drop(&mut self) {
        let _ = self.stream.get_mut().write_all(b"bye LOGOUT\r\n");
    }
}
