//! The waiter: what it notices, what it syncs, what it leaves alone, and how it
//! lives through bad networks, bad passwords and bad configurations.

mod config;
mod day;
mod deletions;
mod everyday;
mod gaps;
mod held;
mod histories;
mod lend;
mod limits;
mod log;
mod many;
mod mutt;
mod network;
mod odd_servers;
mod outage;
mod passwords;
mod providers;
mod question;
mod refused;
mod settling;
mod signals;
mod stuck;
mod support;
