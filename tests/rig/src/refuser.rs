//! A server between mbsync and the real one that answers single commands itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Which commands are answered, and how: `(part of the command, answer without tag)`.
type Rules = Arc<Mutex<Vec<(String, String)>>>;

/// Passes everything on but the commands that it answers itself.
pub struct Refuser {
    port: u16,
    rules: Rules,
}

impl Refuser {
    /// In front of the server at this port.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = listener.local_addr().expect("its address").port();
        let rules = Rules::default();
        let for_all = Arc::clone(&rules);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let rules = Arc::clone(&for_all);
                std::thread::spawn(move || pass(&client, &server, &rules));
            }
        });
        Refuser { port: own, rules }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers each command with this in it.
    pub fn answer(&self, command: &str, answer: &str) {
        self.rules.lock().unwrap().push((command.to_owned(), answer.to_owned()));
    }

    /// Leaves each command with this in it without an answer.
    pub fn ignore(&self, command: &str) {
        self.answer(command, "");
    }

    /// Answers none any more.
    pub fn relent(&self) {
        self.rules.lock().unwrap().clear();
    }
}

fn pass(client: &TcpStream, server: &TcpStream, rules: &Rules) {
    let to_client = Mutex::new(client);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut part, mut chunk) = (server, Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                part.extend_from_slice(&chunk[..count]);
                // Whole lines, so that an answer of ours comes between them.
                let Some(end) = part.iter().rposition(|&byte| byte == b'\n') else { continue };
                let lines: Vec<u8> = part.drain(..=end).collect();
                if to_client.lock().unwrap().write_all(&lines).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        let mut lines = BufReader::new(client);
        let mut line = Vec::new();
        let mut to_server = server;
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            let rule = |(command, answer): &(String, String)| {
                text.contains(command.as_str()).then(|| answer.clone())
            };
            let answer = rules.lock().unwrap().iter().find_map(rule);
            let done = match (answer, text.split_once(' ')) {
                (Some(answer), _) if answer.is_empty() => Ok(()),
                (Some(answer), Some((tag, _))) => {
                    to_client.lock().unwrap().write_all(format!("{tag} {answer}\r\n").as_bytes())
                }
                _ => to_server.write_all(&line),
            };
            if done.is_err() {
                break;
            }
            line.clear();
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}
