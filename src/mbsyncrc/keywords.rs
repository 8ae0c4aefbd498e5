//! Every keyword of isync 1.4 and 1.5, in one table: where it may stand, what
//! it takes, whether its value is secret, whether it says how to connect.
//!
//! The parser, its suggestions, its messages and the configuration of a lent
//! connection all read this table. Does not depend on: lines, the order of
//! sections. Facts: `config.c`, `drv_imap.c` and `drv_maildir.c` of isync
//! 1.4.4 and 1.5.1.

use super::Notice;
use super::SectionKind;
use super::ops::SideOps;
use super::values::{self, Draft, Location, Statement};
use crate::mbsync_version::IsyncVersion;
use std::path::PathBuf;
use std::time::Duration;

/// A keyword as isync knows it.
pub struct Keyword {
    /// Its name, as messages suggest it.
    pub name: &'static str,
    /// Other names, which are accepted but never suggested.
    pub aliases: &'static [&'static str],
    /// The sections that it may stand in; `None` is above all sections.
    pub places: &'static [Option<SectionKind>],
    /// The versions that know it.
    pub versions: Versions,
    /// What it takes.
    pub kind: Kind,
    /// Its value must never be shown.
    pub secret: bool,
    /// It says how to reach the server and who logs in. The other keywords of an
    /// account (`Timeout`, `PipelineDepth`) say how to talk.
    pub connection: bool,
}

/// The versions of isync that know a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// 1.4 and 1.5.
    All,
    /// Dropped by 1.5.
    Until1_4,
    /// New in 1.5.
    From1_5,
    /// All, where mbsync is built for macOS.
    MacOs,
}

/// The kind of a keyword's value, and where the value goes.
#[derive(Clone, Copy)]
pub enum Kind {
    /// The name of a section, which begins here.
    Section(SectionKind),
    /// The name of an `IMAPAccount` above.
    Account,
    /// `:STORE:MAILBOX`, of the far (0) or the near (1) side.
    End(usize),
    /// Anything: mbsync does not look at it either.
    Ignored,
    /// One word.
    Text(fn(&mut Draft, String)),
    /// One word, for the shell.
    Command(fn(&mut Draft, String)),
    /// Any number of words.
    Words(fn(&mut Draft, String)),
    /// Yes or no.
    Flag(fn(&mut Draft, bool)),
    /// A whole number.
    Number(fn(&mut Draft, i32)),
    /// A number of bytes.
    Size(fn(&mut Draft, u32)),
    /// A path; without one: a path below the home of a user that does not exist.
    Path(fn(&mut Draft, Option<String>)),
    /// The same, or `*`.
    PathOrStar(fn(&mut Draft, Option<String>)),
    /// A file that mbsync reads at once.
    File(fn(&mut Draft, PathBuf)),
    /// `Far`, `Near`, `Both`, `None`.
    Sides(fn(&mut Draft) -> &mut SideOps),
    /// What only this keyword takes.
    Custom(fn(&mut Statement, &Location<'_>, &mut Draft) -> Result<(), Notice>),
}

use Kind::{
    Account, Command, Custom, End, File, Flag, Ignored, Number, Path, PathOrStar, Section, Sides,
    Size, Text, Words,
};
use Versions::{All, From1_5, MacOs, Until1_4};

type Places = &'static [Option<SectionKind>];
const TOP: Places = &[None];
const OPTION: Places = &[None, Some(SectionKind::Channel)];
const CHANNEL: Places = &[Some(SectionKind::Channel)];
const GROUP: Places = &[Some(SectionKind::ChannelGroup)];
const LOGIN: Places = &[Some(SectionKind::Account), Some(SectionKind::ImapStore)];
const STORE: Places = &[Some(SectionKind::ImapStore), Some(SectionKind::MaildirStore)];
const IMAP: Places = &[Some(SectionKind::ImapStore)];
const MAILDIR: Places = &[Some(SectionKind::MaildirStore)];

const fn key(name: &'static str, places: Places, versions: Versions, kind: Kind) -> Keyword {
    Keyword { name, aliases: &[], places, versions, kind, secret: false, connection: false }
}

impl Keyword {
    const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn connection(mut self) -> Self {
        self.connection = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self.connection()
    }
}

#[rustfmt::skip]
static KEYWORDS: &[Keyword] = &[
    key("IMAPAccount", TOP, All, Section(SectionKind::Account)),
    key("IMAPStore", TOP, All, Section(SectionKind::ImapStore)),
    key("MaildirStore", TOP, All, Section(SectionKind::MaildirStore)),
    key("Channel", TOP, All, Section(SectionKind::Channel)),
    key("Group", TOP, All, Section(SectionKind::ChannelGroup)),

    key("Far", CHANNEL, All, End(0)).or(&["Master"]),
    key("Near", CHANNEL, All, End(1)).or(&["Slave"]),
    key("Patterns", CHANNEL, All, Words(|to, word| to.patterns.get_or_insert_default().push(word)))
        .or(&["Pattern"]),
    key("MaxSize", CHANNEL, All, Size(|to, size| to.max_size = Some(size))),
    key("Channel", GROUP, All, Words(|to, name| to.members.push(name))).or(&["Channels"]),

    key("Sync", OPTION, All, Custom(values::sync)),
    key("Create", OPTION, All, Sides(|to| &mut to.options.create)),
    key("Remove", OPTION, All, Sides(|to| &mut to.options.remove)),
    key("Expunge", OPTION, All, Sides(|to| &mut to.options.expunge)),
    key("ExpungeSolo", OPTION, From1_5, Sides(|to| &mut to.options.expunge_solo)),
    key("SyncState", OPTION, All, PathOrStar(|to, path| to.options.sync_state = path)),
    key("CopyArrivalDate", OPTION, All, Flag(|_, _| {})),
    key("MaxMessages", OPTION, All,
        Number(|to, most| to.options.max_messages = Some(u32::try_from(most).unwrap_or(0)))),
    key("ExpireUnread", OPTION, All, Flag(|to, on| to.options.expire_unread = Some(on))),
    key("ExpireSide", OPTION, From1_5, Custom(values::expire_side)),
    key("FSync", TOP, All, Flag(|_, _| {})),
    key("FieldDelimiter", TOP, All, Custom(values::field_delimiter)),
    key("BufferLimit", TOP, All, Custom(values::buffer_limit)),

    key("Account", IMAP, All, Account),
    key("UseNamespace", IMAP, All, Flag(|to, on| to.use_namespace = Some(on))),
    key("SubscribedOnly", IMAP, All, Flag(|to, on| to.subscribed_only = on)),
    // A prefix of names on the server.
    key("Path", IMAP, All, Text(|to, prefix| to.prefix = Some(prefix))),
    key("PathDelimiter", IMAP, All, Custom(values::path_delimiter)),
    key("Inbox", MAILDIR, All, Path(|to, path| to.inbox = path)),
    key("Path", MAILDIR, All, Path(|to, path| to.path = path)),
    key("AltMap", MAILDIR, All, Flag(|to, on| to.alt_map = on)),
    key("InfoDelimiter", MAILDIR, All, Custom(values::info_delimiter)),
    key("SubFolders", MAILDIR, All, Custom(values::sub_folders)),
    key("Trash", STORE, All, Text(|to, name| to.trash = Some(name))),
    key("TrashRemoteNew", STORE, All, Flag(|_, _| {})),
    key("TrashNewOnly", STORE, All, Flag(|_, _| {})),
    key("MaxSize", STORE, All, Size(|to, size| to.max_size = Some(size))),
    key("MapInbox", STORE, All, Text(|to, name| to.map_inbox = Some(name))),
    key("Flatten", STORE, All, Custom(values::flatten)),

    key("Host", LOGIN, All, Custom(values::host)).connection(),
    key("Port", LOGIN, All, Custom(values::port)).connection(),
    key("User", LOGIN, All, Text(|to, name| to.login.user = Some(name.into()))).secret(),
    key("UserCmd", LOGIN, All, Command(|to, run| to.login.user_cmd = Some(run))).secret(),
    key("Pass", LOGIN, All, Text(|to, word| to.login.pass = Some(word.into()))).secret(),
    key("PassCmd", LOGIN, All, Command(|to, run| to.login.pass_cmd = Some(run))).secret(),
    key("UseKeychain", LOGIN, MacOs, Flag(|_, _| {})).connection(),
    key("Timeout", LOGIN, All, Number(|to, seconds| {
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        to.login.server.timeout = seconds.map(Duration::from_secs);
    })),
    key("PipelineDepth", LOGIN, All, Custom(values::pipeline_depth)),
    key("DisableExtensions", LOGIN, All, Custom(values::extensions)).or(&["DisableExtension"]),
    key("CertificateFile", LOGIN, All,
        File(|to, file| to.login.server.certificate_file = Some(file))).connection(),
    key("SystemCertificates", LOGIN, All,
        Flag(|to, on| to.login.server.system_certificates = on)).connection(),
    key("ClientCertificate", LOGIN, All,
        File(|to, file| to.login.server.client_certificate = Some(file))).connection(),
    key("ClientKey", LOGIN, All,
        File(|to, file| to.login.server.client_key = Some(file))).connection(),
    key("CipherString", LOGIN, All,
        Text(|to, text| to.login.server.cipher_string = Some(text))).connection(),
    key("SSLType", LOGIN, All, Custom(values::tls_type)).connection(),
    key("SSLVersions", LOGIN, All, Custom(values::ssl_versions)).or(&["SSLVersion"]).connection(),
    key("AuthMechs", LOGIN, All,
        Words(|to, name| to.login.server.auth_mechs.push(name.to_ascii_uppercase())))
        .or(&["AuthMech"]).connection(),
    key("RequireCRAM", LOGIN, All, Flag(|to, on| to.login.require_cram = Some(on))).connection(),
    key("Tunnel", LOGIN, All, Command(|to, run| to.login.server.tunnel = Some(run))).secret(),
    key("RequireSSL", LOGIN, Until1_4, Flag(|to, on| to.login.require_ssl = Some(on))).connection(),
    key("UseIMAPS", LOGIN, Until1_4, Flag(|to, on| to.login.use_imaps = Some(on))).connection(),
    key("UseSSLv2", LOGIN, Until1_4, Ignored).connection(),
    key("UseSSLv3", LOGIN, Until1_4, Ignored).connection(),
    key("UseTLSv1", LOGIN, Until1_4, Flag(|to, on| to.login.use_tls[0] = Some(on))).connection(),
    key("UseTLSv1.1", LOGIN, Until1_4, Flag(|to, on| to.login.use_tls[1] = Some(on))).connection(),
    key("UseTLSv1.2", LOGIN, Until1_4, Flag(|to, on| to.login.use_tls[2] = Some(on))).connection(),
    key("UseTLSv1.3", LOGIN, Until1_4, Flag(|to, on| to.login.use_tls[3] = Some(on))).connection(),
    key("TLSType", LOGIN, From1_5, Custom(values::tls_type)).connection(),
    key("TLSVersions", LOGIN, From1_5, Custom(values::tls_versions)).connection(),
];

/// The keyword that this word is in a section, or above all sections (`None`),
/// whichever version knows it.
#[must_use]
pub fn find(word: &str, place: Option<SectionKind>) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.places.contains(&place) && keyword.is(word))
}

/// Everything that this word is, wherever it stands.
pub fn everywhere(word: &str) -> impl Iterator<Item = &'static Keyword> {
    KEYWORDS.iter().filter(move |keyword| keyword.is(word))
}

/// The names of all that this version knows in a section.
pub fn names(
    place: Option<SectionKind>,
    version: IsyncVersion,
) -> impl Iterator<Item = &'static str> {
    KEYWORDS
        .iter()
        .filter(move |keyword| keyword.places.contains(&place) && keyword.is_known_to(version))
        .map(|keyword| keyword.name)
}

impl Keyword {
    fn is(&self, word: &str) -> bool {
        std::iter::once(&self.name).chain(self.aliases).any(|name| name.eq_ignore_ascii_case(word))
    }

    /// Whether this version accepts it, on this system.
    #[must_use]
    pub fn is_known_to(&self, version: IsyncVersion) -> bool {
        match self.versions {
            All => true,
            Until1_4 => version == IsyncVersion::V1_4,
            From1_5 => version == IsyncVersion::V1_5,
            MacOs => cfg!(target_os = "macos"),
        }
    }

    /// Whether mbsync takes this value for a path.
    #[must_use]
    pub fn takes_path(&self, value: &str) -> bool {
        match self.kind {
            Path(_) | File(_) => true,
            PathOrStar(_) => value != "*",
            _ => false,
        }
    }

    /// Puts the statement's value where it belongs.
    ///
    /// # Errors
    /// Why mbsync refuses the value.
    pub(super) fn set(
        &self,
        statement: &mut Statement,
        location: &Location<'_>,
        draft: &mut Draft,
    ) -> Result<(), Notice> {
        match self.kind {
            // Names are for the parser, which knows what stands above.
            Section(_) | Account | End(_) | Ignored => {}
            Text(set) | Command(set) => set(draft, std::mem::take(&mut statement.value)),
            Words(add) => statement.words().for_each(|word| add(draft, word)),
            Flag(set) => set(draft, statement.boolean()?),
            Number(set) => set(draft, statement.number()?),
            Size(set) => set(draft, statement.size()?),
            PathOrStar(set) if statement.value == "*" => set(draft, Some("*".into())),
            Path(set) | PathOrStar(set) => {
                let path = statement.path(location, draft);
                set(draft, path);
            }
            File(set) => {
                let file = statement.readable(location, draft)?;
                set(draft, file);
            }
            Sides(of) => {
                if statement.sides(of(draft))? {
                    draft.notices.push(values::OLD_SIDES.into());
                }
            }
            Custom(set) => set(statement, location, draft)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_has_a_name_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for keyword in KEYWORDS {
            for name in std::iter::once(&keyword.name).chain(keyword.aliases) {
                for place in keyword.places {
                    let new = seen.insert((name.to_ascii_lowercase(), format!("{place:?}")));
                    assert!(new, "{name} in {place:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_secret_says_how_to_connect() {
        let secrets: Vec<&str> =
            KEYWORDS.iter().filter(|keyword| keyword.secret).map(|keyword| keyword.name).collect();
        assert_eq!(secrets, ["User", "UserCmd", "Pass", "PassCmd", "Tunnel"]);
        assert!(KEYWORDS.iter().all(|keyword| keyword.connection || !keyword.secret));
    }
}
