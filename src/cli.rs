//! The command line, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

/// Syncs mail with mbsync when something differs: locked, throttled, nothing lost.
#[derive(Debug, Clone, Parser)]
#[allow(clippy::doc_markdown, clippy::struct_excessive_bools)] // help text; switches
#[command(
    name = "mutt-sync",
    disable_version_flag = true,
    override_usage = "mutt-sync [OPTIONS] [NAME[:BOX[,BOX]...]]...",
    after_help = "NAME is a group or channel of .mbsyncrc, or an account or store: all channels on it.\n\
                  Without one: $MUTT_SYNC_ACCOUNT, else the only account there is.\n\
                  See mutt-sync(1) for files, exit statuses and examples."
)]
pub struct Cli {
    /// What to sync
    #[arg(value_name = "NAME[:BOX[,BOX]...]")]
    pub names: Vec<String>,

    /// Hand the request over and return at once
    #[arg(short, long, group = "mode")]
    pub background: bool,

    /// Block until a sync is needed, sync, exit
    #[arg(short, long, group = "mode")]
    pub wait: bool,

    /// With --wait: go on waiting instead of exiting
    #[arg(long = "loop", requires = "wait")]
    pub endless: bool,

    /// Show what is known of each account, without asking the server
    #[arg(long, group = "mode")]
    pub status: bool,

    /// Print FORMAT with the state appended, for mutt's status_format
    #[arg(long, group = "mode", value_name = "FORMAT", num_args = 0..=1, default_missing_value = "", allow_hyphen_values = true)]
    pub status_line: Option<String>,

    /// List accounts, their mailboxes and Maildirs
    #[arg(long, group = "mode")]
    pub list: bool,

    /// Check everything that a sync needs, and say the mend
    #[arg(long, group = "mode")]
    pub check: bool,

    /// Print lines for muttrc; with ACCOUNT, that account's identity file
    #[arg(long, group = "mode", value_name = "ACCOUNT", num_args = 0..=1, default_missing_value = "")]
    pub muttrc: Option<String>,

    /// Every channel of every account
    #[arg(short, long)]
    pub all: bool,

    /// Say what would run, and why
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Do not throttle
    #[arg(short, long)]
    pub force: bool,

    /// Stay until served, even when throttled
    #[arg(long)]
    pub block: bool,

    /// Distance between two runs of an account
    #[arg(long, value_name = "DURATION", value_parser = duration_or_zero)]
    pub throttle: Option<Duration>,

    /// A full run at the latest this long after the last
    #[arg(long, value_name = "DURATION", alias = "timeout", value_parser = duration)]
    pub every: Option<Duration>,

    /// The configuration of mbsync to use
    #[arg(long, value_name = "FILE")]
    pub mbsyncrc: Option<PathBuf>,

    /// The configuration of mutt-sync to use
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// With --status, --list, --check: for programs
    #[arg(long)]
    pub json: bool,

    /// Errors only; twice: only those that waiting will not mend
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,

    /// Say what is decided, and show mbsync's own output
    #[arg(short, long)]
    pub verbose: bool,

    /// Work for a process that another one leaves behind
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
