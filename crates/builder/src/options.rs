//! What is to be built, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use format::FileRanges;

use crate::error::BuildError;

/// The format of the new layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// eStargz: gzip members, the TOC in the last of them.
    Estargz(Gzip),
    /// eStargz whose TOC is a blob of its own.
    ExternalToc {
        /// How the members are made.
        gzip: Gzip,
        /// Keep every byte of the source archive, so that the diff ID stays. Excludes prioritized files: there is no
        /// place for a landmark, and the order is the source's.
        lossless: bool,
    },
    /// zstd:chunked: zstd frames, the TOC in a frame that decompressors skip.
    ZstdChunked(Zstd),
}

/// How gzip members are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gzip {
    /// 0 (stored) to 9 (smallest), on the scale of gzip(1).
    pub level: u8,
    /// Put contents into a member until it has about as many compressed bytes. 0 gives each chunk its own, which every
    /// reader understands; others need one that knows `innerOffset`.
    pub min_chunk_size: u64,
}

impl Default for Gzip {
    /// Level 9, a member for each chunk.
    fn default() -> Gzip {
        Gzip { level: 9, min_chunk_size: 0 }
    }
}

/// How zstd frames are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zstd {
    /// 1 to 22, on the scale of zstd(1).
    pub level: i32,
    /// Also write what Podman, Buildah and CRI-O look for: their own names of the annotations.
    pub podman: bool,
}

impl Default for Zstd {
    /// Level 3.
    fn default() -> Zstd {
        Zstd { level: 3, podman: false }
    }
}

/// Bounds on what is taken from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the uncompressed archive, and of all contents with the holes of sparse files filled, in bytes.
    pub uncompressed: u64,
    /// Number of members.
    pub entries: u32,
}

impl Default for Limits {
    /// 256 GiB, 4,000,000 members. A member takes about 150 bytes of memory.
    fn default() -> Limits {
        Limits { uncompressed: 256 << 30, entries: 4_000_000 }
    }
}

/// What is to be built, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The format of the new layer.
    pub format: Format,
    /// Files are cut into chunks of this many bytes, 1 to 1 GiB. As many bytes are in memory for each thread.
    pub chunk_size: u32,
    /// Paths to be put in front of the landmark, most wanted first. Leading `/` and `./` do not matter.
    pub prioritized: Vec<String>,
    /// Parts of large files that are wanted early although the files stay behind the landmark, by path: written into the
    /// TOC (see [`FileRanges`]), where lazy pulls find them. A file that is prioritized is wanted whole.
    pub ranges: BTreeMap<String, FileRanges>,
    /// Tell about prioritized files that are not in the layer in [`Built::missing`](crate::Built) instead of failing.
    pub allow_missing: bool,
    /// How many threads compress; 0 is one for each processor. The result does not depend on it.
    pub threads: usize,
    /// Where temporary files are kept: as large as the uncompressed layer. `None` is the system's place for them.
    pub temporary: Option<PathBuf>,
    /// Bounds on what is taken from outside.
    pub limits: Limits,
}

/// Chunks of 4 MiB: what everyone has.
const CHUNK_SIZE: u32 = 4 << 20;
const CHUNK_SIZE_MAX: u32 = 1 << 30;

impl Options {
    /// The defaults for a format: chunks of 4 MiB, nothing prioritized, a thread for each processor.
    pub fn new(format: Format) -> Options {
        Options {
            format,
            chunk_size: CHUNK_SIZE,
            prioritized: Vec::new(),
            ranges: BTreeMap::new(),
            allow_missing: false,
            threads: 0,
            temporary: None,
            limits: Limits::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let gzip = match self.format {
            Format::Estargz(gzip) | Format::ExternalToc { gzip, .. } => gzip,
            Format::ZstdChunked(zstd) => {
                if !(1..=22).contains(&zstd.level) {
                    return Err(BuildError::Options("the zstd level has to be 1 to 22"));
                }
                Gzip::default()
            }
        };
        if gzip.level > 9 {
            return Err(BuildError::Options("the gzip level has to be 0 to 9"));
        }
        if !(1..=CHUNK_SIZE_MAX).contains(&self.chunk_size) {
            return Err(BuildError::Options("the chunk size has to be 1 byte to 1 GiB"));
        }
        if self.lossless() && !self.prioritized.is_empty() {
            return Err(BuildError::Options(
                "keeping the diff ID excludes prioritized files, which would have to move",
            ));
        }
        Ok(())
    }

    pub(crate) fn lossless(&self) -> bool {
        matches!(self.format, Format::ExternalToc { lossless: true, .. })
    }

    pub(crate) fn min_chunk_size(&self) -> u64 {
        match self.format {
            Format::Estargz(gzip) | Format::ExternalToc { gzip, .. } => gzip.min_chunk_size,
            Format::ZstdChunked(_) => 0,
        }
    }

    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The source is being read.
    Reading {
        /// Bytes of the source as it came, compressed or not.
        source: u64,
    },
    /// The new layer is being written.
    Writing {
        /// Bytes of uncompressed archive that were compressed.
        done: u64,
        /// Bytes of uncompressed archive in the source, about as many as there will be.
        total: u64,
    },
}

type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// The caller's wires into a build that runs.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub report: Option<Report>,
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Control {
    pub fn report(&self, progress: Progress) {
        if let Some(report) = &self.report {
            report(progress);
        }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("cancelled", &self.cancelled()).finish_non_exhaustive()
    }
}
