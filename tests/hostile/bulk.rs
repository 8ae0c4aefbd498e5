//! Too much of what is right: answers in which nothing is wrong but their
//! number. What is kept of them must not outgrow what is of use.

use crate::faults::Fault;
use crate::program::{wait_cell, with_time};
use crate::steps::{Script, Step};
use std::time::{Duration, Instant};

/// KiB. What is said comes to 2 to 8 MiB.
const MOST: u64 = 8 * 1024;

#[test]
fn g10_answers_without_number_are_kept_only_as_far_as_they_are_of_use() {
    let plain = with_time(Step::Login, None, wait_cell).unwrap();
    let mut times = Vec::new();
    for (step, fault) in [
        (Step::List, Fault::Attributes),
        (Step::Notify, Fault::Again),
        (Step::MailboxStatus, Fault::Again),
        (Step::Search, Fault::Uids),
        (Step::Fetch, Fault::Uids),
    ] {
        let begun = Instant::now();
        // Time enough: it is to be quick by itself, not cut short.
        let peak = wait_cell(Script { step, fault: Some(fault) }, 60).unwrap().unwrap();
        let grown = peak.saturating_sub(plain);
        println!("{fault:?} at {step:?}: {grown} KiB, {:?}", begun.elapsed());
        times.push(begun.elapsed());
        assert!(grown < MOST, "{fault:?} at {step:?}: {grown} KiB");
    }
    // As many responses of either kind; to put each UID in order by itself took
    // hundreds of times as long as to read it.
    let (again, uids) = (times[1] + times[2], times[3] + times[4]);
    assert!(uids < again * 20 + Duration::from_secs(10), "{times:?}");
}
