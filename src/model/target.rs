//! What a request asks for.

use super::Mailbox;

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
            Target::Account => f.write_str("everything"),
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
            }
        }
    }
}
