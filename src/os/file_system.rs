//! Kinds of file systems, by their magic numbers (`linux/magic.h`), and whose clock
//! stamps their files.
//!
//! Another system has the name in its `statfs`. Does not depend on: what is stored there.

use std::path::Path;

/// The kind of file system that a path is on: its name, or its number in hexadecimal.
///
/// # Errors
/// As statfs(2).
pub fn kind(path: &Path) -> std::io::Result<String> {
    let found = rustix::fs::statfs(path)?;
    Ok(kind_of(&format!("{:x}", found.f_type)))
}

fn kind_of(magic: &str) -> String {
    let known = match magic {
        "ef53" => "ext",
        "58465342" => "xfs",
        "9123683e" => "btrfs",
        "f2f52010" => "f2fs",
        "2fc12fc1" => "zfs",
        "ca451a4e" => "bcachefs",
        "1021994" => "tmpfs",
        "794c7630" => "overlay",
        "f15f" => "ecryptfs",
        "6969" => "nfs",
        "517b" | "ff534d42" | "fe534d42" => "cifs",
        "65735546" => "fuse",
        "1021997" => "9p",
        "4d44" => "fat",
        _ => return format!("0x{magic}"),
    };
    known.to_owned()
}

/// Whether a change to a directory is bound to show in its time stamps, judged by this
/// machine's clock. Those of a file server are from another clock, may be in whole
/// seconds, and may come from a cache; FAT keeps one in two seconds and no change time.
#[must_use]
pub fn has_exact_stamps(path: &Path) -> bool {
    kind(path).is_ok_and(|kind| is_exact(&kind))
}

fn is_exact(kind: &str) -> bool {
    !matches!(kind, "nfs" | "cifs" | "fuse" | "9p" | "fat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_a_file_server_are_not_exact() {
        let found = |magic: u32| {
            let kind = kind_of(&format!("{magic:x}"));
            let exact = is_exact(&kind);
            (kind, exact)
        };
        for (magic, kind) in [
            (0x6969, "nfs"),
            (0x517b, "cifs"),
            (0xff53_4d42, "cifs"),
            (0xfe53_4d42, "cifs"),
            (0x6573_5546, "fuse"),
            (0x0102_1997, "9p"),
            (0x4d44, "fat"),
        ] {
            assert_eq!(found(magic), (kind.to_owned(), false));
        }
        for (magic, kind) in [(0xef53, "ext"), (0x0102_1994, "tmpfs"), (0x1234, "0x1234")] {
            assert_eq!(found(magic), (kind.to_owned(), true));
        }
        assert!(!has_exact_stamps(Path::new("/no/such/directory")));
    }
}
