//! Directory blocks: how entries are packed into 4096 bytes.
//!
//! A block holds the fixed-size parts of its entries, then their names without separators. A name ends where the
//! next one starts; the last one ends at the first NUL or at the end of the directory.

use zerocopy::IntoBytes;

use crate::layout::{BLOCK, Dirent};

/// An entry in the form in which it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    pub name: &'a [u8],
    pub nid: u64,
    pub file_type: u8,
}

/// How many entries, of names as long as `lengths` says, go into the next block, and how many of its bytes they use.
pub(crate) fn fill_block(lengths: impl Iterator<Item = usize>) -> (usize, usize) {
    let (mut count, mut used) = (0, 0);
    for len in lengths {
        let needed = size_of::<Dirent>() + len;
        if used + needed > BLOCK {
            break;
        }
        used += needed;
        count += 1;
    }
    (count, used)
}

/// Appends the `count` entries of one block, as [`fill_block`] measured them, to `out`.
pub(crate) fn pack_block<'a>(
    entries: impl Iterator<Item = Packed<'a>> + Clone,
    count: usize,
    out: &mut Vec<u8>,
) {
    let mut name_offset = count * size_of::<Dirent>();
    for Packed { name, nid, file_type } in entries.clone().take(count) {
        // Below 4096, since `fill_block` counted.
        let dirent =
            Dirent { nid: nid.into(), name_offset: (name_offset as u16).into(), file_type, reserved: 0 };
        out.extend(dirent.as_bytes());
        name_offset += name.len();
    }
    for Packed { name, .. } in entries.take(count) {
        out.extend(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_filled_to_its_last_byte() {
        let row = |lengths: &[usize]| fill_block(lengths.iter().copied());
        assert_eq!(row(&[]), (0, 0));
        assert_eq!(row(&[1, 2]), (2, 27));
        assert_eq!(row(&[244; 17]), (16, 4096));
        assert_eq!(row(&[255; 17]), (15, 15 * 267));
    }

    #[test]
    fn names_follow_the_last_entry() {
        let entries = [
            Packed { name: b"ab", nid: 7, file_type: 2 },
            Packed { name: b"c", nid: 0x0102, file_type: 1 },
            Packed { name: b"next block", nid: 9, file_type: 1 },
        ];
        let mut out = Vec::new();
        pack_block(entries.into_iter(), 2, &mut out);
        let mut expected = vec![7, 0, 0, 0, 0, 0, 0, 0, 24, 0, 2, 0];
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0, 26, 0, 1, 0]);
        expected.extend(b"abc");
        assert_eq!(out, expected);
    }
}
