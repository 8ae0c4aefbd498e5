//! A mailbox pair: its names and its places on both sides. Does not depend on: how
//! they were found.

use super::Target;
use std::path::PathBuf;

/// One mailbox pair of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    /// The channel.
    pub channel: String,
    /// The name both sides share, as `CHANNEL:NAME` takes it; for a channel
    /// without Patterns the near name.
    pub name: String,
    /// The far name with the channel's prefix, before NAMESPACE and delimiter.
    pub far: String,
    /// The near name with the channel's prefix.
    pub near: String,
    /// The near Maildir, the directory that holds cur, new and tmp; `None`
    /// where the near side is not a Maildir.
    pub maildir: Option<PathBuf>,
    /// mbsync's sync state of the pair; `None` where no side that we can read says where.
    pub state_file: Option<PathBuf>,
    /// `CHANNEL:NAME` can be given to mbsync: the channel has Patterns, and the
    /// name is not empty and has no comma or newline in it.
    pub addressable: bool,
}

impl Mailbox {
    /// The narrowest target that serves it: mbsync cannot be given every
    /// mailbox by name. Its text is what a user types for the mailbox.
    #[must_use]
    pub fn target(&self) -> Target {
        let Mailbox { channel, name, addressable, .. } = self;
        if *addressable {
            Target::Mailbox { channel: channel.clone(), name: name.clone() }
        } else {
            Target::Channel(channel.clone())
        }
    }

    /// The one of these that mbsync names so.
    #[must_use]
    pub fn called<'m>(among: &'m [Mailbox], channel: &str, name: &str) -> Option<&'m Mailbox> {
        among.iter().find(|mailbox| mailbox.channel == channel && mailbox.is_called(name))
    }

    /// Whether it has this name, on either side or for both.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        [&self.name, &self.far, &self.near].iter().any(|own| *own == name)
    }

    /// Whether new mail comes here: INBOX on either side.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        // INBOX is the one name that has no case (RFC 3501, 5.1).
        [&self.name, &self.near, &self.far].iter().any(|name| name.eq_ignore_ascii_case("INBOX"))
            || (self.far.is_empty() && !self.addressable)
    }
}

#[cfg(test)]
impl Mailbox {
    /// Of the channel Home, the same name on both sides, no files.
    pub(crate) fn of_home(name: &str) -> Self {
        Mailbox {
            channel: "Home".into(),
            name: name.into(),
            far: name.into(),
            near: name.into(),
            maildir: None,
            state_file: None,
            addressable: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_that_cannot_be_named_is_typed_as_its_channel() {
        let mut mailbox = Mailbox::of_home("INBOX");
        assert_eq!(mailbox.target().to_string(), "Home:INBOX");
        mailbox.addressable = false;
        assert_eq!(mailbox.target().to_string(), "Home");
    }
}
