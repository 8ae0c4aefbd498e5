//! What the tests of the mutt parts share: accounts as values, and both clients
//! run in a pseudo-terminal.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::missing_panics_doc)]

use mutt_sync::model::{
    Account, Channel, CredentialSource, Mailbox, MaildirStore, Server, Side, Sides, Store,
    StoreKind, SubFolders, SyncState, TlsMode,
};
use mutt_sync::mutt::muttrc::AccountMail;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use zeroize::Zeroizing;

pub const CLIENTS: [&str; 2] = ["mutt", "neomutt"];

/// Names of folders and accounts that a careless quoting breaks.
pub const NAMES: [&str; 34] = [
    "plain",
    "two words",
    " leading and trailing ",
    "[Gmail]/All Mail",
    "it's",
    "say \"hi\"",
    "$HOME",
    "${HOME}",
    "a$b$",
    "`id`",
    "tick`",
    "#hash",
    "a # b",
    "semi;colon",
    "; set x",
    "pipe|",
    "a|b",
    "back\\slash",
    "ends in \\",
    "\\n\\e\\c",
    "Entwürfe",
    "Отправленные/日本語",
    "e\u{301}",
    "=equals",
    "+plus",
    "~tilde",
    "!bang",
    "<less>more>",
    "@at",
    "^caret",
    "-dash",
    "100%",
    "%s%f %|",
    "re.g(e|x)*[a-z]{2}?+^$",
];

pub fn server(host: &str, user: &str) -> Server {
    Server {
        host: Some(host.into()),
        port: 993,
        user: Some(CredentialSource::Text(Zeroizing::new(user.into()))),
        tls: TlsMode::Imaps,
        auth_mechs: vec!["*".into()],
        timeout: None,
        ..Server::default()
    }
}

pub fn maildir_side(store: &str, path: &str, inbox: &str) -> Side {
    Side {
        store: Store {
            name: store.into(),
            map_inbox: None,
            flatten: None,
            trash: None,
            kind: StoreKind::Maildir(MaildirStore {
                path: Some(path.into()),
                inbox: inbox.into(),
                subfolders: SubFolders::Verbatim,
                alt_map: false,
                info_delimiter: ':',
            }),
        },
        mailbox: String::new(),
    }
}

/// An account whose mailboxes lie in `DIR/NAME`, one channel of the same name.
pub fn account(name: &str, dir: &Path, mailboxes: &[&str]) -> (Account, Vec<Mailbox>) {
    let dir = dir.to_str().unwrap();
    let near = maildir_side(name, &format!("{dir}/"), &format!("{dir}/INBOX"));
    let account = Account {
        name: name.into(),
        server: Some(server("imap.example.org", &format!("me@{name}.example"))),
        channels: vec![Channel {
            name: name.into(),
            far: near.clone(),
            near,
            patterns: Some(vec!["*".into()]),
            full_sync: true,
            old: Sides::default(),
            gone: Sides { far: true, near: true },
            isync_1_5: false,
            create: Sides::default(),
            remove: Sides::default(),
            expunge: Sides::default(),
            max_messages: 0,
            expire_unread: None,
            expire_far: false,
            max_size: false,
            sync_state: SyncState::InMailbox,
            field_delimiter: ':',
        }],
    };
    let mailboxes = mailboxes
        .iter()
        .map(|mailbox| Mailbox {
            channel: name.into(),
            name: (*mailbox).into(),
            far: (*mailbox).into(),
            near: (*mailbox).into(),
            maildir: Some(format!("{dir}/{mailbox}").into()),
            state_file: None,
            addressable: true,
        })
        .collect();
    (account, mailboxes)
}

/// The last line of a terminal, where messages and questions are.
pub fn bottom(screen: &str) -> &str {
    screen.trim_end_matches('\n').lines().nth(29).unwrap_or_default().trim_end()
}

pub fn make_maildir(path: &Path) {
    for sub in ["cur", "new", "tmp"] {
        fs::create_dir_all(path.join(sub)).unwrap();
    }
}

pub fn deliver(maildir: &Path, name: &str, subject: &str) -> PathBuf {
    let file = maildir.join("new").join(name);
    let text = format!(
        "From: A Friend <friend@elsewhere.example>\nTo: me@home.example\nSubject: {subject}\n\
         Date: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <{name}@example>\n\nText.\n"
    );
    fs::write(&file, text).unwrap();
    file
}

/// A client with nothing of this machine's: no system muttrc, a home of its own.
pub fn client(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    calm(&mut command, home);
    command.arg("-n");
    command
}

fn calm(command: &mut Command, home: &Path) {
    command.env_clear();
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    command.env("PATH", path_with(&home.join("bin")));
    command.stdin(Stdio::null());
}

pub fn path_with(first: &Path) -> std::ffi::OsString {
    let mut paths = vec![first.to_path_buf()];
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    std::env::join_paths(paths).unwrap()
}

/// Runs a client on a terminal of its own until it ends; what it needs to do is
/// in its muttrc, by `push`. Three minutes are enough, or it hangs.
pub fn on_terminal<S: AsRef<OsStr>>(program: &str, home: &Path, args: &[S]) -> Output {
    // script(1) gives a terminal without a size where it has none itself, and
    // ncurses 6.5 opens none such.
    let mut line = format!("stty rows 24 cols 80; exec {program} -n");
    for arg in args {
        let arg = arg.as_ref().to_str().unwrap();
        line.push_str(" '");
        line.push_str(&arg.replace('\'', "'\\''"));
        line.push('\'');
    }
    let mut command = Command::new("timeout");
    calm(&mut command, home);
    command.args(["--kill-after=1", "180", "script", "-qec", &line, "/dev/null"]);
    // At the end of its own input script types ^D into the terminal, which shows
    // if it comes while the client sets the terminal up. So there is no end.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let keyboard = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    assert!(
        output.status.code() != Some(124),
        "{line} hangs:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    output
}

/// A client's answer to a question, after it has read this muttrc. neomutt of
/// 2025 ends with 1 in any case: only with another status than after an empty
/// file has it failed.
pub fn asked_with(program: &str, home: &Path, rc: &Path) -> Output {
    client(program, home).arg("-F").arg(rc).args(["-Q", "mail_check"]).output().unwrap()
}

/// Asserts that a client reads this muttrc without a word.
pub fn assert_accepted(program: &str, home: &Path, rc: &Path, what: &str) {
    let output = asked_with(program, home, rc);
    let said = String::from_utf8_lossy(&output.stderr);
    let empty = asked_with(program, home, Path::new("/dev/null"));
    assert!(
        output.status == empty.status && said.is_empty(),
        "{program} on {what}: {} {said}\n{}",
        output.status,
        fs::read_to_string(rc).unwrap_or_default()
    );
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown.lines().count(), 1, "{program} on {what} says more: {shown}");
}

/// What `muttrc` is given: each account with its mailboxes and its identity file.
pub fn with_files<'a>(
    accounts: &'a [(Account, Vec<Mailbox>)],
    files: &'a [PathBuf],
) -> Vec<AccountMail<'a>> {
    let mail = |((account, mailboxes), file): (&'a (Account, Vec<Mailbox>), &'a PathBuf)| {
        AccountMail { account, mailboxes, identity_file: Some(file) }
    };
    accounts.iter().zip(files).map(mail).collect()
}
