//! A terminal to run mutt in, and to look at: tmux on a socket of its own.

use crate::guard;
use crate::home::Home;
use crate::process::{self, run};
use crate::server::temp_dir;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A terminal of fixed size with one program in it. Gone with its value.
pub struct Terminal {
    dir: TempDir,
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Terminal {
    /// 100 columns by 30 lines, with this program in the home's environment.
    #[track_caller]
    pub fn start(home: &Home, program: &[&str]) -> Self {
        Self::sized(home, 100, 30, program)
    }

    /// As large as told. The last screen stays when the program has ended.
    #[track_caller]
    pub fn sized(home: &Home, columns: u16, lines: u16, program: &[&str]) -> Self {
        let terminal = Terminal { dir: temp_dir() };
        guard::mark(&terminal.socket().display().to_string());
        let config = terminal.dir.path().join("conf");
        let settings = "set -g status off\nset -g remain-on-exit on\nset -sg escape-time 0\n\
                        set -g default-terminal screen-256color\n";
        std::fs::write(&config, settings).expect("write tmux.conf");
        // As `process::spawn` does with what it starts itself.
        let limit = process::limit_of(home.mark());
        let mut words = vec![format!("exec prlimit --locks={limit}: env -i TERM=screen-256color")];
        words.extend(home.env().iter().map(|(k, v)| shell_quoted(&format!("{k}={v}"))));
        words.extend(program.iter().map(|word| shell_quoted(word)));
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let mut tmux = terminal.tmux();
        tmux.arg("-f").arg(config).current_dir(home.path(""));
        tmux.args(["new-session", "-d", "-x", &columns, "-y", &lines, &words.join(" ")]);
        run(&mut tmux, Duration::from_secs(60)).ok();
        terminal
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("tmux")
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.env_clear().env("LANG", "C.UTF-8").env("SHELL", "/bin/sh");
        command.env("RIG_TERMINAL", self.socket());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").arg("-u").arg("-S").arg(self.socket());
        command
    }

    #[track_caller]
    fn ask(&self, args: &[&str]) -> String {
        run(self.tmux().args(args), Duration::from_secs(60)).ok().stdout
    }

    /// Presses keys by tmux's names: `q`, `Enter`, `Escape`, `C-l`, `F5`.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        let mut args = vec!["send-keys"];
        args.extend(keys);
        self.ask(&args);
    }

    /// Types this text as it is.
    #[track_caller]
    pub fn text(&self, text: &str) {
        self.ask(&["send-keys", "-l", "--", text]);
    }

    /// What is to be seen.
    #[track_caller]
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// What is to be seen, with escape sequences for colours.
    #[track_caller]
    pub fn coloured(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// The pid of the program in it.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let text = self.ask(&["display-message", "-p", "#{pane_pid}"]);
        text.trim().parse().expect("a pid")
    }

    /// Whether the program has ended.
    #[track_caller]
    pub fn ended(&self) -> bool {
        self.ask(&["display-message", "-p", "#{pane_dead}"]).trim() == "1"
    }

    /// Waits until the screen shows this, and returns the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str, limit: Duration) -> String {
        self.wait(text, limit, |screen| screen.contains(text))
    }

    /// Waits until the screen does not show this any more.
    #[track_caller]
    pub fn wait_without(&self, text: &str, limit: Duration) -> String {
        self.wait(&format!("no {text}"), limit, |screen| !screen.contains(text))
    }

    /// Waits until the screen is as this wants it.
    #[track_caller]
    pub fn wait(&self, what: &str, limit: Duration, holds: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(start.elapsed() < limit, "not within {limit:?}: {what}; the screen:\n{screen}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the program has ended.
    #[track_caller]
    pub fn wait_end(&self, limit: Duration) {
        let start = Instant::now();
        while !self.ended() {
            let screen = self.screen();
            assert!(start.elapsed() < limit, "has not ended within {limit:?}:\n{screen}");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Ok(output) = self.tmux().args(["capture-pane", "-p"]).output() {
                eprintln!("--- the screen\n{}---", String::from_utf8_lossy(&output.stdout));
            }
        }
        let _ = self.tmux().arg("kill-server").output();
    }
}
