//! Certificates made on the spot: a CA of our own, and what it signs.

use crate::process::run;
use crate::server::temp_dir;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

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

/// A certificate and its key, as PEM text.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// A certificate authority.
pub struct Ca(Certificate);

fn openssl(dir: &Path, args: &[&str]) {
    fs::write(dir.join("config"), CONFIG).expect("write");
    let mut command = Command::new("openssl");
    command.args(args).current_dir(dir);
    run(&mut command, Duration::from_secs(60)).ok();
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).expect("what openssl wrote")
}

#[rustfmt::skip]
const NEW_KEY: [&str; 7] = [
    "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", "config",
];

impl Ca {
    /// A new one.
    pub fn new() -> Self {
        let dir = temp_dir();
        #[rustfmt::skip]
        let args = [
            "req", "-x509", "-days", "30", "-subj", "/CN=Rig CA", "-extensions", "ca",
            "-keyout", "key", "-out", "cert",
        ];
        openssl(dir.path(), &[&args[..], &NEW_KEY].concat());
        Ca(Certificate { cert: read(dir.path(), "cert"), key: read(dir.path(), "key") })
    }

    /// The one that this process's servers use.
    pub fn shared() -> &'static Ca {
        static CA: OnceLock<Ca> = OnceLock::new();
        CA.get_or_init(Ca::new)
    }

    /// Its own certificate, as PEM: what belongs into a `CertificateFile`.
    pub fn cert(&self) -> &str {
        &self.0.cert
    }

    /// Signs a new certificate for these DNS names, good for so many days from
    /// now: with a negative number, one that has expired.
    pub fn issue(&self, names: &[&str], days: i32) -> Certificate {
        let dir = temp_dir();
        let subject = format!("/CN={}", names.first().unwrap_or(&"nobody"));
        let args = ["req", "-new", "-subj", &subject, "-keyout", "key", "-out", "request"];
        openssl(dir.path(), &[&args[..], &NEW_KEY].concat());
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let extensions =
            format!("basicConstraints = CA:FALSE\nsubjectAltName = {}\n", names.join(", "));
        for (name, text) in
            [("extensions", &extensions), ("ca.cert", &self.0.cert), ("ca.key", &self.0.key)]
        {
            fs::write(dir.path().join(name), text).expect("write");
        }
        let (serial, days) = (fastrand::u32(1..).to_string(), days.to_string());
        #[rustfmt::skip]
        openssl(dir.path(), &[
            "x509", "-req", "-in", "request", "-CA", "ca.cert", "-CAkey", "ca.key", "-set_serial",
            &serial, "-days", &days, "-extfile", "extensions", "-out", "cert",
        ]);
        Certificate { cert: read(dir.path(), "cert"), key: read(dir.path(), "key") }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}
