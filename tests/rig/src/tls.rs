//! Certificates made on the spot: a CA of our own, and what it signs.

use crate::process::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

const CONFIG: &str = "[req]
distinguished_name = dn
prompt = no
[dn]
CN = rig
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// The key, PKCS#8.
    pub key: PathBuf,
}

/// A certificate authority; its files go with it.
pub struct Ca {
    dir: TempDir,
}

fn openssl(args: &[&str]) {
    run(Command::new("openssl").args(args), Duration::from_secs(20)).ok();
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

impl Ca {
    /// A new one.
    pub fn new() -> Self {
        let ca = Ca { dir: crate::server::temp_dir() };
        let config = ca.dir.path().join("config");
        fs::write(&config, CONFIG).expect("write");
        let key = ca.dir.path().join("ca.key");
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=Rig CA",
            "-config",
            text(&config),
            "-extensions",
            "ca",
            "-keyout",
            text(&key),
            "-out",
            text(&ca.cert()),
        ]);
        ca
    }

    /// The one that this process's servers use.
    pub fn shared() -> &'static Ca {
        static CA: OnceLock<Ca> = OnceLock::new();
        CA.get_or_init(Ca::new)
    }

    /// Its own certificate: what `CertificateFile` names.
    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Signs a new certificate for these DNS names, for so many days from now:
    /// fewer than none gives one that has expired. `file` names its files.
    pub fn issue(&self, file: &str, names: &[&str], days: i32) -> Certificate {
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        let (cert, key, request, extensions) = (path("pem"), path("key"), path("csr"), path("ext"));
        let config = self.dir.path().join("config");
        let ca_key = self.dir.path().join("ca.key");
        let subject = format!("/CN={}", names.first().unwrap_or(&"nobody"));
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &subject,
            "-config",
            text(&config),
            "-keyout",
            text(&key),
            "-out",
            text(&request),
        ]);
        let alternatives: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let lines =
            format!("basicConstraints = CA:FALSE\nsubjectAltName = {}\n", alternatives.join(", "));
        fs::write(&extensions, lines).expect("write");
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&self.cert()),
            "-CAkey",
            text(&ca_key),
            "-set_serial",
            &fastrand::u32(1..).to_string(),
            "-days",
            &days.to_string(),
            "-extfile",
            text(&extensions),
            "-out",
            text(&cert),
        ]);
        Certificate { cert, key }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}
