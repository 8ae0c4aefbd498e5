//! Cyrus, with `idled`.

use super::{PASSWORD, program, unpacked, whole_day};
use crate::support::SOON;
use rig::{Home, Imap, is_root, process, wait_until};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

const ADMIN: &str = "admin";

/// The user that it runs as: root's runs as nobody.
fn user() -> String {
    if is_root() {
        return "nobody".to_owned();
    }
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Starts it; it ends with its home.
fn start(home: &Home) -> u16 {
    let root = unpacked("cyrus");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let dir = home.path("cyrus");
    for name in ["proc", "db", "socket", "log", "lock", "msg", "spool/stage.", "sasl"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let (bin, at) = (root.join("usr/lib/cyrus/bin"), dir.display());
    let settings = dir.join("imapd.conf");
    let text = format!(
        "configdirectory: {at}\npartition-default: {at}/spool\ndefaultpartition: default\n\
         admins: {ADMIN}\ncyrus_user: {}\nservername: localhost\nunixhierarchysep: yes\n\
         altnamespace: yes\nallowplaintext: yes\nsasl_pwcheck_method: auxprop\n\
         sasl_auxprop_plugin: sasldb\nsasl_sasldb_path: {at}/sasl/db\n\
         sasl_mech_list: PLAIN LOGIN\nidlesocket: {at}/socket/idle\n",
        user()
    );
    fs::write(&settings, text).unwrap();
    let (bin, with) = (bin.display(), format!("-C {}", settings.display()));
    let services = format!(
        "START {{\n  recover cmd=\"{bin}/ctl_cyrusdb {with} -r\"\n}}\n\
         SERVICES {{\n  imap cmd=\"{bin}/imapd {with}\" listen=\"127.0.0.1:{port}\" prefork=1\n}}\n\
         DAEMON {{\n  idled cmd=\"{bin}/idled {with}\"\n}}\nEVENTS {{\n}}\n"
    );
    fs::write(dir.join("cyrus.conf"), services).unwrap();
    for name in ["home", ADMIN] {
        let mut command = program(home, &root, "usr/sbin/saslpasswd2");
        command.args(["-p", "-c", "-u", "localhost", "-f"]).arg(dir.join("sasl/db")).arg(name);
        let file = home.write("password", PASSWORD);
        command.stdin(fs::File::open(file).unwrap());
        let status = process::spawn(&mut command).unwrap().wait().unwrap();
        assert!(status.success(), "saslpasswd2: {status}");
    }
    give_away(home, &dir);
    let mut master = program(home, &root, "usr/lib/cyrus/bin/master");
    master.arg("-C").arg(&settings).arg("-M").arg(dir.join("cyrus.conf"));
    master.arg("-p").arg(dir.join("pid")).current_dir(&dir);
    master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if is_root() {
        std::os::unix::process::CommandExt::uid(&mut master, 65534);
        std::os::unix::process::CommandExt::gid(&mut master, 65534);
    }
    // It ends with its home, by its mark.
    drop(process::spawn(&mut master).unwrap());
    wait_until(SOON, "Cyrus listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Imap::login(port, ADMIN, PASSWORD).create("user/home");
    port
}

fn give_away(home: &Home, dir: &Path) {
    if is_root() {
        let mut chown = std::process::Command::new("chown");
        let status = chown.args(["-R", "nobody:nogroup"]).arg(dir).status().unwrap();
        assert!(status.success(), "chown: {status}");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(home.path(""), open).unwrap();
    }
}

#[test]
fn g5_a_day_on_cyrus() {
    let home = Home::empty();
    let port = start(&home);
    let mode = if Imap::login(port, "home", PASSWORD).capabilities().contains(&"NOTIFY".to_owned())
    {
        "NOTIFY"
    } else {
        "IDLE"
    };
    whole_day(port, "", "sweep = \"1s\"\n", mode);
}
