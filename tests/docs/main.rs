//! What is told to people, and placed on their machines: manuals, completions,
//! services, packages. All of it is compared with the program, both ways. And what
//! the tests stand on: the breakages they are tried with, and their setup.

#![allow(clippy::unwrap_used)] // what is wrong here fails the test

mod breakages;
mod completion_quoting;
mod completions;
mod install;
mod isync_forms;
mod layers;
mod manual;
mod messages;
mod packages;
mod readme;
mod rig_self;
mod services;
mod setup;
mod supply;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rig::{mutt_sync, run};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(300);

/// The top of the source tree.
fn house() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the source tree, as text.
fn text(path: &str) -> String {
    std::fs::read_to_string(house().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a directory of the source tree, by their paths in it.
fn files(below: &str) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&house().join(below), &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(house()).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// An option, as `--help` shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Opt {
    short: Option<char>,
    long: String,
    /// The name of its value, in small letters.
    value: Option<String>,
    /// The value may be left out.
    optional: bool,
    /// What it does, in the words of `--help`.
    about: String,
}

/// The options of the program itself, by their long names.
fn options() -> BTreeMap<String, Opt> {
    let help = run(Command::new(mutt_sync()).arg("--help"), SHORT).ok().stdout;
    let (_, list) = help.split_once("\nModes:\n").expect("a list of modes");
    let (modes, list) = list.split_once("\n\nOptions:\n").expect("a list of options");
    let options = list.lines().take_while(|line| !line.is_empty());
    let mut found = BTreeMap::new();
    for line in modes.lines().chain(options) {
        let (names, about) = line.trim_start().split_once("  ").expect("columns");
        let mut option = Opt {
            short: None,
            long: String::new(),
            value: None,
            optional: false,
            about: about.trim().to_owned(),
        };
        for word in names.split([' ', ',']).filter(|word| !word.is_empty()) {
            if let Some(long) = word.strip_prefix("--") {
                long.trim_end_matches("...").clone_into(&mut option.long);
            } else if let Some(short) = word.strip_prefix('-') {
                option.short = short.chars().next();
            } else {
                option.optional = word.starts_with('[');
                option.value = Some(word.trim_matches(['[', ']', '<', '>']).to_lowercase());
            }
        }
        assert!(!option.long.is_empty(), "{line}");
        found.insert(option.long.clone(), option);
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

/// `-x` and `--long` of all options.
fn spellings() -> BTreeSet<String> {
    options()
        .into_values()
        .flat_map(|option| {
            let short = option.short.map(|short| format!("-{short}"));
            short.into_iter().chain([format!("--{}", option.long)])
        })
        .collect()
}
