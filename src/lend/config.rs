//! A copy of the user's file for one run over a lent connection: one account,
//! whose connection is a `Tunnel` of ours.
//!
//! Text in, text out. Every line keeps its number, so that mbsync's messages about
//! the copy hold for the file. Passwords, commands and comments are left out.
//!
//! Does not depend on: files, connections, when to run.

use crate::mbsyncrc::SectionKind;
use crate::mbsyncrc::keywords::{self, Kind};
use crate::mbsyncrc::lexer::{self, SourceLine};
use std::collections::BTreeSet;
use std::path::Path;
use zeroize::Zeroizing;

/// What the copy is for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The channels that run.
    pub channels: &'a [&'a str],
    /// The groups by whose names they are asked for.
    pub groups: &'a [&'a str],
    /// The shell command that joins mbsync to the connection.
    pub tunnel: &'a str,
    /// The directory that relative paths start from; `None` if there are none.
    pub base: Option<&'a Path>,
}

/// Why there can be no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A channel has servers on both sides: that takes two connections.
    TwoServers,
    /// Not all channels are on one account.
    SeveralAccounts,
    /// No side of a channel is a server.
    NoServer,
    /// The file is not what it was when it was read.
    NotAsRead,
    /// Two channels have one name.
    SharedName,
    /// A name that it uses is not in it.
    UnknownName,
    /// The directory of the file has a name that is not UTF-8.
    NotText,
    /// A path, made absolute, makes a line too long for mbsync.
    LongLine,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Obstacle::TwoServers => "a channel has servers on both sides",
            Obstacle::SeveralAccounts => "the channels are on several accounts",
            Obstacle::NoServer => "a channel has no server",
            Obstacle::NotAsRead => "the configuration has changed",
            Obstacle::SharedName => "two channels have one name",
            Obstacle::UnknownName => "a channel, store or account is not in the configuration",
            Obstacle::NotText => "the directory of the configuration is not UTF-8",
            Obstacle::LongLine => "a path would make too long a line",
        })
    }
}

/// A section as far as it matters here.
struct CopiedSection {
    kind: SectionKind,
    name: String,
    /// Numbers of its lines, without the blank one that ends it.
    lines: std::ops::RangeInclusive<usize>,
    /// Stores that a channel names, or the account that a store names.
    names: Vec<String>,
}

/// The copy of a file that mbsync takes.
///
/// # Errors
/// Why there can be no copy.
pub fn copy(text: &[u8], purpose: &Purpose<'_>) -> Result<Zeroizing<Vec<u8>>, Obstacle> {
    let sections = sections(text)?;
    let (login, needed) = needed(&sections, purpose)?;
    // More than it can need: a buffer that moved would leave a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2 + 4096));
    let mut tunnel = Some(purpose.tunnel);
    for (at, piece) in lexer::pieces(text).enumerate() {
        let number = at + 1;
        let within = sections.iter().position(|section| section.lines.contains(&number));
        let Ok(line) = lexer::split(lexer::seen(piece)) else { return Err(Obstacle::NotAsRead) };
        let (SourceLine::Words(words), true) = (line, within.is_none_or(|at| needed.contains(&at)))
        else {
            // A blank line would end the section.
            let keeps = within.is_some_and(|at| needed.contains(&at));
            out.extend_from_slice(if keeps { b"#\n" } else { b"\n" });
            continue;
        };
        let place = within.and_then(|at| sections.get(at)).map(|section| section.kind);
        let keyword = words.first().and_then(|word| keywords::find(word, place));
        if within == Some(login) && keyword.is_some_and(|keyword| keyword.connection) {
            match tunnel.take() {
                Some(tunnel) => out.extend(statement("Tunnel", tunnel)?),
                None => out.extend_from_slice(b"#\n"),
            }
            continue;
        }
        match (words.get(1), purpose.base) {
            (Some(value), Some(base))
                if keyword.is_some_and(|keyword| keyword.takes_path(value))
                    && !value.starts_with(['/', '~']) =>
            {
                let base = base.to_str().ok_or(Obstacle::NotText)?.trim_end_matches('/');
                let keyword = words.first().map_or("", String::as_str);
                out.extend(statement(keyword, &format!("{base}/{value}"))?);
            }
            _ => out.extend_from_slice(piece),
        }
    }
    if tunnel.is_some() { Err(Obstacle::NotAsRead) } else { Ok(out) }
}

fn sections(text: &[u8]) -> Result<Vec<CopiedSection>, Obstacle> {
    let mut found: Vec<CopiedSection> = Vec::new();
    let mut open = false;
    for (number, line) in lexer::lines(text) {
        let words = match lexer::split(line) {
            Ok(SourceLine::Blank) => {
                open = false;
                continue;
            }
            Ok(SourceLine::Comment) => continue,
            Ok(SourceLine::Words(words)) => words,
            Err(_) => return Err(Obstacle::NotAsRead),
        };
        let (Some(keyword), Some(value)) = (words.first(), words.get(1)) else {
            return Err(Obstacle::NotAsRead);
        };
        if let (true, Some(section)) = (open, found.last_mut()) {
            section.lines = *section.lines.start()..=number;
            // `:store:mailbox`, or an account's name.
            let name = match keywords::find(keyword, Some(section.kind)).map(|each| each.kind) {
                Some(Kind::End(_)) => value.strip_prefix(':').map_or(value.as_str(), |rest| {
                    rest.split_once(':').map_or(rest, |(store, _)| store)
                }),
                Some(Kind::Account) => value,
                _ => continue,
            };
            section.names.push(name.to_owned());
        } else if let Some(Kind::Section(kind)) =
            keywords::find(keyword, None).map(|each| each.kind)
        {
            open = true;
            let (name, lines) = (value.clone(), number..=number);
            found.push(CopiedSection { kind, name, lines, names: Vec::new() });
        }
    }
    Ok(found)
}

/// The section that holds the login, and all that the run needs.
fn needed(
    sections: &[CopiedSection],
    purpose: &Purpose<'_>,
) -> Result<(usize, BTreeSet<usize>), Obstacle> {
    let is_store = |kind| matches!(kind, SectionKind::ImapStore | SectionKind::MaildirStore);
    // Of several with one name, mbsync knows the first.
    let first = |is: &dyn Fn(SectionKind) -> bool, name: &str| {
        let found = sections.iter().position(|each| is(each.kind) && each.name == name);
        found.ok_or(Obstacle::UnknownName)
    };
    let mut needed = BTreeSet::new();
    let mut login = None;
    for channel in purpose.channels {
        let at = first(&|kind| kind == SectionKind::Channel, channel)?;
        needed.insert(at);
        let mut servers = 0;
        for store in sections.get(at).map(|channel| &channel.names[..]).unwrap_or_default() {
            let at = first(&is_store, store)?;
            needed.insert(at);
            let Some(store) = sections.get(at).filter(|store| store.kind == SectionKind::ImapStore)
            else {
                continue;
            };
            servers += 1;
            if servers > 1 {
                return Err(Obstacle::TwoServers);
            }
            let owner = match store.names.last() {
                Some(account) => first(&|kind| kind == SectionKind::Account, account)?,
                None => at,
            };
            needed.insert(owner);
            if login.is_some_and(|known| known != owner) {
                return Err(Obstacle::SeveralAccounts);
            }
            login = Some(owner);
        }
        if servers == 0 {
            return Err(Obstacle::NoServer);
        }
    }
    for group in purpose.groups {
        needed.insert(first(&|kind| kind == SectionKind::ChannelGroup, group)?);
    }
    Ok((login.ok_or(Obstacle::NoServer)?, needed))
}

/// A line of a keyword and one word, as mbsync reads it.
fn statement(keyword: &str, value: &str) -> Result<Vec<u8>, Obstacle> {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    let line = format!("{keyword} \"{value}\"\n").into_bytes();
    if line.len() > lexer::LONGEST_LINE { Err(Obstacle::LongLine) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    const FILE: &str = "\
# old: Pass hunter1
FSync no
SyncState state/

IMAPAccount Work
Host work
Pass secret-of-work

IMAPAccount Home
# Pass hunter2
Timeout 7
Host home
User me
PassCmd \"pass home\"
SSLType IMAPS

IMAPStore far
Account Home
Path below/

MaildirStore near
Path mail/
Inbox ~/x

IMAPStore own
Host elsewhere
User she
Pass word

Channel Home
Far :far:
Near :near:
Patterns *

Channel Own
Far :own:
Near :near:

Channel Both
Far :far:
Near :own:

Group G Home
";

    fn of(channels: &[&str]) -> Result<String, Obstacle> {
        let base = Some(Path::new("/base/"));
        let purpose = Purpose { channels, groups: &[], tunnel: "exec \"x\" 7", base };
        copy(FILE.as_bytes(), &purpose).map(|text| String::from_utf8(text.to_vec()).unwrap())
    }

    #[test]
    fn one_account_and_what_the_run_needs_on_the_same_lines() {
        let copy = of(&["Home"]).unwrap();
        let expected = "\n\
FSync no
SyncState \"/base/state/\"





IMAPAccount Home
#
Timeout 7
Tunnel \"exec \\\"x\\\" 7\"
#
#
#

IMAPStore far
Account Home
Path below/

MaildirStore near
Path \"/base/mail/\"
Inbox ~/x






Channel Home
Far :far:
Near :near:
Patterns *










";
        assert_eq!(copy, expected);
        assert_eq!(copy.lines().count(), FILE.lines().count());
    }

    #[test]
    fn a_store_may_hold_the_login_itself() {
        let copy = of(&["Own"]).unwrap();
        assert!(copy.contains("IMAPStore own\nTunnel \"exec \\\"x\\\" 7\"\n#\n#\n\n"), "{copy}");
        assert!(!copy.contains("IMAPAccount") && !copy.contains("word"));
    }

    #[test]
    fn two_servers_are_not_one_connection() {
        assert_eq!(of(&["Both"]), Err(Obstacle::TwoServers));
        assert_eq!(of(&["Home", "Own"]), Err(Obstacle::SeveralAccounts));
    }

    #[test]
    fn the_reason_why_there_is_no_copy_is_the_true_one() {
        assert_eq!(of(&["Gone"]), Err(Obstacle::UnknownName));
        let base = Path::new(std::ffi::OsStr::from_bytes(b"/home/\xff"));
        let file = b"IMAPStore far\nHost h\n\nMaildirStore near\nPath Mail/\n\n\
            Channel Home\nFar :far:\nNear :near:\n";
        let purpose = Purpose { channels: &["Home"], groups: &[], tunnel: "x", base: Some(base) };
        assert_eq!(copy(file, &purpose), Err(Obstacle::NotText));
        assert_eq!(copy(b"Channel\n", &purpose), Err(Obstacle::NotAsRead));
    }
}
