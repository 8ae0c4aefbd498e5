//! Mailbox names that a shell would run, completed by its own key: in each kind of
//! quote, the command that is then entered gets the name, or what was typed.

use rig::{Account, Home, Terminal, mutt_sync};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::SHORT;
use super::completions::{bash, fish, zsh};

/// Each begins with two letters of its own; what would be run makes the file `P`.
const NAMES: [&str; 22] = [
    "aa$(touch P)",
    "bb`touch P`",
    "cc\"; touch P; \"",
    "dd'; touch P; '",
    "ee\\\"$(touch P)",
    "ff;touch P;#",
    "gg!!$(touch P)",
    "hh&touch P&",
    "ii|touch P",
    "jj>P",
    "kk${HOME}$HOME",
    "ll*?[a]{x,y}~",
    "mm\\",
    "nn with spaces",
    "oo(touch P)",
    "pp<(touch P)",
    "qq$'x'\\'$(touch P)",
    "rr\\nn\\t%d%s",
    "ss\ntouch P",
    "tt\u{1b}[2J\ttouch P",
    "uu\u{9b}2J",
    "vvé€\u{1f4e7}",
];

/// What is offered inside no quote: it would move the cursor or end the line.
fn is_left_out(name: &str) -> bool {
    name.contains(char::is_control)
}

/// A home whose `mutt-sync` notes its last argument, but for `--complete`.
fn home() -> Home {
    let home = Home::with(vec![Account::fake("Home").patterns("*")]);
    for name in NAMES {
        std::fs::create_dir_all(home.path("Mail/Home").join(name).join("cur")).unwrap();
    }
    let real = mutt_sync().display();
    home.program(
        "mutt-sync",
        &format!(
            "[ \"$1\" = --complete ] && exec {real} \"$@\"\n\
             for last; do :; done; printf '%s\\0' \"$last\" >>~/got"
        ),
    );
    home.write("got", "");
    home
}

fn got(home: &Home) -> Vec<String> {
    home.read("got").split_terminator('\0').map(str::to_owned).collect()
}

/// Completes each name in each kind of quote, and enters the command.
fn try_all(home: &Home, shell: &Terminal, quotes: &[&str]) {
    shell.wait_for("ready>", SHORT);
    let mut wrong = String::new();
    let (mut tried, mut completed) = (0, 0);
    for quote in quotes {
        for name in NAMES {
            let start: String = name.chars().take(2).collect();
            let before = got(home).len();
            shell.text(&format!("mutt-sync {quote}Home:{start}"));
            shell.keys(&["Tab"]);
            shell.text("\u{5}");
            shell.keys(&["Enter"]);
            // A quote that is still open: nothing was completed, or not the quote.
            let (begun, mut closed) = (Instant::now(), false);
            while got(home).len() == before {
                if !closed && begun.elapsed() > Duration::from_millis(700) {
                    shell.text(quote.trim_start_matches('$'));
                    shell.keys(&["Enter"]);
                    closed = true;
                }
                assert!(begun.elapsed() < SHORT, "{quote}{name:?}: {}", shell.screen());
                std::thread::sleep(Duration::from_millis(20));
            }
            tried += 1;
            let given = got(home).pop().unwrap();
            let is = |name: &str| given.trim_end_matches(['\n', ' ']) == format!("Home:{name}");
            let whole = is(name);
            completed += usize::from(whole);
            let typed = given.trim_end_matches('\n') == format!("Home:{start}");
            // fish may find another that is similar.
            let expected = typed || NAMES.iter().any(|name| !is_left_out(name) && is(name));
            if !expected || home.path("P").exists() {
                let _ =
                    writeln!(wrong, "{quote}{name:?}: {given:?}, {:?}", home.path("P").exists());
                let _ = std::fs::remove_file(home.path("P"));
            }
            shell.wait("an empty line", SHORT, |screen| {
                screen.trim_end().lines().last() == Some("ready>")
            });
        }
    }
    assert_eq!(wrong, "");
    println!("{completed} of {tried} completed");
    // Without a quote everything can be spelled.
    assert!(completed >= NAMES.iter().filter(|name| !is_left_out(name)).count());
}

#[test]
fn g10_bash_completes_hostile_names_safely() {
    let home = home();
    let shell = bash(&home);
    try_all(&home, &shell, &["", "\"", "'", "$'"]);
}

#[test]
fn g10_zsh_completes_hostile_names_safely() {
    let home = home();
    let shell = zsh(&home);
    try_all(&home, &shell, &["", "\"", "'", "$'"]);
}

#[test]
fn g10_fish_completes_hostile_names_safely() {
    let home = home();
    let shell = fish(&home);
    try_all(&home, &shell, &["", "\"", "'"]);
}
