//! Bytes that are served: in memory, or computed where they are asked for, so that a blob may be larger than memory and
//! disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use format::Digest;
use format::digest::{Algorithm, Hasher};

/// Bytes of a known length. Clones and slices share them.
#[derive(Clone)]
pub struct Content {
    source: Source,
    /// What of the source this is.
    range: Range<u64>,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    Synthetic(Arc<Reader>),
}

/// Computes so many bytes from an offset on; both lie inside of the content.
type Reader = dyn Fn(u64, usize) -> Bytes + Send + Sync;

impl Content {
    /// `len` bytes that `read(offset, len)` computes. It must return the same bytes each time, and as many as asked for.
    pub fn synthetic(len: u64, read: impl Fn(u64, usize) -> Bytes + Send + Sync + 'static) -> Content {
        Content { source: Source::Synthetic(Arc::new(read)), range: 0..len }
    }

    /// How many bytes these are.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// A part.
    ///
    /// # Panics
    /// When the range is not inside.
    pub fn slice(&self, range: Range<u64>) -> Content {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let start = self.range.start;
        Content { source: self.source.clone(), range: start + range.start..start + range.end }
    }

    /// `len` bytes from `offset` on.
    ///
    /// # Panics
    /// When they are not inside.
    pub fn read(&self, offset: u64, len: usize) -> Bytes {
        let part = self.slice(offset..offset + len as u64).range;
        match &self.source {
            Source::Bytes(bytes) => bytes.slice(part.start as usize..part.end as usize),
            Source::Synthetic(read) => {
                let bytes = read(part.start, len);
                assert_eq!(bytes.len(), len, "a synthetic content returned another number of bytes");
                bytes
            }
        }
    }

    /// All bytes.
    ///
    /// # Panics
    /// When they are more than 1 GiB: those are not for memory.
    pub fn to_bytes(&self) -> Bytes {
        assert!(self.len() <= 1 << 30, "{} bytes are not for memory", self.len());
        self.read(0, self.len() as usize)
    }

    /// The digest of all bytes, computed in pieces.
    pub fn digest(&self) -> Digest {
        const PIECE: u64 = 1 << 20;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut offset = 0;
        while offset < self.len() {
            let len = PIECE.min(self.len() - offset);
            hasher.update(&self.read(offset, len as usize));
            offset += len;
        }
        hasher.finish()
    }
}

impl Default for Content {
    fn default() -> Content {
        Bytes::new().into()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Bytes(_) => "in memory",
            Source::Synthetic(_) => "computed",
        };
        write!(f, "Content({} bytes, {kind})", self.len())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        let range = 0..bytes.len() as u64;
        Content { source: Source::Bytes(bytes), range }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Content {
        Bytes::from(text).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_slices_read_the_same_bytes_from_memory_and_computed() {
        let bytes: Bytes = (0..=255).collect();
        let memory = Content::from(bytes.clone());
        let computed =
            Content::synthetic(256, |offset, len| (offset..offset + len as u64).map(|at| at as u8).collect());
        for content in [memory, computed] {
            assert_eq!(content.digest(), Digest::of(&bytes));
            let slice = content.slice(10..200).slice(5..100);
            assert_eq!(slice.len(), 95);
            assert_eq!(slice.read(3, 10), bytes[18..28]);
            assert_eq!(slice.to_bytes(), bytes[15..110]);
            assert!(slice.slice(7..7).is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "of 3 bytes")]
    fn reading_outside_is_a_mistake_of_the_test() {
        Content::from("abc").read(2, 2);
    }
}
