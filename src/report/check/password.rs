//! The user's commands for name and password: run once, timed, never shown.
//!
//! First as a waiter runs them, without anything to ask on. Only if that fails
//! and there is something to ask on, as a sync from the terminal would.

use std::io::{IsTerminal as _, Read as _, stdin};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use zeroize::Zeroizing;

use super::{Checklist, Step};
use crate::error::{Error, ExitStatus};
use crate::imap::Interrupt;
use crate::imap::credentials::{PromptPolicy, obtain};
use crate::model::CredentialSource;
use crate::text::short;

/// Where the text comes from: for messages.
pub struct Source<'a> {
    /// The step.
    pub what: &'static str,
    /// The keyword: `PassCmd`.
    pub keyword: &'static str,
    /// The section: `IMAPAccount Home of ~/.mbsyncrc`.
    pub section: &'a str,
}

/// What is given, and says the step. `None`: it cannot be had.
pub fn step(
    given: &CredentialSource,
    source: &Source<'_>,
    time: Duration,
    report: &mut Checklist,
) -> Option<Zeroizing<Vec<u8>>> {
    let Source { what, keyword, section } = *source;
    let CredentialSource::Command(command) = given else {
        let text = obtain(given, keyword, &asking(false, time, &report.interrupt)).ok()?;
        if what == "password" {
            report.say(Step::good(what, format!("stands in {section}")));
        }
        return Some(text);
    };
    let begun = Instant::now();
    let failure = match obtain(given, keyword, &asking(false, time, &report.interrupt)) {
        Ok(text) => {
            report.secret(if what == "password" { &text } else { b"" });
            report.say(took(what, keyword, begun.elapsed()));
            return Some(text);
        }
        Err(failure) => failure,
    };
    let prompted = prompted(command, given, keyword, time, &report.interrupt);
    if let Some((text, on)) = prompted {
        report.secret(if what == "password" { &text } else { b"" });
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
    let why = failure.text.split("; run it by hand").next().unwrap_or_default().to_owned();
    report.say(Step::bad(
        what,
        failure.exit,
        format!("{why} (after {})", short(begun.elapsed())),
        format!("run the {keyword} of {section} by hand until it prints one line and ends well"),
    ));
    None
}

fn asking(may_prompt: bool, time: Duration, interrupt: &Interrupt) -> PromptPolicy {
    PromptPolicy { may_prompt, time, interrupt: interrupt.clone() }
}

fn took(what: &'static str, keyword: &str, time: Duration) -> Step {
    let text = format!("{keyword} answered after {}, without asking", short(time));
    if time > Duration::from_secs(10) {
        return Step::warning(what, text, format!("find out why {keyword} takes so long"));
    }
    Step::good(what, text)
}

/// As a sync in the foreground would, where that is another way at all.
fn prompted(
    command: &str,
    given: &CredentialSource,
    keyword: &str,
    time: Duration,
    interrupt: &Interrupt,
) -> Option<(Zeroizing<Vec<u8>>, &'static str)> {
    if interrupt.fired() {
        return None;
    }
    if stdin().is_terminal() {
        return on_terminal(command, time, interrupt).ok().map(|text| (text, "a terminal"));
    }
    let prompters = ["GPG_TTY", "SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY"];
    if prompters.iter().all(|name| std::env::var_os(name).is_none()) {
        return None;
    }
    let text = obtain(given, keyword, &asking(true, time, interrupt)).ok()?;
    Some((text, "a screen"))
}

/// As mbsync runs it in the foreground: in our session, with our standard input.
fn on_terminal(
    command: &str,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    const LONGEST: u64 = 8191;
    let failed = |_| Error::new(ExitStatus::Denied, "it fails");
    let deadline = Instant::now() + time;
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(std::io::Error::from)
        .map_err(failed)?;
    if interrupt.wait(&[(ended.as_fd(), PollFlags::IN)], deadline).is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    let mut text = Zeroizing::new(Vec::with_capacity(8192));
    // Whatever it has left running may hold the pipe open: only what is there is read.
    if let Some(output) = child.stdout.take() {
        if interrupt.wait(&[(output.as_fd(), PollFlags::IN)], Instant::now()).is_ok() {
            let mut chunk = Zeroizing::new([0_u8; 4096]);
            let read = output.take(LONGEST).read(&mut chunk[..]).map_err(failed)?;
            text.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    text.truncate(end);
    if status.success() && !text.is_empty() {
        return Ok(text);
    }
    Err(Error::new(ExitStatus::Denied, "it prints nothing"))
}
