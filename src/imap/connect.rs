//! From a server's section to a connection on which a password may be sent: name
//! resolution, sockets, tunnels, TLS.
//!
//! Each step has its own deadline, and the caller's interrupt ends any of them.
//!
//! Does not depend on: what is sent afterwards.

use super::credentials::GRACE;
use super::endpoint::{certificate_refused, other_mode, place, refused, step, step_failed};
use super::greeting::{Greeting, goodbye, read_greeting};
use super::parse::{self, Reply, Verb};
use super::tls::{Check, Trust};
use super::transport::{Limits, Stream, Transport, TransportError, wait};
use crate::error::{CertificateProblem, Error, ErrorKind, ExitStatus, system_text};
use crate::model::{Server, TlsMode};
use crate::os::child::{Child, Scope};
use crate::os::wait::Cancel;
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long an address is tried before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Most resolver threads left to themselves.
const MOST_RESOLVERS: usize = 8;

/// A transport, secured as the file wants it, and the greeting. Nothing secret
/// has been said.
pub fn connect(server: &Server, interrupt: &Cancel) -> Result<(Transport, Greeting), Error> {
    connect_by_steps(server, interrupt).map_err(|error| error.at(&place(server)))
}

/// The same, for a caller that reports which step failed.
pub fn connect_by_steps(
    server: &Server,
    interrupt: &Cancel,
) -> Result<(Transport, Greeting), Error> {
    if let Some(command) = &server.tunnel {
        let mut transport = tunnel(command, interrupt)?;
        transport.begin(Limits::small(step(server)));
        let greeting = read_greeting(&mut transport, server)?;
        if server.tls == TlsMode::None {
            return Ok((transport, greeting));
        }
        return Err(Error::config("TLS through a Tunnel is not supported")
            .with_hint(format!("leave it to the tunnel, and set {} None", server.tls_keyword)));
    }
    let Some(host) = &server.host else {
        return Err(Error::config("neither Host nor Tunnel is set"));
    };
    if server.tls == TlsMode::None {
        let mut transport = dial(server, host, interrupt)?;
        let greeting = read_greeting(&mut transport, server)?;
        refuse_preauth(&greeting)?;
        return Ok((transport, greeting));
    }
    let trust = Trust::of(server)?;
    let mut problem = None;
    for check in trust.checks() {
        let (connector, dialled) = std::thread::scope(|scope| {
            // To read the system's certificates takes as long as a way to the server.
            let connector = scope.spawn(|| trust.connector(check));
            let dialled = dial(server, host, interrupt);
            (connector.join().unwrap_or_else(|panic| resume_unwind(panic)), dialled)
        });
        let (connector, mut transport) = (connector?, dialled?);
        let mut greeting = None;
        if server.tls == TlsMode::StartTls {
            greeting = Some(ask_for_tls(&mut transport, server)?);
        }
        transport.begin(Limits::small(step(server)));
        let mut transport = match transport.start_tls(&connector, host) {
            Ok(transport) => transport,
            Err(TransportError::Certificate(why)) => {
                problem = Some(why);
                continue;
            }
            Err(TransportError::NotTls) if server.tls == TlsMode::Imaps => {
                let failed = step_failed("TLS", &TransportError::NotTls);
                return Err(failed.with_hint(other_mode(server)).of_kind(ErrorKind::NotTls));
            }
            Err(error) => return Err(step_failed("TLS", &error)),
        };
        let shown = transport.peer_certificate();
        if let Err(why) = trust.confirm(check, shown.as_deref(), host) {
            // What is wrong with the chain tells more.
            match check {
                Check::Pin => _ = problem.get_or_insert(why),
                Check::Chain => problem = Some(why),
            }
            continue;
        }
        transport.begin(Limits::small(step(server)));
        let greeting = match greeting {
            // What was said in the clear is forgotten.
            Some(_) => Greeting { preauth: false, capabilities: None },
            None => read_greeting(&mut transport, server)?,
        };
        // Only by a certificate can the server know who we are.
        if !trust.has_identity() {
            refuse_preauth(&greeting)?;
        }
        return Ok((transport, greeting));
    }
    let problem = problem.unwrap_or(CertificateProblem::Other("none to check".to_owned()));
    Err(certificate_refused(problem, server))
}

fn refuse_preauth(greeting: &Greeting) -> Result<(), Error> {
    if greeting.preauth {
        return Err(refused("sent PREAUTH, which is accepted only through a Tunnel"));
    }
    Ok(())
}

/// STARTTLS, which must be granted. Says nothing else.
pub fn ask_for_tls(transport: &mut Transport, server: &Server) -> Result<Greeting, Error> {
    let keyword = server.tls_keyword;
    let greeting = read_greeting(transport, server)?;
    if greeting.preauth {
        return Err(refused("PREAUTH before STARTTLS; somebody may be in between")
            .with_hint(format!("if the server has TLS on port 993, set {keyword} IMAPS")));
    }
    let off = |error: &TransportError| step_failed("STARTTLS", error);
    transport.send(b"s1 STARTTLS\r\n").map_err(|e| off(&e))?;
    loop {
        let response = transport.response().map_err(|e| off(&e))?;
        match parse::reply(&response) {
            Reply::Tagged(b"s1", said) if said.verb == Verb::Ok => return Ok(greeting),
            Reply::Tagged(b"s1", said) => {
                return Err(refused(format!("refuses STARTTLS ({})", said.printable()))
                    .with_hint(format!("if it has TLS on port 993, set {keyword} IMAPS"))
                    .of_kind(ErrorKind::NotTls));
            }
            Reply::Tagged(..) => {
                return Err(off(&TransportError::Malformed("an unexpected tagged response")));
            }
            Reply::Condition(said) if said.verb == Verb::Bye => {
                return Err(goodbye(&said, &said.printable()));
            }
            _ => {}
        }
    }
}

/// A TCP connection, the step's time already begun for the greeting.
pub fn dial(server: &Server, host: &str, interrupt: &Cancel) -> Result<Transport, Error> {
    let time = step(server);
    let addresses = resolve(host, server.port, Instant::now() + time, interrupt)
        .map_err(|e| step_failed("cannot find the address", &e))?;
    let stream = first_to_answer(addresses, Instant::now() + time, interrupt)
        .map_err(|e| step_failed("cannot connect", &e))?;
    // Half-open connections are noticed by the kernel within 90 s, without waking us.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(&stream, 3);
    let _ = sockopt::set_tcp_user_timeout(&stream, 60_000);
    let _ = stream.set_nodelay(true);
    let mut transport = Transport::new(Stream::Tcp(stream), interrupt.clone());
    transport.begin(Limits::small(time));
    Ok(transport)
}

/// Resolver threads that nobody waits for any more.
static LATE_RESOLVERS: AtomicUsize = AtomicUsize::new(0);

/// The addresses of a host, in the resolver's order. The resolver can not be
/// interrupted, so it runs in a thread that is left to itself when it is late.
pub fn resolve(
    host: &str,
    port: u16,
    deadline: Instant,
    interrupt: &Cancel,
) -> Result<Vec<SocketAddr>, TransportError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if LATE_RESOLVERS.load(Ordering::Relaxed) >= MOST_RESOLVERS {
        return Err(TransportError::Io("earlier name lookups are still pending".to_owned()));
    }
    let system = |e: std::io::Error| TransportError::system(&e);
    let (done, signal) = UnixStream::pair().map_err(system)?;
    let (answer, answers) = mpsc::channel();
    let name = host.to_owned();
    // Set by the side that leaves first, thread or caller.
    let left = Arc::new(AtomicBool::new(false));
    let left_by_caller = Arc::clone(&left);
    let started = std::thread::Builder::new()
        .name("resolve".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            let _ = answer.send(found);
            drop(signal);
            if left.swap(true, Ordering::Relaxed) {
                LATE_RESOLVERS.fetch_sub(1, Ordering::Relaxed);
            }
        });
    started.map_err(system)?;
    if let Err(error) = wait(&[(done.as_fd(), PollFlags::IN)], deadline, interrupt) {
        LATE_RESOLVERS.fetch_add(1, Ordering::Relaxed);
        if left_by_caller.swap(true, Ordering::Relaxed) {
            LATE_RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        }
        return Err(error);
    }
    match answers.try_recv() {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Err(error)) => Err(TransportError::system(&error)),
        _ => Err(TransportError::Io("the name has no address".to_owned())),
    }
}

/// The first of these addresses to take a connection: tried in order, the next
/// one beside it when one fails or is slow.
pub fn first_to_answer(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    interrupt: &Cancel,
) -> Result<TcpStream, TransportError> {
    let mut waiting: VecDeque<SocketAddr> = addresses.into_iter().take(32).collect();
    let mut trying: Vec<OwnedFd> = Vec::new();
    let mut last = TransportError::Io("the name has no address".to_owned());
    loop {
        if let Some(address) = waiting.pop_front() {
            match begin(address) {
                Ok((socket, true)) => return Ok(socket.into()),
                Ok((socket, false)) => trying.push(socket),
                Err(error) => {
                    last = TransportError::system(&error.into());
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
        let ready = match wait(&fds, next, interrupt) {
            Ok(ready) => ready,
            Err(TransportError::Deadline) if Instant::now() < deadline => continue,
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
                    last = TransportError::system(&error.into());
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
fn tunnel(command: &str, interrupt: &Cancel) -> Result<Transport, Error> {
    let failed = |e: std::io::Error| {
        Error::new(
            ExitStatus::Offline,
            format!("the Tunnel cannot be started: {}", system_text(&e)),
        )
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
    let child = Child::spawn(&mut shell, Scope::Session, GRACE).map_err(failed)?;
    Ok(Transport::new(Stream::Tunnel(ours, Box::new(child)), interrupt.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// A socket with a port of its own.
    fn bound() -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &any).unwrap();
        socket
    }

    #[test]
    fn a_dead_address_does_not_hide_a_live_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        // Bound, so that nobody else gets its port, and not listened to.
        let socket = bound();
        let dead = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        let stream =
            first_to_answer(vec![dead, dead, live], soon(), &Cancel::new().unwrap()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        let error = first_to_answer(vec![dead], soon(), &Cancel::new().unwrap()).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn g9_an_address_that_never_answers_is_left_in_time() {
        // A backlog of one, filled: further connects stay without an answer.
        let socket = bound();
        rustix::net::listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        let full = listener.local_addr().unwrap();
        let _fill: Vec<_> = (0..4).map(|_| begin(full)).collect();
        let begun = Instant::now();
        let moment = Instant::now() + Duration::from_millis(400);
        assert_eq!(
            first_to_answer(vec![full], moment, &Cancel::new().unwrap()).unwrap_err(),
            TransportError::Deadline
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = live.local_addr().unwrap();
        let stream = first_to_answer(vec![full, second], soon(), &Cancel::new().unwrap()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), second);
    }

    #[test]
    fn names_are_looked_up() {
        let found = resolve("localhost", 143, soon(), &Cancel::new().unwrap()).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 143));
        assert!(resolve("no-such-host.invalid", 143, soon(), &Cancel::new().unwrap()).is_err());
    }
}
