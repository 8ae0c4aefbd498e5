//! The notification as a desktop gets it: by the real notify-send, from a message bus
//! that is no more than this test needs.
#![allow(clippy::unwrap_used)]

use rig::{Home, run};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(30);

/// Values of the D-Bus wire format (little-endian), with its alignment.
#[derive(Default)]
struct Marshalled(Vec<u8>);

impl Marshalled {
    fn align(&mut self, to: usize) {
        while self.0.len() % to != 0 {
            self.0.push(0);
        }
    }

    fn number(&mut self, number: usize) {
        self.align(4);
        self.0.extend(u32::try_from(number).unwrap().to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.bytes().chain([0]));
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap());
        self.0.extend(signature.bytes().chain([0]));
    }
}

/// The same, read.
struct Unmarshalled<'a>(&'a [u8], usize);

impl Unmarshalled<'_> {
    fn align(&mut self, to: usize) {
        self.1 = self.1.next_multiple_of(to);
    }

    fn byte(&mut self) -> u8 {
        self.1 += 1;
        self.0[self.1 - 1]
    }

    fn number(&mut self) -> usize {
        self.align(4);
        self.1 += 4;
        u32::from_le_bytes(self.0[self.1 - 4..self.1].try_into().unwrap()) as usize
    }

    fn text_of(&mut self, length: usize) -> String {
        let text = String::from_utf8(self.0[self.1..self.1 + length].to_vec()).unwrap();
        self.1 += length + 1;
        text
    }

    fn text(&mut self) -> String {
        let length = self.number();
        self.text_of(length)
    }
}

/// Answers one program; each notification's summary and body are sent on.
fn serve(stream: UnixStream, notes: &Sender<(String, String)>) -> Option<()> {
    let (mut from, mut to) = (BufReader::new(stream.try_clone().unwrap()), stream);
    // First bytes as text: who it is.
    let mut zero = [0];
    from.read_exact(&mut zero).ok()?;
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let answer = match line.trim_end() {
            "BEGIN" => break,
            line if line.starts_with("AUTH EXTERNAL ") => "OK 1234567890abcdef1234567890abcdef\r\n",
            "AUTH EXTERNAL" => "DATA\r\n",
            "DATA" => "OK 1234567890abcdef1234567890abcdef\r\n",
            "NEGOTIATE_UNIX_FD" => "ERROR\r\n",
            _ => "REJECTED EXTERNAL\r\n",
        };
        to.write_all(answer.as_bytes()).ok()?;
    }
    for number in 1.. {
        let mut start = [0; 16];
        from.read_exact(&mut start).ok()?;
        let mut fixed = Unmarshalled(&start, 4);
        let (body_length, serial, fields_length) = (fixed.number(), fixed.number(), fixed.number());
        let mut rest = vec![0; fields_length.next_multiple_of(8) + body_length];
        from.read_exact(&mut rest).ok()?;
        let mut fields = Unmarshalled(&rest, 0);
        let mut member = String::new();
        while fields.1 < fields_length {
            fields.align(8);
            let code = fields.byte();
            let length = fields.byte();
            let value = match fields.text_of(length.into()).as_str() {
                "s" | "o" => fields.text(),
                "g" => {
                    let length = fields.byte();
                    fields.text_of(length.into())
                }
                _ => fields.number().to_string(),
            };
            if code == 3 {
                member = value;
            }
        }
        let mut body = Unmarshalled(&rest[fields_length.next_multiple_of(8)..], 0);
        let mut answer = Marshalled::default();
        let signature = match member.as_str() {
            "Hello" | "GetNameOwner" => {
                answer.text(":1.1");
                "s"
            }
            "GetServerInformation" => {
                for text in ["test", "test", "1", "1.2"] {
                    answer.text(text);
                }
                "ssss"
            }
            "StartServiceByName" => {
                answer.number(2);
                "u"
            }
            "Notify" => {
                let (_name, _replaces, _icon) = (body.text(), body.number(), body.text());
                notes.send((body.text(), body.text())).unwrap();
                answer.number(1);
                "u"
            }
            _ => "",
        };
        let mut reply = Marshalled(vec![b'l', 2, 1, 1]);
        reply.number(answer.0.len());
        reply.number(number);
        let mut fields = Marshalled::default();
        // REPLY_SERIAL, SENDER, SIGNATURE.
        fields.0.extend([5, 1, b'u', 0]);
        fields.number(serial);
        fields.align(8);
        fields.0.extend([7, 1, b's', 0]);
        fields.text("org.freedesktop.DBus");
        fields.align(8);
        fields.0.extend([8, 1, b'g', 0]);
        fields.signature(signature);
        reply.number(fields.0.len());
        reply.0.extend(fields.0);
        reply.align(8);
        reply.0.extend(answer.0);
        to.write_all(&reply.0).ok()?;
    }
    None
}

fn bus(path: &Path) -> Receiver<(String, String)> {
    let listener = UnixListener::bind(path).unwrap();
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream, &send);
        }
    });
    receive
}

/// Markup as the body has it (Desktop Notifications, "Markup"), read as text.
fn read_as_markup(body: &str) -> String {
    assert!(!body.contains(['<', '>']), "markup: {body}");
    body.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[test]
fn g10_no_subject_becomes_markup_in_the_notification() {
    let home = Home::empty();
    let notes = bus(&home.path("bus"));
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/hooks/notify-send");
    for text in [
        r#"\074a href="https://x/"\076click\074/a\076"#,
        r"\x3cb\x3e \74b\76",
        r"\\074b\\076 \\\074i\\\076",
        "<b>1 & 2</b> &lt;i&gt; &#60;u&#62;",
        r"ends in a backslash \",
        r"\n\t\b\f\r\v \377 \0 \q",
        "plain, and é \u{1f4e7}",
    ] {
        // No more than five are shown in a minute.
        home.write(".local/state/mutt-sync/notified", "1 0\n");
        for new in ["1", "3"] {
            let mut command = home.command(&hook);
            command
                .env("MUTT_SYNC_ACCOUNT", "Home")
                .env("MUTT_SYNC_BOX", "INBOX")
                .env("MUTT_SYNC_NEW", new)
                .env("MUTT_SYNC_FROM", text)
                .env("MUTT_SYNC_SUBJECT", text)
                .env(
                    "DBUS_SESSION_BUS_ADDRESS",
                    format!("unix:path={}", home.path("bus").display()),
                );
            run(&mut command, SHORT).ok();
            let (summary, body) = notes.recv_timeout(SHORT).unwrap();
            let (title, shown) = if new == "1" {
                (format!("{text} (Home)"), text.to_owned())
            } else {
                ("3 new messages in Home".to_owned(), format!("{text}: {text}"))
            };
            assert_eq!((summary, read_as_markup(&body)), (title, shown));
        }
    }
}
