//! What a directory takes on disk.

use std::{collections::HashSet, fs, io, os::unix::fs::MetadataExt, path::Path};

use crate::{Error, store::Usage};

/// Unit of `st_blocks`, whatever the filesystem's own block size: stat(2).
const BLOCK: u64 = 512;

/// Adds up `dir` and everything below it: allocated bytes and inodes, each inode once however many links it has.
/// Symlinks are not followed. Files that vanish meanwhile are not counted.
pub(crate) fn of(dir: &Path) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let Some(metadata) = unless_gone(fs::symlink_metadata(&path)).map_err(Error::io("stat", &path))?
        else {
            continue;
        };
        // Only what has several names can be met twice.
        let linked = !metadata.is_dir() && metadata.nlink() > 1;
        if !linked || seen.insert((metadata.dev(), metadata.ino())) {
            usage.size += metadata.blocks() * BLOCK;
            usage.inodes += 1;
        }
        if !metadata.is_dir() {
            continue;
        }
        let failed = || Error::io("list", &path);
        let Some(entries) = unless_gone(fs::read_dir(&path)).map_err(failed())? else { continue };
        for entry in entries {
            pending.push(entry.map_err(failed())?.path());
        }
    }
    Ok(usage)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_holes_count_once_and_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let root = of(dir.path()).unwrap();
        assert_eq!(root.inodes, 1);

        let file = dir.path().join("file");
        fs::write(&file, vec![7; 64 * 1024]).unwrap();
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        symlink("/etc", dir.path().join("link")).unwrap();
        let hole = fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        // Allocation is delayed until the data is on its way.
        fs::File::open(&file).unwrap().sync_all().unwrap();

        let usage = of(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4);
        let added = usage.size - root.size;
        assert!((64 * 1024..128 * 1024).contains(&added), "{added} bytes");
    }

    #[test]
    fn nothing_takes_nothing() {
        assert_eq!(of(Path::new("/nonexistent/anywhere")).unwrap(), Usage::default());
    }
}
