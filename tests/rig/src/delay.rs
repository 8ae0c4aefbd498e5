//! A TCP proxy on loopback that makes the way longer or narrower, or breaks it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::streams::OpenStreams;

/// What passes at once where the rate is bounded.
const PACKET: usize = 1500;

/// One direction, of all connections together.
#[derive(Default)]
struct Way {
    bytes: AtomicU64,
    /// When what was sent last is through.
    free: Mutex<Option<Instant>>,
}

impl Way {
    /// When so many bytes are through that come now.
    fn through(&self, bytes: usize, rate: u64) -> Instant {
        let now = Instant::now();
        if rate == 0 {
            return now;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
        let end = free.map_or(now, |free| free.max(now)) + takes;
        *free = Some(end);
        end
    }
}

#[derive(Default)]
struct Shared {
    target: AtomicUsize,
    /// Added to a round trip, in microseconds.
    round_trip: AtomicU64,
    stalled: AtomicBool,
    refusing: AtomicBool,
    over: AtomicBool,
    total: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    /// Bytes a second, each way; 0: no bound.
    rate: AtomicU64,
    up: Way,
    down: Way,
    streams: OpenStreams,
}

/// The proxy. Gone with its value, and the connections with it.
pub struct Delay {
    port: u16,
    shared: Arc<Shared>,
}

impl Delay {
    /// Leads to this port of 127.0.0.1; a round trip takes so much longer.
    pub fn to(port: u16, round_trip: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let shared = Arc::new(Shared::default());
        shared.target.store(port.into(), Ordering::Relaxed);
        let own = listener.local_addr().expect("local address").port();
        let delay = Delay { port: own, shared: Arc::clone(&shared) };
        delay.set_round_trip(round_trip);
        thread::spawn(move || accept(&listener, &shared));
        delay
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the added round trip, for bytes that come from now on.
    pub fn set_round_trip(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.shared.round_trip.store(micros, Ordering::Relaxed);
    }

    /// Lets no more than so many bytes a second pass each way; 0: as many as come.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Leads to another port from the next connection on.
    pub fn set_target(&self, port: u16) {
        self.shared.target.store(port.into(), Ordering::Relaxed);
    }

    /// Holds back every byte, both ways, on old and new connections, which stay
    /// open: a link that went away in silence. (The kernel still acknowledges,
    /// so TCP's own timeouts do not notice.)
    pub fn stall(&self) {
        self.shared.stalled.store(true, Ordering::Relaxed);
    }

    /// Lets the bytes pass again, the held ones first.
    pub fn flow(&self) {
        self.shared.stalled.store(false, Ordering::Relaxed);
    }

    /// Closes all connections; new ones are taken.
    pub fn cut(&self) {
        self.shared.streams.cut();
    }

    /// Closes new connections at once, or stops doing so. They are counted.
    pub fn refuse(&self, yes: bool) {
        self.shared.refusing.store(yes, Ordering::Relaxed);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.total.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// The most that were open at once.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// Bytes so far, to the server and from it.
    pub fn bytes(&self) -> (u64, u64) {
        let bytes = |way: &Way| way.bytes.load(Ordering::Relaxed);
        (bytes(&self.shared.up), bytes(&self.shared.down))
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.stalled.store(false, Ordering::Relaxed);
        self.cut();
        // Wakes the accepting thread, which ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        let number = shared.total.fetch_add(1, Ordering::Relaxed);
        if shared.refusing.load(Ordering::Relaxed) {
            continue;
        }
        let target = u16::try_from(shared.target.load(Ordering::Relaxed)).unwrap_or_default();
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(to_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        if !shared.streams.keep(number, &client, &server) {
            continue;
        }
        let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        shared.peak.fetch_max(open, Ordering::Relaxed);
        let (forth, other) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || {
            pass(client, server, &forth, &forth.up);
            forth.open.fetch_sub(1, Ordering::Relaxed);
            forth.streams.forget(number);
        });
        thread::spawn(move || pass(from_server, to_client, &other, &other.down));
    }
}

/// Passes bytes one way, each half a round trip after it came and was through, until
/// either end closes; then closes both.
fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>, way: &Way) {
    let (send, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    let held = Arc::clone(shared);
    let writer = thread::spawn(move || {
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            while held.stalled.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut chunk = vec![0; 65536];
    while let Ok(n) = from.read(&mut chunk) {
        if n == 0 {
            break;
        }
        way.bytes.fetch_add(n as u64, Ordering::Relaxed);
        let half = Duration::from_micros(shared.round_trip.load(Ordering::Relaxed) / 2);
        let rate = shared.rate.load(Ordering::Relaxed);
        let piece = if rate == 0 { n } else { PACKET };
        let mut pieces = chunk[..n].chunks(piece);
        if pieces
            .any(|piece| send.send((way.through(piece.len(), rate) + half, piece.into())).is_err())
        {
            break;
        }
    }
    drop(send);
    let _ = writer.join();
    let _ = from.shutdown(Shutdown::Both);
}
