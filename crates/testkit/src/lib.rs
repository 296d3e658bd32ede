//! See the crate description in its manifest.
