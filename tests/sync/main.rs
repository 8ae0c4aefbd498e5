//! Commands that sync or report: single flight, requests, failures, wrong input,
//! `--status` and `--check`, with real processes.

mod bad_input;
mod check;
mod deletions;
mod failures;
mod guarantees;
mod held;
mod output;
mod progress;
mod question;
mod real_mail;
mod refused;
mod report;
mod single_flight;
mod status;

use std::process::{Child, Command, Stdio};

/// Starts it without an input, its outputs kept.
fn start(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    rig::spawn(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
