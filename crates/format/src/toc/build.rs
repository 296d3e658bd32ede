//! Entries, one after the other, into nodes with the names that the TOC gives them.
//!
//! What the names mean (links, whiteouts, landmarks) is for `finish`, when all are known.

use super::attributes;
use super::entry::{ChunkType, Entry, EntryKind, Text};
use super::names::{NameId, Names, RelativePath, Rooted, Target};
use super::{Chunk, Limits, Node, NodeId, NodeKind};
use crate::error::{EntryError, FormatError, excerpt};
use crate::footer::{Footer, TocKind};
use crate::ranges::FileRanges;
use crate::timestamp::Timestamp;

/// Ranges of files that are kept of one TOC. What is beyond is fetched when it is read.
const RANGES_MAX: usize = 1 << 16;

/// A TOC of which some entries were read.
#[derive(Debug)]
pub(super) struct Builder {
    pub names: Names,
    /// Indexed by [`NodeId`]. A directory comes before everything in it.
    pub nodes: Vec<Node>,
    /// In the order of the nodes that they belong to.
    pub chunks: Vec<Chunk>,
    pub links: Vec<Link>,
    /// The first chunk whose content cannot be verified.
    pub undigested: Option<FormatError>,
    /// What is wanted of files, by ascending nodes.
    pub ranges: Vec<(NodeId, FileRanges)>,
    ranges_left: usize,
    root_explicit: bool,
    /// The file that chunk entries belong to now.
    open: Option<OpenFile>,
    entries: u64,
    entries_max: u32,
    payload_end: u64,
    /// The most that a byte of the payload can expand to.
    expansion_max: u64,
    pub rooted: Rooted,
}

/// A hard link that nothing is known of yet.
#[derive(Debug)]
pub(super) struct Link {
    pub name: NameId,
    pub target: Box<[u8]>,
}

#[derive(Debug)]
struct OpenFile {
    node: NodeId,
    name: String,
    size: u64,
    covered: u64,
    first_chunk: u32,
    /// Where the first chunk without digest starts.
    undigested: Option<u64>,
}

impl Builder {
    pub fn new(limits: &Limits, footer: &Footer) -> Builder {
        Builder {
            names: Names::default(),
            nodes: vec![implied_directory()],
            chunks: Vec::new(),
            links: Vec::new(),
            undigested: None,
            ranges: Vec::new(),
            ranges_left: RANGES_MAX,
            root_explicit: false,
            open: None,
            entries: 0,
            entries_max: limits.entries,
            payload_end: footer.payload_end,
            expansion_max: footer.compression().expansion_max(),
            rooted: match footer.kind {
                TocKind::ZstdChunked { .. } => Rooted::Accepted,
                TocKind::Estargz | TocKind::LegacyStargz | TocKind::ExternalToc => Rooted::Refused,
            },
        }
    }

    /// Takes the next entry.
    pub fn add(&mut self, mut entry: Entry) -> Result<(), FormatError> {
        if matches!(entry.kind, Text::Parsed(EntryKind::Chunk)) {
            self.add_chunk(&entry)?;
        } else {
            self.close_file()?;
            let name = std::mem::take(&mut entry.name);
            self.add_named(&name, entry).map_err(|problem| FormatError::entry(name.as_bytes(), problem))?;
            if let Some(open) = &mut self.open {
                open.name = name;
            }
        }
        self.entries += 1;
        // One entry can imply as many directories as its name is long.
        if self.entries.max(self.names.len() as u64) > u64::from(self.entries_max) {
            return Err(FormatError::TocTooLarge { what: "entries", limit: u64::from(self.entries_max) });
        }
        Ok(())
    }

    /// Ends the list of chunks of the last file.
    pub fn close_file(&mut self) -> Result<(), FormatError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let OpenFile { size, covered, .. } = open;
        if covered != size {
            let problem = EntryError::ChunksMissing { covered, file_size: size };
            return Err(FormatError::entry(open.name.as_bytes(), problem));
        }
        if let (Some(offset), None) = (open.undigested, &self.undigested) {
            let problem = EntryError::MissingDigest(offset);
            self.undigested = Some(FormatError::entry(open.name.as_bytes(), problem));
        }
        self.nodes[open.node.index()].kind =
            NodeKind::File { size, chunks: open.first_chunk..self.chunks.len() as u32 };
        Ok(())
    }

    fn add_named(&mut self, name: &str, mut entry: Entry) -> Result<(), EntryError> {
        let kind = match entry.kind {
            Text::Parsed(kind) => kind,
            Text::Absent => return Err(EntryError::UnknownType(String::new())),
            Text::Wrong(text) => return Err(EntryError::UnknownType(text)),
        };
        let mut components = RelativePath::new(name.as_bytes(), self.rooted)?.components();
        let Some(name) = components.next_back() else {
            return self.set_root(kind, &entry);
        };
        let parent = self.make_directories(components)?;
        match self.names.find(parent, name) {
            None => match attributes::kind(kind, &mut entry)? {
                Some(kind) => self.add_node(parent, name, kind, &entry)?,
                None => self.add_link(parent, name, entry.link_name),
            },
            Some(id) => self.make_explicit(id, kind, &entry)?,
        }
        Ok(())
    }

    fn set_root(&mut self, kind: EntryKind, entry: &Entry) -> Result<(), EntryError> {
        if kind != EntryKind::Dir {
            return Err(EntryError::RootNotDirectory);
        }
        if std::mem::replace(&mut self.root_explicit, true) {
            return Err(EntryError::Duplicate);
        }
        self.nodes[NodeId::ROOT.index()] = attributes::node(entry, NodeKind::Directory { opaque: false })?;
        Ok(())
    }

    /// Walks down from the root, making what is missing.
    fn make_directories<'a>(&mut self, path: impl Iterator<Item = &'a [u8]>) -> Result<NodeId, EntryError> {
        let mut at = NodeId::ROOT;
        for component in path {
            at = match self.names.find(at, component).map(|id| self.names.get(id).target) {
                Some(Target::Node(node)) if self.is_directory(node) => node,
                Some(_) => return Err(EntryError::BelowNonDirectory),
                None => {
                    let node = self.push(implied_directory());
                    self.names.add(at, component, Target::Node(node), false);
                    node
                }
            };
        }
        Ok(at)
    }

    pub fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.nodes[node.index()].kind, NodeKind::Directory { .. })
    }

    /// Adds a node that gets its name elsewhere.
    pub fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    fn add_link(&mut self, parent: NodeId, name: &[u8], target: String) {
        let name = self.names.add(parent, name, Target::Link(self.links.len() as u32), true);
        self.links.push(Link { name, target: target.into_bytes().into() });
    }

    fn add_node(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        entry: &Entry,
    ) -> Result<(), EntryError> {
        let file_size = match kind {
            NodeKind::File { size, .. } => Some(size),
            _ => None,
        };
        let node = self.push(attributes::node(entry, kind)?);
        self.names.add(parent, name, Target::Node(node), true);
        if let Some(size) = file_size {
            self.note_ranges(node, size, entry);
            let first_chunk = self.chunks.len() as u32;
            let mut open =
                OpenFile { node, name: String::new(), size, covered: 0, first_chunk, undigested: None };
            if size > 0 {
                self.push_chunk(&mut open, entry)?;
            }
            self.open = Some(open);
        }
        Ok(())
    }

    /// They are a hint: what makes no sense is ignored.
    fn note_ranges(&mut self, node: NodeId, size: u64, entry: &Entry) {
        let Text::Parsed(ranges) = &entry.prefetch_ranges else { return };
        let ranges = ranges.within(size);
        let count = ranges.as_slice().len();
        if count > 0 && count <= self.ranges_left {
            self.ranges_left -= count;
            self.ranges.push((node, ranges));
        }
    }

    /// An entry for a name that exists: fine for a directory that was only implied so far.
    fn make_explicit(&mut self, id: NameId, kind: EntryKind, entry: &Entry) -> Result<(), EntryError> {
        let name = self.names.get_mut(id);
        let Target::Node(node) = name.target else {
            return Err(EntryError::Duplicate);
        };
        if std::mem::replace(&mut name.explicit, true) {
            return Err(EntryError::Duplicate);
        }
        if kind != EntryKind::Dir {
            return Err(EntryError::NotADirectory);
        }
        self.nodes[node.index()] = attributes::node(entry, NodeKind::Directory { opaque: false })?;
        Ok(())
    }

    /// A chunk entry belongs to the file before it; its own name is only a repetition.
    fn add_chunk(&mut self, entry: &Entry) -> Result<(), FormatError> {
        let Some(mut open) = self.open.take() else {
            return Err(FormatError::entry(entry.name.as_bytes(), EntryError::OrphanChunk));
        };
        self.push_chunk(&mut open, entry)
            .map_err(|problem| FormatError::entry(open.name.as_bytes(), problem))?;
        self.open = Some(open);
        Ok(())
    }

    fn push_chunk(&mut self, file: &mut OpenFile, entry: &Entry) -> Result<(), EntryError> {
        let file_offset = attributes::unsigned("chunkOffset", entry.chunk_offset)?;
        if file_offset != file.covered {
            return Err(EntryError::ChunkGap { expected: file.covered, got: file_offset });
        }
        let left = file.size - file.covered;
        // No size means "the rest of the file".
        let size = match attributes::unsigned("chunkSize", entry.chunk_size)? {
            0 => left,
            size => size,
        };
        if size == 0 || size > left {
            return Err(EntryError::ChunkSize {
                offset: file_offset,
                chunk_size: size,
                file_size: file.size,
            });
        }
        match &entry.chunk_type {
            Text::Absent => {
                if !self.push_data(file_offset, size, size == file.size, entry)? {
                    file.undigested.get_or_insert(file_offset);
                }
            }
            Text::Parsed(ChunkType::Zeros) => {}
            Text::Wrong(text) => return Err(EntryError::UnknownChunkType(excerpt(text.as_bytes()))),
        }
        file.covered += size;
        Ok(())
    }

    /// False if the content has no digest.
    fn push_data(
        &mut self,
        file_offset: u64,
        size: u64,
        whole_file: bool,
        entry: &Entry,
    ) -> Result<bool, EntryError> {
        let digest = attributes::chunk_digest(entry, whole_file)?;
        let blob_offset = attributes::unsigned("offset", entry.offset)?;
        let inner_offset = attributes::unsigned("innerOffset", entry.inner_offset)?;
        self.check_place(blob_offset, inner_offset, size)?;
        self.chunks.push(Chunk { file_offset, size, blob_offset, inner_offset, digest });
        Ok(digest.is_some())
    }

    /// Whether a chunk can be where it claims to be.
    fn check_place(&self, offset: u64, inner_offset: u64, size: u64) -> Result<(), EntryError> {
        let payload_end = self.payload_end;
        let Some(compressed) = payload_end.checked_sub(offset).filter(|left| *left > 0) else {
            return Err(EntryError::ChunkOutsidePayload { offset, payload_end });
        };
        match inner_offset.checked_add(size) {
            Some(end) if end <= compressed.saturating_mul(self.expansion_max) => Ok(()),
            _ => Err(EntryError::ChunkTooLarge { offset }),
        }
    }
}

/// A directory that no entry describes.
fn implied_directory() -> Node {
    Node {
        kind: NodeKind::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        nlink: 0,
        xattrs: Vec::new(),
    }
}
