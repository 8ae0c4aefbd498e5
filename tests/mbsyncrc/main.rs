//! The reader of `.mbsyncrc`.

mod choosing;
