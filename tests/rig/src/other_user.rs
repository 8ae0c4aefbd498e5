//! Another user of the machine, who tries to get at a process.
//!
//! Credentials belong to threads, so one thread of the test becomes `nobody` and
//! really tries; the rest stays who it was. Only root can do that.

use crate::process::{open_fds, run};
use rustix::process::{Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid, pidfd_getfd, pidfd_open};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// `nobody` and `nogroup` on Debian.
const NOBODY: u32 = 65534;

/// Whether this test can become another user.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Does this as `nobody`.
#[track_caller]
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let fallen = || {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[]).expect("setgroups");
        set_thread_res_gid(gid, gid, gid).expect("setresgid");
        set_thread_res_uid(uid, uid, uid).expect("setresuid");
        work()
    };
    thread::scope(|scope| scope.spawn(fallen).join().expect("see above"))
}

/// What `nobody` can do to this process, of all that would let him read what it
/// reads, or speak in its place.
#[track_caller]
pub fn reached_by_nobody(pid: u32) -> Vec<String> {
    // Seen by root: he need not find out the numbers himself.
    let fds = open_fds(pid);
    assert!(!fds.is_empty(), "process {pid} has no open descriptor");
    let at = |what: &str| format!("/proc/{pid}/{what}");
    as_nobody(|| {
        let mut reached = Vec::new();
        let mut tried = |what: String, done: bool| {
            if done {
                reached.push(what);
            }
        };
        tried("its descriptors listed".into(), fs::read_dir(at("fd")).is_ok());
        for (number, _) in &fds {
            let path = at(&format!("fd/{number}"));
            tried(format!("descriptor {number} opened"), File::open(&path).is_ok());
            let written = File::options().write(true).open(&path).is_ok();
            tried(format!("descriptor {number} opened to write"), written);
            tried(format!("descriptor {number} named"), fs::read_link(&path).is_ok());
        }
        for file in ["environ", "mem", "maps", "auxv"] {
            tried(format!("{file} read"), File::open(at(file)).is_ok());
        }
        for link in ["cwd", "root", "exe"] {
            tried(format!("{link} named"), fs::read_link(at(link)).is_ok());
        }
        let raw = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        tried("signalled".into(), rustix::process::test_kill_process(raw).is_ok());
        // Anybody may have a handle to it; what counts is what comes of it.
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).expect("pidfd_open");
        for (number, _) in &fds {
            let taken = pidfd_getfd(&pidfd, *number, PidfdGetfdFlags::empty());
            tried(format!("descriptor {number} taken"), taken.is_ok_and(|fd| fd.as_raw_fd() >= 0));
        }
        let mut trace = Command::new("timeout");
        trace.args(["1", "strace", "-qq", "-o", "/dev/null", "-p", &pid.to_string()]);
        let traced = run(&mut trace, Duration::from_secs(30));
        tried("traced".into(), traced.code() == 124);
        let refused = traced.stderr.contains("ptrace") || traced.stderr.contains("attach");
        assert!(traced.code() == 124 || refused, "strace was not refused: {traced}");
        reached
    })
}
