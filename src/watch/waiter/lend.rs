//! The waiter lends its connection to the run that it starts.
//!
//! Knows what to offer, and what to do with a connection that comes back, or
//! does not. What happens to it meanwhile stands in [`crate::sync::handover`].

use super::Waiter;
use crate::error::{Error, ExitStatus};
use crate::imap::ClientError;
use crate::sync::account::{LeaseOutcome, RunReport};
use crate::sync::handover::Returned;

/// After so many that failed, mbsync makes connections of its own again.
const ENOUGH: u32 = 3;

/// How often it was done, and what came of it.
#[derive(Debug, Default)]
pub struct LeaseStats {
    used: u64,
    declined: u64,
    /// Of those that failed, how many came one after another.
    failed: u32,
    failed_in_all: u64,
}

impl Waiter<'_> {
    /// Runs mbsync, over the connection that is open if there is one.
    pub(super) fn run_lending(&mut self) -> RunReport {
        let may = self.scene.settings.handover && self.loans.failed < ENOUGH;
        let link = self.far.as_mut().filter(|_| may).and_then(super::ServerWatch::lend);
        self.disk.run_over(link)
    }

    /// The connection watches again, or is made anew.
    pub(super) fn take_back(&mut self, loan: Option<&LeaseOutcome>) {
        let Some(loan) = loan else { return };
        match loan {
            LeaseOutcome::Declined(why) => {
                self.loans.declined += 1;
                self.say(|| format!("not over the connection that is open: {why}"));
                return;
            }
            LeaseOutcome::Used(_) => {
                self.loans.used += 1;
                self.loans.failed = 0;
            }
            LeaseOutcome::Failed(..) => {
                self.loans.failed += 1;
                self.loans.failed_in_all += 1;
            }
        }
        let LeaseStats { used, declined, failed_in_all, .. } = self.loans;
        self.say(|| {
            format!("runs over our connection: {used}; without it: {declined}, after it: {failed_in_all}")
        });
        let (LeaseOutcome::Used(returned) | LeaseOutcome::Failed(_, returned)) = loan else {
            return;
        };
        match returned {
            Returned::Broken(why) => {
                self.lost(&ClientError::Lost(Error::new(ExitStatus::Offline, why.clone())));
            }
            // It ends with this process.
            Returned::Whole if !self.manner.endless => {}
            Returned::Whole => {
                if let Some(Err(error)) = self.far.as_mut().map(super::ServerWatch::taken_back) {
                    self.lost(&error);
                }
            }
        }
    }
}
