//! Gzip members of stored blocks, and what lies around them in a blob.

use std::fmt;
use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use format::Digest;

use super::Tail;
use crate::estargz::{Footer, TOC_NAME, footer};
use crate::tarball::{Member, Type, header_of_size, padding};

/// RFC 1952: magic, deflate, no flags, no time, unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// RFC 1951: an empty stored block, the last one.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// Head of a stored block: not the last, LEN, NLEN.
const BLOCK_HEAD: usize = 5;

/// The form of a member whose content is stored in blocks of equal length, but for the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Bytes of content.
    pub(super) content: u64,
    /// Bytes of content in a block, at most 65,535.
    pub(super) block: u64,
}

impl Form {
    /// Bytes of the member.
    pub(super) fn len(self) -> u64 {
        let blocks = self.content.div_ceil(self.block);
        (HEAD.len() + LAST_BLOCK.len() + 8) as u64 + blocks * BLOCK_HEAD as u64 + self.content
    }

    /// Appends bytes of the member from `offset` on: at least one, at most `limit`. `content` appends so many bytes of
    /// content from an offset on; `crc` is that of all content.
    pub(super) fn read(
        self,
        offset: u64,
        limit: usize,
        out: &mut BytesMut,
        content: impl FnOnce(u64, usize, &mut BytesMut),
        crc: impl FnOnce() -> u32,
    ) {
        if let Some(head) = HEAD.get(offset as usize..)
            && !head.is_empty()
        {
            out.extend_from_slice(&head[..head.len().min(limit)]);
            return;
        }
        let offset = offset - HEAD.len() as u64;
        let stored = self.len() - (HEAD.len() + LAST_BLOCK.len() + 8) as u64;
        if offset < stored {
            let stride = self.block + BLOCK_HEAD as u64;
            let (number, within) = (offset / stride, (offset % stride) as usize);
            let start = number * self.block;
            let len = self.block.min(self.content - start) as u16;
            if within < BLOCK_HEAD {
                let [a, b] = len.to_le_bytes();
                let head = [0, a, b, !a, !b];
                out.extend_from_slice(&head[within..BLOCK_HEAD.min(within + limit)]);
            } else {
                let done = within - BLOCK_HEAD;
                content(start + done as u64, (usize::from(len) - done).min(limit), out);
            }
            return;
        }
        let mut end = LAST_BLOCK.to_vec();
        end.extend(crc().to_le_bytes());
        end.extend((self.content as u32).to_le_bytes()); // modulo 2^32, as RFC 1952 has it
        let rest = &end[(offset - stored) as usize..];
        out.extend_from_slice(&rest[..rest.len().min(limit)]);
    }
}

/// A whole member in ordinary compression.
pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(content).and_then(|()| gzip.finish()).expect("writing to a Vec cannot fail")
}

/// The CRC-32 of these bytes.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The member of a TOC, and the footer behind it.
pub(super) fn tail(toc_offset: u64, toc: &[u8]) -> Tail {
    let header = header_of_size(&Member::new(Type::File, TOC_NAME), toc.len() as u64);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    for part in [&header, toc, padding(toc.len()), &[0; 1024]] {
        gzip.write_all(part).expect("writing to a Vec cannot fail");
    }
    let mut bytes = gzip.finish().expect("writing to a Vec cannot fail");
    bytes.extend(footer(Footer::Estargz, toc_offset));
    Tail { bytes: bytes.into(), toc_digest: Digest::of(toc), toc_len: toc.len() as u64 }
}

/// What lies where in a blob.
pub(super) struct Layout {
    pub(super) head: Bytes,
    /// Members of the same length behind the head.
    pub(super) members: u64,
    pub(super) member_len: u64,
    pub(super) tail: Bytes,
}

impl Layout {
    pub(super) fn len(&self) -> u64 {
        self.head.len() as u64 + self.members * self.member_len + self.tail.len() as u64
    }

    /// So many bytes from an offset on. `member` appends at least one and at most so many bytes of a member, given its
    /// number and an offset in it.
    pub(super) fn read(
        &self,
        mut offset: u64,
        len: usize,
        member: impl Fn(u64, u64, usize, &mut BytesMut),
    ) -> Bytes {
        let mut out = BytesMut::with_capacity(len);
        let members_start = self.head.len() as u64;
        let tail_start = members_start + self.members * self.member_len;
        while out.len() < len {
            let (before, left) = (out.len(), len - out.len());
            if offset < members_start {
                let rest = &self.head[offset as usize..];
                out.extend_from_slice(&rest[..rest.len().min(left)]);
            } else if offset < tail_start {
                let at = offset - members_start;
                member(at / self.member_len, at % self.member_len, left, &mut out);
            } else {
                let rest = &self.tail[(offset - tail_start) as usize..];
                out.extend_from_slice(&rest[..left]);
            }
            offset += (out.len() - before) as u64;
        }
        out.freeze()
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} members of {} bytes)", self.members, self.member_len)
    }
}
