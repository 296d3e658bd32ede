//! Reads the documents of an image, and lists the work.

use std::collections::{BTreeMap, HashMap};

use format::{Digest, FileRanges};
use serde::Deserialize;
use serde_json::Value;

use super::options::{MediaTypes, Options, Platforms};
use super::work::OF_LAYER;
use super::{ConvertError, Task};
use crate::descriptor::{Descriptor, Platform};
use crate::media;
use crate::source::read_document;

/// Indexes in indexes that are followed.
const NESTING_MAX: usize = 4;
/// Manifests and indexes of one image.
const DOCUMENTS_MAX: usize = 1000;
/// Layers of one manifest. Overlayfs mounts 500.
const LAYERS_MAX: usize = 1000;

/// What ties an attestation in an index to the image that it is about.
pub(super) const ANNOTATION_ATTESTS: &str = "vnd.docker.reference.digest";

/// All the documents, and what has to be done with the blobs that they name.
#[derive(Debug)]
pub(super) struct Plan {
    pub root: Node,
    pub jobs: Vec<Job>,
}

/// A document with what it points at.
#[derive(Debug)]
pub(super) struct Node {
    pub descriptor: Descriptor,
    /// Its bytes as they came.
    pub bytes: Vec<u8>,
    pub document: Value,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The children that were selected.
    Index(Vec<Node>),
    Image(Box<Image>),
    /// No image, but something that belongs to one: its blobs, by their jobs.
    Other(Vec<usize>),
}

/// An image for one platform.
#[derive(Debug)]
pub(super) struct Image {
    pub config: Descriptor,
    pub config_bytes: Vec<u8>,
    pub config_document: Value,
    pub diff_ids: Vec<Digest>,
    pub layers: Vec<Descriptor>,
    /// The job of each layer.
    pub jobs: Vec<usize>,
}

/// What has to be done with a blob. Equal jobs are one.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub blob: Descriptor,
    /// A layer, to be converted if it can be; otherwise it is copied.
    pub layer: bool,
    /// Files to come first.
    pub prioritized: Vec<String>,
    /// Parts of files that are wanted.
    pub ranges: BTreeMap<String, FileRanges>,
}

/// What makes jobs equal: the blob, whether it is a layer, what is wanted of it, and what is said of its format.
type Key = (Digest, bool, Vec<String>, BTreeMap<String, FileRanges>, Vec<Option<String>>);

/// Knows the jobs that there are.
#[derive(Default)]
pub(super) struct Jobs {
    jobs: Vec<Job>,
    known: HashMap<Key, usize>,
}

impl Jobs {
    pub fn add(&mut self, job: Job) -> usize {
        let claims = OF_LAYER.map(|name| job.blob.annotations.get(name).cloned());
        let wanted = (job.prioritized.clone(), job.ranges.clone());
        let key = (job.blob.digest, job.layer, wanted.0, wanted.1, claims.to_vec());
        *self.known.entry(key).or_insert_with(|| {
            self.jobs.push(job);
            self.jobs.len() - 1
        })
    }

    pub fn into_inner(self) -> Vec<Job> {
        self.jobs
    }
}

impl Plan {
    pub fn read(task: &Task<'_>, image: &Descriptor) -> Result<Plan, ConvertError> {
        let mut reader = Reader { task, documents: 0 };
        let mut root = reader.node(image, 0)?;
        select(&mut root, &task.options.platforms)?;
        if let Content::Other(_) = root.content {
            let reason = "its config is not that of an image".to_owned();
            return Err(ConvertError::NotAnImage { digest: Box::new(image.digest), reason });
        }
        let mut plan = Plan { root, jobs: Vec::new() };
        plan.list_jobs();
        Ok(plan)
    }

    /// Lists the work for what was selected.
    fn list_jobs(&mut self) {
        let mut jobs = Jobs::default();
        self.root.each(&mut |node| {
            let (layer, layers, numbers) = match &mut node.content {
                Content::Index(_) => return,
                Content::Image(image) => (true, image.layers.clone(), &mut image.jobs),
                Content::Other(numbers) => (false, blobs_of(&node.document), numbers),
            };
            let job = |blob: Descriptor| Job {
                layer: layer && (media::is_layer(&blob.media_type) || media::is_foreign(&blob.media_type)),
                blob,
                prioritized: Vec::new(),
                ranges: BTreeMap::new(),
            };
            *numbers = layers.into_iter().map(|blob| jobs.add(job(blob))).collect();
        });
        self.jobs = jobs.into_inner();
    }

    /// Whether there will be layers whose descriptors have no annotations.
    pub fn has_docker_images(&self, options: &Options) -> bool {
        fn any(node: &Node) -> bool {
            match &node.content {
                Content::Index(children) => children.iter().any(any),
                Content::Image(_) => node.is_docker(),
                Content::Other(_) => false,
            }
        }
        options.media_types == MediaTypes::Keep && any(&self.root)
    }
}

impl Node {
    /// Visits this and all below.
    pub fn each(&mut self, visit: &mut impl FnMut(&mut Node)) {
        visit(self);
        if let Content::Index(children) = &mut self.content {
            for child in children {
                child.each(visit);
            }
        }
    }

    pub fn is_docker(&self) -> bool {
        media::is_docker(&self.descriptor.media_type)
    }

    fn platform(&self) -> Option<Platform> {
        match &self.content {
            // An index may say it with less, but does not have to say it at all.
            Content::Image(image) => self
                .descriptor
                .platform
                .clone()
                .or_else(|| Platform::deserialize(&image.config_document).ok()),
            _ => None,
        }
    }
}

/// The config and the layers of a manifest that were found to be descriptors when it was read.
fn blobs_of(manifest: &Value) -> Vec<Descriptor> {
    let all = std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().into_iter().flatten());
    all.filter_map(|blob| Descriptor::deserialize(blob).ok()).collect()
}

struct Reader<'a> {
    task: &'a Task<'a>,
    documents: usize,
}

impl Reader<'_> {
    fn node(&mut self, descriptor: &Descriptor, depth: usize) -> Result<Node, ConvertError> {
        let digest = Box::new(descriptor.digest);
        let invalid =
            |problem: String| ConvertError::Document { what: "manifest", digest: digest.clone(), problem };
        self.documents += 1;
        if self.documents > DOCUMENTS_MAX {
            return Err(invalid(format!("more than {DOCUMENTS_MAX} manifests belong to it")));
        }
        let bytes = read_document(self.task.source, "manifest", descriptor, &self.task.stop)?;
        let document: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let mut descriptor = descriptor.clone();
        if descriptor.media_type.is_empty() {
            descriptor.media_type = media_type(&document).to_owned();
        }
        let content = match media::to_oci(&descriptor.media_type) {
            media::INDEX if depth < NESTING_MAX => {
                let manifests = list(&document, "manifests").map_err(invalid)?;
                let mut children = Vec::new();
                for child in &manifests {
                    if self.wants(child, &manifests) {
                        children.push(self.node(child, depth + 1)?);
                    }
                }
                Content::Index(children)
            }
            media::INDEX => return Err(invalid(format!("indexes are nested more than {NESTING_MAX} deep"))),
            media::MANIFEST => self.manifest(&document).map_err(|error| match error {
                Invalid::Manifest(problem) => invalid(problem),
                Invalid::Other(error) => *error,
            })?,
            other => {
                let reason = match document["schemaVersion"].as_u64() {
                    Some(1) => {
                        "it is of docker's outdated schema 1; push it again with a current tool".to_owned()
                    }
                    _ => format!("its media type is {other:?}"),
                };
                return Err(ConvertError::NotAnImage { digest, reason });
            }
        };
        Ok(Node { descriptor, bytes, document, content })
    }

    /// Whether to read a child of an index at all: those for other platforms need not be there, nor what attests them.
    fn wants(&self, child: &Descriptor, siblings: &[Descriptor]) -> bool {
        let Platforms::Only(wanted) = &self.task.options.platforms else { return true };
        let subject = child.annotations.get(ANNOTATION_ATTESTS);
        let image = match subject {
            Some(digest) => siblings.iter().find(|sibling| sibling.digest.to_string() == *digest),
            None => Some(child),
        };
        let accepted = |platform: &Platform| wanted.iter().any(|wanted| wanted.accepts(platform));
        image.is_some_and(|image| image.platform.as_ref().is_none_or(accepted))
    }

    fn manifest(&mut self, document: &Value) -> Result<Content, Invalid> {
        let config = Descriptor::deserialize(&document["config"])
            .map_err(|error| Invalid::Manifest(format!("config: {error}")))?;
        let layers = list(document, "layers").map_err(Invalid::Manifest)?;
        let of_image = media::to_oci(&config.media_type) == media::CONFIG;
        let layered =
            |layer: &Descriptor| media::is_layer(&layer.media_type) || media::is_foreign(&layer.media_type);
        if !of_image || (!layers.is_empty() && !layers.iter().any(layered)) {
            return Ok(Content::Other(Vec::new()));
        }
        let config_bytes = read_document(self.task.source, "config", &config, &self.task.stop)
            .map_err(|error| Invalid::Other(Box::new(error.into())))?;
        let invalid = |problem: String| {
            let digest = Box::new(config.digest);
            Invalid::Other(Box::new(ConvertError::Document { what: "config", digest, problem }))
        };
        let config_document: Value =
            serde_json::from_slice(&config_bytes).map_err(|error| invalid(error.to_string()))?;
        let diff_ids = Vec::<Digest>::deserialize(&config_document["rootfs"]["diff_ids"])
            .map_err(|error| invalid(format!("rootfs.diff_ids: {error}")))?;
        if diff_ids.len() != layers.len() {
            return Err(invalid(format!("{} diff IDs for {} layers", diff_ids.len(), layers.len())));
        }
        Ok(Content::Image(Box::new(Image {
            config,
            config_bytes,
            config_document,
            diff_ids,
            layers,
            jobs: Vec::new(),
        })))
    }
}

enum Invalid {
    Manifest(String),
    Other(Box<ConvertError>),
}

/// A list of descriptors in a document.
fn list(document: &Value, name: &str) -> Result<Vec<Descriptor>, String> {
    let list = Vec::<Descriptor>::deserialize(&document[name]).map_err(|error| format!("{name}: {error}"))?;
    if list.len() > LAYERS_MAX {
        return Err(format!("{name}: more than {LAYERS_MAX} are not accepted"));
    }
    Ok(list)
}

/// What a document is when nobody says it.
fn media_type(document: &Value) -> &str {
    match document["mediaType"].as_str() {
        Some(media_type) => media_type,
        None if document["manifests"].is_array() => media::INDEX,
        None if document["layers"].is_array() => media::MANIFEST,
        None => "",
    }
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key(ANNOTATION_ATTESTS)
}

/// Removes what is for other platforms, and attestations of what is removed.
fn select(root: &mut Node, platforms: &Platforms) -> Result<(), ConvertError> {
    let Platforms::Only(wanted) = platforms else { return Ok(()) };
    let mut there = Vec::new();
    root.each(&mut |node| {
        there.extend(node.platform());
        // What was not even read is there as well.
        let offers = node.document["manifests"].as_array().into_iter().flatten();
        there.extend(offers.filter_map(|offer| Platform::deserialize(&offer["platform"]).ok()));
    });
    for wanted in wanted {
        if !there.iter().any(|platform| wanted.accepts(platform)) {
            let mut names: Vec<String> = there.iter().map(Platform::to_string).collect();
            names.sort();
            names.dedup();
            names.truncate(32);
            return Err(ConvertError::NoSuchPlatform { wanted: wanted.to_string(), there: names.join(", ") });
        }
    }
    keep(root, wanted);
    Ok(())
}

fn keep(node: &mut Node, wanted: &[Platform]) {
    let Content::Index(children) = &mut node.content else { return };
    children.iter_mut().for_each(|child| keep(child, wanted));
    let accepted = |child: &Node| match &child.content {
        Content::Index(below) => !below.is_empty(),
        _ => child.platform().is_none_or(|platform| wanted.iter().any(|wanted| wanted.accepts(&platform))),
    };
    let is_image = |child: &Node| !is_attestation(&child.descriptor);
    children.retain(|child| !is_image(child) || accepted(child));
    let kept: Vec<String> = children
        .iter()
        .filter(|child| is_image(child))
        .map(|child| child.descriptor.digest.to_string())
        .collect();
    children.retain(|child| {
        child.descriptor.annotations.get(ANNOTATION_ATTESTS).is_none_or(|digest| kept.contains(digest))
    });
}
