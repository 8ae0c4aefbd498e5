//! From a server's name to its greeting.
//!
//! Each step has a connection of its own, so that the one that fails is known.
//!
//! Does not depend on: logins, secrets, mail.

use std::collections::BTreeSet;
use std::time::Instant;

use native_tls::TlsConnector;

use super::certificate::Certificate;
use super::{CheckContext, Checklist, Step, some};
use crate::error::{CertificateProblem, Error, ErrorKind, ExitStatus};
use crate::imap::Capabilities;
use crate::imap::connect::{
    ask_for_tls, connect, connect_by_steps, dial, first_to_answer, resolve,
};
use crate::imap::endpoint::{keep_certificate, other_mode, place, step};
use crate::imap::greeting::Greeting;
use crate::imap::login::ask_capabilities;
use crate::imap::transport::{Limits, Transport};
use crate::model::{Server, TlsMode};
use crate::text::shell_word;

/// Days of a certificate's life at which its end is worth a word.
const SOON: i32 = 14;

/// A tunnel stands for name, connection and TLS. Gives whether it has logged in
/// by itself, and what the server says it can do. `None`: nobody answers.
pub fn by_tunnel(
    context: &CheckContext<'_>,
    server: &Server,
    report: &mut Checklist,
) -> Option<(bool, Capabilities)> {
    const WHAT: &str = "tunnel";
    match connect(server, report.stop.cancel()) {
        Ok((mut transport, greeting)) => {
            report.say(Step::good(WHAT, "the server greets through it"));
            let preauth = greeting.preauth;
            if preauth {
                return Some((preauth, greeting.capabilities.unwrap_or_default()));
            }
            Some((preauth, offered(&mut transport, greeting, server).unwrap_or_default()))
        }
        Err(failure) => {
            let fix =
                format!("run the Tunnel of {} by hand: it must speak IMAP", context.section());
            let step = Step::failed(WHAT, &failure, &fix);
            // What mbsync can and we cannot: a sync works, waiting for the server does not.
            let is_ours = failure.status == ExitStatus::Config;
            report.say(if is_ours { step.as_warning() } else { step });
            None
        }
    }
}

/// From the name to the greeting. `None`: not reached.
pub fn directly(
    context: &CheckContext<'_>,
    server: &Server,
    report: &mut Checklist,
) -> Option<Capabilities> {
    let section = context.section();
    let Some(host) = &server.host else {
        report.say(Step::bad(
            "name",
            ExitStatus::Config,
            "neither Host nor Tunnel is set",
            format!("set `Host NAME` in {section}"),
        ));
        return None;
    };
    let time = step(server);
    let addresses = match resolve(host, server.port, Instant::now() + time, report.stop.cancel()) {
        Ok(addresses) => addresses,
        Err(error) => {
            report.say(Step::bad(
                "name",
                ExitStatus::Offline,
                format!("{host}: {error}"),
                format!(
                    "check that the network is up (getent hosts {}), and the spelling of Host in {section}",
                    shell_word(host)
                ),
            ));
            return None;
        }
    };
    let all: BTreeSet<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let others: Vec<String> = all.into_iter().filter(|address| address != host).collect();
    report.say(Step::good(
        "name",
        if others.is_empty() {
            format!("{host} is an address")
        } else {
            format!("{host} is {}", some(&others))
        },
    ));
    let begun = Instant::now();
    let loopback = addresses.iter().all(|address| address.ip().is_loopback());
    match first_to_answer(addresses, Instant::now() + time, report.stop.cancel()) {
        Ok(stream) => {
            let address = stream.peer_addr().map_or(String::new(), |peer| peer.to_string());
            let took = begun.elapsed().as_millis();
            report.say(Step::good("connection", format!("{address} answers after {took} ms")));
        }
        Err(error) => {
            report.say(Step::bad(
                "connection",
                ExitStatus::Offline,
                format!("{}: {error}", place(server)),
                format!(
                    "check that the server is up, that no firewall blocks it, and that Port in {section} is right (993 for IMAPS, 143 for STARTTLS)"
                ),
            ));
            return None;
        }
    }
    match connect_by_steps(server, report.stop.cancel()) {
        Ok((mut transport, greeting)) => {
            secured(context, server, &transport, loopback, report);
            // What it fails by, the login will fail by, too.
            Some(offered(&mut transport, greeting, server).unwrap_or_default())
        }
        Err(failure) => {
            refused(context, server, failure, &section, report);
            None
        }
    }
}

/// What the connection is secured by.
fn secured(
    context: &CheckContext<'_>,
    server: &Server,
    transport: &Transport,
    loopback: bool,
    report: &mut Checklist,
) {
    let (keyword, section) = (server.tls_keyword, context.section());
    if server.tls == TlsMode::None {
        report.say(if loopback {
            Step::note("TLS", "none, as the file wants it; the server is on this machine")
        } else {
            Step::warning(
                "TLS",
                "none: anybody on the network in between can read mail and password",
                format!("set `{keyword} IMAPS` in {section}, or STARTTLS, and its Port"),
            )
        });
        return;
    }
    let shown = transport.peer_certificate().as_deref().and_then(Certificate::read);
    report.say(match shown {
        None => Step::good("TLS", "encrypted"),
        Some(certificate) if certificate.days < SOON => {
            Step::warning("TLS", certificate.to_string(), "the server's operator must renew it")
        }
        Some(certificate) => Step::good("TLS", certificate.to_string()),
    });
}

/// Why there was no greeting on a connection that could be made.
fn refused(
    context: &CheckContext<'_>,
    server: &Server,
    failure: Error,
    section: &str,
    report: &mut Checklist,
) {
    if failure.status == ExitStatus::Config {
        report.say(Step::failed("TLS", &failure, "see mbsync(1)").as_warning());
        return;
    }
    let greeted = failure.kind != ErrorKind::Greeting;
    if !greeted && server.tls == TlsMode::Imaps {
        report.say(Step::good("TLS", "encrypted"));
    }
    let ErrorKind::Certificate(problem) = failure.kind else {
        let what = if greeted { "TLS" } else { "greeting" };
        if failure.status == ExitStatus::Later {
            report.say(Step::bad(what, failure.status, failure.message, "try again later"));
            return;
        }
        let fix = failure.hint.unwrap_or_else(|| other_mode(server));
        let fix = format!("{fix} in {section}");
        report.say(Step::bad(what, failure.status, failure.message, fix));
        return;
    };
    let shown = certificate_shown(server, report);
    let certificate = shown.as_ref().map_or_else(|| "certificate".to_owned(), ToString::to_string);
    let is_above = problem == CertificateProblem::Expired
        && shown.as_ref().is_some_and(|shown| shown.days >= 0);
    let found = format!("{certificate}: refused ({problem})");
    let fix = match problem {
        CertificateProblem::HostMismatch | CertificateProblem::AddressMismatch => {
            let names = shown.map(|shown| shown.names).unwrap_or_default();
            match names.first() {
                Some(name) => {
                    format!("set `Host {name}` in {section}, if that is the server you mean")
                }
                None => "the server's operator must give it a certificate with its name".to_owned(),
            }
        }
        CertificateProblem::Expired if is_above => format!(
            "an authority above it has expired: put its new certificate into CertificateFile in {section}, or ask the server's operator"
        ),
        CertificateProblem::Expired | CertificateProblem::NotYetValid => {
            failure.hint.unwrap_or_default()
        }
        CertificateProblem::NotPinned | CertificateProblem::Other(_) => {
            let env = context.asked.env;
            let new = env.for_shell(&env.home.join(format!("{}.pem", context.account.name)));
            let keep = keep_certificate(server, &new, |path| env.for_shell(path));
            format!("{keep} in {section}")
        }
    };
    report.say(Step::bad("TLS", failure.status, found, fix));
}

/// The certificate that the server shows, whatever it is worth. Nothing is said
/// to the server but what leads to it.
fn certificate_shown(server: &Server, report: &Checklist) -> Option<Certificate> {
    let host = server.host.as_deref()?;
    let mut transport = dial(server, host, report.stop.cancel()).ok()?;
    if server.tls == TlsMode::StartTls {
        ask_for_tls(&mut transport, server).ok()?;
    }
    transport.begin(Limits::small(step(server)));
    // This only looks: what is shown is neither believed nor answered.
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .ok()?;
    let transport = transport.start_tls(&connector, host).ok()?;
    Certificate::read(&transport.peer_certificate()?)
}

/// What the server says it can do, before login.
pub fn offered(
    transport: &mut Transport,
    greeting: Greeting,
    server: &Server,
) -> Result<Capabilities, Error> {
    greeting.capabilities.map_or_else(|| ask_capabilities(transport, step(server)), Ok)
}
