//! What goes wrong around the program: disks, descriptors, clocks, processes
//! that are stopped or killed, a bad mbsync, a bad link. One file for each idea,
//! and one (`chaos`) for all of them at once.

mod chaos;
mod clocks;
mod descriptors;
mod disk;
mod held;
mod inotify;
mod machines;
mod mounts;
mod runs;
mod stopped;
mod support;
