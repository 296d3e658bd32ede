//! From a tree to the bytes of a metadata area.

use std::io::{self, Write};

use zerocopy::{FromZeros, IntoBytes};

use crate::directory::{Packed, fill_block, pack_block};
use crate::error::Error;
use crate::layout::{
    self, BLOCK, BLOCK_SIZE, INODE_SLOT, Inode, MAX_IMAGE_LEN, XATTR_ALIGN, XattrBodyHeader,
};
use crate::output::Output;
use crate::plan::{Placement, Plan};
use crate::tree::{Attributes, Complete, Content, Node, NodeId, Tree};

/// What an image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Identity of the volume, as `blkid` shows it. The same tree with the same options gives the same bytes, so
    /// derive it from what the image is made of.
    pub uuid: [u8; 16],
    /// Seconds since the epoch. Nothing depends on it: every inode has a timestamp of its own.
    pub build_time: u64,
    /// Label of the volume: up to 15 bytes, none of them NUL.
    pub volume_name: Option<Vec<u8>>,
}

/// The two areas of an image, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Length of the metadata area, that is of what [`ImageWriter::write`] wrote: a multiple of [`BLOCK_SIZE`].
    pub metadata_len: u64,
    /// Where the data area starts in the image: right behind the metadata area.
    pub data_start: u64,
    /// Length of the data area: what was asked for, rounded up to blocks.
    pub data_len: u64,
    /// Inodes in the image.
    pub inodes: u64,
}

/// Collects a tree and writes the metadata area of its image.
///
/// Siblings may be added in any order: the image does not depend on it.
#[derive(Debug)]
pub struct ImageWriter {
    options: Options,
    tree: Tree,
}

impl ImageWriter {
    /// A tree of one empty root directory, mode 0755 and owned by root, with the epoch as its mtime.
    pub fn new(options: Options) -> ImageWriter {
        ImageWriter { options, tree: Tree::new() }
    }

    /// The root directory.
    pub fn root(&self) -> NodeId {
        NodeId::ROOT
    }

    /// Replaces the attributes of the root directory.
    ///
    /// # Errors
    /// What is wrong with them; those of before stay.
    pub fn set_root(&mut self, attributes: Attributes) -> Result<(), Error> {
        self.tree.set_root(attributes)
    }

    /// Adds a node as `name` to the directory `parent`.
    ///
    /// # Errors
    /// What is wrong with the arguments; the tree stays as it was.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId, Error> {
        self.tree.add(parent, name, attributes, content)
    }

    /// Adds a hard link: `target`, which is not a directory, is also `name` in the directory `parent`.
    ///
    /// # Errors
    /// What is wrong with the arguments; the tree stays as it was.
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        self.tree.link(parent, name, target)
    }

    /// Writes the metadata area of an image whose data area has `data_len` bytes, rounded up to blocks. The sink
    /// gets [`Layout::metadata_len`] bytes, front to back, and a flush. It need not be buffered.
    ///
    /// # Errors
    /// - [`Error::DataOutsideArea`]: a file ends behind `data_len`;
    /// - [`Error::ImageTooLarge`]: both areas together pass [`MAX_IMAGE_LEN`];
    /// - [`Error::InvalidVolumeName`]: the options are wrong;
    /// - [`Error::Write`]: the sink failed, and what it holds is no image.
    pub fn write<W: Write>(self, data_len: u64, out: W) -> Result<Layout, Error> {
        let volume_name = volume_name(&self.options)?;
        let block = u64::from(BLOCK_SIZE);
        let data_len =
            data_len.checked_next_multiple_of(block).ok_or(Error::ImageTooLarge { len: u64::MAX })?;
        let tree = self.tree.complete()?;
        if tree.data_end > data_len {
            return Err(Error::DataOutsideArea { needed: tree.data_end, data_len });
        }
        let plan = Plan::new(&tree)?;
        let metadata_len = u64::from(plan.blocks) * block;
        let len = metadata_len.saturating_add(data_len);
        if len > MAX_IMAGE_LEN {
            return Err(Error::ImageTooLarge { len });
        }
        let layout =
            Layout { metadata_len, data_start: metadata_len, data_len, inodes: plan.order.len() as u64 };
        let image = Image { options: &self.options, volume_name, tree: &tree, plan: &plan, layout };
        image.write(&mut Output::new(out))?;
        Ok(layout)
    }
}

fn volume_name(options: &Options) -> Result<[u8; 16], Error> {
    let mut field = [0; 16];
    let name = options.volume_name.as_deref().unwrap_or_default();
    if name.len() >= field.len() || name.contains(&0) {
        return Err(Error::InvalidVolumeName { name: name.to_vec() });
    }
    field[..name.len()].copy_from_slice(name);
    Ok(field)
}

/// Everything decided, ready to be written.
struct Image<'a> {
    options: &'a Options,
    volume_name: [u8; 16],
    tree: &'a Complete,
    plan: &'a Plan,
    layout: Layout,
}

impl Image<'_> {
    fn write<W: Write>(&self, out: &mut Output<W>) -> io::Result<()> {
        out.put(&self.first_block())?;
        let mut content = Vec::new();
        for (&id, number) in self.plan.order.iter().zip(1u32..) {
            self.write_inode(id, number, &mut content, out)?;
        }
        out.pad_to(u64::from(self.plan.first_block) * u64::from(BLOCK_SIZE))?;
        for &id in &self.plan.order {
            if self.plan.placement(id).blocks > 0 {
                self.write_blocks(id, &mut content, out)?;
            }
        }
        out.flush()
    }

    fn first_block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut superblock = layout::Superblock::new_zeroed();
        superblock.magic = layout::SUPERBLOCK_MAGIC.into();
        superblock.feature_compat = (layout::COMPAT_CHECKSUM | layout::COMPAT_MTIME).into();
        superblock.block_bits = layout::BLOCK_BITS;
        // The root comes first, in the slot behind block 0.
        superblock.root_nid = (BLOCK as u16 / INODE_SLOT as u16).into();
        superblock.inodes = self.layout.inodes.into();
        superblock.build_time = self.options.build_time.into();
        superblock.blocks = self.plan.blocks.into();
        superblock.uuid = self.options.uuid;
        superblock.volume_name = self.volume_name;
        if self.layout.data_len > 0 {
            superblock.feature_incompat = layout::INCOMPAT_DEVICE_TABLE.into();
            superblock.extra_devices = 1.into();
            superblock.device_table_slot =
                ((layout::DEVICE_TABLE_OFFSET / size_of::<layout::DeviceSlot>()) as u16).into();
            let slot = layout::DeviceSlot {
                tag: [0; 64],
                // At most `MAX_IMAGE_LEN / BLOCK_SIZE`, which has 32 bits.
                blocks: ((self.layout.data_len / u64::from(BLOCK_SIZE)) as u32).into(),
                mapped_block: self.plan.blocks.into(),
                reserved: [0; 56],
            };
            put_at(&mut block, layout::DEVICE_TABLE_OFFSET, slot.as_bytes());
        }
        put_at(&mut block, layout::SUPERBLOCK_OFFSET, superblock.as_bytes());
        superblock.checksum = layout::superblock_checksum(&block).into();
        put_at(&mut block, layout::SUPERBLOCK_OFFSET, superblock.as_bytes());
        block
    }

    /// Writes an inode, its xattrs and its inline tail. `content` is scratch space.
    fn write_inode<W: Write>(
        &self,
        id: NodeId,
        number: u32,
        content: &mut Vec<u8>,
        out: &mut Output<W>,
    ) -> io::Result<()> {
        let node = &self.tree.nodes[id.index()];
        let placement = self.plan.placement(id);
        out.pad_to(u64::from(placement.nid) * INODE_SLOT)?;
        out.put(self.inode(node, placement, number).as_bytes())?;
        out.put(&node.xattrs)?;
        if placement.inline > 0 {
            content.clear();
            self.collect_content(id, content);
            out.put(&content[content.len() - usize::from(placement.inline)..])?;
        }
        Ok(())
    }

    fn write_blocks<W: Write>(
        &self,
        id: NodeId,
        content: &mut Vec<u8>,
        out: &mut Output<W>,
    ) -> io::Result<()> {
        let placement = self.plan.placement(id);
        content.clear();
        self.collect_content(id, content);
        content.truncate(content.len() - usize::from(placement.inline));
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        debug_assert_eq!(content.len(), placement.blocks as usize * BLOCK);
        out.put(content)
    }

    fn inode(&self, node: &Node, placement: &Placement, number: u32) -> Inode {
        let (size, target) = match node.content {
            Content::Directory | Content::Symlink(_) => {
                let first =
                    if placement.blocks > 0 { self.plan.first_block + placement.first_block } else { 0 };
                (placement.size(), first)
            }
            Content::File { size: 0, .. } | Content::Fifo | Content::Socket => (0, 0),
            // Within `MAX_IMAGE_LEN`, since the data area is.
            Content::File { size, data_offset } => {
                (size, ((self.layout.data_start + data_offset) / u64::from(BLOCK_SIZE)) as u32)
            }
            Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
                (0, layout::device::encode(major, minor))
            }
        };
        Inode {
            format: if placement.inline > 0 { layout::FORMAT_INLINE } else { layout::FORMAT_PLAIN }.into(),
            xattr_count: xattr_count(&node.xattrs).into(),
            mode: node.mode().into(),
            reserved: 0.into(),
            size: size.into(),
            target: target.into(),
            number: number.into(),
            uid: node.uid.into(),
            gid: node.gid.into(),
            mtime: node.mtime.cast_unsigned().into(),
            mtime_nanos: node.mtime_nanos.into(),
            links: node.links.into(),
            reserved2: [0; 16],
        }
    }

    /// Appends the content that the node keeps in the metadata area: all blocks of a directory, each but the last
    /// one padded, or the target of a symlink.
    fn collect_content(&self, id: NodeId, content: &mut Vec<u8>) {
        let node = &self.tree.nodes[id.index()];
        if let Content::Symlink(target) = &node.content {
            content.extend(target);
            return;
        }
        let mut rest = &self.tree.entries[self.plan.children(id)];
        while !rest.is_empty() {
            content.resize(content.len().next_multiple_of(BLOCK), 0);
            let packed = rest.iter().map(|entry| Packed {
                name: self.tree.names.get(entry),
                nid: self.plan.placement(entry.node).nid.into(),
                file_type: layout::file_type(self.tree.nodes[entry.node.index()].mode()),
            });
            let (count, _) = fill_block(packed.clone().map(|entry| entry.name.len()));
            pack_block(packed, count, content);
            rest = &rest[count..];
        }
    }
}

fn put_at(block: &mut [u8; BLOCK], offset: usize, bytes: &[u8]) {
    block[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The inode's measure of an xattr body.
fn xattr_count(body: &[u8]) -> u16 {
    match body.len() {
        0 => 0,
        // At most `u16::MAX`, since encoding stops at `MAX_XATTR_BODY_LEN`.
        len => ((len - size_of::<XattrBodyHeader>()) / XATTR_ALIGN + 1) as u16,
    }
}

#[cfg(test)]
mod tests;
