//! What becomes of the keys: accounts, logins, channels, in both languages.

use mutt_sync::error::{Error, ExitStatus};
use mutt_sync::mbsyncrc::{self, Config, Env, IsyncVersion, SectionKind};
use mutt_sync::model::{Channel, CredentialSource, Server, Sides, StoreKind, SyncState, TlsMode};
use mutt_sync::verdict::Rules;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn parse(text: &str, version: IsyncVersion) -> Result<Config, Error> {
    let mut env = Env::new("/home/u", "/work");
    env.readable = |_| true;
    env.user_home = |user| (user == "ann").then(|| "/home/ann".into());
    // Not on this machine's disk: 1.5 looks for old states there.
    env.state_home = Some("/nonexistent".into());
    mbsyncrc::parse(text.as_bytes(), Path::new("/home/u/.mbsyncrc"), &env, version)
}

fn good(text: &str, version: IsyncVersion) -> Config {
    parse(text, version).unwrap_or_else(|failure| panic!("{failure}\n{text}"))
}

fn bad(text: &str, version: IsyncVersion) -> String {
    let failure = parse(text, version).expect_err(text);
    assert_eq!(failure.status, ExitStatus::Config);
    failure.to_string()
}

/// A file with these lines in its account.
fn account(lines: &str) -> String {
    format!(
        "IMAPAccount A\n{lines}\n\nIMAPStore far\nAccount A\n\nMaildirStore near\nPath ~/Mail/\n\
         \nChannel C\nFar :far:\nNear :near:\nPatterns *\n"
    )
}

fn server(lines: &str, version: IsyncVersion) -> Server {
    good(&account(lines), version).accounts[0].server.clone().unwrap()
}

/// A file with these lines in its channel, and these globals.
fn channel_with(globals: &str, lines: &str, version: IsyncVersion) -> Channel {
    let text = format!("{globals}\n\n{}{lines}\n", account("Host h"));
    good(&text, version).accounts[0].channels[0].clone()
}

fn text_of(given: Option<&CredentialSource>) -> String {
    match given {
        Some(CredentialSource::Text(text)) => format!("text {}", text.as_str()),
        Some(CredentialSource::Command(command)) => format!("command {command}"),
        None => "none".into(),
    }
}

#[test]
fn logins_get_mbsyncs_defaults() {
    let plain = server("Host h", IsyncVersion::V1_4);
    assert_eq!((plain.port, plain.tls, plain.tls_versions), (143, TlsMode::StartTls, (10, 13)));
    assert_eq!(plain.timeout, Some(Duration::from_secs(20)));
    assert!(plain.system_certificates);
    assert_eq!(plain.auth_mechs, ["*"]);
    assert_eq!(server("Host h", IsyncVersion::V1_5).tls_versions, (12, 13));
    let imaps = server("Host h\nSSLType imaps\nTimeout 0", IsyncVersion::V1_4);
    assert_eq!((imaps.port, imaps.tls, imaps.timeout), (993, TlsMode::Imaps, None));
    let tunnel = server("Tunnel \"ssh h imapd\"", IsyncVersion::V1_4);
    assert_eq!(tunnel.tls, TlsMode::None);
    assert_eq!((tunnel.host, tunnel.tunnel.as_deref()), (None, Some("ssh h imapd")));
    let mechs = server("Host h\nAuthMech login\nAuthMechs xoauth2 PLAIN", IsyncVersion::V1_4);
    assert_eq!(mechs.auth_mechs, ["LOGIN", "XOAUTH2", "PLAIN"]);
}

#[test]
fn passwords_and_commands_are_taken_as_mbsync_takes_them() {
    let one = server("Host h\nUser \"a b\"\nPass \"p#\\\"q\"", IsyncVersion::V1_4);
    assert_eq!(text_of(one.user.as_ref()), "text a b");
    assert_eq!(text_of(one.pass.as_ref()), "text p#\"q");
    let two = server("Host h\nUserCmd +\"id -un\"\nPassCmd \"++x\"", IsyncVersion::V1_4);
    assert_eq!(text_of(two.user.as_ref()), "command id -un");
    assert_eq!(text_of(two.pass.as_ref()), "command +x");
    let shown = format!("{one:?}");
    assert!(!shown.contains("p#") && !shown.contains("a b"), "{shown}");
}

#[test]
fn no_complaint_repeats_a_password() {
    for lines in [
        "Host h\nPass tr0ub4dor tr0ub4dor",
        "Host h\nPass \"tr0ub4dor",
        "Host h\nPass tr0ub4dor\\",
        "Host h\nPass tr0ub4dor\nPass tr0ub4dor x",
        "Pass tr0ub4dor",
    ] {
        let text = bad(&account(lines), IsyncVersion::V1_4);
        assert!(!text.contains("tr0ub4dor"), "{text}");
    }
    // The end of a line that is cut looks like a keyword.
    let long = format!("Host h\nPass {}tr0ub4dor", "x".repeat(1022 - 5));
    let text = bad(&account(&long), IsyncVersion::V1_4);
    assert!(!text.contains("tr0ub4dor") && text.contains("1022"), "{text}");
}

#[test]
fn tls_versions_become_a_range() {
    let old = |lines: &str| server(&format!("Host h\n{lines}"), IsyncVersion::V1_4).tls_versions;
    assert_eq!(old("SSLVersions TLSv1.2"), (12, 12));
    assert_eq!(old("SSLVersion TLSv1.3 TLSv1.1"), (11, 13));
    assert_eq!(old("UseIMAPS yes"), (10, 10), "only 1.0 is on of itself");
    assert_eq!(old("UseIMAPS yes\nUseTLSv1 no\nUseTLSv1.2 yes\nUseTLSv1.3 yes"), (12, 13));
    let new = |lines: &str| server(&format!("Host h\n{lines}"), IsyncVersion::V1_5).tls_versions;
    assert_eq!(new("TLSVersions +1.1 -1.3"), (11, 12));
    assert_eq!(new("TLSVersions +1.0"), (10, 13));
    assert_eq!(new("SSLVersions TLSv1.2"), (12, 12));
    assert!(bad(&account("Host h\nTLSVersions 1.2"), IsyncVersion::V1_5).contains("+1.2"));
    assert!(bad(&account("Host h\nTLSVersions +1.4"), IsyncVersion::V1_5).contains("+1.4"));
}

#[test]
fn each_version_has_its_extensions() {
    for name in ["UIDPLUS", "imap4rev1", "LITERAL-", "UTF8=ACCEPT", "UTF8=ONLY"] {
        let text = account(&format!("Host h\nDisableExtension {name}"));
        good(&text, IsyncVersion::V1_5);
        if name != "UIDPLUS" {
            assert!(bad(&text, IsyncVersion::V1_4).contains(name));
        }
    }
}

/// The one to change, in a file that has it, and the one to write in another.
#[test]
fn the_keyword_for_tls_is_the_one_in_the_file() {
    let keyword = |lines: &str, version| server(&format!("Host h\n{lines}"), version).tls_keyword;
    for (lines, expected) in [
        ("", "TLSType"),
        ("TLSType None", "TLSType"),
        ("ssltype None", "SSLType"),
        ("TLSType None\nSSLType IMAPS", "SSLType"),
        ("SSLType None\nTLSType IMAPS", "TLSType"),
    ] {
        assert_eq!(keyword(lines, IsyncVersion::V1_5), expected, "{lines}");
    }
    for lines in ["", "SSLType None"] {
        assert_eq!(keyword(lines, IsyncVersion::V1_4), "SSLType", "{lines}");
    }
}

/// As tried with mbsync 1.5.1; 1.4 takes them all.
#[test]
fn a_path_lies_in_an_inbox_by_its_final_slash() {
    for (path, inbox, taken) in [
        ("x/", "x/", true),
        ("x/sub/", "x/", true),
        ("x/", "x", false),
        ("x/sub/", "x", false),
        ("x", "x", true),
        ("x", "x/", true),
        ("xy/", "x", true),
        ("x//", "x/", false),
        ("x/sub", "x//", true),
    ] {
        let stores = format!("Path ~/Mail/{path}\nInbox ~/Mail/{inbox}\n");
        let text = account("Host h").replace("Path ~/Mail/\n", &stores);
        let why = "Path of MaildirStore near lies in its Inbox, which isync 1.5 refuses";
        match parse(&text, IsyncVersion::V1_5) {
            Ok(_) => assert!(taken, "{path} {inbox}"),
            Err(failure) => assert!(!taken && failure.to_string().contains(why), "{failure}"),
        }
        assert!(parse(&text, IsyncVersion::V1_4).is_ok(), "{path} {inbox}");
    }
}

#[test]
fn old_keys_mean_what_they_meant() {
    let mode = |lines: &str| {
        let server = server(&format!("Host h\n{lines}"), IsyncVersion::V1_4);
        (server.tls, server.port)
    };
    assert_eq!(mode("UseIMAPS yes"), (TlsMode::Imaps, 993));
    assert_eq!(mode("UseIMAPS no"), (TlsMode::StartTls, 143));
    assert_eq!(mode("RequireSSL no"), (TlsMode::StartTls, 143), "which mbsync ignores");
    assert_eq!(mode("RequireSSL no\nUseTLSv1 no"), (TlsMode::None, 143));
    let url = server("Host imaps://mail.example.org", IsyncVersion::V1_4);
    assert_eq!((url.host.as_deref(), url.port), (Some("mail.example.org"), 993));
    // 1.5 takes the same for a host's name, and knows none of the keys.
    let host = server("Host imaps://h", IsyncVersion::V1_5).host;
    assert_eq!(host.as_deref(), Some("imaps://h"));
    let text = bad(&account("Host h\nUseIMAPS yes"), IsyncVersion::V1_5);
    assert_eq!(
        text,
        "~/.mbsyncrc:3: `UseIMAPS` is not known in IMAPAccount sections: isync 1.5 has dropped \
         it; use TLSType (None, STARTTLS or IMAPS) and TLSVersions"
    );
    assert_eq!(server("Host h\nRequireCRAM yes", IsyncVersion::V1_4).auth_mechs, ["CRAM-MD5"]);
}

#[test]
fn globals_supply_what_a_channel_does_not_say() {
    let old = |globals: &str, lines: &str| channel_with(globals, lines, IsyncVersion::V1_4);
    let none = old("", "");
    assert!(none.full_sync);
    assert_eq!((none.create, none.expunge), (Sides::default(), Sides::default()));
    assert_eq!(none.sync_state, SyncState::Global("/home/u/.mbsync/".into()));
    let near = Sides { far: false, near: true };
    let both = Sides { far: true, near: true };
    let from_globals =
        old("Create Near\nExpunge Both\nSync Pull\nSyncState *\nMaxMessages 9", "MaxSize 1k");
    assert_eq!((from_globals.create, from_globals.expunge), (near, both));
    assert_eq!((from_globals.full_sync, from_globals.max_messages), (false, 9));
    assert_eq!(from_globals.sync_state, SyncState::InMailbox);
    assert!(from_globals.max_size);
    let own = old("Create Both\nSync None\nSyncState *", "Create None\nSync Full\nSyncState ~/s-");
    assert_eq!(own.create, Sides::default());
    assert!(own.full_sync);
    assert_eq!(own.sync_state, SyncState::Channel("/home/u/s-".into()));
    assert!(old("", "Sync New ReNew Delete Flags").full_sync);
    assert!(!old("", "Sync New ReNew Delete").full_sync);
    assert!(!old("", "Sync Push").full_sync);
    let new = |lines: &str| channel_with("", lines, IsyncVersion::V1_5);
    let extent = |channel: Channel| (channel.full_sync, channel.old);
    // 1.5's Full has Old in it.
    assert_eq!(extent(new("Sync Full")), (true, both));
    assert_eq!(extent(new("Sync All")), (true, both));
    assert_eq!(extent(old("", "Sync All")), (true, Sides::default()));
    assert_eq!(extent(new("")), (true, Sides::default()));
    assert_eq!(extent(new("Sync New Upgrade Gone Flags")), (true, Sides::default()));
    assert_eq!(extent(new("Sync Old")), (false, both));
    assert_eq!(extent(new("Sync PullFull PushNew")), (false, near));
    let pulls_old = new("Sync PullFull PushNew PushUpgrade PushGone PushFlags");
    assert_eq!(extent(pulls_old), (true, near));
    assert!(new("").isync_1_5 && !old("", "").isync_1_5);
    let solo = new("ExpungeSolo Near\nExpunge Far");
    assert_eq!((solo.expunge, solo.full_sync), (Sides { far: true, near: false }, false));
    assert!(
        bad(&format!("{}Create None Near\n", account("Host h")), IsyncVersion::V1_5)
            .contains("None")
    );
}

#[test]
fn paths_start_where_each_version_starts_them() {
    let text = account("Host h").replace("~/Mail/", "Mail/");
    let path = |config: &Config| match &config.accounts[0].channels[0].near.store.kind {
        StoreKind::Maildir(store) => (store.path.clone().unwrap(), store.inbox.clone()),
        StoreKind::Imap(_) => panic!("an IMAP store"),
    };
    let old = good(&text, IsyncVersion::V1_4);
    assert_eq!(path(&old), ("/work/Mail/".into(), PathBuf::from("/home/u/Maildir")));
    assert_eq!(old.base.as_deref(), Some(Path::new("/work")));
    assert!(
        old.notices[0].message.starts_with("~/.mbsyncrc:8: Path is relative"),
        "{:?}",
        old.notices
    );
    let new = good(&text, IsyncVersion::V1_5);
    assert_eq!(path(&new).0, "/home/u/Mail/");
    assert_eq!(new.base.as_deref(), Some(Path::new("/home/u")));
    let absolute = good(&account("Host h").replace("~/Mail/", "~ann/Mail/"), IsyncVersion::V1_4);
    assert_eq!((path(&absolute).0.as_str(), absolute.base), ("/home/ann/Mail/", None));
    // A user that there is not: as if Path were not there.
    let nobody = good(&account("Host h").replace("~/Mail/", "~nobody-here/"), IsyncVersion::V1_4);
    assert!(nobody.notices[0].message.contains("no user nobody-here"), "{:?}", nobody.notices);
    assert_eq!(nobody.accounts[0].channels[0].mailbox("Sent").maildir, None);
}

#[test]
fn isync_1_5_refuses_a_path_in_the_inbox() {
    let text = account("Host h").replace("Path ~/Mail/", "Inbox ~/Mail\nPath ~/Mail/folders/");
    assert!(parse(&text, IsyncVersion::V1_4).is_ok());
    let refused = bad(&text, IsyncVersion::V1_5);
    assert!(refused.starts_with("~/.mbsyncrc:9: Path of MaildirStore near"), "{refused}");
}

#[test]
fn a_channel_belongs_to_one_account() {
    let config = good(
        "IMAPStore one\nHost h1\n\nIMAPAccount one\nHost h2\n\nIMAPAccount idle\nHost h3\n\n\
         IMAPStore two\nAccount one\n\nMaildirStore m\nPath ~/m/\n\nMaildirStore n\nPath ~/n/\n\n\
         Channel a\nFar :one:\nNear :m:a\n\nChannel b\nFar :two:\nNear :m:b\n\n\
         Channel c\nFar :m:c\nNear :two:\n\nChannel d\nFar :m:d\nNear :n:d\n\n\
         Channel e\nFar :two:e\nNear :one:e\n\nChannel a\nFar :two:\nNear :m:z\n",
        IsyncVersion::V1_4,
    );
    let seen: Vec<(String, Vec<String>, Option<String>)> = config
        .accounts
        .iter()
        .map(|account| {
            let channels = account.channels.iter().map(|channel| channel.name.clone()).collect();
            let host = account.server.as_ref().and_then(|server| server.host.clone());
            (account.name.clone(), channels, host)
        })
        .collect();
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            // Its own login and an account of its name: both keep a name of their own.
            ("one-store".into(), list(&["a"]), Some("h1".into())),
            ("one".into(), list(&["b", "c", "e"]), Some("h2".into())),
            ("m".into(), list(&["d"]), None),
        ]
    );
    assert_eq!(config.idle_accounts, ["idle"]);
    let [(of, second)] = &config.shadowed_channels[..] else { panic!() };
    let line = config.sections.iter().find(|section| section.name == second.name).unwrap().first;
    assert_eq!((of.as_str(), &second.name), ("one", &format!("a (line {line})")));
    assert!(config.notices.iter().any(|n| n.message.contains("Channel a is defined in line")));
    let StoreKind::Imap(near) = &config.accounts[1].channels[2].near.store.kind else { panic!() };
    assert_eq!(near.account, "one-store");
    let spans: Vec<_> = config.sections.iter().map(|s| (s.kind, s.first, s.last)).collect();
    assert_eq!(spans[0], (SectionKind::ImapStore, 1, 3));
    assert_eq!(spans[1], (SectionKind::Account, 4, 6));
}

#[test]
fn a_group_with_an_unknown_member_is_what_each_version_makes_of_it() {
    let text = format!("{}\nGroup g C gone\n\nGroup none gone\n", account("Host h"));
    let old = good(&text, IsyncVersion::V1_4);
    assert_eq!(old.select(&["g"]).unwrap().len(), 1);
    assert!(
        old.notices.iter().any(|n| n.message.contains("syncs the others")),
        "{:?}",
        old.notices
    );
    assert_eq!(old.select(&["none"]).unwrap_err().status, ExitStatus::Config);
    let new = good(&text, IsyncVersion::V1_5);
    let refused = new.select(&["g"]).unwrap_err();
    assert!(refused.to_string().contains("1.5 then syncs nothing"), "{refused}");
}

#[test]
fn the_file_is_the_one_that_mbsync_reads() {
    let dir = tempfile::tempdir().unwrap();
    let mut env = Env::new(dir.path(), "/");
    let found = |env: &Env, version| mbsyncrc::locate(env, version).map_err(|f| f.to_string());
    let (old, new) = (dir.path().join(".mbsyncrc"), dir.path().join(".config/isyncrc"));
    let missing = found(&env, Some(IsyncVersion::V1_5)).unwrap_err();
    assert!(missing.contains("~/.mbsyncrc and no ~/.config/isyncrc"), "{missing}");
    fs::write(&old, account("Host h")).unwrap();
    for version in [None, Some(IsyncVersion::V1_4), Some(IsyncVersion::V1_5)] {
        assert_eq!(found(&env, version).unwrap(), old);
    }
    fs::create_dir(dir.path().join(".config")).unwrap();
    fs::write(&new, account("Host h")).unwrap();
    assert_eq!(found(&env, Some(IsyncVersion::V1_4)).unwrap(), old);
    assert_eq!(found(&env, Some(IsyncVersion::V1_5)).unwrap(), new);
    assert_eq!(found(&env, None).unwrap(), new);
    let both = mbsyncrc::read(&new, &env, IsyncVersion::V1_5).unwrap();
    assert!(both.notices[0].message.contains("both exist"), "{:?}", both.notices);
    env.config_home = Some(dir.path().join("elsewhere"));
    assert_eq!(found(&env, Some(IsyncVersion::V1_5)).unwrap(), old);
    let unreadable = mbsyncrc::read(dir.path(), &env, IsyncVersion::V1_4).unwrap_err();
    assert_eq!(unreadable.status, ExitStatus::Config);
    assert!(unreadable.to_string().starts_with("~ cannot be read: "), "{unreadable}");
}

#[test]
fn isync_1_5_keeps_states_in_one_of_two_places() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::new(dir.path(), "/");
    let text = account("Host h");
    let state = || {
        let file = dir.path().join(".mbsyncrc");
        mbsyncrc::parse(text.as_bytes(), &file, &env, IsyncVersion::V1_5)
            .map(|config| config.accounts[0].channels[0].mailbox("a/b").state_file.unwrap())
    };
    let name = ":far:a!b_:near:a!b";
    // No SubFolders, so a/b has no folder; the state's name is the same.
    assert_eq!(state().unwrap(), dir.path().join(".local/state/isync").join(name));
    fs::create_dir(dir.path().join(".mbsync")).unwrap();
    assert_eq!(state().unwrap(), dir.path().join(".mbsync").join(name));
    fs::create_dir_all(dir.path().join(".local/state/isync")).unwrap();
    let refused = state().unwrap_err();
    assert!(refused.to_string().contains("both exist"), "{refused}");
}

/// Words, keywords and noise, so that the parser gets somewhere.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..8),
        prop::sample::select(vec![
            "\n",
            "\n\n",
            " ",
            "\"",
            "\\",
            "#",
            "\0",
            ":",
            "IMAPAccount ",
            "IMAPStore ",
            "MaildirStore ",
            "Channel ",
            "Group ",
            "Host ",
            "Far ",
            "Near ",
            ":a:",
            "Patterns ",
            "Sync ",
            "a",
            "Path ",
            "~",
            "MaxSize ",
            "99999999999999999999k",
            "-1",
            "TLSVersions ",
            "+",
            "é",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(rig::count(500, 50_000)).unwrap(),
        rng_seed: proptest::test_runner::RngSeed::Fixed(1102),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_taken_or_refused(text in fragments(), new in any::<bool>()) {
        let version = if new { IsyncVersion::V1_5 } else { IsyncVersion::V1_4 };
        let mut env = Env::new("/nonexistent/u", "/nonexistent");
        env.readable = |_| true;
        let file = Path::new("/nonexistent/u/.mbsyncrc");
        if let Err(failure) = mbsyncrc::parse(&text, file, &env, version) {
            prop_assert_eq!(failure.status, ExitStatus::Config);
            prop_assert!(failure.to_string().starts_with("~/.mbsyncrc:"), "{failure}");
            prop_assert!(failure.to_string().len() < 4000, "{failure}");
        }
    }

    #[test]
    fn any_damage_to_a_good_file_is_survived(
        at in 0..300_usize, bytes in proptest::collection::vec(any::<u8>(), 0..6),
        words in proptest::collection::vec("[a-z:,%*/]{0,9}", 1..3),
    ) {
        let mut text = account("Host h").into_bytes();
        let at = at.min(text.len());
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        let mut env = Env::new("/nonexistent/u", "/nonexistent");
        env.readable = |_| true;
        let file = Path::new("/nonexistent/u/.mbsyncrc");
        if let Ok(config) = mbsyncrc::parse(&text, file, &env, IsyncVersion::V1_4) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for (index, wants) in config.select(&words).unwrap_or_default() {
                let account = &config.accounts[index];
                let words = config.mbsync_words(account, &wants);
                prop_assert!(words.all || words.words.len() + words.unreachable.len() > 0);
                let _ = config.local_mailboxes(account);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(rig::count(60, 1_000)).unwrap(),
        rng_seed: proptest::test_runner::RngSeed::Fixed(1103),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_placed_is_found_again(
        names in proptest::collection::btree_set(
            "(INBOX(/[ab-]{1,3}){1,2})|([a-e-]{1,4}(/[ab-]{1,3}){0,3})", 1..8
        ),
        style in prop::sample::select(vec!["Verbatim", "Legacy", "Maildir++", "Flat"]),
        nested in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let inbox = if nested { "~/Mail/in" } else { "~/In" };
        let store = match style {
            "Maildir++" => "Inbox ~/Mail\nSubFolders Maildir++".to_string(),
            "Flat" => format!("Path ~/Mail/\nInbox {inbox}\nFlatten ."),
            _ => format!("Path ~/Mail/\nInbox {inbox}\nSubFolders {style}"),
        };
        let text = format!(
            "IMAPStore far\nHost h\n\nMaildirStore near\n{store}\n\nChannel C\nFar :far:\n\
             Near :near:\nPatterns * INBOX* INBOX/*\n"
        );
        let env = Env::new(dir.path(), dir.path());
        let file = dir.path().join(".mbsyncrc");
        let config = mbsyncrc::parse(text.as_bytes(), &file, &env, IsyncVersion::V1_4).unwrap();
        let channel = &config.accounts[0].channels[0];
        let mut wanted: std::collections::BTreeSet<String> = ["INBOX".to_string()].into();
        for name in &names {
            let maildir = channel.mailbox(name).maildir.unwrap();
            fs::create_dir_all(maildir.join("cur")).unwrap();
            wanted.insert(name.clone());
        }
        let found: std::collections::BTreeSet<String> =
            config.local_mailboxes(&config.accounts[0]).into_iter().map(|m| m.name).collect();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn rules_are_had_from_channels_that_a_verdict_can_be_given_on() {
    let of = |lines: &str| Rules::of(&channel_with("", lines, IsyncVersion::V1_4));
    assert_eq!(of(""), Ok(Rules::none()));
    let told = of("Expunge Near\nMaxMessages 7").unwrap();
    let expected = Rules { expunge_near: true, max_messages: 7, ..Rules::none() };
    assert_eq!(told, expected);
    assert_eq!(of("Sync Pull").unwrap_err(), "Sync is one-way or partial");
    assert_eq!(of("Sync All"), Ok(Rules::none()));
    let new = |lines: &str| Rules::of(&channel_with("", lines, IsyncVersion::V1_5));
    let usual = Rules { isync_1_5: true, ..Rules::none() };
    assert_eq!(new(""), Ok(usual.clone()));
    let all = Rules { pull_old: true, push_old: true, ..usual.clone() };
    assert_eq!(new("Sync All"), Ok(all));
    let pulls_old = "Sync PullFull PushNew PushUpgrade PushGone PushFlags";
    assert_eq!(new(pulls_old), Ok(Rules { pull_old: true, ..usual }));
    let why = "Sync has Old in it (as All has), with MaxMessages";
    assert_eq!(new("Sync All\nMaxMessages 7").unwrap_err(), why);
    let why = "Sync has Old in it (as All has), with MaxSize";
    assert_eq!(new("Sync All\nMaxSize 1k").unwrap_err(), why);
    let usual = channel_with("", "", IsyncVersion::V1_4);
    let swapped = Channel { near: usual.far.clone(), ..usual.clone() };
    assert_eq!(Rules::of(&swapped).unwrap_err(), "the near side is no Maildir");
    let local = Channel { far: usual.near.clone(), ..usual };
    assert_eq!(Rules::of(&local).unwrap_err(), "the far side is no IMAP store");
}
