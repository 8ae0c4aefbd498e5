//! The picture in the README: a session of dovecot, mbsync, mutt and mutt-sync in three
//! terminals, as an SVG that shows one screen after the other and stays at the last.
//!
//! The lines in the terminals are those that the programs print, with the durations of
//! this run. One thing is replaced: the server's port, by that of IMAP (`PORT`). How
//! long a screen is shown, the titles and the notes beside the lines are the script's. It
//! shows no latencies: one run of a busy machine is no figure, and `benches/` has them.
//!
//! Does not depend on: where the picture is kept.

use crate::home::{Home, mutt_sync};
use crate::process::wait_until;
use crate::server::{Server, ServerOptions};
use crate::terminal::Terminal;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// What stands in place of the server's port.
const PORT: u16 = 143;

/// The terminals, from above: what each is called, and its lines.
const PANES: [(&str, u16); 3] = [("MUTT", 7), ("MUTT-SYNC AS A SERVICE", 8), ("A SHELL", 10)];
const MUTT: usize = 0;
const SERVICE: usize = 1;
const SHELL: usize = 2;
/// So many that long lines are broken between words.
const COLUMNS: u16 = 96;

/// The account, which each line of its waiter names.
const ACCOUNT: &str = "Me";

/// A character's width and a line's height, the margin, and a title's height.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 19.0;
const MARGIN: f64 = 18.0;
const TITLE: f64 = 32.0;

/// Black, red, green, yellow, blue, magenta, cyan, white.
const COLOURS: [&str; 8] =
    ["#1a1e29", "#ff9492", "#91d7a1", "#f2cc8f", "#33415c", "#c8a6f5", "#7fd1d8", "#eef1f6"];

/// A line that comes later is hidden until then, and one that goes is shown until then:
/// without animation the last screen is there.
const CSS: &str = "\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;\
fill:#c9d1de;white-space:pre}\
.b{font-weight:700}\
.t,.n{font:600 11px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#8792a6}\
.t{letter-spacing:.1em}\
.n{font-style:italic;font-weight:400;font-size:13px;text-anchor:end}\
.h{visibility:hidden}\
@keyframes h{0%,to{visibility:hidden}}\
@keyframes v{0%,to{visibility:visible}}\
@media(prefers-reduced-motion:reduce){*{animation:none!important}}";

/// What is set in mutt, besides what the rig's muttrc has.
const MUTTRC: &str = "\
set help=no index_format='%3C %S  %{%b %d}  %-17.17n  %s' pager_format=' %n: %s%> '
set status_format=\"mutt-sync --status-line ' %f   %m messages%?n?, %n new?%> '|\"
ignore to date
color normal default default
color status white blue
color indicator black cyan
color index white default ~N
color index yellow default ~F
color hdrdefault cyan default
";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Style {
    bold: bool,
    reverse: bool,
    front: Option<usize>,
    back: Option<usize>,
}

impl Style {
    /// After an escape sequence of these numbers (SGR).
    fn after(mut self, numbers: &str) -> Self {
        for number in numbers.split(';').map(|number| number.parse().unwrap_or(0)) {
            match number {
                0 => self = Style::default(),
                1 => self.bold = true,
                7 => self.reverse = true,
                22 => self.bold = false,
                27 => self.reverse = false,
                30..=37 => self.front = Some(number - 30),
                39 => self.front = None,
                40..=47 => self.back = Some(number - 40),
                49 => self.back = None,
                _ => {}
            }
        }
        self
    }

    fn text_colour(self) -> Option<&'static str> {
        let colour = if self.reverse { self.back.or(Some(0)) } else { self.front };
        colour.map(|colour| COLOURS[colour])
    }

    fn background(self) -> Option<&'static str> {
        let colour = if self.reverse { self.front.or(Some(7)) } else { self.back };
        colour.map(|colour| COLOURS[colour])
    }
}

/// A line of a terminal, in parts of one style, and a note beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Line {
    parts: Vec<(String, Style)>,
    note: &'static str,
}

impl Line {
    fn text(&self) -> String {
        self.parts.iter().map(|(text, _)| text.as_str()).collect()
    }
}

/// The lines of a screen with escape sequences. A style goes on in the next line.
fn lines(screen: &str) -> Vec<Line> {
    let mut style = Style::default();
    let mut all = Vec::new();
    for line in screen.lines() {
        let mut parts: Vec<(String, Style)> = Vec::new();
        for (at, piece) in line.split("\x1b[").enumerate() {
            let text = match piece.split_once('m').filter(|_| at > 0) {
                Some((numbers, text)) => {
                    style = style.after(numbers);
                    text
                }
                None => piece,
            };
            match parts.last_mut() {
                Some(last) if last.1 == style => last.0 += text,
                _ if text.is_empty() => {}
                _ => parts.push((text.to_owned(), style)),
            }
        }
        all.push(Line { parts, note: "" });
    }
    all
}

/// What all terminals show, and for how many seconds the picture shows it.
struct Shot {
    panes: Vec<Vec<Line>>,
    seconds: f64,
}

/// A session, as far as it has gone.
pub struct Session {
    terminals: Vec<Terminal>,
    port: u16,
    /// What lines of the service hold, in their order, and what is written beside them.
    notes: Vec<(String, &'static str)>,
    shots: Vec<Shot>,
}

impl Session {
    fn screens(&self) -> Vec<String> {
        self.terminals.iter().map(Terminal::coloured).collect()
    }

    /// Shows for this long what there is when nothing moves any more.
    fn show(&mut self, seconds: f64) {
        let mut seen = self.screens();
        wait_until(SOON, "the screens stand still", || {
            sleep(Duration::from_millis(300));
            let now = self.screens();
            std::mem::replace(&mut seen, now.clone()) == now
        });
        self.take(&seen, seconds);
    }

    fn take(&mut self, screens: &[String], seconds: f64) {
        let (ours, shown) = (format!(":{}", self.port), format!(":{PORT}"));
        let mut panes: Vec<Vec<Line>> =
            screens.iter().map(|screen| lines(&screen.replace(&ours, &shown))).collect();
        let mut service = panes[SERVICE].iter_mut();
        for (said, note) in &self.notes {
            let mut line = service.find(|line| line.text().contains(said));
            // A line that is broken has room in its second row.
            let room = usize::from(COLUMNS) - note.len();
            if line.as_ref().is_some_and(|line| line.text().len() > room) {
                line = service.next();
            }
            line.unwrap_or_else(|| panic!("no line {said:?}")).note = note;
        }
        self.shots.push(Shot { panes, seconds });
    }

    /// Types a command, and looks at what comes of it once that has begun.
    fn command(&mut self, terminal: usize, command: &str, answer: &str) {
        let letters: Vec<char> = command.chars().collect();
        let mut typed = "$ ".to_owned();
        for part in letters.chunks(2) {
            let part: String = part.iter().collect();
            self.terminals[terminal].text(&part);
            typed += &part;
            let is_there = |screen: &str| screen.trim_end().ends_with(typed.trim_end());
            self.terminals[terminal].wait(&typed, SOON, is_there);
            let screens = self.screens();
            self.take(&screens, 0.09);
        }
        self.show(0.6);
        self.terminals[terminal].keys(&["Enter"]);
        self.terminals[terminal].wait_for(answer, SOON);
    }

    /// Waits until the service says this, and writes a note beside it.
    fn note(&mut self, said: &str, note: &'static str) {
        self.terminals[SERVICE].wait_for(&format!("{ACCOUNT}: {said}"), SOON);
        self.notes.push((format!("{ACCOUNT}: {said}"), note));
    }

    /// Has mutt draw its status line again until it ends so.
    fn redraw(&self, state: &str) {
        wait_until(SOON, state, || {
            self.keys(&["C-l"]);
            sleep(Duration::from_millis(100));
            let screen = self.terminals[MUTT].screen();
            let line = screen.lines().find(|line| line.starts_with(" =")).unwrap_or_default();
            line.trim_end().ends_with(state)
        });
    }

    /// Presses keys in mutt.
    fn keys(&self, keys: &[&str]) {
        self.terminals[MUTT].keys(keys);
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let total: f64 = self.shots.iter().map(|shot| shot.seconds).sum();
        // By the time from which it is shown, and until when: in hundredths of a second.
        let mut groups: BTreeMap<(u32, Option<u32>), String> = BTreeMap::new();
        let mut top = 0.0;
        for (pane, (_, height)) in PANES.iter().enumerate() {
            top += TITLE;
            for row in 0..usize::from(*height) {
                let y = top + HEIGHT * f64::from(u16::try_from(row).expect("few rows"));
                let line = |shot: &Shot| shot.panes[pane].get(row).cloned().unwrap_or_default();
                let (mut now, mut at) = (0.0, 0);
                while at < self.shots.len() {
                    let (shown, from) = (line(&self.shots[at]), now);
                    while at < self.shots.len() && line(&self.shots[at]) == shown {
                        now += self.shots[at].seconds;
                        at += 1;
                    }
                    let until = (at < self.shots.len()).then(|| hundredths(now));
                    *groups.entry((hundredths(from), until)).or_default() += &draw(&shown, y);
                }
            }
            top += HEIGHT * f64::from(*height);
        }
        let (width, height) = (2.0 * MARGIN + WIDTH * f64::from(COLUMNS), top + MARGIN);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" xml:space=\"preserve\">\n\
             <title>mutt-sync beside mutt: new mail, a flag, a server that goes and comes, in \
             {total:.0} seconds</title>\n<style>{CSS}</style>\n\
             <rect x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"9\" fill=\"{}\" \
             stroke=\"#59647a\"/>\n",
            width - 1.0,
            height - 1.0,
            COLOURS[0]
        );
        let mut y = 0.0;
        for (title, rows) in PANES {
            if y > 0.0 {
                let line = y + 7.0;
                let _ = writeln!(svg, "<path d=\"M0 {line}H{width}\" stroke=\"#39435a\"/>");
            }
            let _ = writeln!(
                svg,
                "<text class=\"t\" x=\"{MARGIN}\" y=\"{}\">{title}</text>",
                y + TITLE - 8.0
            );
            y += TITLE + HEIGHT * f64::from(rows);
        }
        for ((from, until), lines) in groups.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            let s = |hundredths: u32| f64::from(hundredths) / 100.0;
            let animation = match (from, until) {
                (0, None) => String::new(),
                (from, None) => format!(" style=\"animation:h {}s\"", s(from)),
                (from, Some(until)) => {
                    format!(" class=\"h\" style=\"animation:v {}s {}s\"", s(until - from), s(from))
                }
            };
            let _ = writeln!(svg, "<g{animation}>\n{lines}</g>");
        }
        svg + "</svg>\n"
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a minute at most
fn hundredths(seconds: f64) -> u32 {
    (seconds * 100.0).round() as u32
}

fn length(text: &str) -> f64 {
    WIDTH * f64::from(u16::try_from(text.chars().count()).expect("a line of a terminal"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A line below this height: backgrounds, then the text, then the note.
fn draw(line: &Line, top: f64) -> String {
    let text = line.text();
    if text.trim().is_empty() && line.parts.iter().all(|(_, style)| style.background().is_none()) {
        return String::new();
    }
    let base = top + HEIGHT - 5.0;
    let (mut drawn, mut spans, mut x) = (String::new(), String::new(), MARGIN);
    for (at, (text, style)) in line.parts.iter().enumerate() {
        if let Some(colour) = style.background() {
            // tmux leaves out blanks at the end; mutt's bars go to the edge.
            let last = at + 1 == line.parts.len();
            let width = if last { MARGIN + WIDTH * f64::from(COLUMNS) - x } else { length(text) };
            let _ = writeln!(
                drawn,
                "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{HEIGHT}\" \
                 fill=\"{colour}\"/>"
            );
        }
        let bold = if style.bold { " class=\"b\"" } else { "" };
        let fill =
            style.text_colour().map_or(String::new(), |fill| format!(" style=\"fill:{fill}\""));
        let _ = write!(
            spans,
            "<tspan x=\"{x:.1}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\"{bold}{fill}>\
             {}</tspan>",
            length(text),
            escaped(text)
        );
        x += length(text);
    }
    let _ = writeln!(drawn, "<text y=\"{base}\">{spans}</text>");
    if !line.note.is_empty() {
        let edge = MARGIN + WIDTH * f64::from(COLUMNS);
        let note = escaped(line.note);
        let _ = writeln!(drawn, "<text class=\"n\" x=\"{edge:.1}\" y=\"{base}\">{note}</text>");
    }
    drawn
}

fn mail(day: u8, from: &str, subject: &str, body: &str) -> Vec<u8> {
    let (name, id) = (from.to_lowercase().replace(' ', "."), subject.len());
    format!(
        "From: {from} <{name}@example.net>\nTo: me@home.example\nSubject: {subject}\n\
         Date: {day} Nov 2026 09:30:00 +0000\nMessage-ID: <{day}.{id}@example.net>\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n{body}\n"
    )
    .into_bytes()
}

/// Runs the session, which takes a quarter of a minute.
pub fn record() -> Session {
    // In clear, so that its host is an address: where it has a name, the message that it
    // is gone depends on the resolver.
    let options = ServerOptions { users: vec![ACCOUNT.to_lowercase()], ..ServerOptions::default() };
    let mut server = Server::with(options);
    let mut home = Home::on(&server, &[ACCOUNT]);
    home.set_env("PS1", "\x1b[36m$\x1b[m ");
    std::os::unix::fs::symlink(mutt_sync(), home.path("bin/mutt-sync")).expect("a link");
    let mut far = server.imap(&ACCOUNT.to_lowercase());
    for (day, from, subject) in [
        (26, "Ada Lovelace", "Notes on the engine"),
        (27, "Cheap Watches", "Only today: everything must go"),
        (28, "Alan Turing", "Tea at four?"),
    ] {
        far.append("INBOX", &mail(day, from, subject, "Yours."), &["\\Seen"]);
    }
    home.mutt_sync(&[ACCOUNT]).ok();
    home.muttrc(ACCOUNT, MUTTRC);
    let programs: [&[&str]; 3] = [&["mutt", "-n", "-F", ".muttrc"], &["sh"], &["sh"]];
    let sized = programs.into_iter().zip(PANES);
    let terminals: Vec<Terminal> =
        sized.map(|(program, (_, rows))| Terminal::sized(&home, COLUMNS, rows, program)).collect();
    let mut session =
        Session { terminals, port: server.port(), notes: Vec::new(), shots: Vec::new() };
    session.terminals[MUTT].wait_for("Tea at four?", SOON);
    session.show(0.8);
    session.command(SERVICE, "mutt-sync --wait --loop -a", "");
    let status = || home.mutt_sync(&["--status"]).ok().stdout;
    wait_until(SOON, "a connection", || status().contains("watching by"));
    session.show(1.0);

    let body = "It compiles itself, too.";
    far.append("INBOX", &mail(29, "Grace Hopper", "The compiler is ready", body), &[]);
    session.note("INBOX 1 new", "a message arrives");
    session.terminals[MUTT].wait_for("The compiler is ready", SOON);
    session.redraw("1 new");
    session.show(3.0);

    session.keys(&["*", "Enter"]);
    session.terminals[MUTT].wait_for(body, SOON);
    session.show(2.0);
    session.keys(&["q", "F"]);
    session.show(1.0);
    session.keys(&["$"]);
    wait_until(SOON, "the flags on the server", || far.find("INBOX", body).letters() == "FS");
    session.note("INBOX 1 flag", "it is read and flagged in mutt");
    session.redraw("messages");
    session.show(3.0);

    server.stop();
    session.keys(&["2", "Enter"]);
    session.show(0.8);
    session.keys(&["d"]);
    session.show(0.8);
    session.keys(&["$"]);
    session.terminals[MUTT].wait_without("Cheap", SOON);
    session.note("offline", "the server is gone");
    session.redraw("[~^2!offline]");
    // For a second at least: a shorter time is written in more letters.
    sleep(Duration::from_secs(1));
    session.show(1.0);
    session.command(SHELL, "mutt-sync --status", "to push");
    session.show(4.0);

    server.restart();
    session.note("online again", "it is back");
    session.note("INBOX 1 gone", "what was deleted in mutt meanwhile");
    session.redraw("messages");
    session.show(2.0);
    session.command(SHELL, "mutt-sync --status", "in sync");
    session.show(1.0);
    session
}
