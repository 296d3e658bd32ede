//! A layer of very many small files.

use bytes::Bytes;
use format::Digest;

use super::SyntheticLayer;
use super::members::{Form, Layout, crc, gzip, tail};
use crate::content::Content;
use crate::tarball::{Member, Type, header_of_size, padding};

/// A layer of small files, a thousand in a directory, each with another content.
#[derive(Clone, Copy, Debug)]
pub struct ManyFiles {
    count: u64,
    size: u64,
}

/// Files in a directory.
const IN_A_DIRECTORY: u64 = 1000;

impl ManyFiles {
    /// `count` files of `size` bytes each.
    ///
    /// # Panics
    /// When there are none or more than ten million of them, or `size` is not in 1..=32768.
    pub fn new(count: u64, size: u64) -> ManyFiles {
        assert!((1..=10_000_000).contains(&count), "{count} files");
        assert!((1..=32 << 10).contains(&size), "{size} bytes");
        ManyFiles { count, size }
    }

    /// How many files there are, without directories.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many directories there are, without the root.
    pub fn directories(&self) -> u64 {
        self.count.div_ceil(IN_A_DIRECTORY)
    }

    /// The path of a file, by its number from 0 on.
    pub fn path(&self, number: u64) -> String {
        format!("d{:04}/f{number:07}", number / IN_A_DIRECTORY)
    }

    /// The content of a file: its number in every eight bytes.
    pub fn content(&self, number: u64) -> Bytes {
        number.to_le_bytes().into_iter().cycle().take(self.size as usize).collect()
    }

    /// The header of a file, or nothing behind the last.
    fn header(&self, number: u64) -> Vec<u8> {
        if number == self.count {
            return Vec::new();
        }
        header_of_size(&Member { mode: 0o644, ..Member::new(Type::File, self.path(number)) }, self.size)
    }

    /// The content of a member: a file, its padding, and the header of the next.
    fn member(&self, number: u64) -> Vec<u8> {
        [&self.content(number)[..], padding(self.size as usize), &self.header(number + 1)].concat()
    }

    /// The TOC, given the offset of each file's member.
    fn toc(&self, offset: impl Fn(u64) -> u64) -> String {
        let mut toc = "{\n\t\"version\": 1,\n\t\"entries\": [\n".to_owned();
        for number in 0..self.directories() {
            toc += &format!("\t\t{{\"name\": \"d{number:04}/\", \"type\": \"dir\", \"mode\": 493}},\n");
        }
        for number in 0..self.count {
            let (path, size, offset) = (self.path(number), self.size, offset(number));
            let digest = Digest::of(&self.content(number)).to_string();
            toc += &format!(
                "\t\t{{\"name\": \"{path}\", \"type\": \"reg\", \"size\": {size}, \"mode\": 420, \"offset\": {offset}, \
                 \"digest\": \"{digest}\", \"chunkDigest\": \"{digest}\"}}"
            );
            toc += if number + 1 == self.count { "\n" } else { ",\n" };
        }
        toc + "\t]\n}"
    }

    /// The layer. Its compressed TOC is held in memory, less than 80 bytes for each file; making it
    /// takes some 300 more.
    pub fn layer(&self) -> SyntheticLayer {
        let mut head: Vec<u8> = Vec::new();
        for number in 0..self.directories() {
            let directory = Member::new(Type::Dir, format!("d{number:04}/"));
            head.extend(header_of_size(&Member { mode: 0o755, ..directory }, 0));
        }
        head.extend(self.header(0));
        let head = Bytes::from(gzip(&head));
        // Names are of one length, so headers are, and members but for the last, which no header follows.
        let form = |number: u64| {
            let content = self.member(number).len() as u64;
            Form { content, block: content }
        };
        let (members, form) = (self.count - 1, form(0));
        let last = gzip(&self.member(members));
        let offset = |number: u64| head.len() as u64 + number * form.len();
        let toc_offset = offset(members) + last.len() as u64;
        let tail = tail(toc_offset, self.toc(offset).as_bytes());
        let tail_bytes = [&last[..], &tail.bytes].concat();
        let layout = Layout { head, members, member_len: form.len(), tail: tail_bytes.into() };
        let files = *self;
        let content = Content::synthetic(layout.len(), move |offset, len| {
            layout.read(offset, len, |number, offset, limit, out| {
                let member = files.member(number);
                let copy = |at: u64, len: usize, out: &mut bytes::BytesMut| {
                    out.extend_from_slice(&member[at as usize..at as usize + len]);
                };
                form.read(offset, limit, out, copy, || crc(&member));
            })
        });
        let name = format!("{} files of {} bytes", self.count, self.size);
        SyntheticLayer {
            content,
            digest: Digest::of(name.as_bytes()),
            diff_id: Digest::of(format!("{name}, uncompressed").as_bytes()),
            toc_digest: tail.toc_digest,
            toc_len: tail.toc_len,
            toc_offset,
        }
    }
}
