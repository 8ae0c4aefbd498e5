//! Commands that sync or report: single flight, requests, failures, wrong input,
//! `--status` and `--check`, with real processes.

mod bad_input;
mod check;
mod deletions;
mod failures;
mod guarantees;
mod real_mail;
mod single_flight;
mod status;
