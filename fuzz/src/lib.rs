//! What is fuzzed: a function for each thing that is read from others, with what
//! must hold whatever comes. They panic where it does not.
//!
//! The fuzzers in `fuzz_targets/` and the replay of the corpus in
//! `tests/verdict/fuzz_corpus.rs` both call these. Nothing here touches a disk or a
//! network; the one socket is a pair of our own.

pub mod mutt;

use mutt_sync::headers;
use mutt_sync::imap::client::Detached;
use mutt_sync::imap::parse::{self, Reply};
use mutt_sync::imap::transport::{Limits, Stream, Transport, TransportError};
use mutt_sync::imap::{Client, Opening, names, session};
use mutt_sync::lend::config::{Obstacle, Purpose, copy};
use mutt_sync::lend::deletions::DeletionGate;
use mutt_sync::lend::relay::{Flow, Relay, RelayFault};
use mutt_sync::mbsyncrc::{self, Config, Env, IsyncVersion, pattern};
use mutt_sync::model::flags::Flags;
use mutt_sync::model::{Channel, Mailbox, SyncState, Target};
use mutt_sync::mutt::identity::{identity, msmtp_senders};
use mutt_sync::mutt::muttrc::{AccountMail, Theirs, muttrc};
use mutt_sync::mutt::quote::{folder_regexp, literal_regexp, one_folder_regexp, quoted};
use mutt_sync::mutt::statusline::{LineState, Trouble, mark, with_mark};
use mutt_sync::os::netlink::network_came;
use mutt_sync::os::wait::Cancel;
use mutt_sync::settings::{self, duration};
use mutt_sync::state::backoff::Backoff;
use mutt_sync::state::held::HeldState;
use mutt_sync::state::last_run::LastRun;
use mutt_sync::state::names as files;
use mutt_sync::state::refused::{Added, RefusedItem, RefusedKind, RefusedState};
use mutt_sync::survey::server::{ServerMailboxes, inventory_scope};
use mutt_sync::sync::forms::{Class, Collector, FORMS, class_of};
use mutt_sync::sync::judge::DeletionCheck;
use mutt_sync::sync::output::{problem, redact, says_nothing_of_the_run};
use mutt_sync::sync::run_log::RunLogReader;
use mutt_sync::text::{Pseudonyms, is_printable};
use mutt_sync::verdict::gone::{Gone, KnownGone};
use mutt_sync::verdict::maildir::{MaildirListing, Numbering, judge_maildir};
use mutt_sync::verdict::record::{self, Counts, Entry, EntryKind, Placeholder, Record};
use mutt_sync::verdict::{CleanState, Fingerprint, Rules, SideVerdict};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A target's function.
pub type FuzzFn = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const ALL: [(&str, FuzzFn); 16] = [
    ("mbsyncrc", mbsyncrc),
    ("muttrc", muttrc_lines),
    ("state", state),
    ("wire", wire),
    ("session", session),
    ("responses", responses),
    ("quoting", quoting),
    ("headers", headers),
    ("settings", settings_file),
    ("names", all_names),
    ("mbsync_output", mbsync_output),
    ("forms", forms),
    ("inventory", inventory),
    ("relay", relay),
    ("state_files", state_files),
    ("netlink", netlink),
];

/// Surroundings that depend on nothing of this machine.
fn env() -> Env {
    Env {
        user_home: |user| (user == "u").then(|| PathBuf::from("/home/u")),
        readable: |_| true,
        ..Env::new("/home/u", "/home/u")
    }
}

fn accepted(text: &[u8], version: IsyncVersion) -> Option<Config> {
    mbsyncrc::parse(text, Path::new("/home/u/.mbsyncrc"), &env(), version).ok()
}

/// `.mbsyncrc`, both languages: what is accepted can be asked for by every name
/// in it, and a copy of it for a lent connection is accepted in its turn, has
/// the same channels in the same places, and no password. Of any file, its shape is
/// printable.
pub fn mbsyncrc(text: &[u8]) {
    let shape = mbsyncrc::shape(text, &mut Pseudonyms::default());
    assert!(shape.iter().flat_map(|line| line.chars()).all(is_printable), "{shape:?}");
    for version in [IsyncVersion::V1_4, IsyncVersion::V1_5] {
        let Some(config) = accepted(text, version) else { continue };
        assert_ne!(config.select_all(), []);
        for account in &config.accounts {
            assert!(!account.channels.is_empty());
            let channels: Vec<&str> =
                account.channels.iter().map(|channel| channel.name.as_str()).collect();
            for name in channels.iter().chain([&account.name.as_str()]) {
                let Ok(selected) = config.select(&[name]) else { continue };
                for (index, wants) in selected {
                    let account = &config.accounts[index];
                    let short = account.canonical(&wants);
                    assert_eq!(short, account.canonical(&short));
                }
            }
            let _ = config.mbsync_words(account, &[Target::Account]).args();
            for channel in &account.channels {
                mailbox_is_consistent(channel, "INBOX");
                mailbox_is_consistent(channel, "a/b");
            }
            let purpose = Purpose {
                channels: &channels,
                groups: &[],
                tunnel: "'/usr/bin/mutt-sync' 'tunnel'",
                base: config.base.as_deref(),
            };
            match copy(text, &purpose) {
                Ok(copied) => {
                    let again = match mbsyncrc::parse(
                        &copied,
                        Path::new("/home/u/.mbsyncrc"),
                        &env(),
                        version,
                    ) {
                        Ok(again) => again,
                        Err(why) => panic!("{why}: {}", String::from_utf8_lossy(&copied)),
                    };
                    same_but_for_the_connection(&config, account, &again);
                }
                Err(why) => assert_ne!(why, Obstacle::NotAsRead),
            }
        }
    }
}

fn same_but_for_the_connection(
    config: &Config,
    account: &mutt_sync::model::Account,
    copied: &Config,
) {
    assert_eq!(copied.accounts.len(), 1);
    let copied = &copied.accounts[0];
    let server = copied.server.as_ref().expect("a server");
    assert!(server.pass.is_none() && server.user.is_none() && server.host.is_none());
    assert_eq!(server.tunnel.as_deref(), Some("'/usr/bin/mutt-sync' 'tunnel'"));
    assert!(config.accounts.iter().any(|other| other.name == account.name));
    let places = |channels: &[Channel]| -> Vec<Mailbox> {
        channels.iter().map(|channel| channel.mailbox("a")).collect()
    };
    assert_eq!(places(&account.channels), places(&copied.channels));
    let patterns = |channels: &[Channel]| -> Vec<_> {
        channels.iter().map(|channel| (channel.patterns.clone(), channel.full_sync)).collect()
    };
    assert_eq!(patterns(&account.channels), patterns(&copied.channels));
}

fn mailbox_is_consistent(channel: &Channel, name: &str) {
    let mailbox = channel.mailbox(name);
    assert_eq!(mailbox.channel, channel.name);
    if channel.patterns.is_some() {
        assert_eq!(mailbox.name, name);
        let _ = channel.shared_name(&mailbox.far);
    } else {
        assert_eq!(channel.only_mailbox(), Some(mailbox.clone()));
        assert!(!mailbox.addressable);
    }
    if channel.sync_state == SyncState::InMailbox {
        assert_eq!(
            mailbox.state_file,
            mailbox.maildir.as_ref().map(|dir| dir.join(".mbsyncstate"))
        );
    }
}

/// What `--muttrc` prints for any accepted `.mbsyncrc`: lines that mutt reads as
/// the commands that were meant, with the names that were meant, and nothing
/// that it would expand or run.
pub fn muttrc_lines(text: &[u8]) {
    for version in [IsyncVersion::V1_4, IsyncVersion::V1_5] {
        let Some(config) = accepted(text, version) else { continue };
        let words: Vec<String> = text
            .split(u8::is_ascii_whitespace)
            .map(|w| String::from_utf8_lossy(w).into())
            .collect();
        let mailboxes: Vec<Vec<Mailbox>> = config
            .accounts
            .iter()
            .map(|account| {
                let named = |channel: &Channel| {
                    let last = words.last().cloned().unwrap_or_default();
                    ["INBOX", "Sent", "Drafts", &last].map(|name| channel.mailbox(name))
                };
                account.channels.iter().flat_map(named).collect()
            })
            .collect();
        let file = words.iter().find(|word| word.starts_with('/')).map(PathBuf::from);
        let told: Vec<AccountMail<'_>> = config
            .accounts
            .iter()
            .zip(&mailboxes)
            .map(|(account, mailboxes)| AccountMail {
                account,
                mailboxes,
                identity_file: file.as_deref(),
            })
            .collect();
        let mut meant = mutt::Meant {
            folders: mailboxes
                .iter()
                .flatten()
                .filter_map(|mailbox| mailbox.maildir.as_deref()?.to_str().map(str::to_owned))
                .collect(),
            boxes: mailboxes
                .iter()
                .flatten()
                .map(|mailbox| format!("{}:{}", mailbox.channel, mailbox.name))
                .collect(),
            accounts: config.accounts.iter().map(|account| account.name.clone()).collect(),
            files: file.iter().filter_map(|file| file.to_str().map(str::to_owned)).collect(),
            addresses: BTreeSet::new(),
        };
        let last = told.last().map(|one| one.account.name.as_str());
        let theirs = Theirs { hooks: true, accounts: text.len() % 2 == 0, in_account: last };
        mutt::check(&muttrc(&told, theirs, Path::new("/home/u"), |_| true), &meant);

        let senders = msmtp_senders(&String::from_utf8_lossy(text));
        meant.addresses = senders.iter().filter_map(|sender| sender.from.clone()).collect();
        for (place, one) in told.iter().enumerate() {
            if let Some(mutt_sync::model::CredentialSource::Text(user)) =
                one.account.server.as_ref().and_then(|server| server.user.as_ref())
            {
                meant.addresses.insert(user.to_string());
            }
            mutt::check(
                &identity(one.account, &config.accounts, place, one.mailboxes, &senders),
                &meant,
            );
        }
    }
}

/// mbsync's record of a mailbox, `.uidvalidity`, and names of messages. A Maildir
/// made of a record, message for message, is clean by it.
pub fn state(text: &[u8]) {
    let mut listing = MaildirListing::new(b':');
    let mut names = 0;
    for name in text.split(|byte| *byte == b'\n').take(1000) {
        listing.add(name);
        names += u64::from(name.first().is_some_and(|first| *first != b'.'));
    }
    assert_eq!(listing.files(), names);
    let numbering = Numbering::parse(text);

    let Ok(record) = record::parse(text) else { return };
    consistent(&record);
    assert_eq!(record.changes_since(&record, 0, |_| false), Counts::default());
    let again = Record::new(&record, record.entries().iter().rev().copied().collect());
    assert_eq!(again.as_ref(), Ok(&record));
    let numbering = numbering
        .unwrap_or(Numbering { validity: record.near_validity, highest: record.max_pushed });
    let _ =
        judge_maildir(&record, &mut listing, numbering, &Rules::none(), None, KnownGone::NOTHING);
    if record.max_expired_near > 0 || record.entries().iter().any(|entry| !ordinary(entry)) {
        return;
    }
    let mut made = MaildirListing::new(b':');
    for entry in record.with_near() {
        let letters = "DFPRST".bytes().filter(|letter| {
            entry.flags.has(Flags::from_record(&[*letter]).expect("a letter of mbsync's"))
        });
        let mut name = format!("1700000000.x,U={}:2,", entry.near).into_bytes();
        name.extend(letters);
        made.add(&name);
    }
    let highest = record.with_near().map(|entry| entry.near).max().unwrap_or(0);
    let numbering = Numbering { validity: record.near_validity, highest };
    let found = judge_maildir(
        &record,
        &mut made,
        numbering,
        &Rules::none(),
        Some(true),
        KnownGone::NOTHING,
    );
    assert_eq!(found, SideVerdict::Clean);
}

/// A message on both sides, and nothing said of it but its flags.
fn ordinary(entry: &Entry) -> bool {
    entry.far != 0
        && entry.near != 0
        && entry.placeholder == Placeholder::None
        && entry.kind == EntryKind::Plain
}

fn consistent(record: &Record) {
    let entries = record.entries();
    assert!(entries.windows(2).all(|pair| pair[0] <= pair[1] || pair[0].far <= pair[1].far));
    for entry in record.with_far() {
        assert_eq!(record.of_far(entry.far), Some(entry));
    }
    let mut last = 0;
    for entry in record.with_near() {
        assert!(entry.near > last);
        last = entry.near;
        assert_eq!(record.of_near(entry.near), Some(entry));
    }
}

/// A wire with a server at its other end whose words are written by the caller.
fn pair() -> (Transport, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a flag");
    }
    (Transport::new(Stream::Tunnel(ours, Box::new(())), Cancel::new().unwrap()), theirs)
}

/// What a wire takes of these bytes when they come in pieces of that size.
fn taken(
    bytes: &[u8],
    piece: usize,
    limits: Limits,
) -> (Vec<Vec<u8>>, Result<(), TransportError>, usize) {
    let (mut wire, mut server) = pair();
    wire.begin(limits);
    let mut got = Vec::new();
    for piece in bytes.chunks(piece) {
        if server.write_all(piece).is_err() {
            break;
        }
        loop {
            match wire.try_response() {
                Ok(Some(response)) => got.push(response),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(wire.try_response(), Err(error.clone()), "dead, and stays dead");
                    return (got, Err(error), 0);
                }
            }
        }
    }
    (got, Ok(()), wire.buffered())
}

/// Lines and literals put together: the same whatever the pieces they came in,
/// nothing lost, nothing added, nothing beyond the bounds.
pub fn wire(bytes: &[u8]) {
    let bytes = bytes.get(..8192).unwrap_or(bytes);
    let limits = Limits {
        response: 2048,
        total: 6000,
        responses: 200,
        ..Limits::small(Duration::from_secs(20))
    };
    let piece = 1 + usize::from(bytes.first().copied().unwrap_or(0) % 61);
    let (got, end, left) = taken(bytes, piece, limits);
    let (whole, end_of_whole, _) = taken(bytes, bytes.len().max(1), limits);
    let said = got.concat();
    assert!(bytes.starts_with(&said));
    assert!(said.len() <= limits.total && got.len() <= limits.responses);
    for response in &got {
        assert!(response.ends_with(b"\n") && response.len() <= limits.response);
        parsed(response);
    }
    if end.is_ok() {
        assert_eq!(bytes.len(), said.len() + left);
        assert!(left <= limits.response);
    }
    // A line too long is seen the sooner the smaller the pieces; but no piece
    // decides what a response is.
    let shorter = got.len().min(whole.len());
    assert_eq!(got[..shorter], whole[..shorter]);
    if end.is_ok() && end_of_whole.is_ok() {
        assert_eq!(got, whole);
    }
}

/// The `imap` crate behind the transport, which has ways to panic and to wait for
/// ever: whatever a server says, it must come back.
pub fn session(bytes: &[u8]) {
    let bytes = bytes.get(..4096).unwrap_or(bytes);
    let (mut transport, mut server) = pair();
    transport.begin(Limits::small(Duration::from_secs(20)));
    server.write_all(bytes).expect("room in the socket");
    server.shutdown(Shutdown::Write).expect("an end");
    let mut unasked = session::capabilities(&mut transport, "a1").unasked;
    unasked.extend(session::open(&mut transport, "a2", "INBOX", Opening::Examine).unasked);
    unasked.extend(session::open(&mut transport, "a3", "x", Opening::Select).unasked);
    for response in unasked {
        parsed(&response);
    }
}

/// A server's responses, each read as everything that it could be.
pub fn responses(bytes: &[u8]) {
    parsed(bytes);
    readings(bytes);
}

fn parsed(response: &[u8]) {
    match parse::reply(response) {
        Reply::Tagged(_, said) | Reply::Condition(said) => {
            plain(&said.printable());
            let _ = said.has_code("ALERT");
            readings(said.code);
        }
        Reply::Continue(rest) | Reply::Data(_, rest) | Reply::Numbered(_, _, rest) => {
            readings(rest);
        }
        Reply::Other => {}
    }
}

fn readings(rest: &[u8]) {
    if let Some((name, _)) = parse::status(rest) {
        plain_name(&name);
    }
    if let Some(listed) = parse::list(rest) {
        plain_name(&listed.name);
        let _ = (listed.selectable, listed.special_use);
    }
    if let Some(namespace) = parse::namespace(rest) {
        assert!(!namespace.prefix.chars().any(char::is_control));
    }
    // What a short line can name, no million-times longer set is made of.
    for set in [Some(parse::search(rest)), parse::esearch(rest, "m1"), parse::sequence_set(rest)] {
        let Some(set) = set else { continue };
        assert!(set.ranges().len() <= rest.len());
        assert!(set.ranges().windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
    let _ = parse::fetch_flags(rest);
    let _ = parse::fetch_header(rest);
    for said in [Some(parse::capabilities(rest)), parse::code_capabilities(rest)] {
        let Some(said) = said else { continue };
        assert!(said.words().len() <= 200);
        assert!(said.words().iter().all(|word| word.bytes().all(|b| b.is_ascii_graphic())));
    }
}

fn plain_name(name: &str) {
    assert!(!name.is_empty() && !name.chars().any(char::is_control));
}

/// Fit for a terminal and a log.
fn plain(text: &str) {
    assert!(text.chars().count() <= 200);
    assert!(!text.chars().any(|c| c.is_control() || turns(c)), "{text:?}");
}

/// Characters that turn or hide what stands beside them (UAX #9).
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Any string quoted is one word for mutt, that string, and runs nothing; also
/// when quoted once more, as in a hook; also as a regular expression.
pub fn quoting(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let controls = text.chars().any(char::is_control);
    match quoted(&text) {
        Err(_) => assert!(controls),
        Ok(once) => {
            assert!(!controls && !once.ends_with('\\'));
            assert_eq!(mutt::words(&once), Ok(vec![mutt::Word::plain(&text)]));
            let command = format!("set my_mailbox={once}");
            let twice = quoted(&command).expect("no control characters");
            assert_eq!(mutt::words(&twice), Ok(vec![mutt::Word::plain(&command)]));
            let inner = mutt::words(&command).expect("a line");
            assert_eq!(inner[1], mutt::Word::plain(&format!("my_mailbox={text}")));
        }
    }
    assert_eq!(mutt::literal(&literal_regexp(&text)).as_deref(), Some(&*text));
    let path = text.trim_end_matches('/');
    let one = one_folder_regexp(&text);
    let one = one.strip_prefix("(^").and_then(|rest| rest.strip_suffix("/?$)"));
    assert_eq!(one.and_then(mutt::literal).as_deref(), Some(path));
    let some = folder_regexp(&[&text]);
    let some = some.strip_prefix("(^(").and_then(|rest| rest.strip_suffix(")(/|$))"));
    assert_eq!(some.and_then(mutt::literal).as_deref(), Some(path));

    let number = usize::from(bytes.first().copied().unwrap_or(0));
    let state = LineState {
        push: number,
        running: number & 1 != 0,
        waiting: number & 2 != 0,
        trouble: [None, Some(Trouble::Offline), Some(Trouble::Login), Some(Trouble::Failed)]
            [(number >> 2) & 3],
        attended: number & 16 != 0,
        refused: number & 16 != 0,
        held: number & 32 != 0,
    };
    let line = with_mark(&text, state);
    assert!(line.contains(&mark(state)) && !line.ends_with('%'));
    assert!(!line.chars().any(char::is_control));
}

/// Heads of messages: what is shown of them is one short line without anything
/// that a terminal obeys.
pub fn headers(message: &[u8]) {
    let _ = headers::MessageIdentity::of(message, 0);
    let head = headers::summary_of(message);
    for text in [&head.from, &head.subject, &headers::one_line(&String::from_utf8_lossy(message))] {
        assert!(text.chars().count() <= headers::TEXT_LIMIT);
        for c in text.chars() {
            assert!(!c.is_control() && (c == ' ' || !c.is_whitespace()), "{text:?}");
            assert!(!turns(c) && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}'), "{text:?}");
        }
        assert!(!text.starts_with(' ') && !text.ends_with(' ') && !text.contains("  "));
        assert_eq!(&headers::one_line(text), text);
    }
}

/// `config.toml`, and durations.
pub fn settings_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(file) = settings::File::parse(&text, "config.toml", Path::new("/home/u")) {
        for settings in file.accounts.values().chain([file.of("none")]) {
            let _ = (settings.rate(), settings.backoff_policy());
        }
    }
    if let Ok(some) = duration(&text, false) {
        assert!(!some.is_zero());
    }
}

/// Names: as files of ours, on the wire, as patterns.
pub fn all_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once('\n').unwrap_or((&text, &text));
    for file in [files::directory(first), files::directory(&text)] {
        fit_for_a_file(&file);
    }
    let want = Target::Mailbox { channel: first.to_owned(), name: second.to_owned() };
    for want in [want, Target::Channel(second.to_owned()), Target::Account] {
        let file = files::file_of(&want);
        fit_for_a_file(&file);
        let read = files::target_of(&file).expect("a want of ours");
        let wider = match (&want, &read) {
            (_, Target::Account) => true,
            (Target::Mailbox { channel, .. }, Target::Channel(read)) => channel == read,
            (want, read) => want == read,
        };
        assert!(wider, "{want:?} is kept as {read:?}");
    }
    if let Some(want) = files::target_of(&text) {
        assert_eq!(files::file_of(&want), *text);
    }

    let coded = names::to_utf7(&text);
    assert!(coded.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    assert_eq!(names::from_utf7(&coded).as_deref(), Some(&*text));
    if let Some(name) = names::from_utf7(&text) {
        assert_eq!(names::to_utf7(&name), *text);
    }

    let (pattern, name) =
        (first.get(..200).unwrap_or_default(), second.get(..200).unwrap_or_default());
    let _ = pattern::admits(&[pattern.to_owned(), format!("!{name}")], name);
    assert!(pattern::matches("*", name));
}

fn fit_for_a_file(name: &str) {
    assert!(!name.is_empty() && name.len() <= 255 && !name.starts_with('.'));
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
}

/// What mbsync prints: nothing of it tricks a terminal, and no secret that we
/// know gets through.
pub fn mbsync_output(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (secret, output) = text.split_once('\n').unwrap_or(("hunter2", &text));
    let mut reader = RunLogReader::default();
    output.split('\n').for_each(|line| reader.line(line));
    // As many mailboxes as it says so of.
    let synchronized = output.split('\n').filter(|line| *line == "Synchronizing...").count();
    assert!(reader.log().is_none_or(|log| log.mailboxes() == synchronized));
    let mut said = Collector::default();
    for line in output.split('\n') {
        let _ = (problem(line), says_nothing_of_the_run(line));
        let sanitize = redact(line, &[secret]);
        said.take(line, &sanitize);
        assert!(
            !sanitize.chars().any(|c| (c.is_control() && c != '\t') || turns(c)),
            "{sanitize:?}"
        );
        // The mask itself could spell a secret of its own characters.
        if secret.len() > 3 && !secret.contains(['*', '?']) {
            assert!(!sanitize.contains(secret), "{sanitize:?}");
        }
    }
}

/// The forms with which mbsync says that something was not done: each line is of one
/// class, what is kept of them is bounded and fit for a terminal, and a line made of a
/// form is of that form.
pub fn forms(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut said = Collector::default();
    for line in text.split('\n') {
        let shown = redact(line, &[]);
        let dealt_with = said.take(line, &shown);
        if matches!(class_of(line), None | Some(Class::Fails | Class::FailsUnsaid)) {
            assert!(!dealt_with, "{line:?}");
        }
    }
    let words = text.split('\n').take(5).map(|line| redact(line, &[]).into_owned());
    said.explain(words.collect());
    assert!(said.objections.len() <= 200 && said.notices.len() <= 200);
    for objection in &said.objections {
        let known = [Class::Refused, Class::NotSynced, Class::NotRecorded];
        assert!(known.contains(&objection.class), "{objection:?}");
    }
    let words = text.split('\n').next().unwrap_or_default();
    for form in FORMS {
        let mut line = String::new();
        let mut rest = form.text;
        while let Some((before, after)) = rest.split_once('%') {
            line += before;
            line += words;
            rest = after.trim_start_matches(|c: char| !c.is_ascii_lowercase());
            rest = rest.get(1..).unwrap_or_default();
        }
        line += rest.trim_end_matches('*');
        // What stands for a conversion may itself look like what follows it.
        if !words.is_empty() && words.bytes().all(|byte| byte.is_ascii_digit()) {
            assert!(form.fits(&line), "{line:?}");
        }
    }
}

const ACCOUNT: &[u8] = b"IMAPAccount a\nHost h\nUser u\nPass p\n\nIMAPStore far\nAccount a\n\n\
    MaildirStore near\nPath /home/u/m/\nInbox /home/u/m/INBOX\nSubFolders Verbatim\n\n\
    Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Near\n";

/// LIST with STATUS, LSUB and NAMESPACE, and what follows from them: every mailbox that
/// only the server has would be a Maildir below the store's path.
pub fn inventory(bytes: &[u8]) {
    let bytes = bytes.get(..8192).unwrap_or(bytes);
    for version in [IsyncVersion::V1_4, IsyncVersion::V1_5] {
        let config = accepted(ACCOUNT, version).expect("a configuration");
        let account = &config.accounts[0];
        let (transport, mut server) = pair();
        let can = parse::capabilities(b"NAMESPACE CONDSTORE LIST-STATUS LIST-EXTENDED SPECIAL-USE");
        let section = account.server.as_ref().expect("a server");
        let mut client = Client::over(transport, can, section);
        server.write_all(bytes).expect("room in the socket");
        server.shutdown(Shutdown::Write).expect("an end");
        let mut scope = inventory_scope(account, true);
        scope.subscriptions = true;
        let Ok(found) = client.inventory(&scope) else { continue };
        let listed = found.listed.iter().flatten();
        let listed: Vec<&str> = listed.map(|each| each.name.as_str()).collect();
        assert!(listed.windows(2).all(|pair| pair[0] < pair[1]));
        for name in listed.iter().copied().chain(found.statuses.keys().map(String::as_str)) {
            plain_name(name);
        }
        let channel = &account.channels[0];
        let local = ["INBOX", "a", "a/b"].map(|name| channel.mailbox(name));
        let here: Vec<&Mailbox> = local.iter().collect();
        let mut there = ServerMailboxes::new(account, version, &here, &[], &found);
        for (wire, target) in there.only_on_server() {
            assert!(listed.contains(&wire.as_str()), "{wire:?}");
            let mailbox = account.mailbox(target).expect("a mailbox");
            assert!(!here.contains(&&mailbox), "{mailbox:?}");
            let maildir = mailbox.maildir.expect("a Maildir");
            let shown = maildir.display();
            assert!(maildir.starts_with("/home/u/m"), "{shown}");
            assert!(!maildir.components().any(|part| part.as_os_str() == ".."), "{shown}");
            assert!(maildir.iter().all(|part| part.len() <= 255), "{shown}");
        }
        for (at, mailbox) in here.iter().enumerate() {
            let status = there.name(at).and_then(|name| found.statuses.get(name));
            if there.status(at).is_some() {
                assert!(status.is_some(), "{mailbox:?}");
            }
        }
        for (name, status) in &found.statuses {
            let _ = there.answer(name, *status);
            assert_eq!(there.answer(name, *status), [] as [usize; 0], "nothing new");
        }
    }
}

/// A lent connection: what its borrower (first) and its server say in turns, with 0xff
/// between. Both get the same, whatever the pieces it comes in, and no more than was
/// said.
pub fn relay(bytes: &[u8]) {
    let bytes = bytes.get(..4096).unwrap_or(bytes);
    let piece = 1 + usize::from(bytes.first().copied().unwrap_or(0) % 61);
    let pieces = relayed(bytes, piece);
    let whole = relayed(bytes, bytes.len().max(1));
    let (Some(pieces), Some(whole)) = (pieces, whole) else { return };
    assert_eq!(pieces.got[0], whole.got[0]);
    // LOGOUT is answered between two responses, so what the server says unasked comes
    // before it or not at all, depending on the pieces.
    let (short, long) = (pieces.before_logout(), whole.before_logout());
    let (short, long) = if short.len() <= long.len() { (short, long) } else { (long, short) };
    let more = long.strip_prefix(short).expect("the same responses");
    let unasked = more.first().is_none_or(|first| b"*+".contains(first));
    assert!(unasked || pieces.left_early || whole.left_early);
}

/// What came of a lent connection.
#[derive(Debug)]
struct Relayed {
    /// By the server, and by the borrower.
    got: [Vec<u8>; 2],
    left_early: bool,
}

impl Relayed {
    /// What the borrower has got, without the answer to LOGOUT.
    fn before_logout(&self) -> &[u8] {
        let bye = b"* BYE\r\n";
        let at = self.got[1].windows(bye.len()).rposition(|part| part == bye);
        at.filter(|_| !self.left_early).map_or(&self.got[1], |at| &self.got[1][..at])
    }
}

/// Every deletion in INBOX is withheld.
#[derive(Debug)]
struct HoldsEverything;

impl DeletionCheck for HoldsEverything {
    fn holds(&self, _: &str) -> bool {
        true
    }
}

/// What the server and the borrower have got; `None` if one of them is not as it should be.
fn relayed(bytes: &[u8], piece: usize) -> Option<Relayed> {
    let (mut transport, mut server) = pair();
    let (theirs, mut borrower) = UnixStream::pair().expect("a socket pair");
    borrower.set_nonblocking(true).expect("a flag");
    let capabilities = parse::capabilities(b"IMAP4REV1 UIDPLUS");
    let detached = Detached {
        transport: &mut transport,
        pending: HashSet::new(),
        mailbox_open: false,
        capabilities: &capabilities,
        namespace: None,
    };
    let names = vec![("INBOX".into(), "c\nINBOX".into())];
    let mut relay =
        Relay::new(detached, HashMap::new(), DeletionGate::new(&HoldsEverything, names));
    assert!(relay.attach(theirs));
    let mut got = [Vec::new(), Vec::new()];
    for (turn, said) in bytes.split(|byte| *byte == 0xff).enumerate() {
        for piece in said.chunks(piece) {
            let mut speaker = if turn % 2 == 0 { &borrower } else { &server };
            // One that is gone says nothing.
            let _ = speaker.write_all(piece);
            while relay.pump() == Flow::More {}
            let _ = server.read_to_end(&mut got[0]);
            let _ = borrower.read_to_end(&mut got[1]);
        }
    }
    match relay.finish() {
        Ok(()) => Some(Relayed { got, left_early: false }),
        Err(RelayFault::LeftEarly) => Some(Relayed { got, left_early: true }),
        Err(RelayFault::Server(_) | RelayFault::Borrower(_) | RelayFault::Withheld) => None,
    }
}

/// Messages of rtnetlink: what comes after one that is news hides nothing, and without a
/// message of the three kinds that can be news there is none.
pub fn netlink(bytes: &[u8]) {
    let _ = network_came(bytes);
    let message = |kind: u16, body: &[u8]| -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        let padding = vec![0; body.len().wrapping_neg() % 4];
        [&header[..], body, &padding].concat()
    };
    // A default route for IPv4, in the main table.
    let news = message(24, &[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    assert!(network_came(&news));
    assert!(network_came(&[&news[..], bytes].concat()));
    for kind in [0, 1, 2, 3, 16, 17, 21, 25, 28] {
        let quiet = message(kind, bytes);
        assert!(!network_came(&quiet), "{kind}");
        assert!(network_came(&[&quiet[..], &news].concat()), "{kind}");
    }
    // An address that is no use is none, whatever its attributes say of the rest.
    let address = [&[10, 64, 0, 253, 1, 0, 0, 0][..], bytes].concat();
    assert!(!network_came(&message(20, &address)), "of the link alone");
}

/// Files of the state directory, as another version, a crash or a bad disk may leave
/// them: what is read is written and read back as the same, and no number in it is too
/// large to be counted with.
pub fn state_files(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    if let Some(mut refused) = kept::<RefusedState>(bytes) {
        let _ = (refused.next_due(now, |_| true), refused.due(now).count());
        let _ = refused.notice("a text", now);
        assert!(!refused.notice("a text", now), "said once");
        for mailbox in refused.mailboxes.values_mut() {
            let _ = (mailbox.is_refused(), mailbox.is_empty());
            mailbox.tried(now, false);
            mailbox.tried(now, true);
            let item = RefusedItem {
                what: RefusedKind::Push,
                uid: 7,
                validity: 1,
                text: "over quota".to_owned(),
                since: 5,
                said: false,
                acknowledged: false,
            };
            mailbox.add(item.clone());
            assert_ne!(mailbox.add(item.clone()), Added::New, "it is known");
            let (new, _) = mailbox.add_all(vec![item], true);
            assert!(new.is_empty(), "it is known");
        }
    }
    if let Some(held) = kept::<HeldState>(bytes) {
        for mailbox in held.mailboxes.values() {
            let _ = (mailbox.what.is_of_place(), mailbox.uids.len(), mailbox.uids.contains(7));
        }
    }
    if let Some(clean) = kept::<BTreeMap<String, CleanState>>(bytes) {
        for state in clean.values() {
            for set in [&state.gone].into_iter().flatten() {
                let _ = (set.gone.len(), set.deleted.contains(7));
            }
        }
    }
    kept::<BTreeMap<String, Gone>>(bytes);
    kept::<Fingerprint>(bytes);
    kept::<LastRun>(bytes);
    kept::<Backoff>(bytes);
}

fn kept<T>(bytes: &[u8]) -> Option<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let value: T = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_vec(&value).expect("it can be written");
    assert_eq!(serde_json::from_slice::<T>(&text).expect("it can be read"), value);
    Some(value)
}
