//! Where images are, as people name it.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use convert::image::{Converted, TOC_NAME_SUFFIX};
use convert::layout::{Layout, Packer, Writer};
use convert::remote::{RemoteImage, RemoteTarget};
use convert::{BlobError, Descriptor, NewBlob, Source, Target, TargetError};
use format::Digest;
use registry::Reference;

use super::Workshop;

/// A place of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In a registry.
    Registry(Reference),
    /// In an OCI image layout.
    Folder(PathBuf, Option<String>),
    /// In an archive of one.
    Archive(PathBuf, Option<String>),
    /// In what `docker save` writes.
    Docker(PathBuf, Option<String>),
    /// One of these on disk.
    Path(PathBuf),
}

impl Place {
    /// Reads what was typed.
    ///
    /// # Errors
    /// When it names nothing.
    pub fn parse(text: &str) -> anyhow::Result<Place> {
        let on_disk = |rest: &str| -> anyhow::Result<(PathBuf, Option<String>)> {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) if !name.is_empty() => (path, Some(name.to_owned())),
                Some((path, _)) => (path, None),
                None => (rest, None),
            };
            if path.is_empty() {
                bail!("{text:?} names no path");
            }
            Ok((path.into(), name))
        };
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Place::Registry(rest.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return on_disk(rest).map(|(path, name)| Place::Folder(path, name));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return on_disk(rest).map(|(path, name)| Place::Archive(path, name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return on_disk(rest).map(|(path, name)| Place::Docker(path, name));
        }
        if text.starts_with(['/', '.']) {
            return Ok(Place::Path(text.into()));
        }
        Ok(Place::Registry(text.parse()?))
    }

    /// Opens it to be read, and finds the image.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn open(&self, workshop: &Workshop) -> anyhow::Result<Opened> {
        match self {
            Place::Registry(reference) => {
                let remote = workshop.remote(reference)?;
                let image = remote.resolve()?;
                Ok(Opened { image, source: Images::Remote(remote), name: reference.tag().map(str::to_owned) })
            }
            Place::Path(path) => Opened::of_layout(path, None),
            Place::Folder(path, name) | Place::Archive(path, name) | Place::Docker(path, name) => {
                Opened::of_layout(path, name.as_deref())
            }
        }
    }
}

/// An image to be read.
pub struct Opened {
    /// Its manifest or index.
    pub image: Descriptor,
    /// Where its blobs are.
    pub source: Images,
    /// Its name in there.
    pub name: Option<String>,
}

/// Where the blobs of an image are.
pub enum Images {
    /// In a registry.
    Remote(RemoteImage),
    /// On disk.
    Layout(Layout),
}

impl Opened {
    fn of_layout(path: &Path, name: Option<&str>) -> anyhow::Result<Opened> {
        let layout = Layout::open(path)?;
        // Some write whole references where others write what people type.
        let whole = name.and_then(|name| name.parse::<Reference>().ok()).map(|name| name.to_string());
        let image = layout.image(name).or_else(|error| match &whole {
            Some(whole) => layout.image(Some(whole)).map_err(|_| error),
            None => Err(error),
        });
        let image = image?.clone();
        let found = layout.images().iter().find(|known| known.descriptor == image);
        let name = name.map(str::to_owned).or_else(|| found.and_then(|found| found.names.first().cloned()));
        Ok(Opened { image, source: Images::Layout(layout), name })
    }

    /// The bytes of the blob that holds a layer's external TOC, if there is one.
    pub fn external_toc(&self, layer: &Digest) -> anyhow::Result<Option<Box<dyn Read + Send + '_>>> {
        match &self.source {
            Images::Remote(remote) => match remote.reference().tag() {
                Some(_) => Ok(remote.external_toc(layer)?.map(|toc| toc as Box<dyn Read + Send>)),
                None => Ok(None),
            },
            Images::Layout(layout) => {
                let Some(name) = &self.name else { return Ok(None) };
                let Ok(image) = layout.image(Some(&format!("{name}{TOC_NAME_SUFFIX}"))) else {
                    return Ok(None);
                };
                let toc = convert::examine::toc_layer(layout, image, layer)?;
                Ok(toc.map(|toc| layout.open(&toc)).transpose()?)
            }
        }
    }
}

impl Source for Images {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        match self {
            Images::Remote(remote) => remote.open(descriptor),
            Images::Layout(layout) => layout.open(descriptor),
        }
    }

    fn open_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        match self {
            Images::Remote(remote) => remote.open_range(descriptor, range),
            Images::Layout(layout) => layout.open_range(descriptor, range),
        }
    }
}

/// A place for a new image.
pub enum Destination {
    /// A registry.
    Remote(RemoteTarget),
    /// An OCI image layout, and the image's name in it.
    Folder(Writer, Option<String>),
    /// An archive, and the image's name in it.
    Archive(Packer, Option<String>),
}

impl Destination {
    /// Opens a place to be written.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn open(
        place: &Place,
        source: &Place,
        workshop: &Workshop,
        temporary: &Path,
    ) -> anyhow::Result<Destination> {
        Ok(match place {
            Place::Registry(reference) => {
                let from = match source {
                    Place::Registry(from) => Some(from),
                    _ => None,
                };
                let runtime = workshop.runtime.handle().clone();
                Destination::Remote(RemoteTarget::new(
                    &workshop.client()?,
                    reference,
                    from,
                    temporary,
                    runtime,
                )?)
            }
            Place::Folder(path, name) => Destination::Folder(Writer::open(path)?, name.clone()),
            Place::Archive(path, name) => Destination::Archive(Packer::create(path, false)?, name.clone()),
            Place::Docker(path, name) => {
                let name = name.as_deref().map(str::parse::<Reference>).transpose();
                let name = name.context("docker load takes a whole reference as the name of an image")?;
                let name = name.map(|name| name.to_string());
                Destination::Archive(Packer::create(path, true)?, name)
            }
            Place::Path(path) => {
                bail!("say what {} is to be: oci:, oci-archive: or docker-archive: before it", path.display())
            }
        })
    }

    /// Gives the image its name, after which it is there.
    ///
    /// # Errors
    /// When that fails; then there is nothing new.
    pub fn publish(self, converted: &Converted) -> anyhow::Result<()> {
        let (image, toc_image) = (&converted.image, converted.toc_image.as_ref());
        let named = |name: &Option<String>| name.as_ref().map(|name| format!("{name}{TOC_NAME_SUFFIX}"));
        match self {
            Destination::Remote(target) => target.publish(image, toc_image)?,
            Destination::Folder(writer, name) => {
                let toc_name = named(&name);
                let mut images = vec![(name.as_deref(), image)];
                images.extend(toc_image.map(|toc| (toc_name.as_deref(), toc)));
                writer.publish(&images)?;
            }
            Destination::Archive(packer, name) => {
                let toc_name = named(&name);
                let mut images = vec![(name.as_deref(), image)];
                images.extend(toc_image.map(|toc| (toc_name.as_deref(), toc)));
                packer.publish(&images)?;
            }
        }
        Ok(())
    }

    fn target(&self) -> &dyn Target {
        match self {
            Destination::Remote(target) => target,
            Destination::Folder(target, _) => target,
            Destination::Archive(target, _) => target,
        }
    }
}

impl Target for Destination {
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError> {
        self.target().begin()
    }

    fn adopt(&self, blob: &Descriptor) -> Result<bool, TargetError> {
        self.target().adopt(blob)
    }

    fn put(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError> {
        self.target().put(media_type, digest, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_skopeo_names_them() {
        let reference = |text: &str| Place::Registry(text.parse().unwrap());
        let name = |text: &str| Some(text.to_owned());
        let rows = [
            ("alpine:3", reference("alpine:3")),
            ("docker://ghcr.io/a/b:c", reference("ghcr.io/a/b:c")),
            ("oci:dir", Place::Folder("dir".into(), None)),
            ("oci:/a/dir:tag", Place::Folder("/a/dir".into(), name("tag"))),
            ("oci-archive:x.tar:a.b/c:1", Place::Archive("x.tar".into(), name("a.b/c:1"))),
            ("docker-archive:x.tar:", Place::Docker("x.tar".into(), None)),
            ("./x.tar", Place::Path("./x.tar".into())),
        ];
        for (text, expected) in rows {
            assert_eq!(Place::parse(text).unwrap(), expected, "{text}");
        }
        assert!(Place::parse("oci:").is_err() && Place::parse("UPPER").is_err());
    }
}
