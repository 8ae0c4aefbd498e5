//! A proxy on loopback that holds one command of a run back, so that something else
//! can happen at that point of the dialogue and at no other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::streams::OpenStreams;

type Point = Box<dyn FnMut(&str) -> bool + Send>;

#[derive(Default)]
struct State {
    /// Which command is held, and how many such ones pass before it.
    point: Option<(Point, usize)>,
    /// It has come.
    holding: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    streams: OpenStreams,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proxy.
pub struct Gate {
    port: u16,
    shared: Arc<Shared>,
}

impl Gate {
    /// In front of the server at this port.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared::default());
        let for_all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let shared = Arc::clone(&for_all);
                std::thread::spawn(move || {
                    shared.streams.keep(number, &client, &server);
                    pass(&client, &server, &shared);
                    shared.streams.forget(number);
                });
            }
        });
        Gate { port: own, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds the command at which this is true, after so many others at which it was.
    pub fn hold(&self, after: usize, point: impl FnMut(&str) -> bool + Send + 'static) {
        let point: Point = Box::new(point);
        let mut state = self.shared.state();
        (state.point, state.holding) = (Some((point, after)), false);
    }

    /// Whether that command has come, waiting so long for it.
    pub fn holds(&self, limit: Duration) -> bool {
        let waiting = |state: &mut State| !state.holding;
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, limit, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.holding
    }

    /// Lets it pass, and holds nothing any more.
    pub fn open(&self) {
        let mut state = self.shared.state();
        (state.point, state.holding) = (None, false);
        self.shared.changed.notify_all();
    }

    /// Closes all connections; what is held is lost.
    pub fn cut(&self) {
        self.shared.streams.cut();
        self.open();
    }
}

fn pass(client: &TcpStream, server: &TcpStream, shared: &Shared) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to, mut chunk) = (server, client, [0; 16384]);
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                if to.write_all(&chunk[..count]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        let mut lines = BufReader::new(client);
        let (mut line, mut to_server) = (Vec::new(), server);
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            wait_if_held(&String::from_utf8_lossy(&line), shared);
            if to_server.write_all(&line).is_err() {
                break;
            }
            line.clear();
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn wait_if_held(line: &str, shared: &Shared) {
    let mut state = shared.state();
    let Some((point, after)) = &mut state.point else { return };
    if !point(line) {
        return;
    }
    if *after > 0 {
        *after -= 1;
        return;
    }
    (state.point, state.holding) = (None, true);
    shared.changed.notify_all();
    let held = |state: &mut State| state.holding;
    drop(shared.changed.wait_while(state, held));
}
