//! From a verified TOC to the files of a layer: the EROFS metadata, the place of every content, the tables.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use erofs::{Attributes, Content, ImageWriter};
use format::digest::{Algorithm, Hasher};
use format::{Digest, Landmark, Node, NodeKind, Toc};

use crate::error::{Error, Kind};
use crate::image::{
    Chunk, Compression, IMAGE_FILE, ImageFiles, META_VERSION, Meta, NO_DIR, SpanEntry, TablesBuilder,
};

mod kin;
mod ranges;

const BLOCK: u64 = erofs::BLOCK_SIZE as u64;

/// The longest data area, bytes: what block numbers of 32 bits can name, less some room for metadata.
const DATA_MAX: u64 = (1 << 44) - (1 << 40);

/// What is known of a layer when its image is built.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub digest: Digest,
    pub blob_size: u64,
    /// Where the compressed contents end and the TOC begins in the blob.
    pub payload_end: u64,
    pub compression: Compression,
    pub toc: &'a Toc,
}

impl Plan<'_> {
    /// Writes all files of the layer into `dir`, which is empty. The same TOC gives the same bytes.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let placed = place(self.toc, self.payload_end)?;
        let path = dir.join(IMAGE_FILE);
        let io = |error| Error::disk(format!("write {}", path.display()), error);
        let image = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(io)?;
        let mut out = BufWriter::with_capacity(256 << 10, &image);
        let layout = tree(self.toc, &placed, uuid(&self.toc.digest()))?
            .write(placed.tables.data_len, &mut out)
            .map_err(|error| of_erofs(error, &path))?;
        out.flush().map_err(io)?;
        drop(out);
        image.set_len(layout.data_start + layout.data_len).map_err(io)?;
        let meta = Meta {
            version: META_VERSION,
            digest: self.digest,
            toc_digest: self.toc.digest(),
            compressed_toc_digest: self.toc.compressed_digest(),
            blob_size: self.blob_size,
            compression: self.compression,
            undigested: self.toc.chunks().iter().any(|chunk| chunk.digest.is_none()),
            data_start: layout.data_start,
            data_len: layout.data_len,
            prefetch_end: match self.toc.landmark() {
                Landmark::Prefetch { end } => Some(end),
                Landmark::NoPrefetch => Some(0),
                Landmark::None => None,
            },
            prefetch_spans: ranges::wanted(self.toc, &placed.tables, &placed.offsets),
        };
        ImageFiles::write_beside(dir, &image, &placed.tables, &meta)
    }
}

fn of_erofs(error: erofs::Error, path: &Path) -> Error {
    match error {
        erofs::Error::Write(error) => Error::disk(format!("write {}", path.display()), error),
        other => Error::with_source(Kind::Format, "lay out image", other),
    }
}

/// The volume id is a function of the TOC, as everything in the image.
fn uuid(toc_digest: &Digest) -> [u8; 16] {
    toc_digest.raw().first_chunk().copied().unwrap_or_default()
}

/// Where each content lies.
struct Placed {
    tables: TablesBuilder,
    /// Data offset of each file node, by node number.
    offsets: HashMap<usize, u64>,
}

/// Gives every distinct content a block-aligned extent, in the order of the blob: what is adjacent there is adjacent
/// here, so that the kernel's read-ahead and ours mean the same bytes.
fn place(toc: &Toc, payload_end: u64) -> Result<Placed, Error> {
    let chunks = toc.chunks();
    let spans = format::spans(chunks, payload_end);
    let mut files: Vec<(usize, u64, &[format::Chunk])> = Vec::new();
    for (number, node) in toc.nodes().iter().enumerate() {
        if let NodeKind::File { chunks: range, size } = &node.kind {
            let list = chunks
                .get(range.start as usize..range.end as usize)
                .ok_or_else(|| Error::new(Kind::Format, "a file names chunks that the TOC has not"))?;
            if *size > 0 {
                files.push((number, *size, list));
            }
        }
    }
    // What is one hole lies behind everything that is in the blob.
    files.sort_by_key(|(number, _, list)| {
        let first = list.first();
        (first.map_or(u64::MAX, |chunk| chunk.blob_offset), first.map(|chunk| chunk.inner_offset), *number)
    });

    let mut tables = TablesBuilder {
        chunks: Vec::with_capacity(chunks.len()),
        spans: spans
            .iter()
            .map(|span| SpanEntry { blob: span.blob.clone(), class: 0, dir: NO_DIR })
            .collect(),
        dirs: Vec::new(),
        data_len: 0,
    };
    let kin = kin::Kin::of(toc);
    let mut offsets = HashMap::with_capacity(files.len());
    let mut known: HashMap<[u8; 32], u64> = HashMap::with_capacity(files.len());
    for (number, size, list) in files {
        let data = match known.entry(content_key(size, list)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let data = tables.data_len;
                let end = data.checked_add(size).filter(|end| *end <= DATA_MAX);
                let end = end.ok_or_else(|| {
                    Error::new(Kind::Format, format!("its files have more than {DATA_MAX} bytes together"))
                })?;
                tables.chunks.extend(list.iter().map(|chunk| Chunk {
                    data: data + chunk.file_offset,
                    size: chunk.size,
                    span: span_of(&tables.spans, chunk.blob_offset),
                    inner_offset: chunk.inner_offset,
                    digest: chunk.digest,
                }));
                tables.data_len = end.next_multiple_of(BLOCK);
                *unknown.insert(data)
            }
        };
        offsets.insert(number, data);
        // Where several files share a span, its first one speaks for it.
        for chunk in list {
            let span = span_of(&tables.spans, chunk.blob_offset) as usize;
            if let Some(entry) = tables.spans.get_mut(span).filter(|entry| entry.dir == NO_DIR)
                && let Some(place) = kin.place(number)
            {
                (entry.class, entry.dir) = place;
            }
        }
    }
    tables.dirs = kin.dirs;
    Ok(Placed { tables, offsets })
}

fn span_of(spans: &[SpanEntry], blob_offset: u64) -> u32 {
    spans.partition_point(|span| span.blob.start <= blob_offset).saturating_sub(1) as u32
}

/// Two files with the same chunks at the same places have the same bytes, wherever they lie in the blob.
fn content_key(size: u64, list: &[format::Chunk]) -> [u8; 32] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&size.to_le_bytes());
    for chunk in list {
        hasher.update(&chunk.file_offset.to_le_bytes());
        hasher.update(&chunk.size.to_le_bytes());
        match chunk.digest {
            Some(digest) => hasher.update(&digest),
            // Nobody knows what it is, so it is like no other place of the blob.
            None => {
                hasher.update(&chunk.blob_offset.to_le_bytes());
                hasher.update(&chunk.inner_offset.to_le_bytes());
            }
        }
    }
    hasher.finish().sha256().unwrap_or_default()
}

fn tree(toc: &Toc, placed: &Placed, uuid: [u8; 16]) -> Result<ImageWriter, Error> {
    let wrong = |error: erofs::Error| Error::with_source(Kind::Format, "lay out image", error);
    let mut writer = ImageWriter::new(erofs::Options { uuid, ..erofs::Options::default() });
    let nodes = toc.nodes();
    let root = nodes.first().ok_or_else(|| Error::new(Kind::Format, "the TOC has no root"))?;
    writer.set_root(attributes(root)).map_err(wrong)?;
    // A node with several names is added under the first and linked under the others.
    let mut added: Vec<Option<erofs::NodeId>> = vec![None; nodes.len()];
    let mut directories = vec![(format::NodeId::ROOT, writer.root())];
    while let Some((directory, parent)) = directories.pop() {
        for (name, child) in toc.children(directory) {
            let number = child.index();
            let (Some(node), Some(slot)) = (nodes.get(number), added.get_mut(number)) else {
                return Err(Error::new(Kind::Format, "a directory names a node that the TOC has not"));
            };
            if let Some(first) = *slot {
                writer.link(parent, name, first).map_err(wrong)?;
                continue;
            }
            let data = placed.offsets.get(&number).copied().unwrap_or(0);
            let id = writer.add(parent, name, attributes(node), content(node, data)).map_err(wrong)?;
            *slot = Some(id);
            if matches!(node.kind, NodeKind::Directory { .. }) {
                directories.push((child, id));
            }
        }
    }
    Ok(writer)
}

fn attributes(node: &Node) -> Attributes {
    // What has no form on Linux (com.apple.*, say) could not be set by `tar -x` either.
    let mut xattrs = node.xattrs.clone();
    xattrs.retain(|(name, value)| erofs::check_xattr(name, value).is_ok());
    if let NodeKind::Directory { opaque: true } = node.kind {
        // How overlayfs knows that the directories of the layers below do not show through.
        xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    }
    Attributes {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: node.mtime.secs,
        mtime_nanos: node.mtime.nanos,
        xattrs,
    }
}

fn content(node: &Node, data_offset: u64) -> Content {
    match &node.kind {
        NodeKind::Directory { .. } => Content::Directory,
        NodeKind::File { size, .. } => Content::File { size: *size, data_offset },
        NodeKind::Symlink { target } => Content::Symlink(target.clone()),
        NodeKind::CharDevice { major, minor } => Content::CharDevice { major: *major, minor: *minor },
        NodeKind::BlockDevice { major, minor } => Content::BlockDevice { major: *major, minor: *minor },
        NodeKind::Fifo => Content::Fifo,
        // A whiteout of overlayfs is a character device 0:0.
        NodeKind::Whiteout => Content::CharDevice { major: 0, minor: 0 },
    }
}
