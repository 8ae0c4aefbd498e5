//! Commands about mailboxes: which there are, their STATUS, what is in one.
//!
//! Does not depend on: what follows from an answer.

use super::client::{Client, ClientError, Line, ServerEvent, WINDOW};
use super::parse::{self, Reply, Verb};
use super::session;
use super::transport::Limits;
use super::values::{Answer, Listed, MailboxStatus, Namespace, Opened, Opening};
use crate::model::flags::Flags;
use crate::model::uid_set::UidSet;
use std::collections::HashMap;

/// What is in one mailbox, by UIDs and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxScan {
    /// UIDVALIDITY.
    pub uid_validity: Option<u32>,
    /// Whether `$Forwarded` can be kept there; `None`: not known (EXAMINE gives
    /// no permanent flags with Dovecot; SELECT does).
    pub forwarded: Option<bool>,
    /// All UIDs there are.
    pub uids: UidSet,
    /// Flags of those that changed since the given modification sequence, or
    /// of all of them; ascending by UID.
    pub flags: Vec<(u32, Flags)>,
    /// Whether `flags` covers all messages.
    pub all_flags: bool,
    /// STATUS after the look: what differs from it has happened since.
    pub after: MailboxStatus,
}

impl Client {
    /// The first personal namespace; empty where the server has none to tell.
    pub fn namespace(&mut self) -> Result<Namespace, ClientError> {
        if !self.capabilities.namespace() {
            return Ok(Namespace::default());
        }
        let (mut found, mut said) = (None, None);
        self.run(Line::new("NAMESPACE"), self.small(), |reply| match reply {
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"NAMESPACE") => {
                found = parse::namespace(rest);
                said = Some([&b"* NAMESPACE "[..], rest, b"\r\n"].concat());
                true
            }
            _ => false,
        })?;
        self.namespace = said.filter(|said| said.len() < 4096);
        Ok(found.unwrap_or_default())
    }

    /// The mailboxes whose wire names begin with `prefix`, with their special use
    /// where the server tells.
    pub fn list(&mut self, prefix: &str) -> Result<Vec<Listed>, ClientError> {
        let plus = self.capabilities.literal_plus();
        let mut line = Line::new("LIST \"\"").string(&format!("{prefix}*"), plus);
        if self.capabilities.special_use() {
            line = line.raw(" RETURN (SPECIAL-USE)");
        }
        let limits = Limits::bulk(self.step);
        let mut found: Vec<Listed> = Vec::new();
        self.run(line, limits, |reply| match reply {
            Reply::Data(name, rest) if name.eq_ignore_ascii_case(b"LIST") => {
                if found.len() < 200_000 {
                    found.extend(parse::list(rest));
                }
                true
            }
            _ => false,
        })?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    fn status_items(&self) -> &'static str {
        if self.capabilities.condstore() {
            "(MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ)"
        } else {
            "(MESSAGES UIDNEXT UIDVALIDITY)"
        }
    }

    /// STATUS of these, by wire name; `None` for one that has none to tell (it
    /// does not exist, or may not be read). Many are asked for at once.
    pub fn status(&mut self, names: &[String]) -> Result<Vec<Option<MailboxStatus>>, ClientError> {
        let mut known: HashMap<String, Option<MailboxStatus>> =
            names.iter().map(|name| (name.clone(), None)).collect();
        let items = self.status_items();
        let limits = Limits::bulk(self.step);
        if self.capabilities.list_status() && names.len() > WINDOW {
            let line = Line::new("LIST \"\" \"*\" RETURN (STATUS ").raw(items).raw(")");
            let done = self.run(line, limits, |reply| {
                matches!(reply, Reply::Data(name, _) if name.eq_ignore_ascii_case(b"LIST"))
                    || take_status(reply, &mut known)
            });
            match done {
                Ok(_) | Err(ClientError::Refused(_)) => {}
                Err(lost) => return Err(lost),
            }
        }
        let plus = self.capabilities.literal_plus();
        let mut asked: Vec<&String> =
            names.iter().filter(|name| known.get(*name) == Some(&None)).collect();
        asked.sort_unstable();
        asked.dedup();
        let lines = asked
            .iter()
            .map(|name| Line::new("STATUS").string(name, plus).raw(" ").raw(items))
            .collect();
        self.run_all(lines, limits, |reply| take_status(reply, &mut known))?;
        Ok(names.iter().map(|name| known.get(name).copied().flatten()).collect())
    }

    /// Opens a mailbox; says what it is like. It stays open.
    pub fn open_mailbox(&mut self, name: &str, opening: Opening) -> Result<Opened, ClientError> {
        self.selected = None;
        let doing = match opening {
            Opening::Examine => "EXAMINE",
            Opening::Select => "SELECT",
        };
        let opened = self.by_session(doing, self.small(), |transport, tag| {
            session::open(transport, tag, name, opening)
        })?;
        self.selected = Some((name.to_owned(), opening));
        Ok(opened)
    }

    /// Leaves the open mailbox, without expunging anything in it.
    pub fn close_mailbox(&mut self) -> Result<(), ClientError> {
        for line in self.closing() {
            let answer = self.run(line, self.small(), |_| false);
            if let Err(lost @ ClientError::Lost(_)) = answer {
                return Err(lost);
            }
        }
        self.selected = None;
        self.events.retain(|event| *event != ServerEvent::Selected);
        Ok(())
    }

    /// The commands that leave the open mailbox. CLOSE expunges, but not a
    /// mailbox that was opened read-only (RFC 3501 §6.4.2).
    fn closing(&self) -> Vec<Line> {
        let Some((name, opening)) = &self.selected else { return Vec::new() };
        if self.capabilities.unselect() {
            return vec![Line::new("UNSELECT")];
        }
        match opening {
            Opening::Examine => vec![Line::new("CLOSE")],
            Opening::Select => {
                let plus = self.capabilities.literal_plus();
                vec![Line::new("EXAMINE").string(name, plus), Line::new("CLOSE")]
            }
        }
    }

    /// Looks into a mailbox: which messages there are, and the flags of those that
    /// changed since `since` (of all without it, or without CONDSTORE). Two
    /// round trips. The mailbox is left again, and its STATUS asked for, because
    /// a server tells nothing of a mailbox while it is open.
    pub fn look(
        &mut self,
        name: &str,
        opening: Opening,
        since: Option<u64>,
    ) -> Result<MailboxScan, ClientError> {
        let opened = self.open_mailbox(name, opening)?;
        let since = since.filter(|m| *m > 0 && self.capabilities.condstore());
        let mut look = MailboxScan {
            uid_validity: opened.status.uid_validity,
            forwarded: opened.forwarded,
            uids: UidSet::default(),
            flags: Vec::new(),
            all_flags: since.is_none(),
            after: MailboxStatus::default(),
        };
        let empty = opened.status.messages == Some(0);
        let answers = self.look_at(name, &mut look, since, empty)?;
        if since.is_some() && answers.get(1).is_some_and(|a| a.verb != Verb::Ok) {
            // NOMODSEQ, or a server that does not keep its word.
            self.open_mailbox(name, opening)?;
            look.flags.clear();
            look.all_flags = true;
            self.look_at(name, &mut look, None, empty)?;
        }
        look.flags.sort_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        look.flags.dedup_by_key(|(uid, _)| *uid);
        look.flags.reverse();
        Ok(look)
    }

    fn look_at(
        &mut self,
        name: &str,
        look: &mut MailboxScan,
        since: Option<u64>,
        empty: bool,
    ) -> Result<Vec<Answer>, ClientError> {
        let esearch = self.capabilities.esearch();
        let mut lines = Vec::new();
        // An empty mailbox has no message 1, and some servers say BAD then.
        if !empty {
            lines.push(Line::new(if esearch {
                "UID SEARCH RETURN (ALL) ALL"
            } else {
                "UID SEARCH ALL"
            }));
            lines.push(Line::new("UID FETCH 1:* (FLAGS)"));
            if let (Some(since), Some(line)) = (since, lines.last_mut()) {
                line.push(format!(" (CHANGEDSINCE {since})").as_bytes());
            }
        }
        lines.extend(self.closing());
        let plus = self.capabilities.literal_plus();
        lines.push(Line::new("STATUS").string(name, plus).raw(" ").raw(self.status_items()));
        let search_tag = format!("m{}", self.tags.wrapping_add(1));
        let limits = Limits::bulk(self.step).long_lines();
        let mut after = HashMap::from([(name.to_owned(), None)]);
        let answers = self.run_all(lines, limits, |reply| match reply {
            Reply::Data(word, rest) => match word.to_ascii_uppercase().as_slice() {
                b"SEARCH" => {
                    look.uids.add(&parse::search(trim(rest)));
                    true
                }
                b"ESEARCH" => match parse::esearch(trim(rest), &search_tag) {
                    Some(found) => {
                        look.uids.add(&found);
                        true
                    }
                    None => false,
                },
                _ => take_status(reply, &mut after),
            },
            Reply::Numbered(_, word, rest) if word.eq_ignore_ascii_case(b"FETCH") => {
                match parse::fetch_flags(rest) {
                    Some(found) => {
                        look.flags.push(found);
                        true
                    }
                    None => false,
                }
            }
            _ => false,
        })?;
        look.uids.tidy();
        self.selected = None;
        self.events.retain(|event| *event != ServerEvent::Selected);
        look.after = after.get(name).copied().flatten().unwrap_or_default();
        if !empty {
            if let Some(answer) = answers.first().filter(|a| a.verb != Verb::Ok) {
                return Err(ClientError::Refused(answer.clone()));
            }
            if let Some(answer) = answers.get(1).filter(|a| a.verb != Verb::Ok && since.is_none()) {
                return Err(ClientError::Refused(answer.clone()));
            }
        }
        Ok(answers)
    }
}

fn trim(rest: &[u8]) -> &[u8] {
    rest.trim_ascii_end()
}

/// Takes a STATUS of a mailbox that was asked for.
fn take_status(reply: &Reply<'_>, known: &mut HashMap<String, Option<MailboxStatus>>) -> bool {
    let Reply::Data(word, rest) = reply else { return false };
    if !word.eq_ignore_ascii_case(b"STATUS") {
        return false;
    }
    let Some((name, status)) = parse::status(rest) else { return false };
    match known.get_mut(&name) {
        Some(slot) => {
            *slot = Some(slot.unwrap_or_default().overlaid(status));
            true
        }
        None => false,
    }
}
