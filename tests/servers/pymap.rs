//! pymap, with its mail in memory. It has neither NAMESPACE nor UNSELECT nor CONDSTORE.

use super::{PASSWORD, program, unpacked, whole_day};
use crate::support::SOON;
use rig::{Home, process, wait_until};
use std::fs::File;
use std::net::{TcpListener, TcpStream};

#[test]
fn g5_a_day_on_pymap() {
    let home = Home::empty();
    let root = unpacked("pymap");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let mut server = program(&home, &root, "bin/pymap");
    server.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--no-tls"]);
    server.args(["--no-service", "admin", "dict", "--demo-user", "home"]);
    server.args(["--demo-password", PASSWORD]).stdin(std::process::Stdio::null());
    let log = File::create(home.path("log")).unwrap();
    server.stdout(log.try_clone().unwrap()).stderr(log);
    // It ends with its home, by its mark.
    drop(process::spawn(&mut server).unwrap());
    wait_until(SOON, "pymap listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    whole_day(port, "", "sweep = \"1s\"\nevery = \"15s\"\n", "IDLE");
}
