//! The checklist as text and as JSON.
//!
//! Knows steps as values and the terminal's manners.
//!
//! Does not depend on: how a step was found.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};

use super::{Part, PartKind, Step, StepState};
use crate::text::counted;

/// Lines are broken here where there is a space to break at.
const WIDTH: usize = 79;
/// Where the text of a step begins.
const INDENT: usize = 24;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Marks in place of words.
    pub marks: bool,
    /// Colour.
    pub colour: bool,
    /// Only what is wrong.
    pub quiet: bool,
}

impl Style {
    /// As standard output can take it: marks and colour only on a terminal, no
    /// colour where `NO_COLOR` is set (no-color.org), marks only in UTF-8.
    #[must_use]
    pub fn of_output(quiet: bool) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let terminal = stdout().is_terminal();
        let charset = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let utf8 = charset.is_some_and(|charset| {
            let charset = charset.to_ascii_uppercase();
            charset.ends_with("UTF-8") || charset.ends_with("UTF8")
        });
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Style {
            marks: terminal && utf8,
            colour: terminal && !dumb && set("NO_COLOR").is_none(),
            quiet,
        }
    }

    /// Whether this step is shown at all.
    #[must_use]
    pub fn shows(self, step: &Step) -> bool {
        !self.quiet || matches!(step.state, StepState::Warning | StepState::Bad)
    }

    fn mark(self, state: StepState) -> String {
        let (word, mark, colour) = match state {
            StepState::Good => ("ok", "✓", "32"),
            StepState::Note => ("note", "·", "36"),
            StepState::Warning => ("warn", "!", "33"),
            StepState::Bad => ("FAIL", "✗", "31"),
            StepState::NotReached => ("-", "-", "2"),
        };
        let text = if self.marks { mark } else { word };
        let room = if self.marks { 2 } else { 5 };
        let space = " ".repeat(room - text.chars().count());
        format!("{}{space}", self.coloured(text, colour))
    }

    fn coloured(self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A step, below its part's title if that is to be shown too. Ends in a newline.
#[must_use]
pub fn text(title: Option<&str>, step: &Step, style: Style) -> String {
    let mut text = String::new();
    if let Some(title) = title {
        text.push_str(&style.coloured(title, "1"));
        text.push('\n');
    }
    let indent = if style.marks { INDENT - 3 } else { INDENT };
    let head = format!("  {}", style.mark(step.state));
    let name = indent - if style.marks { 4 } else { 7 };
    let mut lines = broken(&step.found, WIDTH - indent).into_iter();
    let first = lines.next().unwrap_or_default();
    let _ = writeln!(text, "{head}{:name$}{first}", step.what);
    let space = " ".repeat(indent);
    for line in lines {
        let _ = writeln!(text, "{space}{line}");
    }
    if let Some(fix) = &step.fix {
        let mut lead = "fix: ";
        for line in broken(fix, WIDTH - indent - lead.len()) {
            let _ = writeln!(text, "{space}{}{line}", style.coloured(lead, "1"));
            lead = "     ";
        }
    }
    text
}

/// The last line, for people.
#[must_use]
pub fn summary(parts: &[Part], style: Style) -> String {
    let count = |state| {
        parts.iter().flat_map(|part| &part.steps).filter(|step| step.state == state).count()
    };
    let (bad, warnings) = (count(StepState::Bad), count(StepState::Warning));
    if style.quiet {
        return String::new();
    }
    let warnings = (warnings > 0).then(|| counted(warnings, "warning"));
    if bad == 0 {
        let is_server = |part: &Part| part.kind == PartKind::Server;
        return match warnings {
            _ if parts.iter().any(is_server) => {
                let warnings = warnings.map(|warnings| format!(", {warnings}")).unwrap_or_default();
                format!("No problem{warnings}, as far as can be seen before the login.\n")
            }
            None => "Everything is in place.\n".to_owned(),
            Some(warnings) => {
                format!("No problem, {warnings}: all that a sync needs is in place.\n")
            }
        };
    }
    let counts: Vec<String> = std::iter::once(counted(bad, "problem")).chain(warnings).collect();
    let failed: Vec<(PartKind, &str)> = parts
        .iter()
        .filter(|part| part.steps.iter().any(|step| step.state == StepState::Bad))
        .map(|part| (part.kind, &*part.title))
        .collect();
    let of = |wanted| failed.iter().filter(move |(kind, _)| *kind == wanted);
    let accounts: Vec<&str> = of(PartKind::Account).map(|(_, name)| *name).collect();
    let so = if of(PartKind::All).next().is_some() {
        ": no account can sync".into()
    } else if let Some((_, server)) = of(PartKind::Server).next() {
        format!(": no account can sync with {server}")
    } else if accounts.is_empty() {
        String::new()
    } else {
        format!(": {} cannot sync", super::some(&accounts))
    };
    format!("{}{so}.\n", counts.join(", "))
}

/// For programs. Ends in a newline.
#[must_use]
pub fn json(parts: &[Part]) -> String {
    let mut text = serde_json::to_string_pretty(parts).unwrap_or_default();
    text.push('\n');
    text
}

/// The text in lines of at most so many characters; words longer than that stay whole, and
/// so does what is quoted for the shell.
#[must_use]
pub fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut used = 0;
    let mut words = text.split(' ').peekable();
    while let Some(first) = words.next() {
        let mut word = first.to_owned();
        while is_open(&word) && words.peek().is_some() {
            word.push(' ');
            word.push_str(words.next().unwrap_or_default());
        }
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(&word);
            used += length;
        }
    }
    lines
}

/// Whether the word begins with a quote of the shell's that does not end in it.
fn is_open(word: &str) -> bool {
    if !word.trim_start_matches('$').starts_with('\'') {
        return false;
    }
    let (mut open, mut escaped) = (false, false);
    for c in word.chars() {
        match c {
            _ if escaped => escaped = false,
            '\'' => open = !open,
            '\\' => escaped = !open,
            _ => {}
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { marks: false, colour: false, quiet: false };

    #[test]
    fn steps_stand_in_columns_and_are_broken() {
        let step = Step::good("mbsync", "/usr/bin/mbsync, version 1.4.4");
        let shown = text(Some("mutt-sync"), &step, PLAIN);
        assert_eq!(shown, "mutt-sync\n  ok   mbsync           /usr/bin/mbsync, version 1.4.4\n");
        let long = "word ".repeat(30);
        let shown = text(None, &Step::warning("name", long.trim(), long.trim()), PLAIN);
        assert!(shown.lines().count() > 4);
        assert!(shown.lines().all(|line| line.len() <= WIDTH), "{shown}");
        assert_eq!(shown.matches("fix: ").count(), 1);
        // What is to be pasted stays whole.
        let name = crate::text::shell_word(&format!("it's  a\\' {}", "word ".repeat(20)));
        let fix = format!("the server's operator, then mutt-sync --resync {name} or another");
        let shown = text(None, &Step::warning("name", "x", fix), PLAIN);
        assert!(shown.contains(&name), "{shown}");
    }

    #[test]
    fn colour_and_marks_only_where_wanted() {
        let step = Step::bad("name", crate::error::ExitStatus::Offline, "no such host", "fix");
        assert!(text(Some("t"), &step, PLAIN).is_ascii());
        assert!(!text(Some("t"), &step, PLAIN).contains('\x1b'));
        let coloured = Style { colour: true, marks: true, ..PLAIN };
        assert!(text(None, &step, coloured).starts_with("  \x1b[31m✗\x1b[0m name"));
    }

    #[test]
    fn the_last_line_counts_and_names_who_cannot_sync() {
        let part = |kind, title: &str, steps: Vec<Step>| Part {
            kind,
            title: title.into(),
            steps,
            capabilities: vec![],
        };
        let bad = || Step::bad("x", crate::error::ExitStatus::Offline, "", "");
        let warning = || Step::warning("x", "", "");
        let general = || part(PartKind::All, "mutt-sync", vec![Step::good("x", "")]);
        let account = |name, steps| part(PartKind::Account, name, steps);
        let server = |step| part(PartKind::Server, "mail.example.org", vec![step]);
        for (parts, line) in [
            (vec![general()], "Everything is in place.\n"),
            (
                vec![general(), account("Home", vec![warning()])],
                "No problem, 1 warning: all that a sync needs is in place.\n",
            ),
            (
                vec![general(), account("Home", vec![bad(), warning()])],
                "1 problem, 1 warning: Home cannot sync.\n",
            ),
            (
                vec![general(), account("Home", vec![bad()]), account("Work", vec![bad()])],
                "2 problems: Home, Work cannot sync.\n",
            ),
            (
                vec![part(PartKind::All, "mutt-sync", vec![bad()])],
                "1 problem: no account can sync.\n",
            ),
            (vec![general(), part(PartKind::Mutt, "mutt", vec![bad()])], "1 problem.\n"),
            (vec![server(bad())], "1 problem: no account can sync with mail.example.org.\n"),
            (
                vec![server(warning())],
                "No problem, 1 warning, as far as can be seen before the login.\n",
            ),
        ] {
            assert_eq!(summary(&parts, PLAIN), line);
        }
    }

    #[test]
    fn quiet_shows_what_is_wrong() {
        let quiet = Style { quiet: true, ..PLAIN };
        assert!(!quiet.shows(&Step::good("x", "")) && !quiet.shows(&Step::not_reached("x")));
        assert!(quiet.shows(&Step::warning("x", "", "")));
    }
}
