//! `meta.json`: the small description of a layer on disk.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use format::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// Version of the on-disk layout. A change of any file's format is a change of this number; other versions are
/// rebuilt from the blob.
pub const META_VERSION: u32 = 3;

/// No description comes near this many bytes.
const SIZE_MAX: u64 = 64 << 10;

/// How the blob is compressed, as it is written in `meta.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip members.
    Gzip,
    /// zstd frames.
    Zstd,
}

impl From<Compression> for format::Compression {
    fn from(compression: Compression) -> format::Compression {
        match compression {
            Compression::Gzip => format::Compression::Gzip,
            Compression::Zstd => format::Compression::Zstd,
        }
    }
}

/// What `meta.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// [`META_VERSION`] of the writer.
    pub version: u32,
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// Digest of the TOC that the image was made from.
    pub toc_digest: Digest,
    /// Digest of the compressed TOC, where writers pin that (zstd:chunked).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed_toc_digest: Option<Digest>,
    /// Size of the blob, bytes.
    pub blob_size: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Some contents have no digest, so that the layer can be used only where verification is waived.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undigested: bool,
    /// Start of the data area in the image file, bytes; also the length of the metadata area.
    pub data_start: u64,
    /// Length of the data area, bytes.
    pub data_len: u64,
    /// Where the prefetch area ends in the blob, if the image's author marked one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch_end: Option<u64>,
    /// What else is to be prefetched: runs of spans, by their numbers, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefetch_spans: Vec<Range<u32>>,
}

impl Meta {
    pub(super) fn read(path: &Path) -> Result<Meta, Error> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(SIZE_MAX).read_to_end(&mut text))
            .map_err(|error| Error::disk(format!("read {}", path.display()), error))?;
        let meta: Meta = serde_json::from_slice(&text)
            .map_err(|error| Error::with_source(Kind::Format, format!("parse {}", path.display()), error))?;
        if meta.version != META_VERSION {
            let what =
                format!("{} has version {}, this program knows {META_VERSION}", path.display(), meta.version);
            return Err(Error::new(Kind::Format, what));
        }
        Ok(meta)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain fields with string keys: serialisation has no way to fail.
        serde_json::to_vec(self).expect("plain fields always serialise")
    }
}
