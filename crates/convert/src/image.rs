//! Converts an image: a manifest, or an index of several.
//!
//! In steps. First the documents are read and the work is listed, each layer once however often it occurs. If files are
//! to come first, the names in the layers are read to find the layer that shows each of them. The layers are converted side
//! by side. Then the documents are written again from the bottom up: configs get the new diff IDs, manifests the new
//! layers, indexes the new manifests. Documents are edited in place, so that what is not known in them stays; one of
//! which nothing changes keeps its very bytes.

mod assemble;
mod error;
mod names;
mod options;
mod plan;
mod pool;
mod toc_image;
mod work;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use format::Digest;

use crate::descriptor::Descriptor;
use crate::layout::{ANNOTATION_CONTAINERD_NAME, ANNOTATION_NAME};
use crate::source::Source;
use crate::stop::Stop;
use crate::target::Target;
use options::Report;

pub(crate) use names::plain;

pub use error::ConvertError;
pub use options::{MediaTypes, Options, Platforms, Progress, Step};
pub use toc_image::{ANNOTATION_TOC_OF_LAYER, TOC_NAME_SUFFIX};

/// Converts images.
#[derive(Clone)]
pub struct Converter {
    options: Options,
    report: Option<Report>,
    cancel: Option<Arc<AtomicBool>>,
}

impl std::fmt::Debug for Converter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Converter").field("options", &self.options).finish_non_exhaustive()
    }
}

/// An image that was converted.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// Its manifest or index; of the kind that the source is, and without its names.
    pub image: Descriptor,
    /// The manifest of the image with the external TOCs, which is to be called as the image with [`TOC_NAME_SUFFIX`].
    pub toc_image: Option<Descriptor>,
    /// What became of each layer, in the order of the images; one that occurs again is not told again.
    pub layers: Vec<LayerReport>,
    /// Files that were to come first, but that no image has.
    pub missing: Vec<String>,
    /// The media types are docker's, which leave no place for annotations: the layers can be pulled lazily only by those
    /// who do not want the TOC's digest.
    pub without_annotations: bool,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerReport {
    /// As it was.
    pub source: Digest,
    /// Its size in bytes as it was.
    pub source_size: u64,
    /// As it is now.
    pub target: Digest,
    /// Its size in bytes as it is now.
    pub target_size: u64,
    /// How it came to be.
    pub action: Action,
}

/// How a layer of the new image came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// It was converted.
    Converted,
    /// It had the format already.
    Reused,
    /// It stays as it was, since it cannot be pulled lazily: why.
    Kept(String),
    /// It is not distributed with the image, and is not here.
    Elsewhere,
}

impl Converter {
    /// What is to be made.
    pub fn new(options: Options) -> Converter {
        Converter { options, report: None, cancel: None }
    }

    /// Calls `report` now and then, from several threads.
    pub fn on_progress(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Converter {
        self.report = Some(Arc::new(report));
        self
    }

    /// Ends a conversion with [`ConvertError::Cancelled`] soon after the flag was set.
    pub fn cancel_by(mut self, flag: Arc<AtomicBool>) -> Converter {
        self.cancel = Some(flag);
        self
    }

    /// Converts the image whose manifest or index is `image`. All its blobs are in `target` then; the caller gives it its
    /// name, for a layout by [`Writer::publish`](crate::layout::Writer::publish). Blocks, and makes threads.
    ///
    /// The same image and options give the same bytes.
    ///
    /// # Errors
    /// [`ConvertError`]. Then `target` has blobs that no image has, until they are cleared away in its own way.
    pub fn convert(
        &self,
        source: &dyn Source,
        image: &Descriptor,
        target: &dyn Target,
    ) -> Result<Converted, ConvertError> {
        let stop = Stop::on(self.cancel.clone());
        let task =
            Task { options: &self.options, report: self.report.clone(), source, target, stop: stop.clone() };
        // Whatever fails after the flag was set fails because of it, or does not matter any more.
        let cancelled = |error| if stop.is_set_by_caller() { ConvertError::Cancelled } else { error };
        task.run(image).map_err(cancelled)
    }
}

/// One conversion.
struct Task<'a> {
    options: &'a Options,
    report: Option<Report>,
    source: &'a dyn Source,
    target: &'a dyn Target,
    stop: Stop,
}

impl Task<'_> {
    fn run(&self, image: &Descriptor) -> Result<Converted, ConvertError> {
        if self.options.lossless() && !self.options.prioritized.is_empty() {
            return Err(ConvertError::Options(
                "keeping the diff IDs excludes prioritized files, which would have to move",
            ));
        }
        let mut plan = plan::Plan::read(self, image)?;
        let missing = self.assign_prioritized(&mut plan)?;
        if !missing.is_empty() && !self.options.allow_missing {
            return Err(ConvertError::PrioritizedMissing(missing));
        }
        let outcomes = self.in_parallel(&plan.jobs, |job| self.layer(job))?;
        let mut image = self.assemble(&plan, &outcomes)?;
        for name in [ANNOTATION_NAME, ANNOTATION_CONTAINERD_NAME] {
            image.annotations.remove(name);
        }
        let toc_image = self.toc_image(&outcomes)?;
        let reports = plan.jobs.iter().zip(&outcomes).filter(|(job, _)| job.layer);
        Ok(Converted {
            image,
            toc_image,
            layers: reports.map(|(job, outcome)| outcome.report(job)).collect(),
            missing,
            without_annotations: plan.has_docker_images(self.options),
        })
    }

    /// Writes a document or another small blob to the target.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ConvertError> {
        let descriptor = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        self.target.put(media_type, &descriptor.digest, bytes)?;
        Ok(descriptor)
    }

    fn report(&self, layer: &Descriptor, step: Step) {
        if let Some(report) = &self.report {
            report(Progress { layer: layer.digest, size: layer.size, step });
        }
    }
}
