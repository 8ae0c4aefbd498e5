//! When mbsync can start after a local change: not while more is being written, and
//! not within the second of the change.
//!
//! mbsync sleeps for a second, again and again, while `cur` or `new` of a mailbox
//! that it loads has the mtime of the current second (isync 1.4.4 and 1.5.1,
//! `maildir_scan()`). The decision is a function of two times; the rest reads the
//! directories. Does not depend on: what is run, and why.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Mailbox;
use crate::os::wait::{self, Cancel};

/// So long nothing must have happened on a side.
pub const QUIET: Duration = Duration::from_millis(150);
/// time(2), which mbsync compares with, is up to a tick of the kernel behind, and
/// stamps are, too.
const TICK: Duration = Duration::from_millis(20);
/// The longest wait that a single change leads to.
const SECOND: Duration = Duration::from_millis(1020);
/// A mailbox that is written again meanwhile is not waited for longer than this.
const LONGEST: Duration = Duration::from_millis(1100);

/// How long after `now` a directory that was changed then is not to be loaded.
///
/// A stamp of a later second is of a clock that was ahead: mbsync does not sleep for
/// it, and nothing is waited for.
#[must_use]
pub fn remaining(changed: SystemTime, now: SystemTime) -> Duration {
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (changed, now) = (since_epoch(changed), since_epoch(now));
    if changed.as_secs() > now.as_secs() {
        return Duration::ZERO;
    }
    let next_second = Duration::from_secs(changed.as_secs() + 1) + TICK;
    next_second.max(changed + QUIET).saturating_sub(now).min(SECOND)
}

/// Whether a wait that began at `since` is to go on for `remaining`. A mailbox that is
/// written without pause is not waited for again and again.
#[must_use]
pub fn is_worth_waiting(since: Duration, remaining: Duration, now: Duration) -> bool {
    !remaining.is_zero() && now + remaining <= since + LONGEST
}

/// How long mbsync is not to be started for this Maildir.
#[must_use]
pub fn maildir_remaining(maildir: &Path, now: SystemTime) -> Duration {
    changes(maildir).map(|changed| remaining(changed, now)).max().unwrap_or_default()
}

/// Whether one of these was written a moment ago.
#[must_use]
pub fn are_being_written(mailboxes: &[Mailbox], now: SystemTime) -> bool {
    let recent = |changed| now.duration_since(changed).is_ok_and(|since| since < QUIET);
    mailboxes.iter().filter_map(|mailbox| mailbox.maildir.as_deref()).flat_map(changes).any(recent)
}

/// Waits until mbsync would not sleep for any of these: about a second at most.
pub fn wait(mailboxes: &[Mailbox], cancel: &Cancel) {
    let began = Instant::now();
    let maildirs = || mailboxes.iter().filter_map(|mailbox| mailbox.maildir.as_deref());
    loop {
        let now = SystemTime::now();
        let remaining = maildirs().map(|maildir| maildir_remaining(maildir, now)).max();
        let remaining = remaining.unwrap_or_default();
        if cancel.is_raised() || !is_worth_waiting(Duration::ZERO, remaining, began.elapsed()) {
            return;
        }
        wait::sleep(remaining, cancel);
    }
}

/// When cur and new were last changed.
fn changes(maildir: &Path) -> impl Iterator<Item = SystemTime> {
    let changed = |folder| std::fs::metadata(maildir.join(folder)).ok()?.modified().ok();
    ["cur", "new"].map(changed).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_000_000 + millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn mbsync_starts_when_the_second_is_over_and_it_has_been_quiet() {
        assert_eq!(remaining(at(0), at(0)), ms(1020));
        assert_eq!(remaining(at(0), at(150)), ms(870));
        assert_eq!(remaining(at(500), at(1019)), ms(1));
        assert_eq!(remaining(at(500), at(1020)), ms(0));
        assert_eq!(remaining(at(990), at(1020)), ms(120), "not quiet yet");
        assert_eq!(remaining(at(990), at(1140)), ms(0));
        // A file system that keeps whole seconds only.
        assert_eq!(remaining(at(0), at(990)), ms(30));
    }

    #[test]
    fn a_stamp_from_a_clock_that_was_ahead_is_not_waited_for() {
        assert_eq!(remaining(at(1000), at(999)), ms(0));
        assert_eq!(remaining(at(3_600_000), at(0)), ms(0));
        assert_eq!(remaining(at(999), at(0)), ms(1020), "within one second");
        assert_eq!(remaining(UNIX_EPOCH - ms(5), at(0)), ms(0));
    }

    #[test]
    fn a_mailbox_that_is_written_without_pause_is_waited_for_once() {
        assert!(is_worth_waiting(ms(5000), ms(1020), ms(5000)));
        assert!(is_worth_waiting(ms(5000), ms(30), ms(6020)));
        assert!(!is_worth_waiting(ms(5000), ms(1000), ms(6020)));
        assert!(!is_worth_waiting(ms(5000), ms(0), ms(5000)), "nothing to wait for");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("new")).unwrap();
        let mailbox = Mailbox { maildir: Some(dir.path().to_owned()), ..Mailbox::of_home("INBOX") };
        let (cancel, done) = (Cancel::new().unwrap(), std::sync::atomic::AtomicBool::new(false));
        let waited = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::write(dir.path().join("new/x"), "").unwrap();
                    std::fs::remove_file(dir.path().join("new/x")).unwrap();
                }
            });
            let began = Instant::now();
            wait(std::slice::from_ref(&mailbox), &cancel);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            began.elapsed()
        });
        assert!(waited < Duration::from_secs(10), "{waited:?}");
        let mailboxes = [mailbox];
        assert!(are_being_written(&mailboxes, SystemTime::now()));
        wait(&mailboxes, &cancel);
        assert_eq!(maildir_remaining(dir.path(), SystemTime::now()), ms(0));
        assert!(!are_being_written(&mailboxes, SystemTime::now()));
    }

    proptest! {
        /// Against mbsync's own test, at the moment that is waited for and later.
        #[test]
        fn mbsync_would_not_sleep_afterwards(
            changed in 0_u64..3000,
            asked in 0_u64..3000,
            later in 0_u64..2000,
            tick in 0_u64..20,
        ) {
            let wait = remaining(at(changed), at(asked));
            prop_assert!(wait <= SECOND);
            let starts = asked + u64::try_from(wait.as_millis()).unwrap() + later;
            // Its clock is up to a tick behind.
            let seconds = |millis: u64| millis / 1000;
            prop_assert!(asked < changed || seconds(starts - tick.min(starts)) != seconds(changed));
        }
    }
}
