//! `Patterns` of a channel.
//!
//! Names are those of mbsync, with `/` between levels and without the channel's
//! prefix. Does not depend on: disks, servers.

/// Whether mbsync's wildcard matches the whole name: `*` any run of
/// characters, `%` any run without `/`.
///
/// As in isync 1.4.4 and 1.5.1, what follows a `%` is never tried at a `/`, so
/// `%/x` matches nothing. The cost is bounded by the product of the lengths,
/// however many wildcards there are.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.as_bytes();
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    let mut text = name.bytes();
    loop {
        let next = text.next();
        // From a wildcard on to what follows it, without using up a character.
        for (p, &wildcard) in pattern.iter().enumerate() {
            if at[p] && (wildcard == b'*' || wildcard == b'%' && next != Some(b'/')) {
                at[p + 1] = true;
            }
        }
        let Some(byte) = next else { return at[pattern.len()] };
        let mut then = vec![false; pattern.len() + 1];
        for (p, &wanted) in pattern.iter().enumerate() {
            if at[p] {
                match wanted {
                    b'*' => then[p] = true,
                    b'%' => then[p] |= byte != b'/',
                    _ => then[p + 1] |= wanted == byte,
                }
            }
        }
        at = then;
    }
}

/// Whether a channel with these Patterns has the mailbox: the last pattern that
/// matches decides, `!` in front of it excludes, and no match excludes too.
#[must_use]
pub fn admits(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .rev()
        .find_map(|pattern| match pattern.strip_prefix('!') {
            Some(rest) => matches(rest, name).then_some(false),
            None => matches(pattern, name).then_some(true),
        })
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// mbsync's own way of doing it, which takes exponential time.
    fn model(t: &[u8], p: &[u8]) -> bool {
        match p.first() {
            None => t.is_empty(),
            Some(b'*') => (0..=t.len()).any(|n| model(&t[n..], &p[1..])),
            Some(b'%') => {
                for n in 0..=t.len() {
                    if t.get(n) == Some(&b'/') {
                        return false;
                    }
                    if model(&t[n..], &p[1..]) {
                        return true;
                    }
                }
                false
            }
            Some(c) => t.first() == Some(c) && model(&t[1..], &p[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_recursive_model(p in "[ab/*%]{0,8}", t in "[ab/]{0,10}") {
            prop_assert_eq!(matches(&p, &t), model(t.as_bytes(), p.as_bytes()));
        }
    }

    #[test]
    fn the_last_match_wins() {
        let list = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        assert!(admits(&list("!Sent *"), "Sent"));
        assert!(!admits(&list("* !Sent"), "Sent"));
        assert!(admits(&list("* !Lists* Lists/rust"), "Lists/rust"));
        assert!(!admits(&list("* !Lists* Lists/rust"), "Lists/c"));
        assert!(!admits(&list("%"), "a/b"));
        assert!(!admits(&list("inbox"), "INBOX"));
        assert!(!admits(&[], "INBOX"));
    }

    #[test]
    fn many_wildcards_take_no_time() {
        assert!(!matches(&"*a".repeat(400), &"a".repeat(399)));
    }
}
