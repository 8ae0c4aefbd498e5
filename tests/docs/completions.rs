//! The completions: the same options as the program, and each tried in its own
//! shell, by the key that its user presses.

use std::collections::BTreeSet;

use rig::{Home, Terminal, mutt_sync};

use super::{SHORT, house, options, spellings, text};

/// A home with two accounts and their mailboxes, the program on the PATH, one
/// mailbox with a space in its name.
fn home() -> Home {
    let home = Home::fake(&["Home", "Work"]);
    std::os::unix::fs::symlink(mutt_sync(), home.path("bin/mutt-sync")).unwrap();
    home.write(".mbsyncrc", &format!("{}\nGroup All Home Work\n", home.read(".mbsyncrc")));
    home.write("other.rc", &home.read(".mbsyncrc").replace("Channel Work", "Channel Elsewhere"));
    home
}

/// Every word that is spelled as an option in a text.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with('-') && !word.trim_matches('-').is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_knows_the_options_and_no_others() {
    let source = text("completions/mutt-sync.bash");
    let (_, list) = source.split_once("compgen -W '\n").expect("the list");
    let (list, _) = list.split_once('\'').unwrap();
    assert_eq!(words(list), spellings());
}

#[test]
fn zsh_knows_the_options_and_no_others() {
    let source = text("completions/_mutt-sync");
    let (_, list) = source.split_once("_arguments -s -S \\\n").expect("the list");
    let mut told = BTreeSet::new();
    for option in options().into_values() {
        let line = list
            .lines()
            .find(|line| {
                line.contains(&format!("--{}[", option.long))
                    || line.contains(&format!("--{}=[", option.long))
                    || line.contains(&format!("--{}}}", option.long))
            })
            .unwrap_or_else(|| panic!("--{} is missing", option.long));
        assert!(line.contains(&format!("[{}]", option.about)), "{}: {line}", option.about);
        let braces = format!("{{-{},--{}}}", option.short.unwrap_or(' '), option.long);
        assert_eq!(line.contains(&braces), option.short.is_some(), "{line}");
        let value = option.value.map_or(String::new(), |value| value.to_uppercase());
        let colons = if option.optional { "::" } else { ":" };
        assert_eq!(line.contains(&format!("]{colons}{value}:")), !value.is_empty(), "{line}");
        told.insert(line);
    }
    let all = list.lines().filter(|line| line.contains('[')).count();
    assert_eq!(told.len(), all, "a line for something that is no option");
}

#[test]
fn fish_knows_the_options_and_no_others() {
    let source = text("completions/mutt-sync.fish");
    let told: BTreeSet<String> = source
        .lines()
        .filter(|line| line.starts_with("complete -c mutt-sync ") && line.contains(" -l "))
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<String> = options()
        .into_values()
        .map(|option| {
            let short = option.short.map_or(String::new(), |short| format!(" -s {short}"));
            let value = match (option.value.as_deref(), option.optional) {
                (Some("duration"), _) if option.long == "every" => " -x -a '5m 15m 30m 1h'",
                (Some("duration"), _) => " -x -a '0s 30s 1m 5m'",
                (Some("file"), _) => " -r -F",
                _ => "",
            };
            let about = option.about.replace('\'', "\\'");
            format!("complete -c mutt-sync{short} -l {}{value} -d '{about}'", option.long)
        })
        .collect();
    assert_eq!(told, there);
}

/// Types a command up to the key, presses the key, and waits until the line
/// reads so; then clears it.
fn complete(shell: &Terminal, typed: &str, expected: &str) {
    shell.text(typed);
    shell.wait(typed, SHORT, |screen| prompt(screen).ends_with(typed));
    shell.keys(&["Tab"]);
    shell.wait(&format!("{typed}<Tab> gives {expected}"), SHORT, |screen| {
        prompt(screen).trim_end().ends_with(expected)
    });
    shell.keys(&["C-u"]);
    shell.wait("an empty line", SHORT, |screen| prompt(screen).trim_end() == "ready>");
}

/// The line that is being typed: fish lists what is possible below it.
fn prompt(screen: &str) -> &str {
    screen.lines().rfind(|line| line.starts_with("ready>")).unwrap_or("")
}

/// A shell at its prompt, with our completions.
pub(super) fn bash(home: &Home) -> Terminal {
    let file = house().join("completions/mutt-sync.bash");
    home.write(
        ".bashrc",
        &format!("bind 'set enable-bracketed-paste off'\nPS1='ready>'\n. {}\n", file.display()),
    );
    Terminal::start(home, &["bash", "--rcfile", ".bashrc", "-i"])
}

pub(super) fn zsh(home: &Home) -> Terminal {
    home.write(
        ".zshrc",
        &format!(
            "fpath=({} $fpath)\nautoload -Uz compinit\ncompinit -u -D\nunsetopt prompt_cr prompt_sp\n\
             PS1='ready>'\nbindkey -e\n",
            house().join("completions").display()
        ),
    );
    Terminal::start(home, &["zsh", "-i"])
}

pub(super) fn fish(home: &Home) -> Terminal {
    home.write(
        ".config/fish/config.fish",
        &format!(
            "function fish_prompt; echo -n 'ready>'; end\nset -U fish_greeting ''\n\
             set -g fish_autosuggestion_enabled 0\nsource {}\n",
            house().join("completions/mutt-sync.fish").display()
        ),
    );
    Terminal::start(home, &["fish", "-i"])
}

/// What every shell must be able to do.
const COMMON: [(&str, &str); 9] = [
    ("mutt-sync --dry", "mutt-sync --dry-run"),
    ("mutt-sync -b Wo", "mutt-sync -b Work"),
    ("mutt-sync --wait Home-f", "mutt-sync --wait Home-frequent"),
    ("mutt-sync Home:INB", "mutt-sync Home:INBOX"),
    ("mutt-sync All:INB", "mutt-sync All:INBOX"),
    ("mutt-sync --muttrc Wo", "mutt-sync --muttrc Work"),
    ("mutt-sync Home:INBOX,Tr", "mutt-sync Home:INBOX,Trash"),
    ("mutt-sync Home:INBOX,Trash,Dr", "mutt-sync Home:INBOX,Trash,Drafts"),
    ("mutt-sync --mbsyncrc other.rc El", "mutt-sync --mbsyncrc other.rc Elsewhere"),
];

#[test]
fn bash_completes() {
    let home = home();
    let shell = bash(&home);
    shell.wait_for("ready>", SHORT);
    for (typed, expected) in COMMON {
        complete(&shell, typed, expected);
    }
    complete(&shell, "mutt-sync --every 3", "mutt-sync --every 30m");
    complete(&shell, "mutt-sync --mbsyncrc=oth", "mutt-sync --mbsyncrc=other.rc");
}

#[test]
fn zsh_completes() {
    let home = home();
    let shell = zsh(&home);
    shell.wait_for("ready>", SHORT);
    for (typed, expected) in COMMON {
        complete(&shell, typed, expected);
    }
    complete(&shell, "mutt-sync --every 3", "mutt-sync --every 30m");
}

#[test]
fn fish_completes() {
    let home = home();
    let shell = fish(&home);
    shell.wait_for("ready>", SHORT);
    for (typed, expected) in COMMON {
        complete(&shell, typed, expected);
    }
    complete(&shell, "mutt-sync --every 3", "mutt-sync --every 30m");
}
