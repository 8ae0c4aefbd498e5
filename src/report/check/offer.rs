//! `--check HOST[:PORT]`: what a server offers before the login, and what that means. Needs
//! no configuration, and says nothing of the user to the server.
//!
//! Does not depend on: accounts, logins, local mail.

use std::net::Ipv6Addr;

use super::{Asked, Checklist, Step};
use crate::error::{Error, ErrorKind, ExitStatus};
use crate::imap::Capabilities;
use crate::imap::connect::connect_by_steps;
use crate::imap::endpoint::place;
use crate::mbsync_version;
use crate::mbsyncrc;
use crate::model::{Server, TlsMode};
use crate::report::check::connection::offered;
use crate::text::printable;
use crate::watch::connections::WatchMode;

/// The extensions that matter here.
pub const WANTED: [&str; 6] = ["NOTIFY", "IDLE", "CONDSTORE", "ESEARCH", "LIST-STATUS", "UNSELECT"];

/// The server that the only name given is the address of: not a name of `.mbsyncrc`.
pub fn server(asked: &Asked<'_>) -> Option<(String, Option<u16>)> {
    let [name] = asked.names else { return None };
    let address = address(name)?;
    (!is_configured(asked, name)).then_some(address)
}

/// `HOST` or `HOST:PORT`; a host has a dot in its name, or is this machine, or is an IPv6
/// address: `::1`, `[::1]` or `[::1]:PORT`.
fn address(name: &str) -> Option<(String, Option<u16>)> {
    if is_ipv6(name) {
        return Some((name.to_owned(), None));
    }
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
    if let Some((host, rest)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(number(port)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        return is_ipv6(host).then(|| (host.to_owned(), port));
    }
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(number(port)?)),
        None => (name, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let is_host = host == "localhost" || host.contains('.') && !host.starts_with(['.', '-']);
    (is_host && host.chars().all(fits)).then(|| (host.to_owned(), port))
}

/// With or without the name of an interface, which a link-local address needs.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(fits)
}

fn is_configured(asked: &Asked<'_>, name: &str) -> bool {
    let Ok(settings) = &asked.settings else { return false };
    let (env, general) = (asked.env, &settings.general);
    let version = mbsync_version::of_mbsync(&general.mbsync, std::path::Path::new("/dev/null"));
    let named = asked.mbsyncrc.or(general.mbsyncrc.as_deref());
    let Ok(file) = mbsyncrc::file_of(named, env, version) else { return false };
    let config = mbsyncrc::read(&file, env, version.unwrap_or(mbsyncrc::IsyncVersion::V1_5));
    config.is_ok_and(|config| config.select(&[name]).is_ok())
}

/// How a connection may be secured, by its port: the likeliest first.
fn ways(port: Option<u16>) -> &'static [(TlsMode, u16)] {
    const IMAPS: (TlsMode, u16) = (TlsMode::Imaps, 0);
    const REST: [(TlsMode, u16); 2] = [(TlsMode::StartTls, 0), (TlsMode::None, 0)];
    match port {
        None => &[(TlsMode::Imaps, 993), (TlsMode::StartTls, 143), (TlsMode::None, 143)],
        Some(143) => &REST,
        Some(993) => &[IMAPS],
        Some(_) => &[IMAPS, REST[0], REST[1]],
    }
}

/// The steps.
pub fn steps((host, port): (String, Option<u16>), report: &mut Checklist) {
    let mut worst: Option<Error> = None;
    for (tls, usual) in ways(port) {
        let server = Server {
            host: Some(host.clone()),
            port: port.unwrap_or(*usual),
            tls: *tls,
            ..Server::default()
        };
        match connect_by_steps(&server, report.stop.cancel()) {
            Ok((mut transport, greeting)) => {
                report.say(connected(&server));
                match offered(&mut transport, greeting, &server) {
                    Ok(can) => {
                        login(&can, *tls, report);
                        watched(&can, report);
                    }
                    Err(error) => {
                        report.say(Step::failed("capabilities", &error, "try again later"));
                        report.out_of_reach(&["login", "watching"]);
                    }
                }
                return;
            }
            Err(error) => {
                let is_over = !is_other_way_open(*tls, &error) || report.stop.signal().is_some();
                // That a second way leads nowhere tells less than why the first does not.
                let more = |worst: &Error| {
                    error.status != ExitStatus::Offline || worst.kind == ErrorKind::NotTls
                };
                if worst.as_ref().is_none_or(more) {
                    worst = Some(error.at(&place(&server)));
                }
                if is_over {
                    break;
                }
            }
        }
    }
    if let Some(error) = worst {
        let fix = match error.kind {
            ErrorKind::Certificate(_) => error.hint.as_deref(),
            _ if error.status == ExitStatus::Later => Some("try again later"),
            _ => None,
        };
        let fix = fix.unwrap_or(
            "check that the name and the port are right (993 for IMAPS, 143 for STARTTLS), and that the network is up",
        );
        report.say(Step::bad("connection", error.status, &*error.message, fix));
    }
    report.out_of_reach(&["login", "capabilities", "watching"]);
}

/// Whether another way may lead further than the one that failed.
fn is_other_way_open(tls: TlsMode, error: &Error) -> bool {
    let away = error.kind == ErrorKind::Connection && error.status == ExitStatus::Offline;
    error.kind == ErrorKind::NotTls || tls == TlsMode::Imaps && away
}

fn connected(server: &Server) -> Step {
    let place = place(server);
    match server.tls {
        TlsMode::Imaps => Step::good("connection", format!("{place} greets (TLSType IMAPS)")),
        TlsMode::StartTls => Step::good("connection", format!("{place} greets (TLSType STARTTLS)")),
        TlsMode::None => Step::warning(
            "connection",
            format!(
                "{place} greets, without TLS: anybody on the network in between can read mail and password"
            ),
            "ask the server's operator for a port with TLS",
        ),
    }
}

fn login(can: &Capabilities, tls: TlsMode, report: &mut Checklist) {
    let mut all: Vec<&str> = can.mechanisms().collect();
    let disabled = can.has("LOGINDISABLED");
    if !disabled {
        all.push("LOGIN");
    }
    let tokens = |name: &&str| ["XOAUTH2", "OAUTHBEARER"].contains(name);
    let found = if all.is_empty() { "no mechanism".to_owned() } else { all.join(" ") };
    // A server has a handful.
    let found = printable(&found);
    report.say(if !all.is_empty() && all.iter().all(tokens) {
        Step::note("login", format!("{found}: a token only, by {}", token_lines(can)))
    } else if disabled && all.is_empty() && tls == TlsMode::None {
        Step::note("login", "no mechanism without TLS")
    } else {
        Step::good("login", found)
    });
}

/// What `.mbsyncrc` needs where the server takes tokens.
pub fn token_lines(can: &Capabilities) -> String {
    let mechanism = if can.auth("XOAUTH2") { "XOAUTH2" } else { "OAUTHBEARER" };
    format!("`AuthMechs {mechanism}` and a PassCmd that prints one (mutt-sync(1), PROVIDERS)")
}

/// Which of [`WANTED`] there are.
pub fn extensions(can: &Capabilities) -> Step {
    let (has, lacks): (Vec<&str>, Vec<&str>) = WANTED.iter().partition(|word| can.has(word));
    let lacks = if lacks.is_empty() { String::new() } else { format!("; not {}", lacks.join(" ")) };
    let has = if has.is_empty() { "none that help".to_owned() } else { has.join(" ") };
    Step::good("capabilities", format!("{has}{lacks}"))
}

fn watched(can: &Capabilities, report: &mut Checklist) {
    report.say(extensions(can));
    let more = "many servers offer more after the login";
    report.say(match WatchMode::best(can, can.notify()) {
        WatchMode::Notify => Step::good("watching", "by NOTIFY: all mailboxes on 1 connection"),
        WatchMode::Idle => Step::good(
            "watching",
            format!("by IDLE at least: the mailboxes that change most; {more}"),
        ),
        WatchMode::Sweep => Step::note(
            "watching",
            format!("neither by NOTIFY nor by IDLE before the login; {more}"),
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_names() {
        let found = |name| address(name).map(|(host, port)| format!("{host} {port:?}"));
        assert_eq!(found("imap.example.org").unwrap(), "imap.example.org None");
        assert_eq!(found("imap.example.org:143").unwrap(), "imap.example.org Some(143)");
        assert_eq!(found("localhost:1143").unwrap(), "localhost Some(1143)");
        assert_eq!(found("::1").unwrap(), "::1 None");
        assert_eq!(found("[::1]").unwrap(), "::1 None");
        assert_eq!(found("[2001:db8::1]:1143").unwrap(), "2001:db8::1 Some(1143)");
        assert_eq!(found("[fe80::1%eth0]:143").unwrap(), "fe80::1%eth0 Some(143)");
        for name in ["[::1", "[::1]x", "[::1]:0", "[a.b]:1", "[]", "::g", "fe80::1%", "::1%a b"] {
            assert_eq!(found(name), None, "{name}");
        }
        for name in ["Home", "Home:INBOX", "Home:a.b", "a.b:c", "a.b:0", "a.b:70000", ".a", "a b.c"]
        {
            assert_eq!(found(name), None, "{name}");
        }
    }
}
