//! How mutt reads a line of muttrc, as far as what we print needs it.
//!
//! A model of `mutt_extract_token()` (mutt 2.2.12, `init.c`; neomutt 20220429
//! does the same), and of what our own lines may say. It runs and expands
//! nothing: it only sees that mutt would.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// One word as mutt takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its text, with what would be expanded left as it is.
    pub text: String,
    /// mutt would run a command or expand a variable in it.
    pub expands: bool,
}

impl Word {
    /// A word in which nothing happens.
    pub fn plain(text: &str) -> Self {
        Word { text: text.to_owned(), expands: false }
    }
}

/// The words of one command line. A `;` is a word of its own, and not one that
/// was quoted: see [`Word::text`] for that.
pub fn words(line: &str) -> Result<Vec<Word>, &'static str> {
    let commands = commands(line)?;
    Ok(commands.concat())
}

/// The commands of a line, each in words.
pub fn commands(line: &str) -> Result<Vec<Vec<Word>>, &'static str> {
    let mut rest = line.chars().peekable();
    let mut all = vec![Vec::new()];
    loop {
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        match rest.peek() {
            None | Some('#') => break,
            Some(';') => {
                rest.next();
                all.push(Vec::new());
            }
            Some(_) => {
                let word = word(&mut rest)?;
                if let Some(command) = all.last_mut() {
                    command.push(word);
                }
            }
        }
    }
    Ok(all)
}

fn word(rest: &mut Peekable<Chars<'_>>) -> Result<Word, &'static str> {
    let mut word = Word { text: String::new(), expands: false };
    let mut quote = None;
    while let Some(&c) = rest.peek() {
        if quote.is_none() && (c.is_ascii_whitespace() || matches!(c, '#' | ';')) {
            break;
        }
        rest.next();
        match c {
            c if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            '\\' if quote != Some('\'') => {
                let next = rest.next().ok_or("a backslash at the end")?;
                // Letters mean control characters, digits an octal number.
                if next.is_ascii_alphanumeric() {
                    return Err("an escape that we never write");
                }
                word.text.push(next);
            }
            '`' if quote != Some('\'') => {
                word.expands = true;
                word.text.push(c);
                loop {
                    let inner = rest.next().ok_or("a backtick without its other")?;
                    word.text.push(inner);
                    if inner == '`' {
                        break;
                    }
                }
            }
            '$' if quote != Some('\'')
                && rest.peek().is_some_and(|c| *c == '{' || c.is_ascii_alphabetic()) =>
            {
                word.expands = true;
                word.text.push(c);
            }
            c => word.text.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote without its other");
    }
    Ok(word)
}

/// The text that a regular expression without anything special in it matches;
/// `None` if it has something special.
pub fn literal(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            // POSIX leaves the escape of a plain character open.
            '\\' => text.push(rest.next().filter(|c| ".[]\\()*+?{}|^$".contains(*c))?),
            '.' | '[' | '(' | ')' | '*' | '+' | '?' | '{' | '}' | '|' | '^' | '$' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

/// What the lines are about.
pub struct Meant {
    /// Folders.
    pub folders: BTreeSet<String>,
    /// `CHANNEL:NAME`.
    pub boxes: BTreeSet<String>,
    /// Names of accounts.
    pub accounts: BTreeSet<String>,
    /// Files that may be sourced.
    pub files: BTreeSet<String>,
    /// Addresses that may be sent from.
    pub addresses: BTreeSet<String>,
}

/// Lines of ours that expand something, on purpose.
const OURS: [&str; 2] =
    ["set my_entered=\"`mutt-sync -b 2>/dev/null`\"", "set my_mailbox=\"$my_account\""];

/// Panics unless the lines say what is meant and nothing else.
pub fn check(lines: &str, meant: &Meant) {
    for line in lines.lines() {
        assert!(!line.ends_with('\\'), "draws the next line into it: {line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        run(line, meant);
    }
}

fn run(line: &str, meant: &Meant) {
    let commands = commands(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    for command in commands.iter().filter(|command| !command.is_empty()) {
        assert!(command.iter().all(|word| !word.expands), "expands: {line}");
        let text: Vec<&str> = command.iter().map(|word| word.text.as_str()).collect();
        let known = match text[..] {
            ["mailboxes", folder] => meant.folders.contains(folder),
            ["folder-hook", _, inner] => {
                if !OURS.contains(&inner) {
                    run(inner, meant);
                }
                true
            }
            ["source", file] => meant.files.contains(file) && !file.ends_with('|'),
            ["setenv", "MUTT_SYNC_ACCOUNT", name] => meant.accounts.contains(name),
            ["save-hook", ".", path] => meant.folders.contains(&path.replace("%%", "%")),
            ["set", assigned] => assignment(assigned, meant),
            ["reset", ..] => text.iter().all(|word| plain(word)),
            ["unset", "record"] | ["color", "status", _, _] => true,
            _ => false,
        };
        assert!(known, "not ours: {line}");
    }
}

fn assignment(assigned: &str, meant: &Meant) -> bool {
    let Some((name, value)) = assigned.split_once('=') else {
        return assigned == "use_envelope_from";
    };
    match name {
        "my_account" => meant.accounts.contains(value),
        "my_mailbox" => meant.boxes.contains(value) || meant.accounts.contains(value),
        "spoolfile" | "mbox" | "postponed" | "trash" | "record" => meant.folders.contains(value),
        "from" => meant.addresses.contains(value),
        "sendmail" => {
            value == "msmtp"
                || value.strip_prefix("msmtp -a ").is_some_and(|name| {
                    name.chars().all(|c| c.is_ascii_alphanumeric() || "._@+-".contains(c))
                })
        }
        _ => false,
    }
}

fn plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
