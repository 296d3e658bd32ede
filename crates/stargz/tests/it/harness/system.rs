//! What the kernel says of processes and mounts.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use format::Digest;
use rustix::process::{Pid, Signal, kill_process};

/// Asks until the answer is yes; returns whether it was.
pub fn wait_until(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !ask() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Sends a signal; a process that is gone is as good.
pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The mount points at `prefix` and below it, in the order in which they were mounted.
pub fn mounts_below(prefix: &Path) -> Vec<PathBuf> {
    let table = mount::mounts_below(prefix).expect("/proc is mounted");
    table.into_iter().map(|found| found.mount_point).collect()
}

/// Processes other than this one that live and have an argument at or below `path`.
pub fn processes_that_name(path: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && names(*pid, path)).collect()
}

fn names(pid: u32, path: &Path) -> bool {
    // Empty for those that ended and were not waited for.
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| Path::new(std::ffi::OsStr::from_bytes(argument)).starts_with(path))
}

/// The most memory that a process ever had, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib << 10
}

/// Where `stargz mount` keeps its state for a directory.
pub fn state_of(dir: &Path) -> PathBuf {
    let digest = Digest::of(dir.as_os_str().as_bytes()).hex();
    Path::new("/var/lib/stargz/mounts").join(&digest[..16])
}

/// Whether the tests run in a user namespace, with fewer rights than root has.
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("/proc is mounted");
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}
