//! The copy of the user's file that mbsync is given with a connection on loan,
//! compared with the original key by key, and shown to mbsync.
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

use mutt_sync::lend::config::{Obstacle, Purpose, copy};
use mutt_sync::mbsyncrc::{self, Config, Env, IsyncVersion};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TUNNEL: &str = "exec /proc/self/fd/9 --child tunnel 8";

/// The files that this mbsync takes; tests/config/acceptance.rs sees to the names.
fn configs(version: IsyncVersion) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let own = if version == IsyncVersion::V1_4 { "old-" } else { "new-" };
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with("ok-") || name.starts_with(own)
    });
    files.sort();
    files
}

fn placed(file: &Path, home: &Path) -> PathBuf {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap())
        .replace("@DIR@", &home.display().to_string());
    let path = home.join(".mbsyncrc");
    // What is not UTF-8 in comments does not matter here.
    fs::write(&path, text).unwrap();
    fs::write(home.join("cert.pem"), "not looked into").unwrap();
    path
}

/// What mbsync says when it has taken the file.
fn is_taken(path: &Path, cwd: &Path) -> Result<(), String> {
    let output = Command::new(rig::real_mbsync())
        .arg("-c")
        .arg(path)
        .arg("no-such-channel")
        .env("HOME", cwd)
        .current_dir(cwd)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("No channel or group named 'no-such-channel' defined.") {
        Ok(())
    } else {
        Err(said)
    }
}

fn purpose<'a>(channels: &'a [&'a str], config: &'a Config) -> Purpose<'a> {
    Purpose { channels, groups: &[], tunnel: TUNNEL, base: config.base.as_deref() }
}

/// The secrets that stand in a file, in comments too.
fn secrets(text: &str) -> Vec<&str> {
    let value = |line: &'static str| move |each: &&str| each.to_lowercase().starts_with(line);
    text.lines()
        .map(|line| line.trim_start_matches(['#', ' ', '\t']))
        .filter(|line| value("pass ")(line) || value("passcmd ")(line) || value("user")(line))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(_, value)| value.split('#').next().unwrap_or_default().trim())
        .filter(|value| value.len() > 4)
        .collect()
}

#[test]
fn g11_the_copy_differs_in_the_connection_only_and_mbsync_takes_it() {
    let mut copies = 0;
    let version =
        if rig::mbsync_version() < (1, 5) { IsyncVersion::V1_4 } else { IsyncVersion::V1_5 };
    for file in configs(version) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let home = tempfile::tempdir().unwrap();
        let path = placed(&file, home.path());
        let env = Env::new(home.path(), home.path());
        let config = mbsyncrc::read(&path, &env, version).unwrap();
        let text = fs::read(&path).unwrap();
        for account in &config.accounts {
            let channels: Vec<&str> = account.channels.iter().map(|c| c.name.as_str()).collect();
            let copied = match copy(&text, &purpose(&channels, &config)) {
                Ok(copied) => copied,
                Err(Obstacle::NoServer) if account.server.is_none() => continue,
                Err(Obstacle::TwoServers | Obstacle::SeveralAccounts)
                    if name.contains("imap-to-imap") =>
                {
                    continue;
                }
                Err(other) => panic!("{name}: {}: {other}", account.name),
            };
            copies += 1;
            let elsewhere = tempfile::tempdir().unwrap();
            let there = elsewhere.path().join("copy");
            fs::write(&there, &copied[..]).unwrap();
            if let Err(said) = is_taken(&there, home.path()) {
                panic!("{name}: {}: {said}\n{}", account.name, String::from_utf8_lossy(&copied));
            }
            // The same from any directory: relative paths keep their meaning.
            let away = Env::new(home.path(), elsewhere.path());
            let again = mbsyncrc::parse(&copied, &there, &away, version).unwrap();
            assert_eq!(again.base, None, "{name}: a path is still relative");
            let [same] = &again.accounts[..] else {
                panic!("{name}: {:?}", again.accounts);
            };
            assert_eq!(
                format!("{:#?}", same.channels),
                format!("{:#?}", account.channels),
                "{name}"
            );
            let (server, before) =
                (same.server.as_ref().unwrap(), account.server.as_ref().unwrap());
            assert_eq!(server.tunnel.as_deref(), Some(TUNNEL), "{name}");
            assert_eq!(server.timeout, before.timeout, "{name}");
            assert!(server.host.is_none() && server.user.is_none() && server.pass.is_none());
            assert!(server.certificate_file.is_none() && server.client_key.is_none());
            assert_eq!(server.auth_mechs, ["*"]);
            // And line by line: as it was, the tunnel, or nothing.
            let (old, new) = (String::from_utf8(text.clone()).unwrap(), &copied);
            let new = String::from_utf8(new.to_vec()).unwrap();
            if old.lines().all(|line| line.len() < 1000) {
                assert_eq!(old.lines().count(), new.lines().count(), "{name}");
                let mut tunnels = 0;
                for (old, new) in old.lines().zip(new.lines()) {
                    let blank = new.is_empty() || new == "#";
                    tunnels += usize::from(new.starts_with("Tunnel \"exec "));
                    let path = ["path ", "inbox ", "syncstate "]
                        .iter()
                        .any(|key| old.to_lowercase().trim_start().starts_with(key));
                    assert!(
                        blank || new == old || new.starts_with("Tunnel \"exec ") || path,
                        "{name}: {old:?} became {new:?}"
                    );
                }
                assert_eq!(tunnels, 1, "{name}");
            }
            for secret in secrets(&old) {
                assert!(!new.contains(secret), "{name}: {secret} is in the copy:\n{new}");
            }
        }
    }
    assert!(copies >= 30, "only {copies} copies");
}

#[test]
fn relative_paths_of_isync_1_5_start_from_the_file() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("etc");
    fs::create_dir(&dir).unwrap();
    let text = "SyncState states/\n\nIMAPAccount a\nHost h\nUser u\nPass secret\nTLSType None\n\n\
                IMAPStore f\nAccount a\n\nMaildirStore n\nPath mail/\nInbox in\n\n\
                Channel c\nFar :f:\nNear :n:\nPatterns *\n";
    let env = Env::new(home.path(), "/");
    let config =
        mbsyncrc::parse(text.as_bytes(), &dir.join("isyncrc"), &env, IsyncVersion::V1_5).unwrap();
    let copied = copy(text.as_bytes(), &purpose(&["c"], &config)).unwrap();
    let memory = Path::new("/proc/self/fd/7");
    let again = mbsyncrc::parse(&copied, memory, &env, IsyncVersion::V1_5).unwrap();
    let channels = |config: &Config| format!("{:#?}", config.accounts[0].channels);
    assert_eq!(channels(&config), channels(&again));
    assert!(channels(&again).contains(&dir.join("mail/").display().to_string()));
}
