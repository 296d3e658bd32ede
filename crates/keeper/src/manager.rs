//! The service manager's descriptor store (`sd_notify(3)`, `sd_listen_fds(3)`).
//!
//! A stored descriptor comes back with nothing but its name, so everything that is to be known of it is in there:
//! `stargz.<name>.<FUSE connection>.<meta in hexadecimal>`, at most 150 bytes of the 255 that a name may have.

use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use sd_notify::NotifyState;

use crate::wire::{META_MAX, is_name};

/// What descriptors of ours are called first.
const PREFIX: &str = "stargz.";

/// A descriptor that the service manager kept.
#[derive(Debug)]
pub struct Stored {
    pub(crate) name: String,
    pub(crate) connection: u32,
    pub(crate) meta: Vec<u8>,
    pub(crate) fd: OwnedFd,
}

/// What the service manager passed to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// What [`Keeping`](crate::Keeping) stored.
    pub kept: Vec<Stored>,
    /// Everything else: sockets of a socket unit.
    pub others: Vec<OwnedFd>,
}

/// The descriptors that the service manager passed, none without one. They belong to the caller; a second call gets none.
pub fn inherited() -> Inherited {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let mut inherited = Inherited::default();
    if TAKEN.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return inherited;
    }
    let passed = match sd_notify::listen_fds_with_names() {
        Ok(passed) => passed,
        Err(error) => {
            tracing::warn!(%error, "descriptors that the service manager passed are not used");
            return inherited;
        }
    };
    for (fd, name) in passed {
        let fd = owned(fd);
        match parse(&name) {
            Some((name, connection, meta)) => inherited.kept.push(Stored { name, connection, meta, fd }),
            None => inherited.others.push(fd),
        }
    }
    inherited
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the protocol says that descriptors from 3 on, as many as LISTEN_FDS tells, were passed to the process
    // LISTEN_PID, which is this one: they are open and nobody else's. The caller sees to it that this is done once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Has the service manager close its copies, and closes these: nobody is going to serve them.
pub fn let_go(stored: Vec<Stored>) {
    for Stored { name, connection, meta, .. } in stored {
        forget(&name, connection, &meta);
    }
}

/// Gives the service manager a copy. Does nothing without one. Under the same name it has to be forgotten first.
pub(crate) fn store(name: &str, connection: u32, meta: &[u8], fd: BorrowedFd<'_>) {
    let name = format(name, connection, meta);
    let stored = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[fd]);
    if let Err(error) = stored {
        tracing::warn!(%error, "the service manager does not keep a descriptor; the keeper alone does");
    }
}

/// Has the service manager close its copy.
pub(crate) fn forget(name: &str, connection: u32, meta: &[u8]) {
    let name = format(name, connection, meta);
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

fn format(name: &str, connection: u32, meta: &[u8]) -> String {
    let mut text = format!("{PREFIX}{name}.{connection}.");
    for byte in meta {
        write!(text, "{byte:02x}").expect("strings take everything");
    }
    text
}

fn parse(text: &str) -> Option<(String, u32, Vec<u8>)> {
    let mut parts = text.strip_prefix(PREFIX)?.splitn(3, '.');
    let name = parts.next().filter(|name| is_name(name))?;
    let connection = parts.next()?.parse().ok()?;
    let digits = parts.next().filter(|digits| digits.is_ascii() && digits.len() % 2 == 0)?;
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let meta: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    (meta.len() <= META_MAX).then(|| (name.to_owned(), connection, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_known_comes_back_in_the_name() {
        for (name, connection, meta) in
            [("a", 0, &b""[..]), ("images_1", u32::MAX, &[0x0a, 0xff]), ("x", 1, &[7; META_MAX])]
        {
            let text = format(name, connection, meta);
            assert!(text.len() < 255 && !text.contains(':'), "{text}");
            assert_eq!(parse(&text), Some((name.to_owned(), connection, meta.to_vec())));
        }
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for text in [
            "snapshots",
            "stargz.",
            "stargz.a.1",
            "stargz.a.x.00",
            "stargz.a.1.0",
            "stargz.a.1.zz",
            "stargz.a/b.1.",
            "stargz.a.1.éé",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
