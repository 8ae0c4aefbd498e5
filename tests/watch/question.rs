//! The question before a run, answered by a waiter; and what a server that lies or
//! refuses can make of it, with a waiter and without one.

use crate::support::{Mangle, QUICK, SOON, Waiter, at_rest, ms, secs};
use rig::{
    Account, Delay, Home, Imap, Mbsync, Output, Server, ServerOptions, compare, message, run,
    wait_until,
};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Instant;

const NOTHING: &str = "Home: nothing to do";

/// A user with a waiter that is in step.
struct Watched {
    waiter: Waiter,
    mbsync: Mbsync,
    imap: Imap,
    link: Delay,
    home: Home,
    server: Server,
}

impl Watched {
    fn new(options: ServerOptions) -> Watched {
        let server = Server::with(options);
        let link = Delay::to(server.port(), ms(0));
        let home = Home::with(vec![Account::on(&server, "Home").port(link.port())]);
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        imap.append("INBOX", &message("one", "one"), &[]);
        home.mutt_sync(&["Home"]).ok();
        let waiter = Waiter::settled(&home, &mbsync);
        Watched { waiter, mbsync, imap, link, home, server }
    }

    fn names_since(&self, before: usize) -> Vec<String> {
        let runs = self.mbsync.runs();
        runs[before..].iter().flat_map(|run| run.names()).map(str::to_owned).collect()
    }

    /// A command, and what mbsync was asked for since `before`.
    #[track_caller]
    fn sync_since(&self, before: usize) -> (Output, Vec<String>) {
        let said = self.home.mutt_sync(&["Home"]);
        (said, self.names_since(before))
    }

    #[track_caller]
    fn nothing_to_do(&self) {
        let before = self.mbsync.runs().len();
        let (said, names) = self.sync_since(before);
        assert_eq!(names, [""; 0], "{said}{}", self.waiter.said());
        assert!(said.ok().stdout.starts_with(NOTHING));
    }

    /// The next command has all of it done, by itself or by the waiter.
    #[track_caller]
    fn all_is_carried(&mut self) {
        self.home.mutt_sync(&["Home"]).ok();
        compare(&mut self.imap, &self.home.mail("Home")).unwrap();
    }
}

fn without(capabilities: &[&str], notify: bool) -> ServerOptions {
    let without = capabilities.iter().map(ToString::to_string).collect();
    ServerOptions { without, notify, ..ServerOptions::default() }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").args([from, to]), SOON).ok();
}

/// The files of a Maildir as they were, in place: the directory is the one that is
/// watched, or a new one.
fn restore(copied: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(copied, to);
}

/// Many commands, by one connection that is there already.
#[test]
fn g5_a_command_that_a_waiter_answers_costs_no_login_and_no_run() {
    for (capabilities, notify) in [
        (&[][..], true),
        (&["NOTIFY"], false),
        (&["NOTIFY", "LIST-STATUS"], false),
        (&["NOTIFY", "IDLE"], false),
    ] {
        let mut it = Watched::new(without(capabilities, notify));
        let logins = it.server.logins("home");
        for _ in 0..8 {
            it.nothing_to_do();
        }
        assert_eq!(it.server.logins("home"), logins, "{capabilities:?}");
        // What came a moment ago, and may not have been reported: the command's answer
        // has it.
        let before = it.mbsync.runs().len();
        it.imap.append("Archive", &message("two", "two"), &[]);
        let (said, names) = it.sync_since(before);
        said.ok();
        assert_eq!(names, ["Home:Archive"], "{capabilities:?}\n{}", it.waiter.said());
        it.home.maildir("Home", "Archive").find("two");
        let inbox = it.home.maildir("Home", "INBOX");
        let before = it.mbsync.runs().len();
        inbox.set_flags(&inbox.find("one"), "FS");
        let (said, names) = it.sync_since(before);
        said.ok();
        assert_eq!(names, ["Home:INBOX"], "{capabilities:?}\n{}", it.waiter.said());
        compare(&mut it.imap, &it.home.mail("Home")).unwrap();
        assert_eq!(it.server.logins("home"), logins, "{capabilities:?}");
    }
}

/// No number of the server's tells of a flag.
#[test]
fn g7_a_command_finds_a_flag_without_condstore_with_a_waiter() {
    let mut it = Watched::new(without(&["NOTIFY", "CONDSTORE", "QRESYNC"], false));
    for mailbox in ["Archive", "INBOX"] {
        let uid = it.imap.append(mailbox, &message("two", "two"), &[]);
        it.all_is_carried();
        at_rest(&it.home, &it.waiter, &it.mbsync);
        it.imap.select(mailbox);
        it.imap.add_flags(uid, &["\\Flagged"]);
        it.imap.unselect();
        it.all_is_carried();
        assert_eq!(it.home.maildir("Home", mailbox).find("two").flags, "F", "{mailbox}");
    }
}

/// Field report M0: a waiter called a Maildir clean that was put back.
#[test]
fn g7_a_maildir_from_a_backup_gets_back_what_it_lacks_with_a_waiter() {
    let mut it = Watched::new(ServerOptions::default());
    let (inbox, copied) = (it.home.mail("Home").join("INBOX"), it.home.path("copied"));
    copy(&inbox, &copied);
    it.imap.append("INBOX", &message("two", "two"), &[]);
    it.all_is_carried();
    at_rest(&it.home, &it.waiter, &it.mbsync);
    restore(&copied, &inbox);
    it.all_is_carried();
    it.home.maildir("Home", "INBOX").find("two");
    at_rest(&it.home, &it.waiter, &it.mbsync);
    it.nothing_to_do();
}

#[test]
fn g7_a_record_and_a_state_directory_from_a_backup_hide_nothing_from_a_waiter() {
    let mut it = Watched::new(ServerOptions::default());
    let record = it.home.mail("Home").join("INBOX/.mbsyncstate");
    let seen = it.home.state("Home").join("seen.json");
    let copied = it.home.path("copied");
    fs::create_dir(&copied).unwrap();
    for place in [&record, &seen] {
        copy(place, &copied.join(place.file_name().unwrap()));
    }
    let uid = it.imap.find("INBOX", "one").uid;
    it.imap.select("INBOX");
    it.imap.add_flags(uid, &["\\Flagged"]);
    it.imap.unselect();
    it.all_is_carried();
    at_rest(&it.home, &it.waiter, &it.mbsync);
    for place in [&record, &seen] {
        fs::remove_file(place).unwrap();
        copy(&copied.join(place.file_name().unwrap()), place);
    }
    let before = it.mbsync.runs().len();
    it.all_is_carried();
    assert_eq!(it.names_since(before), ["Home:INBOX"], "{}", it.waiter.said());
}

#[test]
fn g7_mbsync_by_hand_beside_a_waiter_hides_nothing() {
    let mut it = Watched::new(ServerOptions::default());
    it.imap.append("INBOX", &message("two", "two"), &[]);
    // It may meet the waiter's: mbsync has a lock of its own.
    it.home.mbsync(&["Home"]);
    it.all_is_carried();
    it.imap.append("INBOX", &message("three", "three"), &[]);
    it.imap.append("Archive", &message("four", "four"), &[]);
    it.home.mbsync(&["Home:Archive"]);
    it.all_is_carried();
    for round in 0..rig::count(6, 60) {
        let subject = format!("mail {round}");
        it.imap.append("INBOX", &message(&subject, &subject), &[]);
        let mut mbsync = it.home.command(rig::real_mbsync());
        let mut child = rig::spawn(mbsync.args(["-q", "Home"])).unwrap();
        sleep(ms(10 * (round as u64 % 8)));
        let _ = (child.kill(), child.wait());
        wait_until(SOON, "the waiter or the command brings it", || {
            it.home.mutt_sync(&["-f", "Home"]).code() == 0
                && compare(&mut it.imap, &it.home.mail("Home")).is_ok()
        });
    }
    assert_eq!(it.home.maildir("Home", "INBOX").len(), 3 + rig::count(6, 60));
}

#[test]
fn g7_a_mailbox_on_one_side_only_is_never_passed_over_with_a_waiter() {
    for notify in [true, false] {
        let options = ServerOptions { notify, ..ServerOptions::default() };
        let mut it = Watched::new(options);
        it.imap.create("There");
        it.imap.append("There", &message("two", "two"), &[]);
        it.home.mutt_sync(&["Home"]).ok();
        it.home.maildir("Home", "There").find("two");
        let here = it.home.maildir("Home", "Here").create();
        here.add(&message("three", "three"), "S");
        it.home.mutt_sync(&["Home"]).ok();
        it.imap.find("Here", "three");
        it.imap.delete("There");
        let before = it.mbsync.runs().len();
        // While the waiter connects anew, a run is made blindly, and the next one waits.
        let said = it.home.mutt_sync(&["-f", "Home"]);
        let ran = it.names_since(before).iter().any(|name| name.contains("There"));
        assert!(ran || said.code() != 0, "{said}{}", it.waiter.said());
        assert_eq!(it.home.maildir("Home", "There").len(), 1);
    }
}

/// The waiter believes that it is in step, and hears nothing any more.
#[test]
fn g7_a_command_does_not_believe_a_waiter_whose_connection_is_dead() {
    for notify in [true, false] {
        let mut it = Watched::new(ServerOptions { notify, ..ServerOptions::default() });
        it.link.stall();
        it.imap.append("INBOX", &message("two", "two"), &[]);
        // The way is another one now, which the waiter's connection does not know.
        let other = Account::on(&it.server, "Home").sections();
        let file = it.home.write("other.mbsyncrc", &format!("FSync no\n\n{other}"));
        let begun = Instant::now();
        let said = it.home.mutt_sync(&["--mbsyncrc", file.to_str().unwrap(), "Home"]).ok();
        assert!(!said.stdout.starts_with(NOTHING), "{said}{}", it.waiter.said());
        assert!(begun.elapsed() < secs(10), "{:?}, {}", begun.elapsed(), it.waiter.said());
        it.home.maildir("Home", "INBOX").find("two");
    }
}

/// A hook with everything in step.
#[test]
fn g5_hooks_in_step_leave_no_run_and_no_mark() {
    for notify in [true, false] {
        let it = Watched::new(ServerOptions { notify, ..ServerOptions::default() });
        it.link.set_round_trip(ms(40));
        let (runs, logins) = (it.mbsync.runs().len(), it.server.logins("home"));
        let line = |when: &str| {
            let said = it.home.mutt_sync(&["--status-line", "line"]).ok().stdout;
            assert_eq!(said, "line\n", "{when}: {}", it.waiter.said());
        };
        for hook in 0..12 {
            it.home.mutt_sync(&["-b", "Home"]).ok();
            let begun = Instant::now();
            while begun.elapsed() < ms(if hook % 3 == 0 { 700 } else { 60 }) {
                line(&format!("hook {hook}, after {:?}", begun.elapsed()));
                sleep(ms(5));
            }
        }
        wait_until(secs(2), "the requests are served", || it.home.requests("Home").is_empty());
        sleep(ms(300));
        assert_eq!(it.mbsync.runs().len(), runs, "{}", it.waiter.said());
        assert_eq!(it.server.logins("home"), logins);
    }
}

/// A mark that is one: the request waits, or mbsync runs, or a change is not pushed. What is
/// over in less than two seconds would stay in the line until a key.
#[test]
fn the_status_line_shows_what_has_lasted_for_two_seconds() {
    let mut it = Watched::new(ServerOptions::default());
    let line = || it.home.mutt_sync(&["--status-line", "line"]).ok().stdout;
    let shown = |since: Instant, mark: &str| {
        wait_until(SOON, mark, || line().contains(mark));
        // The time stamps of files are a few milliseconds old.
        assert!(since.elapsed() >= ms(1990), "{mark} after {:?}", since.elapsed());
    };
    it.mbsync.hold_at("before");
    let since = Instant::now();
    it.imap.append("INBOX", &message("two", "two"), &[]);
    shown(since, "[*]");
    let since = Instant::now();
    let inbox = it.home.maildir("Home", "INBOX");
    inbox.set_flags(&inbox.find("one"), "FS");
    shown(since, "[*^1]");
    it.home.mutt_sync(&["-b", "Home"]).ok();
    it.mbsync.release();
    at_rest(&it.home, &it.waiter, &it.mbsync);
    assert_eq!(line(), "line\n");
    // The waiter cannot answer.
    it.link.stall();
    let since = Instant::now();
    it.home.mutt_sync(&["-b", "Home"]).ok();
    shown(since, "[~]");
    it.link.flow();
    wait_until(SOON, "it is served", || line() == "line\n");
}

/// Without a loop each event is a process; a login for each would be a mail a second.
#[test]
fn g4_wait_in_a_loop_logs_in_within_the_budget() {
    let (settings, seconds, throttle) =
        if rig::soak() { ("", 600, 60) } else { ("throttle = \"3s\"\n", 12, 3) };
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    home.settings(settings);
    let mut imap = server.imap("home");
    home.mutt_sync(&["Home"]).ok();
    let begun = Instant::now();
    let log = home.path("loop.log");
    let program = rig::mutt_sync().display();
    let script = format!("while '{program}' --wait -v Home; do :; done 2>'{}'", log.display());
    let mut command = home.command("sh");
    command.args(["-c", &script]);
    let _shell = rig::Running::start(command);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_until(SOON, "it is connected", || said().contains("connected by"));
    let inbox = home.maildir("Home", "INBOX");
    for mail in 0..seconds {
        let subject = format!("mail {mail}");
        imap.append("INBOX", &message(&subject, &subject), &[]);
        sleep(secs(1));
    }
    wait_until(secs(throttle + 10), "all mail is here", || {
        u64::try_from(inbox.len()).unwrap() == seconds
    });
    let logins = server.logins("home") - 1;
    let most = 4 + usize::try_from(begun.elapsed().as_secs() / throttle).unwrap() + 1;
    assert!((1..=most).contains(&logins), "{logins} logins, at most {most}\n{}", said());
}

/// A server that is made a bad one between two commands, while mail comes.
fn bad_server(
    capabilities: &[&str],
    with_waiter: bool,
    answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
    rewrite: impl Fn(&str, bool) -> Option<String> + Send + Sync + 'static,
) {
    bad_server_and(capabilities, with_waiter, answer, rewrite, |imap, home| {
        imap.append("Archive", &message("two", "two"), &[]);
        let said = home.mutt_sync(&["-f", "Home"]);
        let here = home.maildir("Home", "Archive").len() == 2;
        assert!(here || said.code() != 0 && !said.stderr.is_empty(), "{capabilities:?} {said}");
    });
}

fn bad_server_and(
    capabilities: &[&str],
    with_waiter: bool,
    answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
    rewrite: impl Fn(&str, bool) -> Option<String> + Send + Sync + 'static,
    then: impl FnOnce(&mut Imap, &Home),
) {
    let mut options = without(capabilities, !capabilities.contains(&"NOTIFY"));
    options.without.push("COMPRESS=DEFLATE".to_owned());
    let server = Server::with(options);
    let bad = Arc::new(AtomicBool::new(false));
    let (asked, said) = (Arc::clone(&bad), Arc::clone(&bad));
    let mangle = Mangle::to(
        server.port(),
        move |tag, command| answer(tag, command).filter(|_| asked.load(Ordering::SeqCst)),
        move |line, idling| rewrite(line, idling).filter(|_| said.load(Ordering::SeqCst)),
    );
    let home = Home::with(vec![Account::on(&server, "Home").port(mangle.port)]);
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    for mailbox in ["INBOX", "Archive"] {
        imap.append(mailbox, &message("one", "one"), &[]);
    }
    home.mutt_sync(&["Home"]).ok();
    home.mutt_sync(&["Home"]).ok();
    let waiter = with_waiter.then(|| Waiter::settled(&home, &mbsync));
    bad.store(true, Ordering::SeqCst);
    then(&mut imap, &home);
    drop(waiter);
}

const NO_LIST_STATUS: &[&str] = &["LIST-STATUS", "NOTIFY"];

/// An upgrade takes mbsync away: each run fails, and the connection stays.
#[test]
fn g4_a_command_leaves_nothing_behind_that_passes_over_the_backoff() {
    let mut it = Watched::new(ServerOptions::default());
    let program = it.home.program("program", "exec mbsync \"$@\"");
    it.home.settings(&format!("{QUICK}handover = false\nmbsync = \"{}\"\n", program.display()));
    it.waiter.wait_count("connected by", 2, SOON);
    fs::remove_file(&program).unwrap();
    it.imap.append("INBOX", &message("two", "two"), &[]);
    let tries = || it.waiter.said().matches("running ").count();
    wait_until(SOON, "a try", || it.waiter.said().contains(": not found"));
    assert_eq!(tries(), 1, "{}", it.waiter.said());
    // Without a terminal it waits for its time like the waiter.
    for _ in 0..2 {
        assert_ne!(it.home.mutt_sync(&["Home"]).code(), 0);
    }
    let status = it.home.mutt_sync(&["--status", "Home"]).ok().stdout;
    assert!(status.contains("  tried again in ") && !status.contains("about to be"), "{status}");
    sleep(secs(4));
    assert_eq!(tries(), 1, "{}", it.waiter.said());
    // Not so with -f; and the try after it is again the waiter's.
    assert_ne!(it.home.mutt_sync(&["-f", "Home"]).code(), 0);
    let after = tries();
    assert!(!it.home.state("Home").join("run/=foreground").exists());
    sleep(secs(4));
    assert_eq!(tries(), after, "{}", it.waiter.said());
}

#[test]
fn bad_input_status_answered_no_is_never_a_skip() {
    for with_waiter in [false, true] {
        bad_server(
            NO_LIST_STATUS,
            with_waiter,
            |tag, command| {
                let refused = command.starts_with("STATUS") && command.contains("Archive");
                refused.then(|| format!("{tag} NO not today\r\n"))
            },
            |_, _| None,
        );
    }
}

#[test]
fn bad_input_list_status_answered_bad_is_never_a_skip() {
    for with_waiter in [false, true] {
        bad_server(
            &["NOTIFY"],
            with_waiter,
            |tag, command| {
                let refused = command.starts_with("LIST") && command.contains("STATUS");
                refused.then(|| format!("{tag} BAD what is that\r\n"))
            },
            |_, _| None,
        );
    }
}

#[test]
fn bad_input_a_mailbox_left_out_is_never_a_skip() {
    let left_out = |line: &str, _: bool| {
        let of_archive = line.contains("Archive");
        let left_out = line.starts_with("* STATUS") || line.starts_with("* LIST");
        (of_archive && left_out).then(String::new)
    };
    let status_only = |line: &str, _: bool| {
        (line.contains("Archive") && line.starts_with("* STATUS")).then(String::new)
    };
    for with_waiter in [false, true] {
        for capabilities in [&["NOTIFY"][..], NO_LIST_STATUS] {
            bad_server(capabilities, with_waiter, |_, _| None, left_out);
            bad_server(capabilities, with_waiter, |_, _| None, status_only);
        }
    }
}

#[test]
fn bad_input_another_uidvalidity_is_never_a_skip() {
    for with_waiter in [false, true] {
        for capabilities in [&["NOTIFY"][..], NO_LIST_STATUS] {
            bad_server(
                capabilities,
                with_waiter,
                |_, _| None,
                |line, _| {
                    let (before, after) = line.split_once("UIDVALIDITY ")?;
                    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
                    let of_archive = line.contains("Archive") || line.starts_with("* OK [");
                    of_archive.then(|| format!("{before}UIDVALIDITY 17{rest}"))
                },
            );
        }
    }
}

/// STATUS that shows no change of a flag, from a server that has shown them.
#[test]
fn bad_input_a_modseq_left_out_is_never_a_skip() {
    for with_waiter in [false, true] {
        for capabilities in [&["NOTIFY"][..], NO_LIST_STATUS] {
            bad_server_and(
                capabilities,
                with_waiter,
                |_, _| None,
                |line, _| {
                    let (before, after) = line.split_once(" HIGHESTMODSEQ ")?;
                    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
                    line.starts_with("* STATUS").then(|| format!("{before}{rest}"))
                },
                |imap, home| {
                    let uid = imap.find("Archive", "one").uid;
                    imap.select("Archive");
                    imap.add_flags(uid, &["\\Flagged"]);
                    imap.unselect();
                    home.mutt_sync(&["-f", "Home"]).ok();
                    assert_eq!(home.maildir("Home", "Archive").find("one").flags, "F");
                },
            );
        }
    }
}

#[test]
fn g2_a_mistyped_mailbox_is_forgotten_by_a_waiter() {
    for notify in [true, false] {
        let it = Watched::new(ServerOptions { notify, ..ServerOptions::default() });
        let runs = it.mbsync.runs().len();
        let said = it.home.mutt_sync(&["Home:Lsts"]).expect_code(1);
        assert!(said.stderr.contains("`Lsts` is neither here nor on the server"), "{said}");
        assert_eq!(it.home.requests("Home"), [""; 0]);
        assert_eq!(it.mbsync.runs().len(), runs);
    }
}
