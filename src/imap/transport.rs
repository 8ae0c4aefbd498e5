//! Bytes to and from a server, bounded in time and size.
//!
//! Every wait ends at a deadline or when the caller is asked to stop; what a
//! response may cost is capped before it is kept. After any error the transport is
//! dead: what is half-read in it cannot be taken for something else.
//!
//! Does not depend on: commands and their meaning.

use super::parse::{self, Reply};
use super::tls::HandshakeFailure;
use crate::error::{CertificateProblem, system_text};
use crate::os::{
    self,
    wait::{Cancel, Woken},
};
use crate::text::printable;
use native_tls::{HandshakeError, TlsConnector, TlsStream};
use rustix::event::{PollFd, PollFlags};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Deepest nesting of parentheses in a response. Parsers recurse.
const DEPTH: u32 = 32;
/// Most bytes taken from the socket at once.
const CHUNK: usize = 16 * 1024;

/// Why a transport is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// The step was not done in time.
    Deadline,
    /// The caller has cancelled it.
    Interrupted,
    /// The other side closed the connection.
    Closed,
    /// The system said so.
    Io(String),
    /// More than we are ready to take: of what.
    TooMuch(&'static str),
    /// What came breaks the protocol: how.
    Malformed(&'static str),
    /// The server's certificate does not hold: why.
    Certificate(CertificateProblem),
    /// What the server says is not TLS.
    NotTls,
    /// The TLS handshake failed otherwise: why.
    Handshake(String),
}

impl TransportError {
    /// The system's words, in the middle of a sentence.
    #[must_use]
    pub fn system(error: &io::Error) -> Self {
        let text = printable(&system_text(error));
        // What std says of each failed lookup, before the reason.
        let mut rest = text.trim_start_matches("failed to lookup address information: ").chars();
        let first = rest.next().map_or_else(String::new, |first| first.to_lowercase().collect());
        TransportError::Io(first + rest.as_str())
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportError::Deadline => f.write_str("no answer in time"),
            TransportError::Interrupted => f.write_str("interrupted"),
            TransportError::Closed => f.write_str("the server closed the connection"),
            TransportError::Io(text) => f.write_str(text),
            TransportError::TooMuch(what) => write!(f, "the server sent too much: {what}"),
            TransportError::Malformed(how) => write!(f, "the server violates IMAP: {how}"),
            TransportError::Certificate(why) => write!(f, "certificate refused: {why}"),
            TransportError::NotTls => f.write_str("the server does not speak TLS there"),
            TransportError::Handshake(why) => write!(f, "handshake failed: {why}"),
        }
    }
}

impl std::error::Error for TransportError {}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        io::Error::other(error)
    }
}

/// Waits for `flags` on one of `fds`; true for those that have some. Ends with
/// an error at the deadline or when cancelled.
pub fn wait(
    fds: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Vec<bool>, TransportError> {
    let poll_fd = |(fd, flags): &(_, _)| PollFd::from_borrowed_fd(*fd, *flags);
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(poll_fd).collect();
    match os::wait::wait(&mut polled, Some(deadline), Some(cancel)) {
        Ok(Woken::Ready) => Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Ok(Woken::TimedOut) => Err(TransportError::Deadline),
        Ok(Woken::Cancelled) => Err(TransportError::Interrupted),
        Err(error) => Err(TransportError::system(&error)),
    }
}

/// What the bytes travel over.
pub enum Stream {
    /// Clear text.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Encrypted),
    /// A child's standard input and output. The guard ends the child when dropped.
    Tunnel(UnixStream, Box<dyn std::any::Any>),
}

/// A TLS stream that says goodbye when dropped, if that fits without waiting.
pub struct Encrypted(Box<TlsStream<TcpStream>>);

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

impl Stream {
    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.0.get_ref().as_fd(),
            Stream::Tunnel(stream, _) => stream.as_fd(),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Tls(stream) => stream.0.read(into),
            Stream::Tunnel(stream, _) => stream.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(from),
            Stream::Tls(stream) => stream.0.write(from),
            Stream::Tunnel(stream, _) => stream.write(from),
        }
    }
}

/// Most messages that [`Limits::scan`] has room for.
const MOST_SCANNED: u32 = 2_000_000;

/// What one step of the dialogue may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From now to the end of the step.
    pub time: Duration,
    /// Longest silence within it.
    pub silence: Duration,
    /// Longest response, literals included.
    pub response: usize,
    /// Bytes of all responses.
    pub total: usize,
    /// Number of responses.
    pub responses: usize,
}

impl Limits {
    /// For a command whose answer is a few lines.
    #[must_use]
    pub fn small(time: Duration) -> Self {
        Limits { time, silence: time, response: 64 * 1024, total: 1024 * 1024, responses: 10_000 }
    }

    /// For a command whose answer grows with the number of messages or
    /// mailboxes: six times the step's time in all, but no longer silence than
    /// that, and room for a million messages.
    #[must_use]
    pub fn bulk(step: Duration) -> Self {
        Limits {
            time: step * 6,
            silence: step,
            response: 64 * 1024,
            total: 64 * 1024 * 1024,
            responses: 1_000_000,
        }
    }

    /// For what comes unasked between two looks at it: room for every flag of a
    /// large mailbox, not for a flood.
    #[must_use]
    pub fn unasked(step: Duration) -> Self {
        Limits { total: 16 * 1024 * 1024, responses: 200_000, ..Self::bulk(step) }
    }

    /// The same within `time`, before an answer that comes behind it.
    #[must_use]
    pub fn unasked_within(time: Duration) -> Self {
        Limits { time, silence: time, ..Self::unasked(time) }
    }

    /// The same, where one line may name every message: `* SEARCH 1 2 3 …`.
    #[must_use]
    pub fn long_lines(self) -> Self {
        Limits { response: 4 * 1024 * 1024, ..self }
    }

    /// For the UIDs and flags of so many messages, which are 45 bytes each, over a line of
    /// 200 kbit/s. What is beyond `MOST_SCANNED` gets no more room: the number is the server's.
    #[must_use]
    pub fn scan(step: Duration, messages: u32) -> Self {
        let least = Self::bulk(step).long_lines();
        let count = messages.min(MOST_SCANNED);
        let messages = usize::try_from(count).unwrap_or(usize::MAX);
        Limits {
            time: least.time + Duration::from_secs(u64::from(count / 500)),
            response: least.response.max(messages.saturating_mul(12)),
            total: least.total.max(messages.saturating_mul(100)),
            responses: least.responses.max(messages.saturating_mul(2)),
            ..least
        }
    }
}

/// Finds the end of a response in a buffer that grows.
#[derive(Debug, Default)]
struct LiteralScan {
    at: usize,
    line: usize,
    depth: u32,
    quoted: bool,
    escaped: bool,
}

impl LiteralScan {
    /// The length of the response that begins at `buffer[0]`, once it is whole.
    fn advance(&mut self, buffer: &[u8]) -> Result<Option<usize>, TransportError> {
        while let Some(byte) = buffer.get(self.at) {
            self.at += 1;
            match byte {
                b'\n' => {
                    let line = &buffer[self.line..self.at];
                    let Some(length) = literal_length(line, self.line == 0)? else {
                        return Ok(Some(self.at));
                    };
                    self.at = self.at.saturating_add(length);
                    self.line = self.at;
                    self.quoted = false;
                    self.escaped = false;
                }
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                b'(' if !self.quoted => {
                    self.depth += 1;
                    if self.depth > DEPTH {
                        return Err(TransportError::TooMuch("nested parentheses"));
                    }
                }
                b')' if !self.quoted => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        Ok(None)
    }

    /// How long the response will be at least, as far as is known.
    fn least(&self) -> usize {
        self.at
    }
}

/// The length of the literal that follows this line, if one does. Text for
/// people and tagged lines are never followed by one, whatever they end with.
fn literal_length(line: &[u8], first: bool) -> Result<Option<usize>, TransportError> {
    if first && !line.starts_with(b"* ") {
        return Ok(None);
    }
    if first && matches!(parse::reply(line), Reply::Condition(_)) {
        return Ok(None);
    }
    let Some(literal) = parse::literal_at_end(line) else { return Ok(None) };
    Some(literal.length)
        .filter(|length| *length < 1 << 40)
        .and_then(|length| usize::try_from(length).ok())
        .map(Some)
        .ok_or(TransportError::TooMuch("a literal"))
}

/// A connection to a server, non-blocking underneath.
pub struct Transport {
    stream: Stream,
    cancel: Cancel,
    inward: Vec<u8>,
    taken: usize,
    scan: LiteralScan,
    deadline: Instant,
    limits: Limits,
    bytes: usize,
    count: usize,
    fills: usize,
    dead: Option<TransportError>,
}

impl Transport {
    /// Over this, which must be non-blocking.
    #[must_use]
    pub fn new(stream: Stream, cancel: Cancel) -> Self {
        let limits = Limits::small(Duration::from_secs(20));
        Transport {
            stream,
            cancel,
            inward: Vec::new(),
            taken: 0,
            scan: LiteralScan::default(),
            deadline: Instant::now() + limits.time,
            limits,
            bytes: 0,
            count: 0,
            fills: 0,
            dead: None,
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Begins a step: its time runs from now, and what came before no longer counts.
    pub fn begin(&mut self, limits: Limits) {
        self.deadline = Instant::now() + limits.time;
        self.limits = limits;
        self.bytes = 0;
        self.count = 0;
    }

    /// The error that killed it, if one did.
    #[must_use]
    pub fn trouble(&self) -> Option<&TransportError> {
        self.dead.as_ref()
    }

    /// Makes it unusable. For a caller who sees what it does not trust. The server is told:
    /// it may let us have one connection only.
    pub fn kill(&mut self, error: TransportError) -> TransportError {
        if self.dead.is_none() {
            let _ = rustix::net::shutdown(self.stream.socket(), rustix::net::Shutdown::Both);
        }
        self.dead.get_or_insert(error).clone()
    }

    fn alive(&self) -> Result<(), TransportError> {
        self.dead.clone().map_or(Ok(()), Err)
    }

    /// The socket, to be polled for input. Poll only after [`Transport::try_response`]
    /// has said `None` (or [`Transport::try_read`] zero): TLS keeps bytes of its own.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.socket()
    }

    /// The response's worth of limits is used up?
    fn admit(&mut self, length: usize) -> Result<(), TransportError> {
        self.bytes = self.bytes.saturating_add(length);
        self.count += 1;
        if self.bytes > self.limits.total || self.count > self.limits.responses {
            return Err(self.kill(TransportError::TooMuch("responses")));
        }
        Ok(())
    }

    /// A whole response out of the buffer, if one is there.
    fn buffered_response(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        let found = match self.scan.advance(&self.inward[self.taken..]) {
            Ok(found) => found,
            Err(error) => return Err(self.kill(error)),
        };
        if found.unwrap_or(self.scan.least()) > self.limits.response {
            return Err(self.kill(TransportError::TooMuch("a line")));
        }
        let Some(length) = found else { return Ok(None) };
        let response = self.inward[self.taken..self.taken + length].to_vec();
        self.taken += length;
        self.scan = LiteralScan::default();
        if self.taken == self.inward.len() {
            self.inward.clear();
            self.inward.shrink_to(CHUNK);
            self.taken = 0;
        }
        self.admit(length)?;
        Ok(Some(response))
    }

    /// Takes what the socket has, once. False if it has nothing.
    fn fill(&mut self) -> Result<bool, TransportError> {
        if self.taken > 0 {
            self.inward.drain(..self.taken);
            self.taken = 0;
        }
        // Who floods us keeps us from every wait, but not from being stopped.
        self.fills = self.fills.wrapping_add(1);
        if self.fills % 8 == 0 && self.cancel.is_raised() {
            return Err(self.kill(TransportError::Interrupted));
        }
        let mut chunk = [0_u8; CHUNK];
        loop {
            return match self.stream.read(&mut chunk) {
                Ok(0) => Err(self.kill(TransportError::Closed)),
                Ok(n) => {
                    self.inward.extend_from_slice(&chunk[..n]);
                    Ok(true)
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(e) => Err(self.kill(io_trouble(&e))),
            };
        }
    }

    /// The next response, literals included, if it is there whole. Never waits.
    pub fn try_response(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        self.alive()?;
        loop {
            if let Some(response) = self.buffered_response()? {
                return Ok(Some(response));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The next response, waited for until the step's deadline.
    pub fn response(&mut self) -> Result<Vec<u8>, TransportError> {
        loop {
            if Instant::now() >= self.deadline {
                return Err(self.kill(TransportError::Deadline));
            }
            if let Some(response) = self.try_response()? {
                return Ok(response);
            }
            self.wait(PollFlags::IN)?;
        }
    }

    fn wait(&mut self, flags: PollFlags) -> Result<(), TransportError> {
        let until = self.deadline.min(Instant::now() + self.limits.silence);
        let waited = wait(&[(self.stream.socket(), flags)], until, &self.cancel);
        waited.map(|_| ()).map_err(|error| self.kill(error))
    }

    /// Sends all of this within the step's deadline. Nothing of it is kept here.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), TransportError> {
        self.alive()?;
        while !bytes.is_empty() {
            let sent = self.try_write(bytes)?;
            if sent == 0 {
                self.wait(PollFlags::OUT)?;
                if Instant::now() >= self.deadline {
                    return Err(self.kill(TransportError::Deadline));
                }
            }
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Whatever bytes are there, at most as many as fit: first what is buffered,
    /// then what the socket has. Zero: none now. For a relay.
    pub fn try_read(&mut self, into: &mut [u8]) -> Result<usize, TransportError> {
        self.alive()?;
        let held = &self.inward[self.taken..];
        if !held.is_empty() {
            let n = held.len().min(into.len());
            into[..n].copy_from_slice(&held[..n]);
            self.taken += n;
            self.scan = LiteralScan::default();
            if self.taken == self.inward.len() {
                self.inward.clear();
                self.taken = 0;
            }
            return Ok(n);
        }
        loop {
            return match self.stream.read(into) {
                Ok(0) if !into.is_empty() => Err(self.kill(TransportError::Closed)),
                Ok(n) => Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(e) => Err(self.kill(io_trouble(&e))),
            };
        }
    }

    /// Writes what fits now, and says how much. Zero: the socket is full; poll
    /// it for output. For a relay.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, TransportError> {
        self.alive()?;
        loop {
            return match self.stream.write(bytes) {
                Ok(n) => Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(e) => Err(self.kill(io_trouble(&e))),
            };
        }
    }

    /// Bytes that have come and that nobody has taken. None may be left when the
    /// connection is lent, or before a TLS handshake.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.inward.len() - self.taken
    }

    /// Upgrades to TLS. Bytes that came before the handshake are refused: they
    /// were not encrypted, and would be read as if they had been.
    pub fn start_tls(
        mut self,
        connector: &TlsConnector,
        host: &str,
    ) -> Result<Transport, TransportError> {
        self.alive()?;
        if self.buffered() > 0 {
            return Err(TransportError::Malformed("it sends data ahead of the TLS handshake"));
        }
        let Stream::Tcp(stream) = self.stream else {
            return Err(TransportError::Malformed("TLS over something that is not TCP"));
        };
        let mut shaken = connector.connect(host, stream);
        loop {
            let waiting = match shaken {
                Ok(stream) => {
                    self.stream = Stream::Tls(Encrypted(Box::new(stream)));
                    return Ok(self);
                }
                Err(HandshakeError::Failure(error)) => {
                    return Err(match HandshakeFailure::from(&error) {
                        HandshakeFailure::Certificate(problem) => {
                            TransportError::Certificate(problem)
                        }
                        HandshakeFailure::NotTls => TransportError::NotTls,
                        HandshakeFailure::Closed => TransportError::Closed,
                        HandshakeFailure::Other(why) => TransportError::Handshake(why),
                    });
                }
                Err(HandshakeError::WouldBlock(waiting)) => waiting,
            };
            // OpenSSL does not say here which way it waits. It is input but for
            // a flight larger than the socket's buffer, hence the second's slice.
            let slice = self.deadline.min(Instant::now() + Duration::from_secs(1));
            match wait(&[(waiting.get_ref().as_fd(), PollFlags::IN)], slice, &self.cancel) {
                Err(TransportError::Deadline) if Instant::now() < self.deadline => {}
                Err(error) => return Err(error),
                Ok(_) if Instant::now() >= self.deadline => return Err(TransportError::Deadline),
                Ok(_) => {}
            }
            shaken = waiting.handshake();
        }
    }

    /// The server's certificate, as DER; `None` without TLS.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Tls(stream) => stream.0.peer_certificate().ok()??.to_der().ok(),
            _ => None,
        }
    }
}

fn io_trouble(error: &io::Error) -> TransportError {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::UnexpectedEof => TransportError::Closed,
        io::ErrorKind::TimedOut => TransportError::Deadline,
        _ => TransportError::system(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A connection, and the server's end of it.
    pub(in crate::imap) fn pair() -> (Transport, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Stream::Tunnel(ours, Box::new(()));
        (Transport::new(stream, Cancel::new().unwrap()), theirs)
    }

    #[test]
    fn responses_come_whole_however_they_are_cut() {
        let (mut transport, mut server) = pair();
        let said = b"* LIST () \"/\" {4}\r\na\r\nb\r\n* OK a literal? {9}\r\nm1 OK ({\r\n";
        let mut got = Vec::new();
        for byte in said {
            server.write_all(&[*byte]).unwrap();
            while let Some(response) = transport.try_response().unwrap() {
                got.push(String::from_utf8(response).unwrap());
            }
        }
        assert_eq!(
            got,
            ["* LIST () \"/\" {4}\r\na\r\nb\r\n", "* OK a literal? {9}\r\n", "m1 OK ({\r\n"]
        );
        assert_eq!(transport.buffered(), 0);
    }

    #[test]
    fn g10_what_is_too_much_kills_it_for_good() {
        for (said, why) in [
            (vec![b'x'; 70_000], "a line"),
            (b"* LIST {99999999999999999999}\r\n".to_vec(), "a literal"),
            (b"* LIST () NIL {2147483648}\r\n".to_vec(), "a line"),
            ([b"* FETCH ".as_slice(), &[b'('; 33]].concat(), "nested parentheses"),
            (b"* X\r\n".repeat(10_001), "responses"),
        ] {
            let (mut transport, mut server) = pair();
            let writer = std::thread::spawn(move || {
                let _ = server.write_all(&said);
                server
            });
            let error = loop {
                match transport.response() {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error, TransportError::TooMuch(why));
            assert_eq!(transport.send(b"m1 NOOP\r\n"), Err(TransportError::TooMuch(why)));
            assert_eq!(transport.try_response(), Err(TransportError::TooMuch(why)));
            drop(transport);
            drop(writer.join());
        }
    }

    #[test]
    fn a_scan_has_time_and_room_for_the_messages_there_are() {
        let step = Duration::from_secs(20);
        let of = |messages| {
            let limits = Limits::scan(step, messages);
            assert_eq!(limits.silence, step);
            (limits.time.as_secs(), limits.response, limits.total, limits.responses)
        };
        assert_eq!(of(0), (120, 4 << 20, 64 << 20, 1_000_000));
        assert_eq!(of(300_000), (720, 4 << 20, 64 << 20, 1_000_000));
        assert_eq!(of(1_000_000), (2120, 12_000_000, 100_000_000, 2_000_000));
        assert_eq!(of(u32::MAX), of(MOST_SCANNED));
    }

    #[test]
    fn a_byte_now_and_then_does_not_move_the_deadline() {
        let (mut transport, mut server) = pair();
        let writer = std::thread::spawn(move || {
            while server.write_all(b"*").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        transport.begin(Limits::small(Duration::from_millis(200)));
        let begun = Instant::now();
        assert_eq!(transport.response(), Err(TransportError::Deadline));
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(transport);
        writer.join().unwrap();
    }

    #[test]
    fn an_interrupt_ends_the_wait_at_once() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut transport = Transport::new(
            Stream::Tunnel(ours, Box::new(())),
            Cancel::when_readable(Arc::new(read)),
        );
        let begun = Instant::now();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(write);
        });
        assert_eq!(transport.response(), Err(TransportError::Interrupted));
        // Long before the deadline.
        assert!(begun.elapsed() < Duration::from_secs(10));
        writer.join().unwrap();
    }

    #[test]
    fn a_full_socket_blocks_no_longer_than_the_step() {
        let (mut transport, _server) = pair();
        transport.begin(Limits::small(Duration::from_millis(100)));
        assert_eq!(transport.send(&vec![b'x'; 10_000_000]), Err(TransportError::Deadline));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_scan_panic_or_loop(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut scan = LiteralScan::default();
            for end in 0..=raw.len() {
                match scan.advance(&raw[..end]) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        prop_assert!(length <= end && raw[length - 1] == b'\n');
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
