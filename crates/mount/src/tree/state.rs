//! A directory that is there and not listed, with files that are made when they are looked at.
//!
//! Shown as the lowest directory of an overlay: lookups fall through the layers and find it, a listing of the root does
//! not.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::{Entries, Found, Lifetime};
use crate::dirents::{Listed, kind};
use crate::error::Error;
use crate::files::is_name;
use crate::reads::errno_of;
use crate::wire::Attr;

/// What is in a state file now. Called on a thread that serves other files as well, so it must not wait for anything.
///
/// # Errors
/// One that carries an errno reaches the reader as that errno, any other as `EIO`.
pub type StateContent = Arc<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync>;

/// A tree that shows nothing but holds one hidden directory (mode 0500) of files (mode 0400) that are made anew when
/// they are looked at, unless that was done within the last 50 ms.
///
/// An overlay that has it as its lowest directory has the hidden directory in its root. Several of them in one overlay
/// are merged.
pub struct StateDir {
    name: String,
    files: Vec<StateFile>,
}

struct StateFile {
    name: String,
    content: StateContent,
    /// What GETATTR measured and READ must give: the kernel asks for the size before each read, and would cut or
    /// fill up what has another.
    shown: Mutex<Shown>,
}

#[derive(Clone, Default)]
struct Shown {
    bytes: Arc<[u8]>,
    /// Since the epoch; later each time, which tells the kernel that its pages are old.
    at: Duration,
}

/// So long a file stays as it was made. To read a file is a few calls in a row (stat, read, read), each of which asks for
/// the size, and they should be about the same bytes.
const FRESH: Duration = Duration::from_millis(50);

const ROOT: u32 = 1;
const DIRECTORY: u32 = 2;
const FIRST_FILE: u32 = 3;

impl StateDir {
    /// A directory `name` (`.stargz-snapshotter`, say) with these files.
    ///
    /// # Errors
    /// Names that no file can have, or the same name twice.
    pub fn new(name: &str, files: Vec<(String, StateContent)>) -> Result<Self, Error> {
        let rejected = |name: &str, reason| Error::Rejected { node: 0, name: name.to_owned(), reason };
        if !is_name(name) {
            return Err(rejected(name, "not a valid file name"));
        }
        let mut names = std::collections::HashSet::new();
        for (name, _) in &files {
            if !is_name(name) {
                return Err(rejected(name, "not a valid file name"));
            }
            if !names.insert(name.as_str()) {
                return Err(rejected(name, "the name is in use"));
            }
        }
        let files =
            files.into_iter().map(|(name, content)| StateFile { name, content, shown: Mutex::default() });
        Ok(Self { name: name.to_owned(), files: files.collect() })
    }

    pub(super) fn root(&self) -> u32 {
        ROOT
    }

    fn file(&self, inner: u32) -> Result<&StateFile, Errno> {
        let index = inner.checked_sub(FIRST_FILE).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.files.get(index)).ok_or(Errno::STALE)
    }

    pub(super) fn found(&self, inner: u32) -> Result<Found, Errno> {
        let (mode, nlink) = match inner {
            ROOT => (0o040_755, 3),
            DIRECTORY => (0o040_500, 2),
            _ => return self.file(inner)?.found(inner),
        };
        let attr = Attr { mode, nlink, blksize: 4096, ..Attr::default() };
        Ok(Found { inner, attr, lifetime: Lifetime::Forever })
    }

    pub(super) fn lookup(&self, directory: u32, name: &[u8]) -> Result<Option<Found>, Errno> {
        let inner = match (directory, name) {
            (ROOT | DIRECTORY, b".") => directory,
            (ROOT | DIRECTORY, b"..") => ROOT,
            (ROOT, name) if name == self.name.as_bytes() => DIRECTORY,
            (ROOT, _) => return Ok(None),
            (DIRECTORY, name) => match self.files.iter().position(|file| file.name.as_bytes() == name) {
                None => return Ok(None),
                Some(index) => number_of(index)?,
            },
            _ => return Err(Errno::NOTDIR),
        };
        self.found(inner).map(Some)
    }

    pub(super) fn list(&self, directory: u32, position: u64, entries: &mut Entries<'_>) -> Result<(), Errno> {
        let files: &[StateFile] = match directory {
            ROOT => &[],
            DIRECTORY => &self.files,
            _ => return Err(Errno::NOTDIR),
        };
        let dots = [(directory, ".", kind::DIRECTORY), (ROOT, "..", kind::DIRECTORY)];
        let files = (FIRST_FILE..).zip(files).map(|(inner, file)| (inner, file.name.as_str(), kind::REGULAR));
        let all = (1_u64..).zip(dots.into_iter().chain(files));
        for (next, (inner, name, kind)) in all.skip(usize::try_from(position).unwrap_or(usize::MAX)) {
            let listed = Listed { ino: inner.into(), next, kind, name: name.as_bytes() };
            // Without attributes, as those of files are made by reading them.
            if !entries.push(listed, || None) {
                break;
            }
        }
        Ok(())
    }

    /// The bytes of a file, as it was measured last.
    pub(super) fn read(&self, inner: u32) -> Result<Arc<[u8]>, Errno> {
        let file = self.file(inner)?;
        let shown = file.shown().clone();
        if shown.at.is_zero() { file.refresh().map(|shown| shown.bytes) } else { Ok(shown.bytes) }
    }
}

fn number_of(index: usize) -> Result<u32, Errno> {
    u32::try_from(index).ok().and_then(|index| index.checked_add(FIRST_FILE)).ok_or(Errno::NOENT)
}

impl StateFile {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        // Replaced as a whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) -> Result<Shown, Errno> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shown = self.shown().clone();
        // A clock that was set back makes the difference `None`.
        if now.checked_sub(shown.at).is_some_and(|age| age < FRESH) {
            return Ok(shown);
        }
        let bytes = (self.content)().map_err(|error| {
            tracing::warn!(file = self.name, %error, "cannot make a state file");
            errno_of(&error)
        })?;
        let mut shown = self.shown();
        *shown = Shown { bytes: bytes.into(), at: now.max(shown.at + Duration::from_nanos(1)) };
        Ok(shown.clone())
    }

    fn found(&self, inner: u32) -> Result<Found, Errno> {
        let Shown { bytes, at } = self.refresh()?;
        let attr = Attr {
            size: bytes.len() as u64,
            blocks: (bytes.len() as u64).div_ceil(512),
            times: [at.as_secs(); 3],
            times_nsec: [at.subsec_nanos(); 3],
            mode: 0o100_400,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        };
        Ok(Found { inner, attr, lifetime: Lifetime::Now })
    }
}

impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.files.iter().map(|file| &file.name);
        f.debug_struct("StateDir")
            .field("name", &self.name)
            .field("files", &names.collect::<Vec<_>>())
            .finish()
    }
}
