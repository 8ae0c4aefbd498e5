//! A server as its section names it: its name in messages, the time it has for
//! each step, and how a step that failed is reported.
//!
//! Does not depend on: what is said on a connection.

use super::transport::TransportError;
use crate::error::{CertificateProblem, Error, ErrorKind, ExitStatus};
use crate::model::{Server, TlsMode};
use crate::text::shell_word;
use std::path::Path;
use std::time::Duration;

/// A step's time where the file sets none (`Timeout 0`): mbsync would wait for ever.
const LONGEST_STEP: Duration = Duration::from_secs(60);

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
    if server.tunnel.is_some() {
        return "the tunnel".to_owned();
    }
    server.address().unwrap_or_else(|| "the server".to_owned())
}

/// What a connection's error means for the step of this name; [`Error::at`] adds
/// the server's.
#[must_use]
pub fn step_failed(doing: &str, error: &TransportError) -> Error {
    match error {
        TransportError::Interrupted => {
            Error::new(ExitStatus::Later, "interrupted").of_kind(ErrorKind::Connection)
        }
        error => {
            let spoke = matches!(error, TransportError::NotTls | TransportError::Handshake(_));
            let status = if spoke { ExitStatus::Denied } else { ExitStatus::Offline };
            Error::new(status, format!("{doing}: {error}")).of_kind(ErrorKind::Connection)
        }
    }
}

/// A server that was reached has not greeted. It is offline only if it says nothing, and not
/// on the port where it waits for TLS first (RFC 8314).
#[must_use]
pub fn no_greeting(error: &TransportError, server: &Server) -> Error {
    let failed = step_failed("greeting", error).of_kind(ErrorKind::Greeting);
    let spoke = matches!(error, TransportError::Malformed(_) | TransportError::TooMuch(_));
    let waits = matches!(error, TransportError::Deadline | TransportError::Closed)
        && server.tls != TlsMode::Imaps;
    if server.tunnel.is_some() || !(spoke || waits) {
        return failed;
    }
    let denied = spoke || server.port == 993;
    let status = if denied { ExitStatus::Denied } else { failed.status };
    let hint = if spoke { "check Host and Port".to_owned() } else { other_mode(server) };
    Error { status, ..failed }.with_hint(hint)
}

/// What to do where a server is there, but not as `TLSType` says.
#[must_use]
pub fn other_mode(server: &Server) -> String {
    let (has, mode) = match server.tls {
        TlsMode::None => ("TLS", "IMAPS"),
        TlsMode::StartTls => ("TLS from the first byte (port 993)", "IMAPS"),
        TlsMode::Imaps => ("STARTTLS (port 143)", "STARTTLS"),
    };
    format!("if it has {has}, set `{} {mode}`, else check Host and Port", server.tls_keyword)
}

/// A server's certificate does not hold.
#[must_use]
pub fn certificate_refused(problem: CertificateProblem, server: &Server) -> Error {
    let shown = |path: &Path| shell_word(&path.to_string_lossy());
    let fix = problem.fix().map_or_else(|| keep_certificate(server, "FILE", shown), str::to_owned);
    Error::new(ExitStatus::Denied, format!("certificate refused ({problem})"))
        .with_hint(fix)
        .of_kind(ErrorKind::Certificate(problem))
}

/// How to keep a server's certificate: in the file that the section names, where what else
/// is in it stays, or in `new`, a word for the shell. `shown`: a path as such a word.
#[must_use]
pub fn keep_certificate(server: &Server, new: &str, shown: impl Fn(&Path) -> String) -> String {
    let command = print_certificate(server);
    let (file, then) = match &server.certificate_file {
        Some(file) => (format!(">>{}", shown(file)), "that is the CertificateFile".to_owned()),
        None => (format!(">{new}"), format!("then set `CertificateFile {new}`")),
    };
    format!("if you know that it is the right one, keep it: {command} {file} ; {then}")
}

/// The command that prints a server's certificate. isync's script knows port 993 only, and
/// STARTTLS only since 1.5.
fn print_certificate(server: &Server) -> String {
    match (server.tls, &server.host) {
        (TlsMode::Imaps, Some(host)) if server.port == 993 => {
            format!("mbsync-get-cert {}", shell_word(host))
        }
        (tls, _) => {
            let starttls = if tls == TlsMode::StartTls { " -starttls imap" } else { "" };
            let place = shell_word(&place(server));
            format!("openssl s_client -connect {place}{starttls} </dev/null | openssl x509")
        }
    }
}

/// A refusal (77) of what the server says or does.
#[must_use]
pub fn refused(message: impl Into<String>) -> Error {
    Error::new(ExitStatus::Denied, message).of_kind(ErrorKind::Connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_waits_for_tls_is_not_offline() {
        let found = |tls, port, error| {
            let server = Server { host: Some("h".to_owned()), port, tls, ..Server::default() };
            no_greeting(&error, &server).status
        };
        let silent = TransportError::Deadline;
        assert_eq!(found(TlsMode::None, 993, silent.clone()), ExitStatus::Denied);
        assert_eq!(found(TlsMode::StartTls, 993, TransportError::Closed), ExitStatus::Denied);
        assert_eq!(found(TlsMode::StartTls, 143, silent.clone()), ExitStatus::Offline);
        assert_eq!(found(TlsMode::Imaps, 993, silent), ExitStatus::Offline);
        let stopped = TransportError::Interrupted;
        assert_eq!(found(TlsMode::None, 993, stopped), ExitStatus::Later);
    }

    #[test]
    fn isyncs_script_is_named_for_the_port_that_it_knows() {
        let keep = |tls, port| {
            let server = Server { host: Some("h".to_owned()), port, tls, ..Server::default() };
            let said = keep_certificate(&server, "FILE", |_| String::new());
            said.split(" >FILE").next().unwrap().split("it: ").last().unwrap().to_owned()
        };
        assert_eq!(keep(TlsMode::Imaps, 993), "mbsync-get-cert h");
        let openssl = "openssl s_client -connect h:1993 </dev/null | openssl x509";
        assert_eq!(keep(TlsMode::Imaps, 1993), openssl);
        let starttls = "openssl s_client -connect h:143 -starttls imap </dev/null | openssl x509";
        assert_eq!(keep(TlsMode::StartTls, 143), starttls);
    }

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        let server = |host: &str| Server {
            host: Some(host.to_owned()),
            port: 1993,
            tls: TlsMode::Imaps,
            ..Server::default()
        };
        assert_eq!(place(&server("::1")), "[::1]:1993");
        assert_eq!(place(&server("127.0.0.1")), "127.0.0.1:1993");
        assert_eq!(place(&Server::default()), "the server");
        let said = keep_certificate(&server("fe80::1%eth0"), "FILE", |_| String::new());
        assert!(said.contains("-connect '[fe80::1%eth0]:1993' <"), "{said}");
    }
}
