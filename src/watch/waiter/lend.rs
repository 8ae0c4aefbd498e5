//! The waiter lends its connection to the run that it starts.

use super::Waiter;
use crate::error::{Error, ExitStatus};
use crate::imap::ClientError;
use crate::lend::{Lease, LeaseOutcome, Returned};
use crate::sync::account::RunReport;

impl Waiter<'_> {
    /// Runs mbsync, over the connection that is open if there is one.
    pub(super) fn run_lending(&mut self) -> (RunReport, Option<LeaseOutcome>) {
        let may = self.scene.settings.handover && self.leases.allow_another();
        let client = self.far.as_mut().filter(|_| may).and_then(super::ServerWatch::lend);
        let (report, outcome) = self.disk.run_by(|attempt, lock| match client {
            Some(client) => {
                let (ended, outcome) = Lease::run(client, attempt, lock);
                (ended, Some(outcome))
            }
            None => (attempt.run(lock, None), None),
        });
        (report, outcome.flatten())
    }

    /// The connection watches again, or is made anew.
    pub(super) fn take_back(&mut self, outcome: Option<&LeaseOutcome>) {
        let Some(outcome) = outcome else { return };
        self.leases.record(outcome);
        let returned = match outcome {
            LeaseOutcome::Declined(why) => {
                self.say(|| format!("not over the connection that is open: {why}"));
                return;
            }
            LeaseOutcome::Used(returned) | LeaseOutcome::Failed(_, returned) => returned,
        };
        self.say(|| self.leases.to_string());
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
