//! The pure parts: summaries of messages, the status line, identities, and the
//! order of what `--muttrc` prints.

#![allow(clippy::unwrap_used, clippy::format_push_string, clippy::format_collect)]

use crate::support::*;
use mutt_sync::headers::{
    HEAD_LIMIT, MessageSummary, TEXT_LIMIT, one_line, summary_of, summary_of_file,
};
use mutt_sync::mbsyncrc;
use mutt_sync::model::{Account, Mailbox};
use mutt_sync::mutt::identity::{Sender, Use, identity, mailbox_for, msmtp_senders, sender_for};
use mutt_sync::mutt::muttrc::{AccountMail, Theirs, muttrc};
use mutt_sync::mutt::print;
use mutt_sync::mutt::quote::{ControlCharacter, literal_regexp, quoted, without_expandos};
use mutt_sync::mutt::statusline::{LineState, Trouble, mark, with_mark};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn lines_of(message: &str) -> (String, String) {
    let MessageSummary { from, subject } = summary_of(message.as_bytes());
    (from, subject)
}

#[test]
fn headers_are_decoded() {
    let cases = [
        ("From: Ann Author <ann@example.org>\nSubject: Hi\n\nbody", "Ann Author", "Hi"),
        ("From: ann@example.org\n\nSubject: of the body\n", "ann@example.org", ""),
        (
            "FROM: =?UTF-8?B?SsO8cmdlbg==?= <j@x.example>\r\nsubject: =?iso-8859-1?Q?Gr=FC=DFe?=\r\n\r\n",
            "Jürgen",
            "Grüße",
        ),
        (
            "Subject: =?UTF-8?Q?one?=\n =?UTF-8?Q?_two?=\n three\nFrom: \"Last, First\" <a@b.example>\n",
            "Last, First",
            "one two three",
        ),
        ("Subject: =?iso-2022-jp?B?GyRCRnxLXBsoQg==?=\n\n", "", "日本"),
        ("Subject: =?gb2312?B?1tDOxA==?=\n\n", "", "中文"),
        ("Subject: =?koi8-r?B?8NLJ18XU?=\n\n", "", "Привет"),
        ("Subject: raw ünicode\n\n", "", "raw ünicode"),
        ("From: A <a@x.example>, B <b@x.example>\nSubject:\n\n", "A", ""),
        ("From: <only@address.example>\n\n", "only@address.example", ""),
        ("\nSubject: no head at all\n", "", ""),
    ];
    for (message, from, subject) in cases {
        assert_eq!(lines_of(message), (from.into(), subject.into()), "{message}");
    }
}

#[test]
fn summaries_are_safe_to_show() {
    let cases = [
        ("\u{1b}[31mred\u{1b}[0m", "red"),
        ("\u{1b}]0;title\u{7}text", "text"),
        ("some\u{1b}]0;title\u{7}one", "someone"),
        ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
        ("\u{9b}1mbold", "bold"),
        ("a\u{202e}gpj.exe\u{202c}b", "agpj.exeb"),
        ("zero\u{200b}width\u{feff}", "zerowidth"),
        ("two\r\n lines\tand\u{0}nul", "two lines and nul"),
        ("bell\u{7}", "bell"),
        ("line\u{2028}separator", "line separator"),
        ("\u{1b}", ""),
        ("\u{1b}[", ""),
    ];
    for (text, want) in cases {
        assert_eq!(one_line(text), want, "{text:?}");
    }
    // Encoded words bring control characters past any check of the raw line.
    let (_, subject) = lines_of("Subject: =?utf-8?Q?=1B[2Jwiped=0A=E2=80=AEx?=\n\n");
    assert_eq!(subject, "wiped x");
    let long = one_line(&"ü".repeat(1000));
    assert_eq!(long.chars().count(), TEXT_LIMIT);
    assert!(long.ends_with('…'));
    assert_eq!(one_line(&"x".repeat(TEXT_LIMIT)), "x".repeat(TEXT_LIMIT));
}

fn assert_fit(text: &str) {
    assert!(text.chars().count() <= TEXT_LIMIT, "{text:?}");
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.chars().any(bad), "{text:?}");
    assert_eq!(text.trim(), text);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("SOAK").is_some() { 20_000 } else { 500 },
        rng_seed: proptest::test_runner::RngSeed::Fixed(11),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_give_a_fit_summary(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let MessageSummary { from, subject } = summary_of(&bytes);
        assert_fit(&from);
        assert_fit(&subject);
    }

    #[test]
    fn any_headers_give_a_fit_summary(
        from in prop::collection::vec(any::<u8>(), 0..200),
        subject in "(=\\?(utf-8|iso-2022-jp|x|utf-7)\\?[QBqb]\\?[ -~]{0,40}(\\?=)?|\\PC|\\u{1b}\\[|\\u{202e}|\\n ){0,12}",
    ) {
        let mut message = b"From: ".to_vec();
        message.extend(from);
        message.extend(b"\nSubject: ");
        message.extend(subject.bytes());
        message.extend(b"\n\n");
        let MessageSummary { from, subject } = summary_of(&message);
        assert_fit(&from);
        assert_fit(&subject);
    }

    #[test]
    fn what_is_shown_stays_as_it_is(text in any::<String>()) {
        let once = one_line(&text);
        assert_fit(&once);
        prop_assert_eq!(one_line(&once), once);
    }

    #[test]
    fn the_status_line_cannot_be_expanded_again(
        line in "[%|`$ \\-a-z\\PC\\n]{0,60}",
        push in 0usize..2000,
        running: bool, waiting: bool, attended: bool, failed: bool, refused: bool, held: bool,
    ) {
        let trouble = failed.then_some(Trouble::Offline);
        let state = LineState { push, running, waiting, trouble, attended, refused, held };
        let marked = with_mark(&line, state);
        prop_assert!(!marked.ends_with('%'), "{marked}");
        prop_assert!(!marked.chars().any(char::is_control));
        prop_assert!(marked.contains(&mark(state)));
    }

    #[test]
    fn any_msmtprc_can_be_read(text in "((account|defaults|from|user|host|password|#|:|,|\"| |\n|\\PC){1,3}){0,40}") {
        for sender in msmtp_senders(&text) {
            prop_assert!(!sender.name.contains('\n'));
        }
    }
}

#[test]
fn only_regular_files_are_read_and_only_their_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    assert!(summary_of_file(&fifo).is_err());
    assert!(summary_of_file(dir.path()).is_err());
    let file = dir.path().join("mail");
    let late = format!("X-Long: {}\nSubject: late\n\n", "x".repeat(HEAD_LIMIT));
    fs::write(&file, late).unwrap();
    assert_eq!(summary_of_file(&file).unwrap(), MessageSummary::default());
    fs::write(&file, "Subject: early\n\n").unwrap();
    assert_eq!(summary_of_file(&file).unwrap().subject, "early");
}

#[test]
fn control_characters_are_refused() {
    assert_eq!(quoted("a\nb"), Err(ControlCharacter('\n')));
    assert_eq!(quoted("\u{85}"), Err(ControlCharacter('\u{85}')));
    assert_eq!(quoted("a\"b\\$`").unwrap(), "\"a\\\"b\\\\\\$\\`\"");
    assert_eq!(literal_regexp("a.b(c"), "a\\.b\\(c");
    assert_eq!(without_expandos("100%"), "100%%");
}

#[test]
fn marks_are_short_and_keep_the_width() {
    let state = LineState { attended: true, ..LineState::default() };
    assert_eq!(mark(state), "");
    assert_eq!(with_mark("-Mutt---(all)-", state), "-Mutt---(all)-");
    assert_eq!(with_mark("=a/100%", state), "=a/100% ");
    let pushing = LineState { push: 3, ..state };
    assert_eq!(mark(pushing), "[^3]");
    assert_eq!(mark(LineState { attended: false, ..pushing }), "(^3)");
    assert_eq!(mark(LineState { running: true, push: 1200, ..pushing }), "[*^999]");
    let trouble = Some(Trouble::Login);
    assert_eq!(mark(LineState { waiting: true, trouble, ..state }), "[~!login]");
    assert_eq!(mark(LineState { refused: true, ..state }), "[!refused]");
    assert_eq!(mark(LineState { refused: true, trouble, ..state }), "[!login]", "the graver");
    assert_eq!(mark(LineState { refused: true, attended: false, ..state }), "[!refused]");
    assert_eq!(with_mark("=Home", pushing), "=Home [^3]");
    let line = "-Mutt: =Home---(date)---------------(all)---";
    let marked = with_mark(line, pushing);
    assert_eq!(marked, "-Mutt: =Home---(date)----------[^3]-(all)---");
    assert_eq!(marked.len(), line.len());
    let most = LineState { push: 9999, waiting: true, ..state };
    let most = LineState { trouble: Some(Trouble::Offline), ..most };
    assert!(mark(most).len() <= 15, "{}", mark(most));
}

fn at(wanted: Use, mailboxes: &[Mailbox]) -> Option<&str> {
    mailbox_for(wanted, mailboxes).map(|mailbox| mailbox.name.as_str())
}

#[test]
fn folders_are_found_by_their_usual_names() {
    let dir = Path::new("/m/x");
    let gmail = ["INBOX", "[Gmail]/All Mail", "[Gmail]/Drafts", "[Gmail]/Sent Mail", "[Gmail]/Bin"];
    let (_, mailboxes) = account("x", dir, &gmail);
    assert_eq!(at(Use::Sent, &mailboxes), Some("[Gmail]/Sent Mail"));
    assert_eq!(at(Use::Trash, &mailboxes), Some("[Gmail]/Bin"));
    assert_eq!(at(Use::Archive, &mailboxes), Some("[Gmail]/All Mail"));
    let (_, mailboxes) =
        account("x", dir, &["INBOX", "Lists/Sent", "INBOX.Gesendet", "ENTWÜRFE", "Corbeille"]);
    assert_eq!(at(Use::Sent, &mailboxes), Some("INBOX.Gesendet"));
    assert_eq!(at(Use::Drafts, &mailboxes), Some("ENTWÜRFE"));
    assert_eq!(at(Use::Trash, &mailboxes), Some("Corbeille"));
    assert_eq!(at(Use::Archive, &mailboxes), None);
    // As isync 1.4 leaves them.
    let (_, mailboxes) = account("x", dir, &["INBOX", "Entw&APw-rfe", "Gel&APY-scht", "A&-B"]);
    assert_eq!(at(Use::Drafts, &mailboxes), Some("Entw&APw-rfe"));
    assert_eq!(at(Use::Trash, &mailboxes), Some("Gel&APY-scht"));
    assert_eq!(at(Use::Sent, &mailboxes), None);
    // The likelier name wins, whatever stands first.
    let (_, mut mailboxes) = account("x", dir, &["Gesendet", "Sent"]);
    assert_eq!(at(Use::Sent, &mailboxes), Some("Sent"));
    mailboxes[1].maildir = None;
    assert_eq!(at(Use::Sent, &mailboxes), Some("Gesendet"));
}

const MSMTPRC: &str = "
# comment
defaults
auth on
tls on

account home
host smtp.home.example
from me@home.example
user \"me\"
password s3cret

account work : home
from me@work.example
user boss@work.example

account odd name
from odd@odd.example

account twin
from me@home.example
account any
from *@any.example
account default : home
";

#[test]
fn msmtps_file_is_understood() {
    let senders = msmtp_senders(MSMTPRC);
    let names: Vec<_> = senders.iter().map(|sender| sender.name.as_str()).collect();
    assert_eq!(names, ["home", "work", "odd name", "twin", "any", "default"]);
    assert_eq!(
        senders[1],
        Sender {
            name: "work".into(),
            from: Some("me@work.example".into()),
            user: Some("boss@work.example".into()),
            host: Some("smtp.home.example".into()),
        }
    );
    assert_eq!(senders[4].from, None);
    assert!(!format!("{senders:?}").contains("s3cret"));
    let (mut home, mailboxes) = account("Home", Path::new("/m/Home"), &["INBOX"]);
    assert_eq!(sender_for(&home, &[], &senders).unwrap().sender.name, "home");
    let text = identity(&home, &[], 0, &mailboxes, &senders);
    assert!(text.contains("set from=\"me@home.example\"\n"), "{text}");
    assert!(text.contains("set sendmail=\"msmtp\"\n"), "{text}");
    // Two with one address: msmtp would take the first.
    home.name = "Twin".into();
    let text = identity(&home, &[], 0, &mailboxes, &senders);
    assert!(text.contains("set sendmail=\"msmtp -a twin\"\n"), "{text}");
    home.name = "unknown".into();
    home.server = Some(server("imap.far.example", "BOSS@work.example"));
    assert_eq!(sender_for(&home, &[], &senders).unwrap().sender.name, "work");
    home.server = Some(server("imap.nowhere.test", "x"));
    assert_eq!(sender_for(&home, &[], &senders), None);
    let text = identity(&home, &[], 0, &mailboxes, &senders);
    assert!(text.contains("reset from  # fill in"), "{text}");
}

/// Accounts of one provider each, by host and user.
fn accounts_at(each: &[(&str, &str, &str)]) -> Vec<Account> {
    let one = |&(name, host, user): &(&str, &str, &str)| {
        let (mut account, _) = account(name, Path::new("/m"), &[]);
        account.server = Some(server(host, user));
        account
    };
    each.iter().map(one).collect()
}

#[test]
fn no_account_sends_as_another_person() {
    let all = accounts_at(&[
        ("Home", "imap.gmail.com", "private@gmail.com"),
        ("Work", "imap.gmail.com", "business@gmail.com"),
    ]);
    let private = "account private\nhost smtp.gmail.com\nfrom private@gmail.com\n";
    let senders = msmtp_senders(&format!("{private}user private@gmail.com\n"));
    let text = identity(&all[1], &all, 1, &[], &senders);
    assert!(!text.contains("private"), "{text}");
    let from = "set from=\"business@gmail.com\"  # the User in .mbsyncrc; is it right?\n";
    assert!(text.contains(from), "{text}");
    assert!(text.contains("set sendmail=\"msmtp\"  # fill in: no account"), "{text}");
    assert!(text.contains("unset record"), "it will be sent by the same provider: {text}");
    let text = identity(&all[0], &all, 0, &[], &senders);
    assert!(text.contains("set from=\"private@gmail.com\"\n"), "{text}");
    // Alone it is another one's, too; and a user without a domain is one's own or not.
    assert_eq!(sender_for(&all[1], &[], &senders), None);
    let plain = accounts_at(&[
        ("a", "imap.work.example", "ann"),
        ("b", "imap.work.example", "bob"),
        ("c", "imap.work.example", "17"),
    ]);
    let senders = msmtp_senders("account office\nhost smtp.work.example\nuser ann\n");
    let found = sender_for(&plain[0], &plain, &senders).unwrap();
    assert_eq!((found.sender.name.as_str(), found.guessed), ("office", false));
    assert_eq!(sender_for(&plain[1], &plain, &senders), None);
    // Another account has it by its name.
    let by_name = accounts_at(&[("office", "imap.far.example", "x")]);
    assert_eq!(sender_for(&plain[2], &by_name, &senders), None);
}

#[test]
fn a_sender_that_only_the_provider_shows_is_marked() {
    let all = accounts_at(&[("Home", "imap.work.example", "17")]);
    let senders = msmtp_senders("account office\nhost smtp.work.example\nfrom me@work.example\n");
    let text = identity(&all[0], &all, 0, &[], &senders);
    let guess = "  # fill in: guessed by the provider\n";
    for line in ["set from=\"me@work.example\"", "set sendmail=\"msmtp\""] {
        assert!(text.contains(&format!("{line}{guess}")), "{text}");
    }
}

#[test]
fn a_country_is_no_provider() {
    for (imap, smtp, same) in [
        ("imap.work.co.uk", "smtp.home.co.uk", false),
        ("imap.work.co.uk", "smtp.work.co.uk", true),
        ("imap.work.com.au", "smtp.home.com.au", false),
        ("work.co.uk", "smtp.work.co.uk", true),
        ("imap.co.example", "smtp.co.example", true),
        ("imap.gmx.de", "mail.gmx.de", true),
    ] {
        let all = accounts_at(&[("x", imap, "17")]);
        let senders = msmtp_senders(&format!("account y\nhost {smtp}\nfrom me@y.example\n"));
        let found = sender_for(&all[0], &all, &senders);
        assert_eq!(found.is_some(), same, "{imap} {smtp}");
    }
}

#[test]
fn what_the_server_files_itself_is_not_filed_twice() {
    let (gmail, mailboxes) =
        account("g", Path::new("/m/g"), &["INBOX", "[Gmail]/Sent Mail", "[Gmail]/All Mail"]);
    let senders = msmtp_senders("account g\nhost smtp.gmail.com\nfrom g@gmail.com\n");
    let text = identity(&gmail, &[], 0, &mailboxes, &senders);
    assert!(text.contains("unset record"), "{text}");
    let (other, mailboxes) = account("g", Path::new("/m/g"), &["INBOX", "Sent", "100%/Archive"]);
    let senders = msmtp_senders("account g\nhost smtp.mygmail.com\nfrom g@gmail.com\n");
    let text = identity(&other, &[], 0, &mailboxes, &senders);
    assert!(text.contains("set record=\"/m/g/Sent\"\n"), "{text}");
    // No folder of another account stays the one for saving.
    assert!(text.contains("save-hook . \"/m/g/INBOX\"\n"), "{text}");
}

#[test]
fn folders_come_by_account_its_inbox_first_and_nothing_twice() {
    let accounts = [
        account("A", Path::new("/m/A"), &["Sent", "INBOX", "Lists"]),
        account("B", Path::new("/m/B"), &["INBOX", "Sent"]),
    ];
    let told: Vec<_> = accounts
        .iter()
        .map(|(account, mailboxes)| AccountMail { account, mailboxes, identity_file: None })
        .collect();
    let home = Path::new("/home/me");
    let text = muttrc(&told, Theirs::default(), home, |_| true);
    let mailboxes: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("mailboxes ")).collect();
    assert_eq!(
        mailboxes,
        ["\"/m/A/INBOX\"", "\"/m/A/Sent\"", "\"/m/A/Lists\"", "\"/m/B/INBOX\"", "\"/m/B/Sent\""]
    );
    // The order that the hooks need: left, account, folder, entered.
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
    assert!(place("set my_sync=\"`mutt-sync -b 2") < place("folder-hook \"(^(/m/A)"));
    assert!(place("folder-hook \"(^(/m/A)") < place("A:Lists"));
    assert!(place("A:Lists") < place("set my_entered="));
    assert!(!text.contains("setenv MUTT_SYNC_HOOKS"));
    for line in text.lines().filter(|line| !line.is_empty()) {
        let once = text.lines().filter(|other| *other == line).count() == 1;
        assert!(once || line.starts_with("setenv") || line.starts_with('#'), "twice: {line}");
    }
    // With both files of muttrc.d nothing that they define is left.
    let text =
        muttrc(&told, Theirs { hooks: true, accounts: true, ..Theirs::default() }, home, |_| true);
    let theirs = ["10-sync.rc", "20-accounts.rc"].map(|file| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d").join(file))
            .unwrap()
    });
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let harmless = line == "folder-hook . 'set my_mailbox=\"$my_account\"'";
        assert!(harmless || !theirs.iter().any(|file| file.contains(line)), "twice: {line}");
    }
}

#[test]
fn the_account_that_mutt_is_in_is_entered_again() {
    let accounts = ["A", "B"].map(|name| account(name, &Path::new("/m").join(name), &["INBOX"]));
    let told: Vec<_> = accounts
        .iter()
        .map(|(account, mailboxes)| AccountMail { account, mailboxes, identity_file: None })
        .collect();
    for (in_account, entered) in [(None, "A"), (Some("B"), "B"), (Some("b"), "A"), (Some(""), "A")]
    {
        let theirs = Theirs { in_account, ..Theirs::default() };
        let text = muttrc(&told, theirs, Path::new("/home/me"), |_| true);
        let last = text.lines().last().unwrap();
        let want = format!(
            "setenv MUTT_SYNC_ACCOUNT \"{entered}\"; set my_account=\"{entered}\"; \
             set my_mailbox=\"{entered}\""
        );
        assert_eq!(last, want, "{in_account:?}");
    }
}

/// The patterns of the account hooks, by account.
fn claimed(accounts: &[(Account, Vec<Mailbox>)]) -> Vec<String> {
    let told: Vec<_> = accounts
        .iter()
        .map(|(account, mailboxes)| AccountMail { account, mailboxes, identity_file: None })
        .collect();
    let text = muttrc(&told, Theirs::default(), Path::new("/home/me"), |_| true);
    let of = |(account, _): &(Account, Vec<Mailbox>)| {
        let enters = format!("\"setenv MUTT_SYNC_ACCOUNT \\\"{}\\\"; ", account.name);
        let hook =
            text.lines().find(|line| line.starts_with("folder-hook") && line.contains(&enters));
        let pattern = hook.map(|hook| hook.split('"').nth(1).unwrap().to_owned());
        pattern.unwrap_or_default()
    };
    accounts.iter().map(of).collect()
}

#[test]
fn folders_of_a_first_sync_are_their_accounts() {
    let at = |name, dir: &str, boxes: &[&str]| account(name, Path::new(dir), boxes);
    // One mailbox, and none.
    let apart = [at("Home", "/m/home", &["INBOX"]), at("Work", "/m/work", &[])];
    assert_eq!(claimed(&apart), [r"(^(/m/home)(/|\$))", r"(^(/m/work)(/|\$))"]);
    // INBOX elsewhere.
    let mut elsewhere = at("Home", "/m/home", &["INBOX"]);
    elsewhere.1[0].maildir = Some("/m/inbox".into());
    assert_eq!(claimed(&[elsewhere]), [r"(^(/m/inbox|/m/home)(/|\$))"]);
    // One directory for both: each has only what is known to be its own.
    let both = [at("Home", "/m", &["INBOX"]), at("Work", "/m", &["work/INBOX"])];
    assert_eq!(claimed(&both), [r"(^(/m/INBOX)(/|\$))", r"(^(/m/work/INBOX)(/|\$))"]);
    let both = [at("Home", "/m", &["INBOX"]), at("Work", "/m", &[])];
    assert_eq!(claimed(&both), [r"(^(/m/INBOX)(/|\$))", ""]);
    // One below the other, also where it has no mail yet.
    let below = [at("Home", "/m", &["INBOX"]), at("Work", "/m/work", &[])];
    assert_eq!(claimed(&below), [r"(^(/m/INBOX)(/|\$))", r"(^(/m/work)(/|\$))"]);
    // A prefix is part of the directory.
    let mut prefixed = [at("Home", "/m", &["home/INBOX"]), at("Work", "/m", &[])];
    for (name, one) in ["home/", "work/"].iter().zip(&mut prefixed) {
        let channel = &mut one.0.channels[0];
        channel.near.mailbox = (*name).into();
        channel.far.mailbox = (*name).into();
    }
    assert_eq!(claimed(&prefixed), [r"(^(/m/home)(/|\$))", r"(^(/m/work)(/|\$))"]);
    // A channel of one mailbox makes no others, and Path need not be a directory.
    let mut fixed = at("Home", "/m/home", &["INBOX"]);
    fixed.0.channels[0].patterns = None;
    assert_eq!(claimed(&[fixed]), [r"(^(/m/home/INBOX)(/|\$))"]);
    let mut string = at("Home", "/m/home", &["INBOX"]);
    let near = maildir_side("Home", "/m/home-", "/m/home/INBOX");
    string.0.channels[0].near = near.clone();
    string.0.channels[0].far = near;
    assert_eq!(claimed(&[string]), [r"(^(/m/home/INBOX)(/|\$))"]);
}

#[test]
fn a_home_directory_is_never_an_accounts() {
    let (mut home, mut mailboxes) = account("A", Path::new("/home/me"), &["INBOX", "Sent"]);
    let near = maildir_side("A", "/home/me/", "/home/me/INBOX");
    home.channels[0].near = near.clone();
    home.channels[0].far = near;
    let told = [AccountMail { account: &home, mailboxes: &mailboxes, identity_file: None }];
    let text = muttrc(&told, Theirs::default(), Path::new("/home/me"), |_| true);
    assert!(text.contains("folder-hook \"(^(/home/me/INBOX|/home/me/Sent)(/|\\$))\""), "{text}");
    // A name that cannot be written is named, and leaves the rest alone.
    mailboxes[1].maildir = Some("/home/me/a\u{1}b".into());
    let told = [AccountMail { account: &home, mailboxes: &mailboxes, identity_file: None }];
    let text = muttrc(&told, Theirs::default(), Path::new("/home/me"), |_| true);
    assert!(text.contains("# left out, control character \\u{1} in its name"), "{text}");
    assert!(text.contains("mailboxes \"/home/me/INBOX\""), "{text}");
}

/// From a real `.mbsyncrc`, Maildirs and msmtp's file to what is printed.
#[test]
fn what_is_printed_is_read_from_the_users_files() {
    let home = rig::Home::fake(&["Home", "Work"]);
    let env = mbsyncrc::Env::new(home.path("").canonicalize().unwrap(), home.path(""));
    let file = home.path(".mbsyncrc");
    let config = mbsyncrc::read(&file, &env, mbsyncrc::IsyncVersion::V1_4).unwrap();
    let at = |below: &str| env.home.join(below).display().to_string();
    let text = print::all_accounts(&config, &env);
    let first = text.lines().find(|line| line.starts_with("mailboxes"));
    assert_eq!(first, Some(&*format!("mailboxes \"{}\"", at("Mail/Home/INBOX"))), "{text}");
    assert_eq!(text.matches("\nmailboxes ").count(), 10, "{text}");
    let hook = format!("folder-hook \"(^({})(/|\\$))\"", at("Mail/Home").replace('.', "\\\\."));
    assert!(text.contains(&hook), "{hook} in {text}");
    assert!(text.contains("set my_mailbox=\\\"Work:Archive\\\""), "{text}");
    // A file kept for an account is sourced on entering it.
    home.write(".config/mutt/account/Work", "");
    let text = print::all_accounts(&config, &env);
    let source = format!("source \\\"{}\\\"", at(".config/mutt/account/Work"));
    let hook = text.lines().find(|line| line.contains(&source)).expect("a hook for Work");
    // It need not name the account itself.
    for command in ["setenv MUTT_SYNC_ACCOUNT \\\"Work\\\"; ", "set my_account=\\\"Work\\\"; "] {
        assert!(hook.contains(command), "{hook}");
    }
    assert!(!text.contains(&at(".config/mutt/account/Home")), "{text}");
    // The identity, with a sender from either place of msmtp's file.
    home.write(".config/msmtp/config", "account work\nfrom boss@work.example\n");
    let text = print::one_account(&config, &env, "Work").unwrap();
    assert!(text.contains("set from=\"boss@work.example\"\n"), "{text}");
    assert!(text.contains(&format!("set trash=\"{}\"\n", at("Mail/Work/Trash"))), "{text}");
    home.write(".msmtprc", "account Work\nfrom me@work.example\n");
    let text = print::one_account(&config, &env, "Work-frequent").unwrap();
    assert!(text.contains("set from=\"me@work.example\"\n"), "{text}");
    let failure = print::one_account(&config, &env, "Wrok").unwrap_err();
    assert!(failure.to_string().contains("Wrok"), "{failure}");
}

#[test]
fn twenty_thousand_mailboxes_are_printed_in_seconds() {
    // Two accounts below one directory, so that none of them can have it.
    let names: Vec<String> = (0..10_000).map(|n| format!("l{}/b{n}", n % 100)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (one, boxes_of_one) = account("one", Path::new("/m/one"), &names);
    let (two, boxes_of_two) = account("two", Path::new("/m/two"), &names);
    let mail = [
        AccountMail { account: &one, mailboxes: &boxes_of_one, identity_file: None },
        AccountMail { account: &two, mailboxes: &boxes_of_two, identity_file: None },
    ];
    let begun = Instant::now();
    let text = muttrc(&mail, Theirs::default(), Path::new("/home/u"), |_| true);
    // Compared each with each, they would take minutes.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(text.lines().filter(|line| line.starts_with("mailboxes ")).count(), 20_000);
    assert!(text.contains(r"(^(/m/one)(/|\$))"), "one root for each account");
}
