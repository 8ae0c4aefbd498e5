//! The reader of `.mbsyncrc`: what it makes of files, and that mbsync makes the
//! same of them.
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

mod choosing;
mod places;
mod reach;
mod values;
mod verdicts;

use mutt_sync::dialect;
use mutt_sync::mbsyncrc::Dialect;
use std::sync::OnceLock;

/// The language of the mbsync that the tests run.
fn installed() -> Dialect {
    static INSTALLED: OnceLock<Dialect> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let base = tempfile::tempdir().unwrap();
        dialect::of_mbsync(&rig::real_mbsync(), base.path()).expect("mbsync says its version")
    })
}
