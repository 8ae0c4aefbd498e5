//! mutt-sync-net: the same program with the modes that speak to servers.
//! `mutt-sync` becomes it for a sync, `--wait`, `--check` and whatever else is not served
//! locally (see `Mode::of` in `app::local`).
//!
//! Does not depend on: anything but `app::net`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(mutt_sync::app::net::run(std::env::args_os()).code())
}
