//! One file of many gibibytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Crc;
use format::Digest;

use super::SyntheticLayer;
use super::members::{Form, Layout, gzip, tail};
use crate::estargz::sha256;
use crate::tarball::{Member, Type, header_of_size, padding};
use crate::tree::content;

/// Chunks of this many different contents take turns.
const VARIANTS: u64 = 16;
/// A content repeats after so many bytes.
const PERIOD: usize = 64 << 10;
/// Bytes in a stored block: a part of the period.
const BLOCK: u64 = 32 << 10;

/// A layer with one file, `big`, that does not compress. Its chunks have sixteen different contents, by turns, so that the
/// digests of a TOC of any length are computed at once. There is no digest of the whole file: only the chunks have one.
#[derive(Clone, Debug)]
pub struct BigFile {
    size: u64,
    chunk: u64,
    variants: Arc<Vec<Variant>>,
}

#[derive(Debug)]
struct Variant {
    pattern: Bytes,
    digest: Digest,
    crc: u32,
}

impl BigFile {
    /// The name of the file.
    pub const NAME: &str = "big";

    /// A file of `chunks` chunks of `chunk` bytes each.
    ///
    /// # Panics
    /// When there are no chunks, or a chunk is not a multiple of 64 KiB.
    pub fn new(chunks: u64, chunk: u64) -> BigFile {
        assert!(
            chunks > 0 && chunk > 0 && chunk.is_multiple_of(PERIOD as u64),
            "{chunks} chunks of {chunk} bytes"
        );
        let variant = |seed: u64| {
            let pattern = content(seed + 2, PERIOD);
            let (mut hasher, mut crc) = (sha256(), Crc::new());
            for _ in 0..chunk / PERIOD as u64 {
                hasher.update(&pattern);
                crc.update(&pattern);
            }
            Variant { digest: hasher.finish(), crc: crc.sum(), pattern }
        };
        let variants = (0..VARIANTS.min(chunks)).map(variant).collect();
        BigFile { size: chunks * chunk, chunk, variants: Arc::new(variants) }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// `len` bytes of the file from `offset` on: what a reader must see.
    ///
    /// # Panics
    /// When they are not inside.
    pub fn read(&self, mut offset: u64, len: usize) -> Bytes {
        assert!(offset + len as u64 <= self.size, "{len} bytes at {offset} of {}", self.size);
        let mut out = BytesMut::with_capacity(len);
        while out.len() < len {
            let before = out.len();
            let variant = self.variant(offset / self.chunk);
            append(&variant.pattern, offset % self.chunk, len - before, &mut out);
            offset += (out.len() - before) as u64;
        }
        out.freeze()
    }

    fn variant(&self, chunk: u64) -> &Variant {
        &self.variants[(chunk % VARIANTS) as usize]
    }

    /// The TOC, given the offset of each chunk's member.
    fn toc(&self, chunks: u64, offset: impl Fn(u64) -> u64) -> String {
        let chunk = |number: u64| {
            let (offset, digest, chunk) = (offset(number), self.variant(number).digest, self.chunk);
            let what = match number {
                0 => format!("\"reg\", \"size\": {}, \"mode\": 420", self.size),
                _ => format!("\"chunk\", \"chunkOffset\": {}", number * chunk),
            };
            format!(
                "\t\t{{\"name\": \"big\", \"type\": {what}, \"offset\": {offset}, \"chunkSize\": {chunk}, \
                 \"chunkDigest\": \"{digest}\"}}"
            )
        };
        let entries: Vec<String> = (0..chunks).map(chunk).collect();
        format!("{{\n\t\"version\": 1,\n\t\"entries\": [\n{}\n\t]\n}}", entries.join(",\n"))
    }

    /// The layer.
    pub fn layer(&self) -> SyntheticLayer {
        let file = Member { mode: 0o644, ..Member::new(Type::File, BigFile::NAME) };
        let head = Bytes::from(gzip(&header_of_size(&file, self.size)));
        let (form, members) = (Form { content: self.chunk, block: BLOCK }, self.size / self.chunk);
        // A file of whole chunks of 64 KiB needs no padding before the header of the TOC.
        assert!(padding(self.size as usize).is_empty());
        let offset = |chunk: u64| head.len() as u64 + chunk * form.len();
        let toc_offset = offset(members);
        let tail = tail(toc_offset, self.toc(members, offset).as_bytes());
        let layout = Layout { head, members, member_len: form.len(), tail: tail.bytes };
        let file = self.clone();
        let content = crate::content::Content::synthetic(layout.len(), move |offset, len| {
            layout.read(offset, len, |member, offset, limit, out| {
                let Variant { pattern, crc, .. } = file.variant(member);
                form.read(offset, limit, out, |at, len, out| append(pattern, at, len, out), || *crc);
            })
        });
        let name = format!("one file of {} bytes in chunks of {}", self.size, self.chunk);
        SyntheticLayer {
            content,
            digest: Digest::of(name.as_bytes()),
            diff_id: Digest::of(format!("{name}, uncompressed").as_bytes()),
            toc_digest: tail.toc_digest,
            toc_len: tail.toc_len,
            toc_offset,
        }
    }
}

/// Appends bytes of a repeated pattern from an offset on, up to its end or so many.
fn append(pattern: &Bytes, offset: u64, len: usize, out: &mut BytesMut) {
    let rest = &pattern[offset as usize % PERIOD..];
    out.extend_from_slice(&rest[..rest.len().min(len)]);
}
