//! Whether both sides hold the same: message for message, flag for flag.

use crate::home::mbsync_version;
use crate::imap::Imap;
use crate::maildir::Maildir;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Who a message is, and its flags as often as it is there.
type Side = BTreeMap<(String, String), Vec<String>>;

/// Compares all mailboxes that either side has. `root` holds the near ones by
/// their names (`root/INBOX`, `root/Lists/rust`). The error is a diff to read.
pub fn compare(imap: &mut Imap, root: &Path) -> Result<(), String> {
    let mut boxes: BTreeSet<String> = BTreeSet::new();
    near_boxes(root, "", &mut boxes);
    for far in imap.list() {
        boxes.insert(near_name(imap, &far));
    }
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    compare_boxes(imap, root, &boxes)
}

/// Compares these mailboxes only, by their near names.
pub fn compare_boxes(imap: &mut Imap, root: &Path, boxes: &[&str]) -> Result<(), String> {
    let far_names: BTreeMap<String, String> =
        imap.list().into_iter().map(|far| (near_name(imap, &far), far)).collect();
    let mut diff = String::new();
    for &name in boxes {
        let mut far = Side::new();
        match far_names.get(name) {
            None => drop(writeln!(diff, "{name}: not on the server")),
            Some(far_name) => {
                for message in imap.fetch_all(far_name) {
                    let flags = message.letters();
                    far.entry((message.message_id, message.digest)).or_default().push(flags);
                }
            }
        }
        let maildir = Maildir::at(root.join(name));
        let mut near = Side::new();
        if !maildir.exists() {
            let _ = writeln!(diff, "{name}: no Maildir at {}", maildir.path().display());
        }
        for entry in maildir.list() {
            let flags = entry.flags.chars().filter(|c| "DFPRST".contains(*c)).collect();
            near.entry((entry.message_id, entry.digest)).or_default().push(flags);
        }
        let keys: BTreeSet<_> = far.keys().chain(near.keys()).cloned().collect();
        for key in keys {
            let sorted = |side: &Side| {
                let mut flags = side.get(&key).cloned().unwrap_or_default();
                flags.sort();
                flags
            };
            let (on_server, on_disk) = (sorted(&far), sorted(&near));
            if on_server != on_disk {
                let show = |flags: &[String]| match flags {
                    [] => "absent".to_owned(),
                    flags => flags.iter().map(|f| format!("[{f}]")).collect::<String>(),
                };
                let _ = writeln!(
                    diff,
                    "{name}: {} body {}: server {}, disk {}",
                    key.0,
                    key.1,
                    show(&on_server),
                    show(&on_disk)
                );
            }
        }
    }
    if diff.is_empty() { Ok(()) } else { Err(diff) }
}

/// isync 1.5 spells names in UTF-8 on disk, 1.4 as the server does.
fn near_name(imap: &Imap, far: &str) -> String {
    let spelt = if mbsync_version() >= (1, 5) { decoded(far) } else { far.to_owned() };
    let slashed = spelt.replace(imap.delimiter(), "/");
    match slashed.strip_prefix("INBOX/") {
        // With an `INBOX.` namespace the other mailboxes are its siblings.
        Some(rest) if imap.delimiter() == '.' => rest.to_owned(),
        _ => slashed,
    }
}

/// From modified UTF-7 (RFC 3501, 5.1.3).
fn decoded(name: &str) -> String {
    let mut text = String::new();
    let mut parts = name.split('&');
    text += parts.next().unwrap_or_default();
    for part in parts {
        let Some((code, rest)) = part.split_once('-') else { return name.to_owned() };
        let mut bits = (0_u32, 0);
        let mut units = Vec::new();
        for letter in code.bytes() {
            const LETTERS: &[u8] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";
            let value = LETTERS.iter().position(|&each| each == letter).unwrap_or_default();
            bits = ((bits.0 << 6) | u32::try_from(value).unwrap_or_default(), bits.1 + 6);
            if bits.1 >= 16 {
                bits.1 -= 16;
                units.push(u16::try_from((bits.0 >> bits.1) & 0xffff).unwrap_or_default());
                bits.0 &= (1 << bits.1) - 1;
            }
        }
        text += &if code.is_empty() { "&".to_owned() } else { String::from_utf16_lossy(&units) };
        text += rest;
    }
    text
}

fn near_boxes(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "cur" | "new" | "tmp") || !entry.path().is_dir() {
            continue;
        }
        let full = format!("{prefix}{name}");
        if entry.path().join("cur").is_dir() {
            found.insert(full.clone());
        }
        near_boxes(&entry.path(), &format!("{full}/"), found);
    }
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn names_are_decoded() {
        for (name, text) in [
            ("Entw&APw-rfe", "Entwürfe"),
            ("&ZeVnLIqe-/x", "日本語/x"),
            ("A&-B", "A&B"),
            ("a", "a"),
        ] {
            assert_eq!(decoded(name), text);
        }
    }
}
