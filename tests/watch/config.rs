//! A configuration that changes while it is waited by.

use crate::support::{QUICK, SOON, Waiter, at_rest, code, ms, one_run};
use rig::{Account, Home, Server, message};
use std::thread::sleep;

fn typo_and_fix(args: &[&str]) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mbsync = home.wrap_mbsync();
    home.mutt_sync(&["Home"]).ok();
    let mut waiter = Waiter::start(&home, args);
    waiter.wait_said("connected by", SOON);
    at_rest(&home, &waiter, &mbsync);
    let good = home.read(".mbsyncrc");
    home.write(".mbsyncrc", &good.replace("Patterns *", "Paterns *"));
    waiter.wait_said("the previous configuration stays in use", SOON);
    assert!(waiter.said().contains("Paterns"), "{}", waiter.said());
    // Saved once more, as it is: nothing new to report.
    home.write(".mbsyncrc", &good.replace("Patterns *", "Paterns *"));
    sleep(ms(600));
    assert_eq!(waiter.count("the previous configuration stays in use"), 1);
    assert_eq!(waiter.count("connected by"), 1, "the connection was kept");
    // Corrected, by an editor that writes a new file and renames it.
    home.write("rc.new", &good.replace("Patterns *", "Patterns * !Archive"));
    std::fs::rename(home.path("rc.new"), home.path(".mbsyncrc")).unwrap();
    waiter.wait_count("connected by", 2, SOON);
    at_rest(&home, &waiter, &mbsync);
    let runs = mbsync.runs().len();
    let mut imap = server.imap("home");
    imap.append("Archive", &message("not", "not watched"), &[]);
    sleep(ms(1500));
    assert_eq!(mbsync.runs().len(), runs, "{}", waiter.said());
    imap.append("INBOX", &message("one", "one"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
    if args.contains(&"--loop") {
        waiter.stop();
    } else {
        assert_eq!(code(waiter.end(SOON)), 0);
    }
}

#[test]
fn a_typo_is_reported_once_and_the_fixed_file_is_used_with_loop() {
    typo_and_fix(&["--wait", "--loop", "-v", "Home"]);
}

#[test]
fn a_typo_is_reported_once_and_the_fixed_file_is_used_with_wait() {
    typo_and_fix(&["--wait", "-v", "Home"]);
}

#[test]
fn a_configuration_wrong_at_the_start_is_the_end() {
    let home = Home::with(vec![Account::fake("Home")]);
    home.write(".mbsyncrc", "Chanel Home\n");
    let ended = home.mutt_sync(&["--wait", "Home"]).expect_code(78);
    assert!(ended.stderr.contains("Chanel"), "{ended}");
}

#[test]
fn a_linked_configuration_is_watched_where_it_is() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let text = home.read(".mbsyncrc");
    home.write("dotfiles/mbsyncrc", &text);
    std::fs::remove_file(home.path(".mbsyncrc")).unwrap();
    std::os::unix::fs::symlink(home.path("dotfiles/mbsyncrc"), home.path(".mbsyncrc")).unwrap();
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    home.write("dotfiles/mbsyncrc", &format!("{text}\n# a remark\n"));
    waiter.wait_count("connected by", 2, SOON);
}

/// As `stow -R` replaces it: in two steps, and nothing is written or renamed.
#[test]
fn a_link_to_the_configuration_that_is_made_anew_is_noticed() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let text = home.read(".mbsyncrc");
    home.write("old/mbsyncrc", &text);
    home.write("new/mbsyncrc", &format!("{text}\n# a remark\n"));
    let link = |to: &str| {
        std::fs::remove_file(home.path(".mbsyncrc")).unwrap();
        std::os::unix::fs::symlink(home.path(to), home.path(".mbsyncrc")).unwrap();
    };
    link("old/mbsyncrc");
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    link("new/mbsyncrc");
    waiter.wait_count("connected by", 2, SOON);
}

/// As for every new user, whose `~/.config` may be missing too.
#[test]
fn a_first_config_toml_in_a_new_directory_is_read() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    std::fs::remove_dir_all(home.path(".config")).unwrap();
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    waiter.wait_said("connected by", SOON);
    home.settings("nonsense = 1\n");
    waiter.wait_said("the previous configuration stays in use", SOON);
    assert!(waiter.said().contains("nonsense"), "{}", waiter.said());
    // Removed with its directory, and made anew step by step.
    std::fs::remove_dir_all(home.path(".config/mutt-sync")).unwrap();
    waiter.wait_said("the configuration has changed", SOON);
    waiter.wait_count("connected by", 2, SOON);
    std::fs::create_dir(home.path(".config/mutt-sync")).unwrap();
    sleep(ms(500));
    home.settings(QUICK);
    waiter.wait_count("the configuration has changed", 2, SOON);
    waiter.wait_count("connected by", 3, SOON);
}

#[test]
fn only_the_mailboxes_of_the_setting_are_watched() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(&format!("{QUICK}[account.Home]\nboxes = [\"INBOX\", \"Lists*\"]\n"));
    let mbsync = home.wrap_mbsync();
    let waiter = Waiter::settled(&home, &mbsync);
    let runs = mbsync.runs().len();
    let mut imap = server.imap("home");
    imap.append("Archive", &message("not", "not watched"), &[]);
    home.maildir("Home", "Sent").add(&message("sent", "sent"), "S");
    sleep(ms(1800));
    assert_eq!(mbsync.runs().len(), runs, "{}", waiter.said());
    imap.append("INBOX", &message("one", "one"), &[]);
    assert_eq!(one_run(&mbsync, runs), ["Home:INBOX"]);
}

/// A run of the whole account sets the watches anew: what they had noticed by
/// then is not lost with them.
#[test]
fn a_configuration_edited_during_a_full_run_is_taken_up_after_it() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(QUICK);
    let mut mbsync = home.wrap_mbsync();
    mbsync.hold_at("before");
    let waiter = Waiter::start(&home, &["--wait", "--loop", "-v", "Home"]);
    mbsync.wait_held(1, SOON);
    home.settings(&format!("{QUICK}sweep = \"7m\"\n"));
    mbsync.forget("hold");
    mbsync.release();
    waiter.wait_said("the configuration has changed", SOON);
    waiter.wait_said("connected by", SOON);
}
