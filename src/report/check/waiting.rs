//! What only a waiter needs. Nothing here stops a sync. Does not depend
//! on: servers, runs.

use std::path::{Path, PathBuf};

use super::{CheckContext, Checklist, Step};
use crate::mbsync_version::in_path;
use crate::model::Mailbox;
use crate::os::procfs;
use crate::state::StateDir;
use crate::text::counted;
use crate::watch::local::{InotifyWatches, WatchPaths};

/// The steps.
pub fn steps(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    trigger(context, report);
    commands(context, report);
    watches(context, mailboxes, report);
}

/// A trigger file that nobody could touch, or whose touch nobody would hear.
fn trigger(context: &CheckContext<'_>, report: &mut Checklist) {
    let Some(trigger) = context.settings().trigger_of(&context.account.name) else { return };
    let shown = context.tilde(&trigger);
    report.say(match trigger.parent() {
        Some(dir) if !dir.is_dir() => Step::warning(
            "trigger",
            format!("{shown}: its directory is not there, so touching it fails and goes unnoticed"),
            format!("mkdir -p {}", context.asked.env.for_shell(dir)),
        ),
        _ => Step::good("trigger", shown),
    });
}

fn commands(context: &CheckContext<'_>, report: &mut Checklist) {
    let settings = context.settings();
    for (what, command) in [("after_sync", &settings.after_sync), ("new_mail", &settings.new_mail)]
    {
        let Some(program) = command.first() else { continue };
        let found = in_path(Path::new(program)).filter(|file| file.is_file());
        report.say(match found {
            Some(file) => Step::good(what, file.display().to_string()),
            None => Step::warning(
                what,
                format!("there is no program {program}"),
                format!("install {program}, or name another in config.toml"),
            ),
        });
    }
}

/// A limit of the kernel's, and the setting that it is.
struct Limit {
    setting: &'static str,
    value: u64,
}

fn limit(settings: [&'static str; 2]) -> Limit {
    let value = |setting: &&'static str| {
        let value = procfs::sysctl(setting)?.parse().ok()?;
        Some(Limit { setting, value })
    };
    settings
        .iter()
        .filter_map(value)
        .min_by_key(|limit| limit.value)
        .unwrap_or(Limit { setting: settings[0], value: 0 })
}

/// The second is what holds in a user namespace (a container).
fn limits() -> (Limit, Limit) {
    (
        limit(["fs.inotify.max_user_watches", "user.max_inotify_watches"]),
        limit(["fs.inotify.max_user_instances", "user.max_inotify_instances"]),
    )
}

/// Takes the watches that a waiter would take, and gives them back: others of
/// the same user have taken some of what the limit allows.
fn watches(context: &CheckContext<'_>, mailboxes: &[Mailbox], report: &mut Checklist) {
    let state = StateDir::existing(context.asked.base, &context.account.name);
    let configs: Vec<PathBuf> = std::iter::once(context.ground.config.file.clone())
        .chain(context.asked.settings_file.clone())
        .collect();
    let trigger = context.settings().trigger_of(&context.account.name);
    let state = state.path().to_owned();
    let paths = WatchPaths::of(context.account, mailboxes.iter(), state, trigger, configs);
    let unwatched = InotifyWatches::open(&paths).map(|inotify| inotify.unwatched.len()).ok();
    let (most, instances) = limits();
    report.say(step(paths.watches(), unwatched, &most, &instances));
}

/// `unwatched`: mailboxes for which there was no watch left; `None`: no instance was.
fn step(needed: usize, unwatched: Option<usize>, most: &Limit, instances: &Limit) -> Step {
    const WHAT: &str = "inotify";
    let needed_text = counted(needed, "watch");
    let raise = |limit: &Limit, to: u64| {
        let to = to.max(limit.value.saturating_mul(2));
        format!(
            "sysctl -w {0}={to} as root; to keep it, write {0} = {to} into /etc/sysctl.d/50-inotify.conf",
            limit.setting
        )
    };
    match unwatched {
        Some(0) => Step::good(
            WHAT,
            format!("{needed_text} needed, all available (the limit is {})", most.value),
        ),
        Some(unwatched) => Step::warning(
            WHAT,
            format!(
                "no watch left for {} of {needed_text}: a waiter scans them every 15 s instead ({} is {})",
                counted(unwatched, "mailbox"),
                most.setting,
                most.value
            ),
            raise(most, 524_288),
        ),
        None => Step::warning(
            WHAT,
            format!(
                "not available: a waiter scans every 15 s instead ({} is {})",
                instances.setting, instances.value
            ),
            raise(instances, 512),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_its_fix() {
        let most = Limit { setting: "fs.inotify.max_user_watches", value: 8192 };
        let instances = Limit { setting: "fs.inotify.max_user_instances", value: 1024 };
        assert_eq!(step(12, Some(0), &most, &instances).fix, None);
        let fix = step(12, Some(3), &most, &instances).fix.unwrap();
        assert!(fix.starts_with("sysctl -w fs.inotify.max_user_watches=524288 "), "{fix}");
        let fix = step(12, None, &most, &instances).fix.unwrap();
        assert!(fix.starts_with("sysctl -w fs.inotify.max_user_instances=2048 "), "{fix}");
    }
}
