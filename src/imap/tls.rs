//! Whom to trust: mbsync's meaning of the certificate settings, for native-tls.
//!
//! Knows certificates and keys in files. Knows no connection and no name
//! resolution.
//!
//! A certificate in `CertificateFile` that is the server's own, byte for byte,
//! is enough (isync 1.4, socket.c: compared before chain and host name). Every
//! other server certificate must have a chain to one in `CertificateFile` or,
//! with `SystemCertificates`, in the system's, and must be made out for the host.

use crate::error::Error;
use crate::model::{Server, TlsMode};
use crate::os::{file, fork};
use native_tls::{Certificate, Identity, Protocol, TlsConnector};
use openssl::pkey::PKey;
use openssl::x509::X509;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Mutex;
use zeroize::Zeroizing;

/// What to check a server against.
pub struct Trust {
    certificates: Vec<X509>,
    identity: Option<Identity>,
    versions: (Protocol, Protocol),
    system: bool,
    /// A digest of all that a connector is made from.
    key: [u8; 32],
}

/// One way to check a server. Each needs a handshake, hence a connection, of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Chain and host name.
    Chain,
    /// The same, with the system's bundle read whole: for a directory of hashed
    /// names that lacks what the bundle has.
    Bundle,
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
        let (low, high) = server.tls_versions;
        let mut digest = Sha256::new();
        digest.update([low, high, u8::from(server.system_certificates)]);
        for file in [&server.certificate_file, &server.client_certificate, &server.client_key] {
            let bytes =
                file.as_ref().map(|f| Zeroizing::new(file::read(f, LARGEST).unwrap_or_default()));
            digest.update(bytes.as_ref().map_or(0, |b| b.len() as u64 + 1).to_le_bytes());
            digest.update(bytes.as_ref().map_or(&[][..], |b| b));
        }
        Ok(Trust {
            key: digest.finalize().into(),
            certificates,
            identity,
            versions: (protocol(low), protocol(high)),
            system: server.system_certificates,
        })
    }

    /// The checks to be tried, in order, until one is passed. A certificate that
    /// is no authority can only be meant as a pin, so that comes first then.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = vec![Check::Chain];
        if self.system && directory_primed() {
            checks.push(Check::Bundle);
        }
        if !self.certificates.is_empty() {
            let only_pins = self.certificates.iter().any(|c| !looks_like_authority(c));
            let at = if only_pins && self.certificates.len() < 10 { 0 } else { checks.len() };
            checks.insert(at, Check::Pin);
        }
        checks
    }

    /// A connector that makes this check (the pin itself is for [`Trust::pinned`]).
    pub fn connector(&self, check: Check) -> Result<TlsConnector, Error> {
        if check != Check::Bundle {
            let made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(ready) = made.iter().find(|m| m.check == check && m.key == self.key) {
                return Ok(ready.connector.clone());
            }
        }
        self.make(check)
    }

    fn make(&self, check: Check) -> Result<TlsConnector, Error> {
        let broken = |e: native_tls::Error| Error::config(format!("TLS settings: {e}"));
        let mut builder = TlsConnector::builder();
        builder.min_protocol_version(Some(self.versions.0));
        builder.max_protocol_version(Some(self.versions.1));
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
        let bundle = if check == Check::Bundle { bundle() } else { Vec::new() };
        for certificate in self.certificates.iter().chain(&bundle) {
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
fn looks_like_authority(certificate: &X509) -> bool {
    certificate.to_text().is_ok_and(|text| String::from_utf8_lossy(&text).contains("CA:TRUE"))
}

fn read(what: &str, file: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    file::read(file, LARGEST)
        .map(Zeroizing::new)
        .map_err(|e| Error::config(format!("{what} {}: {e}", file.display())))
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

/// Where distributions keep certificates under hashed names.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// And all in one.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Most bytes of a certificate, a key or a bundle.
const LARGEST: u64 = 16 << 20;

static PRIMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn directory_primed() -> bool {
    PRIMED.load(std::sync::atomic::Ordering::Relaxed)
}

fn bundle() -> Vec<X509> {
    BUNDLES
        .iter()
        .find_map(|file| file::read(file.as_ref(), LARGEST).ok())
        .and_then(|pem| X509::stack_from_pem(&pem).ok())
        .unwrap_or_default()
}

/// A connector made while the certificate directory was preferred.
struct Made {
    key: [u8; 32],
    check: Check,
    connector: TlsConnector,
}

static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());

/// Makes the connectors of these servers, such that OpenSSL looks certificates
/// up in the system's directory when it needs one, rather than parse the whole
/// bundle: 1.6 MiB and tens of milliseconds saved. OpenSSL and native-tls can be
/// told so by environment variables only, and they read them whenever a connector
/// is made; so this sets them, makes the connectors, and takes them away again,
/// so that no child inherits them. To be called while the process has one
/// thread; else, or without such a directory, it does nothing, and connectors
/// are made when they are needed.
pub fn prepare<'a>(servers: impl IntoIterator<Item = &'a Server>) {
    let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    if variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let Some(directory) = DIRECTORIES.iter().find(|d| is_hashed(Path::new(d))) else { return };
    let values = ["/dev/null", directory];
    let set = variables
        .iter()
        .zip(values)
        .all(|(name, value)| fork::set_environment_while_alone(name, Some(OsStr::new(value))));
    if set {
        PRIMED.store(true, std::sync::atomic::Ordering::Relaxed);
        for server in servers {
            if server.tls == TlsMode::None || server.tunnel.is_some() {
                continue;
            }
            // What is wrong with a section is said when it is used.
            let Ok(trust) = Trust::of(server) else { continue };
            for check in trust.checks() {
                let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if check != Check::Bundle
                    && !made.iter().any(|m| m.check == check && m.key == trust.key)
                {
                    if let Ok(connector) = trust.make(check) {
                        made.push(Made { key: trust.key, check, connector });
                    }
                }
            }
        }
    }
    for name in variables {
        let _ = fork::set_environment_while_alone(name, None);
    }
}

/// Whether a directory holds certificates by `c_rehash`'s names, and not just a few.
fn is_hashed(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    let hashed = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.len() >= 10
            && name.iter().take(8).all(u8::is_ascii_hexdigit)
            && name.get(8) == Some(&b'.')
            && name.iter().skip(9).all(u8::is_ascii_digit)
    };
    entries.flatten().filter(|e| hashed(&e.file_name())).take(50).count() == 50
}

/// What a user can do about a certificate that was refused for this reason
/// (OpenSSL's words).
#[must_use]
pub fn mend(reason: &str) -> &'static str {
    if reason.contains("hostname mismatch") || reason.contains("IP address mismatch") {
        "it is made out for another name; set Host to the name in it"
    } else if reason.contains("expired") {
        "its time is over; whoever runs the server must renew it"
    } else if reason.contains("not yet valid") {
        "its time has not come; see whether this machine's clock is right"
    } else {
        "if you know it is the right one, save it and name it in CertificateFile (mbsync-get-cert does this)"
    }
}
