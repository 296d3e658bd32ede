//! Large files and the page cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use format::FileRanges;
use rustix::fs::{Advice, OFlags};

use crate::error::Error;
use crate::kernel;

/// A file is mapped in windows of this many bytes.
const WINDOW: u64 = 1 << 30;
/// Pages nearer to each other than this were touched together, as far as the kernel's read-ahead lets one see.
const GAP: u64 = 128 << 10;

/// Removes the contents of large files below `root` from the page cache. Returns how many of them stay there in part,
/// because another process has them mapped.
pub(crate) fn drop_from_cache(root: &Path, from: u64) -> Result<usize, Error> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Walk { path, source }
    };
    let device = fs::metadata(root).map_err(fail(root))?.dev();
    // What was just unpacked is dirty, and only what is clean can be dropped.
    let directory = File::open(root).map_err(fail(root))?;
    rustix::fs::syncfs(&directory).map_err(|error| fail(root)(error.into()))?;
    let (mut directories, mut kept) = (vec![root.to_owned()], 0);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(fail(&directory))? {
            let entry = entry.map_err(fail(&directory))?;
            let kind = entry.file_type().map_err(fail(&entry.path()))?;
            if kind.is_dir() {
                let path = entry.path();
                if entry.metadata().is_ok_and(|found| found.dev() == device) {
                    directories.push(path);
                }
            } else if kind.is_file() && entry.metadata().is_ok_and(|found| found.len() >= from) {
                kept += usize::from(!dropped(&entry.path()));
            }
        }
    }
    Ok(kept)
}

fn dropped(path: &PathBuf) -> bool {
    let open = || -> io::Result<FileRanges> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        cached(&file, file.metadata()?.len())
    };
    match open() {
        Ok(left) => left.is_empty(),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "a large file stays in the page cache");
            false
        }
    }
}

/// Which parts of a file are in the page cache.
pub(crate) fn cached(file: &File, size: u64) -> io::Result<FileRanges> {
    let page = kernel::page_size();
    let (mut ranges, mut pages): (Vec<Range<u64>>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut offset = 0;
    while offset < size {
        let length = WINDOW.min(size - offset);
        kernel::resident(file, offset, length as usize, &mut pages)?;
        for (number, _) in pages.iter().enumerate().filter(|(_, page)| **page & 1 != 0) {
            let start = offset + number as u64 * page;
            match ranges.last_mut() {
                Some(last) if start <= last.end + GAP => last.end = start + page,
                _ => ranges.push(start..start + page),
            }
        }
        offset += length;
    }
    Ok(FileRanges::new(ranges).within(size))
}
