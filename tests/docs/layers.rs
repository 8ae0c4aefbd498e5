//! The order of the modules in `src/lib.rs` is the order of their imports, and a
//! type's name means one thing; what SECURITY.md says is shown is shown.

use crate::{files, text};
use std::collections::BTreeMap;
use std::path::Path;

/// Code without comments and texts: neither imports nor defines anything.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

pub(super) fn is_rust(file: &str) -> bool {
    Path::new(file).extension() == Some("rs".as_ref())
}

fn sources() -> impl Iterator<Item = (String, String)> {
    files("src").into_iter().filter(|file| is_rust(file)).map(|file| {
        let text = text(&file);
        (file, text)
    })
}

/// The words of a text that are names in Rust.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty())
}

/// The modules in the order that lib.rs states, lowest first.
fn order() -> Vec<String> {
    let lib = text("src/lib.rs");
    let list: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("//!     ")).collect();
    names(&list.join(" ")).map(str::to_owned).collect()
}

/// The top module that a file belongs to; `None` for the roots of the crate's
/// library and programs.
fn module(file: &str) -> Option<&str> {
    let top = file.strip_prefix("src/")?.split('/').next()?;
    let name = top.strip_suffix(".rs").unwrap_or(top);
    (!["lib", "main", "bin"].contains(&name)).then_some(name)
}

/// The top modules that a source names after `crate::`, with the lines.
fn imports(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = source.lines().map(code).collect();
    for (at, line) in lines.iter().enumerate() {
        for (place, path) in line.match_indices("crate::") {
            let rest = &line[place + path.len()..];
            if rest.starts_with('{') {
                // A group, over several lines maybe: the first name of each item.
                let group = [&[rest], &lines[at + 1..]].concat().join("\n");
                let mut depth = 0;
                let mut first = false;
                let mut name = String::new();
                for c in group.chars() {
                    let ended = matches!(c, '{' | '}' | ',' | ':' | ' ' | '\n');
                    if ended && !name.is_empty() {
                        found.push((at + 1, std::mem::take(&mut name)));
                        first = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    if depth == 1 && matches!(c, '{' | ',') {
                        first = true;
                    } else if depth == 1 && first && !ended {
                        name.push(c);
                    }
                }
            } else if let Some(name) = names(rest).next() {
                found.push((at + 1, name.to_owned()));
            }
        }
    }
    found
}

#[test]
fn lib_rs_names_every_module_once() {
    let mut order = order();
    let lib = text("src/lib.rs");
    let mut declared: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert!(declared.len() > 10, "{declared:?}");
    order.sort();
    declared.sort();
    assert_eq!(order, declared);
}

#[test]
fn no_import_goes_upwards() {
    let order = order();
    let level = |name: &str| order.iter().position(|module| module == name);
    let mut seen = 0;
    let mut upwards = Vec::new();
    for (file, source) in sources() {
        let Some(own) = module(&file) else { continue };
        let own = level(own).unwrap_or_else(|| panic!("{file}: not in the order of lib.rs"));
        for (line, name) in imports(&source) {
            // What is not a module is an item of the crate's root, as VERSION is.
            if let Some(other) = level(&name) {
                seen += 1;
                if other > own {
                    upwards.push(format!("{file}:{line}: imports {name}"));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports found");
    assert!(upwards.is_empty(), "{}", upwards.join("\n"));
}

/// What a head may promise, and what code that breaks the promise contains.
const PROMISES: [(&str, &[&str]); 4] = [
    ("clocks", &["os::clock", "Instant::now(", "SystemTime::now("]),
    ("files", &["os::file", "fs::", "File::"]),
    ("processes", &["os::child", "process::Command", "Command::new("]),
    ("connections", &["imap::connect", "imap::session", "TcpStream", "UnixStream"]),
];

/// What a source must not depend on, as its head says.
fn independent_of(source: &str) -> Option<String> {
    let head: Vec<&str> =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let head = head.join(" ");
    let (_, list) = head.split_once("oes not depend on: ")?;
    Some(list.split_once('.').map_or(list, |(first, _)| first).to_owned())
}

#[test]
fn every_head_says_what_the_module_must_not_depend_on() {
    let head = "//! Sums. Does not\n//! depend on: clocks, files. Fast.\nuse std::fs::File;\n";
    assert_eq!(independent_of(head).as_deref(), Some("clocks, files"));
    let mut wrong = Vec::new();
    for (file, source) in sources().filter(|(file, _)| file != "src/lib.rs") {
        let Some(list) = independent_of(&source) else {
            wrong.push(format!("{file}: does not say it"));
            continue;
        };
        let body = source.split("#[cfg(test)]").next().unwrap_or_default();
        let promised: Vec<&str> = list.split([',', ':']).map(str::trim).collect();
        for (word, signs) in PROMISES.iter().filter(|(word, _)| promised.contains(word)) {
            let broken = |line: &&str| signs.iter().any(|sign| code(line).contains(sign));
            for line in body.lines().filter(broken) {
                wrong.push(format!("{file}: {word}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_every_form() {
    let found = |source: &str| -> Vec<String> {
        imports(source).into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(found("use crate::state::lock::Lock;"), ["state"]);
    assert_eq!(found("    crate::text::short(took) // crate::app"), ["text"]);
    assert_eq!(
        found("use crate::{error, os::wait, state::{lock, watch}};"),
        ["error", "os", "state"]
    );
    assert_eq!(found("use crate::{\n    imap::{self, Client},\n    sync,\n};\n"), ["imap", "sync"]);
}

/// The name of the type that a line defines.
fn defined(line: &str) -> Option<&str> {
    let mut line = code(line).trim_end();
    let indented = line.starts_with(' ');
    line = line.trim_start();
    if let Some(rest) = line.strip_prefix("pub") {
        line = match rest.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?.1,
            None => rest,
        }
        .trim_start();
    }
    let (kind, rest) = line.split_once(' ')?;
    let name = names(rest).next().filter(|name| rest.starts_with(name))?;
    match kind {
        "struct" | "enum" | "trait" | "union" => Some(name),
        // In an `impl` it is the choice of a type that the trait has named.
        "type" => (!(indented && rest.contains('='))).then_some(name),
        _ => None,
    }
}

#[test]
fn a_type_name_means_one_thing() {
    assert_eq!(defined("pub(crate) struct Lock<'a> {"), Some("Lock"));
    assert_eq!(defined("    type Report: RunOutcome;"), Some("Report"));
    assert_eq!(defined("    type Report = RunReport;"), None);
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, source) in sources() {
        for (at, line) in source.lines().enumerate() {
            if let Some(name) = defined(line) {
                places.entry(name.to_owned()).or_default().push(format!("{file}:{}", at + 1));
            }
        }
    }
    assert!(places.len() > 100, "only {} types found", places.len());
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn every_test_that_security_names_exists() {
    let sources: String = ["src", "tests"]
        .iter()
        .flat_map(|below| files(below))
        .filter(|file| is_rust(file))
        .map(|file| text(&file))
        .collect();
    let document = text("SECURITY.md");
    let quoted: Vec<&str> = document.split('`').skip(1).step_by(2).collect();
    let is_test = |name: &&&str| {
        name.contains('_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<&&str> = quoted.iter().filter(is_test).filter(|name| name.len() > 15).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("fn {name}")), "{name}");
    }
}
