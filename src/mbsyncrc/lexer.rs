//! Lines and words of a configuration file, exactly as mbsync reads them.
//!
//! Does not depend on: what a word means. The rules
//! are those of `getcline()` and `get_arg()` of isync 1.4.4 and 1.5.1, tried
//! against mbsync itself by the differential test; each oddity here is one
//! that decides whether mbsync takes a file or not.

/// mbsync reads with a buffer of 1023 bytes: after so many a new line begins, even
/// in the middle of a word.
pub const LONGEST_LINE: usize = 1022;

/// Why a line cannot be split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It ends within an escape: there is no continuation by `\`.
    Escape,
    /// It ends within quotes.
    Quote,
    /// A word is not UTF-8. mbsync would take it; we could not name it.
    Encoding,
}

/// What a line is to the section around it.
#[derive(Debug, PartialEq, Eq)]
pub enum SourceLine {
    /// Only white space: it ends a section.
    Blank,
    /// A comment: it ends nothing.
    Comment,
    /// At least one word.
    Words(Vec<String>),
}

/// The lines of a file with their numbers, from 1, counted as mbsync counts:
/// a line that is too long counts as several.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    pieces(text).enumerate().map(|(at, piece)| (at + 1, seen(piece)))
}

/// What of a piece mbsync sees: `fgets()` gives a C string, and what follows a NUL
/// is lost.
pub fn seen(piece: &[u8]) -> &[u8] {
    let end = piece.iter().position(|&b| b == 0).unwrap_or(piece.len());
    piece.get(..end).unwrap_or_default()
}

/// The same, byte for byte and with their line ends: put together they are the file.
pub fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let window = &rest[..rest.len().min(LONGEST_LINE)];
        let length = window.iter().position(|&b| b == b'\n').map_or(window.len(), |at| at + 1);
        let (line, after) = rest.split_at(length);
        rest = after;
        Some(line)
    })
}

/// White space in the C locale, which mbsync never leaves.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Splits one line. `"` toggles quoting anywhere, also inside a word; `\` takes
/// the next character as it is; `#` begins a comment only where a word could begin.
pub fn split(line: &[u8]) -> Result<SourceLine, Broken> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&b| is_space(b)) {
            at += 1;
        }
        match line.get(at) {
            None if words.is_empty() => return Ok(SourceLine::Blank),
            Some(b'#') if words.is_empty() => return Ok(SourceLine::Comment),
            None | Some(b'#') => return Ok(SourceLine::Words(words)),
            Some(_) => words.push(word(line, &mut at)?),
        }
    }
}

fn word(line: &[u8], at: &mut usize) -> Result<String, Broken> {
    // Counted first: a password that moved while its word grew would leave
    // copies that nobody wipes.
    let mut length = 0;
    scan(line, *at, |_| length += 1);
    let mut word = Vec::with_capacity(length);
    let (end, broken) = scan(line, *at, |byte| word.push(byte));
    *at = end;
    match broken {
        Some(broken) => Err(broken),
        None => String::from_utf8(word).map_err(|_| Broken::Encoding),
    }
}

/// Goes through one word, and gives where the next may begin.
fn scan(line: &[u8], mut at: usize, mut push: impl FnMut(u8)) -> (usize, Option<Broken>) {
    let (mut escaped, mut quoted) = (false, false);
    while let Some(&byte) = line.get(at) {
        at += 1;
        // mbsync compares a signed char with 32 here: neither a control
        // character nor a byte above 127 ends an escape.
        if escaped && (32..128).contains(&byte) {
            escaped = false;
            push(byte);
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        } else if !quoted && is_space(byte) {
            break;
        } else {
            push(byte);
        }
    }
    let broken = match (escaped, quoted) {
        (true, _) => Some(Broken::Escape),
        (false, true) => Some(Broken::Quote),
        (false, false) => None,
    };
    (at, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        match split(line.as_bytes()) {
            Ok(SourceLine::Words(words)) => words,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn quotes_toggle_in_the_middle_of_a_word() {
        assert_eq!(
            words(r#"Patterns * !"[Gmail]/All Mail" a"#),
            ["Patterns", "*", "![Gmail]/All Mail", "a"]
        );
        assert_eq!(words(r#"Far :st:"box one""#), ["Far", ":st:box one"]);
        assert_eq!(words(r#"Pass """#), ["Pass", ""]);
        assert_eq!(words(r#"Pass a\"b\\c\ d"#), ["Pass", "a\"b\\c d"]);
        assert_eq!(words("Pass \"a\\\"b\"\r\n"), ["Pass", "a\"b"]);
    }

    #[test]
    fn a_hash_is_a_comment_only_where_a_word_begins() {
        assert_eq!(words("Host a#b # c \"d"), ["Host", "a#b"]);
        assert_eq!(split(b" \t# x").unwrap(), SourceLine::Comment);
        assert_eq!(split(b" \t\r\n").unwrap(), SourceLine::Blank);
        assert_eq!(words("Pass \"\"#x"), ["Pass", "#x"]);
    }

    #[test]
    fn no_line_goes_on_after_a_backslash() {
        assert_eq!(split(b"Patterns a \\\n"), Err(Broken::Escape));
        assert_eq!(split(b"Patterns \"a\n"), Err(Broken::Quote));
        assert_eq!(split(b"Pass \xff"), Err(Broken::Encoding));
        assert_eq!(split(b"# \xff"), Ok(SourceLine::Comment));
    }

    #[test]
    fn long_lines_count_as_several() {
        let text = format!("# {}\nHost x\n", "y".repeat(2000));
        let seen: Vec<_> = lines(text.as_bytes()).map(|(n, l)| (n, l.len())).collect();
        assert_eq!(seen, [(1, 1022), (2, 981), (3, 7)]);
        let cut: Vec<_> = lines(b"a\0b\nc").collect();
        assert_eq!(cut, [(1, &b"a"[..]), (2, &b"c"[..])]);
    }

    proptest::proptest! {
        #[test]
        fn words_come_back_from_quotes(words in proptest::collection::vec("[ -~à-ÿ]{0,12}", 1..6)) {
            let quote = |word: &String| {
                format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
            };
            let line: Vec<String> = words.iter().map(quote).collect();
            proptest::prop_assert_eq!(split(line.join(" ").as_bytes()), Ok(SourceLine::Words(words)));
        }

        #[test]
        fn any_line_ends(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(SourceLine::Words(words)) = split(&line) {
                proptest::prop_assert!(words.iter().map(String::len).sum::<usize>() <= line.len());
            }
            let total: usize = lines(&line).map(|(_, line)| line.len()).sum();
            proptest::prop_assert!(total <= line.len());
        }
    }
}
