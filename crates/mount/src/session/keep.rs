//! What has to be kept of a session, outside of the process that serves it, for a successor to go on.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Negotiated, Session, SessionOptions};
use crate::error::Error;
use crate::mounts::mounts_below;
use crate::wire::flag;

/// Version of [`ToKeep::meta`]. A process that finds another one mounts a session of its own.
const VERSION: u8 = 1;
/// Version, number of the connection, and what was negotiated.
const META_LEN: usize = 1 + 4 + 4 + 4 + 8 + 2 + 4;

/// A copy of a session's descriptor, and all that is to be known of it.
#[derive(Debug)]
pub struct ToKeep {
    /// Whoever holds this and does not serve makes readers wait, where no signal reaches them. It must be closed, or the
    /// connection be aborted, when no successor comes.
    pub fd: OwnedFd,
    /// For [`Session::take_over_kept`]; a few dozen bytes, with a version.
    pub meta: Vec<u8>,
    /// The number of the session's directory below `/sys/fs/fuse/connections`, where it can be aborted.
    pub connection: u32,
}

/// The number of the FUSE connection that is mounted at `target`, if one is.
fn connection_at(target: &Path) -> Result<Option<u32>, Error> {
    let mounts = mounts_below(target)?;
    let mount = mounts.into_iter().rev().find(|mount| mount.mount_point == target);
    Ok(mount
        .filter(|mount| mount.fs_type == "fuse" || mount.fs_type.starts_with("fuse."))
        .map(|mount| mount.device.1))
}

impl Session {
    /// What has to be kept. `None` if this kernel cannot send requests again (before Linux 6.9): what a process that was
    /// killed had begun to answer would never be answered, so such a session has to end with its process.
    ///
    /// # Errors
    /// When the session is not mounted any more, or when there are no descriptors left.
    pub fn to_keep(&self) -> Result<Option<ToKeep>, Error> {
        if !self.negotiated.has(flag::HAS_RESEND) {
            return Ok(None);
        }
        let connection =
            connection_at(&self.target)?.ok_or_else(|| self.not_taken("nothing is mounted there"))?;
        let fd = self.fd().try_clone_to_owned().map_err(|source| Error::File {
            action: "keep",
            path: self.target.clone(),
            source,
        })?;
        Ok(Some(ToKeep { fd, meta: encode(connection, &self.negotiated), connection }))
    }

    /// As [`Session::take_over`], with what [`Session::to_keep`] of the predecessor gave.
    ///
    /// # Errors
    /// When it is not the session that is mounted at `target` now, when that was aborted, or when the predecessor was of
    /// a version that this one does not understand.
    pub fn take_over_kept(
        target: &Path,
        fd: OwnedFd,
        meta: &[u8],
        options: SessionOptions,
    ) -> Result<Self, Error> {
        let refused = |reason| Error::NotTaken { target: target.to_path_buf(), reason };
        let (connection, negotiated) =
            decode(meta).ok_or_else(|| refused("it was made by another version of this program"))?;
        if connection_at(target)? != Some(connection) {
            return Err(refused("another filesystem is mounted there, or none"));
        }
        let session = Self::take_over(target, fd, negotiated, options)?;
        if is_aborted(&session)? {
            return Err(refused("its connection was aborted"));
        }
        Ok(session)
    }

    fn not_taken(&self, reason: &'static str) -> Error {
        Error::NotTaken { target: self.target.clone(), reason }
    }
}

/// The device reports an error for a session that has ended.
fn is_aborted(session: &Session) -> Result<bool, Error> {
    let fd = session.fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&at_once)))
        .map_err(|errno| Error::file("look at the session of", &session.target, errno))?;
    let [fd] = fds;
    Ok(fd.revents().contains(PollFlags::ERR))
}

fn encode(connection: u32, negotiated: &Negotiated) -> Vec<u8> {
    let Negotiated { major, minor, flags, max_pages, max_readahead } = *negotiated;
    let mut bytes = vec![VERSION];
    bytes.extend(connection.to_le_bytes());
    bytes.extend(major.to_le_bytes());
    bytes.extend(minor.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(max_pages.to_le_bytes());
    bytes.extend(max_readahead.to_le_bytes());
    bytes
}

fn decode(meta: &[u8]) -> Option<(u32, Negotiated)> {
    let (&[VERSION], rest) = meta.split_first_chunk()? else { return None };
    let (connection, rest) = rest.split_first_chunk()?;
    let (major, rest) = rest.split_first_chunk()?;
    let (minor, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (max_pages, rest) = rest.split_first_chunk()?;
    let (max_readahead, []) = rest.split_first_chunk()? else { return None };
    let negotiated = Negotiated {
        major: u32::from_le_bytes(*major),
        minor: u32::from_le_bytes(*minor),
        flags: u64::from_le_bytes(*flags),
        max_pages: u16::from_le_bytes(*max_pages),
        max_readahead: u32::from_le_bytes(*max_readahead),
    };
    (meta.len() == META_LEN && max_pages != &[0; 2]).then_some((u32::from_le_bytes(*connection), negotiated))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEGOTIATED: Negotiated =
        Negotiated { major: 7, minor: 45, flags: 1 << 39 | 5, max_pages: 256, max_readahead: 131_072 };

    #[test]
    fn what_was_negotiated_survives() {
        assert_eq!(decode(&encode(91, &NEGOTIATED)), Some((91, NEGOTIATED)));
    }

    /// The bytes as they are: programs of this version and of later ones exchange them.
    #[test]
    fn the_format_does_not_change() {
        let expected = b"\x01\x5b\0\0\0\x07\0\0\0\x2d\0\0\0\x05\0\0\0\x80\0\0\0\0\x01\0\0\x02\0";
        assert_eq!(encode(91, &NEGOTIATED), expected);
    }

    #[test]
    fn other_versions_and_torn_ones_are_not_understood() {
        let good = encode(91, &NEGOTIATED);
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len]), None, "{len}");
        }
        assert_eq!(decode(&[&good[..], &[0]].concat()), None);
        let mut newer = good;
        newer[0] = 2;
        assert_eq!(decode(&newer), None);
    }
}
