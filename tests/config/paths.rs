//! Where mbsync puts mailboxes and states, and which it lists, compared with
//! what this reader says, after real syncs with a real server.

use crate::installed;
use mutt_sync::mbsyncrc::{self, Config, Env, IsyncVersion};
use mutt_sync::model::{Channel, Mailbox};
use rig::{Home, Server, ServerOptions, message};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// On the server; `|` is its separator.
const BOXES: &[&str] = &[
    "INBOX",
    "INBOX|sub",
    "INBOX|sub|deep",
    "Lists|rust",
    "Lists|c",
    "Sent Items",
    "Entw&APw-rfe",
    "Archive|2023|May",
    "comma,name",
    "Inboxes",
];

const STATE_IN_BOX: &str = "SyncState *\n";
const STATE_OF_CHANNEL: &str = "SyncState @DIR@/state/ch-\n";
const STATE_DEFAULT: &str = "";

struct Case {
    name: &'static str,
    /// Above all sections.
    globals: &'static str,
    /// Of the `IMAPStore`.
    far: &'static str,
    /// Of the `MaildirStore`.
    near: &'static str,
    /// Channel sections; `ServerWatch :far:` and so on.
    channels: &'static [&'static str],
    /// Places that must have been compared, so that no case is empty.
    at_least: usize,
}

const VERBATIM: &str = "Path @DIR@/Mail/\nInbox @DIR@/Mail/INBOX\nSubFolders Verbatim\n";
const ALL: &str = "Far :far:\nNear :near:\nPatterns *\n";

const CASES: &[Case] = &[
    Case { name: "verbatim", globals: "", far: "", near: VERBATIM, channels: &[ALL], at_least: 10 },
    Case {
        name: "legacy",
        globals: "FieldDelimiter ;\nSyncState @DIR@/states/\n",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Mail/INBOX\nSubFolders Legacy\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "plusplus",
        globals: "SyncState *\n",
        far: "",
        near: "Inbox @DIR@/Mail\nSubFolders Maildir++\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "unset",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Mail/INBOX\n",
        channels: &["Far :far:\nNear :near:\nPatterns %\n"],
        at_least: 5,
    },
    Case {
        name: "inbox-outside",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/In\nSubFolders Verbatim\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "default-inbox",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nSubFolders Verbatim\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "inbox-named-otherwise",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Mail/Eingang\nSubFolders Verbatim\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "path-without-slash",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail\nInbox @DIR@/Inbox\nSubFolders Verbatim\n",
        // The string is simply put in front, so nothing is found below it again.
        channels: &["Far \":far:Sent Items\"\nNear :near:sent\n"],
        at_least: 1,
    },
    Case {
        name: "flatten",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Mail/INBOX\nFlatten .\n",
        channels: &[ALL],
        at_least: 10,
    },
    Case {
        name: "flatten-long",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Inbox\nFlatten _-_\nSubFolders Verbatim\n",
        channels: &["Far :far:\nNear :near:\nPatterns * INBOX/*\n"],
        at_least: 10,
    },
    Case {
        name: "map-inbox-near",
        globals: "",
        far: "",
        near: "Path @DIR@/Mail/\nInbox @DIR@/Mail/in\nMapInbox in\nSubFolders Verbatim\n",
        channels: &["Far :far:\nNear :near:in\n", "Far :far:Lists/\nNear :near:l/\nPatterns *\n"],
        at_least: 3,
    },
    Case {
        name: "map-inbox-far",
        globals: "",
        far: "MapInbox box\n",
        near: VERBATIM,
        channels: &["Far :far:\nNear :near:\nPatterns box Lists/%\n"],
        at_least: 3,
    },
    Case {
        name: "prefixes",
        globals: "",
        far: "",
        near: VERBATIM,
        channels: &[
            "Far :far:Lists/\nNear :near:L/\nPatterns *\n",
            "Far :far:Archive\nNear :near:old\nPatterns /*\n",
            "Far :far:INBOX/\nNear :near:below/\nPatterns *\n",
        ],
        at_least: 5,
    },
    Case {
        name: "no-patterns",
        globals: "SyncState @DIR@/states/s\n",
        far: "",
        near: VERBATIM,
        channels: &[
            "Far :far:\nNear :near:\n",
            "Far \":far:Sent Items\"\nNear :near:sent\n",
            "Far :far:comma,name\nNear :near:a,b\n",
            "Far :far:Lists/rust\nNear :near:INBOX/rust\n",
        ],
        at_least: 4,
    },
    Case {
        name: "exclusions",
        globals: "",
        far: "",
        near: VERBATIM,
        channels: &[
            "Far :far:\nNear :near:\nPatterns * !Lists* Lists/c !\"Sent Items\" !Archive/%\n",
        ],
        at_least: 7,
    },
    Case {
        name: "last-wins",
        globals: "",
        far: "",
        near: VERBATIM,
        channels: &["Far :far:\nNear :near:\nPatterns !Inboxes % %/% !INBOX/%\n"],
        // `%/%` matches nothing, for `%` does not stop before a `/`.
        at_least: 5,
    },
    Case {
        name: "far-path",
        globals: "",
        far: "Path Lists/\n",
        near: VERBATIM,
        channels: &[ALL],
        at_least: 2,
    },
    Case {
        name: "far-path-one",
        globals: "",
        far: "Path Lists/\n",
        near: VERBATIM,
        channels: &["Far :far:c\nNear :near:INBOX/c\n", "Far :far:\nNear :near:\n"],
        at_least: 2,
    },
    Case {
        name: "far-flatten",
        globals: "",
        far: "Flatten -\n",
        near: VERBATIM,
        channels: &["Far :far:@DRAFTS@\nNear :near:d\n", "Far :far:\nNear :near:\n"],
        at_least: 2,
    },
];

/// What only 1.4 takes.
const PATH_INSIDE_INBOX: Case = Case {
    name: "path-inside-inbox",
    globals: "",
    far: "",
    near: "Path @DIR@/Mail/folders/\nInbox @DIR@/Mail\nSubFolders Verbatim\n",
    channels: &["Far :far:\nNear :near:\nPatterns INBOX* Lists/*\n"],
    at_least: 5,
};

fn config(case: &Case, server: &Server, home: &Path, state: &str) -> String {
    let mut text = format!(
        "Create Both\n{}\nIMAPStore far\nHost 127.0.0.1\nPort {}\nUser {}\nPass {}\nSSLType None\n\
         AuthMechs LOGIN\n{}\nMaildirStore near\n{}\n",
        case.globals,
        server.port(),
        case.name,
        server.password(case.name),
        case.far,
        case.near
    );
    for (index, channel) in case.channels.iter().enumerate() {
        let _ = writeln!(text, "Channel ch{index}\n{channel}{state}");
    }
    // 1.4 leaves names as the server has them, and sees a `-` of Flatten in this
    // one; 1.5 reads their UTF-7.
    let drafts = if installed() == IsyncVersion::V1_4 { "Entw&APw/rfe" } else { "Entwürfe" };
    text.replace("@DIR@", &home.display().to_string()).replace("@DRAFTS@", drafts)
}

/// `mbsync -l`: far and near names, in its order.
fn listed(home: &Home, channel: &Channel) -> Vec<(String, String)> {
    let output = home.mbsync(&["-l", &channel.name]);
    assert!(output.status.success(), "{}", output.stderr);
    output
        .stdout
        .lines()
        .map(|line| match line.split_once(" <=> ") {
            Some((far, near)) => (far.to_string(), near.to_string()),
            None => (line.to_string(), line.to_string()),
        })
        .collect()
}

/// The messages in a Maildir, as the bodies of all of them.
fn bodies(maildir: &Path) -> Vec<String> {
    ["cur", "new"]
        .iter()
        .flat_map(|sub| fs::read_dir(maildir.join(sub)).into_iter().flatten())
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect()
}

/// Compares one channel, and gives the number of mailboxes in it.
fn compare(
    case: &str,
    config: &Config,
    home: &Home,
    channel: &Channel,
    body: &dyn Fn(&str) -> String,
) -> usize {
    let theirs = listed(home, channel);
    let ours = config.channel_mailboxes(channel);
    let names: Vec<(String, String)> =
        ours.iter().map(|mailbox| (mailbox.far.clone(), mailbox.near.clone())).collect();
    assert_eq!(names, theirs, "{case}: {}: ours are on the left", channel.name);
    let mut places = BTreeSet::new();
    for Mailbox { far, maildir, state_file, name, .. } in &ours {
        let maildir = maildir.as_deref().unwrap_or_else(|| panic!("{case}: {name} has no place"));
        let found = bodies(maildir);
        assert_eq!(found.len(), 1, "{case}: {far} in {}", maildir.display());
        assert!(
            found[0].contains(&body(far)),
            "{case}: {far} in {}: {}",
            maildir.display(),
            found[0]
        );
        let state = state_file.as_deref().unwrap_or_else(|| panic!("{case}: {name} has no state"));
        let text = fs::read_to_string(state)
            .unwrap_or_else(|error| panic!("{case}: {far}: {}: {error}", state.display()));
        assert!(text.starts_with("FarUidValidity "), "{text}");
        assert!(places.insert(maildir.to_path_buf()), "{case}: {name}: same place twice");
        assert!(places.insert(state.to_path_buf()), "{case}: {name}: same state twice");
    }
    ours.len()
}

fn check(cases: &[Case], separator: char, prefix: &str) {
    let server = Server::with(ServerOptions {
        users: cases.iter().map(|case| case.name.to_string()).collect(),
        boxes: vec![],
        notify: false,
        separator,
        prefix: prefix.into(),
        // What an INBOX can have below it depends on the storage.
        format: "sdbox".into(),
        ..ServerOptions::default()
    });
    let raw = |name: &str| {
        let name = name.replace('|', &separator.to_string());
        if name.starts_with("INBOX") && !name.starts_with("INBOXE") {
            name
        } else {
            format!("{prefix}{name}")
        }
    };
    for (index, case) in cases.iter().enumerate() {
        let mut imap = server.imap(case.name);
        let boxes: Vec<&&str> =
            BOXES.iter().filter(|name| prefix.is_empty() || !name.starts_with("INBOX|")).collect();
        for name in boxes {
            let raw = raw(name);
            if raw != "INBOX" {
                imap.create(&raw);
            }
            imap.append(&raw, &message("here", &format!("body of <{name}>")), &["\\Seen"]);
        }
        // Far names are without the prefix of a namespace or Path; `/` between levels.
        let body = |far: &str| {
            let far = if far == "box" { "INBOX" } else { far };
            let path = case.far.strip_prefix("Path ").map_or("", str::trim_end);
            let whole = if far.starts_with("INBOX") { far.into() } else { format!("{path}{far}") };
            let level = if case.far.starts_with("Flatten") { "-" } else { "|" };
            let whole = whole.replace('ü', "&APw-");
            format!("body of <{}>", whole.replace('/', level))
        };
        for (number, state) in [STATE_DEFAULT, STATE_IN_BOX, STATE_OF_CHANNEL].iter().enumerate() {
            // One of them in turn, or all of them when there is time.
            if !rig::soak() && (number != index % 3) {
                continue;
            }
            let home = Home::empty();
            for dir in ["Mail", "state", "states", "Mail/folders"] {
                if dir != "Mail/folders" || case.near.contains(dir) {
                    fs::create_dir_all(home.path(dir)).unwrap();
                }
            }
            // A channel's own prefix names no far mailbox: two channels would share states.
            let state = if *state == STATE_OF_CHANNEL && case.channels.len() > 1 {
                STATE_IN_BOX
            } else {
                state
            };
            let path = home.write(".mbsyncrc", &config(case, &server, &home.path(""), state));
            let dir = path.parent().unwrap();
            let read = mbsyncrc::read(&path, &Env::new(dir, dir), installed()).unwrap();
            let synced = home.mbsync(&["-a"]);
            assert!(synced.status.success(), "{}: {}", case.name, synced.stderr);
            let count: usize = read.accounts[0]
                .channels
                .iter()
                .map(|channel| compare(case.name, &read, &home, channel, &body))
                .sum();
            assert!(count >= case.at_least, "{}: only {count}", case.name);
        }
    }
}

#[test]
fn mailboxes_and_states_lie_where_mbsync_puts_them() {
    check(CASES, '/', "");
}

#[test]
fn folders_inside_the_inbox_lie_where_1_4_puts_them_and_1_5_refuses_them() {
    if installed() == IsyncVersion::V1_4 {
        return check(&[PATH_INSIDE_INBOX], '/', "");
    }
    let (server, home) = (Server::start(), Home::empty());
    let path =
        home.write(".mbsyncrc", &config(&PATH_INSIDE_INBOX, &server, &home.path(""), STATE_IN_BOX));
    let said = home.mbsync(&["-a"]).stderr;
    assert!(said.contains("Path cannot be nested under Inbox"), "{said}");
    let dir = path.parent().unwrap();
    let failure = mbsyncrc::read(&path, &Env::new(dir, dir), installed()).unwrap_err();
    assert!(failure.to_string().contains("lies in its Inbox"), "{failure}");
}

#[test]
fn a_namespace_and_a_dot_between_levels_change_nothing() {
    let cases = &[
        Case {
            name: "verbatim",
            globals: "",
            far: "",
            near: VERBATIM,
            channels: &[ALL],
            at_least: 8,
        },
        Case {
            name: "no-patterns",
            globals: "",
            far: "",
            near: VERBATIM,
            channels: &["Far :far:Lists/rust\nNear :near:rust\n", "Far :far:\nNear :near:\n"],
            at_least: 2,
        },
    ];
    check(cases, '.', "INBOX.");
}
