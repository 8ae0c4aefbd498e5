//! What a server's certificate says of itself. Does not depend on: connections,
//! whether it is accepted.

use openssl::asn1::Asn1Time;
use openssl::nid::Nid;
use openssl::x509::X509;

/// A certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names it is made out for; its common name where it has none.
    pub names: Vec<String>,
    /// The day on which it expires: `Dec 23 2026`.
    pub expires: String,
    /// Days until then; negative: it has.
    pub days: i32,
}

impl Certificate {
    /// From DER; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = X509::from_der(der).ok()?;
        let alternative = certificate.subject_alt_names();
        let mut names: Vec<String> = alternative
            .iter()
            .flatten()
            .filter_map(|name| name.dnsname().map(str::to_owned))
            .collect();
        if names.is_empty() {
            let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
            names = common.filter_map(|entry| entry.data().to_string().ok()).collect();
        }
        let now = Asn1Time::days_from_now(0).ok()?;
        let left = now.diff(certificate.not_after()).ok()?;
        // A part of a day that is over counts as one.
        let days = if left.secs < 0 { left.days - 1 } else { left.days };
        // OpenSSL writes `Dec 23 16:50:52 2026 GMT`.
        let expires = certificate.not_after().to_string();
        let words: Vec<&str> = expires.split_whitespace().collect();
        let expires = match words[..] {
            [month, day, _, year, ..] => format!("{month} {day} {year}"),
            _ => expires,
        };
        Some(Certificate { names, expires, days })
    }
}

impl std::fmt::Display for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = if self.names.is_empty() { "nobody".into() } else { super::some(&self.names) };
        if self.days < 0 {
            write!(f, "certificate for {names}, expired {}", self.expires)
        } else {
            let left = crate::text::counted(self.days, "day");
            write!(f, "certificate for {names}, good until {} ({left})", self.expires)
        }
    }
}
