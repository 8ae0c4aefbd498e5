//! Sections → accounts, channels and groups.
//!
//! Decides which login a channel belongs to, and adds the globals to it. Does not
//! depend on: the file's syntax.

use super::parser::{self, ChannelSection, LoginSection, Sections};
use super::values::{End, Location};
use super::{ChannelGroup, Config, Env, Notice};
use crate::error::Error;
use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Channel, Server, Side, Sides, Store, StoreKind, SyncState};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Reads the text of a file that lies at `file`. Touches the disk only to see
/// whether certificate files can be read, and for 1.5 where states are kept.
pub fn parse(text: &[u8], file: &Path, env: &Env, version: IsyncVersion) -> Result<Config, Error> {
    let file = env.cwd.join(file);
    let shown = env.tilde(&file);
    let base = match version {
        IsyncVersion::V1_4 => env.cwd.as_path(),
        IsyncVersion::V1_5 => file.parent().unwrap_or(&env.cwd),
    };
    let mut sections = parser::read(text, &Location { file: &shown, env, version, base })?;
    if sections.channels.is_empty() {
        return Err(Error::config(format!(
            "{shown}: no Channel is defined, so there is nothing to sync"
        )));
    }
    let default_state = match &sections.globals.sync_state {
        Some(state) => state.clone(),
        None => default_state(env, version, &shown)?,
    };
    let owners = Owners::new(&sections);
    let mut accounts: BTreeMap<Owner, Vec<Channel>> = BTreeMap::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let mut shadowed_channels = Vec::new();
    for section in &sections.channels {
        let mut channel = channel(section, &sections, &owners, &default_state, version);
        let ChannelSection { name, line, .. } = section;
        if let Some(first) = lines.get(name) {
            sections.notices.push(Notice::new(
                format!(
                    "{shown}:{line}: Channel {name} is defined in line {first} already: mbsync -a runs both, mbsync {name} only that one"
                ),
                "rename this one",
            ));
            channel.name = format!("{name} (line {line})");
            let mut spans = sections.spans.iter_mut();
            if let Some(span) = spans.find(|span| span.first == *line) {
                span.name.clone_from(&channel.name);
            }
            let account = owners.names.get(&owner(section, &sections)).cloned();
            shadowed_channels.extend(account.zip(Some(channel)));
            continue;
        }
        lines.insert(name.clone(), *line);
        accounts.entry(owner(section, &sections)).or_default().push(channel);
    }
    let accounts: Vec<Account> = accounts
        .into_iter()
        .filter_map(|(owner, channels)| {
            let name = owners.names.get(&owner)?.clone();
            Some(Account { name, server: server(owner, &sections), channels })
        })
        .collect();
    let idle_accounts = sections
        .accounts
        .iter()
        .map(|section| section.name.clone())
        .filter(|name| accounts.iter().all(|account| account.name != *name))
        .collect();
    for group in &sections.groups {
        for member in &group.members {
            let name = member.split_once(':').map_or(member.as_str(), |(name, _)| name);
            if !lines.contains_key(name) {
                let then = match version {
                    IsyncVersion::V1_4 => "mbsync reports it and syncs the others",
                    IsyncVersion::V1_5 => "mbsync then syncs nothing at all",
                };
                sections.notices.push(Notice::new(
                    format!(
                        "{shown}:{}: Group {} names {member}, and there is no such channel: {then}",
                        group.line, group.name
                    ),
                    "remove it",
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    sections.notices.retain(|notice| seen.insert(notice.clone()));
    Ok(Config {
        version,
        accounts,
        idle_accounts,
        groups: sections
            .groups
            .into_iter()
            .map(|group| ChannelGroup { name: group.name, members: group.members })
            .collect(),
        notices: sections.notices,
        base: sections.relative.then(|| base.to_path_buf()),
        sections: sections.spans,
        shadowed_channels,
        shown,
        file,
        fingerprint: super::fingerprint(text),
        directories: super::directories::Directories::default(),
    })
}

/// Where states are kept when no `SyncState` says it.
fn default_state(env: &Env, version: IsyncVersion, shown: &str) -> Result<String, Error> {
    let old = env.home.join(".mbsync");
    let directory = match version {
        IsyncVersion::V1_4 => old,
        IsyncVersion::V1_5 => {
            let base = env.state_home.clone().unwrap_or_else(|| env.home.join(".local/state"));
            let new = base.join("isync");
            let exists = |path: &PathBuf| path.symlink_metadata().is_ok();
            match (exists(&old), exists(&new)) {
                (true, true) => {
                    return Err(Error::config(format!(
                        "{shown}: {} and {} both exist, and mbsync then refuses to run",
                        env.tilde(&new),
                        env.tilde(&old)
                    ))
                    .with_hint("remove one, or set SyncState above all sections"));
                }
                (true, false) => old,
                _ => new,
            }
        }
    };
    Ok(format!("{}/", directory.display()))
}

/// What an account is made from, in the file's order: the line of its section.
type Owner = usize;

/// The names of accounts, each unique.
struct Owners {
    names: BTreeMap<Owner, String>,
}

impl Owners {
    /// Names every section that could own a channel. `IMAPAccount`s come first;
    /// a store that holds its own login and has the name of one gets another.
    fn new(sections: &Sections) -> Self {
        let mut names: BTreeMap<Owner, String> = BTreeMap::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let accounts = sections.accounts.iter().map(|account| (account.line, &account.name));
        // A Maildir's name is the last to get its way: it owns a channel only
        // where no server does.
        let logins = |wanted: bool| {
            sections
                .stores
                .iter()
                .filter(move |section| matches!(section.login, LoginSection::Own(_)) == wanted)
                .filter(|section| !matches!(section.login, LoginSection::Account(_)))
                .map(|section| (section.line, &section.store.name))
        };
        for (line, name) in accounts.chain(logins(true)).chain(logins(false)) {
            let mut name = name.clone();
            while !taken.insert(name.clone()) {
                name.push_str("-store");
            }
            names.insert(line, name);
        }
        Owners { names }
    }

    /// The store of one end, with its account's name filled in.
    fn side(&self, end: &End, sections: &Sections) -> Side {
        let section = &sections.stores[end.store];
        let mut store: Store = section.store.clone();
        if let StoreKind::Imap(imap) = &mut store.kind {
            let (line, server) = match &section.login {
                LoginSection::Account(index) => {
                    let account = &sections.accounts[*index];
                    (account.line, Some(&account.server))
                }
                LoginSection::Own(server) => (section.line, Some(&**server)),
                LoginSection::None => (section.line, None),
            };
            imap.account = self.names.get(&line).cloned().unwrap_or_default();
            imap.use_namespace &= server.is_none_or(|server| !server.disables_namespace);
        }
        Side { store, mailbox: end.mailbox.clone() }
    }
}

/// Who a channel belongs to: see [`Account`].
fn owner(channel: &ChannelSection, sections: &Sections) -> Owner {
    let login = |end: &End| {
        let section = sections.stores.get(end.store)?;
        match section.login {
            LoginSection::Account(index) => Some(sections.accounts.get(index)?.line),
            LoginSection::Own(_) => Some(section.line),
            LoginSection::None => None,
        }
    };
    login(&channel.far)
        .or_else(|| login(&channel.near))
        .or_else(|| Some(sections.stores.get(channel.far.store)?.line))
        .unwrap_or(channel.line)
}

fn server(owner: Owner, sections: &Sections) -> Option<Server> {
    let account = sections.accounts.iter().find(|account| account.line == owner);
    account.map(|account| account.server.clone()).or_else(|| {
        let store = sections.stores.iter().find(|section| section.line == owner)?;
        match &store.login {
            LoginSection::Own(server) => Some((**server).clone()),
            _ => None,
        }
    })
}

fn channel(
    section: &ChannelSection,
    sections: &Sections,
    owners: &Owners,
    default_state: &str,
    version: IsyncVersion,
) -> Channel {
    let (own, global) = (&section.options, &sections.globals);
    let sync_state = match own.sync_state.as_deref() {
        Some("*") => SyncState::InMailbox,
        Some(prefix) => SyncState::Channel(prefix.into()),
        None if default_state == "*" => SyncState::InMailbox,
        None => SyncState::Global(default_state.into()),
    };
    let max_size = |end: &End| {
        // Unset, and what means so to mbsync.
        sections.stores.get(end.store).is_some_and(|s| s.max_size != 0 && s.max_size != u32::MAX)
    };
    let (full, old, gone) = own.sync.extent(global.sync, version);
    Channel {
        name: section.name.clone(),
        far: owners.side(&section.far, sections),
        near: owners.side(&section.near, sections),
        patterns: section.patterns.clone(),
        full_sync: full && own.expunge_solo.sides(global.expunge_solo) == Sides::default(),
        old,
        gone,
        isync_1_5: version == IsyncVersion::V1_5,
        create: own.create.sides(global.create),
        remove: own.remove.sides(global.remove),
        expunge: own.expunge.sides(global.expunge),
        max_messages: own.max_messages.or(global.max_messages).unwrap_or(0),
        expire_unread: own.expire_unread.or(global.expire_unread),
        expire_far: own.expire_far.or(global.expire_far).unwrap_or(false),
        max_size: max_size(&section.far) || max_size(&section.near),
        sync_state,
        field_delimiter: sections.field_delimiter.unwrap_or(':'),
    }
}
