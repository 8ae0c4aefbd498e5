//! Draws the picture of the README into the file that is named: `make picture`.

fn main() {
    let to = std::env::args_os().nth(1).expect("the name of a file");
    std::fs::write(to, rig::picture::record().svg()).expect("write the picture");
}
