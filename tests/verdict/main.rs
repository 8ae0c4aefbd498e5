//! The parts that decide, against models and against real mbsync: the verdict on
//! a mailbox, the scheduler, and the readers of foreign bytes.

mod fuzz_corpus;
mod oracle;
mod properties;
mod scheduler_model;
