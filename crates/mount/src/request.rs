//! From the bytes of one FUSE message to a typed request. The kernel is trusted to be the kernel, but a length that
//! does not fit is still an error and never a panic: the descriptor may have been handed to us by somebody else.

use zerocopy::FromBytes;

use crate::wire::{CreateIn, GetXattrIn, InHeader, InitIn, ReadIn, opcode};

/// One request of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Names the request in its answer; to be echoed with all its bits.
    pub(crate) unique: u64,
    /// The node that it is about; what it means depends on the operation.
    pub(crate) node: u64,
    pub(crate) operation: Operation<'a>,
}

/// What is asked, with the arguments that we use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<'a> {
    Init {
        hello: InitIn,
        /// Both words of flags.
        flags: u64,
    },
    Destroy,
    /// FORGET and BATCH_FORGET. The only operations that must not be answered.
    Forget,
    Lookup {
        name: &'a [u8],
    },
    GetAttr,
    ReadLink,
    /// A directory is to be removed.
    RemoveDir {
        name: &'a [u8],
    },
    /// A file is to be made and opened.
    Create {
        name: &'a [u8],
    },
    Open,
    Read(Span),
    Release,
    Flush,
    OpenDir,
    ReadDir(Span),
    /// Entries with their attributes.
    ReadDirPlus(Span),
    ReleaseDir,
    /// `room` is what the answer may be long, in bytes; 0 asks for how long it would be.
    GetXattr {
        name: &'a [u8],
        room: u32,
    },
    ListXattr {
        room: u32,
    },
    StatFs,
    Access,
    Interrupt,
    /// An operation that a read-only server does not offer.
    Other(u32),
}

/// The part of a file, or the position in a directory, that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) size: u32,
}

/// A message that is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not even a header, so that nothing can be answered.
    #[error("message of {len} bytes is shorter than its header or than the length that the header gives")]
    Header { len: usize },
    /// The arguments are too short; `unique` can be answered.
    #[error("arguments of operation {opcode} are too short")]
    Body { unique: u64, opcode: u32 },
}

impl<'a> Request<'a> {
    /// Reads one message, as one `read(2)` of the device returned it.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let bad_header = Malformed::Header { len: message.len() };
        let (header, body) = InHeader::read_from_prefix(message).map_err(|_| bad_header)?;
        if usize::try_from(header.len) != Ok(message.len()) {
            return Err(bad_header);
        }
        let operation = Operation::parse(header.opcode, body)
            .ok_or(Malformed::Body { unique: header.unique, opcode: header.opcode })?;
        Ok(Self { unique: header.unique, node: header.node, operation })
    }
}

impl<'a> Operation<'a> {
    fn parse(code: u32, body: &'a [u8]) -> Option<Self> {
        Some(match code {
            opcode::INIT => parse_init(body)?,
            opcode::DESTROY => Self::Destroy,
            opcode::FORGET | opcode::BATCH_FORGET => Self::Forget,
            opcode::LOOKUP => Self::Lookup { name: parse_name(body)? },
            opcode::GETATTR => Self::GetAttr,
            opcode::READLINK => Self::ReadLink,
            opcode::RMDIR => Self::RemoveDir { name: parse_name(body)? },
            opcode::CREATE => {
                let (_, rest) = CreateIn::read_from_prefix(body).ok()?;
                Self::Create { name: parse_name(rest)? }
            }
            opcode::OPEN => Self::Open,
            opcode::READ => Self::Read(parse_span(body)?),
            opcode::RELEASE => Self::Release,
            opcode::FLUSH => Self::Flush,
            opcode::OPENDIR => Self::OpenDir,
            opcode::READDIR => Self::ReadDir(parse_span(body)?),
            opcode::READDIRPLUS => Self::ReadDirPlus(parse_span(body)?),
            opcode::GETXATTR => {
                let (wanted, rest) = GetXattrIn::read_from_prefix(body).ok()?;
                Self::GetXattr { name: parse_name(rest)?, room: wanted.size }
            }
            opcode::LISTXATTR => Self::ListXattr { room: GetXattrIn::read_from_prefix(body).ok()?.0.size },
            opcode::RELEASEDIR => Self::ReleaseDir,
            opcode::STATFS => Self::StatFs,
            opcode::ACCESS => Self::Access,
            opcode::INTERRUPT => Self::Interrupt,
            other => Self::Other(other),
        })
    }
}

fn parse_init<'a>(body: &[u8]) -> Option<Operation<'a>> {
    let (hello, rest) = InitIn::read_from_prefix(body).ok()?;
    // The second word is there since 7.36; the kernel sets INIT_EXT when it means it.
    let high = u32::read_from_prefix(rest).map_or(0, |(word, _)| word);
    Some(Operation::Init { hello, flags: u64::from(hello.flags) | u64::from(high) << 32 })
}

/// A name, without the zero that must end it.
fn parse_name(body: &[u8]) -> Option<&[u8]> {
    body.split(|&byte| byte == 0).next().filter(|name| name.len() < body.len())
}

fn parse_span(body: &[u8]) -> Option<Span> {
    let (read, _) = ReadIn::read_from_prefix(body).ok()?;
    Some(Span { offset: read.offset, size: read.size })
}

#[cfg(test)]
mod tests;
