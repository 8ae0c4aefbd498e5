//! Which of the known names a mistyped one was meant to be. Does not depend on:
//! what the names name.

/// Longer names are no typing error, and comparing two costs the product of their lengths.
const LONGEST: usize = 100;

/// The most similar of these names, if it is similar enough to be meant: equal
/// but for case, or at most two letters different (one in a short name).
#[must_use]
pub fn suggest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > LONGEST {
        return None;
    }
    let wanted = typed.to_lowercase();
    known
        .into_iter()
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (strsim::damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= if typed.len() < 5 { 1 } else { 2 })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_gets_a_suggestion_and_another_word_none() {
        let known = ["Home", "Work", "University"];
        assert_eq!(suggest("Hme", known), Some("Home"));
        assert_eq!(suggest("home", known), Some("Home"));
        assert_eq!(suggest("Univeristy", known), Some("University"));
        assert_eq!(suggest("Play", known), None);
        assert_eq!(suggest(&"x".repeat(9999), known), None);
    }
}
