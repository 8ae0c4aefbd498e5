//! What a request asks for: all of an account, channels or mailboxes. Does not
//! depend on: names that users type, files.

use super::Mailbox;
use std::collections::BTreeSet;

/// What a request asks for. The account is known from where the request is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Every channel of the account.
    Account,
    /// A whole channel.
    Channel(String),
    /// One mailbox of a channel, by [`Mailbox::name`].
    Mailbox {
        /// The channel.
        channel: String,
        /// The mailbox.
        name: String,
    },
}

impl Target {
    /// The channel that it is of; `None` for the whole account.
    #[must_use]
    pub fn channel(&self) -> Option<String> {
        match self {
            Target::Account => None,
            Target::Channel(channel) | Target::Mailbox { channel, .. } => Some(channel.clone()),
        }
    }

    /// Whether serving this target serves the other as well.
    #[must_use]
    pub fn covers(&self, other: &Target) -> bool {
        match other {
            Target::Mailbox { channel, name } => self.covers_name(channel, name),
            _ => *self == Target::Account || self == other,
        }
    }

    /// Whether serving this target syncs the mailbox, also one that mbsync cannot
    /// be given by name.
    #[must_use]
    pub fn covers_mailbox(&self, mailbox: &Mailbox) -> bool {
        self.covers_name(&mailbox.channel, &mailbox.name)
    }

    /// Whether serving these targets serves this one as well.
    #[must_use]
    pub fn is_in(&self, targets: &BTreeSet<Target>) -> bool {
        let channel = || self.channel().map(Target::Channel);
        targets.contains(&Target::Account)
            || targets.contains(self)
            || channel().is_some_and(|channel| targets.contains(&channel))
    }

    /// Whether serving these targets syncs the mailbox.
    #[must_use]
    pub fn any_covers(targets: &BTreeSet<Target>, mailbox: &Mailbox) -> bool {
        let Mailbox { channel, name, .. } = mailbox;
        targets.contains(&Target::Account)
            || targets.contains(&Target::Channel(channel.clone()))
            || targets.contains(&Target::Mailbox { channel: channel.clone(), name: name.clone() })
    }

    fn covers_name(&self, of: &str, mailbox: &str) -> bool {
        match self {
            Target::Account => true,
            Target::Channel(channel) => channel == of,
            Target::Mailbox { channel, name } => channel == of && name == mailbox,
        }
    }
}

impl std::fmt::Display for Target {
    /// As a user types it, but for the whole account.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Account => f.write_str("the whole account"),
            Target::Channel(channel) => f.write_str(channel),
            Target::Mailbox { channel, name } => write!(f, "{channel}:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_covers_itself_and_what_is_below_it() {
        let mailbox = |name: &str| Target::Mailbox { channel: "Home".into(), name: name.into() };
        let channel = |name: &str| Target::Channel(name.into());
        // Each covers those that follow it in its row, and no other covers any.
        let rows = [
            vec![Target::Account, channel("Home"), channel("Work"), mailbox("a"), mailbox("b")],
            vec![channel("Home"), mailbox("a"), mailbox("b")],
            vec![channel("Work")],
            vec![mailbox("a")],
            vec![mailbox("b")],
        ];
        for row in &rows {
            for other in &rows[0] {
                assert_eq!(row[0].covers(other), row.contains(other), "{} {other}", row[0]);
            }
            for name in ["a", "b"] {
                let covered = row[0].covers_mailbox(&Mailbox::of_home(name));
                assert_eq!(covered, row.contains(&mailbox(name)), "{} {name}", row[0]);
                let alone = BTreeSet::from([row[0].clone()]);
                assert_eq!(Target::any_covers(&alone, &Mailbox::of_home(name)), covered);
                assert_eq!(mailbox(name).is_in(&alone), covered);
            }
        }
    }
}
