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
[signer]
database = database
new_certs_dir = .
certificate = ca.cert
private_key = ca.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
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

/// So many days from now, as `openssl ca` wants it.
fn date(days: i32) -> String {
    let mut command = Command::new("date");
    command.args(["-u", "-d", &format!("{days} days"), "+%Y%m%d%H%M%SZ"]);
    run(&mut command, Duration::from_secs(60)).ok().stdout.trim().to_owned()
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
        let files = [
            ("extensions", extensions.as_str()),
            ("ca.cert", &self.0.cert),
            ("ca.key", &self.0.key),
            ("database", ""),
        ];
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("write");
        }
        // One that has expired was good for a day. `openssl x509 -days` of 3.5 makes
        // none such, and that of 3.0 knows no dates; `openssl ca` does, in both.
        let (from, to) = (date(if days < 0 { days - 1 } else { 0 }), date(days));
        #[rustfmt::skip]
        openssl(dir.path(), &[
            "ca", "-batch", "-notext", "-config", "config", "-name", "signer", "-in", "request",
            "-startdate", &from, "-enddate", &to, "-extfile", "extensions", "-out", "cert",
        ]);
        Certificate { cert: read(dir.path(), "cert"), key: read(dir.path(), "key") }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}
