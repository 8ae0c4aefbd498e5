//! What others make packages from, and what makes a release: the crate, the files for
//! Debian, Arch and Void, the workflows, and the sections of CHANGELOG.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rig::run;
use tempfile::TempDir;

use super::install::{below, expected, plain_make};
use super::{LONG, SHORT, files, house, text};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const ZSH: &str = "share/zsh/site-functions/_mutt-sync";

#[test]
fn all_packages_have_the_version_of_the_program() {
    let first = |file: &str, key: &str| -> String {
        let text = text(file);
        let value = text.lines().find_map(|line| line.strip_prefix(key));
        value.unwrap_or_else(|| panic!("{file}: no {key}")).to_owned()
    };
    assert_eq!(first("packaging/arch/PKGBUILD", "pkgver="), VERSION);
    assert_eq!(first("packaging/void/template", "version="), VERSION);
    let debian = first("packaging/debian/changelog", "mutt-sync (");
    assert!(debian.starts_with(&format!("{VERSION}-")), "{debian}");
    let fuzzers = format!("name = \"mutt-sync\"\nversion = \"{VERSION}\"\n");
    assert!(text("fuzz/Cargo.lock").contains(&fuzzers));
}

/// The source as cargo publishes it, unpacked as makepkg and xbps-src unpack a source, with
/// something in the place of the two programs.
fn source(dir: &Path, programs: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut package = Command::new(cargo);
    package.current_dir(house()).args(["package", "-q", "-p", "mutt-sync", "--locked"]);
    package.args(["--offline", "--allow-dirty", "--no-verify", "--target-dir"]).arg(dir);
    run(&mut package, LONG).ok();
    let archive = dir.join(format!("package/mutt-sync-{VERSION}.crate"));
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir), SHORT).ok();
    let source = dir.join(format!("mutt-sync-{VERSION}"));
    fs::create_dir_all(source.join(programs)).unwrap();
    for name in ["mutt-sync", "mutt-sync-net"] {
        fs::write(source.join(programs).join(name), name).unwrap();
    }
    source
}

#[test]
fn the_crate_has_what_the_build_and_make_install_need_and_no_tests() {
    let dir = TempDir::new().unwrap();
    let source = source(dir.path(), "target/release");
    let found = below(&source);
    let others = ["build.rs", "Cargo.lock", "docs/picture.svg"];
    for file in files("src").iter().map(String::as_str).chain(others) {
        assert!(found.contains(file), "{file} is missing");
    }
    for without in ["tests/", "benches/", "fuzz/", "packaging/", "."] {
        let strange: Vec<_> = found.iter().filter(|file| file.starts_with(without)).collect();
        assert!(strange.is_empty() || strange == [".cargo_vcs_info.json"], "{strange:?}");
    }
    let root = dir.path().join("root");
    let mut make = plain_make(&source);
    run(make.arg("install").arg(format!("DESTDIR={}", root.display())), SHORT).ok();
    assert_eq!(below(&root.join("usr/local")), expected(ZSH));
}

/// Runs a function of a package's file, as makepkg or xbps-src would.
fn packaged(file: &str, prelude: &str, function: &str, programs: &str) -> BTreeSet<String> {
    let dir = TempDir::new().unwrap();
    let source = source(dir.path(), programs);
    let root = dir.path().join("root");
    let script = format!(
        "set -eu\n{prelude}\n. {file}\ncd {at}\n{function}",
        file = house().join(file).display(),
        at = if function == "package" { dir.path() } else { &source }.display(),
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).env("root", &root).env_remove("CARGO_TARGET_DIR");
    run(bash.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"), SHORT).ok();
    below(&root.join("usr"))
}

#[test]
fn arch_s_package_has_what_make_install_places() {
    let found = packaged("packaging/arch/PKGBUILD", "pkgdir=$root", "package", "target/release");
    let mut wanted = expected(ZSH);
    wanted.insert("share/licenses/mutt-sync/LICENSE-MIT".into());
    assert_eq!(found, wanted);
}

#[test]
fn void_s_package_has_what_make_install_places_without_units() {
    let prelude = "DESTDIR=$root RUST_TARGET=x-y
        vlicense() { install -D -m 644 \"$1\" -t \"$DESTDIR/usr/share/licenses/$pkgname\"; }";
    let file = "packaging/void/template";
    let found = packaged(file, prelude, "do_install", "target/x-y/release");
    let mut wanted = expected(ZSH);
    wanted.retain(|file| !file.starts_with("lib/systemd/"));
    wanted.insert("share/licenses/mutt-sync/LICENSE-MIT".into());
    assert_eq!(found, wanted);
    // Void's manual: 72 characters at most.
    let text = text(file);
    let short = text.lines().find_map(|line| line.strip_prefix("short_desc=")).unwrap();
    assert!(short.len() <= 72 + 2, "{short}");
}

#[test]
fn shellcheck_finds_nothing_in_the_files_for_arch_and_void() {
    let mut check = Command::new("shellcheck");
    check.current_dir(house()).args(["packaging/arch/PKGBUILD", "packaging/void/template"]);
    run(&mut check, SHORT).ok();
}

/// The working tree as a repository of its own, with all of it committed.
fn repository(dir: &Path) -> PathBuf {
    let copy = dir.join("copy");
    fs::create_dir(&copy).unwrap();
    let script = "git ls-files -z --cached --others --exclude-standard |
            xargs -0 sh -c 'for file; do [ ! -e \"$file\" ] || printf \"%s\\0\" \"$file\"; done' - |
            tar --null -T - -cf - | tar -xf - -C \"$copy\"
        cd \"$copy\" && git init -q && git add -A && git commit -q -m all";
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(house()).env("copy", &copy);
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@b")] {
        shell.env(format!("GIT_AUTHOR_{name}"), value);
        shell.env(format!("GIT_COMMITTER_{name}"), value);
    }
    run(&mut shell, LONG).ok();
    copy
}

#[test]
fn a_release_is_made_from_a_commit_with_its_version_and_is_the_same_each_time() {
    let dir = TempDir::new().unwrap();
    let copy = repository(dir.path());
    // Small ones in the place of the programs: three times all of it is compressed.
    let binary = dir.path().join("mutt-sync").display().to_string();
    for name in [&binary, &format!("{binary}-net")] {
        fs::copy("/usr/bin/true", name).unwrap();
    }
    let release = |out: &str| {
        let mut command = Command::new(copy.join("packaging/release"));
        command.arg(dir.path().join(out));
        command.env("MAKE_INSTALL", format!("make -s -o {binary} binary={binary} install"));
        command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("SOURCE_DATE_EPOCH");
        run(&mut command, LONG)
    };
    let git = |words: &[&str]| {
        run(Command::new("git").arg("-C").arg(&copy).args(words), SHORT).ok().stdout
    };
    release("first").ok();
    let machine = run(Command::new("uname").arg("-m"), SHORT).ok().stdout.trim().to_owned();
    let source = format!("mutt-sync-{VERSION}");
    let built = format!("{source}-{machine}-linux");
    let found = below(&dir.path().join("first"));
    let package = found.iter().find(|name| name.starts_with("mutt-sync_")).expect("a package");
    assert!(package.starts_with(&format!("mutt-sync_{VERSION}-0upstream")), "{package}");
    let archives = [format!("{source}.tar.gz"), format!("{built}.tar.gz")];
    let others = [package, "PKGBUILD", "template", "SHA256SUMS"].map(str::to_owned);
    assert_eq!(found, archives.iter().cloned().chain(others).collect());

    // All of it is in the list of sums, and so is the source's in the files for others.
    let at = dir.path().join("first");
    let mut check = Command::new("sha256sum");
    run(check.args(["--strict", "-c", "SHA256SUMS"]).current_dir(&at), SHORT).ok();
    let sums = fs::read_to_string(at.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), found.len() - 1, "{sums}");
    let sum = sums.lines().find(|line| line.ends_with(&archives[0])).unwrap();
    let sum = sum.split(' ').next().unwrap();
    let arch = fs::read_to_string(at.join("PKGBUILD")).unwrap();
    assert!(arch.contains(&format!("\nsha256sums=('{sum}')\n")), "{arch}");
    let void = fs::read_to_string(at.join("template")).unwrap();
    assert!(void.contains(&format!("\nchecksum={sum}\n")), "{void}");

    for archive in &archives {
        run(Command::new("tar").arg("-xf").arg(at.join(archive)).arg("-C").arg(&at), SHORT).ok();
    }
    let committed: BTreeSet<String> = git(&["ls-files"]).lines().map(str::to_owned).collect();
    assert_eq!(below(&at.join(&source)), committed);
    let mut wanted = expected(ZSH);
    wanted.insert("share/doc/mutt-sync/crates".into());
    assert_eq!(below(&at.join(&built)), wanted);
    let crates = at.join(&built).join("share/doc/mutt-sync/crates");
    let crates = fs::read_to_string(crates).unwrap();
    let dependencies: toml::Table = text("Cargo.toml").parse().unwrap();
    for (name, _) in dependencies["dependencies"].as_table().unwrap() {
        assert!(crates.contains(&format!("== {name} ")), "nothing of {name}");
    }

    // A second time, at another time.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    release("second").ok();
    assert_eq!(fs::read_to_string(dir.path().join("second/SHA256SUMS")).unwrap(), sums);

    git(&["tag", "v0.0.0"]);
    let refused = release("third").expect_code(1).stderr;
    assert!(refused.contains("the tag is v0.0.0, the version"), "{refused}");
    git(&["tag", &format!("v{VERSION}")]);
    release("third").ok();
    fs::write(copy.join("new"), "").unwrap();
    let refused = release("third").expect_code(1).stderr;
    assert!(refused.contains("not committed"), "{refused}");
}

#[test]
fn what_the_workflows_and_the_release_steps_make_are_targets() {
    let makefile = text("Makefile");
    let mut seen = 0;
    for file in files(".github").iter().map(String::as_str).chain(["RELEASING.md"]) {
        for command in text(file).split(['`', '\n']) {
            let command = command.trim().trim_start_matches("- run: ");
            let Some(words) = command.strip_prefix("make ") else { continue };
            for target in words.split(' ') {
                let there = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                assert!(there, "{file}: {command}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "only {seen} targets");
}

#[test]
fn the_changes_are_in_the_sections_of_keep_a_changelog() {
    let known = ["Coming from", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let changes = text("CHANGELOG.md");
    let mut versions = changes.split("\n## ").skip(1);
    let newest = versions.next().unwrap();
    let (heading, rest) = newest.split_once("\n\n").unwrap();
    assert!(heading == "Unreleased" || heading.starts_with(VERSION), "{heading}");
    // What is new and what breaks, in a few lines.
    let first = rest.split("\n\n").next().unwrap();
    assert!((3..=8).contains(&first.lines().count()) && !first.starts_with('#'), "{first}");
    assert!(rest.contains("\n\n### Coming from "));
    for version in changes.split("\n## ").skip(1) {
        let name = version.lines().next().unwrap();
        if name != "Unreleased" {
            // The day: 2026-11-28.
            let day = name.split_once(" - ").map_or("", |(_, day)| day);
            let shape: String =
                day.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "0000-00-00", "{name}");
        }
        let mut last = None;
        for section in version.lines().filter_map(|line| line.strip_prefix("### ")) {
            let place = known.iter().position(|known| match *known {
                "Coming from" => section.starts_with("Coming from "),
                known => section == known,
            });
            assert!(place.is_some(), "{name}: '{section}' is no section");
            assert!(place > last, "{name}: '{section}' is in the wrong place, or there twice");
            last = place;
        }
    }
}
