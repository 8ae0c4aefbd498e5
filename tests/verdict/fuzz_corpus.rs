//! The fuzzers' corpus, through the fuzzers' functions: what was once found, and
//! every path that was once reached, at every `make test`. The fuzzers themselves
//! are in `fuzz/`.
//!
//! G10: what comes from outside can not crash or hang it.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use rig::{Seeded, count};
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

/// A few bytes taken out, doubled, changed, or put in from another input.
fn altered(random: &mut Seeded, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..4) {
        let mut part = |bytes: &[u8]| {
            let from = random.usize(..=bytes.len());
            from..(from + random.usize(..20)).min(bytes.len())
        };
        let (here, there) = (part(&bytes), part(other));
        match random.u8(..4) {
            0 => drop(bytes.drain(here)),
            1 => bytes.extend_from_within(here),
            2 => here.for_each(|at| bytes[at] ^= 1 << random.u8(..8)),
            _ => drop(bytes.splice(here, other[there].iter().copied())),
        }
    }
    bytes
}

#[test]
fn g10_inputs_near_the_corpus_hold_too() {
    let mut random = Seeded::from_env_or(10);
    for (name, target) in targets::ALL {
        let mut all = inputs(&format!("fuzz/corpus/{name}"));
        all.sort();
        let all: Vec<Vec<u8>> = all.iter().map(|path| std::fs::read(path).unwrap()).collect();
        for _ in 0..count(100, 20_000) {
            let (input, other) = (random.pick(&all), random.pick(&all));
            let bytes = altered(&mut random, input, other);
            let held = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(held.is_ok(), "{name}: {:?}", String::from_utf8_lossy(&bytes));
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
