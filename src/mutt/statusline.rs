//! The state of an account in mutt's status line.
//!
//! mutt runs `status_format` that ends in `|` as a filter: it expands the
//! command's arguments, and shows the first line of what the command prints.
//! So our argument is the finished line, padding and all. Both clients expand
//! the output a second time if it ends in `%`; and the result may then run
//! another command, if a folder's name has a `|` at the right place. Our line
//! therefore never ends in `%`. Does not depend on: where the state comes from.

/// The state that the line shows, of one account or of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
// Each has a sign of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct LineState {
    /// Mailboxes with something to push.
    pub push: usize,
    /// mbsync has been running for a while.
    pub running: bool,
    /// A request has waited for a while, or has failed.
    pub waiting: bool,
    /// Why the last run did not succeed.
    pub trouble: Option<Trouble>,
    /// A process exists that will do what is pending, or was just started for it.
    pub attended: bool,
    /// mbsync could not carry something.
    pub refused: bool,
    /// Something waits for an answer before it is synced.
    pub held: bool,
}

/// Why the last run did not succeed, in a few letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The server was not reached.
    Offline,
    /// Login, password command or certificate refused.
    Login,
    /// A configuration is wrong.
    Config,
    /// Anything else, or some mailbox failed.
    Failed,
}

/// The mark for a state, ASCII, at most 15 columns; empty when all is in sync.
#[must_use]
pub fn mark(state: LineState) -> String {
    let mut text = String::new();
    if state.running {
        text.push('*');
    } else if state.waiting {
        text.push('~');
    }
    if state.push > 0 {
        text.push('^');
        // Beyond this the number means no more than "many", and the mark would grow.
        text.push_str(&state.push.min(999).to_string());
    }
    if let Some(trouble) = state.trouble.filter(|_| !state.running) {
        text.push_str(match trouble {
            Trouble::Offline => "!offline",
            Trouble::Login => "!login",
            Trouble::Config => "!config",
            Trouble::Failed => "!failed",
        });
    }
    if state.held && state.trouble.is_none() {
        text.push_str("!held");
    } else if state.refused && state.trouble.is_none() {
        text.push_str("!refused");
    }
    if text.is_empty() {
        return text;
    }
    let nobody = !state.attended
        && !state.running
        && !state.waiting
        && state.trouble.is_none()
        && state.push > 0;
    if nobody { format!("({text})") } else { format!("[{text}]") }
}

/// `line`, which mutt has already expanded, with the mark of `state` in it: over
/// the end of its longest padding if there is any, so that the width stays; else
/// at its end. One line, without control characters, never ending in `%`.
#[must_use]
pub fn with_mark(line: &str, state: LineState) -> String {
    let mut chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mark = mark(state);
    if !mark.is_empty() {
        let padding = longest_padding(&chars).filter(|run| run.len() >= mark.len() + 2);
        if let Some(run) = padding {
            // One padding character stays behind the mark, at least one before it.
            let end = run.end - 1;
            chars.splice(end - mark.len()..end, mark.chars());
        } else {
            if !chars.is_empty() {
                chars.push(' ');
            }
            chars.extend(mark.chars());
        }
    }
    if chars.last() == Some(&'%') {
        chars.push(' ');
    }
    chars.into_iter().collect()
}

/// The last of the longest runs of one and the same padding character. ASCII
/// only, because what a wide character would pad is not known here.
fn longest_padding(chars: &[char]) -> Option<std::ops::Range<usize>> {
    let mut best: Option<std::ops::Range<usize>> = None;
    let mut start = 0;
    for end in 1..=chars.len() {
        if end == chars.len() || chars.get(end) != chars.get(start) {
            let pads = matches!(chars.get(start), Some('-' | ' ' | '=' | '_' | '.' | '~'));
            if pads && best.as_ref().is_none_or(|best| end - start >= best.len()) {
                best = Some(start..end);
            }
            start = end;
        }
    }
    best
}
