//! Login, spoken by us rather than by the `imap` crate.
//!
//! The mechanism is the one that mbsync would choose. Passwords are in buffers
//! that are wiped, and are sent only on a connection that is secured as the file
//! asks.
//!
//! Does not depend on: mailboxes.

use super::credentials::{PromptPolicy, obtain};
use super::endpoint::{refused, step, step_failed};
use super::greeting::{Greeting, goodbye};
use super::parse::{self, Condition, Reply, Verb};
use super::scram::Scram;
use super::session::{self, SessionError};
use super::transport::{Limits, Transport, TransportError};
use super::values::Capabilities;
use crate::error::{Error, ErrorKind, ExitStatus};
use crate::model::{Server, TlsMode};
use crate::text::printable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, Zeroizing};

/// The ways to log in that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802.
    ScramSha1,
    /// RFC 7628; the password is a token.
    OauthBearer,
    /// Google's, before RFC 7628; the password is a token.
    Xoauth2,
    /// RFC 4422, who the client certificate says we are.
    External,
    /// RFC 4616.
    Plain,
    /// IMAP's own command.
    Login,
}

impl Mechanism {
    /// Strongest first.
    const ALL: [(Mechanism, &'static str); 7] = [
        (Mechanism::ScramSha256, "SCRAM-SHA-256"),
        (Mechanism::ScramSha1, "SCRAM-SHA-1"),
        (Mechanism::OauthBearer, "OAUTHBEARER"),
        (Mechanism::Xoauth2, "XOAUTH2"),
        (Mechanism::External, "EXTERNAL"),
        (Mechanism::Plain, "PLAIN"),
        (Mechanism::Login, "LOGIN"),
    ];

    /// Whether a mechanism of this name is one of them.
    #[must_use]
    pub fn is_known(name: &str) -> bool {
        Self::ALL.iter().any(|(_, known)| *known == name)
    }

    /// Its name in `AuthMechs` and `AUTH=`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(m, _)| *m == self).map_or("", |(_, name)| name)
    }

    /// What mbsync would choose (isync 1.4, `drv_imap.c`): the strongest that both
    /// the file and the server name; IMAP's LOGIN last, and without TLS only if
    /// the file names it. `*` covers what takes a password, not tokens.
    pub fn choose(
        wanted: &[String],
        offered: &Capabilities,
        encrypted: bool,
        tls_keyword: &str,
    ) -> Result<Self, Error> {
        let named = |name: &str| wanted.iter().any(|w| w.eq_ignore_ascii_case(name));
        let any = named("*") || wanted.is_empty();
        let fits = |mechanism: Mechanism, name: &str| match mechanism {
            Mechanism::Login => !offered.has("LOGINDISABLED") && (named(name) || any && encrypted),
            Mechanism::OauthBearer | Mechanism::Xoauth2 | Mechanism::External => {
                named(name) && offered.auth(name)
            }
            _ => (named(name) || any) && offered.auth(name),
        };
        if let Some((mechanism, _)) = Self::ALL.into_iter().find(|(m, name)| fits(*m, name)) {
            return Ok(mechanism);
        }
        let theirs: Vec<&str> = offered.mechanisms().collect();
        let theirs =
            if theirs.is_empty() { "no AUTH= at all".to_owned() } else { theirs.join(" ") };
        let theirs = printable(&theirs);
        if any && !encrypted && !offered.has("LOGINDISABLED") {
            return Err(refused(
                "the server takes LOGIN only, and the connection is not encrypted",
            )
            .with_hint(format!(
                "set {tls_keyword}, or AuthMechs LOGIN if the connection is safe without"
            )));
        }
        if !any
            && !wanted
                .iter()
                .any(|w| Self::ALL.iter().any(|(_, name)| w.eq_ignore_ascii_case(name)))
        {
            let names = wanted.join(" ");
            return Err(refused(format!("AuthMechs {names} is not known here"))
                .with_hint("only local changes are watched")
                .of_kind(ErrorKind::UnknownMechanism));
        }
        let ours = if any { "*".to_owned() } else { wanted.join(" ") };
        Err(refused(format!(
            "no login in common: the server offers {theirs}, and AuthMechs allows {ours}"
        )))
    }
}

/// Logs in. Gives what the server said it can do afterwards, if it said so. For
/// errors to name the server, see [`Error::at`].
///
/// The user name and password are obtained here, not before: a server that is
/// not reached costs no prompt.
pub fn log_in(
    transport: &mut Transport,
    greeting: Greeting,
    server: &Server,
    asking: &PromptPolicy,
) -> Result<Option<Capabilities>, Error> {
    if greeting.preauth {
        return Ok(greeting.capabilities);
    }
    let offered = match greeting.capabilities {
        Some(capabilities) => capabilities,
        None => ask_capabilities(transport, step(server))?,
    };
    if server.tls != TlsMode::None && !transport.is_tls() {
        return Err(refused(
            "the connection is not encrypted as the file asks; the password was not sent",
        ));
    }
    let encrypted = transport.is_tls();
    let keyword = server.tls_keyword;
    let mechanism = Mechanism::choose(&server.auth_mechs, &offered, encrypted, keyword)?;
    identify(transport, mechanism, &offered, server, asking).map_err(Error::as_costly)
}

/// Logs in by this mechanism: from here on a failure is costly.
fn identify(
    transport: &mut Transport,
    mechanism: Mechanism,
    offered: &Capabilities,
    server: &Server,
    asking: &PromptPolicy,
) -> Result<Option<Capabilities>, Error> {
    let user =
        server.user.as_ref().ok_or_else(|| Error::config("neither User nor UserCmd is set"))?;
    let user = obtain(user, "UserCmd", asking)?;
    let pass = match (&server.pass, mechanism) {
        (_, Mechanism::External) => Zeroizing::new(Vec::new()),
        (Some(pass), _) => obtain(pass, "PassCmd", asking)?,
        (None, _) => {
            return Err(Error::new(
                ExitStatus::Denied,
                "neither Pass nor PassCmd is set, and there is no terminal to ask on",
            )
            .with_hint("set PassCmd")
            .of_kind(ErrorKind::NoPassword));
        }
    };
    if user.is_empty() || user.contains(&0) || pass.contains(&0) {
        return Err(Error::new(
            ExitStatus::Denied,
            "an empty user name, or a NUL byte in user name or password",
        ));
    }
    transport.begin(Limits::small(step(server)));
    let spoken = vec![
        Zeroizing::new(String::from_utf8_lossy(&pass).into_owned()),
        Zeroizing::new(STANDARD.encode(&*pass)),
    ];
    let login = LoginAttempt { transport, mechanism, user: &user, after: None, spoken };
    login.run(&pass, offered, server)
}

/// CAPABILITY, before login.
pub fn ask_capabilities(
    transport: &mut Transport,
    time: std::time::Duration,
) -> Result<Capabilities, Error> {
    transport.begin(Limits::small(time));
    match session::capabilities(transport, "c1").result {
        Ok(capabilities) if !capabilities.words().is_empty() => Ok(capabilities),
        Err(SessionError::Goodbye(error)) => Err(error),
        Err(SessionError::Lost(error)) => Err(step_failed("CAPABILITY", &error)),
        Ok(_) | Err(SessionError::Refused(_)) => {
            let error = transport.kill(TransportError::Malformed("no answer to CAPABILITY"));
            Err(step_failed("CAPABILITY", &error))
        }
    }
}

/// What the server said to the last thing we said.
enum Said {
    /// `+`, with its text decoded.
    Go(Vec<u8>),
    /// The end.
    Done,
}

struct LoginAttempt<'a> {
    transport: &'a mut Transport,
    mechanism: Mechanism,
    user: &'a [u8],
    after: Option<Capabilities>,
    /// The password in every form that it was said in. The server may repeat it,
    /// and is not quoted with it.
    spoken: Vec<Zeroizing<String>>,
}

const TAG: &[u8] = b"l1";

impl LoginAttempt<'_> {
    fn run(
        mut self,
        pass: &[u8],
        offered: &Capabilities,
        server: &Server,
    ) -> Result<Option<Capabilities>, Error> {
        match self.mechanism {
            Mechanism::Login => self.login(pass, offered)?,
            Mechanism::Plain => {
                let said = Zeroizing::new([b"\0", self.user, b"\0", pass].concat());
                self.authenticate(offered, &said)?;
                self.no_more()?;
            }
            Mechanism::External => {
                self.authenticate(offered, b"")?;
                self.no_more()?;
            }
            Mechanism::Xoauth2 => {
                let said = Zeroizing::new(
                    [b"user=", self.user, b"\x01auth=Bearer ", pass, b"\x01\x01"].concat(),
                );
                self.authenticate(offered, &said)?;
                self.token(b"")?;
            }
            Mechanism::OauthBearer => {
                let host = server.host.as_deref().unwrap_or_default();
                let wher = format!(",\x01host={host}\x01port={}\x01auth=Bearer ", server.port);
                let said = Zeroizing::new(
                    [b"n,a=", self.user, wher.as_bytes(), pass, b"\x01\x01"].concat(),
                );
                self.authenticate(offered, &said)?;
                self.token(b"\x01")?;
            }
            Mechanism::ScramSha256 | Mechanism::ScramSha1 => self.scram(pass, offered)?,
        }
        Ok(self.after)
    }

    fn malformed(&mut self, how: &'static str) -> Error {
        let error = self.transport.kill(TransportError::Malformed(how));
        step_failed("login", &error)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.transport.send(bytes).map_err(|e| step_failed("login", &e))
    }

    /// Base64 and a line's end, wiped afterwards.
    fn send_encoded(&mut self, before: &[u8], secret: &[u8]) -> Result<(), Error> {
        let mut line = Zeroizing::new(vec![0_u8; before.len() + secret.len().div_ceil(3) * 4 + 2]);
        line[..before.len()].copy_from_slice(before);
        let n = STANDARD
            .encode_slice(secret, &mut line[before.len()..])
            .map_err(|_| Error::new(ExitStatus::Denied, "the password is too long"))?;
        let end = before.len() + n;
        if let Ok(encoded) = std::str::from_utf8(&line[before.len()..end]) {
            self.spoken.push(Zeroizing::new(encoded.to_owned()));
        }
        line[end..end + 2].copy_from_slice(b"\r\n");
        self.send(&line[..end + 2])
    }

    fn next(&mut self) -> Result<Said, Error> {
        loop {
            let response = self.transport.response().map_err(|e| step_failed("login", &e))?;
            match parse::reply(&response) {
                Reply::Continue(text) => {
                    return Ok(Said::Go(
                        STANDARD.decode(text.trim_ascii_end()).unwrap_or_default(),
                    ));
                }
                Reply::Tagged(TAG, said) if said.verb == Verb::Ok => {
                    if let Some(after) = parse::code_capabilities(said.code) {
                        self.after = Some(after);
                    }
                    return Ok(Said::Done);
                }
                Reply::Tagged(TAG, said) => return Err(self.refused(&said)),
                Reply::Tagged(..) => return Err(self.malformed("an unexpected tagged response")),
                Reply::Condition(said) if said.verb == Verb::Bye => {
                    return Err(goodbye(&said, &self.quoted(&said)));
                }
                Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"CAPABILITY") => {
                    self.after = Some(parse::capabilities(rest.trim_ascii_end()));
                }
                _ => {}
            }
        }
    }

    /// The server's words, without ours: the longest first, for one may have
    /// another in it.
    fn quoted(&self, said: &Condition<'_>) -> String {
        let mut spoken: Vec<&str> = self.spoken.iter().map(|secret| secret.as_str()).collect();
        spoken.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        said.printable_without(spoken.into_iter())
    }

    fn refused(&self, said: &Condition<'_>) -> Error {
        let words = self.quoted(said);
        if said.is_temporary() {
            return Error::new(
                ExitStatus::Later,
                format!("the server refuses logins for now: {words}"),
            )
            .of_kind(ErrorKind::Connection);
        }
        let refused = refused(format!("login by {} refused: {words}", self.mechanism.name()));
        match self.mechanism {
            Mechanism::Xoauth2 | Mechanism::OauthBearer => {
                refused.with_hint("check that PassCmd prints a fresh token")
            }
            Mechanism::ScramSha1 | Mechanism::ScramSha256 => refused.with_hint(
                "check User and the password, or set AuthMechs PLAIN if the server cannot do SCRAM for this user",
            ),
            _ => refused.with_hint("check User and the password").of_kind(ErrorKind::PasswordRefused),
        }
    }

    /// The command, and our first words in it or after the server's.
    fn authenticate(&mut self, offered: &Capabilities, first: &[u8]) -> Result<(), Error> {
        let command = [TAG, b" AUTHENTICATE ", self.mechanism.name().as_bytes()].concat();
        if offered.sasl_ir() {
            let command = [&command[..], b" "].concat();
            if first.is_empty() {
                return self.send(&[&command[..], b"=\r\n"].concat());
            }
            return self.send_encoded(&command, first);
        }
        self.send(&[&command[..], b"\r\n"].concat())?;
        self.challenge()?;
        self.send_encoded(b"", first)
    }

    /// The server must have something to say now.
    fn challenge(&mut self) -> Result<Vec<u8>, Error> {
        match self.next()? {
            Said::Go(challenge) => Ok(challenge),
            Said::Done => Err(self.malformed("OK to a login that has not happened")),
        }
    }

    /// The server must be content now.
    fn end(&mut self) -> Result<(), Error> {
        match self.next()? {
            Said::Done => Ok(()),
            Said::Go(_) => Err(self.malformed("a challenge after the last one")),
        }
    }

    /// The same, but that a refusal may come as a challenge first.
    fn no_more(&mut self) -> Result<(), Error> {
        if let Said::Done = self.next()? {
            return Ok(());
        }
        // RFC 3501 §6.2.2: `*` cancels.
        self.send(b"*\r\n")?;
        self.end()?;
        Err(self.malformed("OK to a cancelled login"))
    }

    /// The same for a token, whose refusal wants this answer.
    fn token(&mut self, answer: &[u8]) -> Result<(), Error> {
        if let Said::Done = self.next()? {
            return Ok(());
        }
        self.send_encoded(b"", answer)?;
        self.end()?;
        Err(self.malformed("OK after refusing the token"))
    }

    fn scram(&mut self, pass: &[u8], offered: &Capabilities) -> Result<(), Error> {
        let denied = |why: &str| refused(format!("SCRAM: {why}"));
        let user =
            std::str::from_utf8(self.user).map_err(|_| denied("the user name is not UTF-8"))?;
        let sha256 = self.mechanism == Mechanism::ScramSha256;
        let mut scram = Scram::new(sha256, user).map_err(denied)?;
        self.authenticate(offered, &scram.first())?;
        let challenge = self.challenge()?;
        let answer = scram.answer(&challenge, pass).map_err(denied)?;
        self.send_encoded(b"", &answer)?;
        let last = match self.next()? {
            Said::Go(last) => last,
            Said::Done => {
                let why = "the server does not prove that it knows the password";
                self.transport.kill(TransportError::Malformed("an unproven login"));
                return Err(denied(why));
            }
        };
        if let Err(why) = scram.verify(&last) {
            self.transport.kill(TransportError::Malformed("an unproven login"));
            return Err(denied(why));
        }
        self.send(b"\r\n")?;
        self.end()
    }

    /// IMAP's own command; user name and password quoted, or as literals where
    /// they can not be.
    fn login(&mut self, pass: &[u8], offered: &Capabilities) -> Result<(), Error> {
        let mut pending =
            Zeroizing::new(Vec::with_capacity(2 * (self.user.len() + pass.len()) + 64));
        pending.extend_from_slice(TAG);
        pending.extend_from_slice(b" LOGIN");
        for text in [self.user, pass] {
            pending.push(b' ');
            if text.iter().all(|b| (0x20..0x7f).contains(b)) {
                let from = pending.len() + 1;
                pending.push(b'"');
                for byte in text {
                    if matches!(byte, b'"' | b'\\') {
                        pending.push(b'\\');
                    }
                    pending.push(*byte);
                }
                if text == pass {
                    let escaped = String::from_utf8_lossy(&pending[from..]).into_owned();
                    self.spoken.push(Zeroizing::new(escaped));
                }
                pending.push(b'"');
                continue;
            }
            let plus = text.len() <= offered.literal_plus();
            let head = format!("{{{}{}}}\r\n", text.len(), if plus { "+" } else { "" });
            pending.extend_from_slice(head.as_bytes());
            if !plus {
                self.send(&pending)?;
                pending.zeroize();
                self.challenge()?;
            }
            pending.extend_from_slice(text);
        }
        pending.extend_from_slice(b"\r\n");
        self.send(&pending)?;
        match self.next()? {
            Said::Done => Ok(()),
            Said::Go(_) => Err(self.malformed("a challenge to LOGIN")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &str, offered: &str, encrypted: bool) -> Result<&'static str, String> {
        let wanted: Vec<String> = wanted.split_whitespace().map(str::to_owned).collect();
        let offered = parse::capabilities(offered.as_bytes());
        Mechanism::choose(&wanted, &offered, encrypted, "TLSType")
            .map(Mechanism::name)
            .map_err(|error| error.message)
    }

    #[test]
    fn mechanisms_are_chosen_as_mbsync_does() {
        let all =
            "IMAP4rev1 AUTH=PLAIN AUTH=LOGIN AUTH=SCRAM-SHA-1 AUTH=SCRAM-SHA-256 AUTH=XOAUTH2";
        assert_eq!(chosen("*", all, true), Ok("SCRAM-SHA-256"));
        assert_eq!(chosen("PLAIN", all, true), Ok("PLAIN"));
        assert_eq!(chosen("LOGIN", all, false), Ok("LOGIN"));
        assert_eq!(chosen("XOAUTH2 PLAIN", all, true), Ok("XOAUTH2"));
        assert_eq!(chosen("*", "IMAP4rev1 AUTH=XOAUTH2", true), Ok("LOGIN"));
        assert_eq!(chosen("*", "IMAP4rev1 AUTH=PLAIN", false), Ok("PLAIN"));
        assert_eq!(chosen("*", "IMAP4rev1", true), Ok("LOGIN"));
        assert!(chosen("*", "IMAP4rev1", false).unwrap_err().contains("not encrypted"));
        assert!(chosen("*", "IMAP4rev1 LOGINDISABLED", true).is_err());
        assert!(chosen("GSSAPI", all, true).unwrap_err().contains("not known here"));
        assert!(chosen("XOAUTH2", "AUTH=PLAIN", true).unwrap_err().contains("in common"));
    }

    #[test]
    fn g11_a_server_that_repeats_the_password_is_not_quoted() {
        use super::super::transport::Stream;
        use crate::os::child::Prompt;
        use crate::os::wait::Cancel;
        use std::io::Write as _;
        use std::os::unix::net::UnixStream;

        let refusal = |mechanism, pass: &[u8], words: &str| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut transport =
                Transport::new(Stream::Tunnel(ours, Box::new(())), Cancel::new().unwrap());
            theirs.write_all(words.as_bytes()).unwrap();
            let section = crate::model::Server {
                host: Some("h".to_owned()),
                port: 1,
                user: Some(crate::model::CredentialSource::Text(Zeroizing::new("me".to_owned()))),
                pass: Some(crate::model::CredentialSource::Text(Zeroizing::new(
                    String::from_utf8_lossy(pass).into_owned(),
                ))),
                tls: TlsMode::None,
                system_certificates: false,
                auth_mechs: vec![mechanism],
                timeout: None,
                ..crate::model::Server::default()
            };
            let asking = PromptPolicy {
                prompt: Prompt::Never,
                time: std::time::Duration::from_secs(9),
                cancel: Cancel::new().unwrap(),
                reading: crate::imap::credentials::Reading::Whole,
                told_of: None,
            };
            let offers = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 AUTH=OAUTHBEARER";
            let greeting = Greeting {
                preauth: false,
                capabilities: Some(parse::capabilities(offers.as_bytes())),
            };
            log_in(&mut transport, greeting, &section, &asking).unwrap_err().to_string()
        };
        let encoded = |text: String| STANDARD.encode(text);
        let pass = r#"hun"ter2"#;
        let forms = [
            ("LOGIN", pass.to_owned()),
            ("LOGIN", r#"hun\"ter2"#.to_owned()),
            ("PLAIN", encoded(format!("\0me\0{pass}"))),
            ("PLAIN", encoded(pass.to_owned())),
            ("XOAUTH2", encoded(format!("user=me\x01auth=Bearer {pass}\x01\x01"))),
            (
                "OAUTHBEARER",
                encoded(format!("n,a=me,\x01host=h\x01port=1\x01auth=Bearer {pass}\x01\x01")),
            ),
        ];
        for (mechanism, secret) in forms {
            let within = format!("{}\u{200b}\x07{}", &secret[..3], &secret[3..]);
            // Where the text is cut, no part of it may be left over either.
            let at_the_cut = format!("{}{secret}", "x".repeat(200 - secret.len() / 2));
            for words in [&secret, &within, &at_the_cut] {
                for said in ["l1 NO", "l1 BAD", "* BYE", "l1 NO [UNAVAILABLE]"] {
                    let text = refusal(
                        mechanism.to_owned(),
                        pass.as_bytes(),
                        &format!("{said} {words} ?\r\n"),
                    );
                    assert!(text.contains("***") || *words == at_the_cut, "{mechanism}: {text}");
                    assert!(!text.contains(&secret[..3]), "{mechanism}: {text}");
                }
            }
        }
        let text = refusal("PLAIN".to_owned(), pass.as_bytes(), "l1 NO try again\r\n");
        assert!(text.contains("try again") && !text.contains("***"), "{text}");
    }
}
