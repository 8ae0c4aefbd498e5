//! A private dovecot on loopback.
//!
//! Runs as the user who runs the tests; dovecot's login processes refuse to be
//! root, so root's runs as nobody. Mail is delivered by APPEND ([`Imap`]): with
//! `mailbox_list_index`, which NOTIFY needs, dovecot does not see files that
//! are dropped into its folders.

use crate::dovecot::{self, Dovecot};
use crate::guard;
use crate::imap::Imap;
use crate::other_user::is_root;
use crate::process::{self, spawn_lasting, wait_gone};
use crate::tls::{Ca, Certificate};
use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `nobody` and `nogroup` on Debian; the names are in the same file.
const NOBODY: u32 = 65534;

/// How the port that users are given is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Clear text.
    None,
    /// Clear text that can be upgraded.
    StartTls,
    /// TLS from the first byte.
    Imaps,
}

/// How a server is to be. `Server::start()` takes the default.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Login names; the password of each is what [`Server::password`] says.
    pub users: Vec<String>,
    /// Security of [`Server::port`]. The certificate is for `localhost`, signed by [`Ca::shared`].
    pub tls: Tls,
    /// Mailboxes that every user has besides INBOX.
    pub boxes: Vec<String>,
    /// `mailbox_list_index`; without it there is no NOTIFY.
    pub notify: bool,
    /// Capabilities that are not announced (the commands still work).
    pub without: Vec<String>,
    /// Prefix of the personal namespace, such as `INBOX.`.
    pub prefix: String,
    /// Hierarchy separator.
    pub separator: char,
    /// dovecot's storage: mdbox, sdbox or maildir.
    pub format: String,
    /// Further login names, with passwords of their own.
    pub logins: Vec<(String, String)>,
    /// The files of a certificate and its key, in place of the rig's own.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Who logs in must show a certificate that this authority (PEM) has signed.
    pub client_authority: Option<String>,
    /// Rights (RFC 4314) in every mailbox: a line of an ACL file.
    pub rights: Option<String>,
    /// Most KiB of a user's mail, and of one message; 0: no bound.
    pub quota: Option<(u32, u32)>,
    /// It offers XOAUTH2 and OAUTHBEARER as well, and takes the tokens that
    /// [`Server::token_command`] prints.
    pub tokens: bool,
    /// Further lines for its configuration, such as every version understands.
    pub extra: String,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        ServerOptions {
            users: owned(&["home", "work", "other"]),
            tls: Tls::None,
            boxes: owned(&["Archive", "Drafts", "Sent", "Trash"]),
            notify: true,
            without: Vec::new(),
            prefix: String::new(),
            separator: '/',
            format: "mdbox".to_owned(),
            logins: Vec::new(),
            certificate: None,
            client_authority: None,
            rights: None,
            quota: None,
            tokens: false,
            extra: String::new(),
        }
    }
}

impl ServerOptions {
    /// A server that announces these capabilities, and no others of its own.
    pub fn offering(words: &str) -> Self {
        let kept: Vec<&str> = words.split_whitespace().collect();
        let without = dovecot::capabilities().filter(|word| !kept.contains(word));
        ServerOptions { without: without.map(str::to_owned).collect(), ..Self::default() }
    }
}

/// What tokens are signed with.
const KEY: &str = "key-of-tokens";
const BASE64_KEY: &str = "a2V5LW9mLXRva2Vucw==";

/// A running server, or one that was stopped and can be started again. Ends
/// with its value, and with the test's process however that ends.
pub struct Server {
    dir: TempDir,
    options: ServerOptions,
    port: u16,
    rig_port: u16,
    child: Option<Child>,
}

/// A short name: dovecot's and tmux's sockets must fit into 108 bytes.
pub(crate) fn temp_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("ms-").tempdir().expect("temporary directory");
    guard::directory(dir.path());
    dir
}

/// A port that is free now, below those that the kernel gives to connections:
/// so it stays free while a server is down.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(12000..32000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Kills the child's group and waits for all of it: a login process that dies a
/// moment after its master would still take connections.
fn end_group(child: &mut Child) {
    process::kill_group(child.id(), Signal::KILL);
    let _ = child.wait();
    process::wait_until(Duration::from_secs(60), "dovecot's processes are gone", || {
        process::group(child.id()).is_empty()
    });
}

impl Server {
    /// A server with users home, work and other; NOTIFY; clear text.
    pub fn start() -> Self {
        Self::with(ServerOptions::default())
    }

    /// A server as told.
    #[track_caller]
    pub fn with(options: ServerOptions) -> Self {
        let dir = temp_dir();
        let mut server =
            Server { dir, options, port: free_port(), rig_port: free_port(), child: None };
        let options = &server.options;
        let own = options.users.iter().map(|user| (user.clone(), server.password(user)));
        let users: String = own
            .chain(options.logins.iter().cloned())
            .map(|(user, password)| format!("{user}:{{PLAIN}}{password}\n"))
            .collect();
        let files = [
            ("users", Some(&users)),
            ("authority", options.client_authority.as_ref()),
            ("rights", options.rights.as_ref()),
        ];
        for (name, text) in files {
            if let Some(text) = text {
                fs::write(server.path(name), text).expect("write");
            }
        }
        for sub in ["mail", "home", "keys/default/HS256"] {
            fs::create_dir_all(server.path(sub)).expect("make directory");
        }
        fs::write(server.path("keys/default/HS256/default"), BASE64_KEY).expect("write key");
        // For dovecot 2.3 only.
        let keys = server.path("keys/").display().to_string();
        let tokens = format!(
            "introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={keys}\n"
        );
        fs::write(server.path("oauth2"), tokens).expect("write");
        fs::write(server.path("log"), "").expect("write log");
        if server.options.tls != Tls::None {
            let Certificate { cert, key } = Ca::shared().issue(&["localhost"], 30);
            fs::write(server.path("cert"), cert).expect("write certificate");
            fs::write(server.path("key"), key).expect("write key");
        }
        for attempt in 0.. {
            let text = Dovecot::installed().configuration(
                &server.options,
                server.dir.path(),
                server.port,
                server.rig_port,
            );
            fs::write(server.path("dovecot.conf"), text).expect("write");
            server.give_away();
            match server.try_again() {
                Ok(()) => break,
                // Somebody was faster at the port.
                Err(_) if attempt < 3 => {
                    server.port = free_port();
                    server.rig_port = free_port();
                }
                Err(error) => panic!("dovecot does not start: {error}\n{}", server.log()),
            }
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn give_away(&self) {
        if is_root() {
            let inside = fs::read_dir(self.dir.path()).expect("list").flatten();
            for path in inside.map(|entry| entry.path()).chain([self.dir.path().to_owned()]) {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("chown to nobody");
            }
        }
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.dir.path(), open).expect("chmod");
    }

    fn try_again(&mut self) -> Result<(), String> {
        let mut command = Command::new("setpriv");
        if is_root() {
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        command
            .args(["--pdeathsig", "KILL", "dovecot", "-F", "-c"])
            .arg(self.path("dovecot.conf"))
            .env_clear()
            .env("PATH", dovecot::PATH)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("stderr")).map_err(|e| e.to_string())?)
            .process_group(0);
        let child = spawn_lasting(command).map_err(|error| format!("setpriv dovecot: {error}"))?;
        let pid = child.id();
        self.child = Some(child);
        let start = Instant::now();
        // Not before it is we who listen there: another test's server may have been
        // faster at the port, and would answer as well.
        while !(self.listens(pid) && self.answers()) {
            if !process::alive(pid) || start.elapsed() > Duration::from_secs(60) {
                self.kill();
                return Err(fs::read_to_string(self.path("stderr")).unwrap_or_default());
            }
            sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// Whether this process has the socket that listens at the rig's port.
    fn listens(&self, pid: u32) -> bool {
        let local = format!("0100007F:{:04X}", self.rig_port);
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let socket = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ours = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A");
            ours.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        });
        let fds = process::open_fds(pid);
        socket.is_some_and(|socket| fds.iter().any(|(_, to)| to.as_os_str() == socket.as_str()))
    }

    /// The greeting with capabilities comes when logins are possible.
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.rig_port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let (mut seen, mut chunk) = (Vec::new(), [0; 1024]);
        loop {
            match stream.read(&mut chunk) {
                Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
                _ => return false,
            }
            if seen.windows(4).any(|w| w == b"[CAP") {
                return true;
            }
        }
    }

    /// Starts it again on the same ports, with the mail that it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        if let Err(error) = self.try_again() {
            panic!("dovecot does not start again: {error}\n{}", self.log());
        }
    }

    /// The same with another quota.
    #[track_caller]
    pub fn restart_with_quota(&mut self, quota: (u32, u32)) {
        self.options.quota = Some(quota);
        let (dir, port, rig_port) = (self.dir.path(), self.port, self.rig_port);
        let text = Dovecot::installed().configuration(&self.options, dir, port, rig_port);
        fs::write(self.path("dovecot.conf"), text).expect("write");
        self.restart();
    }

    /// Gives a mailbox another UIDVALIDITY; its messages keep their UIDs.
    #[track_caller]
    pub fn set_uid_validity(&self, user: &str, mailbox: &str, validity: u32) {
        let mut command = Command::new("setpriv");
        if is_root() {
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        command.args(["doveadm", "-c"]).arg(self.path("dovecot.conf"));
        command.args(["mailbox", "update", "-u", user, "--uid-validity", &validity.to_string()]);
        command.arg(mailbox).env_clear().env("PATH", dovecot::PATH);
        process::run(&mut command, Duration::from_secs(20)).ok();
    }

    /// Ends it as an administrator would, closing connections with BYE.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(child.id(), Signal::TERM);
            wait_gone(child.id(), Duration::from_secs(3));
            end_group(&mut child);
        }
    }

    /// Ends it and all its processes by SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end_group(&mut child);
        }
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            process::kill_group(child.id(), signal);
        }
    }

    /// The port that users are given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host name to go with it: the certificate's, if there is one.
    pub fn host(&self) -> &'static str {
        if self.options.tls == Tls::None { "127.0.0.1" } else { "localhost" }
    }

    /// How that port is secured.
    pub fn tls(&self) -> Tls {
        self.options.tls
    }

    /// What it was started with.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// A user's password.
    pub fn password(&self, user: &str) -> String {
        format!("secret-of-{user}")
    }

    /// A script that prints a token (RFC 7519, HS256) of this user, good for a login
    /// in so many seconds from then.
    pub fn token_command(&self, user: &str, seconds: u32) -> String {
        format!(
            "part() {{ openssl base64 -A | tr +/ -_ | tr -d =; }}\n\
             head=$(printf '{{\"alg\":\"HS256\",\"typ\":\"JWT\"}}' | part)\n\
             now=$(date +%s)\n\
             body=$(printf '{{\"email\":\"{user}\",\"sub\":\"{user}\",\"iat\":%d,\"exp\":%d}}' \
             \"$now\" $((now + {seconds})) | part)\n\
             sign=$(printf '%s.%s' \"$head\" \"$body\" | openssl dgst -sha256 -hmac '{KEY}' -binary | part)\n\
             printf '%s.%s.%s\\n' \"$head\" \"$body\" \"$sign\"\n"
        )
    }

    /// A connection of the test's own, on a port that is not counted.
    #[track_caller]
    pub fn imap(&self, user: &str) -> Imap {
        Imap::login(self.rig_port, user, &self.password(user))
    }

    /// Everything that dovecot logged.
    pub fn log(&self) -> String {
        fs::read(self.path("log"))
            .map_or(String::new(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// How often this user has logged in on the users' port.
    pub fn logins(&self, user: &str) -> usize {
        let said = Dovecot::installed().logged_in();
        self.counted(&format!("{said}user=<{user}>, lport={}", self.port))
    }

    /// How often a login was tried there in vain, by anybody.
    pub fn failed_logins(&self) -> usize {
        let port = format!("lport={}", self.port);
        let log = self.whole_log();
        log.lines().filter(|l| l.contains("auth failed") && l.contains(&port)).count()
    }

    fn counted(&self, text: &str) -> usize {
        self.whole_log().lines().filter(|line| line.contains(text)).count()
    }

    /// The log, with all in it that has happened before this call: dovecot writes
    /// it a moment later, so a connection of ours is made, and waited for there.
    fn whole_log(&self) -> String {
        let ours = |log: &str| {
            let nobody = format!("user=<>, lport={}", self.rig_port);
            log.lines().filter(|line| line.contains(&nobody)).count()
        };
        let (before, start) = (ours(&self.log()), Instant::now());
        if self.child.is_some() && self.answers() {
            while ours(&self.log()) == before && start.elapsed() < Duration::from_secs(20) {
                sleep(Duration::from_millis(2));
            }
        }
        self.log()
    }

    /// Processor time of all its processes so far.
    pub fn processor_time(&self) -> Duration {
        let all = self.child.iter().flat_map(|child| process::group(child.id()));
        all.flat_map(process::processor_times).sum()
    }

    /// How many connections to the users' port are open now.
    pub fn connections(&self) -> usize {
        let local = format!("0100007F:{:04X}", self.port);
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let established = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|at| *at == local) && fields.get(3) == Some(&"01")
        };
        table.lines().filter(established).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            let tail: String = log.chars().skip(from).collect();
            eprintln!("--- the server's log, its end\n{tail}---");
        }
        // Nothing of its mail is wanted any more; TERM would wait for clients.
        self.kill();
    }
}
