//! A tar archive as a place of blobs: an index of its members by name, found in one pass.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use builder::tar::{Kind, ScanError, Scanner};
use format::Digest;

use super::{Blobs, INDEX_FILE, Layout, LayoutError, VERSION_FILE, docker, images_of, read_bounded};

/// More members than any archive of images has: a blob each, and in old archives three files for each layer.
const MEMBERS_MAX: usize = 100_000;
/// Links to links that are followed.
const LINKS_MAX: usize = 8;
const BUFFER: usize = 1 << 20;

/// Where bytes are in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub offset: u64,
    pub size: u64,
}

impl Extent {
    /// A part of it, cut at its end.
    pub fn part(self, range: Range<u64>) -> Extent {
        let start = range.start.min(self.size);
        let end = range.end.clamp(start, self.size);
        Extent { offset: self.offset + start, size: end - start }
    }
}

/// Reads an extent, wherever others are reading.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    extent: Extent,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a File, extent: Extent) -> Window<'a> {
        Window { file, extent }
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.extent.size).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..most], self.extent.offset)?;
        self.extent.offset += got as u64;
        self.extent.size -= got as u64;
        Ok(got)
    }
}

enum Entry {
    File(Extent),
    /// The normal name of the target.
    Link(String),
}

/// The members of an archive by their normal names.
pub(super) struct Members<'a> {
    pub path: &'a Path,
    pub file: &'a File,
    entries: HashMap<String, Entry>,
}

impl<'a> Members<'a> {
    fn scan(path: &'a Path, file: &'a File) -> Result<Members<'a>, LayoutError> {
        let mut entries = HashMap::new();
        let mut scanner = Scanner::new(BufReader::with_capacity(BUFFER, file));
        loop {
            let member = match scanner.next_member() {
                Ok(Some(member)) => member,
                Ok(None) => return Ok(Members { path, file, entries }),
                Err(ScanError::Tar { offset, problem }) => {
                    return Err(LayoutError::Tar { path: path.to_owned(), offset, problem });
                }
                Err(ScanError::Io(source)) => {
                    return Err(LayoutError::Io { action: "reading", path: path.to_owned(), source });
                }
                Err(other) => return Err(LayoutError::io("reading", path)(io::Error::other(other))),
            };
            let Some(name) = normal("", &member.name) else { continue };
            let entry = match member.kind {
                Kind::File if member.sparse.is_none() => {
                    Entry::File(Extent { offset: member.content_at, size: member.stored })
                }
                Kind::Hardlink => match normal("", &member.link) {
                    Some(target) => Entry::Link(target),
                    None => continue,
                },
                Kind::Symlink => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    match normal(directory, &member.link) {
                        Some(target) => Entry::Link(target),
                        None => continue,
                    }
                }
                _ => continue,
            };
            if entries.len() == MEMBERS_MAX {
                let found = format!("an archive of more than {MEMBERS_MAX} files");
                return Err(LayoutError::NotImages { path: path.to_owned(), found });
            }
            entries.insert(name, entry);
        }
    }

    /// Where the file of this name is, through links.
    pub fn find(&self, name: &str) -> Option<Extent> {
        let mut name = normal("", name.as_bytes())?;
        for _ in 0..=LINKS_MAX {
            match self.entries.get(&name)? {
                Entry::File(extent) => return Some(*extent),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// A document, of a bounded size.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>, LayoutError> {
        let Some(extent) = self.find(name) else { return Ok(None) };
        read_bounded(Window::new(self.file, extent)).map(Some).map_err(|error| LayoutError::Document {
            path: self.path.to_owned(),
            document: name.to_owned(),
            problem: error.to_string(),
        })
    }

    fn blobs(&self) -> HashMap<Digest, Extent> {
        let digest = |name: &str| {
            let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
            format!("{algorithm}:{hex}").parse::<Digest>().ok()
        };
        let names = self.entries.keys();
        names.filter_map(|name| Some((digest(name)?, self.find(name)?))).collect()
    }
}

/// A name below `directory`, without `.` and `..`; none if it is above the archive, or not text.
fn normal(directory: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts: Vec<&str> = Vec::new();
    let start = if name.starts_with('/') { "" } else { directory };
    for part in start.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

pub(super) fn open(path: &Path) -> Result<Layout, LayoutError> {
    let file = File::open(path).map_err(LayoutError::io("opening", path))?;
    let not_images = |found: &str| LayoutError::NotImages { path: path.to_owned(), found: found.to_owned() };
    let mut magic = [0; 4];
    let got = file.read_at(&mut magic, 0).map_err(LayoutError::io("reading", path))?;
    match &magic[..got] {
        [] => return Err(not_images("an empty file")),
        [0x1f, 0x8b, ..] => return Err(not_images("compressed with gzip, which has to be undone first")),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            return Err(not_images("compressed with zstd, which has to be undone first"));
        }
        _ => {}
    }
    let members = Members::scan(path, &file)?;
    // What newer versions of docker write is both; the layout has more in it.
    let (images, extents, made) = match (members.document(VERSION_FILE)?, members.document(INDEX_FILE)?) {
        (Some(version), Some(index)) => (images_of(path, &version, &index)?, members.blobs(), HashMap::new()),
        _ => match members.document(docker::MANIFEST_FILE)? {
            Some(manifest) => docker::read(&members, &manifest)?,
            None => return Err(not_images("an archive of something else")),
        },
    };
    Ok(Layout { path: path.to_owned(), images, blobs: Blobs::Archive { file, extents, made } })
}
