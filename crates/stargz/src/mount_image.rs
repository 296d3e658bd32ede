//! `stargz mount` and `stargz umount`: an image's root file system at a directory, without containerd.
//!
//! The command starts itself again in the background, waits until that one says that the image is mounted, and ends.
//! The one in the background serves the contents and ends by itself when the directory is unmounted, by whomever.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use format::Digest;
use mount::UnmountMode;

use crate::{cli, logging};

mod serve;

/// What the process in the background writes to its standard output when the image is mounted.
const READY: &str = "ready";
/// Where images that are mounted without `--cache` keep their state.
const STATE: &str = "/var/lib/stargz/mounts";
/// How long `umount` waits for the process in the background to clean up.
const CLEANUP: Duration = Duration::from_secs(10);

/// Mounts an image.
///
/// # Errors
/// Says which part failed: the reference, the registry, a layer, the kernel.
pub fn mount(flags: &cli::Mount) -> anyhow::Result<()> {
    require_root()?;
    let dir = checked_dir(&flags.dir)?;
    if flags.foreground {
        logging::init(flags.log_level);
        return crate::runtime()?.block_on(serve::run(flags, &dir, &state_of(&dir), announce));
    }
    std::fs::create_dir_all(STATE).with_context(|| format!("cannot make {STATE}"))?;
    // Beside the state and not in it, so that it can tell why there is none.
    let log_path = state_of(&dir).with_extension("log");
    let log =
        std::fs::File::create(&log_path).with_context(|| format!("cannot make {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(std::env::args_os().skip(1))
        .arg("--foreground")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
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
    let mut text = String::new();
    if let Ok(log) = std::fs::File::open(&log_path) {
        // Enough for any error; a text that can't be read is shown as far as it can.
        let _ = log.take(64 << 10).read_to_string(&mut text);
    }
    let _ = std::fs::remove_file(&log_path);
    match last_error(&text) {
        Some(error) => bail!("{error}"),
        None => bail!("the process in the background ended with {status}"),
    }
}

/// Unmounts an image.
///
/// # Errors
/// Nothing is mounted there, or it is in use.
pub fn umount(flags: &cli::Umount) -> anyhow::Result<()> {
    require_root()?;
    let dir = flags.dir.canonicalize().with_context(|| format!("cannot find {}", flags.dir.display()))?;
    let state = state_of(&dir);
    if !mounted_at(&dir)? {
        bail!("nothing is mounted at {}", dir.display());
    }
    let mode = if flags.lazy { UnmountMode::Lazy } else { UnmountMode::Normal };
    if let Err(error) = mount::unmount(&dir, mode) {
        if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            bail!("{} is in use; stop what uses it (fuser -vm {0} lists it), or use --lazy", dir.display());
        }
        return Err(error.into());
    }
    // The process in the background removes its state last.
    let started = Instant::now();
    while state.exists() && started.elapsed() < CLEANUP {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
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

/// The state of the image that is mounted at `dir`.
fn state_of(dir: &Path) -> PathBuf {
    let digest = Digest::of(dir.as_os_str().as_encoded_bytes()).hex();
    Path::new(STATE).join(digest.get(..16).unwrap_or(&digest))
}

fn announce() {
    let mut out = std::io::stdout();
    // Nobody listens when the command was started with --foreground by hand and its output is closed.
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
}

/// The text of the last error line in the log of the process in the background.
fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "error");
    let said = errors.next().and_then(|line| line["msg"].as_str().map(str::to_owned));
    // Not a log line: the command line was refused, or the program crashed.
    said.or_else(|| {
        log.lines().rev().find(|line| !line.is_empty() && !line.starts_with('{')).map(str::to_owned)
    })
}
