//! The forms with which mbsync says that something was not done: one table, with
//! version and class, and what each form is about.
//!
//! From the sources of isync 1.4.4 and 1.5.1. mbsync says most of this with exit
//! status 0, and much of it once only.
//!
//! Does not depend on: runs, files, mailboxes.

use std::path::PathBuf;

/// What a form means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A message or its flags were not carried.
    Refused,
    /// Not carried, and why: comes before a [`Class::Refused`].
    Reason,
    /// A mailbox was not synced.
    NotSynced,
    /// mbsync's record was not written.
    NotRecorded,
    /// mbsync lost track of what it had carried.
    TrackLost,
    /// The server's own words.
    Server,
    /// Of no consequence.
    Harmless,
    /// Leads to exit status 1, or to the end of the run.
    Fails,
    /// The same, but for mbsync 1.4.4, which may end with status 0 all the same (observed).
    FailsUnsaid,
}

/// The versions that use a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// 1.4.4 alone.
    Only14,
    /// 1.5.1 alone.
    Only15,
    /// Both.
    Both,
}

/// A form: as in the source, without the line end. `%d` and `%u` stand for digits, each
/// other conversion for any text; so does a `*` at the end.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Who says it.
    pub since: Since,
    /// What it means.
    pub class: Class,
    /// The text.
    pub text: &'static str,
}

const fn form(since: Since, class: Class, text: &'static str) -> Form {
    Form { since, class, text }
}

/// The table. The first form that fits counts.
#[rustfmt::skip]
pub const FORMS: &[Form] = {
    use Class::{Fails, FailsUnsaid, Harmless, NotRecorded, NotSynced, Reason, Refused, Server, TrackLost};
    use Since::{Both, Only14, Only15};
    &[
        form(Only14, Refused, "Warning: message %u from %s has incomplete header; skipping."),
        form(Only14, Refused, "Warning: message %u from %s is too big after conversion; skipping."),
        form(Only14, Refused, "Warning: %s refuses to store message %u from %s."),
        form(Only15, Refused, "Error: message %u from %s %s; skipping."),
        form(Only15, Refused, "Error: %s refuses to store message %u from %s."),
        // 1.5 drops the NO. A BAD ends the run.
        form(Only14, Fails, "IMAP command '%s' returned an error: BAD %s"),
        form(Both, Refused, "IMAP command 'UID FETCH %u (%sBODY.PEEK[%s' returned an error: %s"),
        form(Both, Refused, "IMAP command 'UID STORE %s FLAGS.SILENT %s' returned an error: %s"),
        form(Both, Refused, "IMAP command 'UID STORE %s +FLAGS.SILENT %s' returned an error: %s"),
        form(Both, Refused, "IMAP command 'UID STORE %s -FLAGS.SILENT %s' returned an error: %s"),
        form(Both, Reason, "IMAP command 'APPEND %s' returned an error: %s"),
        form(Only14, Fails, "IMAP command '%s' returned an error: %s %s"),
        form(Only15, Fails, "IMAP command '%s' returned an error: %s"),
        // 1.4 ends neither this line nor what follows it.
        form(Both, Refused, "Maildir error: %s is too big*"),
        form(Both, Refused, "Maildir error: cannot read %s: %s"),
        form(Both, Refused, "Maildir error: cannot remove %s: %s"),
        form(Both, Refused, "Notice: %s store does not support flag(s) '%s'; not propagating."),

        form(Only14, NotSynced, "Warning: channel %s: %s box %s cannot be opened and %s box %s is not empty."),
        form(Only15, NotSynced, "Warning: channel %s: %s box %s cannot be opened anymore, and %s box %s is not empty."),
        form(Both, NotSynced, "IMAP warning: ignoring unreasonably long mailbox name '%.100s[...]'"),
        form(Both, NotSynced, "IMAP warning: ignoring INBOX in %s"),
        form(Both, NotSynced, "IMAP warning: ignoring mailbox %s (reserved character '/' in name)"),
        form(Both, NotSynced, "IMAP warning: ignoring mailbox '%s' due to empty name component"),
        form(Both, NotSynced, "IMAP warning: ignoring mailbox '%s' due to '.' component"),
        form(Both, NotSynced, "Maildir warning: ignoring INBOX in %s"),
        form(Both, NotSynced, "Error: flattened mailbox name '%s' contains canonical hierarchy delimiter"),
        form(Both, NotSynced, "Error: canonical mailbox name '%s' contains flattened hierarchy delimiter"),
        form(Both, NotSynced, "Error: channel %s: %s box %s cannot be opened."),
        form(Both, NotSynced, "Error: channel %s: %s box %s cannot be opened anymore."),
        form(Both, NotSynced, "Error: channel %s, %s box %s: Unable to recover from UIDVALIDITY change."),
        form(Both, NotSynced, "Error: channel %s: both far side %s and near side %s cannot be opened."),
        form(Only14, NotSynced, "Error: channel %s: UIDVALIDITY of both far side %s and near side %s changed."),
        form(Only14, NotSynced, "Error: channel %s, %s box %s: UIDVALIDITY genuinely changed (at UID %u)."),
        form(Both, NotSynced, "Error: channel %s, %s box %s (at UID %u): UIDVALIDITY genuinely changed."),
        form(Both, NotSynced, "Error: channel %s, %s box %s (at UID %u): Unable to recover from both-sided UIDVALIDITY change, as it is genuine on at least one side."),

        form(Both, NotRecorded, "Warning: cannot commit sync state %s"),
        form(Both, NotRecorded, "Warning: cannot delete journal %s"),

        form(Both, TrackLost, "Warning: lost track of %d %sed message(s)"),
        form(Only14, TrackLost, "Warning: sync record (%u,%u) has stray TUID. Ignoring."),
        form(Only14, TrackLost, "Warning: cannot find newly stored messages on %s."),
        form(Both, TrackLost, "IMAP warning: unknown system flag %s"),
        form(Both, TrackLost, "IMAP warning: malformed X-TUID header (UID %u)"),

        form(Both, Server, "*** IMAP ALERT *** %s"),
        form(Both, Server, "Warning from IMAP server: %s"),
        form(Both, Server, "Error from IMAP server: %s"),

        form(Both, Harmless, "Warning: SASL reported failure despite successful IMAP authentication. Ignoring..."),
        form(Both, Harmless, "Warning: SASL wants more steps despite successful IMAP authentication. Ignoring..."),
        form(Both, Harmless, "*** IMAP Warning *** Password is being sent in the clear"),
        form(Only14, Harmless, "%s:%d: Notice: URL notation is deprecated; use a plain host name and possibly 'SSLType IMAPS' instead"),
        form(Both, Harmless, "Warning: SSLVersion SSLv%s is no longer supported"),
        form(Only14, Harmless, "Warning: UseSSLv%s is no longer supported"),
        form(Only14, Harmless, "Notice: %s '%s': UseSSL*, UseTLS*, UseIMAPS, and RequireSSL are deprecated. Use SSLType and SSLVersions instead."),
        form(Only14, Harmless, "Notice: %s '%s': 'RequireSSL no' is being ignored"),
        form(Both, Harmless, "Notice: %s '%s': RequireCRAM is deprecated. Use AuthMech instead."),
        form(Only14, Harmless, "Notice: Master/Slave are deprecated; use Far/Near instead."),
        form(Only15, Harmless, "%s: notice: %s is deprecated. Use %s instead."),
        form(Both, Harmless, "Notice: -master/-slave/m/s suffixes are deprecated; use -far/-near/f/n instead."),
        form(Only15, Harmless, "Notice: --%s are deprecated; use --%s instead."),
        form(Only15, Harmless, "%s:%d: notice: %s"),
        form(Both, Harmless, "Maildir error: cannot access %s"),
        form(Both, Harmless, "Maildir notice: removing stale file %s"),
        form(Both, Harmless, "Maildir warning: cannot remove '%s'"),
        form(Only14, Harmless, "Maildir notice: no UIDVALIDITY, creating new."),
        form(Only15, Harmless, "Maildir notice: no UIDVALIDITY in %s, creating new."),
        form(Both, Harmless, "Maildir notice: sleeping due to recent directory modification."),
        form(Only14, Harmless, "Maildir notice: duplicate UID; changing UIDVALIDITY."),
        form(Only15, Harmless, "Maildir notice: duplicate UID in %s; changing UIDVALIDITY."),
        form(Both, Harmless, "Notice: channel %s, %s box %s: Recovered from change of UIDVALIDITY."),
        form(Both, Harmless, "Notice: conflicting changes in (%u,%u)"),
        form(Only15, Harmless, "Notice: Trashing in Store %s is prone to race conditions."),
        form(Both, Harmless, "Warning: Unable to load default certificate files: %s"),

        // What ends a channel, a connection or the run.
        form(Both, Fails, "Error: *"),
        form(Both, Fails, "Error, *"),
        form(Both, Fails, "Error while %s: %s"),
        form(Both, Fails, "Error performing SASL %s"),
        form(Both, Fails, "Error decoding SASL %s"),
        form(Both, Fails, "Error encoding SASL %s"),
        form(Both, Fails, "Error initializing SASL %s"),
        form(Both, Fails, "Error setting SASL %s"),
        form(Both, Fails, "Error decompressing data from %s"),
        form(Both, Fails, "Fatal: *"),
        form(Both, Fails, "IMAP error: *"),
        form(Both, FailsUnsaid, "Maildir error: *"),
        form(Both, Fails, "Maildir store *"),
        form(Both, Fails, "Skipping account *"),
        form(Both, Fails, "Looking up Keychain failed: *"),
        form(Both, Fails, "SSL error connecting *"),
        form(Both, Fails, "Socket error*"),
        form(Both, Fails, "Cannot connect to *"),
        form(Both, Fails, "Cannot resolve server *"),
        form(Both, Fails, "Cannot open config file *"),
        form(Both, Fails, "Cannot override mailbox in channel *"),
        form(Both, Fails, "No working address found for *"),
        form(Both, Fails, "No channel or group named *"),
        form(Only15, Fails, "No store named *"),
        form(Both, Fails, "Note: not using LOGIN because connection is not encrypted;*"),
        form(Both, Fails, "*** *"),
        form(Both, Fails, "Conflicting %s args specified."),
        form(Both, Fails, "Unknown %s"),
        form(Both, Fails, "Invalid option *"),
        form(Both, Fails, "--config requires an argument."),
        form(Both, Fails, "-c requires an argument."),
        form(Both, Fails, "channel '%s' %s"),
        form(Both, Fails, "%s '%s' has *"),
        form(Both, Fails, "%s '%s' requires SSL but no SSL versions enabled"),
        form(Both, Fails, "%s '%s': The deprecated %s"),
        form(Both, Fails, "Specified both Expunge and ExpungeSolo for *"),
        form(Both, Fails, "%s: %d unread messages in excess of MaxMessages (%d).*"),
        form(Both, Fails, "Please set ExpireUnread to decide outcome. Skipping mailbox."),
        form(Both, Fails, "read*"),
        form(Both, Fails, "%s:%d: %s"),
    ]
};

/// The class of a line; `None` for a form that is not in the table.
#[must_use]
pub fn class_of(line: &str) -> Option<Class> {
    FORMS.iter().find(|form| form.fits(line)).map(|form| form.class)
}

impl Form {
    /// Whether a line is of this form.
    #[must_use]
    pub fn fits(&self, line: &str) -> bool {
        let mut pieces = pieces(self.text).peekable();
        let mut rest = pieces.next().and_then(|(_, first)| line.strip_prefix(first));
        let mut ends = true;
        while let Some((before, piece)) = pieces.next() {
            ends = !piece.is_empty();
            let last = ends && pieces.peek().is_none();
            let number = pieces.peek().filter(|(before, _)| *before == Gap::Digits);
            rest = rest.and_then(|rest| match (before, number) {
                (Gap::Digits, _) => after_digits(rest)?.strip_prefix(piece),
                // The last one ends the line.
                (Gap::Text, _) if last => rest.strip_suffix(piece).map(|_| ""),
                // Any other is found where it comes first, with the number that follows it.
                (Gap::Text, Some((_, next))) => rest.match_indices(piece).find_map(|(at, _)| {
                    let after = rest.get(at + piece.len()..)?;
                    after_digits(after)?.starts_with(next).then_some(after)
                }),
                (Gap::Text, None) => rest.split_once(piece).map(|(_, after)| after),
            });
        }
        rest.is_some_and(|rest| !ends || rest.is_empty())
    }
}

/// What is before a literal part of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// A number.
    Digits,
    /// Any text; at the beginning, none.
    Text,
}

/// What follows the number that the text begins with.
fn after_digits(text: &str) -> Option<&str> {
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (after.len() < text.len()).then_some(after)
}

/// The literal parts of a form between its conversions. The last is empty where the
/// form ends in a conversion or in `*`.
fn pieces(text: &str) -> impl Iterator<Item = (Gap, &str)> {
    let (mut rest, mut ended) = (Some((Gap::Text, text)), false);
    std::iter::from_fn(move || {
        let (gap, text) = rest.take()?;
        if ended {
            return None;
        }
        match text.find('%') {
            None => {
                if let Some(open) = text.strip_suffix('*') {
                    (rest, ended) = (Some((Gap::Text, "")), false);
                    return Some((gap, open));
                }
                ended = true;
                Some((gap, text))
            }
            Some(at) => {
                let (piece, conversion) = text.split_at(at);
                let end = conversion.find(|c: char| c.is_ascii_lowercase()).map_or(0, |at| at + 1);
                let (conversion, after) = conversion.split_at(end);
                let is_number = conversion.ends_with(['d', 'u']);
                rest = Some((if is_number { Gap::Digits } else { Gap::Text }, after));
                Some((gap, piece))
            }
        }
    })
}

/// The side that a message is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageSide {
    /// The server.
    Far,
    /// The Maildir.
    Near,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A message that has no copy on the other side, by its UID.
    Message(MessageSide, u32),
    /// The flags of a far message, by its UID.
    Flags(u32),
    /// A file of a Maildir that could not be read.
    Unread(PathBuf),
    /// A file of a Maildir that could not be removed.
    Kept(PathBuf),
    /// A mailbox of a channel, by the name on one side.
    Mailbox {
        /// The channel.
        channel: String,
        /// The mailbox as mbsync names it.
        name: String,
    },
    /// mbsync's record of a mailbox.
    Record(PathBuf),
    /// No mailbox of which something is known here.
    Unnamed,
}

/// What mbsync could not do, as one line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// Its class: refused, not synced or not recorded.
    pub class: Class,
    /// What it is about.
    pub subject: Subject,
    /// What to show.
    pub text: String,
}

/// What mbsync said in one run, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collector {
    /// What was not done.
    pub objections: Vec<Objection>,
    /// What is to be said once.
    pub notices: Vec<String>,
    /// A reply of the server's that the next line may refer to.
    reason: Option<String>,
    /// Which objections are to a message that the server did not store, without its words.
    unexplained: Vec<usize>,
}

/// What mbsync is told over a lent connection in place of a deletion on the server, which
/// is judged again.
pub const WITHHELD: &str = "held by mutt-sync: much was removed here after it was judged";
/// In both forms that say so.
const NOT_STORED: &str = " refuses to store message ";
/// Most lines kept of one run.
const MOST: usize = 200;

impl Collector {
    /// Takes in a line; `shown`: without secrets. True if it is dealt with, and says
    /// nothing of how the run ended.
    pub fn take(&mut self, line: &str, shown: &str) -> bool {
        if line.starts_with("IMAP command 'UID ") && line.contains(WITHHELD) {
            return true;
        }
        let class = class_of(line);
        if class == Some(Class::Reason) {
            // Its own line is a failure only if no message is refused for it.
            let before = self.reason.replace(shown.to_owned());
            self.note_reason(before);
            return true;
        }
        let reason = self.reason.take();
        let subject = subject(line);
        if line.starts_with("IMAP command ") && subject == Subject::Unnamed {
            self.note_reason(reason);
            return false;
        }
        match class {
            Some(Class::Refused | Class::NotSynced | Class::NotRecorded) => {
                let text = match &reason {
                    Some(reason) => reply(reason),
                    None => plain(shown),
                };
                let class = class.unwrap_or(Class::Refused);
                let fails = line.starts_with("Error: ") && class == Class::NotSynced;
                if self.objections.len() < MOST {
                    if reason.is_none() && line.contains(NOT_STORED) {
                        self.unexplained.push(self.objections.len());
                    }
                    self.objections.push(Objection { class, subject, text });
                }
                // Also why the run failed.
                !fails
            }
            Some(Class::TrackLost | Class::Server) => {
                self.notice(shown);
                true
            }
            Some(Class::Harmless | Class::Reason) => true,
            Some(Class::Fails | Class::FailsUnsaid) => {
                self.note_reason(reason);
                false
            }
            None => {
                self.note_reason(reason);
                self.notice(shown);
                false
            }
        }
    }

    /// Gives the server's words, heard otherwise and in order, to the messages that it
    /// did not store: isync 1.5.1 does not pass them on (`drv_imap.c`, 1907 and 3456).
    pub fn explain(&mut self, words: Vec<String>) {
        for (at, words) in std::mem::take(&mut self.unexplained).into_iter().zip(words) {
            if let Some(objection) = self.objections.get_mut(at) {
                objection.text = words;
            }
        }
    }

    /// A line to be said once.
    pub fn notice(&mut self, shown: &str) {
        if self.notices.len() < MOST {
            self.notices.push(shown.to_owned());
        }
    }

    /// A reply that no line refers to.
    fn note_reason(&mut self, reason: Option<String>) {
        if let Some(reason) = reason {
            self.notice(&reason);
        }
    }

    /// The reply that no line refers to, at the end.
    pub fn pending_reason(&mut self) -> Option<String> {
        self.reason.take()
    }
}

/// The server's words in a line of mbsync's; without them, the line.
fn reply(line: &str) -> String {
    let reply = line.split_once("' returned an error: ").map_or(line, |(_, reply)| reply);
    reply.strip_prefix("NO ").unwrap_or(reply).to_owned()
}

/// A line without what only says how bad it is.
fn plain(line: &str) -> String {
    if line.starts_with("IMAP command ") {
        return reply(line);
    }
    let text = ["Warning: ", "Error: ", "Maildir error: ", "IMAP warning: ", "Maildir warning: "]
        .iter()
        .find_map(|head| line.strip_prefix(head));
    text.unwrap_or(line).to_owned()
}

fn side(text: &str) -> Option<MessageSide> {
    let text = text.trim_end_matches('.');
    if text.starts_with("far side") {
        Some(MessageSide::Far)
    } else if text.starts_with("near side") {
        Some(MessageSide::Near)
    } else {
        None
    }
}

/// What a line is about.
#[must_use]
pub fn subject(line: &str) -> Subject {
    message(line)
        .or_else(|| file(line))
        .or_else(|| mailbox(line))
        .or_else(|| record(line))
        .unwrap_or(Subject::Unnamed)
}

fn message(line: &str) -> Option<Subject> {
    if let Some(rest) = line.strip_prefix("IMAP command 'UID ") {
        let (command, rest) = rest.split_once(' ')?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let uid = rest.get(..end)?.parse().ok()?;
        // Of a range, the command is no message's.
        let _ = rest.get(end..)?.strip_prefix(' ')?;
        return match command {
            "FETCH" => Some(Subject::Message(MessageSide::Far, uid)),
            "STORE" => Some(Subject::Flags(uid)),
            _ => None,
        };
    }
    let (_, rest) = line.split_once("message ").filter(|(head, _)| !head.contains(" channel "))?;
    let (uid, rest) = rest.split_once(" from ")?;
    Some(Subject::Message(side(rest)?, uid.parse().ok()?))
}

fn file(line: &str) -> Option<Subject> {
    let rest = line.strip_prefix("Maildir error: ")?;
    if let Some((path, _)) = rest.split_once(" is too big") {
        return Some(Subject::Unread(path.into()));
    }
    // The system's words follow.
    let path = |rest: &str| rest.rsplit_once(": ").map(|(path, _)| PathBuf::from(path));
    if let Some(rest) = rest.strip_prefix("cannot read ") {
        return path(rest).map(Subject::Unread);
    }
    path(rest.strip_prefix("cannot remove ")?).map(Subject::Kept)
}

/// `channel C: far side box B cannot be opened...`, `channel C, near side box B: ...`.
fn mailbox(line: &str) -> Option<Subject> {
    let (_, rest) = line.split_once(": channel ")?;
    if let Some((channel, sides)) = rest.split_once(" both far side ").map(|(head, sides)| {
        (head.trim_end_matches(" UIDVALIDITY of").trim_end_matches(':'), sides)
    }) {
        let (name, _) = sides.split_once(" and near side ")?;
        return Some(Subject::Mailbox { channel: channel.to_owned(), name: name.to_owned() });
    }
    let (head, name) = rest.split_once(" side box ")?;
    let channel = head.strip_suffix("far").or_else(|| head.strip_suffix("near"))?;
    let channel = channel.trim_end().trim_end_matches([':', ',']);
    let ends = [" cannot be opened", " (at UID ", ": Unable to recover", ": UIDVALIDITY"];
    let end = ends.iter().filter_map(|end| name.find(end)).min()?;
    Some(Subject::Mailbox { channel: channel.to_owned(), name: name.get(..end)?.to_owned() })
}

fn record(line: &str) -> Option<Subject> {
    let path = line
        .strip_prefix("Warning: cannot commit sync state ")
        .or_else(|| line.strip_prefix("Warning: cannot delete journal "))?;
    Some(Subject::Record(path.strip_suffix(".journal").unwrap_or(path).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: &[&str]) -> Collector {
        let mut said = Collector::default();
        for line in lines {
            said.take(line, line);
        }
        said
    }

    #[test]
    fn g13_a_refused_message_is_known_by_its_side_and_has_the_servers_reason() {
        let v14 = [
            "IMAP command 'APPEND \"Sent\" (\\Seen) ' returned an error: NO [OVERQUOTA] Full.",
            "Warning: far side refuses to store message 7 from near side.",
        ];
        let v15 = [
            "IMAP command 'APPEND \"Sent\" (\\Seen) {3+}' returned an error: [OVERQUOTA] Full.",
            "Error: far side refuses to store message 7 from near side.",
        ];
        for lines in [v14, v15] {
            let said = taken(&lines);
            let [objection] = &said.objections[..] else { panic!("{said:?}") };
            assert_eq!(objection.subject, Subject::Message(MessageSide::Near, 7));
            assert_eq!(objection.text, "[OVERQUOTA] Full.");
            assert!(said.notices.is_empty());
        }
        // One that nothing follows is a failure of its own.
        let mut said = taken(&v14[..1]);
        assert!(said.objections.is_empty() && said.pending_reason().is_some());
    }

    #[test]
    fn g13_each_form_is_about_what_it_names() {
        let mailbox = |channel: &str, name: &str| Subject::Mailbox {
            channel: channel.into(),
            name: name.into(),
        };
        let cases = [
            (
                "Warning: message 3 from near side has incomplete header; skipping.",
                Class::Refused,
                Subject::Message(MessageSide::Near, 3),
            ),
            (
                "Error: message 3 from far side has incomplete header; skipping.",
                Class::Refused,
                Subject::Message(MessageSide::Far, 3),
            ),
            (
                "IMAP command 'UID FETCH 5 (BODY.PEEK[])' returned an error: NO x",
                Class::Refused,
                Subject::Message(MessageSide::Far, 5),
            ),
            (
                "IMAP command 'UID FETCH 5 (FLAGS BODY.PEEK[])' returned an error: x",
                Class::Refused,
                Subject::Message(MessageSide::Far, 5),
            ),
            (
                "IMAP command 'UID STORE 9 +FLAGS.SILENT (\\Deleted)' returned an error: NO x",
                Class::Refused,
                Subject::Flags(9),
            ),
            (
                "Maildir error: cannot read /m/cur/1,U=4:2,S: Input/output error",
                Class::Refused,
                Subject::Unread("/m/cur/1,U=4:2,S".into()),
            ),
            (
                "Maildir error: /m/cur/1,U=4:2,S is too bigWarning: x",
                Class::Refused,
                Subject::Unread("/m/cur/1,U=4:2,S".into()),
            ),
            (
                "Warning: channel a b: far side box Lists/x y cannot be opened and near side box Lists/x y is not empty.",
                Class::NotSynced,
                mailbox("a b", "Lists/x y"),
            ),
            (
                "Warning: channel c: near side box B cannot be opened anymore, and far side box B is not empty.",
                Class::NotSynced,
                mailbox("c", "B"),
            ),
            (
                "Error: channel c, far side box B (at UID 3): UIDVALIDITY genuinely changed.",
                Class::NotSynced,
                mailbox("c", "B"),
            ),
            (
                "Error: channel c, far side box B: UIDVALIDITY genuinely changed (at UID 3).",
                Class::NotSynced,
                mailbox("c", "B"),
            ),
            (
                "Error: channel c: UIDVALIDITY of both far side B and near side B changed.",
                Class::NotSynced,
                mailbox("c", "B"),
            ),
            (
                "Error: channel c: both far side B and near side B cannot be opened.",
                Class::NotSynced,
                mailbox("c", "B"),
            ),
            (
                "Warning: cannot commit sync state /s/x",
                Class::NotRecorded,
                Subject::Record("/s/x".into()),
            ),
            (
                "IMAP warning: ignoring mailbox a/b (reserved character '/' in name)",
                Class::NotSynced,
                Subject::Unnamed,
            ),
        ];
        for (line, class, about) in cases {
            assert_eq!((class_of(line), subject(line)), (Some(class), about), "{line}");
        }
        // A range is no message's, and BAD ends the run.
        for line in [
            "IMAP command 'UID FETCH 1:5 (UID BODY.PEEK[HEADER])' returned an error: NO x",
            "IMAP command 'UID FETCH 5 (BODY.PEEK[])' returned an error: BAD x",
            "IMAP command 'SELECT \"x\"' returned an error: NO x",
        ] {
            let mut said = Collector::default();
            assert!(!said.take(line, line) && said.objections.is_empty(), "{line}");
        }
    }

    #[test]
    fn g13_only_a_number_stands_for_a_number() {
        let cases = [
            ("/h/.mbsyncrc:12: unknown keyword 'X'", Some(Class::Fails)),
            ("/h/a:b: c:1/.mbsyncrc:12: unknown keyword 'X'", Some(Class::Fails)),
            ("/h/.mbsyncrc:12: notice: x", Some(Class::Harmless)),
            ("Home: 12 unread messages in excess of MaxMessages (7).", Some(Class::Fails)),
            // Of programs that mbsync starts.
            ("gpg: WARNING: server 'gpg-agent' is older than us (2.2 < 2.4)", None),
            ("pass:: no", None),
            ("pass: 1: no", None),
        ];
        for (line, class) in cases {
            assert_eq!(class_of(line), class, "{line}");
        }
        let said = taken(&["gpg: WARNING: server 'gpg-agent' is older than us (2.2 < 2.4)"]);
        assert_eq!(said.notices.len(), 1);
    }

    #[test]
    fn g14_what_is_held_is_no_refusal() {
        let said = taken(&[
            &format!(
                "IMAP command 'UID STORE 1 +FLAGS.SILENT (\\Deleted)' returned an error: NO {WITHHELD}"
            ),
            &format!("IMAP command 'UID MOVE 1 \"Trash\"' returned an error: {WITHHELD}"),
        ]);
        assert_eq!(said, Collector::default());
    }

    #[test]
    fn g13_what_is_not_known_is_said() {
        let said = taken(&[
            "Warning: something new in isync 1.6",
            "*** IMAP ALERT *** maintenance tonight",
            "Warning: lost track of 2 pushed message(s)",
            "*** IMAP Warning *** Password is being sent in the clear",
            "Notice: conflicting changes in (1,2)",
        ]);
        assert_eq!(said.notices.len(), 3, "{said:?}");
        assert!(said.objections.is_empty());
    }
}
