//! An account on this disk: its mailboxes, mbsync's records, our own state.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access};
use serde::de::DeserializeOwned;

use super::{Report, Scene, Step, counted, for_shell, some};
use crate::account::{Mailbox, StoreKind, Want};
use crate::outcome::Exit;
use crate::state::last::{self, Last};
use crate::state::lock::Lock;
use crate::state::retry::{self, Retry};
use crate::state::seen;
use crate::state::{StateDir, want};
use crate::sync::disk::short;
use crate::verdict::syncstate::{self, State};
use crate::verdict::{Fingerprint, Rules, Seen};

/// The steps. Gives the mailboxes that are here.
pub fn steps(scene: &Scene<'_>, report: &mut Report) -> Vec<Mailbox> {
    let mailboxes = scene.ground.config.local_mailboxes(scene.account);
    resolution(scene, &mailboxes, report);
    maildirs(scene, &mailboxes, report);
    records(scene, &mailboxes, report);
    state(scene, report);
    mailboxes
}

fn resolution(scene: &Scene<'_>, mailboxes: &[Mailbox], report: &mut Report) {
    const WHAT: &str = "mailboxes";
    let account = scene.account;
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

/// What one needs of a directory to keep mail in it.
fn writable(dir: &Path) -> bool {
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// How to make a directory ours.
fn make_ours(scene: &Scene<'_>, dir: &Path) -> String {
    let path = for_shell(scene.asked.env, dir);
    let mine = fs::metadata(dir).is_ok_and(|found| {
        std::os::unix::fs::MetadataExt::uid(&found) == rustix::process::geteuid().as_raw()
    });
    if mine { format!("chmod u+rwx {path}") } else { format!("sudo chown -R \"$(id -un)\" {path}") }
}

/// The nearest directory above that exists.
fn existing_above(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|dir| dir.exists())
}

fn maildirs(scene: &Scene<'_>, mailboxes: &[Mailbox], report: &mut Report) {
    const WHAT: &str = "Maildirs";
    let shell = |path: &Path| for_shell(scene.asked.env, path);
    let mut faults: Vec<Step> = Vec::new();
    let fault = |found: String, mend: String| Step::bad(WHAT, Exit::Mailbox, found, mend);
    let mut roots: Vec<PathBuf> = Vec::new();
    for side in scene.account.channels.iter().flat_map(|channel| [&channel.near, &channel.far]) {
        let StoreKind::Maildir(store) = &side.store.kind else { continue };
        let Some(root) = store.path.as_deref().map(PathBuf::from) else { continue };
        if roots.contains(&root) {
            continue;
        }
        // isync 1.4: "cannot open store", before any mailbox is looked at.
        if !root.is_dir() {
            let what = if root.exists() { "is not a directory" } else { "is not there" };
            let mend = if root.exists() {
                format!("mv {0} {0}.old; mkdir -p {0}", shell(&root).trim_end_matches('/'))
            } else {
                format!("mkdir -p {}", shell(&root))
            };
            let shown = scene.shown(&root);
            faults.push(fault(
                format!("{shown}, the Path of MaildirStore {}, {what}", side.store.name),
                mend,
            ));
        } else if !writable(&root) {
            faults.push(fault(
                format!("{} is not writable for you", scene.shown(&root)),
                make_ours(scene, &root),
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
                    format!("{} cannot be made", scene.shown(maildir)),
                    make_ours(scene, above),
                ));
            }
            continue;
        }
        let parts = ["", "cur", "new", "tmp"].map(|part| maildir.join(part));
        if let Some(part) = parts.iter().find(|part| part.exists() && !part.is_dir()) {
            faults.push(fault(
                format!("{} is not a directory", scene.shown(part)),
                format!("mv {0} {0}.old && mkdir -m 700 {0}", shell(part)),
            ));
        } else if parts.iter().any(|part| !part.exists()) && writable(maildir) {
            incomplete.push(scene.shown(maildir));
        } else if let Some(part) = parts.iter().find(|part| !writable(part)) {
            faults.push(fault(
                format!("{} is not writable for you", scene.shown(part)),
                make_ours(scene, part),
            ));
        } else {
            there += 1;
        }
    }
    if faults.is_empty() {
        report.say(match there {
            0 => Step::note(WHAT, "none yet; the first sync makes them"),
            _ => Step::good(WHAT, format!("{there} there, all writable")),
        });
    }
    // isync 1.4 makes what is missing, whatever Create says.
    if !incomplete.is_empty() {
        report.say(Step::note(
            WHAT,
            format!("not whole, which the next sync mends: {}", some(&incomplete)),
        ));
    }
    limited(report, faults);
}

/// Many of a kind are one fault, most likely.
fn limited(report: &mut Report, faults: Vec<Step>) {
    const MOST: usize = 5;
    let more = faults.len().saturating_sub(MOST);
    let what = faults.first().map_or("", |step| step.what);
    for fault in faults.into_iter().take(MOST) {
        report.say(fault);
    }
    if more > 0 {
        report.say(Step::note(what, format!("and {more} more of the kind")));
    }
}

fn records(scene: &Scene<'_>, mailboxes: &[Mailbox], report: &mut Report) {
    const WHAT: &str = "records";
    let shell = |path: &Path| for_shell(scene.asked.env, path);
    let (mut known, mut never, mut unfinished) = (0, 0, Vec::new());
    let mut faults = Vec::new();
    let mut places: Vec<&Path> = Vec::new();
    for mailbox in mailboxes {
        let Some(file) = &mailbox.state_file else { continue };
        match syncstate::read(file) {
            State::Known(_) => known += 1,
            State::NeverSynced => never += 1,
            State::Unfinished => unfinished.push(mailbox.near.clone()),
            State::Unreadable { why } => {
                let why = why.replace(&file.display().to_string(), &scene.shown(file));
                let mend = if fs::File::open(file).is_err() {
                    make_ours(scene, file)
                } else {
                    pull_anew(scene, mailbox, file)
                };
                faults.push(Step::bad(
                    WHAT,
                    Exit::Mailbox,
                    format!("mbsync's record is not readable: {why}"),
                    mend,
                ));
            }
        }
        // Inside the Maildir it was looked at with that.
        let place = file
            .parent()
            .filter(|_| !mailbox.maildir.as_ref().is_some_and(|maildir| file.starts_with(maildir)));
        if let Some(place) = place.filter(|place| !places.contains(place)) {
            places.push(place);
            // mbsync makes the directory, but not those above it.
            if !place.is_dir() && !place.parent().is_some_and(writable) {
                faults.push(Step::bad(
                    WHAT,
                    Exit::Mailbox,
                    format!(
                        "{}, where mbsync keeps its records, cannot be made",
                        scene.shown(place)
                    ),
                    format!("mkdir -p {}", shell(place)),
                ));
            } else if place.is_dir() && !writable(place) {
                faults.push(Step::bad(
                    WHAT,
                    Exit::Mailbox,
                    format!(
                        "{}, where mbsync keeps its records, is not writable for you",
                        scene.shown(place)
                    ),
                    make_ours(scene, place),
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
fn pull_anew(scene: &Scene<'_>, mailbox: &Mailbox, file: &Path) -> String {
    let shell = |path: &Path| for_shell(scene.asked.env, path);
    let name = mailbox.near.replace('/', ".");
    let aside = |what: &str| scene.asked.env.home.join(format!("{name}{what}.old"));
    let mut commands = Vec::new();
    if let Some(maildir) = &mailbox.maildir {
        commands.push(format!("mv {} {}", shell(maildir), shell(&aside(""))));
        if !file.starts_with(maildir) {
            commands.push(format!("mv {} {}", shell(file), shell(&aside(".record"))));
        }
    }
    format!("restore it from a backup, or have the mailbox pulled anew: {}", commands.join(" && "))
}

/// Ours, under `XDG_STATE_HOME`.
fn state(scene: &Scene<'_>, report: &mut Report) {
    let dir = StateDir::existing(scene.asked.base, &scene.account.name);
    if !state_directory(scene, &dir, report) {
        report.out_of_reach(&["lock", "throttle", "waiter", "requests"]);
        return;
    }
    files(scene, &dir, report);
    let lock = dir.file("lock");
    let running = Lock::is_held(&lock);
    report.say(if running {
        let who = Lock::run_under(&lock)
            .map(|run| format!(", mbsync is process {}", run.pid.as_raw_nonzero()))
            .unwrap_or_default();
        Step::note("lock", format!("a sync is under way{who}"))
    } else {
        Step::good("lock", "free")
    });
    pauses(scene, &dir, report);
    let waiter = Lock::is_held(&dir.file("waiter.lock"));
    let name = &scene.account.name;
    report.say(if waiter {
        Step::good("waiter", "one is alive")
    } else {
        Step::note(
            "waiter",
            format!("none; nothing syncs {name} unasked (mutt-sync --wait {name} does)"),
        )
    });
    let attended = running || waiter || Lock::is_held(&dir.file("queue.lock"));
    requests(scene, &dir, attended, report);
}

fn state_directory(scene: &Scene<'_>, dir: &StateDir, report: &mut Report) -> bool {
    const WHAT: &str = "state";
    let path = dir.path();
    let parts = [path.to_owned(), dir.file("want"), dir.file("run")];
    let mend = |dir: &Path| {
        let mend = make_ours(scene, dir);
        format!("{mend} (or set XDG_STATE_HOME to a place that is yours)")
    };
    for part in &parts {
        if part.is_dir() && !writable(part) {
            report.say(Step::bad(
                WHAT,
                Exit::Config,
                format!("{} is not writable for you", scene.shown(part)),
                mend(part),
            ));
            return false;
        }
        if part.is_dir() {
            continue;
        }
        let in_the_way = part.ancestors().find(|above| above.symlink_metadata().is_ok());
        match in_the_way {
            Some(above) if !above.is_dir() => {
                let shell = for_shell(scene.asked.env, above);
                report.say(Step::bad(
                    WHAT,
                    Exit::Config,
                    format!("{} is in the way of our state directory", scene.shown(above)),
                    format!("mv {shell} {shell}.old"),
                ));
                return false;
            }
            Some(above) if !writable(above) => {
                report.say(Step::bad(
                    WHAT,
                    Exit::Config,
                    format!("{} cannot be made", scene.shown(part)),
                    mend(above),
                ));
                return false;
            }
            _ => {}
        }
    }
    let shown = scene.shown(path);
    report.say(if path.is_dir() {
        Step::good(WHAT, shown)
    } else {
        Step::good(WHAT, format!("{shown} is made when it is needed"))
    });
    true
}

/// Files that do not parse count as absent.
fn files(scene: &Scene<'_>, dir: &StateDir, report: &mut Report) {
    fn parses<T: DeserializeOwned>(text: &[u8]) -> bool {
        serde_json::from_slice::<T>(text).is_ok()
    }
    type Boxes<T> = std::collections::BTreeMap<String, T>;
    let all: [(&str, fn(&[u8]) -> bool); 4] = [
        (last::FILE, parses::<Last>),
        (retry::FILE, parses::<Retry>),
        (seen::FILE, parses::<Boxes<Seen>>),
        (seen::STUCK, parses::<Boxes<Fingerprint>>),
    ];
    for (name, parses) in all {
        let file = dir.file(name);
        let Ok(text) = fs::read(&file) else { continue };
        if !parses(&text) {
            report.say(Step::warning(
                "state",
                format!("{} does not parse and is ignored", scene.shown(&file)),
                format!("rm {}", for_shell(scene.asked.env, &file)),
            ));
        }
    }
}

fn pauses(scene: &Scene<'_>, dir: &StateDir, report: &mut Report) {
    let now = SystemTime::now();
    let settings = scene.settings();
    let stamp = fs::metadata(dir.file("throttle")).and_then(|found| found.modified()).ok();
    let wait = settings.rate().wait(stamp, now);
    report.say(if wait.is_zero() {
        Step::good("throttle", "open: a sync may start now")
    } else {
        Step::note("throttle", format!("in force for another {}", short(wait)))
    });
    let retry: Option<Retry> =
        fs::read(dir.file(retry::FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let wait = settings.patience().wait(retry.as_ref(), now);
    if let Some(retry) = retry.filter(|_| !wait.is_zero()) {
        let step = backoff(&scene.account.name, &retry, wait);
        report.say(step);
    }
}

fn backoff(name: &str, retry: &Retry, wait: Duration) -> Step {
    let times = counted(usize::try_from(retry.failures).unwrap_or(usize::MAX), "time");
    Step::warning(
        "backoff",
        format!(
            "failed {times} in a row, not tried unasked for another {}: {}",
            short(wait),
            retry.text
        ),
        format!("mutt-sync --force {name}"),
    )
}

fn requests(scene: &Scene<'_>, dir: &StateDir, attended: bool, report: &mut Report) {
    const WHAT: &str = "requests";
    let names: Vec<String> = want::all(dir)
        .iter()
        .map(|want| match want {
            Want::Account => "everything".to_owned(),
            Want::Channel(channel) => channel.clone(),
            Want::Mailbox { channel, name } => format!("{channel}:{name}"),
        })
        .collect();
    report.say(match (&names[..], attended) {
        ([], _) => Step::good(WHAT, "none standing"),
        (names, true) => Step::note(WHAT, format!("to be served: {}", some(names))),
        (names, false) => Step::warning(
            WHAT,
            format!("asked for, and nobody is at it: {}", some(names)),
            format!("mutt-sync --force {}", scene.account.name),
        ),
    });
}
