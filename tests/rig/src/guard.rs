//! Cleans up behind a test process that had no time to: killed, interrupted,
//! aborted. A shell waits for the end of a pipe that this process holds, then
//! ends what carries its marks and removes its directories.

use crate::process;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

const SCRIPT: &str = r#"
marks= limits= dirs=
while read -r kind value; do
    case $kind in
        mark) marks="$marks $value" ;;
        limit) limits="$limits $value" ;;
        dir) dirs="$dirs $value" ;;
    esac
done
# Stopped first: a supervisor that goes on starts anew what is killed before it.
[ -z "$marks" ] || for signal in STOP STOP STOP KILL KILL; do
    {
        printf '%s\n' $marks | grep -lsaF -f - /proc/[0-9]*/environ
        printf 'Max file locks  *%s \n' $limits | grep -ls -f - /proc/[0-9]*/limits
    } | while IFS=/ read -r _ _ pid _; do
        kill -s "$signal" "$pid"
    done
done
[ -z "$dirs" ] || rm -rf $dirs
"#;

// It outlives this process, so nobody here can wait for it.
#[allow(clippy::zombie_processes)]
fn tell(line: &str) {
    static GUARD: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", SCRIPT])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let child = process::spawn(&mut shell).expect("sh runs");
        Mutex::new(child.stdin.expect("stdin is piped"))
    });
    let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = guard.write_all(line.as_bytes());
}

/// Processes with this mark ([`process::marked`]) are to end with this one.
pub(crate) fn mark(text: &str) {
    tell(&format!("mark {text}\nlimit {}\n", process::limit_of(text)));
}

/// This directory is to go with this process, if it is still there.
pub(crate) fn directory(path: &Path) {
    tell(&format!("dir {}\n", path.display()));
}
