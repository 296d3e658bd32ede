//! The files of one layer on disk.
//!
//! ```text
//! <root>/layers/<algorithm>/<hex>/
//!   image.erofs   metadata area, then the sparse data area; what the kernel mounts
//!   chunks        chunk and span tables, mapped into memory; never changes
//!   filled        one bit for each chunk that is durably in the image file
//!   meta.json     the small description: digests, sizes, versions; its time is when the layer was used last
//!   alone         exists if the kernel was ever given the image without us
//! ```
//!
//! A layer directory is made under another name and published by a rename, so a directory that has its final name is
//! whole. After that only the data area and `filled` change, under one rule: *a bit is set on disk after the data it
//! speaks of is there, and cleared before that data goes*. What a crash loses is a bit whose chunk will be fetched again,
//! never the truth.

mod evict;
mod filled;
mod meta;
mod recent;
mod share;
mod tables;

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use filled::Filled;
pub use meta::{Compression, META_VERSION, Meta};
pub(crate) use recent::{Recent, seconds_now};
#[cfg(test)]
pub(crate) use tables::open_tables;
pub use tables::{Chunk, Span, SpanEntry, Tables, TablesBuilder};
pub(crate) use tables::{Dir, NO_DIR};

use crate::error::{Error, Kind};

/// Name of the image file in a layer's directory.
pub const IMAGE_FILE: &str = "image.erofs";
const CHUNKS_FILE: &str = "chunks";
const FILLED_FILE: &str = "filled";
const META_FILE: &str = "meta.json";

/// Unit of `st_blocks`: stat(2).
const SECTOR: u64 = 512;

/// What a layer takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Allocated bytes, holes not counted.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Taken {
    /// Looks at the directory of a layer. What vanishes meanwhile is not counted.
    pub fn of(dir: &Path) -> io::Result<Taken> {
        let mut taken = Taken { bytes: fs::metadata(dir)?.blocks() * SECTOR, inodes: 1 };
        for entry in fs::read_dir(dir)? {
            match entry?.metadata() {
                Ok(found) => {
                    taken.bytes += found.blocks() * SECTOR;
                    taken.inodes += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}

/// When the layer in this directory was used last, as far as that was written down.
pub(crate) fn last_used(dir: &Path) -> io::Result<u64> {
    let time = fs::metadata(dir.join(META_FILE))?.modified()?;
    Ok(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Writes down when the layer in this directory was used last.
pub(crate) fn set_last_used(dir: &Path, seconds: u64) -> io::Result<()> {
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(dir.join(META_FILE))?.set_times(FileTimes::new().set_modified(time))
}

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
    pub(crate) recent: Recent,
    apart: evict::Apart,
    /// What everything but the image file takes on disk, which never changes.
    beside: Taken,
}

impl ImageFiles {
    /// Opens a published directory.
    ///
    /// # Errors
    /// Anything missing, of another version or not of one piece: the layer has to be built again.
    pub fn open(dir: &Path) -> Result<ImageFiles, Error> {
        ImageFiles::open_for(dir, true)
    }

    /// Opens a published directory to look at it, which works beside the process that owns it.
    ///
    /// # Errors
    /// As [`ImageFiles::open`].
    pub fn open_to_read(dir: &Path) -> Result<ImageFiles, Error> {
        ImageFiles::open_for(dir, false)
    }

    fn open_for(dir: &Path, write: bool) -> Result<ImageFiles, Error> {
        let at = |name: &str| dir.join(name);
        let meta = Meta::read(&at(META_FILE))?;
        let tables = Tables::open(&at(CHUNKS_FILE))?;
        let path = at(IMAGE_FILE);
        let image = OpenOptions::new()
            .read(true)
            .write(write)
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
        let filled = Filled::open(&at(FILLED_FILE), tables.chunk_count(), write)?;
        let recent = Recent::new(tables.chunk_count());
        let apart = evict::Apart::new(dir, filled.complete());
        let stat = |error| Error::disk(format!("stat {}", dir.display()), error);
        let mut beside = Taken::of(dir).map_err(stat)?;
        beside.bytes = beside.bytes.saturating_sub(image.metadata().map_err(stat)?.blocks() * SECTOR);
        Ok(ImageFiles { dir: dir.to_owned(), image, tables, filled, meta, recent, apart, beside })
    }

    /// What the layer takes on disk.
    ///
    /// # Errors
    /// The image file can't be looked at.
    pub fn taken(&self) -> io::Result<Taken> {
        let image = self.image.metadata()?.blocks() * SECTOR;
        Ok(Taken { bytes: self.beside.bytes + image, ..self.beside })
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
