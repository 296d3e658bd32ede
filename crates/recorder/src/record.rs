//! The interface: begin, end, and what was found.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use format::FileRanges;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::kernel::Group;
use crate::large;
use crate::watch::Watch;

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of files of at least this many bytes the touched parts are recorded as well.
    pub large: u64,
    /// Paths by which processes may see the mount besides the one it has here, longest first: what they are
    /// prefixed with is cut off. The path of the mount is known without being named.
    pub prefixes: Vec<PathBuf>,
}

impl Default for Options {
    /// 4 MiB, the usual size of a chunk: smaller files are one.
    fn default() -> Options {
        Options { large: 4 << 20, prefixes: Vec::new() }
    }
}

/// What was touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Regular files, each once, in the order in which they were touched first.
    pub files: Vec<Touched>,
    /// How often events were lost because there were too many at a time: then files may be missing.
    pub overflows: u64,
    /// Files that were touched but have no name that could be recorded: removed meanwhile, or not UTF-8.
    pub nameless: u64,
    /// Large files that were in the page cache before, in use by others, so that more of them may seem touched than was.
    pub kept_in_cache: usize,
}

/// A file that was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Relative to the mount.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of a large file, the parts that were touched, if that could be found out.
    pub ranges: Option<FileRanges>,
}

/// Records until it is told to stop.
#[derive(Debug)]
pub struct Recorder {
    thread: JoinHandle<Result<Recording, Error>>,
    /// Closed to say that it is enough.
    stop: OwnedFd,
}

impl Recorder {
    /// Drops the large files of a file system from the page cache, and records from then on. `mount` is where the file
    /// system is mounted: one that nobody but the recorded processes uses. What this process itself does is left out.
    ///
    /// Blocks while dirty pages are written.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(mount: &Path, options: Options) -> Result<Recorder, Error> {
        let kept_in_cache = large::drop_from_cache(mount, options.large)?;
        let group = Group::new().map_err(Error::Init)?;
        group.watch(mount).map_err(|source| Error::Mark { path: mount.to_owned(), source })?;
        let (stopped, stop) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::Thread(io::Error::from(error)))?;
        let watch = Watch::new(group, mount, options, kept_in_cache);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || watch.run(&stopped))
            .map_err(Error::Thread)?;
        Ok(Recorder { thread, stop })
    }

    /// Ends the recording, and says what was touched. Blocks for as long as it takes to look through the page cache.
    ///
    /// # Errors
    /// [`Error::Read`]: events could not be had, at some time.
    pub fn finish(self) -> Result<Recording, Error> {
        drop(self.stop);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Read(io::Error::other("the recording thread panicked"))),
        }
    }
}
