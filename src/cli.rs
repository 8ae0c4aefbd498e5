//! The command line, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

/// Runs mbsync exactly when mail needs syncing: locked, throttled, nothing lost.
#[derive(Debug, Clone, Parser)]
#[allow(clippy::doc_markdown, clippy::struct_excessive_bools)] // help text; switches
#[command(
    name = "mutt-sync",
    disable_version_flag = true,
    override_usage = "mutt-sync [OPTIONS] [NAME[:BOX[,BOX]...]]...",
    after_help = "NAME is a group or channel of .mbsyncrc, or an account or store: all channels on it.\n\
                  Without a name: $MUTT_SYNC_ACCOUNT, else the only account.\n\
                  See mutt-sync(1) for files, exit statuses and examples."
)]
pub struct Cli {
    /// What to sync
    #[arg(value_name = "NAME[:BOX[,BOX]...]")]
    pub names: Vec<String>,

    /// Submit the request and return at once
    #[arg(short, long, group = "mode")]
    pub background: bool,

    /// Wait until a sync is needed, sync, exit
    #[arg(short, long, group = "mode")]
    pub wait: bool,

    /// With --wait: continue waiting instead of exiting
    #[arg(long = "loop", requires = "wait")]
    pub endless: bool,

    /// Show the state of each account without contacting the server
    #[arg(long, group = "mode")]
    pub status: bool,

    /// Print FORMAT with the state appended, for mutt's status_format
    #[arg(long, group = "mode", value_name = "FORMAT", num_args = 0..=1, default_missing_value = "", allow_hyphen_values = true)]
    pub status_line: Option<String>,

    /// List accounts, their mailboxes and Maildirs
    #[arg(long, group = "mode")]
    pub list: bool,

    /// Check everything that a sync needs, and print how to fix it
    #[arg(long, group = "mode")]
    pub check: bool,

    /// Print lines for muttrc; with ACCOUNT, that account's identity file
    #[arg(long, group = "mode", value_name = "ACCOUNT", num_args = 0..=1, default_missing_value = "")]
    pub muttrc: Option<String>,

    /// Every channel of every account
    #[arg(short, long)]
    pub all: bool,

    /// Print what would run, and why
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Ignore throttle and backoff
    #[arg(short, long)]
    pub force: bool,

    /// Wait for the result, even when throttled
    #[arg(long)]
    pub block: bool,

    /// Least interval between two runs of an account
    #[arg(long, value_name = "DURATION", value_parser = duration_or_zero)]
    pub throttle: Option<Duration>,

    /// Sync everything at least this often
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

    /// Internal: what a background process does
    #[arg(long, hide = true, value_name = "WORK")]
    pub child: Option<String>,

    /// Print the version
    #[arg(short = 'V', long)]
    pub version: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::settings::duration(text, false)
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    crate::settings::duration(text, true)
}
