//! The socket that containerd connects to.
//!
//! containerd gives up for seconds when a connection is refused, so the socket has to go on listening while the
//! daemon restarts. systemd can do that: the listening descriptor is put into its descriptor store, and a daemon that
//! it starts gets it back (`sd_notify(3)`, `FDSTORE=1`; `sd_listen_fds(3)`). A socket unit works the same way, and so does
//! the keeper, where there is one.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, bail};
use keeper::Keeping;
use rustix::io::Errno;
use sd_notify::NotifyState;

use crate::keeping::SNAPSHOTS;

/// Connections that wait to be accepted, as many as the standard library lets wait.
const BACKLOG: i32 = 128;

/// Listens on `address`: on a descriptor that was kept, or is among those that systemd `passed`, or on a new one, replacing a
/// socket that a former process left. It is given to the keeper, or else to systemd, to keep.
///
/// # Errors
/// The address can't be used, or something else than a socket lies there.
pub fn listen(
    address: &Path,
    passed: Vec<OwnedFd>,
    keeping: Option<&Keeping>,
) -> anyhow::Result<tokio::net::UnixListener> {
    let on_disk = is_there(address)?;
    let kept = keeping.and_then(|keeping| match keeping.take(SNAPSHOTS) {
        Ok(kept) => kept.map(|kept| kept.fd),
        Err(error) => {
            tracing::warn!(%error, "the listening socket of the former daemon is lost");
            None
        }
    });
    let mut listeners = kept.into_iter().chain(passed).map(UnixListener::from);
    let here = |listener: &UnixListener| {
        listener.local_addr().is_ok_and(|local| local.as_pathname() == Some(address))
    };
    // A descriptor whose path is gone can be reached by nobody.
    let listener = match listeners.find(here).filter(|_| on_disk) {
        Some(listener) => {
            tracing::debug!(address = %address.display(), "goes on listening");
            // Once more, in our own name: see `is_served`.
            rustix::net::listen(&listener, BACKLOG).context("cannot go on listening")?;
            listener
        }
        None => bind(address, on_disk)?,
    };
    match keeping {
        Some(keeping) => {
            if let Err(error) = keeping.store(SNAPSHOTS, listener.as_fd(), &[], None) {
                tracing::warn!(%error, "a restart interrupts containerd for seconds");
            }
        }
        None => keep(&listener),
    }
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

/// Listens on a socket that nobody keeps, for those who try again when they are refused. The same otherwise.
///
/// # Errors
/// As of [`listen`].
pub fn listen_anew(address: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    let listener = bind(address, is_there(address)?)?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

/// Whether a socket lies at `address`.
fn is_there(address: &Path) -> anyhow::Result<bool> {
    match fs::symlink_metadata(address) {
        Ok(found) if found.file_type().is_socket() => Ok(true),
        Ok(_) => bail!("{} exists and is no socket; choose another address", address.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", address.display())),
    }
}

fn bind(address: &Path, on_disk: bool) -> anyhow::Result<UnixListener> {
    make_way(address, on_disk)?;
    UnixListener::bind(address).with_context(|| format!("cannot listen on {}", address.display()))
}

/// Makes it possible to bind a new socket to `address`: takes one away that a former process left.
///
/// # Errors
/// Somebody listens there, or something else than a socket lies there.
pub fn free(address: &Path) -> anyhow::Result<()> {
    make_way(address, is_there(address)?)
}

fn make_way(address: &Path, on_disk: bool) -> anyhow::Result<()> {
    if on_disk {
        if UnixStream::connect(address).is_ok_and(|stream| is_served(&stream)) {
            bail!("another process serves on {}; stop it, or choose another address", address.display());
        }
        fs::remove_file(address)
            .with_context(|| format!("cannot remove the former socket {}", address.display()))?;
    } else if let Some(dir) = address.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make directory {} for the socket", dir.display()))?;
    }
    Ok(())
}

/// Whether the process that listens lives. A keeper may hold the socket of a daemon that is gone, and of another root than
/// ours; nobody is ever going to accept what connects to it.
fn is_served(stream: &UnixStream) -> bool {
    // Whoever called listen(2) last, see unix(7).
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| rustix::process::test_kill_process(peer.pid) != Err(Errno::SRCH))
}

/// Gives the descriptor to systemd.
fn keep(listener: &UnixListener) {
    // Does nothing without systemd.
    let stored = sd_notify::notify_with_fds(
        &[NotifyState::FdStore, NotifyState::FdName(SNAPSHOTS)],
        &[listener.as_fd()],
    );
    if let Err(error) = stored {
        tracing::warn!(%error, "systemd does not keep the socket, so a restart interrupts containerd for seconds");
    }
}

/// Takes the socket away, for an end after which nothing shall be left.
pub fn remove(address: &Path, keeping: Option<&Keeping>) {
    let removed = fs::remove_file(address);
    let forgotten = match keeping {
        Some(keeping) => {
            keeping.forget(SNAPSHOTS);
            Ok(())
        }
        None => sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(SNAPSHOTS)]),
    };
    for error in [removed, forgotten].into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "the socket is left behind");
    }
}
