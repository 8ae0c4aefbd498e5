//! Parts of the guarantees that could be broken without another test failing, found
//! by breaking them (`tests/breakages`).

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

use mutt_sync::error::ExitStatus;
use mutt_sync::imap::{Client, ServerEvent};
use mutt_sync::model::{CredentialSource, Server as Section, TlsMode};
use mutt_sync::os::child::Prompt;
use mutt_sync::os::wait::Cancel;
use rig::{Account, Home, Mbsync, Server, Signal, Terminal, process, run, wait_until};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

const SHORT: Duration = Duration::from_secs(20);
/// What mbsync 1.4.4 says of a mailbox that it cannot open.
const NO_INBOX: &str = "Error: channel Home: far side box INBOX cannot be opened.\n";

fn fake(settings: &str) -> (Home, Mbsync) {
    let home = Home::fake(&["Home"]);
    home.settings(settings);
    let mbsync = home.fake_mbsync();
    (home, mbsync)
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    rig::spawn(command).unwrap()
}

fn code_of(mut child: Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The mailboxes that this run was asked for, in order of their names.
fn boxes_of(mbsync: &Mbsync, at: usize) -> Vec<String> {
    let runs = mbsync.runs();
    let [only] = runs[at].names()[..] else { panic!("{:?}", runs[at].names()) };
    let mut boxes: Vec<String> =
        only.strip_prefix("Home:").unwrap_or(only).split(',').map(str::to_owned).collect();
    boxes.sort();
    boxes
}

/// Touches the trigger; ctime is as fine as the kernel's tick.
fn touch_trigger(home: &Home) {
    sleep(Duration::from_millis(12));
    std::fs::write(home.state("Home").join("trigger"), "").unwrap();
    sleep(Duration::from_millis(12));
}

#[test]
fn g1_what_a_killed_holder_leaves_behind_is_over_before_the_next_run() {
    let (home, mut mbsync) = fake("throttle = \"0s\"\nmbsync = \"wrapper\"");
    // A script around mbsync, which dies with its parent; what it started does not.
    home.program(
        "wrapper",
        "mbsync \"$@\"\n[ $# = 1 ] || [ ! -e ~/linger ] || { \
         sleep 600 & echo $! >~/left.new; mv ~/left.new ~/left; wait; }",
    );
    home.write("linger", "");
    let mut first = start(&mut home.cmd(&["Home"]));
    wait_until(SHORT, "something to be left behind", || home.path("left").exists());
    first.kill().unwrap();
    first.wait().unwrap();
    std::fs::remove_file(home.path("linger")).unwrap();
    // The shell may have said so before its child became `sleep`.
    wait_until(SHORT, "one sleep is left behind", || home.count_running("sleep 600") == 1);
    mbsync.act("grep -q '^State:.[^ZX]' /proc/$(cat ~/left)/status && touch ~/met");
    home.mutt_sync(&["--force", "Home"]).ok();
    assert_eq!(mbsync.runs().len(), 2);
    assert!(!home.path("met").exists(), "the next run met what the first had left");
    home.assert_no_leftovers();
}

#[test]
fn g1_what_a_killed_wrapper_leaves_behind_is_over_with_its_run() {
    let (home, mbsync) = fake("throttle = \"0s\"\nmbsync = \"wrapper\"");
    home.program(
        "wrapper",
        "[ $# = 1 ] || [ ! -e ~/linger ] || { echo $$ >~/wrapper; sleep 600; }\nexec mbsync \"$@\"",
    );
    home.write("linger", "");
    let sleeps = || home.count_running("sleep 600");
    let first = start(&mut home.cmd(&["Home"]));
    wait_until(SHORT, "the wrapper has started what it is a wrapper of", || sleeps() == 1);
    process::kill(home.read("wrapper").trim().parse().unwrap(), Signal::KILL);
    assert_ne!(code_of(first), 0);
    assert_eq!(sleeps(), 0, "the run is over, and what it had started goes on");
    std::fs::remove_file(home.path("linger")).unwrap();
    home.mutt_sync(&["--force", "Home"]).ok();
    assert_eq!(mbsync.runs().len(), 1);
    home.assert_no_leftovers();
}

#[test]
fn g1_mbsync_dies_with_the_process_that_runs_it() {
    let (home, mbsync) = fake("");
    mbsync.hold();
    let mut child = start(&mut home.cmd(&["Home"]));
    mbsync.wait_for_starts(1, SHORT);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(SHORT, "mbsync is gone", || !mbsync.runs()[0].alive());
    home.wait_no_leftovers(SHORT);
}

#[test]
fn g2_a_mailbox_that_a_run_failed_on_is_requested_again() {
    let (home, mut mbsync) = fake("");
    mbsync.stderr(NO_INBOX);
    mbsync.exit(1);
    home.mutt_sync(&["Home"]).expect_code(1);
    assert_eq!(home.wants("Home"), ["Home:INBOX"]);
    mbsync.stderr("");
    mbsync.exit(0);
    home.mutt_sync(&["Home"]).ok();
    assert_eq!(home.wants("Home"), [""; 0]);
}

#[test]
fn g2_a_run_that_was_interrupted_has_served_nothing() {
    let (home, mbsync) = fake("throttle = \"0s\"");
    let interrupted = |runs: usize| {
        mbsync.hold();
        let child = start(&mut home.cmd(&["Home:INBOX"]));
        mbsync.wait_for_starts(runs + 1, SHORT);
        process::kill(child.id(), Signal::INT);
        assert_eq!(code_of(child), 130);
        mbsync.release();
    };
    interrupted(0);
    home.mutt_sync(&["Home:Sent"]).ok();
    assert_eq!(boxes_of(&mbsync, 1), ["INBOX", "Sent"]);
    // Nor has it answered the trigger.
    touch_trigger(&home);
    interrupted(2);
    home.mutt_sync(&["Home:Sent"]).ok();
    assert_eq!(boxes_of(&mbsync, 3), ["Home"]);
    // Who is served asks for nothing more.
    home.mutt_sync(&["Home:Sent"]).ok();
    assert_eq!(boxes_of(&mbsync, 4), ["Sent"]);
}

#[test]
fn g2_a_trigger_touched_during_a_run_is_a_request_for_the_next() {
    let (home, mbsync) = fake("throttle = \"0s\"");
    std::fs::create_dir_all(home.state("Home")).unwrap();
    touch_trigger(&home);
    mbsync.hold();
    let child = start(&mut home.cmd(&["Home:INBOX"]));
    mbsync.wait_for_starts(1, SHORT);
    touch_trigger(&home);
    mbsync.release();
    assert_eq!(code_of(child), 0);
    home.mutt_sync(&["Home:Sent"]).ok();
    assert_eq!(
        (boxes_of(&mbsync, 0), boxes_of(&mbsync, 1)),
        (vec!["Home".into()], vec!["Home".into()])
    );
    home.mutt_sync(&["Home:Sent"]).ok();
    assert_eq!(boxes_of(&mbsync, 2), ["Sent"]);
}

/// Waits until they wait for the lock: a thread of theirs does.
fn wait_for_waiting(children: &[Child]) {
    wait_until(SHORT, "all wait for the lock", || {
        children.iter().all(|child| process::threads(child.id()) > 1)
    });
}

#[test]
fn g3_what_is_asked_for_during_a_run_is_served_by_one() {
    let (home, mbsync) = fake("throttle = \"0s\"\nsettle = \"0s\"");
    mbsync.hold();
    let first = start(&mut home.cmd(&["Home:INBOX"]));
    mbsync.wait_for_starts(1, SHORT);
    let names = ["Home:INBOX", "Home:Sent", "Home:Drafts", "Home:Sent"];
    let others: Vec<Child> = names.iter().map(|name| start(&mut home.cmd(&[name]))).collect();
    wait_for_waiting(&others);
    home.mutt_sync(&["-b", "Home:Trash"]).ok();
    mbsync.release();
    for child in others.into_iter().chain([first]) {
        assert_eq!(code_of(child), 0);
    }
    home.wait_no_leftovers(SHORT);
    assert_eq!(mbsync.runs().len(), 2, "{:?}", mbsync.runs());
    assert_eq!(boxes_of(&mbsync, 1), ["Drafts", "INBOX", "Sent", "Trash"]);
}

#[test]
fn g3_what_is_asked_for_while_throttled_is_served_by_one() {
    let (home, mbsync) = fake("throttle = \"4s\"\nburst = 1\nsettle = \"0s\"");
    home.mutt_sync(&["Home"]).ok();
    for name in ["Home:INBOX", "Home:Sent", "Home:Drafts"] {
        home.mutt_sync(&["-b", name]).ok();
    }
    wait_until(SHORT, "one process looks after all", || home.leftovers().len() == 1);
    home.wait_no_leftovers(SHORT);
    assert_eq!(mbsync.runs().len(), 2, "{:?}", mbsync.runs());
    assert_eq!(boxes_of(&mbsync, 1), ["Drafts", "INBOX", "Sent"]);
}

#[test]
fn g3_one_failure_answers_every_waiting_command() {
    let (home, mut mbsync) = fake("throttle = \"0s\"");
    mbsync.stderr(NO_INBOX);
    mbsync.exit(1);
    mbsync.hold();
    let first = start(&mut home.cmd(&["Home"]));
    mbsync.wait_for_starts(1, SHORT);
    let others: Vec<Child> = (0..5).map(|_| start(&mut home.cmd(&["Home"]))).collect();
    wait_for_waiting(&others);
    mbsync.release();
    for child in others.into_iter().chain([first]) {
        assert_eq!(code_of(child), 1);
    }
    assert_eq!(mbsync.runs().len(), 2, "{:?}", mbsync.runs());
}

#[test]
fn g4_the_waiter_keeps_the_throttle() {
    let (home, mbsync) = fake("throttle = \"6s\"\nburst = 1\nsettle = \"100ms\"");
    let mut waiter = start(&mut home.cmd(&["--wait", "--loop", "Home"]));
    mbsync.wait_for_starts(1, SHORT);
    mbsync.wait_idle(SHORT);
    home.mutt_sync(&["-b", "Home:INBOX"]).ok();
    let runs = mbsync.wait_for_starts(2, SHORT);
    let apart = Duration::from_nanos(u64::try_from(runs[1].start - runs[0].start).unwrap());
    process::kill(waiter.id(), Signal::TERM);
    waiter.wait().unwrap();
    // Less what may pass between the stamp and the first start on a busy machine.
    assert!(apart > Duration::from_secs(4), "{apart:?}");
}

#[test]
fn g8_neither_mutt_sync_nor_mbsync_has_a_signal_blocked() {
    let (home, mbsync) = fake("");
    mbsync.hold();
    let mut command = home.command("env");
    command.arg("--block-signal=TERM").arg("--block-signal=HUP").arg(rig::mutt_sync()).arg("Home");
    let child = start(&mut command);
    let runs = mbsync.wait_for_starts(1, SHORT);
    let blocked = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap().to_owned();
        u64::from_str_radix(line.trim_start_matches("SigBlk:").trim(), 16).unwrap()
    };
    // Everything is, until the thread that started mbsync goes on.
    wait_until(SHORT, "nothing is blocked in mutt-sync", || blocked(child.id()) == 0);
    assert_eq!(blocked(runs[0].pid), 0);
    process::kill(child.id(), Signal::INT);
    assert_eq!(code_of(child), 130);
    home.assert_no_leftovers();
}

fn section(host: &str, port: u16, tls: TlsMode) -> Section {
    Section {
        host: Some(host.to_owned()),
        port,
        user: Some(CredentialSource::Text(Zeroizing::new("user".to_owned()))),
        pass: Some(CredentialSource::Text(Zeroizing::new("pass".to_owned()))),
        tls,
        auth_mechs: vec!["PLAIN".to_owned()],
        timeout: Some(Duration::from_millis(400)),
        ..Section::default()
    }
}

/// It is given up long before anybody else would.
#[track_caller]
fn is_left_in_time(section: &Section) {
    let begun = Instant::now();
    let Err(failure) = Client::open(section, Prompt::Never, &Cancel::new().unwrap()) else {
        panic!("let in")
    };
    assert_eq!(failure.status, ExitStatus::Offline, "{failure}");
    assert!(failure.to_string().contains("no answer in time"), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn g9_a_handshake_that_never_comes_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // The first is silent from the start, the second after its consent.
        let (silent, _) = listener.accept().unwrap();
        let (mut willing, _) = listener.accept().unwrap();
        willing.write_all(b"* OK hello\r\n").unwrap();
        let _ = willing.read(&mut [0; 100]);
        willing.write_all(b"s1 OK begin\r\n").unwrap();
        while willing.read(&mut [0; 1000]).is_ok_and(|n| n > 0) {}
        drop(silent);
    });
    is_left_in_time(&section("127.0.0.1", port, TlsMode::Imaps));
    is_left_in_time(&section("127.0.0.1", port, TlsMode::StartTls));
}

/// In a network of its own, with a name server that takes questions and
/// answers none.
#[test]
fn g9_a_name_server_that_never_answers_is_left_in_time() {
    const INSIDE: &str = "GUARANTEES_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let home = Home::empty();
        home.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:15 attempts:2\n");
        home.write("nsswitch.conf", "hosts: dns\n");
        let script = "ip link set lo up && for file in resolv nsswitch; do \
                      mount --bind $file.conf \"$(readlink -f /etc/$file.conf)\" || exit; done; \
                      exec \"$0\" --exact guarantees::g9_a_name_server_that_never_answers_is_left_in_time";
        let mut command = home.command("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", script]);
        command.arg(std::env::current_exe().unwrap()).env(INSIDE, "1");
        let output = run(&mut command, Duration::from_secs(90)).ok();
        assert!(output.stdout.contains("1 passed"), "{output}");
        return;
    }
    let asked = UdpSocket::bind("127.0.0.1:53").unwrap();
    is_left_in_time(&section("mail.example", 143, TlsMode::None));
    let mut question = [0; 512];
    asked.set_nonblocking(true).unwrap();
    assert!(asked.recv(&mut question).is_ok_and(|n| n > 12), "it was asked");
}

#[test]
fn g10_what_is_said_unasked_beside_an_answer_is_kept_up_to_a_bound() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let hello = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n";
        stream.write_all(hello).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let tag = line.split(' ').next().unwrap();
            let mut said = Vec::new();
            for number in 0..if line.contains(" STATUS ") { 8000 } else { 0 } {
                write!(said, "* STATUS box{number} (MESSAGES 1)\r\n").unwrap();
            }
            write!(said, "{tag} OK [CAPABILITY IMAP4rev1] done\r\n").unwrap();
            stream.write_all(&said).unwrap();
        }
    });
    let mut section = section("127.0.0.1", port, TlsMode::None);
    section.timeout = Some(SHORT);
    let mut client = Client::open(&section, Prompt::Never, &Cancel::new().unwrap()).unwrap();
    for _ in 0..3 {
        client.status(&["INBOX".to_owned()]).unwrap();
    }
    let heard = client.events().unwrap();
    assert!(heard.len() <= 4097 && heard.contains(&ServerEvent::Overflow), "{}", heard.len());
}

#[test]
fn g12_a_run_that_goes_well_ends_the_backoff() {
    let (home, mut mbsync) = fake("throttle = \"0s\"");
    let retry = home.state("Home").join("retry.json");
    mbsync.stderr("Socket error on h (127.0.0.1:1): timeout.\n");
    mbsync.exit(1);
    home.mutt_sync(&["Home"]).expect_code(69);
    assert!(retry.exists());
    home.mutt_sync(&["Home"]).expect_code(75);
    mbsync.stderr("");
    mbsync.exit(0);
    home.mutt_sync(&["--force", "Home:INBOX"]).ok();
    assert!(!retry.exists());
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(mbsync.runs().len(), 3);
}

#[test]
fn g12_a_waiter_reconnects_after_a_successful_run_elsewhere() {
    let server = Server::start();
    let home = Home::with(vec![Account::on(&server, "Home").pass_cmd("ask-password")]);
    // Four times as long where a password is in question.
    home.settings("throttle = \"0s\"\nsettle = \"0s\"\nretry = \"60s\"");
    home.program("ask-password", "exit 1");
    let log = home.path("log");
    let mut command = home.cmd(&["--wait", "--loop", "-v", "Home"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut waiter = rig::spawn(command.stderr(std::fs::File::create(&log).unwrap())).unwrap();
    let says = |text: &str| std::fs::read_to_string(&log).unwrap().contains(text);
    // By whichever of the two was first: the run, or its own connection.
    let waits = || says("next connection in ") || says("; again in ");
    wait_until(SHORT, "it waits for minutes", waits);
    home.program("ask-password", &format!("echo '{}'", server.password("home")));
    home.mutt_sync(&["--force", "Home"]).ok();
    wait_until(SHORT, "it connects", || says("connected by"));
    process::kill(waiter.id(), Signal::TERM);
    waiter.wait().unwrap();
}

/// What would lead a password command to a prompt.
const PROMPTS: [&str; 4] = ["GPG_TTY", "SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY"];

#[test]
fn g12_no_password_command_of_a_waiter_or_in_the_background_can_prompt() {
    let server = Server::start();
    let mut home = Home::with(vec![Account::on(&server, "Home").pass_cmd("ask-password")]);
    home.settings("throttle = \"0s\"\nsettle = \"0s\"");
    for name in PROMPTS {
        home.set_env(name, "there");
    }
    home.program(
        "ask-password",
        &format!(
            "env >>~/environment\n(exec </dev/tty) 2>/dev/null && touch ~/terminal\n\
             echo asked >>~/asked\necho '{}'",
            server.password("home")
        ),
    );
    let asked = || home.read("asked").lines().count();
    // In front of a terminal it may.
    let program = rig::mutt_sync().display().to_string();
    let terminal = Terminal::start(&home, &["sh", "-c", &format!("{program} Home; exec cat")]);
    wait_until(SHORT, "the password is asked for in the foreground", || asked() == 1);
    terminal.wait_for("Home: ", SHORT);
    assert!(home.path("terminal").exists());
    assert!(PROMPTS.iter().all(|name| home.read("environment").contains(&format!("{name}=there"))));
    drop(terminal);
    std::fs::remove_file(home.path("terminal")).unwrap();
    std::fs::remove_file(home.path("environment")).unwrap();
    let script = format!("{program} -b -f Home; exec {program} --wait --loop -v Home");
    let terminal = Terminal::start(&home, &["sh", "-c", &script]);
    terminal.wait_for("connected by", SHORT);
    wait_until(SHORT, "the password is asked for by mbsync and by the waiter", || asked() >= 3);
    drop(terminal);
    let environment = home.read("environment");
    assert!(environment.contains("HOME="));
    for name in PROMPTS {
        assert!(!environment.contains(name), "{name}: {environment}");
    }
    assert!(!home.path("terminal").exists(), "it had the terminal");
}
