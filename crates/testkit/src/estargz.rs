//! A tar archive as an eStargz blob, byte by byte under the control of a test.
//!
//! [`build`] makes what stargz-snapshotter's writer would. To make a blob that lies, take a [`Draft`], change its TOC or its
//! payload, and seal it: the digests around the lie are right, so that only the lie can be found.
//! [`hostile`] has the lies that every reader must survive.

pub(crate) mod codec;
pub mod hostile;
pub(crate) mod order;
pub(crate) mod payload;
#[cfg(test)]
mod tests;
pub(crate) mod toc;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use format::Digest;
use format::digest::{Algorithm, Hasher};
use serde_json::{Value, json};

use crate::tarball::{self, Member, Type};

/// The member of the archive inside the blob that holds the TOC.
pub const TOC_NAME: &str = "stargz.index.json";
/// The landmark after the prioritized files.
pub const PREFETCH_LANDMARK: &str = ".prefetch.landmark";
/// The landmark that says that nothing is prioritized.
pub const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";
/// The annotation of a layer descriptor with the digest of the TOC.
pub const TOC_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation of a layer descriptor with the number of bytes of the uncompressed blob.
pub const UNCOMPRESSED_SIZE_ANNOTATION: &str = "io.containers.estargz.uncompressed-size";

/// How to build a blob.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest piece of a file with a digest of its own, in bytes; 4 MiB by default.
    pub chunk_size: usize,
    /// Chunks share a gzip member until it has this many compressed bytes; 0 gives each its own.
    pub min_chunk_size: usize,
    /// gzip level, 0..=9. The default here is 6; converters use 9.
    pub level: u32,
    /// Paths to place before the landmark, in this order.
    pub prioritized: Vec<Vec<u8>>,
    /// Whether to add a landmark at all.
    pub landmark: bool,
    /// Which footer to end with.
    pub footer: Footer,
    /// Whether each chunk has a digest of its own. Without, entries carry the `NumLink` of old writers.
    pub chunk_digests: bool,
    /// What becomes of fractions of a second.
    pub mtime: Mtime,
}

/// How a blob ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footer {
    /// 51 bytes, eStargz.
    Estargz,
    /// 47 bytes, stargz before it was a valid gzip extra field.
    Legacy,
    /// 46 bytes: the TOC is not in the blob but in another image, see [`crate::image::toc_image`].
    External,
}

/// How the TOC tells modification times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtime {
    /// To the nearest second, as stargz-snapshotter writes it.
    Rounded,
    /// With nanoseconds; RFC 3339 allows a fraction, and so do readers.
    Exact,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            chunk_size: 4 << 20,
            min_chunk_size: 0,
            level: 6,
            prioritized: Vec::new(),
            landmark: true,
            footer: Footer::Estargz,
            chunk_digests: true,
            mtime: Mtime::Exact,
        }
    }
}

impl Options {
    /// What writers did before eStargz: no landmark, no digests of chunks, the footer of 47 bytes.
    pub fn legacy() -> Options {
        Options { landmark: false, chunk_digests: false, footer: Footer::Legacy, ..Options::default() }
    }

    /// The TOC in an image of its own.
    pub fn external() -> Options {
        Options { footer: Footer::External, ..Options::default() }
    }
}

/// A finished blob and everything that an image says about it.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The blob.
    pub bytes: Bytes,
    /// Its digest.
    pub digest: Digest,
    /// The TOC as stored.
    pub toc_json: Bytes,
    /// The digest of `toc_json`.
    pub toc_digest: Digest,
    /// Where the gzip member of the TOC starts in the blob; where the footer starts when the TOC is not in it.
    pub toc_offset: u64,
    /// The digest of the uncompressed blob.
    pub diff_id: Digest,
    /// The length of the uncompressed blob.
    pub uncompressed_size: u64,
}

/// A blob before its TOC is sealed: change what should lie.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The gzip members before the TOC. `diff_id` is that of the original payload, whatever is done to this.
    pub payload: Vec<u8>,
    /// The TOC: `{"version":1,"entries":[…]}`.
    pub toc: Value,
    /// The footer to end with.
    pub footer: Footer,
    uncompressed: Hasher,
    uncompressed_size: u64,
}

/// The blob for an archive.
///
/// # Panics
/// When `tar` is not an archive of supported types, or a prioritized path is not in it.
pub fn build(tar: &[u8], options: &Options) -> Blob {
    Draft::new(tar, options).seal()
}

impl Draft {
    /// The payload and TOC for an archive; see [`build`].
    pub fn new(tar: &[u8], options: &Options) -> Draft {
        let members = order::arrange(tarball::parse(tar), options);
        let mut writer = payload::Writer::new(tar, options, codec::Codec::Gzip(options.level));
        for member in &members {
            writer.append(member);
        }
        let written = writer.finish();
        Draft {
            payload: written.payload,
            toc: json!({ "version": 1, "entries": written.entries }),
            footer: options.footer,
            uncompressed: written.uncompressed,
            uncompressed_size: written.uncompressed_size,
        }
    }

    /// The entry of the TOC with this stored name: the first one, not its further chunks.
    ///
    /// # Panics
    /// When there is none.
    pub fn entry(&mut self, name: &str) -> &mut Value {
        let entries = self.entries();
        let found = entries.iter_mut().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no entry {name:?} in the TOC"))
    }

    /// All entries of the TOC.
    ///
    /// # Panics
    /// When the TOC has been changed so that it has none.
    pub fn entries(&mut self) -> &mut Vec<Value> {
        self.toc["entries"].as_array_mut().expect("entries is a list")
    }

    /// The blob with the TOC as it is now.
    pub fn seal(self) -> Blob {
        let json = toc::json(&self.toc);
        self.seal_json(json.as_bytes())
    }

    /// The blob with these bytes as the TOC, JSON or not.
    pub fn seal_json(self, json: &[u8]) -> Blob {
        let Draft { payload, footer: kind, mut uncompressed, uncompressed_size, .. } = self;
        let content = Bytes::copy_from_slice(json);
        let toc_offset = payload.len() as u64;
        let (mut bytes, mut size) = (payload, uncompressed_size);
        if kind != Footer::External {
            let tar = toc_tar(content.clone());
            uncompressed.update(&tar);
            size += tar.len() as u64;
            let mut gzip = GzEncoder::new(bytes, Compression::default());
            gzip.write_all(&tar).expect("writing to a Vec cannot fail");
            bytes = gzip.finish().expect("writing to a Vec cannot fail");
        }
        bytes.extend_from_slice(&footer(kind, toc_offset));
        Blob {
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
            toc_digest: Digest::of(&content),
            toc_json: content,
            toc_offset,
            diff_id: uncompressed.finish(),
            uncompressed_size: size,
        }
    }
}

impl Blob {
    /// The annotations of the layer's descriptor.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (TOC_DIGEST_ANNOTATION.to_owned(), self.toc_digest.to_string()),
            (UNCOMPRESSED_SIZE_ANNOTATION.to_owned(), self.uncompressed_size.to_string()),
        ])
    }

    /// The TOC, parsed.
    ///
    /// # Panics
    /// When it is not JSON, which only [`Draft::seal_json`] can bring about.
    pub fn toc(&self) -> Value {
        serde_json::from_slice(&self.toc_json).expect("the TOC is JSON")
    }

    /// The same blob with other bytes and their digest, while the digests of its content stay.
    pub fn with_bytes(self, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: Digest::of(&bytes), bytes, ..self }
    }

    /// The same blob with one byte, at `offset`, flipped.
    pub fn with_flipped_byte(self, offset: usize) -> Blob {
        let mut bytes = self.bytes.to_vec();
        bytes[offset] ^= 0xff;
        self.with_bytes(bytes)
    }
}

/// The archive that holds a TOC and nothing else.
pub(crate) fn toc_tar(json: Bytes) -> Vec<u8> {
    tarball::archive(&[Member { content: json, ..Member::new(Type::File, TOC_NAME) }])
}

/// The footer that points at `toc_offset` (unless the TOC is external): an empty gzip member with an extra field.
pub fn footer(kind: Footer, toc_offset: u64) -> Vec<u8> {
    let pointer = match kind {
        Footer::Estargz | Footer::Legacy => format!("{toc_offset:016x}STARGZ"),
        Footer::External => "STARGZEXTERNALTOC".to_owned(),
    };
    let mut extra = Vec::new();
    if kind != Footer::Legacy {
        extra.extend_from_slice(b"SG");
        extra.extend_from_slice(&(pointer.len() as u16).to_le_bytes());
    }
    extra.extend_from_slice(pointer.as_bytes());

    // RFC 1952: magic, deflate, FEXTRA, no time, no flags, unknown system; the extra field; RFC 1951: an empty last
    // stored block; CRC32 and ISIZE of nothing.
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    footer.extend_from_slice(&(extra.len() as u16).to_le_bytes());
    footer.extend_from_slice(&extra);
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}

/// All members of a gzip file, uncompressed.
///
/// # Panics
/// When it is not gzip.
pub fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("gzip members");
    out
}

pub(crate) fn sha256() -> Hasher {
    Hasher::new(Algorithm::Sha256)
}
