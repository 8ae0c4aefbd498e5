//! Which certificates are trusted: mbsync's settings, for native-tls.
//!
//! A certificate in `CertificateFile` that is the server's own, byte for byte,
//! is enough (isync 1.4, socket.c: compared before chain and host name). Every
//! other server certificate must have a chain to one in `CertificateFile` or,
//! with `SystemCertificates`, in the system's, and must be made out for the host.
//!
//! Does not depend on: connections, name resolution.

use crate::error::{CertificateProblem, Error, system_text};
use crate::model::Server;
use crate::os::file;
use crate::text::printable;
use native_tls::{Certificate, Identity, Protocol, TlsConnector};
use openssl::pkey::PKey;
use openssl::x509::X509;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What to check a server against.
pub struct Trust {
    certificates: Vec<X509>,
    identity: Option<Identity>,
    /// Lowest and highest, in tenths.
    versions: (u8, u8),
    system: bool,
}

/// All that a connector without an identity is made from.
type ConnectorKey = (Check, bool, (u8, u8), Vec<X509>);

/// A connector holds the system's certificates, more than 1 MiB when they are read.
static CONNECTORS: Mutex<Vec<(ConnectorKey, Instant, TlsConnector)>> = Mutex::new(Vec::new());
/// How long one is shared: the system's certificates change.
const SHARED_FOR: Duration = Duration::from_secs(3600);

/// One way to check a server. Each needs a handshake, hence a connection, of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Chain and host name.
    Chain,
    /// Equality with a certificate in the file; nothing else is looked at.
    Pin,
}

impl Trust {
    /// Reads what the server's section names.
    pub fn of(server: &Server) -> Result<Self, Error> {
        if server.cipher_string.is_some() {
            return Err(Error::config(
                "CipherString cannot be kept to here; remove it, or set it for all programs in openssl.cnf",
            ));
        }
        let certificates = match &server.certificate_file {
            Some(file) => certificates_in(file)?,
            None => Vec::new(),
        };
        let identity = match (&server.client_certificate, &server.client_key) {
            (Some(certificate), key) => {
                Some(identity_in(certificate, key.as_deref().unwrap_or(certificate))?)
            }
            (None, _) => None,
        };
        Ok(Trust {
            certificates,
            identity,
            versions: server.tls_versions,
            system: server.system_certificates,
        })
    }

    /// The checks to be tried, in order, until one is passed. A certificate that
    /// is no authority can only be meant as a pin, so that comes first then.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = vec![Check::Chain];
        if !self.certificates.is_empty() {
            let only_pins = self.certificates.iter().any(|c| !looks_like_authority(c));
            let at = if only_pins && self.certificates.len() < 10 { 0 } else { checks.len() };
            checks.insert(at, Check::Pin);
        }
        checks
    }

    /// A connector that makes this check (the pin itself is for [`Trust::pinned`]).
    /// Accounts with the same settings share one.
    pub fn connector(&self, check: Check) -> Result<TlsConnector, Error> {
        if self.identity.is_some() {
            return self.make(check);
        }
        let key = (check, self.system, self.versions, self.certificates.clone());
        // Held while one is made: accounts that connect together wait for it.
        let mut shared = CONNECTORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.retain(|(_, made, _)| made.elapsed() < SHARED_FOR);
        if let Some((.., connector)) = shared.iter().find(|(known, ..)| *known == key) {
            return Ok(connector.clone());
        }
        let connector = self.make(check)?;
        shared.push((key, Instant::now(), connector.clone()));
        Ok(connector)
    }

    fn make(&self, check: Check) -> Result<TlsConnector, Error> {
        let broken = |e: native_tls::Error| Error::config(format!("TLS settings: {e}"));
        let mut builder = TlsConnector::builder();
        builder.min_protocol_version(Some(protocol(self.versions.0)));
        builder.max_protocol_version(Some(protocol(self.versions.1)));
        if let Some(identity) = &self.identity {
            builder.identity(identity.clone());
        }
        if check == Check::Pin {
            builder.disable_built_in_roots(true);
            builder.danger_accept_invalid_certs(true);
            builder.danger_accept_invalid_hostnames(true);
            return builder.build().map_err(broken);
        }
        builder.disable_built_in_roots(!self.system);
        for certificate in &self.certificates {
            let der = certificate.to_der().unwrap_or_default();
            builder.add_root_certificate(Certificate::from_der(&der).map_err(broken)?);
        }
        builder.build().map_err(broken)
    }

    /// Whether this certificate (DER) stands in the file.
    #[must_use]
    pub fn pinned(&self, certificate: &[u8]) -> bool {
        self.certificates.iter().any(|c| c.to_der().is_ok_and(|der| der == certificate))
    }

    /// Whether we can show a certificate of our own.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.identity.is_some()
    }
}

fn protocol(tenths: u8) -> Protocol {
    match tenths {
        0..=10 => Protocol::Tlsv10,
        11 => Protocol::Tlsv11,
        12 => Protocol::Tlsv12,
        _ => Protocol::Tlsv13,
    }
}

/// Decides the order of attempts only, never whether one is passed.
/// Most bytes of a certificate, a key or a bundle.
const LARGEST: u64 = 16 << 20;

fn looks_like_authority(certificate: &X509) -> bool {
    certificate.to_text().is_ok_and(|text| String::from_utf8_lossy(&text).contains("CA:TRUE"))
}

fn read(what: &str, file: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    file::read(file, LARGEST)
        .map(Zeroizing::new)
        .map_err(|e| Error::config(format!("{what} {}: {}", file.display(), system_text(&e))))
}

fn certificates_in(file: &Path) -> Result<Vec<X509>, Error> {
    let pem = read("CertificateFile", file)?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::config(format!(
            "CertificateFile {}: no certificate in PEM form in it",
            file.display()
        ))),
    }
}

/// A certificate and its key. native-tls takes PKCS#8 only, so other forms of
/// key are put into that.
fn identity_in(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let chain = read("ClientCertificate", certificate)?;
    let pem = read("ClientKey", key)?;
    let wrong = |why: String| Error::config(format!("ClientKey {}: {why}", key.display()));
    if pem.windows(9).any(|w| w == b"ENCRYPTED") {
        return Err(wrong(
            "is locked with a passphrase, which nobody could be asked for; write it without one: openssl pkey -in KEY -out NEW".to_owned(),
        ));
    }
    let key = PKey::private_key_from_pem(&pem)
        .and_then(|key| key.private_key_to_pem_pkcs8())
        .map(Zeroizing::new)
        .map_err(|_| wrong("no private key in PEM form in it".to_owned()))?;
    Identity::from_pkcs8(&chain, &key)
        .map_err(|e| Error::config(format!("ClientCertificate {}: {e}", certificate.display())))
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The server's certificate does not hold.
    Certificate(CertificateProblem),
    /// Anything else, in OpenSSL's words.
    Other(String),
}

impl From<&native_tls::Error> for HandshakeFailure {
    /// The only place that reads OpenSSL's text.
    fn from(error: &native_tls::Error) -> Self {
        let text = error.to_string();
        // OpenSSL: "error:0A000086:SSL routines:…:certificate verify failed:file:line: (reason)"
        if text.contains("certificate verify failed") {
            let reason = text.rsplit_once(" (").map_or(&text[..], |(_, r)| r.trim_end_matches(')'));
            let known = CertificateProblem::NAMED.iter().find(|(_, words)| *words == reason);
            return HandshakeFailure::Certificate(match known {
                Some((problem, _)) => problem.clone(),
                None => CertificateProblem::Other(printable(reason)),
            });
        }
        let reason = text.split(':').nth(4).filter(|reason| !reason.is_empty());
        HandshakeFailure::Other(printable(reason.unwrap_or(&text)))
    }
}
