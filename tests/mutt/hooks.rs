//! The shipped hooks and the wrapper, with stand-ins for what they call.
#![allow(clippy::unwrap_used)]

use rig::{Home, run, wait_until};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(30);

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(file)
}

/// One message, from a sender and about something that would be markup, an
/// option, and a shell's business.
fn hook(home: &Home, file: &str) -> Command {
    let mut command = home.command(shipped(file));
    command
        .env("MUTT_SYNC_ACCOUNT", "Home")
        .env("MUTT_SYNC_BOX", "INBOX")
        .env("MUTT_SYNC_NEW", "1")
        .env("MUTT_SYNC_FROM", "--Ann $(id)")
        .env("MUTT_SYNC_SUBJECT", "<b>1 & 2</b> `id`")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/told");
    command
}

/// Logs the bus, then each argument on a line.
fn with_notify_send() -> Home {
    let home = Home::empty();
    home.program(
        "notify-send",
        "{ printf '%s\\n' \"$DBUS_SESSION_BUS_ADDRESS\" \"$@\"; echo .; } >>~/notes",
    );
    home
}

fn notes(home: &Home) -> usize {
    home.read("notes").lines().filter(|line| *line == ".").count()
}

#[test]
fn scripts_are_clean() {
    for script in ["hooks/notify-send", "hooks/notmuch-new", "mutt-then-sync"] {
        run(Command::new("shellcheck").args(["-s", "sh"]).arg(shipped(script)), SHORT * 3).ok();
    }
}

#[test]
fn a_notification_says_who_and_what() {
    let home = with_notify_send();
    run(&mut hook(&home, "hooks/notify-send"), SHORT).ok();
    let notes = home.read("notes");
    let want = "unix:path=/told\n--app-name=mutt-sync\n--icon=mail-unread\n\
                --category=email.arrived\n--\n--Ann $(id) (Home)\n\
                &lt;b&gt;1 &amp; 2&lt;/b&gt; `id`\n.\n";
    assert_eq!(notes, want);
    let mut several = hook(&home, "hooks/notify-send");
    run(several.env("MUTT_SYNC_NEW", "12").env("MUTT_SYNC_BOX", "Lists"), SHORT).ok();
    let notes = home.read("notes");
    assert!(notes.contains("\n12 new messages in Home/Lists\n--Ann $(id): &lt;b"), "{notes}");
}

#[test]
fn notifications_are_capped_and_muted() {
    let home = with_notify_send();
    let send = |key: &str, value: &str| {
        run(hook(&home, "hooks/notify-send").env(key, value), SHORT).ok();
    };
    send("MUTT_SYNC_MUTE", "1");
    send("MUTT_SYNC_NEW", "0");
    send("MUTT_SYNC_NEW", "");
    home.write(".config/mutt-sync/mute", "");
    send("A", "");
    assert_eq!(notes(&home), 0);
    std::fs::remove_file(home.path(".config/mutt-sync/mute")).unwrap();
    // A minute may end meanwhile: then five more are right.
    let minute = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 60;
    let start = minute();
    for _ in 0..12 {
        send("A", "");
    }
    if minute() == start {
        assert_eq!(notes(&home), 5);
        assert_eq!(home.read("notes").matches("(quiet for a minute)").count(), 1);
    } else {
        assert!((5..=10).contains(&notes(&home)), "{}", notes(&home));
    }
    // The next minute begins anew; nonsense in the file stops nothing.
    let noted = notes(&home);
    home.write(".local/state/mutt-sync/notified", "1 99\n");
    send("A", "");
    home.write(".local/state/mutt-sync/notified", "x y z");
    send("A", "");
    assert_eq!(notes(&home), noted + 2);
}

#[test]
fn the_bus_is_found_without_an_environment_and_missed_in_silence() {
    let home = with_notify_send();
    let bare = || {
        let mut command = hook(&home, "hooks/notify-send");
        command.env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.env("XDG_RUNTIME_DIR", home.path("run"));
        command
    };
    let output = run(&mut bare(), SHORT).ok();
    assert_eq!(output.stdout + &output.stderr, "");
    assert_eq!(notes(&home), 0);
    std::fs::create_dir(home.path("run")).unwrap();
    let _bus = UnixListener::bind(home.path("run/bus")).unwrap();
    run(&mut bare(), SHORT).ok();
    let bus = format!("unix:path={}\n", home.path("run/bus").display());
    assert!(home.read("notes").starts_with(&bus), "{}", home.read("notes"));
}

#[test]
fn notmuch_runs_alone_and_after_the_last_that_asked() {
    let home = Home::empty();
    home.program(
        "notmuch",
        "mkdir ~/busy || echo twice >>~/log\nls ~/asked | wc -l >>~/log\n\
         while ! [ -e ~/go ]; do sleep 0.02; done\nrmdir ~/busy",
    );
    std::fs::create_dir(home.path("asked")).unwrap();
    let children: Vec<_> = (0..8)
        .map(|n| {
            home.write(&format!("asked/{n}"), "");
            rig::spawn(&mut hook(&home, "hooks/notmuch-new")).unwrap()
        })
        .collect();
    wait_until(SHORT, "all but one wait", || {
        home.leftovers().iter().filter(|(_, line)| line.starts_with("flock ")).count() == 7
    });
    home.write("go", "");
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let log = home.read("log");
    assert!(!log.contains("twice"), "{log}");
    let seen: Vec<u32> = log.lines().map(|line| line.trim().parse().unwrap()).collect();
    // The second has seen all; the others asked in vain, for it ran for them.
    assert_eq!((seen.len(), seen.last()), (2, Some(&8)), "{log}");
}

#[test]
fn a_failed_notmuch_is_run_again_by_the_next() {
    let home = Home::empty();
    home.program("notmuch", "exit 1");
    run(&mut hook(&home, "hooks/notmuch-new"), SHORT).expect_code(1);
    assert!(home.path(".local/state/mutt-sync/notmuch.want").exists());
    // A daemon that its hooks leave behind does not hold the lock.
    home.program("notmuch", "echo ran >>~/log\nsleep 600 >/dev/null 2>&1 &");
    run(&mut hook(&home, "hooks/notmuch-new"), SHORT).ok();
    run(&mut hook(&home, "hooks/notmuch-new"), SHORT).ok();
    assert_eq!(home.read("log"), "ran\nran\n");
    drop(home);
}

#[test]
fn the_wrapper_syncs_after_mutt_and_passes_its_status_on() {
    let home = Home::empty();
    home.program("mutt", "echo \"mutt $*\" >>~/log; exit 3");
    home.program("neomutt", "echo \"neomutt $*\" >>~/log");
    home.program("mutt-sync", "echo \"sync $*\" >>~/log");
    run(home.command(shipped("mutt-then-sync")).args(["-f", "a b"]), SHORT).expect_code(3);
    run(home.command(shipped("mutt-then-sync")).env("MUTT", "neomutt"), SHORT).ok();
    wait_until(SHORT, "both", || home.read("log").lines().count() == 4);
    assert_eq!(home.read("log"), "mutt -f a b\nsync -b -f -a\nneomutt \nsync -b -f -a\n");
}
