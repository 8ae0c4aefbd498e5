//! Servers with the capabilities that providers announce, and nothing else: what is not
//! announced is refused. Their lists are from public transcripts, after login.

use crate::day::Day;
use crate::support::{Mangle, SOON};
use rig::{Account, Server, ServerOptions, mbsync_version};
use std::sync::{Arc, Mutex};

/// What a command needs of the server, besides `IMAP4rev1`.
fn needs(command: &str) -> Vec<&'static str> {
    let upper = command.to_ascii_uppercase();
    let first = upper.split(' ').next().unwrap_or_default();
    let mut all: Vec<&'static str> = ["IDLE", "NOTIFY", "UNSELECT", "NAMESPACE", "ENABLE", "MOVE"]
        .into_iter()
        .filter(|word| *word == first)
        .collect();
    for (text, word) in [
        ("UID MOVE ", "MOVE"),
        ("UID EXPUNGE ", "UIDPLUS"),
        (" RETURN (", if first == "LIST" { "LIST-EXTENDED" } else { "ESEARCH" }),
        ("(STATUS (", "LIST-STATUS"),
        ("SPECIAL-USE", "SPECIAL-USE"),
        ("HIGHESTMODSEQ", "CONDSTORE"),
        ("MODSEQ", "CONDSTORE"),
        ("CHANGEDSINCE", "CONDSTORE"),
        ("CONDSTORE", "CONDSTORE"),
        ("QRESYNC", "QRESYNC"),
        ("+}", "LITERAL"),
    ] {
        if upper.contains(text) {
            all.push(word);
        }
    }
    all
}

/// Response codes of extensions, which dovecot sends whatever it announces. Not HIGHESTMODSEQ:
/// Yahoo, too, sends it without CONDSTORE.
fn without_codes(line: &str, offered: &[&str]) -> Option<String> {
    let codes = [("[APPENDUID", "UIDPLUS"), ("[COPYUID", "UIDPLUS")];
    let code = codes.iter().find(|(code, word)| !offered.contains(word) && line.contains(code))?.0;
    let (before, after) = line.split_once(code)?;
    let (_, after) = after.split_once("] ")?;
    Some(format!("{before}{after}"))
}

/// Everything people do, on a server that offers this.
fn provider(offered: &'static str, mode: &str, settings: &str) {
    let words: Vec<&'static str> = offered.split_whitespace().collect();
    let server = Server::with(ServerOptions { notify: false, ..ServerOptions::offering(offered) });
    let refused: Arc<Mutex<Vec<String>>> = Arc::default();
    let (note, all) = (Arc::clone(&refused), words.clone());
    let refuse = move |tag: &str, command: &str| {
        // Before the login the lists are dovecot's.
        let there = |word: &str| all.iter().any(|each| each.trim_end_matches(['+', '-']) == word);
        let lacks = needs(command).into_iter().find(|word| !there(word))?;
        if command.starts_with("LOGIN") {
            return None;
        }
        note.lock().unwrap().push(format!("{command} without {lacks}"));
        Some(format!("{tag} BAD unknown\r\n"))
    };
    let mangle = Mangle::to(server.port(), refuse, move |line, _| without_codes(line, &words));
    let mut imap = server.imap("home");
    Day::make_boxes(&mut imap, "");
    let account = Account::on(&server, "Home").port(mangle.port);
    let mut day = Day::begin(account, imap, "", settings);
    day.waiter.wait_said(&format!("connected by {mode}"), SOON);
    day.messages();
    day.burst();
    day.mailboxes();
    let logins = server.logins("home");
    println!("{logins} logins; refused: {:?}", refused.lock().unwrap());
    // isync 1.4 fails where it is told no UID of what it has pushed, and finds it in the next
    // run ("received extraneous data in FETCH response").
    let untold = mbsync_version() == (1, 4) && !offered.contains("UIDPLUS");
    if !untold {
        day.all_lent();
    }
    day.end(if untold { 4 } else { 1 });
    assert!(refused.lock().unwrap().is_empty(), "{:?}", refused.lock().unwrap());
}

#[test]
fn g5_with_what_gmail_offers() {
    provider(
        "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 UIDPLUS ENABLE MOVE \
         CONDSTORE ESEARCH UTF8=ACCEPT LIST-EXTENDED LIST-STATUS LITERAL- SPECIAL-USE \
         APPENDLIMIT=35651584",
        "IDLE",
        "sweep = \"1s\"\n",
    );
}

#[test]
fn g5_with_what_outlook_offers() {
    provider(
        "IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE \
         NAMESPACE LITERAL+",
        "IDLE",
        "sweep = \"1s\"\nevery = \"5s\"\n",
    );
}

#[test]
fn g5_with_what_icloud_offers() {
    provider(
        "XAPPLEPUSHSERVICE IMAP4rev1 SASL-IR CATENATE CHILDREN CONDSTORE CONTEXT=SEARCH \
         CONTEXT=SORT ENABLE ESEARCH ESORT ID IDLE LIST-STATUS LITERAL+ MULTIAPPEND NAMESPACE \
         QRESYNC QUOTA SEARCHRES SORT UIDPLUS UNSELECT WITHIN XLIST",
        "IDLE",
        "sweep = \"1s\"\n",
    );
}

#[test]
fn g5_with_what_yahoo_offers() {
    provider(
        "IMAP4rev1 SASL-IR ID MOVE NAMESPACE UIDPLUS LITERAL+ CHILDREN XAPPLELITERAL OBJECTID \
         UNSELECT LIST-EXTENDED LIST-STATUS IDLE SPECIAL-USE",
        "IDLE",
        "sweep = \"1s\"\nevery = \"5s\"\n",
    );
}

#[test]
fn g5_with_imap4rev1_and_nothing_else() {
    provider("IMAP4rev1", "STATUS polling", "sweep = \"1s\"\nevery = \"5s\"\n");
}
