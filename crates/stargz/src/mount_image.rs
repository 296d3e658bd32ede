//! `stargz mount` and `stargz umount`: an image's root file system at a directory, without containerd.
//!
//! The command starts itself again in the background, waits until that one says that the image is mounted, and ends.
//! The one in the background serves the contents and ends by itself when the directory is unmounted, by whomever.

mod serve;
mod state;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mount::UnmountMode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::state::State;
use crate::{cli, config, logging};

/// What the process in the background writes to its standard output when the image is mounted.
const READY: &str = "ready";
/// How long a process that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(1);
/// How long `umount` waits for the process in the background to clean up.
const CLEANUP: Duration = Duration::from_secs(10);

/// Mounts an image.
///
/// # Errors
/// Says which part failed: the reference, the registry, a layer, the kernel.
pub fn mount(flags: &cli::Mount) -> anyhow::Result<()> {
    require_root()?;
    let reference: registry::Reference = flags.reference.parse()?;
    let dir = checked_dir(&flags.dir)?;
    let loaded = config::load(&flags.config, flags.config == Path::new(cli::DEFAULT_CONFIG))?;
    let state = State::of(&dir);
    let lock = free_state(&state, &dir)?;
    if flags.foreground {
        logging::init(flags.log_level, logging::LogFormat::Auto);
        let serve = serve::run(flags, &reference, &loaded.config, &dir, &state, announce);
        let served = crate::runtime()?.block_on(serve);
        state.clear();
        if served.is_ok() || !heard() {
            state.remove_log();
        }
        drop(lock);
        return served;
    }
    for warning in &loaded.warnings {
        // The log of the process in the background is read by nobody.
        eprintln!("stargz: warning: {warning}");
    }
    // The process in the background takes it.
    drop(lock);
    in_background(&state)
}

/// The lock of the state, after what a killed process left is cleared away.
fn free_state(state: &State, dir: &Path) -> anyhow::Result<File> {
    let started = Instant::now();
    let lock = loop {
        match state.lock()? {
            Some(lock) => break lock,
            // One that was killed holds its lock until the kernel has closed all its files.
            None if started.elapsed() < DYING => std::thread::sleep(Duration::from_millis(20)),
            None => {
                bail!("cannot mount at {}: another process is mounting or unmounting there", dir.display())
            }
        }
    };
    if state.exists() {
        state.clear();
    }
    Ok(lock)
}

fn in_background(state: &State) -> anyhow::Result<()> {
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(std::env::args_os().skip(1))
        .arg("--foreground")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(state.new_log()?)
        .spawn()
        .context("cannot start this program again in the background")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // Ends when the child says that it is ready, or ends.
        BufReader::new(stdout)
            .read_line(&mut said)
            .context("the process in the background cannot be heard")?;
    }
    if said.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().context("the process in the background cannot be waited for")?;
    let error = state.last_error();
    if let Some(_lock) = state.lock()? {
        state.clear();
        state.remove_log();
    }
    match error {
        Some(error) => bail!("{error}"),
        None => bail!("the process in the background ended with {status}"),
    }
}

/// Unmounts an image.
///
/// # Errors
/// No image is mounted there, or it is in use.
pub fn umount(flags: &cli::Umount) -> anyhow::Result<()> {
    require_root()?;
    let dir = std::path::absolute(&flags.dir)?;
    // A directory whose server is gone may not be looked at, and is known by its path all the same.
    let dir = dir.canonicalize().unwrap_or(dir);
    let state = State::of(&dir);
    if !state.exists() {
        bail!("no image is mounted at {} by stargz mount", dir.display());
    }
    if mounted_at(&dir)? {
        unmount(&dir, flags.lazy)?;
    }
    // The process in the background sees that and cleans up; if it was killed, that is left to us.
    let started = Instant::now();
    while started.elapsed() < CLEANUP {
        if let Some(_lock) = state.lock()? {
            state.clear();
            state.remove_log();
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{} is unmounted, but the process that served it still cleans up", dir.display())
}

fn unmount(dir: &Path, lazy: bool) -> anyhow::Result<()> {
    let mode = if lazy { UnmountMode::Lazy } else { UnmountMode::Normal };
    mount::unmount(dir, mode).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            anyhow::anyhow!(
                "{0} is in use; stop what uses it (fuser -vm {0} lists it), or use --lazy",
                dir.display()
            )
        } else {
            error.into()
        }
    })
}

fn require_root() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("must run as root: mounting needs CAP_SYS_ADMIN");
    }
    Ok(())
}

/// The directory to mount at, if it is one.
fn checked_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    let found = dir.canonicalize().with_context(|| format!("cannot mount at {}", dir.display()))?;
    if !found.is_dir() {
        bail!("cannot mount at {}: it is not a directory", found.display());
    }
    if mounted_at(&found)? {
        bail!("cannot mount at {}: something is mounted there already", found.display());
    }
    Ok(found)
}

fn mounted_at(dir: &Path) -> anyhow::Result<bool> {
    Ok(mount::mounts_below(dir)?.iter().any(|found| found.mount_point == dir))
}

/// Whether somebody may still read what this process says, and then its log.
fn heard() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    // That the other end of a pipe is closed is always reported.
    !poll(&mut fds, Some(&Timespec::default())).is_ok_and(|_| fds[0].revents().contains(PollFlags::ERR))
}

fn announce() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush())
}
