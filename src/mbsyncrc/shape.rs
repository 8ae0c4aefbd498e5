//! The file as it may be shown to anybody: keywords, and of the values those that are
//! numbers or words of isync's own. Names are pseudonyms; hosts, paths, commands and
//! patterns only what kind of text they are.
//!
//! Reads also what mbsync would refuse. Does not depend on: what is wrong with it.

use super::SectionKind;
use super::keywords::{self, Keyword, Kind};
use super::lexer::{self, SourceLine};
use crate::text::Pseudonyms;
use zeroize::Zeroizing;

/// What stands for a value that is not shown.
const HIDDEN: &str = "...";

/// Words of isync's that may be values, in lower case.
const WORDS: [&str; 57] = [
    "*",
    "yes",
    "no",
    "true",
    "false",
    "on",
    "off",
    "far",
    "near",
    "both",
    "none",
    "master",
    "slave",
    "all",
    "full",
    "pull",
    "push",
    "new",
    "renew",
    "old",
    "delete",
    "gone",
    "flags",
    "upgrade",
    "pullnew",
    "pullold",
    "pullrenew",
    "pulldelete",
    "pullgone",
    "pullflags",
    "pullupgrade",
    "pushnew",
    "pushold",
    "pushrenew",
    "pushdelete",
    "pushgone",
    "pushflags",
    "pushupgrade",
    "verbatim",
    "maildir++",
    "legacy",
    "imaps",
    "starttls",
    "sslv3",
    "tlsv1",
    "tlsv1.1",
    "tlsv1.2",
    "tlsv1.3",
    "plain",
    "login",
    "cram-md5",
    "scram-sha-1",
    "scram-sha-256",
    "external",
    "xoauth2",
    "oauthbearer",
    "gssapi",
];

/// The lines of the file, without its comments. The names in it become pseudonyms.
pub fn shape(text: &[u8], names: &mut Pseudonyms) -> Vec<String> {
    let mut place = None;
    let mut lines = Vec::new();
    for (_, line) in lexer::lines(text) {
        match lexer::split(line) {
            Ok(SourceLine::Comment) => {}
            Ok(SourceLine::Blank) => {
                place = None;
                lines.push(String::new());
            }
            Ok(SourceLine::Words(words)) => {
                // Passwords may be among them.
                let words = Zeroizing::new(words);
                lines.push(statement(&words, &mut place, names));
            }
            Err(_) => lines.push("(cannot be read)".to_owned()),
        }
    }
    lines
}

fn statement(words: &[String], place: &mut Option<SectionKind>, names: &mut Pseudonyms) -> String {
    let Some((word, values)) = words.split_first() else { return String::new() };
    let Some(keyword) = keywords::find(word, *place) else {
        // It may be `Pass=secret`.
        return "(no keyword here)".to_owned();
    };
    let mut shown = vec![keyword.name.to_owned()];
    for (at, value) in values.iter().enumerate() {
        shown.push(match keyword.kind {
            Kind::Section(kind) if at == 0 => names.of(kind_word(kind), value),
            Kind::Section(_) => member(value, names),
            _ => value_shape(keyword, value, *place, names),
        });
    }
    if let Kind::Section(kind) = keyword.kind {
        *place = Some(kind);
    }
    shown.join(" ")
}

fn kind_word(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Account => "account",
        SectionKind::ImapStore | SectionKind::MaildirStore => "store",
        SectionKind::Channel => "channel",
        SectionKind::ChannelGroup => "group",
    }
}

/// `CHANNEL:BOX,BOX` of a group.
fn member(value: &str, names: &mut Pseudonyms) -> String {
    let Some((channel, boxes)) = value.split_once(':') else { return names.of("channel", value) };
    let boxes: Vec<String> = boxes.split(',').map(|each| names.of("box", each)).collect();
    format!("{}:{}", names.of("channel", channel), boxes.join(","))
}

fn value_shape(
    keyword: &Keyword,
    value: &str,
    place: Option<SectionKind>,
    names: &mut Pseudonyms,
) -> String {
    match (keyword.kind, keyword.name) {
        (Kind::Account, _) => names.of("account", value),
        (Kind::End(_), _) => match value.strip_prefix(':').and_then(|rest| rest.split_once(':')) {
            Some((store, mailbox)) => {
                format!(":{}:{}", names.of("store", store), names.of("box", mailbox))
            }
            None => HIDDEN.to_owned(),
        },
        (Kind::Words(_), "Patterns") => pattern(value),
        (Kind::Words(_), "Channel") if place == Some(SectionKind::ChannelGroup) => {
            member(value, names)
        }
        (_, "Host") => names.of("host", value),
        (_, "User") => {
            let user = names.of("user", value);
            if let Some((local, domain)) = value.split_once('@') {
                names.of("user", local);
                names.of("host", domain);
            }
            user
        }
        (_, "Trash" | "MapInbox") => names.of("box", value),
        (Kind::Path(_) | Kind::PathOrStar(_) | Kind::File(_), _) if value != "*" => path(value),
        (Kind::Text(_) | Kind::Command(_) | Kind::Ignored, _) => HIDDEN.to_owned(),
        _ => own_word(value).unwrap_or(HIDDEN).to_owned(),
    }
}

/// The value, if it is a number, a sign or one of isync's own words.
fn own_word(value: &str) -> Option<&str> {
    let digits = value.trim_end_matches(['k', 'K', 'm', 'M', 'b', 'B']).trim_start_matches('-');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_sign = value.len() <= 2 && value.bytes().all(|byte| byte.is_ascii_punctuation());
    let is_version = matches!(value.trim_start_matches(['+', '-']), "1.0" | "1.1" | "1.2" | "1.3");
    let is_word = WORDS.iter().any(|word| word.eq_ignore_ascii_case(value));
    (is_number || is_sign || is_version || is_word).then_some(value)
}

/// What is literal in it is `x`; INBOX stays.
fn pattern(value: &str) -> String {
    let mut out = String::new();
    let mut literal = String::new();
    for c in value.chars().map(Some).chain([None]) {
        match c {
            Some(c) if !"!*%/".contains(c) => literal.push(c),
            c => {
                match &*std::mem::take(&mut literal) {
                    "" => {}
                    "INBOX" => out.push_str("INBOX"),
                    _ => out.push('x'),
                }
                out.extend(c);
            }
        }
    }
    out
}

/// Where it begins, and whether it ends in a slash.
fn path(value: &str) -> String {
    let begin = ["~/", "/"].into_iter().find(|begin| value.starts_with(begin)).unwrap_or_default();
    let end = if value.len() > begin.len() && value.ends_with('/') { "/" } else { "" };
    format!("{begin}{HIDDEN}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_its_shape_is_left() {
        let text = "# Ann's\nIMAPAccount Ann\nHost mail.ann.example\nPort 993\nUser ann@ann.example\n\
            PassCmd \"pass ann\"\nTLSType IMAPS\nAuthMechs PLAIN ANN\nCertificateFile ~/ann.pem\n\
            Pass=ann\nPass \"ann\n\n\
            IMAPStore Ann-far\nAccount Ann\n\nMaildirStore Ann-near\nPath ~/Mail/Ann/\n\
            Inbox /home/ann/in\nSubFolders Verbatim\nFlatten .\nTrash Ann/Bin\n\n\
            Channel Ann\nFar :Ann-far:\nNear :Ann-near:Ann/Bin\nPatterns * !Ann* INBOX Ann/% \"Ann b\"\n\
            Create Both\nCreate ann\nMaxSize 10m\nSyncState *\nSync Pull New\n\n\
            Group Anns Ann:INBOX,Ann/Bin\nChannel Ann\n";
        let mut names = Pseudonyms::default();
        let shown = shape(text.as_bytes(), &mut names).join("\n");
        assert_eq!(
            shown,
            "IMAPAccount account-1\nHost host-1\nPort 993\nUser user-1\nPassCmd ...\n\
             TLSType IMAPS\nAuthMechs PLAIN ...\nCertificateFile ~/...\n(no keyword here)\n\
             (cannot be read)\n\nIMAPStore store-1\nAccount account-1\n\nMaildirStore store-2\n\
             Path ~/.../\nInbox /...\nSubFolders Verbatim\nFlatten .\nTrash box-1\n\n\
             Channel channel-1\nFar :store-1:\nNear :store-2:box-1\nPatterns * !x* INBOX x/% x\n\
             Create Both\nCreate ...\nMaxSize 10m\nSyncState *\nSync Pull New\n\n\
             Group group-1 channel-1:INBOX,box-1\nChannel channel-1"
        );
        assert!(!shown.replace("cannot", "").to_lowercase().replace("channel", "").contains("ann"));
    }
}
