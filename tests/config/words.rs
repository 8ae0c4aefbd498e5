//! Names that users type, and the words mbsync gets for them.

use mutt_sync::error::ExitStatus;
use mutt_sync::mbsyncrc::{self, Config, Env, IsyncVersion, MbsyncWords};
use mutt_sync::model::{Mailbox, Target};
use std::collections::BTreeSet;
use std::path::Path;

const TWO: &str = "\
IMAPAccount Home
Host imap.example.org
User u
PassCmd \"+pass home\"

IMAPStore Home-far
Account Home

MaildirStore Home-near
Path @/Home/
Inbox @/Home/INBOX
SubFolders Verbatim

Channel Home
Far :Home-far:
Near :Home-near:
Patterns * !Junk !Archive*
Create Near
SyncState *

Channel Home-archive
Far :Home-far:Archive/
Near :Home-near:Old/
Patterns %
Create Both

IMAPStore Work
Host work.example.org
User w

MaildirStore Work-near
Path @/Work/

Channel Work-in
Far :Work:
Near :Work-near:in

Channel Work-sent
Far :Work:Sent
Near :Work-near:sent

Group Morning
Channel Home:INBOX,Sent
Channels Work-in gone

Group All Home Home-archive Work-in Work-sent
";

fn config(text: &str, dir: &Path) -> Config {
    let text = text.replace('@', &dir.display().to_string());
    let env = Env::new(dir, dir);
    match mbsyncrc::parse(text.as_bytes(), &dir.join(".mbsyncrc"), &env, IsyncVersion::V1_4) {
        Ok(config) => config,
        Err(failure) => panic!("{failure}"),
    }
}

fn channel(name: &str) -> Target {
    Target::Channel(name.into())
}

fn mailbox(channel: &str, name: &str) -> Target {
    Target::Mailbox { channel: channel.into(), name: name.into() }
}

/// `account: want, want` for short.
fn chosen(config: &Config, words: &[&str]) -> Vec<(String, Vec<Target>)> {
    match config.select(words) {
        Ok(found) => found
            .into_iter()
            .map(|(index, wants)| {
                (config.accounts[index].name.clone(), wants.into_iter().collect())
            })
            .collect(),
        Err(failure) => panic!("{words:?}: {failure}"),
    }
}

fn refused(config: &Config, word: &str) -> String {
    let failure = config.select(&[word]).expect_err(word);
    assert_eq!(failure.status, ExitStatus::Usage, "{word}: {failure}");
    failure.to_string()
}

#[test]
fn names_mean_groups_then_channels_then_accounts_and_stores() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(TWO, dir.path());
    let one = |account: &str, wants: Vec<Target>| vec![(account.to_string(), wants)];
    assert_eq!(chosen(&config, &["Home"]), one("Home", vec![channel("Home")]));
    assert_eq!(chosen(&config, &["Work"]), one("Work", vec![Target::Account]));
    assert_eq!(chosen(&config, &["Work-near"]), one("Work", vec![Target::Account]));
    assert_eq!(chosen(&config, &["Home-far"]), one("Home", vec![Target::Account]));
    assert_eq!(chosen(&config, &["Work-in", "Work-sent"]), one("Work", vec![Target::Account]));
    assert_eq!(
        chosen(&config, &["Morning"]),
        [
            ("Home".into(), vec![mailbox("Home", "INBOX"), mailbox("Home", "Sent")]),
            ("Work".into(), vec![channel("Work-in")])
        ]
    );
    assert_eq!(
        chosen(&config, &["All"]),
        [("Home".into(), vec![Target::Account]), ("Work".into(), vec![Target::Account])]
    );
    assert_eq!(
        chosen(&config, &["Home:INBOX", "Home"]),
        one("Home", vec![channel("Home")]),
        "a whole channel swallows its boxes"
    );
    assert!(
        config.notices.iter().any(|n| n.message.contains("names gone")),
        "{:?}",
        config.notices
    );
}

#[test]
fn boxes_go_by_either_sides_name() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["Home/Old/2023", "Home/INBOX", "Home/Drafts", "Work/in"] {
        std::fs::create_dir_all(dir.path().join(folder).join("cur")).unwrap();
    }
    let config = config(TWO, dir.path());
    let one = |account: &str, want: Target| vec![(account.to_string(), vec![want])];
    let old = one("Home", mailbox("Home-archive", "2023"));
    for word in ["Home-archive:2023", "Home-archive:Archive/2023", "Home-archive:Old/2023"] {
        assert_eq!(chosen(&config, &[word]), old, "{word}");
    }
    assert_eq!(chosen(&config, &["Home-far:Archive/2023"]), old);
    // Not there yet, but it could be: numbers are no slips.
    assert_eq!(
        chosen(&config, &["Home-archive:2024"]),
        one("Home", mailbox("Home-archive", "2024"))
    );
    assert_eq!(chosen(&config, &["Home:"]), one("Home", mailbox("Home", "INBOX")));
    // A channel without Patterns has one pair, so its box is the channel.
    for word in ["Work:INBOX", "Work:in", "Work-in:in"] {
        assert_eq!(chosen(&config, &[word]), one("Work", channel("Work-in")), "{word}");
    }
    assert_eq!(
        refused(&config, "Home:Draft"),
        "`Home` has no mailbox `Draft` (there are: INBOX, Drafts, Old/2023); did you mean `Drafts`?"
    );
    // mbsync would follow it out of the store.
    for name in ["Work:../sent", "Work:sent,a/../../b", "Home:.."] {
        assert!(refused(&config, name).contains("has no mailbox"), "{name}");
    }
    assert_eq!(refused(&config, "Work:Sort"), "`Work` has no mailbox `Sort` (there are: in, sent)");
    assert_eq!(
        refused(&config, "Work:Snt"),
        "`Work` has no mailbox `Snt` (there are: in, sent); did you mean `sent`?"
    );
}

#[test]
fn an_unknown_name_gets_the_nearest_and_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(TWO, dir.path());
    assert_eq!(
        refused(&config, "Hme"),
        "no account, channel or group `Hme` (there are: Home, Work, \
         Morning, All, Home-archive, Work-in, Work-sent); did you mean `Home`?"
    );
    std::fs::create_dir_all(dir.path().join("Home/Drafts/cur")).unwrap();
    let mailbox = refused(&config, "Drafts");
    assert!(mailbox.ends_with("; did you mean `Home:Drafts`?"), "{mailbox}");
}

fn words(config: &Config, account: usize, wants: &[Target]) -> MbsyncWords {
    config.mbsync_words(&config.accounts[account], wants)
}

fn plain(words: &[&str]) -> MbsyncWords {
    MbsyncWords { words: words.iter().map(ToString::to_string).collect(), ..MbsyncWords::default() }
}

#[test]
fn mbsync_is_given_few_words_in_the_files_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(TWO, dir.path());
    assert_eq!(words(&config, 0, &[Target::Account]), plain(&["Home", "Home-archive"]));
    let wants = [
        mailbox("Home-archive", "2023"),
        mailbox("Home", "Sent"),
        mailbox("Home", "INBOX"),
        mailbox("Home", "Sent"),
    ];
    assert_eq!(words(&config, 0, &wants), plain(&["Home:Sent,INBOX", "Home-archive:2023"]));
    assert_eq!(words(&config, 0, &[mailbox("Home", "a,b")]), plain(&["Home"]));
    assert_eq!(words(&config, 1, &[mailbox("Work-in", "in")]), plain(&["Work-in"]));
    assert_eq!(words(&config, 0, &wants).args()[0], "--");
}

#[test]
fn hidden_channels_are_reached_by_other_means() {
    let dir = tempfile::tempdir().unwrap();
    let base = "\
IMAPStore far
Host h

MaildirStore near
Path @/m/
Inbox @/m/INBOX

Channel a
Far :far:
Near :near:
Patterns *

Channel b
Far :far:x
Near :near:x

";
    std::fs::create_dir_all(dir.path().join("m/Sent/cur")).unwrap();
    // The group of the channel's name brings more than is wanted: its boxes are named.
    let wide = config(&format!("{base}Group a a b\n"), dir.path());
    assert_eq!(words(&wide, 0, &[channel("a")]), plain(&["a:INBOX,Sent"]));
    // All is wanted, and the group is all.
    assert_eq!(words(&wide, 0, &[Target::Account]).args(), ["-a"]);
    // A group of the channel alone stands for it.
    let same = config(&format!("{base}Group a a\n"), dir.path());
    assert_eq!(words(&same, 0, &[channel("a")]), plain(&["a"]));
    let other = config(&format!("{base}Group b a\n\nGroup c b\n"), dir.path());
    assert_eq!(words(&other, 0, &[channel("b")]), plain(&["c"]));
    // Nothing brings b alone.
    let lost = config(&format!("{base}Group b a\n"), dir.path());
    assert_eq!(words(&lost, 0, &[channel("b")]).unreachable, ["b"]);
    assert!(words(&lost, 0, &[Target::Account]).all);
    // A colon in a channel's name: -a, if that is the same.
    let colon = config(&base.replace("Channel b", "Channel b:c"), dir.path());
    assert_eq!(words(&colon, 0, &[channel("b:c")]).unreachable, ["b:c"]);
    assert!(words(&colon, 0, &[Target::Account]).all);
    assert_eq!(chosen(&colon, &["b:c"]), [("far".into(), vec![channel("b:c")])]);
    // A group may bear the name of a box.
    let boxed = config(&format!("{base}Group a:Sent b\n"), dir.path());
    assert_eq!(words(&boxed, 0, &[mailbox("a", "Sent")]), plain(&["a:Sent,Sent"]));
}

#[test]
fn local_mailboxes_come_in_mbsyncs_order() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["Zeta", "INBOX", "INBOX/x", "Alpha/b", "Junk", "Archive/1"] {
        std::fs::create_dir_all(dir.path().join("Home").join(folder).join("cur")).unwrap();
    }
    let config = config(TWO, dir.path());
    let found = config.local_mailboxes(&config.accounts[0]);
    let names: Vec<&str> = found.iter().map(|mailbox| mailbox.name.as_str()).collect();
    assert_eq!(names, ["INBOX", "INBOX/x", "Alpha/b", "Zeta"]);
    let home = dir.path().join("Home");
    assert_eq!(
        found[2],
        Mailbox {
            channel: "Home".into(),
            name: "Alpha/b".into(),
            far: "Alpha/b".into(),
            near: "Alpha/b".into(),
            maildir: Some(home.join("Alpha/b")),
            state_file: Some(home.join("Alpha/b/.mbsyncstate")),
            addressable: true,
        }
    );
    let all: BTreeSet<Target> = config.accounts[0]
        .channels
        .iter()
        .map(|channel| Target::Channel(channel.name.clone()))
        .collect();
    assert_eq!(config.accounts[0].canonical(&all), BTreeSet::from([Target::Account]));
}
