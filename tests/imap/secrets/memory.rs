//! The canary in the waiter's memory: there while the login lasts, gone when it
//! is over; and nobody but root can look.

use super::SOON;
use super::fake::{Fake, Keys, RunOptions};
use super::look::contains;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rig::{Account, Home, Running, is_root, wait_until};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

const SECRET: &str = "there-Hq9VbXe5MgUw7Cla";

/// How many mappings of the process that can be written hold each of these.
/// `None`: they may not be read.
fn found(pid: u32, needles: &[(String, Vec<u8>)]) -> Option<Vec<(String, usize)>> {
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut counts: Vec<(String, usize)> =
        needles.iter().map(|(name, _)| (name.clone(), 0)).collect();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).ok()?.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next()?, fields.next()?);
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        memory.seek(SeekFrom::Start(from)).ok()?;
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        for ((_, needle), (_, count)) in needles.iter().zip(&mut counts) {
            *count += usize::from(contains(&bytes, needle));
        }
    }
    Some(counts)
}

/// Whether to go on: only root may read the memory of a process that is not
/// dumpable. For an ordinary user the test runs again, as root of a user namespace,
/// and what it starts there belongs to that root.
#[track_caller]
fn may_read_memory(test: &str) -> bool {
    if !is_root() {
        let mut again = Command::new("unshare");
        again.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
        again.args(["--exact", &format!("secrets::memory::{test}"), "--nocapture"]);
        let again = rig::run(&mut again, SOON * 4).ok();
        assert!(again.stdout.contains("1 passed"), "{again}");
    }
    is_root()
}

/// What is looked for, by name, and whether the login makes it at all.
fn needles(mechanism: &str) -> Vec<(String, Vec<u8>)> {
    let mut needles = vec![("the password".to_owned(), SECRET.as_bytes().to_vec())];
    let mut add = |name: &str, bytes: Vec<u8>| needles.push((name.to_owned(), bytes));
    match mechanism {
        "PLAIN" => {
            add("PLAIN's base64", STANDARD.encode(format!("\0home\0{SECRET}")).into_bytes());
        }
        "XOAUTH2" => {
            let text = format!("user=home\u{1}auth=Bearer {SECRET}\u{1}\u{1}");
            add("XOAUTH2's base64", STANDARD.encode(text).into_bytes());
        }
        "SCRAM-SHA-256" => {
            let keys = Keys::of(SECRET);
            add("the salted password", keys.salted);
            add("the client key", keys.client);
            add("the server key", keys.server);
        }
        _ => {}
    }
    needles
}

#[test]
fn g11_the_waiter_forgets_the_password_after_login() {
    if !may_read_memory("g11_the_waiter_forgets_the_password_after_login") {
        return;
    }
    for mechanism in ["LOGIN", "PLAIN", "XOAUTH2", "SCRAM-SHA-256"] {
        let fake = Fake::start(RunOptions::Accept { password: SECRET.to_owned() });
        let home =
            Home::with(vec![Account::fake("Home").port(fake.port()).pass_cmd("cat ~/password")]);
        home.write("password", &format!("{SECRET}\nsecond\n"));
        home.fake_mbsync();
        home.settings("settle = \"200ms\"\n");
        let file =
            home.read(".mbsyncrc").replace("AuthMechs LOGIN", &format!("AuthMechs {mechanism}"));
        home.write(".mbsyncrc", &file);
        let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
        wait_until(SOON, &format!("{mechanism} is said: {waiter}"), || fake.said() == 1);
        let needles = needles(mechanism);
        let during = found(waiter.pid(), &needles).expect("root can read it");
        // What was in use is there, or nothing could be shown.
        assert!(during[0].1 > 0, "{mechanism}: not even during the login: {during:?}");
        fake.open();
        wait_until(SOON, "the next command", || fake.after() == 1);
        let after = found(waiter.pid(), &needles).unwrap();
        println!("{mechanism}: during {during:?}, after {after:?}");
        assert!(after.iter().all(|(_, count)| *count == 0), "{mechanism}: {after:?}");
    }
}

/// A password in the file is kept as long as the file is believed: once, with
/// what else the file says, and not in what was read to get there.
#[test]
fn g11_a_password_in_the_file_is_in_memory_in_one_place() {
    if !may_read_memory("g11_a_password_in_the_file_is_in_memory_in_one_place") {
        return;
    }
    let fake = Fake::start(RunOptions::Accept { password: SECRET.to_owned() });
    fake.open();
    let home = Home::with(vec![Account::fake("Home").port(fake.port()).login("home", SECRET)]);
    home.fake_mbsync();
    let waiter = Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    wait_until(SOON, &format!("it is in: {waiter}"), || fake.after() == 1);
    let all = |pid: u32| -> Option<usize> {
        let mut places = 0;
        let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
        for line in fs::read_to_string(format!("/proc/{pid}/maps")).ok()?.lines() {
            let Some((range, rest)) = line.split_once(' ') else { continue };
            if !rest.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-')?;
            let from = u64::from_str_radix(from, 16).ok()?;
            let to = u64::from_str_radix(to, 16).ok()?;
            let mut bytes = vec![0; usize::try_from(to - from).ok()?];
            memory.seek(SeekFrom::Start(from)).ok()?;
            if memory.read_exact(&mut bytes).is_ok() {
                places += bytes.windows(SECRET.len()).filter(|w| *w == SECRET.as_bytes()).count();
            }
        }
        Some(places)
    };
    let places = all(waiter.pid()).expect("root can read it");
    assert_eq!(places, 1, "the file's own word and no copy of it");
}

/// Nobody but root reads the memory or takes a core dump: the kernel gives a
/// process's directory in /proc to root when it is not dumpable.
#[test]
fn g11_the_process_is_not_dumpable() {
    const NOBODY: u32 = 65534;
    let fake = Fake::start(RunOptions::Accept { password: SECRET.to_owned() });
    let home = Home::with(vec![Account::fake("Home").port(fake.port()).login("home", SECRET)]);
    home.fake_mbsync();
    // The programs where anybody may run them, and all of it another user's if
    // this is root: root's processes look the same either way.
    for name in ["mutt-sync", "mutt-sync-net"] {
        fs::copy(rig::mutt_sync().with_file_name(name), home.path(&format!("bin/{name}"))).unwrap();
    }
    let as_user = |command: &mut Command| {
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    if is_root() {
        give(&home.path(""), NOBODY);
    }
    let mut waiting = home.command(home.path("bin/mutt-sync"));
    waiting.args(["--wait", "--loop", "-v", "Home"]);
    let mut other = home.command("sleep");
    other.arg("100");
    as_user(&mut waiting);
    as_user(&mut other);
    let waiter = Running::start(waiting);
    let other = Running::start(other);
    wait_until(SOON, &format!("a login is said: {waiter}"), || fake.said() == 1);
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid();
    let user = if is_root() { NOBODY } else { rustix::process::geteuid().as_raw() };
    assert_eq!(owner(other.pid()), user, "another process is its user's");
    assert_eq!(owner(waiter.pid()), 0, "the waiter is nobody's");

    // The core that another process leaves, where this machine lets it leave one.
    let core = |args: &[&str], ready: &dyn Fn() -> bool| {
        let mut command = home.command("sh");
        command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).args(args);
        as_user(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(SOON, "it is at work", ready);
        rig::process::kill(child.id(), rig::Signal::ABORT);
        child.wait().unwrap()
    };
    drop(waiter);
    let before = fake.said();
    let program = home.path("bin/mutt-sync").display().to_string();
    let ours = core(&[&program, "--wait", "--loop", "Home"], &|| fake.said() > before);
    assert_eq!(ours.signal(), Some(6));
    assert!(!ours.core_dumped(), "a core was dumped");
    let ready = home.path("ready").display().to_string();
    let script = format!("touch {ready}; exec sleep 100");
    let theirs = core(&["sh", "-c", &script], &|| home.path("ready").exists());
    assert_eq!(theirs.signal(), Some(6));
    println!("another process does leave a core: {}", theirs.core_dumped());
}

fn give(dir: &std::path::Path, to: u32) {
    std::os::unix::fs::chown(dir, Some(to), Some(to)).unwrap();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            give(&entry.path(), to);
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(to), Some(to)).unwrap();
        }
    }
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
}
