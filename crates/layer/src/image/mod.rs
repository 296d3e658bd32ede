//! The files of one layer on disk.
//!
//! ```text
//! <root>/layers/<algorithm>/<hex>/
//!   image.erofs   metadata area, then the sparse data area; what the kernel mounts
//!   chunks        chunk and span tables, mapped into memory; never changes
//!   filled        one bit for each chunk that is durably in the image file
//!   meta.json     the small description: digests, sizes, versions
//! ```
//!
//! A layer directory is made under another name and published by a rename, so a directory that has its final name is
//! whole. After that only the data area and `filled` change, under one rule: *a bit reaches the disk after the data it
//! speaks of*. What a crash loses is a bit whose chunk will be fetched again, never the truth.

mod filled;
mod meta;
mod tables;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use filled::Filled;
pub use meta::{META_VERSION, Meta};
pub use tables::{Chunk, Span, Tables, TablesBuilder};

use crate::error::{Error, Kind};

/// Name of the image file in a layer's directory.
pub const IMAGE_FILE: &str = "image.erofs";
const CHUNKS_FILE: &str = "chunks";
const FILLED_FILE: &str = "filled";
const META_FILE: &str = "meta.json";

/// The opened files of one layer.
#[derive(Debug)]
pub struct ImageFiles {
    /// The layer's directory.
    pub dir: PathBuf,
    /// Opened for reading and writing.
    pub image: File,
    /// Which chunks there are, and where in the blob they come from.
    pub tables: Tables,
    /// Which of them are in the image file.
    pub filled: Filled,
    /// What is written in `meta.json`.
    pub meta: Meta,
}

impl ImageFiles {
    /// Opens a published directory.
    ///
    /// # Errors
    /// Anything missing, of another version or not of one piece: the layer has to be built again.
    pub fn open(dir: &Path) -> Result<ImageFiles, Error> {
        let at = |name: &str| dir.join(name);
        let meta = Meta::read(&at(META_FILE))?;
        let tables = Tables::open(&at(CHUNKS_FILE))?;
        let path = at(IMAGE_FILE);
        let image = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Error::disk(format!("open {}", path.display()), error))?;
        let size =
            image.metadata().map_err(|error| Error::disk(format!("stat {}", path.display()), error))?.len();
        if Some(size) != meta.data_start.checked_add(meta.data_len) || tables.data_len() > meta.data_len {
            return Err(Error::new(
                Kind::Format,
                format!("{} has not the size that its description says", path.display()),
            ));
        }
        let filled = Filled::open(&at(FILLED_FILE), tables.chunk_count())?;
        Ok(ImageFiles { dir: dir.to_owned(), image, tables, filled, meta })
    }

    /// Writes `chunks`, an empty `filled` and `meta.json` beside an image file that is already in `dir`, and makes
    /// all of it durable.
    pub(crate) fn write_beside(
        dir: &Path,
        image: &File,
        tables: &TablesBuilder,
        meta: &Meta,
    ) -> Result<(), Error> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            write_durably(&path, bytes)
                .map_err(|error| Error::disk(format!("write {}", path.display()), error))
        };
        write(CHUNKS_FILE, &tables.encode())?;
        write(FILLED_FILE, &Filled::empty_file(tables.chunk_count()))?;
        write(META_FILE, &meta.encode())?;
        image
            .sync_all()
            .map_err(|error| Error::disk(format!("sync {}", dir.join(IMAGE_FILE).display()), error))
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::disk(format!("sync {}", dir.display()), error))
}

/// Removes a directory tree that may not be there.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::disk(format!("remove {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}
