//! The server's end: connections, what is heard on them, and whether the
//! password is in it.
//!
//! Knows sockets and TLS; what is said stands in [`crate::steps`].

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use native_tls::{Identity, TlsAcceptor, TlsStream};
use rig::{Ca, Certificate};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The user's password. It must not be found where it does not belong.
pub const PASSWORD: &str = "canary-password-of-some-length";

/// Whether the password stands in this, in clear or in BASE64.
pub fn holds_password(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    // Long enough that chance does not make it, short enough to find half of one.
    let part = &PASSWORD[..12];
    let decoded = |word: &str| {
        let word = word.trim_end_matches('=');
        // A server may have cut it anywhere.
        let whole = &word[..word.len() / 4 * 4];
        STANDARD_NO_PAD
            .decode(word)
            .or_else(|_| STANDARD.decode(whole))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(part))
    };
    text.contains(part)
        || text
            .split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)))
            .any(|word| word.len() >= 12 && decoded(word))
}

/// All that was heard.
#[derive(Default)]
pub struct Heard {
    clear: Mutex<Vec<u8>>,
    secure: Mutex<Vec<u8>>,
    /// Connections so far.
    pub connections: AtomicUsize,
    /// Faults so far.
    pub struck: AtomicUsize,
    /// Connections on which IDLE was begun.
    pub idled: AtomicUsize,
}

impl Heard {
    /// In clear text.
    pub fn in_clear(&self) -> String {
        String::from_utf8_lossy(&self.clear.lock().unwrap()).into_owned()
    }

    /// Over TLS, after the handshake.
    pub fn in_secret(&self) -> String {
        String::from_utf8_lossy(&self.secure.lock().unwrap()).into_owned()
    }

    /// Whether the password was said, in whatever way.
    pub fn password(&self) -> bool {
        holds_password(self.in_clear().as_bytes()) || holds_password(self.in_secret().as_bytes())
    }
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Only while the handshake lasts.
    Neither,
}

/// One connection.
pub struct Peer {
    stream: Stream,
    buffer: Vec<u8>,
    /// The last line heard.
    pub last: String,
    pub heard: Arc<Heard>,
}

impl Peer {
    /// False when the client is gone.
    pub fn say(&mut self, text: impl AsRef<[u8]>) -> bool {
        let text = text.as_ref();
        match &mut self.stream {
            Stream::Clear(stream) => stream.write_all(text).is_ok(),
            Stream::Tls(stream) => stream.write_all(text).is_ok(),
            Stream::Neither => false,
        }
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let (read, kept) = match &mut self.stream {
            Stream::Clear(stream) => (stream.read(&mut chunk), &self.heard.clear),
            Stream::Tls(stream) => (stream.read(&mut chunk), &self.heard.secure),
            Stream::Neither => return false,
        };
        let Ok(count @ 1..) = read else { return false };
        kept.lock().unwrap().extend_from_slice(&chunk[..count]);
        self.buffer.extend_from_slice(&chunk[..count]);
        true
    }

    /// The next line without its end; `None` when the client is gone.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                String::from_utf8_lossy(&line).trim_end().clone_into(&mut self.last);
                return Some(self.last.clone());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// So many bytes that are no line.
    pub fn hear_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Says nothing, and hears all, until the client has gone.
    pub fn wait_for_end(&mut self) {
        while self.hear().is_some() {}
    }

    /// The server's side of a handshake. False if there was none.
    pub fn secure(&mut self, acceptor: &TlsAcceptor) -> bool {
        let Stream::Clear(stream) = std::mem::replace(&mut self.stream, Stream::Neither) else {
            return false;
        };
        let Ok(stream) = acceptor.accept(stream) else { return false };
        self.stream = Stream::Tls(Box::new(stream));
        self.buffer.clear();
        true
    }
}

/// An acceptor with this certificate.
pub fn acceptor(certificate: &Certificate) -> TlsAcceptor {
    let (cert, key) = (certificate.cert.as_bytes(), certificate.key.as_bytes());
    TlsAcceptor::new(Identity::from_pkcs8(cert, key).unwrap()).unwrap()
}

/// One with a certificate that is right in every way.
pub fn good_acceptor() -> &'static TlsAcceptor {
    static GOOD: OnceLock<TlsAcceptor> = OnceLock::new();
    GOOD.get_or_init(|| acceptor(&Ca::shared().issue(&["localhost"], 30)))
}

/// A server that does this on each connection. It listens until it is dropped;
/// connections go on until their ends have had enough.
pub struct Fake {
    pub port: u16,
    pub heard: Arc<Heard>,
    over: Arc<AtomicBool>,
}

/// A table has more cells than a process may have open files, which on Debian
/// are 1024.
impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // What waits for a connection sees it then.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Fake {
    pub fn start(act: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Heard> = Arc::default();
        let kept = Arc::clone(&heard);
        let act = Arc::new(act);
        let over: Arc<AtomicBool> = Arc::default();
        let ends = Arc::clone(&over);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                kept.connections.fetch_add(1, Ordering::SeqCst);
                // Whatever goes wrong, no thread stays for ever.
                let _ = stream.set_write_timeout(Some(Duration::from_secs(120)));
                let _ = stream.set_read_timeout(Some(Duration::from_secs(600)));
                let _ = stream.set_nodelay(true);
                let mut peer = Peer {
                    stream: Stream::Clear(stream),
                    buffer: Vec::new(),
                    last: String::new(),
                    heard: Arc::clone(&kept),
                };
                let act = Arc::clone(&act);
                std::thread::spawn(move || act(&mut peer));
            }
        });
        Fake { port, heard, over }
    }

    /// TLS from the first byte.
    pub fn secure(acceptor: TlsAcceptor, act: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Fake::start(move |peer| {
            if peer.secure(&acceptor) {
                act(peer);
            }
        })
    }
}
