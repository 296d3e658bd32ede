//! What an image is made of, whether it holds together, and whether it shows the same as another one.

mod check;
mod compare;
mod facts;

use format::{Digest, FOOTER_SIZE_MAX, Footer, FormatError, Limits, UnverifiedToc, read_toc};
use serde::Deserialize;
use serde_json::Value;

use crate::descriptor::{Descriptor, Platform};
use crate::image::ANNOTATION_TOC_OF_LAYER;
use crate::media;
use crate::source::{BlobError, Source, read_document, read_range};
use crate::stop::Stop;

pub use check::{Checked, check_layer};
pub use compare::{Difference, compare_layers};
pub use facts::{Facts, TocFacts, facts_of_layer};

/// Indexes in indexes that are followed.
const NESTING_MAX: usize = 4;
/// Images of one index.
const IMAGES_MAX: usize = 1000;

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct View {
    /// Its manifest.
    pub manifest: Descriptor,
    /// What it runs on, if that is said.
    pub platform: Option<Platform>,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Their diff IDs, as the config has them.
    pub diff_ids: Vec<Digest>,
}

/// Why an image cannot be examined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExamineError {
    /// A blob cannot be had, or is damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A document does not make sense.
    #[error("the {what} {digest} is not valid: {problem}")]
    Document {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Box<Digest>,
        /// What is wrong with it.
        problem: String,
    },
    /// A layer is no archive.
    #[error("the layer {digest} is not a valid tar archive: {problem}")]
    Archive {
        /// The layer.
        digest: Box<Digest>,
        /// What is wrong with it.
        problem: String,
    },
}

/// The images that a manifest or an index stands for, each for its platform; with `wanted`, those for that one.
///
/// # Errors
/// [`ExamineError`].
pub fn views(
    source: &dyn Source,
    image: &Descriptor,
    wanted: Option<&Platform>,
) -> Result<Vec<View>, ExamineError> {
    let mut found = Vec::new();
    collect(source, image, wanted, 0, &mut found)?;
    Ok(found)
}

fn collect(
    source: &dyn Source,
    image: &Descriptor,
    wanted: Option<&Platform>,
    depth: usize,
    found: &mut Vec<View>,
) -> Result<(), ExamineError> {
    let digest = Box::new(image.digest);
    let invalid =
        |problem: String| ExamineError::Document { what: "manifest", digest: digest.clone(), problem };
    if depth > NESTING_MAX || found.len() >= IMAGES_MAX {
        return Err(invalid("indexes are nested too deep, or name too many images".to_owned()));
    }
    let bytes = read_document(source, "manifest", image, &Stop::default())?;
    let document: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if document["manifests"].is_array() {
        let children = Vec::<Descriptor>::deserialize(&document["manifests"])
            .map_err(|error| invalid(error.to_string()))?;
        for child in &children {
            let accepted = |offer: &Platform| wanted.is_none_or(|wanted| wanted.accepts(offer));
            if child.platform.as_ref().is_none_or(accepted) && media::is_manifest(&child.media_type) {
                collect(source, child, wanted, depth + 1, found)?;
            }
        }
        return Ok(());
    }
    let layers =
        Vec::<Descriptor>::deserialize(&document["layers"]).map_err(|error| invalid(error.to_string()))?;
    let config = Descriptor::deserialize(&document["config"]).map_err(|error| invalid(error.to_string()))?;
    if media::to_oci(&config.media_type) != media::CONFIG {
        return Ok(());
    }
    let bytes = read_document(source, "config", &config, &Stop::default())?;
    let config_document: Value = serde_json::from_slice(&bytes).map_err(|error| ExamineError::Document {
        what: "config",
        digest: Box::new(config.digest),
        problem: error.to_string(),
    })?;
    let platform = image.platform.clone().or_else(|| Platform::deserialize(&config_document).ok());
    // An attestation has layers that are none.
    let is_layer =
        |layer: &Descriptor| media::is_layer(&layer.media_type) || media::is_foreign(&layer.media_type);
    let an_image = layers.is_empty() || layers.iter().any(is_layer);
    if an_image && platform.as_ref().is_none_or(|offer| wanted.is_none_or(|wanted| wanted.accepts(offer))) {
        let diff_ids = Vec::deserialize(&config_document["rootfs"]["diff_ids"]).unwrap_or_default();
        found.push(View { manifest: image.clone(), platform, layers, diff_ids });
    }
    Ok(())
}

/// The blob with the external TOC of `layer` in the TOC image `image`.
///
/// # Errors
/// [`ExamineError`].
pub fn toc_layer(
    source: &dyn Source,
    image: &Descriptor,
    layer: &Digest,
) -> Result<Option<Descriptor>, ExamineError> {
    let layer = layer.to_string();
    let is_it =
        |toc: &Descriptor| toc.annotations.get(ANNOTATION_TOC_OF_LAYER).is_some_and(|of| *of == layer);
    let views = views(source, image, None)?;
    Ok(views.into_iter().flat_map(|view| view.layers).find(is_it))
}

/// How to get the external TOC of a layer.
pub type ExternalToc<'a> =
    dyn FnMut(&Digest) -> Result<Option<Box<dyn std::io::Read + Send + 'a>>, String> + 'a;

/// The footer of a layer, and its TOC where that is, if it has one.
fn toc_of(
    source: &dyn Source,
    layer: &Descriptor,
    external: &mut ExternalToc<'_>,
) -> Result<Result<(Footer, UnverifiedToc), String>, BlobError> {
    let tail = layer.size.saturating_sub(FOOTER_SIZE_MAX as u64)..layer.size;
    let tail = read_range(source, layer, tail)?;
    let footer = match Footer::find(&tail, layer.size) {
        Ok(footer) => footer,
        Err(FormatError::NotLazy) => return Ok(Err("it has no table of contents".to_owned())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let toc = match &footer.toc {
        Some(range) => read_toc(&footer, source.open_range(layer, range.clone())?, &Limits::default()),
        None => match external(&layer.digest) {
            Ok(Some(blob)) => read_toc(&footer, blob, &Limits::default()),
            Ok(None) => {
                let text = "its table of contents is in another image (NAME-esgztoc), which is not there";
                return Ok(Err(text.to_owned()));
            }
            Err(error) => return Ok(Err(error)),
        },
    };
    Ok(toc.map(|toc| (footer, toc)).map_err(|error| chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = source.source();
    }
    text
}

/// Checks a TOC against what the layer's descriptor says of it. Both the TOC and a problem are there when nothing is said.
fn verified(toc: UnverifiedToc, layer: &Descriptor) -> (Option<format::Toc>, Option<String>) {
    let annotation = |name: &str| layer.annotations.get(name).map(String::as_str);
    let result = if let Some(digest) = annotation(builder::ANNOTATION_TOC_DIGEST) {
        let Ok(digest) = digest.parse() else {
            let text = format!("the annotation {} is not a digest", builder::ANNOTATION_TOC_DIGEST);
            return (None, Some(text));
        };
        toc.verify(&digest)
    } else {
        match format::ChunkedAnnotations::read(annotation) {
            Ok(format::ChunkedAnnotations { checksum: Some(checksum), .. }) => {
                toc.verify_compressed(&checksum)
            }
            Ok(_) => {
                let text = "its manifest gives no digest of its table of contents".to_owned();
                return (Some(toc.trust_unverified("to tell what is in it")), Some(text));
            }
            Err(error) => Err(error),
        }
    };
    match result {
        Ok(toc) => (Some(toc), None),
        Err(error) => (None, Some(error.to_string())),
    }
}
