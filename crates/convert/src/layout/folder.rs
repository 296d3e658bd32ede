//! An OCI image layout as a folder (image-spec, `image-layout.md`).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use format::Digest;

use super::{Blobs, INDEX_FILE, Layout, LayoutError, VERSION_FILE, blob_path, images_of, read_bounded};

pub(super) fn open(path: &Path) -> Result<Layout, LayoutError> {
    let document = |name| {
        let file = path.join(name);
        match regular(&file).and_then(|file| file.map(read_bounded).transpose()) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => {
                let found = format!("a folder without {name}");
                Err(LayoutError::NotImages { path: path.to_owned(), found })
            }
            Err(source) => Err(LayoutError::Io { action: "reading", path: file, source }),
        }
    };
    let images = images_of(path, &document(VERSION_FILE)?, &document(INDEX_FILE)?)?;
    Ok(Layout { path: path.to_owned(), images, blobs: Blobs::Folder })
}

pub(super) fn blob(layout: &Path, digest: &Digest) -> io::Result<Option<File>> {
    regular(&blob_path(layout, digest))
}

/// Opens a file. Nothing else is opened: a pipe in the place of one would never answer.
fn regular(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map(Some),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
