//! The question before a run, by a command that has no waiter: what it costs, what
//! it finds, and that it skips nothing. At default settings where nothing else is
//! said; `-f`, because a test has no terminal.

use rig::{
    Account, Delay, Home, Imap, Mbsync, Running, Seeded, Server, ServerOptions, Signal, Terminal,
    compare, count, message, process, run, spawn, wait_until,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const NOTHING: &str = "Home: nothing to do";

/// A user who has synced once, with one message in INBOX.
struct Rig {
    mbsync: Mbsync,
    imap: Imap,
    link: Delay,
    home: Home,
    server: Server,
    first: u32,
}

/// What commands have cost.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    connections: usize,
    logins: usize,
    passwords: usize,
    runs: usize,
}

impl Rig {
    fn new() -> Rig {
        Rig::without(&[])
    }

    fn without(capabilities: &[&str]) -> Rig {
        let without = capabilities.iter().map(ToString::to_string).collect();
        Rig::with(ServerOptions { without, ..ServerOptions::default() }, "")
    }

    fn with(options: ServerOptions, settings: &str) -> Rig {
        let server = Server::with(options);
        let link = Delay::to(server.port(), Duration::ZERO);
        let pass = format!("echo asked >>$HOME/asked; echo {}", server.password("home"));
        let home = Home::with(vec![Account::on(&server, "Home").port(link.port()).pass_cmd(&pass)]);
        home.settings(settings);
        let mbsync = home.wrap_mbsync();
        let mut imap = server.imap("home");
        let first = imap.append("INBOX", &message("one", "one"), &[]);
        home.mutt_sync(&["-f", "Home"]).ok();
        Rig { mbsync, imap, link, home, server, first }
    }

    /// What all commands so far have cost.
    fn cost(&self) -> Cost {
        Cost {
            connections: self.link.connections(),
            logins: self.server.logins("home"),
            passwords: self.home.read("asked").lines().count(),
            runs: self.mbsync.runs().len(),
        }
    }

    fn names_since(&self, before: usize) -> Vec<String> {
        self.mbsync.runs()[before..].iter().flat_map(|run| run.names()).map(sorted).collect()
    }

    /// Syncs, and gives what mbsync was asked for.
    #[track_caller]
    fn sync(&self) -> Vec<String> {
        let before = self.mbsync.runs().len();
        self.home.mutt_sync(&["-f", "Home"]).ok();
        self.names_since(before)
    }

    #[track_caller]
    fn nothing_to_do(&self) {
        let before = self.mbsync.runs().len();
        let said = self.home.mutt_sync(&["-f", "-v", "Home"]).ok();
        assert_eq!(self.names_since(before), [""; 0], "{said}");
        assert!(said.stdout.starts_with(NOTHING), "{said}");
    }

    #[track_caller]
    fn in_step(&mut self) {
        compare(&mut self.imap, &self.home.mail("Home")).unwrap();
    }

    fn deliver(&mut self, subject: &str) -> u32 {
        self.imap.append("INBOX", &message(subject, subject), &[])
    }

    fn set_far(&mut self, uid: u32, flag: &str) {
        self.imap.select("INBOX");
        self.imap.add_flags(uid, &[flag]);
        self.imap.unselect();
    }

    fn expunge_far(&mut self, uid: u32) {
        self.imap.select("INBOX");
        self.imap.expunge(uid);
        self.imap.unselect();
    }

    fn set_near(&self, subject: &str, flags: &str) {
        let inbox = self.home.maildir("Home", "INBOX");
        inbox.set_flags(&inbox.find(subject), flags);
    }
}

/// A user whose channel has these prefixes, and who has synced once.
fn below_prefixes(far: &str, near: &str) -> (Server, Home, Mbsync) {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let sections = home.read(".mbsyncrc");
    let sections = sections.replace(":Home-far:\n", &format!(":Home-far:{far}\n"));
    home.write(".mbsyncrc", &sections.replace(":Home-near:\n", &format!(":Home-near:{near}\n")));
    let mbsync = home.wrap_mbsync();
    server.imap("home").create("Lists/one");
    home.mutt_sync(&["-f", "Home"]).ok();
    (server, home, mbsync)
}

/// The mailboxes in the order of their names.
fn sorted(word: &str) -> String {
    let Some((channel, boxes)) = word.split_once(':') else { return word.to_owned() };
    let mut boxes: Vec<&str> = boxes.split(',').collect();
    boxes.sort_unstable();
    format!("{channel}:{}", boxes.join(","))
}

/// An exact copy, times and all: what a backup is.
fn backup(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").args([from, to]), LIMIT).ok();
}

/// The copy in the place of what is there now.
fn restore(copy: &Path, to: &Path) {
    fs::remove_dir_all(to).or_else(|_| fs::remove_file(to)).unwrap();
    backup(copy, to);
}

#[test]
fn g2_a_sync_costs_one_login_and_runs_mbsync_for_what_differs() {
    let mut it = Rig::new();
    assert_eq!(it.cost(), Cost { connections: 1, logins: 1, passwords: 1, runs: 1 });
    it.nothing_to_do();
    it.nothing_to_do();
    assert_eq!(it.cost(), Cost { connections: 3, logins: 3, passwords: 3, runs: 1 });
    it.imap.append("Archive", &message("two", "two"), &[]);
    assert_eq!(it.sync(), ["Home:Archive"]);
    it.set_near("one", "FS");
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.deliver("three");
    let sent = it.home.maildir("Home", "Sent");
    sent.add(&message("four", "four"), "S");
    assert_eq!(it.sync(), ["Home:INBOX,Sent"]);
    assert_eq!(it.cost(), Cost { connections: 6, logins: 6, passwords: 6, runs: 4 });
    it.in_step();
    // A mailbox, a group: no more is asked about, and none of it differs.
    it.deliver("five");
    for name in ["Home:Archive", "Home:Sent,Drafts"] {
        let said = it.home.mutt_sync(&["-f", name]).ok();
        assert!(said.stdout.starts_with(NOTHING), "{said}");
    }
    let before = it.mbsync.runs().len();
    it.home.mutt_sync(&["-f", "Home-frequent"]).ok();
    assert_eq!(it.names_since(before), ["Home:INBOX"]);
    assert_eq!(it.cost(), Cost { connections: 9, logins: 9, passwords: 9, runs: 5 });
    it.home.wait_no_leftovers(LIMIT);
}

/// Each kind of change on either side, one after the other.
fn every_change(without: &[&str]) {
    let mut it = Rig::without(without);
    it.nothing_to_do();
    let inbox = ["Home:INBOX"];
    let first = it.first;
    it.set_far(first, "\\Flagged");
    assert_eq!(it.sync(), inbox, "a flag that was set there, {without:?}");
    let second = it.deliver("two");
    assert_eq!(it.sync(), inbox, "a delivery, {without:?}");
    it.expunge_far(second);
    assert_eq!(it.sync(), inbox, "an expunge, {without:?}");
    // The counts are as before, the messages are not.
    it.expunge_far(first);
    it.deliver("three");
    assert_eq!(it.sync(), inbox, "one came and one went, {without:?}");
    it.in_step();
    it.set_near("three", "RS");
    assert_eq!(it.sync(), inbox, "a flag that was set here, {without:?}");
    let entry = it.home.maildir("Home", "INBOX").find("three");
    it.home.maildir("Home", "INBOX").delete(&entry);
    assert_eq!(it.sync(), inbox, "a deletion here, {without:?}");
    it.nothing_to_do();
    it.in_step();
}

#[test]
fn g7_each_change_is_found_by_the_next_command() {
    every_change(&[]);
}

#[test]
fn g7_each_change_is_found_without_condstore() {
    every_change(&["CONDSTORE", "QRESYNC"]);
}

#[test]
fn g7_each_change_is_found_without_list_status() {
    every_change(&["LIST-STATUS", "LIST-EXTENDED"]);
}

#[test]
fn g7_each_change_is_found_where_the_server_has_little() {
    let little = ["CONDSTORE", "QRESYNC", "LIST-STATUS", "LIST-EXTENDED", "ESEARCH", "UNSELECT"];
    every_change(&little);
}

/// Field report M0: a Maildir that was put back was called clean.
#[test]
fn g7_a_maildir_from_a_backup_gets_back_what_it_lacks() {
    let mut it = Rig::new();
    let (inbox, copy) = (it.home.mail("Home").join("INBOX"), it.home.path("copy"));
    it.nothing_to_do();
    backup(&inbox, &copy);
    it.deliver("two");
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.nothing_to_do();
    restore(&copy, &inbox);
    assert_eq!(it.home.maildir("Home", "INBOX").len(), 1);
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.home.maildir("Home", "INBOX").find("two");
    it.in_step();
    it.nothing_to_do();
}

#[test]
fn g7_a_record_from_a_backup_is_judged_anew() {
    let mut it = Rig::new();
    let (record, copy) = (it.home.mail("Home").join("INBOX/.mbsyncstate"), it.home.path("copy"));
    it.nothing_to_do();
    backup(&record, &copy);
    let first = it.first;
    it.set_far(first, "\\Flagged");
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.nothing_to_do();
    restore(&copy, &record);
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.in_step();
}

/// With and without the mail that belongs to it.
#[test]
fn g7_a_state_directory_from_a_backup_hides_no_change() {
    for with_mail in [false, true] {
        let mut it = Rig::new();
        let places = [it.home.state("Home"), it.home.mail("Home")];
        let copies = [it.home.path("state"), it.home.path("mail")];
        it.nothing_to_do();
        for (place, copy) in places.iter().zip(&copies) {
            backup(place, copy);
        }
        let second = it.deliver("two");
        assert_eq!(it.sync(), ["Home:INBOX"]);
        it.set_far(second, "\\Seen");
        it.set_near("one", "FS");
        assert_eq!(it.sync(), ["Home:INBOX"]);
        let restored = if with_mail { 2 } else { 1 };
        for (place, copy) in places.iter().zip(&copies).take(restored) {
            restore(copy, place);
        }
        let expected: &[&str] = if with_mail { &["Home:INBOX"] } else { &[] };
        assert_eq!(it.sync(), expected);
        it.in_step();
        assert_eq!(it.home.maildir("Home", "INBOX").len(), 2);
        it.deliver("three");
        assert_eq!(it.sync(), ["Home:INBOX"]);
        it.in_step();
        it.nothing_to_do();
    }
}

#[test]
fn g7_mbsync_by_hand_between_two_commands_hides_no_change() {
    let mut it = Rig::with(ServerOptions::default(), "throttle = \"0s\"\n");
    it.nothing_to_do();
    // The whole account, and a change after it.
    it.deliver("two");
    it.home.mbsync(&["Home"]).ok();
    it.nothing_to_do();
    it.deliver("three");
    it.home.mbsync(&["Home"]).ok();
    let first = it.first;
    it.set_far(first, "\\Flagged");
    assert_eq!(it.sync(), ["Home:INBOX"]);
    // A part of it.
    it.imap.append("Archive", &message("four", "four"), &[]);
    it.deliver("five");
    it.home.mbsync(&["Home:Archive"]).ok();
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.in_step();
    // Only one way: the flag is left.
    it.deliver("six");
    it.set_near("one", "");
    it.home.mbsync(&["--pull", "Home"]).ok();
    assert_eq!(it.sync(), ["Home:INBOX"]);
    it.in_step();
    // Killed, at any moment of its run.
    it.link.set_round_trip(Duration::from_millis(4));
    let mut rng = Seeded::from_env_or(14_001);
    for round in 0..count(12, 200) {
        it.deliver(&format!("there {round}"));
        it.home.maildir("Home", "INBOX").add(&message(&format!("here {round}"), ""), "S");
        it.home.age();
        let mut command = it.home.command(rig::real_mbsync());
        let child = command.args(["-q", "Home"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn(child).unwrap();
        sleep(Duration::from_millis(rng.u64(1..140)));
        let _ = (child.kill(), child.wait());
        it.sync();
        it.in_step();
    }
    it.nothing_to_do();
}

#[test]
fn g7_a_mailbox_on_one_side_only_is_never_passed_over() {
    let mut it = Rig::new();
    it.nothing_to_do();
    it.imap.create("There");
    it.imap.append("There", &message("two", "two"), &[]);
    assert_eq!(it.sync(), ["Home:There"]);
    it.home.maildir("Home", "There").find("two");
    let here = it.home.maildir("Home", "Here").create();
    here.add(&message("three", "three"), "S");
    assert_eq!(it.sync(), ["Home:Here"]);
    it.in_step();
    it.nothing_to_do();
    // By its name, too.
    it.imap.create("Named");
    let before = it.mbsync.runs().len();
    it.home.mutt_sync(&["-f", "Home:Named"]).ok();
    assert_eq!(it.names_since(before), ["Home:Named"]);
}

#[test]
fn g7_a_mailbox_new_on_the_server_below_a_far_prefix_is_created_here() {
    let (server, home, mbsync) = below_prefixes("Lists/", "l/");
    let mut imap = server.imap("home");
    for (name, how) in [("rust", ["-f", "Home"]), ("mutt", ["--wait", "Home"])] {
        imap.create(&format!("Lists/{name}"));
        let before = mbsync.runs().len();
        home.mutt_sync(&how).ok();
        assert_eq!(mbsync.runs()[before].names(), [format!("Home:{name}")], "{how:?}");
        assert!(home.path(&format!("Mail/Home/l/{name}/cur")).is_dir(), "{how:?}");
    }
}

#[test]
fn g7_a_mailbox_that_is_the_prefix_is_synced_with_its_channel() {
    let (server, home, mbsync) = below_prefixes("Lists", "Lists");
    let mut imap = server.imap("home");
    imap.create("Lists");
    for subject in ["one", "two"] {
        imap.append("Lists", &message(subject, subject), &[]);
        let before = mbsync.runs().len();
        home.mutt_sync(&["-f", "Home"]).ok();
        assert_eq!(mbsync.runs()[before].names(), ["Home"], "{subject}");
        home.maildir("Home", "Lists").find(subject);
    }
}

#[test]
fn g7_the_namespace_is_left_out_where_mbsync_leaves_it_out() {
    let nested = "Home:INBOX/Archive";
    for (section, line, asked_for) in [
        ("IMAPStore Home-far", "Path \"\"", nested),
        ("IMAPStore Home-far", "UseNamespace no", nested),
        ("IMAPAccount Home", "DisableExtension NAMESPACE", "Home"),
    ] {
        let server = Server::with(ServerOptions {
            prefix: "INBOX.".into(),
            separator: '.',
            ..ServerOptions::default()
        });
        let home = Home::on(&server, &["Home"]);
        let sections = home.read(".mbsyncrc");
        let with = format!("{section}\n{line}\n");
        home.write(".mbsyncrc", &sections.replace(&format!("{section}\n"), &with));
        let mbsync = home.wrap_mbsync();
        home.mutt_sync(&["-f", "Home"]).ok();
        server.imap("home").append("INBOX.Archive", &message("one", "one"), &[]);
        let before = mbsync.runs().len();
        home.mutt_sync(&["-f", "Home"]).ok();
        assert_eq!(mbsync.runs()[before].names(), [asked_for], "{line}");
    }
}

#[test]
fn g2_a_mailbox_of_a_flat_server_is_asked_about_by_its_name_there() {
    let server = Server::start();
    let home = Home::on(&server, &["Home"]);
    let sections = home.read(".mbsyncrc");
    let flat = "IMAPStore Home-far\nFlatten .\n";
    home.write(".mbsyncrc", &sections.replace("IMAPStore Home-far\n", flat));
    let mbsync = home.wrap_mbsync();
    let mut imap = server.imap("home");
    imap.create("a.b");
    home.mutt_sync(&["-f", "Home"]).ok();
    imap.append("a.b", &message("one", "one"), &[]);
    let before = mbsync.runs().len();
    let said = home.mutt_sync(&["-f", "-v", "Home"]).ok();
    assert_eq!(mbsync.runs()[before].names(), ["Home:a/b"], "{said}");
    assert!(!said.stderr.contains("not on the server"), "{said}");
}

#[test]
fn a_name_that_mbsync_drops_is_not_new_on_the_server() {
    let mut it = Rig::new();
    it.imap.create("a.lock");
    it.nothing_to_do();
}

#[test]
fn a_run_that_only_adds_mailboxes_says_so() {
    let mut it = Rig::new();
    it.imap.create("There");
    let said = it.home.mutt_sync(&["-f", "Home"]).ok();
    assert!(said.stdout.starts_with("Home: 1 mailbox added (There), "), "{said}");
    it.home.maildir("Home", "Here").create();
    it.home.maildir("Home", "Here2").create();
    let said = it.home.mutt_sync(&["-f", "Home"]).ok();
    assert!(said.stdout.starts_with("Home: 2 mailboxes added (Here, Here2), "), "{said}");
    it.in_step();
    it.nothing_to_do();
}

#[test]
fn a_mailbox_deleted_on_the_server_is_said_and_its_mail_stays() {
    let mut it = Rig::new();
    it.imap.create("Box");
    it.imap.append("Box", &message("two", "two"), &[]);
    assert_eq!(it.sync(), ["Home:Box"]);
    it.imap.delete("Box");
    let before = it.mbsync.runs().len();
    let said = it.home.mutt_sync(&["-f", "Home"]);
    assert_eq!(it.names_since(before), ["Home:Box"], "{said}");
    assert!(!said.stdout.starts_with(NOTHING), "{said}");
    assert_eq!(it.home.maildir("Home", "Box").len(), 1);
    // Made anew there, with other numbers: a run or a message, and nothing is lost.
    it.imap.create("Box");
    let before = it.mbsync.runs().len();
    let said = it.home.mutt_sync(&["-f", "Home"]);
    assert_eq!(it.names_since(before), ["Home:Box"], "{said}");
    assert_eq!(it.home.maildir("Home", "Box").len(), 1);
}

#[test]
fn full_gives_everything_to_mbsync() {
    let it = Rig::new();
    it.nothing_to_do();
    let full = |names: &str| {
        let before = it.mbsync.runs().len();
        it.home.mutt_sync(&["-f", "--full", names]).ok();
        it.names_since(before)
    };
    assert_eq!(full("Home"), ["Home"]);
    assert_eq!(full("Home:Sent,Archive"), ["Home:Archive,Sent"]);
    it.nothing_to_do();
    let before = it.cost();
    full("Home");
    assert_eq!(it.cost().logins, before.logins + 1);
}

#[test]
fn a_full_run_is_made_by_the_first_command_after_it_is_due() {
    let settings = "every = \"1s\"\nfull_every = \"3s\"\n";
    let it = Rig::with(ServerOptions::default(), settings);
    let begun = Instant::now();
    assert!(it.sync().is_empty() || begun.elapsed() > Duration::from_secs(2));
    sleep(Duration::from_secs(4));
    // A mailbox alone is not the place for it.
    let before = it.mbsync.runs().len();
    it.home.mutt_sync(&["-f", "Home:Sent"]).ok();
    assert_eq!(it.names_since(before), [""; 0]);
    assert_eq!(it.sync(), ["Home"]);
}

/// Commands of every kind, many at once, killed at random, while mail comes and changes
/// on both sides.
#[test]
fn g1_g2_fifty_commands_at_once_and_kill_9_lose_nothing_and_double_nothing() {
    let settings = "throttle = \"0s\"\nretry = \"1s\"\n";
    let mut it = Rig::with(ServerOptions::default(), settings);
    it.link.set_round_trip(Duration::from_millis(2));
    let mut rng = Seeded::from_env_or(14_002);
    let mut made = 1;
    for _ in 0..count(2, 20) {
        let mut children = Vec::new();
        for at in 0..50 {
            let words: &[&str] = match rng.u8(..6) {
                0 => &["-b", "-q", "Home"],
                1 => &["-q", "Home:INBOX"],
                2 => &["-q", "--block", "Home"],
                3 => &["-q", "-f", "Home:Archive,INBOX"],
                _ => &["-q", "-f", "Home"],
            };
            let mut command = it.home.cmd(words);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            children.push((spawn(&mut command).unwrap(), rng.bool()));
            if at % 5 == 0 {
                made += 2;
                let subject = format!("there {made}");
                it.imap.append("INBOX", &message(&subject, &subject), &[]);
                let archive = it.home.maildir("Home", "Archive");
                archive.add(&message(&format!("here {made}"), ""), "S");
            }
            if rng.bool() {
                let (child, mortal) = rng.pick(&children);
                if *mortal {
                    // Of a child that has ended nobody else has the number: not waited for.
                    process::kill(child.id(), Signal::KILL);
                }
            }
            sleep(Duration::from_millis(rng.u64(..30)));
        }
        for (mut child, _) in children {
            child.wait().unwrap();
        }
    }
    wait_until(LIMIT, "the last request is served", || {
        it.home.mutt_sync(&["-q", "-f", "Home"]).code() == 0 && it.home.requests("Home").is_empty()
    });
    it.mbsync.wait_idle(LIMIT);
    it.mbsync.assert_alone();
    it.home.wait_no_leftovers(LIMIT);
    it.in_step();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for name in ["INBOX", "Archive"] {
        for entry in it.home.maildir("Home", name).list() {
            *seen.entry(entry.message_id).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), made, "lost");
    assert!(seen.values().all(|times| *times == 1), "doubled: {seen:?}");
}

#[test]
fn g2_a_command_killed_at_any_moment_of_its_question_leaves_nothing_and_loses_nothing() {
    let mut it = Rig::with(ServerOptions::default(), "throttle = \"0s\"\n");
    it.link.set_round_trip(Duration::from_millis(10));
    let begun = Instant::now();
    it.nothing_to_do();
    let whole = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let mut rng = Seeded::from_env_or(14_003);
    let mut asked = [0, 0];
    for round in 0..count(25, 400) {
        it.deliver(&format!("mail {round}"));
        let mut command = it.home.cmd(&["Home"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn(&mut command).unwrap();
        sleep(Duration::from_millis(rng.u64(1..whole + 40)));
        let _ = (child.kill(), child.wait());
        it.home.wait_no_leftovers(LIMIT);
        let pending = it.home.requests("Home");
        let there = it.home.maildir("Home", "INBOX").len() == round + 2;
        // Killed before it had made its request, or after all was over.
        asked[usize::from(pending.is_empty())] += 1;
        if pending.is_empty() && !there {
            assert_eq!(it.mbsync.runs().iter().filter(|run| run.alive()).count(), 0);
        }
        let runs = it.sync();
        // A run that was cut short may have pulled it, and not noted so yet.
        if !there || pending.is_empty() {
            assert_eq!(runs.is_empty(), there, "round {round}: {pending:?}");
        }
        assert_eq!(it.home.requests("Home"), [""; 0]);
        assert_eq!(it.home.maildir("Home", "INBOX").len(), round + 2);
    }
    assert!(asked[0] > 3, "none was killed at its question: {asked:?}");
    it.mbsync.assert_alone();
    it.in_step();
}

/// The most logins in so many seconds, after a burst of four.
fn budget(elapsed: Duration, throttle: u64) -> usize {
    4 + usize::try_from(elapsed.as_secs() / throttle).unwrap() + 1
}

/// A throttle of two seconds, or a minute of the real one.
fn throttled() -> (Rig, Duration, u64) {
    let (settings, seconds, throttle) =
        if rig::soak() { ("", 60, 60) } else { ("throttle = \"2s\"\n", 8, 2) };
    let mut it = Rig::with(ServerOptions::default(), settings);
    it.deliver("two");
    (it, Duration::from_secs(seconds), throttle)
}

#[test]
fn g4_commands_in_a_loop_log_in_within_the_budget() {
    let (it, time, throttle) = throttled();
    let begun = Instant::now();
    let mut commands = 0;
    while begun.elapsed() < time {
        it.home.mutt_sync(&["-q", "Home"]).ok();
        commands += 1;
    }
    let logins = it.server.logins("home") - 1;
    let most = budget(begun.elapsed(), throttle);
    assert!(commands > 2 * most, "{commands} commands are not many");
    assert!((3..=most).contains(&logins), "{logins} logins for {commands}; at most {most}");
}

#[test]
fn g4_hooks_without_a_waiter_log_in_within_the_budget() {
    let (mut it, time, throttle) = throttled();
    let begun = Instant::now();
    for hook in 0..60 {
        if hook % 10 == 0 {
            it.deliver(&format!("mail {hook}"));
        }
        it.home.mutt_sync(&["-b", "-q", "Home"]).ok();
        sleep(time / 60);
    }
    let logins = it.server.logins("home") - 1;
    let most = budget(begun.elapsed(), throttle);
    assert!((1..=most).contains(&logins), "{logins} logins for 60 hooks; at most {most}");
    // Nothing later than `throttle`.
    let limit = Duration::from_secs(throttle + 20);
    wait_until(limit, "the last mail", || it.home.maildir("Home", "INBOX").len() == 8);
}

/// Somebody's shell loop has a terminal, too.
#[test]
fn g4_a_person_logs_in_ten_times_a_minute_and_is_told_why_it_waits() {
    let it = Rig::new();
    let before = it.server.logins("home");
    let time = Duration::from_secs(if rig::soak() { 60 } else { 20 });
    let begun = Instant::now();
    let program = rig::mutt_sync().display();
    let script = format!("while :; do '{program}' Home || exit; echo >>count; done");
    let terminal = Terminal::start(&it.home, &["sh", "-c", &script]);
    let told = "rate limit (10 logins a minute); syncs in ";
    terminal.wait_for(told, LIMIT);
    wait_until(LIMIT, "the time is over", || begun.elapsed() > time);
    let logins = it.server.logins("home") - before;
    // One in six seconds after ten at once; `-f` has taken one of those.
    let most = 10 + usize::try_from(begun.elapsed().as_secs() / 6).unwrap() + 1;
    drop(terminal);
    let commands = it.home.read("count").lines().count();
    assert!((9..=most).contains(&logins), "{logins} logins; at most {most}");
    assert!(commands + 1 >= logins, "{commands} commands, {logins} logins");
}

#[test]
fn g4_force_logs_in_ten_times_a_minute() {
    let it = Rig::new();
    let begun = Instant::now();
    for _ in 0..9 {
        it.sync();
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "ten at once: {:?}", begun.elapsed());
    it.sync();
    assert!(begun.elapsed() > Duration::from_secs(4), "the next waits: {:?}", begun.elapsed());
    let command = Running::start(it.home.cmd(&["-f", "Home"]));
    let said = command.wait(LIMIT).ok();
    assert!(said.stdout.starts_with(NOTHING), "{said}");
}

#[test]
fn g2_a_mistyped_mailbox_is_said_once_and_not_asked_for_again() {
    let mut it = Rig::new();
    let said = it.home.mutt_sync(&["Home:Lsts"]).expect_code(1);
    let missing = "`Lsts` is neither here nor on the server";
    assert!(said.stderr.contains(missing), "{said}");
    assert_eq!(it.home.requests("Home"), [""; 0]);
    it.nothing_to_do();
    // With one that is synced.
    it.deliver("two");
    let said = it.home.mutt_sync(&["Home:INBOX", "Home:Lsts"]).expect_code(1);
    assert!(said.stderr.contains(missing) && said.stdout.contains("INBOX 1 new"), "{said}");
    assert_eq!(it.home.requests("Home"), [""; 0]);
}
