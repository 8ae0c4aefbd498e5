//! The question before a run: which of the mailboxes asked for differ from mbsync's
//! record?
//!
//! [`Survey`] is for a command without a waiter: over one connection it asks the
//! server (`server`), scans what may differ (`scan`), and lends the connection to
//! mbsync for what does. The waiter uses the parts. Does not depend on: when to ask,
//! requests, locks.

pub mod far;
pub mod scan;
pub mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::SystemTime;

use crate::error::{ErrorKind, ExitStatus};
use crate::imap::{Client, ClientError, ScanRequest};
use crate::lend::flags::ScanByRun;
use crate::lend::{Lease, LeaseOutcome, RunMailboxes};
use crate::model::uid_set::UidSet;
use crate::model::{Account, Mailbox, Server, Target};
use crate::os::child::Prompt;
use crate::os::signals::Shutdown;
use crate::state::lock::{self, Lock};
use crate::state::{StateDir, clean};
use crate::sync::account::RunOptions;
use crate::sync::context::AccountContext;
use crate::sync::judge::{Attempt, FarLookup, Judge, Judgement, Question};
use crate::sync::mbsync::RunEnd;
use crate::sync::{held, losses, refused};
use crate::text::sanitize;
use crate::verdict::gone::Gone;
use crate::verdict::maildir::{self, Stamp};
use crate::verdict::server::CleanServer;
use crate::verdict::{CleanState, Rules, SideVerdict, Verdict};
use far::{FarAccess, FarMessages};
use scan::{FarStep, PendingScan, ScanScope, Scanned};
use server::{ServerMailboxes, inventory_scope};

/// Most mailboxes that are scanned in one go.
pub const MOST_SCANS: usize = 64;

/// Both sides of what is asked for, over a connection of our own.
pub struct Survey<'a> {
    context: AccountContext<'a>,
    shutdown: Shutdown,
    options: RunOptions,
    client: Option<Client>,
    far: FarMessages,
    clean: BTreeMap<String, CleanState>,
    /// Keys of the mailboxes whose far sides could not be judged.
    unjudged: BTreeSet<String>,
    learned: bool,
    /// What is known of the mailboxes, for a run.
    mailboxes: RunMailboxes,
    reasons: Vec<String>,
    /// So many the run has moved over our connection.
    bytes: u64,
}

impl std::fmt::Debug for Survey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").field("account", &self.context.account.name).finish()
    }
}

impl Drop for Survey<'_> {
    fn drop(&mut self) {
        // Nothing was run over it.
        self.disconnect();
    }
}

/// A mailbox that is asked about.
struct Candidate {
    mailbox: Mailbox,
    rules: Result<Rules, String>,
    near: SideVerdict,
    far: SideVerdict,
    /// The far side was scanned and found clean.
    scanned: bool,
    /// Its name on the server, once asked.
    wire: Option<String>,
}

impl Candidate {
    fn verdict(&self) -> Verdict {
        Verdict { near: self.near.clone(), far: self.far.clone() }
    }
}

impl<'a> Survey<'a> {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(context: AccountContext<'a>, shutdown: Shutdown, options: RunOptions) -> Self {
        Survey {
            context,
            shutdown,
            options,
            client: None,
            far: FarMessages::default(),
            clean: BTreeMap::new(),
            unjudged: BTreeSet::new(),
            learned: false,
            mailboxes: RunMailboxes::default(),
            reasons: Vec::new(),
            bytes: 0,
        }
    }

    /// Keeps a reason for a run, and says it.
    fn note(&mut self, reason: String) {
        self.say(|| reason.clone());
        self.reasons.push(reason);
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.options.verbose {
            self.context.say(&text());
        }
    }

    /// The mailboxes that these targets mean, as far as they are here or were named.
    fn candidates(&self, targets: &BTreeSet<Target>) -> Vec<Candidate> {
        let account = self.context.account;
        let mut mailboxes = self.context.config.local_mailboxes(account);
        mailboxes.retain(|mailbox| Target::any_covers(targets, mailbox));
        let here: BTreeSet<Mailbox> = mailboxes.iter().cloned().collect();
        let named = targets.iter().filter_map(|target| account.mailbox(target));
        mailboxes.extend(named.filter(|mailbox| !here.contains(mailbox)));
        mailboxes
            .into_iter()
            .map(|mailbox| Candidate {
                rules: Rules::of_mailbox(&mailbox, account),
                mailbox,
                near: SideVerdict::Clean,
                far: SideVerdict::Clean,
                scanned: false,
                wire: None,
            })
            .collect()
    }

    /// Asks the server and the disk. Fails when the connection is lost.
    fn ask(
        &mut self,
        client: &mut Client,
        question: &Question<'_>,
        candidates: &mut [Candidate],
        gone: &BTreeMap<String, Gone>,
    ) -> Result<Vec<Target>, ClientError> {
        let AccountContext { config, account, .. } = self.context;
        let mut scope = inventory_scope(account, true);
        let named = |target: &Target| matches!(target, Target::Mailbox { .. });
        if client.capabilities().namespace() && question.targets.iter().all(named) {
            // No list is needed to know of these.
            scope.prefixes.clear();
            scope.subscriptions = false;
        }
        let inventory = client.inventory(&scope)?;
        let mailboxes: Vec<&Mailbox> =
            candidates.iter().map(|candidate| &candidate.mailbox).collect();
        let mut there = ServerMailboxes::new(account, config.version, &mailboxes, &[], &inventory);
        let missing = there.names_without_status();
        if !missing.is_empty() {
            for (name, status) in missing.iter().zip(client.status(&missing)?) {
                if let Some(status) = status {
                    there.report(name, status);
                }
            }
        }
        for (at, candidate) in candidates.iter_mut().enumerate() {
            candidate.wire = there.name(at).cloned();
            self.scan_near(candidate, gone);
        }
        self.scan_far(client, candidates, &mut there, gone)?;
        let unjudged = candidates.iter().filter(|each| !each.far.is_known());
        self.unjudged = unjudged.map(|each| clean::key(&each.mailbox)).collect();
        self.note_clean(question, candidates);
        let mut new = there.only_on_server().to_vec();
        new.retain(|(_, target)| target.is_in(question.targets));
        Ok(new.into_iter().map(|(_, target)| target).collect())
    }

    fn scan_near(&mut self, candidate: &mut Candidate, gone: &BTreeMap<String, Gone>) {
        let rules = match &candidate.rules {
            Ok(rules) => rules,
            Err(why) => {
                candidate.near = SideVerdict::Unknown(why.clone());
                return;
            }
        };
        let key = clean::key(&candidate.mailbox);
        let by_run = gone.get(&key);
        let clean = self.clean.entry(key).or_default();
        let found = maildir::scan_mailbox(&candidate.mailbox, rules, clean, by_run, None);
        let Some((scan, memory)) = found else {
            candidate.near = SideVerdict::Unknown("not here".to_owned());
            return;
        };
        if let Some(memory) = memory {
            clean.near = Some(memory);
            self.learned = true;
        }
        candidate.near = scan.verdict;
    }

    /// The far sides, as many at once as is sensible.
    fn scan_far(
        &mut self,
        client: &mut Client,
        candidates: &mut [Candidate],
        there: &mut ServerMailboxes,
        gone: &BTreeMap<String, Gone>,
    ) -> Result<(), ClientError> {
        let mut pending: Vec<(usize, Box<PendingScan>)> = Vec::new();
        let mut without_modseq = 0_u32;
        for (at, candidate) in candidates.iter_mut().enumerate() {
            let key = clean::key(&candidate.mailbox);
            let clean = self.clean.entry(key.clone()).or_default();
            let status = there.status(at);
            let step = scan::begin(
                &candidate.mailbox,
                &candidate.rules,
                status,
                clean,
                gone.get(&key),
                true,
            );
            match step {
                FarStep::Known(verdict) => candidate.far = verdict,
                FarStep::Scan(scan) => {
                    let flags_show = status.is_some_and(|now| now.highest_modseq.is_some());
                    without_modseq += if flags_show { 0 } else { scan.messages };
                    if without_modseq > scan::MOST_MESSAGES {
                        let why = "too many messages to compare without CONDSTORE";
                        candidate.far = SideVerdict::Unknown(why.to_owned());
                    } else {
                        pending.push((at, scan));
                    }
                }
            }
        }
        for part in batches(pending) {
            let names: Vec<Option<String>> =
                part.iter().map(|(at, _)| there.name(*at).cloned()).collect();
            let scopes: Vec<(usize, ScanScope)> =
                part.iter().map(|(at, scan)| (*at, scan.scope.clone())).collect();
            let scanned = scan_all(client, &names, &scopes)?;
            for (name, scan) in names.iter().zip(&scanned) {
                if let (Some(name), Some(Ok(scan))) = (name, scan) {
                    there.report(name, scan.after);
                }
            }
            for ((at, scan), scanned) in part.into_iter().zip(scanned) {
                let Some(candidate) = candidates.get_mut(at) else { continue };
                let Ok(rules) = &candidate.rules else { continue };
                let key = clean::key(&candidate.mailbox);
                let clean = self.clean.entry(key.clone()).or_default();
                let now = there.status(at);
                let by_run = gone.get(&key);
                let found = scan.finish(&candidate.mailbox, rules, scanned, now, clean, by_run);
                self.learned |= found.learned;
                candidate.scanned = found.verdict == Some(SideVerdict::Clean);
                let changing = || SideVerdict::Unknown("it changes while it is scanned".to_owned());
                candidate.far = found.verdict.unwrap_or_else(changing);
                // What is gone there may be what is missing here.
                if found.learned && matches!(candidate.near, SideVerdict::Changed(_)) {
                    self.scan_near(candidate, gone);
                }
            }
        }
        Ok(())
    }

    /// The far sides that were scanned and found clean.
    fn note_clean(&self, question: &Question<'_>, candidates: &[Candidate]) {
        let far = |mailbox: &Mailbox| self.clean.get(&clean::key(mailbox))?.far.as_ref();
        let scanned = candidates.iter().filter(|candidate| candidate.scanned);
        let found: Vec<_> = scanned
            .filter_map(|candidate| Some((&candidate.mailbox, far(&candidate.mailbox)?)))
            .collect();
        for line in note_clean(self.context.account, question.dir, &found) {
            let _ = writeln!(std::io::stderr(), "mutt-sync: {}", sanitize(&line));
        }
    }

    fn disconnect(&mut self) {
        if let Some(client) = self.client.take() {
            client.leave();
        }
    }

    /// Judges, and saves what was learned.
    fn compare(&mut self, server: &Server, question: &Question<'_>) -> Judgement {
        let mut candidates = self.candidates(question.targets);
        self.clean = question.dir.read_json(clean::FILE).unwrap_or_default();
        let told_of = self.options.person.then_some(self.context.account.name.as_str());
        let opened =
            Client::open_aloud(server, self.options.prompt, told_of, self.shutdown.cancel());
        let asks = self.options.prompt == Prompt::Terminal;
        let mut client = match opened {
            Ok(client) => client,
            // mbsync may manage: it knows more mechanisms, and asks for passwords.
            Err(error)
                if error.status == ExitStatus::Config
                    || error.kind == ErrorKind::NoPassword && asks =>
            {
                self.note(format!("not compared before the run: {error}"));
                return Judgement::Run(question.targets.clone());
            }
            Err(error) => return Judgement::Failed(error),
        };
        if question.full {
            self.note("a run of everything is due, or was asked for".into());
        }
        let gone: BTreeMap<String, Gone> = question.dir.read_json(clean::GONE).unwrap_or_default();
        let asked = self.ask(&mut client, question, &mut candidates, &gone);
        self.save(question.dir);
        let new = match asked {
            Ok(new) => new,
            Err(ClientError::Lost(error)) => return Judgement::Failed(error),
            Err(ClientError::Refused(answer)) => {
                self.note(format!("not compared before the run: {}", answer.text));
                client.leave();
                return Judgement::Run(question.targets.clone());
            }
        };
        if question.full {
            // With what is new by name: a channel may have to be run without what is held.
            self.mailboxes = self.run_mailboxes(&candidates, &gone);
            self.client = Some(client);
            return Judgement::Run(question.targets.iter().cloned().chain(new).collect());
        }
        let mut needed = question.refused.clone();
        for target in &needed {
            self.note(format!("{target}: trying again what was refused"));
        }
        for candidate in &candidates {
            let verdict = candidate.verdict();
            if verdict != Verdict::CLEAN {
                self.note(format!("{} {verdict}", candidate.mailbox.near));
                needed.insert(candidate.mailbox.target());
            }
        }
        for target in new {
            self.note(format!("{target} is only on the server"));
            needed.insert(target);
        }
        needed.extend(self.channels_without_judgement(question.targets));
        if needed.is_empty() {
            self.client = Some(client);
            return Judgement::InSync;
        }
        self.mailboxes = self.run_mailboxes(&candidates, &gone);
        self.client = Some(client);
        Judgement::Run(self.context.account.widened(&needed))
    }

    /// For a run over our connection, and not for a question alone.
    fn run_mailboxes(
        &self,
        candidates: &[Candidate],
        gone: &BTreeMap<String, Gone>,
    ) -> RunMailboxes {
        let mut mailboxes = RunMailboxes::default();
        for Candidate { mailbox, wire, .. } in candidates {
            let (Some(wire), key) = (wire, clean::key(mailbox)) else { continue };
            let clean = self.clean.get(&key).filter(|_| self.context.settings.changedsince);
            mailboxes.add(wire, mailbox, clean, gone.get(&key));
        }
        mailboxes
    }

    /// Channels on which no verdict can be given: those mailboxes of theirs, too, that
    /// are not here.
    fn channels_without_judgement(&self, targets: &BTreeSet<Target>) -> Vec<Target> {
        let channels = self.context.account.channels.iter();
        channels
            .filter(|channel| Rules::of(channel).is_err())
            .map(|channel| Target::Channel(channel.name.clone()))
            .filter(|channel| channel.is_in(targets))
            .collect()
    }

    fn save(&mut self, dir: &StateDir) {
        // A waiter has its own memory, and writes that.
        if std::mem::take(&mut self.learned) && !dir.is_locked(lock::WAITER) {
            // Lost, it is learned again.
            let _ = dir.write_json(clean::FILE, &self.clean);
        }
    }
}

impl Judge for Survey<'_> {
    fn logs_in(&self) -> bool {
        true
    }

    fn judge(&mut self, question: &Question<'_>) -> Judgement {
        // Nothing of the last question is of use for this one.
        self.disconnect();
        *self = Survey::new(self.context, self.shutdown.clone(), self.options);
        let account = self.context.account;
        let judgeable = account.channels.iter().any(|channel| {
            let whole = Target::Channel(channel.name.clone());
            let asked = question.targets.iter().any(|target| match target {
                Target::Mailbox { channel: of, .. } => *of == channel.name,
                wider => wider.covers(&whole),
            });
            // One-way channels may delete, too: see `FarLookup::missing`.
            asked && (Rules::of(channel).is_ok() || channel.pulls_deletions())
        });
        match &account.server {
            Some(server) if judgeable => self.compare(server, question),
            _ => Judgement::Run(question.targets.clone()),
        }
    }

    fn names_nested(&self) -> bool {
        let has = |client: &Client| client.capabilities().namespace();
        self.context.settings.handover || self.client.as_ref().is_none_or(has)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn reasons(&self) -> &[String] {
        &self.reasons
    }

    fn gone_there(&self, mailbox: &Mailbox) -> Option<UidSet> {
        let key = clean::key(mailbox);
        let clean = self.clean.get(&key).filter(|_| !self.unjudged.contains(&key))?;
        Some(losses::gone_there(clean, mailbox).unwrap_or_default())
    }

    fn far_side(&mut self) -> Option<Box<dyn FarLookup + '_>> {
        let (messages, client, context) = (&mut self.far, self.client.as_mut()?, self.context);
        Some(Box::new(FarAccess { messages, client, context, watched: false }))
    }

    fn run(&mut self, attempt: &Attempt<'_>, lock: &mut Lock) -> RunEnd {
        let Some(mut client) = self.client.take() else { return attempt.run(lock, None) };
        if !self.context.settings.handover {
            // mbsync's own may be one too many for the server.
            client.leave();
            return attempt.run(lock, None);
        }
        let before = self.stamps();
        let mailboxes = std::mem::take(&mut self.mailboxes);
        let names = mailboxes.names.clone();
        let (ended, outcome) = Lease::run(&mut client, attempt, lock, mailboxes);
        self.say(|| outcome.to_string());
        self.bytes = outcome.bytes();
        client.leave();
        if ended.exit == ExitStatus::Done {
            self.follow_run(&before);
            let dir = StateDir::existing(self.context.base, &self.context.account.name);
            if let LeaseOutcome::Used { scans, .. } = outcome {
                self.judge_run(&dir, &names, &scans);
            }
            self.save(&dir);
        }
        ended
    }
}

impl Survey<'_> {
    /// The stamps of the records, by key of their mailboxes.
    fn stamps(&self) -> BTreeMap<String, (Mailbox, Option<Stamp>)> {
        let account = self.context.account;
        let known = self.clean.keys().filter_map(|key| {
            let mailbox = clean::mailbox(account, key)?;
            let stamp = Stamp::of_record(&mailbox);
            Some((key.clone(), (mailbox, stamp)))
        });
        known.collect()
    }

    /// What is remembered goes with the records as the run has left them.
    fn follow_run(&mut self, before: &BTreeMap<String, (Mailbox, Option<Stamp>)>) {
        for (key, (mailbox, stamp)) in before {
            let Some(far) = self.clean.get_mut(key).and_then(|clean| clean.far.as_mut()) else {
                continue;
            };
            self.learned |= far.follow_run(stamp.as_ref(), Stamp::of_record(mailbox));
        }
    }

    /// What the run was told of far sides is remembered where it shows them clean. `names`:
    /// see [`RunMailboxes`].
    fn judge_run(&mut self, dir: &StateDir, names: &[(Box<str>, Box<str>)], scans: &[ScanByRun]) {
        let account = self.context.account;
        let gone: BTreeMap<String, Gone> = dir.read_json(clean::GONE).unwrap_or_default();
        for ran in scans {
            for (_, key) in names.iter().filter(|(wire, _)| **wire == *ran.name) {
                let Some(mailbox) = clean::mailbox(account, key) else { continue };
                let Ok(rules) = Rules::of_mailbox(&mailbox, account) else { continue };
                let clean = self.clean.entry(key.to_string()).or_default();
                let by_run = gone.get(&**key);
                let found = scan::judge_run(&mailbox, &rules, ran.clone(), None, clean, by_run);
                self.learned |= found.learned;
            }
        }
    }
}

/// These far sides were scanned and found clean: what was held there is over, and messages
/// that mbsync has passed over without a word are put on record. Returns what is new, a
/// line each.
#[must_use]
pub fn note_clean(
    account: &Account,
    dir: &StateDir,
    found: &[(&Mailbox, &CleanServer)],
) -> Vec<String> {
    held::note_clean(dir, found.iter().map(|(mailbox, _)| *mailbox));
    let now = SystemTime::now();
    let lines = |(mailbox, far): &(&Mailbox, &CleanServer)| {
        refused::note_scan(account, dir, mailbox, far, now)
    };
    found.iter().flat_map(lines).collect()
}

/// In parts that a server can be asked for at once.
fn batches(pending: Vec<(usize, Box<PendingScan>)>) -> Vec<Vec<(usize, Box<PendingScan>)>> {
    let mut parts: Vec<Vec<(usize, Box<PendingScan>)>> = Vec::new();
    let mut messages = 0_u32;
    for (at, scan) in pending {
        messages = messages.saturating_add(scan.messages);
        match parts.last_mut() {
            Some(part) if part.len() < MOST_SCANS && messages <= scan::MOST_MESSAGES => {
                part.push((at, scan));
            }
            _ => {
                messages = scan.messages;
                parts.push(vec![(at, scan)]);
            }
        }
    }
    parts
}

/// Scans these mailboxes, which have these wire names, over one connection.
pub fn scan_all(
    client: &mut Client,
    names: &[Option<String>],
    scans: &[(usize, ScanScope)],
) -> Result<Vec<Scanned>, ClientError> {
    let requests: Vec<ScanRequest> = names
        .iter()
        .zip(scans)
        .filter_map(|(name, (_, scope))| {
            let ScanScope { opening, since, known, messages } = scope.clone();
            Some(ScanRequest { name: name.clone()?, opening, since, known, messages })
        })
        .collect();
    let mut scanned = client.scan_all(&requests)?.into_iter();
    Ok(names.iter().map(|name| name.as_ref().and_then(|_| scanned.next())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::context::tests::Fixture;

    #[test]
    fn nothing_of_a_question_is_left_at_the_next() {
        let fixture = Fixture::new(
            "IMAPStore far\nHost localhost\n\nMaildirStore near\nPath /nowhere/\n\n\
             Channel Home\nFar :far:\nNear :near:\n",
        );
        let context = fixture.context();
        let options = RunOptions::in_background(context.settings);
        let mut survey = Survey::new(context, Shutdown::never().unwrap(), options);
        survey.bytes = 7;
        survey.note("INBOX differs".into());
        survey.unjudged.insert("Home\nINBOX".into());
        let dir = StateDir::open(context.base, &context.account.name).unwrap();
        let nothing = BTreeSet::new();
        let question = Question { targets: &nothing, full: false, refused: &nothing, dir: &dir };
        survey.judge(&question);
        assert!(survey.reasons().is_empty() && survey.unjudged.is_empty());
        assert_eq!(survey.bytes(), 0);
    }
}
