//! The socket that containerd connects to.
//!
//! containerd gives up for seconds when a connection is refused, so the socket has to go on listening while the
//! daemon restarts. systemd can do that: the listening descriptor is put into its descriptor store, and a daemon that
//! it starts gets it back (`sd_notify(3)`, `FDSTORE=1`; `sd_listen_fds(3)`). A socket unit works the same way.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, bail};
use sd_notify::NotifyState;

/// Name of the descriptor in the store.
const NAME: &str = "snapshots";

/// Listens on `address`: on a descriptor that systemd kept, or on a new one, replacing a socket that a former process
/// left. New ones are given to systemd to keep.
///
/// # Errors
/// The address can't be used, or something else than a socket lies there.
pub fn listen(address: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    let on_disk = is_there(address)?;
    let kept = inherited(address).context("cannot use the descriptors that systemd passed")?;
    // A descriptor whose path is gone can be reached by nobody.
    let listener = match kept.filter(|_| on_disk) {
        Some(listener) => {
            tracing::debug!(address = %address.display(), "goes on listening");
            listener
        }
        None => {
            let listener = bind(address, on_disk)?;
            keep(&listener);
            listener
        }
    };
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
        if UnixStream::connect(address).is_ok() {
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

/// Gives the descriptor to systemd.
fn keep(listener: &UnixListener) {
    // Does nothing without systemd.
    let stored =
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(NAME)], &[listener.as_fd()]);
    if let Err(error) = stored {
        tracing::warn!(%error, "systemd does not keep the socket, so a restart interrupts containerd for seconds");
    }
}

/// The passed descriptor that listens on `address`. Others are closed: they are of no use to this program.
fn inherited(address: &Path) -> io::Result<Option<UnixListener>> {
    let mut found = None;
    for fd in sd_notify::listen_fds()? {
        let listener = UnixListener::from(owned(fd));
        let here = listener.local_addr().is_ok_and(|local| local.as_pathname() == Some(address));
        if here {
            found = Some(listener);
        }
    }
    Ok(found)
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: systemd's protocol says that descriptors from 3 on, as many as LISTEN_FDS tells, were passed to the
    // process LISTEN_PID, which is this one: they are open and nobody else's. This is called once, at start.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes the socket away, for an end after which nothing shall be left.
pub fn remove(address: &Path) {
    let removed = fs::remove_file(address);
    let forgotten = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)]);
    for error in [removed, forgotten].into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "the socket is left behind");
    }
}
