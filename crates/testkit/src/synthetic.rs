//! Layers too large for memory and disk, computed where they are read.
//!
//! A blob is a head, many members of the same length, and a tail. Members are gzip with stored blocks, so that any byte of
//! any member follows from its place. The TOC is real, and so are all digests in it.

mod big;
mod many;
mod members;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use format::Digest;

use crate::content::Content;
use crate::estargz::{self, Blob, Options, TOC_DIGEST_ANNOTATION};
use crate::image::{LAYER_GZIP, Layer};
use crate::tarball;
use crate::tree::{Entry, Tree};

pub use big::BigFile;
pub use many::ManyFiles;

/// A layer that is computed.
#[derive(Clone, Debug)]
pub struct SyntheticLayer {
    /// The blob: an eStargz.
    pub content: Content,
    /// The name it goes by. Nobody has the time to hash it, so it is no digest of anything; see
    /// [`SyntheticLayer::hashed`].
    pub digest: Digest,
    /// In the place of the digest of the archive, likewise.
    pub diff_id: Digest,
    /// The digest of the TOC, a true one.
    pub toc_digest: Digest,
    /// Length of the TOC, uncompressed, in bytes.
    pub toc_len: u64,
    /// Where the TOC's member starts in the blob.
    pub toc_offset: u64,
}

impl SyntheticLayer {
    /// The same layer with the true digest of its blob, for those that are not too large to be hashed.
    pub fn hashed(self) -> SyntheticLayer {
        SyntheticLayer { digest: self.content.digest(), ..self }
    }

    /// The layer for an image.
    pub fn layer(&self) -> Layer {
        Layer {
            media_type: LAYER_GZIP.to_owned(),
            content: self.content.clone(),
            digest: self.digest,
            diff_id: self.diff_id,
            annotations: BTreeMap::from([(TOC_DIGEST_ANNOTATION.to_owned(), self.toc_digest.to_string())]),
        }
    }
}

/// `count` small layers, lowest first, and the tree that they make together. Each has a file of its own in `layers/`, and a
/// new version of `version`.
pub fn many_layers(count: usize) -> (Vec<Blob>, Tree) {
    let mut all = Tree::new();
    let blobs = (0..count).map(|number| {
        let own = (format!("layers/{number:04}"), Entry::file(format!("layer {number}\n")));
        let version = ("version".to_owned(), Entry::file(format!("{number}\n")));
        let layer = [own, version].into_iter().fold(Tree::new(), |tree, (path, entry)| {
            all.insert(path.as_bytes(), entry.clone());
            tree.with(path, entry)
        });
        estargz::build(&tarball::write(&layer), &Options::default())
    });
    (blobs.collect(), all)
}

/// The tail of a blob: the member of a TOC, and the footer.
struct Tail {
    bytes: Bytes,
    toc_digest: Digest,
    toc_len: u64,
}
