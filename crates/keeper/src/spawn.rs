//! Starts a keeper.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Link;

/// A new keeper listens within this.
const START: Duration = Duration::from_secs(5);

/// Connects to the keeper at `address`, which is started if there is none.
///
/// Under systemd it is put into a scope of its own where that can be had, so that stopping the service does not kill it
/// whatever the unit's `KillMode=` is. Otherwise it stays in the service's control group.
pub(crate) fn connect_or_start(address: &Path, program: &Path, arguments: &[OsString]) -> io::Result<Link> {
    match Link::connect(address) {
        Err(error) if is_missing(&error) => {}
        result => return result,
    }
    if is_service() {
        let mut scope = Command::new("systemd-run");
        scope.args(["--scope", "--quiet", "--collect", "--description=keeps FUSE sessions", "--"]);
        scope.arg(program).args(arguments);
        match start(address, &mut scope) {
            Ok(link) => return Ok(link),
            Err(error) => tracing::debug!(%error, "no scope for the keeper, so it stays in this service"),
        }
    }
    start(address, Command::new(program).args(arguments))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whether systemd runs this process as a service.
fn is_service() -> bool {
    env::var_os("INVOCATION_ID").is_some() && Path::new("/run/systemd/system").is_dir()
}

fn start(address: &Path, command: &mut Command) -> io::Result<Link> {
    // It outlives whoever reads what this process writes.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // What the service manager said to this process is not for that one.
    for name in
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]
    {
        command.env_remove(name);
    }
    let mut child = command.spawn()?;
    let give_up = Instant::now() + START;
    loop {
        match Link::connect(address) {
            Err(error) if is_missing(&error) && Instant::now() < give_up => failed(&mut child)?,
            Err(error) => {
                // It is of no use; the error is what counts.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
            Ok(link) => {
                // Another keeper may have been quicker than ours, which ends then.
                if Some(link.pid) != rustix::process::Pid::from_raw(child.id() as i32) {
                    let _ = child.wait();
                }
                return Ok(link);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child that ended well has found another keeper, which is about to listen.
fn failed(child: &mut Child) -> io::Result<()> {
    match child.try_wait()? {
        Some(status) if !status.success() => {
            Err(io::Error::other(format!("its program ended at once: {status}")))
        }
        _ => Ok(()),
    }
}

/// The program that runs as the keeper by default: this one.
pub(crate) fn own_program() -> PathBuf {
    // The link, not its target: also after the file was replaced or removed, this is the program that runs. By number,
    // since another program may be the one that follows it.
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}
