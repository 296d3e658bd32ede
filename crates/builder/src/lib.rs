//! Tar layers to lazily pullable layers: eStargz, eStargz with an external TOC, zstd:chunked.
//!
//! Pure but for a temporary file and threads: no network, no async, no images; it takes a stream and gives a blob, its
//! digests, and the annotations that its descriptor has to carry.
//!
//! [`Builder::build`] passes over the source twice. First the archive goes to a temporary file while [`tar::Scanner`]
//! finds its members, and an index settles which of them the layer shows. Then the members are read in the order of the
//! new layer, cut into pieces that decompress on their own, and compressed by all processors; the results are written
//! in order, while the TOC grows. What is in memory is bounded by the number of threads and of members, never by sizes.
#![forbid(unsafe_code)]

pub mod tar;

mod attributes;
mod blob;
mod budget;
mod build;
mod compress;
mod error;
mod footer;
mod index;
mod input;
mod names;
mod options;
mod pack;
mod pipeline;
mod produce;
mod spool;
mod tail;
mod toc;

pub use build::{ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE, Builder, Built};
pub use error::{BuildError, EntryProblem};
pub use options::{Format, Gzip, Limits, Options, Progress, Zstd};
pub use tail::{
    ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_PODMAN_POSITION, ANNOTATION_ZSTD_CHECKSUM,
    ANNOTATION_ZSTD_POSITION, TocBlob,
};
