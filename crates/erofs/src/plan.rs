//! Where everything goes: the address of each inode and of each block of the metadata area.
//!
//! The metadata area is three runs of blocks:
//! 1. block 0: superblock and device table;
//! 2. inodes with their xattrs and their inline tails. The entries of a directory lie side by side in the order of
//!    their names, since that is how they are looked at; subdirectories follow, depth first;
//! 3. the blocks of directories and of symlinks that are not (only) inline, in the order of their inodes.

use std::ops::Range;

use crate::directory::fill_block;
use crate::error::Error;
use crate::layout::{BLOCK, BLOCK_SIZE, INODE_SLOT, Inode, MAX_IMAGE_LEN};
use crate::tree::{Complete, Content, Entry, Node, NodeId};

/// Where one inode is and how its content is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Address in units of [`INODE_SLOT`]; 0, which is the superblock's, while the node has no place.
    pub nid: u32,
    /// First block of its content within the third run.
    pub first_block: u32,
    /// Blocks of its content in the third run.
    pub blocks: u32,
    /// Bytes behind the inode and its xattrs that end the content.
    pub inline: u16,
    /// Bytes used in the last of `blocks`, 1 to 4096 if there is one.
    last_used: u16,
}

impl Placement {
    /// Bytes of content in the metadata area: the size of a directory or symlink.
    pub fn size(&self) -> u64 {
        match self.blocks {
            0 => u64::from(self.inline),
            blocks => {
                u64::from(blocks - 1) * u64::from(BLOCK_SIZE)
                    + u64::from(self.last_used)
                    + u64::from(self.inline)
            }
        }
    }
}

/// The addresses of a whole metadata area.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Nodes in the order of their inodes.
    pub order: Vec<NodeId>,
    placements: Vec<Placement>,
    /// `entries[children[i]..children[i + 1]]` are those of node `i`.
    children: Vec<u32>,
    /// Block address of the third run.
    pub first_block: u32,
    /// Blocks of the metadata area.
    pub blocks: u32,
}

impl Plan {
    pub fn new(tree: &Complete) -> Result<Plan, Error> {
        let mut planner = Planner {
            tree,
            plan: Plan {
                order: Vec::with_capacity(tree.nodes.len()),
                placements: vec![Placement::default(); tree.nodes.len()],
                children: child_ranges(tree),
                first_block: 0,
                blocks: 0,
            },
            cursor: u64::from(BLOCK_SIZE),
            content_blocks: 0,
        };
        planner.place_all()?;
        planner.finish()
    }

    pub fn placement(&self, id: NodeId) -> &Placement {
        &self.placements[id.index()]
    }

    /// The positions in the tree's entries of those of a directory; empty for other nodes.
    pub fn children(&self, id: NodeId) -> Range<usize> {
        self.children[id.index()] as usize..self.children[id.index() + 1] as usize
    }
}

/// Turns the sorted entries into the start of each node's share, with one more number for the end of the last.
fn child_ranges(tree: &Complete) -> Vec<u32> {
    let mut starts = Vec::with_capacity(tree.nodes.len() + 1);
    let mut position = 0;
    for id in 0..=tree.nodes.len() {
        while tree.entries.get(position).is_some_and(|entry| entry.parent.index() < id) {
            position += 1;
        }
        // `Tree::complete` saw that entries are counted in 32 bits.
        starts.push(position as u32);
    }
    starts
}

struct Planner<'a> {
    tree: &'a Complete,
    plan: Plan,
    /// End of the second run so far, in bytes from the start of the image.
    cursor: u64,
    /// Blocks in the third run so far.
    content_blocks: u64,
}

impl<'a> Planner<'a> {
    fn place_all(&mut self) -> Result<(), Error> {
        self.place(NodeId::ROOT)?;
        let mut open = vec![NodeId::ROOT];
        while let Some(directory) = open.pop() {
            let already_open = open.len();
            for entry in self.entries_of(directory) {
                // Another link of the node, or one of `.` and `..`, was there first.
                if self.plan.placement(entry.node).nid != 0 {
                    continue;
                }
                self.place(entry.node)?;
                if self.tree.nodes[entry.node.index()].is_directory() {
                    open.push(entry.node);
                }
            }
            open[already_open..].reverse();
        }
        Ok(())
    }

    fn entries_of(&self, directory: NodeId) -> &'a [Entry] {
        &self.tree.entries[self.plan.children(directory)]
    }

    /// Gives a node the next free place.
    fn place(&mut self, id: NodeId) -> Result<(), Error> {
        let node = &self.tree.nodes[id.index()];
        let (full_blocks, tail) = self.measure(id, node);
        let head = size_of::<Inode>() + node.xattrs.len();
        let (start, inline) = find_place(self.cursor, head, tail);
        self.cursor = start + (head + if inline { tail } else { 0 }) as u64;
        let partial = tail > 0 && !inline;
        let blocks = full_blocks + u64::from(partial);
        let too_large = |_| Error::ImageTooLarge { len: u64::MAX };
        self.plan.placements[id.index()] = Placement {
            nid: u32::try_from(start / INODE_SLOT).map_err(too_large)?,
            first_block: u32::try_from(self.content_blocks).map_err(too_large)?,
            blocks: u32::try_from(blocks).map_err(too_large)?,
            // A tail is shorter than a block: 16 bits hold it.
            inline: if inline { tail as u16 } else { 0 },
            last_used: if partial { tail as u16 } else { BLOCK as u16 },
        };
        self.content_blocks += blocks;
        self.plan.order.push(id);
        Ok(())
    }

    /// The content that a node keeps in the metadata area: full blocks, and bytes (fewer than a block) behind them.
    fn measure(&self, id: NodeId, node: &Node) -> (u64, usize) {
        match &node.content {
            Content::Directory => {
                let mut rest = self.entries_of(id);
                let mut blocks = 0;
                loop {
                    let (count, used) = fill_block(rest.iter().map(|entry| self.tree.names.get(entry).len()));
                    rest = &rest[count..];
                    if !rest.is_empty() || used == BLOCK {
                        blocks += 1;
                    }
                    if rest.is_empty() {
                        return (blocks, used % BLOCK);
                    }
                }
            }
            Content::Symlink(target) => (0, target.len()),
            _ => (0, 0),
        }
    }

    fn finish(mut self) -> Result<Plan, Error> {
        let first_block = self.cursor.div_ceil(u64::from(BLOCK_SIZE));
        let blocks = first_block + self.content_blocks;
        let len = blocks.saturating_mul(u64::from(BLOCK_SIZE));
        if len > MAX_IMAGE_LEN {
            return Err(Error::ImageTooLarge { len });
        }
        // Both below `MAX_IMAGE_LEN / BLOCK_SIZE`, which has 32 bits.
        self.plan.first_block = first_block as u32;
        self.plan.blocks = blocks as u32;
        Ok(self.plan)
    }
}

/// The first place from `cursor` on for an inode whose fixed part and xattrs take `head` bytes, and whether `tail`
/// more bytes, which must not cross from one block to another, can follow.
///
/// The fixed part is kept within one block too. The kernel would do without, but pays with a copy.
fn find_place(cursor: u64, head: usize, tail: usize) -> (u64, bool) {
    let block = u64::from(BLOCK_SIZE);
    let next = cursor.next_multiple_of(INODE_SLOT);
    let next =
        if next % block + size_of::<Inode>() as u64 > block { next.next_multiple_of(block) } else { next };
    let fits = |start: u64| (start + head as u64) % block + tail as u64 <= block;
    if tail == 0 {
        return (next, false);
    }
    let next_block = next.next_multiple_of(block);
    match [next, next_block].into_iter().find(|&start| fits(start)) {
        Some(start) => (start, true),
        None => (next, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_and_inline_tails_stay_within_a_block() {
        // (cursor, head, tail) -> (start, inline)
        let rows = [
            ((4096, 64, 0), (4096, false)),
            ((4097, 64, 0), (4128, false)),
            ((8192 - 64, 64, 0), (8192 - 64, false)),
            ((8192 - 32, 64, 0), (8192, false)),
            ((4096, 64, 4032), (4096, true)),
            ((4096, 64, 4033), (4096, false)),
            ((4128, 64, 4032), (8192, true)),
            ((8192 - 64, 64, 1), (8192 - 64, true)),
            ((8192 - 96, 64, 33), (8192, true)),
            // Xattrs may cross; what counts is where the tail starts.
            ((4096, 4096, 4095), (4096, true)),
            ((4096, 4000, 97), (4096, false)),
            ((4192, 4000, 97), (4192, true)),
            ((4096, 5000, 3000), (4096, true)),
            ((4096, 5000, 3193), (4096, false)),
        ];
        for ((cursor, head, tail), expected) in rows {
            assert_eq!(find_place(cursor, head, tail), expected, "({cursor}, {head}, {tail})");
        }
    }
}
