//! How long the commands take that mutt waits for: whole processes, beside an
//! empty program and what a shell script would do, all interleaved in one run.
//!
//! `cargo bench --bench start`; `ROUNDS=1000` for more rounds than 300, and
//! `OLDER=PATH/mutt-sync` for an older version in the same rounds.

#![allow(clippy::unwrap_used)]

use fs2::FileExt as _;
use rig::Home;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What holds while a command is timed.
#[derive(Clone, Copy, PartialEq)]
enum Conditions {
    Nothing,
    /// A waiter lives.
    Waiter,
    /// Another process holds the queue.
    Queue,
    /// What the command leaves behind is waited for afterwards.
    Child,
}

struct Case {
    name: &'static str,
    command: Command,
    /// The same by an older version.
    older: Option<Command>,
    conditions: Conditions,
    /// At most so many times the empty main, and the shell's touch.
    budget: Option<(f64, f64)>,
    times: Vec<Duration>,
    older_times: Vec<Duration>,
}

/// A program that does nothing, with these libraries loaded.
fn empty_main(dir: &Path, name: &str, libraries: &[&str]) -> PathBuf {
    let (source, program) = (dir.join("empty.rs"), dir.join(name));
    std::fs::write(&source, "fn main() {}\n").unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "-Copt-level=3", "-Clto=fat", "-Cstrip=symbols", "-o"]);
    command.arg(&program).arg(&source).arg("-Clink-arg=-Wl,--no-as-needed");
    for library in libraries {
        command.arg(format!("-Clink-arg=-l{library}"));
    }
    assert!(command.status().unwrap().success());
    program
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.spawn().unwrap().wait().unwrap();
    let took = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn lock(home: &Home, name: &str) -> File {
    let file = File::create(home.state("Home").join(name)).unwrap();
    file.lock_exclusive().unwrap();
    file
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn main() {
    let home = Home::fake(&["Home", "Work"]);
    home.settings("throttle = \"0s\"\nsettle = \"0s\"");
    let _mbsync = home.fake_mbsync();
    home.mutt_sync(&["-a"]).ok();
    let file = home.path("F").display().to_string();
    let empty = empty_main(&home.path("tmp"), "empty", &[]);
    // What TLS costs before the first line of ours runs.
    let with_ssl = empty_main(&home.path("tmp"), "ssl", &["ssl", "crypto"]);
    let older = rig::older_mutt_sync();
    let case = |name, mut command: Command, conditions, budget| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let ours = command.get_program() == rig::mutt_sync();
        let older = older.as_ref().filter(|_| ours).map(|program| {
            let mut older = home.command(program);
            older.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
            older
        });
        let (times, older_times) = (Vec::new(), Vec::new());
        Case { name, command, older, conditions, budget, times, older_times }
    };
    let plain = |program: &Path, args: &[&str]| {
        let mut command = home.command(program);
        command.args(args);
        command
    };
    let ours = |args: &[&str]| home.cmd(args);
    let touch = format!("touch {file}");
    let (quick, child) = (Some((2.5, 1.2)), Some((3.5, 1.8)));
    let mut cases = [
        case("empty Rust main", plain(&empty, &[]), Conditions::Nothing, None),
        case(
            "sh -c 'touch F'",
            plain("/bin/sh".as_ref(), &["-c", &touch]),
            Conditions::Nothing,
            None,
        ),
        case(
            "flock -n F true",
            plain("flock".as_ref(), &["-n", &file, "true"]),
            Conditions::Nothing,
            None,
        ),
        case("empty Rust main, libssl", plain(&with_ssl, &[]), Conditions::Nothing, None),
        case("mutt-sync --version", ours(&["--version"]), Conditions::Nothing, None),
        case("mutt-sync -b, waiter alive", ours(&["-b", "Home"]), Conditions::Waiter, quick),
        case("mutt-sync -b, one serving", ours(&["-b", "Home"]), Conditions::Queue, quick),
        case("mutt-sync -b, leaves a child", ours(&["-b", "Home"]), Conditions::Child, child),
        case("mutt-sync --status-line", ours(&["--status-line", "%f"]), Conditions::Nothing, quick),
        case("mutt-sync --status", ours(&["--status"]), Conditions::Nothing, None),
    ];
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    for round in 0..rounds + 10 {
        for Case { command, older, conditions, times, older_times, .. } in &mut cases {
            let mut both = [(Some(command), times), (older.as_mut(), older_times)];
            // Each is as often the first one after something else.
            if round % 2 == 1 {
                both.reverse();
            }
            for (command, times) in both {
                let Some(command) = command else { continue };
                let held = match conditions {
                    Conditions::Waiter => Some(lock(&home, "waiter.lock")),
                    Conditions::Queue => Some(lock(&home, "queue.lock")),
                    Conditions::Nothing | Conditions::Child => None,
                };
                let took = time(command);
                drop(held);
                if *conditions == Conditions::Child {
                    home.wait_no_leftovers(Duration::from_secs(20));
                }
                // The first ones fill caches.
                if round >= 10 {
                    times.push(took);
                }
            }
        }
    }
    let medians: Vec<f64> = cases.iter_mut().map(|case| median(&mut case.times)).collect();
    println!("{rounds} rounds, medians of whole processes");
    let heading = if older.is_some() { "older µs" } else { "" };
    println!("{:<30} {:>8} {:>8} {:>8} {heading:>8}  budget", "", "µs", "×empty", "×touch");
    for (case, took) in cases.iter_mut().zip(&medians) {
        let ratios = (took / medians[0], took / medians[1]);
        let budget = case.budget.map_or(String::new(), |(empty, touch)| {
            let kept = ratios.0 <= empty && ratios.1 <= touch;
            format!("{empty} and {touch}: {}", if kept { "kept" } else { "missed" })
        });
        let older = match &mut case.older_times {
            times if times.is_empty() => String::new(),
            times => format!("{:.0}", median(times)),
        };
        println!(
            "{:<30} {took:>8.0} {:>8.2} {:>8.2} {older:>8}  {budget}",
            case.name, ratios.0, ratios.1
        );
    }
}
