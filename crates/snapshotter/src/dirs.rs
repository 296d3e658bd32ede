//! The directories of snapshots: `<root>/snapshots/<id>/{fs,work}`.
//!
//! `fs` is where the content of the layer is or is mounted, `work` the work directory that overlayfs wants for a
//! writable one. A directory is put together under a temporary name and then renamed, so that one with a number
//! is whole.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::Error;

/// Prefix of the names of directories in the making.
const NEW: &str = "new-";

/// Nobody but root looks into the root directory and into a snapshot's directory.
const PRIVATE: u32 = 0o700;
/// The root directory of a layer, as containerd's own snapshotters make it.
const FS_MODE: u32 = 0o755;
/// As containerd's own snapshotters make it; overlayfs does the rest inside.
const WORK_MODE: u32 = 0o711;

/// The directory that holds them all.
#[derive(Debug)]
pub(crate) struct Dirs {
    snapshots: PathBuf,
}

impl Dirs {
    /// Makes `root` and what belongs below it, if missing.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let snapshots = root.join("snapshots");
        for dir in [root, &snapshots] {
            let made = fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(dir);
            made.map_err(Error::io("create directory", dir))?;
        }
        Ok(Self { snapshots })
    }

    /// The directory that holds all others.
    pub(crate) fn all(&self) -> &Path {
        &self.snapshots
    }

    /// The directory of one snapshot.
    pub(crate) fn of(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// The layer's root directory.
    pub(crate) fn fs(&self, id: u64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// The work directory of a writable snapshot.
    pub(crate) fn work(&self, id: u64) -> PathBuf {
        self.of(id).join("work")
    }

    /// User and group that the root of a layer belongs to.
    pub(crate) fn owner(&self, id: u64) -> Result<(u32, u32), Error> {
        let dir = self.fs(id);
        let owner = fs::metadata(&dir).map_err(Error::io("read the owner of", &dir))?;
        Ok((owner.uid(), owner.gid()))
    }

    /// Makes the directory of a new snapshot. Its root belongs to `owner`, user and group, since an overlay shows the owner
    /// of its upper directory.
    pub(crate) fn create(&self, id: u64, owner: Option<(u32, u32)>, writable: bool) -> Result<(), Error> {
        let temporary = self.snapshots.join(format!("{NEW}{id}"));
        make(&temporary, PRIVATE)?;
        make(&temporary.join("fs"), FS_MODE)?;
        if writable {
            make(&temporary.join("work"), WORK_MODE)?;
        }
        if let Some((uid, gid)) = owner {
            let to = temporary.join("fs");
            chown(&to, Some(uid), Some(gid)).map_err(Error::io("change the owner of", &to))?;
        }
        let name = self.of(id);
        fs::rename(&temporary, &name).map_err(Error::io("rename the new snapshot to", &name))
    }

    /// Makes the mountpoint of a lazily mounted layer again where it is missing.
    pub(crate) fn repair(&self, id: u64) -> Result<(), Error> {
        for (dir, mode) in [(self.of(id), PRIVATE), (self.fs(id), FS_MODE)] {
            // A mountpoint whose filesystem is dead exists, even if it cannot be looked at.
            if matches!(dir.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
                make(&dir, mode)?;
            }
        }
        Ok(())
    }

    /// The highest number that any directory, whole or not, has.
    pub(crate) fn highest(&self) -> Result<u64, Error> {
        Ok(self.each()?.into_iter().map(|(id, _)| id).max().unwrap_or_default())
    }

    /// The directories, whole or not, of snapshots that are not among `known`: number and path.
    pub(crate) fn orphans(&self, known: &HashSet<u64>) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut dirs = self.each()?;
        dirs.retain(|(id, path)| !known.contains(id) || *path != self.of(*id));
        Ok(dirs)
    }

    /// All directories that this program names; others are not ours to touch.
    fn each(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let failed = || Error::io("list", &self.snapshots);
        let mut dirs = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            if let Some(id) = name.to_str().and_then(number) {
                dirs.push((id, entry.path()));
            }
        }
        Ok(dirs)
    }
}

/// The number in the name of a directory, if this program could have given it that name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NEW).unwrap_or(name);
    digits.parse().ok().filter(|id: &u64| id.to_string() == digits)
}

/// Makes one directory with exactly that mode, whatever the umask.
fn make(dir: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir(dir).map_err(Error::io("create directory", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", dir))
}
