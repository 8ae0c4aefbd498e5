//! What `mutt-sync --muttrc` prints, for `source "mutt-sync --muttrc|"`.
//!
//! It has what `.mbsyncrc` knows: the folders, and which account each belongs to.
//! Hooks and keys are those of `muttrc.d/10-sync.rc`, word for word. Nothing is
//! defined twice when both are used: that file and `20-accounts.rc` each set a
//! variable in the environment, which comes here as [`Theirs`], and what they
//! define is left out.
//!
//! `set folder` is left to the user, because much else depends on it; all paths
//! here are absolute, so that they are right with any. Both clients show them
//! shortened by `$folder`.
//!
//! Does not depend on: files, processes: values in, text out.

use super::quote::{
    ControlCharacter, account_commands, comment, folder_regexp, one_folder_regexp, quoted,
};
use crate::model::{Account, Mailbox, Side, SubFolders};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The file whose hooks and keys are printed.
const SYNC_RC: &str = include_str!("../../muttrc.d/10-sync.rc");

/// The variable that `10-sync.rc` sets when it is in use.
pub const HAVE_HOOKS: &str = "MUTT_SYNC_HOOKS";
/// The variable that `20-accounts.rc` sets when it is in use.
pub const HAVE_ACCOUNTS: &str = "MUTT_SYNC_ACCOUNTS";

/// The variable that the account hooks set: the account that mutt is in.
pub const IN_ACCOUNT: &str = "MUTT_SYNC_ACCOUNT";

/// An account and its local mailboxes, both in the file's order.
#[derive(Debug, Clone, Copy)]
pub struct AccountMail<'a> {
    /// The account.
    pub account: &'a Account,
    /// Its mailboxes; those without a Maildir are skipped.
    pub mailboxes: &'a [Mailbox],
    /// The file the user keeps for it, as `--muttrc ACCOUNT` makes it; `None`
    /// where there is none, and the account is only named to mutt-sync.
    pub identity_file: Option<&'a Path>,
}

/// What mutt has already, by its environment: what the user's own files define (the value
/// of [`HAVE_HOOKS`] and [`HAVE_ACCOUNTS`] is not empty), and the account that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Theirs<'a> {
    /// `10-sync.rc` was sourced before.
    pub hooks: bool,
    /// `20-accounts.rc` was sourced before.
    pub accounts: bool,
    /// [`IN_ACCOUNT`]: what mutt's `setenv` sets reaches `source "mutt-sync --muttrc|"`
    /// (observed with mutt 2.2.12 and neomutt 20220429).
    pub in_account: Option<&'a str>,
}

/// The muttrc lines for all accounts. `home` is the user's home directory: no
/// hook ever claims all of it for an account. `exists` says whether a Maildir is
/// there: for neomutt 20220429 a folder in `mailboxes` that is not is an error, for
/// mutt it is not.
#[must_use]
pub fn muttrc(
    accounts: &[AccountMail<'_>],
    theirs: Theirs<'_>,
    home: &Path,
    exists: impl Fn(&Path) -> bool,
) -> String {
    let mut out = String::from(
        "# Printed by `mutt-sync --muttrc` from .mbsyncrc. In your muttrc:\n\
         #     source \"mutt-sync --muttrc|\"\n",
    );
    out.push_str(
        "\n# The folders, by account: its INBOX, then the rest in the order of .mbsyncrc.\n\
         # Folders that are made later: `:source \"mutt-sync --muttrc|\"` in mutt.\n",
    );
    mailboxes(&mut out, accounts, exists);
    if theirs.hooks {
        out.push_str("\n# Hooks and keys are those of your 10-sync.rc.\n");
    } else {
        out.push_str(
            "\n# Hooks and keys, as in muttrc.d/10-sync.rc; mutt-sync(1) explains them.\n\
             # They change no setting of mutt's, and the keys ask what mutt asks. What suits\n\
             # them, and shows mail in folders that are not open within 15 seconds, in place\n\
             # of 600:\n\
             #     set delete=yes sleep_time=0 timeout=15\n",
        );
        out.extend(SYNC_RC.lines().filter(|line| is_setting(line)).flat_map(|line| [line, "\n"]));
    }
    if theirs.accounts {
        out.push_str("\n# Which account a folder is of, your 20-accounts.rc says.\n");
    } else {
        account_hooks(&mut out, accounts, home);
    }
    out.push_str("\n# The folder you are in, for the key that syncs it alone.\n");
    folder_names(&mut out, accounts);
    if !theirs.accounts {
        out.push_str(
            "\n# The account just entered.\n\
             folder-hook . 'set my_entered=\"`mutt-sync -b 2>/dev/null`\"'\n",
        );
        // Read again in a running mutt, this is in the account of the open folder.
        let in_account =
            accounts.iter().find(|one| Some(one.account.name.as_str()) == theirs.in_account);
        if let Some(one) = in_account.or(accounts.first()) {
            out.push_str("\n# Where mutt starts, or is already.\n");
            match at_start(one) {
                Ok(command) => line(&mut out, &command),
                Err(why) => left_out(&mut out, "account", &one.account.name, why),
            }
        }
    }
    out
}

/// `mailboxes` lines, each Maildir once.
fn mailboxes<'a>(out: &mut String, accounts: &[AccountMail<'a>], exists: impl Fn(&Path) -> bool) {
    let of_account = |one: &AccountMail<'a>| {
        let (inboxes, others): (Vec<_>, Vec<_>) =
            one.mailboxes.iter().partition(|mailbox| mailbox.is_inbox());
        inboxes.into_iter().chain(others)
    };
    let mut seen = BTreeSet::new();
    for mailbox in accounts.iter().flat_map(of_account) {
        let Some(maildir) = &mailbox.maildir else { continue };
        if !seen.insert(maildir) {
            continue;
        }
        let Some(path) = maildir.to_str() else {
            line(out, &format!("# left out, not UTF-8: {}", comment(&maildir.to_string_lossy())));
            continue;
        };
        match quoted(path) {
            Ok(path) if exists(maildir) => line(out, &format!("mailboxes {path}")),
            Ok(path) => line(out, &format!("# not there yet: {}", comment(&path))),
            Err(why) => left_out(out, "folder", path, why),
        }
    }
}

/// A folder-hook per account: its name for mutt-sync, and its own file, if any.
fn account_hooks(out: &mut String, accounts: &[AccountMail<'_>], home: &Path) {
    out.push_str("\n# Which account a folder is of.\n");
    if accounts.iter().any(|one| one.identity_file.is_none()) {
        out.push_str(
            "# `mutt-sync --muttrc ACCOUNT >~/.config/mutt/account/ACCOUNT` gives one an\n\
             # identity: sender, Drafts, Sent, Trash. It is found there by the next start.\n",
        );
    }
    for one in accounts {
        let roots = roots(one, accounts, home);
        if roots.is_empty() {
            continue;
        }
        let pattern = folder_regexp(&roots.iter().map(String::as_str).collect::<Vec<_>>());
        match hook(&pattern, entering(one)) {
            Ok(hook) => line(out, &hook),
            Err(why) => left_out(out, "account", &one.account.name, why),
        }
    }
}

/// What is done on entering a folder of an account.
fn entering(one: &AccountMail<'_>) -> Result<String, ControlCharacter> {
    // A name that ends in `|` would be run.
    let file = one.identity_file.and_then(Path::to_str).filter(|path| !path.ends_with('|'));
    let mut commands = account_commands(&one.account.name)?.to_vec();
    // A file that is older than mutt-sync does not name the account.
    if let Some(path) = file {
        commands.push(format!("source {}", quoted(path)?));
    }
    Ok(commands.join("; "))
}

/// What is done outside of a hook. The hooks and keys above have emptied the name for F7.
fn at_start(one: &AccountMail<'_>) -> Result<String, ControlCharacter> {
    Ok(format!("{}; set my_mailbox={}", entering(one)?, quoted(&one.account.name)?))
}

/// A folder-hook per mailbox that sets its name for F7.
fn folder_names(out: &mut String, accounts: &[AccountMail<'_>]) {
    line(out, "folder-hook . 'set my_mailbox=\"$my_account\"'");
    for mailbox in accounts.iter().flat_map(|one| one.mailboxes) {
        let Some(path) = mailbox.maildir.as_deref().and_then(Path::to_str) else { continue };
        if !mailbox.addressable {
            continue;
        }
        let command =
            quoted(&mailbox.target().to_string()).map(|name| format!("set my_mailbox={name}"));
        // What cannot be quoted is listed above, and F7 then syncs the account.
        if let Ok(hook) = hook(&one_folder_regexp(path), command) {
            line(out, &hook);
        }
    }
}

/// A folder-hook line.
fn hook(
    pattern: &str,
    command: Result<String, ControlCharacter>,
) -> Result<String, ControlCharacter> {
    Ok(format!("folder-hook {} {}", quoted(pattern)?, quoted(&command?)?))
}

/// The directories that hold the account's Maildirs and no other account's, as
/// few as possible, and those where its first sync makes more, so that a folder made
/// later belongs to the account as well. Never `home` or above.
fn roots(one: &AccountMail<'_>, accounts: &[AccountMail<'_>], home: &Path) -> Vec<String> {
    let own: HashSet<&Path> = maildirs(one).collect();
    // With all directories above, so that each is a set lookup and not a search:
    // accounts with tens of thousands of mailboxes exist.
    let foreign: HashSet<&Path> = accounts
        .iter()
        .filter(|other| other.account.name != one.account.name)
        .flat_map(maildirs)
        .filter(|path| !own.contains(path))
        .flat_map(Path::ancestors)
        .collect();
    let mut below: HashMap<&Path, usize> = HashMap::new();
    for dir in maildirs(one).flat_map(Path::ancestors) {
        *below.entry(dir).or_default() += 1;
    }
    let mut seen: HashSet<&Path> = HashSet::new();
    let mut roots: Vec<&Path> = Vec::new();
    for maildir in maildirs(one) {
        // The highest directory above it that is all the account's.
        let root = maildir
            .ancestors()
            .skip(1)
            .take_while(|dir| may_be_claimed(dir, home) && !foreign.contains(dir))
            .filter(|dir| below.get(dir).is_some_and(|count| *count > 1))
            .filter(|dir| within_stores(one, dir))
            .last()
            .unwrap_or(maildir);
        if root.to_str().is_some() && seen.insert(root) {
            roots.push(root);
        }
    }
    let own_places = places(one);
    let foreign_places: Vec<PathBuf> = accounts
        .iter()
        .filter(|other| other.account.name != one.account.name)
        .flat_map(places)
        .collect();
    for place in &own_places {
        let taken = foreign.contains(place.as_path())
            || foreign_places.iter().any(|other| other.starts_with(place));
        if may_be_claimed(place, home) && !taken && seen.insert(place) {
            roots.push(place);
        }
    }
    // What lies below another root is matched by that one.
    roots.retain(|root| !root.ancestors().skip(1).any(|above| seen.contains(above)));
    roots.into_iter().filter_map(Path::to_str).map(str::to_owned).collect()
}

fn may_be_claimed(dir: &Path, home: &Path) -> bool {
    dir.parent().is_some() && !home.starts_with(dir)
}

/// The directories in which the account's channels make Maildirs: all that have a name
/// there are the account's, unless another account has the same.
fn places(one: &AccountMail<'_>) -> Vec<PathBuf> {
    let sides = one
        .account
        .channels
        .iter()
        .filter(|channel| channel.patterns.is_some())
        .flat_map(|channel| [&channel.near, &channel.far]);
    let place = |side: &Side| {
        let store = side.maildir()?;
        let verbatim = side.mailbox.is_empty() || store.subfolders == SubFolders::Verbatim;
        let place = format!("{}{}", store.path.as_deref()?, side.mailbox);
        // Path is a string put before names, not always a directory.
        let is_dir = place.starts_with('/') && place.ends_with('/');
        (verbatim && is_dir).then(|| PathBuf::from(place))
    };
    sides.filter_map(place).collect()
}

/// Whether `dir` is a place where the account's stores keep mailboxes, and not a
/// directory somewhere above them that also holds other files.
fn within_stores(one: &AccountMail<'_>, dir: &Path) -> bool {
    let mut sides = one.account.channels.iter().flat_map(|channel| [&channel.near, &channel.far]);
    sides.any(|side| {
        let Some(store) = side.maildir() else { return false };
        // Path is a string put before names, not always a directory.
        let below_path = |path: &str| {
            dir.to_str().is_some_and(|dir| dir.starts_with(path) || format!("{dir}/") == path)
        };
        store.path.as_deref().is_some_and(below_path) || dir.starts_with(&store.inbox)
    })
}

fn maildirs<'a>(one: &AccountMail<'a>) -> impl Iterator<Item = &'a Path> + use<'a> {
    one.mailboxes.iter().filter_map(|mailbox| mailbox.maildir.as_deref())
}

/// A line of `10-sync.rc` that does something here: no comment, and not the one
/// that tells us to leave its hooks out.
fn is_setting(line: &str) -> bool {
    let line = line.trim_start();
    !(line.is_empty() || line.starts_with('#') || line.starts_with("setenv MUTT_SYNC_HOOKS"))
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn left_out(out: &mut String, what: &str, name: &str, why: ControlCharacter) {
    line(out, &format!("# left out, {why} in its name: {what} {}", comment(name)));
}
