//! The compressed members before the TOC, and the TOC's entries for them.
//!
//! A new member starts before the payload of a chunk, so a member is: a chunk, its padding, and the tar headers up to
//! the next chunk. With a minimal chunk size several chunks share a member and differ by their inner offset.

use std::collections::BTreeMap;
use std::mem;

use format::Digest;
use format::digest::Hasher;
use serde_json::{Map, Value};

use super::codec::{Codec, Encoder};
use super::order::Item;
use super::{Options, sha256, toc};
use crate::tarball::{Member, Type, header, padding};

pub(crate) struct Writer<'a> {
    tar: &'a [u8],
    options: &'a Options,
    out: Vec<u8>,
    codec: Codec,
    encoder: Option<Encoder>,
    /// Offset of the member that chunks go to, in the blob and in the uncompressed blob.
    member_start: (usize, u64),
    uncompressed: Hasher,
    uncompressed_size: u64,
    entries: Vec<Value>,
    /// Names by id, as told last: the TOC repeats none.
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

/// What a [`Writer`] has written.
pub(crate) struct Written {
    pub(crate) payload: Vec<u8>,
    pub(crate) entries: Vec<Value>,
    pub(crate) uncompressed: Hasher,
    pub(crate) uncompressed_size: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(tar: &'a [u8], options: &'a Options, codec: Codec) -> Writer<'a> {
        assert!(options.chunk_size > 0, "a chunk has at least one byte");
        Writer {
            tar,
            options,
            out: Vec::new(),
            codec,
            encoder: None,
            member_start: (0, 0),
            uncompressed: sha256(),
            uncompressed_size: 0,
            entries: Vec::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    pub(crate) fn append(&mut self, item: &Item) {
        match item {
            Item::Archive(parsed) => {
                self.write(&self.tar[parsed.header.clone()]);
                self.append_content(&parsed.member, false);
            }
            Item::Landmark(member) => {
                self.write(&header(member));
                self.append_content(member, true);
            }
        }
    }

    pub(crate) fn finish(mut self) -> Written {
        self.close();
        Written {
            payload: self.out,
            entries: self.entries,
            uncompressed: self.uncompressed,
            uncompressed_size: self.uncompressed_size,
        }
    }

    fn append_content(&mut self, member: &Member, landmark: bool) {
        let mut entry = self.entry(member);
        let content = &member.content;
        if member.kind != Type::File || content.is_empty() {
            self.entries.push(entry.into());
            return;
        }
        let size = self.options.chunk_size;
        for (number, chunk) in content.chunks(size).enumerate() {
            if chunk.len() == size {
                entry.insert("chunkSize".into(), size.into());
            }
            self.place(&mut entry, landmark);
            toc::put_unless_zero(&mut entry, "chunkOffset", (number * size) as u64);
            if self.options.chunk_digests {
                entry.insert("chunkDigest".into(), Digest::of(chunk).to_string().into());
            }
            self.write(chunk);
            let next = Map::from_iter([
                ("name".to_owned(), entry["name"].clone()),
                ("type".to_owned(), "chunk".into()),
            ]);
            self.entries.push(mem::replace(&mut entry, next).into());
        }
        self.write(padding(content.len()));
    }

    /// Decides which member the next chunk goes to, and tells `entry`.
    fn place(&mut self, entry: &mut Map<String, Value>, landmark: bool) {
        let compressed = self.compressed_len() - self.member_start.0;
        if landmark || compressed >= self.options.min_chunk_size {
            self.close();
            self.member_start = (self.out.len(), self.uncompressed_size);
        }
        let (offset, start) = self.member_start;
        toc::put_unless_zero(entry, "offset", offset as u64);
        toc::put_unless_zero(entry, "innerOffset", self.uncompressed_size - start);
    }

    /// The attributes of a member as a TOC entry.
    fn entry(&mut self, member: &Member) -> Map<String, Value> {
        let mut entry = toc::entry(member, self.options.mtime);
        for (key, names, id, name) in [
            ("userName", &mut self.users, member.uid, &member.user),
            ("groupName", &mut self.groups, member.gid, &member.group),
        ] {
            let known = names.entry(id).or_default();
            if known != name {
                known.clone_from(name);
                entry.insert(key.into(), name.as_str().into());
            }
        }
        if !self.options.chunk_digests {
            entry.insert("NumLink".into(), 0.into());
        }
        entry
    }

    /// Compressed bytes so far, after a flush.
    fn compressed_len(&mut self) -> usize {
        match &mut self.encoder {
            Some(encoder) => encoder.flushed_len(),
            None => self.out.len(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let encoder = self.encoder.get_or_insert_with(|| self.codec.encoder(mem::take(&mut self.out)));
        encoder.write(bytes);
        self.uncompressed.update(bytes);
        self.uncompressed_size += bytes.len() as u64;
    }

    /// Ends the member, if one is open.
    fn close(&mut self) {
        if let Some(encoder) = self.encoder.take() {
            self.out = encoder.finish();
        }
    }
}
