//! The two manuals, and what else is said in prose.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mutt_sync::error::ExitStatus;
use mutt_sync::mbsyncrc::{Env, IsyncVersion};
use mutt_sync::settings::{File, KEYS, Place};
use rig::{Home, run};

use super::{SHORT, files, house, options, spellings, text};

/// The lines of a section of a manual.
pub(crate) fn section(manual: &str, name: &str) -> Vec<String> {
    let source = text(manual);
    let lines: Vec<String> = source
        .lines()
        .skip_while(|line| *line != format!(".Sh {name}"))
        .skip(1)
        .take_while(|line| !line.starts_with(".Sh "))
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty(), "{manual} has no {name}");
    lines
}

#[test]
fn mandoc_finds_nothing_in_the_manuals() {
    let pages = files("man");
    assert!(pages.len() >= 3, "{pages:?}");
    for page in pages {
        let output = run(Command::new("mandoc").arg("-Tlint").arg(house().join(&page)), SHORT);
        // Which other manuals the machine has is not the page's fault.
        let said: Vec<&str> = output
            .stdout
            .lines()
            .chain(output.stderr.lines())
            .filter(|line| !line.contains("referenced manual not found"))
            .filter(|line| !line.contains("outdated mandoc.db"))
            .collect();
        assert!(said.is_empty(), "{page}: {said:#?}");
        let shown = run(Command::new("mandoc").arg("-Tascii").arg(house().join(&page)), SHORT).ok();
        assert!(shown.stdout.len() > 1000, "{page} is shown");
    }
}

#[test]
fn the_manual_has_the_options_of_the_program_and_no_others() {
    let told: BTreeSet<_> = section("man/mutt-sync.1", "OPTIONS")
        .iter()
        .filter_map(|line| line.strip_prefix(".It Fl "))
        .map(|item| {
            // `b , Fl -background`, `-status-line Op Ar format`, `-every Ar duration`
            let mut short = None;
            let mut long = String::new();
            let mut value = None;
            let mut words = item.split(' ');
            let mut optional = false;
            let mut name = words.next();
            while let Some(word) = name {
                match word {
                    "," | "Fl" => {}
                    "Op" => optional = true,
                    "Ar" => value = words.next().map(str::to_owned),
                    _ => match word.strip_prefix('-') {
                        Some(word) => word.clone_into(&mut long),
                        None => short = word.chars().next(),
                    },
                }
                name = words.next();
            }
            (long, short, value, optional)
        })
        .collect();
    let there: BTreeSet<_> = options()
        .into_values()
        .map(|option| (option.long, option.short, option.value, option.optional))
        .collect();
    assert_eq!(told, there);
}

#[test]
fn the_synopsis_has_every_mode() {
    let synopsis = section("man/mutt-sync.1", "SYNOPSIS").join("\n");
    let mut told = BTreeSet::new();
    for line in synopsis.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        for pair in words.windows(2).filter(|pair| pair[0].ends_with("Fl")) {
            match pair[1].strip_prefix('-') {
                Some(long) => drop(told.insert(format!("--{long}"))),
                None => told.extend(pair[1].chars().map(|short| format!("-{short}"))),
            }
        }
    }
    let known = spellings();
    let strange: Vec<_> = told.difference(&known).collect();
    assert!(strange.is_empty(), "not options: {strange:?}");
    // What stands there as a letter need not stand there as a word.
    for option in options().into_values() {
        let short = option.short.map(|short| format!("-{short}"));
        let told = told.contains(&format!("--{}", option.long))
            || short.is_some_and(|short| told.contains(&short));
        let rest = ["help", "version", "mbsyncrc", "config"].contains(&option.long.as_str());
        assert!(told != rest, "--{} in the synopsis: {told}", option.long);
    }
}

#[test]
fn the_manual_has_the_exit_statuses_of_the_program_and_no_others() {
    let told: BTreeSet<u8> = section("man/mutt-sync.1", "EXIT STATUS")
        .iter()
        .filter_map(|line| line.strip_prefix(".It "))
        .flat_map(|item| match item {
            "128+N" => 129..=255,
            number => {
                let number: u8 = number.parse().expect("a number");
                number..=number
            }
        })
        .collect();
    let there: BTreeSet<u8> =
        (0..=255).filter(|&code| ExitStatus::from_code(code).code() == code).collect();
    assert_eq!(told, there);
}

#[test]
fn every_mode_and_option_in_prose_exists() {
    let mut known = spellings();
    // Of the keys alone: no help shows it.
    known.insert("--key-step".to_owned());
    let mut seen = 0;
    let prose = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "man/mutt-sync.1"]
        .map(str::to_owned)
        .into_iter()
        .chain(["man/mutt-sync.toml.5", ".github/ISSUE_TEMPLATE/bug.yml"].map(str::to_owned))
        .chain(files("contrib"))
        .chain(files("muttrc.d"));
    for file in prose {
        for line in text(&file).lines() {
            // What follows the program's name up to whatever ends the command.
            for command in line.replace("=mutt-sync", "=").split("mutt-sync ").skip(1) {
                let end = command.find(['`', '|', '"', '\'', '#', '<', '>', ';', ')', ',']);
                let command = &command[..end.unwrap_or(command.len())];
                for word in command.split(' ').take_while(|word| *word != "--") {
                    let word = word.trim_end_matches('.').split('=').next().unwrap();
                    if !word.starts_with('-') || word == "-" {
                        continue;
                    }
                    seen += 1;
                    let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
                    let there = known.contains(word)
                        || letters.is_some_and(|letters| {
                            letters.chars().all(|each| known.contains(&format!("-{each}")))
                        });
                    assert!(there, "{file}: {word} in: {line}");
                }
            }
        }
    }
    assert!(seen > 60, "only {seen} options found in prose");
}

#[test]
fn the_other_name_of_every_is_taken() {
    use clap::Parser as _;
    assert!(text("man/mutt-sync.1").contains(".Fl -timeout\nis another name for it."));
    let cli = mutt_sync::cli::Cli::try_parse_from(["mutt-sync", "--timeout", "7m"]).unwrap();
    assert_eq!(cli.every, Some(Duration::from_secs(420)));
}

/// The keys in the manual, by the place where they stand, with their defaults.
fn told_settings() -> Vec<(String, String, Option<String>)> {
    let mut place = String::new();
    let mut found: Vec<(String, String, Option<String>)> = Vec::new();
    let mut lines = section("man/mutt-sync.toml.5", "DESCRIPTION").into_iter().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix(".Ss ") {
            name.clone_into(&mut place);
        } else if let Some(item) = line.strip_prefix(".It Ic ") {
            let key = item.split(' ').next().unwrap().to_owned();
            found.push((place.clone(), key, None));
        } else if let Some(default) = line.strip_prefix("Default: ") {
            // `Default: 4.`
            let number = default.trim_end_matches('.');
            if number.parse::<u32>().is_ok() {
                found.last_mut().unwrap().2 = Some(number.to_owned());
            }
        } else if line == "Default:" {
            // `.Cm \&"60s\&" ;`, `.Cm false .`
            let value = lines.peek().and_then(|line| line.strip_prefix(".Cm "));
            let value =
                value.map(|value| value.trim_end_matches([' ', '.', ',', ';']).replace("\\&", ""));
            found.last_mut().unwrap().2 = value;
        }
    }
    found
}

#[test]
fn the_manual_has_the_settings_of_the_program_and_no_others() {
    let keys = |place: Place| -> BTreeSet<String> {
        let here = KEYS.iter().filter(|key| key.place == place);
        here.flat_map(|key| [&[key.name], key.aliases].concat()).map(str::to_owned).collect()
    };
    let told = told_settings();
    for (place, name) in [
        ("For all accounts", Place::General),
        ("For all accounts or for one", Place::Anywhere),
        ("For one account", Place::Account),
    ] {
        let told: BTreeSet<String> =
            told.iter().filter(|each| each.0 == place).map(|each| each.1.clone()).collect();
        assert_eq!(told, keys(name), "{place}");
    }
}

#[test]
fn the_defaults_in_the_manual_are_the_program_s() {
    let told = told_settings();
    let with = told.iter().filter(|(_, key, value)| value.is_some() && key != "mbsyncrc");
    let lines: Vec<String> =
        with.map(|(_, key, value)| format!("{key} = {}\n", value.as_ref().unwrap())).collect();
    assert!(lines.len() >= 12, "{lines:?}");
    let file = File::parse(&lines.concat(), "the manual", Path::new("/home/me")).unwrap();
    assert_eq!(file, File::default());
}

/// The literal displays of a section.
fn displays(manual: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in section(manual, name) {
        if line.starts_with(".Bd -literal") {
            open = Some(String::new());
        } else if line == ".Ed" {
            found.push(open.take().expect("an open display"));
        } else if let Some(open) = &mut open {
            open.push_str(&line.replace("\\e", "\\").replace("\\&", ""));
            open.push('\n');
        }
    }
    found
}

#[test]
fn the_settings_in_examples_are_taken() {
    let mut tried = 0;
    for (manual, name) in [
        ("man/mutt-sync.toml.5", "EXAMPLES"),
        ("man/mutt-sync.1", "MOVING OVER FROM A SET OF SERVICES"),
    ] {
        for example in displays(manual, name) {
            File::parse(&example, manual, Path::new("/home/me")).unwrap();
            tried += 1;
        }
    }
    assert_eq!(tried, 2);
}

/// The files that the manual describes: the first is shown, of the others what differs.
fn recipes() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for display in displays("man/mutt-sync.1", "PROVIDERS") {
        let word = display.split(' ').next().unwrap();
        match (word, found.first()) {
            ("IMAPAccount", None) => found.push(display),
            ("IMAPAccount", Some(first)) => {
                let (account, rest) = first.split_once("\n\n").unwrap();
                let old = account.lines().next().unwrap().split(' ').next_back().unwrap();
                let new = display.lines().next().unwrap().split(' ').next_back().unwrap();
                let rest: Vec<String> = rest
                    .lines()
                    .map(|line| match line.split_once("Patterns ") {
                        Some(_) => "Patterns *".to_owned(),
                        None => line.replace(old, new),
                    })
                    .collect();
                found.push(format!("{display}\n{}\n", rest.join("\n")));
            }
            ("Patterns", Some(_)) => {
                let last = found.last_mut().unwrap();
                *last = last.replace("Patterns *\n", &display);
            }
            _ => assert!(display.lines().all(|line| line.starts_with("PassCmd \"")), "{display}"),
        }
    }
    assert!(found.iter().any(|recipe| recipe.contains("\nPatterns * \"!All Mail\"")), "{found:?}");
    found
}

/// Each recipe is read as a whole file, in the language of both versions, and by the mbsync
/// that is installed.
#[test]
fn the_recipes_for_providers_are_taken() {
    let home = Home::empty();
    home.write(".config/proton-bridge.pem", rig::Ca::shared().cert());
    let env = Env::new(home.path(""), home.path(""));
    let mut names = Vec::new();
    for recipe in recipes() {
        let old = recipe.replace("TLSType", "SSLType");
        for (version, text) in [(IsyncVersion::V1_5, &recipe), (IsyncVersion::V1_4, &old)] {
            let file = home.write(".mbsyncrc", text);
            let config = mutt_sync::mbsyncrc::read(&file, &env, version).expect("it is taken");
            let [account] = &config.accounts[..] else { panic!("accounts in {recipe}") };
            let server = account.server.as_ref().unwrap();
            assert!(server.host.is_some() && server.pass.is_some(), "{recipe}");
            let [channel] = &account.channels[..] else { panic!("channels in {recipe}") };
            assert_eq!(channel.name, account.name);
            names.extend((version == IsyncVersion::V1_5).then(|| account.name.clone()));
        }
        home.write(".mbsyncrc", if tls_keyword() == "TLSType" { &recipe } else { &old });
        let output = home.mbsync(&["none"]);
        let said = output.stderr.lines().next().unwrap_or_default();
        assert_eq!(said, "No channel or group named 'none' defined.", "{recipe}");
    }
    assert_eq!(names, ["Gmail", "Outlook", "Proton", "Exchange", "Fastmail", "iCloud"]);
}

#[test]
fn the_recipe_for_proton_is_what_init_prints() {
    let recipes = recipes();
    let recipe = recipes.iter().find(|recipe| recipe.starts_with("IMAPAccount Proton")).unwrap();
    let account = mutt_sync::init::MailAccount::of("me@proton.me").unwrap();
    let printed = account.mbsyncrc(Some(IsyncVersion::V1_5));
    let keywords = ["Host", "Port", "User", "AuthMechs", "CertificateFile", "Timeout", "TLSType"];
    for keyword in keywords.into_iter().chain(["Patterns"]) {
        let line = recipe.lines().find(|line| line.split(' ').next() == Some(keyword)).unwrap();
        assert!(printed.lines().any(|printed| printed == line), "{line:?} is not in {printed}");
    }
}

#[test]
fn the_commands_in_examples_are_commands() {
    let home = Home::fake(&["Home", "Work"]);
    home.fake_mbsync();
    let script = displays("man/mutt-sync.1", "EXAMPLES")
        .into_iter()
        .find(|example| example.contains("--block Home:INBOX"))
        .expect("the script");
    let link = home.path("bin/mutt-sync");
    std::os::unix::fs::symlink(rig::mutt_sync(), link).unwrap();
    run(home.command("sh").args(["-euc", &script]), SHORT).ok();
}

/// The keyword, by what the manual says of isync 1.4.
fn tls_keyword() -> &'static str {
    let hint = "isync 1.4, as in Debian 12, calls\n.Cm TLSType\n.Cm SSLType .";
    assert!(text("man/mutt-sync.1").contains(hint));
    let memory = tempfile::tempdir().unwrap();
    match mutt_sync::mbsync_version::of_mbsync(&rig::real_mbsync(), memory.path()) {
        Some(IsyncVersion::V1_4) => "SSLType",
        _ => "TLSType",
    }
}

#[test]
fn contributing_names_every_file_of_an_account() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    home.settings("throttle = \"0s\"\nsettle = \"0s\"\nretry = \"1h\"\n");
    home.mutt_sync(&["-f", "Home"]).ok();
    mbsync.exit(1);
    home.mutt_sync(&["Home:INBOX"]).expect_code(1);
    home.mutt_sync(&["-b", "-f", "Home"]).ok();
    // Its child waits for the end of the backoff.
    rig::wait_until(SHORT, "a child", || !home.leftovers().is_empty());
    // Not once: it may be about to become another process.
    rig::wait_until(SHORT, "the child's end", || {
        let left = home.leftovers();
        for (pid, _) in &left {
            rig::process::kill(*pid, rig::Signal::TERM);
        }
        left.is_empty()
    });
    let waiter = rig::Running::start(home.cmd(&["--wait", "--loop", "Home"]));
    rig::wait_until(SHORT, "a waiter", || home.state("Home").join("waiter.lock").exists());
    waiter.signal(rig::Signal::TERM);
    waiter.wait(SHORT);
    home.wait_no_leftovers(SHORT);
    let contributing = text("CONTRIBUTING.md");
    let (_, table) = contributing.split_once("\n| file | what it is |\n|---|---|\n").unwrap();
    let told: BTreeSet<&str> = table
        .lines()
        .map_while(|line| line.strip_prefix("| ")?.split_once(" | "))
        .flat_map(|(names, _)| names.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let mut seen = 0;
    for entry in fs::read_dir(home.state("Home")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(told.contains(name.as_str()), "{name} is not in CONTRIBUTING.md");
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} files");
}

/// Every row of the table has its test.
#[test]
fn the_oddities_of_servers_have_their_tests() {
    let table = text("tests/servers/README.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.ends_with("` |")).collect();
    assert!(rows.len() > 15, "{rows:?}");
    let sources: String = files("tests")
        .iter()
        .filter_map(|file| fs::read_to_string(house().join(file)).ok())
        .collect();
    for row in rows {
        let test = row.trim_end_matches("` |").rsplit('`').next().unwrap();
        assert!(sources.contains(&format!("fn {test}()")), "{row}");
    }
}
