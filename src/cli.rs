//! The command line: which options there are, and their values. Does not depend on:
//! the rest of the program, but for how the settings spell durations.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};

/// The two calls of the key that syncs in the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyStep {
    /// Before mutt writes the folder.
    Begin,
    /// After that.
    Sync,
}

/// Run mbsync exactly when mail needs syncing, for mutt and neomutt
#[derive(Debug, Clone, Parser)]
#[allow(clippy::doc_markdown, clippy::struct_excessive_bools)] // help text; switches
#[command(
    name = "mutt-sync",
    disable_version_flag = true,
    disable_help_flag = true,
    next_help_heading = "Options",
    override_usage = "mutt-sync [OPTIONS] [NAME[:BOX[,BOX]...]]...",
    after_help = "NAME is a group or channel of .mbsyncrc, or an account or store: all channels on it.\n\
                  Without a name: $MUTT_SYNC_ACCOUNT, else the only account.\n\
                  See mutt-sync(1) for files, exit statuses and examples."
)]
pub struct Cli {
    /// What to sync or report on
    #[arg(value_name = "NAME[:BOX[,BOX]...]", help_heading = None::<&str>)]
    pub names: Vec<String>,

    /// Submit the request and return at once
    #[arg(short, long, group = "mode", help_heading = "Modes")]
    pub background: bool,

    /// Print the result of the last -f, for mutt's message line
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub result: bool,

    /// Wait until a sync is needed, sync, exit
    #[arg(short, long, group = "mode", help_heading = "Modes")]
    pub wait: bool,

    /// With --wait: continue waiting instead of exiting
    #[arg(long = "loop")]
    pub loop_forever: bool,

    /// Show the state of each account without contacting the server
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub status: bool,

    /// Print FORMAT with the state appended, for mutt's status_format
    #[arg(long, group = "mode", help_heading = "Modes", value_name = "FORMAT", num_args = 0..=1, default_missing_value = "", allow_hyphen_values = true)]
    pub status_line: Option<String>,

    /// List accounts, their mailboxes and Maildirs
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub list: bool,

    /// Check everything that a sync needs, and print how to fix it
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub check: bool,

    /// With --check: print what a bug report needs, without names
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    pub report: bool,

    /// Print lines for muttrc; with ACCOUNT, that account's identity file
    #[arg(long, group = "mode", help_heading = "Modes", value_name = "ACCOUNT", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["names", "all"])]
    pub muttrc: Option<String>,

    /// Print a .mbsyncrc for ADDRESS, to be completed
    #[arg(long, group = "mode", help_heading = "Modes", value_name = "ADDRESS", conflicts_with_all = ["names", "all", "mbsyncrc", "config"])]
    pub init: Option<String>,

    /// With --init: print an msmtprc instead
    #[arg(long)]
    pub msmtp: bool,

    /// Try again what mbsync could not transfer
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub retry: bool,

    /// Stop reporting what mbsync could not transfer
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub acknowledge: bool,

    /// Go ahead once with the deletions that are held
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub allow_deletions: bool,

    /// Sync a mailbox whose Maildir or record is not the one of the last run
    #[arg(long, group = "mode", help_heading = "Modes")]
    pub resync: bool,

    /// Every channel of every account
    #[arg(short, long, conflicts_with = "names")]
    pub all: bool,

    /// Print what would run, and why
    #[arg(short = 'n', long, conflicts_with_all = SYNCS.into_iter().chain(NO_SYNC))]
    pub dry_run: bool,

    /// Ignore throttle, pace and backoff
    #[arg(short, long, conflicts_with_all = NO_SYNC, conflicts_with = "wait")]
    pub force: bool,

    /// Run mbsync for everything that is asked for, whatever differs
    #[arg(long, conflicts_with_all = NO_SYNC, conflicts_with = "wait")]
    pub full: bool,

    /// Wait for the result, even when throttled
    #[arg(long, conflicts_with_all = NO_SYNC, conflicts_with_all = ["wait", "background"])]
    pub block: bool,

    /// Least average interval between two logins
    #[arg(long, value_name = "DURATION", value_parser = duration_or_zero, conflicts_with_all = NO_LIMITS)]
    pub throttle: Option<Duration>,

    /// With --wait: compare everything at least this often
    #[arg(long, value_name = "DURATION", alias = "timeout", value_parser = duration)]
    pub every: Option<Duration>,

    /// The configuration of mbsync to use
    #[arg(long, value_name = "FILE")]
    pub mbsyncrc: Option<PathBuf>,

    /// The configuration of mutt-sync to use
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// With --status, --list, --check: print JSON
    #[arg(long)]
    pub json: bool,

    /// Print errors only; -qq: only errors that will not go away by themselves
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,

    /// Print each decision and the output of mbsync
    #[arg(short, long)]
    pub verbose: bool,

    /// Internal: what a completion offers; of `mailboxes`, those of the name
    #[arg(long, hide = true, group = "mode", value_name = "KIND", value_parser = ["names", "accounts", "mailboxes"])]
    pub complete: Option<String>,

    /// Internal: which call of a key this is, for the one that has two
    #[arg(long, hide = true, value_name = "STEP", conflicts_with = "mode")]
    pub key_step: Option<KeyStep>,

    /// Internal: what a background process does
    #[arg(long, hide = true, value_name = "WORK")]
    pub child: Option<String>,

    /// Print the version
    #[arg(short = 'V', long)]
    pub version: bool,

    /// Print help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl Cli {
    /// What an option needs that was not given. Not by clap's `requires`, which asks for it
    /// only where nothing that was given conflicts with it.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        let reports = self.status || self.list || self.check;
        match self {
            Cli { msmtp: true, init: None, .. } => Some("--msmtp needs --init"),
            Cli { loop_forever: true, wait: false, .. } => Some("--loop needs --wait"),
            Cli { every: Some(_), wait: false, dry_run: false, child: None, .. } => {
                Some("--every needs --wait")
            }
            Cli { report: true, check: false, .. } => Some("--report needs --check"),
            Cli { json: true, .. } if !reports => Some("--json needs --status, --list or --check"),
            _ => None,
        }
    }
}

/// Modes that ask for a sync. With [`NO_SYNC`] they are all; their group would do, but the error
/// would list all of it.
const SYNCS: [&str; 5] = ["background", "wait", "retry", "allow_deletions", "resync"];

/// Modes that ask for no sync: options about one mean nothing with them.
const NO_SYNC: [&str; 9] = [
    "result",
    "status",
    "status_line",
    "list",
    "check",
    "muttrc",
    "init",
    "acknowledge",
    "complete",
];

/// Modes that neither start a run nor say when one could.
const NO_LIMITS: [&str; 6] = ["list", "check", "muttrc", "init", "acknowledge", "complete"];

fn duration(text: &str) -> Result<Duration, String> {
    crate::settings::duration(text, false)
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    crate::settings::duration(text, true)
}
