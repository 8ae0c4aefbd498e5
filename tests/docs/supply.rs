//! What comes into the build: no `unsafe` but where it is reasoned, and no build
//! script that writes into the source tree.

use crate::{files, house, text};
use rig::run;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A line's code, without what is said about it.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn is_unsafe(line: &str) -> bool {
    code(line)
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == concat!("un", "safe"))
}

#[test]
fn unsafe_is_in_one_module_with_a_reason_at_each_block() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let all = ["src", "benches", "fuzz/src", "fuzz/fuzz_targets", "tests"];
    let sources = all.iter().flat_map(|below| files(below)).chain(["build.rs".to_owned()]);
    for file in sources.filter(|file| Path::new(file).extension() == Some("rs".as_ref())) {
        let text = text(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_unsafe(line)) {
            *found.entry(file.clone()).or_default() += 1;
            // The comment right above, with attributes between.
            let above = lines[..at].iter().rev().map(|line| line.trim());
            let reason: Vec<&str> =
                above.take_while(|line| line.starts_with("//") || line.starts_with("#[")).collect();
            let reasoned = reason.iter().any(|line| line.starts_with("// SAFETY:"));
            let foreign = file == "tests/rig/helpers/fake_mbsync.rs";
            assert!(reasoned || foreign, "{file}:{}: no reason for this: {line}", at + 1);
        }
    }
    let places: Vec<&str> = found.keys().map(String::as_str).collect();
    // The fake stands for a program in C, and has no crates.
    assert_eq!(places, ["src/os/fork.rs", "tests/rig/helpers/fake_mbsync.rs"]);
    assert!(found["src/os/fork.rs"] >= 5, "{found:?}");
    // A program on NFS may not get its own pages back.
    assert!(!text("src/os/fork.rs").contains("madvise"));
    assert!(text("src/os/mod.rs").contains("#[allow(unsafe_code)]\npub(crate) mod fork;"));
    assert!(text("Cargo.toml").contains("unsafe_code = \"deny\""));
}

/// When each file of the source tree was last written.
fn stamps() -> BTreeMap<String, SystemTime> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(house())
        .output()
        .unwrap();
    String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .filter_map(|file| {
            let written = std::fs::metadata(house().join(file)).ok()?.modified().ok()?;
            Some((file.to_owned(), written))
        })
        .collect()
}

/// The build script, compiled and run alone, as cargo would: in the source tree,
/// with a place of its own to write to, which it leaves empty.
#[test]
fn the_build_script_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let limit = Duration::from_secs(120);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(
        Command::new(rustc)
            .args(["--edition=2024", "build.rs", "-o"])
            .arg(&script)
            .current_dir(house()),
        limit,
    )
    .ok();
    let before = stamps();
    assert!(before.len() > 100);
    let mut command = Command::new(script);
    command
        .current_dir(house())
        .env("CARGO_MANIFEST_DIR", house())
        .env("CARGO_PKG_VERSION", "0.0.0")
        .env("PROFILE", "release")
        .env("OUT_DIR", &out);
    let said = run(&mut command, limit).ok();
    assert!(said.stdout.contains("cargo:rerun-if-changed=build.rs"), "{said}");
    assert_eq!(stamps(), before);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
}

/// The code of each source file of the program.
fn sources() -> Vec<(String, String)> {
    let rust = |file: &String| Path::new(file).extension() == Some("rs".as_ref());
    let code_of = |file: String| {
        let code = text(&file).lines().map(code).collect::<Vec<_>>().join("\n");
        (file, code)
    };
    files("src").into_iter().filter(rust).map(code_of).collect()
}

/// Whether the code names something by a path that begins with this crate.
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
    })
}

#[test]
fn the_packages_asked_for_are_direct_dependencies_in_use() {
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    let sources = sources();
    for package in ["clap", "fs2", "inotify", "imap", "native-tls", "humantime", "xdg"] {
        assert!(dependencies.contains_key(package), "{package} is no direct dependency");
        let name = package.replace('-', "_");
        let used = sources.iter().any(|(file, code)| {
            // The module of the same name is none of it.
            uses(code, &name) && (name != "imap" || file == "src/imap/session.rs")
        });
        assert!(used, "{package} is not in use");
    }
}

#[test]
fn one_file_knows_the_imap_crate() {
    let mut knows = Vec::new();
    for (file, code) in sources() {
        let module = code.contains("crate::imap::{self");
        if code.contains("imap_proto") || uses(&code, "imap") && !module {
            knows.push(file);
        }
    }
    assert_eq!(knows, ["src/imap/session.rs"]);
}

/// By its relocations, which only code that is linked has: an unoptimized build
/// names the library as needed all the same.
#[test]
fn only_the_network_program_is_linked_with_openssl() {
    let calls = |program: &str| {
        let mut readelf = Command::new("readelf");
        let said = run(readelf.arg("-rW").arg(program), Duration::from_secs(120)).ok();
        assert!(said.stdout.contains("Relocation section"), "{said}");
        let of_openssl = |line: &&str| {
            ["SSL_", "X509_", "EVP_", "OPENSSL_"].iter().any(|word| line.contains(word))
        };
        said.stdout.lines().filter(of_openssl).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(calls(env!("CARGO_BIN_EXE_mutt-sync")), [""; 0]);
    assert!(calls(env!("CARGO_BIN_EXE_mutt-sync-net")).len() > 20);
}
