//! What holds for all accounts: our settings, mbsync itself, its configuration.
//! Does not depend on: any one account, servers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Asked, CheckInputs, Checklist, Step, some};
use crate::error::ExitStatus;
use crate::mbsync_version::IsyncVersion;
use crate::mbsyncrc::{self, Config, Env};
use crate::model::CredentialSource;
use crate::text::{counted, suggest};
use crate::{mbsync_version, settings};

/// The steps; `None` where nothing further can be said.
pub fn steps(asked: &Asked<'_>, report: &mut Checklist) -> Option<CheckInputs> {
    let settings = match &asked.settings {
        Ok(settings) => settings.clone(),
        Err(failure) => {
            let fix = "correct that line; mutt-sync.toml(5) has every setting";
            report.say(Step::failed("settings", failure, fix));
            report.out_of_reach(&["mbsync", "configuration"]);
            return None;
        }
    };
    report.say(match &asked.settings_file {
        Some(file) => Step::good("settings", asked.env.tilde(file)),
        None => Step::good("settings", "no config.toml; the defaults hold"),
    });
    let version = mbsync(&settings.general.mbsync, report);
    let config = configuration(asked, &settings, version, report)?;
    unknown_accounts(asked.env, &settings, &config, asked.settings_file.as_deref(), report);
    Some(CheckInputs { config, settings })
}

/// The program, and which language it speaks.
fn mbsync(program: &Path, report: &mut Checklist) -> Option<IsyncVersion> {
    let shown = program.display();
    let found = mbsync_version::in_path(program).filter(|file| file.exists());
    let Some(found) = found else {
        let (found, fix) = if program.components().count() > 1 {
            (
                format!("there is no {shown}"),
                format!("set `mbsync` in config.toml to where it is, or make {shown}"),
            )
        } else {
            (
                format!("{shown} is not in the PATH"),
                "install isync (its program is mbsync), or name the program as `mbsync` in config.toml".to_owned(),
            )
        };
        report.say(Step::bad("mbsync", ExitStatus::Config, found, fix));
        return None;
    };
    if rustix::fs::access(&found, rustix::fs::Access::EXEC_OK).is_err() || !found.is_file() {
        report.say(Step::bad(
            "mbsync",
            ExitStatus::Config,
            format!("{} cannot be executed", found.display()),
            format!("chmod +x {}", found.display()),
        ));
        return None;
    }
    // Asked anew, and not remembered: no file can be made there.
    let nowhere = Path::new("/dev/null");
    if let Some(version) = mbsync_version::version(program, nowhere) {
        let text = format!("{}, version {version}", found.display());
        report.say(if mbsync_version::is_old(&version) {
            let text = format!("{text}: older than isync 1.4");
            Step::warning("mbsync", text, "install isync 1.4 or 1.5")
        } else {
            Step::good("mbsync", text)
        });
        return mbsync_version::of_mbsync(program, nowhere);
    }
    let found = found.display();
    report.say(Step::bad(
        "mbsync",
        ExitStatus::Config,
        format!("{found} --version says no version"),
        format!(
            "run {found} --version by hand; if it is not mbsync, name the right one as `mbsync` in config.toml"
        ),
    ));
    None
}

fn configuration(
    asked: &Asked<'_>,
    settings: &settings::File,
    version: Option<IsyncVersion>,
    report: &mut Checklist,
) -> Option<Config> {
    const WHAT: &str = "configuration";
    let env = asked.env;
    let named = asked.mbsyncrc.or(settings.general.mbsyncrc.as_deref());
    let Ok(file) = mbsyncrc::file_of(named, env, version) else {
        report.say(nothing_to_read(env));
        return None;
    };
    let config = match mbsyncrc::read(&file, env, version.unwrap_or_default()) {
        Ok(config) => config,
        Err(failure) => {
            report.say(Step::failed(WHAT, &failure, "correct it; mbsync(1) has every keyword"));
            return None;
        }
    };
    let names: Vec<&str> = config.accounts.iter().map(|account| account.name.as_str()).collect();
    let mut found =
        format!("{}: {}: {}", env.tilde(&file), counted(names.len(), "account"), some(&names));
    if named.is_none() {
        let both = [env.mbsyncrc(), env.isyncrc()];
        let other = both.into_iter().find(|other| *other != file && other.exists());
        if let Some(other) = other {
            found.extend(["; ", &env.tilde(&other), " is not read"]);
        }
    }
    report.say(Step::good(WHAT, found));
    for notice in &config.notices {
        report.say(match &notice.hint {
            Some(fix) => Step::warning(WHAT, &*notice.message, fix),
            None => Step::note(WHAT, &*notice.message),
        });
    }
    if !config.idle_accounts.is_empty() {
        let idle = some(&config.idle_accounts);
        report.say(Step::note(WHAT, format!("no channel uses: {idle}")));
    }
    privacy(env, &config, report);
    paths(env, &config, report);
    Some(config)
}

fn nothing_to_read(env: &Env) -> Step {
    let (old, new) = (env.mbsyncrc(), env.isyncrc());
    let shown = env.tilde(&old);
    if new.exists() {
        return Step::bad(
            "configuration",
            ExitStatus::Config,
            format!("{} is here, but this mbsync reads {shown} only", env.tilde(&new)),
            format!("mv {} {}", env.for_shell(&new), env.for_shell(&old)),
        );
    }
    Step::bad(
        "configuration",
        ExitStatus::Config,
        format!("there is no {shown}: mbsync is not set up yet"),
        format!(
            "write {shown} (mutt-sync --init ADDRESS prints one), or name the file with --mbsyncrc or as `mbsyncrc` in config.toml"
        ),
    )
}

/// A password that others can read.
fn privacy(env: &Env, config: &Config, report: &mut Checklist) {
    let servers = || config.accounts.iter().filter_map(|account| account.server.as_ref());
    let has_password =
        servers().any(|server| matches!(server.pass, Some(CredentialSource::Text(_))));
    let open =
        std::fs::metadata(&config.file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if has_password && open {
        let file = env.for_shell(&config.file);
        report.say(Step::warning(
            "configuration",
            format!("{file} has a password in it and others may read it"),
            format!("chmod 600 {file}"),
        ));
    }
}

/// `Path` is a string that names are put behind, not a directory.
fn paths(env: &Env, config: &Config, report: &mut Checklist) {
    let mut seen = Vec::new();
    for channel in config.accounts.iter().flat_map(|account| &account.channels) {
        for side in [&channel.near, &channel.far] {
            let path = side.maildir().and_then(|store| store.path.as_deref());
            let Some(path) = path.filter(|path| !path.ends_with('/')) else { continue };
            // isync 1.5.1 lists no store in which it finds a mailbox without a name.
            let fails = config.version == IsyncVersion::V1_5
                && channel.patterns.is_some()
                && Path::new(path).exists();
            // Without a Maildir below, a prefix may well be what is meant.
            if seen.contains(&(path, fails)) || !(fails || holds_maildirs(Path::new(path))) {
                continue;
            }
            seen.push((path, fails));
            let shown = env.tilde(Path::new(path));
            let found = format!(
                "MaildirStore {}: Path {shown} does not end in a slash: Sent is {shown}Sent",
                side.store.name
            );
            let fix = format!("write Path {shown}/");
            report.say(if fails {
                Step::bad("configuration", ExitStatus::Mailbox, found, fix)
            } else {
                Step::warning("configuration", found, fix)
            });
        }
    }
}

fn holds_maildirs(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.take(1000).any(|entry| entry.path().join("cur").is_dir())
}

/// Tables of config.toml for accounts that there are not.
fn unknown_accounts(
    env: &Env,
    settings: &settings::File,
    config: &Config,
    file: Option<&Path>,
    report: &mut Checklist,
) {
    let known = || config.accounts.iter().map(|account| account.name.as_str());
    for name in settings.accounts.keys().filter(|name| known().all(|known| known != *name)) {
        let file = file.map(|file| env.tilde(file)).unwrap_or_default();
        let fix = match suggest(name, known()) {
            Some(near) => format!("write [account.{near}]"),
            None => format!("remove it; there are: {}", known().collect::<Vec<_>>().join(", ")),
        };
        report.say(Step::warning(
            "settings",
            format!("{file}: [account.{name}]: there is no such account"),
            fix,
        ));
    }
}
