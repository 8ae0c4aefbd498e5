//! A mount namespace of the test's own: small disks, disks that can be made
//! read-only, disks that do not notify. Gone with its value.
//!
//! A user namespace gives the right to mount without being root; the test looks
//! into it through `/proc/PID/root`.

use rig::{Home, Running, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// What to do where the kernel gives no namespace: these tests must not be skipped.
const MEND: &str = "no user namespace: sysctl kernel.unprivileged_userns_clone=1 (Debian), or \
                    kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or run as root \
                    outside of a container";

/// The namespace.
pub struct Mounts<'a> {
    home: &'a Home,
    holder: Running,
}

impl<'a> Mounts<'a> {
    /// One that has what the machine has, so far.
    #[track_caller]
    pub fn new(home: &'a Home) -> Self {
        let mut command = home.command("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command.args(["sh", "-c", "echo ready; exec sleep infinity"]);
        let holder = Running::start(command);
        let ready = || holder.stdout().contains("ready");
        rig::wait_until(SOON, "a namespace", || ready() || !holder.runs());
        assert!(ready(), "{MEND}\n{}", holder.stderr());
        Mounts { home, holder }
    }

    /// A command in it, with the home's environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.home.command("nsenter");
        let pid = self.holder.pid().to_string();
        command.args(["--target", &pid, "--user", "--mount", "--preserve-credentials", "--wd"]);
        command.arg("--").arg(program);
        command
    }

    /// mutt-sync in it.
    pub fn cmd(&self, args: &[&str]) -> Command {
        let mut command = self.command(rig::mutt_sync());
        command.args(args);
        command
    }

    /// Runs mutt-sync in it to its end.
    #[track_caller]
    pub fn mutt_sync(&self, args: &[&str]) -> rig::Output {
        run(&mut self.cmd(args), SOON)
    }

    /// How the test itself reaches a path in it.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// mount(8) with these arguments, at this place.
    #[track_caller]
    pub fn mount(&self, args: &[&str], at: &Path) {
        run(self.command("mount").args(args).arg(at), SOON).ok();
    }

    /// An empty disk of so many KiB and inodes at this place, which is made if need be.
    #[track_caller]
    pub fn small_disk(&self, at: &Path, kib: u32, inodes: u32) {
        std::fs::create_dir_all(at).expect("make directory");
        let options = format!("size={kib}k,nr_inodes={inodes}");
        self.mount(&["-t", "tmpfs", "-o", &options, "none"], at);
    }

    /// Fills the disk at this place to its last byte.
    pub fn fill(&self, at: &Path) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path(at).join("fill")).expect("a file to fill");
        for size in [65536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Takes back what [`Mounts::fill`] has done.
    pub fn empty(&self, at: &Path) {
        let _ = std::fs::remove_file(self.path(at).join("fill"));
    }

    /// Makes what is at this place read-only for who looks it up from now on. What
    /// is open stays as it is, as after an error that the kernel answers by itself.
    #[track_caller]
    pub fn read_only(&self, at: &Path) {
        // Made aside, and put over it in one step: between two, somebody may open a
        // file to write.
        let aside = at.with_extension("read-only");
        std::fs::create_dir_all(self.path(&aside)).expect("make directory");
        self.mount(&["--bind", &at.display().to_string()], &aside);
        self.mount(&["-o", "remount,bind,ro"], &aside);
        self.mount(&["--bind", &aside.display().to_string()], at);
    }

    /// Takes back what [`Mounts::read_only`] has done.
    #[track_caller]
    pub fn writable(&self, at: &Path) {
        let aside = at.with_extension("read-only");
        run(self.command("umount").arg("--lazy").arg(at).arg(aside), SOON).ok();
    }
}
