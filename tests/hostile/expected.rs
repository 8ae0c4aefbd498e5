//! What each fault must lead to at each step: the table.
//!
//! Rows are [`STEPS`](crate::steps::STEPS), columns are
//! [`FAULTS`](crate::faults::FAULTS); `print_the_table` in `main.rs` prints it.

use crate::faults::Fault;
use crate::steps::Step;
use mutt_sync::error::ExitStatus;

/// What must come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The dialogue goes on, perhaps with less than was hoped for.
    GoesOn,
    /// The connection is given up, with this status and one of these texts.
    Ends(ExitStatus, &'static [&'static str]),
}

use Expected::{Ends, GoesOn};

const LATE: &[&str] = &["no answer in time"];
const CLOSED: &[&str] = &["closed the connection"];
const UNDONE: &[&str] = &["OK to a login that has not happened"];
const ONE_MORE: &[&str] = &["a challenge after the last one"];
const FLOOD: &[&str] = &["too much: responses", "no answer in time"];

fn offline(texts: &'static [&'static str]) -> Expected {
    Ends(ExitStatus::Offline, texts)
}

/// What this fault must lead to at this step.
pub fn expected(step: Step, fault: Fault) -> Expected {
    let by_crate = matches!(step, Step::Capable | Step::Examine);
    match (fault, step) {
        (Fault::Silence | Fault::Trickle, _) => offline(LATE),
        (Fault::Close | Fault::HalfLine, _) => offline(CLOSED),
        (Fault::Bye, _) if by_crate => offline(CLOSED),
        (Fault::Bye, _) => Ends(ExitStatus::Later, &["goodbye: [UNAVAILABLE] [2Jcome back"]),
        (Fault::BareOk, Step::Greeting) => GoesOn,
        (fault, Step::Greeting) => no_greeting(fault),
        (Fault::EndlessLine | Fault::Literal, _) => offline(&["too much: a line"]),
        (Fault::HugeLiteral, _) => offline(&["too much: a literal"]),
        (Fault::Deep, _) => offline(&["too much: nested parentheses"]),
        (Fault::WrongTag, _) => offline(&["an unexpected tagged response"]),
        (Fault::EndlessLines | Fault::EndlessLongLines, _) => offline(FLOOD),
        // Around IDLE, reports of that many messages may come.
        (Fault::Crowd, step) if !(step.is_bulk() || matches!(step, Step::Idle | Step::Done)) => {
            offline(&["too much: responses"])
        }
        (Fault::BareOk, step) => bare_ok(step),
        (Fault::Continue, step) => go_on(step),
        (Fault::No | Fault::Echo, step) => refused(step, fault == Fault::Echo),
        (_, _) => GoesOn,
    }
}

/// What answers is no IMAP server.
fn no_greeting(fault: Fault) -> Expected {
    let texts: &[&str] = match fault {
        Fault::EndlessLine | Fault::Literal => &["too much: a line"],
        Fault::HugeLiteral => &["too much: a literal"],
        Fault::Deep => &["too much: nested parentheses"],
        _ => &["no greeting"],
    };
    Ends(ExitStatus::Denied, texts)
}

fn bare_ok(step: Step) -> Expected {
    match step {
        // Then the handshake is not answered.
        Step::StartTls => offline(LATE),
        Step::Capability => offline(&["no answer to CAPABILITY"]),
        Step::LoginLiteral | Step::Plain | Step::Xoauth2 | Step::Scram | Step::ScramFirst => {
            offline(UNDONE)
        }
        Step::ScramFinal => {
            Ends(ExitStatus::Denied, &["does not prove that it knows the password"])
        }
        Step::Idle => offline(&["OK where a continuation is due"]),
        _ => GoesOn,
    }
}

fn go_on(step: Step) -> Expected {
    match step {
        Step::Login | Step::LoginLiteral => offline(&["a challenge to LOGIN"]),
        Step::PlainSecret | Step::Xoauth2Token => offline(ONE_MORE),
        Step::Scram | Step::ScramFirst => Ends(ExitStatus::Denied, &["challenge makes no sense"]),
        Step::ScramFinal => {
            Ends(ExitStatus::Denied, &["does not prove that it knows the password"])
        }
        Step::Idle => GoesOn,
        _ => offline(LATE),
    }
}

fn refused(step: Step, echo: bool) -> Expected {
    match step {
        Step::StartTls => Ends(ExitStatus::Denied, &["refuses STARTTLS"]),
        Step::Capability => offline(&["no answer to CAPABILITY"]),
        Step::Capable => offline(&["CAPABILITY: "]),
        Step::Namespace => offline(&["NAMESPACE: "]),
        step if step.is_login() && echo => Ends(ExitStatus::Denied, &["refused: you said"]),
        step if step.is_login() => Ends(ExitStatus::Later, &["the server refuses logins for now"]),
        _ => GoesOn,
    }
}

/// Whether it ends when a step's time is over, and not before.
pub fn ends_by_time(step: Step, fault: Fault) -> bool {
    matches!(expected(step, fault), Ends(_, texts) if texts.contains(&LATE[0]))
}
