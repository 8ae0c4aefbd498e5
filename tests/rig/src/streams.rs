//! The connections that a proxy has open, to close them from outside.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};

/// Both ends of each connection, by its number.
#[derive(Default)]
pub struct OpenStreams(Mutex<HashMap<usize, [TcpStream; 2]>>);

impl OpenStreams {
    /// Keeps them until [`OpenStreams::forget`]; false if no descriptor is left for that.
    pub fn keep(&self, number: usize, client: &TcpStream, server: &TcpStream) -> bool {
        let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) else {
            return false;
        };
        self.all().insert(number, [client, server]);
        true
    }

    /// The connection has ended.
    pub fn forget(&self, number: usize) {
        self.all().remove(&number);
    }

    /// Closes all.
    pub fn cut(&self) {
        for stream in self.all().drain().flat_map(|(_, ends)| ends) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<usize, [TcpStream; 2]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
