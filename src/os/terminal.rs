//! The terminal: a line at its end that says what goes on and is replaced, and a
//! pseudo-terminal for a child that says more on one.
//!
//! All of the program that prints while such a line may be shown prints through
//! [`above`]. Does not depend on: what the line says.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::process::getpgrp;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::wait::{self, Woken};
use crate::text::{clipped, sanitize};

/// To the first column, and nothing after the cursor.
const CLEAR: &str = "\r\x1b[K";
/// Where a terminal does not say how wide it is.
const COLUMNS: usize = 80;

static LINE: Mutex<LiveLine> = Mutex::new(LiveLine { text: String::new(), is_shown: false });

struct LiveLine {
    /// Empty: none.
    text: String,
    is_shown: bool,
}

impl LiveLine {
    fn lock() -> MutexGuard<'static, LiveLine> {
        LINE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn erase(&mut self) {
        if self.is_shown && may_write() {
            self.is_shown = false;
            write(CLEAR);
        }
    }

    /// In one write, so that nothing flickers.
    fn draw(&mut self) {
        if self.text.is_empty() {
            return self.erase();
        }
        if !may_write() {
            return;
        }
        self.is_shown = true;
        write(&format!("\r{}\x1b[K", clipped(&self.text, line_columns())));
    }
}

/// Gives the terminal back as it was: a program that is ended while it asks for a password
/// (getpass(3)) leaves it without echo and without Control-C.
pub struct SavedModes(Option<Termios>);

impl SavedModes {
    /// Of the terminal on standard input.
    #[must_use]
    pub fn of_stdin() -> Self {
        SavedModes(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for SavedModes {
    fn drop(&mut self) {
        let (Some(saved), stdin) = (&self.0, io::stdin()) else { return };
        let differs = tcgetattr(&stdin).is_ok_and(|now| now.local_modes != saved.local_modes);
        // From the background it would stop us.
        if differs && tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp()) {
            let _ = tcsetattr(&stdin, OptionalActions::Now, saved);
        }
    }
}

/// Not from the background, where it would draw over others or be stopped (`stty tostop`),
/// and not where it would have to wait: for Ctrl-Q, or for a reader that is gone.
fn may_write() -> bool {
    let stderr = io::stderr();
    let in_front = tcgetpgrp(&stderr).is_ok_and(|group| group == getpgrp());
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    in_front
        && matches!(wait::wait(&mut fds, Some(Instant::now()), None), Ok(Woken::Ready))
        && fds.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
}

fn write(text: &str) {
    let mut terminal = io::stderr().lock();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

/// How many columns a line may take without reaching the last one, where some terminals
/// go on to the next line.
#[must_use]
pub fn line_columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map(|size| usize::from(size.ws_col)).ok().filter(|columns| *columns > 0);
    columns.unwrap_or(COLUMNS) - 1
}

/// Whether standard error is a terminal that can replace a line.
#[must_use]
pub fn has_live_line() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Shows `text`, in the place of what was shown before; nothing, if it is empty.
pub fn show(text: String) {
    let mut line = LiveLine::lock();
    if line.text != text {
        line.text = text;
        line.draw();
    }
}

/// Prints with `print`, above the line that is shown.
pub fn above<T>(print: impl FnOnce() -> T) -> T {
    let mut line = LiveLine::lock();
    line.erase();
    let printed = print();
    line.draw();
    printed
}

/// Prints a line, unless somebody is being asked at the terminal: then it does not echo.
pub fn say(text: &str) {
    let echoes = tcgetattr(io::stderr()).is_ok_and(|m| m.local_modes.contains(LocalModes::ECHO));
    if echoes && may_write() {
        above(|| write(&format!("{}\n", sanitize(text))));
    }
}

/// A pseudo-terminal: what is read from the first was printed to the second.
///
/// # Errors
/// The system's, where it has none to give.
pub fn pseudo_terminal() -> io::Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master.into(), terminal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_is_printed_to_the_pseudo_terminal_is_read() {
        let (mut master, terminal) = pseudo_terminal().unwrap();
        assert!(terminal.is_terminal());
        File::from(terminal).write_all(b"\rC: 0/1").unwrap();
        let mut buffer = [0; 7];
        master.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"\rC: 0/1");
        // Its other end is closed.
        assert!(master.read(&mut buffer).is_err());
    }
}
