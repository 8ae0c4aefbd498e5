//! Numbered words in place of names: `account-1`, `box-2`. Does not depend on: what the
//! names are of.

use std::collections::BTreeMap;

/// Names, and what stands for each of them.
#[derive(Debug, Default)]
pub struct Pseudonyms {
    /// By kind and name.
    all: BTreeMap<(&'static str, String), String>,
    /// How many there are of each kind.
    counts: BTreeMap<&'static str, usize>,
    /// What stands for a name of any kind: that of the first.
    names: BTreeMap<String, String>,
}

impl Pseudonyms {
    /// What stands for this name, of an account, a box and so on. INBOX is its own.
    pub fn of(&mut self, kind: &'static str, name: &str) -> String {
        if name.is_empty() || name.eq_ignore_ascii_case("INBOX") {
            return name.to_owned();
        }
        let found = self.all.entry((kind, name.to_owned())).or_insert_with(|| {
            let count = self.counts.entry(kind).or_default();
            *count += 1;
            format!("{kind}-{count}")
        });
        self.names.entry(name.to_owned()).or_insert_with(|| found.clone());
        found.clone()
    }

    /// Whether this word stands for a name.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.all.values().any(|pseudonym| pseudonym == word)
    }

    /// The text without any of the names, but for those that are a part of a longer
    /// word: of names that overlap the longest.
    #[must_use]
    pub fn replace(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let is_here = |name: &str| {
                let after = rest.strip_prefix(name)?;
                (!after.starts_with(char::is_alphanumeric)).then_some(after)
            };
            // There may be thousands of names: none is looked for within a word.
            let begins = !out.ends_with(char::is_alphanumeric);
            let names = begins.then_some(&self.names).into_iter().flatten();
            let here = names.filter_map(|(name, by)| Some((name, by, is_here(name)?)));
            if let Some((_, by, after)) = here.max_by_key(|(name, ..)| name.len()) {
                out.push_str(by);
                rest = after;
            } else {
                out.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_by_kind_and_the_longest_is_replaced() {
        let mut all = Pseudonyms::default();
        assert_eq!(all.of("account", "Home"), "account-1");
        assert_eq!(all.of("channel", "Home"), "channel-1");
        assert_eq!(all.of("account", "Work"), "account-2");
        assert_eq!(all.of("account", "Home"), "account-1");
        assert_eq!(all.of("box", "inbox"), "inbox");
        assert_eq!(all.of("box", "Home/Lists"), "box-1");
        assert_eq!(all.of("box", "a"), "box-2");
        let text = all.replace("Home: a Homestead, Home/Lists and (Work); INBOX é Work");
        assert_eq!(text, "account-1: box-2 Homestead, box-1 and (account-2); INBOX é account-2");
        assert!(all.has("box-2") && !all.has("box-3"));
    }
}
