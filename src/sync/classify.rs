//! What mbsync's messages mean, and what must not be repeated of them.
//!
//! Forms as printed by mbsync 1.4.4 (observed) and 1.5.1 (read in its source).
//! Knows text only.

use std::borrow::Cow;

use crate::outcome::Exit;

/// A message that tells why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Concerns the account as a whole.
    Account(Exit),
    /// Concerns a channel, and one of its mailboxes if mbsync names it.
    Mailbox {
        /// The channel, if named.
        channel: Option<String>,
        /// The mailbox as mbsync prints it.
        mailbox: Option<String>,
    },
}

impl Finding {
    /// The exit status that it leads to.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Finding::Account(exit) => *exit,
            Finding::Mailbox { .. } => Exit::Mailbox,
        }
    }
}

/// What a line of mbsync's standard error says; `None` for warnings, notices
/// and what is not known.
#[must_use]
pub fn finding(line: &str) -> Option<Finding> {
    let account = |exit| Some(Finding::Account(exit));
    let starts = |heads: &[&str]| heads.iter().any(|head| line.starts_with(head));
    if line.starts_with("Warning") || line.starts_with("Notice") {
        return None;
    }
    if line.starts_with("Error: channel ") && line.ends_with(" is locked") {
        return account(Exit::Later);
    }
    if let Some(rest) = line.strip_prefix("IMAP command '") {
        let reply = rest.split_once("' returned an error: ")?.1;
        if rest.starts_with("LOGIN ") || rest.starts_with("AUTHENTICATE ") {
            let transient = ["[UNAVAILABLE]", "[INUSE]", "[LIMIT]"];
            let reply = reply.strip_prefix("NO ").unwrap_or(reply).to_ascii_uppercase();
            let transient = transient.iter().any(|code| reply.starts_with(code));
            return account(if transient { Exit::Later } else { Exit::Denied });
        }
        return Some(Finding::Mailbox { channel: None, mailbox: None });
    }
    if starts(&["Skipping account "])
        || line.contains("no acceptable authentication mechanism")
        || line.contains("SASL mechanism")
        || line.contains("Error, certificate owner does not match")
        || line.contains("SSL support not available")
    {
        return account(Exit::Denied);
    }
    if line.starts_with("SSL error connecting") {
        let refused = line.contains("certificate") || line.contains("self-signed");
        return account(if refused { Exit::Denied } else { Exit::Offline });
    }
    if starts(&[
        "Error: Cannot resolve server ",
        "Cannot resolve server ",
        "Cannot connect to ",
        "No working address found",
        "Socket error",
        "IMAP error: unexpected EOF",
        "IMAP error: unexpected BYE",
    ]) {
        return account(Exit::Offline);
    }
    if starts(&["Cannot open config file", "No channel"]) || is_config_complaint(line) {
        return account(Exit::Config);
    }
    if let Some(rest) = line.strip_prefix("Error: channel ") {
        let (channel, rest) = rest.split_once(": ")?;
        let mailbox = rest
            .strip_suffix('.')
            .and_then(|rest| {
                rest.strip_suffix(" cannot be opened")
                    .or_else(|| rest.strip_suffix(" cannot be opened anymore"))
            })
            .and_then(|rest| rest.split_once(" box ").or_else(|| rest.split_once(' ')))
            .map(|(_, name)| name.to_owned());
        return Some(Finding::Mailbox { channel: Some(channel.to_owned()), mailbox });
    }
    if line.starts_with("Maildir error: ")
        || line.contains("UIDVALIDITY")
        || line.contains("incompatible journal version")
        || line.starts_with("Error: ")
    {
        return Some(Finding::Mailbox { channel: None, mailbox: None });
    }
    None
}

/// Whether a line of mbsync's standard error is one that it prints at each run,
/// whatever it does: that the password is sent in the clear, what a server says to
/// everybody, that a keyword is deprecated.
#[must_use]
pub fn says_nothing_of_the_run(line: &str) -> bool {
    line.starts_with("*** IMAP ")
        || line.starts_with("Notice: ") && line.contains(" deprecated")
        || line.contains(": notice: ") && line.contains(" deprecated")
}

/// `FILE:12: …`, or 1.5's `FILE:12:3: …`.
fn is_config_complaint(line: &str) -> bool {
    line.split_once(": ").is_some_and(|(place, _)| {
        place.starts_with(['/', '.', '~'])
            && place.rsplit_once(':').is_some_and(|(_, number)| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
    })
}

/// The line without secrets and without what could play tricks on a terminal.
///
/// mbsync masks the passwords of LOGIN and PLAIN itself, but prints an XOAUTH2
/// token. A secret that stands in the user's file is masked wherever it shows.
#[must_use]
pub fn fit_to_print<'a>(line: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    let mut line = Cow::Borrowed(line);
    for secret in secrets.iter().filter(|secret| secret.len() > 3) {
        if line.contains(secret) {
            line = Cow::Owned(line.replace(secret, "********"));
        }
    }
    if let Some(at) = line.find("AUTHENTICATE ") {
        let (head, rest) = line.split_at(at + "AUTHENTICATE ".len());
        let mechanism = rest.find([' ', '\'']).unwrap_or(rest.len());
        let end = rest.find('\'').unwrap_or(rest.len());
        if let (Some(name), Some(tail), true) =
            (rest.get(..mechanism), rest.get(end..), end > mechanism)
        {
            line = Cow::Owned(format!("{head}{name} ********{tail}"));
        }
    }
    match without_tricks(&line) {
        Cow::Owned(calm) => Cow::Owned(calm),
        Cow::Borrowed(_) => line,
    }
}

/// The line without what could play tricks on a terminal.
#[must_use]
pub fn without_tricks(line: &str) -> Cow<'_, str> {
    if line.chars().any(is_trick) { line.replace(is_trick, "?").into() } else { line.into() }
}

/// Control characters, and those that reorder text on a terminal.
fn is_trick(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_at_each_run_says_nothing_of_it() {
        for line in [
            "*** IMAP Warning *** Password is being sent in the clear",
            "*** IMAP ALERT *** maintenance tonight",
            "/home/u/.mbsyncrc: notice: SSLType is deprecated. Use TLSType instead.",
            "Notice: IMAPStore 'far': RequireCRAM is deprecated. Use AuthMech instead.",
        ] {
            assert!(says_nothing_of_the_run(line) && finding(line).is_none(), "{line}");
        }
        for line in [
            "Warning: lost track of 1 pulled message(s)",
            "IMAP command 'UID STORE 1 +FLAGS.SILENT (\\Deleted)' returned an error: x",
            "Maildir error: cannot remove /m/cur/x: Permission denied",
            "Notice: conflicting changes in (1,1)",
            "",
        ] {
            assert!(!says_nothing_of_the_run(line), "{line}");
        }
    }

    #[test]
    fn each_form_leads_to_its_status() {
        let cases = [
            ("Error: channel :far:INBOX-:near:INBOX is locked", Exit::Later),
            (
                "IMAP command 'LOGIN u <pass>' returned an error: NO [AUTHENTICATIONFAILED] x",
                Exit::Denied,
            ),
            (
                "IMAP command 'LOGIN u <pass>' returned an error: [AUTHENTICATIONFAILED] x",
                Exit::Denied,
            ),
            ("IMAP command 'LOGIN u <pass>' returned an error: NO [UNAVAILABLE] x", Exit::Later),
            (
                "IMAP command 'AUTHENTICATE PLAIN <authdata>' returned an error: [INUSE] x",
                Exit::Later,
            ),
            ("Skipping account Home, PassCmd exited with status 1", Exit::Denied),
            ("Skipping account Home, password command crashed", Exit::Denied),
            ("SSL error connecting h (127.0.0.1:993): certificate verify failed", Exit::Denied),
            ("SSL error connecting h (127.0.0.1:993): unexpected EOF", Exit::Offline),
            ("Error, certificate owner does not match hostname h", Exit::Denied),
            ("Error: Cannot resolve server 'h': Name or service not known", Exit::Offline),
            ("Cannot connect to h (127.0.0.1:1): Connection refused", Exit::Offline),
            ("Socket error on h (127.0.0.1:1): timeout.", Exit::Offline),
            ("IMAP error: unexpected BYE response: x", Exit::Offline),
            ("/home/u/.mbsyncrc:12: unknown keyword", Exit::Config),
            ("No channel or group named 'x' defined.", Exit::Config),
            ("Maildir error: duplicate UID 10 in /m.", Exit::Mailbox),
            (
                "IMAP command 'AUTHENTICATE PLAIN <authdata>' returned an error: NO [LIMIT] x",
                Exit::Later,
            ),
            ("IMAP command 'SELECT x' returned an error: NO [LIMIT] x", Exit::Mailbox),
            ("Error: no acceptable authentication mechanism", Exit::Denied),
            ("IMAP error: SASL mechanism list is empty", Exit::Denied),
            ("Error: SSL support not available", Exit::Denied),
            ("SSL error connecting h (127.0.0.1:993): self-signed", Exit::Denied),
            ("Cannot resolve server 'h': Name or service not known", Exit::Offline),
            ("No working address found for h", Exit::Offline),
            ("IMAP error: unexpected EOF from h", Exit::Offline),
            ("Cannot open config file '/home/u/.mbsyncrc'", Exit::Config),
            ("./mbsyncrc:7:12: unknown keyword", Exit::Config),
            ("~/.mbsyncrc:7: unknown keyword", Exit::Config),
            ("Error: channel Home: UIDVALIDITY of far side INBOX changed", Exit::Mailbox),
            ("The UIDVALIDITY is not what it was", Exit::Mailbox),
            ("incompatible journal version", Exit::Mailbox),
            ("Error: anything", Exit::Mailbox),
        ];
        for (line, exit) in cases {
            assert_eq!(finding(line).map(|found| found.exit()), Some(exit), "{line}");
        }
        for line in [
            "Warning: lost track of 3 pulled message(s)",
            "Warning: UIDVALIDITY genuine",
            "Notice: UIDVALIDITY genuine",
            "anything",
            "anything is locked",
            "/home/u/.mbsyncrc: no line is told",
            "/home/u/.mbsyncrc:: no line is told",
            "/home/u/.mbsyncrc:1a: no line is told",
            "mbsyncrc:12: no path",
            "12: no path",
            "IMAP command 'LOGIN u <pass>' was sent",
        ] {
            assert_eq!(finding(line), None, "{line}");
        }
    }

    #[test]
    fn a_mailbox_is_named() {
        let found = finding("Error: channel Home: far side box Lists/a b cannot be opened.");
        let expected =
            Finding::Mailbox { channel: Some("Home".into()), mailbox: Some("Lists/a b".into()) };
        assert_eq!(found, Some(expected));
        let of = |line: &str| match finding(line) {
            Some(Finding::Mailbox { channel, mailbox }) => (channel, mailbox),
            other => panic!("{line}: {other:?}"),
        };
        let home = || Some("Home".to_owned());
        let gone = "Error: channel Home: near side box Sent cannot be opened anymore.";
        assert_eq!(of(gone), (home(), Some("Sent".into())));
        // As isync 1.3 says it.
        let old = "Error: channel Home: far-side Sent cannot be opened.";
        assert_eq!(of(old), (home(), Some("Sent".into())));
        assert_eq!(of("Error: channel Home: something else."), (home(), None));
        assert_eq!(of("Error: channel Home: far side box x is odd."), (home(), None));
        assert_eq!(of("Maildir error: x"), (None, None));
    }

    #[test]
    fn g11_tokens_and_passwords_are_masked() {
        let line = "IMAP command 'AUTHENTICATE XOAUTH2 dXNlcj1zZWNyZXQ=' returned an error: NO";
        assert_eq!(
            fit_to_print(line, &[]),
            "IMAP command 'AUTHENTICATE XOAUTH2 ********' returned an error: NO"
        );
        assert_eq!(fit_to_print("a hunter2 b", &["hunter2"]), "a ******** b");
        // What is so short would be found in half of all words.
        assert_eq!(fit_to_print("an abcd, an abc", &["abc", "abcd"]), "an ********, an abc");
        // Nothing to hide: the mechanism alone, and a line that is cut off.
        for line in
            ["IMAP command 'AUTHENTICATE PLAIN' returned", "AUTHENTICATE ", "AUTHENTICATE X"]
        {
            assert_eq!(fit_to_print(line, &[]), line);
        }
        assert_eq!(fit_to_print("AUTHENTICATE X dG9rZW4=", &[]), "AUTHENTICATE X ********");
    }

    #[test]
    fn g10_terminal_escapes_do_not_pass() {
        assert_eq!(fit_to_print("\u{1b}[2Jx\u{202e}y", &[]), "?[2Jx?y");
        for trick in
            ["\r", "\n", "\u{7f}", "\u{9b}", "\u{200e}", "\u{200f}", "\u{2066}", "\u{2069}"]
        {
            assert_eq!(fit_to_print(trick, &[]), "?", "{trick:?}");
        }
        assert_eq!(fit_to_print("a\tb é", &[]), "a\tb é");
    }

    proptest! {
        #[test]
        fn any_line_is_taken(line in "\\PC*|.*") {
            let _ = finding(&line);
            let harmless = !fit_to_print(&line, &["pass"]).contains('\u{1b}');
            prop_assert!(harmless);
        }
    }
}
