//! Which certificates are trusted: mbsync's settings, for native-tls.
//!
//! A certificate in `CertificateFile` that is no authority and is the server's own,
//! byte for byte, is enough (isync 1.4 and 1.5, socket.c: compared before chain and
//! host name). Every other server certificate must have a chain to an authority in
//! `CertificateFile` or, with `SystemCertificates`, in the system's, and must be made
//! out for the host, also as mbsync reads its names.
//!
//! Does not depend on: connections, name resolution.

use crate::error::{CertificateProblem, Error, system_text};
use crate::model::Server;
use crate::os::file;
use crate::text::printable;
use native_tls::{Certificate, Identity, Protocol, TlsConnector};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509KeyUsage, X509VerifyResult};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What to check a server against.
pub struct Trust {
    /// Chains may end in them.
    authorities: Vec<X509>,
    /// Each is enough as the server's own.
    pins: Vec<X509>,
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
            Some(file) => certificates_in("CertificateFile", file)?,
            None => Vec::new(),
        };
        let identity = match (&server.client_certificate, &server.client_key) {
            (Some(certificate), Some(key)) => Some(identity_in(certificate, key)?),
            // mbsync shows neither without the other, but reads both.
            (Some(certificate), None) => {
                certificates_in("ClientCertificate", certificate)?;
                None
            }
            (None, Some(key)) => {
                key_in(key)?;
                None
            }
            (None, None) => None,
        };
        let (authorities, pins) = certificates.into_iter().partition(is_authority);
        Ok(Trust {
            authorities,
            pins,
            identity,
            versions: server.tls_versions,
            system: server.system_certificates,
        })
    }

    /// The checks to be tried, in order, until one is passed. Few certificates are
    /// meant for this server, a bundle is not.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        match self.pins.len() {
            0 => vec![Check::Chain],
            1..10 => vec![Check::Pin, Check::Chain],
            _ => vec![Check::Chain, Check::Pin],
        }
    }

    /// A connector that makes this check, as far as the handshake can: the rest is for
    /// [`Trust::confirm`].
    /// Accounts with the same settings share one.
    pub fn connector(&self, check: Check) -> Result<TlsConnector, Error> {
        if self.identity.is_some() {
            return self.make(check);
        }
        let key = (check, self.system, self.versions, self.authorities.clone());
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
        for certificate in &self.authorities {
            let der = certificate.to_der().unwrap_or_default();
            builder.add_root_certificate(Certificate::from_der(&der).map_err(broken)?);
        }
        builder.build().map_err(broken)
    }

    /// What a handshake does not show of the server's certificate (DER): that it is
    /// one of the pins, or that mbsync, too, finds the host's name in it.
    pub fn confirm(
        &self,
        check: Check,
        certificate: Option<&[u8]>,
        host: &str,
    ) -> Result<(), CertificateProblem> {
        let der = certificate.unwrap_or_default();
        let confirmed = match check {
            Check::Pin => self.pins.iter().any(|pin| pin.to_der().is_ok_and(|pin| pin == der)),
            Check::Chain => X509::from_der(der).is_ok_and(|shown| names(&shown, host)),
        };
        match check {
            _ if confirmed => Ok(()),
            Check::Pin => Err(CertificateProblem::NotPinned),
            Check::Chain if host.parse::<IpAddr>().is_ok() => {
                Err(CertificateProblem::AddressMismatch)
            }
            Check::Chain => Err(CertificateProblem::HostMismatch),
        }
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

/// Most bytes of a certificate, a key or a bundle.
const LARGEST: u64 = 16 << 20;

/// Whether mbsync takes it for an authority (OpenSSL's `X509_check_ca`), and so for no
/// pin: the usual self-signed certificate of `openssl req -x509` is one, and so is any
/// of version 1. The crate has no such function, and its text has the extension.
fn is_authority(certificate: &X509) -> bool {
    let usage = certificate.key_usage();
    if usage.is_some_and(|usage| !usage.contains(X509KeyUsage::KEY_CERT_SIGN)) {
        return false;
    }
    let text = certificate.to_text().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let has = |line: &str| text.lines().any(|each| each.trim_start().starts_with(line));
    if has("CA:TRUE") || has("CA:FALSE") {
        return has("CA:TRUE");
    }
    let self_issued = certificate.issued(certificate) == X509VerifyResult::OK;
    usage.is_some() || certificate.version() == 0 && self_issued
}

/// Whether mbsync finds this host in it (`socket.c`, `verify_hostname`): among the DNS
/// names, or as the first common name. It knows no addresses.
fn names(certificate: &X509, host: &str) -> bool {
    let matches = |name: &str| match name.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(_, of)| !of.is_empty() && of.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    };
    let alternative = certificate.subject_alt_names();
    let mut alternative = alternative.iter().flatten().filter_map(|name| name.dnsname());
    let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    let common = common.and_then(|name| name.data().to_string().ok());
    !host.is_empty() && (alternative.any(matches) || common.is_some_and(|name| matches(&name)))
}

fn read(what: &str, file: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    file::read(file, LARGEST)
        .map(Zeroizing::new)
        .map_err(|e| Error::config(format!("{what} {}: {}", file.display(), system_text(&e))))
}

fn certificates_in(what: &str, file: &Path) -> Result<Vec<X509>, Error> {
    let pem = read(what, file)?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::config(format!(
            "{what} {}: no certificate in PEM form in it",
            file.display()
        ))),
    }
}

/// A certificate and its key. native-tls takes PKCS#8 only, so other forms of
/// key are put into that.
fn identity_in(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let chain = read("ClientCertificate", certificate)?;
    Identity::from_pkcs8(&chain, &key_in(key)?)
        .map_err(|e| Error::config(format!("ClientCertificate {}: {e}", certificate.display())))
}

fn key_in(key: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let pem = read("ClientKey", key)?;
    let wrong = |why: String| Error::config(format!("ClientKey {}: {why}", key.display()));
    if pem.windows(9).any(|w| w == b"ENCRYPTED") {
        return Err(wrong(
            "is locked with a passphrase, which nobody could be asked for; write it without one: openssl pkey -in KEY -out NEW".to_owned(),
        ));
    }
    PKey::private_key_from_pem(&pem)
        .and_then(|key| key.private_key_to_pem_pkcs8())
        .map(Zeroizing::new)
        .map_err(|_| wrong("no private key in PEM form in it".to_owned()))
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The server's certificate does not hold.
    Certificate(CertificateProblem),
    /// What the server says is not TLS.
    NotTls,
    /// The connection ended.
    Closed,
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
        let reason = text.split(':').nth(4).filter(|reason| !reason.is_empty()).unwrap_or(&text);
        let source = std::error::Error::source(error);
        if source.is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
            || reason.to_ascii_lowercase().starts_with("unexpected eof")
        {
            return HandshakeFailure::Closed;
        }
        match reason {
            "wrong version number" | "http request" => HandshakeFailure::NotTls,
            reason => HandshakeFailure::Other(printable(reason)),
        }
    }
}
