//! Names that users type → targets; and targets → the words that mbsync is given.
//!
//! How mbsync finds a name (groups, then channels), and what this program adds to
//! it (accounts, stores, far and near names).
//!
//! Does not depend on: disks, servers, what is done with a target.

use super::enumerate::is_inbox;
use super::pattern::admits;
use super::{ChannelGroup, Config};
use crate::error::Error;
use crate::mbsync_version::IsyncVersion;
use crate::model::{Account, Channel, Mailbox, StoreKind, Target};
use crate::text::{shell_operand, suggest};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes of names in one word. Linux takes no argument of 128 KiB (execve(2)).
const LONGEST_WORD: usize = 64 * 1024;
/// Most bytes of names in all: beyond, whole channels are named. All arguments and the
/// environment together may take 2 MiB, with less stack less.
pub const MOST_BYTES: usize = 512 * 1024;

/// More mailboxes of one channel than this are synced by its name.
const MOST_NAMED: usize = 200;

/// How to make mbsync serve some targets of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MbsyncWords {
    /// `-a` is to be given instead of words: it means the same here, and some
    /// channel cannot be named.
    pub all: bool,
    /// The words, in the order of the account's channels; with `all` there are none.
    pub words: Vec<String>,
    /// Channels that no word reaches: a colon in the name, or a group of the
    /// same name that means something else. Only renaming them helps.
    pub unreachable: Vec<String>,
}

impl MbsyncWords {
    /// As arguments: `-a`, or `--` and the words (a word may begin with a dash).
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        if self.all {
            return vec!["-a".into()];
        }
        std::iter::once("--".to_string()).chain(self.words.iter().cloned()).collect()
    }
}

/// Targets by account, as indices into [`Config::accounts`].
type Targets = BTreeMap<usize, BTreeSet<Target>>;

impl Config {
    /// Every channel of every account.
    #[must_use]
    pub fn select_all(&self) -> Vec<(usize, BTreeSet<Target>)> {
        (0..self.accounts.len()).map(|index| (index, BTreeSet::from([Target::Account]))).collect()
    }

    /// What these words request: `NAME` or `NAME:BOX,BOX`.
    ///
    /// NAME is a group, a channel, an account or a store, in this order: the
    /// first two as for mbsync, the others meaning all channels on them. BOX is
    /// a mailbox's name on either side, or the one both share. Looks at the
    /// disk only to tell mailboxes apart. An unknown name or box is a usage
    /// error (2) that names the most similar ones.
    pub fn select(&self, words: &[&str]) -> Result<Vec<(usize, BTreeSet<Target>)>, Error> {
        let mut targets = Targets::new();
        for word in words {
            self.select_word(word, &mut targets)?;
        }
        Ok(targets
            .into_iter()
            .map(|(index, targets)| (index, self.accounts[index].canonical(&targets)))
            .collect())
    }

    fn channels(&self) -> impl Iterator<Item = (usize, &Channel)> {
        self.accounts.iter().enumerate().flat_map(|(index, account)| {
            account.channels.iter().map(move |channel| (index, channel))
        })
    }

    fn channel(&self, name: &str) -> Option<(usize, &Channel)> {
        self.channels().find(|(_, channel)| channel.name == name)
    }

    fn group(&self, name: &str) -> Option<&ChannelGroup> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The channels on an account or a store of this name.
    fn channels_on(&self, name: &str) -> Vec<(usize, &Channel)> {
        let on_account: Vec<_> =
            self.channels().filter(|(index, _)| self.accounts[*index].name == name).collect();
        if !on_account.is_empty() {
            return on_account;
        }
        self.channels()
            .filter(|(_, channel)| {
                channel.far.store.name == name || channel.near.store.name == name
            })
            .collect()
    }

    fn select_word(&self, word: &str, targets: &mut Targets) -> Result<(), Error> {
        // mbsync compares the whole word with the groups before it looks for a colon.
        if let Some(group) = self.group(word) {
            return self.select_group(group, targets);
        }
        let name = word.split_once(':').map_or(word, |(name, _)| name);
        let (channels, boxes) = self.word_channels(word);
        if channels.is_empty() {
            return Err(self.unknown(name));
        }
        if let Some(boxes) = boxes {
            let exact = self.channel(name).is_some();
            return self.select_boxes(word, &channels, exact, boxes, targets);
        }
        for (index, channel) in channels {
            add(targets, index, Target::Channel(channel.name.clone()));
        }
        Ok(())
    }

    /// The channels that a word is about, and the boxes that it names in them.
    fn word_channels<'w>(&self, word: &'w str) -> (Vec<(usize, &Channel)>, Option<&'w str>) {
        if let Some(group) = self.group(word) {
            return (self.members(group), None);
        }
        let (name, boxes) = match word.split_once(':') {
            Some((name, boxes)) => (name, Some(boxes)),
            None => (word, None),
        };
        if let Some(channel) = self.channel(name) {
            return (vec![channel], boxes);
        }
        let mut on = self.channels_on(name);
        if let (true, Some(group)) = (on.is_empty(), self.group(name)) {
            on = self.members(group);
        }
        if !on.is_empty() || boxes.is_none() {
            return (on, boxes);
        }
        // A name with a colon in it, which mbsync could not be given.
        (self.channel(word).map_or_else(|| self.channels_on(word), |found| vec![found]), None)
    }

    fn members(&self, group: &ChannelGroup) -> Vec<(usize, &Channel)> {
        group.members.iter().filter_map(|member| self.channel(channel_of(member))).collect()
    }

    /// Puts each account's channels into the order in which these words name them;
    /// those that no word names follow in the file's order. mbsync runs channels in the
    /// order of its arguments (tried with isync 1.4.4).
    pub fn order_channels(&mut self, words: &[&str]) {
        let named: Vec<String> = words
            .iter()
            .flat_map(|word| self.word_channels(word).0)
            .map(|(_, channel)| channel.name.clone())
            .collect();
        let place = |channel: &Channel| {
            named.iter().position(|name| *name == channel.name).unwrap_or(usize::MAX)
        };
        self.accounts.iter_mut().for_each(|account| account.channels.sort_by_key(place));
    }

    fn unknown(&self, name: &str) -> Error {
        if self.idle_accounts.iter().any(|idle| idle == name) {
            return Error::usage(format!("no channel uses the account `{name}`"))
                .with_hint(format!("add one to {}", self.shown));
        }
        let mut known: Vec<&str> = self.accounts.iter().map(|a| a.name.as_str()).collect();
        known.extend(self.groups.iter().map(|group| group.name.as_str()));
        known.extend(self.channels().map(|(_, channel)| channel.name.as_str()));
        // A mailbox is named after its channel.
        let has_it = |channel: &Channel| {
            self.channel_mailboxes(channel).iter().any(|mailbox| mailbox.name == name)
        };
        let of_mailbox = || self.channels().find(|(_, channel)| has_it(channel));
        let meant = suggest(name, known.iter().copied())
            .map(str::to_owned)
            .or_else(|| of_mailbox().map(|(_, channel)| format!("{}:{name}", channel.name)))
            .map(|meant| format!("did you mean `{meant}`?"));
        let mut seen = BTreeSet::new();
        known.retain(|name| seen.insert(*name));
        let more = if known.len() > 20 { ", …" } else { "" };
        known.truncate(20);
        Error::usage(format!(
            "no account, channel or group `{name}` (there are: {}{more})",
            known.join(", ")
        ))
        .with_hint_of(meant)
    }

    fn select_group(&self, group: &ChannelGroup, targets: &mut Targets) -> Result<(), Error> {
        let mut any = false;
        for member in &group.members {
            let Some((index, channel)) = self.channel(channel_of(member)) else {
                // Up to 1.4 mbsync complains and syncs the rest; 1.5 syncs nothing.
                if self.version == IsyncVersion::V1_4 {
                    continue;
                }
                return Err(Error::config(format!(
                    "{}: Group {} names {member}, and there is no such channel",
                    self.shown, group.name
                ))
                .with_hint("remove it, for isync 1.5 then syncs nothing at all"));
            };
            match member.split_once(':') {
                None => add(targets, index, Target::Channel(channel.name.clone())),
                Some((_, boxes)) => {
                    if channel.patterns.is_none() {
                        return Err(Error::config(format!("{}: Group {} names {member}, but Channel {} has no Patterns, so no mailbox of it can be named", self.shown, group.name, channel.name)).with_hint("write only the channel"));
                    }
                    for name in split_boxes(boxes) {
                        let name = name.to_string();
                        add(
                            targets,
                            index,
                            Target::Mailbox { channel: channel.name.clone(), name },
                        );
                    }
                }
            }
            any = true;
        }
        if any {
            Ok(())
        } else {
            Err(Error::config(format!(
                "{}: Group {} names no channel that exists",
                self.shown, group.name
            ))
            .with_hint("add one"))
        }
    }

    /// Boxes named explicitly, in those of the channels whose Patterns admit them.
    /// `exact`: the channel itself was named, so its Patterns are no obstacle, as in
    /// mbsync.
    fn select_boxes(
        &self,
        word: &str,
        channels: &[(usize, &Channel)],
        exact: bool,
        boxes: &str,
        targets: &mut Targets,
    ) -> Result<(), Error> {
        // A mailbox with a comma in its name can be asked for, if not given to mbsync.
        let whole = boxes.contains([',', '\n'])
            && channels.iter().any(|(_, channel)| channel.existing(boxes, exact).is_some());
        let names = if whole { vec![boxes] } else { split_boxes(boxes).collect() };
        for name in names {
            // mbsync accepts no such name from a server, but would follow it from here.
            if name.split('/').any(|part| part == "..") {
                return Err(self.unknown_box(word, channels, name, None));
            }
            let mut found = Vec::new();
            // What exists comes before what could be made.
            for (index, channel) in channels {
                found.extend(channel.existing(name, exact).map(|target| (*index, target)));
            }
            if found.is_empty() {
                for (index, channel) in channels {
                    found.extend(channel.possible(name, exact).map(|target| (*index, target)));
                }
                if found.is_empty() {
                    if let Some(excluded) = excluded(word, channels, name) {
                        return Err(excluded);
                    }
                }
                let meant = self.meant(channels, name);
                if found.is_empty() || meant.is_some() && !is_inbox(name) {
                    return Err(self.unknown_box(word, channels, name, meant.as_deref()));
                }
            }
            for (index, target) in found {
                add(targets, index, target);
            }
        }
        Ok(())
    }

    /// The existing mailbox that a name without one is a typing error for. Numbers
    /// differ on purpose: `2024` is not `2023` mistyped.
    fn meant(&self, channels: &[(usize, &Channel)], name: &str) -> Option<String> {
        let local: Vec<Mailbox> =
            channels.iter().flat_map(|(_, channel)| self.channel_mailboxes(channel)).collect();
        let meant = suggest(name, local.iter().map(|mailbox| mailbox.name.as_str()))?;
        let letters = |name: &str| name.chars().filter(|c| !c.is_numeric()).collect::<String>();
        (letters(meant) != letters(name)).then(|| meant.to_string())
    }

    fn unknown_box(
        &self,
        word: &str,
        channels: &[(usize, &Channel)],
        name: &str,
        meant: Option<&str>,
    ) -> Error {
        let asked = word.split_once(':').map_or(word, |(asked, _)| asked);
        let meant = meant.map(|meant| format!("did you mean `{meant}`?"));
        let mut local: Vec<String> = channels
            .iter()
            .flat_map(|(_, channel)| self.channel_mailboxes(channel))
            .map(|mailbox| mailbox.name)
            .collect();
        let more = if local.len() > 20 { ", …" } else { "" };
        local.truncate(20);
        let there = if local.is_empty() {
            String::new()
        } else {
            format!(" (there are: {}{more})", local.join(", "))
        };
        Error::usage(format!("`{asked}` has no mailbox `{name}`{there}")).with_hint_of(meant)
    }

    /// The words that mbsync must be given so that these targets of an account are
    /// served: in the order of its channels, without duplicates, a whole channel in place of
    /// its boxes. A mailbox that cannot be named (no Patterns, a comma), or more of
    /// them than fit on a command line, bring the whole channel. Reads directories only
    /// for a channel that a group of the same name hides.
    #[must_use]
    pub fn mbsync_words<'a>(
        &self,
        account: &Account,
        targets: impl IntoIterator<Item = &'a Target>,
    ) -> MbsyncWords {
        let mut whole: BTreeSet<&str> = BTreeSet::new();
        let mut boxes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut shadowed_too = false;
        for target in targets {
            match target {
                Target::Account => {
                    shadowed_too = !self.shadowed_channels.is_empty();
                    whole.extend(account.channels.iter().map(|channel| channel.name.as_str()));
                }
                Target::Channel(channel) => {
                    whole.insert(channel);
                }
                Target::Mailbox { channel, name } => boxes.entry(channel).or_default().push(name),
            }
        }
        let mut room = MOST_BYTES;
        for channel in &account.channels {
            let Some(names) = boxes.get(channel.name.as_str()) else { continue };
            room = names.iter().fold(room, |room, name| room.saturating_sub(name.len() + 1));
            if room == 0 || names.iter().any(|name| !channel.mailbox(name).addressable) {
                whole.insert(&channel.name);
            }
        }
        let mut out = MbsyncWords::default();
        let mut by_group: BTreeSet<&str> = BTreeSet::new();
        for channel in &account.channels {
            let name = channel.name.as_str();
            if by_group.contains(name) {
                continue;
            }
            if !whole.contains(name) {
                let Some(names) = boxes.get_mut(name) else { continue };
                let mut seen = BTreeSet::new();
                names.retain(|name| seen.insert(*name));
                out.words.extend(self.boxes_words(name, names));
            } else if !name.contains(':') && self.group(name).is_none() {
                out.words.push(name.to_string());
            } else if let Some(group) = self.group_for(channel, account, &whole) {
                by_group.extend(group.members.iter().map(String::as_str));
                out.words.push(group.name.clone());
            } else if channel.patterns.is_some() && !name.contains(':') {
                let local = self.channel_mailboxes(channel);
                let names: Vec<&str> = local
                    .iter()
                    .filter(|mailbox| mailbox.addressable)
                    .map(|mailbox| mailbox.name.as_str())
                    .collect();
                if names.is_empty() {
                    out.unreachable.push(name.to_string());
                } else {
                    out.words.extend(self.boxes_words(name, &names));
                }
            } else {
                out.unreachable.push(name.to_string());
            }
        }
        // `-a` is every channel of the file.
        let everything = self.accounts.len() == 1
            && account.channels.iter().all(|channel| whole.contains(channel.name.as_str()));
        let unnamed = account.channels.iter().any(|channel| self.is_hidden(channel));
        if everything && (unnamed || shadowed_too) {
            return MbsyncWords { all: true, ..MbsyncWords::default() };
        }
        out
    }

    /// The channel's name alone does not mean it to mbsync.
    fn is_hidden(&self, channel: &Channel) -> bool {
        channel.name.contains(':') || self.group(&channel.name).is_some()
    }

    /// A group whose name brings this channel, whole, and nothing else.
    fn group_for(
        &self,
        channel: &Channel,
        account: &Account,
        whole: &BTreeSet<&str>,
    ) -> Option<&ChannelGroup> {
        let wanted = |member: &String| {
            whole.contains(member.as_str())
                && account.channels.iter().any(|channel| channel.name == *member)
        };
        self.groups.iter().find(|group| {
            // Of two groups with one name mbsync knows the first.
            self.group(&group.name) == Some(group)
                && group.members.contains(&channel.name)
                && !channel.name.contains(':')
                && group.members.iter().all(wanted)
        })
    }

    /// One word, or several where the kernel would refuse it.
    fn boxes_words(&self, channel: &str, names: &[&str]) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = names;
        while !rest.is_empty() {
            let mut size = 0;
            let fits = rest.iter().take_while(|name| {
                size += name.len() + 1;
                size <= LONGEST_WORD
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            words.push(self.boxes_word(channel, now));
            rest = later;
        }
        words
    }

    fn boxes_word(&self, channel: &str, names: &[&str]) -> String {
        let mut word = format!("{channel}:{}", names.join(","));
        // A group could have this very name. A box twice is harmless.
        while let (Some(_), Some(name)) = (self.group(&word), names.first()) {
            word.push(',');
            word.push_str(name);
        }
        word
    }
}

/// The error for a mailbox that is there, but in no channel whose Patterns admit it.
fn excluded(word: &str, channels: &[(usize, &Channel)], name: &str) -> Option<Error> {
    let (_, channel) =
        channels.iter().find(|(_, channel)| channel.existing(name, true).is_some())?;
    let asked = word.split_once(':').map_or(word, |(asked, _)| asked);
    let error = Error::usage(format!("the Patterns of `{asked}` exclude the mailbox `{name}`"));
    let word = shell_operand(&format!("{}:{name}", channel.name));
    Some(error.with_hint(format!("name the channel: {word}")))
}

fn add(targets: &mut Targets, index: usize, target: Target) {
    targets.entry(index).or_default().insert(target);
}

/// The channel that a group's member names.
fn channel_of(member: &str) -> &str {
    member.split_once(':').map_or(member, |(channel, _)| channel)
}

/// As mbsync splits them; an empty one means INBOX.
fn split_boxes(boxes: &str) -> impl Iterator<Item = &str> {
    boxes.split([',', '\n']).map(|name| if name.is_empty() { "INBOX" } else { name })
}

impl Account {
    /// The same targets in one form: all channels are the account, and a whole
    /// channel replaces its mailboxes.
    #[must_use]
    pub fn canonical(&self, targets: &BTreeSet<Target>) -> BTreeSet<Target> {
        let whole = |name: &String| targets.contains(&Target::Channel(name.clone()));
        if targets.contains(&Target::Account)
            || self.channels.iter().all(|channel| whole(&channel.name))
        {
            return BTreeSet::from([Target::Account]);
        }
        targets
            .iter()
            .filter(|target| !matches!(target, Target::Mailbox { channel, .. } if whole(channel)))
            .cloned()
            .collect()
    }

    /// The same, with a whole channel in place of very many of its mailboxes: each is a
    /// file and a word of mbsync's command line.
    #[must_use]
    pub fn widened(&self, targets: &BTreeSet<Target>) -> BTreeSet<Target> {
        let mut widened = targets.clone();
        for channel in &self.channels {
            let named = |target: &&Target| matches!(target, Target::Mailbox { channel: of, .. } if *of == channel.name);
            if targets.iter().filter(named).count() > MOST_NAMED {
                widened.insert(Target::Channel(channel.name.clone()));
            }
        }
        self.canonical(&widened)
    }
}

impl Channel {
    /// The shared names that a typed one could mean: itself, or without the
    /// prefix of either side. A server's own spelling is taken where the store
    /// says what it is made of.
    fn shared_names(&self, typed: &str) -> Vec<String> {
        let mut names = vec![typed.to_string()];
        for side in [&self.near, &self.far] {
            let mut spellings = vec![typed.to_string()];
            if let StoreKind::Imap(imap) = &side.store.kind {
                if let Some(rest) = typed.strip_prefix(imap.path.as_deref().unwrap_or_default()) {
                    let delimiter = imap.delimiter.as_deref().unwrap_or("/");
                    spellings.push(rest.replace(delimiter, "/"));
                }
            }
            for spelling in spellings {
                if let Some(name) = spelling.strip_prefix(side.mailbox.as_str()) {
                    if !name.is_empty() && !names.iter().any(|known| known == name) {
                        names.push(name.to_string());
                    }
                }
            }
        }
        names
    }

    fn target(&self, name: &str) -> Target {
        Target::Mailbox { channel: self.name.clone(), name: name.to_string() }
    }

    /// The typed name is that of the only pair.
    fn is_only(&self, typed: &str) -> bool {
        self.only_mailbox().is_some_and(|only| typed == only.far || typed == only.near)
    }

    /// What the typed name means, if that has a Maildir here. Names that the
    /// Patterns admit come first; others count only where the channel itself was named
    /// (`exact`).
    fn existing(&self, typed: &str, exact: bool) -> Option<Target> {
        let Some(patterns) = &self.patterns else {
            return self.is_only(typed).then(|| Target::Channel(self.name.clone()));
        };
        let mut names = self.shared_names(typed);
        names.retain(|name| {
            self.mailbox(name).maildir.is_some_and(|maildir| maildir.join("cur").is_dir())
        });
        names.retain(|name| exact || admits(patterns, name));
        names.sort_by_key(|name| !admits(patterns, name));
        names.first().map(|name| self.target(name))
    }

    /// What the typed name means, if mbsync could make that: INBOX always,
    /// others where Create says so, or where the near side cannot be seen.
    fn possible(&self, typed: &str, exact: bool) -> Option<Target> {
        let patterns = self.patterns.as_ref()?;
        let names = self.shared_names(typed);
        let admitted = names.iter().find(|name| admits(patterns, name));
        let name = admitted.or(if exact { names.first() } else { None })?;
        let mailbox = self.mailbox(name);
        let local = matches!(self.near.store.kind, StoreKind::Maildir(_));
        let is_near_inbox = mailbox.near == "INBOX"
            || self.near.store.map_inbox.as_deref() == Some(mailbox.near.as_str());
        let makable = !local || mailbox.maildir.is_some() && (self.create.near || is_near_inbox);
        makable.then(|| self.target(name))
    }
}
