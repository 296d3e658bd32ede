//! From the names that the TOC gives to the tree that a container sees: hard links are resolved, whiteouts and
//! landmarks understood, everything that has no place in the tree dropped, links counted.

use super::build::Builder;
use super::names::{NameId, Names, RelativePath, Target};
use super::{Chunk, Dirent, Landmark, Node, NodeId, NodeKind, Toc, UnverifiedToc};
use crate::digest::Digest;
use crate::error::{EntryError, FormatError, excerpt};

const PREFETCH_LANDMARK: &[u8] = b".prefetch.landmark";
const NO_PREFETCH_LANDMARK: &[u8] = b".no.prefetch.landmark";
const TOC_FILE: &[u8] = b"stargz.index.json";
/// `.wh.NAME` removes NAME (OCI image specification, layer.md, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Private names of AUFS, which the whole scheme comes from.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

impl Builder {
    /// The tree, when all entries were added.
    pub fn finish(
        mut self,
        digest: Digest,
        compressed_digest: Option<Digest>,
    ) -> Result<UnverifiedToc, FormatError> {
        self.close_file()?;
        self.resolve_links()?;
        let landmark = self.landmark()?;
        let mut dirents = self.visible_names()?;
        let Builder { names, mut nodes, mut chunks, mut ranges, undigested, .. } = self;
        let names = names.into_bytes();
        dirents.sort_unstable_by(|a, b| (a.parent, a.name(&names)).cmp(&(b.parent, b.name(&names))));
        count_links(&mut nodes, &dirents);
        let numbers = drop_unreachable(&mut nodes, &mut chunks, &mut dirents);
        ranges.retain_mut(|(node, _)| numbers[node.index()].inspect(|number| *node = *number).is_some());
        let trusted_because = None;
        let toc = Toc {
            digest,
            compressed_digest,
            trusted_because,
            nodes,
            chunks,
            dirents,
            names,
            landmark,
            ranges,
        };
        Ok(UnverifiedToc { toc, undigested })
    }

    /// Points the names of hard links at the nodes that their targets finally are.
    fn resolve_links(&mut self) -> Result<(), FormatError> {
        // The links that lead to the one at hand. Links are left behind resolved, so each is walked once.
        let mut trail: Vec<u32> = Vec::new();
        let mut on_trail = vec![false; self.links.len()];
        for link in 0..self.links.len() as u32 {
            let mut at = self.names.get(self.links[link as usize].name).target;
            let node = loop {
                match at {
                    Target::Node(node) => break node,
                    Target::Link(next) => {
                        if std::mem::replace(&mut on_trail[next as usize], true) {
                            return Err(self.link_error(next, EntryError::LinkCycle));
                        }
                        trail.push(next);
                        at = self.link_target(next)?;
                    }
                }
            };
            for passed in trail.drain(..) {
                let name = self.links[passed as usize].name;
                self.names.get_mut(name).target = Target::Node(node);
            }
        }
        Ok(())
    }

    fn link_target(&self, link: u32) -> Result<Target, FormatError> {
        let target = &self.links[link as usize].target;
        let path = RelativePath::new(target, self.rooted).map_err(|problem| {
            self.link_error(link, |target| EntryError::BadLinkTarget { target, problem: Box::new(problem) })
        })?;
        match self.names.lookup(path) {
            None => Err(self.link_error(link, EntryError::LinkTargetMissing)),
            Some(Target::Node(node)) if self.is_directory(node) => {
                Err(self.link_error(link, EntryError::LinkToDirectory))
            }
            Some(target) => Ok(target),
        }
    }

    fn link_error(&self, link: u32, problem: impl FnOnce(String) -> EntryError) -> FormatError {
        let link = &self.links[link as usize];
        FormatError::entry(&self.names.path(link.name), problem(excerpt(&link.target)))
    }

    fn landmark(&self) -> Result<Landmark, FormatError> {
        if self.names.find(NodeId::ROOT, NO_PREFETCH_LANDMARK).is_some() {
            return Ok(Landmark::NoPrefetch);
        }
        let Some(id) = self.names.find(NodeId::ROOT, PREFETCH_LANDMARK) else {
            return Ok(Landmark::None);
        };
        match &self.nodes[node_of(&self.names, id).index()].kind {
            NodeKind::File { chunks, .. } if !chunks.is_empty() => {
                Ok(Landmark::Prefetch { end: self.chunks[chunks.start as usize].blob_offset })
            }
            _ => Err(FormatError::entry(PREFETCH_LANDMARK, EntryError::BadLandmark)),
        }
    }

    /// The names as a container sees them.
    fn visible_names(&mut self) -> Result<Vec<Dirent>, FormatError> {
        let mut dirents = Vec::with_capacity(self.names.len());
        for id in self.names.ids() {
            let name = *self.names.get(id);
            let node = node_of(&self.names, id);
            match classify(name.parent, self.names.bytes(id)) {
                Role::Hidden => {}
                Role::Plain => dirents.push(Dirent {
                    parent: name.parent,
                    node,
                    name_start: name.start,
                    name_len: name.len,
                }),
                Role::Opaque => {
                    self.nodes[name.parent.index()].kind = NodeKind::Directory { opaque: true };
                }
                Role::Whiteout(removed) => {
                    if matches!(removed, b"" | b"." | b"..") {
                        return Err(FormatError::entry(&self.names.path(id), EntryError::BadWhiteout));
                    }
                    // A file that this layer has anyway replaces what is below.
                    if self.names.find(name.parent, removed).is_some() {
                        continue;
                    }
                    let whiteout = self.whiteout(node);
                    let cut = WHITEOUT_PREFIX.len() as u8;
                    dirents.push(Dirent {
                        parent: name.parent,
                        node: whiteout,
                        name_start: name.start + u32::from(cut),
                        name_len: name.len - cut,
                    });
                }
            }
        }
        Ok(dirents)
    }

    /// A whiteout as old as the entry that asks for it.
    fn whiteout(&mut self, marker: NodeId) -> NodeId {
        let mtime = self.nodes[marker.index()].mtime;
        let kind = NodeKind::Whiteout;
        self.push(Node { kind, mode: 0, uid: 0, gid: 0, mtime, nlink: 0, xattrs: Vec::new() })
    }
}

/// The node of a name, once hard links are resolved.
fn node_of(names: &Names, id: NameId) -> NodeId {
    match names.get(id).target {
        Target::Node(node) => node,
        Target::Link(_) => unreachable!("all hard links were resolved"),
    }
}

/// What a name in a layer means.
enum Role<'a> {
    Plain,
    /// Of no concern to containers, and everything below it.
    Hidden,
    /// Makes its directory opaque.
    Opaque,
    /// Removes this name from the layers below.
    Whiteout(&'a [u8]),
}

fn classify(parent: NodeId, name: &[u8]) -> Role<'_> {
    if parent == NodeId::ROOT && matches!(name, PREFETCH_LANDMARK | NO_PREFETCH_LANDMARK | TOC_FILE) {
        return Role::Hidden;
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        None => Role::Plain,
        Some(_) if name == OPAQUE_MARKER => Role::Opaque,
        Some(_) if name.starts_with(AUFS_PREFIX) => Role::Hidden,
        Some(removed) => Role::Whiteout(removed),
    }
}

/// Sets the link count of every node that the root leads to; it stays 0 for the others.
///
/// One pass does it, because names are sorted by directory and a directory has a greater number than its parent.
fn count_links(nodes: &mut [Node], dirents: &[Dirent]) {
    nodes[NodeId::ROOT.index()].nlink = 2;
    for dirent in dirents {
        if nodes[dirent.parent.index()].nlink == 0 {
            continue;
        }
        let node = &mut nodes[dirent.node.index()];
        if matches!(node.kind, NodeKind::Directory { .. }) {
            // Its name and its own `.`; in its parent, its `..`.
            node.nlink += 2;
            nodes[dirent.parent.index()].nlink += 1;
        } else {
            node.nlink += 1;
        }
    }
}

/// Removes the nodes without links, with their names and chunks, and numbers what is left anew in the same order: what was
/// node `n` is what the `n`th of the result says.
fn drop_unreachable(
    nodes: &mut Vec<Node>,
    chunks: &mut Vec<Chunk>,
    dirents: &mut Vec<Dirent>,
) -> Vec<Option<NodeId>> {
    let mut next = 0;
    let numbers: Vec<Option<NodeId>> = nodes
        .iter()
        .map(|node| {
            let number = (node.nlink > 0).then_some(NodeId(next));
            next += u32::from(number.is_some());
            number
        })
        .collect();
    nodes.retain(|node| node.nlink > 0);
    dirents.retain_mut(|dirent| match (numbers[dirent.parent.index()], numbers[dirent.node.index()]) {
        (Some(parent), Some(node)) => {
            (dirent.parent, dirent.node) = (parent, node);
            true
        }
        _ => false,
    });
    move_chunks(nodes, chunks);
    numbers
}

/// Closes the gaps that dropped files left between the chunks of the others.
fn move_chunks(nodes: &mut [Node], chunks: &mut Vec<Chunk>) {
    let mut end = 0;
    for node in nodes {
        if let NodeKind::File { chunks: range, .. } = &mut node.kind {
            let start = end;
            for from in range.clone() {
                // Files have their chunks in their own order, so nothing that is still needed lies at `end`.
                chunks.swap(end as usize, from as usize);
                end += 1;
            }
            *range = start..end;
        }
    }
    chunks.truncate(end as usize);
}
