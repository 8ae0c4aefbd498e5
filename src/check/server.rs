//! An account's server, from the password to what a waiter would be told.
//!
//! Everything up to the greeting is tried without saying anything secret, on
//! connections of its own, so that the step that fails is known; then one login.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use native_tls::TlsConnector;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use super::{Report, Scene, Step, counted, for_shell, password, some};
use crate::account::{Channel, Given, ImapStore, Mailbox, Server, StoreKind, TlsMode};
use crate::imap::connect::{connect, first_to_answer, place, resolve, step};
use crate::imap::login::{Greeting, Mechanism, greeting};
use crate::imap::names::{Naming, from_utf7, to_utf7};
use crate::imap::parse::{self, Reply, Verb};
use crate::imap::wire::{Limits, Transport, Wire};
use crate::imap::{Capabilities, Link, LinkError, Listed};
use crate::mbsyncrc::{Dialect, SectionKind};
use crate::outcome::{Exit, Failure};
use crate::watch::far::Rung;

/// Days of a certificate's life at which its end is worth a word.
const SOON: i32 = 14;

/// The steps.
pub fn steps(scene: &Scene<'_>, mailboxes: &[Mailbox], report: &mut Report) {
    let Some(server) = &scene.account.server else {
        report.say(Step::note("server", "none: both sides are on this disk"));
        return;
    };
    let tunnel = server.tunnel.is_some();
    let known = if tunnel {
        through_tunnel(scene, server, report)
    } else {
        let secrets = secrets(scene, server, report);
        let offered = reach(scene, server, report);
        secrets.zip(offered)
    };
    if let Some((server, offered)) = known {
        if let Some(link) = log_in(scene, &server, &offered, report) {
            logged_in(scene, link, mailboxes, report);
        }
    }
    let before: &[_] =
        if tunnel { &["tunnel", "password"] } else { &["password", "name", "connection", "TLS"] };
    report.out_of_reach(before);
    report.out_of_reach(&["login", "capabilities", "server", "watching"]);
}

/// Where the account's lines stand, for messages.
fn section(scene: &Scene<'_>) -> String {
    let config = &scene.ground.config;
    let name = &scene.account.name;
    let of = |kind| config.sections.iter().find(|each| each.kind == kind && each.name == *name);
    let (keyword, line) = match (of(SectionKind::Account), of(SectionKind::ImapStore)) {
        (Some(section), _) => ("IMAPAccount", section.first),
        (None, Some(section)) => ("IMAPStore", section.first),
        (None, None) => ("IMAPAccount", 1),
    };
    format!("{keyword} {name} ({}:{line})", scene.shown(&config.file))
}

/// The server with user name and password as texts. `None`: they cannot be had.
fn secrets(scene: &Scene<'_>, server: &Server, report: &mut Report) -> Option<Server> {
    let section = section(scene);
    // As a waiter gives it.
    let time = Duration::from_secs(60).max(step(server));
    let mut server = server.clone();
    let external = server.auth_mechs.iter().all(|mech| mech == "EXTERNAL");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Zeroizing::new);
    let Some(user) = &server.user else {
        report.say(Step::bad(
            "user",
            Exit::Config,
            "neither User nor UserCmd is set",
            format!("set `User NAME` in {section}"),
        ));
        return None;
    };
    let source = password::Source { what: "user", keyword: "UserCmd", section: &section };
    let user = password::step(user, &source, time, report)?;
    if let Some(user) = text(&user) {
        server.user = Some(Given::Text(user));
    }
    let pass = match &server.pass {
        Some(pass) => pass,
        None if external => {
            report.say(Step::good("password", "none needed: a certificate tells who you are"));
            return Some(server);
        }
        None => {
            report.say(Step::warning(
                "password",
                "neither Pass nor PassCmd is set: mbsync asks on the terminal, and only there",
                format!("set `PassCmd COMMAND` in {section}"),
            ));
            return None;
        }
    };
    let source = password::Source { what: "password", keyword: "PassCmd", section: &section };
    if let Given::Text(text) = pass {
        report.secret(text.as_bytes());
    }
    let pass = password::step(pass, &source, time, report)?;
    // One that is not UTF-8 is left to the command, which is then run again.
    if let Some(pass) = text(&pass) {
        server.pass = Some(Given::Text(pass));
    }
    Some(server)
}

/// A tunnel stands for name, connection and TLS, and may have logged in by itself.
fn through_tunnel(
    scene: &Scene<'_>,
    server: &Server,
    report: &mut Report,
) -> Option<(Server, Capabilities)> {
    match connect(server, &report.interrupt) {
        Ok((mut wire, greeting)) => {
            report.say(Step::good("tunnel", "the server greets through it"));
            if greeting.preauth {
                report.say(Step::good("password", "none needed: the tunnel has logged in"));
                return Some((server.clone(), greeting.capabilities.unwrap_or_default()));
            }
            let offered = offered(&mut wire, greeting, server);
            drop(wire);
            Some((secrets(scene, server, report)?, offered))
        }
        Err(failure) => {
            let mend = format!("run the Tunnel of {} by hand: it must speak IMAP", section(scene));
            report.say(Step::failed("tunnel", &failure, &mend));
            None
        }
    }
}

/// From the name to the greeting. `None`: not reached.
fn reach(scene: &Scene<'_>, server: &Server, report: &mut Report) -> Option<Capabilities> {
    let section = section(scene);
    let Some(host) = &server.host else {
        report.say(Step::bad(
            "name",
            Exit::Config,
            "neither Host nor Tunnel is set",
            format!("set `Host NAME` in {section}"),
        ));
        return None;
    };
    let time = step(server);
    let addresses = match resolve(host, server.port, Instant::now() + time, &report.interrupt) {
        Ok(addresses) => addresses,
        Err(error) => {
            report.say(Step::bad(
                "name",
                Exit::Offline,
                format!("{host}: {error}"),
                format!("see that the network is up (getent hosts {host}), and that Host in {section} is spelt right"),
            ));
            return None;
        }
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let mut shown: Vec<String> = shown.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    shown.retain(|address| address != host);
    report.say(Step::good(
        "name",
        if shown.is_empty() {
            format!("{host} is an address")
        } else {
            format!("{host} is {}", some(&shown))
        },
    ));
    let begun = Instant::now();
    let loopback = addresses.iter().all(|address| address.ip().is_loopback());
    match first_to_answer(addresses, Instant::now() + time, &report.interrupt) {
        Ok(stream) => {
            let address = stream.peer_addr().map_or(String::new(), |peer| peer.to_string());
            let took = begun.elapsed().as_millis();
            report.say(Step::good("connection", format!("{address} answers after {took} ms")));
        }
        Err(error) => {
            report.say(Step::bad(
                "connection",
                Exit::Offline,
                format!("{host}:{}: {error}", server.port),
                format!(
                    "see that the server is up, that no firewall stands between, and that Port in {section} is right (993 for IMAPS, 143 for STARTTLS)"
                ),
            ));
            return None;
        }
    }
    match connect(server, &report.interrupt) {
        Ok((mut wire, greeting)) => {
            secured(server, &wire, loopback, &section, report);
            Some(offered(&mut wire, greeting, server))
        }
        Err(failure) => {
            refused(scene, server, &failure, &section, report);
            None
        }
    }
}

/// What the connection is secured by.
fn secured(server: &Server, wire: &Wire, loopback: bool, section: &str, report: &mut Report) {
    if server.tls == TlsMode::None {
        report.say(if loopback {
            Step::note("TLS", "none, as the file wants it; the server is on this machine")
        } else {
            Step::warning(
                "TLS",
                "none: everybody on the way can read mail and password",
                format!("set SSLType IMAPS or STARTTLS in {section}, and its Port"),
            )
        });
        return;
    }
    let shown = wire.peer_certificate().as_deref().and_then(Certificate::read);
    report.say(match shown {
        None => Step::good("TLS", "encrypted"),
        Some(certificate) if certificate.days < SOON => {
            Step::warning("TLS", certificate.to_string(), "whoever runs the server must renew it")
        }
        Some(certificate) => Step::good("TLS", certificate.to_string()),
    });
}

/// Why there was no greeting on a connection that could be made.
fn refused(
    scene: &Scene<'_>,
    server: &Server,
    failure: &Failure,
    section: &str,
    report: &mut Report,
) {
    if failure.exit == Exit::Later {
        report.say(Step::failed("TLS", failure, "try again later"));
        return;
    }
    if failure.exit == Exit::Config {
        // What mbsync's TLS can and ours cannot: a sync works, waiting for the server does not.
        let step = Step::failed("TLS", failure, "see mbsync(1)");
        report.say(Step::warning("TLS", step.found, step.mend.unwrap_or_default()));
        return;
    }
    let where_to = place(server);
    let said = failure.text.strip_prefix(&format!("{where_to}: ")).unwrap_or(&failure.text);
    if !said.starts_with("certificate refused") {
        let mend = match server.tls {
            TlsMode::None => format!(
                "see that an IMAP server without TLS listens there; if it has TLS, set `SSLType IMAPS` in {section}"
            ),
            TlsMode::StartTls => format!(
                "see that an IMAP server with STARTTLS listens there; if it has TLS from the first byte (port 993), set `SSLType IMAPS` in {section}"
            ),
            TlsMode::Imaps => format!(
                "see that an IMAP server with TLS from the first byte listens there; if it has STARTTLS (port 143), set `SSLType STARTTLS` in {section}"
            ),
        };
        report.say(Step::failed("TLS", failure, &mend));
        return;
    }
    let shown = certificate_shown(server, report);
    let certificate = shown.as_ref().map_or_else(|| "certificate".to_owned(), ToString::to_string);
    let reason = said.split(['(', ')']).nth(1).unwrap_or("refused");
    let found = format!("{certificate}: refused ({reason})");
    let mend = if reason.contains("mismatch") {
        let names = shown.map(|shown| shown.names).unwrap_or_default();
        match names.first() {
            Some(name) => format!("set `Host {name}` in {section}, if that is the server you mean"),
            None => "whoever runs the server must give it a certificate with its name".to_owned(),
        }
    } else if reason.contains("expired") || reason.contains("not yet valid") {
        crate::imap::tls::mend(reason).to_owned()
    } else {
        let file = for_shell(
            scene.asked.env,
            &scene.asked.env.home.join(format!("{}.pem", scene.account.name)),
        );
        let starttls = if server.tls == TlsMode::StartTls { " -starttls imap" } else { "" };
        format!(
            "if you know that it is the right one, keep it: openssl s_client -connect {where_to}{starttls} </dev/null | openssl x509 >{file} ; then set `CertificateFile {file}` in {section}"
        )
    };
    report.say(Step::bad("TLS", failure.exit, found, mend));
}

/// The certificate that the server shows, whatever it is worth. Nothing is said
/// to the server but what leads to it.
fn certificate_shown(server: &Server, report: &Report) -> Option<Certificate> {
    let host = server.host.as_deref()?;
    let time = step(server);
    let deadline = Instant::now() + time;
    let addresses = resolve(host, server.port, deadline, &report.interrupt).ok()?;
    let stream = first_to_answer(addresses, deadline, &report.interrupt).ok()?;
    let mut wire = Wire::new(Transport::Tcp(stream), report.interrupt.clone());
    wire.begin(Limits::small(time));
    if server.tls == TlsMode::StartTls {
        greeting(&mut wire, &place(server)).ok()?;
        wire.send(b"s1 STARTTLS\r\n").ok()?;
        loop {
            match parse::reply(&wire.response().ok()?) {
                Reply::Tagged(b"s1", said) if said.verb == Verb::Ok => break,
                Reply::Tagged(..) => return None,
                _ => {}
            }
        }
    }
    wire.begin(Limits::small(time));
    // This only looks: what is shown is neither believed nor answered.
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .ok()?;
    let wire = wire.start_tls(&connector, host).ok()?;
    Certificate::read(&wire.peer_certificate()?)
}

/// What the server says it can do, before login.
fn offered(wire: &mut Wire, greeting: Greeting, server: &Server) -> Capabilities {
    if let Some(offered) = greeting.capabilities {
        return offered;
    }
    wire.begin(Limits::small(step(server)));
    let mut ask = || {
        wire.send(b"c1 CAPABILITY\r\n").ok()?;
        let mut offered = None;
        loop {
            match parse::reply(&wire.response().ok()?) {
                Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"CAPABILITY") => {
                    offered = Some(parse::capabilities(rest.trim_ascii_end()));
                }
                Reply::Tagged(..) => return offered,
                _ => {}
            }
        }
    };
    ask().unwrap_or_default()
}

fn log_in(
    scene: &Scene<'_>,
    server: &Server,
    offered: &Capabilities,
    report: &mut Report,
) -> Option<Link> {
    let encrypted = server.tls != TlsMode::None;
    let mechanism = Mechanism::choose(&server.auth_mechs, offered, encrypted);
    match Link::open(server, false, &report.interrupt) {
        Ok(link) => {
            let how = mechanism.map_or("", Mechanism::name);
            let user = match &server.user {
                Some(Given::Text(user)) if !how.is_empty() && server.tunnel.is_none() => {
                    format!("as {} by {how}", user.as_str())
                }
                _ => "done".to_owned(),
            };
            report.say(Step::good("login", user));
            Some(link)
        }
        Err(failure) => {
            let section = section(scene);
            if let Err(unfit) = mechanism {
                let cleartext = !encrypted && !offered.has("LOGINDISABLED");
                let mend = if cleartext { "AuthMechs LOGIN" } else { "AuthMechs *" };
                let mend =
                    format!("set `{mend}` in {section}, or ask the server's people what it takes");
                let found = unfit.text.split("; ").next().unwrap_or_default();
                if unfit.text.contains("is not known here") {
                    // mbsync may know it by way of SASL.
                    report.say(Step::warning(
                        "login",
                        format!(
                            "{found}: only mbsync can log in, and nothing waits for the server"
                        ),
                        mend,
                    ));
                    return None;
                }
                report.say(Step::bad("login", failure.exit, found, mend));
                return None;
            }
            let mend = match failure.exit {
                Exit::Later => "try again later".to_owned(),
                Exit::Denied => {
                    format!(
                        "set `User NAME` and Pass (or PassCmd) in {section} to what the server knows"
                    )
                }
                _ => format!("see {section}"),
            };
            let place = place(server);
            let text = failure.text.strip_prefix(&format!("{place}: ")).unwrap_or(&failure.text);
            let text = text.strip_suffix("; check User and Pass").unwrap_or(text);
            report.say(Step::failed("login", &Failure::new(failure.exit, text), &mend));
            None
        }
    }
}

/// What can be asked and told over a login.
fn logged_in(scene: &Scene<'_>, mut link: Link, mailboxes: &[Mailbox], report: &mut Report) {
    let can = link.capabilities().clone();
    let wanted = ["NOTIFY", "IDLE", "CONDSTORE", "ESEARCH", "LIST-STATUS", "UNSELECT"];
    let (has, lacks): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|word| can.has(word));
    let lacks = if lacks.is_empty() { String::new() } else { format!("; not {}", lacks.join(" ")) };
    let has = if has.is_empty() { "none that help".to_owned() } else { has.join(" ") };
    report.say(Step::good("capabilities", format!("{has}{lacks}")));
    let lost = |error: LinkError| error.into_failure();
    match far_side(scene, &mut link, mailboxes, report).map_err(lost) {
        Ok(there) => match watching(scene, &mut link, &can, &there) {
            Ok(step) => report.say(step),
            Err(error) => {
                let mend = "a waiter tries again by itself";
                let failed = Step::failed("watching", &error.into_failure(), mend);
                report.say(Step::warning(
                    "watching",
                    failed.found,
                    failed.mend.unwrap_or_default(),
                ));
            }
        },
        Err(failure) => report.say(Step::failed("server", &failure, "try again later")),
    }
    link.log_out();
}

fn far_store(channel: &Channel) -> Option<&ImapStore> {
    match &channel.far.store.kind {
        StoreKind::Imap(store) => Some(store),
        StoreKind::Maildir(_) => None,
    }
}

/// What both sides have, and what only one. Gives the wire names of those here
/// that are there too.
fn far_side(
    scene: &Scene<'_>,
    link: &mut Link,
    mailboxes: &[Mailbox],
    report: &mut Report,
) -> Result<Vec<String>, LinkError> {
    let utf8 = scene.ground.config.dialect == Dialect::V1_5;
    let namespace = link.namespace()?;
    let mut there = Vec::new();
    let mut both = 0;
    let mut steps = Vec::new();
    for channel in &scene.account.channels {
        let Some(store) = far_store(channel) else { continue };
        let naming = Naming::of(store, &namespace, None);
        let listed: Vec<Listed> = match link.list(&store.path) {
            Ok(listed) => listed,
            Err(LinkError::Refused(_)) => Vec::new(),
            Err(lost) => return Err(lost),
        };
        let mut only_there = Vec::new();
        let mut admitted = 0;
        for each in listed.iter().filter(|each| each.selectable()) {
            let name = if utf8 { from_utf7(&each.name) } else { Some(each.name.clone()) };
            let Some(far) = name.and_then(|name| naming.from_wire(&name)) else { continue };
            if !channel.admits_far(&far) {
                continue;
            }
            admitted += 1;
            let here = |mailbox: &&Mailbox| mailbox.channel == channel.name && mailbox.far == far;
            if !mailboxes.iter().any(|mailbox| here(&mailbox)) {
                only_there.push(far);
            }
        }
        let own: Vec<&Mailbox> =
            mailboxes.iter().filter(|mailbox| mailbox.channel == channel.name).collect();
        let wires: Vec<Option<String>> = own
            .iter()
            .map(|mailbox| {
                naming.to_wire(&mailbox.far).map(|wire| if utf8 { to_utf7(&wire) } else { wire })
            })
            .collect();
        let asked: Vec<String> = wires.iter().flatten().cloned().collect();
        let told = link.status(&asked)?;
        let missing: BTreeSet<&String> = asked
            .iter()
            .zip(&told)
            .filter(|(_, told)| told.is_none())
            .map(|(name, _)| name)
            .collect();
        let mut only_here = Vec::new();
        for (mailbox, wire) in own.iter().zip(&wires) {
            match wire {
                Some(wire) if !missing.contains(wire) => {
                    both += 1;
                    there.push(wire.clone());
                }
                _ => only_here.push(mailbox.near.clone()),
            }
        }
        steps.extend(one_sided(scene, channel, &only_there, &only_here));
        if channel.patterns.is_some() && admitted == 0 && own.is_empty() {
            steps.push(Step::warning(
                "server",
                format!(
                    "no mailbox matches the Patterns of channel {}, here or there",
                    channel.name
                ),
                format!(
                    "set `Patterns *` in {}, or what you mean",
                    channel_section(scene, channel)
                ),
            ));
        }
    }
    report.say(Step::good("server", format!("{} on both sides", counted(both, "mailbox"))));
    for step in steps {
        report.say(step);
    }
    Ok(there)
}

fn channel_section(scene: &Scene<'_>, channel: &Channel) -> String {
    let config = &scene.ground.config;
    let line = config
        .sections
        .iter()
        .find(|each| each.kind == SectionKind::Channel && each.name == channel.name)
        .map_or(1, |section| section.first);
    format!("Channel {} ({}:{line})", channel.name, scene.shown(&config.file))
}

/// Mailboxes that are on one side only: made on the other, or in the way.
fn one_sided(
    scene: &Scene<'_>,
    channel: &Channel,
    only_there: &[String],
    only_here: &[String],
) -> Vec<Step> {
    let mut steps = Vec::new();
    let sides = [
        (only_there, channel.create.near, "on the server", "here", "Near", channel.create.far),
        (only_here, channel.create.far, "here", "there", "Far", channel.create.near),
    ];
    let both = !only_there.is_empty() && !only_here.is_empty();
    for (names, creates, on, off, side, off_too) in sides {
        let off_too = off_too || both;
        if names.is_empty() {
            continue;
        }
        steps.push(if creates {
            Step::note(
                "server",
                format!("only {on}, made {off} by the next sync of all: {}", some(names)),
            )
        } else {
            Step::bad(
                "server",
                Exit::Mailbox,
                format!("only {on}, and not to be made {off}: {}", some(names)),
                format!(
                    "set `Create {}` in {}, or leave them out of its Patterns",
                    if off_too { "Both" } else { side },
                    channel_section(scene, channel)
                ),
            )
        });
    }
    steps
}

/// The rung of the ladder that a waiter would stand on.
fn rung(can: &Capabilities, notified: bool) -> Rung {
    match (can.notify() && can.idle() && notified, can.idle()) {
        (true, _) => Rung::Notify,
        (false, true) => Rung::Idle,
        (false, false) => Rung::Sweep,
    }
}

fn watching(
    scene: &Scene<'_>,
    link: &mut Link,
    can: &Capabilities,
    there: &[String],
) -> Result<Step, LinkError> {
    let notified = if can.notify() && can.idle() {
        match link.notify(there) {
            Ok(_) => true,
            Err(LinkError::Refused(_)) => false,
            Err(lost) => return Err(lost),
        }
    } else {
        false
    };
    let most = usize::try_from(scene.settings().connections).unwrap_or(1);
    Ok(how_watched(rung(can, notified), there.len(), most, scene.settings().sweep))
}

fn how_watched(rung: Rung, mailboxes: usize, most: usize, sweep: Duration) -> Step {
    const WHAT: &str = "watching";
    let every = humantime::format_duration(sweep);
    match rung {
        Rung::Notify => Step::good(WHAT, "by NOTIFY: all mailboxes on 1 connection"),
        Rung::Idle => {
            let with_loop = mailboxes.clamp(1, most);
            let rest = match mailboxes.saturating_sub(1) {
                0 => String::new(),
                _ => format!(", the rest asked every {every}"),
            };
            Step::good(
                WHAT,
                format!(
                    "by IDLE: the first mailbox on 1 connection ({with_loop} of them on {with_loop} with --loop){rest}"
                ),
            )
        }
        Rung::Sweep => Step::note(
            WHAT,
            format!("the server can neither NOTIFY nor IDLE: asked every {every} on 1 connection"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_told_from_what_the_server_can() {
        let can = |words: &str| parse::capabilities(words.as_bytes());
        assert_eq!(rung(&can("IMAP4rev1 IDLE NOTIFY"), true), Rung::Notify);
        assert_eq!(rung(&can("IMAP4rev1 IDLE NOTIFY"), false), Rung::Idle);
        assert_eq!(rung(&can("IMAP4rev1 NOTIFY"), true), Rung::Sweep);
        let told = how_watched(Rung::Idle, 9, 4, Duration::from_secs(300));
        assert!(told.found.contains("4 of them on 4 with --loop"), "{told:?}");
        assert!(told.found.contains("every 5m"), "{told:?}");
    }
}
