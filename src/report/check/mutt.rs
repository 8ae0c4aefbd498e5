//! What mutt knows of us, and who sends. Does not depend on: servers, runs, our own
//! state.

use std::path::{Path, PathBuf};

use super::{Checklist, Step};
use crate::mbsync_version::in_path;
use crate::mbsyncrc::Env;
use crate::model::Account;
use crate::mutt::identity::{SenderMatch, msmtp_senders, sender_for};
use crate::mutt::print::msmtprc;
use crate::os::file::small_text;

/// The steps for `accounts`, of `all` in `.mbsyncrc`.
pub fn steps(env: &Env, all: &[Account], accounts: &[&Account], report: &mut Checklist) {
    let rcs: Vec<(PathBuf, String)> = places(env)
        .into_iter()
        .filter_map(|file| small_text(&file).map(|text| (file, text)))
        .collect();
    let step = muttrc(env, &rcs);
    report.say(step);
    for step in msmtp(env, all, accounts, &mut report.names) {
        report.say(step);
    }
}

/// Where mutt and neomutt look for a user's file (their manuals, FILES).
fn places(env: &Env) -> Vec<PathBuf> {
    let config = env.config_dir();
    let in_home = [".muttrc", ".mutt/muttrc", ".neomuttrc", ".neomutt/neomuttrc"];
    let in_config = ["mutt/muttrc", "neomutt/neomuttrc", "neomutt/muttrc", "mutt/neomuttrc"];
    in_home
        .iter()
        .map(|name| env.home.join(name))
        .chain(in_config.iter().map(|name| config.join(name)))
        .collect()
}

/// A line that does something and names us.
fn names_us(text: &str) -> bool {
    lines(text).any(|line| line.contains("mutt-sync"))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#'))
}

/// Files that a muttrc sources.
fn sourced(env: &Env, text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let word = line.strip_prefix("source")?.trim();
        let word = word.trim_matches(['"', '\'']);
        if word.is_empty() || word.ends_with('|') {
            return None;
        }
        let home = env.home.display().to_string();
        let word = word.replace("$HOME", &home);
        Some(match word.strip_prefix("~/") {
            Some(rest) => env.home.join(rest),
            None => env.home.join(word),
        })
    };
    lines(text).filter_map(path).collect()
}

fn muttrc(env: &Env, rcs: &[(PathBuf, String)]) -> Step {
    const WHAT: &str = "muttrc";
    for (file, text) in rcs {
        if names_us(text) {
            return Step::good(WHAT, format!("{} calls mutt-sync", env.tilde(file)));
        }
        let by = sourced(env, text)
            .into_iter()
            .find(|file| small_text(file).is_some_and(|text| names_us(&text)));
        if let Some(by) = by {
            return Step::good(WHAT, format!("{} calls mutt-sync", env.tilde(&by)));
        }
    }
    match rcs.first() {
        Some((file, _)) => Step::warning(
            WHAT,
            format!("{} does not call mutt-sync: nothing is synced from mutt", env.tilde(file)),
            format!("add the line source \"mutt-sync --muttrc|\" to {}", env.tilde(file)),
        ),
        None => Step::note(WHAT, "no muttrc found"),
    }
}

fn msmtp(
    env: &Env,
    all: &[Account],
    accounts: &[&Account],
    names: &mut Vec<(&'static str, String)>,
) -> Vec<Step> {
    const WHAT: &str = "msmtp";
    let Some((file, text)) = msmtprc(env) else {
        return vec![Step::note(WHAT, "no msmtprc found: mail is sent in another way")];
    };
    let shown = env.tilde(&file);
    if in_path(Path::new("msmtp")).is_none() {
        return vec![Step::warning(
            WHAT,
            format!("{shown} is here, but msmtp is not"),
            "install msmtp",
        )];
    }
    let senders = msmtp_senders(&text);
    names.extend(senders.iter().map(|sender| ("sender", sender.name.clone())));
    accounts
        .iter()
        .map(|account| match sender_for(account, all, &senders) {
            Some(SenderMatch { sender, guessed }) => {
                let from = sender.from.as_deref().map(|from| format!(" from {from}"));
                let from = from.unwrap_or_default();
                let found = format!("{}: account {}{from} of {shown}", account.name, sender.name);
                if guessed {
                    Step::note(WHAT, format!("{found}, guessed by the provider"))
                } else {
                    Step::good(WHAT, found)
                }
            }
            None => Step::warning(
                WHAT,
                format!("{shown} has no account for {}", account.name),
                format!(
                    "add the lines `account {0}`, `host SERVER` and `from ADDRESS` to {shown}",
                    account.name
                ),
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::StepState;
    use super::*;
    use crate::mbsyncrc;

    #[test]
    fn a_comment_is_no_call() {
        assert!(names_us("set x\n source \"mutt-sync --muttrc|\""));
        assert!(!names_us("# source \"mutt-sync --muttrc|\""));
    }

    #[test]
    fn sourced_files_are_found() {
        let env = Env::new("/home/u", "/");
        let text =
            "source ~/.config/mutt/10-sync.rc\nsource \"$HOME/a b\"\nsource \"cmd|\"\nsource c";
        let found: Vec<String> =
            sourced(&env, text).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(found, ["/home/u/.config/mutt/10-sync.rc", "/home/u/a b", "/home/u/c"]);
    }

    #[test]
    fn another_accounts_sender_is_not_called_ones_own() {
        let dir = tempfile::tempdir().expect("directory");
        let env = Env::new(dir.path(), "/");
        let account = |name: &str, user: &str| {
            format!(
                "IMAPAccount {name}\nHost imap.gmail.com\nUser {user}\nPass x\n\n\
                 IMAPStore {name}-far\nAccount {name}\n\n\
                 MaildirStore {name}-near\nPath ~/{name}/\nInbox ~/{name}/INBOX\n\n\
                 Channel {name}\nFar :{name}-far:\nNear :{name}-near:\nPatterns *\n\n"
            )
        };
        let rc = dir.path().join(".mbsyncrc");
        let both = account("Home", "private@gmail.com") + &account("Work", "business@gmail.com");
        std::fs::write(&rc, both).expect("written");
        let config = mbsyncrc::read(&rc, &env, mbsyncrc::IsyncVersion::V1_4).expect("read");
        std::fs::write(
            dir.path().join(".msmtprc"),
            "account private\nhost smtp.gmail.com\nfrom private@gmail.com\n",
        )
        .expect("written");
        let accounts: Vec<&Account> = config.accounts.iter().collect();
        let steps = msmtp(&env, &config.accounts, &accounts, &mut Vec::new());
        let states: Vec<StepState> = steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [StepState::Good, StepState::Warning], "{steps:?}");
        let missing = steps.last().expect("a step");
        assert_eq!(missing.found, "~/.msmtprc has no account for Work");
    }
}
