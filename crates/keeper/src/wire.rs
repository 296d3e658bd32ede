//! Messages between the keeper and those whose descriptors it keeps, over a sequenced-packet unix socket: a message is a
//! packet, and a descriptor travels with it (`SCM_RIGHTS`, unix(7)).
//!
//! ```text
//! request  u8 version  u8 operation  u8 flags   u8 length of the name   u32 FUSE connection   name  meta
//! answer   u8 version  u8 status     u16 0      u32 milliseconds                              meta
//! ```
//!
//! Numbers are little-endian. A keeper lives through upgrades of its clients, so this version is for ever: what it does not
//! know it refuses with a status of its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Version of the protocol.
const VERSION: u8 = 1;
/// Longest name of a descriptor, bytes. Names are made of letters, digits, `-` and `_`.
pub const NAME_MAX: usize = 32;
/// Longest `meta`, bytes: with the name, it has to fit into the name that the service manager takes.
pub const META_MAX: usize = 96;
/// No message is longer.
const MESSAGE_MAX: usize = 8 + NAME_MAX + META_MAX;
/// Whoever sends the request serves the descriptor.
const FLAG_SERVED: u8 = 1;

/// What is asked of the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Keep the descriptor that comes with this.
    Keep {
        /// Whether the sender serves it. Otherwise the deadline runs.
        served: bool,
    },
    /// Send a copy of the descriptor. Changes nothing.
    Take,
    /// Let go of the descriptor.
    Forget,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(crate) name: String,
    /// Number below `/sys/fs/fuse/connections`; 0 for none.
    pub(crate) connection: u32,
    pub(crate) meta: Vec<u8>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// There is no such descriptor.
    Unknown,
    /// Another process serves it.
    Busy,
    /// There are as many descriptors as there may be.
    Full,
    /// The request makes no sense to this keeper.
    Malformed,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// For how long nobody has served the descriptor.
    pub(crate) unserved_ms: u32,
    pub(crate) meta: Vec<u8>,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Answer {
        Answer { status, unserved_ms: 0, meta: Vec::new() }
    }
}

/// Whether a descriptor can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (code, flags) = match self.operation {
            Operation::Keep { served } => (1, u8::from(served) * FLAG_SERVED),
            Operation::Take => (2, 0),
            Operation::Forget => (3, 0),
        };
        let mut bytes = vec![VERSION, code, flags, self.name.len() as u8];
        bytes.extend(self.connection.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.extend(&self.meta);
        bytes
    }

    /// `None` for what is no request of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Request> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let [version, code, flags, name_len, connection @ ..] = *head;
        let operation = match code {
            1 => Operation::Keep { served: flags & FLAG_SERVED != 0 },
            2 => Operation::Take,
            3 => Operation::Forget,
            _ => return None,
        };
        let (name, meta) = rest.split_at_checked(usize::from(name_len))?;
        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name))?;
        let right = version == VERSION && meta.len() <= META_MAX;
        right.then(|| Request {
            operation,
            name: name.to_owned(),
            connection: u32::from_le_bytes(connection),
            meta: meta.to_vec(),
        })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let code = match self.status {
            Status::Done => 0,
            Status::Unknown => 1,
            Status::Busy => 2,
            Status::Full => 3,
            Status::Malformed => 4,
        };
        let mut bytes = vec![VERSION, code, 0, 0];
        bytes.extend(self.unserved_ms.to_le_bytes());
        bytes.extend(&self.meta);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Answer> {
        let (head, meta) = bytes.split_first_chunk::<8>()?;
        let [version, code, _, _, unserved_ms @ ..] = *head;
        let status = match code {
            0 => Status::Done,
            1 => Status::Unknown,
            2 => Status::Busy,
            3 => Status::Full,
            4 => Status::Malformed,
            _ => return None,
        };
        let right = version == VERSION && meta.len() <= META_MAX;
        right.then(|| Answer { status, unserved_ms: u32::from_le_bytes(unserved_ms), meta: meta.to_vec() })
    }
}

/// Sends one message, with a descriptor if there is one.
pub(crate) fn send(socket: impl AsFd, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message and the descriptor that came with it; an empty one at the end of the connection.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = vec![0; MESSAGE_MAX];
    // Room for more than one, so that a second one is seen, and closed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    message.truncate(received.bytes);
    let mut fds = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fd = fds.next();
    drop(fds);
    Ok((message, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            operation: Operation::Keep { served: true },
            name: "images".to_owned(),
            connection: 77,
            meta: vec![0, 255, 7],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for operation in [
            Operation::Keep { served: true },
            Operation::Keep { served: false },
            Operation::Take,
            Operation::Forget,
        ] {
            let request = Request { operation, ..request() };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for status in [Status::Done, Status::Unknown, Status::Busy, Status::Full, Status::Malformed] {
            let answer = Answer { status, unserved_ms: 300, meta: vec![1; META_MAX] };
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    /// The bytes as they are: a keeper of this version is asked by programs of all later ones.
    #[test]
    fn the_format_does_not_change() {
        assert_eq!(request().encode(), b"\x01\x01\x01\x06\x4d\0\0\0images\0\xff\x07");
        let answer = Answer { status: Status::Busy, unserved_ms: 258, meta: b"m".to_vec() };
        assert_eq!(answer.encode(), b"\x01\x02\0\0\x02\x01\0\0m");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = request().encode();
        for len in 0..14 {
            assert_eq!(Request::decode(&good[..len]), None, "{len}");
        }
        for (at, byte) in [(0, 2), (1, 9), (3, 0), (3, 200), (8, b'/'), (9, 0xff)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Request::decode(&bad), None, "{at}");
        }
        let long = Request { meta: vec![0; META_MAX + 1], ..request() };
        assert_eq!(Request::decode(&long.encode()), None);
        assert_eq!(Answer::decode(b"\x01\x09\0\0\0\0\0\0"), None);
    }
}
