//! mutt-sync
fn main() {}
