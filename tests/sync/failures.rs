//! What can fail in a run, what it leads to, and signals.

#![allow(clippy::unwrap_used)] // a test fails by panicking, in its helpers too

use super::{check::greeting, start};
use rig::{
    Account, Ca, Delay, Home, Mbsync, Refuser, Server, ServerOptions, Signal, Terminal, Tls,
    compare_boxes, message,
    process::{self, kill},
    run, wait_until,
};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);
/// A process that ignores TERM is given five seconds. Who is gone sooner has not waited
/// for that; how much sooner is a benchmark's to tell, for the machine is busy.
const NO_GRACE: Duration = Duration::from_millis(4500);

fn code_of(child: Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let status = child.wait_with_output().unwrap().status;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn state(home: &Home, file: &str) -> String {
    home.read(&format!(".local/state/mutt-sync/Home/{file}"))
}

/// The mutt-sync processes of this home.
fn ours(home: &Home) -> Vec<u32> {
    let program = rig::mutt_sync().display().to_string();
    let is_ours = |(pid, line): (u32, String)| line.starts_with(&program).then_some(pid);
    home.leftovers().into_iter().filter_map(is_ours).collect()
}

/// All that the home's state files and these outputs hold.
fn everything(home: &Home, outputs: &[rig::Output]) -> String {
    fn below(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                below(&entry.path(), text);
            } else {
                *text += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut text = String::new();
    below(&home.path(".local/state"), &mut text);
    for output in outputs {
        text += &output.to_string();
    }
    text
}

#[test]
fn the_server_is_down_then_up_again() {
    let mut server = Server::start();
    let home = Home::on(&server, &["Home"]);
    server.stop();
    let down = home.mutt_sync(&["Home"]).expect_code(69);
    assert!(down.stderr.starts_with("mutt-sync: Home: "), "{down}");
    assert!(down.stderr.contains("cannot connect: connection refused"), "{down}");
    assert!(down.stderr.contains("; the next mutt-sync retries"), "{down}");
    assert!(down.stderr.ends_with(" (now: mutt-sync -f Home)\n"), "{down}");
    assert!(state(&home, "retry.json").contains("\"code\":69"));
    assert_eq!(home.wants("Home"), ["*"]);
    let later = home.mutt_sync(&["Home:INBOX"]).expect_code(75);
    assert!(
        later.stderr.contains("; next try in ") && later.stderr.ends_with(" (now: -f)\n"),
        "{later}"
    );
    assert_eq!(home.mutt_sync(&["-qq", "Home"]).expect_code(75).stderr, "");
    home.mutt_sync(&["--force", "Home"]).expect_code(69);
    // Somebody's own try does not lengthen the wait.
    assert!(state(&home, "retry.json").contains("\"failures\":1"));
    server.restart();
    server.imap("home").append("INBOX", &message("one", "one"), &[]);
    let up = home.mutt_sync(&["--force", "Home:Sent"]).ok();
    // What was asked for before is served along.
    assert!(up.stdout.contains("INBOX 1 new"), "{up}");
    assert_eq!(state(&home, "retry.json"), "");
    assert_eq!(home.wants("Home"), [""; 0]);
}

/// A line to type, as a shell reads it.
#[track_caller]
fn paste(home: &Home, line: &str) -> rig::Output {
    run(home.command("/bin/sh").arg("-c").arg(line), LONG)
}

/// What stands between these two in a text.
#[track_caller]
fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{begin}: {text}"));
    rest.split_once(end).unwrap_or_else(|| panic!("{end}: {text}")).0
}

#[test]
fn what_is_to_be_typed_is_quoted_and_a_backoff_is_not_taken_for_an_answer() {
    let mut server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let file = home.read(".mbsyncrc");
    std::os::unix::fs::symlink(rig::mutt_sync(), home.path("bin/mutt-sync")).unwrap();
    let renamed = file.replace("Account Home\n", "Account \"My [Mail]\"\n");
    home.write(".mbsyncrc", &renamed.replace("Channel Home\n", "Channel \"My [Mail]\"\n"));
    let name = "My [Mail]";
    server.stop();
    let down = home.mutt_sync(&[name]).expect_code(69);
    let line = between(&down.stderr, "(now: ", ")\n");
    assert_eq!(line, "mutt-sync -f 'My [Mail]'");
    paste(&home, line).expect_code(69);
    let dry = home.mutt_sync(&["-n", name]).expect_code(75);
    assert!(dry.stdout.starts_with("My [Mail]: not asked: backoff for another "), "{dry}");
    assert!(dry.stdout.contains("\n  last failure: "), "{dry}");
    assert!(!dry.stdout.contains("mbsync -q") && !dry.stdout.contains("mbsync -V"), "{dry}");
    let asks = between(&dry.stdout, "(now: ", ")\n");
    assert_eq!(asks, "mutt-sync -n -f 'My [Mail]'");
    paste(&home, asks).expect_code(69);
    let (code, said) = home.typed("-n 'My [Mail]'");
    assert!(code == 69 && !said.contains("not asked"), "{code}: {said}");
    let check = home.mutt_sync(&["--check", "--json", name]).stdout;
    assert!(check.contains("\"fix\": \"mutt-sync --force 'My [Mail]'\""), "{check}");

    server.restart();
    server.imap("home").append("Sent", &message("one", "one"), &[]);
    let program = between(&paste(&home, asks).ok().stdout, "My [Mail]: ", "\n").to_owned();
    assert!(program.contains(".mbsyncrc -- 'My [Mail]"), "{program}");
    let (code, said) = home.typed("-n 'My [Mail]'");
    assert!(code == 0 && said.contains(&program), "{code}: {said}");
    paste(&home, &program).ok();
    home.maildir("Home", "Sent").find("one");
}

#[test]
fn g12_the_tries_of_a_person_come_before_no_longer_wait_than_others() {
    let mut server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("retry = \"1s\"\n");
    server.stop();
    for _ in 0..3 {
        home.mutt_sync(&["--force", "Home"]).expect_code(69);
        assert!(state(&home, "retry.json").contains("\"failures\":0"));
    }
    let again = || home.mutt_sync(&["Home"]).code() == 69;
    wait_until(Duration::from_secs(60), "the backoff of a second is over", again);
    assert!(state(&home, "retry.json").contains("\"failures\":1"));
}

#[test]
fn g12_a_tunnel_that_fails_is_costly() {
    let home = Home::with(vec![Account::fake("Home").account_line("Tunnel false")]);
    home.mutt_sync(&["Home"]).expect_code(69);
    assert!(state(&home, "retry.json").contains("\"costly\":true"));
}

/// How long the login was refused before is not how long the server is away.
#[test]
fn offline_begins_with_the_first_failure_of_its_kind() {
    let mut server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (now, later) = (now.as_secs(), now.as_secs() + 100);
    let earlier = format!(
        "{{\"failures\":3,\"code\":77,\"first\":1000,\"since\":{now},\"until\":{later},\
         \"text\":\"login refused\"}}"
    );
    home.write(".local/state/mutt-sync/Home/retry.json", &earlier);
    server.stop();
    home.mutt_sync(&["-f", "Home"]).expect_code(69);
    let status = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(status.starts_with("Home: 1 mailbox, never synced, no waiter\n"), "{status}");
    assert!(status.contains("\n  offline") && !status.contains("days"), "{status}");
}

#[test]
fn g11_g12_a_wrong_password_is_tried_once_and_never_shown() {
    let server = Server::start();
    let secret = "hunter2-and-more";
    let home = Home::with(vec![Account::on(&server, "Home").login("home", secret)]);
    let mut outputs = vec![home.mutt_sync(&["-v", "Home"]).expect_code(77)];
    assert!(outputs[0].stderr.contains("AUTHENTICATIONFAILED"), "{}", outputs[0]);
    assert!(state(&home, "retry.json").contains("\"costly\":true"));
    for args in [&["Home"][..], &["-v", "Home:INBOX"], &["-n", "Home"], &["-b", "Home"]] {
        outputs.push(home.mutt_sync(args));
    }
    outputs.push(home.mutt_sync(&["--force", "-v", "Home"]).expect_code(77));
    assert_eq!(server.failed_logins(), 2);
    assert!(!everything(&home, &outputs).contains(secret));
    assert!(outputs[4].stdout.contains("queued; last time"), "{}", outputs[4]);
}

#[test]
fn g11_what_mbsync_forgets_to_mask_is_masked() {
    let server = Server::start();
    let secret = "secret-in-the-file";
    let account = Account::on(&server, "Home").login("home", secret);
    let home = Home::with(vec![account.unjudged()]);
    let mut mbsync = home.fake_mbsync();
    // The last line has no end.
    mbsync.stderr(&format!(
        "IMAP command 'AUTHENTICATE XOAUTH2 dG9rZW4=' returned an error: NO\nx {secret}\ny {secret}"
    ));
    mbsync.exit(1);
    let outputs = [home.mutt_sync(&["-v", "Home"]).expect_code(77), {
        mbsync.stderr(&format!("Error: {secret}"));
        home.mutt_sync(&["--force", "Home"]).expect_code(1)
    }];
    let text = everything(&home, &outputs);
    assert!(!text.contains(secret) && !text.contains("dG9rZW4="), "{text}");
    assert!(text.contains("Error: ********"), "{text}");
}

/// The password manager's own words, whether its command is run by us or by mbsync, and
/// never what it prints to standard output.
#[test]
fn g11_what_the_password_command_complains_of_is_said() {
    let server = Server::start();
    let secret = "hunter2-and-more";
    let said = "gpg: decryption failed: No secret key";
    let command = format!("echo {secret}; echo '{said}' >&2; exit 2");
    let account = || Account::on(&server, "Home").pass_cmd(&command);
    for (account, head) in [
        (account(), "PassCmd exited with status 2: "),
        (account().unjudged(), "password command failed (status 2): "),
    ] {
        let home = Home::with(vec![account]);
        let output = home.mutt_sync(&["Home"]).expect_code(77);
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert!(output.stderr.contains(&format!("{head}{said}")), "{output}");
        let mut outputs = vec![output];
        for args in [&["--status", "Home"], &["--check", "Home"]] {
            outputs.push(home.mutt_sync(args));
            let text = &outputs.last().unwrap().stdout;
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(said), "{args:?}: {text}");
        }
        assert!(!everything(&home, &outputs).contains(secret));
    }
    // Nor where it is in those words.
    let command = format!("echo {secret}; echo 'cannot use {secret}' >&2; exit 2");
    let home = Home::with(vec![Account::on(&server, "Home").pass_cmd(&command)]);
    let output = home.mutt_sync(&["Home"]).expect_code(77);
    assert!(output.stderr.contains("status 2: cannot use ********"), "{output}");
    assert!(!everything(&home, &[output]).contains(secret));
}

#[test]
fn a_certificate_is_refused() {
    let server = Server::with(ServerOptions { tls: Tls::Imaps, ..ServerOptions::default() });
    let account = || Account::on(&server, "Home").certificate(Ca::new().cert());
    let by_mbsync = Home::with(vec![account().unjudged()]);
    let home = Home::with(vec![account()]);
    let refused = [&by_mbsync, &home].map(|home| {
        let output = home.mutt_sync(&["Home"]).expect_code(77);
        assert!(output.stderr.contains("certificate"), "{output}");
        assert!(state(home, "retry.json").contains("\"costly\":false"), "no password was told");
        output
    });
    let [_, output] = refused;
    assert_eq!(server.logins("home"), 0);
    // A sync and the check name one way to keep it.
    let place = format!("{}:{}", server.host(), server.port());
    let keep = format!("openssl s_client -connect {place} </dev/null | openssl x509 >");
    let file = format!("{keep}>{} ; that is", home.path("Home.pem").display());
    assert!(output.stderr.contains(&file), "{output}");
    let check = || home.mutt_sync(&["--check", "--json", "Home"]).expect_code(77);
    assert!(check().stdout.contains(&format!("{keep}>~/Home.pem ; that is")), "{}", check());
    let section = home.read(".mbsyncrc");
    home.write(".mbsyncrc", &section.replace("CertificateFile ~/Home.pem\n", ""));
    let output = home.mutt_sync(&["-f", "Home"]).expect_code(77);
    assert!(output.stderr.contains(&format!("{keep}FILE ; then set")), "{output}");
    assert!(check().stdout.contains(&format!("{keep}~/Home.pem ; then set")), "{}", check());
}

/// The server is there: that it is not as the file says is no outage.
#[test]
fn a_wrong_tls_type_or_port_is_named_and_not_called_offline() {
    let server = Server::with(ServerOptions { tls: Tls::StartTls, ..ServerOptions::default() });
    let account = || Account::on(&server, "Home");
    let smtp = greeting("220 mx.example ESMTP\r\n");
    let ssh = greeting("SSH-2.0-OpenSSH_9.2\r\n");
    let starttls =
        "if it has STARTTLS (port 143), set `SSLType STARTTLS`, else check Host and Port";
    for (account, tls, cause, hint) in [
        (account(), "IMAPS", "TLS: the server does not speak TLS there", starttls),
        (account().port(smtp), "IMAPS", "TLS: the server does not speak TLS there", starttls),
        (account().port(smtp), "None", "this is SMTP or FTP", "check Host and Port"),
        (account().port(ssh), "STARTTLS", "this is SSH", "check Host and Port"),
        (account().port(ssh).unjudged(), "IMAPS", "wrong version number", ""),
        (account().port(smtp).unjudged(), "STARTTLS", "unexpected reply: 220 mx", ""),
    ] {
        let home = Home::with(vec![account]);
        let file = home.read(".mbsyncrc").replace("SSLType STARTTLS", &format!("SSLType {tls}"));
        home.write(".mbsyncrc", &file);
        let output = home.mutt_sync(&["Home"]).expect_code(77);
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        for part in [cause, hint, "(mutt-sync --check Home says more)"] {
            assert!(output.stderr.contains(part), "{part}: {output}");
        }
        for args in [&["--status", "Home"][..], &["--status-line"], &["-b", "Home"]] {
            let status = home.mutt_sync(args);
            assert!(!status.stdout.contains("offline"), "{status}");
        }
    }
}

/// TLS from the first byte, where a greeting is waited for: what is silent may be an outage.
#[test]
fn a_server_that_waits_for_tls_is_offline_with_a_hint() {
    let server = Server::with(ServerOptions { tls: Tls::Imaps, ..ServerOptions::default() });
    for tls in ["None", "STARTTLS"] {
        let home = Home::with(vec![Account::on(&server, "Home").account_line("Timeout 1")]);
        let file = home.read(".mbsyncrc").replace("SSLType IMAPS", &format!("SSLType {tls}"));
        home.write(".mbsyncrc", &file);
        let output = home.mutt_sync(&["Home"]).expect_code(69);
        let hint = "greeting: no answer in time; if it has TLS";
        assert!(output.stderr.contains(hint), "{output}");
        assert!(
            output.stderr.contains("set `SSLType IMAPS`, else check Host and Port"),
            "{output}"
        );
    }
}

#[test]
fn a_mailbox_that_cannot_be_opened_holds_up_no_other() {
    let server = Server::start();
    let account = Account::on(&server, "Home").channel("Create Near\nExpunge Both");
    let home = Home::with(vec![account]);
    let mut imap = server.imap("home");
    imap.append("INBOX", &message("one", "one"), &[]);
    home.maildir("Home", "Nowhere").create();
    let output = home.mutt_sync(&["Home"]).expect_code(1);
    println!("{output}");
    assert!(output.stdout.contains("INBOX 1 new"), "{output}");
    assert!(output.stderr.contains("Nowhere"), "{output}");
    let status = home.mutt_sync(&["--status", "Home"]).ok().stdout;
    let summary = status.lines().next().unwrap();
    assert!(summary.contains("checked ") && !summary.contains("never synced"), "{status}");
    compare_boxes(&mut imap, &home.mail("Home"), &["INBOX", "Sent"]).unwrap();
    // The account is well; one mailbox waits.
    assert_eq!(state(&home, "retry.json"), "");
    assert_eq!(home.wants("Home"), ["Home:Nowhere"]);
    home.mutt_sync(&["Home:INBOX"]).ok();
    assert_eq!(home.wants("Home"), ["Home:Nowhere"]);
    imap.create("Nowhere");
    home.mutt_sync(&["Home"]).ok();
    assert_eq!(home.wants("Home"), [""; 0]);
}

/// A fake mbsync that has said of one mailbox that it could not be opened.
fn with_a_mailbox_not_synced() -> (Home, Mbsync) {
    let home = Home::fake(&["Home"]);
    home.settings("throttle = \"0s\"\n");
    let mut mbsync = home.fake_mbsync();
    mbsync.exit(1);
    mbsync.stderr("Error: channel Home: far side box Lists cannot be opened.\n");
    home.mutt_sync(&["-b", "-f", "Home:Lists"]).ok();
    let refused = home.state("Home").join("refused.json");
    wait_until(SHORT, "it is on record", || refused.exists());
    mbsync.wait_idle(SHORT);
    // It would wait and try again.
    for pid in ours(&home) {
        kill(pid, Signal::TERM);
    }
    home.wait_no_leftovers(SHORT);
    (home, mbsync)
}

#[test]
fn g13_a_run_that_failed_otherwise_resolves_nothing() {
    let (home, mut mbsync) = with_a_mailbox_not_synced();
    mbsync.stderr("IMAP error: malformed FETCH response\n");
    let output = home.mutt_sync(&["-f", "Home"]).expect_code(1);
    assert!(output.stderr.contains("malformed"), "{output}");
    assert!(state(&home, "refused.json").contains("Lists"), "{}", state(&home, "refused.json"));
}

#[test]
fn g13_a_command_that_fails_on_one_mailbox_keeps_no_other_unsaid() {
    let (home, mut mbsync) = with_a_mailbox_not_synced();
    mbsync.stderr("Error: channel Home: far side box INBOX cannot be opened.\n");
    let output = home.mutt_sync(&["-f", "Home:INBOX"]).expect_code(1);
    assert!(output.stderr.contains("Lists"), "{output}");
}

/// The standard error that mbsync shares with its password command.
#[test]
fn a_warning_of_the_password_command_is_no_wrong_configuration() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.exit(1);
    mbsync.stderr(
        "/usr/lib/python3/dist-packages/x.py:219: CryptographyDeprecationWarning: TripleDES\n\
         Cannot connect to home.example (192.0.2.1:993): Connection refused\n",
    );
    home.mutt_sync(&["Home"]).expect_code(69);
}

#[test]
fn g9_a_run_that_stalls_is_ended() {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    let account = Account::on(&server, "Home").port(delay.port()).unjudged();
    let home = Home::with(vec![account]);
    home.settings("stall = \"400ms\"");
    delay.stall();
    let output = home.mutt_sync(&["Home"]).expect_code(69);
    assert!(output.stderr.contains("less than 256 bytes a second for 400ms"), "{output}");
    // Otherwise mbsync itself would give up after 20 seconds, with other words.
    home.assert_no_leftovers();
    // One that is slow, behind a script, is left alone.
    delay.flow();
    home.program(
        "slow",
        &format!(
            "for i in 1 2 3 4 5 6 7; do sleep 0.5; echo; done; {} \"$@\"; exit $?",
            rig::real_mbsync().display()
        ),
    );
    home.settings("stall = \"3s\"\nmbsync = \"slow\"");
    home.mutt_sync(&["--force", "Home"]).ok();
}

#[test]
fn g2_g12_a_success_elsewhere_ends_the_backoff_of_waiting_commands() {
    let server = Server::start();
    let account = Account::on(&server, "Home").pass_cmd("pass");
    let home = Home::with(vec![account.unjudged()]);
    let mbsync = home.exec_mbsync();
    home.settings("settle = \"0s\"\nretry = \"10m\"");
    home.program("pass", "echo x >> ~/asked; exit 1");
    let asked = || home.read("asked").lines().count();
    home.mutt_sync(&["-b", "Home"]).ok();
    wait_until(SHORT, "the failure is noted", || state(&home, "retry.json").contains("77"));
    for _ in 0..10 {
        home.mutt_sync(&["-b", "Home"]).ok();
        home.mutt_sync(&["Home:INBOX"]).expect_code(75);
    }
    wait_until(SHORT, "one waits", || ours(&home).len() == 1);
    assert_eq!((asked(), mbsync.runs().len(), ours(&home).len()), (1, 1, 1));
    home.program("pass", &format!("echo x >> ~/asked; echo {}", server.password("home")));
    // For another mailbox: the child serves the rest, long before its time, and
    // before it looks by itself, which is after half a minute.
    home.mutt_sync(&["--force", "Home:Drafts"]).ok();
    home.wait_no_leftovers(SHORT);
    assert_eq!(home.wants("Home"), [""; 0]);
    assert!(asked() <= 3);
}

/// Sends the signal, and fails unless the process is gone without having used the
/// grace, and with it all that it has started.
#[track_caller]
fn all_gone_at_once(home: &Home, pid: u32, signal: Signal) {
    let since = Instant::now();
    kill(pid, signal);
    wait_until(SHORT, "the process is gone", || !process::alive(pid));
    home.assert_no_leftovers();
    let took = since.elapsed();
    println!("{signal:?}: gone after {took:?}");
    assert!(took < NO_GRACE, "{took:?}");
}

/// A home whose runs hang: in the middle of a talk with the server, or in the
/// password command.
fn hanging(server: &Server, delay: &Delay, in_password: bool) -> Home {
    let account = Account::on(server, "Home");
    let hang = "sleep 600; echo x";
    Home::with(vec![if in_password { account.pass_cmd(hang) } else { account.port(delay.port()) }])
}

#[track_caller]
fn wait_for_hanging(home: &Home, delay: &Delay, in_password: bool) {
    // Not before it sleeps: dash blocks signals while it forks, and what it starts
    // then has not had them.
    wait_until(SHORT, "the run hangs", || {
        if in_password { home.count_running("sleep 600") > 0 } else { delay.open() > 0 }
    });
}

/// Whether the request for the account is kept: taken up, or put back.
fn stands(home: &Home) -> bool {
    ["run/*", "want/*"].iter().any(|file| home.state("Home").join(file).exists())
}

/// Ends the connections of one run, so that the next one's is told from them.
#[track_caller]
fn cut(delay: &Delay) {
    delay.cut();
    wait_until(SHORT, "no connection is open", || delay.open() == 0);
}

#[test]
fn g8_signals_end_everything_at_once() {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    delay.stall();
    let ends = |in_password, (signal, code)| {
        let home = hanging(&server, &delay, in_password);
        let child = start(&mut home.cmd(&["Home"]));
        wait_for_hanging(&home, &delay, in_password);
        all_gone_at_once(&home, child.id(), signal);
        assert_eq!(code_of(child), code);
        assert!(stands(&home), "the request stands");
        assert_eq!(state(&home, "retry.json"), "");
        cut(&delay);
    };
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)];
    for in_password in [false, true] {
        for signal in signals {
            ends(in_password, signal);
        }
    }
}

#[test]
fn g8_signals_end_a_child_left_behind() {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    delay.stall();
    for in_password in [false, true] {
        let home = hanging(&server, &delay, in_password);
        home.settings("settle = \"0s\"");
        home.mutt_sync(&["-b", "Home"]).ok();
        wait_for_hanging(&home, &delay, in_password);
        all_gone_at_once(&home, ours(&home)[0], Signal::TERM);
        assert!(stands(&home), "the request stands");
        cut(&delay);
    }
}

#[test]
fn g8_a_signal_ends_a_child_left_behind_at_every_moment_of_its_start() {
    let home = Home::fake(&["Home"]);
    home.settings("settle = \"1h\"");
    let _mbsync = home.fake_mbsync();
    // A start of some length, for each program that reads it.
    let comments = "# a line that is passed over\n".repeat(30_000);
    home.write(".mbsyncrc", &format!("{comments}{}", home.read(".mbsyncrc")));
    for step in 0..20 {
        home.mutt_sync(&["-b", "Home"]).ok();
        std::thread::sleep(Duration::from_millis(5 * step));
        // The process that is seen is the one that stays.
        let mut seen = Vec::new();
        rig::wait_until(SHORT, "a child", || {
            seen = home.leftovers();
            !seen.is_empty()
        });
        std::thread::sleep(Duration::from_millis(30));
        for (pid, _) in seen {
            rig::process::kill(pid, Signal::TERM);
        }
        home.wait_no_leftovers(SHORT);
    }
}

#[test]
fn g8_signals_on_a_terminal() {
    let server = Server::start();
    let delay = Delay::to(server.port(), Duration::ZERO);
    delay.stall();
    for (in_password, key) in [(false, None), (true, None), (true, Some("C-c"))] {
        let home = hanging(&server, &delay, in_password);
        let program = rig::mutt_sync().display().to_string();
        let script = format!("trap : INT; {program} Home; echo \"code=$?\"; exec cat");
        let terminal = Terminal::start(&home, &["sh", "-c", &script]);
        wait_for_hanging(&home, &delay, in_password);
        let pid = ours(&home)[0];
        // On a terminal the run stays in our group, so that it may ask.
        let since = Instant::now();
        match key {
            None => kill(pid, Signal::TERM),
            Some(key) => terminal.keys(&[key]),
        }
        wait_until(SHORT, "the process is gone", || !process::alive(pid));
        let took = since.elapsed();
        let of_the_run = |line: &str| line.contains("sleep") || line.contains("mbsync -");
        wait_until(NO_GRACE, "all of the run is gone", || {
            !home.leftovers().iter().any(|(_, line)| of_the_run(line))
        });
        let code = if key.is_some() { "code=130" } else { "code=143" };
        terminal.wait_for(code, SHORT);
        println!("{took:?}");
        assert!(took < NO_GRACE);
        assert_eq!(state(&home, "retry.json"), "", "no failure of mbsync's");
        cut(&delay);
    }
}

/// Without `Pass` and `PassCmd` mbsync asks for the password; here it is typed, or mbsync is ended
/// in the middle of that.
#[test]
fn g8_a_password_is_asked_for_and_the_terminal_left_as_it_was() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let file = home.read(".mbsyncrc");
    let without: Vec<&str> = file.lines().filter(|line| !line.starts_with("Pass ")).collect();
    home.write(".mbsyncrc", &without.join("\n"));
    let program = rig::mutt_sync().display().to_string();
    let script = format!("{program} Home; echo \"code=$?\"; stty -a; exec cat");
    for code in [0, 143] {
        let terminal = Terminal::start(&home, &["sh", "-c", &script]);
        terminal.wait_for("Password", SHORT);
        if code == 0 {
            terminal.text(&server.password("home"));
            terminal.keys(&["Enter"]);
        } else {
            kill(ours(&home)[0], Signal::TERM);
        }
        terminal.wait_for(&format!("code={code}"), SHORT);
        let screen = terminal.wait_for("isig", SHORT);
        assert!(!screen.contains("-isig"), "{screen}");
    }
}

#[test]
fn g2_g8_a_signal_to_one_that_waits_for_the_lock() {
    let home = Home::fake(&["Home"]);
    let mbsync = home.fake_mbsync();
    mbsync.hold();
    let first = start(&mut home.cmd(&["Home:INBOX"]));
    mbsync.wait_for_starts(1, SHORT);
    let second = start(&mut home.cmd(&["Home:Sent"]));
    wait_until(SHORT, "it waits", || process::threads(second.id()) > 1);
    // While the lock is held all the time.
    kill(second.id(), Signal::TERM);
    assert_eq!(code_of(second), 143);
    mbsync.release();
    assert_eq!(code_of(first), 0);
    // Its request stands, and nobody goes on by himself.
    assert_eq!(home.wants("Home"), ["Home:Sent"]);
    home.assert_no_leftovers();
    home.mutt_sync(&["Home:Drafts"]).ok();
    assert_eq!(mbsync.runs()[1].names(), ["Home:Drafts,Sent"]);
}

#[test]
fn g8_a_signal_to_one_that_stays_leaves_nobody_behind() {
    let home = Home::fake(&["Home"]);
    home.settings("burst = 1\nsettle = \"0s\"");
    let mbsync = home.fake_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let stays = start(&mut home.cmd(&["--block", "Home"]));
    let queue = home.state("Home").join("queue.lock");
    wait_until(SHORT, "it has the queue", || {
        use rustix::fs::{FlockOperation, flock};
        let file = std::fs::File::open(&queue);
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    });
    let said = home.mutt_sync(&["-b", "Home:INBOX"]).ok().stdout;
    assert!(said.starts_with("Home: queued for "), "{said}");
    kill(stays.id(), Signal::INT);
    assert_eq!(code_of(stays), 130);
    home.assert_no_leftovers();
    assert_eq!(home.wants("Home"), ["*", "Home:INBOX"]);
    home.mutt_sync(&["--force", "Home:Sent"]).ok();
    assert_eq!(home.wants("Home"), [""; 0]);
    assert_eq!(mbsync.runs().len(), 2);
}

#[test]
fn g8_a_process_that_ignores_term_is_killed() {
    let home = Home::fake(&["Home"]);
    let mut mbsync = home.fake_mbsync();
    mbsync.ignore_term();
    mbsync.hold();
    let child = start(&mut home.cmd(&["Home"]));
    mbsync.wait_for_starts(1, SHORT);
    let since = Instant::now();
    kill(child.id(), Signal::TERM);
    assert_eq!(code_of(child), 143);
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    home.assert_no_leftovers();
}

#[test]
fn g12_what_runs_in_the_background_never_asks() {
    let server = Server::start();
    let account = Account::on(&server, "Home").pass_cmd("gpg -q -d ~/pass.gpg");
    let home = Home::with(vec![account]);
    home.settings("settle = \"0s\"");
    home.write(".gnupg/gpg-agent.conf", "pinentry-program /usr/bin/pinentry-curses\n");
    let script = format!(
        "chmod 700 ~/.gnupg; echo {} | gpg -q --batch --pinentry-mode loopback --passphrase x \
         -c -o ~/pass.gpg; gpgconf --kill gpg-agent",
        server.password("home")
    );
    run(home.command("sh").args(["-c", &script]), LONG).ok();
    let program = rig::mutt_sync().display().to_string();
    // Aloud, the same would cover the screen.
    let loud = format!("export GPG_TTY=$(tty); {program} Home; exec cat");
    let terminal = Terminal::start(&home, &["sh", "-c", &loud]);
    terminal.wait_for("assphrase", LONG);
    drop(terminal);
    wait_until(SHORT, "no mutt-sync", || ours(&home).is_empty());
    // Its question would hold up the next.
    wait_until(SHORT, "nothing is left", || {
        let left = home.leftovers();
        for (pid, _) in &left {
            kill(*pid, Signal::KILL);
        }
        left.is_empty()
    });

    let quiet = format!("export GPG_TTY=$(tty); {program} -b Home; echo here; exec cat");
    let terminal = Terminal::start(&home, &["sh", "-c", &quiet]);
    let screen = terminal.wait_for("here", SHORT);
    wait_until(SHORT, "the failure is noted", || state(&home, "retry.json").contains("77"));
    let nothing_more = |screen: &str| {
        let lines: Vec<&str> = screen.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines, ["Home: syncing in the background", "here"], "{screen}");
    };
    nothing_more(&screen);
    nothing_more(&terminal.screen());
    assert_eq!(home.wants("Home"), ["*"]);
    assert_eq!(ours(&home).len(), 1, "a child waits until it may try again");
}

/// The same words mean the same, whether we hear them or mbsync does.
#[test]
fn every_provider_s_words_of_refusal_have_one_status() {
    let server = Server::start();
    for (words, code) in [
        // Gmail, mailbox.org, Yahoo, Stalwart, dovecot, Microsoft 365.
        ("NO [ALERT] Too many simultaneous connections. (Failure)", 75),
        ("NO [AUTHENTICATIONFAILED] failed. (Too many simultaneous connections.)", 75),
        ("NO [LIMIT] LOGIN Rate limit hit.", 75),
        ("NO [LIMIT] Too many concurrent sessions.", 75),
        ("NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded", 75),
        ("NO Request is throttled. Suggested Backoff Time: 299961 milliseconds", 75),
        // Gmail twice, Yahoo, Microsoft 365.
        ("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", 77),
        ("NO [ALERT] Application-specific password required: https://x.example (Failure)", 77),
        ("NO [AUTHENTICATIONFAILED] LOGIN Invalid credentials", 77),
        ("NO LOGIN failed.", 77),
    ] {
        let refuser = Refuser::before(server.port());
        refuser.answer("LOGIN", words);
        for by_mbsync in [false, true] {
            let account = Account::on(&server, "Home").port(refuser.port());
            let home = Home::with(vec![if by_mbsync { account.unjudged() } else { account }]);
            let output = home.mutt_sync(&["-v", "-f", "Home"]).expect_code(code);
            let ran = output.stderr.contains("running mbsync");
            assert_eq!(ran, by_mbsync, "{output}");
        }
    }
}
