//! Bytes of lazily pullable layers: footers, tables of contents, digests, bounded decompression.
//!
//! Pure: no network, no file system, no async. Everything it parses comes from outside and is hostile until verified.
//!
//! The formats: eStargz, in gzip, with its TOC inside or in a blob of its own; stargz, its predecessor; and zstd:chunked, as
//! stargz-snapshotter's converter and as Podman and Buildah write it.
//!
//! In the order of use: the last bytes of a blob, or the [`ChunkedAnnotations`] of a manifest, give a [`Footer`], which says
//! where the compressed TOC is; [`read_toc`] turns that into an [`UnverifiedToc`], which becomes a [`Toc`] for whoever knows
//! its digest; the TOC's [`Chunk`]s lie in the [`Span`]s of the blob, which [`decode`] expands. Checking expanded bytes
//! against [`Chunk::digest`] is the caller's part.
#![forbid(unsafe_code)]

pub mod digest;

mod annotations;
mod decompress;
mod error;
mod footer;
mod ranges;
mod span;
mod timestamp;
mod toc;

pub use annotations::ChunkedAnnotations;
pub use decompress::{Compression, DecodeError, StreamDecoder, compressed_bound, decode};
pub use digest::Digest;
pub use error::{EntryError, FormatError};
pub use footer::{ChunkedPosition, FOOTER_SIZE_MAX, Footer, TocKind};
pub use ranges::{FileRanges, ParseFileRangesError};
pub use span::{Span, span_index, spans};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use toc::{Chunk, Landmark, Limits, Node, NodeId, NodeKind, Toc, UnverifiedToc, Xattr, read_toc};
