//! From a server's section to a wire on which passwords may be said.
//!
//! Knows name resolution, sockets, tunnels and when TLS must come. Knows nothing
//! of what is said afterwards. Each step has its own deadline, and the caller's
//! interrupt ends any of them.

use super::login::{self, Greeting};
use super::parse::{self, Reply, Verb};
use super::secret::Group;
use super::tls::{self, Check, Trust};
use super::wire::{Interrupt, Limits, Transport, Wire, WireError};
use crate::account::{Server, TlsMode};
use crate::outcome::{Exit, Failure};
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A step's time where the file sets none (`Timeout 0`): mbsync would wait for ever.
const LONGEST_STEP: Duration = Duration::from_secs(60);
/// How long an address is tried before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Most resolver threads left to themselves.
const MOST_RESOLVERS: usize = 8;

/// The time that the file gives each step.
#[must_use]
pub fn step(server: &Server) -> Duration {
    server
        .timeout
        .unwrap_or(LONGEST_STEP)
        .clamp(Duration::from_millis(100), Duration::from_secs(600))
}

/// The server's name in messages.
#[must_use]
pub fn place(server: &Server) -> String {
    match (&server.host, &server.tunnel) {
        (_, Some(_)) => "the tunnel".to_owned(),
        (Some(host), None) => format!("{host}:{}", server.port),
        (None, None) => "the server".to_owned(),
    }
}

/// What a wire's error means for the caller.
#[must_use]
pub fn failure(place: &str, doing: &str, error: &WireError) -> Failure {
    match error {
        WireError::Interrupted => Failure::new(Exit::Later, format!("{place}: interrupted")),
        WireError::Certificate(reason) => Failure::new(
            Exit::Denied,
            format!("{place}: certificate refused ({reason}): {}", tls::mend(reason)),
        ),
        error => Failure::new(Exit::Offline, format!("{place}: {doing}: {error}")),
    }
}

/// A wire, secured as the file wants it, and the greeting. Nothing secret has
/// been said.
pub fn connect(server: &Server, interrupt: &Interrupt) -> Result<(Wire, Greeting), Failure> {
    let place = place(server);
    if let Some(command) = &server.tunnel {
        let mut wire = tunnel(command, interrupt)?;
        wire.begin(Limits::small(step(server)));
        let greeting = login::greeting(&mut wire, &place)?;
        if server.tls == TlsMode::None {
            return Ok((wire, greeting));
        }
        return Err(Failure::config(format!(
            "TLS through a Tunnel is not done here; leave it to the tunnel, and set {} None",
            server.tls_keyword
        )));
    }
    let Some(host) = &server.host else {
        return Err(Failure::config("neither Host nor Tunnel is set"));
    };
    if server.tls == TlsMode::None {
        let mut wire = dial(server, host, &place, interrupt)?;
        let greeting = login::greeting(&mut wire, &place)?;
        refuse_preauth(&greeting, &place)?;
        return Ok((wire, greeting));
    }
    let trust = Trust::of(server)?;
    let mut refused = None;
    for check in trust.checks() {
        if check == Check::Bundle && !refused.as_ref().is_some_and(|r: &WireError| is_issuer(r)) {
            continue;
        }
        let connector = trust.connector(check)?;
        let mut wire = dial(server, host, &place, interrupt)?;
        let mut greeting = None;
        if server.tls == TlsMode::StartTls {
            greeting = Some(ask_for_tls(&mut wire, &place, server.tls_keyword)?);
        }
        wire.begin(Limits::small(step(server)));
        let mut wire = match wire.start_tls(&connector, host) {
            Ok(wire) => wire,
            Err(error @ WireError::Certificate(_)) => {
                refused = Some(error);
                continue;
            }
            Err(error) => return Err(failure(&place, "TLS", &error)),
        };
        if check == Check::Pin && !wire.peer_certificate().is_some_and(|c| trust.pinned(&c)) {
            refused
                .get_or_insert(WireError::Certificate("not the one in CertificateFile".to_owned()));
            continue;
        }
        wire.begin(Limits::small(step(server)));
        let greeting = match greeting {
            // What was said in the clear is forgotten.
            Some(_) => Greeting { preauth: false, capabilities: None },
            None => login::greeting(&mut wire, &place)?,
        };
        // Only a certificate can have told the server who we are.
        if !trust.has_identity() {
            refuse_preauth(&greeting, &place)?;
        }
        return Ok((wire, greeting));
    }
    let refused = refused.unwrap_or(WireError::Handshake("no certificate to check".to_owned()));
    Err(failure(&place, "TLS", &refused))
}

fn is_issuer(error: &WireError) -> bool {
    matches!(error, WireError::Certificate(reason) if reason.contains("issuer") || reason.contains("self-signed certificate in"))
}

fn refuse_preauth(greeting: &Greeting, place: &str) -> Result<(), Failure> {
    if greeting.preauth {
        return Err(Failure::new(
            Exit::Denied,
            format!(
                "{place}: claims to know us already (PREAUTH), which is believed of a Tunnel only"
            ),
        ));
    }
    Ok(())
}

/// STARTTLS, which must be granted. Says nothing else.
fn ask_for_tls(wire: &mut Wire, place: &str, keyword: &str) -> Result<Greeting, Failure> {
    let greeting = login::greeting(wire, place)?;
    if greeting.preauth {
        return Err(Failure::new(
            Exit::Denied,
            format!(
                "{place}: PREAUTH before STARTTLS; somebody may be in between, or set {keyword} IMAPS"
            ),
        ));
    }
    let off = |error: &WireError| failure(place, "STARTTLS", error);
    wire.send(b"s1 STARTTLS\r\n").map_err(|e| off(&e))?;
    loop {
        let response = wire.response().map_err(|e| off(&e))?;
        match parse::reply(&response) {
            Reply::Tagged(b"s1", said) if said.verb == Verb::Ok => return Ok(greeting),
            Reply::Tagged(b"s1", said) => {
                return Err(Failure::new(
                    Exit::Denied,
                    format!(
                        "{place}: refuses STARTTLS ({}); if it has TLS on port 993, set {keyword} IMAPS",
                        said.printable()
                    ),
                ));
            }
            Reply::Tagged(..) => {
                return Err(off(&WireError::Malformed("an answer to nothing we said")));
            }
            Reply::Condition(said) if said.verb == Verb::Bye => {
                return Err(login::bye(place, &said));
            }
            _ => {}
        }
    }
}

/// A TCP connection, the step's time already begun for the greeting.
fn dial(server: &Server, host: &str, place: &str, interrupt: &Interrupt) -> Result<Wire, Failure> {
    let time = step(server);
    let addresses = resolve(host, server.port, Instant::now() + time, interrupt)
        .map_err(|e| failure(place, "looking up the name", &e))?;
    let stream = first_to_answer(addresses, Instant::now() + time, interrupt)
        .map_err(|e| failure(place, "connecting", &e))?;
    // Half-open connections are noticed by the kernel within 90 s, without waking us.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(&stream, 3);
    let _ = sockopt::set_tcp_user_timeout(&stream, 60_000);
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(Transport::Tcp(stream), interrupt.clone());
    wire.begin(Limits::small(time));
    Ok(wire)
}

static RESOLVERS: AtomicUsize = AtomicUsize::new(0);

/// The addresses of a host, in the resolver's order. The resolver can not be
/// interrupted, so it runs in a thread that is left to itself when it is late.
pub fn resolve(
    host: &str,
    port: u16,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<Vec<SocketAddr>, WireError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if RESOLVERS.fetch_add(1, Ordering::Relaxed) >= MOST_RESOLVERS {
        RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        return Err(WireError::Io("earlier lookups have not come back yet".to_owned()));
    }
    let system = |e: std::io::Error| WireError::Io(e.to_string());
    let (done, signal) = UnixStream::pair().map_err(system)?;
    let (answer, answers) = mpsc::channel();
    let name = host.to_owned();
    let started = std::thread::Builder::new()
        .name("resolve".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            let _ = answer.send(found);
            RESOLVERS.fetch_sub(1, Ordering::Relaxed);
            drop(signal);
        });
    if let Err(error) = started {
        RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        return Err(system(error));
    }
    interrupt.wait(&[(done.as_fd(), PollFlags::IN)], deadline)?;
    match answers.try_recv() {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Err(error)) => Err(WireError::Io(error.to_string())),
        _ => Err(WireError::Io("the name has no address".to_owned())),
    }
}

/// The first of these addresses to take a connection: tried in order, the next
/// one beside it when one fails or is slow.
pub fn first_to_answer(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<TcpStream, WireError> {
    let mut waiting: VecDeque<SocketAddr> = addresses.into_iter().take(32).collect();
    let mut trying: Vec<OwnedFd> = Vec::new();
    let mut last = WireError::Io("the name has no address".to_owned());
    loop {
        if let Some(address) = waiting.pop_front() {
            match begin(address) {
                Ok((socket, true)) => return Ok(socket.into()),
                Ok((socket, false)) => trying.push(socket),
                Err(error) => {
                    last = WireError::Io(std::io::Error::from(error).to_string());
                    if waiting.is_empty() && trying.is_empty() {
                        return Err(last);
                    }
                    continue;
                }
            }
        }
        let next =
            if waiting.is_empty() { deadline } else { deadline.min(Instant::now() + STAGGER) };
        let fds: Vec<_> = trying.iter().map(|fd| (fd.as_fd(), PollFlags::OUT)).collect();
        let ready = match interrupt.wait(&fds, next) {
            Ok(ready) => ready,
            Err(WireError::Deadline) if Instant::now() < deadline => continue,
            Err(error) => return Err(error),
        };
        drop(fds);
        let mut still = Vec::new();
        for (socket, ready) in trying.into_iter().zip(ready) {
            if !ready {
                still.push(socket);
                continue;
            }
            match sockopt::socket_error(&socket) {
                Ok(Ok(())) => return Ok(socket.into()),
                Ok(Err(error)) | Err(error) => {
                    last = WireError::Io(std::io::Error::from(error).to_string());
                }
            }
        }
        trying = still;
        if trying.is_empty() && waiting.is_empty() {
            return Err(last);
        }
    }
}

/// A non-blocking connect; true if it is done already.
fn begin(address: SocketAddr) -> Result<(OwnedFd, bool), rustix::io::Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(rustix::io::Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// mbsync's `Tunnel`: a shell command that speaks IMAP on its standard input and
/// output, both one socket.
fn tunnel(command: &str, interrupt: &Interrupt) -> Result<Wire, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(Exit::Offline, format!("the Tunnel cannot be started: {e}"))
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let output: OwnedFd = theirs.try_clone().map_err(failed)?.into();
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(output));
    let group = Group::start(&mut shell).map_err(failed)?;
    Ok(Wire::new(Transport::Tunnel(ours, Box::new(group)), interrupt.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_dead_address_does_not_hide_a_live_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let dead = {
            let gone = TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };
        let stream = first_to_answer(vec![dead, dead, live], soon(), &Interrupt::never()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        let error = first_to_answer(vec![dead], soon(), &Interrupt::never()).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn g9_an_address_that_never_answers_is_left_in_time() {
        // A backlog of one, filled: further connects stay without an answer.
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &any).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        let full = listener.local_addr().unwrap();
        let _fill: Vec<_> = (0..4).map(|_| begin(full)).collect();
        let begun = Instant::now();
        let moment = Instant::now() + Duration::from_millis(400);
        assert_eq!(
            first_to_answer(vec![full], moment, &Interrupt::never()).unwrap_err(),
            WireError::Deadline
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = live.local_addr().unwrap();
        let stream = first_to_answer(vec![full, second], soon(), &Interrupt::never()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), second);
    }

    #[test]
    fn names_are_looked_up() {
        let found = resolve("localhost", 143, soon(), &Interrupt::never()).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 143));
        assert!(resolve("no-such-host.invalid", 143, soon(), &Interrupt::never()).is_err());
    }
}
