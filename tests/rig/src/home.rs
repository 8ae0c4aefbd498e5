//! A user's home in a temporary directory: `.mbsyncrc`, Maildirs, muttrc, an
//! environment with nothing of the machine's own in it, and a mark by which
//! every process that comes of it is found again.

use crate::guard;
use crate::maildir::Maildir;
use crate::mbsync::Mbsync;
use crate::process::{self, MARK_VARIABLE, Output, run};
use crate::server::{Server, Tls, temp_dir};
use crate::tls::Ca;
use rustix::process::Signal;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Where mbsync, mutt and the rest are looked for: first in the directory that
/// `PROGRAMS_FROM` names, to test with other versions of them. `tests/setup`
/// looks in the same places.
fn search_path() -> String {
    match env::var("PROGRAMS_FROM") {
        Ok(first) if !first.is_empty() => format!("{first}:{SYSTEM_PATH}"),
        _ => SYSTEM_PATH.to_owned(),
    }
}

/// The real mbsync: the one that is started by its name where the search path
/// is not changed.
pub fn real_mbsync() -> PathBuf {
    env::split_paths(&search_path())
        .map(|dir| dir.join("mbsync"))
        .find(|file| file.is_file())
        .expect("mbsync is installed (tests/setup)")
}

/// What it says of its version, such as `isync 1.4.4`.
pub(crate) fn mbsync_says() -> &'static str {
    static SAID: OnceLock<String> = OnceLock::new();
    SAID.get_or_init(|| {
        let mut command = Command::new(real_mbsync());
        let said = run(command.arg("--version"), Duration::from_secs(60)).ok().stdout;
        said.trim().to_owned()
    })
}

/// Its version, such as (1, 4).
pub fn mbsync_version() -> (u32, u32) {
    let said = mbsync_says();
    let mut numbers = said.rsplit(' ').next().into_iter().flat_map(|version| version.split('.'));
    let mut number = || numbers.next()?.parse().ok();
    match (number(), number()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => panic!("mbsync --version says {said:?}"),
    }
}

/// The program under test: beside the test's own directory, as cargo lays them
/// out, or what `MUTT_SYNC_BIN` names.
pub fn mutt_sync() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(told) = env::var_os("MUTT_SYNC_BIN") {
            return told.into();
        }
        let own = env::current_exe().expect("own path");
        own.ancestors()
            .skip(1)
            .take(3)
            .map(|dir| dir.join("mutt-sync"))
            .find(|binary| binary.is_file())
            .expect("mutt-sync is built: `cargo build`, or run an integration test of its package")
    })
}

/// An older version of the program, to test and measure beside this one: what
/// `OLDER` names (a path to its `mutt-sync`).
pub fn older_mutt_sync() -> Option<PathBuf> {
    let told = PathBuf::from(env::var_os("OLDER").filter(|told| !told.is_empty())?);
    assert!(told.is_file(), "OLDER: no program {}", told.display());
    Some(told)
}

/// The files that mutt-sync keeps for each account, but for its requests.
pub const STATE_FILES: [&str; 18] = [
    "asked",
    "bytes",
    "logins",
    "pace",
    "held.json",
    "held.lock",
    "refused.json",
    "refused.lock",
    "lock",
    "queue.lock",
    "waiter.lock",
    "throttle",
    "last.json",
    "retry.json",
    "seen.json",
    "stuck.json",
    "gone.json",
    "pull.json",
];

/// An account in `.mbsyncrc`, with one channel of the same name, and a group
/// `NAME-frequent` of its INBOX and Sent.
#[derive(Debug, Clone)]
pub struct Account {
    name: String,
    host: String,
    port: u16,
    user: String,
    password: String,
    tls: Tls,
    /// PEM, for a `CertificateFile`.
    certificate: Option<String>,
    patterns: String,
    account_lines: String,
    far_lines: String,
    near_lines: String,
    channel_lines: String,
}

impl Account {
    /// One on this server: NAME, for the user of that name in lower case. All
    /// mailboxes, created and expunged on both sides.
    pub fn on(server: &Server, name: &str) -> Self {
        let user = name.to_lowercase();
        Account {
            name: name.to_owned(),
            host: server.host().to_owned(),
            port: server.port(),
            password: format!("Pass {}", server.password(&user)),
            user,
            tls: server.tls(),
            certificate: (server.tls() != Tls::None).then(|| Ca::shared().cert().to_owned()),
            patterns: "*".to_owned(),
            account_lines: String::new(),
            far_lines: String::new(),
            near_lines: String::new(),
            channel_lines: "Create Both\nExpunge Both\nRemove None\n".to_owned(),
        }
    }

    /// One whose server is never asked, for fakes.
    pub fn fake(name: &str) -> Self {
        Account {
            name: name.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            user: name.to_lowercase(),
            password: "Pass none".to_owned(),
            tls: Tls::None,
            certificate: None,
            patterns: "INBOX Archive Drafts Sent Trash".to_owned(),
            account_lines: String::new(),
            far_lines: String::new(),
            near_lines: String::new(),
            channel_lines: "Create Both\nExpunge Both\nRemove None\n".to_owned(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reached by this port, such as a [`crate::Delay`]'s.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Logs in as another user, with this password.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        user.clone_into(&mut self.user);
        self.password = format!("Pass {password}");
        self
    }

    /// Gets its password from this command.
    pub fn pass_cmd(mut self, command: &str) -> Self {
        let escaped = command.replace('\\', "\\\\").replace('"', "\\\"");
        self.password = format!("PassCmd \"{escaped}\"");
        self
    }

    /// The channel's Patterns.
    pub fn patterns(mut self, patterns: &str) -> Self {
        patterns.clone_into(&mut self.patterns);
        self
    }

    /// Trusts these certificates (PEM) in place of the rig's CA.
    pub fn certificate(mut self, pem: &str) -> Self {
        self.certificate = Some(pem.to_owned());
        self
    }

    /// A further line in the `IMAPAccount`.
    pub fn account_line(mut self, line: &str) -> Self {
        self.account_lines += &format!("{line}\n");
        self
    }

    /// A further line in the `IMAPStore`.
    pub fn far_line(mut self, line: &str) -> Self {
        self.far_lines += &format!("{line}\n");
        self
    }

    /// A further line in the `MaildirStore`.
    pub fn near_line(mut self, line: &str) -> Self {
        self.near_lines += &format!("{line}\n");
        self
    }

    /// Lines of the channel in place of `Create Both`, `Expunge Both`, `Remove None`.
    pub fn channel(mut self, lines: &str) -> Self {
        self.channel_lines = format!("{}\n", lines.trim_end());
        self
    }

    /// With a `Sync` on which no verdict can be given: mbsync is run without a question.
    pub fn unjudged(self) -> Self {
        self.channel("Create Both\nExpunge Both\nRemove None\nSync PullNew PushNew")
    }

    /// Its part of `.mbsyncrc`.
    pub fn sections(&self) -> String {
        let Account { name, host, port, user, password, patterns, .. } = self;
        let tls = match self.tls {
            Tls::None => "None",
            Tls::StartTls => "STARTTLS",
            Tls::Imaps => "IMAPS",
        };
        let mut text = format!(
            "IMAPAccount {name}\nHost {host}\nPort {port}\nUser {user}\n{password}\nSSLType {tls}\n"
        );
        if self.certificate.is_some() {
            text += &format!("SystemCertificates no\nCertificateFile ~/{name}.pem\n");
        } else {
            text += "AuthMechs LOGIN\n";
        }
        let _ = write!(
            text,
            "{}\nIMAPStore {name}-far\nAccount {name}\n{}\n\
             MaildirStore {name}-near\nPath ~/Mail/{name}/\nInbox ~/Mail/{name}/INBOX\n\
             SubFolders Verbatim\n{}\n\
             Channel {name}\nFar :{name}-far:\nNear :{name}-near:\nPatterns {patterns}\n\
             SyncState *\n{}\n\
             Group {name}-frequent\nChannel {name}:INBOX,Sent\n\n",
            self.account_lines, self.far_lines, self.near_lines, self.channel_lines
        );
        text
    }
}

/// A home. Gone with its value, with every process that carries its mark.
pub struct Home {
    dir: TempDir,
    accounts: Vec<Account>,
    env: Vec<(String, String)>,
    mark: String,
    program: PathBuf,
}

impl Home {
    /// Without accounts: no `.mbsyncrc`.
    pub fn empty() -> Self {
        let dir = temp_dir();
        let at = |sub: &str| dir.path().join(sub).display().to_string();
        let mark = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        guard::mark(&mark);
        let env = [
            ("HOME", dir.path().display().to_string()),
            ("USER", "tester".to_owned()),
            ("LOGNAME", "tester".to_owned()),
            ("SHELL", "/bin/sh".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("PATH", format!("{}:{}", at("bin"), search_path())),
            ("TMPDIR", at("tmp")),
            ("XDG_CONFIG_HOME", at(".config")),
            ("XDG_STATE_HOME", at(".local/state")),
            ("XDG_DATA_HOME", at(".local/share")),
            ("XDG_CACHE_HOME", at(".cache")),
            ("GNUPGHOME", at(".gnupg")),
            (MARK_VARIABLE, mark.clone()),
        ];
        let home = Home {
            accounts: Vec::new(),
            env: env.map(|(key, value)| (key.to_owned(), value)).to_vec(),
            mark,
            dir,
            program: mutt_sync().to_owned(),
        };
        for sub in ["bin", "tmp", "Mail", ".config/mutt-sync", ".local/state"] {
            fs::create_dir_all(home.path(sub)).expect("make directory");
        }
        home
    }

    /// With these accounts in `.mbsyncrc`, and `~/Mail/NAME` for each.
    pub fn with(accounts: Vec<Account>) -> Self {
        let mut home = Home::empty();
        home.set_accounts(accounts);
        home
    }

    /// With the accounts of these names on the server, as [`Account::on`] has them.
    pub fn on(server: &Server, names: &[&str]) -> Self {
        Home::with(names.iter().map(|name| Account::on(server, name)).collect())
    }

    /// With accounts for a fake mbsync, the mailboxes there but empty. On them no verdict
    /// can be given, so that no server is asked before a run.
    pub fn fake(names: &[&str]) -> Self {
        let account = |name: &&str| Account::fake(name).unjudged();
        let home = Home::with(names.iter().map(account).collect());
        for name in names {
            for mailbox in ["INBOX", "Archive", "Drafts", "Sent", "Trash"] {
                home.maildir(name, mailbox).create();
            }
        }
        home
    }

    /// Writes `.mbsyncrc` anew.
    pub fn set_accounts(&mut self, accounts: Vec<Account>) {
        let sections: String = accounts.iter().map(Account::sections).collect();
        // No test pulls the plug, and syncing the disk is most of mbsync's time.
        let text = format!("FSync no\n\n{sections}");
        self.write(".mbsyncrc", &text);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path(".mbsyncrc"), private).expect("chmod");
        for account in &accounts {
            if let Some(certificate) = &account.certificate {
                self.write(&format!("{}.pem", account.name), certificate);
            }
            fs::create_dir_all(self.path("Mail").join(&account.name)).expect("make directory");
        }
        self.accounts = accounts;
    }

    /// A path in it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file in it, with the directories above.
    pub fn write(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.path(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("make directory");
        }
        fs::write(&path, text).expect("write file");
        path
    }

    /// Reads a file in it; empty if there is none.
    pub fn read(&self, relative: &str) -> String {
        let bytes = fs::read(self.path(relative)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes a shell script into its `bin`, first in the PATH.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// Writes mutt-sync's settings.
    pub fn settings(&self, toml: &str) -> PathBuf {
        self.write(".config/mutt-sync/config.toml", toml)
    }

    /// Where mutt-sync keeps an account's state.
    pub fn state(&self, account: &str) -> PathBuf {
        self.path(".local/state/mutt-sync").join(account)
    }

    /// The names of an account's requests that no run has taken yet, in order.
    pub fn wants(&self, account: &str) -> Vec<String> {
        self.requests_in(account, &["want"])
    }

    /// The names of an account's requests, those a run has taken with them, in order.
    pub fn requests(&self, account: &str) -> Vec<String> {
        self.requests_in(account, &["want", "run"])
    }

    fn requests_in(&self, account: &str, places: &[&str]) -> Vec<String> {
        let list = |place: &&str| fs::read_dir(self.state(account).join(place)).into_iter();
        let entries = places.iter().flat_map(list).flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        // Marks, which move with the requests.
        names.retain(|name| !name.starts_with('='));
        names.sort();
        names
    }

    /// The directory of an account's mailboxes: the root for [`crate::compare`].
    pub fn mail(&self, account: &str) -> PathBuf {
        self.path("Mail").join(account)
    }

    /// One mailbox of an account.
    pub fn maildir(&self, account: &str, mailbox: &str) -> Maildir {
        Maildir::at(self.mail(account).join(mailbox))
    }

    /// Sets the mtimes of all mailboxes back, so that mbsync does not wait a
    /// second for them to settle.
    pub fn age(&self) {
        for account in &self.accounts {
            age_below(&self.mail(&account.name));
        }
    }

    /// Sets a variable of the environment.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.unset_env(key);
        self.env.push((key.to_owned(), value.to_owned()));
    }

    /// Takes a variable out of the environment.
    pub fn unset_env(&mut self, key: &str) {
        self.env.retain(|(k, _)| k != key);
    }

    /// The whole environment.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// A command with this environment, in this home.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env.iter().cloned()).current_dir(self.dir.path());
        command
    }

    /// Uses another mutt-sync than the one under test from now on.
    pub fn use_mutt_sync(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// mutt-sync with these arguments.
    pub fn cmd(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.args(args);
        command
    }

    /// Runs mutt-sync to its end, which must come within a minute.
    #[track_caller]
    pub fn mutt_sync(&self, args: &[&str]) -> Output {
        run(&mut self.cmd(args), Duration::from_secs(60))
    }

    /// Runs mutt-sync as a person types it, with a terminal: its exit status, and what
    /// that person sees.
    #[track_caller]
    pub fn typed(&self, args: &str) -> (i32, String) {
        self.age();
        let line = format!("{} {args}", mutt_sync().display());
        let mut command = self.command("script");
        command.args(["-qec", &line, "/dev/null"]);
        let out = run(&mut command, Duration::from_secs(60));
        (out.code(), out.stdout.replace('\r', ""))
    }

    /// Runs the real mbsync to its end.
    #[track_caller]
    pub fn mbsync(&self, args: &[&str]) -> Output {
        run(self.command(real_mbsync()).args(args), Duration::from_secs(60))
    }

    /// Which account each channel and group is of.
    fn names(&self) -> Vec<(String, String)> {
        self.accounts
            .iter()
            .flat_map(|account| {
                let name = &account.name;
                [(name.clone(), name.clone()), (format!("{name}-frequent"), name.clone())]
            })
            .collect()
    }

    /// Puts the fake mbsync first in the PATH.
    pub fn fake_mbsync(&self) -> Mbsync {
        Mbsync::fake(&self.path("bin"), self.names())
    }

    /// Puts the real mbsync in a wrapper that logs and can slow it.
    pub fn wrap_mbsync(&self) -> Mbsync {
        Mbsync::wrap(&self.path("bin"), self.names())
    }

    /// Puts the real mbsync in the wrapper that it takes off: the start is logged.
    pub fn exec_mbsync(&self) -> Mbsync {
        Mbsync::exec(&self.path("bin"), self.names())
    }

    /// Writes a muttrc for reading an account, good for mutt and neomutt alike,
    /// that asks nothing and shows `SUBJECT` with its flags. `more` follows.
    pub fn muttrc(&self, account: &str, more: &str) -> PathBuf {
        let text = format!(
            "set folder=~/Mail mbox_type=Maildir spoolfile=+{account}/INBOX\n\
             set mbox=+{account}/INBOX postponed=+{account}/Drafts\n\
             set record=+{account}/Sent trash=+{account}/Trash\n\
             mailboxes +{account}/INBOX +{account}/Archive +{account}/Sent\n\
             set delete=yes quit=yes move=no confirmappend=no confirmcreate=no\n\
             set sleep_time=0 mail_check=1 timeout=1 wait_key=no header_cache=\"\"\n\
             set from=me@home.example realname=Me hostname=rig.example\n\
             ignore *\nunignore from to subject date\n\
             set editor=true sendmail=true\n{more}\n"
        );
        self.write(".muttrc", &text)
    }

    /// What [`process::marked`] finds this home's processes by.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Running processes that came of this home: pid and command line.
    pub fn leftovers(&self) -> Vec<(u32, String)> {
        // In the middle of an exec(2) a process has no environment: looked for again.
        let mut found = process::marked(&self.mark);
        for _ in 0..3 {
            if found.is_empty() {
                std::thread::sleep(Duration::from_millis(25));
                found = process::marked(&self.mark);
            }
        }
        found.into_iter().map(|pid| (pid, process::command_line(pid))).collect()
    }

    /// How many processes of this home have a command line that starts so.
    pub fn count_running(&self, start: &str) -> usize {
        self.leftovers().iter().filter(|(_, line)| line.starts_with(start)).count()
    }

    /// Fails the test if a process of this home runs and stays.
    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        // What was told to end takes a moment for it on a busy machine.
        self.wait_no_leftovers(Duration::from_secs(1));
    }

    /// Waits until no process of this home runs.
    #[track_caller]
    pub fn wait_no_leftovers(&self, limit: Duration) {
        let start = Instant::now();
        let mut left = self.leftovers();
        while !left.is_empty() && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(5));
            left = self.leftovers();
        }
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn age_below(dir: &Path) {
    Maildir::at(dir).age();
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let inner = ["cur", "new", "tmp"].iter().any(|sub| name == *sub);
        if !inner && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            age_below(&entry.path());
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What forks while it is looked for is found the next time round.
        for _ in 0..50 {
            let left = process::marked(&self.mark);
            if left.is_empty() {
                break;
            }
            for pid in left {
                process::kill(pid, Signal::KILL);
            }
        }
    }
}
