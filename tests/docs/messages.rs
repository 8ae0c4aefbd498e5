//! Every text of the sources that people may read, in `src/messages.txt`: a change of
//! words is seen in review. `--check --report` shows no other words of its own.
//!
//! `BLESS=1 cargo test --test docs messages` writes the file anew.

use std::fmt::Write as _;

use super::layers::is_rust;
use super::{files, house, text};

const LIST: &str = "src/messages.txt";
/// The table of what mbsync prints, which is not ours.
const NOT_OURS: [&str; 1] = ["src/sync/forms.rs"];

/// A part of a source: a text, or a sign of anything else but white space and comments.
enum Token {
    Text(String),
    Sign(char),
}

/// Where the text that begins here ends, and what it says. `rest` begins behind the
/// quote; `hashes` of a raw one.
fn quoted(rest: &str, hashes: Option<usize>) -> (String, usize) {
    let mut said = String::new();
    let end = format!("\"{}", "#".repeat(hashes.unwrap_or(0)));
    let mut at = 0;
    while !rest[at..].starts_with(&end) {
        let c = rest[at..].chars().next().expect("a text ends");
        at += c.len_utf8();
        if c != '\\' || hashes.is_some() {
            said.push(c);
            continue;
        }
        let escaped = rest[at..].chars().next().expect("an escape");
        at += escaped.len_utf8();
        match escaped {
            'n' => said.push('\n'),
            // The rest of the text is on the next line.
            '\n' => at += rest[at..].len() - rest[at..].trim_start().len(),
            'u' | 'x' => said.extend(['\\', escaped]),
            other => said.push(other),
        }
    }
    (said, at + end.len())
}

fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|after| after.trim_start_matches('#'));
        let raw = raw.filter(|after| after.starts_with('"'));
        let used = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(after) = rest.strip_prefix('"') {
            let (said, end) = quoted(after, None);
            found.push(Token::Text(said));
            end + 1
        } else if let Some(after) = raw {
            let begin = rest.len() - after.len();
            let (said, end) = quoted(&after[1..], Some(begin - 1));
            found.push(Token::Text(said));
            begin + 1 + end
        } else if let Some(after) = rest.strip_prefix('\'') {
            // A character, or a lifetime.
            let mut chars = after.char_indices();
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), Some((_, second))) => {
                    2 + second.len_utf8() + after[1 + second.len_utf8()..].find('\'').unwrap() + 1
                }
                (Some(_), Some((at, '\''))) => at + 2,
                _ => 1,
            }
        } else if c.is_alphanumeric() || c == '_' {
            // Whole, or the `r` at the end of a word would begin a raw text.
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            found.extend(rest[..end].chars().map(Token::Sign));
            end
        } else {
            if !c.is_whitespace() {
                found.push(Token::Sign(c));
            }
            c.len_utf8()
        };
        rest = &rest[used..];
    }
    found
}

/// How many tokens it is to the end of the brackets that open here first; a `;` before
/// them is an end as well.
fn bracketed(tokens: &[Token], open: char, close: char) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign(';') if depth == 0 => return at + 1,
            Token::Sign(c) if *c == open => depth += 1,
            Token::Sign(c) if *c == close => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The texts of a source, without those of attributes and of its tests.
fn texts(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Text(said) => found.push(said.clone()),
            Token::Sign('#') => {
                let end = at + bracketed(&tokens[at..], '[', ']');
                let attribute = tokens[at..end].iter().filter_map(|token| match token {
                    Token::Sign(c) => Some(*c),
                    Token::Text(_) => None,
                });
                let is_test = attribute.collect::<String>() == "[cfg(test)]";
                at = if is_test { end + bracketed(&tokens[end..], '{', '}') } else { end };
            }
            Token::Sign(_) => {}
        }
    }
    found
}

/// Whether people read it: words, and not those of a protocol.
fn is_message(said: &str) -> bool {
    let mut depth = 0;
    let lower = said.chars().any(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0 && c.is_lowercase()
    });
    lower && said.contains(' ')
}

#[test]
fn messages_are_found_in_a_source() {
    let source = "//! \"no comment\"\nfn f<'a>(c: char) { say(\"it is\\n \\\n   so: {c}\"); \
        c == '\"' || c == '\\'' || c == '\\u{22}'; raw(r#\"a \"b\" c\"#); bar(\"one\"); \
        for_(\"UID FETCH\"); }\n#[doc = \"no attribute\"]\n#[cfg(test)]\nmod tests { f(\"no } test\"); }\n\
        fn g() { say(\"the end\") }";
    let found: Vec<String> = texts(source).into_iter().filter(|said| is_message(said)).collect();
    assert_eq!(found, ["it is\n so: {c}", "a \"b\" c", "the end"]);
}

#[test]
fn messages_are_those_of_the_list() {
    let mut list = String::new();
    let is_source = |file: &String| is_rust(file) && !NOT_OURS.contains(&file.as_str());
    for file in files("src").into_iter().filter(is_source) {
        let said: Vec<String> =
            texts(&text(&file)).into_iter().filter(|it| is_message(it)).collect();
        if !said.is_empty() {
            let _ = writeln!(list, "{file}");
        }
        for each in said {
            let _ = writeln!(list, "    {}", each.replace('\n', "\\n"));
        }
    }
    assert!(list.lines().count() > 500, "{list}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(house().join(LIST), &list).unwrap();
    }
    let old = text(LIST);
    let new = |line: &&str| !old.lines().any(|known| known == *line);
    let gone = |line: &&str| !list.lines().any(|known| known == *line);
    let changed: Vec<String> = (list.lines().filter(new).map(|line| format!("+ {line}")))
        .chain(old.lines().filter(gone).map(|line| format!("- {line}")))
        .collect();
    assert!(list == old, "{LIST} is another (BLESS=1 writes it):\n{}", changed.join("\n"));
}
