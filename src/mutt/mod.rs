//! Text for mutt and neomutt: muttrc lines, identities, and the status line.
//!
//! How both clients read a line was observed with mutt 2.2.12 and neomutt
//! 20220429. Only [`mod@print`] reads files. Does not depend on: processes, the
//! state directory.

pub mod identity;
pub mod muttrc;
pub mod print;
pub mod quote;
pub mod statusline;
