//! Where blobs come from, and the reader that trusts none of them.

use std::error::Error;
use std::io::{self, Read};
use std::ops::Range;

use format::Digest;
use format::digest::Hasher;

use crate::descriptor::Descriptor;
use crate::stop::Stop;

/// Largest manifest, index or image config, in bytes: what registries accept by convention.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;
const BUFFER: usize = 256 << 10;

/// Where the blobs of an image come from.
pub trait Source: Sync {
    /// Opens the blob that `descriptor` names. What it yields is checked by whoever reads.
    ///
    /// # Errors
    /// [`BlobError::Missing`] if it is not there, [`BlobError::Open`] if it cannot be had.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError>;

    /// Opens a part of the blob, which nothing checks. A source that can begin in the middle of a blob does not read what is
    /// before it, as the default does.
    ///
    /// # Errors
    /// Those of [`Source::open`]; a blob that ends before the range begins yields nothing.
    fn open_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let mut blob = self.open(descriptor)?;
        io::copy(&mut (&mut blob).take(range.start), &mut io::sink())
            .map_err(|source| BlobError::Read { digest: Box::new(descriptor.digest), source })?;
        Ok(Box::new(blob.take(range.end.saturating_sub(range.start))))
    }
}

/// Why a blob cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The source does not have it.
    #[error(
        "the blob {digest} is missing in {place}; an image that was saved for one platform lacks the others"
    )]
    Missing {
        /// Its digest.
        digest: Box<Digest>,
        /// The source.
        place: String,
    },
    /// The source has it, but does not give it.
    #[error("opening the blob {digest}")]
    Open {
        /// Its digest.
        digest: Box<Digest>,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Reading it failed.
    #[error("reading the blob {digest}")]
    Read {
        /// Its digest.
        digest: Box<Digest>,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It has not as many bytes as its descriptor says.
    #[error("the blob {digest} is damaged: it has {} bytes than the {size} that its descriptor says",
        if *.longer { "more" } else { "fewer" })]
    Size {
        /// Its digest.
        digest: Box<Digest>,
        /// Its size as the descriptor says it.
        size: u64,
        /// Whether it has more bytes.
        longer: bool,
    },
    /// Its bytes are others.
    #[error("the blob {expected} is damaged: its digest is {found}")]
    Digest {
        /// The digest that it should have.
        expected: Box<Digest>,
        /// The digest that it has.
        found: Box<Digest>,
    },
    /// A document is larger than any that registries accept.
    #[error("the {what} {digest} has {size} bytes, more than the {DOCUMENT_MAX} that are accepted")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Box<Digest>,
        /// Its size in bytes.
        size: u64,
    },
}

/// Reads a blob, never more than its size; [`Verified::finish`] tells whether all of it was right.
pub(crate) struct Verified<'a> {
    source: Box<dyn Read + Send + 'a>,
    hasher: Hasher,
    expected: Digest,
    size: u64,
    left: u64,
    stop: Stop,
}

impl<'a> Verified<'a> {
    pub fn open(source: &'a dyn Source, blob: &Descriptor, stop: &Stop) -> Result<Verified<'a>, BlobError> {
        Ok(Verified {
            source: source.open(blob)?,
            hasher: Hasher::new(blob.digest.algorithm()),
            expected: blob.digest,
            size: blob.size,
            left: blob.size,
            stop: stop.clone(),
        })
    }

    /// Reads what is left, and checks the whole.
    pub fn finish(mut self) -> Result<(), BlobError> {
        let digest = Box::new(self.expected);
        let mut buffer = vec![0; BUFFER];
        let read = |source| BlobError::Read { digest: digest.clone(), source };
        while read_some(&mut self, &mut buffer).map_err(read)? > 0 {}
        if self.left > 0 {
            return Err(BlobError::Size { digest, size: self.size, longer: false });
        }
        if read_some(&mut self.source, &mut [0]).map_err(read)? > 0 {
            return Err(BlobError::Size { digest, size: self.size, longer: true });
        }
        match self.hasher.finish() {
            found if found == self.expected => Ok(()),
            found => Err(BlobError::Digest { expected: digest, found: Box::new(found) }),
        }
    }
}

/// A short part of a blob, unchecked; shorter if the blob is.
pub(crate) fn read_range(
    source: &dyn Source,
    blob: &Descriptor,
    range: Range<u64>,
) -> Result<Vec<u8>, BlobError> {
    let mut bytes = Vec::new();
    source
        .open_range(blob, range)?
        .read_to_end(&mut bytes)
        .map_err(|source| BlobError::Read { digest: Box::new(blob.digest), source })?;
    Ok(bytes)
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.source.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..got]);
        self.left -= got as u64;
        Ok(got)
    }
}

/// Reads and checks a JSON document of an image.
pub(crate) fn read_document(
    source: &dyn Source,
    what: &'static str,
    descriptor: &Descriptor,
    stop: &Stop,
) -> Result<Vec<u8>, BlobError> {
    let digest = Box::new(descriptor.digest);
    if descriptor.size > DOCUMENT_MAX {
        return Err(BlobError::TooLarge { what, digest, size: descriptor.size });
    }
    let mut blob = Verified::open(source, descriptor, stop)?;
    let mut bytes = Vec::new();
    blob.read_to_end(&mut bytes).map_err(|source| BlobError::Read { digest, source })?;
    blob.finish()?;
    Ok(bytes)
}
