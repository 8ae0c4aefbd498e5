//! Standard output, and whether what was printed has arrived there.
//!
//! Does not depend on: what is printed.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use super::terminal;
use crate::error::Error;

static FAILURE: OnceLock<Error> = OnceLock::new();

/// Prints a text as it is.
pub fn print(text: &str) {
    note(terminal::above(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    }));
}

/// Keeps the first failure to write; a reader that has gone is none.
pub fn note(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != io::ErrorKind::BrokenPipe {
        let _ = FAILURE.set(Error::system("cannot write to standard output", &error));
    }
}

/// Why not all has arrived.
#[must_use]
pub fn failure() -> Option<&'static Error> {
    FAILURE.get()
}
