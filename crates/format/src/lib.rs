//! Bytes of lazily pullable layers: footers, tables of contents, digests, bounded decompression.
//!
//! Pure: no network, no file system, no async. Everything it parses comes from outside and is hostile until verified.
#![forbid(unsafe_code)]

pub mod digest;

pub use digest::Digest;
