//! Images on disk: OCI image layouts as folders or tar archives, and what `docker save` writes.
//!
//! [`Layout::open`] finds out by itself which of them a path is. [`Writer`] makes or extends a folder.

mod archive;
mod docker;
mod folder;
mod pack;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use builder::tar::TarProblem;
use format::Digest;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::descriptor::Descriptor;
use crate::source::{BlobError, DOCUMENT_MAX, Source};
use archive::{Extent, Window};

pub use pack::Packer;
pub use writer::{Pending, Writer};

/// The annotation in a layout's index that holds the name of an image (image-spec, `annotations.md`).
pub const ANNOTATION_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in a layout's index that holds the whole reference of an image; containerd writes it, and names images
/// by it when it imports.
pub const ANNOTATION_CONTAINERD_NAME: &str = "io.containerd.image.name";

const VERSION_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";

/// Images on disk, to be read.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    images: Vec<NamedImage>,
    blobs: Blobs,
}

/// An image, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedImage {
    /// All its names: tags, or whole references.
    pub names: Vec<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
}

#[derive(Debug)]
enum Blobs {
    Folder,
    Archive {
        file: File,
        /// Where in the file.
        extents: HashMap<Digest, Extent>,
        /// Documents that a docker archive does not have.
        made: HashMap<Digest, Vec<u8>>,
    },
}

/// What is wrong with images on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The system refuses.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The path holds something else.
    #[error(
        "{path} holds no images: it is {found}; an OCI image layout, an archive of one, or the output of \
        docker save is wanted"
    )]
    NotImages {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A document cannot be read.
    #[error("{path}: {document} is not valid: {problem}")]
    Document {
        /// The layout.
        path: PathBuf,
        /// Which file of it.
        document: String,
        /// What is wrong.
        problem: String,
    },
    /// The archive is damaged.
    #[error("{path} is not a valid tar archive at byte {offset}: {problem}")]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        problem: TarProblem,
    },
    /// There is no such image.
    #[error("{path} has no image {wanted:?}; there is: {there}")]
    NoSuchImage {
        /// The layout.
        path: PathBuf,
        /// The name that was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Which image is meant is not said.
    #[error("{path} has not one image but {count}; name one of: {there}")]
    Ambiguous {
        /// The layout.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// Their names.
        there: String,
    },
    /// Somebody else is writing.
    #[error("{0} is being written by another process; wait for it to end")]
    Busy(PathBuf),
}

impl LayoutError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
        let path = path.to_owned();
        move |source| LayoutError::Io { action, path, source }
    }
}

impl Layout {
    /// Opens a folder or an archive. An archive is read once from its start to its end, to find what is where.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Layout, LayoutError> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(LayoutError::io("opening", path))?;
        if metadata.is_dir() {
            return folder::open(path);
        }
        if !metadata.is_file() {
            let found = "neither a folder nor a file".to_owned();
            return Err(LayoutError::NotImages { path: path.to_owned(), found });
        }
        archive::open(path)
    }

    /// All images, in their order.
    pub fn images(&self) -> &[NamedImage] {
        &self.images
    }

    /// The image that is called `name`; without a name, the only one.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchImage`], [`LayoutError::Ambiguous`].
    pub fn image(&self, name: Option<&str>) -> Result<&Descriptor, LayoutError> {
        const SHOWN: usize = 32;
        let is_it =
            |image: &&NamedImage| name.is_none_or(|name| image.names.iter().any(|known| known == name));
        let mut found = self.images.iter().filter(is_it);
        let there = || {
            let names: Vec<&str> =
                self.images.iter().flat_map(|image| &image.names).map(String::as_str).take(SHOWN).collect();
            if names.is_empty() { "nothing with a name".to_owned() } else { names.join(", ") }
        };
        let path = self.path.clone();
        match (found.next(), found.count()) {
            (Some(image), 0) => Ok(&image.descriptor),
            (Some(_), more) => Err(LayoutError::Ambiguous { path, count: more + 1, there: there() }),
            (None, _) => {
                let wanted = name.unwrap_or_default().to_owned();
                Err(LayoutError::NoSuchImage { path, wanted, there: there() })
            }
        }
    }
}

impl Source for Layout {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let digest = descriptor.digest;
        let missing =
            || BlobError::Missing { digest: Box::new(digest), place: self.path.display().to_string() };
        match &self.blobs {
            Blobs::Folder => folder::blob(&self.path, &digest)
                .map_err(|source| BlobError::Open { digest: Box::new(digest), source: source.into() })?
                .map_or_else(|| Err(missing()), |file| Ok(Box::new(file) as Box<dyn Read + Send>)),
            Blobs::Archive { file, extents, made } => match (made.get(&digest), extents.get(&digest)) {
                (Some(bytes), _) => Ok(Box::new(Cursor::new(bytes))),
                (None, Some(extent)) => Ok(Box::new(Window::new(file, *extent))),
                (None, None) => Err(missing()),
            },
        }
    }

    fn open_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let length = range.end.saturating_sub(range.start);
        let Blobs::Archive { file, extents, .. } = &self.blobs else {
            let digest = Box::new(descriptor.digest);
            let file = folder::blob(&self.path, &digest);
            let file =
                file.map_err(|source| BlobError::Open { digest: digest.clone(), source: source.into() })?;
            let mut file = file.ok_or_else(|| BlobError::Missing {
                digest: digest.clone(),
                place: self.path.display().to_string(),
            })?;
            file.seek(SeekFrom::Start(range.start)).map_err(|source| BlobError::Read { digest, source })?;
            return Ok(Box::new(file.take(length)));
        };
        match extents.get(&descriptor.digest) {
            Some(extent) => Ok(Box::new(Window::new(file, extent.part(range)))),
            // What was made is small.
            None => {
                let mut blob = self.open(descriptor)?;
                io::copy(&mut (&mut blob).take(range.start), &mut io::sink())
                    .map_err(|source| BlobError::Read { digest: Box::new(descriptor.digest), source })?;
                Ok(Box::new(blob.take(length)))
            }
        }
    }
}

/// Where the blob is below a layout.
fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

/// A document, of a bounded size.
fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than the {DOCUMENT_MAX} bytes that are accepted"),
        ));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, document: &str, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|error| LayoutError::Document {
        path: path.to_owned(),
        document: document.to_owned(),
        problem: error.to_string(),
    })
}

/// Checks `oci-layout`, and reads the images of `index.json`.
fn images_of(path: &Path, version: &[u8], index: &[u8]) -> Result<Vec<NamedImage>, LayoutError> {
    let version: Value = parse(path, VERSION_FILE, version)?;
    match version["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => {}
        other => {
            let problem = format!("the version of the layout is {other:?}, not 1");
            return Err(LayoutError::Document { path: path.into(), document: VERSION_FILE.into(), problem });
        }
    }
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let index: Index = parse(path, INDEX_FILE, index)?;
    let mut images: Vec<NamedImage> = Vec::new();
    for descriptor in index.manifests {
        let names =
            [ANNOTATION_NAME, ANNOTATION_CONTAINERD_NAME].map(|name| descriptor.annotations.get(name));
        let mut names: Vec<String> = names.into_iter().flatten().cloned().collect();
        names.dedup();
        images.push(NamedImage { names, descriptor });
    }
    Ok(images)
}
