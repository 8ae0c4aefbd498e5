//! IDLE (RFC 2177): beginning and ending it.
//!
//! The imap crate's own IDLE hangs when something comes before the `+`, and its
//! timeout begins anew with every line.
//!
//! Does not depend on: clocks, when to renew it.

use super::client::{Client, ClientError, Line, PendingCommands};
use super::parse::Verb;
use super::transport::Limits;
use std::time::Duration;

impl Client {
    /// Whether IDLE is on.
    #[must_use]
    pub fn is_idling(&self) -> bool {
        self.idling.is_some()
    }

    /// Begins IDLE (RFC 2177): from now on the server speaks unasked. Commands
    /// end it by themselves.
    pub fn idle_start(&mut self) -> Result<(), ClientError> {
        if let Some(trouble) = self.transport.trouble().cloned() {
            return Err(self.lost("IDLE", &trouble));
        }
        if self.idling.is_some() {
            return Ok(());
        }
        self.transport.begin(Limits::unasked_within(self.step));
        let tag = self.tag();
        self.send("IDLE", format!("{tag} IDLE\r\n").as_bytes())?;
        let mut pending = PendingCommands::one(tag.clone(), "IDLE");
        if self.continuation("IDLE", &mut pending, &mut |_, _| false, tag.as_bytes())? {
            self.idling = Some(tag);
            return Ok(());
        }
        match pending.answers.pop().flatten() {
            Some(answer) if answer.verb != Verb::Ok => Err(ClientError::Refused(answer)),
            _ => Err(self.break_off("IDLE", "OK where a continuation is due")),
        }
    }

    /// Ends IDLE; the server must agree within `time`. What it says meanwhile
    /// comes out of [`Client::events`].
    pub fn idle_done(&mut self, time: Duration) -> Result<(), ClientError> {
        let Some(tag) = self.idling.take() else { return Ok(()) };
        self.transport.begin(Limits::unasked_within(time));
        self.send("DONE", b"DONE\r\n")?;
        let mut pending = PendingCommands::one(tag, "IDLE");
        while !pending.open.is_empty() {
            self.take_response("DONE", &mut pending, &mut |_, _| false)?;
        }
        Ok(())
    }

    /// NOOP: what the server has to report comes with it.
    pub fn noop(&mut self) -> Result<(), ClientError> {
        self.noop_within(self.step)
    }

    fn noop_within(&mut self, time: Duration) -> Result<(), ClientError> {
        self.run(Line::new("NOOP"), Limits::unasked_within(time), |_| false).map(|_| ())
    }

    /// The server must say something within `time`, or is lost; what is asked next has the
    /// usual time. The end of IDLE is such a word, and costs no round trip of its own.
    pub fn expect_word(&mut self, time: Duration) -> Result<(), ClientError> {
        if self.idling.is_some() {
            self.idle_end = time;
            return Ok(());
        }
        self.probe(time)
    }

    /// Whether the connection works, known within `time`: by NOOP, or by the end of IDLE, which
    /// then begins again within the usual time.
    pub fn probe(&mut self, time: Duration) -> Result<(), ClientError> {
        if self.idling.is_some() {
            self.idle_done(time)?;
            return self.idle_start();
        }
        self.noop_within(time)
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::scripted;
    use crate::imap::ServerEvent;
    use std::fmt::Write as _;

    /// As where another client has marked all messages read.
    #[test]
    fn many_reports_may_come_before_the_end_of_idle() {
        let reports = (1..=20_000).fold(String::new(), |mut all, n| {
            let _ = write!(all, "* {n} FETCH (FLAGS (\\Seen))\r\n");
            all
        });
        let status = "* STATUS INBOX (MESSAGES 20000 UIDNEXT 20001 UIDVALIDITY 1)\r\n";
        let mut server = scripted("IMAP4rev1 IDLE", move |command| match command {
            "DONE" | "NOOP" => Some(reports.clone()),
            "STATUS \"INBOX\" (MESSAGES UIDNEXT UIDVALIDITY)" => Some(status.to_owned()),
            _ => None,
        });
        let client = &mut server.client;
        client.idle_start().unwrap();
        let told = client.status(&["INBOX".to_owned()]).unwrap();
        assert_eq!(told[0].unwrap().messages, Some(20_000));
        client.noop().unwrap();
        client.idle_start().unwrap();
        client.idle_done(client.step).unwrap();
        assert_eq!(client.events().unwrap(), [ServerEvent::Selected]);
    }
}
