//! The table of what mbsync says (`src/sync/forms.rs`) against its sources, as Debian has
//! them. Only with full counts (`make soak`), and only where they can be fetched.

use mutt_sync::sync::forms::{FORMS, Form};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Releases and the versions of isync in them.
const SOURCES: [(&str, &str); 2] = [("bookworm", "1.4.4"), ("trixie", "1.5.1")];

/// Fetches and unpacks a release's source package. `None`: it cannot be fetched.
fn fetched(dir: &Path, release: &str, version: &str) -> Option<std::path::PathBuf> {
    let at = |name: &str| dir.join(name).display().to_string();
    for sub in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let list = format!("deb-src [signed-by={keys}] http://deb.debian.org/debian {release} main\n");
    fs::write(dir.join("sources.list"), list).unwrap();
    let options = [
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(dir).args(["-q", "-y"]);
        for option in &options {
            command.args(["-o", option]);
        }
        command.args(words).output().is_ok_and(|out| out.status.success())
    };
    let fetched = apt(&["update"]) && apt(&["--download-only", "--only-source", "source", "isync"]);
    let archive = format!("isync_{version}.orig.tar.gz");
    if !fetched || !dir.join(&archive).exists() {
        return None;
    }
    let unpacked = Command::new("tar").current_dir(dir).args(["xf", &archive]).status();
    unpacked.is_ok_and(|status| status.success()).then(|| dir.join(format!("isync-{version}/src")))
}

/// The texts that a source hands to `warn`, `error`, `notice` and `sys_error`.
fn forms(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["warn( ", "error( ", "notice( ", "warn(", "error(", "notice("] {
        for (at, _) in source.match_indices(name) {
            let before = source[..at].chars().next_back();
            if before.is_some_and(char::is_alphanumeric) {
                continue;
            }
            let mut rest = source[at + name.len()..].trim_start();
            let mut text = String::new();
            while let Some(quoted) = rest.strip_prefix('"') {
                let mut end = 0;
                while !quoted[end..].starts_with('"') {
                    end += if quoted[end..].starts_with('\\') { 2 } else { 1 };
                }
                text += &quoted[..end];
                rest = quoted[end + 1..].trim_start();
                // A macro with the length of a number.
                if let Some(after) = rest.strip_prefix("JOURNAL_VERSION") {
                    rest = after.trim_start();
                }
            }
            if !text.is_empty() {
                found.push(text.replace("\\\"", "\""));
            }
        }
    }
    found
}

/// A line of this form, such as mbsync would print.
fn example(form: &str) -> String {
    let mut line = String::new();
    let mut rest = form;
    while let Some(at) = rest.find('%') {
        line += &rest[..at];
        let conversion = &rest[at + 1..];
        let end = conversion.find(|c: char| c.is_ascii_lowercase()).unwrap_or(0);
        line += if matches!(&conversion[end..=end], "d" | "u") { "7" } else { "xx" };
        rest = &conversion[end + 1..];
    }
    line + rest
}

#[test]
fn every_form_of_the_table_fits_an_example_of_it() {
    for form in FORMS {
        let line = example(form.text.trim_end_matches('*'));
        assert!(form.fits(&line), "{}: {line}", form.text);
    }
}

#[test]
fn the_table_has_every_form_of_isyncs_sources() {
    if !rig::soak() {
        return;
    }
    for (release, version) in SOURCES {
        let dir = tempfile::tempdir().unwrap();
        let Some(source) = fetched(dir.path(), release, version) else {
            println!("the source of isync {version} cannot be fetched: not compared");
            continue;
        };
        let mut missing = Vec::new();
        for entry in fs::read_dir(&source).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_mbsync = !name.starts_with("tst_")
                && !["mdconvert.c", "util.c", "drv_proxy.c"].contains(&&*name);
            if Path::new(&name).extension() != Some("c".as_ref()) || !is_mbsync {
                continue;
            }
            for form in forms(&fs::read_to_string(entry.path()).unwrap()) {
                // Of several lines each is one of its own.
                for line in form.split("\\n").map(example).filter(|line| !line.trim().is_empty()) {
                    let known =
                        |form: &&Form| form.fits(&line) || form.fits(&format!("{line}: xx"));
                    // What is only continued begins with blanks.
                    if !FORMS.iter().any(|form| known(&form)) && !line.starts_with("  ") {
                        missing.push(format!("{name}: {line}"));
                    }
                }
            }
        }
        assert!(missing.is_empty(), "isync {version}:\n{}", missing.join("\n"));
    }
}
