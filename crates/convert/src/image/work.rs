//! What is done with one blob.

use std::io::{self, BufWriter, Read};

use builder::{
    ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_PODMAN_POSITION, ANNOTATION_TOC_DIGEST,
    ANNOTATION_UNCOMPRESSED_SIZE, ANNOTATION_ZSTD_CHECKSUM, ANNOTATION_ZSTD_POSITION, BuildError, Builder,
    Built, Format,
};
use format::{Digest, FOOTER_SIZE_MAX, Footer, Limits, TocKind, read_toc};

use super::plan::Job;
use super::{Action, ConvertError, LayerReport, Step, Task};
use crate::descriptor::Descriptor;
use crate::media;
use crate::source::{BlobError, Source, Verified, read_range};

const BUFFER: usize = 256 << 10;

/// Annotations that are true of one blob only.
pub(super) const OF_LAYER: [&str; 6] = [
    ANNOTATION_TOC_DIGEST,
    ANNOTATION_UNCOMPRESSED_SIZE,
    ANNOTATION_ZSTD_CHECKSUM,
    ANNOTATION_ZSTD_POSITION,
    ANNOTATION_PODMAN_CHECKSUM,
    ANNOTATION_PODMAN_POSITION,
];

/// A blob of the new image.
#[derive(Debug)]
pub(super) struct Outcome {
    pub digest: Digest,
    pub size: u64,
    /// What was built, when something was.
    pub built: Option<New>,
    pub action: Action,
}

/// A new layer.
#[derive(Debug)]
pub(super) struct New {
    pub media_type: &'static str,
    pub annotations: Vec<(&'static str, String)>,
    pub diff_id: Digest,
    pub source_diff_id: Digest,
    /// Its external TOC.
    pub toc: Option<Toc>,
}

/// An external TOC at the target.
#[derive(Debug)]
pub(super) struct Toc {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
}

impl Outcome {
    fn unchanged(blob: &Descriptor, action: Action) -> Outcome {
        Outcome { digest: blob.digest, size: blob.size, built: None, action }
    }

    pub fn report(&self, job: &Job) -> LayerReport {
        LayerReport {
            source: job.blob.digest,
            source_size: job.blob.size,
            target: self.digest,
            target_size: self.size,
            action: self.action.clone(),
        }
    }
}

impl Task<'_> {
    /// Does one job: the blob is at the target then.
    pub(super) fn layer(&self, job: &Job) -> Result<Outcome, ConvertError> {
        let outcome = if !job.layer {
            self.copy(&job.blob, "it is not a layer")?
        } else if media::is_foreign(&job.blob.media_type) {
            match self.copy(&job.blob, "it is distributed from another place") {
                Err(ConvertError::Blob(BlobError::Missing { .. })) => {
                    Outcome::unchanged(&job.blob, Action::Elsewhere)
                }
                other => other?,
            }
        } else if self.reuse(job)? {
            Outcome::unchanged(&job.blob, Action::Reused)
        } else {
            self.build(job)?
        };
        self.report(&job.blob, Step::Done(outcome.action.clone()));
        Ok(outcome)
    }

    fn copy(&self, blob: &Descriptor, reason: &str) -> Result<Outcome, ConvertError> {
        self.take(blob)?;
        Ok(Outcome::unchanged(blob, Action::Kept(reason.to_owned())))
    }

    /// Makes the blob a part of the target as it is.
    fn take(&self, blob: &Descriptor) -> Result<(), ConvertError> {
        if self.target.adopt(blob)? {
            return Ok(());
        }
        let mut source = Verified::open(self.source, blob, &self.stop)?;
        let mut new = self.target.begin()?;
        let mut buffer = vec![0; BUFFER];
        let mut done = 0;
        loop {
            let got = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(BlobError::Read { digest: Box::new(blob.digest), source: error }.into());
                }
            };
            new.write_all(&buffer[..got]).map_err(|source| self.failed(blob, BuildError::Output(source)))?;
            done += got as u64;
            self.report(blob, Step::Copying { done });
        }
        source.finish()?;
        Ok(new.keep(blob, None)?)
    }

    /// Takes the layer as it is if it has the format that is wanted.
    fn reuse(&self, job: &Job) -> Result<bool, ConvertError> {
        let Some(digest) = self.claims_format(job) else { return Ok(false) };
        let has_toc = has_toc(self.source, &job.blob, self.options.layer.format, &digest)?;
        if has_toc {
            self.take(&job.blob)?;
        }
        Ok(has_toc)
    }

    /// The digest of the layer's TOC, if its descriptor says all that is to be said of the format.
    fn claims_format(&self, job: &Job) -> Option<Digest> {
        if !self.options.reuse || !job.prioritized.is_empty() || !job.ranges.is_empty() {
            return None;
        }
        let has = |names: &[&str]| names.iter().all(|name| job.blob.annotations.contains_key(*name));
        let (media_type, complete) = match self.options.layer.format {
            Format::Estargz(_) => (media::LAYER_GZIP, true),
            Format::ZstdChunked(zstd) => {
                let podman = has(&[ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_PODMAN_POSITION]);
                let stargz = has(&[ANNOTATION_ZSTD_CHECKSUM, ANNOTATION_ZSTD_POSITION]);
                (media::LAYER_ZSTD, stargz && (podman || !zstd.podman))
            }
            // The TOC of a layer with an external one is not with the layer.
            _ => return None,
        };
        let digest = job.blob.annotations.get(ANNOTATION_TOC_DIGEST)?.parse().ok()?;
        (complete && media::to_oci(&job.blob.media_type) == media_type).then_some(digest)
    }

    fn build(&self, job: &Job) -> Result<Outcome, ConvertError> {
        let blob = &job.blob;
        let mut source = Verified::open(self.source, blob, &self.stop)?;
        let mut new = self.target.begin()?;
        let built = self.builder(job).build(&mut source, BufWriter::with_capacity(BUFFER, &mut new));
        if self.stop.is_set() {
            return Err(ConvertError::Cancelled);
        }
        // A damaged blob fails in many ways; that it is damaged says more. Nor is it kept if it can be read.
        let may_be_damage = !matches!(
            built,
            Err(BuildError::Options(_)
                | BuildError::Output(_)
                | BuildError::Temporary { .. }
                | BuildError::Limit { .. })
        );
        if may_be_damage {
            source.finish()?;
        }
        match built {
            Ok(built) => {
                let media_type = self.new_media_type().map_err(|source| self.failed(blob, source))?;
                self.report(blob, Step::Storing { size: built.blob_size });
                let layer = Descriptor::new(media_type, built.blob_digest, built.blob_size);
                new.keep(&layer, Some(&built.diff_id))?;
                self.new_layer(media_type, built)
            }
            Err(error @ BuildError::Entry { .. }) => {
                drop(new);
                self.copy(blob, &error.to_string())
            }
            Err(error) => Err(self.failed(blob, error)),
        }
    }

    fn builder(&self, job: &Job) -> Builder {
        let options = builder::Options {
            prioritized: job.prioritized.clone(),
            ranges: job.ranges.clone(),
            allow_missing: true,
            ..self.options.layer.clone()
        };
        let (stop, report, blob) = (self.stop.clone(), self.report.clone(), job.blob.clone());
        Builder::new(options).cancel_by(self.stop.flag()).on_progress(move |progress| {
            // Passes on what the caller asks.
            if !stop.is_set()
                && let Some(report) = &report
            {
                report(super::Progress {
                    layer: blob.digest,
                    size: blob.size,
                    step: Step::Building(progress),
                });
            }
        })
    }

    fn new_media_type(&self) -> Result<&'static str, BuildError> {
        match self.options.layer.format {
            Format::Estargz(_) | Format::ExternalToc { .. } => Ok(media::LAYER_GZIP),
            Format::ZstdChunked(_) => Ok(media::LAYER_ZSTD),
            _ => Err(BuildError::Options("this format has no media type")),
        }
    }

    fn new_layer(&self, media_type: &'static str, built: Built) -> Result<Outcome, ConvertError> {
        let toc = match built.toc {
            Some(toc) => {
                let descriptor = self.put(media::LAYER_GZIP, &toc.bytes)?;
                Some(Toc { descriptor, diff_id: toc.diff_id })
            }
            None => None,
        };
        let new = New {
            media_type,
            annotations: built.annotations.into_iter().collect(),
            diff_id: built.diff_id,
            source_diff_id: built.source_diff_id,
            toc,
        };
        Ok(Outcome {
            digest: built.blob_digest,
            size: built.blob_size,
            built: Some(new),
            action: Action::Converted,
        })
    }

    fn failed(&self, blob: &Descriptor, source: BuildError) -> ConvertError {
        ConvertError::Layer { digest: Box::new(blob.digest), source }
    }
}

/// Whether a blob of the source has a TOC of this digest, as the format has it.
fn has_toc(
    source: &dyn Source,
    blob: &Descriptor,
    format: Format,
    digest: &Digest,
) -> Result<bool, ConvertError> {
    let tail = blob.size.saturating_sub(FOOTER_SIZE_MAX as u64)..blob.size;
    let bytes = read_range(source, blob, tail)?;
    let Ok(footer) = Footer::find(&bytes, blob.size) else { return Ok(false) };
    let kind = match format {
        Format::Estargz(_) => matches!(footer.kind, TocKind::Estargz),
        Format::ZstdChunked(_) => matches!(footer.kind, TocKind::ZstdChunked { .. }),
        _ => false,
    };
    let Some(toc) = footer.toc.clone().filter(|_| kind) else { return Ok(false) };
    let compressed = source.open_range(blob, toc)?;
    Ok(read_toc(&footer, compressed, &Limits::default()).is_ok_and(|toc| toc.verify(digest).is_ok()))
}
