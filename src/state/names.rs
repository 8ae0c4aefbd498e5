//! Names from the configuration as file names: any name is safe as one path
//! component, and targets can be read back.
//!
//! Does not depend on: files, configuration: strings in, strings out.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::model::Target;

/// Longest encoded name used as it is; most file systems take 255 bytes.
const LONGEST: usize = 200;

/// Everything that could mean something to a file system, a shell or us.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');

/// The name of an account's directory: percent-encoded, and hashed when longer
/// than 200 bytes. Never empty, never starting with a dot.
#[must_use]
pub fn directory(account: &str) -> String {
    let encoded = encoded(account);
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let mut name = String::from("%%");
    for byte in Sha256::digest(account.as_bytes()) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The file name of a request for this target: `*`, `CHANNEL` or `CHANNEL:BOX`,
/// each part percent-encoded. If that is too long, the next wider target's name.
#[must_use]
pub fn file_of(target: &Target) -> String {
    let name = match target {
        Target::Account => return "*".into(),
        Target::Channel(channel) => encoded(channel),
        Target::Mailbox { channel, name } => {
            let both = format!("{}:{}", encoded(channel), encoded(name));
            if both.len() <= LONGEST { both } else { encoded(channel) }
        }
    };
    if name.len() <= LONGEST { name } else { "*".into() }
}

/// The target of a file in `want/` or `run/`; `None` for a stray
/// file, which nothing would ever remove.
#[must_use]
pub fn target_of(file: &str) -> Option<Target> {
    let found = match file.split_once(':') {
        _ if file == "*" => Target::Account,
        Some((channel, name)) => {
            Target::Mailbox { channel: decoded(channel)?, name: decoded(name)? }
        }
        None => Target::Channel(decoded(file)?),
    };
    (file_of(&found) == file).then_some(found)
}

fn encoded(name: &str) -> String {
    let text = utf8_percent_encode(name, UNSAFE).to_string();
    match text.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None if text.is_empty() => "%".into(),
        None => text,
    }
}

fn decoded(text: &str) -> Option<String> {
    if text == "%" {
        return Some(String::new());
    }
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn g10_hostile_names_stay_inside() {
        for name in ["../x", "..", ".", "/etc", "a/b", "", "-n", "a\nb", "*", "é"] {
            let file = directory(name);
            assert!(!file.contains('/') && !file.starts_with('.') && !file.is_empty(), "{file}");
        }
        assert_eq!(directory("Home"), "Home");
        assert_eq!(directory(&"x".repeat(200)).len(), 200);
        assert_eq!(directory(&"x".repeat(201)).len(), 66);
        assert_eq!(directory(&"x".repeat(500)).len(), 66);
        assert_ne!(directory(&"x".repeat(500)), directory(&"x".repeat(501)));
    }

    #[test]
    fn a_name_too_long_is_a_wider_target() {
        let long = "ä".repeat(100);
        let mailbox = Target::Mailbox { channel: "Home".into(), name: long.clone() };
        assert_eq!(target_of(&file_of(&mailbox)), Some(Target::Channel("Home".into())));
        assert_eq!(target_of(&file_of(&Target::Channel(long))), Some(Target::Account));
        for (length, fits) in [(197, true), (198, false)] {
            let mailbox = Target::Mailbox { channel: "ab".into(), name: "x".repeat(length) };
            assert_eq!(target_of(&file_of(&mailbox)) == Some(mailbox), fits);
        }
        for (length, fits) in [(200, true), (201, false)] {
            let channel = Target::Channel("x".repeat(length));
            assert_eq!(target_of(&file_of(&channel)) == Some(channel), fits);
        }
    }

    #[test]
    fn what_we_would_not_write_is_no_target() {
        for file in ["%zz", "a:b:c", ".x", "a b", "", "a%2fb"] {
            assert_eq!(target_of(file), None, "{file}");
        }
    }

    proptest! {
        #[test]
        fn targets_are_read_back(channel in "\\PC{0,30}", name in "\\PC{0,30}") {
            for value in [
                Target::Channel(channel.clone()),
                Target::Mailbox { channel: channel.clone(), name: name.clone() },
            ] {
                let file = file_of(&value);
                prop_assert!(file.len() <= 200 && !file.contains('/'));
                let wider = file == "*" || !file.contains(':');
                prop_assert!(target_of(&file) == Some(value) || wider);
            }
        }

        #[test]
        fn stray_files_do_no_harm(file in "\\PC{0,60}") {
            if let Some(found) = target_of(&file) {
                prop_assert_eq!(file_of(&found), file);
            }
        }
    }
}
