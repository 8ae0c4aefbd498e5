//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's side, without
//! channel binding.
//!
//! Only the exchange of messages stands here; hashing, PBKDF2 and randomness are
//! OpenSSL's, which is linked anyhow. The crates there are for it neither wipe
//! the keys nor bound the iteration count, by which a hostile server could keep
//! us busy for hours.
//!
//! Does not depend on: connections.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

/// How many PBKDF2 iterations a server may ask for: with fewer than RFC 7677 §4
/// allows, who reads our proof can guess the password cheaply; at most a second's
/// work or so.
const ITERATIONS: std::ops::RangeInclusive<usize> = 4096..=1_000_000;

/// An exchange under way.
pub struct Scram {
    digest: MessageDigest,
    nonce: String,
    /// Our first message without its header.
    first: Zeroizing<String>,
    /// What the server must prove, once known.
    expected: Option<Zeroizing<Vec<u8>>>,
}

/// Why an exchange ended. The text is for the user.
pub type ScramError = &'static str;

impl Scram {
    /// Begins one; `sha256` or else SHA-1.
    pub fn new(sha256: bool, user: &str) -> Result<Self, ScramError> {
        let mut random = [0_u8; 18];
        openssl::rand::rand_bytes(&mut random).map_err(|_| "no randomness to be had")?;
        Self::with_nonce(sha256, user, STANDARD.encode(random))
    }

    fn with_nonce(sha256: bool, user: &str, nonce: String) -> Result<Self, ScramError> {
        let user =
            stringprep::saslprep(user).map_err(|_| "the user name has forbidden characters")?;
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let digest = if sha256 { MessageDigest::sha256() } else { MessageDigest::sha1() };
        let first = Zeroizing::new(format!("n={user},r={nonce}"));
        Ok(Scram { digest, nonce, first, expected: None })
    }

    /// Our first message.
    #[must_use]
    pub fn first(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([b"n,,", self.first.as_bytes()].concat())
    }

    /// Our answer to the server's first message.
    pub fn answer(
        &mut self,
        challenge: &[u8],
        password: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ScramError> {
        const GARBLED: ScramError = "the server's SCRAM challenge makes no sense";
        if self.expected.is_some() {
            return Err(GARBLED);
        }
        let challenge = std::str::from_utf8(challenge).map_err(|_| GARBLED)?;
        let mut parts = challenge.split(',');
        let nonce = parts.next().and_then(|p| p.strip_prefix("r=")).ok_or(GARBLED)?;
        let salt = parts.next().and_then(|p| p.strip_prefix("s=")).ok_or(GARBLED)?;
        let rounds = parts.next().and_then(|p| p.strip_prefix("i=")).ok_or(GARBLED)?;
        let salt = STANDARD.decode(salt).map_err(|_| GARBLED)?;
        let rounds: usize = rounds.parse().map_err(|_| GARBLED)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server's SCRAM nonce is not an answer to ours");
        }
        if !ITERATIONS.contains(&rounds) {
            return Err("the server asks for an absurd number of SCRAM iterations");
        }
        let mut salted = Zeroizing::new(vec![0_u8; self.digest.size()]);
        let prepared = prepare(password)?;
        openssl::pkcs5::pbkdf2_hmac(&prepared, &salt, rounds, self.digest, &mut salted)
            .map_err(|_| "PBKDF2 fails")?;
        let client_key = self.hmac(&salted, b"Client Key")?;
        let server_key = self.hmac(&salted, b"Server Key")?;
        let stored = hash(self.digest, &client_key).map_err(|_| "hashing fails")?;
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", *self.first);
        let signature = self.hmac(&stored, signed.as_bytes())?;
        let proof: Zeroizing<Vec<u8>> =
            Zeroizing::new(client_key.iter().zip(signature.iter()).map(|(a, b)| a ^ b).collect());
        self.expected = Some(self.hmac(&server_key, signed.as_bytes())?);
        let proof = Zeroizing::new(STANDARD.encode(&*proof));
        Ok(Zeroizing::new([without_proof.as_bytes(), b",p=", proof.as_bytes()].concat()))
    }

    /// Whether the server has proved that it knows the password too. Without
    /// that its OK is worth nothing.
    pub fn verify(&mut self, last: &[u8]) -> Result<(), ScramError> {
        const UNPROVEN: ScramError = "the server does not prove that it knows the password";
        let expected = self.expected.as_ref().ok_or(UNPROVEN)?;
        let last = std::str::from_utf8(last).map_err(|_| UNPROVEN)?;
        let signature =
            last.split(',').next().and_then(|p| p.strip_prefix("v=")).ok_or(UNPROVEN)?;
        let signature = STANDARD.decode(signature).map_err(|_| UNPROVEN)?;
        if signature.len() == expected.len() && openssl::memcmp::eq(&signature, expected) {
            Ok(())
        } else {
            Err(UNPROVEN)
        }
    }

    fn hmac(&self, key: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, ScramError> {
        let fails = |_| "HMAC fails";
        let key = PKey::hmac(key).map_err(fails)?;
        let mut signer = Signer::new(self.digest, &key).map_err(fails)?;
        signer.sign_oneshot_to_vec(data).map(Zeroizing::new).map_err(fails)
    }
}

/// The password as SASL prepares it; as it is where it is not UTF-8.
fn prepare(password: &[u8]) -> Result<Zeroizing<Vec<u8>>, ScramError> {
    match std::str::from_utf8(password) {
        Ok(text) if !text.is_ascii() => match stringprep::saslprep(text) {
            Ok(std::borrow::Cow::Owned(text)) => Ok(Zeroizing::new(text.into_bytes())),
            Ok(std::borrow::Cow::Borrowed(text)) => Ok(Zeroizing::new(text.as_bytes().to_vec())),
            Err(_) => Err("the password has characters that SASL forbids"),
        },
        _ => Ok(Zeroizing::new(password.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfcs_come_out() {
        for (sha256, nonce, challenge, answer, last) in [
            (
                false,
                "fyko+d2lbbFgONRv9qkxdawL",
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ),
            (
                true,
                "rOprNGfwEbeRWgbNEkqO",
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
        ] {
            let mut scram = Scram::with_nonce(sha256, "user", nonce.to_owned()).unwrap();
            assert_eq!(*scram.first(), format!("n,,n=user,r={nonce}").into_bytes());
            assert_eq!(*scram.answer(challenge.as_bytes(), b"pencil").unwrap(), answer.as_bytes());
            assert!(scram.verify(b"v=AAAA").is_err());
            scram.verify(last.as_bytes()).unwrap();
        }
    }

    #[test]
    fn hostile_challenges_are_refused() {
        for challenge in [
            "",
            "r=x,s=QSXC,i=1",
            "r=abc,s=QSXC,i=4096",
            "r=abcd,s=QSXC,i=4000000000",
            "r=abcd,s=QSXC,i=0",
            "r=abcd,s=QSXC,i=1",
            "r=abcd,s=QSXC,i=4095",
            "r=abcd,s=QSXC,i=1000001",
            "r=abcd,s=?,i=4096",
            "m=x,r=abcd,s=QSXC,i=4096",
        ] {
            let mut scram = Scram::with_nonce(true, "user", "abc".to_owned()).unwrap();
            assert!(scram.answer(challenge.as_bytes(), b"pencil").is_err(), "{challenge}");
            assert!(scram.verify(b"v=").is_err());
        }
    }
}
