//! The thread that takes events and looks at the page cache.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use format::FileRanges;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;
use crate::kernel::{Event, Group};
use crate::large;
use crate::record::{Options, Recording, Touched};

/// How often the page cache is looked at, lest it forgets what was touched long ago.
const LOOK: Duration = Duration::from_secs(1);
/// Large files that are kept open to look at them. Of more than that no parts are recorded.
const OPEN_MAX: usize = 256;
/// Events of one read.
const BUFFER: usize = 64 << 10;

pub(crate) struct Watch {
    group: Group,
    prefixes: Vec<PathBuf>,
    large: u64,
    recording: Recording,
    /// Names that were told of already.
    known: HashSet<PathBuf>,
    open: Vec<Open>,
}

/// A large file that is looked at.
struct Open {
    file: File,
    size: u64,
    place: usize,
    ranges: Option<FileRanges>,
}

impl Watch {
    pub fn new(group: Group, mount: &Path, options: Options, kept_in_cache: usize) -> Watch {
        let mut prefixes = options.prefixes;
        prefixes.push(mount.to_owned());
        let recording = Recording { kept_in_cache, ..Recording::default() };
        Watch { group, prefixes, large: options.large, recording, known: HashSet::new(), open: Vec::new() }
    }

    pub fn run(mut self, stop: &OwnedFd) -> Result<Recording, Error> {
        let mut buffer = vec![0; BUFFER];
        let mut looked = Instant::now();
        loop {
            let stopped = self.wait(stop).map_err(Error::Read)?;
            // All that was there when it was told to stop.
            loop {
                let events = self.group.events(&mut buffer).map_err(Error::Read)?;
                if events.is_empty() {
                    break;
                }
                events.into_iter().for_each(|event| self.note(event));
                if stopped && looked.elapsed() > 10 * LOOK {
                    break; // others still write events: there is no end to wait for
                }
            }
            if stopped || looked.elapsed() >= LOOK {
                self.look();
                looked = Instant::now();
            }
            if stopped {
                break;
            }
        }
        for open in self.open {
            self.recording.files[open.place].ranges = open.ranges;
        }
        Ok(self.recording)
    }

    /// Waits for an event, or for the time to look. Whether it was told to stop.
    fn wait(&self, stop: &OwnedFd) -> io::Result<bool> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.group.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: LOOK.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(!fds[1].revents().is_empty())
    }

    fn note(&mut self, event: Event) {
        let file = match event {
            Event::Overflow => {
                self.recording.overflows += 1;
                return;
            }
            Event::Touched { pid, .. } if pid == std::process::id() as i32 => return,
            Event::Touched { file, .. } => file,
        };
        let Ok(found) = file.metadata() else { return };
        if !found.is_file() {
            return;
        }
        // It was told of; whether it is told of again is a matter of speed only.
        if let Err(error) = self.group.ignore(&file) {
            tracing::trace!(%error, "a file will be told of again");
        }
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        if !self.known.insert(name.clone()) {
            return;
        }
        let relative = self.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix).ok());
        let relative = relative.or_else(|| name.strip_prefix("/").ok()).and_then(Path::to_str);
        let Some(path) = relative.filter(|path| !path.is_empty() && found.nlink() > 0) else {
            self.recording.nameless += 1;
            return;
        };
        let (place, size) = (self.recording.files.len(), found.len());
        self.recording.files.push(Touched { path: path.to_owned(), size, ranges: None });
        if size >= self.large && self.open.len() < OPEN_MAX {
            self.open.push(Open { file, size, place, ranges: None });
        }
    }

    fn look(&mut self) {
        for open in &mut self.open {
            match large::cached(&open.file, open.size) {
                Ok(now) => {
                    open.ranges = Some(open.ranges.take().map_or(now.clone(), |before| before.union(&now)));
                }
                Err(error) => {
                    let path = &self.recording.files[open.place].path;
                    tracing::debug!(path, %error, "cannot see which parts of a file are in the page cache");
                }
            }
        }
    }
}
