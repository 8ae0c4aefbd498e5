//! An account, and how to log in to its server. Does not depend on: keywords,
//! connections.

use super::{Channel, Mailbox, Target};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// One server login, and the unit of locking, throttle, backoff and state: an
/// `IMAPAccount` section, or an `IMAPStore` with its own login.
///
/// A channel belongs to the account of its far side; to that of its near side
/// if the far one is a Maildir; and to an account named as its far store if
/// both are. So each channel has one lock, whichever name it is requested by.
#[derive(Debug, Clone)]
pub struct Account {
    /// The section's name, as in the file.
    pub name: String,
    /// How to reach the server; `None` where both sides are Maildirs.
    pub server: Option<Server>,
    /// The channels on it, in the order in which they run: the file's, unless the user
    /// has named them in another.
    pub channels: Vec<Channel>,
}

/// Where and how to log in, as the file says. Nothing is resolved or run yet.
#[derive(Debug, Clone)]
pub struct Server {
    /// `Host`; may be absent with a tunnel.
    pub host: Option<String>,
    /// `Port`, else 993 for IMAPS and 143 for the rest.
    pub port: u16,
    /// `User` or `UserCmd`.
    pub user: Option<CredentialSource>,
    /// `Pass` or `PassCmd`; `None` means that mbsync would ask on the terminal.
    pub pass: Option<CredentialSource>,
    /// How the connection is made secure.
    pub tls: TlsMode,
    /// The keyword that says so in the file, or that this isync knows for it.
    pub tls_keyword: &'static str,
    /// TLS versions allowed, lowest and highest of `1.0` to `1.3`, as mbsync's
    /// set of versions maps onto a range (tenths: 10 to 13).
    pub tls_versions: (u8, u8),
    /// `SystemCertificates`.
    pub system_certificates: bool,
    /// `CertificateFile`: CA certificates in it are added, others are pinned.
    pub certificate_file: Option<PathBuf>,
    /// `ClientCertificate`.
    pub client_certificate: Option<PathBuf>,
    /// `ClientKey`.
    pub client_key: Option<PathBuf>,
    /// `CipherString`.
    pub cipher_string: Option<String>,
    /// `AuthMechs`, upper case; `*` means any.
    pub auth_mechs: Vec<String>,
    /// `Timeout`; `None` for 0, without bound.
    pub timeout: Option<Duration>,
    /// `Tunnel`, a shell command.
    pub tunnel: Option<String>,
    /// NAMESPACE is among `DisableExtensions`.
    pub disables_namespace: bool,
}

impl Default for Server {
    /// An empty section, with isync's defaults. What depends on other keywords or on
    /// the version (port, mechanisms) is as good as unset.
    fn default() -> Self {
        Server {
            host: None,
            port: 0,
            user: None,
            pass: None,
            tls: TlsMode::StartTls,
            tls_keyword: "TLSType",
            tls_versions: (10, 13),
            system_certificates: true,
            certificate_file: None,
            client_certificate: None,
            client_key: None,
            cipher_string: None,
            auth_mechs: Vec::new(),
            timeout: Some(Duration::from_secs(20)),
            tunnel: None,
            disables_namespace: false,
        }
    }
}

/// A user name or password: in the file itself, or printed by a shell command.
#[derive(Clone)]
pub enum CredentialSource {
    /// In the file.
    Text(Zeroizing<String>),
    /// First line of this `sh -c` command's output (without mbsync's leading `+`).
    Command(String),
}

impl std::fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CredentialSource::Text(_) => "Text(…)",
            CredentialSource::Command(_) => "Command(…)",
        })
    }
}

/// `TLSType`, which isync 1.4 calls `SSLType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Clear text.
    None,
    /// Mandatory upgrade before anything else is sent.
    StartTls,
    /// TLS from the first byte.
    Imaps,
}

impl Server {
    /// `HOST:PORT`, with an IPv6 address in brackets; `None` without a `Host`.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        Some(if host.contains(':') {
            format!("[{host}]:{}", self.port)
        } else {
            format!("{host}:{}", self.port)
        })
    }
}

impl Account {
    /// The channel of this name: the first, as for mbsync.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.name == name)
    }

    /// The mailbox that this target names; `None` for a wider target, and for a
    /// channel that does not exist.
    #[must_use]
    pub fn mailbox(&self, target: &Target) -> Option<Mailbox> {
        let Target::Mailbox { channel, name } = target else { return None };
        Some(self.channel(channel)?.mailbox(name))
    }
}
