//! Both real clients read what we print, and mean what we mean.

#![allow(clippy::unwrap_used, clippy::format_push_string, clippy::format_collect)]

use crate::support::*;
use mutt_sync::model::{Account, Mailbox};
use mutt_sync::mutt::identity::{identity, msmtp_senders};
use mutt_sync::mutt::muttrc::{AccountMail, Theirs, muttrc};
use mutt_sync::mutt::quote::{folder_regexp, quoted};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn all(accounts: &[(Account, Vec<Mailbox>)]) -> Vec<AccountMail<'_>> {
    accounts
        .iter()
        .map(|(account, mailboxes)| AccountMail { account, mailboxes, identity_file: None })
        .collect()
}

/// The environment that a client's own shell sees, after this muttrc.
fn environment_after(program: &str, home: &Path, rc: &str) -> BTreeMap<String, String> {
    let dump = home.join("environment");
    let _ = fs::remove_file(&dump);
    let file = home.join("dump.rc");
    let text = format!("{rc}\nset my_x='`env -0 >{}`'\n", dump.display()).replace('\'', "\"");
    // The quotes of our own line only: rc is written before it.
    let text = format!("{rc}\n{}", text.lines().last().unwrap());
    fs::write(&file, text).unwrap();
    assert_accepted(program, home, &file, "quoted names");
    fs::read(&dump)
        .unwrap()
        .split(|&byte| byte == 0)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let entry = String::from_utf8(entry.to_vec()).unwrap();
            let (name, value) = entry.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn assert_read_back(names: &[String]) {
    let home = tempfile::tempdir().unwrap();
    let mut rc = String::new();
    for (n, name) in names.iter().enumerate() {
        rc.push_str(&format!("setenv NAME_{n} {}\n", quoted(name).unwrap()));
    }
    for program in CLIENTS {
        let read = environment_after(program, home.path(), &rc);
        for (n, name) in names.iter().enumerate() {
            assert_eq!(read.get(&format!("NAME_{n}")), Some(name), "{program}");
        }
    }
}

#[test]
fn a_wrong_muttrc_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let rc = home.path().join("wrong.rc");
    for program in CLIENTS {
        for wrong in ["set no_such_option", "folder-hook", "mailbox a", "macro index"] {
            fs::write(&rc, format!("{wrong}\n")).unwrap();
            let output = asked_with(program, home.path(), &rc);
            assert!(!output.stderr.is_empty(), "{program} takes {wrong}: {output:?}");
        }
    }
}

#[test]
fn quoted_names_are_read_back_exactly() {
    assert_read_back(&NAMES.map(str::to_owned));
}

#[test]
fn any_quoted_name_is_read_back_exactly() {
    let soak = std::env::var_os("SOAK").is_some();
    let seed = [7; 32];
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &seed),
    );
    // Half of the characters from those that mean something to somebody.
    let name = "([\\\\\"'$`#;|=+~!<>@^%\\-{}()\\[\\].*? nrtcebH0]|\\PC){1,30}";
    let strategy = proptest::string::string_regex(name).unwrap();
    for _ in 0..if soak { 100 } else { 4 } {
        let names: Vec<String> =
            (0..200).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
        assert_read_back(&names);
    }
}

#[test]
fn muttrc_is_accepted_for_every_name() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("Mail")).unwrap();
    let mail = home.path().join("Mail");
    let mut accounts: Vec<_> = NAMES
        .iter()
        .map(|name| account(name, &mail.join(name), &["INBOX", "Drafts", name]))
        .collect();
    accounts.push(account("Home", &mail.join("Home"), &NAMES));
    for mailbox in accounts.iter().flat_map(|(_, mailboxes)| mailboxes) {
        // One that mbsync is still to make.
        if mailbox.name != "Drafts" {
            make_maildir(mailbox.maildir.as_deref().unwrap());
        }
    }
    let rc = home.path().join("printed");
    let main = home.path().join("muttrc");
    fs::write(&main, format!("source \"cat {}|\"\n", rc.display())).unwrap();
    for theirs in [(false, false), (true, false), (false, true), (true, true)] {
        let theirs = Theirs { hooks: theirs.0, accounts: theirs.1, ..Theirs::default() };
        fs::write(&rc, muttrc(&all(&accounts), theirs, home.path(), Path::is_dir)).unwrap();
        for program in CLIENTS {
            assert_accepted(program, home.path(), &main, "--muttrc");
        }
    }
    for (place, (account, mailboxes)) in accounts.iter().enumerate() {
        fs::write(&rc, identity(account, &[], place, mailboxes, &[])).unwrap();
        for program in CLIENTS {
            assert_accepted(program, home.path(), &rc, "--muttrc ACCOUNT");
        }
    }
}

#[test]
fn shipped_files_are_accepted() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".config/mutt");
    fs::create_dir_all(config.join("account")).unwrap();
    fs::create_dir(home.path().join("Mail")).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d");
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in [shipped.clone(), shipped.join("account")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, config.join(path.strip_prefix(&shipped).unwrap())).unwrap();
                files.push(config.join(path.strip_prefix(&shipped).unwrap()));
            }
        }
    }
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let all = home.path().join("all.rc");
    let sources: String = files
        .iter()
        .filter(|file| file.extension().is_some() && !file.ends_with("30-status-neomutt.rc"))
        .map(|file| format!("source {}\n", file.display()))
        .collect();
    fs::write(&all, sources).unwrap();
    files.push(all);
    for program in CLIENTS {
        for file in &files {
            // timeout-hook is neomutt's alone.
            if program == "mutt" && file.ends_with("30-status-neomutt.rc") {
                continue;
            }
            assert_accepted(program, home.path(), file, &file.display().to_string());
        }
    }
}

/// With all names in `mailboxes` and new mail in one folder only, `-Z` opens
/// that folder: both clients have its name right. Then the hooks say which
/// account and which mailbox it is.
#[test]
fn every_folder_is_found_and_known() {
    let home = tempfile::tempdir().unwrap();
    let mail = home.path().join("Mail");
    // A separate account for each tenth name: the account's own name is odd too.
    let accounts: Vec<_> = NAMES
        .chunks(10)
        .map(|names| account(names[0], &mail.join(names[0]), &[&["INBOX"][..], names].concat()))
        .collect();
    for mailbox in accounts.iter().flat_map(|(_, mailboxes)| mailboxes) {
        make_maildir(mailbox.maildir.as_deref().unwrap());
    }
    stand_in(home.path(), "exit 0");
    let out = home.path().join("out");
    let rc = home.path().join("muttrc");
    let end = format!(
        "\nset quit=yes mail_check=0 timeout=1\npush '<enter-command>setenv SEEN \"$my_account|$my_mailbox\"; \
         set my_x=\"`printenv SEEN >{}`\"<enter><exit>'\n",
        out.display()
    );
    fs::write(&rc, muttrc(&all(&accounts), Theirs::default(), home.path(), Path::is_dir) + &end)
        .unwrap();
    for program in CLIENTS {
        for (account, mailboxes) in &accounts {
            for mailbox in mailboxes {
                let _ = fs::remove_file(&out);
                let maildir = mailbox.maildir.as_deref().unwrap();
                deliver(maildir, "1.new", "new");
                let run = on_terminal(program, home.path(), &["-F", rc.to_str().unwrap(), "-Z"]);
                let seen = fs::read_to_string(&out).unwrap_or_else(|_| {
                    panic!("{program}: {maildir:?}: {}", String::from_utf8_lossy(&run.stdout))
                });
                let want = format!("{}|{}:{}\n", account.name, mailbox.channel, mailbox.name);
                assert_eq!(seen, want, "{program} in {maildir:?}");
                for sub in ["new", "cur"] {
                    for file in fs::read_dir(maildir.join(sub)).unwrap() {
                        fs::remove_file(file.unwrap().path()).unwrap();
                    }
                }
            }
        }
    }
}

/// A `mutt-sync` on PATH that does this.
fn stand_in(home: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = home.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let file = bin.join("mutt-sync");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn hooks_match_their_account_only() {
    let home = tempfile::tempdir().unwrap();
    let mail = home.path().join("Mail");
    let accounts = [
        account("Home", &mail.join("Home"), &["INBOX", "Sent", "Lists/mutt"]),
        account("Homestead", &mail.join("Homestead"), &["INBOX", "Home"]),
        account("Work", &mail.join("Work"), &["INBOX", "Homework", "Home/INBOX"]),
        // One account's directory inside another's.
        account("Inner", &mail.join("Work/Inner"), &["INBOX", "Sent"]),
    ];
    let cases = [
        ("Home/INBOX", "Home"),
        ("Home/Lists/mutt", "Home"),
        // Made after mutt was started.
        ("Home/New Folder", "Home"),
        ("Homestead/INBOX", "Homestead"),
        ("Homestead/Home", "Homestead"),
        ("Work/Homework", "Work"),
        ("Work/Home/INBOX", "Work"),
        ("Work/Inner/INBOX", "Inner"),
        ("Work/Inner/New", "Inner"),
        ("Homeless", ""),
        ("Other/Home/INBOX", ""),
    ];
    stand_in(home.path(), "exit 0");
    let out = home.path().join("out");
    let rc = home.path().join("muttrc");
    // Not where mutt starts, but what the hooks say, is asked here.
    let text = muttrc(&all(&accounts), Theirs::default(), home.path(), Path::is_dir);
    let text = text.split("# Where mutt starts").next().unwrap();
    let end = format!(
        "set my_account=\"\" folder={} quit=yes\npush '<enter-command>setenv SEEN \"$my_account\"; \
         set my_x=\"`printenv SEEN >{}`\"<enter><exit>'\n",
        mail.display(),
        out.display()
    );
    fs::write(&rc, format!("{text}{end}")).unwrap();
    for program in CLIENTS {
        for (folder, want) in cases {
            let _ = fs::remove_file(&out);
            make_maildir(&mail.join(folder));
            // Named as users do, by $folder.
            let args = ["-F", rc.to_str().unwrap(), "-f", &format!("={folder}")];
            on_terminal(program, home.path(), &args);
            assert_eq!(fs::read_to_string(&out).unwrap().trim_end(), want, "{program} in {folder}");
        }
    }
}

/// mutt-sync(1), MOVING OVER and EXAMPLES: also settings of before the line.
#[test]
fn hooks_and_settings_of_ones_own_hold() {
    let home = tempfile::tempdir().unwrap();
    let mail = home.path().join("Mail");
    let accounts = [account("Home", &mail.join("Home"), &["INBOX", "Sent"])];
    stand_in(home.path(), "exit 0");
    let (out, rc) = (home.path().join("out"), home.path().join("muttrc"));
    let text = muttrc(&all(&accounts), Theirs::default(), home.path(), Path::is_dir);
    // Nothing is set but variables of our own, and `wait_key` for as long as F8 takes.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (at, set) in line.match_indices("set ").filter(|(at, _)| !line[..*at].ends_with("un")) {
            let name = &line[at + set.len()..];
            assert!(name.starts_with("my_") || name.starts_with("wait_key=$my_"), "{line}");
        }
    }
    let text = text.split("# Where mutt starts").next().unwrap();
    let before = "set delete=ask-no quit=yes move=ask-no sleep_time=3 mail_check=7 timeout=11\n";
    let own = format!(
        "set my_account=\"\" folder={}\n\
         folder-hook =Home/ 'set my_own=\"own, of $my_account\"'\n\
         push '<enter-command>setenv SEEN \"$my_own, $delete, $quit, $move, $sleep_time, \
         $mail_check, $timeout\"; set my_x=\"`printenv SEEN >{}`\"<enter><exit>'\n",
        mail.display(),
        out.display()
    );
    fs::write(&rc, format!("{before}{text}{own}")).unwrap();
    for program in CLIENTS {
        let _ = fs::remove_file(&out);
        make_maildir(&mail.join("Home/INBOX"));
        on_terminal(program, home.path(), &["-F", rc.to_str().unwrap(), "-f", "=Home/INBOX"]);
        let seen = fs::read_to_string(&out).unwrap();
        assert_eq!(seen.trim_end(), "own, of Home, ask-no, yes, ask-no, 3, 7, 11", "{program}");
    }
}

#[test]
fn a_folder_regexp_is_literal() {
    // What the clients do with it is shown above; here that nothing else matches.
    assert_eq!(folder_regexp(&["/m/a.b/"]), "(^(/m/a\\.b)(/|$))");
}

/// Variables that an account's file sets or resets.
const PERSONAL: [&str; 11] = [
    "from",
    "mbox",
    "spoolfile",
    "postponed",
    "record",
    "trash",
    "sendmail",
    "signature",
    "pgp_sign_as",
    "use_envelope_from",
    "my_account",
];

/// Home → Work → Other → Home by real folder changes: each time all that the
/// files set is as if the client had been started there.
#[test]
fn no_account_leaves_anything_behind() {
    let home = tempfile::tempdir().unwrap();
    let mail = home.path().join("Mail");
    let senders = msmtp_senders(
        "defaults\nauth on\naccount Home\nhost smtp.home.example\nfrom me@home.example\n\
         account Work\nhost smtp.work.example\nfrom me@work.example\nuser me\n\
         account Work2 : Work\n",
    );
    let accounts = [
        account("Home", &mail.join("Home"), &["INBOX", "Drafts", "Sent", "Trash", "Archive"]),
        account("Work", &mail.join("Work"), &["INBOX", "Gesendet", "Papierkorb"]),
        account("Other", &mail.join("Other"), &["Lists"]),
    ];
    stand_in(home.path(), "exit 0");
    let dir = home.path().join("account");
    fs::create_dir(&dir).unwrap();
    let files: Vec<PathBuf> = accounts
        .iter()
        .enumerate()
        .map(|(place, (account, mailboxes))| {
            let mut text = identity(account, &[], place, mailboxes, &senders);
            if account.name == "Work" {
                text.push_str("set signature=~/work.sig pgp_sign_as=0x1234\n");
            }
            let file = dir.join(&account.name);
            fs::write(&file, text).unwrap();
            for mailbox in mailboxes {
                make_maildir(mailbox.maildir.as_deref().unwrap());
            }
            file
        })
        .collect();
    let told = with_files(&accounts, &files);
    let printed = muttrc(&told, Theirs::default(), home.path(), Path::is_dir);
    let folders = accounts.each_ref().map(|(_, mailboxes)| {
        mailboxes[0].maildir.as_deref().unwrap().to_str().unwrap().to_owned()
    });
    assert_nothing_left(home.path(), &printed, &folders, &["Home", "Work", "Other"]);
}

/// The same for the files of muttrc.d, with what their user may add.
#[test]
fn no_shipped_account_leaves_anything_behind() {
    let home = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d");
    let config = home.path().join(".config/mutt");
    fs::create_dir_all(config.join("account")).unwrap();
    for file in ["10-sync.rc", "20-accounts.rc", "account/default", "account/Home", "account/Work"]
    {
        let mut text = fs::read_to_string(shipped.join(file)).unwrap();
        if file == "account/Work" {
            assert!(text.contains("# set signature="));
            text = text.replace("# set signature=", "set signature=");
            text.push_str("set pgp_sign_as=0x1234\n");
        }
        fs::write(config.join(file), text).unwrap();
    }
    stand_in(home.path(), "exit 0");
    let mail = home.path().join("Mail");
    let folders = ["Home/INBOX", "Work/INBOX"].map(|folder| {
        make_maildir(&mail.join(folder));
        mail.join(folder).to_str().unwrap().to_owned()
    });
    let rc = "set folder=~/Mail\nsource ~/.config/mutt/10-sync.rc\n\
              source ~/.config/mutt/20-accounts.rc\n";
    assert_nothing_left(home.path(), rc, &folders, &["Home", "Work"]);
}

/// Walks from the first of these folders through the others and back: after each
/// step all that is personal is as if the client had been started there.
fn assert_nothing_left(home: &Path, printed: &str, folders: &[String], names: &[&str]) {
    let shot = |n: usize| {
        let vars: String =
            PERSONAL.iter().map(|var| format!("setenv V_{var} \"${var}\"; ")).collect();
        format!(
            "<enter-command>{vars}set my_x=\"`env | grep -a -e V_ -e MUTT_SYNC_ACC >{0}/shot{n}; \
             printenv MUTT_SYNC_ACCOUNT >>{0}/order`\"<enter>",
            home.display()
        )
    };
    let steps: Vec<usize> = (1..folders.len()).chain([0]).collect();
    for program in CLIENTS {
        let read = |n: usize| {
            let text = fs::read_to_string(home.join(format!("shot{n}"))).unwrap();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let rc = home.join("muttrc");
        let run = |text: &str, folder: &str| {
            fs::write(&rc, format!("{printed}push '{text}<exit>'\n")).unwrap();
            on_terminal(program, home, &["-F", rc.to_str().unwrap(), "-f", folder]);
        };
        let mut fresh = Vec::new();
        for (n, folder) in folders.iter().enumerate() {
            run(&shot(n), folder);
            fresh.push(read(n));
            assert!(n == 0 || fresh[n] != fresh[n - 1]);
        }
        assert!(fresh[0].iter().any(|line| line.contains("me@home.example")), "{:?}", fresh[0]);
        let _ = fs::remove_file(home.join("order"));
        let walk: String = steps
            .iter()
            .map(|&n| format!("<change-folder>{}<enter>{}", folders[n], shot(10 + n)))
            .collect();
        run(&walk, &folders[0]);
        for &n in &steps {
            assert_eq!(read(10 + n), fresh[n], "{program}, in {}", names[n]);
        }
        let order = fs::read_to_string(home.join("order")).unwrap();
        let want: String = steps.iter().map(|&n| format!("{}\n", names[n])).collect();
        assert_eq!(order, want, "{program}");
    }
}
