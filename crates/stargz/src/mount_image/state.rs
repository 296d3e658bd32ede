//! What an image that is mounted by `stargz mount` keeps outside of its directory.
//!
//! ```text
//! /var/lib/stargz/mounts/<id>/      single layers' mounts, the FUSE session, layers without --cache
//! /var/lib/stargz/mounts/<id>.lock  locked by the process that serves, for as long as it lives
//! /var/lib/stargz/mounts/<id>.log   what it logs
//! ```
//!
//! The id is a function of the directory, so that whoever knows the directory finds the state.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use format::Digest;
use mount::UnmountMode;

const ROOT: &str = "/var/lib/stargz/mounts";

/// The state of the image at one directory.
#[derive(Clone, Debug)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// The state of what is mounted, or to be mounted, at this absolute path.
    pub fn of(mounted_at: &Path) -> State {
        let digest = Digest::of(mounted_at.as_os_str().as_encoded_bytes()).hex();
        State { dir: Path::new(ROOT).join(digest.get(..16).unwrap_or(&digest)) }
    }

    /// The directory for mounts and layers.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether an image is, or was, mounted.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// The lock of the process that serves, if no such process lives. Held until dropped.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn lock(&self) -> anyhow::Result<Option<File>> {
        // Contents of images are below, without the modes that they have inside.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(ROOT)
            .with_context(|| format!("cannot make {ROOT}"))?;
        let path = self.dir.with_extension("lock");
        let failed = |what: &str| format!("cannot {what} {}", path.display());
        loop {
            let lock = File::create(&path).with_context(|| failed("make"))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| failed("lock")),
            }
            // Who held it may have removed the file between our two steps; what counts is the file that others find.
            let ours = lock.metadata().with_context(|| failed("look at"))?.ino();
            if fs::metadata(&path).is_ok_and(|found| found.ino() == ours) {
                return Ok(Some(lock));
            }
        }
    }

    /// A new log for the process that serves.
    ///
    /// # Errors
    /// It can't be written.
    pub fn new_log(&self) -> anyhow::Result<File> {
        let path = self.dir.with_extension("log");
        File::create(&path).with_context(|| format!("cannot make {}", path.display()))
    }

    /// The text of the last error in the log.
    pub fn last_error(&self) -> Option<String> {
        let mut log = String::new();
        let file = File::open(self.dir.with_extension("log")).ok()?;
        // Enough for any error; a text that can't be read to its end is shown as far as it can.
        let _ = file.take(64 << 10).read_to_string(&mut log);
        let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut errors = lines.filter(|line| line["level"] == "error");
        let said = errors.next().and_then(|line| line["msg"].as_str().map(str::to_owned));
        // Not a log line: the program crashed.
        said.or_else(|| {
            log.lines().rev().find(|line| !line.is_empty() && !line.starts_with('{')).map(str::to_owned)
        })
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// It can't be made.
    pub fn make(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))
    }

    /// Removes the log, when nobody is to read it any more.
    pub fn remove_log(&self) {
        // One that is not there is as good as removed.
        let _ = fs::remove_file(self.dir.with_extension("log"));
    }

    /// Unmounts and removes everything but the log. To be called by whoever holds the lock; that the rest is left behind is logged.
    pub fn clear(&self) {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(dir = %self.dir.display(), error = %error, "state is left behind");
        };
        match mount::mounts_below(&self.dir) {
            Ok(mounts) => {
                for left in mounts.iter().rev() {
                    if let Err(error) = mount::unmount(&left.mount_point, UnmountMode::Lazy) {
                        failed(&error);
                        return;
                    }
                }
            }
            Err(error) => return failed(&error),
        }
        let removed = [fs::remove_dir_all(&self.dir), fs::remove_file(self.dir.with_extension("lock"))];
        for error in removed.into_iter().filter_map(Result::err) {
            if error.kind() != io::ErrorKind::NotFound {
                failed(&error);
            }
        }
    }
}
