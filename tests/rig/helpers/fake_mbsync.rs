//! A stand-in for mbsync, or a wrapper around the real one, that writes down when
//! it ran. `control`, beside the link that it is started by, tells it what to
//! do; `log` in the same place is what it leaves.
//!
//! Knows nothing of mutt-sync; and of mbsync only how its command line is read.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, exit};
use std::thread::sleep;
use std::time::Duration;

/// Which directory this was started from: mbsync is a link there, and what it
/// points to is shared by all.
fn place() -> PathBuf {
    let name = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if name.components().count() > 1 {
        return name.parent().map(Path::to_path_buf).unwrap_or_default();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).find(|dir| dir.join(&name).exists()).unwrap_or_default()
}

/// Nanoseconds of the monotonic clock, comparable between processes. The
/// standard library has that clock but keeps the number to itself.
#[allow(unsafe_code)]
fn now_ns() -> i64 {
    use std::ffi::{c_int, c_long};
    #[repr(C)]
    struct Timespec {
        sec: c_long,
        nsec: c_long,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    }
    let mut time = Timespec { sec: 0, nsec: 0 };
    // SAFETY: the pointer is to a live value of the layout that libc's
    // clock_gettime fills in; 1 is CLOCK_MONOTONIC on Linux.
    unsafe { clock_gettime(1, &raw mut time) };
    #[allow(clippy::unnecessary_cast)]
    {
        time.sec as i64 * 1_000_000_000 + time.nsec as i64
    }
}

fn one_line(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

fn log(place: &Path, fields: &[&str]) {
    let line = fields.iter().map(|field| one_line(field)).collect::<Vec<_>>().join("\t") + "\n";
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(place.join("log")) {
        // One write of one line: O_APPEND keeps lines of several processes apart.
        let _ = file.write_all(line.as_bytes());
    }
}

/// Start time in clock ticks, and whether the process is one that still runs.
fn running(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let state = fields.first()?;
    if *state == "Z" || *state == "X" { None } else { fields.get(19).map(ToString::to_string) }
}

/// The channels and groups on the command line; `None`: it asks for no run.
fn names(args: &[String]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = args.iter();
    let mut options = true;
    while let Some(arg) = rest.next() {
        if options && arg == "--" {
            options = false;
        } else if options && arg.len() > 1 && arg.starts_with('-') {
            match arg.as_str() {
                "--version" | "-v" | "--help" | "-h" | "-l" | "--list" | "-ls" => return None,
                "-c" | "--config" => drop(rest.next()),
                "-a" | "--all" => names.push("*".to_owned()),
                _ => {}
            }
        } else {
            options = false;
            names.push(arg.split(':').next().unwrap_or_default().to_owned());
        }
    }
    if names.is_empty() { None } else { Some(names) }
}

struct Control(Vec<(String, String)>);

impl Control {
    fn read(place: &Path) -> Self {
        let text = fs::read_to_string(place.join("control")).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('\t')?;
            let value = value.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\");
            Some((key.to_owned(), value))
        });
        Control(pairs.collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn seconds(&self, key: &str) -> Option<Duration> {
        self.get(key)?.parse().ok().map(Duration::from_secs_f64)
    }

    fn accounts(&self, names: &[String]) -> Vec<String> {
        let mut accounts: Vec<String> = Vec::new();
        for name in names {
            let told = |(key, value): &(String, String)| {
                let (channel, account) = value.split_once('=')?;
                (key == "account" && (name == "*" || channel == name)).then(|| account.to_owned())
            };
            let mut mapped: Vec<String> = self.0.iter().filter_map(told).collect();
            if mapped.is_empty() {
                mapped.push(name.clone());
            }
            accounts.append(&mut mapped);
        }
        accounts.sort();
        accounts.dedup();
        accounts
    }
}

/// Writes down every run of the same account that is alive now. Our own start
/// is in the log already, so of two that start together one sees the other.
fn note_overlaps(place: &Path, me: &str, accounts: &[String]) {
    let text = fs::read_to_string(place.join("log")).unwrap_or_default();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let ended = |pid: &str| lines.iter().any(|l| l[0] == "end" && l.get(1) == Some(&pid));
    for line in &lines {
        let ["start", pid, _, ticks, theirs, ..] = line[..] else { continue };
        let shared = theirs.split(' ').any(|a| accounts.iter().any(|mine| mine == a));
        if pid != me && shared && !ended(pid) && running(pid).as_deref() == Some(ticks) {
            log(place, &["OVERLAP", me, &now_ns().to_string(), pid, &accounts.join(" ")]);
        }
    }
}

fn send(signal: &str, pid: u32) {
    let _ = Command::new("/bin/sh").arg("-c").arg(format!("kill -{signal} {pid}")).status();
}

/// The real mbsync as a child that does not outlive this process.
fn real(control: &Control, args: &[String]) -> Command {
    let real = control.get("real").unwrap_or("/usr/bin/mbsync");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", real]).args(args);
    command
}

/// Waits until the child is mbsync and has a socket; false if it ended before that.
fn connected(child: &mut Child) -> bool {
    let place = format!("/proc/{}", child.id());
    // Stopped as setpriv, which may have inherited a socket, it would outlive us.
    let is_mbsync = || fs::read_to_string(format!("{place}/comm")).is_ok_and(|c| c != "setpriv\n");
    let socket = |entry: fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        let fds = fs::read_dir(format!("{place}/fd"));
        if is_mbsync() && fds.is_ok_and(|dir| dir.flatten().any(socket)) {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// In a wrapper: waits here, if this is the place to wait at, until the gate is open.
fn held(place: &Path, control: &Control, here: &str, pid: &str) {
    if control.get("hold") != Some(here) || !place.join("gate").exists() {
        return;
    }
    log(place, &["held", pid, here]);
    while place.join("gate").exists() {
        sleep(Duration::from_millis(2));
    }
}

fn wait(child: &mut Child) -> i32 {
    child.wait().ok().map_or(1, |status| {
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    })
}

fn main() {
    let place = place();
    let control = Control::read(&place);
    let args: Vec<String> =
        env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let wrap = control.get("wrap");

    let Some(names) = names(&args) else {
        if wrap.is_some() {
            let real = control.get("real").unwrap_or("/usr/bin/mbsync");
            let error = Command::new(real).args(&args).exec();
            eprintln!("{real}: {error}");
            exit(1);
        }
        println!("{}", control.get("version").unwrap_or("isync 1.4.4"));
        exit(0);
    };

    // Ignored signals stay ignored over an exec; so a shell makes us ignore TERM.
    if control.get("ignore-term").is_some() && env::var_os("RIG_FAKE_IGNORES_TERM").is_none() {
        let error = Command::new("/bin/sh")
            .args(["-c", r#"trap "" TERM INT HUP; exec "$0" "$@""#])
            .arg(place.join("mbsync"))
            .args(&args)
            .env("RIG_FAKE_IGNORES_TERM", "1")
            .exec();
        eprintln!("sh: {error}");
        exit(1);
    }

    let pid = std::process::id().to_string();
    let accounts = control.accounts(&names);
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .map(|dir| {
            dir.flatten()
                .filter_map(|entry| {
                    let target = fs::read_link(entry.path()).ok()?;
                    let target = target.to_string_lossy().into_owned();
                    // The directory that is just being read.
                    (!target.ends_with("/fd"))
                        .then(|| format!("{} {target}", entry.file_name().to_string_lossy()))
                })
                .collect()
        })
        .unwrap_or_default();
    fds.sort();
    let env: Vec<String> = env::vars_os()
        .map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy()))
        .collect();
    let (fds, env, argv) = (fds.join("\x1f"), env.join("\x1f"), args.join("\x1f"));
    let ticks = running(&pid).unwrap_or_default();
    let start = now_ns().to_string();
    log(&place, &["start", &pid, &start, &ticks, &accounts.join(" "), &argv, &fds, &env]);
    note_overlaps(&place, &pid, &accounts);

    if let Some(time) = control.seconds("before") {
        sleep(time);
    }
    held(&place, &control, "before", &pid);
    let mut code = 0;
    match wrap {
        Some("exec") => {
            let real = control.get("real").unwrap_or("/usr/bin/mbsync");
            let error = Command::new(real).args(&args).exec();
            eprintln!("{real}: {error}");
            exit(1);
        }
        Some(_) => match real(&control, &args).spawn() {
            Ok(mut child) => {
                let time = control.seconds("middle");
                let stops = time.is_some() || control.get("hold") == Some("middle");
                if stops && connected(&mut child) {
                    send("STOP", child.id());
                    sleep(time.unwrap_or_default());
                    held(&place, &control, "middle", &pid);
                    send("CONT", child.id());
                }
                code = wait(&mut child);
            }
            Err(error) => {
                eprintln!("setpriv: {error}");
                code = 1;
            }
        },
        None => {
            if let Some(script) = control.get("act") {
                let _ = Command::new("/bin/sh").args(["-c", script]).status();
            }
            if let Some(text) = control.get("stdout") {
                print!("{text}");
                let _ = std::io::stdout().flush();
            }
            if let Some(text) = control.get("stderr") {
                eprint!("{text}");
            }
            if let Some(bytes) = control.get("flood").and_then(|n| n.parse::<u64>().ok()) {
                let line = [b'x'; 1024];
                for _ in 0..bytes / 1024 {
                    let _ = std::io::stderr().write_all(&line);
                }
            }
            if control.get("daemon").is_some() {
                // Keeps every descriptor that we have, as gpg-agent would.
                let _ = Command::new("setsid").args(["sleep", "600"]).spawn();
            }
            while place.join("gate").exists() {
                sleep(Duration::from_millis(2));
            }
            if let Some(status) = control.get("exit").and_then(|n| n.parse().ok()) {
                code = status;
            }
        }
    }
    held(&place, &control, "after", &pid);
    if let Some(time) = control.seconds("after") {
        sleep(time);
    }
    log(&place, &["end", &pid, &now_ns().to_string(), &code.to_string()]);
    if let Some(signal) = control.get("signal") {
        send(signal, std::process::id());
        sleep(Duration::from_secs(5));
    }
    exit(code);
}
