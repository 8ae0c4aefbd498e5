//! Which mailboxes a word means: `mbsync -l WORD` against what is selected for
//! it, and back: the words for a selection against what mbsync lists for them.

use crate::installed;
use mutt_sync::mbsyncrc::{self, Config, Env};
use mutt_sync::model::{Account, Target};
use rig::{Home, Server, ServerOptions};
use std::collections::BTreeSet;

const FILE: &str = "\
Create Both

IMAPStore far
Host 127.0.0.1
Port @PORT@
User u
Pass @PASS@
SSLType None
AuthMechs LOGIN

MaildirStore near
Path ~/Mail/
Inbox ~/Mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns * !Lists*

Channel lists
Far :far:Lists/
Near :near:l/
Patterns *

Channel one
Far :far:Sent
Near :near:one

Channel hidden
Far :far:
Near :near:
Patterns INBOX Drafts

Channel \"odd:name\"
Far :far:Trash
Near :near:odd

Group often all:INBOX,Sent lists
Channel one

Group hidden one

Group same lists

Group back one lists:c all

Group only hidden

Group both hidden all

Group all:Trash one
";

/// Channel and far name of each mailbox.
type Boxes = BTreeSet<(String, String)>;

/// What mbsync lists for these arguments, all of them options or words.
fn listed(home: &Home, args: &[String], single: Option<&str>) -> Boxes {
    let mut command = vec!["-l"];
    command.extend(args.iter().map(String::as_str));
    let output = home.mbsync(&command);
    assert!(output.status.success(), "{args:?}: {}", output.stderr);
    let mut channel = single.unwrap_or_default().to_string();
    let mut found = Boxes::new();
    for line in output.stdout.lines() {
        match line.strip_suffix(':') {
            // Headings come with more than one channel only.
            Some(name) if !line.contains(" <=> ") => channel = name.to_string(),
            _ => {
                let far = line.split_once(" <=> ").map_or(line, |(far, _)| far);
                found.insert((channel.clone(), far.to_string()));
            }
        }
    }
    found
}

fn meant<'a>(
    config: &Config,
    account: &Account,
    wants: impl IntoIterator<Item = &'a Target>,
) -> Boxes {
    let mut found = Boxes::new();
    for want in wants {
        for channel in &account.channels {
            let mailboxes = match want {
                Target::Account => config.channel_mailboxes(channel),
                Target::Channel(name) if *name == channel.name => config.channel_mailboxes(channel),
                Target::Mailbox { channel: name, .. } if *name == channel.name => {
                    account.mailbox(want).into_iter().collect()
                }
                _ => vec![],
            };
            found.extend(mailboxes.into_iter().map(|mailbox| (mailbox.channel, mailbox.far)));
        }
    }
    found
}

struct Setup {
    _server: Server,
    home: Home,
}

impl Setup {
    fn new() -> Self {
        let server = Server::with(ServerOptions {
            users: vec!["u".into()],
            boxes: ["Sent", "Drafts", "Trash", "Lists/rust", "Lists/c"].map(String::from).into(),
            notify: false,
            ..ServerOptions::default()
        });
        let home = Home::empty();
        std::fs::create_dir_all(home.path("Mail")).unwrap();
        let text = FILE
            .replace("@PORT@", &server.port().to_string())
            .replace("@PASS@", &server.password("u"));
        home.write(".mbsyncrc", &text);
        for name in ["all", "lists", "one", "hidden:INBOX,Drafts"] {
            let synced = home.mbsync(&[name]);
            assert!(synced.status.success(), "{name}: {}", synced.stderr);
        }
        Setup { _server: server, home }
    }

    fn config(&self) -> Config {
        let path = self.home.path(".mbsyncrc");
        let dir = path.parent().unwrap();
        mbsyncrc::read(&path, &Env::new(dir, dir), installed()).unwrap()
    }
}

/// The channels in the order in which mbsync runs them for these arguments.
fn run_order(home: &Home, args: &[&str]) -> Vec<String> {
    let output = home.mbsync(&[&["-V"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", output.stderr);
    let channel = |line: &str| line.strip_prefix("Channel ").map(str::to_owned);
    output.stdout.lines().filter_map(channel).collect()
}

#[test]
fn channels_run_in_the_order_in_which_the_user_names_them() {
    let setup = Setup::new();
    let home = &setup.home;
    let orders: [(&[&str], &[&str]); 5] = [
        (&["one", "all"], &["one", "all"]),
        (&["back"], &["one", "lists", "all"]),
        (&["lists:rust", "all:Sent"], &["lists", "all"]),
        (&["often"], &["all", "lists", "one"]),
        (&["all", "one"], &["all", "one"]),
    ];
    for (words, expected) in orders {
        let mut config = setup.config();
        config.order_channels(words);
        let selected = config.select(words).unwrap();
        let [(0, targets)] = &selected[..] else { panic!("{words:?}: {selected:?}") };
        let ours = config.mbsync_words(&config.accounts[0], targets).args();
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        assert_eq!(run_order(home, &ours), expected, "{words:?} by {ours:?}");
        assert_eq!(run_order(home, words), expected, "{words:?}");
    }
    // A name that means all of them: the file's order.
    let mut config = setup.config();
    config.order_channels(&["far"]);
    let names: Vec<&str> =
        config.accounts[0].channels.iter().map(|channel| channel.name.as_str()).collect();
    assert_eq!(names, ["all", "lists", "one", "hidden", "odd:name"]);
    let mbsync = home.exec_mbsync();
    home.mutt_sync(&["--full", "one", "all"]).ok();
    assert_eq!(mbsync.runs().pop().unwrap().names(), ["one", "all"]);
}

#[test]
fn words_mean_to_mbsync_what_they_mean_here() {
    let setup = Setup::new();
    let (home, config) = (&setup.home, setup.config());
    let account = &config.accounts[0];

    // A word, and the channel that mbsync's listing is of if it names none.
    let words = [
        ("all", "all"),
        ("lists", "lists"),
        ("one", "one"),
        ("often", ""),
        ("hidden", "one"),
        ("same", "lists"),
        ("all:Sent", "all"),
        ("all:,Sent", "all"),
        ("lists:rust", "lists"),
        ("hidden:Drafts", "hidden"),
        ("all:Trash", "one"),
    ];
    for (word, single) in words {
        let theirs = listed(home, &[word.to_string()], Some(single));
        let selected = config.select(&[word]).unwrap_or_else(|failure| panic!("{failure}"));
        let [(0, wants)] = &selected[..] else { panic!("{word}: {selected:?}") };
        assert_eq!(meant(&config, account, wants), theirs, "{word}: ours are on the left");
    }

    // Of a group's channels, those whose Patterns admit the mailbox.
    let sent = Target::Mailbox { channel: "all".into(), name: "Sent".into() };
    assert_eq!(config.select(&["both:Sent"]).unwrap(), [(0, BTreeSet::from([sent]))]);
    let refused = config.select(&["only:Sent"]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the Patterns of `only` exclude the mailbox `Sent`; name the channel: hidden:Sent"
    );
    assert!(config.select(&["hidden:Sent"]).is_ok(), "the channel itself");

    // Back again, also for what needs a detour.
    let channel = |name: &str| Target::Channel(name.into());
    let mailbox =
        |channel: &str, name: &str| Target::Mailbox { channel: channel.into(), name: name.into() };
    let selections: &[(&[Target], &str)] = &[
        (&[channel("all")], "all"),
        (&[channel("hidden")], "hidden"),
        (&[mailbox("hidden", "Drafts"), mailbox("hidden", "INBOX")], "hidden"),
        (&[mailbox("all", "Trash")], "all"),
        (&[mailbox("all", "Trash"), mailbox("lists", "c"), channel("one")], ""),
        (&[channel("lists"), mailbox("lists", "c")], "lists"),
        (&[mailbox("one", "one")], "one"),
        (&[Target::Account], ""),
    ];
    for (wants, single) in selections {
        let words = config.mbsync_words(account, *wants);
        assert!(words.unreachable.is_empty(), "{words:?}");
        let theirs = listed(home, &words.args(), Some(single));
        let mut ours = meant(&config, account, *wants);
        // A mailbox of a channel without Patterns is its channel.
        ours.retain(|(_, far)| !far.is_empty());
        assert_eq!(ours, theirs, "{wants:?} by {words:?}");
    }
    assert_eq!(config.mbsync_words(account, &[channel("odd:name")]).unreachable, ["odd:name"]);
}
