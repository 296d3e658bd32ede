//! Directories: listing and looking up.

use std::cmp::Ordering;

use super::{Image, Inode, ReadError, read_at};
use crate::layout::{BLOCK, Dirent, MAX_NAME_LEN, mode};

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Its name; `.` and `..` are entries too.
    pub name: &'a [u8],
    /// Number of its inode.
    pub nid: u64,
    /// Type of its inode: 1 file, 2 directory, 3 character device, 4 block device, 5 fifo, 6 socket, 7 symlink.
    pub file_type: u8,
    /// Where to go on behind it: a position for [`Image::read_dir`].
    pub next: u64,
}

impl<'a> Image<'a> {
    /// Lists a directory from a position on: 0, or [`DirEntry::next`] of the last entry seen. Entries come in the
    /// order of their names. Behind the first error there is nothing.
    ///
    /// # Errors
    /// Not a directory, or its blocks lie where none can.
    pub fn read_dir(&self, directory: &Inode, position: u64) -> Result<ReadDir<'a>, ReadError> {
        Ok(ReadDir { blocks: Blocks::of(self, directory)?, position })
    }

    /// Number of the inode that a directory has under `name`, `.` and `..` included.
    ///
    /// # Errors
    /// Not a directory, or one that is damaged where the search passes.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<u64>, ReadError> {
        let blocks = Blocks::of(self, directory)?;
        // The last block that does not start behind the name.
        let (mut low, mut high) = (0, blocks.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match blocks.block(middle)?.entry(0)?.name.cmp(name) {
                Ordering::Greater => high = middle,
                Ordering::Less | Ordering::Equal => low = middle + 1,
            }
        }
        match low.checked_sub(1) {
            None => Ok(None),
            Some(index) => blocks.block(index)?.find(name),
        }
    }
}

/// The entries of a directory from a position on.
#[derive(Clone, Debug)]
pub struct ReadDir<'a> {
    blocks: Blocks<'a>,
    /// The number of a block in the upper half, of an entry in it in the lower.
    position: u64,
}

impl<'a> Iterator for ReadDir<'a> {
    type Item = Result<DirEntry<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if !matches!(result, Ok(Some(_))) {
            self.position = u64::MAX;
        }
        result.transpose()
    }
}

impl<'a> ReadDir<'a> {
    fn advance(&mut self) -> Result<Option<DirEntry<'a>>, ReadError> {
        loop {
            let (number, index) = (self.position >> 32, self.position as u32 as usize);
            let Some(number) = usize::try_from(number).ok().filter(|&number| number < self.blocks.count())
            else {
                return Ok(None);
            };
            let block = self.blocks.block(number)?;
            if index < block.count {
                self.position += 1;
                return Ok(Some(DirEntry { next: self.position, ..block.entry(index)? }));
            }
            self.position = (number as u64 + 1) << 32;
        }
    }
}

/// A directory as blocks, the last of which may be short.
#[derive(Clone, Debug)]
struct Blocks<'a> {
    content: &'a [u8],
    /// The last block, if it is inline.
    tail: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn of(image: &Image<'a>, directory: &Inode) -> Result<Blocks<'a>, ReadError> {
        if directory.mode & mode::TYPE_MASK != mode::DIRECTORY {
            return Err(ReadError::NotADirectory);
        }
        let (content, tail) = image.local_content(directory)?;
        Ok(Blocks { content, tail })
    }

    fn count(&self) -> usize {
        self.content.len().div_ceil(BLOCK) + usize::from(!self.tail.is_empty())
    }

    /// Block `index`, which is below `count`.
    fn block(&self, index: usize) -> Result<Block<'a>, ReadError> {
        Block::open(self.content.chunks(BLOCK).nth(index).unwrap_or(self.tail))
    }
}

/// One block of a directory.
#[derive(Clone, Copy, Debug)]
struct Block<'a> {
    bytes: &'a [u8],
    /// At least 1, and the entries lie within `bytes`.
    count: usize,
}

impl<'a> Block<'a> {
    fn open(bytes: &'a [u8]) -> Result<Block<'a>, ReadError> {
        let first: Dirent =
            read_at(bytes, 0).ok_or(ReadError::Damaged("a directory block without entries"))?;
        let names = usize::from(first.name_offset.get());
        if names == 0 || !names.is_multiple_of(size_of::<Dirent>()) || names > bytes.len() {
            return Err(ReadError::Damaged("a directory block with an impossible number of entries"));
        }
        Ok(Block { bytes, count: names / size_of::<Dirent>() })
    }

    fn dirent(&self, index: usize) -> Result<Dirent, ReadError> {
        read_at(self.bytes, index * size_of::<Dirent>())
            .ok_or(ReadError::Damaged("a directory entry outside of its block"))
    }

    /// Entry `index`, which is below `count`; `next` is left open.
    fn entry(&self, index: usize) -> Result<DirEntry<'a>, ReadError> {
        let dirent = self.dirent(index)?;
        let start = usize::from(dirent.name_offset.get());
        let name = if index + 1 < self.count {
            let end = usize::from(self.dirent(index + 1)?.name_offset.get());
            self.bytes.get(start..end)
        } else {
            let rest = self.bytes.get(start..);
            rest.and_then(|rest| rest.split(|byte| *byte == 0).next())
        };
        let name = name.ok_or(ReadError::Damaged("an entry name outside of its directory block"))?;
        if name.is_empty() || name.len() > MAX_NAME_LEN || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(ReadError::Damaged("an entry name that is none"));
        }
        Ok(DirEntry { name, nid: dirent.nid.get(), file_type: dirent.file_type, next: 0 })
    }

    fn find(&self, name: &[u8]) -> Result<Option<u64>, ReadError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            match entry.name.cmp(name) {
                Ordering::Equal => return Ok(Some(entry.nid)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}
