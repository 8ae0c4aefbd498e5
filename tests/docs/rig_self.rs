//! The tests' own ground: what the others rest on is shown to hold, and to
//! fail when it should.

use rig::{
    Account, Delay, Home, Maildir, Mbsync, Running, Seeded, Server, ServerOptions, Signal,
    Terminal, Tls, compare, compare_boxes, message, mutt_sync, now_ns, process, run, run_all,
    wait_until,
};
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);

fn panics(what: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(what)).is_err()
}

#[test]
fn both_sides_are_equal_after_mbsync_and_a_difference_is_seen() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let mut imap = server.imap("home");
    let uid = imap.append("INBOX", &message("one", "body one"), &["\\Seen", "\\Flagged"]);
    imap.append("Archive", &message("two", "body two\n.\nlast"), &[]);
    imap.create("Lists/rust");
    imap.append("Lists/rust", &message("three", "körper"), &["$Forwarded"]);
    home.mbsync(&["Home"]).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
    let inbox = home.maildir("Home", "INBOX");
    let entry = inbox.find("body one");
    assert_eq!((entry.uid, entry.flags.as_str()), (Some(uid), "FS"));
    assert_eq!(server.logins("home"), 1);

    // Flags, a message too few, one too many, another body, a box on one side only.
    let differs = |imap: &mut rig::Imap, word: &str| {
        let diff = compare(imap, &home.mail("Home")).unwrap_err();
        assert!(diff.contains(word), "{diff}");
    };
    imap.select("INBOX");
    imap.remove_flags(uid, &["\\Seen"]);
    imap.unselect();
    differs(&mut imap, "server [F], disk [FS]");
    imap.select("INBOX");
    imap.expunge(uid);
    imap.unselect();
    differs(&mut imap, "server absent, disk [FS]");
    home.mbsync(&["Home"]).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert!(inbox.is_empty());
    inbox.add(&message("four", "saved"), "S");
    differs(&mut imap, "server absent, disk [S]");
    compare_boxes(&mut imap, &home.mail("Home"), &["Archive"]).unwrap();
    home.age();
    home.mbsync(&["Home"]).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
    assert_eq!(imap.find("INBOX", "saved").letters(), "S");
    let two = home.maildir("Home", "Archive").find("body two");
    std::fs::write(&two.path, String::from_utf8(message("two", "changed")).unwrap()).unwrap();
    differs(&mut imap, "Archive");
    home.maildir("Home", "Nowhere").create();
    differs(&mut imap, "Nowhere: not on the server");
}

#[test]
fn the_server_keeps_its_mail_and_port_over_kill_and_restart() {
    let mut server = Server::start();
    let port = server.port();
    let uid = server.imap("work").append("INBOX", &message("kept", "kept"), &[]);
    server.kill();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let start = Instant::now();
    server.restart();
    println!("dovecot starts in {:?}", start.elapsed());
    assert_eq!(server.port(), port);
    let mut imap = server.imap("work");
    assert_eq!(imap.find("INBOX", "kept").uid, uid);
    assert!(imap.capabilities().iter().any(|c| c == "NOTIFY"));
    assert_eq!(imap.list(), ["Archive", "Drafts", "INBOX", "Sent", "Trash"]);
    let status = imap.status("INBOX");
    assert_eq!((status.messages, status.unseen, status.uidnext), (1, 1, u64::from(uid) + 1));
    assert!(status.uidvalidity > 0 && status.highestmodseq > 0);
    imap.select("INBOX");
    imap.move_to(uid, "Archive");
    imap.unselect();
    assert_eq!(imap.fetch_all("INBOX"), []);
    assert_eq!(imap.fetch_all("Archive").len(), 1);
    assert_eq!(server.connections(), 0);
    let _user = rig::Imap::login(port, "work", &server.password("work"));
    assert_eq!(server.connections(), 1);
    assert_eq!(server.logins("work"), 1);
    assert!(panics(|| drop(rig::Imap::login(port, "work", "wrong"))));
    wait_until(SHORT, "the failed login in the log", || server.failed_logins() == 1);
}

#[test]
fn servers_differ_as_asked() {
    let server = Server::with(ServerOptions {
        notify: false,
        without: vec!["IDLE".to_owned(), "CONDSTORE".to_owned()],
        prefix: "INBOX.".to_owned(),
        separator: '.',
        format: "maildir".to_owned(),
        ..ServerOptions::default()
    });
    let mut imap = server.imap("home");
    let capabilities = imap.capabilities();
    for gone in ["IDLE", "CONDSTORE"] {
        assert!(!capabilities.iter().any(|c| c == gone), "{capabilities:?}");
    }
    assert!(capabilities.iter().any(|c| c == "UIDPLUS"), "{capabilities:?}");
    imap.append("INBOX.Sent", &message("sent", "sent"), &["\\Seen"]);
    let home = Home::on(&server, &["Home"]);
    home.mbsync(&["Home"]).ok();
    assert_eq!(home.maildir("Home", "Sent").len(), 1);
    compare(&mut imap, &home.mail("Home")).unwrap();
    let plain = Server::with(ServerOptions { notify: false, ..ServerOptions::default() });
    assert!(!plain.imap("home").capabilities().iter().any(|c| c == "NOTIFY"));
}

#[test]
fn tls_in_both_forms() {
    for tls in [Tls::Imaps, Tls::StartTls] {
        let server = Server::with(ServerOptions { tls, ..ServerOptions::default() });
        let home = Home::on(&server, &["Other"]);
        let mut imap = server.imap("other");
        imap.append("INBOX", &message("secret", "secret"), &[]);
        home.mbsync(&["Other"]).ok();
        compare(&mut imap, &home.mail("Other")).unwrap();
        assert_eq!(server.logins("other"), 1, "{}", server.log());
    }
}

#[test]
fn the_proxy_delays_counts_stalls_and_cuts() {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::from_millis(100));
    let mut imap = rig::Imap::login(delay.port(), "home", &server.password("home"));
    let start = Instant::now();
    imap.raw("NOOP");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert_eq!((delay.connections(), delay.open(), delay.peak()), (1, 1, 1));
    delay.set_round_trip(Duration::ZERO);
    delay.stall();
    let (sent, received) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        imap.raw("NOOP");
        let _ = sent.send(());
        imap
    });
    assert!(received.recv_timeout(Duration::from_millis(200)).is_err(), "a stalled link answers");
    delay.flow();
    received.recv_timeout(SHORT).unwrap();
    let mut imap = waiter.join().unwrap();
    delay.cut();
    assert!(panics(|| drop(imap.raw("NOOP"))));
    wait_until(SHORT, "the connection is gone", || delay.open() == 0);
    delay.refuse(true);
    let port = delay.port();
    assert!(panics(|| drop(rig::Imap::login(port, "home", "x"))));
    assert_eq!(delay.connections(), 2);
    let home = Home::with(vec![Account::on(&server, "Home").port(delay.port())]);
    assert_eq!(home.mbsync(&["Home"]).code(), 1);
    delay.refuse(false);
    home.mbsync(&["Home"]).ok();
}

#[test]
fn maildir_does_as_mutt_does() {
    let home = Home::empty();
    let (inbox, trash) =
        (Maildir::at(home.path("a")).create(), Maildir::at(home.path("b")).create());
    inbox.deliver(&message("new", "first"));
    inbox.add(&message("saved", "second"), "SF");
    let first = inbox.find("first");
    assert!(first.new && first.uid.is_none() && first.flags.is_empty());
    inbox.mark_old(&first);
    let first = inbox.find("first");
    assert!(!first.new && first.flags.is_empty());
    inbox.set_flags(&first, "SR");
    assert_eq!(inbox.find("first").flags, "RS");
    let second = inbox.find("second");
    assert_eq!(second.flags, "FS");
    inbox.move_to(&second, &trash);
    assert_eq!((inbox.len(), trash.len()), (1, 1));
    assert_eq!(trash.find("second").digest, second.digest);
    inbox.delete(&inbox.find("first"));
    assert!(inbox.is_empty());
}

#[test]
fn the_fake_mbsync_logs_waits_fails_and_sees_overlaps() {
    let home = Home::fake(&["Home", "Work"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.exit(1);
    mbsync.stderr("Error: channel X\n");
    let before = now_ns();
    let path = home.path(".mbsyncrc");
    let mut command = home.command("mbsync");
    command.args(["-q", "-c", path.to_str().unwrap(), "--", "Home:INBOX,Sent", "Work"]);
    let output = run(&mut command, SHORT).expect_code(1);
    assert_eq!(output.stderr, "Error: channel X\n");
    let runs = mbsync.runs();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].names(), ["Home:INBOX,Sent", "Work"]);
    assert_eq!(runs[0].accounts, ["Home", "Work"]);
    assert_eq!(runs[0].code, Some(1));
    assert!(runs[0].start >= before && runs[0].end.unwrap() >= runs[0].start);
    assert!(runs[0].env.iter().any(|var| var.starts_with("HOME=")));
    assert_eq!(runs[0].fds.len(), 3, "{:?}", runs[0].fds);
    assert!(run(home.command("mbsync").arg("--version"), SHORT).ok().stdout.contains("isync"));
    assert_eq!(mbsync.runs().len(), 1, "--version is no run");

    // Two of one account are an overlap, one of another is none.
    mbsync.clear_log();
    mbsync.forget("exit");
    mbsync.forget("stderr");
    mbsync.hold();
    let start = |name: &str| home.command("mbsync").arg(name).spawn().unwrap();
    let mut first = start("Home");
    mbsync.wait_for_starts(1, SHORT);
    let mut work = start("Work");
    mbsync.wait_for_starts(2, SHORT);
    mbsync.assert_alone();
    let mut second = start("Home-frequent");
    mbsync.wait_for_starts(3, SHORT);
    wait_until(SHORT, "the overlap is seen", || mbsync.overlaps().len() == 1);
    let overlap = &mbsync.overlaps()[0];
    assert_eq!((overlap.pid, overlap.other), (second.id(), first.id()));
    assert!(panics(|| mbsync.assert_alone()));
    // A killed one is not there any more, though its end is not in the log.
    first.kill().unwrap();
    first.wait().unwrap();
    mbsync.release();
    second.wait().unwrap();
    work.wait().unwrap();
    let runs = mbsync.runs_of("Home");
    assert_eq!(runs.iter().map(|run| run.end.is_some()).collect::<Vec<_>>(), [false, true]);
    run(home.command("mbsync").arg("Home"), SHORT).ok();
    assert_eq!(mbsync.overlaps().len(), 1);
    mbsync.wait_idle(SHORT);
}

#[test]
fn the_fake_mbsync_dies_of_term_unless_it_ignores_it_and_leaves_a_daemon_on_request() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.hold();
    let mut child = home.command("mbsync").arg("Home").spawn().unwrap();
    mbsync.wait_for_starts(1, SHORT);
    process::kill(child.id(), Signal::TERM);
    assert!(process::wait_gone(child.id(), SHORT));
    child.wait().unwrap();
    mbsync.ignore_term();
    let mut child = home.command("mbsync").arg("Home").spawn().unwrap();
    mbsync.wait_for_starts(2, SHORT);
    process::kill(child.id(), Signal::TERM);
    assert!(!process::wait_gone(child.id(), Duration::from_millis(100)));
    home.leftovers().iter().find(|(pid, _)| *pid == child.id()).expect("seen as left over");
    assert!(panics(|| home.assert_no_leftovers()));
    process::kill(child.id(), Signal::KILL);
    child.wait().unwrap();
    home.assert_no_leftovers();
    mbsync.release();
    mbsync.forget("ignore-term");
    mbsync.daemon();
    home.command("mbsync").arg("Home").status().unwrap();
    wait_until(SHORT, "a daemon", || home.leftovers().len() == 1);
    let daemon = home.leftovers()[0].0;
    assert!(process::command_line(daemon).contains("sleep"));
    drop(home);
    assert!(process::wait_gone(daemon, SHORT), "the home's end is the end of its processes");
}

/// mutt-sync lets nobody but root read its environment.
#[test]
fn what_hides_its_environment_is_found_by_its_mark_and_ends_with_its_home() {
    let (home, other) = (Home::fake(&["Home"]), Home::fake(&["Home"]));
    home.fake_mbsync();
    other.fake_mbsync();
    let start = |home: &Home| Running::start(home.cmd(&["--wait", "--loop", "-v", "Home"]));
    let (waiter, others) = (start(&home), start(&other));
    for waiter in [&waiter, &others] {
        waiter.wait_for("5 mailboxes", SHORT);
        let hidden = std::fs::read(format!("/proc/{}/environ", waiter.pid())).is_err();
        assert!(hidden || rig::is_root(), "its environment can be read");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", waiter.pid())).unwrap();
        let locks = limits.lines().find(|line| line.starts_with("Max file locks")).unwrap();
        assert!(!locks.contains("Max file locks            unlimited"), "{locks}");
    }
    let pids = |home: &Home| -> Vec<u32> {
        home.leftovers().into_iter().map(|(pid, _)| pid).filter(|p| process::alive(*p)).collect()
    };
    assert!(pids(&home).contains(&waiter.pid()) && !pids(&home).contains(&others.pid()));
    assert!(pids(&other).contains(&others.pid()) && !pids(&other).contains(&waiter.pid()));
    drop(home);
    assert!(process::wait_gone(waiter.pid(), SHORT));
    assert!(process::alive(others.pid()));
}

#[test]
fn the_real_mbsync_in_its_wrappers() {
    let server = Server::start();
    // So far away that mbsync is at work for a while.
    let delay = Delay::to(server.port(), Duration::from_millis(20));
    let home = Home::with(vec![Account::on(&server, "Home").port(delay.port())]);
    let mut mbsync: Mbsync = home.wrap_mbsync();
    for (slow, place) in [(0, "before"), (1, "middle"), (2, "after")] {
        mbsync.clear_log();
        for key in ["before", "middle", "after"] {
            mbsync.forget(key);
        }
        let time = Duration::from_millis(300);
        match slow {
            0 => mbsync.before(time),
            1 => mbsync.middle(time),
            _ => mbsync.after(time),
        }
        home.age();
        let output = run(home.command("mbsync").arg("Home"), Duration::from_secs(20)).ok();
        assert!(output.elapsed >= time, "{place}: {output}");
        let runs = mbsync.runs();
        assert_eq!(runs.len(), 1);
        assert!(runs[0].end.unwrap() - runs[0].start >= 300_000_000, "{place}");
    }
    compare(&mut server.imap("home"), &home.mail("Home")).unwrap();

    // Killed in mid-run it takes the real one along.
    mbsync.forget("after");
    mbsync.middle(Duration::from_secs(30));
    let mut child = home.command("mbsync").arg("Home").spawn().unwrap();
    wait_until(SHORT, "the real one runs", || {
        let real = rig::real_mbsync().display().to_string();
        process::descendants(child.id()).iter().any(|&p| process::command_line(p).contains(&real))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    home.wait_no_leftovers(SHORT);

    let mbsync = home.exec_mbsync();
    mbsync.clear_log();
    home.age();
    run(home.command("mbsync").arg("Home"), Duration::from_secs(20)).ok();
    assert_eq!(mbsync.runs().len(), 1);
    assert_eq!(mbsync.runs()[0].names(), ["Home"]);
}

#[test]
fn a_terminal_shows_mail_in_both_clients() {
    let home = Home::fake(&["Home"]);
    home.maildir("Home", "INBOX").deliver(&message("Greetings from afar", "hello"));
    home.muttrc("Home", "");
    for client in ["mutt", "neomutt"] {
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        let screen = terminal.wait_for("Greetings from afar", SHORT);
        assert!(screen.contains("Ada"), "{screen}");
        assert!(process::command_line(terminal.pid()).starts_with(client));
        terminal.text("F");
        terminal.keys(&["Enter"]);
        terminal.wait_for("hello", SHORT);
        terminal.text("qq");
        terminal.wait_end(SHORT);
        assert_eq!(home.maildir("Home", "INBOX").find("hello").flags.replace('F', ""), "S");
        home.assert_no_leftovers();
    }
    let terminal = Terminal::start(&home, &["sleep", "600"]);
    let pid = terminal.pid();
    drop(terminal);
    assert!(process::wait_gone(pid, SHORT), "the terminal's end is the end of its program");
}

#[test]
fn a_test_that_is_killed_leaves_nothing_either() {
    const NAME: &str = "rig_self::a_test_that_is_killed_leaves_nothing_either";
    if std::env::var_os("RIG_SELF_KILLED").is_some() {
        // In the process that is to be killed.
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        let terminal = Terminal::start(&home, &["sleep", "601"]);
        // A supervisor, which starts anew what ends, and is itself started anew.
        let starts = "while :; do sh -c 'sleep 0.01; while sleep 0.01; do :; done'; done";
        let mut waiter = home.command("setsid").args(["sh", "-c", starts]).spawn().unwrap();
        println!("\nREADY {} {} {}", terminal.pid(), waiter.id(), server.port());
        println!("HOME {}", home.path("").display());
        println!("MARK {}", home.mark());
        waiter.wait().unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("RIG_SELF_KILLED", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let ready = lines.find(|line| line.starts_with("READY ")).unwrap();
    let home = PathBuf::from(lines.next().unwrap().strip_prefix("HOME ").unwrap());
    let mark = lines.next().unwrap().strip_prefix("MARK ").unwrap().to_owned();
    let numbers: Vec<u32> = ready.split(' ').filter_map(|word| word.parse().ok()).collect();
    let port = u16::try_from(numbers[2]).unwrap();
    assert!(process::alive(numbers[0]) && process::alive(numbers[1]) && home.is_dir());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(SHORT, "all of it is gone", || {
        !process::alive(numbers[0])
            && !process::alive(numbers[1])
            && process::marked(&mark).is_empty()
            && !home.exists()
            && std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}

#[test]
fn commands_are_bounded_and_observed() {
    let home = Home::empty();
    let output = run(home.command("sh").args(["-c", "echo out; echo err >&2; exit 3"]), SHORT);
    assert_eq!((output.code(), &*output.stdout, &*output.stderr), (3, "out\n", "err\n"));
    assert!(panics(|| drop(run(home.command("sleep").arg("600"), Duration::from_millis(100)))));
    // A child that keeps the output open is what would block mutt.
    let held =
        || drop(run(home.command("sh").args(["-c", "sleep 600 &"]), Duration::from_millis(200)));
    assert!(panics(held));
    home.wait_no_leftovers(SHORT);
    let env = run(&mut home.command("env"), SHORT).ok().stdout;
    assert!(env.contains(&format!(
        "HOME={}\n",
        home.path("").display().to_string().trim_end_matches('/')
    )));
    assert!(!env.contains("CARGO"), "{env}");
    let opened = process::trace(&home.command("true"), "openat", SHORT);
    assert!(opened.iter().any(|line| line.starts_with("openat(")), "{opened:?}");
    assert!(process::syscalls(&home.command("true"), SHORT)["execve"] >= 1);
    assert!(mutt_sync().is_file());
    let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
    assert!(process::alive(sleeper.id()) && process::threads(sleeper.id()) == 1);
    assert!(process::open_fds(sleeper.id()).len() >= 3);
    wait_until(SHORT, "it is up", || process::private_kib(sleeper.id()) > 0);
    assert!(process::children(std::process::id()).contains(&sleeper.id()));
    sleeper.kill().unwrap();
    assert!(process::wait_gone(sleeper.id(), SHORT) && !process::alive(sleeper.id()));
    sleeper.wait().unwrap();
}

#[test]
fn many_at_once_and_one_under_way() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    let commands = (0..20).map(|_| {
        let mut command = home.command("mbsync");
        command.arg("Home");
        command
    });
    assert_eq!(run_all(commands.collect(), SHORT).len(), 20);
    assert_eq!(mbsync.runs().len(), 20);
    let mut command = home.command("sh");
    command.args(["-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"]);
    let running = Running::start(command);
    running.wait_for("ready", SHORT);
    assert!(running.runs());
    running.signal(Signal::TERM);
    let output = running.wait(SHORT).expect_code(5);
    assert_eq!(output.stdout, "ready\nbye\n");
    let running = Running::start({
        let mut command = home.command("sh");
        command.args(["-c", "sleep 603; true"]);
        command
    });
    drop(running);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn many_messages() {
    let server = Server::start();
    let mut imap = server.imap("home");
    let messages: Vec<_> = (0..1200).map(|n| message(&format!("m{n}"), "b")).collect();
    imap.append_many("Archive", &messages, &["\\Seen"]);
    assert_eq!(imap.status("Archive").messages, 1200);
    let home = Home::on(&server, &["Home"]);
    home.mbsync(&["Home"]).ok();
    compare(&mut imap, &home.mail("Home")).unwrap();
}

#[test]
fn chance_repeats() {
    let draw = |seed| {
        let mut rng = Seeded::from_env_or(seed);
        (0..5).map(|_| *rng.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9])).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    sleep(Duration::from_millis(1));
}
