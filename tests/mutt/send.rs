//! Mail sent from each identity leaves by its own account of a real msmtp, and
//! a copy lies in that account's Sent.
#![allow(clippy::unwrap_used, clippy::format_push_string)]

use crate::support::{CLIENTS, account, with_files};
use mutt_sync::mutt::identity::{identity, msmtp_senders};
use mutt_sync::mutt::muttrc::{Theirs, muttrc};
use rig::{Home, Running, Server, Terminal, compare, message, wait_until};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);
const NAMES: [&str; 2] = ["Home", "Work"];

/// As much of an SMTP server as msmtp needs. It ends with the test's process.
struct Smtp {
    port: u16,
    /// Envelope sender and text of what came.
    mails: Arc<Mutex<Vec<(String, String)>>>,
}

impl Smtp {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&mails);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if let Some(mail) = serve(&stream.unwrap()) {
                    kept.lock().unwrap().push(mail);
                }
            }
        });
        Smtp { port, mails }
    }

    fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.mails.lock().unwrap())
    }

    fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }
}

fn serve(stream: &TcpStream) -> Option<(String, String)> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let say = |text: &str| {
        let mut stream = stream;
        stream.write_all(format!("{text}\r\n").as_bytes()).ok()
    };
    let (mut from, mut mail) = (String::new(), None);
    say("220 test")?;
    while let Some(line) = lines.next() {
        let word = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match word.as_str() {
            "MAIL" => line.split_once(':')?.1.clone_into(&mut from),
            "DATA" => {
                say("354 go on")?;
                let text: Vec<String> = lines.by_ref().take_while(|line| line != ".").collect();
                mail = Some((from.clone(), text.join("\n")));
            }
            "QUIT" => {
                say("221 bye")?;
                break;
            }
            _ => {}
        }
        say("250 test")?;
    }
    mail
}

/// Writes msmtp's file, and an editor that adds a line; gives what the muttrc
/// needs before our own lines.
fn with_msmtp(home: &Home, servers: &[Smtp; 2]) -> String {
    let mut msmtprc = "defaults\nauth off\ntls off\n".to_owned();
    for (name, server) in NAMES.iter().zip(servers) {
        msmtprc += &format!(
            "account {name}\nhost 127.0.0.1\nport {}\nfrom me@{}.example\n",
            server.port,
            name.to_lowercase()
        );
    }
    let file = home.write(".msmtprc", &msmtprc);
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    home.program("editor", "echo Text. >>\"$1\"");
    "set folder=~/Mail mbox_type=Maildir hostname=rig.example realname=Me\n\
     set edit_headers=no confirmappend=no confirmcreate=no fast_reply include=no\n\
     set editor=\"editor %s\" header_cache=\"\" crypt_use_gpgme=no\n"
        .to_owned()
}

struct Backend {
    home: Home,
    servers: [Smtp; 2],
    /// What the muttrc needs before our own lines.
    plain: String,
}

fn prepared() -> Backend {
    let home = Home::fake(&NAMES);
    home.program("mutt-sync", "[ \"$1\" = --muttrc ] && exec cat ~/printed; exit 0");
    let servers = [Smtp::start(), Smtp::start()];
    let plain = with_msmtp(&home, &servers);
    Backend { home, servers, plain }
}

/// Sends from both identities; then answers, in Home, a mail to Work's address.
fn sends_from_each(ground: &Backend, client: &str, reply_from: usize) {
    let Backend { home, servers, .. } = ground;
    let mail = message("A question", "text");
    let mail = String::from_utf8(mail).unwrap();
    let mail: String = mail
        .lines()
        .map(|line| {
            if line.starts_with("To:") {
                "To: me@work.example\n".into()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    assert!(mail.contains("me@work.example"), "{mail}");
    let inbox = home.maildir("Home", "INBOX");
    for entry in inbox.list() {
        inbox.delete(&entry);
    }
    inbox.add(mail.as_bytes(), "S");
    let terminal = Terminal::start(home, &[client, "-n", "-F", ".muttrc"]);
    terminal.wait_for("A question", SHORT);
    let sent = |n: usize| home.maildir("", &format!("{}/Sent", NAMES[n]));
    for n in [1, 0] {
        let folder = format!("={}/INBOX", NAMES[n]);
        terminal.text(&format!("c{folder}\n"));
        terminal.wait_for(&format!("{folder} [Msgs:"), SHORT);
        let before = sent(n).len();
        terminal.text("mfriend@far.example\n");
        terminal.wait_for("Subject:", SHORT);
        terminal.text(&format!("From {}\n", NAMES[n]));
        terminal.wait_for("y:Send", SHORT);
        terminal.text("y");
        wait_until(SHORT, "sent", || servers[n].count() == 1);
        let mails = servers[n].take();
        assert!(
            mails[0].0.contains(&format!("me@{}.example", NAMES[n].to_lowercase())),
            "{mails:?}"
        );
        assert!(mails[0].1.contains(&format!("Subject: From {}", NAMES[n])), "{mails:?}");
        wait_until(SHORT, "the copy", || sent(n).len() == before + 1);
        sent(n).find(&format!("Subject: From {}", NAMES[n]));
        terminal.wait_for(&format!("{folder} [Msgs:"), SHORT);
    }
    assert_eq!((servers[0].count(), servers[1].count()), (0, 0));
    // Now in Home, where the question lies.
    let before = sent(reply_from).len();
    terminal.text("r");
    terminal.wait_for("y:Send", SHORT);
    terminal.text("y");
    wait_until(SHORT, "answered", || servers[reply_from].count() == 1);
    let mails = servers[reply_from].take();
    let address = format!("me@{}.example", NAMES[reply_from].to_lowercase());
    assert!(mails[0].0.contains(&address), "{mails:?}");
    assert!(mails[0].1.contains(&format!("From: Me <{address}>")), "{mails:?}");
    wait_until(SHORT, "the copy", || sent(reply_from).len() == before + 1);
    terminal.wait_for("A question", SHORT);
    terminal.text("x");
    terminal.wait_end(SHORT);
}

#[test]
fn printed_identities_send_by_their_own_account() {
    for client in CLIENTS {
        let ground = prepared();
        let home = &ground.home;
        let boxes = ["INBOX", "Archive", "Drafts", "Sent", "Trash"];
        let accounts = NAMES.map(|name| account(name, &home.mail(name), &boxes));
        let senders = msmtp_senders(&home.read(".msmtprc"));
        let files: Vec<_> = accounts
            .iter()
            .enumerate()
            .map(|(place, (account, mailboxes))| {
                let text = identity(account, &[], place, mailboxes, &senders);
                home.write(&format!(".config/mutt/account/{}", account.name), &text)
            })
            .collect();
        let told = with_files(&accounts, &files);
        home.write("printed", &muttrc(&told, Theirs::default(), &home.path(""), Path::is_dir));
        home.write(".muttrc", &format!("{}source \"mutt-sync --muttrc|\"\n", ground.plain));
        // Without reverse_name an answer is the account's in whose folder one is.
        sends_from_each(&ground, client, 0);
    }
}

#[test]
fn shipped_identities_send_by_their_own_account() {
    for client in CLIENTS {
        let ground = prepared();
        let home = &ground.home;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("muttrc.d");
        for file in
            ["10-sync.rc", "20-accounts.rc", "account/default", "account/Home", "account/Work"]
        {
            let text = std::fs::read_to_string(shipped.join(file)).unwrap();
            home.write(&format!(".config/mutt/{file}"), &text);
        }
        home.write(
            ".muttrc",
            &format!(
                "{}source ~/.config/mutt/10-sync.rc\nsource ~/.config/mutt/20-accounts.rc\n",
                ground.plain
            ),
        );
        // With reverse_name an answer goes out as the address that was asked.
        sends_from_each(&ground, client, 1);
    }
}

/// The program itself prints muttrc and identities; a real mbsync and server
/// carry the copies. mutt runs no hook when it sends: the waiter sees the copy by
/// itself; without one, the next change of folder takes it along.
#[test]
fn the_copy_in_sent_reaches_the_server() {
    for (client, waiter) in [("mutt", true), ("neomutt", true), ("mutt", false), ("neomutt", false)]
    {
        let server = Server::start();
        let home = Home::on(&server, &NAMES);
        home.program("mutt-sync", &format!("exec '{}' \"$@\"", rig::mutt_sync().display()));
        home.settings("throttle = \"1s\"\nburst = 1000\nsettle = \"100ms\"\n");
        let servers = [Smtp::start(), Smtp::start()];
        let plain = with_msmtp(&home, &servers);
        for name in NAMES {
            server.imap(&name.to_lowercase()).append("INBOX", &message("Hello", "x"), &["\\Seen"]);
        }
        home.mutt_sync(&["-f", "-a"]).ok();
        for name in NAMES {
            let identity = home.mutt_sync(&["--muttrc", name]).ok().stdout;
            assert!(!identity.contains("fill in: no "), "{identity}");
            home.write(&format!(".config/mutt/account/{name}"), &identity);
        }
        home.write(".muttrc", &format!("{plain}source \"mutt-sync --muttrc|\"\n"));
        let waits = waiter.then(|| Running::start(home.cmd(&["--wait", "--loop", "Home", "Work"])));
        if waiter {
            wait_until(SHORT, "a connection for each", || server.connections() == 2);
        }
        let terminal = Terminal::start(&home, &[client, "-n", "-F", ".muttrc"]);
        terminal.wait_for("Hello", SHORT);
        for (n, name) in NAMES.iter().enumerate().rev() {
            let folder = format!("={name}/INBOX");
            terminal.text(&format!("c{folder}\n"));
            // Not what was typed: the folder is open, and its hook has run.
            terminal.wait_for(&format!("{folder} [Msgs:"), SHORT);
            let mut imap = server.imap(&name.to_lowercase());
            if !waiter {
                // What the hooks asked for is done, and nobody is left to see more.
                home_is_quiet(&home);
            }
            terminal.text("mfriend@far.example\n");
            terminal.wait_for("Subject:", SHORT);
            terminal.text(&format!("From {name}\n"));
            terminal.wait_for("y:Send", SHORT);
            terminal.text("y");
            wait_until(SHORT, "sent", || servers[n].count() == 1);
            let address = format!("me@{}.example", name.to_lowercase());
            let (from, text) = servers[n].take().remove(0);
            assert!(from.contains(&address), "{from}");
            let sent = home.maildir(name, "Sent");
            wait_until(SHORT, "the copy", || sent.len() == 1);
            terminal.wait_for(&format!("{folder} [Msgs:"), SHORT);
            if !waiter {
                home_is_quiet(&home);
                assert_eq!(imap.status("Sent").messages, 0, "who should have carried it?");
                terminal.text(&format!("c={name}/Archive\n"));
                terminal.wait_for(&format!("={name}/Archive"), SHORT);
            }
            wait_until(SHORT, "the copy on the server", || imap.status("Sent").messages == 1);
            let mail = imap.find("Sent", "Text.");
            assert_eq!(mail.letters(), "S", "what one has written is read");
            let subject = format!("Subject: From {name}");
            assert!(text.contains(&subject), "{text}");
            sent.find(&subject);
            wait_until(SHORT, "both sides equal", || compare(&mut imap, &home.mail(name)).is_ok());
        }
        assert_eq!((servers[0].count(), servers[1].count()), (0, 0));
        terminal.text("x");
        terminal.wait_end(SHORT);
        drop(waits);
    }
}

/// Waits until no mutt-sync and no mbsync of this home runs.
fn home_is_quiet(home: &Home) {
    wait_until(SHORT, "quiet", || !home.leftovers().iter().any(|(_, line)| line.contains("sync")));
}
