//! Where `make install` and the package put things, what `make uninstall`
//! leaves, and what `--version` says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rig::{mutt_sync, run};
use tempfile::TempDir;

use super::{LONG, SHORT, files, house, text};

/// `make` in a directory, as somebody would type it.
pub(super) fn plain_make(at: &Path) -> Command {
    let mut command = Command::new("make");
    command.current_dir(at).arg("-s");
    for name in ["MAKEFLAGS", "MAKELEVEL", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
}

/// `make` with the binary at hand in place of a release build.
fn make(words: &[&str]) -> Command {
    let binary = mutt_sync().display().to_string();
    let mut command = plain_make(house());
    command.args(["-o", &binary, &format!("binary={binary}")]).args(words);
    command
}

pub(super) fn below(root: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(root, root, &mut found);
    found
}

/// What is to be below PREFIX.
pub(super) fn expected(zsh: &str) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = [
        "bin/mutt-sync",
        "bin/mutt-sync-net",
        "share/man/man1/mutt-sync-net.1",
        "share/man/man1/mutt-sync.1",
        "share/man/man5/mutt-sync.toml.5",
        "share/bash-completion/completions/mutt-sync",
        "share/fish/vendor_completions.d/mutt-sync.fish",
        zsh,
        "lib/systemd/user/mutt-sync-once.service",
        "lib/systemd/user/mutt-sync-once.timer",
        "lib/systemd/user/mutt-sync.service",
        "lib/systemd/user/mutt-sync@.service",
        "share/doc/mutt-sync/README.md",
        "share/doc/mutt-sync/docs/picture.svg",
        "share/doc/mutt-sync/CHANGELOG.md",
        "share/doc/mutt-sync/LICENSE",
        "share/doc/mutt-sync/LICENSE-APACHE",
        "share/doc/mutt-sync/LICENSE-MIT",
    ]
    .map(str::to_owned)
    .into();
    all.extend(files("muttrc.d").into_iter().map(|file| format!("share/mutt-sync/{file}")));
    for file in files("contrib") {
        let file = file.strip_prefix("contrib/").unwrap();
        if file.starts_with("hooks/") {
            all.insert(format!("share/mutt-sync/{file}"));
        } else if !file.starts_with("systemd/") {
            all.insert(format!("share/doc/mutt-sync/examples/{file}"));
        }
    }
    all
}

#[test]
fn make_install_places_everything_and_uninstall_leaves_nothing() {
    for (prefix, zsh) in [
        ("/usr", "share/zsh/vendor-completions/_mutt-sync"),
        ("/usr/local", "share/zsh/site-functions/_mutt-sync"),
    ] {
        let root = TempDir::new().unwrap();
        let to = [format!("DESTDIR={}", root.path().display()), format!("PREFIX={prefix}")];
        run(&mut make(&["install", &to[0], &to[1]]), SHORT).ok();
        let placed = below(&root.path().join(&prefix[1..]));
        assert_eq!(placed, expected(zsh));
        assert_eq!(below(root.path()).len(), placed.len(), "something outside of {prefix}");
        let binary = root.path().join(&prefix[1..]).join("bin/mutt-sync");
        run(Command::new(binary).arg("--version"), SHORT).ok();
        // As man finds it.
        let manuals = root.path().join(&prefix[1..]).join("share/man");
        for (part, name) in [("1", "mutt-sync"), ("1", "mutt-sync-net"), ("5", "mutt-sync.toml")] {
            let page = manuals.join(format!("man{part}/{name}.{part}"));
            let shown = run(Command::new("mandoc").arg("-Tascii").arg(page), SHORT).ok();
            assert!(shown.stdout.contains("mutt-sync"));
        }
        run(&mut make(&["uninstall", &to[0], &to[1]]), SHORT).ok();
        assert_eq!(below(root.path()), BTreeSet::new());
    }
}

#[test]
fn the_package_builds_and_holds_what_it_should() {
    let (dir, programs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // Without what a debugger needs, which takes long to compress.
    for name in ["mutt-sync", "mutt-sync-net"] {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(programs.path().join(name)).arg(mutt_sync().with_file_name(name));
        run(&mut strip, SHORT).ok();
    }
    let binary = programs.path().join("mutt-sync");
    let binary = binary.display();
    let mut build = Command::new(house().join("packaging/debian/build"));
    build
        .arg(dir.path())
        .env("MAKE_INSTALL", format!("make -s -o {binary} binary={binary} install"));
    build.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    run(&mut build, LONG).ok();
    let packages: Vec<PathBuf> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [package] = &packages[..] else { panic!("one package, nothing else: {packages:?}") };

    let root = dir.path().join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root), SHORT).ok();
    let mut wanted: BTreeSet<String> = expected("share/zsh/vendor-completions/_mutt-sync")
        .into_iter()
        .filter(|file| !file.contains("LICENSE"))
        .map(|file| {
            let compressed = file.starts_with("share/man/");
            let file = file.replace("CHANGELOG.md", "changelog.gz");
            if compressed { format!("usr/{file}.gz") } else { format!("usr/{file}") }
        })
        .collect();
    let docs = ["changelog.Debian.gz", "copyright", "crates.gz"];
    wanted.extend(docs.map(|file| format!("usr/share/doc/mutt-sync/{file}")));
    wanted.insert("usr/share/lintian/overrides/mutt-sync".into());
    assert_eq!(below(&root), wanted);
    let copyright = fs::read_to_string(root.join("usr/share/doc/mutt-sync/copyright")).unwrap();
    assert!(copyright.contains("\n .\n THE SOFTWARE IS PROVIDED"), "{copyright}");

    let field = |name: &str| {
        let output = run(Command::new("dpkg-deb").arg("-f").arg(package).arg(name), SHORT);
        output.ok().stdout.trim().to_owned()
    };
    let changelog = text("packaging/debian/changelog");
    assert!(changelog.starts_with(&format!("mutt-sync ({}) ", field("Version"))), "{changelog}");
    let depends = field("Depends");
    assert!(depends.contains("libssl3") && depends.contains("isync"), "{depends}");
    let list = run(Command::new("dpkg-deb").arg("-c").arg(package), SHORT).ok().stdout;
    for line in list.lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
    run(Command::new(root.join("usr/bin/mutt-sync")).arg("--version"), SHORT).ok();

    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
    let found = run(&mut lintian, LONG).ok();
    assert_eq!(found.stdout, "");
}

#[test]
fn the_version_is_that_of_the_manifest_and_the_changes() {
    let said = run(Command::new(mutt_sync()).arg("--version"), SHORT).ok().stdout;
    let version = env!("CARGO_PKG_VERSION");
    assert!(said.starts_with(&format!("mutt-sync {version}")), "{said}");
    let dated = |line: &str| line.starts_with(&format!("## {version} - 20"));
    assert!(text("CHANGELOG.md").lines().any(dated), "no heading in CHANGELOG");
}

#[test]
fn the_build_names_the_commit_where_there_is_one() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("build-script");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--edition", "2024", "-o"]).arg(&script).arg(house().join("build.rs"));
    run(&mut compile, LONG).ok();

    let house = dir.path().join("house");
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&house).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        command.args(words).env("GIT_CONFIG_GLOBAL", "/dev/null");
        run(&mut command, SHORT).ok().stdout.trim().to_owned()
    };
    let said = |place: &Path, profile: &str, told: Option<&str>| {
        let mut command = Command::new(&script);
        command.env_remove("MUTT_SYNC_COMMIT").envs(told.map(|told| ("MUTT_SYNC_COMMIT", told)));
        command.env("PROFILE", profile).env("CARGO_PKG_VERSION", "1.2.3");
        command.env("CARGO_MANIFEST_DIR", place);
        let output = run(&mut command, SHORT).ok().stdout;
        output.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=")).map(str::to_owned)
    };
    let set = |text: &str| Some(format!("MUTT_SYNC_COMMIT=1.2.3 ({text})"));

    fs::create_dir_all(house.join("inner")).unwrap();
    assert_eq!(said(&house, "release", None), None, "an archive");
    git(&["init", "-q"]);
    assert_eq!(said(&house, "release", None), None, "no commit yet");
    git(&["commit", "-q", "--allow-empty", "-m", "x"]);
    let commit = git(&["log", "-1", "--format=%h %cs"]);
    assert_eq!(said(&house, "release", None), set(&commit));
    assert_eq!(said(&house, "debug", None), None, "each commit would rebuild every test");
    assert_eq!(said(&house.join("inner"), "release", None), None, "inside another repository");
    assert_eq!(said(&house.join("inner"), "debug", Some("v7")), set("v7"), "told");
    assert_eq!(below(&house.join("inner")), BTreeSet::new(), "it writes nothing");
}
