//! The words of the program are those of the field: what was called otherwise once
//! is not called so again.

use crate::{files, text};

/// Words that no reader of mail, IMAP or Unix would expect.
const OLD_WORDS: [&str; 24] = [
    "mend",
    "mends",
    "mended",
    "mending",
    "whoever",
    "gravest",
    "deaf",
    "ears",
    "hushed",
    "ladder",
    "rung",
    "rungs",
    "parted",
    "spoilt",
    "amiss",
    "coat",
    "dialect",
    "dice",
    "headline",
    "manner",
    "scene",
    "stranger",
    "surroundings",
    "whilst",
];
/// The same, of more than one word.
const OLD_PHRASES: [&str; 8] = [
    "stands by",
    "standing by",
    "looked into",
    "cannot be told",
    "on loan",
    "told twice",
    "is heard again",
    "request stands",
];

/// The texts that users and contributors read.
fn read_by_people() -> Vec<String> {
    let below = ["src", "man", "completions", "contrib", "muttrc.d"];
    let mut all = Vec::new();
    for below in below {
        let found = files(below);
        assert!(!found.is_empty(), "nothing below {below}");
        all.extend(found);
    }
    all.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"].map(str::to_owned));
    all
}

/// What an old word or phrase of a line is.
fn old(line: &str) -> Option<&'static str> {
    let line = line.to_lowercase();
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    let word = words.find_map(|word| OLD_WORDS.into_iter().find(|old| *old == word));
    word.or_else(|| OLD_PHRASES.into_iter().find(|phrase| line.contains(phrase)))
}

#[test]
fn no_word_of_the_old_vocabulary_is_left() {
    assert_eq!(old("Mend: try again"), Some("mend"));
    assert_eq!(old("it was looked into"), Some("looked into"));
    assert_eq!(old("amended"), None);
    let all = read_by_people();
    assert!(all.len() > 100, "only {} files", all.len());
    let mut found = Vec::new();
    for file in all {
        for (at, line) in text(&file).lines().enumerate() {
            if let Some(word) = old(line) {
                found.push(format!("{file}:{}: {word}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
