//! A server of few words, in the clear, that can wait before it lets anybody in,
//! and that repeats what it was told.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::{MessageDigest, hash};
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

pub const SALT: &[u8] = b"salt of the sea";
pub const ROUNDS: usize = 4096;

/// What it answers to a login.
#[derive(Clone)]
pub enum RunOptions {
    /// Lets in a client that sends the password, on request; then answers nothing.
    Accept { password: String },
    /// Repeats what was said and the password, in these words: `{}` is it.
    Echo { password: String, words: String },
}

#[derive(Default)]
struct Shared {
    /// Logins that were said in full.
    said: usize,
    /// Lines that came after a login.
    after: usize,
    /// Logins may be answered.
    open: bool,
    connections: Vec<TcpStream>,
    ended: bool,
}

pub struct Fake {
    port: u16,
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl Fake {
    pub fn start(manner: RunOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<(Mutex<Shared>, Condvar)> = Arc::default();
        let ours = shared.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut state = ours.0.lock().unwrap();
                if state.ended {
                    break;
                }
                state.connections.push(stream.try_clone().unwrap());
                drop(state);
                let (manner, shared) = (manner.clone(), ours.clone());
                std::thread::spawn(move || Peer { stream, buffer: vec![], shared }.serve(&manner));
            }
        });
        Fake { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Logins that wait for their answer, or have had it.
    pub fn said(&self) -> usize {
        self.shared.0.lock().unwrap().said
    }

    /// Commands that came after a login.
    pub fn after(&self) -> usize {
        self.shared.0.lock().unwrap().after
    }

    /// Answers logins from now on.
    pub fn open(&self) {
        self.shared.0.lock().unwrap().open = true;
        self.shared.1.notify_all();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock().unwrap();
        state.ended = true;
        state.open = true;
        for stream in &state.connections {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.1.notify_all();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

const OFFERS: &str = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 AUTH=SCRAM-SHA-256";

impl Peer {
    fn say(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(text.as_bytes()).ok()
    }

    fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(count) if count > 0 => self.buffer.extend_from_slice(&chunk[..count]),
                _ => return None,
            }
        }
    }

    fn serve(mut self, manner: &RunOptions) -> Option<()> {
        self.say(&format!("* OK [CAPABILITY {OFFERS}] hello\r\n"))?;
        loop {
            let line = self.hear()?;
            let mut words = line.split(' ');
            let tag = words.next()?.to_owned();
            match words.next()?.to_ascii_uppercase().as_str() {
                "CAPABILITY" => {
                    self.say(&format!("* CAPABILITY {OFFERS}\r\n{tag} OK done\r\n"))?;
                }
                "LOGIN" => {
                    self.login(manner, &tag, &line)?;
                }
                "AUTHENTICATE" => {
                    let mechanism = words.next()?;
                    let first = words.next()?;
                    if mechanism == "SCRAM-SHA-256" {
                        let RunOptions::Accept { password } = manner else { return None };
                        self.scram(first, password)?;
                    }
                    self.login(manner, &tag, &line)?;
                }
                "LOGOUT" => self.say(&format!("* BYE then\r\n{tag} OK\r\n"))?,
                _ => self.say(&format!("{tag} BAD not here\r\n"))?,
            }
        }
    }

    fn login(&mut self, manner: &RunOptions, tag: &str, line: &str) -> Option<()> {
        match manner {
            RunOptions::Accept { password } => {
                let decoded = line
                    .split(' ')
                    .filter_map(|word| STANDARD.decode(word).ok())
                    .any(|bytes| String::from_utf8_lossy(&bytes).contains(password));
                let scram = line.contains("SCRAM");
                assert!(scram || decoded || line.contains(password), "not the password");
                self.wait_for_leave();
                self.say(&format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
                // Nobody answers what is asked next: the client waits.
                self.hear()?;
                self.shared.0.lock().unwrap().after += 1;
                while self.hear().is_some() {}
                None
            }
            RunOptions::Echo { password, words } => {
                self.shared.0.lock().unwrap().said += 1;
                let told = format!("{password} {line}");
                let text = words.replace("{}", &told).replace("TAG", tag);
                self.say(&text)
            }
        }
    }

    /// Notes that a login was said, and waits until it may be answered.
    fn wait_for_leave(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.said += 1;
        while !state.open {
            state = self.shared.1.wait(state).unwrap();
        }
    }

    /// RFC 5802 from the server's side, up to the last message but one.
    fn scram(&mut self, first: &str, password: &str) -> Option<()> {
        let first = String::from_utf8(STANDARD.decode(first).ok()?).ok()?;
        let bare = first.strip_prefix("n,,")?;
        let nonce = bare.split(",r=").nth(1)?;
        let challenge = format!("r={nonce}beacon,s={},i={ROUNDS}", STANDARD.encode(SALT));
        self.say(&format!("+ {}\r\n", STANDARD.encode(&challenge)))?;
        let last = String::from_utf8(STANDARD.decode(self.hear()?).ok()?).ok()?;
        let (without_proof, proof) = last.split_once(",p=")?;
        let keys = Keys::of(password);
        let signed = format!("{bare},{challenge},{without_proof}");
        let signature = hmac(&keys.stored, signed.as_bytes());
        let expected: Vec<u8> = keys.client.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(STANDARD.decode(proof).ok()?, expected, "not the password");
        self.wait_for_leave();
        let proof = STANDARD.encode(hmac(&keys.server, signed.as_bytes()));
        self.say(&format!("+ {}\r\n", STANDARD.encode(format!("v={proof}"))))?;
        self.hear()?;
        Some(())
    }
}

/// What SCRAM makes of a password: each is as good as it.
pub struct Keys {
    pub salted: Vec<u8>,
    pub client: Vec<u8>,
    pub server: Vec<u8>,
    stored: Vec<u8>,
}

impl Keys {
    pub fn of(password: &str) -> Self {
        let mut salted = vec![0; 32];
        let digest = MessageDigest::sha256();
        pbkdf2_hmac(password.as_bytes(), SALT, ROUNDS, digest, &mut salted).unwrap();
        let client = hmac(&salted, b"Client Key");
        let server = hmac(&salted, b"Server Key");
        let stored = hash(digest, &client).unwrap().to_vec();
        Keys { salted, client, server, stored }
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.sign_oneshot_to_vec(data).unwrap()
}
