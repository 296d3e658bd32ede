//! A tar archive as a zstd:chunked blob, byte by byte under the control of a test.
//!
//! Two writers are known, and they agree on little but the frame: `ctr-remote`, which writes an eStargz with zstd in
//! place of gzip, and Podman (containers/storage), which keeps the archive as it is, cuts files where their content says,
//! marks holes, and adds what is needed to restore the archive ("tar-split"). [`build`] does as the one, [`podman::build`]
//! as the other. As in [`crate::estargz`], a [`Draft`] can be changed before it is sealed; [`hostile`] has the lies.
//!
//! ```text
//! zstd frames of the archive | skippable: TOC | Podman: skippable: tar-split | skippable: footer
//! ```

pub mod hostile;
pub mod podman;
mod tarsplit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use format::Digest;
use format::digest::Hasher;
use serde_json::{Value, json};

use crate::estargz::codec::Codec;
pub use crate::estargz::codec::Zstd;
use crate::estargz::{self, TOC_DIGEST_ANNOTATION, UNCOMPRESSED_SIZE_ANNOTATION, order, payload, toc};
use crate::tarball;

/// Starts a skippable frame (RFC 8878, section 3.1.2); its length follows, 32 bits.
pub const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The end of the footers of `ctr-remote` and of older versions of Podman: `GnUlInUx`.
pub const MAGIC: [u8; 8] = *b"GnUlInUx";
/// The end of Podman's footer today: `GNUlInUx`.
pub const PODMAN_MAGIC: [u8; 8] = *b"GNUlInUx";

/// Whose blobs these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// `ctr-remote`: landmarks, a footer of 40 bytes, annotations `io.containers.zstd-chunked.*` and the TOC digest of
    /// eStargz.
    CtrRemote,
    /// Podman today: a footer of 64 bytes, annotations `io.github.containers.zstd-chunked.*`, none for the digest of the
    /// TOC but the one of its compressed bytes.
    Podman,
    /// Podman 4.3, Buildah 1.28, Skopeo 1.9: chunks and holes as today, but no tar-split; footer, magic and annotations are
    /// those of `ctr-remote` without what is eStargz.
    OldPodman,
}

/// A finished blob and everything that an image says about it.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Whose blob it is.
    pub writer: Writer,
    /// The blob.
    pub bytes: Bytes,
    /// Its digest.
    pub digest: Digest,
    /// The TOC, uncompressed.
    pub toc_json: Bytes,
    /// The digest of `toc_json`.
    pub toc_digest: Digest,
    /// Where the TOC is.
    pub toc: Position,
    /// The digest of the compressed TOC.
    pub toc_checksum: Digest,
    /// Where the tar-split is, if there is one.
    pub tar_split: Option<Position>,
    /// The digest of the uncompressed blob.
    pub diff_id: Digest,
    /// The length of the uncompressed blob.
    pub uncompressed_size: u64,
}

/// Where compressed data lies in a blob: the content of a skippable frame, without the eight bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset in the blob.
    pub offset: u64,
    /// Compressed bytes.
    pub compressed: u64,
    /// Bytes that they expand to.
    pub uncompressed: u64,
}

/// A blob before its TOC is sealed: change what should lie.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Whose blob it becomes.
    pub writer: Writer,
    /// The frames before the TOC. `diff_id` is that of the original payload, whatever is done to this.
    pub payload: Vec<u8>,
    /// The TOC: `{"version":1,"entries":[…]}`.
    pub toc: Value,
    /// The tar-split, compressed, and the length of it uncompressed.
    pub tar_split: Option<(Vec<u8>, u64)>,
    /// How the TOC is compressed.
    pub zstd: Zstd,
    uncompressed: Hasher,
    uncompressed_size: u64,
}

/// The blob that `ctr-remote` would make of an archive. The options' gzip level and footer have no meaning here.
///
/// # Panics
/// When `tar` is not an archive of supported types, or a prioritized path is not in it.
pub fn build(tar: &[u8], options: &estargz::Options, zstd: Zstd) -> Blob {
    Draft::new(tar, options, zstd).seal()
}

impl Draft {
    /// Payload and TOC of `ctr-remote` for an archive; see [`build`].
    pub fn new(tar: &[u8], options: &estargz::Options, zstd: Zstd) -> Draft {
        let mut writer = payload::Writer::new(tar, options, Codec::Zstd(zstd));
        for member in &order::arrange(tarball::parse(tar), options) {
            writer.append(member);
        }
        let written = writer.finish();
        Draft {
            writer: Writer::CtrRemote,
            payload: written.payload,
            toc: json!({ "version": 1, "entries": written.entries }),
            tar_split: None,
            zstd,
            uncompressed: written.uncompressed,
            uncompressed_size: written.uncompressed_size,
        }
    }

    /// The entry of the TOC with this stored name: the first one, not its further chunks.
    ///
    /// # Panics
    /// When there is none.
    pub fn entry(&mut self, name: &str) -> &mut Value {
        let found = self.entries().iter_mut().find(|entry| entry["name"] == name);
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
        let json = match self.writer {
            Writer::CtrRemote => toc::json(&self.toc),
            Writer::Podman | Writer::OldPodman => toc::compact_json(&self.toc),
        };
        self.seal_json(json.as_bytes())
    }

    /// The blob with these bytes as the TOC, JSON or not.
    pub fn seal_json(self, json: &[u8]) -> Blob {
        let compressed = self.zstd.frame(json);
        self.seal_compressed(json, &compressed)
    }

    /// The blob with these bytes as the compressed TOC, which claims to be `json`.
    pub fn seal_compressed(self, json: &[u8], compressed: &[u8]) -> Blob {
        let mut bytes = self.payload;
        let toc = append_skippable(&mut bytes, compressed, json.len() as u64);
        let tar_split = self.tar_split.map(|(data, len)| append_skippable(&mut bytes, &data, len));
        let footer = footer(self.writer, toc, tar_split);
        append_skippable(&mut bytes, &footer, 0);
        Blob {
            writer: self.writer,
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
            toc_digest: Digest::of(json),
            toc_json: Bytes::copy_from_slice(json),
            toc,
            toc_checksum: Digest::of(compressed),
            tar_split,
            diff_id: self.uncompressed.finish(),
            uncompressed_size: self.uncompressed_size,
        }
    }
}

impl Blob {
    /// The annotations of the layer's descriptor.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let Position { offset, compressed, uncompressed } = self.toc;
        let prefix = match self.writer {
            Writer::CtrRemote | Writer::OldPodman => "io.containers.zstd-chunked",
            Writer::Podman => "io.github.containers.zstd-chunked",
        };
        let mut annotations = BTreeMap::from([
            (format!("{prefix}.manifest-checksum"), self.toc_checksum.to_string()),
            (format!("{prefix}.manifest-position"), format!("{offset}:{compressed}:{uncompressed}:1")),
        ]);
        if let Some(Position { offset, compressed, uncompressed }) = self.tar_split {
            let position = format!("{offset}:{compressed}:{uncompressed}");
            annotations.insert(format!("{prefix}.tarsplit-position"), position);
        }
        if self.writer == Writer::CtrRemote {
            annotations.insert(TOC_DIGEST_ANNOTATION.to_owned(), self.toc_digest.to_string());
            annotations.insert(UNCOMPRESSED_SIZE_ANNOTATION.to_owned(), self.uncompressed_size.to_string());
        }
        annotations
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
}

/// The footer that points at the TOC, without the head of the skippable frame that it is in.
pub fn footer(writer: Writer, toc: Position, tar_split: Option<Position>) -> Vec<u8> {
    const CRFS: u64 = 1;
    let mut numbers = vec![toc.offset, toc.compressed, toc.uncompressed, CRFS];
    let magic = match writer {
        Writer::CtrRemote | Writer::OldPodman => MAGIC,
        Writer::Podman => {
            let none = Position { offset: 0, compressed: 0, uncompressed: 0 };
            let Position { offset, compressed, uncompressed } = tar_split.unwrap_or(none);
            numbers.extend([offset, compressed, uncompressed]);
            PODMAN_MAGIC
        }
    };
    numbers.into_iter().flat_map(u64::to_le_bytes).chain(magic).collect()
}

/// Appends a skippable frame, and says where its content is.
fn append_skippable(bytes: &mut Vec<u8>, data: &[u8], uncompressed: u64) -> Position {
    bytes.extend_from_slice(&SKIPPABLE);
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    let offset = bytes.len() as u64;
    bytes.extend_from_slice(data);
    Position { offset, compressed: data.len() as u64, uncompressed }
}

/// All frames of a zstd file, uncompressed.
///
/// # Panics
/// When it is not zstd.
pub fn unzstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(bytes).expect("zstd frames")
}
