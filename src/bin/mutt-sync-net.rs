//! mutt-sync-net: the same program with the modes that speak to servers.
//! `mutt-sync --wait` and `mutt-sync --check` become it.

use std::process::ExitCode;

use mutt_sync::app::{NETWORK, run};

fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), Some(&NETWORK)).code())
}
