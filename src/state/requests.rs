//! Requests on disk: one file for each mailbox, channel or account asked for.
//!
//! `want/X` is pending until a run that started after it has succeeded. The
//! holder of the account's lock moves it to `run/X` before mbsync starts. On
//! success it removes the file; otherwise it puts it back, marked with the
//! failure. What the next holder finds in `run/` was left by a crash, and is
//! still pending.
//!
//! An empty file is a fresh request; a marked one waits until its backoff is
//! over, or until a wider run serves it too. A request made again is fresh again.
//! Where a full disk has no room for a mark, an empty file bears it in its mtime.
//! Making one is a single open(2): if the file exists already, the holder has
//! yet to move it, and the run starts after that.
//!
//! The file `urgent` beside them means: do not throttle (`--force`). More files in the
//! directory, which move with the requests, say how they are to be served: see [`Marks`].
//!
//! Does not depend on: locks, mbsync, when a run is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW, futimens, renameat_with};

use super::backoff::{BackoffPolicy, seconds};
use super::{StateDir, names};
use crate::model::Target;
use crate::os::file;

/// Longer than a failure mark ever is.
const LONGEST_MARK: u64 = 4096;
/// Most failures that an mtime tells of.
const MOST_FAILURES: u32 = 1000;

/// The state of a request, as the holder of the lock sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestState {
    /// No run that started after it has ended yet.
    Fresh,
    /// The last run for it failed.
    Failed,
    /// A run that started after it has succeeded.
    Served,
}

/// A failure noted in a request's file, with the time of the next automatic try.
struct FailureMark {
    /// Failures in a row.
    failures: u32,
    /// When it failed, in seconds since the epoch.
    since: u64,
    /// When it may be tried again, likewise.
    until: u64,
}

impl FailureMark {
    fn parse(text: &str) -> Option<FailureMark> {
        let mut fields = text.split_ascii_whitespace();
        let failures = fields.next()?.parse().ok()?;
        let mut second = || fields.next()?.parse().ok();
        Some(FailureMark { failures, since: second()?, until: second()? })
    }

    /// The mark in the mtime of an empty file, which is later than its ctime by that alone:
    /// in seconds that of the next try, in nanoseconds the number of failures.
    fn of_mtime(found: &fs::Metadata) -> Option<FailureMark> {
        let is_later = (found.mtime(), found.mtime_nsec()) > (found.ctime(), found.ctime_nsec());
        let failures = u32::try_from(found.mtime_nsec()).ok().filter(|_| is_later)?;
        // No mark: the clock was set back.
        let failures = Some(failures).filter(|count| (1..=MOST_FAILURES).contains(count))?;
        let second = |time: i64| u64::try_from(time).ok();
        Some(FailureMark { failures, since: second(found.ctime())?, until: second(found.mtime())? })
    }
}

/// The content of a file in `want/` or `run/`.
enum Found {
    Nothing,
    Fresh,
    Failed(FailureMark),
}

impl Found {
    /// How long it has to wait; `None` without a request.
    fn wait(&self, policy: BackoffPolicy, now: SystemTime) -> Option<Duration> {
        match self {
            Found::Nothing => None,
            Found::Fresh => Some(Duration::ZERO),
            Found::Failed(mark) => Some(policy.left(mark.since, mark.until, now)),
        }
    }

    fn failures(&self) -> u32 {
        if let Found::Failed(mark) = self { mark.failures } else { 0 }
    }
}

/// The targets that a run serves, each with its number of earlier failures.
pub type Claimed = BTreeMap<Target, u32>;

/// How requests are to be served.
#[allow(clippy::struct_excessive_bools)] // each is a file of its own
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// `--force`: not throttled.
    pub urgent: bool,
    /// A command in the foreground waits for the answer.
    pub foreground: bool,
    /// A person waits for it.
    pub person: bool,
    /// `--full`: by a run of mbsync, whatever differs.
    pub full: bool,
    /// `--retry`: what mbsync has passed over is tried again.
    pub passed_over: bool,
    /// Made by one of the user's commands after a run.
    pub echo: bool,
}

impl Marks {
    /// Those that move with the requests.
    fn moving(self) -> [bool; 5] {
        [self.foreground, self.person, self.full, self.passed_over, self.echo]
    }
}

/// Their files, in the same order. No target's file has such a name.
const MARKS: [&str; 5] = [FOREGROUND, PERSON, "=full", PASSED_OVER, "=echo"];
const FOREGROUND: &str = "=foreground";
const PERSON: &str = "=person";
const PASSED_OVER: &str = "=passed-over";

/// Makes requests. Each must be fresh when this returns.
pub fn submit(dir: &StateDir, targets: &BTreeSet<Target>, marks: Marks) -> io::Result<()> {
    let want = dir.file("want");
    let marked = MARKS.into_iter().zip(marks.moving()).filter(|(_, set)| *set);
    let marks_of = || marked.clone().map(|(name, _)| want.join(name));
    // Before the requests, so that none is claimed without its mark.
    for mark in marks_of() {
        create(&mark)?;
    }
    for target in targets {
        create(&want.join(names::file_of(target)))?;
    }
    remark(dir, targets, marks_of())?;
    if marks.urgent {
        create(&dir.file("urgent"))?;
    }
    Ok(())
}

/// Makes the marks of requests again that were claimed with what stood there before. If the
/// requests were claimed, too, their marks are with them, and here they would be the next one's.
fn remark(
    dir: &StateDir,
    targets: &BTreeSet<Target>,
    marks: impl Iterator<Item = PathBuf>,
) -> io::Result<()> {
    for mark in marks.filter(|mark| !mark.exists()) {
        if any_unclaimed(dir, targets) {
            create(&mark)?;
        }
    }
    Ok(())
}

/// Whether a command in the foreground waits for requests that are not claimed yet.
#[must_use]
pub fn is_foreground(dir: &StateDir) -> bool {
    dir.file("want").join(FOREGROUND).exists()
}

/// Whether one of these requests is on disk and not claimed yet.
#[must_use]
pub fn any_unclaimed(dir: &StateDir, targets: &BTreeSet<Target>) -> bool {
    targets.iter().any(|target| dir.file("want").join(names::file_of(target)).exists())
}

/// The marks of claimed requests, and of those made meanwhile: a mark too many costs
/// a little, one too few a request's meaning.
#[must_use]
pub fn claimed_marks(dir: &StateDir) -> Marks {
    let set = |name: &str| ["want", "run"].iter().any(|part| dir.file(part).join(name).exists());
    let [foreground, person, full, passed_over, echo] = MARKS.map(set);
    Marks { urgent: false, foreground, person, full, passed_over, echo }
}

/// Takes the marks away with the requests that are served.
pub fn served_marks(dir: &StateDir) {
    for name in MARKS {
        let _ = dir.remove(&format!("run/{name}"));
    }
}

/// Takes the marks away that were for one try, which has failed: the command that waited was
/// told so.
pub fn failed_marks(dir: &StateDir) {
    for name in [FOREGROUND, PERSON, PASSED_OVER] {
        let _ = dir.remove(&format!("run/{name}"));
    }
}

/// Puts claimed requests back as they were: nobody has tried to serve them. `urgent`:
/// they had been claimed with that mark.
pub fn unclaim(dir: &StateDir, claimed: &Claimed, urgent: bool) {
    if urgent {
        let _ = create(&dir.file("urgent"));
    }
    for name in claimed.keys().map(names::file_of).chain(MARKS.map(String::from)) {
        let (run, want) = (dir.file("run").join(&name), dir.file("want").join(&name));
        let moved = renameat_with(CWD, &run, CWD, &want, RenameFlags::NOREPLACE);
        // Asked for again meanwhile. What cannot be moved is as fresh in run/.
        if moved == Err(rustix::io::Errno::EXIST) {
            let _ = fs::remove_file(&run);
        }
    }
}

/// Puts narrower requests in place of claimed ones: what a run is needed for. Those
/// are on disk before these go. One that a wider run serves stays beside it: a command that
/// waits for it learns how that run ends.
pub fn narrow(dir: &StateDir, claimed: &Claimed, needed: &BTreeSet<Target>) -> io::Result<Claimed> {
    let mut narrowed = Claimed::new();
    for target in needed {
        let wider = [Some(Target::Account), target.channel().map(Target::Channel)];
        let covering = wider.iter().flatten().chain([target]);
        let failures = covering.filter_map(|each| claimed.get(each)).max().copied().unwrap_or(0);
        if !claimed.contains_key(target) {
            create(&dir.file("run").join(names::file_of(target)))?;
        }
        narrowed.insert(target.clone(), failures);
    }
    for (target, failures) in claimed {
        if target.is_in(needed) {
            narrowed.entry(target.clone()).or_insert(*failures);
        } else {
            served(dir, target)?;
        }
    }
    Ok(narrowed)
}

/// Makes failed requests fresh again, after a login that works. A request that a run
/// has claimed is left to that run: submitted again, it would be served twice.
pub fn renew(dir: &StateDir) {
    for (name, _) in entries(&dir.file("want")) {
        let path = dir.file("want").join(name);
        // Not created: a run may claim it at this moment.
        let _ = file::truncate(&path).and_then(|()| unmark(&file::open(&path)?));
    }
}

/// The state of these requests. Only reliable while the lock is held.
#[must_use]
pub fn request_state(dir: &StateDir, targets: &BTreeSet<Target>) -> RequestState {
    let mut fresh = false;
    for name in targets.iter().map(names::file_of) {
        match found(&dir.file("want").join(&name)) {
            // Part of it failed, and others may have asked for the rest again.
            Found::Failed(_) => return RequestState::Failed,
            Found::Fresh => fresh = true,
            Found::Nothing => fresh |= dir.file("run").join(&name).exists(),
        }
    }
    // What a crash has left of a wider request.
    fresh |= entries(&dir.file("run")).any(|(_, part)| part.is_in(targets));
    if fresh {
        return RequestState::Fresh;
    }
    // Where the rest was in sync, the mailboxes that a run was needed for are still
    // pending; and one that failed may have been asked for again.
    let mut failed = false;
    for (name, _) in entries(&dir.file("want")).filter(|(_, part)| part.is_in(targets)) {
        match found(&dir.file("want").join(name)) {
            Found::Fresh => return RequestState::Fresh,
            Found::Failed(_) => failed = true,
            Found::Nothing => {}
        }
    }
    if failed { RequestState::Failed } else { RequestState::Served }
}

/// How long until a request can be claimed: zero for fresh requests and those
/// left by a crash, the shortest wait of the marked ones, `None` if none is
/// pending.
///
/// Where the directory cannot be read (no descriptor left), there may be one:
/// then a run is due, which reports the error and starts the backoff.
#[must_use]
pub fn next_due(dir: &StateDir, policy: BackoffPolicy, now: SystemTime) -> Option<Duration> {
    let targets = || {
        let Ok(entries) = read(&dir.file("want")) else { return Some(Duration::ZERO) };
        entries.filter_map(|(name, _)| found(&dir.file("want").join(name)).wait(policy, now)).min()
    };
    // Twice: a holder may move requests between the directories meanwhile.
    let first = targets();
    if read(&dir.file("run")).map_or(true, |mut left| left.next().is_some()) {
        return Some(Duration::ZERO);
    }
    first.or_else(targets)
}

/// Whether a request is pending that no run has tried to serve.
#[must_use]
pub fn any_fresh(dir: &StateDir) -> bool {
    entries(&dir.file("run")).next().is_some()
        || entries(&dir.file("want"))
            .any(|(name, _)| matches!(found(&dir.file("want").join(name)), Found::Fresh))
}

/// A request not to be throttled has been made and not yet served.
#[must_use]
pub fn is_urgent(dir: &StateDir) -> bool {
    dir.file("urgent").exists()
}

/// Takes that mark, before the requests are claimed: one made meanwhile is then either
/// claimed with them or still urgent. True if it was there.
#[must_use]
pub fn take_urgent(dir: &StateDir) -> bool {
    fs::remove_file(dir.file("urgent")).is_ok()
}

/// All pending requests, fresh or not, for reports.
#[must_use]
pub fn all(dir: &StateDir) -> BTreeSet<Target> {
    ["want", "run"]
        .iter()
        .flat_map(|part| entries(&dir.file(part)))
        .map(|(_, target)| target)
        .collect()
}

/// Whether a request is pending that has failed, or was made so long ago, for reports.
#[must_use]
pub fn any_older(dir: &StateDir, age: Duration, now: SystemTime) -> bool {
    let is_older = |path: &Path| {
        // Gone meanwhile: served.
        let Ok(metadata) = fs::metadata(path) else { return false };
        let made = metadata.modified().ok().and_then(|made| now.duration_since(made).ok());
        metadata.len() > 0 || made.is_none_or(|made| made >= age)
    };
    ["want", "run"].iter().any(|part| {
        let part = dir.file(part);
        entries(&part).any(|(name, _)| is_older(&part.join(name)))
    })
}

/// Moves what is due, and what is served along with it, from `want/` to `run/`,
/// together with what a crash left there. A request made after this is a new
/// file.
///
/// # Errors
/// The directory cannot be read, and nothing was claimed. There may be requests.
pub fn claim(dir: &StateDir, policy: BackoffPolicy, now: SystemTime) -> io::Result<Claimed> {
    let left: Vec<(String, Target)> = read(&dir.file("run"))?.collect();
    for name in MARKS {
        let _ = fs::rename(dir.file("want").join(name), dir.file("run").join(name));
    }
    let mut claimed = Claimed::new();
    for (name, target) in left {
        claimed.insert(target, found(&dir.file("run").join(name)).failures());
    }
    for along in [false, true] {
        let targets: Vec<(String, Target)> = match read(&dir.file("want")) {
            Ok(targets) => targets.collect(),
            Err(error) if claimed.is_empty() => return Err(error),
            // Seen before, or left by a crash: the rest is taken by the next run.
            Err(_) => break,
        };
        for (name, target) in targets {
            let from = dir.file("want").join(&name);
            let stands = found(&from);
            let Some(wait) = stands.wait(policy, now) else { continue };
            if wait.is_zero() || along && claimed.keys().any(|wider| wider.covers(&target)) {
                // What cannot be moved is synced now, and once more later.
                let _ = fs::rename(from, dir.file("run").join(&name));
                let failures = claimed.entry(target).or_default();
                *failures = (*failures).max(stands.failures());
            }
        }
    }
    Ok(claimed)
}

/// Notes that a run served this request.
pub fn served(dir: &StateDir, target: &Target) -> io::Result<()> {
    dir.remove(&format!("run/{}", names::file_of(target)))
}

/// Puts a request back with a mark, or makes a marked one that was not asked
/// for by itself (a mailbox that failed in a run of the whole account), to be
/// tried again after `wait`. A fresh request for the same thing, made meanwhile,
/// stays fresh.
pub fn requeue(
    dir: &StateDir,
    target: &Target,
    failures: u32,
    now: SystemTime,
    wait: Duration,
) -> io::Result<()> {
    let name = names::file_of(target);
    let (claimed, request) = (dir.file("run").join(&name), dir.file("want").join(&name));
    let until = seconds(now + wait);
    let mark = format!("{failures} {} {until}\n", seconds(now));
    let marked = file::write(&claimed, mark.as_bytes())
        .map(drop)
        .or_else(|_| mark_in_mtime(&claimed, failures, until));
    match renameat_with(CWD, &claimed, CWD, &request, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => dir.remove(&format!("run/{name}")),
        // A file system without RENAME_NOREPLACE: losing a mark is harmless, losing
        // freshness is not.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !request.exists() => {
            fs::rename(claimed, request)
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            dir.remove(&format!("run/{name}"))
        }
        // Unmarked, it is merely tried too early.
        other => other.map_err(io::Error::from).and(marked),
    }
}

fn create(path: &Path) -> io::Result<()> {
    unmark(&file::write(path, b"")?)
}

/// Marks a request without a byte. What is left of a mark that was cut short goes.
fn mark_in_mtime(path: &Path, failures: u32, until: u64) -> io::Result<()> {
    let file = file::write(path, b"")?;
    let failures = Duration::from_nanos(u64::from(failures.min(MOST_FAILURES)));
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(until) + failures)
}

/// Takes such a mark away. Both times become the same, which a time of ours might not be.
fn unmark(file: &fs::File) -> io::Result<()> {
    if FailureMark::of_mtime(&file.metadata()?).is_none() {
        return Ok(());
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

fn found(path: &Path) -> Found {
    match file::read(path, LONGEST_MARK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(_) => Found::Fresh,
        Ok(text) if text.is_empty() => {
            let mark = fs::metadata(path).ok().and_then(|found| FailureMark::of_mtime(&found));
            mark.map_or(Found::Fresh, Found::Failed)
        }
        Ok(text) => match std::str::from_utf8(&text).ok().and_then(FailureMark::parse) {
            Some(mark) => Found::Failed(mark),
            None => Found::Fresh,
        },
    }
}

/// The requests in a directory; of one that is not there, none.
fn read(dir: &Path) -> io::Result<impl Iterator<Item = (String, Target)> + use<>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let target = names::target_of(&name)?;
        // A directory could be neither read nor removed.
        entry.file_type().is_ok_and(|kind| kind.is_file()).then_some((name, target))
    }))
}

/// The same for those to whom one that cannot be read is as good as an empty one.
fn entries(dir: &Path) -> impl Iterator<Item = (String, Target)> + use<> {
    read(dir).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy =
        BackoffPolicy { first: Duration::from_secs(30), longest: Duration::from_secs(900) };

    fn dir() -> (tempfile::TempDir, StateDir) {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(base.path(), "Home").unwrap();
        (base, dir)
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn g2_a_mark_that_has_no_room_is_in_the_mtime_until_the_request_is_made_again() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Account]);
        let now = SystemTime::now();
        let mark = || {
            submit(&dir, &targets, Marks::default()).unwrap();
            claim(&dir, POLICY, now).unwrap();
            let name = names::file_of(&Target::Account);
            let run = dir.file("run").join(&name);
            mark_in_mtime(&run, 3, seconds(now) + 60).unwrap();
            fs::rename(run, dir.file("want").join(name)).unwrap();
            assert_eq!(request_state(&dir, &targets), RequestState::Failed);
            assert!(!any_fresh(&dir) && any_older(&dir, Duration::from_secs(60), now));
        };
        mark();
        let due = next_due(&dir, POLICY, now).unwrap();
        assert!((59..=60).contains(&due.as_secs()), "{due:?}");
        assert!(claim(&dir, POLICY, now).unwrap().is_empty());
        let later = now + Duration::from_secs(61);
        assert_eq!(claim(&dir, POLICY, later).unwrap(), Claimed::from([(Target::Account, 3)]));
        for again in [true, false] {
            mark();
            if again {
                submit(&dir, &targets, Marks::default()).unwrap();
            } else {
                renew(&dir);
            }
            assert_eq!(request_state(&dir, &targets), RequestState::Fresh);
            assert_eq!(next_due(&dir, POLICY, now), Some(Duration::ZERO));
        }
    }

    #[test]
    fn g2_a_request_lives_until_it_is_served() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Account]);
        assert_eq!(request_state(&dir, &targets), RequestState::Served);
        submit(&dir, &targets, Marks { urgent: true, ..Marks::default() }).unwrap();
        assert!(is_urgent(&dir) && any_fresh(&dir));
        assert_eq!(request_state(&dir, &targets), RequestState::Fresh);
        assert!(take_urgent(&dir) && !take_urgent(&dir) && !is_urgent(&dir));
        let claimed = claim(&dir, POLICY, at(0)).unwrap();
        assert_eq!(claimed, Claimed::from([(Target::Account, 0)]));
        // A crash here: it is still pending.
        assert_eq!(request_state(&dir, &targets), RequestState::Fresh);
        assert!(any_fresh(&dir));
        assert_eq!(next_due(&dir, POLICY, at(0)), Some(Duration::ZERO));
        assert_eq!(claim(&dir, POLICY, at(0)).unwrap(), claimed);
        served(&dir, &Target::Account).unwrap();
        assert_eq!(request_state(&dir, &targets), RequestState::Served);
        assert_eq!(next_due(&dir, POLICY, at(0)), None);
    }

    #[test]
    fn g2_g5_marks_move_with_the_requests_and_go_with_them() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Account]);
        let marks = Marks {
            urgent: false,
            foreground: true,
            person: true,
            full: true,
            passed_over: true,
            echo: true,
        };
        submit(&dir, &targets, marks).unwrap();
        for _ in 0..2 {
            let claimed = claim(&dir, POLICY, at(0)).unwrap();
            assert_eq!(claimed_marks(&dir), marks);
            unclaim(&dir, &claimed, false);
            assert!(MARKS.iter().all(|mark| dir.file("want").join(mark).exists()));
        }
        let claimed = claim(&dir, POLICY, at(0)).unwrap();
        // What the next try is for, and not whose it is.
        failed_marks(&dir);
        let left = Marks { full: true, echo: true, ..Marks::default() };
        assert_eq!(claimed_marks(&dir), left);
        unclaim(&dir, &claimed, false);
        let _ = claim(&dir, POLICY, at(0)).unwrap();
        assert_eq!(claimed_marks(&dir), left);
        served_marks(&dir);
        assert_eq!(claimed_marks(&dir), Marks::default());
    }

    #[test]
    fn g2_g5_a_mark_is_made_again_for_a_request_that_was_left_without_it() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Account]);
        let echo = Marks { echo: true, ..Marks::default() };
        let again = || remark(&dir, &targets, std::iter::once(dir.file("want/=echo"))).unwrap();
        // Claimed between the request and this: it is the mark of no request that comes.
        submit(&dir, &targets, echo).unwrap();
        let _ = claim(&dir, POLICY, at(0)).unwrap();
        again();
        served(&dir, &Target::Account).unwrap();
        served_marks(&dir);
        assert_eq!(claimed_marks(&dir), Marks::default());
        // The mark was claimed before the request was there.
        submit(&dir, &targets, Marks::default()).unwrap();
        again();
        let _ = claim(&dir, POLICY, at(0)).unwrap();
        assert_eq!(claimed_marks(&dir), echo);
    }

    #[test]
    fn g2_a_failed_request_waits_and_a_new_one_does_not() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Channel("c".into())]);
        let target = targets.first().unwrap();
        submit(&dir, &targets, Marks::default()).unwrap();
        let _ = claim(&dir, POLICY, at(100)).unwrap();
        let wait = POLICY.delay(1, false);
        requeue(&dir, target, 1, at(100), wait).unwrap();
        assert_eq!(request_state(&dir, &targets), RequestState::Failed);
        assert_eq!(next_due(&dir, POLICY, at(100)), Some(Duration::from_secs(30)));
        assert!(!any_fresh(&dir) && claim(&dir, POLICY, at(129)).unwrap().is_empty());
        // A clock set back does not make it wait longer.
        assert_eq!(next_due(&dir, POLICY, at(99)), Some(Duration::ZERO));
        assert_eq!(claim(&dir, POLICY, at(130)).unwrap(), Claimed::from([(target.clone(), 1)]));
        // Asked for again while the run is under way: the failure does not hide it.
        submit(&dir, &targets, Marks::default()).unwrap();
        requeue(&dir, target, 2, at(130), wait).unwrap();
        assert_eq!(request_state(&dir, &targets), RequestState::Fresh);
        assert!(entries(&dir.file("run")).next().is_none());
    }

    #[test]
    fn g5_a_renewed_request_is_fresh_and_one_under_way_is_not_made_again() {
        let (_base, dir) = dir();
        let part = |name: &str| Target::Mailbox { channel: "c".into(), name: name.into() };
        submit(&dir, &BTreeSet::from([part("a"), part("b")]), Marks::default()).unwrap();
        let claimed = claim(&dir, POLICY, at(100)).unwrap();
        assert_eq!(claimed.len(), 2);
        requeue(&dir, &part("a"), 1, at(100), Duration::from_secs(60)).unwrap();
        let request_state = |name: &str| request_state(&dir, &BTreeSet::from([part(name)]));
        assert_eq!(request_state("a"), RequestState::Failed);
        renew(&dir);
        assert_eq!(request_state("a"), RequestState::Fresh);
        served(&dir, &part("b")).unwrap();
        assert_eq!(request_state("b"), RequestState::Served);
    }

    #[test]
    fn g6_a_request_made_during_a_run_is_not_served_by_it() {
        let (_base, dir) = dir();
        let targets = BTreeSet::from([Target::Channel("c".into())]);
        submit(&dir, &targets, Marks::default()).unwrap();
        let claimed = claim(&dir, POLICY, at(0)).unwrap();
        submit(&dir, &targets, Marks { urgent: true, ..Marks::default() }).unwrap();
        for target in claimed.keys() {
            served(&dir, target).unwrap();
        }
        assert_eq!(request_state(&dir, &targets), RequestState::Fresh);
        assert!(any_fresh(&dir) && is_urgent(&dir));
        assert_eq!(claim(&dir, POLICY, at(0)).unwrap(), claimed);
    }

    #[test]
    fn g2_a_mailbox_that_failed_is_told_of_and_taken_along() {
        let (_base, dir) = dir();
        let all = BTreeSet::from([Target::Account]);
        let part = Target::Mailbox { channel: "c".into(), name: "INBOX".into() };
        requeue(&dir, &part, 3, at(100), Duration::from_secs(60)).unwrap();
        assert_eq!(request_state(&dir, &all), RequestState::Failed);
        assert_eq!(
            request_state(&dir, &BTreeSet::from([Target::Channel("d".into())])),
            RequestState::Served
        );
        submit(&dir, &all, Marks::default()).unwrap();
        assert_eq!(request_state(&dir, &all), RequestState::Fresh);
        let claimed = claim(&dir, POLICY, at(101)).unwrap();
        assert_eq!(claimed, Claimed::from([(Target::Account, 0), (part, 3)]));
        for target in claimed.keys() {
            served(&dir, target).unwrap();
        }
        assert_eq!(request_state(&dir, &all), RequestState::Served);
    }

    #[test]
    fn g2_requests_that_cannot_be_seen_are_not_taken_for_none() {
        let (_base, dir) = dir();
        assert_eq!(next_due(&dir, POLICY, at(0)), None);
        for part in ["want", "run"] {
            let (here, away) = (dir.file(part), dir.file("away"));
            fs::rename(&here, &away).unwrap();
            // Not a directory: as little to be read as with no descriptor left.
            fs::write(&here, "").unwrap();
            assert!(claim(&dir, POLICY, at(0)).is_err(), "{part}");
            assert_eq!(next_due(&dir, POLICY, at(0)), Some(Duration::ZERO), "{part}");
            fs::remove_file(&here).unwrap();
            fs::rename(&away, &here).unwrap();
        }
    }

    #[test]
    fn g2_what_a_wider_run_serves_is_not_served_before_it_ends() {
        let (_base, dir) = dir();
        let part = |name: &str| Target::Mailbox { channel: "c".into(), name: name.into() };
        let state = |target: &Target| request_state(&dir, &BTreeSet::from([target.clone()]));
        let wider = Target::Channel("c".into());
        submit(&dir, &BTreeSet::from([Target::Account, part("a")]), Marks::default()).unwrap();
        let claimed = claim(&dir, POLICY, at(0)).unwrap();
        let narrowed = narrow(&dir, &claimed, &BTreeSet::from([wider.clone()])).unwrap();
        assert_eq!(narrowed, Claimed::from([(part("a"), 0), (wider.clone(), 0)]));
        assert_eq!(all(&dir), narrowed.keys().cloned().collect());
        assert_eq!(state(&part("a")), RequestState::Fresh, "if the run is killed");
        for target in narrowed.keys() {
            requeue(&dir, target, 1, at(0), Duration::ZERO).unwrap();
        }
        assert_eq!(state(&part("a")), RequestState::Failed);
        // In the other direction nothing stays.
        let claimed = claim(&dir, POLICY, at(0)).unwrap();
        let narrowed = narrow(&dir, &claimed, &BTreeSet::from([part("b")])).unwrap();
        assert_eq!(all(&dir), narrowed.into_keys().collect());
        assert_eq!(state(&part("a")), RequestState::Served);
    }

    #[test]
    fn only_what_a_wider_run_serves_is_taken_along() {
        let (_base, dir) = dir();
        let part =
            |channel: &str| Target::Mailbox { channel: channel.into(), name: "INBOX".into() };
        let whole = |channel: &str| Target::Channel(channel.into());
        for target in [part("c"), part("d"), whole("c")] {
            requeue(&dir, &target, 2, at(100), Duration::from_secs(60)).unwrap();
        }
        submit(&dir, &BTreeSet::from([whole("c"), part("e")]), Marks::default()).unwrap();
        assert_eq!(all(&dir), BTreeSet::from([part("c"), part("d"), part("e"), whole("c")]));
        let claimed = claim(&dir, POLICY, at(101)).unwrap();
        assert_eq!(claimed, Claimed::from([(part("c"), 2), (part("e"), 0), (whole("c"), 0)]));
        assert_eq!(all(&dir), BTreeSet::from([part("c"), part("d"), part("e"), whole("c")]));
        for target in claimed.keys() {
            served(&dir, target).unwrap();
        }
        assert_eq!(all(&dir), BTreeSet::from([part("d")]));
        assert_eq!(request_state(&dir, &BTreeSet::from([whole("c")])), RequestState::Served);
        assert_eq!(request_state(&dir, &BTreeSet::from([whole("d")])), RequestState::Failed);
    }

    #[test]
    fn g2_a_request_that_cannot_be_read_is_fresh() {
        let (_base, dir) = dir();
        assert!(matches!(found(&dir.file("want")), Found::Fresh));
        assert!(matches!(found(&dir.file("want/none")), Found::Nothing));
        fs::write(dir.file("want/c"), "7 never").unwrap();
        assert!(any_fresh(&dir));
        assert_eq!(
            claim(&dir, POLICY, at(0)).unwrap(),
            Claimed::from([(Target::Channel("c".into()), 0)])
        );
    }
}
