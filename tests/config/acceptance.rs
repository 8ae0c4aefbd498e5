//! mbsync and this reader over the same files: the same verdict, and for what
//! is refused the same line.
//!
//! `mbsync -c FILE no-such-channel` reads the file and gives up before it
//! touches the network. Each file in tests/configs is named after what mbsync
//! says of it, so that a file that tests nothing any more is noticed: `ok-` and
//! `bad-` mean 1.4 and 1.5 alike, `old-` is taken by 1.4 alone, `new-` by 1.5.

use crate::installed;
use mutt_sync::error::{Error, ExitStatus};
use mutt_sync::mbsyncrc::{self, Env, IsyncVersion};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What mbsync says of a file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Claimed,
    /// With the line of its first complaint, where it names one.
    Refused(Option<usize>),
}

pub fn configs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "mbsyncrc"));
    files.sort();
    files
}

/// Whether a file of this name is one that this mbsync takes.
fn is_taken(file: &Path, version: IsyncVersion) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    match name.split('-').next() {
        Some("ok") => true,
        Some("bad") => false,
        Some("old") => version == IsyncVersion::V1_4,
        Some("new") => version == IsyncVersion::V1_5,
        _ => panic!("{name}: what does mbsync say?"),
    }
}

/// Puts a file in a home of its own, and gives its path.
pub fn placed(file: &Path, home: &Path) -> PathBuf {
    let text = fs::read(file).unwrap();
    let home_text = home.display().to_string();
    let mut out = Vec::new();
    let mut rest = &text[..];
    while let Some(at) = rest.windows(5).position(|window| window == b"@DIR@") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(home_text.as_bytes());
        rest = &rest[at + 5..];
    }
    out.extend_from_slice(rest);
    let path = home.join(".mbsyncrc");
    fs::write(&path, out).unwrap();
    fs::write(home.join("cert.pem"), "not looked into").unwrap();
    path
}

fn mbsyncs(path: &Path, home: &Path) -> (Verdict, String) {
    let output = Command::new(rig::real_mbsync())
        .arg("-c")
        .arg(path)
        .arg("no-such-channel")
        .env("HOME", home)
        .current_dir(home)
        .output()
        .expect("mbsync is installed");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("No channel or group named 'no-such-channel' defined.") {
        return (Verdict::Claimed, said);
    }
    let prefix = format!("{}:", path.display());
    let first = said
        .lines()
        .find(|line| !line.contains("Notice: ") && !line.starts_with("Warning: "))
        .unwrap_or_default();
    let line = first
        .strip_prefix(&prefix)
        .and_then(|rest| rest.split_once(':'))
        .and_then(|(line, _)| line.parse().ok());
    (Verdict::Refused(line), said)
}

fn ours(path: &Path, home: &Path) -> Result<(), Error> {
    mbsyncrc::read(path, &Env::new(home, home), installed()).map(|_| ())
}

#[test]
fn every_file_is_judged_as_mbsync_judges_it() {
    let files = configs();
    let mut differences = String::new();
    let (mut taken, mut refused, mut with_line) = (0, 0, 0);
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let home = tempfile::tempdir().unwrap();
        let path = placed(file, home.path());
        let (theirs, said) = mbsyncs(&path, home.path());
        let wanted = is_taken(file, installed());
        assert_eq!(wanted, theirs == Verdict::Claimed, "{name} is misnamed: {said}");
        let ours = ours(&path, home.path());
        let same = match (&theirs, &ours) {
            (Verdict::Claimed, Ok(())) => {
                taken += 1;
                true
            }
            (Verdict::Refused(line), Err(failure)) => {
                refused += 1;
                let prefix = line.map_or("~/.mbsyncrc:".to_string(), |line| {
                    with_line += 1;
                    format!("~/.mbsyncrc:{line}: ")
                });
                failure.status == ExitStatus::Config && failure.to_string().starts_with(&prefix)
            }
            _ => false,
        };
        if !same {
            let _ = writeln!(differences, "{name}: mbsync says {said}and we say {ours:?}");
        }
        if let Err(failure) = &ours {
            println!("{name}: {failure}");
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    println!("{taken} taken, {refused} refused, {with_line} of them with a line");
    assert!(files.len() >= 60 && with_line >= 30, "{} files, {with_line} lines", files.len());
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in configs() {
        let text = fs::read(&file).unwrap();
        assert!(text.starts_with(b"# "), "{}", file.display());
    }
}

/// Breaks a file in one of the ways that people and editors have.
fn damaged(text: &str, seed: &mut rig::Seeded) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..=seed.usize(0..2) {
        if lines.is_empty() {
            break;
        }
        let (at, other) = (seed.usize(0..lines.len()), seed.usize(0..lines.len()));
        match seed.usize(0..8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, String::new()),
            2 => lines.swap(at, other),
            3 => {
                let line = lines[other].clone();
                lines.insert(at, line);
            }
            4 => {
                // A word of one line in another.
                let word = lines[other].split(' ').next_back().unwrap_or_default().to_string();
                lines[at] = format!("{} {word}", lines[at]);
            }
            5 => {
                let mut words: Vec<String> = lines[at].split(' ').map(str::to_string).collect();
                words.remove(seed.usize(0..words.len()));
                lines[at] = words.join(" ");
            }
            _ => {
                let signs = ['"', '\\', '#', ' ', ':', '\t', 'x', '~', '!', '/', '\x0c', '-', '0'];
                let sign = signs[seed.usize(0..signs.len())];
                let mut chars: Vec<char> = lines[at].chars().collect();
                let place = seed.usize(0..=chars.len());
                if seed.bool() || place == chars.len() {
                    chars.insert(place, sign);
                } else {
                    chars[place] = sign;
                }
                lines[at] = chars.into_iter().collect();
            }
        }
    }
    lines.join("\n")
}

#[test]
fn damaged_files_are_judged_as_mbsync_judges_them() {
    // What is refused already tells little more when it is damaged.
    let mut files = configs();
    files.retain(|file| is_taken(file, installed()));
    let mut seed = rig::Seeded::from_env_or(2411);
    let home = tempfile::tempdir().unwrap();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..rig::count(400, 20_000) {
        let file = &files[seed.usize(0..files.len())];
        let path = placed(file, home.path());
        let text = damaged(&fs::read_to_string(&path).unwrap(), &mut seed);
        fs::write(&path, &text).unwrap();
        let (theirs, said) = mbsyncs(&path, home.path());
        match (theirs, ours(&path, home.path())) {
            (Verdict::Claimed, Ok(())) => taken += 1,
            (Verdict::Refused(line), Err(failure)) => {
                refused += 1;
                let at = line.map_or("~/.mbsyncrc:".into(), |line| format!("~/.mbsyncrc:{line}: "));
                assert!(failure.to_string().starts_with(&at), "{text}\n{said}\n{failure}");
            }
            (_, ours) => panic!("{text}\nmbsync: {said}\nours: {ours:?}"),
        }
    }
    assert!(taken > 10 && refused > 100, "{taken} taken, {refused} refused");
}
