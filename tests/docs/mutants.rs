//! The breakages in `tests/mutants` fit the tree as it is, and name tests that
//! there are. That these notice them is shown by `make mutants`, which takes long.

use std::collections::BTreeMap;
use std::process::Command;

use rig::run;

use super::{SHORT, files, house, text};

/// The names of all functions in the sources that this stands for: `lib`, or a
/// file or directory of `tests`.
fn functions(of: &str) -> Vec<String> {
    let sources = match of {
        "lib" => files("src"),
        name if house().join(format!("tests/{name}.rs")).exists() => {
            vec![format!("tests/{name}.rs")]
        }
        name => files(&format!("tests/{name}")),
    };
    let name = |line: &str| {
        let (name, _) = line.trim_start().strip_prefix("fn ")?.split_once('(')?;
        Some(name.to_owned())
    };
    sources
        .iter()
        .filter(|file| file.strip_suffix(".rs").is_some())
        .flat_map(|file| text(file).lines().filter_map(name).collect::<Vec<_>>())
        .collect()
}

#[test]
fn breakages_fit_the_tree_and_name_tests_of_their_guarantee() {
    let patches: Vec<String> = files("tests/mutants")
        .into_iter()
        .filter(|file| file.strip_suffix(".patch").is_some())
        .collect();
    let mut of_each: BTreeMap<u32, usize> = BTreeMap::new();
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for patch in &patches {
        let said = text(patch);
        let mut head = said.lines();
        let reason = head.next().unwrap_or_default();
        assert!(reason.ends_with('.') && reason.len() < 120, "{patch}: {reason}");
        let file = patch.rsplit('/').next().unwrap();
        let number = file.strip_prefix('g').and_then(|rest| rest.split_once('-')).unwrap().0;
        *of_each.entry(number.parse().unwrap()).or_default() += 1;
        let tests = head.next().and_then(|line| line.strip_prefix("Tests: ")).unwrap();
        for test in tests.split(' ') {
            let (place, part) = test.split_once(':').unwrap();
            assert!(part.contains(&format!("g{number}_")), "{patch}: {test}");
            let there = known.entry(place.to_owned()).or_insert_with(|| functions(place));
            assert!(there.iter().any(|name| name.contains(part)), "{patch}: no test {test}");
        }
    }
    let guarantees = text("man/mutt-sync.1").matches("\n.It G").count();
    assert!(guarantees >= 12);
    assert_eq!(of_each.len(), guarantees, "{of_each:?}");
    assert!(of_each.values().all(|&count| count >= 2), "{of_each:?}");
    // No repository around this one is meant, if it was unpacked inside of another.
    for patch in &patches {
        let mut command = Command::new("git");
        command.current_dir(house()).env("GIT_CEILING_DIRECTORIES", house().parent().unwrap());
        run(command.args(["apply", "--check", patch]), SHORT).ok();
    }
}
