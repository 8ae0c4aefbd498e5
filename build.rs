//! Gives the program the commit that it is built from, for `--version`.
//!
//! Writes nothing. The version itself stands in `Cargo.toml` alone. What
//! `MUTT_SYNC_COMMIT` says in the environment of the build wins, for those who
//! build from an archive; without it and without git, the version stands alone.
//! Only release builds ask git: else each commit would rebuild every test.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MUTT_SYNC_COMMIT");
    let told = env::var("MUTT_SYNC_COMMIT").ok().filter(|told| !told.trim().is_empty());
    let commit = told.or_else(|| {
        let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
        let house = env::var("CARGO_MANIFEST_DIR").ok().filter(|_| release)?;
        commit_of(Path::new(&house))
    });
    if let (Some(commit), Ok(version)) = (commit, env::var("CARGO_PKG_VERSION")) {
        println!("cargo:rustc-env=MUTT_SYNC_COMMIT={version} ({})", commit.trim());
    }
}

/// The commit of the repository whose top this directory is. An archive that
/// was unpacked somewhere inside another repository has none.
fn commit_of(house: &Path) -> Option<String> {
    let top = git(house, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != house.canonicalize().ok()? {
        return None;
    }
    // The log of HEAD changes with every commit, checkout and rebase.
    let log = house.join(git(house, &["rev-parse", "--git-path", "logs/HEAD"])?);
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    git(house, &["log", "-1", "--format=%h %cs"])
}

fn git(house: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(house).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}
