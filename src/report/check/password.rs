//! The user's commands for name and password: run once, as mbsync runs them, timed,
//! never shown.
//!
//! First as a waiter runs them, without anything to ask on. Only if that fails
//! and there is something to ask on, as a sync from the terminal would.
//!
//! Does not depend on: what the secret is for.

use std::io::{IsTerminal as _, stdin};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Checklist, Step};
use crate::error::{ErrorKind, ExitStatus};
use crate::imap::credentials::{PromptPolicy, Reading, obtain};
use crate::mbsync_version::IsyncVersion;
use crate::model::CredentialSource;
use crate::os::child::Prompt;
use crate::os::wait::Cancel;
use crate::text::short;

/// Where the text comes from: for messages.
pub struct PasswordSource<'a> {
    /// The step.
    pub what: &'static str,
    /// The keyword: `PassCmd`.
    pub keyword: &'static str,
    /// The section: `IMAPAccount Home of ~/.mbsyncrc`.
    pub section: &'a str,
    /// The mbsync that will run the command.
    pub version: IsyncVersion,
}

impl PasswordSource<'_> {
    fn asking(&self, prompt: Prompt, time: Duration, cancel: &Cancel) -> PromptPolicy {
        let reading = Reading::AsMbsync(self.version);
        PromptPolicy { prompt, time, cancel: cancel.clone(), reading, told_of: None }
    }
}

/// What is given, and says the step. `None`: it cannot be had.
pub fn step(
    given: &CredentialSource,
    source: &PasswordSource<'_>,
    time: Duration,
    report: &mut Checklist,
) -> Option<Zeroizing<Vec<u8>>> {
    let PasswordSource { what, keyword, section, .. } = *source;
    let asking = source.asking(Prompt::Never, time, report.stop.cancel());
    let CredentialSource::Command(_) = given else {
        let text = obtain(given, keyword, &asking).ok()?;
        if what == "password" {
            report.say(Step::good(what, format!("set in {section}")));
        }
        return Some(text);
    };
    let begun = Instant::now();
    let failure = match obtain(given, keyword, &asking) {
        Ok(text) => {
            if what == "password" {
                report.secret(&text);
            }
            let odd = odd(source, &text);
            let is_usable = odd.as_ref().is_none_or(|step| step.exit == ExitStatus::Done);
            report.say(odd.unwrap_or_else(|| took(what, keyword, begun.elapsed())));
            return is_usable.then_some(text);
        }
        Err(failure) => failure,
    };
    let lasted = begun.elapsed();
    let prompted = prompted(given, source, time, report.stop.cancel());
    if let Some((text, on)) = prompted {
        if what == "password" {
            report.secret(&text);
        }
        report.say(Step::warning(
            what,
            format!("{keyword} works only with {on} to ask on; a waiter and a timer have none"),
            format!(
                "unlock what it asks for before they start (an agent that keeps it, for example), or give {section} a {keyword} that does not ask"
            ),
        ));
        return Some(text);
    }
    // The command itself may have the password in it: it is not repeated.
    report.say(Step::bad(
        what,
        failure.status,
        format!("{} (after {})", failure.message, short(lasted)),
        if failure.kind == ErrorKind::OutputClosed {
            format!(
                "run the {keyword} of {section} by hand until it exits with status 0 and prints one line, which is all that mbsync reads (with `| head -n 1` at its end it does)"
            )
        } else {
            format!(
                "run the {keyword} of {section} by hand until it prints one line and exits with status 0"
            )
        },
    ));
    None
}

/// What is in the line that nobody means to be there.
fn odd(source: &PasswordSource<'_>, line: &[u8]) -> Option<Step> {
    let PasswordSource { what, keyword, section, .. } = *source;
    if line.contains(&0) {
        return Some(Step::bad(
            what,
            ExitStatus::Denied,
            format!("{keyword} prints a NUL byte, and mbsync takes only what stands before it"),
            format!("let the {keyword} of {section} print the {what} alone"),
        ));
    }
    (line.last() == Some(&b'\r')).then(|| {
        Step::warning(
            what,
            format!("{keyword} prints a CR (\\r) before the line's end, which is sent as a part of the {what}"),
            format!("let the {keyword} of {section} remove it: end it with `| tr -d '\\r'`"),
        )
    })
}

fn took(what: &'static str, keyword: &str, time: Duration) -> Step {
    let text = format!("{keyword} works unattended ({})", short(time));
    if time > Duration::from_secs(10) {
        return Step::warning(what, text, format!("find out why {keyword} takes so long"));
    }
    Step::good(what, text)
}

/// As a sync in the foreground would, where that is another way at all.
fn prompted(
    given: &CredentialSource,
    source: &PasswordSource<'_>,
    time: Duration,
    cancel: &Cancel,
) -> Option<(Zeroizing<Vec<u8>>, &'static str)> {
    let screens = ["SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY"];
    let (prompt, on) = if stdin().is_terminal() {
        (Prompt::Terminal, "a terminal")
    } else if screens.iter().any(|name| std::env::var_os(name).is_some()) {
        (Prompt::Environment, "a screen")
    } else {
        return None;
    };
    if cancel.is_raised() {
        return None;
    }
    Some((obtain(given, source.keyword, &source.asking(prompt, time, cancel)).ok()?, on))
}
