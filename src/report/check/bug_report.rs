//! `--check --report`: what a bug report needs, without names of people, hosts,
//! mailboxes and directories.
//!
//! Nothing is shown because it looks harmless. A text of a step is shown word by word,
//! as far as the words are this program's own (`messages.txt` has all of them) or the
//! system's; known names become pseudonyms before that, because a mailbox may be
//! called `server`. All the rest is versions, numbers, and words from fixed lists.
//!
//! Does not depend on: how a step was found.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Asked, CheckInputs, Checklist, Part, PartKind, Step, render};
use crate::imap::login::Mechanism;
use crate::mbsync_version;
use crate::mbsyncrc;
use crate::model::{Account, Mailbox};
use crate::os::{file, file_system, procfs};
use crate::settings::Settings;
use crate::state::StateDir;
use crate::state::backoff::Backoff;
use crate::state::last_run::{self, LastRun};
use crate::sync::{held, refused};
use crate::text::{Pseudonyms, counted};

/// Every text that the program prints, which a test keeps complete.
const MESSAGES: &str = include_str!("../../messages.txt");

/// Words of the system's, of OpenSSL's and of servers' that say what went wrong.
const FOREIGN: &str = "Connection refused reset by peer Network is unreachable No route to host \
    such file or directory Permission denied timed out Broken pipe Input/output error Address \
    already in use Too many open files Name or service not known Temporary failure in name \
    resolution space left on device Operation permitted Read-only system certificate verify \
    failed self-signed expired handshake unexpected end of eof wrong version number unsupported \
    protocol tls alert internal Disk quota exceeded Not a directory Is Resource temporarily \
    unavailable AUTHENTICATIONFAILED AUTHORIZATIONFAILED UNAVAILABLE OVERQUOTA LIMIT NO BAD BYE OK";

/// Capabilities that are shown: IANA's registry, and what large servers have beside it.
const CAPABILITIES: &str = "ACL ANNOTATE-EXPERIMENT-1 APPENDLIMIT BINARY CATENATE CHILDREN \
    COMPRESS=DEFLATE CONDSTORE CONTEXT=SEARCH CONTEXT=SORT CONVERT CREATE-SPECIAL-USE ENABLE \
    ESEARCH ESORT FILTERS I18NLEVEL=1 I18NLEVEL=2 ID IDLE IMAP4 IMAP4REV1 IMAP4REV2 \
    IMAPSIEVE= INPROGRESS JMAPACCESS LANGUAGE LIST-EXTENDED LIST-METADATA LIST-MYRIGHTS \
    LIST-STATUS LITERAL+ LITERAL- LOGIN-REFERRALS LOGINDISABLED MAILBOX-REFERRALS MESSAGELIMIT \
    METADATA METADATA-SERVER MOVE MULTIAPPEND MULTISEARCH NAMESPACE NOTIFY OBJECTID PARTIAL \
    PREVIEW PREVIEW=FUZZY QRESYNC QUOTA QUOTASET REPLACE RIGHTS= SASL-IR SAVEDATE \
    SEARCH=FUZZY SEARCHRES SNIPPET=FUZZY SORT SORT=DISPLAY SPECIAL-USE STARTTLS STATUS=SIZE \
    THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS UIDBATCHES UIDONLY UIDPLUS UNAUTHENTICATE \
    UNSELECT URL-PARTIAL URLAUTH URLAUTH=BINARY UTF8=ACCEPT UTF8=ONLY WITHIN X-GM-EXT-1 \
    XAPPLEPUSHSERVICE XLIST XYMHIGHESTMODSEQ";

/// The files whose lines are shown, in the home directory; without the signs before them.
const FILES: [&str; 3] = ["mbsyncrc", "config/isyncrc", "config/mutt-sync/config.toml"];

/// Long lists are broken here.
const WIDTH: usize = 77;

/// Most mailboxes of an account that are listed.
const MOST: usize = 200;

/// What stands for words that are not shown.
const HIDDEN: &str = "...";

/// The report.
pub fn text(
    asked: &Asked<'_>,
    ground: Option<&CheckInputs>,
    accounts: &[&Account],
    report: &Checklist,
) -> String {
    let mut names = Pseudonyms::default();
    let shape = configuration(asked, &mut names);
    let mailboxes = known_names(asked, ground, report, &mut names);
    let mut out = versions(asked);
    section(&mut out, ".mbsyncrc", &shape);
    section(&mut out, "config.toml", &all_settings(asked, &mut names));
    for account in accounts {
        let title = names.of("account", &account.name);
        let local = mailboxes.get(account.name.as_str()).map_or(&[][..], |all| all);
        let settings = asked.settings.as_ref().map(|all| all.of(&account.name)).ok();
        let part = report.parts.iter().find(|part| part.title == account.name);
        section(&mut out, &title, &state(asked, account, settings, local, part, &mut names));
    }
    let vocabulary = vocabulary();
    let parts: Vec<Part> =
        report.parts.iter().map(|part| redacted(part, &names, &vocabulary)).collect();
    out.push('\n');
    let style = render::Style { marks: false, colour: false, quiet: false };
    for part in &parts {
        for (at, step) in part.steps.iter().enumerate() {
            out.push_str(&render::text((at == 0).then_some(&*part.title), step, style));
        }
    }
    out.push_str(&render::summary(&parts, style));
    out
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    let _ = writeln!(out, "\n{title}");
    for line in lines {
        out.push_str(if line.is_empty() { "" } else { "  " });
        let _ = writeln!(out, "{line}");
    }
}

/// The shape of mbsync's file, also of one that mbsync refuses.
fn configuration(asked: &Asked<'_>, names: &mut Pseudonyms) -> Vec<String> {
    let Ok(settings) = &asked.settings else { return vec!["not read".into()] };
    let program = &settings.general.mbsync;
    let version = mbsync_version::of_mbsync(program, Path::new("/dev/null"));
    let named = asked.mbsyncrc.or(settings.general.mbsyncrc.as_deref());
    let file = mbsyncrc::file_of(named, asked.env, version).ok();
    match file.and_then(|file| mbsyncrc::text(&file).ok()) {
        Some(text) => {
            let mut lines = mbsyncrc::shape(&text, names);
            lines.truncate(lines.iter().rposition(|line| !line.is_empty()).map_or(0, |at| at + 1));
            lines
        }
        None => vec!["not read".into()],
    }
}

/// Notes every other name that a step may have, and gives the mailboxes of each account.
fn known_names<'g>(
    asked: &Asked<'_>,
    ground: Option<&'g CheckInputs>,
    report: &Checklist,
    names: &mut Pseudonyms,
) -> BTreeMap<&'g str, Vec<Mailbox>> {
    let mut mailboxes = BTreeMap::new();
    for account in ground.iter().flat_map(|ground| &ground.config.accounts) {
        names.of("account", &account.name);
        let local = ground.map(|ground| ground.config.local_mailboxes(account)).unwrap_or_default();
        for mailbox in &local {
            for name in [&mailbox.near, &mailbox.far, &mailbox.name] {
                names.of("box", name);
            }
            if let Some(maildir) = &mailbox.maildir {
                names.of("path", &asked.env.tilde(maildir));
            }
        }
        mailboxes.insert(&*account.name, local);
    }
    for (kind, name) in &report.names {
        names.of(kind, name);
    }
    for name in asked.settings.iter().flat_map(|file| file.accounts.keys()) {
        names.of("account", name);
    }
    for name in asked.names {
        names.of("name", name);
    }
    let login = asked.env.home.file_name().and_then(|name| name.to_str());
    let machine = procfs::sysctl("kernel.hostname");
    for name in login.into_iter().chain(machine.as_deref()) {
        names.of("name", name);
    }
    mailboxes
}

/// The programs and the system.
fn versions(asked: &Asked<'_>) -> String {
    let mut out = format!("mutt-sync {}", crate::VERSION);
    let mbsync = asked.settings.as_ref().map(|file| &file.general.mbsync);
    let mbsync =
        mbsync.ok().and_then(|program| mbsync_version::version(program, Path::new("/dev/null")));
    let found = [
        ("mbsync", mbsync),
        ("mutt", mbsync_version::of_program("mutt", "-v")),
        ("neomutt", mbsync_version::of_program("neomutt", "-v")),
        ("msmtp", mbsync_version::of_program("msmtp", "--version")),
        ("OpenSSL", openssl::version::version().split(' ').nth(1).map(str::to_owned)),
        ("glibc", mbsync_version::of_program("getconf", "GNU_LIBC_VERSION")),
        ("Linux", procfs::sysctl("kernel.osrelease")),
    ];
    for (program, version) in found {
        // A kernel of one's own may be called after its machine.
        let plain = |c: char| c.is_ascii_digit() || c == '.';
        let version = version.map(|version| version.chars().take_while(|c| plain(*c)).collect());
        let version = version.filter(|version: &String| !version.is_empty());
        let _ = write!(out, ", {program} {}", version.as_deref().unwrap_or("none"));
    }
    let _ = writeln!(out, ", {}, {}", std::env::consts::ARCH, distribution());
    out
}

/// `debian 12` (os-release(5)).
fn distribution() -> String {
    let places = ["/etc/os-release", "/usr/lib/os-release"];
    let text = places.iter().find_map(|place| file::read_text(Path::new(place), 1 << 16).ok());
    let text = text.unwrap_or_default();
    let value = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        let value = value.trim_matches(['"', '\'']);
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        plain.then(|| value.to_owned())
    };
    [value("ID"), value("VERSION_ID")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn all_settings(asked: &Asked<'_>, names: &mut Pseudonyms) -> Vec<String> {
    match &asked.settings {
        Ok(file) => {
            let general = numbers(&file.general);
            let accounts = file.accounts.iter().map(|(name, settings)| {
                let differs = numbers(settings).into_iter().filter(|each| !general.contains(each));
                let differs = differs.collect::<Vec<_>>().join(", ");
                format!("[account.{}] {differs}", names.of("account", name))
            });
            render::broken(&general.join(", "), WIDTH).into_iter().chain(accounts).collect()
        }
        Err(_) => vec!["not read".into()],
    }
}

/// The settings: of what is no number, how many words it has.
fn numbers(settings: &Settings) -> Vec<String> {
    let duration = |value: Duration| humantime::format_duration(value).to_string();
    let path = |value: bool| if value { "set" } else { "not set" }.to_owned();
    let words = |value: &[String]| counted(value.len(), "word");
    let all = [
        ("mbsyncrc", path(settings.mbsyncrc.is_some())),
        ("mbsync", path(settings.mbsync != Settings::default().mbsync)),
        ("throttle", duration(settings.throttle)),
        ("burst", settings.burst.to_string()),
        ("every", duration(settings.every)),
        ("full_every", duration(settings.full_every)),
        ("settle", duration(settings.settle)),
        ("retry", duration(settings.retry)),
        ("retry_max", duration(settings.retry_max)),
        ("connections", settings.connections.to_string()),
        ("sweep", duration(settings.sweep)),
        ("stall", duration(settings.stall)),
        ("prompt", settings.prompt.to_string()),
        ("handover", settings.handover.to_string()),
        ("changedsince", settings.changedsince.to_string()),
        ("hold", settings.hold.to_string()),
        ("hold_except", words(&settings.hold_except)),
        ("after_sync", words(&settings.after_sync)),
        ("new_mail", words(&settings.new_mail)),
        ("trigger", path(settings.trigger.is_some())),
        ("boxes", words(&settings.boxes)),
    ];
    all.into_iter().map(|(name, value)| format!("{name} {value}")).collect()
}

/// An account: where its files are, what its server can, how the last run ended, and
/// how much there is in each mailbox.
fn state(
    asked: &Asked<'_>,
    account: &Account,
    settings: Option<&Settings>,
    mailboxes: &[Mailbox],
    part: Option<&Part>,
    names: &mut Pseudonyms,
) -> Vec<String> {
    let dir = StateDir::existing(asked.base, &account.name).silent();
    let mut disks: Vec<String> =
        mailboxes.iter().filter_map(|mailbox| file_system(mailbox.maildir.as_deref()?)).collect();
    disks.sort();
    disks.dedup();
    let disks = if disks.is_empty() { "none".to_owned() } else { disks.join(" ") };
    let state = file_system(dir.path()).unwrap_or_else(|| "none".into());
    let mut lines = vec![format!("Maildirs on {disks}, state on {state}")];
    let last: Option<LastRun> = dir.read_json(last_run::FILE);
    lines.push(match last {
        Some(last) => format!(
            "last run: {} so far, exit status {}, {} ms, {}",
            last.runs,
            last.code,
            last.took,
            counted(last.changes.len(), "changed mailbox")
        ),
        None => "never synced".to_owned(),
    });
    if let Some(backoff) = Backoff::read(&dir) {
        lines.push(format!(
            "backoff: {}, exit status {}, costly {}, password command {}",
            counted(backoff.failures, "failure"),
            backoff.code,
            backoff.costly,
            backoff.password_command
        ));
    }
    let offered = match part.map_or(&[][..], |part| &part.capabilities) {
        [] => "capabilities: not reached".to_owned(),
        words => format!("capabilities: {}", capabilities(words)),
    };
    lines.extend(render::broken(&offered, WIDTH));
    let held = settings.map(|settings| held::of_account(account, settings, &dir));
    let held = held.unwrap_or_default();
    let refused = refused::of_account(account, &dir);
    // What is held may have lost its Maildir, and is no local mailbox any more.
    let local = mailboxes.iter().map(|it| (it.target().to_string(), it.maildir.as_deref()));
    let known: BTreeMap<String, Option<&Path>> = local.collect();
    let names_of = held.iter().map(|it| &it.name).chain(refused.iter().map(|it| &it.name));
    let others =
        names_of.filter(|name| !known.contains_key(*name)).map(|name| (name.clone(), None));
    let all: BTreeMap<String, Option<&Path>> = others.chain(known.clone()).collect();
    for (target, maildir) in all.iter().take(MOST) {
        let held = held.iter().filter(|it| it.name == *target);
        let held: Vec<String> =
            held.map(|it| format!(", held: {:?} ({} of {})", it.what, it.count, it.of)).collect();
        let refused = refused.iter().filter(|it| it.name == *target);
        let refused: Vec<String> =
            refused.map(|it| format!(", refused: {:?} ({})", it.what, it.count)).collect();
        let messages = counted(messages(*maildir), "message");
        let mailbox = target.split_once(':').map_or("(all)", |(_, mailbox)| mailbox);
        let name = names.of("box", mailbox);
        lines.push(format!("{name}: {messages}{}{}", held.concat(), refused.concat()));
    }
    if let Some(more) = all.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(format!("and {}", counted(more, "more mailbox")));
    }
    lines
}

/// How many files there are.
fn messages(maildir: Option<&Path>) -> usize {
    let parts: Vec<PathBuf> =
        maildir.iter().flat_map(|dir| ["cur", "new"].map(|part| dir.join(part))).collect();
    parts.iter().filter_map(|dir| Some(std::fs::read_dir(dir).ok()?.count())).sum()
}

/// The kind of file system, of what exists of the path.
fn file_system(path: &Path) -> Option<String> {
    path.ancestors().find_map(|path| file_system::kind(path).ok())
}

/// Those that are known; how many there are beside them.
fn capabilities(words: &[String]) -> String {
    let known: HashSet<&str> = CAPABILITIES.split_whitespace().collect();
    let shown = |word: &&String| {
        let number = |after: &str| after.bytes().all(|byte| byte.is_ascii_digit());
        known.contains(word.as_str())
            || word.strip_prefix("AUTH=").is_some_and(Mechanism::is_known)
            || word.strip_prefix("APPENDLIMIT=").is_some_and(number)
    };
    let mut out: Vec<String> = words.iter().filter(shown).cloned().collect();
    if let Some(others) = words.len().checked_sub(out.len()).filter(|others| *others > 0) {
        out.push(format!("and {}", counted(others, "other")));
    }
    out.join(" ")
}

/// The words that the texts of steps are made of.
fn vocabulary() -> HashSet<&'static str> {
    let lists = [FOREIGN, CAPABILITIES].into_iter().chain(FILES);
    let words = MESSAGES.lines().chain(lists).flat_map(str::split_whitespace);
    words.map(core).filter(|word| !word.is_empty() && !word.contains(['{', '}'])).collect()
}

/// A word without the signs around it.
fn core(word: &str) -> &str {
    word.trim_matches(|c: char| c.is_ascii_punctuation() && !"-+*".contains(c))
}

fn redacted(part: &Part, names: &Pseudonyms, vocabulary: &HashSet<&str>) -> Part {
    let own = |text: &str| own_words(&names.replace(text), names, vocabulary);
    let step = |step: &Step| Step {
        found: own(&step.found),
        fix: step.fix.as_deref().map(own),
        ..step.clone()
    };
    let is_ours = matches!(part.kind, PartKind::All | PartKind::Mutt);
    Part {
        kind: part.kind,
        title: if is_ours { part.title.clone() } else { own(&part.title) },
        steps: part.steps.iter().map(step).collect(),
        capabilities: vec![],
    }
}

/// The text with only the words that are shown to anybody.
fn own_words(text: &str, names: &Pseudonyms, vocabulary: &HashSet<&str>) -> String {
    let is_shown = |word: &str| {
        let core = core(word);
        let digits = |text: &str| {
            (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        // An address has four parts.
        let is_number = core.split('.').all(digits) && core.split('.').count() < 4;
        let plural = ["es", "s"].into_iter().filter_map(|end| core.strip_suffix(end));
        // Where a user is sent to.
        let line = core.rsplit_once(':').filter(|(_, line)| digits(line)).map(|(file, _)| file);
        (core.is_empty() && word.is_ascii())
            || core.split([':', ',']).all(|part| part == "INBOX" || names.has(part))
            || vocabulary.contains(core)
            || plural.into_iter().any(|one| vocabulary.contains(one))
            || is_number
            || line.is_some_and(|file| FILES.contains(&file))
    };
    let mut out: Vec<&str> = Vec::new();
    for word in text.split(' ') {
        if is_shown(word) {
            out.push(word);
        } else if out.last() != Some(&HIDDEN) {
            out.push(HIDDEN);
        }
    }
    out.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KEYS;

    #[test]
    fn every_setting_is_told() {
        let told = numbers(&Settings::default()).join("\n");
        for key in &KEYS {
            assert!(
                told.lines().any(|line| line.starts_with(&format!("{} ", key.name))),
                "{key:?}"
            );
        }
    }

    #[test]
    fn a_text_keeps_the_words_of_this_program() {
        let mut names = Pseudonyms::default();
        names.of("account", "server");
        let vocabulary = vocabulary();
        let own = |text: &str| own_words(&names.replace(text), &names, &vocabulary);
        for (text, shown) in [
            (
                "server: Connection refused (after 0.4 s)",
                "account-1: Connection refused (after 0.4 s)",
            ),
            ("imap.ann.example is 192.0.2.7", "... is ..."),
            ("~/.mbsyncrc:12: `Ann` has no value", "~/.mbsyncrc:12: ... has no value"),
            ("~/Ann/.mbsyncrc:12: is not there", "... is not there"),
            ("~/.Ann/mbsyncrc:12: is not there", "... is not there"),
            ("login refused: ann bob carol", "login refused: ..."),
        ] {
            assert_eq!(own(text), shown, "{text}");
        }
    }

    #[test]
    fn capabilities_are_those_of_a_list() {
        let words =
            ["IDLE", "AUTH=PLAIN", "AUTH=ANN", "APPENDLIMIT=99", "X-ANN", "APPENDLIMIT=ANN"];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        assert_eq!(capabilities(&words), "IDLE AUTH=PLAIN APPENDLIMIT=99 and 3 others");
    }
}
