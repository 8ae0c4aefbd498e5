//! Strings as both clients read them from a line of muttrc.
//!
//! The lexer that mutt and neomutt share: inside `"…"` a backslash takes
//! the next character literally (unless it is a letter or a digit), `$name` and
//! backticks are expanded, and nothing else is special; spaces, `;` and `#` lose
//! their meaning. Of regular expressions only how to escape them.
//!
//! There is no way to write a control character that is safe in both clients
//! and readable in a file, and folder names need none, so such strings are
//! refused.
//!
//! Does not depend on: what the strings name.

use std::fmt::Write as _;

use crate::text::is_printable;

/// Why a string cannot be in a muttrc: it has this control character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlCharacter(pub char);

impl std::fmt::Display for ControlCharacter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "control character {}", self.0.escape_default())
    }
}

/// `text` as one double-quoted word, read back exactly by both clients, with
/// its quotes. Quoting a quoted command again gives a hook's command.
pub fn quoted(text: &str) -> Result<String, ControlCharacter> {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            c if c.is_control() => return Err(ControlCharacter(c)),
            '"' | '\\' | '$' | '`' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(out)
}

/// `text` as an extended regular expression that matches it and nothing else;
/// not yet quoted, not anchored.
#[must_use]
pub fn literal_regexp(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(
            c,
            '\\' | '^' | '$' | '.' | '[' | ']' | '|' | '(' | ')' | '*' | '+' | '?' | '{' | '}'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The regular expression, not yet quoted, of a folder-hook for the folders
/// whose absolute paths are these `roots`, or lie below them.
///
/// It opens with a parenthesis because both clients take a leading `^` for the
/// current folder, and other first characters for other shortcuts.
#[must_use]
pub fn folder_regexp(roots: &[&str]) -> String {
    let mut out = String::from("(^(");
    for (n, root) in roots.iter().enumerate() {
        if n > 0 {
            out.push('|');
        }
        out.push_str(&literal_regexp(root.trim_end_matches('/')));
    }
    out.push_str(")(/|$))");
    out
}

/// The same for exactly one folder and none below it.
#[must_use]
pub fn one_folder_regexp(path: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(out, "(^{}/?$)", literal_regexp(path.trim_end_matches('/')));
    out
}

/// A path as a save-hook or fcc-hook takes it: `%` starts an expando there.
#[must_use]
pub fn without_expandos(path: &str) -> String {
    path.replace('%', "%%")
}

/// The two commands that name the account to mutt-sync and to the keys.
pub fn account_commands(name: &str) -> Result<[String; 2], ControlCharacter> {
    let name = quoted(name)?;
    Ok([format!("setenv MUTT_SYNC_ACCOUNT {name}"), format!("set my_account={name}")])
}

/// `text` as part of a comment: on one line, and not ending in the `\` that would
/// draw the next line into it.
#[must_use]
pub fn comment(text: &str) -> String {
    let mut out = text.replace(|c| !is_printable(c), "?");
    if out.ends_with('\\') {
        out.push('.');
    }
    out
}
