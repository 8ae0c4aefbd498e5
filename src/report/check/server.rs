//! An account's server: the password, one login, and what can be asked and told
//! over it. How it is reached is in `connection`.
//!
//! Does not depend on: local mail, our own state, runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{CheckContext, Checklist, Step, connection, offer, password, some};
use crate::error::{ErrorKind, ExitStatus};
use crate::imap::client::unless_refused;
use crate::imap::endpoint::step;
use crate::imap::login::Mechanism;
use crate::imap::names::Naming;
use crate::imap::{Capabilities, Client, ClientError, Inventory, Opening};
use crate::mbsyncrc::SectionKind;
use crate::model::{Channel, CredentialSource, Mailbox, Server, StoreKind, SubFolders, TlsMode};
use crate::os::child::Prompt;
use crate::settings::Settings;
use crate::state::backoff::Backoff;
use crate::state::{StateDir, lock};
use crate::survey::server::inventory_scope;
use crate::text::counted;
use crate::watch::connections::{WatchMode, start_notify};
use crate::watch::sweep_interval;

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
        if let Some(client) = log_in(context, &server, &offered, report) {
            logged_in(context, client, mailboxes, report);
        }
    }
    let before: &[_] =
        if tunnel { &["tunnel", "password"] } else { &["password", "name", "connection", "TLS"] };
    report.out_of_reach(before);
    report.out_of_reach(&["login", "capabilities", "flags", "server", "watching"]);
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
    let version = context.ground.config.version;
    let source =
        |what, keyword| password::PasswordSource { what, keyword, section: &section, version };
    let source_of_user = source("user", "UserCmd");
    let user = password::step(user, &source_of_user, time, report)?;
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
    if let CredentialSource::Text(text) = pass {
        report.secret(text.as_bytes());
    }
    let pass = password::step(pass, &source("password", "PassCmd"), time, report)?;
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
    match Client::open_by_steps(server, Prompt::Never, None, report.stop.cancel()) {
        Ok(client) => {
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
            if let Some(step) = sasl_takes_token(context, server, offered) {
                report.say(step);
            }
            Some(client)
        }
        Err(failure) => {
            let section = context.section();
            if let Err(unfit) = mechanism {
                let cleartext = !encrypted && !offered.has("LOGINDISABLED");
                let fix = if cleartext { "AuthMechs LOGIN" } else { "AuthMechs *" };
                let mut mechanisms = offered.mechanisms();
                let tokens = mechanisms.any(|name| ["XOAUTH2", "OAUTHBEARER"].contains(&name));
                let fix = if tokens && offered.has("LOGINDISABLED") {
                    format!(
                        "the server takes a token: set {} in {section}",
                        offer::token_lines(offered)
                    )
                } else {
                    format!("set `{fix}` in {section}, or ask the server's operator what it takes")
                };
                let found = unfit.message;
                if unfit.kind == ErrorKind::UnknownMechanism {
                    // mbsync may know it by way of SASL.
                    report.say(Step::warning(
                        "login",
                        format!("{found}: only mbsync can log in; the server is not watched"),
                        fix,
                    ));
                    return None;
                }
                report.say(Step::bad("login", failure.status, found, fix));
                return None;
            }
            if failure.status == ExitStatus::Later && waiter_connected(context) {
                // No fault: it syncs.
                report.say(Step::warning(
                    "login",
                    format!(
                        "{}; the waiter of this account is connected, and syncs over its connection",
                        failure.message
                    ),
                    "stop the waiter to check the rest; `connections = 1` in config.toml leaves more for others",
                ));
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

/// It has connections that count against the server's limit, and no trouble with them.
fn waiter_connected(context: &CheckContext<'_>) -> bool {
    let dir = StateDir::existing(context.asked.base, &context.account.name);
    dir.is_locked(lock::WAITER) && Backoff::read(&dir).is_none()
}

/// Mechanisms that take a token for a password, and the names of their SASL plugins.
const TOKEN_PLUGINS: [(&str, &str); 2] =
    [("XOAUTH2", "libxoauth2.so"), ("OAUTHBEARER", "liboauthbearer.so")];

/// With `AuthMechs *`, mbsync's SASL takes such a mechanism before PLAIN, if it has the plugin.
fn sasl_takes_token(
    context: &CheckContext<'_>,
    server: &Server,
    offered: &Capabilities,
) -> Option<Step> {
    if !server.auth_mechs.iter().any(|name| name == "*") {
        return None;
    }
    let dirs = sasl_dirs();
    let installed = |plugin: &str| dirs.iter().any(|dir| dir.join(plugin).exists());
    let (mechanism, _) = TOKEN_PLUGINS
        .into_iter()
        .find(|(mechanism, plugin)| offered.auth(mechanism) && installed(plugin))?;
    let found = format!(
        "mbsync itself logs in by {mechanism}, whose SASL plugin is installed, and takes the password for a token"
    );
    let fix = format!(
        "set `AuthMechs PLAIN` in {}, or `AuthMechs {mechanism}` if Pass is a token",
        context.section()
    );
    Some(Step::warning("login", found, fix))
}

/// Where SASL looks for plugins.
fn sasl_dirs() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("SASL_PATH") {
        return std::env::split_paths(&path).collect();
    }
    let below = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = below.take(1000).map(|entry| entry.path().join("sasl2")).collect();
    dirs.extend(["/usr/lib/sasl2", "/usr/lib64/sasl2"].map(PathBuf::from));
    dirs
}

/// What can be asked and told over a login.
fn logged_in(
    context: &CheckContext<'_>,
    mut client: Client,
    mailboxes: &[Mailbox],
    report: &mut Checklist,
) {
    let can = client.capabilities().clone();
    if let Some(part) = report.parts.last_mut() {
        part.capabilities = can.words().to_vec();
    }
    report.say(offer::extensions(&can));
    report.say(flags_fetched(context.settings(), &can));
    let lost = |error: ClientError| error.into_error();
    match far_side(context, &mut client, mailboxes, report).map_err(lost) {
        Ok(there) => match watching(context, &mut client, &can, &there) {
            Ok(step) => report.say(step),
            Err(error) => {
                let fix = "a waiter tries again by itself";
                report.say(Step::failed("watching", &error.into_error(), fix).as_warning());
            }
        },
        Err(failure) => report.say(Step::failed("server", &failure, "try again later")),
    }
    client.log_out();
}

/// Whether a run fetches the flags of all messages.
fn flags_fetched(settings: &Settings, can: &Capabilities) -> Step {
    let lacks: Vec<&str> =
        ["CONDSTORE", "ESEARCH"].into_iter().filter(|word| !can.has(word)).collect();
    if !lacks.is_empty() {
        let lacks = lacks.join(" nor ");
        return Step::note("flags", format!("all are fetched at each run: no {lacks}"));
    }
    let off = [("handover", settings.handover), ("changedsince", settings.changedsince)];
    match off.iter().find(|(_, on)| !on) {
        Some((key, _)) => Step::note("flags", format!("all are fetched at each run: {key} is off")),
        None => Step::good("flags", "only those that have changed are fetched"),
    }
}

/// What both sides have, and what only one. Gives the wire names of those here
/// that are there too.
fn far_side(
    context: &CheckContext<'_>,
    client: &mut Client,
    mailboxes: &[Mailbox],
    report: &mut Checklist,
) -> Result<Vec<String>, ClientError> {
    let inventory = client.inventory(&inventory_scope(context.account, false))?;
    let mut both = Vec::new();
    let mut steps = Vec::new();
    let mut largest: Option<(u32, String)> = None;
    for channel in &context.account.channels {
        let Some(store) = channel.far.imap() else { continue };
        let naming = Naming::of(store, &inventory.namespace, inventory.delimiter());
        let sides = compare_sides(context, client, channel, &naming, mailboxes, &inventory)?;
        report.names.extend(sides.only_there.iter().map(|far| ("box", far.clone())));
        steps.extend(one_sided(context, channel, &sides));
        both.extend(sides.both);
        largest = largest.max(sides.largest);
    }
    if let Some((messages, name)) = largest {
        steps.extend(hidden_messages(client, messages, &name)?);
    }
    report.say(Step::good("server", format!("{} on both sides", counted(both.len(), "mailbox"))));
    for step in steps {
        report.say(step);
    }
    Ok(both)
}

/// The mailboxes of a channel by where they are.
#[derive(Default)]
struct ChannelSides {
    /// Wire names.
    both: Vec<String>,
    /// Of these the one with most messages by STATUS.
    largest: Option<(u32, String)>,
    only_here: Vec<String>,
    /// Only here, and synced before: mbsync makes none anew there.
    lost: Vec<String>,
    only_there: Vec<String>,
    /// Only here, and with the server's delimiter as a plain character.
    unnameable: Vec<String>,
    /// The Patterns match none, here or there.
    none_matches: bool,
}

fn compare_sides(
    context: &CheckContext<'_>,
    client: &mut Client,
    channel: &Channel,
    naming: &Naming,
    mailboxes: &[Mailbox],
    inventory: &Inventory,
) -> Result<ChannelSides, ClientError> {
    let version = context.ground.config.version;
    let own: Vec<&Mailbox> =
        mailboxes.iter().filter(|mailbox| mailbox.channel == channel.name).collect();
    let listed = inventory.listed.as_deref().unwrap_or_default();
    let admitted: Vec<String> =
        naming.synced(channel, version, listed).map(|(_, name)| name).collect();
    let none_matches = channel.patterns.is_some() && admitted.is_empty() && own.is_empty();
    let mut sides = ChannelSides { none_matches, ..ChannelSides::default() };
    let is_here = |name: &String| own.iter().any(|mailbox| mailbox.name == *name);
    let only_there = admitted.iter().filter(|name| !is_here(name));
    sides.only_there.extend(only_there.map(|name| channel.mailbox(name).far));
    let wires: Vec<Option<String>> = own
        .iter()
        .map(|mailbox| naming.wire_name(&channel.stored_far(mailbox)?, version))
        .collect();
    let asked: Vec<String> = wires.iter().flatten().cloned().collect();
    let statuses = client.status(&asked)?;
    let counts = asked.iter().zip(&statuses);
    let counts = counts.filter_map(|(name, status)| Some(((*status)?.messages?, name)));
    sides.largest = counts.max().map(|(count, name)| (count, name.clone()));
    let missing: BTreeSet<&String> = asked
        .iter()
        .zip(&statuses)
        .filter(|(_, status)| status.is_none())
        .map(|(name, _)| name)
        .collect();
    for (mailbox, wire) in own.iter().zip(&wires) {
        let was_synced = || mailbox.state_file.as_ref().is_some_and(|file| file.exists());
        match wire {
            Some(wire) if !missing.contains(wire) => sides.both.push(wire.clone()),
            None => sides.unnameable.push(mailbox.near.clone()),
            _ if was_synced() => sides.lost.push(mailbox.near.clone()),
            _ => sides.only_here.push(mailbox.near.clone()),
        }
    }
    Ok(sides)
}

/// Whether the server shows a session fewer messages than STATUS counts before and after, as
/// Yahoo does with more than 10 000 (public reports).
fn hidden_messages(
    client: &mut Client,
    messages: u32,
    name: &str,
) -> Result<Option<Step>, ClientError> {
    let Some(opened) = unless_refused(client.open_mailbox(name, Opening::Examine))? else {
        return Ok(None);
    };
    client.close_mailbox()?;
    let after = client.status(&[name.to_owned()])?.pop().flatten().and_then(|it| it.messages);
    let (Some(shown), Some(after)) = (opened.status.messages, after) else { return Ok(None) };
    let all = messages.min(after);
    Ok((shown < all).then(|| {
        Step::warning(
            "server",
            format!(
                "it shows {shown} of {all} messages in {name}: mbsync takes those that it stops \
                 showing as deleted there"
            ),
            "leave PullGone out of Sync (isync 1.4: PullDelete), or keep fewer in each mailbox",
        )
    }))
}

/// Mailboxes that a sync fails on.
fn fault(found: String, fix: impl Into<String>) -> Step {
    Step::bad("server", ExitStatus::Mailbox, found, fix)
}

/// What follows from mailboxes that only one side has.
fn one_sided(context: &CheckContext<'_>, channel: &Channel, sides: &ChannelSides) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut only_there = sides.only_there.clone();
    if let Some(step) = nested(context, channel, &only_there) {
        steps.push(step);
        // They are not made here whatever Create says.
        only_there.retain(|far| !is_nested(channel, far));
    }
    if !sides.lost.is_empty() {
        steps.push(fault(
            format!(
                "only here, and synced before, so mbsync makes none there: {}",
                some(&sides.lost)
            ),
            "remove its Maildir if it is to go here, too, or make it on the server again",
        ));
    }
    if !sides.unnameable.is_empty() {
        steps.push(fault(
            format!(
                "mbsync refuses names with the server's delimiter in them: {}",
                some(&sides.unnameable)
            ),
            "rename them here, or leave them out by Patterns",
        ));
    }
    let clashes = |far: &String| has_flat_delimiter(channel, far);
    let (refused, only_there): (Vec<String>, Vec<String>) =
        only_there.into_iter().partition(clashes);
    if !refused.is_empty() {
        steps.push(fault(
            format!("mbsync refuses names with the Flatten delimiter in them: {}", some(&refused)),
            "rename them on the server, or leave them out by Patterns",
        ));
    }
    steps.extend(not_created(context, channel, &only_there, &sides.only_here));
    if sides.none_matches {
        steps.push(Step::warning(
            "server",
            format!("no mailbox matches the Patterns of channel {}, here or there", channel.name),
            format!("set `Patterns *` in {}, or what you mean", channel_section(context, channel)),
        ));
    }
    steps
}

/// A name that the near store's Flatten would make ambiguous.
fn has_flat_delimiter(channel: &Channel, far: &str) -> bool {
    channel.near.store.flatten.as_ref().is_some_and(|flat| far.contains(flat.as_str()))
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
    Some(fault(
        format!("MaildirStore {store} has no SubFolders, and so no place for: {}", some(&names)),
        format!("set `SubFolders Verbatim` in MaildirStore {store} ({section})"),
    ))
}

fn channel_section(context: &CheckContext<'_>, channel: &Channel) -> String {
    format!("Channel {} ({})", channel.name, context.place_of(SectionKind::Channel, &channel.name))
}

/// Mailboxes that are on one side only: made on the other, or in the way.
fn not_created(
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
                format!(
                    "only {on}, created {off} by the next sync of the account: {}",
                    some(names)
                ),
            )
        } else {
            fault(
                format!("only {on}, and mbsync does not create it {off}: {}", some(names)),
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
    client: &mut Client,
    can: &Capabilities,
    there: &[String],
) -> Result<Step, ClientError> {
    let notified = start_notify(client, there)?.is_some();
    let mode = WatchMode::best(can, notified);
    let mut settings = context.settings().clone();
    settings.sweep = sweep_interval(settings.sweep, client.lists_status(), 0);
    Ok(how_watched(mode, can.condstore(), there.len(), &settings))
}

fn how_watched(mode: WatchMode, condstore: bool, mailboxes: usize, settings: &Settings) -> Step {
    const WHAT: &str = "watching";
    let most = usize::try_from(settings.connections).unwrap_or(1);
    let every = humantime::format_duration(settings.sweep);
    let complete = humantime::format_duration(settings.every);
    let flags = if condstore {
        String::new()
    } else {
        format!("; flags set there are seen every {complete} (no CONDSTORE)")
    };
    match mode {
        WatchMode::Notify => Step::good(WHAT, "by NOTIFY: all mailboxes on 1 connection"),
        WatchMode::Idle => {
            let with_loop = mailboxes.clamp(1, most);
            let rest = match mailboxes.saturating_sub(1) {
                0 => String::new(),
                _ => format!(", the rest polled every {every}{flags}"),
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
            format!(
                "the server can neither NOTIFY nor IDLE: polled every {every} on 1 connection{flags}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_watching_is_explained() {
        let settings = Settings::default();
        let step = how_watched(WatchMode::Idle, true, 9, &settings);
        assert!(step.found.contains("4 of them on 4 with --loop"), "{step:?}");
        assert!(step.found.ends_with("every 5m"), "{step:?}");
        for mode in [WatchMode::Idle, WatchMode::Sweep] {
            let step = how_watched(mode, false, 9, &settings);
            assert!(step.found.ends_with("seen every 15m (no CONDSTORE)"), "{step:?}");
        }
    }
}
