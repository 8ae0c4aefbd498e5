//! What one account's file sets does not follow its user into another account,
//! also what is no variable of a few: every variable that the files name, the
//! colour of the status line, the folder for saving.
#![allow(clippy::unwrap_used)]

use crate::support::{CLIENTS, bottom};
use rig::{Home, Terminal, message, wait_until};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["Home", "Work", "Other"];

/// The variables that a file sets, unsets or resets.
fn variables(text: &str, found: &mut BTreeSet<String>) {
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("set" | "unset" | "reset" | "toggle")) {
            continue;
        }
        for word in words {
            let name: String =
                word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let value = &word[name.len()..];
            if !name.is_empty() && (value.is_empty() || value.starts_with('=')) {
                found.insert(name);
            }
        }
    }
}

/// A file that a client sources to write all of them into `~/shot`.
fn write_dump(home: &Home, variables: &BTreeSet<String>) {
    let each = variables.iter().map(|name| format!("setenv V_{name} \"${name}\"\n"));
    let last = "set my_done=\"`env | grep -a -e ^V_ -e ^MUTT_SYNC_ACCOUNT= | sort >~/shot.new; \
                mv ~/shot.new ~/shot`\"\n";
    home.write("dump.rc", &(each.collect::<String>() + last));
}

/// All that can be told of the account that one is in.
fn told(home: &Home, terminal: &Terminal, variables: &BTreeSet<String>) -> Vec<String> {
    home.write("shot", "");
    terminal.text(":source ~/dump.rc\n");
    wait_until(SHORT, "the variables", || !home.read("shot").is_empty());
    let mut told: Vec<String> = home.read("shot").lines().map(str::to_owned).collect();
    // And MUTT_SYNC_ACCOUNT.
    assert_eq!(told.len(), variables.len() + 1, "{told:?}");
    terminal.text("s");
    let screen = terminal.wait("where to save", SHORT, |screen| bottom(screen).contains("Save"));
    told.push(bottom(&screen).to_owned());
    terminal.keys(&["C-g"]);
    terminal.wait_without("Save to mailbox", SHORT);
    let coloured = terminal.coloured();
    let line = coloured.lines().find(|line| line.contains("Msgs:")).unwrap();
    // The colours of the line, without what it says.
    let colours: Vec<&str> =
        line.split('\u{1b}').skip(1).filter_map(|part| part.split('m').next()).collect();
    told.push(format!("status line in {colours:?}"));
    told
}

/// Walks from account to account and back; each time all is as if the client had
/// been started there. Returns how many variables were compared.
fn nothing_follows(home: &Home, files: &[String]) -> usize {
    let mut names = BTreeSet::new();
    for text in files {
        variables(text, &mut names);
    }
    write_dump(home, &names);
    for name in NAMES {
        home.maildir(name, "INBOX").add(&message(&format!("Mail for {name}"), "x"), "S");
    }
    for client in CLIENTS {
        let start = |name: &str| {
            let folder = format!("={name}/INBOX");
            let terminal =
                Terminal::start(home, &[client, "-n", "-F", ".muttrc", "-f", folder.as_str()]);
            terminal.wait_for(&format!("Mail for {name}"), SHORT);
            terminal
        };
        let fresh = NAMES.map(|name| {
            let terminal = start(name);
            let told = told(home, &terminal, &names);
            terminal.keys(&["x"]);
            terminal.wait_end(SHORT);
            told
        });
        let all = fresh.map(|told| told.join("\n"));
        for (at, name) in NAMES.iter().enumerate() {
            assert!(all[at].contains(&format!("={name}/Archive")), "{client}: {}", all[at]);
            assert!(
                all[at].contains(&format!("me@{}.example", name.to_lowercase())),
                "{}",
                all[at]
            );
        }
        let colour = |at: usize| all[at].lines().last().unwrap();
        assert_ne!(colour(0), colour(1), "a colour that is the same in all shows nothing");
        let terminal = start(NAMES[0]);
        for at in [1, 2, 0, 2, 1, 0] {
            terminal.text(&format!("c={}/INBOX\n", NAMES[at]));
            terminal.wait_for(&format!("Mail for {}", NAMES[at]), SHORT);
            let now = told(home, &terminal, &names).join("\n");
            assert_eq!(now, all[at], "{client}, in {}", NAMES[at]);
        }
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
    names.len()
}

/// With what only Work has: whatever it is, it must not be found elsewhere.
const OF_WORK: &str = "set signature=~/work.sig pgp_sign_as=0x1234 pgp_default_key=0x1234\n";

/// A home whose muttrc and identities the program prints; the identities.
fn printed() -> (Home, [String; 3]) {
    let home = Home::fake(&NAMES);
    home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
    home.settings("throttle = \"1h\"\nburst = 1\n");
    let account = |name: &str| {
        let from = name.to_lowercase();
        format!("account {name}\nhost smtp.{from}.example\nfrom me@{from}.example\n")
    };
    home.write(".msmtprc", &NAMES.map(account).concat());
    let files = NAMES.map(|name| {
        let mut text = home.mutt_sync(&["--muttrc", name]).ok().stdout;
        if name == "Work" {
            text += OF_WORK;
        }
        home.write(&format!(".config/mutt/account/{name}"), &text);
        text
    });
    home.write(
        ".muttrc",
        "set folder=~/Mail mbox_type=Maildir header_cache=\"\" timeout=600\n\
         source \"mutt-sync --muttrc|\"\n",
    );
    (home, files)
}

#[test]
fn of_a_printed_identity_nothing_follows_its_user() {
    let (home, files) = printed();
    let _mbsync = home.fake_mbsync();
    let compared = nothing_follows(&home, &files);
    assert!(compared >= 10, "only {compared} variables");
}

/// The manual says to do this when a folder is new.
#[test]
fn sourcing_the_lines_again_keeps_the_account() {
    let (home, files) = printed();
    let _mbsync = home.fake_mbsync();
    let mut names = BTreeSet::new();
    for text in &files {
        variables(text, &mut names);
    }
    names.insert("my_mailbox".into());
    write_dump(&home, &names);
    for name in NAMES {
        home.maildir(name, "INBOX").add(&message(&format!("Mail for {name}"), "x"), "S");
    }
    for client in CLIENTS {
        let terminal =
            Terminal::start(&home, &[client, "-n", "-F", ".muttrc", "-f", "=Home/INBOX"]);
        terminal.wait_for("Mail for Home", SHORT);
        terminal.text("c=Work/INBOX\n");
        terminal.wait_for("Mail for Work", SHORT);
        let before = told(&home, &terminal, &names).join("\n");
        assert!(before.contains("V_my_mailbox=Work:INBOX"), "{client}: {before}");
        assert!(before.contains("MUTT_SYNC_ACCOUNT=Work"), "{client}: {before}");
        terminal.text(":source \"mutt-sync --muttrc|\"\n");
        let after = told(&home, &terminal, &names).join("\n");
        // F7 syncs the account until a folder is opened.
        let wanted = before.replace("V_my_mailbox=Work:INBOX", "V_my_mailbox=Work");
        assert_eq!(after, wanted, "{client}");
        terminal.keys(&["x"]);
        terminal.wait_end(SHORT);
    }
}

#[test]
fn of_a_shipped_account_file_nothing_follows_its_user() {
    let home = Home::fake(&NAMES);
    home.program("mutt-sync", "exit 0");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d");
    let text = |file: &str| std::fs::read_to_string(shipped.join(file)).unwrap();
    let mut files = vec![text("account/default"), text("account/Home"), text("account/Work")];
    // A third one, as its user would write it.
    files.push(
        files[1].replace("Home", "Other").replace("home", "other").replace(" blue", " green"),
    );
    files[2] += OF_WORK;
    for (name, text) in ["default", "Home", "Work", "Other"].iter().zip(&files) {
        home.write(&format!(".config/mutt/account/{name}"), text);
    }
    let hooks = text("20-accounts.rc").replace(
        "folder-hook =Work/",
        "folder-hook =Other/ 'source ~/.config/mutt/account/Other'\nfolder-hook =Work/",
    );
    home.write(".config/mutt/20-accounts.rc", &hooks);
    home.write(".config/mutt/10-sync.rc", &text("10-sync.rc"));
    home.write(
        ".muttrc",
        "set folder=~/Mail mbox_type=Maildir header_cache=\"\" timeout=600\n\
         source ~/.config/mutt/10-sync.rc\nsource ~/.config/mutt/20-accounts.rc\n",
    );
    let compared = nothing_follows(&home, &files);
    assert!(compared >= 10, "only {compared} variables");
}
