//! The fuzzers' corpus, through the fuzzers' functions: what was once found, and
//! every path that was once reached, at every `make test`. The fuzzers themselves
//! are in `fuzz/`.
//!
//! G10: what comes from outside can not crash or hang it.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn inputs(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn g10_the_corpus_of_the_fuzzers_holds() {
    for (name, target) in targets::ALL {
        let mut all = inputs(&format!("fuzz/corpus/{name}"));
        assert!(all.len() >= 10, "{name}: {} inputs", all.len());
        // What is read by both is kept once; and the files that mbsync was tried with.
        if name == "muttrc" {
            all.extend(inputs("fuzz/corpus/mbsyncrc"));
        }
        if ["muttrc", "mbsyncrc"].contains(&name) {
            all.extend(inputs("tests/configs"));
        }
        for path in all {
            let bytes = std::fs::read(&path).unwrap();
            let held = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(held.is_ok(), "{name}: {}: see above", path.display());
        }
    }
}

#[test]
fn every_target_has_its_corpus_and_its_fuzzer() {
    let names = |dir: &str| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.trim_end_matches(".rs").to_owned()
            })
            .collect();
        names.sort();
        names
    };
    let mut all: Vec<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    all.sort();
    assert_eq!(names("corpus"), all);
    assert_eq!(names("fuzz_targets"), all);
}

/// The model of mutt that the targets judge by sees what it is there to see.
#[test]
fn the_model_of_mutt_sees_what_would_be_run() {
    use targets::mutt::{Word, commands, literal, words};
    for line in ["set x=`id`", "set x=\"`id`\"", "set x=$HOME", "set x=\"${HOME}\""] {
        assert!(words(line).unwrap().iter().any(|word| word.expands), "{line}");
    }
    for line in ["set x='`id` $HOME'", "set x=\\`id\\`", "set x=\"\\$HOME $ $1\""] {
        assert!(words(line).unwrap().iter().all(|word| !word.expands), "{line}");
    }
    assert_eq!(words("a\"b c\"'d' # e"), Ok(vec![Word::plain("ab cd")]));
    assert_eq!(commands("a; b \";\"").unwrap().len(), 2);
    for line in ["\"a", "'a", "a\\", "`a", "\"\\n\""] {
        assert!(words(line).is_err(), "{line}");
    }
    assert_eq!(literal("a\\.b").as_deref(), Some("a.b"));
    assert_eq!(literal("a.b"), None);
}
