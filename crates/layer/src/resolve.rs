//! From a blob's end to a layer on disk: the one that is there, or a new one from the blob's table of contents.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use format::{Digest, Footer, Toc};

use crate::build::Plan;
use crate::error::{Error, Kind};
use crate::image::{ImageFiles, remove_dir, sync_dir};
use crate::layer::Layer;
use crate::layers::{Layers, blocking};
use crate::source::BlobSource;

impl Layers {
    pub(crate) async fn load_or_build(
        self: Arc<Self>,
        digest: Digest,
        expected: Option<Digest>,
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
        expected: Option<Digest>,
        source: &Arc<dyn BlobSource>,
        dir: PathBuf,
    ) -> Result<ImageFiles, Error> {
        let started = Instant::now();
        let located = self.locate_toc(source).await?;
        let fetched = started.elapsed();
        let (blob_size, payload_end, limits) =
            (located.blob_size, located.footer.payload_end, self.options.limits.clone());
        let temporary = self.temporary_dir();
        let (files, entries) = blocking(move || {
            let toc = located.parse(&limits, expected.as_ref())?;
            remove_dir(&temporary)?;
            fs::create_dir(&temporary)
                .map_err(|error| Error::disk(format!("make {}", temporary.display()), error))?;
            let plan = Plan { digest, blob_size, payload_end, toc: &toc };
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
        let range = footer.toc.clone();
        if range.end.saturating_sub(range.start) > self.options.toc_max {
            let what = format!(
                "its compressed TOC has {} bytes, the limit is {}",
                range.end - range.start,
                self.options.toc_max
            );
            return Err(Error::new(Kind::Format, what));
        }
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
    fn parse(&self, limits: &format::Limits, expected: Option<&Digest>) -> Result<Toc, Error> {
        let compressed = self.head.clone().chain(self.rest.clone()).reader();
        let toc = format::read_toc(&self.footer, compressed, limits).map_err(of_format)?;
        match expected {
            Some(digest) => toc.verify(digest).map_err(of_format),
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
    let mut skip = 0;
    let mut body = source.read(range.clone()).await?;
    if body.offset() != range.start {
        skip = range.start.checked_sub(body.offset()).ok_or_else(|| {
            Error::new(Kind::Source, "the registry answered with a later range than it was asked for")
        })?;
    }
    let mut bytes = Vec::with_capacity(len);
    while let Some(mut piece) = body.next().await? {
        let over = skip.min(piece.len() as u64);
        piece.advance(over as usize);
        skip -= over;
        let take = piece.len().min(len - bytes.len());
        bytes.extend_from_slice(piece.get(..take).unwrap_or_default());
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
