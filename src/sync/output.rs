//! What mbsync's messages mean, and what must not be repeated of them.
//!
//! Forms as printed by mbsync 1.4.4 (observed) and 1.5.1 (read in its source).
//!
//! Does not depend on: processes, state: text in, values out.

use std::borrow::Cow;

use super::forms::{Subject, subject};
use crate::error::ExitStatus;
use crate::imap::parse::{is_session_dead, is_temporary};
use crate::text::{printable, sanitize};

/// A message that tells why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Concerns the account as a whole, before anything was said of its user.
    Account(ExitStatus),
    /// The login failed for good, or something that may have come after it.
    Login(ExitStatus),
    /// The password command failed.
    PasswordCommand,
    /// Concerns a channel, and one of its mailboxes if mbsync names it.
    Mailbox {
        /// The channel, if named.
        channel: Option<String>,
        /// The mailbox as mbsync prints it.
        mailbox: Option<String>,
    },
}

impl Problem {
    /// The exit status that it leads to.
    #[must_use]
    pub fn exit(&self) -> ExitStatus {
        match self {
            Problem::Account(exit) | Problem::Login(exit) => *exit,
            Problem::PasswordCommand => ExitStatus::Denied,
            Problem::Mailbox { .. } => ExitStatus::Mailbox,
        }
    }

    /// See [`crate::error::Error::costly`].
    #[must_use]
    pub fn is_costly(&self) -> bool {
        matches!(self, Problem::Login(_) | Problem::PasswordCommand)
    }
}

/// Without the addresses of a server at which mbsync did not end: it tries the next
/// one, and says `No working address found` where none is left (isync 1.4.4 and 1.5.1,
/// observed). A server whose name has an IPv6 address that nobody answers is reached.
#[must_use]
pub fn without_passed_addresses(problems: &[(Problem, String)]) -> Cow<'_, [(Problem, String)]> {
    let passed = |line: &str| line.starts_with("Cannot connect to ");
    let is_reached = !problems.iter().any(|(_, line)| line.starts_with("No working address found"))
        && problems.iter().any(|(_, line)| !passed(line));
    if is_reached {
        problems.iter().filter(|(_, line)| !passed(line)).cloned().collect()
    } else {
        problems.into()
    }
}

/// What a line of mbsync's standard error says; `None` for warnings, notices
/// and what is not known.
#[must_use]
pub fn problem(line: &str) -> Option<Problem> {
    let account = |exit| Some(Problem::Account(exit));
    let starts = |heads: &[&str]| heads.iter().any(|head| line.starts_with(head));
    if explains_nothing(line) {
        return None;
    }
    if line.starts_with("Error: channel ") && line.ends_with(" is locked") {
        return account(ExitStatus::Later);
    }
    if let Some(rest) = line.strip_prefix("IMAP command '") {
        let reply = rest.split_once("' returned an error: ")?.1;
        if rest.starts_with("LOGIN ") || rest.starts_with("AUTHENTICATE ") {
            let temporary = is_temporary(reply.strip_prefix("NO ").unwrap_or(reply));
            // Where the limit of connections is the cause, the waiter gives one back.
            return if temporary {
                account(ExitStatus::Later)
            } else {
                Some(Problem::Login(ExitStatus::Denied))
            };
        }
        if is_session_dead(reply) {
            return account(ExitStatus::Later);
        }
        return Some(Problem::Mailbox { channel: None, mailbox: None });
    }
    if line.starts_with("Skipping account ") {
        return Some(Problem::PasswordCommand);
    }
    if line.contains("no acceptable authentication mechanism")
        || line.contains("SASL mechanism")
        || line.starts_with("Error ") && line.contains(" SASL ")
        || line.starts_with("IMAP error: unexpected reply: ")
    {
        return Some(Problem::Login(ExitStatus::Denied));
    }
    if line.contains("Error, certificate owner does not match")
        || line.contains("SSL support not available")
    {
        return account(ExitStatus::Denied);
    }
    if line.starts_with("SSL error connecting") {
        let refused = line.contains("certificate") || line.contains("self-signed");
        return account(if refused { ExitStatus::Denied } else { ExitStatus::Offline });
    }
    // Reached, but no TLS, or another service's greeting (isync 1.4.4 and 1.5.1, observed).
    let no_tls = line.starts_with("Socket error: secure connect to ")
        && line.contains(":SSL routines:")
        && !line.contains("unexpected eof");
    if no_tls || line.starts_with("IMAP error: bogus greeting response ") {
        return account(ExitStatus::Denied);
    }
    if let Some(words) = line.strip_prefix("IMAP error: unexpected BYE response: ") {
        let temporary = is_temporary(words);
        return account(if temporary { ExitStatus::Later } else { ExitStatus::Offline });
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
        return account(ExitStatus::Offline);
    }
    if starts(&["Cannot open config file", "No channel"]) || is_config_complaint(line) {
        return account(ExitStatus::Config);
    }
    if let Some(Subject::Mailbox { channel, name }) =
        line.starts_with("Error: channel ").then(|| subject(line))
    {
        return Some(Problem::Mailbox { channel: Some(channel), mailbox: Some(name) });
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
        return Some(Problem::Mailbox { channel: Some(channel.to_owned()), mailbox });
    }
    if line.starts_with("Maildir error: ")
        || line.contains("UIDVALIDITY")
        || line.contains("incompatible journal version")
        || line.starts_with("Error: ")
    {
        return Some(Problem::Mailbox { channel: None, mailbox: None });
    }
    None
}

/// A message of mbsync's about a login, in plainer words; others as they are.
/// `before`: what the password command printed to standard error, if anything.
#[must_use]
pub fn plain(line: &str, before: Option<&str>) -> String {
    let skipped = line.strip_prefix("Skipping account ").and_then(|rest| rest.rsplit_once(", "));
    let whose = |command| match command {
        "UserCmd" => Some("user name command"),
        "PassCmd" => Some("password command"),
        _ => None,
    };
    let command = skipped
        .and_then(|(_, what)| what.split_once(' '))
        .and_then(|(command, how)| whose(command).zip(Some(how)));
    if let Some((command, how)) = command {
        let how = match how.strip_prefix("exited with status ") {
            Some(status) => format!("failed (status {status})"),
            None if how == "produced no output" => "printed nothing".to_owned(),
            None => how.to_owned(),
        };
        let said = before.map_or(String::new(), |said| format!(": {}", printable(said)));
        return format!("{command} {how}{said}");
    }
    let login = line
        .strip_prefix("IMAP command '")
        .filter(|rest| rest.starts_with("LOGIN ") || rest.starts_with("AUTHENTICATE "))
        .and_then(|rest| rest.split_once("' returned an error: "));
    let Some((_, reply)) = login else { return line.to_owned() };
    let reply = reply.strip_prefix("NO").unwrap_or(reply).trim_start();
    let text = match reply.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, text)) if !text.trim().is_empty() => text.trim(),
        _ => reply,
    };
    if text.is_empty() { "login refused".to_owned() } else { format!("login refused: {text}") }
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

/// Whether a line tells of something that fails no run.
#[must_use]
pub fn explains_nothing(line: &str) -> bool {
    line.starts_with("Warning") || line.starts_with("Notice")
}

/// `FILE:12: …`, or 1.5's `FILE:12:3: …`.
#[must_use]
pub fn is_config_complaint(line: &str) -> bool {
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
/// token. A secret from the user's file is masked wherever it appears.
#[must_use]
pub fn redact<'a>(line: &'a str, secrets: &[&str]) -> Cow<'a, str> {
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
    sanitize(&line).into()
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
            assert!(says_nothing_of_the_run(line) && problem(line).is_none(), "{line}");
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
            ("Error: channel :far:INBOX-:near:INBOX is locked", ExitStatus::Later),
            (
                "IMAP command 'LOGIN u <pass>' returned an error: NO [AUTHENTICATIONFAILED] x",
                ExitStatus::Denied,
            ),
            (
                "IMAP command 'LOGIN u <pass>' returned an error: [AUTHENTICATIONFAILED] x",
                ExitStatus::Denied,
            ),
            (
                "IMAP command 'LOGIN u <pass>' returned an error: NO [UNAVAILABLE] x",
                ExitStatus::Later,
            ),
            (
                "IMAP command 'AUTHENTICATE PLAIN <authdata>' returned an error: [INUSE] x",
                ExitStatus::Later,
            ),
            ("Skipping account Home, PassCmd exited with status 1", ExitStatus::Denied),
            ("Skipping account Home, password command crashed", ExitStatus::Denied),
            (
                "SSL error connecting h (127.0.0.1:993): certificate verify failed",
                ExitStatus::Denied,
            ),
            ("SSL error connecting h (127.0.0.1:993): unexpected EOF", ExitStatus::Offline),
            ("Error, certificate owner does not match hostname h", ExitStatus::Denied),
            ("Error: Cannot resolve server 'h': Name or service not known", ExitStatus::Offline),
            ("Cannot connect to h (127.0.0.1:1): Connection refused", ExitStatus::Offline),
            ("Socket error on h (127.0.0.1:1): timeout.", ExitStatus::Offline),
            ("IMAP error: unexpected BYE response: x", ExitStatus::Offline),
            ("IMAP error: unexpected BYE response: [UNAVAILABLE] x", ExitStatus::Later),
            ("/home/u/.mbsyncrc:12: unknown keyword", ExitStatus::Config),
            ("No channel or group named 'x' defined.", ExitStatus::Config),
            ("Maildir error: duplicate UID 10 in /m.", ExitStatus::Mailbox),
            (
                "IMAP command 'AUTHENTICATE PLAIN <authdata>' returned an error: NO [LIMIT] x",
                ExitStatus::Later,
            ),
            ("IMAP command 'SELECT x' returned an error: NO [LIMIT] x", ExitStatus::Mailbox),
            ("Error: no acceptable authentication mechanism", ExitStatus::Denied),
            ("IMAP error: SASL mechanism list is empty", ExitStatus::Denied),
            ("Error: SSL support not available", ExitStatus::Denied),
            ("SSL error connecting h (127.0.0.1:993): self-signed", ExitStatus::Denied),
            (
                "Socket error: secure connect to h (127.0.0.1:25): error:0A00010B:SSL routines::wrong version number",
                ExitStatus::Denied,
            ),
            (
                "Socket error: secure connect to h (127.0.0.1:25): error:0A000126:SSL routines::unexpected eof while reading",
                ExitStatus::Offline,
            ),
            ("IMAP error: unexpected reply: SSH-2.0-OpenSSH_9.2 ", ExitStatus::Denied),
            ("IMAP error: bogus greeting response BAD", ExitStatus::Denied),
            ("Cannot resolve server 'h': Name or service not known", ExitStatus::Offline),
            ("No working address found for h", ExitStatus::Offline),
            ("IMAP error: unexpected EOF from h", ExitStatus::Offline),
            ("Cannot open config file '/home/u/.mbsyncrc'", ExitStatus::Config),
            ("./mbsyncrc:7:12: unknown keyword", ExitStatus::Config),
            ("~/.mbsyncrc:7: unknown keyword", ExitStatus::Config),
            ("Error: channel Home: UIDVALIDITY of far side INBOX changed", ExitStatus::Mailbox),
            ("The UIDVALIDITY is not what it was", ExitStatus::Mailbox),
            ("incompatible journal version", ExitStatus::Mailbox),
            ("Error: anything", ExitStatus::Mailbox),
        ];
        for (line, exit) in cases {
            assert_eq!(problem(line).map(|found| found.exit()), Some(exit), "{line}");
        }
        for line in [
            "Warning: lost track of 3 pulled message(s)",
            "Warning: UIDVALIDITY genuine",
            "Notice: UIDVALIDITY genuine",
            "anything",
            "anything is locked",
            "/home/u/.mbsyncrc: no line is given",
            "/home/u/.mbsyncrc:: no line is given",
            "/home/u/.mbsyncrc:1a: no line is given",
            "mbsyncrc:12: no path",
            "12: no path",
            "IMAP command 'LOGIN u <pass>' was sent",
        ] {
            assert_eq!(problem(line), None, "{line}");
        }
    }

    #[test]
    fn g12_what_may_have_told_the_password_is_costly() {
        let is_costly = |line: &str| problem(line).is_some_and(|found| found.is_costly());
        for line in [
            "IMAP command 'LOGIN u <pass>' returned an error: NO x",
            "IMAP command 'AUTHENTICATE PLAIN <authdata>' returned an error: x",
            "Skipping account Home, PassCmd exited with status 1",
            "IMAP error: unexpected reply: 500",
            "Error performing SASL authentication step: SASL(-1): generic failure: no ticket",
            "Error initializing SASL context: SASL(-4): no mechanism available",
        ] {
            assert!(is_costly(line), "{line}");
        }
        for line in [
            "IMAP command 'LOGIN u <pass>' returned an error: NO [UNAVAILABLE] x",
            "SSL error connecting h (127.0.0.1:993): certificate verify failed",
            "Error, certificate owner does not match hostname h",
            "IMAP error: bogus greeting response BAD",
            "Cannot connect to h (127.0.0.1:1): Connection refused",
        ] {
            assert!(!is_costly(line), "{line}");
        }
    }

    #[test]
    fn a_refused_login_and_a_failed_command_are_put_plainly() {
        let refused = |reply: &str| {
            plain(&format!("IMAP command 'LOGIN u <pass>' returned an error: {reply}"), Some("x"))
        };
        for reply in ["NO [AUTHENTICATIONFAILED] Not you.", "[AUTHENTICATIONFAILED] Not you."] {
            assert_eq!(refused(reply), "login refused: Not you.");
        }
        assert_eq!(refused("NO"), "login refused");
        assert_eq!(refused("NO [LIMIT]"), "login refused: [LIMIT]");
        let failed = "Skipping account Home, PassCmd exited with status 2";
        assert_eq!(
            plain(failed, Some("gpg: No secret key")),
            "password command failed (status 2): gpg: No secret key"
        );
        assert_eq!(plain(failed, None), "password command failed (status 2)");
        for (how, text) in [
            ("PassCmd crashed", "password command crashed: vault is locked"),
            ("UserCmd produced no output", "user name command printed nothing: vault is locked"),
        ] {
            let line = format!("Skipping account Home, {how}");
            assert_eq!(plain(&line, Some("vault is locked")), text);
        }
        let long = plain(failed, Some(&"x".repeat(3000)));
        assert!(long.len() < 300, "{long}");
        let user = "Skipping account a, b, UserCmd exited with status 1";
        assert_eq!(plain(user, None), "user name command failed (status 1)");
        for other in ["Skipping account Home, password command crashed", "Error: x", ""] {
            assert_eq!(plain(other, None), other);
        }
    }

    #[test]
    fn a_mailbox_is_named() {
        let found = problem("Error: channel Home: far side box Lists/a b cannot be opened.");
        let expected =
            Problem::Mailbox { channel: Some("Home".into()), mailbox: Some("Lists/a b".into()) };
        assert_eq!(found, Some(expected));
        let of = |line: &str| match problem(line) {
            Some(Problem::Mailbox { channel, mailbox }) => (channel, mailbox),
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
            redact(line, &[]),
            "IMAP command 'AUTHENTICATE XOAUTH2 ********' returned an error: NO"
        );
        assert_eq!(redact("a hunter2 b", &["hunter2"]), "a ******** b");
        // What is so short would be found in half of all words.
        assert_eq!(redact("an abcd, an abc", &["abc", "abcd"]), "an ********, an abc");
        // Nothing to hide: the mechanism alone, and a line that is cut off.
        for line in
            ["IMAP command 'AUTHENTICATE PLAIN' returned", "AUTHENTICATE ", "AUTHENTICATE X"]
        {
            assert_eq!(redact(line, &[]), line);
        }
        assert_eq!(redact("AUTHENTICATE X dG9rZW4=", &[]), "AUTHENTICATE X ********");
    }

    #[test]
    fn g10_terminal_escapes_do_not_pass() {
        assert_eq!(redact("\u{1b}[2Jx\u{202e}y", &[]), "?[2Jx?y");
        for trick in
            ["\r", "\n", "\u{7f}", "\u{9b}", "\u{200e}", "\u{200f}", "\u{2066}", "\u{2069}"]
        {
            assert_eq!(redact(trick, &[]), "?", "{trick:?}");
        }
        assert_eq!(redact("a\tb é", &[]), "a\tb é");
    }

    proptest! {
        #[test]
        fn any_line_is_taken(line in "\\PC*|.*") {
            let _ = problem(&line);
            let harmless = !redact(&line, &["pass"]).contains('\u{1b}');
            prop_assert!(harmless);
        }
    }
}
