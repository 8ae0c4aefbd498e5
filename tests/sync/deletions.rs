//! A deletion is one run, which reports it and leaves nothing to be done, with
//! isync 1.4, which records it, and with 1.5, which does not.
//!
//! And what looks like one and is none: it stays to be pushed.
#![allow(clippy::unwrap_used)]

use rig::{Account, Home, Imap, Server, message, real_mbsync};
use std::fs;

/// Messages 1 to 6 in INBOX, and one in Archive, synced.
struct Mail {
    _server: Server,
    home: Home,
    imap: Imap,
    uids: Vec<u32>,
}

const BOTH: &str = "Create Both\nExpunge Both\n";

impl Mail {
    fn with(channel: &str) -> Mail {
        let server = Server::start();
        let home = Home::with(vec![Account::on(&server, "Home").channel(channel)]);
        let mut imap = server.imap("home");
        let uids = (1..=6)
            .map(|n| imap.append("INBOX", &message(&format!("m{n}"), &format!("body {n}")), &[]))
            .collect();
        imap.append("Archive", &message("elsewhere", "elsewhere"), &[]);
        home.mutt_sync(&["-f", "Home"]).ok();
        let mail = Mail { _server: server, home, imap, uids };
        mail.is_settled();
        mail
    }

    fn delete_here(&self, number: usize) {
        let inbox = self.home.maildir("Home", "INBOX");
        inbox.delete(&inbox.find(&format!("body {number}")));
    }

    fn delete_there(&mut self, number: usize) {
        self.imap.select("INBOX");
        self.imap.expunge(self.uids[number - 1]);
        self.imap.unselect();
    }

    /// A run of all; what it says, without the time it took.
    fn sync(&self) -> String {
        self.home.age();
        let said = self.home.mutt_sync(&["-f", "Home"]).ok().stdout;
        let (what, _) = said.trim_end().rsplit_once(", ").expect("what and how long");
        what.trim_start_matches("Home: ").to_owned()
    }

    fn status(&self) -> String {
        self.home.mutt_sync(&["--status", "Home"]).ok().stdout
    }

    /// Nothing to push, by every report.
    #[track_caller]
    fn is_settled(&self) {
        let status = self.status();
        assert!(status.starts_with("Home: in sync ("), "{status}");
        let line = self.home.mutt_sync(&["--status-line", "---x---", "Home"]).ok().stdout;
        assert!(!line.contains('^'), "{line}");
    }

    #[track_caller]
    fn is_to_push(&self, what: &str) {
        let status = self.status();
        assert!(status.contains(&format!("Home:INBOX: {what} to push\n")), "{status}");
    }

    /// The messages on both sides, by number: there, and \Deleted.
    fn far(&mut self) -> Vec<(usize, bool)> {
        let all = self.imap.fetch_all("INBOX");
        let number = |uid| self.uids.iter().position(|known| *known == uid).unwrap() + 1;
        all.iter().map(|each| (number(each.uid), each.letters().contains('T'))).collect()
    }

    fn near(&self) -> Vec<(usize, bool)> {
        let inbox = self.home.maildir("Home", "INBOX");
        let of = |number: &usize| {
            let entry = inbox.list().into_iter().find(|entry| {
                fs::read_to_string(&entry.path).unwrap().contains(&format!("body {number}"))
            })?;
            Some((*number, entry.flags.contains('T')))
        };
        (1..=6).collect::<Vec<_>>().iter().filter_map(of).collect()
    }
}

fn all_but(gone: &[usize]) -> Vec<(usize, bool)> {
    (1..=6).filter(|number| !gone.contains(number)).map(|number| (number, false)).collect()
}

#[test]
fn deletion_here_is_one_run() {
    let mut mail = Mail::with(BOTH);
    mail.delete_here(2);
    mail.is_to_push("1 deleted");
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.is_settled();
    assert_eq!(mail.far(), all_but(&[2]));
    // It is reported once: not by the next run, nor by one that records it.
    assert_eq!(mail.sync(), "nothing to do");
    mail.imap.append("INBOX", &message("m7", "new"), &[]);
    assert_eq!(mail.sync(), "INBOX 1 new");
    mail.is_settled();
}

#[test]
fn deletion_there_is_one_run() {
    let mut mail = Mail::with(BOTH);
    mail.delete_there(2);
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.is_settled();
    assert_eq!(mail.near(), all_but(&[2]));
    // Beside something that is recorded elsewhere, and in the same mailbox.
    mail.delete_there(3);
    mail.imap.append("Archive", &message("m7", "new"), &[]);
    assert_eq!(mail.sync(), "INBOX 1 gone, Archive 1 new");
    mail.is_settled();
    mail.delete_there(4);
    mail.imap.append("INBOX", &message("m8", "new"), &[]);
    assert_eq!(mail.sync(), "INBOX 1 new 1 gone");
    mail.is_settled();
    assert_eq!(mail.sync(), "nothing to do");
}

#[test]
fn deletions_on_both_sides_are_one_run() {
    let mut mail = Mail::with(BOTH);
    mail.delete_here(1);
    mail.delete_here(5);
    mail.delete_there(2);
    assert_eq!(mail.sync(), "INBOX 3 gone");
    mail.is_settled();
    assert_eq!((mail.near(), mail.far()), (all_but(&[1, 2, 5]), all_but(&[1, 2, 5])));
    // One after the other, each of them counts once.
    mail.delete_here(3);
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.delete_there(4);
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.is_settled();
    assert_eq!(mail.sync(), "nothing to do");
}

#[test]
fn a_move_is_one_run() {
    let mail = Mail::with(BOTH);
    let (inbox, archive) =
        (mail.home.maildir("Home", "INBOX"), mail.home.maildir("Home", "Archive"));
    inbox.move_to(&inbox.find("body 3"), &archive);
    assert_eq!(mail.sync(), "INBOX 1 gone, Archive 1 pushed");
    mail.is_settled();
    assert_eq!(mail.sync(), "nothing to do");
}

/// Without Expunge messages are made \Deleted, and stay.
#[test]
fn deletion_without_expunge_is_one_run() {
    without_expunge(Mail::with("Create Both\n"));
}

/// The setting is newer than the Maildir: mbsync goes on with the UIDs in the names.
#[test]
fn deletion_with_alt_map_over_numbered_files_is_one_run() {
    let mail = Mail::with("Create Both\n");
    let config = mail.home.read(".mbsyncrc");
    let near = "MaildirStore Home-near\n";
    assert_eq!(config.matches(near).count(), 1, "{config}");
    mail.home.write(".mbsyncrc", &config.replace(near, &format!("{near}AltMap yes\n")));
    without_expunge(mail);
}

fn without_expunge(mut mail: Mail) {
    mail.delete_here(2);
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.is_settled();
    let mut far = all_but(&[]);
    far[1].1 = true;
    assert_eq!(mail.far(), far);
    mail.delete_there(4);
    assert_eq!(mail.sync(), "INBOX 1 gone");
    mail.is_settled();
    let mut near = all_but(&[2]);
    near[2].1 = true;
    assert_eq!(mail.near(), near);
    assert_eq!(mail.sync(), "nothing to do");
    mail.is_settled();
}

/// Runs this shell script in place of mbsync, `$REAL` being the real one.
fn in_place_of_mbsync(mail: &Mail, script: &str) {
    let real = real_mbsync().display().to_string();
    let version = format!("case \"$1\" in --version) exec {real} --version ;; esac\n");
    mail.home.program("mbsync", &format!("REAL={real}\n{version}{script}"));
}

/// The file of a message.
fn file(mail: &Mail, number: usize) -> String {
    let entry = mail.home.maildir("Home", "INBOX").find(&format!("body {number}"));
    entry.path.display().to_string()
}

/// A user deletes while a run is under way, after mbsync has read the Maildir: the
/// message is still on the server.
#[test]
fn deletion_during_a_run_stays_to_be_pushed() {
    for (there, here) in [(None, None), (Some(2), None), (None, Some(3)), (Some(2), Some(3))] {
        let mut mail = Mail::with(BOTH);
        let meanwhile = file(&mail, 5);
        in_place_of_mbsync(
            &mail,
            &format!("\"$REAL\" \"$@\"\ncode=$?\nrm '{meanwhile}'\nexit $code"),
        );
        if let Some(number) = there {
            mail.delete_there(number);
        }
        if let Some(number) = here {
            mail.delete_here(number);
        }
        // Whatever differs.
        mail.home.mutt_sync(&["--full", "Home"]).ok();
        let status = mail.status();
        assert!(
            status.contains("Home:INBOX: ") && status.contains(" to push\n"),
            "{there:?} {here:?}: {status}"
        );
        assert!(mail.far().contains(&(5, false)));
        fs::remove_file(mail.home.path("bin/mbsync")).unwrap();
        mail.sync();
        mail.is_settled();
        let gone: Vec<usize> = [there, here, Some(5)].into_iter().flatten().collect();
        assert_eq!(mail.far(), all_but(&gone));
    }
}

/// Nothing was pushed, whatever the exit status says.
#[test]
fn a_run_that_did_not_sync_the_mailbox_settles_nothing() {
    for script in [
        // A wrapper that does nothing without a network.
        "exit 0",
        // One that leaves the mailbox out.
        "for last; do :; done\nset -- \"$1\" \"$2\" \"$3\" -- Home:Archive\nexec \"$REAL\" \"$@\"",
    ] {
        let mut mail = Mail::with(BOTH);
        in_place_of_mbsync(&mail, script);
        mail.delete_here(2);
        mail.home.age();
        mail.home.mutt_sync(&["-f", "Home"]);
        mail.is_to_push("1 deleted");
        assert!(mail.far().contains(&(2, false)), "{script}");
        fs::remove_file(mail.home.path("bin/mbsync")).unwrap();
        mail.sync();
        mail.is_settled();
        assert_eq!(mail.far(), all_but(&[2]));
    }
}

/// What was kept of a run is lost, or is nonsense: one run more, never one less.
#[test]
fn without_what_was_kept_a_deletion_is_found_again() {
    for nonsense in [None, Some("{\"Home\\nINBOX\": {\"gone\": \"1:*\"}}"), Some("{}"), Some("\0")]
    {
        let mail = Mail::with(BOTH);
        mail.delete_here(2);
        mail.sync();
        let kept = mail.home.state("Home").join("gone.json");
        let recorded = !kept.exists();
        match nonsense {
            Some(text) => fs::write(&kept, text).unwrap(),
            None if recorded => {}
            None => fs::remove_file(&kept).unwrap(),
        }
        // isync 1.4 has recorded it.
        if !recorded {
            // There, if a report has found the stamps to be old enough.
            let _ = fs::remove_file(mail.home.state("Home").join("seen.json"));
            mail.is_to_push("1 deleted");
            mail.sync();
        }
        mail.is_settled();
    }
}

/// A record from a backup names messages that are there again.
#[test]
fn what_was_kept_is_of_one_record_alone() {
    let mut mail = Mail::with(BOTH);
    let record = mail.home.maildir("Home", "INBOX").path().join(".mbsyncstate");
    let old = fs::read(&record).unwrap();
    mail.delete_here(2);
    mail.sync();
    mail.is_settled();
    fs::remove_file(&record).unwrap();
    fs::write(&record, old).unwrap();
    mail.is_to_push("1 deleted");
    mail.sync();
    mail.is_settled();
    assert_eq!(mail.far(), all_but(&[2]));
}
