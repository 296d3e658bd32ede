//! What comes after the members: the TOC in each of its forms, and the footer.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use format::Digest;
use format::digest::{Algorithm, Hasher};

use crate::blob::Blob;
use crate::error::BuildError;
use crate::footer::{self, ZstdToc};
use crate::names;
use crate::options::{Format, Zstd};
use crate::pipeline::Stream;
use crate::tar::{BLOCK, Kind, Member, encode, padding};
use crate::toc::Toc;

/// The SHA-256 digest of the compressed TOC of a zstd:chunked layer.
pub const ANNOTATION_ZSTD_CHECKSUM: &str = "io.containers.zstd-chunked.manifest-checksum";
/// Where the TOC of a zstd:chunked layer is.
pub const ANNOTATION_ZSTD_POSITION: &str = "io.containers.zstd-chunked.manifest-position";
/// The two above, as Podman, Buildah and CRI-O call them.
pub const ANNOTATION_PODMAN_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// See [`ANNOTATION_PODMAN_CHECKSUM`].
pub const ANNOTATION_PODMAN_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";

/// How much of a TOC is in memory at a time.
const TOC_PIECE: usize = 1 << 20;
/// Higher levels take four times as long for a TOC, and save a hundredth: half of it is digests.
const TOC_LEVEL_MAX: u8 = 6;

/// A TOC as a blob of its own: `stargz.index.json` in a gzip-compressed tar archive.
#[derive(Clone, PartialEq, Eq)]
pub struct TocBlob {
    /// The blob.
    pub bytes: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// Its digest, decompressed.
    pub diff_id: Digest,
}

impl fmt::Debug for TocBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TocBlob")
            .field("size", &self.bytes.len())
            .field("digest", &self.digest)
            .field("diff_id", &self.diff_id)
            .finish()
    }
}

/// What of a layer depends on its format.
pub(crate) struct Tail {
    pub annotations: BTreeMap<&'static str, String>,
    pub toc: Option<TocBlob>,
}

/// Writes the TOC and the footer. `stream` is the layer, decompressed; a TOC may be part of it.
pub(crate) fn write<W: Write>(
    format: Format,
    blob: &mut Blob<W>,
    stream: &mut Stream,
    toc: &mut Toc,
) -> Result<Tail, BuildError> {
    let mut tail = Tail { annotations: BTreeMap::new(), toc: None };
    match format {
        Format::Estargz(gzip) => {
            let offset = blob.size;
            member(toc, gzip.level, stream, |part| blob.write(part))?;
            blob.write(&footer::estargz(offset))?;
        }
        Format::ExternalToc { .. } => {
            tail.toc = Some(external(toc)?);
            blob.write(&footer::external_toc())?;
        }
        Format::ZstdChunked(zstd) => tail.annotations = skippable(blob, toc, zstd)?,
    }
    Ok(tail)
}

/// The archive of the TOC as one gzip member: stargz-snapshotter does not read on behind its end. Streamed, as a TOC may
/// be large.
fn member(
    toc: &mut Toc,
    level: u8,
    stream: &mut Stream,
    mut write: impl FnMut(&[u8]) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let level = flate2::Compression::new(level.min(TOC_LEVEL_MAX).into());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    let mut add = |archive: &[u8]| {
        stream.hasher.update(archive);
        stream.size += archive.len() as u64;
        encoder.write_all(archive).map_err(BuildError::Compress)?;
        write(encoder.get_ref())?;
        encoder.get_mut().clear();
        Ok(())
    };
    let size = toc.size;
    let mut header = Vec::new();
    encode(&Member { size, ..Member::new(Kind::File, names::TOC) }, &mut header);
    add(&header)?;
    toc.for_each_piece(TOC_PIECE, &mut add)?;
    add(&vec![0; padding(size) + 2 * BLOCK])?;
    write(&encoder.finish().map_err(BuildError::Compress)?)
}

fn external(toc: &mut Toc) -> Result<TocBlob, BuildError> {
    let mut bytes = Vec::new();
    let mut stream = Stream { hasher: Hasher::new(Algorithm::Sha256), size: 0 };
    member(toc, TOC_LEVEL_MAX, &mut stream, |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(TocBlob { digest: Digest::of(&bytes), diff_id: stream.hasher.finish(), bytes })
}

/// The TOC and the footer of zstd:chunked, in frames that decompressors skip.
fn skippable<W: Write>(
    blob: &mut Blob<W>,
    toc: &mut Toc,
    zstd: Zstd,
) -> Result<BTreeMap<&'static str, String>, BuildError> {
    let mut encoder = zstd::Encoder::new(Vec::new(), zstd.level).map_err(BuildError::Compress)?;
    encoder.include_checksum(true).map_err(BuildError::Compress)?;
    encoder.set_pledged_src_size(Some(toc.size)).map_err(BuildError::Compress)?;
    toc.for_each_piece(TOC_PIECE, |piece| encoder.write_all(piece).map_err(BuildError::Compress))?;
    let compressed = encoder.finish().map_err(BuildError::Compress)?;
    let header = footer::skippable_header(compressed.len())
        .ok_or(BuildError::Limit { what: "bytes of compressed TOC", limit: u32::MAX.into() })?;
    blob.write(&header)?;
    let place = ZstdToc { offset: blob.size, compressed: compressed.len() as u64, uncompressed: toc.size };
    blob.write(&compressed)?;
    blob.write(&place.footer())?;
    let checksum = Digest::of(&compressed).to_string();
    let mut annotations = BTreeMap::from([
        (ANNOTATION_ZSTD_CHECKSUM, checksum.clone()),
        (ANNOTATION_ZSTD_POSITION, place.position()),
    ]);
    if zstd.podman {
        annotations.insert(ANNOTATION_PODMAN_CHECKSUM, checksum);
        annotations.insert(ANNOTATION_PODMAN_POSITION, place.position());
    }
    Ok(annotations)
}
