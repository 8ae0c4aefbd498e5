//! Every key of ours in every state of the world, in both clients: with and
//! without a message marked deleted; when all is well, in a read-only folder,
//! with no server, with a broken configuration. Afterwards the client is as it
//! was: in its index, with no question open and no setting changed.
#![allow(clippy::unwrap_used)]

use crate::support::{CLIENTS, bottom};
use rig::{Home, Maildir, Mbsync, Terminal, message, wait_until};
use std::cell::Cell;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(30);
const MAILS: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Well,
    ReadOnly,
    NoServer,
    Broken,
}

/// What was logged but for `--result` and the first call of F8.
fn without_tail(log: &str) -> String {
    let is_other = |line: &&str| !["--result", "--key-step"].iter().any(|it| line.starts_with(it));
    log.split_inclusive('\n').filter(is_other).collect()
}

/// The account that the environment names while the key does its work.
fn account(key: &str) -> &'static str {
    if key == "F7" { "Home:INBOX" } else { "Home" }
}

struct Cells {
    home: Home,
    _mbsync: Option<Mbsync>,
    terminal: Terminal,
    inbox: Maildir,
    world: World,
    client: &'static str,
    /// What `:set ?wait_key` says before any key.
    wait_key: String,
    /// What is wrong, as our keys say it.
    wrong: String,
    /// How often "Press any key" has been said.
    asked_for_a_key: Cell<usize>,
}

impl Cells {
    fn start(client: &'static str, world: World) -> Self {
        let home = Home::fake(&["Home", "Work"]);
        let script = format!(
            "[ \"$1\" = --muttrc ] || printf '%s|%s\\n' \"$*\" \"$MUTT_SYNC_ACCOUNT\" >>~/log\n\
             exec '{}' \"$@\"",
            rig::mutt_sync().display()
        );
        home.program("mutt-sync", &script);
        home.settings("burst = 1000\nthrottle = \"1s\"\nsettle = \"100ms\"\n");
        let inbox = home.maildir("Home", "INBOX");
        for n in 1..=MAILS {
            let subject = format!("Message {n}");
            inbox.add(&message(&subject, &subject), "S");
        }
        home.muttrc("Home", "set wait_key=yes sort=subject\nsource \"mutt-sync --muttrc|\"");
        let mbsync = (world != World::NoServer).then(|| home.fake_mbsync());
        let mut line = vec![client, "-n", "-F", ".muttrc"];
        line.extend((world == World::ReadOnly).then_some("-R"));
        // Wide enough for what is said of two accounts: isync 1.5's errors are long,
        // and neomutt gives a second line to what does not fit into one.
        let terminal = Terminal::sized(&home, 200, 30, &line);
        terminal.wait_for(&format!("Message {MAILS}"), SHORT);
        let good = home.read(".mbsyncrc");
        let mut wrong = String::new();
        if world == World::Broken {
            let at = 1 + good.lines().position(|line| line.starts_with("Patterns")).unwrap();
            home.write(".mbsyncrc", &good.replacen("Patterns", "Paterns", 1));
            wrong = format!(".mbsyncrc:{at}: ");
        }
        let mut cells = Cells {
            home,
            _mbsync: mbsync,
            terminal,
            inbox,
            world,
            client,
            wait_key: String::new(),
            wrong,
            asked_for_a_key: Cell::new(0),
        };
        cells.wait_key = cells.asked("wait_key");
        assert_ne!(cells.wait_key, "");
        cells
    }

    /// What the client says of a variable. It can say so only if no question is
    /// open and no other message in the way.
    fn asked(&self, variable: &str) -> String {
        // What is typed while mutt complains, it throws away.
        let until = Instant::now() + SHORT;
        let open = |screen: &str| bottom(screen).starts_with(':');
        while !open(&self.terminal.screen()) {
            assert!(Instant::now() < until, "{}", self.terminal.screen());
            self.terminal.text(":");
            let deadline = Instant::now() + Duration::from_secs(5);
            while !open(&self.terminal.screen()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.terminal.text(&format!("set ?{variable}\n"));
        let said = |screen: &str| {
            let line = bottom(screen);
            !line.starts_with(':') && (line.starts_with(variable) || line.ends_with(variable))
        };
        let screen = self.terminal.wait(variable, SHORT, said);
        bottom(&screen).to_owned()
    }

    /// Marks a message deleted, where that can be done.
    fn delete(&self) {
        self.terminal.keys(&["d"]);
        let done = |screen: &str| match self.world {
            World::ReadOnly => bottom(screen).contains("read-only"),
            _ => screen.contains("Del:1"),
        };
        self.terminal.wait("a mark, or a refusal", SHORT, done);
    }

    /// Presses the key; what it was expected to leave on the screen and on disk.
    fn press(&self, key: &str, call: &str, deleted: bool, gone: &mut usize) {
        let Cells { home, terminal, world, client, .. } = self;
        let cell = format!("{client}, {key}, {world:?}, deleted: {deleted}");
        if deleted {
            self.delete();
            *gone += usize::from(*world != World::ReadOnly);
        }
        home.write("log", "");
        terminal.keys(&[key]);
        // The tail asks what came, and only where it is reached.
        let called = || without_tail(&home.read("log")) == format!("{call}|{}\n", account(key));
        match (key, world) {
            ("F8", World::ReadOnly) => {
                // mutt ends the macro where it would write; neomutt goes on.
                terminal
                    .wait(&cell, SHORT, |screen| bottom(screen).contains("read-only") || called());
            }
            ("F8", World::Well) => wait_until(SHORT, &cell, called),
            ("F8", _) => {
                // What was said at an earlier press stands above it.
                self.asked_for_a_key.set(self.asked_for_a_key.get() + 1);
                let times = self.asked_for_a_key.get();
                let screen = terminal
                    .wait(&cell, SHORT, |screen| screen.matches("Press any key").count() == times);
                let wanted = if self.wrong.is_empty() { "mutt-sync: Home: " } else { &self.wrong };
                assert!(screen.replace('\n', "").contains(wanted), "{cell}: {screen}");
                assert!(called(), "{cell}: {}", home.read("log"));
                // That key does nothing else.
                terminal.keys(&["d"]);
            }
            (_, World::ReadOnly) => {
                terminal.wait(&cell, SHORT, |screen| {
                    bottom(screen).contains("read-only")
                        || bottom(screen).starts_with("Home: in sync")
                });
                wait_until(SHORT, &cell, called);
            }
            (_, World::Broken) => {
                terminal.wait(&cell, SHORT, |screen| bottom(screen).contains(&self.wrong));
                assert!(called(), "{cell}: {}", home.read("log"));
            }
            (_, World::Well | World::NoServer) => {
                let says = match (key, world) {
                    (_, World::NoServer) => "Home: offline",
                    ("F6", _) => "Home: in sync; Work: in sync",
                    _ => "Home: in sync",
                };
                terminal.wait(&cell, SHORT, |screen| screen.contains(says));
                assert!(called(), "{cell}: {}", home.read("log"));
            }
        }
        let left = MAILS - *gone;
        let whole = format!("Msgs:{left}");
        let screen = terminal
            .wait(&cell, SHORT, |screen| screen.contains(&whole) && screen.contains("Message 1"));
        assert!(!screen.contains("Del:"), "{cell}: {screen}");
        assert_eq!(self.asked("wait_key"), self.wait_key, "{cell}");
        wait_until(SHORT, &cell, || self.inbox.len() == left);
    }

    /// The key that quits, with what is marked written first.
    fn quit(self, deleted: bool, gone: usize) {
        if deleted {
            self.delete();
        }
        let written = deleted && self.world != World::ReadOnly;
        self.home.write("log", "");
        self.terminal.keys(&["q"]);
        self.terminal.wait_end(SHORT);
        assert_eq!(self.home.read("log"), "-b -f -a|Home\n", "{}, {:?}", self.client, self.world);
        assert_eq!(self.inbox.len(), MAILS - gone - usize::from(written));
    }
}

const KEYS: [(&str, &str); 4] =
    [("F5", "-b -f"), ("F6", "-b -f -a"), ("F7", "-b -f"), ("F8", "-v -f --key-step sync")];

fn every_key_in(world: World) {
    for client in CLIENTS {
        let cells = Cells::start(client, world);
        let mut gone = 0;
        for (key, call) in KEYS {
            for deleted in [false, true] {
                cells.press(key, call, deleted, &mut gone);
            }
        }
        cells.quit(true, gone);
    }
}

#[test]
fn every_key_when_all_is_well() {
    every_key_in(World::Well);
}

#[test]
fn every_key_in_a_read_only_folder() {
    every_key_in(World::ReadOnly);
}

#[test]
fn every_key_with_no_server() {
    every_key_in(World::NoServer);
}

#[test]
fn every_key_with_a_broken_configuration() {
    every_key_in(World::Broken);
}

/// The keys of the pager leave one in the pager.
#[test]
fn every_key_in_the_pager() {
    for client in CLIENTS {
        let cells = Cells::start(client, World::Well);
        let Cells { home, terminal, .. } = &cells;
        terminal.keys(&["Enter"]);
        terminal.wait_for("Subject: Message", SHORT);
        for (key, call) in KEYS {
            home.write("log", "");
            terminal.keys(&[key]);
            let want = format!("{call}|{}\n", account(key));
            wait_until(SHORT, "the call", || without_tail(&home.read("log")) == want);
            if key != "F8" {
                terminal.wait(key, SHORT, |screen| bottom(screen).starts_with("Home: in sync"));
            }
            terminal.wait("the pager", SHORT, |screen| screen.contains("Subject: Message"));
            assert_eq!(cells.asked("wait_key"), cells.wait_key, "{client}, {key}");
        }
        terminal.keys(&["i"]);
        terminal.wait_without("Subject: Message", SHORT);
        cells.quit(false, 0);
    }
}
