//! What `--init` prints: taken by mbsync, by this reader and by msmtp.

use crate::installed;
use mutt_sync::init::{MailAccount, providers};
use mutt_sync::mbsyncrc::{self, Env};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

#[test]
fn what_is_made_for_each_provider_is_taken_by_those_who_read_it() {
    let home = tempfile::tempdir().unwrap();
    let (config, senders) = (home.path().join(".mbsyncrc"), home.path().join(".msmtprc"));
    let env = Env::new(home.path(), home.path());
    // msmtp asks for the password before it pretends.
    let pass = home.path().join("pass");
    fs::write(&pass, "#!/bin/sh\n[ \"$#\" = 1 ] && echo \"of $1\"\n").unwrap();
    let pizauth = home.path().join("pizauth");
    fs::write(&pizauth, "#!/bin/sh\n[ \"$1\" = show ] && echo token\n").unwrap();
    for program in [pass, pizauth] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(home.path().join(".config")).unwrap();
    fs::write(home.path().join(".config/proton-bridge.pem"), rig::Ca::shared().cert()).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let mut domains = vec!["home.example".to_owned()];
    domains.extend(providers().unwrap().into_iter().map(|provider| provider.domains[0].clone()));
    let mut made = 0;
    for domain in domains {
        let address = format!("jo.d+x@{domain}");
        let Ok(account) = MailAccount::of(&address) else { continue };
        made += 1;
        fs::write(&config, account.mbsyncrc(Some(installed()))).unwrap();
        let output = Command::new(rig::real_mbsync())
            .arg("-c")
            .arg(&config)
            .arg("no-such-channel")
            .env("HOME", home.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = "No channel or group named 'no-such-channel' defined.\n";
        assert!(said.starts_with(expected), "{domain}: not even a notice before: {said}");
        let read = mbsyncrc::read(&config, &env, installed()).unwrap();
        let [account_read] = &read.accounts[..] else { panic!("{domain}: one account") };
        let server = account_read.server.as_ref().unwrap();
        assert!(server.host.is_some() && server.pass.is_some() && server.user.is_some());
        assert!(account_read.channels[0].patterns.is_some(), "{domain}");
        fs::write(&senders, account.msmtprc()).unwrap();
        fs::set_permissions(&senders, fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new("msmtp")
            .arg("--file")
            .arg(&senders)
            .args(["--pretend", "you@home.example"])
            .env("HOME", home.path())
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{domain}: {said}");
        assert!(shown.contains(&format!("from = {address}\n")), "{domain}: {shown}");
    }
    assert!(made > 25, "{made}");
}

#[test]
fn special_mailboxes_of_gmail_are_synced_and_the_copies_of_all_are_not() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".mbsyncrc");
    let account = MailAccount::of("me@gmail.com").unwrap();
    fs::write(&config, account.mbsyncrc(Some(installed()))).unwrap();
    let env = Env::new(home.path(), home.path());
    let read = mbsyncrc::read(&config, &env, installed()).unwrap();
    let patterns = read.accounts[0].channels[0].patterns.clone().unwrap();
    let admits = |name: &str| mbsyncrc::pattern::admits(&patterns, name);
    for name in ["INBOX", "Lists/a", "[Gmail]/Sent Mail", "[Gmail]/Trash", "[Gmail]/Drafts"] {
        assert!(admits(name), "{name}");
    }
    for name in ["[Gmail]/All Mail", "[Gmail]/Important", "[Gmail]/Starred", "[Gmail]"] {
        assert!(!admits(name), "{name}");
    }
}
