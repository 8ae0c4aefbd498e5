//! NOTIFY (RFC 5465): one connection for the events of every mailbox.
//!
//! Events come out of [`Client::events`]; they may repeat, leave UIDVALIDITY out, and
//! spell a name in UTF-8 (Dovecot up to 2.4.2).
//!
//! Does not depend on: local mail, what follows from an event.

use super::client::{Client, ClientError, Line, unless_refused};
use super::names::{from_utf7, to_utf7};
use super::parse::{self, Reply};
use super::transport::Limits;
use super::values::MailboxStatus;
use std::collections::{BTreeMap, HashSet};

impl Client {
    /// Asks for the events of these mailboxes, by wire name (RFC 5465),
    /// all on this connection, and of mailboxes that come and go. Gives their
    /// STATUS, of the moment at which the watch begins: no change falls between.
    /// A mailbox that does not exist is left out of it.
    ///
    /// Where there are too many to name (Dovecot 2.3 takes 100), all personal
    /// mailboxes are asked for, and events name others too. Then `others`, which are not
    /// among the personal ones, are named beside them, if the server takes that; where there
    /// are such, it is known to refuse the names of all.
    ///
    /// Refused where the server has no NOTIFY, or not for these mailboxes.
    pub fn notify(
        &mut self,
        names: &[String],
        others: &[String],
    ) -> Result<Vec<(String, MailboxStatus)>, ClientError> {
        const EVENTS: &str = "MessageNew MessageExpunge FlagChange";
        if self.selected.is_some() {
            self.close_mailbox()?;
        }
        // Dovecot (2.3.19, 2.4.1) reports nothing after a second SET, and again after a third.
        self.notify_none()?;
        let plus = self.capabilities.literal_plus();
        let listed = named(if others.is_empty() { names } else { others }, EVENTS, plus);
        let personal = Line::new(&format!("(personal ({EVENTS}"));
        let with_names = personal.clone().raw(" MailboxName))");
        let mut attempts = match listed {
            Some(listed) if others.is_empty() => {
                vec![(listed.clone().raw(" (personal (MailboxName))"), true), (listed, true)]
            }
            Some(listed) => vec![(listed.raw(" ").then(with_names.clone()), false)],
            None => Vec::new(),
        };
        attempts.extend([(with_names, false), (personal.raw("))"), false)]);
        let wanted: HashSet<&String> = names.iter().collect();
        let known = |name: String| {
            let utf7 = Some(&name).filter(|name| !wanted.contains(name)).map(|name| to_utf7(name));
            Some(utf7.unwrap_or(name)).filter(|name| wanted.contains(name))
        };
        let mut refusal = None;
        for (attempt, by_name) in attempts {
            // A server may repeat itself as often as it likes.
            let mut found: BTreeMap<String, MailboxStatus> = BTreeMap::new();
            let mut overflow = false;
            let line = Line::new("NOTIFY SET STATUS ").then(attempt);
            let done = self.run(line, Limits::bulk(self.step), |reply| match reply {
                Reply::Data(word, rest) if word.eq_ignore_ascii_case(b"STATUS") => {
                    if let Some((name, status)) = parse::status(rest) {
                        if let Some(name) = known(name) {
                            let so_far = found.entry(name).or_default();
                            *so_far = so_far.overlaid(status);
                        }
                    }
                    true
                }
                Reply::Condition(said) if said.has_code("NOTIFICATIONOVERFLOW") => {
                    overflow = true;
                    true
                }
                _ => false,
            });
            match done {
                Ok(answer) if !overflow && answer.code != "NOTIFICATIONOVERFLOW" => {
                    self.notified = true;
                    self.notified_by_name = by_name;
                    return Ok(found.into_iter().collect());
                }
                Ok(answer) | Err(ClientError::Refused(answer)) => refusal = Some(answer),
                Err(lost) => return Err(lost),
            }
        }
        match refusal {
            Some(answer) => Err(ClientError::Refused(answer)),
            None => Err(self.break_off("NOTIFY", "no answer")),
        }
    }

    /// Whether NOTIFY has taken the names of all mailboxes.
    #[must_use]
    pub fn notified_by_name(&self) -> bool {
        self.notified_by_name
    }

    /// Ends NOTIFY, if it is on.
    pub fn notify_none(&mut self) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.notified) {
            return Ok(());
        }
        unless_refused(self.run(Line::new("NOTIFY NONE"), self.small(), |_| false)).map(drop)
    }
}

/// The events of these mailboxes; `None` if they are none or too many for a line.
fn named(names: &[String], events: &str, literal_plus: usize) -> Option<Line> {
    let mut listed = Line::new("(mailboxes (");
    let mut first = true;
    for name in names {
        // Dovecot (2.3.19, 2.4.1) compares with its own names, which are UTF-8. A name
        // that does not exist is left out by all servers.
        let utf8 = from_utf7(name).filter(|utf8| utf8 != name);
        for spelling in [Some(name), utf8.as_ref()].into_iter().flatten() {
            if !std::mem::take(&mut first) {
                listed.push(b" ");
            }
            listed.bare(spelling, literal_plus);
        }
    }
    let listed = listed.raw(&format!(") ({events}))"));
    // RFC 7162 §4: a line should not be longer than 8192 bytes.
    (!names.is_empty() && listed.length() < 8000).then_some(listed)
}
