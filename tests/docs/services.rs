//! What is in `contrib`: the scripts by shellcheck, the services under their
//! real supervisors, or as these would run them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::{Home, Running, Server, Signal, compare, count, message, mutt_sync, run, wait_until};

use super::{SHORT, files, house, text};

#[test]
fn shellcheck_finds_nothing_in_the_scripts() {
    let is_for_bash = |name: &str| name == "completions/mutt-sync.bash";
    let mut scripts: Vec<String> = ["contrib", "packaging", "completions", ".ci"]
        .iter()
        .flat_map(|dir| files(dir))
        .chain(["tests/breakages", "tests/debian", "tests/setup", "tests/soak"].map(str::to_owned))
        .filter(|name| text(name).starts_with("#!/bin/sh") || is_for_bash(name))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 12, "{scripts:?}");
    let output = run(Command::new("shellcheck").current_dir(house()).args(&scripts), SHORT);
    assert!(output.code() == 0 && output.stdout.is_empty(), "{output}");
    for name in scripts.iter().filter(|name| !is_for_bash(name)) {
        let mode = fs::metadata(house().join(name)).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{name} is not executable");
    }
}

/// Copies a directory of `contrib` to where a user would have it.
fn install(home: &Home, from: &str, to: &str) {
    let to = home.path(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    run(Command::new("cp").arg("-r").arg(house().join(from)).arg(&to), SHORT).ok();
}

fn on_path(home: &Home) {
    fs::create_dir_all(home.path(".local/bin")).unwrap();
    std::os::unix::fs::symlink(mutt_sync(), home.path(".local/bin/mutt-sync")).unwrap();
}

/// The environment of a service: next to nothing.
fn bare(home: &Home, program: &str) -> Command {
    let mut command = home.command(program);
    for (name, _) in home.env() {
        if !["HOME", "TMPDIR"].contains(&name.as_str()) && !name.contains("MARK") {
            command.env_remove(name);
        }
    }
    command.env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn the_scripts_of_runit_and_s6_start_a_waiter_for_the_directory_s_account() {
    for kind in ["runit", "s6"] {
        let home = Home::empty();
        let seen = home.path("seen");
        home.write(
            ".local/bin/mutt-sync",
            &format!(
                "#!/bin/sh\necho \"$SSH_AUTH_SOCK\" \"$@\" >{seen}\necho \"$PATH\" >{seen}-path\n",
                seen = seen.display()
            ),
        );
        let program = home.path(".local/bin/mutt-sync");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        home.write(".config/mutt-sync/environment", "SSH_AUTH_SOCK=/run/agent\n");
        install(&home, &format!("contrib/{kind}"), "service/Home");
        let service = home.path("service/Home");
        run(bare(&home, "./run").current_dir(&service), SHORT).ok();
        assert_eq!(home.read("seen"), "/run/agent --wait --loop -- Home\n", "{kind}");
        // What the supervisor has, first.
        let path = home.read("seen-path");
        assert!(path.starts_with("/usr/bin:/bin:") && path.contains("/.local/bin:"), "{path}");
        home.write("service/Home/name", "My Mail\n");
        run(bare(&home, "./run").current_dir(&service), SHORT).ok();
        assert_eq!(home.read("seen"), "/run/agent --wait --loop -- My Mail\n", "{kind}");
        install(&home, &format!("contrib/{kind}-all"), "service/all");
        run(bare(&home, "./run").current_dir(home.path("service/all")), SHORT).ok();
        assert_eq!(home.read("seen"), "/run/agent --wait --loop --all\n", "{kind}");
        for file in ["finish", "log/run"] {
            let of = |kind: &str| text(&format!("contrib/{kind}/{file}"));
            assert_eq!(of(kind), of(&format!("{kind}-all")), "{file}");
        }
    }
}

#[test]
fn s6_starts_a_waiter_again_unless_that_is_no_use() {
    for (code, expected) in [("0", 0), ("1", 0), ("69", 0), ("2", 125), ("78", 125), ("256", 0)] {
        let output = run(Command::new(house().join("contrib/s6/finish")).args([code, "15"]), SHORT);
        assert_eq!(output.code(), expected, "{code}");
    }
}

fn sv(home: &Home, words: &[&str]) -> String {
    let service = home.path("service/Home").display().to_string();
    let mut command = bare(home, "sv");
    command.args(["-w", "50"]).args(words).arg(service);
    run(&mut command, SHORT * 3).ok().stdout
}

#[test]
fn g8_runsv_brings_it_up_and_down_while_mail_arrives() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings("throttle = \"0s\"\n");
    on_path(&home);
    install(&home, "contrib/runit", "service/Home");
    let supervisor = {
        let mut command = bare(&home, "runsv");
        command.arg(home.path("service/Home"));
        Running::start(command)
    };
    let status = home.path("service/Home/supervise/stat");
    let runs = || fs::read_to_string(&status).is_ok_and(|text| text.starts_with("run"));
    let mut far = server.imap("home");
    let rounds = count(4, 50);
    for round in 0..rounds {
        wait_until(SHORT, "the service is up", runs);
        // Now and then early, while it starts or syncs; now and then late.
        std::thread::sleep(Duration::from_millis(150 * (round as u64 % 7)));
        far.append("INBOX", &message(&format!("mail {round}"), "while up"), &[]);
        std::thread::sleep(Duration::from_millis(70 * (round as u64 % 5)));
        sv(&home, &["down"]);
        let strangers = || -> Vec<_> {
            let known = |line: &str| line.contains("svlogd") || line.contains("runsv");
            home.leftovers().into_iter().filter(|(_, line)| !known(line)).collect()
        };
        let what = format!("nothing is left behind in round {round}");
        wait_until(SHORT, &what, || strangers().is_empty());
        far.append("INBOX", &message(&format!("gap {round}"), "while down"), &[]);
        sv(&home, &["up"]);
    }
    let inbox = home.maildir("Home", "INBOX");
    wait_until(SHORT * 3, "all mail", || inbox.len() == 2 * rounds);
    // The last run may still be at work on what it has fetched.
    wait_until(SHORT, "both sides equal", || compare(&mut far, &home.mail("Home")).is_ok());
    sv(&home, &["down"]);
    sv(&home, &["exit"]);
    supervisor.wait(SHORT);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn runit_leaves_a_wrong_configuration_down_and_says_so() {
    let home = Home::with(vec![rig::Account::fake("Home")]);
    home.write(".mbsyncrc", "Nonsense here\n");
    on_path(&home);
    install(&home, "contrib/runit", "service/Home");
    let mut command = bare(&home, "runsv");
    command.arg(home.path("service/Home"));
    let supervisor = Running::start(command);
    let status = home.path("service/Home/supervise/stat");
    wait_until(SHORT, "the service is down", || {
        fs::read_to_string(&status).is_ok_and(|text| text.starts_with("down"))
            && home.read("service/Home/log/main/current").contains("then sv up")
    });
    let log = home.read("service/Home/log/main/current");
    assert!(log.contains(".mbsyncrc:1: "), "{log}");
    supervisor.signal(Signal::TERM);
    supervisor.wait(SHORT);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn systemd_finds_nothing_in_the_units() {
    let home = Home::empty();
    let units = home.path("units");
    fs::create_dir(&units).unwrap();
    let mut given = Vec::new();
    for file in files("contrib/systemd") {
        let name = Path::new(&file).file_name().unwrap().to_str().unwrap().to_owned();
        // A template is looked at through one of its instances.
        fs::copy(house().join(&file), units.join(&name)).unwrap();
        given.push(units.join(name.replace("@.", "@Home.")));
    }
    assert_eq!(given.len(), 4);
    fs::copy(units.join("mutt-sync@.service"), units.join("mutt-sync@Home.service")).unwrap();
    let mut command = home.command("systemd-analyze");
    command.args(["--user", "verify", "--man=no"]).args(&given);
    command.env("XDG_RUNTIME_DIR", home.path("tmp"));
    let output = run(&mut command, SHORT).ok();
    assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output}");
}

#[test]
fn the_units_run_the_program() {
    // As systemd would, with its own quoting undone: `$$` is a dollar sign.
    let units = ["mutt-sync-once.service", "mutt-sync@.service", "mutt-sync.service"];
    for (unit, mail) in units.map(|unit| (unit, unit == "mutt-sync-once.service")) {
        let source = text(&format!("contrib/systemd/{unit}"));
        let line =
            |key: &str| source.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        server.imap("home").append("INBOX", &message("one", "body"), &[]);
        on_path(&home);
        let words = line("ExecStart=").replace("%I", "Home").replace("$$", "$");
        let mut command = bare(&home, "sh");
        command.args(["-c", &format!("exec {words}")]);
        let process = Running::start(command);
        let inbox = home.maildir("Home", "INBOX");
        wait_until(SHORT, "the message", || inbox.exists() && inbox.len() == 1);
        if !mail {
            process.signal(Signal::TERM);
        }
        process.wait(SHORT).expect_code(if mail { 0 } else { 143 });
        // To systemd, an exit status is no end by a signal.
        assert!(mail || line("SuccessExitStatus=") == "143");
        home.wait_no_leftovers(SHORT);
    }
}

#[test]
fn the_lines_for_cron_run_the_program() {
    let source = text("contrib/cron/crontab");
    let commands: Vec<&str> =
        source.lines().filter_map(|line| line.find("mutt-sync -").map(|at| &line[at..])).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let server = Server::start();
        let home = Home::on(&server, &["Home"]);
        server.imap("home").append("INBOX", &message("one", "body"), &[]);
        on_path(&home);
        let mut shell = bare(&home, "sh");
        shell.args(["-c", command]);
        shell.env("PATH", format!("{}:/usr/bin:/bin", home.path(".local/bin").display()));
        let process = Running::start(shell);
        let inbox = home.maildir("Home", "INBOX");
        wait_until(SHORT, "the message", || inbox.exists() && inbox.len() == 1);
        if command.contains("--loop") {
            for (pid, _) in home.leftovers() {
                rig::process::kill(pid, Signal::TERM);
            }
        }
        let output = process.wait(SHORT);
        // cron makes a mail of whatever is said.
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
        home.wait_no_leftovers(SHORT);
    }
}

#[test]
fn a_timer_is_quiet_and_succeeds_while_the_server_is_away() {
    let home = Home::with(vec![rig::Account::fake("Home")]);
    // Twice: not reached, and then not tried for a while.
    for expected in ["69", "75"] {
        let output = home.mutt_sync(&["--all", "--block", "-qq"]);
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
        assert_eq!(output.code().to_string(), expected);
        let unit = text("contrib/systemd/mutt-sync-once.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("SuccessExitStatus="));
        assert!(line.is_some_and(|codes| codes.split(' ').any(|code| code == expected)));
    }
    home.wait_no_leftovers(SHORT);
}

/// As root with the programs that make it another user's, and as that user.
#[test]
fn the_script_for_a_network_that_comes_tries_what_was_offline() {
    let (mut server, refusing) = (Server::start(), Server::start());
    let home = Home::with(vec![
        rig::Account::on(&server, "Home"),
        rig::Account::on(&refusing, "Work").login("work", "wrong"),
        rig::Account::fake("Far").account_line("Tunnel ~/bin/tunnel"),
    ]);
    server.imap("home").append("INBOX", &message("one", "body"), &[]);
    home.program("tunnel", "echo started >>\"$HOME/tunnels\"; exit 1");
    server.stop();
    for (account, code) in [("Home", 69), ("Work", 77), ("Far", 69)] {
        home.mutt_sync(&[account]).expect_code(code);
    }
    server.restart();
    on_path(&home);
    let passwd = format!("echo \"$2:x:1000:1000::{}:/bin/sh\"", home.path("").display());
    home.program("getent", &passwd);
    home.program("id", "echo 0");
    home.program("ps", "echo 1000");
    home.program("runuser", "echo \"$2\" >>\"$HOME/users\"; shift 3; exec \"$@\"");
    let script = |words: &[&str]| {
        let mut command = bare(&home, "contrib/network/50-mutt-sync");
        command.current_dir(house()).args(words);
        let path = [home.path("bin"), home.path(".local/bin")].map(|dir| dir.display().to_string());
        run(command.env("PATH", format!("{}:/usr/bin:/bin", path.join(":"))), SHORT).ok()
    };
    let inbox = home.maildir("Home", "INBOX");
    for words in [&["eth0", "down"][..], &["eth0", "pre-up"]] {
        let output = script(words);
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
        assert_eq!(home.read("users"), "");
    }
    let refused = (refusing.failed_logins(), home.read("tunnels"));
    script(&["eth0", "up"]);
    wait_until(SHORT, "the message", || inbox.exists() && inbox.len() == 1);
    assert_eq!(home.read("users"), "1000\n");
    home.wait_no_leftovers(SHORT);
    assert_eq!((refusing.failed_logins(), home.read("tunnels")), refused);
    // Nothing is offline any more, and without arguments the network has come.
    let runs = home.read(".local/state/mutt-sync/Home/last.json");
    script(&[]);
    assert_eq!(home.read("users"), "1000\n1000\n");
    home.wait_no_leftovers(SHORT);
    assert_eq!(home.read(".local/state/mutt-sync/Home/last.json"), runs);
}
