//! `--init`: a `.mbsyncrc` or an msmtprc for an address, to be completed by the user.
//!
//! Providers are a table in `providers.toml`; for other domains the usual names of hosts
//! are put in and marked. Does not depend on: files, servers: values in, text out.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::error::Error;
use crate::mbsync_version::IsyncVersion;

const PROVIDERS: &str = include_str!("providers.toml");

/// Marks what is left to the user.
const FILL_IN: &str = "FILL IN";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderTable {
    provider: Vec<Provider>,
}

/// How the mail of some domains is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// For people; empty where it is not known.
    pub name: String,
    /// The part of addresses behind the @.
    pub domains: Vec<String>,
    imap: String,
    imap_port: Option<u16>,
    imap_starttls: bool,
    smtp: String,
    smtp_port: Option<u16>,
    smtp_starttls: bool,
    user: Option<String>,
    smtp_user: Option<String>,
    auth: Option<String>,
    timeout: Option<u32>,
    certificate: Option<String>,
    patterns: Option<String>,
    folders: Option<String>,
    notes: Vec<String>,
    no_imap: Option<String>,
}

/// The providers that are known.
///
/// # Errors
/// 78 if the table of the program itself is wrong, which a test excludes.
pub fn providers() -> Result<Vec<Provider>, Error> {
    toml::from_str::<ProviderTable>(PROVIDERS)
        .map(|table| table.provider)
        .map_err(|error| Error::config(format!("providers.toml: {}", error.message())))
}

/// An address, and who has its mail.
#[derive(Debug)]
pub struct MailAccount<'a> {
    address: &'a str,
    local: &'a str,
    domain: String,
    provider: Provider,
}

impl<'a> MailAccount<'a> {
    /// The account of this address.
    ///
    /// # Errors
    /// 2 for what is no address, or one whose mail mbsync cannot get.
    pub fn of(address: &'a str) -> Result<Self, Error> {
        let plain = |text: &str, others: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
        };
        // Nothing that means something to a shell, to mbsync or to msmtp.
        let (local, domain) = address
            .split_once('@')
            .filter(|(local, domain)| plain(local, "._+-=") && plain(domain, ".-"))
            .filter(|(local, domain)| !local.starts_with('-') && !domain.starts_with(['-', '.']))
            .ok_or_else(|| {
                let text =
                    format!("--init takes an address such as me@home.example, not {address}");
                Error::usage(text)
            })?;
        let domain = domain.to_ascii_lowercase();
        let known = providers()?.into_iter().find(|provider| provider.domains.contains(&domain));
        let provider = known.unwrap_or_else(|| Provider {
            imap: format!("imap.{domain}"),
            smtp: format!("smtp.{domain}"),
            ..Provider::default()
        });
        match provider.no_imap {
            Some(why) => Err(Error::usage(format!("{why}, and mbsync syncs nothing else"))),
            None => Ok(MailAccount { address, local, domain, provider }),
        }
    }

    /// What the account is called: `home` for me@home.example.
    fn name(&self) -> &str {
        self.domain.split('.').next().unwrap_or_default()
    }

    fn user(&self, kind: Option<&str>) -> &str {
        if kind == Some("local") { self.local } else { self.address }
    }

    fn heading(&self, what: &str) -> String {
        let whose = match &*self.provider.name {
            "" => String::new(),
            name => format!(", for {name}"),
        };
        let mut text = format!(
            "# {what} of {}{whose}, made by mutt-sync --init. Read it, and complete\n\
             # what is marked with {FILL_IN}.\n",
            self.address
        );
        for note in &self.provider.notes {
            let _ = writeln!(text, "#\n# {note}");
        }
        text.push('\n');
        text
    }

    /// The command that prints the password or the token, after a comment.
    fn secret(&self, line: impl Fn(&str) -> String) -> String {
        if self.provider.auth.as_deref() == Some("XOAUTH2") {
            let command = line(&format!("pizauth show {}", self.name()));
            return format!(
                "# {FILL_IN}: the command that prints an access token; this is for pizauth.\n\
                 {command}\n"
            );
        }
        let address = self.address;
        let command = line(&format!("pass mail/{address}"));
        format!(
            "# {FILL_IN}: the command that prints the password; this is for pass, after\n\
             # `pass insert mail/{address}`.\n\
             {command}\n"
        )
    }

    /// The file with the server's own certificate, after a comment.
    fn certificate(&self, keyword: &str) -> String {
        self.provider.certificate.as_ref().map_or(String::new(), |file| {
            format!("# {FILL_IN}: the certificate of the server, exported to a file.\n{keyword} {file}\n")
        })
    }

    /// A comment for a host that is not known.
    fn guessed(&self) -> String {
        match &*self.provider.name {
            "" => format!("# {FILL_IN}: your provider's host; this one is guessed.\n"),
            _ => String::new(),
        }
    }

    /// The `.mbsyncrc`, for this version of isync, or one that is not known.
    #[must_use]
    pub fn mbsyncrc(&self, version: Option<IsyncVersion>) -> String {
        let (name, provider) = (self.name(), &self.provider);
        let mut text = self.heading("The .mbsyncrc");
        let _ = write!(text, "IMAPAccount {name}\n{}Host {}\n", self.guessed(), provider.imap);
        if let Some(port) = provider.imap_port {
            let _ = writeln!(text, "Port {port}");
        }
        let tls = if provider.imap_starttls { "STARTTLS" } else { "IMAPS" };
        let _ = match version {
            Some(IsyncVersion::V1_4) => writeln!(text, "SSLType {tls}"),
            Some(IsyncVersion::V1_5) => writeln!(text, "TLSType {tls}"),
            None => writeln!(text, "# isync 1.4 calls it SSLType.\nTLSType {tls}"),
        };
        let _ = writeln!(text, "User {}", self.user(provider.user.as_deref()));
        text.push_str(&self.secret(|command| format!("PassCmd \"{command}\"")));
        if let Some(auth) = &provider.auth {
            let _ = writeln!(text, "AuthMechs {auth}");
        }
        text.push_str(&self.certificate("CertificateFile"));
        if let Some(timeout) = provider.timeout {
            let _ = writeln!(text, "Timeout {timeout}");
        }
        let _ = write!(
            text,
            "\nIMAPStore {name}-far\nAccount {name}\n\n\
             MaildirStore {name}-near\n\
             # {FILL_IN}: where the mail is to be. The directory must be there:\n\
             # `mkdir -p ~/Mail/{name}`.\n\
             Path ~/Mail/{name}/\nInbox ~/Mail/{name}/INBOX\nSubFolders Verbatim\n\n\
             Channel {name}\nFar :{name}-far:\nNear :{name}-near:\n"
        );
        if let Some(folders) = &provider.folders {
            let _ = writeln!(text, "# Drafts, sent mail, trash and junk: {folders}.");
        }
        let patterns = provider.patterns.as_deref().unwrap_or("*");
        let _ = write!(
            text,
            "Patterns {patterns}\nCreate Both\nExpunge Both\nSyncState *\n\n\
             # Then: mutt-sync --check, and mutt-sync {name}\n"
        );
        text
    }

    /// The msmtprc.
    #[must_use]
    pub fn msmtprc(&self) -> String {
        let (name, provider) = (self.name(), &self.provider);
        let mut text = self.heading("The .msmtprc");
        let (starttls, port) = if provider.smtp_starttls { ("on", 587) } else { ("off", 465) };
        let port = provider.smtp_port.unwrap_or(port);
        let auth = provider.auth.as_deref().map_or("on".into(), str::to_lowercase);
        let _ = write!(
            text,
            "account {name}\n{guessed}host {host}\nport {port}\ntls on\ntls_starttls {starttls}\n\
             {certificate}auth {auth}\nfrom {address}\nuser {user}\n{secret}\n\
             account default : {name}\n",
            certificate = self.certificate("tls_trust_file"),
            secret = self.secret(|command| format!("passwordeval \"{command}\"")),
            guessed = self.guessed(),
            host = provider.smtp,
            address = self.address,
            user =
                self.user(provider.smtp_user.as_ref().or(provider.user.as_ref()).map(|it| &**it)),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_complete_and_names_each_domain_once() {
        let mut domains = BTreeSet::new();
        for provider in providers().unwrap() {
            assert!(!provider.name.is_empty() && !provider.domains.is_empty());
            let hosts = [&provider.imap, &provider.smtp];
            let missing = hosts.iter().any(|host| host.is_empty());
            assert_eq!(missing, provider.no_imap.is_some(), "{}", provider.name);
            let kinds = provider.user.iter().chain(&provider.smtp_user);
            assert!(kinds.clone().all(|kind| kind == "local" || kind == "address"));
            for domain in provider.domains {
                assert_eq!(domain, domain.to_lowercase());
                assert!(domains.insert(domain.clone()), "{domain} twice");
            }
        }
        assert!(domains.len() > 60, "{}", domains.len());
    }

    #[test]
    fn only_an_address_is_taken_and_only_where_there_is_imap() {
        for wrong in
            ["", "me", "@home.example", "me@", "me@home@x", "a b@x", "$(x)@x", "-x@x", "x@-y"]
        {
            let error = MailAccount::of(wrong).unwrap_err().to_string();
            assert!(error.contains("takes an address"), "{wrong}: {error}");
        }
        let error = MailAccount::of("me@tuta.com").unwrap_err().to_string();
        assert_eq!(error, "Tuta has no IMAP, and mbsync syncs nothing else");
    }

    #[test]
    fn what_is_guessed_is_marked_and_what_is_known_is_not() {
        let other = MailAccount::of("me@Home.Example").unwrap();
        let text = other.mbsyncrc(None);
        assert!(text.contains("guessed.\nHost imap.home.example\n"), "{text}");
        assert!(text.contains("\nTLSType IMAPS\nUser me@Home.Example\n"), "{text}");
        assert!(other.msmtprc().contains("guessed.\nhost smtp.home.example\nport 465\n"));
        let gmail = MailAccount::of("me@gmail.com").unwrap();
        let text = gmail.mbsyncrc(Some(IsyncVersion::V1_4));
        assert!(text.contains("IMAPAccount gmail\nHost imap.gmail.com\nSSLType IMAPS\n"), "{text}");
        assert!(text.contains("![Gmail]* \"[Gmail]/Drafts\""), "{text}");
        let outlook = MailAccount::of("me@outlook.com").unwrap();
        for text in [outlook.mbsyncrc(None), outlook.msmtprc()] {
            assert!(
                text.contains("access token") && text.contains("pizauth show outlook"),
                "{text}"
            );
            assert!(!text.contains("prints the password"), "{text}");
        }
        let icloud = MailAccount::of("me@icloud.com").unwrap();
        assert!(icloud.mbsyncrc(None).contains("\nUser me\n"));
        let text = icloud.msmtprc();
        assert!(text.contains("port 587\ntls on\ntls_starttls on\nauth on\n"), "{text}");
        assert!(text.contains("\nuser me@icloud.com\n"), "{text}");
    }
}
