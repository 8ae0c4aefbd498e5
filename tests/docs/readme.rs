//! The README: what it prints to be typed is run, what it lists is what the program has,
//! and its picture shows what the programs print today.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mutt_sync::settings::{File, KEYS};
use rig::{Home, Running, Server, Signal, message, run, wait_until};

use super::manual::section;
use super::{SHORT, files, house, text};

/// The lines that are set in, in blocks.
fn blocks() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    for line in text("README.md").lines() {
        match line.strip_prefix("    ") {
            Some(line) => found.last_mut().unwrap().push(line.to_owned()),
            None if !found.last().unwrap().is_empty() => found.push(Vec::new()),
            None => {}
        }
    }
    found.retain(|block| !block.is_empty());
    found
}

/// The block that begins with this.
fn block(start: &str) -> Vec<String> {
    let mut fitting = blocks().into_iter().filter(|block| block[0].starts_with(start));
    let found = fitting.next().unwrap_or_else(|| panic!("the README has no {start:?}"));
    assert_eq!(fitting.next(), None, "{start:?} stands twice");
    found
}

/// A shell command in a home, with the program on the PATH.
fn shell(home: &Home, command: &str) -> Command {
    let mut shell = home.command("sh");
    shell.args(["-euc", command]);
    shell
}

/// How each block begins, and the tests that run it. Those of `make` and of the package
/// do the same in a directory of their own.
const RUN_BY: [(&str, &[&str]); 14] = [
    ("git clone URL", &["the_readme_s_clone_has_the_demo"]),
    (
        "sudo apt-get install isync",
        &[
            "the_readme_installs_what_the_build_needs",
            "the_package_builds_and_holds_what_it_should",
        ],
    ),
    ("make", &["make_install_places_everything_and_uninstall_leaves_nothing"]),
    ("cargo install --locked --path .", &["cargo_would_install_both_programs"]),
    ("mutt-sync --init", &["the_readme_s_set_up_works_as_printed"]),
    ("mutt-sync --check", &["the_readme_s_set_up_works_as_printed"]),
    ("set mbox_type", &["the_readme_s_set_up_works_as_printed"]),
    ("mkdir -p ~/.config/mutt", &["the_readme_s_set_up_works_as_printed"]),
    ("new_mail =", &["the_readme_s_set_up_works_as_printed"]),
    ("mutt-sync --status", &["the_readme_s_set_up_works_as_printed"]),
    ("mutt-sync --wait --loop -a", &["the_readme_s_set_up_works_as_printed"]),
    ("systemctl --user enable", &["the_units_run_the_program", "the_readme_s_services_are_there"]),
    ("mutt-sync home", &["the_readme_s_set_up_works_as_printed"]),
    ("while mutt-sync --wait home", &["the_readme_s_set_up_works_as_printed"]),
];

#[test]
fn every_command_of_the_readme_has_its_test() {
    let sources: String = files("tests/docs").iter().map(|file| text(file)).collect();
    let told: Vec<String> = blocks().into_iter().map(|block| block[0].clone()).collect();
    assert_eq!(told.len(), RUN_BY.len(), "{told:#?}");
    for (line, (start, tests)) in told.iter().zip(RUN_BY) {
        assert!(line.starts_with(start), "{line:?} is not {start:?}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{start}: {test}");
        }
    }
}

#[test]
fn the_readme_s_clone_has_the_demo() {
    let dir = tempfile::tempdir().unwrap();
    let commands = block("git clone URL");
    assert_eq!(commands.last().unwrap(), "make demo");
    let script = commands.join("\n").replace("URL", &house().display().to_string());
    // What the demo does, `make test-debian` shows.
    let script = script.replace("make demo", "make -n demo");
    let mut shell = Command::new("sh");
    // The tree may belong to another user.
    shell.args(["-euc", &script]).current_dir(dir.path()).env_remove("MAKEFLAGS");
    shell.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory");
    shell.env("GIT_CONFIG_VALUE_0", "*");
    let said = run(&mut shell, SHORT).ok().stdout;
    assert!(said.contains("--bin demo"), "{said}");
}

#[test]
fn the_readme_installs_what_the_build_needs() {
    let commands = block("sudo apt-get install isync");
    let told: BTreeSet<&str> = commands[0].split(' ').skip(3).collect();
    let packages =
        run(Command::new(house().join("tests/setup")).arg("packages"), SHORT).ok().stdout;
    let known: BTreeSet<&str> = packages.lines().collect();
    assert!(told.is_subset(&known), "{told:?}");
    for needed in ["gcc", "make", "pkg-config", "libssl-dev"] {
        assert!(told.contains(needed), "{needed}");
    }
    // What `make deb` writes is what is installed next.
    let build = text("packaging/debian/build");
    assert!(build.contains("out=${1:-target/debian}") && build.contains("\"$out/mutt-sync_$"));
    assert_eq!(commands[2], "sudo apt-get install ./target/debian/mutt-sync_*.deb");
}

#[test]
fn cargo_would_install_both_programs() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version=1"]);
    let said = run(command.current_dir(house()), SHORT).ok().stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let packages = said["packages"].as_array().unwrap();
    let package = packages.iter().find(|each| each["name"] == "mutt-sync").unwrap();
    let programs: BTreeSet<&str> = package["targets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert_eq!(programs, BTreeSet::from(["mutt-sync", "mutt-sync-net"]));
}

#[test]
fn the_readme_s_set_up_works_as_printed() {
    let server = Server::start();
    let mut far = server.imap("home");
    far.append("INBOX", &message("first", "The first message."), &[]);
    let mut home = Home::empty();
    home.set_env("MUTT_SYNC_MUTE", "1");
    std::os::unix::fs::symlink(rig::mutt_sync(), home.path("bin/mutt-sync")).unwrap();
    for command in block("mutt-sync --init") {
        run(&mut shell(&home, &command), SHORT).ok();
    }
    // "complete the lines that are marked"
    let made = home.read(".mbsyncrc");
    assert!(made.contains("FILL IN"), "{made}");
    let completed: Vec<String> = made
        .lines()
        .map(|line| match line.split(' ').next().unwrap_or_default() {
            "Host" => format!("Host 127.0.0.1\nPort {}", server.port()),
            "User" => "User home".to_owned(),
            "PassCmd" => format!("PassCmd \"echo {}\"", server.password("home")),
            keyword @ ("SSLType" | "TLSType") => format!("{keyword} None\nAuthMechs LOGIN"),
            _ => line.to_owned(),
        })
        .collect();
    home.write(".mbsyncrc", &(completed.join("\n") + "\n"));
    for command in block("mutt-sync --check") {
        run(&mut shell(&home, &command), SHORT).ok();
    }
    let inbox = home.maildir("home", "INBOX");
    assert_eq!(inbox.len(), 1);
    for command in block("mkdir -p ~/.config/mutt") {
        run(&mut shell(&home, &command), SHORT).ok();
    }
    assert!(home.read(".config/mutt/account/home").contains("set my_account=\"home\""));

    let setting = block("new_mail =").join("\n");
    File::parse(&setting, "README.md", Path::new("/home/me")).unwrap();
    let installed = "/usr/local/share/mutt-sync/";
    let hook = setting.split('"').nth(1).unwrap().strip_prefix(installed).unwrap();
    assert!(house().join("contrib").join(hook).exists(), "{hook}");
    let settings = setting.replace(installed, &format!("{}/contrib/", house().display()));
    home.settings(&format!("throttle = \"0s\"\n{settings}\n"));

    // A service; then mutt, with the lines that are printed.
    let command = block("mutt-sync --wait --loop -a").join("\n");
    let waiter = Running::start(shell(&home, &format!("exec {command}")));
    wait_until(SHORT, "a waiter", || home.state("home").join("waiter.lock").exists());
    wait_until(SHORT, "a connection", || server.connections() == 1);
    let muttrc = block("set mbox_type").join("\n");
    let rc = format!("{}/muttrc.d/", house().display());
    let muttrc = muttrc.replace(&format!("{installed}muttrc.d/"), &rc);
    let neomutt = muttrc.replace("30-status.rc", "30-status-neomutt.rc");
    assert_ne!(muttrc, neomutt);
    for (client, muttrc, mail) in [("mutt", muttrc, "second"), ("neomutt", neomutt, "third")] {
        home.write(".muttrc", &(muttrc + "\nset mail_check=1 timeout=1\n"));
        let screen = rig::Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        screen.wait_for("first", SHORT);
        far.append("INBOX", &message(mail, "It comes by itself."), &[]);
        screen.wait_for(mail, SHORT);
        // The account's hook is there, so the line that brings it was taken.
        screen.text(":set ?my_account");
        screen.keys(&["Enter"]);
        screen.wait_for("my_account=\"home\"", SHORT);
        screen.text("x");
        screen.wait_end(SHORT);
    }
    waiter.signal(Signal::TERM);
    waiter.wait(SHORT);

    for command in block("mutt-sync --status").into_iter().chain(block("mutt-sync home")) {
        run(&mut shell(&home, &command), SHORT).ok();
    }
    home.wait_no_leftovers(SHORT);
    let turns = block("while mutt-sync --wait home").join("\n").replace("do :", "do echo turn");
    let scripts = Running::start(shell(&home, &turns));
    far.append("INBOX", &message("fourth", "For the loop."), &[]);
    wait_until(SHORT, "the first turn", || scripts.stdout().contains("turn"));
    assert_eq!(inbox.len(), 4);
    drop(scripts);
    home.wait_no_leftovers(SHORT);
}

#[test]
fn the_readme_s_services_are_there() {
    let commands = block("systemctl --user enable");
    let (unit, copy) = commands.split_first().unwrap();
    let unit = unit.split(' ').next_back().unwrap();
    let unit = text(&format!("contrib/systemd/{unit}.service"));
    assert!(unit.contains("--wait --loop --all") && unit.contains("[Install]"), "{unit}");
    let home = Home::empty();
    let contrib = house().join("contrib").display().to_string();
    let copy = copy.join("\n").replace("/usr/local/share/doc/mutt-sync/examples", &contrib);
    run(&mut shell(&home, &copy), SHORT).ok();
    assert!(home.path("service/mutt-sync/run").exists());
    let readme = text("README.md");
    for kind in ["systemd", "runit", "s6", "cron"] {
        assert!(readme.contains(kind) && house().join("contrib").join(kind).is_dir(), "{kind}");
    }
}

/// The words of a sentence of the README, from one place to another.
fn between(from: &str, to: &str) -> String {
    let readme = text("README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let after = readme.split_once(from).unwrap_or_else(|| panic!("README: {from}")).1.to_owned();
    after.split_once(to).unwrap_or_else(|| panic!("README: {to}")).0.to_owned()
}

/// The items of a sentence such as `a, b and c`.
fn items(sentence: &str) -> Vec<String> {
    let commas = sentence.replace(" and ", ", ").replace(" or ", ", ");
    commas.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_lists_of_the_readme_are_the_program_s() {
    let readme = text("README.md");
    // Mechanisms, in their order.
    let told = items(&between("mutt-sync logs in itself, by ", ". An account"));
    let login = text("src/imap/login.rs");
    let row =
        |line: &str| line.trim().strip_prefix("(Mechanism::")?.split('"').nth(1).map(str::to_owned);
    assert_eq!(told, login.lines().filter_map(row).collect::<Vec<_>>());
    // Providers.
    let recipes = section("man/mutt-sync.1", "PROVIDERS").join("\n");
    let recipes = recipes.split_once(".Ss Recipes\n").unwrap().1;
    let providers = items(&between("has recipes for ", ". Then"));
    assert_eq!(recipes.matches("\nIMAPAccount ").count(), providers.len());
    for provider in providers {
        assert!(recipes.contains(&format!("\n{provider}")), "{provider}");
    }
    // Guarantees, each once.
    let numbers = |text: &str, before: &str, after: char| -> Vec<u32> {
        let pieces = text.split(before).skip(1);
        pieces.filter_map(|piece| piece.split_once(after)?.0.parse().ok()).collect()
    };
    let mut told = numbers(&readme, "(G", ')');
    told.sort_unstable();
    let manual = section("man/mutt-sync.1", "GUARANTEES").join("\n") + "\n";
    assert_eq!(told, numbers(&manual, "\n.It G", '\n'));
    // Keys, by what mutt says they do.
    let keys: Vec<(String, String)> = text("muttrc.d/10-sync.rc")
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("macro index")?.split(' ').skip(1);
            let key = words.next()?.trim_matches(['<', '>']).to_owned();
            let about = line.rsplit('"').nth(1)?;
            let key = if key.len() > 1 { key.to_uppercase() } else { key };
            (!about.starts_with('(')).then(|| (key, about.to_owned()))
        })
        .collect();
    assert_eq!(keys.len(), 5);
    let (_, table) = readme.split_once("| key | what it does |\n|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let wanted: Vec<String> =
        keys.iter().map(|(key, about)| format!("| {key} | {about} |")).collect();
    assert_eq!(rows, wanted);
    // Settings.
    for setting in ["sweep", "connections"] {
        assert!(readme.contains(&format!("`{setting}`")), "{setting}");
        assert!(KEYS.iter().any(|key| key.name == setting), "{setting}");
    }
}

#[test]
fn the_versions_of_the_readme_are_those_that_are_tested() {
    let rust = format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION"));
    assert!(between("with git, make and ", " (").contains(&rust));
    let isync = items(&between("with isync ", ". ##"));
    assert_eq!(isync, ["1.4", "1.5"]);
    let setup = text("tests/setup");
    for version in &isync {
        assert!(setup.contains(&format!("'isync {version}.'*")), "{version}");
    }
    let debian = between("On Debian ", ", with");
    assert_eq!(debian, "12 or 13");
    let script = text("tests/debian");
    assert!(script.contains("bookworm") && script.contains("trixie"));
}

#[test]
fn the_files_of_the_readme_are_there() {
    let readme = text("README.md");
    let quoted = readme.split('`').skip(1).step_by(2);
    let mut seen = 0;
    for name in quoted.filter(|name| !name.contains(' ')) {
        let path = match name {
            "packaging/" | "benches/README.md" | "CONTRIBUTING.md" => name.to_owned(),
            "30-status-neomutt.rc" => format!("muttrc.d/{name}"),
            _ => continue,
        };
        assert!(house().join(&path).exists(), "{path}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    assert!(readme.contains("](docs/picture.svg)"));
}

/// The numbers of a row that have a unit, with the decimals that each is written with.
fn figures(row: &str) -> Vec<(f64, usize)> {
    let words: Vec<&str> = row.split([' ', ';', ',']).collect();
    let pairs = words.windows(2).filter(|pair| ["s", "MiB"].contains(&pair[1]));
    let figure = |pair: &[&str]| {
        let decimals = pair[0].split_once('.').map_or(0, |(_, rest)| rest.len());
        Some((pair[0].parse::<f64>().ok()?, decimals))
    };
    pairs.filter_map(figure).collect()
}

/// The starred rows are rows of the benchmarks' own tables, rounded.
#[test]
fn the_figures_of_the_readme_are_those_of_the_benchmarks() {
    let (readme, measured) = (text("README.md"), text("benches/README.md"));
    for (start, sources) in [
        (
            "| while somebody reads",
            &["| server to Maildir: median", "| Maildir to server: median"][..],
        ),
        ("| the slowest of 24", &["| server to Maildir: median", "| Maildir to server: median"]),
        ("| one changed mailbox of a hundred", &["| 100 | 40 ms | one changed"]),
        ("| waiting, one account", &["| private memory (USS)"]),
    ] {
        let row = readme.lines().find(|line| line.starts_with(start)).unwrap();
        let rows =
            measured.lines().filter(|line| sources.iter().any(|start| line.starts_with(start)));
        let known: Vec<(f64, usize)> = rows.flat_map(figures).collect();
        let shown = figures(row);
        assert!(shown.len() >= 2, "{row}");
        for (figure, decimals) in shown {
            let rounded =
                |known: f64| format!("{known:.decimals$}") == format!("{figure:.decimals$}");
            assert!(known.iter().any(|(known, _)| rounded(*known)), "{figure} in {row}: {known:?}");
        }
    }
}

/// The lines of a picture, with one number for all durations.
fn lines_of(svg: &str) -> BTreeSet<String> {
    let texts = svg.split("<text").skip(1).map(|rest| rest.split_once("</text>").unwrap().0);
    texts
        .map(|text| {
            let pieces = text.split('>').skip(1);
            let bare: String = pieces.map(|piece| piece.split('<').next().unwrap()).collect();
            let bare = bare.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            let words: Vec<&str> = bare.trim().split(' ').collect();
            let is_duration = |at: usize| {
                let unit = words.get(at + 1).map(|next| next.trim_end_matches([',', ':', ';']));
                let number = words[at].trim_start_matches('<').parse::<f64>();
                number.is_ok() && unit == Some("s")
            };
            let word = |at: usize| if is_duration(at) { "N" } else { words[at] };
            (0..words.len()).map(word).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn the_picture_shows_what_the_programs_print_today() {
    let kept = text("docs/picture.svg");
    assert!(kept.len() < 40_000, "{} bytes", kept.len());
    assert!(!kept.contains("<image") && !kept.contains("http://127"), "text stays text");
    let (kept, now) = (lines_of(&kept), lines_of(&rig::picture::record().svg()));
    assert!(kept.len() > 30, "{kept:#?}");
    let (gone, new): (Vec<_>, Vec<_>) =
        (kept.difference(&now).collect(), now.difference(&kept).collect());
    assert!(gone.is_empty() && new.is_empty(), "make picture: gone {gone:#?}, new {new:#?}");
}
