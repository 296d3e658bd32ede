//! Directory entries in the form of READDIR and READDIRPLUS answers.

use zerocopy::IntoBytes;

use crate::wire::{Dirent, EntryOut};

/// File types of entries, the `DT_*` numbers of `readdir(3)`.
pub(crate) mod kind {
    pub(crate) const UNKNOWN: u32 = 0;
    pub(crate) const FIFO: u32 = 1;
    pub(crate) const CHAR_DEVICE: u32 = 2;
    pub(crate) const DIRECTORY: u32 = 4;
    pub(crate) const BLOCK_DEVICE: u32 = 6;
    pub(crate) const REGULAR: u32 = 8;
    pub(crate) const SYMLINK: u32 = 10;
    pub(crate) const SOCKET: u32 = 12;
}

/// Which of the two operations is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    /// Each entry has its attributes before it, as LOOKUP would give them.
    Plus,
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) ino: u64,
    /// Position of the entry behind it.
    pub(crate) next: u64,
    pub(crate) kind: u32,
    pub(crate) name: &'a [u8],
}

/// Fills a buffer with entries.
#[derive(Debug)]
pub(crate) struct Dirents<'b> {
    buf: &'b mut [u8],
    used: usize,
    form: Form,
}

impl<'b> Dirents<'b> {
    pub(crate) fn new(buf: &'b mut [u8], form: Form) -> Self {
        Self { buf, used: 0, form }
    }

    /// Adds an entry and says whether there was room for it. `attributes` is asked if the form has them and the entry
    /// fits; node 0 means that they are not given.
    pub(crate) fn push(&mut self, entry: Listed<'_>, attributes: impl FnOnce() -> EntryOut) -> bool {
        let Listed { ino, next, kind, name } = entry;
        let head = Dirent { ino, offset: next, namelen: name.len() as u32, kind };
        let before = match self.form {
            Form::Plain => 0,
            Form::Plus => size_of::<EntryOut>(),
        };
        let len = (before + size_of::<Dirent>() + name.len()).next_multiple_of(8);
        let Some(slot) = self.buf.get_mut(self.used..).and_then(|rest| rest.get_mut(..len)) else {
            return false;
        };
        let (before, slot) = slot.split_at_mut(before);
        if !before.is_empty() {
            before.copy_from_slice(attributes().as_bytes());
        }
        let (head_slot, name_slot) = slot.split_at_mut(size_of::<Dirent>());
        head_slot.copy_from_slice(head.as_bytes());
        let (name_slot, padding) = name_slot.split_at_mut(name.len());
        name_slot.copy_from_slice(name);
        padding.fill(0);
        self.used += len;
        true
    }

    /// Bytes filled.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}
