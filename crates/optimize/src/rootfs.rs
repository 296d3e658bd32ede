//! The files of an image, mounted where they can be watched.

use std::path::{Path, PathBuf};

use mount::{OverlayOptions, UnmountMode, Upper};

use crate::error::Error;

/// A mounted root file system. Unmounted when dropped, also from what still uses it.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    /// Directories of the layers, the topmost first.
    lowers: Vec<PathBuf>,
}

impl Rootfs {
    /// Mounts what a snapshotter says, at an empty directory.
    pub fn mount(mounts: &[containerd::Mount], path: &Path) -> Result<Rootfs, Error> {
        let fail = |reason: String| Error::Mount { path: path.to_owned(), reason };
        let [only] = mounts else {
            return Err(fail(format!(
                "the snapshotter wants {} mounts, only one is supported",
                mounts.len()
            )));
        };
        let option = |name: &str| {
            let found = only.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned)
        };
        if only.r#type != "overlay" {
            let reason = format!(
                "the snapshotter makes mounts of type {:?}, whose accesses cannot be told from others'; use overlayfs",
                only.r#type
            );
            return Err(fail(reason));
        }
        let missing = |name| fail(format!("the snapshotter names no {name}"));
        let lowers: Vec<PathBuf> =
            option("lowerdir").ok_or_else(|| missing("lowerdir"))?.split(':').map(PathBuf::from).collect();
        let dir = option("upperdir").ok_or_else(|| missing("upperdir"))?.into();
        let work = option("workdir").ok_or_else(|| missing("workdir"))?.into();
        let options = OverlayOptions { upper: Some(Upper { dir, work }), ..OverlayOptions::default() };
        mount::mount_overlay(&lowers, path, &options).map_err(|error| fail(error.to_string()))?;
        Ok(Rootfs { path: path.to_owned(), lowers })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The regular files, by ascending path. What is not UTF-8 cannot be recorded, and is left out.
    pub fn files(&self) -> std::io::Result<Vec<String>> {
        let (mut directories, mut files) = (vec![PathBuf::new()], Vec::new());
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(self.path.join(&directory))? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, directory.join(entry.file_name()));
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    files.extend(path.to_str().map(str::to_owned));
                }
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Which layer shows a file, the lowest being 0: the topmost that has it.
    pub fn layer_of(&self, path: &str) -> Option<u32> {
        let has = |lower: &PathBuf| lower.join(path).symlink_metadata().is_ok_and(|found| found.is_file());
        let from_top = self.lowers.iter().position(has)?;
        u32::try_from(self.lowers.len() - 1 - from_top).ok()
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Err(error) = mount::unmount(&self.path, UnmountMode::Lazy) {
            tracing::warn!(path = %self.path.display(), %error, "the workload's files stay mounted");
        }
    }
}
