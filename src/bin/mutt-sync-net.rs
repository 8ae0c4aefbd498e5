//! mutt-sync-net: the same program with the modes that speak to servers.
//! `mutt-sync --wait` and `mutt-sync --check` become it.
//!
//! Does not depend on: anything but `app::net`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(mutt_sync::app::net::run(std::env::args_os()).code())
}
