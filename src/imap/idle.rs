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
        self.transport.begin(Limits::small(self.step));
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
        self.transport.begin(Limits::small(time));
        self.send("DONE", b"DONE\r\n")?;
        let mut pending = PendingCommands::one(tag, "IDLE");
        while !pending.open.is_empty() {
            self.take_response("DONE", &mut pending, &mut |_, _| false)?;
        }
        Ok(())
    }

    /// NOOP: what the server has to report comes with it.
    pub fn noop(&mut self) -> Result<(), ClientError> {
        self.run(Line::new("NOOP"), self.small(), |_| false).map(|_| ())
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

    /// NOOP, or DONE and IDLE again: whether the connection lives, known within
    /// `time`. For the moment after a sleep.
    pub fn probe(&mut self, time: Duration) -> Result<(), ClientError> {
        if self.idling.is_some() {
            self.idle_done(time)?;
            return self.idle_start();
        }
        self.run(Line::new("NOOP"), Limits::small(time), |_| false).map(|_| ())
    }
}
