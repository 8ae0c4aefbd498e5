//! What `tests/setup` says where something is missing. It runs as a user who may
//! install nothing, in a mount namespace where programs of the machine are hidden.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rig::{Output, real_mbsync, run};
use tempfile::TempDir;

use super::{SHORT, house};

/// Where Debian has the programs of which a test may hide some.
const PROGRAMS: [&str; 5] =
    ["/usr/bin/apt-get", "/usr/bin/sudo", "/usr/bin/tmux", "/usr/sbin/dovecot", "/usr/bin/rustup"];

/// A directory that is first on PATH, with a Rust toolchain of this version in it.
struct Setup {
    dir: TempDir,
}

impl Setup {
    fn with_rust(version: &str) -> Self {
        let setup = Setup { dir: TempDir::new().unwrap() };
        setup.program("rustc", &format!("echo 'rustc {version} (0 2025-01-01)'"));
        // Without clippy and rustfmt.
        setup.program("cargo", "[ \"$1\" = --version ] && echo cargo");
        setup
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let file = self.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// Runs it without the hidden programs, and with a PATH of its own directory
    /// and `/usr/bin`.
    fn run(&self, purpose: &str, hidden: &[&str], environment: &[(&str, &Path)]) -> Output {
        assert!(hidden.iter().all(|program| PROGRAMS.contains(program)), "{hidden:?}");
        let hide = "for program; do [ ! -e $program ] || mount --bind /dev/null $program; done\n\
                    exec unshare --user --map-user=1000 tests/setup $PURPOSE";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-euc", hide, "sh"]);
        command.args(hidden).current_dir(house()).env("PURPOSE", purpose);
        command.envs(environment.iter().copied());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path().display()));
        run(&mut command, SHORT)
    }

    /// Its only line when it fails.
    #[track_caller]
    fn refusal(&self, purpose: &str, hidden: &[&str]) -> String {
        let output = self.run(purpose, hidden, &[]).expect_code(1);
        assert_eq!(output.stdout, "", "{output}");
        let line = output.stderr.strip_prefix("tests/setup: ").expect("its name is in front");
        assert_eq!(line.matches('\n').count(), 1, "{output}");
        line.trim_end().to_owned()
    }
}

#[test]
fn setup_names_the_missing_packages_and_the_command_that_installs_them() {
    let setup = Setup::with_rust("1.85.0");
    let (tmux, dovecot, sudo) = ("/usr/bin/tmux", "/usr/sbin/dovecot", "/usr/bin/sudo");
    assert_eq!(
        setup.refusal("demo", &[dovecot, sudo]),
        "not root, and there is no sudo; please run as root: \
         apt-get install --no-install-recommends dovecot-core"
    );
    assert_eq!(
        setup.refusal("demo", &[dovecot, tmux, "/usr/bin/apt-get"]),
        "please install, by the names that Debian has for them: dovecot-core tmux"
    );
    setup.program("sudo", "exit 1");
    assert_eq!(
        setup.refusal("demo", &[tmux]),
        "sudo asks for a password, and there is no terminal; please run: \
         sudo apt-get install --no-install-recommends tmux"
    );
}

#[test]
fn setup_names_a_toolchain_that_is_missing_or_too_old_or_without_clippy() {
    let old = Setup::with_rust("1.63.0").refusal("demo", &[]);
    assert!(old.starts_with("Rust 1.63.0 is too old; please install 1.85 or later ("), "{old}");
    assert!(old.ends_with("rustup)"), "{old}");
    let setup = Setup::with_rust("1.85.0");
    assert_eq!(
        setup.refusal("test", &["/usr/bin/rustup"]),
        "please install clippy for your Rust toolchain"
    );
    setup.run("demo", &[], &[]).ok();
    setup.program("rustc", "exit 1");
    assert_eq!(
        setup.refusal("demo", &[]),
        "cargo does not start; with rustup, please run: rustup default stable"
    );
}

#[test]
fn setup_names_the_mbsync_that_the_tests_use_and_refuses_one_of_another_version() {
    let setup = Setup::with_rust("1.85.0");
    let mbsync = setup.program("mbsync", "echo isync 1.3.0");
    let real = real_mbsync();
    let said = setup.run("demo", &[], &[]).ok().stdout;
    assert!(said.starts_with("tests/setup: using isync 1."), "{said}");
    let which = format!("({}, not {}), dovecot 2.", real.display(), mbsync.display());
    assert!(said.contains(&which), "{said}");
    assert_eq!(
        setup.run("demo", &[], &[("PROGRAMS_FROM", setup.path())]).expect_code(1).stderr,
        format!(
            "tests/setup: {} is 'isync 1.3.0'; the tests need isync 1.4 or 1.5 \
             (PROGRAMS_FROM=DIRECTORY names another)\n",
            mbsync.display()
        )
    );
}
