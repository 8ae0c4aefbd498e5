//! What `mutt-sync --muttrc ACCOUNT` prints: an account's sender and folders.
//!
//! Folders are found among the account's mailboxes by their names; the sender in
//! msmtp's file. Every identity sets or resets the same variables, so that none is
//! left over from the account before. Does not depend on: files, servers.

use super::quote::{account_commands, comment, quoted, without_expandos};
use crate::imap::names::from_utf7;
use crate::model::{Account, CredentialSource, Mailbox};

/// What a mailbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// `\Drafts`.
    Drafts,
    /// `\Sent`.
    Sent,
    /// `\Trash`.
    Trash,
    /// `\Archive`, else `\All`.
    Archive,
}

/// Usual names of the mailboxes for each [`Use`], a paragraph each, the likelier first, in
/// lower case: those that clients and providers give them, in the languages of the larger ones.
const NAMES: &str = include_str!("mailbox_names.txt");

impl Use {
    fn names(self) -> impl Iterator<Item = &'static str> {
        let paragraph = NAMES.split("\n\n").nth(self as usize).unwrap_or_default();
        paragraph.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty())
    }
}

/// The mailbox for a use: the one whose name is usual for it, and which is at the
/// top, under INBOX, or in Gmail's own folder.
#[must_use]
pub fn mailbox_for(wanted: Use, mailboxes: &[Mailbox]) -> Option<&Mailbox> {
    let usual: Vec<&str> = wanted.names().collect();
    mailboxes
        .iter()
        .filter(|mailbox| mailbox.maildir.is_some())
        .filter_map(|mailbox| {
            let rank = [&mailbox.name, &mailbox.near, &mailbox.far]
                .into_iter()
                .filter_map(|name| name_rank(&usual, name))
                .min()?;
            Some((rank, mailbox))
        })
        // min_by_key keeps the first of equals: the file's order.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, mailbox)| mailbox)
}

/// How likely a mailbox of this name is the wanted one, 0 being likeliest. The
/// name may be in modified UTF-7: isync 1.4 knows names, also those of the
/// directories that it makes, only as the server writes them.
fn name_rank(usual: &[&str], name: &str) -> Option<usize> {
    let lower = from_utf7(name).map_or_else(|| name.to_lowercase(), |name| name.to_lowercase());
    let below = ["inbox/", "inbox.", "[gmail]/", "[gmail].", "[google mail]/", "[google mail]."]
        .iter()
        .find_map(|parent| lower.strip_prefix(parent));
    let base = below.unwrap_or(&lower);
    usual.iter().position(|usual| *usual == base)
}

/// An account of msmtp's file, as far as a sender needs to be known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sender {
    /// Its name there.
    pub name: String,
    /// `from`: the envelope address; without wildcards.
    pub from: Option<String>,
    /// `user`.
    pub user: Option<String>,
    /// `host`.
    pub host: Option<String>,
}

/// The accounts of msmtp's file (`~/.msmtprc`), in its order.
///
/// Reads what it knows and skips the rest, because msmtp itself checks its file:
/// `defaults`, `account NAME : BASE,BASE`, `from`, `user`, `host`
/// (msmtp(1), CONFIGURATION FILES). Passwords are never kept.
#[must_use]
pub fn msmtp_senders(text: &str) -> Vec<Sender> {
    let mut defaults = Sender::default();
    let mut senders: Vec<Sender> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = unquoted(value.trim());
        match key {
            "defaults" => {
                // What follows belongs to the defaults until the next account.
                senders.push(Sender { name: String::new(), ..defaults.clone() });
            }
            "account" => {
                keep_defaults(&mut senders, &mut defaults);
                let (name, bases) = value.split_once(':').unwrap_or((value, ""));
                let mut sender = Sender { name: name.trim().to_owned(), ..defaults.clone() };
                for base in bases.split(',').map(str::trim) {
                    if let Some(base) = senders.iter().find(|sender| sender.name == base) {
                        sender.from = base.from.clone().or(sender.from);
                        sender.user = base.user.clone().or(sender.user);
                        sender.host = base.host.clone().or(sender.host);
                    }
                }
                senders.push(sender);
            }
            "from" | "user" | "host" => {
                let value = (!value.is_empty() && !value.contains(['*', '?', '%']))
                    .then(|| value.to_owned());
                let Some(sender) = senders.last_mut() else { continue };
                match key {
                    "from" => sender.from = value,
                    "user" => sender.user = value,
                    _ => sender.host = value,
                }
            }
            _ => {}
        }
    }
    keep_defaults(&mut senders, &mut defaults);
    senders
}

/// Takes a `defaults` section, which has no name, off the list again.
fn keep_defaults(senders: &mut Vec<Sender>, defaults: &mut Sender) {
    if senders.last().is_some_and(|last| last.name.is_empty()) {
        if let Some(last) = senders.pop() {
            *defaults = last;
        }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// msmtp's account for one of mbsync's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderMatch<'a> {
    /// The account in msmtp's file.
    pub sender: &'a Sender,
    /// Only the provider is the same.
    pub guessed: bool,
}

/// msmtp's account for one of mbsync's: of the same name, else with the same user, else
/// the only one at the same provider, unless it is another person's. `all` has the
/// accounts of `.mbsyncrc`.
#[must_use]
pub fn sender_for<'a>(
    account: &Account,
    all: &[Account],
    senders: &'a [Sender],
) -> Option<SenderMatch<'a>> {
    if let Some(sender) = same_account(account, senders) {
        return Some(SenderMatch { sender, guessed: false });
    }
    let provider = provider_of(account)?;
    let mut same = named(senders)
        .filter(|sender| sender.name != "default")
        .filter(|sender| sender.host.as_deref().and_then(domain) == Some(provider));
    let sender = same.next()?;
    if same.next().is_some() {
        return None;
    }
    let own = user_of(account).map_or(Likeness::Unknown, |user| likeness(user, sender));
    // A user without a domain can be a number, and another one for sending.
    let differs = own == Likeness::Differs && user_of(account)?.contains('@');
    let owned = |other: &Account| {
        same_account(other, senders) == Some(sender)
            || (provider_of(other) == Some(provider)
                && user_of(other).is_some_and(|user| likeness(user, sender) == Likeness::Same))
    };
    let others = || all.iter().filter(|other| other.name != account.name);
    if differs || (own != Likeness::Same && others().any(owned)) {
        return None;
    }
    Some(SenderMatch { sender, guessed: own != Likeness::Same })
}

/// What may be an account's: `default` only with an address, else it is an alias.
fn named(senders: &[Sender]) -> impl Iterator<Item = &Sender> {
    senders.iter().filter(|sender| sender.name != "default" || sender.from.is_some())
}

/// The account of msmtp's that has the name or the address of this one.
fn same_account<'a>(account: &Account, senders: &'a [Sender]) -> Option<&'a Sender> {
    let by_name = |sender: &&Sender| sender.name.eq_ignore_ascii_case(&account.name);
    if let Some(same) = named(senders).find(by_name) {
        return Some(same);
    }
    let user = user_of(account).filter(|user| user.contains('@'))?;
    named(senders).find(|sender| {
        [&sender.user, &sender.from].into_iter().flatten().any(|own| own.eq_ignore_ascii_case(user))
    })
}

fn user_of(account: &Account) -> Option<&str> {
    match &account.server.as_ref()?.user {
        Some(CredentialSource::Text(user)) => Some(user.as_str()),
        _ => None,
    }
}

fn provider_of(account: &Account) -> Option<&str> {
    domain(account.server.as_ref()?.host.as_deref()?)
}

/// Whether a user at a provider is that of a sender at the same provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Same,
    Differs,
    /// msmtp's account has no user and no address.
    Unknown,
}

fn likeness(user: &str, sender: &Sender) -> Likeness {
    let local_part = |text: &str| text.split('@').next().unwrap_or_default().to_lowercase();
    // Of two addresses all is compared; a user without a domain is at the provider's.
    let same = |other: &String| {
        other.eq_ignore_ascii_case(user)
            || (!(other.contains('@') && user.contains('@'))
                && local_part(other) == local_part(user))
    };
    let mut known = [&sender.user, &sender.from].into_iter().flatten().peekable();
    if known.peek().is_none() {
        Likeness::Unknown
    } else if known.any(same) {
        Likeness::Same
    } else {
        Likeness::Differs
    }
}

/// Second labels below which a country registers names: `co.uk` is no provider.
const SECOND_LEVEL: [&str; 10] = ["ac", "co", "com", "edu", "gov", "net", "ne", "or", "org", "gob"];

/// The domain of a host name that one provider has: its last two labels, or three below
/// `co.uk` and the like; not of an address.
fn domain(host: &str) -> Option<&str> {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let mut labels = host.rsplit('.');
    let (top, second) = (labels.next()?, labels.next()?);
    let registered =
        |label: &str| SECOND_LEVEL.iter().any(|known| known.eq_ignore_ascii_case(label));
    let count = if top.len() == 2 && registered(second) { 3 } else { 2 };
    let start = host.rmatch_indices('.').nth(count - 1).map_or(0, |(at, _)| at + 1);
    host.get(start..)
}

/// Status colours, one for each account in turn.
const COLOURS: [&str; 6] =
    ["white blue", "white red", "black green", "white magenta", "black cyan", "black yellow"];

/// The identity file of an account. `place` is its position among `all` accounts,
/// for its colour; `senders` is msmtp's file.
#[must_use]
pub fn identity(
    account: &Account,
    all: &[Account],
    place: usize,
    mailboxes: &[Mailbox],
    senders: &[Sender],
) -> String {
    let name = comment(&account.name);
    let mut out = format!(
        "# The account {name}: its folders, its sender, its colour.\n\
         # Made by `mutt-sync --muttrc` from .mbsyncrc and msmtp's file; yours to edit.\n\
         # Keep it as ~/.config/mutt/account/{name}: `source \"mutt-sync --muttrc|\"`\n\
         # then sources it on entering a folder of the account. What you add to one\n\
         # account, add to all, or it follows you into the next.\n\n"
    );
    let mut lines = match account_commands(&account.name) {
        Ok(commands) => commands.to_vec(),
        Err(why) => vec![format!("# {why} in the account's name: rename it in .mbsyncrc")],
    };
    let sender = sender_for(account, all, senders);
    lines.push(String::new());
    // Until msmtp's file has the account, the provider is that of its IMAP server.
    let host = sender
        .map_or(account.server.as_ref().and_then(|server| server.host.as_deref()), |found| {
            found.sender.host.as_deref()
        });
    lines.extend(folder_lines(mailboxes, host));
    lines.push(String::new());
    lines.extend(sender_lines(account, sender, senders));
    let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or("white blue");
    lines.push(format!("color status {colour}"));
    for line in lines {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The folders of an account: where mutt finds, keeps and puts mail. `host` sends it.
fn folder_lines(mailboxes: &[Mailbox], host: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    let inbox = mailboxes.iter().find(|mailbox| mailbox.maildir.is_some() && mailbox.is_inbox());
    let inbox = inbox.and_then(path_of);
    match &inbox {
        Some(path) => {
            lines.push(format!("set spoolfile={path}"));
            lines.push(format!("set mbox={path}"));
        }
        None => lines.push("reset spoolfile mbox  # no INBOX is synced".into()),
    }
    let folder = |wanted| mailbox_for(wanted, mailboxes).and_then(path_of);
    for (variable, wanted, what) in
        [("postponed", Use::Drafts, "Drafts"), ("trash", Use::Trash, "Trash")]
    {
        lines.push(match folder(wanted) {
            Some(path) => format!("set {variable}={path}"),
            None => format!("reset {variable}  # fill in: no {what} among the folders"),
        });
    }
    // One mailbox is Sent for both, or two copies of each mail lie in it.
    let server_keeps = host
        .and_then(domain)
        .is_some_and(|host| matches!(host, "gmail.com" | "googlemail.com" | "office365.com"));
    lines.push(match folder(Use::Sent) {
        _ if server_keeps => "unset record  # the server files what it sends by itself".into(),
        // neomutt writes to two folders if there is a comma ($record, multiple_fcc).
        Some(path) if path.contains(',') => {
            "reset record  # fill in: Sent has a comma in its name, which neomutt splits at".into()
        }
        Some(path) => format!("set record={path}"),
        None => "reset record  # fill in: no Sent among the folders".into(),
    });
    let archive = mailbox_for(Use::Archive, mailboxes)
        .and_then(path_text)
        .and_then(|path| quoted(&without_expandos(path)).ok());
    match (archive, inbox) {
        (Some(path), _) => lines.push(format!("save-hook . {path}")),
        (None, Some(inbox)) => {
            lines.push(
                "# fill in: no Archive among the folders; INBOX stands for it, so that none".into(),
            );
            lines.push("# of another account does".into());
            lines.push(format!("save-hook . {}", inbox.replace('%', "%%")));
        }
        (None, None) => {
            lines.push("# fill in: no Archive among the folders (save-hook . FOLDER)".into());
        }
    }
    lines
}

/// Who writes as an account, and how that is sent.
fn sender_lines(
    account: &Account,
    found: Option<SenderMatch<'_>>,
    senders: &[Sender],
) -> Vec<String> {
    let user = user_of(account).filter(|user| user.contains('@'));
    let sender = found.map(|found| found.sender);
    let guess = match found {
        Some(SenderMatch { guessed: true, .. }) => "  # fill in: guessed by the provider",
        _ => "",
    };
    let from = sender.and_then(|sender| sender.from.as_deref());
    let from = match (from.map(quoted), user.map(quoted)) {
        (Some(Ok(from)), _) => format!("set from={from}{guess}"),
        (_, Some(Ok(user))) => {
            format!("set from={user}  # the User in .mbsyncrc; is it right?")
        }
        _ => "reset from  # fill in: set from=\"you@example.org\"".into(),
    };
    let realname = "# set realname=\"Your Name\"  # where it differs: then in every account's file";
    let mut lines = vec![from, realname.into()];
    if senders.is_empty() {
        let text = "# fill in: msmtp's file was not found (set sendmail=\"msmtp -a ...\")";
        lines.push(text.into());
    } else {
        lines.push("set use_envelope_from".into());
        let mut line = sendmail(sender, senders);
        if !line.contains('#') {
            line.push_str(guess);
        }
        lines.push(line);
    }
    lines.push("reset signature  # or: set signature=~/.config/mutt/signature/NAME".into());
    lines.push("reset pgp_sign_as pgp_default_key".into());
    lines
}

/// The line that sends by msmtp: by the address, where msmtp would find this
/// account by it, so that an answer from another address goes out by that one's;
/// else by name.
fn sendmail(sender: Option<&Sender>, senders: &[Sender]) -> String {
    let Some(sender) = sender else {
        return "set sendmail=\"msmtp\"  # fill in: no account of msmtp's is like this one".into();
    };
    let same_from = |other: &&Sender| match (&other.from, &sender.from) {
        (Some(other), Some(own)) => other.eq_ignore_ascii_case(own),
        _ => false,
    };
    if senders.iter().find(same_from).is_some_and(|first| first.name == sender.name) {
        return "set sendmail=\"msmtp\"".into();
    }
    // Both clients split this command at spaces and know no quotes in it.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
    if sender.name.chars().all(plain) {
        format!("set sendmail=\"msmtp -a {}\"", sender.name)
    } else {
        "set sendmail=\"msmtp\"  # fill in: -a cannot be given an account with such a name".into()
    }
}

fn path_text(mailbox: &Mailbox) -> Option<&str> {
    mailbox.maildir.as_deref()?.to_str()
}

fn path_of(mailbox: &Mailbox) -> Option<String> {
    quoted(path_text(mailbox)?).ok()
}
