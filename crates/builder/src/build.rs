//! The steps of a build.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use format::Digest;

use crate::blob::{Blob, Tables};
use crate::error::BuildError;
use crate::index::{Index, Order};
use crate::input::Input;
use crate::options::{Control, Options, Progress};
use crate::pack::Packer;
use crate::pipeline::{self, Settings, Stream};
use crate::produce::Producer;
use crate::spool::{Spool, Spooling};
use crate::tail::{self, TocBlob};
use crate::tar::Scanner;
use crate::toc::{Toc, TocWriter};

/// The SHA-256 digest of the TOC's JSON. What a lazy pull trusts.
pub const ANNOTATION_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The size of the uncompressed layer.
pub const ANNOTATION_UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// A layer that was built.
#[derive(Debug)]
pub struct Built {
    /// Digest of the new layer.
    pub blob_digest: Digest,
    /// Size of the new layer, in bytes.
    pub blob_size: u64,
    /// Digest of the new layer, decompressed.
    pub diff_id: Digest,
    /// Size of the new layer, decompressed, in bytes.
    pub uncompressed_size: u64,
    /// Digest of the source layer, decompressed: its diff ID, to be compared with the one in the image's configuration.
    pub source_diff_id: Digest,
    /// Digest of the TOC's JSON.
    pub toc_digest: Digest,
    /// What the layer's descriptor has to carry, which only OCI manifests can.
    pub annotations: BTreeMap<&'static str, String>,
    /// The TOC, for [`Format::ExternalToc`](crate::Format::ExternalToc): a layer of the TOC image.
    pub toc: Option<TocBlob>,
    /// Prioritized files, and such with wanted parts, that are not in the layer.
    pub missing: Vec<String>,
}

/// Builds layers.
#[derive(Clone, Debug)]
pub struct Builder {
    options: Options,
    control: Control,
}

impl Builder {
    /// For these options.
    pub fn new(options: Options) -> Builder {
        Builder { options, control: Control::default() }
    }

    /// Calls `report` now and then while a build runs, from the thread that called [`Builder::build`]. At most once for
    /// each MiB or so.
    pub fn on_progress(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Builder {
        self.control.report = Some(Arc::new(report));
        self
    }

    /// Ends a build with [`BuildError::Cancelled`] soon after the flag was set.
    pub fn cancel_by(mut self, flag: Arc<AtomicBool>) -> Builder {
        self.control.cancel = Some(flag);
        self
    }

    /// Builds a layer from `source`, a tar archive that may be compressed with gzip or zstd, of any kind: ordinary,
    /// eStargz, zstd:chunked. Buffers on its own. Needs a temporary file of the size of the archive; blocks, and makes
    /// threads.
    ///
    /// The same source and options give the same bytes, whatever the number of threads.
    ///
    /// # Errors
    /// [`BuildError`]. Then what was written to `out` is of no use.
    pub fn build(&self, source: impl Read, out: impl Write) -> Result<Built, BuildError> {
        self.options.check()?;
        let (spool, mut index) = self.read(source)?;
        index.finish()?;
        let order = Order::new(&index, &self.options.prioritized, &self.options.ranges);
        if !order.missing.is_empty() && !self.options.allow_missing {
            return Err(BuildError::PrioritizedMissing(order.missing));
        }
        let mut blob = Blob::new(out);
        let (mut stream, mut toc) = self.write_members(&spool, &index, &order, &mut blob)?;
        let tail = tail::write(self.options.format, &mut blob, &mut stream, &mut toc)?;
        let (blob_digest, blob_size) = blob.finish()?;
        let diff_id = stream.hasher.finish();
        if self.options.lossless() && diff_id != spool.digest {
            return Err(BuildError::DiffId { expected: Box::new(spool.digest), built: Box::new(diff_id) });
        }
        let mut annotations = tail.annotations;
        annotations.insert(ANNOTATION_TOC_DIGEST, toc.digest.to_string());
        annotations.insert(ANNOTATION_UNCOMPRESSED_SIZE, stream.size.to_string());
        Ok(Built {
            blob_digest,
            blob_size,
            diff_id,
            uncompressed_size: stream.size,
            source_diff_id: spool.digest,
            toc_digest: toc.digest,
            annotations,
            toc: tail.toc,
            missing: order.missing,
        })
    }

    /// The first pass: keeps the archive and learns what is in it.
    fn read(&self, source: impl Read) -> Result<(Spool, Index), BuildError> {
        let Options { temporary, limits, .. } = &self.options;
        let input = Input::new(source)?;
        let spooling = Spooling::new(input, temporary.as_deref(), limits.uncompressed, self.control.clone())?;
        let mut scanner = Scanner::new(spooling);
        let (mut index, mut contents) = (Index::new(self.options.lossless()), 0_u64);
        loop {
            let member = match scanner.next_member() {
                Ok(Some(member)) => member,
                Ok(None) => break,
                Err(error) => {
                    let mut spooling = scanner.into_inner();
                    return Err(BuildError::scan(error, |io| spooling.explain(io)));
                }
            };
            contents = contents.saturating_add(member.size);
            if contents > limits.uncompressed {
                return Err(limit("uncompressed bytes", limits.uncompressed));
            }
            index.add(&member, scanner.globals())?;
            if index.len() as u64 > u64::from(limits.entries) {
                return Err(limit("members", limits.entries.into()));
            }
        }
        Ok((scanner.into_inner().finish()?, index))
    }

    /// The second pass: writes everything in front of the TOC.
    fn write_members<W: Write>(
        &self,
        spool: &Spool,
        index: &Index,
        order: &Order,
        blob: &mut Blob<W>,
    ) -> Result<(Stream, Toc), BuildError> {
        let Options { format, chunk_size, prioritized, ranges, temporary, .. } = &self.options;
        let wanted = !prioritized.is_empty() || !ranges.is_empty();
        let mut tables = Tables::new(TocWriter::new(*chunk_size, temporary.as_deref())?);
        let settings = Settings {
            format: *format,
            threads: self.options.thread_count(),
            chunk_size: *chunk_size,
            min_chunk_size: self.options.min_chunk_size(),
        };
        let produce = |emit: &mut dyn FnMut(_) -> _| {
            let mut packer = Packer::new(settings.min_chunk_size, emit);
            let producer = Producer::new(spool, index, *chunk_size);
            if self.options.lossless() {
                producer.copy(order, &mut packer)?;
            } else {
                producer.rewrite(order, wanted, &mut packer)?;
            }
            packer.finish()
        };
        let mut done = 0;
        let stream = pipeline::run(settings, produce, |packed| {
            if self.control.cancelled() {
                return Err(BuildError::Cancelled);
            }
            done += packed.batch.data.len() as u64;
            let base = blob.size;
            blob.write(&packed.bytes)?;
            tables.add(packed, base)?;
            self.control.report(Progress::Writing { done, total: spool.size });
            Ok(())
        })?;
        Ok((stream, tables.toc.finish()?))
    }
}

fn limit(what: &'static str, limit: u64) -> BuildError {
    BuildError::Limit { what, limit }
}
