//! Files that are read again when they have changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Error;

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Tells whether files are still the ones that were read: for each its inode, length and time of change, or
/// nothing if it is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(u64, u64, i64, i64)>>);

impl Stamp {
    /// The stamp of `paths` as they are now.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Stamp {
        let one = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        };
        Stamp(paths.into_iter().map(one).collect())
    }
}

/// Reads a whole file of at most 4 MiB; None if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, format!("cannot be opened: {error}"))),
    };
    // Room for all of it at once: a vector that grows leaves copies behind.
    let expected = file.metadata().map_or(0, |found| found.len().min(MAX_FILE));
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected as usize + 64));
    let reading = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    reading.map_err(|error| unusable(path, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unusable(path, format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(Some(bytes))
}

/// As [`read`], for files that must be there.
pub(crate) fn read_existing(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    read(path)?.ok_or_else(|| unusable(path, "does not exist".into()))
}

/// As [`read_existing`], for text.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, Error> {
    let bytes = read_existing(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable(path, "is not text".into()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// An error about a configuration file.
pub(crate) fn unusable(path: impl Into<PathBuf>, problem: String) -> Error {
    Error::Config { path: path.into(), problem }
}
