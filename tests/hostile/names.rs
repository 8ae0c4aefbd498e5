//! Mailboxes whose names would be paths, options or escapes, on a server whose
//! mailboxes are all wanted: with the real mbsync, over our connection.
//!
//! isync refuses some of them by itself (CVE-2021-20247); that nothing is left to
//! it alone is what is shown here.

use crate::faults::{NAMES, literal};
use crate::library::in_parallel;
use crate::program::Lair;
use crate::server::{Fake, PASSWORD, Peer};
use rig::{Running, Seeded, Signal, run, soak};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// A server with INBOX and these mailboxes, all empty.
fn with_mailboxes(peer: &mut Peer, names: &[String]) {
    peer.say("* OK hello\r\n");
    let mut idle = String::new();
    while let Some(mut line) = peer.hear() {
        // A name that had to be a literal.
        while line.ends_with('}') {
            let Some(length) = line.trim_end_matches("+}").trim_end_matches('}').rsplit('{').next()
            else {
                break;
            };
            let Ok(length) = length.parse() else { break };
            if !line.ends_with("+}") {
                peer.say("+ go\r\n");
            }
            if peer.hear_bytes(length).is_none() {
                return;
            }
            let Some(next) = peer.hear() else { return };
            line += &next;
        }
        let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = rest.split(' ').next().unwrap_or_default();
        let data = match verb {
            "CAPABILITY" => {
                "* CAPABILITY IMAP4rev1 IDLE NOTIFY NAMESPACE ESEARCH CONDSTORE UNSELECT\r\n".into()
            }
            "NAMESPACE" => "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n".to_owned(),
            "LIST" => {
                // Quoted where that can be, for some clients take no literal here.
                let listed = |name: &String| {
                    let quotable = !name.contains(['\r', '\n', '"', '\\']);
                    let name = if quotable { format!("\"{name}\"") } else { literal(name) };
                    format!("* LIST () \"/\" {name}\r\n")
                };
                let lines: Vec<String> = names.iter().map(listed).collect();
                ["* LIST () \"/\" INBOX\r\n".to_owned(), lines.concat()].concat()
            }
            "NOTIFY" | "STATUS" => {
                "* STATUS INBOX (MESSAGES 0 UIDNEXT 1 UIDVALIDITY 3 HIGHESTMODSEQ 4)\r\n".into()
            }
            "SELECT" | "EXAMINE" => "* FLAGS (\\Seen)\r\n* 0 EXISTS\r\n* 0 RECENT\r\n\
                 * OK [PERMANENTFLAGS (\\Seen \\*)] ok\r\n\
                 * OK [UIDVALIDITY 3] ok\r\n* OK [UIDNEXT 1] ok\r\n"
                .to_owned(),
            "IDLE" => {
                peer.say("+ idling\r\n");
                tag.clone_into(&mut idle);
                continue;
            }
            "LOGOUT" => {
                peer.say(format!("* BYE\r\n{tag} OK done\r\n"));
                return;
            }
            _ if tag == "DONE" => {
                peer.say(format!("{idle} OK done\r\n"));
                continue;
            }
            _ => String::new(),
        };
        peer.say(format!("{data}{tag} OK done\r\n"));
    }
}

fn survives(names: &[&str]) -> Result<(), String> {
    let said: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let fake = Fake::start(move |peer| with_mailboxes(peer, &said));
    let lair = Lair::with(&format!(
        "Host 127.0.0.1\nPort {}\nUser user\nPass {PASSWORD}\nSSLType None\nAuthMechs LOGIN\nTimeout 10",
        fake.port
    ));
    let mbsync = lair.home.wrap_mbsync();
    let waiter = Running::start(lair.home.cmd(&["--wait", "-v", "Home"]));
    let begun = Instant::now();
    // It ends by the run that makes them here; or there is none to be made.
    let rests = || {
        let connected = waiter.stderr().contains("connected by");
        connected && !mbsync.runs().iter().any(rig::Run::alive)
    };
    while waiter.runs() && begun.elapsed() < SOON {
        if names != ["-a"] && begun.elapsed() > Duration::from_secs(2) && rests() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    waiter.signal(Signal::TERM);
    let mut heard = waiter.wait(SOON).stderr;
    let made = lair.home.path("Mail/Home/-a/cur").is_dir();
    if names == ["-a"] && !made {
        return Err(format!("mbsync makes no mailbox at all: {heard}"));
    }
    // What has been made is named, and synced by its name; what has not is refused.
    let mut commands: Vec<Vec<String>> = vec![vec!["--list".into()], vec!["--status".into()]];
    for name in names {
        let name = format!("Home:{name}");
        commands.push(vec!["-n".into(), name.clone()]);
        commands.push(vec!["-v".into(), "-f".into(), name]);
    }
    if names.len() > 1 {
        commands.push(vec!["--check".into(), "Home".into()]);
    }
    for words in commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = run(&mut lair.home.cmd(&words), SOON);
        heard += &(output.stdout + &output.stderr);
    }
    let what = format!("{names:?}: {heard}");
    let runs = mbsync.runs();
    if heard.contains("does not parse") || heard.contains("panicked") {
        return Err(what);
    }
    for run in
        runs.iter().filter(|run| run.args.iter().any(|arg| ["-q", "-V"].contains(&arg.as_str())))
    {
        let from = run.args.iter().position(|arg| arg == "--").map_or(0, |at| at + 1);
        let words = run.args.get(from..).unwrap_or_default();
        if from == 0 || !words.iter().all(|word| word == "Home" || word.starts_with("Home:")) {
            return Err(format!("{:?}: {what}", run.args));
        }
    }
    lair.home.wait_no_leftovers(SOON);
    lair.trouble(&heard, true).map_or(Ok(()), |trouble| Err(format!("{trouble}: {what}")))
}

#[test]
fn g10_names_of_mailboxes_are_neither_paths_nor_options_nor_escapes() {
    // One that mbsync refuses hides what it makes of the rest: so each by itself,
    // in the short form a fixed-seed part of them.
    let mut random = Seeded::from_env_or(10);
    let mut chosen = |name: &&&str| soak() || **name == "-a" || random.usize(0..3) == 0;
    let mut all: Vec<Vec<&str>> =
        NAMES.iter().filter(&mut chosen).map(|name| vec![*name]).collect();
    all.push(NAMES.to_vec());
    let all: &'static [Vec<&str>] = Vec::leak(all);
    let wrong = in_parallel(8, all.iter().collect(), |names| survives(names));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
