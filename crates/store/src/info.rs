//! The file `info`: what containers/storage writes down of a layer, in the form of its own records.
//!
//! Clients that name a layer by its TOC must find that digest in it, or the whole pull fails; they treat
//! the digest of the contents as a hint to be checked. Clients that name it by its blob want the digests of blob and
//! contents as facts: they compute the names of layers from them, and find layers again by them.

use format::{Compression, Digest};
use serde::Serialize;

use crate::engine::{Shown, Wanted};

/// `archive.Gzip` and `archive.Zstd` of containers/storage.
const GZIP: u8 = 2;
const ZSTD: u8 = 4;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed_diff_digest: Option<Digest>,
    compressed_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_digest: Option<Digest>,
    /// -1: not known.
    diff_size: i64,
    compression: u8,
    toc_digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<Flags>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Flags {
    expected_layer_diffid: Digest,
}

/// What is said of a layer to a client that calls it by this name.
pub(crate) fn of(name: &Digest, wanted: &Wanted, shown: &Shown) -> Vec<u8> {
    let layer = &wanted.layer;
    let by_blob = *name == layer.descriptor.digest;
    // Who names a layer by its TOC knows layers whose size nobody knows; to others such a layer is damaged.
    let size = layer.tar_size().or(by_blob.then_some(shown.size));
    let info = Info {
        compressed_diff_digest: by_blob.then_some(*name),
        compressed_size: layer.descriptor.size,
        diff_digest: layer.diff_id.filter(|_| by_blob),
        diff_size: size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        compression: match shown.compression {
            Compression::Zstd => ZSTD,
            // Readers find out by themselves; what counts is that it is compressed.
            _ => GZIP,
        },
        toc_digest: if by_blob { shown.toc } else { *name },
        flags: layer.diff_id.filter(|_| !by_blob).map(|diff_id| Flags { expected_layer_diffid: diff_id }),
    };
    // Plain fields with string keys: serialisation has no way to fail.
    let mut text = serde_json::to_vec(&info).unwrap_or_default();
    text.push(b'\n');
    text
}
