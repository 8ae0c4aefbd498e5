//! Which of the known names a mistyped one was meant to be.

/// Longer ones are no slip of the finger, and comparing them costs their product.
const LONGEST: usize = 100;

/// The nearest of these names, if any is near enough to be meant: equal but for
/// case, or a letter or two away (of short names one).
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
    fn a_slip_is_mended_and_another_word_is_not() {
        let known = ["Home", "Work", "University"];
        assert_eq!(nearest("Hme", known), Some("Home"));
        assert_eq!(nearest("home", known), Some("Home"));
        assert_eq!(nearest("Univeristy", known), Some("University"));
        assert_eq!(nearest("Play", known), None);
        assert_eq!(nearest(&"x".repeat(9999), known), None);
    }
}
