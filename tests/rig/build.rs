//! Compiles the fake mbsync. A dependency's binaries are not built by cargo
//! when only the main package's tests are asked for, and a script in its place
//! would take signals in another way than a compiled mbsync does.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let fake = out.join("fake-mbsync");
    let source = "helpers/fake_mbsync.rs";
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={source}");
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args(["--edition=2024", "-O", "--crate-name", "fake_mbsync", "-o"])
        .arg(&fake)
        .arg(source)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "rustc could not compile {source}");
    println!("cargo:rustc-env=RIG_FAKE_MBSYNC={}", fake.display());
}
