//! Serving requests that were claimed, with the account's lock held: judged, run if
//! something differs, and concluded.
//!
//! Fixes what is read and written when, and in which order. Does not depend on:
//! when to run, connections.

use std::cell::{LazyCell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::{AccountBackend, trigger_stamp};
use crate::error::{ErrorKind, ExitStatus, system_text};
use crate::mbsync_version::{self, IsyncVersion};
use crate::model::{CredentialSource, Mailbox, Target};
use crate::os::clock;
use crate::settings::Settings;
use crate::state::backoff::{self, Backoff, seconds};
use crate::state::last_run::{self, Change, LastRun, millis};
use crate::state::lock::Lock;
use crate::state::refused::RefusedState;
use crate::state::{StateDir, clean, requests, state_failure};
use crate::sync::changes::Snapshot;
use crate::sync::context::AccountContext;
use crate::sync::deletion_guard::{self, CheckInRun, Checked};
use crate::sync::held;
use crate::sync::hooks::{self, HookEnv};
use crate::sync::judge::{Attempt, Judge, Judgement, Question};
use crate::sync::mbsync::{Job, RunEnd};
use crate::sync::output::Problem;
use crate::sync::refused::{self, Noted, Replaced, RetryRefused, RunFacts};
use crate::sync::scheduler::{Marks, RunOutcome};
use crate::sync::settle;
use crate::text::shell_operand;
use crate::verdict::CleanState;
use crate::verdict::gone::Gone;

/// Requests that were claimed, with the lock held.
#[derive(Debug)]
pub struct Claim {
    /// What was asked for, with its failures so far.
    pub claimed: requests::Claimed,
    /// How it was asked for. `full` also if a run of everything is due.
    pub marks: Marks,
    /// Which refused mailboxes are tried again.
    pub retry: RetryRefused,
    /// The whole account was asked for.
    whole: bool,
    unreadable: Option<io::Error>,
    before: LastRun,
    trigger: Option<(i64, i64)>,
    began: SystemTime,
    began_at: Instant,
}

impl Claim {
    /// What was asked for.
    #[must_use]
    pub fn targets(&self) -> BTreeSet<Target> {
        self.claimed.keys().cloned().collect()
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunReport {
    /// How it ended.
    pub ended: RunEnd,
    /// What came and went.
    pub changes: Vec<Change>,
    /// mbsync was run; else nothing differed, or nothing could be asked.
    pub ran: bool,
    /// What mbsync could not carry and what else it said, if that is new.
    pub news: Vec<String>,
    /// Something was left out, and waits for an answer.
    pub holds: bool,
    /// The mailboxes that were asked for and are on neither side, by near name.
    pub missing: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// How long until the next automatic try.
    pub retry: Option<Duration>,
}

impl RunOutcome for RunReport {
    fn is_hopeless(&self) -> bool {
        self.ended.exit == ExitStatus::Config
    }

    fn stopped(&self) -> bool {
        matches!(self.ended.exit, ExitStatus::Signal(_))
    }
}

impl AccountBackend<'_> {
    /// Claims the requests that are due, with the lock held.
    pub fn claim(&mut self) -> Claim {
        let (began, began_at) = (SystemTime::now(), Instant::now());
        self.dir.sweep();
        let before = LastRun::read(&self.dir);
        let trigger = trigger_stamp(&self.trigger());
        let urgent = requests::take_urgent(&self.dir);
        let policy = self.context.settings.backoff_policy();
        let (mut claimed, unreadable) = match requests::claim(&self.dir, policy, began) {
            Ok(claimed) => (claimed, None),
            Err(error) => {
                requests::unclaim(&self.dir, &requests::Claimed::new(), urgent);
                (requests::Claimed::new(), Some(error))
            }
        };
        let marks = requests::claimed_marks(&self.dir);
        claimed.extend(std::mem::take(&mut self.unwritten).into_iter().map(|target| (target, 0)));
        if trigger.is_some() && trigger != before.trigger {
            claimed.entry(Target::Account).or_default();
        }
        let Settings { full_every, every, .. } = *self.context.settings;
        let asked: BTreeSet<Target> = claimed.keys().cloned().collect();
        let whole = self.context.account.canonical(&asked).contains(&Target::Account);
        let due =
            claimed.contains_key(&Target::Account) && before.full_is_due(full_every, every, began);
        let retry = match std::mem::take(&mut self.retry) {
            _ if marks.passed_over => RetryRefused::PassedOver,
            RetryRefused::Due if urgent || marks.person => RetryRefused::All,
            retry => retry,
        };
        let full = marks.full || due || marks.passed_over;
        Claim {
            claimed,
            marks: Marks { urgent, full, ..marks },
            retry,
            whole,
            unreadable,
            before,
            trigger,
            began,
            began_at,
        }
    }

    /// Puts claimed requests back: they could not be judged, and another process may do
    /// better.
    pub fn unclaim(&mut self, claim: &Claim) {
        requests::unclaim(&self.dir, &claim.claimed, claim.marks.urgent);
    }

    /// Serves claimed requests: as `judge` decides, by a run or without. The lock must
    /// be held, and is held afterwards.
    pub fn serve(&mut self, claim: Claim, judge: &mut dyn Judge) -> RunReport {
        if judge.logs_in() {
            self.limits().count_login(self.options.person || claim.marks.urgent);
        }
        let targets = claim.targets();
        let asked_nothing = targets.is_empty();
        let judgement = match &claim.unreadable {
            Some(error) if asked_nothing => {
                let requests = self.dir.file("want");
                let text = format!("cannot read the requests in {}", requests.display());
                Judgement::Failed(state_failure(error, &text))
            }
            _ if asked_nothing => Judgement::InSync,
            _ => {
                let refused = refused::to_try_again(&self.dir, self.context, &targets, claim.retry);
                let full = claim.marks.full;
                judge.judge(&Question {
                    targets: &targets,
                    full,
                    refused: &refused,
                    dir: &self.dir,
                })
            }
        };
        held::note_back(&self.dir, self.context, &targets);
        match judgement {
            Judgement::InSync => {
                self.forget_resolved(&targets);
                self.forget_nowhere(&targets, judge);
                self.serve_without_run(&claim, false, RunEnd::default(), &Checked::default())
            }
            Judgement::Failed(error) => {
                let exit = self.shutdown.signal().map_or(error.status, ExitStatus::Signal);
                let problems = match error.kind {
                    ErrorKind::PasswordCommand => vec![Problem::PasswordCommand],
                    _ if error.costly => vec![Problem::Login(exit)],
                    _ => vec![],
                };
                let ended = RunEnd { exit, text: error.to_string(), problems, ..RunEnd::default() };
                self.serve_without_run(&claim, false, ended, &Checked::default())
            }
            Judgement::Run(mut needed) => {
                let missing = self.take_missing(&claim, &mut needed, judge);
                let report = self.serve_needed(claim, needed, judge);
                RunReport { missing, ..report }
            }
        }
    }

    /// Serves claimed requests by a run for what is needed, but for what is held.
    fn serve_needed(
        &mut self,
        claim: Claim,
        needed: BTreeSet<Target>,
        judge: &mut dyn Judge,
    ) -> RunReport {
        let server = self.context.account.server.as_ref();
        let disabled = server.is_some_and(|server| server.disables_namespace);
        let needed = if judge.names_nested() && !disabled { needed } else { self.unnamed(needed) };
        let (began, asked_for) = (claim.began, claim.retry != RetryRefused::Due);
        let guarded =
            deletion_guard::check(&self.dir, self.context, &needed, asked_for, judge, began);
        let put_off = refused::put_off(&self.dir, &guarded.held, began, asked_for);
        self.note("refused.json", put_off);
        let needed = self.without_removed(needed, &guarded.nowhere);
        let free = held::without_held(self.context, &needed, &guarded.held);
        if needed.is_empty() {
            self.serve_without_run(&claim, false, RunEnd::default(), &guarded)
        } else if guarded.held.is_empty() {
            let needed = self.context.account.canonical(&needed);
            self.serve_by_run(claim, &needed, judge, guarded, false)
        } else if free.is_empty() {
            self.say(|| "all that needs a run is held".into());
            self.serve_without_run(&claim, false, RunEnd::default(), &guarded)
        } else {
            let whole = needed.contains(&Target::Account);
            self.serve_by_run(claim, &free, judge, guarded, whole)
        }
    }

    /// The same without mailboxes that are on neither side any more: nothing is known of them.
    fn without_removed(
        &mut self,
        mut needed: BTreeSet<Target>,
        nowhere: &BTreeSet<String>,
    ) -> BTreeSet<Target> {
        if nowhere.is_empty() {
            return needed;
        }
        for mailbox in nowhere.iter().filter_map(|key| clean::mailbox(self.context.account, key)) {
            self.say(|| format!("{} is on neither side any more", mailbox.near));
            needed.remove(&mailbox.target());
        }
        held::forget(&self.dir, nowhere);
        let forgotten = RefusedState::update(&self.dir, |state| {
            state.mailboxes.retain(|key, _| !nowhere.contains(key));
        });
        self.note("refused.json", forgotten);
        needed
    }

    /// Takes out mailboxes that were asked for by name and are on neither side: there is
    /// nothing to sync, and mbsync would fail on them at each try. Returns their near names.
    fn take_missing(
        &mut self,
        claim: &Claim,
        needed: &mut BTreeSet<Target>,
        judge: &mut dyn Judge,
    ) -> Vec<String> {
        // Not those that a waiter has just found on the server.
        let asked = |target: &Target| {
            let failures = claim.claimed.get(target);
            failures.is_some_and(|failures| *failures > 0 || claim.marks.foreground)
        };
        let named = needed.iter().filter(|target| asked(target));
        let mut named: Vec<Mailbox> =
            named.filter_map(|target| self.context.account.mailbox(target)).collect();
        named.retain(|mailbox| is_nowhere(mailbox, judge));
        let keys = named.iter().map(clean::key).collect();
        *needed = self.without_removed(std::mem::take(needed), &keys);
        named.into_iter().map(|mailbox| mailbox.near).collect()
    }

    /// The same, but the whole channel in place of a mailbox below another.
    fn unnamed(&self, needed: BTreeSet<Target>) -> BTreeSet<Target> {
        let account = self.context.account;
        let whole = |target: Target| {
            let channel = target.channel()?;
            let sides = account.channels.iter().find(|each| each.name == channel)?;
            let unknown = sides.far.imap().is_some_and(|store| store.delimiter.is_none());
            let nested = account.mailbox(&target)?.far.contains('/');
            (unknown && nested).then_some(Target::Channel(channel))
        };
        needed.into_iter().map(|each| whole(each.clone()).unwrap_or(each)).collect()
    }

    /// Serves claimed requests without a run: nothing differs. `complete`: in the whole
    /// account, compared without short cuts.
    pub fn serve_in_sync(&mut self, claim: &Claim, complete: bool) -> RunReport {
        self.forget_resolved(&claim.targets());
        held::note_back(&self.dir, self.context, &claim.targets());
        self.serve_without_run(claim, complete, RunEnd::default(), &Checked::default())
    }

    /// Nothing differs: what was refused and is gone or carried is forgotten.
    fn forget_resolved(&mut self, targets: &BTreeSet<Target>) {
        if RefusedState::read(&self.dir).mailboxes.is_empty() {
            return;
        }
        let scope = self.scope(targets);
        let facts = RunFacts::without_run(self.context, targets, &scope);
        let noted = refused::note_run(&self.dir, &facts, SystemTime::now());
        self.note("refused.json", noted.map(drop));
    }

    /// Nothing differs: what is held or was refused in a mailbox that is on neither side any
    /// more is forgotten.
    fn forget_nowhere(&mut self, targets: &BTreeSet<Target>, judge: &mut dyn Judge) {
        let refused = RefusedState::read(&self.dir).mailboxes.into_keys();
        let mut keys: BTreeSet<String> = refused.chain(held::without_maildir(&self.dir)).collect();
        keys.retain(|key| {
            clean::mailbox(self.context.account, key).is_some_and(|mailbox| {
                Target::any_covers(targets, &mailbox) && is_nowhere(&mailbox, judge)
            })
        });
        self.without_removed(BTreeSet::new(), &keys);
    }

    /// Nothing differed, all of it is held, or nothing could be asked.
    fn serve_without_run(
        &mut self,
        claim: &Claim,
        complete: bool,
        ended: RunEnd,
        held: &Checked,
    ) -> RunReport {
        let ended = with_advice(ended, &self.context.account.name);
        let took = claim.began_at.elapsed();
        let run =
            LastRun { trigger: claim.trigger.or(claim.before.trigger), ..claim.before.clone() };
        let retry = self.conclude(claim, run, complete, &ended);
        let (news, holds) = (held.news.clone(), !held.held.is_empty());
        RunReport { ended, news, holds, took, retry, ..RunReport::default() }
    }

    /// Runs mbsync for what is needed. `whole`: that is everything but what is held.
    fn serve_by_run(
        &mut self,
        mut claim: Claim,
        needed: &BTreeSet<Target>,
        judge: &mut dyn Judge,
        mut guarded: Checked,
        whole: bool,
    ) -> RunReport {
        settle::wait(&self.scope(needed), self.shutdown.cancel());
        let whole = whole || needed.contains(&Target::Account);
        self.narrow(&mut claim, needed, &guarded);
        let targets = claim.targets();
        let errors = held::make_ready(&self.dir, self.context, &targets);
        let unready: BTreeSet<String> = errors.keys().cloned().collect();
        let targets = held::without_held(self.context, &targets, &unready);
        let why = |names: &str| {
            let error = errors.values().next().map(system_text).unwrap_or_default();
            format!("{names}: cannot change mbsync's record for --resync: {error}")
        };
        guarded.held.extend(unready.iter().cloned());
        if targets.is_empty() {
            let mut ended = RunEnd::default();
            self.leave_pending(&mut ended, &unready, why);
            return self.serve_without_run(&claim, false, ended, &guarded);
        }
        let Some(mut lock) = self.lock.take() else {
            // Cannot happen: the protocol serves with the lock held.
            let text = "the lock is not held".into();
            let ended = RunEnd { exit: ExitStatus::Later, text, ..RunEnd::default() };
            return RunReport { ended, ..RunReport::default() };
        };
        let scope = self.scope(&targets);
        refused::try_again(&self.dir, self.context, &scope, claim.retry, claim.began);
        let gone: Option<BTreeMap<String, Gone>> =
            if self.logs() { self.dir.read_json(clean::GONE) } else { None };
        let known = gone.clone().unwrap_or_default();
        let snapshot = Snapshot::take(&scope, self.context.account, self.logs(), known);
        let deletions = CheckInRun::new(&self.dir, self.context, &targets, &guarded);
        drop(scope);
        let before = clock::now();
        let mut ended = self.run_mbsync(&targets, judge, &deletions, &mut lock);
        let cost = clock::now().saturating_sub(before);
        for line in &guarded.nameless {
            ended.said.notice(line);
        }
        let withheld = deletions.withheld();
        let took = claim.began_at.elapsed();
        // With those that it has created.
        let scope = self.scope(&targets);
        let (changes, replaced) = self.learn_changes(&snapshot, gone.as_ref(), &scope, &ended);
        drop(snapshot);
        if changes.is_empty() && judge.bytes() == 0 {
            self.doubt_program(&mut ended);
        }
        let facts = RunFacts {
            replaced: &replaced,
            retry: Some(claim.retry),
            ..RunFacts::without_run(self.context, &targets, &scope)
        };
        let refused = self.note_refused(&mut ended, &facts);
        if matches!(ended.exit, ExitStatus::Done | ExitStatus::Mailbox) {
            let well = ended.exit == ExitStatus::Done;
            let held = guarded.held.union(&withheld).cloned().collect();
            let before = &guarded.before;
            held::note_run(&self.dir, self.context, &targets, &scope, &held, well, before);
        }
        self.leave_pending(&mut ended, &withheld, |names| {
            format!("{names}: many messages were removed here meanwhile, which is checked first")
        });
        self.leave_pending(&mut ended, &unready, why);
        hooks::refresh(&changes, &scope);
        self.hook_env =
            HookEnv::of(self.context.settings, &changes, &scope, claim.began, claim.marks.echo);
        let run = LastRun {
            started: millis(claim.began),
            took: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            whole,
            trigger: claim.trigger.or(claim.before.trigger),
            changes: changes.clone(),
            runs: claim.before.runs + 1,
            ..claim.before.clone()
        };
        self.limits().count_run(cost, judge.bytes());
        let retry = self.conclude(&claim, run, whole, &ended);
        let cleared = lock.clear();
        self.note("lock", cleared);
        self.lock = Some(lock);
        let holds = !guarded.held.is_empty();
        let news = guarded.news.into_iter().chain(refused).collect();
        RunReport { ended, changes, ran: true, news, holds, took, retry, missing: vec![] }
    }

    /// The run has left out these mailboxes, by key, or deletions in them: their requests stay.
    fn leave_pending(
        &self,
        ended: &mut RunEnd,
        keys: &BTreeSet<String>,
        why: impl Fn(&str) -> String,
    ) {
        if keys.is_empty() || !matches!(ended.exit, ExitStatus::Done | ExitStatus::Mailbox) {
            return;
        }
        let mailboxes = keys.iter().filter_map(|key| clean::mailbox(self.context.account, key));
        let (mut names, mut problems) = (vec![], vec![]);
        for mailbox in mailboxes {
            names.push(mailbox.near.clone());
            let (channel, mailbox) = (Some(mailbox.channel), Some(mailbox.name));
            problems.push(Problem::Mailbox { channel, mailbox });
        }
        if ended.exit == ExitStatus::Done {
            ended.exit = ExitStatus::Mailbox;
            ended.text = why(&names.join(", "));
        }
        ended.problems.extend(problems);
    }

    /// Of what was claimed, only what is needed is still to be run for.
    fn narrow(&self, claim: &mut Claim, needed: &BTreeSet<Target>, guarded: &Checked) {
        match requests::narrow(&self.dir, &claim.claimed, needed) {
            Ok(narrowed) => claim.claimed = narrowed,
            // What cannot be narrowed is synced as it was asked for,
            Err(_) if guarded.held.is_empty() => {}
            // but for what is held: what was asked for is found once more.
            Err(_) => claim.claimed = needed.iter().map(|target| (target.clone(), 0)).collect(),
        }
    }

    /// What the run has changed, and the records that it has replaced. What it removed is
    /// kept: isync 1.5 does not record each deletion.
    fn learn_changes(
        &self,
        snapshot: &Snapshot,
        gone: Option<&BTreeMap<String, Gone>>,
        scope: &[Mailbox],
        ended: &RunEnd,
    ) -> (Vec<Change>, Vec<Replaced>) {
        let seen: OnceCell<BTreeMap<String, CleanState>> = OnceCell::new();
        let by_scan = |key: &str| -> Option<Gone> {
            let seen = seen.get_or_init(|| self.dir.read_json(clean::FILE).unwrap_or_default());
            seen.get(key)?.gone.clone()
        };
        let mut replaced = vec![];
        let (mut changes, now_gone) =
            snapshot.changes(scope, ended.log.as_ref(), &by_scan, &mut |mailbox, old, new| {
                replaced.push(Replaced::new(mailbox, old, new));
            });
        let (removed, of_removed): (BTreeSet<String>, Vec<Change>) =
            snapshot.removed(self.context.account).unzip();
        changes.extend(of_removed);
        // One of this name that is made later is a new one.
        held::forget(&self.dir, &removed);
        // Lost, a deletion is found once more and costs a run.
        if now_gone.is_empty() {
            let _ = self.dir.remove(clean::GONE);
        } else if Some(&now_gone) != gone {
            let _ = self.dir.write_json(clean::GONE, &now_gone);
        }
        (changes, replaced)
    }

    /// Whether mbsync is to say what it does.
    fn logs(&self) -> bool {
        self.context.config.version == IsyncVersion::V1_5
    }

    fn secrets(&self) -> Vec<&str> {
        match self.context.account.server.as_ref().and_then(|server| server.pass.as_ref()) {
            Some(CredentialSource::Text(text)) => vec![text.as_str()],
            _ => vec![],
        }
    }

    /// Runs mbsync for these, as the judge has it.
    fn run_mbsync(
        &self,
        targets: &BTreeSet<Target>,
        judge: &mut dyn Judge,
        deletions: &CheckInRun<'_>,
        lock: &mut Lock,
    ) -> RunEnd {
        let AccountContext { config, account, settings, .. } = self.context;
        let named = config.mbsync_words(account, targets);
        let (words, secrets) = (named.args(), self.secrets());
        let job = Job {
            program: &settings.mbsync,
            file: &config.file,
            words: &words,
            prompt: self.options.prompt,
            progress: self.options.progress,
            live: self.options.live.then_some(account.name.as_str()),
            logs: self.logs(),
            verbose: self.options.verbose,
            stall: settings.stall,
            secrets: &secrets,
        };
        let ended = if named.all || !named.words.is_empty() {
            let shutdown = &self.shutdown;
            let context = self.context;
            judge.run(&Attempt { context, words: &named, deletions, job, shutdown }, lock)
        } else {
            nothing_to_name(&named.unreachable)
        };
        let mut ended = with_advice(ended, &account.name);
        let shadows = !config.shadowed_channels.is_empty();
        if shadows && !named.all && targets.contains(&Target::Account) {
            ended.said.notice(
                "two channels have one name, and mbsync syncs only the first when it is named; \
                 rename one (mutt-sync --check says which)",
            );
        }
        ended
    }

    /// A program that has done nothing and says no version may be any other.
    fn doubt_program(&self, ended: &mut RunEnd) {
        let program = &self.context.settings.mbsync;
        let unexplained = ended.exit == ExitStatus::Done
            || ended.exit == ExitStatus::Mailbox && ended.problems.is_empty();
        if !unexplained
            || mbsync_version::version(program, self.context.base).is_some()
            // It may have been too slow when it was asked first.
            || mbsync_version::of_program(program, "--version").is_some()
        {
            return;
        }
        let found = mbsync_version::in_path(program);
        let said = if ended.text.is_empty() { "" } else { ": " };
        ended.text = format!(
            "{} does not look like isync's mbsync (its --version says none){said}{}; name the right one as `mbsync` in config.toml",
            found.as_ref().unwrap_or(program).display(),
            ended.text
        );
        ended.exit = ExitStatus::Config;
    }

    /// Puts on record what the run could not carry, and returns what of it is new. A run
    /// that failed for nothing else has served its requests.
    fn note_refused(&mut self, ended: &mut RunEnd, facts: &RunFacts<'_>) -> Vec<String> {
        let said = &ended.said;
        let state = LazyCell::new(|| RefusedState::read(&self.dir));
        let is_acknowledged = |problem: &Problem| match problem {
            Problem::Mailbox { channel: Some(channel), mailbox: Some(name) } => {
                refused::is_acknowledged(&state, facts.scope, channel, name)
            }
            _ => false,
        };
        let unexplained = ended.exit == ExitStatus::Mailbox
            && ended.problems.iter().all(is_acknowledged)
            && !ended.fails;
        let silent = unexplained && ended.silent;
        let only_refused = unexplained && (silent || !said.objections.is_empty());
        let facts = RunFacts {
            objections: &said.objections,
            notices: &said.notices,
            well: ended.exit == ExitStatus::Done || only_refused,
            silent,
            ..*facts
        };
        let noted = match refused::note_run(&self.dir, &facts, SystemTime::now()) {
            Ok(noted) => noted,
            Err(error) => {
                self.note("refused.json", Err(error));
                let news = said.objections.iter().map(|each| each.text.clone()).collect();
                Noted { news, ..Noted::default() }
            }
        };
        if only_refused && noted.all_placed {
            (ended.exit, ended.text, ended.problems) = (ExitStatus::Done, String::new(), vec![]);
        }
        noted.news
    }

    /// After a run or a judgement: requests, backoff and memory say what it came to.
    /// `complete`: it was of the whole account, compared without short cuts or synced by
    /// mbsync. Returns how long until the next try.
    fn conclude(
        &mut self,
        claim: &Claim,
        mut run: LastRun,
        complete: bool,
        ended: &RunEnd,
    ) -> Option<Duration> {
        let before = &claim.before;
        let now = SystemTime::now();
        let ran = run.runs != before.runs;
        run.code = ended.exit.code();
        run.text.clone_from(&ended.text);
        run.last_success = before.last_success;
        run.last_whole = before.last_whole;
        run.last_checked = before.last_checked;
        // But for single mailboxes.
        let mut well = false;
        let mut wait = None;
        match ended.exit {
            ExitStatus::Done => {
                run.last_success = Some(seconds(now));
                well = true;
                self.served(claim.claimed.keys());
                self.end_backoff();
            }
            // What was taken stays in run/, where the next holder finds it fresh.
            ExitStatus::Signal(_) => run.trigger = before.trigger,
            ExitStatus::Mailbox => {
                // The login worked: the account as a whole is not in trouble.
                self.end_backoff();
                let failed = self.failed(&claim.claimed, &ended.problems);
                wait = self.requeue_failed(&failed, now);
                self.served(claim.claimed.keys().filter(|target| !failed.contains_key(target)));
                well = failed.keys().all(|target| matches!(target, Target::Mailbox { .. }));
            }
            _ => {
                requests::failed_marks(&self.dir);
                wait = Some(self.back_off(claim, ended, now));
            }
        }
        if well && (claim.whole || complete) {
            run.last_checked = Some(seconds(now));
        }
        if well && complete {
            run.last_whole = Some(seconds(now));
            run.last_full = run.last_whole.filter(|_| ran).or(before.last_full());
        }
        let written = self.dir.write_json(last_run::FILE, &run);
        self.pending.trigger = run.trigger.filter(|_| written.is_err());
        self.note(last_run::FILE, written);
        wait
    }

    fn served<'t>(&mut self, targets: impl Iterator<Item = &'t Target>) {
        requests::served_marks(&self.dir);
        for target in targets {
            let removed = requests::served(&self.dir, target);
            self.note("run", removed);
        }
    }

    /// The account is reached again.
    fn end_backoff(&mut self) {
        if let Some(backoff) = self.backoff() {
            release_others(self.context, &backoff);
        }
        self.pending.backoff = None;
        let removed = self.dir.remove(backoff::FILE);
        self.note(backoff::FILE, removed);
    }

    /// Puts back what a run has failed on, each with a wait of its own. Returns the longest.
    fn requeue_failed(&mut self, failed: &requests::Claimed, now: SystemTime) -> Option<Duration> {
        let policy = self.context.settings.backoff_policy();
        let mut longest = None;
        for (target, failures) in failed {
            let delay = policy.delay(*failures, false);
            longest = longest.max(Some(delay));
            let put = requests::requeue(&self.dir, target, *failures, now, delay);
            self.note("want", put);
        }
        longest
    }

    /// The account as a whole has failed: its requests wait for the backoff. Returns how
    /// long that is.
    fn back_off(&mut self, claim: &Claim, ended: &RunEnd, now: SystemTime) -> Duration {
        let policy = self.context.settings.backoff_policy();
        let by_person = self.options.person || claim.marks.urgent;
        let (code, earlier) = (ended.exit.code(), self.backoff());
        let server = self.context.account.server.as_ref();
        let costly = ended.problems.iter().any(Problem::is_costly)
            || server.is_some_and(|server| server.tunnel.is_some());
        let (text, jitter) = (&ended.text, clock::jitter());
        let next = policy.after(earlier.as_ref(), ended.exit, costly, text, now, jitter);
        let mut backoff = match earlier.filter(|_| by_person) {
            // Somebody's own try does not lengthen the wait.
            Some(earlier) => Backoff { code, first: next.first, text: next.text, ..earlier },
            // Nor that after the next failure.
            None if by_person => Backoff { failures: 0, ..next },
            None => next,
        };
        backoff.password_command = ended.problems.contains(&Problem::PasswordCommand);
        backoff.costly |= costly;
        // Held up by the account's backoff only, which a success elsewhere ends.
        for (target, failures) in &claim.claimed {
            let put = requests::requeue(&self.dir, target, *failures, now, Duration::ZERO);
            if put.is_err() && !requests::all(&self.dir).contains(target) {
                self.unwritten.insert(target.clone());
            }
            self.note("want", put);
        }
        let wait = policy.wait(Some(&backoff), now);
        let written = self.dir.write_json(backoff::FILE, &backoff);
        self.pending.backoff = written.is_err().then_some(backoff);
        self.note(backoff::FILE, written);
        wait
    }

    /// Which requests are still pending after a run that failed on some mailboxes:
    /// those mailboxes, if mbsync named each; else all that it claimed.
    fn failed(&self, claimed: &requests::Claimed, problems: &[Problem]) -> requests::Claimed {
        let all =
            || claimed.iter().map(|(target, failures)| (target.clone(), failures + 1)).collect();
        let targets: BTreeSet<Target> = claimed.keys().cloned().collect();
        let scope = self.scope(&targets);
        let mut failed = requests::Claimed::new();
        for problem in problems {
            let Problem::Mailbox { channel: Some(channel), mailbox: Some(name) } = problem else {
                return all();
            };
            let Some(found) = Mailbox::called(&scope, channel, name) else { return all() };
            let target = found.target();
            let failures = claimed.get(&target).copied().unwrap_or(0) + 1;
            failed.insert(target, failures);
        }
        if failed.is_empty() { all() } else { failed }
    }
}

/// Whether a mailbox is neither here nor on the server, as far as that is known.
fn is_nowhere(mailbox: &Mailbox, judge: &mut dyn Judge) -> bool {
    let is_here = mailbox.maildir.as_deref().is_none_or(std::path::Path::exists);
    let mut is_there = || judge.far_side()?.is_there(mailbox);
    !is_here && is_there() == Some(false)
}

/// A login or a password command that fails has causes that `--check` finds.
fn with_advice(ended: RunEnd, account: &str) -> RunEnd {
    if ended.exit != ExitStatus::Denied {
        return ended;
    }
    let text = format!("{} (mutt-sync --check {} says more)", ended.text, shell_operand(account));
    RunEnd { text, ..ended }
}

/// An account is reached again. If its password command had failed, what that lacked (an
/// agent, a key) may be there for those of other accounts as well: they are tried now.
pub fn release_others(context: AccountContext<'_>, backoff: &Backoff) {
    if !backoff.password_command {
        return;
    }
    let others = context.config.accounts.iter().map(|account| &account.name);
    for other in others.filter(|other| **other != context.account.name) {
        let dir = StateDir::existing(context.base, other);
        if Backoff::read(&dir).is_some_and(|failed| failed.password_command) {
            // It is tried later, then.
            let _ = dir.remove(backoff::FILE);
            requests::renew(&dir);
        }
    }
}

/// The end of a run without arguments for mbsync, which would reject an empty list.
fn nothing_to_name(unreachable: &[String]) -> RunEnd {
    let (exit, text) = match unreachable {
        // Asked for when .mbsyncrc still had them.
        [] => (ExitStatus::Done, String::new()),
        names => {
            let names = names.join(", ");
            (
                ExitStatus::Config,
                format!("mbsync has no way to name {names}; rename it in .mbsyncrc"),
            )
        }
    };
    RunEnd { exit, text, ..RunEnd::default() }
}
