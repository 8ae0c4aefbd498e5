//! What mbsync 1.5 says of a run on its standard output, with `-V`: the mailboxes
//! that it synchronized, and how many messages it changed.
//!
//! Does not depend on: processes: text in, values out.

/// Most mailboxes that are kept.
const MOST: usize = 100_000;

/// A run that went well, in mbsync's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunLog {
    /// The mailboxes of which both sides were read, in their order.
    synchronized: Vec<Synchronized>,
    /// What was changed on the near side, in all of them.
    pub near: Totals,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Synchronized {
    channel: String,
    near: String,
    messages: u64,
}

/// Messages changed on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Whose flags were changed.
    pub flags: u64,
    /// That were removed.
    pub removed: u64,
}

impl RunLog {
    /// How many mailboxes were synchronized.
    #[must_use]
    pub fn mailboxes(&self) -> usize {
        self.synchronized.len()
    }

    /// How many messages mbsync found on the near side of a mailbox; `None` if it
    /// did not synchronize it, or more than once.
    #[must_use]
    pub fn messages(&self, channel: &str, near: &str) -> Option<u64> {
        let mut found =
            self.synchronized.iter().filter(|each| each.channel == channel && each.near == near);
        let messages = found.next()?.messages;
        found.next().is_none().then_some(messages)
    }
}

/// Reads the lines as they come.
#[derive(Debug, Default)]
pub struct RunLogReader {
    log: RunLog,
    channel: String,
    near: Option<String>,
    messages: Option<u64>,
    ended: bool,
    lost: bool,
}

impl RunLogReader {
    /// The next line.
    pub fn line(&mut self, line: &str) {
        if let Some(channel) = line.strip_prefix("Channel ") {
            channel.clone_into(&mut self.channel);
            self.near = None;
        } else if let Some(near) = between(line, "Opening near side box ", "...") {
            self.near = Some(near.to_owned());
            self.messages = None;
        } else if let Some(count) = line.strip_prefix("near side: ") {
            let count = count.split_once(" messages, ").map(|(count, _)| count.parse());
            self.messages = count.and_then(Result::ok);
        } else if line == "Synchronizing..." {
            match (self.near.take(), self.messages.take()) {
                (Some(near), Some(messages)) if self.log.synchronized.len() < MOST => {
                    let channel = self.channel.clone();
                    self.log.synchronized.push(Synchronized { channel, near, messages });
                }
                _ => self.lost = true,
            }
        } else if line.starts_with("Channels: ") {
            match totals(line) {
                Some(near) if !self.ended => self.log.near = near,
                _ => self.lost = true,
            }
            self.ended = true;
        }
    }

    /// What was read; `None` if it is not a whole run's.
    #[must_use]
    pub fn log(self) -> Option<RunLog> {
        (self.ended && !self.lost).then_some(self.log)
    }
}

fn between<'a>(line: &'a str, head: &str, tail: &str) -> Option<&'a str> {
    line.strip_prefix(head)?.strip_suffix(tail)
}

/// `Channels: 1    Boxes: 2    Far: +0 *0 #0 -0    Near: +1 *2 #0 -3`
fn totals(line: &str) -> Option<Totals> {
    let (_, near) = line.split_once("    Near: ")?;
    let mut words = near.split(' ');
    let mut count = |sign: char| words.next()?.strip_prefix(sign)?.parse::<u64>().ok();
    let (_new, flags, _trashed, removed) = (count('+')?, count('*')?, count('#')?, count('-')?);
    words.next().is_none().then_some(Totals { flags, removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Channel Home\nOpening far side store far...\nLogging in...\n\
        Opening near side store near...\nOpening far side box INBOX...\n\
        Opening near side box INBOX...\nLoading far side box...\nLoading near side box...\n\
        near side: 3 messages, 1 recent\nfar side: 4 messages, 0 recent\nSynchronizing...\n\
        Opening far side box Lists/a b...\nOpening near side box Lists/a b...\n\
        far side: 0 messages, 0 recent\nnear side: 0 messages, 0 recent\nSynchronizing...\n\
        Channels: 1    Boxes: 2    Far: +0 *5 #6 -7    Near: +1 *2 #0 -3\n";

    fn read(text: &str) -> Option<RunLog> {
        let mut reader = RunLogReader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.log()
    }

    #[test]
    fn mailboxes_and_totals_are_read() {
        let log = read(TEXT).unwrap();
        assert_eq!(log.near, Totals { flags: 2, removed: 3 });
        assert_eq!(log.messages("Home", "INBOX"), Some(3));
        assert_eq!(log.messages("Home", "Lists/a b"), Some(0));
        assert_eq!(log.messages("Work", "INBOX"), None);
        assert_eq!(log.messages("Home", "Sent"), None);
    }

    #[test]
    fn a_mailbox_that_was_opened_only_was_not_synchronized() {
        let text = TEXT.replacen("Synchronizing...\n", "", 1);
        let log = read(&text).unwrap();
        assert_eq!(
            (log.messages("Home", "INBOX"), log.messages("Home", "Lists/a b")),
            (None, Some(0))
        );
        let twice = TEXT.replace("Lists/a b", "INBOX");
        assert_eq!(read(&twice).unwrap().messages("Home", "INBOX"), None);
    }

    #[test]
    fn what_is_not_a_whole_run_is_none() {
        assert_eq!(read(""), None);
        for (part, other) in [
            ("Channels: 1", "Channel: 1"),
            (" -3\n", "\n"),
            (" -3\n", " -3 +1\n"),
            (" -3\n", " -x\n"),
            ("near side: 3 messages", "near side: some messages"),
            ("Opening near side box INBOX...\n", ""),
        ] {
            assert!(TEXT.contains(part));
            assert_eq!(read(&TEXT.replace(part, other)), None, "{part}");
        }
        assert_eq!(read(&format!("{TEXT}{TEXT}")), None);
    }
}
