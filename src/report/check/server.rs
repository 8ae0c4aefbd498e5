//! An account's server: the password, one login, and what can be asked and told
//! over it. How it is reached is [`reach`]'s to find out.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{CheckContext, Checklist, Step, connection, password, some};
use crate::error::{ErrorKind, ExitStatus};
use crate::imap::endpoint::step;
use crate::imap::login::Mechanism;
use crate::imap::names::{Naming, to_utf7};
use crate::imap::{Capabilities, Client, ClientError, Listed};
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc::SectionKind;
use crate::model::{Channel, CredentialSource, Mailbox, Server, StoreKind, SubFolders, TlsMode};
use crate::text::counted;
use crate::watch::connections::{WatchMode, start_notify};

/// The steps.
pub fn steps(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    let Some(server) = &context.account.server else {
        report.say(Step::note("server", "none: both sides are on this disk"));
        return;
    };
    let tunnel = server.tunnel.is_some();
    let known = if tunnel {
        through_tunnel(context, server, report)
    } else {
        let secrets = secrets(context, server, report);
        let offered = connection::directly(context, server, report);
        secrets.zip(offered)
    };
    if let Some((server, offered)) = known {
        if let Some(link) = log_in(context, &server, &offered, report) {
            logged_in(context, link, mailboxes, report);
        }
    }
    let before: &[_] =
        if tunnel { &["tunnel", "password"] } else { &["password", "name", "connection", "TLS"] };
    report.out_of_reach(before);
    report.out_of_reach(&["login", "capabilities", "server", "watching"]);
}

/// A tunnel may have logged in by itself.
fn through_tunnel(
    context: &CheckContext<'_>,
    server: &Server,
    report: &mut Checklist,
) -> Option<(Server, Capabilities)> {
    let (preauth, offered) = connection::by_tunnel(context, server, report)?;
    if preauth {
        report.say(Step::good("password", "none needed: the tunnel has logged in"));
        return Some((server.clone(), offered));
    }
    Some((secrets(context, server, report)?, offered))
}

/// The server with user name and password as texts. `None`: they cannot be had.
fn secrets(context: &CheckContext<'_>, server: &Server, report: &mut Checklist) -> Option<Server> {
    let section = context.section();
    // As a waiter gives it.
    let time = Duration::from_secs(60).max(step(server));
    let mut server = server.clone();
    let external = server.auth_mechs.iter().all(|mech| mech == "EXTERNAL");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Zeroizing::new);
    let Some(user) = &server.user else {
        report.say(Step::bad(
            "user",
            ExitStatus::Config,
            "neither User nor UserCmd is set",
            format!("set `User NAME` in {section}"),
        ));
        return None;
    };
    let source = password::PasswordSource { what: "user", keyword: "UserCmd", section: &section };
    let user = password::step(user, &source, time, report)?;
    if let Some(user) = text(&user) {
        server.user = Some(CredentialSource::Text(user));
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
    let source =
        password::PasswordSource { what: "password", keyword: "PassCmd", section: &section };
    if let CredentialSource::Text(text) = pass {
        report.secret(text.as_bytes());
    }
    let pass = password::step(pass, &source, time, report)?;
    if let Some(CredentialSource::Text(user)) = &server.user {
        // As PLAIN says it (RFC 4616), should the server repeat that.
        let said = Zeroizing::new([b"\0", user.as_bytes(), b"\0", &pass].concat());
        report.secret(Zeroizing::new(STANDARD.encode(&*said)).as_bytes());
    }
    // One that is not UTF-8 is left to the command, which is then run again.
    if let Some(pass) = text(&pass) {
        server.pass = Some(CredentialSource::Text(pass));
    }
    Some(server)
}

fn log_in(
    context: &CheckContext<'_>,
    server: &Server,
    offered: &Capabilities,
    report: &mut Checklist,
) -> Option<Client> {
    let encrypted = server.tls != TlsMode::None;
    let keyword = server.tls_keyword;
    let mechanism = Mechanism::choose(&server.auth_mechs, offered, encrypted, keyword);
    match Client::open_by_steps(server, false, report.stop.cancel()) {
        Ok(link) => {
            let how = mechanism.map_or("", Mechanism::name);
            let user = match &server.user {
                Some(CredentialSource::Text(user))
                    if !how.is_empty() && server.tunnel.is_none() =>
                {
                    format!("as {} by {how}", user.as_str())
                }
                _ => "done".to_owned(),
            };
            report.say(Step::good("login", user));
            Some(link)
        }
        Err(failure) => {
            let section = context.section();
            if let Err(unfit) = mechanism {
                let cleartext = !encrypted && !offered.has("LOGINDISABLED");
                let fix = if cleartext { "AuthMechs LOGIN" } else { "AuthMechs *" };
                let fix =
                    format!("set `{fix}` in {section}, or ask the server's people what it takes");
                let found = unfit.message;
                if unfit.kind == ErrorKind::UnknownMechanism {
                    // mbsync may know it by way of SASL.
                    report.say(Step::warning(
                        "login",
                        format!(
                            "{found}: only mbsync can log in, and nothing waits for the server"
                        ),
                        fix,
                    ));
                    return None;
                }
                report.say(Step::bad("login", failure.status, found, fix));
                return None;
            }
            let fix = match failure.status {
                ExitStatus::Later => "try again later".to_owned(),
                ExitStatus::Denied => {
                    format!(
                        "set `User NAME` and Pass (or PassCmd) in {section} to what the server knows"
                    )
                }
                _ => format!("see {section}"),
            };
            // Its own hint does not name the section.
            let hint = failure.hint.clone().filter(|_| failure.kind != ErrorKind::PasswordRefused);
            report.say(Step::failed("login", &failure.with_hint_of(hint), &fix));
            None
        }
    }
}

/// What can be asked and told over a login.
fn logged_in(
    context: &CheckContext<'_>,
    mut link: Client,
    mailboxes: &[Mailbox],
    report: &mut Checklist,
) {
    let can = link.capabilities().clone();
    let wanted = ["NOTIFY", "IDLE", "CONDSTORE", "ESEARCH", "LIST-STATUS", "UNSELECT"];
    let (has, lacks): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|word| can.has(word));
    let lacks = if lacks.is_empty() { String::new() } else { format!("; not {}", lacks.join(" ")) };
    let has = if has.is_empty() { "none that help".to_owned() } else { has.join(" ") };
    report.say(Step::good("capabilities", format!("{has}{lacks}")));
    let lost = |error: ClientError| error.into_failure();
    match far_side(context, &mut link, mailboxes, report).map_err(lost) {
        Ok(there) => match watching(context, &mut link, &can, &there) {
            Ok(step) => report.say(step),
            Err(error) => {
                let fix = "a waiter tries again by itself";
                let failed = Step::failed("watching", &error.into_failure(), fix);
                report.say(Step::warning("watching", failed.found, failed.fix.unwrap_or_default()));
            }
        },
        Err(failure) => report.say(Step::failed("server", &failure, "try again later")),
    }
    link.log_out();
}

/// What both sides have, and what only one. Gives the wire names of those here
/// that are there too.
fn far_side(
    context: &CheckContext<'_>,
    link: &mut Client,
    mailboxes: &[Mailbox],
    report: &mut Checklist,
) -> Result<Vec<String>, ClientError> {
    let utf8 = context.ground.config.version == IsyncVersion::V1_5;
    let namespace = link.namespace()?;
    let mut there = Vec::new();
    let mut both = 0;
    let mut steps = Vec::new();
    for channel in &context.account.channels {
        let Some(store) = channel.far.imap() else { continue };
        let naming = Naming::of(store, &namespace, None);
        let listed: Vec<Listed> = match link.list(&store.path) {
            Ok(listed) => listed,
            Err(ClientError::Refused(_)) => Vec::new(),
            Err(lost) => return Err(lost),
        };
        let mut only_there = Vec::new();
        let mut admitted = 0;
        for (_, far) in naming.synced(channel, context.ground.config.version, &listed) {
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
        if let Some(step) = nested(context, channel, &only_there) {
            steps.push(step);
            // They are not made here whatever Create says.
            only_there.retain(|far| !is_nested(channel, far));
        }
        steps.extend(one_sided(context, channel, &only_there, &only_here));
        if channel.patterns.is_some() && admitted == 0 && own.is_empty() {
            steps.push(Step::warning(
                "server",
                format!(
                    "no mailbox matches the Patterns of channel {}, here or there",
                    channel.name
                ),
                format!(
                    "set `Patterns *` in {}, or what you mean",
                    channel_section(context, channel)
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

/// A mailbox below another, which a Maildir store cannot take.
fn is_nested(channel: &Channel, far: &str) -> bool {
    let StoreKind::Maildir(store) = &channel.near.store.kind else { return false };
    let name = far.strip_prefix(channel.far.mailbox.as_str()).unwrap_or(far);
    store.subfolders == SubFolders::Unset
        && channel.near.store.flatten.is_none()
        && name.contains('/')
}

fn nested(context: &CheckContext<'_>, channel: &Channel, only_there: &[String]) -> Option<Step> {
    let names: Vec<&String> = only_there.iter().filter(|far| is_nested(channel, far)).collect();
    if names.is_empty() {
        return None;
    }
    let store = &channel.near.store.name;
    let section = context.place_of(SectionKind::MaildirStore, store);
    Some(Step::bad(
        "server",
        ExitStatus::Mailbox,
        format!("MaildirStore {store} has no SubFolders, and so no place for: {}", some(&names)),
        format!("set `SubFolders Verbatim` in MaildirStore {store} ({section})"),
    ))
}

fn channel_section(context: &CheckContext<'_>, channel: &Channel) -> String {
    format!("Channel {} ({})", channel.name, context.place_of(SectionKind::Channel, &channel.name))
}

/// Mailboxes that are on one side only: made on the other, or in the way.
fn one_sided(
    context: &CheckContext<'_>,
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
                ExitStatus::Mailbox,
                format!("only {on}, and not to be made {off}: {}", some(names)),
                format!(
                    "set `Create {}` in {}, or leave them out of its Patterns",
                    if off_too { "Both" } else { side },
                    channel_section(context, channel)
                ),
            )
        });
    }
    steps
}

fn watching(
    context: &CheckContext<'_>,
    link: &mut Client,
    can: &Capabilities,
    there: &[String],
) -> Result<Step, ClientError> {
    let notified = start_notify(link, there)?.is_some();
    let most = usize::try_from(context.settings().connections).unwrap_or(1);
    let mode = WatchMode::best(can, notified);
    Ok(how_watched(mode, there.len(), most, context.settings().sweep))
}

fn how_watched(mode: WatchMode, mailboxes: usize, most: usize, sweep: Duration) -> Step {
    const WHAT: &str = "watching";
    let every = humantime::format_duration(sweep);
    match mode {
        WatchMode::Notify => Step::good(WHAT, "by NOTIFY: all mailboxes on 1 connection"),
        WatchMode::Idle => {
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
        WatchMode::Sweep => Step::note(
            WHAT,
            format!("the server can neither NOTIFY nor IDLE: asked every {every} on 1 connection"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_watching_is_explained() {
        let told = how_watched(WatchMode::Idle, 9, 4, Duration::from_secs(300));
        assert!(told.found.contains("4 of them on 4 with --loop"), "{told:?}");
        assert!(told.found.contains("every 5m"), "{told:?}");
    }
}
