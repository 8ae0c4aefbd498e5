//! Text for people: durations, numbers with their noun, similar words, words to type,
//! and what may be printed.
//!
//! Does not depend on: anything else in this crate.

mod pseudonyms;
mod suggest;

pub use pseudonyms::Pseudonyms;
pub use suggest::suggest;

use std::time::Duration;

/// A duration as people read it: `0.4 s`, `42 s`, `3 min`, `5 h`, `3 days`.
#[must_use]
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.05 {
        "<0.1 s".into()
    } else if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.0} h", seconds / 3600.0)
    } else {
        format!("{:.0} days", seconds / 86_400.0)
    }
}

/// Bytes as people read them: `612 bytes`, `42 KiB`, `12 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => counted(bytes, "byte"),
        1024..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// `1 mailbox`, `2 mailboxes`.
#[must_use]
pub fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let plural = if what.ends_with('x') || what.ends_with("ch") { "es" } else { "s" };
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}

/// How many columns of a terminal a text takes. What may be wide counts as wide.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    if c.is_ascii() { 1 } else { 2 }
}

/// As much of the beginning as fits into so many columns.
#[must_use]
pub fn clipped(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += columns_of(c);
        if used > columns {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

/// A text in so many columns; of a longer one, beginning and end. At least the mark
/// between the two.
#[must_use]
pub fn shortened(text: &str, columns: usize) -> String {
    const MARK: &str = "…";
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(width(MARK));
    let head = clipped(text, room / 2);
    let (mut left, mut from) = (room - width(head), text.len());
    for (at, c) in text.char_indices().rev() {
        let Some(rest) = left.checked_sub(columns_of(c)) else { break };
        (left, from) = (rest, at);
    }
    format!("{head}{MARK}{}", text.get(from..).unwrap_or_default())
}

/// A line as it may be shown: names come from servers and disks, and nothing in
/// them may move the cursor or begin a line of its own.
#[must_use]
pub fn sanitize(line: &str) -> String {
    line.replace(|c| !is_printable(c) && c != '\t', "?")
}

/// A word as it is typed in a shell, quoted if need be. What may not be shown is in
/// octal (`$'\033'`, which dash does not know), for the name with a `?` is another one.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    // `=ls` is a path in zsh.
    if word.chars().all(is_plain) && !word.is_empty() && !word.starts_with('=') {
        return word.to_owned();
    }
    if word.chars().all(is_printable) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut quoted = "$'".to_owned();
    for c in word.chars() {
        if is_printable(c) && !['\'', '\\'].contains(&c) {
            quoted.push(c);
        } else {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).bytes();
            quoted.extend(bytes.map(|byte| format!("\\{byte:03o}")));
        }
    }
    quoted + "'"
}

/// The same for a name that is not to be taken for an option.
#[must_use]
pub fn shell_operand(name: &str) -> String {
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    end_of_options.to_owned() + &shell_word(name)
}

/// A server's words made fit for a terminal and a log, at most 200 characters of
/// them. What may not be shown is left out, so that a secret in them is found
/// whatever stands between its letters.
#[must_use]
pub fn printable(words: &str) -> String {
    words.chars().filter(|c| is_printable(*c)).take(200).collect::<String>().trim().to_owned()
}

/// Neither a control character nor an invisible one.
#[must_use]
pub fn is_printable(c: char) -> bool {
    !c.is_control() && !is_invisible(c)
}

/// Characters that are not seen and change how others are: direction marks
/// (UAX #9), which can make `gpj.exe` out of a name, zero-width ones and blanks
/// that are no white space, line separators, tags, and non-characters. The only
/// such set: what is shown, noted or given to a program keeps none of them.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
        || (u32::from(c) & 0xfffe) == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_others_are_plural() {
        let words = [counted(1, "mailbox"), counted(0, "mailbox"), counted(2, "flag change")];
        assert_eq!(words, ["1 mailbox", "0 mailboxes", "2 flag changes"]);
        assert_eq!([counted(1, "watch"), counted(3, "watch")], ["1 watch", "3 watches"]);
    }

    #[test]
    fn a_text_is_clipped_to_its_columns() {
        assert_eq!(clipped("Home: INBOX", 79), "Home: INBOX");
        assert_eq!(clipped("Home: INBOX", 11), "Home: INBOX");
        assert_eq!(clipped("Home: INBOX", 10), "Home: INBO");
        assert_eq!(clipped("日本語", 4), "日本");
        assert_eq!(clipped("x", 0), "");
    }

    #[test]
    fn a_long_text_keeps_its_ends() {
        assert_eq!(shortened("Lists/2026/rust", 15), "Lists/2026/rust");
        assert_eq!(shortened("Lists/2026/rust", 14), "Lists/…6/rust");
        assert_eq!(shortened("日本語日本語", 11), "日本…本語");
        assert_eq!(shortened("日本語", 5), "…語");
        assert_eq!([shortened("abc", 2), shortened("abc", 0)], ["…", "…"]);
        for columns in 2..40 {
            assert!(width(&shortened("Entwürfe/日本語/a long name", columns)) <= columns);
        }
    }

    #[test]
    fn durations_have_the_unit_that_people_would_use() {
        let of = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([of(0), of(9), of(119), of(120)], ["<0.1 s", "9.0 s", "119 s", "2 min"]);
        assert_eq!([of(7200), of(172_799), of(172_800)], ["2 h", "48 h", "2 days"]);
    }

    #[test]
    fn g10_the_shell_reads_back_what_is_to_be_typed() {
        for plain in ["home", "home:Lists", "me@x.org:a/b,c", "Entwürfe"] {
            assert_eq!((shell_word(plain), shell_operand(plain)), (plain.into(), plain.into()));
        }
        assert_eq!(shell_word("gmail:[Gmail]/Sent Mail"), "'gmail:[Gmail]/Sent Mail'");
        assert_eq!(shell_word("a\u{200b}\x1b'"), r"$'a\342\200\213\033\047'");
        assert_eq!(shell_operand("-n"), "-- -n");
        let words = [
            "",
            "it's",
            "`id`;$(id)",
            "\\",
            "a\\'\\",
            "~",
            "*",
            "=ls",
            "#",
            "!!",
            "\t\u{2066}\\n'\n.",
        ];
        for word in words {
            let shown = shell_word(word);
            assert_eq!(sanitize(&shown), shown, "{word:?}");
            let script = format!("printf %s {shown}");
            let shell = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&shell.stdout), word, "{shown}");
        }
    }

    #[test]
    fn g10_no_character_that_is_unseen_is_shown() {
        let unseen =
            "\u{200b}\u{feff}\u{2028}\u{61c}\u{ad}\u{180e}\u{2066}\u{3164}\u{e0041}\u{9b}\u{7f}";
        for c in unseen.chars() {
            assert_eq!(sanitize(&format!("a{c}b")), "a?b", "{c:?}");
            assert_eq!(printable(&format!("a{c}b")), "ab", "{c:?}");
        }
        assert_eq!(sanitize("é 日本\u{1f4e7}\t"), "é 日本\u{1f4e7}\t");
    }
}
