//! What follows a run: an open mutt is woken, and the user's commands are run.
//!
//! Knows nothing of why the run was made.

use crate::account::Mailbox;
use crate::state::last::Change;

/// Sets the mode of `new/` of each changed mailbox to what it is. mutt and
/// neomutt watch only that directory, and the attribute event makes them look
/// at once, where flags and deletions would show at the next key (tried with
/// mutt 2.2.12 and neomutt 20220429). No mtime changes.
pub fn refresh(changes: &[Change], mailboxes: &[Mailbox]) {
    let changed = |mailbox: &&Mailbox| {
        changes.iter().any(|each| each.channel == mailbox.channel && each.mailbox == mailbox.near)
    };
    for maildir in mailboxes.iter().filter(changed).filter_map(|mailbox| mailbox.maildir.as_ref()) {
        let new = maildir.join("new");
        if let Ok(found) = std::fs::metadata(&new) {
            let _ = std::fs::set_permissions(&new, found.permissions());
        }
    }
}
