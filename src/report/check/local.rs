//! An account's mail on this disk: mailboxes, Maildirs, mbsync's records. Does not
//! depend on: servers, our own state.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::permissions::{lack, make_ours, writable};
use super::{CheckContext, Checklist, Step, some};
use crate::error::ExitStatus;
use crate::mbsync_version::IsyncVersion;
use crate::model::Mailbox;
use crate::os::file;
use crate::state::held::HeldState;
use crate::state::{StateDir, clean};
use crate::text::{counted, shell_operand};
use crate::verdict::Rules;
use crate::verdict::record::{self, RecordState};

/// The steps. Gives the mailboxes that are here.
pub fn steps(context: &CheckContext<'_>, report: &mut Checklist) -> Vec<Mailbox> {
    let mailboxes = context.ground.config.local_mailboxes(context.account);
    resolution(context, &mailboxes, report);
    maildirs(context, &mailboxes, report);
    records(context, &mailboxes, report);
    disks(context, &mailboxes, report);
    mailboxes
}

/// Where Maildirs and records are: a sync has to write there.
fn disks(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    let stores = context
        .account
        .channels
        .iter()
        .filter_map(|channel| channel.near.maildir()?.path.as_deref().map(Path::new));
    let maildirs = mailboxes.iter().filter_map(|mailbox| mailbox.maildir.as_deref());
    let records = mailboxes.iter().filter_map(|mailbox| mailbox.state_file.as_deref()?.parent());
    let mut seen = BTreeSet::new();
    for dir in stores.chain(maildirs).chain(records) {
        let Ok(found) = dir.metadata() else { continue };
        if !seen.insert(found.dev()) {
            continue;
        }
        if let Some((what, by)) = lack(dir) {
            report.say(Step::bad(
                "disk",
                ExitStatus::Mailbox,
                format!("no {what} left on the disk of {}", context.tilde(dir)),
                format!("free some (see {by} {})", context.asked.env.for_shell(dir)),
            ));
        }
    }
}

fn resolution(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    const WHAT: &str = "mailboxes";
    let account = context.account;
    let channels: Vec<&str> =
        account.channels.iter().map(|channel| channel.name.as_str()).collect();
    let here = match mailboxes.len() {
        0 => "no mailbox here yet".to_owned(),
        count => format!("{} here", counted(count, "mailbox")),
    };
    let plural = if channels.len() == 1 { "channel" } else { "channels" };
    report.say(Step::good(WHAT, format!("{plural} {}: {here}", some(&channels))));
    let unnamed: Vec<String> = mailboxes
        .iter()
        .filter(|mailbox| !mailbox.addressable)
        .map(|mailbox| if mailbox.near.is_empty() { &mailbox.channel } else { &mailbox.near })
        .cloned()
        .collect();
    if !unnamed.is_empty() {
        report.say(Step::note(
            WHAT,
            format!(
                "synced only with their whole channel (mbsync takes no name for them): {}",
                some(&unnamed)
            ),
        ));
    }
    for channel in &account.channels {
        if let Err(why) = Rules::of(channel) {
            report.say(Step::note(
                WHAT,
                format!(
                    "channel {}: {why}, so it is synced when it changes at all, not only when a sync has something to do",
                    channel.name
                ),
            ));
        }
    }
}

/// The nearest directory above that exists.
fn existing_above(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|dir| dir.exists())
}

fn maildirs(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    const WHAT: &str = "Maildirs";
    let shell = |path: &Path| context.asked.env.for_shell(path);
    let mut faults: Vec<Step> = Vec::new();
    let fault = |found: String, fix: String| Step::bad(WHAT, ExitStatus::Mailbox, found, fix);
    let mut roots: Vec<PathBuf> = Vec::new();
    for side in context.account.channels.iter().flat_map(|channel| [&channel.near, &channel.far]) {
        let path = side.maildir().and_then(|store| store.path.as_deref());
        let Some(root) = path.map(PathBuf::from) else { continue };
        if roots.contains(&root) {
            continue;
        }
        // isync 1.4: "cannot open store", before any mailbox is looked at.
        if !root.is_dir() {
            let what = if root.exists() { "is not a directory" } else { "is not there" };
            let fix = if root.exists() {
                format!("mv {0} {0}.old; mkdir -p {0}", shell(&root).trim_end_matches('/'))
            } else {
                format!("mkdir -p {}", shell(&root))
            };
            let shown = context.tilde(&root);
            faults.push(fault(
                format!("{shown}, the Path of MaildirStore {}, {what}", side.store.name),
                fix,
            ));
        } else if !writable(&root) {
            faults.push(fault(
                format!("{} is not writable for you", context.tilde(&root)),
                make_ours(context, &root),
            ));
        }
        roots.push(root);
    }
    let stores_are_there = faults.is_empty();
    let mut there = 0;
    let mut incomplete = Vec::new();
    for mailbox in mailboxes {
        let Some(maildir) = mailbox.maildir.as_ref().filter(|_| stores_are_there) else { continue };
        if !maildir.exists() {
            let above = existing_above(maildir);
            if let Some(above) = above.filter(|above| !writable(above)) {
                faults.push(fault(
                    format!("{} cannot be made", context.tilde(maildir)),
                    make_ours(context, above),
                ));
            }
            continue;
        }
        // Not by joining an empty part: what is no directory does not exist with a slash.
        let below = ["cur", "new", "tmp"].map(|part| maildir.join(part));
        let parts = [std::slice::from_ref(maildir), &below].concat();
        if let Some(part) = parts.iter().find(|part| part.exists() && !part.is_dir()) {
            faults.push(fault(
                format!("{} is not a directory", context.tilde(part)),
                format!("mv {0} {0}.old && mkdir -m 700 {0}", shell(part)),
            ));
        } else if parts.iter().any(|part| !part.exists()) && writable(maildir) {
            incomplete.push(context.tilde(maildir));
        } else if let Some(part) = parts.iter().find(|part| !writable(part)) {
            faults.push(fault(
                format!("{} is not writable for you", context.tilde(part)),
                make_ours(context, part),
            ));
        } else {
            there += 1;
        }
    }
    if faults.is_empty() {
        report.say(match there {
            0 => Step::note(WHAT, "none yet; the first sync creates them"),
            _ => Step::good(WHAT, format!("{there} there, all writable")),
        });
    }
    // isync 1.4 makes what is missing, whatever Create says.
    if !incomplete.is_empty() {
        report.say(Step::note(
            WHAT,
            format!("incomplete, which the next sync repairs: {}", some(&incomplete)),
        ));
    }
    limited(report, faults);
}

/// Many of a kind are one fault, most likely.
fn limited(report: &mut Checklist, faults: Vec<Step>) {
    const MOST: usize = 5;
    let more = faults.len().saturating_sub(MOST);
    let what = faults.first().map_or("", |step| step.what);
    for fault in faults.into_iter().take(MOST) {
        report.say(fault);
    }
    if more > 0 {
        report.say(Step::note(what, format!("and {more} more like this")));
    }
}

fn records(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    const WHAT: &str = "records";
    let shell = |path: &Path| context.asked.env.for_shell(path);
    let (mut known, mut never, mut unfinished) = (0, 0, Vec::new());
    let mut faults: Vec<Step> = Vec::new();
    let fault = |found: String, fix: String| Step::bad(WHAT, ExitStatus::Mailbox, found, fix);
    let mut places: Vec<&Path> = Vec::new();
    for mailbox in mailboxes {
        let Some(file) = &mailbox.state_file else { continue };
        match record::read(file) {
            RecordState::Known(_) => known += 1,
            RecordState::NeverSynced => never += 1,
            RecordState::Unfinished => unfinished.push(mailbox.near.clone()),
            RecordState::Unreadable { why } => {
                let why = why.replace(&file.display().to_string(), &context.tilde(file));
                let fix = if file::open(file)
                    .is_err_and(|error| error.kind() != ErrorKind::InvalidInput)
                {
                    make_ours(context, file)
                } else {
                    pull_anew(context, mailbox, file)
                };
                faults.push(fault(format!("mbsync's record is not readable: {why}"), fix));
            }
        }
        // Inside the Maildir it was looked at with that.
        let place = file
            .parent()
            .filter(|_| !mailbox.maildir.as_ref().is_some_and(|maildir| file.starts_with(maildir)));
        if let Some(place) = place.filter(|place| !places.contains(place)) {
            places.push(place);
            // isync 1.4 makes the directory, but not those above it; 1.5 makes them.
            let above = match context.ground.config.version {
                IsyncVersion::V1_4 => place.parent(),
                IsyncVersion::V1_5 => existing_above(place),
            };
            if !place.is_dir() && !above.is_some_and(|above| above.is_dir() && writable(above)) {
                let fix = match above.filter(|above| above.is_dir()) {
                    Some(above) => make_ours(context, above),
                    None => format!("mkdir -p {}", shell(place)),
                };
                let shown = context.tilde(place);
                let found = format!("{shown}, where mbsync keeps its records, cannot be made");
                faults.push(fault(found, fix));
            } else if place.is_dir() && !writable(place) {
                let shown = context.tilde(place);
                faults.push(fault(
                    format!("{shown}, where mbsync keeps its records, is not writable for you"),
                    make_ours(context, place),
                ));
            }
        }
    }
    if faults.is_empty() {
        let mut parts = Vec::new();
        if known > 0 {
            parts.push(format!("{known} readable"));
        }
        if never > 0 {
            parts.push(format!("{never} not there yet (never synced)"));
        }
        if !parts.is_empty() {
            report.say(Step::good(WHAT, parts.join(", ")));
        }
    }
    if !unfinished.is_empty() {
        report.say(Step::note(
            WHAT,
            format!("an interrupted run is taken up by the next one: {}", some(&unfinished)),
        ));
    }
    limited(report, faults);
}

/// A record that is lost cannot be made again: mbsync would take every message
/// for new on both sides. So the Maildir goes with it.
fn pull_anew(context: &CheckContext<'_>, mailbox: &Mailbox, file: &Path) -> String {
    let shell = |path: &Path| context.asked.env.for_shell(path);
    let name = mailbox.near.replace('/', ".");
    let aside = |what: &str| context.asked.env.home.join(format!("{name}{what}.old"));
    let mut commands = Vec::new();
    if let Some(maildir) = &mailbox.maildir {
        commands.push(format!("mv {} {}", shell(maildir), shell(&aside(""))));
        if !file.starts_with(maildir) {
            commands.push(format!("mv {} {}", shell(file), shell(&aside(".record"))));
        }
    }
    let dir = StateDir::existing(context.asked.base, &context.account.name).silent();
    // A mailbox that has left the place where a run has seen it is held.
    let is_held =
        context.settings().hold && HeldState::read(&dir).places.contains_key(&clean::key(mailbox));
    let name = shell_operand(&mailbox.target().to_string());
    commands.push(if is_held {
        format!("mutt-sync --resync {name}")
    } else {
        format!("mutt-sync {name}")
    });
    format!("restore it from a backup, or download the mailbox again: {}", commands.join(" && "))
}
