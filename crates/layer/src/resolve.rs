//! From a blob's end to a layer on disk: the one that is there, or a new one from the blob's table of contents.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use format::{Digest, Footer, Toc};

use crate::build::Plan;
use crate::error::{Error, Kind};
use crate::image::{Compression, ImageFiles, remove_dir, sync_dir};
use crate::layer::Layer;
use crate::layers::{Layers, Pin, blocking};
use crate::source::BlobSource;

impl Layers {
    pub(crate) async fn load_or_build(
        self: Arc<Self>,
        digest: Digest,
        expected: Option<Pin>,
        source: Arc<dyn BlobSource>,
    ) -> Result<Arc<Layer>, Error> {
        let dir = self.dir_of(&digest);
        let files = match self.load(dir.clone()).await? {
            Some(files) => files,
            None => self.build(digest, expected, &source, dir).await?,
        };
        Ok(Arc::new(Layer::new(files, source, self.engine.clone())))
    }

    /// Opens what is on disk. Anything that does not hold together is removed: it can be had again.
    async fn load(&self, dir: PathBuf) -> Result<Option<ImageFiles>, Error> {
        blocking(move || {
            if !dir.try_exists().map_err(|error| Error::disk(format!("stat {}", dir.display()), error))? {
                return Ok(None);
            }
            match ImageFiles::open(&dir) {
                Ok(files) => Ok(Some(files)),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "layer on disk is not usable, building it again");
                    remove_dir(&dir)?;
                    Ok(None)
                }
            }
        })
        .await
    }

    async fn build(
        self: &Arc<Self>,
        digest: Digest,
        expected: Option<Pin>,
        source: &Arc<dyn BlobSource>,
        dir: PathBuf,
    ) -> Result<ImageFiles, Error> {
        let started = Instant::now();
        let located = self.locate_toc(source).await?;
        let fetched = started.elapsed();
        let (blob_size, payload_end, limits) =
            (located.blob_size, located.footer.payload_end, self.options.limits.clone());
        let compression = match located.footer.compression() {
            format::Compression::Gzip => Compression::Gzip,
            format::Compression::Zstd => Compression::Zstd,
            other => {
                return Err(Error::new(Kind::NotLazy, format!("its compression {other:?} is not known")));
            }
        };
        let temporary = self.temporary_dir();
        let (files, entries) = blocking(move || {
            let toc = located.parse(&limits, expected.as_ref())?;
            remove_dir(&temporary)?;
            fs::create_dir(&temporary)
                .map_err(|error| Error::disk(format!("make {}", temporary.display()), error))?;
            let plan = Plan { digest, blob_size, payload_end, compression, toc: &toc };
            let published = plan.write(&temporary).and_then(|()| publish(&temporary, &dir));
            if published.is_err() {
                // Best effort: leftovers are removed at the next start in any case.
                let _ = remove_dir(&temporary);
            }
            published?;
            Ok((ImageFiles::open(&dir)?, toc.nodes().len()))
        })
        .await?;
        tracing::debug!(
            layer = %digest,
            entries,
            toc_fetch_ms = fetched.as_millis() as u64,
            total_ms = started.elapsed().as_millis() as u64,
            "laid out layer"
        );
        Ok(files)
    }

    /// Reads the footer and the compressed TOC: one request if the TOC is small, two otherwise.
    async fn locate_toc(&self, source: &Arc<dyn BlobSource>) -> Result<LocatedToc, Error> {
        let tail = source.tail(self.options.tail).await?;
        let footer = Footer::find(&tail.bytes, tail.blob_size).map_err(of_format)?;
        let Some(range) = footer.toc.clone() else {
            let head = self.external_toc(source).await?;
            return Ok(LocatedToc { blob_size: tail.blob_size, footer, head, rest: Bytes::new() });
        };
        self.check_toc_size(range.end.saturating_sub(range.start))?;
        let tail_start = tail.blob_size - tail.bytes.len() as u64;
        let end = range.end.saturating_sub(tail_start) as usize;
        let (head, rest) = match range.start.checked_sub(tail_start) {
            Some(start) => (Bytes::new(), tail.bytes.slice(start as usize..end)),
            None => {
                let head_end = range.end.min(tail_start);
                (read_all(source, range.start..head_end).await?, tail.bytes.slice(..end))
            }
        };
        Ok(LocatedToc { blob_size: tail.blob_size, footer, head, rest })
    }

    fn check_toc_size(&self, size: u64) -> Result<(), Error> {
        if size <= self.options.toc_max {
            return Ok(());
        }
        let what = format!("its compressed TOC has {size} bytes, the limit is {}", self.options.toc_max);
        Err(Error::new(Kind::Format, what))
    }

    /// The TOC of a layer that has it in a blob of its own.
    async fn external_toc(&self, source: &Arc<dyn BlobSource>) -> Result<Bytes, Error> {
        let Some(toc) = source.external_toc().await? else {
            let what = "its table of contents is in another image, which is not there";
            return Err(Error::new(Kind::NotLazy, what));
        };
        let tail = toc.tail(self.options.tail).await?;
        self.check_toc_size(tail.blob_size)?;
        let start = tail.blob_size - tail.bytes.len() as u64;
        if start == 0 {
            return Ok(tail.bytes);
        }
        let mut bytes = read_all(&toc, 0..start).await?.to_vec();
        bytes.extend_from_slice(&tail.bytes);
        Ok(bytes.into())
    }
}

/// Where a blob's TOC is, and its compressed bytes in two pieces.
#[derive(Debug)]
struct LocatedToc {
    blob_size: u64,
    footer: Footer,
    head: Bytes,
    rest: Bytes,
}

impl LocatedToc {
    fn parse(&self, limits: &format::Limits, expected: Option<&Pin>) -> Result<Toc, Error> {
        let compressed = self.head.clone().chain(self.rest.clone()).reader();
        let toc = format::read_toc(&self.footer, compressed, limits).map_err(of_format)?;
        match expected {
            Some(Pin::Toc(digest)) => toc.verify(digest).map_err(of_format),
            Some(Pin::CompressedToc(digest)) => toc.verify_compressed(digest).map_err(of_format),
            None => Ok(toc.trust_unverified("its digest is compared before the layer is used")),
        }
    }
}

fn of_format(error: format::FormatError) -> Error {
    let kind = match error {
        format::FormatError::NotLazy => Kind::NotLazy,
        format::FormatError::TocDigest { .. } => Kind::Integrity,
        _ => Kind::Format,
    };
    Error::with_source(kind, "read its table of contents", error)
}

async fn read_all(source: &Arc<dyn BlobSource>, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
    let len = (range.end - range.start) as usize;
    let mut bytes = Vec::with_capacity(len);
    let mut body = source.read(range.clone()).await?;
    while let Some(mut piece) = body.next().await? {
        let next = range.start + bytes.len() as u64;
        if piece.offset > next {
            let what = "the registry answered with a later range than it was asked for";
            return Err(Error::new(Kind::Source, what));
        }
        // What comes before belongs to a store that sends everything.
        piece.bytes.advance(piece.bytes.len().min((next - piece.offset) as usize));
        let take = piece.bytes.len().min(len - bytes.len());
        bytes.extend_from_slice(piece.bytes.get(..take).unwrap_or_default());
        if bytes.len() == len {
            return Ok(bytes.into());
        }
    }
    Err(Error::new(Kind::Source, format!("the registry sent {} of {len} bytes of the TOC", bytes.len())))
}

/// Gives a finished directory its final name.
fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).map_err(|error| Error::disk(format!("make {}", parent.display()), error))?;
    remove_dir(to)?;
    fs::rename(from, to)
        .map_err(|error| Error::disk(format!("rename {} to {}", from.display(), to.display()), error))?;
    sync_dir(parent)
}
