//! mbsyncrc
