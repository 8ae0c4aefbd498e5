//! mutt-sync: parse, run, exit. Does not depend on: anything but `app::local`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(mutt_sync::app::local::run(std::env::args_os()).code())
}
