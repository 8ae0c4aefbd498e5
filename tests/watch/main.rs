//! The waiter: what it notices, what it syncs, what it leaves alone, and how it
//! lives through bad networks, bad passwords and bad configurations.

mod config;
mod deletions;
mod everyday;
mod gaps;
mod histories;
mod lend;
mod many;
mod mutt;
mod odd_servers;
mod outage;
mod passwords;
mod signals;
mod stuck;
mod support;
