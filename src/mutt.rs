//! mutt
