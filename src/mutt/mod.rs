//! What mutt and neomutt are told: muttrc lines, identities, and the status line.
//!
//! Knows how both clients read a line (tried with mutt 2.2.12 and neomutt
//! 20220429) and what they do with it. Text over values, but for [`mod@print`],
//! which reads what the others need; none knows processes or the state
//! directory.

pub mod identity;
pub mod muttrc;
pub mod print;
pub mod quote;
pub mod statusline;
