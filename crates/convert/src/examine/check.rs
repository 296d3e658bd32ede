//! Whether every chunk of a layer is what its TOC says, and the TOC what the manifest says. The blob is read once, as a
//! stream.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use format::digest::{Algorithm, Hasher};
use format::{Chunk, Compression, Digest, StreamDecoder, spans};

use super::{ExternalToc, toc_of, verified};
use crate::descriptor::Descriptor;
use crate::source::{BlobError, Source, Verified};
use crate::stop::Stop;

/// Problems that are told of one layer.
const PROBLEMS_MAX: usize = 20;
const BUFFER: usize = 256 << 10;

/// What became of a check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// Chunks that are right.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong: none if the layer is good. Not more than a few of them.
    pub problems: Vec<String>,
    /// How many there are.
    pub wrong: u64,
    /// Why the layer cannot be pulled lazily; only its digest was checked then.
    pub not_lazy: Option<String>,
}

impl Checked {
    fn wrong(&mut self, problem: String) {
        self.wrong += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Checks a layer: its digest and size, its TOC against the manifest, each chunk against the TOC.
///
/// # Errors
/// When it cannot be read, which a wrong digest is not: that is a problem like the others.
pub fn check_layer(
    source: &dyn Source,
    layer: &Descriptor,
    external: &mut ExternalToc<'_>,
    cancel: &Arc<AtomicBool>,
) -> Result<Checked, BlobError> {
    let mut checked = Checked::default();
    let stop = Stop::on(Some(Arc::clone(cancel)));
    let toc = match toc_of(source, layer, external)? {
        Ok((footer, toc)) => {
            let (toc, problem) = verified(toc, layer);
            match (&toc, problem) {
                (Some(_), problem) => checked.not_lazy = problem,
                (None, problem) => checked.wrong(problem.unwrap_or_default()),
            }
            toc.map(|toc| (footer, toc))
        }
        Err(problem) => {
            checked.not_lazy = Some(problem);
            None
        }
    };
    let mut blob = Verified::open(source, layer, &stop)?;
    if let Some((footer, toc)) = &toc {
        let mut chunks: HashMap<u64, Vec<&Chunk>> = HashMap::new();
        for chunk in toc.chunks() {
            chunks.entry(chunk.blob_offset).or_default().push(chunk);
        }
        let mut at = 0;
        for span in spans(toc.chunks(), footer.payload_end) {
            let read = |source| BlobError::Read { digest: Box::new(layer.digest), source };
            io::copy(&mut (&mut blob).take(span.blob.start - at), &mut io::sink()).map_err(read)?;
            let mut piece =
                Piece { source: (&mut blob).take(span.blob.end - span.blob.start), failure: None };
            let mut of_span = chunks.remove(&span.blob.start).unwrap_or_default();
            of_span.sort_by_key(|chunk| (chunk.inner_offset, chunk.size));
            check_span(&mut piece, footer.compression(), span.blob.start, &of_span, &mut checked);
            // What a decoder makes of it, the source's own failures are no matter of contents.
            let Piece { mut source, failure } = piece;
            if let Some(error) = failure {
                return Err(read(error));
            }
            io::copy(&mut source, &mut io::sink()).map_err(read)?;
            at = span.blob.end;
        }
    }
    match blob.finish() {
        Ok(()) => Ok(checked),
        Err(error @ (BlobError::Digest { .. } | BlobError::Size { .. })) => {
            checked.wrong(error.to_string());
            Ok(checked)
        }
        Err(error) => Err(error),
    }
}

/// The bytes of a span, with what failed apart from what they hold.
struct Piece<R> {
    source: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Piece<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).inspect_err(|error| {
            self.failure = Some(io::Error::new(error.kind(), error.to_string()));
        })
    }
}

/// Checks the chunks of a span, which are in their order.
fn check_span(
    source: &mut impl Read,
    compression: Compression,
    start: u64,
    chunks: &[&Chunk],
    checked: &mut Checked,
) {
    let mut decoder = StreamDecoder::new(compression, source);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    let mut last: Option<(u64, u64, Digest)> = None;
    for chunk in chunks {
        let place = format!("the chunk at byte {} of the stream at byte {start}", chunk.inner_offset);
        let found = match last {
            Some((offset, size, digest)) if (offset, size) == (chunk.inner_offset, chunk.size) => Ok(digest),
            _ if chunk.inner_offset < at => Err("it lies within another one".to_owned()),
            _ => hash(&mut decoder, &mut buffer, chunk.inner_offset - at, chunk.size),
        };
        let found = match found {
            Ok(found) => found,
            Err(problem) => {
                checked.wrong(format!("{place}: {problem}"));
                continue;
            }
        };
        at = chunk.inner_end().max(at);
        last = Some((chunk.inner_offset, chunk.size, found));
        match chunk.digest.map(Digest::from_sha256) {
            Some(expected) if expected == found => {
                checked.chunks += 1;
                checked.bytes += chunk.size;
            }
            Some(expected) => checked.wrong(format!("{place}: its digest is {found}, not {expected}")),
            None => checked.wrong(format!("{place}: the table of contents has no digest of it")),
        }
    }
}

/// The digest of the `size` bytes behind the next `skip`.
fn hash(source: &mut impl Read, buffer: &mut [u8], skip: u64, size: u64) -> Result<Digest, String> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for (mut left, hashed) in [(skip, false), (size, true)] {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = source.read(&mut buffer[..most]).map_err(|error| error.to_string())?;
            if got == 0 {
                return Err("the stream ends before it".to_owned());
            }
            if hashed {
                hasher.update(&buffer[..got]);
            }
            left -= got as u64;
        }
    }
    Ok(hasher.finish())
}
