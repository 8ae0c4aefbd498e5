//! The reader of `.mbsyncrc`: what it makes of files, and that mbsync makes the
//! same of them.
// A test that goes wrong shall panic, also in what its functions share.
#![allow(clippy::unwrap_used)]

mod acceptance;
mod init;
mod lend_config;
mod paths;
mod selection;
mod values;
mod words;

use mutt_sync::mbsyncrc::IsyncVersion;

/// The language of the mbsync that the tests run.
fn installed() -> IsyncVersion {
    if rig::mbsync_version() < (1, 5) { IsyncVersion::V1_4 } else { IsyncVersion::V1_5 }
}
