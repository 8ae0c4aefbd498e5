//! The IMAP side: every way in and every question, against a real dovecot, and
//! G11, for which a canary is looked for wherever a secret must not be.

mod dovecot;
mod login_memory;
mod secrets;
