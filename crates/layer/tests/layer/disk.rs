//! File systems of their own, in a file.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

/// A mounted file system that goes with the value.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A file system of so many bytes, or none and a word about it where this machine has not what it takes.
pub fn loop_disk(make: &[&str], size: u64) -> Option<Disk> {
    let skip = |why: &str| {
        // Past libtest, which hides what a passing test prints.
        let _ = writeln!(io::stderr(), "SKIPPED: {}: {why}", make.join(" "));
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("mounting needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    match Command::new(make[0]).args(&make[1..]).arg(file.path()).output() {
        Ok(made) if made.status.success() => {}
        Ok(made) => return skip(&String::from_utf8_lossy(&made.stderr)),
        Err(error) => return skip(&error.to_string()),
    }
    let mounted =
        Command::new("mount").args(["-o", "loop"]).arg(file.path()).arg(dir.path()).output().unwrap();
    if !mounted.status.success() {
        return skip(&String::from_utf8_lossy(&mounted.stderr));
    }
    // The loop device holds the file, whose name may go.
    Some(Disk(dir))
}
