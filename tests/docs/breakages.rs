//! The breakages of `tests/breakages` fit the tree as it is. Running them is left
//! to `make mutants`.

use std::fs;
use std::path::Path;
use std::process::Command;

use rig::{Home, Output, run};

use super::{SHORT, files, house, text};

/// A copy of what the check reads.
fn copy(home: &Home) {
    for file in ["src", "tests"].iter().flat_map(|below| files(below)) {
        let script = file == "tests/breakages";
        if script || Path::new(&file).extension().is_some_and(|ext| ext == "rs") {
            let to = home.path(&file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(house().join(&file), to).unwrap();
        }
    }
}

fn check(home: &Home) -> Output {
    run(home.command(home.path("tests/breakages")).arg("--check"), SHORT)
}

#[test]
fn every_breakage_is_of_one_line_and_names_a_test() {
    let output = run(Command::new(house().join("tests/breakages")).arg("--check"), SHORT).ok();
    let count = output.stdout.strip_suffix(" breakages fit the tree\n").expect("a count");
    assert!(count.parse::<u32>().unwrap() >= 12, "{output}");
}

#[test]
fn a_breakage_that_does_not_fit_the_tree_is_reported() {
    let home = Home::empty();
    copy(&home);
    check(&home).ok();
    let (file, line) = ("src/state/lock.rs", "if try_flock(FileExt::try_lock_exclusive, &file)? {");
    let source = text(file);
    assert!(source.contains(line));
    for (changed, wrong) in [
        (
            source.replace(line, &format!("{line}\n{line}")),
            "g1-lock-shared: the line occurs 2 times",
        ),
        (source.replace(line, "if try_lock()? {"), "g1-lock-shared: the line occurs 0 times"),
    ] {
        home.write(file, &changed);
        let output = check(&home).expect_code(1);
        assert!(output.stdout.starts_with(wrong), "{output}");
        assert_eq!(output.stdout.lines().count(), 1, "{output}");
    }
    home.write(file, &source);
    let script = text("tests/breakages");
    home.write(
        "tests/breakages",
        &script.replace("sync g12_no_password_command", "sync g12_nobody"),
    );
    let output = check(&home).expect_code(1);
    assert_eq!(output.stdout, "g12-waiter-may-prompt: there is no test sync g12_nobody\n");
}
